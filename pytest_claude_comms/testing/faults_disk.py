"""A disk that fails while a store writes.

TinyDB's storage is ours, so each of its file operations can be told apart: what raises is the
very call of ``os``, and so is what comes of it. SQLite writes by itself, out of Python's sight,
and all that a commit writes goes to the log beside the file. For the length of one commit the
descriptors of that log are exchanged for one that the kernel refuses to write to: SQLite gets a
true error of the system, and does what it does then.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .fault import Fault
from .faults_seam import stand_before
from .faults_target import file_of, is_sqlite, is_tinydb

if TYPE_CHECKING:
    from ..stores.sqlite import SQLiteConversationStore
    from ..stores.sqlite_link import Link
    from ..stores.tinydb import TinyDBConversationStore
    from .faults_target import FileStore

_CALLS = ("write", "fsync", "ftruncate", "replace")
_OF_SQLITE = ("EIO", "ENOSPC")
_FULL = "/dev/full"


def error_number(store: FileStore, name: object) -> int:
    """The number of the system's error ``name``. Raises ValueError for what cannot be had."""
    number = getattr(errno, name, None) if isinstance(name, str) else None
    if not isinstance(number, int):
        raise ValueError(f"error= is the name of a system's error, as EIO or ENOSPC, not {name!r}")
    if store.backend != "sqlite":
        return number
    if name not in _OF_SQLITE:
        raise ValueError(
            f"on sqlite error= is one of {', '.join(_OF_SQLITE)}, not {name!r}: SQLite tells a "
            "full disk from all others, and those not from each other"
        )
    if sys.platform == "win32":
        raise RuntimeError("faults.write_fails on sqlite needs POSIX file descriptors")
    if name == "ENOSPC" and not os.path.exists(_FULL):
        raise RuntimeError(
            f"faults.write_fails with ENOSPC on sqlite needs {_FULL}, which this system does not "
            'have; error="EIO" works here'
        )
    return number


class Countdown:
    """Which of the operations fail: the k-th, or all from then on."""

    def __init__(self, at: int, *, forever: bool) -> None:
        self.seen = 0
        self._at = at
        self._forever = forever
        self._lock = threading.Lock()

    def is_due(self) -> bool:
        """Whether the next operation is to fail."""
        with self._lock:
            self.seen += 1
            return self.seen == self._at or (self._forever and self.seen > self._at)

    def take_back(self) -> None:
        """The last one was no operation: nothing was written."""
        with self._lock:
            self.seen -= 1


def break_disk(store: FileStore, number: int, countdown: Countdown, fault: Fault) -> None:
    """Let the writes of a store fail as ``countdown`` says, until ``fault`` is undone."""
    if is_sqlite(store):
        _break_commits(store, number, countdown, fault)
    elif is_tinydb(store):
        _break_calls(store, number, countdown, fault)


# -- TinyDB


def _break_calls(
    store: TinyDBConversationStore, number: int, countdown: Countdown, fault: Fault
) -> None:
    def fail(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # A store writes only on a thread that holds its lock, and such a thread only for it.
        if store._lock._owner == threading.get_ident() and countdown.is_due():
            fault.meet()
            path = args[-1] if args and isinstance(args[-1], str) else file_of(store)
            raise OSError(number, os.strerror(number), path)
        return call(*args, **kwargs)

    for name in _CALLS:
        stand_before(os, name, fail, fault.when_undone)


# -- SQLite


def _break_commits(
    store: SQLiteConversationStore, number: int, countdown: Countdown, fault: Fault
) -> None:
    log = f"{store._file}-wal"
    written: WeakKeyDictionary[Link, int] = WeakKeyDictionary()
    for link in list(store._idle):
        written[link] = link.db.total_changes

    def commit(call: Callable[..., None], link: Link, *args: Any) -> None:
        before, written[link] = written.get(link, 0), link.db.total_changes
        if written[link] == before or not countdown.is_due():
            call(link, *args)
            return
        with _refusing(log, number):
            try:
                call(link, *args)
            except Exception as error:
                if isinstance(error.__cause__, sqlite3.Error):
                    fault.meet()
                raise
        countdown.take_back()

    stand_before(store, "_commit", commit, fault.when_undone)


@contextmanager
def _refusing(log: str, number: int) -> Iterator[None]:
    """Let every write to the file at ``log`` by this process fail, and reads go on.

    Closing a descriptor of a log takes no lock with it: SQLite locks none there.
    """
    with ExitStack() as stack:
        # To write where only reading is allowed is EBADF, which to SQLite is the same as EIO.
        path, flags = (_FULL, os.O_RDWR) if number == errno.ENOSPC else (log, os.O_RDONLY)
        bad = os.open(path, flags)
        stack.callback(os.close, bad)
        instead = os.fstat(bad)
        for descriptor in _descriptors(log):
            if descriptor != bad:
                kept = os.dup(descriptor)
                stack.callback(os.close, kept)
                os.dup2(bad, descriptor, inheritable=False)
                stack.callback(_put_back, kept, descriptor, instead)
        yield


def _put_back(kept: int, descriptor: int, instead: os.stat_result) -> None:
    try:
        found = os.fstat(descriptor)
    except OSError:  # closed meanwhile
        return
    if os.path.samestat(found, instead):
        os.dup2(kept, descriptor, inheritable=False)


def _descriptors(path: str) -> list[int]:
    """Those of this process under which the file at ``path`` is open."""
    wanted = os.stat(path)
    found = []
    for name in os.listdir("/dev/fd"):
        try:
            if os.path.samestat(os.fstat(int(name)), wanted):
                found.append(int(name))
        except OSError:  # the one that listed them
            continue
    return found
