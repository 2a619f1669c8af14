"""What a stand-in for the Claude CLI is to do, as a test writes it down."""

from __future__ import annotations

import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Final, NoReturn

from ..clock import seconds_to_us
from ..render import clean
from .claude_steps import (
    Ends,
    Fails,
    MaxTurns,
    NotLoggedIn,
    Recorded,
    Refuses,
    Retries,
    Says,
    Step,
    UsesTool,
    WrongUsage,
    ends_turn,
)

_SIGNALS: Final = {"ABRT": 6, "KILL": 9, "SEGV": 11}


class Verbs(ABC):
    """What can be scripted. Each adds to a run and returns that run, so that calls chain."""

    @abstractmethod
    def _run(self) -> Run:
        """The run that the next step belongs to."""

    def replies(self, text: str, *, after: float = 0.0, chunks: int = 1, every: float = 0.0) -> Run:
        """Answer, and end the turn well.

        ``after`` seconds of thinking come first, then the text in ``chunks``, ``every`` so many
        seconds; they are seen only with ``--include-partial-messages``, else the answer is one line
        after all of it. An empty text is what the CLI makes of an empty answer.
        """
        step = _says(text, after, chunks, every)
        return self._run()._add(
            Says(text=step.text, after=after, chunks=chunks, every=every, ends=True),
            _told("replies", text, after=after, chunks=chunks, every=every),
        )

    def says(self, text: str, *, after: float = 0.0, chunks: int = 1, every: float = 0.0) -> Run:
        """A block of text, and the turn goes on: before a tool, or before ``replies``."""
        step = _says(text, after, chunks, every)
        return self._run()._add(step, _told("says", text, after=after, chunks=chunks, every=every))

    def uses_tool(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the stream's word
        *,
        result: str = "",
        is_error: bool = False,
        asks: bool = False,
        after: float = 0.0,
    ) -> Run:
        """Use a tool, which answers ``result``; the turn goes on with the next message.

        ``asks``: only if the caller of ``--permission-prompt-tool stdio`` allows it; without that
        option it is denied, as the CLI does by default.
        """
        _seconds(after, "after")
        given = _tool(name, input)
        step = UsesTool(
            name=name,
            input=given,
            result=_text(result, "result"),
            is_error=is_error,
            asks=asks,
            after=after,
        )
        return self._run()._add(step, _told("uses_tool", name, given, after=after))

    def denies(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,  # noqa: A002 - the stream's word
        *,
        message: str | None = None,
        after: float = 0.0,
    ) -> Run:
        """Want to use a tool for which permission is denied; the turn goes on."""
        _seconds(after, "after")
        given = _tool(name, input)
        told = f"{name} needs approval, and nobody is there to give it."
        told = (message is not None and _text(message, "message")) or told
        step = UsesTool(name=name, input=given, denied=told, after=after)
        return self._run()._add(step, _told("denies", name, given, after=after))

    def retries(
        self, status: int | None = 529, *, times: int = 1, every: float | None = None
    ) -> Run:
        """The API answers ``times`` times with the HTTP error ``status`` (None: the connection
        fails), and the CLI asks again each time; then the run goes on::

            claude.retries(529, times=2).replies("ok")       # two failures, then the answer
            claude.retries(529, times=3).fails(529)          # the CLI gives up in the end

        Before it asks again it waits as the CLI does (0.5, 1, 2, 4, 8, 16, then always 32 s, a
        little more each), or ``every`` seconds. It asks again no more often than
        CLAUDE_CODE_MAX_RETRIES in its environment says: 3 times under ``ask_module``, 10 where
        it is not set. When a script has more retries than that, the turn ends there, as by
        ``fails(status)``, and what was to follow does not come.
        """
        _status(status)
        if _count(times, "times") < 1:
            raise ValueError(f"times must be at least 1, not {times!r}")
        if every is not None:
            _seconds(every, "every")
        return self._run()._add(
            Retries(status, times, every), _told("retries", status, times=times, every=every)
        )

    def fails(self, status: int | None, *, message: str | None = None, after: float = 0.0) -> Run:
        """The API answers with an HTTP error for good (None: the connection fails): exit 1."""
        _seconds(after, "after")
        _status(status)
        if message is not None:
            _text(message, "message")
        return self._run()._add(Fails(status, message, after), _told("fails", status))

    def refuses(self, text: str = "no") -> Run:
        """A safety classifier stops the answer, and the second one too: exit 1."""
        step = Refuses(_text(text, "text"))
        return self._run()._add(step, _told("refuses"))

    def not_logged_in(self) -> Run:
        """There is no API key: exit 1."""
        return self._run()._add(NotLoggedIn(), _told("not_logged_in"))

    def max_turns(self) -> Run:
        """Stop at the limit of turns: exit 1. ``--max-turns`` in the call is obeyed anyway, and
        is the limit that is told of; without it that is the number of turns so far, at least 1."""
        return self._run()._add(MaxTurns(), _told("max_turns"))

    def hangs(self) -> Run:
        """Say nothing more, and do not end, until a signal comes (or, on stdin, an interrupt)."""
        return self._run()._add(Ends(how="hang"), _told("hangs"))

    def goes_silent(
        self,
        *,
        after: float = 0.0,
        text: str = "Let me look at ",
        chunks: int = 1,
        every: float = 0.0,
    ) -> Run:
        """Begin to answer ``after`` so many seconds, then hang in the middle of the answer."""
        _says(text, after, chunks, every)
        step = Says(text=text, after=after, chunks=chunks, every=every, unfinished=True)
        run = self._run()._add(step, _told("goes_silent", after=after))
        return run._add(Ends(how="hang"))

    def crashes(
        self, signal: str = "KILL", *, after: float = 0.0, text: str = "", chunks: int = 1
    ) -> Run:
        """Die of a signal of its own (KILL, ABRT, SEGV), in the middle of ``text`` if any."""
        if signal not in _SIGNALS:
            raise ValueError(f"signal must be one of {', '.join(_SIGNALS)}, not {signal!r}")
        _says(text, after, chunks, 0.0)
        run = self._run()
        told = _told("crashes", signal, after=after)
        if text:
            run._add(Says(text=text, after=after, chunks=chunks, unfinished=True), told)
            return run._add(Ends(how="crash", code=_SIGNALS[signal]))
        return run._add(Ends(how="crash", after=after, code=_SIGNALS[signal]), told)

    def truncates(self) -> Run:
        """Exit with 0 and half of the last line: what the CLI does when its reader stalls."""
        return self._run()._add(Ends(how="truncate"), _told("truncates"))

    def exits(self, code: int, *, stderr: str = "", after: float = 0.0) -> Run:
        """Exit with ``code``, here and now or after what was scripted before."""
        if not 0 <= _count(code, "code") <= 255:
            raise ValueError(f"code must be between 0 and 255, not {code!r}")
        _text(stderr, "stderr")
        _seconds(after, "after")
        step = Ends(how="exit", code=code, stderr=stderr, after=after)
        return self._run()._add(step, _told("exits", code))

    def never_exits(self) -> Run:
        """Go on without a word, after its result, until a signal comes."""
        return self._run()._add(Ends(how="linger"), _told("never_exits"))

    def ignores_term(self) -> Run:
        """Do not end on SIGTERM: whoever ends it has to come to SIGKILL."""
        return self._run()._ignore_term()

    def usage_error(self, text: str) -> Run:
        """Refuse the command line: ``text`` on stderr, exit 1."""
        step = WrongUsage(_text(text, "text"))
        return self._run()._add(step, _told("usage_error", text))


