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
from ..secret_forms import WELL_KNOWN, Known, Named, Span, find, longest_first, secrets_of

PLACES: Final = frozenset({"CWD", "HOME", "TMP", "TMP_PATH", "BASETEMP", "ROOT"})
"""The marks of folders, which every machine has."""
_SLUG: Final = "-SLUG"
"""Of a folder's mark, where its path stood with dashes alone."""
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
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|-?\d[\d.eE+-]*')
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")

Hook = Callable[[str], str]
_Begun = dict[tuple[str, str, str], list[tuple[int, Any, str]]]
"""The deltas of blocks that have begun, see :func:`_delta`."""


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
        first, *others = environs
        near = [("CWD", cwd), *places.items(), *_folders(first)]
        far = [each for env in others for each in _folders(env)]
        self._places: dict[str, str] = {}
        for name, path in near:
            if path.startswith("/"):
                self._places.setdefault(name, path.rstrip("/") or "/")
        paths = _paths(near)
        # A home within a folder that the reader of a recording has, too, is told by that folder.
        ours = tuple(f"{text}/" for text, _, _ in paths if text.startswith("/"))
        far = [(name, path) for name, path in far if not path.startswith(ours)]
        secrets = [each for env in environs for each in _secrets(env)]
        names = [each for env in environs for each in _names(env)]
        self._numbers = {text: name for text, _, name in secrets if _NUMBER.fullmatch(text)}
        self._paths = longest_first([*paths, *_paths(far)])
        # A key that is in no variable may be in a file that is read.
        self._all_but_names = longest_first([*paths, *_paths(far), *secrets]) + WELL_KNOWN
        self._all = longest_first([*paths, *_paths(far), *secrets, *names]) + WELL_KNOWN

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
        return _TOKEN.sub(self._token, line)

    def restored(self, line: str, marks: Iterable[str]) -> str:
        """A line of a recording with the folders of now in the place of their ``marks``."""
        known = {mark: self._places[mark] for mark in marks if mark in self._places}
        pattern = f"<({'|'.join(sorted(known))})({_SLUG})?>"
        if not known or re.search(pattern, line) is None:
            return line
        try:
            json.loads(line)
            in_json = True
        except (ValueError, RecursionError):
            in_json = False

        def folder(match: re.Match[str]) -> str:
            path = known[match[1]]
            path = _slug(path) if match[2] else path
            return json.dumps(path, ensure_ascii=False)[1:-1] if in_json else path

        return re.sub(pattern, folder, line)

    def lines(self, lines: list[str]) -> list[str]:
        """The lines of one stdout: also what is spread over several deltas."""
        lines = list(lines)
        self._all = (
            longest_first([each for line in lines for each in _account_in(line)]) + self._all
        )
        begun: _Begun = {}
        for number, line in enumerate(lines):
            found = _delta(line)
            if found is not None:
                key, record, name = found
                begun.setdefault(key, []).append((number, record, name))
                continue
            # What comes next is of another block, as far as this stream goes: those of subagents
            # come in between.
            ended = _begins(line)
            if ended is not None:
                over = {key: begun[key] for key in begun if key[: len(ended)] == ended}
                self._join(over, lines)
                for key in over:
                    del begun[key]
        self._join(begun, lines)
        return [self.line(line) for line in lines]

    def _join(self, begun: _Begun, lines: list[str]) -> None:
        for parts in begun.values():
            before = [record["event"]["delta"][name] for _, record, name in parts]
            after = self._hooked_pieces(self._replaced(before, self._all))
            for (number, record, name), old, new in zip(parts, before, after, strict=True):
                if new != old:
                    record["event"]["delta"][name] = new
                    lines[number] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))

    def _hooked_pieces(self, pieces: list[str]) -> list[str]:
        """The pieces of one text, without what a hook finds in no piece alone."""
        text = "".join(pieces)
        new = self._hooked(text)
        if new == "".join(map(self._hooked, pieces)):
            return pieces  # each will be given to the hooks as it is
        if not text:
            return pieces
        start = min(_same_beginning(text, new), len(text) - 1)
        same = _same_beginning(text[start + 1 :][::-1], new[start:][::-1])
        return _spliced(pieces, [Span(start, len(text) - same, new[start : len(new) - same])])

    def _token(self, match: re.Match[str]) -> str:
        if not match[0].startswith('"'):
            name = self._numbers.get(match[0].removeprefix("-"))
            if name is None:
                return match[0]
            self.used.add(name)
            return "0"  # who reads a number there will read one when it is played
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

    def _replaced(self, pieces: list[str], known: list[Known], *, note: bool = True) -> list[str]:
        """The pieces of one text; a mark stands where what it replaces began."""
        spans, names = find("".join(pieces), known)
        if note:
            self.used.update(name.removesuffix(_SLUG) for name in names)
        return _spliced(pieces, spans) if spans else pieces


