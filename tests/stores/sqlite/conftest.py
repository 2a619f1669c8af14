"""A SQLite store in a file of its own, with real waiting and a time of day that tests set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.sqlite_kit import SteppedClock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comms.db"


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def store(path: Path, clock: SteppedClock) -> Iterator[SQLiteConversationStore]:
    with SQLiteConversationStore(path, clock=clock, durability="process") as store:
        yield store
