"""Ends a test that blocks outside the clock while it has the turn.

The test's thread can wait for another actor and see that it is stuck; for the test itself
nobody waits. So a thread looks after it, and interrupts a blocking call by a signal: SIGURG,
which nothing else uses and which does nothing where nobody asked for it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from ..errors import ClockDeadlock
from .actors import Real
from .scheduler import Scheduler

_SIGNAL = getattr(signal, "SIGURG", None)


class Watchdog:
    """Looks after the test's thread while other actors wait for it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._page: tuple[int, str] | None = None
        """What it says, and at which turn."""
        self._before: Any = None
        self.armed = True
        """Off while others than the test have the thread: fixtures of others, reports."""

    def start(self) -> None:
        """Begin, if this is Python's main thread on a system with such signals; once."""
        if self._thread is not None or _SIGNAL is None:
            return
        if threading.current_thread() is not threading.main_thread():
            return
        self._before = signal.getsignal(_SIGNAL)
        self._thread = threading.Thread(
            target=self._watch, name="claude-comms watchdog", daemon=True
        )
        signal.signal(_SIGNAL, self._interrupt)
        self._thread.start()

    def stop(self) -> None:
        """End, however ``start`` or an earlier ``stop`` was interrupted."""
        if self._thread is not None and _SIGNAL is not None:
            self._stop.set()
            try:
                if self._thread.ident is not None:
                    self._thread.join()
            finally:
                # None: it was set by other means than Python's and cannot be put back.
                signal.signal(_SIGNAL, signal.SIG_DFL if self._before is None else self._before)
                self._thread = None

    @staticmethod
    def pause_all(*, paused: bool) -> None:
        """A person is in a debugger, and being stuck is fine; or is not any more."""
        Scheduler.paused = paused

    def _watch(self) -> None:
        scheduler = self._scheduler
        seen, since = scheduler.turns, Real.monotonic()
        while not self._stop.wait(min(scheduler.watchdog / 4, 1.0)):
            waited_for = scheduler.holder is scheduler.test and scheduler.awaited and self.armed
            if scheduler.turns != seen or not waited_for or scheduler.paused:
                seen, since = scheduler.turns, Real.monotonic()
            elif Real.monotonic() - since >= scheduler.watchdog:
                self._page = scheduler.turns, scheduler.stuck_page()
                since = Real.monotonic()
                assert _SIGNAL is not None
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        page, self._page = self._page, None
        # Meanwhile the test may have come back by itself.
        if page is not None and self.armed and page[0] == self._scheduler.turns:
            raise ClockDeadlock(page[1])
