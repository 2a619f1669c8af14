"""What a store of the original shape answers, read as our rows: many spellings, one meaning."""

from __future__ import annotations

import hashlib
import json
import marshal
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from enum import Enum
from typing import Any

from ..clock import LAST_US, SECOND, to_us
from ..errors import StoreError
from ..status import STORABLE, MessageStatus
from . import values
from .rules import MessageRow, ThreadRow

THREAD_ID = ("thread_id", "conversation_id", "thread", "id")
MESSAGE_ID = ("message_id", "msg_id", "id", "_id")
TITLE = ("title", "name", "subject", "topic")
MODULES = ("modules", "module_names", "participants")
MODULE = ("module_name", "module", "sender", "from_module", "author", "role")
CONTENT = ("content", "text", "body", "message")
TYPE = ("message_type", "type", "kind")
STATUS = ("status", "new_status", "state")
ERROR = ("error", "error_message", "reason")
METADATA = ("metadata", "meta")
_CREATED = ("created_at", "timestamp", "created", "time")
_UPDATED = ("updated_at", "updated", "last_updated", "modified_at")
_DEADLINE = ("deadline_at", "deadline", "expires_at")

_ISO = re.compile(r"(.+\d\d:\d\d:\d\d)(?:[.,](\d+))?\s*([Zz]|[+-]\d\d:?\d\d)?")

_WORDS: Mapping[str, MessageStatus] = {
    **{status.value: status for status in STORABLE},
    "queued": MessageStatus.PENDING,
    "running": MessageStatus.PROCESSING,
    "in_progress": MessageStatus.PROCESSING,
    "completed": MessageStatus.COMPLETE,
    "done": MessageStatus.COMPLETE,
    "error": MessageStatus.FAILED,
    "timed_out": MessageStatus.TIMEOUT,
    "canceled": MessageStatus.CANCELLED,
}

_NO_TEXT = (ArithmeticError, RecursionError, TypeError, ValueError)
"""What comes of a value that is too deep or too long for JSON, or is in itself."""


class CannotAdapt(StoreError):
    """The adapted object cannot do that, or answers with what is no thread or message."""

    transient = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one adapted object is read."""

    name: str
    """Of the object, for a person."""
    statuses: Mapping[str, MessageStatus] = field(default_factory=dict)
    """Its own words for a status, beside those that are known anyway."""
    zone: tzinfo | None = None
    """Of times that name none; None is this machine's."""
    remembered: dict[str, dict[bytes, _Read]] = field(default_factory=dict)
    """By thread, what its messages said at the last look, by a digest of each: most are as they
    were, and to read one takes ten times as long as to see that."""


@dataclass(frozen=True, slots=True)
class _Read:
    """One message as it was read."""

    row: MessageRow
    own_id: object
    stamped: bool
    """Whether it says when it was last changed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A thread as it was read."""

    thread: ThreadRow
    messages: list[MessageRow]
    stamped: frozenset[str]
    """The messages that say when they were last changed."""
    native_ids: Mapping[str, object]
    """By our id, what the object calls a message, where that is no str."""


def found_in(answer: object, what: str, thread_id: str, reading: Reading, now_us: int) -> Found:
    """What ``get_thread`` answered: a dict with ``messages``, or the messages themselves.

    ``what`` names the call, for a person. Times that are missing or cannot be read are
    ``now_us``. Raises CannotAdapt.
    """
    head: Mapping[Any, Any] = answer if isinstance(answer, Mapping) else {"messages": answer}
    if "messages" not in head:
        keys = ", ".join(repr(key) for key in head) or "none"
        raise CannotAdapt(
            f"{what} returned a dict without 'messages' (its "
            f"keys: {keys}): adapt_store needs the thread together with its messages"
        )
    before = reading.remembered.get(thread_id, {})
    now: dict[bytes, _Read] = {}
    rows: dict[str, _Read] = {}
    for key, raw in _each(head["messages"], thread_id, reading):
        digest = _digest(key, raw)
        read = before.get(digest) or _read(raw, key, thread_id, reading, now_us)
        same = rows.get(read.row.message_id)
        if same is not None and isinstance(same.own_id, str) is not isinstance(read.own_id, str):
            raise CannotAdapt(
                f"thread {thread_id!r} in {reading.name} has a message {same.own_id!r} and another "
                f"{read.own_id!r}: here an id is a str, and these are one"
            )
        rows[read.row.message_id] = read
        if digest:
            now[digest] = read
    reading.remembered[thread_id] = now
    try:
        thread = _thread_row(head, thread_id, reading, now_us)
    except _NO_TEXT as error:
        raise CannotAdapt(
            f"{what} returned a title, modules or metadata of which no text can be made: {error}"
        ) from error
    return Found(
        thread,
        [read.row for read in rows.values()],
        frozenset(message_id for message_id, read in rows.items() if read.stamped),
        {i: read.own_id for i, read in rows.items() if not isinstance(read.own_id, str)},
    )


