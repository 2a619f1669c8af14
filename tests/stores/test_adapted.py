"""Stores of the original shapes behind ``adapt_store``: followed, written, and what is lost."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    AlreadyExists,
    ConversationStore,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    MessagePoller,
    MessageStatus,
    StoreBusy,
    StoreClosed,
    StoreError,
    ThreadNotFound,
    WaitTimeout,
    adapt_store,
    ask_module,
    check_store,
    copy_store,
    message_id_of,
    open_store,
    poll_message_until_complete,
)
from pytest_claude_comms.report import describe_failure
from pytest_claude_comms.stores import adapted_reading
from pytest_claude_comms.stores.adapted_shapes import CannotAdapt
from pytest_claude_comms.testing import (
    FakeClock,
    assert_content,
    assert_no_pending,
    assert_status_sequence,
    assert_terminal,
)
from tests.stores.conftest import Python

ROOT = Path(__file__).resolve().parents[2]
ORIGINALS = {
    "tinydb": ("tinydb_store", "ConversationStore"),
    "sqlite": ("sqlite_store", "SQLiteConversationStore"),
}


def make_original(kind: str, folder: Path) -> Any:
    module, name = ORIGINALS[kind]
    made: Any = getattr(import_module(f"fixtures.original_stores.{module}"), name)
    return made(folder / f"original.{kind}")


@pytest.fixture(params=sorted(ORIGINALS))
def original(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    store = make_original(request.param, tmp_path)
    yield store
    if request.param == "tinydb":
        store.close()


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    clock = FakeClock()
    yield clock
    clock.close()


def beside(original: Any) -> Any:
    """Another object on the same file: TinyDB is not for two threads."""
    return type(original)(original.path)


class Plain:
    """The least there is: a dict of threads, handed out as it is."""

    def __init__(self, *messages: dict[str, Any], thread_id: str = "t") -> None:
        self.data: dict[str, Any] = {thread_id: {"thread_id": thread_id, "messages": [*messages]}}
        self.reads = 0

    def get_thread(self, thread_id: str) -> Any:
        self.reads += 1
        return self.data.get(thread_id)

    def message(self) -> Any:
        return self.data["t"]["messages"][0]


def adapted(*messages: dict[str, Any], **options: Any) -> tuple[Any, Plain]:
    plain = Plain(*messages)
    return adapt_store(plain, threads=["t"], **options), plain


# -- following


def test_it_is_a_conversation_store_and_returns_what_the_original_does(original: Any) -> None:
    store = adapt_store(original)
    assert isinstance(store, ConversationStore)
    thread = store.create_thread("demo", modules=["marker", "arangodb"], metadata={"a": 1})
    assert (thread.title, thread.modules, thread.metadata) == (
        "demo", ("marker", "arangodb"), {"a": 1},
    )  # fmt: skip
    answer = store.add_message(thread, "arangodb", status="pending")
    assert type(answer) is (dict if "TinyDB" in str(original.__init__.__globals__) else str)
    message = store.get_message(answer)
    assert message.message_id == message_id_of(answer)
    assert (message.module_name, message.status) == ("arangodb", "pending")
    assert store.get_thread(thread) == thread
    assert store.threads() == [thread]


def test_a_poller_follows_what_the_original_is_told(original: Any, clock: FakeClock) -> None:
    store = adapt_store(original, clock=clock)
    answer = original.add_message(
        store.create_thread("demo").thread_id, "arangodb", "", status="pending"
    )
    message_id = message_id_of(answer)
    clock.at(3, original.update_message_status, message_id, "processing")
    clock.at(5, original.update_message_status, message_id, "complete")
    tracker = MessagePoller(store).wait(answer, timeout=60)
    assert_status_sequence(tracker, "pending -> processing -> complete")
    assert_status_sequence(answer, "pending -> processing -> complete", store=store)
    assert 5 <= clock.elapsed <= 5.06  # it looks every 0.05 s
    assert [change.revision for change in tracker.history] == [1, 2, 3]


def test_in_the_background_with_callbacks_content_and_watch(original: Any) -> None:
    store = adapt_store(original)
    thread = store.create_thread("demo")
    answer = store.add_message(thread, "arangodb", status="pending")
    other = beside(original)
    told: list[Any] = []
    with MessagePoller(store, interval=0.01) as poller:
        poller.track(
            answer,
            on_content=lambda event: told.append(event.append),
            on_complete=lambda event: told.append(event.status),
        )
        store.update_message(answer, status="processing", content="Use ")
        store.update_message(answer, append="_key")
        other.update_message_status(message_id_of(answer), "complete")
        poller.wait(answer, timeout=30)
    getattr(other, "close", lambda: None)()
    assert told == ["Use ", "_key", MessageStatus.COMPLETE]
    kinds = [event.kind for event in MessagePoller(store).watch(answer, timeout=30)]
    assert kinds == ["created", "status", "content", "status"]
    assert_content(answer, "Use _key", store=store)
    assert_terminal(answer, "complete", store=store)
    assert_no_pending(store)
    assert poll_message_until_complete(store, answer).content == "Use _key"


WRITER = """
import sys
from importlib import import_module
from pathlib import Path
kind, module, name, folder, message_id = sys.argv[1:]
store = getattr(import_module(f"fixtures.original_stores.{module}"), name)(
    Path(folder) / f"original.{kind}")
for line in sys.stdin:
    store.update_message_status(message_id, line.strip())
    print(line, end="", flush=True)
