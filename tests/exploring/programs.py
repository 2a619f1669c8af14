"""Programs on the real stores, pollers and callbacks that hold in every schedule."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from pytest_claude_comms.errors import InvalidTransition, WaitTimeout
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores import open_store
from pytest_claude_comms.stores.base import ConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.tracking import Event, StatusTracker

BACKENDS = ("memory", "tinydb", "sqlite")


def opened(stack: ExitStack, backend: str, clock: FakeClock) -> ConversationStore:
    if backend == "memory":
        return stack.enter_context(open_store("memory:", clock=clock))
    folder = Path(stack.enter_context(TemporaryDirectory()))
    url = f"{backend}:///{folder / 'store'}"
    return stack.enter_context(open_store(url, clock=clock, durability="process"))


def pending(store: ConversationStore, *names: str, timeout: float | None = None) -> None:
    store.create_thread("demo", thread_id="t")
    for name in names:
        store.add_message("t", "m", status="pending", message_id=name, timeout=timeout)


def revisions(tracker: StatusTracker) -> list[int]:
    return [change.revision for change in tracker.history]


def cancel_and_complete(clock: FakeClock, backend: str) -> None:
    """Exactly one of three ends a message; the others are told which status stands."""
    with ExitStack() as stack:
        store = opened(stack, backend, clock)
        pending(store, "m", timeout=30)
        refused: list[InvalidTransition] = []

        def ends(status: str) -> None:
            try:
                store.update_message("m", append=status)
                store.update_message("m", status=status)
            except InvalidTransition as error:
                refused.append(error)

        for status in ("complete", "cancelled", "failed"):
            clock.spawn(ends, status)
        tracker = MessagePoller(store).wait("m", timeout=60)
        clock.run_until_idle()
        terminal = [c for c in store.changes(message="m") if c.status.is_terminal]
        assert len(terminal) == 1, terminal
        assert tracker.status == terminal[0].status == store.get_message("m").status
        assert len(refused) == 2
        assert {str(error.status) for error in refused} == {str(tracker.status)}
        assert clock.elapsed == 0


def wait_before_create(clock: FakeClock, backend: str) -> None:
    """Whoever waits for what is not there yet misses nothing of it."""
    with ExitStack() as stack:
        store = opened(stack, backend, clock)
        poller = MessagePoller(store)
        waited: list[StatusTracker] = []

        def waits() -> None:
            waited.append(poller.wait("m", timeout=60))

        def creates() -> None:
            pending(store, "m")
            store.update_message("m", status="processing")
            store.update_message("m", append="text")
            store.update_message("m", status="complete")

        waiting = [clock.spawn(waits), clock.spawn(waits)]
        clock.spawn(creates)
        for each in waiting:
            each.join()
        assert [tracker.statuses for tracker in waited] == [
            ["pending", "processing", "complete"]
        ] * 2
        assert revisions(waited[0]) == [1, 2, 3, 4]
        assert clock.elapsed == 0


def callback_that_tracks(clock: FakeClock, backend: str) -> None:
    """A callback follows another message; each callback gets each event once, in order."""
    with ExitStack() as stack:
        store = opened(stack, backend, clock)
        pending(store, "a", "b")
        told: dict[str, list[int]] = {"a": [], "b": [], "again": []}
        poller = MessagePoller(store)

        def hears_a(event: Event) -> None:
            told["a"].append(event.revision)
            if event.status == "processing":
                poller.track("b", on_event=lambda each: told["b"].append(each.revision))
                poller.track("a", on_event=lambda each: told["again"].append(each.revision))

        def writes(name: str) -> None:
            for status in ("processing", "complete"):
                store.update_message(name, status=status)

        with poller:
            poller.track("a", on_event=hears_a)
            clock.spawn(writes, "a")
            clock.spawn(writes, "b")
            poller.wait_all(["a", "b"], timeout=60)
            poller.flush()
        for name in ("a", "b"):
            assert told[name] == [c.revision for c in store.changes(message=name)], told
        assert told["again"] == told["a"]
        assert poller.cursor == store.cursor()


def two_pollers_and_a_deadline(clock: FakeClock, backend: str) -> None:
    """A message times out once, whoever notices; a write at that very instant counts."""
    with ExitStack() as stack:
        store = opened(stack, backend, clock)
        pending(store, "late", "in time", timeout=10)
        trackers: list[StatusTracker] = []

        def waits(poller: MessagePoller) -> None:
            trackers.extend(poller.wait_all(["late", "in time"], timeout=20))

        first, second = MessagePoller(store), MessagePoller(store)
        with first:
            waiting = [clock.spawn(waits, each) for each in (first, second, second)]
            clock.at(10, store.update_message, "in time", status="complete")
            clock.at(9, store.expire)
            for each in waiting:
                each.join()
        assert clock.elapsed == 10
        for tracker in trackers:
            expected = "timeout" if tracker.message_id == "late" else "complete"
            assert tracker.statuses == ["pending", expected]
        ends = [c.message_id for c in store.changes() if c.status.is_terminal]
        assert sorted(ends) == ["in time", "late"]


def patience_and_a_late_end(clock: FakeClock, backend: str) -> None:
    """Who has no patience left leaves the message alone; who has, gets its end."""
    with ExitStack() as stack:
        store = opened(stack, backend, clock)
        pending(store, "m")
        poller = MessagePoller(store)
        out: list[str] = []

        def waits(timeout: float) -> None:
            try:
                out.append(str(poller.wait("m", timeout=timeout).status))
            except WaitTimeout:
                out.append("no patience")

        for timeout in (3, 5, 8):
            clock.spawn(waits, timeout)
        clock.at(5, store.update_message, "m", status="complete")
        clock.run_until_idle()
        assert sorted(out) == ["complete", "complete", "no patience"]
        assert len(store.changes()) == 2


def many_writers(clock: FakeClock, backend: str) -> None:
    """A poller that looks at any time sees each revision once, in order, and all of them."""
    with ExitStack() as stack:
        store = opened(stack, backend, clock)
        pending(store, "a", "b")
        poller = MessagePoller(store)
        seen: list[int] = []

        def writes(name: str, mark: str) -> None:
            for _ in range(2):
                store.update_message(name, append=mark)

        def looks() -> None:
            for _ in range(3):
                seen.extend(event.revision for event in poller.poll_once())

        poller.track("a")
        poller.track("b")
        for name in ("a", "b"):
            clock.spawn(writes, name, "x")
            clock.spawn(writes, name, "y")
        clock.spawn(looks)
        clock.run_until_idle()
        seen.extend(event.revision for event in poller.poll_once())
        assert seen == list(range(3, 11))  # the first two were there when it began to track
        for name in ("a", "b"):
            assert sorted(store.get_message(name).content) == ["x", "x", "y", "y"]


PROGRAMS = (
    cancel_and_complete,
    wait_before_create,
    callback_that_tracks,
    two_pollers_and_a_deadline,
    patience_and_a_late_end,
    many_writers,
)
