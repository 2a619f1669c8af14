"""A store in a SQLite file, for many processes and long histories."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, get_args

from ..clock import SECOND, Clock
from ..errors import HistoryGone, Outcome, StoreBusy, StoreClosed, StoreCorrupt, StoreError
from ..redaction import Redact
from . import files, sqlite_link, sqlite_rows
from .base import Durability
from .core import BUSY_TIMEOUT
from .hub import hub_of
from .keeping import KeepingStore, no_progress
from .sqlite_link import Link, Peek, Stamp, is_busy, is_no_database
from .sqlite_rows import NOTHING, SQLiteSnapshot, SQLiteTransaction, Texts

if TYPE_CHECKING:
    from .reports import Progress, StoreSnapshot

WAL_BYTES = 4_000_000
"""Size from which on the write-ahead log is copied into the file and cut off. A larger one
makes few commits cheaper, a smaller one costs two fsyncs more often."""

_READERS_MS = 100
"""Real milliseconds for which readers are waited for before the log is cut off."""

_MOST_IDLE = 8
"""Connections that are kept for the next call; a burst of threads may open more."""


class SQLiteConversationStore(KeepingStore):
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
        redact: Redact | None = None,
    ) -> None:
        if durability not in get_args(Durability):
            raise ValueError(f"no durability {durability!r}; there are {get_args(Durability)}")
        self._path = os.path.abspath(files.path_of(path))
        self._file = os.path.realpath(self._path)
        url = f"sqlite:///{self._path.replace(os.sep, '/')}"
        super().__init__(url, hub_of("sqlite", self._file), clock, redact)
        self._durability: Durability = durability
        self._lock = files.FileLock(f"{self._file}.lock")
        self._texts = Texts()
        self._known = NOTHING
        """The last change that was read or made here; it must stay in the history."""
        # Re-entrant, both: a signal handler or a finalizer may come in between.
        self._known_lock = threading.RLock()
        self._seen: tuple[Stamp, Peek] | None = None
        """The file, without its log, when it was last looked at."""
        self._idle: list[Link] = []
        self._idle_lock = threading.RLock()
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
        files.refuse_other_than_file(self._file, self._path)
        is_new = files.create_private(self._file)
        if not is_new:
            self._refuse_lone_log()
        elif self._durability == "power":
            self._keep_name()
        # Looked at before and after it is opened: so the connection has just that file.
        self._identity = self._look()[0]
        link = self._take()
        try:
            self._check_there()
            self._retry(lambda: self._begin_using(link, is_new))
            self._look_first(link, self._check_there())
        except sqlite3.Error as error:
            link.is_sound = False
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
            if not (self._store_id and sqlite_rows.is_claimed(link.db)):
                return False
            self._know_last(link)
        finally:
            link.rollback()
        return _journal_mode(link) == "wal"

    def _lay_out(self, link: Link) -> bool:
        claim = self._lock.claim()
        try:
            if not claim.try_acquire():
                return False
            from . import sqlite_keeping

            sqlite_keeping.lay_out_to_shrink(link.db)
            if _journal_mode(link, "= WAL") != "wal":
                raise StoreError(f"{self._path}: SQLite cannot keep a write-ahead log there")
            link.db.execute("BEGIN IMMEDIATE")
            found = sqlite_rows.identify(link.db, self._path)
            if found is None:
                found = sqlite_rows.create(link.db)
            elif not sqlite_rows.is_claimed(link.db):
                found = sqlite_rows.give_id(link.db, claimed=True)
            link.db.execute("COMMIT")
            self._store_id = found
            self._know_last(link)
            # So that the file itself, and not only its log, says whose it is.
            link.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return True
        finally:  # nothing is held while waiting
            link.rollback()
            claim.release()

    def _know_last(self, link: Link) -> None:
        snapshot = SQLiteSnapshot(link, self._path, self._texts)
        snapshot.begin(NOTHING)
        self._known = snapshot.last

    # -- connections

    def _take(self) -> Link:
        with suppress(IndexError):
            return sqlite_link.taken_from(self._idle)
        if self._shut:
            raise StoreClosed(self.url)
        try:
            return Link(self._file, self._durability)
        except sqlite3.Error as error:
            raise self._store_error(error) from error

    def _put_back(self, link: Link) -> None:
        with self._idle_lock:
            if link.is_sound and not self._shut and len(self._idle) < _MOST_IDLE:
                link.rest()
                self._idle.append(link)
                return
        link.close()

    def _close(self) -> None:
        with self._idle_lock:
            self._shut = True
        # The last connection to the file copies the log into it: under the lock where that
        # can be had. Not in place of a file that is gone.
        claim = self._lock.claim()
        try:
            with suppress(StoreError, RuntimeError):  # RuntimeError: a call was interrupted
                if self._idle:
                    self._check_there()
                    claim.acquire(self.clock, self._bound_us, self._path)
            with suppress(IndexError):
                while True:  # one by one: a call that is under way may still take one
                    link = sqlite_link.taken_from(self._idle)
                    link.close()
        finally:
            try:
                claim.release()
            except BaseException:  # even its first step can be interrupted
                claim.release()
                raise
            finally:
                self._lock.close()

    # -- transactions

    @contextmanager
    def _reading(self) -> Iterator[SQLiteSnapshot]:
        held, claim = [link := self._take()], self._lock.claim()
        try:
            snapshot = SQLiteSnapshot(link, self._path, self._texts)
            self._retry(lambda: self._begin_reading(link, snapshot))
            yield snapshot
        except sqlite3.Error as error:
            link.is_sound = False
            raise self._store_error(error) from error
        finally:
            try:
                self._let_go(held, claim)
            except BaseException:  # interrupted: what was not done yet is done now
                self._let_go(held, claim)
                raise

    @contextmanager
    def _writing(self) -> Iterator[SQLiteTransaction]:
        held, claim = [link := self._take()], self._lock.claim()
        try:
            tx = SQLiteTransaction(link, self._path, self._texts)
            self._retry(lambda: self._begin_writing(link, tx, claim))
            yield tx
            self._commit(link, tx)
        except sqlite3.Error as error:
            link.is_sound = False
            raise self._store_error(error) from error
        finally:
            try:
                self._let_go(held, claim)
            except BaseException:  # interrupted: what was not done yet is done now
                self._let_go(held, claim)
                raise

    def _let_go(self, held: list[Link], claim: files.Claim) -> None:
        if held:
            link = held[0]
            link.rollback()
            if not link.is_sound:
                # It may be the last one, which copies the log into the file: see _close().
                with suppress(StoreError, RuntimeError):  # RuntimeError: it is held here already
                    claim.try_acquire()
                link.close()
            claim.release()
            # It leaves the list first: once it is back, it may be somebody else's.
            self._put_back(held.pop())

    def _begin_reading(self, link: Link, snapshot: SQLiteSnapshot) -> bool:
        stamp = self._check_there()
        try:
            link.rollback()
            link.prepare()
            if stamp != link.stamp:
                self._look_closer(link, stamp)
            link.db.execute("BEGIN")
            self._check_history(snapshot)
            return True
        except sqlite3.Error as error:
            if is_busy(error):
                link.rollback()
                return False
            raise

    def _begin_writing(self, link: Link, tx: SQLiteTransaction, claim: files.Claim) -> bool:
        self._check_there()
        begun = False
        try:
            if claim.try_acquire():
                stamp = self._check_there()
                link.rollback()
                link.prepare()
                if stamp != link.stamp:
                    self._look_closer(link, stamp)
                link.forget()
                link.db.execute("BEGIN IMMEDIATE")
                self._check_history(tx)
                begun = True
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
        finally:
            if not begun:  # nothing is held while waiting
                link.rollback()
                claim.release()
        return begun

    def _commit(self, link: Link, tx: SQLiteTransaction) -> None:
        try:
            link.db.execute("COMMIT")
        except sqlite3.Error as error:
            link.is_sound = False
            raise self._store_error(error, "unknown") from error
        with self._known_lock:
            self._known = tx.last  # under the lock of writers: nothing later can be known
        tx.committed()
        # Whatever comes of this, the commit is in the log and stays there.
        with suppress(sqlite3.Error):
            self._checkpoint_if_due(link)

    def _checkpoint_if_due(self, link: Link) -> None:
        log = f"{self._file}-wal"
        size = _size(log)
        if size < self._next_checkpoint:
            return
        self._next_checkpoint = size + WAL_BYTES // 2  # where a reader stands in the way, later
        # Who is reading has done so in a moment, and who comes then reads the file itself. Without
        # waiting, readers that come one after the other keep the log growing (measured: 21 MB).
        link.db.execute(f"PRAGMA busy_timeout = {_READERS_MS}")
        try:
            link.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            link.db.execute("PRAGMA busy_timeout = 0")
        if _size(log) < WAL_BYTES:
            self._next_checkpoint = WAL_BYTES

    # -- as a whole

    def _restore(self, snapshot: StoreSnapshot, progress: Progress) -> None:
        from . import sqlite_keeping

        with self._writing() as tx:
            self._refuse_if_used(tx)
            sqlite_keeping.restore(tx, snapshot, progress)

    def _compact(self, keep: int | timedelta) -> tuple[int, int, str | None]:
        from . import sqlite_keeping

        with self._reading() as snapshot:
            floor = self._floor(snapshot, keep)

        def cut_log() -> None:
            with self._writing():
                self._next_checkpoint = 0  # the log is to be cut off whatever its size

        trimmed, removed, waiting = sqlite_keeping.compact(
            self._writing, floor, cut_log, self._path
        )
        if waiting is None and _size(f"{self._file}-wal"):
            waiting = "somebody is reading; the file gets smaller with the next checkpoint"
        return trimmed, removed, waiting

    def _bytes(self) -> int:
        return _size(self._file) + _size(f"{self._file}-wal")

    def write_backup(self, path: str, *, progress: Progress | None = None) -> None:
        """See :class:`.reports.BackedUp`."""
        from . import sqlite_keeping

        self._check_usable()
        with self._reading() as snapshot:
            sqlite_keeping.back_up(snapshot, path, progress or no_progress)

    def _is_last(self, since: int) -> bool:
        stamp = self._check_there()
        link = self._take()
        try:
            return stamp == link.stamp and link.is_last(since)
        except sqlite3.Error:  # the read that follows will say what it is
            link.is_sound = False
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

    def _look(self) -> tuple[tuple[int, int], Stamp]:
        try:
            found = os.stat(self._path)
        except (FileNotFoundError, NotADirectoryError):
            raise HistoryGone("the file is no longer there", store=self.url) from None
        except OSError as error:
            raise files.store_error(self._path, error) from error
        return (found.st_dev, found.st_ino), Stamp(found.st_size, found.st_mtime_ns)

    def _check_there(self) -> Stamp:
        """Raises HistoryGone if the path is no longer the file that was opened."""
        identity, stamp = self._look()
        if identity != self._identity:
            raise HistoryGone("another file has taken its place", store=self.url)
        return stamp

    def _check_history(self, snapshot: SQLiteSnapshot) -> None:
        """First thing in a transaction: raises HistoryGone if what is known here is not in it."""
        # One at a time, and what is known is written down after its commit: so each snapshot is
        # from after all that was known when it was taken.
        with self._known_lock:
            known = self._known
            is_there = snapshot.begin(known)
            if snapshot.store_id != self._store_id:
                raise HistoryGone("another store has taken its place", store=self.url)
            if not is_there:
                raise HistoryGone(
                    f"change {known.revision} was taken back, by an older file or a backup that "
                    "was put in its place",
                    store=self.url,
                )
            # Unless a call in the midst of this one, of the same thread, knows of a later one.
            if snapshot.last.revision >= self._known.revision:
                self._known = snapshot.last

    # Whoever writes over the file without SQLite leaves the log, and what connections remember,
    # as they are: both would go on hiding it. Only a checkpoint changes the file otherwise, and
    # never to an earlier revision. Nothing shrinks it but VACUUM, which writes a fitting header
    # first; but one that is being made longer may have a header that is ahead of it.

    def _look_first(self, link: Link, stamp: Stamp) -> None:
        if _size(f"{self._file}-wal"):
            self._look_closer(link, stamp)
            return
        # All that is known here is in the file itself.
        (page,) = link.db.execute("PRAGMA page_size").fetchone()
        ours = sqlite_rows.label(self._store_id)
        self._seen = stamp, Peek(sqlite_rows.APPLICATION_ID, ours, page, self._known.revision)
        link.stamp = stamp

    def _look_closer(self, link: Link, stamp: Stamp) -> None:
        """Called when the file was written to: raises if by anything but a checkpoint."""
        link.drop_pages()
        seen = self._seen
        if seen is None or stamp != seen[0]:
            found = self._peek(stamp)
            if found is None:
                return
            # Where a backup was restored, the file is still ahead of its log.
            self._seen = stamp, found._replace(revision=min(found.revision, self._known.revision))
        link.stamp = stamp

    def _peek(self, stamp: Stamp) -> Peek | None:
        """None if it cannot be told at this instant."""
        if self._seen is None:
            with suppress(sqlite3.Error):
                return sqlite_link.peek(self._file)
            return None
        before, seen = self._seen
        is_shorter = stamp.size < before.size
        try:
            found = sqlite_link.peek(self._file)
        except sqlite3.Error as error:
            if is_shorter or is_no_database(error):
                raise self._cut_off(stamp) if is_shorter else self._store_error(error) from error
            return None
        if is_shorter and (not stamp.size or stamp.size % found.page):
            raise self._cut_off(stamp)
        ours = (sqlite_rows.APPLICATION_ID, sqlite_rows.label(self._store_id))
        if found[:2] not in (ours, seen[:2]):
            raise HistoryGone("another file was written over it", store=self.url)
        if found.revision < seen.revision:
            raise HistoryGone("an older file was written over it", store=self.url)
        return found

    def _cut_off(self, stamp: Stamp) -> StoreCorrupt:
        return StoreCorrupt(self._path, f"it was cut off at {stamp.size:,} bytes")

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