"""


@pytest.mark.parametrize("kind", sorted(ORIGINALS))
def test_what_another_process_writes(kind: str, tmp_path: Path, python: Python) -> None:
    original = make_original(kind, tmp_path)
    store = adapt_store(original)
    answer = store.add_message(store.create_thread("demo"), "arangodb", status="pending")
    child = python(WRITER, kind, *ORIGINALS[kind], str(tmp_path), message_id_of(answer))
    assert child.stdin is not None
    assert child.stdout is not None
    with MessagePoller(store) as poller:
        events = poller.watch(answer, timeout=60)
        assert next(events).status == "pending"
        for status in ("processing", "complete"):
            child.stdin.write(f"{status}\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{status}\n"
            assert next(events).status == status
        assert list(events) == []
    if kind == "tinydb":
        original.close()


def test_steps_between_two_looks_are_lost_and_one_change_tells_of_all() -> None:
    store, plain = adapted({"id": "m", "status": "pending", "content": "Use "})
    poller = MessagePoller(store)
    tracker = poller.track("m")
    plain.message().update(status="processing", content="Use _key")
    plain.message().update(status="complete", content="Use _key.", error=None)
    (event,) = poller.poll_once()
    assert (event.previous, event.status, event.append) == ("pending", "complete", "_key.")
    assert event.content_length == 9
    assert tracker.statuses == ["pending", "complete"]
    assert any("steps between two looks are lost" in line for line in store.not_promised)
    assert "gap_free" not in store.capabilities


def test_all_that_is_written_by_way_of_the_adapter_is_seen() -> None:
    class Writable(Plain):
        def update_message(self, message_id: str, **fields: Any) -> None:
            self.message().update(fields)

    store = adapt_store(Writable({"id": "m", "status": "pending"}), threads=["t"])
    poller = MessagePoller(store)
    tracker = poller.track("m")
    steps: list[dict[str, Any]] = [
        {"status": "processing"},
        {"content": "a"},
        {"append": "b"},
        {"status": "failed", "error": "no"},
    ]
    for fields in steps:
        store.update_message("m", **fields)
    poller.poll_once()
    assert [c.status for c in tracker.history] == ["pending", *["processing"] * 3, "failed"]
    assert tracker.error == "no"


def test_it_looks_after_each_write_before_anybody_else_can_write(original: Any) -> None:
    store = adapt_store(original)
    answer = store.add_message(store.create_thread("demo"), "x", status="pending")
    original.update_message_status(message_id_of(answer), "processing")
    store.update_message(answer, content="text")
    original.update_message_status(message_id_of(answer), "complete")
    statuses = [(change.status.value, change.content_length) for change in store.changes()]
    assert statuses == [("pending", 0), ("processing", 0), ("processing", 4), ("complete", 4)]


def test_what_one_look_finds_wakes_all_who_wait(clock: FakeClock) -> None:
    store, plain = adapted({"id": "m", "status": "pending"}, clock=clock)
    clock.at(5, plain.message().update, status="complete")
    clock.at(6, store.cursor)
    MessagePoller(store, interval=1000).wait("m", timeout=100)
    assert clock.elapsed == 6


def test_waiting_says_what_this_store_cannot_promise_and_where_it_looks(clock: FakeClock) -> None:
    store = adapt_store(Plain({"id": "m", "status": "pending"}), clock=clock, threads=["t"])
    with pytest.raises(WaitTimeout) as caught:
        MessagePoller(store).wait("m", timeout=2)
    text = str(caught.value)
    assert re.search(
        r"\n  store +adapted:\w+, which does not promise all:\n +it has no change f", text
    )
    assert "steps between two looks are lost" in text
    assert "it looks at the threads 't'; name others with adapt_store(obj, threads=[…]) or " in text
    assert clock.elapsed == 2
    with pytest.raises(MessageNotFound, match=r"looks at the threads 't'"):
        store.get_message("other")
    page = describe_failure(store, None)
    assert "not promised: it has no change feed" in page
    assert "#1" in page


def test_its_looks_keep_no_fake_clock_alive(clock: FakeClock) -> None:
    store = adapt_store(Plain({"id": "m", "status": "pending"}), clock=clock, threads=["t"])
    with MessagePoller(store) as poller:
        poller.track("m")
        clock.run_until_idle()
        assert clock.elapsed == 0
        clock.advance(1)
        assert 20 <= poller.polls <= 25


def test_a_message_that_appears_late_in_a_thread_that_does_too() -> None:
    plain = Plain()
    store = adapt_store(plain)
    assert store.not_promised[-1].startswith("it looks at no thread yet; name others with adapt_")
    assert store.messages() == []
    with pytest.raises(
        MessageNotFound,
        match=r"looks at no thread yet \(name others with adapt_store\(obj, threads=\[…\]\) or "
        r"store\.include\(thread\)\); to wait",
    ):
        store.get_message("m")
    poller = MessagePoller(store)
    tracker = poller.track("m")
    store.include("late")
    poller.poll_once()
    assert tracker.status == "unknown"
    plain.data["late"] = {"messages": [{"message_id": "m", "status": "failed"}]}
    assert [event.kind for event in poller.poll_once()] == ["created"]
    assert tracker.status == "failed"


def test_a_thread_named_to_any_method_is_looked_at() -> None:
    ways: list[Callable[[Any], Any]] = [
        lambda s: s.get_thread("t"),
        lambda s: s.messages("t"),
        lambda s: s.messages({"thread_id": "t"}),
        lambda s: s.get_message({"message_id": "m", "thread_id": "t"}),
        lambda s: s.changes(message={"id": "m", "thread_id": "t"}),
    ]
    for name in ways:
        store = adapt_store(Plain({"id": "m"}))
        assert store.messages() == []
        name(store)
        assert [message.message_id for message in store.messages()] == ["m"]


# -- the variety of shapes


def test_names_and_values_of_all_kinds(tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"message_id": "a", "module_name": "x", "status": "Pending", "created_at": 1_700_000_000},
        {"id": "b", "module": "x", "state": "in-progress", "timestamp": 1_700_000_000.5},
        {"_id": "c", "sender": "x", "text": "hi", "timestamp": "2023-11-14T22:13:20Z"},
        {"id": 7, "role": "x", "status": MessageStatus.FAILED, "error_message": "no",
         "timestamp": "1700000000000"},
        {"id": "e", "author": "x", "content": [{"type": "text"}], "status": None,
         "created": datetime(2023, 11, 14, 22, 13, 20), "metadata": '{"k": [1]}'},
        {"id": "f", "from_module": "x", "content": "\ud800", "created_at": "yesterday",
         "metadata": {"at": datetime(2023, 1, 1), 3: None}, "type": "question"},
    ]  # fmt: skip
    store, _ = adapted(*messages, tz=timezone.utc)
    found = {message.message_id: message for message in store.messages()}
    assert [*found] == ["a", "b", "c", "7", "e", "f"]
    assert {message.module_name for message in found.values() if message.message_id != "f"} == {"x"}
    assert [m.status.value for m in found.values()] == [
        "pending", "processing", "complete", "failed", "complete", "complete",
    ]  # fmt: skip
    moment = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    for message_id in "a", "c", "7", "e":
        assert found[message_id].created_at == moment, message_id
    assert found["b"].created_at == moment + timedelta(seconds=0.5)
    assert (found["c"].content, found["7"].error) == ("hi", "no")
    assert found["e"].content == '[{"type": "text"}]'
    assert found["e"].metadata == {"k": [1]}
    assert found["f"].content == "?"
    assert found["f"].message_type == "question"
    assert set(found["f"].metadata) == {"at", "3"}
    with open_store(f"sqlite:///{tmp_path}/new.db") as new:  # all of it can be taken over
        assert copy_store(store, new).messages == 6
        assert new.messages() == store.messages()
    assert check_store(store).ok


@pytest.mark.parametrize(
    "text",
    ["2023-11-14T22:13:20.500000+00:00", "2023-11-14 22:13:20.5Z", "2023-11-14T22:13:20,500z",
     "2023-11-14T23:13:20.5000000+0100", "2023-11-14T22:13:20.5", "1700000000.5"],
)  # fmt: skip
def test_times_are_read_alike_on_every_python(text: str) -> None:
    store, _ = adapted({"id": "m", "created_at": text}, tz=timezone.utc)
    moment = datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=timezone.utc)
    assert store.get_message("m").created_at == moment


def test_a_change_has_the_time_that_the_object_gives_it_or_that_of_the_look(
    clock: FakeClock,
) -> None:
    store, plain = adapted({"id": "m", "status": "pending", "created_at": 100}, clock=clock)
    store.cursor()
    clock.advance(5)
    plain.message().update(status="processing", updated_at=150)
    store.cursor()
    plain.message().update(content="x", updated_at=150)  # the same: it says nothing of this one
    store.cursor()
    created, processing, text = (change.at for change in store.changes())
    assert (created.timestamp(), processing.timestamp()) == (100, 150)
    assert text == clock.now()
    assert store.get_message("m").updated_at == text
    plain.message().update(updated_at=160)
    assert store.cursor() == 3  # and a time alone is no change


def test_a_zone_of_this_machine_or_of_the_fake_clock(
    monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    if hasattr(time, "tzset"):
        time.tzset()
    try:
        text = "2023-11-15T07:13:20"
        here, _ = adapted({"id": "m", "created_at": text})
        local = datetime.fromisoformat(text).astimezone(timezone.utc)
        assert here.get_message("m").created_at == local
        faked, _ = adapted({"id": "m", "created_at": text}, clock=clock)
        assert faked.get_message("m").created_at.hour == 7
    finally:
        monkeypatch.undo()
        if hasattr(time, "tzset"):
            time.tzset()


@pytest.mark.parametrize(
    "messages", [{"m": {"status": "pending"}}, [{"id": "m", "status": "pending"}]]
)
@pytest.mark.parametrize("bare", [False, True])
def test_messages_by_key_and_bare_lists(messages: Any, bare: bool) -> None:
    class Odd:
        def get_thread(self, thread_id: str) -> Any:
            return messages if bare and isinstance(messages, list) else {"messages": messages}

    assert adapt_store(Odd(), threads=["t"]).get_message("m").status == "pending"


class ThreadNotFoundInTheirWords(Exception):
    pass


@pytest.mark.parametrize(
    "error",
    [None, KeyError("t"), IndexError(), ValueError("Thread t not found"),
     Exception("no such thread"), ThreadNotFoundInTheirWords("t")],
)  # fmt: skip
def test_a_thread_that_is_not_there_in_all_their_words(error: Exception | None) -> None:
    class Nowhere:
        def get_thread(self, thread_id: str) -> None:
            if error is not None:
                raise error

    store = adapt_store(Nowhere(), threads=["t"])
    assert (store.messages(), store.cursor()) == ([], 0)
    with pytest.raises(ThreadNotFound):
        store.get_thread("t")
    assert MessagePoller(store).track("m").status == "unknown"


@pytest.mark.parametrize(
    "listed",
    [["t"], ("t",), [{"id": "t"}], [{"thread_id": "t"}], {"t": {}}, {"threads": ["t"]}],
)  # fmt: skip
@pytest.mark.parametrize(
    "name", ["list_threads", "get_threads", "get_all_threads", "all_threads", "threads"]
)
def test_an_object_that_can_list_its_threads(listed: Any, name: str) -> None:
    class Lists(Plain):
        pass

    limits = []

    def listing(self: Any, limit: int = 1) -> Any:
        limits.append(limit)
        return listed

    setattr(Lists, name, listing)
    store = adapt_store(Lists({"id": "m"}))
    assert [message.message_id for message in store.messages()] == ["m"]
    assert min(limits) > 1_000_000  # not only the first page
    assert store.not_promised[-1].startswith(f"it looks at all threads that {name}() lists")
    assert adapt_store(Lists({"id": "m"}), threads=[]).messages() == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"title": "x"}, r"without 'messages' \(its keys: 'title'\)"),
        ({"messages": "m"}, "not a list of dicts"),
        ({"messages": ["m"]}, "is 'm', not a dict"),
        ({"messages": [{"content": "x"}]}, "has no id"),
        ({"messages": [{"id": "m", "status": "answered"}]}, r"statuses=\{'answered': 'complete'\}"),
        ({"messages": [{"id": "m", "status": "unknown"}]}, "has the status 'unknown'"),
        ({"messages": [{"id": "m", "status": 3}]}, "has the status 3"),
    ],
)
def test_what_is_no_thread_is_said_and_not_retried(answer: Any, words: str) -> None:
    plain = Plain()
    store = adapt_store(plain, threads=["t"])
    plain.data["t"] = answer
    with pytest.raises(CannotAdapt, match=words):
        MessagePoller(store).wait("m", timeout=5)
    assert plain.reads == 1


def test_words_of_ones_own_for_a_status() -> None:
    message = {"id": "m", "status": "answered"}
    store, _ = adapted(message, statuses={"answered": "complete"})
    assert store.get_message("m").status == "complete"
    with pytest.raises(ValueError, match="'fine' cannot be stored"):
        adapted(message, statuses={"answered": "fine"})


def test_other_ways_to_be_no_store() -> None:
    class Nothing:
        pass

    class Async:
        async def get_thread(self, thread_id: str) -> Any: ...

    things: list[Any] = [Nothing(), Plain, None, {"messages": []}]
    for wrong in things:
        with pytest.raises(TypeError, match=r"object with get_thread\(thread_id\)"):
            adapt_store(wrong)
    with open_store("memory:") as ours, pytest.raises(TypeError, match="use it as it is"):
        adapt_store(ours)
    with pytest.raises(TypeError, match="threads must be a list"):
        adapt_store(Plain(), threads="t")
    with pytest.raises(CannotAdapt, match="is asynchronous"):
        adapt_store(Async(), threads=["t"]).messages()
    with pytest.raises(TypeError, match=r"adapt_store\(obj\)"):
        MessagePoller(Plain())  # type: ignore[arg-type]


def test_an_id_in_two_threads() -> None:
    plain = Plain({"id": 1})
    plain.data["u"] = {"messages": [{"id": 1}]}
    with pytest.raises(CannotAdapt, match="'1' is in thread 't' and in thread 'u'"):
        adapt_store(plain, threads=["t", "u"]).messages()
    store = adapt_store(plain, threads=["t"])
    assert len(store.messages()) == 1
    with pytest.raises(CannotAdapt, match="'1' is in thread 't' and in thread 'u'"):
        store.messages("u")


def test_a_number_and_its_text_are_no_two_ids() -> None:
    store, plain = adapted({"id": 1, "content": "a"}, {"id": "1", "content": "b"})
    for _ in range(2):
        with pytest.raises(CannotAdapt, match="a message 1 and another '1': here an id is a str"):
            store.messages()
    plain.message()["id"] = "1"
    assert [message.content for message in store.messages()] == ["b"]  # the last of what is twice


def deep(value: object) -> object:
    for _ in range(20_000):
        value = [value]
    return value


def in_itself() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


@pytest.mark.parametrize("field", ["content", "metadata", "error", "module"])
@pytest.mark.parametrize("value", [deep(1), in_itself(), [10**5_000]], ids=["deep", "self", "long"])
def test_a_value_of_which_no_text_can_be_made(field: str, value: object) -> None:
    if value == [10**5_000] and not _has_a_limit():
        pytest.skip("this Python prints an int of any length")
    store, plain = adapted({"id": "m", "status": "pending", field: value})
    with pytest.raises(CannotAdapt, match="message 'm' of thread 't' in Plain has a value of wh"):
        MessagePoller(store).wait("m", timeout=5)
    plain.message()[field] = None
    plain.data["t"]["title"] = value
    with pytest.raises(CannotAdapt, match=r"get_thread\('t'\) returned a title, modules or metad"):
        store.messages()
    plain.data["t"]["title"] = None
    assert [message.message_id for message in store.messages()] == ["m"]


def _has_a_limit() -> bool:
    try:
        str(10**5_000)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize(
    "name", ["x" * 1_001, "a\ud800", 10**1_001], ids=["long", "surrogate", "number"]
)
def test_an_id_that_nobody_could_ask_for(name: Any) -> None:
    store, _ = adapted({"id": name})
    with pytest.raises(CannotAdapt, match="the id of a message of thread 't' in Plain (may|has)"):
        store.messages()
    plain = Plain({"id": "m"})
    plain.list_threads = lambda: [name]  # type: ignore[attr-defined]
    with pytest.raises(CannotAdapt, match=r"list_threads\(\) lists"):
        adapt_store(plain).messages()


# -- trouble


class Torn(Plain):
    """Its file is being rewritten while it is read, a few times, or for ever."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__({"id": "m", "status": "pending"})
        self.error, self.times = error, times

    def get_thread(self, thread_id: str) -> Any:
        if self.times:
            self.times -= 1
            raise self.error
        return super().get_thread(thread_id)


