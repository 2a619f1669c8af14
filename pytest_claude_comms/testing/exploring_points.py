"""Makes the operations of stores and pollers points at which an actor may lose its turn.

Every point is where no lock of ours is held but a clock's, whose waiters park.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any

from ..dispatch import Dispatcher
from ..following import Follower
from ..stores.core import BaseStore
from ..stores.hub import Hub
from .exploring_scheduler import ExploringScheduler
from .exploring_trace import Operation

OPERATIONS = (
    "create_thread",
    "get_thread",
    "threads",
    "add_message",
    "update_message",
    "get_message",
    "messages",
    "changes",
    "cursor",
    "expire",
    "next_deadline_us",
    "subscribe",
)


class Points:
    """The replacements, in the classes, inside a ``with`` block."""

    def __init__(self, explorer: ExploringScheduler) -> None:
        self._explorer = explorer
        self._undo: list[Callable[[], None]] = []
        self._stores: list[type] = [BaseStore]

    def watch(self, store_class: type) -> None:
        """Look after the stores of this class too."""
        if not issubclass(store_class, BaseStore):
            self._stores.append(store_class)

    def __enter__(self) -> None:
        for store_class in self._stores:
            for name in OPERATIONS:
                if hasattr(store_class, name):
                    self._replace(store_class, name, self._operation)
        self._replace(Hub, "notify", self._before("before the pollers hear of a commit"))
        for name in ("look", "look_patiently"):
            self._replace(Follower, name, self._before("before a poller looks"))
        self._replace(Dispatcher, "_run", self._callbacks)

    def __exit__(self, *exc: object) -> None:
        while self._undo:
            self._undo.pop()()

    def _replace(
        self, cls: type, name: str, wrap: Callable[[Callable[..., Any], str], Callable[..., Any]]
    ) -> None:
        missing = object()
        old = cls.__dict__.get(name, missing)
        real = getattr(cls, name)
        setattr(cls, name, wraps(real)(wrap(real, name)))
        if old is missing:
            self._undo.append(lambda: delattr(cls, name))
        else:
            self._undo.append(lambda: setattr(cls, name, old))

    def _operation(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        explorer = self._explorer
        before, after = f"before {name}", f"after {name}"

        def operation(store: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            explorer.point(before)
            done = Operation(name, args, kwargs)
            explorer.does(done)
            try:
                result = real(store, *args, **kwargs)
            except Exception as error:
                done.raised = type(error).__name__
                explorer.point(after)
                raise
            explorer.point(after)
            return result

        return operation

    def _before(self, what: str) -> Callable[[Callable[..., Any], str], Callable[..., Any]]:
        explorer = self._explorer

        def wrap(real: Callable[..., Any], _: str) -> Callable[..., Any]:
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                __tracebackhide__ = True
                explorer.point(what)
                return real(self, *args, **kwargs)

            return method

        return wrap

    def _callbacks(self, real: Callable[..., Any], _: str) -> Callable[..., Any]:
        def run(dispatcher: Dispatcher, job: Any) -> None:
            pointed = tuple((name, self._callback(name, each)) for name, each in job.callbacks)
            real(dispatcher, replace(job, callbacks=pointed))

        return run

    def _callback(self, name: str, callback: Callable[..., object]) -> Callable[..., object]:
        explorer = self._explorer

        def call(event: Any) -> None:
            explorer.point(f"before {name}")
            explorer.does(Operation(name, (event.message_id, f"#{event.revision}")))
            callback(event)
            explorer.point(f"after {name}")

        return call
