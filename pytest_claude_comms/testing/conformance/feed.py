"""Contracts of the change feed: ordered, gap-free, and what a cursor means."""

from __future__ import annotations

import random
from dataclasses import FrozenInstanceError, dataclass, field
from functools import partial
from typing import Any

from ...errors import (
    AlreadyExists,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    ThreadNotFound,
)
from ...records import Change, Changes
from .bench import Bench
from .checks import equal, refused, same_json, true
from .contract import Contracts

GROUP = Contracts("feed")
contract = GROUP.contract


def script(bench: Bench, *, steps: int = 40) -> list[str]:
    """Many kinds of commits, over three messages; returns the ids."""
    chance = random.Random(20260101)  # noqa: S311 - the same script each time
    ids = [bench.add("start", metadata={"n": 0}).message_id for _ in range(3)]
    for number in range(steps):
        asked: list[dict[str, Any]] = [
            {"append": f"+{number}"},
            {"content": f"={number}"},
            {"metadata": {"n": number, chance.choice("abc"): [number]}},
            {"error": f"e{number}"},
            {"status": "processing", "append": f"+{number}", "metadata": {"last": number}},
        ]
        bench.store.update_message(chance.choice(ids), **chance.choice(asked))
        bench.clock.advance(chance.choice((0, 0, 0.5)))
    bench.store.update_message(ids[0], status="complete", append="!")
    bench.store.update_message(ids[1], status="failed", error="why")
    bench.store.update_message(ids[1], metadata={"cost": 1})
    return ids


def revisions(changes: Changes) -> list[int]:
    """Those of some changes, in their order."""
    return [change.revision for change in changes]


@contract(1, "gap_free")
def a_commit_is_one_change(bench: Bench) -> None:
    """Every commit is one change, however much it does, and a Change as the Protocol has it."""
    message = bench.add("a", metadata={"k": 1})
    equal(len(bench.store.changes()), 1, "changes after add_message")
    bench.store.update_message(message, status="failed", append="b", error="e", metadata={"l": 1})
    changes = bench.store.changes()
    equal(type(changes), Changes, "the type of what changes() returns")
    equal([type(change) for change in changes], [Change, Change], "the types of its items")
    equal({change.message_id for change in changes}, {message.message_id}, "their message_id")
    equal({change.thread_id for change in changes}, {message.thread_id}, "their thread_id")


@contract(2, "gap_free")
def revisions_go_up(bench: Bench) -> None:
    """Revisions go up over the whole store, and none is given twice."""
    script(bench)
    found = revisions(bench.store.changes())
    true(found and found[0] > 0, "the first revision", expected="a positive int", found=found[:1])
    equal(found, sorted(set(found)), "revisions of the feed")


@contract(3, "gap_free")
def a_message_has_the_revision_of_its_last_change(bench: Bench) -> None:
    """A message's revision is that of its last change."""
    ids = script(bench)
    for message in bench.store.messages():
        (*_, last) = bench.store.changes(message=message)
        equal(message.revision, last.revision, "the revision of a message")
    after = bench.store.update_message(ids[2], append="x")
    equal(after.revision, bench.store.cursor(), "the revision that update_message returns")
    added = bench.add()
    equal(added.revision, bench.store.cursor(), "the revision that add_message returns")


@contract(4, "gap_free")
def the_first_change_creates(bench: Bench) -> None:
    """The change that creates a message has no `previous`, and what the message was given."""
    full = bench.add("hi", status="processing", metadata={"k": [1]})
    bare = bench.store.add_message(full.thread_id, "a")
    first, second = bench.store.changes()
    told = (first.message_id, first.previous, first.status, first.content, first.append)
    equal(told, (full.message_id, None, "processing", "hi", None), "the change of a full message")
    equal((first.content_length, first.error), (2, None), "its content_length and error")
    same_json(first.metadata, {"k": [1]}, "its metadata")
    told = (second.message_id, second.previous, second.status, second.content, second.append)
    equal(told, (bare.message_id, None, "complete", None, None), "the change of a bare message")
    equal((second.content_length, second.metadata), (0, None), "its content_length and metadata")


