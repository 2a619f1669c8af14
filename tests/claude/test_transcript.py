"""Recorded runs: loading them, refusing broken ones, and playing them into a store."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.claude.stream import Intent, StreamUpdate
from pytest_claude_comms.claude.transcript import (
    SentSignal,
    Transcript,
    TranscriptEntry,
    _as_one_commit,
    play_transcript,
)
from pytest_claude_comms.clock import SECOND, SystemClock
from pytest_claude_comms.errors import MessageNotFound
from pytest_claude_comms.records import Message
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores.memory import MemoryConversationStore

RECORDINGS = Path(__file__).parents[2] / "fixtures" / "transcripts"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.jsonl"))


def load(name: str) -> Transcript:
    return Transcript.load(RECORDINGS / f"{name}.jsonl")


class SteppingClock(SystemClock):
    """Time that passes only while somebody sleeps, and does what is due on the way."""

    def __init__(self) -> None:
        self.us = 0
        self.sleeps: list[float] = []
        self.actions: list[tuple[int, Callable[[], object]]] = []

    def now_us(self) -> int:
        return 1_000_000 * SECOND + self.us

    def monotonic_us(self) -> int:
        return self.us

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.us += round(seconds * SECOND)
        due = [each for each in self.actions if each[0] <= self.us]
        self.actions = [each for each in self.actions if each not in due]
        for _, action in due:
            action()

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        self.actions.append((round(seconds * SECOND), action))


class Scene:
    """A memory store with one pending message, on a clock of its own."""

    def __init__(self, **message: Any) -> None:
        self.clock = SteppingClock()
        self.store = MemoryConversationStore(clock=self.clock)
        thread = self.store.create_thread("demo")
        self.message = self.store.add_message(thread, "arangodb", status="pending", **message)

    def now(self) -> Message:
        return self.store.get_message(self.message)

    def steps(self) -> list[tuple[float, MessageStatus]]:
        """When, in seconds since its creation, the message got which status."""
        return [
            ((change.at - self.message.created_at).total_seconds(), change.status)
            for change in self.store.changes()
            if change.status != change.previous
        ]


@pytest.fixture
def scene() -> Scene:
    return Scene()


# --- loading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_recording_loads(name: str) -> None:
    run = load(name)
    assert run.scenario == name
    assert run.cli == "claude 2.1.330"
    assert run.argv[0] == "-p"
    assert run.entries
    assert run.duration >= run.entries[-1].t


def test_what_a_transcript_holds() -> None:
    run = load("07_SIGTERM_during_retry")
    assert run.signals == (SentSignal(4.0, "TERM"),)
    assert run.entries[-1].stream == "recorder"
    assert (run.exit, run.duration) == (143, 4.0347)
    assert run.env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert len(run.stdout_lines) == 4
    assert run.stderr_text == ""


def test_stderr_is_kept_apart() -> None:
    run = load("05g_resume_unknown")
    assert run.stderr_text == (
        "No conversation found with session ID: 99999999-2222-4333-8444-555555555555\n"
    )
    assert len(run.stdout_lines) == 1


def test_the_outcome_with_and_without_our_intent() -> None:
    run = load("07_hang_SIGTERM")
    assert run.outcome().error_kind == "signal"
    assert run.outcome("timeout").status is MessageStatus.TIMEOUT
    assert run.outcome("cancelled").status is MessageStatus.CANCELLED


HEADER: dict[str, Any] = {"cli": "c", "scenario": "s", "argv": ["-p"], "env": {}, "signals": []}
FIRST = json.dumps({"recorded": HEADER})
LINE = '{"t": 1, "stream": "stdout", "line": "x"}'
END = '{"exit": 0, "t": 2}'


def header(**changes: Any) -> str:
    return json.dumps({"recorded": {**HEADER, **changes}})


def test_the_smallest_transcripts(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(f"{FIRST}\r\n\r\n{LINE}\n{END}".encode())
    run = Transcript.load(str(path))
    assert run.entries == (TranscriptEntry(1.0, "stdout", "x"),)
    path.write_text(header(more=1) + '\n{"exit": null, "t": 0}\n')
    run = Transcript.load(path)
    assert (run.entries, run.exit, run.duration) == ((), None, 0.0)


@pytest.mark.parametrize(
    ("lines", "number", "reason"),
    [
        ([], 1, "the file is empty"),
        (["", " "], 1, "the file is empty"),
        ([FIRST], 1, 'the last line has no "exit": the recording was cut off'),
        ([FIRST, LINE], 2, 'the last line has no "exit": the recording was cut off'),
        ([FIRST, LINE[:20]], 2, r"it is not JSON in UTF-8 \(Unterminated string"),
        ([FIRST, "\udc80", END], 2, "it is not JSON in UTF-8"),
        ([FIRST, "[" * 100_000, END], 2, "it is not JSON in UTF-8"),
        ([FIRST, "[]", END], 2, "a JSON object is expected, not list"),
        ([LINE, LINE, END], 1, 'the first line has no "recorded" object'),
        ([header(cli=None), END], 1, '"cli" is None; a str is expected'),
        ([header(scenario=5), END], 1, '"scenario" is 5; a str is expected'),
        ([header(argv="-p"), END], 1, "\"argv\" is '-p'; a list is expected"),
        ([header(argv=[1]), END], 1, '"argv" holds 1, which is no str'),
        ([header(env=[]), END], 1, r'"env" is \[\]; a dict is expected'),
        ([header(env={"A": None}), END], 1, '"env" holds None, which is no str'),
        ([header(signals=None), END], 1, '"signals" is None; a list is expected'),
        ([header(signals=["TERM"]), END], 1, "\"signals\" holds 'TERM', which is no object"),
        ([header(signals=[{"sig": "TERM"}]), END], 1, '"t" is None; it is a number of seconds'),
        ([header(signals=[{"t": 1}]), END], 1, '"sig" is None; a str is expected'),
        ([FIRST, LINE.replace("1", "-1"), END], 2, '"t" is -1; it is a number of seconds'),
        ([FIRST, LINE.replace("1", "true"), END], 2, '"t" is True; it is a number of seconds'),
        ([FIRST, LINE.replace("1", "NaN"), END], 2, '"t" is nan; it is a number of seconds'),
        (
            [FIRST, LINE.replace("stdout", "tty"), END],
            2,
            "\"stream\" is 'tty'; it is one of stdout",
        ),
        ([FIRST, LINE.replace("stdout", ""), END], 2, "\"stream\" is ''; it is one of stdout"),
        ([FIRST, LINE.replace('"x"', "[]"), END], 2, r'"line" is \[\]; a str is expected'),
        ([FIRST, END, LINE], 3, 'the last line has no "exit"'),
        ([FIRST, END, END], 2, '"t" is 2|"stream" is None'),
        ([FIRST, '{"exit": "0", "t": 2}'], 2, "\"exit\" is '0'; it is an exit code or null"),
        ([FIRST, '{"exit": true, "t": 2}'], 2, '"exit" is True; it is an exit code or null'),
        ([FIRST, '{"exit": 0}'], 2, '"t" is None; it is a number of seconds'),
        ([FIRST, LINE.replace("1", "3"), LINE, END], 3, '"t" goes back to 1.0'),
        ([FIRST, LINE.replace("1", "3"), END], 3, '"t" goes back to 2.0'),
    ],
)
def test_a_broken_transcript_is_refused(
    tmp_path: Path, lines: list[str], number: int, reason: str
) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=reason) as caught:
        Transcript.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line {number}: this is no whole transcript: ")
    assert message.endswith("record the run again or restore the file")


@pytest.mark.parametrize("name", NAMES)
def test_a_transcript_cut_off_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    data = (RECORDINGS / f"{name}.jsonl").read_bytes().rstrip(b"\n")
    path = tmp_path / "cut.jsonl"
    for size in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="this is no whole transcript"):
            Transcript.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Transcript.load(tmp_path / "none.jsonl")


# --- playing --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("intent", [None, "timeout", "cancelled"])
def test_every_recording_plays(scene: Scene, name: str, intent: Intent | None) -> None:
    run = load(name)
    outcome = play_transcript(run, scene.store, scene.message, intent=intent)
    assert outcome == run.outcome(intent)
    message = scene.now()
    assert (message.status, message.error) == (outcome.status, outcome.error)
    assert message.content == outcome.content
    assert message.metadata == outcome.as_metadata()
    assert scene.clock.us == round(run.duration * SECOND)


def test_at_its_recorded_times(scene: Scene) -> None:
    play_transcript(RECORDINGS / "04a_tool_read.jsonl", scene.store, scene.message)
    assert scene.steps() == [
        (0.0, MessageStatus.PENDING),
        (0.5041, MessageStatus.PROCESSING),
        (0.8345, MessageStatus.COMPLETE),
    ]
    texts = [(change.at, change.append) for change in scene.store.changes() if change.append]
    assert [((at - scene.message.created_at).total_seconds(), text) for at, text in texts] == [
        (0.6829, "I will read it."),
        (0.7621, "\n\nThe file says: hello from note."),
    ]


def test_streamed_text_grows_piece_by_piece(scene: Scene) -> None:
    play_transcript(load("02_partial_slow"), scene.store, scene.message)
    pieces = [change.append for change in scene.store.changes() if change.append is not None]
    assert pieces == [f"chunk{number} " for number in range(10)]
    assert not any(change.content for change in scene.store.changes())


def test_without_a_line_on_stdout_it_is_never_processing(scene: Scene) -> None:
    play_transcript(load("07_bad_flag"), scene.store, scene.message)
    assert scene.steps() == [(0.0, MessageStatus.PENDING), (0.234, MessageStatus.FAILED)]
    assert scene.now().error == "error: unknown option '--no-such-flag'"


@pytest.mark.parametrize("speed", [0.5, 1, 4.0])
def test_speed(scene: Scene, speed: float) -> None:
    play_transcript(load("01_simple"), scene.store, scene.message, speed=speed)
    assert scene.clock.us == round(0.9492 * SECOND / speed)


def test_at_once(scene: Scene) -> None:
    play_transcript(load("01_simple"), scene.store, scene.message, speed=math.inf)
    assert scene.clock.sleeps == []
    assert scene.now().content == "Hi there"


def test_lines_of_one_instant_cost_no_sleep(scene: Scene) -> None:
    run = load("02c_thinking_partial")
    play_transcript(run, scene.store, scene.message)
    assert len(scene.clock.sleeps) == len({entry.t for entry in run.entries} | {run.duration})
    assert all(seconds > 0 for seconds in scene.clock.sleeps)


def test_a_slow_store_does_not_stretch_the_run(scene: Scene) -> None:
    write = scene.store.update_message

    def slow(*args: Any, **keys: Any) -> Message:
        scene.clock.us += 10_000
        return write(*args, **keys)

    scene.store.update_message = slow  # type: ignore[method-assign]
    play_transcript(load("02_partial_slow"), scene.store, scene.message)
    assert scene.clock.us == round(2.8969 * SECOND) + 10_000  # only the last write comes after


def test_a_recorded_kill_is_part_of_the_play(scene: Scene) -> None:
    play_transcript(load("07_hang_SIGKILL"), scene.store, scene.message)
    assert scene.steps()[-1] == (3.0334, MessageStatus.FAILED)
    assert scene.now().metadata["error_kind"] == "signal"


def test_a_recorded_kill_that_was_ours(scene: Scene) -> None:
    play_transcript(load("07_hang_SIGKILL"), scene.store, scene.message, intent="cancelled")
    assert scene.steps()[-1] == (3.0334, MessageStatus.CANCELLED)


def test_a_message_cancelled_elsewhere_stops_the_play(scene: Scene) -> None:
    scene.clock.at(1.5, lambda: scene.store.update_message(scene.message, status="cancelled"))
    outcome = play_transcript(load("02_partial_slow"), scene.store, scene.message)
    assert outcome.status is MessageStatus.CANCELLED
    assert outcome.results == ()
    assert scene.clock.us == round(1.5995 * SECOND)  # the first line after it
    assert scene.now().content == "chunk0 chunk1 chunk2 "


@pytest.mark.parametrize(
    ("timeout", "ended", "content"),
    [(2.0, 2.0008, "chunk0 chunk1 chunk2 chunk3 chunk4 "), (2.85, 2.8969, None)],
)
def test_a_message_past_its_deadline_stops_the_play(
    timeout: float, ended: float, content: str | None
) -> None:
    scene = Scene(timeout=timeout)
    run = load("02_partial_slow")
    outcome = play_transcript(run, scene.store, scene.message)
    assert outcome.status is scene.now().status is MessageStatus.TIMEOUT
    assert scene.clock.us == round(ended * SECOND)
    assert scene.now().content == (run.outcome().content if content is None else content)


def test_a_message_settled_otherwise_counts_as_cancelled(scene: Scene) -> None:
    scene.store.update_message(scene.message, status="complete")
    outcome = play_transcript(load("01_simple"), scene.store, scene.message)
    assert outcome.status is MessageStatus.CANCELLED
    assert scene.now().status is MessageStatus.COMPLETE


def test_only_what_a_line_changed_is_written(scene: Scene) -> None:
    calls: list[dict[str, Any]] = []

    class Recorder:
        clock = scene.clock

        def update_message(self, message: object, **keys: Any) -> None:
            calls.append(keys)

    store: Any = Recorder()
    play_transcript(load("07_e500_once"), store, "some id")
    assert [sorted(keys) for keys in calls] == [
        ["status"],
        ["append"],
        ["error", "metadata", "status"],
    ]


def test_void_text_is_taken_back_in_one_commit(tmp_path: Path, scene: Scene) -> None:
    def delta(text: str) -> str:
        piece = {"type": "text_delta", "text": text}
        event = {"type": "content_block_delta", "index": 0, "delta": piece}
        return json.dumps({"type": "stream_event", "event": event})

    start = {"type": "stream_event", "event": {"type": "message_start", "message": {"id": "m1"}}}
    error = {"type": "text", "text": "API Error"}
    content = [error, {"type": "text", "text": "really"}]
    told = {"type": "assistant", "message": {"id": "m2", "content": content}}
    stdout = [json.dumps(start), delta("lo"), delta("st"), json.dumps(told), delta("cut")]
    entries = [
        json.dumps({"t": number, "stream": "stdout", "line": each})
        for number, each in enumerate(stdout, 1)
    ]
    path = tmp_path / "run.jsonl"
    path.write_text("\n".join([FIRST, *entries, '{"exit": 1, "t": 9}']))
    play_transcript(path, scene.store, scene.message)
    changes = [
        (change.append, change.content)
        for change in scene.store.changes()
        if (change.append, change.content) != (None, None) and change.previous
    ]
    assert changes == [
        ("lo", None),
        ("st", None),
        (None, "API Error\n\nreally"),
        ("\n\ncut", None),
        (None, "API Error\n\nreally"),
    ]
    assert scene.now().status is MessageStatus.FAILED


@pytest.mark.parametrize(
    ("updates", "text"),
    [
        ([], {}),
        ([{"append": ""}], {}),
        ([{"append": "a"}, {"append": "b"}], {"append": "ab"}),
        ([{"append": "a"}, {"content": "b"}], {"content": "b"}),
        ([{"content": ""}, {"append": "a"}], {"content": "a"}),
        ([{"content": "a"}, {"content": ""}], {"content": ""}),
    ],
)
def test_updates_as_one_commit(updates: list[dict[str, str]], text: dict[str, str]) -> None:
    told = [
        StreamUpdate(kind="text", append=u.get("append"), content=u.get("content")) for u in updates
    ]
    assert _as_one_commit(told) == text


@pytest.mark.parametrize("speed", [0, -1, math.nan, "1", None, True])
def test_a_wrong_speed(scene: Scene, speed: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^speed must be"):
        play_transcript(load("01_simple"), scene.store, scene.message, speed=speed)
    assert scene.now() == scene.message


def test_a_wrong_intent(scene: Scene) -> None:
    intent: Any = "killed"
    with pytest.raises(ValueError, match=r"^intent must be None"):
        play_transcript(load("01_simple"), scene.store, scene.message, intent=intent)
    assert scene.clock.us == 0


def test_what_else_the_store_raises_is_not_swallowed(scene: Scene) -> None:
    with pytest.raises(MessageNotFound):
        play_transcript(load("01_simple"), scene.store, "nobody")
