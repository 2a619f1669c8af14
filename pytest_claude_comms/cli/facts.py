"""What can be said of a message as it stands, for the commands that only read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from .. import render
from ..status import STORABLE, MessageStatus
from . import json_form

if TYPE_CHECKING:
    from ..records import Message
    from ..stores.base import ConversationStore

STATUSES = tuple(status for status in MessageStatus if status in STORABLE)
OPEN = tuple(status for status in STATUSES if not status.is_terminal)


def is_overdue(message: Message, now: datetime) -> bool:
    """Whether its deadline has passed without anybody noticing."""
    deadline = message.deadline_at
    return not message.status.is_terminal and deadline is not None and deadline <= now


def counts(messages: Sequence[Message]) -> dict[MessageStatus, int]:
    """How many there are of each status."""
    found = dict.fromkeys(STATUSES, 0)
    for message in messages:
        found[message.status] += 1
    return found


def counts_json(found: dict[MessageStatus, int]) -> json_form.Json:
    """For a document."""
    return {status.value: count for status, count in found.items()}


def counted(found: dict[MessageStatus, int]) -> str:
    """``2 pending, 1 failed``; those that there are none of are not said."""
    return ", ".join(f"{count:,} {status}" for status, count in found.items() if count) or "none"


def store_json(store: ConversationStore) -> json_form.Json:
    """Which store was read."""
    return {
        "url": store.url,
        "store_id": store.store_id,
        "backend": store.backend,
        "revision": store.cursor(),
    }


def moment(at: datetime, now: datetime) -> str:
    """``2026-01-01T00:00:30Z (3 min 20 s ago)``."""
    return f"{render.instant(at)} ({render.ago((now - at).total_seconds())})"


def in_table(messages: Sequence[Message], now: datetime) -> list[list[str]]:
    """Rows for :meth:`.Output.table`, the head first; the status is column 1."""
    rows = [["MESSAGE", "STATUS", "CHANGED", "CHARACTERS", "TYPE", "MODULE"]]
    rows += [
        [
            render.clean(message.message_id),
            message.status.value,
            render.ago((now - message.updated_at).total_seconds()),
            f"{len(message.content):,}",
            render.clean(message.message_type),
            render.clean(message.module_name),
        ]
        for message in messages
    ]
    return rows
