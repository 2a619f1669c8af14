"""Programs with a bug that the order of a fake clock hides. Each takes a clock."""

from __future__ import annotations

import threading
from contextlib import suppress

from pytest_claude_comms.clock import Clock
from pytest_claude_comms.errors import InvalidTransition
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.tracking import Event


def opened(clock: Clock) -> MemoryConversationStore:
    store = MemoryConversationStore(clock=clock)
    store.create_thread("demo", thread_id="t")
    store.add_message("t", "arangodb", status="processing", message_id="answer")
    return store


def lost_wakeup(clock: FakeClock) -> None:
    """It looks, and listens then: a commit in between wakes nobody."""
    with opened(clock) as store:

        def waits() -> None:
            if store.get_message("answer").status != "complete":
                wakeup = clock.wakeup()
                store.subscribe(wakeup.set)
                wakeup.wait(None, why="the answer")

        waiting = clock.spawn(waits)
        clock.spawn(store.update_message, "answer", status="complete")
        waiting.join()


def two_terminals(clock: FakeClock) -> None:
    """Who ends a message looks, tells of its end, and sets it then: of two, both tell."""
    with opened(clock) as store:
        told: list[str] = []

        def ends(status: str) -> None:
            if not store.get_message("answer").status.is_terminal:
                told.append(status)
                with suppress(InvalidTransition):
                    store.update_message("answer", status=status)

        clock.at(30, ends, "complete")
        clock.at(30, ends, "cancelled")
        clock.run_until_idle()
        assert told == [store.get_message("answer").status]


def callback_in_the_middle(clock: FakeClock) -> None:
    """It takes what comes right after the end for something that is there at the end."""
    with opened(clock) as store:
        store.add_message("t", "marker", status="pending", message_id="summary")
        read: list[str] = []

        def on_complete(event: Event) -> None:
            read.append(store.get_message("summary").content)

        def writes() -> None:
            clock.sleep(3)
            store.update_message("answer", status="complete")
            store.update_message("summary", content="all of it", status="complete")

        with MessagePoller(store) as poller:
            poller.track("answer", on_complete=on_complete)
            clock.spawn(writes)
            poller.wait("summary", timeout=60)
        assert read == ["all of it"]


def lost_update(clock: FakeClock) -> None:
    """No operation of a store between the two: only lines are points here."""
    total = [0]

    def adds() -> None:
        before = total[0]
        total[0] = before + 1

    for _ in range(3):
        clock.spawn(adds)
    clock.run_until_idle()
    assert total == [3]


def locked_update(clock: FakeClock) -> None:
    """As ``lost_update``, without the bug."""
    total = [0]
    lock = threading.Lock()

    def adds() -> None:
        with lock:
            before = total[0]
            total[0] = before + 1

    for _ in range(3):
        clock.spawn(adds)
    clock.run_until_idle()
    assert total == [3]
