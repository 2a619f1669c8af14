"""Promise 8: callbacks can't hurt."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from pytest_claude_comms.clock import SystemClock, Wakeup, unhandled_hook
from pytest_claude_comms.dispatch import MOST_THREADS, Callback, Callbacks, Dispatcher
from pytest_claude_comms.errors import ClockDeadlock
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.records import Change
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.tracking import Event, StatusTracker


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def event(revision: int, message_id: str = "m") -> Event:
    change = Change(
        revision=revision,
        message_id=message_id,
        thread_id="t",
        at=datetime(2026, 1, 1, tzinfo=timezone.utc),
        previous=None,
        status=MessageStatus.PENDING,
    )
    return Event.of(change, StatusTracker(message_id))


class named(Callbacks):  # noqa: N801 - read as a verb
    """Callbacks for every event, by their places."""

    def __init__(self, *callbacks: Callback) -> None:
        super().__init__(on_content=None, on_status=None, on_event=None, by_status={})
        self._named = {f"on_{place}": callback for place, callback in enumerate(callbacks)}

    def of(self, event: Event) -> tuple[tuple[str, Callback], ...]:
        return tuple(self._named.items())


def test_one_trackers_callbacks_run_one_after_another_in_order(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    seen: list[tuple[float, str, int]] = []

    def slow(each: Event) -> None:
        seen.append((clock.elapsed, "begin", each.revision))
        clock.sleep(1)
        seen.append((clock.elapsed, "end", each.revision))

    for revision in (1, 2, 3):
        dispatcher.queue(event(revision), named(slow))
    assert seen == [], "not in the poller's own thread"
    assert dispatcher.flush()
    assert seen == [
        (0, "begin", 1),
        (1, "end", 1),
        (1, "begin", 2),
        (2, "end", 2),
        (2, "begin", 3),
        (3, "end", 3),
    ]


def test_another_trackers_callbacks_are_not_delayed(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    seen: list[tuple[float, str]] = []
    for number in range(MOST_THREADS - 1):
        dispatcher.queue(event(number + 1, f"slow{number}"), named(lambda each: clock.sleep(100)))
    for revision in (50, 51):
        dispatcher.queue(
            event(revision, "quick"),
            named(lambda each: seen.append((clock.elapsed, each.message_id))),
        )
    clock.advance(1)
    assert seen == [(0, "quick")] * 2


def test_broken_version_with_one_thread_another_tracker_is_delayed(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_claude_comms.dispatch.MOST_THREADS", 1)
    with pytest.raises(AssertionError):
        test_another_trackers_callbacks_are_not_delayed(clock)


def test_the_pool_is_small_and_all_get_their_turn(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    running: set[str] = set()
    most: list[int] = []
    seen: list[str] = []

    def slow(each: Event) -> None:
        running.add(each.message_id)
        most.append(len(running))
        clock.sleep(1)
        running.discard(each.message_id)
        seen.append(each.message_id)

    for number in range(30):
        dispatcher.queue(event(number + 1, f"m{number}"), named(slow))
    dispatcher.flush()
    assert sorted(seen) == sorted(f"m{number}" for number in range(30))
    assert max(most) == MOST_THREADS == 8
    assert clock.elapsed == 4  # 30 of one second each by eight


def test_its_threads_end(clock: FakeClock) -> None:
    before = set(threading.enumerate())
    dispatcher = Dispatcher(clock)
    for number in range(20):
        dispatcher.queue(event(number + 1, f"m{number}"), named(lambda each: clock.sleep(1)))
    dispatcher.flush()
    clock.run_until_idle()
    for thread in set(threading.enumerate()) - before:
        if "watchdog" not in thread.name:
            thread.join(60)
            assert not thread.is_alive()


def test_one_that_raises_is_reported_and_the_next_delivered() -> None:
    reports: list[tuple[str, str]] = []
    seen: list[int] = []

    def raises(each: Event) -> None:
        raise LookupError(f"callback {each.revision}")

    dispatcher = Dispatcher(SystemClock())
    with unhandled_hook(lambda error, what: reports.append((str(error), what))):
        for revision in (1, 2):
            dispatcher.queue(
                event(revision), named(raises, lambda each: seen.append(each.revision))
            )
        assert dispatcher.flush(60)
    assert seen == [1, 2], "the other callbacks of the same event too"
    assert reports == [
        ("callback 1", "on_0 of message 'm' at revision 1"),
        ("callback 2", "on_0 of message 'm' at revision 2"),
    ]
    assert dispatcher.oldest() is None


def test_even_system_exit_stops_nothing() -> None:
    reports: list[BaseException] = []
    dispatcher = Dispatcher(SystemClock())
    with unhandled_hook(lambda error, what: reports.append(error)):
        dispatcher.queue(event(1), named(lambda each: sys.exit(1)))
        dispatcher.queue(event(2), named(lambda each: None))
        assert dispatcher.flush(60)
    assert [type(error) for error in reports] == [SystemExit]


def test_flush_waits_for_what_was_queued_so_far_only(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)

    def queues_more(each: Event) -> None:
        clock.sleep(1)
        if each.revision < 100:
            dispatcher.queue(event(each.revision + 1), named(queues_more))

    dispatcher.queue(event(1), named(queues_more))
    assert dispatcher.flush() is True
    assert clock.elapsed == 1


def test_flush_has_patience(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    assert dispatcher.flush(0) is True
    dispatcher.queue(event(1), named(lambda each: clock.sleep(10)))
    assert dispatcher.flush(3) is False
    assert clock.elapsed == 3
    assert dispatcher.flush() is True
    with pytest.raises(ValueError, match="^timeout must be between"):
        dispatcher.flush(-1)
    with pytest.raises(ValueError, match="^timeout must be between"):
        dispatcher.flush(float("nan"))


@pytest.mark.parametrize("kind", ["fake", "system"])
def test_flush_in_a_callback_is_refused(clock: FakeClock, kind: str) -> None:
    dispatcher = Dispatcher(clock if kind == "fake" else SystemClock())
    errors: list[str] = []

    def flushes(each: Event) -> None:
        try:
            dispatcher.flush()
        except RuntimeError as error:
            errors.append(str(error))

    dispatcher.queue(event(1), named(flushes))
    assert dispatcher.flush(60)
    assert errors == ["flush() in a callback would wait for that callback itself"]


def test_oldest_is_the_lowest_revision_not_returned(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    assert dispatcher.oldest() is None

    def sleeps(span: float) -> Callback:
        return lambda each: clock.sleep(span)

    for revision, message_id, span in ((5, "a", 1), (6, "b", 2), (5, "a", 2), (9, "c", 0)):
        dispatcher.queue(event(revision, message_id), named(sleeps(span)))
    seen = [(clock.elapsed, dispatcher.oldest())]
    for _ in range(3):
        clock.advance(1)
        seen.append((clock.elapsed, dispatcher.oldest()))
    assert seen == [(0, 5), (1, 5), (2, 5), (3, None)]


def test_a_thread_that_cannot_be_started_is_tried_again() -> None:
    class Poor(SystemClock):
        refuse = True

        def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.refuse:
                raise RuntimeError("can't start new thread")
            return super().spawn(f, *args, **kwargs)

    clock = Poor()
    dispatcher = Dispatcher(clock)
    seen: list[int] = []
    for number in range(MOST_THREADS + 1):
        dispatcher.queue(
            event(number + 1, f"m{number}"), named(lambda each: seen.append(each.revision))
        )
    dispatcher.queue(event(98, "m0"), named(lambda each: seen.append(each.revision)))
    assert not dispatcher.nudge()
    assert seen == []
    clock.refuse = False
    assert dispatcher.flush(60)
    assert sorted(seen) == [*range(1, MOST_THREADS + 2), 98]


def test_a_poller_survives_that_no_thread_can_be_started() -> None:
    class Poor(SystemClock):
        refuse = False

        def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.refuse and f.__name__ == "run_callbacks":
                raise RuntimeError("can't start new thread")
            return super().spawn(f, *args, **kwargs)

    clock = Poor()
    store = MemoryConversationStore(clock=clock)
    store.add_message(store.create_thread(), "x", status="pending", message_id="m")
    seen: list[int] = []
    clock.refuse = True
    with MessagePoller(store) as poller:
        poller.track("m", on_event=lambda each: seen.append(each.revision))
        store.update_message("m", status="processing")
        poller.wait_any(["m", store.add_message(store.threads()[0], "x")], timeout=60)
        clock.refuse = False
    assert seen == [1, 2]


def test_a_callback_takes_no_fake_time_but_what_it_sleeps(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    seen: list[float] = []

    def callback(each: Event) -> None:
        threading.Event().wait(0.02)  # real work
        seen.append(clock.elapsed)

    clock.at(1, lambda: dispatcher.queue(event(1), named(callback)))
    clock.at(1.000001, seen.append, -1)
    clock.sleep(2)
    assert seen == [1, -1]


def test_many_writers_on_the_system_clock_keep_each_trackers_order() -> None:
    dispatcher = Dispatcher(SystemClock())
    seen: dict[str, list[int]] = {f"m{number}": [] for number in range(12)}

    def queues(message_id: str) -> None:
        for revision in range(1, 201):
            dispatcher.queue(
                event(revision, message_id),
                named(lambda each: seen[message_id].append(each.revision)),
            )

    threads = [threading.Thread(target=queues, args=(name,)) for name in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dispatcher.flush(120)
    assert all(revisions == list(range(1, 201)) for revisions in seen.values())
    assert dispatcher.oldest() is None


class Refusing(FakeClock):
    """Gives no thread as long as there are ``errors`` to raise instead."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__()
        self.errors = list(errors)

    def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return super().spawn(f, *args, **kwargs)


