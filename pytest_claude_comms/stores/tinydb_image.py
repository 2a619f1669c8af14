"""All that a TinyDB store holds, in memory: from and to journal records and the JSON file.

In the JSON file, which any TinyDB reads, documents have the fields of the plain records, times
in ISO form; threads and messages are numbered in the order of their creation, changes by their
revision. The table ``claude_comms`` says which store it is and up to which change it goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypeAlias

from ..clock import to_datetime, to_us
from ..errors import StoreCorrupt
from ..status import MessageStatus, parse_status
from . import rules, values
from .journal import FORMAT, TRIMMED_FORMAT, Mark, Op
from .memory import State
from .rules import ChangeRow, MessageRow, ThreadRow

META = "claude_comms"
OURS = ("threads", "messages", "changes", META)
"""The store's tables; all others are the user's."""

Documents: TypeAlias = dict[str, dict[str, Any]]

NONSENSE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What the reading of well-formed JSON with a senseless content raises."""


class Ledger(State):
    """A state that remembers what was done to it, as journal operations."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []

    def add_thread(self, row: ThreadRow) -> None:
        self.ops.append({"thread": _packed(row)})
        super().add_thread(row)

    def commit(self, row: MessageRow, change: ChangeRow) -> int:
        revision = self.revision() + 1
        row = replace(row, revision=revision)
        change = replace(change, revision=revision)
        # A change says all that differs from the row before; long texts are journalled once.
        created = change.previous is None
        self.ops.append({"message": _packed(row)} if created else {"change": _packed(change)})
        self.apply(row, change)
        return revision


class Image:
    """Threads, messages, changes, and the user's tables."""

    def __init__(self) -> None:
        self.state = Ledger()
        self.tables: dict[str, dict[str, str]] = {}
        """The JSON text of each document of the user's, by table and document id."""
        self.last_ids: dict[str, int] = {}
        """The highest document id that each of the user's tables ever had."""

    def replay(self, records: Iterable[list[Op]]) -> None:
        """Do again what the journal says, in order. Left in pieces by an exception."""
        drafts: dict[str, _Draft] = {}
        changes: list[ChangeRow] = []
        for ops in records:
            for op in ops:
                if "thread" in op:
                    State.add_thread(self.state, unpack_thread(op["thread"]))
                elif "message" in op:
                    row = unpack_message(op["message"])
                    drafts[row.message_id] = _Draft(row)
                    changes.append(replace(rules.created(row), revision=row.revision))
                elif "change" in op:
                    change = unpack_change(op["change"])
                    self._draft(drafts, change.message_id).take(change)
                    changes.append(change)
                else:
                    self._replay_table(op)
        # Applied with the last row of each message, not one row per change: a text that grew
        # by thousands of pieces is put together once.
        rows = {message_id: draft.row() for message_id, draft in drafts.items()}
        for change in changes:
            self._apply(rows[change.message_id], change)

    def _draft(self, drafts: dict[str, _Draft], message_id: str) -> _Draft:
        if message_id not in drafts:
            row = self.state.message(message_id)
            if row is None:
                raise KeyError(message_id)
            drafts[message_id] = _Draft(row)
        return drafts[message_id]

    def _apply(self, row: MessageRow, change: ChangeRow) -> None:
        if change.revision != self.state.revision() + 1:
            raise ValueError(f"revision {change.revision} follows {self.state.revision()}")
        self.state.apply(row, change)

    def _replay_table(self, op: Op) -> None:
        name = op["table"]
        if "set" not in op:
            self.tables.pop(name, None)
            self.last_ids.pop(name, None)
            return
        table = self.tables.setdefault(name, {})
        for doc_id in op["del"]:
            table.pop(doc_id, None)
        table.update(op["set"])
        self.last_ids[name] = op["last"]

    def names(self) -> list[str]:
        """Of all tables."""
        return [*OURS[:3], *self.tables]

    def documents(self, name: str) -> Documents:
        """The documents of a table, as fresh copies."""
        if name == "threads":
            return _numbered(map(_thread_document, self.state.threads()))
        if name == "messages":
            return _numbered(map(message_document, self.state.messages(None, None)))
        if name == "changes":
            return {str(row.revision): _change_document(row) for row in self.state.retained()}
        return {key: json.loads(text) for key, text in self.tables.get(name, {}).items()}

    def dump(self, store_id: str, mark: Mark) -> bytes:
        """The JSON file. ASCII only: stock TinyDB reads it in whatever encoding is local."""
        trimmed = self.state.trimmed()
        meta = {
            # What does not know of trimming must not take this for a whole history.
            "format": TRIMMED_FORMAT if trimmed else FORMAT,
            "store_id": store_id,
            "seq": mark.seq,
            "link": mark.crc,
            "revision": self.state.revision(),
            "last_ids": self.last_ids,
        }
        if trimmed:
            meta["trimmed"] = trimmed
        parts = [f"{_quoted(META)}: {json.dumps({'1': meta})}"]
        parts += [f"{_quoted(name)}: {json.dumps(self.documents(name))}" for name in OURS[:3]]
        for name, table in self.tables.items():
            documents = ", ".join(f"{_quoted(key)}: {text}" for key, text in table.items())
            parts.append(f"{_quoted(name)}: {{{documents}}}")
        return f"{{{', '.join(parts)}}}".encode("ascii")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A JSON file as it was read. Without a ``store_id`` it is not (yet) one of ours."""

    path: str
    store_id: str | None
    mark: Mark
    content: dict[str, Any]

    def image(self) -> Image:
        """What it holds. Raises StoreCorrupt."""
        image = Image()
        try:
            for name, table in self.content.items():
                if name not in OURS:
                    image.tables[name] = {key: json.dumps(doc) for key, doc in table.items()}
            if self.store_id is not None:
                self._load(image)
        except NONSENSE as error:
            raise StoreCorrupt(self.path, f"its tables do not fit together ({error!r})") from error
        return image

    def _load(self, image: Image) -> None:
        image.last_ids = {
            name: int(last)
            for name, last in self.content[META]["1"]["last_ids"].items()
            if name in image.tables
        }
        image.state.load(
            map(thread_in, self.content["threads"].values()),
            map(message_in, self.content["messages"].values()),
            map(change_in, self.content["changes"].values()),
            self.trimmed,
        )

    @property
    def trimmed(self) -> int:
        """The revision up to which history was cut."""
        return int(self.content[META]["1"].get("trimmed", 0))

    def check_unclaimed(self) -> None:
        """Raise StoreCorrupt if a file that is not ours has tables where ours would be."""
        for name in OURS:
            if self.content.get(name):
                raise StoreCorrupt(
                    self.path,
                    f"it is a TinyDB file with a table {name!r} that no store of this kind wrote; "
                    "give the store a file of its own and add your messages to it, or rename "
                    "that table",
                )


def parse(path: str, data: bytes) -> Checkpoint:
    """Read a JSON file. Raises StoreCorrupt."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreCorrupt(path, f"it is no JSON ({error})") from None
    if not isinstance(content, dict) or not all(
        isinstance(table, dict) for table in content.values()
    ):
        raise StoreCorrupt(path, "it is JSON, but not that of a TinyDB file")
    meta = content.get(META, {}).get("1")
    if not isinstance(meta, dict) or "format" not in meta:
        return Checkpoint(path, None, Mark(0, 0), content)
    try:
        if meta["format"] > TRIMMED_FORMAT:
            raise StoreCorrupt(
                path,
                f"its format {meta['format']} is newer than this version of "
                "pytest-claude-comms can read",
            )
        mark = Mark(int(meta["seq"]), int(meta["link"]))
        return Checkpoint(path, str(meta["store_id"]), mark, content)
    except NONSENSE as error:
        raise StoreCorrupt(path, f"its table {META!r} is damaged ({error!r})") from error


