"""What the explorer is for: bugs that the order of a fake clock hides are found."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import pytest

from pytest_claude_comms.testing.exploring import Found, explore
from pytest_claude_comms.testing.exploring_scheduler import ExploringScheduler
from pytest_claude_comms.testing.fake_clock import FakeClock
from tests.exploring import planted

PAGE = """\
schedule 2 of 1,000 failed; its seed is 1:16

   1  +0 s  the test (actor 1)
        create_thread('demo', thread_id='t')
        add_message('t', 'arangodb', status='processing', message_id='answer')
        plan(ends (for +30 s, planted.py:49))
        plan(ends (for +30 s, planted.py:50))
        it waits for until idle, planted.py:51
   2  +30 s  ends (for +30 s, planted.py:49) (actor 2)
        get_message('answer')
        preempted after get_message, planted.py:44
   3  +30 s  ends (for +30 s, planted.py:50) (actor 3)
        get_message('answer')
        update_message('answer', status='cancelled')
        preempted before the pollers hear of a commit, planted.py:47
   4  +30 s  ends (for +30 s, planted.py:49) (actor 2)
        update_message('answer', status='complete') -> InvalidTransition
        it ends
   5  +30 s  ends (for +30 s, planted.py:50) (actor 3)
        it ends
   6  +30 s  the test (actor 1)
        get_message('answer')

again: explore(…, only=Seed(number=1, points=16))"""

Program = Callable[[FakeClock], None]

BY_OPERATIONS = [planted.lost_wakeup, planted.two_terminals, planted.callback_in_the_middle]
BUGS = [
    *(pytest.param(each, False, id=each.__name__) for each in BY_OPERATIONS),
    pytest.param(planted.lost_update, True, id="lost_update"),
]


def needed(program: Program, first: int, *, lines: bool, most: int = 1_000) -> int | None:
    """How many schedules until it fails; None: it does not."""
    try:
        explore(program, most, first=first, lines=lines, watchdog=60)
    except Found as found:
        return found.exploration.done
    return None


@pytest.mark.parametrize(("program", "lines"), BUGS)
def test_without_exploring_the_bug_is_hidden(program: Program, lines: bool) -> None:
    for _ in range(5):
        with FakeClock() as clock:
            program(clock)


@pytest.mark.parametrize(("program", "lines"), BUGS)
def test_it_is_found_from_every_first_seed(program: Program, lines: bool) -> None:
    counts = [needed(program, 1 + 1_000 * base, lines=lines) for base in range(20)]
    found = [count for count in counts if count is not None]
    assert len(found) == 20, f"schedules needed: {counts}"
    print(f"{program.__name__}: {median(found):g} schedules in the median, {max(found)} at most")
    assert max(found) < 1_000
    assert median(found) <= 50


@pytest.mark.parametrize(("program", "lines"), BUGS)
def test_the_seed_alone_repeats_it(program: Program, lines: bool) -> None:
    with pytest.raises(Found) as found:
        explore(program, 1_000, lines=lines, watchdog=60)
    first = found.value
    for _ in range(3):
        with pytest.raises(Found) as again:
            explore(program, only=first.seed, lines=lines, watchdog=60)
        assert type(again.value.__cause__) is type(first.__cause__)
        assert steps(again.value) == steps(first)


def steps(found: Found) -> list[str]:
    assert found.exploration.clock is not None
    return found.exploration.clock.explorer.trace.lines()


def test_code_without_the_bug_passes() -> None:
    explored = explore(planted.locked_update, 80, lines=True, watchdog=60)
    assert explored.done == 80
    assert explored.distinct > 20


def test_lines_are_needed_where_no_operation_is_between() -> None:
    assert needed(planted.lost_update, 1, lines=False, most=100) is None


@pytest.mark.parametrize("program", BY_OPERATIONS)
def test_broken_version_that_never_takes_a_turn_away_finds_nothing(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExploringScheduler, "_is_outranked", lambda self, actor: False)
    assert needed(program, 1, lines=False, most=100) is None


def test_the_failing_schedule_is_told_turn_by_turn_and_is_the_same_everywhere() -> None:
    with pytest.raises(Found) as found:
        explore(planted.two_terminals, 1_000, watchdog=60)
    assert str(found.value) == PAGE
