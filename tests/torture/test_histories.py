"""What watchers in other processes are told while four writers work, some of them in trouble."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import InvalidTransition
from pytest_claude_comms.stores import open_store
from tests.torture.conftest import Row
from tests.torture.histories import ERRORS, Ack, Note, errors_in, told, unkept
from tests.torture.stage import Actor, Stage
from tests.torture.story import BACKENDS, url_in
from tests.torture.watching import SHARED

HISTORIES = 1_000
GAPS_MS = {0: 12, 1: 12, 10: 8, 50: 4, 90: 3}
"""With how many changes, so that a history takes about half a second."""
WRITERS = tuple(f"w{number}" for number in range(4))
MESSAGES = [*WRITERS, SHARED]


@dataclass
class Watcher:
    """One of the eight: its process, and what it watches."""

    name: str
    actor: Actor
    messages: frozenset[str] | None = None
    by_callbacks: bool = False
    """Told in order only of each message."""
    notes: list[Note] = field(default_factory=list)

    def collect(self, said: Iterable[Any]) -> None:
        self.notes += [each for each in said if each != "ready"]


@dataclass
class Tally:
    """What came of some histories."""

    events: int = 0
    kills: int = 0
    stops: int = 0
    wrong: list[str] = field(default_factory=list)


def _watchers(stage: Stage, url: str) -> list[Watcher]:
    def follow(name: str, **how: Any) -> Watcher:
        asked = {"since": 0, "limit": None, "pause_ms": 10, "reads": False, **how}
        actor = stage.start("tests.torture.watching:follow", url=url, **asked)
        return Watcher(name, actor)

    def poll(name: str, **how: Any) -> Watcher:
        asked = {"messages": MESSAGES, "interval": 0.02, "slow_ms": 0, **how}
        actor = stage.start("tests.torture.watching:poll", url=url, **asked)
        return Watcher(name, actor, by_callbacks=True)

    one = stage.start("tests.torture.watching:watch", url=url, message="w1", interval=0.02)
    return [
        follow("killed"),
        follow("stopped", pause_ms=3),
        follow("in pages", limit=3, pause_ms=1),
        follow("reading", reads=True, pause_ms=5),
        poll("poller"),
        poll("seldom", interval=0.1),
        poll("slow", slow_ms=5),
        Watcher("iterator", one, frozenset({"w1"})),
    ]


def play_history(stage: Stage, folder: Path, backend: str, seed: int, tally: Tally) -> None:
    """Four writers and eight watchers; one watcher is killed and resumed, one is stopped for a
    while, and so is a writer, now and then for ever."""
    chance = random.Random(seed)
    url = url_in(folder, backend)
    folder.mkdir()
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "module", status="processing", message_id=SHARED)
    watchers = _watchers(stage, url)
    writers = []
    for message in WRITERS:
        gap = chance.choice(list(GAPS_MS))
        asked = {"message": message, "gap_ms": gap, "changes": GAPS_MS[gap]}
        writers.append(stage.start("tests.torture.watching:write", url=url, **asked))
    actors = [*(watcher.actor for watcher in watchers), *writers]
    try:
        for actor in actors:
            assert actor.hear() == "ready"
        for writer in writers:
            writer.say("go")
        _trouble(stage, url, chance, watchers, writers, tally)
        acks = [Ack(*each) for writer in writers for each in writer.rest()]
        _end_all(url)
        with open_store(url, durability="process") as store:
            committed = {change.revision: told(change) for change in store.changes()}
        for watcher in watchers:
            if not watcher.by_callbacks and watcher.messages is None:
                watcher.actor.say({"until": max(committed)})
            watcher.collect(watcher.actor.rest())
            assert watcher.actor.wait() == 0, watcher.name
    finally:
        for actor in [*actors, *(watcher.actor for watcher in watchers)]:
            actor.end()
    wrong = unkept(acks, committed)
    for watcher in watchers:
        _check_came_to_the_end(watcher, committed)
        tally.events += sum("event" in note for note in watcher.notes)
        found = errors_in(
            watcher.notes, committed, acks, watcher.messages, by_message=watcher.by_callbacks
        )
        wrong += [f"{watcher.name}: {each}" for each in found]
    tally.wrong += [f"history {seed}: {each}" for each in wrong]


def _check_came_to_the_end(watcher: Watcher, committed: dict[int, list[Any]]) -> None:
    mine = [
        revision
        for revision, change in committed.items()
        if watcher.messages is None or change[1] in watcher.messages
    ]
    assert max(note["mark"] for note in watcher.notes if "mark" in note) >= max(mine)


def _trouble(
    stage: Stage, url: str, chance: random.Random, watchers: list[Watcher],
    writers: list[Actor], tally: Tally,
) -> None:  # fmt: skip
    # Real time: the moments are to have nothing to do with what the others do.
    killed, stopped = watchers[0], watchers[1]
    writer = chance.choice(writers)
    stopped.actor.kill(signal.SIGSTOP)
    time.sleep(chance.random() * 0.1)
    killed.actor.kill()
    killed.collect(killed.actor.rest())
    killed.actor.end()
    writer.kill(signal.SIGSTOP)
    time.sleep(chance.random() * 0.05)
    tally.stops += 2
    tally.kills += 1
    if chance.random() < 0.3:
        writer.kill()
        tally.kills += 1
    writer.kill(signal.SIGCONT)
    since = max((note["mark"] for note in killed.notes if "mark" in note), default=0)
    asked = {"since": since, "limit": None, "pause_ms": 10, "reads": True}
    killed.actor = stage.start("tests.torture.watching:follow", url=url, **asked)
    time.sleep(chance.random() * 0.1)
    stopped.actor.kill(signal.SIGCONT)


def _end_all(url: str) -> None:
    """End what a killed writer has left open, or has not even begun."""
    with open_store(url, durability="process") as store:
        there = {message.message_id for message in store.messages()}
        for name in MESSAGES:
            if name not in there:
                store.add_message("t", "module", status="failed", message_id=name)
            else:
                with suppress(InvalidTransition):
                    store.update_message(name, status="failed")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_history(stage: Stage, tmp_path: Path, backend: str) -> None:
    tally = Tally()
    play_history(stage, tmp_path / "store", backend, 1, tally)
    assert tally.wrong == []
    assert tally.events > 50


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_histories(stage: Stage, tmp_path: Path, backend: str, row: Row) -> None:
    tally = Tally()
    for seed in range(HISTORIES):
        play_history(stage, tmp_path / f"{seed}", backend, seed, tally)
        shutil.rmtree(tmp_path / f"{seed}")
    row(
        "T6 watching: 4 writers, 8 watchers", backend, f"{HISTORIES} histories",
        lost=sum("lost" in each for each in tally.wrong),
        unreadable=0,
        events=tally.events,
        kills=tally.kills,
        stops=tally.stops,
        **{
            name: sum(f"{name}:" in each for each in tally.wrong)
            for name in ERRORS
            if name != "lost"
        },
    )  # fmt: skip
    assert tally.wrong == []


def test_a_careless_watcher_is_found(stage: Stage, tmp_path: Path) -> None:
    """What the checker is for: its cursor is a look further than its changes."""
    url = url_in(tmp_path, "sqlite")
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        for number in range(5):
            store.add_message("t", "module", message_id=f"m{number}")
        committed = {change.revision: told(change) for change in store.changes()}
    how: dict[str, Any] = {"since": 0, "limit": 3, "pause_ms": 0, "reads": False, "careless": True}
    actor = stage.start("tests.torture.watching:follow", url=url, **how)
    actor.say({"until": 5})
    notes = [each for each in actor.rest() if each != "ready"]
    actor.end()
    assert errors_in(notes, committed) == ["lost: [4, 5], and the mark is 5"]
