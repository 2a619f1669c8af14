"""A Python that has imported what every pytest imports, and forks one whenever a test wants one.

What it forks is a process like any other: a directory, an environment, pipes, modules of ours and
an end of its own. Only pytest, what that needs and the libraries that we need are there already,
which is most of what a short run of pytest costs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]

# It is nobody's child: tests ask whether this process has any left.
_SERVER = (
    "import os, sys; os.fork() and os._exit(0); "
    "bare = sys.path[1:]; sys.path.insert(0, sys.argv[2]); "
    "from tests.warm_python import serve; serve(int(sys.argv[1]), bare)"
)
# Not hypothesis and not xdist: pytest warns of a plugin that was there before its assertions
# could be rewritten.
_LIBRARIES = ("asyncio", "freezegun", "importlib.metadata", "sqlite3", "tinydb")


def _say(link: socket.socket, number: int) -> None:
    link.sendall(number.to_bytes(8, "big", signed=True))


def _hear(link: socket.socket) -> int:
    said = link.recv(8, socket.MSG_WAITALL)
    if not said:
        raise EOFError("the Python that forks is gone")
    return int.from_bytes(said, "big", signed=True)


class Child:
    """What ``WarmPython.start`` has started, with as much of ``Popen`` as is used here."""

    stdin = None

    def __init__(self, link: socket.socket, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._link = link

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative for the signal that ended it."""
        if self.returncode is None:
            self._link.settimeout(timeout)
            try:
                self.returncode = _hear(self._link)
            except TimeoutError:
                raise subprocess.TimeoutExpired("pytest", timeout or 0) from None
            finally:
                self._link.settimeout(None)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class WarmPython:
    """Started for the first child; one runs at a time."""

    def __init__(self) -> None:
        self._link: socket.socket | None = None

    def start(
        self,
        command: Sequence[str],
        *,
        cwd: str | os.PathLike[str],
        env: Mapping[str, str],
        stdout: IO[Any],
        stderr: IO[Any],
    ) -> Child:
        """Run ``[python, "-m", "pytest", …]``; nothing comes by stdin."""
        python, *arguments = command
        if arguments[0] == "-m":
            arguments[:2] = ["-m" + arguments[1]]
        assert (python, arguments[0]) == (sys.executable, "-mpytest"), command
        link = self._connect()
        request = {"arguments": arguments[1:], "cwd": os.fspath(cwd), "env": dict(env)}
        with open(os.devnull, "rb") as nothing:
            given = [nothing.fileno(), stdout.fileno(), stderr.fileno()]
            data = json.dumps(request).encode()
            socket.send_fds(link, [len(data).to_bytes(8, "big")], given)
            link.sendall(data)
        return Child(link, _hear(link))

    def run(
        self,
        command: Sequence[str],
        *,
        cwd: str | os.PathLike[str],
        env: Mapping[str, str],
        timeout: float,
    ) -> subprocess.CompletedProcess[str]:
        """As ``subprocess.run``, with stderr in stdout, and both as UTF-8."""
        with tempfile.TemporaryFile() as said:
            child = self.start(command, cwd=cwd, env=env, stdout=said, stderr=said)
            try:
                code = child.wait(timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                raise
            said.seek(0)
            text = said.read().decode()
        return subprocess.CompletedProcess(command, code, text)

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def _connect(self) -> socket.socket:
        if self._link is None:
            self._link, far = socket.socketpair()
            env = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
            with far:
                subprocess.run(
                    [sys.executable, "-c", _SERVER, str(far.fileno()), str(ROOT)],
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[far.fileno()],
                    check=True,
                )
        return self._link


def serve(descriptor: int, bare: list[str]) -> None:
    """The process that forks. In a child this returns when its pytest has ended."""
    import pytest  # noqa: F401 - for those that are forked
    from _pytest.config import default_plugins

    for name in default_plugins:
        importlib.import_module(f"_pytest.{name}")
    for name in _LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a child that collects need not look at it
    link = socket.socket(fileno=descriptor)
    while True:
        size, given, _, _ = socket.recv_fds(link, 8, 3)
        if not size:
            return
        data = b""
        while len(data) < int.from_bytes(size, "big"):
            data += link.recv(1 << 20)
        pid = os.fork()
        if pid == 0:
            link.close()
            _be_pytest(json.loads(data), given, bare)
            return
        for each in given:
            os.close(each)
        _say(link, pid)
        _, status = os.waitpid(pid, 0)
        _say(link, os.waitstatus_to_exitcode(status))


def _be_pytest(request: dict[str, Any], given: list[int], bare: list[str]) -> None:
    """Become what ``python -m pytest`` is. Raises the SystemExit that it ends with."""
    for number, each in enumerate(given):
        os.dup2(each, number)
        os.close(each)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    encoding = os.environ.get("PYTHONIOENCODING")
    if encoding is not None:
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(encoding=encoding)  # type: ignore[union-attr]
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    path = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [os.getcwd(), *map(os.path.abspath, path), *bare]
    # Only this file was found by it; what a test calls `tests` is its own.
    for name in ("tests.warm_python", "tests"):
        sys.modules.pop(name, None)
    sys.argv[1:] = request["arguments"]
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)
