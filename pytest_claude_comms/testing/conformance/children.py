"""A child process that has the store open, as the contract that started it sees it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from ...clock import SystemClock
from .checks import Mismatch

PATIENCE = 60.0
"""Real seconds after which a thread or process is taken for stuck."""


def _sys_path() -> list[str]:
    return [os.path.abspath(path) for path in sys.path]  # an empty one is the current directory


class Child:
    """Does one job of ``child.py``; what it prints comes line by line."""

    def __init__(
        self, spec: str, folder: Path, durability: str, job: str, arguments: Sequence[str]
    ) -> None:
        self._job = job
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_sys_path())}
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", f"{__package__}.child"),
                *(spec, str(folder), durability, job, *arguments),
            ],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self._watchdog = threading.Timer(PATIENCE, self._process.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def line(self) -> str:
        """The next line that it prints. Raises Mismatch if it ends before."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            _, complaint = self._process.communicate()
            last = (complaint.strip().splitlines() or ["nothing on stderr"])[-1]
            code = self._process.returncode
            raise Mismatch(f"another process ({self._job})", "an answer", f"exit {code}: {last}")
        return line.rstrip("\n")

    def go(self) -> None:
        """Let it begin, if its job waits for that."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self, *, after: float = 0) -> list[str]:
        """Kill it as ``kill -9`` does, ``after`` so many seconds of real time, in whatever it does
        then; returns the whole lines that had not been read."""
        self._watchdog.cancel()
        if after:
            SystemClock().sleep(after)
        self._process.kill()
        assert self._process.stdout is not None
        if self._process.stdout.closed:
            return []
        # Not communicate(): it reads the pipe, and misses what readline() has read ahead.
        rest = self._process.stdout.read()
        self._process.communicate()
        return [line[:-1] for line in rest.splitlines(keepends=True) if line.endswith("\n")]
