"""A SQLite store that others use: locks, readers in the way, and the length of the log."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from pytest_claude_comms.errors import StoreBusy
from pytest_claude_comms.stores import open_store, sqlite, sqlite_link, sqlite_rows
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from tests.stores.sqlite_kit import Once, SteppedClock, raw, seed

# -- busy


def test_busy(store: SQLiteConversationStore, path: Path, clock: SteppedClock) -> None:
    seed(store)
    clock.patience_us = 100_000
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match=r"was busy for [\d.]+ s: ") as caught:
            store.update_message("m", append="x")
        assert caught.value.path == str(path)
        assert caught.value.outcome == "not done"
        assert caught.value.waited >= 0.1
        assert store.get_message("m").content == ""  # readers go on
        assert store.changes().cursor == 1
        with open_store(store.url, clock=clock) as again:  # and so does opening
            assert again.cursor() == 1
        db.execute("ROLLBACK")
    assert store.update_message("m", append="y").content == "y"


def test_a_busy_store_is_waited_for(
    store: SQLiteConversationStore, path: Path, clock: SteppedClock
) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        started = threading.Event()

        def write() -> None:
            started.set()
            store.update_message("m", append="x")

        writer = threading.Thread(target=write)
        writer.start()
        started.wait()
        while not clock.pauses:
            pass
        with store._lock.held(clock, 0, "x"):  # nothing is held while waiting
            pass
        db.execute("ROLLBACK")
    writer.join()
    assert store.get_message("m").content == "x"


def test_readers_are_busy_too(
    store: SQLiteConversationStore, path: Path, clock: SteppedClock
) -> None:
    seed(store)
    store.close()
    clock.patience_us = 50_000
    with raw(path) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy):
            SQLiteConversationStore(path, clock=clock)
    with open_store(store.url) as again:
        assert again.cursor() == 1


def test_the_lock_is_busy(store: SQLiteConversationStore, path: Path, clock: SteppedClock) -> None:
    seed(store)
    clock.patience_us = 50_000
    other = SQLiteConversationStore(path, durability="process")
    with other, other._lock.held(clock, 0, "x"), pytest.raises(StoreBusy, match="comms.db was"):
        store.update_message("m", append="x")
    store.update_message("m", append="x")


def test_a_busy_store_is_waited_for_five_seconds_of_its_clock(path: Path) -> None:
    with (
        FakeClock() as clock,
        SQLiteConversationStore(path, clock=clock, durability="process") as store,
        raw(path) as db,
    ):
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy) as caught:
            store.create_thread()
        assert caught.value.waited == clock.elapsed == 5


def test_a_reader_that_finds_it_busy_comes_again(
    store: SQLiteConversationStore, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    locked = Once(sqlite_link.Link.prepare, sqlite3.OperationalError("database is locked"))
    monkeypatch.setattr(sqlite_link.Link, "prepare", locked)
    before = clock.pauses
    assert len(store.threads()) == 1
    assert (locked.calls, clock.pauses) == (2, before + 1)


def test_busy_in_the_midst_of_a_read_is_said_to_be(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    error = sqlite3.OperationalError("database table is locked")
    threads = Once(sqlite_rows.SQLiteSnapshot.threads, error)
    monkeypatch.setattr(sqlite_rows.SQLiteSnapshot, "threads", threads)
    with pytest.raises(StoreBusy, match=r"comms\.db was busy"):
        store.threads()


def test_a_read_is_of_one_state_though_others_commit_between_its_statements(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    store.cursor()
    (link,) = store._idle
    with SQLiteConversationStore(path, durability="process") as other:

        def meanwhile(statement: str) -> None:
            if "FROM changes AS c" in statement:
                link.db.set_trace_callback(None)
                other.update_message("m", append="x")

        link.db.set_trace_callback(meanwhile)
        found = store.changes()
        assert (found.cursor, [change.revision for change in found]) == (1, [1])
        assert [change.revision for change in store.changes(found.cursor)] == [2]


def test_a_read_that_is_kept_out_waits_and_then_says_so(
    store: SQLiteConversationStore, path: Path, clock: SteppedClock
) -> None:
    seed(store)
    while store._idle:
        store._idle.pop().close()
    clock.patience_us = 50_000
    with raw(path) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy) as caught:
            store.get_message("m")
        assert caught.value.waited >= 0.05
    assert store.get_message("m").message_id == "m"


# -- the log


def test_the_log_is_bounded(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    largest = 0
    with SQLiteConversationStore(path, durability="process") as reader:
        for number in range(150):
            store.update_message("m", content=f"{number}" * 50_000)
            reader.changes(number)
            largest = max(largest, os.stat(f"{path}-wal").st_size)
        assert largest < 1.5 * sqlite.WAL_BYTES
        assert reader.get_message("m").revision == 151


def test_a_log_held_up_by_a_reader_is_cut_later(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM messages").fetchall()
        for number in range(60):
            store.update_message("m", content=f"{number % 10}" * 100_000)
        held_up = os.stat(f"{path}-wal").st_size
        assert held_up > sqlite.WAL_BYTES
        db.execute("ROLLBACK")
        for number in range(60):
            store.update_message("m", content=f"{number % 10}" * 90_000)
        assert os.stat(f"{path}-wal").st_size <= held_up + sqlite.WAL_BYTES


def test_sqlite_itself_never_copies_the_log_into_the_file(
    store: SQLiteConversationStore,
) -> None:
    # It would do so outside the lock, in the midst of any commit.
    seed(store)
    assert store._idle
    for link in store._idle:
        assert link.db.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


def test_a_log_is_cut_off_behind_a_reader_that_is_done_in_a_moment(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    monkeypatch.setattr(sqlite, "_READERS_MS", 60_000)  # however slow this machine is
    store._next_checkpoint = 0
    (link,) = store._idle
    is_reading, has_begun, is_done = threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        with raw(path) as db:
            db.execute("BEGIN")
            db.execute("SELECT * FROM messages").fetchall()
            is_reading.set()
            has_begun.wait()
            is_done.wait(0.05)  # in real time, so that the checkpoint comes to wait for it
            db.execute("ROLLBACK")

    def tell(statement: str) -> None:
        if "wal_checkpoint" in statement:
            has_begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    is_reading.wait()
    link.db.set_trace_callback(tell)
    try:
        store.update_message("m", append="x")
    finally:
        link.db.set_trace_callback(None)
        has_begun.set()
        is_done.set()
        reader.join()
    assert os.stat(f"{path}-wal").st_size == 0
    # From here on whoever is in the way is waited for on the store's clock again.
    assert link.db.execute("PRAGMA busy_timeout").fetchone() == (0,)


def test_a_reader_in_the_way_of_a_checkpoint_is_not_met_by_each_commit(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_READERS_MS", 0)
    monkeypatch.setattr(sqlite, "WAL_BYTES", 400_000)
    seed(store)
    store._next_checkpoint = sqlite.WAL_BYTES
    tried: list[str] = []
    (link,) = store._idle
    link.db.set_trace_callback(lambda said: tried.append(said) if "wal_ch" in said else None)
    with raw(path) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM messages").fetchall()
        for number in range(60):
            store.update_message("m", content=f"{number % 10}" * 10_000)
        size = os.stat(f"{path}-wal").st_size
    link.db.set_trace_callback(None)
    assert 0 < len(tried) <= size / (sqlite.WAL_BYTES // 2) < 30
