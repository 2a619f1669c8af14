"""What tests use: a fake clock, faults, assertions, recorded runs of the Claude CLI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..claude.transcript import Transcript, play_transcript
    from .assertions import (
        assert_content,
        assert_no_pending,
        assert_status_sequence,
        assert_terminal,
    )
    from .conformance.suite import StoreConformance
    from .fake_clock import FakeClock
    from .fault import Fault
    from .faults import Faults
    from .scripted_claude import ScriptedClaude

_HOME_OF = {
    "FakeClock": ".fake_clock",
    "Fault": ".fault",
    "Faults": ".faults",
    "ScriptedClaude": ".scripted_claude",
    "StoreConformance": ".conformance.suite",
    "Transcript": "..claude.transcript",
    "assert_content": ".assertions",
    "assert_no_pending": ".assertions",
    "assert_status_sequence": ".assertions",
    "assert_terminal": ".assertions",
    "play_transcript": "..claude.transcript",
}

__all__ = [
    "FakeClock",
    "Fault",
    "Faults",
    "ScriptedClaude",
    "StoreConformance",
    "Transcript",
    "assert_content",
    "assert_no_pending",
    "assert_status_sequence",
    "assert_terminal",
    "play_transcript",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
