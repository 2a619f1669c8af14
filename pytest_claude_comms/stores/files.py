"""What file stores share: a lock between processes, and files that only their owner can read."""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from weakref import WeakSet

from ..clock import Clock
from ..errors import StoreBusy, StoreError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_OPEN_FLAGS = os.O_RDWR | getattr(os, "O_BINARY", 0)
UNWRITABLE = (
    "whoever opens a store needs to write to its file, its folder and the lock file beside it: "
    "change their permissions, or name another place"
)
"""The way out where a file or a folder may not be written."""
_NO_PLACE = "no file can be there: name another place"
_WAYS_OUT = {
    errno.EACCES: UNWRITABLE,
    errno.EPERM: UNWRITABLE,
    errno.EROFS: UNWRITABLE,
    errno.ENOENT: _NO_PLACE,
    errno.ENOTDIR: _NO_PLACE,
    errno.ENAMETOOLONG: _NO_PLACE,
}
_MUTEX_SECONDS = 0.1
"""Real seconds to wait for another thread, which holds the lock for one commit only."""


def store_error(path: str, error: OSError) -> StoreError:
    """What to raise instead of ``error``, which nothing was changed by."""
    way_out = _WAYS_OUT.get(error.errno or 0)
    said = f"{path}: {error.strerror or error}"
    return StoreError(said if way_out is None else f"{said}; {way_out}")


def is_writable(path: str) -> bool:
    """Whether a store at ``path`` could be written, as far as permissions go."""
    folder = os.path.dirname(path)
    return os.access(folder, os.W_OK | os.X_OK) and (
        not os.path.exists(path) or os.access(path, os.R_OK | os.W_OK)
    )


def path_of(path: str | os.PathLike[str]) -> str:
    """``path`` as a str. Raises TypeError for bytes, ValueError for what can name no file."""
    given = os.fspath(path)
    if not isinstance(given, str):
        raise TypeError(f"path must be a str or a path of one, not {path!r}")
    if "\0" in given:
        raise ValueError(f"the path {given!r} has a NUL character, which no file's name can have")
    if given.startswith(("sqlite://", "tinydb://")):
        # As a path it would be a folder called "sqlite:".
        raise ValueError(f"{given!r} is a URL, and a path is needed here: comms.db, not {given!r}")
    return given


def refuse_other_than_file(path: str, name: str) -> None:
    """Raise StoreError naming ``name`` where there is something that can be no store: reading a
    pipe has no end, and a device would be replaced by a file."""
    if os.path.isdir(path):
        raise StoreError(f"{name} is a directory, not a conversation store")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreError(
            f"{name} is no regular file (but a pipe, a socket or a device), so it can be no "
            "conversation store: name another file"
        )


def create_private(path: str) -> bool:
    """Create an empty file that only its owner can read or write, whatever the umask.

    Returns False if there is something at ``path`` already, which is left alone. Directories
    that are missing are created, for their owner only. Raises StoreError.
    """
    try:
        _create_parents(os.path.dirname(os.path.abspath(path)))
        os.close(_create(path))
    except FileExistsError:
        return False
    except OSError as error:
        raise store_error(path, error) from error
    return True


