"""A thread with all that ever happened in it."""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Change, ConversationThread, Message
from ..stores.base import ConversationStore


@dataclass(frozen=True)
class ThreadHistory:
    """A thread, its messages in the order of creation, its changes in that of revisions.

    Of a single message: that message and its changes only.
    """

    thread: ConversationThread
    messages: tuple[Message, ...]
    changes: tuple[Change, ...]


def of_thread(store: ConversationStore, thread: ConversationThread) -> ThreadHistory:
    """All messages of a thread. A message that comes meanwhile is left out with its changes."""
    return _history(store, thread, tuple(store.messages(thread.thread_id)))


def of_message(store: ConversationStore, message: Message) -> ThreadHistory:
    """One message, in its thread."""
    return _history(store, store.get_thread(message.thread_id), (message,))


def _history(
    store: ConversationStore, thread: ConversationThread, messages: tuple[Message, ...]
) -> ThreadHistory:
    # Up to the messages' own revisions: others write meanwhile, and a history that ends behind
    # its message would contradict it.
    changes = [
        change
        for message in messages
        for change in store.changes(message=message)
        if change.revision <= message.revision
    ]
    changes.sort(key=lambda change: change.revision)
    return ThreadHistory(thread, messages, tuple(changes))
