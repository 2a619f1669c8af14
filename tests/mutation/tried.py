"""What both ways to try a mutant share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

PYTEST: Final = (
    *("-p", "pytest_claude_comms.plugin", "-p", "no:xdist"),
    *("-p", "no:randomly", "-p", "no:cacheprovider"),
)
"""Arguments of every run: the same tests in the same order, and nothing remembered."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of a mutant."""

    outcome: str
    """``killed``, ``survived``, ``timeout`` (killed, too) or ``no test`` (no test runs it)."""
    by: str
    """The test that saw it, or how many did not."""
