"""The stand-in beside recordings of the real CLI 2.1.330.

For each recording: the same lines by type and subtype, the same keys in the same order all the
way down, the same exit code, the same stderr, and our reader comes to the same outcome.
Not compared are values, and keys where keys are data: a tool's ``input``, the ``memory_paths``.
In a list, the shapes that its elements have are compared, each once.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from pytest_claude_comms.claude.stream import read_stream
from pytest_claude_comms.testing import Transcript
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.claude_stand_in.kit import Process, keys, until, user

TRANSCRIPTS = Path(__file__).parents[2] / "fixtures" / "transcripts"
OLD = "11111111-2222-4333-8444-555555555555"
NOTE = "hello from note\nsecond line\n"
TOUCH = {"command": "touch denied.txt", "description": "touch"}

Script: TypeAlias = Callable[[ScriptedClaude], object]
Talk: TypeAlias = Callable[[Process], object]


def read_note(claude: ScriptedClaude) -> Any:
    return claude.says("I will read it.").uses_tool("Read", {"file_path": "n"}, result=NOTE)


def resumed(claude: ScriptedClaude) -> None:
    claude.knows_session(OLD)
    claude.replies("You are Ann")


def at_once(*texts: str) -> Talk:
    def talk(process: Process) -> None:
        for text in texts:
            process.write(user(text))
        process.close_stdin()

    return talk


def interrupt(process: Process) -> None:
    process.write(user("go on for long"))
    until(lambda: process.lines)
    process.write(
        b'{"type":"control_request","request_id":"r1","request":{"subtype":"interrupt"}}\n'
    )
    process.write(user("after"))
    process.close_stdin()


def allow(process: Process) -> None:
    process.write(user("touch"))
    until(lambda: len(process.lines) >= 3)
    asked = json.loads(process.lines[2][1])
    answer = {
        "subtype": "success",
        "request_id": asked["request_id"],
        "response": {"behavior": "allow", "updatedInput": asked["request"]["input"]},
    }
    process.write(json.dumps({"type": "control_response", "response": answer}).encode() + b"\n")
    process.close_stdin()


UNICODE = (
    'héllo 🌍🚀 日本語\nline two\twith tab "quotes" \\back\\ \r\n\u2028sep\u2029 \x00nul '
    "\x1b[31mred\x1b[0m end\n"
)

IMITATED: dict[str, tuple[Script, Talk | None]] = {
    "01_simple": (lambda c: c.replies("Hi there"), None),
    "02_partial_slow": (
        lambda c: c.replies(
            "".join(f"chunk{n} " for n in range(10)), after=0.01, chunks=10, every=0.001
        ),
        None,
    ),
    "02e_two_text_blocks": (lambda c: c.says("one").replies("two"), None),
    "03a_json": (lambda c: c.replies("Hi there"), None),
    "03b_text": (lambda c: c.replies("Hi there"), None),
    "03d_stream_json_no_verbose": (lambda c: None, None),
    "04a_tool_read": (lambda c: read_note(c).replies("The file says: hello from note."), None),
    "04c_bash_allowed": (
        lambda c: c.uses_tool("Bash", {"command": "pwd"}, result="out\nerr").replies(
            "The file says: hello from note."
        ),
        None,
    ),
    "05a_session_id": (lambda c: c.replies("Hello Ann"), None),
    "05b_resume": (resumed, None),
    "05c_session_id_reused": (lambda c: c.knows_session(OLD), None),
    "05g_resume_unknown": (lambda c: None, None),
    "06a_two_messages_at_once": (
        lambda c: c.replies("first").replies("second"),
        at_once("one", "two"),
    ),
    "06d_interrupt": (
        lambda c: c.goes_silent(text="long " * 9).replies("after"),
        interrupt,
    ),
    "06k_error_then_ok": (
        lambda c: c.fails(403, message="stub error 403").replies("second"),
        at_once("one", "two"),
    ),
    "07_SIGINT_during_retry": (lambda c: c.retries(500, times=3, every=0).hangs(), None),
    "07_SIGTERM_during_retry": (lambda c: c.retries(500, times=3, every=0).hangs(), None),
    "07_bad_flag": (lambda c: None, None),
    "07_drop_mid_once": (lambda c: c.retries(None, every=0).replies("second try"), None),
    "07_e400": (lambda c: c.fails(400, message="stub says 400"), None),
    "07_e401_should_retry_false": (lambda c: c.fails(401), None),
    "07_e429_then_ok": (lambda c: c.retries(429, every=0.01).replies("finally"), None),
    "07_e500_once": (lambda c: c.retries(500, every=0.01).replies("ok now"), None),
    "07_e529_forever": (lambda c: c.retries(529, times=2, every=0).fails(529), None),
    "07_empty_content": (lambda c: c.replies(""), None),
    "07_empty_prompt": (lambda c: None, None),
    "07_hang_SIGINT": (lambda c: c.hangs(), None),
    "07_hang_SIGKILL": (lambda c: c.hangs(), None),
    "07_hang_SIGTERM": (lambda c: c.hangs(), None),
    "07_max_turns_1": (read_note, None),
    "07_midstream_SIGINT_no_partial": (lambda c: c.goes_silent(text="word " * 12), None),
    "07_no_api_key": (lambda c: c.not_logged_in(), None),
    "07_refusal_stop": (lambda c: c.refuses("no"), None),
    "09b_unicode": (lambda c: c.replies(UNICODE), None),
    "10a_bash_denied": (lambda c: c.denies("Bash", TOUCH).replies("I was not allowed."), None),
    "10h_prompt_tool_stdio_allow": (
        lambda c: c.uses_tool("Bash", TOUCH, asks=True).replies("ok"),
        allow,
    ),
}

NOT_IMITATED = {
    "02c_thinking_partial": "thinking blocks cannot be scripted",
    "04d_two_parallel_tools": "a message uses one tool",
    "04g_subagent": "nor can subagents",
    "04l_bash_background": "nor background tasks",
    "07_api_timeout_3s": "fails(None) is a connection that drops, not one that times out",
    "07_drop_mid_forever_partial": "a message that is abandoned after it began",
    "07_e529_fallback_ok": "no fallback model",
    "09j_tool_output_large": "the tools do not run, so nothing replaces their long output",
    "11j_hooks": "no hooks",
    "11r_clear": "no slash commands",
}


def test_every_recording_is_imitated_or_has_its_reason() -> None:
    assert {path.stem for path in TRANSCRIPTS.glob("*.jsonl")} == {*IMITATED, *NOT_IMITATED}


@pytest.mark.parametrize("name", IMITATED)
def test_it_prints_and_ends_as_the_real_cli_does(
    scripted: ScriptedClaude, name: str, tmp_path: Path
) -> None:
    recorded = Transcript.load(TRANSCRIPTS / f"{name}.jsonl")
    script, talk = IMITATED[name]
    script(scripted)
    process = Process(scripted, *recorded.argv, stdin=b"" if talk is None else None, cwd=tmp_path)
    if talk is not None:
        talk(process)
    for sent in recorded.signals:
        before = [each for each in recorded.entries if each.t <= sent.t]
        until(lambda: len(process.lines) >= sum(each.stream == "stdout" for each in before))
        process.send(signal.Signals[f"SIG{sent.sig}"])
    exit_code = process.join()

    assert process.stderr == recorded.stderr_text
    assert exit_code == recorded.exit
    assert [shape(line) for line in process.stdout.splitlines()] == [
        shape(line) for line in recorded.stdout_lines
    ]
    ours = read_stream(process.stdout.split("\n"), exit_code, process.stderr)
    theirs = recorded.outcome()
    assert (ours.status, ours.error_kind) == (theirs.status, theirs.error_kind)
    assert len(ours.retries) == len(theirs.retries)
    assert [result.subtype for result in ours.results] == [
        result.subtype for result in theirs.results
    ]
    assert ours.num_turns == theirs.num_turns
    assert ours.unknown_lines == theirs.unknown_lines
    if theirs.status == "complete":
        assert (ours.content, ours.answer) == (theirs.content, theirs.answer)
        assert [each.split(":")[0] for each in ours.warnings] == [
            each.split(":")[0] for each in theirs.warnings
        ]
    scripted.assert_all_used()
    calls = scripted.calls
    assert [call.argv for call in calls] == [recorded.argv]
    assert calls[0].exit_code == exit_code


def shape(line: str) -> Any:
    """The type, subtype and keys of a line of JSON; any other line itself."""
    try:
        value = json.loads(line)
    except ValueError:
        return line
    return value.get("type"), value.get("subtype"), keys(value)
