"""The process of a writer that dies, run by :mod:`.faults_writer`: it does what stdin says.

Its death is inside a write. On SQLite all of the change is in the transaction, and COMMIT has not
come; on TinyDB half of the change's line is in the journal. In both the write lock is held.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from ..clock import SystemClock
from ..stores import open_store
from .faults_seam import stand_before


class _ToldClock(SystemClock):
    """The time that the test's clock shows, as it was last told."""

    told_us: int | None = None

    def now_us(self) -> int:
        return super().now_us() if self.told_us is None else self.told_us


def _say(word: str) -> None:
    print(word, flush=True)  # noqa: T201 - the pipe to the test


def _await_death() -> NoReturn:
    _say("inside")
    sys.stdin.read()  # till it is killed, or the test's process is gone
    os._exit(1)


def _die_inside_a_write(store: Any) -> None:
    if store.backend == "sqlite":

        def never_commit(*_: object) -> NoReturn:
            _await_death()

        stand_before(store, "_commit", never_commit)
        return
    from ..stores import journal

    def write_half(
        call: Callable[[int, memoryview], int], descriptor: int, data: memoryview
    ) -> int:
        call(descriptor, data[: len(data) // 2])
        _await_death()

    stand_before(journal, "_write", write_half)


def main() -> None:
    """Do as told, a line of JSON each, until killed."""
    given = json.loads(sys.stdin.readline())
    clock = _ToldClock()
    with open_store(given["url"], clock=clock, durability=given["durability"]) as store:
        for line in sys.stdin:
            order = json.loads(line)
            clock.told_us = order["now_us"]
            if order["what"] == "die":
                _die_inside_a_write(store)
            store.update_message(given["message_id"], status="processing", append=order["text"])
            _say("kept")


if __name__ == "__main__":
    main()
