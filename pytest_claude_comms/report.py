"""What a run says of stores: a failed test's timeline, and where stores disagree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest

from . import render

if TYPE_CHECKING:
    from .records import Message
    from .stores.base import ConversationStore
    from .testing.fake_clock import FakeClock
    from .testing.faults import Faults

_MOST_MESSAGES = 20
_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


def facts(nodeid: str, store: str, returns: str) -> dict[str, str]:
    """What the controller needs to know of a test on a store; plain, so that xdist can send it."""
    from .stores.legacy import native_shape

    shape = native_shape(store) if returns == "native" else returns
    return {"store": store, "test": without_store(nodeid, store), "returns": shape}


def without_store(nodeid: str, store: str) -> str:
    """The id of a test without the store in its brackets: what a row of the matrix is called."""
    head, bracket, inside = nodeid.partition("[")
    if not bracket:
        return nodeid
    name = re.escape(store)
    # The store's own dash goes with it, and no other: `[tinydb--1]` is of parameter -1.
    rest = re.sub(rf"^{name}(-|$)|-{name}(?=-|$)", "", inside[:-1], count=1)
    return f"{head}[{rest}]" if rest else head


def sections(besides: list[str], faults: Faults | None) -> list[tuple[str, str]]:
    """What a failed test's report says of what went wrong besides, and on purpose."""
    found = [("claude-comms: besides", "\n".join(besides))] if besides else []
    if faults is not None and faults.record:
        found.append(("claude-comms: faults", "\n".join(faults.lines())))
    return found


def describe_failure(store: ConversationStore, clock: FakeClock | None) -> str:
    """The timeline of every message of a failed test's store."""
    lines: list[str] = []
    try:
        returns = getattr(store, "returns", "message")
        if returns != "message":
            lines.append(
                f"add_message of this store returns {_shape(returns)}, as stores in the wild do; "
                "code that takes it for something else fails here. message_id_of(…) takes all "
                "shapes."
            )
            lines.append("")
        now = f"{render.instant(store.clock.now())} ({store.clock.describe()})"
        lines.append(f"{store.url} at {now}")
        lines += (f"  not promised: {line}" for line in getattr(store, "not_promised", ()))
        start = None if clock is None else clock.start
        messages = store.messages()
        for message in messages[:_MOST_MESSAGES]:
            lines += ["", *_timeline(store, message, start)]
        if len(messages) > _MOST_MESSAGES:
            lines.append(f"… and {len(messages) - _MOST_MESSAGES:,} more messages")
        if not messages:
            lines.append("no message was ever added")
        waiting = [] if clock is None else clock.waiting()
        if waiting:
            lines += ["", "actors of the clock:", *waiting]
    except (KeyboardInterrupt, SystemExit, pytest.exit.Exception):
        raise
    except BaseException as error:  # noqa: BLE001 - a store that fails here must not end the run
        lines.append(f"the store could not be read: {type(error).__name__}: {error}")
    return "\n".join(lines)


def _shape(returns: str) -> str:
    return "what its object's own does" if returns == "its own" else f"a {returns}"


def _timeline(store: ConversationStore, message: Message, start: Any) -> list[str]:
    title = store.get_thread(message.thread_id).title
    thread = f'thread "{title}"' if title else f"thread {message.thread_id}"
    head = render.clean(f"{message.message_id} in {thread}, from {message.module_name}")
    block = render.history(store.changes(0, message=message).items, start)
    if message.deadline_at is not None:
        missed = not message.status.is_terminal and message.deadline_at <= store.clock.now()
        note = "; it has passed, but nobody looked: poll, or call store.expire()" if missed else ""
        block.append(f"deadline {render.instant(message.deadline_at)}{note}")
    return [head, *(f"  {line}" for line in block)]


class MatrixReport:
    """Collects outcomes by test and store, and prints them at the end of the run."""

    def __init__(self) -> None:
        self._outcomes: dict[str, dict[tuple[str, str], str]] = {}
        """By test, then store and the shape that its ``add_message`` returned."""
        self._known: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = getattr(report, "claude_comms", None)
        # A worker that crashed sends no more: xdist reports for it, with nothing but the id.
        found = (
            self._known.setdefault(report.nodeid, found)
            if found
            else self._known.get(report.nodeid)
        )
        if found is None:
            return
        column = found["store"], found["returns"]
        row = self._outcomes.setdefault(found["test"], {})
        outcome = _outcome(report)
        # A later phase can make it worse, never better.
        if outcome is not None and row.get(column) not in ("failed", "error"):
            row[column] = outcome

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self._outcomes:
            return
        terminalreporter.section("claude-comms: tests by store")
        for line in self.matrix():
            terminalreporter.write_line(line)
        divergences = self.divergences()
        for line in divergences:
            terminalreporter.write_line(line, yellow=True)

    def matrix(self) -> list[str]:
        """A line per store: how many tests passed, failed, …"""
        columns = sorted({column for row in self._outcomes.values() for column in row})
        counts = {
            column: Counter(row[column] for row in self._outcomes.values() if column in row)
            for column in columns
        }
        shown = [o for o in _OUTCOMES if o == "passed" or any(c[o] for c in counts.values())]
        rows: list[Sequence[str]] = [("store", "add_message returns", *shown)]
        for column in columns:
            numbers = (f"{counts[column][outcome]:,}" for outcome in shown)
            rows.append((*column, *numbers))
        return render.table(rows)

    def divergences(self) -> list[str]:
        """The tests whose outcome differs between stores."""
        found = [(test, row) for test, row in self._outcomes.items() if len(set(row.values())) > 1]
        if not found:
            return []
        lines = ["1 divergence:" if len(found) == 1 else f"{len(found):,} divergences:"]
        for test, row in found:
            by_outcome: dict[str, list[str]] = {}
            for (store, shape), outcome in sorted(row.items()):
                returns = f" (add_message returns {_shape(shape)})"
                name = store if shape == "message" else f"{store}{returns}"
                by_outcome.setdefault(outcome, []).append(name)
            told = "; ".join(f"{o} on {', '.join(s)}" for o, s in sorted(by_outcome.items()))
            lines.append(f"  {test}: {told}")
        return lines


def _outcome(report: pytest.TestReport) -> str | None:
    if report.when == "call":
        if hasattr(report, "wasxfail"):
            return "xfailed" if report.skipped else "xpassed"
        return str(report.outcome)
    if report.failed:
        return "error" if report.when in ("setup", "teardown") else "failed"
    if report.skipped:
        return "xfailed" if hasattr(report, "wasxfail") else "skipped"
    return None
