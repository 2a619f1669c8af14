"""The CLI's arguments, its environment, and finding it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.claude.command import (
    DEFAULT_API_TIMEOUT,
    DEFAULT_MAX_RETRIES,
    PASSED_ON,
    WITHHELD,
    build_command,
    build_environment,
    find_cli,
    find_directory,
)
from pytest_claude_comms.errors import ClaudeError, ClaudeNotFound, ModuleDirectoryNotFound

BASE = ["claude", "-p", "--output-format", "stream-json", "--verbose"]
SESSION = "11111111-2222-3333-4444-555555555555"


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({}, []),
        ({"model": "opus"}, ["--model", "opus"]),
        ({"system_prompt": "Be brief."}, ["--system-prompt", "Be brief."]),
        ({"system_prompt": ""}, ["--system-prompt", ""]),
        ({"append_system_prompt": "-v $(x) `y` '"}, ["--append-system-prompt", "-v $(x) `y` '"]),
        (
            {"allowed_tools": ["Read", "Bash(git log:*)"]},
            ["--allowedTools", "Read,Bash(git log:*)"],
        ),
        ({"disallowed_tools": ("Write",)}, ["--disallowedTools", "Write"]),
        ({"resume": SESSION}, ["--resume", SESSION]),
        ({"session_id": SESSION}, ["--session-id", SESSION]),
        ({"resume": "a", "fork_session": True}, ["--resume", "a", "--fork-session"]),
        ({"max_turns": 1}, ["--max-turns", "1"]),
        ({"permission_mode": "plan"}, ["--permission-mode", "plan"]),
        ({"partial_messages": True}, ["--include-partial-messages"]),
        ({"extra_args": ["--mcp-config", "x.json"]}, ["--mcp-config", "x.json"]),
    ],
)
def test_each_option_becomes_its_flag(options: dict[str, Any], added: list[str]) -> None:
    assert build_command(**options) == BASE + added


def test_all_options_at_once_keep_one_order() -> None:
    assert build_command(
        ["node", "cli.js"],
        extra_args=["--x"],
        partial_messages=True,
        fork_session=True,
        session_id=SESSION,
        resume="r",
        model="m",
    ) == [
        *("node", "cli.js", "-p", "--output-format", "stream-json", "--verbose"),
        *("--model", "m", "--resume", "r", "--session-id", SESSION, "--fork-session"),
        *("--include-partial-messages", "--x"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"command": "claude"}, TypeError, "command must be a list"),
        ({"command": []}, ValueError, "must name the CLI"),
        ({"command": [1]}, TypeError, r"command\[0\]"),
        ({"command": ["a\0b"]}, ValueError, "NUL"),
        ({"model": ""}, ValueError, "model"),
        ({"model": "-x"}, ValueError, "does not begin with"),
        ({"model": 3}, TypeError, "model"),
        ({"system_prompt": "a\0b"}, ValueError, "system_prompt holds a NUL"),
        ({"system_prompt": "\ud83d"}, ValueError, "system_prompt"),
        ({"allowed_tools": "Read"}, TypeError, "allowed_tools must be a list"),
        ({"allowed_tools": ["Read", ""]}, ValueError, "allowed_tools"),
        ({"disallowed_tools": ["--x"]}, ValueError, "disallowed_tools"),
        ({"resume": " "}, ValueError, "resume"),
        ({"session_id": "mine"}, ValueError, "UUID"),
        ({"session_id": SESSION, "resume": "x"}, ValueError, "fork_session=True"),
        ({"fork_session": True}, ValueError, "needs resume="),
        ({"max_turns": 0}, ValueError, "at least 1"),
        ({"max_turns": True}, TypeError, "max_turns"),
        ({"max_turns": 1.5}, TypeError, "max_turns"),
        ({"extra_args": "--x"}, TypeError, "extra_args"),
        ({"extra_args": ["--output-format=json"]}, ValueError, "settled"),
        ({"extra_args": ["--input-format", "stream-json"]}, ValueError, "settled"),
        ({"extra_args": ["--", "the prompt"]}, ValueError, "stdin"),
        ({"extra_args": ["-p"]}, ValueError, "settled"),
    ],
)
def test_what_the_cli_would_misread_is_refused(
    arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        build_command(**arguments)


def test_the_environment_is_what_is_listed_and_nothing_else() -> None:
    passed = {name.replace("*", "X"): "1" for name in PASSED_ON}
    other = {
        *("SECRET_TOKEN", "PYTHONPATH", "LD_PRELOAD", "BASH_ENV", "XANTHROPIC_API_KEY", "PATHX"),
        *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "PWD", "SSH_AUTH_SOCK"),
    }
    assert set(WITHHELD) & set(passed) == set()
    built = build_environment(passed | dict.fromkeys(other, "no"))
    assert built == passed | {"CLAUDE_CODE_MAX_RETRIES": str(DEFAULT_MAX_RETRIES)}


def test_retries_and_api_time_have_caps() -> None:
    def caps(environ: dict[str, str], **options: Any) -> tuple[str, str]:
        env = build_environment(environ, **options)
        return env["CLAUDE_CODE_MAX_RETRIES"], env["API_TIMEOUT_MS"]

    said = {"CLAUDE_CODE_MAX_RETRIES": "7", "API_TIMEOUT_MS": "70"}
    assert caps({}) == (str(DEFAULT_MAX_RETRIES), str(round(DEFAULT_API_TIMEOUT * 1000)))
    assert caps(said) == ("7", "70")
    assert caps(said, max_retries=0, api_timeout=0.5) == ("0", "500")
    assert caps(said, max_retries=0, extra={"CLAUDE_CODE_MAX_RETRIES": "9"}) == ("9", "70")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_retries": -1}, ValueError),
        ({"max_retries": 1.0}, TypeError),
        ({"api_timeout": 0}, ValueError),
        ({"api_timeout": float("nan")}, ValueError),
        ({"extra": {"A=B": "c"}}, ValueError),
        ({"extra": {"": "c"}}, ValueError),
        ({"extra": {"A": "c\0"}}, ValueError),
        ({"extra": {"A": 1}}, TypeError),
        ({"extra": {"A": None}}, TypeError),
    ],
)
def test_what_no_environment_can_hold_is_refused(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        build_environment({}, **options)


def test_the_environment_given_is_left_alone() -> None:
    environ = {"HOME": "/h"}
    assert build_environment(environ, extra={"X": "1"})["X"] == "1"
    assert environ == {"HOME": "/h"}


def test_a_bare_name_is_looked_for_on_the_path_of_the_run(tmp_path: Path) -> None:
    cli = executable(tmp_path / "bin" / "claude")
    assert find_cli("claude", {"PATH": f"/nowhere{os.pathsep}{cli.parent}"}) == str(cli)


def test_a_path_is_taken_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = executable(tmp_path / "bin" / "claude")
    monkeypatch.chdir(tmp_path)
    assert find_cli("bin/claude", {}) == str(cli)
    assert find_cli("./bin/../bin/claude", {}) == str(cli)


def test_the_wheel_that_brings_the_cli_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = executable(tmp_path / "claude_agent_sdk" / "_bundled" / "claude")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert find_cli("claude", {"PATH": "/nowhere"}) == str(cli)
    with pytest.raises(ClaudeNotFound):
        find_cli("claude2", {"PATH": "/nowhere"})


def test_a_missing_cli_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ClaudeNotFound) as caught:
        find_cli("claude", {"PATH": str(tmp_path)})
    assert isinstance(caught.value, ClaudeError)
    assert caught.value.command == "claude"
    assert "pip install claude-agent-sdk" in str(caught.value)
    assert "npm install -g @anthropic-ai/claude-code" in str(caught.value)
    assert "command=" in str(caught.value)


def test_a_path_that_is_no_program_says_why(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    for path, says in (
        (tmp_path / "none", "no such"),
        (tmp_path, "directory"),
        (plain, "not exec"),
    ):
        with pytest.raises(ClaudeNotFound, match=says):
            find_cli(str(path), {})


def test_a_directory_has_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_directory(".") == str(tmp_path)
    for name, says in (("none", "does not exist"), ("file", "is not a directory")):
        with pytest.raises(ModuleDirectoryNotFound, match=says) as caught:
            find_directory(Path(name))
        assert caught.value.path == str(tmp_path / name)


def test_it_is_no_door_to_what_is_heavy() -> None:
    code = (
        "import sys; import pytest_claude_comms.claude.command as c;"
        "print(*{'asyncio', 'sqlite3', 'claude_agent_sdk'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == ""