for _name, _verb in list(vars(Verbs).items()):
    if isinstance(_verb, FunctionType) and not _name.startswith("_"):
        _verb.__qualname__ = f"claude.{_name}"  # so that a TypeError names what was written


@dataclass(eq=False)
class Run(Verbs):
    """What one process does: its turns, one after another, and how it ends."""

    accepts: Condition
    steps: list[Step] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    ignoring_term: bool = False
    used_by: int | None = None
    """The number of the call that played it, from 1."""
    turns_played: int = 0

    def _run(self) -> Run:
        return self

    @property
    def is_ended(self) -> bool:
        """Whether a further statement in the test begins another run."""
        return any(
            ends_turn(step) or isinstance(step, (Ends, WrongUsage, Recorded)) for step in self.steps
        )

    @property
    def recording(self) -> Recorded | None:
        """Its recording, if it has one."""
        first = self.steps[0] if self.steps else None
        return first if isinstance(first, Recorded) else None

    def _add(self, step: Step, told: str | None = None) -> Run:
        if self.used_by is not None:
            raise ValueError(f"{self} has been played by call {self.used_by}; script another run")
        last = self.steps[-1] if self.steps else None
        if isinstance(last, (Ends, WrongUsage, Recorded)) and not ends_turn(last):
            raise ValueError(f"nothing can come after {self}: the process is at its end")
        self.steps.append(step)
        if told is not None:
            self.told.append(told)
        return self

    def recorded(self, name: str | None = None) -> NoReturn:
        """Refused: a recording is all of a run, so nothing comes before it."""
        way_out = f"claude{self.accepts}.recorded({'' if name is None else repr(name)})"
        raise ValueError(
            f"{self} is a run already, and a recording is all of one: "
            f"write {way_out} as a statement of its own"
        )

    def _ignore_term(self) -> Run:
        self.ignoring_term = True
        self.told.append(_told("ignores_term"))
        return self

    def turns(self) -> list[list[Step]]:
        """The steps by turn; a last one that does not end may be among them."""
        turns: list[list[Step]] = [[]]
        for step in self.steps:
            turns[-1].append(step)
            if ends_turn(step):
                turns.append([])
        return [turn for turn in turns if turn]

    def next_turn(self) -> tuple[list[Step], bool]:
        """The steps of the next turn, none if there is none; and whether its last line is cut.

        It counts as played from here on, and what cuts it with it.
        """
        left = self.turns()[self.turns_played :]
        if not left:
            return [], False
        self.turns_played += 1
        after = left[1][0] if len(left) > 1 else None
        # What hangs comes to its result by an interrupt only, and that one is whole.
        cut = (
            isinstance(after, Ends)
            and after.how == "truncate"
            and not isinstance(left[0][-1], Ends)
        )
        self.turns_played += cut
        return left[0], cut

    def next_end(self) -> Ends | None:
        """How the process ends after the turn that was just played, without being asked."""
        left = self.turns()[self.turns_played :]
        first = left[0][0] if left else None
        return first if isinstance(first, Ends) else None

    def __str__(self) -> str:
        return f"claude{self.accepts}{''.join(self.told)}"


