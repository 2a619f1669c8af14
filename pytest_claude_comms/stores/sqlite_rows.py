"""How a conversation store lies in SQLite: tables, and the statements on them.

A streamed text is not written anew at each append: ``contents`` has a message's text as it was
at some revision, the appends after it are in ``changes``, and both are put together on reading.
The text is written whole again once the appends outgrow it, so all writes together stay
proportional to the text. No SQL function ever touches a text: they stop at the first NUL.
"""

from __future__ import annotations

import json
import os
import sqlite3
from typing import Any, Final, NamedTuple

from .._version import __version__
from ..errors import StoreCorrupt
from ..status import STORABLE, MessageStatus
from . import values
from .rules import ChangeRow, MessageRow, ThreadRow
from .sqlite_link import Link

FORMAT: Final = 1
TRIMMED_FORMAT: Final = 2
"""Of a file whose history was trimmed: it has a table ``trimmed``, which says how far."""
APPLICATION_ID: Final = 0x436C436F
"""Says in the file's header that it is ours: "ClCo"."""

UNCLAIMED: Final = 0
"""In the place of the :func:`label`: it is a backup, which gets an id from who opens it."""

FOLD_LENGTH: Final = 65_536
"""Characters of appends from which on a text is written whole, if it was shorter."""

_TABLES: Final = (
    "CREATE TABLE meta (store_id TEXT NOT NULL, format INTEGER NOT NULL, version TEXT NOT NULL)",
    """CREATE TABLE threads (
        number INTEGER PRIMARY KEY,
        thread_id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        modules TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created_us INTEGER NOT NULL)""",
    """CREATE TABLE messages (
        number INTEGER PRIMARY KEY,
        message_id TEXT NOT NULL UNIQUE,
        thread_id TEXT NOT NULL,
        module_name TEXT NOT NULL,
        message_type TEXT NOT NULL,
        status TEXT NOT NULL,
        created_us INTEGER NOT NULL,
        updated_us INTEGER NOT NULL,
        expires_us INTEGER,
        stall_us INTEGER,
        deadline_us INTEGER,
        error TEXT,
        metadata TEXT NOT NULL,
        revision INTEGER NOT NULL,
        tail INTEGER NOT NULL)""",
    """CREATE TABLE contents (
        number INTEGER PRIMARY KEY,
        revision INTEGER NOT NULL,
        text TEXT NOT NULL)""",
    """CREATE TABLE changes (
        revision INTEGER PRIMARY KEY AUTOINCREMENT,
        mark INTEGER NOT NULL,
        number INTEGER NOT NULL,
        at_us INTEGER NOT NULL,
        previous TEXT,
        status TEXT NOT NULL,
        append TEXT,
        content TEXT,
        content_length INTEGER NOT NULL,
        error TEXT,
        metadata TEXT)""",
    # An index ends with the rowid: these are in the order of creation and of revisions.
    "CREATE INDEX messages_of_thread ON messages (thread_id)",
    "CREATE INDEX changes_of_message ON changes (number)",
    "CREATE INDEX open_deadlines ON messages (deadline_us) WHERE deadline_us IS NOT NULL",
)

_MESSAGE: Final = (
    "m.number, m.message_id, m.thread_id, m.module_name, m.message_type, m.status, m.created_us,"
    " m.updated_us, m.expires_us, m.stall_us, m.error, m.metadata, m.revision, m.tail"
)
_CHANGE: Final = (
    "c.revision, m.message_id, m.thread_id, c.at_us, c.previous, c.status, c.append, c.content,"
    " c.content_length, c.error, c.metadata"
)
_THREAD: Final = "thread_id, title, modules, metadata, created_us"
_LAST: Final = (
    "SELECT revision, mark, (SELECT store_id FROM meta) FROM changes ORDER BY revision DESC LIMIT 1"
)
_LAST_OF_ALL_TRIMMED: Final = (
    "SELECT (SELECT seq FROM sqlite_sequence WHERE name = 'changes'), NULL,"
    " (SELECT store_id FROM meta)"
)
_TRIMMED: Final = "CREATE TABLE IF NOT EXISTS trimmed (revision INTEGER NOT NULL)"
_STATUSES: Final = {status.value: status for status in STORABLE}


class Commit(NamedTuple):
    """A change that was made. A store that was put back to an older state gives revisions anew,
    but never again the same mark, which is random."""

    revision: int
    mark: int | None
    """None for a change that is no longer kept."""


NOTHING: Final = Commit(0, None)


def new_mark() -> int:
    """One for a change: from 1 to 2^63 - 1."""
    # Not by the module secrets: it imports five others, and every start would pay for them.
    return int.from_bytes(os.urandom(8), "big") % (2**63 - 1) + 1


