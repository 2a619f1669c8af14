"""The end of a run whose runner died, however it died.

Beside the CLI runs a shell that waits for the end of a pipe whose other end only the runner has.
When the runner is gone (``kill -9``, a crash, the end of its process) the pipe ends, and the shell
ends the CLI as the runner would have: SIGTERM to its group, its grace, SIGKILL, then (on Linux)
all that bear one of the run's marks, the CLI's tools among them.

Why not PR_SET_PDEATHSIG: it has to be set between fork and exec, by a ``preexec_fn``, which makes
``subprocess`` fork the whole process, with all its threads' locks and everybody's fork handlers,
instead of vfork (2.2 ms against 0.7, and 9 ms against 1 in a process of 200 MB; the shell costs
0.9); it fires when the *thread* that forked ends; it reaches the CLI alone and not the command
that its Bash tool runs; and only Linux has it.

What the shell cannot see is a runner that dies before the shell was told of the CLI. By then the
CLI has no prompt yet: its stdin ends, and so does it (observed on CLI 2.1.330: exit code 1).
"""

from __future__ import annotations

import math
import os
import subprocess
import threading
from contextlib import AbstractContextManager
from typing import IO, Final

from . import descendants
from .command import RUN_MARK

# sh -c SCRIPT sh GROUP MARK SECONDS LIMIT
_SCRIPT: Final = """
read -r _
kill -s TERM -- "-$1"
left=$3
while [ "$left" -gt 0 ] && kill -s 0 -- "-$1"; do
    sleep 1
    left=$((left - 1))
done
kill -s KILL -- "-$1"
for each in $(grep -la -e "$2" -e "$4" /proc/[0-9]*/environ /proc/[0-9]*/limits); do
    each=${each#/proc/}
    kill -s KILL "${each%/*}"
done
"""

_held: set[IO[bytes]] = set()
_forking = threading.RLock()
"""Held by each fork too: one that a thread makes while it holds the lock goes through."""


class Lifeline:
    """Ends a process group and all that bear ``token`` when this process dies.

    ``grace`` is how many seconds they have from SIGTERM to SIGKILL. Where there is no /bin/sh it
    does nothing.
    """

    def __init__(self, token: str, grace: float) -> None:
        self._token = token
        self._grace = grace
        self._shell: subprocess.Popen[bytes] | None = None

    def tie(self, pid: int) -> None:
        """To the group ``pid``, within ``no_fork()``, as all whose end of a pipe is to be held."""
        if os.name != "posix":
            return
        # The NUL that ends a variable is a control character.
        mark = f"{RUN_MARK}=[^[:cntrl:]]*{self._token}"
        limit = f"^Max realtime timeout  *{descendants.limit_of(self._token)} "
        words = [str(pid), mark, str(math.ceil(self._grace)), limit]
        try:
            # A session of its own: what ends the runner's group must not end this.
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "sh", *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        except OSError:
            return
        assert self._shell.stdin is not None
        hold(self._shell.stdin)

    def cut(self) -> None:
        """The run is over: end the shell, which then does nothing. Cutting twice is allowed."""
        shell = self._shell
        if shell is None or shell.stdin is None:
            return
        shell.kill()  # before its pipe ends
        shell.wait()
        let_go(shell.stdin)
        self._shell = None  # last: one that is forgotten alive ends whoever has the number later


def no_fork() -> AbstractContextManager[object]:
    """Within it no other thread forks this process (by ``os.fork``, as multiprocessing does).

    A fork has a copy of every pipe that is open: of one that is not held yet, or not any more, it
    would keep the end open, the prompt would have no end, or ``Popen`` would wait for its own.
    What is done within it must not wait for anything that a thread that forks may be holding.
    """
    return _forking


def hold(pipe: IO[bytes]) -> None:
    """Remember a pipe whose end means something to a process of a run."""
    _held.add(pipe)


def let_go(pipe: IO[bytes]) -> None:
    """Close it. Closing twice is allowed."""
    with no_fork():
        _held.discard(pipe)
        pipe.close()


def _close_held() -> None:
    for pipe in _held:
        pipe.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    # By functions that are no Python: in those a signal's handler could raise, and the lock would
    # stay held for ever.
    os.register_at_fork(before=_forking.acquire, after_in_parent=_forking.release)
    # Whoever held or awaited the lock, and is not in this process any more, awaits nothing here.
    os.register_at_fork(after_in_child=_forking._at_fork_reinit)  # type: ignore[attr-defined]
    os.register_at_fork(after_in_child=_close_held)
