"""A run in fake time, while its store is in trouble or whoever looks on takes his time."""

from __future__ import annotations

import time

import pytest

from pytest_claude_comms import ConversationStore
from pytest_claude_comms.claude import pipes
from pytest_claude_comms.claude.updates import StreamUpdate
from pytest_claude_comms.testing import FakeClock, Faults, ScriptedClaude
from tests.communication.conftest import Ask


def test_each_operation_of_the_store_takes_long(
    store: ConversationStore, clock: FakeClock, claude: ScriptedClaude, faults: Faults, ask: Ask
) -> None:
    faults.slow(store, by=0.7)
    claude.replies("abcdef", after=1, chunks=6, every=1)
    reply = ask()
    assert (reply.answer.status, reply.answer.content) == ("complete", "abcdef")
    assert clock.elapsed > 6


@pytest.mark.parametrize("by", [0.01, 1.0])
def test_it_is_slow_for_a_while(
    store: ConversationStore, clock: FakeClock, claude: ScriptedClaude, faults: Faults, ask: Ask,
    by: float,
) -> None:  # fmt: skip
    clock.at(2, lambda: faults.slow(store, by=by, for_=5))
    claude.replies("abcdef", after=1, chunks=6, every=1)
    assert ask().answer.content == "abcdef"


@pytest.mark.parametrize("store", ["tinydb", "sqlite"], indirect=True)
@pytest.mark.parametrize("at", [0.0, 2.0, 2.35])
def test_it_is_busy_for_a_while(
    store: ConversationStore, clock: FakeClock, claude: ScriptedClaude, faults: Faults, ask: Ask,
    at: float,
) -> None:  # fmt: skip
    claude.replies("abcdef", after=1, chunks=6, every=1)
    clock.at(at, lambda: faults.busy(store, for_=2))
    reply = ask()
    assert (reply.answer.status, reply.answer.content) == ("complete", "abcdef")


def test_who_looks_on_takes_his_time(clock: FakeClock, claude: ScriptedClaude, ask: Ask) -> None:
    """He holds the run up, and nothing else; what came meanwhile is not lost."""

    def look(update: StreamUpdate) -> None:
        if update.append:
            time.sleep(2.5)

    claude.replies("abc", after=1, chunks=3, every=1)
    assert ask(on_update=look).answer.content == "abc"
    assert clock.elapsed == 1 + 3 * 2.5


def test_how_the_pipe_cuts_what_comes_is_nothing_to_a_slow_store(
    store: ConversationStore, clock: FakeClock, claude: ScriptedClaude, faults: Faults, ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Each look at the store takes time, and of what came at one instant there are as many."""
    faults.slow(store, by=0.7)
    took = []
    for most in (1000, 7000, 65_536):
        monkeypatch.setattr(pipes, "_CHUNK", most)
        claude.replies("x" * 30_000, after=1, chunks=3, every=1)
        began = clock.monotonic_us()
        reply = ask()
        times = [event.at for event in store.changes(message=reply.answer)]
        assert reply.answer.content == "x" * 30_000
        took.append((clock.monotonic_us() - began, [at - times[0] for at in times]))
    assert took[0] == took[1] == took[2]
