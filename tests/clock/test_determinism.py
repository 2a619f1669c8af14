"""Promise 6: same script, same fake clock, the same events in the same order, every run."""

from __future__ import annotations

import random
import threading
from collections import deque
from typing import Any

import pytest

from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.testing.scheduler import Scheduler

Trace = list[tuple[object, ...]]


def program(seed: int) -> Trace:
    """Actors that sleep, signal, lock, spawn and plan, as a seed says."""
    rng = random.Random(seed)
    trace: Trace = []
    with FakeClock() as clock:
        wakeups = [clock.wakeup(polls=bool(n % 2)) for n in range(4)]
        taken: set[int] = set()
        locks = [clock.lock() for _ in range(2)]

        def actor(name: str, depth: int, seed: int) -> None:
            mine = random.Random(seed)
            for step in range(6):
                trace.append((clock.monotonic_us(), name, step))
                choice = mine.randrange(7)
                if choice == 0:
                    clock.sleep(mine.randrange(4))
                elif choice == 1:
                    wakeups[mine.randrange(4)].set()
                elif choice == 2:
                    place = mine.randrange(4)
                    if place not in taken:  # one waiter each
                        taken.add(place)
                        woken = wakeups[place].wait(mine.randrange(5) * 1_000_000, why="test")
                        taken.discard(place)
                        trace.append((clock.monotonic_us(), name, woken))
                elif choice == 3:
                    with locks[mine.randrange(2)]:
                        trace.append((clock.monotonic_us(), name, "locked"))
                        clock.sleep(mine.randrange(3))
                elif choice == 4 and depth:
                    clock.spawn(actor, f"{name}s{step}", depth - 1, mine.randrange(10**6))
                elif choice == 5 and depth:
                    clock.after(
                        mine.randrange(4), actor, f"{name}a{step}", depth - 1, mine.randrange(10**6)
                    )
                elif choice == 6:
                    clock.spawn(clock.sleep, mine.randrange(3)).join(mine.randrange(3))

        for number in range(6):
            clock.spawn(actor, f"{number}", 2, rng.randrange(10**6))
        clock.run_until_idle()
        trace.append((clock.monotonic_us(), "end"))
    return trace


def test_a_random_program_runs_the_same_way_every_time() -> None:
    first = program(1)
    assert len(first) > 100
    for _ in range(50):
        assert program(1) == first


def test_other_programs_too() -> None:
    for seed in range(2, 22):
        assert program(seed) == program(seed)


@pytest.mark.long
def test_many_programs_many_times() -> None:
    for seed in range(1_000):
        first = program(seed)
        assert all(program(seed) == first for _ in range(3))


class LastFirst(deque[Any]):
    def popleft(self) -> Any:
        return self.pop()


class AnyFirst(deque[Any]):
    def popleft(self) -> Any:
        self.rotate(random.randrange(len(self)))
        return super().popleft()


@pytest.fixture
def queues(monkeypatch: pytest.MonkeyPatch) -> list[type[deque[Any]]]:
    """Put a class here, and the ready actors of new schedulers stand in queues of it."""
    chosen: list[type[deque[Any]]] = []
    real = Scheduler.__init__

    def init(self: Scheduler, *args: Any) -> None:
        real(self, *args)
        self._ready = (chosen[0](), chosen[0](), chosen[0]())

    monkeypatch.setattr(Scheduler, "__init__", init)
    return chosen


def test_broken_version_choosing_at_random_is_seen(queues: list[type[deque[Any]]]) -> None:
    queues.append(AnyFirst)
    assert len({tuple(program(1)) for _ in range(10)}) > 1


def test_broken_version_another_order_is_another_trace(queues: list[type[deque[Any]]]) -> None:
    queues.append(deque)
    fair = program(1)
    queues[0] = LastFirst
    assert program(1) != fair


