"""Tracking and polling: promises 1, 2, 5, 8 and 10, and DESIGN "Trackers and pollers"."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_claude_comms import resources
from pytest_claude_comms.errors import ClockDeadlock, HistoryGone, StoreBusy
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores.legacy import SHAPES, LegacyReturns, Shape
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.testing.leaks import pollers_under_way
from pytest_claude_comms.tracking import Event, StatusTracker


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryConversationStore]:
    with MemoryConversationStore(clock=clock) as store:
        store.create_thread("PDF schema", thread_id="t")
        yield store


class Counting:
    """A store that counts which of its methods are called."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found) or name == "clock":
            return found

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return found(*args, **kwargs)

        return counted


def revisions(events: list[Event]) -> list[int]:
    return [event.revision for event in events]


# -- 1: ordered, gap-free


def test_all_steps_between_two_polls_are_told_in_order(store: MemoryConversationStore) -> None:
    poller = MessagePoller(store)
    tracker = poller.track("m")
    store.add_message("t", "x", status="pending", message_id="m")
    store.update_message("m", status="processing")
    store.update_message("m", append="a")
    store.update_message("m", append="b")
    store.update_message("m", status="complete")
    events = poller.poll_once()
    assert revisions(events) == [1, 2, 3, 4, 5]
    assert [event.kind for event in events] == ["created", "status", "content", "content", "status"]
    assert tracker.statuses == ["pending", "processing", "complete"]
    assert poller.poll_once() == []


def test_broken_version_a_poller_of_snapshots_misses_steps(store: MemoryConversationStore) -> None:
    """What the first version of this system did."""

    def look() -> str:
        return str(store.get_message("m").status)

    store.add_message("t", "x", status="pending", message_id="m")
    seen = [look()]
    store.update_message("m", status="processing")
    store.update_message("m", status="complete")
    seen.append(look())
    assert seen == ["pending", "complete"]


