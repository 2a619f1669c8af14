"""Plays what was scripted to one stand-in: the head that goes with the hand of :mod:`stand_in`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from ..clock import SECOND, Clock, seconds_to_us
from ..errors import ClaudeNotFound, ClockDeadlock
from .actors import Real
from .claude_calls import VERSION, Arguments, Call, UsageError
from .claude_lines import ApiError, Line, Lines, Message, Tokens, Turn, encode
from .claude_link import HowCalled, Link, Progress
from .claude_script import (
    Ends,
    Fails,
    MaxTurns,
    NotLoggedIn,
    Recorded,
    Refuses,
    Retries,
    Run,
    Says,
    Step,
    UsesTool,
    WrongUsage,
)
from .claude_time import Rest, call_at_the_end, handled_by_runner, has_runner, leave
from .fake_clock import FakeClock

if TYPE_CHECKING:
    from ..claude.transcript import TranscriptEntry
    from .recording import Take

_SIGHUP, _SIGINT, _SIGTERM = 1, 2, 15
_PATIENCE_FOR_STDIN: Final = 3.0
_MOST_STDIN: Final = 10 * 1024 * 1024
_BUFFER: Final = 65_536
_LOOK_AGAIN: Final = 0.001
"""Real seconds between two looks at how far a reader is."""
_TICK: Final = 0.02
"""Real seconds after which a fake clock follows a run of the real CLI."""

_NO_INPUT: Final = (
    "Error: Input must be provided either through stdin or as a prompt argument when using --print"
)
_NO_STDIN: Final = "Warning: no stdin data received in 3s, proceeding without it."
_EMPTY_ANSWER: Final = "[Your previous response had no visible output. Please produce one.]"
_STOPPED: Final = "Your response above was stopped by a safety classifier. Do not repeat it."
_REFUSED: Final = "API Error: the safeguards flagged this message. Try to rephrase the request."
_NOT_LOGGED_IN: Final = "Not logged in · Please run /login"
_ABORTED: Final = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null"
_HELP: Final = "Usage: claude [options] [prompt]\n\nA scripted stand-in for the Claude CLI.\n"


class Gone(Exception):
    """The process is no more, or the test is over."""


class _Signalled(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Interrupted(Exception):
    """By a control request on stdin."""


class _TurnOver(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Exits(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(slots=True, eq=False)
class Record:
    """A call while it is going on."""

    how: HowCalled
    started_at: datetime
    stdin: bytearray = field(default_factory=bytearray)
    prompt: str | None = None
    exit_code: int | None = None
    scripted: bool = True

    def as_call(self) -> Call:
        return Call(
            argv=self.how.argv,
            cwd=self.how.cwd,
            stdin=bytes(self.stdin).decode("utf-8", "replace"),
            env=self.how.env,
            pid=self.how.pid,
            started_at=self.started_at,
            prompt=self.prompt,
            exit_code=self.exit_code,
            scripted=self.scripted,
        )


class Stage(Protocol):
    """Where the players of one test get their scripts."""

    clock: Clock
    sessions: dict[str, Tokens]
    closing: bool
    folder: str

    def next_is_recorded(self, *, alone: bool = False) -> bool:
        """Whether the next run without a ``when`` is played from a recording, or recorded;
        ``alone``: and there are none with a ``when``."""

    def failed(self, page: str) -> str:
        """The test fails with this page, which is returned."""

    def enter(self, record: Record) -> int:
        """A process was started; its number, from 1."""

    def script_for(self, record: Record, number: int) -> Run | None:
        """The run for a call whose prompt is known by now."""

    def not_scripted(self, record: Record, what: str) -> str:
        """The page for a call of which the test said nothing, or too little."""


class Player:
    """Plays to one process, on a thread of its own."""

    def __init__(self, link: Link, stage: Stage) -> None:
        self.link = link
        self.pid: int | None = None
        """None until it has said how it was called."""
        self._stage = stage
        self._clock = stage.clock
        self._had_runner = False
        self._output = bytearray()
        self._progress: Progress | None = None
        self._disturbed = False
        self._ignoring_term = False
        self._stdin_ended = False
        self._reads_lines = False
        self._lines_in = bytearray()
        self._prompts: list[str] = []
        self._permission: Line = {}
        self._turn: Turn | None = None
        self._resting: Rest | None = None
        self._over = False
        self._lenient = False
        """Whether the real CLI is asked, or was, what it thinks of the command line."""
        self._taking: Take | None = None

    # -- the process

    def play(self) -> None:
        """All of it, until the process is gone."""
        try:
            frame = self.link.next(None)
            while frame is None and not self._stage.closing:
                frame = self.link.next(None)
            if frame is None or frame.kind != "H":
                return
            self._record = Record(HowCalled.read(frame.content), self._clock.now())
            self.pid = self._record.how.pid
            self._declare()
            self._play()
        except Gone:
            pass
        finally:
            self._leave()

    def _play(self) -> None:
        try:
            self._end(self._all())
        except _Exits as exits:
            self._end(exits.code)
        except _Signalled as signalled:
            if signalled.number == _SIGINT:
                self._output_of_interrupt()
                self._end(0)
            else:
                self._end(128 + signalled.number, at_once=True)

    def _end(self, code: int, *, at_once: bool = False) -> None:
        self._record.exit_code = code
        if not at_once:
            self._flush()
        self.link.send("T" if at_once else "X", bytes([code]))
        while True:
            with contextlib.suppress(_Interrupted, _Exits):
                try:
                    self._hear(None)
                except _Signalled as signalled:  # it is still busy with what nobody reads
                    if signalled.number != _SIGINT:
                        self._record.exit_code = 128 + signalled.number
                        self.link.send("T", bytes([self._record.exit_code]))

    def _declare(self) -> None:
        """For a process that no runner of ours declares."""
        assert self.pid is not None
        if not has_runner(self.pid):
            self._clock.outside_works(self.pid, f"claude (pid {self.pid})")

    def _leave(self) -> None:
        if self.pid is not None:
            if self._record.exit_code is None:
                self._record.exit_code = -9
            if isinstance(self._clock, FakeClock):
                while has_runner(self.pid) and not self._stage.closing:
                    self._had_runner = True
                    Real.sleep(_LOOK_AGAIN)
                leave(self._clock, self.pid, had_runner=self._had_runner)
        self.link.close()

    # -- its command line

    def _all(self) -> int:
        how = self._record.how
        if how.cwd == "":
            return self._complain("The current directory no longer exists.")
        self._lenient = self._stage.next_is_recorded()
        try:
            self._args = args = self._read_arguments(how.argv)
            if args.has("--version") or args.has("--help"):  # no call: the SDK asks on its own
                told = f"{VERSION} (Claude Code)\n" if args.has("--version") else _HELP
                self._output += told.encode()
                return 0
        except UsageError as error:
            self._stage.enter(self._record)
            return self._complain(str(error))
        self._number = self._stage.enter(self._record)
        try:
            if not self._lenient:
                args.check()
        except UsageError as error:
            return self._complain(str(error))
        failure = self._open_session()
        if failure is not None:
            return failure
        # The CLI may be spoken to before it is asked anything.
        if args.streams_in and self._stage.next_is_recorded(alone=True):
            self._reads_lines = True
            self._take()
        self.link.send("I")
        return self._stream() if args.streams_in else self._one_prompt()

    def _read_arguments(self, argv: tuple[str, ...]) -> Arguments:
        try:
            return Arguments.read(argv)
        except UsageError:
            if not self._lenient:
                raise
            return Arguments()

    def _complain(self, text: str) -> int:
        self._flush()
        self.link.send("E", text.encode("utf-8", "backslashreplace") + b"\n")
        return 1

    def _open_session(self) -> int | None:
        args, sessions = self._args, self._stage.sessions
        resumed = args.resume
        if args.has("--continue") and sessions:
            resumed = list(sessions)[-1]
        if self._lenient:
            sessions = {resumed: Tokens()} if resumed else {}
        if resumed is not None and resumed not in sessions:
            text = f"No conversation found with session ID: {resumed}"
            self._complain(text)
            if args.output == "stream-json":
                self._print(
                    self._make_lines(resumed, Tokens(), resumed=False).startup_failure(text)
                )
            return 1
        if resumed is None and args.session_id in sessions:
            return self._complain(f"Error: Session ID {args.session_id} is already in use.")
        session_id = args.session_id if resumed is None else resumed
        spent = Tokens() if resumed is None else sessions[resumed]
        if args.has("--fork-session"):
            session_id, spent = args.session_id, Tokens(spent.given, spent.made)
        self._lines = self._make_lines(session_id, spent, resumed=resumed is not None)
        sessions[self._lines.session_id] = spent
        return None

    def _make_lines(self, session_id: str | None, spent: Tokens, *, resumed: bool) -> Lines:
        return Lines(
            seed=f"call {self._number}",
            clock=self._clock,
            cwd=self._record.how.cwd,
            session_id=session_id,
            model=self._args.options.get("--model"),
            spent=spent,
            resumed=resumed,
            whole_result=self._args.output == "stream-json",
        )

    # -- its turns

    def _one_prompt(self) -> int:
        asked = self._args.prompt or ""
        given = self._read_stdin()
        if len(self._record.stdin) > _MOST_STDIN and not self._lenient:
            return self._complain("Error: piped stdin input exceeds 10MB.")
        prompt = "\n".join(each for each in (asked, given) if each.strip())
        if not prompt and not self._lenient:
            return self._complain(_NO_INPUT)
        self._record.prompt = prompt
        run = self._take()
        turns = run.turns()
        run.turns_played = 1
        code = self._play_turn(turns[0] if turns else [])
        if len(turns) > 1 and isinstance(turns[1][0], Ends):
            run.turns_played = 2
            self._ends(turns[1][0])
        return code

    def _read_stdin(self) -> str:
        # Whoever is to write it is at work right now, so this wait is real on every clock.
        self._wait_real(
            _PATIENCE_FOR_STDIN, until=lambda: self._stdin_ended or bool(self._record.stdin)
        )
        if not self._record.stdin and not self._stdin_ended:
            if not self._lenient:
                self._complain(_NO_STDIN)
        else:
            self._wait_real(
                None,
                until=lambda: self._stdin_ended or len(self._record.stdin) > _MOST_STDIN,
            )
        return bytes(self._record.stdin).decode("utf-8", "replace")

    def _stream(self) -> int:
        self._reads_lines = True
        run: Run | None = None
        code = 0
        while True:
            if run is None:  # its caller is about to write
                self._wait_real(None, until=self._asked_or_done)
            else:
                self._wait(None, "its stdin", until=self._asked_or_done)
            if not self._prompts:
                return code
            prompt = self._prompts.pop(0)
            if run is None:
                self._record.prompt = prompt
                run = self._take()
            turns = run.turns()[run.turns_played :]
            run.turns_played += 1
            try:
                code = self._play_turn(turns[0] if turns else [])
            except _Interrupted:
                self._turn_interrupted()
                code = 1
            if len(turns) > 1 and isinstance(turns[1][0], Ends) and turns[1][0].how != "hang":
                run.turns_played += 1
                self._ends(turns[1][0])

    def _asked_or_done(self) -> bool:
        return bool(self._prompts) or self._stdin_ended

    def _take(self) -> Run:
        run = self._stage.script_for(self._record, self._number)
        if run is None:
            self._refuse("nothing is scripted for this call")
        self._run = run
        self._ignoring_term = run.ignoring_term
        if run.recorded is not None:
            run.turns_played = 1
            raise _Exits(self._recorded(run.recorded))
        if run.steps and isinstance(run.steps[0], WrongUsage):
            run.turns_played = 1
            raise _Exits(self._complain(run.steps[0].text))
        return run

    # -- a recording

    def _recorded(self, step: Recorded) -> int:
        if step.recording.transcript is None:
            return self._record_it(step)
        if self._reads_lines and self._record.prompt is None:
            self.link.send("I")
            self._wait_real(None, until=self._asked_or_done)
        page = step.recording.stale(self._record.how, self._stdin_prompt())
        if page is not None:
            return self._fail_call(page)
        return self._play_back(step)

    def _fail_call(self, page: str) -> int:
        self._record.scripted = False
        return self._complain(self._stage.failed(page))

    def _stdin_prompt(self) -> str:
        if self._reads_lines:
            if self._record.prompt is None:
                self._record.prompt = self._prompts[0] if self._prompts else ""
            return self._record.prompt
        return bytes(self._record.stdin).decode("utf-8", "replace")

    def _play_back(self, step: Recorded) -> int:
        run = step.recording.transcript
        assert run is not None
        start_us = self._clock.monotonic_us()
        # What the CLI did about a signal comes after that signal, whenever it comes now.
        first = run.signals[0] if run.signals else None
        before = [each for each in run.entries if first is None or each.t < first.t]
        try:
            self._play_entries(before, start_us)
            if first is None and run.exit is not None:
                self._wait_until(start_us + round(run.duration * SECOND))
            else:
                self._wait(None, "a signal, as when it was recorded", until=lambda: False)
        except _Signalled as signalled:
            names = {_SIGHUP: "HUP", _SIGINT: "INT", _SIGTERM: "TERM"}
            if first is None or names.get(signalled.number) != first.sig or run.exit is None:
                raise
            start_us = self._clock.monotonic_us() - round(first.t * SECOND)
            self._play_entries(run.entries[len(before) :], start_us)
            self._wait_until(start_us + round(run.duration * SECOND))
        assert run.exit is not None
        return run.exit if run.exit >= 0 else self._die(-run.exit)

    def _play_entries(self, entries: Sequence[TranscriptEntry], start_us: int) -> None:
        for place, entry in enumerate(entries):
            if entry.stream == "recorder" or (
                # The answers to requests on stdin are given to those that come now.
                self._reads_lines and entry.line.startswith('{"type":"control_response"')
            ):
                continue
            self._wait_until(start_us + round(entry.t * SECOND))
            data = entry.line.encode("utf-8", "surrogateescape")
            following = entries[place + 1 : place + 2]
            if not (following and following[0].line == f"no newline at the end of {entry.stream}"):
                data += b"\n"
            if entry.stream == "stdout":
                self._write(data)
            else:
                self._flush()
                self.link.send("E", data)
        self._flush()

    def _wait_until(self, us: int) -> None:
        while (left := us - self._clock.monotonic_us()) > 0:
            with contextlib.suppress(_Interrupted):
                self._wait(left / SECOND, "the next line of its recording")

    def _record_it(self, step: Recorded) -> int:
        reads_lines, self._reads_lines = self._reads_lines, False
        self._taking = take = step.recording.begin(
            self._record.how, "" if reads_lines else self._stdin_prompt()
        )
        self.link.send("R")
        while take.environ is None:
            self._hear(None)
        try:
            cli = take.find_cli(self._stage.folder)
        except ClaudeNotFound as error:
            return self._fail_call(f"claude (recorder): {error}")
        ended = b"1" if self._stdin_ended else b"0"
        head = [os.fsencode(cli), os.fsencode(self._stage.folder), ended, bytes(self._record.stdin)]
        self.link.send("C", b"\0".join(head))
        started, start_us = Real.monotonic(), self._clock.monotonic_us()
        fake = isinstance(self._clock, FakeClock)
        while take.exit is None:
            self._hear(_TICK if fake else None)
            now_us = start_us + round((Real.monotonic() - started) * SECOND)
            late_us = now_us - self._clock.monotonic_us()
            if fake and late_us >= _TICK * SECOND and not take.over:
                self._wait_until(now_us)
        if fake:  # the exit may have been told of in the middle of such a wait
            self._wait_until(start_us + take.end_us)
        if reads_lines:
            take.prompt = self._record.prompt = _first_prompt(bytes(self._record.stdin))
        return take.exit if take.exit >= 0 else self._die(-take.exit)

    def _die(self, number: int) -> NoReturn:
        self._flush()
        self._record.exit_code = -number
        self.link.send("K", bytes([number]))
        while True:
            with contextlib.suppress(_Signalled, _Interrupted):
                self._hear(None)

    def _refuse(self, what: str) -> NoReturn:
        self._record.scripted = False
        raise _Exits(self._complain(self._stage.not_scripted(self._record, what)))

    def _play_turn(self, steps: list[Step]) -> int:  # noqa: RET503 - _refuse does not return
        if not steps:
            self._refuse("the run has no further turn, and was asked again")
        self._turn = self._lines.begin_turn()
        self._message: Message | None = None
        self._index = 0
        self._begun = ""
        self._requested = False
        self._attempts = 0
        self._text = ""
        *before, last = self._run.steps
        truncated = isinstance(last, Ends) and last.how == "truncate"
        self._cut = truncated and bool(before) and steps[-1] is before[-1]
        key = "none" if isinstance(steps[0], NotLoggedIn) else "ANTHROPIC_API_KEY"
        mode = self._args.options.get("--permission-mode", "default")
        self._print(self._lines.init(key, mode))
        try:
            for step in steps:
                self._do(step)
            self._request()  # where --max-turns stops it
        except _TurnOver as over:
            self._turn = None
            return over.code
        self._refuse("the script does not say how this turn ends: add replies(…) or another end")

    # -- its steps

    def _do(self, step: Step) -> None:
        if isinstance(step, Says):
            self._say(step)
        elif isinstance(step, UsesTool):
            self._use_tool(step)
        elif isinstance(step, Retries):
            self._retry(step)
        elif isinstance(step, Fails):
            self._request()
            self._wait(step.after, "the API")
            self._fail(ApiError.of(step.status, step.message), status=step.status)
        elif isinstance(step, Refuses):
            self._be_refused(step)
        elif isinstance(step, NotLoggedIn):
            self._fail(ApiError(text=_NOT_LOGGED_IN, error="authentication_failed"), status=None)
        elif isinstance(step, MaxTurns):
            self._stop_at(self._args.max_turns or self._the_turn.messages)
        elif isinstance(step, Ends):
            self._ends(step)

    @property
    def _the_turn(self) -> Turn:
        assert self._turn is not None
        return self._turn

    def _request(self) -> None:
        """The next step needs the API."""
        limit = self._args.max_turns
        if self._message is None and limit is not None and self._the_turn.messages >= limit:
            self._stop_at(limit)
        if self._args.partial and self._message is None and not self._requested:
            self._requested = True
            self._print(self._lines.status("requesting"))

    def _open(self) -> Message:
        if self._message is None:
            self._message = self._lines.begin_message(self._the_turn)
            self._index = 0
            if self._args.partial:
                self._print(self._lines.message_start(self._message))
        return self._message

    def _close(self, stop_reason: str) -> None:
        message = self._message
        if message is not None:
            self._lines.end_message(self._the_turn, message)
            if self._args.partial:
                for line in self._lines.message_end(message, stop_reason):
                    self._print(line)
        self._message = None
        self._requested = False

    def _block(self, message: Message, block: Line) -> None:
        self._print(self._lines.assistant(message, block))
        if self._args.partial:
            self._print(self._lines.block_stop(message, self._index))
        self._index += 1

    def _say(self, step: Says) -> None:
        self._request()
        self._wait(step.after, "the API")
        if step.text:
            message = self._open()
            if self._args.partial:
                empty = {"type": "text", "text": ""}
                self._print(self._lines.block_start(message, self._index, empty))
            for place, piece in enumerate(step.pieces()):
                if place:
                    self._wait(step.every, "the API")
                self._begun += piece
                if self._args.partial:
                    delta = {"type": "text_delta", "text": piece}
                    self._print(self._lines.delta(message, self._index, delta))
            if step.unfinished:
                return
            self._begun = ""
            self._block(message, {"type": "text", "text": step.text})
            self._text = step.text
        elif step.ends and self._message is None:
            self._be_empty()
        if step.ends:
            self._close("end_turn")
            self._finish(
                stop_reason="end_turn",
                terminal_reason="completed",
                text=step.text,
                timed={"ttft": bool(step.text), "stream": True, "frame": bool(step.text)},
            )

    def _be_empty(self) -> None:
        """No visible output: the CLI asks once more, and takes it then."""
        self._open()
        self._close("end_turn")
        self._print(self._lines.nudge(_EMPTY_ANSWER))
        self._request()
        self._open()

    def _use_tool(self, step: UsesTool) -> None:
        self._request()
        self._wait(step.after, "the API")
        message = self._open()
        tool_use_id = self._lines.tool_use_id()
        given = dict(step.input)
        use = {"type": "tool_use", "id": tool_use_id, "name": step.name, "input": given}
        if self._args.partial:
            self._print(self._lines.block_start(message, self._index, {**use, "input": {}}))
            delta = {"type": "input_json_delta", "partial_json": json.dumps(given)}
            self._print(self._lines.delta(message, self._index, delta))
        self._block(message, use)
        self._close("tool_use")
        denied = step.denied
        by_caller = step.asks and denied is None and self._args.asks_by_stdio
        if step.asks and denied is None:
            denied = self._ask(tool_use_id, step.name, given)
        if denied is None:
            line = self._lines.tool_result(
                tool_use_id,
                step.name,
                given,
                step.result,
                is_error=step.is_error,
                asked=step.asks,
            )
        else:
            if not by_caller:  # who said no need not be told
                self._print(self._lines.permission_denied(step.name, tool_use_id, denied))
            line = self._lines.tool_denied(tool_use_id, denied)
            self._the_turn.denials.append(
                {"tool_name": step.name, "tool_use_id": tool_use_id, "tool_input": given}
            )
        self._print(line)

    def _ask(self, tool_use_id: str, name: str, given: Line) -> str | None:
        """Ask whoever started the process; why not, or None if it may."""
        if not self._args.asks_by_stdio:
            return f"{name} needs approval, and nobody is there to give it."
        request_id = self._lines.uuid()
        self._print(self._lines.can_use_tool(request_id, tool_use_id, name, given))
        self._wait(None, "an answer on its stdin", until=lambda: self._answer_to(request_id))
        answer = self._permission.get("response") or {}
        if answer.get("behavior") == "allow":
            return None
        return str(answer.get("message") or f"permission to use {name} was denied")

    def _answer_to(self, request_id: str) -> bool:
        return self._stdin_ended or self._permission.get("request_id") == request_id

    def _retry(self, step: Retries) -> None:
        self._request()
        for _ in range(step.times):
            self._attempts += 1
            delay_ms = self._lines.retry_delay_ms(self._attempts)
            if step.every is not None:
                delay_ms = round(step.every * 1000)
            most = self._record.how.max_retries
            self._print(self._lines.api_retry(self._attempts, most, delay_ms, step.status))
            self._wait(
                delay_ms / 1000 if step.every is None else step.every, "asking the API again"
            )

    def _fail(self, error: ApiError, *, status: int | None) -> None:
        has_id = status is not None
        request_id = self._lines.request_id() if has_id else None
        self._print(self._lines.synthetic(error, request_id=request_id))
        self._finish(
            stop_reason="stop_sequence",
            terminal_reason="image_error" if status == 413 else "api_error",
            text=error.text,
            error=error,
            is_error=True,
        )

    def _be_refused(self, step: Refuses) -> None:
        for place in range(2):
            self._request()
            message = self._open()
            self._block(message, {"type": "text", "text": step.text})
            self._close("refusal")
            if place == 0:
                self._print(self._lines.refusal_notice())
                self._print(self._lines.nudge(_STOPPED, refused_message_id=message.id))
            else:
                self._print(self._lines.no_fallback(message))
                error = ApiError(text=_REFUSED, error="invalid_request")
                line = self._lines.synthetic(
                    error, request_id=message.request_id, stop_reason="refusal"
                )
                self._print({**line, "refused_message_id": message.id})
        self._the_turn.safety_stops = 2
        self._finish(
            stop_reason="refusal", terminal_reason="api_error", text=_REFUSED, is_error=True
        )

    def _stop_at(self, limit: int) -> None:
        self._close("tool_use")
        self._finish(
            stop_reason="tool_use",
            terminal_reason="max_turns",
            subtype="error_max_turns",
            errors=[f"Reached maximum number of turns ({limit})"],
            is_error=True,
            extra_turns=1,
            told=f"Error: Reached max turns ({limit})",
        )

    def _ends(self, step: Ends) -> None:
        self._wait(step.after, "its end")
        if step.how in ("hang", "linger"):
            self._wait(None, "a signal: it hangs", until=lambda: False)
        if step.how == "crash":
            self._die(step.code)
        if step.how == "truncate":
            self._cut = True
            if self._turn is not None:
                self._finish(stop_reason="end_turn", terminal_reason="completed", text=self._text)
        if step.stderr:
            self._complain(step.stderr.removesuffix("\n"))
        raise _Exits(step.code)

    def _finish(self, *, text: str | None = None, told: str | None = None, **rest: Any) -> None:
        """The end of a turn: its result, as the output format has it."""
        line = self._lines.result(self._the_turn, text=text, begun=self._args.partial, **rest)
        if self._args.output == "text":
            said = told if told is not None else f"{text or ''}\n"
            self._write(said.encode("utf-8", "backslashreplace"))
        else:
            self._print(line, is_result=True)
        if self._cut:
            raise _Exits(0)
        raise _TurnOver(1 if line["is_error"] else 0)

    # -- its interruption

    def _output_of_interrupt(self) -> None:
        """What is printed at SIGINT, which depends on what was going on."""
        if self._turn is None:
            return
        nothing_yet = not (self._begun or self._attempts or self._the_turn.messages)
        if nothing_yet and self._args.output == "stream-json":
            self._print(self._lines.interrupted())  # 4 of 6 hangs had no result
        elif self._args.output != "text":
            self._turn_interrupted()

    def _turn_interrupted(self) -> None:
        message = self._message
        if message is not None and self._begun:
            block = {"type": "text", "text": self._begun}
            self._print(self._lines.assistant(message, block, aborted=True))
        if message is not None:
            self._lines.end_message(self._the_turn, message)
            self._message = None
        self._print(self._lines.interrupted())
        if message is not None and self._begun and self._args.partial:
            for line in self._lines.abandoned(message, self._index):
                self._print(line)
        turns = self._the_turn.messages
        self._cut = False
        with contextlib.suppress(_TurnOver):
            self._finish(
                stop_reason=None,
                terminal_reason="aborted_streaming",
                subtype="error_during_execution",
                errors=[_ABORTED],
                is_error=True,
                extra_turns=1 if turns <= 1 else 0,
                counts_usage=False,
            )
        self._turn = None

    # -- its output

    def _print(self, line: Line, *, is_result: bool = False) -> None:
        if self._args.output == "stream-json" or is_result:
            data = encode(line)
            if is_result and self._args.output == "json" and self._args.verbose:
                data = b"[" + b",".join([*self._array(), data[:-1]]) + b"]\n"
            self._write(data, is_last=is_result)
        elif self._args.output == "json" and self._args.verbose:
            self._array().append(encode(line)[:-1])

    def _array(self) -> list[bytes]:
        found: list[bytes] = self.__dict__.setdefault("_elements", [])
        return found

    def _write(self, data: bytes, *, is_last: bool = True) -> None:
        if is_last and self._turn is not None and self._cut:
            data = data[: len(data) // 2]
        self._output += data
        if len(self._output) > _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._output:
            data, self._output = bytes(self._output), bytearray()
            self.link.send("O", data)

    # -- waiting and listening

    def _wait(
        self, seconds: float | None, why: str, *, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Let so much time pass on the clock, or all (None), unless ``until`` comes before."""
        self._flush()
        if seconds == 0:
            return
        if isinstance(self._clock, FakeClock):
            self._wait_fake(self._clock, seconds, why, until)
        else:
            self._wait_real(seconds, until=until)

    def _wait_real(self, seconds: float | None, *, until: Callable[[], bool]) -> None:
        self._flush()
        end = None if seconds is None else Real.monotonic() + seconds
        while not until():
            left = None if end is None else end - Real.monotonic()
            if left is not None and left <= 0:
                return
            self._hear(left)

    def _wait_fake(
        self, clock: FakeClock, seconds: float | None, why: str, until: Callable[[], bool]
    ) -> None:
        assert self.pid is not None
        end_us = (
            None
            if seconds is None
            else clock.monotonic_us() + seconds_to_us(min(seconds, 1e11), "seconds")
        )
        if seconds is not None:
            why = f"{seconds:g} s for {why}"
        while not until():
            self._settle()
            us = None if end_us is None else max(0, end_us - clock.monotonic_us())
            try:
                if self._resting is None:
                    call_at_the_end(clock, self.pid, self._is_over)
                self._resting = rest = Rest(clock, self.pid, us, why, self.link.wake)
            except ClockDeadlock:
                raise Gone from None  # the test is over
            if self._over:  # it may have ended just before its rest was known
                rest.cancel()
            if self._rest(rest, until):
                return

    def _is_over(self) -> None:
        self._over = True
        if self._resting is not None:
            self._resting.cancel()

    def _rest(self, rest: Rest, until: Callable[[], bool]) -> bool:
        """Whether its time has passed; False if something else came."""
        self._disturbed = False
        try:
            while not rest.over:
                if rest.asked:
                    granted = self._is_handled(self._ping()) and not self._disturbed
                    rest.answer(granted=granted)
                    if not granted:
                        return False
                else:
                    self._hear(None)
                if self._disturbed or until():
                    return False
            return True
        finally:
            rest.cancel()

    def _settle(self) -> None:
        """Wait until what was written has been handled, and nothing is on its way."""
        while not self._is_handled(self._ping()):
            self._hear(_LOOK_AGAIN)

    def _is_handled(self, progress: Progress) -> bool:
        assert self.pid is not None
        if progress.broken:
            return True
        handled = handled_by_runner(self.pid)
        if handled is None:
            return progress.unread == 0
        self._had_runner = True
        return handled >= progress.written

    def _ping(self) -> Progress:
        self._progress = None
        self.link.send("P")
        while self._progress is None:
            self._hear(None)
        return self._progress

    def _hear(self, timeout: float | None) -> None:
        """Take in what the process says, if it does before ``timeout`` or a ``wake``."""
        frame = self.link.next(timeout)
        if self._stage.closing or (frame is not None and frame.kind == "gone"):
            raise Gone
        if frame is None:
            return
        if frame.kind == "P":
            self._progress = Progress.read(frame.content)
            return
        if self._taking is not None and self._taking.hears(frame):
            # A line ends no rest: nobody has declared the process as working, as whoever
            # signals it does, so between this rest and the next nothing would be due.
            self._disturbed = self._disturbed or frame.kind == "N"
            return
        self._disturbed = True
        if frame.kind == "S":
            if not (frame.content[0] == _SIGTERM and self._ignoring_term):
                raise _Signalled(frame.content[0])
        elif frame.kind == "I":
            self._declare()
            self._record.stdin += frame.content
            self._stdin_ended = self._stdin_ended or not frame.content
            if self._reads_lines:
                self._read_lines(frame.content)

    def _read_lines(self, piece: bytes) -> None:
        self._lines_in += piece
        if not piece and self._lines_in.strip():
            self._lines_in += b"\n"
        *whole, rest = bytes(self._lines_in).split(b"\n")
        self._lines_in = bytearray(rest)
        interrupted = False
        for line in whole:
            if line.strip():
                interrupted = self._read_line(line) or interrupted
        if interrupted and self._turn is not None:
            raise _Interrupted

    def _read_line(self, line: bytes) -> bool:
        """Whether it is an interrupt."""
        try:
            said = json.loads(line)
            kind = said.get("type")
        except (ValueError, AttributeError):
            raise _Exits(
                self._complain(
                    f"Error parsing streaming input line: {line.decode(errors='replace')}"
                )
            ) from None
        if kind == "user":
            self._prompts.append(_text_of(said))
        elif kind == "control_response":
            self._permission = said.get("response") or {}
        elif kind == "control_request":
            request = said.get("request") or {}
            answers = {"initialize": self._lines.initialized(), "interrupt": {"still_queued": []}}
            answer: Line = answers.get(str(request.get("subtype")), {})
            self._print(self._lines.control_response(said.get("request_id"), answer))
            self._flush()
            return bool(request.get("subtype") == "interrupt")
        return False


def _first_prompt(stdin: bytes) -> str:
    for line in stdin.split(b"\n"):
        with contextlib.suppress(ValueError, AttributeError):
            said = json.loads(line)
            if said.get("type") == "user":
                return _text_of(said)
    return ""


def _text_of(said: Line) -> str:
    content = (said.get("message") or {}).get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks if isinstance(block, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
