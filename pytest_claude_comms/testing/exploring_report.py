"""What a run says of the tests that were explored."""

from __future__ import annotations

from typing import Any


class ExploringReport:
    """Says at the end of a run what was explored. A plugin of pytest."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        found = getattr(report, "claude_comms_explored", None)
        if found:
            self._notes[found["test"]] = found["note"]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._notes:
            terminalreporter.section("claude-comms: explored")
            for test, note in self._notes.items():
                terminalreporter.write_line(f"{test}: {note}")
