"""``ask_module`` with the true CLI: a real process, real pipes, real signals.

The time is real too, which is why the delays and deadlines are short.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_claude_comms import (
    ConversationStore,
    Message,
    MessagePoller,
    MessageStatus,
    Reply,
)
from pytest_claude_comms.claude.process import running
from tests.real.conftest import Real, until
from tests.real.messages_api import Script

pytestmark = pytest.mark.real_claude

ROOT = Path(__file__).resolve().parents[2]
_SLACK = 5.0
"""Real seconds that two busy cores may add to whatever is waited for."""


def kind(message: Message) -> object:
    return message.metadata["error_kind"]


def retries(store: ConversationStore, message: Message) -> list[dict[str, object]]:
    """What the message's history tells of them."""
    return [
        change.metadata["retry"]
        for change in store.changes()
        if change.message_id == message.message_id
        and change.metadata is not None
        and "retry" in change.metadata
    ]


def texts(store: ConversationStore, message: Message) -> list[str]:
    """The content after each change."""
    content, found = "", []
    for change in store.changes():
        if change.message_id == message.message_id:
            content = change.content if change.content is not None else content
            content += change.append or ""
            found.append(content)
    return found


@pytest.fixture
def runner_env(real: Real) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


# -- complete


def test_the_answer_comes_whole(real: Real, store: ConversationStore) -> None:
    real.api.says("Use _key. Größe — 数")

    reply = real.ask(store)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert reply.answer.content == "Use _key. Größe — 数"
    assert reply.outcome is not None
    assert reply.outcome.unknown_lines == 0
    assert reply.outcome.warnings == ()
    told = reply.answer.metadata
    assert told["num_turns"] == 1
    assert told["usage"]["output_tokens"] == 5
    assert told["cost_usd"] > 0
    assert [(each.method, each.path) for each in real.server.asked] == [
        ("POST", "/main/v1/messages?beta=true")
    ]


def test_deltas_come_as_they_are_sent(real: Real, store: ConversationStore) -> None:
    text = "".join(f"word{number} " for number in range(40))
    real.api.says(text, pieces=20, pause=0.05)

    reply = real.ask(store)

    seen = [each for each in texts(store, reply.answer) if each]
    assert len(set(seen)) >= 4
    assert all(text.startswith(each) for each in seen)
    assert reply.answer.content == text


def test_two_blocks_are_kept_both(real: Real, store: ConversationStore) -> None:
    real.api.says("Use _key.", "Not _id.", pieces=3)

    reply = real.ask(store)

    assert reply.answer.content == "Use _key.\n\nNot _id."
    assert reply.outcome is not None
    assert reply.outcome.answer == "Not _id."


def test_without_partial_messages_the_text_is_the_same(
    real: Real, store: ConversationStore
) -> None:
    real.api.says("Use _key.", "Not _id.", pieces=3)

    reply = real.ask(store, partial_messages=False)

    assert reply.answer.content == "Use _key.\n\nNot _id."


def test_a_long_answer_comes_whole(real: Real, store: ConversationStore) -> None:
    text = "".join(f"{number:07d}\n" for number in range(75_000))  # 600 KB
    real.api.says(text, pieces=300)

    reply = real.ask(store)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert reply.answer.content == text
    assert len(texts(store, reply.answer)) < 60


def test_a_tool_is_used(real: Real, store: ConversationStore) -> None:
    (real.module / "schema.txt").write_text("the key is _key\n")
    real.api.uses_tool("Read", {"file_path": str(real.module / "schema.txt")})
    real.api.says("It says _key.")

    reply = real.ask(store, allowed_tools=["Read"])

    assert reply.answer.status is MessageStatus.COMPLETE
    assert reply.answer.content == "It says _key."
    assert reply.answer.metadata["num_turns"] == 2
    assert reply.answer.metadata["permission_denials"] == []
    assert real.api.requests == 2


def test_a_tool_that_is_not_allowed_is_denied(real: Real, store: ConversationStore) -> None:
    real.api.uses_tool("Write", {"file_path": str(real.module / "new.txt"), "content": "x"})
    real.api.says("I may not.")

    reply = real.ask(store)

    assert reply.answer.status is MessageStatus.COMPLETE
    (denial,) = reply.answer.metadata["permission_denials"]
    assert denial["tool_name"] == "Write"
    assert not (real.module / "new.txt").exists()


def test_an_empty_answer_is_complete_with_a_warning(real: Real, store: ConversationStore) -> None:
    real.api.is_empty(forever=True)

    reply = real.ask(store)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert reply.answer.content == ""
    assert reply.answer.metadata["warnings"] == ["the result text is empty"]


# -- the API fails

_NO_RETRY = {"x-should-retry": "false"}
_CONNECTION = "server_error"


