"""What is in a TinyDB store, read without writing to it, and what is wrong with it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from ..clock import SECOND, SystemClock
from ..errors import StoreCorrupt
from . import rules, tinydb_image, tinydb_rows, values
from .invariants import RESCUE, well_formed
from .journal import Contents, Journal, is_whole, read_file
from .reports import Finding, FindingKind, StoreSnapshot
from .rules import ChangeRow, MessageRow, ThreadRow
from .tinydb_image import META, Checkpoint
from .tinydb_rows import NONSENSE

Found: TypeAlias = tuple[StoreSnapshot | None, list[Finding], list[str]]

_SETTLE_US = SECOND


def look(path: str) -> Found:
    """A snapshot as far as it can be read, what is wrong, and what is worth a note."""
    patience = SystemClock().backoff(_SETTLE_US)
    while True:
        reader = _Reader(path)
        found = reader.read()
        # While the two files are being replaced, what was read first may not fit what was second.
        if not (reader.is_torn and patience.pause()):
            return found


class _Reader:
    def __init__(self, path: str) -> None:
        self._path = path
        self._journal = Journal(f"{path}.journal", beacon=path, power=False)
        self._findings: list[Finding] = []
        self._notes: list[str] = []
        self.is_torn = False
        """Whether what was found may come from a writer that is replacing the files."""

    def read(self) -> Found:
        """The journal first: see tinydb.py for why no lock is needed."""
        before = self._stats()
        contents = self._read_journal()
        checkpoint = self._read_checkpoint()
        snapshot = None
        if checkpoint is not None:
            if checkpoint.store_id is None:
                self._add("document", self._path, f"it has no table {META!r}: it is no store")
            else:
                self._look_if_they_fit(checkpoint, contents)
                snapshot = self._snapshot(checkpoint, contents)
                if not self._findings:
                    self._look_if_it_opens(checkpoint, contents)
        self.is_torn = bool(self._findings) and before != self._stats()
        return snapshot, self._findings, self._notes

    def _stats(self) -> list[object]:
        stats: list[object] = []
        for path in (self._path, self._journal.path):
            try:
                found = os.stat(path)
                stats.append((found.st_ino, found.st_size, found.st_mtime_ns))
            except OSError:
                stats.append(None)
        return stats

    def _add(self, kind: FindingKind, thing: str, reason: str, way_out: str = RESCUE) -> None:
        self._findings.append(Finding(kind=kind, thing=thing, reason=reason, way_out=way_out))

    def _read_journal(self) -> Contents | None:
        try:
            contents = self._journal.read()
            size = os.stat(self._journal.path).st_size
        except FileNotFoundError:
            self._notes.append(
                f"there is no {self._journal.path}: this is a backup or a copy, and becomes a "
                "store with an id of its own when it is opened to write"
            )
            return None
        except StoreCorrupt as error:
            self._add(
                "journal", error.path, error.reason,
                "what was written up to that place can still be read: restore a backup, or delete "
                "the journal to go back to the last checkpoint, which loses what came after it",
            )  # fmt: skip
            return None
        if contents is None:
            return None
        tail = read_file(self._journal.path, contents.place.end)[1] if size else b""
        line, end, _ = tail.partition(b"\n")
        if end and not is_whole(line):
            self._add(
                "journal", self._journal.path,
                f"its last line, at byte {contents.place.end}, is damaged: its change is lost",
            )  # fmt: skip
        elif line and not end:
            self._notes.append(
                f"the last {len(tail):,} bytes of {self._journal.path} are a change that is being "
                "written, or that a killed writer had not finished; the next writer removes them"
            )
        return contents

    def _read_checkpoint(self) -> Checkpoint | None:
        try:
            _, data = read_file(self._path)
            if not data.strip():
                self._add("file", self._path, "it is empty")
                return None
            return tinydb_image.parse(self._path, data)
        except StoreCorrupt as error:
            self._add("document", error.path, error.reason)
        return None

    def _look_if_they_fit(self, checkpoint: Checkpoint, contents: Contents | None) -> None:
        seq, crc = checkpoint.mark
        if seq < 0 or bool(seq) != bool(crc):
            self._add(
                "document", self._path,
                f"its table {META!r} says that it goes up to change {seq} with checksum {crc}",
            )  # fmt: skip
        if contents is None:
            return
        if contents.store_id != checkpoint.store_id:
            if contents.records:
                self._add("journal", self._journal.path, "its changes belong to another store")
            return
        marks = {contents.base, *(record.mark for record in contents.records)}
        # A kill between the two replacements leaves a journal that ends before the checkpoint.
        if checkpoint.mark not in marks and contents.place.mark.seq >= checkpoint.mark.seq:
            self._add(
                "journal", self._journal.path,
                f"it does not go on from change {checkpoint.mark.seq}, where {self._path} ends",
            )  # fmt: skip

    def _look_if_it_opens(self, checkpoint: Checkpoint, contents: Contents | None) -> None:
        try:
            if contents is None or contents.store_id != checkpoint.store_id:
                checkpoint.image()
            else:
                tinydb_image.joined(checkpoint, contents, self._journal.path)
        except StoreCorrupt as error:
            kind: FindingKind = "document" if error.path == self._path else "journal"
            self._add(kind, error.path, f"no store can open it: {error.reason}")

    def _snapshot(self, checkpoint: Checkpoint, contents: Contents | None) -> StoreSnapshot | None:
        content = checkpoint.content
        threads = self._documents(content, "threads", tinydb_rows.thread_in)
        rows = self._documents(content, "messages", tinydb_rows.message_in)
        messages = {row.message_id: row for row in rows}
        for message_id, count in Counter(row.message_id for row in rows).items():
            if count > 1:
                self._add("message", f"message {message_id}", f"it is there {count} times")
        changes = self._documents(content, "changes", tinydb_rows.change_in)
        try:
            revision, trimmed, _ = checkpoint.revision, checkpoint.trimmed, checkpoint.last_ids
        except NONSENSE as error:
            self._add("document", self._path, f"its table {META!r} is damaged ({error!r})")
            return None
        if contents is not None and contents.store_id == checkpoint.store_id:
            replay = _Replay(threads, messages, changes)
            for record in contents.records:
                if record.mark.seq > checkpoint.mark.seq:
                    try:
                        revision += replay.take(record.ops)
                    except NONSENSE as error:
                        reason = f"it does not fit what was before ({error!r})"
                        self._add("journal", f"change {record.mark.seq}", reason)
            messages = replay.rows()
        self._look_at_deadlines(content, messages)
        return StoreSnapshot(
            store_id=str(checkpoint.store_id),
            threads=tuple(threads),
            messages=tuple(messages.values()),
            changes=tuple(changes),
            revision=revision,
            trimmed=trimmed,
        )

    def _documents(
        self, content: dict[str, Any], table: str, read: Callable[[dict[str, Any]], Any]
    ) -> list[Any]:
        rows = []
        for number, document in content.get(table, {}).items():
            try:
                rows.append(well_formed(read(document)))
            except NONSENSE as error:
                thing = f"document {number} of table {table!r}"
                self._add("document", thing, f"it cannot be read: {error!r}")
        if table not in content:
            self._add("document", self._path, f"its table {table!r} is missing")
        return rows

    def _look_at_deadlines(self, content: dict[str, Any], messages: dict[str, MessageRow]) -> None:
        for document in content.get("messages", {}).values():
            if not isinstance(document, dict):  # found already
                continue
            message_id = document.get("message_id")
            row = messages.get(message_id) if isinstance(message_id, str) else None
            if row is None or row.revision != document.get("revision"):
                continue
            expected = tinydb_rows.message_document(row)["deadline_at"]
            if document.get("deadline_at") != expected:
                self._add(
                    "deadline", f"message {row.message_id}",
                    f"it says {document.get('deadline_at')}, and its deadline is {expected}",
                )  # fmt: skip


class _Replay:
    """As ``Image.replay``, but going on after what does not fit."""

    def __init__(
        self, threads: list[ThreadRow], rows: dict[str, MessageRow], changes: list[ChangeRow]
    ) -> None:
        self._threads = threads
        self._rows = rows
        self._changes = changes
        self._texts: dict[str, list[str]] = {}
        self._metadata: dict[str, dict[str, Any]] = {}

    def take(self, ops: list[dict[str, Any]]) -> int:
        """Do one commit; returns how many revisions it has."""
        count = 0
        for op in ops:
            if "thread" in op:
                self._threads.append(well_formed(tinydb_rows.unpack_thread(op["thread"])))
            elif "message" in op:
                row = well_formed(tinydb_rows.unpack_message(op["message"]))
                self._rows[row.message_id] = row
                self._changes.append(rules.created(row))
                count += 1
            elif "change" in op:
                self._change(well_formed(tinydb_rows.unpack_change(op["change"])))
                count += 1
            else:
                tinydb_image.check_table_op(op)
        return count

    def _change(self, change: ChangeRow) -> None:
        self._changes.append(change)
        row = self._rows[change.message_id]
        texts = self._texts.setdefault(row.message_id, [row.content])
        if change.content is not None:
            texts[:] = [change.content]
        elif change.append is not None:
            texts.append(change.append)
        if change.metadata is not None:
            if row.message_id not in self._metadata:
                self._metadata[row.message_id] = json.loads(row.metadata)
            self._metadata[row.message_id].update(json.loads(change.metadata))
        self._rows[row.message_id] = replace(
            row,
            status=change.status,
            updated_us=change.at_us,
            error=change.error,
            revision=change.revision,
        )

    def rows(self) -> dict[str, MessageRow]:
        for message_id, texts in self._texts.items():
            self._rows[message_id] = replace(self._rows[message_id], content="".join(texts))
        for message_id, metadata in self._metadata.items():
            self._rows[message_id] = replace(self._rows[message_id], metadata=values.dump(metadata))
        return self._rows
