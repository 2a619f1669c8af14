"""What is known of one message: a pure fold over its changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from typing import Any, Literal

from .records import Change
from .status import MessageStatus
from .stores.base import MessageLike
from .stores.values import message_id_of

Kind = Literal["created", "status", "content", "metadata", "error"]

_CHANGE_FIELDS = tuple(each.name for each in fields(Change))


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Change):
    """A change as its watchers get it: all fields of the change, and whose it is."""

    tracker: StatusTracker = field(compare=False, repr=False)

    @classmethod
    def of(cls, change: Change, tracker: StatusTracker) -> Event:
        """The event of a change, with metadata of its own: others get events of it too."""
        values = {name: getattr(change, name) for name in _CHANGE_FIELDS}
        return cls(**{**values, "metadata": _copied(change.metadata)}, tracker=tracker)

    @property
    def kind(self) -> Kind:
        """What happened, the most telling first: ``created``, ``status``, ``content``,
        ``metadata`` or ``error``."""
        if self.previous is None:
            return "created"
        if self.changes_status:
            return "status"
        if self.changes_content:
            return "content"
        return "error" if self.metadata is None else "metadata"

    @property
    def changes_status(self) -> bool:
        """Whether the status is another one than before; at creation it is."""
        return self.status is not self.previous

    @property
    def changes_content(self) -> bool:
        """Whether the text is another one than before."""
        return self.append is not None or self.content is not None


class StatusTracker:
    """Where a message stands and how it came there. It may exist before its message does.

    Each revision counts once, in order; a poller applies them.
    """

    def __init__(self, message: MessageLike) -> None:
        self.message_id = message_id_of(message)
        # All that is known, so that no interrupt leaves a change half applied.
        self._history: list[Change] = []

    def apply(self, change: Change) -> Event | None:
        """Take a change; None if it (or a later one) was applied before.

        Raises ValueError for a change of another message.
        """
        if change.message_id != self.message_id:
            raise ValueError(
                f"revision {change.revision} is of message {change.message_id!r}, "
                f"not of {self.message_id!r}"
            )
        if change.revision <= self.revision:
            return None
        self._history.append(change)
        return Event.of(change, self)

    @property
    def status(self) -> MessageStatus:
        """The latest status; UNKNOWN as long as the message does not exist."""
        return self._history[-1].status if self._history else MessageStatus.UNKNOWN

    @property
    def statuses(self) -> list[MessageStatus]:
        """The distinct statuses in order, without UNKNOWN."""
        return [status for status, _ in groupby(change.status for change in self._history)]

    @property
    def history(self) -> list[Change]:
        """Every change so far, in order."""
        return [
            change
            if change.metadata is None
            else replace(change, metadata=_copied(change.metadata))
            for change in self._history
        ]

    @property
    def changes(self) -> int:
        """How many there have been."""
        return len(self._history)

    @property
    def revision(self) -> int:
        """That of the latest change, 0 before the first."""
        return self._history[-1].revision if self._history else 0

    @property
    def content_length(self) -> int:
        """Characters of the message's text."""
        return self._history[-1].content_length if self._history else 0

    @property
    def error(self) -> str | None:
        """Why it failed, if its writer said so."""
        return self._history[-1].error if self._history else None

    @property
    def exists(self) -> bool:
        """Whether the message has appeared."""
        return bool(self._history)

    @property
    def is_terminal(self) -> bool:
        """Whether its status is final."""
        return self.status.is_terminal

    @property
    def ended_at_revision(self) -> int | None:
        """The revision that made it terminal, None as long as none did."""
        if not self.is_terminal:
            return None
        return next(c.revision for c in self._history if c.status.is_terminal)

    def events(self, start: int = 0) -> list[Event]:
        """Its history as events, from the ``start``-th on."""
        return [Event.of(change, self) for change in self._history[start:]]

    def __repr__(self) -> str:
        steps = " -> ".join(self.statuses) or "unknown"
        return f"<StatusTracker {self.message_id!r}: {steps}>"


def _copied(value: Any) -> Any:
    """Of metadata, which is JSON: whoever changes the copy changes no other's."""
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copied(each) for each in value]
    return value
