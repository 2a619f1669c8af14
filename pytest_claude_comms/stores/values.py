"""What may be stored: every argument is checked here, before a store is touched.

One place, so that every store accepts and refuses the same values with the same words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from ..records import ConversationThread, Message
from ..status import MessageStatus, parse_status

LONGEST_ID = 1_000
DEEPEST_METADATA = 100
MOST_DIGITS = 640
"""Of an int: what every Python can read, however its ``sys.set_int_max_str_digits`` is set."""

_LEAST_TOO_LONG = 10**MOST_DIGITS
_LONG_DIGITS = re.compile(f"[0-9]{{{MOST_DIGITS + 1}}}")


def text(value: object, what: object) -> str:
    """``value`` as a plain str; ``what`` it is, for an error, as a str or what makes one.

    Raises TypeError for what is none, ValueError for one with a lone surrogate: it has no
    UTF-8 form, so no file could hold it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    plain = value if type(value) is str else str.__str__(value)
    if not plain.isascii():
        try:
            plain.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{what} has a lone surrogate ({plain[error.start]!r}) at character {error.start}, "
                "which no file can hold; decode the bytes it came from with errors='replace'"
            ) from None
    return plain


def identifier(value: object, what: str) -> str:
    """``value`` as an id: any text of 1 to 1,000 characters."""
    plain = text(value, what)
    if not plain:
        raise ValueError(f"{what} must not be empty")
    if len(plain) > LONGEST_ID:
        raise ValueError(
            f"{what} may have up to {LONGEST_ID:,} characters, this one has {len(plain):,}"
        )
    return plain


def message_id_of(message: object) -> str:
    """The id of a message, whatever a store's ``add_message`` returned.

    Takes a :class:`Message`, an id, or a dict with ``message_id`` (or ``id``), as the original
    TinyDB ``ConversationStore`` returned. Raises TypeError for anything else, ValueError for a
    dict that has neither key and for an id that cannot be one; never KeyError.
    """
    return _id_of(message, Message, "message")


def thread_id_of(thread: object) -> str:
    """The id of a thread: a :class:`ConversationThread`, an id, or a dict with ``thread_id``."""
    return _id_of(thread, ConversationThread, "thread")


def _id_of(value: object, record: type[Message | ConversationThread], kind: str) -> str:
    name = f"{kind}_id"
    if isinstance(value, record):
        return str(getattr(value, name))
    if isinstance(value, str):
        return identifier(value, name)
    if isinstance(value, Mapping):
        found = value.get(name)
        if found is None:
            found = value.get("id")
        if found is None:
            keys = ", ".join(repr(key) for key in value) or "none"
            raise ValueError(f"this dict is no {kind}: it has no {name!r} (its keys: {keys})")
        return identifier(found, name)
    hints = [key for key in (name, "answer") if hasattr(value, key)]
    hint = f"; pass its .{hints[0]}" if hints else ""
    raise TypeError(
        f"a {kind} is a {record.__name__}, its id or a dict with {name!r}, not {value!r}{hint}"
    )


def a_store(value: object, what: str) -> None:
    """``value`` is an open store. Raises TypeError that says how to come to one."""
    if hasattr(value, "url") and hasattr(value, "backend"):  # no isinstance: see LegacyReturns
        return
    way = "open one with open_store(url)"
    if isinstance(value, str):
        way = "that is a name; open the store with open_store(url)"
    elif hasattr(value, "get_thread"):
        way = "make one of it with adapt_store(obj)"
    raise TypeError(f"{what} must be an open store, not {value!r}; {way}")


def module_names(modules: object) -> tuple[str, ...]:
    """The names of a thread's modules. A lone str is refused: it would be spelt out."""
    if isinstance(modules, str) or not isinstance(modules, Iterable):
        raise TypeError(f"modules must be a list of names, not {modules!r}")
    return tuple(text(name, f"modules[{place}]") for place, name in enumerate(modules))


