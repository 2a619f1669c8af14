"""The real clock: what waits, what wakes, and who hears of an error that no caller sees."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from datetime import datetime, timezone
from fractions import Fraction
from functools import partial
from typing import Any

import freezegun
import pytest

import pytest_claude_comms.clock as clock_module
from pytest_claude_comms.clock import (
    AsyncWakeup,
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
    assert {record.name for record in caplog.records} == {"pytest_claude_comms"}


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
        ValueError, match=r"^datetime\.datetime\(2026, 1, 1, 0, 0\) has no time zone: give it one"
    ):
        to_us(datetime(2026, 1, 1))


@pytest.mark.parametrize("seconds", [True, "1", None, Fraction(1, 2), 1j, b"1", []])
def test_what_is_no_number_of_seconds_is_a_type_error(seconds: object) -> None:
    with pytest.raises(TypeError) as caught:
        seconds_to_us(seconds, "it")
    assert str(caught.value) == f"it must be a number of seconds, not {seconds!r}"


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


def test_the_bounds_of_a_span_are_spans() -> None:
    assert seconds_to_us(1e11, "it") == 10**17
    assert seconds_to_us(10**11, "it") == 10**17
    with pytest.raises(ValueError, match=r"^it must be between 0 and 1e11 seconds, not 1000000000"):
        seconds_to_us(10**11 + 1e-4, "it")


def test_the_last_instant_is_that_of_datetime() -> None:
    assert to_datetime(clock_module.LAST_US) == datetime.max.replace(tzinfo=timezone.utc)


def test_what_a_clock_says_is_what_it_counts() -> None:
    class At(SystemClock):
        def now_us(self) -> int:
            return 1_767_225_600_000_001

        def monotonic_us(self) -> int:
            return 2_500_000

    assert At().monotonic() == 2.5
    assert At().now() == datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc)
    clock = SystemClock()
    assert {type(clock.now_us()), type(clock.monotonic_us())} == {int}
    before = time.monotonic_ns() // 1000
    assert before <= clock.monotonic_us() <= time.monotonic_ns() // 1000
    hour_us = 3_600_000_000  # somebody may set the time of day meanwhile
    assert abs(clock.now_us() - time.time_ns() // 1000) < hour_us


def test_how_long_a_wakeup_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lock:
        def acquire(self, timeout: float = -1) -> bool:
            waits.append(timeout)
            return False

    waits: list[float] = []
    monkeypatch.setattr(threading, "Lock", Lock)
    wakeup = SystemClock().wakeup()
    monkeypatch.undo()
    for timeout_us, beat_us in (
        (None, None),
        (5_000_000, None),
        (None, 1_000),
        (5_000_000, 1_000),
        (500, 1_000),
        (86_400_000_001, None),
        (86_399_000_000, None),
        (-1, None),
    ):
        assert wakeup.wait(timeout_us, why="test", beat_us=beat_us) is False
    assert waits == [-1, -1, 5.0, 0.001, 0.001, 0.0005, 86_400.0, 86_399.0, 0]  # -1: for ever


def test_a_wakeup_is_set_once_however_often_and_waited_for_once() -> None:
    wakeup = SystemClock().wakeup()
    assert not wakeup.wait(0, why="test")
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(None, why="test")
    assert not wakeup.wait(0, why="test")
    thread = threading.Timer(0.01, wakeup.set)
    thread.start()
    assert wakeup.wait(None, why="test")
    thread.join()


def test_the_pauses_of_a_backoff_double_and_end_with_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Standing(SystemClock):
        us = 7

        def monotonic_us(self) -> int:
            return self.us

    clock = Standing()
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.us += round(seconds * 1_000_000)

    monkeypatch.setattr(clock_module._RealTime, "sleep", sleep)
    backoff = clock.backoff(25_000)
    assert backoff.waited == 0
    while backoff.pause():
        pass
    assert pauses == [0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.008, 0.0044]
    assert backoff.waited == 0.025
    assert backoff.pause() is False
    pauses.clear()
    backoff = clock.backoff(201)
    assert [backoff.pause() for _ in range(3)] == [True, True, False]
    assert pauses == [0.0002, 0.000001]


def test_a_thread_of_what_has_no_name() -> None:
    names: list[str] = []
    call = partial(lambda: names.append(threading.current_thread().name))
    assert SystemClock().spawn(call).join()
    assert names == ["claude-comms thread"]


def test_a_function_gets_its_arguments() -> None:
    got: list[object] = []
    assert SystemClock().spawn(lambda *args, **more: got.append((args, more)), 1, b=2).join()
    assert got == [((1,), {"b": 2})]


def test_a_hook_is_gone_also_after_an_error() -> None:
    seen: list[str] = []
    with unhandled_hook(lambda error, what: seen.append(what)):
        with pytest.raises(LookupError), unhandled_hook(lambda error, what: None):
            raise LookupError
        report_unhandled(ValueError("x"), "somebody")
    assert seen == ["somebody"]


# -- in an event loop


def test_a_set_is_kept_for_the_loop_and_consumed_once() -> None:
    async def main() -> None:
        wakeup = SystemClock().async_wakeup()
        assert await wakeup.wait(0, why="test") is False
        wakeup.set()
        wakeup.set()
        assert await wakeup.wait(FOREVER, why="test") is True
        assert await wakeup.wait(0, why="test") is False
        assert await wakeup.wait(FOREVER, why="test", beat_us=1) is False
        assert await wakeup.wait(1, why="test", beat_us=FOREVER) is False
        assert await wakeup.wait(None, why="test", beat_us=1) is False

    asyncio.run(main())


def test_a_set_from_another_thread_ends_a_wait_in_a_loop() -> None:
    async def main() -> None:
        clock = SystemClock()
        for timeout_us in (None, FOREVER):
            wakeup = clock.async_wakeup(polls=True)
            handle = clock.spawn(wakeup.set)
            assert await wakeup.wait(timeout_us, why="test") is True
            assert handle.join()
            assert await wakeup.wait(0, why="test") is False

    asyncio.run(main())


def test_a_wait_in_a_loop_leaves_nothing_behind() -> None:
    """Neither a timer, when it ended before, nor a waiter, when it was cancelled."""

    async def main() -> None:
        wakeup = SystemClock().async_wakeup()
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: errors.append(context))
        timers: list[asyncio.TimerHandle] = []
        call_later = loop.call_later

        def later(delay: float, *args: Any, **more: Any) -> asyncio.TimerHandle:
            timers.append(call_later(delay, *args, **more))
            return timers[-1]

        loop.call_later = later  # type: ignore[method-assign, assignment]
        waiting = asyncio.ensure_future(wakeup.wait(FOREVER, why="test"))
        await asyncio.sleep(0)
        wakeup.set()
        assert await waiting is True
        assert [timer.cancelled() for timer in timers] == [True]
        cancelled = asyncio.ensure_future(wakeup.wait(None, why="test"))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        wakeup.set()
        await asyncio.sleep(0)
        assert await wakeup.wait(None, why="test") is True
        again = asyncio.ensure_future(wakeup.wait(None, why="test"))
        await asyncio.sleep(0)
        for _ in range(3):
            wakeup.set()
        assert await again is True
        await asyncio.sleep(0)

    errors: list[object] = []
    asyncio.run(main())
    assert errors == []


def test_a_set_after_the_end_of_its_loop_harms_nobody() -> None:
    async def main() -> AsyncWakeup:
        return SystemClock().async_wakeup()

    asyncio.run(main()).set()


def test_without_a_loop_there_is_no_such_signal() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        SystemClock().async_wakeup()


def test_who_waited_in_a_loop_that_is_closed_is_let_go() -> None:
    let_go: list[str] = []
    wakeups = []

    async def waits() -> None:
        wakeups.append(SystemClock().async_wakeup())
        try:
            await wakeups[0].wait(None, why="test")
        finally:
            let_go.append("the waiter")

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # a task that is pending at its end
    task = loop.create_task(waits())
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    del task
    gc.collect()
    assert not let_go
    wakeups[0].set()
    gc.collect()
    assert let_go == ["the waiter"]
