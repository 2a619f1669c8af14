"""Runs something under many schedules of its actors, until one of them fails."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from ..errors import ClaudeCommsError
from .exploring_clock import ExploringClock
from .exploring_locks import explored_locks
from .exploring_plan import Seed
from .fake_clock import START

_SCHEDULES_A_COLLECTION = 100


class Exploration:
    """What to explore, and what came of it so far.

    Schedule 0 is the order that a fake clock has by itself; it tells over how many points the
    others are to be spread. ``first`` is the number of the next one, ``only`` the one to repeat.
    """

    def __init__(
        self,
        schedules: int,
        *,
        first: int = 1,
        only: Seed | None = None,
        lines: bool | tuple[str, ...] = False,
    ) -> None:
        self.schedules = schedules
        self.only = only
        self.done = 0
        """How many have been run."""
        self.seed: Seed | None = only
        """That of the schedule that runs, or ran last."""
        self.clock: ExploringClock | None = None
        """That of this schedule, if it has one yet."""
        self.is_under_way = False
        """Whether a schedule runs just now."""
        self.decided = False
        """Whether this schedule settles what comes of the test: it did not pass."""
        self._first = first
        self._lines = lines
        self._points = 1
        self._seen: set[bytes] = set()

    @property
    def distinct(self) -> int:
        """How many of the schedules were not alike."""
        return len(self._seen)

    @property
    def is_over(self) -> bool:
        """Whether all that was asked for has been run."""
        return self.done >= (1 if self.only is not None else self.schedules)

    def new_clock(self, start: datetime = START, *, watchdog: float = 10.0) -> ExploringClock:
        """The clock for the schedule that runs now."""
        assert self.seed is not None
        self.clock = ExploringClock(self.seed, start, watchdog=watchdog, lines=self._lines)
        return self.clock

    @contextmanager
    def running(self) -> Iterator[None]:
        """All schedules run inside."""
        collects = gc.isenabled()
        # Garbage is collected between schedules: what a finalizer does is in nobody's turn then.
        gc.disable()
        try:
            with explored_locks():
                yield
        finally:
            if collects:
                gc.enable()

    @contextmanager
    def schedule(self) -> Iterator[None]:
        """The next schedule runs inside."""
        if self.only is None:
            number = 0 if self.done == 0 else self._first + self.done - 1
            self.seed = Seed(number, self._points)
        self.done += 1
        self.clock = None
        self.is_under_way = True
        try:
            yield
        finally:
            self.is_under_way = False
            if self.clock is not None:
                explorer = self.clock.explorer
                self._points = max(self._points, explorer.points)
                self._seen.add(explorer.trace.digest())
            if self.done % _SCHEDULES_A_COLLECTION == 0:
                gc.collect()

    def note(self) -> str:
        """What was explored, in a line."""
        if self.only is not None:
            return f"repeated the schedule of seed {self.only}"
        schedules = "1 schedule" if self.done == 1 else f"{self.done:,} schedules"
        return f"explored {schedules}, {self.distinct:,} distinct"

    def page(self, again: Callable[[Seed], str]) -> str:
        """The schedule that failed, turn by turn; ``again`` gives what repeats it."""
        assert self.seed is not None
        what = "this schedule" if self.only else f"schedule {self.done:,} of {self.schedules:,}"
        lines = [f"{what} failed; its seed is {self.seed}"]
        if self.seed.number == 0:
            lines.append("it is the order that the clock has by itself, without exploring")
        if self.clock is not None:
            lines += ["", *self.clock.explorer.trace.lines()]
        return "\n".join([*lines, "", f"again: {again(self.seed)}"])


class Found(ClaudeCommsError):
    """A schedule failed: its ``seed``, the ``exploration``, the error as the cause."""

    def __init__(self, exploration: Exploration) -> None:
        assert exploration.seed is not None
        self.seed: Seed = exploration.seed
        self.exploration = exploration
        super().__init__(exploration.page(lambda seed: f"explore(…, only={seed!r})"))


def explore(
    program: Callable[[ExploringClock], object],
    schedules: int = 200,
    *,
    first: int = 1,
    only: Seed | None = None,
    lines: bool | tuple[str, ...] = False,
    watchdog: float = 10.0,
    freeze: bool = False,
) -> Exploration:
    """Call ``program`` with a new clock for each schedule; raises Found for the first that raises.

    For what is explored outside of a test; a test is marked ``claude_comms(explore=…)``.
    """
    exploration = Exploration(schedules, first=first, only=only, lines=lines)
    with exploration.running():
        while not exploration.is_over:
            with exploration.schedule():
                error = _run(program, exploration.new_clock(watchdog=watchdog), freeze=freeze)
            if error is not None:
                raise Found(exploration) from error
    return exploration


def _run(
    program: Callable[[ExploringClock], object], clock: ExploringClock, *, freeze: bool
) -> BaseException | None:
    errors: list[BaseException] = []
    clock.install(freeze=freeze)
    for run in (partial(_explored, program, clock), clock.close):
        try:
            run()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - pytest.fail() is no Exception
            errors.append(error)
    return errors[0] if errors else None


def _explored(program: Callable[[ExploringClock], object], clock: ExploringClock) -> None:
    with clock.exploring():
        program(clock)
