"""Contracts of threads."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from functools import partial
from typing import Any

from ...errors import AlreadyExists, ThreadNotFound
from ...records import ConversationThread
from .bench import Bench
from .checks import equal, refused, same_json, true
from .contract import Contracts

GROUP = Contracts("threads")
contract = GROUP.contract


@contract(1)
def a_thread_comes_back_as_it_was_made(bench: Bench) -> None:
    """A new ConversationThread has what it was given, and get_thread returns the same."""
    thread = bench.store.create_thread("PDF", modules=["a", "b"], metadata={"k": [1]})
    equal(type(thread), ConversationThread, "the type of what create_thread returns")
    equal((thread.title, thread.modules), ("PDF", ("a", "b")), "title and modules")
    same_json(dict(thread.metadata), {"k": [1]}, "metadata")
    equal(bench.store.get_thread(thread.thread_id), thread, "what get_thread returns")


@contract(2)
def nothing_has_to_be_said(bench: Bench) -> None:
    """A thread may have no title, no modules and no metadata."""
    thread = bench.store.create_thread()
    equal((thread.title, thread.modules, dict(thread.metadata)), ("", (), {}), "a bare thread")
    equal(bench.store.get_thread(thread.thread_id), thread, "what get_thread returns")


@contract(3)
def each_has_an_id_of_its_own(bench: Bench) -> None:
    """Threads get ids of their own, also where all else is the same."""
    ids = [bench.store.create_thread("same").thread_id for _ in range(30)]
    equal(len(set(ids)), 30, "different ids of 30 threads")


@contract(4, "chosen_ids")
def a_taken_id_is_refused(bench: Bench) -> None:
    """A chosen thread_id is kept; one that is taken raises AlreadyExists and changes nothing."""
    thread = bench.store.create_thread("first", thread_id="t")
    equal(thread.thread_id, "t", "the id")
    refused(
        lambda: bench.store.create_thread("second", thread_id="t"),
        AlreadyExists,
        "the same id again",
        kind="thread",
        id="t",
    )
    equal(bench.store.threads(), [thread], "the threads")


@contract(5)
def an_unknown_thread_is_not_found(bench: Bench) -> None:
    """An unknown thread raises ThreadNotFound with its id, whatever is asked of it."""
    store = bench.store
    calls = {
        "get_thread": lambda: store.get_thread("nobody"),
        "messages": lambda: store.messages("nobody"),
        "add_message": lambda: store.add_message("nobody", "a"),
    }
    for name, call in calls.items():
        refused(call, ThreadNotFound, name, thread_id="nobody")
    equal((store.threads(), store.messages()), ([], []), "what is stored after that")


@contract(6)
def they_are_listed_in_order(bench: Bench) -> None:
    """threads() has all threads in the order of their creation, at whatever instant."""
    made = [bench.store.create_thread(title) for title in "zyxabc"]
    bench.clock.advance(1)
    made.append(bench.store.create_thread("m"))
    bench.store.add_message(made[0], "a")
    equal([each.title for each in bench.store.threads()], list("zyxabcm"), "titles")
    equal(bench.store.threads(), made, "the threads")


@contract(7)
def a_thread_is_named_in_any_way(bench: Bench) -> None:
    """A thread is named by its record, its id, or a dict with `thread_id` or `id`."""
    thread = bench.store.create_thread("t")
    name = thread.thread_id
    ways: list[Any] = [thread, name, {"thread_id": name}, {"id": name, "title": "x"}]
    for way in ways:
        equal(bench.store.get_thread(way), thread, f"get_thread({way!r})")
        message = bench.store.add_message(way, "a")
        equal(message.thread_id, name, f"thread_id of add_message({way!r})")
    equal(len(bench.store.messages(thread)), len(ways), "messages of the thread")


@contract(8, "gap_free")
def a_thread_is_no_change(bench: Bench) -> None:
    """A new thread is no change: the feed tells of messages only."""
    bench.store.create_thread("t")
    equal((bench.store.cursor(), len(bench.store.changes())), (0, 0), "cursor and changes")


@contract(9)
def modules_are_a_list_of_names(bench: Bench) -> None:
    """Modules that are a lone str, or no names, are a TypeError, and no thread is made."""
    bad: list[Any] = ["ab", 3, [1], [None], [b"a"]]
    for modules in bad:
        refused(
            partial(bench.store.create_thread, modules=modules),
            TypeError,
            f"modules={modules!r}",
        )
    equal(bench.store.threads(), [], "the threads")


@contract(10)
def a_thread_is_frozen(bench: Bench) -> None:
    """A thread's record is frozen, and nothing done to it or to what it was made of is stored."""
    modules, metadata = ["a"], {"k": [1]}
    thread = bench.store.create_thread("t", modules=modules, metadata=metadata)
    modules.append("b")
    metadata["k"].append(2)
    thread.metadata["k"].append(3)
    refused(lambda: setattr(thread, "title", "x"), FrozenInstanceError, "setting its title")
    bench.store.get_thread(thread).metadata["k"].append(4)
    found = bench.store.get_thread(thread)
    true(found.modules == ("a",), "its modules", expected="('a',)", found=found.modules)
    same_json(found.metadata["k"], [1], "its metadata")
