"""What all shipped stores have in common: everything but how rows are kept.

A backend gives two context managers: ``_reading`` (a consistent :class:`Snapshot`) and
``_writing`` (a :class:`Transaction`: under the write lock, all kept or nothing).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Protocol, TypeVar

from .. import resources
from ..clock import LAST_US, SECOND, Clock, SystemClock, seconds_to_us
from ..errors import (
    AlreadyExists,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    StoreClosed,
    ThreadNotFound,
)
from ..records import Changes, ConversationThread, Message
from ..redacted_text import RedactedAppends
from ..redaction import Redact, Redaction
from ..status import MessageStatus, parse_status
from . import rules, values
from .base import UNSET, MessageLike, StatusLike, ThreadLike, Unset
from .hub import Hub
from .rules import ChangeRow, MessageRow, Request, ThreadRow

BUSY_TIMEOUT = 5.0
"""Seconds for which a busy store is retried before StoreBusy."""

_Self = TypeVar("_Self", bound="BaseStore")


class Snapshot(Protocol):
    """A store as it is at one instant."""

    def thread(self, thread_id: str) -> ThreadRow | None: ...

    def threads(self) -> list[ThreadRow]:
        """In the order of creation."""

    def message(self, message_id: str) -> MessageRow | None: ...

    def messages(
        self, thread_id: str | None, statuses: frozenset[MessageStatus] | None
    ) -> list[MessageRow]:
        """In the order of creation."""

    def changes(self, since: int, limit: int | None, message_id: str | None) -> list[ChangeRow]:
        """Those after ``since``, in the order of their revisions."""

    def revision(self) -> int:
        """The last one given, 0 before the first."""

    def trimmed(self) -> int:
        """The revision up to which history was cut, 0 if all is there."""

    def retained(self) -> list[ChangeRow]:
        """All changes that are kept, by revision: also those that outlived a trimming."""

    def first_after(self, at_us: int) -> int | None:
        """The revision of the first change that was made after this instant and is not trimmed."""

    def next_deadline_us(self) -> int | None:
        """The earliest ``open_deadline_us``."""

    def overdue(self, now_us: int) -> list[MessageRow]:
        """Those whose ``open_deadline_us`` is at most ``now_us``, by deadline, then creation."""


class Transaction(Snapshot, Protocol):
    """A snapshot that can be changed, under the write lock. Reads see its own writes."""

    def add_thread(self, row: ThreadRow) -> None: ...

    def commit(self, row: MessageRow, change: ChangeRow) -> int:
        """Keep a message's new row and its change; returns the revision that both were given.

        The message is new, or was read in this transaction.
        """


class BaseStore(ABC):
    """A store, but for how it keeps its rows."""

    backend: ClassVar[str]

    def __init__(
        self, url: str, hub: Hub, clock: Clock | None, redact: Redact | None = None
    ) -> None:
        self.url = url
        self.redaction = None if redact is None else Redaction(redact)
        """What takes out of every text what is not to be stored."""
        self._appends = None if self.redaction is None else RedactedAppends(self.redaction)
        if clock is not None and not hasattr(clock, "now_us"):
            raise TypeError(f"clock must be a Clock, or None for real time, not {clock!r}")
        self.clock = SystemClock() if clock is None else clock
        self._hub = hub
        self._closed = False
        self._is_half_closed = False
        self._pid = os.getpid()

    # -- what a backend adds

    @property
    @abstractmethod
    def store_id(self) -> str:
        """Random, given at creation."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Snapshot]: ...

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Transaction]:
        """Enters with the write lock held; a clean exit returns once all is durable, an
        exception leaves everything as it was. Raises StoreBusy."""

    @abstractmethod
    def _close(self) -> None:
        """Let go of all that it holds. Called once more where it was interrupted."""

    # -- threads

    def create_thread(
        self,
        title: str = "",
        *,
        modules: Collection[str] = (),
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
    ) -> ConversationThread:
        title = values.text(title, "title")
        names = values.module_names(modules)
        extra = values.metadata(metadata)
        wanted = None if thread_id is None else values.identifier(thread_id, "thread_id")
        self._check_usable()
        if self.redaction is not None:
            title = self.redaction(title, "title")
            names = tuple(self.redaction(name, "modules") for name in names)
            extra = self.redaction.values(extra, "metadata")
        with self._writing() as tx:
            if wanted is not None and tx.thread(wanted) is not None:
                raise AlreadyExists("thread", wanted, store=self.url)
            row = ThreadRow(
                thread_id=wanted if wanted is not None else _new_id(tx.thread),
                title=title,
                modules=names,
                metadata=values.dump(extra),
                created_us=self.clock.now_us(),
            )
            tx.add_thread(row)
        return row.record()

    def get_thread(self, thread: ThreadLike) -> ConversationThread:
        thread_id = values.thread_id_of(thread)
        self._check_usable()
        with self._reading() as snapshot:
            return self._thread(snapshot, thread_id).record()

    def threads(self) -> list[ConversationThread]:
        self._check_usable()
        with self._reading() as snapshot:
            rows = snapshot.threads()
        return [row.record() for row in rows]

    # -- messages

    def add_message(
        self,
        thread: ThreadLike,
        module_name: str,
        content: str = "",
        *,
        message_type: str = "message",
        status: StatusLike = "complete",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> Message:
        thread_id = values.thread_id_of(thread)
        module_name = values.text(module_name, "module_name")
        content = values.text(content, "content")
        message_type = values.text(message_type, "message_type")
        first = parse_status(status)
        timeout_us = None if timeout is None else seconds_to_us(timeout, "timeout")
        stall_us = None if stall_timeout is None else seconds_to_us(stall_timeout, "stall_timeout")
        extra = values.metadata(metadata)
        wanted = None if message_id is None else values.identifier(message_id, "message_id")
        self._check_usable()
        if self.redaction is not None:
            module_name = self.redaction(module_name, "module_name")
            message_type = self.redaction(message_type, "message_type")
            extra = self.redaction.values(extra, "metadata")
            if first.is_terminal:  # nothing will be appended to it
                content = self.redaction(content, "content")
        with self._writing() as tx:
            self._thread(tx, thread_id)
            if wanted is not None and tx.message(wanted) is not None:
                raise AlreadyExists("message", wanted, store=self.url)
            now_us = self.clock.now_us()
            for name, span_us in (("timeout", timeout_us), ("stall_timeout", stall_us)):
                if span_us is not None and now_us + span_us > LAST_US:
                    raise ValueError(f"{name}={span_us / SECOND:g} s ends after the year 9999")
            new_id = wanted if wanted is not None else _new_id(tx.message)
            if self._appends is not None and not first.is_terminal:
                content = self._appends.begun(new_id, content)
            row = MessageRow(
                message_id=new_id,
                thread_id=thread_id,
                module_name=module_name,
                content=content,
                message_type=message_type,
                status=first,
                created_us=now_us,
                updated_us=now_us,
                expires_us=None if timeout_us is None else now_us + timeout_us,
                stall_us=stall_us,
                error=None,
                metadata=values.dump(extra),
            )
            revision = tx.commit(row, rules.created(row))
        self._hub.notify()
        return replace(row, revision=revision).record()

    def update_message(
        self,
        message: MessageLike,
        *,
        status: StatusLike | Unset = UNSET,
        content: str | Unset = UNSET,
        append: str | Unset = UNSET,
        error: str | None | Unset = UNSET,
        metadata: Mapping[str, Any] | None | Unset = UNSET,
    ) -> Message:
        message_id = values.message_id_of(message)
        if not isinstance(content, Unset) and not isinstance(append, Unset):
            raise ValueError("content= replaces the text and append= adds to it: give one of them")
        request = Request(
            status=None if isinstance(status, Unset) else parse_status(status),
            content=None if isinstance(content, Unset) else values.text(content, "content"),
            append=None if isinstance(append, Unset) else values.text(append, "append"),
            error=None
            if error is None or isinstance(error, Unset)
            else values.text(error, "error"),
            sets_error=not isinstance(error, Unset),
            metadata=None if isinstance(metadata, Unset) else values.metadata(metadata),
        )
        self._check_usable()
        if self.redaction is not None:
            request = replace(
                request,
                error=None if request.error is None else self.redaction(request.error, "error"),
                metadata=self.redaction.values(request.metadata, "metadata"),
            )
        late = None
        with self._writing() as tx:
            row = self._message(tx, message_id)
            now_us = self.clock.now_us()
            if rules.is_late(row, now_us):
                late = self._settle(tx, row, now_us)
            else:
                if self._appends is not None:
                    request = _redacted(self._appends, row, request)
                outcome = rules.updated(row, request, now_us)
                if outcome is None:
                    return row.record()
                row, change = outcome
                row = replace(row, revision=tx.commit(row, change))
        self._hub.notify()
        if self._appends is not None and (late or row).status.is_terminal:
            self._appends.forget(message_id)
        if late is not None:
            raise InvalidTransition(
                message_id, late.status, request.status, why=f"{late.error}, its deadline is past"
            )
        return row.record()

    def get_message(self, message: MessageLike) -> Message:
        message_id = values.message_id_of(message)
        self._check_usable()
        with self._reading() as snapshot:
            return self._message(snapshot, message_id).record()

    def messages(
        self,
        thread_id: ThreadLike | None = None,
        status: StatusLike | Collection[StatusLike] | None = None,
    ) -> list[Message]:
        wanted = None if thread_id is None else values.thread_id_of(thread_id)
        statuses = values.statuses(status)
        self._check_usable()
        with self._reading() as snapshot:
            if wanted is not None:
                self._thread(snapshot, wanted)
            rows = snapshot.messages(wanted, statuses)
        return [row.record() for row in rows]

    # -- the feed

    def changes(
        self, since: int = 0, *, limit: int | None = None, message: MessageLike | None = None
    ) -> Changes:
        since = values.count(since, "since", least=0)
        if limit is not None:
            limit = values.count(limit, "limit", least=1)
        message_id = None if message is None else values.message_id_of(message)
        self._check_usable()
        if message_id is None and self._is_last(since):
            return Changes((), since)
        with self._reading() as snapshot:
            last = snapshot.revision()
            if since > last:
                raise HistoryGone(
                    f"its last revision is {last}: it is not the store that gave this cursor",
                    store=self.url,
                    since=since,
                )
            # Of one message "from the beginning" is what is retained of it.
            if since < snapshot.trimmed() and (message_id is None or since > 0):
                raise HistoryGone(
                    f"changes up to revision {snapshot.trimmed()} were trimmed",
                    store=self.url,
                    since=since,
                )
            rows = snapshot.changes(since, limit, message_id)
        cut = limit is not None and len(rows) == limit
        return Changes(tuple(row.record() for row in rows), rows[-1].revision if cut else last)

    def _is_last(self, since: int) -> bool:
        """Whether ``since`` is surely the last revision, told without reading; False if unsure."""
        return False

    def cursor(self) -> int:
        self._check_usable()
        with self._reading() as snapshot:
            return snapshot.revision()

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        return self._hub.subscribe(wake)

    # -- deadlines

    def expire(self) -> list[Message]:
        self._check_usable()
        now_us = self.clock.now_us()
        with self._reading() as snapshot:
            first = snapshot.next_deadline_us()
        if first is None or first > now_us:
            return []
        with self._writing() as tx:
            now_us = self.clock.now_us()
            rows = [self._settle(tx, row, now_us) for row in tx.overdue(now_us)]
        if rows:
            self._hub.notify()
        return [row.record() for row in rows]

    def next_deadline_us(self) -> int | None:
        self._check_usable()
        with self._reading() as snapshot:
            return snapshot.next_deadline_us()

    def _settle(self, tx: Transaction, row: MessageRow, now_us: int) -> MessageRow:
        row, change = rules.timed_out(row, now_us)
        return replace(row, revision=tx.commit(row, change))

    # -- its life

    def close(self) -> None:
        if self._closed and not self._is_half_closed:
            return
        self._closed, self._is_half_closed = True, False
        try:
            if os.getpid() == self._pid:  # what was inherited over a fork is not ours to close
                self._close()
        except BaseException:  # interrupted: the next call does the rest
            self._is_half_closed = True
            raise

    def __enter__(self: _Self) -> _Self:
        self._check_usable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def left_open(self) -> str | None:
        """See :mod:`pytest_claude_comms.resources`."""
        if (self._closed and not self._is_half_closed) or os.getpid() != self._pid:
            return None
        return f"the store {self.url} was not closed: use it in a with block or call close()"

    def _register(self) -> None:
        """To be called by a backend that holds files, once it does."""
        resources.register(self)

    def _check_usable(self) -> None:
        if self.redaction is not None:
            self.redaction.refuse_use()
        if self._closed:
            raise StoreClosed(self.url)
        if os.getpid() != self._pid:
            raise RuntimeError(
                f"the store {self.url} was opened before a fork and is used in the child: "
                f"open it again there with open_store({self.url!r})"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def _thread(self, snapshot: Snapshot, thread_id: str) -> ThreadRow:
        row = snapshot.thread(thread_id)
        if row is None:
            raise ThreadNotFound(thread_id, store=self.url)
        return row

    def _message(self, snapshot: Snapshot, message_id: str) -> MessageRow:
        row = snapshot.message(message_id)
        if row is None:
            raise MessageNotFound(message_id, store=self.url)
        return row


def _redacted(appends: RedactedAppends, row: MessageRow, request: Request) -> Request:
    """``request`` with its text as it may be stored; the whole text, if more of it has to go."""
    if row.status.is_terminal:  # it is refused, or has no text
        return request
    if request.content is not None:
        return replace(request, content=appends.begun(row.message_id, request.content))
    if request.append:
        edit = appends.appended(row.message_id, row.content, request.append)
        return replace(
            request,
            append=None if edit.replaces else edit.text,
            content=edit.text if edit.replaces else None,
        )
    return request


def _new_id(find: Callable[[str], object | None]) -> str:
    """A random id that nobody has."""
    while find(found := os.urandom(8).hex()) is not None:
        pass
    return found
