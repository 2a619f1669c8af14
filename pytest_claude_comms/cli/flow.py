"""Text that comes in pieces on a terminal, with a line under it."""

from __future__ import annotations

from typing import TextIO

from .live import size
from .safety import width


class Flow:
    """Text in pieces on a terminal, and under it a line that is drawn over.

    The line is taken away before more text comes, and the cursor put back behind the text.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._column = 0
        """Cells of text in the row in which it goes on."""
        self._wrapped = False
        """Whether the text has filled a row to its end: a newline there is done already."""
        self._line = ""
        self._columns = 0

    def write(self, text: str) -> None:
        """More text, which has to be harmless."""
        if not text:
            return
        columns = size(self._stream)[0]
        before, under = self._taken_away(columns), self._line
        if self._wrapped and text.startswith("\n"):
            text = text[1:]
        text = self._expanded(text, columns)
        # The terminal breaks the line by itself, but only when the next character comes.
        self._wrapped = self._column == columns
        if self._wrapped:
            text += "\n"
            self._column = 0
        self._put(before + text + self._under(under, columns))

    def status(self, text: str) -> None:
        """Show ``text``, of fewer cells than the terminal is wide, as the line under it all."""
        columns = size(self._stream)[0]
        if text != self._line or columns != self._columns:
            self._put(self._taken_away(columns) + self._under(text, columns))

    def finish(self) -> None:
        """Take the line away, and end the text's last row."""
        before = self._taken_away(size(self._stream)[0])
        self._put(before + ("\n" if self._column else ""))
        self._line, self._column = "", 0

    def _under(self, text: str, columns: int) -> str:
        """What puts the line under the text."""
        self._line, self._columns = text, columns
        # The cursor goes back to its start: where a Ctrl-C is echoed, say, at its end it would go
        # on in the next row. And a terminal that breaks lines anew keeps the cursor there.
        return ("\n" if self._column else "") + text + "\r" if text else ""

    def _taken_away(self, columns: int) -> str:
        """What erases the line and puts the cursor where the text goes on."""
        if not self._line:
            return ""
        if columns != self._columns:
            self._column = 0  # nobody knows where the terminal has put the text: a new row
            return "\r\x1b[J"
        back = f"\x1b[A\x1b[{self._column}C" if self._column else ""
        return f"\r\x1b[K{back}"

    def _expanded(self, text: str, columns: int) -> str:
        """With blanks for tabs; counts cells."""
        start = text.rfind("\n") + 1
        if start:
            self._column = 0
        tail = []
        for char in text[start:]:
            piece = " " * (8 - self._column % 8) if char == "\t" else char
            cells = width(piece)
            if self._column + cells > columns:
                self._column = 0
            self._column += cells
            tail.append(piece)
        return text[:start].expandtabs() + "".join(tail)

    def _put(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()
