"""A thread with all that ever happened in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ..records import Change, ConversationThread, Message
from ..stores.base import ConversationStore

TRIMMED: Final = "the steps before are gone: 'compact' has trimmed the history"


@dataclass(frozen=True)
class ThreadHistory:
    """A thread, its messages in the order of creation, its changes in that of revisions.

    Of a single message: that message and its changes only.
    """

    thread: ConversationThread
    messages: tuple[Message, ...]
    changes: tuple[Change, ...]

    @property
    def trimmed(self) -> tuple[Message, ...]:
        """Those whose history no longer begins with their creation."""
        first: dict[str, Change] = {}
        for change in self.changes:
            first.setdefault(change.message_id, change)
        return tuple(
            message
            for message in self.messages
            if message.message_id in first and first[message.message_id].previous is not None
        )

    @property
    def start(self) -> datetime | None:
        """From when on times are counted; None if nothing has happened.

        That is the first change, or, where that one is gone, the first creation.
        """
        if not self.changes:
            return None
        if self.trimmed:
            return min(message.created_at for message in self.messages)
        return self.changes[0].at


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
