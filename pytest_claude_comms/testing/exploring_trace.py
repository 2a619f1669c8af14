"""What happened in one schedule, and how a person reads it."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

from .. import render
from ..clock import SECOND

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_MOST_STEPS = 60
_MOST_OPERATIONS = 6
_LONGEST_VALUE = 40
_users: dict[CodeType, bool] = {}


def is_users(code: CodeType) -> bool:
    """Whether it is of the project that is tested: not ours, Python's or an installed one."""
    found = _users.get(code)
    if found is None:
        found = is_users_file(code.co_filename)
        _users[code] = found
    return found


def is_users_file(name: str | None) -> bool:
    """As ``is_users``, of the file where code is."""
    return bool(name) and not str(name).startswith((_OURS, *_LIBRARIES, "<"))


def place() -> str:
    """Where the calling thread is in the user's code, as ``file:line``; empty if it is not."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code):
            return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


class Named:
    """A name that is shown as it is, whole."""

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(slots=True)
class Operation:
    """A call that others see the effect of."""

    name: str
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = field(default_factory=dict)
    raised: str = ""

    def __str__(self) -> str:
        given = [_short(value) for value in self.args]
        given += [f"{name}={_short(value)}" for name, value in self.kwargs.items()]
        raised = f" -> {self.raised}" if self.raised else ""
        return f"{self.name}({', '.join(given)}){raised}" if given else f"{self.name}{raised}"


@dataclass(slots=True)
class Step:
    """A turn of one actor."""

    number: int
    name: str
    at_us: int
    operations: list[Operation] = field(default_factory=list)
    points: int = 0
    orders: str = ""
    """In which orders it had tasks go on, where not in that of its event loop."""
    until: str = ""
    where: str = ""


class Trace:
    """The turns of a schedule, in order. Only who has the turn writes to it."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def begins(self, number: int, name: str, at_us: int) -> None:
        """An actor was given the turn; if it had it before, it goes on."""
        last = self.steps[-1] if self.steps else None
        if last is None or last.until or last.number != number:
            self.steps.append(Step(number, short_name(name), at_us))

    def passes(self) -> None:
        """It comes to a point."""
        self.steps[-1].points += 1

    def does(self, operation: Operation) -> None:
        """It does what others see the effect of."""
        self.steps[-1].operations.append(operation)

    def reorders(self, names: list[str], places: list[int]) -> None:
        """The tasks of its event loop go on in this order, which is not the loop's own."""
        self.steps[-1].orders += f"{places}"
        self.does(Operation("tasks go on", tuple(Named(name) for name in names)))

    def ends(self, until: str, where: str) -> None:
        """Its turn is over."""
        step = self.steps[-1]
        step.until, step.where = until, where

    def digest(self) -> bytes:
        """Equal for schedules in which the same actors did as much in the same turns."""
        turns = ";".join(
            f"{each.number},{each.at_us},{each.points}{each.orders}" for each in self.steps
        )
        return hashlib.blake2b(turns.encode(), digest_size=16).digest()

    def lines(self) -> list[str]:
        """Who ran, at which fake time, what it did and until when; of a long schedule the end."""
        hidden = max(0, len(self.steps) - _MOST_STEPS)
        lines = [f"… {hidden:,} turns before these"] if hidden else []
        for turn, step in enumerate(self.steps[hidden:], start=hidden + 1):
            at = f"+{step.at_us / SECOND:g} s"
            lines.append(f"{turn:>4}  {at}  {step.name} (actor {step.number})")
            until = f"{step.until}, {step.where}" if step.where else step.until
            lines += [f"        {each}" for each in (*_did(step), until) if each]
        return [render.clean(line) for line in lines]


def _did(step: Step) -> list[str]:
    shown = [str(each) for each in step.operations]
    if len(shown) > _MOST_OPERATIONS:
        shown = [*shown[:2], f"… {len(shown) - 4} more", *shown[-2:]]
    return shown


def short_name(name: str) -> str:
    """That of a function without those of the functions around it."""
    return name.rpartition("<locals>.")[2]


def _short(value: object) -> str:
    if isinstance(value, Named):
        return value.name
    found = getattr(value, "message_id", None) or getattr(value, "thread_id", None)
    text = str(found) if isinstance(found, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
