"""Contracts of messages: what is kept, how they are found, what an update does."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from functools import partial
from typing import Any

from ...errors import AlreadyExists, MessageNotFound
from ...records import Message
from .bench import Bench
from .checks import equal, refused, same_json
from .contract import Contracts

GROUP = Contracts("messages")
contract = GROUP.contract


@contract(1)
def a_message_comes_back_as_it_was_added(bench: Bench) -> None:
    """A new Message has every field that it was given, and get_message returns the same."""
    thread = bench.thread()
    message = bench.store.add_message(
        thread, "arangodb", "hi", message_type="answer", status="processing", metadata={"k": (1,)}
    )
    equal(type(message), Message, "the type of what add_message returns")
    told = {field.name: getattr(message, field.name) for field in fields(message)}
    told = {name: told[name] for name in _GIVEN}
    equal(told, {**_GIVEN, "thread_id": thread.thread_id}, "its fields")
    same_json(dict(message.metadata), {"k": [1]}, "its metadata")
    equal(bench.store.get_message(message.message_id), message, "what get_message returns")
    equal(bench.store.messages(), [message], "what messages() returns")


_GIVEN = {
    "thread_id": "",
    "module_name": "arangodb",
    "content": "hi",
    "message_type": "answer",
    "status": "processing",
    "deadline_at": None,
    "error": None,
}


@contract(2)
def what_is_not_said_has_a_default(bench: Bench) -> None:
    """A message of which nothing is said is complete, empty, of type "message"."""
    message = bench.store.add_message(bench.thread(), "a")
    found = (message.content, message.message_type, message.status, dict(message.metadata))
    equal(found, ("", "message", "complete", {}), "content, type, status, metadata")
    equal((message.error, message.deadline_at), (None, None), "error and deadline_at")


@contract(3)
def each_has_an_id_of_its_own(bench: Bench) -> None:
    """Messages get ids of their own, also where all else is the same."""
    ids = [bench.add("same").message_id for _ in range(30)]
    equal(len(set(ids)), 30, "different ids of 30 messages")


@contract(4, "chosen_ids")
def a_taken_id_is_refused(bench: Bench) -> None:
    """A chosen message_id is kept; one that is taken, in any thread, raises AlreadyExists."""
    message = bench.add("first", message_id="m")
    equal(message.message_id, "m", "the id")
    other = bench.store.create_thread("other")
    for thread in (bench.thread(), other):
        refused(
            partial(bench.store.add_message, thread, "b", "x", message_id="m"),
            AlreadyExists,
            "the same id again",
            kind="message",
            id="m",
        )
    equal(bench.store.messages(), [message], "the messages")


@contract(5)
def an_unknown_message_is_not_found(bench: Bench) -> None:
    """Reading or changing an unknown message raises MessageNotFound with its id."""
    store = bench.store
    calls = {
        "get_message": lambda: store.get_message("nobody"),
        "update_message": lambda: store.update_message("nobody", append="x"),
        "update_message, of nothing": lambda: store.update_message("nobody"),
    }
    for name, call in calls.items():
        refused(call, MessageNotFound, name, message_id="nobody")
    equal(store.messages(), [], "the messages")


@contract(6)
def they_are_listed_in_order(bench: Bench) -> None:
    """messages() has all in the order of their creation, whatever happened to them since."""
    made = [bench.add(text) for text in "zab"]
    bench.clock.advance(1)
    made.append(bench.add("m"))
    bench.store.update_message(made[1], status="complete", append="!")
    bench.store.update_message(made[0], append="!")
    equal([each.content for each in bench.store.messages()], ["z!", "a!", "b", "m"], "contents")


@contract(7)
def they_are_found_by_thread_and_status(bench: Bench) -> None:
    """messages() may be of one thread, of one status or several, or of both."""
    store = bench.store
    one, two = store.create_thread("1"), store.create_thread("2")
    for thread, text, status in (
        (one, "a", "pending"),
        (two, "b", "complete"),
        (one, "c", "failed"),
        (one, "d", "complete"),
    ):
        store.add_message(thread, "m", text, status=status)

    def found(*args: Any, **kwargs: Any) -> str:
        return "".join(message.content for message in store.messages(*args, **kwargs))

    equal(found(one.thread_id), "acd", "of a thread")
    equal(found(status="complete"), "bd", "of a status")
    equal(found(status=["pending", "failed"]), "ac", "of two statuses")
    equal(found(two, "complete"), "b", "of a thread and a status")
    equal(found(two, ["pending"]), "", "of a thread without such")
    equal(found(status=[]), "", "of no status")


@contract(8)
def a_status_is_searched_as_it_is_now(bench: Bench) -> None:
    """messages(status=…) goes by the status of now, also when it was asked before."""
    message = bench.add()
    for status in ("processing", "complete"):
        equal(len(bench.store.messages(status=status)), 0, f"messages that are {status}, before")
        bench.store.update_message(message, status=status)
        found = bench.store.messages(status=status)
        equal([each.message_id for each in found], [message.message_id], f"that are {status}")
    equal(bench.store.messages(status=["pending", "processing"]), [], "messages that are open")


@contract(9)
def a_message_is_named_in_any_way(bench: Bench) -> None:
    """A message is named by its record, its id, or a dict with `message_id` or `id`."""
    message = bench.add()
    name = message.message_id
    ways: list[Any] = [message, name, {"message_id": name}, {"id": name, "content": "x"}]
    for place, way in enumerate(ways):
        equal(bench.store.get_message(way).message_id, name, f"get_message({way!r})")
        after = bench.store.update_message(way, append=str(place))
        equal(len(after.content), place + 1, f"characters after update_message({way!r})")


@contract(10)
def content_replaces_and_append_adds(bench: Bench) -> None:
    """`content` replaces the text, `append` adds to it, and the empty text is a text."""
    message = bench.add("ab")
    steps: list[tuple[dict[str, Any], str]] = [
        ({"append": "c"}, "abc"),
        ({"content": "z"}, "z"),
        ({"append": "y"}, "zy"),
        ({"content": ""}, ""),
    ]
    for asked, text in steps:
        equal(bench.store.update_message(message, **asked).content, text, f"content after {asked}")
        equal(bench.store.get_message(message).content, text, f"content, read after {asked}")


@contract(11)
def content_and_append_exclude_each_other(bench: Bench) -> None:
    """`content` together with `append` is a ValueError, and nothing is changed."""
    message = bench.add("ab")
    for content in ("", "x"):
        refused(
            partial(
                bench.store.update_message, message, content=content, append="y", metadata={"k": 1}
            ),
            ValueError,
            f"content={content!r} with append",
        )
    equal(bench.store.get_message(message), message, "the message")


@contract(12)
def metadata_is_merged(bench: Bench) -> None:
    """Metadata is merged key by key at the top level; no key is lost, no value merged inside."""
    message = bench.add(metadata={"a": 1, "b": {"x": 1}})
    bench.store.update_message(message, metadata={"b": {"y": 2}, "c": None})
    bench.store.update_message(message, metadata={"d": [1]})
    bench.store.update_message(message, append="text")
    bench.store.update_message(message, metadata={})
    bench.store.update_message(message, metadata=None)
    expected = {"a": 1, "b": {"y": 2}, "c": None, "d": [1]}
    same_json(dict(bench.store.get_message(message).metadata), expected, "metadata")


@contract(13)
def an_error_is_set_kept_and_cleared(bench: Bench) -> None:
    """An error text stays through other updates until it is replaced, or cleared by None."""
    message = bench.add()
    steps: list[tuple[dict[str, Any], str | None]] = [
        ({"error": "e"}, "e"),
        ({"append": "x"}, "e"),
        ({"error": "f"}, "f"),
        ({"error": None}, None),
    ]
    for asked, error in steps:
        equal(bench.store.update_message(message, **asked).error, error, f"error after {asked}")
        equal(bench.store.get_message(message).error, error, f"error, read after {asked}")


@contract(14)
def an_update_does_all_that_it_says(bench: Bench) -> None:
    """One update may change status, text, error and metadata, and returns what stands then."""
    message = bench.add("a")
    after = bench.store.update_message(
        message, status="failed", append="b", error="e", metadata={"k": 1}
    )
    found = (after.status, after.content, after.error, dict(after.metadata))
    equal(found, ("failed", "ab", "e", {"k": 1}), "what it returns")
    equal(bench.store.get_message(message), after, "what get_message returns")


@contract(15)
def what_is_the_same_is_no_change(bench: Bench) -> None:
    """An update to what is there already returns the message, untouched: no time, no revision."""
    message = bench.add("text", status="processing", metadata={"a": [1], "b": None})
    before = bench.store.update_message(message, error="e")
    cursor = bench.store.cursor()
    bench.clock.advance(5)
    same: list[dict[str, Any]] = [
        {},
        {"status": "processing"},
        {"content": "text"},
        {"append": ""},
        {"error": "e"},
        {"metadata": {"a": [1], "b": None}},
        {"status": "processing", "content": "text", "error": "e", "metadata": {"b": None}},
    ]
    for asked in same:
        equal(bench.store.update_message(message, **asked), before, f"what {asked} returns")
    equal(bench.store.get_message(message), before, "the message")
    equal(bench.store.cursor(), cursor, "the cursor")


@contract(16)
def times_are_those_of_the_clock(bench: Bench) -> None:
    """created_at stays, updated_at is that of the last change: aware, UTC, to the microsecond."""
    message = bench.add()
    made = bench.clock.now()
    for seconds in (0.000001, 86_400.5, 86_400 * 365 * 20):
        bench.clock.advance(seconds)
        after = bench.store.update_message(message, append="x")
        equal((after.created_at, after.updated_at), (made, bench.clock.now()), "its times")
        equal(bench.store.get_message(message), after, "what get_message returns")
        equal(after.updated_at.utcoffset(), made.utcoffset(), "the offset of updated_at")


@contract(17)
def a_message_is_frozen(bench: Bench) -> None:
    """A message's record is frozen, and nothing done to it or to what was given is stored."""
    metadata: dict[str, Any] = {"k": [1]}
    message = bench.add(metadata=metadata)
    metadata["k"].append(2)
    message.metadata["k"].append(3)
    refused(lambda: setattr(message, "status", "complete"), FrozenInstanceError, "setting a field")
    more: dict[str, Any] = {"l": [1]}
    bench.store.update_message(message, metadata=more).metadata["l"].append(2)
    more["l"].append(3)
    bench.store.get_message(message).metadata["k"].append(4)
    bench.store.messages()[0].metadata["k"].append(5)
    same_json(dict(bench.store.get_message(message).metadata), {"k": [1], "l": [1]}, "metadata")