def thread_ids_in(answer: object, what: str) -> list[str]:
    """The ids in what a listing answered: ids, dicts that have one, or a dict by id."""
    if answer is None:
        return []
    if isinstance(answer, Mapping) and isinstance(answer.get("threads"), (Mapping, Sequence)):
        answer = answer["threads"]
    if isinstance(answer, (str, bytes)) or not isinstance(answer, (Mapping, Sequence)):
        raise CannotAdapt(
            f"{what} returned {_shown(answer)}, not a list of threads; name "
            "the threads to look at: adapt_store(obj, threads=[…])"
        )
    ids = []
    for item in answer:
        found = _first(item, THREAD_ID) if isinstance(item, Mapping) else item
        if not isinstance(found, str) or not found:
            raise CannotAdapt(
                f"{what} lists {_shown(item)}, which has no thread id; name "
                "the threads to look at: adapt_store(obj, threads=[…])"
            )
        ids.append(_identifier(found, f"the id of a thread that {what} lists"))
    return ids


def _each(
    messages: object, thread_id: str, reading: Reading
) -> Iterator[tuple[object, Mapping[Any, Any]]]:
    """Each message and what it is keyed by, None in a list."""
    if isinstance(messages, Mapping):
        pairs = list(messages.items())
    elif messages is None:
        pairs = []
    elif isinstance(messages, Sequence) and not isinstance(messages, (str, bytes)):
        pairs = [(None, message) for message in messages]
    else:
        raise CannotAdapt(
            f"the messages of thread {thread_id!r} in {reading.name} are {_shown(messages)}, "
            "not a list of dicts"
        )
    for key, message in pairs:
        if not isinstance(message, Mapping):
            raise CannotAdapt(
                f"a message of thread {thread_id!r} in {reading.name} is {_shown(message)}, "
                "not a dict"
            )
        yield key, message


def _digest(key: object, raw: Mapping[Any, Any]) -> bytes:
    """The same for the same plain values, another for others; empty where there is none."""
    try:
        whole: Any = key, dict(raw)
        plain = marshal.dumps(whole, 2)  # the last version that is by value alone
    except ValueError:  # a datetime, an enum: told by reading it
        return b""
    return hashlib.blake2b(plain, digest_size=16).digest()


def _thread_row(
    head: Mapping[Any, Any], thread_id: str, reading: Reading, now_us: int
) -> ThreadRow:
    created_us = _time(_first(head, _CREATED), reading)
    return ThreadRow(
        thread_id=thread_id,
        title=_text(_first(head, TITLE)),
        modules=_modules(_first(head, MODULES)),
        metadata=_metadata(_first(head, METADATA)),
        created_us=now_us if created_us is None else created_us,
    )


def _read(
    raw: Mapping[Any, Any], key: object, thread_id: str, reading: Reading, now_us: int
) -> _Read:
    message_id, own_id = _message_id(raw, key, thread_id, reading)
    stamped = _time(_first(raw, _UPDATED), reading) is not None
    try:
        row = _message_row(raw, message_id, thread_id, reading, now_us)
    except _NO_TEXT as error:
        raise CannotAdapt(
            f"message {message_id!r} of thread {thread_id!r} in {reading.name} has a value of "
            f"which no text can be made: {error}"
        ) from error
    return _Read(row, own_id, stamped)


def _message_id(
    raw: Mapping[Any, Any], key: object, thread_id: str, reading: Reading
) -> tuple[str, object]:
    own_id = _first(raw, MESSAGE_ID)
    if own_id is None:
        own_id = key
    if isinstance(own_id, bool) or not isinstance(own_id, (int, str)) or own_id == "":
        raise CannotAdapt(
            f"a message of thread {thread_id!r} in {reading.name} has no id ('message_id' or "
            f"'id'); its keys: {', '.join(map(repr, raw)) or 'none'}"
        )
    what = f"the id of a message of thread {thread_id!r} in {reading.name}"
    return _identifier(own_id, what), own_id


def own_id_in(answer: object) -> str | None:
    """The message id in what ``add_message`` returned, if there is one."""
    own_id = _first(answer, MESSAGE_ID) if isinstance(answer, Mapping) else answer
    if isinstance(own_id, bool) or not isinstance(own_id, (str, int)):
        return None
    return str(own_id)


