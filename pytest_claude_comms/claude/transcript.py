r"""Recorded runs of the Claude CLI, and playing one into a stored message.

A transcript is a file of JSON lines::

    {"recorded": {"cli": "claude 2.1.330", "scenario": "01_simple", "argv": ["-p", "Say hi", …],
                  "env": {…}, "signals": [{"t": 4.0, "sig": "TERM"}],
                  "redacted": ["HOME", …], "prompt_sha256": "…"}}
    {"t": 0.8238, "stream": "stdout", "line": "{\"type\":\"system\",…}"}
    {"t": 0.8897, "stream": "stderr", "line": "…"}
    {"exit": 0, "t": 0.9492}

``t`` is in seconds since the start, ``line`` has no newline, ``exit`` is the exit code or null.
"redacted" and "prompt_sha256" may be missing. The stream "recorder" holds remarks of the
recorder, such as the signals it sent.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeAlias, TypedDict, cast

from ..clock import SECOND
from ..errors import InvalidTransition
from ..redacted_text import RedactedStream
from ..redaction import redaction_of
from ..status import MessageStatus
from .outcome import Intent, StreamOutcome, check_intent
from .stream import StreamReader, read_stream
from .updates import StreamUpdate

if TYPE_CHECKING:
    from ..clock import Clock
    from ..stores.base import ConversationStore, MessageLike

StreamName: TypeAlias = Literal["stdout", "stderr", "recorder"]

_STREAMS: Final = ("stdout", "stderr", "recorder")


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One line that was printed ``t`` seconds after the start."""

    t: float
    stream: StreamName
    line: str


