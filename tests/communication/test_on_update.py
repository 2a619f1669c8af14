"""``on_update``: what a run does, told as it does it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, Message, Reply, ask_module
from pytest_claude_comms.claude.updates import StreamUpdate
from pytest_claude_comms.errors import RunAbandoned
from pytest_claude_comms.testing import FakeClock, ScriptedClaude, play_transcript
from pytest_claude_comms.testing.actors import Killed
from tests.communication.conftest import Ask
from tests.communication.kit import MARK, until, write_claude

TRANSCRIPTS = Path(__file__).resolve().parents[2] / "fixtures/transcripts"


def kinds(updates: list[StreamUpdate]) -> list[str]:
    return [update.kind for update in updates]


def test_each_step_is_told(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, ask: Ask
) -> None:
    claude.retries(529, every=1).uses_tool("Read", {"file_path": "a"}, result="b").replies("Use it")
    updates: list[StreamUpdate] = []

    reply = ask(on_update=updates.append)

    assert kinds(updates)[0] == "started"
    assert kinds(updates)[-1] == "result"
    assert {"session", "model", "retry", "tool", "tool_result", "text"} < set(kinds(updates))
    assert [update.tool for update in updates if update.kind == "tool"] == ["Read"]
    text = ""
    for update in updates:
        text = update.apply(text)
    assert text == reply.answer.content == "Use it"


def test_nothing_is_told_of_a_message_that_has_ended(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, ask: Ask
) -> None:
    claude.goes_silent(text="The fields ")
    updates: list[StreamUpdate] = []

    reply = ask(on_update=updates.append, timeout=30)

    assert reply.answer.content == "The fields "
    # At its end the stream takes back what no whole block has confirmed; the message keeps it.
    assert [update.append for update in updates if update.kind == "text"] == ["The fields "]


def test_whoever_looks_on_does_not_end_the_run(
    store: ConversationStore,
    claude: ScriptedClaude,
    clock: FakeClock,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claude.replies("Use _key")
    reported: list[str] = []
    monkeypatch.setattr(clock, "unhandled", lambda error, what: reported.append(f"{what}: {error}"))

    def look(update: StreamUpdate) -> None:
        raise RuntimeError(f"no {update.kind}")

    assert ask(on_update=look).answer.content == "Use _key"
    assert reported[0] == "on_update: no started"


@pytest.mark.parametrize(
    "give_up",
    [
        lambda: pytest.fail("no"),
        lambda: pytest.skip("no"),
        lambda: (_ for _ in ()).throw(SystemExit),
    ],
    ids=["fail", "skip", "exit"],
)
def test_not_even_by_what_is_no_exception(
    store: ConversationStore,
    claude: ScriptedClaude,
    clock: FakeClock,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    give_up: Callable[[], object],
) -> None:
    claude.replies("Use _key")
    reported: list[str] = []
    monkeypatch.setattr(clock, "unhandled", lambda error, what: reported.append(what))

    reply = ask(on_update=lambda update: give_up())

    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
    assert set(reported) == {"on_update"}


def test_a_test_that_fails_in_it_fails(claude: ScriptedClaude, clock: FakeClock, ask: Ask) -> None:
    claude.replies("Use _key", after=1)

    def look(update: StreamUpdate) -> None:
        if update.kind == "text":
            pytest.fail("not this word")

    with pytest.raises(pytest.fail.Exception, match="not this word"):
        ask(on_update=look)
    clock.run_until_idle()


def test_a_clock_that_is_closed_in_it_ends_the_run(claude: ScriptedClaude, ask: Ask) -> None:
    """What ends an actor then is no error of ``on_update``, and is not to be survived."""
    claude.replies("Use _key", after=1)
    seen: list[str] = []

    def look(update: StreamUpdate) -> None:
        seen.append(update.kind)
        raise Killed

    reply = ask(on_update=look, wait=False)
    with pytest.raises(RunAbandoned, match="its clock was closed"):
        reply.wait()
    assert seen == ["started"]
    assert reply.wait().answer.status == "failed"


# -- the reply, in the hands of who looks on


def test_a_run_can_be_cancelled_by_who_looks_on(
    claude: ScriptedClaude, clock: FakeClock, ask: Ask
) -> None:
    claude.ignores_term().goes_silent(text="told", after=1)
    reply: list[Reply] = []
    found: list[Message] = []

    def look(update: StreamUpdate) -> None:
        if update.kind == "text" and not found:
            found.append(reply[0].cancel())

    reply.append(ask(wait=False, on_update=look, grace=5))
    reply[0].wait()

    assert found[0].status == "processing", "the run is ended when on_update has returned"
    assert (reply[0].answer.status, reply[0].answer.content) == ("cancelled", "told")
    assert clock.elapsed == 6


def test_who_looks_on_can_be_a_coroutine_that_cancels(
    real_store: ConversationStore, folder: Path, module: Path, mark: str
) -> None:
    command = [write_claude(folder, "init(); text('told'); time.sleep(600)")]
    reply: list[Reply] = []

    def look(update: StreamUpdate) -> None:
        if update.kind == "text" and update.append:
            assert until(lambda: reply, 60)
            asyncio.run(reply[0].cancel_async())

    reply.append(
        ask_module(real_store, "m", module, "q", command=command, env={MARK: mark}, wait=False,
                   on_update=look)
    )  # fmt: skip
    reply[0].wait(timeout=60)
    assert (reply[0].answer.status, reply[0].answer.content) == ("cancelled", "told")


@pytest.mark.parametrize("way", ["wait", "wait_async"])
def test_who_looks_on_cannot_wait_for_the_run(
    real_store: ConversationStore, folder: Path, module: Path, mark: str, way: str
) -> None:
    command = [write_claude(folder, "answer('ok')")]
    reply: list[Reply] = []
    refused: list[str] = []

    def look(update: StreamUpdate) -> None:
        assert until(lambda: reply, 60)
        waiting: Any = getattr(reply[0], way)
        try:
            asyncio.run(waiting(60)) if way == "wait_async" else waiting(60)
        except RuntimeError as error:
            refused.append(str(error))

    reply.append(
        ask_module(real_store, "m", module, "q", command=command, env={MARK: mark}, wait=False,
                   on_update=look)
    )  # fmt: skip
    reply[0].wait(timeout=60)
    assert reply[0].answer.status == "complete"
    assert refused
    assert set(refused) == {
        f"{way}() in on_update would wait for the run that calls on_update; return from it first, "
        "or end the run with cancel()"
    }


def test_one_that_is_over_has_no_thread(claude: ScriptedClaude, ask: Ask) -> None:
    """The system may have given its number to the thread that waits."""
    claude.replies("ok")
    reply = ask()
    reply._answering._thread = threading.get_ident()
    assert reply.wait().cancel().status == "complete"


def test_a_recording_tells_too(store: ConversationStore, clock: FakeClock) -> None:
    message = store.add_message(store.create_thread("demo"), "claude", status="pending")
    updates: list[tuple[float, str]] = []
    play_transcript(
        TRANSCRIPTS / "02_partial_slow.jsonl",
        store,
        message,
        on_update=lambda update: updates.append((clock.elapsed, update.kind)),
    )
    assert updates[0][1] == "started"
    assert updates[-1][1] == "result"
    assert updates[-1][0] > updates[0][0] > 0
