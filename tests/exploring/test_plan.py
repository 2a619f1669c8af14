"""A seed says all: its form, and that it gives the same schedule everywhere."""

from __future__ import annotations

import re

import pytest

from pytest_claude_comms.testing.exploring_plan import Plan, Seed


def test_a_seed_prints_as_it_is_parsed() -> None:
    seed = Seed(17, 480)
    assert str(seed) == "17:480"
    assert Seed.parse(" 17:480 ") == seed


FORM = re.escape("NUMBER:POINTS, as a failure prints it: 17:480")


@pytest.mark.parametrize(
    "text", ["", "17", "17:", ":480", "17:0", "-1:480", "17:480:1", "a:b", "1:\u0661"]
)
def test_what_is_no_seed_says_how_one_looks(text: str) -> None:
    with pytest.raises(ValueError, match=FORM):
        Seed.parse(text)


def test_a_number_is_no_seed() -> None:
    with pytest.raises(TypeError, match=r"'17:480', not 17$"):
        Seed.parse(17)


def test_a_seed_gives_these_numbers_on_every_machine() -> None:
    plan = Plan(Seed(17, 480))
    drawn = [round(plan.priority(number), 6) for number in (1, 2, 3)]
    assert drawn == [0.093219, 0.256519, 0.597574]
    assert sorted(plan._changes) == [137, 268, 300]


def test_priorities_are_kept_and_a_change_puts_an_actor_behind_all() -> None:
    for number in range(1, 200):
        plan = Plan(Seed(number, 10))
        before = [plan.priority(actor) for actor in (1, 2, 3)]
        assert before == [plan.priority(actor) for actor in (1, 2, 3)]
        for point in range(1, 11):
            plan.pass_point(point, 1)
        if plan._changes:
            assert plan.priority(1) < min(before)
            plan._changes.add(11)
            plan.pass_point(11, 2)
            assert plan.priority(2) < plan.priority(1)
        else:
            assert plan.priority(1) == before[0]


def test_changes_are_spread_over_the_points() -> None:
    plans = [Plan(Seed(number, 50)) for number in range(1, 2_001)]
    assert {len(plan._changes) for plan in plans} == {0, 1, 2, 3, 4}
    assert set().union(*(plan._changes for plan in plans)) == set(range(1, 51))


def test_schedule_0_changes_nothing() -> None:
    plan = Plan(Seed(0, 1))
    assert not plan.explores
    assert not plan._changes
