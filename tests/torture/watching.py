"""Roles of a history: writers that say what they have done, watchers that say what they see."""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import Any

from pytest_claude_comms.errors import HistoryGone, InvalidTransition
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores import open_store
from pytest_claude_comms.tracking import Event
from tests.torture.histories import seen, told
from tests.torture.stage import Channel

SHARED = "shared"
"""The message that all writers work on."""


def write(channel: Channel, *, url: str, message: str, gap_ms: int, changes: int) -> None:
    """Stream into ``message``, and now and then into the shared one, with a gap after each."""
    with open_store(url, durability="process") as store:
        channel.say("ready")
        channel.hear()

        def acknowledge(result: Any) -> None:
            at = time.monotonic_ns()
            channel.say(
                [result.message_id, result.revision, result.status.value, len(result.content), at]
            )
            time.sleep(gap_ms / 1000)

        acknowledge(
            store.add_message("t", "module", f"{message}:", status="pending", message_id=message)
        )
        for number in range(changes):
            asked: dict[str, Any] = {"append": f"{number};", "metadata": {"n": number}}
            if number == 0:
                asked["status"] = "processing"
            elif number == changes - 1:
                asked["status"] = "complete"
            acknowledge(store.update_message(message, **asked))
            if number % 3 == 1:
                with suppress(InvalidTransition):  # another one has ended it
                    acknowledge(store.update_message(SHARED, append=f"{message};"))
        if message.endswith("0"):
            acknowledge(store.update_message(SHARED, status="cancelled"))


def follow(
    channel: Channel, *, url: str, since: int, limit: int | None, pause_ms: int, reads: bool,
    careless: bool = False,
) -> None:  # fmt: skip
    """Ask for changes again and again, until past the revision that is said in the end.

    ``careless``, a mistake, goes on from the store's last revision, not from where it came to.
    """
    until: int | None = None
    with open_store(url, durability="process") as store:
        channel.say("ready")
        cursor = since
        channel.say({"resumed": since})
        while until is None or cursor < until:
            begun = time.monotonic_ns()
            try:
                changes = store.changes(cursor, limit=limit)
            except HistoryGone as error:
                channel.say({"gone": str(error)})
                return
            for change in changes:
                channel.say({"event": told(change)})
            cursor = store.cursor() if careless else changes.cursor
            channel.say({"mark": cursor, "begun": begun if limit is None else None})
            if reads and changes.items:
                last = changes.items[-1].message_id
                channel.say({"read": seen(store.get_message(last))})
            if select.select([channel.link], [], [], pause_ms / 1000)[0]:
                until = channel.hear()["until"]


def poll(channel: Channel, *, url: str, messages: list[str], interval: float, slow_ms: int) -> None:
    """A MessagePoller with callbacks, each of which takes a while; until all have ended."""

    def note(event: Event) -> None:
        channel.say({"event": told(event)})
        time.sleep(slow_ms / 1000)

    with open_store(url, durability="process") as store:
        channel.say("ready")
        channel.say({"resumed": 0})
        with MessagePoller(store, interval=interval) as poller:
            for name in messages:
                poller.track(name, on_event=note)
            poller.wait_all(messages, timeout=120)
            poller.flush(120)
        channel.say({"mark": store.cursor()})


def watch(channel: Channel, *, url: str, message: str, interval: float) -> None:
    """The iterator of one message."""
    with open_store(url, durability="process") as store:
        channel.say("ready")
        channel.say({"resumed": 0})
        poller = MessagePoller(store, interval=interval)
        for event in poller.watch(message, timeout=120):
            channel.say({"event": told(event)})
        channel.say({"mark": store.cursor()})
