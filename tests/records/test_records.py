"""The records that stores hand out: values that can be compared, kept in sets, and not changed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from datetime import datetime, timezone
from typing import Any

import pytest

from pytest_claude_comms.records import Change, Changes, ConversationThread, Message
from pytest_claude_comms.status import MessageStatus

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
THREAD = ConversationThread(
    thread_id="t", title="", modules=("a",), metadata={"k": [1]}, created_at=AT
)
MESSAGE = Message(
    message_id="m",
    thread_id="t",
    module_name="a",
    content="",
    message_type="message",
    status=MessageStatus.PENDING,
    created_at=AT,
    updated_at=AT,
    deadline_at=None,
    error=None,
    metadata={"k": [1]},
    revision=1,
)
CHANGE = Change(
    revision=1,
    message_id="m",
    thread_id="t",
    at=AT,
    previous=None,
    status=MessageStatus.PENDING,
    metadata={"k": [1]},
)
RECORDS = [THREAD, MESSAGE, CHANGE, Changes((CHANGE,), 1)]
by_kind = pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)


@by_kind
def test_a_record_is_a_value(record: Any) -> None:
    # Metadata is a dict, which has no hash: it counts in comparing, not in hashing.
    assert {record, replace(record)} == {record}


@pytest.mark.parametrize("record", RECORDS[:3], ids=lambda record: type(record).__name__)
def test_records_with_other_metadata_differ(record: Any) -> None:
    assert replace(record, metadata={}) != record
    assert hash(replace(record, metadata={})) == hash(record)


@by_kind
def test_a_record_cannot_be_changed_or_added_to(record: Any) -> None:
    for field in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, None)
    assert not hasattr(record, "__dict__")


@pytest.mark.parametrize("record", RECORDS[:3], ids=lambda record: type(record).__name__)
def test_fields_are_named_when_a_record_is_made(record: Any) -> None:
    # So that one more field breaks nobody.
    with pytest.raises(TypeError, match="positional"):
        type(record)(*(getattr(record, field.name) for field in fields(record)))


def test_a_change_says_only_what_it_did() -> None:
    change = Change(
        revision=2,
        message_id="m",
        thread_id="t",
        at=AT,
        previous=MessageStatus.PENDING,
        status=MessageStatus.PROCESSING,
    )
    said = (change.append, change.content, change.content_length, change.error, change.metadata)
    assert said == (None, None, 0, None, None)


def test_changes_are_a_sequence_of_their_items() -> None:
    changes = Changes((CHANGE, replace(CHANGE, revision=2)), 7)
    assert list(changes) == [*changes.items]
    assert len(changes) == 2
    assert changes
    assert not Changes((), 7)
