"""Time, and waiting. The only file that reads the system's clock.

Everything else asks the :class:`Clock` it was given, so that a test can put a fake one in.
Inside, an instant is an integer number of microseconds since 1970 (UTC) and a span an integer
number of microseconds: float seconds would drift, and ties would be decided by rounding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol, TypeAlias, runtime_checkable

SECOND = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


FIRST_US = (datetime.min.replace(tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND
"""The first instant that a datetime can hold, in the year 1: a fake clock may stand there."""
LAST_US = (datetime.max.replace(tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND
"""The last instant that a datetime can hold, in the year 9999."""


def to_datetime(us: int) -> datetime:
    """The aware UTC datetime of an instant in microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime.

    Raises ValueError for a naive one, TypeError for what is none.
    """
    if not isinstance(moment, datetime):
        raise TypeError(f"an instant is an aware datetime, not {moment!r}")
    if moment.utcoffset() is None:
        raise ValueError(f"{moment!r} has no time zone: give it one, such as tzinfo=timezone.utc")
    return (moment - _EPOCH) // _MICROSECOND


def seconds_to_us(seconds: object, what: str) -> int:
    """A span given in seconds, as microseconds.

    Raises TypeError for what is not a number, ValueError for NaN, infinities, negative spans
    and such as no datetime can hold.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{what} must be a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= 1e11:  # NaN compares false; 1e11 s is some 3,000 years
        raise ValueError(f"{what} must be between 0 and 1e11 seconds, not {seconds!r}")
    return round(seconds * SECOND)


Why: TypeAlias = str | Callable[[], str]
"""What a wait is for, in words, or how to ask for them: nobody reads them while all is well."""


class Signal(Protocol):
    """What somebody waits for."""

    def set(self) -> None:
        """End the present wait, or the next one. From any thread, also inside a callback."""


class Wakeup(Signal, Protocol):
    """A sticky signal for one waiter: a ``set`` that nobody was waiting for is not lost."""

    def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        """Wait until ``set``, which this call then consumes (True), or until time is up (False).

        ``beat_us`` is how often to look for what nobody signals; ``notified`` says that all that
        happens in this process is signalled. ``why`` names what is waited for, for a person.
        """


class AsyncWakeup(Signal, Protocol):
    """As ``Wakeup``, for a waiter in the asyncio event loop in which it was made."""

    async def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        """As ``Wakeup.wait``."""


class Handle(Protocol):
    """A running function that a clock knows of."""

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; False if ``timeout`` seconds pass before."""

    def is_alive(self) -> bool:
        """Whether it still runs."""


class Backoff(Protocol):
    """Patience with a resource that somebody else holds."""

    def pause(self) -> bool:
        """Wait a little, longer each time. False, without waiting, once the patience is spent."""

    @property
    def waited(self) -> float:
        """Seconds waited so far."""


@runtime_checkable
class Clock(Protocol):
    """Where the library takes time from, and the only thing it waits on."""

    def now_us(self) -> int:
        """Microseconds since 1970, UTC."""

    def monotonic_us(self) -> int:
        """Microseconds since some fixed instant; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""

    def wakeup(self, *, polls: bool = False) -> Wakeup:
        """A new signal. ``polls``: its waiter looks at a store, and at one instant comes after
        all that may still write to it."""

    def async_wakeup(self, *, polls: bool = False) -> AsyncWakeup:
        """As ``wakeup``, for the running event loop. RuntimeError if there is none."""

    def spawn(self, f: Callable[..., object], /, *args: Any, **kwargs: Any) -> Handle:
        """Run ``f`` on a thread that this clock knows of."""

    def lock(self) -> AbstractContextManager[object]:
        """A mutual exclusion whose holder may wait on this clock."""

    def backoff(self, bound_us: int) -> Backoff:
        """Patience of ``bound_us`` for a resource that this process or another holds."""

    def outside_works(self, key: object, what: Why) -> None:
        """``what``, known by ``key``, goes on in real time from now on: a child process. On a
        fake clock no time passes meanwhile. Saying it again changes nothing."""

    def outside_rests(self, key: object) -> None:
        """It has ended, or waits for something that only time can bring."""

    def unhandled(self, error: BaseException, what: str) -> None:
        """Report an error raised on a thread where no caller will see it."""

    def describe(self) -> str:
        """What kind of clock this is, for a person."""
        return "system clock"

    def now(self) -> datetime:
        """The time of day: aware, UTC."""
        return to_datetime(self.now_us())

    def monotonic(self) -> float:
        """Seconds since some fixed instant; never goes back."""
        return self.monotonic_us() / SECOND


