"""Drives what was scripted for one process: its command line, its session, turn after turn."""

from __future__ import annotations

import contextlib
import traceback
from typing import Final, NoReturn

from .claude_arguments import VERSION, Arguments, UsageError
from .claude_breaks import SIGINT, Endless, Exits, Gone, Interrupted, Signalled
from .claude_hand import Hand
from .claude_lines import Lines
from .claude_link import Link
from .claude_output import Output
from .claude_replay import Replay
from .claude_requests import Requests
from .claude_script import Run
from .claude_speaker import Line, Tokens
from .claude_stage import Stage
from .claude_steps import WrongUsage
from .claude_turn import TurnWriter

_PATIENCE_FOR_STDIN: Final = 3.0
_MOST_STDIN: Final = 10 * 1024 * 1024

_NO_INPUT: Final = (
    "Error: Input must be provided either through stdin or as a prompt argument when using --print"
)
_NO_STDIN: Final = "Warning: no stdin data received in 3s, proceeding without it."
_HINT: Final = 'script a run for each process: claude.replies("…")'
_ENDLESS: Final = (
    "claude (pid {pid}) hangs as scripted, and nothing has ended it for {seconds:g} real seconds: "
    "ask for `clock`, or give a timeout=; if your code has one that is longer, set "
    "claude.longest_hang"
)
_HELP: Final = "Usage: claude [options] [prompt]\n\nA scripted stand-in for the Claude CLI.\n"