def torn_json() -> Exception:
    try:
        json.loads('{"messages": [')
    except ValueError as error:
        return error
    raise AssertionError


def locked() -> Exception:
    import sqlite3

    return sqlite3.OperationalError("database is locked")


@pytest.mark.parametrize(
    "make", [torn_json, locked, EOFError, lambda: PermissionError(13, "in use"),
             lambda: RuntimeError("dictionary changed size during iteration")]
)  # fmt: skip
def test_an_object_that_is_being_rewritten_is_asked_again(
    make: Callable[[], Exception], clock: FakeClock
) -> None:
    store = adapt_store(Torn(make(), 3), threads=["t"], clock=clock)
    assert store.get_message("m").status == "pending"


def test_a_poller_goes_on_after_trouble_that_lasts_longer_than_a_look(clock: FakeClock) -> None:
    torn = Torn(torn_json(), 0)
    store = adapt_store(torn, threads=["t"], clock=clock)
    poller = MessagePoller(store)
    tracker = poller.track("m")
    torn.times = 10**9
    clock.at(2, setattr, torn, "times", 0)
    clock.at(2, torn.message().update, status="complete")
    poller.wait("m", timeout=59)
    assert tracker.status == "complete"
    assert 2 <= clock.elapsed < 4


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [(torn_json, StoreError, "could not be read for 1 s: JSONDecodeError"),
     (locked, StoreBusy, "was busy for 1 s:"),
     (lambda: OSError("the file is busy"), StoreBusy, "was busy for 1 s:")],
)  # fmt: skip
def test_trouble_without_an_end(make: Any, kind: Any, words: str) -> None:
    with FakeClock() as clock:
        store = adapt_store(Torn(make(), 10**9), clock=clock, threads=["t"])
        with pytest.raises(kind, match=words) as caught:
            store.messages()
        assert 1 <= clock.elapsed < 1.1  # the last pause may end a little later
    assert caught.value.transient


