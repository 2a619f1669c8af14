"""What is private is replaced by marks, before a recording of the real CLI is kept."""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote

from ..claude.command import RUN_MARK

_SECRET: Final = re.compile(
    "KEY|TOKEN|SECRET|PASSW|PASSPHRASE|AUTH|HEADERS|CREDENTIAL|CREDS|COOKIE|JWT|BEARER|WEBHOOK"
    r"|CONNECTION_?STRING|(?<!BY)PASS(?![A-Z])|_PWD$|(?<![A-Z])PAT(?![A-Z])",
    re.IGNORECASE,
)
_SETTING: Final = re.compile(".*(TOKENS|_MS|_TTL)", re.IGNORECASE)
"""No secret, if it is a number: MAX_OUTPUT_TOKENS, API_KEY_HELPER_TTL_MS."""
_SHORTEST_SECRET: Final = 6
_SHORTEST_IN_BASE64: Final = 8
_FOR_URLS: Final = str.maketrans("+/", "-_")
_IN_URL: Final = re.compile(
    r"://([^/\s]+)@|[?&;]\w*(?:pass|pwd|key|token|secret|sig)\w*=([^&;\s]+)", re.IGNORECASE
)
_SCHEME: Final = re.compile(r"(?:Bearer|Basic|Token)\s+", re.IGNORECASE)
_WELL_KNOWN: Final = [
    (needle, re.compile(pattern), mark)
    for needle, pattern, mark in (
        ("sk-ant-", r"sk-ant-[\w-]{6,}", "API_KEY"),
        ("sk-", r"(?<![\w-])sk-(?:proj-)?\w{32,}", "TOKEN"),
        ("gh", r"(?<![A-Za-z0-9])gh[opsur]_[A-Za-z0-9]{16,}", "TOKEN"),
        ("github_pat_", r"github_pat_\w{16,}", "TOKEN"),
        ("glpat-", r"glpat-[\w-]{16,}", "TOKEN"),
        ("xox", r"(?<![A-Za-z0-9])xox[a-z]-[\w-]{8,}", "TOKEN"),
        ("A", r"(?<![A-Za-z0-9])A(?:KIA|SIA)[A-Z0-9]{16}(?![A-Za-z0-9])", "TOKEN"),
        ("AIza", r"(?<![\w-])AIza[\w-]{35}", "TOKEN"),
        ("eyJ", r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+", "TOKEN"),
        ("earer ", r"(?<=[Bb]earer )(?=\S*\d)[\w.~+/-]{16,}=*", "TOKEN"),
        (
            "PRIVATE KEY-----",
            r"(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))",
            "PRIVATE_KEY",
        ),
    )
]
"""Keys that are known by their form, whatever environment or file they were in."""
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
_Known = list[tuple[str, re.Pattern[str], str]]
"""What has to be in a text that the pattern is found in, the pattern, the mark."""
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
        self._paths = _longest_first([*paths, *_paths(far)])
        # A key that is in no variable may be in a file that is read.
        self._all_but_names = _longest_first([*paths, *_paths(far), *secrets]) + _WELL_KNOWN
        self._all = _longest_first([*paths, *_paths(far), *secrets, *names]) + _WELL_KNOWN

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
            _longest_first([each for line in lines for each in _account_in(line)]) + self._all
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
        return _spliced(pieces, [(start, len(text) - same, new[start : len(new) - same])])

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

    def _replaced(self, pieces: list[str], known: _Known, *, note: bool = True) -> list[str]:
        """The pieces of one text; a mark stands where what it replaces began."""
        text = "".join(pieces)
        spans: list[tuple[int, int, str]] = []
        for needle, pattern, name in known:
            if needle not in text:
                continue
            for match in pattern.finditer(text):
                start, end = match.span()
                touched = [each for each in spans if each[0] < end and start < each[1]]
                if any(each[0] <= start and end <= each[1] for each in touched):
                    continue
                # Of what reaches over the end of another nothing may stay.
                mark = touched[0][2] if touched else f"<{name}>"
                start = min([start, *(each[0] for each in touched)])
                end = max([end, *(each[1] for each in touched)])
                spans = [each for each in spans if each not in touched]
                spans.append((start, end, mark))
                if note and not touched:
                    self.used.add(name.removesuffix(_SLUG))
        return _spliced(pieces, spans) if spans else pieces


def _same_beginning(one: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _spliced(pieces: list[str], spans: list[tuple[int, int, str]]) -> list[str]:
    """The pieces of a text with others in the place of its ``spans``: start, end, and what stands
    there, in the piece where it began."""
    text = "".join(pieces)
    spans = sorted(spans)
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


def _secrets(environ: Mapping[str, str]) -> list[tuple[str, str, str]]:
    found = []
    for name in sorted(environ):
        value = environ[name]
        if name == RUN_MARK or (_SETTING.fullmatch(name) and value.isdigit()):
            continue
        if _SECRET.search(name):
            forms = _forms(value)
        else:  # a proxy's address may have a password
            parts = [part for match in _IN_URL.finditer(value) for part in match.groups() if part]
            parts += [password for each in parts if (password := each.partition(":")[2])]
            parts += [unquote(each) for each in parts]
            forms = [form for each in dict.fromkeys(parts) for form in _written(each)]
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


def _paths(named: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """The text, its pattern and its mark, of each way in which a folder is written."""
    found: list[tuple[str, str, str]] = []
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


def _forms(secret: str) -> list[str]:
    """How a secret may be printed: as a whole, line by line, without "Name: "."""
    lines = [line for line in secret.splitlines() if len(line) >= 2 * _SHORTEST_SECRET]
    headers = [line.partition(": ")[2].strip() for line in lines]
    alone = [_SCHEME.sub("", header, count=1) for header in headers]
    plain = dict.fromkeys([secret, secret.strip(), *lines, *headers, *alone])
    return list(dict.fromkeys(form for each in plain for form in _written(each)))


def _written(secret: str) -> list[str]:
    """A text as it is, inside of JSON (in JSON, in JSON), in a URL, in base64."""
    forms = [secret]
    for plain in (False, True):
        inside = secret
        for _ in range(3):
            inside = json.dumps(inside, ensure_ascii=plain)[1:-1]
            forms.append(inside)
    for safe in ("", "/"):
        quoted = quote(secret, safe=safe, errors="surrogateescape")
        small = re.sub("%..", lambda match: match[0].lower(), quoted)
        forms += [quoted, small, quoted.replace("%20", "+")]
    forms += _base64(secret.encode("utf-8", "surrogateescape"))
    return list(dict.fromkeys(forms))


def _base64(secret: bytes) -> list[str]:
    """Those characters that say nothing but the secret, wherever it begins among other bytes."""
    if len(secret) < _SHORTEST_IN_BASE64:
        return []
    forms = [base64.b64encode(secret).decode()]
    for before, partly in enumerate((0, 2, 3)):
        encoded = base64.b64encode(bytes(before) + secret).decode()
        forms.append(encoded[partly : (before + len(secret)) * 8 // 6])
    return forms + [each.translate(_FOR_URLS) for each in forms]


def _longest_first(known: list[tuple[str, str, str]]) -> _Known:
    ordered = sorted(known, key=lambda each: -len(each[0]))
    patterns: dict[str, tuple[str, str]] = {}
    for text, pattern, name in ordered:
        patterns.setdefault(pattern, (text, name))
    return [(text, re.compile(pattern), name) for pattern, (text, name) in patterns.items()]


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
