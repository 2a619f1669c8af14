"""One run of the real CLI, as the recorder tells of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..claude.command import RUN_MARK, find_cli
from ..claude.transcript import SentSignal, StreamName, Transcript, TranscriptEntry
from ..clock import SECOND
from .claude_arguments import UsageError
from .claude_requests import Requests
from .redaction import Redactor
from .sameness import prompt_hash, remark_of, streams_in

if TYPE_CHECKING:
    from .claude_link import Frame, HowCalled

NO_NEWLINE: Final = "no newline at the end of "
"""A remark in a recording, with "stdout" or "stderr"."""
_MATTERS: Final = re.compile(
    r"(ANTHROPIC_|CLAUDE_|DISABLE_|MCP_|BASH_|AWS_|GOOGLE_|VERTEX_|CLOUD_ML_).*"
    r"|API_TIMEOUT_MS|IS_SANDBOX|MAX_.*TOKENS|(HTTPS?|ALL|NO)_PROXY",
    re.IGNORECASE,
)


@dataclass(eq=False)
class Take:
    """One run of the real CLI as it is being recorded."""

    how: HowCalled
    prompt: str
    around: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    """The environment of the test, as it was then: at its end a fixture may have restored it."""
    environ: dict[str, str] | None = None
    """That of the CLI, once the recorder told it."""
    exit: int | None = None
    """None until its exit was seen."""
    end_us: int = 0
    """When that was, since the start."""
    _lines: list[tuple[int, StreamName, str]] = field(default_factory=list)
    _signals: list[SentSignal] = field(default_factory=list)
    _asked: list[tuple[int, str]] = field(default_factory=list)
    """What came on stdin by lines of JSON, and how many lines had come from the CLI by then."""
    _requests: Requests = field(default_factory=lambda: Requests(lambda _answer: None))

    @property
    def over(self) -> bool:
        """Whether its exit was seen."""
        return self.exit is not None

    def hears(self, frame: Frame) -> bool:
        """Whether the recorder told of this; see :mod:`recorder`."""
        content = frame.content
        if frame.kind == "Y":
            pairs = (os.fsdecode(each).partition("=") for each in content.split(b"\0"))
            self.environ = {name: value for name, _, value in pairs if name}
        elif frame.kind in ("L", "l"):
            stream: StreamName = "stdout" if content[0] == 1 else "stderr"
            us = int.from_bytes(content[1:9], "big")
            self._lines.append((us, stream, content[9:].decode("utf-8", "surrogateescape")))
            if frame.kind == "l":
                self._lines.append((us, "recorder", NO_NEWLINE + stream))
        elif frame.kind == "N":
            name = signal.Signals(content[0]).name.removeprefix("SIG")
            us = int.from_bytes(content[1:9], "big")
            self._signals.append(SentSignal(us / SECOND, name))
        elif frame.kind == "D":
            self.exit = int.from_bytes(content[:4], "big", signed=True)
            self.end_us = int.from_bytes(content[4:], "big")
        else:
            if frame.kind == "I" and streams_in(self.how.argv):
                self._read_stdin(content)
            return False
        return True

    def _read_stdin(self, piece: bytes) -> None:
        with contextlib.suppress(UsageError):  # it is for the CLI to refuse
            self._requests.take_in(piece)
        self._asked += [(len(self._lines), text) for text in self._requests.prompts]
        self._requests.prompts.clear()

    def find_cli(self, own_folder: str) -> str:
        """The real one. Raises ClaudeNotFound."""
        path = (self.environ or {}).get("PATH", os.defpath).split(os.pathsep)
        own = os.path.realpath(own_folder)
        others = [each for each in path if os.path.realpath(each or ".") != own]
        # An empty PATH would be taken for the default one.
        return find_cli("claude", {"PATH": os.pathsep.join(others) or os.devnull})

    @property
    def why_not(self) -> str | None:
        """Why it is not to be kept."""
        if self.exit is None:
            return "the run was cut: no exit was seen"
        if self.exit < 0 and not self._signals:
            return f"the CLI died of signal {-self.exit}, which nobody here sent"
        if self.exit == 127 and not any(each[1] == "stdout" for each in self._lines):
            return "the CLI could not be started"
        return None

    def transcript(self, name: str, kept: Redactor, compared: Redactor) -> Transcript:
        """``kept`` redacts what is written; ``compared`` is what a replay will have to read the
        call with, which knows nothing of the CLI's own environment."""
        argv = tuple(kept.text(compared.paths(word, note=True)) for word in self.how.argv)
        entries = self._entries(kept, compared)
        # Output may come from others than the CLI, after its exit.
        end_us = max([self.end_us, *(us for us, _, _ in self._lines)])
        names = sorted(each for each in self.environ or {} if _MATTERS.fullmatch(each))
        return Transcript(
            cli=_cli_of(entries),
            scenario=name,
            argv=argv,
            env={each: f"<{each}>" for each in names if each != RUN_MARK},
            signals=tuple(self._signals),
            entries=tuple(entries),
            exit=self.exit,
            duration=end_us / SECOND,
            prompt_sha256=prompt_hash(compared.prompt(self.prompt)),
            redacted=tuple(sorted(kept.used | compared.used)),
        )

    def _entries(self, kept: Redactor, compared: Redactor) -> list[TranscriptEntry]:
        out = iter(kept.lines([line for _, stream, line in self._lines if stream == "stdout"]))
        asked = list(self._asked)
        if streams_in(self.how.argv) and [text for _, text in asked][:1] != [self.prompt]:
            asked.insert(0, (0, self.prompt))  # it had been read before we began
        entries: list[TranscriptEntry] = []

        def hear(count: int) -> None:
            while asked and asked[0][0] <= count:
                remark = remark_of(prompt_hash(compared.prompt(asked.pop(0)[1])))
                at = entries[-1].t if entries else 0.0
                entries.append(TranscriptEntry(at, "recorder", remark))

        for count, (us, stream, line) in enumerate(self._lines):
            hear(count)
            if stream == "stdout":
                line = next(out)  # noqa: PLW2901 - the same line, redacted
            elif stream == "stderr":
                line = kept.line(line)  # noqa: PLW2901
            entries.append(TranscriptEntry(us / SECOND, stream, line))
        hear(len(self._lines))
        return entries


def _cli_of(entries: Iterable[TranscriptEntry]) -> str:
    for entry in entries:
        if entry.stream == "stdout" and '"claude_code_version"' in entry.line:
            with contextlib.suppress(ValueError, AttributeError):
                version = json.loads(entry.line).get("claude_code_version")
                if isinstance(version, str):
                    return f"claude {version}"
    return "claude"
