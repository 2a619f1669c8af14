"""A store that is slow, that does not know whether it has stored, or that stores nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, Message, Reply
from pytest_claude_comms.answering import Answering
from pytest_claude_comms.errors import StoreBusy, StoreCorrupt, StoreError
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.communication.conftest import Ask

# -- a change that may have been made


@pytest.mark.parametrize("unreadable", [False, True])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("is_made", [False, True])
def test_text_that_may_have_been_stored_is_there_once(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, monkeypatch: pytest.MonkeyPatch,
    is_made: bool, times: int, unreadable: bool,
) -> None:  # fmt: skip
    claude.replies("aaaa", after=1, chunks=4, every=1)
    update, get = store.update_message, store.get_message
    doubts: list[str] = []
    unread: list[str] = []

    def doubtful(message: Any, **changes: Any) -> Message:
        if "append" in changes and len(doubts) < times:
            doubts.append(changes["append"])
            if is_made:
                update(message, **changes)
            unread.extend(["once"] if unreadable else [])
            raise StoreError("a disk error; the change may have been made", outcome="unknown")
        return update(message, **changes)

    def read(message: Any) -> Message:
        if unread:
            unread.pop()
            raise StoreBusy("x", 1)
        return get(message)

    monkeypatch.setattr(store, "update_message", doubtful)
    monkeypatch.setattr(store, "get_message", read)
    reply = ask()
    assert len(doubts) == times
    assert (reply.answer.status, reply.answer.content) == ("complete", "aaaa")


def test_what_came_with_it_is_stored_too(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of a change with more than text, a store of somebody's own may have made only a part."""
    claude.goes_silent(after=1, text="told")
    update = store.update_message
    doubts: list[str] = []

    def doubtful(message: Any, **changes: Any) -> Message:
        if "append" in changes and not doubts:
            doubts.append(changes["append"])
            update(message, append=changes["append"])
            raise StoreError("the change may have been made", outcome="unknown")
        return update(message, **changes)

    monkeypatch.setattr(store, "update_message", doubtful)
    reply = ask(wait=False)
    clock.advance(1.05)  # the text waits for more
    reply.cancel()
    assert doubts == ["told"]
    assert (reply.answer.status, reply.answer.content) == ("cancelled", "told")


# -- a slow one


def test_the_last_text_is_stored_though_the_question_took_its_time(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The message counts its deadline from its creation, which a slow disk tells of later."""
    claude.goes_silent(text="told", after=1.73)
    add = store.add_message

    def slowly(*args: Any, **more: Any) -> Message:
        message = add(*args, **more)
        if more["message_type"] == "answer":
            clock.sleep(0.2)
        return message

    monkeypatch.setattr(store, "add_message", slowly)
    reply = ask(timeout=2)
    assert clock.elapsed == 2
    assert (reply.answer.status, reply.answer.content) == ("timeout", "told")


# -- one that stores nothing more


@pytest.fixture
def lose(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], Reply]:  # fmt: skip
    """Begins a run that can store nothing of its answer, at 1 s; everybody else can."""

    def lose() -> Reply:
        claude.replies("Use _key", after=1)
        reply = ask(wait=False, timeout=None)
        clock.advance(0.5)
        update = store.update_message

        def troubled(message: Any, **changes: Any) -> Message:
            if reply._answering.is_on_my_thread:
                raise StoreCorrupt("x", "half of it is gone")
            return update(message, **changes)

        monkeypatch.setattr(store, "update_message", troubled)
        return reply

    return lose


LOST = ("failed", "the run was lost: ")


def outcome(reply: Reply) -> tuple[str, str]:
    return reply.answer.status.value, (reply.answer.error or "")[: len(LOST[1])]


@pytest.mark.parametrize("way", ["wait", "wait_async"])
def test_who_waits_for_a_run_that_was_lost_is_told(
    lose: Callable[[], Reply], clock: FakeClock, way: str
) -> None:
    reply = lose()
    with pytest.raises(StoreCorrupt):
        clock.run_until_idle()
    assert reply.ended
    assert reply.answer.status == "processing"
    for _ in range(2):
        if way == "wait":
            reply.wait()
        else:
            asyncio.run(reply.wait_async())
        assert outcome(reply) == LOST
    assert clock.elapsed == 1


def test_who_waits_already_when_it_is_lost_is_told(
    lose: Callable[[], Reply], clock: FakeClock
) -> None:
    reply = lose()
    found: list[tuple[str, str]] = []
    handle = clock.spawn(lambda: found.append(outcome(reply.wait())))
    with pytest.raises(StoreCorrupt):
        clock.run_until_idle()
    handle.join()
    assert found == [LOST]


def test_a_run_that_was_lost_can_be_cancelled(lose: Callable[[], Reply], clock: FakeClock) -> None:
    reply = lose()
    with pytest.raises(StoreCorrupt):
        clock.run_until_idle()
    assert reply.cancel().status == "cancelled"
    assert reply.wait().answer.status == "cancelled"


def test_who_ended_the_message_of_a_lost_run_is_right(
    lose: Callable[[], Reply], store: ConversationStore, clock: FakeClock
) -> None:
    reply = lose()
    with pytest.raises(StoreCorrupt):
        clock.run_until_idle()
    store.update_message(reply.answer, status="complete", content="by hand")
    assert reply.wait().answer.content == "by hand"


def test_a_reason_that_the_store_refuses_does_not_keep_the_answer_open(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    claude.replies("Use _key")

    def broken(self: Answering, updates: object) -> None:
        raise RuntimeError("half of a character: \ud83d")

    monkeypatch.setattr(Answering, "_take", broken)
    reply = ask(wait=False)
    with pytest.raises(RuntimeError, match="half of a character"):
        reply.wait()
    reply.wait()
    assert (reply.answer.status, reply.answer.error) == ("failed", None)
