"""The store of one test, as its settings want it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..stores.base import ConversationStore, Durability
from ..stores.legacy import LegacyReturns
from .matrix import StoreChoice

if TYPE_CHECKING:
    from .fake_clock import FakeClock


def open_for_test(
    choice: StoreChoice, folder: Path, clock: FakeClock | None, durability: Durability
) -> ConversationStore:
    """A new one in ``folder``, on the test's clock if it has one. What a factory returned instead
    fails the test."""
    store = choice.open(folder, clock=clock, durability=durability)
    if not isinstance(store, ConversationStore):
        from ..stores.schemes import why_none

        pytest.fail(
            f"{choice.name} returned {store!r}, which is no ConversationStore: {why_none(store)}",
            pytrace=False,
        )
    if clock is not None:
        clock.watch_store(store)
    if clock is not None and store.clock is not clock:
        store.close()
        pytest.fail(
            f"{choice.name} returned a store on {store.clock!r}; this test has a clock, which the "
            "factory is given as clock= and has to hand on to the store",
            pytrace=False,
        )
    return store


def in_shape(store: ConversationStore, returns: str) -> Any:
    """The store, whose ``add_message`` returns what is wanted."""
    # What has a shape of its own, as adapted ones do, keeps it.
    if returns == "message" or hasattr(store, "returns"):
        return store
    return LegacyReturns(store, returns)  # type: ignore[arg-type]
