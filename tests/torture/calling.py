"""One call of a store, by name and plain arguments, and its answer as plain values."""

from __future__ import annotations

import os
import signal
from datetime import datetime, timedelta, timezone
from typing import Any

from pytest_claude_comms import ConversationStore
from pytest_claude_comms.clock import SystemClock
from pytest_claude_comms.records import Change, ConversationThread, Message
from pytest_claude_comms.stores import open_store
from tests.torture.stage import Channel

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class JumpingClock(SystemClock):
    """It says what it is told to, also an earlier time than before."""

    def __init__(self, us: int) -> None:
        self.us = us

    def now_us(self) -> int:
        return self.us


def call(store: ConversationStore, name: str, arguments: list[Any]) -> Any:
    """Make the call that the model knows by this name."""
    return getattr(_Calls(store), name)(*arguments)


class _Calls:
    def __init__(self, store: ConversationStore) -> None:
        self.store = store

    def create_thread(self, thread_id: str, title: str, metadata: dict[str, Any]) -> Any:
        return _thread(self.store.create_thread(title, metadata=metadata, thread_id=thread_id))

    def add_message(
        self, thread_id: str, message_id: str, content: str, status: str,
        timeout: float | None, stall: float | None, metadata: dict[str, Any],
    ) -> Any:  # fmt: skip
        message = self.store.add_message(
            thread_id, "module", content, status=status, timeout=timeout, stall_timeout=stall,
            metadata=metadata, message_id=message_id,
        )  # fmt: skip
        return _message(message)

    def update_message(self, message_id: str, given: dict[str, Any]) -> Any:
        return _message(self.store.update_message(message_id, **given))

    def expire(self) -> Any:
        return [_message(each) for each in self.store.expire()]

    def compact(self, keep: int) -> Any:
        return self.store.compact(keep=keep).trimmed

    def next_deadline(self) -> Any:
        return self.store.next_deadline_us()

    def get_message(self, message_id: str) -> Any:
        return _message(self.store.get_message(message_id))

    def list_messages(self, thread_id: str | None, statuses: set[str] | None) -> Any:
        return [_message(each) for each in self.store.messages(thread_id, statuses)]

    def changes_after(self, since: int, limit: int | None, message_id: str | None) -> Any:
        found = self.store.changes(since, limit=limit, message=message_id)
        return [_change(each) for each in found], found.cursor


def _us(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _EPOCH) // timedelta(microseconds=1)


def _thread(thread: ConversationThread) -> dict[str, Any]:
    return {
        "id": thread.thread_id, "title": thread.title, "metadata": dict(thread.metadata),
        "at": _us(thread.created_at),
    }  # fmt: skip


def _message(message: Message) -> dict[str, Any]:
    return {
        "id": message.message_id, "thread": message.thread_id, "content": message.content,
        "status": message.status.value, "created": _us(message.created_at),
        "updated": _us(message.updated_at), "error": message.error,
        "metadata": dict(message.metadata), "revision": message.revision,
        "deadline": _us(message.deadline_at),
    }  # fmt: skip


def _change(change: Change) -> dict[str, Any]:
    return {
        "revision": change.revision, "message": change.message_id, "at": _us(change.at),
        "previous": None if change.previous is None else change.previous.value,
        "status": change.status.value, "append": change.append, "content": change.content,
        "length": change.content_length, "error": change.error,
        "metadata": None if change.metadata is None else dict(change.metadata),
    }  # fmt: skip


def call_and_die(channel: Channel, *, url: str, us: int, name: str, arguments: list[Any]) -> None:
    """The role: open the store, make one call, and be killed with the store open."""
    store = open_store(url, clock=JumpingClock(us), durability="process")
    try:
        answer: Any = call(store, name, arguments)
    except Exception as error:
        answer = type(error).__name__
    channel.say(answer)
    os.kill(os.getpid(), signal.SIGKILL)
