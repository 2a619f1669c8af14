"""The plain records that stores hand out. Frozen: a change is always a call to the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .status import MessageStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationThread:
    """One conversation between modules; its messages by ``store.messages(thread_id=…)``."""

    thread_id: str
    title: str
    modules: tuple[str, ...]
    metadata: Mapping[str, Any] = field(hash=False)
    created_at: datetime
    """Aware, UTC, to the microsecond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message as it stood at ``revision``."""

    message_id: str
    thread_id: str
    module_name: str
    content: str
    message_type: str
    status: MessageStatus
    created_at: datetime
    updated_at: datetime
    deadline_at: datetime | None
    """The instant at which the message becomes ``timeout`` if nothing changes before: the
    earlier of its creation + ``timeout`` and its last change + ``stall_timeout``. None: never.
    Once it has ended, creation + ``timeout``."""
    error: str | None
    metadata: Mapping[str, Any] = field(hash=False)
    revision: int
    """That of the last change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One commit: what it did to one message."""

    revision: int
    """Store-wide, increasing, in the order of the commits."""
    message_id: str
    thread_id: str
    at: datetime
    previous: MessageStatus | None
    """The status before; None at creation."""
    status: MessageStatus
    """The status after, changed or not."""
    append: str | None = None
    """Text that was added at the end, or None."""
    content: str | None = None
    """The whole new text, if it was set or replaced (never beside ``append``), or None."""
    content_length: int = 0
    """Characters of the whole text after this change."""
    error: str | None = None
    """The message's error text after this change, or None."""
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    """The metadata keys that this change set, or None."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes in order, and the cursor to ask with for those after them."""

    items: tuple[Change, ...]
    cursor: int
    """Nothing with a revision up to this one can appear later."""

    def __iter__(self) -> Iterator[Change]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
