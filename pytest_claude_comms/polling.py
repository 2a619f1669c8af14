"""Watches a store: who changed, whom to tell, and waiting for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from . import resources
from .clock import SECOND, Handle, Signal, Wakeup, seconds_to_us
from .dispatch import Callback, Callbacks, Dispatcher
from .errors import ClockDeadlock, StoreError
from .status import MessageStatus
from .stores import values
from .stores.base import MessageLike
from .tracking import Event, StatusTracker
from .wait_page import PollerState, awaited, wait_timeout
from .waiting import Park, Patience, Running, Steps, drive, drive_async

if TYPE_CHECKING:
    from .records import Message
    from .stores.base import ConversationStore

_PAGE = 1_000
"""Changes read at a time: a poller that starts far behind does not load all there ever was."""
_TOLERANCE_US = 60 * SECOND
"""For how long a waiting poller goes on with a store that answers with nothing but trouble."""
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
        if not (hasattr(store, "changes") and hasattr(store, "clock")):
            raise TypeError(
                f"a poller needs a ConversationStore, not {store!r}; open one with open_store(url)"
            )
        self.store = store
        self.clock = store.clock
        self._interval_us = seconds_to_us(interval, "interval")
        if self._interval_us == 0:
            raise ValueError("interval must be more than 0 seconds")
        self._told = 0 if since is None else values.count(since, "since", least=0)
        if since is not None:
            store.changes(since, limit=1)  # HistoryGone now, rather than silence later
        self._read = store.cursor() if since is None else since
        self._lock = self.clock.lock()
        self._dispatcher = Dispatcher(self.clock)
        self._trackers: dict[str, StatusTracker] = {}
        self._callbacks: dict[str, list[Callbacks]] = {}
        self._fresh: dict[str, int] = {}
        """By message, from which of its changes on ``poll_once`` has not returned them."""
        self._undelivered: dict[str, None] = {}
        """The messages with changes that some callback may not be queued for."""
        self._news = False
        self._endings = 0
        """At least how many tracked messages have ended."""
        self._deadline_us: int | None = None
        self._deadline_known = False
        self._wakeups: dict[Signal, None] = {}
        """In order, as a set is not: on a fake clock it decides who runs first."""
        self._trouble_since_us: int | None = None
        self._fatal: Exception | None = None
        self._fatal_seen = False
        self._runner: Handle | None = None
        self._runner_wakeup: Wakeup | None = None
        self._stopping = False
        self.polls = 0
        """How often it has looked."""

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
        with self._lock:
            tracker = self._trackers.get(message_id)
            if tracker is None:
                tracker = StatusTracker(message_id)
                # All that comes after this read is also after what the next poll starts from.
                for change in self.store.changes(0, message=message_id):
                    tracker.apply(change)
                self._trackers[message_id] = tracker
            if callbacks:
                callbacks.told = sum(c.revision <= self._told for c in tracker.history)
                self._callbacks.setdefault(message_id, []).append(callbacks)
                self._deliver(tracker)
        return tracker

    @property
    def cursor(self) -> int:
        """Up to this revision all is done: read, and every callback has returned.

        To go on after a restart, keep it and pass it as ``since``. While the history of a newly
        tracked message is being told it goes back to before what has not been told yet.
        """
        # In this order: what was read by now has been queued by now.
        read = self._read
        oldest = self._dispatcher.oldest()
        return read if oldest is None else min(read, oldest - 1)

    # -- polling

    def poll_once(self) -> list[Event]:
        """Look once: deliver what is new, queue callbacks, settle deadlines that have come.

        Returns the new events of all tracked messages, in the order of their revisions. Raises
        StoreError; nothing is lost then, the next call goes on where this one stopped.
        """
        with self._lock:
            self._poll()
            fresh = [(self._trackers[message_id], at) for message_id, at in self._fresh.items()]
            events = [event for tracker, at in fresh for event in tracker.events(at)]
            self._fresh.clear()
        return sorted(events, key=lambda event: event.revision)

    def _poll(self, mine: Signal | None = None) -> None:
        self.polls += 1
        self._news = False
        self._dispatcher.nudge()
        for message_id in list(self._undelivered):
            self._deliver(self._trackers[message_id])
        try:
            self._read_changes()
            # A deadline that comes while we settle is for the next poll: one round is enough.
            if self._settle_deadlines():
                self._read_changes()
                self._learn_deadline()  # to know how long to wait, also where nobody notifies
        finally:
            if self._news:
                for wakeup in list(self._wakeups):
                    if wakeup is not mine:
                        wakeup.set()

    def _read_changes(self) -> None:
        while True:
            changes = self.store.changes(self._read, limit=_PAGE)
            for change in changes:
                tracker = self._trackers.get(change.message_id)
                if tracker is not None and change.revision > tracker.revision:
                    self._news = True
                    self._endings += change.status.is_terminal
                    # Noted before it is folded: an interrupt in between loses nothing.
                    self._fresh.setdefault(change.message_id, tracker.changes)
                    self._undelivered[change.message_id] = None
                    tracker.apply(change)
                    self._deliver(tracker)
            self._deadline_known = self._deadline_known and not changes
            self._read = changes.cursor
            if len(changes) < _PAGE:
                return

    def _learn_deadline(self) -> None:
        if not self._deadline_known:
            self._deadline_us = self.store.next_deadline_us()
            self._deadline_known = True

    def _settle_deadlines(self) -> bool:
        self._learn_deadline()
        if self._deadline_us is None or self._deadline_us > self.clock.now_us():
            return False
        self._deadline_known = False
        self.store.expire()
        return True

    def _deliver(self, tracker: StatusTracker) -> None:
        """Queue for each callback what it was not told yet."""
        for callbacks in self._callbacks.get(tracker.message_id, ()):
            for event in tracker.events(callbacks.told):
                chosen = callbacks.of(event)
                if chosen:
                    self._dispatcher.queue(event, chosen)
                callbacks.told += 1
        self._undelivered.pop(tracker.message_id, None)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until the callbacks queued so far have run.

        Raises TimeoutError after ``timeout`` seconds, RuntimeError inside a callback.
        """
        if not self._dispatcher.flush(timeout):
            raise TimeoutError(f"callbacks were still running after {timeout:g} s")

    # -- waiting

    def wait(self, message: MessageLike, timeout: float | None = None) -> StatusTracker:
        """Wait until a message is terminal, failed and timed out included; return its tracker.

        ``timeout`` (seconds) is the watcher's patience: when it ends, WaitTimeout is raised and
        the message left alone. None waits for ever. Also raises HistoryGone and what else
        StoreError the store does not recover from.
        """
        __tracebackhide__ = True
        return self._run(self._waiting([message], _Ends.all, timeout))[0]

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
        (tracker,), patience = self._run(self._beginning([message], timeout))
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
        return (await self._run_async(self._waiting([message], _Ends.all, timeout)))[0]

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
        (tracker,), patience = await self._run_async(self._beginning([message], timeout))
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
        if isinstance(messages, (str, Mapping)):
            raise TypeError(f"expected several messages, not one: {messages!r}")
        ids = [values.message_id_of(message) for message in messages]
        patience = Patience.starting(self.clock, timeout)

        def steps(_: Signal) -> Running[tuple[list[StatusTracker], Patience]]:
            __tracebackhide__ = True
            trackers = []
            for message_id in ids:
                while (tracker := self._track_if_readable(message_id, patience)) is None:
                    yield Park(self._interval_us, "a store in trouble")
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
            self._survive(error)
            return None

    def _until(
        self, done: Callable[[], bool], trackers: list[StatusTracker], patience: Patience
    ) -> Steps[None]:
        def steps(wakeup: Signal) -> Running[None]:
            __tracebackhide__ = True
            while True:
                over = patience.is_over(self.clock)
                self._poll_patiently(wakeup)
                if done():
                    return
                if over:
                    raise wait_timeout(self.store, trackers, patience.seconds, self._state())
                yield Park(self._span_us(patience.end_us), partial(awaited, trackers))

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
            if looked != self._endings:  # else a look at each would cost by what is watched
                looked = self._endings
                ended[:] = [tracker for tracker in trackers if tracker.is_terminal]
            return bool(ended)

        return done

    def _run(self, steps: Steps[T]) -> T:
        __tracebackhide__ = True
        wakeup = self.clock.wakeup(polls=True)
        # Heard before it is read: a commit between the look and the wait ends the wait.
        forget = self._listen(wakeup)
        try:
            return drive(steps(wakeup), wakeup, self._interval_us, notified=self._notified)
        finally:
            forget()

    async def _run_async(self, steps: Steps[T]) -> T:
        wakeup = self.clock.async_wakeup(polls=True)
        forget = self._listen(wakeup)
        try:
            return await drive_async(
                steps(wakeup), wakeup, self._interval_us, notified=self._notified
            )
        finally:
            forget()

    @property
    def _notified(self) -> bool:
        return getattr(self.store, "notifies", True)

    def _listen(self, wakeup: Signal) -> Callable[[], None]:
        unsubscribe = self.store.subscribe(wakeup.set)
        self._wakeups[wakeup] = None

        def forget() -> None:
            unsubscribe()
            del self._wakeups[wakeup]

        return forget

    def _span_us(self, end_us: int | None = None) -> int | None:
        """Until the next deadline, the end of patience, or the next look at a store in trouble."""
        spans = []
        if end_us is not None:
            spans.append(end_us - self.clock.monotonic_us())
        if self._trouble_since_us is not None:
            # What ends a store's trouble is not signalled: then even a fake clock has to look.
            spans.append(self._interval_us)
        if self._deadline_us is not None and self._deadline_known:
            spans.append(self._deadline_us - self.clock.now_us())
        return max(0, min(spans)) if spans else None

    def _poll_patiently(self, mine: Signal | None) -> None:
        """Poll, and survive a store that is busy or unreadable for a while."""
        try:
            with self._lock:
                self._raise_fatal()
                self._poll(mine)
                self._fresh.clear()  # trackers and callbacks have them
            self._trouble_since_us = None
        except StoreError as error:
            self._survive(error)

    def _survive(self, error: StoreError) -> None:
        now_us = self.clock.monotonic_us()
        if self._trouble_since_us is None:
            self._trouble_since_us = now_us
        if not error.transient or now_us - self._trouble_since_us > _TOLERANCE_US:
            raise error

    def _raise_fatal(self) -> None:
        if self._fatal is not None:
            self._fatal_seen = True
            raise self._fatal

    # -- a thread of its own

    def start(self) -> None:
        """Begin to poll on a thread of its own; RuntimeError if it does already."""
        if self._runner is not None:
            raise RuntimeError("this poller is running already")
        self._stopping = False
        self._runner_wakeup = self.clock.wakeup(polls=True)
        forget = self._listen(self._runner_wakeup)
        self._runner = self.clock.spawn(self.run, self._runner_wakeup, forget)
        resources.register(self)

    def stop(self) -> None:
        """End that thread. Events that it has not delivered stay for the next poll."""
        runner, self._runner = self._runner, None
        if runner is not None and self._runner_wakeup is not None:
            self._stopping = True
            self._runner_wakeup.set()
            runner.join()

    def run(self, wakeup: Wakeup, forget: Callable[[], None]) -> None:
        """What the poller's own thread does."""
        try:
            while not self._stopping:
                self._poll_patiently(wakeup)
                wakeup.wait(
                    self._span_us(),
                    why="a commit (it polls)",
                    beat_us=self._interval_us,
                    notified=self._notified,
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be silent
            # Every waiter gets it, and if there is none, whoever ends the with block.
            self._fatal = error
            for waiter in list(self._wakeups):
                waiter.set()
        finally:
            forget()

    def __enter__(self) -> MessagePoller:
        self.start()
        return self

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
        if self._fatal is not None and not self._fatal_seen:
            self._raise_fatal()
        if self._fatal is None:
            self._poll_until_read()
            self.flush(_EXIT_PATIENCE)

    def _poll_until_read(self) -> None:
        """What was committed before the block ended is delivered, also if the store is busy."""
        self._poll_patiently(None)
        while self._trouble_since_us is not None:
            self.clock.sleep(self._interval_us / SECOND)
            self._poll_patiently(None)

    def _state(self) -> PollerState:
        return PollerState(self.polls, self.cursor, in_trouble=self._trouble_since_us is not None)

    def left_open(self) -> str | None:
        """See :mod:`pytest_claude_comms.resources`."""
        if self._runner is None:
            return None
        return f"a poller of {self.store.url} is still running: use it in a with block or stop() it"

    def __repr__(self) -> str:
        return f"<MessagePoller of {self.store.url}, {len(self._trackers):,} tracked>"


class _Ends(Enum):
    """How many of the messages have to end."""

    all = auto()
    any = auto()


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
