"""Reads a store's changes into trackers: who changed, whom to tell, which deadline is next."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from . import resources
from .clock import SECOND, Handle, Signal
from .dispatch import Callbacks, Dispatcher
from .errors import StoreError
from .tracking import Event, StatusTracker

if TYPE_CHECKING:
    from .stores.base import ConversationStore

_PAGE = 1_000
"""Changes read at a time: who starts far behind does not load all there ever was."""
_TOLERANCE_US = 60 * SECOND
"""For how long to go on with a store that answers with nothing but trouble."""


class Follower:
    """What a poller knows, and how it looks: the cursor, the trackers, the callbacks to queue and
    the store's next deadline. One read of the store a poll, however many messages are tracked.

    ``since`` is as for :class:`MessagePoller`. All methods may be called from any thread.
    """

    def __init__(
        self, store: ConversationStore, *, interval_us: int, since: int | None = None
    ) -> None:
        self.store = store
        self.clock = store.clock
        self.interval_us = interval_us
        self.dispatcher = Dispatcher(self.clock)
        self.polls = 0
        """How often it has looked."""
        self.endings = 0
        """At least how many tracked messages have ended."""
        self.fatal: Exception | None = None
        """What ended the thread that polled; every waiter gets it."""
        self.fatal_seen = False
        if since is not None:
            store.changes(since, limit=1)  # HistoryGone now, rather than silence later
        self._told = 0 if since is None else since
        self._read = store.cursor() if since is None else since
        self.lock = self.clock.lock()
        """Held while somebody looks: who holds it finds all trackers as of one moment."""
        self._pid = os.getpid()
        self._trackers: dict[str, StatusTracker] = {}
        self._callbacks: dict[str, list[Callbacks]] = {}
        self._fresh: dict[str, int] = {}
        """By message, from which of its changes on ``look`` has not returned them."""
        self._undelivered: dict[str, None] = {}
        """The messages with changes that some callback may not be queued for."""
        self._news = False
        self._deadline_us: int | None = None
        self._deadline_known = False
        self._left_unsettled = False
        self._signals: dict[Signal, list[Callable[[], None]]] = {}
        """With what ends its subscription. In order, as a set is not: on a fake clock it decides
        who runs first."""
        self._trouble_since_us: int | None = None

    def __len__(self) -> int:
        return len(self._trackers)

    # -- tracking

    def track(self, message_id: str, callbacks: Callbacks | None = None) -> StatusTracker:
        """The tracker of a message, which also need not exist yet, with its history so far."""
        self.refuse_after_fork()
        with self.lock:
            tracker = self._trackers.get(message_id)
            if tracker is None:
                tracker = StatusTracker(message_id)
                # All that comes after this read is also after what the next poll starts from.
                for change in self.store.changes(0, message=message_id):
                    tracker.apply(change)
                self._trackers[message_id] = tracker
            if callbacks:
                callbacks.told = sum(c.revision <= self._told for c in tracker.history)
                # Noted before they are kept: an interrupt in between loses nothing.
                self._undelivered[message_id] = None
                self._callbacks.setdefault(message_id, []).append(callbacks)
                self._deliver(tracker)
        return tracker

    @property
    def cursor(self) -> int:
        """Up to this revision all is done: read, and every callback has returned.

        To go on after a restart, keep it and pass it as ``since``. While the history of a newly
        tracked message is being told it goes back to before what has not been told yet.
        """
        self.refuse_after_fork()
        # In this order: what was read by now has been queued by now.
        read = self._read
        oldest = self.dispatcher.oldest()
        return read if oldest is None else min(read, oldest - 1)

    # -- looking

    def look(self) -> list[Event]:
        """Look once, deadlines of this very instant included; returns the new events of all
        trackers, in the order of their revisions. Raises StoreError; nothing is lost then."""
        self.refuse_after_fork()
        with self.lock:
            self._poll(instant_over=True)
            fresh = [(self._trackers[message_id], at) for message_id, at in self._fresh.items()]
            events = [event for tracker, at in fresh for event in tracker.events(at)]
            self._fresh.clear()
        return sorted(events, key=lambda event: event.revision)

    def look_patiently(self, mine: Signal | None = None, *, instant_over: bool = True) -> None:
        """Look, and survive a store that is busy or unreadable for a while.

        ``mine`` is the signal that need not be set, being the caller's. A write at the very
        instant of a deadline still counts, so who was woken in the midst of an instant says that
        it is not over (``instant_over=False``), and comes again when it is: see ``span_us``.
        """
        self.refuse_after_fork()
        try:
            with self.lock:
                self.raise_fatal()
                self._poll(mine, instant_over=instant_over)
                self._fresh.clear()  # trackers and callbacks have them
        except StoreError as error:
            self.survive(error)

    def _poll(self, mine: Signal | None = None, *, instant_over: bool) -> None:
        self.polls += 1
        self._news = False
        self.dispatcher.nudge()
        for message_id in list(self._undelivered):
            self._deliver(self._trackers[message_id])
        try:
            self._left_unsettled = False
            self._read_changes()
            # A deadline that comes while we settle is for the next poll: one round is enough.
            if self._settle_deadlines(instant_over=instant_over):
                before = self._read, self._deadline_us
                self._read_changes()
                self._learn_deadline()  # to know how long to wait, also where nobody notifies
                self._left_unsettled = (self._read, self._deadline_us) == before
            self._trouble_since_us = None
        finally:
            if self._news:
                for signal in list(self._signals):
                    if signal is not mine:
                        signal.set()

    def _read_changes(self) -> None:
        while True:
            changes = self.store.changes(self._read, limit=_PAGE)
            for change in changes:
                tracker = self._trackers.get(change.message_id)
                if tracker is not None and change.revision > tracker.revision:
                    self._news = True
                    self.endings += change.status.is_terminal
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
        # What does not tell of its commits may also be given a deadline with no change to show it.
        if not self._deadline_known or not self.notified:
            self._deadline_us = self.store.next_deadline_us()
            self._deadline_known = True

    def _settle_deadlines(self, *, instant_over: bool) -> bool:
        self._learn_deadline()
        now_us = self.clock.now_us()
        if self._deadline_us is None or self._deadline_us > now_us - (not instant_over):
            return False
        self._deadline_known = False  # where expire fails, the next look is not due at once
        self.store.expire()
        return True

    def _deliver(self, tracker: StatusTracker) -> None:
        """Queue for each callback what it was not told yet."""
        for callbacks in self._callbacks.get(tracker.message_id, ()):
            for event in tracker.events(callbacks.told):
                self.dispatcher.queue(event, callbacks)
        self._undelivered.pop(tracker.message_id, None)

    # -- waiting

    def span_us(self, end_us: int | None = None) -> int | None:
        """How long to wait if nothing is signalled: until the next deadline, the end of patience
        (monotonic), or the next look at a store in trouble. None: for ever."""
        spans = []
        if end_us is not None:
            spans.append(end_us - self.clock.monotonic_us())
        if self._trouble_since_us is not None or self._left_unsettled:
            # What ends a store's trouble is not signalled: then even a fake clock has to look. So
            # it has where a store leaves what is due as it is: no time would ever pass.
            spans.append(self.interval_us)
        if self._deadline_us is not None and self._deadline_known and not self._left_unsettled:
            spans.append(self._deadline_us - self.clock.now_us())
        return max(0, min(spans)) if spans else None

    def listen(self, signal: Signal) -> Callable[[], None]:
        """Set ``signal`` at every commit of this process and whenever something new was read, until
        it is to ``forget`` it, or the returned function is called. An error or an interrupt may
        come when it has begun to: to be called inside a ``try`` that forgets."""
        self.refuse_after_fork()
        kept = self._signals[signal] = []
        # In one step: an interrupt in between would leave a subscription that nobody can end.
        kept.extend(map(self.store.subscribe, [signal.set]))
        return partial(self.forget, signal)

    def forget(self, signal: Signal) -> None:
        """Set ``signal`` no more. Nothing, where it is not known."""
        try:
            kept = self._signals[signal]  # no get(): after a call there may come an interrupt
        except KeyError:
            return
        try:
            for unsubscribe in kept:
                unsubscribe()
        finally:
            self._signals.pop(signal, None)

    @property
    def notified(self) -> bool:
        """Whether the store tells of every commit of this process."""
        return getattr(self.store, "notifies", True)

    # -- trouble

    def refuse_after_fork(self) -> None:
        """Raise RuntimeError in the child of a fork: another thread of the parent may have held the
        lock, and would hold it here for ever."""
        if self.is_inherited:
            raise RuntimeError(
                f"the poller of {self.store.url} was made before a fork and is used in the child: "
                "make another there, of a store that is opened there"
            )

    @property
    def is_inherited(self) -> bool:
        """Whether this is the child of a fork, and it was made in the parent."""
        return os.getpid() != self._pid

    @property
    def in_trouble(self) -> bool:
        """Whether the last look failed."""
        return self._trouble_since_us is not None

    def survive(self, error: StoreError) -> None:
        """Note an error of the store, or raise it if it does not pass or has lasted a minute."""
        now_us = self.clock.monotonic_us()
        if self._trouble_since_us is None:
            self._trouble_since_us = now_us
        if not error.transient or now_us - self._trouble_since_us > _TOLERANCE_US:
            raise error

    def die(self, error: Exception) -> None:
        """The thread that polled has ended: every waiter gets the error, now or when it looks."""
        self.fatal = error
        for signal in list(self._signals):
            signal.set()

    def revive(self) -> None:
        """Another thread will poll: what ended the last one is past."""
        self.fatal, self.fatal_seen = None, False

    def raise_fatal(self) -> None:
        """Raise what ended the thread that polled, if anything did."""
        if self.fatal is not None:
            self.fatal_seen = True
            raise self.fatal


class OwnThread:
    """A thread that looks until it is told to end. One that was told is not started again."""

    def __init__(self, follower: Follower) -> None:
        follower.refuse_after_fork()
        self._follower = follower
        self._wakeup = follower.clock.wakeup(polls=True)
        self._handle: Handle | None = None
        self.ending = False
        """Set it, and it ends as soon as it comes to look."""

    def start(self) -> None:
        """Begin."""
        resources.register(self)  # not the poller: who forgets to stop it may forget it, too
        self._follower.listen(self._wakeup)
        self._handle = self._follower.clock.spawn(self.run)

    @property
    def goes_on(self) -> bool:
        """Whether it looks, or is about to."""
        return not self.ending and (self._handle is None or self._handle.is_alive())

    def is_alive(self) -> bool:
        """Whether there is a thread, also one that is told to end."""
        return self._handle is not None and self._handle.is_alive()

    @property
    def store(self) -> ConversationStore:
        """Where it looks."""
        return self._follower.store

    def left_open(self) -> str | None:
        """See :mod:`pytest_claude_comms.resources`."""
        if self.ending or self._follower.is_inherited or not self.is_alive():
            return None
        return f"a poller of {self.store.url} is still running: use it in a with block or stop() it"

    def end(self) -> None:
        """Tell it to end. Nothing, if it has."""
        self.ending = True
        self._wakeup.set()
        if self._handle is None:  # it may never have begun, and so not forget it itself
            self._follower.forget(self._wakeup)

    def join(self) -> None:
        """Wait until it has ended."""
        if self._handle is not None:
            self._handle.join()

    def run(self) -> None:
        """What the thread does."""
        follower, wakeup, woken = self._follower, self._wakeup, False
        try:
            while not self.ending:
                follower.look_patiently(wakeup, instant_over=not woken)
                woken = wakeup.wait(
                    follower.span_us(),
                    why="a commit (it polls)",
                    beat_us=follower.interval_us,
                    notified=follower.notified,
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be silent
            # Every waiter gets it, and if there is none, whoever ends the with block.
            follower.die(error)
        finally:
            follower.forget(wakeup)
