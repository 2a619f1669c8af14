"""What ``claude-comms watch`` costs on a terminal, with 10,000 messages in a store.

    PYTHONPATH=. python tests/benchmarks/bench_watch.py [SECONDS [MESSAGES]]

CPU time is that of the watching process, user and system, after it has drawn its table: while
nothing happens, and while another process changes one message ten times a second.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from pytest_claude_comms import ConversationStore, open_store
from pytest_claude_comms.render import table
from tests.cli.terminal import Terminal, terminal

TICK = os.sysconf("SC_CLK_TCK")
CASES = (
    ("all of them open", "pending", ["watch"]),
    ("all of them ended", "complete", ["watch", "--all"]),
)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def share(screen: Terminal, seconds: float) -> tuple[float, int]:
    """Percent of a core, and bytes written to the terminal a second."""
    before, written = cpu_seconds(screen.process.pid), len(screen.text)
    time.sleep(seconds)
    used = cpu_seconds(screen.process.pid) - before
    return 100 * used / seconds, round((len(screen.text) - written) / seconds)


def fill(store: ConversationStore, count: int, status: str) -> None:
    thread = store.create_thread("many")
    for _ in range(count):
        store.add_message(thread, "arangodb", "text", status=status)


def busy(store: ConversationStore, seconds: float) -> None:
    thread = store.threads()[0]
    message = store.add_message(thread, "arangodb", status="processing")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        store.update_message(message, append="more ")
        time.sleep(0.1)


def measured(
    backend: str, case: tuple[str, str, list[str]], count: int, seconds: float
) -> list[str]:
    name, status, argv = case
    with tempfile.TemporaryDirectory() as folder:
        url = f"{backend}:///{folder}/store.{backend}"
        with open_store(url, durability="process") as store:
            fill(store, count, status)
            with terminal(*argv, "--store", url, cwd=Path(folder)) as screen:
                began = time.monotonic()
                assert screen.shows(f"{count:,} messages,"), screen.text
                first = time.monotonic() - began
                time.sleep(0.5)
                idle, written = share(screen, seconds)
                writer = os.fork()
                if writer == 0:
                    with open_store(url, durability="process") as its_own:
                        busy(its_own, seconds + 1)
                    os._exit(0)
                working, drawn = share(screen, seconds)
                os.waitpid(writer, 0)
    row = [f"{first:.2f} s", f"{idle:.2f} %", f"{written:,}", f"{working:.2f} %", f"{drawn:,}"]
    return [backend, name, *row]


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    head = [
        "store",
        f"{count:,} messages",
        "first table",
        "idle",
        "bytes/s",
        "10 changes/s",
        "bytes/s",
    ]
    rows = [
        measured(backend, case, count, seconds)
        for backend in ("sqlite", "tinydb")
        for case in CASES
    ]
    print("\n".join(table([head, *rows])))


if __name__ == "__main__":
    main()
