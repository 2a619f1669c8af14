"""All contracts, in the order of the README."""

from __future__ import annotations

from . import (
    concurrency,
    deadlines,
    durability,
    feed,
    following,
    messages,
    permissions,
    store,
    threads,
    transitions,
    values,
)
from .contract import Contract

_ROOMS = (
    *(store, threads, messages, transitions, feed, following, deadlines, values),
    *(concurrency, durability, permissions),
)

CONTRACTS: tuple[Contract, ...] = tuple(each for room in _ROOMS for each in room.GROUP.all)
