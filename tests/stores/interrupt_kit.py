"""What comes in between any two steps of a call: an interrupt, or something another thread does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any

from tests.tracing import Traced


def _raise() -> None:
    raise KeyboardInterrupt


class Interrupt:
    """Comes before a line or instruction of these modules' functions: raises KeyboardInterrupt."""

    def __init__(
        self,
        *modules: ModuleType,
        but: tuple[str, ...] = (),
        act: Callable[[], object] = _raise,
        lines: bool = False,
    ) -> None:
        """``but`` are names of functions to pass over: what a ``with`` block enters and leaves,
        where Python runs no handler. ``act`` is done instead of raising. With ``lines`` it
        comes before lines only: what interrupts between them finds nothing else there."""
        self._files = {module.__file__ for module in modules}
        self._but = but
        self._act = act
        self._events = ("line",) if lines else ("line", "opcode")
        self._left = 0

    def comes_in(self, call: Callable[[], object], step: int) -> bool:
        """Whether ``call`` has so many steps; before that one this came."""
        self._left = step
        with Traced(self._trace), suppress(KeyboardInterrupt):
            call()
        return self._left == 0

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if code.co_filename not in self._files or code.co_name in self._but:
            return None
        # Beside lines: Python 3.13.0 tells of some instructions only.
        frame.f_trace_opcodes = "opcode" in self._events
        if event in self._events and self._left:
            self._left -= 1
            if not self._left:
                self._act()
        return self._trace


class Signal:
    """Raises KeyboardInterrupt before the first line of a function of Python, where a signal's
    handler may run. Not from a profiler, as it is entered: that breaks CPython 3.11 itself."""

    def __init__(self) -> None:
        self._left = 0

    def comes_in(self, call: Callable[[], object], step: int) -> bool:
        """Whether ``call`` enters so many functions; in that one this came."""
        self._left = step
        with Traced(self._trace):
            try:
                call()
            except KeyboardInterrupt:  # no suppress(): its own functions would be such places
                pass
            finally:
                sys.settrace(None)
        return self._left == 0

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            frame.f_trace_lines = False
            if self._left:
                self._left -= 1
                if not self._left:
                    raise KeyboardInterrupt
        return self._trace
