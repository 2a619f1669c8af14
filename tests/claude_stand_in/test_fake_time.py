"""On a fake clock: delays are fake; process, pipes and signals are real."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ClockDeadlock
from pytest_claude_comms.claude.process import ClaudeProcess
from pytest_claude_comms.clock import Wakeup
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.actors import Real
from pytest_claude_comms.testing.claude_time import Rest
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.claude_stand_in.kit import PARTIAL, STREAM, Process, pretend_runner, until


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> dict[int, Any]:
    return pretend_runner(monkeypatch)


def test_delays_are_fake_and_exact(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    for _ in range(5):
        faked.replies("Use _key", after=3, chunks=5, every=0.2)
        process = Process(faked, "-p", "q", *PARTIAL, running=running)
        fake.run_until_idle()
        assert process.join() == 0
        stamps = [(at, json.loads(line)["type"]) for at, line in process.lines]
        assert [at for at, _ in stamps] == [0, 0, 3, 3, 3, 3.2, 3.4, 3.6, *[3.8] * 6]
        assert process.ended_at == 3.8
        assert json.loads(process.lines[-1][1])["duration_ms"] == 3800
    assert faked.calls[1].started_at == fake.start + (fake.now() - fake.start) / 5


def test_without_a_runner_what_was_read_from_the_pipe_counts(
    faked: ScriptedClaude, fake: FakeClock
) -> None:
    faked.replies("Use _key", after=60, chunks=3, every=60)
    process = Process(faked, "-p", "q", *PARTIAL)
    fake.run_until_idle()
    assert process.join() == 0
    assert fake.elapsed == 180


def test_the_cli_s_own_patience_with_a_rate_limit(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.retries(429, times=10).fails(429)
    process = Process(faked, "-p", "q", *STREAM, running=running)
    fake.run_until_idle()
    assert process.join() == 1
    assert 159 < fake.elapsed < 200
    attempts = [json.loads(line)["attempt"] for _, line in process.lines[1:-2]]
    assert attempts == list(range(1, 11))


def test_a_hang_of_ten_minutes(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.hangs()
    process = Process(faked, "-p", "q", *STREAM, running=running)
    fake.at(600, process.send, signal.SIGTERM)
    fake.run_until_idle()
    assert process.join() == 143
    assert (process.ended_at, fake.elapsed) == (600, 600)
    assert [at for at, _ in process.lines] == [0]


def test_nothing_can_end_a_hang_and_the_page_says_who_hangs(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.hangs()
    process = Process(faked, "-p", "q", *STREAM, running=running)
    waiter = fake.wakeup()
    with pytest.raises(ClockDeadlock, match=rf"claude \(pid {process.pid}\) waits for a signal"):
        waiter.wait(None, why="an answer")
    process.kill()


def test_one_that_ignores_term_hangs_on_until_it_is_killed(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.ignores_term().replies("never", after=100)
    process = Process(faked, "-p", "q", *STREAM, running=running)
    fake.at(10, process.send, signal.SIGTERM)
    fake.at(15, process.send, signal.SIGKILL)
    fake.run_until_idle()
    assert process.join() == -9
    assert process.ended_at == 15
    assert fake.elapsed == 15  # and not 100: its wake-up went with it


def test_it_wakes_at_its_time_though_term_came_between(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.ignores_term().replies("late", after=100)
    process = Process(faked, "-p", "q", *STREAM, running=running)
    fake.at(10, process.send, signal.SIGTERM)
    fake.run_until_idle()
    assert process.join() == 0
    assert process.ended_at == 100


def kill_if_it_lives(process: Process) -> None:
    if process.popen.poll() is None:
        process.send(signal.SIGKILL)


@pytest.mark.parametrize("pause", [0, 0.004, 0.008, 0.012, 0.016, 0.03])
def test_a_signal_at_any_moment_of_its_start_is_answered_before_the_grace_is_over(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any], pause: float
) -> None:
    for _ in range(4):
        faked.hangs()
        begun = fake.elapsed
        process = Process(faked, "-p", "q", *STREAM, running=running)
        time.sleep(pause)  # real: at another point of its start-up
        process.send(signal.SIGTERM)
        killer = fake.after(5, kill_if_it_lives, process)
        killer.join()
        assert process.join() in (143, -15)  # -15: before it had its handlers
        assert process.ended_at == 0
        assert fake.elapsed == begun + 5


def test_eight_at_once_wake_in_order(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    for number in range(8):
        faked.when(prompt=f"^{number}$").replies(f"{number}", after=10 - number)
    processes = [
        Process(faked, "-p", *STREAM, stdin=str(number).encode(), running=running)
        for number in range(8)
    ]
    fake.run_until_idle()
    assert [process.join() for process in processes] == [0] * 8
    assert [process.ended_at for process in processes] == [10 - number for number in range(8)]


def test_one_that_is_killed_while_it_waits_leaves_no_plan_behind(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.replies("never", after=1000)
    process = Process(faked, "-p", "q", *STREAM, running=running)
    fake.at(1, process.send, signal.SIGKILL)
    fake.run_until_idle()
    assert process.join() == -9
    assert fake.elapsed == 1  # and not 1000


def test_a_slow_reader_holds_time_up(
    faked: ScriptedClaude, fake: FakeClock, running: dict[int, Any]
) -> None:
    faked.says("one").replies("two", after=5)
    process = Process(faked, "-p", "q", *STREAM, running=running)
    process.bytes_handled = -10_000  # as if it had read and not yet handled
    stamps: list[float] = []

    def catch_up() -> None:
        time.sleep(0.3)  # real: long after all was read
        stamps.append(fake.elapsed)
        process.bytes_handled += 10_000

    thread = threading.Thread(target=catch_up)
    thread.start()
    fake.run_until_idle()
    thread.join()
    assert stamps == [0]
    assert process.join() == 0
    assert process.ended_at == 5


def test_a_test_that_blocks_on_it_is_ended_by_the_watchdog(tmp_path: Path) -> None:
    with (
        FakeClock(watchdog=0.4) as clock,
        ScriptedClaude(tmp_path / "bin", clock) as claude,
    ):
        claude.replies("never", after=5)
        with pytest.raises(ClockDeadlock):
            subprocess.run([claude.executable, "-p", "q"], stdin=subprocess.DEVNULL, check=False)


def test_one_that_is_killed_just_as_its_time_has_come_keeps_nobody_waiting(
    faked: ScriptedClaude, fake: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its player hears that it is gone before it could be declared to be awake."""
    killed: list[int] = []

    class Killed:
        def __init__(self, rest: Rest) -> None:
            self._rest, self._wakeup = rest, rest._wakeup

        def wait(self, us: int | None, *, why: str) -> bool:
            woken = self._wakeup.wait(us, why=why)
            if not woken and not killed:
                killed.append(self._rest._pid)
                process.kill()
                until(lambda: self._rest._lost)
                Real.sleep(0.1)  # by then its player has said its last word of it
            return woken

        def set(self) -> None:
            self._wakeup.set()

    def begin(rest: Rest, *given: Any) -> None:
        real(rest, *given)
        rest._wakeup = Killed(rest)  # type: ignore[assignment]

    real = Rest.__init__
    monkeypatch.setattr(Rest, "__init__", begin)
    faked.replies("never", after=5)
    process = Process(faked, "-p", "q", *STREAM)
    fake.advance(10)
    assert process.join() == -9
    assert killed == [process.pid]
    fake.run_until_idle()
    assert not fake.is_outside(process.pid)


