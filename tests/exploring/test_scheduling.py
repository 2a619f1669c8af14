"""What a fake clock promises of an instant holds in every schedule, and a seed says all."""

from __future__ import annotations

import asyncio
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_claude_comms.clock import Clock
from pytest_claude_comms.errors import ClockDeadlock
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.exploring import Found, explore
from pytest_claude_comms.testing.exploring_clock import ExploringClock
from pytest_claude_comms.testing.exploring_plan import Seed
from pytest_claude_comms.testing.exploring_scheduler import ExploringScheduler
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.tracking import Event, StatusTracker

ROOT = Path(__file__).resolve().parents[2]


def opened(clock: Clock, **message: object) -> MemoryConversationStore:
    store = MemoryConversationStore(clock=clock)
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="m", **message)  # type: ignore[arg-type]
    return store


def busy(clock: FakeClock) -> list[object]:
    """Writers, waiters, callbacks and a lock of the clock's."""
    told: list[object] = []
    lock = clock.lock()
    with opened(clock, timeout=9) as store:

        def writes(name: str) -> None:
            for turn in range(3):
                with lock:
                    store.update_message("m", append=f"{name}{turn}")
                clock.sleep(turn % 2)

        def hears(event: Event) -> None:
            told.append((clock.elapsed, event.revision, store.get_message("m").content))

        with MessagePoller(store) as poller:
            poller.track("m", on_event=hears)
            for name in ("a", "b", "c"):
                clock.spawn(writes, name)
            clock.at(1, store.update_message, "m", status="processing")
            told.append(str(poller.wait("m", timeout=60).status))
        told.append(clock.elapsed)
    return told


def trace_of(seed: Seed, program: Callable[[ExploringClock], object] = busy) -> list[str]:
    explored = explore(program, only=seed)
    assert explored.clock is not None
    return explored.clock.explorer.trace.lines()


def test_the_same_seed_gives_the_same_trace_50_times() -> None:
    keep: list[object] = []
    first = trace_of(Seed(3, 150))
    assert len(first) > 60
    for number in range(50):
        # The order of objects in a set depends on their addresses: let those differ.
        keep.append([object() for _ in range(number * 37 % 101)])
        assert trace_of(Seed(3, 150)) == first
    assert trace_of(Seed(8, 150)) != first


def test_the_same_seed_gives_the_same_trace_in_another_process() -> None:
    source = (
        "from tests.exploring.test_scheduling import trace_of, Seed\n"
        "print('\\n'.join(trace_of(Seed(5, 150))))"
    )
    # This process has another one, drawn by lot.
    names = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", source],
        check=True,
        cwd=ROOT,
        env=names,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.stdout.splitlines() == trace_of(Seed(5, 150))


def test_schedule_0_is_the_order_that_a_fake_clock_has_by_itself() -> None:
    with FakeClock() as clock:
        plain = busy(clock)
    told: list[list[object]] = []
    explore(lambda clock: told.append(busy(clock)), 1)
    assert told == [plain]


def test_schedules_differ() -> None:
    told: set[str] = set()
    explored = explore(lambda clock: told.add(repr(busy(clock))), 30)
    assert len(told) > 8
    assert explored.distinct > 20


# -- what holds in every schedule


def test_no_time_passes_while_anybody_could_go_on() -> None:
    def program(clock: FakeClock) -> None:
        with opened(clock) as store:

            def writes(second: int) -> None:
                for _ in range(4):
                    store.update_message("m", append=".")
                    assert clock.elapsed == second

            for second in (0, 1, 2):
                clock.at(second, writes, second)
                clock.at(second, writes, second)
            clock.advance(1.5)
            assert clock.elapsed == 1.5
            assert store.get_message("m").content == "." * 16
            clock.run_until_idle()

    explore(program, 80)


