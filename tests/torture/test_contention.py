"""Many processes on one store: none is told that it is busy, and all find the same store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.stores import open_store
from pytest_claude_comms.stores.checking import check_store
from tests.torture.conftest import Row
from tests.torture.stage import Actor, Stage
from tests.torture.story import BACKENDS, url_in


def together(stage: Stage, role: str, number: int, **arguments: object) -> list[Any]:
    """Let so many processes play a role at once; what each of them says in the end.

    One that says nothing, since it raised, counts as None.
    """
    actors: list[Actor] = [stage.start(role, **arguments) for _ in range(number)]
    try:
        for actor in actors:
            assert actor.hear() == "ready"
        for actor in actors:
            actor.say("go")
        said = [list(actor.rest()) for actor in actors]
        return [
            each[-1] if each and not actor.wait() else None
            for each, actor in zip(said, actors, strict=True)
        ]
    finally:
        for actor in actors:
            actor.end()


def write_together(stage: Stage, folder: Path, backend: str, processes: int, changes: int) -> float:
    """Seconds that the slowest of all changes took. None was refused, lost or made twice."""
    url = url_in(folder, backend)
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
    role = "tests.torture.writing:add_and_update"
    said = together(stage, role, processes, url=url, thread="t", changes=changes)
    assert [each["made"] for each in said if each] == [changes] * processes
    with open_store(url, durability="process") as store:
        assert store.cursor() == processes * changes
        text = "".join(f"{number};" for number in range(changes - 1))
        assert [message.content for message in store.messages()] == [text] * processes
    assert check_store(url).findings == ()
    return max(float(each["slowest"]) for each in said if each)


def open_together(stage: Stage, folder: Path, backend: str, processes: int, rounds: int) -> None:
    """Each time, all are the first to open a store; all get the same."""
    for turn in range(rounds):
        url = f"{backend}:///{folder}/first-{turn}"
        said = together(stage, "tests.torture.writing:open_at_once", processes, url=url)
        with open_store(url, durability="process") as store:
            assert said == [{"store_id": store.store_id}] * processes


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_few_processes(stage: Stage, tmp_path: Path, backend: str) -> None:
    write_together(stage, tmp_path, backend, processes=5, changes=10)
    open_together(stage, tmp_path, backend, processes=5, rounds=1)


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_sixteen_processes(stage: Stage, tmp_path: Path, backend: str, row: Row) -> None:
    slowest = write_together(stage, tmp_path, backend, processes=16, changes=100)
    row(
        "T8 contention: 16 processes", backend, "1600 changes",
        lost=0, unreadable=0, busy=0, slowest_change=f"{slowest * 1000:.0f} ms",
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_forty_first_openings(stage: Stage, tmp_path: Path, backend: str, row: Row) -> None:
    open_together(stage, tmp_path, backend, processes=8, rounds=40)
    row("T8 first opening: 8 at once", backend, "320 openings", lost=0, unreadable=0, busy=0)
