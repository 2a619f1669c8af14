"""A store's files torn, deleted, or replaced by those of another store."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from .fault import Fault
from .faults_target import file_of, files_of, tell_watchers

if TYPE_CHECKING:
    from .faults_target import FileStore

_PARTS = {
    "sqlite": {"wal": "-wal", "database": ""},
    "tinydb": {"journal": ".journal", "checkpoint": ""},
}

# Both run in a process of their own. Should this one open and close a file that SQLite has open
# here, the system would drop the locks that SQLite holds on it.
_TEAR = """
import sys
path, keep, garbled = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "garbled"
with open(path, "r+b") as file:
    file.seek(keep)
    tail = file.read()
    file.seek(keep)
    if garbled:
        file.write(bytes(byte ^ 255 for byte in tail))
    else:
        file.truncate()
sys.stdout.buffer.write(tail)
"""
_MEND = """
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    file.write(sys.stdin.buffer.read())
"""


def _elsewhere(program: str, *arguments: str, data: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *arguments],
        input=data,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise OSError(None, done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return done.stdout


# -- torn


class Tear:
    """The end of one of a store's files, cut off or garbled, and put back."""

    def __init__(self, store: FileStore, keep: float, *, part: str | None, garbled: bool) -> None:
        parts = _PARTS[store.backend]
        self.part = next(iter(parts)) if part is None else part
        if self.part not in parts:
            raise ValueError(
                f"part= of a {store.backend} store is {' or '.join(parts)}, not {part!r}"
            )
        self._store = store
        self.path = f"{file_of(store)}{parts[self.part]}"
        self.size = _size(self.path)
        self.keep = _bytes_to_keep(keep, self.size, self.path)
        self._garbled = garbled
        self._is_mending = False

    def __str__(self) -> str:
        lost = f"the last {self.size - self.keep:,} of {self.size:,} bytes of {self.path}"
        return f"{lost} are {'garbled' if self._garbled else 'cut off'}"

    def do(self, fault: Fault) -> None:
        """Tear it; it is mended when ``fault`` is undone."""
        how = "garbled" if self._garbled else "cut"
        whole = os.stat(self.path)
        tail = _elsewhere(_TEAR, self.path, str(self.keep), how)
        torn = os.stat(self.path)
        fault.when_undone(lambda: self._mend(fault, tail, torn, whole))
        fault.meet()
        tell_watchers(self._store)

    def _mend(self, fault: Fault, tail: bytes, torn: os.stat_result, whole: os.stat_result) -> None:
        try:
            found = os.stat(self.path)
        except OSError:
            fault.notes.append("the file is gone, nothing was put back")
            return
        is_as_torn = found.st_size == torn.st_size and found.st_mtime_ns == torn.st_mtime_ns
        is_as_torn |= self._is_mending  # we were interrupted: it was we who wrote to it since
        # What a log was given since stands behind the gap: SQLite goes by its index in memory.
        is_log = self.part == "wal" and not self._store._closed
        if os.path.samestat(found, torn) and (is_as_torn or is_log):
            self._is_mending = is_as_torn
            _elsewhere(_MEND, self.path, str(self.keep), data=tail)
            if is_as_torn:  # so that one that tore it before sees that nobody wrote to it since
                os.utime(self.path, ns=(whole.st_atime_ns, whole.st_mtime_ns))
        else:
            fault.notes.append("the file was written to since, nothing was put back")


def _bytes_to_keep(keep: float, size: int, path: str) -> int:
    if isinstance(keep, bool) or not isinstance(keep, (int, float)):
        raise TypeError(f"keep= is a number of bytes, or a fraction, not {keep!r}")
    if not size:
        raise ValueError(
            f"{path} has no bytes that could be lost: nothing was written since the last checkpoint"
        )
    if isinstance(keep, float):
        if not 0 <= keep < 1:
            raise ValueError(f"keep= as a fraction is at least 0 and less than 1, not {keep!r}")
        return int(keep * size)
    kept = keep if keep >= 0 else size + keep
    if not 0 <= kept < size:
        raise ValueError(f"{path} has {size:,} bytes: keep={keep!r} would leave it whole")
    return kept


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


