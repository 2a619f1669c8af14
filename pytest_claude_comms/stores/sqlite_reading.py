"""A store in a SQLite file, opened to be looked at: nothing on the disk changes by it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NoReturn, TypeVar

from ..clock import Clock
from ..errors import HistoryGone, StoreBusy, StoreCorrupt, StoreError
from ..records import Changes, ConversationThread, Message
from . import sqlite_rows
from .base import MessageLike, StatusLike, ThreadLike
from .files import refuse_other_than_file
from .sqlite import SQLiteConversationStore
from .sqlite_link import Link
from .sqlite_quiet import Files, files_of, opened
from .sqlite_rows import SQLiteSnapshot

if TYPE_CHECKING:
    from .reports import Progress, StoreSnapshot

_T = TypeVar("_T")


class SQLiteReader(SQLiteConversationStore):
    """The store at ``path`` as it is, which others may be writing; every write is a StoreError.

    Where nobody has it open it is read as a file that cannot change, and again if it did: so no
    ``-wal``, ``-shm`` or ``.lock`` comes to be, and a log that a kill left stays. Where somebody
    has it open, that is a connection for each call: should the last of them close it during a
    call, the log stays behind, as after a kill.
    """

    _link: Link | None = None
    _stack = ExitStack()
    _files: Files = ()
    _is_frozen = False

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        super().__init__(path, clock=clock, durability="process")

    def _open(self) -> None:
        refuse_other_than_file(self._file, self._path)
        try:
            self._identity = self._look()[0]
        except HistoryGone as error:
            raise StoreError(f"there is no store at {self._path}") from error
        self.cursor()

    def _close(self) -> None:
        self._drop()
        super()._close()

    def _drop(self) -> None:
        self._link = None
        stack, self._stack = self._stack, ExitStack()
        stack.close()

    # -- reading

    @contextmanager
    def _reading(self) -> Iterator[SQLiteSnapshot]:
        self._check_there()
        try:
            link = self._connected()
            link.db.execute("BEGIN")
            if not self._store_id:
                self._refuse_cut_page(link)
                found = sqlite_rows.identify(link.db, self._path)
                if found is None:
                    raise StoreCorrupt(self._path, "it is empty: no store was laid out in it")
                self._store_id = found
            snapshot = SQLiteSnapshot(link, self._path, self._texts)
            self._check_history(snapshot)
            yield snapshot
        except sqlite3.Error as error:
            raise self._store_error(error) from error
        finally:
            if self._link is not None:
                self._link.rollback()
                self._link.rest()
            if not self._is_frozen:
                self._drop()

    def _connected(self) -> Link:
        if self._link is None:
            self._files = files_of(self._file)
            self._stack = ExitStack()
            self._link, self._is_frozen = self._stack.enter_context(opened(self._file, self._files))
        else:
            self._link.take()
        return self._link

    def _again(self, read: Callable[[], _T]) -> _T:
        """What ``read`` returns, from one state of the file."""
        patience = None
        while True:
            try:
                found = read()
                if not self._was_torn():
                    return found
            except StoreBusy:
                pass  # nothing was changed, try again
            except Exception:
                if not self._was_torn():
                    raise
            # Somebody has opened it, so that SQLite now keeps what is read apart.
            self._drop()
            self._check_there()
            patience = patience or self.clock.backoff(self._bound_us)
            if not patience.pause():
                raise StoreBusy(self._path, patience.waited)

    def _was_torn(self) -> bool:
        """Whether a file that was taken for one that cannot change has changed meanwhile."""
        return self._is_frozen and files_of(self._file) != self._files

    def _is_last(self, since: int) -> bool:
        return False

    def get_thread(self, thread: ThreadLike) -> ConversationThread:
        return self._again(lambda: SQLiteConversationStore.get_thread(self, thread))

    def threads(self) -> list[ConversationThread]:
        return self._again(lambda: SQLiteConversationStore.threads(self))

    def get_message(self, message: MessageLike) -> Message:
        return self._again(lambda: SQLiteConversationStore.get_message(self, message))

    def messages(
        self,
        thread_id: ThreadLike | None = None,
        status: StatusLike | Collection[StatusLike] | None = None,
    ) -> list[Message]:
        return self._again(lambda: SQLiteConversationStore.messages(self, thread_id, status))

    def changes(
        self, since: int = 0, *, limit: int | None = None, message: MessageLike | None = None
    ) -> Changes:
        return self._again(
            lambda: SQLiteConversationStore.changes(self, since, limit=limit, message=message)
        )

    def cursor(self) -> int:
        return self._again(lambda: SQLiteConversationStore.cursor(self))

    def next_deadline_us(self) -> int | None:
        return self._again(lambda: SQLiteConversationStore.next_deadline_us(self))

    def snapshot(self) -> StoreSnapshot:
        return self._again(lambda: SQLiteConversationStore.snapshot(self))

    def write_backup(self, path: str, *, progress: Progress | None = None) -> None:
        self._again(lambda: SQLiteConversationStore.write_backup(self, path, progress=progress))

    # -- no writing

    @contextmanager
    def _writing(self) -> Iterator[NoReturn]:
        raise StoreError(f"{self.url} was opened for reading only")
        yield
