"""The file of a SQLite store is gone, is another, or is an older state of the same."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_claude_comms.errors import HistoryGone, StoreCorrupt
from pytest_claude_comms.stores import open_store, sqlite_link, sqlite_rows
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.sqlite_kit import (
    Python,
    become_idle,
    empty_log,
    everything,
    finish,
    posix,
    raw,
    seed,
)

# -- the file is gone, or another


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@posix
def test_a_deleted_store(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    store.changes(1)
    store.changes(1)
    delete(path)
    for act in everything(store):
        with pytest.raises(HistoryGone, match="no longer there"):
            act()
    store.close()
    assert not os.listdir(path.parent)


@posix
def test_a_deleted_directory(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "comms.db"
    with SQLiteConversationStore(path, durability="process") as store:
        seed(store)
        delete(path)
        path.parent.rmdir()
        for act in everything(store):
            with pytest.raises(HistoryGone):
                act()
    assert not path.parent.exists()


@posix
def test_a_store_created_anew_at_the_same_path(path: Path) -> None:
    for _ in range(10):  # ext4 likes to give the same inode number again
        with SQLiteConversationStore(path, durability="process") as store:
            seed(store)
            store.changes(1)
            store.changes(1)
            delete(path)
            with SQLiteConversationStore(path, durability="process") as other:
                seed(other)
                for act in everything(store):
                    with pytest.raises(HistoryGone, match="taken its place"):
                        act()
                store.close()
                other.update_message("m", append="kept")
                assert os.stat(f"{path}-wal").st_size > 0
                with open_store(other.url) as third:
                    assert third.get_message("m").content == "kept"
        delete(path)


@posix
def test_a_store_moved_over_it(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    other = path.with_name("other.db")
    with SQLiteConversationStore(other, durability="process") as replacement:
        seed(replacement)
    other.replace(path)
    for act in everything(store):
        with pytest.raises(HistoryGone):
            act()


def test_another_store_restored_into_the_same_file(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    store.changes(1)
    store.changes(1)
    other = path.with_name("other.db")
    with SQLiteConversationStore(other, durability="process") as replacement:
        seed(replacement)
    with raw(other) as source, raw(path) as target:
        source.backup(target)
    for act in everything(store):
        with pytest.raises(HistoryGone, match="another store"):
            act()


def test_who_is_gone_is_said(store: SQLiteConversationStore, path: Path, saved: Path) -> None:
    copy(saved, path)
    with pytest.raises(HistoryGone, match="was taken back") as caught:
        store.changes()
    assert caught.value.store == store.url
    with raw(path) as db:
        db.execute("UPDATE meta SET store_id = 'other'")
    with pytest.raises(HistoryGone, match="another store has taken its place") as caught:
        store.changes()
    assert caught.value.store == store.url


# -- an older state of the same store comes back


def copy(source: Path, target: Path) -> None:
    """As SQLite's own backup does it."""
    with raw(source) as one, raw(target) as two:
        one.backup(two)


@pytest.fixture
def saved(store: SQLiteConversationStore, path: Path) -> Path:
    """A backup of the store at revision 2, where the store is now at revision 3."""
    seed(store, "pending")
    store.update_message("m", status="processing", append="a" * 2_000)
    saved = path.with_name("saved.db")
    copy(path, saved)
    store.update_message("m", append="LOST" * 300)
    return saved


