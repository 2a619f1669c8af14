"""What is private is replaced by marks, before a recording of the real CLI is kept."""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from ..claude.command import RUN_MARK

_SECRET: Final = re.compile(
    "KEY|TOKEN|SECRET|PASSW|PASSPHRASE|AUTH|HEADERS|CREDENTIAL|COOKIE", re.IGNORECASE
)
_SETTING: Final = re.compile(".*(TOKENS|_MS|_TTL)", re.IGNORECASE)
"""No secret, if it is a number: MAX_OUTPUT_TOKENS, API_KEY_HELPER_TTL_MS."""
_SHORTEST_SECRET: Final = 6
_IN_URL: Final = re.compile(r"://([^/@\s]+)@")
_KEY_OF_THE_API: Final = r"sk-ant-[\w-]{6,}"
"""Whatever environment or file it was in."""
PLACES: Final = frozenset({"CWD", "HOME", "TMP", "TMP_PATH", "BASETEMP", "ROOT"})
"""The marks of folders, which every machine has."""
_NOBODY: Final = frozenset(
    [
        *("admin", "assistant", "ci", "claude", "dev", "docker", "jenkins", "nobody", "node"),
        *("root", "runner", "system", "test", "text", "tool", "ubuntu", "user", "vagrant"),
        *("vscode", "build", "builder", "container", "debian", "host", "linux", "local"),
        *("localhost", "localhost.localdomain", "mac", "server", "vm", "workspace"),
    ]
)
"""Accounts and machines that name no person; some are words of the stream."""
_WORDS: Final = frozenset(
    [
        *("assistant", "default", "error", "init", "json", "message", "result", "role", "status"),
        *("stream_event", "subtype", "success", "system", "text", "thinking", "tool_result"),
        *("tool_use", "type", "user"),
    ]
)
"""Of the stream's own: never a secret, if they are all of a string."""
_OF_EVERYBODY: Final = ("tokenSource", "apiKeySource", "apiProvider", "subscriptionType")
"""What an account says that is no private matter."""
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?')

Hook = Callable[[str], str]
_Known = list[tuple[re.Pattern[str], str]]


class Redactor:
    """Replaces what is private by marks; ``used`` has the marks' names.

    ``environs``: of all who may have said something private; the first counts for the folders.
    """

    def __init__(
        self,
        *environs: Mapping[str, str],
        cwd: str,
        places: Mapping[str, str],
        hooks: Iterable[Hook],
    ) -> None:
        self.used: set[str] = set()
        self._hooks = tuple(hooks)
        named = [
            ("CWD", cwd),
            *places.items(),
            *(each for env in environs for each in _folders(env)),
        ]
        paths: list[tuple[str, str, str]] = []  # the text, its pattern, its mark
        for name, path in named:
            for each in dict.fromkeys((path, os.path.realpath(path) if path else "")):
                paths += [(text, pattern, name) for text, pattern in _path_patterns(each)]
        secrets = [each for env in environs for each in _secrets(env)]
        names = [each for env in environs for each in _names(env)]
        self._paths = _longest_first(paths)
        # A key that is in no variable may be in a file that is read.
        a_key = [(re.compile(_KEY_OF_THE_API), "API_KEY")]
        self._all = _longest_first([*paths, *secrets, *names]) + a_key
        self._all_but_names = _longest_first([*paths, *secrets]) + a_key

    def text(self, text: str) -> str:
        """Text that is no JSON."""
        return self._hooked(self._replaced([text], self._all)[0])

    def prompt(self, text: str) -> str:
        """A prompt, of which only a hash is kept: paths go, since they differ from one machine to
        the next; a name or a word that happens to be somebody's password there stays."""
        return self._hooked(self.paths(text))

    def paths(self, text: str, *, note: bool = False) -> str:
        """Text without the paths alone, which no hook has seen."""
        return self._replaced([text], self._paths, note=note)[0]

    def line(self, line: str) -> str:
        """A line, which stays JSON if it is."""
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return self.text(line)
        return _STRING.sub(self._token, line)

    def lines(self, lines: list[str]) -> list[str]:
        """The lines of one stdout: also what is spread over several deltas."""
        lines = list(lines)
        self._all = (
            _longest_first([each for line in lines for each in _account_in(line)]) + self._all
        )
        begun: dict[tuple[object, ...], list[tuple[int, Any, str]]] = {}
        for number, line in enumerate(lines):
            found = _delta(line)
            if found is not None:
                key, record, name = found
                begun.setdefault(key, []).append((number, record, name))
            elif '"content_block_start"' in line or '"message_start"' in line:
                self._join(begun, lines)
        self._join(begun, lines)
        return [self.line(line) for line in lines]

    def _join(
        self, begun: dict[tuple[object, ...], list[tuple[int, Any, str]]], lines: list[str]
    ) -> None:
        for parts in begun.values():
            before = [record["event"]["delta"][name] for _, record, name in parts]
            after = self._replaced(before, self._all)
            for (number, record, name), old, new in zip(parts, before, after, strict=True):
                if new != old:
                    record["event"]["delta"][name] = new
                    lines[number] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        begun.clear()

    def _token(self, match: re.Match[str]) -> str:
        after = match[1] or ""
        written = match[0].removesuffix(after)
        text = json.loads(written)
        if text in _WORDS:
            return match[0]
        # Who is called "model" must not cost the stream that key.
        known = self._all_but_names if after else self._all
        new = self._hooked(self._replaced([text], known)[0])
        return match[0] if new == text else json.dumps(new, ensure_ascii=False) + after

    def _hooked(self, text: str) -> str:
        for hook in self._hooks:
            new = hook(text)
            if not isinstance(new, str):
                raise TypeError(f"claude.redact: {hook!r} returned {new!r}, which is no str")
            if new != text:
                self.used.add("what claude.redact was given")
            text = new
        return text

    def _replaced(self, pieces: list[str], known: _Known, *, note: bool = True) -> list[str]:
        """The pieces of one text; a mark stands where what it replaces began."""
        text = "".join(pieces)
        spans: list[tuple[int, int, str]] = []
        for pattern, name in known:
            for match in pattern.finditer(text):
                start, end = match.span()
                if all(end <= other[0] or other[1] <= start for other in spans):
                    spans.append((start, end, name))
                    if note:
                        self.used.add(name)
        if not spans:
            return pieces
        spans.sort()
        found, begin = [], 0
        for piece in pieces:
            end = begin + len(piece)
            made, at = [], begin
            for start, stop, name in spans:
                if stop <= begin or start >= end:
                    continue
                made.append(text[at : max(at, start)])
                if start >= begin:
                    made.append(f"<{name}>")
                at = min(stop, end)
            made.append(text[at:end])
            found.append("".join(made))
            begin = end
        return found


