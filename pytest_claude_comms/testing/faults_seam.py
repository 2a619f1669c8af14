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
        self._original = getattr(owner, name)
        self.arounds: list[Around] = []

        def through(*args: Any, **kwargs: Any) -> Any:
            call = self._original
            for around in list(self.arounds):
                call = partial(around, call)
            return call(*args, **kwargs)

        self._through = through

    def open(self) -> None:
        setattr(self._owner, self._name, self._through)

    def close(self) -> None:
        if vars(self._owner).get(self._name) is not self._through:
            return  # somebody stands before it meanwhile, and still calls it: it lets all through
        if self._before is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._before)


_seams = _Seams()


def stand_before(
    owner: object,
    name: str,
    around: Around,
    when_undone: Callable[[Callable[[], None]], object] | None = None,
) -> None:
    """Let calls of ``owner.name`` (of an object or a module) go through ``around``, until the
    function that ``when_undone`` is given is called; without one for as long as the process is.
    It is given before anything is changed."""
    key = id(owner), name

    def step_aside() -> None:
        with _seams.lock:
            seam = _seams.open.get(key)
            if seam is None:
                return
            if around in seam.arounds:
                seam.arounds.remove(around)
            if not seam.arounds:
                seam.close()
                del _seams.open[key]

    if when_undone is not None:
        when_undone(step_aside)
    with _seams.lock:
        seam = _seams.open.get(key)
        if seam is not None:
            seam.arounds.append(around)
            return
        _seams.open[key] = seam = _Seam(owner, name)
        seam.arounds.append(around)
        seam.open()