def _identifier(own_id: object, what: str) -> str:
    try:
        return values.identifier(own_id if isinstance(own_id, str) else str(own_id), what)
    except ValueError as error:  # nobody could ask for it
        raise CannotAdapt(str(error)) from None


def _message_row(
    raw: Mapping[Any, Any], message_id: str, thread_id: str, reading: Reading, now_us: int
) -> MessageRow:
    created_us = _time(_first(raw, _CREATED), reading)
    updated_us = _time(_first(raw, _UPDATED), reading)
    if created_us is None:
        created_us = now_us
    error = _first(raw, ERROR)
    return MessageRow(
        message_id=message_id,
        thread_id=thread_id,
        module_name=_text(_first(raw, MODULE)),
        content=_text(_first(raw, CONTENT)),
        message_type=_text(_first(raw, TYPE)) or "message",
        status=_status(_first(raw, STATUS), message_id, reading),
        created_us=created_us,
        updated_us=created_us if updated_us is None else updated_us,
        expires_us=_time(_first(raw, _DEADLINE), reading),
        stall_us=None,
        error=None if error is None else _text(error),
        metadata=_metadata(_first(raw, METADATA)),
    )


def _status(value: object, message_id: str, reading: Reading) -> MessageStatus:
    if value is None:
        return MessageStatus.COMPLETE  # the first stores kept none: what was there was said
    word = value.value if isinstance(value, Enum) else value
    found = None
    if isinstance(word, str):
        found = reading.statuses.get(word) or _WORDS.get(word.strip().lower().replace("-", "_"))
    if found is None:
        raise CannotAdapt(
            f"message {message_id!r} in {reading.name} has the status {word!r}, which is none of "
            f"{', '.join(sorted(status.value for status in STORABLE))}; say what it means: "
            f"adapt_store(obj, statuses={{{word!r}: 'complete'}})"
        )
    return found


def _first(raw: Mapping[Any, Any], names: tuple[str, ...]) -> Any:
    """The value of the first of these keys that has one."""
    return next((raw[name] for name in names if raw.get(name) is not None), None)


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False, default=str)
    try:
        return values.text(value, "text")
    except ValueError:  # a lone surrogate: no store of ours could take it over
        return value.encode("utf-8", "replace").decode("utf-8")


def _modules(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)  # a column that holds JSON
        except ValueError:
            value = [value]
    if not isinstance(value, (list, tuple, set, frozenset)):
        return ()
    names = sorted(map(_text, value)) if isinstance(value, (set, frozenset)) else map(_text, value)
    return tuple(names)


def _metadata(value: object) -> str:
    """As compact JSON; what JSON has no word for as its text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = {"metadata": value}
    if not value:
        return "{}"
    plain = value if isinstance(value, Mapping) else {"metadata": value}
    try:
        return values.dump(values.metadata(plain))
    except (TypeError, ValueError):
        return values.dump({_text(key): _text(item) for key, item in plain.items()})


def _time(value: object, reading: Reading) -> int | None:
    """An instant: a datetime, ISO text, or seconds (milli-, microseconds) since 1970."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        if isinstance(value, str):
            value = _parsed(value.strip())
        if isinstance(value, (int, float)):
            us = round(value * _unit(abs(value)))
        elif isinstance(value, datetime):
            us = to_us(_aware(value, reading.zone))
        else:
            return None
    except (ValueError, OverflowError, OSError):
        return None
    return us if 0 <= us <= LAST_US else None


def _parsed(text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        found = _ISO.fullmatch(text)
        if found is None:
            return datetime.fromisoformat(text)
        # As every Python reads it: 3.10 knows no Z, no +0000, and of fractions two lengths.
        whole, fraction, zone = found.groups(default="")
        zone = "+00:00" if zone in ("Z", "z") else zone
        if zone and ":" not in zone:
            zone = f"{zone[:3]}:{zone[3:]}"
        return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}{zone}")


def _unit(size: float) -> float:
    """How many microseconds one is: seconds up to the year 5138, then milli-, then micro-."""
    if size < 1e11:
        return SECOND
    return 1_000 if size < 1e14 else 1


def _aware(moment: datetime, zone: tzinfo | None) -> datetime:
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.astimezone(timezone.utc)


def _shown(value: object) -> str:
    text = repr(value)  # it escapes what would move a terminal's cursor
    return text if len(text) <= 120 else f"{text[:119]}…"
