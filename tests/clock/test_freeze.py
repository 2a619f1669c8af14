"""Fake time as code sees it that reads the standard library's."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import freezegun
import pytest

import pytest_claude_comms
from pytest_claude_comms.clock import SystemClock
from pytest_claude_comms.errors import ClaudeCommsError
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import START, FakeClock

REAL_SLEEP = time.sleep


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        clock.install()
        yield clock


def readings() -> list[float]:
    now = START.timestamp()
    return [
        round(time.time() - now, 6),
        round(datetime.now(timezone.utc).timestamp() - now, 6),
        round(dt.datetime.now(timezone.utc).timestamp() - now, 6),
        round(datetime.utcnow().replace(tzinfo=timezone.utc).timestamp() - now, 6),
    ]


def test_the_test_sees_fake_time(clock: FakeClock) -> None:
    assert readings() == [0] * 4
    start = time.monotonic()
    clock.advance(2.5)
    assert readings() == [2.5] * 4
    assert time.monotonic() - start == 2.5
    time.sleep(1.5)
    assert clock.elapsed == 4
    assert datetime.now(timezone.utc) == START + timedelta(seconds=4)


def test_an_actor_whose_function_is_one_frame_deep_sees_it(clock: FakeClock) -> None:
    seen: list[Any] = []

    def actor() -> None:  # called by the clock itself, near the threading module
        seen.append(time.time() - START.timestamp())
        time.sleep(2)
        seen.append(readings())

    clock.at(1, actor)
    clock.spawn(actor)
    clock.run_until_idle()
    assert seen == [0, 1, [2.0] * 4, [3.0] * 4]


def test_a_callback_sees_it(clock: FakeClock) -> None:
    store = MemoryConversationStore(clock=clock)
    store.add_message(store.create_thread(), "m", status="pending", message_id="m")
    seen: list[Any] = []

    def callback(event: object) -> None:
        time.sleep(4)
        seen.append(readings())

    with MessagePoller(store) as poller:
        poller.track("m", on_complete=callback)
        clock.at(3, store.update_message, "m", status="complete")
        clock.run_until_idle()
    assert seen == [[7.0] * 4]


def test_a_thread_outside_really_sleeps(clock: FakeClock) -> None:
    done: list[float] = []

    def outsider() -> None:
        time.sleep(0.01)
        done.append(clock.elapsed)

    thread = threading.Thread(target=outsider)
    thread.start()
    thread.join()
    assert done == [0]


def test_a_condition_of_an_outsider_still_times_out(clock: FakeClock) -> None:
    """Without `threading` on freezegun's ignore list this never returns."""
    results: list[bool] = []

    def outsider() -> None:
        condition = threading.Condition()
        with condition:
            results.append(condition.wait_for(lambda: False, timeout=0.01))

    thread = threading.Thread(target=outsider, daemon=True)
    thread.start()
    thread.join(10)
    assert results == [False]


def test_the_system_clock_goes_on(clock: FakeClock) -> None:
    assert SystemClock().wakeup().wait(1_000, why="test") is False
    SystemClock().sleep(0.001)
    assert clock.elapsed == 0


@pytest.fixture
def importer() -> Iterator[types.ModuleType]:
    module = types.ModuleType("imports_sleep")
    exec("from time import sleep\ndef nap(): sleep(5)", module.__dict__)
    sys.modules["imports_sleep"] = module
    yield module
    del sys.modules["imports_sleep"]


def test_modules_that_imported_sleep_are_served_and_restored(importer: types.ModuleType) -> None:
    with FakeClock() as clock:
        clock.install()
        assert importer.sleep is time.sleep is not REAL_SLEEP
        importer.nap()
        assert clock.elapsed == 5
        late = types.ModuleType("imports_sleep_late")
        exec("from time import sleep", late.__dict__)
        sys.modules["imports_sleep_late"] = late
    try:
        assert importer.sleep is time.sleep is REAL_SLEEP
        assert late.sleep is REAL_SLEEP
    finally:
        del sys.modules["imports_sleep_late"]


def test_a_sleep_that_somebody_kept_is_real_again_afterwards() -> None:
    with FakeClock() as clock:
        clock.install()
        kept = time.sleep  # as a class attribute or a default argument would
    kept(0.001)
    assert clock.elapsed == 0


