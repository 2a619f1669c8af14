"""Backing up a store into one file, while others write to it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import cast

from ..clock import SECOND
from ..errors import StoreError
from . import values
from .base import ConversationStore
from .core import BUSY_TIMEOUT
from .files import Claim, FileLock, create_private, fsync_directory, path_of, store_error
from .journal import read_file
from .reports import BackedUp, BackupReport, Progress


def backup_store(
    store: ConversationStore,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BackupReport:
    """Write all that ``store`` holds into the new file ``path``; others may go on writing.

    Only its owner can read it. It appears at one instant, complete and on the disk; killed
    before that, the next backup to that path removes what was begun. To restore it, open it as a
    store, in its place or put where the store was.

    Raises StoreError if there is a file already (unless ``overwrite``), if what lies beside it
    belongs to a store that was not closed, or if that kind of store has no backup.
    """
    values.a_store(store, "what is backed up")
    if not hasattr(store, "write_backup"):
        lacks = "it has no write_backup(), nor snapshot() to be copied by; see BackedUp and "
        lacks += "Copyable in pytest_claude_comms.stores.reports"
        copies = "copy_store() copies it into a store that has a file"
        instead = copies if hasattr(store, "snapshot") else lacks
        raise StoreError(f"{store.url} cannot be backed up into a file: {instead}")
    given = os.path.abspath(path_of(path))
    name = os.path.realpath(given)
    _refuse_own(store, name)
    _refuse_other_than_file(name)
    # The lock of the store that the backup will be, once it is opened: nobody opens it meanwhile.
    had_lock = os.path.exists(f"{name}.lock")
    lock = FileLock(f"{name}.lock")
    claim = lock.claim()
    try:
        if not had_lock:
            create_private(lock.path)
        claim.acquire(store.clock, round(BUSY_TIMEOUT * SECOND), given)
        try:
            size = _write(cast("BackedUp", store), name, overwrite=overwrite, progress=progress)
        except OSError as error:
            raise store_error(given, error) from error
    finally:
        try:
            _let_go(lock, claim, keep=had_lock)
        except BaseException:  # interrupted: what was not done yet is done now
            _let_go(lock, claim, keep=had_lock)
            raise
    return BackupReport(source=store.url, path=given, bytes=size)


def _let_go(lock: FileLock, claim: Claim, *, keep: bool) -> None:
    """``keep``: the lock's file, which otherwise was made for this backup."""
    try:
        # Only who holds it may delete it: it may be the lock of somebody's store by now.
        with suppress(OSError, StoreError):
            if not keep and os.path.exists(lock.path) and _holds(claim):
                os.unlink(lock.path)
    finally:
        claim.release()
        lock.close()


def _holds(claim: Claim) -> bool:
    try:
        return claim.try_acquire()
    except RuntimeError:  # it does already
        return True


def _refuse_own(store: ConversationStore, name: str) -> None:
    own = os.path.realpath(store.url.partition("///")[2])
    if _is_same(name, own):
        raise StoreError(f"{name} is the store itself: back it up into another file")
    for ending in _COMPANIONS:
        if _is_same(name, f"{own}{ending}"):
            raise StoreError(
                f"{name} is a file of the store itself, beside {own}: back it up into another file"
            )
        # The other way round: what is written, or swept away, beside the backup would be it.
        if _is_same(f"{name}{ending}", own):
            raise StoreError(
                f"the store {own} has the name of a file that belongs beside {name}: back it up "
                "under another name"
            )


_SQLITES = ("-wal", "-shm", "-journal")
_COMPANIONS = (
    *_SQLITES, ".journal", ".lock", ".new", ".journal.new", ".backup",
    *(f".backup{ending}" for ending in _SQLITES),
)  # fmt: skip
"""What a store, or a backup of it, has beside its file, now or at another moment."""


def _is_same(one: str, other: str) -> bool:
    if one == other:
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there
        return False


def _refuse_other_than_file(name: str) -> None:
    if os.path.isdir(name):
        raise StoreError(f"{name} is a directory: name a file, in it or elsewhere")
    if os.path.lexists(name) and not os.path.isfile(name):
        raise StoreError(
            f"{name} is no regular file (but a pipe, a socket or a device), which a backup "
            "cannot take the place of: choose another name"
        )


def _write(store: BackedUp, name: str, *, overwrite: bool, progress: Progress | None) -> int:
    _refuse_taken(name, overwrite=overwrite)
    temporary = f"{name}.backup"
    for ending in ("", *_SQLITES):
        with suppress(FileNotFoundError):
            os.unlink(f"{temporary}{ending}")  # under the lock: it is of a backup that was killed
    try:
        create_private(temporary)
        store.write_backup(temporary, progress=progress)
        _sync(temporary)
        size = os.stat(temporary).st_size
        _refuse_taken(name, overwrite=overwrite)
        _place(temporary, name, overwrite=overwrite)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    try:
        fsync_directory(os.path.dirname(name))
    except OSError as error:
        raise StoreError(
            f"{name}: {error.strerror or error}; the backup is there, a power cut may undo that",
            outcome="unknown",
        ) from error
    return size


def _refuse_taken(name: str, *, overwrite: bool) -> None:
    _refuse_other_than_file(name)
    if os.path.lexists(name) and not overwrite:
        raise StoreError(
            f"{name} exists already: choose another name, or say to overwrite it "
            "(overwrite=True; --overwrite on the command line)"
        )
    # SQLite's log is there, however empty, as long as somebody has the store open: what they
    # write next would go into it, and be taken for the backup's.
    for ending in ("-wal", "-shm"):
        if os.path.lexists(f"{name}{ending}"):
            raise _not_closed(f"{name}{ending}")
    for ending in ("-journal", ".journal"):
        if _holds_changes(f"{name}{ending}"):
            raise _not_closed(f"{name}{ending}")


def _not_closed(beside: str) -> StoreError:
    return StoreError(
        f"{beside} belongs to a store that is open or was not closed, and would be taken for the "
        "backup's: close that store everywhere (if nobody has it open, open and close it once "
        "more), or choose another name"
    )


def _holds_changes(path: str) -> bool:
    with suppress(OSError):
        if not path.endswith(".journal"):  # SQLite's: to be looked at from outside only
            return os.stat(path).st_size > 0
        return read_file(path)[1].count(b"\n") > 1  # of a store that was closed: one line
    return False


def _place(temporary: str, name: str, *, overwrite: bool) -> None:
    if not overwrite:
        # Unlike a rename, a link never takes the place of what somebody has just put there.
        try:
            os.link(temporary, name)
        except FileExistsError:
            _refuse_taken(name, overwrite=False)
            raise
        except (OSError, NotImplementedError):  # a file system without links
            pass
        else:
            with suppress(OSError):  # the backup is there; the next one removes the other name
                os.unlink(temporary)
            return
    os.replace(temporary, name)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
