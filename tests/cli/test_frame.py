"""What holds for every command: help, options, errors, exit codes, what is loaded."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest

from pytest_claude_comms import (
    AlreadyExists,
    ClaudeError,
    ClaudeNotFound,
    ConversationStore,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    MessageStatus,
    ModuleDirectoryNotFound,
    StoreBusy,
    StoreCorrupt,
    ThreadNotFound,
    WaitTimeout,
    __version__,
    open_store,
)
from pytest_claude_comms.cli import app, exits, main

from .conftest import Run, Shell, environment

# -- help


def test_the_help_names_every_command_and_every_exit_code(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    for name, (_, text) in app.COMMANDS.items():
        assert f"\n  {name} " in result.out
        assert text in result.out
    for code, meaning in exits.MEANINGS:
        assert f"{code:>3}  {meaning}" in result.out
    for way in ("--store URL", "CLAUDE_COMMS_STORE", "[tool.claude-comms]", "in this directory"):
        assert way in result.out


def test_there_are_the_commands_that_were_asked_for() -> None:
    wanted = """ask status pending watch wait cancel expire threads show timeline copy backup check
    doctor replay demo completion"""
    assert set(wanted.split()) <= set(app.COMMANDS)


READING = ["status", "pending", "threads", "show", "timeline", "doctor", "completion"]


@pytest.mark.parametrize("name", READING)
def test_each_command_has_a_help_with_examples(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.code == 0
    assert f"Usage: claude-comms {name}" in result.out
    examples = result.out.partition("Examples:\n")[2].splitlines()
    assert examples
    assert all(line.startswith("    ") or "claude-comms" in line for line in examples)
    assert "\b" not in result.out
    assert max(map(len, result.out.splitlines())) <= 100


def test_the_help_imports_no_command_and_neither_store_nor_rich() -> None:
    script = """
import sys
from pytest_claude_comms.cli import main
assert main(["--help"]) == 0
print("\\n".join(sys.modules), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    loaded = done.stderr.split()
    assert "click" in loaded
    ours = {name.rpartition(".")[2] for name in loaded if ".cli." in name}
    homes = {home.partition(":")[0] for home, _ in app.COMMANDS.values()}
    assert not ours & homes
    assert not {"rich", "tinydb", "sqlite3", "pytest", "json"} & set(loaded)
    assert not [name for name in loaded if name.startswith("pytest_claude_comms.stores")]


def test_status_of_a_sqlite_store_loads_neither_rich_nor_tinydb(tmp_path: Path) -> None:
    script = """
import sys
import click  # its uuid has subprocess with it on Python 3.10
not_ours = set(sys.modules)
from pytest_claude_comms import open_store
from pytest_claude_comms.cli import main
with open_store("sqlite:///a.db") as store:
    store.create_thread()
assert main(["status", "--store", "a.db"]) == 0
bad = {"rich", "tinydb", "pytest", "asyncio", "logging", "subprocess"} & set(sys.modules) - not_ours
assert not bad, bad
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_the_version(run: Run) -> None:
    assert run("--version").out == f"claude-comms {__version__}\n"


def test_the_schema_is_printed(run: Run) -> None:
    result = run("--json-schema")
    assert result.code == 0
    assert json.loads(result.out)["$defs"]["status_document"]


def test_without_a_word_it_helps(run: Run) -> None:
    result = run()
    assert result.code == 2
    assert "Usage: claude-comms" in result.err


# -- what the command line needs


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_how_to_get_it(missing: str, tmp_path: Path) -> None:
    script = f"""
import sys
sys.modules[{missing!r}] = None
from pytest_claude_comms.cli import main
sys.exit(main(["show", "t", "--store", "a.db"]))
"""
    setup = """
from pytest_claude_comms import open_store
with open_store("sqlite:///a.db") as store:
    store.create_thread(thread_id="t")
    store.add_message("t", "m", "text")
"""
    subprocess.run([sys.executable, "-c", setup], check=True, env=environment(), cwd=tmp_path)
    if missing == "rich":  # only a terminal shows markdown
        script = f"import sys; sys.stdout.isatty = lambda: True\n{script}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        f"claude-comms: error: the command line needs {missing}: "
        'pip install "pytest-claude-comms[cli]"\n'
    )


def test_ctrl_c_while_it_is_loading(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: list[str], store: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pytest_claude_comms.cli.app.run", interrupted)
    assert run("status").code == 130


def test_another_missing_module_is_no_missing_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytest_claude_comms.cli.threads", None)
    result = run("threads", "--store", "none.db")
    assert result.code == 1
    assert "this should not happen" in result.err


def test_every_command_that_takes_a_span_says_what_one_is(run: Run) -> None:
    taking = set()
    for name in app.COMMANDS:
        found = app.app.get_command(click.Context(app.app), name)
        assert found is not None
        if any(param.type.name == "SPAN" for param in found.params):
            taking.add(name)
            assert "A SPAN is a number of seconds" in run(name, "--help").out
    assert taking == {"ask", "pending", "wait"}


def test_an_error_that_damage_makes_is_told_as_damage(run: Run, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db", durability="process") as store:
        store.create_thread("a thread", thread_id="t")
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as db:
        db.execute("UPDATE threads SET title = x'00ff'")
    result = run("threads", "--store", str(tmp_path / "a.db"))
    assert result.code == 6
    assert "a.db is damaged: thread t: its row cannot be read" in result.err
    assert "'claude-comms check' says all" in result.err


# -- options before and after the name


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of an empty store."""
    made = f"tinydb:///{tmp_path}/a.json"
    open_store(made, durability="process").close()
    return made


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "status", "--store", "STORE"],
        ["--store", "STORE", "status", "--json"],
        ["--store", "STORE", "--json", "--quiet", "--no-color", "status"],
        ["status", "--store", "STORE", "--json", "-q", "--no-color"],
        ["--store", "sqlite:///nowhere.db", "status", "--store", "STORE", "--json"],
    ],
)
def test_common_options_stand_where_one_likes(run: Run, argv: list[str], url: str) -> None:
    result = run(*(url if each == "STORE" else each for each in argv))
    assert (result.code, result.err) == (0, "")
    assert result.document["store"]["url"] == url


