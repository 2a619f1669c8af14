"""Where a thread is, for a person."""

from __future__ import annotations

import gc
import os
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType

from .. import clock

_MOST_FRAMES = 8
_MACHINERY = ("_pytest", "pluggy", "pytest")
_CLOCK = clock.__file__
_LOCKS = str(Path(__file__).with_name("exploring_locks.py"))
_WAITS = ("wait", "sleep", "pause", "join")
_ONE_AT_A_TIME = threading.Lock()
_OURS = {
    str(Path(__file__).with_name(f"{room}.py"))
    for room in (
        *("actors", "scheduler", "clock_pages", "stacks", "watchdog"),
        *("fake_clock", "fake_asyncio", "loop_tasks"),
    )
}


def stack_of(thread: threading.Thread | None) -> str:
    """The innermost frames of a thread's own code, innermost last, a line each."""
    frame = _frame_of(thread)
    if frame is None:
        return "    (it has no thread yet)"
    frames = [each for each in traceback.extract_stack(frame) if not _is_machinery(each.filename)]
    return "\n".join(
        f"    {each.filename}:{each.lineno} {each.name}: {each.line}"
        for each in frames[-_MOST_FRAMES:]
    )


def waits_on_system_clock(thread: threading.Thread | None) -> bool:
    """Whether a thread is in a wait of our ``SystemClock``."""
    frame = _frame_of(thread)
    while frame is not None:
        if frame.f_code.co_filename == _CLOCK and frame.f_code.co_name in _WAITS:
            return True
        frame = frame.f_back
    return False


def waits_for_a_wakeup(thread: threading.Thread | None) -> bool:
    """Whether a thread asks for a lock, be it inside of a condition, that no actor can let go of
    at this instant."""
    frame = _frame_of(thread)
    return (
        frame is not None
        and frame.f_code.co_filename == _LOCKS
        and frame.f_code.co_name == "acquire_really"
    )


def _frame_of(thread: threading.Thread | None) -> FrameType | None:
    ident = None if thread is None else thread.ident
    if ident is None:
        return None
    # Older Pythons (3.11.7 is one) hold a lock of the interpreter while they make these frames. If
    # garbage is collected meanwhile and a `threading.local` is in it, its end asks for that lock
    # again and all threads stand still for ever: https://github.com/python/cpython/issues/106883.
    with _ONE_AT_A_TIME:
        collects = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames().get(ident)
        finally:
            if collects:
                gc.enable()


def _is_machinery(filename: str) -> bool:
    if filename in _OURS or filename == threading.__file__ or filename.startswith("<frozen"):
        return True
    homes = (getattr(sys.modules.get(name), "__file__", None) for name in _MACHINERY)
    return any(home and filename.startswith(os.path.dirname(home) + os.sep) for home in homes)