def test_a_test_may_end_with_one_in_the_middle_of_a_wait(
    tmp_path: Path, running: dict[int, Any]
) -> None:
    with FakeClock() as clock:
        with ScriptedClaude(tmp_path / "bin", clock) as claude:
            claude.replies("never", after=50)
            process = Process(claude, "-p", "q", *STREAM, running=running)
            clock.advance(10)
        assert process.join() == -9
    with ScriptedClaude(tmp_path / "bin", clock) as claude:  # the clock went before it
        claude.replies("never", after=50)
        process = Process(claude, "-p", "q", *STREAM)
        assert process.join() in (1, -9)


def consume(process: ClaudeProcess, wakeup: Wakeup, clock: FakeClock) -> list[tuple[float, bytes]]:
    found: list[tuple[float, bytes]] = []
    while True:
        over = process.ended
        chunks = process.take()
        found += [(clock.elapsed, chunk) for chunk in chunks]
        process.done_with(chunks)
        if over:
            return found
        wakeup.wait(None, why="Claude")


def test_under_the_real_runner(faked: ScriptedClaude, fake: FakeClock, tmp_path: Path) -> None:
    command = [faked.executable, "-p", *PARTIAL]
    for _ in range(5):
        faked.replies("Use _key", after=3, chunks=5, every=0.2)
        wakeup, begun = fake.wakeup(), fake.elapsed
        with ClaudeProcess(
            "q", cwd=tmp_path, command=command, env={}, clock=fake, on_output=wakeup.set
        ) as process:
            found = consume(process, wakeup, fake)
        assert process.exit_code == 0
        stamps = [round(at - begun, 6) for at, chunk in found for _ in range(chunk.count(b"\n"))]
        assert stamps == [0, 0, 3, 3, 3, 3.2, 3.4, 3.6, *[3.8] * 6]
    assert {call.prompt for call in faked.calls} == {"q"}


