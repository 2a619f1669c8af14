"""Waiting, written once for threads and for asyncio.

What a waiter does is a generator that yields a :class:`Park` whenever there is nothing to do but
wait; ``drive`` waits by blocking, ``drive_async`` by awaiting.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from .clock import AsyncWakeup, Clock, Signal, Wakeup, Why, seconds_to_us

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

    def is_over(self, clock: Clock) -> bool:
        """Whether its end has come."""
        return self.end_us is not None and clock.monotonic_us() >= self.end_us


Running: TypeAlias = Generator[Park, None, T]
Steps: TypeAlias = Callable[[Signal], Running[T]]
"""Begun with the signal that its waiter hears: what it does itself need not wake it."""


def drive(running: Running[T], wakeup: Wakeup, beat_us: int, *, notified: bool) -> T:
    """Go through the steps to their end, blocking where they park; returns their result."""
    __tracebackhide__ = True
    while True:
        try:
            park = next(running)
        except StopIteration as end:
            result: T = end.value
            return result
        wakeup.wait(park.span_us, why=park.why, beat_us=beat_us, notified=notified)


async def drive_async(
    running: Running[T], wakeup: AsyncWakeup, beat_us: int, *, notified: bool
) -> T:
    """As ``drive``, awaiting where they park."""
    while True:
        try:
            park = next(running)
        except StopIteration as end:
            result: T = end.value
            return result
        await wakeup.wait(park.span_us, why=park.why, beat_us=beat_us, notified=notified)
