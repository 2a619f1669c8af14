"""Our stores, pollers and callbacks under many schedules: no hang, no loss, one terminal status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_claude_comms.following import Follower
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores import rules
from pytest_claude_comms.testing.exploring import Found, explore
from pytest_claude_comms.testing.fake_clock import FakeClock
from tests.exploring.programs import (
    BACKENDS,
    PROGRAMS,
    callback_that_tracks,
    cancel_and_complete,
    many_writers,
    wait_before_create,
)

Program = Callable[[FakeClock, str], None]

STORES = ("stores.core", "stores.hub", "stores.memory")
ROOMS = ("dispatch", "following", "polling", "tracking", *STORES)
OURS = tuple(f"pytest_claude_comms.{room}" for room in ROOMS)


def on(backend: str, program: Program) -> Callable[[FakeClock], None]:
    return lambda clock: program(clock, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_it_holds_in_every_schedule(program: Program, backend: str) -> None:
    explored = explore(on(backend, program), 15, watchdog=60)
    assert explored.distinct > 6


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_with_each_line_of_ours_as_a_point(program: Program) -> None:
    explore(on("memory", program), 6, lines=OURS, watchdog=60)


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_10_000_seeds(program: Program) -> None:
    for backend, schedules, of in (
        ("memory", 5_000, False),
        ("memory", 3_000, OURS),
        ("tinydb", 1_000, False),
        ("sqlite", 1_000, False),
    ):
        explored = explore(on(backend, program), schedules, lines=of, watchdog=60)
        what = "lines" if of else "operations"
        print(f"{program.__name__} on {backend}, {what}: {explored.note()}")


# -- broken versions of ours are found


def found(program: Program, *, lines: tuple[str, ...] | bool = False) -> str:
    with pytest.raises(Found) as failed:
        explore(on("memory", program), 1_000, lines=lines, watchdog=60)
    return repr(failed.value.__cause__)


def test_broken_version_a_poller_that_looks_before_it_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(self: MessagePoller, steps: Any) -> Any:
        wakeup = self.clock.wakeup(polls=True)
        running = steps(wakeup)
        forget: Callable[[], None] = lambda: None
        try:
            park = next(running)
            forget = self._follower.listen(wakeup)
            while True:
                park = running.send(wakeup.wait(park.span_us, why=park.why))
        except StopIteration as end:
            return end.value
        finally:
            forget()

    monkeypatch.setattr(MessagePoller, "_run", run)
    assert "AssertionError" in found(wait_before_create)


def test_broken_version_no_compare_and_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is made when the message is read, not inside the commit."""
    from dataclasses import replace

    from pytest_claude_comms.stores.core import BaseStore

    real_update, real_rule = BaseStore.update_message, rules.updated
    read: dict[object, Any] = {}

    def update(self: Any, message: Any, **wanted: Any) -> Any:
        import threading

        read[threading.get_ident()] = self.get_message(message).status
        return real_update(self, message, **wanted)

    def rule(row: Any, request: Any, now_us: int) -> Any:
        import threading

        status = read[threading.get_ident()]
        return real_rule(replace(row, status=status), request, now_us)

    monkeypatch.setattr(BaseStore, "update_message", update)
    monkeypatch.setattr(rules, "updated", rule)
    assert "AssertionError" in found(cancel_and_complete)


def test_broken_version_a_cursor_that_is_read_after_the_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is committed between the two is never seen."""
    from pytest_claude_comms.records import Changes

    real = Follower._read_changes

    def read_changes(self: Any) -> None:
        store = self.store

        class Late:
            def changes(self, since: int, **how: Any) -> Changes:
                found = store.changes(since, **how)
                return Changes(found.items, store.cursor())

        self.store = Late()
        try:
            real(self)
        finally:
            self.store = store

    monkeypatch.setattr(Follower, "_read_changes", read_changes)
    assert "AssertionError" in found(many_writers)


def test_broken_version_a_tracker_that_is_not_under_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A callback that is added while a poll delivers gets an event twice, or not at all."""
    from contextlib import nullcontext

    real = Follower.track

    def track(self: Any, *args: Any) -> Any:
        lock, self._lock = self._lock, nullcontext()
        try:
            return real(self, *args)
        finally:
            self._lock = lock

    monkeypatch.setattr(Follower, "track", track)
    lines = ("pytest_claude_comms.following",)
    assert "Error" in found(callback_that_tracks, lines=lines)
