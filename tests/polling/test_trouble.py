"""A store that is busy, breaks, is closed or has forgotten (promises 4 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_claude_comms.errors import (
    ClockDeadlock,
    HistoryGone,
    StoreBusy,
    StoreClosed,
    StoreError,
    WaitTimeout,
)
from pytest_claude_comms.following import Follower
from pytest_claude_comms.polling import MessagePoller
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from pytest_claude_comms.testing.leaks import pollers_under_way


class Flaky(MemoryConversationStore):
    """Its ``changes`` raises ``error`` as long as ``trouble`` says so."""

    trouble = 0
    error: StoreError = StoreBusy("/comms.db", 5.0)

    def changes(self, *args: Any, **kwargs: Any) -> Any:
        if self.trouble:
            self.trouble -= 1
            raise self.error
        return super().changes(*args, **kwargs)


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def store(clock: FakeClock) -> Iterator[Flaky]:
    with Flaky(clock=clock) as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "x", status="pending", message_id="m")
        yield store


@pytest.mark.parametrize(
    "error", [StoreBusy("/comms.db", 5), StoreError("disk", outcome="unknown")]
)
def test_wait_survives_a_store_in_trouble(
    store: Flaky, clock: FakeClock, error: StoreError
) -> None:
    poller = MessagePoller(store, interval=0.5)
    poller.track("m")
    store.update_message("m", status="complete")
    store.error, store.trouble = error, 5
    assert poller.wait("m").is_terminal, "nothing else is due: it looks again by itself"
    assert clock.elapsed == 2.5


def test_wait_survives_trouble_while_it_begins(store: Flaky, clock: FakeClock) -> None:
    store.trouble = 4
    clock.at(1, store.update_message, "m", status="complete")
    assert MessagePoller(store).wait("m", timeout=9).is_terminal
    assert clock.elapsed == 1


def test_a_wait_for_ever_survives_trouble_while_it_begins(store: Flaky, clock: FakeClock) -> None:
    store.trouble = 4
    clock.at(9, store.update_message, "m", status="complete")
    assert MessagePoller(store, interval=2).wait("m").is_terminal
    assert clock.elapsed == 9


def test_trouble_while_a_wait_begins_with_work_outside(store: Flaky, clock: FakeClock) -> None:
    """Time stands still then, and yet it looks again."""
    store.trouble = 4
    store.update_message("m", status="complete")
    with clock.outside("a child"):
        assert MessagePoller(store).wait("m", timeout=9).is_terminal
    assert clock.elapsed == 0


def test_the_thread_survives_it_and_delivers_what_came_meanwhile(
    store: Flaky, clock: FakeClock
) -> None:
    told: list[tuple[float, int]] = []
    with MessagePoller(store, interval=1) as poller:
        poller.track("m", on_event=lambda event: told.append((clock.elapsed, event.revision)))
        clock.advance(0)
        store.trouble = 10
        clock.at(1, store.update_message, "m", append="x")
        clock.at(2, store.update_message, "m", append="y")
        clock.at(60, store.update_message, "m", status="complete")
        clock.run_until_idle()
    assert [revision for _, revision in told] == [1, 2, 3, 4]
    assert told[-1] == (60, 4)
    assert 8 <= told[1][0] <= 11, "as soon as the store answers again"


def test_patience_ends_in_trouble_too_and_the_page_says_so(store: Flaky, clock: FakeClock) -> None:
    poller = MessagePoller(store)
    poller.track("m")
    store.trouble = 10**6
    with pytest.raises(WaitTimeout, match="the store could not be read at the last poll\n"):
        poller.wait("m", timeout=5)
    assert clock.elapsed == 5


def test_trouble_that_does_not_end_is_raised(store: Flaky, clock: FakeClock) -> None:
    poller = MessagePoller(store)
    poller.track("m")
    store.trouble = 10**6
    with pytest.raises(StoreBusy, match=r"^/comms\.db was busy for 5 s"):
        poller.wait("m")
    assert 60 < clock.elapsed < 61


def test_trouble_that_does_not_end_ends_the_thread_and_the_block_raises(
    store: Flaky, clock: FakeClock
) -> None:
    with pytest.raises(StoreBusy), MessagePoller(store):
        clock.advance(0)
        store.trouble = 10**6
        store.update_message("m", append="x")
        clock.advance(100)


def test_poll_once_raises_what_the_store_raises(store: Flaky) -> None:
    poller = MessagePoller(store)
    poller.track("m")
    store.update_message("m", append="x")
    store.trouble = 1
    with pytest.raises(StoreBusy):
        poller.poll_once()
    assert [event.revision for event in poller.poll_once()] == [2]


FATAL = [StoreClosed("memory:"), HistoryGone("it was replaced", store="memory:", since=1)]


@pytest.mark.parametrize("error", FATAL)
def test_what_is_final_reaches_every_waiter(
    store: Flaky, clock: FakeClock, error: StoreError
) -> None:
    store.error = error
    reached: list[tuple[float, str]] = []

    def waits(name: str) -> None:
        try:
            poller.wait(name)
        except StoreError as caught:
            reached.append((clock.elapsed, str(caught)))

    with MessagePoller(store) as poller:
        for name in ("m", "n", "o"):
            clock.spawn(waits, name)
        clock.advance(1)
        store.trouble = 1  # for one of them, or for the poller's own thread
        store.add_message("t", "x")
        clock.advance(1)
        store.trouble = 10**6
        store.add_message("t", "x")
        clock.advance(1)
        assert [str(error)] * 3 == [text for _, text in reached]


@pytest.mark.parametrize("error", FATAL)
def test_what_is_final_and_nobody_saw_is_raised_at_the_end_of_the_block(
    store: Flaky, clock: FakeClock, error: StoreError
) -> None:
    store.error = error
    with pytest.raises(type(error)) as caught, MessagePoller(store):
        clock.advance(0)
        store.trouble = 1
        store.update_message("m", append="x")
        clock.advance(1)
    assert caught.value is error


def test_what_a_waiter_saw_is_not_raised_again(store: Flaky, clock: FakeClock) -> None:
    store.error = FATAL[1]
    with MessagePoller(store) as poller:
        clock.advance(0)
        store.trouble = 1
        store.update_message("m", append="x")
        clock.advance(1)
        for _ in range(2):
            with pytest.raises(HistoryGone):
                poller.wait("m", timeout=5)
    assert clock.elapsed == 1


def test_a_store_that_is_closed_under_a_waiting_poller(store: Flaky, clock: FakeClock) -> None:
    poller = MessagePoller(store)
    clock.at(3, store.close)
    with pytest.raises(StoreClosed, match="^the store memory: is closed; what it held ended"):
        poller.wait("m", timeout=5)
    with pytest.raises(StoreClosed):
        poller.poll_once()


def test_history_trimmed_behind_the_cursor_is_never_silence(store: Flaky) -> None:
    poller = MessagePoller(store)
    for _ in range(9):
        store.update_message("m", append="x")
    del store._state._changes[:5]
    with pytest.raises(
        HistoryGone, match=r"after revision 1 is gone: changes up to revision 5 were"
    ):
        poller.poll_once()
    with pytest.raises(HistoryGone):
        poller.wait("m", timeout=1)
    with pytest.raises(HistoryGone):
        MessagePoller(store, since=4)
    MessagePoller(store, since=5)


def test_broken_version_a_poller_that_takes_trouble_for_the_end(
    store: Flaky, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touchy(self: Follower, error: StoreError) -> None:
        raise error

    monkeypatch.setattr(Follower, "survive", touchy)
    poller = MessagePoller(store)
    poller.track("m")
    store.trouble = 1
    with pytest.raises(StoreBusy):
        poller.wait("m", timeout=9)


def test_broken_version_a_poller_that_takes_the_end_for_trouble(
    store: Flaky, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(self: Follower, error: StoreError) -> None:
        self._trouble_since_us = 0

    monkeypatch.setattr(Follower, "survive", deaf)
    poller = MessagePoller(store)
    clock.at(1, store.close)
    with pytest.raises(WaitTimeout):
        poller.wait("m", timeout=9)


def test_trouble_that_outlasts_the_patience_before_the_wait_could_begin(
    store: Flaky, clock: FakeClock
) -> None:
    """There is no tracker yet that a WaitTimeout could tell of: the store's own error says why."""
    store.trouble = 10**6
    with pytest.raises(StoreBusy):
        MessagePoller(store, interval=0.5).wait("m", timeout=2)
    assert clock.elapsed == 2
    with pytest.raises(StoreBusy):
        MessagePoller(store).wait("m", timeout=0)
    assert clock.elapsed == 2


