"""Connections to a SQLite file, and what SQLite's errors mean to a store."""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import partial
from typing import Final, NamedTuple, TypeAlias
from weakref import ref

from ..clock import SECOND, SystemClock
from ..errors import Outcome, StoreBusy, StoreCorrupt, StoreError
from .base import Durability
from .files import UNWRITABLE, is_writable

_BUSY: Final = frozenset({5, 6, 15})  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL
_CORRUPT: Final = frozenset({11, 26})  # SQLITE_CORRUPT, SQLITE_NOTADB
_REFUSED: Final = frozenset({3, 8, 14})  # SQLITE_PERM, SQLITE_READONLY, SQLITE_CANTOPEN
_TEXTS: Final = {
    "is locked": 5,
    "locking protocol": 15,
    "malformed": 11,
    "not a database": 26,
    "no such table": 11,
    "no such column": 11,
    "could not decode to utf-8": 11,
    "readonly database": 8,
    "unable to open": 14,
}
"""What errors say. Before Python 3.11 they had no code, and some of ours have none of use."""

_SYNCHRONOUS: Final[dict[Durability, str]] = {"power": "FULL", "process": "OFF"}


def _code(error: sqlite3.Error) -> int:
    text = str(error).lower()
    for part, code in _TEXTS.items():
        if part in text:
            return code
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF  # the upper bits say more, but nothing that matters here


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else is in the way, so that it is worth to try again."""
    return _code(error) in _BUSY


def is_no_database(error: sqlite3.Error) -> bool:
    """Whether the file is none of SQLite's, which no checkpoint can make it seem."""
    return _code(error) == 26  # SQLITE_NOTADB


def store_error(path: str, error: sqlite3.Error, outcome: Outcome = "not done") -> StoreError:
    """What to raise instead of ``error``."""
    if is_busy(error):
        return StoreBusy(path, 0.0)
    if _code(error) in _CORRUPT:
        return StoreCorrupt(path, f"SQLite says: {error}")
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    said = f"{path}: {error} ({name})"
    # Neither of these says why: SQLite cannot open a file either where there are too many.
    if _code(error) in _REFUSED and not is_writable(path):
        said = f"{said}; {UNWRITABLE}"
    return StoreError(said, outcome=outcome)


class Stamp(NamedTuple):
    """What tells that a file was written to. Commits go to the log, so it seldom is."""

    size: int
    modified_ns: int


class Peek(NamedTuple):
    """What is in the file itself, whatever its log says."""

    application: int
    label: int
    page: int
    """Bytes of a page."""
    revision: int
    """The last one that a checkpoint has brought into it."""


def peek(path: str) -> Peek:
    """Look at a file without its log. Raises sqlite3.Error, also during a checkpoint.

    Through SQLite, since closing a descriptor of our own would take the locks of all
    connections of this process with it.
    """
    with closing(
        sqlite3.connect(f"{uri_of(path, 'ro')}&immutable=1", uri=True, isolation_level=None)
    ) as db:
        names = ("application_id", "user_version", "page_size")
        application, label, page = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
        found = None
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
            found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
    return Peek(application, label, page, 0 if found is None else found[0])


