"""How a store lies in SQLite, which files that others wrote years ago depend on."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

from pytest_claude_comms.stores import open_store
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore

# Written from the files of format 1 that there are. Whoever lays one out otherwise gives the
# format another number: stores of both kinds will meet the code of both.
FORMAT_1 = {
    "changes": "revision INTEGER KEY, mark INTEGER!, number INTEGER!, at_us INTEGER!,"
    " previous TEXT, status TEXT!, append TEXT, content TEXT, content_length INTEGER!,"
    " error TEXT, metadata TEXT",
    "contents": "number INTEGER KEY, revision INTEGER!, text TEXT!",
    "messages": "number INTEGER KEY, message_id TEXT! UNIQUE, thread_id TEXT!,"
    " module_name TEXT!, message_type TEXT!, status TEXT!, created_us INTEGER!,"
    " updated_us INTEGER!, expires_us INTEGER, stall_us INTEGER, deadline_us INTEGER,"
    " error TEXT, metadata TEXT!, revision INTEGER!, tail INTEGER!",
    "meta": "store_id TEXT!, format INTEGER!, version TEXT!",
    "threads": "number INTEGER KEY, thread_id TEXT! UNIQUE, title TEXT!, modules TEXT!,"
    " metadata TEXT!, created_us INTEGER!",
}
INDEXES = {
    "changes_of_message": "changes (number)",
    "messages_of_thread": "messages (thread_id)",
    "open_deadlines": "messages (deadline_us) WHERE deadline_us IS NOT NULL",
}


def layout(db: sqlite3.Connection) -> dict[str, str]:
    """By table: its columns, those that must have a value with a "!"."""
    found = {}
    tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    for (table,) in db.execute(tables).fetchall():
        unique = {
            column
            for _, index, is_unique, origin, _ in db.execute(f"PRAGMA index_list({table})")
            if is_unique and origin == "u"
            for _, _, column in db.execute(f"PRAGMA index_info({index})")
        }
        found[table] = ", ".join(
            f"{name} {kind}{'!' * must}{' KEY' * key}{' UNIQUE' * (name in unique)}"
            for _, name, kind, must, _, key in db.execute(f"PRAGMA table_info({table})")
        )
    return found


def test_format_1(tmp_path: Path) -> None:
    path = tmp_path / "comms.db"
    with open_store(f"sqlite:///{path}", durability="process"):
        pass
    with closing(sqlite3.connect(path)) as db:
        assert layout(db) == FORMAT_1
        made = dict(
            db.execute("SELECT name, sql FROM sqlite_master WHERE sql LIKE 'CREATE INDEX%'")
        )
        assert made == {
            name: f"CREATE INDEX {name} ON {columns}" for name, columns in INDEXES.items()
        }
        # A revision that was given is never given again, whatever was removed meanwhile.
        (changes,) = db.execute("SELECT sql FROM sqlite_master WHERE name = 'changes'").fetchone()
        assert re.search(r"revision INTEGER PRIMARY KEY AUTOINCREMENT,", changes)
        assert db.execute("SELECT format FROM meta").fetchall() == [(1,)]
        assert db.execute("PRAGMA application_id").fetchone() == (int.from_bytes(b"ClCo", "big"),)
        (store_id,) = db.execute("SELECT store_id FROM meta").fetchone()
        (label,) = db.execute("PRAGMA user_version").fetchone()
        assert label == int(store_id[:8], 16) & 0x7FFFFFFF | 1


def test_format_2_is_format_1_and_how_far_history_was_trimmed(tmp_path: Path) -> None:
    path = tmp_path / "comms.db"
    with open_store(f"sqlite:///{path}", durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", message_id="m")
        store.update_message("m", status="processing")
        store.update_message("m", status="complete")
        store.compact(keep=2)
        store.compact(keep=0)
        assert [change.revision for change in store.changes(message="m")] == [3]
    with closing(sqlite3.connect(path)) as db:
        assert layout(db) == {**FORMAT_1, "trimmed": "revision INTEGER!"}
        assert db.execute("SELECT format FROM meta").fetchall() == [(2,)]
        assert db.execute("SELECT revision FROM trimmed").fetchall() == [(2,)]


def test_a_backup_says_that_nobody_has_it_yet(tmp_path: Path) -> None:
    path, backup = tmp_path / "comms.db", tmp_path / "backup.db"
    backup.touch()
    with SQLiteConversationStore(path, durability="process") as store:
        store.write_backup(str(backup))
        with closing(sqlite3.connect(backup)) as db:
            assert layout(db) == FORMAT_1
            assert db.execute("PRAGMA user_version").fetchone() == (0,)
            assert db.execute("SELECT store_id FROM meta").fetchall() != [(store.store_id,)]
        ids = set()
        for _ in range(2):  # each who opens it to write makes another store of it
            again = tmp_path / "again.db"
            again.write_bytes(backup.read_bytes())
            with SQLiteConversationStore(again, durability="process") as restored:
                ids.add(restored.store_id)
            with SQLiteConversationStore(again, durability="process") as same:  # from then on
                assert same.store_id == restored.store_id
            again.unlink()
    assert len(ids | {store.store_id}) == 3
