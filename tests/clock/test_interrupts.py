"""Ctrl-C and another plugin's alarm, wherever they come: the test goes on with a clock that is
whole, in its teardown too. And a signal's handler that itself waits on the clock."""

from __future__ import annotations

import dis
import linecache
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import freezegun
import pytest

from pytest_claude_comms.errors import ClockDeadlock
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing import fake_clock
from pytest_claude_comms.testing.actors import Real
from pytest_claude_comms.testing.fake_clock import FakeClock
from tests.tracing import Traced

OURS = str(Path(fake_clock.__file__).parent)

posix = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs such signals")


NO_PLACES = ("with ", "try:", "if held is not None:", "self._mutex._acquire_restore(")


AT_JUMPS = sys.version_info >= (3, 13)

PATIENCE = 30.0
"""Seconds for the watchdog of a clock that must not stop: long, for a machine that is busy."""


class Alarm(BaseException):
    """What comes out of the blue."""


@cache
def jumps_back(code: CodeType) -> frozenset[int]:
    """Where in ``code`` loops begin anew."""
    return frozenset(
        each.offset for each in dis.get_instructions(code) if each.opname == "JUMP_BACKWARD"
    )


@contextmanager
def alarm_at(number: int, *rooms: str) -> Iterator[list[str]]:
    """Raise an alarm at the ``number``-th line that this thread runs in these rooms; the list
    says where that was. With 0 it says where all of them are, and there is no alarm.

    On Python 3.13 the jumps back of loops count too: a signal is handled right at the jump, and
    the compiler leaves some of them out of the block they are in (python/cpython#130279).

    No places are those where a trace stands between a lock and its block and no signal is
    handled, and the first line of an ``__exit__``: what comes there comes before anything that
    could be done about it.
    """
    places: list[str] = []
    seen = 0
    files = {os.path.join(OURS, f"{room}.py") for room in rooms}

    def in_frame(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        code = frame.f_code
        line = linecache.getline(code.co_filename, frame.f_lineno).strip()
        entered = code.co_name == "__exit__" and frame.f_lineno == code.co_firstlineno + 1
        if event == "opcode":
            is_place = frame.f_lasti in jumps_back(code)
        else:
            is_place = event == "line" and not entered and not line.startswith(NO_PLACES)
        if is_place:
            seen += 1
            if number in (0, seen):
                places.append(f"{code.co_name}: {event}: {line}")
            if seen == number:
                sys.settrace(None)
                raise Alarm
        return in_frame

    def on_call(frame: FrameType, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        if name not in files and not ("freezegun" in rooms and "freezegun" in name):
            return None
        frame.f_trace = in_frame  # 3.13 hears of no opcode of a frame that has none yet
        frame.f_trace_opcodes = AT_JUMPS and bool(jumps_back(frame.f_code))
        return in_frame

    with Traced(on_call), suppress(Alarm):
        yield places


SCHEDULING = ("scheduler", "turns", "timers", "actors")

WAYS: dict[str, Callable[[FakeClock], object]] = {
    "sleep": lambda clock: clock.sleep(0.002),
    "advance": lambda clock: clock.advance(0.002),
    "join": lambda clock: clock.spawn(clock.sleep, 0.002).join(),
    "a join woken in vain": lambda clock: (
        clock.after(0.001, clock._scheduler.wake, clock._scheduler.test),
        clock.spawn(clock.sleep, 0.002).join(),
    ),
    "wakeup": lambda clock: clock.wakeup().wait(2_000, why="test", beat_us=500, notified=False),
}


def ticks_beside(clock: FakeClock, number: int) -> list[list[int]]:
    """Actors that look at the time each millisecond."""
    ticks: list[list[int]] = [[] for _ in range(number)]

    def tick(mine: list[int]) -> None:
        while True:
            mine.append(clock.monotonic_us())
            clock.sleep(0.001)

    for mine in ticks:
        clock.spawn(tick, mine)
    return ticks


def check_whole(clock: FakeClock, ticks: list[list[int]], place: object) -> None:
    """All actors live, the test has its turn and waits to the microsecond."""
    clock.sleep(0.01)
    begin = clock.monotonic_us()
    seen = [len(mine) for mine in ticks]
    for _ in range(5):
        clock.sleep(0.001)
    assert clock.monotonic_us() - begin == 5_000, place
    assert [len(mine) - before for mine, before in zip(ticks, seen, strict=True)] == [5] * len(
        ticks
    ), place
    for mine in ticks:
        steps = {
            after - before
            for before, after in zip(mine, [*mine[1:], mine[-1] + 1_000], strict=True)
        }
        assert steps == {1_000}, place


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("actors", [0, 2])
def test_a_wait_may_be_interrupted_at_any_line(way: str, actors: int) -> None:
    for number in range(1, 10_000):
        with FakeClock(watchdog=PATIENCE) as clock:
            ticks = ticks_beside(clock, actors)
            if number % 2:
                clock.sleep(0.001)  # else they begin in the wait that is interrupted
            with alarm_at(number, *SCHEDULING) as places:
                WAYS[way](clock)
            if not places:
                break
            if "join: opcode" in places[0]:
                actors_now = clock._scheduler._actors
                assert not any(clock._scheduler.test in each.joiners for each in actors_now), places
            check_whole(clock, ticks, places)
    assert number > 40


def test_the_wait_until_all_is_idle_may_be_interrupted_at_any_line() -> None:
    for number in range(1, 10_000):
        with FakeClock(watchdog=PATIENCE) as clock:
            clock.at(0.001, clock.sleep, 0.001)
            clock.at(0.003, print)
            with alarm_at(number, *SCHEDULING) as places:
                clock.run_until_idle()
            if not places:
                break
            if not places[0].endswith("self._idle_since = None"):  # what undoes it
                assert clock._scheduler._idle_since is None, places
            check_whole(clock, [], places)
    assert number > 40


def test_the_end_of_actors_may_be_interrupted_at_any_line() -> None:
    for number in range(1, 10_000):
        clock = FakeClock(watchdog=PATIENCE)
        ticks_beside(clock, 1)
        clock.sleep(0.001)
        clock.spawn(print)
        with alarm_at(number, *SCHEDULING) as places:
            clock.close()
        assert not clock._scheduler._mutex._is_owned(), places  # type: ignore[attr-defined]
        clock.close()
        if not places:
            break
    assert number > 10


def test_what_is_done_for_others_may_be_interrupted_at_any_line() -> None:
    for number in range(1, 10_000):
        with FakeClock(watchdog=PATIENCE) as clock:
            ticks = ticks_beside(clock, 1)
            wakeup = clock.wakeup()
            waits = clock.spawn(lambda: wakeup.wait(None, why="test"))
            clock.sleep(0.001)
            with alarm_at(number, *SCHEDULING, "fake_clock") as places:
                clock.spawn(print)
                clock.at(1, print)
                wakeup.set()
            if not places:
                break
            check_whole(clock, ticks, places)
            wakeup.set()  # it was not told that it was done
            assert waits.join(1), places
    assert number > 20


@posix
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "seconds", [0.3, pytest.param(20, marks=pytest.mark.long)], ids=["short", "long"]
)
@pytest.mark.parametrize("actors", [0, 2])
def test_a_storm_of_alarms(actors: int, seconds: float) -> None:
    """True signals, for what no trace reaches."""

    def alarm(*_: object) -> None:
        if armed:
            raise Alarm  # a garbage collection may swallow it: then the next one counts

    rng = random.Random(1)
    armed: list[bool] = []
    before, tracer = signal.signal(signal.SIGALRM, alarm), sys.gettrace()
    end = Real.monotonic() + seconds
    try:
        sys.settrace(None)  # the locks of whoever measures coverage are not ours
        while Real.monotonic() < end:
            with FakeClock(watchdog=PATIENCE) as clock:
                ticks = ticks_beside(clock, actors)
                soon = rng.choice([1e-4, 1e-3])  # while the actors begin, or after that
                try:
                    armed.append(True)
                    signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, soon), 0.1)
                    while True:
                        clock.sleep(0.001)
                except Alarm:
                    armed.clear()
                signal.setitimer(signal.ITIMER_REAL, 0)
                check_whole(clock, ticks, "a storm")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.settrace(tracer)


