"""A store of the original shape, without a change feed, behind our Protocol."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import timezone, tzinfo
from functools import cached_property
from typing import Any

from ..clock import Clock, SystemClock, seconds_to_us
from ..errors import (
    AlreadyExists,
    InvalidTransition,
    MessageNotFound,
    StoreBusy,
    StoreError,
    ThreadNotFound,
)
from ..records import ConversationThread, Message
from ..status import parse_status
from . import rules, values
from .adapted_asking import tell
from .adapted_calls import Call, call_for
from .adapted_reading import NAMED_BY, AdaptedReading
from .adapted_shapes import CannotAdapt, Reading, own_id_in
from .base import UNSET, ConversationStore, MessageLike, StatusLike, ThreadLike, Unset
from .requests import request_of
from .rules import MessageRow, Request

_CREATES = ("create_thread", "new_thread", "start_thread")
_ADDS = ("add_message",)
_UPDATES = (
    "update_message",
    "update_message_status",
    "update_status",
    "set_message_status",
    "set_status",
    "update_message_content",
)
_NOT_PROMISED = (
    "it has no change feed, and is compared with how it was: steps between two looks are lost",
    "nothing keeps others from changing what has ended",
)


def adapt_store(
    obj: Any,
    *,
    clock: Clock | None = None,
    threads: Iterable[ThreadLike] | None = None,
    statuses: Mapping[str, StatusLike] | None = None,
    tz: tzinfo | None = None,
) -> AdaptedStore:
    """Make a :class:`ConversationStore` of an object of the original shape.

    ``obj`` has ``get_thread(thread_id)``, which returns a dict with ``messages`` (a list of
    dicts, or a dict of them by id), and for an unknown thread None or an exception such as
    KeyError. It may have ``add_message``, ``create_thread``, ``update_message`` or
    ``update_message_status``, ``list_threads``.

    ``threads`` are the threads to look at; without it, all that ``obj`` lists. Those that are
    named to any method of the adapter, or to ``include``, are looked at too. ``statuses`` says
    what words of its own mean: ``{"answered": "complete"}``; a message without a status is
    complete. ``tz`` is the zone of times that name none: this machine's, and UTC on a fake clock.

    **What it cannot keep.** Changes are found by comparing how threads are with how they were:
    of steps between two looks only the last is seen. Revisions are the adapter's own, and begin
    anew with each adapter. A status can be overwritten behind its back, and between its check
    and its write: terminal is as final as ``obj`` lets it be. A deadline is one only if ``obj``
    keeps it (``deadline_at``) and can write a status. What is written by way of the adapter is
    seen, every step of it.

    **Threads.** The adapter's calls exclude each other, but not those of others to ``obj``. If
    ``obj`` is not made for several threads (TinyDB is not: two of them spoil its file) and a
    poller runs in the background, write by way of the adapter, or give the adapter an object of
    its own on the same file.

    **Cost.** Every read gets the threads concerned from ``obj``, every poll all of them, and is
    linear in their messages. All changes that were seen are kept in memory; ``compact`` trims
    them.

    Raises TypeError for an object that has no ``get_thread``, and for a store that needs no
    adapter.
    """
    if isinstance(obj, ConversationStore):
        raise TypeError(f"{obj!r} is a ConversationStore already: use it as it is")
    kind = type(obj).__name__
    if isinstance(obj, type) or not callable(getattr(obj, "get_thread", None)):
        raise TypeError(
            "adapt_store needs an object with get_thread(thread_id), which returns a dict with "
            f"'messages', not {obj!r}"
        )
    if isinstance(threads, (str, Mapping, ConversationThread)):
        raise TypeError(f"threads must be a list of threads, not {threads!r}")
    clock = SystemClock() if clock is None else clock
    if tz is None and not isinstance(clock, SystemClock):
        tz = timezone.utc  # what time that a fake clock froze is local to
    words = {word: parse_status(each) for word, each in (statuses or {}).items()}
    return AdaptedStore(obj, clock, Reading(name=kind, statuses=words, zone=tz), threads)


class AdaptedStore(AdaptedReading):
    """What :func:`adapt_store` returns. Reads by comparing, writes by the object's own methods.

    ``add_message`` returns what the object's own returns, all else what the Protocol says.
    Closing it leaves the object open.
    """

    notifies = False
    """The object is written to behind its back, in this process too."""
    capabilities = frozenset({"multi_thread"})
    """What it holds of what is not asked of every store."""
    returns = "its own"
    """The shape in which ``add_message`` answers: that of the object's own method."""

    @property
    def not_promised(self) -> tuple[str, ...]:
        """What this store cannot keep, in words for a person; pages of failures show it."""
        looks = f"it looks at {self.looks_at}; {NAMED_BY}"
        return (*_NOT_PROMISED, looks)

    # -- writing, by the object's own methods

    def create_thread(
        self,
        title: str = "",
        *,
        modules: Collection[str] = (),
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
    ) -> ConversationThread:
        """As the Protocol says. Raises CannotAdapt for what the object has no parameter for."""
        asked = {
            "title": values.text(title, "title"),
            "modules": list(values.module_names(modules)),
            "metadata": values.metadata(metadata),
        }
        if thread_id is not None:
            asked["thread_id"] = values.identifier(thread_id, "thread_id")
        given = {name: value for name, value in asked.items() if value}
        call = self._call(_CREATES, given, asked, "create_thread()")
        with self._lock:
            self._check_usable()
            if thread_id is not None:
                self.include(thread_id)
                self._look_holding([thread_id])
                if self._feed.state.thread(thread_id) is not None:
                    raise AlreadyExists("thread", thread_id, store=self.url)
            answer = self._tell(call)
            try:
                found_id = values.thread_id_of(thread_id if answer is None else answer)
            except (TypeError, ValueError) as error:
                raise CannotAdapt(
                    f"{self._name}.{call.name}() returned {answer!r}, which has no thread id",
                    outcome="unknown",
                ) from error
            self.include(found_id)
            self._look_after(call, found_id)
            row = self._feed.state.thread(found_id)
        if row is None:
            raise CannotAdapt(
                f"{self._name}.{call.name}() returned {found_id!r}, of which its get_thread() "
                "knows nothing",
                outcome="unknown",
            )
        return row.record()

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
    ) -> Any:
        """Add a message, and return what the object's own ``add_message`` returns: a dict, or
        a str. Raises CannotAdapt for what it has no parameter for, deadlines for instance."""
        thread_id = values.thread_id_of(thread)
        given = {
            "thread_id": thread_id,
            "module_name": values.text(module_name, "module_name"),
            "content": values.text(content, "content"),
        }
        asked: dict[str, tuple[Any, Any]] = {
            "message_type": (values.text(message_type, "message_type"), "message"),
            "status": (parse_status(status).value, "complete"),
            "timeout": (_seconds(timeout, "timeout"), None),
            "stall_timeout": (_seconds(stall_timeout, "stall_timeout"), None),
            "metadata": (values.metadata(metadata), {}),
            "message_id": (
                None if message_id is None else values.identifier(message_id, "message_id"),
                None,
            ),
        }
        given |= {name: value for name, (value, usual) in asked.items() if value != usual}
        spare = {name: value for name, (value, _) in asked.items() if value is not None}
        call = self._call(_ADDS, given, spare, "add_message()")
        self.include(thread_id)
        with self._lock:
            self._check_usable()
            self._look_holding([thread_id])
            if self._feed.state.thread(thread_id) is None and hasattr(self.original, _CREATES[0]):
                raise ThreadNotFound(thread_id, store=self.url)
            if message_id is not None and self._feed.state.message(message_id) is not None:
                raise AlreadyExists("message", message_id, store=self.url)
            answer = self._tell(call)
            self._look_after(call, thread_id)
            other = own_id_in(answer)
            is_lost = message_id is not None and self._feed.state.message(message_id) is None
            if is_lost and other not in {None, message_id}:
                raise CannotAdapt(
                    f"{self._name}.{call.name}() was given message_id={message_id!r} and returned "
                    f"another id, {other!r}, under which the message may be now: let it use the "
                    "id that it is given",
                    outcome="unknown",
                )
        self._hub.notify()
        return str(answer) if type(answer) is int else answer

    def check_asking(self, *, title: str | None, deadlines: Collection[str]) -> None:
        """Raise CannotAdapt, before anything is stored, for what ``ask_module`` needs and the
        object has no parameter for.

        ``title`` is that of a new thread, None where there is a thread already; ``deadlines``
        are those of the answer, by name.
        """
        question = dict.fromkeys(("thread_id", "module_name", "content", "message_type"))
        spare = dict.fromkeys(("message_type", "status", "metadata"))
        answer = question | spare | {"message_id": None}
        update = dict.fromkeys(("message_id", "status", "content", "error", "metadata"))
        needed: list[tuple[tuple[str, ...], Mapping[str, Any], Mapping[str, Any]]] = [
            (_ADDS, answer, {}),
            (_ADDS, question, spare),
            (_UPDATES, update, {"thread_id": None}),
        ]
        if title is not None:
            made_with = dict.fromkeys(("modules", "title") if title else ("modules",))
            needed.append((_CREATES, made_with, dict.fromkeys(("title", "metadata"))))
        for names, given, more in needed:
            call_for(
                self.original, names, given, more,
                what="ask_module()", way_out="change that, or ask with a store of open_store(url)",
            )  # fmt: skip
        what = f"ask_module({', '.join(f'{name}=' for name in deadlines)})"
        call_for(self.original, _ADDS, answer | dict.fromkeys(deadlines), {}, what=what)

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
        """As the Protocol says, but for one thing: the object has no compare-and-set, so that
        between the check and the write another may write. Raises CannotAdapt where no method of
        the object takes all of it at once."""
        request = request_of(
            status=status, content=content, append=append, error=error, metadata=metadata
        )
        home = self._home_of(message)
        message_id = values.message_id_of(message)
        with self._lock:
            self._check_usable()
            self._look_holding(home)
            row = self._feed.state.message(message_id)
            if row is None:
                raise MessageNotFound(message_id, store=self._where)
            late = self._settles and rules.is_late(row, self.clock.now_us())
            row = self._settle_by_write(row) if late else self._update(row, request)
        self._hub.notify()
        if late:
            raise InvalidTransition(
                message_id, row.status, request.status, why=f"{row.error}, its deadline is past"
            )
        return row.record()

    def _update(self, row: MessageRow, request: Request) -> MessageRow:
        outcome = rules.updated(row, request, self.clock.now_us())
        if outcome is None:
            return row
        after, change = outcome
        given: dict[str, Any] = {}
        if after.status is not row.status:
            given["status"] = after.status.value
        if after.content != row.content:
            given["content"] = after.content
        if after.error != row.error:
            given["error"] = after.error
        if change.metadata is not None:
            given["metadata"] = json.loads(after.metadata)
        return self._written(row, self._call_of_update(row, given))

    def _call_of_update(self, row: MessageRow, given: dict[str, Any]) -> Call:
        what = f"update_message({', '.join(f'{name}=' for name in given)})"
        # First, or a text would take the parameter `message` that is meant for the id.
        own_id = self._feed.native_ids.get(row.message_id, row.message_id)
        given = {"message_id": own_id, **given}
        rest = {"thread_id": row.thread_id}
        stands = {"status": row.status.value, "content": row.content}
        return call_for(self.original, _UPDATES, given, rest, stands=stands, what=what)

    def _written(self, row: MessageRow, call: Call) -> MessageRow:
        self._tell(call)
        self._look_after(call, row.thread_id)
        return self._feed.state.message(row.message_id) or row

    def _look_after(self, call: Call, thread_id: str) -> None:
        """Look at what ``call`` did. Raises StoreError that does not say that it did nothing, or
        an append would be repeated."""
        try:
            self._look_holding([thread_id])
        except StoreError as error:
            kind = StoreError if error.transient else CannotAdapt
            # What StoreBusy says, that nothing was changed, is true of the look alone.
            why = f"busy for {error.waited:.3g} s" if isinstance(error, StoreBusy) else str(error)
            raise kind(
                f"{self._name}.{call.name}() has been called and has returned, but what it did "
                f"could not be read ({why}): look before you ask for it again",
                outcome="unknown",
            ) from error

    # -- deadlines

    def next_deadline_us(self) -> int | None:
        return super().next_deadline_us() if self._settles else None

    def expire(self) -> list[Message]:
        """Make ``timeout`` what its own ``deadline_at`` has passed of, by the object's own
        method; nothing, where it has none that writes a status."""
        self._look()
        if not self._settles:
            return []
        with self._reading() as state:
            rows = [self._settle_by_write(row) for row in state.overdue(self.clock.now_us())]
        if rows:
            self._hub.notify()
        return [row.record() for row in rows]

    @cached_property
    def _settles(self) -> bool:
        """Whether the object can be told that a message timed out."""
        try:
            call_for(
                self.original, _UPDATES, {"message_id": "", "status": "timeout"},
                {"thread_id": ""}, stands={"content": ""}, what="",
            )  # fmt: skip
        except CannotAdapt:
            return False
        return True

    def _settle_by_write(self, row: MessageRow) -> MessageRow:
        late, _ = rules.timed_out(row, self.clock.now_us())
        given = {"status": late.status.value, "error": late.error}
        try:
            call = self._call_of_update(row, given)
        except CannotAdapt:  # it keeps no errors
            call = self._call_of_update(row, {"status": late.status.value})
        row = self._written(row, call)
        if not row.status.is_terminal:
            raise CannotAdapt(
                f"{self._name} was told that message {row.message_id!r} is timeout, and it still "
                f"is {row.status}",
                outcome="unknown",
            )
        return row

    def _call(
        self, names: tuple[str, ...], given: Mapping[str, Any], spare: Mapping[str, Any], what: str
    ) -> Call:
        return call_for(self.original, names, given, spare, what=what)

    def _tell(self, call: Call) -> Any:
        return tell(call, f"{self._name}.{call.name}()")


def _seconds(value: float | None, what: str) -> float | None:
    if value is not None:
        seconds_to_us(value, what)
    return value
