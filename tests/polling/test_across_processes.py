"""Another process writes faster than we poll: every step arrives, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore, Event, MessagePoller, SystemClock, open_store

ROOT = Path(__file__).resolve().parents[2]
GAPS_MS = (0, 1, 10, 50, 90)
INTERVAL = 0.1

_WRITER = """
import sys
from pytest_claude_comms import SystemClock, open_store

url, gap_ms, messages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
clock = SystemClock()
with open_store(url, durability="process") as store:
    for number in range(messages):
        name = f"{gap_ms}-{number}"
        clock.sleep(gap_ms / 1000)
        store.add_message("t", "writer", status="pending", message_id=name)
        clock.sleep(gap_ms / 1000)
        store.update_message(name, status="processing")
        clock.sleep(gap_ms / 1000)
        store.update_message(name, status="complete")
"""


@contextmanager
def writers(url: str, messages: int) -> Iterator[None]:
    """A process per gap, all on one store."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, url, str(gap), str(messages)],
            env={**os.environ, "PYTHONPATH": path},
        )
        for gap in GAPS_MS
    ]
    try:
        yield
        for child in started:
            assert child.wait(60) == 0
    finally:
        for child in started:
            child.kill()
            child.wait()


def all_names(messages: int) -> list[str]:
    return [f"{gap}-{number}" for gap in GAPS_MS for number in range(messages)]


@pytest.fixture(params=["tinydb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ConversationStore]:
    url = f"{request.param}:///{tmp_path}/store"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        yield store


def check_every_step_arrives(store: ConversationStore, messages: int) -> None:
    seen: list[Event] = []
    names = all_names(messages)
    with MessagePoller(store, interval=INTERVAL) as poller:
        for name in names:
            poller.track(name, on_event=seen.append)
        with writers(store.url, messages):
            trackers = poller.wait_all(names, timeout=60)
        poller.flush(timeout=30)
    for tracker in trackers:
        assert tracker.statuses == ["pending", "processing", "complete"]
        mine = [event.revision for event in seen if event.message_id == tracker.message_id]
        assert mine == [change.revision for change in tracker.history]
    assert len({event.revision for event in seen}) == len(seen) == 3 * len(names)


def test_every_step_arrives(store: ConversationStore) -> None:
    check_every_step_arrives(store, messages=6)


@pytest.mark.long
def test_every_step_of_120_arrives_at_every_gap(store: ConversationStore) -> None:
    check_every_step_arrives(store, messages=40)


def test_a_poller_of_snapshots_would_miss_steps(store: ConversationStore) -> None:
    """What the check above is for: looking at messages, rather than at changes, is not enough."""
    clock = SystemClock()
    names = all_names(6)
    seen: dict[str, list[str]] = {name: [] for name in names}
    with writers(store.url, 6):
        while any(steps[-1:] != ["complete"] for steps in seen.values()):
            for message in store.messages():
                steps = seen[message.message_id]
                if steps[-1:] != [message.status.value]:
                    steps.append(message.status.value)
            clock.sleep(INTERVAL)
    missed = sum(3 - len(steps) for steps in seen.values())
    assert missed > 0
