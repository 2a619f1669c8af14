"""What one test has scripted, and the processes that came to play it."""

from __future__ import annotations

import os
import shlex
import threading
from collections.abc import Mapping
from typing import Final

from ..clock import Clock
from ..render import clean
from .claude_calls import Call, Record
from .claude_part import Cast
from .claude_script import Condition, Run
from .claude_seeds import Seeds
from .claude_speaker import Tokens
from .fake_clock import FakeClock

_ENOUGH: Final = 200


class Stage:
    """Where the players of one test get their runs. From any thread."""

    def __init__(self, clock: Clock, executable: str, places: Mapping[str, str]) -> None:
        self.clock = clock
        self.folder = os.path.dirname(executable)
        self.cast = Cast(clock, executable) if isinstance(clock, FakeClock) else None
        """Who plays on a fake clock."""
        self.closing = False
        """Whether the test is over."""
        self.longest_hang: float | None = 60.0
        """Real seconds, for who plays on no fake clock."""
        self.sessions: dict[str, Tokens] = {}
        """What has been used in each, by its id."""
        self.seeds = Seeds(places)
        self.runs: list[Run] = []
        self._records: list[Record] = []
        self._pages: list[str] = []
        self._mutex = threading.Lock()

    # -- scripting

    def run_for(self, condition: Condition) -> Run:
        """The run that a statement of the test adds to."""
        with self._mutex:
            open_runs = [
                run
                for run in self.runs
                if run.accepts == condition and not run.is_ended and run.used_by is None
            ]
            if open_runs:
                return open_runs[-1]
            run = Run(condition)
            self.runs.append(run)
            return run

    def add(self, run: Run) -> None:
        with self._mutex:
            self.runs.append(run)

    # -- for the players

    def enter(self, record: Record) -> int:
        """A process was started; its number, from 1."""
        with self._mutex:
            self._records.append(record)
            return len(self._records)

    def script_for(self, record: Record, number: int) -> Run | None:
        """The run for a call whose prompt is known by now."""
        with self._mutex:
            fitting = [
                run
                for run in self.runs
                if run.used_by is None and run.accepts.admits(record.prompt or "", record.how.cwd)
            ]
            fitting.sort(key=lambda run: not run.accepts.is_particular)
            if not fitting:
                return None
            fitting[0].used_by = number
            return fitting[0]

    def next_is_recorded(self, *, alone: bool = False) -> bool:
        """Whether the next run may be one that is played from a recording, or recorded;
        ``alone``: it is that one, since there are none with a ``when``."""
        with self._mutex:
            unused = [run for run in self.runs if run.used_by is None]
            waiting = [run for run in unused if not run.accepts.is_particular][:1]
            particular = [run for run in unused if run.accepts.is_particular]
            if alone and particular:
                return False
            return any(run.recording is not None for run in [*waiting, *particular])

    def failed(self, page: str) -> str:
        """The test fails with this page, which is returned."""
        with self._mutex:
            self._pages.append(page)
        return page

    def not_scripted(self, record: Record, what: str, hint: str) -> str:
        """The page for a call of which the test said nothing, or too little; the test fails."""
        with self._mutex:
            scripted = []
            for number, run in enumerate(self.runs, 1):
                state = _state(run)
                if run.used_by is None:
                    why = run.accepts.why_not(record.prompt or "", record.how.cwd)
                    state = f"{run}: {why}"
                scripted.append(f"            {number}. {state}")
            page = "\n".join(
                [
                    f"claude (scripted): {what}",
                    f"  asked     {_asked(record)}",
                    f"  argv      {clean(shlex.join(record.how.argv))[:_ENOUGH]}",
                    "  scripted  " + ("\n".join(scripted).lstrip() or "nothing"),
                    f"  hint      {hint}",
                ]
            )
            self._pages.append(page)
            return page

    # -- what came of it

    def calls(self) -> list[Call]:
        """The processes started so far, in order."""
        with self._mutex:
            for record in self._records:
                if record.exit_code is None and _is_reaped(record.how.pid):
                    record.exit_code = -9  # its player is about to notice
            return [record.as_call() for record in self._records]

    def unused(self) -> str | None:
        """The page that says what was scripted and not played, or None."""
        with self._mutex:
            left = [
                f"  {number}. {_state(run)}"
                for number, run in enumerate(self.runs, 1)
                if run.used_by is None or run.turns_played < len(run.turns())
            ]
            if not left:
                return None
            calls = [f"  {_asked(record)}" for record in self._records] or ["  none"]
            return "\n".join(["scripted for claude and not played:", *left, "calls:", *calls])

    def take_pages(self) -> list[str]:
        """Those of the calls that fail the test, once."""
        with self._mutex:
            pages, self._pages = self._pages, []
            return pages

    def __str__(self) -> str:
        return f"{_counted(self.runs, 'run')}, {_counted(self._records, 'call')}"


def _counted(found: list[Run] | list[Record], what: str) -> str:
    return f"1 {what}" if len(found) == 1 else f"{len(found)} {what}s"


def _state(run: Run) -> str:
    if run.used_by is None:
        return f"{run}: never used"
    played, all_turns = run.turns_played, len(run.turns())
    part = f", {played} of its {all_turns} parts" if played < all_turns else ""
    return f"{run}: used by call {run.used_by}{part}"


def _asked(record: Record) -> str:
    prompt = record.prompt
    asked = "nothing" if prompt is None else repr(prompt[:_ENOUGH])
    return f"{asked} in {clean(record.how.cwd)} (pid {record.how.pid})"


def _is_reaped(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
