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
"""What ends a process that does not mind it. Ctrl-C does mind: it is a KeyboardInterrupt."""

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

    # Real seconds of somebody who looks at a screen, whatever clock the store is on.
    timer = threading.Timer(after, show)
    timer.daemon = True
    with _wiped_by_signals(console, lambda: bool(shown)):
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with lock:
                done = True
                for turning in shown:
                    turning.stop()
                shown.clear()


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
            bars[0][0].update(bars[0][1], completed=count)
        elif clock.monotonic() - start > after:
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

    with _wiped_by_signals(console, lambda: bool(bars)):
        try:
            yield advance
        finally:
            for made, _ in bars:
                made.stop()
            bars.clear()


@contextmanager
def _wiped_by_signals(
    console: Callable[[], Console], is_shown: Callable[[], bool]
) -> Iterator[None]:
    """Whoever is ended by a signal meanwhile leaves an empty line, and not a still picture."""

    def end(number: int, frame: FrameType | None) -> None:
        # No lock may be taken here: the thread that is interrupted may hold it.
        signal.signal(number, signal.SIG_DFL)
        if is_shown():
            with suppress(OSError, ValueError):
                console().quiet = True  # what turns must not draw itself once more
                os.write(sys.stderr.fileno(), b"\r\x1b[2K")
        os.kill(os.getpid(), number)

    minded = []
    if threading.current_thread() is threading.main_thread():
        for name in _SIGNALS:
            number = getattr(signal, name, None)
            # What is ignored stays so (nohup), and who minds it (Stops) goes on to do so.
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                minded.append(number)
    try:
        yield
    finally:
        for number in minded:
            if signal.getsignal(number) is end:
                signal.signal(number, signal.SIG_DFL)
