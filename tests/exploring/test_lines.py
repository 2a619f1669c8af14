"""Each line of the user's code as a point."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pytest_claude_comms.testing.exploring import Found, explore
from pytest_claude_comms.testing.exploring_trace import is_users, is_users_file
from pytest_claude_comms.testing.fake_clock import FakeClock
from tests.exploring import planted


def test_whose_code_is_whose() -> None:
    import pytest_claude_comms

    assert is_users(test_whose_code_is_whose.__code__)
    for name in (pytest_claude_comms.__file__, pytest.__file__, "<string>", None, ""):
        assert not is_users_file(name)
    import json

    assert not is_users_file(json.__file__)


def test_only_the_modules_that_are_named() -> None:
    explore(planted.lost_update, 100, lines=("tests.exploring.test_lines",), watchdog=60)
    with pytest.raises(Found):
        explore(planted.lost_update, 1_000, lines=("tests.exploring.planted",), watchdog=60)
    with pytest.raises(Found):
        explore(planted.lost_update, 1_000, lines=("tests",), watchdog=60)


def test_the_lines_of_the_test_itself_are_points() -> None:
    def program(clock: FakeClock) -> None:
        shared = [0]

        def adds() -> None:
            shared[0] += 10

        clock.spawn(adds)
        before = shared[0]
        shared[0] = before + 1
        clock.run_until_idle()
        assert shared == [11]

    with pytest.raises(Found) as found:
        explore(program, 1_000, lines=True, watchdog=60)
    assert "preempted before line" in str(found.value)
    assert "test_lines.py:" in str(found.value)


def test_what_traced_before_traces_again() -> None:
    calls: list[str] = []

    def tracer(frame: Any, event: str, arg: Any) -> None:
        calls.append(frame.f_code.co_name)

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        explore(planted.locked_update, 3, lines=True, watchdog=60)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)


def test_a_debugger_that_takes_over_is_left_alone() -> None:
    def tracer(frame: Any, event: str, arg: Any) -> None:
        """As a debugger's."""

    before = sys.gettrace()
    try:
        explore(lambda clock: sys.settrace(tracer), 1, lines=True, watchdog=60)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
