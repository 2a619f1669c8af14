"""Runs a pytest item under many schedules, and reports it as one test."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import pytest
from _pytest.runner import runtestprotocol  # as plugins that run tests again do

from .exploring import Exploration
from .exploring_plan import Seed
from .exploring_report import PROPERTY
from .matrix import Settings

OPTION = "--claude-comms-explore-seed"


def exploration_for(settings: Settings, seed: str | None) -> Exploration:
    """What a test's marker and ``--claude-comms-explore-seed`` ask for."""
    only = settings.seed if seed is None else Seed.parse(seed)
    return Exploration(settings.explore, only=only, lines=settings.explore_lines)


def explore_item(item: pytest.Item, nextitem: pytest.Item | None, found: Exploration) -> None:
    """The protocol of pytest for an item: set up, called and torn down anew for each schedule,
    until one does not pass. Wider fixtures are kept. Only the last schedule is reported."""
    ihook = item.ihook
    ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = _Runs(item, found).run(nextitem)
    for report in reports:
        ihook.pytest_runtest_logreport(report=report)
    ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


class _Again(pytest.Item):
    """What pytest is told comes next: a test beside this one, with the same wider fixtures."""

    def runtest(self) -> None:
        raise NotImplementedError


class _Runs:
    def __init__(self, item: pytest.Item, exploration: Exploration) -> None:
        self._item = item
        self._exploration = exploration
        self._again = _Again.from_parent(item.parent, name=item.name)  # type: ignore[arg-type]
        self._properties = len(item.user_properties)
        self._seconds: dict[str, float] = {}

    def run(self, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        session, exploration = self._item.session, self._exploration
        reports: list[pytest.TestReport] = []
        try:
            with exploration.running():
                while not exploration.is_over:
                    self._forget_output()
                    self._forget_instance()
                    with exploration.schedule():
                        reports = runtestprotocol(self._item, log=False, nextitem=self._again)
                    for report in reports:
                        sofar = self._seconds.get(report.when, 0.0)
                        self._seconds[report.when] = sofar + report.duration
                    if exploration.decided or session.shouldstop or session.shouldfail:
                        break
        finally:
            last = self._tear_down(nextitem)
        if last is not None:
            del reports[-1 if reports[-1].passed else len(reports) :]
            reports.append(last)
        for report in reports:
            if report is not last:
                report.duration = self._seconds[report.when]
            if report.when == "call":
                self._note(report)
        return reports

    def _forget_output(self) -> None:
        del self._item.user_properties[self._properties :]
        sections: list[Any] = getattr(self._item, "_report_sections", [])
        sections.clear()  # else the output of all schedules

    def _forget_instance(self) -> None:
        # A test in a class has an instance of its own; pytest makes one where there is none yet.
        if isinstance(self._item.parent, pytest.Class):
            for name in ("_instance", "_obj"):
                self._item.__dict__.pop(name, None)

    def _tear_down(self, nextitem: pytest.Item | None) -> pytest.TestReport | None:
        # Only the wider scopes are left, so no hooks for a test's end.
        setup_state: Any = self._item.session._setupstate
        end: Callable[[], None] = lambda: setup_state.teardown_exact(nextitem)  # noqa: E731
        call = pytest.CallInfo.from_call(
            end, "teardown", (KeyboardInterrupt, pytest.exit.Exception)
        )
        if call.excinfo is None:
            return None
        report: pytest.TestReport = self._item.ihook.pytest_runtest_makereport(
            item=self._item, call=call
        )
        return report

    def _note(self, report: pytest.TestReport) -> None:
        note = self._exploration.note()
        report.user_properties.append((PROPERTY, note))
        if report.passed:
            # xdist sends whatever plain values a report has on to the controller.
            report.__dict__["claude_comms_explored"] = {"test": report.nodeid, "note": note}


def judge(
    item: pytest.Item, raised: bool, report: pytest.TestReport, exploration: Exploration
) -> None:
    """Say whether what a phase of this schedule came to settles what comes of the test."""
    if not exploration.is_under_way:
        return  # it is the end of a wider fixture
    if raised:  # one that was skipped, or failed as it is expected to, too
        exploration.decided = True
    elif report.when == "call" and exploration.clock is None:
        exploration.decided = True
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} is marked claude_comms(explore=…) and has no clock: its actors are "
            "those of the fixture `clock`; name that in the test's arguments"
        )
    if report.failed and exploration.decided and exploration.clock is not None:
        page = exploration.page(
            lambda seed: f"python -m pytest {shlex.quote(item.nodeid)} {OPTION}={seed}"
        )
        report.sections.append(("claude-comms: schedule", page))
