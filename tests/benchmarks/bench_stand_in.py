"""What starting a scripted claude costs. Run ``python tests/benchmarks/bench_stand_in.py``."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pytest_claude_comms import render
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

ROUNDS = 60
ASK = ("-p", "q", "--output-format", "stream-json", "--verbose")


def milliseconds(command: list[str], prepare: Callable[[], object]) -> float:
    prepare()
    start = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return (time.perf_counter() - start) * 1e3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ScriptedClaude(folder) as claude:
        python = sys.executable
        commands: list[tuple[str, list[str], Callable[[], object]]] = [
            ("python -I -S -c pass", [python, "-I", "-S", "-c", "pass"], lambda: None),
            ("claude --version", [claude.executable, "--version"], lambda: None),
            ("claude -p, an answer", [claude.executable, *ASK], lambda: claude.replies("Hi")),
            ("python -I -S, json", [python, "-I", "-S", "-c", "import json"], lambda: None),
            ("python", [python, "-c", "pass"], lambda: None),
        ]
        # In turns, so that a busy moment of the machine falls on all of them.
        spent: dict[str, list[float]] = {name: [] for name, _, _ in commands}
        for _ in range(ROUNDS):
            for name, command, prepare in commands:
                spent[name].append(milliseconds(command, prepare))
        floor = spent[commands[0][0]]
        rows: list[tuple[str, ...]] = [("started", "best, ms", "median, ms", "ratio of medians")]
        for name, found in spent.items():
            median = statistics.median(found)
            ratio = f"{median / statistics.median(floor):.2f}"
            rows.append((name, f"{min(found):.1f}", f"{median:.1f}", ratio))
        print("\n".join(render.table(rows)))


if __name__ == "__main__":
    main()
