"""Which stores a test runs on, and how one is opened for it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..clock import Clock, seconds_to_us
from ..stores.base import ConversationStore, Durability
from ..stores.legacy import SHAPES

if TYPE_CHECKING:
    from .exploring_plan import Seed

BUILT_IN = ("memory", "tinydb", "sqlite")

_MOST_SCHEDULES = 10_000_000
_SUFFIXES = {"tinydb": "json", "sqlite": "db"}
_FACTORY = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """One column of the matrix."""

    name: str
    """As it was given, and as it stands in test ids."""
    open: Callable[..., ConversationStore]
    """Called with the test's own folder (a ``Path``), ``clock=`` and ``durability=``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What options, ini values and the marker may say."""

    stores: tuple[StoreChoice, ...]
    returns: str = "message"
    durability: Durability = "process"
    watchdog: float = 10.0
    freeze: bool = True
    start: datetime | None = field(default=None)
    explore: int = 0
    """Under how many schedules a test runs; 0: once, on a clock as it is."""
    explore_lines: bool | tuple[str, ...] = False
    seed: Seed | None = None
    """The one schedule to repeat."""


def parse(text: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Settings from plain values, those that are missing from ``base``.

    Raises ValueError or TypeError that lists the good values.
    """
    known = [each.name for each in fields(Settings)]
    for name in text:
        if name not in known:
            raise ValueError(f"there is no {name!r}; there are {', '.join(known)}")
    values = {name: _PARSERS[name](value) for name, value in text.items()}
    if base is None:
        return Settings(**values)
    return replace(base, **values)


def store_choices(names: object) -> tuple[StoreChoice, ...]:
    """``"tinydb,sqlite"``, or a list of such names; a name once."""
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, Iterable):
        raise TypeError(f"stores must be names of stores, not {names!r}")
    found: dict[str, StoreChoice] = {}
    for item in names:
        if not isinstance(item, str):
            raise TypeError(f"a store is named by a str, not {item!r}")
        for name in re.split(r"[,\s]+", item.strip()):
            if name:
                found[name] = _store_choice(name)
    if not found:
        raise ValueError(f"no store was named; {_good_stores()}")
    return tuple(found.values())


def _good_stores() -> str:
    from ..stores import schemes

    names = ", ".join((*BUILT_IN, *schemes.names()))
    return (
        f"there are {names}, and package.module:factory for a store of your own, or the name that "
        f"an installed package gives it by an entry point in {schemes.GROUP}"
    )


def _store_choice(name: str) -> StoreChoice:
    if name in BUILT_IN:
        return StoreChoice(name, partial(_open_built_in, name))
    if not _FACTORY.fullmatch(name):
        return _installed(name)
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the store {name!r} cannot be loaded: {error}{_where(error)}; {_good_stores()}"
        ) from error
    try:
        inspect.signature(factory).bind(Path(), clock=None, durability="process")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the store {name!r} is {factory!r}, not a function (folder, *, clock, durability): "
            f"{error}"
        ) from None
    return StoreChoice(name, factory)


def _where(error: Exception) -> str:
    """How a module comes to be found, for one that was not: pytest alone adds no folder."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    return " (install it, or name its folder in pytest's ini value pythonpath)"


def _installed(name: str) -> StoreChoice:
    """A store whose scheme a package brings by an entry point."""
    from ..stores import schemes

    if not schemes.is_known(name):
        raise ValueError(f"there is no store {name!r}; {_good_stores()}")
    try:
        schemes.factory_of(name)
    except schemes.SchemeBroken as error:
        raise ValueError(str(error)) from error
    return StoreChoice(name, partial(_open_installed, name))


def _open_installed(
    name: str, folder: Path, *, clock: Clock | None, durability: Durability
) -> ConversationStore:
    from ..stores import open_store

    return open_store(f"{name}:///{folder / 'store'}", clock=clock, durability=durability)


def _open_built_in(
    name: str, folder: Path, *, clock: Clock | None, durability: Durability
) -> ConversationStore:
    from ..stores import open_store

    if name == "memory":
        return open_store("memory:", clock=clock)
    # Joined by hand: an absolute POSIX path gives the fourth slash, a Windows one needs none.
    url = f"{name}:///{folder / f'store.{_SUFFIXES[name]}'}"
    return open_store(url, clock=clock, durability=durability)


def _one_of(good: Iterable[str], what: str) -> Callable[[object], str]:
    words = tuple(good)

    def check(value: object) -> str:
        if value not in words:
            raise ValueError(f"{what} cannot be {value!r}; it is one of {', '.join(words)}")
        return str(value)

    return check


def _watchdog(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"watchdog must be a number of seconds, not {value!r}") from None
    us = seconds_to_us(value, "watchdog")
    if us == 0:
        raise ValueError("watchdog must be more than 0 seconds")
    return us / 1_000_000


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"freeze must be True or False, not {value!r}")
    return value


def _start(value: object) -> datetime:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TypeError(f"start must be an aware datetime, not {value!r}")
    return value


def _explore(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"explore must be a number of schedules, not {value!r}")
    if not 0 <= value <= _MOST_SCHEDULES:
        raise ValueError(f"explore must be between 0 and {_MOST_SCHEDULES:,}, not {value:,}")
    return value


def _explore_lines(value: object) -> bool | tuple[str, ...]:
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(n, str) for n in value):
        for name in value:
            if not _is_module(name):  # in silence, its test would be tried with no line at all
                raise ValueError(f"explore_lines: there is no module {name!r}")
        return tuple(value)
    raise TypeError(
        f"explore_lines must be True (lines of the project's own code), False or a list of names "
        f"of modules, not {value!r}"
    )


def _is_module(name: str) -> bool:
    try:
        return name in sys.modules or find_spec(name) is not None
    except (ImportError, ValueError):  # it has no parent; it is empty, or begins with a dot
        return False


def _seed(value: object) -> Seed:
    from .exploring_plan import Seed

    return Seed.parse(value)


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "stores": store_choices,
    "returns": _one_of(SHAPES, "returns"),
    "durability": _one_of(get_args(Durability), "durability"),
    "watchdog": _watchdog,
    "freeze": _flag,
    "start": _start,
    "explore": _explore,
    "explore_lines": _explore_lines,
    "seed": _seed,
}
