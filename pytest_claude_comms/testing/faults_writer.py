"""A writer that dies: a real process that streams into a message and is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .fake_clock import FakeClock
from .fault import Fault
from .faults_target import is_sqlite, is_tinydb, tell_watchers

if TYPE_CHECKING:
    from .faults_target import FileStore

_ROOT = str(Path(__file__).resolve().parents[2])


class Writer:
    """Appends ``after`` pieces, one every so many microseconds, and is killed inside the next.

    It writes only when told to, so that on a fake clock all has its instant: the time stands
    still meanwhile, since whoever tells it keeps the turn until it has answered.
    """

    def __init__(
        self,
        store: FileStore,
        message_id: str,
        fault: Fault,
        *,
        after: int,
        every_us: int,
        text: str,
    ) -> None:
        self._store = store
        self._clock = store.clock
        self._message_id = message_id
        self._fault = fault
        self._after = after
        self._every_us = every_us
        self._text = text
        self._process: subprocess.Popen[str] | None = None
        self._started = threading.Lock()

    def start(self) -> None:
        """Let it write from now on, in the time of the store's clock."""
        fault, clock = self._fault, self._clock

        def writer() -> None:
            self._write()

        writer.__qualname__ = f"the writer of {self._message_id} that dies"
        fault.when_undone(self._end)
        handle = clock.spawn(writer)
        fault.goes_on_in(handle)
        if not isinstance(clock, FakeClock):  # there it may be parked, and ends with the clock
            fault.when_undone(handle.join)
        fault.when_undone(self._kill)

    def _write(self) -> None:
        with self._started:
            if self._fault.is_undone:
                return
            self._process = self._open()
        try:
            for number in range(1, self._after + 1):
                self._pause()
                self._order("append", number)
                tell_watchers(self._store)
            self._pause()
            self._order("die", self._after + 1)
            self._kill()
            self._fault.meet()
            tell_watchers(self._store)
        except _Ended as ended:
            if not self._fault.is_undone:
                raise RuntimeError(
                    f"faults.writer_dies: the writer of {self._message_id} came to grief before "
                    f"its time: {ended}"
                ) from None
        finally:
            self._end()

    def _pause(self) -> None:
        if self._every_us:
            self._fault.pause(self._every_us, "its next piece")
        if self._fault.is_undone:
            raise _Ended

    def _open(self) -> subprocess.Popen[str]:
        # Not by an installed package: what is tested may not be one.
        path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.faults_writer_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        self._tell(
            process,
            url=self._store.url,
            durability=self._durability(),
            message_id=self._message_id,
        )
        return process

    def _durability(self) -> str:
        if is_sqlite(self._store):
            return self._store._durability
        return "power" if is_tinydb(self._store) and self._store._power else "process"

    def _order(self, what: str, number: int) -> None:
        process = self._process
        assert process is not None
        now_us = self._clock.now_us() if isinstance(self._clock, FakeClock) else None
        self._tell(process, what=what, text=self._text.format(n=number), now_us=now_us)
        assert process.stdout is not None
        answer = process.stdout.readline()
        if not answer:
            assert process.stderr is not None
            said = "" if self._fault.is_undone else process.stderr.read().strip()
            raise _Ended(said.rpartition("\n")[2] or "it was killed by somebody else")

    @staticmethod
    def _tell(process: subprocess.Popen[str], **order: Any) -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # what it says last is still to be read
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()

    def _kill(self) -> None:
        with self._started:
            process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            process.wait()

    def _end(self) -> None:
        self._kill()
        process = self._process
        if process is not None:
            for pipe in (process.stdin, process.stdout, process.stderr):
                assert pipe is not None
                with suppress(BrokenPipeError):
                    pipe.close()


class _Ended(Exception):
    """The writer is no more."""
