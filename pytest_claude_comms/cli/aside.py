"""What moves on standard error while something takes long; gone however the command ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from .safety import safe

if TYPE_CHECKING:
    from rich.console import Console

_SIGNALS: Final = ("SIGTERM", "SIGHUP", "SIGQUIT")
"""What ends a process that does not mind it."""

Advance = Callable[[int], None]


@contextmanager
def spinner(console: Callable[[], Console], what: str, *, after: float) -> Iterator[None]:
    """Turn, and say ``what`` goes on, once that has taken ``after`` seconds."""
    shown: list[Any] = []
    lock = threading.Lock()
    done = False

    def show() -> None:
        with lock:
            if not done:
                turning = console().status(f"{what} …")
                shown.append(turning)  # before it is seen: a signal may come at once
                turning.start()

    def stop() -> None:
        nonlocal done
        timer.cancel()
        with lock:
            done = True
            for turning in shown:
                turning.stop()
            shown.clear()

    # Real seconds of somebody who looks at a screen, whatever clock the store is on.
    timer = threading.Timer(after, show)
    timer.daemon = True
    with _Picture(console, lambda: bool(shown), stop):
        timer.start()
        yield


@contextmanager
def bar(
    console: Callable[[], Console], what: str, total: int | None, *, after: float
) -> Iterator[Advance]:
    """A bar, once that has taken ``after`` seconds; yields what is told how many more are done."""
    from ..clock import SystemClock

    clock = SystemClock()
    start = clock.monotonic()
    bars: list[tuple[Any, Any]] = []
    count = 0

    def advance(more: int) -> None:
        nonlocal count
        count += more
        if bars:
            with picture.drawing():
                bars[0][0].update(bars[0][1], completed=count)
        elif clock.monotonic() - start > after:
            with picture.drawing():
                begin()

    def begin() -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as TimeLeft

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeLeft(),
        )
        made = Progress(*columns, console=console(), transient=True)
        bars.append((made, made.add_task(safe(what), total=total, completed=count)))
        made.start()

    def stop() -> None:
        for made, _ in bars:
            made.stop()
        bars.clear()

    with _Picture(console, lambda: bool(bars), stop) as picture:
        yield advance


class _Picture:
    """What moves is gone in the end, be it one by a signal.

    Ctrl-C is a KeyboardInterrupt: in the midst of a drawing it would leave rich in a state that it
    can neither draw nor stop in, so it waits for the drawing's end; a second one does not. Other
    signals end a process that does not mind them; that one leaves an empty line.
    """

    def __init__(
        self, console: Callable[[], Console], is_shown: Callable[[], bool], stop: Callable[[], None]
    ) -> None:
        self._console = console
        self._is_shown = is_shown
        self._stop = stop
        self._is_drawing = False
        self._waiting: list[tuple[int, FrameType | None]] = []
        """The interrupt that waits for the end of a drawing."""
        self._before: Any = None
        """Who was to be told of an interrupt."""
        self._minded: list[tuple[int, Any, Any]] = []
        """What is called now, and what was before."""

    def __enter__(self) -> _Picture:
        try:
            if threading.current_thread() is threading.main_thread():  # to no other signals come
                self._mind_signals()
        except BaseException:  # Ctrl-C: nobody will call __exit__
            self._mind_no_more()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with self.drawing():
            try:
                self._stop()
            finally:
                self._mind_no_more()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Meanwhile an interrupt waits."""
        self._is_drawing = True
        try:
            yield
        finally:
            self._is_drawing = False
            if self._waiting:
                self._before(*self._waiting.pop())

    def _mind_signals(self) -> None:
        self._before = signal.getsignal(signal.SIGINT)
        if callable(self._before):
            self._mind(signal.SIGINT, self._interrupt, self._before)
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # What is ignored stays so (nohup), and who minds it (Stops) goes on to do so.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                self._mind(number, self._end, signal.SIG_DFL)

    def _mind(self, number: int, now: Any, before: Any) -> None:
        self._minded.append((number, now, before))
        signal.signal(number, now)

    def _mind_no_more(self) -> None:
        for number, now, before in self._minded:
            if signal.getsignal(number) == now:
                signal.signal(number, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._is_drawing and not self._waiting:
            self._waiting.append((number, frame))
        else:
            self._before(number, frame)

    def _end(self, number: int, frame: FrameType | None) -> None:
        # No lock may be taken here: the thread that is interrupted may hold it.
        signal.signal(number, signal.SIG_DFL)
        if self._is_shown():
            with suppress(OSError, ValueError):
                self._console().quiet = True  # what turns must not draw itself once more
                os.write(sys.stderr.fileno(), b"\r\x1b[2K")
        os.kill(os.getpid(), number)
