"""T6: real threads, and a checker of histories with a name for each thing that can be wrong."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from pytest_claude_comms.errors import InvalidTransition
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.records import Change
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.tracking import Event, StatusTracker

WRITERS, WATCHERS = 4, 8


def note(told: list[int], event: Event) -> None:
    told.append(event.revision)


def violations(history: list[int], committed: list[int]) -> list[str]:
    """What is wrong with the revisions that a watcher was given, measured by those committed."""
    found = []
    if any(later < earlier for earlier, later in pairwise(history)):
        found.append("ordered")
    if len(set(history)) != len(history):
        found.append("unique")
    if history:
        inside = [each for each in committed if min(history) <= each <= max(history)]
        if set(inside) - set(history):
            found.append("gap-free")
    if committed and (not history or {committed[0], committed[-1]} - set(history)):
        found.append("complete")
    if set(history) - set(committed):
        found.append("real")
    return found


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([1, 2, 3, 4], []),
        ([1, 3, 2, 4], ["ordered"]),
        ([1, 2, 2, 3, 4], ["unique"]),
        ([1, 2, 4], ["gap-free"]),
        ([1, 2, 3], ["complete"]),
        ([], ["complete"]),
        ([1, 2, 3, 4, 5], ["real"]),
    ],
)
def test_the_checker_sees_each_violation(history: list[int], expected: list[str]) -> None:
    assert violations(history, [1, 2, 3, 4]) == expected


def hammer(
    seed: int,
    make: Callable[[MemoryConversationStore], MessagePoller] = MessagePoller,
    steps: int = 60,
) -> dict[str, list[str]]:
    """Writers and watchers at once; what is wrong, by watcher."""
    wrong: dict[str, list[str]] = {}
    names = [f"m{number}" for number in range(WRITERS)]
    with MemoryConversationStore() as store:
        store.create_thread(thread_id="t")
        histories: dict[str, list[int]] = {}
        errors: list[BaseException] = []
        barrier = threading.Barrier(WRITERS + WATCHERS)

        def writes(name: str) -> None:
            rng = random.Random(f"{seed} {name}")
            barrier.wait()
            store.add_message("t", "x", status="pending", message_id=name)
            for _ in range(rng.randrange(steps)):
                store.update_message(name, append="x")
            store.update_message(name, status="processing")
            for _ in range(rng.randrange(steps)):
                store.update_message(name, metadata={"n": rng.random()})
            store.update_message(name, status=rng.choice(["complete", "failed", "cancelled"]))

        def by_callback(key: str) -> None:
            barrier.wait()
            with make(store) as poller:
                for name in names:
                    told: list[int] = []
                    histories[f"{key} {name}"] = told
                    poller.track(name, on_event=partial(note, told))
                poller.wait_all(names, timeout=120)

        def by_watch(key: str) -> None:
            barrier.wait()
            poller = make(store)
            name = names[int(key) % WRITERS]
            seen = [event.revision for event in poller.watch(name, timeout=120)]
            histories[f"{key} {name}"] = seen

        def by_shared(key: str) -> None:
            barrier.wait()
            name = names[int(key) % WRITERS]
            tracker = shared.wait(name, timeout=120)
            histories[f"{key} {name}"] = [change.revision for change in tracker.history]

        def by_hand(key: str) -> None:
            barrier.wait()
            poller = make(store)
            trackers = [poller.track(name) for name in names]
            known = {t.message_id: [c.revision for c in t.history] for t in trackers}
            while not all(tracker.is_terminal for tracker in trackers):
                for event in poller.poll_once():
                    known[event.message_id].append(event.revision)
            for name, seen in known.items():
                histories[f"{key} {name}"] = seen

        def guarded(f: Callable[[str], None], key: str) -> None:
            try:
                f(key)
            except BaseException as error:
                errors.append(error)

        shared = make(store)
        kinds = [by_callback, by_watch, by_shared, by_hand]
        threads = [threading.Thread(target=guarded, args=(writes, name)) for name in names]
        threads += [
            threading.Thread(target=guarded, args=(kinds[number % 4], str(number)))
            for number in range(WATCHERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert errors == []
        revisions = [change.revision for change in store.changes()]
        assert violations(revisions, list(range(1, len(revisions) + 1))) == []
        assert len(histories) == 2 * (WRITERS + 1 + 1 + WRITERS)
        for key, history in histories.items():
            committed = [c.revision for c in store.changes(message=key.split()[1])]
            # What is cut off after the end of a message is not a watcher's to see.
            if found := violations(history, committed):
                wrong[key] = found
    return wrong


@pytest.mark.parametrize("seed", range(10))
def test_nothing_is_wrong_with_any_history(seed: int) -> None:
    assert hammer(seed) == {}


@pytest.mark.long
def test_nothing_is_wrong_with_a_thousand_histories() -> None:
    for seed in range(1_000):
        assert hammer(seed) == {}, f"seed {seed}"


def test_broken_version_a_poller_that_drops_a_change_is_seen() -> None:
    class Lossy(MessagePoller):
        def track(self, message: Any, **callbacks: Any) -> StatusTracker:
            new = message not in self._follower._trackers
            tracker = super().track(message, **callbacks)
            if new:
                real = tracker.apply

                def apply(change: Change) -> Event | None:
                    drop = change.status == change.previous and change.revision % 5 == 0
                    return None if drop else real(change)

                tracker.apply = apply  # type: ignore[method-assign]
            return tracker

    assert any("gap-free" in found for seed in range(3) for found in hammer(seed, Lossy).values())


def race(rounds: int, store_class: type[MemoryConversationStore]) -> list[tuple[int, int, int]]:
    """Writers race to an end: wins, refusals and terminal changes, by round."""
    results = []
    with store_class() as store:
        store.create_thread(thread_id="t")
        for number in range(rounds):
            name = f"m{number}"
            store.add_message("t", "x", status="processing", message_id=name)
            barrier = threading.Barrier(4)
            won: list[str] = []
            lost: list[str] = []

            def ends(status: str) -> None:
                barrier.wait()
                try:
                    store.update_message(name, status=status)
                    won.append(status)
                except InvalidTransition as error:
                    lost.append(str(error.status))

            threads = [
                threading.Thread(target=ends, args=(status,))
                for status in ("complete", "failed", "timeout", "cancelled")
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            terminal = [c for c in store.changes(message=name) if c.status.is_terminal]
            assert set(lost) <= set(won), "the loser is told the status that stands"
            results.append((len(won), len(lost), len(terminal)))
    return results


def test_of_writers_that_race_to_an_end_exactly_one_wins() -> None:
    assert set(race(100, MemoryConversationStore)) == {(1, 3, 1)}


def test_broken_version_a_store_without_its_lock_lets_two_win() -> None:
    """Here the loss is made certain: the check and the write are apart."""

    class Unlocked(MemoryConversationStore):
        def update_message(self, message: Any, **kwargs: Any) -> Any:
            with self._lock:
                row = self._state.message(message)
            gate.wait()  # all have looked before any writes
            with self._lock:
                assert row is not None
                self._state._messages[message] = row
            return super().update_message(message, **kwargs)

    gate = threading.Barrier(4)
    with pytest.raises(AssertionError):
        assert set(race(20, Unlocked)) == {(1, 3, 1)}
