"""A project that records the true CLI, and plays what it has recorded."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.claude.transcript import Transcript
from tests.real.conftest import Real

pytestmark = pytest.mark.real_claude

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-ant-api03-of-joe-0123456789"
USER = "joe-the-recorder"
HOST = "build-7-of-joe"

ASKS = """
import os
from uuid import uuid4

from pytest_claude_comms import ask_module


def test_asks(store, clock, claude, tmp_path):
    claude.recorded("key")
    module = tmp_path / "arangodb"
    module.mkdir()
    session = str(uuid4())
    reply = ask_module(
        store, "me", module, {prompt!r}, session_id=session, allowed_tools=["Bash"],
        append_system_prompt=f"Your notes are in {{tmp_path}}",
    )
    answer = reply.answer
    assert answer.status == "complete", (answer, claude.calls)
    assert answer.content.startswith("The key is "), answer.content
    assert answer.content.endswith(f" in {{os.environ['HOME']}}."), answer.content
    assert answer.metadata["session_id"] == session
    assert claude.calls[0].exit_code == 0
    assert clock.elapsed > 1
    print("ELAPSED", clock.elapsed, answer.content)
    assert {holds}
"""
KILLS = """
import os
import time

from pytest_claude_comms import ask_module


def test_killed(store, claude, tmp_path):
    claude.recorded("key")
    reply = ask_module(store, "me", tmp_path, "Which key?", wait=False)
    while not reply.answer.content:  # it streams, in real time
        time.sleep(0.05)
    os.kill(claude.calls[0].pid, 9)
    assert reply.wait(30).answer.status == "failed"
"""
TELLS = "echo key $ANTHROPIC_API_KEY; cat secret.txt; pwd; ls -d ~"


@pytest.fixture
def project(
    real: Real, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.Pytester]:
    """Somebody's project, with much to give away."""
    home = real.home / USER  # `real` looks for processes by their HOME
    home.mkdir()
    given = {"HOME": str(home), "USER": USER, "LOGNAME": USER, "HOSTNAME": f"{HOST}.example.org"}
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    given |= {"ANTHROPIC_API_KEY": KEY, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    given["PYTHONPATH"] = os.pathsep.join(each for each in paths if each not in ("", "."))
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    yield pytester
    left = Real(real.cli, real.server, real.api, home, real.module, real.env).processes()
    assert left == []


def pytest_runs(project: pytest.Pytester, *args: str, **change: Any) -> pytest.RunResult:
    asked = {"prompt": "Which key?", "holds": "True", **change}
    (project.path / "test_asks.py").write_text(ASKS.format(**asked))
    return project.runpytest_subprocess("-p", "pytest_claude_comms.plugin", *args)


def records(project: pytest.Pytester, real: Real, **change: Any) -> pytest.RunResult:
    tells = f"echo {KEY} > secret.txt; {TELLS}; echo {HOST} {HOST}.example.org"
    real.api.uses_tool("Bash", {"command": tells})
    real.api.says(
        f"The key is {KEY}, says {USER} at {HOST} in {os.environ['HOME']}.", pieces=9, pause=0.15
    )
    only_once = ("--claude-comms-record", "--claude-comms-stores=sqlite", "-s")
    return pytest_runs(project, *only_once, **change)


def kept(project: pytest.Pytester) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in (project.path / "transcripts").glob("*")}


def elapsed(result: pytest.RunResult) -> list[str]:
    return [line[line.index("ELAPSED") :] for line in result.outlines if "ELAPSED" in line]


