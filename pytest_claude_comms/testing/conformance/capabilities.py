"""What a store may claim. A contract that needs what is not claimed is not asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final

from .factory import StoreFactory, check_factory, name_of, opened_first

CAPABILITIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "multi_thread": "one store object may be used by many threads at once",
        "multi_process": "several processes, and several objects in one, may have it open at once",
        "durable": "the factory, called again with the same folder, opens the same store; what a "
        "call has returned is kept, whichever process is killed",
        "files": "all it keeps is in files in the folder that the factory was given",
        "private": "its files, and the folders it makes, are only for their owner",
        "addressable": "open_store(store.url) opens it",
        "gap_free": "every commit is one change of the feed",
        "resumable": "a cursor goes on where it was when the store has been opened again",
        "notifies": "subscribe hears of every commit of this process",
        "deadlines": "a message may have a timeout= and a stall_timeout=",
        "chosen_ids": "thread_id= and message_id= may be chosen",
        "compact": "its history can be trimmed",
    }
)


def capabilities_of(factory: StoreFactory) -> frozenset[str]:
    """What the stores of a factory claim.

    That is the attribute ``capabilities`` of the factory, or else of its stores: names, or a
    function without arguments that returns them. Where neither has it, everything is claimed.
    Raises ValueError for a name that is none, TypeError for what are no names.
    """
    # Remembered: each contract would open a store only to ask.
    for known, names in _known:
        if known is factory:
            return names
    names = _ask(factory)
    _known.append((factory, names))
    return names


_known: deque[tuple[StoreFactory, frozenset[str]]] = deque(maxlen=32)


def _ask(factory: StoreFactory) -> frozenset[str]:
    check_factory(factory)
    declared = getattr(factory, "capabilities", None)
    if declared is None or isinstance(declared, property):  # of a class, for its objects
        with TemporaryDirectory(prefix="conformance-") as folder:
            store = opened_first(factory, Path(folder))
            try:
                declared = getattr(store, "capabilities", None)
                return _names(declared() if callable(declared) else declared, repr(store))
            finally:
                store.close()
    return _names(declared() if callable(declared) else declared, name_of(factory))


def _names(declared: Any, owner: str) -> frozenset[str]:
    if declared is None:
        return frozenset(CAPABILITIES)
    if isinstance(declared, str) or not isinstance(declared, Iterable):
        raise TypeError(f"capabilities of {owner} must be a list of names, not {declared!r}")
    names = frozenset(declared)
    strange = sorted(str(name) for name in names - set(CAPABILITIES))
    if strange:
        raise ValueError(
            f"{owner} claims {', '.join(strange)}; the capabilities are {', '.join(CAPABILITIES)}"
        )
    return names
