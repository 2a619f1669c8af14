"""What a SQLite store is opened on, what it refuses there, and whom it lets read it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_claude_comms._version import __version__
from pytest_claude_comms.errors import HistoryGone, StoreBusy, StoreCorrupt, StoreError
from pytest_claude_comms.stores import open_store, sqlite, sqlite_keeping, sqlite_link, sqlite_rows
from pytest_claude_comms.stores.files import FileLock
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.sqlite_kit import (
    Python,
    SteppedClock,
    become_idle,
    empty_log,
    finish,
    posix,
    raw,
    seed,
)
from tests.stores.tinydb_kit import FailingOS

# -- where it is


@pytest.mark.parametrize("name", ["odd %41?mode=ro#x.db", "a b.JSON", "\N{SNOWMAN}", "noext"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    with open_store(f"sqlite:///{tmp_path}/new/{name}", durability="process") as store:
        seed(store)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path / "new")) == sorted([name, f"{name}.lock"])


def test_a_relative_path_stays_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteConversationStore("here.db", durability="process") as store:
        monkeypatch.chdir("/")
        seed(store)
        assert store.url == f"sqlite:///{tmp_path}/here.db"


def test_wrong_arguments(path: Path) -> None:
    with pytest.raises(ValueError, match="durability"):
        SQLiteConversationStore(path, durability="none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path"):
        SQLiteConversationStore(b"bytes")  # type: ignore[arg-type]
    assert not path.exists()


def test_a_path_that_cannot_be_looked_at(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "os", FailingOS(1, forever=True, calls=("stat",)))
        with pytest.raises(StoreError, match="No space left on device") as caught:
            store.threads()
    assert not isinstance(caught.value, HistoryGone)
    assert store.threads() == []


def test_a_name_that_cannot_be_made_durable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync_directory(_: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite.files, "fsync_directory", fsync_directory)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match=r"comms\.db: Input/output error"):
            SQLiteConversationStore(path, durability="power")
        SQLiteConversationStore(path.with_name("other.db"), durability="process").close()
    SQLiteConversationStore(path, durability="power").close()


def test_a_file_system_without_a_write_ahead_log_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_journal_mode", lambda link, assignment="": "delete")
    with pytest.raises(StoreError, match="SQLite cannot keep a write-ahead log there"):
        SQLiteConversationStore(path, durability="process")


def test_it_is_laid_out_under_the_lock_of_writers(path: Path, clock: SteppedClock) -> None:
    lock = FileLock(f"{path}.lock")
    claim = lock.claim()
    assert claim.try_acquire()
    clock.patience_us = 10_000
    with pytest.raises(StoreBusy):
        SQLiteConversationStore(path, clock=clock, durability="process")
    assert path.stat().st_size == 0
    claim.release()
    lock.close()
    SQLiteConversationStore(path, clock=clock, durability="process").close()


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_file_that_cannot_be_written_anew_stays_as_it_is(
    store: SQLiteConversationStore, path: Path, *, is_rewritten: bool
) -> None:
    seed(store)
    store.close()
    with raw(path) as db:  # as files were laid out before ours gave back pages
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    with SQLiteConversationStore(path, durability="process") as again:
        for letter in "abcdefghijkl":  # what is trimmed has to fill pages
            again.update_message("m", content=letter * 3_000)
        again.update_message("m", content="x", status="complete")
        (link,) = again._idle
        reading = link.db.execute("SELECT number FROM messages UNION SELECT 7 UNION SELECT 8")
        if is_rewritten:
            reading.close()
        else:
            reading.fetchone()  # and not closed: SQLite does not vacuum then
        waiting = again.compact(keep=0).waiting
        reading.close()
        said = "the file could not be written anew: cannot VACUUM"  # and SQLite's reason
        assert (said in (waiting or "")) is not is_rewritten
        assert sqlite_keeping.gives_back(link.db) is is_rewritten
        assert again.get_message("m").content == "x"
        assert again.update_message("m", metadata={"a": 1}).metadata == {"a": 1}


def test_a_file_that_cannot_be_looked_at_while_it_is_opened_is_looked_at_later(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during a checkpoint of somebody else."""
    seed(store)
    real = sqlite_link.peek
    looks: list[str] = []

    def peek(name: str) -> sqlite_link.Peek:
        looks.append(name)
        if len(looks) == 1:
            raise sqlite3.OperationalError("database is locked")
        return real(name)

    monkeypatch.setattr(sqlite_link, "peek", peek)
    with SQLiteConversationStore(path, durability="process") as other:
        assert len(looks) == 1
        assert len(other.threads()) == 1
        assert len(looks) == 2
        assert len(other.threads()) == 1
        assert len(looks) == 2


# -- what is no store


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no database" * 100, "not a database"),
        (b"short", "not a database"),
        (b"SQLite format 3\0" + b"\xff" * 5_000, "not a database"),
        (b'{"threads": {}}' + b" " * 5_000, "not a database"),
    ],
)
def test_not_a_database(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=reason) as caught:
        SQLiteConversationStore(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_database_of_another_program(path: Path) -> None:
    with raw(path) as db:
        for table in ("messages", "zoo", "album"):
            db.execute(f"CREATE TABLE {table} (id)")
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program .it has album, messages, zoo[)]"):
        SQLiteConversationStore(path)
    assert path.read_bytes() == before


def test_a_newer_format(store: SQLiteConversationStore, path: Path) -> None:
    store.close()
    with raw(path) as db:
        db.execute("UPDATE meta SET format = 7, version = '9.8'")
        db.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="pytest-claude-comms 9.8 wrote it in format 7"):
        SQLiteConversationStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("rows", [0, 2])
