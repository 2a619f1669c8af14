"""Threads, messages and changes as they stand in a TinyDB store's journal and in its JSON file.

What is read is what this library writes, or refused with one of ``NONSENSE``: whatever is let
through here, the next checkpoint has to be able to write, and everybody to read then.
"""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime
from typing import Any

from ..clock import FIRST_US, LAST_US, to_datetime, to_us
from ..status import STORABLE, MessageStatus, parse_status
from . import values
from .invariants import well_formed
from .rules import ChangeRow, MessageRow, ThreadRow

NONSENSE = (
    *(KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError),
)
"""What the reading of well-formed JSON with a senseless content raises."""

# -- rows in the journal: their fields as they are, without those that are None

_FIELDS = {
    kind: tuple(field.name for field in fields(kind)) for kind in (ThreadRow, MessageRow, ChangeRow)
}


def packed_row(row: ThreadRow | MessageRow | ChangeRow) -> dict[str, Any]:
    """A row for the journal."""
    return {name: value for name in _FIELDS[type(row)] if (value := getattr(row, name)) is not None}


def unpack_thread(packed: dict[str, Any]) -> ThreadRow:
    """A thread in the journal."""
    modules = packed["modules"]
    metadata = _metadata_text(packed["metadata"])
    row = ThreadRow(**{**packed, "modules": tuple(modules), "metadata": metadata})
    return _sound_thread(row, modules)


def unpack_message(packed: dict[str, Any]) -> MessageRow:
    """A message in the journal, as it was created."""
    absent = {"expires_us": None, "stall_us": None, "error": None}
    status, metadata = _status(packed["status"]), _metadata_text(packed["metadata"])
    return _sound_message(
        MessageRow(**{**absent, **packed, "status": status, "metadata": metadata})
    )


def unpack_change(packed: dict[str, Any]) -> ChangeRow:
    """A change in the journal."""
    status, previous = _status(packed["status"]), _status_or_none(packed.get("previous"))
    metadata = packed.get("metadata")
    if metadata is not None:
        metadata = _metadata_text(metadata)
    return _sound_change(
        ChangeRow(**{**packed, "status": status, "previous": previous, "metadata": metadata})
    )


_STATUSES = {status.value: status for status in STORABLE}


def _status(word: Any) -> MessageStatus:
    return _STATUSES.get(word) or parse_status(word)


def _status_or_none(word: Any) -> MessageStatus | None:
    return None if word is None else _status(word)


# -- what files say, in whose place anybody may have written another thing

# Each row passes here when a store is opened: the quick look is at what every row is like, and
# the thorough one finds the words.


def _sound_thread(row: ThreadRow, modules: object) -> ThreadRow:
    if not isinstance(modules, list):  # a str would be spelt out
        raise TypeError(f"its modules are {modules!r:.50}, no list")
    if (
        type(row.thread_id) is type(row.title) is str
        and all(type(name) is str for name in row.modules)
        and type(row.created_us) is int
        and FIRST_US <= row.created_us <= LAST_US
    ):
        return row
    return well_formed(row)


def _sound_message(row: MessageRow) -> MessageRow:
    if (
        type(row.message_id) is type(row.thread_id) is type(row.module_name) is str
        and type(row.content) is type(row.message_type) is str
        and type(row.created_us) is type(row.updated_us) is type(row.revision) is int
        and FIRST_US <= row.created_us <= LAST_US
        and FIRST_US <= row.updated_us <= LAST_US
        and (row.error is None or type(row.error) is str)
        and (row.expires_us is None or _is_time(row.expires_us))
        and (row.stall_us is None or (_is_time(row.stall_us) and row.stall_us >= 0))
    ):
        return row
    return well_formed(row)


def _sound_change(row: ChangeRow) -> ChangeRow:
    if (
        type(row.message_id) is type(row.thread_id) is str
        and type(row.at_us) is type(row.revision) is type(row.content_length) is int
        and FIRST_US <= row.at_us <= LAST_US
        and (row.append is None or type(row.append) is str)
        and (row.content is None or type(row.content) is str)
        and (row.error is None or type(row.error) is str)
    ):
        return row
    return well_formed(row)


