"""Assertions on messages; each fails with a page that shows what happened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from .. import render
from ..errors import StoreError
from ..records import Change, Message
from ..status import MessageStatus
from ..stores.base import ConversationStore, StatusLike
from ..stores.values import a_store, message_id_of
from ..tracking import StatusTracker

Subject: TypeAlias = StatusTracker | Message | str | Mapping[str, Any]
"""A tracker, or a message in any shape together with ``store=``."""


def assert_status_sequence(
    subject: Subject,
    pattern: str | Sequence[StatusLike],
    *,
    store: ConversationStore | None = None,
) -> None:
    """The statuses that a message went through are those of ``pattern``, all of them, in order.

    ``"pending -> processing -> complete"``; ``a|b`` is either, ``a?`` may be missing, ``...`` is
    any number of steps. A list of statuses will do too. ``"unknown"`` is a message that does not
    exist. Raises ValueError for a pattern that is none.
    """
    __tracebackhide__ = True
    steps = _parse_pattern(pattern)
    changes = _changes(subject, store)
    found = _statuses(changes)
    misfit = _first_misfit(steps, found)
    if misfit is None:
        return
    place, expected = misfit
    wanted = " or ".join(expected) or "no further step"
    if place < len(found):
        what = f"step {place + 1} is {found[place]}, expected {wanted}"
    else:
        what = f"it ends after step {place}, expected {wanted} next"
    _fail(
        f"{_name(subject, store)} did not go through the expected statuses: {what}",
        changes,
        store,
        [
            ("expected", [" -> ".join(step.text for step in steps)]),
            ("found", _marked(found, place)),
        ],
    )


def assert_terminal(
    subject: Subject,
    status: StatusLike | None = None,
    *,
    store: ConversationStore | None = None,
) -> None:
    """The message has ended; with ``status``, in that one."""
    __tracebackhide__ = True
    wanted = None if status is None else _step(str(status))
    changes = _changes(subject, store)
    stands = _statuses(changes)[-1]
    if stands.is_terminal and (wanted is None or stands in wanted.statuses):
        return
    expected = "a terminal status" if wanted is None else wanted.text
    _fail(
        f"{_name(subject, store)} is {stands}, expected {expected}",
        changes,
        store,
        [("found", [render.steps(_statuses(changes))])],
    )


def assert_no_pending(store: ConversationStore, thread: Any = None) -> None:
    """No message of the store (or of one thread) is still pending or processing."""
    __tracebackhide__ = True
    a_store(store, "store")
    waiting = store.messages(thread, status=[MessageStatus.PENDING, MessageStatus.PROCESSING])
    if not waiting:
        return
    now = store.clock.now()
    rows = [("message", "module", "status", "for", "deadline")]
    for message in waiting[:50]:
        age = render.span((now - message.updated_at).total_seconds())
        deadline = "none" if message.deadline_at is None else render.instant(message.deadline_at)
        module = render.clean(message.module_name)
        rows.append((render.clean(message.message_id), module, str(message.status), age, deadline))
    count = "1 message is" if len(waiting) == 1 else f"{len(waiting):,} messages are"
    raise AssertionError(
        render.page(
            f"{count} still open in {render.clean(store.url)}",
            [
                ("now", [f"{render.instant(now)} ({store.clock.describe()})"]),
                ("open", render.table(rows)),
                ("hint", ["a message without a deadline stays open when its writer is gone"]),
            ],
        )
    )


def assert_content(
    subject: Subject,
    expected: str | re.Pattern[str],
    *,
    store: ConversationStore | None = None,
) -> None:
    """The message's text is ``expected``, or a compiled pattern is found in it."""
    __tracebackhide__ = True
    changes = _changes(subject, store)
    text = _text(changes)
    if isinstance(expected, str):
        if text == expected:
            return
        shown = [("expected", [_quoted(expected)]), ("found", [_quoted(text)])]
        place = next(
            (i for i, (a, b) in enumerate(zip(text, expected, strict=False)) if a != b),
            min(len(text), len(expected)),
        )
        here, there = text[place : place + 40], expected[place : place + 40]
        difference = f"at character {place}: expected {_quoted(there)}, found {_quoted(here)}"
        shown.append(("differs", [difference]))
    else:
        if expected.search(text):
            return
        shown = [("expected", [f"a match of {expected.pattern!r}"]), ("found", [_quoted(text)])]
    _fail(f"{_name(subject, store)} has another text", changes, store, shown)


# -- patterns


@dataclass(frozen=True, slots=True)
class _Step:
    text: str
    statuses: frozenset[MessageStatus]
    optional: bool = False
    repeated: bool = False