class _Draft:
    """A message on its way through several changes."""

    def __init__(self, row: MessageRow) -> None:
        self._row = row
        self._text = [row.content]
        self._metadata = row.metadata
        self._last: ChangeRow | None = None

    def take(self, change: ChangeRow) -> None:
        if change.append is not None:
            self._text.append(change.append)
        elif change.content is not None:
            self._text = [change.content]
        if change.metadata is not None:
            merged = {**json.loads(self._metadata), **json.loads(change.metadata)}
            self._metadata = values.dump(merged)
        self._last = change

    def row(self) -> MessageRow:
        last = self._last
        if last is None:
            return self._row
        content = "".join(self._text)
        if len(content) != last.content_length:
            raise ValueError(f"{len(content)} characters instead of {last.content_length}")
        return replace(
            self._row,
            content=content,
            status=last.status,
            updated_us=last.at_us,
            error=last.error,
            metadata=self._metadata,
            revision=last.revision,
        )


# -- rows in the journal: their fields as they are, without those that are None

_FIELDS = {
    kind: tuple(field.name for field in fields(kind)) for kind in (ThreadRow, MessageRow, ChangeRow)
}


def _packed(row: ThreadRow | MessageRow | ChangeRow) -> dict[str, Any]:
    return {name: value for name in _FIELDS[type(row)] if (value := getattr(row, name)) is not None}


