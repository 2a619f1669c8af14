"""The end of a run: what is kept, broken and not asked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pytest_claude_comms.testing.conformance import VERSION
from pytest_claude_comms.testing.conformance.summary import ConformanceReport


def report(number: str, when: str = "call", outcome: str = "passed", **more: Any) -> Any:
    return SimpleNamespace(
        user_properties=[["claude_comms_contract", number], ["claude_comms_conformance_of", "s"]],
        when=when,
        passed=outcome == "passed",
        failed=outcome == "failed",
        skipped=outcome == "skipped",
        **{"longrepr": None, **more},
    )


def lines(*reports: Any) -> list[str]:
    summary = ConformanceReport()
    for each in reports:
        summary.pytest_runtest_logreport(each)
    return summary.lines()


def test_each_end_is_counted() -> None:
    found = lines(
        *(report("feed.1", when) for when in ("setup", "call", "teardown")),
        report("feed.2", "setup"),
        report("feed.2", outcome="failed"),
        report("feed.2", "teardown"),
        *(
            report(f"feed.{n}", "setup", "skipped", longrepr=("f", 1, "Skipped: why"))
            for n in (3, 4)
        ),
        report("values.1", "setup", "skipped", longrepr=("f", 1, "Skipped: why")),
        report("feed.6", outcome="skipped", wasxfail="known"),
    )
    assert found[:2] == [
        "store  contracts  kept  broken  not asked",
        "s      6          1     1       4",
    ]
    assert found[2].startswith("s breaks feed.2: Revisions go up")
    assert found[3:] == [
        "s was not asked feed.3-4, values.1 (why)",
        "s was not asked feed.6 (known)",
    ]


def test_what_fails_before_or_after_is_broken() -> None:
    for when in ("setup", "teardown"):
        found = lines(report("feed.1"), report("feed.1", when, "failed"))
        assert found[1].split() == ["s", "1", "0", "1", "0"]


def test_a_run_without_the_kit_says_nothing() -> None:
    summary = ConformanceReport()
    other: Any = SimpleNamespace(user_properties=[("other", 1)], when="call")
    summary.pytest_runtest_logreport(other)
    said: list[str] = []
    summary.pytest_terminal_summary(SimpleNamespace(section=said.append, write_line=said.append))
    assert said == []
    summary.pytest_runtest_logreport(report("feed.1"))
    summary.pytest_terminal_summary(SimpleNamespace(section=said.append, write_line=said.append))
    assert said[0] == f"claude-comms: conformance, contracts {VERSION}"
