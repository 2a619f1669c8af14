"""The output formats: a turn's lines as ``stream-json``, ``json`` or ``text``."""

from __future__ import annotations

from .claude_arguments import Arguments
from .claude_hand import Hand
from .claude_lines import encode
from .claude_speaker import Line


class Output:
    """What one process prints on stdout."""

    def __init__(self, hand: Hand, args: Arguments) -> None:
        self._hand = hand
        self._args = args
        self._elements: list[bytes] = []
        """Of the array that ``json`` with ``--verbose`` is."""

    def print(self, line: Line) -> None:
        """A line that is not the last of a turn."""
        if self._args.output == "stream-json":
            self._hand.write(encode(line))
        elif self._args.output == "json" and self._args.verbose:
            self._elements.append(encode(line)[:-1])

    def print_result(self, line: Line, text: str, *, cut: bool) -> None:
        """The last of a turn, ``text`` in the format of that name; ``cut``: half of it."""
        if self._args.output == "text":
            data = text.encode("utf-8", "backslashreplace")
        else:
            data = encode(line)
            if self._args.output == "json" and self._args.verbose:
                data = b"[" + b",".join([*self._elements, data[:-1]]) + b"]\n"
        self._hand.write(data[: len(data) // 2] if cut else data)
