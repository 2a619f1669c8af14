"""One module asks another: what is stored, when, and what is left of it afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import pytest_claude_comms
from pytest_claude_comms import (
    ConversationStore,
    LegacyReturns,
    MemoryConversationStore,
    MessagePoller,
    Reply,
    ThreadNotFound,
    WaitTimeout,
    ask_module,
    ask_module_async,
)
from pytest_claude_comms.answer import FLUSH_CHARACTERS, FLUSH_US, Answer
from pytest_claude_comms.answering import Answering
from pytest_claude_comms.claude.process import running
from pytest_claude_comms.clock import SECOND
from pytest_claude_comms.errors import (
    ClaudeError,
    ClaudeNotFound,
    ModuleDirectoryNotFound,
    StoreBusy,
    StoreError,
)
from pytest_claude_comms.testing import FakeClock, assert_status_sequence
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.communication.conftest import Ask
from tests.communication.kit import MARK, marked, runner_threads, trace, until, write_claude

ROOT = str(Path(pytest_claude_comms.__file__).parents[1])


def appends(reply: Reply, store: ConversationStore) -> list[str]:
    changes = store.changes(message=reply.answer)
    return [change.append for change in changes if change.append is not None]


# -- the exchange


def test_question_answer_and_thread(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, module: Path, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=3)
    reply = ask(title="Fields", metadata={"ticket": 7}, timeout=60)

    thread = store.get_thread(reply.thread_id)
    assert (thread.title, thread.modules) == ("Fields", ("marker", "arangodb"))
    assert [m.message_id for m in store.messages(thread)] == [
        reply.question.message_id,
        reply.answer.message_id,
    ]
    question, answer = reply.question, reply.answer
    assert (question.module_name, question.content) == ("marker", "Which fields?")
    assert (question.message_type, question.status) == ("question", "complete")
    assert (answer.module_name, answer.content) == ("arangodb", "Use _key")
    assert (answer.message_type, answer.status, answer.error) == ("answer", "complete", None)
    assert answer.metadata["question_id"] == question.message_id
    assert answer.metadata["directory"] == str(module)
    assert answer.metadata["ticket"] == 7
    assert answer.deadline_at is not None
    assert (answer.deadline_at - answer.created_at).total_seconds() == 60
    assert_status_sequence(answer, "pending -> processing -> complete", store=store)

    outcome = reply.outcome
    assert outcome is not None
    assert outcome.answer == outcome.content == "Use _key"
    metadata = dict(answer.metadata)
    assert outcome.as_metadata() == {key: metadata[key] for key in outcome.as_metadata()}
    assert metadata["cost_usd"] is not None
    assert metadata["usage"]
    assert reply.ended
    assert repr(answer.message_id) in repr(reply)
    assert clock.elapsed == 3


def test_what_the_cli_is_given(
    claude: ScriptedClaude, ask: Ask, module: Path, options: dict[str, Any]
) -> None:
    claude.replies("ok")
    ask(
        "-p $(touch x) `y` \"'\0",
        system_prompt="Be brief",
        append_system_prompt="Be kind",
        model="haiku",
        allowed_tools=["Read", "Bash(ls:*)"],
        disallowed_tools=["Write"],
        permission_mode="plan",
        max_turns=4,
        extra_args=["--strict-mcp-config"],
    )
    (call,) = claude.calls
    assert call.stdin == call.prompt == "-p $(touch x) `y` \"'\0"
    assert call.cwd == os.path.realpath(module)
    assert list(module.iterdir()) == []
    assert call.argv == (
        *("-p", "--output-format", "stream-json", "--verbose", "--model", "haiku"),
        *("--system-prompt", "Be brief", "--append-system-prompt", "Be kind"),
        *("--allowedTools", "Read,Bash(ls:*)", "--disallowedTools", "Write"),
        *("--max-turns", "4", "--permission-mode", "plan", "--include-partial-messages"),
        "--strict-mcp-config",
    )
    assert {"CLAUDE_CODE_MAX_RETRIES", "API_TIMEOUT_MS", MARK} <= set(call.env)


def test_the_environment_has_the_last_word(
    store: ConversationStore, ask: Ask, folder: Path, options: dict[str, Any]
) -> None:
    names = "('CLAUDE_CODE_MAX_RETRIES', 'API_TIMEOUT_MS', 'ANTHROPIC_MODEL')"
    write_claude(folder, f"answer(' '.join(os.environ.get(name, '-') for name in {names}))")
    assert ask(max_retries=0, api_timeout=7).answer.content == "0 7000 -"
    assert ask(env={**options["env"], "ANTHROPIC_MODEL": "m"}).answer.content == "3 120000 m"


def test_in_a_thread_that_is_there(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    thread = store.create_thread("earlier", modules=["a"])
    for form in (thread, thread.thread_id):
        claude.replies("ok")
        assert ask(thread=form, title="not used").thread_id == thread.thread_id
    assert len(store.messages(thread)) == 4
    assert [each.title for each in store.threads()] == ["earlier"]
    with pytest.raises(ThreadNotFound):
        ask(thread="none")
    assert len(store.messages()) == 4


def test_two_turns_of_one_session(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    claude.replies("one")
    claude.replies("two")
    claude.replies("three")
    first = ask()
    session = first.answer.metadata["session_id"]
    second = ask(resume=session, thread=first.thread_id)
    assert second.answer.metadata["session_id"] == session
    named = str(uuid.uuid4())
    forked = ask(resume=session, fork_session=True, session_id=named)
    assert forked.answer.metadata["session_id"] == named
    assert [reply.answer.content for reply in (first, second, forked)] == ["one", "two", "three"]


def test_a_session_that_the_cli_does_not_know(claude: ScriptedClaude, ask: Ask) -> None:
    reply = ask(resume="gone")
    assert reply.answer.status == "failed"
    assert reply.answer.metadata["error_kind"] == "error_during_execution"
    assert "No conversation found" in (reply.answer.error or "")


@pytest.mark.parametrize("shape", ["dict", "str", "native"])
def test_stores_of_every_return_shape(
    store: ConversationStore, claude: ScriptedClaude, module: Path, options: dict[str, Any],
    shape: Any,
) -> None:  # fmt: skip
    claude.replies("Use _key", after=1, chunks=3, every=0.2)
    legacy = LegacyReturns(store, shape)
    reply = ask_module(legacy, "marker", module, "q", **options)
    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
    assert reply.question.content == "q"


# -- the stream


def test_text_streams_in_as_it_comes(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("abcdefgh", after=3, chunks=4, every=1)
    reply = ask(wait=False)
    seen: list[tuple[float, str, str]] = []
    for at in (1, 3.5, 4.5, 5.5):
        clock.at(
            at, lambda: seen.append((clock.elapsed, reply.answer.status, reply.answer.content))
        )
    reply.wait()
    assert seen == [
        (1, "processing", ""),
        (3.5, "processing", "ab"),
        (4.5, "processing", "abcd"),
        (5.5, "processing", "abcdef"),
    ]
    assert reply.answer.content == "abcdefgh"
    assert appends(reply, store) == ["ab", "cd", "ef", "gh"]


def test_without_partial_messages_a_block_at_a_time(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    claude.says("first", after=1, chunks=4, every=1).uses_tool("Read", after=1).replies(
        "second", after=1, chunks=3, every=1
    )
    reply = ask(partial_messages=False)
    assert reply.answer.content == "first\n\nsecond"
    assert appends(reply, store) == ["first", "\n\nsecond"]
    assert "--include-partial-messages" not in claude.calls[0].argv


def test_a_chatty_stream_is_ten_writes_a_second(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    text = "".join(chr(97 + n % 26) for n in range(500))
    claude.replies(text, after=1, chunks=500, every=0.01)
    reply = ask()
    assert reply.answer.content == text
    seconds = clock.elapsed - 1
    assert seconds == pytest.approx(4.99)
    assert 40 <= len(appends(reply, store)) <= seconds * SECOND / FLUSH_US + 1


def test_much_text_at_one_instant_is_stored_in_pieces_of_one_size(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    text = "ä€😀x" * 200_000
    claude.replies(text, after=1)
    reply = ask(partial_messages=False)
    assert reply.answer.content == text
    sizes = [len(each) for each in appends(reply, store)]
    assert sizes == [FLUSH_CHARACTERS] * 3 + [len(text) - 3 * FLUSH_CHARACTERS]


def test_deltas_that_turn_out_void_are_taken_back(
    store: ConversationStore, ask: Ask, folder: Path, options: dict[str, Any]
) -> None:
    write_claude(
        folder,
        """
        init()
        event(type="message_start", message={"id": "m1"})
        delta("void " * 60_000)
        line(type="system", subtype="api_retry", attempt=1, session_id="s")
        event(type="message_start", message={"id": "m2"})
        for number in range(1000):
            delta(f"{number} ")
        text("".join(f"{number} " for number in range(1000)), "m2")
        result("x")
        """,
    )
    reply = ask()
    assert reply.answer.content == "".join(f"{number} " for number in range(1000))


def test_retries_are_events(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.retries(529, times=2, every=2).retries(None, every=3).replies("ok")
    reply = ask(wait=False)
    poller = MessagePoller(store)
    events: list[tuple[float, Any]] = []
    poller.track(
        reply.answer,
        on_event=lambda event: events.append((clock.elapsed, dict(event.metadata or {}))),
    )
    poller.wait(reply.answer)
    poller.flush()
    reply.wait()
    told = [(at, m["retry"]["error_status"], m["retries"]) for at, m in events if "retry" in m]
    assert told == [(0, 529, 1), (2, 529, 2), (4, None, 3)]
    assert reply.answer.metadata["retries"] == 3
    assert reply.answer.status == "complete"


def test_a_retry_like_an_earlier_one_is_an_event_too(
    store: ConversationStore, ask: Ask, folder: Path
) -> None:
    write_claude(
        folder,
        """
        init()
        for _ in range(3):
            line(type="system", subtype="api_retry", attempt=1, retry_delay_ms=500, session_id="s")
        text("ok")
        result("ok")
        """,
    )
    reply = ask()
    counts = [
        change.metadata["retries"]
        for change in store.changes(message=reply.answer)
        if change.metadata is not None and "retries" in change.metadata
    ]
    assert counts == [1, 2, 3]


# -- how it ends


ENDS: list[tuple[str, Callable[[ScriptedClaude], object], dict[str, Any], str, str | None]] = [
    ("max_turns", lambda c: c.max_turns(), {}, "failed", "max_turns"),
    ("429", lambda c: c.fails(429), {}, "failed", "api_429"),
    ("500", lambda c: c.retries(500, times=2).fails(500, after=1), {}, "failed", "api_500"),
    ("no connection", lambda c: c.fails(None), {}, "failed", None),
    ("not logged in", lambda c: c.not_logged_in(), {}, "failed", "authentication_failed"),
    ("refuses", lambda c: c.refuses(), {}, "failed", None),
    ("usage", lambda c: c.usage_error("error: no such flag"), {}, "failed", "usage"),
    ("truncated", lambda c: c.replies("Use _key").truncates(), {}, "failed", "no_result"),
    ("KILL", lambda c: c.crashes("KILL", text="Use", after=1), {}, "failed", "signal"),
    ("SEGV", lambda c: c.crashes("SEGV"), {}, "failed", "signal"),
    ("exits 0", lambda c: c.exits(0, after=2), {}, "failed", "no_result"),
    ("exits 3", lambda c: c.exits(3, stderr="oh no"), {}, "failed", "no_result"),
    ("3 after a result", lambda c: c.replies("ok").exits(3), {}, "complete", None),
    ("empty", lambda c: c.replies(""), {}, "complete", None),
    ("denied", lambda c: c.denies("Write").replies("ok"), {}, "complete", None),
]


@pytest.mark.parametrize(("script", "more", "status", "kind"), [e[1:] for e in ENDS],
                         ids=[e[0] for e in ENDS])  # fmt: skip
def test_how_a_run_ends_is_how_the_answer_ends(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask,
    script: Callable[[ScriptedClaude], object], more: dict[str, Any], status: str, kind: str | None,
) -> None:  # fmt: skip
    script(claude)
    reply = ask(**more)
    answer = reply.answer
    assert reply.outcome is not None
    assert answer.status == reply.outcome.status == status
    assert answer.error == reply.outcome.error
    assert (answer.error is None) == (status == "complete")
    assert answer.metadata["error_kind"] == reply.outcome.error_kind
    assert (reply.outcome.error_kind is None) == (status == "complete")
    if kind is not None:
        assert reply.outcome.error_kind == kind
    assert answer.content == reply.outcome.content
    claude.assert_all_used()


def test_warnings_of_a_good_end(claude: ScriptedClaude, ask: Ask) -> None:
    claude.replies("ok").exits(3)
    claude.replies("")
    claude.denies("Write").replies("ok")
    warnings = [ask().answer.metadata["warnings"] for _ in range(3)]
    assert "exit code 3" in warnings[0][0]
    assert "empty" in warnings[1][0]
    assert "Write" in warnings[2][0]


def test_a_deadline(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.goes_silent(after=2, text="Let me look")
    reply = ask(timeout=600)
    assert (reply.answer.status, clock.elapsed) == ("timeout", 600)
    assert reply.answer.content == "Let me look"
    assert reply.answer.error == "no end within 600 s of its creation"
    assert reply.outcome is not None
    assert (reply.outcome.status, reply.outcome.error_kind) == ("timeout", "timeout")
    assert reply.answer.metadata["error_kind"] == "timeout"
    assert claude.calls[0].exit_code == 143
    assert_status_sequence(reply.answer, "pending -> processing -> timeout", store=store)


def test_one_that_ignores_sigterm_is_killed_after_its_grace(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.ignores_term().hangs()
    reply = ask(timeout=60, grace=7, wait=False)
    ended: list[float] = []
    clock.at(60.5, lambda: ended.append(reply.answer.status == "timeout"))
    reply.wait()
    assert clock.elapsed == 67  # the message at 60, the process at 67
    assert ended == [True]
    assert claude.calls[0].exit_code == -9


def test_a_stall(claude: ScriptedClaude, ask: Ask, clock: FakeClock) -> None:
    claude.goes_silent(after=20, chunks=3, every=20)
    reply = ask(timeout=None, stall_timeout=30)
    assert reply.answer.status == "timeout"
    assert reply.answer.error == "nothing happened for 30 s"
    assert clock.elapsed == pytest.approx(60.1 + 30)  # text waits a tenth of a second
    assert reply.answer.content == "Let me look at "


def test_a_run_that_lives_is_not_stalled_though_it_says_nothing(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    run = claude.uses_tool("Bash", after=20)
    for _ in range(6):
        run = run.uses_tool("Bash", after=20)
    run.replies("done", after=20)
    reply = ask(timeout=None, stall_timeout=30, partial_messages=False)
    assert (reply.answer.status, reply.answer.content) == ("complete", "done")
    assert clock.elapsed == 160


def test_any_output_is_a_sign_of_life(real_store: ConversationStore, folder: Path, module: Path,
                                      mark: str) -> None:  # fmt: skip
    """In real time: a hand-written CLI knows no other. Lines that change nothing count."""
    command = [write_claude(folder, """
        init()
        for _ in range(16):
            time.sleep(0.25)
            line(type="tool_progress", elapsed_time_seconds=1, session_id="s")
        text("done")
        result("done")
    """)]  # fmt: skip
    reply = ask_module(
        real_store, "marker", module, "q", command=command, env={MARK: mark}, stall_timeout=3
    )
    assert reply.answer.status == "complete"


def test_signs_of_life_are_few(store: ConversationStore, claude: ScriptedClaude, ask: Ask) -> None:
    run = claude.uses_tool("Bash", after=1)
    for _ in range(60):
        run = run.uses_tool("Bash", after=1)
    run.replies("done", after=1)
    reply = ask(timeout=None, stall_timeout=30, partial_messages=False)
    signs = [
        c for c in store.changes(message=reply.answer) if "signs_of_life" in (c.metadata or {})
    ]
    assert 6 <= len(signs) <= 9, "four per stall limit"
    assert reply.answer.status == "complete"


def test_a_result_and_then_no_exit(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=3).never_exits()
    reply = ask(grace=4)
    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
    assert clock.elapsed == 7
    assert claude.calls[0].exit_code == 143
    assert_status_sequence(reply.answer, "pending -> processing -> complete", store=store)


def test_a_result_no_exit_and_no_obedience(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.ignores_term().replies("Use _key", after=3).never_exits()
    reply = ask(grace=4)
    assert (reply.answer.status, clock.elapsed) == ("complete", 11)


def test_a_failure_and_then_no_exit(claude: ScriptedClaude, ask: Ask, clock: FakeClock) -> None:
    claude.fails(429, after=3).never_exits()
    reply = ask(grace=4)
    assert (reply.answer.metadata["error_kind"], clock.elapsed) == ("api_429", 7)


def test_no_exit_within_a_short_stall_limit(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=1).never_exits()
    reply = ask(stall_timeout=2, grace=5)
    assert reply.answer.status == "complete"
    assert clock.elapsed == 1.5


def test_no_grace_is_no_haste(real_store: ConversationStore, folder: Path, module: Path,
                              mark: str) -> None:  # fmt: skip
    """In real time: the CLI takes a tenth of a second to exit after its result."""
    command = [write_claude(folder, "answer('ok'); time.sleep(0.3)")]
    reply = ask_module(
        real_store, "marker", module, "q", command=command, env={MARK: mark}, grace=0, timeout=30
    )
    assert (reply.answer.status, reply.answer.metadata["warnings"]) == ("complete", [])


@pytest.mark.parametrize("partly", [False, True])
def test_who_waits_for_background_tasks_or_is_in_another_turn_does_not_linger(
    real_store: ConversationStore, folder: Path, module: Path, mark: str, partly: bool
) -> None:
    """In real time; as recorded in 04l_bash_background.jsonl, with a longer silence."""
    command = [write_claude(folder, f"""
        init()
        line(type="system", subtype="background_tasks_changed", tasks=[{{"task_id": "b"}}])
        text("started")
        result("started")
        {"time.sleep(1.4)" if not partly else ""}
        line(type="system", subtype="background_tasks_changed", tasks=[])
        init()
        {"time.sleep(1.4)" if partly else ""}
        text("done", "m2")
        result("done")
    """)]  # fmt: skip
    reply = ask_module(
        real_store, "marker", module, "q", command=command, env={MARK: mark}, grace=1, timeout=30
    )
    assert (reply.answer.status, reply.answer.content) == ("complete", "started\n\ndone")
    assert reply.outcome is not None
    assert len(reply.outcome.results) == 2
    assert reply.answer.metadata["warnings"] == []


# -- waiting and cancelling


def test_wait_false_returns_when_claude_runs(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=30)
    reply = ask(wait=False)
    assert clock.elapsed == 0
    assert len(running()) == 1
    assert reply.outcome is None
    assert not reply.ended
    assert [m.content for m in store.messages()] == ["Which fields?", ""]
    assert reply.wait() is reply
    assert clock.elapsed == 30
    assert reply.answer.content == "Use _key"
    assert reply.wait(timeout=0) is reply


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("patience", [None, 30, 60])
@pytest.mark.parametrize("waits", ["the run", "a poller", "a started poller", "advance"])
def test_an_answer_at_the_very_instant_of_its_deadline_counts(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock, waits: str,
    patience: float | None, chunks: int,
) -> None:  # fmt: skip
    """Those who look come after all that is written at an instant, also by a process."""
    claude.replies("Use _key", after=30, chunks=chunks)
    reply = ask(wait=False, timeout=30)
    poller = MessagePoller(store)
    if waits == "the run":
        reply.wait(timeout=patience)
    elif waits == "a poller":
        poller.wait(reply.answer, timeout=patience)
    elif waits == "a started poller":
        with poller:
            clock.run_until_idle()
    else:
        clock.advance(30)
    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
    assert clock.elapsed == 30
    reply.wait(timeout=0)


def test_the_very_instant_for_asyncio(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=30, chunks=3)
    reply = ask(wait=False, timeout=30)

    async def follow() -> str:
        poller = MessagePoller(store)
        await asyncio.gather(reply.wait_async(timeout=30), poller.wait_async(reply.answer, 30))
        return str(reply.answer.status)

    assert asyncio.run(follow()) == "complete"
    assert clock.elapsed == 30


def test_an_answer_after_its_deadline_does_not_count(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=30.000001)
    reply = ask(timeout=30)
    assert (reply.answer.status, clock.elapsed) == ("timeout", 30)


def test_patience_is_not_the_answer_s_deadline(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=30)
    reply = ask(wait=False)
    with pytest.raises(WaitTimeout):
        reply.wait(timeout=10)
    assert clock.elapsed == 10
    assert reply.answer.status == "processing"
    reply.wait(timeout=100)
    assert (reply.answer.status, clock.elapsed) == ("complete", 30)


def test_patience_that_ends_says_that_the_run_goes_on(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.replies("Use _key", after=30)
    reply = ask(wait=False)
    with pytest.raises(WaitTimeout, match=r"its run goes on: give ask_module a timeout="):
        reply.wait(timeout=10)
    with pytest.raises(WaitTimeout, match=r"its run goes on: give ask_module a timeout="):
        asyncio.run(reply.wait_async(timeout=10))
    reply.wait()


def test_what_is_no_store_and_what_is_no_message(
    ask: Ask, claude: ScriptedClaude, store: ConversationStore, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"^store must be a store, not 'sqlite:///x.db'; open one"):
        ask_module("sqlite:///x.db", "a", tmp_path, "q")  # type: ignore[arg-type]
    claude.replies("x")
    with pytest.raises(TypeError, match=r"not <Reply .*>; pass its \.answer$"):
        MessagePoller(store).wait(ask())  # type: ignore[arg-type]


def test_cancel(store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
                mark: str) -> None:  # fmt: skip
    claude.goes_silent(after=1, text="Let me")
    reply = ask(wait=False)
    clock.advance(5)
    assert reply.cancel().status == "cancelled"
    assert clock.elapsed == 5
    assert marked(mark) == []
    assert reply.answer.content == "Let me"
    assert reply.outcome is not None
    assert reply.outcome.status == reply.outcome.error_kind == "cancelled"
    assert reply.cancel() == reply.answer
    assert_status_sequence(reply.answer, "pending -> processing -> cancelled", store=store)


def test_cancel_after_the_end_changes_nothing(claude: ScriptedClaude, ask: Ask) -> None:
    claude.replies("ok")
    reply = ask()
    before = reply.answer
    assert reply.cancel() == before
    assert before.status == "complete"


def test_setting_the_status_cancels(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.ignores_term().hangs()
    reply = ask(wait=False, grace=3)
    clock.at(7, store.update_message, reply.answer, status="cancelled", error="enough")
    reply.wait()
    assert clock.elapsed == 10
    assert (reply.answer.status, reply.answer.error) == ("cancelled", "enough")
    assert reply.outcome is not None
    assert reply.outcome.status == "cancelled"


@pytest.fixture
def in_real_time(
    real_store: ConversationStore, folder: Path, module: Path, mark: str
) -> Iterator[tuple[ScriptedClaude, Callable[..., Reply]]]:
    with ScriptedClaude(folder) as claude:

        def ask(**more: Any) -> Reply:
            more.setdefault("timeout", 60)
            command = [claude.executable]
            return ask_module(
                real_store, "marker", module, "q", command=command, env={MARK: mark}, **more
            )

        yield claude, ask


_CANCEL = """
import sys
from pytest_claude_comms import open_store
with open_store(sys.argv[1], durability="process") as store:
    store.update_message(sys.argv[2], status="cancelled")
