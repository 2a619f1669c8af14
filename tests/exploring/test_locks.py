"""An actor may lose its turn with a lock of ``threading`` in its hands: nobody stands still."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from pytest_claude_comms.errors import ClockDeadlock
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.actors import Real
from pytest_claude_comms.testing.exploring import Found, explore
from pytest_claude_comms.testing.exploring_clock import ExploringClock
from pytest_claude_comms.testing.exploring_locks import ExploredLock, ExploredRLock, explored_locks
from pytest_claude_comms.testing.fake_clock import FakeClock

OF_THIS_MODULE = threading.Lock()


class Service:
    """What a project may have: a lock of a class."""

    lock = threading.RLock()


def hammer(clock: FakeClock, lock: Any, rounds: int = 2) -> None:
    """Actors that lose their turn inside a lock, by operations of a store."""
    inside: list[str] = []
    with MemoryConversationStore(clock=clock) as store:
        store.create_thread(thread_id="t")

        def works(name: str) -> None:
            for _ in range(rounds):
                with lock:
                    inside.append(name)
                    store.get_thread("t")
                    assert inside == [name], "two actors hold the lock"
                    inside.remove(name)

        for name in "abc":
            clock.spawn(works, name)
        clock.run_until_idle()


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock, threading.Condition])
def test_a_lock_that_is_made_in_the_test(make: Callable[[], Any]) -> None:
    name = "Condition" if make is threading.Condition else ("RLock", "Lock")[make is Real.lock]
    explored = explore(lambda clock: hammer(clock, getattr(threading, name)()), 60, watchdog=60)
    assert explored.distinct > 20


def test_the_lock_of_a_module_and_of_a_class() -> None:
    explore(lambda clock: hammer(clock, OF_THIS_MODULE), 40, watchdog=60)
    explore(lambda clock: hammer(clock, Service.lock), 40, watchdog=60)
    assert type(OF_THIS_MODULE) is type(Real.lock())
    assert type(Service.lock) is type(Real.rlock())


def test_a_lock_that_an_object_had_before_is_told_by_the_watchdog() -> None:
    kept = [threading.Lock()]
    with pytest.raises(Found) as found:
        explore(lambda clock: hammer(clock, kept[0]), 60, watchdog=0.3)
    assert isinstance(found.value.__cause__, ClockDeadlock)
    assert "has not come back to the fake clock" in str(found.value.__cause__)


def test_a_lost_wakeup_of_a_condition_says_what_it_is() -> None:
    """Who looks outside of the lock may be told before it waits."""
    conditions: list[threading.Condition] = []

    def program(clock: FakeClock) -> None:
        condition, jobs = threading.Condition(), list[int]()
        conditions.append(condition)

        def takes() -> None:
            if not jobs:
                with condition:
                    condition.wait()

        def gives() -> None:
            jobs.append(1)
            with condition:
                condition.notify()

        clock.spawn(takes)
        clock.spawn(gives)
        clock.run_until_idle()

    with pytest.raises(Found) as found:
        explore(program, 200, watchdog=0.3)
    with conditions[-1]:
        conditions[-1].notify_all()  # its thread is to end
    page = str(found.value.__cause__)
    assert "takes has not come back to the fake clock" in page
    assert "that wake-up was lost: look, and begin to" in page
    assert (
        "it waits for a lock or a wake-up that nobody gives at this instant, test_locks.py:"
        in str(found.value)
    )


def test_who_is_let_go_from_outside_waits_no_more() -> None:
    def program(clock: FakeClock) -> None:
        event = threading.Event()
        thread = threading.Thread(target=event.set)
        thread.start()
        event.wait()
        thread.join()
        raise AssertionError

    with pytest.raises(Found) as found:
        explore(program, 1, watchdog=60)
    assert "nobody gives" not in str(found.value)


def test_a_name_that_a_module_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("a_users_module")
    module.__file__ = __file__
    module.__dict__.update({"Lock": Real.lock, "other": Real.lock})
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    with explored_locks():
        assert module.__dict__["Lock"] is ExploredLock
        assert module.__dict__["other"] is Real.lock
        now: list[object] = [threading.Lock, threading.RLock]
        assert now == [ExploredLock, ExploredRLock]
    assert module.__dict__["Lock"] is Real.lock
    after: list[object] = [threading.Lock, threading.RLock]
    assert after == [Real.lock, Real.rlock]


def test_two_locks_in_two_orders_are_a_deadlock_at_once() -> None:
    def program(clock: FakeClock) -> None:
        first, second = threading.Lock(), threading.Lock()

        def works(one: Any, other: Any) -> None:
            with one, other:
                pass

        clock.spawn(works, first, second)
        clock.spawn(works, second, first).join()

    with FakeClock() as clock:
        program(clock)
    with pytest.raises(Found) as found:
        explore(program, 1_000, watchdog=60)
    assert isinstance(found.value.__cause__, ClockDeadlock)
    page = str(found.value.__cause__)
    for number in (2, 3):  # two of one name
        assert f"works waits for a lock that {works_in(program)} (actor {number}) holds" in page
    assert "let all take them in one" in page


def works_in(program: object) -> str:
    return f"{getattr(program, '__qualname__', '')}.<locals>.works"


def test_who_holds_a_lock_may_sleep_on_the_clock() -> None:
    def program(clock: FakeClock) -> None:
        lock, times = threading.Lock(), list[float]()

        def works() -> None:
            with lock:
                clock.sleep(2)
                times.append(clock.elapsed)

        for _ in range(3):
            clock.spawn(works)
        clock.run_until_idle()
        assert times == [2, 4, 6]

    # Without exploring one may not; see the README.
    explore(program, 1, watchdog=60)
    explore(program, 40, watchdog=60)


def test_a_timeout_of_acquire_is_of_fake_time() -> None:
    def program(clock: FakeClock) -> None:
        lock = threading.Lock()
        with lock:
            asked: list[object] = []

            def asks() -> None:
                asked.append(lock.acquire(timeout=3))
                asked.append(clock.elapsed)
                asked.append(lock.acquire(blocking=False))

            clock.spawn(asks)
            clock.sleep(5)
        assert asked == [False, 3, False]

    explore(program, 20, watchdog=60)


def test_a_lock_that_can_be_held_several_times() -> None:
    def program(clock: FakeClock) -> None:
        lock = threading.RLock()
        inside: list[int] = []

        def works(number: int) -> None:
            with lock, lock:
                inside.append(number)
                with lock:
                    clock.sleep(0)
                assert inside.pop() == number
                assert not inside

        for number in range(3):
            clock.spawn(works, number)
        clock.run_until_idle()
        with pytest.raises(RuntimeError):
            lock.release()

    explore(program, 60, watchdog=60)


def test_events_conditions_and_queues() -> None:
    def program(clock: FakeClock) -> None:
        event, condition = threading.Event(), threading.Condition()
        jobs: queue.Queue[int] = queue.Queue()
        done: list[object] = []

        def waits() -> None:
            event.wait()
            done.append("event")

        def waits_for_two() -> None:
            with condition:
                condition.wait_for(lambda: done.count("told") == 2)
                done.append("condition")

        def takes() -> None:
            done.append(jobs.get() + jobs.get())

        def gives(number: int) -> None:
            jobs.put(number)
            with condition:
                done.append("told")
                condition.notify_all()
            event.set()

        for f in (waits, waits_for_two, takes):
            clock.spawn(f)
        for number in (1, 2):
            clock.spawn(gives, number)
        clock.run_until_idle()
        assert sorted(map(str, done)) == ["3", "condition", "event", "told", "told"]

    explored = explore(program, 100, watchdog=60)
    assert explored.distinct > 50


def test_a_thread_outside_the_clock_locks_really() -> None:
    def program(clock: FakeClock) -> None:
        lock, order = threading.Lock(), list[str]()
        with lock:

            def takes() -> None:
                lock.acquire()
                order.append("thread")

            thread = threading.Thread(target=takes)
            thread.start()
            order.append("test")
        thread.join()
        assert lock.locked()
        lock.release()
        assert order == ["test", "thread"]

    explore(program, 20, watchdog=60)


def test_an_actor_that_ends_with_the_clock_lets_go() -> None:
    def program(clock: FakeClock) -> None:
        lock = threading.Lock()

        def works() -> None:
            with lock:
                clock.sleep(10)

        clock.spawn(works)
        clock.spawn(works)
        clock.sleep(1)

    explore(program, 20, watchdog=60)


def test_that_a_thread_begins_and_ends_is_no_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often it asks for its locks meanwhile depends on how fast the machine is."""
    real = threading.Event.wait

    def points(clock: ExploringClock, threads: int) -> int:
        clock.sleep(0)
        for _ in range(threads):
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()
        return clock.explorer.points

    def slow(event: threading.Event, timeout: float | None = None) -> bool:
        while timeout is None and not event.is_set():  # until it has begun, however long that takes
            Real.sleep(0.001)
        return real(event, timeout)

    counted: set[int] = set()
    for wait in (real, slow):
        monkeypatch.setattr(threading.Event, "wait", wait)
        for threads in (0, 3):
            explore(lambda clock: counted.add(points(clock, threads)), 2, watchdog=60)
    assert counted == {0}
