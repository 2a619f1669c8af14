"""A store that somebody else holds, and one that is slow."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..clock import SECOND, Clock
from ..errors import StoreBusy
from ..stores import files
from ..stores.core import BUSY_TIMEOUT
from .fault import Fault
from .faults_seam import stand_before
from .faults_target import file_of, is_sqlite, is_tinydb

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from ..stores.sqlite import SQLiteConversationStore
    from ..stores.tinydb import TinyDBConversationStore
    from .faults_target import FileStore

_OPERATIONS = (
    *("create_thread", "add_message", "update_message", "get_message", "get_thread", "messages"),
    *("threads", "changes", "cursor", "expire", "compact", "next_deadline_us"),
)


def hold(store: FileStore, fault: Fault) -> None:
    """Take the write lock of a store as another user of it would, until ``fault`` is undone.

    Raises StoreBusy if somebody has it and does not let go.
    """
    if is_sqlite(store):
        _hold_sqlite(store, fault)
    elif is_tinydb(store):
        _hold_tinydb(store, fault)


def _hold_sqlite(store: SQLiteConversationStore, fault: Fault) -> None:
    from ..stores.sqlite import SQLiteConversationStore
    from ..stores.sqlite_link import Link, is_busy

    link = Link(store._file, store._durability, for_call=False)

    def begin() -> bool:
        try:
            link.db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            return False
        return True

    def let_go() -> None:
        if not link.closed:
            link.rollback()
            link.close()

    fault.when_undone(let_go)
    _take(begin, store.clock, store._path)

    def kept_waiting(call: Callable[..., bool], other: Any, *args: Any) -> bool:
        begun = call(other, *args)
        if not begun and other._file == store._file:
            fault.meet()
        return begun

    stand_before(SQLiteConversationStore, "_begin_writing", kept_waiting, fault.when_undone)


def _hold_tinydb(store: TinyDBConversationStore, fault: Fault) -> None:
    path = store._lock.path
    # A descriptor of its own: a lock belongs to what was opened, not to the process.
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    held = [descriptor]

    def let_go() -> None:
        while held:
            files._unlock(descriptor)
            os.close(held.pop())

    fault.when_undone(let_go)
    _take(lambda: files._lock(descriptor), store.clock, file_of(store))

    def kept_waiting(call: Callable[..., bool], lock: files.FileLock) -> bool:
        locked = call(lock)
        if not locked and lock.path == path:
            fault.meet()
        return locked

    stand_before(files.FileLock, "_lock_file", kept_waiting, fault.when_undone)


def _take(attempt: Callable[[], bool], clock: Clock, path: str) -> None:
    backoff = clock.backoff(round(BUSY_TIMEOUT * SECOND))
    while not attempt():
        if not backoff.pause():
            raise StoreBusy(path, backoff.waited)


def slow_down(store: ConversationStore, seconds: float, fault: Fault) -> None:
    """Let ``seconds`` pass before each operation of this store object, with nothing held."""
    inside = threading.local()

    def take_long(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if getattr(inside, "an_operation", False):  # one that another one is made of
            return call(*args, **kwargs)
        inside.an_operation = True
        try:
            fault.meet()
            store.clock.sleep(seconds)
            return call(*args, **kwargs)
        finally:
            inside.an_operation = False

    for name in _OPERATIONS:
        stand_before(store, name, take_long, fault.when_undone)
