"""A command on a terminal of its own, and what it leaves of that terminal."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import COMMAND, Result, environment
from tests.communication.kit import until

if sys.platform != "win32":
    import fcntl
    import pty
    import termios

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="there is no pty on Windows")

CTRL_C = b"\x03"
CTRL_BACKSLASH = b"\x1c"
_MODE = re.compile(rb"\x1b\[\?(\d+)([hl])")

_FOREGROUND = """\
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes the terminal the controlling one, so that Ctrl-C on it is a signal. In a program of its
own: what subprocess offers for it (preexec_fn) is not for processes with threads, as tests have."""

_UNHURRIED = """\
import sys
from pytest_claude_comms.cli import main, output
output.SHOWN_AFTER = 600
sys.exit(main())
"""
"""The command, without what it shows to somebody who waits: a busy machine would decide."""


class Terminal:
    """A command whose standard input, output and error are a terminal."""

    def __init__(
        self,
        *argv: str,
        cwd: Path,
        columns: int = 100,
        lines: int = 24,
        command: Sequence[str] = COMMAND,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        if sys.platform == "win32":
            pytest.skip("there are no terminals of this kind")
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = self.modes()
        self._read = bytearray()
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _FOREGROUND, *command, *argv],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            cwd=cwd,
            env=environment(**{"TERM": "xterm-256color", **(variables or {})}),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def modes(self) -> list[Any]:
        """Echo, line editing and so on."""
        assert sys.platform != "win32"
        return termios.tcgetattr(self._slave)

    def _drain(self) -> None:
        with suppress(OSError):
            while piece := os.read(self._master, 65_536):
                self._read += piece

    @property
    def text(self) -> str:
        """All that was written to it so far."""
        return bytes(self._read).decode(errors="replace")

    def shows(self, text: str) -> bool:
        """Wait for a text; whether it came."""
        return until(lambda: text in self.text)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self, patience: float = 20.0) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(patience)

    def hang_up(self) -> None:
        """Close it, as a window is closed: the kernel sends SIGHUP."""
        os.close(self._slave)
        self._slave = -1
        os.close(self._master)
        self._master = -1

    def last_words(self) -> str:
        """All that was written to it, once the command has ended and nobody has it open."""
        os.close(self._slave)
        self._slave = -1
        self._reader.join(20)
        return self.text

    def is_usable(self) -> bool:
        """Whether all is as it was: modes of the line, cursor shown, no other screen."""
        switched = {int(number): on for number, on in _MODE.findall(bytes(self._read))}
        hidden = switched.get(25) == b"l" or switched.get(1049) == b"h"
        return self.modes() == self.before and not hidden

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for descriptor in (self._slave, self._master):
            if descriptor >= 0:
                with suppress(OSError):
                    os.close(descriptor)


@contextmanager
def terminal(
    *argv: str, cwd: Path, columns: int = 100, lines: int = 24, command: Sequence[str] = COMMAND
) -> Iterator[Terminal]:
    """The command on a terminal; gone at the end of the block."""
    made = Terminal(*argv, cwd=cwd, columns=columns, lines=lines, command=command)
    try:
        yield made
    finally:
        made.close()


def in_terminal(
    argv: Sequence[str],
    folder: Path,
    *,
    python: Sequence[str] | None = None,
    at_start: Callable[[Terminal], object] | None = None,
    columns: int = 120,
    variables: Mapping[str, str] | None = None,
) -> Result:
    """Run a command on a terminal to its end; ``out`` is all it shows. ``python`` takes the
    command's place; ``at_start`` is what to do meanwhile."""
    command = python or [*COMMAND[:-2], "-c", _UNHURRIED]
    given = {"PYTHONUTF8": "1", **(variables or {})}
    made = Terminal(*argv, cwd=folder, columns=columns, lines=40, command=command, variables=given)
    try:
        if at_start is not None:
            at_start(made)
        code = made.end(60)
        return Result(code, made.last_words(), "")
    finally:
        made.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs: a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
