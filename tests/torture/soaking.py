"""Roles of the soak: a process that writes and polls for ever, and one that only reads."""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress

from pytest_claude_comms.errors import HistoryGone
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores import open_store
from tests.torture.stage import Channel

MESSAGES = 20
CHANGES = 20
COMPACT_EVERY = 10


def work(channel: Channel, *, url: str) -> None:
    """Change messages that have ended, a poller beside each turn; compact now and then.

    Of such a message its end and its last change outlive a compaction: so what the store holds,
    and each process with it, stays as large as it is.
    """
    made = turn = 0
    with open_store(url, durability="process") as store:
        for number in range(MESSAGES):
            store.add_message("t", "module", "x" * 1000, message_id=f"{number}")
        while not _is_told_to_stop(channel, made):
            name, turn = f"{turn % MESSAGES}", turn + 1
            seen: list[int] = []
            with MessagePoller(store, interval=0.01) as poller:
                poller.track(name, on_event=lambda event: seen.append(event.revision))
                for _ in range(CHANGES):
                    made += 1
                    store.update_message(name, metadata={"made": f"{made} " + "x" * 500})
                last = store.cursor()
                poller.poll_once()
                poller.flush(60)
            assert seen[-1] == last
            if turn == 1:
                channel.say("ready")
            if turn % COMPACT_EVERY == 0:
                store.compact(keep=100)


def read(channel: Channel, *, url: str) -> None:
    """Read, one transaction after the other, without a pause."""
    reads = 0
    with open_store(url, durability="process") as store:
        store.messages()
        channel.say("ready")
        while not _is_told_to_stop(channel, reads):
            store.messages()
            with suppress(HistoryGone):  # it was trimmed between these two calls
                store.changes(store.cursor())
            reads += 1


def _is_told_to_stop(channel: Channel, done: int) -> bool:
    if not select.select([channel.link], [], [], 0)[0]:
        return False
    if channel.hear() == "figures":
        channel.say(figures())
        return False
    channel.say(done)
    return True


def figures() -> dict[str, int]:
    """What must not grow; ``memory`` in kB."""
    with open("/proc/self/status", encoding="ascii") as lines:
        memory = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "memory": memory,
    }
