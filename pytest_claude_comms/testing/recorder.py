"""The program that records: it stands where the stand-in stands, and runs the real Claude CLI.

With ``--claude-comms-record`` the executable named ``claude`` is the hand of :mod:`stand_in` with
this put around it (:func:`tapped`). At the order ``R`` it says what environment it has and
becomes a recorder: it starts the program that it is told (``C``), passes stdin, stdout, stderr
and signals through, and says with their times what lines and signals came, and the exit.

Further frames, beside those of the hand. From the test: ``R`` become a recorder; ``C`` run this:
the CLI's path, our folder, whether stdin has ended, and what was read of it, with NULs between.
To the test: ``Y`` the environment; ``L`` a line and ``l`` one without a newline (stream, time,
text); ``N`` a signal was passed on (number, time); ``D`` the end (exit code, time). A time is in
microseconds since the start of the CLI, in eight bytes.

It runs by ``python -I -S`` and imports nothing but the standard library.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import socket

_LINGER = 1.0
"""Seconds for which output is still taken after the exit, while others have the pipes open."""
_AHEAD = 1 << 20
"""So much of stdin is read before the CLI takes it."""
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def tapped(obey: Callable[[Any, int], None], unread: Callable[[], int]) -> Callable[..., None]:
    """``obey`` of the stand-in, which becomes a recorder at the order ``R``."""

    def obey_or_record(control: socket.socket, heard: int) -> None:
        obey(_Tap(control, heard, unread), heard)

    return obey_or_record


class _Tap:
    """A control channel that looks for one order; the others go on to the hand."""

    def __init__(self, control: socket.socket, heard: int, unread: Callable[[], int]) -> None:
        self._control = control
        self._heard = heard
        self._unread = unread
        self._inbox = bytearray()
        self.fileno = control.fileno
        self.sendall = control.sendall

    def recv(self, size: int) -> bytes:
        passed = bytearray()
        while not passed:
            piece = self._control.recv(size)
            if not piece:
                return b""
            self._inbox += piece
            while (frame := _frame(self._inbox)) is not None:
                kind, content = frame
                if kind == b"R":
                    Recorder(self._control, self._heard, self._unread, self._inbox).run()
                passed += kind + len(content).to_bytes(4, "big") + content
        return bytes(passed)


def _frame(inbox: bytearray) -> tuple[bytes, bytes] | None:
    """The first whole frame, taken out of ``inbox``."""
    if len(inbox) < 5:
        return None
    end = 5 + int.from_bytes(inbox[1:5], "big")
    if len(inbox) < end:
        return None
    found = bytes(inbox[:1]), bytes(inbox[5:end])
    del inbox[:end]
    return found


class Recorder:
    """One run of the real CLI, passed through and told of."""

    def __init__(
        self, control: socket.socket, heard: int, unread: Callable[[], int], inbox: bytearray
    ) -> None:
        self._control = control
        self._heard = heard
        self._unread = unread
        self._inbox = inbox
        self._orders: list[tuple[bytes, bytes]] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._out = {1: bytearray(), 2: bytearray()}
        """What is still to be written, by descriptor."""
        self._broken = False
        self._written = 0
        self._begun: dict[int, bytearray] = {}
        """The CLI's pipes that are open: what came of the line that has not ended."""
        self._stdin = bytearray()
        self._stdin_ended = False
        self._to_child: int | None = None
        self._started = 0.0
        self._exited_at: float | None = None
        self._told_end = False

    def run(self) -> NoReturn:
        """All of it; ends the process."""
        for number in (*_PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)  # told by the wakeup descriptor
        self._say(b"Y", b"\0".join(b"%b=%b" % each for each in os.environb.items()))
        try:
            while True:
                self._obey()
                self._step(None)
        except OSError:  # the test is over
            if self._child is not None and self._exited_at is None:
                self._child.kill()
            os._exit(1)

    # -- orders

    def _obey(self) -> None:
        while self._orders:
            kind, content = self._orders[0]
            if kind in (b"X", b"K") and any(self._out.values()):
                return
            del self._orders[0]
            if kind == b"C":
                self._start(content)
            elif kind == b"O":
                self._out[1] += content
            elif kind == b"E":
                self._out[2] += content
            elif kind == b"P":
                self._step(0)  # what came before the question is told before its answer
                unread = 0 if self._broken else self._unread() + len(self._out[1])
                written = self._written + len(self._out[1])
                self._say(b"P", b"%d %d %d" % (written, unread, self._broken))
            elif kind == b"X":
                os._exit(content[0])
            elif kind == b"K":
                if content[0] != signal.SIGKILL:
                    signal.signal(content[0], signal.SIG_DFL)
                os.kill(os.getpid(), content[0])

    def _start(self, content: bytes) -> None:
        cli, folder, ended, given = content.split(b"\0", 3)
        self._stdin_ended = ended == b"1"
        self._stdin += given
        env = dict(os.environb)
        # Else a `claude` that the CLI's own tools call would be us again.
        path = env.get(b"PATH", b"").split(b":")
        env[b"PATH"] = b":".join(each for each in path if each != folder)
        self._started = time.monotonic()
        try:
            self._child = child = subprocess.Popen(
                [cli, *map(os.fsencode, sys.argv[1:])],
                bufsize=0,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                preexec_fn=_apart,  # noqa: PLW1509 - there is one thread
            )
        except OSError as error:
            self._out[2] += b"claude (recorder): " + os.fsencode(f"{error}\n")
            self._say(b"D", (127).to_bytes(4, "big", signed=True) + self._now())
            return
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        self._to_child = child.stdin.fileno()
        os.set_blocking(self._to_child, False)
        self._begun = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
        self._pipes = {child.stdout.fileno(): 1, child.stderr.fileno(): 2}

    # -- what happens

    def _step(self, patience_ms: int | None) -> None:
        ready = self._ready(patience_ms)
        self._serve(ready)
        if self._control.fileno() in ready:
            piece = self._control.recv(1 << 20)
            if not piece:
                raise OSError
            self._inbox += piece
            while (frame := _frame(self._inbox)) is not None:
                if frame[0] == b"T":
                    os._exit(frame[1][0])
                self._orders.append(frame)
        self._look_for_end()

    def _ready(self, patience_ms: int | None) -> set[int]:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._heard, select.POLLIN)
        for pipe in self._begun:
            poll.register(pipe, select.POLLIN)
        for stream, pending in self._out.items():
            if pending:
                poll.register(stream, select.POLLOUT)
        if self._to_child is not None and not self._stdin_ended and len(self._stdin) < _AHEAD:
            poll.register(0, select.POLLIN)
        if self._to_child is not None and self._stdin:
            poll.register(self._to_child, select.POLLOUT)
        if patience_ms is None and self._exited_at is not None and not self._told_end:
            patience_ms = max(0, round((self._exited_at + _LINGER - time.monotonic()) * 1000))
        return {number for number, _ in poll.poll(patience_ms)}

    def _serve(self, ready: set[int]) -> None:
        if self._heard in ready:
            self._hear_signals()
        for pipe in ready & set(self._begun):
            self._read(pipe)
        for stream in ready & set(self._out):
            self._write(stream)
        if 0 in ready:
            self._read_stdin()
        if self._to_child is not None:
            self._feed_child(can=self._to_child in ready)

    def _hear_signals(self) -> None:
        child = self._child
        for number in os.read(self._heard, 64):
            if number == signal.SIGCHLD:
                if child is not None and self._exited_at is None and child.poll() is not None:
                    self._exited_at = time.monotonic()
            elif child is None or self._exited_at is not None:
                os._exit(128 + number)
            else:
                self._say(b"N", bytes((number,)) + self._now())
                child.send_signal(number)

    def _read(self, pipe: int) -> None:
        piece = os.read(pipe, 1 << 16)
        stream = self._pipes[pipe]
        now = self._now()
        if piece:
            self._out[stream] += piece
            first, *others = piece.split(b"\n")
            self._begun[pipe] += first
            for other in others:
                self._say(b"L", bytes((stream,)) + now + self._begun[pipe])
                self._begun[pipe] = bytearray(other)
            return
        if self._begun[pipe]:
            self._say(b"l", bytes((stream,)) + now + self._begun[pipe])
        del self._begun[pipe]

    def _write(self, stream: int) -> None:
        pending = self._out[stream]
        try:
            # So much can be written without blocking, so that a signal is heard meanwhile.
            count = os.write(stream, pending[: select.PIPE_BUF])
            self._written += count if stream == 1 else 0
        except OSError:  # nobody reads any more; the CLI goes on all the same
            count = len(pending)
            self._broken = self._broken or stream == 1
        del pending[:count]

    def _read_stdin(self) -> None:
        try:
            piece = b"" if os.isatty(0) else os.read(0, 1 << 16)
        except OSError:
            piece = b""
        self._say(b"I", piece)
        self._stdin += piece
        self._stdin_ended = not piece

    def _feed_child(self, *, can: bool) -> None:
        assert self._to_child is not None
        if can and self._stdin:
            try:
                del self._stdin[: os.write(self._to_child, self._stdin[: 1 << 16])]
            except BlockingIOError:
                return
            except OSError:  # it has closed its stdin
                self._stdin.clear()
                self._stdin_ended = True
        if self._stdin_ended and not self._stdin:
            assert self._child is not None
            assert self._child.stdin is not None
            self._child.stdin.close()
            self._to_child = None

    def _look_for_end(self) -> None:
        if self._exited_at is None or self._told_end or self._child is None:
            return
        if self._begun and time.monotonic() < self._exited_at + _LINGER:
            return
        for pipe, rest in self._begun.items():  # somebody else has it open
            if rest:
                self._say(b"l", bytes((self._pipes[pipe],)) + self._now() + rest)
        self._begun = {}
        self._told_end = True
        code = self._child.returncode.to_bytes(4, "big", signed=True)
        self._say(b"D", code + self._now(self._exited_at))

    # -- telling

    def _now(self, at: float | None = None) -> bytes:
        since = (time.monotonic() if at is None else at) - self._started
        return round(since * 1_000_000).to_bytes(8, "big")

    def _say(self, kind: bytes, content: bytes | bytearray) -> None:
        self._control.sendall(kind + len(content).to_bytes(4, "big") + content)


def _apart() -> None:
    """In the CLI, before it is one: a group of its own, since we pass signals on, and a death
    with ours, since SIGKILL cannot be passed on."""
    os.setpgid(0, 0)
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))
    except (AttributeError, ImportError, OSError):  # not Linux
        pass
