"""What a reader tells while a run goes on, and the text that those tellings add up to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from .outcome import ApiRetry, TurnResult

UpdateKind: TypeAlias = Literal[
    "started",
    "session",
    "model",
    "text",
    "thinking",
    "tool",
    "tool_result",
    "retry",
    "result",
]

BLANK_LINE: Final = "\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamUpdate:
    """One step of a run, to update a stored message with and to show progress by.

    ``kind`` says which fields beside it are set:

    - "started": the first line came; the message is ``processing`` now.
    - "session": ``session_id``, at first and whenever it changes.
    - "model": ``model``, at first and whenever it changes.
    - "text": the message's text grew by ``append``, or became ``content`` because what was
      streamed turned out void. Exactly one of the two is a str; "" counts.
    - "thinking": ``text``, one whole block of thinking.
    - "tool": ``tool``, ``tool_use_id`` and ``tool_input``: a tool is about to run.
    - "tool_result": ``tool_use_id`` and ``is_error``: it has run.
    - "retry": ``retry``, the API is going to be asked again.
    - "result": ``result``, a turn ended. More turns may follow until the process ends.

    ``parent_tool_use_id`` is set on what a subagent did. Its texts are no "text".
    """

    kind: UpdateKind
    append: str | None = None
    content: str | None = None
    text: str = ""
    session_id: str | None = None
    model: str | None = None
    tool: str | None = None
    tool_use_id: str | None = None
    tool_input: Mapping[str, Any] | None = field(default=None, hash=False)
    is_error: bool | None = None
    parent_tool_use_id: str | None = None
    retry: ApiRetry | None = None
    result: TurnResult | None = None

    def apply(self, text: str) -> str:
        """What ``text`` becomes by this update."""
        if self.content is not None:
            return self.content
        return text + self.append if self.append else text


class LiveText:
    """The text of the main conversation: settled blocks, then those still being streamed.

    A block is never kept empty, so that it adds no blank line.
    """

    def __init__(self) -> None:
        self._settled: list[str] = []
        self._live: dict[int | None, list[str]] = {}
        self._message_id: str | None = None

    def whole(self) -> str:
        return BLANK_LINE.join([*self._settled, *("".join(each) for each in self._live.values())])

    def start(self, message_id: str | None) -> list[StreamUpdate]:
        updates = self.void()
        self._message_id = message_id
        return updates

    def delta(self, index: int | None, text: str) -> list[StreamUpdate]:
        if index not in self._live:
            before = self._gap()
            self._live[index] = [text]
            return [_append(before + text)]
        self._live[index].append(text)
        is_last = index == next(reversed(self._live))
        return [_append(text)] if is_last else [self._replaced()]

    def settle(self, text: str, message_id: str | None) -> list[StreamUpdate]:
        """A whole block: it confirms the oldest live one, corrects it, or comes unannounced."""
        updates: list[StreamUpdate] = []
        oldest = "".join(next(iter(self._live.values()), ()))
        if oldest and oldest != text and self._is_other(message_id):
            # What was streamed belongs to a message that never came: the CLI asked again.
            updates = self.void()
            oldest = ""
        if not oldest:
            return updates + self._add(text)
        self._live.pop(next(iter(self._live)))
        if text:
            self._settled.append(text)
        if text == oldest:
            return []
        if not self._live and text.startswith(oldest):
            return [_append(text[len(oldest) :])]
        return [self._replaced()]

    def _add(self, text: str) -> list[StreamUpdate]:
        if not text:
            return []
        before = self._gap()
        self._settled.append(text)
        return [_append(before + text)]

    def void(self) -> list[StreamUpdate]:
        """Take back what was streamed and not settled."""
        if not self._live:
            return []
        self._live.clear()
        return [self._replaced()]

    def _is_other(self, message_id: str | None) -> bool:
        return None not in (message_id, self._message_id) and message_id != self._message_id

    def _gap(self) -> str:
        return BLANK_LINE if self._settled or self._live else ""

    def _replaced(self) -> StreamUpdate:
        return StreamUpdate(kind="text", content=self.whole())


def _append(text: str) -> StreamUpdate:
    return StreamUpdate(kind="text", append=text)
