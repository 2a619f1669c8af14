"""Stores, a fake clock and a scripted claude, made by hand: here they are part of the subject."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pytest_claude_comms import ConversationStore, Reply, ask_module, open_store
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.communication.kit import MARK, children, marked, no_run_is_left, until

BACKENDS = ("memory", "tinydb", "sqlite")
Ask: TypeAlias = Callable[..., Reply]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if sys.platform == "linux":
        return
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.skip(reason="looks into /proc for what is left"))


def url_of(backend: str, folder: Path) -> str:
    return "memory:" if backend == "memory" else f"{backend}:///{folder}/store.{backend}"


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex


@pytest.fixture(autouse=True)
def nothing_is_left(mark: str) -> Iterator[None]:
    before = children()
    yield
    assert until(lambda: no_run_is_left() and not marked(mark) and children() <= before, 5), (
        marked(mark),
        children() - before,
    )


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        clock.install(freeze=False)
        yield clock
        assert clock._scheduler._outside == {}


@pytest.fixture(params=BACKENDS)
def store(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path
) -> Iterator[ConversationStore]:
    """On the fake clock."""
    with open_store(url_of(request.param, tmp_path), clock=clock, durability="process") as store:
        yield store


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short one: the system reads 127 bytes of the line that says who runs a script."""
    with tempfile.TemporaryDirectory(prefix="claude-") as folder:
        yield Path(folder)


@pytest.fixture
def claude(folder: Path, clock: FakeClock) -> Iterator[ScriptedClaude]:
    """On the fake clock."""
    with ScriptedClaude(folder, clock) as claude:
        yield claude


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """The directory of the module that is asked."""
    path = tmp_path / "arangodb"
    path.mkdir()
    return path


@pytest.fixture
def options(folder: Path, mark: str) -> dict[str, Any]:
    """What every call of ``ask_module`` needs here: our claude, our mark, a limit."""
    return {"command": [str(folder / "claude")], "env": {MARK: mark}, "timeout": 600}


@pytest.fixture
def ask(store: ConversationStore, module: Path, options: dict[str, Any]) -> Ask:
    """Asks on ``store``; wants ``claude`` too."""

    def ask(prompt: str = "Which fields?", **more: Any) -> Reply:
        return ask_module(store, "marker", module, prompt, **{**options, **more})

    return ask


@pytest.fixture(params=["tinydb", "sqlite"])
def real_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConversationStore]:
    """A file store on the system clock."""
    with open_store(url_of(request.param, tmp_path), durability="process") as store:
        yield store
