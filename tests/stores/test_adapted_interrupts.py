"""An adapted store after an interrupt anywhere in a look: the next one finds all there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, MessagePoller, MessageStatus, adapt_store
from pytest_claude_comms.stores import adapted_feed, adapted_reading, memory, rules
from pytest_claude_comms.stores.adapted_shapes import Found
from pytest_claude_comms.testing import FakeClock
from tests.stores.interrupt_kit import Interrupt

INTERRUPT = Interrupt(adapted_feed, memory)


class Threads:
    """Threads by id, handed out as they are, or None; can be told of a status."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = [
            {"id": name, "status": "pending", "content": "", "metadata": {"a": 1}}
            for name in ("m", "n")
        ]

    def get_thread(self, thread_id: str) -> Any:
        return {"messages": self.messages} if thread_id == "t" else None

    def update_message(self, message_id: str, status: str) -> None: ...


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    clock = FakeClock()
    yield clock
    clock.close()


def looked_at(clock: FakeClock) -> tuple[Any, Threads]:
    threads = Threads()
    store = adapt_store(threads, clock=clock, threads=["t"])
    store.cursor()
    return store, threads


def row_of(message_id: str) -> rules.MessageRow:
    return rules.MessageRow(
        message_id=message_id,
        thread_id="t",
        module_name="",
        content="",
        message_type="message",
        status=MessageStatus.PENDING,
        created_us=0,
        updated_us=0,
        expires_us=None,
        stall_us=None,
        error=None,
        metadata="{}",
    )


def check_whole(store: ConversationStore) -> None:
    changes = [*store.changes()]
    assert [change.revision for change in changes] == list(range(1, store.cursor() + 1))
    for message in store.messages():
        of_it = [change for change in changes if change.message_id == message.message_id]
        assert [*store.changes(0, message=message)] == of_it
        assert (of_it[-1].status, of_it[-1].revision) == (message.status, message.revision)


CHANGES: dict[str, Callable[[Threads], object]] = {
    "a status": lambda threads: threads.messages[0].update(status="complete"),
    "an error and a key": lambda threads: threads.messages[0].update(
        error="no", metadata={"a": 2}, updated_at="2026-01-01T00:00:05Z"
    ),
    "a new message": lambda threads: threads.messages.append({"id": "o", "status": "pending"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_seen_once_wherever_a_look_was_interrupted(clock: FakeClock, what: str) -> None:
    for step in count(1):
        store, threads = looked_at(clock)
        poller = MessagePoller(store, since=store.cursor())
        for message_id in "m", "o":
            poller.track(message_id)
        CHANGES[what](threads)
        comes = INTERRUPT.comes_in(store.cursor, step)
        assert len(poller.poll_once()) == 1, step
        assert poller.poll_once() == []
        assert store.cursor() == 3
        check_whole(store)
        if not comes:
            break
    assert step > 100


def test_a_deadline_that_moved_holds_wherever_a_look_was_interrupted(clock: FakeClock) -> None:
    early = clock.now_us() + 5_000_000
    for step in count(1):
        store, threads = looked_at(clock)
        threads.messages[0]["deadline_at"] = early / 1e6
        comes = INTERRUPT.comes_in(store.cursor, step)
        store.next_deadline_us()
        assert store.cursor() == 2
        assert store.next_deadline_us() == early, step
        if not comes:
            break
    assert step > 50


def test_a_reader_that_does_not_look_finds_nothing_half_done(clock: FakeClock) -> None:
    deadline = clock.now_us() + 5_000_000
    found = set()
    for step in count(1):
        store, threads = looked_at(clock)
        threads.messages.append({"id": "o", "status": "pending", "deadline_at": deadline / 1e6})
        if not INTERRUPT.comes_in(store.cursor, step):
            break
        planned = store.next_deadline_us()
        assert (planned == deadline) is (store._feed.state.message("o") is not None)
        assert store._feed.state.is_finished
        found.add(planned)
    assert found == {None, deadline}


def test_a_loss_is_noted_wherever_that_was_interrupted() -> None:
    def found(*rows: rules.MessageRow) -> dict[str, Found | None]:
        return {"t": Found(thread, [*rows], frozenset(), {})}

    thread = rules.ThreadRow(thread_id="t", title="", modules=(), metadata="{}", created_us=0)
    lost, left = (row_of(name) for name in ("lost", "left"))
    for step in count(1):
        feed = adapted_feed.Feed()
        assert feed.take(found(lost, left), 0)
        with pytest.raises(adapted_feed.Vanished) as caught:
            feed.take(found(left), 0)
        comes = INTERRUPT.comes_in(partial(feed.forget, caught.value), step)
        if feed.state.message("lost") is not None:
            with pytest.raises(adapted_feed.Vanished) as caught:
                feed.take(found(left), 0)
            feed.forget(caught.value)
        assert (feed.gone, feed.gone_at) == ("message 'lost' vanished from it", 3)
        assert feed.state.revision() == feed.state.trimmed() == 3
        assert not feed.take(found(left), 0)
        assert feed.take(found(lost, left), 0)
        if not comes:
            break
    assert step > 100


def test_threads_that_others_name_meanwhile_are_no_trouble_to_who_says_where_it_looks() -> None:
    for step in count(1):
        store = adapt_store(Threads(), threads=["a", "b", "c"])
        another = Interrupt(adapted_reading, act=partial(store.include, "another"))
        said: list[str] = []
        comes = another.comes_in(lambda s=store, said=said: said.append(s.looks_at), step)  # type: ignore[misc]
        assert said[0].startswith("the threads 'a', 'b', 'c'")
        if not comes:
            break
    assert step > 20
