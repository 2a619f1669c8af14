"""Recordings of a CLI that is spoken to by lines of JSON, and those for some calls only."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import Run

STREAMING_CLI = """#!{python}
import json, sys, time
def say(**line):
    print(json.dumps(dict(line, session_id="s1")), flush=True)
for line in sys.stdin:
    said = json.loads(line)
    if said["type"] != "user":
        continue
    say(type="system", subtype="init", model="m")
    time.sleep(0.3)
    say(type="result", subtype="success", is_error=False,
        result="on " + said["message"]["content"], num_turns=1)
"""

TALKS = """
    import json, subprocess, time

    def test_talks(claude):
        claude.recorded("talk")
        found = []
        process = subprocess.Popen(
            [claude.executable, "-p", "--input-format", "stream-json",
             "--output-format", "stream-json", "--verbose"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for text in {said!r}:
            line = json.dumps(dict(type="user", message=dict(role="user", content=text)))
            process.stdin.write(line + "\\n")
            process.stdin.flush()
            for got in iter(process.stdout.readline, ""):
                if '"result"' in got:
                    found.append(json.loads(got)["result"])
                    break
            time.sleep({pause})
        rest, errors = process.communicate()
        assert process.returncode == 0, errors
        assert found == ["on " + text for text in {said!r}]
        assert rest == ""
"""


@pytest.fixture
def cli(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = pytester.path / "real-bin"
    folder.mkdir()
    cli = folder / "claude"
    cli.write_text(STREAMING_CLI.format(python=sys.executable))
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return cli


RECORD = ("--claude-comms-record", "--claude-comms-stores=memory")
PLAY = ("--claude-comms-stores=memory",)


def talks(*said: str, pause: float = 0) -> str:
    return TALKS.format(said=list(said), pause=pause)


def test_the_same_messages_are_answered(run: Run, cli: Path) -> None:
    run(talks("one", "two", "three"), *RECORD).assert_outcomes(passed=1)
    cli.unlink()
    run("", *PLAY).assert_outcomes(passed=1)
    # Later than when it was recorded: no answer comes before its question.
    run(talks("one", "two", "three", pause=0.5), *PLAY).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("two", "two"), "prompt * differs on stdin: sha256 *"),
        (("one", "three"), "message    2 differs on stdin: sha256 * was recorded, *sha256 *"),
        (("one",), "message    2 differs on stdin: sha256 * was recorded, now it is nothing"),
        (("one", "two", "three"), "message    3 differs on stdin: nothing was recorded, *"),
    ],
)
def test_another_message_makes_it_stale(
    run: Run, cli: Path, said: tuple[str, ...], told: str
) -> None:
    run(talks("one", "two"), *RECORD).assert_outcomes(passed=1)
    done = run(talks(*said), *PLAY)
    assert done.ret == 1
    done.stdout.fnmatch_lines(["*the recording is stale*", f"*{told}", "*claude-comms-record*"])


def test_a_further_message_is_heard_however_late_it_comes(run: Run, cli: Path) -> None:
    run(talks("one"), *RECORD).assert_outcomes(passed=1)
    done = run(talks("one", "two", pause=0.5), *PLAY)
    done.stdout.fnmatch_lines(["*message    2 differs on stdin: nothing was recorded, *"])


CALLS = """
    import subprocess

    def ask(claude, prompt, *options):
        done = subprocess.run(
            [claude.executable, "-p", "--output-format", "stream-json", "--verbose", *options],
            input=prompt, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def test_calls(claude):
        claude.when(prompt="schema").recorded("schema")
        claude.replies("by script")
        claude.recorded("any")
        assert "by script" in ask(claude, "Hello")[1]
        code, told = ask(claude, "Hello again", "--new-option")
        assert (code, "Hello again" in told) == (0, True), told
        code, told = ask(claude, "Which schema?")
        assert (code, "Which schema?" in told) == (0, True), told
        claude.assert_all_used()
"""
ECHOING_CLI = """#!{python}
import json, sys
print(json.dumps(dict(type="result", is_error=False, result=sys.stdin.read(), session_id="s")))
"""


def test_for_some_calls_only(run: Run, cli: Path, pytester: pytest.Pytester) -> None:
    cli.write_text(ECHOING_CLI.format(python=sys.executable))
    run(CALLS, *RECORD).assert_outcomes(passed=1)
    assert len(list((pytester.path / "transcripts").iterdir())) == 2
    cli.unlink()
    run("", *PLAY).assert_outcomes(passed=1)


def test_one_is_all_of_a_run(run: Run, cli: Path) -> None:
    source = """
        import pytest

        def test_chains(claude):
            with pytest.raises(ValueError, match=r"write claude\\.recorded\\('b'\\)"):
                claude.replies("a").recorded("b")
            with pytest.raises(ValueError, match=r"claude\\.when\\(prompt='x'\\)\\.recorded"):
                claude.when(prompt="x").replies("a").recorded()
        """
    run(source, *PLAY).assert_outcomes(passed=1)
