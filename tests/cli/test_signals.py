"""Whatever ends a live command: the message can be explained and settled, and nothing is left."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore, Message
from pytest_claude_comms.testing import ScriptedClaude
from tests.cli.conftest import COMMAND, Run, environment
from tests.cli.terminal import CTRL_BACKSLASH, CTRL_C, Terminal, is_alive, terminal
from tests.communication.kit import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for what is left")

STARTED = "The fields are "


@pytest.fixture
def claude(tmp_path: Path) -> Iterator[ScriptedClaude]:
    """On real time: what is killed here is real."""
    with ScriptedClaude(tmp_path / "bin") as claude:
        yield claude


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "arangodb"
    path.mkdir()
    return path


def ask(claude: ScriptedClaude, store: ConversationStore, *more: str) -> list[str]:
    return [
        *("ask", "arangodb", "Which fields?", "--store", store.url),
        *("--claude", claude.executable, *more),
    ]


def answer(store: ConversationStore) -> Message | None:
    return next((each for each in store.messages() if each.message_type == "answer"), None)


def is_answering(store: ConversationStore) -> bool:
    found = answer(store)
    return found is not None and found.content == STARTED


def nothing_is_left(claude: ScriptedClaude, store: ConversationStore) -> None:
    assert until(lambda: not any(is_alive(call.pid) for call in claude.calls))
    # Whoever still had the store's lock would make this StoreBusy.
    store.create_thread("afterwards")


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 5), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGQUIT", 131)]
)
def test_a_signal_cancels_the_answer(
    name: str,
    code: int,
    store: ConversationStore,
    claude: ScriptedClaude,
    module: Path,
    tmp_path: Path,
    run: Run,
) -> None:
    claude.goes_silent(text=STARTED)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        assert until(lambda: is_answering(store))
        os.kill(screen.process.pid, signal.Signals[name])

        assert screen.end() == code
        assert screen.is_usable()
        said = "Ctrl-C" if name == "SIGINT" else name
        assert screen.shows(f"cancelled ({said}) after")
    found = answer(store)
    assert found is not None
    assert (found.status, found.content) == ("cancelled", STARTED)
    assert found.error == said
    assert found.metadata["session_id"]
    nothing_is_left(claude, store)
    assert run("pending", store=store).out == ""
    assert run("expire", store=store).out == ""


@pytest.mark.parametrize(("keys", "code"), [(CTRL_C, 5), (CTRL_BACKSLASH, 131)])
def test_keys_are_signals(
    keys: bytes,
    code: int,
    store: ConversationStore,
    claude: ScriptedClaude,
    module: Path,
    tmp_path: Path,
) -> None:
    claude.goes_silent(text=STARTED)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        assert until(lambda: is_answering(store))
        screen.type(keys)

        assert screen.end() == code
        assert screen.is_usable()
    nothing_is_left(claude, store)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_window_cancels_the_answer(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, unbuffered: str,
) -> None:  # fmt: skip
    """What was not written yet cannot be any more; that is no other end."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    claude.goes_silent(text=STARTED)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        assert until(lambda: is_answering(store))
        screen.hang_up()

        assert screen.end() == 129
    found = answer(store)
    assert found is not None
    assert found.status == "cancelled"
    nothing_is_left(claude, store)


def test_sigkill_leaves_what_pending_explains_and_expire_settles(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path, run: Run
) -> None:
    claude.goes_silent(text=STARTED)
    with terminal(*ask(claude, store, "--stall-timeout", "3"), cwd=tmp_path) as screen:
        assert until(lambda: is_answering(store))
        screen.process.kill()

        assert screen.end() == -signal.SIGKILL
        assert screen.is_usable()
    left = answer(store)
    assert left is not None
    assert left.status == "processing"
    nothing_is_left(claude, store)
    assert left.message_id in run("pending", store=store).out
    # Real time: whether the deadline has come is the real clock's to say.
    assert until(lambda: "overdue" in run("pending", store=store).out)
    assert "'claude-comms expire' settles it" in run("pending", store=store).err

    settled = run("expire", store=store)

    assert settled.code == 0
    assert left.message_id in settled.out
    found = answer(store)
    assert found is not None
    assert (found.status, found.content) == ("timeout", STARTED)


