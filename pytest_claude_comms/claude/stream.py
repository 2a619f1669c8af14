"""Reading what ``claude -p … --output-format stream-json --verbose`` prints, as it comes.

The messages and their keys are as observed on CLI 2.1.330 and 2.1.197. Message types, subtypes
and keys that are not known are passed over, and any field may have any JSON type: new releases
add to the format, and no published list of it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ..redaction import Redact
from .lines import BytesLike, LineFramer, parse_object, without_surrogates
from .outcome import (
    ApiRetry,
    AssistantError,
    Evidence,
    Intent,
    StreamOutcome,
    TurnResult,
    check_intent,
    conclude,
    int_of,
    mapping_of,
    read_result,
    text_of,
)
from .updates import BLANK_LINE, LiveText, StreamUpdate, UpdateKind

__all__ = [
    "MAX_LINE_BYTES",
    "ApiRetry",
    "Intent",
    "StreamOutcome",
    "StreamReader",
    "StreamUpdate",
    "TurnResult",
    "UpdateKind",
    "read_stream",
]

MAX_LINE_BYTES: Final = 64 * 1024 * 1024
_QUOTED: Final = 120

_KNOWN_TYPES: Final = frozenset(
    {
        # seen on CLI 2.1.330
        "assistant",
        "command_lifecycle",
        "control_request",
        "control_response",
        "conversation_reset",
        "result",
        "stream_event",
        "system",
        "tool_progress",
        "user",
        # named by the Python SDK 0.2.187 and the TypeScript SDK's types
        "auth_status",
        "control_cancel_request",
        "keep_alive",
        "prompt_suggestion",
        "rate_limit_event",
        "tool_use_summary",
        "transcript_mirror",
    }
)


class StreamReader:
    """Reads one run of the CLI, line by line or chunk by chunk, as it prints.

    ::

        reader = StreamReader()
        for line in stdout:
            for update in reader.feed(line): ...
        for update in reader.end(): ...             # what the end of the output settles
        outcome = reader.finish(exit_code=process.wait(), stderr=stderr)

    Applying all updates in order to "" gives ``outcome.content``, always.

    With ``--include-partial-messages`` text comes as deltas first, and they are passed on at
    once. The whole ``assistant`` line is the truth: where it confirms the deltas nothing more
    is said; deltas that end void (the API was asked again, the message was abandoned or begun
    anew, the turn or the output ended without that line) are taken back by a ``content``.

    A line of more than ``max_line_bytes`` (of characters, where a str is fed) is dropped, and
    the run then counts as failed. ``redact`` is for what an error quotes a part of (the end of
    stderr, a line that is none of the CLI's): a secret that is cut in two is no longer found.
    """

    def __init__(
        self, *, max_line_bytes: int = MAX_LINE_BYTES, redact: Redact | None = None
    ) -> None:
        if isinstance(max_line_bytes, bool) or not isinstance(max_line_bytes, int):
            raise TypeError(f"max_line_bytes must be an int, not {max_line_bytes!r}")
        if max_line_bytes < 1:
            raise ValueError(f"max_line_bytes must be at least 1, not {max_line_bytes}")
        self._max = max_line_bytes
        self._redact: Redact = redact or str
        self._framer = LineFramer(max_line_bytes)
        self._seen = Evidence()
        self._text = LiveText()
        self._background = False
        """Whether a background task runs, which may begin another turn."""
        self._ended = False
        self._outcome: StreamOutcome | None = None

    @property
    def content(self) -> str:
        """The text so far, streamed deltas included: all updates applied to ""."""
        return self._text.whole()

    @property
    def session_id(self) -> str | None:
        """The last seen, or None."""
        return self._seen.session_id

    @property
    def results(self) -> tuple[TurnResult, ...]:
        """The result lines so far, one a turn."""
        return tuple(self._seen.results)

    def feed(self, line: str | BytesLike) -> list[StreamUpdate]:
        r"""Read one line, with its newline or without (``\r\n`` too), and say what it changed.

        Whatever stands in the line, it is no error. Raises TypeError for what is neither str nor
        bytes, RuntimeError after the end, or while ``feed_bytes`` holds half a line.
        """
        self._check_open("feed")
        if not isinstance(line, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"a line is a str or bytes, not {line!r}")
        if self._framer.pending:
            raise RuntimeError("feed() takes whole lines, but feed_bytes() still holds half of one")
        if isinstance(line, str):
            lines = (each if len(each) <= self._max else None for each in line.split("\n"))
            return [update for each in lines for update in self._line(each)]
        return self._framed(self._framer.push(bytes(line)) + self._framer.flush())

    def feed_bytes(self, chunk: BytesLike) -> list[StreamUpdate]:
        """Read the next piece of the output, wherever it was cut: inside a line or a character."""
        self._check_open("feed_bytes")
        if not isinstance(chunk, (bytes, bytearray, memoryview)):
            raise TypeError(f"a chunk is bytes, not {chunk!r}")
        return self._framed(self._framer.push(bytes(chunk)))

    def end(self) -> list[StreamUpdate]:
        """The output has ended. Says what that settles; ``finish`` calls it if nobody did.

        A last line without its newline counts if it is whole, else it is dropped and counted.
        """
        if self._ended:
            return []
        self._ended = True
        updates: list[StreamUpdate] = []
        for tail in self._framer.flush():
            line = None if tail is None else self._decode(tail)
            if line and line.strip() and parse_object(line) is None:
                updates += self._began()
                self._seen.unknown += 1
                self._seen.cut_off = True
            else:
                updates += self._line(line)
        return updates + self._text.void()

    def finish(
        self,
        exit_code: int | None = 0,
        stderr: str | bytes = "",
        intent: Intent | None = None,
    ) -> StreamOutcome:
        """What the run came to.

        ``exit_code`` as ``Popen.returncode`` has it (negative for a signal), None where it is
        not known. ``intent``: "timeout" or "cancelled" if we ended the run ourselves, which then
        is its status. Ending a run that had given its last result and did not exit is no intent:
        pass None. A second call returns the same outcome, whatever its arguments.

        Raises ValueError for another intent, TypeError for arguments of other types.
        """
        check_intent(intent)
        if exit_code is not None and (
            isinstance(exit_code, bool) or not isinstance(exit_code, int)
        ):
            raise TypeError(f"exit_code must be an int or None, not {exit_code!r}")
        if not isinstance(stderr, (str, bytes)):
            raise TypeError(f"stderr must be a str or bytes, not {stderr!r}")
        if self._outcome is None:
            self.end()
            told = stderr if isinstance(stderr, str) else stderr.decode("utf-8", "replace")
            self._outcome = conclude(
                self._seen,
                self._text.whole(),
                exit_code=exit_code,
                stderr=self._redact(without_surrogates(told)),
                intent=intent,
            )
        return self._outcome

    @property
    def is_done(self) -> bool:
        """Whether the last turn has given its result, and no background task may begin another
        (observed on CLI 2.1.330: silent until the task has ended, then a second result)."""
        return bool(self._seen.results) and not self._seen.turn_under_way and not self._background

    def _check_open(self, method: str) -> None:
        if self._ended:
            raise RuntimeError(f"{method}() after the end: a StreamReader reads one run")

    def _framed(self, lines: list[bytes | None]) -> list[StreamUpdate]:
        return [
            update
            for line in lines
            for update in self._line(None if line is None else self._decode(line))
        ]

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode()
        except UnicodeDecodeError:
            self._seen.undecodable += 1
            return line.decode("utf-8", "replace")

    def _line(self, line: str | None) -> list[StreamUpdate]:
        """Read a whole line; None stands for one that was too long."""
        if line is not None and not line.strip():
            return []
        updates = self._began()
        if line is None:
            self._seen.unknown += 1
            self._seen.too_long += 1
            return updates
        parsed = parse_object(line)
        kind = parsed and parsed.get("type")
        if parsed is None or not isinstance(kind, str):
            self._unreadable(line)
            return updates
        if kind not in _KNOWN_TYPES:
            self._seen.unknown += 1
        updates += self._session(parsed)
        read = _READERS.get(kind)
        return updates + read(self, parsed) if read else updates

    def _began(self) -> list[StreamUpdate]:
        self._seen.lines += 1
        return [StreamUpdate(kind="started")] if self._seen.lines == 1 else []

    def _unreadable(self, line: str) -> None:
        self._seen.unknown += 1
        self._seen.unreadable += 1
        if self._seen.unreadable == 1:
            text = self._redact(without_surrogates(line.strip()))
            self._seen.first_unreadable = text if len(text) <= _QUOTED else text[:_QUOTED] + "…"

    def _session(self, line: Mapping[str, Any]) -> list[StreamUpdate]:
        session_id = text_of(line.get("session_id"))
        if session_id is None or session_id == self._seen.session_id:
            return []
        self._seen.session_id = session_id
        return [StreamUpdate(kind="session", session_id=session_id)]

    def _model(self, model: str | None) -> list[StreamUpdate]:
        if model is None or model == self._seen.model:
            return []
        self._seen.model = model
        return [StreamUpdate(kind="model", model=model)]

    def _system(self, line: Mapping[str, Any]) -> list[StreamUpdate]:
        subtype = line.get("subtype")
        if subtype == "init":
            self._seen.turn_under_way = True
            return self._model(text_of(line.get("model")))
        if subtype == "model_fallback":
            return self._model(text_of(line.get("fallback_model")))
        if subtype == "background_tasks_changed":
            self._background = bool(line.get("tasks"))
        if subtype == "api_retry":
            retry = ApiRetry(
                attempt=int_of(line.get("attempt")),
                max_retries=int_of(line.get("max_retries")),
                retry_delay_ms=int_of(line.get("retry_delay_ms")),
                error_status=int_of(line.get("error_status")),
                error=text_of(line.get("error")),
            )
            self._seen.retries.append(retry)
            return [*self._text.void(), StreamUpdate(kind="retry", retry=retry)]
        return []

    def _assistant(self, line: Mapping[str, Any]) -> list[StreamUpdate]:
        message = mapping_of(line.get("message"))
        blocks = _blocks(message.get("content"))
        is_main = line.get("parent_tool_use_id") is None
        if is_main:
            self._seen.turn_under_way = True
            self._note_failure(line, blocks)
        updates: list[StreamUpdate] = []
        for block in blocks:
            kind = block.get("type")
            text = block.get("text")
            if kind == "text" and isinstance(text, str) and is_main:
                updates += self._text.settle(text, text_of(message.get("id")))
            elif kind == "thinking":
                updates.append(_thinking(line, block))
            elif kind in ("tool_use", "server_tool_use"):
                updates.append(_tool(line, block))
        return updates

    def _note_failure(self, line: Mapping[str, Any], blocks: list[Mapping[str, Any]]) -> None:
        kind = text_of(line.get("error"))
        status = int_of(line.get("api_error_status"))
        if kind or status is not None:
            texts = [text for block in blocks if (text := text_of(block.get("text")))]
            self._seen.failure = AssistantError(kind, status, BLANK_LINE.join(texts))

    def _user(self, line: Mapping[str, Any]) -> list[StreamUpdate]:
        return [
            StreamUpdate(
                kind="tool_result",
                tool_use_id=text_of(block.get("tool_use_id")),
                is_error=block.get("is_error") is True,
                parent_tool_use_id=text_of(line.get("parent_tool_use_id")),
            )
            for block in _blocks(mapping_of(line.get("message")).get("content"))
            if block.get("type") == "tool_result"
        ]

    def _result(self, line: Mapping[str, Any]) -> list[StreamUpdate]:
        result = read_result(line, self._seen.failure)
        self._seen.results.append(result)
        self._seen.failure = None
        self._seen.turn_under_way = False
        return [*self._text.void(), StreamUpdate(kind="result", result=result)]

    def _stream_event(self, line: Mapping[str, Any]) -> list[StreamUpdate]:
        if line.get("parent_tool_use_id") is not None:
            return []
        event = mapping_of(line.get("event"))
        kind = event.get("type")
        if kind == "message_start":
            message_id = text_of(mapping_of(event.get("message")).get("id"))
            return self._text.start(message_id or text_of(line.get("api_message_id")))
        if kind == "message_stop" and (
            line.get("abandoned_blocks") or event.get("abandoned_blocks")
        ):
            return self._text.void()
        piece = mapping_of(event.get("content_block" if kind == "content_block_start" else "delta"))
        text = text_of(piece.get("text"))
        if text and (kind, piece.get("type")) in _TEXT_EVENTS:
            return self._text.delta(int_of(event.get("index")), text)
        return []


_READERS: Final[Mapping[str, Callable[[StreamReader, Mapping[str, Any]], list[StreamUpdate]]]] = {
    "assistant": StreamReader._assistant,
    "result": StreamReader._result,
    "stream_event": StreamReader._stream_event,
    "system": StreamReader._system,
    "user": StreamReader._user,
}

_TEXT_EVENTS: Final = (
    ("content_block_start", "text"),
    ("content_block_delta", "text_delta"),
)


def _thinking(line: Mapping[str, Any], block: Mapping[str, Any]) -> StreamUpdate:
    return StreamUpdate(
        kind="thinking",
        text=text_of(block.get("thinking")) or "",
        parent_tool_use_id=text_of(line.get("parent_tool_use_id")),
    )


def _tool(line: Mapping[str, Any], block: Mapping[str, Any]) -> StreamUpdate:
    return StreamUpdate(
        kind="tool",
        tool=text_of(block.get("name")),
        tool_use_id=text_of(block.get("id")),
        tool_input=mapping_of(block.get("input")),
        parent_tool_use_id=text_of(line.get("parent_tool_use_id")),
    )


def _blocks(content: object) -> list[Mapping[str, Any]]:
    # The API takes a plain str for one text block.
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return (
        [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    )


def read_stream(
    lines: Iterable[str | BytesLike] | str | BytesLike,
    exit_code: int | None = 0,
    stderr: str | bytes = "",
    intent: Intent | None = None,
    *,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> StreamOutcome:
    """Read a whole run at once.

    ``lines`` is what the CLI printed on stdout: its lines as str, with newlines or without; or
    bytes in pieces of any size, cut anywhere, JSON lines without their newlines too; or all of it
    as one str or bytes. The rest is as for :meth:`StreamReader.finish`. Raises TypeError for items
    of other types, RuntimeError for a str that follows half a line of bytes.
    """
    reader = StreamReader(max_line_bytes=max_line_bytes)
    check_intent(intent)
    items: Iterable[str | BytesLike]
    items = (lines,) if isinstance(lines, (str, bytes, bytearray, memoryview)) else lines
    for item in items:
        if isinstance(item, str):
            reader.feed(item)
        else:
            reader.feed_bytes(item)
    return reader.finish(exit_code, stderr, intent)
