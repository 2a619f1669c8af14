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


def opened(
    factory: StoreFactory, folder: Path, *, clock: Clock | None, durability: Durability
) -> ConversationStore:
    """What the factory returns. Raises TypeError for what is nothing like a store."""
    return _seen(factory(folder, clock=clock, durability=durability), factory)


def opened_first(factory: StoreFactory, folder: Path) -> ConversationStore:
    """As ``opened``, before anything is asked. Raises RuntimeError if the factory raises."""
    try:
        store = factory(folder, clock=None, durability="process")
    except Exception as error:  # whatever it is, it is none of the kit's own
        raise RuntimeError(
            f"{name_of(factory)} cannot open a store: {type(error).__name__}: {error}; it is "
            "called as (folder, *, clock, durability)"
        ) from error
    return _seen(store, factory)


def check_factory(factory: object) -> None:
    """Raises TypeError for what cannot be called."""
    if not callable(factory):
        raise TypeError(
            f"store_factory returned {factory!r}; it is to return a factory (folder, *, clock, "
            "durability), or its name as in --claude-comms-stores"
        )


def _seen(store: ConversationStore, factory: StoreFactory) -> ConversationStore:
    # What else it lacks is for contract store.1 to say; this much the kit needs to ask it at all.
    if not callable(getattr(store, "close", None)):
        raise TypeError(
            f"{name_of(factory)} returned {store!r}, which is no ConversationStore: it has no "
            "close()"
        )
    return store


def name_of(factory: object) -> str:
    """What a person calls it."""
    return spec_of(factory) or repr(factory)


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
