"""Statuses of a message, and which may follow which."""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final


class MessageStatus(str, Enum):
    """Where a message stands. A member equals its lower-case word and prints as it."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETE = "complete"
    FAILED = "failed"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """A tracker's answer for a message that does not exist (yet). Never stored."""

    # Mixed-in enums changed how they format and print in 3.11 and 3.12; a status
    # that ends up in a log line or a URL must be its word on every Python.
    def __str__(self) -> str:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)

    @property
    def is_terminal(self) -> bool:
        """True for a status that nothing can follow."""
        return self in TERMINAL

    def can_become(self, status: MessageStatus) -> bool:
        """Whether ``status`` may follow this one: pending, processing, then one terminal status.

        Nothing can become what it is already, and UNKNOWN neither becomes anything nor is
        become: it is never stored.
        """
        return status in TRANSITIONS.get(self, ())


TERMINAL: Final = frozenset(
    {
        MessageStatus.COMPLETE,
        MessageStatus.FAILED,
        MessageStatus.TIMEOUT,
        MessageStatus.CANCELLED,
    }
)

STORABLE: Final = frozenset(MessageStatus) - {MessageStatus.UNKNOWN}

TRANSITIONS: Final = MappingProxyType(
    {
        MessageStatus.PENDING: TERMINAL | {MessageStatus.PROCESSING},
        MessageStatus.PROCESSING: TERMINAL,
        **{status: frozenset[MessageStatus]() for status in TERMINAL},
    }
)
"""For each storable status, the statuses that may follow it."""


def parse_status(value: object, *, what: str = "status") -> MessageStatus:
    """The storable status that ``value`` names.

    Raises ValueError for a word that is no storable status ("unknown" is none), TypeError
    for what is not a str.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a MessageStatus or its word, not {value!r}")
    try:
        status = MessageStatus(value)
    except ValueError:
        status = MessageStatus.UNKNOWN
    if status not in STORABLE:
        words = ", ".join(member.value for member in MessageStatus if member in STORABLE)
        raise ValueError(f"{what} {str(value)!r} cannot be stored; it is one of {words}")
    return status