@pytest.mark.parametrize(
    ("fail", "expected"),
    [
        pytest.param(lambda api: api.fails(400, forever=True), "api_400", id="400"),
        pytest.param(lambda api: api.fails(401, headers=_NO_RETRY), "api_401", id="401"),
        pytest.param(lambda api: api.fails(403, forever=True), "api_403", id="403"),
        pytest.param(lambda api: api.fails(404, forever=True), "api_404", id="404"),
        pytest.param(lambda api: api.fails(413, forever=True), "api_413", id="413"),
        pytest.param(lambda api: api.fails(429, forever=True), "api_429", id="429"),
        pytest.param(lambda api: api.fails(500, forever=True), "api_500", id="500"),
        pytest.param(lambda api: api.fails(529, forever=True), "api_529", id="529"),
        pytest.param(lambda api: api.drops(forever=True), _CONNECTION, id="dropped"),
    ],
)
def test_an_error_of_the_api_is_why_it_failed(
    real: Real, store: ConversationStore, fail: Callable[[Script], None], expected: str
) -> None:
    fail(real.api)

    reply = real.ask(store)

    assert reply.answer.status is MessageStatus.FAILED
    assert kind(reply.answer) == expected
    assert reply.answer.error
    assert reply.answer.content == reply.answer.error  # the CLI tells of it as of an answer


