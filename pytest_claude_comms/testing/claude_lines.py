"""The lines that the Claude CLI 2.1.330 prints: the same types, keys and order of keys.

The texts are ours, the shape is that of the recordings in ``fixtures/transcripts``, with which a
test compares it.
"""

from __future__ import annotations

import json

from .claude_event_lines import EventLines
from .claude_message_lines import MessageLines
from .claude_result_lines import ResultLines
from .claude_speaker import Line
from .claude_system_lines import SystemLines


class Lines(SystemLines, MessageLines, EventLines, ResultLines):
    """Makes all lines of one process but those of its control requests."""


def encode(line: Line) -> bytes:
    r"""As the CLI prints it: U+2028 and controls escaped, other text in UTF-8."""
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate: \ud83d
