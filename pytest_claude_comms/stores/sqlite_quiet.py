"""Reading a SQLite file so that what lies on the disk stays as it is.

SQLite puts ``-wal`` and ``-shm`` beside a file even for a connection that only reads it, and
whoever closes a file last copies its log into it. Here neither happens.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TypeAlias

from .files import create_private
from .sqlite_link import Link, is_busy, kept_closed

Files: TypeAlias = tuple[tuple[int, int, int], ...]


def files_of(path: str) -> Files:
    """Of the file and its log: inode, size and time of change; zeros where nothing is in it."""
    stats = []
    for ending in ("", "-wal"):
        try:
            found = os.stat(f"{path}{ending}")
        except FileNotFoundError:
            found = None
        if found is None or (ending and not found.st_size):  # who opens it puts an empty log there
            stats.append((0, 0, 0))
        else:
            stats.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return tuple(stats)


@contextmanager
def opened(path: str, files: Files, *, patience: float = 0.0) -> Iterator[tuple[Link, bool]]:
    """A connection for reading, and whether the file is taken for one that nobody can change.

    If it is, what was read counts only as long as ``files_of(path)`` is still ``files``.
    ``patience`` is in seconds. Raises sqlite3.Error, OSError.
    """
    # They are there as long as somebody has the store open, and after a kill.
    if os.path.exists(f"{path}-wal") and os.path.exists(f"{path}-shm"):
        with closing(_beside_others(path, patience)) as link:
            yield link, False
    elif files[1][1]:  # a log alone: put there by hand
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            copy = os.path.join(folder, "copy")
            with kept_closed(path) as is_closed:
                if not is_closed:
                    raise sqlite3.OperationalError("database is locked (it has just been opened)")
                try:
                    copy_files(path, copy)
                except FileNotFoundError:
                    if not os.path.exists(path):
                        raise
                    # Who had it open last put the log into the file, and left.
                    raise sqlite3.OperationalError("database is locked (its log went)") from None
            with closing(Link(copy, "process", timeout=patience)) as link:
                yield link, True
    else:
        with closing(Link(path, "process", "ro&immutable=1", timeout=patience)) as link:
            yield link, True


def _beside_others(path: str, patience: float) -> Link:
    # After a kill SQLite would make the index of the log anew, but for this.
    link = Link(path, "process", "ro&readonly_shm=1", timeout=patience)
    try:
        link.db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.OperationalError as error:
        link.close()
        if is_busy(error):
            raise
        # The index has no place for one who may not write down what he reads.
        return Link(path, "process", "ro", timeout=patience)
    except sqlite3.DatabaseError:
        pass  # what is wrong with it, whoever reads it will say
    return link


def copy_files(path: str, copy: str) -> None:
    """Copy the file and its log, byte by byte; to be called inside :func:`kept_closed`.

    The copies are private whatever the umask: they are as secret as what they are copies of.
    """
    import shutil  # not at the door: 'status' reads stores in this way, and copies none

    for ending in ("", "-wal"):
        if not ending or os.path.exists(f"{path}{ending}"):
            create_private(f"{copy}{ending}")
            shutil.copyfile(f"{path}{ending}", f"{copy}{ending}")
