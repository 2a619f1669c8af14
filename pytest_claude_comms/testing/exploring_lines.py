"""Makes each line of a user's code a point at which its actor may lose its turn.

By ``sys.settrace``, thread by thread. A debugger that starts in a traced thread takes it over; a
coverage tool does not see what it runs. Which lines there are differs a little between versions of
Python, so a schedule of lines is the same only on the same one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from .exploring_trace import is_users

if TYPE_CHECKING:
    from .exploring_scheduler import ExploringScheduler


class Lines:
    """``of``: True for all of the user's code, or the names of modules and packages."""

    def __init__(self, explorer: ExploringScheduler, of: bool | tuple[str, ...]) -> None:
        self._explorer = explorer
        self._names = of if isinstance(of, tuple) else ()
        self._packages = tuple(f"{name}." for name in self._names)

    @contextmanager
    def traced(self) -> Iterator[None]:
        """The lines that this thread comes to meanwhile are points."""
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            if sys.gettrace() == self._call:
                sys.settrace(before)

    def _call(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        return self._line if self._is_traced(frame) else None

    def _is_traced(self, frame: FrameType) -> bool:
        if not self._names:
            return is_users(frame.f_code)
        name = str(frame.f_globals.get("__name__", ""))
        return name in self._names or name.startswith(self._packages)

    def _line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "line":
            self._explorer.point(f"before line {frame.f_lineno}")
        return self._line
