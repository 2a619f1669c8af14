"""The reference store: a few dicts under a lock. What it answers, the others answer."""

from __future__ import annotations

import heapq
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from ..clock import Clock
from ..redaction import Redact
from ..status import MessageStatus
from . import rules
from .hub import Hub
from .keeping import KeepingStore
from .rules import ChangeRow, MessageRow, ThreadRow

if TYPE_CHECKING:
    from .reports import Progress, StoreSnapshot


class State:
    """Threads, messages and changes in memory. Nothing in it is ever taken back."""

    def __init__(self) -> None:
        self._threads: dict[str, ThreadRow] = {}
        self._messages: dict[str, MessageRow] = {}
        self._order: dict[str, list[str]] = {}
        """Message ids by thread, in the order of creation."""
        self._changes: list[ChangeRow] = []
        self._changes_of: dict[str, list[ChangeRow]] = {}
        self._deadlines: list[tuple[int, str]] = []
        """A heap of (deadline, message id); those that no longer hold are dropped when they
        come up."""
        self._trimmed = 0
        self._unfinished: Callable[[], None] | None = None
        """What is being done. It can be begun anew wherever it was interrupted."""

    def finish(self) -> None:
        """Do what is left of what an interrupt ended midway. Call it before all else, under the
        lock that keeps others out."""
        do = self._unfinished
        if do is not None:
            do()
            self._unfinished = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to ``finish``, nor just being done."""
        return self._unfinished is None

    def load(
        self,
        threads: Iterable[ThreadRow],
        messages: Iterable[MessageRow],
        changes: Iterable[ChangeRow],
        trimmed: int,
    ) -> None:
        """Take all that a store held. Raises KeyError or ValueError where it does not fit."""
        for thread in threads:
            State.add_thread(self, thread)
        for row in messages:
            self._order[row.thread_id].append(row.message_id)
            self._messages[row.message_id] = row
            self._changes_of[row.message_id] = []
            self._plan(row)
        self._trimmed = trimmed
        for change in changes:
            self._changes_of[change.message_id].append(change)
            if change.revision > trimmed:
                if change.revision != self.revision() + 1:
                    raise ValueError(f"revision {change.revision} follows {self.revision()}")
                self._changes.append(change)

    def thread(self, thread_id: str) -> ThreadRow | None:
        return self._threads.get(thread_id)

    def threads(self) -> list[ThreadRow]:
        return list(self._threads.values())

    def message(self, message_id: str) -> MessageRow | None:
        return self._messages.get(message_id)

    def messages(
        self, thread_id: str | None, statuses: frozenset[MessageStatus] | None
    ) -> list[MessageRow]:
        rows = (
            self._messages.values()
            if thread_id is None
            else map(self._messages.__getitem__, self._order.get(thread_id, ()))
        )
        return [row for row in rows if statuses is None or row.status in statuses]

    def changes(self, since: int, limit: int | None, message_id: str | None) -> list[ChangeRow]:
        if message_id is None:
            # Revisions count from 1 without a gap, so a change's place is known.
            start = since - self.trimmed()
            return self._changes[start : None if limit is None else start + limit]
        found = [row for row in self._changes_of.get(message_id, ()) if row.revision > since]
        return found[:limit]

    def revision(self) -> int:
        return self._changes[-1].revision if self._changes else self._trimmed

    def trimmed(self) -> int:
        return self._changes[0].revision - 1 if self._changes else self._trimmed

    def retained(self) -> list[ChangeRow]:
        trimmed = self.trimmed()
        older = [
            change
            for changes in self._changes_of.values()
            for change in changes
            if change.revision <= trimmed
        ]
        return sorted(older, key=lambda change: change.revision) + self._changes

    def first_after(self, at_us: int) -> int | None:
        return next((each.revision for each in self._changes if each.at_us > at_us), None)

    def trim(self, floor: int) -> int:
        """Remove what need not be kept up to ``floor``; returns how many changes that were.

        Trimmed is up to the last one that went, and no further: nobody who is past that misses
        any, so nobody is to be told that history is gone.
        """
        removed, before = 0, self.trimmed()
        last = before
        shorter: dict[str, list[ChangeRow]] = {}
        for message_id, changes in self._changes_of.items():
            row = self._messages[message_id]
            kept = [
                change
                for change in changes
                if change.revision > floor or rules.outlives_trimming(change, row)
            ]
            if len(kept) == len(changes):
                continue
            removed += len(changes) - len(kept)
            held = {change.revision for change in kept}
            gone = (change.revision for change in changes if change.revision not in held)
            last = max(last, *gone)
            shorter[message_id] = kept
        self._unfinished = partial(self._cut, shorter, self._changes[last - before :], last)
        self.finish()
        return removed

    def _cut(
        self, shorter: dict[str, list[ChangeRow]], changes: list[ChangeRow], trimmed: int
    ) -> None:
        self._changes_of.update(shorter)
        self._changes = changes
        self._trimmed = trimmed

    def next_deadline_us(self) -> int | None:
        while self._deadlines:
            deadline_us, message_id = self._deadlines[0]
            if self._messages[message_id].open_deadline_us == deadline_us:
                return deadline_us
            heapq.heappop(self._deadlines)
        return None

    def overdue(self, now_us: int) -> list[MessageRow]:
        due = [
            (row.open_deadline_us, place, row)
            for place, row in enumerate(self._messages.values())
            if row.open_deadline_us is not None and row.open_deadline_us <= now_us
        ]
        return [row for _, _, row in sorted(due, key=lambda each: each[:2])]

    def add_thread(self, row: ThreadRow) -> None:
        self._order.setdefault(row.thread_id, [])  # first: an interrupt may come in between
        self._threads[row.thread_id] = row

    def commit(self, row: MessageRow, change: ChangeRow) -> int:
        revision = self.revision() + 1
        self.apply(replace(row, revision=revision), replace(change, revision=revision))
        return revision

    def apply(self, row: MessageRow, change: ChangeRow) -> None:
        """Take a row and its change, both with their revision. Interrupted, it is nevertheless
        done from its first step on, at the next ``finish``."""
        self._unfinished = partial(self._take, row, change)
        self.finish()

    def _take(self, row: MessageRow, change: ChangeRow) -> None:
        # Each step sees whether it was done before: a signal's handler may raise after any.
        message_id = row.message_id
        if change.previous is None:
            order = self._order[row.thread_id]
            if not order or order[-1] != message_id:
                order.append(message_id)
        self._messages[message_id] = row
        if not self._changes or self._changes[-1] is not change:
            self._changes.append(change)
        history = self._changes_of.setdefault(message_id, [])
        if not history or history[-1] is not change:
            history.append(change)
        self._plan(row)

    def _plan(self, row: MessageRow) -> None:
        # Twice does no harm: both go when it no longer holds.
        deadline_us = row.open_deadline_us
        if deadline_us is not None:
            heapq.heappush(self._deadlines, (deadline_us, row.message_id))


class MemoryConversationStore(KeepingStore):
    """Keeps everything in this process, for tests and as the measure of the other stores."""

    backend = "memory"
    capabilities: tuple[str, ...] = (
        *("multi_thread", "gap_free", "notifies", "deadlines", "chosen_ids", "compact"),
    )
    """What the conformance kit asks of it. The file stores claim all there is."""

    def __init__(self, *, clock: Clock | None = None, redact: Redact | None = None) -> None:
        super().__init__("memory:", Hub(), clock, redact)
        self._store_id = os.urandom(16).hex()
        # Re-entrant, so that a call in the midst of another of its thread is refused; it would wait
        # for itself for ever.
        self._lock = threading.RLock()
        self._in_use = False
        self._state = State()

    @property
    def store_id(self) -> str:
        return self._store_id

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._lock:
            if self._in_use:
                raise RuntimeError(
                    f"this thread is in the midst of another call of the store {self.url}: a "
                    "signal handler or a finalizer has to leave such a call to somebody else"
                )
            try:
                self._in_use = True
                self._state.finish()
                yield
            finally:
                self._in_use = False

    @contextmanager
    def _reading(self) -> Iterator[State]:
        with self._held():
            yield self._state

    @contextmanager
    def _writing(self) -> Iterator[State]:
        # Every check comes before the first change, so there is never anything to undo; and what
        # was begun when an interrupt came is finished by whoever comes next.
        with self._held():
            yield self._state

    def _restore(self, snapshot: StoreSnapshot, progress: Progress) -> None:
        state = State()
        state.load(snapshot.threads, snapshot.messages, snapshot.changes, snapshot.trimmed)
        with self._held():
            self._refuse_if_used(self._state)
            self._state = state
        progress("writing", len(snapshot.changes), len(snapshot.changes))

    def _compact(self, keep: int | timedelta) -> tuple[int, int, str | None]:
        with self._held():
            removed = self._state.trim(self._floor(self._state, keep))
            return self._state.trimmed(), removed, None

    def _is_last(self, since: int) -> bool:
        # In this order, since no lock keeps others from committing meanwhile.
        state = self._state
        return since == state.revision() and state.is_finished

    def _close(self) -> None:
        self._state = State()