def _log_unhandled(error: BaseException, what: str) -> None:
    import logging  # here: it costs every start, and hardly anybody needs it

    logging.getLogger("pytest_claude_comms").error("%s raised", what, exc_info=error)


_unhandled_hooks: list[Callable[[BaseException, str], None]] = [_log_unhandled]


def report_unhandled(error: BaseException, what: str) -> None:
    """Hand an error that no caller will see to the latest hook; by default it is logged."""
    _unhandled_hooks[-1](error, what)


@contextmanager
def unhandled_hook(hook: Callable[[BaseException, str], None]) -> Iterator[None]:
    """Give such errors to ``hook`` meanwhile."""
    _unhandled_hooks.append(hook)
    try:
        yield
    finally:
        _unhandled_hooks.remove(hook)


class _RealTime:
    # Class attributes, because freezegun replaces what it finds in module globals, and a
    # system clock must go on when a test froze the rest.
    now_ns = time.time_ns
    monotonic_ns = time.monotonic_ns
    sleep = time.sleep


class SystemClock(Clock):
    """Real time. All instances are alike; frozen time (freezegun) does not stop them."""

    def now_us(self) -> int:
        return _RealTime.now_ns() // 1000

    def monotonic_us(self) -> int:
        return _RealTime.monotonic_ns() // 1000

    def sleep(self, seconds: float) -> None:
        _RealTime.sleep(seconds)

    def wakeup(self, *, polls: bool = False) -> Wakeup:
        return _SystemWakeup()

    def async_wakeup(self, *, polls: bool = False) -> AsyncWakeup:
        from .loop_wakeup import LoopWakeup

        return LoopWakeup()

    def spawn(self, f: Callable[..., object], /, *args: Any, **kwargs: Any) -> Handle:
        handle = _SystemHandle(f, args, kwargs)
        handle.start()
        return handle

    def lock(self) -> AbstractContextManager[object]:
        return threading.RLock()

    def backoff(self, bound_us: int) -> Backoff:
        return _SystemBackoff(self, bound_us)

    def outside_works(self, key: object, what: Why) -> None:
        """Real time passes anyway."""

    def outside_rests(self, key: object) -> None:
        """Real time passes anyway."""

    def unhandled(self, error: BaseException, what: str) -> None:
        report_unhandled(error, what)

    def __repr__(self) -> str:
        return "SystemClock()"


class _SystemWakeup:
    # A lock that is held until somebody sets it, and no Event: that has a lock inside, for which
    # a signal handler that sets it in the midst of its own thread's set() would wait for ever.

    def __init__(self) -> None:
        self._unset = threading.Lock()
        self._unset.acquire()

    def set(self) -> None:
        with suppress(RuntimeError):  # it is set already
            self._unset.release()

    def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        __tracebackhide__ = True
        spans = [span for span in (timeout_us, beat_us) if span is not None]
        # Beyond threading.TIMEOUT_MAX a lock refuses; a day later the caller just looks again.
        span = max(0, min(*spans, 86_400 * SECOND)) / SECOND if spans else -1
        return self._unset.acquire(timeout=span)


class _SystemHandle:
    def __init__(
        self, f: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        # A daemon: a callback that never returns must not keep the interpreter from ending.
        self._call = f, args, kwargs
        self._thread = threading.Thread(
            target=self._run,
            name=f"claude-comms {getattr(f, '__name__', 'thread')}",
            daemon=True,
        )

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        f, args, kwargs = self._call
        try:
            f(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - nobody else would see it
            report_unhandled(error, self._thread.name)

    def join(self, timeout: float | None = None) -> bool:
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def is_alive(self) -> bool:
        return self._thread.is_alive()


class _SystemBackoff:
    """Pauses of 0.2 ms that double up to 8 ms: a store's write lock is held for well under one."""

    _FIRST_US = 200
    _LONGEST_US = 8_000

    def __init__(self, clock: SystemClock, bound_us: int) -> None:
        self._clock = clock
        self._start_us = clock.monotonic_us()
        self._bound_us = bound_us
        self._next_us = self._FIRST_US

    def pause(self) -> bool:
        left = self._start_us + self._bound_us - self._clock.monotonic_us()
        if left <= 0:
            return False
        _RealTime.sleep(min(self._next_us, left) / SECOND)
        self._next_us = min(2 * self._next_us, self._LONGEST_US)
        return True

    @property
    def waited(self) -> float:
        return (self._clock.monotonic_us() - self._start_us) / SECOND
