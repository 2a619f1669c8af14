"""How the kit opens the store that it asks, here and in a child process."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

from ...clock import Clock
from ...stores.base import ConversationStore, Durability


class StoreFactory(Protocol):
    """Opens the store in a folder, creating it if there is none."""

    def __call__(
        self, folder: Path, *, clock: Clock | None, durability: Durability
    ) -> ConversationStore:
        """``folder`` is the store's alone. ``clock`` None: real time."""


def spec_of(factory: object) -> str | None:
    """``package.module:name``, by which a child process finds the factory; None if by nothing."""
    module = getattr(factory, "__module__", None)
    name = getattr(factory, "__qualname__", None)
    if not module or not name or not str(name).isidentifier():
        return None
    try:
        found = getattr(import_module(module), name, None)
    except ImportError:
        return None
    return f"{module}:{name}" if found is factory else None
