"""How a stand-in waits on a fake clock if it has no part there (see :mod:`claude_part`).

It plays when things come: a process of a plain ``subprocess``, one behind a wrapper, one that is
being recorded. What is said here of the end of a process, and of a slow reader, is true of all.

On a fake clock a process has to be *declared* by ``outside_works``: while one works, time stands
still. It rests while nothing but fake time (or a signal) can bring it on. Who may say so, and when?
These are the races, and what shuts them out:

- *Somebody signals the process while it is about to rest.* ``ClaudeProcess`` (and ``Call.kill``)
  declares it before it signals it, and a rest said a moment later would undo that: time could
  jump over the grace period, and SIGKILL come before the process has answered SIGTERM. So a rest
  is an actor of the clock (:class:`Rest`): it has the turn while it decides, so no other actor
  can be in the middle of signalling. With the turn it asks the stand-in whether anything has
  come; the stand-in reports signals and input that were there before the question before it
  answers. Only then it rests.
- *The process is started, and rests before its runner has declared it.* The same: the runner
  starts and declares it in one turn.
- *What was written is still on its way to the reader.* It rests only when the reader has handled
  every byte: ``ClaudeProcess.bytes_handled`` if the runner is ours, else when the pipe is empty.
- *Time jumps between the rest and the plan to wake.* The actor that rests is the one that parks
  until the wake-up, and time does not jump before it has.
- *The process is killed in the middle of a delay.* Its control channel tells of that, but maybe
  later than its runner has reaped it, and by then its wake-up would count as due. So another
  actor waits for the runner's word (:func:`call_at_the_end`), which comes before time goes on.
- *The wake-up finds a process that is killed and reaped by now.* It does not declare it then; and
  should it go just after that, its player takes back in the end what was said of it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .fake_clock import FakeClock


class Rest:
    """One wait of a stand-in on a fake clock, as an actor."""

    def __init__(
        self, clock: FakeClock, pid: int, us: int | None, why: str, wake: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._pid = pid
        self._us = us
        self._why = why
        self._wake = wake
        self._wakeup = clock.wakeup()
        self._had_runner = has_runner(pid)
        self._decided = threading.Event()
        self._granted = False
        self._beginning = threading.Lock()
        self._lost = False
        self.asked = False
        """Whether it has the turn, and waits for ``answer``."""
        self.over = False
        """Whether the time has passed."""

        def rest() -> None:
            self._as_actor()

        rest.__qualname__ = f"claude (pid {pid})"  # an actor is named after its function
        clock.spawn(rest)

    def answer(self, *, granted: bool) -> None:
        """Whether the process rests, as has been found out while no other actor ran."""
        self.asked = False
        self._granted = granted
        self._decided.set()

    def cancel(self) -> None:
        """It does not rest, or not any more."""
        self._decided.set()
        self._wakeup.set()

    def lose(self, what: str | None) -> None:
        """It has ended meanwhile. Until its runner has seen that, ``what`` goes on outside; None:
        there is no runner, or it has."""
        with self._beginning:
            self._lost = True
            if what is not None:
                self._clock.outside_works(self._pid, what)

    def _as_actor(self) -> None:
        if not self._decided.is_set():  # else it was cancelled before its turn came
            self.asked = True
            self._wake()
            self._decided.wait()
        if not self._granted:
            return
        with self._beginning:
            if self._lost:  # after the answer: this rest would take back what was said of its end
                return
            self._clock.outside_rests(self._pid)
        if not self._wakeup.wait(self._us, why=self._why):
            with self._beginning:
                if not self._is_alive():
                    return
                self._clock.outside_works(self._pid, f"claude (pid {self._pid})")
                self.over = True
            self._wake()

    def _is_alive(self) -> bool:
        return not self._lost and (not self._had_runner or has_runner(self._pid))


def has_runner(pid: int) -> bool:
    """Whether a ``ClaudeProcess`` of this process runs it."""
    return pid in _running()


def runner_of(pid: int) -> Any:
    """That ``ClaudeProcess``, or None."""
    return _running().get(pid)


def program_of(pid: int) -> str | None:
    """What its ``ClaudeProcess`` has started; None: it has none."""
    process = _running().get(pid)
    return None if process is None else str(process.command[0])


def have_read(pid: int) -> None:
    """Have its ``ClaudeProcess`` read all that it has printed so far, and tell whom it tells."""
    process = _running().get(pid)
    if process is not None:
        with contextlib.suppress(OSError, ValueError):  # it was killed, and its pipes are closed
            process._drain()


def handled_by_runner(pid: int) -> int | None:
    """How many bytes of its stdout its ``ClaudeProcess`` has handled; None: it has none."""
    process = _running().get(pid)
    return None if process is None else int(process.bytes_handled)


def _running() -> Mapping[int, Any]:
    # Who has not imported the runner has started nothing with it.
    module = sys.modules.get(f"{__package__.rpartition('.')[0]}.claude.process")
    found: Mapping[int, Any] = {} if module is None else module.running()
    return found


def call_at_the_end(clock: FakeClock, pid: int, f: Callable[[], object]) -> None:
    """Call ``f`` as soon as the process has ended, before fake time goes on, if it has a runner."""
    process = _running().get(pid)
    if process is None:
        return

    def watch() -> None:
        process.wait()
        f()

    watch.__qualname__ = f"the end of claude (pid {pid})"
    clock.spawn(watch)
