"""An interrupt (Ctrl-C, an alarm that raises) at every place of who watches a store.

Python runs a signal's handler where a call begins and where one has returned, so that is where
it is put: in the first turn at the first such place, in the next one at the second, and so on.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timezone
from types import FrameType
from typing import Any

import pytest

from pytest_claude_comms import clock, dispatch, following, polling, tracking, waiting
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.records import Change
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.testing.leaks import pollers_under_way
from pytest_claude_comms.tracking import StatusTracker
from tests.tracing import Profiled

_PATIENCE = 60.0
_WATCHERS = {each.__file__ for each in (clock, dispatch, following, polling, tracking, waiting)}
_CALLED_FROM_C = {"__enter__", "subscribe", "_remove"}
"""No handler runs before the caller has what these return: it gets it in the same step. What a
weak reference calls (``_remove``), whenever that is, has no caller who could get an exception."""
_PLACES = {"call", "return", "c_return"}


class Interrupt:
    """Raises KeyboardInterrupt at one place of the watchers' code; ``came`` once it did."""

    def __init__(self, place: int) -> None:
        self.place = self._left = place
        self.came = False

    def strikes(self, act: Callable[[], object]) -> bool:
        """Whether ``act`` has so many places; then it was interrupted there."""
        with Profiled(self._profile):
            try:
                act()
            except KeyboardInterrupt:
                assert self.came
        return self.came

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_name
        at = frame.f_back if event == "return" else frame
        if event not in _PLACES or at is None or at.f_code.co_filename not in _WATCHERS:
            return
        if (event == "return" and name in _CALLED_FROM_C) or (event == "call" and name == "forget"):
            return  # what clears up has to begin: one that comes before it does keeps it from that
        self._left -= 1
        if not self._left:
            self.came = True
            sys.setprofile(None)
            raise KeyboardInterrupt


class Watched:
    """A message with one change told, and two to come."""

    def __init__(self, time: clock.Clock) -> None:
        self.store = MemoryConversationStore(clock=time)
        self.store.create_thread(thread_id="t")
        self.store.add_message("t", "x", status="pending", message_id="m")
        self.poller = MessagePoller(self.store)
        self.told: list[int] = []
        self.told_late: list[int] = []
        self.poller.track("m", on_event=lambda event: self.told.append(event.revision))
        self.poller.flush(_PATIENCE)

    def change(self) -> None:
        self.store.update_message("m", status="processing")
        self.store.update_message("m", status="complete")

    def change_and_poll(self) -> None:
        self.change()
        self.poller.poll_once()

    def track(self) -> None:
        self.poller.track("m", on_event=lambda event: self.told_late.append(event.revision))

    def leaks(self) -> dict[str, object]:
        """What waits for nobody."""
        follower = self.poller._follower
        kept: dict[str, Collection[object]] = {
            "signals": follower._signals,
            "listeners": self.store._hub._listeners,
            "flushers": follower.dispatcher._flushers,
            "starting": follower.dispatcher._starting,
        }
        return {name: list(each) for name, each in kept.items() if each}


ACTS: dict[str, tuple[Callable[[Watched], object], Callable[[Watched], object]]] = {
    "poll_once": (Watched.change, lambda it: it.poller.poll_once()),
    "wait": (Watched.change, lambda it: it.poller.wait("m", timeout=1)),
    "flush": (Watched.change_and_poll, lambda it: it.poller.flush(_PATIENCE)),
    "track": (Watched.change_and_poll, Watched.track),
}
"""What comes before, and what is interrupted."""


def places() -> Iterator[Interrupt]:
    """One for each place, until one finds none."""
    place = 0
    while True:
        place += 1
        interrupt = Interrupt(place)
        yield interrupt
        if not interrupt.came:
            break
    assert place > 5, "it was no test of anything"


@pytest.mark.parametrize("act", ACTS)
def test_wherever_it_comes_nothing_is_lost_told_twice_or_left(act: str) -> None:
    prepare, interrupted = ACTS[act]
    for interrupt in places():
        with FakeClock() as time:
            it = Watched(time)
            prepare(it)
            interrupt.strikes(lambda: interrupted(it))
            time.advance(0)  # with nothing to wait for: what was queued has run by now
            for _ in range(2):
                it.poller.poll_once()
            it.poller.flush()
            assert it.told == [1, 2, 3], vars(interrupt)
            kept = len(it.poller._follower._callbacks["m"]) == 2
            assert it.told_late == ([1, 2, 3] if kept else []), "all of its history, or none"
            assert it.poller.cursor == 3
            assert it.poller.wait_any(["m"], timeout=0).statuses == [
                "pending",
                "processing",
                "complete",
            ]
            assert it.leaks() == {}


