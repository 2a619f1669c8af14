"""DESIGN sections 4 (Clock) and 6 (Fake clock), sentence by sentence."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from functools import partial
from typing import Any

import pytest

from pytest_claude_comms.clock import Clock
from pytest_claude_comms.errors import ClockDeadlock
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.actors import ORDINARY, POLLS, Real
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.testing.scheduler import Scheduler


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def test_it_counts_microseconds_from_its_start(clock: FakeClock) -> None:
    assert isinstance(clock, Clock)
    assert clock.now() == datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert (clock.elapsed, clock.monotonic(), clock.monotonic_us()) == (0, 0, 0)
    for _ in range(10):
        clock.advance(0.1)
    assert clock.elapsed == 1
    assert clock.monotonic_us() == 1_000_000
    assert clock.now() == datetime(2026, 1, 1, 0, 0, 1, tzinfo=timezone.utc)
    assert repr(clock) == "<FakeClock 2026-01-01T00:00:01+00:00, +1 s>"
    assert clock.describe() == "fake clock, 10 jumps"


def test_it_may_start_elsewhere_but_not_nowhere() -> None:
    start = datetime(1999, 12, 31, 23, 59, 59, 5, tzinfo=timezone.utc)
    with FakeClock(start) as clock:
        assert clock.now() == start
    with pytest.raises(
        ValueError, match="has no time zone: give it one, such as tzinfo=timezone.utc$"
    ):
        FakeClock(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="has no time zone: give it one"):
        FakeClock(datetime(2026, 1, 1, tzinfo=Nowhere()))
    for none in (3, "2026-01-01", None):
        with pytest.raises(TypeError, match=f"^an instant is an aware datetime, not {none!r}$"):
            FakeClock(none)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^watchdog must be more than 0 seconds$"):
        FakeClock(watchdog=0)


class Nowhere(tzinfo):
    def utcoffset(self, _: datetime | None) -> None:
        return None

    dst = utcoffset

    def tzname(self, _: datetime | None) -> str:
        return "nowhere"


@pytest.mark.parametrize("freeze", [True, False])
def test_it_may_start_at_the_ends_of_time_and_not_beyond(freeze: bool) -> None:
    for end, sign in ((datetime.min, 1), (datetime.max, -1)):
        zone = timezone(timedelta(hours=14 * sign))
        with pytest.raises(ValueError, match="is outside the years 1 to 9999 in UTC"):
            FakeClock(end.replace(tzinfo=zone))
        inside = end.replace(tzinfo=timezone(-zone.utcoffset(None)))
        for start in (inside, end.replace(tzinfo=timezone.utc)):
            with FakeClock(start) as clock:
                clock.install(freeze=freeze)
                assert clock.now() == start


def test_at_and_after_run_at_their_instants(clock: FakeClock) -> None:
    seen: list[tuple[float, object]] = []
    note: Callable[..., None] = lambda *a, **k: seen.append((clock.elapsed, (*a, *k.items())))
    clock.at(3, note, 1, b=2)
    clock.advance(1)
    clock.after(1, note, "after")
    assert seen == []
    clock.advance(5)
    assert seen == [(2, ("after",)), (3, (1, ("b", 2)))]
    assert clock.elapsed == 6


def test_the_past_is_a_value_error_and_the_present_is_not(clock: FakeClock) -> None:
    clock.advance(2)
    with pytest.raises(ValueError, match=r"^t=1\.5 is past: it is \+2 s, time can't go back$"):
        clock.at(1.5, print)
    with pytest.raises(ValueError, match="^d must be between 0 and 1e11 seconds, not -1$"):
        clock.after(-1, print)
    with pytest.raises(ValueError, match="^seconds must be between"):
        clock.advance(-0.1)
    with pytest.raises(ValueError, match="^seconds must be between"):
        clock.sleep(float("nan"))
    ran: list[float] = []
    clock.at(2, lambda: ran.append(clock.elapsed))
    clock.advance(0)
    assert ran == [2]


def test_what_cannot_be_called_is_refused_at_once(clock: FakeClock) -> None:
    with pytest.raises(TypeError, match="^None cannot be called; pass the function"):
        clock.at(1, None)  # type: ignore[arg-type]


def test_order_at_one_instant(clock: FakeClock) -> None:
    """Actions by registration, then who looks at a store, then the test in advance()."""
    seen: list[str] = []

    def poller() -> None:
        clock.wakeup(polls=True).wait(5_000_000, why="it polls")
        seen.append("poller")

    def sleeper() -> None:
        clock.sleep(5)
        seen.append("sleeper")

    clock.spawn(poller)
    clock.at(5, seen.append, "first")
    clock.at(5, seen.append, "second")
    clock.spawn(sleeper)
    clock.advance(0)  # the sleeper registers its instant here, after the two actions
    clock.at(5, seen.append, "third")
    clock.advance(5)
    seen.append("advance")
    assert seen == ["first", "second", "sleeper", "third", "poller", "advance"]


def test_a_poller_woken_at_an_instant_comes_after_the_actions_of_that_instant(
    clock: FakeClock,
) -> None:
    seen: list[str] = []
    wakeup = clock.wakeup(polls=True)

    def poller() -> None:
        wakeup.wait(None, why="it polls")
        seen.append("poller")

    def first() -> None:
        wakeup.set()
        seen.append("first")

    clock.spawn(poller)
    clock.at(1, first)
    clock.at(1, seen.append, "second")
    clock.advance(1)
    assert seen == ["first", "second", "poller"]


def test_actions_are_actors_and_may_sleep(clock: FakeClock) -> None:
    seen: list[float] = []

    def action() -> None:
        for _ in range(3):
            clock.sleep(2)
            seen.append(clock.elapsed)

    clock.at(1, action)
    clock.advance(4)
    assert seen == [3]
    clock.run_until_idle()
    assert seen == [3, 5, 7]
    assert clock.elapsed == 7


def test_time_moves_only_inside_the_calls_that_say_so(clock: FakeClock) -> None:
    seen: list[str] = []
    clock.at(0, seen.append, "action")
    handle = clock.spawn(seen.append, "spawned")
    deadline = threading.Event()
    deadline.wait(0.05)  # real time passes, fake time does not, and nobody runs
    assert seen == []
    assert clock.elapsed == 0
    assert handle.is_alive()
    assert handle.join() is True
    assert seen[0] == "spawned"
    assert clock.elapsed == 0


@pytest.mark.parametrize("move", ["advance", "sleep", "join", "idle", "wait"])
def test_each_of_the_calls_moves_time(clock: FakeClock, move: str) -> None:
    handle = clock.spawn(clock.sleep, 3)
    if move == "advance":
        clock.advance(3)
    elif move == "sleep":
        clock.sleep(3)
    elif move == "join":
        assert handle.join()
    elif move == "idle":
        clock.run_until_idle()
    else:
        assert not clock.wakeup().wait(3_000_000, why="test")
    assert clock.elapsed == 3


def test_join_has_patience_and_does_not_spoil_a_later_wait(clock: FakeClock) -> None:
    handle = clock.spawn(clock.sleep, 5)
    assert handle.join(1) is False
    assert clock.elapsed == 1
    clock.sleep(10)  # the end of what was joined, at +5 s, is no reason to wake
    assert clock.elapsed == 11
    assert handle.join(0) is True


@pytest.mark.parametrize("how", ["sleep", "advance", "join", "after"])
@pytest.mark.parametrize("first", [0.1, 0.7, 12.3])
def test_who_waits_for_what_is_left_until_an_instant_comes_to_it(
    clock: FakeClock, how: str, first: float
) -> None:
    """0.1 + 0.2 is a little more than the 300,000 microseconds that have passed by then."""
    never = clock.spawn(clock.wakeup().wait, None, why="nothing")
    waits: dict[str, Callable[[float], object]] = {
        "sleep": clock.sleep,
        "advance": clock.advance,
        "join": never.join,
        "after": lambda left: clock.after(left, str).join(),
    }
    clock.sleep(first)
    end, steps = clock.monotonic() + 0.2, 0
    while (left := end - clock.monotonic()) > 0:
        waits[how](left)
        steps += 1
        assert steps < 3
    assert clock.monotonic_us() - round((first + 0.2) * 1e6) in (0, 1)


def test_one_who_looks_at_a_store_has_a_turn_among_those_who_go_on_and_on(
    clock: FakeClock,
) -> None:
    seen: list[str] = []

    def looks() -> None:
        clock.wakeup(polls=True).wait(1_000_000, why="it polls")
        seen.append("looked")

    def goes_on() -> None:
        clock.sleep(1)
        while "looked" not in seen:
            clock.sleep(0)

    handles = [clock.spawn(looks), *(clock.spawn(goes_on) for _ in range(3))]
    clock.at(1, seen.append, "acted")
    for handle in handles:
        handle.join()
    assert (seen, clock.elapsed) == (["acted", "looked"], 1)


def test_what_is_due_comes_before_who_looks_however_many_it_are(clock: FakeClock) -> None:
    """A write at the very instant counts."""
    seen: list[int] = []
    looked: list[int] = []

    def looks() -> None:
        clock.wakeup(polls=True).wait(1_000_000, why="it polls")
        looked.append(len(seen))

    def yields() -> None:
        clock.sleep(1)
        clock.sleep(0)
        seen.append(0)

    handle = clock.spawn(looks)
    for _ in range(300):
        clock.spawn(yields)
    for number in range(1_500):
        clock.at(1, seen.append, number)
    handle.join()
    assert looked == [1_800]


@pytest.mark.parametrize("tester", [True, False])
def test_who_goes_on_and_on_at_one_instant_for_as_long_as_the_watchdog_waits_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tester: bool
) -> None:
    monkeypatch.setattr(Scheduler, "_most_spins", 500)

    def goes_on(clock: FakeClock) -> None:
        while True:
            clock.sleep(0)

    clock = FakeClock(watchdog=0.3)
    if not tester:
        clock.spawn(goes_on, clock)
    with pytest.raises(ClockDeadlock) as caught:
        if tester:
            goes_on(clock)
        else:
            clock.advance(1)
    name = "the test" if tester else goes_on.__qualname__
    page = str(caught.value).splitlines()
    assert re.fullmatch(
        r"at \+0 s on the fake clock these had [\d,]{3,} turns, and no time passes: "
        + re.escape(name),
        page[0],
    )
    assert "time passes only when all wait" in page[-3]
    clock.close()


def test_who_went_on_and_on_before_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scheduler, "_most_spins", 500)

    def works() -> None:
        until = Real.monotonic() + 0.2
        while Real.monotonic() < until:
            pass

    with FakeClock(watchdog=0.5) as clock:
        for _ in range(600):
            clock.sleep(0)
        for _ in range(4):
            clock.spawn(works).join()


@pytest.mark.parametrize("others", [1, 20])
def test_however_many_go_on_at_the_instant_of_a_deadline_a_write_counts(others: int) -> None:
    with FakeClock(watchdog=5) as clock:
        store = MemoryConversationStore(clock=clock)
        store.create_thread(thread_id="t")
        message = store.add_message("t", "a", status="processing", timeout=30)
        done: list[object] = []

        def works() -> None:
            clock.sleep(30)
            for _ in range(4_000):
                clock.sleep(0)
            store.update_message(message, status="complete")
            done.append(1)

        def waits() -> None:
            clock.sleep(30)
            while not done:
                clock.sleep(0)

        handles = [clock.spawn(works), *(clock.spawn(waits) for _ in range(others))]
        assert MessagePoller(store).wait(message, timeout=60).status == "complete"
        for handle in handles:
            handle.join()


def test_an_instant_is_over_though_others_come_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Scheduler, "_OVER", 200)
    with FakeClock(watchdog=5) as clock:
        store = MemoryConversationStore(clock=clock)
        store.create_thread(thread_id="t")
        message = store.add_message("t", "a", status="processing", timeout=30)
        with MessagePoller(store) as poller:
            tracker = poller.track(message)
            clock.sleep(30)
            while not tracker.is_terminal:
                clock.spawn(clock.sleep, 0)
                clock.sleep(0)
            assert clock.elapsed == 30


def test_who_stands_back_is_told_whether_the_instant_is_over(clock: FakeClock) -> None:
    def goes_on() -> None:
        for _ in range(20_000):
            clock.sleep(0)

    handle = clock.spawn(goes_on)
    told = [clock._scheduler.stand_back("a turn", POLLS) for _ in range(11)]
    assert told == [True] * 9 + [False] * 2
    handle.join()
    assert clock._scheduler.stand_back("a turn", POLLS) is False


def test_an_async_function_is_no_action(clock: FakeClock) -> None:
    async def acts() -> None: ...

    for plan in (partial(clock.at, 1), partial(clock.after, 1), clock.spawn):
        with pytest.raises(TypeError, match=r"acts is an async function.*asyncio\.run\("):
            plan(acts)


@pytest.mark.parametrize("how", ["handed over", "spawned", "joined", "advanced", "looked for"])
def test_who_works_long_between_turns_at_one_instant_is_not_stuck(how: str) -> None:
    """Each piece of work is shorter than the watchdog's time, all of them are longer."""
    done: list[int] = []

    def works() -> None:
        until = Real.monotonic() + 0.1
        while Real.monotonic() < until:
            pass
        done.append(1)

    def works_on() -> None:
        for _ in range(8):
            works()
            clock.sleep(0)

    def waits() -> None:
        while len(done) < 8:
            wakeup.wait(None, why="work")
            works()

    with FakeClock(watchdog=0.5) as clock:
        wakeup = clock.wakeup()
        if how == "handed over":
            clock.spawn(waits)
            for _ in range(8):
                wakeup.set()
                clock.sleep(0)
        elif how == "spawned":
            for _ in range(8):
                clock.spawn(works)
                clock.sleep(0)
        elif how == "joined":
            clock.spawn(works_on).join()
        elif how == "advanced":
            clock.spawn(works_on)
            clock.advance(1)
        else:
            clock.spawn(works_on)
            while len(done) < 8:
                clock.sleep(0)
        assert len(done) == 8