class Player:
    """Plays to one process, on a thread of its own."""

    def __init__(self, link: Link, stage: Stage) -> None:
        self.hand = Hand(link, stage.clock, stage.cast, lambda: stage.closing)
        self._stage = stage
        self._requests: Requests | None = None
        """What is asked on stdin; None while that is plain text."""
        self._turns: TurnWriter | None = None
        """None until it was asked something."""
        self._lenient = False
        """Whether the real CLI is asked, or was, what it thinks of the command line."""

    def play(self) -> None:
        """All of it, until the process is gone."""
        try:
            if self.hand.take():
                self._record = self.hand.record
                self._play()
        except Gone:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to fail with it
            self._fail(error)
        finally:
            self.hand.let_go()

    def _fail(self, error: Exception) -> None:
        """The fault is ours, or the script's: it is not to look like one of the code tested."""
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        page = self._stage.failed(
            f"claude (scripted): the stand-in itself failed: {error!r}\n{trace.rstrip()}"
        )
        with contextlib.suppress(Exception):
            self.hand.give_up(page)
        self.hand.link.cut()  # it is gone, or goes now

    def _play(self) -> None:
        try:
            self.hand.exit(self._all())
        except Exits as exits:
            self.hand.exit(exits.code)
        except Endless:
            longest, pid = self._stage.longest_hang or 0, self._record.how.pid
            self.hand.give_up(self._stage.failed(_ENDLESS.format(pid=pid, seconds=longest)))
        except Signalled as signalled:
            if signalled.number != SIGINT:
                self.hand.exit(128 + signalled.number, at_once=True)
            if self._turns is not None:
                self._turns.break_off()
            self.hand.exit(0)

    # -- its command line

    def _all(self) -> int:
        how = self._record.how
        if how.cwd == "":
            return self.hand.complain("The current directory no longer exists.")
        self._lenient = self._stage.next_is_recorded()
        try:
            self._args = args = self._read_arguments(how.argv)
            if args.has("--version") or args.has("--help"):  # no call: the SDK asks on its own
                told = f"{VERSION} (Claude Code)\n" if args.has("--version") else _HELP
                self.hand.write(told.encode())
                return 0
        except UsageError as error:
            self._stage.enter(self._record)
            return self.hand.complain(str(error))
        self._output = Output(self.hand, args)
        self._number = self._stage.enter(self._record)
        try:
            if not self._lenient:
                args.check()
        except UsageError as error:
            return self.hand.complain(str(error))
        failure = self._open_session()
        if failure is not None:
            return failure
        if args.streams_in:
            self._requests = Requests(self._answer)
            self.hand.on_stdin = self._take_in
            # The CLI may be spoken to before it is asked anything.
            if self._stage.next_is_recorded(alone=True):
                self._take()
        self.hand.order("I")
        return self._one_prompt() if self._requests is None else self._stream(self._requests)

    def _read_arguments(self, argv: tuple[str, ...]) -> Arguments:
        try:
            return Arguments.read(argv)
        except UsageError:
            if not self._lenient:
                raise
            return Arguments()

    # -- its session

    def _open_session(self) -> int | None:
        """The exit code, if it cannot be."""
        args, sessions = self._args, self._stage.sessions
        resumed = args.resume
        if args.has("--continue") and sessions:
            resumed = list(sessions)[-1]
        if self._lenient and resumed is not None and resumed not in sessions:
            sessions = {resumed: Tokens()}
        if resumed is not None and resumed not in sessions:
            text = f"No conversation found with session ID: {resumed}"
            self.hand.complain(text)
            if args.output == "stream-json":
                seed = self._stage.seeds.take(self._record.how, "")
                self._output.print(self._make_lines(seed, resumed, Tokens()).startup_failure(text))
            return 1
        if resumed is None and args.session_id in sessions and not self._lenient:
            return self.hand.complain(f"Error: Session ID {args.session_id} is already in use.")
        self._sessions = sessions
        self._session_id = args.session_id if resumed is None else resumed
        self._spent = Tokens() if resumed is None else sessions[resumed]
        self._resumed = resumed is not None
        if args.has("--fork-session"):
            self._session_id = args.session_id
            self._spent = Tokens(self._spent.given, self._spent.made)
        if self._session_id is not None:  # taken from here on
            sessions[self._session_id] = self._spent
        return None

    def _begin(self, prompt: str) -> Run:
        """It was asked something, which decides what it plays, and under which ids."""
        self._record.prompt = prompt
        seed = self._stage.seeds.take(self._record.how, prompt)
        lines = self._make_lines(seed, self._session_id, self._spent, resumed=self._resumed)
        self._sessions[lines.session_id] = self._spent
        self._stage.seeds.name_session(lines.session_id, seed)
        requests = self._requests or Requests(self._answer)
        self._turns = TurnWriter(
            self.hand,
            self._output,
            lines,
            self._args,
            requests,
            longest_hang=self._stage.longest_hang,
        )
        return self._take()

    def _make_lines(
        self, seed: str, session_id: str | None, spent: Tokens, *, resumed: bool = False
    ) -> Lines:
        return Lines(
            seed=seed,
            clock=self._stage.clock,
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
            return self.hand.complain("Error: piped stdin input exceeds 10MB.")
        prompt = "\n".join(each for each in (asked, given) if each.strip())
        if not prompt and not self._lenient:
            return self.hand.complain(_NO_INPUT)
        run = self._begin(prompt)
        code = self._play_turn(run)
        self._play_end(run)
        return code

    def _read_stdin(self) -> str:
        hand, stdin = self.hand, self._record.stdin
        # Whoever is to write it is at work right now, so this wait is real on every clock.
        hand.wait_real(_PATIENCE_FOR_STDIN, until=lambda: hand.stdin_ended or bool(stdin))
        if not stdin and not hand.stdin_ended:
            if not self._lenient:
                hand.complain(_NO_STDIN)
        else:
            hand.wait_real(None, until=lambda: hand.stdin_ended or len(stdin) > _MOST_STDIN)
        return bytes(stdin).decode("utf-8", "replace")

    def _stream(self, requests: Requests) -> int:
        def asked_or_done() -> bool:
            return bool(requests.prompts) or self.hand.stdin_ended

        run: Run | None = None
        code = 0
        while True:
            if run is None:  # its caller is about to write
                self.hand.wait_real(None, until=asked_or_done)
            else:
                self.hand.wait(None, "its stdin", until=asked_or_done)
            if not requests.prompts:
                return code
            prompt = requests.prompts.pop(0)
            if run is None:
                run = self._begin(prompt)
            try:
                code = self._play_turn(run)
            except Interrupted:
                assert self._turns is not None
                self._turns.interrupt()
                code = 1
            self._play_end(run)

    def _take(self) -> Run:
        run = self._stage.script_for(self._record, self._number)
        if run is None:
            self._refuse("nothing is scripted for this call")
        self.hand.ignoring_term = run.ignoring_term
        if run.recording is not None:
            run.turns_played = 1
            recording = run.recording.recording
            raise Exits(Replay(self.hand, self._stage, recording, self._requests).run())
        if run.steps and isinstance(run.steps[0], WrongUsage):
            run.turns_played = 1
            raise Exits(self.hand.complain(run.steps[0].text))
        return run

    def _play_turn(self, run: Run) -> int:
        assert self._turns is not None
        steps, cut = run.next_turn()
        if not steps:
            self._refuse(
                "the run has no further turn, and was asked again",
                'chain what it answers then: claude.replies("a").replies("b")',
            )
        code = self._turns.write(steps, cut=cut)
        if code is None:
            self._refuse(
                "the script does not say how this turn ends",
                'chain an end to it, such as .replies("…"): says, uses_tool, denies and retries'
                " go on with the turn",
            )
        return code

    def _play_end(self, run: Run) -> None:
        """How it ends after a turn, if otherwise than it should."""
        end = run.next_end()
        if end is not None and self._requests is not None and end.how == "hang":
            return  # it is asked again, and hangs then
        if end is not None:
            assert self._turns is not None
            run.turns_played += 1
            self._turns.end(end)

    def _refuse(self, what: str, hint: str = _HINT) -> NoReturn:
        self._record.scripted = False
        raise Exits(self.hand.complain(self._stage.not_scripted(self._record, what, hint)))

    # -- its stdin, if it is asked there

    def _take_in(self, piece: bytes) -> None:
        assert self._requests is not None
        try:
            interrupted = self._requests.take_in(piece)
        except UsageError as error:
            raise Exits(self.hand.complain(str(error))) from None
        if interrupted and self._turns is not None and self._turns.going_on:
            raise Interrupted

    def _answer(self, line: Line) -> None:
        self._output.print(line)
        self.hand.flush()
