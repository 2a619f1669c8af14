"""Stores that are broken in their transitions or their deadlines."""

from __future__ import annotations

import json
from typing import Any

from pytest_claude_comms import InvalidTransition, Message, MessageStatus
from pytest_claude_comms.stores import values
from pytest_claude_comms.stores.base import UNSET
from tests.conformance.mutants import InSQLite, Memory, Saved, breaks

# -- transitions


@breaks("transitions.1")
class BeginsOnlyOpen(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        if more.get("status") == "timeout":
            raise ValueError("a message cannot begin as timeout")
        return super().add_message(*args, **more)


@breaks("transitions.2")
class ReadsStatusesAsWords(Memory):
    def get_message(self, message: Any) -> Message:
        found = super().get_message(message)
        object.__setattr__(found, "status", found.status.value)
        return found


@breaks("transitions.3")
class CannotCancelWhatIsPending(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        row = self.row(message)
        if row.status == "pending" and more.get("status") == "cancelled":
            raise InvalidTransition(row.message_id, row.status, MessageStatus.CANCELLED)
        return super().update_message(message, **more)


@breaks("transitions.4")
class GoesBack(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if more.get("status") == "pending" and self.row(message).status == "processing":
            return self.tamper(message, status=MessageStatus.PENDING)
        return super().update_message(message, **more)


@breaks("transitions.5")
class RefusesWhatIsRestated(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        row = self.row(message)
        if more.get("status", UNSET) == row.status:
            raise InvalidTransition(row.message_id, row.status, row.status)
        return super().update_message(message, **more)


@breaks("transitions.6")
class OverwritesAnEnd(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        status = more.get("status")
        if self.row(message).status.is_terminal and status is not None:
            return self.tamper(message, status=MessageStatus(status))
        return super().update_message(message, **more)


@breaks("transitions.6")
class TakesItsEndAgain(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if self.row(message).status.is_terminal and more.get("status") == self.row(message).status:
            return self.get_message(message)
        return super().update_message(message, **more)


@breaks("transitions.7")
class TakesEmptyTextAfterTheEnd(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if more.get("append") == "":
            del more["append"]
        return super().update_message(message, **more)


@breaks("transitions.8")
class TakesNothingAfterTheEnd(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        row = self.row(message)
        if row.status.is_terminal:
            raise InvalidTransition(row.message_id, row.status, None)
        return super().update_message(message, **more)


@breaks("transitions.9")
class MergesBeforeItRefuses(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        try:
            return super().update_message(message, **more)
        except InvalidTransition:
            merged = {**json.loads(self.row(message).metadata), **(more.get("metadata") or {})}
            self.tamper(message, metadata=values.dump(merged))
            raise


@breaks("transitions.10")
class TakesNoneForNothing(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if more.get("status", "") is None:
            del more["status"]
        return super().update_message(message, **more)


# -- deadlines


@breaks("deadlines.1")
class PrefersItsTimeout(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        if more.get("timeout") is not None:
            more.pop("stall_timeout", None)
        return super().add_message(*args, **more)


@breaks("deadlines.2")
class DoesNotSayWhatExpired(Memory):
    def expire(self) -> list[Message]:
        super().expire()
        return []


@breaks("deadlines.2", "deadlines.3")
class DoesNotSayWhy(Memory):
    def expire(self) -> list[Message]:
        return [self.tamper(message, error=None) for message in super().expire()]


@breaks("deadlines.3")
class NotesThatItExpired(Memory):
    def expire(self) -> list[Message]:
        return [
            self.update_message(message, metadata={"expired": True}) for message in super().expire()
        ]


@breaks("deadlines.4")
class ExpiresAfterTheInstant(Memory):
    def expire(self) -> list[Message]:
        return [] if self.next_deadline_us() == self.clock.now_us() else super().expire()


@breaks("deadlines.4")
class ExpiresToTheSecond(Memory):
    def expire(self) -> list[Message]:
        for row in self._state.messages(None, None):
            deadline_us = row.open_deadline_us
            if deadline_us is not None and 0 < deadline_us - self.clock.now_us() < 1_000:
                self.tamper(row.message_id, expires_us=self.clock.now_us())
                self._state._plan(self.row(row.message_id))
        return super().expire()


@breaks("deadlines.5")
class IsLateAtTheInstant(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if self.row(message).open_deadline_us == self.clock.now_us():
            self.expire()
        return super().update_message(message, **more)


@breaks("deadlines.6", "deadlines.7")
class TakesLateWrites(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        self.tamper(message, expires_us=None, stall_us=None)
        return super().update_message(message, **more)


@breaks("deadlines.7")
class NotesALateWrite(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        try:
            return super().update_message(message, **more)
        except InvalidTransition:
            super().update_message(message, metadata={"late": self.cursor()})
            raise


@breaks("deadlines.8")
class StallsThroughMetadata(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        before = self.row(message).updated_us
        after = super().update_message(message, **more)
        return self.tamper(after, updated_us=before) if set(more) == {"metadata"} else after


@breaks("deadlines.9")
class PutsATimeoutOff(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        before = self.row(message)
        after = super().update_message(message, **more)
        if before.expires_us is None or after.status.is_terminal:
            return after
        put_off = before.expires_us + self.row(after).updated_us - before.updated_us
        return self.tamper(after, expires_us=put_off)


@breaks("deadlines.10")
class ExpiresWhatHasEnded(Memory):
    def expire(self) -> list[Message]:
        now_us = self.clock.now_us()
        ended = [
            self.tamper(row.message_id, status=MessageStatus.TIMEOUT)
            for row in self._state.messages(None, None)
            if row.status == "complete" and row.expires_us is not None and row.expires_us < now_us
        ]
        return super().expire() + ended


@breaks("deadlines.11")
class SettlesWhenRead(Memory):
    def get_message(self, message: Any) -> Message:
        self.expire()
        return super().get_message(message)


@breaks("deadlines.12")
class KnowsDeadlinesOfTheEnded(Memory):
    def next_deadline_us(self) -> int | None:
        rows = self._state.messages(None, None)
        return min((row.deadline_us for row in rows if row.deadline_us is not None), default=None)


@breaks("deadlines.13")
class ReadsSpansFromText(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        if isinstance(more.get("timeout"), str):
            more["timeout"] = float(more["timeout"])
        return super().add_message(*args, **more)


@breaks("deadlines.14", "deadlines.12")
class KnowsNoDeadline(Memory):
    def next_deadline_us(self) -> int | None:
        return None


@breaks("deadlines.15")
class ForgetsDeadlines(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        from dataclasses import replace

        store_id, (threads, messages, *rest) = super().load(data)
        messages = [replace(row, expires_us=None, stall_us=None) for row in messages]
        return store_id, (threads, messages, *rest)


@breaks("deadlines.16")
class ReturnsTheLastToExpireFirst(Memory):
    def expire(self) -> list[Message]:
        return super().expire()[::-1]


@breaks("deadlines.16")
class ExpiresInTheOrderOfCreation(Memory):
    def expire(self) -> list[Message]:
        now_us = self.clock.now_us()
        with self._writing() as tx:
            places = list(self._state._messages)
            rows = sorted(tx.overdue(now_us), key=lambda row: places.index(row.message_id))
            done = [self._settle(tx, row, now_us) for row in rows]
        if done:
            self._hub.notify()
        return [row.record() for row in done]


@breaks("deadlines.17")
class RemembersTheNextDeadline(InSQLite):
    """Until it writes itself."""

    _next: tuple[int | None] | None = None

    def next_deadline_us(self) -> int | None:
        self._next = self._next or (super().next_deadline_us(),)
        return self._next[0]

    def add_message(self, *args: Any, **more: Any) -> Message:
        self._next = None
        return super().add_message(*args, **more)

    def update_message(self, *args: Any, **more: Any) -> Message:
        self._next = None
        return super().update_message(*args, **more)

    def expire(self) -> list[Message]:
        due = self.next_deadline_us()
        if due is None or due > self.clock.now_us():
            return []
        self._next = None
        return super().expire()
