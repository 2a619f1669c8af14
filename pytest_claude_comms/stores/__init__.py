"""The stores, and :func:`open_store`, which opens one by its URL."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

from .base import Durability

if TYPE_CHECKING:
    from ..clock import Clock
    from .base import ConversationStore

ENTRY_POINTS = "claude_comms.stores"
"""The entry point group by which third parties add a scheme: a function ``(url, *, clock,
durability)`` that returns a store."""


def open_store(
    url: str, *, clock: Clock | None = None, durability: Durability = "power"
) -> ConversationStore:
    """Open the store at ``url``, creating it if it does not exist.

    ``sqlite:///comms.db`` and ``tinydb:///comms.json`` (three slashes: relative to the current
    directory; four: absolute; any suffix), ``memory:``, or a scheme that an installed package
    brings. ``durability="process"`` survives any kill of a process, ``"power"`` also a power
    cut, at the price of an fsync per change.

    Raises ValueError for a URL or durability that is none, StoreError where the file cannot be
    opened.
    """
    if not isinstance(url, str):
        raise TypeError(f"a store URL is a str, not {url!r}")
    if durability not in get_args(Durability):
        raise ValueError(f"no durability {durability!r}; there are {get_args(Durability)}")
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon:
        from .memory import MemoryConversationStore

        if rest:
            raise ValueError(f"{url!r}: a memory store has no path; its URL is 'memory:'")
        return MemoryConversationStore(clock=clock)
    if scheme == "sqlite" and colon:
        from .sqlite import SQLiteConversationStore

        return SQLiteConversationStore(_path(url, rest), clock=clock, durability=durability)
    if scheme == "tinydb" and colon:
        from .tinydb import TinyDBConversationStore

        return TinyDBConversationStore(_path(url, rest), clock=clock, durability=durability)
    return _third_party(url, scheme if colon else "", clock, durability)


def path_in(url: str) -> str:
    """The absolute path that a ``sqlite`` or ``tinydb`` URL names. Raises ValueError."""
    return _path(url, url.partition(":")[2])


def _path(url: str, rest: str) -> str:
    path = rest.removeprefix("///")
    if path == rest or not path or path.endswith("/"):
        scheme = url.partition(":")[0]
        raise ValueError(
            f"{url!r} names no file: write {scheme}:///name for a file in the current directory, "
            f"{scheme}:////folder/name for an absolute path"
        )
    return os.path.abspath(path)


def _third_party(
    url: str, scheme: str, clock: Clock | None, durability: Durability
) -> ConversationStore:
    from importlib.metadata import entry_points

    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if scheme not in found:
        known = ["memory:", "sqlite:///PATH", "tinydb:///PATH", *(f"{name}:…" for name in found)]
        raise ValueError(f"{url!r} is no store URL; there are {', '.join(known)}")
    store: ConversationStore = found[scheme].load()(url, clock=clock, durability=durability)
    return store
