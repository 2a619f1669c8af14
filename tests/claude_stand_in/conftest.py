from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[ScriptedClaude]:
    """In real time, with delays of milliseconds."""
    with ScriptedClaude(tmp_path / "bin") as claude:
        yield claude


@pytest.fixture
def fake() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def faked(tmp_path: Path, fake: FakeClock) -> Iterator[ScriptedClaude]:
    """On a fake clock."""
    with ScriptedClaude(tmp_path / "bin", fake) as claude:
        yield claude
