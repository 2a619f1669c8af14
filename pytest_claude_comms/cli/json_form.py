"""What ``--json`` prints: plain documents, each on one line, with one schema for all of them.

The schema is ``schema.json`` beside this file. A document has ``schema`` (its version) and
``kind``; streams are documents of the kind ``event``, one a line. Instants are ISO 8601 in UTC
with microseconds, spans are seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from datetime import datetime

    from ..records import Change, ConversationThread, Message

VERSION: Final = 1

Json = dict[str, Any]


def schema_text() -> str:
    """The JSON Schema, as text."""
    from importlib.resources import files

    return files(__package__).joinpath("schema.json").read_text(encoding="utf-8")


def document(kind: str, **fields: Any) -> Json:
    """A document of a kind that the schema knows."""
    return {"schema": VERSION, "kind": kind, **fields}


def instant(moment: datetime | None) -> str | None:
    """``2026-01-01T00:00:30.000000Z``."""
    if moment is None:
        return None
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def message_json(message: Message, *, content: bool = True) -> Json:
    """A message; without ``content`` only how long it is."""
    found: Json = {
        "message_id": message.message_id,
        "thread_id": message.thread_id,
        "module_name": message.module_name,
        "message_type": message.message_type,
        "status": message.status.value,
        "created_at": instant(message.created_at),
        "updated_at": instant(message.updated_at),
        "deadline_at": instant(message.deadline_at),
        "error": message.error,
        "metadata": dict(message.metadata),
        "revision": message.revision,
        "content_length": len(message.content),
    }
    if content:
        found["content"] = message.content
    return found


def thread_json(thread: ConversationThread) -> Json:
    """A thread, without its messages."""
    return {
        "thread_id": thread.thread_id,
        "title": thread.title,
        "modules": list(thread.modules),
        "metadata": dict(thread.metadata),
        "created_at": instant(thread.created_at),
    }


def change_json(change: Change) -> Json:
    """A change; an event is a change too."""
    return {
        "revision": change.revision,
        "message_id": change.message_id,
        "thread_id": change.thread_id,
        "at": instant(change.at),
        "previous": None if change.previous is None else change.previous.value,
        "status": change.status.value,
        "append": change.append,
        "content": change.content,
        "content_length": change.content_length,
        "error": change.error,
        "metadata": None if change.metadata is None else dict(change.metadata),
    }


def event_json(change: Change, store_id: str) -> Json:
    """One line of a stream. ``(store_id, revision)`` tells repeats."""
    return document("event", event=_event(change), store_id=store_id, **change_json(change))


def _event(change: Change) -> str:
    """The most telling thing first, as ``Event.kind``."""
    if change.previous is None:
        return "created"
    if change.status is not change.previous:
        return "status"
    if change.append is not None or change.content is not None:
        return "content"
    return "error" if change.metadata is None else "metadata"
