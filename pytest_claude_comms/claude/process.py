"""One run of the Claude CLI: its pipes, its end, and nothing left of it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Final

from .. import resources
from ..clock import SECOND, Clock, SystemClock, Wakeup, seconds_to_us
from .child import FOR_CERTAIN, GENTLY, Child
from .lifeline import Lifeline, no_fork
from .outcome import Intent, check_intent
from .pipes import PipeReader, PipeWriter, Stop, Worker

__all__ = ["ClaudeProcess", "running"]

_LINGER_US: Final = 1_000_000
"""For how long output is still taken after the CLI has exited by itself, while another process has
its pipes open: a ``tee`` in a wrapper script has to pass on the last of it."""
_LINGER_BYTES: Final = 16 << 20
"""How much of stdout may come in that time."""

MOST_UNREAD: Final = 256 << 20
"""So many bytes of stdout are kept for a consumer that is not done with what came before. The CLI
writes some kilobytes a second; what is faster than this for long is no answer."""

_running: dict[int, ClaudeProcess] = {}


def running() -> dict[int, ClaudeProcess]:
    """The runs that this process has started and that have not ended, by pid."""
    return dict(_running)


class ClaudeProcess:
    """Runs the CLI in the directory ``cwd``, with ``prompt`` on its stdin.

    ::

        from pytest_claude_comms import ClaudeProcess, StreamReader, SystemClock
        from pytest_claude_comms.claude.command import build_command, build_environment

        clock, reader = SystemClock(), StreamReader()
        wakeup = clock.wakeup()
        with ClaudeProcess(prompt, cwd=module, command=build_command(),
                           env=build_environment(os.environ), clock=clock,
                           on_output=wakeup.set) as process:
            while True:
                over = process.ended        # asked first: what came before is then taken below
                chunks = process.take()
                for chunk in chunks:
                    for update in reader.feed_bytes(chunk):
                        print(update)
                process.done_with(chunks)
                if over:
                    break
                wakeup.wait(None, why="Claude")
        outcome = reader.finish(process.exit_code, process.stderr, process.intent)

    No shell is involved. The process has a session of its own and the environment ``env``, plus a
    mark by which its descendants are known. Its output is read at once into memory, by threads of
    its own. On leaving the ``with`` block it is ended. When this process dies, however, the run
    is ended too (by a small shell beside it: see ``lifeline``; not on Windows).

    ``on_output`` is called, from any thread, whenever there is something to take and when the
    process has ended. ``grace`` is how many seconds a process is given to obey SIGTERM, ``clock``
    what they are counted on; ``stderr_tail`` how many bytes of stderr are kept.

    On a fake clock the process is declared as work outside by the key ``pid``, from ``start()``
    until it has ended, and again before each signal. Whoever knows that it waits for time to
    pass (a stand-in for the CLI) may say so with ``clock.outside_rests(process.pid)``, once its
    output is ``done_with``. With ``in_turn`` it need not be: who takes it runs on that clock
    (``clock.spawn``) and is woken by ``on_output``, so it has its turn before time passes; and if
    it waits for time meanwhile, as for a slow store, time has to pass.

    Raises ValueError for a prompt with lone surrogates. Methods may be called from any thread.
    """

    def __init__(
        self,
        prompt: str,
        *,
        cwd: str | os.PathLike[str],
        command: Sequence[str],
        env: Mapping[str, str],
        clock: Clock | None = None,
        on_output: Callable[[], object] | None = None,
        grace: float = 5.0,
        stderr_tail: int = 65_536,
        in_turn: bool = False,
    ) -> None:
        if not isinstance(prompt, str):
            raise TypeError(f"prompt must be a str, not {prompt!r}")
        if isinstance(command, str) or not command:
            raise TypeError(f"command must be a list of words, not {command!r}")
        try:
            self._prompt = prompt.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the prompt holds a lone surrogate: {error}") from None
        self.cwd = os.fspath(cwd)
        self.command = list(command)
        self._env = dict(env)
        self._clock = SystemClock() if clock is None else clock
        self._on_output = on_output
        self._grace_us = seconds_to_us(grace, "grace")
        self._tail = stderr_tail
        self._in_turn = in_turn
        self._lock = threading.Lock()
        self._finishing = threading.RLock()
        self._child: Child | None = None
        self._intent: Intent | None = None
        self._declaring = threading.Lock()
        self._lingers = False
        """Whether it has exited, and time passes until others let go of its pipes."""
        self.is_over = False
        """Whether all who wait for it have been told that it has ended, and the clock too."""
        self._ending = self._hurried = self._ended = False
        self._chunks: list[bytes] = []
        self._bytes_read = 0
        self._most: int | None = None
        self._bytes_processed = 0
        self._bytes_told = 0
        self._overflowed = False
        self._stderr = bytearray()
        self._wakeups: list[Wakeup] = []

    # -- what is known of it

    @property
    def pid(self) -> int:
        """Raises RuntimeError before ``start()``."""
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal, as ``Popen.returncode``; None while it runs, and for good if it
        was not this that reaped it: where a program ignores SIGCHLD, the system does."""
        return None if self._child is None else self._child.exit_code

    @property
    def ended(self) -> bool:
        """Whether it is over: reaped, its output read, and dead what was to die with it."""
        return self._ended

    @property
    def intent(self) -> Intent | None:
        """What it was ended for; None if it was not, or only since it did not exit by itself."""
        return self._intent

    @property
    def stderr(self) -> str:
        """The last ``stderr_tail`` bytes of stderr so far; what is no UTF-8 is replaced."""
        with self._lock:
            tail = bytes(self._stderr[-self._tail :]) if self._tail else b""
        return tail.decode(errors="replace")

    @property
    def overflowed(self) -> bool:
        """Whether more than ``MOST_UNREAD`` bytes were waiting: what came after is lost."""
        return self._overflowed

    @property
    def bytes_read(self) -> int:
        """How many bytes of stdout have come."""
        return self._bytes_read

    @property
    def bytes_processed(self) -> int:
        """How many bytes of stdout the consumer is done with."""
        return self._bytes_processed

    @property
    def bytes_handled(self) -> int:
        """How many bytes of stdout fake time need not wait for any more."""
        return self._bytes_told if self._in_turn else self._bytes_processed

    # -- what it prints

    def take(self) -> list[bytes]:
        """The pieces of stdout that came since the last call, cut anywhere. Never waits."""
        with self._lock:
            chunks, self._chunks = self._chunks, []
        return chunks

    def done_with(self, chunks: Iterable[bytes]) -> None:
        """Say that these pieces have had all the effect that they are going to have."""
        count = sum(len(chunk) for chunk in chunks)
        with self._lock:
            self._bytes_processed += count

    def _keep_stdout(self, chunk: bytes) -> None:
        with self._lock:
            self._bytes_read += len(chunk)
            if self._overflowed or self._bytes_read - self._bytes_processed > MOST_UNREAD:
                # Read on, for a process that cannot write does not obey either, and forget it.
                self._overflowed = True
                self._bytes_processed += len(chunk)
            else:
                self._chunks.append(chunk)
            if self._most is not None and self._bytes_read > self._most:
                self._hurried = True
        if self._hurried:
            self._hurry.set()
        self._tell()
        with self._lock:
            self._bytes_told += len(chunk)

    def _keep_stderr(self, chunk: bytes) -> None:
        with self._lock:
            self._stderr += chunk
            if len(self._stderr) > 2 * self._tail + len(chunk):  # not with each chunk: it copies
                del self._stderr[: len(self._stderr) - self._tail]

    def _tell(self) -> None:
        if self._on_output is None:
            return
        try:
            self._on_output()
        except BaseException as error:  # noqa: BLE001 - the pipe has to be read on
            # On a fake clock that has stopped, even reporting raises.
            with suppress(BaseException):
                self._clock.unhandled(error, f"on_output of {self!r}")

    # -- its start

    def start(self) -> None:
        """Start it. Returns once the CLI's program runs; the prompt is written meanwhile.

        Raises :class:`~pytest_claude_comms.errors.ClaudeNotFound`,
        :class:`~pytest_claude_comms.errors.ModuleDirectoryNotFound`, ``ClaudeError`` for what
        else the system refuses (no permission, arguments too long, no more processes),
        RuntimeError if it was started before. Whatever it raises, Ctrl-C too, no process is left.
        """
        if self._child is not None:
            raise RuntimeError("this run has been started already")
        child = Child(self.command, self.cwd, self._env)
        self._exited, self._hurry = self._clock.wakeup(), self._clock.wakeup()
        self._lifeline = Lifeline(child.token, self._grace_us / SECOND)
        self._stop = Stop()
        try:
            try:
                self._stop.open()
            except OSError as error:
                raise child.refused(error) from error
            with no_fork():
                child.start()
                self._adopt(child)
                # Before the prompt: a CLI that nobody would end must have nothing to do.
                self._lifeline.tie(child.pid)
            self._clock.outside_works(child.pid, self._works)
            _running[child.pid] = self
            resources.register(self)
            for thread in (self._out, self._err, self._in, self._watcher):
                thread.start()
        except BaseException:  # it was refused, no thread is to be had, or Ctrl-C
            if not child.was_started:
                self._stop.close()
                raise
            if self._child is None:
                self._adopt(child)
            self.kill()
            raise

    def _adopt(self, child: Child) -> None:
        """Make what serves it, and only then call it ours: ``kill()`` needs all of that."""
        name = f"claude-comms claude {child.pid}"
        stdin, stdout, stderr = child.pipes
        stop, at_end = self._stop, self._hurry.set
        self._out = PipeReader(stdout, stop, self._keep_stdout, at_end, f"{name} stdout")
        self._err = PipeReader(stderr, stop, self._keep_stderr, at_end, f"{name} stderr")
        self._in = PipeWriter(stdin, stop, self._prompt, f"{name} stdin")
        self._watcher = Worker(self._watch, name)
        self._child = child

    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("this run has not been started")
        return self._child

    # -- its end

    def begin_end(self, intent: Intent | None = None) -> None:
        """Begin to end it, and return: SIGTERM to it and its group, ``grace``, SIGKILL, then
        SIGKILL to all its descendants, wherever they have gone.

        ``intent`` is written down before any signal. The first call counts: later ones change
        nothing, nor does any after the process has exited by itself. Raises ValueError for an
        unknown intent, RuntimeError before ``start()``.
        """
        check_intent(intent)
        self._started()
        try:
            if self._claim(intent):
                self._clock.spawn(self._end_gently)
        except BaseException:  # Ctrl-C, or a fake clock that has stopped: who would do the rest?
            self.kill()
            raise

    def end(self, intent: Intent | None = None) -> None:
        """End it, as ``begin_end`` does, and wait on the clock until it has ended."""
        self.begin_end(intent)
        self.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait on the clock until it has ended; False if ``timeout`` seconds pass before.

        Its output has to be taken meanwhile, or before: on a fake clock no time passes while some
        of it is not handled.
        """
        self._started()
        span = None if timeout is None else seconds_to_us(timeout, "timeout")
        wakeup = self._clock.wakeup()
        with self._lock:
            self._wakeups.append(wakeup)
            if self._ended:
                wakeup.set()
        try:
            until = None if span is None else self._clock.monotonic_us() + span
            while not self._ended:
                left = None if until is None else max(0, until - self._clock.monotonic_us())
                if not wakeup.wait(left, why=f"the end of {self!r}") and left == 0:
                    break
        finally:
            with self._lock:
                self._wakeups.remove(wakeup)
        return self._ended

    def kill(self) -> None:
        """End it and its descendants without grace; returns once that is done.

        For cleaning up: the few milliseconds that it takes are real on any clock, so that it
        works on a clock that has stopped too.
        """
        self._claim(None)
        self._signal(FOR_CERTAIN)
        if self._watcher.call_off():
            with self._finishing:
                self._watch()
        else:
            self._watcher.join()
        self._finish()

    def _claim(self, intent: Intent | None) -> bool:
        """Write down the intent. Whether it is for this call to end the process."""
        child = self._started()
        with self._lock:
            self._hurried = True
            claimed = not self._ending and not child.has_exited
            if claimed:
                self._ending = True
                self._intent = intent
        self._hurry.set()
        return claimed

    def _signal(self, number: int) -> None:
        child = self._started()
        child.signal(number, before=lambda: self._clock.outside_works(child.pid, self._works))

    def _end_gently(self) -> None:
        try:
            self._signal(GENTLY)
            self._exited.wait(self._grace_us, why=f"{self!r} to obey SIGTERM")
        finally:  # also when the clock stops meanwhile, or no thread or descriptor is to be had
            self._signal(FOR_CERTAIN)

    def _watch(self) -> None:
        child = self._started()
        child.await_exit()
        self._exited.set()
        # All that it wrote is in the pipes by now.
        held = not self._drain()
        self._most = self._bytes_read + _LINGER_BYTES
        if held and not self._hurried:
            self._lingers = True
            with suppress(BaseException):  # a fake clock that has stopped: no lingering then
                self._clock.spawn(self._linger)
                self.rests_if_it_lingers()
                return
            self._lingers = False
        self._finish()

    def _linger(self) -> None:
        child = self._started()
        until = self._clock.monotonic_us() + _LINGER_US
        try:
            while not (self._hurried or (self._out.at_end and self._err.at_end)):
                left = until - self._clock.monotonic_us()
                if left <= 0:
                    break
                self._hurry.wait(left, why=f"others to let go of the pipes of {self!r}")
        finally:
            with self._declaring:
                self._lingers = False
                self._clock.outside_works(child.pid, self._works)
            self._finish()

    def _drain(self) -> bool:
        return all([self._out.drain(), self._err.drain()])

    def _works(self) -> str:
        """What goes on outside, for a person whose fake clock stands still."""
        left = self._bytes_read - self.bytes_handled
        untaken = f", {left:,} bytes of whose output are not handled: take(), done_with(chunks)"
        return f"claude (pid {self.pid}{untaken if left else ''})"

    def _finish(self) -> None:
        """Once it has exited: kill what has to die, end the threads, close all. Only once."""
        child = self._started()
        with self._finishing:
            if self._ended:
                return
            # If it has exited by itself, what it left running may stay, but not what would sooner
            # or later block on a pipe that nobody reads.
            inodes = () if self._ending else (self._out.inode, self._err.inode)
            try:
                if self._ending or not self._drain():
                    child.kill_relatives(make_room=self._close, pipes=frozenset(inodes))
                self._drain()
            finally:  # whatever fails: nobody may wait for ever
                try:
                    self._close()
                finally:
                    self._tell_end()

    def _close(self) -> None:
        with ExitStack() as rest:  # each of them, whatever another raises
            rest.callback(self._lifeline.cut)
            rest.callback(self._stop.close)
            for pipe in (self._in, self._out, self._err):
                rest.callback(pipe.close)
            self._stop.set()

    def rests_if_it_lingers(self) -> bool:
        """Take back that it works, for whoever may have said so too late; whether it lingers."""
        with self._declaring:
            if self._lingers:
                self._clock.outside_rests(self.pid)
            return self._lingers

    def _tell_end(self) -> None:
        with self._lock:
            self._ended = True
            wakeups = list(self._wakeups)
        _running.pop(self.pid, None)
        try:
            self._tell()
            for wakeup in wakeups:
                wakeup.set()
            # Last: on a fake clock whoever was told has its turn before time moves on.
            self._clock.outside_rests(self.pid)
        finally:
            self.is_over = True

    def left_open(self) -> str | None:
        """See :mod:`pytest_claude_comms.resources`."""
        if self._ended or self._child is None:
            return None
        return f"{self!r} was not ended: call its end(), or use it in a with block"

    def __enter__(self) -> ClaudeProcess:
        if self._child is None:
            self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.end()
        except BaseException:  # the clock has stopped, or Ctrl-C
            self.kill()
            raise

    def __repr__(self) -> str:
        if self._child is None:
            state = "not started"
        elif not self._child.has_exited:
            state = f"process {self._child.pid}"
        elif self._child.exit_code is None:
            state = f"process {self._child.pid}, exit code unknown"
        else:
            state = f"process {self._child.pid}, exit code {self._child.exit_code}"
        return f"<ClaudeProcess in {self.cwd}: {state}>"
