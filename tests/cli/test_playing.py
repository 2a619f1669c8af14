"""``replay`` and ``demo``: all of it without Claude."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore, open_store
from pytest_claude_comms.testing import FakeClock
from tests.cli.conftest import ROOT, Run, Shell, Valid
from tests.cli.terminal import terminal
from tests.communication.kit import until

TRANSCRIPTS = ROOT / "fixtures/transcripts"
SLOW = str(TRANSCRIPTS / "02_partial_slow.jsonl")
TEXT = "chunk0 chunk1 chunk2 chunk3 chunk4 chunk5 chunk6 chunk7 chunk8 chunk9 "


def test_a_recording_at_its_own_speed(clock: FakeClock, store: ConversationStore, run: Run) -> None:
    result = run("replay", SLOW, store=store)

    assert result.code == 0
    assert result.out.rstrip() == TEXT.rstrip()
    (message,) = store.messages()
    assert (message.status, message.content.rstrip()) == ("complete", TEXT.rstrip())
    assert message.deadline_at is not None
    assert message.metadata["transcript"] == "02_partial_slow.jsonl"
    assert f"complete after {clock.elapsed:.1f} s" in result.err
    assert clock.elapsed > 2


@pytest.mark.parametrize(("speed", "least", "most"), [("2", 1, 2), ("max", 0, 0), ("0.5x", 5, 9)])
def test_speeds(
    speed: str, least: float, most: float, clock: FakeClock, store: ConversationStore, run: Run
) -> None:
    assert run("replay", SLOW, "--speed", speed, store=store).code == 0
    assert least <= clock.elapsed <= most


@pytest.mark.parametrize(
    ("name", "intent", "code"),
    [
        ("07_e400", None, 1),
        ("07_SIGTERM_during_retry", "timeout", 4),
        ("07_SIGTERM_during_retry", "cancelled", 5),
        ("07_SIGTERM_during_retry", None, 1),
    ],
)
def test_its_status_is_the_exit_code(
    name: str,
    intent: str | None,
    code: int,
    clock: FakeClock,
    store: ConversationStore,
    run: Run,
) -> None:
    more = [] if intent is None else ["--intent", intent]
    assert run("replay", str(TRANSCRIPTS / f"{name}.jsonl"), *more, store=store).code == code


def test_every_recording_can_be_played(
    clock: FakeClock, store: ConversationStore, run: Run, valid: Valid
) -> None:
    thread = store.create_thread("all of them").thread_id
    for path in sorted(TRANSCRIPTS.glob("*.jsonl")):
        argv = ["replay", str(path), "--speed", "max", "--thread", thread, "--json"]
        result = run(*argv, store=store)
        assert result.code in (0, 1), path
        for document in result.documents:
            valid(document)
        assert result.documents[-1]["message"]["thread_id"] == thread
    assert all(message.status.is_terminal for message in store.messages())


def test_somebody_else_cancels(clock: FakeClock, store: ConversationStore, run: Run) -> None:
    clock.at(1, lambda: store.update_message(store.messages()[0], status="cancelled"))
    assert run("replay", SLOW, "--speed", "0.01", store=store).code == 5
    assert clock.elapsed == 1  # and not at its next line, a minute later


def test_its_deadline_ends_it(
    clock: FakeClock, store: ConversationStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms.cli import playing

    monkeypatch.setattr(playing, "_deadlines", lambda recorded, speed: (2, 600))
    assert run("replay", SLOW, "--speed", "0.01", store=store).code == 4
    assert clock.elapsed == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_another_process_cancels(tmp_path: Path, shell: Shell, scheme: str) -> None:
    url = f"{scheme}:///{tmp_path}/s"
    open_store(url, durability="process").close()
    with terminal("replay", SLOW, "--speed", "0.01", "--store", url, cwd=tmp_path) as screen:
        assert screen.shows("pending")
        listed = shell("pending", "--json", "--store", url).document["messages"]
        message_id = listed[0]["message"]["message_id"]
        assert shell("cancel", message_id, "--store", url).code == 0
        assert screen.end() == 5


def test_wrong_use(store: ConversationStore, run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n")
    assert run("replay", str(bad), store=store).code == 1
    assert "no whole transcript" in run("replay", str(bad), store=store).err
    assert run("replay", str(tmp_path / "none.jsonl"), store=store).code == 1
    assert run("replay", SLOW, "--title", "\udcff", store=store).code == 2
    assert run("replay", "\udcff.jsonl", store=store).code == 2
    for speed in ("0", "-1", "nan", "fast", "1e-320"):
        assert run("replay", SLOW, "--speed", speed, store=store).code == 2
    assert run("replay", SLOW, "--thread", "none", store=store).code == 3
    assert store.threads() == []


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_and_kill(store: ConversationStore, tmp_path: Path) -> None:
    argv = ["replay", SLOW, "--speed", "0.3", "--store", store.url]
    with terminal(*argv, cwd=tmp_path) as screen:
        assert until(lambda: store.messages(status="processing")), screen.text
        os.kill(screen.process.pid, signal.SIGINT)
        assert screen.end() == 5
        assert screen.is_usable()
    assert store.messages()[0].status == "cancelled"
    with terminal(*argv, cwd=tmp_path) as screen:
        assert until(lambda: store.messages(status="processing")), screen.text
        screen.process.kill()
        screen.end()
    (left,) = store.messages(status="processing")
    assert left.deadline_at is not None


@pytest.mark.skipif(sys.platform == "win32", reason="a ScriptedClaude needs Unix sockets")
class TestDemo:
    def test_on_a_terminal(self, tmp_path: Path) -> None:
        with terminal("demo", cwd=tmp_path) as screen:
            assert screen.end() == 0
            assert screen.is_usable()
        for words in ("asking again", "writing", "complete after", "3 messages: 3 processing"):
            assert words in screen.text
        assert "3 messages: 1 complete, 1 failed, 1 timeout" in screen.text
        assert list(tmp_path.iterdir()) == []

    def test_it_fills_the_store_that_is_named(self, tmp_path: Path, shell: Shell) -> None:
        result = shell("demo", "--store", "sqlite:///demo.db")
        assert result.code == 0, result
        assert "checksum" in result.out
        with open_store(f"sqlite:///{tmp_path}/demo.db") as store:
            ended = [
                each.status.value for each in store.messages() if each.message_type == "answer"
            ]
        assert sorted(ended) == ["complete", "complete", "failed", "timeout"]
        assert shell("pending", "--store", "demo.db").out == ""

    @pytest.mark.parametrize("text", ["asking again", "3 messages: 3 processing"])
    def test_it_can_be_left_at_any_time(self, text: str, tmp_path: Path) -> None:
        with terminal("demo", cwd=tmp_path) as screen:
            assert screen.shows(text)
            os.kill(screen.process.pid, signal.SIGINT)
            assert screen.end() == 5
            assert screen.is_usable()
