"""Text from outside, made harmless: nothing in a message may command a terminal."""

from __future__ import annotations

import unicodedata

from ..render import clean

__all__ = ["clean", "safe", "width"]

_JOINERS = "\u200c\u200d"
"""Persian, Indic scripts and most families of emoji cannot be written without them, and they
change no order."""


def safe(text: str) -> str:
    r"""Text of many lines that cannot move a cursor, colour, hide or reorder anything.

    Newlines and tabs stay; ``\r\n`` is a newline. Every other control character, direction mark,
    invisible character and lone surrogate is shown as its escape: ``\x1b``, ``\u202e``.
    For text of one line (ids, titles, names) there is :func:`clean`, which escapes newlines too.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" or _is_harmless(char) else _escaped(char)
        for char in text.replace("\r\n", "\n")
    )


def _is_harmless(char: str) -> bool:
    # Spaces of any width are not "printable" to Python; a paragraph separator is no space.
    return char in _JOINERS or unicodedata.category(char) == "Zs"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def width(text: str) -> int:
    """Cells that a printable text takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cells(char) for char in text)


def _cells(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
