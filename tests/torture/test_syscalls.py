"""kill -9 at every call that a store makes on its files: no acknowledged change is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.conftest import Row
from tests.torture.stage import Stage
from tests.torture.story import BACKENDS, Story, Unreadable, effects, judge, paths_in, url_in
from tests.torture.tracing import Point, injecting, points_in, seeing_all, tracing

pytestmark = pytest.mark.usefixtures("strace")

KILLED = -9
ORDER = [name for name, _ in Story("memory:", "power").steps()]


def run(
    stage: Stage, folder: Path, backend: str, options: list[str]
) -> tuple[list[dict[str, str]], int]:
    """Tell the story under strace, until its end or death; what was said, and the exit code."""
    folder.mkdir()
    actor = stage.start("tests.torture.story:tell", url=url_in(folder, backend), durability="power")
    said: list[dict[str, str]] = []
    try:
        with tracing(actor, folder.with_suffix(".log"), options):
            actor.say("tell")
            for each in actor.rest():
                if each == "told":
                    break
                said.append(each)
        actor.close()
        return said, actor.wait()
    finally:
        actor.end()


def all_points(stage: Stage, folder: Path, backend: str) -> list[Point]:
    """Every call that the whole story makes."""
    _, code = run(stage, folder, backend, seeing_all(paths_in(folder)))
    assert code == 0
    return points_in(folder.with_suffix(".log"))


def kill_at(stage: Stage, folder: Path, backend: str, point: Point) -> tuple[list[str], bool]:
    """Kill at that call; what is wrong afterwards, and whether there was such a call."""
    options = injecting(paths_in(folder), point, "signal=KILL")
    said, code = run(stage, folder, backend, options)
    done = {each["done"] for each in said if "done" in each}
    wrong = [str(each) for each in said if "done" not in each]
    under_way = {ORDER[len(said)]} if code == KILLED else set()
    try:
        wrong += judge(effects(folder, backend), done, under_way)
    except Unreadable as error:
        wrong.append(f"unreadable: {error}")
    return [f"{folder.name}: {each}" for each in wrong], code == KILLED


@pytest.mark.parametrize("backend", BACKENDS)
def test_kills_at_some_calls(stage: Stage, tmp_path: Path, backend: str) -> None:
    points = all_points(stage, tmp_path / "all", backend)
    for point in points[len(points) // 10 :: len(points) // 5]:
        wrong, killed = kill_at(stage, tmp_path / f"{point.call}-{point.k}", backend, point)
        assert wrong == []
        assert killed, point


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_kills_at_every_call(stage: Stage, tmp_path: Path, backend: str, row: Row) -> None:
    kills, wrong = 0, []
    for call in sorted({point.call for point in all_points(stage, tmp_path / "all", backend)}):
        k, killed = 0, True
        while killed:
            k += 1
            found, killed = kill_at(stage, tmp_path / f"{call}-{k}", backend, Point(call, k))
            wrong += found
            kills += killed
    row(
        "T2 kill -9 at every call on the files", backend, f"{kills} calls",
        lost=sum("lost" in each for each in wrong),
        unreadable=sum("unreadable" in each for each in wrong),
    )  # fmt: skip
    assert wrong == []
    assert kills > 300