@contract(5, "gap_free")
def a_change_tells_what_it_did(bench: Bench) -> None:
    """A change has the status before and after, the text that came, the keys that were set."""
    message = bench.add("ab", metadata={"k": 1, "l": 1})
    asked: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"append": "c"}, ("pending", "pending", "c", None, 3, None, None)),
        ({"content": "z"}, ("pending", "pending", None, "z", 1, None, None)),
        ({"error": "e"}, ("pending", "pending", None, None, 1, "e", None)),
        ({"metadata": {"k": 1, "l": 2}}, ("pending", "pending", None, None, 1, "e", {"l": 2})),
        ({"status": "processing"}, ("pending", "processing", None, None, 1, "e", None)),
        ({"content": ""}, ("processing", "processing", None, "", 0, "e", None)),
        (
            {"status": "complete", "append": "y", "error": None, "metadata": {"m": None}},
            ("processing", "complete", "y", None, 1, None, {"m": None}),
        ),
    ]
    for change, expected in asked:
        since = bench.store.cursor()
        bench.store.update_message(message, **change)
        told = [_told(each) for each in bench.store.changes(since)]
        equal(told, [dict(zip(_TOLD, expected, strict=True))], f"the changes of {change}")


def _told(change: Change) -> dict[str, object]:
    return {name: getattr(change, name) for name in _TOLD}


_TOLD = ("previous", "status", "append", "content", "content_length", "error", "metadata")
"""``error`` is what stands after the change, whatever the change was of; so is ``status``."""


@contract(6, "gap_free")
def no_step_is_lost(bench: Bench) -> None:
    """A message that goes through all its steps at one instant has each of them in the feed."""
    since = bench.store.cursor()
    one, two = bench.add(), bench.add()
    for status in ("processing", "complete"):
        bench.store.update_message(one, status=status)
        bench.store.update_message(two, status=status)
    found = [(change.message_id, change.status.value) for change in bench.store.changes(since)]
    expected = [
        (each.message_id, status)
        for status in ("pending", "processing", "complete")
        for each in (one, two)
    ]
    equal(found, expected, "the changes of two messages, step by step")


@contract(7, "gap_free")
def a_cursor_is_all_that_is_needed(bench: Bench) -> None:
    """changes(since=n) has exactly the changes after n, for every n."""
    script(bench)
    everything = bench.store.changes()
    for place, change in enumerate(everything.items):
        found = bench.store.changes(change.revision)
        equal(found.items, everything.items[place + 1 :], f"changes after {change.revision}")
    equal(bench.store.changes(0), everything, "changes after 0")


@contract(8, "gap_free")
def pages_fit_together(bench: Bench) -> None:
    """With a limit, page after page has every change once; a page's cursor is where it ends."""
    ids = script(bench)
    for message in (None, ids[1]):
        whole = bench.store.changes(message=message).items
        for limit in (1, 2, 7, len(whole), len(whole) + 1):
            found: list[Change] = []
            cursor = 0
            for _ in range(len(whole) + 1):
                page = bench.store.changes(cursor, limit=limit, message=message)
                true(len(page) <= limit, "a page", expected=f"up to {limit} changes", found=page)
                if not page:
                    break
                found += page.items
                true(
                    page.items[-1].revision <= page.cursor <= bench.store.cursor()
                    and (len(page) < limit or page.cursor == page.items[-1].revision),
                    f"the cursor of a page of {limit}",
                    expected="its last revision, or the store's cursor where it is not full",
                    found=page.cursor,
                )
                cursor = page.cursor
            equal(tuple(found), whole, f"all pages of {limit}")


@contract(9, "gap_free")
def one_message_has_its_own_history(bench: Bench) -> None:
    """changes(message=…) has the changes of that message, and none for one that is not there."""
    ids = script(bench)
    everything = bench.store.changes()
    for name in ids:
        expected = tuple(each for each in everything if each.message_id == name)
        found = bench.store.changes(message=name)
        equal((found.items, found.cursor), (expected, everything.cursor), "of one message")
        after = bench.store.changes(expected[1].revision, message=name)
        equal(after.items, expected[2:], "of one message, after a revision")
    equal(bench.store.changes(message="nobody").items, (), "of nobody")


@contract(10, "gap_free")
def the_cursor_is_the_last_revision(bench: Bench) -> None:
    """cursor() is the revision of the last commit, 0 before the first, and nothing is after it."""
    equal(bench.store.cursor(), 0, "the cursor of an empty store")
    equal(bench.store.changes(), Changes((), 0), "the changes of an empty store")
    script(bench)
    cursor, everything = bench.store.cursor(), bench.store.changes()
    equal((everything.cursor, everything.items[-1].revision), (cursor, cursor), "the last")
    equal(bench.store.changes(cursor), Changes((), cursor), "changes after the cursor")


