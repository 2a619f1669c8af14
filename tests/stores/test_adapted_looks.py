"""What comparing two looks at an object tells of, of one look at several threads, and of a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    MessageNotFound,
    MessagePoller,
    adapt_store,
    copy_store,
    open_store,
)
from pytest_claude_comms.stores.adapted_shapes import CannotAdapt
from pytest_claude_comms.testing import FakeClock


class Threads:
    """Threads by id, handed out as they are, or None."""

    def __init__(self, **threads: list[dict[str, Any]]) -> None:
        self.data: dict[str, Any] = {name: {"messages": each} for name, each in threads.items()}

    def get_thread(self, thread_id: str) -> Any:
        return self.data.get(thread_id)


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    clock = FakeClock()
    yield clock
    clock.close()


def pending(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "status": "pending"} for name in names]


def test_a_thread_that_is_not_there_hides_none_that_is() -> None:
    store = adapt_store(Threads(t=pending("m")), threads=["nowhere", "t"])
    assert [message.message_id for message in store.messages()] == ["m"]


def test_a_thread_without_a_time_was_created_at_the_first_look(clock: FakeClock) -> None:
    plain = Threads(t=pending("m"))
    store = adapt_store(plain, threads=["t"], clock=clock)
    first = store.get_thread("t").created_at
    clock.advance(5)
    plain.data["t"]["title"] = "named since"
    thread = store.get_thread("t")
    assert (thread.title, thread.created_at) == ("named since", first)


@pytest.mark.parametrize("called", ["title", "name", "subject", "topic"])
def test_a_title_under_any_of_its_names(called: str) -> None:
    plain = Threads(t=[])
    plain.data["t"][called] = "demo"
    assert adapt_store(plain, threads=["t"]).get_thread("t").title == "demo"


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("queued", "pending"),
        ("running", "processing"),
        ("in_progress", "processing"),
        ("completed", "complete"),
        ("done", "complete"),
        ("error", "failed"),
        ("timed_out", "timeout"),
        ("canceled", "cancelled"),
    ],
)
def test_a_status_in_other_words(word: str, status: str) -> None:
    store = adapt_store(Threads(t=[{"id": "m", "status": word}]), threads=["t"])
    assert store.get_message("m").status == status


def test_a_status_that_nobody_knows_is_said_with_its_message() -> None:
    store = adapt_store(Threads(t=[{"id": "m", "status": "answered"}]), threads=["t"])
    with pytest.raises(CannotAdapt, match="^message 'm' in Threads has the status 'answered', wh"):
        store.messages()


@pytest.mark.parametrize("unit", [1, 1_000, 1_000_000])
def test_a_time_in_seconds_and_in_their_parts(unit: int) -> None:
    plain = Threads(t=[{"id": "m", "created_at": 1_700_000_000 * unit}])
    created = adapt_store(plain, threads=["t"]).get_message("m").created_at
    assert created == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)


def test_a_change_names_its_message_and_its_thread() -> None:
    plain = Threads(t=pending("m"), u=pending("n"))
    store = adapt_store(plain, threads=["t", "u"])
    store.cursor()
    plain.data["u"]["messages"][0]["status"] = "complete"
    (change,) = store.changes(2)
    assert (change.message_id, change.thread_id) == ("n", "u")


def test_a_change_of_metadata_has_the_keys_that_differ_and_no_others() -> None:
    plain = Threads(t=[{"id": "m", "metadata": {"same": 1, "other": 1, "gone": 1}}])
    store = adapt_store(plain, threads=["t"])
    store.cursor()
    plain.data["t"]["messages"][0]["metadata"] = {"same": 1, "other": True, "new": None}
    (change,) = store.changes(1)
    assert change.metadata == {"other": True, "new": None}
    assert change.metadata["other"] is True


def test_a_deadline_that_the_object_moves_is_no_change_and_holds(clock: FakeClock) -> None:
    class Settles(Threads):
        def update_message(self, message_id: str, status: str) -> None:
            self.data["t"]["messages"][0]["status"] = status

    def at(seconds: float) -> datetime:
        return start + timedelta(seconds=seconds)

    start = clock.now()
    plain = Settles(t=[{"id": "m", "status": "pending", "deadline_at": at(50)}])
    store = adapt_store(plain, threads=["t"], clock=clock)
    assert store.cursor() == 1
    plain.data["t"]["messages"][0]["deadline_at"] = at(20)
    assert store.cursor() == 1
    deadline = store.next_deadline_us()
    assert deadline is not None
    assert datetime.fromtimestamp(deadline / 1e6, timezone.utc) == at(20)
    assert MessagePoller(store, interval=100).wait("m", timeout=200).status == "timeout"
    assert clock.elapsed == 20


@pytest.mark.parametrize(("count", "end"), [(10, "'t9'"), (12, "'t9' and 2 more")])
def test_ten_of_the_threads_that_it_looks_at_are_named(count: int, end: str) -> None:
    store = adapt_store(Threads(), threads=[f"t{number}" for number in range(count)])
    assert store.looks_at.startswith("the threads 't0', 't1', ")
    assert store.looks_at.endswith(end)
    for use in (store.get_message, partial(store.update_message, status="complete")):
        with pytest.raises(MessageNotFound) as caught:
            use("m")
        assert f" in adapted:Threads, which looks at {store.looks_at} (name others " in str(
            caught.value
        )


def test_so_many_changes_as_were_asked_for() -> None:
    store = adapt_store(Threads(t=pending("m", "n", "o")), threads=["t"])
    assert [change.revision for change in store.changes(limit=2)] == [1, 2]
    assert [change.revision for change in store.changes(1, limit=1)] == [2]


def test_a_copy_has_what_no_look_has_found_yet() -> None:
    store = adapt_store(Threads(t=pending("m")), threads=["t"])
    with open_store("memory:") as new:
        assert copy_store(store, new).messages == 1
        assert new.get_message("m").status == "pending"


# -- what is lost


def test_a_loss_that_one_look_finds_wakes_all_who_wait(clock: FakeClock) -> None:
    plain = Threads(t=pending("m"))
    store = adapt_store(plain, threads=["t"], clock=clock)
    poller = MessagePoller(store, interval=1000)
    clock.at(5, plain.data["t"]["messages"].clear)
    clock.at(6, store.cursor)
    with pytest.raises(HistoryGone, match="message 'm' vanished from it"):
        poller.wait("m", timeout=100)
    assert 6 <= clock.elapsed < 8  # a second of it is spent on asking again


def test_a_loss_names_the_first_and_counts_the_others_in_all_threads() -> None:
    plain = Threads(t=pending("c", "b"), u=pending("a", "left"))
    store = adapt_store(plain, threads=["t", "u"])
    cursor = store.cursor()
    plain.data["t"]["messages"].clear()
    del plain.data["u"]["messages"][0]
    with pytest.raises(HistoryGone, match="message 'a' and 2 more vanished from it"):
        store.changes(cursor)
    assert [message.message_id for message in store.messages()] == ["left"]


def test_a_thread_without_messages_that_is_lost_is_named() -> None:
    plain = Threads(t=[], u=[], v=[])
    store = adapt_store(plain, threads=["t", "u", "v"])
    cursor = store.cursor()
    del plain.data["u"]
    with pytest.raises(HistoryGone, match="thread 'u' vanished from it"):
        store.changes(cursor)
    assert [thread.thread_id for thread in store.threads()] == ["t", "v"]


def test_after_a_loss_the_next_cursor_is_of_use_and_none_before_it() -> None:
    plain = Threads(t=pending("m", "n"))
    store = adapt_store(plain, threads=["t"])
    before = store.cursor()
    del plain.data["t"]["messages"][0]
    for since in range(before + 1):
        with pytest.raises(HistoryGone, match="message 'm' vanished from it"):
            store.changes(since)
    assert store.cursor() == before + 1
    plain.data["t"]["messages"][0]["status"] = "complete"
    assert [change.revision for change in store.changes(before + 1)] == [before + 2]


def test_what_was_lost_and_comes_back_as_it_was_is_seen_as_new() -> None:
    plain = Threads(t=pending("m"))
    store = adapt_store(plain, threads=["t"])
    store.cursor()
    lost = plain.data.pop("t")
    assert store.messages() == []
    cursor = store.cursor()
    plain.data["t"] = lost
    (change,) = store.changes(cursor)
    assert (change.message_id, change.previous, change.status) == ("m", None, "pending")
    assert [message.message_id for message in store.messages()] == ["m"]


LOOKS: dict[str, Callable[[ConversationStore], object]] = {
    "all": lambda store: store.cursor(),
    "where it was": lambda store: store.messages("t"),
    "where it is": lambda store: store.messages("u"),
    "the message": lambda store: store.get_message("m"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_message_that_moved_has_vanished_and_is_new_where_it_is(look: str) -> None:
    plain = Threads(t=pending("m", "n"), u=[])
    store = adapt_store(plain, threads=["t", "u"])
    poller = MessagePoller(store)
    poller.track("m")
    poller.poll_once()
    plain.data["u"]["messages"].append(plain.data["t"]["messages"].pop(0))
    LOOKS[look](store)
    with pytest.raises(HistoryGone, match="message 'm' vanished from it"):
        poller.poll_once()
    assert store.get_message("m").thread_id == "u"
    assert [message.message_id for message in store.messages("t")] == ["n"]
    (change,) = store.changes(3)
    assert (change.message_id, change.thread_id, change.previous) == ("m", "u", None)


def test_a_message_that_stays_where_it_was_is_in_two_threads_whichever_is_looked_at() -> None:
    plain = Threads(t=pending("m"), u=[])
    store = adapt_store(plain, threads=["t", "u"])
    store.cursor()
    plain.data["u"]["messages"] += plain.data["t"]["messages"]
    for look in (store.cursor, partial(store.messages, "u")):
        with pytest.raises(CannotAdapt, match="'m' is in thread 't' and in thread 'u'"):
            look()
    assert [message.message_id for message in store.messages("t")] == ["m"]