def test_run_until_idle_without_anything_to_do(clock: FakeClock) -> None:
    clock.run_until_idle()
    assert clock.elapsed == 0


def test_run_until_idle_gives_up_on_what_never_ends(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scheduler, "_MOST_TURNS", 500)

    def for_ever() -> None:
        while True:
            clock.sleep(1)

    clock.spawn(for_ever)
    with pytest.raises(ClockDeadlock, match=r"^not idle after 500 turns: .*for_ever$"):
        clock.run_until_idle()
    clock.advance(1)  # and the clock is still of use


def test_a_beat_is_no_work_for_run_until_idle_and_not_due_for_a_deadlock(
    clock: FakeClock,
) -> None:
    wakeup = clock.wakeup(polls=True)
    looks: list[float] = []

    def poller() -> None:
        while not wakeup.wait(None, why="it polls", beat_us=1_000_000, notified=False):
            looks.append(clock.elapsed)

    clock.spawn(poller)
    clock.run_until_idle()
    assert clock.elapsed == 0
    with pytest.raises(ClockDeadlock):
        clock.wakeup().wait(None, why="nothing")
    clock.sleep(3.5)
    assert looks == [1, 2, 3]
    wakeup.set()
    clock.run_until_idle()


def test_a_beat_that_a_deadlock_left_behind_wakes_nobody(clock: FakeClock) -> None:
    with pytest.raises(ClockDeadlock):
        clock.wakeup().wait(None, why="nothing", beat_us=1_000_000, notified=False)
    clock.sleep(5)
    assert clock.elapsed == 5