def test_a_flush_asks_for_a_thread_again_and_does_not_wait_for_ever() -> None:
    none = RuntimeError("can't start new thread")
    with Refusing(none, none, none) as clock:
        dispatcher = Dispatcher(clock)
        seen: list[int] = []
        dispatcher.queue(event(1), named(lambda each: seen.append(each.revision)))
        assert not dispatcher.flush(0.02), "no longer than its patience"
        assert (clock.elapsed, seen) == (0.02, [])
        assert dispatcher.flush(), "nothing else would wake it"
        assert (clock.elapsed, seen) == (0.07, [1])


def test_interrupts_while_threads_are_started_use_up_none_of_them() -> None:
    with Refusing(*[KeyboardInterrupt()] * MOST_THREADS) as clock:
        dispatcher = Dispatcher(clock)
        seen: list[int] = []
        for number in range(MOST_THREADS):
            with pytest.raises(KeyboardInterrupt):
                dispatcher.queue(
                    event(number + 1, f"m{number}"), named(lambda each: seen.append(each.revision))
                )
        assert dispatcher.flush(1)
        assert seen == [*range(1, MOST_THREADS + 1)]


def test_an_interrupt_right_after_an_event_was_counted_takes_that_back(clock: FakeClock) -> None:
    class Struck(named):
        counted = 0
        strikes = True

        @property
        def told(self) -> int:
            return self.counted

        @told.setter
        def told(self, value: int) -> None:
            self.counted = value
            if value == 1 and self.strikes:
                self.strikes = False
                raise KeyboardInterrupt

    seen: list[int] = []
    dispatcher = Dispatcher(clock)
    callbacks = Struck(lambda each: seen.append(each.revision))
    for told in (0, 1, 2):
        try:
            dispatcher.queue(event(callbacks.told + 1), callbacks)
        except KeyboardInterrupt:
            assert told == 0
        assert callbacks.told == told
        assert dispatcher.oldest() == (None if told == 0 else 1)
    assert dispatcher.flush()
    assert seen == [1, 2]


