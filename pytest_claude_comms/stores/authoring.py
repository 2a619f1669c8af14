"""What the author of a store needs besides the Protocol: its rules as functions, and the hub.

::

    from pytest_claude_comms.stores import authoring

A store that checks its arguments by these accepts, refuses and words all as the shipped ones do.
``MessageStatus.can_become`` is the table of transitions; the rest of the rules stand in the
docstrings of :class:`ConversationStore`.
"""

from __future__ import annotations

from ..clock import LAST_US, seconds_to_us, to_datetime, to_us
from ..status import parse_status
from .base import UNSET, Durability, MessageLike, StatusLike, ThreadLike, Unset
from .hub import Hub, hub_of
from .reports import CompactReport
from .values import count as check_count
from .values import dump as metadata_text
from .values import identifier as check_id
from .values import keep as check_keep
from .values import message_id_of, thread_id_of
from .values import metadata as check_metadata
from .values import module_names as check_modules
from .values import statuses as check_statuses
from .values import text as check_text

__all__ = [
    "LAST_US",
    "UNSET",
    "CompactReport",
    "Durability",
    "Hub",
    "MessageLike",
    "StatusLike",
    "ThreadLike",
    "Unset",
    "check_count",
    "check_id",
    "check_keep",
    "check_metadata",
    "check_modules",
    "check_statuses",
    "check_text",
    "hub_of",
    "message_id_of",
    "metadata_text",
    "parse_status",
    "seconds_to_us",
    "thread_id_of",
    "to_datetime",
    "to_us",
]
