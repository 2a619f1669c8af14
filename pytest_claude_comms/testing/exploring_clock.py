"""A fake clock on which a schedule is explored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from typing import Any

from ..clock import Handle, Wakeup, Why
from .exploring_locks import scheduled_by
from .exploring_plan import Plan, Seed
from .exploring_points import Points
from .exploring_scheduler import ExploringScheduler
from .exploring_trace import Named, Operation, short_name
from .fake_clock import START, FakeClock
from .scheduler import Scheduler


class ExploringClock(FakeClock):
    """A fake clock that gives turns as a seed says. What an actor does with the clock, a store, a
    poller or a lock is a point at which it may lose its turn, while ``exploring``.

    ``lines`` makes each line of certain code one too, see :mod:`.exploring_lines`.
    """

    def __init__(
        self,
        seed: Seed,
        start: datetime = START,
        *,
        watchdog: float = 10.0,
        lines: bool | tuple[str, ...] = False,
    ) -> None:
        self._plan = Plan(seed)
        super().__init__(start, watchdog=watchdog)
        self._explorer: ExploringScheduler
        if lines:
            from .exploring_lines import Lines

            self._explorer.tracer = Lines(self._explorer, lines)
        self._points = Points(self._explorer)
        self._locks = ExitStack()

    @property
    def explorer(self) -> ExploringScheduler:
        """Its scheduler: the trace, and how many points there were."""
        return self._explorer

    def _new_scheduler(self, watchdog: float, last_us: int) -> Scheduler:
        self._explorer = ExploringScheduler(self._plan, watchdog, self._moved, last_us)
        return self._explorer

    def install(self, *, freeze: bool = True) -> None:
        super().install(freeze=freeze)
        self._locks.enter_context(scheduled_by(self._explorer))

    def close(self) -> None:
        __tracebackhide__ = True
        try:
            super().close()
        finally:
            self._locks.close()

    @contextmanager
    def exploring(self) -> Iterator[None]:
        """Turns can be lost meanwhile: for the time of the test itself."""
        explorer = self._explorer
        from .exploring_tasks import Tasks

        with self._points, Tasks(explorer):
            explorer.armed = True
            try:
                if explorer.tracer is None:
                    yield
                else:
                    with explorer.tracer.traced():
                        yield
            finally:
                explorer.armed = False

    @contextmanager
    def watched(self, watched: bool) -> Iterator[None]:
        with super().watched(watched):
            if watched:
                with self.exploring():
                    yield
            else:
                yield

    def watch_store(self, store: object) -> None:
        """Make the operations of a store that is not of ours points, too."""
        self._points.watch(type(store))

    # -- what it does, with points

    def _start_actor(
        self,
        name: str,
        at_us: int | None,
        f: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Handle:
        handle = super()._start_actor(name, at_us, f, args, kwargs)
        self._explorer.does(
            Operation("start" if at_us is None else "plan", (Named(short_name(name)),))
        )
        self._explorer.point(f"after the start of {short_name(name)}")
        return handle

    def wakeup(self, *, polls: bool = False) -> Wakeup:
        return _PointedWakeup(self._explorer, super().wakeup(polls=polls))

    def lock(self) -> AbstractContextManager[object]:
        return _PointedLock(self._explorer, super().lock())


class _PointedWakeup:
    def __init__(self, explorer: ExploringScheduler, wakeup: Wakeup) -> None:
        self._explorer = explorer
        self._wakeup = wakeup

    def set(self) -> None:
        self._explorer.point("before it wakes another")
        self._wakeup.set()

    def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        __tracebackhide__ = True
        self._explorer.point("before it waits")
        return self._wakeup.wait(timeout_us, why=why, beat_us=beat_us, notified=notified)


class _PointedLock:
    def __init__(self, explorer: ExploringScheduler, lock: AbstractContextManager[object]) -> None:
        self._explorer = explorer
        self._lock = lock

    def __enter__(self) -> None:
        self._explorer.point("before a lock")
        self._lock.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._lock.__exit__(*exc)  # type: ignore[arg-type]
        self._explorer.point("after a lock")
