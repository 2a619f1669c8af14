"""The processes that a run of the CLI has started: who they are, and the end of them.

The CLI's Bash tool puts each command into a process group of its own, and a kill of the CLI leaves
it running (observed on CLI 2.1.330; 2.1.197 leaves it at SIGTERM too): killing the group is not
enough. A process whose parent has died has another parent. So there are four ways to know one:
by its parents while they live, by its session, and (on Linux) by two marks that it inherits. One
is in its environment. The other is a resource limit, which outlives an emptied environment: that
of real-time CPU time, which on other processes than real-time ones limits nothing, and is put at
146,000 years. A process that the CLI starts in the instant before it has been given the
limit has the first mark only; one that sets this limit itself (``sudo``, a run inside a run, for
what that run started) does not have the second.

Without a free descriptor (EMFILE, ENFILE) nobody can be looked up: that is an OSError here, not
an empty answer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import signal
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

with suppress(ImportError):  # not on Windows
    # Here, and not where it is used: to import it may take a descriptor, and none may be free.
    import resource

from .command import RUN_MARK

_PROC: Final = "/proc"
_KTHREADD: Final = 2
"""The parent of the kernel's own threads, which have no environment."""
_NEW: Final = 2.0
"""Seconds for which a process may be in the middle of its exec."""
_EXEC_TRIES: Final = 50
"""Of a millisecond each."""
_DEATH_MS: Final = 1_000
_NO_DESCRIPTOR: Final = (errno.EMFILE, errno.ENFILE)


class Relative(NamedTuple):
    """A process, told from a later one of the same number by when it was started."""

    pid: int
    started: str


class _Row(NamedTuple):
    pid: int
    parent: int
    session: int
    """Where that is not known, the process group."""
    started: str


def marked(env: Mapping[str, str], token: str) -> dict[str, str]:
    """``env`` with the mark of a run; a run inside a run has the marks of both."""
    outer = env.get(RUN_MARK)
    return {**env, RUN_MARK: f"{outer}:{token}" if outer else token}


def limit_of(token: str) -> int:
    """The number that is the second mark of a run."""
    return 1 << 62 | int.from_bytes(hashlib.blake2b(token.encode(), digest_size=7).digest(), "big")


def mark_limit(pid: int, token: str) -> None:
    """Give it the second mark, as far as this system has one. Only the soft limit is changed."""
    with suppress(AttributeError, NameError, OSError, ValueError):
        _, hard = resource.prlimit(pid, resource.RLIMIT_RTTIME)
        resource.prlimit(pid, resource.RLIMIT_RTTIME, (limit_of(token), hard))


def find(root: int | None, token: str, *, pipes: frozenset[int] = frozenset()) -> set[Relative]:
    """All descendants of ``root`` and all that bear the mark, without ``root`` itself.

    ``root`` is None once it has been reaped: its number may be somebody else's by then. With
    ``pipes``, inode numbers, only those are found that have one of them open.
    """
    rows = _rows()
    family = {
        row.pid
        for row in rows
        if (root is not None and root in (row.parent, row.session)) or _bears(row, token)
    }
    while more := {row.pid for row in rows if row.parent in family} - family:
        family |= more
    family -= {root, os.getpid()}
    if pipes:
        family = {pid for pid in family if pipes & _pipes_of(pid)}
    return {Relative(row.pid, row.started) for row in rows if row.pid in family}


def kill(relatives: Iterable[Relative]) -> None:
    """SIGKILL to each that is still the process it was, and wait until they have died.

    The wait is real, some milliseconds: a killed process is at work dying, on any clock.
    Two descriptors at a time are enough for any number; OSError if there are none.
    """
    for each in relatives:
        with _handle(each.pid) as handle:
            if _started(each.pid) != each.started:
                continue
            with suppress(OSError):
                if handle is None:
                    os.kill(each.pid, signal.SIGKILL)
                else:
                    # It was one process's before it was checked: the number cannot pass on.
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
    for each in relatives:
        with _handle(each.pid) as handle:
            # A leader may be dead while threads of it are not.
            if handle is not None and _started(each.pid, dead=True) == each.started:
                poller = select.poll()
                poller.register(handle, select.POLLIN)
                poller.poll(_DEATH_MS)
        _reap(each)