@dataclass(frozen=True, slots=True)
class SentSignal:
    """A signal that the recorder sent ``t`` seconds after the start; ``sig`` as in "TERM"."""

    t: float
    sig: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """One recorded run of the CLI."""

    cli: str
    """The CLI and its version, as "claude 2.1.330"."""
    scenario: str
    argv: tuple[str, ...]
    """The arguments, without the program."""
    env: Mapping[str, str] = field(hash=False)
    """The variables that were set for it."""
    signals: tuple[SentSignal, ...]
    entries: tuple[TranscriptEntry, ...]
    exit: int | None
    """As ``Popen.returncode``; None if the recorder gave up on it while it ran."""
    duration: float
    """Seconds from the start to the exit."""
    redacted: tuple[str, ...] = ()
    """What was replaced by marks: ``HOME`` by ``<HOME>``."""
    prompt_sha256: str | None = None
    """Of the prompt that came by stdin, if that is known."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Transcript:
        """Read a transcript from a file.

        Raises OSError if the file cannot be read, and ValueError naming the file, the line and
        the reason if it is malformed or cut off.
        """
        with open(path, "rb") as file:
            return _Parser(os.fspath(path)).transcript(file.read())

    def encoded(self) -> bytes:
        """What a file of it holds: ``load`` reads it."""
        header: dict[str, Any] = {
            "cli": self.cli,
            "scenario": self.scenario,
            "argv": list(self.argv),
            "env": dict(self.env),
            "signals": [{"t": signal.t, "sig": signal.sig} for signal in self.signals],
            "redacted": list(self.redacted),
        }
        if self.prompt_sha256 is not None:
            header["prompt_sha256"] = self.prompt_sha256
        records: list[dict[str, Any]] = [
            {"recorded": header},
            *({"t": each.t, "stream": each.stream, "line": each.line} for each in self.entries),
            {"exit": self.exit, "t": self.duration},
        ]
        text = "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
        return text.encode("utf-8", "backslashreplace")  # bytes that are no UTF-8: \udc80

    @property
    def stdout_lines(self) -> tuple[str, ...]:
        """What it printed on stdout, without newlines."""
        return tuple(entry.line for entry in self.entries if entry.stream == "stdout")

    @property
    def stderr_text(self) -> str:
        """What it printed on stderr, each line with its newline."""
        return "".join(f"{entry.line}\n" for entry in self.entries if entry.stream == "stderr")

    def outcome(self, intent: Intent | None = None) -> StreamOutcome:
        """What the run came to. ``intent``: what we did to it, had the signals been ours."""
        return read_stream(self.stdout_lines, self.exit, self.stderr_text, intent)


class _Parser:
    def __init__(self, path: str) -> None:
        self._path = path

    def transcript(self, data: bytes) -> Transcript:
        numbered = [
            (number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()
        ]
        if not numbered:
            self._refuse(1, "the file is empty")
        records = [(number, self._record(number, line)) for number, line in numbered]
        (first, header), *middle = records
        if not middle or "exit" not in middle[-1][1]:
            self._refuse(records[-1][0], 'the last line has no "exit": the recording was cut off')
        *body, (last, end) = middle
        entries = tuple(self._entry(number, record) for number, record in body)
        duration = self._seconds(last, end)
        times = [*(entry.t for entry in entries), duration]
        for place in range(1, len(times)):
            if times[place] < times[place - 1]:
                self._refuse(middle[place][0], f'"t" goes back to {times[place]}')
        return Transcript(
            **self._header(first, header),
            entries=entries,
            exit=self._exit(last, end),
            duration=duration,
        )

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            self._refuse(number, f"it is not JSON in UTF-8 ({error})")
        if not isinstance(record, dict):
            self._refuse(number, f"a JSON object is expected, not {type(record).__name__}")
        return record

    def _header(self, number: int, record: dict[str, Any]) -> dict[str, Any]:
        header = record.get("recorded")
        if not isinstance(header, dict):
            self._refuse(number, 'the first line has no "recorded" object')
        signals = self._get(number, header, "signals", list)
        return {
            "cli": self._get(number, header, "cli", str),
            "scenario": self._get(number, header, "scenario", str),
            "argv": tuple(self._strings(number, "argv", self._get(number, header, "argv", list))),
            "env": self._env(number, self._get(number, header, "env", dict)),
            "signals": tuple(self._signal(number, signal) for signal in signals),
            **self._later(number, header),
        }

    def _later(self, number: int, header: dict[str, Any]) -> dict[str, Any]:
        """What recordings of before do not have."""
        found: dict[str, Any] = {}
        if "redacted" in header:
            names = self._get(number, header, "redacted", list)
            found["redacted"] = tuple(self._strings(number, "redacted", names))
        if "prompt_sha256" in header:
            found["prompt_sha256"] = self._get(number, header, "prompt_sha256", str)
        return found

    def _env(self, number: int, env: dict[str, Any]) -> dict[str, str]:
        self._strings(number, "env", env.values())
        return env

    def _strings(self, number: int, key: str, values: Iterable[Any]) -> Iterable[str]:
        for value in values:
            if not isinstance(value, str):
                self._refuse(number, f'"{key}" holds {value!r}, which is no str')
        return values

    def _signal(self, number: int, signal: object) -> SentSignal:
        if not isinstance(signal, dict):
            self._refuse(number, f'"signals" holds {signal!r}, which is no object')
        return SentSignal(self._seconds(number, signal), self._get(number, signal, "sig", str))

    def _entry(self, number: int, record: dict[str, Any]) -> TranscriptEntry:
        stream = record.get("stream")
        if stream not in _STREAMS:
            self._refuse(number, f'"stream" is {stream!r}; it is one of {", ".join(_STREAMS)}')
        return TranscriptEntry(
            self._seconds(number, record), stream, self._get(number, record, "line", str)
        )

    def _exit(self, number: int, record: dict[str, Any]) -> int | None:
        code: int | None = record["exit"]
        if code is not None and (isinstance(code, bool) or not isinstance(code, int)):
            self._refuse(number, f'"exit" is {code!r}; it is an exit code or null')
        return code

    def _seconds(self, number: int, record: dict[str, Any]) -> float:
        t = record.get("t")
        if isinstance(t, bool) or not isinstance(t, (int, float)) or not 0 <= t <= 1e9:
            self._refuse(number, f'"t" is {t!r}; it is a number of seconds since the start')
        return float(t)

    def _get(self, number: int, record: dict[str, Any], key: str, kind: type) -> Any:
        value = record.get(key)
        if not isinstance(value, kind):
            self._refuse(number, f'"{key}" is {value!r}; a {kind.__name__} is expected')
        return value

    def _refuse(self, number: int, reason: str) -> NoReturn:
        raise ValueError(
            f"{self._path}, line {number}: this is no whole transcript: {reason}. A transcript is "
            'a line {"recorded": …}, then a line {"t": …, "stream": …, "line": …} for each line '
            'printed, then a line {"exit": …, "t": …}; record the run again or restore the file'
        ) from None


class _Writes(TypedDict, total=False):
    status: MessageStatus
    content: str
    append: str
    error: str | None
    metadata: Mapping[str, Any]


def play_transcript(
    transcript: Transcript | str | os.PathLike[str],
    store: ConversationStore,
    message: MessageLike,
    *,
    speed: float = 1.0,
    intent: Intent | None = None,
    on_update: Callable[[StreamUpdate], object] | None = None,
) -> StreamOutcome:
    """Play a recorded run into a stored message, at its recorded times on ``store.clock``.

    At the first line on stdout the message becomes ``processing``; its text grows as the run's
    does; when the run exits it gets, in one commit, the outcome's status and error, and as
    metadata what :meth:`StreamOutcome.as_metadata` names: ``session_id, model, cost_usd, usage,
    num_turns, duration_ms, retries`` (their number), ``error_kind, permission_denials,
    warnings``. Then its content is ``outcome.content``.

    ``speed=2.0`` plays twice as fast, ``math.inf`` without any wait. ``intent`` says what we did
    to the run, if its recording ends with our signal: that is then its status. Without it such
    a run plays as killed by a stranger. ``on_update`` gets each step as it is played.

    If the store refuses a write because the message was settled elsewhere, the play stops, as a
    runner would end its process, and the outcome says so: ``timeout`` if that is the status that
    stands, else ``cancelled``, with what had been printed by then.

    Raises ValueError and OSError as :meth:`Transcript.load` does, ValueError for a speed that is
    not above 0, and what the store raises for a message that it does not have.
    """
    if isinstance(speed, bool) or not isinstance(speed, (int, float)):
        raise TypeError(f"speed must be a number, not {speed!r}")
    if not speed > 0:
        raise ValueError(f"speed must be above 0, not {speed!r}")
    check_intent(intent)
    run = transcript if isinstance(transcript, Transcript) else Transcript.load(transcript)
    return _Play(run, store, message, speed, on_update).to_the_end(intent)


class _Play:
    def __init__(
        self,
        run: Transcript,
        store: ConversationStore,
        message: MessageLike,
        speed: float,
        on_update: Callable[[StreamUpdate], object] | None,
    ) -> None:
        self._run = run
        self._store = store
        self._message = message
        self._speed = speed
        self._on_update = on_update
        self._started_us = store.clock.monotonic_us()
        redaction = redaction_of(store)
        self._redacted = None if redaction is None else RedactedStream(redaction)
        """Keeps the last word back: it may be the beginning of what is not to be stored."""
        self._reader = StreamReader(
            redact=None if redaction is None else lambda text: redaction(text, "error")
        )
        self._played: list[TranscriptEntry] = []

    def to_the_end(self, intent: Intent | None) -> StreamOutcome:
        try:
            for entry in self._run.entries:
                self._wait_until(entry.t)
                self._played.append(entry)
                if entry.stream == "stdout":
                    self._write(self._told(self._reader.feed(entry.line)))
            self._wait_until(self._run.duration)
            last = self._told(self._reader.end())
            outcome = self._reader.finish(self._run.exit, self._run.stderr_text, intent)
            last["status"] = outcome.status
            last["error"] = outcome.error
            last["metadata"] = outcome.as_metadata()
            self._write(
                last, whole=outcome.status in (MessageStatus.COMPLETE, MessageStatus.FAILED)
            )
        except InvalidTransition as refusal:
            return self._ended_by(refusal.status)
        return outcome

    def _wait_until(self, t: float) -> None:
        # Measured from the start each time, so that rounding and slow writes do not add up.
        clock: Clock = self._store.clock
        left = self._started_us + round(t * SECOND / self._speed) - clock.monotonic_us()
        if left > 0:
            clock.sleep(left / SECOND)

    def _told(self, updates: list[StreamUpdate]) -> _Writes:
        if self._on_update is not None:
            for update in updates:
                self._on_update(update)
        return _as_one_commit(updates)

    def _write(self, writes: _Writes, *, whole: bool = False) -> None:
        if self._redacted is not None:
            content = writes.pop("content", None)
            text = writes.pop("append", "") if content is None else content
            edit = self._redacted.edit(text, replaces=content is not None, whole=whole)
            writes = cast("_Writes", {**writes, **edit.as_changes()})
        if writes:
            self._store.update_message(self._message, **writes)

    def _ended_by(self, standing: MessageStatus) -> StreamOutcome:
        partial = replace(self._run, entries=tuple(self._played), exit=None)
        timed_out = standing is MessageStatus.TIMEOUT
        return partial.outcome("timeout" if timed_out else "cancelled")


def _as_one_commit(updates: Iterable[StreamUpdate]) -> _Writes:
    """What the updates of one line write, together."""
    writes = _Writes()
    for update in updates:
        if update.kind == "started":
            writes["status"] = MessageStatus.PROCESSING
        elif update.content is not None:
            writes.pop("append", None)
            writes["content"] = update.content
        elif update.append and "content" in writes:
            writes["content"] += update.append
        elif update.append:
            writes["append"] = writes.get("append", "") + update.append
    return writes
