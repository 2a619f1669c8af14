"""Reading the CLI's stream: every recording, every way of cutting it up, and what no run shows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_claude_comms.claude import outcome as outcome_module
from pytest_claude_comms.claude import stream as stream_module
from pytest_claude_comms.claude.stream import (
    Intent,
    StreamOutcome,
    StreamReader,
    StreamUpdate,
    read_stream,
)
from pytest_claude_comms.claude.transcript import Transcript
from pytest_claude_comms.claude.updates import LiveText
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores.values import metadata as storable_metadata
from pytest_claude_comms.stores.values import text as storable_text

RECORDINGS = Path(__file__).parents[2] / "fixtures" / "transcripts"

COMPLETE, FAILED = MessageStatus.COMPLETE, MessageStatus.FAILED


class Row(NamedTuple):
    """What a recording must be read as; written from the recordings, not from the code."""

    status: MessageStatus
    error_kind: str | None
    content: str
    answer: str


def done(content: str, answer: str | None = None) -> Row:
    return Row(COMPLETE, None, content, content if answer is None else answer)


def failed(error_kind: str, content: str = "", answer: str | None = None) -> Row:
    return Row(FAILED, error_kind, content, content if answer is None else answer)


NOTE = "The file says: hello from note."
UNICODE = (
    'héllo 🌍🚀 日本語\nline two\twith tab "quotes" \\back\\ \r\n'
    "\u2028sep\u2029 \0nul \x1b[31mred\x1b[0m end\n"
)
OVERLOADED = (
    "API Error: Repeated 529 Overloaded errors. The API is at capacity — this is usually "
    "temporary. Try again in a moment. If it persists, check your inference gateway "
    "(127.0.0.1:40349)."
)
REFUSED = (
    "API Error: Opus 5.5's safeguards flagged this message "
    "(https://www.anthropic.com/legal/aup). This sometimes happens with safe, normal "
    "conversations. Claude Code can't respond to this message with Opus 5.5.\n\n"
    "Try rephrasing the request in a new session or change your model.\n\n"
    "Learn more: https://support.claude.com/en/articles/8106465\n\n"
    "Request ID: req_stub_c903632958634847\n\nMessage ID: msg_stub_de74cc478cdd47f0bba4"
)
DROPPED = (
    "API Error: Connection dropped (ECONNRESET). "
    "Check the gateway set in ANTHROPIC_BASE_URL, then try again."
)
TIMED_OUT = (
    "Request timed out. If the API is slow to answer, or a proxy or gateway holds responses, "
    "set API_TIMEOUT_MS above 3000."
)
BLOCKED = (
    "UserPromptSubmit operation blocked by hook:\n[exit 2]: No stderr output\n\nOriginal prompt: hi"
)

TABLE = {
    "01_simple": done("Hi there"),
    "02_partial_slow": done("".join(f"chunk{n} " for n in range(10))),
    "02c_thinking_partial": done("done"),
    "02e_two_text_blocks": done("one\n\ntwo", "two"),
    # Three runs that were not asked for a readable stream. --output-format json prints one
    # result object: an answer, but no line of the conversation. Text has no result line at all.
    # Without --verbose the CLI refuses the arguments.
    "03a_json": done("", "Hi there"),
    "03b_text": failed("no_result"),
    "03d_stream_json_no_verbose": failed("usage"),
    "04a_tool_read": done(f"I will read it.\n\n{NOTE}", NOTE),
    "04c_bash_allowed": done(NOTE),
    "04d_two_parallel_tools": done(NOTE),
    "04g_subagent": done("final answer"),
    "04l_bash_background": done(f"{NOTE}\n\nafter notification", "after notification"),
    "05a_session_id": done("Hello Ann"),
    "05b_resume": done("You are Ann"),
    "05c_session_id_reused": failed("usage"),
    "05g_resume_unknown": failed("error_during_execution"),
    "06a_two_messages_at_once": done("first\n\nsecond", "second"),
    "06d_interrupt": done("long " * 9 + "\n\nafter", "after"),
    "06k_error_then_ok": done(
        "Failed to authenticate. API Error: 403 stub error 403\n\nsecond", "second"
    ),
    "07_SIGINT_during_retry": failed("aborted_streaming"),
    "07_SIGTERM_during_retry": failed("signal"),
    "07_api_timeout_3s": failed("server_error", TIMED_OUT),
    "07_bad_flag": failed("usage"),
    "07_drop_mid_forever_partial": failed("server_error", DROPPED),
    "07_drop_mid_once": done("second try"),
    "07_e400": failed("api_400", "API Error: 400 stub says 400"),
    "07_e401_should_retry_false": failed("api_401", "Invalid API key · Fix external API key"),
    "07_e429_then_ok": done("finally"),
    "07_e500_once": done("ok now"),
    "07_e529_fallback_ok": done("from the fallback"),
    "07_e529_forever": failed("api_529", OVERLOADED),
    "07_empty_content": done(""),
    "07_empty_prompt": failed("usage"),
    "07_hang_SIGINT": failed("no_result"),  # exits 0: nothing in it tells of the signal
    "07_hang_SIGKILL": failed("signal"),
    "07_hang_SIGTERM": failed("signal"),
    "07_max_turns_1": failed("max_turns", "I will read it.", ""),
    "07_midstream_SIGINT_no_partial": failed("aborted_streaming", "word " * 12, ""),
    "07_no_api_key": failed("authentication_failed", "Not logged in · Please run /login"),
    "07_refusal_stop": failed("invalid_request", f"no\n\nno\n\n{REFUSED}", REFUSED),
    "09b_unicode": done(UNICODE),
    "09j_tool_output_large": done(NOTE),
    "10a_bash_denied": done("I was not allowed."),
    "10h_prompt_tool_stdio_allow": done("ok"),
    "11j_hooks": done("", BLOCKED),
    "11r_clear": done("a\n\nb", "b"),
}

CUT = {
    # What is left to go by when the last line of stdout, mostly the result, is cut in half:
    # the result of the turn before …
    "04l_bash_background": (COMPLETE, None),
    "06a_two_messages_at_once": (COMPLETE, None),
    "11r_clear": (COMPLETE, None),
    "06d_interrupt": (FAILED, "aborted_streaming"),
    "06k_error_then_ok": (FAILED, "api_403"),
    # … or the assistant line that told of the failure …
    "07_api_timeout_3s": (FAILED, "server_error"),
    "07_drop_mid_forever_partial": (FAILED, "server_error"),
    "07_e400": (FAILED, "api_400"),
    "07_e401_should_retry_false": (FAILED, "api_401"),
    "07_e529_forever": (FAILED, "api_529"),
    "07_no_api_key": (FAILED, "authentication_failed"),
    "07_refusal_stop": (FAILED, "invalid_request"),
    # … or the exit code. For all others there is nothing: "no_result".
    "07_SIGTERM_during_retry": (FAILED, "signal"),
    "07_hang_SIGKILL": (FAILED, "signal"),
    "07_hang_SIGTERM": (FAILED, "signal"),
}

SIGNALLED = [name for name in TABLE if "SIG" in name]

# Refused by the CLI: a line on stderr, nothing on stdout.
SILENT = [name for name, row in TABLE.items() if row.error_kind == "usage"]

Read = Callable[[Transcript], StreamOutcome]


def load(name: str) -> Transcript:
    return Transcript.load(RECORDINGS / f"{name}.jsonl")


def stdout(run: Transcript) -> bytes:
    return "".join(f"{line}\n" for line in run.stdout_lines).encode()


def as_row(outcome: StreamOutcome) -> Row:
    return Row(outcome.status, outcome.error_kind, outcome.content, outcome.answer)


def read_bytes(run: Transcript, pieces: Iterable[bytes]) -> StreamOutcome:
    return read_stream(pieces, run.exit, run.stderr_text)


def chunks(data: bytes, seed: int) -> Iterator[bytes]:
    dice = random.Random(seed)
    while data:
        size = dice.choice((1, 2, 7, 64, 4096, 65536))
        yield data[:size]
        data = data[size:]


# --- the recordings -----------------------------------------------------------------------


def test_the_table_has_every_recording() -> None:
    assert set(TABLE) == {path.stem for path in RECORDINGS.glob("*.jsonl")}
    assert [name for name in TABLE if load(name).signals] == SIGNALLED
    assert [name for name in TABLE if not load(name).stdout_lines] == SILENT


@pytest.mark.parametrize("name", TABLE)
class TestEveryRecording:
    def test_is_read_as_the_table_says(self, name: str) -> None:
        run = load(name)
        outcome = run.outcome()
        assert as_row(outcome) == TABLE[name]
        assert (outcome.error is None) == (outcome.status is COMPLETE)
        assert outcome.error != ""
        assert outcome.unknown_lines == (1 if name == "03b_text" else 0)

    @pytest.mark.parametrize("intent", ["timeout", "cancelled"])
    def test_what_we_did_to_it_comes_first(self, name: str, intent: Intent) -> None:
        outcome = load(name).outcome(intent)
        assert (outcome.status.value, outcome.error_kind) == (intent, intent)
        assert outcome.error
        assert (outcome.content, outcome.answer) == TABLE[name][2:]

    def test_byte_by_byte(self, name: str) -> None:
        run = load(name)
        data = stdout(run)
        pieces = [data[place : place + 1] for place in range(len(data))]
        assert read_bytes(run, pieces) == run.outcome()

    @pytest.mark.parametrize("seed", range(3))
    def test_in_pieces_of_any_size(self, name: str, seed: int) -> None:
        run = load(name)
        assert read_bytes(run, chunks(stdout(run), seed)) == run.outcome()

    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_lines_of_any_ending_as_str_and_as_bytes(self, name: str, ending: str) -> None:
        run = load(name)
        by_str, by_bytes = StreamReader(), StreamReader()
        for line in run.stdout_lines:
            assert by_str.feed(line + ending) == by_bytes.feed((line + ending).encode())
        expected = run.outcome()
        assert by_str.finish(run.exit, run.stderr_text) == expected
        assert by_bytes.finish(run.exit, run.stderr_text.encode()) == expected

    def test_all_of_it_as_one_str_or_bytes(self, name: str) -> None:
        run = load(name)
        data = stdout(run)
        for whole in data, data.decode():
            assert read_stream(whole, run.exit, run.stderr_text) == run.outcome()
        unterminated = read_stream(data.removesuffix(b"\n"), run.exit, run.stderr_text)
        assert as_row(unterminated) == TABLE[name]

    def test_invalid_utf8_in_every_line_and_beside_them(self, name: str) -> None:
        run = load(name)
        lines = [
            line.encode().replace(b"{", b'{"\xff\xc3":"\xe2\x82",', 1) for line in run.stdout_lines
        ]
        if lines:
            lines.insert(1, b"\xff\xfe\x80")
        outcome = read_bytes(run, [b"\n".join(lines)])
        assert as_row(outcome) == TABLE[name]
        assert any("not UTF-8" in warning for warning in outcome.warnings) == (name not in SILENT)

    def test_the_updates_add_up_to_the_content(self, name: str) -> None:
        run = load(name)
        reader = StreamReader()
        text = ""
        for line in run.stdout_lines:
            for update in reader.feed(line):
                text = update.apply(text)
            assert text == reader.content
        for update in reader.end():
            text = update.apply(text)
        assert text == reader.finish(run.exit).content == TABLE[name].content

    def test_what_it_came_to_can_be_stored(self, name: str) -> None:
        outcome = load(name).outcome()
        assert storable_metadata(outcome.as_metadata()) == outcome.as_metadata()
        for text in outcome.content, outcome.answer, outcome.error or "":
            assert storable_text(text, "text") == text
        assert hash(outcome) == hash(load(name).outcome())


@pytest.mark.parametrize("name", [name for name in TABLE if name not in SILENT])
class TestEveryRecordingWithOutput:
    def test_the_last_line_cut_in_half(self, name: str) -> None:
        run = load(name)
        *whole, last = run.stdout_lines
        data = "".join(f"{line}\n" for line in whole).encode() + last.encode()[: len(last) // 2]
        outcome = read_bytes(run, [data])
        assert (outcome.status, outcome.error_kind) == CUT.get(name, (FAILED, "no_result"))
        assert outcome.unknown_lines == 1
        assert "the output ended in the middle of a line, which was dropped" in outcome.warnings

    def test_half_a_line_in_the_middle(self, name: str) -> None:
        run = load(name)
        first, *others = run.stdout_lines
        half = first[: len(first) // 2]
        outcome = read_stream([first, half, *others], run.exit, run.stderr_text)
        assert as_row(outcome) == TABLE[name]
        assert outcome.unknown_lines == (2 if name == "03b_text" else 1)


# --- broken readers: the table must tell them from a right one ----------------------------------


def wrong(read: Read) -> set[str]:
    """The recordings that ``read`` reads otherwise than the table says."""
    return {name for name, row in TABLE.items() if as_row(read(load(name))) != row}


def test_the_reader_is_not_wrong() -> None:
    assert wrong(Transcript.outcome) == set()


def test_the_table_catches_a_reader_that_trusts_the_exit_code() -> None:
    def broken(run: Transcript) -> StreamOutcome:
        status = COMPLETE if run.exit == 0 else FAILED
        return replace(run.outcome(), status=status)

    # Exit 0 without a result; and the interrupted runs, which exit 0 too.
    assert wrong(broken) == {
        "03b_text",
        "07_hang_SIGINT",
        "07_SIGINT_during_retry",
        "07_midstream_SIGINT_no_partial",
    }


def test_the_table_catches_a_reader_that_trusts_subtype(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(line: dict[str, Any], failure: Any) -> Any:
        return outcome_module.read_result({**line, "is_error": False}, failure)

    monkeypatch.setattr(stream_module, "read_result", broken)
    assert {"07_e400", "07_e401_should_retry_false", "07_no_api_key", "07_refusal_stop"} <= wrong(
        Transcript.outcome
    )


def test_the_table_catches_a_reader_that_stops_at_the_first_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(seen: outcome_module.Evidence, content: str, **rest: Any) -> StreamOutcome:
        return outcome_module.conclude(replace(seen, results=seen.results[:1]), content, **rest)

    monkeypatch.setattr(stream_module, "conclude", broken)
    assert wrong(Transcript.outcome) == {
        "04l_bash_background",
        "06a_two_messages_at_once",
        "06d_interrupt",
        "06k_error_then_ok",
        "11r_clear",
    }


def test_the_table_catches_a_reader_that_greps_for_a_prefix() -> None:
    def broken(run: Transcript) -> StreamOutcome:
        lines = [line for line in run.stdout_lines if line.startswith('{"type":')]
        return read_stream(lines, run.exit, run.stderr_text)

    assert "01_simple" in wrong(broken)


def test_the_table_catches_a_reader_that_takes_the_answer_for_the_text() -> None:
    def broken(run: Transcript) -> StreamOutcome:
        return replace(run.outcome(), content=run.outcome().answer)

    assert {"02e_two_text_blocks", "04a_tool_read", "07_max_turns_1"} <= wrong(broken)


def test_the_table_catches_a_reader_that_says_streamed_text_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LiveText, "settle", lambda self, text, _: self._add(text))
    monkeypatch.setattr(LiveText, "void", lambda _: [])
    assert wrong(Transcript.outcome) == {
        "02_partial_slow",
        "02c_thinking_partial",
        "07_drop_mid_once",
    }


def test_the_table_catches_a_reader_that_forgets_the_assistant_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StreamReader, "_note_failure", lambda *_: None)
    assert wrong(Transcript.outcome) == {
        "07_api_timeout_3s",
        "07_drop_mid_forever_partial",
        "07_no_api_key",
        "07_refusal_stop",
    }


# --- more that the recordings tell -------------------------------------------------------------


def test_the_facts_of_a_simple_run() -> None:
    outcome = load("01_simple").outcome()
    assert outcome.session_id == "8832f14b-c3f7-4b37-a39b-ecbdacccd211"
    assert outcome.model == "claude-opus-5-5"
    assert outcome.cost_usd == pytest.approx(0.00014)
    assert outcome.num_turns == 1
    assert outcome.usage["output_tokens"] > 0
    assert isinstance(outcome.duration_ms, int)
    assert (outcome.retries, outcome.permission_denials, outcome.warnings) == ((), (), ())
    assert len(outcome.results) == 1


def test_what_a_message_keeps_of_a_run() -> None:
    kept = load("07_e529_fallback_ok").outcome().as_metadata()
    assert list(kept) == [
        "session_id",
        "model",
        "cost_usd",
        "usage",
        "num_turns",
        "duration_ms",
        "retries",
        "error_kind",
        "permission_denials",
        "warnings",
    ]
    assert (kept["retries"], kept["model"]) == (2, "claude-haiku-4-5")


def test_every_turn_has_its_result() -> None:
    first, second = load("06k_error_then_ok").outcome().results
    assert (first.status, first.error_kind) == (FAILED, "api_403")
    assert first.error == "Failed to authenticate. API Error: 403 stub error 403"
    assert first.raw["result_index"] == 0
    assert (second.status, second.error_kind, second.answer) == (COMPLETE, None, "second")


def test_clear_changes_the_session() -> None:
    run = load("11r_clear")
    outcome = run.outcome()
    assert outcome.session_id == "d15a04fe-1904-415e-8cf0-8c31acbc3255"
    assert [result.answer for result in outcome.results] == ["a", "", "b"]
    reader = StreamReader()
    updates = [update for line in run.stdout_lines for update in reader.feed(line)]
    sessions = [update.session_id for update in updates if update.kind == "session"]
    assert sessions == ["cb77b1d5-bacd-476d-bd22-7c94eb08afc7", reader.session_id]


def test_a_fallback_changes_the_model() -> None:
    assert load("07_e529_fallback_ok").outcome().model == "claude-haiku-4-5"


def test_retries_are_told() -> None:
    (retry,) = load("07_e429_then_ok").outcome().retries
    assert (retry.attempt, retry.max_retries, retry.retry_delay_ms) == (1, 10, 2415)
    assert (retry.error_status, retry.error) == (429, "rate_limit")
    dropped = load("07_drop_mid_forever_partial").outcome().retries
    assert [each.attempt for each in dropped] == list(range(1, 11))
    assert {each.error_status for each in dropped} == {None}


def test_a_denied_permission_is_a_warning() -> None:
    outcome = load("10a_bash_denied").outcome()
    (denial,) = outcome.permission_denials
    assert denial["tool_name"] == "Bash"
    assert outcome.warnings == ("permission was denied once: Bash",)


def test_an_empty_answer_is_a_warning() -> None:
    assert load("07_empty_content").outcome().warnings == ("the result text is empty",)


def test_an_exit_code_after_a_good_result_is_a_warning() -> None:
    outcome = read_stream(load("01_simple").stdout_lines, 143)
    assert outcome.status is COMPLETE
    assert outcome.warnings == ("the CLI failed after a good result (exit code 143, SIGTERM)",)


def test_a_cut_turn_after_a_good_one_is_a_warning() -> None:
    outcome = read_stream(load("06a_two_messages_at_once").stdout_lines[:-1])
    assert (outcome.status, outcome.answer) == (COMPLETE, "first")
    assert outcome.warnings == ("a turn that began after the last result line did not end",)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("07_bad_flag", "error: unknown option '--no-such-flag'"),
        ("07_e400", "API Error: 400 stub says 400"),
        ("07_max_turns_1", "Reached maximum number of turns (1)"),
        (
            "07_hang_SIGTERM",
            "the CLI was ended by a signal before its result line (exit code 143, SIGTERM)",
        ),
        (
            "07_hang_SIGKILL",
            "the CLI was ended by a signal before its result line (exit code -9, SIGKILL)",
        ),
        ("07_hang_SIGINT", "the output ended without a result line (exit code 0)"),
        (
            "03b_text",
            (
                "the output ended without a result line (exit code 0); no line of it is JSON, the "
                "first is 'Hi there': the run needs --output-format stream-json --verbose"
            ),
        ),
    ],
)
def test_the_error_says_why(name: str, error: str) -> None:
    assert load(name).outcome().error == error


def test_the_error_of_a_run_that_we_ended() -> None:
    assert load("07_hang_SIGINT").outcome("cancelled").error == (
        "the run was cancelled and was ended before it was done"
    )
    assert load("07_SIGTERM_during_retry").outcome("timeout").error == (
        "the run timed out and was ended before it was done; the API had been asked again 3 "
        "times (last error: server_error, HTTP 500)"
    )


def test_progress_in_the_order_of_the_run() -> None:
    def kinds(name: str) -> list[str]:
        reader = StreamReader()
        return [update.kind for line in load(name).stdout_lines for update in reader.feed(line)]

    begin = ["started", "session", "model"]
    assert kinds("04a_tool_read") == [*begin, "text", "tool", "tool_result", "text", "result"]
    assert kinds("07_e500_once") == [*begin, "retry", "text", "result"]
    assert kinds("02c_thinking_partial") == [*begin, "thinking", *["text"] * 3, "result"]
    assert kinds("11j_hooks") == ["started", "session", "model", "result"]


def test_a_tool_in_progress() -> None:
    reader = StreamReader()
    updates = [each for line in load("04c_bash_allowed").stdout_lines for each in reader.feed(line)]
    tool = next(each for each in updates if each.kind == "tool")
    result = next(each for each in updates if each.kind == "tool_result")
    assert tool.tool == "Bash"
    assert tool.tool_input is not None
    assert tool.tool_input["command"] == "echo out; echo err >&2; pwd"
    assert (result.tool_use_id, result.is_error) == (tool.tool_use_id, False)


# --- lines written by hand ------------------------------------------------------------------


def line(kind: str, **keys: Any) -> str:
    return json.dumps({"type": kind, **keys})


def said(*texts: str, id: str = "m1", **keys: Any) -> str:
    content = [{"type": "text", "text": text} for text in texts]
    return line("assistant", message={"id": id, "content": content}, **keys)


def event(kind: str, **keys: Any) -> str:
    return line("stream_event", event={"type": kind, **keys}, parent_tool_use_id=None)


def begin(id: str = "m1") -> str:
    return event("message_start", message={"id": id})


def delta(text: str, index: int = 0) -> str:
    return event("content_block_delta", index=index, delta={"type": "text_delta", "text": text})


RETRY = line("system", subtype="api_retry", attempt=1, max_retries=10, error="unknown")
GOOD = line("result", subtype="success", is_error=False, result="fine")


class Listener:
    """Feeds a reader and keeps the text updates of the last feed, and the text they add up to."""

    def __init__(self) -> None:
        self.reader = StreamReader()
        self.text = ""
        self.updates: list[tuple[str | None, str | None]] = []

    def hear(self, *lines: str) -> list[tuple[str | None, str | None]]:
        return self._note(update for each in lines for update in self.reader.feed(each))

    def end(self) -> list[tuple[str | None, str | None]]:
        return self._note(iter(self.reader.end()))

    def _note(self, updates: Iterator[StreamUpdate]) -> list[tuple[str | None, str | None]]:
        texts = [update for update in updates if update.kind == "text"]
        for update in texts:
            self.text = update.apply(self.text)
        assert self.text == self.reader.content
        return [(update.append, update.content) for update in texts]


@pytest.fixture
def listener() -> Listener:
    return Listener()


class TestStreamedText:
    def test_deltas_are_told_at_once_and_confirmed_in_silence(self, listener: Listener) -> None:
        assert listener.hear(said("before", id="m0"), begin()) == [("before", None)]
        assert listener.hear(delta("he")) == [("\n\nhe", None)]
        assert listener.hear(delta("llo")) == [("llo", None)]
        assert listener.hear(said("hello")) == []
        assert listener.hear(delta("next", index=1)) == [("\n\nnext", None)]
        assert listener.hear(said("next"), event("message_stop"), GOOD) == []
        assert listener.reader.finish().content == "before\n\nhello\n\nnext"

    def test_a_block_may_start_with_text(self, listener: Listener) -> None:
        block = {"type": "text", "text": "a"}
        listener.hear(begin(), event("content_block_start", index=0, content_block=block))
        assert listener.hear(delta("b"), said("ab")) == [("b", None)]

    def test_a_longer_whole_block_adds_the_rest(self, listener: Listener) -> None:
        listener.hear(begin(), delta("he"))
        assert listener.hear(said("hello")) == [("llo", None)]

    def test_another_whole_block_corrects(self, listener: Listener) -> None:
        listener.hear(begin(), delta("hullo"))
        assert listener.hear(said("hello")) == [(None, "hello")]

    def test_an_empty_whole_block_takes_back(self, listener: Listener) -> None:
        listener.hear(begin(), delta("hullo"))
        assert listener.hear(said("")) == [(None, "")]

    @pytest.mark.parametrize(
        "void",
        [
            RETRY,
            begin("m2"),
            GOOD,
            line("stream_event", event={"type": "message_stop"}, abandoned_blocks=[0]),
            event("message_stop", abandoned_blocks=1),
        ],
    )
    def test_void_deltas_are_taken_back(self, listener: Listener, void: str) -> None:
        listener.hear(said("kept", id="m0"), begin(), delta("lost"))
        assert listener.hear(void) == [(None, "kept")]
        assert listener.end() == []

    def test_the_end_takes_back_what_nothing_confirmed(self, listener: Listener) -> None:
        listener.hear(begin(), delta("lost"))
        assert listener.end() == [(None, "")]
        assert listener.end() == []
        assert listener.reader.finish(intent="timeout").content == ""

    def test_a_message_stop_alone_takes_nothing_back(self, listener: Listener) -> None:
        listener.hear(begin(), delta("late"))
        assert listener.hear(event("message_stop"), said("late")) == []

    def test_the_line_of_another_message_voids_them(self, listener: Listener) -> None:
        listener.hear(begin("m1"), delta("lost"))
        assert listener.hear(said("API Error", id="m2")) == [(None, ""), ("API Error", None)]

    def test_two_blocks_at_once_stay_apart(self, listener: Listener) -> None:
        listener.hear(begin(), delta("a"), delta("b", index=1))
        assert listener.hear(delta("A")) == [(None, "aA\n\nb")]
        assert listener.hear(said("aAA")) == [(None, "aAA\n\nb")]
        assert listener.hear(said("b")) == []

    def test_thinking_and_tools_are_no_text(self, listener: Listener) -> None:
        thought = {"type": "thinking_delta", "thinking": "hm", "text": "hm"}
        assert listener.hear(begin(), event("content_block_delta", index=0, delta=thought)) == []

    def test_a_subagent_is_no_part_of_it(self, listener: Listener) -> None:
        sub = json.loads(delta("sub")) | {"parent_tool_use_id": "toolu_1"}
        assert listener.hear(begin(), json.dumps(sub)) == []
        assert listener.hear(said("sub", parent_tool_use_id="toolu_1")) == []
        assert listener.hear(said("main", parent_tool_use_id=None)) == [("main", None)]

    def test_blocks_come_one_a_line_or_several(self, listener: Listener) -> None:
        assert listener.hear(said("a", "", "b")) == [("a", None), ("\n\nb", None)]
        plain = line("assistant", message={"content": "c"})
        assert listener.hear(plain) == [("\n\nc", None)]


class TestLines:
    def test_only_a_newline_ends_a_line(self) -> None:
        text = "a\u2028b\u2029c\x85d\x0be\x0cf"
        raw = json.dumps({"type": "assistant", "message": {"content": text}}, ensure_ascii=False)
        assert read_stream(f"{raw}\n{GOOD}\n".encode()).content == text
        assert read_stream([raw, GOOD]).content == text

    def test_raw_control_characters_lose_no_line(self) -> None:
        assert read_stream([said("a\tb\0c").replace("\\t", "\t").replace("\\u0000", "\0")]).content

    def test_a_split_character_is_joined(self) -> None:
        data = said("日本").encode().replace(b"\\u65e5\\u672c", "日本".encode())
        for place in range(len(data)):
            assert read_stream([data[:place], data[place:]]).content == "日本"

    def test_an_unterminated_whole_line_counts(self) -> None:
        outcome = read_stream([said("a").encode(), b"\n", GOOD.encode()])
        assert (outcome.status, outcome.warnings) == (COMPLETE, ())

    def test_blank_lines_are_nothing(self) -> None:
        outcome = read_stream(["", "\n", " \r\n", GOOD, b"\n\r\n \n"])
        assert (outcome.status, outcome.unknown_lines) == (COMPLETE, 0)
        assert StreamReader().feed("\n") == []

    @pytest.mark.parametrize(
        "junk",
        [
            "plain text",
            "[1, 2]",
            "null",
            "12",
            '"result"',
            "{}",
            '{"type": 5}',
            '{"type": ["result"]}',
            '{"type": "not_invented_yet"}',
            "[" * 200_000,
            '{"a":' * 200_000,
            "\ud800",
            "\0",
        ],
    )
    def test_an_unknown_line_is_counted(self, junk: str) -> None:
        reader = StreamReader()
        assert reader.feed(junk) == [StreamUpdate(kind="started")]
        reader.feed(GOOD)
        outcome = reader.finish()
        assert (outcome.status, outcome.unknown_lines) == (COMPLETE, 1)
        for warning in outcome.warnings:
            storable_text(warning, "warning")

    def test_the_first_unreadable_line_is_quoted_in_short(self) -> None:
        (warning,) = read_stream(["x" * 500, "y", GOOD]).warnings
        assert warning == (
            f"2 lines of stdout are no JSON object, the first is {'x' * 120 + '…'!r}"
        )

    def test_a_single_unreadable_line_is_one(self) -> None:
        (warning,) = read_stream(["x", GOOD]).warnings
        assert warning == "1 line of stdout is no JSON object, the first is 'x'"

    def test_numbers_that_nothing_can_hold(self) -> None:
        numbers = f'"total_cost_usd": NaN, "num_turns": {"9" * 5000}, "duration_ms": 1e999'
        result = GOOD.replace('"result": "fine"', f'"result": "fine", {numbers}')
        outcome = read_stream([result])
        assert (outcome.status, outcome.answer) == (COMPLETE, "fine")
        assert (outcome.cost_usd, outcome.num_turns, outcome.duration_ms) == (None, None, None)

    def test_a_cost_beyond_every_float(self) -> None:
        result = GOOD.replace('"fine"', f'"fine", "total_cost_usd": {"9" * 500}')
        assert read_stream([result]).cost_usd is None

    @pytest.mark.parametrize("depth", [90, 500])
    def test_deep_nesting_is_cut_so_that_it_can_be_stored(self, depth: int) -> None:
        denial = f'{{"tool_name": "Bash", "tool_input": {"[" * depth + "]" * depth}}}'
        result = GOOD.replace('"fine"', f'"fine", "permission_denials": [{denial}]')
        outcome = read_stream([result])
        assert outcome.permission_denials[0]["tool_name"] == "Bash"
        # 64 levels are kept: the line, the list of denials, the denial, and 61 of its input.
        left = "[" * 61 + '"\\u2026"' + "]" * 61
        assert json.dumps(outcome.permission_denials[0]["tool_input"]) == left
        storable_metadata(outcome.as_metadata())

    @pytest.mark.parametrize("half", ['"\\ud83d"', '"\\uDE00"', '"\ud83d"'])
    def test_half_an_emoji_can_be_stored(self, half: str) -> None:
        raw = f'{{"type":"assistant","session_id":{half},"message":{{"content":{half}}}}}'
        outcome = read_stream([raw, GOOD])
        assert (outcome.content, outcome.session_id) == ("\ufffd", "\ufffd")
        whole = '{"type":"assistant","message":{"content":"\\ud83d\\ude00"}}'
        assert read_stream([whole]).content == "😀"


class TestLongLines:
    LONG = said("x" * 2_000)

    @pytest.mark.parametrize("size", [1, 7, 10_000])
    def test_a_line_above_the_limit_is_dropped_and_the_reader_goes_on(self, size: int) -> None:
        data = f"{said('a')}\n{self.LONG}\n{said('b')}\n{GOOD}\n".encode()
        pieces = [data[place : place + size] for place in range(0, len(data), size)]
        outcome = read_stream(pieces, max_line_bytes=1_000)
        assert as_row(outcome) == failed("line_too_long", "a\n\nb", "fine")
        assert outcome.error == (
            "a line of stdout above the reader's limit was dropped; the text may lack a part"
        )
        assert outcome.unknown_lines == 1
        assert outcome.warnings == ("a line of stdout above the reader's limit was dropped",)

    @pytest.mark.parametrize("line", [LONG, LONG.encode()], ids=["str", "bytes"])
    def test_line_by_line_too(self, line: str | bytes) -> None:
        reader = StreamReader(max_line_bytes=1_000)
        assert reader.feed(line) == [StreamUpdate(kind="started")]
        assert reader.feed(line) == []
        outcome = reader.finish(1, "why")
        assert outcome.error_kind == "line_too_long"
        assert outcome.error == (
            "the output ended without a result line (exit code 1); 2 lines of stdout above the "
            "reader's limit was dropped; stderr: why"
        )

    def test_unterminated(self) -> None:
        assert read_stream([b"x" * 30], max_line_bytes=20).error_kind == "line_too_long"

    def test_a_failed_result_keeps_its_own_reason(self) -> None:
        result = line("result", subtype="error_max_turns", is_error=True)
        outcome = read_stream(["x" * 2_000, result], max_line_bytes=1_000)
        assert outcome.error_kind == "error_max_turns"

    def test_exactly_the_limit_is_read(self) -> None:
        assert read_stream([GOOD], max_line_bytes=len(GOOD)).status is COMPLETE
        assert read_stream(f"{GOOD}\n".encode(), max_line_bytes=len(GOOD)).status is COMPLETE
        assert read_stream([GOOD], max_line_bytes=len(GOOD) - 1).status is FAILED

    def test_three_megabytes_in_one_line_are_no_problem(self) -> None:
        data = f"{said('x' * 3_000_000)}\n{GOOD}".encode()
        pieces = (data[place : place + 65_536] for place in range(0, len(data), 65_536))
        assert len(read_stream(pieces).content) == 3_000_000


class TestVerdict:
    @pytest.mark.parametrize(
        ("exit_code", "stderr", "kind"),
        [
            (0, "", "no_result"),
            (None, "", "no_result"),
            (0, "a warning", "no_result"),
            (1, "", "no_result"),
            (1, " \n", "no_result"),
            (1, "error: bad", "usage"),
            (1, b"error: bad \xff", "usage"),
            (143, "", "signal"),
            (130, "error", "signal"),
            (-15, "", "signal"),
            (-99, "", "signal"),
            (128, "", "no_result"),
            (255, "", "no_result"),
        ],
    )
    def test_without_a_line(self, exit_code: int | None, stderr: str | bytes, kind: str) -> None:
        outcome = read_stream([], exit_code, stderr)
        assert (outcome.status, outcome.error_kind) == (FAILED, kind)
        assert outcome.error

    def test_once_a_line_came_it_is_no_usage_error(self) -> None:
        outcome = read_stream([line("system", subtype="init")], 1, "boom\n")
        assert outcome.error_kind == "no_result"
        assert outcome.error == "the output ended without a result line (exit code 1); stderr: boom"

    def test_the_failure_told_before_the_output_ended(self) -> None:
        outcome = read_stream([said("API Error: 500", error="server_error")], None)
        assert outcome.error_kind == "server_error"
        assert outcome.error == "API Error: 500 (the output ended without a result line)"

    def test_a_failure_is_forgotten_when_its_turn_ends(self) -> None:
        bad = line("result", subtype="success", is_error=True)
        outcome = read_stream([said("x", error="rate_limit"), bad, bad])
        assert [result.error_kind for result in outcome.results] == ["rate_limit", "bad_result"]

    @pytest.mark.parametrize("is_error", [None, 0, "", "false", [], 1])
    def test_only_a_false_is_error_is_good(self, is_error: object) -> None:
        outcome = read_stream([line("result", subtype="success", is_error=is_error, result="x")])
        assert as_row(outcome) == failed("bad_result", "", "x")

    def test_completed_is_no_reason_to_fail(self) -> None:
        keys = {"is_error": True, "terminal_reason": "completed"}
        assert read_stream([line("result", subtype="success", **keys)]).error_kind == "bad_result"
        assert read_stream([line("result", subtype="error_x", **keys)]).error_kind == "error_x"

    @pytest.mark.parametrize("subtype", [None, "", 5, "error_during_execution"])
    def test_only_success_is_good(self, subtype: object) -> None:
        assert read_stream([line("result", subtype=subtype, is_error=False)]).status is FAILED

    @pytest.mark.parametrize(
        ("keys", "error"),
        [
            ({"errors": ["a", {"b": 1}]}, 'a; {"b": 1}'),
            ({"errors": []}, "from stderr"),
            ({"result": ""}, "from stderr"),
        ],
    )
    def test_where_the_error_comes_from(self, keys: dict[str, Any], error: str) -> None:
        result = line("result", is_error=True, **keys)
        assert read_stream([result], 1, "from stderr\n").error == error

    def test_no_reason_at_all(self) -> None:
        outcome = read_stream([line("result", is_error=True)])
        assert outcome.error == "the CLI reported an error and no reason (bad_result)"

    def test_a_long_stderr_is_told_by_its_end(self) -> None:
        error = read_stream([], 1, "x" * 100_000 + " the end").error
        assert error is not None
        assert len(error) == 2_000
        assert error.endswith(" the end")

    def test_a_denial_in_an_earlier_turn_is_not_lost(self) -> None:
        denial = {"tool_name": "Write"}
        result = line("result", subtype="success", is_error=False, permission_denials=[denial, 5])
        outcome = read_stream([result, result, GOOD])
        assert outcome.permission_denials == (denial,)

    def test_a_denial_is_told_once(self) -> None:
        first, second = {"tool_name": "Write", "n": 1}, {"n": 2, "tool_name": "Write"}
        more = {"subtype": "success", "is_error": False}
        one = line("result", permission_denials=[first, second, dict(first)], **more)
        two = line("result", permission_denials=[{"tool_name": "Write", "n": 2}], **more)
        assert read_stream([one, two]).permission_denials == (first, second)

    def test_a_retry_without_a_name(self) -> None:
        retry = line("system", subtype="api_retry")
        assert read_stream([retry], intent="timeout").error == (
            "the run timed out and was ended before it was done; the API had been asked again 1 "
            "times (last error: unknown)"
        )


class TestArguments:
    @pytest.mark.parametrize("intent", ["", "complete", "canceled", 5, []])
    def test_an_unknown_intent(self, intent: Any) -> None:
        with pytest.raises(ValueError, match=r'^intent must be None, "timeout" or "cancelled"'):
            read_stream([], intent=intent)

    @pytest.mark.parametrize("exit_code", ["0", 1.0, True])
    def test_a_wrong_exit_code(self, exit_code: Any) -> None:
        with pytest.raises(TypeError, match=r"^exit_code must be an int or None"):
            read_stream([], exit_code)

    def test_a_wrong_stderr(self) -> None:
        stderr: Any = ["x"]
        with pytest.raises(TypeError, match=r"^stderr must be a str or bytes"):
            read_stream([], 0, stderr)

    @pytest.mark.parametrize("item", [None, 5, ["x"], {}])
    def test_a_wrong_line(self, item: Any) -> None:
        with pytest.raises(TypeError, match=r"^a chunk is bytes"):
            read_stream([item])
        with pytest.raises(TypeError, match=r"^a line is a str or bytes"):
            StreamReader().feed(item)

    def test_every_kind_of_bytes(self) -> None:
        for kind in bytes, bytearray, memoryview:
            assert StreamReader().feed(kind(GOOD.encode()))
            items: Any = [kind(GOOD.encode())]
            assert read_stream(items).status is COMPLETE

    @pytest.mark.parametrize(
        ("limit", "error"), [(0, ValueError), (True, TypeError), ("", TypeError)]
    )
    def test_a_wrong_limit(self, limit: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match=r"^max_line_bytes must be"):
            StreamReader(max_line_bytes=limit)

    def test_a_reader_reads_one_run(self) -> None:
        reader = StreamReader()
        reader.feed(GOOD)
        outcome = reader.finish(0)
        assert reader.finish(1, "other", "timeout") is outcome
        for feed in reader.feed, reader.feed_bytes:
            with pytest.raises(RuntimeError, match=r"^feed\w*\(\) after the end: a StreamReader"):
                feed(b"x")

    def test_whole_lines_and_halves_do_not_mix(self) -> None:
        reader = StreamReader()
        reader.feed_bytes(b"half")
        with pytest.raises(RuntimeError, match=r"^feed\(\) takes whole lines"):
            reader.feed(GOOD)
        reader.feed_bytes(b"\n")
        assert [update.kind for update in reader.feed(GOOD)] == ["result"]
        assert [result.answer for result in reader.results] == ["fine"]


# --- anything at all -----------------------------------------------------------------------

FIELDS = """
    type subtype message content text thinking id name input parent_tool_use_id session_id model
    event delta index content_block abandoned_blocks api_message_id is_error result errors error
    api_error_status terminal_reason usage num_turns duration_ms total_cost_usd tool_use_id
    permission_denials fallback_model attempt max_retries retry_delay_ms error_status
