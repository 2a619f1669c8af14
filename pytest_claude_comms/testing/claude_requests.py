"""What the caller of ``--input-format stream-json`` says on stdin, line by line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable

from .claude_arguments import UsageError
from .claude_control_lines import control_response, initialized
from .claude_speaker import Line


class Requests:
    """The prompts, permissions and control requests so far.

    Control requests are answered at once, by ``answer``.
    """

    def __init__(self, answer: Callable[[Line], None]) -> None:
        self.prompts: list[str] = []
        """Those that wait for their turn."""
        self.permission: Line = {}
        """The last answer to a control request of ours."""
        self._answer = answer
        self._begun = bytearray()

    def take_in(self, piece: bytes) -> bool:
        """A piece of stdin, cut anywhere, empty at its end. Whether it holds an interrupt.

        Raises UsageError for a line that is no JSON object.
        """
        self._begun += piece
        if not piece and self._begun.strip():
            self._begun += b"\n"
        *whole, rest = bytes(self._begun).split(b"\n")
        self._begun = bytearray(rest)
        interrupted = False
        for line in whole:
            if line.strip():
                interrupted = self._take_in_line(line) or interrupted
        return interrupted

    def _take_in_line(self, line: bytes) -> bool:
        try:
            said = json.loads(line)
            kind = said.get("type")
        except (ValueError, AttributeError):
            raise UsageError(
                f"Error parsing streaming input line: {line.decode(errors='replace')}"
            ) from None
        if kind == "user":
            self.prompts.append(_text_of(said))
        elif kind == "control_response":
            self.permission = said.get("response") or {}
        elif kind == "control_request":
            request = said.get("request") or {}
            answers = {"initialize": initialized(), "interrupt": {"still_queued": []}}
            answer: Line = answers.get(str(request.get("subtype")), {})
            self._answer(control_response(said.get("request_id"), answer))
            return bool(request.get("subtype") == "interrupt")
        return False


def first_prompt(stdin: bytes) -> str:
    """The first prompt in what was written to stdin; empty if there is none."""
    for line in stdin.split(b"\n"):
        with contextlib.suppress(ValueError, AttributeError):
            said = json.loads(line)
            if said.get("type") == "user":
                return _text_of(said)
    return ""


def _text_of(said: Line) -> str:
    content = (said.get("message") or {}).get("content")
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    texts = [block.get("text") for block in blocks if isinstance(block, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))
