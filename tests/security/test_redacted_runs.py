"""What a run of Claude says is stored without its secrets, however it says them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    LegacyReturns,
    RedactionError,
    Reply,
    SecretRedactor,
    ask_module,
    open_store,
    redact_secrets,
)
from pytest_claude_comms.claude.transcript import Transcript, TranscriptEntry, play_transcript
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

from .conftest import url_of
from .kit import bytes_in, pieces_of, told

KEY = "sk-ant-api03-Zx8Kq2Wv7Lm4Rt9Yp1Bn6Cd3"
PHRASE = "correct horse battery"
SECRETS = (KEY, PHRASE)
PARTS = pieces_of(KEY[7:], 8) | {"correct horse"}
SAYS = f"The key is {KEY}, the phrase '{PHRASE}'. Done"
LEFT = "The key is <API_KEY>, the phrase '<SECRET>'. Done"


@pytest.fixture(params=["memory", "tinydb", "sqlite"])
def store(
    request: pytest.FixtureRequest, clock: FakeClock, tmp_path: Path
) -> Iterator[ConversationStore]:
    url = url_of(request.param, tmp_path)
    redact = SecretRedactor([PHRASE])
    with open_store(url, clock=clock, durability="process", redact=redact) as store:
        yield store


@pytest.fixture(autouse=True)
def nothing_is_kept(
    store: ConversationStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> Iterator[None]:
    """No part of a secret in a record or file of the store while it is open, nor after."""
    caplog.set_level(logging.DEBUG)
    yield
    records = told(store)
    assert "thread_id" in records
    files = bytes_in(tmp_path / "kept") if (tmp_path / "kept").exists() else b""
    store.close()
    files += bytes_in(tmp_path / "kept") if (tmp_path / "kept").exists() else b""
    assert (store.backend == "memory") == (not files)
    for part in PARTS:
        assert part not in records
        assert part.encode() not in files
        assert part not in caplog.text


def ask(store: ConversationStore, tmp_path: Path, prompt: str = "Say it", **options: Any) -> Reply:
    return ask_module(store, "marker", tmp_path, prompt, timeout=600, **options)


@pytest.mark.parametrize("every", [0.04, 0.2])
@pytest.mark.parametrize("chunks", [1, 17, 60])
def test_in_deltas(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, chunks: int, every: float
) -> None:
    claude.replies(SAYS, chunks=chunks, every=every)
    reply = ask(store, tmp_path)
    assert reply.answer.status == "complete"
    assert reply.answer.content == LEFT


def test_without_redact_all_of_it_is_seen(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, tmp_path: Path
) -> None:
    store.create_thread(thread_id="t")
    claude.replies(SAYS, chunks=60, every=0.2)
    with open_store(f"sqlite:///{tmp_path}/plain.db", clock=clock, durability="process") as plain:
        assert ask(plain, tmp_path).answer.content == SAYS
        assert "correct horse" in told(plain)


def test_in_the_question_and_its_options(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path
) -> None:
    claude.replies("ok")
    reply = ask(store, tmp_path, f"use {KEY}", title=f"about {KEY}", metadata={KEY: {"a": [KEY]}})
    assert claude.calls[0].prompt == f"use {KEY}"  # Claude is asked as it was said
    assert reply.question.content == "use <API_KEY>"
    assert store.get_thread(reply.thread_id).title == "about <API_KEY>"
    assert reply.answer.metadata["<API_KEY>"] == {"a": ["<API_KEY>"]}


def test_in_what_tools_are_given_and_say(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path
) -> None:
    claude.uses_tool("Bash", {"command": f"echo {KEY}"}, result=f"{KEY} and {PHRASE}")
    claude.denies("Bash", {"command": f"curl -H {KEY}"}, message=f"not with {KEY}")
    claude.replies("done")
    reply = ask(store, tmp_path)
    assert reply.answer.metadata["permission_denials"][0]["tool_input"] == {
        "command": "curl -H <API_KEY>"
    }


@pytest.mark.parametrize("before", [0, 1_950, 1_990, 2_010])
def test_on_stderr_also_where_it_is_cut(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, before: int
) -> None:
    # An error has the last 2,000 characters: half of the key, then, would be no key.
    claude.exits(3, stderr=f"{KEY} {PHRASE} " + "x" * before)
    answer = ask(store, tmp_path).answer
    assert answer.status == "failed"
    assert (answer.error or "").endswith("x" * min(before, 2_000))


def test_in_a_line_that_is_none(store: ConversationStore, clock: FakeClock) -> None:
    # Of such a line 200 characters or so are quoted.
    store.create_thread(thread_id="t")
    for before in range(150, 240, 7):
        store.add_message("t", "m", status="pending", message_id=f"m{before}")
        line = "x" * before + f" {KEY} {PHRASE} more"
        run = _run([line], exit_code=1)
        outcome = play_transcript(run, store, f"m{before}", speed=math.inf)
        assert outcome.status == "failed"


def test_when_the_api_says_it(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path
) -> None:
    claude.fails(401, message=f"invalid key {KEY}")
    assert "<API_KEY>" in (ask(store, tmp_path).answer.error or "")


@pytest.mark.parametrize("after", [0.35, 1.05, 2.15, 2.55, 3.85])
def test_in_a_run_that_is_cancelled_in_the_middle_of_it(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, tmp_path: Path, after: float
) -> None:
    claude.replies(SAYS, chunks=len(SAYS), every=0.05)
    reply = ask(store, tmp_path, wait=False)
    clock.advance(after)
    answer = reply.cancel()
    assert answer.status == "cancelled"
    assert LEFT.startswith(answer.content)


def test_in_a_run_whose_asker_gives_up(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, tmp_path: Path
) -> None:
    claude.replies(SAYS, chunks=len(SAYS), every=0.05)
    reply = ask(store, tmp_path, wait=False)
    clock.advance(3.85)  # in the middle of the phrase
    reply._answering.cancel("Ctrl-C")  # as the command line does: with all the text that came
    answer = reply.wait().answer
    assert (answer.status, answer.error) == ("cancelled", "Ctrl-C")
    assert answer.content == "The key is <API_KEY>, the phrase '"


@pytest.mark.parametrize("timeout", [0.35, 1.05, 2.15, 3.85])
def test_in_a_run_that_its_deadline_ends(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path, timeout: float
) -> None:
    claude.replies(SAYS, chunks=len(SAYS), every=0.05)
    answer = ask_module(store, "marker", tmp_path, "Say it", timeout=timeout).answer
    assert answer.status == "timeout"
    assert LEFT.startswith(answer.content)


def test_text_that_is_taken_back(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path
) -> None:
    claude.crashes("SEGV", text=SAYS, chunks=20)
    answer = ask(store, tmp_path).answer
    assert (answer.status, answer.content) == ("failed", "")


def test_through_a_store_in_another_shape(
    store: ConversationStore, claude: ScriptedClaude, tmp_path: Path
) -> None:
    claude.replies(SAYS, chunks=30, every=0.2)
    legacy: ConversationStore = LegacyReturns(store, "dict")
    assert ask(legacy, tmp_path).answer.content == LEFT


def _run(lines: list[str], exit_code: int = 0) -> Transcript:
    entries = tuple(TranscriptEntry(0.2 * at, "stdout", line) for at, line in enumerate(lines))
    return Transcript(
        cli="claude",
        scenario="",
        argv=(),
        env={},
        signals=(),
        entries=entries,
        exit=exit_code,
        duration=0.2 * len(lines),
    )


def test_a_function_that_fails_ends_the_run_and_the_message(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, tmp_path: Path
) -> None:
    def refuses(text: str) -> str:
        if "Done" in text or "lost" in text:
            raise ValueError(text)
        return redact_secrets(text)

    claude.replies(SAYS.replace(PHRASE, ""), chunks=10, every=0.2)
    store.create_thread(thread_id="t")
    with open_store("memory:", clock=clock, redact=refuses) as failing:
        with pytest.raises(RedactionError, match="content could not be redacted"):
            ask(failing, tmp_path)
        assert [message.status for message in failing.messages()] == ["complete", "failed"]
        assert not any(part in told(failing) for part in PARTS)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")
def test_the_prompt_is_in_no_argument_and_no_variable(
    store: ConversationStore, claude: ScriptedClaude, clock: FakeClock, tmp_path: Path
) -> None:
    store.create_thread(thread_id="t")
    claude.hangs()
    reply = ask(store, tmp_path, f"{KEY} $(touch {tmp_path}/run)", wait=False)
    pid = claude.calls[0].pid
    of_run = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        assert KEY.encode() not in words
    reply.cancel()
    assert b"claude" in of_run
    assert KEY.encode() not in of_run
    assert not (tmp_path / "run").exists()
