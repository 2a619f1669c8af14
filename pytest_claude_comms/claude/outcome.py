"""What one run of the Claude CLI came to: the records, and the rules that decide them."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from ..status import MessageStatus
from .lines import without_surrogates

Intent: TypeAlias = Literal["timeout", "cancelled"]
"""What we did to a run that we ended ourselves."""

_STDERR_TAIL: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiRetry:
    """One ``system``/``api_retry`` line: the CLI is about to ask the API again.

    A field is None where the CLI gave none; ``error_status`` is None without an HTTP answer.
    """

    attempt: int | None
    max_retries: int | None
    retry_delay_ms: int | None
    error_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnResult:
    """One ``result`` line, the end of one turn.

    ``status`` is COMPLETE or FAILED, by ``is_error`` and ``subtype`` together: the CLI writes
    ``"subtype": "success"`` beside ``"is_error": true`` when the API failed (observed on
    CLI 2.1.330).
    """

    status: MessageStatus
    answer: str
    error: str | None
    error_kind: str | None
    subtype: str | None
    terminal_reason: str | None
    session_id: str | None
    cost_usd: float | None
    usage: Mapping[str, Any] = field(hash=False)
    num_turns: int | None
    duration_ms: int | None
    permission_denials: tuple[Mapping[str, Any], ...] = field(hash=False)
    raw: Mapping[str, Any] = field(hash=False, repr=False)
    """The whole line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOutcome:
    """What one run of the CLI came to.

    ``status``: what we did to the run comes first (``timeout``, ``cancelled``), since after a
    SIGINT the CLI exits 0. Then the last ``result`` line decides: ``complete`` if its
    ``is_error`` is false and its ``subtype`` "success", else ``failed``. Without a result line,
    or after a dropped overlong line, the run ``failed``. The exit code never decides: it adds a
    warning, or explains why there is no result.

    ``error`` and ``error_kind`` are None exactly for a complete run.
    """

    status: MessageStatus
    content: str
    """Every text block of the main conversation (those of subagents are not), in order, joined
    by a blank line. Whole ``assistant`` lines count; streamed deltas that none of them confirmed
    are void. The CLI reports an API failure as such a text block too."""
    answer: str
    """The text of the last result line (the last text block of its turn), or ""."""
    error: str | None
    """Why it did not complete, for a person."""
    error_kind: str | None
    """The same for a program: the first that is there of

    - "timeout" or "cancelled", if we ended the run;
    - "api_<HTTP status>", the ``error`` of the assistant line ("authentication_failed",
      "rate_limit", …), the result's ``terminal_reason`` ("max_turns", "aborted_streaming", …),
      its ``subtype`` if it is not "success", "bad_result" for a failed one that says no more;
    - "line_too_long", if a line above the reader's limit was dropped;
    - with no result line at all the most telling of: "signal", an exit by a signal that we did
      not send; "usage", nothing on stdout, an exit code other than 0 and a text on stderr (how
      the CLI refuses its arguments); else "no_result".
    """
    session_id: str | None
    """The last seen: ``/clear`` changes it in mid-stream."""
    model: str | None
    """As the last ``init`` line, or a model fallback after it, names it."""
    cost_usd: float | None
    """US dollars, as the last result line says: cumulative over the process, and over --resume
    (CLI 2.1.330)."""
    usage: Mapping[str, Any] = field(hash=False)
    """Tokens of the last turn as the CLI gives them; empty without a result line."""
    num_turns: int | None
    duration_ms: int | None
    """Of the last turn, as ``num_turns`` is."""
    permission_denials: tuple[Mapping[str, Any], ...] = field(hash=False)
    """Each with ``tool_name``, ``tool_use_id``, ``tool_input``; of all turns, none twice."""
    retries: tuple[ApiRetry, ...]
    results: tuple[TurnResult, ...]
    """One a turn. With stream input they tell the turns apart; the rest speaks of the last."""
    unknown_lines: int
    """How many lines of stdout were no JSON object, cut off, too long, or of a type that CLI
    2.1.330 and its SDK do not have. A warning quotes the first that could not be read."""
    warnings: tuple[str, ...]

    def as_metadata(self) -> dict[str, Any]:
        """What a message's metadata keeps of a run: JSON values, always these ten keys.

        ``session_id, model, cost_usd, usage, num_turns, duration_ms, error_kind`` as here,
        ``retries`` as their number, ``permission_denials`` and ``warnings`` as lists.
        """
        return {
            "session_id": self.session_id,
            "model": self.model,
            "cost_usd": self.cost_usd,
            "usage": dict(self.usage),
            "num_turns": self.num_turns,
            "duration_ms": self.duration_ms,
            "retries": len(self.retries),
            "error_kind": self.error_kind,
            "permission_denials": [dict(denial) for denial in self.permission_denials],
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, slots=True)
class AssistantError:
    """The failure that an assistant line told of, before the result line of its turn."""

    kind: str | None
    api_status: int | None
    text: str