class Poor(FakeClock):
    """It gives no thread while ``refuse`` is not 0; each one asked for takes one off."""

    refuse = 0
    by: type[BaseException] = RuntimeError

    def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.refuse:
            self.refuse -= 1
            raise self.by("can't start new thread")
        return super().spawn(f, *args, **kwargs)


@pytest.fixture
def poor() -> Iterator[Poor]:
    clock = Poor()
    with clock:
        yield clock


def test_flush_asks_again_for_a_thread(poor: Poor) -> None:
    dispatcher = Dispatcher(poor)
    seen: list[float] = []
    poor.refuse = 4
    dispatcher.queue(event(1), named(lambda each: seen.append(poor.elapsed)))
    assert dispatcher.flush(0.02) is False
    assert poor.elapsed == 0.02, "its patience comes first"
    assert dispatcher.flush(9) is True
    assert (seen, poor.elapsed) == ([0.12], 0.12), "two refused here, fifty milliseconds apart"


def test_flush_without_patience_asks_again_for_a_thread(poor: Poor) -> None:
    dispatcher = Dispatcher(poor)
    poor.refuse = 4
    dispatcher.queue(event(1), named(lambda each: None))
    assert dispatcher.flush() is True
    assert poor.elapsed == pytest.approx(0.15)


def test_nudge_says_whether_somebody_will_run_what_is_queued(poor: Poor) -> None:
    dispatcher = Dispatcher(poor)
    assert dispatcher.nudge() is True, "nothing is"
    poor.refuse = 1
    dispatcher.queue(event(1, "a"), named(lambda each: poor.sleep(1)))
    poor.refuse = 1
    assert dispatcher.nudge() is False
    assert dispatcher.nudge() is True
    poor.advance(0)
    poor.refuse = 2
    dispatcher.queue(event(2, "b"), named(lambda each: None))
    assert dispatcher.nudge() is False, "one works, but may do so for long"
    assert dispatcher.flush() is True


def test_a_flush_does_not_rely_on_a_thread_that_is_only_asked_for() -> None:
    """The system may not give that one either."""

    class Slow(FakeClock):
        refuse = 2

        def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.refuse and f.__name__ == "run_callbacks":
                self.refuse -= 1
                if self.refuse:
                    self.sleep(1)
                raise RuntimeError("can't start new thread")
            return super().spawn(f, *args, **kwargs)

    with Slow() as clock:
        dispatcher = Dispatcher(clock)
        seen: list[float] = []
        clock.spawn(dispatcher.queue, event(1), named(lambda each: seen.append(clock.elapsed)))
        clock.advance(0.5)
        assert dispatcher.flush() is True
        assert seen == [0.55]


