"""Each thing that can be scripted, in real time with tiny delays."""

from __future__ import annotations

import errno
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ask_module, open_store, resources
from pytest_claude_comms.claude.stream import StreamOutcome, StreamReader, read_stream
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.claude_executable import why_not_here
from pytest_claude_comms.testing.claude_script import Verbs
from pytest_claude_comms.testing.claude_steps import Says, Step
from pytest_claude_comms.testing.claude_turn import TurnWriter
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.claude_stand_in.kit import PARTIAL, STREAM, STREAM_IN, Process, run, until, user


def outcome(process: Process) -> StreamOutcome:
    return read_stream(process.stdout.split("\n"), process.popen.returncode, process.stderr)


def types(process: Process) -> list[str]:
    return [json.loads(line)["type"] for _, line in process.lines]


class TestAnswers:
    def test_chunks_come_one_after_another_with_partial_messages(
        self, scripted: ScriptedClaude
    ) -> None:
        scripted.replies("Use _key", after=0.6, chunks=4, every=0.2)
        process = run(scripted, "-p", "q", *PARTIAL)
        deltas = [
            (at, json.loads(line)["event"]["delta"]["text"])
            for at, line in process.lines
            if '"text_delta"' in line
        ]
        assert [text for _, text in deltas] == ["Us", "e ", "_k", "ey"]
        # Since its start: when a line is read, and how long after another, the system says.
        assert deltas[0][0] >= 0.6
        assert deltas[-1][0] >= 1.2

    def test_without_them_the_answer_is_one_line_after_all_of_it(
        self, scripted: ScriptedClaude
    ) -> None:
        scripted.replies("Use _key", after=0.3, chunks=4, every=0.2)
        process = run(scripted, "-p", "q", *STREAM)
        assert types(process) == ["system", "assistant", "result"]
        assert process.lines[1][0] >= 0.9

    def test_json_with_verbose_is_an_array_of_everything(self, scripted: ScriptedClaude) -> None:
        scripted.replies("Hi")
        process = run(scripted, "-p", "q", "--output-format", "json", "--verbose")
        assert [line["type"] for line in json.loads(process.stdout)] == [
            "system",
            "assistant",
            "result",
        ]

    def test_in_text_an_api_error_is_on_stdout(self, scripted: ScriptedClaude) -> None:
        scripted.fails(400, message="no")
        process = run(scripted, "-p", "q")
        assert (process.stdout, process.stderr) == ("API Error: 400 no\n", "")
        assert process.popen.returncode == 1

    def test_max_turns_in_text_has_no_newline(self, scripted: ScriptedClaude) -> None:
        scripted.uses_tool("Read", {"file_path": "a"}).replies("never said")
        process = run(scripted, "-p", "q", "--max-turns", "1")
        assert process.stdout == "Error: Reached max turns (1)"

    def test_model_and_permission_mode_are_in_the_first_line(
        self, scripted: ScriptedClaude
    ) -> None:
        scripted.replies("Hi")
        process = run(
            scripted,
            "-p",
            "q",
            *STREAM,
            "--model",
            "sonnet",
            "--permission-mode",
            "plan",
            "--system-prompt",
            "Be brief",
        )
        first = json.loads(process.lines[0][1])
        assert (first["model"], first["permissionMode"]) == ("claude-sonnet-5-5", "plan")
        assert outcome(process).model == "claude-sonnet-5-5"

    def test_ids_are_the_same_every_time(self, tmp_path: Path) -> None:
        found = []
        for number in range(2):
            with ScriptedClaude(tmp_path / str(number)) as claude:
                claude.replies("Hi")
                found.append(outcome(run(claude, "-p", "q", *STREAM)).session_id)
        assert found[0] == found[1]

    def test_a_session_is_resumed_and_its_costs_add_up(self, scripted: ScriptedClaude) -> None:
        scripted.replies("one")
        scripted.replies("two")
        first = outcome(run(scripted, "-p", "q", *STREAM))
        assert first.session_id is not None
        second = outcome(run(scripted, "-p", "q", *STREAM, "--resume", first.session_id))
        assert second.session_id == first.session_id
        assert first.cost_usd == 0.00014
        assert second.cost_usd == 0.00028

    def test_tool_partial_messages_add_up(self, scripted: ScriptedClaude) -> None:
        scripted.says("Let me see").uses_tool("Grep", {"pattern": "x"}, result="y").replies("y!")
        found = outcome(run(scripted, "-p", "q", *PARTIAL))
        assert (found.content, found.unknown_lines) == ("Let me see\n\ny!", 0)
        assert found.num_turns == 2

    def test_denials_are_told_of_in_the_result(self, scripted: ScriptedClaude) -> None:
        scripted.denies("Write", {"file_path": "a"}).replies("I may not.")
        found = outcome(run(scripted, "-p", "q", *STREAM))
        assert [each["tool_name"] for each in found.permission_denials] == ["Write"]

    def test_who_asks_and_gets_no_leave_is_denied(self, scripted: ScriptedClaude) -> None:
        scripted.uses_tool("Bash", {"command": "rm"}, asks=True).replies("I may not.")
        assert len(outcome(run(scripted, "-p", "q", *STREAM)).permission_denials) == 1