def scenario() -> Trace:
    """Pollers in several actors, a started one, callbacks that sleep, and deadlines."""
    trace: Trace = []
    with FakeClock() as clock, MemoryConversationStore(clock=clock) as store:
        thread = store.create_thread(thread_id="t")
        for number in range(6):
            store.add_message(
                thread,
                "m",
                status="pending",
                message_id=f"m{number}",
                timeout=None if number % 2 else 7,
            )
        shared = MessagePoller(store, interval=0.5)

        def waits(number: int) -> None:
            tracker = shared.wait(f"m{number}", timeout=60)
            trace.append((clock.elapsed, "waited", number, str(tracker.status)))

        def told(event: Any) -> None:
            trace.append((clock.elapsed, "told", event.message_id, event.revision))
            clock.sleep(event.revision % 3)

        with MessagePoller(store) as started:
            for number in range(6):
                started.track(f"m{number}", on_event=told)
                clock.spawn(waits, number)
                clock.at(1 + number % 2, store.update_message, f"m{number}", status="processing")
                if number % 2:
                    clock.at(7, store.update_message, f"m{number}", status="complete")
            clock.run_until_idle()
    trace.append((clock.elapsed, "end"))
    return trace


def test_pollers_callbacks_and_deadlines_run_the_same_way_every_time() -> None:
    first = scenario()
    # The order of objects in a set depends on their addresses: let those differ.
    keep: list[object] = []
    for number in range(40):
        keep.append([object() for _ in range(number * 37 % 101)])
        assert scenario() == first
    assert [line for line in first if line[1] == "waited"] == [
        # Deadlines of an instant pass when all that is written at it has been seen.
        *((7, "waited", number, "complete") for number in (1, 3, 5)),
        *((7, "waited", number, "timeout") for number in (0, 2, 4)),
    ]


def test_waiters_are_woken_in_the_order_in_which_they_began(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the store does not notify, they are woken by the poller that looked first."""

    class Silent(MemoryConversationStore):
        notifies = False

        def subscribe(self, wake: Any) -> Any:
            return lambda: None

    keep: list[object] = []
    for number in range(30):
        keep.append([object() for _ in range(number * 53 % 97)])
        woken: list[int] = []
        with FakeClock() as clock, Silent(clock=clock) as store:
            store.add_message(store.create_thread(), "m", status="pending", message_id="m")
            poller = MessagePoller(store, interval=1)

            def waits(place: int) -> None:
                poller.wait("m")
                woken.append(place)

            for place in range(5):
                clock.at(place / 100, waits, place)
            clock.at(2.5, store.update_message, "m", status="complete")
            clock.sleep(10)
        assert woken == [0, 1, 2, 3, 4]


def test_flushers_are_woken_in_the_order_in_which_they_began() -> None:
    keep: list[object] = []
    for number in range(30):
        keep.append([object() for _ in range(number * 53 % 97)])
        flushed: list[int] = []
        with FakeClock() as clock, MemoryConversationStore(clock=clock) as store:
            store.add_message(store.create_thread(), "m", message_id="m")
            poller = MessagePoller(store)
            poller.track("m", on_event=lambda event: clock.sleep(5))

            def flushes(place: int) -> None:
                poller.flush()
                flushed.append(place)

            for place in range(5):
                clock.spawn(flushes, place)
            clock.run_until_idle()
        assert flushed == [0, 1, 2, 3, 4]


def test_threads_that_nobody_enrolled_do_no_harm() -> None:
    """No promise of order, but no hang and no loss either."""
    with FakeClock() as clock, MemoryConversationStore(clock=clock) as store:
        thread = store.create_thread()
        for number in range(4):
            store.add_message(thread, "m", status="pending", message_id=f"m{number}")

        def outsider(number: int) -> None:
            for place in range(25):
                store.update_message(f"m{number}", append=str(place))
            store.update_message(f"m{number}", status="complete")

        threads = [threading.Thread(target=outsider, args=(number,)) for number in range(4)]
        with MessagePoller(store) as poller, clock.outside("four threads"):
            for each in threads:
                each.start()
            trackers = poller.wait_all([f"m{number}" for number in range(4)])
        for each in threads:
            each.join()
        assert [tracker.changes for tracker in trackers] == [27] * 4
        assert clock.elapsed == 0