def test_an_error_of_theirs_that_does_not_pass_is_passed_on_at_once() -> None:
    torn = Torn(AttributeError("no cursor"), 10)
    with pytest.raises(CannotAdapt, match=r"Torn.get_thread\('t'\) raised AttributeError: no cur"):
        adapt_store(torn, threads=["t"]).messages()
    assert torn.times == 9


def test_real_rewriting_of_a_json_file_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "store.json"

    class Careless:
        """Truncates its file, then writes it, as many do."""

        def get_thread(self, thread_id: str) -> Any:
            return json.loads(path.read_text(encoding="utf-8"))[thread_id]

        def put(self, number: int, status: str) -> None:
            message = {"id": "m", "status": status, "content": "x" * number}
            path.write_text(json.dumps({"t": {"messages": [message]}}), encoding="utf-8")

    careless = Careless()
    careless.put(0, "processing")
    store = adapt_store(careless, threads=["t"])
    ended = threading.Event()

    def write() -> None:
        for number in range(300):
            careless.put(number, "processing")
        careless.put(300, "complete")
        ended.set()

    thread = threading.Thread(target=write)
    with MessagePoller(store, interval=0.001) as poller:
        thread.start()
        tracker = poller.wait("m", timeout=60)
    thread.join()
    assert ended.is_set()
    lengths = [change.content_length for change in tracker.history]
    assert lengths == sorted(lengths)
    assert tracker.statuses == ["processing", "complete"]


