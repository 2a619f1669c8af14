"""Spans of time and counts as a person types and reads them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

_UNITS: Final = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_SPAN: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|m|min|h|d|)")


if TYPE_CHECKING:
    Type = click.ParamType[Any]
else:  # no generic before click 8.2
    Type = click.ParamType


class Seconds(Type):
    """``90``, ``90s``, ``5m``, ``1.5h``, ``2d``; with ``none``, no limit at all is one too."""

    name = "SPAN"

    def __init__(self, *, none: bool = False, zero: str = "") -> None:
        """``zero`` is why a span of none at all is refused; "" if it is not."""
        self._none = none
        self._zero = zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if isinstance(value, (int, float)):
            return float(value)
        word = str(value).strip().lower()
        if self._none and word == "none":
            return None
        found = _SPAN.fullmatch(word)
        seconds = float(found[1]) * _UNITS[found[2]] if found else -1.0
        if not 0 <= seconds <= 1e11:
            also = ", or none" if self._none else ""
            self.fail(f"{value!r} is no span of time: 90, 90s, 5m, 1.5h, 2d{also}", param, ctx)
        if self._zero and not seconds:
            self.fail(f"{value!r}: {self._zero}", param, ctx)
        return seconds


class Count(Type):
    """A whole number, not less than ``min``."""

    name = "COUNT"

    def __init__(self, *, min: int) -> None:  # noqa: A002 - as click has it
        self.min = min

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        word = str(value).strip()
        # int() takes '1_000' and digits of other scripts; a long one costs time.
        number = int(word) if word.isascii() and word.isdigit() and len(word) < 19 else -1
        if number < self.min:
            self.fail(f"{value!r} is no whole number from {self.min} on", param, ctx)
        return number


def about(seconds: float) -> str:
    """A span in one unit, so that it seldom changes: ``12 s``, ``3 min``, ``5 h``, ``4 d``."""
    whole = max(0, int(seconds))
    for limit, unit, name in ((60, 1, "s"), (3_600, 60, "min"), (172_800, 3_600, "h")):
        if whole < limit:
            return f"{whole // unit} {name}"
    return f"{whole // 86_400:,} d"
