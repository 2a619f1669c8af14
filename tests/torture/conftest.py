"""For all rooms: the stage, and the table at the end of a run."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest

from tests.torture import tracing
from tests.torture.stage import Stage

Row: TypeAlias = Callable[..., None]

_COLUMNS = ("what", "store", "tried", "lost", "unreadable", "figures")


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Where processes to torture come from."""
    if not hasattr(os, "fork"):
        pytest.skip("processes to torture are forked, and this system has no fork()")
    rooms = ("story", "writing", "watching", "soaking")
    stage = Stage(*(f"tests.torture.{room}" for room in rooms))
    yield stage
    stage.close()


@pytest.fixture(scope="session")
def strace() -> None:
    """Skips, saying why and what to do, where nothing can be traced."""
    reason = tracing.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Row:
    """Adds a row to the table at the end of the run."""
    faulthandler.cancel_dump_traceback_later()  # what takes an hour does not stand still

    def add(what: str, store: str, tried: str, *, lost: int, unreadable: int, **more: Any) -> None:
        figures = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in more.items())
        cells = dict(zip(_COLUMNS, (what, store, tried, lost, unreadable, figures), strict=True))
        request.node.user_properties.append(("torture", cells))
        print(" | ".join(f"{name} {cell}" for name, cell in cells.items()))

    return add


def pytest_terminal_summary(terminalreporter: Any) -> None:
    rows = [
        cells
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call"
        for name, cells in report.user_properties
        if name == "torture"
    ]
    if not rows:
        return
    rows.sort(key=lambda cells: (cells["what"], cells["store"]))
    table = [dict(zip(_COLUMNS, _COLUMNS, strict=True)), *rows]
    widths = [max(len(str(cells[name])) for cells in table) for name in _COLUMNS]
    terminalreporter.section("what the stores were put through")
    for cells in table:
        line = "  ".join(str(cells[n]).ljust(w) for n, w in zip(_COLUMNS, widths, strict=True))
        terminalreporter.write_line(line.rstrip())
