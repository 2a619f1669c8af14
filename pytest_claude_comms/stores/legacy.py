"""Stores as found in the wild: ``add_message`` returning a dict, or a str."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, get_args

from ..records import Message
from .base import ConversationStore, StatusLike, ThreadLike

Shape = Literal["message", "dict", "str", "native"]
SHAPES: tuple[str, ...] = get_args(Shape)

_NATIVE: Mapping[str, Shape] = {"tinydb": "dict", "sqlite": "str", "memory": "dict"}


def shape_of(store: ConversationStore, shape: Shape) -> Shape:
    """The shape in which ``add_message`` answers: ``native`` is that of the store's original."""
    if shape not in SHAPES:
        raise ValueError(f"no return shape {shape!r}; there are {', '.join(SHAPES)}")
    return native_shape(store.backend) if shape == "native" else shape


def native_shape(backend: str) -> Shape:
    """In which shape the original store of a backend answered."""
    return _NATIVE.get(backend, "message")


def as_dict(message: Message) -> dict[str, Any]:
    """The message's fields, times in ISO form, the status as its word."""
    found = {field.name: getattr(message, field.name) for field in fields(message)}
    for name, value in found.items():
        if isinstance(value, datetime):
            found[name] = value.isoformat()
    return {**found, "status": message.status.value, "metadata": dict(message.metadata)}


class LegacyReturns:
    """A store whose ``add_message`` answers in another shape; all else is the store itself.

    ``dict``: the message's fields, times in ISO form. ``str``: its id. ``native``: a dict for
    tinydb and memory, a str for sqlite, as the original stores had it. ``message``: no change.
    """

    def __init__(self, store: ConversationStore, shape: Shape = "native") -> None:
        self._store = store
        self.returns = shape_of(store, shape)
        """The shape in which ``add_message`` answers, ``native`` resolved."""

    def add_message(
        self,
        thread: ThreadLike,
        module_name: str,
        content: str = "",
        *,
        message_type: str = "message",
        status: StatusLike = "complete",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> Any:
        """As the store's own, but for what it returns."""
        message = self._store.add_message(
            thread,
            module_name,
            content,
            message_type=message_type,
            status=status,
            timeout=timeout,
            stall_timeout=stall_timeout,
            metadata=metadata,
            message_id=message_id,
        )
        if self.returns == "dict":
            return as_dict(message)
        return message.message_id if self.returns == "str" else message

    def __getattr__(self, name: str) -> Any:
        if name == "_store":  # a copy that is being made
            raise AttributeError(name)
        return getattr(self._store, name)

    def __enter__(self) -> LegacyReturns:
        self._store.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._store.__exit__(kind, error, traceback)

    def __repr__(self) -> str:
        return f"LegacyReturns({self._store!r}, {self.returns!r})"


def unwrapped(store: object) -> object:
    """The store itself, whatever its ``add_message`` answers."""
    while isinstance(store, LegacyReturns):
        store = store._store
    return store
