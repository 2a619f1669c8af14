"""An actor that blocks in anything but the clock, and work outside, under the same watchdog."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from pytest_claude_comms.errors import ClockDeadlock
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.testing.scheduler import Scheduler
from pytest_claude_comms.testing.stacks import stack_of
from pytest_claude_comms.testing.watchdog import Watchdog

WATCHDOG = 0.3

posix = pytest.mark.skipif(not hasattr(signal, "SIGURG"), reason="needs a signal to interrupt")


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock(watchdog=WATCHDOG) as clock:
        yield clock


@pytest.fixture
def stuck() -> Iterator[threading.Lock]:
    lock = threading.Lock()
    lock.acquire()
    yield lock
    lock.release()


def test_an_actor_stuck_in_a_real_lock_fails_the_test_with_every_stack(
    clock: FakeClock, stuck: threading.Lock
) -> None:
    def blocks() -> None:
        with stuck:
            pass

    def sleeps() -> None:
        clock.sleep(60)

    clock.spawn(sleeps)
    clock.at(1, blocks)
    with pytest.raises(ClockDeadlock) as caught:
        clock.advance(100)
    page = str(caught.value)
    assert re.match(
        r"test_an_actor_stuck_in_a_real_lock_fails_the_test_with_every_stack\.<locals>\.blocks "
        r"\(for \+1 s, test_watchdog\.py:\d+\) has not come back to the fake clock "
        r"for 0\.3 [^\n]*:\n"
        r"  the test waits for advance since \+0 s\n",
        page,
    )
    assert "with stuck:" in page, "where it is stuck"
    assert ".sleeps waits for 60 s to pass since +0 s" in page
    assert "clock.advance(100)" in page, "and what the test was doing"
    assert "Event.wait, queue.get and" in page
    with pytest.raises(ClockDeadlock, match="^this fake clock has stopped: an actor blocked"):
        clock.advance(1)
    stuck.release()  # else it would be reported again, as not ended
    clock.close()
    stuck.acquire()


@posix
def test_the_test_itself_stuck_in_a_real_lock(clock: FakeClock, stuck: threading.Lock) -> None:
    clock.spawn(clock.sleep, 5)
    with pytest.raises(ClockDeadlock) as caught:
        stuck.acquire()
    assert str(caught.value).startswith("the test has not come back to the fake clock for 0.3 ")
    assert "stuck.acquire()" in str(caught.value)
    clock.advance(5)  # it was the test's own fault; the clock goes on


@posix
def test_the_test_stuck_while_an_action_is_planned(clock: FakeClock, stuck: threading.Lock) -> None:
    clock.at(5, stuck.release)  # it never comes: only the test can let time pass
    with pytest.raises(ClockDeadlock, match="^the test has not come back to the fake clock"):
        stuck.acquire()
    clock.advance(5)
    stuck.acquire()


def test_a_long_test_with_no_other_actor_is_not_stuck(clock: FakeClock) -> None:
    clock.spawn(print).join()  # the watchdog has begun
    threading.Event().wait(3 * WATCHDOG)
    clock.advance(1)


@posix
def test_the_signal_handler_is_put_back(stuck: threading.Lock) -> None:
    before = signal.getsignal(signal.SIGURG)
    with FakeClock() as clock:
        clock.spawn(print)
        assert signal.getsignal(signal.SIGURG) is not before
    assert signal.getsignal(signal.SIGURG) is before
    with pytest.raises(ClockDeadlock):
        clock.spawn(print)
    assert signal.getsignal(signal.SIGURG) is before, "a closed clock begins nothing"


@posix
def test_a_person_in_a_debugger_is_not_stuck(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scheduler, "paused", False)  # put back whatever happens
    clock.spawn(clock.sleep, 1)
    Watchdog.pause_all(paused=True)
    threading.Event().wait(2 * WATCHDOG)  # in the test
    clock.at(2, threading.Event().wait, 2 * WATCHDOG)  # in an action
    clock.advance(3)
    Watchdog.pause_all(paused=False)


def test_an_actor_that_works_long_but_comes_back_is_not_stuck(clock: FakeClock) -> None:
    def works() -> None:
        for _ in range(8):
            threading.Event().wait(WATCHDOG / 3)
            clock.sleep(1)

    clock.spawn(works).join()
    assert clock.elapsed == 8


def test_work_outside_that_never_ends_is_stuck_too(clock: FakeClock) -> None:
    store = MemoryConversationStore(clock=clock)
    store.add_message(store.create_thread(), "m", status="pending", message_id="m")
    with (
        pytest.raises(ClockDeadlock, match=r"^a child.* has not come back"),
        clock.outside("a child"),
    ):
        MessagePoller(store).wait("m", timeout=30)  # it looks again and again, in vain
    assert clock.elapsed == 0


def test_work_outside_that_goes_on_is_not_stuck(clock: FakeClock) -> None:
    store = MemoryConversationStore(clock=clock)
    store.add_message(store.create_thread(), "m", status="pending", message_id="m")

    def child() -> None:
        for place in range(6):
            threading.Event().wait(WATCHDOG / 2)
            store.update_message("m", append=str(place))
        store.update_message("m", status="complete")

    thread = threading.Thread(target=child)
    thread.start()
    with clock.outside("a child"):
        tracker = MessagePoller(store).wait("m", timeout=30)
    thread.join()
    assert (tracker.changes, clock.elapsed) == (8, 0)


def test_a_busy_store_is_waited_for_while_work_goes_on_outside(clock: FakeClock) -> None:
    """The child has the lock: fake time stands still, and the patient one looks again."""
    held = [True]
    thread = threading.Timer(0.05, held.clear)
    backoff = clock.backoff(5_000_000)
    thread.start()
    with clock.outside("a child"):
        while held:
            assert backoff.pause()
    thread.join()


def test_the_page_of_a_stuck_actor_comes_out_of_a_with_block(
    clock: FakeClock, stuck: threading.Lock
) -> None:
    """The poller's own end must not hide it behind 'this fake clock has stopped'."""
    store = MemoryConversationStore(clock=clock)

    def blocks() -> None:
        with stuck:
            pass

    with (
        pytest.raises(ClockDeadlock, match="has not come back to the fake clock"),
        MessagePoller(store),
    ):
        clock.at(1, blocks)
        clock.advance(2)
    stuck.release()
    clock.close()
    stuck.acquire()


