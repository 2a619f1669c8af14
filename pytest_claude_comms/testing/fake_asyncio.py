"""Makes asyncio's event loops wait on a fake clock.

A loop does two things with time: it reads it (``loop.time``), and it waits for its selector, for
so long as nothing is ready. Both are replaced, in the classes and only for loops that run in an
actor, so that loops made before (by pytest-asyncio, anyio, a wider fixture) obey too. While the
loop waits, its actor is parked like any other; ``call_soon_threadsafe`` wakes it.

Work in an executor is a thread outside the clock; no time passes until it is done. What arrives
by a socket or a pipe is outside too, and has to be declared by ``clock.outside(…)``.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from asyncio import base_events, events
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from ..clock import SECOND, Why
from ..loop_wakeup import LoopWakeup
from .actors import POLLS, Actor, Real
from .loop_tasks import lines_of, names_of, told
from .scheduler import Scheduler

_CLEANING = 0.05
"""Real seconds for which a loop whose clock has stopped waits at a time."""
_ALONE = 10_000
"""So many steps at one instant a loop that nobody waits for takes without a change of turns."""
_HALF_A_MICROSECOND = 0.5 / SECOND
_SELECTORS = (
    "SelectSelector",
    "PollSelector",
    "EpollSelector",
    "DevpollSelector",
    "KqueueSelector",
)


class FakeLoops:
    """The replacements, for as long as a clock is installed."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._undo: list[Callable[[], None]] = []
        self._parked: dict[int, Actor] = {}
        """By the ``id`` of its loop."""

    def install(self) -> None:
        """Replace; ``uninstall`` undoes it."""
        # freezegun puts a `time` of its own into the concrete class.
        for loop_class in {base_events.BaseEventLoop, asyncio.SelectorEventLoop}:
            self._replace(loop_class, "time", self._time())
        self._replace_wrapped(base_events.BaseEventLoop, "call_soon_threadsafe", self._threadsafe)
        self._replace_wrapped(base_events.BaseEventLoop, "run_in_executor", self._in_executor)
        self._replace_wrapped(
            base_events.BaseEventLoop, "shutdown_default_executor", self._shutting_down
        )
        for name in _SELECTORS:
            selector_class = getattr(selectors, name, None)
            if selector_class is not None:
                self._replace_wrapped(selector_class, "select", self._select)

    def uninstall(self) -> None:
        """Put back what was there."""
        while self._undo:
            self._undo[-1]()
            self._undo.pop()

    def _replace(self, cls: type, name: str, new: object) -> None:
        missing = object()
        old = cls.__dict__.get(name, missing)

        def undo() -> None:
            if old is not missing:
                setattr(cls, name, old)
            elif name in cls.__dict__:
                delattr(cls, name)

        self._undo.append(undo)
        setattr(cls, name, new)

    def _replace_wrapped(
        self, cls: type, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._replace(cls, name, wrap(getattr(cls, name)))

    def _time(self) -> Callable[[Any], float]:
        scheduler = self._scheduler

        def time(_: Any) -> float:
            if scheduler.me() is None:
                return Real.monotonic()
            # A loop whose clock has stopped is cleaned up in real time: another error now would
            # hide the one that stopped it.
            return scheduler.now_us / SECOND + (scheduler.stopped_for or 0.0)

        return time

    def _select(self, real: Callable[..., Any]) -> Callable[..., Any]:
        scheduler = self._scheduler

        def select(selector: Any, timeout: float | None = None) -> Any:
            loop: Any = events._get_running_loop()
            actor = scheduler.me()
            if actor is None or getattr(loop, "_selector", None) is not selector:
                return real(selector, timeout)
            ready = real(selector, 0)
            if ready:
                return ready
            stopped_for = scheduler.stopped_for
            if stopped_for is not None and stopped_for < scheduler.watchdog:
                if not actor.killed and actor is not scheduler.test:
                    scheduler.check_open()
                return real(selector, _CLEANING if timeout is None else min(timeout, _CLEANING))
            # A timer is due before `time() + resolution`: so it is at the microsecond that it is
            # rounded to, and, after some 100 days on this clock, where that sum would else be
            # `time()` again, and nothing would ever be due.
            loop._clock_resolution = max(
                loop._clock_resolution, _HALF_A_MICROSECOND, math.ulp(loop.time())
            )
            span_us = _span_us(loop, timeout)
            if span_us == 0:
                if actor.killed and stopped_for is None and actor.steps_to_clean_up:
                    actor.steps_to_clean_up -= 1
                    return ready
                # Who goes on for ever is to be seen by those that watch over the turns.
                if actor.spins_at(scheduler.now_us) < _ALONE and not scheduler.others_are_ready:
                    actor.spin(scheduler.now_us)
                    scheduler.check_open()
                    return ready
            self._parked[id(loop)] = actor
            actor.details = partial(lines_of, loop)
            try:
                scheduler.park(
                    lambda: f"asyncio ({names_of(loop)})",
                    at_us=None if span_us is None else scheduler.now_us + span_us,
                    beats=True,
                    # What call_soon_threadsafe wrote before we parked is in the selector now.
                    unless=lambda: bool(real(selector, 0)),
                )
            finally:
                del self._parked[id(loop)]
                actor.details = None
            return real(selector, 0)

        return select

    def _threadsafe(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call_soon_threadsafe(loop: Any, *args: Any, **kwargs: Any) -> Any:
            handle = real(loop, *args, **kwargs)
            actor = self._parked.get(id(loop))
            if actor is not None:
                self._scheduler.wake(actor, lambda: self._parked.get(id(loop)) is actor)
            return handle

        return call_soon_threadsafe

    def _in_executor(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def run_in_executor(loop: Any, executor: Any, f: Any, *args: Any) -> Any:
            if self._scheduler.me() is None:
                return real(loop, executor, f, *args)
            if executor is None:
                executor = _default_executor(loop)
            return real(loop, _Declaring(self._scheduler, executor, _name(f)), f, *args)

        return run_in_executor

    def _shutting_down(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def shutdown_default_executor(loop: Any, *args: Any, **kwargs: Any) -> Any:
            key = object()
            self._scheduler.outside_works(key, "the end of an executor's threads")
            try:
                return await real(loop, *args, **kwargs)
            finally:
                self._scheduler.outside_rests(key)

        return shutdown_default_executor


def _span_us(loop: Any, timeout: float | None) -> int | None:
    """For how long it waits; 0 only if something is due. What is due in less than a microsecond
    takes one: who sleeps for what is left until an instant would else never come to it. A loop
    asks its selector for a day at most, and looks again."""
    if timeout is None or timeout <= 0:
        return None if timeout is None else 0
    scheduled = getattr(loop, "_scheduled", None)
    if not scheduled:
        return max(1, round(timeout * SECOND))
    when, now = scheduled[0].when(), loop.time()
    if when <= now:
        return 0
    return None if when == math.inf else max(1, round((when - now) * SECOND))


def _default_executor(loop: Any) -> Any:
    loop._check_default_executor()
    if loop._default_executor is None:
        loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
    return loop._default_executor


class _Declaring:
    """An executor whose job goes on outside until it has ended, and whoever waits for it knows."""

    def __init__(self, scheduler: Scheduler, executor: Any, name: str) -> None:
        self._scheduler = scheduler
        self._executor = executor
        self._what = f"{name} in an executor"

    def submit(self, f: Callable[..., Any], *args: Any) -> Future[Any]:
        job = self._executor.submit(f, *args)
        told = _Told(job)
        self._scheduler.outside_works(told, self._what)
        job.add_done_callback(lambda _: self._scheduler.outside_ends(told, told.tell))
        return told


class _Told(Future[Any]):
    """What became of a job: that it is told, and that it rests, is one."""

    def __init__(self, job: Future[Any]) -> None:
        super().__init__()
        self._job = job

    def cancel(self) -> bool:
        return self._job.cancel() and super().cancel()

    def tell(self) -> None:
        job = self._job
        if job.cancelled():
            super().cancel()
        elif job.exception() is not None:
            self.set_exception(job.exception())
        else:
            self.set_result(job.result())


def _name(f: Any) -> str:
    # asyncio.to_thread hands over partial(context.run, f, …).
    while isinstance(f, partial):
        is_context = getattr(f.func, "__name__", "") == "run" and f.args
        f = f.args[0] if is_context else f.func
    return str(getattr(f, "__qualname__", None) or repr(f))


class FakeLoopWakeup(LoopWakeup):
    """A wakeup whose beat keeps nothing alive, and whose waiter looks after all have written."""

    def __init__(self, scheduler: Scheduler, *, polls: bool) -> None:
        super().__init__()
        self._scheduler = scheduler
        self._polls = polls

    async def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        """As ``Wakeup.wait``."""
        scheduler = self._scheduler
        beat = None
        if beat_us is not None and not notified:
            at_us = scheduler.now_us + beat_us
            beat = scheduler.start("a beat", self._beat, at_us, weak=True)
        due = None
        if timeout_us is not None and self._polls:
            # Not the loop's own timer: that one would be due while others still write.
            at_us = scheduler.now_us + timeout_us
            due = scheduler.start("time to poll", self._beat, at_us, order=POLLS)
        try:
            with told(why):
                await self._wait(None if self._polls else timeout_us)
        finally:
            for planned in (beat, due):
                if planned is not None:
                    scheduler.cancel(planned)
        in_between = False
        if self._polls and scheduler.me() is not None:
            # At one instant the loop's other tasks come first, and then all other actors.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            in_between = scheduler.stand_back("its turn to poll", POLLS)
        woken, self._set = self._set or in_between, False
        return woken

    def _beat(self) -> None:
        try:
            self.loop.call_soon_threadsafe(self._resume)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._waiting = None
