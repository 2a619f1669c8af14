"""Starts the stand-in as anybody might, reads its pipes, and tells the clock as our runner does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_claude_comms.claude.command import RUN_MARK
from pytest_claude_comms.clock import Clock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

STREAM = ("--output-format", "stream-json", "--verbose")
PARTIAL = (*STREAM, "--include-partial-messages")
STREAM_IN = ("-p", "--input-format", "stream-json", *STREAM)


def until(condition: Callable[[], object], patience: float = 10.0) -> None:
    """Real time, because a real process is waited for."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


class Process:
    """One started stand-in, its output by line with the clock's time."""

    def __init__(
        self,
        claude: ScriptedClaude,
        *argv: str,
        stdin: bytes | None = b"",
        cwd: str | os.PathLike[str] | None = None,
        env: dict[str, str] | None = None,
        running: dict[int, Any] | None = None,
    ) -> None:
        self.clock: Clock = claude.clock
        self.lines: list[tuple[float, str]] = []
        self.stderr = ""
        self.bytes_handled = 0
        self.is_over = False
        self._running = running
        self._start = self.clock.monotonic()
        self.ended_at = -1.0
        self._over = self.clock.wakeup()
        self.command = [claude.executable, *argv]
        if running is not None and env is None:
            env = {**os.environ, RUN_MARK: "of this test"}
        self.popen = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=env,
        )
        self.pid = self.popen.pid
        self.clock.outside_works(self.pid, "a claude of this test")
        if running is not None:
            running[self.pid] = self
        self._threads = [
            threading.Thread(target=self._read_stdout),
            threading.Thread(target=self._read_stderr),
        ]
        for thread in self._threads:
            thread.start()
        if stdin is not None:
            self.write(stdin)
            self.close_stdin()

    def write(self, data: bytes) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.write(data)
            self.popen.stdin.flush()

    def close_stdin(self) -> None:
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.popen.stdin.close()

    def send(self, number: int) -> None:
        self.clock.outside_works(self.pid, "a claude that was signalled")
        self.popen.send_signal(number)

    def _read_stdout(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            at = round(self.clock.monotonic() - self._start, 6)
            self.lines.append((at, line.decode("utf-8", "surrogatepass")))
            self.bytes_handled += len(line)
        self.popen.wait()
        self.ended_at = round(self.clock.monotonic() - self._start, 6)
        if self._running is not None:
            del self._running[self.pid]
            self._over.set()
            self.clock.outside_rests(self.pid)
        self.is_over = True

    def rests_if_it_lingers(self) -> bool:
        """Our runner's may wait for others that have its pipes; this one does not."""
        return False

    def _drain(self) -> None:
        """Our runner's reads at once what there is; nobody on the clock waits for what we read."""

    def wait(self) -> None:
        """Wait on the clock, as our runner's does: woken before time goes on."""
        self._over.wait(None, why="the end of a claude of this test")

    def _read_stderr(self) -> None:
        assert self.popen.stderr is not None
        self.stderr = self.popen.stderr.read().decode()

    def join(self) -> int:
        """Wait in real time; its exit code."""
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive(), f"still running: {self.lines} {self.stderr}"
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return int(self.popen.wait())

    @property
    def stdout(self) -> str:
        return "".join(line for _, line in self.lines)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.join()


def run(claude: ScriptedClaude, *argv: str, stdin: bytes = b"", **more: Any) -> Process:
    """Start one in real time and wait for its end."""
    process = Process(claude, *argv, stdin=stdin, **more)
    process.join()
    return process


def pretend_runner(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    """Put this kit in the place of our runner: the stand-in asks it what it has handled."""
    running: dict[int, Any] = {}
    module = SimpleNamespace(running=lambda: dict(running))
    monkeypatch.setitem(sys.modules, "pytest_claude_comms.claude.process", module)
    return running


def user(text: str) -> bytes:
    said = {"type": "user", "message": {"role": "user", "content": text}, "session_id": ""}
    return json.dumps(said).encode() + b"\n"


def keys(value: Any, free: Sequence[str] = ("input", "tool_input", "memory_paths")) -> Any:
    """The keys of a line, in order and all the way down; see ``test_imitation``."""
    if isinstance(value, dict):
        return [(key, None if key in free else keys(each, free)) for key, each in value.items()]
    if isinstance(value, list):
        found: list[Any] = []
        for each in value:
            shape = keys(each, free)
            if shape is not None and shape not in found:
                found.append(shape)
        return found
    return None