def test_what_vanishes_is_history_gone_and_never_silence(clock: FakeClock) -> None:
    plain = Plain({"id": "m", "status": "pending"}, {"id": "n", "status": "pending"})
    store = adapt_store(plain, threads=["t"], clock=clock)
    poller = MessagePoller(store)
    poller.track("m")
    poller.poll_once()
    clock.at(1, plain.data["t"]["messages"].pop, 0)
    with pytest.raises(HistoryGone, match="message 'm' vanished from it") as caught:
        poller.wait("m", timeout=30)
    assert caught.value.since == 2
    with pytest.raises(MessageNotFound):
        store.get_message("m")
    # And what the error says is what helps: read afresh, watch from the cursor.
    assert [message.message_id for message in store.messages()] == ["n"]
    fresh = MessagePoller(store, since=store.cursor())
    tracker = fresh.track("n")
    assert tracker.status == "pending"
    plain.message().update(status="complete")
    assert [event.status for event in fresh.poll_once()] == ["complete"]
    del plain.data["t"]
    with pytest.raises(HistoryGone, match="vanished"):
        fresh.poll_once()
    assert store.threads() == []


def test_a_thread_that_is_no_longer_listed() -> None:
    class Lists(Plain):
        def list_threads(self) -> list[str]:
            return [*self.data]

    plain = Lists({"id": "m", "status": "pending"})
    store = adapt_store(plain)
    cursor = store.cursor()
    del plain.data["t"]
    with pytest.raises(HistoryGone, match="message 'm' vanished from it"):
        store.changes(cursor)


def test_what_seems_to_vanish_while_it_is_rewritten_does_not() -> None:
    class Flickers(Plain):
        def get_thread(self, thread_id: str) -> Any:
            found = super().get_thread(thread_id)
            return {"messages": []} if self.reads in (2, 3) else found

    store = adapt_store(Flickers({"id": "m"}), threads=["t"])
    assert store.cursor() == 1
    assert [change.revision for change in store.changes(0)] == [1]


# -- writing


def test_what_the_object_has_no_method_for() -> None:
    store, _ = adapted({"id": "m", "status": "pending"})
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: store.update_message("m", status="complete"), "no method update_message or"),
        (lambda: store.add_message("t", "x"), "no method add_message;"),
        (lambda: store.create_thread("t"), "no method create_thread or"),
    ]
    for call, name in calls:
        with pytest.raises(CannotAdapt, match=f"on an adapted Plain: it has {name}"):
            call()
    with pytest.raises(CannotAdapt, match="nothing can be copied into"), open_store("memory:") as s:
        copy_store(s, adapt_store(Plain(), threads=[]))
    assert store.next_deadline_us() is None
    assert store.expire() == []


def test_what_its_methods_have_no_parameter_for(tmp_path: Path) -> None:
    tiny = adapt_store(make_original("tinydb", tmp_path))
    thread = tiny.create_thread("demo")
    with pytest.raises(CannotAdapt, match=r"add_message\(\) takes no timeout"):
        tiny.add_message(thread, "x", timeout=3)
    with pytest.raises(CannotAdapt, match=r"create_thread\(\) takes no thread_id"):
        tiny.create_thread("demo", thread_id="mine")
    answer = tiny.add_message(thread, "x", status="pending")
    with pytest.raises(CannotAdapt, match=r"update_message_status\(\) takes no metadata"):
        tiny.update_message(answer, metadata={"a": 1})
    with pytest.raises(CannotAdapt, match=r"update_message\(status=, metadata=\) cannot be done"):
        tiny.update_message(answer, status="complete", metadata={"a": 1})
    assert len(tiny.changes()) == 1
    tiny.original.close()


def test_rules_hold_for_what_is_written_by_way_of_the_adapter(original: Any) -> None:
    store: Any = adapt_store(original)
    thread = store.create_thread("demo")
    answer = store.add_message(thread, "x", status="processing")
    assert store.update_message(answer, status="processing").revision == 1  # no change
    with pytest.raises(InvalidTransition):
        store.update_message(answer, status="pending")
    store.update_message(answer, status="complete", content="done")
    with pytest.raises(InvalidTransition, match="complete is final"):
        store.update_message(answer, status="failed")
    calls: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: store.update_message(answer, content="a", append="b"), ValueError),
        (lambda: store.update_message("nobody", status="failed"), MessageNotFound),
        (lambda: store.add_message("nowhere", "x"), ThreadNotFound),
        (lambda: store.add_message(thread, "x", status="done"), ValueError),
        (lambda: store.add_message(thread, 3), TypeError),
        (lambda: store.create_thread(metadata={"a": b""}), TypeError),
    ]
    for call, error in calls:
        with pytest.raises(error):
            call()
    assert len(store.changes()) == 2
    # Behind its back nothing holds, and it says so; but it tells what it sees.
    original.update_message_status(message_id_of(answer), "pending")
    assert store.get_message(answer).status == "pending"
    assert any("what has ended" in line for line in store.not_promised)