def _create(path: str) -> int:
    descriptor = os.open(path, _OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if sys.platform != "win32" and stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
            os.fchmod(descriptor, 0o600)  # the umask took some of it
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _create_parents(directory: str) -> None:
    if os.path.isdir(directory):
        return
    above = os.path.dirname(directory)
    if above != directory:
        _create_parents(above)
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        if not os.path.isdir(directory):
            raise NotADirectoryError(errno.ENOTDIR, f"{directory} is not a directory") from None
        return
    os.chmod(directory, 0o700)
    fsync_directory(above)


def fsync_directory(path: str) -> None:
    """Make the names in a directory survive a power cut. Windows does so by itself.

    Raises OSError, not StoreError: what that means to a change, its caller knows.
    """
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLock:
    """Mutual exclusion of all threads and processes that lock the same file.

    The file is private, created when first needed and never deleted: whoever waits has it
    open. Nothing is held while waiting, so that a holder in this process can go on. Held by a
    thread: one that holds it must not ask for it again. Let go of by the call that asked for it
    (:class:`Claim`), not by another one in its midst, as a signal handler or a finalizer makes it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor: int | None = None
        # Re-entrant only because its release is refused to a thread that does not hold it,
        # so that clean-up after an interrupt need not know how far it had come.
        self._mutex = threading.RLock()
        self._owner: int | None = None
        self._closes_with_its_call = False
        _locks.add(self)

    def claim(self) -> Claim:
        """What a call takes the lock by, and lets go of it."""
        return Claim(self)

    @contextmanager
    def held(self, clock: Clock, bound_us: int, name: str) -> Iterator[None]:
        """Hold the lock inside a ``with`` block; see :meth:`Claim.acquire`."""
        claim = Claim(self)
        try:
            claim.acquire(clock, bound_us, name)
            yield
        finally:
            try:
                claim.release()
            except BaseException:  # even a call's first step can be interrupted
                claim.release()
                raise

    def _take(self) -> bool:
        try:
            if not self._mutex.acquire(timeout=_MUTEX_SECONDS):
                return False
            self._owner = threading.get_ident()
            return self._lock_file()
        except OSError as error:
            raise store_error(self.path, error) from error

    def _let_go(self) -> None:
        if self._owner == threading.get_ident():
            if self._descriptor is not None:
                try:
                    _unlock(self._descriptor)
                except OSError:  # as seen on network file systems
                    self._close_file()  # lets go too; the next one to lock opens it again
            if self._closes_with_its_call:
                self._close_file()
                self._closes_with_its_call = False
            self._owner = None
        with suppress(RuntimeError):
            self._mutex.release()

    def close(self) -> None:
        """Close the file, or have the call of this thread that holds the lock do so in the end.
        The next claim would open it again."""
        with self._mutex:
            if self._owner == threading.get_ident():
                self._closes_with_its_call = True
            else:
                self._close_file()

    def _refuse_twice(self) -> None:
        if self._owner == threading.get_ident():
            raise RuntimeError(f"this thread holds the lock {self.path} already")

    def _lock_file(self) -> bool:
        while True:
            if self._descriptor is None:
                with _opening:
                    self._descriptor = self._open()
            if not _lock(self._descriptor):
                return False
            if self._is_current(self._descriptor):
                return True
            self._close_file()

    def _open(self) -> int:
        with suppress(FileExistsError):
            return _create(self.path)
        return os.open(self.path, _OPEN_FLAGS | os.O_CREAT, 0o600)

    def _is_current(self, descriptor: int) -> bool:
        # Somebody may have deleted the file: others would then lock another one.
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _close_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # No call comes before it, in which a signal handler could raise.
            try:  # noqa: SIM105
                os.close(descriptor)
            except OSError:  # it is closed all the same, and nothing was written to it
                pass

    def _forget(self) -> None:
        # In the child of a fork. Closing leaves the parent's lock alone, unlocking would not;
        # and a copy left open would hold the lock on after the parent's death.
        self._mutex = threading.RLock()
        self._owner = None
        self._close_file()

    def __del__(self) -> None:
        try:  # noqa: SIM105 - at the interpreter's end modules are gone, contextlib too
            self._close_file()
        except Exception:  # noqa: BLE001, S110
            pass


class Claim:
    """One call's use of a :class:`FileLock`, on the thread that makes it."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self._asked = False
        """Whether there may be something to let go of."""

    def acquire(self, clock: Clock, bound_us: int, name: str) -> None:
        """Take the lock, waiting on ``clock`` while somebody else has it.

        Raises StoreBusy naming ``name`` once ``clock.backoff(bound_us)`` gives up, StoreError
        where the file cannot be opened, RuntimeError if this thread holds the lock already.
        """
        if self.try_acquire():
            return
        backoff = clock.backoff(bound_us)
        while backoff.pause():
            if self.try_acquire():
                return
        raise StoreBusy(name, backoff.waited)

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it, or has it only for the moment."""
        self._lock._refuse_twice()
        taken = False
        try:
            self._asked = True
            taken = self._lock._take()
        finally:
            if not taken:
                self.release()
        return taken

    def release(self) -> None:
        """Let go of the lock. Nothing happens where this claim has not taken it.

        No OSError comes out of it: what was done under the lock has been done.
        """
        try:
            self._release()
        except BaseException:  # interrupted half way: all of it may be done again
            self._release()
            raise

    def _release(self) -> None:
        if self._asked:
            self._lock._let_go()
            self._asked = False


if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        with suppress(PermissionError):  # it was not locked
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


_locks: WeakSet[FileLock] = WeakSet()
_opening = threading.RLock()
"""Held while a lock's file is opened: a copy that a child does not know of would stay open."""


def _forget_locks() -> None:
    for lock in list(_locks):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_opening.acquire)
    os.register_at_fork(after_in_parent=_opening.release)
    os.register_at_fork(after_in_child=_opening._at_fork_reinit)  # type: ignore[attr-defined]
    # Twice: a signal handler's exception may come out of any line of it, and would only be printed.
    os.register_at_fork(after_in_child=_forget_locks)
    os.register_at_fork(after_in_child=_forget_locks)
