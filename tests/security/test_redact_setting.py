"""The command line takes out what the environment or pyproject.toml says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_claude_comms import open_store
from pytest_claude_comms.cli import choosing
from pytest_claude_comms.cli.exits import CommandError
from pytest_claude_comms.redaction import redactor_named

KEY = "sk-ant-api03-Zx8Kq2Wv7Lm4Rt9Yp1Bn6Cd3"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "below"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("CLAUDE_COMMS_REDACT", raising=False)
    monkeypatch.setenv("DB_PASSWORD", "swordfish")


def kept(text: str) -> str:
    with choosing.open_chosen("memory:") as store:
        return store.create_thread(text).title


def say(folder: Path, text: str) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.claude-comms]\n{text}\n")


def test_nothing_unless_somebody_says_so(tmp_path: Path) -> None:
    assert kept(KEY) == KEY
    say(tmp_path, "redact = false")
    assert kept(KEY) == KEY


def test_the_nearest_project_that_says_it(tmp_path: Path) -> None:
    say(tmp_path, "redact = true")
    assert kept(f"{KEY} swordfish") == "<API_KEY> <DB_PASSWORD>"
    say(tmp_path / "below", 'store = "sqlite:///x.db"')
    assert kept(KEY) == "<API_KEY>"
    say(tmp_path / "below", "redact = false")
    assert kept(KEY) == KEY


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("secrets", "<API_KEY> <DB_PASSWORD>"),
        ("pytest_claude_comms:redact_secrets", "<API_KEY> swordfish"),
        ("pytest_claude_comms.redaction:redact_secrets", "<API_KEY> swordfish"),
    ],
)
def test_the_environment_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, left: str
) -> None:
    say(tmp_path, "redact = false")
    monkeypatch.setenv("CLAUDE_COMMS_REDACT", name)
    assert kept(f"{KEY} swordfish") == left


@pytest.mark.parametrize("said", ['"os:system"', "1", "[]"])
def test_a_projects_file_does_not_choose_what_runs(tmp_path: Path, said: str) -> None:
    say(tmp_path, f"redact = {said}")
    with pytest.raises(CommandError, match="redact under .* is true or false, not ") as caught:
        kept("text")
    assert caught.value.code == 2


def test_a_file_that_cannot_be_read_is_no_leave_to_store_secrets(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.claude-comms\nredact = true\n")
    with pytest.raises(CommandError, match="pyproject.toml cannot be read"):
        kept(KEY)
    (tmp_path / "pyproject.toml").write_text("[tool.claude-comms\nstore = 1\n")
    assert kept(KEY) == KEY


@pytest.mark.parametrize("name", ["x", "x:", ":x", "no.such:f", "os:no_such", "os:name"])
def test_a_name_that_is_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("CLAUDE_COMMS_REDACT", name)
    with pytest.raises(CommandError, match="CLAUDE_COMMS_REDACT: ") as caught:
        kept("text")
    assert caught.value.code == 2
    with pytest.raises((TypeError, ValueError)):
        redactor_named(name)


def test_it_works_in_open_store() -> None:
    with open_store("memory:", redact=redactor_named("secrets")) as store:
        assert store.create_thread(KEY).title == "<API_KEY>"


def test_what_a_name_that_is_none_is_told() -> None:
    for name in ("", "x", "x:", ":x"):
        with pytest.raises(
            ValueError,
            match=f"^{name!r} names no function: say 'secrets' or 'package.module:function'$",
        ):
            redactor_named(name)
    for name, kind in (("no.such:f", ImportError), ("os:no_such", AttributeError)):
        with pytest.raises(ValueError, match=f"^{name!r} cannot be imported: .*no.*") as caught:
            redactor_named(name)
        assert isinstance(caught.value.__cause__, kind)
    with pytest.raises(TypeError, match="^redact must be a function from str to str, not "):
        redactor_named("os:name")


def test_a_name_may_lead_into_a_class() -> None:
    assert redactor_named("builtins:str.upper") is str.upper