def statuses(value: object) -> frozenset[MessageStatus] | None:
    """A filter: None for any status, else those of one status or of several."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        return frozenset({parse_status(value)})
    return frozenset(parse_status(each) for each in value)


def count(value: object, what: str, *, least: int) -> int:
    """An int of at least ``least``; True and 1.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, not {value}")
    return value


def keep(value: object) -> int | timedelta:
    """What ``compact`` keeps: a number of changes, or a span of time."""
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ValueError(f"keep must not be negative, not {value!r}")
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"keep must be a number of changes or a timedelta, not {value!r}")
    return count(value, "keep", least=0)


def metadata(value: object) -> dict[str, Any]:
    """A copy of ``value`` as JSON holds it: str keys, tuples as lists.

    Raises TypeError or ValueError naming the path of what JSON has no word for.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"metadata must be a dict, not {value!r}")
    clean = _json_value(value, _Path(None, "metadata"), 1)
    assert isinstance(clean, dict)
    return clean


class _Path(NamedTuple):
    """Where a value is. Worded for an error only: a long key may have many values under it."""

    parent: _Path | None
    step: object

    def __str__(self) -> str:
        steps: list[str] = []
        at = self
        while at.parent is not None:
            steps.append(f"[{at.step!r}]")
            at = at.parent
        return "".join([str(at.step), *reversed(steps)])


class _KeyOf(NamedTuple):
    path: _Path

    def __str__(self) -> str:
        return f"a key of {self.path}"


def _json_value(value: object, path: _Path, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return text(value, path)
    if isinstance(value, int):
        return _json_int(value, path)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} is {value!r}, which JSON cannot hold; use None or a str")
        return float(value)
    if not isinstance(value, (Mapping, list, tuple)):
        kind = type(value).__name__
        raise TypeError(f"{path} is a {kind}, which JSON cannot hold: {value!r}")
    if depth > DEEPEST_METADATA:
        raise ValueError(f"{str(path)[:200]}… is nested more than {DEEPEST_METADATA} deep")
    if isinstance(value, Mapping):
        return {
            _json_key(key, path): _json_value(item, _Path(path, key), depth + 1)
            for key, item in value.items()
        }
    return [_json_value(item, _Path(path, place), depth + 1) for place, item in enumerate(value)]


def _json_key(key: object, path: _Path) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{path} has the key {key!r}; keys must be str")
    return text(key, _KeyOf(path))


def _json_int(value: int, path: _Path) -> int:
    plain = int(value)
    if is_too_long(plain):
        raise ValueError(
            f"{path} is an int of {plain.bit_length():,} bits; one of more than {MOST_DIGITS} "
            "digits is too long for some Python to read, so store it as a str"
        )
    return plain


def is_too_long(number: int) -> bool:
    """Whether it has more digits than every Python could read."""
    return not -_LEAST_TOO_LONG < number < _LEAST_TOO_LONG


def is_too_deep(json_text: str, deepest: int = DEEPEST_METADATA) -> bool:
    """Whether the JSON of an object is nested deeper than that (as metadata may be), so that not
    every caller in every Python could read it. May raise RecursionError, where even this one
    cannot."""
    if json_text.count("[") + json_text.count("{") <= deepest:
        return False
    level = [json.loads(json_text)]
    for _ in range(deepest):
        items = (each.values() if isinstance(each, dict) else each for each in level)
        level = [item for each in items for item in each if isinstance(item, (dict, list))]
    return bool(level)


def has_long_int(json_text: str) -> bool:
    """Whether there is an int in it that not every Python could read."""
    if _LONG_DIGITS.search(json_text) is None:
        return False
    found = []

    def look(digits: str) -> int:
        if len(digits.lstrip("-")) > MOST_DIGITS:
            found.append(digits)
        return 0

    json.loads(json_text, parse_int=look)
    return bool(found)


def dump(value: object) -> str:
    """JSON text, compact, not escaped: what ``metadata`` let through always has one."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