@contract(11, "gap_free")
def what_is_refused_is_no_change(bench: Bench) -> None:
    """A call that raises leaves no change, whatever it was refused for."""
    store = bench.store
    message = bench.add("x", status="complete")
    before = store.changes()
    calls: list[tuple[str, Any, type[Exception]]] = [
        (
            "a status after the end",
            partial(store.update_message, message, status="failed"),
            InvalidTransition,
        ),
        (
            "an update of an unknown message",
            partial(store.update_message, "nobody", append="x"),
            MessageNotFound,
        ),
        (
            "a message for an unknown thread",
            partial(store.add_message, "nobody", "a"),
            ThreadNotFound,
        ),
        ("a message with a lone surrogate", partial(bench.add, "\ud800"), ValueError),
        (
            "a message with a set in its metadata",
            partial(bench.add, metadata={"k": {1}}),
            TypeError,
        ),
        ("a message with the status 'done'", partial(bench.add, status="done"), ValueError),
    ]
    if "chosen_ids" in bench.claimed:
        taken = partial(bench.add, message_id=message.message_id)
        calls.append(("a message with an id that is taken", taken, AlreadyExists))
    for what, call, kind in calls:
        refused(call, kind, what)
        equal(store.changes(), before, f"the feed after {kind.__name__}")


@contract(12, "gap_free")
def a_strange_cursor_is_not_believed(bench: Bench) -> None:
    """A revision that this store never gave raises HistoryGone, of one message too."""
    message = bench.add()
    ahead = bench.store.cursor() + 1
    for of in (None, message, "nobody"):
        call = partial(bench.store.changes, ahead, message=of)
        refused(call, HistoryGone, f"changes({ahead}, message={of!r})", since=ahead)


@contract(13, "gap_free")
def cursors_and_limits_are_ints(bench: Bench) -> None:
    """`since` is an int from 0, `limit` one from 1; all else is a ValueError or TypeError."""
    bench.add()
    asked: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"since": -1}, ValueError),
        ({"since": 1.0}, TypeError),
        ({"since": True}, TypeError),
        ({"since": None}, TypeError),
        ({"limit": 0}, ValueError),
        ({"limit": -1}, ValueError),
        ({"limit": "1"}, TypeError),
        ({"message": 3}, TypeError),
        ({"message": ""}, ValueError),
    ]
    for kwargs, kind in asked:
        refused(partial(bench.store.changes, **kwargs), kind, f"changes({kwargs})")


@contract(14, "gap_free")
def a_change_has_its_time(bench: Bench) -> None:
    """A change's `at` is the clock's at its commit, and the message's updated_at."""
    message = bench.add()
    for seconds in (0, 0.000001, 3600):
        bench.clock.advance(seconds)
        after = bench.store.update_message(message, append="x")
        (*_, last) = bench.store.changes()
        equal((last.at, after.updated_at), (bench.clock.now(), last.at), "at, and updated_at")


@dataclass
class _Folded:
    """A message as its changes tell it."""

    status: str = ""
    content: str = ""
    error: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def apply(self, change: Change) -> None:
        if change.previous is not None:
            equal(change.previous, self.status, f"previous of change {change.revision}")
        self.status = change.status.value
        if change.content is not None:
            self.content = change.content
        self.content += change.append or ""
        equal(change.content_length, len(self.content), f"content_length of {change.revision}")
        self.error = change.error
        self.metadata.update(change.metadata or {})


@contract(15, "gap_free")
def changes_add_up(bench: Bench) -> None:
    """The changes of a message, one after the other, make the message as it stands."""
    script(bench)
    folded: dict[str, _Folded] = {}
    for change in bench.store.changes():
        folded.setdefault(change.message_id, _Folded()).apply(change)
    for message in bench.store.messages():
        told = folded[message.message_id]
        for name in ("status", "content", "error"):
            found, what = getattr(told, name), f"the {name} that the changes add up to"
            equal(found, getattr(message, name), what)
        same_json(told.metadata, dict(message.metadata), "metadata that the changes add up to")


@contract(16, "gap_free")
def a_change_stays_as_it_was(bench: Bench) -> None:
    """What was told of a change is told again, whatever is done to its record or comes later."""
    message = bench.add("a", metadata={"k": [1]})
    (change,) = bench.store.changes()
    assert change.metadata is not None
    change.metadata["k"].append(2)
    refused(lambda: setattr(change, "revision", 9), FrozenInstanceError, "setting a field")
    bench.store.update_message(message, status="complete", content="b", metadata={"k": [3]})
    first = bench.store.changes().items[0]
    equal((first.status, first.content, first.content_length), ("pending", "a", 1), "the change")
    same_json(first.metadata, {"k": [1]}, "its metadata")
