"""What the tests of the file stores share: child processes, and killing them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

import pytest_claude_comms
from pytest_claude_comms.stores import open_store

Python: TypeAlias = Callable[..., "subprocess.Popen[str]"]
KillLoop: TypeAlias = Callable[[str, int], "Kills"]

_WRITER = """
import sys
from pytest_claude_comms.stores import open_store
store = open_store(sys.argv[1], durability=sys.argv[2])
message = store.get_message("m")
number = message.content.count(";")
while True:
    store.update_message("m", append=f"{number};", metadata={"n": number})
    print(number, flush=True)
    number += 1
"""


@dataclass
class Kills:
    """What a loop of kills has seen."""

    acknowledged: int = 0
    kept: int = 0


@pytest.fixture
def python() -> Iterator[Python]:
    """Starts ``python -c script arguments``; what still runs at the end is killed."""
    root = str(Path(pytest_claude_comms.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    started: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def kill_loop(python: Python) -> KillLoop:
    """Kills a writer to a store URL many times, and checks the store after each.

    Every append that returned is there, at most one more is, the text is what the changes say,
    and revisions have no gap.
    """

    def run(url: str, kills: int) -> Kills:
        chance = random.Random(20260101)
        seen = Kills()
        with open_store(url, durability="process") as store:
            store.create_thread(thread_id="t")
            store.add_message("t", "module", status="processing", message_id="m")
        for turn in range(kills):
            last = _killed(python, url, turn, chance.randrange(40))
            seen.acknowledged = max(seen.acknowledged, last + 1)
            seen.kept = _check(url, seen.acknowledged)
        return seen

    return run


def _killed(python: Python, url: str, turn: int, acknowledgements: int) -> int:
    """Kill a writer after so many acknowledged appends; returns the number of the last one."""
    child = python(_WRITER, url, "power" if turn % 2 else "process")
    assert child.stdout is not None
    assert child.stderr is not None
    said = [child.stdout.readline() for _ in range(acknowledgements)]
    child.kill()
    # communicate() would drop the lines that readline() has read ahead.
    rest, complaint = child.stdout.read(), child.stderr.read()
    child.wait()
    assert "" not in said, complaint
    numbers = [int(line) for line in [*said, *rest.splitlines(True)] if line.endswith("\n")]
    return numbers[-1] if numbers else -1


def _check(url: str, acknowledged: int) -> int:
    with open_store(url, durability="process") as store:
        message = store.get_message("m")
        changes = store.changes()
    numbers = [int(part) for part in message.content.split(";")[:-1]]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= acknowledged
    assert [change.revision for change in changes] == list(range(1, len(numbers) + 2))
    assert "".join(change.append or "" for change in changes) == message.content
    assert message.metadata == ({"n": numbers[-1]} if numbers else {})
    return len(numbers)
