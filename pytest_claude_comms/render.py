"""How things are put before a person: one wording for errors, assertions, reports, commands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from .records import Change
from .status import MessageStatus

Fields = Sequence[tuple[str, Sequence[str]]]


def clean(text: str) -> str:
    """Text that cannot move a terminal's cursor: controls and direction marks are escaped."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def instant(moment: datetime) -> str:
    """``2026-01-01T00:00:30Z``, with microseconds only where there are any."""
    text = moment.isoformat()
    return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text


def span(seconds: float) -> str:
    """``27.0 s``: a tenth of a second, or as many digits as a short span needs."""
    if 0 < abs(seconds) < 0.1:
        return f"{seconds:.3g} s"
    return f"{seconds:,.1f} s"


def age(seconds: float) -> str:
    """A span as people say it: ``27.0 s``, ``3 min 20 s``, ``2 h 5 min``, ``4 d 3 h``."""
    whole = int(abs(seconds))
    if whole < 60:
        return span(seconds)
    for unit, name, rest, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min")):
        if whole >= unit:
            return f"{'-' * (seconds < 0)}{whole // unit:,} {name} {whole % unit // rest} {small}"
    return f"{'-' * (seconds < 0)}{whole // 60} min {whole % 60} s"


def ago(seconds: float) -> str:
    """``3 min 20 s ago``, ``in 27.0 s``: to a tenth of a second, for it passes while it is read."""
    seconds = round(seconds, 1) + 0.0  # no -0.0
    return f"{age(seconds)} ago" if seconds >= 0 else f"in {age(-seconds)}"


def steps(statuses: Iterable[MessageStatus]) -> str:
    """``pending -> processing -> complete``."""
    return " -> ".join(status.value for status in statuses) or MessageStatus.UNKNOWN.value


def characters(count: int) -> str:
    """``1,204 characters``."""
    return "1 character" if count == 1 else f"{count:,} characters"


def what_changed(change: Change) -> str:
    """One change in a few words: ``pending -> processing, content 1,204``."""
    parts = []
    if change.previous is None:
        parts.append(change.status.value)
    elif change.status is not change.previous:
        parts.append(f"{change.previous} -> {change.status}")
    if change.append is not None or change.content is not None:
        parts.append(f"content {change.content_length:,}")
    if change.metadata is not None:
        parts.append("metadata " + ", ".join(clean(key) for key in change.metadata))
    if change.error is not None and (change.status.is_terminal or not parts):
        parts.append(f"error {clean(shorten(change.error))}")
    return ", ".join(parts) or "error cleared"


def shorten(text: str, most: int = 120) -> str:
    """One line of at most ``most`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def history(
    changes: Sequence[Change], start: datetime | None = None, *, most: int = 40
) -> list[str]:
    """A line per change: ``#2   +3.0 s  pending -> processing``, times from ``start``.

    Of a long history the middle is left out and counted.
    """
    if not changes:
        return ["nothing yet"]
    zero = start or changes[0].at
    rows = [
        (f"#{change.revision}", f"+{span((change.at - zero).total_seconds())}", change)
        for change in changes
    ]
    number = max(4, *(len(row[0]) for row in rows))
    since = max(len(row[1]) for row in rows)
    lines = [f"{n:<{number}} {at:>{since}}  {what_changed(c)}" for n, at, c in rows]
    if len(lines) > most:
        half = most // 2
        lines[half : len(lines) - half] = [f"…    {len(lines) - 2 * half:,} more changes"]
    return lines


def page(title: str, fields: Fields) -> str:
    """A title and named blocks of lines under it."""
    width = max((len(name) for name, _ in fields), default=0) + 2
    lines = [title]
    for name, block in fields:
        for place, line in enumerate(block):
            lines.append(f"  {name if place == 0 else '':<{width}}{line}")
    return "\n".join(lines)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be; the first row is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
