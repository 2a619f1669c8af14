"""What a watcher was told, held against what was committed; a name for each way to be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from pytest_claude_comms.records import Change, Message
from pytest_claude_comms.status import TRANSITIONS, MessageStatus

Note: TypeAlias = Mapping[str, Any]
"""One thing that a watcher noted, in order:

- ``event``: a change it was told of, as :func:`told` has it;
- ``mark``: up to this revision it was told all; with ``begun``, when that look began;
- ``read``: a message that it read afterwards, as :func:`seen` has it;
- ``resumed``: it begins anew after this revision, in another process perhaps;
- ``gone``: it was told that the history is no longer there.
"""

ERRORS = {
    "lost": "a committed change was not told although the mark is past it",
    "repeated": "a change was told twice in one watch, or after a mark that includes it",
    "misordered": "a change was told after a later one",
    "torn": "what was told is not what was committed at that revision",
    "unlawful": "a status follows one that it must not follow",
    "time-travel": "what nobody had committed, or a past that others knew to be over",
    "gone": "history is said to be gone, and nobody has trimmed it",
}


@dataclass(frozen=True)
class Ack:
    """A change whose call has returned."""

    message: str
    revision: int
    status: str
    length: int
    at: int
    """When it had returned, on the clock that all processes share, in ns."""


def told(change: Change) -> list[Any]:
    """A change as JSON."""
    return [
        change.revision,
        change.message_id,
        None if change.previous is None else change.previous.value,
        change.status.value,
        change.append,
        change.content,
        change.content_length,
        change.error,
        None if change.metadata is None else dict(change.metadata),
    ]


def seen(message: Message) -> list[Any]:
    """As much of a message as its last change tells."""
    return [message.revision, message.message_id, message.status.value, len(message.content)]


def errors_in(
    notes: Iterable[Note],
    committed: Mapping[int, list[Any]],
    acks: Iterable[Ack] = (),
    messages: frozenset[str] | None = None,
    *,
    by_message: bool = False,
) -> list[str]:
    """What is wrong with a watcher's notes, each beginning with a name of :data:`ERRORS`.

    ``committed``: all changes, as :func:`told` has them, by revision. ``messages``: those that
    it watched, if not all. ``by_message``: only changes of one message have to come in order, as
    it is with callbacks.
    """
    watch = _Watch(committed, sorted(acks, key=lambda ack: ack.at), messages, by_message=by_message)
    for note in notes:
        watch.take(note)
    return watch.errors


def unkept(acks: Iterable[Ack], committed: Mapping[int, list[Any]]) -> list[str]:
    """Acknowledged changes that are not there, or not as they were acknowledged."""
    wrong = []
    for ack in acks:
        change = committed.get(ack.revision)
        if change is None:
            wrong.append(f"lost: {ack}")
        elif [change[1], change[3], change[6]] != [ack.message, ack.status, ack.length]:
            wrong.append(f"torn: {ack} is {change}")
    return wrong


class _Watch:
    def __init__(
        self,
        committed: Mapping[int, list[Any]],
        acks: list[Ack],
        messages: frozenset[str] | None,
        *,
        by_message: bool,
    ) -> None:
        self.errors: list[str] = []
        self._committed = committed
        self._acks = acks
        self._messages = messages
        self._told: set[int] = set()
        self._by_message = by_message
        self._last: dict[str, int] = {}
        self._mark = 0

    def take(self, note: Note) -> None:
        if "event" in note:
            self._event(note["event"])
        elif "mark" in note:
            self._marked(note["mark"], note.get("begun"))
        elif "read" in note:
            self._read(note["read"])
        elif "resumed" in note:
            self._resume(note["resumed"])
        elif "gone" in note:
            self.errors.append(f"gone: {note['gone']}")
        else:
            raise ValueError(f"no note: {note}")

    def _event(self, event: list[Any]) -> None:
        revision, message, previous, status = event[:4]
        if revision not in self._committed:
            self.errors.append(f"time-travel: {event} was never committed")
            return
        if event != self._committed[revision]:
            self.errors.append(f"torn: {event} is {self._committed[revision]}")
        if revision in self._told or revision <= self._mark:
            self.errors.append(f"repeated: {event} (mark {self._mark})")
        line = message if self._by_message else ""
        if revision < (last := self._last.get(line, 0)):
            self.errors.append(f"misordered: {event} after {last}")
        self._told.add(revision)
        self._last[line] = max(last, revision)
        if not _may_follow(previous, status):
            self.errors.append(f"unlawful: {event}")

    def _marked(self, mark: int, begun: int | None) -> None:
        if mark < self._mark:
            self.errors.append(f"time-travel: mark {mark} after {self._mark}")
        missing = [
            revision
            for revision in range(self._mark + 1, mark + 1)
            if revision not in self._told and self._concerns(revision)
        ]
        if missing:
            self.errors.append(f"lost: {missing}, and the mark is {mark}")
        known = [ack.revision for ack in self._acks if begun is not None and ack.at < begun]
        if known and max(known) > mark:
            self.errors.append(
                f"time-travel: mark {mark} of a look that began after {max(known)} had returned"
            )
        self._mark = max(self._mark, mark)

    def _concerns(self, revision: int) -> bool:
        change = self._committed.get(revision)
        return change is not None and (self._messages is None or change[1] in self._messages)

    def _read(self, message: list[Any]) -> None:
        revision, name, status, length = message
        change = self._committed.get(revision)
        if change is None or [change[1], change[3], change[6]] != [name, status, length]:
            self.errors.append(f"torn: {message} read, {change} committed")
        newest = max((each for each in self._told if self._committed[each][1] == name), default=0)
        if revision < newest:
            self.errors.append(f"time-travel: {message} read after {newest} was told")

    def _resume(self, revision: int) -> None:
        self._told = {each for each in self._told if each <= revision}
        self._mark = revision
        self._last = {}


def _may_follow(previous: str | None, status: str) -> bool:
    if previous is None or previous == status:
        return True
    return MessageStatus(status) in TRANSITIONS[MessageStatus(previous)]
