"""How a turn is written: its steps as lines, with the pauses between them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from .claude_arguments import Arguments
from .claude_breaks import Exits, TurnOver
from .claude_control_lines import can_use_tool
from .claude_errors import ApiError
from .claude_hand import Hand
from .claude_lines import Lines
from .claude_output import Output
from .claude_requests import Requests
from .claude_speaker import Line, Message, Turn
from .claude_steps import Ends, Fails, MaxTurns, NotLoggedIn, Refuses, Retries, Says, Step, UsesTool

_EMPTY_ANSWER: Final = "[Your previous response had no visible output. Please produce one.]"
_STOPPED: Final = "Your response above was stopped by a safety classifier. Do not repeat it."
_REFUSED: Final = "API Error: the safeguards flagged this message. Try to rephrase the request."
_NOT_LOGGED_IN: Final = "Not logged in · Please run /login"
_ABORTED: Final = "[ede_diagnostic] result_type=user last_content_type=n/a stop_reason=null"


class TurnWriter:
    """Writes the turns of one process, one at a time."""

    def __init__(
        self,
        hand: Hand,
        output: Output,
        lines: Lines,
        args: Arguments,
        requests: Requests,
        *,
        longest_hang: float | None,
    ) -> None:
        self._hand = hand
        self._output = output
        self._lines = lines
        self._args = args
        self._requests = requests
        self._longest_hang = longest_hang
        self._most_retries = hand.record.how.max_retries
        self._turn: Turn | None = None
        self._message: Message | None = None
        """The one that is being written."""
        self._index = 0
        """Of its next block."""
        self._begun = ""
        """What there is of a text block that has not ended."""
        self._requested = False
        self._attempts = 0
        """How often the API has been asked again for the message that is to come."""
        self._text = ""
        """The last whole block of text."""
        self._cut = False

    @property
    def going_on(self) -> bool:
        """Whether a turn has begun and not ended."""
        return self._turn is not None

    def write(self, steps: Sequence[Step], *, cut: bool) -> int | None:
        """All of a turn; the exit code if it is the last one, None if no step ends it.

        ``cut``: half of its last line is lost, and the process with it. Raises Exits, and what
        waiting raises.
        """
        self._turn = self._lines.begin_turn()
        self._message = None
        self._index = 0
        self._begun = ""
        self._requested = False
        self._attempts = 0
        self._text = ""
        self._cut = cut
        key = "none" if isinstance(steps[0], NotLoggedIn) else "ANTHROPIC_API_KEY"
        mode = self._args.options.get("--permission-mode", "default")
        self._output.print(self._lines.init(key, mode))
        try:
            for place, step in enumerate(steps):
                self._do(step, steps[place + 1 :])
            self._request()  # where --max-turns stops it
        except TurnOver as over:
            self._turn = None
            return over.code
        return None

    # -- its steps

    def _do(self, step: Step, following: Sequence[Step]) -> None:
        if isinstance(step, Says):
            self._say(step)
        elif isinstance(step, UsesTool):
            self._use_tool(step)
        elif isinstance(step, Retries):
            self._retry(step, following)
        elif isinstance(step, Fails):
            self._request()
            self._hand.wait(step.after, "the API")
            self._fail(ApiError.of(step.status, step.message), status=step.status)
        elif isinstance(step, Refuses):
            self._be_refused(step)
        elif isinstance(step, NotLoggedIn):
            self._fail(ApiError(text=_NOT_LOGGED_IN, error="authentication_failed"), status=None)
        elif isinstance(step, MaxTurns):
            self._stop_at(self._args.max_turns or max(1, self._the_turn.messages))
        elif isinstance(step, Ends):
            self.end(step)

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
            self._output.print(self._lines.status("requesting"))

    def _open(self) -> Message:
        if self._message is None:
            self._message = self._lines.begin_message(self._the_turn)
            self._index = 0
            self._attempts = 0  # each request has its own
            if self._args.partial:
                self._output.print(self._lines.message_start(self._message))
        return self._message

    def _close(self, stop_reason: str) -> None:
        message = self._message
        if message is not None:
            self._lines.end_message(self._the_turn, message)
            if self._args.partial:
                for line in self._lines.message_end(message, stop_reason):
                    self._output.print(line)
        self._message = None
        self._requested = False

    def _block(self, message: Message, block: Line) -> None:
        self._output.print(self._lines.assistant(message, block))
        if self._args.partial:
            self._output.print(self._lines.block_stop(message, self._index))
        self._index += 1

    def _say(self, step: Says) -> None:
        self._request()
        self._hand.wait(step.after, "the API")
        if step.text:
            message = self._open()
            if self._args.partial:
                empty = {"type": "text", "text": ""}
                self._output.print(self._lines.block_start(message, self._index, empty))
            for place, piece in enumerate(step.pieces()):
                if place:
                    self._hand.wait(step.every, "the API")
                self._begun += piece
                if self._args.partial:
                    delta = {"type": "text_delta", "text": piece}
                    self._output.print(self._lines.delta(message, self._index, delta))
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
        self._output.print(self._lines.nudge(_EMPTY_ANSWER))
        self._request()
        self._open()

    def _use_tool(self, step: UsesTool) -> None:
        self._request()
        self._hand.wait(step.after, "the API")
        message = self._open()
        tool_use_id = self._lines.tool_use_id()
        given = dict(step.input)
        use = {"type": "tool_use", "id": tool_use_id, "name": step.name, "input": given}
        if self._args.partial:
            self._output.print(self._lines.block_start(message, self._index, {**use, "input": {}}))
            delta = {"type": "input_json_delta", "partial_json": json.dumps(given)}
            self._output.print(self._lines.delta(message, self._index, delta))
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
                self._output.print(self._lines.permission_denied(step.name, tool_use_id, denied))
            line = self._lines.tool_denied(tool_use_id, denied)
            self._the_turn.denials.append(
                {"tool_name": step.name, "tool_use_id": tool_use_id, "tool_input": given}
            )
        self._output.print(line)

    def _ask(self, tool_use_id: str, name: str, given: Line) -> str | None:
        """Ask whoever started the process; why not, or None if it may."""
        if not self._args.asks_by_stdio:
            return f"{name} needs approval, and nobody is there to give it."
        request_id = self._lines.uuid()
        cwd = self._lines.cwd
        self._output.print(can_use_tool(request_id, tool_use_id, name, given, cwd=cwd))
        self._hand.wait(None, "an answer on its stdin", until=lambda: self._answer_to(request_id))
        answer = self._requests.permission.get("response") or {}
        if answer.get("behavior") == "allow":
            return None
        return str(answer.get("message") or f"permission to use {name} was denied")

    def _answer_to(self, request_id: str) -> bool:
        return self._hand.stdin_ended or self._requests.permission.get("request_id") == request_id

    def _retry(self, step: Retries, following: Sequence[Step]) -> None:
        self._request()
        for _ in range(step.times):
            if self._attempts >= self._most_retries:
                self._give_up(step.status, following)
            self._attempts += 1
            delay_ms = self._lines.retry_delay_ms(self._attempts)
            if step.every is not None:
                delay_ms = round(step.every * 1000)
            most = self._most_retries
            self._output.print(self._lines.api_retry(self._attempts, most, delay_ms, step.status))
            self._hand.wait(
                delay_ms / 1000 if step.every is None else step.every, "asking the API again"
            )

    def _give_up(self, status: int | None, following: Sequence[Step]) -> NoReturn:
        """As often as CLAUDE_CODE_MAX_RETRIES allows it has asked again."""
        for step in following:  # it says the same each time
            if isinstance(step, Fails) and step.status == status:
                self._fail(ApiError.of(status, step.message), status=status)
        self._fail(ApiError.of(status, None), status=status)

    def _fail(self, error: ApiError, *, status: int | None) -> NoReturn:
        has_id = status is not None
        request_id = self._lines.request_id() if has_id else None
        self._output.print(self._lines.synthetic(error, request_id=request_id))
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
                self._output.print(self._lines.refusal_notice())
                self._output.print(self._lines.nudge(_STOPPED, refused_message_id=message.id))
            else:
                self._output.print(self._lines.no_fallback(message))
                error = ApiError(text=_REFUSED, error="invalid_request")
                line = self._lines.synthetic(
                    error, request_id=message.request_id, stop_reason="refusal"
                )
                self._output.print({**line, "refused_message_id": message.id})
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

    def end(self, step: Ends) -> NoReturn:
        """End the process, in a turn or after one. Raises Exits, and what waiting raises."""
        self._hand.wait(step.after, "its end")
        if step.how in ("hang", "linger"):
            self._hand.hang("a signal: it hangs", self._longest_hang)
        if step.how == "crash":
            self._hand.die(step.code)
        if step.how == "truncate":
            self._cut = True
            if self._turn is not None:
                self._finish(stop_reason="end_turn", terminal_reason="completed", text=self._text)
        if step.stderr:
            self._hand.complain(step.stderr.removesuffix("\n"))
        raise Exits(step.code)

    def _finish(self, *, text: str | None = None, told: str | None = None, **rest: Any) -> NoReturn:
        """The end of a turn: its result, as the output format has it."""
        line = self._lines.result(self._the_turn, text=text, begun=self._args.partial, **rest)
        said = told if told is not None else f"{text or ''}\n"
        self._output.print_result(line, said, cut=self._cut)
        if self._cut:
            raise Exits(0)
        raise TurnOver(1 if line["is_error"] else 0)

    # -- its interruption

    def break_off(self) -> None:
        """What is printed at SIGINT, which depends on what was going on."""
        if self._turn is None:
            return
        nothing_yet = not (self._begun or self._attempts or self._the_turn.messages)
        if nothing_yet and self._args.output == "stream-json":
            self._output.print(self._lines.interrupted())  # 4 of 6 hangs had no result
        elif self._args.output != "text":
            self.interrupt()

    def interrupt(self) -> None:
        """End the turn that is going on, as a control request does."""
        message = self._message
        if message is not None and self._begun:
            block = {"type": "text", "text": self._begun}
            self._output.print(self._lines.assistant(message, block, aborted=True))
        if message is not None:
            self._lines.end_message(self._the_turn, message)
            self._message = None
        self._output.print(self._lines.interrupted())
        if message is not None and self._begun and self._args.partial:
            for line in self._lines.abandoned(message, self._index):
                self._output.print(line)
        turns = self._the_turn.messages
        self._cut = False
        with contextlib.suppress(TurnOver):
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