def test_a_notified_waiter_does_not_beat(clock: FakeClock) -> None:
    jumps = clock.jumps
    assert not clock.wakeup(polls=True).wait(5_000_000, why="test", beat_us=1000)
    assert clock.jumps == jumps + 1


def test_a_set_before_the_wait_is_kept_and_consumed_once(clock: FakeClock) -> None:
    wakeup = clock.wakeup()
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(1_000_000, why="test") is True
    assert clock.elapsed == 0
    assert wakeup.wait(1_000_000, why="test") is False
    assert clock.elapsed == 1


def test_nothing_moves_while_somebody_is_ready_or_runs(clock: FakeClock) -> None:
    """A chain of spawned functions takes no time, however long it is."""
    seen: list[float] = []

    def chain(n: int) -> None:
        seen.append(clock.elapsed)
        if n:
            clock.spawn(chain, n - 1)

    clock.at(1, seen.append, -1)
    clock.spawn(chain, 50)
    clock.sleep(1)
    assert seen == [0] * 51 + [-1]


def test_one_actor_runs_at_a_time(clock: FakeClock) -> None:
    running: list[int] = []
    worst: list[int] = []

    def actor() -> None:
        for _ in range(20):
            running.append(1)
            worst.append(len(running))
            threading.Event().wait(0.0002)  # invites another thread to come in
            running.pop()
            clock.sleep(0)

    handles = [clock.spawn(actor) for _ in range(4)]
    for handle in handles:
        handle.join()
    assert set(worst) == {1}