def test_more_changes_than_one_read_takes(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_claude_comms.following._PAGE", 7)
    counting = Counting(store)
    poller = MessagePoller(counting)
    poller.track("m")
    store.add_message("t", "x", status="pending", message_id="m")
    for _ in range(27):
        store.update_message("m", append="x")
    counting.calls.clear()
    assert revisions(poller.poll_once()) == list(range(1, 29))
    assert counting.calls["changes"] == 5  # four full pages, and one that shows the end


def test_events_of_several_messages_come_in_the_order_of_the_commits(
    store: MemoryConversationStore,
) -> None:
    poller = MessagePoller(store)
    for name in "abc":
        poller.track(name)
        store.add_message("t", "x", status="pending", message_id=name)
    store.add_message("t", "x", message_id="not tracked")
    for name in "cab":
        store.update_message(name, status="complete")
    events = poller.poll_once()
    assert [event.message_id for event in events] == ["a", "b", "c", "c", "a", "b"]
    assert revisions(events) == [1, 2, 3, 5, 6, 7]


def test_an_error_in_the_middle_loses_nothing(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_claude_comms.following._PAGE", 2)
    poller = MessagePoller(store)
    told: list[int] = []
    poller.track("m", on_event=lambda event: told.append(event.revision))
    store.add_message("t", "x", status="pending", message_id="m")
    for _ in range(5):
        store.update_message("m", append="x")
    real, calls = store.changes, [0]

    def fails_third(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise OSError("disk")
        return real(*args, **kwargs)

    monkeypatch.setattr(store, "changes", fails_third)
    with pytest.raises(OSError, match="^disk$"):
        poller.poll_once()
    assert revisions(poller.poll_once()) == [1, 2, 3, 4, 5, 6]
    poller.flush()
    assert told == [1, 2, 3, 4, 5, 6]


# -- 5: absent is not an error


def test_unknown_until_it_appears_then_its_whole_history(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    poller = MessagePoller(store)
    tracker = poller.track("m")
    assert tracker.status is MessageStatus.UNKNOWN
    assert poller.poll_once() == []
    assert not tracker.exists
    store.add_message("t", "x", status="pending", message_id="m")
    store.update_message("m", status="failed", error="no")
    assert tracker.status is MessageStatus.UNKNOWN, "a tracker moves only when its poller polls"
    poller.poll_once()
    assert tracker.statuses == ["pending", "failed"]
    assert tracker.error == "no"


def test_tracking_an_existing_message_replays_its_history_to_callbacks(
    store: MemoryConversationStore,
) -> None:
    store.add_message("t", "x", "hello", status="pending", message_id="m")
    store.update_message("m", status="complete")
    poller = MessagePoller(store)
    told: list[int] = []
    tracker = poller.track("m", on_event=lambda event: told.append(event.revision))
    assert tracker.statuses == ["pending", "complete"]
    assert poller.poll_once() == [], "it is no news"
    poller.flush()
    assert told == [1, 2]


def test_tracking_twice_gives_the_same_tracker_and_adds_callbacks(
    store: MemoryConversationStore,
) -> None:
    poller = MessagePoller(store)
    told: list[tuple[str, int]] = []
    first = poller.track("m", on_event=lambda event: told.append(("first", event.revision)))
    store.add_message("t", "x", status="pending", message_id="m")
    poller.poll_once()
    second = poller.track("m", on_event=lambda event: told.append(("second", event.revision)))
    assert second is first
    store.update_message("m", status="complete")
    poller.poll_once()
    assert poller.track("m") is first
    poller.flush()
    assert told == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_taken_everywhere(
    store: MemoryConversationStore, clock: FakeClock, shape: Shape
) -> None:
    legacy: Any = LegacyReturns(store, shape)
    poller = MessagePoller(legacy)
    answer = legacy.add_message("t", "x", status="pending", timeout=5)
    tracker = poller.track(answer)
    events: list[Event] = []
    clock.at(1, legacy.update_message, answer, append="x")
    assert poller.wait(answer) is tracker
    assert poller.wait_all([answer]) == [tracker]
    assert poller.wait_any([answer]) is tracker
    events.extend(poller.watch(answer))
    assert [str(event.status) for event in events] == ["pending", "pending", "timeout"]
    assert all(type(event) is Event and event.tracker is tracker for event in events)
    assert legacy.get_message(answer).status == "timeout"


@pytest.mark.parametrize("wrong", [None, 3, 1.5, b"m", object(), [], ("m",), {"m"}, True])
def test_what_is_no_message_is_a_type_error(store: MemoryConversationStore, wrong: Any) -> None:
    poller = MessagePoller(store)
    for call in (poller.track, poller.wait, poller.watch):
        with pytest.raises(TypeError, match="^a message is a Message, its id or a dict"):
            call(wrong)
    with pytest.raises(ValueError, match="^message_id must not be empty$"):
        poller.track("")
    with pytest.raises(ValueError, match=r"^this dict is no message: it has no 'message_id'"):
        poller.wait({"a": 1})


def test_a_callback_that_cannot_be_called_is_refused(store: MemoryConversationStore) -> None:
    poller = MessagePoller(store)
    with pytest.raises(TypeError, match="^on_complete must be callable, not 3$"):
        poller.track("m", on_complete=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [0, -1, math.nan, 1e-9])
def test_an_interval_of_nothing_is_refused(store: MemoryConversationStore, interval: float) -> None:
    with pytest.raises(ValueError, match="^interval must be"):
        MessagePoller(store, interval)


# -- 8: callbacks


def test_the_order_of_the_callbacks_of_one_event(store: MemoryConversationStore) -> None:
    poller = MessagePoller(store)
    told: list[tuple[int, str]] = []

    def note(name: str) -> Any:
        return lambda event: told.append((event.revision, name))

    names = ["on_event", "on_status", "on_complete", "on_failed", "on_timeout", "on_cancelled"]
    callbacks = {name: note(name) for name in [*names, "on_content"]}
    poller.track("m", **callbacks)
    store.add_message("t", "x", "hello", status="pending", message_id="m")
    store.update_message("m", status="processing")
    store.update_message("m", append="!")
    store.update_message("m", metadata={"a": 1})
    store.update_message("m", content="whole", status="complete")
    poller.poll_once()
    poller.flush()
    assert told == [
        (1, "on_content"),
        (1, "on_status"),
        (1, "on_event"),
        (2, "on_status"),
        (2, "on_event"),
        (3, "on_content"),
        (3, "on_event"),
        (4, "on_event"),
        (5, "on_content"),
        (5, "on_status"),
        (5, "on_complete"),
        (5, "on_event"),
    ]


@pytest.mark.parametrize("status", ["complete", "failed", "timeout", "cancelled"])
def test_each_end_has_its_callback(store: MemoryConversationStore, status: str) -> None:
    told: list[str] = []

    def note(name: str) -> Any:
        return lambda event: told.append(name)

    poller = MessagePoller(store)
    ends = ("complete", "failed", "timeout", "cancelled")
    callbacks: dict[str, Any] = {f"on_{each}": note(each) for each in ends}
    poller.track("m", **callbacks)
    store.add_message("t", "x", status=status, message_id="m")
    poller.poll_once()
    poller.flush()
    assert told == [status]


def test_a_slow_callback_delays_no_poll_and_no_other_tracker(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    told: list[tuple[float, str, int]] = []

    def slow(event: Event) -> None:
        clock.sleep(100)
        told.append((clock.elapsed, "slow", event.revision))

    with MessagePoller(store) as poller:
        poller.track("a", on_event=slow)
        poller.track("b", on_event=lambda event: told.append((clock.elapsed, "b", event.revision)))
        for second in range(1, 4):
            for name in "ab":
                if second == 1:
                    clock.at(1, store.add_message, "t", "x", status="pending", message_id=name)
                else:
                    clock.at(second, store.update_message, name, append="x")
        clock.advance(50)
        assert told == [(1, "b", 2), (2, "b", 4), (3, "b", 6)]
        clock.run_until_idle()
    assert told[3:] == [(101, "slow", 1), (201, "slow", 3), (301, "slow", 5)]


def test_one_that_raises_fails_the_test_and_stops_nothing(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    told: list[int] = []

    def raises(event: Event) -> None:
        told.append(event.revision)
        if event.revision == 1:
            raise LookupError("callback")

    with MessagePoller(store) as poller:
        poller.track("m", on_event=raises)
        clock.at(1, store.add_message, "t", "x", status="pending", message_id="m")
        clock.at(2, store.update_message, "m", status="complete")
        with pytest.raises(LookupError, match="^callback"):
            poller.wait("m")
        assert clock.elapsed == 1
        assert poller.wait("m").status == "complete"
    assert told == [1, 2]


def test_flush_gives_up(store: MemoryConversationStore, clock: FakeClock) -> None:
    store.add_message("t", "x", message_id="m")
    poller = MessagePoller(store)
    poller.track("m", on_event=lambda event: clock.sleep(10))
    with pytest.raises(TimeoutError, match="^callbacks were still running after 3 s$"):
        poller.flush(3)
    poller.flush(60)
    assert clock.elapsed == 10


# -- 2: once per tracker, at least once across a restart


def test_since_tells_what_came_after_and_knows_what_came_before(
    store: MemoryConversationStore,
) -> None:
    store.add_message("t", "x", status="pending", message_id="m")
    store.update_message("m", status="processing")
    poller = MessagePoller(store, since=1)
    told: list[int] = []
    tracker = poller.track("m", on_event=lambda event: told.append(event.revision))
    store.update_message("m", status="complete")
    poller.poll_once()
    poller.flush()
    assert told == [2, 3]
    assert tracker.statuses == ["pending", "processing", "complete"]
    assert poller.cursor == 3


def test_since_of_a_message_that_is_tracked_late(store: MemoryConversationStore) -> None:
    poller = MessagePoller(store, since=0)
    store.add_message("t", "x", message_id="m")
    poller.poll_once()
    told: list[int] = []
    poller.track("m", on_event=lambda event: told.append(event.revision))
    poller.flush()
    assert told == [1]


@pytest.mark.parametrize("since", [True, 1.0, "1"])
def test_a_cursor_is_an_int(store: MemoryConversationStore, since: Any) -> None:
    with pytest.raises(TypeError, match="^since must be an int"):
        MessagePoller(store, since=since)
    with pytest.raises(ValueError, match="^since must be at least 0, not -1$"):
        MessagePoller(store, since=-1)


def test_a_cursor_from_the_future_is_history_gone_at_once(store: MemoryConversationStore) -> None:
    store.add_message("t", "x")
    MessagePoller(store, since=1)
    with pytest.raises(HistoryGone, match=r"^the history of memory: after revision 2 is gone: "):
        MessagePoller(store, since=2)


def test_the_cursor_moves_after_the_callbacks(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    poller = MessagePoller(store)
    poller.track("a", on_event=lambda event: clock.sleep(1))
    poller.track("b")
    for name in "abab":
        if store.changes(0, message=name).items:
            store.update_message(name, append="x")
        else:
            store.add_message("t", "x", status="pending", message_id=name)
    seen = [poller.cursor]
    poller.poll_once()
    for _ in range(3):
        seen.append(poller.cursor)
        clock.advance(1)
    assert seen == [0, 0, 2, 4]


def test_the_cursor_waits_for_a_replay_too(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    """A caller who keeps it while old history is being told must not lose that history."""
    store.add_message("t", "x", status="pending", message_id="m")
    store.update_message("m", status="complete")
    poller = MessagePoller(store)
    assert poller.cursor == 2
    poller.track("m", on_event=lambda event: clock.sleep(1))
    seen = [poller.cursor]
    for _ in range(2):
        clock.advance(1)
        seen.append(poller.cursor)
    assert seen == [0, 1, 2]


def test_the_cursor_does_not_pass_what_is_read_while_it_is_asked_for(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    """Between its two looks another thread polls: what that thread read is not done."""
    poller = MessagePoller(store)
    poller.track("m", on_event=lambda event: clock.sleep(1))
    store.add_message("t", "x", message_id="m")
    real = poller._follower.dispatcher.oldest

    def slow_oldest() -> int | None:
        found = real()
        poller.poll_once()
        return found

    poller._follower.dispatcher.oldest = slow_oldest  # type: ignore[method-assign]
    assert poller.cursor == 0


def restart_run(poller_class: type[MessagePoller], die_in: int) -> tuple[list[int], list[int]]:
    """A watcher that keeps its cursor and is killed in its ``die_in``-th callback; then another.

    What each of them was told to the end.
    """
    saved = 0
    runs: list[list[int]] = []
    with FakeClock() as clock, MemoryConversationStore(clock=clock) as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "x", status="pending", message_id="m")
        for _ in range(8):
            store.update_message("m", append="x")
        store.update_message("m", status="complete")
        for run in range(2):
            done: list[int] = []
            runs.append(done)
            poller = poller_class(store, since=saved)
            dead: list[bool] = []

            def callback(event: Event) -> None:
                if run == 0 and len(done) == die_in:
                    dead.append(True)
                    clock.sleep(1000)  # it never gets any further
                clock.sleep(1)
                done.append(event.revision)

            poller.track("m", on_event=callback)
            for _ in range(15):
                clock.advance(1)
                poller.poll_once()
                if not dead or dead[0] is None:
                    saved = poller.cursor
            if run == 0:
                saved = poller.cursor
    return runs[0], runs[1]


@pytest.mark.parametrize("die_in", [0, 1, 4, 9])
def test_across_a_restart_delivery_is_at_least_once(die_in: int) -> None:
    first, second = restart_run(MessagePoller, die_in)
    assert first == list(range(1, die_in + 1))
    assert second == list(range(die_in + 1, 11)), "nothing skipped; and here nothing repeated"


def test_broken_version_a_cursor_that_is_kept_before_the_callback_loses_events() -> None:
    class Hasty(MessagePoller):
        @property
        def cursor(self) -> int:
            return self._follower._read

    first, second = restart_run(Hasty, 4)
    assert set(first + second) != set(range(1, 11))


# -- a thread of its own


def test_in_a_with_block_it_polls_and_nothing_is_left_open(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    before = set(resources.left_open())
    with MessagePoller(store) as poller:
        tracker = poller.track("m")
        clock.at(1, store.add_message, "t", "x", message_id="m")
        assert [text for key, (_, text) in resources.left_open().items() if key not in before] == [
            "a poller of memory: is still running: use it in a with block or stop() it"
        ]
        clock.advance(1)
        assert tracker.is_terminal
        with pytest.raises(RuntimeError, match="^this poller is running already$"):
            poller.start()
    assert set(resources.left_open()) == before
    poller.stop()
    assert repr(poller) == "<MessagePoller of memory:, 1 tracked>"


def test_the_end_of_the_block_polls_once_more_and_runs_the_callbacks(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    told: list[int] = []

    def slow(event: Event) -> None:
        clock.sleep(5)
        told.append(event.revision)

    with MessagePoller(store) as poller:
        poller.track("m", on_event=slow)
        store.add_message("t", "x", message_id="m")
    assert told == [1]


def test_a_block_that_ends_in_an_error_raises_that_error(store: MemoryConversationStore) -> None:
    with pytest.raises(LookupError, match="^mine$"), MessagePoller(store):
        store.close()
        raise LookupError("mine")


def test_a_stopped_poller_can_start_again(store: MemoryConversationStore, clock: FakeClock) -> None:
    poller = MessagePoller(store)
    tracker = poller.track("m")
    for _ in range(3):
        with poller:
            clock.advance(1)
    store.add_message("t", "x", message_id="m")
    assert not tracker.exists
    with poller:
        clock.advance(0)
        assert tracker.exists


def test_a_poller_does_not_beat_on_a_fake_clock(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    with MessagePoller(store, interval=0.001) as poller:
        clock.advance(3600)
        assert (poller.polls, clock.jumps) == (1, 1)
        store.add_message("t", "x")
        clock.advance(0)
        assert poller.polls == 2


# -- what it costs


def test_an_idle_poll_is_one_question(store: MemoryConversationStore) -> None:
    store.add_message("t", "x", status="pending", timeout=1000)
    counting = Counting(store)
    poller = MessagePoller(counting)
    for number in range(50):
        poller.track(f"m{number}")
    poller.poll_once()
    counting.calls.clear()
    for _ in range(10):
        poller.poll_once()
    assert counting.calls == {"changes": 10}


def test_a_poll_that_reads_changes_asks_for_the_deadline_once(
    store: MemoryConversationStore,
) -> None:
    counting = Counting(store)
    poller = MessagePoller(counting)
    poller.poll_once()
    counting.calls.clear()
    for _ in range(20):
        store.add_message("t", "x")
    poller.poll_once()
    assert counting.calls == {"changes": 1, "next_deadline_us": 1}


def test_ten_thousand_tracked_messages(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = [0]
    from pytest_claude_comms.tracking import StatusTracker

    real = StatusTracker.is_terminal.fget  # type: ignore[attr-defined]

    def is_terminal(self: StatusTracker) -> bool:
        looks[0] += 1
        return bool(real(self))

    names = [f"m{number}" for number in range(10_000)]
    counting = Counting(store)
    poller = MessagePoller(counting)
    for name in names:
        store.add_message("t", "x", status="pending", message_id=name)
    counting.calls.clear()
    for name in names:
        poller.track(name)
    monkeypatch.setattr(StatusTracker, "is_terminal", property(is_terminal))
    poller.poll_once()
    assert counting.calls["changes"] <= 10_000 + 11
    counting.calls.clear()
    for _ in range(10):
        poller.poll_once()
    assert counting.calls == {"changes": 10}
    assert looks[0] == 0, "a poll looks at no tracker that did not change"
    for second in range(1, 21):
        clock.at(second, store.update_message, "m7", append="x")
    clock.at(30, store.update_message, "m5000", status="complete")
    assert poller.wait_any(names).message_id == "m5000"
    assert looks[0] <= 2 * 10_000 + 100, "a wake-up for a change costs by the change"
    assert clock.elapsed == 30


# -- determinism


def one_hour(runs: int) -> set[tuple[tuple[object, ...], ...]]:
    found = set()
    for _ in range(runs):
        with FakeClock() as clock, MemoryConversationStore(clock=clock) as store:
            thread = store.create_thread("demo", modules=["marker", "arangodb"])
            answer = store.add_message(thread.thread_id, "arangodb", status="pending", timeout=3600)
            told: list[tuple[object, ...]] = []
            with MessagePoller(store) as poller:
                poller.track(
                    answer,
                    on_event=lambda event: told.append((clock.elapsed, event.revision, event.kind)),
                )
                clock.at(3, store.update_message, answer, status="processing")
                for minute in range(1, 60):
                    clock.at(60 * minute, store.update_message, answer, append=".")
                tracker = poller.wait(answer, timeout=7200)
                told.append((clock.elapsed, *map(str, tracker.statuses)))
            found.add(tuple(told))
    return found


def test_an_hour_passes_the_same_way_every_time() -> None:
    (story,) = one_hour(25)
    assert len(story) == 63
    assert story[0] == (0, 1, "created")
    assert (3600, "pending", "processing", "timeout") in story
    assert (3600, 62, "status") in story


@pytest.mark.long
def test_an_hour_passes_the_same_way_a_thousand_times() -> None:
    assert len(one_hour(1_000)) == 1


def test_an_interrupt_while_polling_loses_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it strikes between the folding and the queueing of a change."""
    for place in range(6):
        store = MemoryConversationStore()
        store.add_message(store.create_thread(), "x", status="pending", message_id="m")
        got: list[int] = []
        poller = MessagePoller(store)
        poller.track("m", on_event=lambda event: got.append(event.revision))
        poller.flush()
        left = [place]

        def interrupted(real: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                found = real(*args, **kwargs)
                left[0] -= 1
                if left[0] == -1:
                    raise KeyboardInterrupt
                return found

            return call

        with monkeypatch.context() as patch:
            patch.setattr(StatusTracker, "apply", interrupted(StatusTracker.apply))
            patch.setattr(StatusTracker, "events", interrupted(StatusTracker.events))
            patch.setattr(store, "next_deadline_us", interrupted(store.next_deadline_us))
            store.update_message("m", status="processing")
            store.update_message("m", append="x")
            try:
                returned = [event.revision for event in poller.poll_once()]
            except KeyboardInterrupt:
                returned = []
        store.update_message("m", status="complete")
        returned += [event.revision for event in poller.poll_once()]
        poller.flush()
        assert (returned, got) == ([2, 3, 4], [1, 2, 3, 4]), place
        assert poller.cursor == 4


def test_what_is_retained_of_a_trimmed_history_is_replayed() -> None:
    store = MemoryConversationStore()
    store.create_thread(thread_id="t")
    store.add_message("t", "x", status="pending", message_id="old")
    store.update_message("old", status="processing")
    store.update_message("old", append="text")
    state = store._state
    del state._changes[:2]
    del state._changes_of["old"][:2]
    with pytest.raises(HistoryGone, match="trimmed"):
        store.changes(0)
    with pytest.raises(HistoryGone, match="trimmed"):
        store.changes(1, message="old")
    poller = MessagePoller(store, since=store.cursor())
    assert poller.track("old").status == "processing"
    assert not poller.track("new").exists
    store.add_message("t", "x", message_id="new")
    assert [event.message_id for event in poller.poll_once()] == ["new"]


def test_what_a_wait_has_seen_is_not_handed_out_again() -> None:
    with FakeClock() as clock, MemoryConversationStore(clock=clock) as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "x", status="pending", message_id="m")
        poller = MessagePoller(store)
        clock.at(1, store.update_message, "m", status="complete")
        assert poller.wait("m").statuses == ["pending", "complete"]
        assert poller.poll_once() == []
        store.update_message("m", metadata={"k": 1})
        assert [event.revision for event in poller.poll_once()] == [3]


class NoStore:
    def get_thread(self, thread_id: str) -> None:
        """As stores of the original shape have it."""


@pytest.mark.parametrize(
    ("store", "way"),
    [
        ("sqlite:///comms.db", r"open one with open_store\(url\)"),
        (NoStore(), r"make one of it with adapt_store\(obj\)"),
    ],
)
def test_what_is_no_store_is_refused_with_the_way_to_one(store: Any, way: str) -> None:
    with pytest.raises(TypeError, match=f"^a poller needs a ConversationStore, not .*; {way}$"):
        MessagePoller(store)


def test_what_an_interrupt_kept_from_a_callback_comes_with_the_next_poll(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the message does not change any more."""
    poller = MessagePoller(store)
    told: list[int] = []
    poller.track("m", on_event=lambda event: told.append(event.revision))
    store.add_message("t", "x", message_id="m")

    def interrupted(tracker: StatusTracker, start: int = 0) -> list[Event]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StatusTracker, "events", interrupted)
        with pytest.raises(KeyboardInterrupt):
            poller.poll_once()
    poller.flush()
    assert told == []
    poller.poll_once()
    poller.flush()
    assert told == [1]


def test_an_idle_poll_looks_at_no_tracker(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = MessagePoller(store)
    told: list[int] = []
    for name in "ab":
        poller.track(name, on_event=lambda event: told.append(event.revision))
        store.add_message("t", "x", message_id=name)
    poller.poll_once()
    looked: list[StatusTracker] = []
    real = StatusTracker.events

    def events(tracker: StatusTracker, start: int = 0) -> list[Event]:
        looked.append(tracker)
        return real(tracker, start)

    monkeypatch.setattr(StatusTracker, "events", events)
    for _ in range(10):
        poller.poll_once()
    assert looked == []


def test_a_deadline_that_comes_as_the_block_ends_is_settled(
    store: MemoryConversationStore,
) -> None:
    with MessagePoller(store) as poller:
        tracker = poller.track("m")
        store.add_message("t", "x", status="pending", timeout=0, message_id="m")
    assert tracker.status == "timeout"


# -- what else the thread of its own does


class Silent(MemoryConversationStore):
    """As a store that another process writes: nothing is heard of its commits."""

    notifies = False

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_it_looks_at_a_store_that_does_not_notify(clock: FakeClock) -> None:
    with Silent(clock=clock) as store, MessagePoller(store, interval=1) as poller:
        store.create_thread(thread_id="t")
        tracker = poller.track("m")
        clock.at(2.5, store.add_message, "t", "x", message_id="m")
        clock.advance(2.75)
        assert not tracker.exists
        clock.advance(0.25)
        assert tracker.exists


def test_twenty_looks_a_second_unless_somebody_says_otherwise(clock: FakeClock) -> None:
    with Silent(clock=clock) as store:
        store.create_thread(thread_id="t")
        clock.at(2.51, store.add_message, "t", "x", message_id="m")
        clock.at(60, lambda: None)
        MessagePoller(store).wait("m")
        assert clock.elapsed == 2.55


def test_one_look_for_each_commit(store: MemoryConversationStore, clock: FakeClock) -> None:
    """Also where it has news for others: it need not tell itself."""
    with MessagePoller(store) as poller:
        poller.track("m")
        clock.advance(1)
        assert poller.polls == 1
        store.add_message("t", "x", status="pending", message_id="m")
        clock.advance(1)
        assert poller.polls == 2
    poller = MessagePoller(store)
    clock.after(1, store.update_message, "m", append="x")
    clock.after(2, store.update_message, "m", status="complete")
    poller.wait_any(["m"])
    assert poller.polls == 3


def test_it_comes_after_who_writes_at_the_same_instant(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    store.add_message("t", "x", status="pending", timeout=30, message_id="m")
    with MessagePoller(store) as poller:
        tracker = poller.track("m")
        clock.advance(1)
        clock.at(30, store.update_message, "m", status="complete")
        clock.advance(60)
    assert tracker.status == "complete"


def test_stop_returns_when_the_last_look_has_ended(clock: FakeClock) -> None:
    class Slow(MemoryConversationStore):
        def changes(self, *args: Any, **kwargs: Any) -> Any:
            clock.sleep(2)
            return super().changes(*args, **kwargs)

    with Slow(clock=clock) as store:
        poller = MessagePoller(store)
        poller.start()
        clock.advance(0.5)
        poller.stop()
        assert clock.elapsed == 2


def test_a_start_while_another_stops_does_not_revive_what_is_stopped(clock: FakeClock) -> None:
    class Slow(MemoryConversationStore):
        def changes(self, *args: Any, **kwargs: Any) -> Any:
            clock.sleep(2)
            return super().changes(*args, **kwargs)

    stopped: list[float] = []

    def stop() -> None:
        poller.stop()
        stopped.append(clock.elapsed)

    with Slow(clock=clock) as store:
        poller = MessagePoller(store)
        poller.start()
        clock.at(0.5, stop)
        clock.advance(1)
        poller.start()
        clock.advance(10)
        assert stopped == [2]
        assert sum("a commit (it polls)" in line for line in clock.waiting()) == 1
        poller.stop()
        assert clock.waiting() == []


class SlowToStart(FakeClock):
    """It takes a second to give a poller its thread."""

    def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        if f.__name__ == "run":
            self.sleep(1)
        return super().spawn(f, *args, **kwargs)


def test_of_two_that_start_it_at_once_one_is_refused() -> None:
    with SlowToStart() as clock, MemoryConversationStore(clock=clock) as store:
        poller = MessagePoller(store)
        clock.spawn(poller.start)
        clock.advance(0.5)
        with pytest.raises(RuntimeError, match="^this poller is running already$"):
            poller.start()
        clock.advance(1)
        assert pollers_under_way(store)
        poller.stop()
        assert clock.waiting() == []


def test_one_that_is_stopped_before_its_thread_has_begun_ends() -> None:
    with SlowToStart() as clock, MemoryConversationStore(clock=clock) as store:
        poller = MessagePoller(store)
        clock.spawn(poller.start)
        clock.advance(0.5)
        poller.stop()
        clock.advance(1)
        assert (pollers_under_way(store), clock.waiting(), poller.polls) == ([], [], 0)
        assert not store._hub._listeners


def test_a_thread_that_cannot_be_had_leaves_nothing() -> None:
    class Poor(FakeClock):
        refuse = True

        def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.refuse:
                raise RuntimeError("can't start new thread")
            return super().spawn(f, *args, **kwargs)

    poor = Poor()
    with poor, MemoryConversationStore(clock=poor) as store:
        poller = MessagePoller(store)
        with pytest.raises(RuntimeError, match="^can't start"):
            poller.start()
        with pytest.raises(RuntimeError, match="^can't start"), poller:
            pass
        assert not pollers_under_way(store)
        assert not store._hub._listeners
        poor.refuse = False
        with poller:
            poor.advance(0)
            assert poller.polls == 1


def test_a_store_that_takes_no_listener_leaves_nothing(clock: FakeClock) -> None:
    class Deaf(MemoryConversationStore):
        def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
            raise LookupError("no listeners")

    with Deaf(clock=clock) as store:
        poller = MessagePoller(store)
        with pytest.raises(LookupError):
            poller.wait("m")
        with pytest.raises(LookupError):
            poller.start()
        assert not poller._follower._signals


# -- over a fork


USES: dict[str, Callable[[MessagePoller], object]] = {
    "track": lambda poller: poller.track("m"),
    "poll_once": lambda poller: poller.poll_once(),
    "cursor": lambda poller: poller.cursor,
    "flush": lambda poller: poller.flush(),
    "wait": lambda poller: poller.wait("m", timeout=1),
    "wait_all": lambda poller: poller.wait_all(["m"], timeout=1),
    "wait_any": lambda poller: poller.wait_any(["m"], timeout=1),
    "watch": lambda poller: list(poller.watch("m", timeout=1)),
    "wait_async": lambda poller: asyncio.run(poller.wait_async("m", timeout=1)),
    "start": lambda poller: poller.start(),
    "with": lambda poller: poller.__enter__(),
    "end of with": lambda poller: poller.__exit__(None, None, None),
}


@pytest.mark.parametrize("use", USES)
def test_in_the_child_of_a_fork_it_waits_for_no_lock_of_the_parents(
    store: MemoryConversationStore,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    use: str,
) -> None:
    poller = MessagePoller(store)

    def look() -> None:
        with poller._follower.lock, poller._follower.dispatcher._lock:
            clock.sleep(1000)

    clock.spawn(look)
    clock.advance(1)
    poller.start()
    clock.advance(0)
    with monkeypatch.context() as child:
        child.setattr(os, "getpid", lambda: -1)
        child.setattr(store, "subscribe", None)  # it has a lock too
        with pytest.raises(RuntimeError) as caught:
            USES[use](poller)
        assert str(caught.value) == (
            "the poller of memory: was made before a fork and is used in the child: make another "
            "there, of a store that is opened there"
        )
        assert not pollers_under_way(store)
        poller.stop()  # there is nothing to stop
    assert clock.elapsed == 1
    clock.advance(1000)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_it_looks() -> None:
    store = MemoryConversationStore()
    poller = MessagePoller(store)
    held, over = threading.Event(), threading.Event()

    def look() -> None:
        with poller._follower.lock:
            held.set()
            over.wait(60)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    assert held.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(60)  # one that waits for the lock for ever ends by it
        try:
            poller.wait("m", timeout=1)
        except RuntimeError as error:
            os._exit("was made before a fork" not in str(error))
        finally:
            os._exit(2)
    over.set()
    thread.join(60)
    assert os.waitpid(child, 0)[1] == 0


def test_what_the_fake_clock_says_of_who_waits(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*args: Any, **kwargs: Any) -> Any:
        raise StoreBusy("/comms.db", 5)

    with MessagePoller(store) as poller:
        clock.advance(1)
        assert any(" for a commit (it polls) since" in line for line in clock.waiting())
    with monkeypatch.context() as patch:
        patch.setattr(store, "changes", busy)
        clock.spawn(poller.wait, "m", 10)
        clock.advance(1)
        assert any(" for a store in trouble since" in line for line in clock.waiting())
    store.add_message("t", "x", message_id="m")
    clock.run_until_idle()


def test_nothing_is_subscribed_when_nobody_waits(clock: FakeClock) -> None:
    class Listened(MemoryConversationStore):
        wakes = 0

        def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
            self.wakes += 1
            unsubscribe = super().subscribe(wake)

            def forget() -> None:
                self.wakes -= 1
                unsubscribe()

            return forget

    with Listened(clock=clock) as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "x", message_id="m")
        poller = MessagePoller(store)
        with poller:
            clock.advance(0)
            assert store.wakes == 1
        assert store.wakes == 0
        poller.wait("m")
        asyncio.run(poller.wait_async("m"))
        assert store.wakes == 0


def test_the_end_of_the_block_waits_for_callbacks_half_a_minute(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    store.add_message("t", "x", message_id="m")
    with (
        pytest.raises(TimeoutError, match="^callbacks were still running after 30 s$"),
        MessagePoller(store) as poller,
    ):
        poller.track("m", on_event=lambda event: clock.sleep(30.5))
    assert clock.elapsed == 30
    with MessagePoller(store) as poller:
        poller.track("m", on_event=lambda event: clock.sleep(29.5))
    assert clock.elapsed == 59.5


def test_a_deadlock_at_the_end_of_the_block(clock: FakeClock) -> None:
    class Stuck(MemoryConversationStore):
        def changes(self, *args: Any, **kwargs: Any) -> Any:
            clock.wakeup().wait(None, why="what never comes")
            return super().changes(*args, **kwargs)

    with (
        pytest.raises(ClockDeadlock, match="what never comes"),
        Stuck(clock=clock) as store,
        MessagePoller(store),
    ):
        pass


def test_a_deadlock_in_the_block_is_what_the_block_raises(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    with (
        pytest.raises(ClockDeadlock, match=r"waits for message m \(unknown\) to end"),
        MessagePoller(store) as poller,
    ):
        poller.wait("m")


@pytest.mark.parametrize("part", ["changes", "clock"])
def test_what_is_no_store_is_refused(store: MemoryConversationStore, part: str) -> None:
    class Part:
        def __repr__(self) -> str:
            return "<Part>"

    half: Any = Part()
    setattr(half, part, getattr(store, part))
    with pytest.raises(
        TypeError,
        match=r"^a poller needs a ConversationStore, not <Part>; open one with open_store\(url\)$",
    ):
        MessagePoller(half)
    half.get_thread = store.get_thread
    with pytest.raises(
        TypeError,
        match=r"^a poller needs a ConversationStore, not <Part>; make one of it with adapt_store",
    ):
        MessagePoller(half)


def test_a_clock_that_stopped_in_the_block_is_told_unless_the_block_tells_more(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    with pytest.raises(ClockDeadlock, match="^this fake clock has stopped"), MessagePoller(store):
        clock.close()
    with (
        pytest.raises(LookupError, match="^mine$"),
        FakeClock() as another,
        MemoryConversationStore(clock=another) as theirs,
        MessagePoller(theirs),
    ):
        another.close()
        raise LookupError("mine")


def test_a_wait_for_one_of_many_looks_at_all_when_one_has_ended_only(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"m{number}" for number in range(100)]
    for name in names:
        store.add_message("t", "x", status="pending", message_id=name)
    looks = [0]
    real = StatusTracker.is_terminal.fget  # type: ignore[attr-defined]

    def is_terminal(tracker: StatusTracker) -> bool:
        looks[0] += 1
        return bool(real(tracker))

    poller = MessagePoller(store)
    for second in range(1, 21):
        clock.at(second, store.update_message, "m7", append="x")
    clock.at(30, store.update_message, "m50", status="complete")
    monkeypatch.setattr(StatusTracker, "is_terminal", property(is_terminal))
    assert poller.wait_any(names).message_id == "m50"
    assert looks[0] <= 2 * 100 + 10
