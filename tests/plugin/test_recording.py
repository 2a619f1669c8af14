"""Recording a run of the CLI (a script that stands for it) and playing it in the same test."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.claude.transcript import Transcript
from pytest_claude_comms.testing.recording import default_name
from tests.plugin.conftest import Run

SECRET = "sk-ant-0123456789"

REAL_CLI = """#!{python}
import json, os, sys, time
def say(**line):
    print(json.dumps(line), flush=True)
prompt = sys.stdin.read()
print("warning: the key", os.environ.get("ANTHROPIC_API_KEY"), file=sys.stderr, flush=True)
say(type="system", subtype="init", session_id="s1", cwd=os.getcwd(), model="m",
    claude_code_version="9.9", home=os.path.expanduser("~"))
if "hang" in prompt:
    import signal
    def end(*_):
        say(type="system", subtype="bye", session_id="s1")
        sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    while True:
        time.sleep(0.01)
for piece in ("the key is sk-ant-", "0123456789 ", "and\\n", os.environ["HOME"]):
    time.sleep(0.2)
    say(type="stream_event", session_id="s1", parent_tool_use_id=None,
        event=dict(type="content_block_delta", index=0, delta=dict(type="text_delta", text=piece)))
text = "the key is " + os.environ.get("ANTHROPIC_API_KEY", "") + " and " + os.environ["HOME"]
say(type="assistant", session_id="s1", parent_tool_use_id=None,
    message=dict(id="m1", role="assistant", content=[dict(type="text", text=text)]))
if "cut" in prompt:
    os.kill(os.getppid(), 9)
    time.sleep(5)
say(type="result", subtype="success", is_error=False, result=text, session_id="s1",
    num_turns=1, duration_ms=5, total_cost_usd=0.1, usage=dict())
sys.exit(0)
"""

ASK = """
    from pytest_claude_comms import ask_module

    def test_asks(store, clock, claude, tmp_path):
        claude.recorded({name})
        module = tmp_path / "marker"
        module.mkdir()
        reply = ask_module(
            store, "me", module, {prompt!r}, model={model!r}, append_system_prompt=str(tmp_path)
        )
        assert reply.answer.status == "complete", (reply.answer, claude.calls)
        assert 0.8 <= clock.elapsed < 30
        print("ELAPSED", clock.elapsed)
        {more}
"""


@pytest.fixture
def real(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CLI first on PATH, and a home and a key to give away."""
    folder = pytester.path / "real-bin"
    folder.mkdir()
    cli = folder / "claude"
    cli.write_text(REAL_CLI.format(python=sys.executable))
    cli.chmod(0o755)
    home = pytester.path / "home" / "joe"
    home.mkdir(parents=True)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    return cli


def ask(name: str = "", prompt: str = "Which key?", model: str = "opus", more: str = "") -> str:
    return ASK.format(name=name, prompt=prompt, model=model, more=more or "pass")


def recordings(pytester: pytest.Pytester) -> list[str]:
    folder = pytester.path / "transcripts"
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


RECORD = ("--claude-comms-record", "--claude-comms-stores=memory")
PLAY = ("--claude-comms-stores=memory", "-s")


