"""A store in a SQLite file, for many processes and long histories."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import get_args

from ..clock import SECOND, Clock
from ..errors import HistoryGone, Outcome, StoreBusy, StoreClosed, StoreCorrupt, StoreError
from . import files, sqlite_link, sqlite_rows
from .base import Durability
from .core import BUSY_TIMEOUT, BaseStore
from .hub import hub_of
from .sqlite_link import Link, is_busy
from .sqlite_rows import SQLiteSnapshot, SQLiteTransaction, Texts

WAL_BYTES = 4_000_000
"""Size from which on the write-ahead log is copied into the file and cut off. A larger one
makes few commits cheaper, a smaller one costs two fsyncs more often."""

_MOST_IDLE = 8
"""Connections that are kept for the next call; a burst of threads may open more."""


class SQLiteConversationStore(BaseStore):
    """Keeps everything in the SQLite file at ``path``, which is created if it is missing.

    Any number of threads and processes may use it at once, on a local file system. Beside it
    are ``-wal`` and ``-shm`` (SQLite's own, gone once everybody has closed it; never delete
    them) and ``.lock``. What we create only its owner can read.

    ``durability="power"`` holds if all who have the file open say so. Raises StoreError where
    the file cannot be opened, StoreCorrupt if it is no store of ours.
    """

    backend = "sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        durability: Durability = "power",
    ) -> None:
        if durability not in get_args(Durability):
            raise ValueError(f"no durability {durability!r}; there are {get_args(Durability)}")
        given = os.fspath(path)
        if not isinstance(given, str):
            raise TypeError(f"path must be a str or a path of one, not {path!r}")
        self._path = os.path.abspath(given)
        self._file = os.path.realpath(self._path)
        url = f"sqlite:///{self._path.replace(os.sep, '/')}"
        super().__init__(url, hub_of("sqlite", self._file), clock)
        self._durability: Durability = durability
        self._lock = files.FileLock(f"{self._file}.lock")
        self._texts = Texts()
        self._idle: list[Link] = []
        self._idle_lock = threading.Lock()
        self._shut = False
        self._next_checkpoint = WAL_BYTES
        self._identity = (0, 0)
        self._store_id = ""
        try:
            self._open()
        except BaseException:
            self._closed = True
            self._close()
            raise
        self._register()

    @property
    def store_id(self) -> str:
        return self._store_id

    # -- opening

    def _open(self) -> None:
        if os.path.isdir(self._file):
            raise StoreError(f"{self._path} is a directory, not a conversation store")
        is_new = files.create_private(self._file)
        if not is_new:
            self._refuse_lone_log()
        elif self._durability == "power":
            self._keep_name()
        # Looked at before and after it is opened: so the connection has just that file.
        self._identity = self._look()
        link = self._take()
        try:
            self._check_there()
            self._retry(lambda: self._begin_using(link, is_new))
        except sqlite3.Error as error:
            raise self._store_error(error) from error
        finally:
            link.rollback()
            self._put_back(link)

    def _keep_name(self) -> None:
        try:
            files.fsync_directory(os.path.dirname(self._file))
        except OSError as error:
            raise files.store_error(self._path, error) from error

    def _refuse_lone_log(self) -> None:
        # SQLite deletes the log of an empty file. One that is being created has none yet.
        log = f"{self._file}-wal"
        if not _size(self._file) and _size(log) and not _size(self._file):
            raise StoreCorrupt(self._path, f"it is empty, but {log} is not")

    def _refuse_cut_page(self, link: Link) -> None:
        # SQLite fills a last page that is too short with zeros. With a log it may be right.
        (page,) = link.db.execute("PRAGMA page_size").fetchone()
        size = _size(self._file)
        if size % page and not _size(f"{self._file}-wal"):
            raise StoreCorrupt(self._path, f"it was cut off at {size:,} bytes, inside a page")

    def _begin_using(self, link: Link, is_new: bool) -> bool:
        try:
            link.prepare()
            if not is_new and self._is_ready(link):
                return True
            return self._lay_out(link)
        except sqlite3.Error as error:
            if is_busy(error):
                return False
            raise

    def _is_ready(self, link: Link) -> bool:
        self._refuse_cut_page(link)
        try:
            link.db.execute("BEGIN")
            self._store_id = sqlite_rows.identify(link.db, self._path) or ""
        finally:
            link.rollback()
        return bool(self._store_id) and _journal_mode(link) == "wal"

    def _lay_out(self, link: Link) -> bool:
        try:
            if not self._lock.try_acquire():
                return False
            if _journal_mode(link, "= WAL") != "wal":
                raise StoreError(f"{self._path}: SQLite cannot keep a write-ahead log there")
            link.db.execute("BEGIN IMMEDIATE")
            found = sqlite_rows.identify(link.db, self._path)
            store_id = found or sqlite_rows.create(link.db)
            link.db.execute("COMMIT")
            self._store_id = store_id
            return True
        finally:  # nothing is held while waiting
            link.rollback()
            self._lock.release()

    # -- connections

    def _take(self) -> Link:
        try:
            link = self._idle.pop()
        except IndexError:
            pass
        else:
            link.in_use = True
            return link
        if self._shut:
            raise StoreClosed(self.url)
        try:
            return Link(self._file, self._durability)
        except sqlite3.Error as error:
            raise self._store_error(error) from error

    def _put_back(self, link: Link) -> None:
        link.in_use = False
        with self._idle_lock:
            if not self._shut and len(self._idle) < _MOST_IDLE and not link.db.in_transaction:
                self._idle.append(link)
                return
        link.close()

    def _close(self) -> None:
        with self._idle_lock:
            self._shut = True
        # The last connection to the file copies the log into it: under the lock where that
        # can be had. Not in place of a file that is gone.
        with suppress(StoreError, RuntimeError):  # RuntimeError: a call was interrupted
            if self._idle:
                self._check_there()
                self._lock.acquire(self.clock, self._bound_us, self._path)
        try:
            with suppress(IndexError):
                while True:  # one by one: a call that is under way may still take one
                    self._idle.pop().close()
        finally:
            self._lock.release()
            self._lock.close()

    # -- transactions

    @contextmanager
    def _reading(self) -> Iterator[SQLiteSnapshot]:
        held = [link := self._take()]
        try:
            snapshot = SQLiteSnapshot(link, self._path, self._texts)
            self._retry(lambda: self._begin_reading(link, snapshot))
            yield snapshot
        except sqlite3.Error as error:
            raise self._store_error(error) from error
        finally:
            try:
                self._let_go(held)
            except BaseException:  # interrupted: what was not done yet is done now
                self._let_go(held)
                raise

    @contextmanager
    def _writing(self) -> Iterator[SQLiteTransaction]:
        held = [link := self._take()]
        try:
            tx = SQLiteTransaction(link, self._path, self._texts)
            self._retry(lambda: self._begin_writing(link, tx))
            yield tx
            self._commit(link, tx)
        except sqlite3.Error as error:
            raise self._store_error(error) from error
        finally:
            try:
                self._let_go(held)
            except BaseException:  # interrupted: what was not done yet is done now
                self._let_go(held)
                raise

    def _let_go(self, held: list[Link]) -> None:
        if held:
            held[0].rollback()
            self._lock.release()
            # It leaves the list first: once it is back, it may be somebody else's.
            self._put_back(held.pop())

    def _begin_reading(self, link: Link, snapshot: SQLiteSnapshot) -> bool:
        self._check_there()
        try:
            link.rollback()
            link.prepare()
            link.db.execute("BEGIN")
            self._check_store(snapshot)
            return True
        except sqlite3.Error as error:
            if is_busy(error):
                link.rollback()
                return False
            raise

    def _begin_writing(self, link: Link, tx: SQLiteTransaction) -> bool:
        self._check_there()
        begun = False
        try:
            if self._lock.try_acquire():
                self._check_there()
                link.rollback()
                link.prepare()
                link.forget()
                link.db.execute("BEGIN IMMEDIATE")
                self._check_store(tx)
                begun = True
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
        finally:
            if not begun:  # nothing is held while waiting
                link.rollback()
                self._lock.release()
        return begun

    def _commit(self, link: Link, tx: SQLiteTransaction) -> None:
        try:
            link.db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._store_error(error, "unknown") from error
        tx.committed()
        # Whatever comes of this, the commit is in the log and stays there.
        with suppress(sqlite3.Error):
            self._checkpoint_if_due(link)

    def _checkpoint_if_due(self, link: Link) -> None:
        log = f"{self._file}-wal"
        size = _size(log)
        if size < self._next_checkpoint:
            return
        self._next_checkpoint = size + WAL_BYTES  # where a reader stands in the way, later
        link.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if _size(log) < WAL_BYTES:
            self._next_checkpoint = WAL_BYTES

    def _is_last(self, since: int) -> bool:
        self._check_there()
        link = self._take()
        try:
            return link.is_last(since)
        except sqlite3.Error:  # the read that follows will say what it is
            return False
        finally:
            self._put_back(link)

    # -- what may go wrong

    @property
    def _bound_us(self) -> int:
        return round(BUSY_TIMEOUT * SECOND)

    def _retry(self, attempt: Callable[[], bool]) -> None:
        """Until ``attempt``, which holds nothing when it returns False, returns True."""
        if attempt():
            return
        backoff = self.clock.backoff(self._bound_us)
        while backoff.pause():
            if attempt():
                return
        raise StoreBusy(self._path, backoff.waited)

    def _look(self) -> tuple[int, int]:
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            raise HistoryGone("the file is no longer there", store=self.url) from None
        except OSError as error:
            raise files.store_error(self._path, error) from error
        return found.st_dev, found.st_ino

    def _check_there(self) -> None:
        """Raises HistoryGone if the path is no longer the file that was opened."""
        if self._look() != self._identity:
            raise HistoryGone("another file has taken its place", store=self.url)

    def _check_store(self, snapshot: SQLiteSnapshot) -> None:
        if snapshot.store_id() != self._store_id:
            raise HistoryGone("another store has taken its place", store=self.url)

    def _store_error(self, error: sqlite3.Error, outcome: Outcome = "not done") -> StoreError:
        if self._store_id:
            try:
                self._check_there()
            except StoreError as gone:
                return gone
        return sqlite_link.store_error(self._path, error, outcome)


def _journal_mode(link: Link, assignment: str = "") -> str:
    return str(link.db.execute(f"PRAGMA journal_mode {assignment}").fetchone()[0])


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
