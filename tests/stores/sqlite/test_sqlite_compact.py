"""A compaction of a SQLite store that something comes in the midst of."""

from __future__ import annotations

import _thread
import signal
import sqlite3
from collections.abc import Callable, Iterator
from itertools import chain, repeat, starmap
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import HistoryGone, StoreBusy, StoreError
from pytest_claude_comms.stores import sqlite, sqlite_keeping
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.keeping_kit import posix
from tests.stores.sqlite_kit import SteppedClock, raw


def fill(store: SQLiteConversationStore, messages: int = 20) -> None:
    store.create_thread(thread_id="t")
    for _ in range(messages):
        message = store.add_message("t", "a", status="pending")
        store.update_message(message, status="processing")
        store.update_message(message, status="complete")


class Other:
    """Another program's write, which comes when it is told to and does not end."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=0)

    def begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def end(self) -> None:
        self._db.execute("ROLLBACK")

    def close(self) -> None:
        self._db.close()


@pytest.fixture
def other(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Other]:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.02)
    fill(store)
    found = Other(path)
    yield found
    found.close()


def retained(store: SQLiteConversationStore) -> int:
    return len(store.snapshot().changes)


def test_busy_before_anything_was_removed(store: SQLiteConversationStore, other: Other) -> None:
    before = retained(store)
    other.begin()
    with pytest.raises(StoreBusy) as caught:
        store.compact(keep=0)
    assert caught.value.outcome == "not done"
    other.end()
    assert retained(store) == before


def test_busy_after_a_batch_was_removed(
    store: SQLiteConversationStore, other: Other, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = retained(store)
    monkeypatch.setattr(sqlite_keeping, "BATCH", 20)
    monkeypatch.setattr(sqlite_keeping, "_let_others_in", other.begin)
    with pytest.raises(StoreError) as caught:
        store.compact(keep=0)
    assert type(caught.value) is StoreError
    assert caught.value.outcome == "unknown"
    assert caught.value.transient
    trimmed = store.snapshot().trimmed
    assert trimmed == 20
    assert str(caught.value).startswith(
        f"{path} was not compacted to the end: its history was trimmed up to revision {trimmed}, "
        "but then: it was busy for 0.0"
    )
    assert str(caught.value).endswith(" s; call compact() again")
    assert isinstance(caught.value.__cause__, StoreBusy)
    assert retained(store) < before
    other.end()
    monkeypatch.undo()
    assert store.compact(keep=0).trimmed == 60 - 1
    assert check_store(store).findings == ()


def test_busy_while_pages_are_given_back(
    store: SQLiteConversationStore, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink = sqlite_keeping.shrink

    def late(writing: sqlite_keeping.Writing) -> str | None:
        other.begin()
        return shrink(writing)

    monkeypatch.setattr(sqlite_keeping, "shrink", late)
    with pytest.raises(
        StoreError, match="trimmed up to revision 59, but then: it was busy"
    ) as caught:
        store.compact(keep=0)
    assert caught.value.outcome == "unknown"
    with pytest.raises(StoreBusy) as again:  # nothing was left to remove
        store.compact(keep=60)
    assert again.value.outcome == "not done"
    other.end()


def test_the_disk_fails_while_pages_are_given_back(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    fill(store)
    monkeypatch.setattr(sqlite_keeping, "_free_pages", fails)
    with pytest.raises(StoreError) as caught:
        store.compact(keep=0)
    assert caught.value.outcome == "unknown"
    assert f"up to revision 59, but then: {path}: disk I/O error" in str(caught.value)
    with pytest.raises(StoreError, match=f"^{path}: disk I/O error") as again:  # nothing to remove
        store.compact(keep=0)
    assert again.value.outcome == "not done"


def test_busy_when_all_is_done(
    store: SQLiteConversationStore, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink = sqlite_keeping.shrink

    def early(writing: sqlite_keeping.Writing) -> str | None:
        try:
            return shrink(writing)
        finally:
            other.begin()

    monkeypatch.setattr(sqlite_keeping, "shrink", early)
    report = store.compact(keep=0)
    assert (report.trimmed, report.removed) == (59, 40)
    assert report.waiting == "somebody is writing; the file gets smaller with the next checkpoint"
    other.end()
    monkeypatch.undo()
    assert store.compact(keep=0).waiting is None


def test_the_file_is_gone_after_a_batch(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    monkeypatch.setattr(sqlite_keeping, "BATCH", 20)
    monkeypatch.setattr(sqlite_keeping, "_let_others_in", lambda: path.rename(f"{path}.away"))
    with pytest.raises(HistoryGone) as caught:
        store.compact(keep=0)
    assert caught.value.outcome == "unknown"
    assert not caught.value.transient


# -- a file that is written anew


@pytest.fixture
def old(path: Path, clock: SteppedClock) -> Iterator[SQLiteConversationStore]:
    """A store that was laid out before ours gave back pages."""
    with SQLiteConversationStore(path, durability="process") as store:
        fill(store)
        store.add_message("t", "a", "x" * 200_000, status="pending", message_id="m")
        store.update_message("m", content="")
        store.update_message("m", status="complete")
    with raw(path) as db:
        for what in ("journal_mode = DELETE", "auto_vacuum = NONE"):
            db.execute(f"PRAGMA {what}")
        db.execute("VACUUM")
        db.execute("PRAGMA journal_mode = WAL")
    with SQLiteConversationStore(path, clock=clock, durability="process") as store:
        yield store


def gives_back(path: Path) -> bool:
    with raw(path) as db:
        return sqlite_keeping.gives_back(db)


def test_another_program_writes_as_soon_as_it_is_written_anew(
    old: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = sqlite_keeping._write_anew, Other(path)

    class Connection:
        def __init__(self, db: sqlite3.Connection) -> None:
            self._db = db

        def execute(self, statement: str) -> object:
            found = self._db.execute(statement)
            if statement == "VACUUM":
                other.begin()
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._db, name)

    def write_anew(tx: Any) -> str | None:
        db, tx.db = tx.db, Connection(tx.db)
        try:
            return real(tx)
        finally:
            tx.db = db

    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT", 0.02)
    monkeypatch.setattr(sqlite_keeping, "_write_anew", write_anew)
    report = old.compact(keep=0)
    assert report.trimmed == 62
    assert report.waiting == "somebody is writing; the file gets smaller with the next checkpoint"
    other.end()
    other.close()
    assert gives_back(path)


class Alarm(BaseException):
    """What the handler of a signal raises."""


@posix
@pytest.mark.parametrize("where", ["before the clock is read", "while the clock is read"])
def test_what_a_signal_handler_raises_while_the_file_is_written_anew(
    old: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    alarm = Alarm()

    def handler(*_: object) -> None:
        raise alarm

    looks: Callable[..., Iterator[bool]] = sqlite_keeping._looks

    def signalled(clock: Any, *given: Any) -> Iterator[Any]:
        """The signal comes at the second look, the first from within SQLite."""
        if where == "before the clock is read":
            # No Python runs between the signal and the look, where the handler would come in.
            signals = starmap(_thread.interrupt_main, repeat((signal.SIGALRM,)))
            return zip(chain([None], signals), looks(clock, *given), strict=False)
        times = iter([0])

        class Clock:
            def monotonic_us(self) -> int:
                for now in times:
                    return now
                signal.raise_signal(signal.SIGALRM)
                return 0

        return looks(Clock(), *given)

    monkeypatch.setattr(sqlite_keeping, "_looks", signalled)
    monkeypatch.setattr(sqlite_keeping, "STEPS", 1)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        with pytest.raises(Alarm) as caught:
            old.compact(keep=0)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert caught.value is alarm
    assert not gives_back(path)
    assert check_store(old).findings == ()
    monkeypatch.undo()
    assert old.compact(keep=0).waiting is None
    assert gives_back(path)