class Link:
    """A connection to an existing file, used by one thread at a time and never over a fork."""

    closed = True
    """Whether it has no connection: not yet, or not any more."""

    def __init__(
        self,
        path: str,
        durability: Durability,
        mode: str = "rw",
        *,
        timeout: float = 0.0,
        for_call: bool = True,
    ) -> None:
        """``timeout``: of SQLite's own waiting, in real seconds; a store waits on its clock.

        ``for_call``: it is for a call of this thread that will end soon, so a fork waits for it
        until :meth:`rest` or :meth:`close`.
        """
        self.path = path
        self.in_use = True
        """Whether it is in the hands of a call, and not idle."""
        self.is_sound = True
        """False once an error has come through it. SQLite may keep what came of that: a file that
        could only be opened to read, a lock that could not be given back."""
        self._synchronous = _SYNCHRONOUS[durability]
        self._ready = False
        self._version: int | None = None
        self._last: int | None = None
        self.stamp: Stamp | None = None
        """Of the file, when the pages that this connection remembers were still its."""
        self._made_by = os.getpid()
        self.take()
        _links[id(self)] = ref(self)
        with _opening:
            _let_go_of_inherited(path)
            self.db = sqlite3.connect(
                uri_of(path, mode),
                uri=True,
                timeout=timeout,
                isolation_level=None,
                check_same_thread=False,
            )
            self.closed = False
        if not for_call:
            _callers.pop(id(self), None)

    @property
    def is_inherited(self) -> bool:
        """Whether it was made before this process was forked."""
        return self._made_by != os.getpid()

    def prepare(self) -> None:
        """Set what SQLite keeps by connection. The file must exist; it may be busy."""
        if not self._ready:
            self.db.execute(f"PRAGMA synchronous = {self._synchronous}")
            # The store checkpoints itself, under the lock that it writes under.
            self.db.execute("PRAGMA wal_autocheckpoint = 0")
            self._ready = True

    @property
    def may_be_open(self) -> bool:
        """Whether SQLite may have the file open by it, or be about to."""
        return self.in_use or not self.closed

    def take(self) -> None:
        """It is in the hands of this thread's call from now on.

        While a process is being forked this waits until that is done.
        """
        with _no_fork():
            self._take()

    def _take(self) -> None:
        _callers[id(self)] = threading.get_ident()
        self.in_use = True

    def rest(self) -> None:
        """The call that had it in its hands is done with it."""
        self.in_use = False
        _callers.pop(id(self), None)

    def rollback(self) -> None:
        """End the transaction, if there is one. Where even that fails it is not used again."""
        if self.db.in_transaction:
            try:
                self.db.execute("ROLLBACK")
            except sqlite3.Error:
                self.is_sound = False

    # Whether a revision is still the last one, without reading it. ``data_version`` of a
    # connection differs between two calls if any *other* connection, of this process or
    # another, committed in between; it does not see what this connection commits itself.
    #
    # - ``_last`` was read in a transaction that began after ``_version`` was read, on this
    #   very connection (a link has one user at a time, so nothing comes in between but in
    #   this order), and this connection committed nothing since: ``forget`` comes before
    #   every BEGIN IMMEDIATE.
    # - Assume a commit with a later revision returned before ``is_last`` was called. It was
    #   not in the snapshot ``_last`` was read from, so it was made after that snapshot, hence
    #   after ``_version`` was read; and on another connection. So ``data_version`` differs
    #   now, and the answer is False.
    # - A commit between reading ``_version`` and the snapshot makes them differ for nothing;
    #   that costs one read.
    # - The connection keeps its file open, so its inode number is not given to another file
    #   as long as the answer is asked of it; the store compares that with what the path is.

    def is_last(self, since: int) -> bool:
        version = self.db.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version, self._last = version, None
        return since == self._last

    def saw_last(self, revision: int) -> None:
        """In a read transaction: ``revision`` is the last one in it."""
        if self._version is not None:
            self._last = revision

    def forget(self) -> None:
        self._version = self._last = None

    def drop_pages(self) -> None:
        """Read from the file again what was read from it before.

        SQLite trusts its memory until somebody commits through SQLite.
        """
        self.forget()
        self.db.execute("PRAGMA shrink_memory")

    def close(self) -> None:
        with suppress(sqlite3.Error, AttributeError):  # there is none if connect() raised
            self.db.close()
            self.closed = True
        self.rest()

    def __del__(self) -> None:
        # Python 3.13 warns of a connection that is collected open.
        try:
            _links.pop(id(self), None)
            if "db" not in self.__dict__ or not self.is_inherited:
                self.close()
            elif not self.closed:
                _inherited[self] = _NOT_NOTED  # so it is not collected
        except Exception:  # noqa: BLE001, S110 - at the interpreter's end modules are gone
            pass


def taken_from(idle: list[Link]) -> Link:
    """One of ``idle``, which is in the hands of this thread's call from now on.

    Raises IndexError if there is none. While a process is being forked it waits until that is done.
    """
    with _no_fork():
        link = idle.pop()
        link._take()
    return link


def is_open_here(path: str) -> bool:
    """Whether this process has a connection to that file, or inherited one."""
    name = os.path.realpath(path)
    return any(not link.closed and os.path.realpath(link.path) == name for link in _all_links())


@contextmanager
def kept_closed(path: str) -> Iterator[bool]:
    """Whether no connection of this process has that file open; if so, none opens it meanwhile.

    For who reads it byte by byte: closing any descriptor of a file drops the locks that SQLite
    holds on it in this process (sqlite.org/howtocorrupt.html, 2.2).
    """
    with _opening:
        yield not is_open_here(path)


def uri_of(path: str, mode: str = "rw") -> str:
    """What SQLite takes to open a file that exists."""
    plain = path.replace(os.sep, "/")
    for character in "%?#":
        plain = plain.replace(character, f"%{ord(character):02x}")
    return f"file://{'' if plain.startswith('/') else '/'}{plain}?mode={mode}"