def test_ids_that_can_be_chosen_are_taken_once_and_numbers_stay_numbers() -> None:
    class Numbered(Plain):
        def create_thread(self, title: str, /, *, thread_id: str) -> None:
            self.data[thread_id] = {"title": title, "messages": {}}

        def add_message(self, thread_id: str, sender: str, message: str) -> int:
            number = len(self.data[thread_id]["messages"])
            self.data[thread_id]["messages"][number] = {"sender": sender, "body": message}
            return number

        def update_message(self, message: int, updates: dict[str, Any]) -> None:
            self.data["mine"]["messages"][message].update(updates)

    store = adapt_store(Numbered(), threads=[])
    assert store.create_thread("x", thread_id="mine").title == "x"
    with pytest.raises(AlreadyExists):
        store.create_thread("x", thread_id="mine")
    assert store.add_message("mine", "me", "hi") == "0"
    with pytest.raises(CannotAdapt, match="takes no status"):
        store.add_message("mine", "me", "hi", status="pending")
    assert store.get_message("0").content == "hi"
    with pytest.raises(InvalidTransition):
        store.update_message("0", content="ho")
    assert store.update_message("0", metadata={"a": 1}).metadata == {"a": 1}


def test_an_error_while_writing_may_have_done_it() -> None:
    class Breaks(Plain):
        def update_message(self, message_id: str, status: str) -> None:
            raise OSError(28, "No space left on device")

    store = adapt_store(Breaks({"id": "m", "status": "pending"}), threads=["t"])
    with pytest.raises(
        StoreError, match=r"Breaks.update_message\(\) raised OSError.*No space"
    ) as e:
        store.update_message("m", status="complete")
    assert e.value.outcome == "unknown"


