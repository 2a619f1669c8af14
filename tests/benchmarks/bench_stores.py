"""What stores cost. Run ``python tests/benchmarks/bench_stores.py``; it prints a table.

Machines are shared and noisy: read the ratios of one run, not its times.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pytest_claude_comms import ConversationStore, open_store, render
from pytest_claude_comms.stores.base import Durability

UPDATES = 4_000


def filled(folder: Path, backend: str, messages: int, durability: Durability) -> ConversationStore:
    """A store of so many open messages of 200 characters."""
    url = f"{backend}:///{folder}/{messages}-{durability}.{backend}"
    store = open_store(url, durability=durability)
    store.create_thread(thread_id="t")
    for number in range(messages):
        store.add_message("t", "m", "x" * 200, status="processing", message_id=str(number))
    return store


def timed(calls: int, call: Callable[[int], object]) -> list[float]:
    """Microseconds of each call."""
    found = []
    for number in range(calls):
        start = time.perf_counter()
        call(number)
        found.append((time.perf_counter() - start) * 1e6)
    return found


def update(store: ConversationStore, messages: int) -> Callable[[int], object]:
    """One update after the other, each a change."""
    names = cycle(str(number) for number in range(messages))
    return lambda number: store.update_message(next(names), metadata={"n": number})


def stock_tinydb(folder: Path, messages: int) -> list[float]:
    """The same with TinyDB as it comes: the whole file at each update."""
    from tinydb import TinyDB, where

    with TinyDB(folder / f"stock-{messages}.json") as db:
        table = db.table("messages")
        table.insert_multiple(
            {"message_id": str(n), "content": "x" * 200, "n": 0} for n in range(messages)
        )
        names = cycle(str(number) for number in range(messages))
        return timed(
            50, lambda number: table.update({"n": number}, where("message_id") == next(names))
        )


def main() -> None:
    rows = [("store", "messages", "update, median µs", "mean µs", "idle changes(), µs")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for backend, durability in (
            ("tinydb", "process"),
            ("tinydb", "power"),
            ("sqlite", "process"),
            ("sqlite", "power"),
        ):
            for messages in (50, 5_000):
                kept: Durability = "process" if durability == "process" else "power"
                with filled(folder, backend, messages, kept) as store:
                    times = timed(UPDATES, update(store, messages))
                    cursor = store.cursor()
                    idle = timed(2_000, lambda _, s=store, c=cursor: s.changes(c))  # type: ignore[misc]
                rows.append(
                    (
                        f"{backend} {durability}",
                        f"{messages:,}",
                        f"{statistics.median(times):.0f}",
                        f"{statistics.fmean(times):.0f}",
                        f"{statistics.median(idle):.1f}",
                    )
                )
        for messages in (50, 5_000):
            times = stock_tinydb(folder, messages)
            rows.append(
                (
                    "stock TinyDB",
                    f"{messages:,}",
                    f"{statistics.median(times):.0f}",
                    f"{statistics.fmean(times):.0f}",
                    "-",
                )
            )
    print("\n".join(render.table(rows)))


if __name__ == "__main__":
    main()