@pytest.mark.parametrize(("stubborn", "code", "end"), [(False, 143, 600), (True, -9, 605)])
def test_a_hang_is_ended_by_the_real_runner(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path, stubborn: bool, code: int, end: float
) -> None:
    for _ in range(5):
        if stubborn:
            faked.ignores_term()
        faked.hangs()
        wakeup, begun = fake.wakeup(), fake.elapsed
        command = [faked.executable, "-p", *PARTIAL]
        with ClaudeProcess(
            "q", cwd=tmp_path, command=command, env={}, clock=fake, on_output=wakeup.set
        ) as process:
            fake.after(600, process.begin_end, "timeout")
            consume(process, wakeup, fake)
        assert (process.exit_code, process.intent) == (code, "timeout")
        assert fake.elapsed - begun == end


def test_one_that_the_real_runner_kills_leaves_no_plan_behind(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path
) -> None:
    for number in range(1, 6):
        faked.ignores_term().replies("never", after=1000)
        wakeup = fake.wakeup()
        with ClaudeProcess(
            "q", cwd=tmp_path, command=[faked.executable, "-p"], env={}, clock=fake,
            on_output=wakeup.set,
        ) as process:  # fmt: skip
            fake.after(5, process.begin_end, "cancelled")
            consume(process, wakeup, fake)
        fake.run_until_idle()
        assert fake.elapsed == 10 * number


def run_to_its_end(
    claude: ScriptedClaude, clock: FakeClock, folder: Path
) -> tuple[int | None, float]:
    wakeup = clock.wakeup()
    with ClaudeProcess(
        "q", cwd=folder, command=[claude.executable, "-p", *PARTIAL], env={}, clock=clock,
        on_output=wakeup.set,
    ) as process:  # fmt: skip
        consume(process, wakeup, clock)
    return process.exit_code, clock.elapsed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_what_a_call_is_sent_has_its_effect_before_time_goes_on(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path, number: int, code: int
) -> None:
    for round_ in range(5):
        begun = 10_000 * round_
        faked.goes_silent()
        fake.at(begun + 600, lambda: faked.calls[-1].kill(number))
        fake.at(begun + 601, lambda: None)  # time would go here, and then find nothing due
        assert run_to_its_end(faked, fake, tmp_path) == (code, begun + 600)
        fake.advance(10_000 - 600)


def test_the_test_itself_kills_one(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path, running: dict[int, Any]
) -> None:
    faked.replies("never", after=1000)
    process = Process(faked, "-p", "q", *STREAM, running=running)
    fake.advance(100)
    faked.calls[0].kill()
    process.wait()
    assert (process.join(), process.ended_at) == (-9, 100)
    faked.calls[0].kill()  # it has ended: time goes on
    fake.run_until_idle()
    assert fake.elapsed == 100  # and not 1000


def test_a_call_that_ignores_what_it_is_sent_goes_on(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path
) -> None:
    faked.ignores_term().replies("late", after=100)
    for at, number in ((10, signal.SIGTERM), (20, signal.SIGCONT), (30, signal.SIGWINCH), (40, 0)):
        fake.at(at, lambda number=number: faked.calls[0].kill(number))
    assert run_to_its_end(faked, fake, tmp_path) == (0, 100)


def test_without_a_runner_a_call_that_was_killed_holds_nothing_up(
    faked: ScriptedClaude, fake: FakeClock
) -> None:
    faked.hangs()
    process = Process(faked, "-p", "q", *STREAM)
    fake.at(60, lambda: faked.calls[0].kill())
    fake.run_until_idle()
    assert process.join() == -9
    fake.advance(1)
    assert fake.elapsed == 61


def test_a_rest_that_begins_after_the_end_takes_nothing_back() -> None:
    """Granted, and then lost before its actor came to say so: its runner has yet to see the end."""
    asked = threading.Event()
    seen: list[bool] = []
    with FakeClock() as clock:
        clock.outside_works(1, "a claude")
        rest = Rest(clock, 1, None, "a signal", asked.set)

        def hand() -> None:
            asked.wait()
            rest.lose("the end of a claude")
            rest.answer(granted=True)
            time.sleep(0.05)  # for the actor to come to it
            seen.append(clock.is_outside(1))
            clock.outside_rests(1)

        thread = threading.Thread(target=hand)
        thread.start()
        clock.advance(1)
        thread.join()
    assert seen == [True]