def test_a_store_without_one_identity(
    store: SQLiteConversationStore, path: Path, rows: int
) -> None:
    store.close()
    with raw(path) as db:
        db.execute("DELETE FROM meta")
        db.executemany("INSERT INTO meta VALUES (?, 1, '')", [("x",)] * rows)
    with pytest.raises(StoreCorrupt, match=f"it says {rows} times"):
        SQLiteConversationStore(path)


def test_a_truncated_store(store: SQLiteConversationStore, path: Path) -> None:
    seed(store, content="x" * 50_000)
    store.close()
    whole = path.read_bytes()
    for length in [1, 16, 100, *range(4_096, len(whole), 3_072)]:
        path.write_bytes(whole[:length])
        with pytest.raises(StoreCorrupt):
            SQLiteConversationStore(path)
        assert path.read_bytes() == whole[:length]


def test_an_empty_file_with_a_log(store: SQLiteConversationStore, path: Path) -> None:
    store.close()
    path.write_bytes(b"")
    Path(f"{path}-wal").write_bytes(b"something")
    with pytest.raises(StoreCorrupt, match="it is empty, but"):
        SQLiteConversationStore(path)
    assert Path(f"{path}-wal").read_bytes() == b"something"


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with SQLiteConversationStore(path) as store:
        seed(store)


def test_a_store_restored_without_its_log_mode(path: Path) -> None:
    with SQLiteConversationStore(path, durability="process") as store:
        seed(store)
    with raw(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    with SQLiteConversationStore(path, durability="process") as store:
        assert store.cursor() == 1
        assert Path(f"{path}-wal").exists()


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        SQLiteConversationStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="ot a directory"):
        SQLiteConversationStore(tmp_path / "file" / "comms.db")


def test_a_table_of_somebody_elses_that_numbers_its_rows(
    store: SQLiteConversationStore, path: Path
) -> None:
    with raw(path) as db:
        db.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        db.execute("INSERT INTO mine VALUES (9999)")
    assert store.cursor() == 0
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    assert sqlite_link.peek(str(path)).revision == 1
    store.update_message("m", append="x")
    store.update_message("m", status="complete")
    store.compact(keep=0)
    with raw(path) as db:
        db.execute("DELETE FROM changes")  # none is kept
    assert store.cursor() == 3
    empty_log(path)
    become_idle(store)
    path.write_bytes(older)
    with pytest.raises(HistoryGone, match="an older file"):
        store.cursor()


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["DROP TABLE meta"], "it is a SQLite database of another program (it has changes, "),
        (["PRAGMA application_id = 7"], "it is a SQLite database of another program (it has "),
        (["DELETE FROM meta"], "it says 0 times what store it is, not once"),
        (
            ["UPDATE meta SET format = 3, version = '9.8'"],
            f"pytest-claude-comms 9.8 wrote it in format 3, and this is {__version__}, "
            "which reads formats 1 and 2",
        ),
    ],
)
def test_a_refusal_says_which_file_and_why(
    store: SQLiteConversationStore, path: Path, statements: list[str], reason: str
) -> None:
    seed(store)
    store.close()
    with raw(path) as db:
        for statement in statements:
            db.execute(statement)
    with pytest.raises(StoreCorrupt) as caught:
        SQLiteConversationStore(path)
    assert caught.value.path == str(path)
    assert caught.value.reason.startswith(reason)


def test_a_file_of_ours_in_which_nothing_is_laid_out(path: Path) -> None:
    with raw(path) as db:
        db.execute(f"PRAGMA application_id = {sqlite_rows.APPLICATION_ID}")
    with pytest.raises(StoreCorrupt, match="it has no tables"):
        SQLiteConversationStore(path)


# -- what is in it


@pytest.mark.parametrize(
    ("drawn", "mark"), [(0, 1), (2**63 - 2, 2**63 - 1), (2**63 - 1, 1), (2**64 - 1, 2)]
)
def test_a_mark_is_a_positive_number_that_sqlite_can_hold(
    monkeypatch: pytest.MonkeyPatch, drawn: int, mark: int
) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: drawn.to_bytes(size, "big"))
    assert sqlite_rows.new_mark() == mark


def test_a_status_that_is_none_is_said_with_its_file(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("UPDATE messages SET status = 'odd'")
        db.execute("UPDATE changes SET status = 'strange'")
    writes: Callable[[], object] = lambda: store.update_message("m", append="x")
    for act, word in ((store.messages, "odd"), (store.changes, "strange"), (writes, "odd")):
        with pytest.raises(StoreCorrupt, match=f"it has the status '{word}'") as caught:
            act()
        assert caught.value.path == store._path


def test_a_change_that_is_missing_though_later_ones_are_there(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    store.update_message("m", append="known")
    with raw(path) as db:
        db.execute("DELETE FROM changes WHERE revision = 2")
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="later")
    with pytest.raises(HistoryGone, match="change 2 was taken back"):
        store.changes()


# -- private files


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_files_are_private(tmp_path: Path, python: Python, umask: int) -> None:
    script = (
        "import os, sys\nfrom pytest_claude_comms.stores import open_store\n"
        "os.umask(int(sys.argv[2]))\n"
        "with open_store(sys.argv[1]) as store:\n"
        "    store.create_thread()\n"
        "    folder = os.path.dirname(sys.argv[1][10:])\n"
        "    for name in sorted(os.listdir(folder)):\n"
        "        print(name, oct(os.stat(f'{folder}/{name}').st_mode & 0o777))\n"
        "    print(oct(os.stat(folder).st_mode & 0o777))\n"
    )
    said = finish(python(script, f"sqlite:///{tmp_path}/a/b/comms.db", f"{umask}"))
    names = ["comms.db", "comms.db-shm", "comms.db-wal", "comms.db.lock"]
    assert said.splitlines() == [*(f"{name} 0o600" for name in names), "0o700"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
