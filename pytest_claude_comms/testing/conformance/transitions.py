"""Contracts of statuses: which may follow which, and that what has ended stays so."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...errors import InvalidTransition
from ...records import Message
from ...status import STORABLE, TERMINAL, TRANSITIONS, MessageStatus
from .bench import Bench
from .checks import equal, refused, same_json
from .contract import Contracts

GROUP = Contracts("transitions")
contract = GROUP.contract

_ALL = sorted(STORABLE)
_ENDS = sorted(TERMINAL)


@contract(1)
def any_status_may_be_first(bench: Bench) -> None:
    """Any status but UNKNOWN may be a message's first."""
    for status in _ALL:
        message = bench.add(status=status.value)
        equal(message.status, status, "what add_message returns")
        equal(bench.store.get_message(message).status, status, "what get_message returns")


@contract(2)
def a_status_is_a_message_status(bench: Bench) -> None:
    """A status may be given as its word or as a MessageStatus, and comes back as one."""
    for given in ("processing", MessageStatus.PROCESSING):
        message = bench.store.update_message(bench.add(), status=given)
        for found in (message, bench.store.get_message(message), bench.store.messages()[-1]):
            equal(type(found.status), MessageStatus, f"the type of the status {found.status!r}")


@contract(3)
def what_may_follow_follows(bench: Bench) -> None:
    """From pending a message may become processing or end, from processing it may end."""
    for before, after in _pairs(legal=True):
        message = bench.add(status=before.value)
        now = bench.store.update_message(message, status=after.value)
        equal(now.status, after, f"status after {before} -> {after}")
        equal(bench.store.get_message(message).status, after, f"read after {before} -> {after}")


@contract(4)
def what_may_not_follow_is_refused(bench: Bench) -> None:
    """Any other step raises InvalidTransition with the status that stands and the one asked for."""
    for before, after in _pairs(legal=False):
        message = bench.add(status=before.value)
        refused(
            partial(bench.store.update_message, message, status=after),
            InvalidTransition,
            f"{before} -> {after}",
            status=before,
            requested=after,
            message_id=message.message_id,
        )
        equal(bench.store.get_message(message), message, f"the message after {before} -> {after}")


def _pairs(*, legal: bool) -> list[tuple[MessageStatus, MessageStatus]]:
    return [
        (before, after)
        for before in _ALL
        for after in _ALL
        if (after in TRANSITIONS[before]) is legal and before is not after
    ]


@contract(5)
def an_open_status_may_be_restated(bench: Bench) -> None:
    """Restating a status that is not terminal is allowed, and no change."""
    for status in ("pending", "processing"):
        message = bench.add(status=status)
        cursor = bench.store.cursor()
        equal(bench.store.update_message(message, status=status), message, f"{status} restated")
        equal(bench.store.cursor(), cursor, "the cursor")


@contract(6)
def terminal_is_final(bench: Bench) -> None:
    """A terminal message takes no status, its own included: the first end stands."""
    for end in _ENDS:
        message = bench.store.update_message(bench.add(), status=end)
        for after in _ALL:
            refused(
                partial(bench.store.update_message, message, status=after),
                InvalidTransition,
                f"{end} -> {after}",
                status=end,
                requested=after,
            )
        equal(bench.store.get_message(message), message, f"the message that is {end}")


@contract(7)
def a_terminal_message_takes_no_text(bench: Bench) -> None:
    """A terminal message takes no content, no append and no error, not even empty ones."""
    for end in _ENDS:
        message = bench.add("text", status=end.value)
        asked: list[dict[str, Any]] = [
            {"content": "x"},
            {"append": "x"},
            {"append": ""},
            {"content": "text"},
            {"error": "e"},
            {"error": None},
        ]
        for change in asked:
            refused(
                partial(bench.store.update_message, message, **change),
                InvalidTransition,
                f"{change} to a message that is {end}",
                status=end,
                requested=None,
            )
        equal(bench.store.get_message(message), message, f"the message that is {end}")


@contract(8)
def a_terminal_message_takes_metadata(bench: Bench) -> None:
    """A terminal message takes metadata, and its status stays."""
    for end in _ENDS:
        message = bench.add(status=end.value)
        after = bench.store.update_message(message, metadata={"cost": 0.5})
        equal(after.status, end, "its status")
        same_json(dict(bench.store.get_message(message).metadata), {"cost": 0.5}, "its metadata")


@contract(9)
def a_refused_update_does_nothing(bench: Bench) -> None:
    """Of a refused update nothing is done: no part of it, no time, no revision."""
    ended = bench.add("text", status="complete", metadata={"a": 1})
    going = bench.add("text", status="processing", metadata={"a": 1})
    cursor = bench.store.cursor()
    bench.clock.advance(1)
    refusals: list[tuple[Message, dict[str, Any]]] = [
        (ended, {"append": "x", "metadata": {"a": 2, "b": 3}}),
        (ended, {"error": "e", "metadata": {"b": 3}}),
        (going, {"status": "pending", "append": "x", "metadata": {"b": 3}, "error": "e"}),
    ]
    for message, asked in refusals:
        refused(
            partial(bench.store.update_message, message, **asked),
            InvalidTransition,
            f"{asked} to a message that is {message.status}",
        )
        equal(bench.store.get_message(message), message, "the message")
    equal(bench.store.cursor(), cursor, "the cursor")


@contract(10)
def only_statuses_are_statuses(bench: Bench) -> None:
    """UNKNOWN and other words are a ValueError, what is no str a TypeError; nothing is done."""
    message = bench.add()
    words: list[Any] = ["unknown", MessageStatus.UNKNOWN, "done", "", "PENDING"]
    others: list[Any] = [None, 1, b"pending", ["pending"]]
    for kind, statuses in ((ValueError, words), (TypeError, others)):
        for status in statuses:
            what = f"status={status!r}"
            refused(partial(bench.add, status=status), kind, f"add_message with {what}")
            refused(
                partial(bench.store.update_message, message, status=status),
                kind,
                f"update_message with {what}",
            )
    for status in words:
        refused(
            partial(bench.store.messages, status=status),
            ValueError,
            f"messages with status={status!r}",
        )
    equal(bench.store.messages(), [message], "the messages")