def test_by_default_an_answer_has_a_deadline(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.goes_silent(text=STARTED)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        assert until(lambda: is_answering(store))
        screen.process.kill()
        screen.end()
    left = answer(store)
    assert left is not None
    assert left.deadline_at is not None
    assert (left.deadline_at - left.updated_at).total_seconds() == 300


_PATIENT = """
import sys
from pytest_claude_comms import ask_module
from pytest_claude_comms.cli import main
ask_module.__kwdefaults__["grace"] = 600.0  # SIGKILL would come by itself that much later
sys.exit(main())
"""


def test_a_second_ctrl_c_waits_for_nothing(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.goes_silent(text=STARTED).ignores_term()
    patient = [*COMMAND[:-2], "-c", _PATIENT]
    with terminal(*ask(claude, store), cwd=tmp_path, command=patient) as screen:
        assert until(lambda: is_answering(store))
        screen.type(CTRL_C)
        assert until(lambda: (found := answer(store)) is not None and found.status == "cancelled")
        assert is_alive(claude.calls[0].pid)  # it ignores SIGTERM
        screen.type(CTRL_C)

        assert screen.end() == 5
        assert screen.is_usable()
    nothing_is_left(claude, store)


def test_two_at_once(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.goes_silent(text=STARTED)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        assert until(lambda: is_answering(store))
        screen.type(CTRL_C + CTRL_C)

        assert screen.end() == 5
        assert screen.is_usable()
    nothing_is_left(claude, store)


def until_then(delay: float, screen: Terminal) -> None:
    end = time.monotonic() + delay
    until(lambda: time.monotonic() > end or screen.process.poll() is not None)


@pytest.mark.parametrize(
    "seed", [*range(12), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(12, 100))]
)
@pytest.mark.claude_comms(stores=["sqlite"])
def test_ctrl_c_at_any_moment(
    seed: int, store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.replies("word " * 40, chunks=40, every=0.01)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        until_then(random.Random(seed).uniform(0.0, 0.9), screen)
        if screen.process.poll() is None:
            screen.type(CTRL_C)
        code = screen.end()
        assert screen.is_usable()
    found = answer(store)
    if found is None:
        # 1 and -2: while Python itself was starting.
        assert code in (1, 130, -signal.SIGINT)
    else:
        # 130 and -2: when the run had ended, while the command and Python did.
        # 1: it reached the CLI before that had a session of its own.
        assert code in (0, 1, 5, 130, -signal.SIGINT)
        assert found.status.is_terminal
        if code == 130:
            assert found.status == "complete"
        elif code == 1:
            assert found.error is not None
            assert "SIGINT" in found.error
    nothing_is_left(claude, store)
    claude._stage.take_pages()  # it may have been started and not come to its script


@pytest.mark.parametrize("seed", range(6))
def test_sigkill_at_any_moment_leaves_a_deadline(
    seed: int, store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.replies("word " * 40, chunks=40, every=0.01)
    with terminal(*ask(claude, store), cwd=tmp_path) as screen:
        until_then(random.Random(seed).uniform(0.2, 0.9), screen)
        screen.process.kill()
        screen.end()
        assert screen.is_usable()
    found = answer(store)
    assert found is None or found.status.is_terminal or found.deadline_at is not None
    nothing_is_left(claude, store)
    claude._stage.take_pages()


def test_whoever_stops_reading_ends_the_run(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.replies("a line\n" * 400, chunks=400, every=0.02)
    asked = subprocess.Popen(
        [*COMMAND, *ask(claude, store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=environment(),
    )
    assert asked.stdout is not None
    assert asked.stderr is not None
    assert asked.stdout.readline() == b"a line\n"
    asked.stdout.close()

    assert asked.wait(20) == 141
    assert asked.stderr.read() == b""
    asked.stderr.close()
    found = answer(store)
    assert found is not None
    assert found.status == "cancelled"
    assert found.error == "whoever read the answer has stopped reading"
    nothing_is_left(claude, store)


def test_output_that_cannot_be_written_ends_the_run(
    store: ConversationStore, claude: ScriptedClaude, module: Path, tmp_path: Path
) -> None:
    claude.goes_silent(text=STARTED)
    with open("/dev/full", "wb") as full:
        asked = subprocess.run(
            [*COMMAND, *ask(claude, store)],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment(),
            timeout=30,
            check=False,
        )
    assert asked.returncode == 1
    assert b"No space left on device" in asked.stderr
    found = answer(store)
    assert found is not None
    assert found.error == "the answer could not be printed: No space left on device"
    nothing_is_left(claude, store)


@pytest.mark.parametrize(
    ("argv", "name", "code"),
    [
        (["watch"], "SIGINT", 0),
        (["watch", "--all"], "SIGTERM", 143),
        (["watch", "m"], "SIGINT", 130),
        (["watch", "m"], "SIGHUP", 129),
        (["wait", "m"], "SIGINT", 130),
        (["wait", "m"], "SIGTERM", 143),
    ],
)
def test_who_looks_on_leaves_the_message_alone(
    argv: list[str], name: str, code: int, store: ConversationStore, tmp_path: Path
) -> None:
    thread = store.create_thread("demo")
    store.add_message(thread, "arangodb", status="pending", message_id="m")
    with terminal(*argv, "--store", store.url, cwd=tmp_path) as screen:
        assert screen.shows("1 message" if argv[0] == "watch" else "waiting for m")
        os.kill(screen.process.pid, signal.Signals[name])

        assert screen.end() == code
        assert screen.is_usable()
    assert store.get_message("m").status == "pending"
    store.update_message("m", status="complete")
