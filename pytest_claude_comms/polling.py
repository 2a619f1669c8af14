"""Watches a store: tracking messages, and all the ways to wait for them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, cast

from .clock import SECOND, Signal, seconds_to_us
from .dispatch import Callback, Callbacks
from .errors import ClockDeadlock, StoreError
from .following import Follower, OwnThread
from .records import Message
from .status import MessageStatus
from .stores import values
from .stores.base import MessageLike
from .tracking import Event, StatusTracker
from .wait_page import PollerState, awaited, wait_timeout
from .waiting import Park, Patience, Running, Steps, drive, drive_async

if TYPE_CHECKING:
    from .stores.base import ConversationStore

_EXIT_PATIENCE = 30.0

T = TypeVar("T")


class MessagePoller:
    """Follows messages of one store: one read per poll, however many are tracked.

    ``interval`` (seconds) is how often it looks for what other processes wrote; what is written
    in this process wakes it at once. ``since`` is the cursor of an earlier poller: what came
    after it is delivered to callbacks, what came before is known and not told again. Without
    ``since`` a tracked message's whole history is told.

    In a ``with`` block it polls on a thread of its own. All methods may be called from any thread.
    """

    def __init__(
        self, store: ConversationStore, interval: float = 0.05, since: int | None = None
    ) -> None:
        __tracebackhide__ = True  # of half a poller no page has anything to show
        if not (hasattr(store, "changes") and hasattr(store, "clock")):
            way = "open one with open_store(url)"
            if hasattr(store, "get_thread"):
                way = "make one of it with adapt_store(obj)"
            raise TypeError(f"a poller needs a ConversationStore, not {store!r}; {way}")
        self.store = store
        self.clock = store.clock
        self._interval_us = seconds_to_us(interval, "interval")
        if self._interval_us == 0:
            raise ValueError("interval must be more than 0 seconds")
        if since is not None:
            since = values.count(since, "since", least=0)
        self._follower = Follower(store, interval_us=self._interval_us, since=since)
        self._own: OwnThread | None = None
        self._own_changes = threading.RLock()

    # -- tracking

    def track(
        self,
        message: MessageLike,
        *,
        on_status: Callback | None = None,
        on_content: Callback | None = None,
        on_complete: Callback | None = None,
        on_failed: Callback | None = None,
        on_timeout: Callback | None = None,
        on_cancelled: Callback | None = None,
        on_event: Callback | None = None,
    ) -> StatusTracker:
        """Follow a message, also one that does not exist yet.

        Its history so far is replayed, callbacks included. Tracking it again gives the same
        tracker; the callbacks are added, and get its history too. Of one event the callbacks run
        in the order on_content, on_status, on_<status>, on_event.
        """
        message_id = values.message_id_of(message)
        callbacks = Callbacks(
            on_content=on_content,
            on_status=on_status,
            on_event=on_event,
            by_status={
                MessageStatus.COMPLETE: on_complete,
                MessageStatus.FAILED: on_failed,
                MessageStatus.TIMEOUT: on_timeout,
                MessageStatus.CANCELLED: on_cancelled,
            },
        )
        return self._follower.track(message_id, callbacks)

    @property
    def cursor(self) -> int:
        """Up to this revision all is done: read, and every callback has returned.

        To go on after a restart, keep it and pass it as ``since``. While the history of a newly
        tracked message is being told it goes back to before what has not been told yet.
        """
        return self._follower.cursor

    @property
    def polls(self) -> int:
        """How often it has looked."""
        return self._follower.polls

    # -- polling

    def poll_once(self) -> list[Event]:
        """Look once: deliver what is new, queue callbacks, settle deadlines that have come.

        Returns the new events of all tracked messages, in the order of their revisions. Raises
        StoreError; nothing is lost then, the next call goes on where this one stopped.
        """
        return self._follower.look()

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the callbacks queued so far have run.

        Raises TimeoutError after ``timeout`` seconds, RuntimeError inside a callback.
        """
        self._follower.refuse_after_fork()
        if not self._follower.dispatcher.flush(timeout):
            raise TimeoutError(f"callbacks were still running after {timeout:g} s")

    # -- waiting

    def wait(self, message: MessageLike, timeout: float | None = None) -> StatusTracker:
        """Wait until a message is terminal, failed and timed out included; return its tracker.

        ``timeout`` (seconds) is the watcher's patience: when it ends, WaitTimeout is raised and
        the message left alone. None waits for ever. Also raises HistoryGone and what else
        StoreError the store does not recover from.
        """
        __tracebackhide__ = True
        return self._run(self._waiting(_one(message, "wait_all(…)"), _Ends.all, timeout))[0]

    def wait_all(
        self, messages: Iterable[MessageLike], timeout: float | None = None
    ) -> list[StatusTracker]:
        """Wait until all are terminal; returns their trackers in the order given."""
        __tracebackhide__ = True
        return self._run(self._waiting(messages, _Ends.all, timeout))

    def wait_any(
        self, messages: Iterable[MessageLike], timeout: float | None = None
    ) -> StatusTracker:
        """Wait until one is terminal; returns the tracker of the first by revision.

        Raises ValueError if there is none to wait for.
        """
        __tracebackhide__ = True
        return _first_to_end(self._run(self._waiting(messages, _Ends.any, timeout)))

    def watch(self, message: MessageLike, timeout: float | None = None) -> Iterator[Event]:
        """Each event of a message, its history first, ending after the terminal one.

        ``timeout`` (seconds) is the patience for all of it; then WaitTimeout is raised.
        """
        (tracker,), patience = self._run(self._beginning(_one(message), timeout))
        return self._watch(tracker, patience)

    def _watch(self, tracker: StatusTracker, patience: Patience) -> Iterator[Event]:
        seen = 0
        while True:
            for event in tracker.events(seen):
                seen += 1
                yield event
                if event.status.is_terminal:
                    return
            self._run(self._until(partial(_has_more, tracker, seen), [tracker], patience))

    async def wait_async(self, message: MessageLike, timeout: float | None = None) -> StatusTracker:
        """As ``wait``, without holding up the event loop meanwhile. Looking at the store is done
        in the loop's thread; it takes well under a millisecond unless the store is busy."""
        return (
            await self._run_async(
                self._waiting(_one(message, "wait_all_async(…)"), _Ends.all, timeout)
            )
        )[0]

    async def wait_all_async(
        self, messages: Iterable[MessageLike], timeout: float | None = None
    ) -> list[StatusTracker]:
        """As ``wait_all``, for asyncio."""
        return await self._run_async(self._waiting(messages, _Ends.all, timeout))

    async def wait_any_async(
        self, messages: Iterable[MessageLike], timeout: float | None = None
    ) -> StatusTracker:
        """As ``wait_any``, for asyncio."""
        return _first_to_end(await self._run_async(self._waiting(messages, _Ends.any, timeout)))

    async def watch_async(
        self, message: MessageLike, timeout: float | None = None
    ) -> AsyncIterator[Event]:
        """As ``watch``, for asyncio: ``async for event in poller.watch_async(message)``."""
        (tracker,), patience = await self._run_async(self._beginning(_one(message), timeout))
        seen = 0
        while True:
            for event in tracker.events(seen):
                seen += 1
                yield event
                if event.status.is_terminal:
                    return
            more = partial(_has_more, tracker, seen)
            await self._run_async(self._until(more, [tracker], patience))

    # Waiting is written once, as steps that yield whenever there is nothing to do but wait;
    # ``_run`` then waits by blocking, ``_run_async`` by awaiting.

    def _waiting(
        self, messages: Iterable[MessageLike], ends: _Ends, timeout: float | None
    ) -> Steps[list[StatusTracker]]:
        def steps(wakeup: Signal) -> Running[list[StatusTracker]]:
            __tracebackhide__ = True
            trackers, patience = yield from self._beginning(messages, timeout)(wakeup)
            if ends is _Ends.all:
                yield from self._until(self._all_ended(trackers), trackers, patience)(wakeup)
                return trackers
            ended: list[StatusTracker] = []
            done = self._any_ended(trackers, ended)
            yield from self._until(done, trackers, patience)(wakeup)
            return ended

        return steps

    def _beginning(
        self, messages: Iterable[MessageLike], timeout: float | None
    ) -> Steps[tuple[list[StatusTracker], Patience]]:
        if isinstance(messages, (str, Mapping, Message)):
            raise TypeError(f"expected several messages, not one: {messages!r}")
        ids = [values.message_id_of(message) for message in messages]
        patience = Patience.starting(self.clock, timeout)

        def steps(_: Signal) -> Running[tuple[list[StatusTracker], Patience]]:
            __tracebackhide__ = True
            trackers = []
            for message_id in ids:
                while (tracker := self._track_if_readable(message_id, patience)) is None:
                    span_us = patience.span_us(self.clock, self._interval_us)
                    yield Park(span_us, "a store in trouble")
                trackers.append(tracker)
            return trackers, patience

        return steps

    def _track_if_readable(self, message_id: str, patience: Patience) -> StatusTracker | None:
        over = patience.is_over(self.clock)
        try:
            return self.track(message_id)
        except StoreError as error:
            if over:
                raise
            self._follower.survive(error)
            return None

    def _until(
        self, done: Callable[[], bool], trackers: list[StatusTracker], patience: Patience
    ) -> Steps[None]:
        follower = self._follower

        def steps(wakeup: Signal) -> Running[None]:
            __tracebackhide__ = True
            woken = False
            while True:
                over = patience.is_over(self.clock, instant_over=not woken)
                follower.look_patiently(wakeup, instant_over=over or not woken)
                with follower.lock:  # else another's look could come between these two
                    if done():
                        return
                    if over:
                        raise wait_timeout(self.store, trackers, patience.seconds, self._state())
                woken = yield Park(follower.span_us(patience.end_us), partial(awaited, trackers))

        return steps

    def _all_ended(self, trackers: list[StatusTracker]) -> Callable[[], bool]:
        open_trackers = list(trackers)

        def done() -> bool:
            # What has ended is not looked at again: 10,000 messages cost 10,000 looks in all.
            while open_trackers and open_trackers[-1].is_terminal:
                open_trackers.pop()
            return not open_trackers

        return done

    def _any_ended(
        self, trackers: list[StatusTracker], ended: list[StatusTracker]
    ) -> Callable[[], bool]:
        if not trackers:
            raise ValueError("wait_any() needs at least one message to wait for")
        looked = -1

        def done() -> bool:
            nonlocal looked
            if looked != self._follower.endings:  # else a look at each costs by what is watched
                looked = self._follower.endings
                ended[:] = [tracker for tracker in trackers if tracker.is_terminal]
            return bool(ended)

        return done

    def _run(self, steps: Steps[T]) -> T:
        __tracebackhide__ = True
        wakeup = self.clock.wakeup(polls=True)
        try:
            # Heard before it is read: a commit between the look and the wait ends the wait.
            self._follower.listen(wakeup)
            return drive(steps(wakeup), wakeup, self._interval_us, notified=self._follower.notified)
        finally:
            self._follower.forget(wakeup)

    async def _run_async(self, steps: Steps[T]) -> T:
        wakeup = self.clock.async_wakeup(polls=True)
        try:
            self._follower.listen(wakeup)
            return await drive_async(
                steps(wakeup), wakeup, self._interval_us, notified=self._follower.notified
            )
        finally:
            self._follower.forget(wakeup)

    # -- a thread of its own

    def start(self) -> None:
        """Begin to poll on a thread of its own; RuntimeError if it does already."""
        own = OwnThread(self._follower)
        try:
            self._start(own)
        except BaseException:
            self._abandon(own)
            raise

    def _start(self, own: OwnThread) -> None:
        with self._own_changes:
            if self._own is not None and self._own.goes_on:
                raise RuntimeError("this poller is running already")
            self._own = own
        self._follower.revive()
        own.start()

    def _abandon(self, own: OwnThread) -> None:
        own.end()
        with self._own_changes:
            if self._own is own:
                self._own = None

    def stop(self) -> None:
        """End that thread. Events that it has not delivered stay for the next poll."""
        own = self._own
        if own is None:
            return
        own.ending = True  # before any call, so that an interrupt of this one leaves none running
        if not self._follower.is_inherited:
            self._abandon(own)
            own.join()

    def __enter__(self) -> MessagePoller:
        own = OwnThread(self._follower)
        try:
            self._start(own)
            return self
        except BaseException:  # no block is entered, so none would end it
            self._abandon(own)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        except ClockDeadlock:  # the clock has stopped; the error that stopped it is on its way
            if error is None:
                raise
        if error is not None:
            return
        follower = self._follower
        if follower.fatal is None:
            self._poll_until_read()
            self.flush(_EXIT_PATIENCE)
        elif not follower.fatal_seen:
            follower.raise_fatal()

    def _poll_until_read(self) -> None:
        """What was committed before the block ended is delivered, also if the store is busy."""
        self._follower.look_patiently()
        while self._follower.in_trouble:
            self.clock.sleep(self._interval_us / SECOND)
            self._follower.look_patiently()

    def _state(self) -> PollerState:
        return PollerState(self.polls, self.cursor, in_trouble=self._follower.in_trouble)

    def __repr__(self) -> str:
        return f"<MessagePoller of {self.store.url}, {len(self._follower):,} tracked>"


class _Ends(Enum):
    """How many of the messages have to end."""

    all = auto()
    any = auto()


def _one(message: object, of_several: str = "a watch of each") -> list[MessageLike]:
    if isinstance(message, (list, tuple, set, frozenset)):
        raise TypeError(
            "a message is a Message, its id or a dict with 'message_id', not a "
            f"{type(message).__name__} of {len(message):,}; what takes several is {of_several}"
        )
    return [cast("MessageLike", message)]


def _first_to_end(ended: list[StatusTracker]) -> StatusTracker:
    return min(ended, key=lambda tracker: tracker.ended_at_revision or 0)


def _has_more(tracker: StatusTracker, seen: int) -> bool:
    return tracker.changes > seen


def poll_message_until_complete(
    store: ConversationStore, message: MessageLike, timeout: float | None = None
) -> Message:
    """Wait until a message is terminal and return it; see :meth:`MessagePoller.wait`."""
    tracker = MessagePoller(store).wait(message, timeout)
    return store.get_message(tracker.message_id)
