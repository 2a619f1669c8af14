"""Whether the CLI is asked what it was asked when a recording was made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from ..claude.transcript import Transcript, TranscriptEntry
from .redaction import PLACES, Redactor

_UUID: Final = re.compile(
    r"(?<![0-9A-Za-z-])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![0-9A-Za-z-])", re.IGNORECASE
)
_TEMPORARY: Final = re.compile(
    r"(?<=<TMP>/)[^/\s'\"]+"  # whatever lies right in the system's temporary folder
    r"|(?<=/)tmp[a-z0-9_]{8}(?![\w-])"  # what `tempfile` made elsewhere
)
_HEARD: Final = "a message came on stdin, its sha256 is "
"""A remark in a recording, for each message of ``--input-format stream-json``."""


def masked(text: str) -> str:
    """Text whose folders are marks already, without what is another at each run anyway."""
    return _TEMPORARY.sub("<any>", _UUID.sub("<uuid>", text))


def prompt_hash(prompt: str) -> str:
    """What is kept of a prompt whose folders are marks already. Its UUIDs count: what is asked
    about is no name of a run."""
    text = _TEMPORARY.sub("<any>", prompt)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def same_words(recorded: Transcript, *readings: Sequence[str]) -> bool:
    """Whether the arguments are those recorded, in one of the ``readings`` of each.

    A mark for a value that only the recorder's machine has stands for any.
    """
    free = [f"<{name}>" for name in recorded.redacted if name not in PLACES]
    cut = re.compile("|".join(map(re.escape, free))) if free else None

    def same(was: str, now: str) -> bool:
        was, now = masked(was), masked(now)
        if was == now or cut is None:
            return was == now
        return bool(re.fullmatch(".+".join(map(re.escape, cut.split(was))), now, re.DOTALL))

    if any(len(recorded.argv) != len(words) for words in readings):
        return False
    return all(
        any(same(was, now) for now in nows)
        for was, *nows in zip(recorded.argv, *readings, strict=True)
    )


def with_uuids_of(recorded: Transcript, argv: Sequence[str]) -> Transcript:
    """The recording, whose lines name the session as ``argv`` names it now.

    So what a test gives as ``session_id`` is what it reads back, whichever was recorded.
    """
    new_of: dict[str, str] = {}
    for was, now in zip(recorded.argv, argv, strict=True):
        olds, news = _UUID.findall(was), _UUID.findall(now)
        if len(olds) == len(news):  # else a mark stood for some
            new_of.update((o.lower(), n.lower()) for o, n in zip(olds, news, strict=True))
    if all(old == new for old, new in new_of.items()):
        return recorded

    def renamed(entry: TranscriptEntry) -> TranscriptEntry:
        line = _UUID.sub(lambda match: new_of.get(match[0].lower(), match[0]), entry.line)
        return replace(entry, line=line)

    return replace(recorded, entries=tuple(map(renamed, recorded.entries)))


def with_places_of(recorded: Transcript, redactor: Redactor) -> Transcript:
    """The recording, whose lines name the folders of now, as ``redactor`` knows them."""
    marks = PLACES.intersection(recorded.redacted)

    def named(entry: TranscriptEntry) -> TranscriptEntry:
        if entry.stream == "recorder":
            return entry
        return replace(entry, line=redactor.restored(entry.line, marks))

    return replace(recorded, entries=tuple(map(named, recorded.entries)))


# -- --input-format stream-json


def streams_in(argv: Sequence[str]) -> bool:
    """Whether the prompts come as lines of JSON."""
    flat = " ".join(each for word in argv for each in word.split("=", 1))
    return "--input-format stream-json" in flat


def remark_of(sha256: str) -> str:
    """What a recording says at the time of a message on stdin."""
    return _HEARD + sha256


def heard_in(entry: TranscriptEntry) -> str | None:
    """The hash of the message that came on stdin there; None for any other entry."""
    if entry.stream == "recorder" and entry.line.startswith(_HEARD):
        return entry.line.removeprefix(_HEARD)
    return None


def all_heard(entries: Iterable[TranscriptEntry]) -> list[str]:
    """The hashes of all messages that came on stdin, in order."""
    return [each for entry in entries if (each := heard_in(entry)) is not None]
