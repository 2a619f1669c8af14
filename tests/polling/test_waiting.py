"""Waiting is not deciding (promise 7): wait, wait_all, wait_any, watch."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pytest_claude_comms.clock import Wakeup
from pytest_claude_comms.errors import ClockDeadlock, StoreBusy, WaitTimeout
from pytest_claude_comms.following import Follower
from pytest_claude_comms.polling import MessagePoller, poll_message_until_complete
from pytest_claude_comms.records import Change
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.tracking import Event, StatusTracker
from pytest_claude_comms.wait_page import PollerState, awaited, wait_timeout


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryConversationStore]:
    with MemoryConversationStore(clock=clock) as store:
        store.create_thread("PDF schema", thread_id="t")
        yield store


@pytest.fixture
def poller(store: MemoryConversationStore) -> MessagePoller:
    return MessagePoller(store)


def add(store: MemoryConversationStore, *names: str, **more: Any) -> None:
    for name in names:
        store.add_message("t", "x", message_id=name, **{"status": "pending", **more})


@pytest.mark.parametrize("status", ["complete", "failed", "timeout", "cancelled"])
def test_wait_returns_at_any_end_and_at_once(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller, status: str
) -> None:
    add(store, "m")
    clock.at(3, store.update_message, "m", status="processing")
    clock.at(7, store.update_message, "m", status=status)
    tracker = poller.wait("m", timeout=60)
    assert tracker.status == status
    assert clock.elapsed == 7
    assert poller.wait("m", timeout=0) is tracker


def test_wait_before_the_message_exists(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    clock.at(2, add, store, "m", status="complete")
    assert poller.wait("m").statuses == ["complete"]
    assert clock.elapsed == 2


def test_patience_ends_in_wait_timeout_and_leaves_the_message_alone(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "m")
    clock.at(3, store.update_message, "m", status="processing")
    clock.at(3.4, store.update_message, "m", append="x" * 1204)
    with pytest.raises(WaitTimeout) as caught:
        poller.wait("m", timeout=30)
    assert str(caught.value).splitlines() == [
        'message m (thread "PDF schema") did not reach a terminal status within 30.0 s',
        "  now      2026-01-01T00:00:30Z (fake clock, 3 jumps)",
        "  status   processing for 27.0 s, 1,204 characters",
        "  history  #1   +0.0 s  pending",
        "           #2   +3.0 s  pending -> processing",
        "           #3   +3.4 s  content 1,204",
        "  poller   4 polls, cursor 3, last change 26.6 s ago",
        "  hint     no deadline is set on this message: if its writer is gone, nothing will end it",
    ]
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.message_ids, caught.value.timeout) == (("m",), 30)
    assert store.cursor() == 3
    assert clock.elapsed == 30


def test_the_page_for_a_message_that_is_not_there(poller: MessagePoller) -> None:
    with pytest.raises(WaitTimeout) as caught:
        poller.wait("\x1b[31mm", timeout=0.05)
    lines = str(caught.value).splitlines()
    assert lines[0] == r"message \x1b[31mm did not reach a terminal status within 0.05 s"
    assert lines[2] == "  status   unknown: the message does not exist"
    assert lines[3] == "  history  nothing yet"
    assert lines[-1].startswith("  hint     nobody has added a message with this id;")


def test_the_page_tells_of_a_deadline_to_come(
    store: MemoryConversationStore, poller: MessagePoller
) -> None:
    add(store, "m", timeout=90)
    with pytest.raises(WaitTimeout) as caught:
        poller.wait("m", timeout=60)
    assert str(caught.value).splitlines()[-1] == (
        "  hint     its own deadline comes at 2026-01-01T00:01:30Z, after this patience ended"
    )


def test_the_page_tells_of_a_deadline_that_is_past(clock: FakeClock) -> None:
    class Unwritable(MemoryConversationStore):
        def expire(self) -> list[Any]:
            raise StoreBusy("/comms.db", 5)

    with Unwritable(clock=clock) as store:
        store.create_thread(thread_id="t")
        add(store, "m", timeout=30)
        with pytest.raises(WaitTimeout) as caught:
            MessagePoller(store).wait("m", timeout=40)
    assert str(caught.value).splitlines()[-1] == (
        "  hint     its own deadline came at 2026-01-01T00:00:30Z, "
        "and the store could not settle it"
    )


def test_the_page_is_of_one_moment(
    store: MemoryConversationStore,
    clock: FakeClock,
    poller: MessagePoller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A message that ends while the page is made ends for the next wait."""
    add(store, "m")
    real = MessagePoller._state

    def state(self: MessagePoller) -> PollerState:
        store.update_message("m", status="complete")
        clock.spawn(poller.poll_once)
        clock.sleep(1)
        return real(self)

    monkeypatch.setattr(MessagePoller, "_state", state)
    with pytest.raises(WaitTimeout, match="status   pending for 6.0 s") as caught:
        poller.wait("m", timeout=5)
    assert caught.value.message_ids == ("m",)
    assert poller.wait("m", timeout=0).status == "complete"


