"""What ``doctor`` finds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, __version__, open_store
from pytest_claude_comms.cli.health_checks import has_wal_reset_bug
from pytest_claude_comms.testing import FakeClock

from .conftest import Result, Run, Valid


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "here"
    found.mkdir()
    monkeypatch.chdir(found)
    monkeypatch.setenv("PATH", str(found))  # no Claude
    return found


def findings(result: Result, what: str) -> list[dict[str, Any]]:
    return [each for each in result.document["findings"] if each["what"] == what]


def only(result: Result, what: str) -> dict[str, Any]:
    (found,) = findings(result, what)
    return found


@pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])
def test_as_json_on_every_store(run: Run, valid: Valid, store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", timeout=0)
    result = run("doctor", "--json", store=store)
    assert result.code == 0
    valid(result.document)
    assert only(result, "pytest-claude-comms")["value"] == __version__
    assert only(result, "store: threads")["value"] == "1"
    assert only(result, "store: messages")["value"] == "1: 1 pending"
    assert only(result, "store: overdue")["state"] == "warning"
    assert store.messages()[0].status == "pending"  # looking settles nothing


def test_without_a_store_the_rest_is_looked_at(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.code == 0
    assert only(result, "store")["state"] == "warning"
    assert only(result, "python")["value"].endswith(sys.executable)
    assert only(result, "click")["state"] == "ok"


def test_a_missing_store_is_a_problem(run: Run) -> None:
    result = run("doctor", "--store", "sqlite:///x.db", "--json")
    assert result.code == 6
    assert only(result, "store")["state"] == "problem"
    assert os.listdir() == []


def test_a_damaged_store_is_a_problem(run: Run) -> None:
    with open_store("tinydb:///a.json"):
        pass
    Path("a.json").write_text('{"claude_comms": {"1": {"store_id": ')
    result = run("doctor", "--store", "a.json", "--json")
    assert result.code == 6
    assert "cannot be read" in only(result, "store")["value"]


def test_the_words(run: Run) -> None:
    with open_store("sqlite:///a.db") as store:
        store.create_thread()
    result = run("doctor")
    assert result.code == 0
    assert f"ok       pytest-claude-comms  {__version__}\n" in result.out
    assert "ok       store: messages      none\n" in result.out
    assert "warning  claude               not found\n" in result.out
    assert "--claude PATH\n" in result.out
    assert "command=" not in result.out
    assert "standard output is no terminal: no colours, nothing moves\n" in result.out


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_the_files_and_their_modes(run: Run, scheme: str) -> None:
    beside = {"sqlite": ["", ".lock"], "tinydb": ["", ".journal", ".lock"]}[scheme]
    with open_store(f"{scheme}:///a.x") as store:
        store.create_thread()
    result = run("doctor", "--store", f"{scheme}:///a.x", "--json")
    found = findings(result, "store: file")
    assert [each["value"].partition(":")[0] for each in found] == [
        os.path.abspath(f"a.x{ending}") for ending in beside
    ]
    assert all(each["value"].endswith("mode 0600") and each["state"] == "ok" for each in found)
    for ending in beside:
        Path(f"a.x{ending}").chmod(0o644)
    found = findings(run("doctor", "--store", f"{scheme}:///a.x", "--json"), "store: file")
    assert [each["state"] for each in found] == ["warning"] * len(beside)
    assert "chmod 600" in found[0]["hint"]


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
@pytest.mark.parametrize(
    ("denied", "hint"),
    [
        (os.R_OK, "you may not read it: chmod u+rw '{}', if it is yours"),
        (os.W_OK, "you may read it, but not write to it: chmod u+w '{}', if it is yours"),
    ],
)
def test_a_file_that_is_not_for_you(
    run: Run, monkeypatch: pytest.MonkeyPatch, denied: int, hint: str
) -> None:
    with open_store("sqlite:///a b.db") as store:
        store.create_thread()
    path, access = os.path.abspath("a b.db"), os.access
    # Root may read and write whatever its mode is.
    monkeypatch.setattr(
        os,
        "access",
        lambda name, mode: access(name, mode) and not (name == path and mode & denied),
    )
    result = run("doctor", "--json")
    assert result.code == 6
    found = [each for each in findings(result, "store: file") if each["state"] != "ok"]
    assert [(each["state"], each["hint"]) for each in found] == [("problem", hint.format(path))]


def test_the_log_of_a_store_that_is_open(run: Run) -> None:
    with open_store("sqlite:///a.db") as store:
        store.create_thread()
        found = findings(run("doctor", "--json"), "store: file")
        endings = [each["value"].partition(":")[0].rpartition("a.db")[2] for each in found]
        assert endings == ["", "-wal", "-shm", ".lock"]


@pytest.mark.claude_comms(stores=["memory"])
def test_a_clock_that_is_behind(run: Run, store: ConversationStore, clock: FakeClock) -> None:
    from datetime import timedelta

    store.create_thread(thread_id="t")
    store.add_message("t", "m")
    now = store.clock.now()
    store.clock.now = lambda: now - timedelta(hours=2)  # type: ignore[method-assign]
    found = only(run("doctor", "--json", store=store), "store: clock")
    assert (found["state"], found["value"]) == ("warning", "its last change is 2 h 0 min from now")


# -- versions of SQLite


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_which_sqlite_has_the_wal_reset_bug(version: tuple[int, int, int], has_it: bool) -> None:
    assert has_wal_reset_bug(version) is has_it


def test_it_is_a_warning(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for version, state in (((3, 40, 1), "warning"), ((3, 53, 0), "ok")):
        monkeypatch.setattr("sqlite3.sqlite_version_info", version)
        assert only(run("doctor", "--json"), "sqlite")["state"] == state


# -- Claude


def claude(folder: Path, script: str) -> None:
    path = folder / "claude"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="a script of POSIX")
@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        ('test "$1" = --version && echo "2.1.330 (Claude Code)"', "ok", "2.1.330 (Claude Code), "),
        ("exit 3", "problem", "ended with 3"),
        ("exit 0", "problem", "ended with 0"),
        ('test -z "$SECRET" && echo 1', "ok", "1, "),
        ("printf '\\033[31m1'", "ok", "\x1b[31m1"),
    ],
)
def test_the_cli(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, state: str, said: str
) -> None:
    monkeypatch.setenv("SECRET", "x")
    claude(folder, script)
    result = run("doctor", "--json")
    found = only(result, "claude")
    assert found["state"] == state
    assert said in found["value"] + found["hint"]
    assert result.code == (1 if state == "problem" else 0)
    assert "\x1b" not in run("doctor").out


@pytest.mark.skipif(os.name == "nt", reason="a script of POSIX")
def test_a_cli_that_hangs(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_claude_comms.cli.health_checks._CLAUDE_SECONDS", 0.2)
    claude(folder, "exec /bin/sleep 60")
    assert "does not run" in only(run("doctor", "--json"), "claude")["hint"]


@pytest.mark.claude_comms(stores=["memory"])
def test_a_package_that_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    before = importlib.metadata.version

    def version(name: str) -> str:
        if name == "tinydb":
            raise importlib.metadata.PackageNotFoundError(name)
        return before(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    result = run("doctor", "--json")
    assert result.code == 1
    assert only(result, "tinydb")["hint"] == "pip install tinydb"
