"""The real clock: what waits, what wakes, and who hears of an error that no caller sees."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timezone
from fractions import Fraction

import freezegun
import pytest

import pytest_claude_comms.clock as clock_module
from pytest_claude_comms.clock import (
    Clock,
    SystemClock,
    report_unhandled,
    seconds_to_us,
    to_datetime,
    to_us,
    unhandled_hook,
)

FOREVER = 60_000_000
"""Microseconds: so long that a test which really waited for it would be seen to."""


def test_system_clock_is_a_clock() -> None:
    clock = SystemClock()
    assert isinstance(clock, Clock)
    assert clock.describe() == "system clock"
    assert repr(clock) == "SystemClock()"


def test_now_is_aware_utc_and_monotonic_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.now().tzinfo is timezone.utc
    seen = [clock.monotonic_us() for _ in range(100)]
    assert seen == sorted(seen)
    assert clock.monotonic() >= seen[-1] / 1_000_000


def test_a_set_before_the_wait_is_kept_and_consumed_once() -> None:
    wakeup = SystemClock().wakeup()
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(FOREVER, why="test") is True
    assert wakeup.wait(0, why="test") is False


def test_a_set_from_another_thread_ends_a_wait_without_a_limit() -> None:
    clock = SystemClock()
    wakeup = clock.wakeup(polls=True)
    handle = clock.spawn(wakeup.set)
    assert wakeup.wait(None, why="test") is True
    assert handle.join() is True
    assert not handle.is_alive()


def test_a_beat_ends_a_wait_as_time_being_up_does() -> None:
    wakeup = SystemClock().wakeup()
    assert wakeup.wait(None, why="test", beat_us=1) is False
    assert wakeup.wait(FOREVER, why="test", beat_us=1) is False
    assert wakeup.wait(1, why="test", beat_us=FOREVER) is False


def test_a_span_that_no_lock_takes_is_cut() -> None:
    wakeup = SystemClock().wakeup()
    wakeup.set()
    assert wakeup.wait(10**17, why="test")


def test_backoff_ends_and_says_how_long_it_waited() -> None:
    backoff = SystemClock().backoff(3_000)
    pauses = 0
    while backoff.pause():
        pauses += 1
        assert pauses < 100
    assert pauses >= 1
    assert backoff.waited >= 0.003


def test_backoff_without_patience_does_not_wait() -> None:
    assert SystemClock().backoff(0).pause() is False


def test_the_lock_excludes_and_may_be_entered_again_by_its_holder() -> None:
    clock = SystemClock()
    lock = clock.lock()
    inside: list[str] = []

    def other() -> None:
        with lock:
            inside.append("other")

    with lock, lock:
        handle = clock.spawn(other)
        inside.append("first")
    assert handle.join()
    assert inside == ["first", "other"]


def test_join_returns_false_when_its_time_is_up() -> None:
    clock = SystemClock()
    wakeup = clock.wakeup()
    handle = clock.spawn(wakeup.wait, None, why="test")
    assert handle.join(0.001) is False
    assert handle.is_alive()
    wakeup.set()
    assert handle.join() is True


def raises() -> None:
    raise LookupError("nobody sees this")


def test_an_error_on_a_thread_goes_to_the_latest_hook_with_its_thread() -> None:
    outer: list[str] = []
    inner: list[tuple[str, str]] = []
    with unhandled_hook(lambda error, what: outer.append(what)):
        with unhandled_hook(lambda error, what: inner.append((str(error), what))):
            SystemClock().spawn(raises).join()
        assert inner == [("nobody sees this", "claude-comms raises")]
        assert outer == []
        SystemClock().unhandled(ValueError("x"), "somebody")
    assert outer == ["somebody"]


def test_without_a_hook_it_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    # The default: where the plugin is loaded, its hook stands in front.
    default = clock_module._unhandled_hooks[0]
    with caplog.at_level(logging.ERROR, logger="pytest_claude_comms"), unhandled_hook(default):
        SystemClock().spawn(raises).join()
        report_unhandled(ValueError("y"), "somebody")
    assert [record.message for record in caplog.records] == [
        "claude-comms raises raised",
        "somebody raised",
    ]
    assert "LookupError: nobody sees this" in caplog.text


def test_its_threads_do_not_keep_the_interpreter() -> None:
    daemons: list[bool] = []
    SystemClock().spawn(lambda: daemons.append(threading.current_thread().daemon)).join()
    assert daemons == [True]


def test_frozen_time_does_not_stop_it() -> None:
    clock = SystemClock()
    with freezegun.freeze_time("2001-01-01", real_asyncio=True):
        assert clock.now().year > 2001
        start = clock.monotonic_us()
        clock.sleep(0.002)
        assert clock.monotonic_us() - start >= 2_000
        assert clock.wakeup().wait(1_000, why="test") is False
        backoff = clock.backoff(2_000)
        while backoff.pause():
            pass
        assert backoff.waited >= 0.002
        assert clock.spawn(clock.sleep, 0.001).join()


def test_broken_version_a_clock_that_looks_time_up_in_its_module_is_frozen() -> None:
    import time

    class Naive(SystemClock):
        def monotonic_us(self) -> int:
            return time.monotonic_ns() // 1000

    clock = Naive()
    with freezegun.freeze_time("2001-01-01", real_asyncio=True):
        start = clock.monotonic_us()
        clock.sleep(0.002)
        assert clock.monotonic_us() == start


def test_instants_survive_the_way_there_and_back() -> None:
    for us in (0, 1, -1, 1_767_225_600_000_001, 253_402_300_799_999_999):
        assert to_us(to_datetime(us)) == us
    assert to_datetime(0) == datetime(1970, 1, 1, tzinfo=timezone.utc)


def test_a_naive_datetime_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^datetime\.datetime\(2026, 1, 1, 0, 0\) has no time zone$"
    ):
        to_us(datetime(2026, 1, 1))


@pytest.mark.parametrize("seconds", [True, "1", None, Fraction(1, 2), 1j, b"1", []])
def test_what_is_no_number_of_seconds_is_a_type_error(seconds: object) -> None:
    with pytest.raises(TypeError, match=r"^it must be a number of seconds, not "):
        seconds_to_us(seconds, "it")


@pytest.mark.parametrize(
    "seconds", [-1, -1e-9, float("nan"), float("inf"), float("-inf"), 1e12, 10**400]
)
def test_a_span_outside_the_bounds_is_a_value_error(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^it must be between 0 and 1e11 seconds, not "):
        seconds_to_us(seconds if seconds != 10**400 else 10**300, "it")


def test_spans_are_rounded_to_whole_microseconds() -> None:
    assert seconds_to_us(0.1 + 0.2, "it") == 300_000
    assert seconds_to_us(1e-7, "it") == 0
    assert seconds_to_us(0, "it") == 0