def test_recorded_redacted_and_played_in_fake_time(
    run: Run, pytester: pytest.Pytester, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(ask("'key'"), *RECORD)
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(
        [
            "*claude-comms: recordings*",
            "*transcripts/key.jsonl: written (*exit code 0); redacted: "
            "ANTHROPIC_API_KEY, CWD, HOME, TMP_PATH",
        ]
    )
    assert recordings(pytester) == ["key.jsonl"]
    path = pytester.path / "transcripts" / "key.jsonl"
    text = path.read_text()
    assert SECRET not in text
    assert str(pytester.path) not in text
    made = Transcript.load(path)
    assert made.cli == "claude 9.9"
    assert made.argv[-4:-1] == ("opus", "--append-system-prompt", "<TMP_PATH>")
    assert made.env["ANTHROPIC_API_KEY"] == "<ANTHROPIC_API_KEY>"
    assert not set(made.env) & {"HOME", "PATH", "CLAUDE_COMMS_RUN"}
    assert made.prompt_sha256 is not None
    assert made.exit == 0
    assert made.stderr_text == "warning: the key <ANTHROPIC_API_KEY>\n"
    lines = [json.loads(line) for line in made.stdout_lines]
    assert lines[0]["cwd"] == "<CWD>"
    deltas = [line["event"]["delta"]["text"] for line in lines if line["type"] == "stream_event"]
    assert deltas == ["the key is <ANTHROPIC_API_KEY>", " ", "and\n", "<HOME>"]
    assert lines[-1]["result"] == "the key is <ANTHROPIC_API_KEY> and <HOME>"

    # Elsewhere: no CLI, no key, another home.
    real.unlink()
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("HOME", str(pytester.path))
    outcome = made.outcome()
    played = run(
        ask(
            "'key'",
            more="assert reply.answer.content == "
            + repr(outcome.content.replace("<HOME>", str(pytester.path)))
            + "\n        assert reply.outcome.answer == "
            + repr((outcome.answer or "").replace("<HOME>", str(pytester.path)))
            + f"\n        assert clock.elapsed == {made.duration!r}",
        ),
        *PLAY,
    )
    played.assert_outcomes(passed=1)
    assert path.read_text() == text


def test_every_line_comes_at_its_time(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    source = """
        import threading
        from pytest_claude_comms.claude.command import build_command, build_environment
        from pytest_claude_comms.claude.process import ClaudeProcess
        from pytest_claude_comms.testing import Transcript

        def test_lines(clock, claude, tmp_path, request):
            claude.recorded("lines")
            wakeup, found = clock.wakeup(), []
            import os
            with ClaudeProcess("q", cwd=tmp_path, command=build_command(), clock=clock,
                               env=build_environment(os.environ), on_output=wakeup.set) as process:
                while True:
                    over = process.ended
                    chunks = process.take()
                    found += [(clock.elapsed, chunk.decode()) for chunk in chunks]
                    process.done_with(chunks)
                    if over:
                        break
                    wakeup.wait(None, why="Claude")
            assert process.exit_code == 0
            if not request.config.getoption("claude_comms_record"):
                made = Transcript.load(request.path.parent / "transcripts/lines.jsonl")
                entries = [each for each in made.entries if each.stream == "stdout"]
                whole = "".join(each.line + "\\n" for each in entries)
                whole = whole.replace("<CWD>", str(tmp_path)).replace("<HOME>", os.environ["HOME"])
                assert "".join(text for _, text in found) == whole
                assert process.stderr == made.stderr_text
                at = {t for t, _ in found}
                assert at == {round(each.t, 6) for each in entries}
                assert clock.elapsed == made.duration
        """
    run(source, *RECORD).assert_outcomes(passed=1)
    run("", *PLAY).assert_outcomes(passed=1)


def test_a_test_that_fails_writes_nothing(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    done = run(ask("'key'", more="assert False"), *RECORD)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*key.jsonl: not written: the test did not pass"])
    assert recordings(pytester) == []
    more = "import subprocess; subprocess.run([claude.executable, '-p', 'not scripted'], stdin=-3)"
    done = run(ask("'key'", more=more), *RECORD)
    done.assert_outcomes(passed=1, errors=1)
    done.stdout.fnmatch_lines(["*key.jsonl: not written: the test's teardown failed"])
    assert recordings(pytester) == []
    done = run(ask("'key'", more=f"{more}; assert False"), *RECORD)
    done.assert_outcomes(failed=1, errors=1)
    done.stdout.fnmatch_lines(["*key.jsonl: not written: the test did not pass"])


def test_a_run_that_is_cut_leaves_the_recording_that_is_there(
    run: Run, pytester: pytest.Pytester, real: Path
) -> None:
    run(ask("'key'"), *RECORD).assert_outcomes(passed=1)
    path = pytester.path / "transcripts" / "key.jsonl"
    before = path.read_bytes()
    cut = ask("'key'", prompt="cut").replace('== "complete"', '== "failed"')
    cut = cut.replace("0.8 <=", "0.5 <=")  # fake time follows in steps, and not a dead process
    done = run(cut, *RECORD)
    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(["*key.jsonl: not written: the run was cut: no exit was seen"])
    assert path.read_bytes() == before
    assert recordings(pytester) == ["key.jsonl"]


_SLOW_TO_END = """
import time
import pytest
from pytest_claude_comms.claude.process import ClaudeProcess

@pytest.fixture(autouse=True)
def slow(monkeypatch):
    sleep, finish = time.sleep, ClaudeProcess._finish

    def slowly(process):
        sleep(1.5)  # really: a busy machine
        finish(process)

    monkeypatch.setattr(ClaudeProcess, "_finish", slowly)
"""


def test_no_time_passes_until_its_runner_has_seen_the_end_of_a_run_that_is_cut(
    run: Run, pytester: pytest.Pytester, real: Path
) -> None:
    pytester.makeconftest(_SLOW_TO_END)
    cut = ask("'key'", prompt="cut").replace('== "complete"', '== "failed"')
    run(cut.replace("0.8 <=", "0.5 <="), *RECORD).assert_outcomes(passed=1)


def test_a_signal_is_passed_on_and_recorded(
    run: Run, pytester: pytest.Pytester, real: Path
) -> None:
    source = """
        from pytest_claude_comms import ask_module

        def test_times_out(store, clock, claude, tmp_path):
            claude.recorded()
            reply = ask_module(store, "me", tmp_path, "hang", timeout=1)
            assert reply.answer.status == "timeout"
            assert claude.calls[0].exit_code == 143
        """
    run(source, *RECORD).assert_outcomes(passed=1)
    (name,) = recordings(pytester)
    assert name == "test_a_signal_is_passed_on_and_recorded.test_times_out.jsonl"
    made = Transcript.load(pytester.path / "transcripts" / name)
    assert [each.sig for each in made.signals] == ["TERM"]
    assert made.exit == 128 + signal.SIGTERM
    assert '"bye"' in made.stdout_lines[-1]
    run("", *PLAY).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "haiku"}, "*now *--model haiku*"),
        ({"prompt": "Another?"}, "*prompt * differs on stdin: sha256 *"),
    ],
)
def test_a_stale_recording_names_what_differs(
    run: Run, pytester: pytest.Pytester, real: Path, change: dict[str, Any], told: str
) -> None:
    run(ask("'key'"), *RECORD).assert_outcomes(passed=1)
    done = run(ask("'key'", **change), *PLAY)
    assert done.ret == 1
    done.stdout.fnmatch_lines(
        ["*the recording is stale*", told, "*pytest --claude-comms-record*::test_asks*"]
    )