def test_an_alarm_right_after_the_turn_came() -> None:
    class Gate:
        armed = True

        def __init__(self, gate: Any) -> None:
            self.gate = gate

        def acquire(self, timeout: float = -1) -> bool:
            got = bool(self.gate.acquire(timeout=timeout))
            if got and self.armed:
                self.armed = False
                raise Alarm
            return got

        def release(self) -> None:
            self.gate.release()

    with FakeClock() as clock:
        test = clock._scheduler.test
        test.gate = Gate(test.gate)  # type: ignore[assignment]
        with pytest.raises(Alarm):
            clock.sleep(1)
        clock.sleep(1)
        assert clock.elapsed == 2


# -- a handler that waits


@contextmanager
def handler(f: Callable[[], object]) -> Iterator[Callable[[], None]]:
    """Gives what sends the signal, and goes on when the handler has begun."""
    begun = threading.Event()

    def handle(*_: object) -> None:
        begun.set()
        f()

    def send() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        begun.wait()

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield send
    finally:
        signal.signal(signal.SIGUSR1, before)


@posix
def test_a_handler_may_wait_on_the_clock() -> None:
    log: list[float] = []
    with FakeClock(watchdog=PATIENCE) as clock:
        ticks = ticks_beside(clock, 2)

        def handle() -> None:
            clock.sleep(0.0005)
            log.append(clock.elapsed)

        with handler(handle) as send:
            clock.at(3, send)
            clock.advance(10)
        assert len(log) == 1
        assert 3 < log[0] < 3.1
        assert clock.elapsed == 10, "what it came into goes on to its own end"
        check_whole(clock, ticks, "after a handler")


