"""Power loss at every moment, on a disk that drops, tears and reorders what was not synced."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.torture.conftest import Row
from tests.torture.disk import MANNERS, Call, Contents, Replay, calls_in
from tests.torture.stage import Stage
from tests.torture.story import BACKENDS, Story, Unreadable, effects, judge, paths_in, url_in
from tests.torture.tracing import RECORDED, on, tracing

pytestmark = pytest.mark.usefixtures("strace")

SYNCS = ("fsync", "fdatasync")


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in which syncing costs nothing, where there is one."""
    shm = Path("/dev/shm")
    if not (shm.is_dir() and os.access(shm, os.W_OK)):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="torture-", dir=shm) as folder:
        yield Path(folder)


@dataclass
class Recording:
    """The story's calls, as they were made in ``folder``."""

    folder: Path
    backend: str
    order: list[str]
    calls: list[Call]

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"


def record(
    stage: Stage, folder: Path, backend: str, *, durability: str = "power", rounds: int = 1
) -> Recording:
    folder.mkdir()
    ledger, log = folder / "ledger", folder.with_suffix(".log")
    actor = stage.start(
        "tests.torture.story:tell",
        url=url_in(folder, backend), durability=durability, rounds=rounds, ledger=str(ledger),
    )  # fmt: skip
    paths = [*paths_in(folder), str(ledger)]
    try:
        whole = ["-xx", "-s", "100000000", "-e", f"trace={RECORDED}"]
        with tracing(actor, log, [*on(paths), *whole]):
            actor.say("tell")
            said = []
            while (each := actor.hear()) != "told":
                said.append(each)
    finally:
        actor.end()
    order = [name for name, _ in Story("memory:", "power", rounds).steps()]
    assert [each.get("done") for each in said] == order
    return Recording(folder, backend, order, calls_in(log))


@dataclass
class Tally:
    """What came of some losses of power."""

    states: int = 0
    lost: int = 0
    unreadable: int = 0
    wrong: list[str] = field(default_factory=list)


def all_states(recording: Recording, each: int) -> Iterator[tuple[str, int, Contents]]:
    """What may be found after a loss of power, no two alike: where, steps done, files.

    ``each``: random ones for each call.
    """
    replay = Replay(recording.folder, recording.ledger)
    seen: set[int] = set()
    for number, call in enumerate(recording.calls):
        replay.step(call)
        for turn, manner in enumerate([*MANNERS, *["some"] * each]):
            found = replay.disk.after_power_loss(random.Random(f"{number} {turn}"), manner)
            key = hash((len(replay.done), frozenset(found.items())))
            if key not in seen:
                seen.add(key)
                yield f"after call {number}, {call.name}, {manner}", len(replay.done), found


def lose_power(
    recording: Recording, memory: Path, *, each: int, sample: float = 1, stop_at_first: bool = False
) -> Tally:
    tally = Tally()
    chance = random.Random(5)
    for where, done, found in all_states(recording, each):
        if chance.random() > sample:
            continue
        tally.states += 1
        folder = memory / f"{tally.states}"
        _lay_out(folder, found)
        under_way = set(recording.order[done : done + 1])
        try:
            wrong = judge(
                effects(folder, recording.backend), set(recording.order[:done]), under_way
            )
            tally.lost += bool(wrong)
        except Unreadable as error:
            wrong = [f"unreadable: {error}"]
            tally.unreadable += 1
        tally.wrong += [f"{where}: {what}" for what in wrong]
        shutil.rmtree(folder)
        if wrong and stop_at_first:
            break
    return tally


def _lay_out(folder: Path, found: Contents) -> None:
    folder.mkdir()
    for name, data in found.items():
        path = folder / name
        path.write_bytes(data)
        path.chmod(0o600)


@pytest.mark.parametrize(("backend", "sample"), [("tinydb", 0.4), ("sqlite", 0.03)])
def test_some_losses_of_power(
    stage: Stage, tmp_path: Path, memory: Path, backend: str, sample: float
) -> None:
    recording = record(stage, tmp_path / "here", backend)
    tally = lose_power(recording, memory, each=2, sample=sample)
    assert tally.wrong == []
    assert tally.states > 25


@pytest.mark.long
@pytest.mark.parametrize(("backend", "rounds"), [("tinydb", 40), ("sqlite", 1)])
def test_thousands_of_losses_of_power(
    stage: Stage, tmp_path: Path, memory: Path, backend: str, rounds: int, row: Row
) -> None:
    # SQLite writes pages, which can tear in many ways; a line of a journal in few.
    tally = lose_power(record(stage, tmp_path / "here", backend, rounds=rounds), memory, each=20)
    row(
        "T4 power loss, durability=power", backend, f"{tally.states} states",
        lost=tally.lost,
        unreadable=tally.unreadable,
    )  # fmt: skip
    assert tally.wrong == []
    assert tally.states >= 2_500


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_sync_power_loss_is_seen(
    stage: Stage, tmp_path: Path, memory: Path, backend: str
) -> None:
    """What the check above is for: stores that do not sync, or only what is in files."""
    whole = record(stage, tmp_path / "power", backend)
    careless = record(stage, tmp_path / "process", backend, durability="process")
    for recording in (careless, without(whole, lambda call: call.name in SYNCS)):
        tally = lose_power(recording, memory, each=2, sample=0.5, stop_at_first=True)
        assert tally.wrong


def without(recording: Recording, left_out: Callable[[Call], bool]) -> Recording:
    """The recording of a store that does not make some calls."""
    calls = [call for call in recording.calls if not left_out(call)]
    return Recording(recording.folder, recording.backend, recording.order, calls)