def unpack_thread(packed: dict[str, Any]) -> ThreadRow:
    """A thread in the journal."""
    return ThreadRow(**{**packed, "modules": tuple(packed["modules"])})


def unpack_message(packed: dict[str, Any]) -> MessageRow:
    """A message in the journal, as it was created."""
    absent = {"expires_us": None, "stall_us": None, "error": None}
    return MessageRow(**{**absent, **packed, "status": parse_status(packed["status"])})


def unpack_change(packed: dict[str, Any]) -> ChangeRow:
    """A change in the journal."""
    status, previous = parse_status(packed["status"]), _status(packed.get("previous"))
    return ChangeRow(**{**packed, "status": status, "previous": previous})


def _status(word: str | None) -> MessageStatus | None:
    return None if word is None else parse_status(word)


# -- rows in the JSON file


def _numbered(documents: Iterable[dict[str, Any]]) -> Documents:
    return {str(number): document for number, document in enumerate(documents, 1)}


def _quoted(name: str) -> str:
    return json.dumps(name)


def _iso(us: int) -> str:
    return to_datetime(us).isoformat()


def _us(iso: str) -> int:
    return to_us(datetime.fromisoformat(iso))


def _metadata(value: dict[str, Any]) -> str:
    return values.dump(value) if value else "{}"


def _thread_document(row: ThreadRow) -> dict[str, Any]:
    return {
        "thread_id": row.thread_id,
        "title": row.title,
        "modules": list(row.modules),
        "metadata": json.loads(row.metadata),
        "created_at": _iso(row.created_us),
    }


def thread_in(document: dict[str, Any]) -> ThreadRow:
    """A thread in the JSON file."""
    return ThreadRow(
        thread_id=document["thread_id"],
        title=document["title"],
        modules=tuple(document["modules"]),
        metadata=_metadata(document["metadata"]),
        created_us=_us(document["created_at"]),
    )


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
    return MessageRow(
        message_id=document["message_id"],
        thread_id=document["thread_id"],
        module_name=document["module_name"],
        content=document["content"],
        message_type=document["message_type"],
        status=parse_status(document["status"]),
        created_us=_us(document["created_at"]),
        updated_us=_us(document["updated_at"]),
        expires_us=document["expires_us"],
        stall_us=document["stall_us"],
        error=document["error"],
        metadata=_metadata(document["metadata"]),
        revision=document["revision"],
    )


def _change_document(row: ChangeRow) -> dict[str, Any]:
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
    return ChangeRow(
        revision=document["revision"],
        message_id=document["message_id"],
        thread_id=document["thread_id"],
        at_us=_us(document["at"]),
        previous=_status(document["previous"]),
        status=parse_status(document["status"]),
        append=document["append"],
        content=document["content"],
        content_length=document["content_length"],
        error=document["error"],
        metadata=None if metadata is None else _metadata(metadata),
    )
