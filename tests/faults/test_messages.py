"""Messages that appear late and writers that die (RELIABILITY rows 1, 22, 28, T1)."""

from __future__ import annotations

import os
import threading

import pytest

from pytest_claude_comms import (
    AlreadyExists,
    ConversationStore,
    MessagePoller,
    ThreadNotFound,
    check_store,
    open_store,
)
from pytest_claude_comms.testing import FakeClock, Faults, assert_status_sequence

on_every_store = pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])


# -- late


@on_every_store
def test_who_waits_for_it_gets_its_whole_history(
    store: ConversationStore, poller: MessagePoller, clock: FakeClock, faults: Faults
) -> None:
    late = faults.appears(store, after=5, message_id="late", status="pending", timeout=3)
    tracker = poller.track("late")
    assert tracker.status == "unknown"
    assert not late.met
    poller.wait("late", timeout=60)
    assert_status_sequence(tracker, "pending -> timeout")
    assert (clock.elapsed, late.met, late.message_id) == (8, 1, "late")


@on_every_store
def test_in_a_thread_and_with_fields_of_its_own(
    store: ConversationStore, clock: FakeClock, faults: Faults
) -> None:
    thread = store.create_thread()
    late = faults.appears(store, after=0, thread=thread, module_name="b", content="x")
    assert late.join()
    assert late.message_id
    message = store.get_message(late.message_id)
    assert (message.thread_id, message.module_name, message.content) == (thread.thread_id, "b", "x")


def test_one_that_cannot_appear_fails_the_test(
    store: ConversationStore, clock: FakeClock, faults: Faults
) -> None:
    faults.appears(store, after=1, thread="nowhere", may_miss=True)
    with pytest.raises(ThreadNotFound):
        clock.advance(2)
    faults.appears(store, after=1, message_id="m")
    faults.appears(store, after=2, message_id="m", may_miss=True)
    with pytest.raises(AlreadyExists):
        clock.advance(3)


def test_undone_before_it_never_appears(
    store: ConversationStore, clock: FakeClock, faults: Faults
) -> None:
    faults.appears(store, after=1, may_miss=True).undo()
    clock.run_until_idle()
    assert clock.elapsed == 0, "nothing is planned any more"
    assert store.messages() == []


def test_late_in_real_time(store: ConversationStore, faults: Faults) -> None:
    late = faults.appears(store, after=0.05)
    assert late.join(30)
    assert [message.message_id for message in store.messages()] == [late.message_id]
    faults.appears(store, after=1000, may_miss=True).undo()
    assert not [t for t in threading.enumerate() if "_wait_for" in t.name]


# -- a writer that dies


@pytest.fixture
def answer(store: ConversationStore) -> str:
    thread = store.create_thread()
    return store.add_message(
        thread, "a", status="pending", stall_timeout=30, message_id="m"
    ).message_id


def test_what_it_had_written_is_kept_and_the_message_times_out(
    store: ConversationStore, poller: MessagePoller, clock: FakeClock, faults: Faults, answer: str
) -> None:
    told: list[tuple[float, str | None]] = []
    poller.track(answer, on_content=lambda event: told.append((clock.elapsed, event.append)))
    dying = faults.writer_dies(store, answer, after=3, every=2, text="<{n}>")
    tracker = poller.wait(answer, timeout=600)
    poller.flush()
    assert_status_sequence(tracker, "pending -> processing -> timeout")
    assert told == [(2, "<1>"), (4, "<2>"), (6, "<3>")]
    assert clock.elapsed == 36, "30 s after the last piece"
    assert store.get_message(answer).content == "<1><2><3>"
    assert dying.met == 1
    assert [change.revision for change in store.changes()] == [1, 2, 3, 4, 5]
    with open_store(store.url) as other:
        assert other.messages() == store.messages()
    assert check_store(store.url).ok


def test_it_dies_inside_the_write_and_its_lock_dies_with_it(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    path = store.url.partition(":///")[2]
    log = f"{path}{'-wal' if store.backend == 'sqlite' else '.journal'}"
    before = os.stat(log).st_size
    assert faults.writer_dies(store, answer, after=0, text="x" * 5_000).join()
    if store.backend == "tinydb":
        assert os.stat(log).st_size > before + 2_000, "half of a line is there"
    assert store.get_message(answer).status == "pending"
    store.update_message(answer, status="complete", content="by another")
    assert clock.elapsed == 0, "nobody had to wait for the lock"
    assert store.get_message(answer).content == "by another"
    assert [change.revision for change in store.changes()] == [1, 2]


def test_two_runs_are_alike(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    thread = store.get_message(answer).thread_id
    store.add_message(thread, "a", status="pending", message_id="other")
    faults.writer_dies(store, answer, after=4, every=1)
    faults.writer_dies(store, "other", after=4, every=1)
    clock.run_until_idle()
    found = [((c.at - clock.start).seconds, c.message_id) for c in store.changes(2)]
    assert found == [(at, name) for at in (1, 2, 3, 4) for name in ("m", "other")]


def test_a_writer_that_comes_to_grief_before_its_time(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    store.update_message(answer, status="complete")
    dying = faults.writer_dies(store, answer, after=1, may_miss=True)
    with pytest.raises(RuntimeError, match=r"came to grief before its time: .*is complete and"):
        dying.join()


def test_undone_in_the_middle(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    dying = faults.writer_dies(store, answer, after=10, every=1, may_miss=True)
    clock.advance(3.5)
    dying.undo()
    clock.run_until_idle()
    assert store.get_message(answer).content == "piece 1;piece 2;piece 3;"
    assert not dying.met
    store.update_message(answer, append="x")


def test_in_real_time(store: ConversationStore, faults: Faults, answer: str) -> None:
    dying = faults.writer_dies(store, answer, after=2)
    assert dying.join(60)
    assert store.get_message(answer).content == "piece 1;piece 2;"
    long = faults.writer_dies(store, answer, after=10**6, every=1000, may_miss=True)
    long.undo()
    assert not long.met
    store.update_message(answer, append="x")
