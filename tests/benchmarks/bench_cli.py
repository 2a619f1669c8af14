"""What the command line's start costs, beside an empty program on click.

Run ``python tests/benchmarks/bench_cli.py [RUNS]``. Each run is a process of its own; the programs
take turns, so that whatever else the machine does meets all of them. Byte code is kept, as that of
an installed package is, whatever PYTHONDONTWRITEBYTECODE says.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pytest_claude_comms import open_store, render  # noqa: E402

EMPTY = """
import click
@click.group()
def main():
    pass
@main.command()
def status():
    pass
main(prog_name="empty")
"""
OURS = "import sys; from pytest_claude_comms.cli import main; sys.exit(main())"


def seconds(argv: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, float]:
    """Of a clock on the wall, and of the processor."""
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    end, now = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return end - start, now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime


def lay_out(folder: Path) -> dict[str, str]:
    """Stores of none, 100 and 10,000 messages, by what is shown of them."""
    urls = {}
    for backend in ("sqlite", "tinydb"):
        for count in (0, 100, 10_000):
            url = f"{backend}:///{folder}/{count}.{backend}"
            with open_store(url, durability="process") as store:
                thread = store.create_thread("PDF schema", modules=["marker", "arangodb"])
                for _ in range(count):
                    store.add_message(thread, "arangodb", "some text", status="pending")
            urls[f"{backend}, {count:,} messages"] = url
    return urls


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment["PYTHONPYCACHEPREFIX"] = str(folder / "byte code")
        ours = [sys.executable, "-c", OURS]
        empty = [sys.executable, "-c", EMPTY]
        programs = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "empty --help": [*empty, "--help"],
            "empty status": [*empty, "status"],
            "--help": [*ours, "--help"],
            "--version": [*ours, "--version"],
            "status --help": [*ours, "status", "--help"],
        }
        for what, url in lay_out(folder).items():
            programs[f"status ({what})"] = [*ours, "status", "--store", url]
        for argv in programs.values():
            seconds(argv, folder, environment)
        spent: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
        for _ in range(runs):
            for name, argv in programs.items():
                spent[name].append(seconds(argv, folder, environment))
    wall = {name: statistics.median(w for w, _ in found) for name, found in spent.items()}
    used = {name: statistics.median(u for _, u in found) for name, found in spent.items()}
    rows = [("program", "ms", "of an empty one", "ms of processor", "of an empty one")]
    for name in spent:
        beside = "empty --help" if "--help" in name else "empty status"
        rows.append(
            (
                name,
                f"{wall[name] * 1e3:.1f}",
                f"{wall[name] / wall[beside]:.2f}",
                f"{used[name] * 1e3:.1f}",
                f"{used[name] / used[beside]:.2f}",
            )
        )
    print("\n".join(render.table(rows)))


if __name__ == "__main__":
    main()
