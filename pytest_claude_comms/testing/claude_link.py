"""The test's end of the control channel to one stand-in; see :mod:`stand_in` for its frames."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple


class Frame(NamedTuple):
    """Something that the stand-in said; kind ``gone``: it is no more."""

    kind: str
    content: bytes = b""


GONE: Final = Frame("gone")
_QUIETLY: Final = getattr(socket, "MSG_NOSIGNAL", 0)
"""A program that has SIGPIPE's default back would be killed by what a stand-in does not read."""


@dataclass(frozen=True, slots=True)
class HowCalled:
    """What the stand-in knows about itself."""

    pid: int
    cwd: str
    """Empty if its directory is gone."""
    argv: tuple[str, ...]
    env: tuple[str, ...]
    max_retries: int
    """``CLAUDE_CODE_MAX_RETRIES``, or the CLI's own 10."""
    parent: int = 0

    @classmethod
    def read(cls, content: bytes, pid: int | None) -> HowCalled:
        """``pid``: which process it is for us. Its own word counts only if that is unknown: in a
        PID namespace its number is that of somebody else here."""
        own_pid, parent, cwd, retries, count, *rest = content.split(b"\0")
        argv, names = rest[: int(count)], rest[int(count) :]
        return cls(
            pid=int(own_pid) if pid is None else pid,
            cwd=os.fsdecode(cwd),
            argv=tuple(map(os.fsdecode, argv)),
            env=tuple(sorted(map(os.fsdecode, names))),
            max_retries=int(retries) if retries.isdigit() else 10,
            parent=int(parent),
        )


class Progress(NamedTuple):
    """How far the stand-in is with its orders."""

    written: int
    """Bytes on stdout since the start."""
    unread: int
    """How many of them still lie in the pipe."""
    broken: bool
    """Whether nobody reads stdout any more."""

    @classmethod
    def read(cls, content: bytes) -> Progress:
        written, unread, broken = map(int, content.split())
        return cls(written, unread, bool(broken))


class Link:
    """Frames to and from one stand-in. For one thread, but ``wake``."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._woken, select.POLLIN)
        self._poll.register(self._sock, select.POLLIN)
        self._inbox = bytearray()
        self._frames: deque[Frame] = deque()
        self._gone = False

    @property
    def peer(self) -> int | None:
        """The process at the other end, by its number here; None where the system does not say,
        0 if it has none here."""
        try:
            if hasattr(socket, "SO_PEERCRED"):
                told = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                return int(struct.unpack("3i", told)[0])
            if sys.platform == "darwin":
                return self._sock.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
        except OSError:
            pass
        return None

    def send(self, kind: str, content: bytes = b"") -> None:
        """Order something. That the stand-in is gone shows at ``next``."""
        left = memoryview(kind.encode() + len(content).to_bytes(4, "big") + content)
        while left and not self._gone:
            try:
                left = left[self._sock.send(left, _QUIETLY) :]
            except BlockingIOError:
                # It may be blocked in telling us something: listen while we wait, or both wait.
                self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)
                self._listen(None)
                self._poll.modify(self._sock, select.POLLIN)
            except OSError:
                self._hear()
                self._gone = True

    def next(self, timeout: float | None) -> Frame | None:
        """The next frame; None after ``timeout`` real seconds or a ``wake``."""
        if not self._frames and not self._gone:
            self._listen(timeout)
        if self._frames:
            return self._frames.popleft()
        return GONE if self._gone else None

    def wake(self) -> None:
        """End the present ``next``, or the one after it. From any thread."""
        with contextlib.suppress(OSError):  # it is full of wakes already, or closed
            self._waker.send(b"!", _QUIETLY)

    def cut(self) -> None:
        """Let the stand-in see that nobody is here any more: it exits. From any thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for sock in (self._sock, self._woken, self._waker):
            sock.close()

    def _listen(self, timeout: float | None) -> None:
        found = self._poll.poll(None if timeout is None else max(0.0, timeout * 1000))
        for number, _ in found:
            if number == self._woken.fileno():
                self._woken.recv(4096)
            else:
                self._hear()

    def _hear(self) -> None:
        try:
            piece = self._sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._gone = True
            self._poll.unregister(self._sock)
        self._inbox += piece
        while len(self._inbox) >= 5:
            end = 5 + int.from_bytes(self._inbox[1:5], "big")
            if len(self._inbox) < end:
                break
            self._frames.append(Frame(chr(self._inbox[0]), bytes(self._inbox[5:end])))
            del self._inbox[:end]
