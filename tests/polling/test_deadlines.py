"""A message's own deadline is part of the message (promise 7, G7)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from pytest_claude_comms.errors import InvalidTransition, WaitTimeout
from pytest_claude_comms.following import Follower
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores import rules
from pytest_claude_comms.stores.adapted import adapt_store
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def store(clock: FakeClock) -> Iterator[MemoryConversationStore]:
    with MemoryConversationStore(clock=clock) as store:
        store.create_thread(thread_id="t")
        yield store


def add(store: MemoryConversationStore, name: str = "m", **more: Any) -> None:
    store.add_message("t", "x", message_id=name, **{"status": "pending", **more})


def test_timeout_counts_from_creation(store: MemoryConversationStore, clock: FakeClock) -> None:
    clock.advance(5)
    add(store, timeout=30)
    for second in (10, 20, 30):
        clock.at(second, store.update_message, "m", append="x")
    tracker = MessagePoller(store).wait("m", timeout=60)
    assert (clock.elapsed, tracker.status) == (35, "timeout")
    assert tracker.error == "no end within 30 s of its creation"


def test_stall_timeout_is_renewed_by_each_change(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, stall_timeout=10)
    changes: list[dict[str, Any]] = [
        {"status": "processing"},
        {"append": "x"},
        {"metadata": {"a": 1}},
        {"error": "e"},
    ]
    for place, change in enumerate(changes, 1):
        clock.at(9 * place, lambda change=change: store.update_message("m", **change))
    clock.at(40, store.update_message, "m", status="processing")  # restated: no change
    tracker = MessagePoller(store).wait("m")
    assert (clock.elapsed, tracker.status) == (46, "timeout")
    assert tracker.error == "nothing happened for 10 s"


def test_the_earlier_of_both_counts(store: MemoryConversationStore, clock: FakeClock) -> None:
    add(store, "a", timeout=30, stall_timeout=10)
    add(store, "b", timeout=5, stall_timeout=10)
    poller = MessagePoller(store)
    assert poller.wait_any(["a", "b"]).message_id == "b"
    assert clock.elapsed == 5
    poller.wait("a")
    assert clock.elapsed == 10


def test_a_write_at_the_very_instant_counts(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, timeout=30)
    with MessagePoller(store) as poller:
        clock.at(30, store.update_message, "m", status="complete")
        assert poller.wait("m").status == "complete"
    assert clock.elapsed == 30


def test_a_later_write_is_refused_and_settles_it_in_the_same_commit(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, timeout=30)
    clock.advance(30.000001)
    with pytest.raises(InvalidTransition) as caught:
        store.update_message("m", status="complete", append="late")
    assert str(caught.value) == (
        "message 'm' is timeout and cannot become complete: no end within 30 s of its creation, "
        "its deadline is past"
    )
    assert (caught.value.status, caught.value.requested) == ("timeout", "complete")
    assert store.cursor() == 2
    assert (store.get_message("m").status, store.get_message("m").content) == ("timeout", "")


@pytest.mark.parametrize(
    "change", [{"append": "x"}, {"metadata": {"a": 1}}, {"error": None}, {"status": "pending"}, {}]
)
def test_any_late_write_settles_it(
    store: MemoryConversationStore, clock: FakeClock, change: dict[str, Any]
) -> None:
    add(store, timeout=30)
    clock.advance(31)
    with pytest.raises(InvalidTransition):
        store.update_message("m", **change)
    assert store.get_message("m").status == "timeout"


def test_a_refused_late_write_wakes_the_watchers(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    """Also where the poller thought that it had longer to wait."""
    add(store, timeout=30)
    woken: list[float] = []
    store.subscribe(lambda: woken.append(clock.elapsed))
    clock.advance(31)
    with pytest.raises(InvalidTransition):
        store.update_message("m", append="x")
    assert woken == [31]


SETTLERS: dict[str, Callable[[MemoryConversationStore], object]] = {
    "poll_once": lambda store: MessagePoller(store).poll_once(),
    "wait": lambda store: MessagePoller(store).wait("m", timeout=0),
    "watch": lambda store: list(MessagePoller(store).watch("m", timeout=0)),
    "wait for another": lambda store: MessagePoller(store).wait("ended", timeout=0),
    "expire": lambda store: store.expire(),
}


@pytest.mark.parametrize("settler", SETTLERS)
def test_whoever_notices_first_settles_it(
    store: MemoryConversationStore, clock: FakeClock, settler: str
) -> None:
    """The writer never comes back."""
    add(store, timeout=30)
    add(store, "ended", status="complete")
    clock.advance(30)
    SETTLERS[settler](store)
    assert store.get_message("m").status == "timeout"
    assert store.cursor() == 3


def test_reads_never_write(store: MemoryConversationStore, clock: FakeClock) -> None:
    add(store, timeout=30)
    clock.advance(60)
    store.get_message("m")
    store.messages()
    store.messages("t", "pending")
    store.changes()
    store.changes(message="m")
    store.threads()
    store.next_deadline_us()
    MessagePoller(store).track("m")
    assert store.cursor() == 1
    assert store.get_message("m").status == "pending"


def test_a_poller_settles_what_nobody_tracks(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    with MessagePoller(store):
        for number in (3, 1, 2):
            add(store, f"m{number}", timeout=10 * number)
        add(store, "stalls", stall_timeout=15)
        clock.advance(100)
    ended = {m.message_id: (m.status, m.updated_at.second) for m in store.messages()}
    assert ended == {
        "m1": ("timeout", 10),
        "m2": ("timeout", 20),
        "m3": ("timeout", 30),
        "stalls": ("timeout", 15),
    }


def test_an_ended_message_has_no_deadline_to_miss(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, "a", status="complete", timeout=5, stall_timeout=5)
    add(store, "b", timeout=5)
    store.update_message("b", status="cancelled")
    clock.advance(10)
    assert store.expire() == []
    assert store.next_deadline_us() is None
    assert store.cursor() == 3


def test_expire_returns_those_by_deadline(store: MemoryConversationStore, clock: FakeClock) -> None:
    for name, timeout in (("c", 3), ("a", 1), ("b", 1), ("later", 9)):
        add(store, name, timeout=timeout)
    clock.advance(3)
    assert [message.message_id for message in store.expire()] == ["a", "b", "c"]
    assert store.expire() == []


def test_a_deadline_of_nothing_is_the_instant_of_creation(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, timeout=0)
    store.update_message("m", status="processing")
    MessagePoller(store).poll_once()
    assert store.get_message("m").status == "timeout"


def test_no_cost_while_the_earliest_deadline_has_not_come(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        real = getattr(store, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls[name] += 1
            return real(*args, **kwargs)

        setattr(store, name, counted)

    for name in ("changes", "expire", "next_deadline_us"):
        count(name)
    for number in range(100):
        add(store, f"m{number}", timeout=50 + number)
    poller = MessagePoller(store)
    for _ in range(49):
        poller.poll_once()
        clock.advance(1)
    assert calls == {"changes": 49, "next_deadline_us": 1}
    clock.advance(1)
    poller.poll_once()
    assert calls["expire"] == 1


def test_the_next_deadline_is_known_after_one_was_settled(clock: FakeClock) -> None:
    """Also where the store does not notify, and a beat keeps nothing alive."""

    class Silent(MemoryConversationStore):
        notifies = False

        def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
            return lambda: None

    with Silent(clock=clock) as store:
        store.create_thread(thread_id="t")
        add(store, "a", timeout=10)
        add(store, "b", timeout=20)
        tracker = MessagePoller(store, interval=1).wait("b")
        assert (tracker.status, clock.elapsed) == ("timeout", 20)


def test_patience_and_deadline_at_the_same_instant(
    store: MemoryConversationStore, clock: FakeClock
) -> None:
    add(store, timeout=30)
    assert MessagePoller(store).wait("m", timeout=30).status == "timeout"


def test_of_many_settlers_one_wins() -> None:
    with MemoryConversationStore() as store:
        store.create_thread(thread_id="t")
        for number in range(50):
            add(store, f"m{number}", timeout=0)
        pollers = [MessagePoller(store) for _ in range(4)]
        threads = [threading.Thread(target=poller.poll_once) for poller in pollers]
        threads += [threading.Thread(target=store.expire) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.cursor() == 100
        assert {str(message.status) for message in store.messages()} == {"timeout"}


def test_broken_version_a_write_at_the_instant_that_does_not_count(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "is_late", lambda row, now_us: now_us >= row.open_deadline_us)
    with pytest.raises((AssertionError, InvalidTransition)):
        test_a_write_at_the_very_instant_counts(store, clock)


def test_broken_version_without_settling_the_message_stays_open(
    store: MemoryConversationStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "_settle_deadlines", lambda self, **_: False)
    with pytest.raises(AssertionError):
        test_whoever_notices_first_settles_it(store, clock, "poll_once")


def test_a_store_that_leaves_what_is_due_as_it_is_is_asked_again_later(clock: FakeClock) -> None:
    """At once, no time would pass on a fake clock, and a processor would be busy on a real one."""

    class Late(MemoryConversationStore):
        asked = 0

        def expire(self) -> list[Any]:
            self.asked += 1
            return super().expire() if self.clock.now_us() >= due_us + 2_000_000 else []

    with Late(clock=clock) as late:
        late.create_thread(thread_id="t")
        late.add_message("t", "x", message_id="m", status="pending", timeout=1)
        due_us = late.next_deadline_us() or 0
        tracker = MessagePoller(late, interval=0.5).wait("m", timeout=60)
        assert (tracker.status, clock.elapsed, late.asked) == ("timeout", 3, 5)


class Theirs:
    """A store of the original shape, and somebody's own: deadlines are set behind our back."""

    def __init__(self, count: int = 1) -> None:
        self.looks = 0
        self.rows: dict[str, dict[str, Any]] = {
            f"m{number}": {"message_id": f"m{number}", "status": "processing", "content": ""}
            for number in range(count)
        }

    def get_thread(self, thread_id: str) -> dict[str, Any]:
        self.looks += 1
        return {"thread_id": thread_id, "messages": [dict(row) for row in self.rows.values()]}

    def update_message(self, message_id: str, status: str, error: str | None = None) -> None:
        self.rows[message_id].update(status=status, error=error)


