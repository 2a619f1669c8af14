"""What a store says of small things, each in a case of its own, on every store.

The long stories of ``test_same_answers.py`` meet these too, by chance and all at once.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    InvalidTransition,
    LegacyReturns,
    StoreError,
    message_id_of,
    open_store,
)
from pytest_claude_comms.stores import open_for_reading
from pytest_claude_comms.stores.keeping import KeepingStore
from pytest_claude_comms.stores.memory import MemoryConversationStore, State
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from pytest_claude_comms.testing import FakeClock, assert_no_pending, assert_status_sequence
from tests.stores.keeping_kit import every_store, file_stores

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def seconds(number: float) -> datetime:
    return START + timedelta(seconds=number)


# -- deadlines


@every_store
def test_at_the_instant_of_its_deadline_a_write_counts(
    store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", timeout=10, message_id="m")
    clock.advance(10)
    assert store.update_message("m", append="in time").status == "pending"


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "tinydb"])
def test_a_deadline_is_put_off_no_further_than_time_goes(tmp_path: Path, scheme: str) -> None:
    clock = FakeClock(datetime(9999, 12, 31, 23, 59, tzinfo=timezone.utc))
    url = "memory:" if scheme == "memory" else f"{scheme}:///{tmp_path}/store"
    with open_store(url, clock=clock) as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", stall_timeout=40, message_id="m")
        clock.advance(30)
        after = store.update_message("m", append="x")
        assert after.deadline_at == datetime.max.replace(tzinfo=timezone.utc)
        assert store.get_message("m") == after
        clock.advance(29)
        assert store.expire() == []
    clock.close()


@every_store
def test_after_its_deadline_a_write_makes_it_timeout(
    store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", timeout=10, message_id="m")
    clock.advance(10.000001)
    with pytest.raises(InvalidTransition) as caught:
        store.update_message("m", append="late")
    assert caught.value.message_id == "m"
    assert caught.value.status == "timeout"
    assert "no end within 10 s of its creation, its deadline is past" in str(caught.value)
    message = store.get_message("m")
    assert (message.status, message.content) == ("timeout", "")
    assert (message.created_at, message.updated_at) == (START, seconds(10.000001))
    assert (message.error, message.revision) == ("no end within 10 s of its creation", 2)
    assert message.deadline_at == seconds(10)
    (change,) = store.changes(1)
    assert (change.previous, change.status, change.at) == ("pending", "timeout", seconds(10.000001))
    assert (change.error, change.content, change.content_length) == (message.error, None, 0)


@every_store
def test_expire_settles_what_is_overdue_by_deadline_and_then_by_creation(
    store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    for name, timeout in (("late", 4), ("b", 3), ("a", 3), ("early", 2), ("open", 5)):
        store.add_message("t", "a", name, status="pending", timeout=timeout, message_id=name)
    store.add_message("t", "a", status="processing", stall_timeout=1, message_id="stalled")
    store.add_message("t", "a", timeout=1, message_id="complete")
    store.add_message("t", "a", status="pending", message_id="without")
    assert store.next_deadline_us() == round(seconds(1).timestamp() * 1_000_000)
    assert store.expire() == []
    clock.advance(4)
    settled = store.expire()
    assert [message.message_id for message in settled] == ["stalled", "early", "b", "a", "late"]
    assert [message.revision for message in settled] == [9, 10, 11, 12, 13]
    assert [change.message_id for change in store.changes(8)] == [
        message.message_id for message in settled
    ]
    assert settled[0].error == "nothing happened for 1 s"
    assert settled[1].error == "no end within 2 s of its creation"
    assert settled[1].content == "early"
    assert store.get_message("early") == settled[1]
    assert store.next_deadline_us() == round(seconds(5).timestamp() * 1_000_000)
    assert store.expire() == []


@every_store
def test_of_two_deadlines_the_earlier_one_is_said_and_counts(
    store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", timeout=10, stall_timeout=4, message_id="m")
    assert store.get_message("m").deadline_at == seconds(4)
    clock.advance(3)
    assert store.update_message("m", status="processing").deadline_at == seconds(7)
    clock.advance(4)
    assert store.update_message("m", append="x").deadline_at == seconds(10)
    clock.advance(3)
    (ended,) = store.expire()
    assert ended.error == "no end within 10 s of its creation"
    store.add_message("t", "a", status="pending", timeout=10, stall_timeout=4, message_id="n")
    clock.advance(4)
    (ended,) = store.expire()
    assert ended.error == "nothing happened for 4 s"


@every_store
def test_what_has_ended_stalls_no_more(store: ConversationStore, clock: FakeClock) -> None:
    store.create_thread(thread_id="t")
    for name, timeout in (("both", 10), ("stall", None)):
        store.add_message(
            "t", "a", status="pending", timeout=timeout, stall_timeout=4, message_id=name
        )
        store.update_message(name, status="complete")
    assert store.get_message("both").deadline_at == seconds(10)
    assert store.get_message("stall").deadline_at is None
    assert store.next_deadline_us() is None
    clock.advance(20)
    assert store.expire() == []
    assert store.update_message("both", metadata={"late": True}).status == "complete"


@pytest.mark.parametrize("limit", ["timeout", "stall_timeout"])
def test_the_last_deadline_there_can_be(limit: str) -> None:
    last = datetime.max.replace(tzinfo=timezone.utc)
    start = last - timedelta(days=1)
    with FakeClock(start=start) as clock, MemoryConversationStore(clock=clock) as store:
        store.create_thread(thread_id="t")
        spans: list[dict[str, Any]] = [{limit: 86_400}, {limit: 86_401}]
        message = store.add_message("t", "a", status="pending", **spans[0])
        assert message.deadline_at == last
        with pytest.raises(ValueError, match=rf"^{limit}=86401 s ends after the year 9999$"):
            store.add_message("t", "a", status="pending", **spans[1])
        assert store.messages() == [message]


# -- what a change says


@every_store
def test_a_creation_says_nothing_of_what_it_has_not(store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", message_id="bare")
    store.add_message("t", "a", "text", metadata={"k": 1}, status="pending", message_id="full")
    bare, full = store.changes()
    assert (bare.previous, bare.status, bare.append) == (None, "complete", None)
    assert (bare.content, bare.content_length, bare.error, bare.metadata) == (None, 0, None, None)
    assert (full.previous, full.status, full.append) == (None, "pending", None)
    assert (full.content, full.content_length, full.metadata) == ("text", 4, {"k": 1})


@every_store
def test_a_change_says_what_it_did(store: ConversationStore, clock: FakeClock) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", "one", status="pending", metadata={"k": 1}, message_id="m")
    clock.advance(1)
    store.update_message("m", append=" two", error="e")
    store.update_message("m", content="three", metadata={"k": True, "l": None})
    store.update_message("m", content="", status="processing")
    store.update_message("m", error=None, metadata={"k": True})
    appended, replaced, emptied, cleared = store.changes(1)
    assert (appended.append, appended.content, appended.content_length) == (" two", None, 7)
    assert (appended.previous, appended.status, appended.at) == ("pending", "pending", seconds(1))
    assert (appended.error, appended.metadata) == ("e", None)
    assert (replaced.append, replaced.content, replaced.content_length) == (None, "three", 5)
    assert repr(replaced.metadata) == "{'k': True, 'l': None}"
    assert (replaced.error, replaced.message_id, replaced.thread_id) == ("e", "m", "t")
    assert (emptied.content, emptied.content_length, emptied.append) == ("", 0, None)
    assert (emptied.previous, emptied.status) == ("pending", "processing")
    assert (cleared.error, cleared.metadata, cleared.content) == (None, None, None)


@every_store
def test_a_refused_write_says_which_message_and_what_stands(store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="processing", message_id="m")
    with pytest.raises(InvalidTransition) as caught:
        store.update_message("m", status="pending")
    found = caught.value
    assert (found.message_id, found.status, found.requested) == ("m", "processing", "pending")
    store.update_message("m", status="failed")
    with pytest.raises(InvalidTransition) as caught:
        store.update_message("m", status="failed")
    found = caught.value
    assert (found.message_id, found.status, found.requested) == ("m", "failed", "failed")


# -- order, and what is asked for


@every_store
def test_threads_and_messages_come_in_the_order_of_creation(store: ConversationStore) -> None:
    for name in "cab":
        store.create_thread(name.upper(), modules=[name, "z"], thread_id=name)
    assert [thread.thread_id for thread in store.threads()] == ["c", "a", "b"]
    assert [thread.title for thread in store.threads()] == ["C", "A", "B"]
    for name, thread, status in (
        ("z", "a", "pending"),
        ("y", "b", "complete"),
        ("x", "a", "complete"),
        ("w", "a", "pending"),
    ):
        store.add_message(thread, "m", status=status, message_id=name)
    store.update_message("z", append="it stays where it is")

    def found(thread: str | None = None, status: str | list[str] | None = None) -> str:
        return "".join(each.message_id for each in store.messages(thread, status))

    assert found() == "zyxw"
    assert found("a") == "zxw"
    assert found("a", "pending") == "zw"
    assert found(None, ["complete", "failed"]) == "yx"
    assert found("c") == found("b", "pending") == found(None, []) == ""


@every_store
def test_changes_after_a_cursor_up_to_a_limit_of_one_message(store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    for name in "ab":
        store.add_message("t", "x", status="pending", message_id=name)
    for name in "abab":
        store.update_message(name, append=name)

    def found(
        since: int, limit: int | None = None, message: str | None = None
    ) -> tuple[list[int], int]:
        changes = store.changes(since, limit=limit, message=message)
        return [change.revision for change in changes], changes.cursor

    assert found(0) == ([1, 2, 3, 4, 5, 6], 6)
    assert found(3) == ([4, 5, 6], 6)
    assert found(6) == ([], 6)
    assert found(0, 2) == ([1, 2], 2)
    assert found(2, 3) == ([3, 4, 5], 5)
    assert found(4, 2) == ([5, 6], 6)
    assert found(4, 3) == ([5, 6], 6)
    assert found(0, None, "b") == ([2, 4, 6], 6)
    assert found(2, None, "b") == ([4, 6], 6)
    assert found(0, 2, "a") == ([1, 3], 3)
    assert found(5, None, "a") == ([], 6)
    assert found(6, None, "a") == ([], 6)
    assert found(0, None, "none") == ([], 6)
    with pytest.raises(HistoryGone, match="its last revision is 6") as caught:
        found(7)
    assert (caught.value.store, caught.value.since) == (store.url, 7)


@every_store
def test_a_copy_goes_on_where_the_original_stands(store: KeepingStore, clock: FakeClock) -> None:
    for name in "tu":
        store.create_thread(thread_id=name)
    for name, thread in (("x", "t"), ("y", "u"), ("z", "t")):
        store.add_message(thread, "a", status="pending", timeout=5, message_id=name)
    store.update_message("x", append="text", status="complete")
    with MemoryConversationStore(clock=clock) as copy:
        told: list[tuple[str, int, int]] = []
        copy.restore(store.snapshot(), progress=lambda *said: told.append(said))
        assert told[-1] == ("writing", 4, 4)
        for each in (store, copy):
            assert [message.message_id for message in each.messages("t")] == ["x", "z"]
            assert each.next_deadline_us() == round(seconds(5).timestamp() * 1_000_000)
            assert each.add_message("t", "a", message_id="w").revision == 5
            assert [message.message_id for message in each.messages("t")] == ["x", "z", "w"]
            assert [change.message_id for change in each.changes(0)] == ["x", "y", "z", "x", "w"]
            assert [change.revision for change in each.changes(0, message="x")] == [1, 4]
        clock.advance(5)
        assert [message.message_id for message in copy.expire()] == ["y", "z"]


def test_a_history_with_a_gap_is_none() -> None:
    with MemoryConversationStore() as store:
        store.create_thread(thread_id="t")
        for name in "abc":
            store.add_message("t", "a", message_id=name)
        whole = store.snapshot()
    with pytest.raises(ValueError, match="^revision 3 follows 1$"):
        State().load(whole.threads, whole.messages, (whole.changes[0], whole.changes[2]), 0)


@every_store
def test_history_before_a_trimming_is_gone_but_for_what_stands(
    store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "x", status="pending", message_id="ended")
    store.add_message("t", "x", status="pending", message_id="open")
    store.update_message("ended", append="text")
    store.update_message("ended", status="complete")
    clock.advance(10)
    store.update_message("open", append="more")
    assert store.compact(keep=timedelta(seconds=10)).trimmed == 3
    assert [change.revision for change in store.changes(0, message="ended")] == [4]
    assert [change.revision for change in store.changes(0, message="open")] == [2, 5]
    assert [change.revision for change in store.changes(3)] == [4, 5]
    for since, message in ((0, None), (2, None), (1, "open"), (2, "open")):
        with pytest.raises(HistoryGone, match="changes up to revision 3 were trimmed") as caught:
            store.changes(since, message=message)
        assert (caught.value.store, caught.value.since) == (store.url, since)
    assert store.get_message("ended").content == "text"


@every_store
def test_a_thread_and_a_message_of_which_little_is_said(store: ConversationStore) -> None:
    thread = store.create_thread()
    assert (thread.title, thread.modules, thread.metadata) == ("", (), {})
    message = store.add_message(thread, "a")
    assert (message.content, message.message_type, message.status) == ("", "message", "complete")
    assert (message.deadline_at, message.error, message.metadata) == (None, None, {})
    assert store.get_thread(thread) == thread
    assert store.get_message(message) == message


@every_store
def test_each_commit_of_this_process_wakes_its_watchers(
    store: ConversationStore, clock: FakeClock
) -> None:
    woken: list[str] = []
    leave = store.subscribe(lambda: woken.append("x"))
    store.create_thread(thread_id="t")  # no message's change: nobody watches threads
    assert woken == []
    store.add_message("t", "a", status="pending", timeout=10, message_id="m")
    store.add_message("t", "a", status="pending", timeout=10, message_id="n")
    assert len(woken) == 2
    store.update_message("m", append="x")
    assert len(woken) == 3
    assert store.expire() == []
    assert len(woken) == 3
    clock.advance(11)
    with pytest.raises(InvalidTransition):
        store.update_message("m", append="late")
    assert len(woken) == 4
    assert [message.message_id for message in store.expire()] == ["n"]
    assert len(woken) == 5
    leave()
    store.update_message("n", metadata={"k": 1})
    assert len(woken) == 5


# -- what a refusal says


@pytest.mark.parametrize(
    ("name", "call", "value"),
    [
        ("title", "create_thread", 3),
        ("modules", "create_thread", 3),
        ("metadata", "create_thread", {"k": {1}}),
        ("thread_id", "create_thread", ""),
        ("module_name", "add_message", 3),
        ("content", "add_message", "\ud800"),
        ("message_type", "add_message", None),
        ("status", "add_message", "done"),
        ("timeout", "add_message", -1),
        ("timeout", "add_message", 1e12),
        ("stall_timeout", "add_message", float("nan")),
        ("stall_timeout", "add_message", 1e12),
        ("metadata", "add_message", 3),
        ("message_id", "add_message", "x" * 1_001),
        ("status", "update_message", "unknown"),
        ("content", "update_message", None),
        ("append", "update_message", b"x"),
        ("error", "update_message", 3),
        ("metadata", "update_message", {3: 4}),
        ("since", "changes", -1),
        ("limit", "changes", 0),
    ],
)
def test_an_error_names_the_argument(name: str, call: str, value: object) -> None:
    with MemoryConversationStore() as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", message_id="m")
        first: dict[str, dict[str, object]] = {
            "create_thread": {},
            "add_message": {"thread": "t", "module_name": "a"},
            "update_message": {"message": "m"},
            "changes": {},
        }
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
            getattr(store, call)(**{**first[call], name: value})
        assert store.cursor() == len(store.threads()) == 1
        assert store.get_message("m").content == ""


def test_each_store_says_what_is_no_clock(tmp_path: Path) -> None:
    for url in ("memory:", f"sqlite:///{tmp_path}/a.db", f"tinydb:///{tmp_path}/a.json"):
        with pytest.raises(TypeError, match="^clock must be a Clock, or None for real time, not 3"):
            open_store(url, clock=3)  # type: ignore[arg-type]


def test_an_assertion_says_what_is_no_store() -> None:
    name: Any = "sqlite:///comms.db"
    with pytest.raises(TypeError, match=r"^store must be an open store, not 'sqlite:///comms.db';"):
        assert_no_pending(name)
    with pytest.raises(TypeError, match=r"that is a name; open the store with open_store\(url\)$"):
        assert_status_sequence("m", "pending", store=name)


# -- opening, and what is about a store


@pytest.mark.parametrize("url", [None, b"memory:", 5])
def test_a_url_that_is_none(url: Any) -> None:
    with pytest.raises(TypeError, match="a store URL is a str, not"):
        open_store(url)


def test_a_durability_that_there_is_not() -> None:
    wrong: Any = "most"
    with pytest.raises(ValueError, match="no durability 'most'; there are .*power.*process"):
        open_store("memory:", durability=wrong)


def test_what_has_no_file_is_opened_for_reading_as_it_always_is(clock: FakeClock) -> None:
    with open_for_reading("memory:", clock=clock) as store:
        assert (store.backend, store.clock, store.threads()) == ("memory", clock, [])
    with pytest.raises(ValueError, match="nothing:x"):
        open_for_reading("nothing:x")


@every_store
def test_an_id_that_is_taken_is_not_given(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = store.create_thread()
    first = store.add_message(thread, "a")
    drawn = [bytes.fromhex(thread.thread_id), b"12345678"]
    drawn += [bytes.fromhex(message_id_of(first)), b"87654321"]
    real = os.urandom
    monkeypatch.setattr(os, "urandom", lambda size: drawn.pop(0) if size == 8 else real(size))
    with monkeypatch.context() as patch:
        patch.setattr("pytest_claude_comms.stores.sqlite_rows.new_mark", lambda: 5)
        assert store.create_thread().thread_id == b"12345678".hex()
        assert message_id_of(store.add_message(thread, "a")) == b"87654321".hex()
    assert len(store.messages()) == 2


@every_store
def test_who_comes_second_to_a_deadline_settles_nothing_and_wakes_nobody(
    store: ConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", timeout=1, message_id="m")
    clock.advance(2)
    writing = store._writing  # type: ignore[attr-defined]

    def late() -> Any:
        monkeypatch.undo()
        assert [each.message_id for each in store.expire()] == ["m"]
        woken.clear()
        return writing()

    woken: list[int] = []
    store.subscribe(lambda: woken.append(1))
    monkeypatch.setattr(store, "_writing", late)
    assert store.expire() == []
    assert woken == []
    assert store.cursor() == 2


def test_a_store_that_returns_other_shapes_can_be_copied(store: ConversationStore) -> None:
    legacy = LegacyReturns(store, "str")
    again = copy.copy(legacy)
    assert again.url == store.url
    assert type(again.add_message(again.create_thread(), "a")) is str


@every_store
def test_each_of_several_watchers_is_woken_until_it_leaves(store: ConversationStore) -> None:
    woken: list[str] = []
    leave = [store.subscribe(lambda name=name: woken.append(name)) for name in "ab"]  # type: ignore[misc]
    store.create_thread(thread_id="t")
    store.add_message("t", "a")
    assert sorted(woken) == ["a", "b"]
    leave[0]()
    leave[0]()
    store.add_message("t", "a")
    assert sorted(woken) == ["a", "b", "b"]


@file_stores
def test_a_commit_wakes_who_has_that_file_open_and_nobody_else(
    store: ConversationStore, tmp_path: Path
) -> None:
    woken: list[str] = []
    url = f"{store.backend}:///{tmp_path}/other"
    with (
        open_store(url, durability="process") as other,
        open_store(url, durability="process") as same,
    ):
        store.subscribe(lambda: woken.append("store"))
        same.subscribe(lambda: woken.append("same"))
        other.create_thread(thread_id="t")
        other.add_message("t", "a")
    assert woken == ["same"]


@every_store
def test_a_limit_is_reached_if_there_is_so_much(store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m")
    for number in range(130):
        store.update_message("m", metadata={"n": number})
    for limit, message in ((128, None), (129, "m"), (131, None), (2**70, None), (2**70, "m")):
        found = store.changes(0, limit=limit, message=message)
        assert len(found.items) == min(limit, 131)


# -- what a URL is


@pytest.mark.parametrize("name", ["a.db?mode=ro", "x/a.db?cache=shared&mode=ro"])
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_parameters_of_a_url_are_refused_and_no_file_is_made(
    scheme: str, name: str, tmp_path: Path
) -> None:
    url = f"{scheme}:///{tmp_path}/{name}"
    for opened in (open_store, open_for_reading):
        with pytest.raises(
            ValueError, match="has parameters, and a store URL takes none"
        ) as caught:
            opened(url)
        assert f": write {url.partition('?')[0]}, and the rest as arguments of" in str(caught.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "name", ["what?.db", "?", "a?b.c=d", "a?b=c/x.db", "a.db?mode", "a?b=c.db", "?b=c#d"]
)
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_a_question_mark_in_a_name_is_one(scheme: str, name: str, tmp_path: Path) -> None:
    with open_store(f"{scheme}:///{tmp_path}/{name}"):
        assert (tmp_path / name).is_file()


def test_a_file_that_is_called_so_is_opened(tmp_path: Path) -> None:
    with SQLiteConversationStore(tmp_path / "a.db?mode=ro") as store:
        store.create_thread(thread_id="t")
        with open_store(store.url) as same:
            assert same.get_thread("t").thread_id == "t"


# -- what is not installed


@pytest.mark.parametrize("opened", [open_store, open_for_reading])
def test_without_tinydb_it_says_what_to_install(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"tinydb:///{tmp_path}/comms.json"
    words = r"needs the package tinydb \(.*\): install it with `python -m pip install tinydb`$"
    for name in ("tinydb", "tinydb_tables", "tinydb_reading"):
        monkeypatch.delitem(sys.modules, f"pytest_claude_comms.stores.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "tinydb", None)
    with pytest.raises(StoreError, match=f"^'{url}' cannot be opened: .*{words}") as caught:
        opened(url)
    assert not caught.value.transient
    with pytest.raises(ModuleNotFoundError, match=words):
        importlib.import_module("pytest_claude_comms.stores.tinydb")
    assert not [*tmp_path.iterdir()]