def _folders(environ: Mapping[str, str]) -> list[tuple[str, str]]:
    # The account's own home too: a test may have given HOME another, and the CLI lies there.
    homes = [environ.get("HOME", ""), _account()[1]]
    temporary = [environ.get("TMPDIR", ""), tempfile.gettempdir()]
    return [*(("HOME", each) for each in homes), *(("TMP", each) for each in temporary)]


def _account() -> tuple[str, str]:
    """Who we are by the system's own book, and where at home."""
    try:
        import pwd

        entry = pwd.getpwuid(os.getuid())
    except (ImportError, KeyError, OSError):  # a container's number without a name
        return "", ""
    return entry.pw_name, entry.pw_dir


def _secrets(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for name in sorted(environ):
        value = environ[name]
        if name == RUN_MARK or (_SETTING.fullmatch(name) and value.isdigit()):
            continue
        if _SECRET.search(name):
            forms = _forms(value)
        else:  # a proxy's address may have a password
            forms = _IN_URL.findall(value)
            forms += [password for each in forms if (password := each.partition(":")[2])]
        found += [(each, re.escape(each), name) for each in forms if len(each) >= _SHORTEST_SECRET]
    return found


def _names(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    users = {environ.get("USER", ""), environ.get("LOGNAME", ""), _account()[0]}
    hosts = {environ.get("HOSTNAME", ""), socket.gethostname()}
    hosts |= {each.partition(".")[0] for each in hosts}
    return [
        (each, rf"(?<![A-Za-z0-9]){re.escape(each)}(?![A-Za-z0-9])", mark)
        for mark, names in (("USER", users), ("HOST", hosts))
        for each in sorted(names)
        if len(each) > 1 and each.lower() not in _NOBODY and each not in _WORDS
    ]


def _path_patterns(path: str) -> list[tuple[str, str]]:
    path = path.rstrip("/")
    if not path.startswith("/"):
        return []
    if path.count("/") == 1:  # /root, /tmp: part of many another path
        return [(path, rf"(?<![\w.-]){re.escape(path)}(?![\w-])")]
    slug = re.sub("[^A-Za-z0-9]", "-", path)  # as the CLI calls a project's folder
    return [
        (path, rf"{re.escape(path)}(?![\w-])"),
        (slug, rf"{re.escape(slug)}(?![A-Za-z0-9])"),
    ]


def _forms(secret: str) -> list[str]:
    """How a secret may be printed: as it is, inside of JSON, line by line, without "Name: "."""
    lines = [line for line in secret.splitlines() if len(line) >= 2 * _SHORTEST_SECRET]
    headers = [line.partition(": ")[2].strip() for line in lines]
    inside = [json.dumps(secret, ensure_ascii=plain)[1:-1] for plain in (False, True)]
    return list(dict.fromkeys([secret, secret.strip(), *inside, *lines, *headers]))


def _longest_first(known: list[tuple[str, str, str]]) -> _Known:
    ordered = sorted(known, key=lambda each: -len(each[0]))
    patterns: dict[str, str] = {}
    for _, pattern, name in ordered:
        patterns.setdefault(pattern, name)
    return [(re.compile(pattern), name) for pattern, name in patterns.items()]


def _account_in(line: str) -> list[tuple[str, str, str]]:
    """Who is logged in, of which the answer to ``initialize`` tells the email and the like."""
    if '"control_response"' not in line:
        return []
    try:
        account = json.loads(line)["response"]["response"]["account"].items()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return []
    return [
        (value, rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", "ACCOUNT")
        for name, value in account
        if name not in _OF_EVERYBODY and isinstance(value, str) and len(value) > 1
    ]


def _delta(line: str) -> tuple[tuple[object, ...], Any, str] | None:
    """A delta of the stream: what it belongs to, the line, and the key of its text."""
    if '"content_block_delta"' not in line:
        return None
    try:
        record = json.loads(line)
        event = record["event"]
        for name in ("text", "thinking", "partial_json"):
            if isinstance(event["delta"].get(name), str):
                key = (str(record.get("parent_tool_use_id")), str(event.get("index")), name)
                return key, record, name
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    return None
