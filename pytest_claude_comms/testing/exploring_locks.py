"""Locks of ``threading`` whose waiters give up their turn, while a test is explored.

An actor may lose its turn with a lock in its hands, and who asks for that lock then must not keep
the turn: it waits on the clock until the holder has let go. So ``Lock`` and ``RLock`` are replaced,
with them all that ``threading`` and ``queue`` build on them, and the locks that the user's modules
and their classes have already. One that an object got before is not: who waits for it blocks
outside the clock, and the watchdog says so.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..clock import seconds_to_us
from .actors import SETTLED, Actor, Real
from .clock_pages import A_LOCK
from .exploring_scheduler import ExploringScheduler
from .exploring_trace import is_users_file

_OURS = __name__.partition(".")[0]
_NAMES = ("Lock", "RLock")
_current: list[ExploringScheduler] = []


@contextmanager
def scheduled_by(explorer: ExploringScheduler) -> Iterator[None]:
    """Its actors wait on its clock for such locks meanwhile."""
    _current.append(explorer)
    try:
        yield
    finally:
        _current.remove(explorer)


def acquire_really(real: Any, timeout: float) -> bool:
    """A function of its own, by which the page of the watchdog knows this wait."""
    return bool(real.acquire(True, timeout))


class ExploredLock:
    """As ``threading.Lock``."""

    def __new__(cls, real: Any = None) -> Any:
        """A lock of a thread's own, with which it says that it has begun, stays as it is: how often
        that is asked for depends on how fast the machine is."""
        if real is None and _is_machinery():
            return cls._make()
        return super().__new__(cls)

    def __init__(self, real: Any = None) -> None:
        self._real: Any = self._make() if real is None else real
        self._holder: Actor | None = None
        """The actor that took it; None too if a thread outside the clock did."""
        self._waiters: list[Actor] = []
        # What we lock ourselves is inside of points already.
        self._pointed = real is not None or not _is_ours(sys._getframe(1))

    @staticmethod
    def _make() -> Any:
        return Real.lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As that of ``threading.Lock``; a ``timeout`` is of fake time while an actor holds it."""
        explorer, actor = _asking()
        if explorer is None or actor is None:
            taken = bool(self._real.acquire(blocking, timeout))
        else:
            if self._pointed:
                explorer.point("before a lock")
            taken = self._real.acquire(False) or (blocking and self._wait(explorer, actor, timeout))
        if taken:
            self._holder = actor
        return taken

    def _wait(self, explorer: ExploringScheduler, actor: Actor, timeout: float) -> bool:
        end_us = None if timeout < 0 else explorer.now_us + seconds_to_us(timeout, "timeout")
        while True:
            holder = self._holder
            if holder is not None and holder is not actor and not holder.done:
                self._waiters.append(actor)
                try:
                    explorer.park(f"{A_LOCK}{explorer.called(holder)} holds", at_us=end_us)
                finally:
                    self._waiters.remove(actor)
                if end_us is not None and explorer.now_us >= end_us:
                    return bool(self._real.acquire(False))
            elif explorer.has_rivals():  # whoever it is, all may act first that could now
                explorer.stand_back("a lock or a condition", SETTLED)
            else:
                return self._wait_really(explorer, timeout)
            if self._real.acquire(False):
                return True

    def _wait_really(self, explorer: ExploringScheduler, timeout: float) -> bool:
        """Until somebody outside the clock lets go; where there is nobody, the watchdog ends it."""
        explorer.waits_outside("a lock or a wake-up that nobody gives at this instant")
        try:
            return acquire_really(self._real, timeout)
        finally:
            explorer.waits_outside("")

    def release(self) -> None:
        """As that of ``threading.Lock``."""
        holder, self._holder = self._holder, None
        try:
            self._real.release()
        except RuntimeError:  # it is not held, or by somebody else
            self._holder = holder
            raise
        self._tell()

    def _tell(self) -> None:
        if not _current:
            return
        explorer = _current[-1]
        for actor in list(self._waiters):
            explorer.wake(actor, lambda actor=actor: actor in self._waiters)  # type: ignore[misc]
        if self._pointed:
            explorer.point("after a lock")

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return bool(self._real.locked())

    def _is_owned(self) -> bool:  # what Condition asks, without a point
        return self.locked()

    def _at_fork_reinit(self) -> None:
        self._real._at_fork_reinit()
        self._holder = None

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class ExploredRLock(ExploredLock):
    """As ``threading.RLock``."""

    _depth = 0

    @staticmethod
    def _make() -> Any:
        return Real.rlock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As that of ``threading.RLock``; a ``timeout`` is of fake time while an actor holds it."""
        if self._real._is_owned():
            self._real.acquire()
            self._depth += 1
            return True
        taken = super().acquire(blocking, timeout)
        if taken:
            self._depth = 1
        return taken

    def release(self) -> None:
        """As that of ``threading.RLock``."""
        if self._depth > 1 and self._real._is_owned():
            self._depth -= 1
            self._real.release()
        else:
            super().release()

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self._holder is not None or bool(self._real._is_owned())

    # What Condition asks of a lock that can be held several times.

    def _is_owned(self) -> bool:
        return bool(self._real._is_owned())

    def _release_save(self) -> int:
        depth = self._depth
        for _ in range(depth - 1):
            self.release()
        self.release()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        for _ in range(depth):
            self.acquire()


_OF_THREADS = tuple(
    method.__code__
    for method in (threading.Thread.__init__, threading.Thread.start, threading.Thread.join)
)


def _is_machinery() -> bool:
    """Whether ``threading`` makes a lock for a thread, or for something that we wait for."""
    frame = sys._getframe(2)
    if frame.f_globals is not vars(threading):
        return False
    while frame.f_back is not None and frame.f_globals is vars(threading):
        if frame.f_code in _OF_THREADS:
            return True
        frame = frame.f_back
    return _is_ours(frame)


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(_OURS)


def _asking() -> tuple[ExploringScheduler | None, Actor | None]:
    """The actor that asks for a lock and can wait for it on the clock."""
    if not _current:
        return None, None
    explorer = _current[-1]
    actor = explorer.me()
    return (explorer, actor) if explorer.has_turn(actor) else (None, None)


@contextmanager
def explored_locks() -> Iterator[None]:
    """New locks are of these kinds meanwhile, and those of the user's modules too."""
    undo: list[Callable[[], None]] = []

    def put(owner: Any, name: str, new: object) -> None:
        old = getattr(owner, name)
        setattr(owner, name, new)
        undo.append(lambda: setattr(owner, name, old))

    made = {type(Real.lock()): ExploredLock, type(Real.rlock()): ExploredRLock}
    makers = {Real.lock: ExploredLock, Real.rlock: ExploredRLock}
    try:
        for owner in _users_modules_and_classes():
            for name, value in list(vars(owner).items()):
                kind = made.get(type(value))
                if kind is not None:
                    put(owner, name, kind(value))
                elif name in _NAMES and value in makers:
                    put(owner, name, makers[value])
        put(threading, "_allocate_lock", ExploredLock)
        put(threading, "Lock", ExploredLock)
        put(threading, "RLock", ExploredRLock)
        yield
    finally:
        while undo:
            undo.pop()()


def _users_modules_and_classes() -> Iterator[Any]:
    for module in list(sys.modules.values()):
        if not is_users_file(getattr(module, "__file__", None)):
            continue
        yield module
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield value