def test_one_call_leaves_nothing_to_the_next(run: Run, url: str) -> None:
    assert run("--json", "--store", url, "status").document
    assert run("--store", url, "status").out.startswith("store ")


def test_json_of_a_command_that_has_none(run: Run) -> None:
    result = run("--json", "completion", "bash")
    assert (result.code, result.out) == (2, "")
    assert "'completion' has no JSON form" in result.err


# -- errors


def test_a_wrong_command_suggests_a_near_one(run: Run) -> None:
    result = run("stauts")
    assert result.code == 2
    assert result.err == (
        "claude-comms: error: no command 'stauts' (did you mean 'status'?); see "
        "'claude-comms --help'\n"
    )


@pytest.mark.parametrize(
    "argv", [["status", "--wrong"], ["show"], ["--wrong"], ["status", "a", "b"]]
)
def test_wrong_usage(run: Run, argv: list[str]) -> None:
    result = run(*argv)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("claude-comms: error: ")
    assert "--help'" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MessageNotFound("m"), 3),
        (ThreadNotFound("t"), 3),
        (WaitTimeout("page", message_ids=("m",), timeout=1), 8),
        (StoreBusy("a.db", 5), 6),
        (StoreCorrupt("a.db", "why"), 6),
        (HistoryGone("why", store="s"), 6),
        (InvalidTransition("m", MessageStatus.FAILED, MessageStatus.COMPLETE), 1),
        (AlreadyExists("message", "m"), 1),
        (ClaudeNotFound("claude", "it is not on PATH"), 1),
        (ClaudeError("why"), 1),
        (ModuleDirectoryNotFound("/x", "does not exist"), 2),
        (exits.CommandError(exits.PATIENCE, "why"), 8),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (KeyboardInterrupt(), 130),
        (click.exceptions.Abort(), 130),
        (BrokenPipeError(), 141),
        (RuntimeError("odd"), 1),
    ],
)
def test_the_exit_code_of_each_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, url: str
) -> None:
    def fail(store: object) -> None:
        raise error

    monkeypatch.setattr("pytest_claude_comms.stores.core.BaseStore.threads", fail)
    result = run("threads", "--store", url)
    assert (result.code, result.out) == (code, "")
    assert "Traceback" not in result.err
    assert result.err.startswith("claude-comms: error: ") or code >= 128


