"""Conversations in a TinyDB file that survives kills and is shared between processes.

Three files: the JSON file, which any TinyDB can open at any time and which holds all up to the
last checkpoint; ``.journal`` beside it, to which each change is appended; ``.lock``, which every
writer holds. Each process keeps the whole store in memory and reads what others append.

**Why reading needs no lock.** A checkpoint replaces the JSON file first and the journal after
it, both at one instant each. A reader takes the journal first: J, then the JSON file C.

- C of J's time: J goes on from C.
- C newer than J: C was made under the lock, from all that its own journal then held. If that was
  J, J's changes end at C's mark or behind it, and those up to it are skipped: what a kill
  between the two replacements leaves behind. If it was a later journal, J ends before C's mark.
- C older than J cannot be: J was there when C was read, and C's successor before J.

So J and C belong together exactly if C's mark is one of J's; else both are read again. Every
change that was committed when the reading began is in J, or in a C that replaced it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn, TypeVar, get_args

from ..clock import SECOND, Clock, SystemClock
from ..errors import HistoryGone, StoreCorrupt, StoreError
from ..redaction import Redact
from .base import Durability
from .core import BUSY_TIMEOUT
from .files import (
    FileLock,
    create_private,
    fsync_directory,
    path_of,
    refuse_other_than_file,
    store_error,
)
from .hub import hub_of
from .journal import (
    BEGINNING,
    Contents,
    Journal,
    Mark,
    Op,
    Place,
    Rewritten,
    Stamp,
    file_of,
    fill_file,
    read_file,
    replace_file,
    stamp_of,
)
from .keeping import KeepingStore
from .tinydb_image import OURS, Checkpoint, Documents, Image, Ledger, joined, parse
from .tinydb_rows import NONSENSE
from .tinydb_tables import Draft, StoreDB

if TYPE_CHECKING:
    from .reports import Progress, StoreSnapshot

_T = TypeVar("_T")

_CLOSE_PATIENCE_US = SECOND
_SETTLE_US = SECOND // 4
_NOT_NOW = (OSError, StoreError, RecursionError, MemoryError)
"""What a checkpoint may fail of after a change that was made."""


class _Unsettled(StoreError):
    """A file was changed while it was read."""


def _settled(read: Callable[[], _T]) -> _T:
    """What ``read`` returns, as soon as the files are not being replaced under it."""
    patience = None
    while True:
        try:
            return read()
        except (StoreCorrupt, _Unsettled):
            # Real time, and not the store's clock: this is about files in the hands of other
            # processes, and a lock is held that is no clock's.
            patience = patience or SystemClock().backoff(_SETTLE_US)
            if not patience.pause():
                raise


def _marks(contents: Contents) -> set[Mark]:
    return {contents.base, *(record.mark for record in contents.records)}


def _us(seconds: float) -> int:
    return round(seconds * SECOND)


@dataclass(slots=True)
class _View:
    """What this process knows, and which state of the two files it knows it from."""

    image: Image
    stamp: Stamp
    place: Place

    @property
    def has_journal(self) -> bool:
        return self.place.end > self.place.start


class TinyDBConversationStore(KeepingStore):
    """Conversations in the TinyDB file ``path``, created if it does not exist.

    A TinyDB file that is there already is taken over, and its tables kept, unless some of them
    are named as the store's are. ``durability``: see ``open_store``. Missing directories are
    created. Raises StoreError where the files cannot be read or written, StoreCorrupt where
    they are not those of a store.
    """

    backend = "tinydb"

    _checkpoint_bytes = 65_536
    """A journal of up to this size is not worth a checkpoint."""

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
        name = os.path.abspath(path_of(path))
        # What replaces a symbolic link would not replace what it points to.
        self._path = os.path.realpath(name)
        super().__init__(f"tinydb:///{name}", hub_of(self.backend, self._path), clock, redact)
        self._power = durability == "power"
        self._directory = os.path.dirname(self._path)
        self._temporary = f"{self._path}.new"
        self._journal = Journal(f"{self._path}.journal", beacon=self._path, power=self._power)
        self._lock = FileLock(f"{self._path}.lock")
        self._guard = threading.RLock()
        """Over all that follows. Nobody waits on a clock while holding it."""
        self._view: _View | None = None
        self._known = BEGINNING
        """The last change that was read or made here; it must stay in the history."""
        self._gone = ""
        self._retry_size = 0
        self._draft: tuple[int, Draft] | None = None
        self._db = StoreDB(_Desk(self))
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        self._register()

    @property
    def store_id(self) -> str:
        return self._store_id

    @property
    def db(self) -> StoreDB:
        """The store as a ``tinydb.TinyDB``: reads everything, writes your own tables."""
        self._check_usable()
        return self._db

    def checkpoint(self) -> None:
        """Bring the JSON file up to date, for those who read it with TinyDB itself.

        Happens by itself on close and whenever the journal has outgrown the file.
        """
        self._check_usable()
        with self._locked(), self._guard:
            view = self._refresh()
            if view.has_journal:
                with self._disk():
                    self._write_checkpoint(view)

    # -- opening

    def _open(self) -> None:
        refuse_other_than_file(self._path, self._path)
        create_private(self._lock.path)
        with self._lock.held(self.clock, _us(BUSY_TIMEOUT), self._path), self._guard:
            try:
                for path in (self._temporary, self._journal.temporary):
                    with suppress(FileNotFoundError):
                        os.unlink(path)
                self._view = _settled(self._enter)
            except OSError as error:
                raise store_error(error.filename or self._path, error) from error
            self._known = self._view.place.mark

    def _enter(self) -> _View:
        try:
            contents = self._journal.read()
        except FileNotFoundError:
            contents = None
        try:
            found = self._read_checkpoint()
        except FileNotFoundError:
            found = None
        if found is None:
            self._check_empty(contents, "is missing or empty")
            return self._begin(Image(), BEGINNING)
        checkpoint, stamp = found
        if checkpoint.store_id is None:
            checkpoint.check_unclaimed()
            self._check_empty(contents, "is no longer that of a store")
            return self._begin(checkpoint.image(), BEGINNING)
        self._store_id = checkpoint.store_id
        if contents is not None and contents.store_id == checkpoint.store_id:
            if checkpoint.mark in _marks(contents):
                return self._joined(contents, checkpoint, stamp)
            if contents.place.mark.seq < checkpoint.mark.seq:  # all in the checkpoint
                place = self._journal.start(checkpoint.store_id, checkpoint.mark)
                return _View(checkpoint.image(), stamp, place)
        self._check_empty(contents, f"goes up to change {checkpoint.mark.seq}, not where it begins")
        # What came after the checkpoint, if anything, is lost: cursors must not be believed.
        return self._begin(checkpoint.image(), checkpoint.mark)

    def _check_empty(self, contents: Contents | None, what: str) -> None:
        if contents is not None and contents.records:
            raise StoreCorrupt(
                self._journal.path,
                f"it holds {len(contents.records)} changes that belong to another {self._path}, "
                f"which {what}",
            )

    def _begin(self, image: Image, mark: Mark) -> _View:
        self._store_id = os.urandom(16).hex()
        stamp = self._write_file(image, mark)
        place = self._journal.start(self._store_id, mark)
        if self._power:
            fsync_directory(self._directory)
        return _View(image, stamp, place)

    # -- reading the files

    def _read_checkpoint(self) -> tuple[Checkpoint, Stamp] | None:
        """None if there is nothing in the file, as when TinyDB has just created it."""
        found, data = read_file(self._path)
        if stamp_of(found) != stamp_of(os.stat(self._path)):
            raise _Unsettled(f"{self._path} is being written by somebody else")
        return (parse(self._path, data), stamp_of(found)) if data.strip() else None

    def _joined(self, contents: Contents, checkpoint: Checkpoint, stamp: Stamp) -> _View:
        image = joined(checkpoint, contents, self._journal.path)
        return _View(image, stamp, contents.place)

    def _load(self) -> _View:
        # Before it is read: a call in the midst of this one, of the same thread, may commit.
        known = self._known
        contents = self._journal.read()
        found = self._read_checkpoint()
        if contents is None or found is None:
            self._lose("its file was emptied")
        checkpoint, stamp = found
        if not contents.store_id == checkpoint.store_id == self._store_id:
            self._lose("another store is in its place")
        marks = _marks(contents)
        if checkpoint.mark not in marks:
            raise StoreCorrupt(
                self._journal.path,
                f"it does not go on from change {checkpoint.mark.seq}, where {self._path} ends",
            )
        if contents.place.mark.seq < known.seq or (
            known.seq >= contents.base.seq and known not in marks
        ):
            self._lose(f"change {known.seq} was taken back: by a disk error, or an older file")
        return self._joined(contents, checkpoint, stamp)

    def _lose(self, reason: str) -> NoReturn:
        self._gone = reason
        raise HistoryGone(reason, store=self.url)

    # -- being current; all of it under the guard

    def _is_current(self, view: _View) -> bool:
        # Sizes and not times tell what was appended: several commits have one tick's time.
        journal = os.stat(self._journal.path)
        return (
            (journal.st_size == view.place.end or self._journal.is_cut(view.place, journal))
            and file_of(journal) == view.place.file
            and stamp_of(os.stat(self._path)) == view.stamp
        )

    def _refresh(self) -> _View:
        if self._gone:
            raise HistoryGone(self._gone, store=self.url)
        with self._disk():
            view = self._view
            if view is None or not self._is_current(view):
                view = self._read_on(view) or _settled(self._load)
                self._view = view
                if view.place.mark.seq >= self._known.seq:
                    self._known = view.place.mark
        return view

    def _read_on(self, view: _View | None) -> _View | None:
        """What was appended, where that is all that happened."""
        if view is None or stamp_of(os.stat(self._path)) != view.stamp:
            return None
        try:
            records, place = self._journal.read_on(view.place)
            self._view = None  # until it is whole again
            view.image.replay(record.ops for record in records)
        except (Rewritten, StoreCorrupt, *NONSENSE):
            return None  # a look at everything tells what it is
        view.place = place
        return view

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise HistoryGone(f"{error.filename} was deleted", store=self.url) from error
        except OSError as error:
            raise store_error(error.filename or self._path, error) from error

    @contextmanager
    def _reading(self) -> Iterator[Ledger]:
        with self._guard:
            yield self._refresh().image.state

    def _is_last(self, since: int) -> bool:
        with self._guard, suppress(OSError):
            view = self._view
            # In this order: a call in the midst of this one, of the same thread, may commit.
            return (
                view is not None and self._is_current(view) and since == view.image.state.revision()
            )
        return False

    # -- writing

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._draft_here() is not None:
            raise StoreError(
                f"{self.url} cannot be written inside a write to store.db: do one after the other"
            )
        self._check_there()
        with self._lock.held(self.clock, _us(BUSY_TIMEOUT), self._path):
            yield

    def _check_there(self) -> None:
        # Taking the lock of a deleted store would create its file anew.
        with self._disk():
            os.stat(self._path)
            os.stat(self._journal.path)

    @contextmanager
    def _writing(self) -> Iterator[Ledger]:
        with self._locked(), self._guard:
            view = self._refresh()
            ledger = view.image.state
            ledger.ops = []
            self._view = None  # whatever interrupts this leaves nothing half-made behind
            try:
                yield ledger
                if ledger.ops:
                    self._append(view, ledger.ops)
                    ledger.ops = []
            except BaseException:
                if not ledger.ops:
                    self._view = view
                raise
            self._view = view
            self._tidy(view)

    def _append(self, view: _View, ops: list[Op]) -> None:
        with self._disk():
            view.place = self._journal.append(view.place, ops)
        self._known = view.place.mark

    def _tidy(self, view: _View) -> None:
        """Make a checkpoint if the journal has outgrown the last one."""
        size = view.place.end
        if size > max(self._checkpoint_bytes, view.stamp.size, self._retry_size):
            self._retry_size = 2 * size
            # The change itself is kept; a disk that is full now may not be so later.
            with suppress(*_NOT_NOW):
                self._write_checkpoint(view)

    def _write_checkpoint(self, view: _View) -> None:
        stamp = self._write_file(view.image, view.place.mark)
        place = self._journal.start(self._store_id, view.place.mark)
        view.stamp, view.place = stamp, place
        self._retry_size = 0

    def _write_file(self, image: Image, mark: Mark) -> Stamp:
        data = image.dump(self._store_id, mark)
        found = replace_file(self._path, self._temporary, data, power=self._power)
        if self._power:
            # A power cut must not keep the journal that comes next and lose this.
            fsync_directory(self._directory)
        return stamp_of(found)

    # -- as a whole

    def _others(self) -> tuple[str, ...]:
        view = self._view
        return () if view is None else tuple(view.image.tables)

    def _restore(self, snapshot: StoreSnapshot, progress: Progress) -> None:
        state = Ledger()
        state.load(snapshot.threads, snapshot.messages, snapshot.changes, snapshot.trimmed)
        with self._rewriting() as image:
            self._refuse_if_used(image.state)
            image.state = state
        progress("writing", len(snapshot.changes), len(snapshot.changes))

    def _compact(self, keep: int | timedelta) -> tuple[int, int, str | None]:
        with self._rewriting() as image:
            removed = image.state.trim(self._floor(image.state, keep))
            trimmed = image.state.trimmed()
        return trimmed, removed, None

    @contextmanager
    def _rewriting(self) -> Iterator[Image]:
        """Give the file another past up to the same change, at one instant.

        The journal still goes on from that change. So whoever reads at any moment finds the old
        file or the new one, and both fit.
        """
        with self._locked(), self._guard:
            view = self._refresh()
            self._view = None  # until the file says the same
            yield view.image
            with self._disk():
                try:
                    view.stamp = self._write_file(view.image, view.place.mark)
                except OSError as error:
                    if self._is_still(view.stamp):
                        raise
                    raise StoreError(  # the new file is there, but a power cut may undo that
                        f"{self._path}: {error.strerror or error}; the change may have been made",
                        outcome="unknown",
                    ) from error
            self._view = view
            with suppress(*_NOT_NOW):  # what the new file holds is only skipped in it
                view.place = self._journal.start(self._store_id, view.place.mark)

    def _is_still(self, stamp: Stamp) -> bool:
        try:
            return stamp_of(os.stat(self._path)) == stamp
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError:  # nobody can tell what is there
            return False

    def _bytes(self) -> int:
        sizes = 0
        for path in (self._path, self._journal.path):
            with suppress(OSError):
                sizes += os.stat(path).st_size
        return sizes

    def write_backup(self, path: str, *, progress: Progress | None = None) -> None:
        """See :class:`.reports.BackedUp`."""
        self._check_usable()
        with self._guard:
            view = self._refresh()
            # Under an id of nobody's: it is not this store, also for who only looks into it.
            data = view.image.dump(os.urandom(16).hex(), view.place.mark)
        fill_file(path, data, power=self._power)
        if progress is not None:
            progress("writing", len(data), len(data))

    # -- the user's tables

    def _draft_here(self) -> Draft | None:
        """The draft that this thread is making."""
        draft = self._draft
        return draft[1] if draft is not None and draft[0] == threading.get_ident() else None

    @contextmanager
    def _drafting(self) -> Iterator[Draft]:
        with self._locked():
            with self._guard:
                draft = Draft(self._refresh().image)
            # Without the guard: what a user passes to update() may wait on the clock.
            self._draft = (threading.get_ident(), draft)
            try:
                yield draft
            finally:
                self._draft = None
            if ops := draft.ops():
                with self._guard:
                    view = self._refresh()
                    self._view = None
                    self._append(view, ops)
                    for op in ops:
                        view.image.change_table(op)
                    self._view = view
                    self._tidy(view)

    # -- its end

    def _close(self) -> None:
        try:
            # What cannot be written now is in the journal, for the next one who opens it.
            with suppress(StoreError, RuntimeError):  # RuntimeError: a call was interrupted
                self._check_there()
                with self._lock.held(self.clock, _CLOSE_PATIENCE_US, self._path), self._guard:
                    view = self._refresh()
                    if view.has_journal:
                        with self._disk():
                            self._write_checkpoint(view)
        finally:
            self._lock.close()
            self._view = None


class _Desk:
    def __init__(self, store: TinyDBConversationStore) -> None:
        self._store = store
        self.url = store.url

    def names(self) -> list[str]:
        self._store._check_usable()
        draft = self._store._draft_here()
        with self._store._guard:
            return draft.names() if draft is not None else self._store._refresh().image.names()

    def documents(self, name: str) -> Documents:
        self._store._check_usable()
        draft = self._store._draft_here()
        if draft is not None and name not in OURS:
            return draft.read(name)
        with self._store._guard:
            return self._store._refresh().image.documents(name)

    def drafting(self) -> AbstractContextManager[Draft]:
        self._store._check_usable()
        return self._store._drafting()
