"""Runs callbacks away from the poller, so that none of them can hold it up."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeAlias

from .clock import Clock, Wakeup, seconds_to_us
from .status import MessageStatus
from .tracking import Event

Callback: TypeAlias = Callable[[Event], object]

MOST_THREADS = 8
_RETRY_US = 50_000
"""How soon to ask again for a thread that the system would not give."""


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    number: int
    event: Event
    callbacks: tuple[tuple[str, Callback], ...]


class Dispatcher:
    """A small pool of threads, started on demand, that end when there is nothing left to do.

    The callbacks of one tracker run one after another, in the order in which they were queued;
    those of different trackers side by side while a thread is free.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._queues: dict[str, deque[_Job]] = {}
        """By message id. A queue is there as long as a job of it waits or runs."""
        self._turns: deque[str] = deque()
        """The message ids whose next job may start."""
        self._threads: set[int] = set()
        self._starting: set[object] = set()
        """Threads that were asked for and do not run yet."""
        self._numbers = count()
        self._unfinished: set[int] = set()
        """The numbers of the jobs that wait or run."""
        self._oldest: list[tuple[int, int]] = []
        """A heap of (revision, number of the job); those that have ended are dropped when they
        come to the front."""
        self._flushers: dict[Wakeup, None] = {}
        """In order, as a set is not: on a fake clock it decides who runs first."""

    def queue(self, event: Event, callbacks: Callbacks) -> None:
        """Have those of ``callbacks`` that are for ``event`` called with it, and count it as told:
        both or, at an interrupt, neither."""
        told, chosen = callbacks.told, callbacks.of(event)
        if not chosen:
            callbacks.told += 1
            return
        job = _Job(next(self._numbers), event, chosen)
        with self._lock:
            try:
                self._add(job)
                callbacks.told += 1
            except BaseException:
                callbacks.told = told
                self._take_back(job)
                raise
        self.nudge()

    def _add(self, job: _Job) -> None:
        key = job.event.message_id
        heapq.heappush(self._oldest, (job.event.revision, job.number))
        self._unfinished.add(job.number)
        waiting = self._queues.setdefault(key, deque())
        waiting.append(job)
        if len(waiting) == 1:
            self._turns.append(key)

    def _take_back(self, job: _Job) -> None:
        """Undo as much of ``_add`` as was done."""
        key = job.event.message_id
        self._unfinished.discard(job.number)
        waiting = self._queues.get(key)
        if waiting and waiting[-1] is job:
            waiting.pop()
        if not waiting:
            self._queues.pop(key, None)
            if self._turns and self._turns[-1] == key:
                self._turns.pop()

    def nudge(self) -> bool:
        """See to it that somebody runs what is queued; False if no thread can be had now.

        A thread that cannot be started (the system has a limit) is asked for again with the
        next event, poll or flush; nothing is lost meanwhile.
        """
        start = object()
        try:
            with self._lock:
                working = len(self._threads) + len(self._starting)
                if not self._turns or working >= MOST_THREADS:
                    return True
                self._starting.add(start)
            self._clock.spawn(self.run_callbacks, start)
        except RuntimeError:
            self._give_up(start)
            return False
        except BaseException:  # of an interrupt nobody knows whether the thread runs by now
            self._give_up(start)
            raise
        return True

    def _give_up(self, start: object) -> None:
        with self._lock:
            self._starting.discard(start)

    def oldest(self) -> int | None:
        """The lowest revision with a callback that has not returned yet; None if all have."""
        with self._lock:
            self._drop_ended()
            return self._oldest[0][0] if self._oldest else None

    def _drop_ended(self) -> None:
        while self._oldest and self._oldest[0][1] not in self._unfinished:
            heapq.heappop(self._oldest)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that is queued now has run; False if ``timeout`` seconds pass before.

        Raises RuntimeError in a callback: it would wait for itself.
        """
        if threading.get_ident() in self._threads:
            raise RuntimeError("flush() in a callback would wait for that callback itself")
        timeout_us = None if timeout is None else seconds_to_us(timeout, "timeout")
        end_us = None if timeout_us is None else self._clock.monotonic_us() + timeout_us
        wakeup = self._clock.wakeup()
        try:
            with self._lock:
                waiting_for = set(self._unfinished)
                self._flushers[wakeup] = None
            while True:
                with self._lock:
                    waiting_for &= self._unfinished
                if not waiting_for:
                    return True
                left_us = None if end_us is None else end_us - self._clock.monotonic_us()
                if left_us is not None and left_us <= 0:
                    return False
                if not self.nudge():
                    left_us = min(left_us or _RETRY_US, _RETRY_US)
                wakeup.wait(left_us, why=f"{len(waiting_for)} callbacks to end")
        finally:
            with self._lock:
                self._flushers.pop(wakeup, None)

    def run_callbacks(self, start: object) -> None:
        """What each thread of the pool does, the one that was asked for by ``start``."""
        me = threading.get_ident()
        with self._lock:
            self._starting.discard(start)
            self._threads.add(me)
        try:
            while True:
                with self._lock:
                    if not self._turns:
                        # Under the lock, so that nobody counts on a thread that is leaving.
                        self._threads.discard(me)
                        return
                    key = self._turns.popleft()
                    job = self._queues[key][0]
                try:
                    self._run(job)
                finally:
                    self._finish(key, job)
        except BaseException:
            with self._lock:
                self._threads.discard(me)
            raise

    def _run(self, job: _Job) -> None:
        for name, callback in job.callbacks:
            try:
                callback(job.event)
            except BaseException as error:  # noqa: BLE001 - pytest.fail() is no Exception
                self._clock.unhandled(
                    error,
                    f"{name} of message {job.event.message_id!r} at revision {job.event.revision}",
                )

    def _finish(self, key: str, job: _Job) -> None:
        with self._lock:
            self._unfinished.discard(job.number)
            self._drop_ended()  # here too: it may be that nobody asks for the oldest
            waiting = self._queues[key]
            waiting.popleft()
            if waiting:
                self._turns.append(key)
            else:
                del self._queues[key]
            flushers = list(self._flushers)
        for wakeup in flushers:
            wakeup.set()


class Callbacks:
    """What one call of ``track`` asked to be told."""

    def __init__(
        self,
        *,
        on_content: Callback | None,
        on_status: Callback | None,
        on_event: Callback | None,
        by_status: dict[MessageStatus, Callback | None],
    ) -> None:
        named = {
            "on_content": on_content,
            "on_status": on_status,
            "on_event": on_event,
            **{f"on_{status}": callback for status, callback in by_status.items()},
        }
        for name, callback in named.items():
            if callback is not None and not callable(callback):
                raise TypeError(f"{name} must be callable, not {callback!r}")
        self._named = {name: callback for name, callback in named.items() if callback is not None}
        self.told = 0
        """How many changes of the message these have been queued for."""

    def __bool__(self) -> bool:
        return bool(self._named)

    def of(self, event: Event) -> tuple[tuple[str, Callback], ...]:
        """Those for an event, in their order."""
        names = []
        if event.changes_content:
            names.append("on_content")
        if event.changes_status:
            names += ["on_status", f"on_{event.status}"]
        names.append("on_event")
        return tuple((name, self._named[name]) for name in names if name in self._named)
