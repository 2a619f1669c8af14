"""Recordings of the real CLI in a test's own folder: making, redacting and checking them."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import re
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ..claude.command import RUN_MARK, find_cli
from ..claude.transcript import SentSignal, StreamName, Transcript, TranscriptEntry
from ..clock import SECOND
from ..render import clean

if TYPE_CHECKING:
    from .claude_link import Frame, HowCalled

FOLDER: Final = "transcripts"
NO_NEWLINE: Final = "no newline at the end of "
"""A remark in a recording, with "stdout" or "stderr"."""

_SECRET: Final = re.compile("KEY|TOKEN|SECRET|PASSWORD|AUTH", re.IGNORECASE)
_SHORTEST_SECRET: Final = 6
_MATTERS: Final = re.compile(
    r"(ANTHROPIC_|CLAUDE_|DISABLE_|MCP_|BASH_|AWS_|GOOGLE_|VERTEX_|CLOUD_ML_).*"
    r"|API_TIMEOUT_MS|IS_SANDBOX|MAX_.*TOKENS|(HTTPS?|ALL|NO)_PROXY",
    re.IGNORECASE,
)
_PLACES: Final = frozenset({"CWD", "HOME", "TMP", "TMP_PATH", "BASETEMP", "ROOT"})
_NOBODY: Final = frozenset(
    [
        *("admin", "assistant", "ci", "claude", "dev", "docker", "jenkins", "nobody", "node"),
        *("root", "runner", "system", "test", "text", "tool", "ubuntu", "user", "vagrant"),
        "vscode",
    ]
)
"""Accounts that name no person; some are words of the stream."""
_WORDS: Final = frozenset(
    [
        *("assistant", "default", "error", "init", "json", "message", "result", "role", "status"),
        *("stream_event", "subtype", "success", "system", "text", "thinking", "tool_result"),
        *("tool_use", "type", "user"),
    ]
)
"""Of the stream's own: never a secret, if they are all of a string."""
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME: Final = re.compile(r"\w[\w.-]*")

Hook = Callable[[str], str]


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


class Redactor:
    """Replaces what is private by marks; ``used`` has the marks' names."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        cwd: str,
        places: Mapping[str, str],
        hooks: Iterable[Hook],
    ) -> None:
        self.used: set[str] = set()
        self._hooks = tuple(hooks)
        known: list[tuple[str, str, str]] = []  # the text, its pattern, its mark
        home = environ.get("HOME") or ""
        named = [("CWD", cwd), *places.items(), ("HOME", home), ("HOME", os.path.expanduser("~"))]
        named += [("TMP", environ.get("TMPDIR", "")), ("TMP", tempfile.gettempdir())]
        for name, path in named:
            for each in dict.fromkeys((path, os.path.realpath(path) if path else "")):
                known += [(text, pattern, name) for text, pattern in _path_patterns(each)]
        self._paths = _longest_first(known)
        for name in sorted(environ):
            if _SECRET.search(name) and name != RUN_MARK:
                known += [
                    (each, re.escape(each), name)
                    for each in _forms(environ[name])
                    if len(each) >= _SHORTEST_SECRET
                ]
        users = {environ.get("USER", ""), environ.get("LOGNAME", "")}
        with contextlib.suppress(KeyError, OSError):  # a container's number without a name
            users.add(getpass.getuser())
        for user in sorted(users):
            if len(user) > 1 and user.lower() not in _NOBODY:
                pattern = rf"(?<![A-Za-z0-9]){re.escape(user)}(?![A-Za-z0-9])"
                known.append((user, pattern, "USER"))
        self._all = _longest_first(known)

    def text(self, text: str) -> str:
        """Text that is no JSON."""
        return self._hooked(self._replaced([text], self._all)[0])

    def prompt(self, text: str) -> str:
        """A prompt, of which only a hash is kept: paths go, since they differ from one machine to
        the next; a name or a word that happens to be somebody's password there stays."""
        return self._hooked(self._replaced([text], self._paths, note=False)[0])

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
        text = json.loads(match[0])
        if text in _WORDS:
            return match[0]
        new = self.text(text)
        return match[0] if new == text else json.dumps(new, ensure_ascii=False)

    def _hooked(self, text: str) -> str:
        for hook in self._hooks:
            new = hook(text)
            if not isinstance(new, str):
                raise TypeError(f"claude.redact: {hook!r} returned {new!r}, which is no str")
            if new != text:
                self.used.add("what claude.redact was given")
            text = new
        return text

    def _replaced(
        self, pieces: list[str], known: list[tuple[re.Pattern[str], str]], *, note: bool = True
    ) -> list[str]:
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
    """How a secret may be printed: as it is, inside of JSON, line by line."""
    lines = [line for line in secret.splitlines() if len(line) >= 2 * _SHORTEST_SECRET]
    inside = [json.dumps(secret, ensure_ascii=plain)[1:-1] for plain in (False, True)]
    return list(dict.fromkeys([secret, secret.strip(), *inside, *lines]))


