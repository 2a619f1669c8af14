"""kill -9 of a writer at random moments: every acknowledged change is kept."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_claude_comms.errors import StoreError
from pytest_claude_comms.stores import open_store
from pytest_claude_comms.stores.checking import check_store
from tests.torture.conftest import Row
from tests.torture.stage import Stage
from tests.torture.story import BACKENDS, LASTING, url_in

KILLS = 3_000
ON_ONE_STORE = 50
"""Kills before the next store is begun: a text that only grows makes all slower."""


@dataclass
class Tally:
    """What came of some kills."""

    acknowledged: int = 0
    kept: int = 0
    lost: int = 0
    unreadable: int = 0
    temporary: int = 0
    """Kills that left a file behind which the next opening had to remove."""
    slowest: float = 0.0
    """Seconds that opening took at most."""
    wrong: list[str] = field(default_factory=list)


def kill_many(stage: Stage, folder: Path, backend: str, kills: int, seed: int) -> Tally:
    chance = random.Random(seed)
    tally = Tally()
    for first in range(0, kills, ON_ONE_STORE):
        here = folder / f"{first}"
        here.mkdir()
        with open_store(url_in(here, backend), durability="process") as store:
            store.create_thread(thread_id="t")
            store.add_message("t", "module", status="processing", message_id="m")
        last = kept = -1
        for turn in range(first, min(first + ON_ONE_STORE, kills)):
            said = _killed(stage, url_in(here, backend), turn, chance)
            last = max(last, said)
            tally.temporary += any(each.name.endswith(".new") for each in here.iterdir())
            kept = _look(here, backend, last, turn, tally)
        tally.acknowledged += last + 1
        tally.kept += kept + 1
        if not tally.wrong:
            shutil.rmtree(here)
    return tally


def _killed(stage: Stage, url: str, turn: int, chance: random.Random) -> int:
    """Kill a writer at a random moment; returns the last number that it has said, or -1."""
    actor = stage.start(
        "tests.torture.writing:scribble",
        url=url,
        durability="power" if turn % 2 else "process",
        seed=turn,
    )
    try:
        said = [actor.hear() for _ in range(chance.randrange(20))]
        # Real time: the moment is to have nothing to do with what the writer does.
        time.sleep(chance.random() * 0.004)
        actor.kill()
        said += actor.rest()
        assert actor.wait() == -9
    finally:
        actor.end()
    return max(said, default=-1)


def _look(folder: Path, backend: str, last: int, turn: int, tally: Tally) -> int:
    """Open the store and look at all of it; returns the last number that is there."""
    url = url_in(folder, backend)
    try:
        begun = time.perf_counter()
        with open_store(url, durability="process") as store:
            tally.slowest = max(tally.slowest, time.perf_counter() - begun)
            message = store.get_message("m")
        report = check_store(url)
    except StoreError as error:
        tally.unreadable += 1
        tally.wrong.append(f"kill {turn}: {error}")
        return -1
    numbers = [int(part) for part in message.content.split(";")[:-1]]
    if not report.ok or numbers != list(range(len(numbers))):
        tally.unreadable += 1
        tally.wrong.append(f"kill {turn}: {report.findings} {numbers}")
    if len(numbers) <= last:
        tally.lost += 1
        tally.wrong.append(f"kill {turn}: {last} was acknowledged, {len(numbers) - 1} is the last")
    if message.metadata != ({"n": numbers[-1]} if numbers else {}):
        tally.wrong.append(f"kill {turn}: {message.metadata} beside {numbers[-1:]}")
    left = {
        path.name for path in folder.iterdir() if not path.name.startswith("backup.backup")
    } - LASTING
    if left:
        tally.wrong.append(f"kill {turn}: {sorted(left)} left behind")
    return len(numbers) - 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_some_kills(stage: Stage, tmp_path: Path, backend: str) -> None:
    tally = kill_many(stage, tmp_path, backend, 8, seed=1)
    assert tally.wrong == []
    assert tally.kept >= tally.acknowledged > 8


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_thousands_of_kills(stage: Stage, tmp_path: Path, backend: str, row: Row) -> None:
    tally = kill_many(stage, tmp_path, backend, KILLS, seed=2)
    row(
        "T1 kill -9 of the writer at random moments", backend, f"{KILLS} kills",
        lost=tally.lost,
        unreadable=tally.unreadable,
        acknowledged=tally.acknowledged,
        kept=tally.kept,
        temporary_files_removed=tally.temporary,
        slowest_opening=f"{tally.slowest * 1000:.0f} ms",
    )  # fmt: skip
    assert tally.wrong == []
    assert tally.kept >= tally.acknowledged > KILLS


def test_a_store_without_its_last_change_is_found(stage: Stage, tmp_path: Path) -> None:
    """What the check above is for: a store that says it is done, and is not."""
    url = url_in(tmp_path, "tinydb")
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "module", status="processing", message_id="m")
    last = _killed(stage, url, 1, random.Random(3))
    with open_store(url, durability="process") as store:
        last = store.get_message("m").content.count(";") - 1
    tally = Tally()
    assert _look(tmp_path, "tinydb", last, 0, tally) == last
    assert tally.wrong == []
    _look(tmp_path, "tinydb", last + 1, 0, tally)
    assert tally.lost == 1
