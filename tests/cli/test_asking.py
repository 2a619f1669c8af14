"""``ask``: what comes of it, what is printed, and how it ends."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore, Message
from pytest_claude_comms.cli.asking import _tools, _variables
from pytest_claude_comms.cli.exits import CommandError
from pytest_claude_comms.testing import FakeClock, ScriptedClaude
from tests.cli.conftest import Run, Shell, Valid
from tests.cli.terminal import terminal

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a ScriptedClaude needs signals")


def answer(store: ConversationStore) -> Message:
    (found,) = [each for each in store.messages() if each.message_type == "answer"]
    return found


def test_the_answer_is_printed(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    claude.replies("_key, _from, _to", after=3, chunks=4, every=1)

    result = run("ask", str(tmp_path), "Which fields?", "--title", "PDF", store=store)

    assert result.code == 0
    assert result.out == "_key, _from, _to\n"
    found = answer(store)
    assert (found.status, found.content) == ("complete", "_key, _from, _to")
    told = result.err.splitlines()
    assert told[0].startswith(f"complete after {clock.elapsed:.1f} s: 16 characters, ")
    assert told[1:] == [
        f"message  {found.message_id}",
        f"thread   {found.thread_id}",
        f"session  {found.metadata['session_id']}",
    ]
    assert store.get_thread(found.thread_id).title == "PDF"
    assert claude.calls[0].prompt == "Which fields?"


def test_by_default_it_may_be_silent_for_five_minutes(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    claude.goes_silent(text="The fields ")
    result = run("ask", str(tmp_path), "Which fields?", store=store)
    assert result.code == 4
    assert result.out == "The fields \n"
    assert 300 <= clock.elapsed < 301
    assert "error    " in result.err


@pytest.mark.parametrize("option", [["--timeout", "1m"], ["--stall-timeout", "60"]])
def test_deadlines(
    option: list[str],
    clock: FakeClock,
    store: ConversationStore,
    claude: ScriptedClaude,
    tmp_path: Path,
    run: Run,
) -> None:
    claude.hangs()
    assert run("ask", str(tmp_path), "Which fields?", *option, store=store).code == 4
    assert 60 <= clock.elapsed < 61


def test_a_failure_is_told(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    claude.retries(429, times=2, every=1).fails(429, message="slow \x1b[31mdown")
    result = run("ask", str(tmp_path), "Which fields?", store=store)
    assert result.code == 1
    assert "2 retries" in result.err
    assert r"slow \x1b[31mdown" in result.err
    assert "\x1b" not in result.out + result.err


def test_somebody_else_cancels(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    claude.goes_silent(text="The fields ")
    clock.at(7, lambda: store.update_message(answer(store), status="cancelled", error="not now"))
    result = run("ask", str(tmp_path), "Which fields?", store=store)
    assert result.code == 5
    assert "cancelled after 7." in result.err
    assert "not now" in result.err


def test_the_prompt_from_standard_input(
    clock: FakeClock,
    store: ConversationStore,
    claude: ScriptedClaude,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claude.replies("ok")
    monkeypatch.setattr("sys.stdin", io.StringIO("a long\nprompt\n"))
    assert run("ask", str(tmp_path), "-", store=store).code == 0
    assert claude.calls[0].prompt == "a long\nprompt\n"


def test_what_the_cli_gets(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    claude.knows_session("2b9f3b1e-5c3c-4f5e-8b65-6f1f6d6a1a11")
    claude.replies("first")
    claude.replies("second")
    run("ask", str(tmp_path), "One?", "--questioner", "marker", store=store)
    thread = answer(store).thread_id

    result = run(
        *("ask", str(tmp_path), "Two?", "--thread", thread[:6], "--model", "haiku"),
        *("--resume", "2b9f3b1e-5c3c-4f5e-8b65-6f1f6d6a1a11", "--max-turns", "4"),
        *("--allowed-tools", "Read,Bash(git log:*)", "--allowed-tools", "Grep"),
        *("--system-prompt", "Be brief.", "--timeout", "none"),
        store=store,
    )

    assert (result.code, result.out) == (0, "second\n")
    argv = " ".join(claude.calls[1].argv)
    for words in ("--model haiku", "--max-turns 4", "--system-prompt Be brief.", "--resume 2b9f3b"):
        assert words in argv
    assert "Bash(git log:*)" in argv
    names = [each.module_name for each in store.messages(thread)]
    assert names == ["marker", tmp_path.name, Path.cwd().name, tmp_path.name]


def test_a_comma_in_parentheses_belongs_to_its_tool() -> None:
    assert _tools("Bash(a, b:*), Read,,Grep ") == ["Bash(a, b:*)", "Read", "Grep"]


def test_json_lines(
    clock: FakeClock,
    store: ConversationStore,
    claude: ScriptedClaude,
    tmp_path: Path,
    run: Run,
    valid: Valid,
) -> None:
    claude.replies("_key, _from, _to", after=3, chunks=4, every=1)

    result = run("ask", str(tmp_path), "Which fields?", "--json", store=store)

    assert (result.code, result.err) == (0, "")
    *events, last = result.documents
    for document in result.documents:
        valid(document)
    assert [each["status"] for each in events][:: len(events) - 1] == ["pending", "complete"]
    assert "".join(each["append"] or "" for each in events) == "_key, _from, _to"
    assert last["kind"] == "message"
    assert last["message"]["content"] == "_key, _from, _to"


def test_once_it_is_whole(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    claude.replies("a\x1b[31mb")
    assert run("ask", str(tmp_path), "?", "--no-stream", store=store).out == "a\\x1b[31mb\n"
    claude.replies("a\x1b[31mb")
    assert run("ask", str(tmp_path), "?", "--no-stream", "--raw", store=store).out == "a\x1b[31mb\n"
    claude.replies("a\x1b[31mb")
    assert run("ask", str(tmp_path), "?", "--raw", "--quiet", store=store).out == "a\x1b[31mb\n"
    claude.replies("a\x1b[31mb")
    quiet = run("ask", str(tmp_path), "?", "--quiet", store=store)
    assert (quiet.out, quiet.err) == ("a\\x1b[31mb\n", "")


def test_what_cannot_be_asked(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run
) -> None:
    missing = run("ask", str(tmp_path), "?", "--claude", "no-such-claude", store=store)
    assert missing.code == 1
    assert "pip install claude-agent-sdk" in missing.err
    nowhere = run("ask", str(tmp_path / "nowhere"), "?", store=store)
    assert nowhere.code == 2
    assert "nowhere" in nowhere.err
    for argv in (["  "], ["?", "--timeout", "soon"], ["?", "--session-id", "no-uuid"]):
        wrong = run("ask", str(tmp_path), *argv, store=store)
        assert wrong.code == 2, wrong
        assert wrong.out == ""
    assert run("ask", str(tmp_path), "?", "--thread", "none", store=store).code == 3
    assert store.messages() == []
    assert store.threads() == []


def test_on_a_terminal_a_line_says_how_it_stands(store: ConversationStore, tmp_path: Path) -> None:
    with ScriptedClaude(tmp_path / "bin") as claude:
        claude.uses_tool("Read", {"file_path": "a"}, result="b", after=0.2).replies(
            "_key, _from", after=0.5, chunks=4, every=0.1
        )
        argv = ["ask", ".", "Which?", "--store", store.url, "--claude", claude.executable]
        with terminal(*argv, cwd=tmp_path) as screen:
            assert screen.shows("thinking after Read")
            assert screen.end() == 0
            assert screen.shows("complete after")
            assert screen.is_usable()
        assert "processing" in screen.text
        assert "writing" in screen.text


def test_into_a_file_nothing_but_the_answer(
    store: ConversationStore, tmp_path: Path, shell: Shell
) -> None:
    with ScriptedClaude(tmp_path / "bin") as claude:
        claude.replies("_key, _from", chunks=4)
        argv = ["ask", ".", "Which?", "--store", store.url, "--claude", claude.executable]
        result = shell(*argv)
    assert (result.code, result.out) == (0, "_key, _from\n")
    assert "\x1b" not in result.err


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere", "hi"],
        [".", " "],
        [".", "hi", "--claude", "./none"],
        [".", "hi", "--env", "NONE_SUCH"],
    ],
)
def test_what_is_mistyped_makes_no_store(shell: Shell, tmp_path: Path, words: list[str]) -> None:
    result = shell("ask", *words, "--store", "sqlite:///new.db")
    assert result.code in (1, 2)
    assert "command=" not in result.err
    assert list(tmp_path.iterdir()) == []


def test_variables_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", "here")
    assert _variables(("DB_URL", "A=b=c", "E=")) == {"DB_URL": "here", "A": "b=c", "E": ""}
    for wrong in ("=x", "NONE_SUCH"):
        with pytest.raises(CommandError, match=wrong):
            _variables((wrong,))


# -- what is refused before anything is made


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--timeout", "0"], 2, "would be 'timeout' at once"),
        (["--stall-timeout", "0s"], 2, "would be 'timeout' at once"),
        (["--session-id", "mine"], 2, "must be a UUID"),
        (["--fork-session"], 2, "needs resume="),
        (["--model", "-x"], 2, "must be a word"),
        (["--allowed-tools", "-x"], 2, ""),
        (["--title", "\udcff"], 2, "--title"),
        (["--questioner", "\udcff"], 2, "--questioner"),
        (["--thread", "t"], 6, "there is no store at"),
    ],
)
def test_what_is_refused_makes_no_store(
    run: Run, tmp_path: Path, options: list[str], code: int, said: str
) -> None:
    argv = ["ask", str(tmp_path), "hi", "--claude", sys.executable, *options]
    result = run(*argv, "--store", f"sqlite:///{tmp_path}/new.db")
    assert (result.code, result.out) == (code, "")
    assert said in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_is_not_there_is_not_found(
    run: Run, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path
) -> None:
    assert run("ask", str(tmp_path), "hi", "--thread", "t", store=store).code == 3
    assert store.threads() == []
    assert claude.calls == []


def test_a_history_that_is_trimmed_under_it(
    clock: FakeClock, store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, run: Run,
    valid: Valid,
) -> None:  # fmt: skip
    claude.replies("the answer", after=5, chunks=2, every=2)

    def trim() -> None:
        thread = store.create_thread()
        for number in range(5):
            store.add_message(thread, "m", message_id=f"other {number}")
            for turn in range(2):
                store.update_message(f"other {number}", metadata={"a": turn})
        assert store.compact(keep=0).trimmed > 3

    clock.at(2, trim)
    result = run("ask", str(tmp_path), "hi", "--json", store=store)
    assert result.code == 0, result.err
    for document in result.documents:
        valid(document)
    assert result.documents[-1]["message"]["content"] == "the answer"
    shown = [each["revision"] for each in result.documents[:-1]]
    assert shown == [change.revision for change in store.changes(message=answer(store))]


@pytest.mark.claude_comms(stores=["memory"])
def test_a_variable_reaches_the_child(
    store: ConversationStore, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What --env names, and nothing else that is here."""
    program = tmp_path / "claude"
    program.write_text('#!/bin/sh\necho "$HERE|$GIVEN|${SECRET-none}" > seen\n')
    program.chmod(0o755)
    monkeypatch.setenv("HERE", "from here")
    monkeypatch.setenv("SECRET", "not passed on")
    argv = ["ask", str(tmp_path), "hi", "--claude", str(program), "--env", "HERE"]
    assert run(*argv, "--env", "GIVEN=a=b", store=store).code == 1  # it has said nothing
    assert (tmp_path / "seen").read_text() == "from here|a=b|none\n"