def _same_beginning(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _spliced(pieces: list[str], spans: list[Span]) -> list[str]:
    """The pieces of a text with others in the place of its ``spans``, in the piece where each
    began."""
    text = "".join(pieces)
    found, begin = [], 0
    for piece in pieces:
        end = begin + len(piece)
        made, at = [], begin
        for start, stop, new in spans:
            if stop <= begin or start >= end:
                continue
            made.append(text[at : max(at, start)])
            if start >= begin:
                made.append(new)
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


def _secrets(environ: Mapping[str, str]) -> list[Named]:
    return secrets_of({name: value for name, value in environ.items() if name != RUN_MARK})


def _names(environ: Mapping[str, str]) -> list[Named]:
    users = {environ.get("USER", ""), environ.get("LOGNAME", ""), _account()[0]}
    hosts = {environ.get("HOSTNAME", ""), socket.gethostname()}
    hosts |= {each.partition(".")[0] for each in hosts}
    return [
        (each, rf"(?<![A-Za-z0-9]){re.escape(each)}(?![A-Za-z0-9])", mark)
        for mark, names in (("USER", users), ("HOST", hosts))
        for each in sorted(names)
        if len(each) > 1 and each.lower() not in _NOBODY and each not in _WORDS
    ]


def _paths(named: Iterable[tuple[str, str]]) -> list[Named]:
    """The text, its pattern and its mark, of each way in which a folder is written."""
    found: list[Named] = []
    for name, path in named:
        for each in dict.fromkeys((path, os.path.realpath(path) if path else "")):
            text = each.rstrip("/")
            if not text.startswith("/"):
                continue
            if text.count("/") == 1:  # /root, /tmp: part of many another path
                found.append((text, rf"(?<![\w.-]){re.escape(text)}(?![\w-])", name))
                continue
            slug = _slug(text)
            found.append((text, rf"{re.escape(text)}(?![\w-])", name))
            found.append((slug, rf"{re.escape(slug)}(?![A-Za-z0-9])", name + _SLUG))
    return found


def _slug(path: str) -> str:
    """As the CLI calls a project's folder."""
    return re.sub("[^A-Za-z0-9]", "-", path)


def _account_in(line: str) -> list[Named]:
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


def _delta(line: str) -> tuple[tuple[str, str, str], Any, str] | None:
    """A delta of the stream: what it belongs to, the line, and the key of its text."""
    if '"content_block_delta"' not in line:
        return None
    try:
        record = json.loads(line)
        event = record["event"]
        for name in ("text", "thinking", "partial_json"):
            if isinstance(event["delta"].get(name), str):
                return (*_block(record), name), record, name
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    return None


def _begins(line: str) -> tuple[str, ...] | None:
    """The beginning of the keys of what is over, since this line begins another such thing."""
    if '"content_block_start"' not in line and '"message_start"' not in line:
        return None
    try:
        record = json.loads(line)
        kind = record["event"]["type"]
        if kind in ("content_block_start", "message_start"):
            return _block(record)[: 2 if kind == "content_block_start" else 1]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    return None


def _block(record: Any) -> tuple[str, str]:
    """Which stream a line is of, and which block of its message."""
    return str(record.get("parent_tool_use_id")), str(record["event"].get("index"))
