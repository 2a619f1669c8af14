"""Backing up a store into one file, while others write to it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import cast

from ..clock import SECOND
from ..errors import StoreError
from .base import ConversationStore
from .core import BUSY_TIMEOUT
from .files import FileLock, create_private, fsync_directory, path_of, store_error
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
    if not hasattr(store, "write_backup"):
        instead = "copy_store() copies it into a store that has a file"
        raise StoreError(f"{store.url} cannot be backed up into a file: {instead}")
    given = os.path.abspath(path_of(path))
    name = os.path.realpath(given)
    # The lock of the store that the backup will be, once it is opened: nobody opens it meanwhile.
    had_lock = os.path.exists(f"{name}.lock")
    if not had_lock:
        create_private(f"{name}.lock")
    lock = FileLock(f"{name}.lock")
    _refuse_own(store, name)
    try:
        with lock.held(store.clock, round(BUSY_TIMEOUT * SECOND), given):
            try:
                size = _write(cast("BackedUp", store), name, overwrite=overwrite, progress=progress)
            except OSError as error:
                raise store_error(given, error) from error
            finally:
                if not had_lock:
                    with suppress(OSError):
                        os.unlink(lock.path)
    finally:
        lock.close()
    return BackupReport(source=store.url, path=given, bytes=size)


def _refuse_own(store: ConversationStore, name: str) -> None:
    own = os.path.realpath(store.url.partition("///")[2])
    if name == own or (
        os.path.exists(name) and os.path.exists(own) and os.path.samefile(name, own)
    ):
        raise StoreError(f"{name} is the store itself: back it up into another file")


def _write(store: BackedUp, name: str, *, overwrite: bool, progress: Progress | None) -> int:
    _refuse_taken(name, overwrite=overwrite)
    temporary = f"{name}.backup"
    with suppress(FileNotFoundError):
        os.unlink(temporary)  # under the lock: it is of a backup that was killed
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
    fsync_directory(os.path.dirname(name))
    return size


def _refuse_taken(name: str, *, overwrite: bool) -> None:
    if os.path.lexists(name) and not overwrite:
        raise StoreError(f"{name} exists already: choose another name, or say to overwrite it")
    if os.path.isdir(name):
        raise StoreError(f"{name} is a directory, not a file to overwrite")
    for ending in ("-wal", "-journal", ".journal"):
        if _holds_changes(f"{name}{ending}"):
            raise StoreError(
                f"{name}{ending} belongs to a store that is open or was not closed, and would "
                "be taken for the backup's: close that store, or choose another name"
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
            os.unlink(temporary)
            return
    os.replace(temporary, name)


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
