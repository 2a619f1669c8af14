"""What a wait is for, and the page that is shown when its patience ends."""

from __future__ import annotations

from dataclasses import dataclass

from . import render
from .errors import StoreError, WaitTimeout
from .stores.base import ConversationStore
from .tracking import StatusTracker

_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class PollerState:
    """What a poller says of itself."""

    polls: int
    cursor: int
    in_trouble: bool


def awaited(trackers: list[StatusTracker]) -> str:
    """What a wait for these is for, in a few words."""
    waiting = [tracker for tracker in trackers if not tracker.is_terminal]
    if not waiting:
        return "a change"
    more = f" and {len(waiting) - 1:,} more" if len(waiting) > 1 else ""
    return f"message {render.clean(waiting[0].message_id)} ({waiting[0].status}){more} to end"


def wait_timeout(
    store: ConversationStore, trackers: list[StatusTracker], timeout: float, poller: PollerState
) -> WaitTimeout:
    """The error for those of ``trackers``, one at least, that are not terminal after ``timeout``
    seconds. Nobody may look meanwhile."""
    waiting = [tracker for tracker in trackers if not tracker.is_terminal]
    first = waiting[0]
    subject = f"message {render.clean(first.message_id)}{_thread_title(store, first)}"
    if len(waiting) > 1:
        subject = f"{len(waiting):,} of {len(trackers):,} messages, the first {subject},"
    fields: list[tuple[str, list[str]]] = [
        ("now", [f"{render.instant(store.clock.now())} ({store.clock.describe()})"]),
        ("status", [_standing(store, first)]),
        ("history", render.history(first.history)),
    ]
    if len(waiting) > 1:
        named = waiting[:_MOST_NAMED]
        lines = [f"{render.clean(t.message_id)} {render.steps(t.statuses)}" for t in named]
        fields.append(("waiting", lines))
    fields.append(("poller", [_state(store, first, poller)]))
    less = getattr(store, "not_promised", ())
    if less:
        fields.append(("store", [f"{render.clean(store.url)}, which does not promise all:", *less]))
    fields.append(("hint", [_hint(store, first)]))
    title = f"{subject} did not reach a terminal status within {render.span(timeout)}"
    return WaitTimeout(
        render.page(title, fields),
        message_ids=tuple(tracker.message_id for tracker in waiting),
        timeout=timeout,
    )


def _thread_title(store: ConversationStore, tracker: StatusTracker) -> str:
    if not tracker.exists:
        return ""
    try:
        title = store.get_thread(tracker.history[0].thread_id).title
    except StoreError:
        return ""
    return f' (thread "{render.clean(title)}")' if title else ""


def _standing(store: ConversationStore, tracker: StatusTracker) -> str:
    if not tracker.exists:
        return "unknown: the message does not exist"
    history = tracker.history
    now = history[-1]
    since = next(change for change in history if change.status is now.status)
    age = (store.clock.now() - since.at).total_seconds()
    return f"{now.status} for {render.span(age)}, {render.characters(now.content_length)}"


def _state(store: ConversationStore, tracker: StatusTracker, poller: PollerState) -> str:
    parts = [
        "1 poll" if poller.polls == 1 else f"{poller.polls:,} polls",
        f"cursor {poller.cursor}",
    ]
    if tracker.exists:
        age = (store.clock.now() - tracker.history[-1].at).total_seconds()
        parts.append(f"last change {render.span(age)} ago")
    if poller.in_trouble:
        parts.append("the store could not be read at the last poll")
    return ", ".join(parts)


def _hint(store: ConversationStore, tracker: StatusTracker) -> str:
    if not tracker.exists:
        return "nobody has added a message with this id; is it another store, or another id?"
    try:
        deadline = store.get_message(tracker.message_id).deadline_at
    except StoreError as error:
        return f"the store cannot be read: {error}"
    if deadline is None:
        return "no deadline is set on this message: if its writer is gone, nothing will end it"
    when = render.instant(deadline)
    if deadline > store.clock.now():
        return f"its own deadline comes at {when}, after this patience ended"
    return f"its own deadline came at {when}, and the store could not settle it"
