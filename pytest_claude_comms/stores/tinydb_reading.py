"""Conversations in a TinyDB file, opened to be looked at: nothing on the disk changes by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeAlias

from ..clock import Clock
from ..errors import HistoryGone, StoreError
from .files import refuse_other_than_file
from .journal import Contents, Place, Stamp, stamp_of
from .tinydb import TinyDBConversationStore, _marks, _settled, _View
from .tinydb_image import Checkpoint

_Stamps: TypeAlias = tuple[Stamp, Stamp | None]


class TinyDBReader(TinyDBConversationStore):
    """The store at ``path`` as it is, which others may be writing; every write is a StoreError.

    Reading needs no lock (see tinydb.py), so no ``.lock`` or ``.journal`` comes to be, and what a
    kill left in the journal is read and stays there. A backup, which has no journal, is read
    under the id that is in it; it gets one of its own from whoever opens it to write.
    """

    _stamps: _Stamps | None = None

    def __init__(self, path: str | os.PathLike[str], *, clock: Clock | None = None) -> None:
        self._store_id = ""
        super().__init__(path, clock=clock, durability="process")

    def _open(self) -> None:
        refuse_other_than_file(self._path, self._path)
        try:
            with self._guard:
                self._refresh()
        except HistoryGone as error:
            raise StoreError(f"there is no store at {self._path}") from error

    def _refresh(self) -> _View:
        if self._gone:
            raise HistoryGone(self._gone, store=self.url)
        with self._disk():
            view, stamps = self._view, self._look()
            if view is None or stamps != self._stamps:
                # The stamps are from before the files were read: what changes meanwhile shows.
                view = self._view = _settled(self._load)
                self._stamps = stamps
        return view

    def _look(self) -> _Stamps:
        try:
            journal = stamp_of(os.stat(self._journal.path))
        except FileNotFoundError:
            journal = None
        return stamp_of(os.stat(self._path)), journal

    def _load(self) -> _View:
        try:
            contents = self._journal.read()
        except FileNotFoundError:
            contents = None
        found = self._read_checkpoint()
        if found is None or found[0].store_id is None:
            if self._store_id:
                self._lose("its file was emptied")
            raise StoreError(f"{self._path} is no conversation store")
        checkpoint, stamp = found
        store_id = str(checkpoint.store_id)
        if self._store_id and store_id != self._store_id:
            self._lose("another store is in its place")
        self._store_id = store_id
        if contents is not None and self._goes_on(checkpoint, contents):
            return self._joined(contents, checkpoint, stamp)
        return _View(checkpoint.image(), stamp, Place((0, 0), 0, 0, checkpoint.mark))

    def _goes_on(self, checkpoint: Checkpoint, contents: Contents) -> bool:
        """Whether the journal has what came after the checkpoint. Raises StoreCorrupt."""
        if contents.store_id == checkpoint.store_id:
            if checkpoint.mark in _marks(contents):
                return True
            if contents.place.mark.seq < checkpoint.mark.seq:  # all in the checkpoint
                return False
        what = f"goes up to change {checkpoint.mark.seq}, not where it begins"
        self._check_empty(contents, what)
        return False

    def _is_last(self, since: int) -> bool:
        return False

    @contextmanager
    def _locked(self) -> Iterator[NoReturn]:
        raise StoreError(f"{self.url} was opened for reading only")
        yield

    def _close(self) -> None:
        self._lock.close()
        self._view = None
