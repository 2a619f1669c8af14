"""Processes to torture: forked in milliseconds from one that has everything imported."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_SERVER = "import sys; from tests.torture.stage import serve; serve(int(sys.argv[1]), sys.argv[2:])"


class Channel:
    """Lines of JSON over a socket. No call of it is one that is made on files."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self._left = b""

    def say(self, what: Any) -> None:
        self.link.sendall(json.dumps(what).encode() + b"\n")

    def hear(self) -> Any:
        """The next thing said. Raises EOFError once the other side has ended."""
        while b"\n" not in self._left:
            try:
                part = self.link.recv(65_536)
            except ConnectionResetError:  # it was killed before it had read all
                part = b""
            if not part:
                raise EOFError
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def rest(self) -> Iterator[Any]:
        """All that is still said, until the other side ends."""
        while True:
            try:
                yield self.hear()
            except EOFError:
                return

    def close(self) -> None:
        self.link.close()


class Actor(Channel):
    """A process that plays a role."""

    def __init__(self, stage: Stage, link: socket.socket, pid: int) -> None:
        super().__init__(link)
        self.pid = pid
        self._stage = stage
        self._code: int | None = None

    def kill(self, number: int = 9) -> None:
        if self._code is None:  # it stays a zombie until it was waited for: the pid is its own
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit code, negative for the signal that ended it."""
        if self._code is None:
            self._code = int(self._stage._ask({"wait": self.pid})["code"])
            self._stage._actors.discard(self)
        return self._code

    def end(self) -> None:
        """Let nothing of it be left."""
        self.kill()
        self.wait()
        self.close()


class Stage:
    """Where actors come from. Their roles are functions ``(channel, **arguments)``, named as
    ``"module:function"``."""

    def __init__(self, *modules: str) -> None:
        near, far = socket.socketpair()
        self._control = Channel(near)
        self._actors: set[Actor] = set()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with far:
            self._server = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _SERVER, str(far.fileno()), *modules],
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=[far.fileno()],
            )

    def start(self, role: str, **arguments: Any) -> Actor:
        near, far = socket.socketpair()
        with far:
            request = json.dumps({"role": role, "arguments": arguments}).encode() + b"\n"
            sent = socket.send_fds(self._control.link, [request[:1]], [far.fileno()])
            self._control.link.sendall(request[sent:])
        actor = Actor(self, near, int(self._control.hear()["pid"]))
        self._actors.add(actor)
        return actor

    def _ask(self, request: Any) -> Any:
        # A descriptor comes with every request's first byte, or none.
        self._control.say(request)
        return self._control.hear()

    def close(self) -> None:
        for actor in list(self._actors):
            actor.end()
        self._control.close()
        self._server.wait()


def serve(descriptor: int, modules: list[str]) -> None:
    """The stage's process: forks for each role that it is asked for."""
    for name in modules:
        importlib.import_module(name)
    control = Channel(socket.socket(fileno=descriptor))
    while True:
        first, descriptors, _, _ = socket.recv_fds(control.link, 1, 1)
        if not first:
            return control.close()
        control._left = first + control._left
        request = control.hear()
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            control.say({"code": os.waitstatus_to_exitcode(status)})
            continue
        (given,) = descriptors
        pid = os.fork()
        if pid == 0:
            control.close()
            _play(Channel(socket.socket(fileno=given)), request["role"], request["arguments"])
        os.close(given)
        control.say({"pid": pid})


def _play(channel: Channel, role: str, arguments: dict[str, Any]) -> None:
    code = 1
    try:
        module, _, name = role.partition(":")
        getattr(importlib.import_module(module), name)(channel, **arguments)
        code = 0
    except BrokenPipeError:
        pass  # nobody listens any more
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
