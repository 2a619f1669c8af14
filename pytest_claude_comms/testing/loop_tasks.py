"""What the tasks of an event loop wait for, for a person."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any
from weakref import WeakKeyDictionary

from .. import clock
from ..clock import Why

_MACHINERY = (
    os.path.join(os.path.dirname(asyncio.__file__), ""),
    os.path.join(os.path.dirname(clock.__file__), ""),
)
_whys: WeakKeyDictionary[asyncio.Task[Any], Why] = WeakKeyDictionary()
"""Of the tasks that wait on a clock."""


@contextmanager
def told(why: Why) -> Iterator[None]:
    """Meanwhile the running task waits for this."""
    task = asyncio.current_task()
    if task is None:  # a callback's, or a library's that steps coroutines itself
        yield
        return
    _whys[task] = why
    try:
        yield
    finally:
        _whys.pop(task, None)


def names_of(loop: Any) -> str:
    """Who waits, on one line."""
    return ", ".join(task.get_name() for task in _tasks(loop)) or "no task"


def lines_of(loop: Any) -> list[str]:
    """Of each task its coroutine, the line of the caller's code that it is at, and for what."""
    return [f"{task.get_name()}: {_at(task)}, for {_awaited(task)}" for task in _tasks(loop)]


def _tasks(loop: Any) -> list[asyncio.Task[Any]]:
    return _sorted(asyncio.all_tasks(loop))


def _sorted(futures: Iterable[Any]) -> list[asyncio.Task[Any]]:
    tasks = [each for each in futures if isinstance(each, asyncio.Task)]
    return sorted(tasks, key=lambda task: _counted(task.get_name()))


def _counted(name: str) -> list[tuple[int, str]]:
    """To sort by: 9 comes before 10, whatever a task is called, and however many there were."""
    parts = re.split("([0-9]+)", name)
    return [(len(part) if n % 2 else 0, part) for n, part in enumerate(parts)]


def _at(task: asyncio.Task[Any]) -> str:
    chain = _chain(task)
    name = _short(chain[0]) if chain else repr(task.get_coro())
    for coroutine in reversed(chain):
        code, line = _place(coroutine)
        if code is not None and not code.co_filename.startswith(_MACHINERY):
            return f"{name} at {os.path.basename(code.co_filename)}:{line}"
    return name


def _awaited(task: asyncio.Task[Any]) -> str:
    why = _whys.get(task)
    if why is not None:
        return why if isinstance(why, str) else why()
    future: Any = getattr(task, "_fut_waiter", None)
    # What gather() gives has no name; what it waits for may.
    waits = [each for each in getattr(future, "_children", [future]) if not _is_done(each)]
    names = [task.get_name() for task in _sorted(waits)]
    if names:
        return ", ".join(names)
    chain = _chain(task)
    return _short(chain[-1]) if len(chain) > 1 else "a future"


def _is_done(future: Any) -> bool:
    return future is not None and bool(future.done())


def _chain(task: asyncio.Task[Any]) -> list[Any]:
    """Its coroutine, the one that this one awaits, and so on."""
    chain: list[Any] = []
    step: Any = task.get_coro()
    while _place(step)[0] is not None:
        chain.append(step)
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
    return chain


def _place(coroutine: Any) -> tuple[CodeType | None, int | None]:
    frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
    return (None, None) if frame is None else (frame.f_code, frame.f_lineno)


def _short(coroutine: Any) -> str:
    return str(coroutine.__qualname__).rpartition("<locals>.")[2]
