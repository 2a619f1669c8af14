"""Callbacks that raise or block, to be handed to a poller."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import Clock
from ..tracking import Event
from .fault import Fault
from .on_purpose import mark


class RaisingCallback(Fault):
    """A callback that raises from its ``at``-th call on; until it is undone."""

    def __init__(
        self,
        clock: Clock,
        make: Callable[[], BaseException],
        *,
        at: int,
        forever: bool,
        may_miss: bool,
    ) -> None:
        named = repr(make())
        when = "" if at == 1 and forever else f" at call {at}{' and after' if forever else ''}"
        super().__init__("raising", f"a callback raises {named}{when}", clock, may_miss=may_miss)
        self.calls: list[Event] = []
        """The events that it was called with."""
        self._make = make
        self._at = at
        self._forever = forever

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.calls.append(event)
            number = len(self.calls)
        if self.is_undone or not (number == self._at or (self._forever and number > self._at)):
            return
        self.meet()
        raise mark(self._make())


class BlockingCallback(Fault):
    """A callback that does not return for a while, in the time of the clock."""

    def __init__(self, clock: Clock, for_us: int | None, span: str, *, may_miss: bool) -> None:
        super().__init__("blocking", f"a callback blocks {span}", clock, may_miss=may_miss)
        self.calls: list[Event] = []
        """The events that it was called with."""
        self._for_us = for_us

    def __call__(self, event: Event) -> None:
        with self._lock:
            self.calls.append(event)
        if not self.is_undone:
            self.meet()
            self.pause(self._for_us, "the end of the fault blocking")
