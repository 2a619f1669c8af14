"""A ``claude`` on PATH that does what a test has scripted."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import marshal
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from .. import resources
from ..clock import Clock, SystemClock
from ..render import clean
from .claude_calls import Call
from .claude_lines import Tokens
from .claude_link import Link
from .claude_play import Player, Record
from .claude_script import Condition, Recorded, Run, Verbs
from .fake_clock import FakeClock

if TYPE_CHECKING:
    from .recording import Recordings

_LONGEST_SHEBANG: Final = 127  # of Linux before 5.1; macOS has 512
_LONGEST_SOCKET_PATH: Final = 100  # of some 104 to 108
_ENOUGH: Final = 200


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
    ``ask_module`` and ``ClaudeProcess`` do. Started by a plain ``subprocess``, it is known to the
    clock only once it has come up, some 15 ms later, and handled is what has been read from the
    pipe: time may jump before your code has acted on it. Wrap the start and what follows from
    the output in ``clock.outside(…)``. A test that itself blocks on such a process
    (``subprocess.run``) keeps its turn, so no fake time passes and a delay never ends: the
    clock's watchdog fails the test with ClockDeadlock after 10 real seconds.

    The executable talks to this object over a Unix socket whose path is written in it, so that
    it works with any environment. Windows has none: the constructor raises RuntimeError there.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        clock: Clock | None = None,
        *,
        recordings: Recordings | None = None,
    ) -> None:
        if not hasattr(socket, "AF_UNIX") or sys.platform == "win32":
            raise RuntimeError(
                "ScriptedClaude needs Unix sockets and signals, as Linux and macOS have"
            )
        self.folder = os.path.abspath(os.fspath(folder))
        """Put it first on PATH."""
        self.executable = os.path.join(self.folder, "claude")
        """Its path, for ``cli_path=`` and the like."""
        self.clock: Clock = SystemClock() if clock is None else clock
        self.closing = False
        self._recordings = recordings
        self.sessions: dict[str, Tokens] = {}
        self._runs: list[Run] = []
        self._records: list[Record] = []
        self._pages: list[str] = []
        self._players: set[Player] = set()
        self._threads: list[threading.Thread] = []
        self._mutex = threading.Lock()
        self._socket_folder = _short_folder()
        path = os.path.join(self._socket_folder, "s")
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.bind(path)
        self._server.listen(128)
        self._path = path
        os.makedirs(self.folder, exist_ok=True)
        _write_executable(
            self.executable, path, records=recordings is not None and recordings.records
        )
        if isinstance(self.clock, FakeClock):
            self.clock._watchdog.start()  # a test that starts no actor may still block on us
        self._start(self._serve, "server")
        resources.register(self)

    # -- scripting

    def _run(self) -> Run:
        return self._run_for(Condition())

    def _run_for(self, condition: Condition) -> Run:
        with self._mutex:
            open_runs = [
                run
                for run in self._runs
                if run.accepts == condition and not run.is_ended and run.used_by is None
            ]
            if open_runs:
                return open_runs[-1]
            run = Run(condition)
            self._runs.append(run)
            return run

    def when(self, *, prompt: str | None = None, module: str | None = None) -> Verbs:
        """Script a run for some calls only: those whose prompt has a match of the regular
        expression ``prompt``, in the directory ``module`` (a path, or just its last part).
        """
        if prompt is None and module is None:
            raise ValueError("when() needs a prompt, a module or both")
        return _When(self, Condition(None if prompt is None else re.compile(prompt), module))

    def recorded(self, name: str | None = None) -> Run:
        """Script the next run from ``transcripts/<name>.jsonl`` beside the test's file.

        ``name`` is by default made of the test's. Without ``--claude-comms-record`` the recorded
        lines are played at their recorded times, with the recorded exit code. With it the real
        CLI runs instead, and if the test passes its run is written there, redacted.

        Raises AssertionError if there is no such recording. A call with other arguments or
        another prompt than the recorded one fails the test.
        """
        __tracebackhide__ = True
        recording = self._its_recordings("recorded").get(name)
        run = Run(Condition())
        run._add(Recorded(recording), f".recorded({recording.name!r})")
        with self._mutex:
            self._runs.append(run)
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

    def knows_session(self, session_id: str) -> None:
        """Accept ``--resume`` of a session that none of its processes began."""
        self.sessions.setdefault(session_id, Tokens())

    # -- asserting

    @property
    def calls(self) -> list[Call]:
        """The processes started so far, in order."""
        with self._mutex:
            for record in self._records:
                if record.exit_code is None and _is_reaped(record.how.pid):
                    record.exit_code = -9  # its player is about to notice
            return [record.as_call() for record in self._records]

    def assert_all_used(self) -> None:
        """Raise AssertionError if a run, or a turn of one, was scripted and not played."""
        __tracebackhide__ = True
        with self._mutex:
            left = [
                f"  {number}. {self._state(run)}" for number, run in self._numbered() if _left(run)
            ]
            if left:
                calls = [f"  {_asked(record)}" for record in self._records] or ["  none"]
                raise AssertionError(
                    "\n".join(["scripted for claude and not played:", *left, "calls:", *calls])
                )

    def _numbered(self) -> list[tuple[int, Run]]:
        return list(enumerate(self._runs, 1))

    def _state(self, run: Run) -> str:
        if run.used_by is None:
            return f"{run}: never used"
        played, all_turns = run.turns_played, len(run.turns())
        part = f", {played} of its {all_turns} parts" if played < all_turns else ""
        return f"{run}: used by call {run.used_by}{part}"

    # -- for the players

    def enter(self, record: Record) -> int:
        """A process was started."""
        with self._mutex:
            self._records.append(record)
            return len(self._records)

    def script_for(self, record: Record, number: int) -> Run | None:
        """The run for a call whose prompt is known."""
        with self._mutex:
            fitting = [
                run
                for run in self._runs
                if run.used_by is None and run.accepts.admits(record.prompt or "", record.how.cwd)
            ]
            fitting.sort(key=lambda run: not run.accepts.is_particular)
            if not fitting:
                return None
            fitting[0].used_by = number
            return fitting[0]

    def next_is_recorded(self, *, alone: bool = False) -> bool:
        with self._mutex:
            unused = [run for run in self._runs if run.used_by is None]
            waiting = [run for run in unused if not run.accepts.is_particular]
            if not waiting or (alone and len(waiting) < len(unused)):
                return False
            return waiting[0].recorded is not None

    def failed(self, page: str) -> str:
        with self._mutex:
            self._pages.append(page)
        return page

    def not_scripted(self, record: Record, what: str) -> str:
        """The page for a call of which the test said nothing, or too little; the test fails."""
        with self._mutex:
            scripted = []
            for number, run in self._numbered():
                state = self._state(run)
                if run.used_by is None:
                    why = run.accepts.why_not(record.prompt or "", record.how.cwd)
                    state = f"{run}: {why}"
                scripted.append(f"            {number}. {state}")
            page = "\n".join(
                [
                    f"claude (scripted): {what}",
                    f"  asked     {_asked(record)}",
                    f"  argv      {clean(shlex.join(record.how.argv))[:_ENOUGH]}",
                    "  scripted  " + ("\n".join(scripted).lstrip() or "nothing"),
                    '  hint      script a run for each process: claude.replies("…")',
                ]
            )
            self._pages.append(page)
            return page

    # -- its life

    def close(self) -> None:
        """Kill what still runs, and let go of the socket.

        Raises AssertionError, once, if a process was started for which nothing was scripted.
        """
        __tracebackhide__ = True
        self._close()
        pages, self._pages = self._pages, []
        if pages:
            raise AssertionError("\n".join(pages))

    def _close(self) -> None:
        with self._mutex:
            if self.closing:
                return
            self.closing = True
            players = list(self._players)
        for player in players:
            if player.pid is not None:  # it holds its end of the channel, so the pid is its own
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(player.pid, signal.SIGKILL)
            player.link.wake()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as door:
            door.connect(self._path)  # wakes the server
        for thread in self._threads:
            thread.join()
        self._server.close()
        shutil.rmtree(self._socket_folder, ignore_errors=True)
        for path in (self.executable, _behind(self.executable)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def left_open(self) -> str | None:
        return None if self.closing else f"ScriptedClaude in {self.folder}: call close()"

    def __enter__(self) -> ScriptedClaude:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self.close()
        else:  # the error that is under way says more
            self._close()

    def __repr__(self) -> str:
        counts = f"{len(self._runs)} runs, {len(self._records)} calls"
        return f"<ScriptedClaude {self.executable}, {counts}>"

    # -- its threads

    def _start(self, target: object, name: str, *args: object) -> None:
        thread = threading.Thread(
            target=target,  # type: ignore[arg-type]
            args=args,
            name=f"claude-comms scripted {name}",
            daemon=True,
        )
        self._threads = [each for each in self._threads if each.is_alive() or not each.ident]
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._server.accept()
            player = Player(Link(sock), self)
            with self._mutex:
                if self.closing:
                    player.link.close()
                    return
                self._players.add(player)
            self._start(self._play, "player", player)

    def _play(self, player: Player) -> None:
        try:
            player.play()
        finally:
            with self._mutex:
                self._players.discard(player)


class _When(Verbs):
    def __init__(self, claude: ScriptedClaude, condition: Condition) -> None:
        self._claude = claude
        self._condition = condition

    def _run(self) -> Run:
        return self._claude._run_for(self._condition)


def _is_reaped(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def _left(run: Run) -> bool:
    return run.used_by is None or run.turns_played < len(run.turns())


def _asked(record: Record) -> str:
    prompt = record.prompt
    asked = "nothing" if prompt is None else repr(prompt[:_ENOUGH])
    return f"{asked} in {clean(record.how.cwd)} (pid {record.how.pid})"


def _short_folder() -> str:
    folder = tempfile.mkdtemp(prefix="claude-")
    if len(folder) > _LONGEST_SOCKET_PATH:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="claude-", dir="/tmp")
    return folder


def _write_executable(path: str, socket_path: str, *, records: bool) -> None:
    program = f"from marshal import loads\nexec(loads({_compiled('stand_in.py')!r}))\n"
    if records:
        program += f"exec(loads({_compiled('recorder.py')!r}))\n_obey = tapped(_obey, _unread)\n"
    program += f"main({socket_path!r})\n"
    shebang = f"#!{sys.executable} -IS\n"
    if len(shebang) > _LONGEST_SHEBANG or any(char.isspace() for char in sys.executable):
        _write(_behind(path), program, 0o600)
        python, behind = shlex.quote(sys.executable), shlex.quote(_behind(path))
        shebang, program = "#!/bin/sh\n", f'exec {python} -IS {behind} "$@"\n'
    _write(path, shebang + program, 0o700)


def _behind(path: str) -> str:
    return f"{path}-stand-in.py"


def _write(path: str, text: str, mode: int) -> None:
    with open(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w", encoding="utf-8"
    ) as file:
        file.write(text)


@functools.cache
def _compiled(name: str) -> bytes:
    # Compiling it at each start would cost 3 ms.
    source = importlib.resources.files(__package__).joinpath(name).read_bytes()
    return marshal.dumps(compile(source, "<the scripted claude>", "exec", optimize=2))
