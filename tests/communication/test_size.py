"""Large answers: whole in the store, and the commits few. In real time, as a fast CLI prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore, Reply, ask_module
from pytest_claude_comms.answer import FLUSH_CHARACTERS, FLUSH_US, Answer
from pytest_claude_comms.clock import SECOND
from tests.communication.kit import MARK, write_claude

MEGABYTES = """
init()
for number in range(10):
    text(f"{number}" * 1_000_000, f"m{number}")
result("ok")
"""
DELTAS = """
init()
event(type="message_start", message={"id": "m"})
words = [f"{number:x} " for number in range(WORDS)]
head, _, tail = json.dumps({"type": "stream_event", "session_id": "s", "parent_tool_use_id": None,
    "event": {"type": "content_block_delta", "index": 0,
              "delta": {"type": "text_delta", "text": "@"}}}).partition("@")
for start in range(0, len(words), 100):
    raw("".join(head + word + tail + "\\n" for word in words[start:start + 100]))
text("".join(words), "m")
result("ok")
"""
CORRECTED = DELTAS.replace('text("".join(words), "m")', 'text("".join(words) + "!", "m")')


def large(script: str, words: int) -> tuple[str, str]:
    """What prints so many words, and the words."""
    whole = "".join(f"{number:x} " for number in range(words))
    return script.replace("WORDS", str(words)), whole + "!" * (script == CORRECTED)


WHOLE = {
    "megabytes": (MEGABYTES, "\n\n".join(f"{number}" * 1_000_000 for number in range(10))),
    "deltas": large(DELTAS, 25_000),
    "corrected": large(CORRECTED, 25_000),
    "many deltas": large(DELTAS, 100_000),
    "many corrected": large(CORRECTED, 100_000),
}


def ask(store: ConversationStore, module: Path, folder: Path, mark: str, script: str) -> Reply:
    command = [write_claude(folder, script)]
    return ask_module(store, "marker", module, "q", command=command, env={MARK: mark}, timeout=120)


def changes_and_most(store: ConversationStore, reply: Reply) -> tuple[int, float]:
    """How many changes there were, and how many the promise allows."""
    changes = store.changes(message=reply.answer).items
    seconds = (changes[-1].at - changes[0].at).total_seconds()
    pieces = len(reply.answer.content) // FLUSH_CHARACTERS
    steps = 5  # pending, processing, the session, the end, and a last piece
    return len(changes), seconds * SECOND / FLUSH_US + pieces + steps


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=[pytest.mark.long] * what.startswith("many")) for what in WHOLE],
)
def test_it_arrives_whole_in_few_commits(
    real_store: ConversationStore, module: Path, folder: Path, mark: str, what: str
) -> None:
    script, whole = WHOLE[what]
    reply = ask(real_store, module, folder, mark, script)
    assert reply.answer.status == "complete"
    assert reply.answer.content == whole
    assert reply.outcome is not None
    assert reply.outcome.content == whole
    count, most = changes_and_most(real_store, reply)
    assert count <= most


def test_broken_it_would_be_seen_that_nothing_is_batched(
    real_store: ConversationStore, module: Path, folder: Path, mark: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    take = Answer.take_text

    def at_once(self: Answer, **text: str | None) -> None:
        take(self, **text)
        self.flush()

    monkeypatch.setattr(Answer, "take_text", at_once)
    script, _ = large(DELTAS, 2_000)
    reply = ask(real_store, module, folder, mark, script)
    count, most = changes_and_most(real_store, reply)
    assert count > most