def _parse_pattern(pattern: str | Sequence[StatusLike]) -> list[_Step]:
    if isinstance(pattern, MessageStatus):
        words: Iterable[object] = [pattern]
    elif isinstance(pattern, str):
        words = pattern.split("->")
    elif isinstance(pattern, Iterable):
        words = pattern
    else:
        raise TypeError(f"a pattern is a str or a list of statuses, not {pattern!r}")
    steps = [_step(str(word)) for word in words]
    if not steps:
        raise ValueError("an empty pattern; of a message that does not exist write 'unknown'")
    return steps


def _step(word: str) -> _Step:
    text = word.strip()
    if text == "...":
        return _Step(text, frozenset(MessageStatus), optional=True, repeated=True)
    names = [name.strip() for name in text.removesuffix("?").split("|")]
    try:
        statuses = frozenset(MessageStatus(name) for name in names)
    except ValueError:
        good = ", ".join(status.value for status in MessageStatus)
        raise ValueError(
            f"{text!r} is no step of a pattern; a step is one of {good}, several with | between "
            "them, one with ? behind it, or ...; steps are separated by ->"
        ) from None
    return _Step(text, statuses, optional=text.endswith("?"))


def _first_misfit(
    steps: Sequence[_Step], found: Sequence[MessageStatus]
) -> tuple[int, list[str]] | None:
    """Where ``found`` leaves the pattern and what could have come there; None if it fits."""
    places = _skip_optional(steps, {0})
    for place, status in enumerate(found):
        following = {
            at if steps[at].repeated else at + 1
            for at in places
            if at < len(steps) and status in steps[at].statuses
        }
        if not following:
            return place, [steps[at].text for at in sorted(places) if at < len(steps)]
        places = _skip_optional(steps, following)
    if len(steps) in places:
        return None
    return len(found), [steps[at].text for at in sorted(places) if not steps[at].optional]


def _skip_optional(steps: Sequence[_Step], places: set[int]) -> set[int]:
    reached = set(places)
    for at in range(len(steps)):
        if at in reached and steps[at].optional:
            reached.add(at + 1)
    return reached


# -- subjects


def _changes(subject: Subject, store: ConversationStore | None) -> list[Change]:
    if isinstance(subject, StatusTracker):
        return subject.history
    message_id = message_id_of(subject)
    if store is None:
        raise TypeError(
            "to look up a message pass store= too, or pass the tracker that poller.wait() returns"
        )
    a_store(store, "store")
    return list(store.changes(0, message=message_id))


def _statuses(changes: Iterable[Change]) -> list[MessageStatus]:
    found: list[MessageStatus] = []
    for change in changes:
        if not found or found[-1] is not change.status:
            found.append(change.status)
    return found or [MessageStatus.UNKNOWN]


def _text(changes: Iterable[Change]) -> str:
    parts: list[str] = []
    for change in changes:
        if change.content is not None:
            parts = [change.content]
        elif change.append is not None:
            parts.append(change.append)
    return "".join(parts)


def _name(subject: Subject, store: ConversationStore | None) -> str:
    if isinstance(subject, StatusTracker):
        return f"message {render.clean(subject.message_id)}"
    where = "" if store is None else f" in {render.clean(store.url)}"
    return f"message {render.clean(message_id_of(subject))}{where}"


# -- pages


def _fail(
    title: str,
    changes: list[Change],
    store: ConversationStore | None,
    fields: list[tuple[str, list[str]]],
) -> NoReturn:
    __tracebackhide__ = True
    blocks = [*fields, ("history", render.history(changes))]
    if changes and changes[-1].error:
        blocks.append(("error", [render.clean(render.shorten(changes[-1].error, 400))]))
    if store is not None:
        blocks.append(("now", [_now(store)]))
    hint = _hint(changes)
    if hint:
        blocks.append(("hint", [hint]))
    raise AssertionError(render.page(title, blocks))


def _now(store: ConversationStore) -> str:
    try:
        return f"{render.instant(store.clock.now())} ({store.clock.describe()})"
    except StoreError as error:
        return str(error)


def _hint(changes: list[Change]) -> str:
    if not changes:
        return "no message with this id was ever added to this store"
    if not changes[-1].status.is_terminal:
        return "it is still open: wait for it with poller.wait(…), or move the clock"
    return ""


def _marked(found: list[MessageStatus], place: int) -> list[str]:
    line = render.steps(found)
    if place >= len(found):
        return [line]
    column = len(render.steps(found[:place])) + len(" -> ") if place else 0
    return [line, " " * column + "^" * len(found[place].value)]


def _quoted(text: str) -> str:
    return repr(text) if len(text) <= 400 else f"{text[:400]!r}… ({render.characters(len(text))})"