"""
VALUES = """
    assistant user result system stream_event init api_retry model_fallback success text thinking
    tool_use tool_result message_start message_stop content_block_start content_block_delta
    text_delta error_max_turns m1 m2
"""
KEYS = st.sampled_from(FIELDS.split())
WORDS = st.sampled_from([*VALUES.split(), "", "\ud800"])
ATOMS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text() | WORDS
JSON = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)
TYPES = st.sampled_from(["assistant", "user", "result", "system", "stream_event", "other"])
ODD_LINES = st.builds(
    lambda kind, keys: json.dumps({**keys, "type": kind}), TYPES, st.dictionaries(KEYS, JSON)
)

TEXTS = st.sampled_from(["", "a", "b", "ab", "abc", "\n\n", "é", "\ud83d"])
IDS = st.sampled_from(["m1", "m2"])
TALK = st.one_of(
    st.builds(lambda texts, id: said(*texts, id=id), st.lists(TEXTS, max_size=3), IDS),
    st.builds(lambda text: said(text, parent_tool_use_id="toolu_1"), TEXTS),
    st.builds(begin, IDS),
    st.builds(delta, TEXTS, st.integers(0, 2)),
    st.sampled_from(
        [
            RETRY,
            GOOD,
            event("message_stop"),
            event("message_stop", abandoned_blocks=[0]),
            "no JSON",
            line("result", subtype="success", is_error=True),
        ]
    ),
)


def assert_sound(lines: list[str], cut: int | None) -> None:
    data = "\n".join(lines).encode("utf-8", "surrogatepass")[:cut]
    reader = StreamReader()
    text = ""
    for update in [*reader.feed_bytes(data), *reader.end()]:
        assert (update.append is None) or (update.content is None)
        assert (update.kind == "text") == ((update.append, update.content) != (None, None))
        text = update.apply(text)
    outcome = reader.finish()
    assert text == outcome.content == reader.content
    assert (outcome.error is None) == (outcome.error_kind is None) == (outcome.status is COMPLETE)
    storable_text(outcome.content + outcome.answer + (outcome.error or ""), "text")
    storable_metadata(outcome.as_metadata())
    assert read_stream(data) == outcome
    assert read_stream(data[place : place + 1] for place in range(len(data))) == outcome


CUTS = st.none() | st.integers(0, 400)


@given(st.lists(ODD_LINES, max_size=4), CUTS)
def test_no_line_is_ever_an_error(lines: list[str], cut: int | None) -> None:
    assert_sound(lines, cut)


@settings(max_examples=300)
@given(st.lists(TALK, max_size=12), CUTS)
def test_the_updates_of_any_talk_add_up(lines: list[str], cut: int | None) -> None:
    assert_sound(lines, cut)


@given(st.lists(TALK, max_size=12))
def test_the_content_is_that_of_the_whole_lines(lines: list[str]) -> None:
    whole = [each for each in lines if json_type(each) == "assistant"]
    assert read_stream(lines).content == read_stream(whole).content


def json_type(line: str) -> object:
    return json.loads(line)["type"] if line.startswith("{") else None


@given(st.binary(max_size=300))
def test_no_bytes_are_ever_an_error(data: bytes) -> None:
    assert read_stream([data]).status is FAILED


# -- whether more is to come


def test_a_run_is_done_when_nothing_may_begin_another_turn() -> None:
    """As recorded: a result while a background task runs is not the last."""
    reader = StreamReader()
    seen: list[tuple[str, bool]] = []
    for entry in load("04l_bash_background").entries:
        if entry.stream != "stdout":
            continue
        reader.feed(entry.line)
        kind = json.loads(entry.line)
        if kind["type"] == "result" or kind.get("subtype") == "background_tasks_changed":
            seen.append((kind.get("subtype", ""), reader.is_done))
    assert seen[0] == ("background_tasks_changed", False)
    assert ("success", False) in seen
    assert seen[-1] == ("success", True)


def test_a_run_that_has_begun_another_turn_is_not_done() -> None:
    reader = StreamReader()
    assert not reader.is_done
    reader.feed('{"type": "result", "subtype": "success", "result": "x"}')
    assert reader.is_done
    reader.feed('{"type": "system", "subtype": "init"}')
    assert not reader.is_done