def test_the_page_of_a_message_that_changes_meanwhile(store: MemoryConversationStore) -> None:
    """It comes in the midst of what tells how it stands."""
    coming = ["processing", "complete"]

    class Late(StatusTracker):
        @property
        def history(self) -> list[Change]:
            found = super().history
            if coming:
                store.update_message("m", status=coming.pop(0))
                self.apply(store.changes(self.revision).items[0])
            return found

    add(store, "m")
    tracker = Late("m")
    tracker.apply(store.changes().items[0])
    page = str(wait_timeout(store, [tracker], 5, PollerState(1, 1, in_trouble=False)))
    assert "  status   processing for 0.0 s, 0 characters\n" in page
    assert tracker.is_terminal


def test_a_last_poll_is_made_before_wait_timeout(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    """What is written at the very instant at which patience ends is still seen."""
    add(store, "m")
    clock.at(5, store.update_message, "m", status="complete")
    assert poller.wait("m", timeout=5).status == "complete"
    assert clock.elapsed == 5


def test_broken_version_without_the_last_poll(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Follower.look_patiently

    def hasty(self: Follower, *args: Any, **kwargs: Any) -> None:
        if clock.elapsed < 5:
            looks(self, *args, **kwargs)

    monkeypatch.setattr(Follower, "look_patiently", hasty)
    with pytest.raises(WaitTimeout):
        test_a_last_poll_is_made_before_wait_timeout(store, clock, MessagePoller(store))


def test_patience_of_nothing_looks_once(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "m")
    with pytest.raises(WaitTimeout, match=r"within 0\.0 s\n"):
        poller.wait("m", timeout=0)
    store.update_message("m", status="complete")
    assert poller.wait("m", timeout=0).is_terminal
    assert clock.elapsed == 0


@pytest.mark.parametrize("timeout", [-1, math.nan, math.inf, -math.inf])
def test_a_patience_that_is_none_is_refused_before_anything_is_tracked(
    poller: MessagePoller, timeout: float
) -> None:
    for wait in (poller.wait, poller.watch):
        with pytest.raises(ValueError, match="^timeout must be between 0 and 1e11 seconds"):
            wait("m", timeout)
    for wait_more in (poller.wait_all, poller.wait_any):
        with pytest.raises(ValueError, match="^timeout must be between"):
            wait_more(["m"], timeout)
    with pytest.raises(TypeError, match="^timeout must be a number of seconds, not '3'$"):
        poller.wait("m", "3")  # type: ignore[arg-type]
    assert repr(poller).endswith("0 tracked>")


def test_wait_all_returns_in_the_order_given(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "a", "b", "c")
    for second, name in enumerate("cab", 1):
        clock.at(second, store.update_message, name, status="complete")
    trackers = poller.wait_all(iter(["b", "c", "a", "b"]))
    assert [tracker.message_id for tracker in trackers] == ["b", "c", "a", "b"]
    assert clock.elapsed == 3
    assert poller.wait_all([]) == []
    assert poller.wait_all([], timeout=0) == []


def test_wait_all_says_who_is_missing(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "a", "b")
    clock.at(1, store.update_message, "a", status="complete")
    with pytest.raises(WaitTimeout) as caught:
        poller.wait_all(["a", "b", "nobody"], timeout=2)
    assert caught.value.message_ids == ("b", "nobody")
    lines = str(caught.value).splitlines()
    assert lines[0] == (
        '2 of 3 messages, the first message b (thread "PDF schema"), did not reach a terminal '
        "status within 2.0 s"
    )
    assert "  waiting  b pending" in lines
    assert "           nobody unknown" in lines


def test_wait_any_returns_the_first_by_revision(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "a", "b", "c")

    def both() -> None:
        store.update_message("c", status="failed")
        store.update_message("a", status="complete")

    clock.at(4, both)
    assert poller.wait_any(["a", "b", "c"]).message_id == "c"
    assert clock.elapsed == 4
    store.update_message("c", metadata={"late": True})
    assert poller.wait_any(["a", "b", "c"]).message_id == "c", "metadata is no end"
    with pytest.raises(ValueError, match="^wait_any.. needs at least one message to wait for$"):
        poller.wait_any([])
    with pytest.raises(WaitTimeout):
        poller.wait_any(["b"], timeout=1)


@pytest.mark.parametrize("one", ["m", {"message_id": "m"}, None])
def test_one_message_for_several_is_refused(
    store: MemoryConversationStore, poller: MessagePoller, one: Any
) -> None:
    if one is None:
        one = store.add_message(store.create_thread(), "marker", message_id="m")
    for wait in (poller.wait_all, poller.wait_any):
        with pytest.raises(TypeError, match="^expected several messages, not one: ") as caught:
            wait(one)
        assert str(caught.value).endswith(f": {one!r}")


@pytest.mark.parametrize("several", [["m", "n"], ("m",), {"m"}])
def test_several_messages_for_one_are_refused(poller: MessagePoller, several: Any) -> None:
    said = (
        "a message is a Message, its id or a dict with 'message_id', not a "
        f"{type(several).__name__} of {len(several)}; "
    )
    for wait, way_out in (
        (poller.wait, "what takes several is wait_all(…)"),
        (partial(drained, poller.watch), "what takes several is a watch of each"),
        (partial(run_async, poller.wait_async), "what takes several is wait_all_async(…)"),
        (partial(run_async, poller.watch_async), "what takes several is a watch of each"),
    ):
        with pytest.raises(TypeError) as caught:
            wait(several)
        assert str(caught.value) == said + way_out


def drained(watch: Any, message: Any) -> None:
    list(watch(message))


def run_async(call: Any, message: Any) -> None:
    async def run() -> None:
        found = call(message)
        await (found.__anext__() if hasattr(found, "__anext__") else found)

    asyncio.run(run())


def test_watch_yields_history_first_and_ends_after_the_end(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "m")
    clock.at(1, store.update_message, "m", status="processing")
    clock.at(2, store.update_message, "m", append="x")
    clock.at(5, store.update_message, "m", status="complete")
    clock.at(5, store.update_message, "m", metadata={"after": "the end"})
    seen = [(clock.elapsed, event.revision, event.kind) for event in poller.watch("m", timeout=9)]
    assert seen == [(0, 1, "created"), (1, 2, "status"), (2, 3, "content"), (5, 4, "status")]
    assert [event.revision for event in poller.watch("m", timeout=0)] == [1, 2, 3, 4]


def test_the_patience_of_watch_is_for_all_of_it_and_starts_with_the_call(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "m")
    events = poller.watch("m", timeout=10)
    clock.advance(4)
    assert next(events).revision == 1
    for second in (5, 9):
        clock.at(second, store.update_message, "m", append="x")
    assert [next(events).revision, next(events).revision] == [2, 3]
    with pytest.raises(WaitTimeout):
        next(events)
    assert clock.elapsed == 10


def test_wait_without_patience_for_what_never_comes_is_a_deadlock(
    store: MemoryConversationStore, poller: MessagePoller
) -> None:
    add(store, "m")
    with pytest.raises(
        ClockDeadlock, match=r"the test waits for message m \(pending\) to end since"
    ):
        poller.wait("m")
    with pytest.raises(ClockDeadlock, match=r"message m \(pending\) and 1 more to end"):
        poller.wait_all(["m", "n"])


def test_wait_in_a_callback_and_in_actors(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "a", "b")
    seen: list[tuple[str, float]] = []
    poller.track("a", on_complete=lambda event: seen.append((str(poller.wait("b")), clock.elapsed)))
    clock.spawn(lambda: seen.append((poller.wait("a").message_id, clock.elapsed)))
    clock.at(1, store.update_message, "a", status="complete")
    clock.at(2, store.update_message, "b", status="complete")
    clock.run_until_idle()
    poller.flush()
    assert seen == [("a", 1), ("<StatusTracker 'b': pending -> complete>", 2)]


def test_the_same_wait_with_a_started_poller(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, "m")
    clock.at(3, store.update_message, "m", status="complete")
    with MessagePoller(store) as poller:
        assert poller.wait("m", timeout=9).is_terminal
        assert clock.elapsed == 3


def test_poll_message_until_complete(store: MemoryConversationStore, clock: FakeClock) -> None:
    add(store, "m")
    clock.at(3, store.update_message, "m", status="failed", error="no")
    message = poll_message_until_complete(store, "m", timeout=5)
    assert (message.status, message.error, message) == ("failed", "no", store.get_message("m"))
    add(store, "n")
    with pytest.raises(WaitTimeout):
        poll_message_until_complete(store, "n", timeout=5)


# -- the lost wake-up


def test_a_commit_between_the_look_and_the_wait_ends_the_wait(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    """At every point of a wait at which the store is asked something, somebody writes."""
    for place in range(1, 8):
        name = f"m{place}"
        add(store, name)
        calls = [0]

        poller = MessagePoller(store)
        real = store.changes

        def changes(*args: Any, **kwargs: Any) -> Any:
            found = real(*args, **kwargs)
            calls[0] += 1
            if calls[0] == place:
                store.update_message(name, status="complete")
            return found

        store.changes = changes  # type: ignore[method-assign]
        before = clock.elapsed
        try:
            if place <= 2:
                assert poller.wait(name, timeout=100).is_terminal
                assert clock.elapsed == before
            else:
                with pytest.raises(WaitTimeout):
                    poller.wait(name, timeout=100)
        finally:
            store.changes = real  # type: ignore[method-assign]


def test_broken_version_subscribing_after_the_look_loses_the_wake_up(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "listen", lambda self, signal: lambda: None)
    add(store, "m")
    poller = MessagePoller(store)
    clock.at(1, store.update_message, "m", status="complete")
    assert poller.wait("m", timeout=100).is_terminal
    assert clock.elapsed == 100, "only the last poll saw it"


def test_no_wake_up_is_lost_among_real_threads() -> None:
    """Each of many waits ends by the commit, not by its beat: that one is an hour away."""
    with MemoryConversationStore() as store:
        store.create_thread(thread_id="t")
        poller = MessagePoller(store, interval=3600)
        for number in range(200):
            name = f"m{number}"
            add(store, name)
            begun = threading.Barrier(3)
            ended: list[str] = []

            def waits() -> None:
                begun.wait()
                ended.append(str(poller.wait(name).status))

            threads = [threading.Thread(target=waits, daemon=True) for _ in range(2)]
            for thread in threads:
                thread.start()
            begun.wait()
            store.update_message(name, status="complete")
            for thread in threads:
                thread.join(60)
            assert ended == ["complete"] * 2, f"lost in round {number}"


# -- in an event loop


def test_a_wait_that_holds_up_the_event_loop_says_so(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    async def with_patience() -> None:
        poller.wait("m", timeout=5)

    async def without() -> None:
        poller.wait("m")

    with pytest.raises(WaitTimeout) as timeout:
        asyncio.run(with_patience())
    assert str(timeout.value).splitlines()[-1] == (
        "           this wait holds up the running event loop: await wait_async(…) or its like "
        "instead"
    )
    with pytest.raises(
        ClockDeadlock,
        match=r"message m \(unknown\) to end \(this holds up the running event loop: await wait",
    ):
        asyncio.run(without())


def test_a_wait_outside_of_any_loop_does_not(
    poller: MessagePoller,
) -> None:
    with pytest.raises(WaitTimeout) as caught:
        poller.wait("m", timeout=5)
    assert "event loop" not in str(caught.value)


def test_what_a_wait_is_for_is_said_of_what_is_still_open(
    store: MemoryConversationStore, poller: MessagePoller
) -> None:
    """Asked by whoever tells of all that wait, also just before this one is woken."""
    add(store, "a", "b\n")
    trackers = [poller.track("a"), poller.track("b\n")]
    assert awaited(trackers) == "message a (pending) and 1 more to end"
    store.update_message("a", status="complete")
    poller.poll_once()
    assert awaited(trackers) == r"message b\n (pending) to end"
    store.update_message("b\n", status="complete")
    poller.poll_once()
    assert awaited(trackers) == "a change"


# -- one instant, and who comes when in it


def test_who_is_woken_at_the_instant_of_a_deadline_leaves_it_to_who_writes_then(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    """The writer is a callback for what woke the waiter."""
    add(store, "n")
    add(store, "m", timeout=30)
    poller.track("n", on_complete=lambda event: store.update_message("m", status="complete"))
    clock.at(30, store.update_message, "n", status="complete")
    assert poller.wait("m").status == "complete"
    assert clock.elapsed == 30


def test_and_settles_it_at_that_instant_if_nobody_does(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "n")
    add(store, "m", timeout=30)
    clock.at(30, store.update_message, "n", status="complete")
    assert poller.wait("m").status == "timeout"
    assert clock.elapsed == 30


def test_patience_does_not_end_before_its_instant_is_over(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "m", "n")
    poller.track("n", on_complete=lambda event: store.update_message("m", status="complete"))
    clock.at(30, store.update_message, "n", status="complete")
    assert poller.wait("m", timeout=30).status == "complete"
    assert clock.elapsed == 30


def test_an_end_that_another_is_in_the_midst_of_reading_is_not_missed(
    store: MemoryConversationStore,
    clock: FakeClock,
    poller: MessagePoller,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes between a wait's look and its question whether one has ended."""
    add(store, "m", "n")
    real_look, real_apply = Follower.look_patiently, StatusTracker.apply

    def slow(self: StatusTracker, change: Change) -> Event | None:
        if change.status.is_terminal:
            clock.sleep(2)
        return real_apply(self, change)

    def look(self: Follower, *args: Any, **kwargs: Any) -> None:
        real_look(self, *args, **kwargs)
        if clock.elapsed == 1:
            store.update_message("m", status="complete")
            clock.spawn(poller.poll_once)
            clock.sleep(1)

    monkeypatch.setattr(StatusTracker, "apply", slow)
    monkeypatch.setattr(Follower, "look_patiently", look)
    clock.at(1, store.update_message, "n", append="x")
    assert poller.wait_any(["m", "n"], timeout=60).message_id == "m"
    assert clock.elapsed == 3


def test_the_end_of_another_message_is_not_taken_for_one_that_is_awaited(
    store: MemoryConversationStore, clock: FakeClock, poller: MessagePoller
) -> None:
    add(store, "a", "b", "c")
    for name in "bc":
        poller.track(name)
    clock.at(1, store.update_message, "b", status="complete")
    clock.at(2, store.update_message, "a", status="complete")
    assert poller.wait_any(["a"], timeout=60).message_id == "a"
    assert clock.elapsed == 2


# -- who else is told


class Silent(MemoryConversationStore):
    """As a store that another process writes: nothing is heard of its commits."""

    notifies = False

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


def test_a_store_that_does_not_notify_is_looked_at(clock: FakeClock) -> None:
    with Silent(clock=clock) as store:
        store.create_thread(thread_id="t")
        add(store, "m")
        clock.at(2.5, store.update_message, "m", status="complete")
        clock.at(9, lambda: None)
        assert MessagePoller(store, interval=1).wait("m").is_terminal
        assert clock.elapsed == 3


def test_what_one_look_finds_ends_the_waits_of_others(clock: FakeClock) -> None:
    with Silent(clock=clock) as store:
        store.create_thread(thread_id="t")
        add(store, "m")
        poller = MessagePoller(store, interval=10)
        ended: list[float] = []

        def waits() -> None:
            poller.wait("m")
            ended.append(clock.elapsed)

        clock.spawn(waits)
        clock.at(2, store.update_message, "m", status="complete")
        clock.at(3, poller.poll_once)
        clock.at(20, lambda: None)
        clock.run_until_idle()
        assert ended == [3]


def test_a_wait_that_is_over_hears_no_more() -> None:
    heard: list[Heard] = []
    subscribed: list[object] = []

    class Heard:
        def __init__(self, inner: Wakeup) -> None:
            self.wait = inner.wait
            self._inner = inner

        def set(self) -> None:
            heard.append(self)
            self._inner.set()

    class Listening(FakeClock):
        def wakeup(self, *, polls: bool = False) -> Wakeup:
            return Heard(super().wakeup(polls=polls))

    class Listened(MemoryConversationStore):
        def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
            subscribed.append(wake)
            unsubscribe = super().subscribe(wake)

            def forget() -> None:
                subscribed.remove(wake)
                unsubscribe()

            return forget

    with Listening() as clock, Listened(clock=clock) as store:
        store.create_thread(thread_id="t")
        add(store, "m", "n")
        poller = MessagePoller(store)
        clock.at(1, store.update_message, "m", status="complete")
        poller.wait("m")
        assert subscribed == []
        heard.clear()
        poller.track("n")
        store.update_message("n", status="complete")
        assert len(poller.poll_once()) == 1
        assert heard == []


# -- the page


def test_a_failure_shows_the_line_that_waits_and_none_of_ours(poller: MessagePoller) -> None:
    for wait in (
        lambda: poller.wait("m", 1),
        lambda: poller.wait_all(["m"], 1),
        lambda: poller.wait_any(["m"], 1),
    ):
        with pytest.raises(WaitTimeout) as caught:
            wait()
        shown = {str(entry.path) for entry in caught.traceback.filter(caught)}
        assert shown == {__file__}


def test_of_many_that_are_missing_twenty_are_named(
    store: MemoryConversationStore, poller: MessagePoller
) -> None:
    names = [f"m{number}" for number in range(25)]
    add(store, *names)
    with pytest.raises(WaitTimeout) as caught:
        poller.wait_all(names, timeout=1)
    lines = str(caught.value).splitlines()
    first = next(place for place, line in enumerate(lines) if "waiting  " in line)
    last = next(place for place, line in enumerate(lines) if "poller   " in line)
    named = [line.split()[-2] for line in lines[first:last]]
    assert named == names[:20]
    assert caught.value.message_ids == tuple(names), "the error has them all"


def test_the_page_after_one_poll(store: MemoryConversationStore, poller: MessagePoller) -> None:
    add(store, "m")
    with pytest.raises(WaitTimeout) as caught:
        poller.wait("m", timeout=0)
    assert "  poller   1 poll, cursor 1, last change 0.0 s ago" in str(caught.value).splitlines()


def test_the_page_of_a_thread_without_a_title(
    store: MemoryConversationStore, poller: MessagePoller
) -> None:
    store.create_thread(thread_id="untitled")
    store.add_message("untitled", "x", status="pending", message_id="m")
    with pytest.raises(WaitTimeout, match="^message m did not reach a terminal status within"):
        poller.wait("m", timeout=1)


def test_the_page_of_a_store_that_answers_changes_only(clock: FakeClock) -> None:
    class Half(MemoryConversationStore):
        not_promised = ("G3: revisions of changes made elsewhere", "G9: more")

        def get_thread(self, thread: object) -> Any:
            raise StoreBusy("/comms.db", 5)

        def get_message(self, message: object) -> Any:
            raise StoreBusy("/comms.db", 5)

    with Half(clock=clock) as store:
        MemoryConversationStore.create_thread(store, "PDF schema", thread_id="t")
        add(store, "m")
        with pytest.raises(WaitTimeout) as caught:
            MessagePoller(store).wait("m", timeout=1)
    lines = str(caught.value).splitlines()
    assert lines[0] == "message m did not reach a terminal status within 1.0 s"
    assert lines[-4:] == [
        "  store    memory:, which does not promise all:",
        "           G3: revisions of changes made elsewhere",
        "           G9: more",
        "  hint     the store cannot be read: /comms.db was busy for 5 s: another process or "
        "connection holds its write lock; nothing was changed, try again",
    ]


def test_what_is_awaited_when_all_have_ended_meanwhile(
    store: MemoryConversationStore, poller: MessagePoller
) -> None:
    """A clock asks what a wait is for when it likes."""
    add(store, "m", status="complete")
    assert awaited([poller.track("m")]) == "a change"