def test_only_the_test_itself_advances(clock: FakeClock) -> None:
    errors: list[str] = []

    def actor() -> None:
        moves: list[Callable[[], None]] = [lambda: clock.advance(1), clock.run_until_idle]
        for move in moves:
            try:
                move()
            except RuntimeError as error:
                errors.append(str(error))

    clock.spawn(actor).join()
    assert errors == [
        "only the test itself may call advance(); elsewhere use sleep()",
        "only the test itself may call run_until_idle(); elsewhere use sleep()",
    ]


def test_an_actor_joins_another(clock: FakeClock) -> None:
    seen: list[float] = []
    inner = clock.spawn(clock.sleep, 3)

    def outer() -> None:
        assert inner.join() is True
        seen.append(clock.elapsed)

    clock.spawn(outer).join()
    assert seen == [3]


# -- errors


def boom(text: str = "boom") -> None:
    raise LookupError(text)


def test_an_error_in_an_action_is_raised_by_the_call_that_moved_time(clock: FakeClock) -> None:
    clock.at(2, boom)
    clock.advance(1)
    with pytest.raises(LookupError, match=r"^boom(\n|$)") as caught:
        clock.advance(10)
    assert clock.elapsed == 2, "and at once"
    if sys.version_info >= (3, 11):
        (note,) = caught.value.__notes__
        where = r"raised in boom \(for \+2 s, test_fake_clock\.py:\d+\) at \+2 s on the fake clock"
        assert re.fullmatch(where, note)
    clock.advance(1)
    assert clock.elapsed == 3