def label(store_id: str) -> int:
    """What the file's header says of whose store it is, in ``user_version``."""
    return int(store_id[:8], 16) & 0x7FFFFFFF | 1


def create(db: sqlite3.Connection) -> str:
    """Lay out an empty store, in the transaction that is open; returns its new id."""
    store_id = os.urandom(16).hex()
    for statement in _TABLES:
        db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {label(store_id)}")
    db.execute("INSERT INTO meta VALUES (?, ?, ?)", (store_id, FORMAT, __version__))
    return store_id


def give_id(db: sqlite3.Connection, *, claimed: bool) -> str:
    """Make it another store, in the transaction that is open; returns its new id.

    One that is not ``claimed`` is made another one again by whoever opens it: the same file,
    put back twice, would give the same revisions to different changes.
    """
    store_id = os.urandom(16).hex()
    db.execute("UPDATE meta SET store_id = ?", (store_id,))
    db.execute(f"PRAGMA user_version = {label(store_id) if claimed else UNCLAIMED}")
    return store_id


def is_claimed(db: sqlite3.Connection) -> bool:
    """Whether it is a store, and not a backup of one that nobody has opened to write to."""
    return bool(db.execute("PRAGMA user_version").fetchone()[0] != UNCLAIMED)


def identify(db: sqlite3.Connection, path: str) -> str | None:
    """The store's id, or None where nothing is laid out yet. Raises StoreCorrupt."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if not tables and not application:
        return None
    if application != APPLICATION_ID or "meta" not in tables:
        shown = ", ".join(tables[:5]) or "no tables"
        raise StoreCorrupt(path, f"it is a SQLite database of another program (it has {shown})")
    found = db.execute("SELECT store_id, format, version FROM meta").fetchall()
    if len(found) != 1:
        raise StoreCorrupt(path, f"it says {len(found)} times what store it is, not once")
    store_id, form, version = found[0]
    if form not in (FORMAT, TRIMMED_FORMAT):
        raise StoreCorrupt(
            path,
            f"pytest-claude-comms {version} wrote it in format {form}, "
            f"and this is {__version__}, which reads formats {FORMAT} and {TRIMMED_FORMAT}",
        )
    return str(store_id)


def set_trimmed(db: sqlite3.Connection, revision: int) -> None:
    """Write down up to where history is trimmed, in the transaction that is open."""
    db.execute(_TRIMMED)
    db.execute("DELETE FROM trimmed")
    db.execute("INSERT INTO trimmed VALUES (?)", (revision,))
    # What does not know of trimming must not take this for a whole history.
    db.execute("UPDATE meta SET format = ?", (TRIMMED_FORMAT,))


def status_of(word: object, path: str) -> MessageStatus:
    """The status that a row says. Raises StoreCorrupt."""
    status = _STATUSES.get(word) if isinstance(word, str) else None
    if status is None:
        raise StoreCorrupt(path, f"it has the status {word!r}, which is none")
    return status


class Texts:
    """Whole texts of messages that are being written, so that an append need not read them.

    A text is found under its message's id and the mark of its last change only, and is put here
    only once that change is committed, so it cannot be out of date. Written under the store's lock.
    """

    _MOST = 32
    _SHORTEST = 1_000
    _LONGEST = 16_000_000

    def __init__(self) -> None:
        self._texts: dict[str, tuple[int, str]] = {}

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._texts

    def get(self, message_id: str, mark: int | None) -> str | None:
        known = self._texts.get(message_id)
        return known[1] if known is not None and known[0] == mark else None

    def put(self, row: MessageRow, mark: int) -> None:
        self._texts.pop(row.message_id, None)
        if row.status.is_terminal or not self._SHORTEST <= len(row.content) <= self._LONGEST:
            return
        self._texts[row.message_id] = (mark, row.content)
        while (
            len(self._texts) > self._MOST
            or sum(len(text) for _, text in self._texts.values()) > self._LONGEST
        ):
            del self._texts[next(iter(self._texts))]


class SQLiteSnapshot:
    """What a connection sees in the transaction that is open on it."""

    def __init__(self, link: Link, path: str, texts: Texts) -> None:
        self.link = link
        self.db = link.db
        self.path = path
        self._texts = texts
        self._places: dict[str, tuple[int, int]] = {}
        """By message id, of those that were read: number and length of the tail."""
        self.store_id: str | None = None
        self.last = NOTHING

    def begin(self, known: Commit) -> bool:
        """Read which store this is and its last change; whether ``known`` is one of its changes.

        A change that was trimmed counts as one. To be called before anything else.
        """
        found = self.db.execute(_LAST).fetchone()
        if found is None:
            found = self.db.execute(_LAST_OF_ALL_TRIMMED).fetchone()
        last, mark, self.store_id = found
        self.last = Commit(last or 0, mark)
        self.link.saw_last(self.last.revision)
        if self.last == known or not known.revision:
            return True
        there = self.db.execute(
            "SELECT mark FROM changes WHERE revision = ?", (known.revision,)
        ).fetchone()
        if there is not None:
            return bool(there[0] == known.mark)
        return self.last.revision >= known.revision and self.trimmed() >= known.revision

    def thread(self, thread_id: str) -> ThreadRow | None:
        found = self.db.execute(
            f"SELECT {_THREAD} FROM threads WHERE thread_id = ?", (thread_id,)
        ).fetchone()
        return None if found is None else thread_row(found)

    def threads(self) -> list[ThreadRow]:
        found = self.db.execute(f"SELECT {_THREAD} FROM threads ORDER BY number").fetchall()
        return [thread_row(each) for each in found]

    def message(self, message_id: str) -> MessageRow | None:
        if message_id in self._texts:
            found = self.db.execute(
                f"SELECT {_MESSAGE}, (SELECT mark FROM changes WHERE revision = m.revision)"
                " FROM messages AS m WHERE m.message_id = ?",
                (message_id,),
            ).fetchone()
            text = None if found is None else self._texts.get(message_id, found[14])
            if text is not None:
                return self._message_row(found, text)
        rows = self._select("m.message_id = ?", [message_id], "m.number")
        return rows[0] if rows else None

    def messages(
        self, thread_id: str | None, statuses: frozenset[MessageStatus] | None
    ) -> list[MessageRow]:
        conditions, given = [], []
        if thread_id is not None:
            conditions.append("m.thread_id = ?")
            given.append(thread_id)
        if statuses is not None:
            conditions.append(f"m.status IN ({', '.join('?' * len(statuses))})")
            given += [status.value for status in statuses]
        return self._select(" AND ".join(conditions) or "TRUE", given, "m.number")

    def overdue(self, now_us: int) -> list[MessageRow]:
        return self._select("m.deadline_us <= ?", [now_us], "m.deadline_us, m.number")

    def changes(self, since: int, limit: int | None, message_id: str | None) -> list[ChangeRow]:
        most = -1 if limit is None else min(limit, 2**63 - 1)
        if message_id is None:
            # CROSS JOIN: from the left to the right, whatever the planner guesses.
            found = self.db.execute(
                f"SELECT {_CHANGE} FROM changes AS c CROSS JOIN messages AS m"
                " ON m.number = c.number WHERE c.revision > ? ORDER BY c.revision LIMIT ?",
                (since, most),
            )
        else:
            found = self.db.execute(
                f"SELECT {_CHANGE} FROM messages AS m CROSS JOIN changes AS c"
                " ON c.number = m.number WHERE m.message_id = ? AND c.revision > ?"
                " ORDER BY c.revision LIMIT ?",
                (message_id, since, most),
            )
        return [self._change_row(each) for each in found.fetchall()]

    def revision(self) -> int:
        return self.last.revision

    def trimmed(self) -> int:
        (first,) = self.db.execute("SELECT min(revision) FROM changes").fetchone()
        missing = self.revision() if first is None else int(first) - 1
        if not self._is_trimmed():
            return missing
        # Changes of before are still there, each for its message's sake.
        (trimmed,) = self.db.execute("SELECT max(revision) FROM trimmed").fetchone()
        return max(missing, trimmed or 0)

    def _is_trimmed(self) -> bool:
        found = self.db.execute("SELECT 1 FROM sqlite_master WHERE name = 'trimmed'").fetchone()
        return found is not None

    def retained(self) -> list[ChangeRow]:
        return self.changes(0, None, None)

    def first_after(self, at_us: int) -> int | None:
        found = self.db.execute(
            "SELECT revision FROM changes WHERE revision > ? AND at_us > ?"
            " ORDER BY revision LIMIT 1",
            (self.trimmed(), at_us),
        ).fetchone()
        return None if found is None else int(found[0])

    def next_deadline_us(self) -> int | None:
        found = self.db.execute(
            "SELECT deadline_us FROM messages WHERE deadline_us IS NOT NULL"
            " ORDER BY deadline_us LIMIT 1"
        ).fetchone()
        return None if found is None else int(found[0])

    def _select(self, condition: str, given: list[Any], order: str) -> list[MessageRow]:
        found = self.db.execute(
            f"SELECT {_MESSAGE}, b.text, b.revision FROM messages AS m"
            f" LEFT JOIN contents AS b ON b.number = m.number WHERE {condition} ORDER BY {order}",
            given,
        ).fetchall()
        return [
            self._message_row(each, self._text(each[0], each[13], each[14], each[15]))
            for each in found
        ]

    def _text(self, number: int, tail: int, base: str | None, since: int | None) -> str:
        if not tail:
            return base or ""
        appends = self.db.execute(
            "SELECT append FROM changes WHERE number = ? AND revision > ?"
            " AND append IS NOT NULL ORDER BY revision",
            (number, since or 0),
        ).fetchall()
        return "".join([base or "", *(append for (append,) in appends)])

    def _message_row(self, found: tuple[Any, ...], text: str) -> MessageRow:
        self._places[found[1]] = (found[0], found[13])
        return MessageRow(
            message_id=found[1],
            thread_id=found[2],
            module_name=found[3],
            content=text,
            message_type=found[4],
            status=self._status(found[5]),
            created_us=found[6],
            updated_us=found[7],
            expires_us=found[8],
            stall_us=found[9],
            error=found[10],
            metadata=found[11],
            revision=found[12],
        )

    def _change_row(self, found: tuple[Any, ...]) -> ChangeRow:
        return ChangeRow(
            revision=found[0],
            message_id=found[1],
            thread_id=found[2],
            at_us=found[3],
            previous=None if found[4] is None else self._status(found[4]),
            status=self._status(found[5]),
            append=found[6],
            content=found[7],
            content_length=found[8],
            error=found[9],
            metadata=found[10],
        )

    def _status(self, word: object) -> MessageStatus:
        return status_of(word, self.path)


class SQLiteTransaction(SQLiteSnapshot):
    """A snapshot under the write lock, with ``BEGIN IMMEDIATE``."""

    def __init__(self, link: Link, path: str, texts: Texts) -> None:
        super().__init__(link, path, texts)
        self._written: dict[str, tuple[MessageRow, int]] = {}
        """Rows, and the marks of the changes that made them."""

    def add_thread(self, row: ThreadRow) -> None:
        self.db.execute(
            f"INSERT INTO threads ({_THREAD}) VALUES (?, ?, ?, ?, ?)",
            (
                row.thread_id,
                row.title,
                values.dump(row.modules),
                row.metadata,
                row.created_us,
            ),
        )

    def commit(self, row: MessageRow, change: ChangeRow) -> int:
        if change.previous is None:
            number, tail = self._insert(row), 0
        else:
            number, tail = self._places[row.message_id]  # who changes a message has read it here
        mark = new_mark()
        revision = self._insert_change(number, change, mark)
        if change.append is not None:
            tail += len(change.append)
        if change.content is not None or _is_to_be_folded(row, tail):
            self.db.execute(
                "INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", (number, revision, row.content)
            )
            tail = 0
        self.db.execute(
            "UPDATE messages SET status = ?, updated_us = ?, deadline_us = ?, error = ?,"
            " metadata = ?, revision = ?, tail = ? WHERE number = ?",
            (
                row.status.value,
                row.updated_us,
                row.open_deadline_us,
                row.error,
                row.metadata,
                revision,
                tail,
                number,
            ),
        )
        self._places[row.message_id] = (number, tail)
        self._written[row.message_id] = (row, mark)
        self.last = Commit(revision, mark)
        return revision

    def committed(self) -> None:
        """To be called once all of it is: what was written may be remembered."""
        for row, mark in self._written.values():
            self._texts.put(row, mark)

    def _insert(self, row: MessageRow) -> int:
        added = self.db.execute(
            "INSERT INTO messages (message_id, thread_id, module_name, message_type, status,"
            " created_us, updated_us, expires_us, stall_us, metadata, revision, tail)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
            (
                row.message_id,
                row.thread_id,
                row.module_name,
                row.message_type,
                row.status.value,
                row.created_us,
                row.updated_us,
                row.expires_us,
                row.stall_us,
                row.metadata,
            ),
        )
        assert added.lastrowid is not None
        return added.lastrowid

    def _insert_change(self, number: int, change: ChangeRow, mark: int) -> int:
        previous = change.previous
        added = self.db.execute(
            "INSERT INTO changes (mark, number, at_us, previous, status, append, content,"
            " content_length, error, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                mark,
                number,
                change.at_us,
                None if previous is None else previous.value,
                change.status.value,
                change.append,
                change.content,
                change.content_length,
                change.error,
                change.metadata,
            ),
        )
        assert added.lastrowid is not None
        return added.lastrowid


def _is_to_be_folded(row: MessageRow, tail: int) -> bool:
    if not tail:
        return False
    return row.status.is_terminal or tail > max(FOLD_LENGTH, len(row.content) - tail)


def thread_row(found: tuple[Any, ...]) -> ThreadRow:
    """A row of the table ``threads``."""
    return ThreadRow(
        thread_id=found[0],
        title=found[1],
        modules=tuple(json.loads(found[2])),
        metadata=found[3],
        created_us=found[4],
    )