def test_each_status_has_its_exit_code() -> None:
    found = {status.value: exits.of_status(status) for status in MessageStatus}
    assert found == {
        "pending": 0,
        "processing": 0,
        "complete": 0,
        "failed": 1,
        "timeout": 4,
        "cancelled": 5,
        "unknown": 0,
    }


@pytest.mark.parametrize("argv", [["--debug"], []])
def test_a_traceback_only_for_who_asks(
    run: Run, monkeypatch: pytest.MonkeyPatch, argv: list[str]
) -> None:
    result = run(*argv, "threads", "--store", "sqlite:///nowhere.db")
    assert result.code == 6
    assert ("Traceback" in result.err) == bool(argv)
    monkeypatch.setenv("CLAUDE_COMMS_DEBUG", "1")
    assert "Traceback" in run("threads", "--store", "sqlite:///nowhere.db").err


def test_a_system_exit_goes_through(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    def leave(store: object) -> None:
        raise SystemExit(7)

    monkeypatch.setattr("pytest_claude_comms.stores.core.BaseStore.threads", leave)
    with pytest.raises(SystemExit):
        main(["threads", "--store", url])


def test_a_given_store_is_left_open(run: Run, store: ConversationStore) -> None:
    assert run("status", store=store).code == 0
    assert store.threads() == []


# -- completion


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_the_completion_script(run: Run, shell_name: str) -> None:
    result = run("completion", shell_name)
    assert result.code == 0
    assert "_CLAUDE_COMMS_COMPLETE" in result.out
    assert f"{shell_name}_complete" in result.out


def test_the_shell_is_that_of_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert run("completion").out == run("completion", "fish").out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    result = run("completion")
    assert result.code == 2
    assert "bash, zsh, fish" in result.err


@pytest.mark.parametrize(
    ("words", "place", "found"),
    [
        ("claude-comms sta", "1", ["status"]),
        ("claude-comms comple", "1", ["completion"]),
        ("claude-comms pending --over", "2", ["--overdue"]),
        ("claude-comms --js", "1", ["--json", "--json-schema"]),
    ],
)
def test_it_completes(shell: Shell, words: str, place: str, found: list[str]) -> None:
    result = shell(_CLAUDE_COMMS_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=place)
    assert sorted(line.partition(",")[2] for line in result.out.splitlines()) == sorted(found)


# -- what Ctrl-C, closed streams and a strange environment must not do


def test_a_ctrl_c_that_python_could_only_ignore_is_not_lost(
    run: Run, store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import contextlib
    import signal

    from pytest_claude_comms.cli import asking

    def swallows(*args: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(asking, "_check", swallows)
        assert run("ask", str(tmp_path), "hi", store=store).code == 130
        assert store.messages() == []
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no /dev/full")
@pytest.mark.parametrize("aside", ["2>/dev/full", "2>&-"])
def test_an_exit_code_needs_no_standard_error(tmp_path: Path, aside: str) -> None:
    words = f'"{sys.executable}" -m pytest_claude_comms.cli status --store none.db {aside}'
    done = subprocess.run(
        words, shell=True, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stdout) == (6, b"")


@pytest.mark.parametrize("words", [{}, {"COMP_WORDS": "x", "COMP_CWORD": "y"}])
def test_a_completion_that_no_shell_asked_for_is_quiet(shell: Shell, words: dict[str, str]) -> None:
    result = shell(_CLAUDE_COMMS_COMPLETE="bash_complete", **words)
    assert (result.code, result.err) == (2, "")


def test_debug_shows_no_escape_sequence(shell: Shell, tmp_path: Path) -> None:
    result = shell("status", "--debug", "--store", "\x1b]0;x\x07.db")
    assert result.code == 6
    assert "Traceback" in result.err
    assert "\x1b" not in result.err


def test_the_way_out_is_one_of_the_command_line() -> None:
    assert exits.words(ClaudeNotFound("c", "why")).endswith("or say where it is with --claude PATH")
