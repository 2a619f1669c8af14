"""Never run: type checkers read it as a user's program."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from pytest_claude_comms import (
    Change,
    Changes,
    Clock,
    ConversationStore,
    ConversationThread,
    Event,
    LegacyReturns,
    MemoryConversationStore,
    Message,
    MessagePoller,
    MessageStatus,
    SQLiteConversationStore,
    StatusTracker,
    StreamOutcome,
    SystemClock,
    TinyDBConversationStore,
    adapt_store,
    backup_store,
    check_store,
    copy_store,
    message_id_of,
    open_store,
    poll_message_until_complete,
    read_stream,
)
from pytest_claude_comms.testing import FakeClock, assert_status_sequence


def stores() -> None:
    a: ConversationStore = MemoryConversationStore()
    b: ConversationStore = SQLiteConversationStore("a.db", durability="process")
    c: ConversationStore = TinyDBConversationStore("a.json", clock=SystemClock())
    d: ConversationStore = open_store("memory:")
    f: ConversationStore = adapt_store(object(), threads=["t"], statuses={"answered": "complete"})
    e: ConversationStore = LegacyReturns(a, "dict")
    clock: Clock = FakeClock()
    print(a, b, c, d, e, f, clock)


def messages(store: ConversationStore) -> None:
    thread: ConversationThread = store.create_thread("t", modules=["a"], metadata={"k": [1]})
    message: Message = store.add_message(thread, "a", status=MessageStatus.PENDING, timeout=3)
    message = store.update_message(message, status="complete", append="text", error=None)
    message = store.get_message({"message_id": message.message_id})
    found: list[Message] = store.messages(thread.thread_id, status=["pending", "processing"])
    changes: Changes = store.changes(3, limit=5, message=message)
    items: tuple[Change, ...] = changes.items
    at: datetime = message.created_at
    deadline: datetime | None = message.deadline_at
    name: str = message_id_of(message)
    print(found, items, at, deadline, name)


def keeping(store: ConversationStore, other: ConversationStore) -> None:
    digest: str = copy_store(store, other).digest
    size: int = backup_store(store, "comms.db", overwrite=True).bytes
    ok: bool = check_store("sqlite:///comms.db").ok
    removed: int = store.compact(keep=timedelta(days=30)).removed
    print(digest, size, ok, removed)


def watching(store: ConversationStore) -> None:
    def on_event(event: Event) -> None:
        tracker: StatusTracker = event.tracker
        print(tracker.status, event.kind)

    poller = MessagePoller(store, interval=0.1, since=None)
    tracker: StatusTracker = poller.track("m", on_event=on_event, on_complete=print)
    events: list[Event] = poller.poll_once()
    trackers: list[StatusTracker] = poller.wait_all(["m"], timeout=1)
    stream: Iterator[Event] = poller.watch("m")
    message: Message = poll_message_until_complete(store, "m", timeout=3)
    assert_status_sequence(tracker, "pending -> ... -> complete|failed")
    print(events, trackers, stream, message)


def reading() -> None:
    outcome: StreamOutcome = read_stream([b'{"type": "result"}'], exit_code=0)
    status: MessageStatus = outcome.status
    error: str | None = outcome.error
    print(status, error)
