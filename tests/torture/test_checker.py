"""The checkers see each error, and none where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.torture.histories import ERRORS, Ack, Note, errors_in, unkept
from tests.torture.story import BACKENDS, Story, Unreadable, effects, judge, url_in


def change(
    revision: int, status: str, previous: str | None, length: int, message: str = "m"
) -> list[Any]:
    return [revision, message, previous, status, "x", None, length, None, None]


COMMITTED = {
    1: change(1, "pending", None, 1),
    2: change(2, "processing", "pending", 2),
    3: change(3, "processing", "processing", 3),
    4: change(4, "complete", "processing", 4),
    5: change(5, "pending", "complete", 4),  # no store may do that
}
ACKS = [
    Ack("m", revision, COMMITTED[revision][3], revision, at=revision * 10)
    for revision in (1, 2, 3, 4)
]
EVENTS: list[Note] = [{"event": COMMITTED[revision]} for revision in (1, 2, 3, 4)]
ONE, TWO, THREE, FOUR = EVENTS
BROKEN: Note = {"event": COMMITTED[5]}

LAWFUL: list[list[Note]] = [
    [],
    [*EVENTS, {"mark": 4}],
    [ONE, {"mark": 1}, TWO, THREE, {"mark": 3}, {"mark": 3}, FOUR, {"mark": 4, "begun": 99}],
    [ONE, TWO, {"mark": 2}, THREE, {"resumed": 2}, THREE, FOUR, {"mark": 4}],
    [{"resumed": 2}, THREE, FOUR, {"mark": 4}],
    [ONE, TWO, {"mark": 2, "begun": 25}, {"read": [3, "m", "processing", 3]}],
    [{"mark": 0, "begun": 5}],
]

UNLAWFUL: list[tuple[str, list[Note]]] = [
    ("lost", [ONE, THREE, FOUR, {"mark": 4}]),
    ("lost", [ONE, TWO, {"resumed": 1}, THREE, {"mark": 3}]),
    ("repeated", [ONE, TWO, TWO, THREE]),
    ("repeated", [ONE, TWO, {"mark": 2}, {"resumed": 2}, TWO, THREE]),
    ("misordered", [ONE, THREE, TWO, FOUR]),
    ("torn", [ONE, {"event": change(2, "processing", "pending", 1)}]),
    ("torn", [{"read": [2, "m", "processing", 1]}]),
    ("unlawful", [*EVENTS, BROKEN]),
    ("time-travel", [{"event": change(9, "pending", None, 1)}]),
    ("time-travel", [ONE, TWO, {"mark": 2}, {"mark": 1}]),
    ("time-travel", [ONE, TWO, {"mark": 2, "begun": 31}]),
    ("time-travel", [ONE, TWO, THREE, {"read": [2, "m", "processing", 2]}]),
    ("gone", [ONE, {"gone": "no more"}]),
]


@pytest.mark.parametrize("notes", LAWFUL)
def test_nothing_is_wrong(notes: list[Note]) -> None:
    assert errors_in(notes, COMMITTED, ACKS) == []


@pytest.mark.parametrize(("error", "notes"), UNLAWFUL)
def test_each_error_has_its_name(error: str, notes: list[Note]) -> None:
    assert errors_in(notes, COMMITTED, ACKS)[0].partition(":")[0] == error


def test_every_error_was_tried() -> None:
    assert {error for error, _ in UNLAWFUL} == set(ERRORS)


def test_of_one_message_others_are_not_lost() -> None:
    committed = {**COMMITTED, 5: change(5, "pending", None, 1, "other")}
    assert errors_in([*EVENTS, {"mark": 5}], committed, (), frozenset({"m"})) == []
    assert errors_in([*EVENTS, {"mark": 5}], committed) == ["lost: [5], and the mark is 5"]


def test_of_callbacks_each_message_is_ordered() -> None:
    committed = {**COMMITTED, 3: change(3, "pending", None, 1, "other")}
    notes: list[Note] = [ONE, {"event": committed[3]}, TWO, FOUR, {"mark": 4}]
    assert errors_in(notes, committed, by_message=True) == []
    assert errors_in(notes, committed) == [f"misordered: {TWO['event']} after 3"]
    assert errors_in([TWO, ONE], committed, by_message=True) == [
        f"misordered: {ONE['event']} after 2"
    ]


def test_an_acknowledged_change_that_is_not_there() -> None:
    assert unkept(ACKS, COMMITTED) == []
    assert unkept([Ack("m", 9, "pending", 1, 0)], COMMITTED)[0].startswith("lost")
    assert unkept([Ack("m", 2, "processing", 9, 0)], COMMITTED)[0].startswith("torn")


def test_no_note() -> None:
    with pytest.raises(ValueError, match="no note"):
        errors_in([{"evnet": 1}], COMMITTED)


# -- of stores


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_effects_of_a_story(tmp_path: Path, backend: str) -> None:
    steps = dict(Story(url_in(tmp_path, backend), "process").steps())
    done = set(steps) - {"complete"}
    for name, step in steps.items():
        if name in done:
            step()
    assert judge(effects(tmp_path, backend), done, set()) == []
    assert judge(effects(tmp_path, backend), {*done, "complete"}, set()) == ["lost: complete"]
    assert judge(effects(tmp_path, backend), done - {"6"}, set()) == ["not asked for: 6"]
    assert judge(effects(tmp_path, backend), done - {"6"}, {"6"}) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_left_behind_or_damaged_is_seen(tmp_path: Path, backend: str) -> None:
    for _, step in Story(url_in(tmp_path, backend), "process").steps():
        step()
    (tmp_path / "store.backup.new").touch()
    with pytest.raises(Unreadable, match="left behind"):
        effects(tmp_path, backend)
    (tmp_path / "store.backup.new").unlink()
    path = tmp_path / "store"
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(Unreadable):
        effects(tmp_path, backend)
