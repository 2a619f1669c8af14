"""Signs of life: what comes is no stall, however little of it there is to store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pytest

from pytest_claude_comms import ConversationStore, MemoryConversationStore
from pytest_claude_comms.answering import Answering
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.communication.conftest import Ask

LIMIT: Final = 32.0
QUIET: Final[dict[str, Any]] = {"stall_timeout": LIMIT, "timeout": None, "partial_messages": False}
"""Lines of text only, whole: none of those that come around them is a change of the message."""
LINES: Final = [0.001, 1, 5, 7.999, 8, 8.001, 12, 15.9, 16, 17, 24, 31, 31.999]
"""When the only line comes, in seconds after the run's begin."""


@pytest.fixture
def store(clock: FakeClock) -> Iterator[ConversationStore]:
    """When a message has stalled is the same in all stores."""
    with MemoryConversationStore(clock=clock) as store:
        yield store


@pytest.mark.parametrize("silence", [20, LIMIT - 0.001, LIMIT])
@pytest.mark.parametrize("line", LINES)
def test_no_silence_shorter_than_the_limit_ends_a_run(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock, line: float, silence: float
) -> None:
    claude.uses_tool("Bash", after=line).replies("done", after=silence)
    reply = ask(**QUIET)
    assert (reply.answer.status, reply.answer.content) == ("complete", "done")
    assert clock.elapsed == pytest.approx(line + silence)


@pytest.mark.parametrize("line", LINES)
def test_a_dead_run_is_found_soon_after_the_limit(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock, line: float
) -> None:
    claude.uses_tool("Bash", after=line).hangs()
    reply = ask(**QUIET)
    assert (reply.answer.status, reply.answer.error) == ("timeout", "nothing happened for 32 s")
    assert LIMIT <= round(clock.elapsed - line, 6) <= LIMIT * 5 / 4


def test_one_that_prints_much_is_not_stored_much(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    run = claude.uses_tool("Bash")
    for _ in range(128):
        run = run.uses_tool("Bash", after=1)
    run.replies("done")
    reply = ask(**QUIET)
    assert clock.elapsed == pytest.approx(4 * LIMIT)
    assert reply.answer.metadata["signs_of_life"] <= 4 * 4


def test_one_that_prints_text_shows_no_signs(claude: ScriptedClaude, ask: Ask) -> None:
    claude.replies("word " * 40, chunks=40, every=4)
    assert "signs_of_life" not in ask(stall_timeout=LIMIT).answer.metadata


def test_a_change_that_changes_nothing_is_none(
    claude: ScriptedClaude, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message would not count it, so neither may the run."""
    take = Answering._take

    def take_and_store(self: Answering, updates: Any) -> None:
        take(self, updates)
        self._answer.store(metadata={"retries": 1})

    monkeypatch.setattr(Answering, "_take", take_and_store)
    claude.uses_tool("Bash", after=5).replies("done", after=30)
    assert ask(**QUIET).answer.status == "complete"


def test_a_result_stands_though_the_cli_obeys_nobody(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.ignores_term().replies("Use _key", after=1).never_exits()
    reply = ask(stall_timeout=2, grace=5)
    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
    assert clock.elapsed == 2.5, "killed when three quarters of what was left have passed"
