"""What a shell is offered: commands, options, and the ids of the chosen store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_claude_comms import open_store
from pytest_claude_comms.cli import completing

from .conftest import Run

Offered = Callable[..., list[str]]

STORES = [("sqlite", "c.db"), ("tinydb", "c.json")]


def fill(url: str) -> None:
    with open_store(url, durability="process") as store:
        store.create_thread("PDF schema", thread_id="t-1")
        store.create_thread("", thread_id="x-2")
        store.add_message("t-1", "arangodb", status="complete", message_id="t-done")
        store.add_message("t-1", "arangodb", status="pending", message_id="t-open", timeout=0)
        for odd in ("t $(reboot)", "t\nplain,t-forged", "t:colon", "t;"):
            store.add_message("t-1", "m", status="pending", message_id=odd)


@pytest.fixture
def offered(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Offered:
    """What a shell is told for a word that is being typed, the last one; "" is one."""
    monkeypatch.chdir(tmp_path)

    def complete(words: str, name: str = "bash") -> list[str]:
        typed = words.split(" ")
        monkeypatch.setenv("_CLAUDE_COMMS_COMPLETE", f"{name}_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", typed[-1] if name == "fish" else str(len(typed) - 1))
        result = run()
        assert (result.code, result.err) == (0, "")
        return [line.partition(",")[2] for line in result.out.splitlines() if line]

    return complete


@pytest.mark.parametrize(("scheme", "name"), STORES)
@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("status ", ["t-1", "x-2", "t-done", "t-open"]),
        ("show t-", ["t-1", "t-done", "t-open"]),
        ("timeline t-d", ["t-done"]),
        ("watch ", ["t-open"]),
        ("wait t", ["t-done", "t-open"]),
        ("wait t-done t", ["t-open"]),
        ("cancel ", ["t-open"]),
        ("ask . hi --thread ", ["t-1", "x-2"]),
        ("replay x --thread x", ["x-2"]),
        ("show nothing", []),
    ],
)
def test_ids(
    offered: Offered, tmp_path: Path, words: str, ids: list[str], scheme: str, name: str
) -> None:
    fill(f"{scheme}:///{tmp_path}/{name}")
    before = {each: (tmp_path / each).read_bytes() for each in os.listdir(tmp_path)}
    assert offered(f"claude-comms {words}") == ids
    assert {each: (tmp_path / each).read_bytes() for each in os.listdir(tmp_path)} == before


def test_of_the_store_that_was_named(
    offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    fill(f"sqlite:///{tmp_path}/sub/a.db")
    assert offered("claude-comms show --store sub/a.db t-d") == ["t-done"]
    assert offered("claude-comms --store sub/a.db show t-d") == ["t-done"]
    assert offered("claude-comms show t-d") == []
    monkeypatch.setenv("CLAUDE_COMMS_STORE", "sub/a.db")
    assert offered("claude-comms show t-d") == ["t-done"]


def test_what_they_are_is_said_where_a_shell_shows_it(offered: Offered, tmp_path: Path) -> None:
    fill(f"sqlite:///{tmp_path}/a.db")
    assert offered("claude-comms show t-", "fish") == [
        "t-1\tthread, PDF schema",
        "t-done\tcomplete, arangodb",
        "t-open\tpending, arangodb",
    ]


@pytest.mark.parametrize("text", [b"", b"SQLite format 3\0" + bytes(44) + b"\1" * 8 + b"ClCo" * 99])
def test_never_an_error(offered: Offered, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.db").write_bytes(text)
    assert offered("claude-comms show --store a.db t") == []
    assert offered("claude-comms show --store memory: t") == []
    assert offered("claude-comms show --store none.db t") == []
    assert os.listdir(tmp_path) == ["a.db"]


def test_a_large_store_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import click

    from pytest_claude_comms.cli.app import app

    fill(f"sqlite:///{tmp_path}/a.db")
    monkeypatch.chdir(tmp_path)
    argument = click.Argument(["id_"])
    context = click.Context(app)
    assert completing.both(context, argument, "t-d")
    monkeypatch.setattr(completing, "_MOST_BYTES", 100)
    assert completing.both(context, argument, "t-d") == []
