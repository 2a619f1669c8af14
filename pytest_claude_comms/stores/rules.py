"""What a commit does: pure functions from a message's row and a request to its next row.

Every shipped store runs these inside its write lock, so they cannot disagree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from ..clock import LAST_US, SECOND, to_datetime
from ..errors import InvalidTransition
from ..records import Change, ConversationThread, Message
from ..status import TRANSITIONS, MessageStatus
from . import values


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadRow:
    """A thread as stores keep it; metadata as JSON text, times in microseconds since 1970."""

    thread_id: str
    title: str
    modules: tuple[str, ...]
    metadata: str
    created_us: int

    def record(self) -> ConversationThread:
        return ConversationThread(
            thread_id=self.thread_id,
            title=self.title,
            modules=self.modules,
            metadata=json.loads(self.metadata),
            created_at=to_datetime(self.created_us),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """A message as stores keep it; ``revision`` 0 until the store has given it one."""

    message_id: str
    thread_id: str
    module_name: str
    content: str
    message_type: str
    status: MessageStatus
    created_us: int
    updated_us: int
    expires_us: int | None
    """Creation + ``timeout``."""
    stall_us: int | None
    """``stall_timeout``."""
    error: str | None
    metadata: str
    revision: int = 0

    @property
    def deadline_us(self) -> int | None:
        """The instant from which the message is overdue, as long as it is not terminal."""
        if self.stall_us is None:
            return self.expires_us
        stalled_us = min(self.updated_us + self.stall_us, LAST_US)
        return stalled_us if self.expires_us is None else min(stalled_us, self.expires_us)

    @property
    def open_deadline_us(self) -> int | None:
        """Its deadline if it still has one to miss, else None."""
        return None if self.status.is_terminal else self.deadline_us

    def record(self) -> Message:
        # What has ended stalls no more.
        deadline_us = self.expires_us if self.status.is_terminal else self.deadline_us
        return Message(
            message_id=self.message_id,
            thread_id=self.thread_id,
            module_name=self.module_name,
            content=self.content,
            message_type=self.message_type,
            status=self.status,
            created_at=to_datetime(self.created_us),
            updated_at=to_datetime(self.updated_us),
            deadline_at=None if deadline_us is None else to_datetime(deadline_us),
            error=self.error,
            metadata=json.loads(self.metadata),
            revision=self.revision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRow:
    """A change as stores keep it; ``revision`` 0 until the store has given it one."""

    revision: int = 0
    message_id: str
    thread_id: str
    at_us: int
    previous: MessageStatus | None
    status: MessageStatus
    append: str | None = None
    content: str | None = None
    content_length: int
    error: str | None = None
    metadata: str | None = None

    def record(self) -> Change:
        return Change(
            revision=self.revision,
            message_id=self.message_id,
            thread_id=self.thread_id,
            at=to_datetime(self.at_us),
            previous=self.previous,
            status=self.status,
            append=self.append,
            content=self.content,
            content_length=self.content_length,
            error=self.error,
            metadata=None if self.metadata is None else json.loads(self.metadata),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one ``update_message`` asks for; checked values, None for what it leaves alone."""

    status: MessageStatus | None = None
    content: str | None = None
    append: str | None = None
    error: str | None = None
    sets_error: bool = False
    metadata: dict[str, object] | None = None

    @property
    def touches_outcome(self) -> bool:
        """Whether it asks for more than metadata, which is all that a terminal message takes."""
        return (
            self.status is not None
            or self.content is not None
            or self.append is not None
            or self.sets_error
        )


def outlives_trimming(change: ChangeRow, row: MessageRow) -> bool:
    """Whether ``change``, of the message that is now ``row``, is kept however far history is cut.

    An open message keeps all of its history: whoever starts to follow it now has to see each
    step. An ended one keeps the change that ended it and its last one, so that a tracker can say
    how it stands; UNKNOWN, and a wait that never ends, would be lies.
    """
    return outlives(
        change.previous,
        change.status,
        stands=row.status,
        is_last=change.revision == row.revision,
    )


def outlives(
    previous: MessageStatus | None, status: MessageStatus, *, stands: MessageStatus, is_last: bool
) -> bool:
    """As ``outlives_trimming``, for a store that does not read whole rows for it."""
    if not stands.is_terminal or is_last:
        return True
    return status.is_terminal and previous is not status


def created(row: MessageRow) -> ChangeRow:
    """The change that creates ``row``, of its revision."""
    return ChangeRow(
        revision=row.revision,
        message_id=row.message_id,
        thread_id=row.thread_id,
        at_us=row.created_us,
        previous=None,
        status=row.status,
        content=row.content or None,
        content_length=len(row.content),
        metadata=None if row.metadata == "{}" else row.metadata,
    )


def is_late(row: MessageRow, now_us: int) -> bool:
    """Whether a write comes too late. At the very instant of the deadline it still counts."""
    deadline_us = row.open_deadline_us
    return deadline_us is not None and now_us > deadline_us


def timed_out(row: MessageRow, now_us: int) -> tuple[MessageRow, ChangeRow]:
    """The message after its deadline, and the change that makes it so."""
    if row.deadline_us == row.expires_us and row.expires_us is not None:
        error = f"no end within {(row.expires_us - row.created_us) / SECOND:g} s of its creation"
    else:
        error = f"nothing happened for {(row.stall_us or 0) / SECOND:g} s"
    return _committed(
        row, now_us, replace(row, status=MessageStatus.TIMEOUT, error=error, updated_us=now_us)
    )


def updated(row: MessageRow, request: Request, now_us: int) -> tuple[MessageRow, ChangeRow] | None:
    """The message after ``request`` and its change, or None if that changes nothing.

    Raises InvalidTransition where the status that stands does not allow it.
    """
    if row.status.is_terminal and request.touches_outcome:
        raise InvalidTransition(row.message_id, row.status, request.status)
    status = row.status
    if request.status is not None and request.status is not status:
        if request.status not in TRANSITIONS[status]:
            raise InvalidTransition(row.message_id, status, request.status)
        status = request.status
    content = row.content
    if request.content is not None:
        content = request.content
    elif request.append:
        content += request.append
    delta = _metadata_delta(row, request)
    after = replace(
        row,
        status=status,
        content=content,
        error=request.error if request.sets_error else row.error,
        metadata=row.metadata
        if delta is None
        else values.dump({**json.loads(row.metadata), **delta}),
    )
    if after == row:
        return None
    return _committed(
        row,
        now_us,
        replace(after, updated_us=now_us),
        append=(request.append or None) if request.content is None else None,
        metadata=None if delta is None else values.dump(delta),
    )


def _metadata_delta(row: MessageRow, request: Request) -> dict[str, object] | None:
    if not request.metadata:
        return None
    old = json.loads(row.metadata)
    # Compared as text: to Python True == 1 == 1.0, to a reader of the store they differ.
    delta = {
        key: value
        for key, value in request.metadata.items()
        if key not in old or values.dump(old[key]) != values.dump(value)
    }
    return delta or None


def _committed(
    before: MessageRow,
    now_us: int,
    after: MessageRow,
    *,
    append: str | None = None,
    metadata: str | None = None,
) -> tuple[MessageRow, ChangeRow]:
    replaced = append is None and after.content != before.content
    change = ChangeRow(
        message_id=after.message_id,
        thread_id=after.thread_id,
        at_us=now_us,
        previous=before.status,
        status=after.status,
        append=append,
        content=after.content if replaced else None,
        content_length=len(after.content),
        error=after.error,
        metadata=metadata,
    )
    return after, change
