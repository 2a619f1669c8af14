"""The memory store after an interrupt anywhere in a write: all of it was done, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import pytest

from pytest_claude_comms import MessagePoller
from pytest_claude_comms.stores import memory
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.reports import StoreSnapshot
from pytest_claude_comms.testing import FakeClock
from tests.stores.interrupt_kit import Interrupt

INTERRUPT = Interrupt(memory, but=("_held", "_reading", "_writing"))

WRITES: dict[str, Callable[[MemoryConversationStore], object]] = {
    "create_thread": lambda store: store.create_thread(thread_id="u"),
    "add_message": lambda store: store.add_message(
        "t", "x", "text", status="pending", timeout=3, message_id="new"
    ),
    "update_message": lambda store: store.update_message("m", append="more"),
    "ending": lambda store: store.update_message("m", status="complete"),
    "compact": lambda store: store.compact(keep=1),
}


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    clock = FakeClock()
    yield clock
    clock.close()


def filled(clock: FakeClock) -> MemoryConversationStore:
    store = MemoryConversationStore(clock=clock)
    store.create_thread(thread_id="t")
    for message_id in ("m", "ended", "other"):
        store.add_message(
            "t", "x", status="processing", stall_timeout=5, timeout=9, message_id=message_id
        )
    for message_id in ("ended", "other"):
        store.update_message(message_id, append="a")
        store.update_message(message_id, status="complete")
    store.update_message("ended", metadata={"a": 1})
    return store


def content_of(store: MemoryConversationStore) -> tuple[object, ...]:
    """All that it says, but for its own id."""
    found: StoreSnapshot = store.snapshot()
    return found.threads, found.messages, found.changes, found.revision, found.trimmed


def check_whole(store: MemoryConversationStore) -> None:
    """Whatever tells of the same tells the same."""
    messages, kept = store.messages(), store.snapshot().changes
    for thread in store.threads():
        of_it = [message for message in messages if message.thread_id == thread.thread_id]
        assert store.messages(thread) == of_it
    for message in messages:
        told = [change.record() for change in kept if change.message_id == message.message_id]
        assert [*store.changes(0, message=message)] == told
        assert (told[-1].status, told[-1].revision) == (message.status, message.revision)
        assert MessagePoller(store).track(message).status == message.status
    trimmed, last = store.snapshot().trimmed, store.cursor()
    revisions = [change.revision for change in store.changes(trimmed)]
    assert revisions == list(range(trimmed + 1, last + 1))
    rows = [store._state.message(message.message_id) for message in messages]
    deadlines = [row.open_deadline_us for row in rows if row is not None]
    assert store.next_deadline_us() == min((at for at in deadlines if at is not None), default=None)


@pytest.mark.parametrize("name", WRITES)
def test_an_interrupt_anywhere_in_a_write_leaves_all_of_it_or_nothing(
    clock: FakeClock, name: str
) -> None:
    write = WRITES[name]
    untouched, done = filled(clock), filled(clock)
    write(done)
    before, after = content_of(untouched), content_of(done)
    assert before != after
    left: list[tuple[object, ...]] = []
    for step in count(1):
        store = filled(clock)
        if not INTERRUPT.comes_in(partial(write, store), step):
            break
        check_whole(store)
        left.append(content_of(store))
        assert left[-1] in (before, after), step
        for thread in store.threads():
            store.add_message(thread, "x", status="pending", timeout=4)
        check_whole(store)
    assert len(left) > 10
    assert before in left
    assert after in left


@pytest.mark.parametrize("twice", [False, True])
def test_a_poll_after_an_interrupt_sees_what_was_begun(clock: FakeClock, *, twice: bool) -> None:
    """Also where the first call after it, which finishes it, is interrupted itself."""
    seen = 0
    for step in count(1):
        store = filled(clock)
        poller = MessagePoller(store, since=store.cursor())
        poller.track("m")
        if not INTERRUPT.comes_in(partial(WRITES["ending"], store), step):
            break
        if twice:
            INTERRUPT.comes_in(store.cursor, 1 + step % 40)
        events = [event.status for event in poller.poll_once()]
        assert poller.poll_once() == []
        assert events == (["complete"] if store.get_message("m").status == "complete" else [])
        seen += len(events)
        check_whole(store)
    assert seen > 10


def test_several_that_are_overdue_are_settled_one_by_one(clock: FakeClock) -> None:
    settled = set()
    for step in count(1):
        store = MemoryConversationStore(clock=clock)
        store.create_thread(thread_id="t")
        for name, timeout in (("m", 2), ("n", 1), ("open", 900)):
            store.add_message("t", "x", status="pending", timeout=timeout, message_id=name)
        clock.advance(20)
        if not INTERRUPT.comes_in(store.expire, step):
            break
        check_whole(store)
        settled.add(len(store.messages(status="timeout")))
        store.expire()
        check_whole(store)
        assert len(store.messages(status="timeout")) == 2
    assert settled == {0, 1, 2}
