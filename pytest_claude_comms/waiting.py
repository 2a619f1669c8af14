"""Waiting, written once for threads and for asyncio.

What a waiter does is a generator that yields a :class:`Park` whenever there is nothing to do but
wait; ``drive`` waits by blocking, ``drive_async`` by awaiting.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias, TypeVar

from .clock import AsyncWakeup, Clock, Signal, Wakeup, Why, seconds_to_us
from .errors import WaitTimeout

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Park:
    """Nothing to do for ``span_us`` unless something is signalled; None: for ever."""

    span_us: int | None
    why: Why


@dataclass(frozen=True, slots=True)
class Patience:
    """Until when somebody waits, on a clock's monotonic time; None: for ever."""

    seconds: float
    end_us: int | None

    @classmethod
    def starting(cls, clock: Clock, seconds: float | None) -> Patience:
        """Patience of so many seconds from now."""
        if seconds is None:
            return cls(0.0, None)
        return cls(seconds, clock.monotonic_us() + seconds_to_us(seconds, "timeout"))

    def is_over(self, clock: Clock, *, instant_over: bool = True) -> bool:
        """Whether its end has come; ``instant_over``: and if it is now, nothing more comes now."""
        if self.end_us is None:
            return False
        left_us = self.end_us - clock.monotonic_us()
        return left_us < 0 or (left_us == 0 and instant_over)

    def span_us(self, clock: Clock, most_us: int) -> int:
        """How long to wait without outlasting it: ``most_us``, or less."""
        if self.end_us is None:
            return most_us
        return max(0, min(most_us, self.end_us - clock.monotonic_us()))


Running: TypeAlias = Generator[Park, bool, T]
"""It is sent whether something was signalled; if not, the time is up."""
Steps: TypeAlias = Callable[[Signal], Running[T]]
"""Begun with the signal that its waiter hears: what it does itself need not wake it."""


def drive(running: Running[T], wakeup: Wakeup, beat_us: int, *, notified: bool) -> T:
    """Go through the steps to their end, blocking where they park; returns their result."""
    __tracebackhide__ = True
    blocking = _runs_event_loop()
    try:
        park = next(running)
        while True:
            why = partial(_holding_up, park.why) if blocking else park.why
            woken = wakeup.wait(park.span_us, why=why, beat_us=beat_us, notified=notified)
            park = running.send(woken)
    except StopIteration as end:
        result: T = end.value
        return result
    except WaitTimeout as error:
        if blocking:
            error.add_hint(f"this wait {_BLOCKED}")
        raise


_BLOCKED = "holds up the running event loop: await wait_async(…) or its like instead"


def _holding_up(why: Why) -> str:
    return f"{why if isinstance(why, str) else why()} (this {_BLOCKED})"


def _runs_event_loop() -> bool:
    """Whether this thread is in the midst of a coroutine. Who has no loop loads no asyncio."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None


async def drive_async(
    running: Running[T], wakeup: AsyncWakeup, beat_us: int, *, notified: bool
) -> T:
    """As ``drive``, awaiting where they park."""
    try:
        park = next(running)
        while True:
            woken = await wakeup.wait(
                park.span_us, why=park.why, beat_us=beat_us, notified=notified
            )
            park = running.send(woken)
    except StopIteration as end:
        result: T = end.value
        return result