def test_it_is_recorded_without_what_is_private_and_played(
    project: pytest.Pytester, real: Real, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = records(project, real)

    done.assert_outcomes(passed=1)
    done.stdout.fnmatch_lines(
        [
            "*transcripts/key.jsonl: written (* lines, exit code 0); redacted: "
            "ANTHROPIC_API_KEY, CWD, HOME, HOST, TMP, TMP_PATH, USER"
        ]
    )
    assert list(kept(project)) == ["key.jsonl"]
    path = project.path / "transcripts" / "key.jsonl"
    text = path.read_text()
    for private in (KEY, USER, HOST, str(real.home), str(project.path), os.environ["HOME"]):
        assert private not in text
    assert str(project.path).replace("/", "-") not in text  # a folder of the CLI's
    if len(socket.gethostname()) > 4:
        assert socket.gethostname() not in text
    made = Transcript.load(path)
    assert made.cli.startswith("claude 2.")
    marks = ("ANTHROPIC_API_KEY", "CWD", "HOME", "HOST", "TMP", "TMP_PATH", "USER")
    assert made.redacted == marks
    assert "Your notes are in <TMP_PATH>" in made.argv
    lines = [json.loads(line) for line in made.stdout_lines]
    assert lines[0]["cwd"] == "<CWD>"
    assert lines[-1]["result"] == "The key is <ANTHROPIC_API_KEY>, says <USER> at <HOST> in <HOME>."
    (told,) = [line for line in lines if line["type"] == "user"]
    shown = told["message"]["content"][0]["content"].splitlines()
    assert shown[-1] == "<HOST> <HOST>"
    assert {"<CWD>", "<HOME>"} <= set(shown)
    assert "<ANTHROPIC_API_KEY>" in told["message"]["content"][0]["content"]
    deltas = [
        line["event"]["delta"].get("text", "")
        for line in lines
        if line["type"] == "stream_event" and line["event"]["type"] == "content_block_delta"
    ]
    assert len(deltas) >= 9
    assert "".join(deltas) == lines[-1]["result"]

    # For somebody else, who has no CLI and no key; on every store.
    requests = len(real.server.asked)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("USER", "ann")
    monkeypatch.setenv("HOME", str(project.path))
    played = pytest_runs(project, "-s")
    played.assert_outcomes(passed=2)
    result = lines[-1]["result"].replace("<HOME>", str(project.path))
    told_end = f"ELAPSED {made.duration} {result}"
    assert elapsed(played) == [told_end, told_end]  # fake time, at the recorded pace
    assert len(real.server.asked) == requests
    assert path.read_text() == text


def test_a_recording_that_fails_leaves_what_is_there(project: pytest.Pytester, real: Real) -> None:
    failed = records(project, real, holds="not reply.question")

    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*key.jsonl: not written: the test did not pass"])
    assert kept(project) == {}

    records(project, real).assert_outcomes(passed=1)
    before = kept(project)
    records(project, real, holds="not reply.question").assert_outcomes(failed=1)
    assert kept(project) == before

    # The test passes, and its CLI was killed.
    real.api.hangs("The key")
    (project.path / "test_killed.py").write_text(KILLS)
    killed = project.runpytest_subprocess(
        *("-p", "pytest_claude_comms.plugin", "test_killed.py", "--claude-comms-stores=memory"),
        "--claude-comms-record",
    )
    killed.assert_outcomes(passed=1)
    killed.stdout.fnmatch_lines(["*key.jsonl: not written: the run was cut: no exit was seen"])
    assert kept(project) == before


def test_a_stale_and_a_missing_recording_say_how_to_make_it(
    project: pytest.Pytester, real: Real
) -> None:
    missing = pytest_runs(project)
    missing.assert_outcomes(failed=2)
    how = "pytest --claude-comms-record 'test_asks.py::test_asks[[]sqlite[]]' records it*"
    missing.stdout.fnmatch_lines(["*there is no recording */key.jsonl", f"*hint  {how}"])
    records(project, real).assert_outcomes(passed=1)
    asked = len(real.server.asked)

    stale = pytest_runs(project, prompt="Another?")

    assert stale.ret == 1
    stale.stdout.fnmatch_lines(
        ["*the recording is stale*", "*prompt * differs on stdin: sha256 *", f"*hint  *{how}"]
    )
    assert len(real.server.asked) == asked
    # The page is right: so it is made anew.
    records(project, real, prompt="Another?").assert_outcomes(passed=1)
    pytest_runs(project, prompt="Another?").assert_outcomes(passed=2)


TALKS = """
import json
import subprocess


def say(process, **line):
    process.stdin.write(json.dumps(line) + "\\n")
    process.stdin.flush()


def lines_to(process, kind):
    for line in iter(process.stdout.readline, ""):
        yield (told := json.loads(line))
        if told["type"] == kind:
            return


def test_talks(claude):
    claude.recorded("talk")
    process = subprocess.Popen(
        [claude.executable, "-p", "--input-format", "stream-json", "--output-format",
         "stream-json", "--verbose"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        say(process, type="control_request", request_id="i1", request=dict(subtype="initialize"))
        *_, answer = lines_to(process, "control_response")
        assert answer["response"]["request_id"] == "i1"
        for text in ("Which key?", "Sure?"):
            say(process, type="user", message=dict(role="user", content=text))
            *_, result = lines_to(process, "result")
            assert result["result"] == "On: " + text
        rest, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.communicate()
    assert claude.calls[0].prompt == "Which key?"
"""


def test_a_talk_by_lines_of_json_is_recorded_and_played(
    project: pytest.Pytester, real: Real
) -> None:
    real.api.says("On: Which key?")
    real.api.says("On: Sure?")
    (project.path / "test_talks.py").write_text(TALKS)
    plugin = ("-p", "pytest_claude_comms.plugin")

    done = project.runpytest_subprocess(*plugin, "--claude-comms-record")

    done.assert_outcomes(passed=1)
    made = Transcript.load(project.path / "transcripts" / "talk.jsonl")
    told = [each for each in made.entries if each.stream == "recorder"]
    assert [each.line[:34] for each in told] == ["a message came on stdin, its sha25"] * 2
    results = [each.t for each in made.entries if '"type":"result"' in each.line]
    assert told[0].t <= results[0] <= told[1].t <= results[1]
    asked = len(real.server.asked)

    project.runpytest_subprocess(*plugin).assert_outcomes(passed=1)

    assert len(real.server.asked) == asked


HANGS = """
from pytest_claude_comms import ask_module


def test_hangs(store, clock, claude, tmp_path):
    claude.recorded("hang")
    answer = ask_module(store, "me", tmp_path, "Which key?", timeout=4).answer
    assert answer.status == "timeout"
    assert answer.content == "The key"
    assert claude.calls[0].exit_code == 143
    print("ELAPSED", clock.elapsed)
"""


def test_a_run_that_was_ended_is_ended_again(project: pytest.Pytester, real: Real) -> None:
    real.api.hangs("The key")
    (project.path / "test_hangs.py").write_text(HANGS)
    plugin = ("-p", "pytest_claude_comms.plugin", "-s")

    done = project.runpytest_subprocess(
        *plugin, "--claude-comms-record", "--claude-comms-stores=memory"
    )

    done.assert_outcomes(passed=1)
    made = Transcript.load(project.path / "transcripts" / "hang.jsonl")
    assert ([each.sig for each in made.signals], made.exit) == (["TERM"], 143)
    assert made.duration > 4
    asked = len(real.server.asked)
    played = project.runpytest_subprocess(*plugin)
    played.assert_outcomes(passed=2)
    assert all(4 < float(line.split()[1]) < 6 for line in elapsed(played))
    assert len(real.server.asked) == asked
