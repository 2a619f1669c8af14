"""A history as lines of text: a bar for each message, a line for each step."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from .. import render
from .history import ThreadHistory

if TYPE_CHECKING:
    from ..records import Change, Message

MARKS: Final = {
    "pending": ".",
    "processing": "=",
    "complete": "C",
    "failed": "F",
    "timeout": "T",
    "cancelled": "X",
}
_NARROWEST, _WIDEST = 10, 60


def bars(found: ThreadHistory, now: datetime, columns: int) -> list[list[str]]:
    """A table with a row for each message: id, status, how long it took, a bar.

    All bars have one scale, from the first creation to the last change, or to ``now`` where a
    message has not ended.
    """
    start = min(message.created_at for message in found.messages)
    ends = [m.updated_at if m.status.is_terminal else now for m in found.messages]
    # A clock that was set back leaves times before the first; they stand at its beginning.
    total = max((max(ends) - start).total_seconds(), 0.0)
    rows = []
    for message, end in zip(found.messages, ends, strict=True):
        took = max((end - message.created_at).total_seconds(), 0.0)
        name = f"{render.clean(message.message_id)} {render.clean(message.module_name)}".rstrip()
        rows.append([name, message.status.value, render.age(took)])
    used = sum(max(len(row[column]) for row in rows) + 2 for column in range(3))
    cells = min(_WIDEST, max(_NARROWEST, columns - used))
    changes: dict[str, list[Change]] = {}
    for change in found.changes:
        changes.setdefault(change.message_id, []).append(change)
    scale = f"0 to {render.age(total)}"
    head = ["MESSAGE", "STATUS", "TOOK", scale]
    for row, message, end in zip(rows, found.messages, ends, strict=True):
        row.append(
            _bar(message, changes.get(message.message_id, []), start, end, total=total, cells=cells)
        )
    return [head, *rows]


def _bar(
    message: Message,
    changes: list[Change],
    start: datetime,
    end: datetime,
    *,
    total: float,
    cells: int,
) -> str:
    def cell(at: datetime) -> int:
        if not total:
            return 0
        return min(cells - 1, max(0, int((at - start).total_seconds() / total * cells)))

    drawn = [" "] * cells
    # Where the oldest changes are gone, what is left says what stood before.
    steps = [(message.created_at, changes[0].previous or changes[0].status)] if changes else []
    steps += [(change.at, change.status) for change in changes]
    for place, (at, status) in enumerate(steps):
        until = steps[place + 1][0] if place + 1 < len(steps) else end
        for column in range(cell(at), cell(until) + 1):
            drawn[column] = MARKS[status.value]
    drawn[cell(end)] = MARKS[message.status.value]
    return "".join(drawn).rstrip()


def steps(found: ThreadHistory, *, every: bool) -> list[list[str]]:
    """A table of what changed: revision, when, message, what.

    Unless ``every``, changes of one message that only add to its text and follow each other are
    one row.
    """
    rows = [["REVISION", "AT", "MESSAGE", "WHAT"]]
    start = found.start
    if start is None:
        return rows
    run: list[Change] = []
    for change in found.changes:
        if run and (every or not _goes_on(run[-1], change)):
            rows.append(_row(run, start))
            run = []
        run.append(change)
    rows.append(_row(run, start))
    return rows


def _goes_on(before: Change, change: Change) -> bool:
    return (
        _only_adds(before)
        and _only_adds(change)
        and before.message_id == change.message_id
        and before.status is change.status
    )


def _only_adds(change: Change) -> bool:
    return (
        change.append is not None
        and change.status is change.previous
        and change.metadata is None
        and change.error is None
    )


def _row(run: list[Change], start: datetime) -> list[str]:
    last = run[-1]
    what = render.what_changed(last)
    if len(run) > 1:
        took = (last.at - run[0].at).total_seconds()
        what += f" in {len(run):,} pieces, {render.age(took)}"
    return [
        f"#{run[0].revision}",
        f"+{render.span((run[0].at - start).total_seconds())}",
        render.clean(last.message_id),
        what,
    ]
