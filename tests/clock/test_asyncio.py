"""asyncio obeys the fake clock, together with threads."""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ClockDeadlock,
    MemoryConversationStore,
    MessagePoller,
    StatusTracker,
    WaitTimeout,
)
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.actors import Real
from pytest_claude_comms.testing.scheduler import Scheduler


@pytest.fixture(params=[True, False], ids=["freeze", "no-freeze"])
def clock(request: pytest.FixtureRequest) -> Iterator[FakeClock]:
    with FakeClock(watchdog=5) as clock:
        clock.install(freeze=request.param)
        yield clock


@pytest.fixture
def store(clock: FakeClock) -> MemoryConversationStore:
    store = MemoryConversationStore(clock=clock)
    store.create_thread(thread_id="t")
    return store


def test_sleep(clock: FakeClock) -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return clock.elapsed

    assert asyncio.run(main()) == 3600


def test_timeouts(clock: FakeClock) -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 7)
        assert clock.elapsed == 7
        done, waiting = await asyncio.wait(
            [asyncio.ensure_future(asyncio.sleep(1)), asyncio.ensure_future(asyncio.sleep(9))],
            timeout=3,
        )
        assert (len(done), len(waiting), clock.elapsed) == (1, 1, 10)

    asyncio.run(main())


def test_a_loop_that_was_there_before_the_clock() -> None:
    loop = asyncio.new_event_loop()
    try:
        with FakeClock() as clock:
            clock.install()
            loop.run_until_complete(asyncio.sleep(100))
            assert clock.elapsed == 100
            assert loop.time() == 100
        start = time.monotonic()
        loop.run_until_complete(asyncio.sleep(0.01))
        assert time.monotonic() - start >= 0.01
    finally:
        loop.close()