@dataclass(slots=True)
class Evidence:
    """What a reader has seen so far, apart from the text."""

    lines: int = 0
    session_id: str | None = None
    model: str | None = None
    retries: list[ApiRetry] = field(default_factory=list)
    results: list[TurnResult] = field(default_factory=list)
    failure: AssistantError | None = None
    """Of the turn under way."""
    turn_under_way: bool = False
    unknown: int = 0
    unreadable: int = 0
    first_unreadable: str = ""
    cut_off: bool = False
    undecodable: int = 0
    too_long: int = 0


def check_intent(intent: object) -> None:
    """Raises ValueError for what is no :data:`Intent`, nor None."""
    if intent is not None and intent not in get_args(Intent):
        raise ValueError(f'intent must be None, "timeout" or "cancelled", not {intent!r}')


def text_of(value: object) -> str | None:
    """``value`` if it is a non-empty str."""
    return value if isinstance(value, str) and value else None


def int_of(value: object) -> int | None:
    """``value`` if it is an int."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def mapping_of(value: object) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def read_result(line: Mapping[str, Any], failure: AssistantError | None) -> TurnResult:
    """The record of a ``result`` line whose turn had the assistant line ``failure``."""
    subtype = text_of(line.get("subtype"))
    good = line.get("is_error") is False and subtype == "success"
    return TurnResult(
        status=MessageStatus.COMPLETE if good else MessageStatus.FAILED,
        answer=text_of(line.get("result")) or "",
        error=None if good else _result_error(line),
        error_kind=None if good else _result_kind(line, failure),
        subtype=subtype,
        terminal_reason=text_of(line.get("terminal_reason")),
        session_id=text_of(line.get("session_id")),
        cost_usd=_dollars(line.get("total_cost_usd")),
        usage=mapping_of(line.get("usage")),
        num_turns=int_of(line.get("num_turns")),
        duration_ms=int_of(line.get("duration_ms")),
        permission_denials=_mappings(line.get("permission_denials")),
        raw=line,
    )


def _result_kind(line: Mapping[str, Any], failure: AssistantError | None) -> str:
    reason = text_of(line.get("terminal_reason"))
    subtype = text_of(line.get("subtype"))
    return (
        _api_kind(int_of(line.get("api_error_status")))
        or _failure_kind(failure)
        or (reason if reason != "completed" else None)
        or (subtype if subtype != "success" else None)
        or "bad_result"
    )


def _failure_kind(failure: AssistantError | None) -> str | None:
    return None if failure is None else _api_kind(failure.api_status) or failure.kind


def _api_kind(status: int | None) -> str | None:
    return None if status is None else f"api_{status}"


def _result_error(line: Mapping[str, Any]) -> str | None:
    told = text_of(line.get("result"))
    errors = line.get("errors")
    if told is None and isinstance(errors, list):
        told = "; ".join(each if isinstance(each, str) else json.dumps(each) for each in errors)
    return told or None


def _dollars(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _mappings(value: object) -> tuple[Mapping[str, Any], ...]:
    return (
        tuple(each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()
    )


def conclude(
    seen: Evidence, content: str, *, exit_code: int | None, stderr: str, intent: Intent | None
) -> StreamOutcome:
    """The outcome of a run that is over."""
    last = seen.results[-1] if seen.results else None
    tail = without_surrogates(stderr).strip()[-_STDERR_TAIL:]
    status, kind, error = _verdict(seen, last, exit_code, tail, intent)
    denials = _all_denials(seen.results)
    return StreamOutcome(
        status=status,
        content=content,
        answer=last.answer if last else "",
        error=error,
        error_kind=kind,
        session_id=seen.session_id,
        model=seen.model,
        cost_usd=last.cost_usd if last else None,
        usage=last.usage if last else {},
        num_turns=last.num_turns if last else None,
        duration_ms=last.duration_ms if last else None,
        permission_denials=denials,
        retries=tuple(seen.retries),
        results=tuple(seen.results),
        unknown_lines=seen.unknown,
        warnings=tuple(_warnings(seen, last, denials, exit_code)),
    )


def _verdict(
    seen: Evidence, last: TurnResult | None, exit_code: int | None, tail: str, intent: Intent | None
) -> tuple[MessageStatus, str | None, str | None]:
    if intent is not None:
        status = MessageStatus(intent)
        return status, status.value, _intent_error(seen, status)
    if last is None:
        kind = _no_result_kind(seen, exit_code, tail)
        return MessageStatus.FAILED, kind, _no_result_error(seen, kind, exit_code, tail)
    if last.status is MessageStatus.FAILED:
        error = last.error or tail or f"the CLI reported an error and no reason ({last.error_kind})"
        return MessageStatus.FAILED, last.error_kind, error
    if seen.too_long:
        return MessageStatus.FAILED, "line_too_long", _too_long(seen) + "; the text may lack a part"
    return MessageStatus.COMPLETE, None, None


def _intent_error(seen: Evidence, status: MessageStatus) -> str:
    ended = "timed out" if status is MessageStatus.TIMEOUT else "was cancelled"
    error = f"the run {ended} and was ended before it was done"
    if seen.retries and not seen.results:
        retry = seen.retries[-1]
        why = retry.error or "unknown"
        http = "" if retry.error_status is None else f", HTTP {retry.error_status}"
        error += (
            f"; the API had been asked again {len(seen.retries)} times (last error: {why}{http})"
        )
    return error


def _no_result_kind(seen: Evidence, exit_code: int | None, tail: str) -> str:
    told = _failure_kind(seen.failure)
    if told:
        return told
    if seen.too_long:
        return "line_too_long"
    if _signal_name(exit_code):
        return "signal"
    if not seen.lines and exit_code and tail:
        return "usage"
    return "no_result"


def _no_result_error(seen: Evidence, kind: str, exit_code: int | None, tail: str) -> str:
    if kind == "usage":
        return tail
    ended = "the output ended without a result line"
    if kind == "signal":
        ended = "the CLI was ended by a signal before its result line"
    error = f"{ended}{_exit_text(exit_code)}"
    if seen.failure and seen.failure.text:
        error = f"{seen.failure.text} ({error})"
    if seen.too_long:
        error += f"; {_too_long(seen)}"
    if seen.unreadable and seen.unreadable == seen.lines:
        error += (
            f"; no line of it is JSON, the first is {seen.first_unreadable!r}: "
            "the run needs --output-format stream-json --verbose"
        )
    return f"{error}; stderr: {tail}" if tail else error


def _exit_text(exit_code: int | None) -> str:
    if exit_code is None:
        return ""
    name = _signal_name(exit_code)
    return f" (exit code {exit_code}, {name})" if name else f" (exit code {exit_code})"


def _signal_name(exit_code: int | None) -> str | None:
    """The signal behind an exit code: -15 as Python tells it, 143 as the CLI and shells do."""
    if exit_code is None:
        return None
    number = -exit_code if exit_code < 0 else exit_code - 128
    if not 1 <= number <= 31 and exit_code >= 0:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _too_long(seen: Evidence) -> str:
    lines = "a line" if seen.too_long == 1 else f"{seen.too_long} lines"
    return f"{lines} of stdout above the reader's limit was dropped"


def _all_denials(results: list[TurnResult]) -> tuple[Mapping[str, Any], ...]:
    denials: dict[str, Mapping[str, Any]] = {}
    for result in results:
        for each in result.permission_denials:
            denials.setdefault(json.dumps(each, sort_keys=True), each)
    return tuple(denials.values())


def _warnings(
    seen: Evidence,
    last: TurnResult | None,
    denials: tuple[Mapping[str, Any], ...],
    exit_code: int | None,
) -> list[str]:
    warnings: list[str] = []
    good = last is not None and last.status is MessageStatus.COMPLETE
    if good and exit_code:
        warnings.append(f"the CLI failed after a good result{_exit_text(exit_code)}")
    if good and last is not None and not last.answer:
        warnings.append("the result text is empty")
    if denials:
        tools = ", ".join(str(denial.get("tool_name", "?")) for denial in denials)
        times = "once" if len(denials) == 1 else f"{len(denials)} times"
        warnings.append(f"permission was denied {times}: {tools}")
    if last is not None and seen.turn_under_way:
        warnings.append("a turn that began after the last result line did not end")
    if seen.too_long:
        warnings.append(_too_long(seen))
    if seen.unreadable:
        warnings.append(
            f"{_lines(seen.unreadable)} no JSON object, the first is {seen.first_unreadable!r}"
        )
    if seen.cut_off:
        warnings.append("the output ended in the middle of a line, which was dropped")
    if seen.undecodable:
        warnings.append(f"{_lines(seen.undecodable)} not UTF-8; U+FFFD stands for it")
    return warnings


def _lines(count: int) -> str:
    return "1 line of stdout is" if count == 1 else f"{count} lines of stdout are"
