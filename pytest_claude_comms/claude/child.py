"""The child process itself: starting it, signals that reach nobody else, what descends from it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Final

from ..errors import ClaudeError, ClaudeNotFound, ModuleDirectoryNotFound
from . import descendants
from .command import find_cli, find_directory

IS_WINDOWS: Final = os.name == "nt"
GENTLY: Final[int] = getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM)
FOR_CERTAIN: Final[int] = getattr(signal, "SIGKILL", signal.SIGTERM)

_ROUNDS: Final = 5
"""How often descendants are looked for after the kill: one may start another meanwhile."""


class Child:
    """The CLI as a process, in a session of its own, its standard streams unbuffered pipes.

    Raises ClaudeNotFound or ModuleDirectoryNotFound.
    """

    def __init__(
        self, command: Sequence[str], cwd: str | os.PathLike[str], env: Mapping[str, str]
    ) -> None:
        self._directory = find_directory(cwd)
        self._argv = [find_cli(command[0], env), *command[1:]]
        self._env = env
        self.token = uuid.uuid4().hex
        """What its descendants bear, and their descendants."""
        self._popen: subprocess.Popen[bytes] | None = None
        self.has_exited = False
        """Whether it has exited and been reaped."""
        self.exit_code: int | None = None
        """As ``Popen.returncode``; None until then, and after it if nobody can know: somebody else
        in this process reaped it, or the system did, as it does where SIGCHLD is ignored."""
        self._lock = threading.Lock()
        """Held while it is reaped or signalled: its number, its group's too, is then its own."""
        self._relatives: set[descendants.Relative] = set()

    def start(self) -> None:
        """Start it, within ``no_fork()`` until its pipes are held.

        Raises as the class does, and ClaudeError for what else the system refuses.
        """
        try:
            self._popen = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=self._directory,
                env=descendants.marked(self._env, self.token),
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        except OSError as error:
            raise self.refused(error) from error
        except BaseException:
            # Ctrl-C inside Popen: it may run, and nobody has its number.
            if not IS_WINDOWS:
                with suppress(OSError):  # no free descriptor; its stdin ends, and so does it
                    descendants.kill(descendants.find(None, self.token))
            raise
        descendants.mark_limit(self.pid, self.token)

    def refused(self, error: OSError) -> ClaudeError:
        """What to raise for what the system has refused."""
        return _refused(error, self._argv, self._directory)

    @property
    def was_started(self) -> bool:
        return self._popen is not None

    @property
    def popen(self) -> subprocess.Popen[bytes]:
        assert self._popen is not None
        return self._popen

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        """Our ends of its stdin, stdout and stderr. Whoever serves them closes them."""
        stdin, stdout, stderr = self.popen.stdin, self.popen.stdout, self.popen.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        return stdin, stdout, stderr

    def await_exit(self) -> None:
        """Wait, really, until it has exited, and reap it. Waiting again changes nothing."""
        code = self._await_code()
        with self._lock:
            if not self.has_exited:
                self.exit_code = code
                self.has_exited = True
            self.popen.wait()

    def _await_code(self) -> int | None:
        # Where there is no waitid (Windows, macOS before 3.13) it is reaped before the lock is
        # held; elsewhere it is left a zombie until then, and its number is nobody else's.
        if IS_WINDOWS:
            return self.popen.wait()
        # Not by Popen, for which a child that it cannot wait for has exited with 0.
        try:
            if not hasattr(os, "waitid"):
                return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return None
        assert found is not None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def signal(self, number: int, before: Callable[[], object]) -> None:
        """Send a signal to it and its group, if it has not exited; ``before`` is called first.

        Its descendants are looked up before that: a parent that dies takes its place in the
        family with it. The signal is sent even if nobody can be looked up.
        """
        with self._lock:
            if self.has_exited:
                return
            try:
                before()
                if not IS_WINDOWS:
                    with suppress(OSError):  # no free descriptor; who bears a mark is found later
                        self._relatives |= descendants.find(self.pid, self.token)
            finally:
                self._send(number)

    def _send(self, number: int) -> None:
        if IS_WINDOWS:
            self._signal_on_windows(number)
            return
        with suppress(OSError):
            os.killpg(self.pid, number)
        with suppress(OSError):
            if os.getpgid(self.pid) != self.pid:  # it has moved to another group
                os.kill(self.pid, number)

    def _signal_on_windows(self, number: int) -> None:
        if number == GENTLY:
            self.popen.send_signal(number)
        else:
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(self.pid)],  # noqa: S607
                capture_output=True,
                check=False,
            )

    def kill_relatives(
        self, *, make_room: Callable[[], object], pipes: frozenset[int] = frozenset()
    ) -> None:
        """After its exit: kill what descends from it and still runs.

        With ``pipes``, inode numbers, only what has one of them open. No process can be looked up
        without a free descriptor: if there is none, ``make_room`` is called. Raises OSError if
        there is none then either.
        """
        if IS_WINDOWS:
            return
        try:
            self._kill_relatives(pipes)
        except OSError:
            make_room()
            self._kill_relatives(pipes)

    def _kill_relatives(self, pipes: frozenset[int]) -> None:
        found = self._relatives | descendants.find(None, self.token, pipes=pipes)
        for _ in range(_ROUNDS):
            if not found:
                break
            descendants.kill(found)
            found = descendants.find(None, self.token, pipes=pipes)


def _refused(error: OSError, argv: list[str], directory: str) -> ClaudeError:
    """Why the system did not start it. ``filename`` tells whether it was for the directory."""
    reason = (error.strerror or str(error)).lower()
    if error.filename == directory:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return ModuleDirectoryNotFound(directory, f"cannot be entered, {reason}")
        return ClaudeError(f"the module's directory {directory!r} cannot be entered: {reason}")
    if isinstance(error, FileNotFoundError):
        return ClaudeNotFound(argv[0], "the interpreter that its first line names is not there")
    if error.errno == errno.E2BIG:
        longest = max(len(os.fsencode(word)) for word in argv)
        return ClaudeError(
            "the command line for the Claude CLI is too long for the system: its longest argument "
            f"has {longest:,} bytes, and Linux takes no more than 131,071. Only the prompt, which "
            "goes by stdin, may be that long"
        )
    return ClaudeError(f"the Claude CLI {argv[0]!r} could not be started: {reason}")
