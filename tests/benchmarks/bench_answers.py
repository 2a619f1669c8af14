"""What large answers cost. Run ``python tests/benchmarks/bench_answers.py``; it prints a table.

Each answer in three sizes: what is linear takes the same time for a piece at every size. Machines
are shared and noisy: read the ratios of one run, not its times.
"""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pytest_claude_comms import ask_module, open_store, render
from tests.communication.kit import write_claude

ROUNDS = 3
LINES = """
init()
for number in range({size}):
    text(f"{{number % 10}}" * 1_000_000, f"m{{number}}")
result("ok")
"""
DELTAS = """
init()
event(type="message_start", message={{"id": "m"}})
words = [f"{{number:x}} " for number in range({size})]
head, _, tail = json.dumps({{"type": "stream_event", "session_id": "s", "parent_tool_use_id": None,
    "event": {{"type": "content_block_delta", "index": 0,
              "delta": {{"type": "text_delta", "text": "@"}}}}}}).partition("@")
for start in range(0, len(words), 100):
    raw("".join(head + word + tail + "\\n" for word in words[start:start + 100]))
text("".join(words), "m")
result("ok")
"""
ONE_LINE = """
init()
text("x" * {size} * 1_000_000)
result("ok")
"""
SIZES = [
    ("lines of 1 MB", LINES, (5, 10, 20, 40)),
    ("one line, MB", ONE_LINE, (8, 15, 30, 60)),
    ("small deltas", DELTAS, (25_000, 50_000, 100_000, 200_000)),
]


def once(script: str, backend: str) -> tuple[float, int, int]:
    """Seconds, changes of the answer, characters of it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        url = "memory:" if backend == "memory" else f"{backend}:///{folder}/store"
        with open_store(url, durability="process") as store:
            start = time.perf_counter()
            reply = ask_module(store, "a", folder, "q", command=[write_claude(folder, script)])
            took = time.perf_counter() - start
            assert reply.answer.status == "complete", reply.answer.error
            return took, len(store.changes(message=reply.answer)), len(reply.answer.content)


def main() -> None:
    rows = [("answer", "size", "store", "best, s", "ms a piece", "changes", "characters")]
    for (name, script, sizes), backend in itertools.product(SIZES, ("memory", "tinydb", "sqlite")):
        for size in sizes:
            found = [once(script.format(size=size), backend) for _ in range(ROUNDS)]
            took, changes, length = min(found)
            rows.append(
                (
                    *(name, f"{size:,}", backend, f"{took:.2f}", f"{took / size * 1e3:.3f}"),
                    *(f"{changes}", f"{length:,}"),
                )
            )
    print("\n".join(render.table(rows)))
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