def test_a_missing_recording_says_how_to_make_it(run: Run, pytester: pytest.Pytester) -> None:
    done = run(ask(), *PLAY)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(
        ["*there is no recording *.jsonl", "*hint  pytest --claude-comms-record *::test_asks*"]
    )


def test_under_xdist_on_all_stores(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    pytest.importorskip("xdist")
    done = run(ask("'key'"), "--claude-comms-record", "-n", "2")
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["*key.jsonl: written *", "*key.jsonl: written *"])
    real.unlink()
    run("", "-n", "1").assert_outcomes(passed=2)


def test_without_a_cli_the_test_fails_and_says_so(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    no_wheel = "from pytest_claude_comms.claude import command; command._bundled = lambda: None"
    source = ask("'key'").replace("claude.recorded", f"{no_wheel}\n        claude.recorded")
    done = run(source, *RECORD)
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*claude (recorder): *not on PATH*"])
    assert recordings(pytester) == []


def test_a_prompt_by_stream_json(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    source = """
        import json, subprocess

        def test_stream(claude):
            claude.recorded("stream")
            claude.recorded("stream-2")
            for text in ("first", "second"):
                said = {{"type": "user", "message": {{"role": "user", "content": text + "{0}"}}}}
                done = subprocess.run(
                    [claude.executable, "-p", "--input-format", "stream-json", "--new-option",
                     "--output-format", "stream-json", "--verbose"],
                    input=json.dumps(said) + "\\n", capture_output=True, text=True)
                assert done.returncode == 0, done.stderr
                assert len(done.stdout.splitlines()) == 7
            assert [call.prompt for call in claude.calls] == ["first{0}", "second{0}"]
        """
    run(source.format("").replace("--new-option", "--debug"), *RECORD).assert_outcomes(passed=1)
    assert recordings(pytester) == ["stream-2.jsonl", "stream.jsonl"]
    run("", *PLAY).assert_outcomes(passed=1)
    done = run(source.format("!").replace("--new-option", "--debug"), *PLAY)
    done.stdout.fnmatch_lines(["*prompt * differs on stdin*"])


def test_what_a_test_has_redacted(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    more = "claude.redact(lambda text: text.replace('opus', '<MODEL>').replace('key', 'lock'))"
    source = ask("'key'").replace("claude.recorded", f"{more}\n        claude.recorded")
    run(source, *RECORD).assert_outcomes(passed=1)
    made = Transcript.load(pytester.path / "transcripts" / "key.jsonl")
    assert "<MODEL>" in made.argv
    assert "what claude.redact was given" in made.redacted
    run("", *PLAY).assert_outcomes(passed=1)


def test_folders_are_those_of_the_run_that_plays(
    run: Run, pytester: pytest.Pytester, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real.write_text(ECHOES.format(python=sys.executable))
    source = """
        import os
        from pytest_claude_comms import ask_module

        def test_echo(store, claude, clock, tmp_path, tmp_path_factory, request):
            claude.recorded()
            module = tmp_path / "mod"
            module.mkdir()
            asked = " ".join(map(str, (
                tmp_path / "a.txt", module, os.environ["HOME"] + "/b", request.config.rootpath,
                tmp_path_factory.getbasetemp() / "c")))
            reply = ask_module(store, "m", module, asked, env=dict(HOME=str(tmp_path / "home")))
            answer = reply.answer
            assert answer.content == f"echo {asked} {tmp_path}/home", (answer, claude.calls)
            assert answer.metadata["permission_denials"] == [
                {"tool_name": "Read", "tool_input": {"path": f"{module}/x"}}]
        """
    run(source, *RECORD, "--basetemp=first").assert_outcomes(passed=1)
    (name,) = recordings(pytester)
    text = (pytester.path / "transcripts" / name).read_text()
    assert str(pytester.path) not in text
    real.unlink()
    monkeypatch.setenv("HOME", str(pytester.path / "another"))
    run("", "--basetemp=second folder").assert_outcomes(passed=2)


NAMED = """
    import pytest
    from pytest_claude_comms import ask_module

    def ask(store, claude, folder, *hooks):
        for hook in hooks:
            claude.redact(hook)
        claude.recorded("same")
        assert ask_module(store, "m", folder, "Bob?").answer.status == "complete"

    def test_a(store, clock, claude, tmp_path):
        ask(store, claude, tmp_path, lambda text: text.replace("Bob", "<NAME>"))

    {second}
    def test_b(store, clock, claude, tmp_path{argument}):
        ask(store, claude, tmp_path)
"""
ECHOES = """#!{python}
import json, os, sys
asked = sys.stdin.read()
print("no file", asked.split(" ")[0], file=sys.stderr)
denials = [dict(tool_name="Read", tool_input=dict(path=os.getcwd() + "/x"))]
print(json.dumps(dict(type="system", subtype="init", session_id="s", model="m")))
text = "echo " + asked + " " + os.environ["HOME"]
print(json.dumps(dict(type="assistant", session_id="s", parent_tool_use_id=None,
    message=dict(id="m1", role="assistant", content=[dict(type="text", text=text)]))))
print(json.dumps(dict(type="result", subtype="success", is_error=False, session_id="s",
    num_turns=1, permission_denials=denials, result=text)))
"""


def test_two_tests_cannot_record_the_same(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    real.write_text(ECHOES.format(python=sys.executable))
    done = run(NAMED.format(second="", argument=""), "--claude-comms-record")
    done.assert_outcomes(passed=2, failed=2)  # the same test on two stores is the same
    done.stdout.fnmatch_lines(
        [
            "*transcripts/same.jsonl was just recorded by *.py::test_a",
            "*hint  give each test a recording of its own: claude.recorded(name)",
        ]
    )
    text = (pytester.path / "transcripts" / "same.jsonl").read_text()
    assert "<NAME>" in text
    assert "Bob" not in text


def test_nor_can_two_sets_of_parameters(run: Run, pytester: pytest.Pytester, real: Path) -> None:
    real.write_text(ECHOES.format(python=sys.executable))
    second = "@pytest.mark.parametrize('n', [1, 2])"
    source = NAMED.format(second=second, argument=", n")
    done = run(source, *RECORD, "-k", "test_b")
    done.assert_outcomes(passed=1, failed=1, deselected=1)
    done.stdout.fnmatch_lines(["*same.jsonl was just recorded by *.py::test_b[[]1]"])
    source = source.replace('claude.recorded("same")', "claude.recorded()")
    run(source, *RECORD, "-k", "test_b").assert_outcomes(passed=2, deselected=1)


def test_under_xdist_the_run_fails_when_two_tests_recorded_the_same(
    run: Run, pytester: pytest.Pytester, real: Path
) -> None:
    pytest.importorskip("xdist")
    real.write_text(ECHOES.format(python=sys.executable))
    source = NAMED.format(second="", argument="")
    pytester.makepyfile(test_one=source.replace("test_b", "not_b"))
    pytester.makepyfile(test_two=source.replace("test_a", "not_a"))
    done = run("", *RECORD, "-n", "2", "--dist", "loadfile", "--color=yes")
    done.assert_outcomes(passed=2)
    assert done.ret == 1
    (line,) = [each for each in done.outlines if "one over the other" in each]
    assert line.startswith("\x1b[31mtranscripts/same.jsonl: test_")
    assert "test_one.py::test_a" in line
    assert "test_two.py::test_b" in line
    done = run("", *RECORD, "-n", "1", "--dist", "loadfile", "-k", "test_a")
    done.assert_outcomes(passed=1)
    assert done.ret == 0


def test_names_differ_where_tests_do() -> None:
    names = ["a/test_x.py::test_y", "a/test_x.py::T::test_y", "a/test_x.py::test_y[1]"]
    names += ["a/test_x.py::test_y[a/b]", "a/test_x.py::test_y[a b]", "a/test_x.py::test_y[ä]"]
    found = [default_name(name) for name in names]
    assert found[:3] == ["test_x.test_y", "test_x.T.test_y", "test_x.test_y-1"]
    assert len(set(found)) == len(found)
