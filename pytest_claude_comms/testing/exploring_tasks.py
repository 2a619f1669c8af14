"""Puts the tasks of an event loop that could go on in another order.

Which of several ready tasks goes on first asyncio does not promise. Each still has a step in each
round of its loop, and callbacks, futures and timers keep their order, which asyncio does promise.
"""

from __future__ import annotations

import asyncio
from asyncio import base_events
from collections.abc import Callable
from functools import wraps
from typing import Any

from .exploring_scheduler import ExploringScheduler


class Tasks:
    """The replacement, in the class of all loops, inside a ``with`` block."""

    def __init__(self, explorer: ExploringScheduler) -> None:
        self._explorer = explorer
        self._undo: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        loops: Any = base_events.BaseEventLoop
        real = loops._run_once

        @wraps(real)
        def run_once(loop: Any) -> None:
            self._reorder(loop._ready)
            real(loop)

        loops._run_once = run_once
        self._undo = lambda: setattr(loops, "_run_once", real)

    def __exit__(self, *exc: object) -> None:
        self._undo()

    def _reorder(self, ready: Any) -> None:
        """Exchange the steps of tasks among the places that they have in a loop's queue."""
        places = [place for place, handle in enumerate(ready) if _task_of(handle) is not None]
        if len(places) < 2:
            return
        handles = [ready[place] for place in places]
        order = self._explorer.order_of([_task_of(handle) for handle in handles])
        for place, chosen in zip(places, order, strict=True):
            ready[place] = handles[chosen]


def _task_of(handle: Any) -> Any:
    """The task whose next step a handle is, None if it is something else."""
    task = getattr(handle._callback, "__self__", None)
    return task if isinstance(task, asyncio.Task) else None
