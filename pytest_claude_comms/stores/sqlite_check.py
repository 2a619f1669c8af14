"""What is in a SQLite store, read without writing to it, and what is wrong with it."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeAlias

from ..clock import SECOND, SystemClock
from ..errors import StoreBusy, StoreCorrupt, StoreError
from . import sqlite_link, sqlite_rows
from .files import FileLock
from .invariants import RESCUE, well_formed
from .reports import Finding, FindingKind, StoreSnapshot
from .rules import ChangeRow, MessageRow, ThreadRow
from .sqlite_link import Link
from .sqlite_quiet import copy_files, files_of, opened

Found: TypeAlias = tuple[StoreSnapshot | None, list[Finding], list[str]]

_TRIES = 2
_BUSY_SECONDS = 5.0
_PATIENCE_US = 5 * SECOND
"""How long to wait for a moment at which nobody writes."""


def look(path: str) -> Found:
    """A snapshot as far as it can be read, what is wrong, and what is worth a note.

    Raises StoreBusy if it is written to all the time, so that no state of it could be read,
    OSError if it cannot be opened.
    """
    for _ in range(_TRIES):
        before = files_of(path)
        try:
            with opened(path, before, patience=_BUSY_SECONDS) as (link, is_frozen):
                found = _Reader(link.db, path).read()
        except sqlite3.Error as error:
            if not sqlite_link.is_busy(error):
                raise OSError(None, str(error)) from error
            continue
        # A file that nobody had open was read as if it could not change: then it must not have.
        # And where the log comes and goes, what looks wrong may come from that.
        if files_of(path) == before if is_frozen else not found[1]:
            return found
        # As long as this process has it open, its log neither comes nor goes.
        if not is_frozen and sqlite_link.is_open_here(path):
            return found
    return _look_at_a_copy(path)


def _look_at_a_copy(path: str) -> Found:
    """As ``look``, for a store that others open, write and close all the time."""
    patience = SystemClock().backoff(_PATIENCE_US)
    while True:
        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "copy")
            if _copied(path, copy):
                with closing(Link(copy, "process")) as link:
                    return _Reader(link.db, path).read()
        if not patience.pause():
            raise _busy(path, patience.waited)


def _busy(path: str, waited: float) -> StoreBusy:
    error = StoreBusy(path, waited)
    said = (
        f"{path} could not be checked: it is being written, and did not rest within "
        f"{waited:.3g} s; nothing was changed, try again"
    )
    error.args = (said,)
    return error


def _copied(path: str, copy: str) -> bool:
    """Whether file and log were copied as they were at one instant.

    Under the lock that our writers hold, where there is one, so that they wait; no file is
    created for it. What others did to the file shows in it.
    """
    lock = FileLock(f"{path}.lock") if os.path.exists(f"{path}.lock") else None
    claim = None if lock is None else lock.claim()
    try:
        if claim is not None:
            try:
                claim.acquire(SystemClock(), _PATIENCE_US, path)
            except StoreBusy as error:
                raise _busy(path, error.waited) from None
        with sqlite_link.kept_closed(path) as is_closed:
            if not is_closed:
                return False
            before = files_of(path)
            _copy(path, copy)
            return files_of(path) == before
    except FileNotFoundError:  # the log went away between a look and the next
        if not os.path.exists(path):
            raise
        return False
    finally:
        if lock is not None and claim is not None:
            claim.release()
            lock.close()


def _copy(path: str, copy: str) -> None:
    try:
        copy_files(path, copy)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"{path} could not be checked: it is being written, so a copy of it is, and "
                f"there is no room for that beside {copy}: name another folder by TMPDIR"
            ) from error
        raise


class _Reader:
    def __init__(self, db: sqlite3.Connection, path: str) -> None:
        self._db = db
        self._path = path
        self._findings: list[Finding] = []
        self._notes: list[str] = []

    def read(self) -> Found:
        """All of it in one transaction: what others commit meanwhile is not seen by half."""
        snapshot = None
        try:
            # Text that is no UTF-8 is a finding, not the end of the check.
            self._db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            self._db.execute("BEGIN")
            self._look_at_pages()
            store_id = sqlite_rows.identify(self._db, self._path)
            if store_id is None:
                self._add("schema", self._path, "it is empty: no store was laid out in it")
            else:
                self._look_at_schema()
                self._look_at_label(store_id)
                snapshot = self._snapshot(store_id)
        except StoreCorrupt as error:
            self._add("schema", self._path, error.reason)
        except (sqlite3.Error, UnicodeError, ValueError, TypeError) as error:
            self._add("database", self._path, f"it cannot be read to its end: {error}")
        return snapshot, self._findings, self._notes

    def _add(self, kind: FindingKind, thing: str, reason: str) -> None:
        self._findings.append(Finding(kind=kind, thing=thing, reason=reason, way_out=RESCUE))

    def _look_at_pages(self) -> None:
        for (line,) in self._db.execute("PRAGMA integrity_check(20)").fetchall():
            if line != "ok":
                self._add("database", self._path, f"SQLite's integrity check: {line}")

    def _look_at_schema(self) -> None:
        with closing(sqlite3.connect(":memory:")) as empty:
            sqlite_rows.create(empty)
            expected = _schema(empty)
        found = _schema(self._db)
        # Nothing that a store needs, and it changes what is written, or read, behind its back.
        for kind, name in self._db.execute(
            "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view') ORDER BY name"
        ).fetchall():
            self._add("schema", name, f"it is a {kind}, which no store of ours has")
            found.pop(name, None)
        for name, statement in expected.items():
            if name not in found:
                self._add("schema", name, "it is missing")
            elif found[name] != statement:
                self._add("schema", name, f"it is laid out otherwise: {found[name]}")
        extra = sorted(set(found) - set(expected) - {"trimmed"})
        if extra:
            self._notes.append(f"tables and indexes that are not ours: {', '.join(extra)}")

    def _look_at_label(self, store_id: str) -> None:
        (found,) = self._db.execute("PRAGMA user_version").fetchone()
        if found == sqlite_rows.UNCLAIMED:
            self._notes.append(
                f"{self._path} is a backup that nobody has opened to write to: who does gives it "
                "a store id of its own"
            )
            return
        try:
            expected = sqlite_rows.label(store_id)
        except ValueError:
            self._add("schema", "meta", f"its store_id is {store_id!r}, which is none")
            return
        if found != expected:
            reason = f"it is {found}, and {expected} by the store's id"
            self._add("schema", "user_version", reason)

    def _look_for_orphans(self) -> None:
        for (number,) in self._db.execute(
            "SELECT number FROM contents WHERE number NOT IN (SELECT number FROM messages)"
            " ORDER BY number"
        ).fetchall():
            self._add("message", f"text {number}", "it is of a message that does not exist")

    def _snapshot(self, store_id: str) -> StoreSnapshot:
        messages = self._rows("messages", "message", self._message)
        changes = self._rows("changes", "revision", self._change)
        self._look_for_orphans()
        seq = self._db.execute(
            "SELECT max(seq), count(*) FROM sqlite_sequence WHERE name = 'changes'"
        ).fetchone()
        last = changes[-1].revision if changes else 0
        if changes and not seq[1]:
            self._add("revision", "sqlite_sequence", "it no longer says which revision was last")
        trimmed = 0
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'trimmed'").fetchone():
            trimmed = _int(self._db.execute("SELECT max(revision) FROM trimmed").fetchone()[0] or 0)
        return StoreSnapshot(
            store_id=store_id,
            threads=tuple(self._rows("threads", "thread", _thread)),
            messages=tuple(messages),
            changes=tuple(changes),
            revision=last if seq[0] is None else _int(seq[0]),
            trimmed=trimmed,
        )

    def _rows(self, table: str, what: str, read: Callable[[tuple[Any, ...]], Any]) -> list[Any]:
        rows = []
        for row in self._db.execute(_SELECT[table]):
            try:
                rows.append(well_formed(read(row)))
            except (StoreCorrupt, ValueError, TypeError, KeyError) as error:
                reason = error.reason if isinstance(error, StoreCorrupt) else repr(error)
                self._add("document", f"{what} {row[0]}", f"its row cannot be read: {reason}")
        return rows

    def _message(self, row: tuple[Any, ...]) -> MessageRow:
        number, tail, text, since, deadline_us = row[1], row[13], row[14], row[15], row[16]
        appends = self._db.execute(
            "SELECT append FROM changes WHERE number = ? AND revision > ? AND append IS NOT NULL"
            " ORDER BY revision",
            (number, since or 0),
        ).fetchall()
        added = "".join(append for (append,) in appends) if tail else ""
        message = MessageRow(
            message_id=_text(row[0]),
            thread_id=_text(row[2]),
            module_name=_text(row[3]),
            content=_text((text or "") + added),
            message_type=_text(row[4]),
            status=sqlite_rows.status_of(row[5], self._path),
            created_us=_int(row[6]),
            updated_us=_int(row[7]),
            expires_us=None if row[8] is None else _int(row[8]),
            stall_us=None if row[9] is None else _int(row[9]),
            error=row[10],
            metadata=_text(row[11]),
            revision=_int(row[12]),
        )
        thing = f"message {message.message_id}"
        if tail and len(added) != tail:
            reason = f"{tail} characters of its text are to be in its changes, {len(added)} are"
            self._add("message", thing, reason)
        if deadline_us != message.open_deadline_us:
            self._add(
                "deadline", thing,
                f"it is looked for at {deadline_us}, and its deadline is {message.open_deadline_us}"
                " (microseconds since 1970)",
            )  # fmt: skip
        return message

    def _change(self, row: tuple[Any, ...]) -> ChangeRow:
        if _int(row[11]) < 1:
            raise ValueError(f"its mark is {row[11]}, which is none")
        return ChangeRow(
            revision=row[0],
            message_id=f"number {row[12]}" if row[1] is None else row[1],
            thread_id="" if row[2] is None else row[2],
            at_us=_int(row[3]),
            previous=None if row[4] is None else sqlite_rows.status_of(row[4], self._path),
            status=sqlite_rows.status_of(row[5], self._path),
            append=row[6],
            content=row[7],
            content_length=_int(row[8]),
            error=row[9],
            metadata=row[10],
        )


_SELECT = {
    "threads": "SELECT thread_id, title, modules, metadata, created_us FROM threads"
    " ORDER BY number",
    "messages": "SELECT m.message_id, m.number, m.thread_id, m.module_name, m.message_type,"
    " m.status, m.created_us, m.updated_us, m.expires_us, m.stall_us, m.error, m.metadata,"
    " m.revision, m.tail, b.text, b.revision, m.deadline_us FROM messages AS m"
    " LEFT JOIN contents AS b ON b.number = m.number ORDER BY m.number",
    "changes": "SELECT c.revision, m.message_id, m.thread_id, c.at_us, c.previous, c.status,"
    " c.append, c.content, c.content_length, c.error, c.metadata, c.mark, c.number"
    " FROM changes AS c LEFT JOIN messages AS m ON m.number = c.number ORDER BY c.revision",
}


def _thread(row: tuple[Any, ...]) -> ThreadRow:
    modules = json.loads(row[2])
    if not isinstance(modules, list):  # a str would be spelt out
        raise TypeError(f"its modules are {modules!r}, no list")
    return sqlite_rows.thread_row(row)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    value.encode()
    return value


def _int(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _schema(db: sqlite3.Connection) -> dict[str, str]:
    found = db.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite%'")
    return {name: " ".join(str(sql).split()) for name, sql in found}
