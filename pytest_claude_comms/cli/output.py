"""Where a command prints: words for a person, JSON for a program, both harmless."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from .safety import safe, width
from .streams import say_aside

if TYPE_CHECKING:
    from rich.console import Console

STATUS_COLOURS: Final = {
    "pending": "yellow",
    "processing": "cyan",
    "complete": "green",
    "failed": "red",
    "timeout": "magenta",
    "cancelled": "bright_black",
    "unknown": "bright_black",
}

_LEAST_LAST: Final = 10
"""Cells to which the last column of a table may be cut."""

SHOWN_AFTER: Final = 1.0
"""Seconds after which somebody at a terminal wants to know what goes on."""

Advance = Callable[[int], None]


class Output:
    """Standard output and error of one command.

    Colour and whatever moves only on a terminal, whatever FORCE_COLOR says; neither with
    ``NO_COLOR``, ``--no-color`` or ``TERM=dumb``; nothing moves with ``--quiet`` or ``--json``.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, no_color: bool = False) -> None:
        self.is_json = json
        self.is_quiet = quiet
        self.is_terminal = _is_terminal(sys.stdout)
        dumb = os.environ.get("TERM") == "dumb"
        self.has_colour = (
            self.is_terminal and not no_color and not dumb and not os.environ.get("NO_COLOR")
        )
        self.is_live = self.is_terminal and not dumb and not quiet and not json
        """Whether something may be redrawn on standard output."""
        self.is_live_aside = _is_terminal(sys.stderr) and not dumb and not quiet
        """Whether something may be redrawn on standard error."""

    # -- words

    def print(self, text: str = "") -> None:
        """Text for standard output; it may have several lines, and comes out harmless."""
        _echo(safe(text), colour=False)

    def note(self, text: str) -> None:
        """A remark on standard error; none with ``--quiet``."""
        if not self.is_quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A remark on standard error, even with ``--quiet``."""
        say_aside(safe(text))

    def raw(self, text: str) -> None:
        """Text exactly as it is, because somebody asked for it."""
        _echo(text, nl=False, colour=True)

    def json(self, document: Mapping[str, Any]) -> None:
        """One JSON object on one line, of printable ASCII: it can do nothing to a terminal."""
        from json import dumps

        _echo(dumps(document, ensure_ascii=True), colour=False)

    def paint(self, text: str, colour: str | None = None, *, bold: bool = False) -> str:
        """``text``, harmless and in colour if there are colours; for :meth:`painted`."""
        text = safe(text)
        if not self.has_colour or (colour is None and not bold):
            return text
        return click.style(text, fg=colour, bold=bold or None)

    def status(self, status: str) -> str:
        """A status's word in its colour; for :meth:`painted`."""
        return self.paint(status, STATUS_COLOURS.get(status))

    def painted(self, text: str) -> None:
        """What was put together of :meth:`paint` and text of our own."""
        _echo(text, colour=self.has_colour)

    def table(
        self,
        rows: Sequence[Sequence[str]],
        *,
        status: int | None = None,
        right: Iterable[int] = (),
    ) -> None:
        """Columns as wide as they need to be; the first row is the head.

        ``status`` is the column that has statuses, ``right`` are those with numbers. On a
        terminal the last column is cut where the line would be too long; one that is too narrow
        for the others has a line for each cell instead.
        """
        if not rows:
            return
        shown = [[safe(cell).replace("\n", " ") for cell in row] for row in rows]
        widths = [max(width(row[column]) for row in shown) for column in range(len(shown[0]))]
        last = len(widths) - 1
        if self.is_terminal:
            left = self.columns - sum(widths[:-1]) - 2 * last
            if left < min(widths[last], _LEAST_LAST):
                self._stacked(shown, status)
                return
            widths[last] = min(widths[last], left)
        numbers = frozenset(right)
        lines = []
        for place, row in enumerate(shown):
            cells = []
            for column, cell in enumerate(row):
                text = _cut(cell, widths[column]) if column == last else cell
                blank = " " * (widths[column] - width(text))
                if place == 0:
                    text = self.paint(text, bold=True)
                elif column == status:
                    text = self.status(text)
                cells.append(blank + text if column in numbers else text + blank)
            lines.append("  ".join(cells).rstrip())
        _echo("\n".join(lines), colour=self.has_colour)

    def _stacked(self, rows: list[list[str]], status: int | None) -> None:
        head, *others = rows
        longest = max(map(width, head))
        blocks = []
        for row in others:
            lines = []
            for column, cell in enumerate(row):
                name = self.paint(head[column], bold=True) + " " * (longest - width(head[column]))
                text = self.status(cell) if column == status else cell
                lines.append(f"{name}  {text}".rstrip())
            blocks.append("\n".join(lines))
        _echo("\n\n".join(blocks), colour=self.has_colour)

    @property
    def columns(self) -> int:
        """Cells in a line of the terminal; 100 where there is none."""
        from shutil import get_terminal_size

        return get_terminal_size((100, 24)).columns

    @property
    def _sane_columns(self) -> int:
        return min(max(self.columns, 20), 1000)

    # -- rich

    @cached_property
    def console(self) -> Console:
        """The console of rich on standard output. What is printed on it has to be ``safe`` text."""
        return self._console(sys.stdout, is_terminal=self.is_terminal)

    @cached_property
    def console_aside(self) -> Console:
        """The one on standard error, for progress."""
        return self._console(sys.stderr, is_terminal=_is_terminal(sys.stderr))

    def _console(self, stream: TextIO, *, is_terminal: bool) -> Console:
        from rich.console import Console

        class Plain(Console):
            def show_cursor(self, show: bool = True) -> bool:
                # A hidden one would stay hidden if a signal ends us.
                return False

        # force_terminal, so that rich asks no variable of the environment. Markup, emoji codes
        # and highlighting would find something in what a message says.
        return Plain(
            file=stream,
            force_terminal=is_terminal,
            no_color=not self.has_colour,
            # COLUMNS may say anything: with 0 nothing would be shown, with 10^20 rich fails.
            width=None if is_terminal and not os.environ.get("COLUMNS") else self._sane_columns,
            markup=False,
            emoji=False,
            highlight=False,
        )

    # -- what takes long

    def working(self, what: str) -> AbstractContextManager[None]:
        """Say on standard error that ``what`` goes on, if it does for over a second."""
        if not self.is_live_aside:
            return nullcontext()
        from .aside import spinner

        return spinner(lambda: self.console_aside, what, after=SHOWN_AFTER)

    def progress(self, what: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """A bar on standard error once ``what`` takes over a second.

        Enters with a function to be told how many more are done.
        """
        if not self.is_live_aside:
            return nullcontext(lambda _: None)
        from .aside import bar

        return bar(lambda: self.console_aside, what, total, after=SHOWN_AFTER)


def _echo(text: str, *, colour: bool, nl: bool = True) -> None:
    # By name: left to itself, click writes UTF-8 to a stream that was said to be ASCII.
    click.echo(text, file=sys.stdout, nl=nl, color=colour)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # None under pythonw, closed by somebody
        return False


def _cut(text: str, most: int) -> str:
    """At most so many cells of a text, and … if there is more."""
    if width(text) <= most:
        return text
    kept = text[: most - 1]
    while width(kept) > most - 1:
        kept = kept[:-1]
    return f"{kept}…"
