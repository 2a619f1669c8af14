"""Stores of every kind that take out what they must not keep, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pytest_claude_comms import ConversationStore, open_store

BACKENDS = ("memory", "tinydb", "sqlite")
OpenStore: TypeAlias = Callable[..., ConversationStore]


def url_of(backend: str, folder: Path) -> str:
    return "memory:" if backend == "memory" else f"{backend}:///{folder}/kept/store.{backend}"


@pytest.fixture(params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the test's store on one backend; closed at the end."""
    with ExitStack() as stack:

        def open_one(**options: Any) -> ConversationStore:
            url = url_of(request.param, tmp_path)
            return stack.enter_context(open_store(url, durability="process", **options))

        yield open_one