@posix
def test_broken_version_without_a_watchdog_nothing_ends_the_wait(
    clock: FakeClock, stuck: threading.Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Callable[[Watchdog], None] = lambda self: None
    monkeypatch.setattr(Watchdog, "start", nothing)
    clock.spawn(clock.sleep, 5)
    assert stuck.acquire(timeout=3 * WATCHDOG) is False


@posix
def test_who_waits_on_the_system_clock_is_told_to_pass_the_fake_one(clock: FakeClock) -> None:
    clock.at(5, print)
    with (
        MemoryConversationStore() as store,
        pytest.raises(ClockDeadlock, match=r"open_store\(url, clock=clock\)") as caught,
    ):
        MessagePoller(store).wait("m")
    assert str(caught.value).startswith("the test has not come back")


def test_a_thread_of_asyncio_is_named_after_its_function() -> None:
    def blocks() -> None:
        MessagePoller(store).wait("m", timeout=5)

    async def run() -> None:
        await asyncio.to_thread(blocks)

    # Patient: on a busy machine a loop and its executor are not begun in a moment.
    with FakeClock(watchdog=3) as clock:
        clock.install(freeze=False)
        store = MemoryConversationStore(clock=clock)
        with pytest.raises(
            ClockDeadlock, match=r"\.blocks in an executor has not come back"
        ) as stuck:
            asyncio.run(run())
    assert "in asyncio await the …_async()" in str(stuck.value)
    assert "run_deep" not in str(stuck.value), "only the stacks of other people's code"


def test_work_outside_says_what_it_does_when_it_is_asked(clock: FakeClock) -> None:
    done = ["nothing"]
    clock.outside_works("child", lambda: f"a child that has done {done[0]}")
    done[0] = "half"
    with pytest.raises(ClockDeadlock, match=r"^a child that has done half has not come back"):
        clock.advance(1)


@pytest.mark.parametrize("collects", [True, False])
def test_no_garbage_is_collected_while_python_lists_its_frames(
    monkeypatch: pytest.MonkeyPatch, collects: bool
) -> None:
    """With a `threading.local` in that garbage Python 3.11.7 stands still for ever."""
    seen: list[bool] = []
    frames = sys._current_frames

    def looked() -> dict[int, FrameType]:
        seen.append(gc.isenabled())
        return frames()

    monkeypatch.setattr(sys, "_current_frames", looked)
    if not collects:
        gc.disable()
    try:
        assert "test_no_garbage" in stack_of(threading.current_thread())
        assert (seen, gc.isenabled()) == ([False], collects), "and as before afterwards"
    finally:
        gc.enable()
