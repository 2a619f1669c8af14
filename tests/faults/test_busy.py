"""A store that somebody else holds, or that is slow (RELIABILITY rows 7, 10, 25; promise 5)."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing

import pytest

from pytest_claude_comms import (
    ConversationStore,
    MemoryConversationStore,
    MessagePoller,
    StoreBusy,
    open_store,
)
from pytest_claude_comms.stores.files import FileLock
from pytest_claude_comms.testing import FakeClock, Faults, assert_status_sequence
from pytest_claude_comms.testing.fake_clock import _FakeBackoff

on_every_store = pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """StoreBusy comes after a real second too, which is for holders in other processes."""
    monkeypatch.setattr(_FakeBackoff, "_LEAST_REAL", 0.05)


@pytest.fixture
def answer(store: ConversationStore) -> str:
    thread = store.create_thread()
    return store.add_message(thread, "a", status="pending", message_id="m").message_id


def test_a_writer_waits_and_then_writes(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    busy = faults.busy(store, for_=0.2)
    store.update_message(answer, status="complete")
    assert 0.2 <= clock.elapsed <= 0.208, "the longest pause of a writer that waits is 8 ms"
    assert busy.is_undone
    assert busy.met > 5
    assert store.get_message(answer).status == "complete"


def test_it_ends_exactly_then(store: ConversationStore, clock: FakeClock, faults: Faults) -> None:
    busy = faults.busy(store, for_=3)
    clock.advance(2.999999)
    assert not busy.is_undone
    clock.advance(0.000001)
    assert busy.is_undone
    busy.may_miss = True


def test_a_writer_gives_up_in_the_end_and_nothing_is_lost(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    with faults.busy(store) as busy:
        with pytest.raises(StoreBusy) as caught:
            store.update_message(answer, status="processing", append="x")
        assert clock.elapsed >= 5
    assert caught.value.path.endswith(("store.json", "store.db"))
    assert caught.value.waited >= 5
    assert caught.value.outcome == "not done"
    assert busy.met
    assert store.get_message(answer).status == "pending"
    store.update_message(answer, status="processing", append="y")
    assert [change.append for change in store.changes(message=answer)] == [None, "y"]


def test_who_reads_does_not_wait(
    store: ConversationStore, poller: MessagePoller, clock: FakeClock, faults: Faults, answer: str
) -> None:
    with faults.busy(store, may_miss=True) as busy:
        assert poller.track(answer).status == "pending"
        assert poller.poll_once() == []
        assert [m.message_id for m in store.messages()] == ["m"]
    assert clock.elapsed == 0
    assert not busy.met


def test_a_poller_goes_on(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    """Its write, the deadline's, has to wait; what it waits for is then told."""
    store.add_message(
        store.get_message(answer).thread_id, "a", status="pending", timeout=1, message_id="late"
    )
    faults.busy(store, for_=7)
    tracker = MessagePoller(store).wait("late", timeout=60)
    assert_status_sequence(tracker, "pending -> timeout")
    assert 7 <= clock.elapsed < 7.1


def test_the_lock_is_really_held_and_let_go(store: ConversationStore, faults: Faults) -> None:
    path = store._path  # type: ignore[attr-defined]

    def taken_by_somebody_else() -> bool:
        if store.backend == "tinydb":
            lock = FileLock(f"{path}.lock")
            claim = lock.claim()
            taken = claim.try_acquire()
            claim.release()
            lock.close()
            return taken
        with closing(sqlite3.connect(path, timeout=0)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            return True

    with faults.busy(store, may_miss=True):
        assert not taken_by_somebody_else()
    assert taken_by_somebody_else()


def test_another_store_object_of_the_same_file_meets_it_too(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    with open_store(store.url, clock=clock) as other:
        busy = faults.busy(store, for_=0.05)
        other.update_message(answer, status="complete")
    assert clock.elapsed >= 0.05
    assert busy.met


def test_in_real_time(store: ConversationStore, faults: Faults, answer: str) -> None:
    busy = faults.busy(store, for_=0.05)
    store.update_message(answer, status="complete")
    assert busy.is_undone
    assert busy.met
    assert busy.join(60)
    with faults.busy(store, for_=1000, may_miss=True) as long:
        pass
    assert long.is_undone
    assert long.join(), "there is nothing left to wait for"
    assert not [t for t in threading.enumerate() if "_wait_for" in t.name]


def test_twice_at_once_is_refused_and_one_after_the_other_not(
    store: ConversationStore, faults: Faults
) -> None:
    with faults.busy(store, may_miss=True), pytest.raises(ValueError, match="busy already"):
        faults.busy(store)
    with faults.busy(store, may_miss=True):
        pass
    assert len(faults.record) == 2, "what could not begin is no fault"


@pytest.mark.claude_comms(stores=["tinydb"])
def test_one_that_somebody_else_holds(
    store: ConversationStore, clock: FakeClock, faults: Faults
) -> None:
    with Faults(clock) as others, others.busy(store, may_miss=True), pytest.raises(StoreBusy):
        faults.busy(store)
    assert faults.record == ()
    store.create_thread()


# -- slow


@on_every_store
def test_each_operation_takes_so_long(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    with faults.slow(store, by=2) as slow:
        store.update_message(answer, status="processing")
        assert clock.elapsed == 2
        store.messages()
        assert clock.elapsed == 4
        store.cursor()
        assert clock.elapsed == 6
    assert slow.met == 3
    store.update_message(answer, status="complete")
    assert clock.elapsed == 6
    changes = store.changes(message=answer).items
    assert [(c.at - clock.start).total_seconds() for c in changes] == [0, 2, 6]


@on_every_store
def test_a_slow_store_is_watched_too(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    faults.slow(store, by=0.5, for_=20)
    clock.at(1, store.update_message, answer, status="processing")
    clock.at(5, store.update_message, answer, status="complete")
    tracker = MessagePoller(store).wait(answer, timeout=60)
    assert_status_sequence(tracker, "pending -> processing -> complete")
    assert tracker.history[-1].at.second == 5
    assert tracker.history[-1].at.microsecond == 500_000
    assert 5.5 < clock.elapsed <= 8


def test_two_that_are_slow_add_up_and_end_in_any_order(clock: FakeClock, faults: Faults) -> None:
    with MemoryConversationStore(clock=clock) as store:
        first, second = faults.slow(store, by=1), faults.slow(store, by=10)
        store.cursor()
        assert clock.elapsed == 11
        first.undo()
        store.cursor()
        assert clock.elapsed == 21
        second.undo()
        store.cursor()
        assert clock.elapsed == 21
        assert "cursor" not in vars(store)
