"""All that a TinyDB store holds, in memory: from and to journal records and the JSON file.

In the JSON file, which any TinyDB reads, documents have the fields of the plain records, times
in ISO form; threads and messages are numbered in the order of their creation, changes by their
revision. The table ``claude_comms`` says which store it is and up to which change it goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ..errors import StoreCorrupt
from . import rules, values
from .journal import FORMAT, TRIMMED_FORMAT, Contents, Mark, Op
from .memory import State
from .rules import ChangeRow, MessageRow, ThreadRow
from .tinydb_rows import (
    NONSENSE,
    change_document,
    change_in,
    message_document,
    message_in,
    packed_row,
    thread_document,
    thread_in,
    unpack_change,
    unpack_message,
    unpack_thread,
)

META = "claude_comms"
OURS = ("threads", "messages", "changes", META)
"""The store's tables; all others are the user's."""

_CHECKSUMS = 2**32
_DEEPEST_DOCUMENT = 500
"""Of the user's in a journal. Nobody writes one so deep now, but journals have them from before
that was so, and a JSON file with them can be read."""

Documents: TypeAlias = dict[str, dict[str, Any]]


class Ledger(State):
    """A state that remembers what was done to it, as journal operations."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[Op] = []

    def add_thread(self, row: ThreadRow) -> None:
        self.ops.append({"thread": packed_row(row)})
        super().add_thread(row)

    def commit(self, row: MessageRow, change: ChangeRow) -> int:
        revision = self.revision() + 1
        row = replace(row, revision=revision)
        change = replace(change, revision=revision)
        # A change says all that differs from the row before; long texts are journalled once.
        created = change.previous is None
        self.ops.append({"message": packed_row(row)} if created else {"change": packed_row(change)})
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
                    thread = unpack_thread(op["thread"])
                    if self.state.thread(thread.thread_id) is not None:
                        raise ValueError(f"thread {thread.thread_id!r} was there already")
                    State.add_thread(self.state, thread)
                elif "message" in op:
                    row = unpack_message(op["message"])
                    if row.message_id in drafts or self.state.message(row.message_id) is not None:
                        raise ValueError(f"message {row.message_id!r} was there already")
                    drafts[row.message_id] = _Draft(row)
                    changes.append(rules.created(row))
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
        check_table_op(op)
        self.change_table(op)

    def change_table(self, op: Op) -> None:
        """Do what a draft of the user's tables says."""
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
            return _numbered(map(thread_document, self.state.threads()))
        if name == "messages":
            return _numbered(map(message_document, self.state.messages(None, None)))
        if name == "changes":
            return {str(row.revision): change_document(row) for row in self.state.retained()}
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
            name: last for name, last in self.last_ids.items() if name in image.tables
        }
        state = image.state
        state.load(
            map(thread_in, self.content["threads"].values()),
            map(message_in, self.content["messages"].values()),
            map(change_in, self.content["changes"].values()),
            self.trimmed,
        )
        found: dict[str, list[Any]] = {
            "threads": state.threads(),
            "messages": state.messages(None, None),
        }
        for name, rows in found.items():
            if len(rows) != len(self.content[name]):
                raise ValueError(f"an id is there twice in its table {name!r}")
        for name in OURS[:3]:
            for document in self.content[name].values():
                metadata = document["metadata"]
                if metadata is not None and not isinstance(metadata, dict):
                    raise TypeError(f"metadata is {metadata!r:.50}, no JSON object")
        if state.revision() != self.revision:
            raise ValueError(
                f"the last revision is {state.revision()}, and {self.revision} by its table "
                f"{META!r}"
            )

    # What its own table says. Raises one of NONSENSE.

    @property
    def trimmed(self) -> int:
        """The revision up to which history was cut."""
        return _count(self.content[META]["1"].get("trimmed", 0), "trimmed")

    @property
    def revision(self) -> int:
        """The last one given."""
        return _count(self.content[META]["1"]["revision"], "revision")

    @property
    def last_ids(self) -> dict[str, int]:
        """The highest document id of each of the user's tables."""
        last_ids = self.content[META]["1"]["last_ids"]
        return {name: _count(last, f"the last id of {name!r}") for name, last in last_ids.items()}

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
    except RecursionError:
        raise StoreCorrupt(path, "it is nested too deep to be read here") from None
    except ValueError as error:
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
        mark = Mark(meta["seq"], meta["link"])
        if not _is_mark(mark):
            raise StoreCorrupt(
                path,
                f"its table {META!r} says that it goes up to change {mark.seq!r:.50} with checksum "
                f"{mark.crc!r:.50}",
            )
        return Checkpoint(path, str(meta["store_id"]), mark, content)
    except NONSENSE as error:
        raise StoreCorrupt(path, f"its table {META!r} is damaged ({error!r})") from error


def _is_mark(mark: Mark) -> bool:
    return type(mark.seq) is type(mark.crc) is int and mark.seq >= 0 and 0 <= mark.crc < _CHECKSUMS


def _count(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r:.50}, no number of any")
    return value


def joined(checkpoint: Checkpoint, contents: Contents, journal: str) -> Image:
    """What a checkpoint and the journal that goes on from it hold. Raises StoreCorrupt."""
    image = checkpoint.image()
    seq = checkpoint.mark.seq
    try:
        image.replay(each.ops for each in contents.records if each.mark.seq > seq)
    except NONSENSE as error:
        raise StoreCorrupt(journal, f"its changes do not fit together ({error!r})") from error
    return image


def check_table_op(op: Op) -> None:
    """Raise one of NONSENSE if a change to a user's table is none: what it says would stand in
    the JSON file as it is."""
    name = op["table"]
    if not isinstance(name, str) or name in OURS:
        raise ValueError(f"{name!r:.50} is no table of the user's")
    if "set" not in op:
        return
    documents, removed = op["set"], op["del"]
    if not isinstance(documents, dict) or not isinstance(removed, list):
        raise TypeError(f"the change to the table {name!r} is none")
    _count(op["last"], f"the last id of {name!r}")
    for doc_id, text in documents.items():
        if not text.isascii() or values.is_too_deep(text, _DEEPEST_DOCUMENT):
            raise ValueError(f"document {doc_id} of table {name!r} is no JSON of a store's")
        json.loads(text)


class _Draft:
    """A message on its way through several changes."""

    def __init__(self, row: MessageRow) -> None:
        self._row = row
        self._text = [row.content]
        self._metadata: dict[str, Any] | None = None
        """All of it, from the first change of it on: it may be long, and change often."""
        self._last: ChangeRow | None = None

    def take(self, change: ChangeRow) -> None:
        if change.append is not None:
            self._text.append(change.append)
        elif change.content is not None:
            self._text = [change.content]
        if change.metadata is not None:
            if self._metadata is None:
                self._metadata = json.loads(self._row.metadata)
            self._metadata.update(json.loads(change.metadata))
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
            metadata=(
                self._row.metadata if self._metadata is None else values.dump(self._metadata)
            ),
            revision=last.revision,
        )


def _numbered(documents: Iterable[dict[str, Any]]) -> Documents:
    return {str(number): document for number, document in enumerate(documents, 1)}


def _quoted(name: str) -> str:
    return json.dumps(name)
