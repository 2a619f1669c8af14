"""Watches a store: who changed, whom to tell, and waiting for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from . import resources
from .clock import SECOND, Handle, Wakeup, Why, seconds_to_us
from .dispatch import Callback, Callbacks, Dispatcher
from .errors import ClockDeadlock, StoreError
from .status import MessageStatus
from .stores import values
from .stores.base import MessageLike
from .tracking import Event, StatusTracker
from .wait_page import PollerState, awaited, wait_timeout

if TYPE_CHECKING:
    from .records import Message
    from .stores.base import ConversationStore

_PAGE = 1_000
"""Changes read at a time: a poller that starts far behind does not load all there ever was."""
_TOLERANCE_US = 60 * SECOND
"""For how long a waiting poller goes on with a store that answers with nothing but trouble."""
_EXIT_PATIENCE = 30.0


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
        self._events: list[Event] = []
        """Folded, and not yet returned by ``poll_once``: an error in between loses none."""
        self._endings = 0
        """Raised by each event that leaves a message terminal."""
        self._deadline_us: int | None = None
        self._deadline_known = False
        self._wakeups: dict[Wakeup, None] = {}
        """In order, as a set is not: on a fake clock it decides who runs first."""
        self._trouble_since_us: int | None = None
        self._fatal: StoreError | None = None
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
                self._callbacks.setdefault(message_id, []).append(callbacks)
                for event in tracker.events():
                    if event.revision > self._told:
                        self._queue(event, callbacks)
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
            events, self._events = self._events, []
        return events

    def _poll(self, mine: Wakeup | None = None) -> None:
        self.polls += 1
        before = len(self._events)
        try:
            self._read_changes()
            # A deadline that comes while we settle is for the next poll: one round is enough.
            if self._settle_deadlines():
                self._read_changes()
                self._learn_deadline()  # to know how long to wait, also where nobody notifies
        finally:
            if len(self._events) > before:
                for wakeup in list(self._wakeups):
                    if wakeup is not mine:
                        wakeup.set()

    def _read_changes(self) -> None:
        while True:
            changes = self.store.changes(self._read, limit=_PAGE)
            for change in changes:
                tracker = self._trackers.get(change.message_id)
                event = None if tracker is None else tracker.apply(change)
                if event is not None:
                    self._events.append(event)
                    self._endings += event.status.is_terminal
                    for callbacks in self._callbacks.get(event.message_id, ()):
                        self._queue(event, callbacks)
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

    def _queue(self, event: Event, callbacks: Callbacks) -> None:
        chosen = callbacks.of(event)
        if chosen:
            self._dispatcher.queue(event, chosen)

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
        trackers, end_us = self._begin([message], timeout)
        self._wait_until(lambda: trackers[0].is_terminal, trackers, timeout, end_us)
        return trackers[0]

    def wait_all(
        self, messages: Iterable[MessageLike], timeout: float | None = None
    ) -> list[StatusTracker]:
        """Wait until all are terminal; returns their trackers in the order given."""
        __tracebackhide__ = True
        trackers, end_us = self._begin(messages, timeout)
        open_trackers = list(trackers)

        def done() -> bool:
            # What has ended is not looked at again: 10,000 messages cost 10,000 looks in all.
            while open_trackers and open_trackers[-1].is_terminal:
                open_trackers.pop()
            return not open_trackers

        self._wait_until(done, trackers, timeout, end_us)
        return trackers

    def wait_any(
        self, messages: Iterable[MessageLike], timeout: float | None = None
    ) -> StatusTracker:
        """Wait until one is terminal; returns the tracker of the first by revision.

        Raises ValueError if there is none to wait for.
        """
        __tracebackhide__ = True
        trackers, end_us = self._begin(messages, timeout)
        if not trackers:
            raise ValueError("wait_any() needs at least one message to wait for")
        ended: list[StatusTracker] = []
        looked = -1

        def done() -> bool:
            nonlocal looked
            if looked != self._endings:  # else a look at each would cost by what is watched
                looked = self._endings
                ended[:] = [tracker for tracker in trackers if tracker.is_terminal]
            return bool(ended)

        self._wait_until(done, trackers, timeout, end_us)
        return min(ended, key=lambda tracker: tracker.ended_at_revision or 0)

    def watch(self, message: MessageLike, timeout: float | None = None) -> Iterator[Event]:
        """Each event of a message, its history first, ending after the terminal one.

        ``timeout`` (seconds) is the patience for all of it; then WaitTimeout is raised.
        """
        trackers, end_us = self._begin([message], timeout)
        return self._watch(trackers, timeout, end_us)

    def _watch(
        self, trackers: list[StatusTracker], timeout: float | None, end_us: int | None
    ) -> Iterator[Event]:
        tracker = trackers[0]
        seen = 0
        while True:
            for event in tracker.events(seen):
                seen += 1
                yield event
                if event.status.is_terminal:
                    return
            self._wait_until(partial(_has_more, tracker, seen), trackers, timeout, end_us)

    def _begin(
        self, messages: Iterable[MessageLike], timeout: float | None
    ) -> tuple[list[StatusTracker], int | None]:
        """The trackers of what is waited for, and the instant at which patience ends."""
        if isinstance(messages, (str, Mapping)):
            raise TypeError(f"expected several messages, not one: {messages!r}")
        ids = [values.message_id_of(message) for message in messages]
        end_us = None
        if timeout is not None:
            end_us = self.clock.monotonic_us() + seconds_to_us(timeout, "timeout")
        return [self._track_patiently(message_id, end_us) for message_id in ids], end_us

    def _track_patiently(self, message_id: str, end_us: int | None) -> StatusTracker:
        while True:
            try:
                return self.track(message_id)
            except StoreError as error:
                if end_us is not None and self.clock.monotonic_us() >= end_us:
                    raise
                self._survive(error)
                self._pause_in_trouble()

    def _wait_until(
        self,
        done: Callable[[], bool],
        trackers: list[StatusTracker],
        timeout: float | None,
        end_us: int | None,
    ) -> None:
        __tracebackhide__ = True
        # Heard before it is read: a commit between the look and the wait ends the wait.
        wakeup, forget = self._listen()
        try:
            while True:
                over = end_us is not None and self.clock.monotonic_us() >= end_us
                self._poll_patiently(wakeup)
                if done():
                    return
                if over:
                    raise wait_timeout(self.store, trackers, timeout or 0, self._state())
                self._park(wakeup, end_us, lambda: awaited(trackers))
        finally:
            forget()

    def _listen(self) -> tuple[Wakeup, Callable[[], None]]:
        wakeup = self.clock.wakeup(polls=True)
        unsubscribe = self.store.subscribe(wakeup.set)
        self._wakeups[wakeup] = None

        def forget() -> None:
            unsubscribe()
            del self._wakeups[wakeup]

        return wakeup, forget

    def _park(self, wakeup: Wakeup, end_us: int | None, why: Why) -> None:
        """Wait for a commit, the next deadline, the end of patience or the next beat."""
        spans = []
        if end_us is not None:
            spans.append(end_us - self.clock.monotonic_us())
        if self._trouble_since_us is not None:
            # What ends a store's trouble is not signalled: then even a fake clock has to look.
            spans.append(self._interval_us)
        if self._deadline_us is not None and self._deadline_known:
            spans.append(self._deadline_us - self.clock.now_us())
        wakeup.wait(
            max(0, min(spans)) if spans else None,
            why=why,
            beat_us=self._interval_us,
            notified=getattr(self.store, "notifies", True),
        )

    def _pause_in_trouble(self) -> None:
        self.clock.wakeup(polls=True).wait(
            self._interval_us, why="a store in trouble", beat_us=self._interval_us
        )

    def _poll_patiently(self, mine: Wakeup | None) -> None:
        """Poll, and survive a store that is busy or unreadable for a while."""
        try:
            with self._lock:
                self._raise_fatal()
                self._poll(mine)
                self._events.clear()  # trackers and callbacks have them
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
        self._runner_wakeup, forget = self._listen()
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
                self._park(wakeup, None, "a commit (it polls)")
        except StoreError as error:
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


def _has_more(tracker: StatusTracker, seen: int) -> bool:
    return tracker.changes > seen


def poll_message_until_complete(
    store: ConversationStore, message: MessageLike, timeout: float | None = None
) -> Message:
    """Wait until a message is terminal and return it; see :meth:`MessagePoller.wait`."""
    tracker = MessagePoller(store).wait(message, timeout)
    return store.get_message(tracker.message_id)
