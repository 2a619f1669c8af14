"""The command line that a stand-in for the Claude CLI was called with."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final

VERSION: Final = "2.1.330"

_SWITCHES: Final = frozenset(
    [
        "-p",
        "--print",
        "--verbose",
        "--include-partial-messages",
        "--include-hook-events",
        "-c",
        "--continue",
        "--bare",
        "--fork-session",
        "--dangerously-skip-permissions",
        "--allow-dangerously-skip-permissions",
        "--brief",
        "--strict-mcp-config",
        "--no-session-persistence",
        "--disable-slash-commands",
        "--ide",
        "--safe-mode",
        "--chrome",
        "--no-chrome",
        "--replay-user-messages",
        "--mcp-debug",
        "-v",
        "--version",
        "-h",
        "--help",
        "--session-mirror",
    ]
)
_VALUED: Final = {
    "--output-format": "format",
    "--input-format": "format",
    "--model": "model",
    "--fallback-model": "model",
    "--max-turns": "turns",
    "--max-budget-usd": "amount",
    "--session-id": "uuid",
    "--system-prompt": "prompt",
    "--system-prompt-file": "file",
    "--append-system-prompt": "prompt",
    "--append-system-prompt-file": "file",
    "--permission-mode": "mode",
    "--permission-prompt-tool": "tool",
    "--settings": "file-or-json",
    "--setting-sources": "sources",
    "--json-schema": "schema",
    "--agent": "agent",
    "--agents": "json-or-file",
    "--effort": "level",
    "--max-thinking-tokens": "tokens",
    "--thinking": "mode",
    "--thinking-display": "display",
    "--debug-file": "path",
    "--task-budget": "tokens",
    "-n": "name",
    "--name": "name",
    "--plugin-dir": "path",
}
"""What takes a value, by the name that this has in ``--help``."""
_OPTIONAL: Final = frozenset(["-r", "--resume", "-d", "--debug", "--from-pr", "-w", "--worktree"])
_LISTS: Final = frozenset(
    [
        "--allowedTools",
        "--allowed-tools",
        "--disallowedTools",
        "--disallowed-tools",
        "--tools",
        "--mcp-config",
        "--add-dir",
        "--betas",
        "--file",
    ]
)
_SHORT: Final = {
    "-p": "--print",
    "-c": "--continue",
    "-v": "--version",
    "-h": "--help",
    "-r": "--resume",
    "-d": "--debug",
    "-n": "--name",
    "-w": "--worktree",
}
_CHOICES: Final = {
    "--output-format": ("text", "json", "stream-json"),
    "--input-format": ("text", "stream-json"),
    "--permission-mode": ("acceptEdits", "auto", "bypassPermissions", "manual", "dontAsk", "plan"),
    "--thinking": ("enabled", "adaptive", "disabled"),
    "--thinking-display": ("summarized", "omitted", "highlights"),
}
_SILENTLY: Final = {("--permission-mode", "default")}
"""Taken, and not told of."""
_NUMBER: Final = r"[0-9]+(\.[0-9]+)?"
_NUMBERS: Final = {
    "--max-turns": (f"-?{_NUMBER}", "must be a number"),
    "--max-thinking-tokens": (f"-?{_NUMBER}", "must be a number"),
    "--max-budget-usd": (
        rf"(?=.*[1-9]){_NUMBER}",
        "--max-budget-usd must be a number greater than 0",
    ),
    "--task-budget": ("0*[1-9][0-9]*", "--task-budget must be a positive integer"),
}
_SOURCES: Final = ("user", "project", "local")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class UsageError(Exception):
    """What the CLI says on stderr before it exits with 1."""


@dataclass(slots=True)
class Arguments:
    """The command line, read as the CLI reads it."""

    prompt: str | None = None
    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, argv: tuple[str, ...]) -> Arguments:
        """Raises UsageError with what the CLI prints."""
        found = cls()
        words = list(argv)
        while words:
            word = words.pop(0)
            if word == "--":
                found._positional(words)
                break
            if not word.startswith("-") or word == "-":
                found._positional([word])
            else:
                found._option(word, words)
        found._check_sources()
        return found

    def _positional(self, words: list[str]) -> None:
        if self.prompt is None and words:
            self.prompt = words[0]

    def _option(self, word: str, words: list[str]) -> None:
        name, equals, value = word.partition("=")
        long = _SHORT.get(name, name)
        if name in _SWITCHES:
            self.options[long] = "true"
        elif name in _VALUED:
            if not equals and not words:
                told = "-n, --name" if long == "--name" else name
                raise UsageError(f"error: option '{told} <{_VALUED[name]}>' argument missing")
            self.options[long] = value = value if equals else words.pop(0)
            _check_value(long, value)
        elif name in _OPTIONAL:
            given = words and not words[0].startswith("-")
            self.options[long] = value if equals else words.pop(0) if given else ""
        elif name in _LISTS:
            values = [value] if equals else []
            while not equals and words and not words[0].startswith("-"):
                values.append(words.pop(0))
            self.options[long] = ",".join(values)
        else:
            raise UsageError(f"error: unknown option '{word}'")

    def _check_sources(self) -> None:
        for source in self.options.get("--setting-sources", "").split(","):
            if source and source not in _SOURCES:
                raise UsageError(
                    f"Error processing --setting-sources: Invalid setting source: {source}. "
                    f"Valid options are: {', '.join(_SOURCES)}"
                )

    def check(self) -> None:
        """What the CLI asks of options together. Raises UsageError."""
        if self.output == "stream-json" and not self.verbose:
            raise UsageError(
                "Error: When using --print, --output-format=stream-json requires --verbose"
            )
        if self.streams_in and self.output != "stream-json":
            raise UsageError(
                "Error: --input-format=stream-json requires output-format=stream-json."
            )
        if self.partial and self.output != "stream-json":
            raise UsageError(
                "Error: --include-partial-messages requires --print and "
                "--output-format=stream-json."
            )
        if self.session_id is not None and not _UUID.fullmatch(self.session_id):
            raise UsageError("Error: Invalid session ID. Must be a valid UUID.")

    def has(self, name: str) -> bool:
        return name in self.options

    @property
    def output(self) -> str:
        return self.options.get("--output-format", "text")

    @property
    def verbose(self) -> bool:
        return self.has("--verbose")

    @property
    def partial(self) -> bool:
        return self.has("--include-partial-messages")

    @property
    def streams_in(self) -> bool:
        return self.options.get("--input-format") == "stream-json"

    @property
    def session_id(self) -> str | None:
        return self.options.get("--session-id")

    @property
    def resume(self) -> str | None:
        return self.options.get("--resume")

    @property
    def max_turns(self) -> int | None:
        """None: without limit, as 0 is."""
        return math.ceil(float(self.options.get("--max-turns", "0"))) or None

    @property
    def asks_by_stdio(self) -> bool:
        return self.options.get("--permission-prompt-tool") == "stdio"


def _check_value(name: str, value: str) -> None:
    """Each is looked at as it is read: the first that is wrong is told of."""
    why = ""
    choices = _CHOICES.get(name)
    if choices is not None and value not in choices and (name, value) not in _SILENTLY:
        why = f"Allowed choices are {', '.join(choices)}."
    pattern, told = _NUMBERS.get(name, (".*", ""))
    if not re.fullmatch(pattern, value, re.DOTALL):
        why = told
    if why:
        raise UsageError(
            f"error: option '{name} <{_VALUED[name]}>' argument '{value}' is invalid. {why}"
        )
