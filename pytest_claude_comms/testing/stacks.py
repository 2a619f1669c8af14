"""Where a thread is, for a person."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from pathlib import Path

_MOST_FRAMES = 8
_MACHINERY = ("_pytest", "pluggy", "pytest")
_OURS = {
    str(Path(__file__).with_name(name))
    for name in ("scheduler.py", "stacks.py", "watchdog.py", "fake_clock.py", "fake_asyncio.py")
}


def stack_of(thread: threading.Thread | None) -> str:
    """The innermost frames of a thread's own code, innermost last, a line each."""
    ident = None if thread is None else thread.ident
    frame = None if ident is None else sys._current_frames().get(ident)
    if frame is None:
        return "    (it has no thread yet)"
    frames = [each for each in traceback.extract_stack(frame) if not _is_machinery(each.filename)]
    return "\n".join(
        f"    {each.filename}:{each.lineno} {each.name}: {each.line}"
        for each in frames[-_MOST_FRAMES:]
    )


def _is_machinery(filename: str) -> bool:
    if filename in _OURS or filename == threading.__file__ or filename.startswith("<frozen"):
        return True
    homes = (getattr(sys.modules.get(name), "__file__", None) for name in _MACHINERY)
    return any(home and filename.startswith(os.path.dirname(home) + os.sep) for home in homes)
