"""DESIGN "Stores", rule by rule, on the reference store; and LegacyReturns."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from pytest_claude_comms.errors import (
    AlreadyExists,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    StoreClosed,
    ThreadNotFound,
)
from pytest_claude_comms.records import Message
from pytest_claude_comms.stores import open_store, rules
from pytest_claude_comms.stores.base import UNSET, ConversationStore
from pytest_claude_comms.stores.legacy import SHAPES, LegacyReturns, as_dict, shape_of
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import START, FakeClock

ENDS = ["complete", "failed", "timeout", "cancelled"]
STORABLE = ["pending", "processing", *ENDS]


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryConversationStore]:
    with MemoryConversationStore(clock=clock) as store:
        store.create_thread(thread_id="t")
        yield store


def add(store: MemoryConversationStore, name: str = "m", **more: Any) -> Message:
    return store.add_message("t", "x", message_id=name, **{"status": "pending", **more})


# -- records


def test_it_is_a_store(store: MemoryConversationStore, clock: FakeClock) -> None:
    assert isinstance(store, ConversationStore)
    assert (store.url, store.backend, store.clock) == ("memory:", "memory", clock)
    assert len(store.store_id) == 32
    assert store.store_id != MemoryConversationStore().store_id
    assert repr(store) == "MemoryConversationStore('memory:')"
    assert store.left_open() is not None
    store.close()
    assert store.left_open() is None


def test_a_new_message(store: MemoryConversationStore, clock: FakeClock) -> None:
    clock.advance(1.5)
    message = store.add_message(
        "t", "arangodb", "hi", status="pending", timeout=30, stall_timeout=10, metadata={"a": (1,)}
    )
    at = START + timedelta(seconds=1.5)
    assert dataclasses.asdict(message) == {
        "message_id": message.message_id,
        "thread_id": "t",
        "module_name": "arangodb",
        "content": "hi",
        "message_type": "message",
        "status": "pending",
        "created_at": at,
        "updated_at": at,
        "deadline_at": at + timedelta(seconds=10),
        "error": None,
        "metadata": {"a": [1]},
        "revision": 1,
    }
    assert store.get_message(message) == message
    (change,) = store.changes()
    assert dataclasses.asdict(change) == {
        "revision": 1,
        "message_id": message.message_id,
        "thread_id": "t",
        "at": at,
        "previous": None,
        "status": "pending",
        "append": None,
        "content": "hi",
        "content_length": 2,
        "error": None,
        "metadata": {"a": [1]},
    }
    assert store.add_message("t", "x").status == "complete", "by default"


def test_records_are_frozen_and_nothing_done_to_them_reaches_the_store(
    store: MemoryConversationStore,
) -> None:
    message = add(store, metadata={"a": [1]})
    with pytest.raises(dataclasses.FrozenInstanceError):
        message.status = "complete"  # type: ignore[misc,assignment]
    message.metadata["a"].append(2)
    assert store.get_message("m").metadata == {"a": [1]}
    assert store.changes().items[0].metadata == {"a": [1]}
    assert isinstance(hash(message), int)


def test_a_thread(store: MemoryConversationStore) -> None:
    thread = store.create_thread("PDF", modules=iter(["a", "b"]), metadata={"k": 1})  # type: ignore[arg-type]
    assert (thread.title, thread.modules, thread.metadata) == ("PDF", ("a", "b"), {"k": 1})
    assert thread.created_at == START
    assert store.get_thread(thread) == store.get_thread(thread.thread_id) == thread
    assert [each.thread_id for each in store.threads()] == ["t", thread.thread_id]
    assert store.cursor() == 0, "a thread is no change of a message"


@pytest.mark.parametrize("status", STORABLE)
def test_any_storable_status_may_be_first(store: MemoryConversationStore, status: str) -> None:
    assert add(store, status=status).status == status


@pytest.mark.parametrize(
    ("bad", "kind"),
    [("unknown", ValueError), ("done", ValueError), (None, TypeError), (1, TypeError)],
)
def test_what_is_no_storable_status_is_refused(
    store: MemoryConversationStore, bad: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        add(store, status=bad)
    add(store)
    with pytest.raises(kind):
        store.update_message("m", status=bad)
    assert store.cursor() == 1


def test_what_exists_and_what_does_not(store: MemoryConversationStore) -> None:
    add(store)
    with pytest.raises(AlreadyExists, match="^message 'm' already exists in memory:$"):
        add(store)
    with pytest.raises(AlreadyExists, match="^thread 't' already exists in memory:$"):
        store.create_thread(thread_id="t")
    for call in (
        lambda: store.get_thread("no"),
        lambda: store.messages("no"),
        lambda: store.add_message("no", "x"),
    ):
        with pytest.raises(ThreadNotFound, match="^thread 'no' does not exist in memory:$"):
            call()
    for call in (lambda: store.get_message("no"), lambda: store.update_message("no", append="x")):
        with pytest.raises(
            MessageNotFound, match="^message 'no' does not exist in memory:; to wait"
        ):
            call()
    assert store.changes(message="no").items == ()
    assert store.cursor() == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"content": b"x"},
        {"content": "\ud800"},
        {"message_type": None},
        {"metadata": {"a": float("nan")}},
        {"timeout": -1},
        {"timeout": "3"},
        {"stall_timeout": float("inf")},
        {"message_id": ""},
    ],
)
def test_a_refused_argument_changes_nothing(
    store: MemoryConversationStore, bad: dict[str, Any]
) -> None:
    with pytest.raises((TypeError, ValueError)):
        store.add_message("t", "x", **bad)
    assert (store.cursor(), store.messages()) == (0, [])


# -- updates


def test_an_update_is_one_commit(store: MemoryConversationStore, clock: FakeClock) -> None:
    add(store)
    clock.advance(2)
    message = store.update_message("m", status="failed", append="x", error="e", metadata={"a": 1})
    assert (message.revision, message.updated_at) == (2, START + timedelta(seconds=2))
    (change,) = store.changes(1)
    assert (change.previous, change.status, change.append, change.content) == (
        "pending",
        "failed",
        "x",
        None,
    )
    assert (change.content_length, change.error, change.metadata) == (1, "e", {"a": 1})


def test_content_replaces_and_append_adds(store: MemoryConversationStore) -> None:
    add(store, content="ab")
    assert store.update_message("m", append="c").content == "abc"
    assert store.update_message("m", content="z").content == "z"
    assert store.update_message("m", content="").content == ""
    _, added, replaced, emptied = store.changes()
    assert (added.append, added.content, added.content_length) == ("c", None, 3)
    assert (replaced.append, replaced.content, replaced.content_length) == (None, "z", 1)
    assert (emptied.append, emptied.content, emptied.content_length) == (None, "", 0)


def test_content_together_with_append_is_refused(store: MemoryConversationStore) -> None:
    add(store)
    for content in ("", "x"):
        with pytest.raises(ValueError, match="^content= replaces the text and append= adds to it"):
            store.update_message("m", content=content, append="")
    assert repr(UNSET) == "UNSET"


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"status": "processing"},
        {"content": "text"},
        {"append": ""},
        {"error": "e"},
        {"metadata": {"a": [1], "b": None}},
        {"metadata": {}},
        {"metadata": None},
        {"status": "processing", "content": "text", "error": "e", "metadata": {"b": None}},
    ],
)
def test_what_is_the_same_already_is_no_change(
    store: MemoryConversationStore, clock: FakeClock, same: dict[str, Any]
) -> None:
    before = add(store, status="processing", content="text", metadata={"a": [1], "b": None})
    before = store.update_message("m", error="e")
    woken: list[int] = []
    store.subscribe(lambda: woken.append(1))
    clock.advance(5)
    assert store.update_message("m", **same) == before == store.get_message("m")
    assert (store.cursor(), woken) == (2, [])


def test_metadata_is_merged_and_only_what_is_new_is_told(store: MemoryConversationStore) -> None:
    add(store, metadata={"a": 1, "b": {"x": 1}})
    store.update_message("m", metadata={"a": 1, "b": {"y": 2}, "c": None})
    assert store.get_message("m").metadata == {"a": 1, "b": {"y": 2}, "c": None}
    assert store.changes(1).items[0].metadata == {"b": {"y": 2}, "c": None}
    store.update_message("m", metadata={"a": True})
    assert store.get_message("m").metadata["a"] is True, "1 and True differ to a reader"
    store.update_message("m", metadata={"a": 1.0})
    assert repr(store.get_message("m").metadata["a"]) == "1.0"


def test_an_error_can_be_set_and_cleared(store: MemoryConversationStore) -> None:
    add(store)
    assert store.update_message("m", error="e").error == "e"
    assert store.update_message("m", append="x").error == "e"
    assert store.update_message("m", error=None).error is None
    assert [change.error for change in store.changes()] == [None, "e", "e", None]


@pytest.mark.parametrize("before", STORABLE)
@pytest.mark.parametrize("after", STORABLE)
def test_the_table_of_transitions_is_kept(
    store: MemoryConversationStore, before: str, after: str
) -> None:
    add(store, status=before)
    legal = before not in ENDS and after != "pending"
    if before == after and before not in ENDS:
        store.update_message("m", status=after)
        assert store.cursor() == 1
    elif legal:
        assert store.update_message("m", status=after).status == after
        assert store.changes(1).items[0].previous == before
    else:
        with pytest.raises(InvalidTransition) as caught:
            store.update_message("m", status=after)
        assert (caught.value.status, caught.value.requested) == (before, after)
        assert store.cursor() == 1


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "change",
    [
        {"content": "x"},
        {"append": "x"},
        {"append": ""},
        {"error": "e"},
        {"error": None},
        {"append": "x", "metadata": {"a": 1}},
    ],
)
def test_a_terminal_message_takes_no_more(
    store: MemoryConversationStore, end: str, change: dict[str, Any]
) -> None:
    add(store, status=end)
    with pytest.raises(
        InvalidTransition, match=f"^message 'm' is {end} and accepts no more content"
    ):
        store.update_message("m", **change)
    assert (store.cursor(), store.get_message("m").metadata) == (1, {})


@pytest.mark.parametrize("end", ENDS)
def test_but_metadata(store: MemoryConversationStore, end: str) -> None:
    add(store, status=end)
    assert store.update_message("m", metadata={"cost": 0.1}).metadata == {"cost": 0.1}
    assert store.changes(1).items[0].previous == end


def test_broken_version_rules_that_let_a_terminal_status_be_restated(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules.Request, "touches_outcome", False)
    add(store, status="complete")
    with pytest.raises(pytest.fail.Exception):
        test_the_table_of_transitions_is_kept(
            MemoryConversationStoreWithThread(), "complete", "complete"
        )


class MemoryConversationStoreWithThread(MemoryConversationStore):
    def __init__(self) -> None:
        super().__init__()
        self.create_thread(thread_id="t")


# -- reading


def test_messages_by_thread_and_status(store: MemoryConversationStore) -> None:
    store.create_thread(thread_id="u")
    add(store, "a")
    store.add_message("u", "x", message_id="b")
    add(store, "c", status="failed")
    store.update_message("a", append="later")

    def ids(*args: Any, **kwargs: Any) -> str:
        return "".join(message.message_id for message in store.messages(*args, **kwargs))

    assert ids() == "abc"
    assert ids("t") == ids(thread_id=store.get_thread("t")) == "ac"
    assert ids(status="failed") == "c"
    assert ids("t", ["pending", "complete"]) == "a"
    assert ids(status=[]) == ""
    with pytest.raises(ValueError):
        store.messages(status="unknown")


def test_changes_limit_and_cursor(store: MemoryConversationStore) -> None:
    add(store, "a")
    add(store, "b")
    for name in "abab":
        store.update_message(name, append="x")

    def read(*args: Any, **kwargs: Any) -> tuple[list[int], int]:
        found = store.changes(*args, **kwargs)
        return [change.revision for change in found], found.cursor

    assert read() == ([1, 2, 3, 4, 5, 6], 6)
    assert read(4) == ([5, 6], 6)
    assert read(6) == ([], 6)
    assert read(0, limit=2) == ([1, 2], 2)
    assert read(2, limit=4) == ([3, 4, 5, 6], 6)
    assert read(2, limit=99) == ([3, 4, 5, 6], 6)
    assert read(message="a") == ([1, 3, 5], 6)
    assert read(1, limit=1, message="a") == ([3], 3)
    assert read(3, limit=1, message="a") == ([5], 5)
    assert read(5, limit=1, message="a") == ([], 6)
    assert read(message="nobody") == ([], 6)


@pytest.mark.parametrize(
    ("kwargs", "kind"),
    [
        ({"since": -1}, ValueError),
        ({"since": 1.0}, TypeError),
        ({"since": True}, TypeError),
        ({"limit": 0}, ValueError),
        ({"limit": "1"}, TypeError),
        ({"message": 3}, TypeError),
        ({"message": ""}, ValueError),
    ],
)
def test_arguments_of_changes(
    store: MemoryConversationStore, kwargs: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        store.changes(**kwargs)


@pytest.mark.parametrize("message", [None, "m", "nobody"])
def test_a_cursor_that_this_store_never_gave(
    store: MemoryConversationStore, message: str | None
) -> None:
    add(store)
    with pytest.raises(HistoryGone) as caught:
        store.changes(2, message=message)
    assert str(caught.value).startswith(
        "the history of memory: after revision 2 is gone: its last revision is 1: it is not the "
        "store that gave this cursor. Read the messages afresh"
    )
    assert caught.value.since == 2


def test_whoever_subscribes_hears_of_each_commit_until_it_stops(
    store: MemoryConversationStore,
) -> None:
    heard: list[int] = []
    stop = store.subscribe(lambda: heard.append(store.cursor()))
    add(store)
    store.update_message("m", append="x")
    with pytest.raises(InvalidTransition):
        add(store, "n", status="complete")
        store.update_message("n", append="x")
    stop()
    stop()
    add(store, "o")
    assert heard == [1, 2, 3]


# -- its end


def test_a_closed_store_says_so(store: MemoryConversationStore) -> None:
    add(store)
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        store.threads,
        store.messages,
        store.changes,
        store.cursor,
        store.expire,
        store.next_deadline_us,
        store.create_thread,
        store.__enter__,
        lambda: store.get_message("m"),
        lambda: store.get_thread("t"),
        lambda: store.update_message("m"),
        lambda: store.add_message("t", "x"),
    ]
    for call in calls:
        with pytest.raises(StoreClosed, match="^the store memory: is closed; what it held ended"):
            call()


def test_a_store_from_before_a_fork_says_so(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    with pytest.raises(RuntimeError, match=r"was opened before a fork .* open_store\('memory:'\)$"):
        store.cursor()
    assert store.left_open() is None


def test_open_store_opens_it(clock: FakeClock) -> None:
    with open_store("memory:", clock=clock) as store:
        assert isinstance(store, MemoryConversationStore)
        assert store.clock is clock
    with pytest.raises(ValueError, match="a memory store has no path"):
        open_store("memory:///x")


# -- the shapes of old


def test_legacy_returns_change_what_add_message_returns_and_nothing_else(
    store: MemoryConversationStore,
) -> None:
    found = {
        shape: LegacyReturns(store, shape).add_message("t", "x", message_id=shape)  # type: ignore[arg-type]
        for shape in SHAPES
    }
    assert found["message"] == store.get_message("message")
    assert found["str"] == "str"
    assert found["dict"] == as_dict(store.get_message("dict"))
    assert found["native"] == as_dict(store.get_message("native")), "memory answers as tinydb did"
    legacy: Any = LegacyReturns(store, "dict")
    assert legacy.update_message("dict", metadata={"a": 1}) == store.get_message("dict")
    assert legacy.url == "memory:"
    assert repr(legacy) == "LegacyReturns(MemoryConversationStore('memory:'), 'dict')"
    with legacy as same:
        assert same is legacy
    with pytest.raises(StoreClosed):
        store.cursor()


def test_legacy_returns_pass_on_how_long_a_message_may_stall(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    legacy = LegacyReturns(store, "str")
    message = legacy.add_message("t", "x", status="pending", timeout=60, stall_timeout=20)
    assert store.get_message(message).deadline_at == clock.now() + timedelta(seconds=20)


def test_legacy_returns_are_entered_left_and_copied_as_their_store(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[Any] = []
    monkeypatch.setattr(MemoryConversationStore, "__exit__", lambda _, *how: left.append(how))
    legacy = LegacyReturns(store, "str")
    error = KeyError("t")
    with pytest.raises(KeyError), legacy:
        raise error
    assert left == [(KeyError, error, error.__traceback__)]
    twin = copy.copy(legacy)
    assert twin.add_message("t", "x", message_id="m") == "m"
    assert store.get_message("m").module_name == "x"
    store.close()
    with pytest.raises(StoreClosed):
        legacy.__enter__()


def test_a_legacy_dict_is_plain_json(store: MemoryConversationStore, clock: FakeClock) -> None:
    clock.advance(0.5)
    message = LegacyReturns(store, "dict").add_message(
        "t", "x", "hi", status="pending", timeout=30, metadata={"a": [1]}
    )
    assert json.loads(json.dumps(message)) == message
    assert type(message["status"]) is str
    assert message == {
        "message_id": message["message_id"],
        "thread_id": "t",
        "module_name": "x",
        "content": "hi",
        "message_type": "message",
        "status": "pending",
        "created_at": "2026-01-01T00:00:00.500000+00:00",
        "updated_at": "2026-01-01T00:00:00.500000+00:00",
        "deadline_at": "2026-01-01T00:00:30.500000+00:00",
        "error": None,
        "metadata": {"a": [1]},
        "revision": 1,
    }


@pytest.mark.parametrize(
    ("backend", "shape"),
    [("tinydb", "dict"), ("sqlite", "str"), ("memory", "dict"), ("third party", "message")],
)
def test_the_native_shape(
    store: MemoryConversationStore, monkeypatch: pytest.MonkeyPatch, backend: str, shape: str
) -> None:
    monkeypatch.setattr(MemoryConversationStore, "backend", backend)
    assert shape_of(store, "native") == shape
    with pytest.raises(ValueError, match="^no return shape 'tuple'; there are message, dict, str"):
        LegacyReturns(store, "tuple")  # type: ignore[arg-type]