def test_a_deadline_that_is_set_later_and_alone_is_settled(clock: FakeClock) -> None:
    """Where nobody tells of it, and there is no change that would show it."""
    theirs = Theirs()
    poller = MessagePoller(adapt_store(theirs, clock=clock, threads=["t"]), interval=1)

    def set_deadline() -> None:
        theirs.rows["m0"]["deadline_at"] = (clock.now() + timedelta(seconds=3)).isoformat()

    clock.at(2, set_deadline)
    clock.at(100, lambda: None)
    tracker = poller.wait("m0", timeout=60)
    assert (tracker.status, clock.elapsed) == ("timeout", 5)


def test_and_to_ask_for_it_looks_at_no_message(clock: FakeClock) -> None:
    theirs = Theirs(1000)
    store = adapt_store(theirs, clock=clock, threads=["t"])
    poller = MessagePoller(store)
    for name in theirs.rows:
        poller.track(name)
    poller.poll_once()
    theirs.looks = 0
    for _ in range(10):
        poller.poll_once()
    assert theirs.looks == 10


@pytest.mark.parametrize("timeout", [3, 60])
def test_the_page_of_a_store_that_cannot_settle_a_deadline(
    clock: FakeClock, timeout: float
) -> None:
    class Unwritable:
        def get_thread(self, thread_id: str) -> dict[str, Any]:
            row = {"message_id": "m", "status": "processing", "deadline_at": deadline}
            return {"thread_id": thread_id, "messages": [row]}

    deadline = (clock.now() + timedelta(seconds=3)).isoformat()
    store = adapt_store(Unwritable(), clock=clock, threads=["t"])
    clock.at(100, lambda: None)
    with pytest.raises(WaitTimeout) as caught:
        MessagePoller(store, interval=1).wait("m", timeout=timeout)
    assert str(caught.value).splitlines()[-1] == (
        "  hint     its own deadline came at 2026-01-01T00:00:03Z, "
        "and the store could not settle it"
    )