@pytest.mark.parametrize("kind", ["fake", "system"])
@pytest.mark.parametrize("act", ["start", "with"])
def test_wherever_it_comes_no_thread_is_left_that_nobody_knows_of(act: str, kind: str) -> None:
    def enter() -> None:
        with it.poller:
            pass

    for interrupt in places():
        with FakeClock() as fake:
            it = Watched(fake if kind == "fake" else clock.SystemClock())
            before = polling_threads()
            interrupt.strikes(it.poller.start if act == "start" else enter)
            if pollers_under_way(it.store):
                assert act == "with" or not interrupt.came, "it raised and runs"
                it.poller.stop()
            if kind == "fake":
                fake.advance(0)
            for thread in polling_threads() - before:
                thread.join(_PATIENCE)
                assert not thread.is_alive()
            it.poller.flush(_PATIENCE)
            assert it.leaks() == {}
            it.poller.start()  # what is left keeps it from nothing
            it.poller.stop()


def polling_threads() -> set[threading.Thread]:
    """Those of pollers on the system clock."""
    return {each for each in threading.enumerate() if each.name == "claude-comms run"}


def test_wherever_it_comes_stop_can_be_called_again() -> None:
    for interrupt in places():
        with FakeClock() as time:
            it = Watched(time)
            it.poller.start()
            time.advance(0)
            interrupt.strikes(it.poller.stop)
            it.poller.stop()
            time.advance(0)
            assert not pollers_under_way(it.store)
            it.change()
            assert [event.revision for event in it.poller.poll_once()] == [2, 3]
            it.poller.flush()
            assert it.leaks() == {}


def test_wherever_it_comes_a_stop_that_had_begun_lets_another_start() -> None:
    for interrupt in places():
        with FakeClock() as time:
            it = Watched(time)
            it.poller.start()
            own = it.poller._own
            interrupt.strikes(it.poller.stop)
            assert own is not None
            if not own.ending:
                assert interrupt.place == 1, "the first thing it does is to say so"
                it.poller.stop()
            it.poller.start()
            it.poller.stop()
            it.poller.flush()
            time.advance(0)
            assert it.leaks() == {}


def test_wherever_it_comes_a_change_is_applied_or_not() -> None:
    for interrupt in places():
        tracker = StatusTracker("m")
        for revision, status in enumerate(["pending", "processing", "complete"], 1):
            change = Change(
                revision=revision,
                message_id="m",
                thread_id="t",
                at=datetime(2026, 1, 1, tzinfo=timezone.utc),
                previous=None,
                status=MessageStatus(status),
            )
            if interrupt.came or interrupt.strikes(lambda: tracker.apply(change)):
                tracker.apply(change)
            assert (tracker.status, tracker.revision) == (status, revision)
        assert tracker.statuses == ["pending", "processing", "complete"]


def test_broken_version_that_counts_what_was_told_after_it_was_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then an interrupt between the two has it told twice."""

    def deliver(self: following.Follower, tracker: StatusTracker) -> None:
        for callbacks in self._callbacks.get(tracker.message_id, ()):
            for event in tracker.events(callbacks.told):
                told = callbacks.told
                self.dispatcher.queue(event, callbacks)
                callbacks.told = told
                len("a call")
                callbacks.told += 1
        self._undelivered.pop(tracker.message_id, None)

    deliver.__code__ = deliver.__code__.replace(co_filename=following.__file__)
    monkeypatch.setattr(following.Follower, "_deliver", deliver)
    with pytest.raises(AssertionError):
        test_wherever_it_comes_nothing_is_lost_told_twice_or_left("poll_once")


def test_broken_version_that_listens_in_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def listen(self: following.Follower, signal: Any) -> Any:
        unsubscribe = self.store.subscribe(signal.set)
        len("a call")
        self._signals[signal] = [unsubscribe]

    listen.__code__ = listen.__code__.replace(co_filename=following.__file__)
    monkeypatch.setattr(following.Follower, "listen", listen)
    with pytest.raises(AssertionError):
        test_wherever_it_comes_nothing_is_lost_told_twice_or_left("wait")
