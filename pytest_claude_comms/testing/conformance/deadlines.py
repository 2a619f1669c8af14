"""Contracts of deadlines: a message's own, and who settles them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from ...clock import to_us
from ...errors import InvalidTransition
from ...polling import MessagePoller
from .bench import Bench
from .checks import equal, refused, same_json, true
from .contract import Contracts

GROUP = Contracts("deadlines")
contract = GROUP.contract


@contract(1, "deadlines")
def a_deadline_is_told(bench: Bench) -> None:
    """deadline_at is creation + timeout or last change + stall_timeout, whichever is earlier."""
    made = bench.clock.now()
    for kwargs, seconds in (
        ({"timeout": 30}, 30),
        ({"stall_timeout": 10}, 10),
        ({"timeout": 30, "stall_timeout": 10}, 10),
        ({"timeout": 5.5, "stall_timeout": 10}, 5.5),
        ({"timeout": 0}, 0),
    ):
        message = bench.add(**kwargs)
        equal(message.deadline_at, made + timedelta(seconds=seconds), f"deadline_at with {kwargs}")
        equal(bench.store.get_message(message), message, "what get_message returns")
    equal(bench.add().deadline_at, None, "deadline_at without a deadline")


@contract(2, "deadlines")
def expire_settles_what_is_overdue(bench: Bench) -> None:
    """expire() makes every overdue message `timeout`, says why in its error, and returns those."""
    first, second = bench.add("a", timeout=10), bench.add("b", stall_timeout=5)
    later, never = bench.add("c", timeout=99), bench.add("d")
    bench.clock.advance(10)
    done = bench.store.expire()
    equal({each.message_id for each in done}, {first.message_id, second.message_id}, "expired")
    for message in done:
        equal((message.status, message.content != ""), ("timeout", True), "status, and its text")
        true(message.error, "its error", expected="a text that says why", found=message.error)
        equal(message.updated_at, bench.clock.now(), "updated_at")
        equal(bench.store.get_message(message), message, "what get_message returns")
    for message in (later, never):
        equal(bench.store.get_message(message), message, "a message that is not overdue")
    equal(bench.store.expire(), [], "what expire() returns when asked again")


@contract(3, "deadlines", "gap_free")
def a_timeout_is_one_change(bench: Bench) -> None:
    """That a message timed out is one change, from the status it had."""
    message = bench.add("a", status="processing", timeout=10)
    since = bench.store.cursor()
    bench.clock.advance(11)
    (expired,) = bench.store.expire()
    (change,) = bench.store.changes(since)
    found = (change.message_id, change.previous, change.status, change.at, change.content)
    expected = (message.message_id, "processing", "timeout", bench.clock.now(), None)
    equal(found, expected, "the change")
    equal((change.revision, change.error), (expired.revision, expired.error), "and the message's")


@contract(4, "deadlines")
def a_deadline_is_an_instant(bench: Bench) -> None:
    """A message is overdue at the instant of its deadline, and not a microsecond before."""
    bench.add(timeout=10)
    bench.clock.advance(9.999999)
    equal(bench.store.expire(), [], "what expires a microsecond before")
    bench.clock.advance(0.000001)
    equal([each.status for each in bench.store.expire()], ["timeout"], "what expires then")


@contract(5, "deadlines")
def a_write_at_the_deadline_counts(bench: Bench) -> None:
    """At the very instant of the deadline a write still counts."""
    message = bench.add(timeout=10)
    bench.clock.advance(10)
    after = bench.store.update_message(message, status="complete", append="just in time")
    equal((after.status, after.content), ("complete", "just in time"), "status and content")
    equal(bench.store.expire(), [], "what expires")


@contract(6, "deadlines")
def a_write_after_it_comes_too_late(bench: Bench) -> None:
    """A write after the deadline makes the message `timeout`, and raises InvalidTransition."""
    asked: list[dict[str, Any]] = [
        {"status": "complete", "append": "too late"},
        {"append": "x"},
        {"metadata": {"k": 1}},
        {},
    ]
    for change in asked:
        message = bench.add("a", status="processing", timeout=10)
        bench.clock.advance(10.000001)
        refused(
            partial(bench.store.update_message, message, **change),
            InvalidTransition,
            f"{change} after the deadline",
            status="timeout",
            message_id=message.message_id,
        )
        found = bench.store.get_message(message)
        told = (found.status, found.content, dict(found.metadata), found.updated_at)
        equal(told, ("timeout", "a", {}, bench.clock.now()), "the message")


@contract(7, "deadlines", "gap_free")
def a_late_write_is_one_change(bench: Bench) -> None:
    """A write that comes too late leaves one change: the timeout."""
    message = bench.add("a", status="processing", stall_timeout=10)
    since = bench.store.cursor()
    bench.clock.advance(11)
    late = partial(bench.store.update_message, message, status="complete", append="x")
    for _ in range(2):
        refused(late, InvalidTransition, "a write after the deadline")
    found = [(change.previous, change.status) for change in bench.store.changes(since)]
    equal(found, [("processing", "timeout")], "the changes")


@contract(8, "deadlines")
def each_change_puts_a_stall_off(bench: Bench) -> None:
    """A stall_timeout counts from the last change, of whatever kind; what is no change is none."""
    message = bench.add(stall_timeout=10)
    asked: list[dict[str, Any]] = [{"append": "x"}, {"metadata": {"k": 1}}, {"error": "e"}]
    for change in [*asked, {"status": "processing"}]:
        bench.clock.advance(9)
        message = bench.store.update_message(message, **change)
        then = bench.clock.now() + timedelta(seconds=10)
        equal(message.deadline_at, then, f"deadline_at after {change}")
    bench.clock.advance(9)
    bench.store.update_message(message, status="processing")
    found = bench.store.get_message(message).deadline_at
    equal(found, message.deadline_at, "deadline_at after no change")
    bench.clock.advance(1)
    equal([each.status for each in bench.store.expire()], ["timeout"], "what expires then")


@contract(9, "deadlines")
def no_change_puts_a_timeout_off(bench: Bench) -> None:
    """A timeout counts from creation, whatever changes."""
    message = bench.add(timeout=25, stall_timeout=10)
    end = message.created_at + timedelta(seconds=25)
    for _ in range(2):
        bench.clock.advance(9)
        message = bench.store.update_message(message, append="x")
    equal(message.deadline_at, end, "deadline_at")
    bench.clock.advance(7)
    equal([each.status for each in bench.store.expire()], ["timeout"], "what expires at 25 s")


@contract(10, "deadlines")
def what_has_ended_has_no_deadline(bench: Bench) -> None:
    """A message that has ended does not time out; metadata comes in time at any time."""
    ended = bench.add(timeout=10, stall_timeout=5)
    ended = bench.store.update_message(ended, status="complete")
    what = "deadline_at, once ended: that of timeout= stands, that of stall_timeout= is over"
    equal(ended.deadline_at, ended.created_at + timedelta(seconds=10), what)
    at_once = bench.add(status="failed", timeout=10)
    bench.clock.advance(100)
    equal(bench.store.expire(), [], "what expires")
    after = bench.store.update_message(ended, metadata={"cost": 1})
    equal(after.status, "complete", "its status")
    same_json(dict(after.metadata), {"cost": 1}, "its metadata")
    equal(bench.store.get_message(at_once).status, "failed", "one that was added failed")


@contract(11, "deadlines")
def reading_settles_nothing(bench: Bench) -> None:
    """Reads never write: an overdue message stays as it is until somebody settles it."""
    message = bench.add(timeout=10)
    cursor = bench.store.cursor()
    bench.clock.advance(20)
    store = bench.store
    equal(store.get_message(message), message, "what get_message returns")
    equal(store.messages(), [message], "what messages() returns")
    equal(store.messages(status="timeout"), [], "messages that are timeout")
    store.threads()
    store.next_deadline_us()
    equal((store.cursor(), store.changes().cursor), (cursor, cursor), "the cursor")


@contract(12, "deadlines")
def the_earliest_deadline_is_known(bench: Bench) -> None:
    """next_deadline_us() is the earliest deadline of an open message, in microseconds, or None."""
    store = bench.store
    equal(store.next_deadline_us(), None, "of an empty store")
    bench.add()
    bench.add(status="complete", timeout=1)
    equal(store.next_deadline_us(), None, "without an open message that has one")
    far, near = bench.add(timeout=30), bench.add(stall_timeout=10)

    def expect(message: Any, what: str) -> None:
        equal(store.next_deadline_us(), to_us(message.deadline_at), what)

    expect(near, "of two")
    bench.clock.advance(5)
    near = store.update_message(near, append="x")
    expect(near, "after a change put it off")
    store.update_message(near, status="complete")
    expect(far, "after that one has ended")
    bench.clock.advance(30)
    store.expire()
    equal(store.next_deadline_us(), None, "after all have expired")


@contract(13, "deadlines")
def a_span_is_a_number_of_seconds(bench: Bench) -> None:
    """A span below 0, no number, or beyond the year 9999 is refused, and nothing is stored."""
    words: list[Any] = [-1, -0.001, float("nan"), float("inf"), 1e12]
    others: list[Any] = ["3", True, timedelta(seconds=3)]
    for name in ("timeout", "stall_timeout"):
        for kind, spans in ((ValueError, words), (TypeError, others)):
            for span in spans:
                refused(partial(bench.add, **{name: span}), kind, f"{name}={span!r}")
    equal(bench.store.messages(), [], "the messages")


@contract(14, "deadlines")
def a_poller_settles_it(bench: Bench) -> None:
    """Who waits on a MessagePoller sees a message end at its deadline, to the microsecond."""
    message = bench.add(timeout=30)
    tracker = MessagePoller(bench.store).wait(message, timeout=60)
    equal((tracker.status, bench.clock.elapsed), ("timeout", 30), "status, and seconds passed")
    equal(bench.store.get_message(message).status, "timeout", "the status in the store")


@contract(15, "deadlines", "durable")
def a_deadline_is_kept(bench: Bench) -> None:
    """A message has its deadlines when the store has been closed and opened again."""
    message = bench.add("a", timeout=30, stall_timeout=10)
    store = bench.reopen()
    equal(store.get_message(message).deadline_at, message.deadline_at, "deadline_at")
    bench.clock.advance(9)
    after = store.update_message(message, append="b")
    equal(after.deadline_at, bench.clock.now() + timedelta(seconds=10), "deadline_at, put off")
    assert after.deadline_at is not None
    equal(bench.reopen().next_deadline_us(), to_us(after.deadline_at), "next_deadline_us()")
    bench.clock.advance(10)
    equal([each.status for each in bench.store.expire()], ["timeout"], "what expires")


@contract(16, "deadlines")
def they_expire_in_order(bench: Bench) -> None:
    """What is overdue is settled, and returned by expire(), in the order of the deadlines."""
    last, first = bench.add("last", timeout=30), bench.add("first", timeout=10)
    middle = bench.add("middle", stall_timeout=20)
    bench.clock.advance(60)
    done = bench.store.expire()
    expected = [each.message_id for each in (first, middle, last)]
    equal([each.message_id for each in done], expected, "what expire() returns")
    found = [bench.store.get_message(each).revision for each in expected]
    equal([each.revision for each in done], found, "their revisions")
    equal(found, sorted(set(found)), "the order of their revisions")


@contract(17, "deadlines", "multi_process")
def another_objects_deadlines_count(bench: Bench) -> None:
    """A deadline that another store object has set or put off is known, and settled, here."""
    one, two = bench.store, bench.open()
    equal(two.next_deadline_us(), None, "next_deadline_us() of an empty store")
    message = bench.add(stall_timeout=10)
    equal(two.next_deadline_us(), to_us(bench.clock.now()) + 10_000_000, "of what another added")
    bench.clock.advance(9)
    one.update_message(message, append="x")
    equal(two.next_deadline_us(), to_us(bench.clock.now()) + 10_000_000, "what another put off")
    bench.clock.advance(5)
    equal(two.expire(), [], "what expires before that")
    bench.clock.advance(5)
    done = [(each.message_id, each.status) for each in two.expire()]
    equal(done, [(message.message_id, "timeout")], "what expires then")
    equal((one.get_message(message).status, one.expire()), ("timeout", []), "to the other object")
    equal(one.next_deadline_us(), None, "next_deadline_us() once all has ended")