def test_tasks_and_threads_share_one_time(clock: FakeClock) -> None:
    log: list[tuple[str, float]] = []

    def thread() -> None:
        for _ in range(3):
            time.sleep(1)
            log.append(("thread", clock.elapsed))

    async def task(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            log.append((name, clock.elapsed))

    async def main() -> None:
        await asyncio.gather(task("a"), task("b"))

    clock.spawn(thread)
    asyncio.run(main())
    assert sorted(log) == [(n, float(t)) for n in ("a", "b", "thread") for t in (1, 2, 3)]
    assert [at for _, at in log] == sorted(at for _, at in log)


def test_a_loop_on_a_spawned_thread(clock: FakeClock) -> None:
    handle = clock.spawn(asyncio.run, asyncio.sleep(5))
    assert handle.join()
    assert clock.elapsed == 5


def test_another_actor_calls_into_the_loop(clock: FakeClock) -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        clock.at(12, loop.call_soon_threadsafe, event.set)
        await event.wait()
        return clock.elapsed

    assert asyncio.run(main()) == 12


def test_no_time_passes_while_an_executor_works(clock: FakeClock) -> None:
    async def main() -> int:
        clock.after(5, lambda: None)
        found = await asyncio.to_thread(sum, range(1000))
        assert clock.elapsed == 0
        return found

    assert asyncio.run(main()) == 499_500
    assert clock.elapsed == 0


def test_a_task_that_nothing_can_wake_is_a_deadlock(clock: FakeClock) -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(ClockDeadlock, match=r"the test waits for asyncio \(Task-\d+\)"):
        asyncio.run(main())


def deadlock(main: Coroutine[Any, Any, object]) -> list[str]:
    """What its page says of tasks. Their numbers go on from test to test; here they begin at 1."""
    with pytest.raises(ClockDeadlock) as caught:
        asyncio.run(main)
    lines = [line.strip() for line in str(caught.value).splitlines()[2:]]
    lines = lines[: next(n for n, line in enumerate(lines) if line.startswith("hint"))]
    numbers = sorted({int(each) for each in re.findall(r"Task-(\d+)", "\n".join(lines))})
    return [
        re.sub(r"Task-(\d+)", lambda found: f"Task-{numbers.index(int(found[1])) + 1}", line)
        for line in lines
    ]


@pytest.mark.parametrize("first", ["Task-1", "Task-9999", "Task-12345678"])
def test_tasks_come_in_the_order_of_their_names_and_numbers(clock: FakeClock, first: str) -> None:
    names = [first, "Task-123456789", "a watcher 9", "a watcher 10", "the asker"]

    async def main() -> None:
        await asyncio.gather(
            *(asyncio.create_task(asyncio.Event().wait(), name=name) for name in reversed(names))
        )

    with pytest.raises(ClockDeadlock) as caught:
        asyncio.run(main())
    assert re.search(f"for {', '.join(names)}$", str(caught.value), re.MULTILINE)


def here(word: str) -> str:
    """The line of this file that ends with a comment of that word."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.endswith(f"  # {word}"))
    return f"test_asyncio.py:{number}"


def test_a_deadlock_s_page_says_what_each_task_waits_for(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    store.add_message("t", "m", status="pending", message_id="never")
    poller = MessagePoller(store)

    async def ask(queue: asyncio.Queue[object]) -> None:
        await queue.get()  # asks

    async def watch() -> None:
        async for _ in poller.watch_async("never"):  # watches
            pass

    async def main() -> None:
        asking = asyncio.create_task(ask(asyncio.Queue()), name="the asker")
        watching = asyncio.create_task(watch(), name="a watcher")
        await asyncio.gather(asking, watching, asyncio.sleep(1), poller.wait_async("never"))  # all

    assert deadlock(main()) == [
        f"Task-1: main at {here('all')}, for Task-2, a watcher, the asker",
        "Task-2: MessagePoller.wait_async, for message never (pending) to end",
        f"a watcher: watch at {here('watches')}, for message never (pending) to end",
        f"the asker: ask at {here('asks')}, for Queue.get",
    ]


def test_what_is_awaited_may_have_no_name(clock: FakeClock) -> None:
    async def main() -> None:
        await asyncio.get_running_loop().create_future()  # bare

    assert deadlock(main()) == [f"Task-1: main at {here('bare')}, for a future"]


def test_a_stuck_page_says_what_each_task_waits_for() -> None:
    async def main() -> None:
        await asyncio.Event().wait()  # stuck

    with FakeClock(watchdog=0.2) as clock, pytest.raises(ClockDeadlock) as caught:
        clock.install(freeze=False)
        clock.outside_works("child", "a child")
        asyncio.run(main())
    assert f": main at {here('stuck')}, for Event.wait\n" in str(caught.value)


@pytest.mark.parametrize("how", ["ready", "due", "asleep"])
def test_a_busy_loop_lets_others_have_their_turn(clock: FakeClock, how: str) -> None:
    seen: list[str] = []

    def sleeper() -> None:
        clock.sleep(0)
        seen.append("other")

    async def main() -> None:
        if how == "ready":
            clock.spawn(seen.append, "other")
        elif how == "due":
            clock.after(0, seen.append, "other")
        else:
            clock.spawn(sleeper)
        while not seen:  # noqa: ASYNC110
            await asyncio.sleep(0)

    asyncio.run(main())
    assert clock.elapsed == 0


def test_waiting_and_watching(clock: FakeClock, store: MemoryConversationStore) -> None:
    answer = store.add_message("t", "m", status="pending", timeout=30)
    clock.at(3, store.update_message, answer, status="processing", append="x")
    poller = MessagePoller(store)

    async def main() -> list[tuple[str, float]]:
        waiting = asyncio.create_task(poller.wait_async(answer, timeout=60))
        seen = [(event.status.value, clock.elapsed) async for event in poller.watch_async(answer)]
        tracker = await waiting
        assert tracker.statuses == ["pending", "processing", "timeout"]
        assert await poller.wait_any_async(["nobody", answer]) is tracker
        assert await poller.wait_all_async([answer]) == [tracker]
        return seen

    assert asyncio.run(main()) == [("pending", 0), ("processing", 3), ("timeout", 30)]


def test_patience_ends(clock: FakeClock, store: MemoryConversationStore) -> None:
    poller = MessagePoller(store)

    async def main() -> None:
        with pytest.raises(WaitTimeout, match=r"^message nobody did not .* within 5\.0 s"):
            await poller.wait_async("nobody", timeout=5)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(poller.wait_async("nobody"), 3)
        assert clock.elapsed == 8
        with pytest.raises(ValueError, match="at least one message"):
            await poller.wait_any_async([])

    asyncio.run(main())


def test_a_write_at_the_very_instant_of_the_deadline_counts(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    answer = store.add_message("t", "m", status="pending", timeout=30)
    poller = MessagePoller(store)

    async def main() -> str:
        waiting = asyncio.create_task(poller.wait_async(answer, timeout=60))
        await asyncio.sleep(30)
        store.update_message(answer, status="complete")
        return (await waiting).status.value

    assert asyncio.run(main()) == "complete"


def test_a_store_that_does_not_notify_is_looked_at(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    class Silent:
        notifies = False

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def subscribe(self, wake: object) -> Any:
            return lambda: None

    answer = store.add_message("t", "m", status="pending")
    clock.at(10, store.update_message, answer, status="complete")
    poller = MessagePoller(Silent(), interval=1)
    assert asyncio.run(poller.wait_async(answer, timeout=60)).status == "complete"
    assert clock.elapsed == 10
    with pytest.raises(ClockDeadlock):  # the beat alone keeps nothing alive
        asyncio.run(poller.wait_async("nobody"))


def one_run() -> list[tuple[str, float]]:
    log: list[tuple[str, float]] = []
    with FakeClock() as clock:
        clock.install(freeze=False)
        store = MemoryConversationStore(clock=clock)
        store.create_thread(thread_id="t")

        async def ask(number: int) -> None:
            answer = store.add_message(
                "t", "m", status="pending", timeout=3600, message_id=f"m{number}"
            )
            clock.after(number % 7, store.update_message, answer, status="processing")
            if number % 3:
                clock.after(number * 10, store.update_message, answer, status="complete")
            with MessagePoller(store) as poller:
                poller.track(answer, on_event=lambda e: log.append((e.message_id, clock.elapsed)))
                async for event in poller.watch_async(answer):
                    log.append((event.status.value, clock.elapsed))  # noqa: PERF401

        async def main() -> None:
            await asyncio.gather(*(ask(number) for number in range(5)))

        asyncio.run(main())
    return log


def test_the_same_script_runs_the_same_way_every_time() -> None:
    first = one_run()
    assert len(first) > 20
    for _ in range(20):
        assert one_run() == first


@pytest.mark.long
def test_the_same_script_runs_the_same_way_a_thousand_times() -> None:
    first = one_run()
    for _ in range(1000):
        assert one_run() == first


def test_without_a_fake_clock() -> None:
    store = MemoryConversationStore()
    answer = store.add_message(store.create_thread(), "m", status="pending")

    async def main() -> str:
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, lambda: store.update_message(answer, status="complete"))
        return (await MessagePoller(store).wait_async(answer, timeout=60)).status.value

    assert asyncio.run(main()) == "complete"


def test_who_is_woken_at_the_instant_of_a_deadline_leaves_it_to_who_writes_then(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    """As a wait of a thread does."""
    other = store.add_message("t", "n", status="pending")
    answer = store.add_message("t", "m", status="pending", timeout=30)
    poller = MessagePoller(store)
    poller.track(other, on_complete=lambda event: store.update_message(answer, status="complete"))
    clock.at(30, store.update_message, other, status="complete")
    assert asyncio.run(poller.wait_async(answer)).status == "complete"
    assert clock.elapsed == 30


def test_patience_ends_for_all_for_any_and_for_events(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    poller = MessagePoller(store)
    for message_id in "mn":
        store.add_message("t", "x", status="pending", message_id=message_id)
    clock.at(1, store.update_message, "n", status="complete")

    async def watching() -> None:
        async for event in poller.watch_async("m", timeout=4):
            assert event.revision == 1

    async def main() -> None:
        ended = await poller.wait_any_async(["m", "n"], timeout=2)
        assert (ended.message_id, clock.elapsed) == ("n", 1)
        for waiting in (
            poller.wait_all_async(["m", "n"], timeout=2),
            poller.wait_any_async(["m"], timeout=3),
            watching(),
        ):
            with pytest.raises(WaitTimeout) as caught:
                await waiting
            assert caught.value.message_ids == ("m",)

    asyncio.run(main())
    assert clock.elapsed == 1 + 2 + 3 + 4


def test_a_wait_in_a_loop_comes_after_who_writes_at_the_same_instant(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    """Also if the write was planned when the wait had begun."""
    answer = store.add_message("t", "m", status="pending", timeout=30)
    complete = partial(store.update_message, answer, status="complete")
    clock.at(1, lambda: clock.at(30, complete))
    assert asyncio.run(MessagePoller(store).wait_async(answer)).status == "complete"
    assert clock.elapsed == 30


def test_a_wait_in_a_loop_looks_once_for_each_commit(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    answer = store.add_message("t", "m", status="pending")
    clock.at(1, store.update_message, answer, append="x")
    clock.at(2, store.update_message, answer, status="complete")
    poller = MessagePoller(store)
    asyncio.run(poller.wait_async(answer))
    assert poller.polls == 3


def test_a_loop_that_is_closed_has_nobody_who_polls(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    message = store.add_message("t", "m", status="pending")
    loop = asyncio.new_event_loop()

    async def main() -> asyncio.Task[Any]:
        task = asyncio.ensure_future(MessagePoller(store).wait_async(message, timeout=30))
        await asyncio.sleep(1)
        return task

    task = loop.run_until_complete(main())
    loop.close()
    clock.advance(60)
    assert clock.elapsed == 61
    task.get_coro().close()
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_job_may_end_while_its_loop_does_not_run(clock: FakeClock) -> None:
    go_on = threading.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        loop.run_in_executor(None, go_on.wait)

    loop.run_until_complete(main())
    go_on.set()
    clock.advance(1)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert clock.elapsed == 1


def test_no_time_passes_while_a_job_works_of_which_nobody_waits_any_more(
    clock: FakeClock,
) -> None:
    done: list[float] = []

    def work() -> None:
        Real.sleep(0.1)  # real: the job is outside
        done.append(clock.elapsed)

    async def main() -> None:
        task = asyncio.create_task(asyncio.to_thread(work))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(100)

    asyncio.run(main())
    assert (done, clock.elapsed) == ([0], 100)


def test_jobs_fail_and_are_cancelled_as_ever(clock: FakeClock) -> None:
    go_on = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as executor:
            works = loop.run_in_executor(executor, go_on.wait)
            fails = loop.run_in_executor(executor, int, "x")
            never = loop.run_in_executor(executor, print, "never")
            never.cancel()
            go_on.set()
            assert await works is True
            with pytest.raises(ValueError, match="invalid literal"):
                await fails
            with pytest.raises(asyncio.CancelledError):
                await never
        await asyncio.sleep(5)

    asyncio.run(main())
    assert clock.elapsed == 5


def test_a_sleep_for_ever_is_a_deadlock_at_once(clock: FakeClock) -> None:
    with pytest.raises(ClockDeadlock, match="all wait and nothing is due"):
        asyncio.run(asyncio.sleep(math.inf))
    assert (clock.elapsed, clock.jumps) == (0, 0)


def test_a_sleep_of_years_is_one_jump(clock: FakeClock) -> None:
    asyncio.run(asyncio.sleep(1e9))
    assert (clock.elapsed, clock.jumps) == (1e9, 1)


@pytest.mark.parametrize("began", [0, 0.1, 1e6, 6.3e8, 5e10])
def test_a_sleep_of_no_whole_microseconds_ends(began: float) -> None:
    """Where a float is coarser than the clock, at the next instant that it has."""

    async def main(clock: FakeClock) -> None:
        for span in (1 / 3, 2 / 3, 1 / 7, 1e-7, 4.77e-7, 5e-7, 1.5e-6, 0.1 + 0.2):
            before_us = clock.monotonic_us()
            await asyncio.wait_for(asyncio.sleep(span), 10)
            late_us = clock.monotonic_us() - before_us - span * 1e6
            assert abs(late_us) <= max(1, 1e6 * math.ulp(began))

    with FakeClock(watchdog=5) as clock:
        clock.install(freeze=False)
        clock.advance(began)
        clock.after(1e9, str)  # so that the watchdog ends what goes on for ever
        asyncio.run(main(clock))


def test_a_loop_rounds_as_the_clock_does(clock: FakeClock) -> None:
    clock.after(1e9, str)
    asyncio.run(asyncio.sleep(1 / 3))
    assert clock.monotonic_us() == 333_333
    clock.sleep(2 / 3)
    asyncio.run(asyncio.sleep(2 / 3))
    assert clock.monotonic_us() == 333_333 + 2 * 666_667


def test_a_busy_loop_lets_who_looks_at_a_store_have_their_turn(
    clock: FakeClock, store: MemoryConversationStore
) -> None:
    message = store.add_message("t", "a", status="pending")
    seen: list[object] = []
    poller = MessagePoller(store)
    poller.track(message, on_complete=seen.append)

    async def main() -> None:
        with poller:
            await asyncio.sleep(1)  # it waits by now
            store.update_message(message, status="complete")
            for _ in range(100_000):  # for ever, should it be seen by nobody
                if seen:
                    break
                await asyncio.sleep(0)
            assert seen

    asyncio.run(main())
    assert clock.elapsed == 1


@pytest.mark.parametrize(
    ("first", "span"), [(0.1, 0.2), (0, 1.0000004), (0.7, 0.1), (1e9, 0.3), (5e10, 1.1)]
)
def test_who_sleeps_for_what_is_left_until_an_instant_comes_to_it(
    first: float, span: float
) -> None:
    """0.1 + 0.2 is a little more than the 300,000 microseconds that have passed by then."""

    async def main(clock: FakeClock) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(first)
        end = loop.time() + span
        while (left := end - loop.time()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(0.5, left))

    with FakeClock(watchdog=5) as clock:
        clock.install(freeze=False)
        clock.after(2e10 + first, str)  # so that the watchdog ends what goes on for ever
        asyncio.run(main(clock))
        late_us = clock.monotonic_us() - round((first + span) * 1e6)
        assert abs(late_us) <= max(1, 1e6 * math.ulp(first))


@pytest.mark.parametrize("other", ["loop", "sleeper"])
def test_a_loop_with_much_to_do_at_one_instant_beside_who_waits_for_its_end(
    clock: FakeClock, other: str
) -> None:
    done: list[int] = []

    async def works() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def puts() -> None:
            for number in range(2_500):
                await queue.put(number)

        putting = asyncio.create_task(puts())
        done.append(sum([await queue.get() for _ in range(2_500)]))
        await putting

    async def looks() -> None:
        while not done:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def sleeps() -> None:
        while not done:
            clock.sleep(0)

    handle = clock.spawn(sleeps if other == "sleeper" else lambda: asyncio.run(looks()))
    asyncio.run(works())
    handle.join()
    assert (done, clock.elapsed) == ([2_499 * 1_250], 0)


@pytest.mark.parametrize("is_woken", [True, False])
def test_a_busy_loop_at_the_instant_of_a_deadline_sees_it(
    clock: FakeClock, store: MemoryConversationStore, is_woken: bool
) -> None:
    message = store.add_message("t", "a", status="pending", timeout=30)
    with MessagePoller(store) as poller:
        tracker = poller.track(message)

        async def main() -> None:
            await asyncio.sleep(30)
            if is_woken:
                store.add_message("t", "b")
            while not tracker.is_terminal:  # noqa: ASYNC110
                await asyncio.sleep(0)

        asyncio.run(main())
        assert (tracker.status.value, clock.elapsed) == ("timeout", 30)


@pytest.mark.parametrize("tester", [True, False])
def test_loops_that_wait_for_each_other_for_ever_have_a_page(
    monkeypatch: pytest.MonkeyPatch, tester: bool
) -> None:
    monkeypatch.setattr(Scheduler, "_most_spins", 5_000)
    never: list[object] = []

    async def waits() -> None:
        while not never:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def runs() -> None:
        asyncio.run(waits())

    with FakeClock(watchdog=0.3) as clock:
        clock.install(freeze=False)
        clock.spawn(runs)
        clock.spawn(runs)
        with pytest.raises(ClockDeadlock) as caught:
            if tester:
                asyncio.run(waits())
            else:
                clock.sleep(1)
    who = ", ".join([*(["the test"] if tester else []), *[runs.__qualname__] * 2])
    assert re.match(
        r"at \+0 s on the fake clock these had [\d,]{5,} turns, and no time passes: "
        rf"{re.escape(who)}\n",
        str(caught.value),
    )


@pytest.mark.parametrize("patience", [False, True], ids=["deadline", "patience"])
@pytest.mark.parametrize("awaits", [False, True], ids=["waits", "awaits"])
@pytest.mark.parametrize("how", ["task", "thread", "same loop"])
def test_a_write_at_the_last_instant_counts_after_many_steps_too(
    clock: FakeClock, store: MemoryConversationStore, how: str, *, awaits: bool, patience: bool
) -> None:
    message = store.add_message("t", "a", status="processing", timeout=None if patience else 30)

    async def piece() -> None:
        pass

    async def works() -> None:
        await asyncio.sleep(30)
        for _ in range(1_200):
            await asyncio.create_task(piece())
        store.update_message(message, status="complete")

    def works_too() -> None:
        clock.sleep(30)
        for _ in range(1_200):
            time.sleep(0)
        store.update_message(message, status="complete")

    async def main() -> StatusTracker:
        task = asyncio.create_task(works() if how == "same loop" else piece())
        tracker = await MessagePoller(store).wait_async(message, timeout=30 if patience else 60)
        await task
        return tracker

    handle = None
    if how != "same loop":
        handle = clock.spawn(works_too if how == "thread" else lambda: asyncio.run(works()))
    if awaits or handle is None:
        tracker = asyncio.run(main())
    else:
        tracker = MessagePoller(store).wait(message, timeout=30 if patience else 60)
    assert (tracker.status.value, clock.elapsed) == ("complete", 30)
    if handle is not None:
        handle.join()


@pytest.mark.parametrize("awaits", [False, True], ids=["waits", "awaits"])
def test_who_awaits_a_deadline_by_steps_sees_it(
    clock: FakeClock, store: MemoryConversationStore, *, awaits: bool
) -> None:
    """Its own poller's, in its own loop: nobody else can go on."""
    message = store.add_message("t", "a", status="processing", timeout=30)

    async def main() -> None:
        poller = MessagePoller(store)
        tracker = poller.track(message)
        if awaits:
            waits: Any = asyncio.create_task(poller.wait_async(message))
        else:
            waits = asyncio.sleep(0)
            clock.spawn(poller.wait, message)
        await asyncio.sleep(30)
        while not tracker.is_terminal:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await waits
        assert (tracker.status.value, clock.elapsed) == ("timeout", 30)

    asyncio.run(main())


@pytest.mark.parametrize("how", ["alone", "something is due", "spawned"])
def test_a_loop_that_only_yields_has_a_page(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(Scheduler, "_most_spins", 500)

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def runs() -> None:
        asyncio.run(main())

    with FakeClock(watchdog=0.3) as clock:
        clock.install(freeze=False)
        if how == "something is due":
            clock.at(5, str)
        with pytest.raises(ClockDeadlock) as caught:
            if how == "spawned":
                clock.spawn(runs)
                clock.advance(1)
            else:
                runs()
    name = runs.__qualname__ if how == "spawned" else "the test"
    assert re.match(
        rf"at \+0 s on the fake clock these had [\d,]{{3,}} turns, and no time passes: {name}\n",
        str(caught.value),
    ), caught.value


@pytest.mark.parametrize("comes", [True, False])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loop_that_cleans_up_for_ever_ends_with_its_clock(*, comes: bool) -> None:
    """Actors end one after another, so what it waits for may never come."""
    told: list[str] = []

    async def first() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            while not told or not comes:  # noqa: ASYNC110
                await asyncio.sleep(0)

    async def second() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append("it has ended")

    clock = FakeClock(watchdog=60)
    clock.install(freeze=False)
    handles = [clock.spawn(lambda f=f: asyncio.run(f())) for f in (first, second)]
    clock.advance(1)
    clock.close()
    assert not any(handle.is_alive() for handle in handles)
    assert told == ["it has ended"]


def test_a_loop_cleans_up_when_its_clock_is_closed() -> None:
    told: list[str] = []

    async def serves(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            told.append(f"{name} ends")
            await asyncio.sleep(0)
            told.append(f"{name} has ended")

    async def main() -> None:
        await asyncio.gather(serves("one"), serves("other"))

    clock = FakeClock(watchdog=5)
    clock.install(freeze=False)
    clock.spawn(lambda: asyncio.run(main()))
    clock.advance(1)
    clock.spawn(str)  # it is ready, and never has its turn
    clock.close()
    # asyncio cancels them in any order.
    assert sorted(told[:2]) == ["one ends", "other ends"]
    assert sorted(told[2:]) == ["one has ended", "other has ended"]


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_busy_loop_ends_with_its_clock(monkeypatch: pytest.MonkeyPatch, *, is_slow: bool) -> None:
    monkeypatch.setattr(Scheduler, "_most_spins", 500)
    begins, ended = threading.Event(), threading.Event()

    async def spins() -> None:
        if is_slow:
            Real.sleep(0.5)  # longer than the watchdog waits
        begins.set()
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    def runs() -> None:
        try:
            asyncio.run(spins())
        finally:
            ended.set()

    clock = FakeClock(watchdog=0.3)
    clock.install(freeze=False)
    clock.spawn(runs)
    why = "runs has not come back to the fake clock" if is_slow else "these had .* no time passes"
    with pytest.raises(ClockDeadlock, match=why):
        clock.advance(1)
    assert begins.wait(10)
    clock.close()
    assert ended.is_set()
