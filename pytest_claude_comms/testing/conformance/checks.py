"""How a contract says what it expects: each check that fails is a line of the failure's page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from ... import render

_E = TypeVar("_E", bound=BaseException)
_LONGEST = 400


class Mismatch(AssertionError):
    """What a contract expected of ``what`` and what it found, both as text."""

    def __init__(self, what: str, expected: str, found: str) -> None:
        super().__init__(f"{what}: expected {expected}, found {found}")
        self.what = what
        self.expected = expected
        self.found = found


def shown(value: object) -> str:
    """A value as a page shows it: the middle of a long one left out."""
    if isinstance(value, datetime):
        return render.instant(value)
    text = repr(value.value if isinstance(value, Enum) else value)
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]} …{len(text) - 2 * half:,} characters… {text[-half:]}"


def equal(found: object, expected: object, what: str) -> None:
    """``found == expected``. Of records and sequences the first difference is shown."""
    if found != expected:
        where, found, expected = _difference(found, expected)
        texts = shown(expected), shown(found)
        if type(found) is not type(expected) and _are_sequences(found, expected):
            # Of long ones the brackets alone would tell, which nobody sees.
            texts = (
                f"a {type(expected).__name__}, {texts[0]}",
                f"a {type(found).__name__}, {texts[1]}",
            )
        raise Mismatch(f"{what}{where and f', at {where}'}", *texts)


def _difference(found: Any, expected: Any, where: str = "") -> tuple[str, object, object]:
    """Where two values that are not equal differ first, and what is there."""
    for place, one, other in _parts(found, expected):
        if one != other:
            return _difference(one, other, where + place)
    return where, found, expected


def _parts(found: Any, expected: Any) -> Iterator[tuple[str, object, object]]:
    """The parts of two records, dicts or sequences that have the same parts; else nothing."""
    if is_dataclass(found) and type(found) is type(expected):
        for field in fields(found):
            yield f".{field.name}", getattr(found, field.name), getattr(expected, field.name)
    elif isinstance(found, dict) and isinstance(expected, dict):
        for key in found if found.keys() == expected.keys() else ():
            yield f"[{key!r:.40}]", found[key], expected[key]
    elif _are_sequences(found, expected):
        for place, one in enumerate(found if len(found) == len(expected) else ()):
            yield f"[{place}]", one, expected[place]


def _are_sequences(found: object, expected: object) -> bool:
    return isinstance(found, (list, tuple)) and isinstance(expected, (list, tuple))


def same_json(found: object, expected: object, what: str) -> None:
    """Equal as JSON text: to Python ``1 == 1.0 == True``, to a reader of metadata they differ."""
    try:
        text = json.dumps(found, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise Mismatch(what, shown(expected), f"{shown(found)}, no JSON: {error}") from None
    if text != json.dumps(expected, sort_keys=True):
        raise Mismatch(what, shown(expected), shown(found))


def true(holds: object, what: str, *, expected: str, found: object) -> None:
    """``holds``, where the expectation is best said in words."""
    if not holds:
        raise Mismatch(what, expected, shown(found))


def refused(
    call: Callable[[], object], kind: type[_E] | tuple[type[_E], ...], what: str, /, **fields: Any
) -> _E:
    """``call`` raises ``kind``, whose attributes are ``fields``; returns the error."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(each.__name__ for each in kinds)
    try:
        answer = call()
    except kinds as error:
        for name, value in fields.items():
            equal(getattr(error, name, None), value, f"{name} of the {wanted} of {what}")
        return error
    except Exception as error:
        raise Mismatch(what, wanted, f"{type(error).__name__}: {error}") from error
    raise Mismatch(what, wanted, f"no error: it answered {shown(answer)}")
