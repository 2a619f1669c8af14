"""A tracker is a pure fold: each revision once, in order, of one message."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime, timezone
from itertools import product

import pytest

from pytest_claude_comms.records import Change
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores.legacy import LegacyReturns
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.tracking import Event, StatusTracker

PENDING, PROCESSING, COMPLETE = list(MessageStatus)[:3]
AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def change(
    revision: int,
    status: MessageStatus = PENDING,
    previous: MessageStatus | None = PENDING,
    *,
    append: str | None = None,
    content: str | None = None,
    error: str | None = None,
    metadata: dict[str, object] | None = None,
    length: int = 0,
    message_id: str = "m",
) -> Change:
    return Change(
        revision=revision,
        message_id=message_id,
        thread_id="t",
        at=AT,
        previous=previous,
        status=status,
        append=append,
        content=content,
        error=error,
        metadata=metadata,
        content_length=length,
    )


STORY = [
    change(3, PENDING, None),
    change(4, PROCESSING, PENDING),
    change(7, PROCESSING, PROCESSING, append="hi", length=2),
    change(9, COMPLETE, PROCESSING),
    change(10, COMPLETE, COMPLETE, metadata={"cost": 1}),
]


def told(tracker: StatusTracker, changes: Iterable[Change]) -> list[int]:
    """The revisions that were news."""
    return [event.revision for each in changes if (event := tracker.apply(each)) is not None]


def test_before_its_message_exists() -> None:
    tracker = StatusTracker("m")
    assert tracker.status is MessageStatus.UNKNOWN
    assert (tracker.statuses, tracker.history, tracker.events()) == ([], [], [])
    assert (tracker.exists, tracker.is_terminal, tracker.error) == (False, False, None)
    assert (tracker.content_length, tracker.revision, tracker.changes) == (0, 0, 0)
    assert tracker.ended_at_revision is None
    assert repr(tracker) == "<StatusTracker 'm': unknown>"


def test_a_story() -> None:
    tracker = StatusTracker("m")
    assert told(tracker, STORY) == [3, 4, 7, 9, 10]
    assert (
        tracker.statuses == [PENDING, PROCESSING, COMPLETE] == ["pending", "processing", "complete"]
    )
    assert tracker.history == STORY
    assert (tracker.status, tracker.is_terminal, tracker.exists) == (COMPLETE, True, True)
    assert (tracker.revision, tracker.ended_at_revision, tracker.changes) == (10, 9, 5)
    assert repr(tracker) == "<StatusTracker 'm': pending -> processing -> complete>"


def test_repeated_and_old_revisions_are_ignored() -> None:
    tracker = StatusTracker("m")
    told(tracker, STORY[:3])
    assert told(tracker, STORY[:3] * 2) == []
    assert tracker.apply(change(5, COMPLETE, PROCESSING)) is None, "older than the last"
    assert tracker.history == STORY[:3]


def test_whatever_is_delivered_twice_or_late_counts_once_and_in_order() -> None:
    for deliveries in product(STORY, repeat=5):
        tracker = StatusTracker("m")
        news = told(tracker, deliveries)
        assert news == sorted(set(news)) == [each.revision for each in tracker.history]


def test_broken_version_a_tracker_that_takes_all_is_seen() -> None:
    class Gullible(StatusTracker):
        @property
        def revision(self) -> int:
            return -1

    assert told(Gullible("m"), STORY[:2] * 2) == [3, 4, 3, 4]


def test_another_messages_change_is_refused() -> None:
    tracker = StatusTracker("m")
    with pytest.raises(ValueError, match="^revision 1 is of message 'other', not of 'm'$"):
        tracker.apply(change(1, message_id="other"))
    assert not tracker.exists


def test_what_it_hands_out_is_not_what_it_keeps() -> None:
    tracker = StatusTracker("m")
    told(tracker, STORY)
    tracker.statuses.clear()
    tracker.history.clear()
    tracker.events().clear()
    assert tracker.changes == 5
    assert len(tracker.statuses) == 3


def test_metadata_that_it_hands_out_is_not_what_it_keeps() -> None:
    kept: dict[str, object] = {"k": [1, {"l": 1}]}
    tracker = StatusTracker("m")
    first = tracker.apply(change(1, PENDING, None, metadata=kept))
    assert first is not None
    for told in (first, tracker.events()[0], tracker.history[0]):
        assert told.metadata == {"k": [1, {"l": 1}]}
        told.metadata["k"][1]["l"] = 2
        told.metadata["k"].append(3)
        told.metadata["x"] = 1  # type: ignore[index]
    assert tracker.history[0].metadata == tracker.events()[0].metadata == {"k": [1, {"l": 1}]}


def test_every_shape_of_a_message_will_do() -> None:
    store = MemoryConversationStore()
    message = store.add_message(store.create_thread(), "m", message_id="m")
    for each in (message, "m", {"message_id": "m"}, {"id": "m"}):
        assert StatusTracker(each).message_id == "m"
    legacy = LegacyReturns(store, "dict").add_message(message.thread_id, "x")
    assert StatusTracker(legacy).message_id == legacy["message_id"]
    with pytest.raises(TypeError):
        StatusTracker(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("each", "kind"),
    [
        (change(1, PENDING, None, content="x", length=1), "created"),
        (change(2, PROCESSING, PENDING, append="x"), "status"),
        (change(3, PENDING, PENDING, append="x"), "content"),
        (change(3, PENDING, PENDING, content=""), "content"),
        (change(4, PENDING, PENDING, metadata={"a": 1}, error="e"), "metadata"),
        (change(5, PENDING, PENDING, error="e"), "error"),
        (change(6, PENDING, PENDING), "error"),
    ],
)
def test_the_kind_of_an_event_is_the_most_telling(each: Change, kind: str) -> None:
    assert Event.of(each, StatusTracker("m")).kind == kind


def test_an_event_has_the_fields_of_its_change_and_its_tracker_and_is_frozen() -> None:
    tracker = StatusTracker("m")
    event = tracker.apply(STORY[0])
    assert event is not None
    for field in dataclasses.fields(Change):
        assert getattr(event, field.name) == getattr(STORY[0], field.name)
    assert event.tracker is tracker
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.revision = 5  # type: ignore[misc]
    assert "tracker=" not in repr(event)
    assert event == Event.of(STORY[0], StatusTracker("m"))
    assert hash(event) == hash(Event.of(STORY[0], StatusTracker("m")))


def test_its_history_as_events_from_anywhere_on() -> None:
    tracker = StatusTracker("m")
    told(tracker, STORY)
    assert tracker.events() == [Event.of(each, tracker) for each in STORY]
    assert [[each.revision for each in tracker.events(start)] for start in (1, 4, 5, 9)] == [
        [4, 7, 9, 10],
        [10],
        [],
        [],
    ]
