"""A ``claude`` on PATH that does what a test has scripted."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .. import resources
from ..clock import Clock, SystemClock, seconds_to_us
from .actors import Real
from .claude_calls import Call
from .claude_executable import remove_executable, why_not_here, write_executable
from .claude_link import Link
from .claude_play import Player
from .claude_script import Condition, Run, Verbs, condition
from .claude_speaker import Tokens
from .claude_stage import Stage
from .claude_steps import Recorded
from .fake_clock import FakeClock

if TYPE_CHECKING:
    from .recording import Recordings

_LONGEST_SOCKET_PATH: Final = 100  # of some 104 to 108
_LOOK_AGAIN: Final = 0.01  # real seconds, where a system is short of something


class ScriptedClaude(Verbs):
    """Stands in for the Claude CLI: an executable named ``claude`` in a folder of its own.

    ::

        claude.replies("Use _key", after=3, chunks=5, every=0.2)
        claude.retries(529, times=2).replies("ok")              # one run: two retries, then ok
        claude.uses_tool("Read", {"file_path": "a.txt"}, result="text").replies("It says text.")
        claude.when(prompt="schema", module="arangodb").fails(429)
        ...
        assert [call.prompt for call in claude.calls] == [...]

    **A run is what one process does.** Statements on ``claude`` build a run up until it has an
    end (``replies``, ``fails``, ``refuses``, ``max_turns``, ``hangs``, …); the next statement
    begins the next run. What is chained to a call goes to that call's run:
    ``claude.replies("a").never_exits()``, or, with ``--input-format stream-json``, a second turn:
    ``claude.replies("a").replies("b")``. A run left without an end stops with an error.

    **Each process that is started takes one run:** the first unused one whose ``when(…)`` fits,
    else the first unused one without a ``when``. A process for which there is none says so on
    stderr, exits with 1, and ``close`` (the end of the test) raises AssertionError. Runs that
    nobody used are for :meth:`assert_all_used`. ``--version`` and ``--help`` take no run and are
    no call. What the CLI itself refuses takes no run either: an unknown option, an empty prompt,
    a session that it does not know.

    **Time** is the ``clock``'s. On a :class:`FakeClock` delays are fake, while process, pipes and
    signals are real: fake time stands still while the process works, and goes on while it waits
    and all that it wrote has been handled. For that, whoever starts it declares it, as
    ``ask_module`` and ``ClaudeProcess`` do. Processes that these start take turns: they take
    their runs in the order in which they were started, each prints all that it has for an instant
    before anybody else goes on, and ``ask_module(wait=False)`` returns when the process waits for
    the first time or has ended. So the same test has the same events in the same order, always.
    Started by a plain ``subprocess``, it is known to the clock only once it has come up, some
    15 ms later; of two the one that comes up first takes the first run; and handled is what has
    been read from the pipe: time may jump before your code has acted on it. Wrap the start and
    what follows from the output in ``clock.outside(…)``. A test that itself blocks on such a
    process (``subprocess.run``) keeps its turn, so no fake time passes and a delay never ends: the
    clock's watchdog fails the test with ClockDeadlock after 10 real seconds. A signal of the
    test's own goes by ``claude.calls[0].kill(SIGTERM)``, which tells the clock.

    **Ids and delays** that the CLI draws at random follow from the arguments, the prompt and the
    name of the directory: the same in every run of the test, whoever of several comes first.

    The executable talks to this object over a Unix socket whose path is written in it, so that
    it works with any environment. Windows has none: the constructor raises RuntimeError there,
    with what :func:`why_not_here` says.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        clock: Clock | None = None,
        *,
        recordings: Recordings | None = None,
    ) -> None:
        reason = why_not_here()
        if reason is not None:
            raise RuntimeError(reason)
        self.folder = os.path.abspath(os.fspath(folder))
        """Put it first on PATH."""
        self.executable = os.path.join(self.folder, "claude")
        """Its path, for ``cli_path=`` and the like."""
        self.clock: Clock = SystemClock() if clock is None else clock
        self._recordings = recordings
        places = {} if recordings is None else recordings.places
        self._stage = Stage(self.clock, self.executable, places)
        self._players: set[Player] = set()
        self._threads: list[threading.Thread] = []
        self._mutex = threading.Lock()
        self._socket_folder = _short_folder()
        path = os.path.join(self._socket_folder, "s")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door = socket.socket(socket.AF_UNIX)  # now: there may be none to be had in the end
        self._path = path
        self._closed = False
        try:
            self._server.bind(path)
            self._server.listen(128)
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            write_executable(
                self.executable, path, records=recordings is not None and recordings.records
            )
        except BaseException:
            self._remove_socket()
            raise
        if isinstance(self.clock, FakeClock):
            self.clock.watch_test()  # a test that starts no actor may still block on us
        self._serving = self._start(self._serve, "server")
        resources.register(self)

    # -- scripting

    def _run(self) -> Run:
        return self._stage.run_for(Condition())

    def when(
        self,
        *,
        prompt: str | re.Pattern[str] | None = None,
        module: str | os.PathLike[str] | None = None,
    ) -> When:
        """Script a run for some calls only: those whose prompt has a match of the regular
        expression ``prompt``, in the directory ``module`` (a path, or just its last part).

        ``when(…).recorded(…)`` plays a recording for them. While one waits, no call is refused
        as the CLI would refuse it: that is for its recording to tell.
        """
        return When(self, condition(prompt, module))

    def recorded(self, name: str | None = None) -> Run:
        """Script the next run from ``transcripts/<name>.jsonl`` beside the test's file.

        ``name`` is by default made of the test's. Without ``--claude-comms-record`` the recorded
        lines are played at their recorded times, with the recorded exit code. With it the real
        CLI runs instead, and if the test passes its run is written there, redacted.

        Raises AssertionError if there is no such recording. A call with other arguments or
        another prompt than the recorded one fails the test; with ``--input-format stream-json``
        so does any message that differs, is missing or is one too many, and an answer waits for
        its message. UUIDs among the arguments and names of temporary files may differ, and the
        session that is named now is the one that the lines name.
        """
        __tracebackhide__ = True
        return self._recorded_for(Condition(), name)

    def _recorded_for(self, condition: Condition, name: str | None) -> Run:
        __tracebackhide__ = True
        recording = self._its_recordings("recorded").get(name)
        run = Run(condition)
        run._add(Recorded(recording), f".recorded({recording.name!r})")
        self._stage.add(run)
        return run

    def redact(self, hook: Callable[[str], str]) -> None:
        """Have recordings redacted by ``hook`` too: text in, text out, for every argument, every
        string of a JSON line, every other line, and the prompt before it is compared. It has to be
        given when a recording is played, too."""
        if not callable(hook):
            raise TypeError(f"redact() takes a function from str to str, not {hook!r}")
        self._its_recordings("redact").hooks.append(hook)

    def _its_recordings(self, verb: str) -> Recordings:
        if self._recordings is None:
            raise RuntimeError(f"{verb}() is for the claude fixture, which knows the test's folder")
        return self._recordings

    @property
    def longest_hang(self) -> float | None:
        """How many real seconds a process that hangs as scripted may do so where there is no fake
        clock: after 60, unless it is set to another number, or to None for no limit, it ends and
        the test fails. On a fake clock there is none: a hang that nothing ends is a deadlock."""
        return self._stage.longest_hang

    @longest_hang.setter
    def longest_hang(self, seconds: float | None) -> None:
        if seconds is not None:
            seconds_to_us(seconds, "longest_hang")
        self._stage.longest_hang = seconds

    def knows_session(self, session_id: str) -> None:
        """Accept ``--resume`` of a session that none of its processes began."""
        self._stage.sessions.setdefault(session_id, Tokens())

    # -- asserting

    @property
    def calls(self) -> list[Call]:
        """The processes started so far, in order."""
        return self._stage.calls()

    def assert_all_used(self) -> None:
        """Raise AssertionError if a run, or a turn of one, was scripted and not played."""
        __tracebackhide__ = True
        page = self._stage.unused()
        if page is not None:
            raise AssertionError(page)

    # -- its life

    def close(self) -> None:
        """Kill what still runs, and let go of the socket.

        Raises AssertionError, once, if a process was started for which nothing was scripted.
        """
        __tracebackhide__ = True
        self._close()
        pages = self._stage.take_pages()
        if pages:
            raise AssertionError("\n".join(pages))

    def _close(self) -> None:
        with self._mutex:
            if self._closed:
                return
            self._stage.closing = True
            players = list(self._players)
        # Interrupted, it leaves nothing that a later test would meet; again, it goes on.
        with contextlib.ExitStack() as left:
            left.callback(remove_executable, self.executable)
            left.callback(self._remove_socket)
            if self._stage.cast is not None:
                left.callback(self._stage.cast.close)
            for player in players:
                player.hand.kill()
            with contextlib.suppress(OSError):
                self._door.connect(self._path)  # wakes the server
            self._serving.join()  # it starts the others
            for thread in self._threads:
                if thread.ident is not None:  # else there was none to be had
                    thread.join()
        self._closed = True

    def _remove_socket(self) -> None:
        self._server.close()
        self._door.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            os.rmdir(self._socket_folder)

    def left_open(self) -> str | None:
        return None if self._closed else f"ScriptedClaude in {self.folder}: call close()"

    def __enter__(self) -> ScriptedClaude:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:  # the error that is under way says more
            self._close()

    def __repr__(self) -> str:
        return f"<ScriptedClaude {self.executable}, {self._stage}>"

    # -- its threads

    def _start(self, target: object, name: str, *args: object) -> threading.Thread:
        thread = threading.Thread(
            target=target,  # type: ignore[arg-type]
            args=args,
            name=f"claude-comms scripted {name}",
            daemon=True,
        )
        self._threads = [each for each in self._threads if each.is_alive() or not each.ident]
        self._threads.append(thread)
        thread.start()
        return thread

    def _serve(self) -> None:
        while (link := self._next_link()) is not None:
            player = Player(link, self._stage)
            with self._mutex:
                if self._stage.closing:
                    link.close()
                    return
                self._players.add(player)
            try:
                self._start(self._play, "player", player)
            except RuntimeError as error:  # the system has no more threads
                self._stage.failed(f"claude (scripted): nobody could play to a process: {error}")
                self._players.discard(player)
                link.close()

    def _next_link(self) -> Link | None:
        """To the process that comes next; None if the test is over."""
        came: socket.socket | None = None
        while True:
            try:
                if came is None:
                    came, _ = self._server.accept()
                return Link(came)
            except OSError:  # too many files are open: it waits until some are closed
                if self._stage.closing:
                    if came is not None:
                        came.close()
                    return None
            Real.sleep(_LOOK_AGAIN)

    def _play(self, player: Player) -> None:
        try:
            player.play()
        finally:
            with self._mutex:
                self._players.discard(player)


class When(Verbs):
    """The verbs for some calls only; see :meth:`ScriptedClaude.when`."""

    def __init__(self, claude: ScriptedClaude, condition: Condition) -> None:
        self._claude = claude
        self._condition = condition

    def _run(self) -> Run:
        return self._claude._stage.run_for(self._condition)

    def recorded(self, name: str | None = None) -> Run:
        """As :meth:`ScriptedClaude.recorded`, for these calls."""
        __tracebackhide__ = True
        return self._claude._recorded_for(self._condition, name)


def _short_folder() -> str:
    folder = tempfile.mkdtemp(prefix="claude-")
    if len(folder) > _LONGEST_SOCKET_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="claude-", dir="/tmp")
    return folder
