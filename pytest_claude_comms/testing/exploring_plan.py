"""Which actor goes on when several could: an order drawn from a seed.

The order is that of probabilistic concurrency testing (Burckhardt et al., 2010): each actor has a
random priority, the highest that can run does, and at a few random points the one that runs falls
behind all others. Of *n* actors and *k* points, a bug that needs *d* steps in some order is met in
a schedule of *d* - 1 such changes with a probability of at least 1 / (n * k ** (d - 1)), where lots
drawn at each point would have to fall right every time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_MOST_CHANGES = 4
_MOST_POINTS = 10**9
_FORM = re.compile(r"([0-9]{1,18}):([0-9]{1,10})")


@dataclass(frozen=True, slots=True)
class Seed:
    """What a schedule follows from, alone: its number, and over how many points it spreads."""

    number: int
    """0 is the order that a fake clock has by itself."""
    points: int

    def __str__(self) -> str:
        return f"{self.number}:{self.points}"

    @classmethod
    def parse(cls, text: object) -> Seed:
        """The seed that prints as ``text``. Raises TypeError or ValueError that says its form."""
        if not isinstance(text, str):
            raise TypeError(f"a seed is a str, as a failure prints it: '17:480', not {text!r}")
        match = _FORM.fullmatch(text.strip())
        if match is None or not 1 <= int(match[2]) <= _MOST_POINTS:
            raise ValueError(
                f"a seed is NUMBER:POINTS, as a failure prints it: 17:480, not {text!r}"
            )
        return cls(int(match[1]), int(match[2]))


class Plan:
    """The choices of one schedule. They are the same on every machine and Python: they come from
    ``Random.random``, which Python promises not to change."""

    def __init__(self, seed: Seed) -> None:
        self.seed = seed
        self.explores = seed.number > 0
        """False: everything in the order that a fake clock has by itself."""
        draw = _drawer(f"changes {seed}")
        changes = int(draw() * (_MOST_CHANGES + 1)) if self.explores else 0
        self._changes = {1 + int(draw() * seed.points) for _ in range(changes)}
        self._priorities: dict[int, float] = {}
        self._lowest = 0.0

    def priority(self, number: int) -> float:
        """That of the actor of this number, whoever was asked for before."""
        if number not in self._priorities:
            self._priorities[number] = _drawer(f"actor {number} {self.seed}")()
        return self._priorities[number]

    def pass_point(self, point: int, number: int) -> None:
        """The actor of this number has come to the ``point``-th point of the schedule."""
        if point in self._changes:
            self._lowest -= 1.0
            self._priorities[number] = self._lowest


def _drawer(name: str) -> Callable[[], float]:
    return Random(name).random  # noqa: S311 - it is to be repeatable