def test_nobody_there_to_ask(real: Real, store: ConversationStore) -> None:
    env = {**real.env, "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}  # discard: nobody listens

    reply = real.ask(store, env=env)

    assert reply.answer.status is MessageStatus.FAILED
    assert kind(reply.answer) == _CONNECTION


def test_no_answer_of_the_api_in_its_time(real: Real, store: ConversationStore) -> None:
    real.api.hangs()

    reply = real.ask(store, api_timeout=1)

    assert reply.answer.status is MessageStatus.FAILED
    assert "timed out" in (reply.answer.error or "")


@pytest.mark.parametrize("status", [429, 500, 529])
def test_a_request_that_is_tried_again_is_seen(
    real: Real, store: ConversationStore, status: int
) -> None:
    real.api.fails(status)
    real.api.says("Use _key.")

    reply = real.ask(store, max_retries=1)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert reply.answer.content == "Use _key."
    assert reply.answer.metadata["retries"] == 1
    (retry,) = retries(store, reply.answer)
    assert (retry["attempt"], retry["max_retries"], retry["error_status"]) == (1, 1, status)
    assert real.api.requests == 2


def test_a_connection_that_drops_before_the_answer_is_tried_again(
    real: Real, store: ConversationStore
) -> None:
    real.api.drops()
    real.api.says("Use _key.")

    reply = real.ask(store, max_retries=1)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert [retry["error_status"] for retry in retries(store, reply.answer)] == [None]


def test_what_was_said_before_a_cut_is_void(real: Real, store: ConversationStore) -> None:
    real.api.drops("Use _id, as")
    real.api.says("Use _key.")

    reply = real.ask(store, max_retries=1)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert reply.answer.content == "Use _key."
    assert reply.answer.metadata["retries"] >= 1


# -- it hangs


def test_a_hang_ends_at_the_deadline(real: Real, store: ConversationStore) -> None:
    real.api.hangs()

    reply = real.ask(store, timeout=3)

    assert reply.answer.status is MessageStatus.TIMEOUT
    assert reply.outcome is not None
    assert reply.outcome.error_kind == "timeout"
    assert reply.ended
    assert running() == {}
    assert real.processes() == []


def test_a_hang_in_the_middle_keeps_what_was_said(real: Real, store: ConversationStore) -> None:
    real.api.hangs("Use _ke")

    reply = real.ask(store, timeout=3)

    assert reply.answer.status is MessageStatus.TIMEOUT
    assert reply.answer.content == "Use _ke"
    assert real.processes() == []


def test_a_hang_ends_at_the_stall_limit(real: Real, store: ConversationStore) -> None:
    real.api.hangs("Use _ke")

    reply = real.ask(store, stall_timeout=3)

    assert reply.answer.status is MessageStatus.TIMEOUT
    assert real.processes() == []


# -- it is cancelled


@contextmanager
def asked(real: Real, store: ConversationStore) -> Iterator[tuple[Reply, int]]:
    """A run that hangs in the middle of its answer, and its pid."""
    real.api.hangs("Use _ke")
    reply = real.ask(store, wait=False)
    (pid,) = running()
    until(lambda: reply.answer.content)
    yield reply, pid
    assert not os.path.exists(f"/proc/{pid}")
    assert real.processes() == []


def test_cancelled_by_who_asked(real: Real, store: ConversationStore) -> None:
    with asked(real, store) as (reply, _):
        answer = reply.cancel()

    assert answer.status is MessageStatus.CANCELLED
    assert answer.content == "Use _ke"
    assert reply.outcome is not None
    assert reply.outcome.error_kind == "cancelled"


_CANCEL = """
import sys
from pytest_claude_comms import open_store

with open_store(sys.argv[1], durability="process") as store:
    store.update_message(sys.argv[2], status="cancelled")
"""


def test_cancelled_by_another_process(
    real: Real, store: ConversationStore, runner_env: dict[str, str]
) -> None:
    with asked(real, store) as (reply, _):
        argv = [sys.executable, "-c", _CANCEL, store.url, reply.answer.message_id]
        # A home of its own, so that it is not taken for one of ours.
        subprocess.run(argv, env={**runner_env, "HOME": "/nonexistent"}, check=True, timeout=30)
        reply.wait(1 + _SLACK)

    assert reply.answer.status is MessageStatus.CANCELLED
    assert reply.outcome is not None
    assert reply.outcome.status is MessageStatus.CANCELLED


# -- its runner is killed

_RUNNER = """
import os, sys
from pytest_claude_comms import ask_module, open_store

with open_store(sys.argv[1], durability="process") as store:
    ask_module(store, "marker", sys.argv[2], "Which key?", command=(sys.argv[3],),
               thread=sys.argv[4], stall_timeout=3, grace=1)
"""


def test_who_kills_the_runner_ends_the_run(
    real: Real, store: ConversationStore, runner_env: dict[str, str]
) -> None:
    real.api.hangs("Use _ke")
    thread = store.create_thread().thread_id
    argv = [sys.executable, "-c", _RUNNER, store.url, str(real.module), real.cli, thread]
    runner = subprocess.Popen(argv, env=runner_env, stderr=subprocess.PIPE)
    try:
        until(lambda: any(each.content == "Use _ke" for each in store.messages(thread)))
        assert len(real.processes()) >= 2  # the runner, the CLI
        runner.send_signal(signal.SIGKILL)
    finally:
        runner.kill()
        runner.communicate()
    answer = store.messages(thread)[-1]
    until(lambda: not real.processes(), 1 + _SLACK)

    MessagePoller(store).wait(answer.message_id, 3 + _SLACK)  # which asks the store to expire it

    answer = store.get_message(answer)
    assert answer.status is MessageStatus.TIMEOUT
    assert answer.content == "Use _ke"


# -- several, and sessions


def test_two_at_once_in_one_home_do_not_mix(real: Real, store: ConversationStore) -> None:
    scripts = {name: real.server.at(name) for name in ("first", "second")}
    for name, script in scripts.items():
        script.says(f"I am the {name}.", pieces=4, pause=0.1)

    replies = {
        name: real.ask(store, env=real.at(script), wait=False) for name, script in scripts.items()
    }
    for reply in replies.values():
        reply.wait(30)

    for name, reply in replies.items():
        assert reply.answer.status is MessageStatus.COMPLETE
        assert reply.answer.content == f"I am the {name}."
    sessions = {reply.answer.metadata["session_id"] for reply in replies.values()}
    assert len(sessions) == 2


def test_a_session_goes_on(real: Real, store: ConversationStore) -> None:
    real.api.says("Use _key.")
    real.api.says("As I said.")
    first = real.ask(store)
    session = first.answer.metadata["session_id"]

    second = real.ask(store, "Sure?", resume=session, thread=first.thread_id)

    assert second.answer.status is MessageStatus.COMPLETE
    assert second.answer.content == "As I said."
    assert second.answer.metadata["session_id"] == session
    assert second.answer.metadata["cost_usd"] > first.answer.metadata["cost_usd"]
    assert [each.content for each in store.messages(first.thread_id)] == [
        "Which key?",
        "Use _key.",
        "Sure?",
        "As I said.",
    ]


def test_a_session_that_is_not_known(real: Real, store: ConversationStore) -> None:
    reply = real.ask(store, resume="11111111-2222-4333-8444-555555555555")

    assert reply.answer.status is MessageStatus.FAILED
    assert kind(reply.answer) == "error_during_execution"
    assert "No conversation found" in (reply.answer.error or "")


# -- what is asked


def test_a_prompt_may_begin_with_a_dash(real: Real, store: ConversationStore) -> None:
    real.api.says("It is a flag.")

    reply = real.ask(store, "--max-turns? What is that?")

    assert reply.answer.status is MessageStatus.COMPLETE


def test_a_prompt_of_a_megabyte_arrives(real: Real, store: ConversationStore) -> None:
    real.api.says("That is long.")

    reply = real.ask(store, "word " * 200_000)

    assert reply.answer.status is MessageStatus.COMPLETE
    assert real.server.asked[0].length > 1_000_000


def test_a_flag_that_there_is_not(real: Real, store: ConversationStore) -> None:
    reply = real.ask(store, extra_args=["--no-such-flag"])

    assert reply.answer.status is MessageStatus.FAILED
    assert kind(reply.answer) == "usage"
    assert "unknown option '--no-such-flag'" in (reply.answer.error or "")
    assert real.server.asked == []


def test_the_limit_of_turns(real: Real, store: ConversationStore) -> None:
    (real.module / "schema.txt").write_text("the key is _key\n")
    real.api.uses_tool("Read", {"file_path": str(real.module / "schema.txt")}, forever=True)

    reply = real.ask(store, max_turns=1)

    assert reply.answer.status is MessageStatus.FAILED
    assert kind(reply.answer) == "max_turns"
