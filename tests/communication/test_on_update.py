"""``on_update``: what a run does, told as it does it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore
from pytest_claude_comms.claude.updates import StreamUpdate
from pytest_claude_comms.testing import FakeClock, ScriptedClaude, play_transcript
from tests.communication.conftest import Ask

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
