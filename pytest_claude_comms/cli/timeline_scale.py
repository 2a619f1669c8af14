"""Where an instant stands in a picture of a thread."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from .. import render

_LEAST_GAP: Final = 0.10
"""A pause in which no message is under way is cut out if it takes more of the picture than this:
two questions with a night between them would be two dots otherwise."""
_GAP_WIDTH: Final = 4.0
"""How wide, in percent, a cut is drawn."""
_STEPS: Final = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200)
_MOST_TICKS: Final = 9


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of time, in seconds from the start, and of the picture, in percent."""

    begin: float
    end: float
    left: float
    right: float
    is_gap: bool

    def place(self, second: float) -> float:
        if self.end <= self.begin:
            return self.left
        share = (second - self.begin) / (self.end - self.begin)
        return self.left + (self.right - self.left) * min(max(share, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """A time axis, with long pauses cut out."""

    start: datetime
    end: datetime
    pieces: tuple[_Piece, ...]

    @classmethod
    def of(cls, spans: Iterable[tuple[datetime, datetime | None]]) -> Scale:
        """From when to when something was under way; None: it still is."""
        known = list(spans)
        start = min(begin for begin, _ in known)
        latest = max(end or begin for begin, end in known)
        is_open = any(end is None for _, end in known)
        whole = max((latest - start).total_seconds(), 0.001)
        seconds = [
            ((begin - start).total_seconds(), (stop - start).total_seconds())
            for begin, stop in known
            if stop is not None
        ]
        # A bit of room at the right: for what ends there, or has not ended.
        pauses = _pauses(seconds, whole)
        busy = whole - sum(until - since for since, until in pauses)
        room = busy * (0.10 if is_open else 0.02)
        return cls(
            start,
            start + timedelta(seconds=whole + room),
            _pieces(pauses, whole + room, busy + room),
        )

    @property
    def length(self) -> str:
        """How long all of it is, for a person."""
        return render.age((self.end - self.start).total_seconds())

    def place(self, at: datetime) -> float:
        """In percent from the left."""
        second = (at - self.start).total_seconds()
        found = bisect_right([piece.begin for piece in self.pieces], second) - 1
        return self.pieces[max(found, 0)].place(second)

    def breaks(self) -> Iterator[tuple[float, float, float]]:
        """The cuts: from and to in percent, and how many seconds are left out."""
        for piece in self.pieces:
            if piece.is_gap:
                yield piece.left, piece.right, piece.end - piece.begin

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Places with their labels, round numbers of seconds from the start."""
        drawn = sum(piece.end - piece.begin for piece in self.pieces if not piece.is_gap)
        step = _step(drawn / _MOST_TICKS)
        last = -100.0
        for piece in self.pieces:
            if piece.is_gap:
                continue
            count = 0 if piece.begin == 0 else int(piece.begin / step) + 1
            while (second := count * step) <= piece.end:
                place = piece.place(second)
                if place - last >= 9 and place <= 94:  # room for its label
                    yield place, _label(second, step)
                    last = place
                count += 1


def _pauses(spans: list[tuple[float, float]], whole: float) -> list[tuple[float, float]]:
    pauses = []
    reached = 0.0
    for begin, end in sorted(spans):
        if begin - reached > _LEAST_GAP * whole:
            pauses.append((reached, begin))
        reached = max(reached, end)
    return pauses


def _pieces(pauses: list[tuple[float, float]], whole: float, busy: float) -> tuple[_Piece, ...]:
    width = 100.0 - _GAP_WIDTH * len(pauses)
    pieces = []
    at, left = 0.0, 0.0
    for begin, end in [*pauses, (whole, whole)]:
        right = left + (width * (begin - at) / busy if busy > 0 else 0.0)
        pieces.append(_Piece(at, begin, left, right, is_gap=False))
        if begin < whole:
            pieces.append(_Piece(begin, end, right, right + _GAP_WIDTH, is_gap=True))
            left = right + _GAP_WIDTH
        at = end
    return tuple(pieces)


def _step(least: float) -> float:
    small = 1.0
    while small / 10 >= least and small > 1e-6:
        small /= 10
    if small < 1.0 or least < 1.0:
        return next(small * each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10) if small * each >= least)
    for step in _STEPS:
        if step >= least:
            return float(step)
    days = least / 86_400
    return 86_400.0 * max(1, round(days + 0.5))


def _label(second: float, step: float) -> str:
    """``+2.5 s``, ``+1:30 min``, ``+3:05 h``, with seconds where the next is not a minute on."""
    if second < 60:
        return f"+{round(second, 6):g} s"
    minutes, rest = divmod(round(second), 60)
    if minutes < 60:
        return f"+{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    seconds = f":{rest:02d}" if step < 60 else ""
    return f"+{hours}:{minutes:02d}{seconds} h" if hours < 72 else f"+{hours / 24:.1f} days"
