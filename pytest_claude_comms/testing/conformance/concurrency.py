"""Contracts of several at once: threads, store objects, processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from ...clock import SECOND, SystemClock, to_us
from ...errors import AlreadyExists, InvalidTransition
from ...records import Message
from ...stores.base import ConversationStore
from ..fake_clock import START
from .bench import Bench
from .checks import equal, refused, true
from .contract import Contracts

GROUP = Contracts("concurrency")
contract = GROUP.contract

_START_US = to_us(START)
_ENDS = ("complete", "failed", "cancelled", "timeout")


def _new(bench: Bench, store: ConversationStore, status: str = "processing") -> Message:
    return store.add_message(bench.thread(store), "a", status=status)


def _raise_first(answers: list[object]) -> None:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer


def _told(answer: object) -> str:
    """An answer in few words: what it is, of an error also what it says."""
    said = f": {answer}" if isinstance(answer, Exception) else ""
    return f"{type(answer).__name__}{said}"


def _lost(answer: object, what: str) -> None:
    holds = type(answer) is InvalidTransition
    true(holds, what, expected=InvalidTransition.__name__, found=_told(answer))


@contract(1, "multi_thread")
def threads_lose_nothing(bench: Bench) -> None:
    """What several threads write at once is all there, each once."""
    store = bench.open_real()
    message = _new(bench, store)

    def write(name: str) -> None:
        for number in range(15):
            store.update_message(message, append=f"{name}{number};")
            store.add_message(message.thread_id, name)

    _raise_first(bench.together(*(partial(write, name) for name in "abcd")))
    parts = store.get_message(message).content.split(";")[:-1]
    expected = [f"{name}{number}" for name in "abcd" for number in range(15)]
    equal(sorted(parts), sorted(expected), "what was appended")
    equal(len(store.messages()), 61, "messages")


@contract(2, "multi_thread", "gap_free")
def a_reader_among_threads_misses_nothing(bench: Bench) -> None:
    """Who follows the feed while threads write sees each revision once, in order: none is late."""
    store = bench.open_real()
    messages = [_new(bench, store) for _ in range(3)]
    following = _Following(store)

    def write(message: Message) -> None:
        for _ in range(25):
            store.update_message(message, append="x")

    answers = bench.together(
        *(following.writes(partial(write, message), of=3) for message in messages),
        following.follow,
    )
    _raise_first(answers)
    whole = [change.revision for change in store.changes()]
    equal(len(whole), 78, "changes")
    equal(following.seen, whole, "the revisions that a follower saw")


class _Following:
    """Reads the feed from its cursor, until all writers have ended, and once more."""

    def __init__(self, store: ConversationStore) -> None:
        self._store = store
        self._ended = 0
        self._lock = threading.Lock()
        self.all_ended = threading.Event()
        self.seen: list[int] = []

    def writes(self, write: Callable[[], None], *, of: int) -> Callable[[], None]:
        def run() -> None:
            try:
                write()
            finally:
                with self._lock:
                    self._ended += 1
                    if self._ended == of:
                        self.all_ended.set()

        return run

    def follow(self) -> None:
        cursor, last = 0, False
        while True:
            found = self._store.changes(cursor)
            self.seen += [change.revision for change in found]
            cursor = found.cursor
            if last:
                return
            last = self.all_ended.is_set()


@contract(3, "multi_thread")
def one_thread_ends_a_message(bench: Bench) -> None:
    """Of threads that race to end a message one wins; the others are told which end stands."""
    store = bench.open_real()
    for _ in range(10):
        message = _new(bench, store)
        calls = [partial(store.update_message, message, status=status) for status in _ENDS]
        answers = bench.together(*calls)
        stands = store.get_message(message).status
        winners = [answer for answer in answers if isinstance(answer, Message)]
        equal([each.status for each in winners], [stands], "who won")
        for answer in answers:
            if answer not in winners:
                _lost(answer, "the answer to who lost")
                equal(getattr(answer, "status", None), stands, "the status that it names")


@contract(4, "multi_thread")
def no_thread_sees_half_a_change(bench: Bench) -> None:
    """Who reads while a thread writes sees all of a change or nothing of it."""
    store = bench.open_real()
    message = store.update_message(_new(bench, store), content="0", error="0", metadata={"n": 0})
    ended = threading.Event()

    def write() -> None:
        try:
            for number in range(1, 60):
                text = str(number)
                store.update_message(message, content=text, error=text, metadata={"n": number})
        finally:
            ended.set()

    def read() -> None:
        while not ended.is_set():
            found = store.get_message(message)
            told = {found.content, found.error, str(found.metadata["n"])}
            true(len(told) == 1, "a message", expected="all of one change", found=found)

    _raise_first(bench.together(write, read))


@contract(5, "multi_thread", "chosen_ids")
def one_thread_gets_an_id(bench: Bench) -> None:
    """Of threads that want the same id one gets it, the others AlreadyExists."""
    store = bench.open_real()
    thread = bench.thread(store)
    for number in range(5):
        name = f"m{number}"
        add = partial(store.add_message, thread, "a", message_id=name)
        answers = bench.together(*[add] * 4)
        kinds = sorted(type(answer).__name__ for answer in answers)
        true(
            kinds == [*[AlreadyExists.__name__] * 3, Message.__name__],
            "four answers",
            expected="1 Message, 3 AlreadyExists",
            found=sorted(_told(answer) for answer in answers),
        )
    equal(len(store.messages()), 5, "messages")


@contract(6, "multi_process")
def another_object_reads_what_is_there(bench: Bench) -> None:
    """What one store object has committed another reads at once, also what it read before."""
    one, two = bench.store, bench.open()
    message = bench.add("a")
    name = message.message_id

    def seen(store: ConversationStore) -> list[Any]:
        return [
            *(store.get_message(name), store.messages(), store.messages(status="processing")),
            *(store.messages(status="pending"), store.threads(), store.next_deadline_us()),
        ]

    equal(seen(two), seen(one), "what another object reads")
    two.update_message(name, status="processing", append="b", metadata={"k": 1})
    equal(seen(one), seen(two), "what the first reads after the other wrote")
    two.create_thread("more")
    one.update_message(name, status="complete")
    equal(seen(two), seen(one), "what the other reads after the first wrote")
    equal((one.store_id, one.url), (two.store_id, two.url), "store_id and url")


@contract(7, "multi_process", "gap_free")
def another_object_has_the_same_feed(bench: Bench) -> None:
    """Commits of several store objects are one feed, with one order of revisions."""
    one, two = bench.store, bench.open()
    message = bench.add()
    two.changes()
    for _ in range(3):
        one.update_message(message, append="1")
        two.update_message(message, append="2")
    equal(two.changes(), one.changes(), "the feed, by either")
    found = [(change.revision, change.append) for change in one.changes(message=message)]
    equal([append for _, append in found], [None, *"121212"], "what was appended, in order")
    equal([r for r, _ in found], sorted({r for r, _ in found}), "revisions")
    equal((one.cursor(), two.cursor()), (found[-1][0], found[-1][0]), "both cursors")


@contract(8, "multi_process")
def another_object_cannot_undo_an_end(bench: Bench) -> None:
    """A status is compared with what is stored, not with what this store object read before."""
    one, two = bench.store, bench.open()
    message = bench.add(status="processing")
    equal(two.get_message(message).status, "processing", "read before")
    one.update_message(message, status="cancelled")
    refused(
        partial(two.update_message, message, status="complete"),
        InvalidTransition,
        "ending it again by another object",
        status="cancelled",
    )
    equal(one.get_message(message).status, "cancelled", "its status")


@contract(9, "multi_process")
def another_process_reads_and_writes(bench: Bench) -> None:
    """What this process commits another reads, and what that one commits is read here."""
    store = bench.open_real()
    message = _new(bench, store, "pending")
    child = bench.child("read", message.message_id)
    equal(child.line(), "ready", "the other process")
    store.update_message(message, status="processing", append="there")
    child.go()
    equal(child.line(), "processing there", "status and content, read there")
    equal(child.line(), "done", "the other process")
    equal(store.get_message(message).content, "there and back", "content, read here")


@contract(10, "multi_process", "gap_free")
def processes_lose_nothing(bench: Bench) -> None:
    """What several processes write at once is all there, and who follows the feed sees it all."""
    store = bench.open_real()
    message = _new(bench, store)
    children = [bench.child("append", message.message_id, name, "25") for name in "ab"]
    for child in children:
        equal(child.line(), "ready", "the other process")
    for child in children:
        child.go()
    following = _Following(store)

    def ended() -> None:
        for child in children:
            equal(child.line(), "done", "the other process")

    _raise_first(bench.together(following.writes(ended, of=1), following.follow))
    parts = store.get_message(message).content.split(";")[:-1]
    expected = sorted(f"{name}{number}" for name in "ab" for number in range(25))
    equal(sorted(parts), expected, "what was appended")
    whole = [change.revision for change in store.changes()]
    equal(following.seen, whole, "the revisions that a follower in this process saw")


@contract(11, "multi_process")
def one_process_ends_a_message(bench: Bench) -> None:
    """Of processes that race to end a message one wins; the other is told which end stands."""
    store = bench.open_real()
    ids = [_new(bench, store).message_id for _ in range(12)]
    children = [bench.child("end", status, *ids) for status in ("complete", "cancelled")]
    for child in children:
        equal(child.line(), "ready", "the other process")
    for child in children:
        child.go()
    for name in ids:
        answers = sorted(child.line() for child in children)
        stands = store.get_message(name).status
        equal(answers, [f"refused {stands}", f"won {stands}"], "what two processes were told")


@contract(12, "multi_process")
def processes_create_it_at_once(bench: Bench) -> None:
    """Processes that create the store at one time all have it, and it is one store."""
    children = [bench.child("identify", place="new") for _ in range(2)]
    here = bench.open_real("new").store_id
    found = [child.line() for child in children]
    equal(found, [here, here], "store_ids that two other processes and this one saw")


@contract(13, "multi_process", posix=True)
def a_fork_is_refused(bench: Bench) -> None:
    """A store object taken over a fork raises RuntimeError that names the cure: open it again."""
    kind, _, text = bench.child("fork").line().partition(" ")
    equal(kind, "RuntimeError", f"what the child of a fork gets ({text})")
    true("open" in text, "its text", expected="the cure: open it again", found=text)


class _StandingClock(SystemClock):
    """Real time for who waits, and one instant for who asks what time it is."""

    at_us = _START_US

    def now_us(self) -> int:
        return self.at_us


@contract(14, "multi_thread", "deadlines")
def a_deadline_and_a_writer_race(bench: Bench) -> None:
    """Of expire() and a writer that race to end a message at its deadline one wins."""
    clock = _StandingClock()
    store = bench.open_in(bench.place(), clock)
    for number in range(10):
        clock.at_us = _START_US + 20 * number * SECOND
        message = store.add_message(bench.thread(store), "a", status="pending", timeout=10)
        clock.at_us += 10 * SECOND
        write = partial(store.update_message, message, status="complete")
        written, expired = bench.together(write, store.expire)
        stands = store.get_message(message)
        won = [each for each in (written,) if isinstance(each, Message)]
        _raise_first([expired])
        won += expired if isinstance(expired, list) else []
        equal(won, [stands], "who ended it, by what update_message and expire() returned")
        if written not in won:
            _lost(written, "the answer to the writer who lost")
            equal(getattr(written, "status", None), "timeout", "the status that it names")
