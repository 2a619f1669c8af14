"""Tests run against many mutants in one process that forks.

The tests are collected once. Each mutant gets a fork of that process, its function the mutant's
code, and only tests that run its lines are run, the quickest first.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any, NoReturn

import pytest

from .mutants import Mutant
from .planting import put_in, relevant_lines
from .tried import PYTEST, ROOT, Tried

LONGEST_TEST = 2.0
"""Seconds of CPU; what takes longer is left out of all but the last look at what survived."""
_STUCK = 8.0
"""Seconds, and ten times what it takes without a mutant: then a test has got stuck."""


@dataclass(slots=True)
class Baseline:
    """The tests without a mutant."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Of CPU, by test."""
    waited: dict[str, float] = field(default_factory=dict)
    """Real ones, by test."""
    lines: dict[int, list[str]] = field(default_factory=dict)
    """The tests that run a line of the file."""


class Forking:
    """A pytest plugin: instead of running the tests once, runs them against mutants."""

    def __init__(
        self,
        path: Path,
        mutants: Sequence[Mutant],
        tell: Callable[[Mutant, Tried], None],
        longest: float = LONGEST_TEST,
        slow: Collection[str] = (),
        budget: float = math.inf,
    ) -> None:
        self._budget = budget
        self._path = path
        self._slow = slow
        self._source = path.read_text(encoding="utf-8")
        self._mutants = mutants
        self._tell = tell
        self._longest = longest
        self._items: dict[str, pytest.Item] = {}
        self._killers: dict[int | None, list[str]] = {}
        self.failed: list[str] = []
        self.left_out: list[str] = []

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        # Every mutant meets the same examples; the smallest one that shows it is not looked for.
        settings.register_profile(
            "mutation", database=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
        )
        settings.load_profile("mutation")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.name.partition("[")[0] not in self._slow]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        # Some files are imported where they are used: then no fork would have them yet.
        import_module(".".join(self._path.relative_to(ROOT).with_suffix("").parts))
        gc.collect()
        gc.freeze()  # so that collecting in the forks does not copy all pages
        baseline = self._baseline()
        for mutant in self._mutants:
            self._tell(mutant, self._try(mutant, baseline))
        return True

    def _baseline(self) -> Baseline:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "baseline.json")
            code = self._in_fork(lambda: self._measure(answer), None)
            if code or not answer.exists():
                raise RuntimeError(f"the tests could not be run without a mutant: {code}")
            said = json.loads(answer.read_text(encoding="utf-8"))
        self.failed = said["failed"]
        baseline = Baseline(said["seconds"], said["waited"])
        self.left_out = [name for name, taken in baseline.seconds.items() if taken > self._longest]
        out = {*self.left_out, *self.failed}
        for line, names in said["lines"].items():
            baseline.lines[int(line)] = [name for name in names if name not in out]
        return baseline

    def _measure(self, answer: Path) -> None:
        watch = import_module("coverage").Coverage(
            data_file=None, include=[str(self._path)], config_file=False
        )
        # Of a file that has no function no line is run after its import.
        watch.set_option("run:disable_warnings", ["no-data-collected"])
        seconds: dict[str, float] = {}
        waited: dict[str, float] = {}
        failed: list[str] = []
        session = next(iter(self._items.values())).session
        session.config.pluginmanager.register(_Failures(failed.append))
        watch.start()
        for name in self._items:
            watch.switch_context(name)
            cpu, real = _cpu(), time.monotonic()
            self._run([name])
            seconds[name] = _cpu() - cpu
            waited[name] = time.monotonic() - real
        watch.stop()
        contexts = watch.get_data().contexts_by_lineno(str(self._path))
        lines = {line: [name for name in names if name] for line, names in contexts.items()}
        answer.write_text(
            json.dumps({"seconds": seconds, "waited": waited, "lines": lines, "failed": failed}),
            encoding="utf-8",
        )

    def _run(self, names: Sequence[str]) -> None:
        items = [self._items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)

    def _try(self, mutant: Mutant, baseline: Baseline) -> Tried:
        names = {
            name
            for line in relevant_lines(mutant, self._source)
            for name in baseline.lines.get(line, ())
        }
        if mutant.constant is not None and not names:
            out = {*self.left_out, *self.failed}
            names = {name for name in self._items if name not in out}
        if not names:
            return Tried("no test", "")
        likely = self._killers.setdefault(mutant.function, [])
        order = sorted(names, key=lambda name: (name not in likely, baseline.seconds[name]))
        order = self._within_budget(order, baseline)
        cpu = 5 + 5 * sum(baseline.seconds[name] for name in order)
        real = 15 + 5 * sum(baseline.waited[name] for name in order)
        with tempfile.TemporaryDirectory() as folder:
            note = Path(folder, "killer")
            code = self._in_fork(
                lambda: self._survive(mutant, order, baseline, note), (round(cpu), real), folder
            )
            killer = note.read_text(encoding="utf-8") if note.exists() else ""
        if killer in self._items and killer not in likely:
            likely.insert(0, killer)
            del likely[3:]
        if code == 0:
            return Tried("survived", f"{len(order)} tests")
        if code in (-signal.SIGKILL, -signal.SIGXCPU, -signal.SIGALRM):
            return Tried("timeout", "")
        if not killer:
            raise RuntimeError(f"{mutant.shown(self._source)}: a fork ended with {code}")
        return Tried("killed", killer)

    def _within_budget(self, names: Sequence[str], baseline: Baseline) -> list[str]:
        spent = accumulate(baseline.seconds[name] for name in names)
        return [name for name, sum_ in zip(names, spent, strict=True) if sum_ <= self._budget]

    def _survive(
        self, mutant: Mutant, names: Sequence[str], baseline: Baseline, note: Path
    ) -> None:
        def seen(name: str) -> NoReturn:
            note.write_text(name, encoding="utf-8")
            os._exit(1)

        try:
            put_in(self._path, mutant.applied(self._source), mutant)
        except RuntimeError:
            raise
        except Exception as error:
            seen(f"import: {error!r}")
        session = next(iter(self._items.values())).session
        session.config.pluginmanager.register(_Failures(seen))
        session.config.pluginmanager.register(_Alarm(baseline.waited))
        self._run(names)

    def _in_fork(
        self,
        do: Callable[[], None],
        limits: tuple[int, float] | None,
        folder: str | None = None,
    ) -> int:
        """Returns the exit code, negative for the signal that ended it."""
        child = os.fork()
        if not child:
            code = 3
            try:
                os.setsid()
                if folder is not None:
                    os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
                    tempfile.tempdir = None
                if limits is not None:
                    resource.setrlimit(resource.RLIMIT_CPU, (limits[0], limits[0] + 1))
                do()
                code = 0
            except BaseException as error:
                if limits is None:
                    import traceback

                    traceback.print_exception(error)
            finally:
                os._exit(code)
        ends_at = None if limits is None else time.monotonic() + limits[1]
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child, signal.SIGKILL)
                return os.waitstatus_to_exitcode(status)
            if ends_at is not None and time.monotonic() > ends_at:
                os.killpg(child, signal.SIGKILL)
                ends_at = None
            time.sleep(0.005)


class _Failures:
    def __init__(self, tell: Callable[[str], Any]) -> None:
        self._tell = tell

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> None:
        # Before the report is made: that takes longer than many a test.
        found = call.excinfo
        if found is None or found.errisinstance(pytest.skip.Exception):
            return
        if item.get_closest_marker("xfail") is None:
            self._tell(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tell(report.nodeid)


class _Alarm:
    """Ends the process when one test does not end."""

    def __init__(self, waited: Mapping[str, float]) -> None:
        self._waited = waited

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        signal.setitimer(signal.ITIMER_REAL, _STUCK + 10 * self._waited[nodeid])


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_forks(
    path: Path,
    mutants: Sequence[Mutant],
    tests: Sequence[str],
    tell: Callable[[Mutant, Tried], None],
    longest: float = LONGEST_TEST,
    slow: Collection[str] = (),
    budget: float = math.inf,
) -> Forking:
    """Try mutants that are inside functions."""
    runner = Forking(path, mutants, tell, longest, slow, budget)
    code = pytest.main([*PYTEST, "-p", "no:terminal", *tests], plugins=[runner])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"pytest ended with {code!r}")
    return runner
