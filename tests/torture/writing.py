"""Writers that never stop by themselves, and writers of a given number of changes."""

from __future__ import annotations

import os
import random
import time
from typing import Any

from pytest_claude_comms.stores import open_store
from pytest_claude_comms.stores.backup import backup_store
from pytest_claude_comms.stores.base import Durability
from tests.torture.stage import Channel


def scribble(channel: Channel, *, url: str, durability: Durability, seed: int) -> None:
    """Append numbers to the message "m" until killed, and say each once it is there.

    In between: checkpoints, compactions, backups and openings.
    """
    chance = random.Random(seed)
    backup = f"{os.path.dirname(url.partition('///')[2])}/backup"
    store: Any = open_store(url, durability=durability)
    number = store.get_message("m").content.count(";")
    while True:
        doing = chance.randrange(40)
        if doing == 0:
            store.compact(keep=chance.randrange(20))
        elif doing == 1:
            backup_store(store, backup, overwrite=True)
        elif doing == 2:
            store.close()
            store = open_store(url, durability=durability)
        elif doing < 6 and store.backend == "sqlite":
            store._next_checkpoint = 0
        elif doing < 6:
            store._checkpoint_bytes = chance.choice([0, 65_536])
        store.update_message("m", append=f"{number};", metadata={"n": number})
        channel.say(number)
        number += 1


def add_and_update(channel: Channel, *, url: str, thread: str, changes: int) -> None:
    """Make so many changes as fast as it goes; say how long the slowest took, in seconds."""
    slowest = 0.0
    with open_store(url, durability="process") as store:
        channel.say("ready")
        channel.hear()
        message = store.add_message(thread, "module", status="processing")
        for number in range(changes - 1):
            begun = time.perf_counter()
            store.update_message(message, append=f"{number};")
            slowest = max(slowest, time.perf_counter() - begun)
    channel.say({"made": changes, "slowest": slowest})


def open_at_once(channel: Channel, *, url: str) -> None:
    """Open the store once told to; say which one it is."""
    channel.say("ready")
    channel.hear()
    with open_store(url, durability="process") as store:
        channel.say({"store_id": store.store_id})