@posix
def test_a_handler_may_wait_while_the_test_waits_until_all_is_idle() -> None:
    with FakeClock(watchdog=PATIENCE) as clock:
        clock.at(9, print)
        with handler(lambda: clock.spawn(clock.sleep, 1).join()) as send:
            clock.at(3, send)
            clock.run_until_idle()
        assert clock.elapsed == 9


@posix
def test_a_handler_may_stop_a_poller() -> None:
    with FakeClock(watchdog=PATIENCE) as clock:
        store = MemoryConversationStore(clock=clock)
        store.add_message(store.create_thread(), "m", status="pending", message_id="m")
        poller = MessagePoller(store)
        poller.start()
        with handler(poller.stop) as send:
            clock.at(3, send)
            clock.advance(10)
        assert clock.elapsed == 10


def test_a_handler_that_comes_in_the_midst_of_a_change_is_told() -> None:
    with FakeClock() as clock:
        with (
            clock._scheduler._mutex,
            pytest.raises(RuntimeError, match=r"^a signal's handler waits on the fake clock, and"),
        ):
            clock.sleep(1)
        clock.sleep(1)
        assert clock.elapsed == 1


# -- threads that do not start


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_thread_that_cannot_be_started_is_an_error_of_its_actor(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    ended: list[int] = []
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.endswith(".bad"):
            raise error
        start(self)

    def good(number: int) -> None:
        try:
            clock.sleep(50)
        finally:
            ended.append(number)

    def bad() -> None:
        raise AssertionError("never")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with FakeClock(watchdog=PATIENCE) as clock:
        clock.spawn(good, 1)
        handle = clock.spawn(bad)
        clock.spawn(good, 2)
        with pytest.raises(type(error)) as caught:
            clock.advance(1)
        assert caught.value is error
        assert not handle.is_alive()
        clock.advance(1)
        assert handle.join(1)
    assert ended == [1, 2], "close() ends all others"


# -- errors left at the end


@posix
def test_one_error_raised_by_many_actors_is_no_endless_chain() -> None:
    shared = RuntimeError("boom")

    def act(error: Exception) -> None:
        try:
            clock.sleep(100)
        finally:
            raise error

    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it goes round and round"))
    try:
        with pytest.raises(RuntimeError, match="^boom") as caught, FakeClock() as clock:
            for error in (shared, ValueError(2), shared, ValueError(4)):
                clock.spawn(act, error)
            clock.advance(1)
            signal.alarm(20)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    chain: list[BaseException] = []
    last: BaseException | None = caught.value
    while last is not None and last not in chain:
        chain.append(last)
        last = last.__context__
    assert [str(each) for each in chain if isinstance(each, ValueError)] == ["2", "4"]


# -- its installation and its end


def check_real() -> None:
    for package in ("pytest_claude_comms", "pytest_claude_comms.testing"):
        assert "__dir__" in vars(sys.modules[package])
    assert time.sleep is Real.sleep
    assert time.time.__module__ == "time"
    assert not isinstance(importer.now(), type(freezegun.api.FakeDatetime))
    assert importer.time is time.time
    assert importer.sleep is time.sleep
    with FakeClock() as clock:
        clock.install()
        clock.sleep(5)
        assert importer.now() == clock.now().timestamp()
    assert importer.time is time.time
    assert importer.sleep is time.sleep


importer: Any = ModuleType("imports_time")
exec("from time import sleep, time\ndef now(): return time()", importer.__dict__)


@pytest.fixture
def _imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imports_time", importer)


def first_last_and_some(total: int) -> list[int]:
    """Most of the lines are steps through all modules, of which there may be thousands."""
    numbers, number = {*range(max(1, total - 15), total + 1)}, 1
    while number < total:
        numbers.add(number)
        number += max(1, (number - 20) // 4)
    return sorted(numbers)


@pytest.mark.usefixtures("_imported")
@pytest.mark.parametrize("room", ["fake_clock", "freeze", "frozen", "fake_asyncio"])
@pytest.mark.parametrize("what", ["install", "close"])
def test_installing_may_be_interrupted_at_any_line(what: str, room: str) -> None:
    def interrupted(number: int) -> list[str]:
        clock = FakeClock()
        if what == "close":
            clock.install()
        with alarm_at(number, room) as places:
            clock.install() if what == "install" else clock.close()
        clock.close()
        check_real()
        return places

    total = len(interrupted(0))
    for number in first_last_and_some(total):
        places = interrupted(number)
        assert places or number > total // 2, "more or fewer modules are loaded each time"


@pytest.mark.usefixtures("_imported")
@pytest.mark.parametrize("what", ["install", "close"])
def test_freezegun_may_be_interrupted(what: str) -> None:
    for number in [*range(1, 25), 200, 1000, 5000, 20_000]:
        clock = FakeClock()
        if what == "close":
            clock.install()
        with alarm_at(number, "freezegun"):
            clock.install() if what == "install" else clock.close()
        clock.close()
        check_real()


def test_a_fake_that_freezegun_had_not_noted_yet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts(ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            raise Alarm

    module = Interrupts("interrupts")
    module.__dict__["time"] = time.time
    real = time.time
    monkeypatch.setitem(sys.modules, "interrupts", module)
    with pytest.raises(Alarm), FakeClock() as clock:
        clock.install()
    assert (time.time, time.sleep) == (real, Real.sleep)


@pytest.mark.usefixtures("_imported")
def test_an_end_interrupted_while_it_waits_for_the_watchdog() -> None:
    ended: list[int] = []
    clock = FakeClock()
    clock.install()

    def act() -> None:
        try:
            clock.sleep(50)
        finally:
            ended.append(1)

    def interrupted(timeout: float | None = None) -> None:
        raise Alarm

    handler_before = signal.getsignal(signal.SIGINT)
    clock.spawn(act)
    clock.advance(1)
    assert clock._watchdog._thread is not None
    clock._watchdog._thread.join = interrupted  # type: ignore[method-assign]
    with pytest.raises(Alarm):
        clock.close()
    assert ended == [1]
    assert signal.getsignal(signal.SIGINT) is handler_before
    check_real()


# -- its locks


@pytest.mark.parametrize("contended", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_a_lock_is_lost_at_no_line(contended: bool, held: bool) -> None:
    for number in range(1, 1_000):
        with FakeClock(watchdog=PATIENCE) as clock:
            lock: Any = clock.lock()

            def holds(lock: Any = lock) -> None:
                with lock:
                    clock.sleep(1)

            def wake_in_vain(lock: Any = lock) -> None:
                for _, wakeup in list(lock._waiters):
                    wakeup.set()

            if contended:
                clock.spawn(holds)
                clock.advance(0)
                clock.at(0.5, wake_in_vain)
            with alarm_at(number, "fake_clock") as places:
                if held:
                    with lock:
                        clock.spawn(holds)
                        with lock:
                            clock.sleep(2)
                else:
                    with lock:
                        pass
            assert not lock._mutex._is_owned(), places
            assert clock.spawn(holds).join(5), places
            if not places:
                break
    assert number > 10


def test_time_goes_on_after_work_that_could_not_be_declared() -> None:
    def refuses(_: object) -> None:
        raise ZeroDivisionError

    with FakeClock(watchdog=PATIENCE) as clock:
        clock.when_declared.append(refuses)
        with pytest.raises(ZeroDivisionError), clock.outside("a child"):
            pass
        clock.sleep(1)
        assert clock.elapsed == 1


def test_broken_version_a_stopped_clock_would_be_seen() -> None:
    with FakeClock(watchdog=2) as clock:
        ticks = ticks_beside(clock, 1)
        clock.advance(0.01)
        clock._scheduler._take_over()
        with pytest.raises(ClockDeadlock):
            check_whole(clock, ticks, "broken")
