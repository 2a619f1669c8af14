"""Ends that nobody plans for: interrupts at any line, a busy store, a run that does not stop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    MemoryConversationStore,
    SQLiteConversationStore,
    SystemClock,
    ask_module,
    ask_module_async,
    open_store,
)
from pytest_claude_comms import answering as answering_module
from pytest_claude_comms.answering import Answering
from pytest_claude_comms.claude import process as process_module
from pytest_claude_comms.claude.process import running
from pytest_claude_comms.clock import SECOND
from pytest_claude_comms.communication import Reply
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.communication.conftest import Ask, url_of
from tests.communication.kit import MARK, marked, runner_threads, until, write_claude
from tests.tracing import Traced

# -- a run that has given its result


@pytest.mark.parametrize("chatter", ["line(type='keep_alive')", "raw('.')"])
def test_who_prints_on_after_its_result_is_ended_all_the_same(
    real_store: ConversationStore, folder: Path, module: Path, mark: str, chatter: str
) -> None:
    command = [write_claude(folder, f"""
        answer("42")
        while True:
            {chatter}
            time.sleep(0.1)
    """)]  # fmt: skip
    reply = ask_module(
        real_store, "marker", module, "q", command=command, env={MARK: mark}, grace=0, timeout=60
    )
    assert (reply.answer.status, reply.answer.content) == ("complete", "42")
    assert marked(mark) == []


def test_a_deadline_does_not_find_a_run_whose_answer_is_in_hand(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=2).never_exits()
    reply = ask(timeout=4, grace=5)
    assert reply.answer.status == "complete"
    assert clock.elapsed == 3, "half of what was left"


def test_not_even_if_it_ignores_sigterm(claude: ScriptedClaude, ask: Ask, clock: FakeClock) -> None:
    claude.replies("Use _key", after=2).never_exits().ignores_term()
    reply = ask(timeout=4, grace=5)
    assert reply.answer.status == "complete"
    assert clock.elapsed == 3.5, "killed when three quarters of what was left have passed"


def test_broken_it_would_be_seen_that_the_deadline_is_not_minded(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    expect = Answering._expect_exit

    def careless(self: Answering) -> None:
        self._answer._deadline_us = None
        expect(self)

    monkeypatch.setattr(Answering, "_expect_exit", careless)
    with pytest.raises(AssertionError):
        test_a_deadline_does_not_find_a_run_whose_answer_is_in_hand(claude, ask, clock)


# -- a run that prints faster than it can be read


class _Leaping(SystemClock):
    """Real time, and a leap of it: a machine takes as long as it takes to start a process."""

    ahead_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.ahead_us

    def monotonic_us(self) -> int:
        return super().monotonic_us() + self.ahead_us


@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_a_run_that_floods_is_ended_at_its_deadline(
    backend: str, tmp_path: Path, folder: Path, module: Path, mark: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """However much has piled up: the message is looked at between any two pieces of output."""
    monkeypatch.setattr(answering_module, "_LAST_BYTES", 1 << 17)
    command = [write_claude(folder, """
        init()
        text("abc")
        piece = "x\\n" * 32768
        while True:
            raw(piece)
    """)]  # fmt: skip
    clock = _Leaping()
    with open_store(url_of(backend, tmp_path), clock=clock, durability="process") as store:
        reply = ask_module(
            store, "marker", module, "q",
            command=command, env={MARK: mark}, grace=0, timeout=600, wait=False,
        )  # fmt: skip
        assert until(lambda: store.get_message(reply.answer).content == "abc", patience=60)
        clock.ahead_us = 600 * SECOND
        reply.wait(timeout=600)
        assert (reply.answer.status, reply.answer.content) == ("timeout", "abc")
    assert marked(mark) == []


def test_a_run_that_floods_is_ended_before_memory_is(
    real_store: ConversationStore, folder: Path, module: Path, mark: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for room in (answering_module, process_module):
        monkeypatch.setattr(room, "MOST_UNREAD", 1 << 20)
    monkeypatch.setattr(answering_module, "_LAST_BYTES", 1 << 17)
    command = [write_claude(folder, """
        init()
        text("abc")
        time.sleep(0.5)
        piece = "x\\n" * 32768
        while True:
            raw(piece)
    """)]  # fmt: skip
    reply = ask_module(
        real_store, "marker", module, "q", command=command, env={MARK: mark}, grace=0, timeout=60
    )
    answer = reply.answer
    assert (answer.status, answer.content) == ("failed", "abc")
    assert answer.metadata["error_kind"] == "too_much_output"
    assert answer.error == "Claude was ended: 1 MB of its output were waiting to be read"
    assert marked(mark) == []


# -- whoever asked gives up

WRITES = "[(text(str(n), f'm{n}'), time.sleep(0.05)) for n in range(10000)]"


class Interrupting:
    """Raises KeyboardInterrupt at the nth line of the given functions' code."""

    def __init__(self, *codes: CodeType, at: int) -> None:
        self._codes = codes
        self.left = at
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code not in self._codes:
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self


