"""The error tree: data as attributes, one text, and the way through a pickle."""

from __future__ import annotations

import copy
import pickle

import pytest

from pytest_claude_comms import errors
from pytest_claude_comms.errors import (
    AlreadyExists,
    ClaudeCommsError,
    ClaudeError,
    ClaudeNotFound,
    ClockDeadlock,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    ModuleDirectoryNotFound,
    RedactionError,
    RunAbandoned,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    ThreadNotFound,
    WaitTimeout,
)
from pytest_claude_comms.status import MessageStatus

COMPLETE, PENDING = MessageStatus.COMPLETE, MessageStatus.PENDING


def examples() -> list[tuple[ClaudeCommsError, str, dict[str, object]]]:
    """Errors, with their text and their data."""
    return [
        (StoreError("disk"), "disk", {"outcome": "not done"}),
        (StoreError("disk", outcome="unknown"), "disk", {"outcome": "unknown"}),
        (
            ThreadNotFound("t", store="memory:"),
            "thread 't' does not exist in memory:",
            {"thread_id": "t", "outcome": "not done"},
        ),
        (
            MessageNotFound("m"),
            (
                "message 'm' does not exist in the store; to wait for one that may come, track "
                "it with a MessagePoller"
            ),
            {"message_id": "m"},
        ),
        (
            AlreadyExists("message", "m"),
            "message 'm' already exists in the store",
            {"kind": "message", "id": "m"},
        ),
        (
            InvalidTransition("m", COMPLETE, PENDING),
            "message 'm' is complete and cannot become pending: complete is final",
            {"message_id": "m", "status": COMPLETE, "requested": PENDING},
        ),
        (
            InvalidTransition("m", COMPLETE, None),
            "message 'm' is complete and accepts no more content: complete is final",
            {"requested": None},
        ),
        (
            InvalidTransition("m", MessageStatus.PROCESSING, PENDING),
            "message 'm' is processing and cannot become pending: it cannot follow processing",
            {},
        ),
        (
            StoreBusy("/a.db", 5.04321),
            (
                "/a.db was busy for 5.04 s: another process or connection holds its write lock; "
                "nothing was changed, try again"
            ),
            {"path": "/a.db", "waited": 5.04321},
        ),
        (
            StoreClosed("sqlite:////a.db"),
            "the store sqlite:////a.db is closed; open it again with open_store('sqlite:////a.db')",
            {"url": "sqlite:////a.db"},
        ),
        (
            StoreClosed("memory:"),
            "the store memory: is closed; what it held ended with it: close it when all is done",
            {"url": "memory:"},
        ),
        (
            StoreCorrupt("/a.json", "no JSON"),
            (
                "/a.json cannot be read as a conversation store: no JSON. The file was left "
                "untouched; restore a backup or move it away"
            ),
            {"path": "/a.json", "reason": "no JSON"},
        ),
        (
            HistoryGone("trimmed", store="memory:", since=3),
            (
                "the history of memory: after revision 3 is gone: trimmed. Read the messages "
                "afresh and watch from store.cursor()"
            ),
            {"store": "memory:", "since": 3},
        ),
        (
            RedactionError("title", "f raised KeyError at f.py:3"),
            "title could not be redacted, so nothing was stored: f raised KeyError at f.py:3",
            {"what": "title", "reason": "f raised KeyError at f.py:3", "outcome": "not done"},
        ),
        (
            WaitTimeout("page\n  of lines", message_ids=("a", "b"), timeout=2.5),
            "page\n  of lines",
            {"message_ids": ("a", "b"), "timeout": 2.5},
        ),
        (ClockDeadlock("all wait"), "all wait", {}),
        (
            ClaudeNotFound("claude", "it is not on PATH"),
            (
                "the Claude CLI 'claude' cannot be run: it is not on PATH. Get one with `pip "
                "install claude-agent-sdk` or `npm install -g @anthropic-ai/claude-code`, or say "
                "where it is with command="
            ),
            {"command": "claude", "reason": "it is not on PATH"},
        ),
        (
            ModuleDirectoryNotFound("../x", "does not exist"),
            (
                "the module's directory '../x' does not exist: Claude runs in the directory of the "
                "module that is asked, so it has to be one"
            ),
            {"path": "../x", "reason": "does not exist"},
        ),
        (RunAbandoned("it still went on"), "it still went on", {}),
        (ClaudeError("no claude"), "no claude", {}),
        (ThreadNotFound("t"), "thread 't' does not exist in the store", {"thread_id": "t"}),
        (
            MessageNotFound("m", store="memory:"),
            (
                "message 'm' does not exist in memory:; to wait for one that may come, track it "
                "with a MessagePoller"
            ),
            {"message_id": "m"},
        ),
        (
            AlreadyExists("thread", "t", store="memory:"),
            "thread 't' already exists in memory:",
            {"kind": "thread", "id": "t"},
        ),
        (
            InvalidTransition("m", PENDING, COMPLETE, why="its deadline is past"),
            "message 'm' is pending and cannot become complete: its deadline is past",
            {"message_id": "m", "status": PENDING, "requested": COMPLETE},
        ),
        (
            HistoryGone("it was replaced", store="memory:"),
            (
                "the history of memory: is gone: it was replaced. Open the store again, read the "
                "messages afresh and watch from its cursor()"
            ),
            {"store": "memory:", "since": None},
        ),
    ]


@pytest.mark.parametrize("place", range(len(examples())))
def test_text_data_and_the_way_through_a_pickle(place: int) -> None:
    error, text, data = examples()[place]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for each in (error, pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
            assert type(each) is type(error)
            assert str(each) == text
            assert each.args == error.args
            assert {name: getattr(each, name) for name in data} == data


def test_every_error_has_an_example() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    public = {
        kind
        for kind in kinds
        if issubclass(kind, ClaudeCommsError) and not kind.__name__.startswith("_")
    }
    assert public - {ClaudeCommsError} == {type(each[0]) for each in examples()}


def test_a_wait_timeout_is_a_timeout_error_and_no_store_error() -> None:
    assert issubclass(WaitTimeout, TimeoutError)
    assert not issubclass(WaitTimeout, StoreError)


def test_which_errors_may_pass() -> None:
    passing = {
        type(each[0]).__name__ for each in examples() if getattr(each[0], "transient", False)
    }
    assert passing == {"StoreError", "StoreBusy"}


def test_broken_version_exceptions_own_reduction_loses_or_refuses_the_data() -> None:
    class Plain(Exception):
        def __init__(self, text: str, *, path: str) -> None:
            super().__init__(text)
            self.path = path

    with pytest.raises(TypeError):
        copy.copy(Plain("x", path="y"))


def test_a_hint_becomes_the_last_line_of_the_page() -> None:
    error = WaitTimeout("title\n  hint     one", message_ids=("a",), timeout=1)
    error.add_hint("another")
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert str(each) == "title\n  hint     one\n           another"
        assert (each.message_ids, each.timeout) == (("a",), 1)