class TestEnds:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [(400, "api_400"), (401, "api_401"), (403, "api_403"), (404, "api_404"),
         (413, "api_413"), (418, "api_418"), (429, "api_429"), (500, "api_500"),
         (503, "api_503"), (529, "api_529"), (None, "server_error")],
    )  # fmt: skip
    def test_each_api_error(self, scripted: ScriptedClaude, status: int | None, kind: str) -> None:
        scripted.fails(status, message="so it is")
        process = run(scripted, "-p", "q", *STREAM)
        assert (process.popen.returncode, outcome(process).error_kind) == (1, kind)
        assert "so it is" in (outcome(process).error or "")

    @pytest.mark.parametrize(
        ("status", "error"), [(404, "model_not_found"), (413, "invalid_request")]
    )
    def test_some_api_errors_have_a_name_of_their_own(
        self, scripted: ScriptedClaude, status: int, error: str
    ) -> None:
        scripted.fails(status)  # as the real CLI tells of it, by the SDK: tests/real
        process = run(scripted, "-p", "q", *STREAM)
        assert json.loads(process.lines[1][1])["error"] == error

    def test_retries_then_ok_is_one_run(self, scripted: ScriptedClaude) -> None:
        scripted.retries(529, times=2, every=0.005)
        scripted.replies("ok")
        process = run(scripted, "-p", "q", *STREAM)
        assert [each.error_status for each in outcome(process).retries] == [529, 529]
        assert outcome(process).content == "ok"

    @pytest.mark.parametrize(("limit", "asked_again"), [("0", 0), ("2", 2), ("nonsense", 10)])
    def test_the_caller_s_limit_of_retries_is_obeyed(
        self, scripted: ScriptedClaude, limit: str, asked_again: int
    ) -> None:
        scripted.retries(429, times=12, every=0).replies("never said")
        env = {"CLAUDE_CODE_MAX_RETRIES": limit}
        process = run(scripted, "-p", "q", *STREAM, env=env)
        found = outcome(process)
        assert (process.popen.returncode, found.status) == (1, "failed")
        assert found.error_kind == "api_429"
        assert len(found.retries) == asked_again
        retries = [json.loads(line) for _, line in process.lines[1:-2]]
        assert [each["attempt"] for each in retries] == [*range(1, asked_again + 1)]
        assert {each["max_retries"] for each in retries} <= {asked_again}
        scripted.assert_all_used()

    def test_who_gives_up_says_what_the_api_says(self, scripted: ScriptedClaude) -> None:
        scripted.retries(429, times=5, every=0).fails(429, message="slow down")
        scripted.retries(None, times=5, every=0).fails(429, message="slow down")
        env = {"CLAUDE_CODE_MAX_RETRIES": "1"}
        for told in ("API Error: 429 slow down", "API Error: Connection dropped (ECONNRESET)."):
            process = run(scripted, "-p", "q", *STREAM, env=env)
            assert (outcome(process).error or "").startswith(told)
            assert len(outcome(process).retries) == 1

    def test_each_request_may_be_repeated_so_often(self, scripted: ScriptedClaude) -> None:
        scripted.retries(500, times=2, every=0).uses_tool("Grep").retries(
            500, times=2, every=0
        ).replies("ok")
        env = {"CLAUDE_CODE_MAX_RETRIES": "2"}
        found = outcome(run(scripted, "-p", "q", *STREAM, env=env))
        assert (found.answer, len(found.retries)) == ("ok", 4)

    @pytest.mark.parametrize(("name", "code"), [("KILL", -9), ("ABRT", -6), ("SEGV", -11)])
    def test_a_crash_in_the_middle_of_the_text(
        self, scripted: ScriptedClaude, name: str, code: int
    ) -> None:
        scripted.crashes(name, text="half of it", chunks=2)
        process = run(scripted, "-p", "q", *PARTIAL)
        assert process.popen.returncode == code
        assert [event for _, line in process.lines if "half" in (event := line)]
        assert outcome(process).error_kind == "signal"
        assert scripted.calls[0].exit_code == code

    @pytest.mark.parametrize("argv", [STREAM, PARTIAL])
    def test_truncation(self, scripted: ScriptedClaude, argv: tuple[str, ...]) -> None:
        scripted.replies("all of it").truncates()
        scripted.says("part").truncates()
        for _ in range(2):
            process = run(scripted, "-p", "q", *argv)
            assert process.popen.returncode == 0
            assert not process.stdout.endswith("\n")
            assert outcome(process).error_kind == "no_result"

    def test_what_was_cut_was_played(self, scripted: ScriptedClaude) -> None:
        scripted.replies("all of it").truncates()
        scripted.says("part").truncates()
        scripted.fails(400).truncates()
        for _ in range(3):
            run(scripted, "-p", "q", *STREAM)
        scripted.assert_all_used()
        scripted.replies("one").replies("two").truncates()
        run(scripted, *STREAM_IN, stdin=user("1"))
        with pytest.raises(AssertionError, match="used by call 4, 1 of its 3 parts"):
            scripted.assert_all_used()

    def test_the_last_of_several_turns_is_the_one_that_is_cut(
        self, scripted: ScriptedClaude
    ) -> None:
        scripted.replies("one").replies("two").truncates()
        process = run(scripted, *STREAM_IN, stdin=user("1") + user("2"))
        assert process.popen.returncode == 0
        assert [result.answer for result in outcome(process).results] == ["one"]
        assert not process.stdout.endswith("\n")
        scripted.assert_all_used()

    def test_exit_codes(self, scripted: ScriptedClaude) -> None:
        scripted.exits(3, stderr="out of luck")
        scripted.replies("good").exits(4)
        bare, after = (run(scripted, "-p", "q", *STREAM) for _ in range(2))
        assert (bare.popen.returncode, bare.stderr) == (3, "out of luck\n")
        assert after.popen.returncode == 4
        assert (outcome(after).status, outcome(after).answer) == ("complete", "good")

    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 0)]
    )
    def test_one_that_never_exits_ends_by_a_signal(
        self, scripted: ScriptedClaude, number: int, code: int
    ) -> None:
        scripted.replies("done").never_exits()
        process = Process(scripted, "-p", "q", *STREAM)
        until(lambda: len(process.lines) == 3)
        assert process.popen.poll() is None
        process.send(number)
        assert process.join() == code
        assert len(process.lines) == 3
        assert scripted.calls[0].exit_code == code

    def test_one_that_ignores_term_is_killed(self, scripted: ScriptedClaude) -> None:
        scripted.ignores_term()
        scripted.goes_silent()
        process = Process(scripted, "-p", "q", *PARTIAL)
        until(lambda: len(process.lines) == 5)
        process.send(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.popen.wait(0.1)
        process.kill()
        assert process.popen.returncode == -9
        until(lambda: scripted.calls[0].exit_code == -9)

    def test_sigint_in_text_and_json(self, scripted: ScriptedClaude) -> None:
        both = ((("-p", "q"), 0), (("-p", "q", "--output-format", "json"), 1))
        for number, (argv, lines) in enumerate(both, 1):
            scripted.goes_silent()
            process = Process(scripted, *argv)
            until(lambda: len(scripted.calls) == number and scripted.calls[-1].prompt)
            process.send(signal.SIGINT)
            assert (process.join(), len(process.lines)) == (0, lines)

    def test_a_usage_error(self, scripted: ScriptedClaude) -> None:
        scripted.usage_error("Error: Invalid MCP configuration")
        process = run(scripted, "-p", "q", *STREAM)
        assert (process.popen.returncode, process.stdout) == (1, "")
        assert outcome(process).error_kind == "usage"

    def test_a_reader_that_goes_does_not_stop_it(self, scripted: ScriptedClaude) -> None:
        scripted.replies("x" * 300_000, after=0.05)
        argv = [scripted.executable, "-p", "q", *STREAM]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as popen:
            assert popen.stdout is not None
            popen.stdout.readline()
            popen.stdout.close()
            assert popen.wait(10) == 0

    def test_term_ends_one_whose_reader_stalls(self, scripted: ScriptedClaude) -> None:
        scripted.replies("x" * 1_000_000)
        argv = [scripted.executable, "-p", "q", *STREAM]
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as popen:
            until(lambda: scripted.calls and scripted.calls[0].exit_code == 0)
            popen.terminate()
            assert popen.wait(10) == 143
            assert popen.stdout is not None


class TestCalls:
    def test_what_a_call_tells(self, scripted: ScriptedClaude, tmp_path: Path) -> None:
        module = tmp_path / "a module"
        module.mkdir()
        scripted.replies("Hi")
        argv = ("-p", "an “argument”", "--append-system-prompt", "", *STREAM)
        process = run(scripted, *argv, stdin="ein Prömpt\n".encode(), cwd=module,
                      env={"HOME": "/nonexistent", "X": "1"})  # fmt: skip
        (call,) = scripted.calls
        assert call.argv == argv
        assert call.cwd == os.path.realpath(module)
        assert (call.stdin, call.prompt) == ("ein Prömpt\n", "an “argument”\nein Prömpt\n")
        assert {"HOME", "X"} <= set(call.env)
        assert (call.pid, call.exit_code, call.scripted) == (process.pid, 0, True)
        assert call.started_at <= scripted.clock.now()
        with pytest.raises(AttributeError):
            call.exit_code = 3  # type: ignore[misc]

    def test_answers_by_prompt_and_module(self, scripted: ScriptedClaude, tmp_path: Path) -> None:
        for name in ("marker", "arangodb"):
            (tmp_path / name).mkdir()
        scripted.replies("anything")
        scripted.when(module="arangodb").replies("from arangodb")
        scripted.when(prompt="(?i)schema", module=str(tmp_path / "marker")).replies("a schema")
        asked = [("The Schema?", "marker"), ("The schema?", "arangodb"), ("Hello", "marker")]
        found = [
            outcome(
                run(scripted, "-p", *STREAM, stdin=prompt.encode(), cwd=tmp_path / name)
            ).content
            for prompt, name in asked
        ]
        assert found == ["a schema", "from arangodb", "anything"]
        scripted.assert_all_used()

    def test_a_call_for_which_nothing_is_scripted(self, tmp_path: Path) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        claude.when(prompt="schema").replies("…")
        claude.when(module="arangodb").replies("…")
        process = run(claude, "-p", "What is this?", *STREAM)
        assert (process.popen.returncode, process.stdout) == (1, "")
        assert "nothing is scripted for this call" in process.stderr
        assert "'What is this?' in" in process.stderr
        assert "1. claude.when(prompt='schema').replies('…'): the prompt does not" in process.stderr
        assert "2. claude.when(module='arangodb').replies('…'): the module is" in process.stderr
        assert not claude.calls[0].scripted
        with pytest.raises(AssertionError, match="nothing is scripted for this call"):
            claude.close()
        claude.close()

    def test_an_error_under_way_is_not_hidden(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), ScriptedClaude(tmp_path / "bin") as claude:
            run(claude, "-p", "q")
            raise ZeroDivisionError

    def test_runs_that_were_not_used(self, scripted: ScriptedClaude) -> None:
        scripted.replies("one")
        scripted.replies("two").replies("a second turn")
        scripted.hangs()
        for _ in range(2):
            run(scripted, "-p", "q")
        with pytest.raises(AssertionError) as caught:
            scripted.assert_all_used()
        told = str(caught.value)
        assert "claude.replies('one')" not in told
        assert "2. claude.replies('two').replies('a second turn'): used by call 2, 1 of" in told
        assert "3. claude.hangs(): never used" in told

    def test_a_run_without_an_end_says_so(self, tmp_path: Path) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        claude.says("one")
        process = run(claude, "-p", "q", *STREAM)
        assert "does not say how this turn ends" in process.stderr
        assert "hint      chain an end to it" in process.stderr
        with pytest.raises(AssertionError, match="how this turn ends"):
            claude.close()

    def test_who_has_verbs_says_what_they_add_to(self) -> None:
        with pytest.raises(TypeError, match="abstract"):
            Verbs()  # type: ignore[abstract]

    def test_nothing_comes_after_an_end(self, scripted: ScriptedClaude) -> None:
        with pytest.raises(ValueError, match="nothing can come after claude.exits"):
            scripted.exits(3).replies("x")

    @pytest.mark.parametrize(
        "script",
        [
            lambda c: c.replies("x", chunks=0),
            lambda c: c.replies("x", after=-1),
            lambda c: c.retries(times=0),
            lambda c: c.exits(256),
            lambda c: c.crashes("TERM"),
            lambda c: c.when(),
        ],
    )
    def test_nonsense_is_refused_where_it_is_written(
        self, scripted: ScriptedClaude, script: Any
    ) -> None:
        with pytest.raises(ValueError):
            script(scripted)

    @pytest.mark.parametrize(
        ("script", "error", "named"),
        [
            (lambda c: c.when(prompt="("), ValueError, "prompt must be a regular expression"),
            (lambda c: c.when(prompt=3), TypeError, "prompt must be a str"),
            (lambda c: c.when(module=3), TypeError, "module must be a path"),
            (lambda c: c.when(module=b"a"), TypeError, "module must be a path"),
            (lambda c: c.uses_tool("Read", "a.txt"), TypeError, "input must be a dict"),
            (lambda c: c.uses_tool(3), TypeError, "name must be a str"),
            (lambda c: c.uses_tool("Read", {"a": {1}}), TypeError, "input must be JSON"),
            (lambda c: c.uses_tool("Read", {"a": float("nan")}), ValueError, "input must be JSON"),
            (lambda c: c.uses_tool("Read", result=3), TypeError, "result must be a str"),
            (lambda c: c.denies("Read", message=3), TypeError, "message must be a str"),
            (lambda c: c.denies("Read", [1]), TypeError, "input must be a dict"),
            (lambda c: c.fails("overloaded"), TypeError, "status must be an int"),
            (lambda c: c.fails(200), ValueError, "status must be an HTTP error"),
            (lambda c: c.fails(429, message=3), TypeError, "message must be a str"),
            (lambda c: c.retries(times="2"), TypeError, "times must be an int"),
            (lambda c: c.retries("529"), TypeError, "status must be an int"),
            (lambda c: c.exits("1"), TypeError, "code must be an int"),
            (lambda c: c.exits(3, stderr=b"x"), TypeError, "stderr must be a str"),
            (lambda c: c.usage_error(3), TypeError, "text must be a str"),
            (lambda c: c.refuses(3), TypeError, "text must be a str"),
            (lambda c: c.crashes(text=3), TypeError, "text must be a str"),
            (lambda c: c.replies("a", chunks="2"), TypeError, "chunks must be an int"),
            (lambda c: c.replies("a", delay=3), TypeError, r"^claude\.replies\(\) got an"),
            (lambda c: setattr(c, "longest_hang", "9"), TypeError, "longest_hang"),
        ],
    )
    def test_an_argument_that_cannot_be_is_named_where_it_is_written(
        self, scripted: ScriptedClaude, script: Any, error: type[Exception], named: str
    ) -> None:
        with pytest.raises(error, match=named):
            script(scripted)
        scripted.assert_all_used()  # nothing is left of it

    def test_when_takes_paths_and_compiled_patterns(
        self, scripted: ScriptedClaude, tmp_path: Path
    ) -> None:
        scripted.when(module=tmp_path, prompt=re.compile("HI", re.IGNORECASE)).replies("here")
        assert run(scripted, "-p", "hi", cwd=tmp_path).stdout == "here\n"

    def test_a_limit_of_turns_that_nobody_gave_is_no_zero(self, scripted: ScriptedClaude) -> None:
        scripted.max_turns()
        assert "Reached max turns (1)" in run(scripted, "-p", "q").stdout

    def test_what_the_cli_itself_refuses_takes_no_run(self, scripted: ScriptedClaude) -> None:
        scripted.replies("still there")
        for argv, told in (
            (("-p", "q", "--nope"), "unknown option '--nope'"),
            (("-p", "-q"), "unknown option '-q'"),
            (("-p", "q", "--model"), "error: option '--model <model>' argument missing"),
            (("-p", "q", "--output-format", "xml"), "Allowed choices"),
            (
                ("-p", "q", "--permission-mode", "yolo", "--thinking", "yolo"),
                "error: option '--permission-mode <mode>' argument 'yolo' is invalid. Allowed "
                "choices are acceptEdits, auto, bypassPermissions, manual, dontAsk, plan.\n",
            ),
            (("-p", "q", "--thinking", "on"), "choices are enabled, adaptive, disabled."),
            (("-p", "q", "--thinking-display="), "choices are summarized, omitted, highlights."),
            (("-p", "q", "--max-budget-usd", "0"), "must be a number greater than 0"),
            (("-p", "q", "--max-thinking-tokens", "x"), "argument 'x' is invalid. must be a"),
            (("-p", "q", "--task-budget", "0"), "--task-budget must be a positive integer"),
            (
                ("-p", "q", "--setting-sources", "user,mine"),
                "Error processing --setting-sources: Invalid setting source: mine. Valid options "
                "are: user, project, local\n",
            ),
            (("-p", "q", "--include-partial-messages"), "--include-partial-messages requires"),
            (("-p", "q", "--input-format", "stream-json"), "requires output-format=stream-json"),
            (("-p", "q", "--session-id", "7"), "Invalid session ID"),
            (("-p", "q", "--max-turns", "none"), "argument 'none' is invalid. must be a number"),
            (
                (
                    "-p",
                    "  ",
                ),
                "Input must be provided",
            ),
            (("-p", "--allowedTools", "Read", "swallowed"), "Input must be provided"),
        ):
            process = run(scripted, *argv)
            assert process.popen.returncode == 1
            assert told in process.stderr
        assert run(scripted, "-p", "--", "-q").stdout == "still there\n"
        assert [call.exit_code for call in scripted.calls] == [1] * 17 + [0]

    def test_what_the_cli_takes_without_a_word(self, scripted: ScriptedClaude) -> None:
        for argv in (
            ("--permission-mode", "default"),
            ("--max-turns", "0"),
            ("--setting-sources", ""),
            ("--max-budget-usd", "0.5", "--effort", "high"),
        ):
            scripted.replies("Hi")
            assert run(scripted, "-p", "q", *argv).stdout == "Hi\n"

    def test_version_and_help_are_no_calls(self, scripted: ScriptedClaude) -> None:
        assert run(scripted, "-v").stdout == "2.1.330 (Claude Code)\n"
        assert run(scripted, "--help").stdout.startswith("Usage: claude")
        assert scripted.calls == []

    def test_the_lean_flags_of_the_sdk_are_known(self, scripted: ScriptedClaude) -> None:
        scripted.replies("Hi")
        process = run(
            scripted, "-p", "q", *STREAM, "--system-prompt", "", "--tools", "",
            "--setting-sources=", "--strict-mcp-config", "--mcp-config", "{}",
            "--fallback-model", "haiku", "--add-dir", ".", "--max-thinking-tokens", "100",
        )  # fmt: skip
        assert process.popen.returncode == 0, process.stderr

    def test_stdin_that_nobody_writes_to_is_given_up_on(self, scripted: ScriptedClaude) -> None:
        scripted.replies("Hi")
        process = Process(scripted, "-p", "q", stdin=None)  # real: 3 s, as the CLI has it
        assert process.join() == 0
        assert process.stderr.startswith("Warning: no stdin data received in 3s")
        assert process.stdout == "Hi\n"

    def test_a_closed_stdin_is_an_empty_one(self, scripted: ScriptedClaude) -> None:
        scripted.replies("Hi")
        line = f"{scripted.executable} -p q <&-"
        assert subprocess.check_output(["sh", "-c", line], text=True) == "Hi\n"

    def test_a_directory_that_is_gone(self, scripted: ScriptedClaude, tmp_path: Path) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        line = f"cd {gone}; rmdir {gone}; exec {scripted.executable} -p q"
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "current directory no longer exists" in done.stderr


class TestStreamInput:
    def test_initialize_is_answered_before_anything_is_asked(
        self, scripted: ScriptedClaude
    ) -> None:
        scripted.replies("one").replies("two")
        process = Process(scripted, *STREAM_IN[1:], stdin=None)
        process.write(
            b'{"type":"control_request","request_id":"req_1","request":{"subtype":"initialize"}}\n'
        )
        until(lambda: process.lines)
        answer = json.loads(process.lines[0][1])
        assert answer["type"] == "control_response"
        assert answer["response"]["request_id"] == "req_1"
        assert answer["response"]["subtype"] == "success"
        assert answer["response"]["response"]["commands"]
        process.write(user("1"))
        until(lambda: len(process.lines) == 4)
        process.write(
            b'{"type":"control_request","request_id":"req_2","request":{"subtype":"set_model"}}\n'
        )
        until(lambda: len(process.lines) == 5)
        process.write(user("2"))
        process.close_stdin()
        assert process.join() == 0
        found = outcome(process)
        assert [result.answer for result in found.results] == ["one", "two"]
        assert scripted.calls[0].prompt == "1"
        assert "set_model" in scripted.calls[0].stdin

    def test_an_interrupt_ends_the_partial_message_too(self, scripted: ScriptedClaude) -> None:
        scripted.goes_silent(text="Use _ke").replies("As I said.")
        process = Process(scripted, *STREAM_IN, "--include-partial-messages", stdin=None)
        process.write(user("1"))
        until(lambda: '"text_delta"' in process.stdout)
        process.write(
            b'{"type":"control_request","request_id":"r1","request":{"subtype":"interrupt"}}\n'
        )
        process.write(user("2"))
        process.close_stdin()
        process.join()
        lines = [json.loads(line) for _, line in process.lines]
        at = [each.get("aborted") for each in lines].index(True)
        after = lines[at + 1 : at + 6]
        assert [each.get("event", each)["type"] for each in after] == [
            *("user", "content_block_stop", "message_delta", "message_stop", "result")
        ]
        void = {"api_message_id": lines[at]["message"]["id"], "from_block_index": 1}
        assert after[3]["abandoned_blocks"] == void
        found = outcome(process)
        assert [each.subtype for each in found.results] == ["error_during_execution", "success"]
        assert found.content == "Use _ke\n\nAs I said."

    def test_it_stays_while_stdin_is_open(self, scripted: ScriptedClaude) -> None:
        scripted.replies("one")
        process = Process(scripted, *STREAM_IN, stdin=None)
        process.write(user("1"))
        until(lambda: len(process.lines) == 3)
        with pytest.raises(subprocess.TimeoutExpired):
            process.popen.wait(0.05)
        process.close_stdin()
        assert process.join() == 0

    def test_a_message_too_many(self, tmp_path: Path) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        claude.replies("one")
        process = run(claude, *STREAM_IN, stdin=user("1") + user("2"))
        assert process.popen.returncode == 1
        assert "no further turn" in process.stderr
        with pytest.raises(AssertionError, match="no further turn"):
            claude.close()

    def test_the_exit_code_is_that_of_the_last_turn(self, scripted: ScriptedClaude) -> None:
        scripted.replies("ok").fails(400)
        process = run(scripted, *STREAM_IN, stdin=user("1") + user("2"))
        assert process.popen.returncode == 1

    def test_a_malformed_line(self, scripted: ScriptedClaude) -> None:
        process = run(scripted, *STREAM_IN, stdin=b"{nonsense\n")
        assert (process.popen.returncode, process.stdout) == (1, "")
        assert "{nonsense" in process.stderr

    def test_leave_refused_on_stdin(self, scripted: ScriptedClaude) -> None:
        scripted.uses_tool("Bash", {"command": "rm"}, asks=True).replies("I may not.")
        process = Process(scripted, *STREAM_IN, "--permission-prompt-tool", "stdio", stdin=None)
        process.write(user("do"))
        until(lambda: len(process.lines) == 3)
        asked = json.loads(process.lines[2][1])
        answer = {"behavior": "deny", "message": "not that"}
        said = {"request_id": asked["request_id"], "subtype": "success", "response": answer}
        process.write(json.dumps({"type": "control_response", "response": said}).encode() + b"\n")
        process.close_stdin()
        assert process.join() == 0
        assert "not that" in process.stdout
        assert "permission_denied" not in process.stdout  # who said no need not be told


class TestBulk:
    def test_ten_lines_of_a_megabyte(self, scripted: ScriptedClaude) -> None:
        texts = [chr(ord("a") + number) * 1_000_000 for number in range(10)]
        for text in texts[:-1]:
            scripted.says(text)
        scripted.replies(texts[-1])
        process = run(scripted, "-p", "q", *STREAM)
        assert outcome(process).content == "\n\n".join(texts)

    def test_many_small_deltas(self, scripted: ScriptedClaude) -> None:
        text = "".join(f"{number:05}" for number in range(4000))
        scripted.replies(text, chunks=20_000)
        process = run(scripted, "-p", "q", *PARTIAL)
        reader = StreamReader()
        shown = ""
        for _, line in process.lines:
            for update in reader.feed(line):
                shown = (
                    update.content if update.content is not None else shown + (update.append or "")
                )
        assert shown == text
        assert len(process.lines) > 20_000

    def test_a_megabyte_by_stdin(self, scripted: ScriptedClaude) -> None:
        scripted.replies("Hi")
        run(scripted, "-p", stdin=b"x" * 1_000_000)
        assert scripted.calls[0].prompt == "x" * 1_000_000

    def test_more_than_the_cli_takes(self, scripted: ScriptedClaude) -> None:
        process = run(scripted, "-p", stdin=b"x" * 11_000_000)
        assert process.popen.returncode == 1
        assert process.stderr == "Error: piped stdin input exceeds 10MB.\n"

    def test_eight_at_once(self, scripted: ScriptedClaude) -> None:
        for number in range(8):
            scripted.when(prompt=f"^{number}$").replies(f"answer {number}", after=0.05, chunks=3)
        found: dict[int, str] = {}

        def ask(number: int) -> None:
            process = run(scripted, "-p", *PARTIAL, stdin=str(number).encode())
            found[number] = outcome(process).content

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {number: f"answer {number}" for number in range(8)}
        scripted.assert_all_used()


class TestKill:
    @pytest.mark.parametrize(
        ("number", "code"), [(None, -9), (signal.SIGTERM, 143), (signal.SIGINT, 0)]
    )
    def test_a_call_is_sent_a_signal(
        self, scripted: ScriptedClaude, number: int | None, code: int
    ) -> None:
        scripted.goes_silent()
        process = Process(scripted, "-p", "q", *PARTIAL)
        until(lambda: '"text_delta"' in process.stdout)
        (call,) = scripted.calls
        if number is None:
            call.kill()
        else:
            call.kill(number)
        assert process.join() == code
        until(lambda: scripted.calls[0].exit_code == code)
        call.kill()  # it has ended: nothing

    def test_a_number_that_is_no_signal_s(self, scripted: ScriptedClaude) -> None:
        scripted.hangs()
        process = Process(scripted, "-p", "q", *STREAM)
        until(lambda: process.lines)
        with pytest.raises(OSError):
            scripted.calls[0].kill(1000)
        scripted.calls[0].kill()
        assert process.join() == -9

    def test_a_number_that_is_another_s_by_now_gets_no_signal(
        self, scripted: ScriptedClaude, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scripted.replies("Hi")
        run(scripted, "-p", "q")
        until(lambda: not scripted._players)
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a signal to a stranger"))
        kept = scripted._stage._records[0]
        kept.as_call().kill()


def no_more_threads(*_: object) -> None:
    raise RuntimeError("can't start new thread")


class TestItsLife:
    def test_a_system_without_what_it_needs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert why_not_here() is None
        monkeypatch.delattr(select, "poll")
        assert "needs Unix sockets and signals" in (why_not_here() or "")
        with pytest.raises(RuntimeError, match=r"here is no select\.poll"):
            ScriptedClaude(tmp_path / "bin")
        assert not (tmp_path / "bin").exists()

    def test_nobody_who_forks_meanwhile_has_the_executable_open_for_writing(
        self, tmp_path: Path
    ) -> None:
        # "Text file busy" for who starts it then, so this process never has. Every open() of a
        # process goes by its audit hook, which cannot be taken back: so it is another process.
        program = """
            import os, sys
            from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

            def look(event, args):
                if event == "open" and args[0] == sys.argv[1] + "/claude":
                    print("for writing" if args[2] & (os.O_WRONLY | os.O_RDWR) else "for reading")

            sys.addaudithook(look)
            with ScriptedClaude(sys.argv[1]) as claude:
                assert os.path.getsize(claude.executable) > 1000
                print("made")
        """
        told = subprocess.check_output(
            [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "bin")],
            text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert told.split("\n") == ["for reading", "made", ""]

    def test_one_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "bin" / "claude").mkdir(parents=True)
        before = resources.left_open()
        with pytest.raises(IsADirectoryError):
            ScriptedClaude(tmp_path / "bin")
        assert resources.left_open() == before  # nor is its socket left, which Python would warn of

    def test_close_kills_what_still_runs_and_leaves_nothing(self, tmp_path: Path) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        for _ in range(3):
            claude.hangs()
        processes = [Process(claude, "-p", "q", *STREAM) for _ in range(3)]
        until(lambda: all(process.lines for process in processes))
        assert "call close()" in (claude.left_open() or "")
        assert id(claude) in resources.left_open()
        claude.close()
        assert [process.join() for process in processes] == [-9] * 3
        assert claude.left_open() is None
        assert list((tmp_path / "bin").iterdir()) == []
        assert not os.path.exists(claude._socket_folder)
        assert not [thread for thread in threading.enumerate() if "scripted" in thread.name]

    def test_a_close_that_is_interrupted_leaves_nothing_for_others_and_can_go_on(
        self, tmp_path: Path, fake: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claude = ScriptedClaude(tmp_path / "bin", fake)
        with monkeypatch.context() as patch:
            patch.setattr(claude._serving, "join", lambda: pytest.exit("Ctrl-C"))
            with pytest.raises(pytest.exit.Exception):
                claude.close()
        assert list((tmp_path / "bin").iterdir()) == []
        assert not os.path.exists(claude._socket_folder)
        assert fake.when_declared == []
        assert "call close()" in (claude.left_open() or "")
        claude.close()
        assert claude.left_open() is None
        assert not claude._serving.is_alive()

    def test_it_outlives_a_time_of_too_many_open_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused: list[str] = []

        def refuse_twice(call: Callable[..., Any], name: str) -> Callable[..., Any]:
            def refusing(*args: Any) -> Any:
                if refused.count(name) < 2:
                    refused.append(name)
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                return call(*args)

            return refusing

        monkeypatch.setattr(socket.socket, "accept", refuse_twice(socket.socket.accept, "accept"))
        monkeypatch.setattr(socket, "socketpair", refuse_twice(socket.socketpair, "socketpair"))
        with ScriptedClaude(tmp_path / "bin") as claude:
            claude.replies("Hi")
            assert run(claude, "-p", "q").stdout == "Hi\n"
        assert refused == ["accept", "accept", "socketpair", "socketpair"]

    def test_it_can_be_closed_while_there_are_too_many(self, tmp_path: Path) -> None:
        rlimits = pytest.importorskip("resource")
        claude = ScriptedClaude(tmp_path / "bin")
        most = rlimits.getrlimit(rlimits.RLIMIT_NOFILE)
        rlimits.setrlimit(rlimits.RLIMIT_NOFILE, (3, most[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                os.pipe()
            claude.close()
        finally:
            rlimits.setrlimit(rlimits.RLIMIT_NOFILE, most)
        assert not claude._serving.is_alive()
        assert not os.path.exists(claude._socket_folder)

    def test_a_system_without_more_threads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_more_threads)
            done = subprocess.run(
                [claude.executable, "-p", "q"],
                stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        with pytest.raises(AssertionError, match="nobody could play to a process: can't start new"):
            claude.close()
        assert not claude._serving.is_alive()

    def test_one_that_outlives_the_test_says_so(self, tmp_path: Path) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        kept = Path(claude.executable).read_bytes()
        claude.close()
        again = tmp_path / "claude"
        again.write_bytes(kept)
        again.chmod(0o700)
        done = subprocess.run([again, "-p", "q"], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"the test that scripted this is over" in done.stderr

    def test_it_works_from_path_with_an_empty_environment(self, scripted: ScriptedClaude) -> None:
        scripted.replies("Hi")
        done = subprocess.run(
            ["claude", "-p", "q"],
            env={"PATH": scripted.folder}, stdin=subprocess.DEVNULL, capture_output=True,
            check=True,
        )  # fmt: skip
        assert done.stdout == b"Hi\n"
        assert stat.S_IMODE(os.stat(scripted.executable).st_mode) == 0o700

    @pytest.mark.parametrize("name", ["a python", "p" * 150])
    def test_an_interpreter_that_no_shebang_can_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        wrapper = tmp_path / name
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        wrapper.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(wrapper))
        with ScriptedClaude(tmp_path / "bin with spaces") as claude:
            claude.replies("Hi")
            assert run(claude, "-p", "it's $HOME").stdout == "Hi\n"
            assert claude.calls[0].argv == ("-p", "it's $HOME")

    def test_it_imports_nothing_that_python_has_to_read(self, scripted: ScriptedClaude) -> None:
        # What makes it start at 1.1 times a bare `python -I -S`: see bench_stand_in.py.
        shebang, *program, _start = Path(scripted.executable).read_text("utf-8").splitlines()
        assert shebang == f"#!{sys.executable} -IS"
        asked = [
            "import sys; before = set(sys.modules)",
            *program,
            "print(*sorted(set(sys.modules) - before))",
        ]
        found = subprocess.check_output(
            [sys.executable, "-I", "-S", "-c", "\n".join(asked)], text=True
        )
        assert set(found.split()) <= {"_socket", "fcntl", "marshal", "select", "termios"}


class TestItsOwnFaults:
    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write = TurnWriter.write

        def broken(self: TurnWriter, steps: Sequence[Step], *, cut: bool) -> int | None:
            if steps == [Says(text="no such step", ends=True)]:
                raise RuntimeError("no such step")
            return write(self, steps, cut=cut)

        monkeypatch.setattr(TurnWriter, "write", broken)

    def test_a_failure_of_the_stand_in_fails_the_test_with_its_cause(self, tmp_path: Path) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        claude.replies("no such step")
        process = run(claude, "-p", "q")
        assert process.popen.returncode == 1
        assert "the stand-in itself failed: RuntimeError('no such step')" in process.stderr
        with pytest.raises(AssertionError, match=r"itself failed[\s\S]+in broken"):
            claude.close()

    def test_it_holds_no_fake_clock_up(self, tmp_path: Path, fake: FakeClock) -> None:
        claude = ScriptedClaude(tmp_path / "bin", fake)
        claude.replies("no such step")
        store = open_store("memory:", clock=fake)
        env = {"PATH": f"{claude.folder}:{os.environ['PATH']}"}
        reply = ask_module(store, "q", tmp_path, "q", env=env)
        assert (reply.answer.status, fake.elapsed) == ("failed", 0)
        assert "the stand-in itself failed" in (reply.answer.error or "")
        with pytest.raises(AssertionError, match="itself failed"):
            claude.close()

    @pytest.mark.parametrize("stubborn", [False, True])
    def test_a_hang_that_nothing_ends_is_ended(self, tmp_path: Path, stubborn: bool) -> None:
        claude = ScriptedClaude(tmp_path / "bin")
        assert claude.longest_hang == 60
        claude.longest_hang = 0.2
        if stubborn:
            claude.ignores_term()
        claude.goes_silent(text="x" * 1_000_000)
        read, write = os.pipe()  # nobody reads
        process = subprocess.Popen(
            [claude.executable, "-p", "q", *PARTIAL],
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        assert process.wait(20) == 1
        os.close(read)
        with pytest.raises(AssertionError, match="hangs as scripted, and nothing has ended it for"):
            claude.close()

    def test_none_that_is_ended_in_time_is_complained_of(self, tmp_path: Path) -> None:
        with ScriptedClaude(tmp_path / "bin") as claude:
            claude.longest_hang = None
            claude.hangs()
            process = Process(claude, "-p", "q")
            until(lambda: claude.calls and claude.calls[0].prompt)
            process.send(signal.SIGTERM)
            assert process.join() == 143

    def test_in_a_pid_namespace_nobody_else_is_killed(self, tmp_path: Path) -> None:
        apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]
        try:
            subprocess.run([*apart, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no PID namespace can be made here")
        claude = ScriptedClaude(tmp_path / "bin")
        claude.hangs()
        process = subprocess.Popen(
            [*apart, claude.executable, "-p", "q"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            until(lambda: claude.calls and claude.calls[0].prompt)
            pid = claude.calls[0].pid
            assert claude.executable in Path(f"/proc/{pid}/cmdline").read_text()
            claude.close()
            process.wait(10)
        finally:
            process.kill()
            process.wait()
