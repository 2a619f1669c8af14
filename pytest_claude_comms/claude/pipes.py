"""The three pipes of a child process, each served by a thread of its own.

The CLI cuts its output off when nobody reads for some seconds (observed on CLI 2.1.330; 2.1.197
after half a second), and a child whose stderr is full stops. So what comes is taken at once,
whatever the consumer does.
"""

from __future__ import annotations

import array
import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Final

with suppress(ImportError):  # not on Windows
    # Here, and not where they are used: to import one may take a descriptor, and none may be free.
    import fcntl
    import termios

from .lifeline import hold, let_go

_CHUNK: Final = 65_536
_WIDE: Final = 1 << 20
_F_SETPIPE_SZ: Final = 1031
_CAN_POLL: Final = hasattr(select, "poll")
"""Elsewhere (Windows) a read blocks until something comes, and cannot be called off."""
_PATIENCE: Final = 1.0


class Stop:
    """Calls off what the threads wait for, all at once."""

    def __init__(self) -> None:
        self._read = self._write = -1

    def open(self) -> None:
        """Before a thread waits. Raises OSError if no descriptor is free."""
        if _CAN_POLL:
            self._read, self._write = os.pipe()

    def set(self) -> None:
        """From now on no thread waits. Setting twice is allowed, after an interrupt too."""
        if self._write >= 0:
            # A fork of this process may have this end too: then to close it says nothing.
            os.write(self._write, b"!")
            # Forgotten first: once it is closed the number may be somebody else's.
            write, self._write = self._write, -1
            os.close(write)

    def close(self) -> None:
        """After the threads have ended."""
        self.set()
        if self._read >= 0:
            read, self._read = self._read, -1
            os.close(read)

    def wait(self, fd: int, event: int) -> bool:
        """Until ``event`` on ``fd``, or its end; False if called off before."""
        poller = select.poll()
        poller.register(fd, event)
        poller.register(self._read, select.POLLIN)
        return any(ready == fd for ready, _ in poller.poll())


class Worker:
    """A thread that can be called off until it has begun.

    What a signal's handler raises inside ``Thread.start()`` leaves open whether the thread will
    run, and when.
    """

    def __init__(self, target: Callable[[], object], name: str) -> None:
        self._target = target
        self._owner: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._is_for("thread")

    def call_off(self) -> bool:
        """Whether it has not begun, and never will. Nor does it if it is asked again."""
        return self._is_for("caller")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, if it was not called off; whether it has."""
        if not self.call_off():
            self._thread.join(timeout)
            return not self._thread.is_alive()
        return True

    def _is_for(self, asker: str) -> bool:
        return self._owner.setdefault("owner", asker) == asker  # one step for any other thread

    def _run(self) -> None:
        if self._is_for("thread"):
            self._target()


class PipeReader:
    """Hands what comes out of a pipe to ``keep``, in order; at its end calls ``ended``."""

    def __init__(
        self,
        pipe: IO[bytes],
        stop: Stop,
        keep: Callable[[bytes], None],
        ended: Callable[[], None],
        name: str,
    ) -> None:
        self._pipe = pipe
        self._fd = pipe.fileno()
        self._stop = stop
        self._keep = keep
        self._tell_end = ended
        self._lock = threading.Lock()
        """Held from a read until what it gave is kept: two readers keep the order."""
        self.at_end = False
        """Whether all who had the other end open have closed it, and all is read."""
        self._worker = Worker(self._run, name)
        if _CAN_POLL:
            os.set_blocking(self._fd, False)

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def widen(self) -> None:
        """Let the pipe hold more, for when this whole process is held up (Linux only)."""
        with suppress(NameError, OSError):
            fcntl.fcntl(self._fd, _F_SETPIPE_SZ, _WIDE)

    def start(self) -> None:
        self._worker.start()

    def drain(self) -> bool:
        """After the child's exit: keep all that it wrote, and say whether that is the end of the
        pipe. If not, another process has it open too.

        A pipe is read in the order in which it was written, so what it holds now has all of it;
        what another process goes on to write is not waited for.
        """
        if self._pipe.closed:
            return self.at_end
        if not _CAN_POLL:
            self._worker.join(_PATIENCE)
            return self.at_end
        left = self._waiting()
        while left >= 0:
            count = self._read()
            if not count:
                break
            left -= count
        return self.at_end

    def close(self) -> None:
        """After ``stop.set()``."""
        # To close it under a blocked read would block too.
        if self._worker.join(None if _CAN_POLL else _PATIENCE):
            self._pipe.close()

    def _run(self) -> None:
        while not self.at_end:
            if _CAN_POLL and not self._stop.wait(self._fd, select.POLLIN):
                return
            self._read()

    def _read(self) -> int:
        """How many bytes came. 0: none is there, or it is the end."""
        with self._lock:
            try:
                chunk = b"" if self.at_end else os.read(self._fd, _CHUNK)
            except BlockingIOError:
                return 0
            except OSError:  # EIO and its like: nothing more can come
                chunk = b""
            if chunk:
                self._keep(chunk)
            elif not self.at_end:
                self.at_end = True
                self._tell_end()
            return len(chunk)

    def _waiting(self) -> int:
        held = array.array("i", [0])
        with self._lock:
            fcntl.ioctl(self._fd, termios.FIONREAD, held)
        return held[0]


class PipeWriter:
    """Writes ``data`` into a pipe and closes it."""

    def __init__(self, pipe: IO[bytes], stop: Stop, data: bytes, name: str) -> None:
        self._pipe = pipe
        self._fd = pipe.fileno()
        self._stop = stop
        self._data = data
        self._worker = Worker(self._run, name)
        if _CAN_POLL:
            os.set_blocking(self._fd, False)
        hold(pipe)

    def start(self) -> None:
        self._worker.start()

    def close(self) -> None:
        """After ``stop.set()``."""
        if self._worker.join(None if _CAN_POLL else _PATIENCE):
            let_go(self._pipe)

    def _run(self) -> None:
        # A program may have given SIGPIPE its default back, as filters do: a child that leaves the
        # prompt unread would then end this process. It is sent to the thread that writes.
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
        left = memoryview(self._data)
        # A child that closes its stdin or ends does not want the rest: that is no error.
        with suppress(OSError):
            while left:
                if _CAN_POLL and not self._stop.wait(self._fd, select.POLLOUT):
                    break
                with suppress(BlockingIOError):
                    left = left[os.write(self._fd, left[:_CHUNK]) :]
        let_go(self._pipe)