@pytest.mark.parametrize("move", ["sleep", "idle", "join", "wait"])
def test_an_error_in_an_actor_ends_whatever_the_test_waits_in(clock: FakeClock, move: str) -> None:
    handle = clock.spawn(boom)
    with pytest.raises(LookupError):
        if move == "sleep":
            clock.sleep(5)
        elif move == "idle":
            clock.run_until_idle()
        elif move == "join":
            handle.join()
        else:
            clock.wakeup().wait(None, why="test")
    assert clock.elapsed == 0
    clock.sleep(7)
    assert clock.elapsed == 7


def test_an_error_that_no_call_raised_is_raised_at_the_end() -> None:
    clock = FakeClock()

    def unwinds() -> None:
        try:
            clock.sleep(100)
        finally:
            boom("while unwinding")

    clock.spawn(unwinds)
    clock.advance(1)
    with pytest.raises(LookupError, match=r"^while unwinding(\n|$)"):
        clock.close()


def test_of_several_errors_each_is_raised_by_a_call_of_its_own(clock: FakeClock) -> None:
    clock.at(1, boom, "a")
    clock.at(1, boom, "b")
    clock.at(1, boom, "c")
    for name in "abc":
        with pytest.raises(LookupError, match=rf"^{name}(\n|$)"):
            clock.advance(1 if name == "a" else 0)


def test_errors_left_at_the_end_are_all_shown() -> None:
    clock = FakeClock()

    def reports() -> None:
        for name in "abc":
            clock.unhandled(LookupError(name), f"callback {name}")
        clock.sleep(100)

    clock.spawn(reports)
    with pytest.raises(LookupError, match=r"^a(\n|$)"):
        clock.advance(0)
    with pytest.raises(LookupError, match=r"^b(\n|$)") as caught:
        clock.close()
    assert repr(caught.value.__context__) == "LookupError('c')"


def test_an_error_of_an_actor_does_not_end_the_others(clock: FakeClock) -> None:
    seen: list[str] = []
    clock.spawn(boom)
    clock.spawn(seen.append, "other")
    with pytest.raises(LookupError):
        clock.advance(0)
    clock.advance(0)
    assert seen == ["other"]


# -- deadlock


