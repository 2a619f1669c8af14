"""The player's hold on its process: orders to it, and waiting with an ear on what it says.

The process (:mod:`stand_in`) is a hand without a head, and this is where the head has hold of it.
It knows of bytes, signals and time, and nothing of what the CLI prints. How a wait on a fake
clock is kept free of races, and in order, is told in :mod:`claude_part` and
:mod:`claude_time`.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from ..clock import SECOND, Clock, seconds_to_us
from ..errors import ClockDeadlock
from .actors import Real
from .claude_breaks import SIGINT, SIGKILL, SIGTERM, Endless, Exits, Gone, Interrupted, Signalled
from .claude_calls import Record
from .claude_link import Frame, HowCalled, Link, Progress
from .claude_part import Cast, Part
from .claude_time import (
    Rest,
    call_at_the_end,
    handled_by_runner,
    has_runner,
    have_read,
    runner_of,
)
from .fake_clock import FakeClock

_BUFFER: Final = 65_536
_PATIENCE: Final = 1.0
_LONGEST_END: Final = 8.0
"""Real seconds in which the runner of a process that was lost sees its end, on any machine."""
_LOOK_AGAIN: Final = 0.001
"""Real seconds between two looks at how far a reader is."""


class Hand:
    """One process, for the thread of its player; ``signal`` and ``link.wake`` for any thread."""

    def __init__(
        self, link: Link, clock: Clock, cast: Cast | None, is_closing: Callable[[], bool]
    ) -> None:
        self.link = link
        self.clock = clock
        self.pid: int | None = None
        """None until it has said how it was called."""
        self.record: Record
        self.stdin_ended = False
        self.ignoring_term = False
        self.on_stdin: Callable[[bytes], None] = lambda _piece: None
        """Called with each piece of stdin, empty at its end, once that is in the record."""
        self.on_frame: Callable[[Frame], bool] = lambda _frame: False
        """Asked first whether a frame is its own: that of a recorder."""
        self._cast = cast
        self._part: Part | None = None
        """On a fake clock, if it was started by a runner of ours."""
        self._kept: deque[Frame] = deque()
        """What it has said while it had not the turn."""
        self._is_closing = is_closing
        self._runner: Any = None
        """The ``ClaudeProcess`` that runs it, once it was seen."""
        self._out_of_reach = False
        """Whether it has no number here, so that it can be sent no signal."""
        self._lost = False
        """Whether it has ended while it rested, and been declared for that."""
        self._output = bytearray()
        self._progress: Progress | None = None
        self._disturbed = False
        self._resting: Rest | None = None
        self._over = False
        self._signalling = threading.Lock()
        self._left = False

    # -- its life

    def take(self) -> bool:
        """Wait until it says how it was called, and may begin; False if the test ends before."""
        frame = self.link.next(None)
        while frame is None and not self._is_closing():
            frame = self.link.next(None)
        if frame is None or frame.kind != "H":
            return False
        peer = self.link.peer
        self._out_of_reach = peer == 0
        how = HowCalled.read(frame.content, peer or None)
        self.record = Record(how, self.clock.now(), self.signal)
        self.pid = how.pid
        while self._cast is not None and self._part is None:
            part = self._cast.part_for(how)
            if part is None:
                break
            part.come(self.link.wake)
            if self._get_turn(part):
                self._part = part
        self._declare()
        return True

    def go_by_arrival(self) -> None:
        """From now on it prints and waits when things come, and needs no turn for that."""
        if self._part is not None:
            self._part.leave(alive=True)
            self._part = None

    def _declare(self) -> None:
        """For a process that no runner of ours declares."""
        assert self.pid is not None
        self._seen_runner()
        if self._part is None and not has_runner(self.pid):
            self.clock.outside_works(self.pid, f"claude (pid {self.pid})")

    def let_go(self) -> None:
        """It is gone, or is to be left alone."""
        if self.pid is not None:
            if self.record.exit_code is None:
                self.record.exit_code = -9
            with self._signalling:
                self._left = True  # so what signal() has declared is taken back below
            if self._part is not None:
                self._part.leave()
            if isinstance(self.clock, FakeClock):
                self._await_runner(self.pid)
                self.clock.outside_rests(self.pid)  # what we may have said of it too late
            if self._cast is not None:
                self._cast.dismiss(self.pid)
        self.link.close()

    def _await_runner(self, pid: int) -> None:
        """Until it has told all who wait for the process: its last word comes before ours."""
        runner, until = self._seen_runner(), Real.monotonic() + _LONGEST_END
        while runner is not None and not runner.is_over and not self._is_closing():
            if self._lost and runner.rests_if_it_lingers():
                self._lost = False
            elif self._lost and Real.monotonic() >= until:  # it is alive, and lets us hear no more
                self._lost = False
                self.clock.outside_rests(pid)
            Real.sleep(_LOOK_AGAIN)

    def _seen_runner(self) -> Any:
        assert self.pid is not None
        self._runner = self._runner or runner_of(self.pid)
        return self._runner

    def signal(self, number: int) -> None:
        """Send it a signal, declared to the clock before; nothing if it has ended.

        For whoever has the turn on a fake clock, so that no rest of its can begin meanwhile.
        """
        with self._signalling:
            if self._left:  # its number may be another's by now
                return
            assert self.pid is not None
            if self._out_of_reach:
                raise ProcessLookupError(f"claude (pid {self.pid}) has that number elsewhere only")
            self.clock.outside_works(self.pid, f"claude (pid {self.pid}), which was signalled")
            try:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            finally:
                # What it does not hear of (SIGCONT, or an error) would leave it declared for
                # ever: so its rest ends in any case, and the next one asks how things are.
                self._disturbed = True
                self.link.wake()

    def kill(self) -> None:
        """End it, whatever it does, when the test is over. From any thread."""
        if self.pid is not None and not self._out_of_reach:
            # Its end of the channel is open, so the number is still its own.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, SIGKILL)
        self.link.cut()
        self.link.wake()

    # -- orders

    def order(self, kind: str, content: bytes = b"") -> None:
        """One of the frames of :mod:`stand_in`, or of :mod:`recorder`."""
        self.link.send(kind, content)

    def write(self, data: bytes) -> None:
        """To stdout, soon: at the next wait at the latest."""
        self._output += data
        if len(self._output) > _BUFFER:
            self.flush()

    def flush(self) -> None:
        if self._output:
            data, self._output = bytes(self._output), bytearray()
            self.order("O", data)

    def complain(self, text: str) -> int:
        """On stderr, after all that was written before; the exit code that goes with it."""
        self.flush()
        self.order("E", text.encode("utf-8", "backslashreplace") + b"\n")
        return 1

    def exit(self, code: int, *, at_once: bool = False) -> NoReturn:
        """``at_once``: and let go of what nobody has read yet. Raises Gone, at last."""
        self.record.exit_code = code
        if not at_once:
            self.flush()
        self.order("T" if at_once else "X", bytes([code]))
        while True:
            with contextlib.suppress(Interrupted, Exits):
                try:
                    self.hear(None)
                except Signalled as signalled:  # it is still busy with what nobody reads
                    if signalled.number != SIGINT:
                        self.record.exit_code = 128 + signalled.number
                        self.order("T", bytes([self.record.exit_code]))

    def give_up(self, text: str) -> NoReturn:
        """Complain and exit with 1, though nobody may read what it says. Raises Gone, at last."""
        self.on_stdin = lambda _piece: None
        self.complain(text)
        self._progress = None
        self.order("P")
        with contextlib.suppress(Signalled):
            self.wait_real(_PATIENCE, until=lambda: self._progress is not None)
        self.exit(1, at_once=True)

    def die(self, number: int) -> NoReturn:
        """Of a signal of its own. Raises Gone, at last."""
        self.flush()
        self.record.exit_code = -number
        self.order("K", bytes([number]))
        while True:
            with contextlib.suppress(Signalled, Interrupted):
                self.hear(None)

    # -- waiting

    def wait(
        self, seconds: float | None, why: str, *, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Let so much time pass on the clock, or all (None), unless ``until`` comes before."""
        self.flush()
        if seconds == 0:
            return
        if isinstance(self.clock, FakeClock):
            end_us = None
            if seconds is not None:
                why = f"{seconds:g} s for {why}"
                end_us = self.clock.monotonic_us() + seconds_to_us(min(seconds, 1e11), "seconds")
            if self._part is not None:
                self._wait_in_part(self._part, end_us, why, until)
            else:
                self._wait_fake(self.clock, end_us, why, until)
        else:
            self.wait_real(seconds, until=until)

    def hang(self, why: str, longest: float | None) -> NoReturn:
        """Until a signal comes. In real time nobody would see that none will: raises Endless."""
        self.wait(None if isinstance(self.clock, FakeClock) else longest, why)
        raise Endless

    def wait_until(self, us: int, why: str) -> None:
        """Until the clock's monotonic time is ``us``."""
        while (left := us - self.clock.monotonic_us()) > 0:
            with contextlib.suppress(Interrupted):
                self.wait(left / SECOND, why)

    def wait_real(self, seconds: float | None, *, until: Callable[[], bool]) -> None:
        """As ``wait``, in real time on any clock: for what somebody is doing right now."""
        self.flush()
        end = None if seconds is None else Real.monotonic() + seconds
        while not until():
            left = None if end is None else end - Real.monotonic()
            if left is not None and left <= 0:
                return
            self.hear(left)

    def _wait_in_part(
        self, part: Part, end_us: int | None, why: str, until: Callable[[], bool]
    ) -> None:
        assert self.pid is not None
        while True:
            declared = part.declared
            progress = self._ping()  # raises what has come to it
            if until() or (end_us is not None and self.clock.monotonic_us() >= end_us):
                return
            have_read(self.pid)
            if part.rest(declared, end_us, why) and not self._get_turn(part, declared, progress):
                raise Gone

    def _get_turn(self, part: Part, declared: int = 0, progress: Progress | None = None) -> bool:
        """Wait until it may play, and say once what it has printed is handled; False: it won't.

        What the process says meanwhile is kept until then. Raises Gone.
        """
        while not part.has_turn:
            if part.is_over:
                return False
            if progress is not None and self._is_handled(progress):
                part.settled(declared)
                progress = None
            frame = self.link.next(None if progress is None else _LOOK_AGAIN)
            if self._is_closing():
                raise Gone
            if frame is not None and frame.kind == "gone":
                self._lose()
                raise Gone
            if frame is not None:
                self._kept.append(frame)
                part.stir()
        return True

    def _wait_fake(
        self, clock: FakeClock, end_us: int | None, why: str, until: Callable[[], bool]
    ) -> None:
        assert self.pid is not None
        while not until():
            self._settle()
            us = None if end_us is None else max(0, end_us - clock.monotonic_us())
            try:
                if self._resting is None:
                    call_at_the_end(clock, self.pid, self._is_over)
                self._resting = rest = Rest(clock, self.pid, us, why, self.link.wake)
            except ClockDeadlock:
                raise Gone from None  # the test is over
            if self._over:  # it may have ended just before its rest was known
                rest.cancel()
            if self._rest(rest, until):
                return

    def _is_over(self) -> None:
        self._over = True
        if self._resting is not None:
            self._resting.cancel()

    def _rest(self, rest: Rest, until: Callable[[], bool]) -> bool:
        """Whether its time has passed; False if something else came."""
        self._disturbed = False
        try:
            while not rest.over:
                if rest.asked:
                    granted = self._is_handled(self._ping()) and not self._disturbed
                    rest.answer(granted=granted)
                    if not granted:
                        return False
                else:
                    self.hear(None)
                if self._disturbed or until():
                    return False
            return True
        except Gone:
            if not self._is_closing():
                self._lose(rest)
            raise
        finally:
            rest.cancel()

    def _lose(self, rest: Rest | None = None) -> None:
        """It has ended while it rested, and its runner is about to see that. Until it has, somebody
        works: with its rest ends what was due, and all might be found waiting for nothing."""
        assert self.pid is not None
        what = None
        if self._seen_runner() is not None and not self._runner.is_over:
            self._lost = True
            what = f"the end of claude (pid {self.pid})"
        if rest is not None:
            rest.lose(what)
        elif what is not None:
            self.clock.outside_works(self.pid, what)

    def _settle(self) -> None:
        """Wait until what was written has been handled, and nothing is on its way."""
        while not self._is_handled(self._ping()):
            self.hear(_LOOK_AGAIN)

    def _is_handled(self, progress: Progress) -> bool:
        assert self.pid is not None
        if progress.broken:
            return True
        handled = handled_by_runner(self.pid)
        if handled is None:
            return progress.unread == 0
        self._seen_runner()
        return handled >= progress.written

    def _ping(self) -> Progress:
        self._progress = None
        self.order("P")
        while self._progress is None:
            self.hear(None)
        return self._progress

    # -- listening

    def hear(self, timeout: float | None) -> None:
        """Take in what the process says, if it does before ``timeout`` or a ``wake``.

        Raises Gone, Signalled, and what ``on_stdin`` raises.
        """
        frame = self._kept.popleft() if self._kept else self.link.next(timeout)
        if self._is_closing() or (frame is not None and frame.kind == "gone"):
            raise Gone
        if frame is None:
            return
        if frame.kind == "P":
            self._progress = Progress.read(frame.content)
            return
        if self.on_frame(frame):
            # A line ends no rest: nobody has declared the process as working, as whoever
            # signals it does, so between this rest and the next nothing would be due.
            self._disturbed = self._disturbed or frame.kind == "N"
            return
        self._disturbed = True
        if frame.kind == "S":
            if not (frame.content[0] == SIGTERM and self.ignoring_term):
                raise Signalled(frame.content[0])
        elif frame.kind == "I":
            self._declare()
            self.record.stdin += frame.content
            self.stdin_ended = self.stdin_ended or not frame.content
            self.on_stdin(frame.content)