"""


def test_another_process_cancels(
    real_store: ConversationStore, in_real_time: tuple[ScriptedClaude, Callable[..., Reply]]
) -> None:
    """In real time: another process knows no fake one."""
    claude, ask = in_real_time
    claude.hangs()
    reply = ask(wait=False)
    subprocess.run(
        [sys.executable, "-c", _CANCEL, real_store.url, reply.answer.message_id],
        check=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    reply.wait(timeout=20)
    assert reply.answer.status == "cancelled"
    assert reply.outcome is not None
    assert reply.outcome.status == "cancelled"


_ASK = """
import sys
from pytest_claude_comms import ask_module, open_store
url, folder, cli, name, mark = sys.argv[1:]
with open_store(url, durability="process") as store:
    try:
        ask_module(store, "marker", folder, "q", command=[cli], env={name: mark}, timeout=60)
    except KeyboardInterrupt:
        print([message.status.value for message in store.messages()])
"""


def test_ctrl_c_in_the_caller_cancels(
    real_store: ConversationStore, in_real_time: tuple[ScriptedClaude, Callable[..., Reply]],
    module: Path, mark: str,
) -> None:  # fmt: skip
    """In real time: the signal is real."""
    claude, _ = in_real_time
    claude.hangs()
    with subprocess.Popen(
        [sys.executable, "-c", _ASK, real_store.url, module, claude.executable, MARK, mark],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    ) as caller:
        assert until(
            lambda: "processing" in [message.status.value for message in real_store.messages()]
        )
        caller.send_signal(signal.SIGINT)
        said, _ = caller.communicate(timeout=20)
    assert said == "['complete', 'cancelled']\n"
    assert marked(mark) == []


# -- what is refused


BAD: list[tuple[dict[str, Any], type[BaseException]]] = [
    ({"prompt": ""}, ValueError),
    ({"prompt": " \n"}, ValueError),
    ({"prompt": b"x"}, TypeError),
    ({"prompt": "\ud800"}, ValueError),
    ({"questioner": 3}, TypeError),
    ({"timeout": -1}, ValueError),
    ({"timeout": "1"}, TypeError),
    ({"timeout": 2e11}, ValueError),
    ({"stall_timeout": float("nan")}, ValueError),
    ({"grace": -1}, ValueError),
    ({"grace": None}, TypeError),
    ({"metadata": {"k": {1}}}, TypeError),
    ({"metadata": {1: 1}}, TypeError),
    ({"metadata": [1]}, TypeError),
    ({"title": 3}, TypeError),
    ({"command": "claude"}, TypeError),
    ({"command": []}, ValueError),
    ({"resume": "-x"}, ValueError),
    ({"session_id": "x"}, ValueError),
    ({"fork_session": True}, ValueError),
    ({"max_turns": 0}, ValueError),
    ({"allowed_tools": "Read"}, TypeError),
    ({"extra_args": ["-p"]}, ValueError),
    ({"env": {"A": 1}}, TypeError),
    ({"env": ["A=1"]}, TypeError),
    ({"on_update": "print"}, TypeError),
    ({"env": {"A=": "1"}}, ValueError),
    ({"max_retries": -1}, ValueError),
    ({"api_timeout": 0}, ValueError),
    ({"model": "a\0"}, ValueError),
    ({"command": ["no-such-claude"]}, ClaudeNotFound),
    ({"command": ["/no/such/claude"]}, ClaudeNotFound),
    ({"responder": "/no/such/module"}, ModuleDirectoryNotFound),
    ({"responder": __file__}, ModuleDirectoryNotFound),
]


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(("wrong", "error"), BAD, ids=[f"{b[0]}"[1:-1][:40] for b in BAD])
def test_what_is_refused_leaves_nothing_stored(
    clock: FakeClock, module: Path, options: dict[str, Any], claude: ScriptedClaude,
    wrong: dict[str, Any], error: type[BaseException], in_thread: bool,
) -> None:  # fmt: skip
    with MemoryConversationStore(clock=clock) as store:
        thread = store.create_thread() if in_thread else None
        call = {
            "questioner": "marker",
            "responder": module,
            "prompt": "q",
            "thread": thread,
            **options,
            **wrong,
        }
        with pytest.raises(error):
            ask_module(store, **call)
        assert store.messages() == []
        assert len(store.threads()) == in_thread
    assert claude.calls == []
    assert runner_threads() == []


def test_a_directory_whose_name_is_no_text(
    clock: FakeClock, tmp_path: Path, options: dict[str, Any], claude: ScriptedClaude
) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"a\xff")
    os.mkdir(path)
    with MemoryConversationStore(clock=clock) as store:
        with pytest.raises(ValueError, match="responder"):
            ask_module(
                store, "marker", os.fsdecode(path), "q", thread=store.create_thread(), **options
            )
        assert store.messages() == []


def test_errors_say_how_to_get_one(
    clock: FakeClock, module: Path, options: dict[str, Any], folder: Path
) -> None:
    with MemoryConversationStore(clock=clock) as store:
        with pytest.raises(ClaudeNotFound, match="pip install claude-agent-sdk") as missing:
            ask_module(store, "marker", module, "q", **options)
        assert missing.value.command == str(folder / "claude")
        with pytest.raises(ModuleDirectoryNotFound) as nowhere:
            ask_module(store, "marker", module / "no", "q", **options)
        assert nowhere.value.path == str(module / "no")


def test_a_path_from_a_current_directory_that_is_gone(
    clock: FakeClock, module: Path, options: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with MemoryConversationStore(clock=clock) as store:
        with pytest.raises(ModuleDirectoryNotFound, match="current directory.* is gone") as nowhere:
            ask_module(store, "marker", "arangodb", "q", **options)
        assert nowhere.value.path == "arangodb"
        with pytest.raises(ClaudeNotFound, match="current directory.* is gone") as missing:
            ask_module(store, "marker", module, "q", **{**options, "command": ["./claude"]})
        assert missing.value.command == "./claude"
        assert store.messages() == []


def test_a_cli_that_cannot_be_started(store: ConversationStore, ask: Ask, folder: Path) -> None:
    path = folder / "claude"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    with pytest.raises(ClaudeError, match="interpreter"):
        ask()
    question, answer = store.messages()
    assert (question.status, answer.status) == ("complete", "failed")
    assert "interpreter" in (answer.error or "")


def test_a_system_prompt_too_long_for_an_argument(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    with pytest.raises(ClaudeError, match="too long"):
        ask(system_prompt="x" * 200_000, wait=False)
    assert [message.status for message in store.messages()] == ["complete", "failed"]


def test_no_thread_to_be_had(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(clock, "spawn", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            ask()
    assert store.messages()[1].status == "failed"
    assert claude.calls == []


# -- a store in trouble


@contextmanager
def trouble(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch, error: Exception, times: float
) -> Iterator[list[int]]:
    """``update_message`` of an answer under way raises so often."""
    update, count = store.update_message, [0]

    def troubled(message: Any, **changes: Any) -> Any:
        if changes.get("status") != "processing" and count[0] < times:
            count[0] += 1
            raise error
        return update(message, **changes)

    with monkeypatch.context() as patch:
        patch.setattr(store, "update_message", troubled)
        yield count


def test_a_store_that_is_busy_for_a_while_loses_nothing(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    claude.replies("Use _key", after=1, chunks=4, every=1)
    with trouble(store, monkeypatch, StoreBusy("x", 5), times=20) as count:
        reply = ask()
    assert count == [20]
    assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")


def test_an_answer_whose_store_fails_is_failed_and_its_run_ended(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    claude.replies("Use _key", after=1, chunks=4, every=1)
    full = StoreError("the disk is full")
    monkeypatch.setattr(StoreError, "transient", False)
    with trouble(store, monkeypatch, full, times=1), pytest.raises(StoreError, match="disk"):
        ask(timeout=None)
        clock.advance(0)
    answer = store.messages()[1]
    assert (answer.status, answer.error) == ("failed", "the run was lost: the disk is full")
    assert running() == {}


# -- many at once


def test_text_that_comes_when_earlier_text_is_stored(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask
) -> None:
    for _ in range(8):
        claude.replies("abcdef", chunks=6, every=0.05)
        assert appends(ask(), store) == ["ab", "cd", "ef"]


def test_two_at_once(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    claude.when(prompt="one").replies("first", after=5)
    claude.when(prompt="two").replies("second", after=3)
    one, two = ask("one", wait=False), ask("two", wait=False)
    two.wait()
    assert (clock.elapsed, one.answer.status) == (3, "processing")
    one.wait()
    assert (clock.elapsed, one.answer.content, two.answer.content) == (5, "first", "second")


def test_eight_at_once_from_actors(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, clock: FakeClock
) -> None:
    for number in range(8):
        if number % 4 == 3:
            claude.when(prompt=f"^{number}$").goes_silent(after=1, text=f"t{number}")
        else:
            claude.when(prompt=f"^{number}$").replies(f"t{number}", after=number, chunks=2, every=1)
    found: dict[int, tuple[str, str]] = {}

    def one(number: int) -> None:
        answer = ask(str(number), timeout=20).answer
        found[number] = (answer.status.value, answer.content)

    for handle in [clock.spawn(one, number) for number in range(8)]:
        handle.join()
    assert found == {
        number: ("timeout" if number % 4 == 3 else "complete", f"t{number}") for number in range(8)
    }
    assert clock.elapsed == 20


# -- asyncio


def test_the_asyncio_twin(
    store: ConversationStore, claude: ScriptedClaude, module: Path, options: dict[str, Any],
    clock: FakeClock,
) -> None:  # fmt: skip
    async def main() -> None:
        claude.replies("Use _key", after=3, chunks=4, every=0.5)
        ticks: list[float] = []

        async def tick() -> None:
            while True:
                await asyncio.sleep(1)
                ticks.append(clock.elapsed)

        ticking = asyncio.ensure_future(tick())
        reply = await ask_module_async(store, "marker", module, "q", **options)
        ticking.cancel()
        assert (reply.answer.status, reply.answer.content) == ("complete", "Use _key")
        assert (clock.elapsed, ticks) == (4.5, [1, 2, 3, 4])

        claude.replies("later", after=10)
        reply = await ask_module_async(store, "marker", module, "q", wait=False, **options)
        with pytest.raises(WaitTimeout):
            await reply.wait_async(timeout=1)
        assert await reply.wait_async(timeout=20) is reply
        assert reply.ended
        assert (reply.answer.content, clock.elapsed) == ("later", 14.5)

        claude.hangs()
        reply = await ask_module_async(store, "marker", module, "q", wait=False, **options)
        assert (await reply.cancel_async()).status == "cancelled"
        assert reply.ended

    asyncio.run(main())


def test_cancelling_the_task_ends_the_child(
    store: ConversationStore, claude: ScriptedClaude, module: Path, options: dict[str, Any],
    clock: FakeClock, mark: str,
) -> None:  # fmt: skip
    async def main() -> None:
        claude.ignores_term().hangs()
        task = asyncio.ensure_future(
            ask_module_async(store, "marker", module, "q", **{**options, "grace": 2})
        )
        await asyncio.sleep(5)
        assert len(marked(mark)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert clock.elapsed == 7
        assert marked(mark) == []

        claude.hangs()
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                ask_module_async(store, "marker", module, "q", **options), timeout=10
            )
        assert clock.elapsed == 17
        assert marked(mark) == []

    asyncio.run(main())
    assert [m.status.value for m in store.messages()] == ["complete", "cancelled"] * 2


def test_cancelling_who_awaits_leaves_the_run_alone(
    store: ConversationStore, claude: ScriptedClaude, module: Path, options: dict[str, Any]
) -> None:
    async def main() -> Reply:
        claude.replies("ok", after=10)
        reply = await ask_module_async(store, "marker", module, "q", wait=False, **options)
        waiting = asyncio.ensure_future(reply.wait_async())
        await asyncio.sleep(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return reply

    reply = asyncio.run(main())  # and its loop is closed when the run ends
    assert reply.answer.status == "processing"
    assert reply.wait().answer.content == "ok"


def test_several_tasks(
    store: ConversationStore, claude: ScriptedClaude, module: Path, options: dict[str, Any],
    clock: FakeClock,
) -> None:  # fmt: skip
    for number in range(4):
        claude.when(prompt=f"^{number}$").replies(f"t{number}", after=number + 1)

    async def main() -> list[Reply]:
        return await asyncio.gather(
            *(ask_module_async(store, "m", module, str(n), **options) for n in range(4))
        )

    assert [reply.answer.content for reply in asyncio.run(main())] == ["t0", "t1", "t2", "t3"]
    assert clock.elapsed == 4


# -- the same every time


def _script(claude: ScriptedClaude) -> None:
    claude.when(prompt="hang").says("Let me look. ", after=1, chunks=5, every=0.03).uses_tool(
        "Read", result="x" * 100_000, after=40
    ).retries(529, times=2, every=0.7).goes_silent(
        after=2, text="ab" * 200_000, chunks=7, every=0.05
    )
    claude.when(prompt="cancel").ignores_term().goes_silent(after=0.5)
    claude.when(prompt="answer").replies("Use _key " * 50, after=2, chunks=50, every=0.013)


def _sync(store: ConversationStore, clock: FakeClock, ask: Callable[..., Any]) -> None:
    replies = [ask_module(store, *ask(word), wait=False, **ask()) for word in ("hang", "cancel")]
    clock.at(5, replies[1].cancel)
    ask_module(store, *ask("answer"), **ask())
    for reply in replies:
        reply.wait()


async def _async(store: ConversationStore, clock: FakeClock, ask: Callable[..., Any]) -> None:
    tasks = [
        asyncio.ensure_future(ask_module_async(store, *ask(word), **ask()))
        for word in ("hang", "cancel")
    ]
    await asyncio.sleep(0)
    await ask_module_async(store, *ask("answer"), **ask())
    await asyncio.sleep(5 - clock.elapsed)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def one_run(folder: Path, module: Path, mark: str, *, by_asyncio: bool) -> list[tuple[Any, ...]]:
    def ask(*words: str) -> Any:
        if words:
            return ("marker", module, *words)
        return {
            "command": [str(folder / "claude")],
            "env": {MARK: mark},
            "timeout": 600,
            "stall_timeout": 300,
        }

    with FakeClock() as clock:
        clock.install(freeze=False)
        with MemoryConversationStore(clock=clock) as store, ScriptedClaude(folder, clock) as claude:
            _script(claude)
            if by_asyncio:
                asyncio.run(_async(store, clock, ask))
            else:
                _sync(store, clock, ask)
            found = trace(store)
        found.append((clock.elapsed,))
        assert until(lambda: clock._scheduler._outside == {}, 2)
    return found


@pytest.mark.parametrize("by_asyncio", [False, True], ids=["sync", "asyncio"])
@pytest.mark.parametrize("runs", [8, pytest.param(1000, marks=pytest.mark.long)])
def test_one_trace(folder: Path, module: Path, mark: str, runs: int, by_asyncio: bool) -> None:
    first = one_run(folder, module, mark, by_asyncio=by_asyncio)
    assert {row[2] for row in first[:-1]} >= {"complete", "timeout", "cancelled"}
    assert first[-1] == (pytest.approx(347.8, abs=5),)
    for _ in range(runs - 1):
        assert one_run(folder, module, mark, by_asyncio=by_asyncio) == first
    threads = [thread.name for thread in threading.enumerate() if "claude" in thread.name]
    assert threads == []


@pytest.mark.parametrize("by_asyncio", [False, True], ids=["sync", "asyncio"])
@pytest.mark.parametrize("runs", [8, pytest.param(1000, marks=pytest.mark.long)])
def test_a_hang_of_ten_minutes_is_one_trace(
    folder: Path, module: Path, mark: str, runs: int, by_asyncio: bool
) -> None:
    def once() -> list[tuple[Any, ...]]:
        with FakeClock() as clock:
            clock.install(freeze=False)
            with MemoryConversationStore(clock=clock) as store, ScriptedClaude(
                folder, clock
            ) as claude:  # fmt: skip
                claude.hangs()
                call: dict[str, Any] = {"command": [claude.executable], "env": {MARK: mark}}
                call = {**call, "timeout": 600}
                if by_asyncio:
                    asyncio.run(_alone(store, module, call))
                else:
                    ask_module(store, "marker", module, "q", **call)
                assert clock.elapsed == 600
                return trace(store)

    first = once()
    assert [row[:3] for row in first] == [
        *((0, 0, "complete"), (1, 0, "pending"), (1, 0, "processing"), (1, 0, "processing")),
        *((1, 600, "timeout"), (1, 600, "timeout")),
    ]
    for _ in range(runs - 1):
        assert once() == first


async def _alone(store: ConversationStore, module: Path, call: dict[str, Any]) -> None:
    await ask_module_async(store, "marker", module, "q", **call)


# -- tests that would not notice are no tests: each of these promises, broken


def _broken(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, value: object) -> None:
    monkeypatch.setattr(owner, name, value)


def test_broken_it_would_be_seen_that_nothing_is_batched(
    store: ConversationStore, claude: ScriptedClaude, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, Answer, "flush_if_due", lambda self: self.flush())
    claude.replies("x" * 100, chunks=100, every=0.01)
    assert len(appends(ask(), store)) > 50


def test_broken_it_would_be_seen_that_no_life_is_shown(
    claude: ScriptedClaude, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, Answer, "show_life", lambda self: None)
    claude.uses_tool("Bash", after=20).uses_tool("Bash", after=20).replies("done", after=20)
    assert ask(stall_timeout=30, partial_messages=False).answer.status == "timeout"


def test_broken_it_would_be_seen_that_nobody_looks_at_the_message(
    claude: ScriptedClaude, ask: Ask, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, Answering, "_look_at_message", lambda self, process, **_: None)
    claude.replies("Use _key", after=30)
    reply = ask(wait=False)
    clock.at(5, reply.cancel)
    reply.wait()
    assert clock.elapsed == 30  # and not 5


def test_broken_it_would_be_seen_that_a_run_lingers(
    claude: ScriptedClaude, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, Answering, "_expect_exit", lambda self: None)
    claude.replies("Use _key").never_exits()
    assert ask(timeout=30).answer.status == "timeout"