# -- deleted, replaced


def delete(store: FileStore, fault: Fault) -> None:
    """Take a store's files away, until ``fault`` is undone."""
    Aside(store, fault).take()
    fault.meet()
    tell_watchers(store)


def check_substitute(store: FileStore, path: str | os.PathLike[str]) -> str:
    """The path of a store's file that can be copied. Raises ValueError for others, TypeError for
    what is no path."""
    from ..stores.sqlite_link import is_open_here

    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(
            f"with_= is the path of another store's file, not {path!r}: close that store, and name "
            "its file"
        )
    name = os.path.abspath(os.fspath(path))
    if not os.path.isfile(name):
        raise ValueError(f"with_= is the file of a store, and {name} is none")
    if os.path.realpath(name) == file_of(store):
        raise ValueError(f"with_= is the file of another store, and {name} is this one's")
    if store.backend == "sqlite" and (is_open_here(name) or _size(f"{name}-wal")):
        raise ValueError(f"with_={name} is open: close the store there first, or back it up")
    return name


def replace(store: FileStore, substitute: str | None, fault: Fault) -> None:
    """Put another store in a store's place, until ``fault`` is undone: a copy of the files of
    ``substitute``, or an empty one."""
    Aside(store, fault).take()
    if substitute is None:
        type(store)(store._path, durability="process").close()
    else:
        for ending in ("", ".journal") if store.backend == "tinydb" else ("",):
            if os.path.exists(f"{substitute}{ending}"):
                shutil.copy2(f"{substitute}{ending}", f"{file_of(store)}{ending}")
    fault.meet()
    tell_watchers(store)


class Aside:
    """A store's files, taken away and put back: moved, not unlinked.

    By path they are gone; who has them open keeps them, as he keeps what was unlinked. Taking
    and putting back may each break off anywhere: no file is ever at neither of its two places,
    and none is unlinked that was not put in the place of one.
    """

    def __init__(self, store: FileStore, fault: Fault) -> None:
        self._store = store
        self._fault = fault
        self._folder = os.path.join(
            os.path.dirname(file_of(store)), f".claude-comms-fault-{secrets.token_hex(8)}"
        )
        self._paths = files_of(store)
        self._moved: list[tuple[str, str]] = []
        """Where a file is kept, or is about to be, and where it belongs."""
        self._others: list[str] = []
        """Where no file of the store was, so that what is there now is another's."""
        self._are_taken = False
        self._come_back: bool | None = None

    def take(self) -> None:
        """Take them away until the fault is undone. Raises RuntimeError where that is refused."""
        self._fault.when_undone(self.put_back)
        os.mkdir(self._folder, 0o700)
        for path in self._paths:
            if not os.path.exists(path):
                continue
            kept = os.path.join(self._folder, os.path.basename(path))
            self._moved.append((kept, path))
            try:
                os.rename(path, kept)
            except PermissionError as error:
                raise RuntimeError(
                    f"faults.{self._fault.kind}: this system does not let {path} be taken away "
                    f"while it is open: {error}"
                ) from error
        taken = [path for _, path in self._moved]
        self._others = [path for path in self._paths if path not in taken]
        self._are_taken = True

    def put_back(self) -> None:
        """Put them back in the place of whatever is there now; or go on with that."""
        if self._come_back is None:
            self._come_back = not (self._store._closed and self._are_taken)
            if not self._come_back:
                self._fault.notes.append("the store was closed meanwhile, nothing was put back")
        if self._come_back:
            self._clear()
            for kept, path in reversed(self._moved):
                if os.path.exists(kept):
                    os.replace(kept, path)
        if os.path.exists(self._folder):
            shutil.rmtree(self._folder)

    def _clear(self) -> None:
        # The main file goes first and comes last: without it, nobody opens the others.
        for kept, path in self._moved:
            if os.path.exists(kept) and os.path.exists(path):
                os.unlink(path)
        while self._others:
            if os.path.exists(self._others[-1]):
                os.unlink(self._others[-1])
            self._others.pop()
