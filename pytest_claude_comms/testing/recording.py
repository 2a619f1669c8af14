"""Recordings of the real CLI in a test's own folder: which there are, writing and checking them.

What is redacted is in :mod:`redaction`, what makes a recording stale in :mod:`sameness`, and a
run that is being recorded is a :class:`~.take.Take`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..claude.transcript import Transcript
from ..render import clean
from .redaction import Hook, Redactor
from .sameness import all_heard, prompt_hash, same_words, with_places_of, with_uuids_of
from .take import Take

if TYPE_CHECKING:
    from .claude_link import HowCalled

__all__ = ["FOLDER", "Recording", "RecordingReport", "Recordings", "Take", "default_name"]

FOLDER: Final = "transcripts"
_NAME: Final = re.compile(r"\w[\w.-]*")


def default_name(nodeid: str) -> str:
    """What a test's recording is called, unless the test says so."""
    path, *names = nodeid.split("::")
    stem = os.path.splitext(path.rpartition("/")[2])[0]
    whole = ".".join([stem, *names])
    found = re.sub(r"[^\w.-]+", "-", whole).strip("-")
    if re.sub(r"[\[\]]", "", whole) != found.replace("-", "", whole.count("[")):
        # Two parameters that differ in what no file name should have.
        found += "-" + hashlib.sha256(whole.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return found


@dataclass(eq=False)
class Recording:
    """What one scripted run plays, or records."""

    of: Recordings
    name: str
    path: str
    transcript: Transcript | None
    """None: it is to be recorded."""
    take: Take | None = None

    def begin(self, how: HowCalled, prompt: str) -> Take:
        self.take = Take(how, prompt)
        return self.take

    def stale(self, how: HowCalled, prompt: str) -> str | None:
        """The page that says what differs from the recorded call, or None.

        Compared are the arguments and the prompt, the folders and what is redacted apart. UUIDs
        among the arguments (``--session-id``, ``--resume``) and names of temporary files may
        differ: each run has its own. ``transcript`` then names the sessions and the folders of
        this call.
        """
        recorded = self.transcript
        assert recorded is not None
        redactor = self.of.redactor(os.environ, cwd=how.cwd)
        argv = [redactor.text(word) for word in how.argv]
        # Without the secrets and names of this machine, which the recorder's had not.
        plainly = [redactor.prompt(word) for word in how.argv]
        differs = []
        if not same_words(recorded, argv, plainly):
            differs += [
                f"  recorded   claude {clean(shlex.join(recorded.argv))}",
                f"  now        claude {clean(shlex.join(argv))}",
            ]
        now = prompt_hash(redactor.prompt(prompt))
        if recorded.prompt_sha256 not in (None, now):
            differs.append(
                f"  prompt     differs on stdin: sha256 {recorded.prompt_sha256} was recorded, "
                f"now it is {now}"
            )
        if differs:
            return self._page(differs)
        self.transcript = with_places_of(with_uuids_of(recorded, how.argv), redactor)
        return None

    def stale_message(self, number: int, how: HowCalled, text: str | None) -> str | None:
        """The same for the message that came ``number``-th on stdin, from 1, by lines of JSON;
        None stands for one that did not come."""
        assert self.transcript is not None
        recorded = all_heard(self.transcript.entries)
        if not recorded:  # it was made before messages were kept
            return None
        was = recorded[number - 1] if number <= len(recorded) else "nothing"
        now = "nothing"
        if text is not None:
            now = prompt_hash(self.of.redactor(os.environ, cwd=how.cwd).prompt(text))
        if was == now:
            return None
        was, now = (each if each == "nothing" else f"sha256 {each}" for each in (was, now))
        return self._page(
            [f"  message    {number} differs on stdin: {was} was recorded, now it is {now}"]
        )

    def _page(self, differs: list[str]) -> str:
        return "\n".join(
            [
                "claude (recorded): the recording is stale, it was made with another call",
                f"  recording  {clean(self.path)}",
                *differs,
                f"  hint       {self.of.how_to_record}",
            ]
        )


@dataclass(eq=False)
class Recordings:
    """The recordings of one test."""

    folder: str
    """Where they are."""
    name: str
    """What the first is called, unless the test says so."""
    test: str
    """How pytest is to be told of this test."""
    records: bool
    test_on_any: str = ""
    """The same without its store: its recordings are one."""
    taken: dict[str, str] = field(default_factory=dict)
    """Which test, on whatever store, recorded what, in all of the session."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Further folders to redact, by mark."""
    hooks: list[Hook] = field(default_factory=list)
    _made: list[Recording] = field(default_factory=list)
    _unnamed: int = 0

    @property
    def how_to_record(self) -> str:
        command = f"pytest --claude-comms-record {shlex.quote(self.test)}"
        return f"{command} records it (this needs the Claude CLI, and costs what the run costs)"

    def get(self, name: str | None) -> Recording:
        """Raises ValueError for a bad name, AssertionError if there is no such recording."""
        __tracebackhide__ = True
        if name is None:
            self._unnamed += 1
            name = self.name if self._unnamed == 1 else f"{self.name}-{self._unnamed}"
        elif not isinstance(name, str):
            raise TypeError(f"a recording's name must be a str, not {name!r}")
        elif not _NAME.fullmatch(name):
            raise ValueError(
                f"a recording is named by letters, digits, '_', '-' and '.', not {name!r}"
            )
        path = os.path.join(self.folder, f"{name.removesuffix('.jsonl')}.jsonl")
        if self.records:
            other = self.taken.setdefault(path, self.test_on_any)
            if other != self.test_on_any:
                raise AssertionError(
                    f"{clean(path)} was just recorded by {other}\n"
                    "  hint  give each test a recording of its own: claude.recorded(name)"
                )
        found = Recording(self, name, path, None if self.records else self._load(path))
        self._made.append(found)
        return found

    def _load(self, path: str) -> Transcript:
        __tracebackhide__ = True
        try:
            return Transcript.load(path)
        except FileNotFoundError:
            raise AssertionError(
                f"there is no recording {path}\n  hint  {self.how_to_record}"
            ) from None
        except (OSError, ValueError) as error:
            raise AssertionError(f"{error}\n  hint  {self.how_to_record}") from None

    def redactor(self, *environs: Mapping[str, str], cwd: str) -> Redactor:
        return Redactor(*environs, cwd=cwd, places=self.places, hooks=self.hooks)

    def not_written(self, why_not: str) -> list[dict[str, str]]:
        made = self._made if self.records else []
        return [{**self._note(recording), "why_not": why_not} for recording in made]

    def _note(self, recording: Recording) -> dict[str, str]:
        return {"path": recording.path, "test": self.test_on_any}

    def finish(self, why_not: str | None) -> list[dict[str, str]]:
        """The test is over: write what was recorded, unless ``why_not``; what became of each.

        All are made before the first is written, so that what a hook raises leaves all as it was.
        """
        if not self.records:
            return []
        notes, made = [], []
        for recording in self._made:
            take = recording.take
            reason = why_not or ("nobody called claude" if take is None else take.why_not)
            note = self._note(recording)
            notes.append(note)
            if reason is not None or take is None:
                note["why_not"] = reason or ""
                continue
            cwd = take.how.cwd
            # Not merged: what the CLI was given instead does not make ours any less private.
            kept = self.redactor(take.around, take.environ or {}, os.environ, cwd=cwd)
            compared = self.redactor(take.around, cwd=cwd)
            transcript = take.transcript(recording.name, kept, compared)
            note["redacted"] = ", ".join(transcript.redacted)
            note["what"] = f"{len(transcript.entries)} lines, exit code {transcript.exit}"
            made.append((recording.path, transcript.encoded()))
        for path, data in made:
            _write(path, data)
        return notes


class RecordingReport:
    """Says at the end of a run what was recorded. A plugin of pytest."""

    def __init__(self) -> None:
        self._notes: list[dict[str, str]] = []
        self._by_path: dict[str, dict[str, None]] = {}
        """Which tests recorded it, in order; more than one only where they ran in several
        processes, see :attr:`Recordings.taken`."""

    def pytest_runtest_logreport(self, report: Any) -> None:
        for note in getattr(report, "claude_comms_recorded", []):
            self._notes.append(note)
            self._by_path.setdefault(note["path"], {})[note["test"]] = None

    def pytest_sessionfinish(self, session: Any) -> None:
        if session.exitstatus == 0 and any(len(tests) > 1 for tests in self._by_path.values()):
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        terminalreporter.section("claude-comms: recordings")
        for note in self._notes:
            path = clean(os.path.relpath(note["path"]))
            if "why_not" in note:
                terminalreporter.write_line(f"{path}: not written: {note['why_not']}", yellow=True)
            else:
                redacted = note["redacted"] or "nothing"
                terminalreporter.write_line(
                    f"{path}: written ({note['what']}); redacted: {redacted}"
                )
        for name, tests in self._by_path.items():
            if len(tests) > 1:
                line = f"{clean(os.path.relpath(name))}: {' and '.join(tests)} record it, one over "
                line += "the other; give each a recording of its own: claude.recorded(name)"
                terminalreporter.write_line(line, red=True)
        if not self._notes:
            terminalreporter.write_line("none: no test that ran calls claude.recorded()")


def _write(path: str, data: bytes) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    # For its owner only, until a person has read it and gives it to others.
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".recording-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