def _reap(relative: Relative) -> None:
    # Who adopts orphans (process 1 of a container, a subreaper) has to reap them.
    row = _proc_row(relative.pid, dead=True)
    if row is not None and (row.started, row.parent) == (relative.started, os.getpid()):
        with suppress(OSError):
            os.waitpid(relative.pid, os.WNOHANG)


@contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    """What becomes readable once the process is dead."""
    handle = None
    with suppress(AttributeError, OSError):  # not Linux; a kernel before 5.3, a sandbox; it is gone
        handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        if handle is not None:
            os.close(handle)


def _rows() -> list[_Row]:
    if os.path.exists(f"{_PROC}/self/stat"):
        rows = (_proc_row(int(name)) for name in os.listdir(_PROC) if name.isdigit())
        return [row for row in rows if row is not None]
    return _ps_rows("-ax")


def _started(pid: int, *, dead: bool = False) -> str | None:
    if os.path.exists(f"{_PROC}/self/stat"):
        row = _proc_row(pid, dead=dead)
        return None if row is None else row.started
    return next((row.started for row in _ps_rows("-p", str(pid))), None)


def _proc_row(pid: int, *, dead: bool = False) -> _Row | None:
    stat = _read(f"{_PROC}/{pid}/stat")
    if not stat:
        return None
    # The name stands in brackets and may hold brackets and blanks: count from the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X") and not dead:
        return None
    return _Row(pid, int(fields[1]), int(fields[3]), fields[19].decode())


def _ps_rows(*which: str) -> list[_Row]:
    try:
        shown = subprocess.run(
            ["ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart="],  # noqa: S607
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={"PATH": os.defpath, "LC_ALL": "C"},
        ).stdout.decode(errors="replace")
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            raise
        return []
    rows = []
    for line in shown.splitlines():
        fields = line.split(None, 4)
        if len(fields) == 5 and not fields[3].startswith("Z"):
            pid, parent, group, _, started = fields
            rows.append(_Row(int(pid), int(parent), int(group), started.strip()))
    return rows


def _bears(row: _Row, token: str) -> bool:
    with suppress(AttributeError, NameError, OSError):  # not Linux; it is gone, or somebody else's
        if resource.prlimit(row.pid, resource.RLIMIT_RTTIME)[0] == limit_of(token):
            return True
    environ = _read(f"{_PROC}/{row.pid}/environ")
    tries = _EXEC_TRIES
    while environ == b"" and tries and row.parent != _KTHREADD and _is_new(row):
        # In the middle of its exec a process has no environment yet, but may be an orphan already.
        select.poll().poll(1)
        tries -= 1
        environ = _read(f"{_PROC}/{row.pid}/environ")
    for entry in (environ or b"").split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == RUN_MARK.encode():
            return token.encode() in value.split(b":")
    return False


def _is_new(row: _Row) -> bool:
    uptime = float((_read(f"{_PROC}/uptime") or b"0").split()[0])
    return uptime - int(row.started) / os.sysconf("SC_CLK_TCK") < _NEW


def _pipes_of(pid: int) -> set[int]:
    found: set[int] = set()
    try:
        names = os.listdir(f"{_PROC}/{pid}/fd")
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            raise
        return found
    for name in names:
        with suppress(OSError, ValueError):
            kind, _, inode = os.readlink(f"{_PROC}/{pid}/fd/{name}").partition(":")
            if kind == "pipe":
                found.add(int(inode.strip("[]")))
    return found


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if error.errno in _NO_DESCRIPTOR:
            raise
        return None  # it has gone, or it is somebody else's
