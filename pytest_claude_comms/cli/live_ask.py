"""A run as somebody watches it: its text as it comes, and a line that says how it stands."""

from __future__ import annotations

import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TextIO

from ..clock import SECOND
from ..status import MessageStatus
from .durations import about
from .flow import Flow
from .live import BEAT_US, Parts, line, size
from .output import STATUS_COLOURS
from .safety import safe

if TYPE_CHECKING:
    from ..claude.updates import StreamUpdate
    from ..clock import Clock
    from ..records import Message
    from .output import Output

_SILENT_US: Final = 5 * SECOND
"""After so long without a word of the CLI the line says so."""
_CHARACTERS_A_TOKEN: Final = 4
"""Of English text, roughly. The true number comes with the result."""


class Progress:
    """How a run stands: a fold over its updates."""

    def __init__(self, now_us: int) -> None:
        self.status = MessageStatus.PENDING
        self.characters = 0
        self.retries = 0
        self.session_id: str | None = None
        self.model: str | None = None
        self.cost_usd: float | None = None
        self.tokens: int | None = None
        self._doing = "starting"
        self._tools: dict[str | None, str] = {}
        self._began_us = now_us
        self._heard_us = now_us

    def take(self, update: StreamUpdate, now_us: int) -> None:
        """One more step."""
        self._heard_us = now_us
        kind = update.kind
        if kind == "started":
            self.status = MessageStatus.PROCESSING
            self._doing = "thinking"
        elif kind == "text":
            self.characters = (
                self.characters + len(update.append or "")
                if update.content is None
                else len(update.content)
            )
            self._doing = "writing"
        elif kind == "thinking":
            self._doing = "thinking"
        elif kind == "tool":
            self._tools[update.tool_use_id] = update.tool or "a tool"
        elif kind == "tool_result":
            tool = self._tools.pop(update.tool_use_id, None)
            self._doing = f"thinking after {tool}" if tool else "thinking"
        elif kind == "retry":
            self.retries += 1
            self._doing = _asks_again(update)
        elif kind == "result" and update.result is not None:
            self.cost_usd = update.result.cost_usd
            self.tokens = _output_tokens(update.result.usage)
            self._doing = "finishing"
        self.session_id = update.session_id or self.session_id
        self.model = update.model or self.model

    def end(self, message: Message) -> None:
        """What the store has of it, which counts."""
        self.status = message.status
        self.characters = len(message.content)
        cost, usage = message.metadata.get("cost_usd"), message.metadata.get("usage")
        self.cost_usd = self.cost_usd if _float(cost) is None else _float(cost)
        self.tokens = _output_tokens(usage) if isinstance(usage, dict) else self.tokens

    @property
    def doing(self) -> str:
        """What it does now."""
        return f"tool {', '.join(self._tools.values())}" if self._tools else self._doing

    def parts(self, now_us: int) -> Parts:
        """The live line, the most important first: a narrow terminal cuts its end."""
        facts: list[tuple[str, str | None]] = [
            (self.status.value, STATUS_COLOURS.get(self.status.value)),
            (f"{(now_us - self._began_us) / SECOND:.0f} s", None),
            (self.doing, "cyan"),
        ]
        if self.characters:
            facts.append((f"{self.characters:,} characters", None))
        if self.tokens is not None:
            facts.append((f"{self.tokens:,} tokens", None))
        elif self.characters:
            facts.append((f"~{-(-self.characters // _CHARACTERS_A_TOKEN):,} tokens", None))
        if self.cost_usd is not None:
            facts.append((f"${self.cost_usd:.4f}", None))
        if self.retries:
            facts.append((_times(self.retries, "retry", "retries"), "yellow"))
        silent_us = now_us - self._heard_us
        if silent_us >= _SILENT_US:
            facts.append((f"silent for {about(silent_us / SECOND)}", "yellow"))
        return [part for fact in facts for part in ((" · ", "bright_black"), fact)][1:]

    def summary(self) -> str:
        """What it came to, beside status and time: ``1,204 characters, 301 tokens, $0.0132``."""
        facts = [f"{self.characters:,} characters"]
        if self.tokens is not None:
            facts.append(f"{self.tokens:,} tokens")
        if self.cost_usd is not None:
            facts.append(f"${self.cost_usd:.4f}")
        if self.retries:
            facts.append(_times(self.retries, "retry", "retries"))
        return ", ".join(facts)


