"""What polling and the fake clock cost. Run ``python tests/benchmarks/bench_polling.py``."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pytest_claude_comms import MessagePoller, open_store, render
from pytest_claude_comms.testing import FakeClock


def microseconds(calls: int, call: object) -> float:
    """The median of so many calls."""
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        call()  # type: ignore[operator]
        found.append((time.perf_counter() - start) * 1e6)
    return statistics.median(found)


def polling(folder: Path) -> list[tuple[str, ...]]:
    """A poll of N tracked messages when nothing has changed, and a read of each for comparison."""
    rows: list[tuple[str, ...]] = [
        ("store", "tracked", "idle poll, µs", "poll after 1 change, µs", "a read each, µs")
    ]
    for backend in ("sqlite", "tinydb"):
        for tracked in (10, 100, 1_000, 10_000):
            url = f"{backend}:///{folder}/{tracked}.{backend}"
            with open_store(url, durability="process") as store:
                store.create_thread(thread_id="t")
                names = [
                    store.add_message("t", "m", status="pending").message_id for _ in range(tracked)
                ]
                poller = MessagePoller(store)
                for name in names:
                    poller.track(name)
                poller.poll_once()
                idle = microseconds(500, poller.poll_once)
                numbers = iter(range(10_000))

                def change_and_poll() -> None:
                    store.update_message(names[0], metadata={"n": next(numbers)})
                    start = time.perf_counter()
                    poller.poll_once()
                    spent.append((time.perf_counter() - start) * 1e6)

                spent: list[float] = []
                for _ in range(200):
                    change_and_poll()
                each = microseconds(
                    3,
                    lambda: [store.get_message(name) for name in names],
                )
                rows.append(
                    (
                        backend,
                        f"{tracked:,}",
                        f"{idle:.1f}",
                        f"{statistics.median(spent):.0f}",
                        f"{each:,.0f}",
                    )
                )
    return rows


def one_hour(*, install: bool) -> None:
    """An answer that never comes, and a started poller, in fake time."""
    with FakeClock() as clock:
        if install:
            clock.install()
        with open_store("memory:", clock=clock) as store:
            store.create_thread(thread_id="t")
            answer = store.add_message("t", "m", status="pending", timeout=3600)
            clock.at(3, store.update_message, answer, status="processing")
            with MessagePoller(store) as poller:
                poller.wait(answer, timeout=7200)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        print("\n".join(render.table(polling(Path(name)))))
    print()
    rows = [
        ("one hour of timeout with a started poller", "ms"),
        ("fake clock", f"{microseconds(200, lambda: one_hour(install=False)) / 1e3:.2f}"),
        (
            "fake clock, installed (freezegun)",
            f"{microseconds(200, lambda: one_hour(install=True)) / 1e3:.2f}",
        ),
    ]
    print("\n".join(render.table(rows)))


if __name__ == "__main__":
    main()