def test_an_interrupt_at_any_line_ends_the_run_and_the_answer(
    folder: Path, module: Path, mark: str
) -> None:
    """In real time, and at each line that the asker's own thread runs."""
    codes = (ask_module.__code__, Reply.__init__.__code__, Answering.wait_started.__code__)
    command = [write_claude(folder, "init(); time.sleep(600)")]
    at = 1
    while True:
        with MemoryConversationStore() as store:
            interrupting = Interrupting(*codes, at=at)
            try:
                with Traced(interrupting):
                    reply = ask_module(
                        store,
                        "marker",
                        module,
                        "q",
                        wait=False,
                        command=command,
                        env={MARK: mark},
                        grace=0,
                    )
            except KeyboardInterrupt:
                assert until(lambda: not running() and not runner_threads(), 10), interrupting.where
                left = [m for m in store.messages() if not m.status.is_terminal]
                assert left == [], interrupting.where
            else:
                reply.cancel()
                break
        at += 1
    assert at > 40, "fewer lines than there are"


@pytest.mark.parametrize(
    "script", ["text('abc'); time.sleep(600)", WRITES], ids=["rests", "writes"]
)
@pytest.mark.parametrize("way", ["ctrl-c", "task"])
def test_a_busy_store_hinders_no_end_and_hides_no_interrupt(
    folder: Path, module: Path, mark: str, way: str, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is locked when the asker gives up: the run ends at once, its status follows."""
    monkeypatch.setattr("pytest_claude_comms.stores.sqlite.BUSY_TIMEOUT", 0.2)
    path = folder / "busy.db"
    command = [write_claude(folder, f"init(); {script}")]
    with SQLiteConversationStore(path) as store:
        locked = threading.Event()
        locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

        def lock_when_it_runs() -> None:
            assert until(lambda: bool(store.messages(status="processing")), 10)
            locker.execute("BEGIN IMMEDIATE")
            if script == WRITES:
                threading.Event().wait(0.5)  # by now it tries to store some text
            locked.set()

        def ask() -> None:
            wait = Reply.wait

            def interrupted(self: Reply, timeout: float | None = None) -> Reply:
                lock_when_it_runs()
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(Reply, "wait", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    ask_module(store, "m", module, "q", command=command, env={MARK: mark}, grace=0)
            assert Reply.wait is wait

        async def ask_in_a_task() -> None:
            task = asyncio.ensure_future(
                ask_module_async(store, "m", module, "q", command=command, env={MARK: mark},
                                 grace=0)
            )  # fmt: skip
            await asyncio.to_thread(lock_when_it_runs)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        # The status can only be stored when the lock is gone, which is after the run has.
        def unlock() -> None:
            locked.wait()
            assert until(lambda: marked(mark) == [], 10)
            still.append(bool(store.messages(status="processing")))
            locker.execute("ROLLBACK")

        still: list[bool] = []
        helper = threading.Thread(target=unlock)
        helper.start()
        if way == "ctrl-c":
            ask()
        else:
            asyncio.run(ask_in_a_task())
        helper.join()
        assert still == [True]
        assert until(lambda: bool(store.messages(status="cancelled")), 10)
        locker.close()


def test_a_coroutine_that_is_closed_ends_its_run(
    store: ConversationStore, claude: ScriptedClaude, module: Path, clock: FakeClock,
    options: dict[str, Any],
) -> None:  # fmt: skip
    async def start() -> Any:
        coroutine = ask_module_async(store, "m", module, "q", **options)
        coroutine.send(None)
        return coroutine

    claude.hangs()
    coroutine = asyncio.run(start())
    coroutine.close()
    clock.run_until_idle()
    assert [m.status for m in store.messages()] == ["complete", "cancelled"]
    assert running() == {}


def test_the_error_of_an_ask_is_not_replaced_by_one_of_its_end(
    store: ConversationStore, claude: ScriptedClaude, module: Path, clock: FakeClock,
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def broken(self: Reply, timeout: float | None = None) -> Reply:
        raise KeyboardInterrupt

    def worse(self: Reply) -> None:
        raise RuntimeError("worse")

    monkeypatch.setattr(Reply, "wait", broken)
    monkeypatch.setattr(Reply, "_cancelled", worse)
    claude.hangs()
    with pytest.raises(KeyboardInterrupt):
        ask_module(store, "m", module, "q", **options)
    clock.run_until_idle()
    assert [m.status for m in store.messages()] == ["complete", "cancelled"]


# -- text that waits to be stored


def test_a_cancelled_run_stores_the_text_that_it_has_told(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.ignores_term().goes_silent(text="told", after=1)
    reply: list[Reply] = []

    def give_up(update: object) -> None:
        if getattr(update, "kind", "") == "text" and reply:
            reply[0]._answering.cancel("Ctrl-C")

    reply.append(ask(wait=False, on_update=give_up, grace=5))
    reply[0].wait()
    answer = reply[0].answer
    assert (answer.status, answer.content, answer.error) == ("cancelled", "told", "Ctrl-C")
    (last,) = [each for each in store.changes() if each.append]
    assert last.status == "cancelled", "in one commit"


def test_text_that_was_told_stays_when_the_run_is_gone_before_anybody_looks(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    """What a run leaves unfinished is taken back, but not from an answer that was cancelled."""
    claude.crashes("KILL", after=1, text="told")
    reply: list[Reply] = []

    def give_up(update: object) -> None:
        if getattr(update, "content", None) is not None and reply:  # it is taken back
            reply[0]._answering._cancelled = True  # as a signal's handler leaves it

    reply.append(ask(wait=False, on_update=give_up))
    reply[0].wait()
    answer = reply[0].answer
    assert (answer.status, answer.content) == ("cancelled", "told")


@pytest.mark.parametrize("way", ["cancel", "cancel_async"])
def test_cancelling_a_reply_keeps_the_text_that_came(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock, way: str
) -> None:
    claude.goes_silent(text="told", after=1)
    reply = ask(wait=False)
    clock.advance(1.05)
    assert reply.answer.content == ""  # it waits for more
    answer = reply.cancel() if way == "cancel" else asyncio.run(reply.cancel_async())
    assert (answer.status, answer.content) == ("cancelled", "told")
    assert clock.elapsed == 1.05


def test_a_history_that_is_trimmed_under_a_run_does_not_end_it(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.goes_silent(text="told", after=1)

    def trim() -> None:
        for number in range(5):
            store.add_message(reply.thread_id, "m", message_id=f"other {number}")
            store.update_message(f"other {number}", metadata={"a": 1})
            store.update_message(f"other {number}", metadata={"a": 2})
        assert store.compact(keep=0).trimmed > 3

    reply = ask(wait=False)
    clock.at(2, trim)
    clock.at(4, store.update_message, reply.answer, status="cancelled")
    reply.wait()
    assert clock.elapsed == 4
    assert (reply.answer.status, reply.answer.content) == ("cancelled", "told")
    assert reply.outcome is not None
    assert reply.outcome.status == "cancelled"


def test_text_shortly_before_the_deadline_is_stored(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.goes_silent(text="told", after=1.96)
    reply = ask(timeout=2)
    assert (reply.answer.status, reply.answer.content) == ("timeout", "told")