def _is_time(us: int) -> bool:
    return type(us) is int and FIRST_US <= us <= LAST_US


def _metadata_text(packed: object) -> str:
    """Metadata in the journal, as the text that the JSON file would give back."""
    if not isinstance(packed, str):
        raise TypeError(f"metadata is {packed!r:.50}, no text")
    if packed == "{}":
        return packed
    text = _metadata(json.loads(packed))
    if not text.startswith("{"):
        raise TypeError(f"metadata is {text:.50}, no JSON object")
    return text


def _metadata(value: object) -> str:
    """Metadata in the JSON file, as text; of what, if it is no object, is for others to say."""
    if not value:
        return "{}"
    text = values.dump(value)
    if values.is_too_deep(text):
        raise ValueError(f"metadata is nested more than {values.DEEPEST_METADATA} deep")
    return text


# -- rows in the JSON file


def _iso(us: int) -> str:
    return to_datetime(us).isoformat()


def _us(iso: str) -> int:
    return to_us(datetime.fromisoformat(iso))


def thread_document(row: ThreadRow) -> dict[str, Any]:
    """A thread for the JSON file."""
    return {
        "thread_id": row.thread_id,
        "title": row.title,
        "modules": list(row.modules),
        "metadata": json.loads(row.metadata),
        "created_at": _iso(row.created_us),
    }


def thread_in(document: dict[str, Any]) -> ThreadRow:
    """A thread in the JSON file."""
    modules = document["modules"]
    row = ThreadRow(
        thread_id=document["thread_id"],
        title=document["title"],
        modules=tuple(modules),
        metadata=_metadata(document["metadata"]),
        created_us=_us(document["created_at"]),
    )
    return _sound_thread(row, modules)


def message_document(row: MessageRow) -> dict[str, Any]:
    """A message for the JSON file."""
    deadline_us = row.deadline_us
    return {
        "message_id": row.message_id,
        "thread_id": row.thread_id,
        "module_name": row.module_name,
        "content": row.content,
        "message_type": row.message_type,
        "status": row.status.value,
        "created_at": _iso(row.created_us),
        "updated_at": _iso(row.updated_us),
        "deadline_at": None if deadline_us is None else _iso(deadline_us),
        "expires_us": row.expires_us,
        "stall_us": row.stall_us,
        "error": row.error,
        "metadata": json.loads(row.metadata),
        "revision": row.revision,
    }


def message_in(document: dict[str, Any]) -> MessageRow:
    """A message in the JSON file."""
    row = MessageRow(
        message_id=document["message_id"],
        thread_id=document["thread_id"],
        module_name=document["module_name"],
        content=document["content"],
        message_type=document["message_type"],
        status=_status(document["status"]),
        created_us=_us(document["created_at"]),
        updated_us=_us(document["updated_at"]),
        expires_us=document["expires_us"],
        stall_us=document["stall_us"],
        error=document["error"],
        metadata=_metadata(document["metadata"]),
        revision=document["revision"],
    )
    return _sound_message(row)


def change_document(row: ChangeRow) -> dict[str, Any]:
    """A change for the JSON file."""
    return {
        "revision": row.revision,
        "message_id": row.message_id,
        "thread_id": row.thread_id,
        "at": _iso(row.at_us),
        "previous": None if row.previous is None else row.previous.value,
        "status": row.status.value,
        "append": row.append,
        "content": row.content,
        "content_length": row.content_length,
        "error": row.error,
        "metadata": None if row.metadata is None else json.loads(row.metadata),
    }


def change_in(document: dict[str, Any]) -> ChangeRow:
    """A change in the JSON file."""
    metadata = document["metadata"]
    row = ChangeRow(
        revision=document["revision"],
        message_id=document["message_id"],
        thread_id=document["thread_id"],
        at_us=_us(document["at"]),
        previous=_status_or_none(document["previous"]),
        status=_status(document["status"]),
        append=document["append"],
        content=document["content"],
        content_length=document["content_length"],
        error=document["error"],
        metadata=None if metadata is None else _metadata(metadata),
    )
    return _sound_change(row)
