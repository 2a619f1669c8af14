"""The command line that a stand-in for the Claude CLI was called with."""

from __future__ import annotations

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
_VALUED: Final = frozenset(
    [
        "--output-format",
        "--input-format",
        "--model",
        "--fallback-model",
        "--max-turns",
        "--max-budget-usd",
        "--session-id",
        "--system-prompt",
        "--system-prompt-file",
        "--append-system-prompt",
        "--append-system-prompt-file",
        "--permission-mode",
        "--permission-prompt-tool",
        "--settings",
        "--setting-sources",
        "--json-schema",
        "--agent",
        "--agents",
        "--effort",
        "--max-thinking-tokens",
        "--thinking",
        "--thinking-display",
        "--debug-file",
        "--task-budget",
        "-n",
        "--name",
        "--plugin-dir",
    ]
)
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
}
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
        found._check_choices()
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
                raise UsageError(f"error: option '{name} <value>' argument missing")
            self.options[long] = value if equals else words.pop(0)
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

    def _check_choices(self) -> None:
        for name, choices in _CHOICES.items():
            value = self.options.get(name, "text")
            if value not in choices:
                raise UsageError(
                    f"error: option '{name} <format>' argument '{value}' is invalid. "
                    f"Allowed choices are {', '.join(choices)}."
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
        turns = self.options.get("--max-turns", "1")
        if not turns.isdigit() or int(turns) < 1:
            raise UsageError(
                f"error: option '--max-turns <turns>' argument '{turns}' is invalid. "
                "It must be a positive integer"
            )

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
        turns = self.options.get("--max-turns")
        return None if turns is None else int(turns)

    @property
    def asks_by_stdio(self) -> bool:
        return self.options.get("--permission-prompt-tool") == "stdio"
