"""A clock that a test moves, and that threads obey."""

from __future__ import annotations

import inspect
import operator
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timezone
from functools import partial
from typing import Any

from ..clock import (
    FIRST_US,
    LAST_US,
    SECOND,
    AsyncWakeup,
    Backoff,
    Clock,
    Handle,
    Wakeup,
    Why,
    seconds_to_us,
    to_datetime,
    to_us,
)
from .actors import ORDINARY, POLLS, SETTLED, Actor, Killed, Real
from .freeze import Freeze
from .on_purpose import is_on_purpose
from .scheduler import Scheduler
from .watchdog import Watchdog

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


class StillRunning(RuntimeError):
    """Actors that do not end with their clock."""


class FakeClock(Clock):
    """Time that passes only when everybody waits for it, and then at once.

    It counts whole microseconds from ``start`` (aware; 2026-01-01 UTC by default). The test, a
    started poller, callbacks and what ``spawn``, ``at`` and ``after`` run are its *actors*: one
    of them runs at a time, and when all of them wait, time jumps to the next thing that is due.
    Time moves only inside ``advance``, ``sleep``, ``run_until_idle``, ``join`` and the poller's
    waiting methods. The same script gives the same events in the same order, every time.

    While installed (the ``clock`` fixture does it), ``time.time``, ``datetime.now`` and the like
    show fake time, and ``time.sleep`` waits on this clock when an actor calls it.

    What stays real: ``Event.wait``, ``queue.get`` and ``Thread.join`` with a timeout, and every
    thread that this clock did not start. A loop on ``time.monotonic()`` that does not sleep
    never ends. An actor that blocks outside the clock fails the test with ClockDeadlock after
    ``watchdog`` seconds of real time; so do a million turns at one instant of actors that wait for
    no more than their turn (``sleep(0)``), and a wait that nothing can end, at once.
    """

    def __init__(self, start: datetime = START, *, watchdog: float = 10.0) -> None:
        self._start_us = to_us(start)
        if not FIRST_US <= self._start_us <= LAST_US:
            raise ValueError(
                f"start={start!r} is outside the years 1 to 9999 in UTC, in which the clock counts"
            )
        self.start = start
        """The first instant."""
        if seconds_to_us(watchdog, "watchdog") == 0:
            raise ValueError("watchdog must be more than 0 seconds")
        self._scheduler = self._new_scheduler(watchdog, LAST_US - self._start_us)
        self._watchdog = Watchdog(self._scheduler)
        self._freeze: Freeze | None = None
        self._outside: dict[object, object] = {}
        """By the key of each ``outside`` block the thread that is inside."""
        self.when_declared: list[Callable[[object], object]] = []
        """Each is called with the key of work that is being declared, right before it counts."""
        self.jumps = 0
        """How often time has moved."""

    def _new_scheduler(self, watchdog: float, last_us: int) -> Scheduler:
        return Scheduler(watchdog, self._moved, last_us)

    # -- reading

    def now_us(self) -> int:
        return self._start_us + self._scheduler.now_us

    def monotonic_us(self) -> int:
        return self._scheduler.now_us

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._scheduler.now_us / SECOND

    # -- moving

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass for the actor that calls this; on a thread outside it is real.

        Raises RuntimeError inside the caller's own ``clock.outside`` block.
        """
        __tracebackhide__ = True
        us = _span_us(seconds, "seconds")
        if self._scheduler.me() is None:
            Real.sleep(seconds)
        else:
            self._not_outside("sleep")
            self._scheduler.park(f"{seconds:g} s to pass", at_us=self._scheduler.now_us + us)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass and all happen that falls due, callbacks included.

        Returns at exactly that instant, with everything settled. Only for the test itself.
        Raises the error of an action, actor or callback, ValueError for a negative span.
        """
        __tracebackhide__ = True
        self._only_the_test("advance")
        us = _span_us(seconds, "seconds")
        self._scheduler.park("advance", at_us=self._scheduler.now_us + us, order=SETTLED)

    def run_until_idle(self) -> None:
        """Let all happen that can, however late it is due. Only for the test itself."""
        __tracebackhide__ = True
        self._only_the_test("run_until_idle")
        self._scheduler.park_until_idle()

    # -- scheduling

    def at(self, t: float, f: Callable[..., object], /, *args: Any, **kwargs: Any) -> Handle:
        """Call ``f`` at ``t`` seconds after the start. Raises ValueError for the past.

        At one instant, actions run in the order in which they were asked for, and before any
        poller looks.
        """
        us = seconds_to_us(t, "t")
        if us < self._scheduler.now_us:
            raise ValueError(f"t={t:g} is past: it is +{self.elapsed:g} s, time can't go back")
        return self._start_actor(_plan(f, us), us, f, args, kwargs)

    def after(self, d: float, f: Callable[..., object], /, *args: Any, **kwargs: Any) -> Handle:
        """Call ``f`` in ``d`` seconds."""
        us = self._scheduler.now_us + _span_us(d, "d")
        return self._start_actor(_plan(f, us), us, f, args, kwargs)

    def spawn(self, f: Callable[..., object], /, *args: Any, **kwargs: Any) -> Handle:
        """Run ``f`` on a thread of its own, as an actor: it may sleep and wait on this clock."""
        return self._start_actor(_name(f), None, f, args, kwargs)

    def _start_actor(
        self,
        name: str,
        at_us: int | None,
        f: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Handle:
        if not callable(f):
            raise TypeError(f"{f!r} cannot be called; pass the function and its arguments apart")
        if inspect.iscoroutinefunction(f):
            raise TypeError(f"{_name(f)} is an async function: pass lambda: asyncio.run(f())")
        self._scheduler.check_open()
        self.watch_test()
        actor = self._scheduler.start(name, partial(f, *args, **kwargs), at_us)
        return _FakeHandle(self._scheduler, actor)

    @contextmanager
    def outside(self, what: str) -> Iterator[None]:
        """Declare work in real time (a child process, a thread of your own): no time jumps
        meanwhile, and a poller that waits looks for the writes of other processes. For who
        declares it ``time.sleep`` is real inside, so that ``subprocess`` can wait there."""
        key = object()
        try:
            self._outside[key] = threading.get_ident()
            self.outside_works(key, what)
            yield
        finally:
            self._outside.pop(key, None)
            self.outside_rests(key)

    # -- for the library

    def wakeup(self, *, polls: bool = False) -> Wakeup:
        return _FakeWakeup(self._scheduler, POLLS if polls else ORDINARY)

    def async_wakeup(self, *, polls: bool = False) -> AsyncWakeup:
        from .fake_asyncio import FakeLoopWakeup

        return FakeLoopWakeup(self._scheduler, polls=polls)

    def lock(self) -> AbstractContextManager[object]:
        return _FakeLock(self._scheduler)

    def backoff(self, bound_us: int) -> Backoff:
        return _FakeBackoff(self._scheduler, bound_us)

    def outside_works(self, key: object, what: Why) -> None:
        for hear in self.when_declared:
            hear(key)
        self._scheduler.outside_works(key, what)

    def outside_rests(self, key: object) -> None:
        self._scheduler.outside_rests(key)

    def unhandled(self, error: BaseException, what: str) -> None:
        if isinstance(error, Killed):
            raise error
        if not is_on_purpose(error):
            self._scheduler.fail(error, what)

    def is_outside(self, key: object) -> bool:
        """Whether something is declared by ``key`` to go on in real time."""
        return self._scheduler.is_outside(key)

    def watch_test(self) -> None:
        """Look after the test's own thread from now on, though no actor was started: it may
        block on something that this clock knows of."""
        self._watchdog.start()

    def describe(self) -> str:
        jumps = "1 jump" if self.jumps == 1 else f"{self.jumps:,} jumps"
        return f"fake clock, {jumps}"

    def watch_store(self, store: object) -> None:
        """A store of the test's, on this clock."""

    # -- its life

    def install(self, *, freeze: bool = True) -> None:
        """Let ``time.sleep`` and asyncio's event loops wait on this clock, and show its time to
        code that reads the standard library's (``freeze=False``: that stays real)."""
        start, before = to_datetime(self._start_us), self._freeze
        installed = Freeze(start, self._scheduler, self._sleep_of_anybody, freeze=freeze)
        try:
            self._freeze = installed
            installed.install()
            installed.move(self._scheduler.now_us)
        except BaseException:
            installed.uninstall()
            self._freeze = before
            raise

    def close(self) -> None:
        """End all actors and put real time back.

        Raises the first error of an actor that no call has raised yet (the others are its
        context), StillRunning, a RuntimeError, for an actor that does not end.
        """
        __tracebackhide__ = True
        try:
            self._watchdog.stop()
        finally:
            try:
                stuck = self._scheduler.close()
            finally:
                if self._freeze is not None:
                    self._freeze.uninstall()
                    self._freeze = None
        self._scheduler.raise_failures()
        if stuck:
            names = ", ".join(actor.name for actor in stuck)
            raise StillRunning(f"{names}: still running after the test's clock was closed")

    def __enter__(self) -> FakeClock:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FakeClock {self.now().isoformat()}, +{self.elapsed:g} s>"

    def waiting(self) -> list[str]:
        """Which actors beside the test wait for what, a line each, for a person."""
        return self._scheduler.lines()

    @contextmanager
    def watched(self, watched: bool) -> Iterator[None]:
        """Whether the watchdog looks after the test's own thread meanwhile."""
        before, self._watchdog.armed = self._watchdog.armed, watched
        try:
            yield
        finally:
            self._watchdog.armed = before

    def _moved(self, us: int) -> None:
        self.jumps += 1
        if self._freeze is not None:
            self._freeze.move(us)

    def _sleep_of_anybody(self, seconds: Any) -> None:
        # Without a freeze: kept by somebody who imported it while it stood for time.sleep.
        if self._freeze is None or self._is_inside_outside():
            Real.sleep(seconds)
        else:  # it takes what time.sleep takes: True, and a number that is one by its __index__
            self.sleep(seconds if isinstance(seconds, float) else int(operator.index(seconds)))

    def _only_the_test(self, what: str) -> None:
        if self._scheduler.me() is not self._scheduler.test:
            raise RuntimeError(f"only the test itself may call {what}(); elsewhere use sleep()")
        self._not_outside(what)

    def _not_outside(self, what: str) -> None:
        if self._is_inside_outside():
            raise RuntimeError(
                f"clock.{what}() inside clock.outside(): no time passes there; leave the block "
                "first, or wait for what goes on outside with time.sleep() or a poller"
            )

    def _is_inside_outside(self) -> bool:
        # By thread, not by task: a task that blocks its loop keeps all others of it inside.
        return threading.get_ident() in list(self._outside.values())


class _FakeWakeup:
    def __init__(self, scheduler: Scheduler, order: int) -> None:
        self._scheduler = scheduler
        self._order = order
        self._set = False
        self._waiter: Actor | None = None

    def set(self) -> None:
        self._set = True
        waiter = self._waiter
        if waiter is not None:
            # By now a waiter whose time was up may wait for something else.
            self._scheduler.wake(waiter, lambda: self._waiter is waiter)

    def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        __tracebackhide__ = True
        scheduler = self._scheduler
        now_us = scheduler.now_us
        self._waiter = scheduler.me()
        woken = False
        try:
            if self._waiter is None:
                self._wait_outside(timeout_us)
            else:
                woken = scheduler.park(
                    why,
                    at_us=None if timeout_us is None else now_us + timeout_us,
                    beat_us=None if notified or beat_us is None else now_us + beat_us,
                    beats=beat_us is not None,
                    order=self._order,
                    unless=lambda: self._set,
                )
        finally:
            self._waiter = None
            was_set, self._set = self._set, False
        return woken or was_set

    def _wait_outside(self, timeout_us: int | None) -> None:
        # A thread that this clock does not know: it looks at fake time in real time.
        scheduler = self._scheduler
        end_us = None if timeout_us is None else scheduler.now_us + timeout_us
        while not self._set and (end_us is None or scheduler.now_us < end_us):
            scheduler.check_open()
            Real.sleep(0.001)


class _FakeHandle:
    def __init__(self, scheduler: Scheduler, actor: Actor) -> None:
        self._scheduler = scheduler
        self._actor = actor

    def join(self, timeout: float | None = None) -> bool:
        """Let time pass until it has ended; False if ``timeout`` seconds pass before."""
        __tracebackhide__ = True
        us = None if timeout is None else _span_us(timeout, "timeout")
        return self._scheduler.join(
            self._actor, None if us is None else self._scheduler.now_us + us
        )

    def is_alive(self) -> bool:
        return self._scheduler.goes_on(self._actor)


class _FakeLock:
    """A lock whose holder may park; its waiters park too. Reentrant."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._mutex = Real.rlock()  # a signal's handler may want it in the midst
        self._owner: int | None = None
        self._depth = 0
        self._waiters: deque[tuple[int, _FakeWakeup]] = deque()

    def __enter__(self) -> None:
        me = threading.get_ident()
        before = self._depth if self._owner == me else 0
        wakeup = _FakeWakeup(self._scheduler, ORDINARY)
        try:
            with self._mutex:
                if self._owner in (None, me):
                    self._owner, self._depth = me, before + 1
                    return
                self._waiters.append((me, wakeup))
            while True:  # On 3.13 an alarm escapes `while x` (python/cpython#130279).
                if self._owner == me:
                    break
                wakeup.wait(None, why="a lock that another actor holds")
            with self._mutex:
                self._waiters.remove((me, wakeup))
        except BaseException:  # the clock is closed, nothing can happen any more, an interrupt
            self._give_up(me, before, wakeup)
            raise

    def __exit__(self, *exc: object) -> None:
        left = self._depth - 1
        try:
            self._leave(left)
        except BaseException:
            self._leave(left)
            raise

    def _leave(self, left: int) -> None:
        if left:
            self._depth = left
        else:
            self._let_go(threading.get_ident())

    def _let_go(self, me: int) -> None:
        """Free it, if it is ``me`` who has it. To say it again changes nothing."""
        with self._mutex:
            if self._owner == me:
                # Handed over, not put down: who waits is served before who comes again.
                heir = self._waiters[0][0] if self._waiters else None
                self._owner, self._depth = heir, int(heir is not None)
            # No `for` with an `if` in here: on 3.13 an alarm there would leave the lock held.
            owner, waiters = self._owner, list(self._waiters)
        for ident, wakeup in waiters:
            if ident == owner:
                wakeup.set()

    def _give_up(self, me: int, before: int, wakeup: _FakeWakeup) -> None:
        with self._mutex:
            if (me, wakeup) in self._waiters:
                self._waiters.remove((me, wakeup))
            if self._owner == me:
                self._depth = before
        if not before:
            self._let_go(me)


class _FakeBackoff:
    """Pauses in fake time, and gives the processor to other processes for a real millisecond."""

    _LONGEST_US = 8_000
    _LEAST_REAL = 1.0

    def __init__(self, scheduler: Scheduler, bound_us: int) -> None:
        self._scheduler = scheduler
        self._bound_us = bound_us
        self._start_us = scheduler.now_us
        self._start_real = Real.monotonic()
        self._next_us = 1_000

    def pause(self) -> bool:
        scheduler = self._scheduler
        real = Real.monotonic() - self._start_real
        outsider = scheduler.me() is None
        left_us = self._start_us + self._bound_us - scheduler.now_us
        if outsider:
            left_us = self._bound_us - round(real * SECOND)
        if left_us <= 0 and real >= self._LEAST_REAL:
            return False
        Real.sleep(0.001)
        if not outsider:
            step_us = max(0, min(self._next_us, left_us))
            # It beats: while work is declared outside, time stands still and the holder may be it.
            scheduler.park("a busy store", at_us=scheduler.now_us + step_us, beats=True)
            self._next_us = min(2 * self._next_us, self._LONGEST_US)
        return True

    @property
    def waited(self) -> float:
        # Of an actor it is the clock's time: what a test reads must not hang on the machine's load.
        if self._scheduler.me() is None:
            return Real.monotonic() - self._start_real
        return (self._scheduler.now_us - self._start_us) / SECOND


def _span_us(seconds: float, what: str) -> int:
    """As ``seconds_to_us``; what is more than nothing takes a microsecond at least: who waits for
    what is left until an instant, again and again, would else never come to it."""
    return max(seconds_to_us(seconds, what), int(seconds > 0))


def _plan(f: object, us: int) -> str:
    # Two lambdas are told apart by where they were planned.
    caller = sys._getframe(2)
    where = f"{os.path.basename(caller.f_code.co_filename)}:{caller.f_lineno}"
    return f"{_name(f)} (for +{us / SECOND:g} s, {where})"


def _name(f: object) -> str:
    while isinstance(f, partial):
        f = f.func
    return str(getattr(f, "__qualname__", None) or repr(f))
