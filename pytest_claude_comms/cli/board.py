"""What ``watch`` knows of many messages: a fold over changes, and the few rows that are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Final

from .. import render
from ..status import MessageStatus
from .durations import about
from .live import cut, line
from .output import STATUS_COLOURS
from .safety import clean, width

if TYPE_CHECKING:
    from ..records import Change
    from .output import Output

_GROUPS: Final = {
    MessageStatus.PROCESSING: "processing",
    MessageStatus.PENDING: "pending",
    MessageStatus.UNKNOWN: "unknown",
}
_STATUS: Final = 3
"""Its column; it may change at any time, so its width does not."""
_STATUS_WIDTH: Final = 10
_NUMBERS: Final = (4, 5)
_ROOMY_LAST: Final = 30
_LEAST_LAST: Final = 9
"""Cells of what happened last: enough for when, and for more of it."""
_LONGEST_ID: Final = 40
_LONGEST_MODULE: Final = 20


@dataclass(slots=True, eq=False)
class Row:
    """One message as it stands."""

    message_id: str
    thread_id: str = ""
    status: MessageStatus = MessageStatus.UNKNOWN
    created_at: datetime | None = None
    last: Change | None = None
    module: str | None = None
    """None as long as nobody has looked it up."""

    @property
    def revision(self) -> int:
        """That of its last change, 0 before the first."""
        return 0 if self.last is None else self.last.revision


class Board:
    """The messages that are watched, and what came of them.

    Taking a change, and choosing the rows to show, cost the same for ten messages and 10,000.
    """

    def __init__(self, ids: Iterable[str] = ()) -> None:
        self.rows: dict[str, Row] = {}
        # Insertion-ordered sets: of what ended the latest is last, of the rest the oldest first.
        self._groups: dict[str, dict[str, Row]] = {
            name: {} for name in ("processing", "pending", "unknown", "ended")
        }
        self._counts = dict.fromkeys(MessageStatus, 0)
        for message_id in ids:
            self._add(Row(message_id))

    def _add(self, row: Row) -> None:
        self.rows[row.message_id] = row
        self._enter(row)

    def _enter(self, row: Row) -> None:
        self._groups[_GROUPS.get(row.status, "ended")][row.message_id] = row
        self._counts[row.status] += 1

    def _leave(self, row: Row) -> None:
        del self._groups[_GROUPS.get(row.status, "ended")][row.message_id]
        self._counts[row.status] -= 1

    def take(self, change: Change) -> bool:
        """One more change; False if it was known."""
        row = self.rows.get(change.message_id)
        if row is None:
            row = Row(change.message_id)
            self._add(row)
        if change.revision <= row.revision:
            return False
        if row.created_at is None:
            row.created_at, row.thread_id = change.at, change.thread_id
        row.last = change
        if change.status is not row.status:
            self._leave(row)
            row.status = change.status
            self._enter(row)
        return True

    def forget_ended(self) -> None:
        """Watch what has not ended, from now on."""
        for message_id in list(self._groups["ended"]):
            self._leave(self.rows.pop(message_id))

    @property
    def all_ended(self) -> bool:
        """Whether nothing more can come."""
        return len(self._groups["ended"]) == len(self.rows)

    def visible(self, most: int) -> list[Row]:
        """The rows to show: all in the order they came, or if they are too many, what happens
        now, what waits, what has ended last."""
        if len(self.rows) <= most:
            return list(self.rows.values())
        groups = self._groups
        ended = reversed(groups["ended"].values())
        waiting = chain(groups["pending"].values(), groups["unknown"].values())
        return list(islice(chain(groups["processing"].values(), waiting, ended), most))

    def summary(self, hidden: int) -> str:
        """``10,000 messages, 9,960 not shown: 2 processing, 9,998 complete``."""
        count = len(self.rows)
        by_status = ", ".join(
            f"{number:,} {status}" for status, number in self._counts.items() if number
        )
        text = f"{count:,} message{'' if count == 1 else 's'}"
        text += f", {hidden:,} not shown" if hidden else ""
        return text + (f": {by_status}" if by_status else "")


def table(out: Output, rows: Sequence[Row], now: datetime, columns: int) -> list[tuple[str, int]]:
    """The rows as painted lines with their cells, a head first; for a terminal of so many
    columns. Where it is narrow the thread goes first, then the module, the characters, the time."""
    cells = [_cells(row, now) for row in rows]
    head = ("MESSAGE", "THREAD", "MODULE", "STATUS", "TIME", "CHARS", "LAST CHANGE")
    widths = [max(width(each[place]) for each in [head, *cells]) for place in range(len(head))]
    widths[0] = min(widths[0], _LONGEST_ID)
    widths[1] = min(widths[1], _LONGEST_ID)
    widths[2] = min(widths[2], _LONGEST_MODULE)
    widths[_STATUS] = _STATUS_WIDTH
    widths[4], widths[5] = max(widths[4], 6), max(widths[5], 7)
    shown = list(range(len(head)))
    # The last column can be cut, but not to nothing.
    for leaves, least in ((1, _ROOMY_LAST), (2, _ROOMY_LAST), (5, _LEAST_LAST), (4, _LEAST_LAST)):
        if sum(widths[place] + 2 for place in shown[:-1]) + least >= columns:
            shown.remove(leaves)
    colours = [None, *(STATUS_COLOURS.get(row.status.value) for row in rows)]
    return [
        _line(out, each, widths, shown, colour=colour, most=columns - 1)
        for each, colour in zip([head, *cells], colours, strict=True)
    ]


def _line(
    out: Output,
    cells: Sequence[str],
    widths: Sequence[int],
    shown: Sequence[int],
    *,
    colour: str | None,
    most: int,
) -> tuple[str, int]:
    parts: list[tuple[str, str | None]] = []
    for place in shown:
        text = cut(cells[place], widths[place])
        blank = " " * (widths[place] - width(text))
        text = blank + text if place in _NUMBERS else text + blank
        parts += [(text, colour if place == _STATUS else None), ("  ", None)]
    last = (parts[-2][0].rstrip(), None)
    parts[-2:] = [last]
    cells_in_all = min(most, sum(width(text) for text, _ in parts))
    return line(out, parts, most), cells_in_all


def _cells(row: Row, now: datetime) -> tuple[str, ...]:
    last = row.last
    if last is None or row.created_at is None:
        return (clean(row.message_id), "", "", "unknown", "", "", "does not exist yet")
    until = last.at if row.status.is_terminal else now
    return (
        clean(row.message_id),
        clean(row.thread_id),
        clean(row.module or ""),
        row.status.value,
        about((until - row.created_at).total_seconds()),
        f"{last.content_length:,}",
        f"{about((now - last.at).total_seconds())} ago{_what(last)}",
    )


def _what(last: Change) -> str:
    if not last.status.is_terminal:
        return f": {render.what_changed(last)}"
    return f": {clean(render.shorten(last.error))}" if last.error else ""
