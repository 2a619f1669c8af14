"""A trace or profile function for the time of a block, and no garbage collected meanwhile.

What a collection runs in the midst of any line (callbacks of ``gc`` as Hypothesis has one, of weak
references, finalizers) would be traced too: what is raised there is lost, a handler that comes
there comes into another's call, and CPython 3.11.7 crashes on some of it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


class Traced:
    """While it is entered, this thread runs under ``tracer``; what traced before traces again.

    A tracer of all files would trace ``__exit__`` too: whoever has one sets it off before.
    """

    _get: Callable[[], Any] = staticmethod(sys.gettrace)
    _set: Callable[[Any], None] = staticmethod(sys.settrace)

    def __init__(self, tracer: Callable[[FrameType, str, Any], Any]) -> None:
        self._tracer = tracer
        self._before: Any = None
        self._collects = False

    def __enter__(self) -> Traced:
        self._before, self._collects = self._get(), gc.isenabled()
        gc.disable()
        self._set(self._tracer)
        return self

    def __exit__(self, *_: object) -> None:
        self._set(self._before)
        if self._collects:
            gc.enable()


class Profiled(Traced):
    """The same with a profile function, which sees calls and returns only."""

    _get = staticmethod(sys.getprofile)
    _set = staticmethod(sys.setprofile)
