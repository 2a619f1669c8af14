"""What holds in every store, whatever its backend: found out from a snapshot, by folding.

History may be trimmed. Between two changes of a message that are both kept, one can be missing
only if the earlier is old enough to have outlived a trimming, and the message has ended.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import TypeVar

from ..clock import FIRST_US, LAST_US
from ..status import TRANSITIONS, MessageStatus
from . import values
from .reports import Finding, FindingKind, StoreSnapshot
from .rules import ChangeRow, MessageRow, ThreadRow

RESCUE = (
    "restore a backup, or copy it into a new store where it can still be read; then look for who "
    "writes to it without this library, or for a failing disk"
)


Row = TypeVar("Row", ThreadRow, MessageRow, ChangeRow)


def well_formed(row: Row) -> Row:
    """``row``, if it is such as this library writes; what ``findings_of`` takes for granted.

    Files hold what anybody wrote there, and a reader takes it as it is. Raises TypeError or
    ValueError that says what is wrong with which of its fields.
    """
    for name in _TEXTS[type(row)]:
        values.text(getattr(row, name), name)
    for name in _TEXTS_OR_NONE[type(row)]:
        if getattr(row, name) is not None:
            values.text(getattr(row, name), name)
    for name in _NUMBERS[type(row)]:
        _number(getattr(row, name), name)
    if isinstance(row, ThreadRow):
        values.module_names(row.modules)
    if isinstance(row, MessageRow):
        if row.expires_us is not None:
            _number(row.expires_us, "expires_us")
        if row.stall_us is not None:
            _number(abs(row.stall_us), "stall_us")  # that it is negative is a finding of its own
        _number(abs(row.deadline_us or 0), "the deadline")
    if row.metadata not in (None, "{}"):
        _look_into_metadata(str(row.metadata))
    return row


_TEXTS: dict[type, tuple[str, ...]] = {
    ThreadRow: ("thread_id", "title", "metadata"),
    MessageRow: (
        "message_id", "thread_id", "module_name", "content", "message_type", "metadata",
    ),
    ChangeRow: ("message_id", "thread_id"),
}  # fmt: skip
_TEXTS_OR_NONE: dict[type, tuple[str, ...]] = {
    ThreadRow: (),
    MessageRow: ("error",),
    ChangeRow: ("append", "content", "error", "metadata"),
}
_NUMBERS: dict[type, tuple[str, ...]] = {
    ThreadRow: ("created_us",),
    MessageRow: ("created_us", "updated_us", "revision"),
    ChangeRow: ("revision", "at_us", "content_length"),
}


def _number(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is {value!r}, no whole number")
    is_count = name in ("revision", "content_length")
    if value < 0 if is_count else not FIRST_US <= value <= LAST_US:
        raise ValueError(f"{name} is {value}, which is out of range")


def _look_into_metadata(text: str) -> None:
    def refuse(word: str) -> None:
        raise ValueError(f"metadata has {word}, which JSON does not")

    try:
        found = json.loads(text, parse_constant=refuse)
    except RecursionError:
        raise ValueError("metadata is nested too deep") from None
    if isinstance(found, dict):  # that it is another thing is a finding of its own
        values.metadata(found)


def findings_of(snapshot: StoreSnapshot) -> Iterator[Finding]:
    """All that is wrong in it."""
    yield from _threads(snapshot)
    yield from _revisions(snapshot)
    histories: dict[str, list[ChangeRow]] = {row.message_id: [] for row in snapshot.messages}
    for change in snapshot.changes:
        if change.message_id in histories:
            histories[change.message_id].append(change)
        else:
            yield _finding(
                "history", f"revision {change.revision}",
                f"it is a change of message {change.message_id!r}, which does not exist",
            )  # fmt: skip
    for row in snapshot.messages:
        yield from _message(row, histories[row.message_id], snapshot.trimmed)


def _finding(kind: FindingKind, thing: str, reason: str) -> Finding:
    return Finding(kind=kind, thing=thing, reason=reason, way_out=RESCUE)


def _threads(snapshot: StoreSnapshot) -> Iterator[Finding]:
    known = Counter(row.thread_id for row in snapshot.threads)
    for thread_id, count in known.items():
        if count > 1:
            yield _finding("thread", f"thread {thread_id}", f"it is there {count} times")
    ids = Counter(row.message_id for row in snapshot.messages)
    for message_id, count in ids.items():
        if count > 1:
            yield _finding("message", f"message {message_id}", f"it is there {count} times")
    for thread in snapshot.threads:
        if not _is_object(thread.metadata):
            yield _finding("thread", f"thread {thread.thread_id}", "its metadata is no JSON object")
    for row in snapshot.messages:
        if row.thread_id not in known:
            yield _finding(
                "message", f"message {row.message_id}",
                f"its thread {row.thread_id!r} does not exist",
            )  # fmt: skip


def _revisions(snapshot: StoreSnapshot) -> Iterator[Finding]:
    for before, after in pairwise(change.revision for change in snapshot.changes):
        if after == before:
            yield _finding("revision", f"revision {after}", "it was given twice")
        elif after < before:
            yield _finding("revision", f"revision {after}", f"it comes after {before}")
    kept = sorted({change.revision for change in snapshot.changes})
    for first, last in _gaps(kept, snapshot.trimmed, snapshot.revision):
        thing = f"revision {first}" if first == last else f"revisions {first} to {last}"
        yield _finding(
            "revision", thing,
            f"missing, though history is trimmed up to revision {snapshot.trimmed} only",
        )  # fmt: skip
    if snapshot.trimmed > snapshot.revision:
        yield _finding(
            "revision", f"revision {snapshot.trimmed}",
            f"history is said to be trimmed up to it, and the last one given is "
            f"{snapshot.revision}",
        )  # fmt: skip
    if kept and kept[-1] > snapshot.revision:
        yield _finding(
            "revision", f"revision {kept[-1]}",
            f"the store says that its last one is {snapshot.revision}: it would be given again",
        )  # fmt: skip


def _gaps(kept: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    """First and last of what is missing after ``start`` and up to ``end``."""
    before = start
    for revision in [*(each for each in kept if each > start), end + 1]:
        if revision > before + 1:
            yield before + 1, revision - 1
        before = revision


def _message(row: MessageRow, history: list[ChangeRow], trimmed: int) -> Iterator[Finding]:
    thing = f"message {row.message_id}"
    if not _is_object(row.metadata):
        yield _finding("message", thing, "its metadata is no JSON object")
    if row.updated_us < row.created_us and not history:
        yield _finding("message", thing, "it was changed before it was created")
    if (row.stall_us or 0) < 0 or (row.expires_us is not None and row.expires_us < row.created_us):
        yield _finding("deadline", thing, "its deadline is before its creation")
    if not history:
        yield _finding("history", thing, "not one of its changes is there, not even its last")
        return
    for change in history:
        if change.thread_id != row.thread_id:
            yield _finding(
                "history", f"revision {change.revision}",
                f"it says thread {change.thread_id!r}, its message {row.message_id!r} says "
                f"{row.thread_id!r}",
            )  # fmt: skip
    yield from _steps(row, history, trimmed)
    yield from _last(row, history[-1])
    fold = _Fold()
    is_open = not row.status.is_terminal
    for number, change in enumerate(history):
        before = history[number - 1] if number else None
        if before is not None and not _adjoins(before, trimmed, is_open=is_open):
            fold = _Fold()
        length = fold.take(change)
        if length is not None and length != change.content_length:
            yield _finding(
                "history", f"revision {change.revision}",
                f"it says that the text of {row.message_id!r} has {change.content_length:,} "
                f"characters then, and its changes make {length:,}",
            )  # fmt: skip
    yield from fold.compare(row)


def _adjoins(before: ChangeRow, trimmed: int, *, is_open: bool) -> bool:
    """Whether nothing can be missing between a change and the next one that is kept."""
    return is_open or before.revision > trimmed


def _steps(row: MessageRow, history: list[ChangeRow], trimmed: int) -> Iterator[Finding]:
    is_open = not row.status.is_terminal
    first = history[0]
    if first.previous is None and row.created_us != first.at_us:
        yield _finding(
            "message", f"message {row.message_id}",
            f"its time of creation is {row.created_us}, and {first.at_us} by its first change "
            f"(revision {first.revision}; microseconds since 1970)",
        )  # fmt: skip
    if first.previous is not None and (is_open or not trimmed):
        yield _finding(
            "transition", f"revision {first.revision}",
            f"it is the first change of {row.message_id!r}, and says that it was "
            f"{first.previous} before",
        )  # fmt: skip
    before: ChangeRow | None = None
    for change in history:
        yield from _step(change, before, trimmed, is_open=is_open)
        before = change


def _step(
    change: ChangeRow, before: ChangeRow | None, trimmed: int, *, is_open: bool
) -> Iterator[Finding]:
    thing = f"revision {change.revision}"
    previous = change.previous
    if previous is None:
        if before is not None:
            yield _finding("transition", thing, f"it creates {change.message_id!r} once more")
        return
    if change.status is not previous and change.status not in TRANSITIONS[previous]:
        yield _finding(
            "transition", thing,
            f"{change.message_id!r} went from {previous} to {change.status}, which cannot follow",
        )  # fmt: skip
    touches = change.append is not None or change.content is not None
    if previous.is_terminal and touches:
        yield _finding("transition", thing, f"{change.message_id!r} was {previous} and grew")
    if before is None or previous is before.status:
        return
    if _adjoins(before, trimmed, is_open=is_open) or previous not in TRANSITIONS[before.status]:
        yield _finding(
            "transition", thing,
            f"it says that {change.message_id!r} was {previous} before, and revision "
            f"{before.revision} made it {before.status}",
        )  # fmt: skip


def _last(row: MessageRow, last: ChangeRow) -> Iterator[Finding]:
    pairs: list[tuple[str, object, object]] = [
        ("revision", row.revision, last.revision),
        ("status", row.status, last.status),
        ("error", row.error, last.error),
        ("time of change", row.updated_us, last.at_us),
        ("length", len(row.content), last.content_length),
    ]
    for name, says, expected in pairs:
        if says != expected:
            yield _finding(
                "message", f"message {row.message_id}",
                f"its {name} is {_shown(says)}, and {_shown(expected)} by its last change "
                f"(revision {last.revision})",
            )  # fmt: skip


def _shown(value: object) -> str:
    return value.value if isinstance(value, MessageStatus) else repr(value)


class _Fold:
    """The text and the metadata of a message as its changes make them."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._length: int | None = None
        """None as long as only an end of the text is known."""
        self._metadata: dict[str, object] = {}
        self._is_whole = False

    def take(self, change: ChangeRow) -> int | None:
        """The length of the text after ``change``, or None if that is not known."""
        if change.previous is None:
            self._is_whole = True
            self._length = 0
        if change.content is not None:
            self._text, self._length = [change.content], len(change.content)
        elif change.append is not None:
            self._text.append(change.append)
            if self._length is not None:
                self._length += len(change.append)
        if change.metadata is not None and _is_object(change.metadata):
            self._metadata.update(json.loads(change.metadata))
        return self._length

    def compare(self, row: MessageRow) -> Iterator[Finding]:
        thing = f"message {row.message_id}"
        text = "".join(self._text)
        is_same = row.content == text if self._length is not None else row.content.endswith(text)
        if not is_same:
            yield _finding("message", thing, "its text is not what its changes made it")
        if not _is_object(row.metadata):
            return
        found = json.loads(row.metadata)
        made = self._metadata
        if not self._is_whole:
            found = {key: value for key, value in found.items() if key in made}
        if json.dumps(found, sort_keys=True) != json.dumps(made, sort_keys=True):
            yield _finding("message", thing, "its metadata is not what its changes made it")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError, RecursionError):
        return False
