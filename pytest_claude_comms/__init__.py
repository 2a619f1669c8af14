"""Stores, tracking and polling for programs that talk to the Claude CLI, and their testing.

Names are loaded when they are first used: every pytest run of everybody who has this installed
pays for what this file imports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .claude.outcome import StreamOutcome
    from .claude.process import ClaudeProcess
    from .claude.stream import StreamReader, read_stream
    from .clock import Clock, SystemClock
    from .communication import Reply, ask_module, ask_module_async
    from .errors import (
        AlreadyExists,
        ClaudeCommsError,
        ClaudeError,
        ClaudeNotFound,
        ClockDeadlock,
        HistoryGone,
        InvalidTransition,
        MessageNotFound,
        ModuleDirectoryNotFound,
        RedactionError,
        StoreBusy,
        StoreClosed,
        StoreCorrupt,
        StoreError,
        ThreadNotFound,
        WaitTimeout,
    )
    from .polling import MessagePoller, poll_message_until_complete
    from .records import Change, Changes, ConversationThread, Message
    from .redaction import SecretRedactor, redact_secrets
    from .status import MessageStatus
    from .stores import open_store
    from .stores.adapted import adapt_store
    from .stores.backup import backup_store
    from .stores.base import ConversationStore
    from .stores.checking import check_store
    from .stores.copying import copy_store
    from .stores.legacy import LegacyReturns
    from .stores.memory import MemoryConversationStore
    from .stores.sqlite import SQLiteConversationStore
    from .stores.tinydb import TinyDBConversationStore
    from .stores.values import message_id_of
    from .tracking import Event, StatusTracker

_HOMES = {
    "claude.outcome": ("StreamOutcome",),
    "claude.process": ("ClaudeProcess",),
    "claude.stream": ("StreamReader", "read_stream"),
    "clock": ("Clock", "SystemClock"),
    "communication": ("Reply", "ask_module", "ask_module_async"),
    "errors": (
        "AlreadyExists",
        "ClaudeCommsError",
        "ClaudeError",
        "ClaudeNotFound",
        "ClockDeadlock",
        "HistoryGone",
        "InvalidTransition",
        "MessageNotFound",
        "ModuleDirectoryNotFound",
        "RedactionError",
        "StoreBusy",
        "StoreClosed",
        "StoreCorrupt",
        "StoreError",
        "ThreadNotFound",
        "WaitTimeout",
    ),
    "polling": ("MessagePoller", "poll_message_until_complete"),
    "records": ("Change", "Changes", "ConversationThread", "Message"),
    "redaction": ("SecretRedactor", "redact_secrets"),
    "status": ("MessageStatus",),
    "stores": ("open_store",),
    "stores.adapted": ("adapt_store",),
    "stores.backup": ("backup_store",),
    "stores.base": ("ConversationStore",),
    "stores.checking": ("check_store",),
    "stores.copying": ("copy_store",),
    "stores.legacy": ("LegacyReturns",),
    "stores.memory": ("MemoryConversationStore",),
    "stores.sqlite": ("SQLiteConversationStore",),
    "stores.tinydb": ("TinyDBConversationStore",),
    "stores.values": ("message_id_of",),
    "tracking": ("Event", "StatusTracker"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExists",
    "Change",
    "Changes",
    "ClaudeCommsError",
    "ClaudeError",
    "ClaudeNotFound",
    "ClaudeProcess",
    "Clock",
    "ClockDeadlock",
    "ConversationStore",
    "ConversationThread",
    "Event",
    "HistoryGone",
    "InvalidTransition",
    "LegacyReturns",
    "MemoryConversationStore",
    "Message",
    "MessageNotFound",
    "MessagePoller",
    "MessageStatus",
    "ModuleDirectoryNotFound",
    "RedactionError",
    "Reply",
    "SQLiteConversationStore",
    "SecretRedactor",
    "StatusTracker",
    "StoreBusy",
    "StoreClosed",
    "StoreCorrupt",
    "StoreError",
    "StreamOutcome",
    "StreamReader",
    "SystemClock",
    "ThreadNotFound",
    "TinyDBConversationStore",
    "WaitTimeout",
    "__version__",
    "adapt_store",
    "ask_module",
    "ask_module_async",
    "backup_store",
    "check_store",
    "copy_store",
    "message_id_of",
    "open_store",
    "poll_message_until_complete",
    "read_stream",
    "redact_secrets",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
