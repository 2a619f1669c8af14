"""Every error at every call that a store makes on its files, once and from then on."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.torture.conftest import Row
from tests.torture.stage import Stage
from tests.torture.story import BACKENDS, Unreadable, effects, judge, paths_in, url_in
from tests.torture.tracing import (
    Point,
    injecting,
    points_in,
    seeing_all,
    tracing,
    was_injected,
)

pytestmark = pytest.mark.usefixtures("strace")

ERRORS = ("ENOSPC", "EIO", "EACCES", "EMFILE")

STEPS = 99
LOCKS_FOR_GOOD = 3
"""How many of the calls that lock fail for good, the last ones. A lock of its shared memory that
fails is to SQLite one that somebody else has, whatever the error: it waits for ten seconds at each
step. That a busy store ends in StoreBusy has tests of its own."""

CONSEQUENCES = {"ThreadNotFound", "MessageNotFound"}
"""Of a step that was refused before."""
TROUBLE = {"StoreError", "StoreBusy"}
"""What an error of the moment may be called. The store is neither damaged nor gone."""
UNREADABLE = ("pread64", "EIO")
"""A sector that cannot be read. To SQLite, which reads so, that is damage."""

PARTLY = {"compact"}
"""It goes on in steps, each a whole: one that is refused has perhaps trimmed already."""


@dataclass
class Tally:
    """What came of some failing calls."""

    failed: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def fail_at(
    stage: Stage, folder: Path, backend: str, options: list[str], tally: Tally, *,
    most: int, trouble: set[str] = TROUBLE,
) -> bool:  # fmt: skip
    """Tell the story while a call fails; whether there was such a call.

    ``most``: how many steps may be refused for it, and ``trouble`` what that may be called.
    """
    folder.mkdir()
    log = folder.with_suffix(".log")
    actor = stage.start("tests.torture.story:tell", url=url_in(folder, backend), durability="power")
    said: list[dict[str, str]] = []
    try:
        with tracing(actor, log, options):
            actor.say("tell")
            while (each := actor.hear()) != "told":
                said.append(each)
        actor.say("the trouble is over")
        after = list(actor.rest())
        code = actor.wait()
    finally:
        actor.end()
    injected = was_injected(log)
    done = {each["done"] for each in said if "done" in each}
    if not {"message", "ended"} <= done:
        done.discard("compact")  # it had nothing to trim
    refused = [each for each in said if "refused" in each]
    maybe = {each["refused"] for each in refused if each["outcome"] == "unknown"}
    maybe |= {each["refused"] for each in refused} & PARTLY
    wrong = [str(each) for each in said if "raised" in each]
    troubled = [each for each in refused if each["kind"] not in CONSEQUENCES]
    wrong += [f"called damage: {each}" for each in troubled if each["kind"] not in trouble]
    if len(troubled) > most:
        wrong.append(f"went on after the error was over: {troubled[most:]}")
    if code or after != [{"done": "after"}, "closed"]:
        wrong.append(f"the next call: {after}, exit code {code}")
    try:
        # What was refused is perhaps made good by the first call after the trouble.
        made_good = {"thread", "message"} - done
        found = effects(folder, backend) - made_good
        wrong += judge(found, (done | {"after"}), maybe)
    except Unreadable as error:
        wrong.append(f"unreadable: {error}")
    tally.failed += injected
    tally.refused += bool(refused)
    tally.wrong += [f"{folder.name}: {each}" for each in wrong]
    return injected


def fail_point(
    stage: Stage,
    folder: Path,
    backend: str,
    point: Point,
    error: str,
    tally: Tally,
    *,
    forever: bool,
) -> bool:
    here = folder / f"{point.call}-{point.k}-{error}-{'from' if forever else 'at'}"
    options = injecting(paths_in(here), point, f"error={error}", forever=forever)
    trouble = TROUBLE | ({"StoreCorrupt"} if (point.call, error) == UNREADABLE else set())
    return fail_at(
        stage, here, backend, options, tally, most=STEPS if forever else 1, trouble=trouble
    )


def all_points(stage: Stage, folder: Path, backend: str) -> list[Point]:
    """Every call that can fail."""
    tally = Tally()
    assert not fail_at(stage, folder, backend, seeing_all(paths_in(folder)), tally, most=0)
    assert (tally.refused, tally.wrong) == (0, [])
    return points_in(folder.with_suffix(".log"), can_fail=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_at_some_calls(stage: Stage, tmp_path: Path, backend: str) -> None:
    tally = Tally()
    points = all_points(stage, tmp_path / "all", backend)
    some = points[len(points) // 10 :: len(points) // 5]
    for number, point in enumerate(some):
        error, forever = ERRORS[number % 4], number % 3 == 0 and point.call != "fcntl"
        assert fail_point(stage, tmp_path, backend, point, error, tally, forever=forever)
    assert tally.wrong == []
    assert tally.refused


def test_opening_fails_where_sqlite_would_only_read_from_then_on(
    stage: Stage, tmp_path: Path
) -> None:
    tally = Tally()
    assert all_points(stage, tmp_path / "all", "sqlite")
    log = (tmp_path / "all.log").read_text(encoding="utf-8", errors="replace").splitlines()
    opened = [line for line in log if "openat(" in line]
    for k, line in enumerate(opened, start=1):
        if '/store"' in line and "O_RDWR|O_NOFOLLOW" in line:  # SQLite tries O_RDONLY next
            point = Point("openat", k)
            assert fail_point(stage, tmp_path, "sqlite", point, "EMFILE", tally, forever=False)
    assert tally.wrong == []
    assert tally.refused


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_errors_at_every_call(
    stage: Stage, tmp_path: Path, backend: str, error: str, row: Row
) -> None:
    tally = Tally()
    points = all_points(stage, tmp_path / "all", backend)
    for point in points:
        fail_point(stage, tmp_path, backend, point, error, tally, forever=False)
    locks = [point for point in points if point.call == "fcntl"]
    for point in points:
        if point not in locks[:-LOCKS_FOR_GOOD]:
            fail_point(stage, tmp_path, backend, point, error, tally, forever=True)
    row(
        f"T3 {error} at every call, once and from then on", backend, f"{tally.failed} errors",
        lost=sum("lost" in each for each in tally.wrong),
        unreadable=sum("unreadable" in each for each in tally.wrong),
        StoreError_raised_in=tally.refused,
        wrong=len(tally.wrong),
    )  # fmt: skip
    assert tally.wrong == []
    assert tally.failed > 500
