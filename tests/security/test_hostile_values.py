"""Each hostile value has one answer, the same on every store, and after it is opened again."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    MessagePoller,
    WaitTimeout,
    ask_module,
    open_store,
)
from pytest_claude_comms.testing import assert_content, assert_no_pending, assert_terminal
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

from .conftest import OpenStore


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


class Number(int):
    def __repr__(self) -> str:
        return "1e5"


class Table(dict[Any, Any]):
    def items(self) -> Any:
        return {"b": 2}.items()


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def recursive() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    return loop


TAKEN: dict[str, tuple[Any, Any]] = {
    "big int": (2**63, 2**63),
    "very big int": (-(10**639), -(10**639)),
    "float": (1e308, 1e308),
    "smallest float": (5e-324, 5e-324),
    "subclass of int": (Number(3), 3),
    "subclass of str": (Word("mine"), "mine"),
    "subclass of dict": (Table(a=1), {"b": 2}),
    "tuple": ((1, (2,)), [1, [2]]),
    "99 deep": (nested(98), nested(98)),
    "NUL and escapes": ("\0\x1b]52;c;eA==\x07\x9b\u202e\u2028",) * 2,
    "script": ("</script><script>x()</script>", "</script><script>x()</script>"),
    "sql": ("'; DROP TABLE messages; --", "'; DROP TABLE messages; --"),
}
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "NaN": (math.nan, ValueError, "metadata['k'] is nan"),
    "infinity": (-math.inf, ValueError, "metadata['k'] is -inf"),
    "int too long": (10**640, ValueError, "metadata['k'] is an int of 2,127 bits"),
    "bytes": (b"x", TypeError, "metadata['k'] is a bytes"),
    "set": ({1}, TypeError, "metadata['k'] is a set"),
    "2000 deep": (nested(2000), ValueError, "metadata['k'][0][0]"),
    "recursive": (recursive(), ValueError, "metadata['k']['loop']['loop']"),
    "key": ({1: 2}, TypeError, "metadata['k'] has the key 1; keys must be str"),
    "surrogate": ("a\udc80", ValueError, "metadata['k'] has a lone surrogate"),
    "surrogate in a key": ({"\ud800": 1}, ValueError, "a key of metadata['k'] has a lone"),
}
IDS = [
    *("../../x", "/etc/passwd", "..", "CON", "con.txt", "a" * 1000, "a\nb", "\x1b[2J", "\0", " "),
    *("%2e%2e", "C:\\x", "~", "-rf", "$(touch x)", "`touch x`", "\u202ex", "日" * 1000),
]


@pytest.mark.parametrize("name", TAKEN)
def test_metadata_that_is_taken(opened: OpenStore, name: str) -> None:
    given, kept = TAKEN[name]
    store = opened()
    thread = store.create_thread(metadata={"k": given}, thread_id="t")
    message = store.add_message("t", "m", metadata={"k": given}, message_id="m")
    updated = store.update_message("m", metadata={"more": given})
    for each in (thread, message, updated, *_again(store, lambda s: [s.get_message("m")])):
        assert repr(each.metadata["k"]) == repr(kept)
        assert type(each.metadata["k"]) is type(kept)


@pytest.mark.parametrize("name", REFUSED)
def test_metadata_that_is_refused(opened: OpenStore, name: str) -> None:
    given, kind, text = REFUSED[name]
    store = opened()
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="m")
    before = store.cursor()
    for call in (
        lambda: store.create_thread(metadata={"k": given}),
        lambda: store.add_message("t", "m", metadata={"k": given}),
        lambda: store.update_message("m", status="complete", metadata={"k": given}),
    ):
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert str(caught.value).startswith(text)
    assert (store.cursor(), len(store.threads()), len(store.messages())) == (before, 1, 1)


@pytest.mark.parametrize("what", ["title", "modules", "module_name", "content", "message_type"])
def test_text_with_a_lone_surrogate(opened: OpenStore, what: str) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    bad = "a\ud800"
    of_thread: dict[str, Any] = {what: [bad] if what == "modules" else bad}
    of_message: dict[str, Any] = {"thread": "t", "module_name": "m", what: bad}
    with pytest.raises(ValueError, match="has a lone surrogate"):
        if what in ("title", "modules"):
            store.create_thread(**of_thread)
        else:
            store.add_message(**of_message)
    assert not store.messages()


@pytest.mark.parametrize("bad", [3, None, b"x", ["x"]])
def test_what_is_no_text(opened: OpenStore, bad: Any) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    message = store.add_message("t", "m", status="pending")
    calls: list[Callable[[], object]] = [
        lambda: store.add_message("t", bad),
        lambda: store.add_message("t", "m", bad),
        lambda: store.update_message(message, append=bad),
        lambda: store.update_message(message, content=bad),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="must be a str, not "):
            call()
    assert store.cursor() == 1


def test_every_id_is_an_id_and_none_is_a_file(opened: OpenStore, tmp_path: Path) -> None:
    store = opened()
    before = sorted(tmp_path.rglob("*"))
    for each in IDS:
        store.create_thread(thread_id=each)
        store.add_message(each, "m", message_id=each, status="pending")
        store.update_message(each, status="complete")
    assert sorted(tmp_path.rglob("*")) == before
    found = _again(store, lambda s: [message.message_id for message in s.messages()])
    assert found == IDS * (len(found) // len(IDS))
    for each in IDS:
        assert store.get_thread(each).thread_id == store.get_message(each).thread_id == each
    for bad in ("", "a" * 1001, "\ud800"):
        with pytest.raises(ValueError, match="thread_id"):
            store.create_thread(thread_id=bad)


def test_what_is_changed_afterwards_changes_nothing(opened: OpenStore) -> None:
    store = opened()
    mine: dict[str, Any] = {"k": [1, {"a": 1}]}
    names = ["a"]
    thread = store.create_thread(modules=names, metadata=mine)
    message = store.add_message(thread, "m", metadata=mine, status="pending")
    mine["k"].append(2)
    mine["k"][1]["a"] = 2
    names.append("b")
    for record in (thread, message, store.get_thread(thread), store.get_message(message)):
        record.metadata["k"].append(3)
    assert store.get_thread(thread).metadata == {"k": [1, {"a": 1}]}
    assert store.get_thread(thread).modules == ("a",)
    assert store.get_message(message).metadata == {"k": [1, {"a": 1}]}
    assert store.changes().items[0].metadata == {"k": [1, {"a": 1}]}


def _again(store: ConversationStore, read: Callable[[ConversationStore], list[Any]]) -> list[Any]:
    """What a store says, and what it says to somebody who opens it afresh."""
    found = read(store)
    if store.backend != "memory":
        with open_store(store.url, durability="process") as again:
            found += read(again)
    return found


# -- a prompt, and the directory of a module

PAYLOADS = ["$(touch run)", "`touch run`", "'; touch run; '", '" && touch run "', "| touch run"]


@pytest.mark.claude_comms(stores=["memory"])
@pytest.mark.parametrize(
    "prompt",
    ["x" * 131_072, "a\0b", "\x1b]52;c;eA==\x07", "-p --help", "/clear", "日本\u202e", *PAYLOADS],
    ids=lambda text: repr(text[:12]),
)
def test_a_prompt_is_text(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, prompt: str
) -> None:
    claude.replies("ok")
    reply = ask_module(store, "q", tmp_path, prompt)
    assert (reply.answer.status, reply.question.content) == ("complete", prompt)
    assert claude.calls[0].prompt == prompt
    assert not any(prompt in word for word in claude.calls[0].argv if len(prompt) > 1)
    assert "run" not in os.listdir(tmp_path) + os.listdir()


@pytest.mark.claude_comms(stores=["memory"])
@pytest.mark.parametrize("name", [*PAYLOADS, "a\nb", "\x1b[2J", "-x", "日本", " "])
def test_a_directory_is_a_name(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    claude.replies("ok")
    reply = ask_module(store, "q", folder, "Which?")
    assert (reply.answer.status, reply.answer.module_name) == ("complete", name)
    assert claude.calls[0].cwd == str(folder)
    assert os.listdir(folder) == []
    assert sorted(os.listdir(tmp_path)) == [name]


# -- pages that a test prints

ATTACK = "\x1b]52;c;eA==\x07 \x9b31m \u202e \r overwritten"


@pytest.mark.claude_comms(stores=["memory"])
def test_no_page_of_a_failure_commands_a_terminal(store: ConversationStore, clock: Any) -> None:
    thread = store.create_thread(ATTACK, modules=[ATTACK], thread_id=f"t{ATTACK}")
    message = store.add_message(
        thread, ATTACK, ATTACK, status="pending", message_id=f"m{ATTACK}", metadata={ATTACK: ATTACK}
    )
    pages = []
    for kind, call in (
        (WaitTimeout, lambda: MessagePoller(store).wait(message, timeout=3)),
        (AssertionError, lambda: assert_terminal(message, store=store)),
        (AssertionError, lambda: assert_no_pending(store)),
        (AssertionError, lambda: assert_content(message, "another", store=store)),
    ):
        with pytest.raises(kind) as caught:
            call()
        pages.append(str(caught.value))
    store.update_message(message, status="failed", error=ATTACK)
    with pytest.raises(AssertionError) as failed:
        assert_terminal(message, "complete", store=store)
    for page in [*pages, str(failed.value)]:
        assert all(char == "\n" or char.isprintable() for char in page), page


def test_nor_does_the_report_of_a_failed_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        f"""
        def test_it(store):
            thread = store.create_thread(thread_id={"t" + ATTACK!r})
            store.add_message(thread, "m", status="pending", message_id={"m" + ATTACK!r})
            raise AssertionError
        """
    )
    result = pytester.runpytest_subprocess("-p", "pytest_claude_comms.plugin", "--tb=short")
    page = result.stdout.str()
    assert "m\\x1b]52" in page
    assert all(char == "\n" or char.isprintable() for char in page)
