"""What a run says of the tests that were explored."""

from __future__ import annotations

from typing import Any

PROPERTY = "claude_comms_explored"
"""Of a report's properties: it is of a test that was explored."""


class ExploringReport:
    """Says at the end of a run what was explored. A plugin of pytest."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}
        self._has_run = False
        self._has_explored = False

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._has_run = self._has_run or report.when == "call"
        if any(PROPERTY in each for each in report.user_properties):
            self._has_explored = True
        found = getattr(report, "claude_comms_explored", None)
        if found:
            self._notes[found["test"]] = found["note"]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._notes:
            terminalreporter.section("claude-comms: explored")
            for test, note in self._notes.items():
                terminalreporter.write_line(f"{test}: {note}")
        seed = terminalreporter.config.getoption("claude_comms_explore_seed")
        if seed is not None and self._has_run and not self._has_explored:
            # Or else it looks as if that schedule passed now.
            terminalreporter.section("claude-comms: explored")
            terminalreporter.write_line(
                f"nothing: --claude-comms-explore-seed={seed} is for tests that are marked "
                "claude_comms(explore=…), and none of those that ran is"
            )