def test_what_has_ended_is_not_kept_though_nobody_asks_for_the_oldest(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    for revision in range(100):
        dispatcher.queue(event(revision), named(lambda each: None))
    assert dispatcher.flush()
    assert not dispatcher._oldest


def test_an_interrupt_while_a_thread_is_started_costs_no_place_in_the_pool(poor: Poor) -> None:
    dispatcher = Dispatcher(poor)
    seen: list[int] = []
    poor.refuse, poor.by = MOST_THREADS + 1, KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        dispatcher.queue(event(1), named(lambda each: seen.append(each.revision)))
    for _ in range(MOST_THREADS):
        with pytest.raises(KeyboardInterrupt):
            dispatcher.nudge()
    assert dispatcher.flush(1) is True
    assert seen == [1]


def test_the_pool_is_as_large_after_rests_and_refusals(poor: Poor) -> None:
    """And where each callback comes when the thread for the one before runs already."""
    dispatcher = Dispatcher(poor)
    running: list[int] = []
    most: list[int] = []

    def slow(each: Event) -> None:
        running.append(each.revision)
        most.append(len(running))
        poor.sleep(1)
        running.remove(each.revision)

    for turn in range(12):
        if turn % 3 == 1:
            poor.refuse = 4  # the others ask often enough
        for number in range(MOST_THREADS + 4):
            dispatcher.queue(event(number + 1, f"m{number}"), named(slow))
            if turn % 2:
                poor.advance(0)
        poor.refuse = 0
        began = poor.elapsed
        assert dispatcher.flush()
        assert poor.elapsed == began + 2, "eight, and then four"
        assert max(most) == MOST_THREADS
        most.clear()
        poor.advance(1)


def test_flush_wakes_when_something_ended_and_not_to_look(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    for number in range(MOST_THREADS + 1):
        dispatcher.queue(event(number + 1, f"m{number}"), named(lambda each: clock.sleep(10)))
    assert dispatcher.flush(0.000001) is False
    assert (clock.elapsed, clock.jumps) == (0.000001, 1), "all of its patience"
    assert dispatcher.flush() is True
    assert (clock.elapsed, clock.jumps) == (20, 3)


def test_flush_says_what_it_waits_for(clock: FakeClock) -> None:
    dispatcher = Dispatcher(clock)
    never = clock.wakeup()
    for number in (1, 2):
        dispatcher.queue(
            event(number, f"m{number}"), named(lambda each: never.wait(None, why="nothing"))
        )
    with pytest.raises(ClockDeadlock, match=r"the test waits for 2 callbacks to end"):
        dispatcher.flush()


def test_a_flush_that_is_over_is_not_woken() -> None:
    woken: list[Recorded] = []

    class Recorded:
        def __init__(self, inner: Wakeup) -> None:
            self.wait = inner.wait
            self._inner = inner

        def set(self) -> None:
            woken.append(self)
            self._inner.set()

    class Recording(SystemClock):
        def wakeup(self, *, polls: bool = False) -> Wakeup:
            return Recorded(super().wakeup(polls=polls))

    dispatcher = Dispatcher(Recording())
    for revision in (1, 2):
        dispatcher.queue(event(revision), named(lambda each: None))
        assert dispatcher.flush(60)
    assert dispatcher.flush(0) is True
    before = len(woken)
    dispatcher.queue(event(3), named(lambda each: None))
    assert dispatcher.flush(60)
    assert len(set(woken[before:])) <= 1


def test_a_clock_that_cannot_report_an_error_costs_no_place_in_the_pool() -> None:
    class Mute(SystemClock):
        def unhandled(self, error: BaseException, what: str) -> None:
            raise OSError("nowhere to report to")

    together = threading.Barrier(MOST_THREADS)
    heard = threading.Semaphore(0)
    reports: list[str] = []

    def raises(each: Event) -> None:
        together.wait(60)
        raise LookupError

    def hear(error: BaseException, what: str) -> None:
        reports.append(str(error))
        heard.release()

    dispatcher = Dispatcher(Mute())
    with unhandled_hook(hear):
        for number in range(MOST_THREADS):
            dispatcher.queue(event(number + 1, f"m{number}"), named(raises))
        assert dispatcher.flush(60)
        assert all(heard.acquire(timeout=60) for _ in range(MOST_THREADS))
        seen: list[int] = []
        dispatcher.queue(event(50, "last"), named(lambda each: seen.append(each.revision)))
        assert dispatcher.flush(60)
    assert seen == [50]
    assert reports == ["nowhere to report to"] * MOST_THREADS
