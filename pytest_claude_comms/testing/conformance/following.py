"""Contracts of the change feed, for those who follow it: woken, opened again, trimmed."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any

from ...errors import HistoryGone, InvalidTransition
from ...polling import MessagePoller
from .bench import Bench
from .checks import equal, refused, true
from .contract import Contracts
from .feed import revisions, script

GROUP = Contracts("feed")
contract = GROUP.contract


@contract(17, "notifies")
def who_subscribes_is_woken(bench: Bench) -> None:
    """Who subscribes is woken after each commit, when it can be read, until told to stop."""
    heard: list[int] = []
    store = bench.store
    message = bench.add()
    stop = store.subscribe(lambda: heard.append(len(store.get_message(message).content)))
    try:
        for _ in range(3):
            store.update_message(message, append="x")
        equal(heard, [1, 2, 3], "the text at each wake")
        other: list[int] = []
        stop_other = store.subscribe(lambda: other.append(1))
        store.update_message(message, append="x")
        equal((len(heard), len(other)), (4, 1), "wakes of two who subscribed")
        stop_other()
    finally:
        stop()
        stop()
    store.update_message(message, append="x")
    equal((len(heard), len(other)), (4, 1), "wakes after both have stopped")


@contract(18, "gap_free")
def a_poller_tells_every_step(bench: Bench) -> None:
    """A MessagePoller tells every step once, also of a message that appears after it looked."""
    poller = MessagePoller(bench.store)
    early = bench.add()
    tracker = poller.track(early)
    poller.poll_once()
    late = bench.add()
    for status in ("processing", "complete"):
        bench.store.update_message(early, status=status)
        bench.store.update_message(late, status=status)
    follower = poller.track(late)
    for _ in range(2):
        poller.poll_once()
    for each in (tracker, follower):
        equal([str(s) for s in each.statuses], ["pending", "processing", "complete"], "its steps")
        equal(len(each.history), 3, "changes in its history")


@contract(19, "durable", "resumable")
def a_cursor_goes_on(bench: Bench) -> None:
    """A cursor goes on where it was when the store has been closed and opened again."""
    ids = script(bench, steps=10)
    everything = bench.store.changes()
    store = bench.reopen()
    equal(store.changes(), everything, "the whole feed")
    middle = everything.items[5].revision
    equal(store.changes(middle).items, everything.items[6:], "changes after a cursor from before")
    after = store.update_message(ids[2], append="later")
    found = store.changes(everything.cursor)
    equal(revisions(found), [after.revision], "changes after the last cursor from before")


@contract(20, "durable", "gap_free")
def revisions_go_on(bench: Bench) -> None:
    """Revisions go on above those from before when the store has been opened again."""
    message = bench.add()
    for _ in range(3):
        last = bench.store.update_message(message, append="x").revision
        store = bench.reopen()
        equal(store.cursor() >= last, True, f"the cursor is at least {last}, from before")
        after = store.update_message(message, append="y").revision
        true(after > last, "the next revision", expected=f"one above {last}", found=after)


@contract(21, "compact", "gap_free")
def trimmed_history_is_said_to_be_gone(bench: Bench) -> None:
    """After compact, a cursor behind what is kept raises HistoryGone; the others go on."""
    message = bench.add("a")
    for _ in range(6):
        bench.store.update_message(message, append="x")
    bench.store.update_message(message, status="complete")
    bench.clock.advance(60)
    kept = [bench.add("b", status="complete"), bench.add("c")]
    bench.store.create_thread("without a message")
    before, messages = bench.store.changes(), bench.store.messages()
    threads = bench.store.threads()
    bench.store.compact(keep=timedelta(seconds=30))
    refused(partial(bench.store.changes, 0), HistoryGone, "changes after 0", since=0)
    floor = before.items[-3].revision
    found = bench.store.changes(floor)
    equal([each.message_id for each in found], [each.message_id for each in kept], "what is kept")
    equal((found.items, found.cursor), (before.items[-2:], before.cursor), "changes that are kept")
    equal((bench.store.messages(), bench.store.threads()), (messages, threads), "what there is")


@contract(22, "compact", "gap_free")
def trimming_keeps_how_it_ended(bench: Bench) -> None:
    """After compact an open message has its whole history, an ended one its end and its last."""
    going, ended = bench.add("a"), bench.add("b")
    for _ in range(3):
        bench.store.update_message(going, append="x")
        bench.store.update_message(ended, append="x")
    bench.store.update_message(ended, status="failed", error="why")
    bench.store.update_message(ended, metadata={"cost": 1})
    bench.store.update_message(ended, metadata={"cost": 2})
    before = [bench.store.changes(message=each).items for each in (going, ended)]
    bench.store.compact(keep=0)
    equal(bench.store.changes(message=going).items, before[0], "the history of the open message")
    found = bench.store.changes(message=ended).items
    equal(found, (before[1][-3], before[1][-1]), "the history of the ended message")
    poller = MessagePoller(bench.store)
    tracker = poller.track(ended)
    poller.poll_once()
    equal(tracker.status, "failed", "the status that a tracker has of it")


@contract(23, "compact", "gap_free")
def what_to_keep_is_a_number_or_a_span(bench: Bench) -> None:
    """`keep` is an int from 0 or a timedelta from 0; all else is refused, and nothing trimmed."""
    message = bench.add(status="complete")
    bench.store.update_message(message, metadata={"k": 1})
    before = bench.store.changes()
    words: list[Any] = [-1, timedelta(microseconds=-1)]
    others: list[Any] = [None, True, 1.0, "1"]
    for kind, values in ((ValueError, words), (TypeError, others)):
        for keep in values:
            refused(partial(bench.store.compact, keep=keep), kind, f"compact(keep={keep!r})")
    equal(bench.store.changes(), before, "the feed")


@contract(24, "gap_free")
def a_long_history_is_whole(bench: Bench) -> None:
    """However long the history is, all of it is told: 1,200 changes at once, and of one message."""
    message, other = bench.add(), bench.add()
    made = [message.revision, other.revision]
    made += [bench.store.update_message(message, append="x").revision for _ in range(1_200)]
    found = bench.store.changes()
    equal((len(found), revisions(found)[:2]), (1_202, made[:2]), "how many changes, and the first")
    equal(found.cursor, made[-1], "the cursor of all changes")
    of_one = bench.store.changes(message=message)
    equal((len(of_one), of_one.cursor), (1_201, made[-1]), "changes of one message, and the cursor")


@contract(25, "notifies", "deadlines")
def a_timeout_wakes_too(bench: Bench) -> None:
    """Who subscribes is woken when a message times out: by expire(), or by a write too late."""
    store = bench.store
    expired, written = bench.add(timeout=10), bench.add(timeout=20)
    heard: list[list[str]] = []
    stop = store.subscribe(
        lambda: heard.append([str(store.get_message(each).status) for each in (expired, written)])
    )
    try:
        bench.clock.advance(11)
        store.expire()
        equal(heard[-1:], [["timeout", "pending"]], "the statuses at the wake by expire()")
        bench.clock.advance(11)
        late = partial(store.update_message, written, append="x")
        refused(late, InvalidTransition, "a write after the deadline")
        equal(heard[-1:], [["timeout", "timeout"]], "the statuses at the wake by a write too late")
    finally:
        stop()


@contract(26, "notifies", "multi_process")
def another_object_wakes_too(bench: Bench) -> None:
    """Who subscribes is woken by what another store object of this process commits."""
    store, other = bench.store, bench.open()
    message = bench.add()
    heard: list[str] = []
    stop = store.subscribe(lambda: heard.append(store.get_message(message).content))
    try:
        other.update_message(message, append="x")
        equal(heard[-1:], ["x"], "the text at the wake")
    finally:
        stop()


@contract(27, "compact", "durable", "gap_free")
def trimmed_history_stays_gone(bench: Bench) -> None:
    """That history was trimmed is known, and how far, when the store has been opened again."""
    message = bench.add("a")
    for _ in range(4):
        bench.store.update_message(message, append="x")
    bench.store.update_message(message, status="complete")
    last = bench.add("b")
    bench.store.compact(keep=1)
    before = bench.store.changes(last.revision - 1)
    store = bench.reopen()
    for since in (0, message.revision):
        call = partial(store.changes, since)
        refused(call, HistoryGone, f"changes after {since}, opened again", since=since)
    equal(store.changes(last.revision - 1), before, "what is kept")