def test_a_deadlock_is_told_at_once_and_names_everybody(clock: FakeClock) -> None:
    def waits(what: str) -> None:
        clock.wakeup().wait(None, why=lambda: what)

    clock.spawn(waits, "godot")
    clock.advance(1.5)
    clock.spawn(waits, "estragon")
    with pytest.raises(ClockDeadlock) as caught:
        clock.wakeup().wait(None, why="vladimir")
    me = "test_a_deadlock_is_told_at_once_and_names_everybody.<locals>.waits"
    assert str(caught.value).splitlines()[:4] == [
        "at +1.5 s on the fake clock all wait and nothing is due:",
        "  the test waits for vladimir since +1.5 s",
        f"  {me} waits for godot since +0 s",
        f"  {me} waits for estragon since +1.5 s",
    ]
    assert "clock.spawn(…), or wait inside clock.outside(…)" in str(caught.value)
    clock.advance(1)  # the test may go on


def test_joining_oneself_is_a_deadlock(clock: FakeClock) -> None:
    handles: list[Any] = []
    handles.append(clock.spawn(lambda: handles[0].join()))
    with pytest.raises(ClockDeadlock, match=r"waits for the end of .*<lambda> since \+0 s"):
        handles[0].join()


# -- locks and patience


def test_waiters_of_a_lock_park_and_its_holder_may_sleep(clock: FakeClock) -> None:
    lock = clock.lock()
    seen: list[tuple[str, float]] = []

    def actor(name: str) -> None:
        with lock, lock:
            seen.append((name, clock.elapsed))
            clock.sleep(2)
            seen.append((name, clock.elapsed))

    for name in "abc":
        clock.spawn(actor, name)
    clock.run_until_idle()
    assert seen == [("a", 0), ("a", 2), ("b", 2), ("b", 4), ("c", 4), ("c", 6)]


def test_a_lock_is_let_go_by_an_error(clock: FakeClock) -> None:
    lock = clock.lock()

    def actor() -> None:
        with lock:
            boom()

    clock.spawn(actor)
    with pytest.raises(LookupError):
        clock.advance(0)
    with lock:
        pass


def test_a_lock_excludes_outsiders_too(clock: FakeClock) -> None:
    lock = clock.lock()
    seen: list[str] = []

    def outsider() -> None:
        with lock:
            seen.append("outsider")

    thread = threading.Thread(target=outsider)
    with lock:
        thread.start()
        thread.join(0.02)
        seen.append("test")
    thread.join()
    assert seen == ["test", "outsider"]


def test_backoff_waits_in_fake_time_within_its_bound(clock: FakeClock) -> None:
    backoff = clock.backoff(5_000_000)
    free_at = 0.05
    while clock.elapsed < free_at:
        assert backoff.pause()
    assert free_at <= clock.elapsed < free_at + 0.01
    assert backoff.waited >= free_at