def _longest_first(known: list[tuple[str, str, str]]) -> list[tuple[re.Pattern[str], str]]:
    ordered = sorted(known, key=lambda each: -len(each[0]))
    patterns: dict[str, str] = {}
    for _, pattern, name in ordered:
        patterns.setdefault(pattern, name)
    return [(re.compile(pattern), name) for pattern, name in patterns.items()]


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


@dataclass(eq=False)
class Take:
    """One run of the real CLI as it is being recorded."""

    how: HowCalled
    prompt: str
    environ: dict[str, str] | None = None
    exit: int | None = None
    """None until its exit was seen."""
    end_us: int = 0
    """When that was, since the start."""
    _lines: list[tuple[int, StreamName, str]] = field(default_factory=list)
    _signals: list[SentSignal] = field(default_factory=list)

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
            return False
        return True

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

    def transcript(self, name: str, redactor: Redactor) -> Transcript:
        out = iter(redactor.lines([line for _, stream, line in self._lines if stream == "stdout"]))
        entries = []
        for us, stream, line in self._lines:
            if stream == "stdout":
                line = next(out)  # noqa: PLW2901 - the same line, redacted
            elif stream == "stderr":
                line = redactor.line(line)  # noqa: PLW2901
            entries.append(TranscriptEntry(us / SECOND, stream, line))
        # Output may come from others than the CLI, after its exit.
        end_us = max([self.end_us, *(us for us, _, _ in self._lines)])
        names = sorted(each for each in self.environ or {} if _MATTERS.fullmatch(each))
        argv = tuple(redactor.text(word) for word in self.how.argv)
        return Transcript(
            cli=_cli_of(entries),
            scenario=name,
            argv=argv,
            env={each: f"<{each}>" for each in names if each != RUN_MARK},
            signals=tuple(self._signals),
            entries=tuple(entries),
            exit=self.exit,
            duration=end_us / SECOND,
            prompt_sha256=_sha256(redactor.prompt(self.prompt)),
            redacted=tuple(sorted(redactor.used)),
        )


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
        """The page that says what differs from the recorded call, or None."""
        recorded = self.transcript
        assert recorded is not None
        redactor = self.of.redactor(os.environ, how.cwd)
        argv = [redactor.text(word) for word in how.argv]
        differs = []
        if not _same_words(recorded, argv):
            differs += [
                f"  recorded   claude {clean(shlex.join(recorded.argv))}",
                f"  now        claude {clean(shlex.join(argv))}",
            ]
        now = _sha256(redactor.prompt(prompt))
        if recorded.prompt_sha256 not in (None, now):
            differs.append(
                f"  prompt     differs on stdin: sha256 {recorded.prompt_sha256} was recorded, "
                f"now it is {now}"
            )
        if not differs:
            return None
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

    def redactor(self, environ: Mapping[str, str], cwd: str) -> Redactor:
        return Redactor(environ, cwd=cwd, places=self.places, hooks=self.hooks)

    def not_written(self, why_not: str) -> list[dict[str, str]]:
        made = self._made if self.records else []
        return [{"path": recording.path, "why_not": why_not} for recording in made]

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
            note = {"path": recording.path}
            notes.append(note)
            if reason is not None or take is None:
                note["why_not"] = reason or ""
                continue
            environ = {**os.environ, **(take.environ or {})}
            redactor = self.redactor(environ, take.how.cwd)
            transcript = take.transcript(recording.name, redactor)
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

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._notes += getattr(report, "claude_comms_recorded", [])

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
        if not self._notes:
            terminalreporter.write_line("none: no test that ran calls claude.recorded()")


def _write(path: str, data: bytes) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".recording-")
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _same_words(recorded: Transcript, argv: list[str]) -> bool:
    """A mark for a value that only the recorder's machine has stands for any."""
    free = [f"<{name}>" for name in recorded.redacted if name not in _PLACES]
    cut = re.compile("|".join(map(re.escape, free))) if free else None

    def same(was: str, now: str) -> bool:
        if was == now or cut is None:
            return was == now
        return bool(re.fullmatch(".+".join(map(re.escape, cut.split(was))), now, re.DOTALL))

    return len(recorded.argv) == len(argv) and all(map(same, recorded.argv, argv))


def _cli_of(entries: Iterable[TranscriptEntry]) -> str:
    for entry in entries:
        if entry.stream == "stdout" and '"claude_code_version"' in entry.line:
            with contextlib.suppress(ValueError, AttributeError):
                version = json.loads(entry.line).get("claude_code_version")
                if isinstance(version, str):
                    return f"claude {version}"
    return "claude"