def _asks_again(update: StreamUpdate) -> str:
    retry = update.retry
    if retry is None:
        return "asking again"
    why = retry.error_status or retry.error or "no answer"
    delay = _float(retry.retry_delay_ms)
    when = "" if delay is None else f" in {delay / 1000:.1f} s"
    return f"asking again{when} ({why})"


def _float(value: object) -> float | None:
    """A number, if it is one that can be shown."""
    try:
        return float(value) if isinstance(value, (int, float)) else None
    except OverflowError:  # the CLI may print any
        return None


def _output_tokens(usage: Mapping[str, Any]) -> int | None:
    count = usage.get("output_tokens")
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def _times(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


class Heard:
    """Takes updates from the run's thread to the one that shows them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._updates: deque[StreamUpdate] = deque()
        self._wakeup = clock.wakeup()

    def __call__(self, update: StreamUpdate) -> None:
        self._updates.append(update)
        self._wakeup.set()

    def set(self) -> None:
        """End the wait that is under way, or the next one."""
        self._wakeup.set()

    def take(self) -> list[StreamUpdate]:
        """Those that came since the last call."""
        found = []
        while self._updates:
            found.append(self._updates.popleft())
        return found

    def wait(self, span_us: int | None, why: str) -> None:
        """Until there is something to take, or for so long."""
        # It beats for the sake of signals, which on a fake clock nobody sends.
        self._wakeup.wait(span_us, why=why, beat_us=BEAT_US)


class Show:
    """Where a run is shown: text on standard output, the line on whichever terminal is free."""

    def __init__(self, out: Output, *, raw: bool = False, text: bool = True) -> None:
        self._out = out
        self._safe: Callable[[str], str] = str if raw else safe
        self._text = text and not out.is_json
        self._printed: list[str] = []
        self._held = ""
        self._flow: Flow | None = None
        if out.is_live:
            self._flow = Flow(sys.stdout)
        elif out.is_live_aside and not out.is_terminal and not _is_pipe(sys.stdout):
            # What reads a pipe may print on this very terminal, in the middle of our line.
            self._flow = Flow(sys.stderr)
        self.is_live = self._flow is not None

    def take(self, update: StreamUpdate) -> None:
        """One more step: what it adds to the answer is printed, what it takes back is told."""
        if not self._text or update.kind != "text":
            return
        if update.content is None:
            self._printed.append(update.append or "")
            self._write(update.append or "")
            return
        before, self._printed = "".join(self._printed), [update.content]
        same = _same(before, update.content)
        if same < len(before):
            self._write("\n")
            self._remark(f"taken back: the last {len(before) - same:,} characters")
        self._write(update.content[same:])

    def line(self, parts: Parts) -> None:
        """The live line."""
        if self._flow is not None:
            stream = sys.stdout if self._out.is_live else sys.stderr
            self._flow.status(line(self._out, parts, size(stream)[0] - 1))

    def finish(self) -> None:
        """The end of it: no line any more, and the text's last row ended."""
        if self._held:
            self._write("\n")
        if self._flow is not None:
            self._flow.finish()
        if not self._out.is_live and not "".join(self._printed[-1:]).endswith("\n"):
            self._out.raw("\n" if self._printed else "")

    def _write(self, text: str) -> None:
        # \r\n is one newline, and may come in two pieces.
        text, self._held = self._held + text, ""
        if text.endswith("\r"):
            text, self._held = text[:-1], "\r"
        if self._out.is_live and self._flow is not None:
            self._flow.write(self._safe(text))
        elif text:
            self._out.raw(self._safe(text))

    def _remark(self, text: str) -> None:
        if self._out.is_live:
            self._write(f"[{text}]\n")
        else:
            self._out.note(text)


def _same(one: str, other: str) -> int:
    """How many characters both begin with."""
    most = min(len(one), len(other))
    return next((place for place in range(most) if one[place] != other[place]), most)


def _is_pipe(stream: TextIO) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return True