def test_a_write_at_the_instant_of_the_deadline_counts() -> None:
    def program(clock: FakeClock) -> None:
        with opened(clock, timeout=30) as store:
            clock.at(30, store.update_message, "m", append="in time")
            clock.at(30, store.update_message, "m", status="complete")
            tracker = MessagePoller(store).wait("m", timeout=60)
            assert tracker.statuses[-1] == "complete"
            assert clock.elapsed == 30

    # Which of the two writes is first is open: the one that is late to an end is refused.
    with pytest.raises(Found, match="InvalidTransition"):
        explore(program, 200)

    def one(clock: FakeClock) -> None:
        with opened(clock, timeout=30) as store:
            clock.at(30, store.update_message, "m", status="complete")
            assert MessagePoller(store).wait("m", timeout=30).status == "complete"

    explore(one, 100)


def test_ties_at_one_instant_are_broken_either_way() -> None:
    orders = set()

    def program(clock: FakeClock) -> None:
        order: list[int] = []
        for number in range(3):
            clock.at(1, order.append, number)
        clock.run_until_idle()
        orders.add(tuple(order))

    explore(program, 60)
    assert len(orders) == 6


def test_a_woken_poller_looks_between_two_commits() -> None:
    seen = set()

    def program(clock: FakeClock) -> None:
        with opened(clock) as store:
            poller = MessagePoller(store)

            def writes() -> None:
                store.update_message("m", status="processing")
                store.update_message("m", status="complete")

            clock.spawn(writes)
            poller.wait("m")
            seen.add(poller.polls)

    explore(program, 60)
    assert {2, 3} <= seen


def test_an_error_of_an_actor_is_raised_where_time_passes_and_nowhere_else() -> None:
    def program(clock: FakeClock) -> None:
        with opened(clock) as store:

            def fails() -> None:
                raise LookupError("of the actor")

            clock.spawn(fails)
            for _ in range(5):
                store.get_message("m")  # never raises it
            with pytest.raises(LookupError, match="of the actor"):
                clock.sleep(1)

    explore(program, 60)


def test_an_actor_that_lost_its_turn_is_ended_with_the_clock() -> None:
    ended: list[str] = []

    def program(clock: FakeClock) -> None:
        with opened(clock) as store:

            def goes_on() -> None:
                try:
                    for _ in range(20):
                        store.get_message("m")
                finally:
                    ended.append("unwound")

            clock.spawn(goes_on)
            for _ in range(5):
                store.get_message("m")

    explore(program, 60)
    assert len(ended) > 10


def test_what_a_thread_outside_the_clock_does_is_no_point() -> None:
    import threading

    def program(clock: FakeClock) -> None:
        with opened(clock) as store, clock.outside("a thread"):
            thread = threading.Thread(
                target=store.update_message, args=("m",), kwargs={"append": "x"}
            )
            thread.start()
            thread.join()
            assert store.get_message("m").content == "x"

    explore(program, 20)


# -- asyncio


def both_orders(clock: FakeClock, orders: set[str]) -> None:
    order: list[str] = []

    async def steps(name: str) -> None:
        for _ in range(2):
            order.append(name)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(steps("a"), steps("b"))

    asyncio.run(main())
    orders.add("".join(order))


def test_the_tasks_of_a_loop_go_on_in_any_order() -> None:
    orders: set[str] = set()
    explore(lambda clock: both_orders(clock, orders), 60)
    assert {"abab", "baba"} <= orders
    # Each has one step in a round of the loop.
    assert all(set(order[:2]) == {"a", "b"} for order in orders)


def test_callbacks_of_a_loop_keep_their_order() -> None:
    def program(clock: FakeClock) -> None:
        order: list[int] = []

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in range(5):
                loop.call_soon(order.append, number)
            await asyncio.sleep(0)

        asyncio.run(main())
        assert order == [0, 1, 2, 3, 4]

    explore(program, 30)


def test_a_race_of_a_task_and_an_actor_is_found() -> None:
    def program(clock: FakeClock) -> None:
        with opened(clock) as store:

            async def looks_then_writes() -> None:
                await asyncio.sleep(1)
                if not store.get_message("m").status.is_terminal:
                    store.update_message("m", status="complete")

            clock.at(1, store.update_message, "m", status="cancelled")
            asyncio.run(looks_then_writes())

    with pytest.raises(Found) as found:
        explore(program, 1_000)
    assert "InvalidTransition" in repr(found.value.__cause__)