class Shuts(Plain):
    """After each write it cannot be read, with this error, as long as that is set."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        super().__init__(*messages)
        self.error: Exception | None = None
        self.calls = 0
        self.shut = False

    def get_thread(self, thread_id: str) -> Any:
        if self.shut and self.error is not None:
            raise self.error
        return super().get_thread(thread_id)

    def create_thread(self, title: str) -> str:
        self.data["new"] = {"title": title, "messages": []}
        return self.wrote("new")

    def add_message(self, thread_id: str, module: str, content: str) -> str:
        self.data[thread_id]["messages"].append({"id": "new", "content": content})
        return self.wrote("new")

    def update_message(self, message_id: str, **fields: Any) -> str:
        self.message().update(fields)
        return self.wrote(message_id)

    def wrote(self, found: str) -> str:
        self.calls += 1
        self.shut = True
        return found


WRITES: dict[str, Callable[[Any], object]] = {
    "create_thread": lambda store: store.create_thread("x"),
    "add_message": lambda store: store.add_message("t", "x", "text"),
    "update_message": lambda store: store.update_message("m", append=" more"),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (locked(), StoreError, r"could not be read \(busy for \S+ s\): look before you ask for it"),
        (AttributeError("no cursor"), CannotAdapt, r"could not be read \(.*: no cursor\): look be"),
    ],
)
def test_a_look_that_fails_after_a_write_never_says_that_nothing_was_done(
    name: str,
    error: Exception,
    kind: type[StoreError],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapted_reading, "REREAD_TIMEOUT", 0.01)
    shuts = Shuts({"id": "m", "status": "pending", "content": "text"})
    store = adapt_store(shuts, threads=["t"])
    shuts.error = error
    call = rf"^Shuts.{name}\(\) has been called and has returned, but what it did {words}"
    with pytest.raises(StoreError, match=call) as caught:
        WRITES[name](store)
    assert type(caught.value) is kind
    assert caught.value.outcome == "unknown"
    assert caught.value.__cause__ is not None
    assert shuts.calls == 1
    with pytest.raises(StoreError) as before:
        store.update_message("m", append=" more")
    assert (before.value.outcome, shuts.calls) == ("not done", 1)
    shuts.error = None
    wrote = {"update_message": "text more"}.get(name, "text")
    assert store.get_message("m").content == wrote
    assert len(store.threads()) == (2 if name == "create_thread" else 1)


def test_a_deadline_is_written_once_even_if_it_cannot_be_read_then(clock: FakeClock) -> None:
    shuts = Shuts({"id": "m", "status": "pending", "deadline_at": clock.now() + timedelta(1)})
    store = adapt_store(shuts, threads=["t"], clock=clock)
    store.cursor()
    clock.advance(100_000)
    shuts.error = AttributeError("no cursor")
    with pytest.raises(CannotAdapt, match=r"update_message\(\) has been called") as caught:
        store.expire()
    assert (caught.value.outcome, shuts.calls) == ("unknown", 1)


def test_deadlines_as_far_as_the_object_keeps_them(tmp_path: Path, clock: FakeClock) -> None:
    original = make_original("sqlite", tmp_path)
    store = adapt_store(original, clock=clock)
    thread = store.create_thread("demo")
    late = (clock.now() + timedelta(seconds=10)).timestamp()
    answer = original.add_message(thread.thread_id, "x", "", status="pending", deadline=late)
    other = original.add_message(thread.thread_id, "x", "", status="pending", deadline=late)
    assert store.get_message(answer).deadline_at == clock.now() + timedelta(seconds=10)
    tracker = MessagePoller(store).wait(answer, timeout=60)
    assert (tracker.status, clock.elapsed) == ("timeout", 10)
    assert original.get_thread(thread.thread_id)["messages"][0]["status"] == "timeout"
    assert "no end within" in str(tracker.error)
    assert store.get_message(other).status == "timeout"
    third = original.add_message(thread.thread_id, "x", "", status="pending", deadline=late)
    clock.advance(1)  # at the very instant a write still counts
    with pytest.raises(InvalidTransition, match="its deadline is past"):
        store.update_message(third, status="complete")


def test_an_object_that_will_not_time_out_stops_the_poller_with_the_reason() -> None:
    class Deaf(Plain):
        def update_message_status(self, message_id: str, status: str) -> None:
            pass

    store = adapt_store(Deaf({"id": "m", "status": "pending", "deadline_at": 5}), threads=["t"])
    with pytest.raises(
        CannotAdapt, match="was told that message 'm' is timeout, and it still is"
    ) as caught:
        MessagePoller(store).wait("m", timeout=30)
    assert caught.value.outcome == "unknown"


def test_ask_module_writes_by_way_of_the_adapter(tmp_path: Path, claude: Any) -> None:
    class Whole(Plain):
        def create_thread(self, title: str, modules: list[str]) -> str:
            self.data["new"] = {"title": title, "modules": modules, "messages": []}
            return "new"

        def add_message(self, thread_id: str, module_name: str, content: str, **more: Any) -> Any:
            message = {
                "message_id": f"m{len(self.data['new']['messages'])}",
                "module": module_name,
                "content": content,
            }
            message.update({k: v for k, v in more.items() if v is not None})
            self.data[thread_id]["messages"].append(message)
            return message

        def update_message(self, message_id: str, **fields: Any) -> bool:
            for message in self.data["new"]["messages"]:
                if message["message_id"] == message_id:
                    message.update(fields)
            return True

    claude.replies("Use _key")
    store = adapt_store(Whole())
    reply = ask_module(store, "marker", tmp_path, "Which fields?")
    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
    assert_status_sequence(reply.answer, "pending -> processing -> complete", store=store)


# -- its life, and what it costs


def test_closing_it_leaves_the_original_open(original: Any) -> None:
    with adapt_store(original) as store:
        thread = store.create_thread("demo")
    with pytest.raises(StoreClosed):
        store.messages()
    with pytest.raises(StoreClosed):
        store.create_thread("demo")
    assert original.get_thread(thread.thread_id) is not None


def test_what_it_remembers_can_be_trimmed() -> None:
    store, plain = adapted({"id": "m", "status": "pending"}, {"id": "n", "status": "complete"})
    store.cursor()
    for number in range(5):
        plain.message()["content"] = "x" * number
        store.cursor()
    plain.message()["status"] = "complete"
    report = store.compact(keep=1)
    assert store.cursor() == 7
    assert (report.trimmed, report.removed, report.bytes_before) == (6, 5, None)
    for since in (0, 1):
        with pytest.raises(HistoryGone, match="were trimmed"):
            store.changes(since)
    assert [c.revision for c in store.changes(6)] == [7]


def test_another_adapter_is_another_store() -> None:
    plain = Plain({"id": "m"})
    one, other = adapt_store(plain, threads=["t"]), adapt_store(plain, threads=["t"])
    assert one.store_id != other.store_id
    assert one.url == other.url == "adapted:Plain"
    with pytest.raises(HistoryGone, match="not the store that gave this cursor"):
        MessagePoller(other, since=one.cursor() + 5)
    assert "Plain" in repr(one)


def test_a_look_compares_each_message_once_and_a_read_only_the_threads_it_is_about() -> None:
    class Counted(dict[str, Any]):
        looks = 0

        def get(self, *args: Any) -> Any:
            Counted.looks += args[0] == "status"
            return super().get(*args)

    plain = Plain(*(Counted(id=f"m{n}", status="pending") for n in range(200)))
    plain.data["u"] = {"messages": [Counted(id="other")]}
    store = adapt_store(plain, threads=["t", "u"])
    poller = MessagePoller(store)
    Counted.looks = 0
    poller.poll_once()
    assert Counted.looks <= 2 * 201  # once for its status, once to compare at most
    Counted.looks, plain.reads = 0, 0
    store.get_message("other")
    assert (plain.reads, Counted.looks <= 2) == (1, True)


def test_several_threads_may_use_it() -> None:
    store, plain = adapted(*({"id": f"m{n}", "status": "pending"} for n in range(20)))
    errors: list[BaseException] = []

    def use(number: int) -> None:
        try:
            for turn in range(20):
                plain.data["t"]["messages"][number]["content"] = "x" * turn
                store.cursor()
                store.messages()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    revisions = [change.revision for change in store.changes()]
    assert revisions == list(range(1, len(revisions) + 1))


# -- odd answers, and errors that are ours


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (5, r"Odd.create_thread\(\) returned 5, which has no thread id"),
        ("elsewhere", "returned 'elsewhere', of which its get_thread.. knows nothing"),
    ],
)
def test_a_thread_that_was_made_and_cannot_be_told_which(answer: Any, words: str) -> None:
    class Odd(Plain):
        def create_thread(self, title: str = "") -> Any:
            return answer

    with pytest.raises(CannotAdapt, match=words) as caught:
        adapt_store(Odd(), threads=[]).create_thread("x")
    assert caught.value.outcome == "unknown"


def test_a_message_id_that_is_taken_is_refused_before_the_object_is_told() -> None:
    class Chosen(Plain):
        def add_message(self, thread_id: str, module: str, content: str, message_id: str) -> str:
            self.data[thread_id]["messages"].append({"id": message_id, "content": content})
            return message_id

    plain = Chosen({"id": "m", "content": "first"})
    store = adapt_store(plain, threads=["t"])
    with pytest.raises(AlreadyExists, match="'m'"):
        store.add_message("t", "a", "second", message_id="m")
    assert plain.message()["content"] == "first"
    assert store.add_message("t", "a", "second", message_id="n") == "n"
    with pytest.raises(CannotAdapt, match=r"add_message\(\) asks for message_id"):
        store.add_message("t", "a", "third")


def test_nothing_overdue_wakes_nobody(clock: FakeClock) -> None:
    class Settles(Plain):
        def update_message(self, message_id: str, status: str) -> None:
            self.message()["status"] = status

    message = {"id": "m", "status": "pending", "deadline_at": "2026-01-01T00:00:05+00:00"}
    store = adapt_store(Settles(message), threads=["t"], clock=clock)
    store.messages()
    woken: list[int] = []
    store.subscribe(lambda: woken.append(1))
    assert store.expire() == []
    assert woken == []
    clock.advance(6)
    assert [each.status for each in store.expire()] == ["timeout"]
    assert woken


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreBusy("/theirs.db", 1.0), StoreBusy),
        (StoreClosed("theirs:"), CannotAdapt),
    ],
)
def test_an_object_that_raises_our_own_errors_while_it_is_read(
    clock: FakeClock, error: StoreError, expected: type[StoreError]
) -> None:
    class Ours(Plain):
        def get_thread(self, thread_id: str) -> Any:
            self.reads += 1
            raise error

    plain = Ours()
    with pytest.raises(expected) as caught:
        adapt_store(plain, threads=["t"], clock=clock).messages()
    assert (caught.value is error) is (expected is StoreBusy), "asked again, then as it is"
    assert (plain.reads > 1) is error.transient


def test_an_object_that_raises_our_own_errors_while_it_is_written() -> None:
    error = StoreBusy("/theirs.db", 1.0)

    class Ours(Plain):
        def update_message(self, message_id: str, status: str) -> None:
            raise error

    store = adapt_store(Ours({"id": "m", "status": "pending"}), threads=["t"])
    with pytest.raises(StoreBusy) as caught:
        store.update_message("m", status="complete")
    assert caught.value is error


def test_what_can_be_awaited_is_no_answer() -> None:
    class Awaitable:
        def __await__(self) -> Iterator[None]:
            yield

    class Async(Plain):
        def get_thread(self, thread_id: str) -> Any:
            return Awaitable()

    with pytest.raises(CannotAdapt, match=r"^Async.get_thread\('t'\) is asynchronous"):
        adapt_store(Async(), threads=["t"]).messages()


def test_what_a_write_answers_to_be_awaited_may_have_been_done() -> None:
    class Async(Plain):
        async def update_message(self, message_id: str, status: str) -> None: ...

    store = adapt_store(Async({"id": "m", "status": "pending"}), threads=["t"])
    with pytest.raises(CannotAdapt, match=r"^Async.update_message\(\) is asynchronous") as caught:
        store.update_message("m", status="complete")
    assert caught.value.outcome == "unknown"


def test_a_method_without_a_signature_is_taken_at_its_word() -> None:
    class Written(Plain):
        pass

    calls: list[dict[str, Any]] = []

    class Opaque:
        """As a method that is written in C may be."""

        __signature__ = "none"

        def __call__(self, **given: Any) -> None:
            calls.append(given)
            plain.message().update(given)

    plain = Written({"id": "m", "status": "pending"})
    plain.update_message = Opaque()  # type: ignore[attr-defined]
    store = adapt_store(plain, threads=["t"])
    assert store.update_message("m", status="complete").status == "complete"
    assert calls == [{"status": "complete", "message_id": "m"}]


def test_what_a_look_can_tell_of_texts_and_keys() -> None:
    store, plain = adapted({"id": "m", "status": "pending", "content": "abc", "metadata": {"k": 1}})
    store.messages()
    plain.message()["content"] = "abcd"
    plain.message()["content"] = "xyz"
    (change,) = store.changes(1)
    assert (change.append, change.content, change.content_length) == (None, "xyz", 3)
    plain.message()["metadata"] = {}
    assert store.get_message("m").metadata == {}, "a key that went is no change, and is seen"
    assert store.cursor() == 2
    plain.message()["metadata"] = {"k": True}
    (change,) = store.changes(2)
    assert change.metadata == {"k": True}


class Moving(list[Any]):
    """Messages that another thread adds to while they are read, so often."""

    def __init__(self, times: int) -> None:
        super().__init__([{"id": "m"}])
        self.times = times

    def __iter__(self) -> Iterator[Any]:
        if self.times:
            self.times -= 1
            raise RuntimeError("dictionary changed size during iteration")
        return super().__iter__()


def test_messages_that_are_added_to_while_they_are_read(clock: FakeClock) -> None:
    plain = Plain()
    plain.data["t"]["messages"] = Moving(2)
    store = adapt_store(plain, threads=["t"], clock=clock)
    assert [each.message_id for each in store.messages()] == ["m"]
    assert plain.reads == 3

    class Broken(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise RuntimeError("it is broken")

    plain.data["t"]["messages"] = Broken([{"id": "m"}])
    with pytest.raises(RuntimeError, match="it is broken"):
        store.messages()


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("t", r"returned 't', not a list of threads; name the threads to look at"),
        (5, "returned 5, not a list of threads"),
        ([{"title": "x"}], "lists .*, which has no thread id"),
        ([""], "lists '', which has no thread id"),
        ([7], "lists 7, which has no thread id"),
    ],
)
def test_a_list_of_threads_that_is_none(listed: Any, words: str) -> None:
    class Lists(Plain):
        def list_threads(self) -> Any:
            return listed

    with pytest.raises(CannotAdapt, match=words):
        adapt_store(Lists()).threads()


@pytest.mark.parametrize("error", [None, KeyError("threads")])
def test_an_object_that_has_no_thread_to_list_yet(error: Exception | None) -> None:
    class Lists(Plain):
        def list_threads(self) -> Any:
            if error is not None:
                raise error

    assert adapt_store(Lists()).threads() == []


@pytest.mark.parametrize(
    ("given", "modules"),
    [
        ('["a", "b"]', ("a", "b")),
        ("marker", ("marker",)),
        ({"b", "a"}, ("a", "b")),
        (("a", 5), ("a", "5")),
        (7, ()),
    ],
)
def test_modules_of_all_kinds(given: Any, modules: tuple[str, ...]) -> None:
    plain = Plain()
    plain.data["t"]["modules"] = given
    plain.data["t"]["messages"] = None
    (thread,) = adapt_store(plain, threads=["t"]).threads()
    assert thread.modules == modules


@pytest.mark.parametrize(
    ("given", "metadata"),
    [
        ('{"a": 1}', {"a": 1}),
        ("a note", {"metadata": "a note"}),
        ("", {"metadata": ""}),
        ("null", {}),
        ([1], {"metadata": [1]}),
    ],
)
def test_metadata_of_all_kinds(given: Any, metadata: dict[str, Any]) -> None:
    plain = Plain({"id": "m", "metadata": given, "created_at": [2026]})
    store = adapt_store(plain, threads=["t"])
    assert store.get_message("m").metadata == metadata
