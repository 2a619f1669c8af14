r"""From the bytes that the Claude CLI prints to JSON objects, losing as little as can be.

The CLI (2.1.330) prints one JSON object a line, ``\n`` at its end; lines of 1.5 MB were seen.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final, TypeAlias

BytesLike: TypeAlias = bytes | bytearray | memoryview

DEEPEST: Final = 64
"""Levels of nesting kept of a line; what lies deeper becomes ``"…"``. A line's parts end up as a
message's metadata, which a store takes up to 100 levels deep."""

# The lowest limit that Python can be told to set on int(str), which is otherwise a ValueError.
_LONGEST_INT: Final = 640
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class LineFramer:
    r"""Cuts chunks of bytes into lines at ``\n`` only, whatever piece a chunk is.

    In the place of a line of more than ``max_line_bytes`` stands None: it is dropped as it
    passes, so that memory stays bounded.
    """

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._tail = bytearray()
        self._dropping = False

    @property
    def pending(self) -> bool:
        """Whether part of a line has come and its end has not."""
        return bool(self._tail) or self._dropping

    def push(self, chunk: bytes) -> list[bytes | None]:
        """The lines that ``chunk`` ends, without their newline; empty ones are left out."""
        *ended, rest = chunk.split(b"\n")
        lines: list[bytes | None] = []
        if chunk[:1] == b"{" and self._tail[-1:] == b"}" and self._is_whole():
            lines += self.flush()
        for piece in ended:
            self._grow(piece)
            lines += self.flush()
        self._grow(rest)
        return lines

    def flush(self) -> list[bytes | None]:
        """The line under way, as if it had ended here; nothing if none is."""
        lines: list[bytes | None] = []
        if self.pending:
            lines.append(None if self._dropping else bytes(self._tail))
        self._tail.clear()
        self._dropping = False
        return lines

    def _is_whole(self) -> bool:
        # Nothing goes on with a second object: the newline is missing, as bytes.splitlines() does.
        return parse_object(self._tail.decode(errors="replace")) is not None

    def _grow(self, piece: bytes) -> None:
        if self._dropping:
            return
        if len(self._tail) + len(piece) > self._max:
            self._tail.clear()
            self._dropping = True
        else:
            self._tail += piece


def parse_object(line: str) -> dict[str, Any] | None:
    """The JSON object that ``line`` is, or None. Never raises.

    Every str in it can be stored as UTF-8: a lone surrogate (half an emoji, as JavaScript cuts
    text) becomes U+FFFD. A number that no JSON has (NaN, infinities) or no int can be read from
    becomes None.
    """
    try:
        value = _DECODER.decode(line)
        if isinstance(value, dict):
            return _clean(value, 1) if _is_suspect(line) else value
    except (ValueError, RecursionError):
        pass
    return None


def without_surrogates(text: str) -> str:
    """``text`` with each lone surrogate replaced by U+FFFD."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def _is_suspect(line: str) -> bool:
    # Walking every line would cost more than parsing it; these few searches cost nearly nothing.
    return (
        "\\ud" in line
        or "\\uD" in line
        or line.count("[") + line.count("{") > DEEPEST
        or (not line.isascii() and _LONE_SURROGATE.search(line) is not None)
    )


def _clean(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return without_surrogates(value)
    if not isinstance(value, (dict, list)):
        return value
    if depth > DEEPEST:
        return "…"
    if isinstance(value, list):
        return [_clean(each, depth + 1) for each in value]
    return {without_surrogates(key): _clean(each, depth + 1) for key, each in value.items()}


def _to_int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _LONGEST_INT else None


def _to_float(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


# Not strict: a raw control character in a string is no reason to lose the line.
_DECODER = json.JSONDecoder(
    parse_int=_to_int, parse_float=_to_float, parse_constant=lambda _: None, strict=False
)