def test_a_lost_wakeup_is_a_deadlock_at_once() -> None:
    def program(clock: FakeClock) -> None:
        with opened(clock) as store:
            event = clock.wakeup()

            def waits() -> None:
                if not store.get_message("m").status.is_terminal:
                    forget = store.subscribe(event.set)
                    event.wait(None, why="its end")
                    forget()

            clock.spawn(store.update_message, "m", status="complete")
            clock.spawn(waits).join()

    with pytest.raises(Found) as found:
        explore(program, 1_000)
    assert isinstance(found.value.__cause__, ClockDeadlock)


@pytest.mark.parametrize("looks", ["task", "actor"])
def test_who_goes_on_and_on_at_one_instant_starves_nobody(looks: str) -> None:
    """Neither who acts, nor who looks at a store: whichever comes first by the seed."""

    def program(clock: FakeClock) -> None:
        acted: list[object] = []

        def acts() -> None:
            for _ in range(3):
                clock.sleep(0)
            acted.append(1)

        with opened(clock, timeout=1) as store, MessagePoller(store) as poller:
            tracker = poller.track("m")

            async def waits() -> None:
                await asyncio.sleep(1)
                while not (acted and tracker.is_terminal):  # noqa: ASYNC110
                    await asyncio.sleep(0)

            def waits_too() -> None:
                clock.sleep(1)
                while not (acted and tracker.is_terminal):
                    clock.sleep(0)

            clock.spawn(waits_too)
            clock.after(1, acts)
            if looks == "task":
                asyncio.run(waits())
            else:
                clock.spawn(waits_too).join()
            assert clock.elapsed == 1

    explore(program, 4)


@pytest.mark.parametrize("how", ["waits", "awaits", "beside who waits for it", "many steps"])
def test_a_write_at_the_instant_of_a_deadline_counts_in_every_schedule(how: str) -> None:
    """However many steps it takes."""

    async def piece() -> None:
        pass

    def program(clock: FakeClock) -> None:
        done: list[object] = []

        def ends() -> None:
            store.update_message("m", status="processing")
            store.update_message("m", status="complete")
            done.append(1)

        async def works() -> None:
            await asyncio.sleep(30)
            for _ in range(150):
                await asyncio.create_task(piece())
            ends()

        def works_too() -> None:
            clock.sleep(30)
            for _ in range(20 if how.startswith("beside") else 1_200):
                clock.sleep(0)
            ends()

        def waits() -> None:
            clock.sleep(30)
            while not done:
                clock.sleep(0)

        async def main() -> StatusTracker:
            task = asyncio.create_task(works())
            tracker = await MessagePoller(store).wait_async("m", timeout=60)
            await task
            return tracker

        with opened(clock, timeout=30) as store:
            if how == "waits":
                clock.spawn(lambda: asyncio.run(works()))
            elif how != "awaits":
                clock.spawn(works_too)
            if how.startswith("beside"):
                clock.spawn(waits)
            if how == "awaits":
                assert asyncio.run(main()).status == "complete"
            else:
                assert MessagePoller(store).wait("m", timeout=60).status == "complete"

    explore(program, 4 if how == "many steps" else 9)


@pytest.mark.parametrize("gives", ["event", "queue"])
def test_who_waits_for_what_is_given_at_this_instant_has_it(gives: str) -> None:
    """Though who gave it goes on until it was taken."""

    def program(clock: FakeClock) -> None:
        event, items = threading.Event(), queue.Queue[int]()
        done: list[object] = []

        def takes() -> None:
            if gives == "event":
                event.wait()
            else:
                items.get()
            done.append(1)

        handle = clock.spawn(takes)
        event.set()
        items.put(1)
        while not done:
            clock.sleep(0)
        handle.join()

    explore(program, 6)


def test_a_loop_that_only_yields_has_a_page_in_an_exploration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ExploringScheduler, "_most_spins", 500)

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(Found) as found:
        explore(lambda clock: asyncio.run(main()), 1, watchdog=0.3)
    assert "turns, and no time passes: the test\n" in str(found.value.__cause__)