def test_an_acknowledged_change_is_not_lost_in_silence(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    with SQLiteConversationStore(path, durability="process") as idle:  # has read nothing yet
        copy(saved, path)
        with SQLiteConversationStore(path, durability="process") as after:
            after.update_message("m", append="NEW!" * 300)
            for each in (store, idle):
                for act in everything(each):
                    with pytest.raises(HistoryGone, match="change 3 was taken back.*Open the st"):
                        act()
            assert after.get_message("m").content == "a" * 2_000 + "NEW!" * 300
            assert after.update_message("m", status="complete").revision == 4


def test_a_restore_is_seen_by_an_idle_watcher_at_once(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    for _ in range(3):
        assert store.changes(3).cursor == 3
    copy(saved, path)
    for _ in range(3):
        with pytest.raises(HistoryGone):
            store.changes(3)


def test_a_cursor_that_was_overtaken_by_a_restored_store(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    for _ in range(4):
        store.update_message("m", append="x")
    cursor = store.changes().cursor
    assert cursor == 7
    copy(saved, path)
    with SQLiteConversationStore(path, durability="process") as other:
        for _ in range(7):
            other.update_message("m", append="y")
        assert other.cursor() == 9
        with pytest.raises(HistoryGone):
            store.changes(cursor)


def test_a_backup_that_loses_nothing(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    copy(path, saved)
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="x")
        copy(path, saved)
        copy(saved, path)
        assert [change.append for change in store.changes(3)] == ["x"]
        assert store.update_message("m", append="y").revision == 5
        assert other.get_message("m").content.endswith("LOSTxy")


def test_a_remembered_text_is_that_of_one_change_only(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    copy(saved, path)
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="NEW!" * 300)
    store._known = sqlite_rows.NOTHING  # as if the restore came between two looks of one call
    assert store.get_message("m").content.endswith("NEW!")


def test_what_is_known_keeps_up_with_many_threads(store: SQLiteConversationStore) -> None:
    seed(store)
    failed: list[Exception] = []

    def work(act: Callable[[], object]) -> None:
        try:
            for _ in range(150):
                act()
        except Exception as error:
            failed.append(error)

    acts: list[Callable[[], object]] = [
        lambda: store.update_message("m", append="x"),
        lambda: store.changes(1),
        lambda: store.get_message("m"),
    ]
    threads = [threading.Thread(target=work, args=[act]) for act in acts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert store.cursor() == store._known.revision == 301


@pytest.mark.parametrize("act", [0, 2, 3, 7])
def test_a_call_on_an_older_copy_is_refused_whichever_it_is(
    store: SQLiteConversationStore, path: Path, act: int
) -> None:
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    store.update_message("m", append="x")
    empty_log(path)
    become_idle(store)
    path.write_bytes(older)
    with pytest.raises(HistoryGone, match="an older file was written over it") as caught:
        everything(store)[act]()
    assert caught.value.store == store.url


def test_who_opens_it_with_a_full_log_sees_an_older_copy_too(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    store.update_message("m", append="x")
    empty_log(path)
    store.update_message("m", append="y")

    def half_done(_: str) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_link, "peek", half_done)  # as during a checkpoint
        late = SQLiteConversationStore(path, durability="process")
    with late:
        become_idle(late)
        path.write_bytes(older)
        with pytest.raises((HistoryGone, StoreCorrupt)):
            late.changes(3)


def test_a_backup_that_is_claimed_while_somebody_reads_it(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    backup = path.with_name("backup.db")
    backup.touch()
    store.write_backup(str(backup))
    with raw(backup) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM messages").fetchall()
        claimed = SQLiteConversationStore(backup, durability="process")
        db.execute("ROLLBACK")
    with claimed:
        assert claimed.store_id != store.store_id
        become_idle(claimed)
        empty_log(backup)  # only now the file itself says whose it is
        assert become_idle(claimed) == 1
        claimed.update_message("m", append="x")


# -- the file is written over without SQLite


@pytest.mark.parametrize("is_emptied", [False, True], ids=["full log", "empty log"])
@pytest.mark.parametrize("changes", [0, 1, 40])
def test_another_store_copied_over_it(
    store: SQLiteConversationStore, path: Path, changes: int, is_emptied: bool
) -> None:
    seed(store)
    other = path.with_name("other.db")
    with SQLiteConversationStore(other, durability="process") as replacement:
        seed(replacement)
        for _ in range(changes):
            replacement.update_message("m", append="other" * 100)
    if is_emptied:
        empty_log(path)
    cursor = become_idle(store)
    path.write_bytes(other.read_bytes())
    for _ in range(2):
        with pytest.raises((HistoryGone, StoreCorrupt)):
            store.changes(cursor)
    for act in everything(store):
        with pytest.raises((HistoryGone, StoreCorrupt)):
            act()


def test_an_older_copy_written_over_it(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    store.update_message("m", append="x")
    empty_log(path)
    store.update_message("m", append="y")
    cursor = become_idle(store)
    path.write_bytes(older)
    with pytest.raises((HistoryGone, StoreCorrupt)):
        store.changes(cursor)


@pytest.mark.parametrize("is_emptied", [False, True], ids=["full log", "empty log"])
@pytest.mark.parametrize("length", [0, 100, 4_096, 8_192, 9_000, 30_000])
def test_cut_off_while_it_is_open(
    store: SQLiteConversationStore, path: Path, length: int, is_emptied: bool
) -> None:
    seed(store)
    if is_emptied:
        empty_log(path)
    cursor = become_idle(store)
    os.truncate(path, length)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=f"cut off at {length:,} bytes"):
            store.changes(cursor)


def test_something_else_written_over_it(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    cursor = become_idle(store)
    path.write_bytes(b"something else" * 10_000)
    with pytest.raises(StoreCorrupt):
        store.changes(cursor)


def test_what_others_may_do_to_the_file(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store, content="x" * 50_000)
    for number in range(3):
        store.add_message("t", "module", "y" * 100_000, message_id=f"more{number}")
        empty_log(path)
        become_idle(store)
    with raw(path) as db:
        db.execute("DELETE FROM contents WHERE number > 1")
        db.execute("VACUUM")
    before = path.stat().st_size
    empty_log(path)
    assert path.stat().st_size < before
    cursor = become_idle(store)
    monkeypatch.setattr(store, "_reading", None)
    assert store.changes(cursor).cursor == cursor


def test_while_a_checkpoint_makes_the_file_longer(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    cursor = become_idle(store)

    def half_done(_: str) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_link, "peek", half_done)
        empty_log(path)
        become_idle(store)
        assert store._idle[-1].stamp != store._look()[1]  # so it looks again
    become_idle(store)
    assert store._idle[-1].stamp == store._look()[1]
    assert cursor == 1


def test_a_look_at_the_file_takes_no_locks_away(
    store: SQLiteConversationStore, path: Path, python: Python
) -> None:
    seed(store)
    for _ in range(3):
        sqlite_link.peek(str(path))
    script = (
        "import sys\nfrom pytest_claude_comms.stores import open_store\n"
        "with open_store(sys.argv[1]) as store:\n    store.update_message('m', append='x')\n"
    )
    finish(python(script, store.url))
    assert Path(f"{path}-wal").exists()  # it was not the last one
    store.update_message("m", append="y")
    with open_store(store.url) as again:
        assert again.get_message("m").content == "xy"


def test_a_cursor_of_another_store(store: SQLiteConversationStore) -> None:
    seed(store)
    with pytest.raises(HistoryGone, match="its last revision is 1"):
        store.changes(2)


def test_a_database_of_another_program_written_over_it(
    store: SQLiteConversationStore, path: Path, tmp_path: Path
) -> None:
    seed(store)
    other = tmp_path / "other.db"
    with raw(other) as db:
        db.execute("CREATE TABLE zoo (id)")
    path.write_bytes(other.read_bytes())
    with pytest.raises(HistoryGone, match="another file was written over it") as caught:
        store.get_message("m")
    assert caught.value.store == store.url


def test_a_newer_copy_written_over_it_is_read(store: SQLiteConversationStore, path: Path) -> None:
    # SQLite would go on answering from its memory: nobody has committed through it.
    seed(store)
    empty_log(path)
    newer = path.with_name("newer.db")
    newer.write_bytes(path.read_bytes())
    with SQLiteConversationStore(newer, durability="process") as further:
        further.update_message("m", append="x")
    cursor = become_idle(store)
    path.write_bytes(newer.read_bytes())
    assert [change.append for change in store.changes(cursor)] == ["x"]
    assert store.update_message("m", append="y").content == "xy"


def test_something_else_written_over_it_shows_through_a_log_that_has_all_of_it(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store, content="x" * 50_000)  # so that the first page is in the log
    become_idle(store)
    path.write_bytes(b"something else" * 10_000)
    with pytest.raises(StoreCorrupt, match="not a database"):
        store.threads()
