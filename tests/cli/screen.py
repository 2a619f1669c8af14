"""As much of a terminal as the live commands use: what stands where after all that was written."""

from __future__ import annotations

import io
import re

from pytest_claude_comms.cli.safety import width

_SEQUENCE = re.compile(r"\x1b\[(\d*)([ABCJK])|\x1b\[[\d;]*m")


class Screen(io.StringIO):
    """A stream that keeps the rows of a terminal, those that have scrolled away too."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        super().__init__()
        self.columns, self.lines = columns, lines
        self.cells: list[list[str]] = [[]]
        self.row = self.column = 0
        self.top = 0
        """The first row that is still on the screen."""
        self.written: list[str] = []

    def write(self, text: str) -> int:
        self.written.append(text)
        place = 0
        while place < len(text):
            found = _SEQUENCE.match(text, place)
            if found:
                self._obey(found[2] or "", int(found[1] or 0))
                place = found.end()
                continue
            assert text[place] != "\x1b", text[place:]
            self._put(text[place])
            place += 1
        return len(text)

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":  # the terminal's driver makes \r\n of it
            self.column = 0
            self._down()
        else:
            cells = width(char)
            if self.column + cells > self.columns:
                self.column = 0
                self._down()
            row = self.cells[self.row]
            row += [" "] * (self.column + cells - len(row))
            row[self.column : self.column + cells] = [char, *[""] * (cells - 1)]
            self.column += cells

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.cells):
            self.cells.append([])
        self.top = max(self.top, self.row - self.lines + 1)

    def _obey(self, letter: str, count: int) -> None:
        if letter in "AC":  # one that waits to wrap is at the last column
            self.column = min(self.column, self.columns - 1)
        if letter == "A":
            self.row = max(self.top, self.row - max(1, count))
        elif letter == "B":
            self.row = min(len(self.cells) - 1, self.row + max(1, count))
        elif letter == "C":
            self.column = min(self.columns - 1, self.column + max(1, count))
        elif letter == "K":
            del self.cells[self.row][self.column :]
        elif letter == "J":
            del self.cells[self.row][self.column :]
            del self.cells[self.row + 1 :]

    @property
    def rows(self) -> list[str]:
        """All rows, without blanks at their ends."""
        return ["".join(row).rstrip() for row in self.cells]
