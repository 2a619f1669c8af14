"""Which calls a recording is for."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from pytest_claude_comms.claude.transcript import Transcript, TranscriptEntry
from pytest_claude_comms.testing.sameness import prompt_hash, same_words, with_uuids_of
from tests.plugin.conftest import Run

A, B, C = (f"{digit * 8}-2222-4333-8444-555555555555" for digit in "abc")


def made(*argv: str, redacted: tuple[str, ...] = (), lines: tuple[str, ...] = ()) -> Transcript:
    entries = tuple(TranscriptEntry(0.0, "stdout", line) for line in lines)
    return Transcript(
        cli="claude", scenario="s", argv=argv, env={}, signals=(), entries=entries, exit=0,
        duration=1.0, redacted=redacted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [
        (("--session-id", A), ("--session-id", B), True),
        (("--session-id", A), ("--session-id", B.upper()), True),
        ((f"--session-id={A}",), (f"--session-id={B}",), True),
        (("--session-id", A), ("--resume", A), False),
        (("--session-id", A), ("--session-id", "x"), False),
        (("--session-id", A), ("--session-id", f"{B}0"), False),
        (("--session-id", A), ("--session-id",), False),
        (("<TMP>/tmpab12cd_x/mcp.json",), ("<TMP>/tmpzz99zz00/mcp.json",), True),
        (("<TMP>/tmpab12cd_x/mcp.json",), ("<TMP>/tmpzz99zz00/other.json",), False),
        (("<TMP>/mine-1.json",), ("<TMP>/mine-2.json",), True),
        (("<TMP_PATH>/tmpab12cd_x/a",), ("<TMP_PATH>/tmpzz99zz00/a",), True),
        (("<TMP_PATH>/tmpab12cd_x.json",), ("<TMP_PATH>/tmpzz99zz00.json",), True),
        (("<TMP_PATH>/a",), ("<TMP_PATH>/b",), False),
        (("<CWD>/tmpl/a",), ("<CWD>/tmpl/b",), False),
        (("<HOME>",), ("<CWD>",), False),
        (("for <USER>",), ("for ann",), True),
        (("for <USER>",), ("by ann",), False),
    ],
)
def test_arguments(was: tuple[str, ...], now: tuple[str, ...], same: bool) -> None:
    recorded = made(*was, redacted=("USER", "HOME", "CWD", "TMP_PATH"))
    assert same_words(recorded, now) is same
    assert same_words(recorded, now, now) is same


def test_one_reading_is_enough_for_each_word() -> None:
    recorded = made("alice", "<USER>", redacted=("USER",))
    assert same_words(recorded, ["<USER>", "x"], ["alice", "y"])  # played by alice
    assert not same_words(recorded, ["<USER>", "x"], ["ann", "y"])


def test_the_prompt() -> None:
    assert prompt_hash("read <TMP>/tmpab12cd_x/a") == prompt_hash("read <TMP>/x/a")
    assert prompt_hash("read <TMP>/x/a") != prompt_hash("read <TMP>/x/b")
    assert prompt_hash(f"what is {A}") != prompt_hash(f"what is {B}")


def test_the_lines_name_the_session_of_now() -> None:
    recorded = made("--resume", A, "--model", "m", lines=(f'{{"id":"{A}","uuid":"{C}"}}', "x"))
    found = with_uuids_of(recorded, ("--resume", B.upper(), "--model", "m"))
    assert found.stdout_lines == (f'{{"id":"{B}","uuid":"{C}"}}', "x")
    assert with_uuids_of(recorded, recorded.argv) is recorded
    swapped = replace(recorded, argv=(A, B), entries=(TranscriptEntry(0.0, "stdout", f"{A} {B}"),))
    assert with_uuids_of(swapped, (B, A)).stdout_lines == (f"{B} {A}",)


CLI = """#!{python}
import json, os, sys
session = sys.argv[sys.argv.index("--session-id") + 1]
def say(**line):
    print(json.dumps(dict(line, session_id=session)), flush=True)
asked = sys.stdin.read()
say(type="system", subtype="init", model="m", cwd=os.getcwd())
say(type="result", subtype="success", is_error=False, result="ok", num_turns=1)
"""

ASKS = """
    import tempfile
    from pathlib import Path
    from uuid import uuid4
    from pytest_claude_comms import ask_module

    def test_asks(store, clock, claude, tmp_path):
        claude.recorded("one")
        home, module, session = tmp_path / "home", tmp_path / "marker", str(uuid4())
        module.mkdir()
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder, "mcp.json")
            config.write_text("{}")
            reply = ask_module(
                store, "me", module, f"See {home}/notes and {config}", env={"HOME": str(home)},
                session_id=session, append_system_prompt=f"You are zoe at {home}",
                extra_args=["--mcp-config", str(config)])
        assert reply.answer.status == "complete", (reply.answer, claude.calls)
        assert reply.answer.metadata["session_id"] == session
"""


def test_what_each_run_has_of_its_own_makes_nothing_stale(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.path / "real-bin"
    folder.mkdir()
    cli = folder / "claude"
    cli.write_text(CLI.format(python=sys.executable))
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    only = "--claude-comms-stores=memory"
    run(ASKS, "--claude-comms-record", only).assert_outcomes(passed=1)
    made = Transcript.load(pytester.path / "transcripts" / "one.jsonl")
    assert "You are zoe at <TMP_PATH>/home" in made.argv
    assert str(uuid4())[8] == made.argv[made.argv.index("--session-id") + 1][8] == "-"

    monkeypatch.setenv("USER", "zoe")  # whose name the recorder did not have to hide
    run("").assert_outcomes(passed=2)

    done = run(ASKS.replace("You are", "Who is"), only)
    done.stdout.fnmatch_lines(["*the recording is stale*", "*recorded *You are*", "*now *Who is*"])
    done = run(ASKS.replace("/notes", "/plans"), only)
    done.stdout.fnmatch_lines(["*the recording is stale*", "*prompt *"])


def test_a_home_that_a_fixture_restores_makes_nothing_stale(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = pytester.path / "real-bin"
    folder.mkdir()
    cli = folder / "claude"
    cli.write_text(CLI.format(python=sys.executable))
    cli.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("HOME", str(tmp_path))
    source = """
        import os
        import pytest
        from pytest_claude_comms import ask_module

        SESSION = "11111111-2222-4333-8444-555555555555"

        @pytest.fixture
        def outer():
            return os.environ["HOME"]

        def test_asks(store, claude, clock, outer, monkeypatch):
            monkeypatch.setenv("HOME", outer + "/of-the-test")
            claude.recorded("one")
            reply = ask_module(store, "me", ".", f"See {outer}/notes", session_id=SESSION,
                               append_system_prompt=f"In {outer}/of-the-test")
            assert reply.answer.status == "complete", (reply.answer, claude.calls)
        """
    run(source, "--claude-comms-record", "--claude-comms-stores=memory").assert_outcomes(passed=1)
    text = (pytester.path / "transcripts" / "one.jsonl").read_text()
    assert "In <HOME>" in text
    run("").assert_outcomes(passed=2)
