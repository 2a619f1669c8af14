"""What is due when, on a fake clock: a heap of timers, in the order of time, rank and planning."""

from __future__ import annotations

import heapq
from itertools import count

from .actors import Actor


class Timer:
    """Something that is due at an instant. A weak one keeps nothing alive."""

    __slots__ = ("actor", "at_us", "cancelled", "weak")

    def __init__(self, at_us: int, actor: Actor, *, weak: bool = False) -> None:
        self.at_us = at_us
        self.actor = actor
        self.weak = weak
        self.cancelled = False


def _is_set(timer: Timer) -> bool:
    return not timer.cancelled and timer in timer.actor.timers


class Timers:
    """The timers of one clock. Not thread-safe: the scheduler holds its mutex."""

    _MANY = 1000
    """So many cancelled ones are worth a sweep, if they are the greater part."""

    def __init__(self) -> None:
        self.strong = 0
        """How many are set that keep a clock going."""
        self._heap: list[tuple[int, int, int, Timer]] = []
        self._cancelled = 0
        self._number = count()

    def set(self, at_us: int, actor: Actor, *, weak: bool = False) -> None:
        """Let ``actor`` be due at an instant; the timer is one of ``actor.timers``."""
        timer = Timer(at_us, actor, weak=weak)
        heapq.heappush(self._heap, (at_us, actor.order, next(self._number), timer))
        self.strong += not weak
        actor.timers.append(timer)

    def cancel_all(self, actor: Actor) -> None:
        """Take back all that are set for ``actor``."""
        for timer in actor.timers:
            self._cancel(timer)
        actor.timers.clear()

    def clear(self) -> None:
        """Nothing is due any more."""
        self._heap.clear()

    @property
    def earliest_us(self) -> int:
        """When the next one is due. Some strong one has to be set."""
        self._drop_cancelled()
        return self._heap[0][0]

    def next_due(self, now_us: int, order: int) -> Actor | None:
        """Whose timer is due by now and not of a rank that comes after ``order``. It stays until
        it is taken back."""
        self._drop_cancelled()
        if not self._heap or self._heap[0][0] > now_us or self._heap[0][1] > order:
            return None
        return self._heap[0][3].actor

    def mend(self) -> None:
        """Count anew, after an interrupt that came in the midst of any of this."""
        self._heap = [entry for entry in self._heap if _is_set(entry[3])]
        heapq.heapify(self._heap)
        self._cancelled = 0
        self.strong = sum(not entry[3].weak for entry in self._heap)

    def due(self, now_us: int, order: int) -> list[Actor]:
        """All whose timers are due by now and of this rank, in the order of time and planning."""
        due = sorted(entry for entry in self._heap if entry[0] <= now_us and entry[1] == order)
        return [timer.actor for *_, timer in due if not timer.cancelled]

    def _cancel(self, timer: Timer) -> None:
        if timer.cancelled:
            return
        timer.cancelled = True
        self.strong -= not timer.weak
        self._cancelled += 1
        if self._cancelled > self._MANY and self._cancelled > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if not entry[3].cancelled]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def _drop_cancelled(self) -> None:
        while self._heap and self._heap[0][3].cancelled:
            heapq.heappop(self._heap)
            self._cancelled -= 1
