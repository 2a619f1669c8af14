"""Each stand-in that a runner of ours has started is an actor of the fake clock, by its *part*.

A process does in real time what it does, and two of them at one instant would do it in any order.
So each has an actor on the clock that stands for it, its part. Whoever declares the process
(:class:`ClaudeProcess` when it starts or signals it, ``Call.kill``) puts the part in line for the
turn, right there, in a turn of its own: so the order of parts is the order of those turns, and
depends on nothing real. The part keeps the turn while the process comes up, takes its script,
prints, and exits; it gives it up when the process waits for time to pass and its runner has read
every byte of what it printed. Nobody else runs meanwhile, and nobody sees half of it.

The part then parks until the time that is waited for; where two wake at one instant, the one comes
first that began to wait first. The process stays declared until its output has not only been
read but handled; or, if an actor handles it, until that was told. It then has its turn before time
passes, and if it waits for time meanwhile, as for a slow store, time has to pass.

Who has no part plays when it comes, as told in :mod:`claude_time`: a process of a plain
``subprocess``, one behind a wrapper, and one that runs the real CLI to record it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Final

from ..claude.command import RUN_MARK
from ..errors import ClockDeadlock
from .actors import Killed, Real
from .claude_link import HowCalled
from .claude_time import call_at_the_end, has_runner, program_of
from .fake_clock import FakeClock

_LOOK_AGAIN: Final = 0.001
_LOOKS: Final = 10_000
"""How often it is looked whether who has started a process has declared it."""

_COMING, _ACTING, _RESTING, _OVER = range(4)


class Part:
    """The actor that stands for one process. ``rest`` and ``leave`` are for its player."""

    def __init__(self, cast: Cast, clock: FakeClock, pid: int) -> None:
        self._cast = cast
        self._clock = clock
        self._pid = pid
        self._name = f"claude (pid {pid})"
        self._mutex = threading.Lock()
        self._state = _COMING
        self._came = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._gave_up = threading.Event()
        self._wakeup = clock.wakeup()
        self._until_us: int | None = None
        self._why = ""
        self._left = False
        self._holds_on = True
        self._watched = False
        self.declared = 0
        """How often the process has been declared."""

        def play() -> None:
            self._as_actor()

        play.__qualname__ = self._name  # an actor is named after its function
        clock.spawn(play)

    @property
    def has_turn(self) -> bool:
        """Whether the process may do what others can see."""
        return self._state == _ACTING

    @property
    def is_over(self) -> bool:
        """Whether the process has no part, or not any more."""
        return self._state == _OVER

    # -- for its player

    def come(self, wake: Callable[[], None]) -> None:
        """The process has come up. ``wake`` is called when there is something new here."""
        self._wake = wake
        self._came.set()

    def rest(self, declared: int, until_us: int | None, why: str) -> bool:
        """Give up the turn until an instant, or a ``stir``; False: somebody has declared the
        process since ``declared``, so see first what has come."""
        with self._mutex:
            if self.declared != declared:
                return False
            self._until_us, self._why = until_us, why
            self._state = _RESTING
        self._gave_up.set()
        return True

    def settled(self, declared: int) -> None:
        """All that it printed has been handled, so time may pass, but if it was declared again."""
        with self._mutex:
            if self.declared == declared:
                self._clock.outside_rests(self._pid)

    def leave(self, *, alive: bool = False) -> None:
        """It is gone; ``alive``: it plays on, but when things come, as if it had no part."""
        with self._mutex:
            self._left = True
            self._holds_on = not alive
        self._gave_up.set()
        self._wakeup.set()

    # -- for others

    def declare(self) -> None:
        """The process is about to be declared: it was started, or is signalled."""
        with self._mutex:
            self.declared += 1
            stirred = self._state == _RESTING
        if stirred:
            self._wakeup.set()

    def stir(self) -> None:
        """Something came to the process while it rests."""
        self._wakeup.set()

    # -- the actor

    def _as_actor(self) -> None:
        try:
            if self._comes():
                while self._acts():
                    self._rests()
        finally:
            self._state = _OVER
            self._cast.forget(self._pid, alive=self._left and not self._holds_on)
            self._wake()

    def _comes(self) -> bool:
        if not self._cast.has(self._pid):
            return False
        while not self._came.wait(_LOOK_AGAIN):
            if not self._clock.is_outside(self._pid):  # it ended before it had come up
                return False
        return True

    def _acts(self) -> bool:
        """Have the turn until the process rests; False: it is no more."""
        with self._mutex:
            left = self._left
            if not left:
                self._gave_up.clear()
                self._state = _ACTING
        if not left:
            self._wake()
            self._gave_up.wait()
        # The runner's last word to the clock comes after it has told all who wait for the end.
        while self._left and self._holds_on and self._clock.is_outside(self._pid):
            Real.sleep(_LOOK_AGAIN)
        return not self._left

    def _rests(self) -> None:
        if not self._watched:
            self._watched = True
            call_at_the_end(self._clock, self._pid, self._end)
        now_us = self._clock.monotonic_us()
        span_us = None if self._until_us is None else max(0, self._until_us - now_us)
        self._wakeup.wait(span_us, why=self._why)
        with self._mutex:
            self._state = _COMING
        if not has_runner(self._pid):
            self._left = True
        elif not self._left and not self._clock.is_outside(self._pid):
            self._clock.outside_works(self._pid, self._name)

    def _end(self) -> None:
        self._left = True
        self._wakeup.set()


class Cast:
    """The parts of all processes of one executable on one fake clock."""

    def __init__(self, clock: FakeClock, executable: str) -> None:
        self._clock = clock
        self._executable = os.path.realpath(executable)
        self._parts: dict[int, Part] = {}
        self._without: set[int] = set()
        """Processes that play when things come."""
        self._mutex = threading.Lock()
        clock.when_declared.append(self._hear)

    def close(self) -> None:
        """Hear of no further process."""
        if self._hear in self._clock.when_declared:
            self._clock.when_declared.remove(self._hear)

    def has(self, pid: int) -> bool:
        """Whether a runner of ours has started this very executable."""
        program = program_of(pid)
        return program is not None and os.path.realpath(program) == self._executable

    def part_for(self, how: HowCalled) -> Part | None:
        """The part of a process that has come up, if it has one."""
        if RUN_MARK in how.env and RUN_MARK not in os.environ:
            # It may have come up before its runner, on another thread, has declared it.
            for _ in range(_LOOKS if how.parent == os.getpid() else 0):
                if how.pid in self._parts or self._clock.is_outside(how.pid):
                    break
                Real.sleep(_LOOK_AGAIN)
        with self._mutex:
            part = self._parts.get(how.pid)
            if part is None:
                self._without.add(how.pid)
            return part

    def dismiss(self, pid: int) -> None:
        """The process is no more, and its runner has let go of it."""
        with self._mutex:
            self._without.discard(pid)

    def forget(self, pid: int, *, alive: bool) -> None:
        """A part is over, its process may be ``alive``."""
        with self._mutex:
            self._parts.pop(pid, None)
            if alive:
                self._without.add(pid)

    def _hear(self, key: object) -> None:
        """Something is about to be declared."""
        if not isinstance(key, int):
            return
        with self._mutex:
            part = self._parts.get(key)
            if part is None:
                # The clock may have stopped: who waits on it is told so elsewhere.
                if key not in self._without:
                    with contextlib.suppress(ClockDeadlock, Killed):
                        self._parts[key] = Part(self, self._clock, key)
                return
        part.declare()
