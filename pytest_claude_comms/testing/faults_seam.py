"""A function that faults stand in the way of, for as long as any does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

Around = Callable[..., Any]
"""Called with the function that it stands before, then with that function's arguments."""

_ABSENT = object()


class _Seams:
    """All that are open: two faults at one function share its seam, and may end in any order."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: dict[tuple[int, str], _Seam] = {}


class _Seam:
    def __init__(self, owner: object, name: str) -> None:
        self._owner = owner
        self._name = name
        self._before = vars(owner).get(name, _ABSENT)
        original = getattr(owner, name)
        self.arounds: list[Around] = []

        def through(*args: Any, **kwargs: Any) -> Any:
            call = original
            for around in list(self.arounds):
                call = partial(around, call)
            return call(*args, **kwargs)

        self._through = through
        setattr(owner, name, through)

    def close(self) -> None:
        if vars(self._owner).get(self._name) is not self._through:
            return  # somebody stands before it meanwhile, and still calls it: it lets all through
        if self._before is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


_seams = _Seams()


def stand_before(owner: object, name: str, around: Around) -> Callable[[], None]:
    """Let calls of ``owner.name`` (of an object or a module) go through ``around``, until the
    returned function is called."""
    key = id(owner), name
    with _seams.lock:
        seam = _seams.open.get(key)
        if seam is None:
            seam = _seams.open[key] = _Seam(owner, name)
        seam.arounds.append(around)

    def step_aside() -> None:
        with _seams.lock:
            seam.arounds.remove(around)
            if not seam.arounds:
                del _seams.open[key]
                seam.close()

    return step_aside
