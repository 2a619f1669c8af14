"""What a run of the kit says at its end: per store, what it keeps, breaks and does not claim."""

from __future__ import annotations

from typing import Any

import pytest

from ... import render
from . import VERSION


class ConformanceReport:
    """Collects what became of contracts, from all workers, and prints it."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, tuple[str, str]]] = {}
        """By store, then number: kept, broken or not asked, and why not."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        facts = dict(report.user_properties)
        number = facts.get("claude_comms_contract")
        if not isinstance(number, str):
            return
        found = self._found.setdefault(str(facts["claude_comms_conformance_of"]), {})
        if report.failed:
            found[number] = "broken", ""
        elif report.skipped:
            why = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else ""
            reason = getattr(report, "wasxfail", None) or str(why).removeprefix("Skipped: ")
            found[number] = "not asked", reason
        elif report.when == "call":
            found[number] = "kept", ""

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._found:
            return
        terminalreporter.section(f"claude-comms: conformance, contracts {VERSION}")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """A table with a row per store; then what each breaks, and what it was not asked."""
        from .catalogue import CONTRACTS

        rows: list[tuple[str, ...]] = [("store", "contracts", "kept", "broken", "not asked")]
        rest: list[str] = []
        for name, found in sorted(self._found.items()):
            ends = [end for end, _ in found.values()]
            counts = (str(ends.count(end)) for end in ("kept", "broken", "not asked"))
            rows.append((name, str(len(ends)), *counts))
            reasons: dict[str, list[str]] = {}
            for contract in CONTRACTS:
                end, why = found.get(contract.number, ("", ""))
                if end == "broken":
                    rest.append(f"{name} breaks {contract.number}: {contract.sentence}")
                elif end == "not asked":
                    reasons.setdefault(why, []).append(contract.number)
            rest += [
                f"{name} was not asked {_ranges(numbers)} ({why})"
                for why, numbers in reasons.items()
            ]
        return render.table(rows) + rest


def _ranges(numbers: list[str]) -> str:
    """``feed.3, feed.5-7`` for four numbers, in the order of the contracts."""
    found: list[list[str]] = []
    for number in numbers:
        group, _, place = number.partition(".")
        if found and found[-1][-1] == f"{group}.{int(place) - 1}":
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(
        run[0] if len(run) == 1 else f"{run[0]}-{run[-1].partition('.')[2]}" for run in found
    )