def test_backoff_ends_only_when_fake_and_real_patience_are_spent(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms.testing import fake_clock

    monkeypatch.setattr(fake_clock._FakeBackoff, "_LEAST_REAL", 0.03)
    start = time.monotonic()
    backoff = clock.backoff(10_000)
    while backoff.pause():
        assert clock.elapsed <= 0.01
    assert clock.elapsed == 0.01
    assert time.monotonic() - start >= 0.03


def test_what_an_actor_waited_is_the_clock_s_time_however_slow_the_machine_is(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms.testing import fake_clock

    backoff = clock.backoff(10_000)

    class Slow(Real):
        monotonic = staticmethod(lambda: Real.monotonic() + 60)

    monkeypatch.setattr(fake_clock, "Real", Slow)
    while backoff.pause():
        pass
    assert backoff.waited == clock.elapsed == 0.01
    said: list[float] = []
    run_outside(lambda: said.append(backoff.waited)).join()
    assert said[0] >= 60, "an outsider waits in real time"


def test_somebody_else_may_let_go_while_one_is_patient(clock: FakeClock) -> None:
    held: list[bool] = [True]
    clock.at(3, held.clear)
    backoff = clock.backoff(5_000_000)
    while held:
        assert backoff.pause()
    assert 3 <= clock.elapsed < 3.01


# -- outsiders


def run_outside(f: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=f)
    thread.start()
    return thread


def test_an_outsider_wakes_a_parked_test_that_waits_inside_outside(clock: FakeClock) -> None:
    wakeup = clock.wakeup()
    thread = threading.Timer(0.02, wakeup.set)
    thread.start()
    with clock.outside("a timer"):
        assert wakeup.wait(1_000_000, why="the timer") is True
    assert clock.elapsed == 0, "time stands still meanwhile"
    thread.join()


def test_time_can_not_be_moved_inside_one_s_own_outside(clock: FakeClock) -> None:
    with clock.outside("a child"):
        moves: list[Callable[[], None]] = [
            lambda: clock.advance(1),
            clock.run_until_idle,
            lambda: clock.sleep(1),
        ]
        for move in moves:
            with pytest.raises(RuntimeError, match=r"inside clock.outside\(\): no time passes"):
                move()
    clock.advance(1)
    assert clock.elapsed == 1


def test_who_looks_at_an_instant_waits_for_what_is_outside(clock: FakeClock) -> None:
    """At +1 s a process begins to work; who is due then to look finds what it did."""
    seen: list[str] = []
    wakeup = clock.wakeup(polls=True)

    def outsider() -> None:
        Real.sleep(0.05)
        seen.append("written")
        clock.outside_rests("child")

    def begin() -> None:
        clock.outside_works("child", "a child")
        threads.append(run_outside(outsider))

    def look() -> None:
        assert not wakeup.wait(1_000_000, why="time to look")
        seen.append("looked")

    threads: list[threading.Thread] = []
    clock.spawn(look)
    clock.at(1, begin)
    clock.advance(1)
    assert seen == ["written", "looked"]
    threads[0].join()


def test_who_was_woken_need_not_wait_for_what_is_outside(clock: FakeClock) -> None:
    wakeup = clock.wakeup(polls=True)
    with clock.outside("a child"):
        thread = run_outside(wakeup.set)
        assert wakeup.wait(0, why="a word")
    thread.join()


def test_an_outsider_waits_in_real_time_for_fake_time(clock: FakeClock) -> None:
    results: list[bool] = []
    wakeup = clock.wakeup()
    entered = threading.Event()

    def outsider() -> None:
        entered.set()
        results.append(wakeup.wait(None, why="outside"))
        entered.set()
        results.append(wakeup.wait(5_000_000, why="outside"))

    thread = run_outside(outsider)
    entered.wait()
    entered.clear()
    wakeup.set()
    entered.wait()
    while thread.is_alive():
        clock.advance(5)
        thread.join(0.01)
    assert results == [True, False]


def test_an_outsider_joins_an_actor_and_has_patience_in_fake_time(clock: FakeClock) -> None:
    handle = clock.spawn(clock.sleep, 10)
    clock.advance(0)
    results: list[bool] = []
    thread = run_outside(lambda: results.extend([handle.join(2), handle.join()]))
    while thread.is_alive():
        clock.advance(1)
        thread.join(0.005)
    assert results[1] is True
    assert len(results) == 2


def test_an_outsider_that_waits_on_a_stopped_clock_is_told() -> None:
    clock = FakeClock()
    handle = clock.at(5, print)
    errors: list[str] = []
    started = threading.Event()

    def outsider() -> None:
        started.set()
        try:
            handle.join()
        except ClockDeadlock as error:
            errors.append(str(error))

    thread = run_outside(outsider)
    started.wait()
    clock.close()
    thread.join(10)
    assert errors == ["this fake clock has stopped: the test is over"]


def test_a_late_set_wakes_only_the_wait_that_was_meant(clock: FakeClock) -> None:
    """An outsider has read who waits, and is slow; by then that one waits for something else."""
    wakeup = clock.wakeup()
    scheduler = clock._scheduler
    real_wake = scheduler.wake
    held: list[Callable[[], None]] = []

    def slow_wake(actor: Any, still: Callable[[], bool] = lambda: True) -> None:
        held.append(lambda: real_wake(actor, still))

    scheduler.wake = slow_wake  # type: ignore[method-assign]
    clock.at(1, wakeup.set)
    clock.wakeup()
    assert wakeup.wait(2_000_000, why="test") is True  # by its time limit, and the set is kept
    scheduler.wake = real_wake  # type: ignore[method-assign]
    clock.after(1, held[0])
    clock.sleep(5)
    assert clock.elapsed == 7


# -- its end


def living() -> set[threading.Thread]:
    return set(threading.enumerate())


def gone(threads: set[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(5)
    return not any(thread.is_alive() for thread in threads)


def test_close_unwinds_sleeping_actors_through_their_finally_blocks() -> None:
    before = living()
    clock = FakeClock()
    seen: list[str] = []

    def sleeper(name: str) -> None:
        try:
            clock.sleep(1000)
            seen.append("not reached")
        except Exception:
            seen.append("not an Exception")
        finally:
            seen.append(name)
            clock.sleep(1)  # a wait while unwinding ends there too
            seen.append("not reached either")

    for name in "abc":
        clock.spawn(sleeper, name)
    clock.at(2000, seen.append, "never due")
    clock.advance(1)
    clock.close()
    assert seen == ["a", "b", "c"]
    assert gone(living() - before)


def test_nothing_is_left_of_many_actors() -> None:
    before = living()
    for _ in range(20):
        with FakeClock() as clock:
            for _ in range(10):
                clock.spawn(clock.sleep, 1)
                clock.at(0.5, clock.sleep, 9)
            clock.advance(1)
    assert gone(living() - before)


def test_a_closed_clock_moves_nobody_and_says_so() -> None:
    before = living()
    clock = FakeClock()
    clock.close()
    clock.close()
    for call in (lambda: clock.sleep(1), lambda: clock.spawn(print), lambda: clock.at(1, print)):
        with pytest.raises(ClockDeadlock, match="^this fake clock has stopped: the test is over$"):
            call()
    assert gone(living() - before)


def test_an_actor_that_does_not_end_is_named() -> None:
    clock = FakeClock(watchdog=0.2)
    release = threading.Event()

    def stubborn() -> None:
        try:
            clock.sleep(1000)
        finally:
            release.wait()

    clock.spawn(stubborn)
    clock.advance(1)
    with pytest.raises(
        RuntimeError, match=r"stubborn: still running after the test's clock was closed$"
    ):
        clock.close()
    release.set()


# -- a broken version of the scheduler


def test_broken_version_without_orders_the_poller_comes_too_early(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms.testing import fake_clock

    monkeypatch.setattr(fake_clock, "POLLS", ORDINARY)
    with pytest.raises(AssertionError):
        test_order_at_one_instant(clock)


def test_broken_version_a_wakeup_that_is_not_sticky_is_seen(clock: FakeClock) -> None:
    from pytest_claude_comms.testing.fake_clock import _FakeWakeup

    class Forgetful(_FakeWakeup):
        def set(self) -> None:
            if self._waiter is not None:
                super().set()

    wakeup = Forgetful(clock._scheduler, 0)
    wakeup.set()
    assert wakeup.wait(1_000_000, why="test") is False


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no interval timers here")
def test_an_interrupted_wait_gives_nobody_elses_turn_away() -> None:
    """What Ctrl-C and pytest-timeout do: an exception out of the blue, while an actor works."""

    def alarm(*_: object) -> None:
        raise TimeoutError("from outside")

    before = signal.signal(signal.SIGALRM, alarm)
    log: list[tuple[str, float]] = []
    try:
        with FakeClock() as clock:

            def act(name: str) -> None:
                Real.sleep(0.3)
                log.append((name, clock.elapsed))
                clock.sleep(1)
                log.append((name, clock.elapsed))

            clock.at(1, act, "a")
            clock.at(1, act, "b")
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            with pytest.raises(TimeoutError, match="from outside"):
                clock.advance(5)
            assert log == [("a", 1.0)], "a had parked before the test went on"
            assert clock.elapsed == 1
            clock.advance(4)
            assert log == [("a", 1.0), ("b", 1.0), ("a", 2.0), ("b", 2.0)]
            assert clock.elapsed == 5
    finally:
        signal.signal(signal.SIGALRM, before)


def test_time_ends_with_the_year_9999() -> None:
    with FakeClock() as clock:
        clock.advance(1e11)
        clock.advance(1e11)
        with pytest.raises(ClockDeadlock, match="the end of the year 9999"):
            clock.advance(1e11)
        assert clock.now().year > 8000


def test_a_deadline_that_no_datetime_can_hold_is_refused() -> None:
    with FakeClock(datetime(9000, 1, 1, tzinfo=timezone.utc)) as clock:
        store = MemoryConversationStore(clock=clock)
        store.create_thread(thread_id="t")
        for name in ("timeout", "stall_timeout"):
            with pytest.raises(ValueError, match=f"^{name}=1e[+]11 s ends after the year 9999$"):
                store.add_message("t", "x", status="pending", **{name: 1e11})  # type: ignore[arg-type]
        assert store.cursor() == 0
