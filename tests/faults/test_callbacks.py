"""Callbacks that raise or block (RELIABILITY rows 25 and 26; promise 8)."""

from __future__ import annotations

import pytest

from pytest_claude_comms import ConversationStore, Event, MessagePoller
from pytest_claude_comms.testing import FakeClock, Faults

pytestmark = pytest.mark.claude_comms(stores=["memory"])


@pytest.fixture
def answer(store: ConversationStore) -> str:
    thread = store.create_thread()
    return store.add_message(thread, "a", status="pending", message_id="m").message_id


def go_on(store: ConversationStore, clock: FakeClock, answer: str) -> None:
    clock.at(1, store.update_message, answer, status="processing")
    clock.at(2, store.update_message, answer, append="x")
    clock.at(3, store.update_message, answer, status="complete")


def test_one_that_raises_stops_neither_the_poller_nor_the_others(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    told: list[str] = []
    raising = faults.raising(KeyError("on purpose"))
    with MessagePoller(store) as poller:
        poller.track(
            answer, on_status=raising, on_event=lambda event: told.append(str(event.status))
        )
        go_on(store, clock, answer)
        clock.advance(5)
    assert told == ["pending", "processing", "processing", "complete"]
    assert raising.met == 3
    assert [event.status for event in raising.calls] == ["pending", "processing", "complete"]


def test_at_one_call_or_from_one_on(
    store: ConversationStore, poller: MessagePoller, clock: FakeClock, faults: Faults, answer: str
) -> None:
    once, then_on = faults.raising(at=2, forever=False), faults.raising(ValueError, at=3)
    poller.track(answer, on_event=once)
    poller.track(answer, on_event=then_on)
    go_on(store, clock, answer)
    poller.wait(answer)
    poller.flush()
    assert (once.met, len(once.calls)) == (1, 4)
    assert (then_on.met, len(then_on.calls)) == (2, 4)


def test_one_that_is_undone_raises_no_more(
    store: ConversationStore, poller: MessagePoller, clock: FakeClock, faults: Faults, answer: str
) -> None:
    raising = faults.raising()
    poller.track(answer, on_event=raising)
    clock.advance(0)
    raising.undo()
    go_on(store, clock, answer)
    poller.wait(answer)
    poller.flush()
    assert (raising.met, len(raising.calls)) == (1, 4)


def test_in_real_time(store: ConversationStore, faults: Faults, answer: str) -> None:
    raising, blocking = faults.raising(), faults.blocking(for_=0.01)
    with MessagePoller(store) as poller:
        poller.track(answer, on_status=raising, on_event=blocking)
    assert (raising.met, blocking.met) == (1, 1)


def test_one_that_blocks_holds_up_only_its_own_tracker(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    thread = store.get_message(answer).thread_id
    store.add_message(thread, "a", status="pending", message_id="other")
    told: list[tuple[float, str]] = []

    def tell(event: Event) -> None:
        told.append((clock.elapsed, event.message_id))

    blocking = faults.blocking(for_=10)
    with MessagePoller(store) as poller:
        poller.track(answer, on_complete=blocking, on_event=tell)
        poller.track("other", on_complete=tell)
        clock.at(1, store.update_message, answer, status="complete")
        clock.at(2, store.update_message, "other", status="complete")
        clock.advance(20)
    assert told == [(0, "m"), (2, "other"), (11, "m")]
    assert blocking.met == 1


def test_one_that_blocks_until_it_is_undone(
    store: ConversationStore, poller: MessagePoller, clock: FakeClock, faults: Faults, answer: str
) -> None:
    blocking = faults.blocking()
    poller.track(answer, on_event=blocking)
    with pytest.raises(TimeoutError):
        poller.flush(timeout=60)
    blocking.undo()
    poller.flush(timeout=60)
    assert clock.elapsed == 60


def test_what_the_test_leaves_blocked_is_let_go(
    store: ConversationStore, poller: MessagePoller, faults: Faults, answer: str
) -> None:
    blocking = faults.blocking()
    poller.track(answer, on_event=blocking)
    while not blocking.calls:  # in real time: on a thread of its own
        poller.poll_once()