def test_the_end_of_the_block_waits_until_the_store_can_be_read(
    store: Flaky, clock: FakeClock
) -> None:
    told: list[int] = []
    with MessagePoller(store, interval=0.5) as poller:
        poller.track("m", on_event=lambda each: told.append(each.revision))
        store.update_message("m", status="complete")
        poller.stop()
        assert told == [1]
        store.trouble = 3
    assert told == [1, 2]
    assert clock.elapsed == 1.5


def test_a_clock_that_stopped_is_told_by_the_block_unless_an_error_is_on_its_way(
    store: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    poller = MessagePoller(store)
    real = poller.stop

    def stop() -> None:
        real()
        raise ClockDeadlock("this fake clock has stopped")

    monkeypatch.setattr(poller, "stop", stop)
    with pytest.raises(ClockDeadlock), poller:
        pass
    with pytest.raises(LookupError, match="mine"), poller:
        raise LookupError("mine")


def test_trouble_is_counted_from_its_beginning(store: Flaky, clock: FakeClock) -> None:
    clock.advance(3600)
    with MessagePoller(store, interval=1) as poller:
        poller.track("m")
        clock.at(3700, lambda: setattr(store, "trouble", 50))
        clock.at(3700, store.update_message, "m", status="complete")
        assert poller.wait("m").is_terminal
    assert 3700 < clock.elapsed <= 3750


def test_who_has_no_patience_does_not_wait_for_a_store_in_trouble(
    store: Flaky, clock: FakeClock
) -> None:
    store.trouble = 1
    with pytest.raises(StoreBusy):
        MessagePoller(store).wait("m", timeout=0)
    assert clock.elapsed == 0


def test_what_ends_the_thread_ends_the_waits_at_once(clock: FakeClock) -> None:
    """Not when they look by themselves."""

    class Silent(Flaky):
        notifies = False

        def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
            return lambda: None

    ended: list[float] = []
    with Silent(clock=clock) as silent, MessagePoller(silent, interval=10) as poller:

        def waits() -> None:
            with pytest.raises(StoreClosed):
                poller.wait("m")
            ended.append(clock.elapsed)

        clock.at(3, waits)
        silent.error = StoreClosed("memory:")
        clock.at(9, lambda: setattr(silent, "trouble", 1))
        clock.at(50, lambda: None)
        clock.run_until_idle()
    assert ended == [10]


def test_a_thread_that_could_not_be_started_is_asked_for_at_the_next_poll() -> None:
    class Poor(FakeClock):
        refuse = False

        def spawn(self, f: Any, /, *args: Any, **kwargs: Any) -> Any:
            if self.refuse:
                raise RuntimeError("can't start new thread")
            return super().spawn(f, *args, **kwargs)

    clock = Poor()
    with clock, MemoryConversationStore(clock=clock) as store:
        store.add_message(store.create_thread(), "x", message_id="m")
        poller = MessagePoller(store)
        told: list[int] = []
        clock.refuse = True
        poller.track("m", on_event=lambda event: told.append(event.revision))
        clock.refuse = False
        clock.advance(1)
        assert told == []
        poller.poll_once()
        clock.advance(0)
        assert told == [1]


def test_the_end_of_the_block_outlasts_trouble(store: Flaky, clock: FakeClock) -> None:
    with MessagePoller(store, interval=0.5) as poller:
        tracker = poller.track("m")
        clock.advance(0)
        store.update_message("m", status="complete")
        store.trouble = 3
    assert tracker.is_terminal
    assert clock.elapsed == 1.5


@pytest.mark.parametrize("error", FATAL)
def test_what_is_final_ends_a_wait_that_has_just_begun(
    store: Flaky, clock: FakeClock, error: StoreError
) -> None:
    store.error, store.trouble = error, 1
    with pytest.raises(type(error)):
        MessagePoller(store).wait("m", timeout=9)
    assert clock.elapsed == 0


def test_an_error_of_the_store_points_from_the_test_to_the_store(store: Flaky) -> None:
    store.error, store.trouble = FATAL[0], 1
    with pytest.raises(StoreClosed) as caught:
        MessagePoller(store).wait("m")
    shown = [entry.name for entry in caught.traceback.filter(caught)]
    assert shown[0] == "test_an_error_of_the_store_points_from_the_test_to_the_store"
    assert shown[-1] == "changes"
    assert not {"wait", "_run", "drive", "steps"} & set(shown)


def test_trouble_is_over_with_any_look_that_succeeds(store: Flaky, clock: FakeClock) -> None:
    """Also with one that raises what it meets; a minute later it would be the same trouble."""
    poller = MessagePoller(store, interval=1)
    poller.track("m")
    store.trouble = 10**6
    with pytest.raises(WaitTimeout):
        poller.wait("m", timeout=3)
    store.trouble = 0
    for _ in range(10):
        clock.advance(10)
        poller.poll_once()
    clock.at(105, lambda: setattr(store, "trouble", 0))
    store.trouble = 10**6
    clock.at(106, store.update_message, "m", status="complete")
    assert poller.wait("m").is_terminal
    assert clock.elapsed == 106


def test_a_wait_that_could_not_begin_outlasts_no_patience(store: Flaky, clock: FakeClock) -> None:
    store.trouble = 10**6
    with pytest.raises(StoreBusy):
        MessagePoller(store, interval=2).wait("m", timeout=0.5)
    assert clock.elapsed == 0.5
    clock.at(5, lambda: setattr(store, "trouble", 0))
    with pytest.raises(WaitTimeout):
        MessagePoller(store, interval=2).wait("m", timeout=5.5)
    assert clock.elapsed == 6


# -- begun again


@pytest.mark.parametrize("error", FATAL)
def test_what_ended_one_thread_is_not_told_of_the_next(
    store: Flaky, clock: FakeClock, error: StoreError
) -> None:
    """The store has recovered since."""
    store.error = error
    poller = MessagePoller(store)
    tracker = poller.track("m")
    poller.start()
    clock.advance(0)
    store.trouble = 1
    store.update_message("m", append="x")
    clock.advance(0)
    assert not pollers_under_way(store), "it is dead"
    poller.start()
    assert pollers_under_way(store)
    store.update_message("m", status="complete")
    assert poller.wait("m", timeout=5) is tracker
    poller.stop()


@pytest.mark.parametrize("seen", [False, True])
def test_what_ends_the_next_thread_is_told_by_its_block(
    store: Flaky, clock: FakeClock, *, seen: bool
) -> None:
    """Whether or not somebody asked what ended the one before."""
    poller = MessagePoller(store)
    poller.track("m")
    store.error, store.trouble = FATAL[1], 10**6
    poller.start()
    clock.advance(0)
    if seen:
        with pytest.raises(HistoryGone):
            poller.wait("m")
    poller.stop()
    with pytest.raises(HistoryGone) as caught, poller:
        clock.advance(0)
    assert caught.value is FATAL[1]
