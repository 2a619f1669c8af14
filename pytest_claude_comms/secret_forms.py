"""How secrets look, and in which ways they are written: for what is stored and for recordings."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import quote, unquote

_SECRET: Final = re.compile(
    "KEY|TOKEN|SECRET|PASSW|PASSPHRASE|AUTH|HEADERS|CREDENTIAL|CREDS|COOKIE|JWT|BEARER|WEBHOOK"
    r"|CONNECTION_?STRING|(?<!BY)PASS(?![A-Z])|_PWD$|(?<![A-Z])PAT(?![A-Z])",
    re.IGNORECASE,
)
_SETTING: Final = re.compile(".*(TOKENS|_MS|_TTL)", re.IGNORECASE)
"""No secret, if it is a number: MAX_OUTPUT_TOKENS, API_KEY_HELPER_TTL_MS."""
SHORTEST_SECRET: Final = 6
_SHORTEST_IN_BASE64: Final = 8
_FOR_URLS: Final = str.maketrans("+/", "-_")
_IN_URL: Final = re.compile(
    r"://([^/\s]+)@|[?&;]\w*(?:pass|pwd|key|token|secret|sig)\w*=([^&;\s]+)", re.IGNORECASE
)
_SCHEME: Final = re.compile(r"(?:Bearer|Basic|Token)\s+", re.IGNORECASE)
_KEY_BLOCK: Final = (
    r"(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"(?:.{0,20000}?-----END [A-Z ]*PRIVATE KEY-----|.{0,20000}))"
)
"""One that does not end may have been cut off, or be no more than spoken of."""
_AWS_PAIR: Final = (
    r"(?i:secret_?(?:access_?)?key[\"']?\s*[:=]\s*[\"']?)([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])"
)


class Known(NamedTuple):
    """A text that is to be found, or a form."""

    needle: str
    """What has to be in a text that the pattern is found in."""
    pattern: re.Pattern[str]
    mark: str


class Span(NamedTuple):
    """A part of a text, and what stands in its place."""

    start: int
    end: int
    mark: str
    """As in the text: ``<API_KEY>``."""


Named: TypeAlias = tuple[str, str, str]
"""A text, the pattern that finds it, and the name of its mark."""

WELL_KNOWN: Final = [
    Known(needle, re.compile(pattern), mark)
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
            _KEY_BLOCK,
            "PRIVATE_KEY",
        ),
        # What follows is told by what stands around it: the group is the secret.
        (
            "@",  # up to the last one before the path: a password may have one
            r"(?<=://)[^\s/?#@:\"'<>]*:([^\s/?#\"'<>]+)(?=@)",
            "PASSWORD",
        ),
        ("ecret", _AWS_PAIR, "TOKEN"),
        ("ECRET", _AWS_PAIR, "TOKEN"),
    )
]
"""Keys that are known by their form, whatever environment or file they were in."""


def find(text: str, known: Iterable[Known]) -> tuple[list[Span], list[str]]:
    """The spans of ``text`` that have to go, in order and none touching another, and the marks'
    names of those that were not part of one that was found before."""
    spans: list[Span] = []
    names = []
    for each in known:
        if each.needle not in text:
            continue
        for match in each.pattern.finditer(text):
            start, end = match.span(each.pattern.groups)
            touched = [span for span in spans if span.start < end and start < span.end]
            # Of what reaches over the end of another nothing may stay.
            mark = touched[0].mark if touched else f"<{each.mark}>"
            start = min([start, *(span.start for span in touched)])
            end = max([end, *(span.end for span in touched)])
            spans = [span for span in spans if span not in touched]
            spans.append(Span(start, end, mark))
            if not touched:
                names.append(each.mark)
    return sorted(spans), names


def longest_first(named: list[Named]) -> list[Known]:
    """Patterns in the order in which they are to be looked for, each once."""
    ordered = sorted(named, key=lambda each: -len(each[0]))
    patterns: dict[str, tuple[str, str]] = {}
    for text, pattern, name in ordered:
        patterns.setdefault(pattern, (text, name))
    return [Known(text, re.compile(pattern), name) for pattern, (text, name) in patterns.items()]


def secrets_of(environ: Mapping[str, str]) -> list[Named]:
    """The values of variables that look as if they were secret, in all ways they are written,
    and the passwords in the URLs of others."""
    found = []
    for name in sorted(environ):
        value = environ[name]
        if _SETTING.fullmatch(name) and value.isdigit():
            continue
        if _SECRET.search(name):
            forms = forms_of(value)
        else:  # a proxy's address may have a password
            parts = [part for match in _IN_URL.finditer(value) for part in match.groups() if part]
            parts += [password for each in parts if (password := each.partition(":")[2])]
            parts += [unquote(each) for each in parts]
            forms = [form for each in dict.fromkeys(parts) for form in _written(each)]
        found += [(each, re.escape(each), name) for each in forms if len(each) >= SHORTEST_SECRET]
    return found


def forms_of(secret: str) -> list[str]:
    """How a secret may be printed: as a whole, line by line, without "Name: "."""
    lines = [line for line in secret.splitlines() if len(line) >= 2 * SHORTEST_SECRET]
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