def test_a_sleep_that_a_monkeypatch_brought_back_is_no_real_one(
    importer: types.ModuleType,
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        with FakeClock() as clock:
            clock.install()
            monkeypatch.setattr(time, "sleep", lambda _: None)
        assert importer.sleep is REAL_SLEEP
    assert time.sleep is not REAL_SLEEP, "it is the closed clock's, which sleeps as well"
    with FakeClock() as clock:
        clock.install()
        importer.nap()
        time.sleep(1)
        assert clock.elapsed == 6
    assert importer.sleep is time.sleep is REAL_SLEEP


def test_a_sleep_of_the_test_s_own_comes_back(importer: types.ModuleType) -> None:
    own: Callable[[float], None] = lambda _: None
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(time, "sleep", own)
        with FakeClock() as clock:
            clock.install()
            importer.nap()
            time.sleep(1)
            assert clock.elapsed == 6
        assert time.sleep is own
        assert importer.sleep is REAL_SLEEP


def test_it_sleeps_for_whatever_time_sleep_takes(clock: FakeClock) -> None:
    class Two:
        def __index__(self) -> int:
            return 2

    time.sleep(True)
    time.sleep(Two())
    assert clock.elapsed == 3
    for bad in ("1", None):
        with pytest.raises(TypeError):
            time.sleep(bad)  # type: ignore[arg-type]


def test_odd_objects_among_the_modules_do_no_harm() -> None:
    class Odd:
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            raise AttributeError(name)

    sys.modules["odd"] = Odd()  # type: ignore[assignment]
    try:
        with FakeClock() as clock:
            clock.install()
    finally:
        del sys.modules["odd"]


def test_freeze_is_started_once_and_then_only_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[object] = []
    real_start = freezegun.api._freeze_time.start

    def start(self: Any) -> Any:
        starts.append(self)
        return real_start(self)

    monkeypatch.setattr(freezegun.api._freeze_time, "start", start)
    with FakeClock() as clock:
        clock.install()
        for _ in range(20):
            clock.advance(1)
        clock.spawn(clock.sleep, 3).join()
    assert len(starts) == 1


def test_installing_twice_is_an_error_and_leaves_the_first(clock: FakeClock) -> None:
    with pytest.raises(ClaudeCommsError, match="^another fake clock is installed; one test has"):
        clock.install()
    with FakeClock() as other, pytest.raises(ClaudeCommsError):
        other.install()
    clock.advance(1)
    assert readings() == [1] * 4


def test_without_freezegun_it_says_what_to_install_and_nothing_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "pytest_claude_comms.testing.frozen", raising=False)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "freezegun", None)
        for _ in range(2):  # the second is told the same, and not of the first
            with (
                FakeClock() as clock,
                pytest.raises(
                    ClaudeCommsError,
                    match=r"needs the package freezegun .*python -m pip install free",
                ),
            ):
                clock.install()
        assert time.sleep is REAL_SLEEP
        with FakeClock() as clock:
            clock.install(freeze=False)
            assert time.sleep is not REAL_SLEEP
    with FakeClock() as clock:
        clock.install()
        assert readings() == [0] * 4


def test_it_can_be_installed_after_time_has_passed() -> None:
    with FakeClock() as clock:
        clock.advance(30)
        clock.install()
        assert readings() == [30] * 4


def test_a_start_in_another_zone_is_the_same_instant() -> None:
    with FakeClock(datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))) as clock:
        clock.install()
        assert readings() == [0] * 4


def test_all_is_real_again_after_the_end() -> None:
    before = time.time, time.monotonic, time.sleep, dt.datetime
    with FakeClock() as clock:
        clock.install()
        assert time.sleep is not before[2]
    assert (time.time, time.monotonic, time.sleep, dt.datetime) == before
    assert time.sleep is REAL_SLEEP


def test_without_install_nothing_is_replaced() -> None:
    with FakeClock() as clock:
        clock.advance(5)
        assert time.sleep is REAL_SLEEP
        assert not isinstance(time.time, freezegun.api.FakeDatetime)


def test_broken_version_a_shallow_actor_sees_real_time(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frames under an actor are not there for nothing."""
    from pytest_claude_comms.testing import turns

    monkeypatch.setattr(turns, "run_deep", lambda depth, body, actor: body(actor))
    seen: list[float] = []
    clock.spawn(lambda: seen.append(time.time())).join()
    assert seen[0] != START.timestamp()


def test_the_first_start_loads_nothing_that_nobody_asked_for() -> None:
    """Public names are loaded on first use, and freezegun looks at all that a module tells of."""
    script = """
import sys
import pytest_claude_comms.testing as testing
with testing.FakeClock() as clock:
    clock.install()
loaded = {name.rpartition(".")[2] for name in sys.modules if name.startswith("pytest_claude")}
assert not loaded & {"scripted_claude", "faults", "polling", "sqlite", "tinydb", "claude"}, loaded
assert {*testing.__all__} <= {*dir(testing)}
assert {*sys.modules["pytest_claude_comms"].__all__} <= {*dir(sys.modules["pytest_claude_comms"])}
"""
    root = str(Path(pytest_claude_comms.__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root}, check=True
    )
