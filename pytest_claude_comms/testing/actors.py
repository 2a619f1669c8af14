"""Who takes turns on a fake clock, and in which order at one instant."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from ..clock import SECOND, Why

if TYPE_CHECKING:
    from .timers import Timer

ORDINARY, POLLS, SETTLED = range(3)
"""At one instant come first the actors that may write, then those that look at a store, and last
the test inside ``advance``, which finds all settled."""


class Real:
    """Real time, out of the reach of freezegun, which looks through module globals."""

    monotonic = time.monotonic
    sleep = time.sleep
    lock = staticmethod(threading.Lock)
    rlock = staticmethod(threading.RLock)
    """Locks that no exploration replaces."""


class Killed(BaseException):
    """Unwinds an actor whose clock is closed. Not an Exception: user code must not catch it."""


class Actor:
    """Somebody who takes turns: the test, or a function on a thread of its own."""

    def __init__(self, name: str, run: Callable[[], object] | None = None) -> None:
        self.name = name
        self.run = run
        self.thread: threading.Thread | None = None
        self.gate = Real.lock()
        """Released so that it looks whether it has the turn."""
        self.gate.acquire()
        self._claimed = Real.lock()
        self.order = ORDINARY
        self.why: Why = ""
        self.details: Callable[[], list[str]] | None = None
        """Lines that say more, while it is parked: of an event loop, what its tasks wait for."""
        self.since_us = 0
        self.parked = False
        self.done = False
        self.killed = False
        """Whether it was told that its clock is closed: what it does since is to clean up."""
        self.woken = False
        self.beats = False
        self.beaten = False
        """Whether it has its next turn only to look again."""
        self.spins = False
        """Whether what it waits for is only that others have their turn at this instant."""
        self._spun = self._spun_at_us = 0
        self.steps_to_clean_up = 10_000
        """Of an event loop whose clock is closed: so often it may go on with nothing to do."""
        self.last_turn = 0
        """Which one of all turns it was, or was the last when it was enrolled."""
        self.timers: list[Timer] = []
        self.error: BaseException | None = None
        self.joiners: list[Actor] = []

    @property
    def begun(self) -> bool:
        """Whether a thread runs it, or ran it."""
        return self._claimed.locked()

    def claim(self) -> bool:
        """Whether the calling thread is the one to run it: after a start that was interrupted
        there may be two of them."""
        if not self._claimed.acquire(blocking=False):
            return False
        self.thread = threading.current_thread()
        return True

    def open_gate(self) -> None:
        """Let it look whether it has the turn, unless it is to look already."""
        with suppress(RuntimeError):
            self.gate.release()

    def join(self, timeout: float) -> None:
        """Wait for its end, in real time."""
        if self.thread is not None:
            self.thread.join(timeout)

    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self.thread is not None and self.thread.is_alive()

    def spin(self, now_us: int) -> None:
        """Count a turn at an instant for which it had waited only that others had theirs."""
        self._spun, self._spun_at_us = self.spins_at(now_us) + 1, now_us

    def spins_at(self, now_us: int) -> int:
        """How many were counted at this instant."""
        return self._spun if self._spun_at_us == now_us else 0

    def lines(self) -> list[str]:
        """What it does or waits for, for a person who has room for all of it."""
        details = self.details
        return [self.line(), *(f"    {each}" for each in (details() if details else ()))]

    def line(self) -> str:
        """What it does or waits for, for a person."""
        if self.parked:
            why = self.why if isinstance(self.why, str) else self.why()
            return f"  {self.name} waits for {why} since +{self.since_us / SECOND:g} s"
        return f"  {self.name} {'runs' if self.thread is not None else 'has not begun'}"


def run_deep(depth: int, body: Callable[[Actor], None], actor: Actor) -> None:
    """Call ``body`` under ``depth`` frames: freezegun gives real time to whom it finds within
    five frames of the threading module."""
    if depth:
        run_deep(depth - 1, body, actor)
    else:
        body(actor)