@dataclass(frozen=True, slots=True)
class Condition:
    """Which calls a run is for."""

    prompt: re.Pattern[str] | None = None
    module: str | None = None

    @property
    def is_particular(self) -> bool:
        return self.prompt is not None or self.module is not None

    def admits(self, prompt: str, cwd: str) -> bool:
        if self.prompt is not None and not self.prompt.search(prompt):
            return False
        if self.module is None:
            return True
        if os.sep in self.module:
            return os.path.realpath(self.module) == os.path.realpath(cwd)
        return os.path.basename(cwd) == self.module

    def why_not(self, prompt: str, cwd: str) -> str:
        """What does not fit, for a person."""
        if self.prompt is not None and not self.prompt.search(prompt):
            return "the prompt does not match"
        return f"the module is {clean(os.path.basename(cwd))!r}"

    def __str__(self) -> str:
        if not self.is_particular:
            return ""
        pattern = None if self.prompt is None else self.prompt.pattern
        given = {"prompt": pattern, "module": self.module}
        inside = ", ".join(f"{name}={value!r}" for name, value in given.items() if value)
        return f".when({inside})"


def _says(text: str, after: float, chunks: int, every: float) -> Says:
    _text(text, "text")
    if _count(chunks, "chunks") < 1:
        raise ValueError(f"chunks must be at least 1, not {chunks!r}")
    _seconds(after, "after")
    _seconds(every, "every")
    return Says(text=text, after=after, chunks=chunks, every=every)


def condition(prompt: object, module: object) -> Condition:
    """What was given to ``when``. Raises TypeError or ValueError, naming the argument."""
    if prompt is None and module is None:
        raise ValueError("when() needs a prompt, a module or both")
    pattern = None
    if isinstance(prompt, str):
        try:
            pattern = re.compile(prompt)
        except re.error as error:
            raise ValueError(
                f"prompt must be a regular expression, which {prompt!r} is not: {error}; "
                "re.escape() makes one of a plain text"
            ) from None
    elif isinstance(prompt, re.Pattern) and isinstance(prompt.pattern, str):
        pattern = prompt
    elif prompt is not None:
        raise TypeError(f"prompt must be a str, a regular expression, not {prompt!r}")
    if module is None:
        return Condition(pattern, None)
    if not isinstance(module, (str, os.PathLike)) or not isinstance(os.fspath(module), str):
        raise TypeError(f"module must be a path, or the last part of one, not {module!r}")
    return Condition(pattern, os.fspath(module))


def _text(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be a str, not {text!r}")
    return text


def _count(count: object, what: str) -> int:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"{what} must be an int, not {count!r}")
    return count


def _status(status: object) -> None:
    if status is not None and not 400 <= _count(status, "status") <= 599:
        raise ValueError(f"status must be an HTTP error, from 400 to 599, or None, not {status!r}")


def _tool(name: object, given: object) -> dict[str, Any]:
    """A tool's input."""
    _text(name, "name")
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"input must be a dict, as {{'file_path': 'a.txt'}}, not {given!r}")
    made = dict(given)
    try:
        json.dumps(made, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise type(error)(f"input must be JSON, which {made!r} is not: {error}") from None
    return made


def _seconds(seconds: float, what: str) -> None:
    seconds_to_us(seconds, what)  # raises what it has to


def _told(verb: str, *given: object, **named: object) -> str:
    shown = [_short(each) for each in given]
    shown += [
        f"{name}={value!r}"
        for name, value in named.items()
        if value is not None and not (name != "times" and value in (0.0, 1))
    ]
    return f".{verb}({', '.join(shown)})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"