# Over a fork. SQLite knows a file by its inode and believes that the locks it had in the parent
# are the child's too: a connection opened in the child beside an inherited one takes no lock on
# the file, and when the parent closes, taking itself for the last user, it deletes the log that
# the child writes (measured: 10 of 10 commits that had returned were lost; see also
# sqlite.org/howtocorrupt.html, 2.6). So the child keeps what it inherited untouched, and closes
# it just before it opens a connection of its own to that file. That is safe only for one that
# no other thread was using, and as long as the log is the one it has open.
#
# SQLite has locks of its own besides, for all files together. One that another thread of the
# parent holds at that instant is held for ever in the child, where the next call of SQLite, about
# any file, would hang (measured, two threads busy: 5 children of 300). So a fork lets no call
# begin, and waits until those of other threads have ended.
#
# Of what is called at a fork an exception is only printed, and one can come out of any line: a
# signal handler's, as of Ctrl-C. So what must be done is done by functions that are no Python,
# which no handler interrupts, and the child refuses what was not noted.

_opening = threading.RLock()
"""Held by whoever opens a file, or needs it to stay closed."""
_calling = threading.RLock()
"""Held by whoever begins a call, for a moment, and by a fork. Under it nothing is waited for."""
_PATIENCE_US = 2 * SECOND
"""How long a fork waits. A call may itself wait, for a lock or for the one who forks."""
_links: Final[dict[int, ref[Link]]] = {}
"""All there are, by their id()."""
_callers: Final[dict[int, int]] = {}
"""By the id() of each that is in the hands of a call: that call's thread."""
_Log: TypeAlias = "tuple[int, int] | None"
_logs: Final[dict[Link, _Log]] = {}
"""The identity of each one's log, from just before a fork until it is done."""
_inherited: Final[dict[Link, _Log]] = {}
"""The same, in a child: those of its parent, which are not to be collected."""
_NOT_NOTED: Final = (-1, -1)


def _no_fork() -> AbstractContextManager[object]:
    # In the midst of a call of this thread, as a signal handler makes one: a fork that is under
    # way waits for that call, which waits for this.
    return nullcontext() if threading.get_ident() in list(_callers.values()) else _calling


def _all_links() -> list[Link]:
    found = [link for each in list(_links.values()) if (link := each()) is not None]
    return list(dict.fromkeys([*found, *list(_inherited)]))


def _let_go_of_inherited(path: str) -> None:
    for link in _all_links():
        if not link.is_inherited or not link.may_be_open or link.path != path:
            continue
        if link.in_use or _log_identity(path) != _inherited.get(link, _NOT_NOTED):
            raise RuntimeError(
                f"{path} was in use when this process was forked, and SQLite cannot open it here: "
                "close the store before the fork, or start the process with 'spawn'"
            )
        link.close()
        _inherited.pop(link, None)


def _log_identity(path: str) -> _Log:
    try:
        found = os.stat(f"{path}-wal")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _await_calls_and_note_logs() -> None:
    try:
        backoff = SystemClock().backoff(_PATIENCE_US)
        while _others_call() and backoff.pause():
            pass
    finally:
        # Before the fork: by the time the child runs, the parent may have closed and opened it
        # anew. One of the parent's own parent was noted then.
        _logs.update(
            (link, _log_identity(link.path))
            for link in _all_links()
            if link.may_be_open and not link.is_inherited
        )


def _others_call() -> bool:
    return any(each != threading.get_ident() for each in list(_callers.values()))


def _never_close() -> None:
    # The interpreter's end would close them.
    inherited = [link for link in _all_links() if link.is_inherited]
    if inherited:
        import ctypes

        for link in inherited:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(link))


atexit.register(_never_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_await_calls_and_note_logs)
    os.register_at_fork(before=_calling.acquire)  # the last one is the first to be called
    os.register_at_fork(after_in_parent=_logs.clear)
    os.register_at_fork(after_in_parent=_calling.release)
    # The threads that may hold these are the parent's.
    os.register_at_fork(after_in_child=_opening._at_fork_reinit)  # type: ignore[attr-defined]
    os.register_at_fork(after_in_child=_calling._at_fork_reinit)  # type: ignore[attr-defined]
    os.register_at_fork(after_in_child=_callers.clear)
    os.register_at_fork(after_in_child=partial(_inherited.update, _logs))
    os.register_at_fork(after_in_child=_logs.clear)
