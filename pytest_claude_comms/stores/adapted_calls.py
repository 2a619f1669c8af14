"""Calling methods whose parameters have names of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .adapted_shapes import (
    CONTENT,
    ERROR,
    MESSAGE_ID,
    METADATA,
    MODULE,
    MODULES,
    STATUS,
    THREAD_ID,
    TITLE,
    TYPE,
    CannotAdapt,
)

_ALIASES: Mapping[str, tuple[str, ...]] = {
    "thread_id": THREAD_ID,
    "message_id": (*MESSAGE_ID, "message"),
    "title": TITLE,
    "modules": MODULES,
    "module_name": MODULE,
    "content": ("new_content", *CONTENT),
    "message_type": TYPE,
    "status": STATUS,
    "error": ERROR,
    "metadata": METADATA,
}
"""What else parameters are called, by what they are called here."""
_ALL_IN_ONE = ("updates", "fields", "changes", "data")
"""A parameter that takes a dict of what is to be changed."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Call:
    """A method and what it is to be called with."""

    name: str
    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        return self.method(*self.args, **self.kwargs)


def method_of(obj: object, names: tuple[str, ...]) -> str | None:
    """The first of these methods that the object has."""
    return next((name for name in names if callable(getattr(obj, name, None))), None)


def call_for(
    obj: object,
    names: tuple[str, ...],
    given: Mapping[str, Any],
    spare: Mapping[str, Any],
    *,
    stands: Mapping[str, Any] | None = None,
    what: str,
    way_out: str = "",
) -> Call:
    """How to call the first of these methods that takes all that is ``given``.

    ``spare`` is passed where there is a parameter for it, ``stands`` (what is so already) where
    there is one without a default. Raises CannotAdapt that says which methods there are and what
    each lacks, and ``way_out`` where the caller cannot leave that out.
    """
    lacks = []
    for name in names:
        method = getattr(obj, name, None)
        if not callable(method):
            continue
        found = _fitted(method, given, spare, stands or {})
        if not isinstance(found, str):
            args, kwargs = found
            return Call(name, method, args, kwargs)
        lacks.append(f"{name}() {found}")
    kind = type(obj).__name__
    if not lacks:
        raise CannotAdapt(
            f"{what} cannot be done on an adapted {kind}: it has no method {' or '.join(names)}; "
            f"give it one, or do it through the {kind} itself"
        )
    raise CannotAdapt(
        f"{what} cannot be done on an adapted {kind}: {'; '.join(lacks)}; "
        f"{way_out or f'leave that out, or do it through the {kind} itself'}"
    )


def _fitted(
    method: Callable[..., Any],
    given: Mapping[str, Any],
    spare: Mapping[str, Any],
    stands: Mapping[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]] | str:
    """Arguments for ``method``, or what is wrong with it."""
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):  # written in C: taken at its word
        return (), dict(given)
    by_name = {each.name: each for each in parameters if each.kind not in _VARIADIC}
    placed: dict[str, Any] = {}
    unplaced: dict[str, Any] = {}
    # What has to go in comes first: `id` is the message's where only the thread could be spared.
    for name, value in {**given, **spare, **given}.items():
        place = _place(name, by_name, placed)
        if place is not None:
            placed[place] = value
        elif name in given:
            unplaced[name] = value
    bag = next((name for name in _ALL_IN_ONE if name in by_name), None)
    if unplaced and any(each.kind is each.VAR_KEYWORD for each in parameters):
        placed.update(unplaced)
    elif unplaced and bag is not None:
        placed[bag] = unplaced
    elif unplaced:
        return f"takes no {' and no '.join(unplaced)}"
    missing = _fill(by_name, stands, placed)
    if missing:
        return f"asks for {' and '.join(missing)}"
    by_place = [n for n, p in by_name.items() if p.kind is p.POSITIONAL_ONLY and n in placed]
    return tuple(placed.pop(name) for name in by_place), placed


def _fill(
    by_name: Mapping[str, inspect.Parameter], stands: Mapping[str, Any], placed: dict[str, Any]
) -> list[str]:
    """Give what has to be given and is so already; returns what is missing then."""
    required = {n: p for n, p in by_name.items() if p.default is p.empty}
    for name, value in stands.items():
        place = _place(name, required, placed)
        if place is not None:
            placed.setdefault(place, value)
    return [name for name in required if name not in placed]


def _place(name: str, by_name: Mapping[str, object], placed: Mapping[str, object]) -> str | None:
    """The parameter for an argument: `message` may be an id to one, and a text to another."""
    if name in by_name:
        return name
    return next((n for n in _ALIASES.get(name, ()) if n in by_name and n not in placed), None)
