"""What comes in between any two steps of a call: an interrupt, or something another thread does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any


def _raise() -> None:
    raise KeyboardInterrupt


class Interrupt:
    """Comes before a line or instruction of these modules' functions: raises KeyboardInterrupt."""

    def __init__(
        self,
        *modules: ModuleType,
        but: tuple[str, ...] = (),
        act: Callable[[], object] = _raise,
    ) -> None:
        """``but`` are names of functions to pass over: what a ``with`` block enters and leaves,
        where Python runs no handler. ``act`` is done instead of raising."""
        self._files = {module.__file__ for module in modules}
        self._but = but
        self._act = act
        self._left = 0

    def comes_in(self, call: Callable[[], object], step: int) -> bool:
        """Whether ``call`` has so many steps; before that one this came."""
        self._left = step
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            with suppress(KeyboardInterrupt):
                call()
        finally:
            sys.settrace(before)
        return self._left == 0

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files or code.co_name in self._but:
            return None
        frame.f_trace_opcodes = True  # beside lines: Python 3.13.0 tells of some instructions only
        if event in ("line", "opcode") and self._left:
            self._left -= 1
            if not self._left:
                self._act()
        return self._trace
