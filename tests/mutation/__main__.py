"""``python -m tests.mutation [FILE ...]``: plant faults in the code and see which tests notice.

Prints the mutants that no test killed, and a table. See CLAUDE.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .choosing import of_functions, sampled
from .copies import in_copies
from .forks import LONGEST_TEST, in_forks
from .mutants import Mutant
from .targets import SLOW, TARGETS, Target
from .tried import ROOT, Tried

PACKAGE = ROOT / "pytest_claude_comms"


class Results:
    """What became of the mutants of a file; kept, so that an interrupted run goes on."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        self._source = source
        self._found: dict[str, dict[str, object]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                said = json.loads(line)
                self._found[said["key"]] = said

    def key(self, mutant: Mutant) -> str:
        # Two lines may hold the same text.
        lines = self._source.splitlines()
        line = mutant.line(self._source)
        around = lines[line - 1].strip() if line <= len(lines) else ""
        return f"{line}: {around} [{mutant.start}] {mutant.shown(self._source)}"

    def outcome(self, mutant: Mutant) -> str | None:
        said = self._found.get(self.key(mutant))
        return None if said is None else str(said["outcome"])

    def tell(self, mutant: Mutant, tried: Tried) -> None:
        said = {"key": self.key(mutant), "kind": mutant.kind, **asdict(tried)}
        self._found[self.key(mutant)] = said
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(said, ensure_ascii=False) + "\n")

    def show(self, mutants: Sequence[Mutant], name: str) -> None:
        count: Counter[str] = Counter()
        for mutant in mutants:
            outcome = self.outcome(mutant) or "not tried"
            count[outcome] += 1
            if outcome in ("survived", "no test"):
                print(f"{outcome}: {name}:{self.key(mutant)}")
        outcomes = ("killed", "timeout", "survived", "no test", "not tried")
        figures = ", ".join(f"{count[each]} {each}" for each in outcomes)
        print(f"{name}: {len(mutants)} mutants: {figures}")


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    for name in options.files or TARGETS:
        _try_target(TARGETS[name], options)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("files", nargs="*", choices=[[], *TARGETS], metavar="FILE")
    parser.add_argument("--kind", choices=["python", "sql", "all"], default="all")
    parser.add_argument("--sample", type=int, metavar="N", help="only N of a file, by chance")
    parser.add_argument("--seed", type=int, default=1, help="what makes the chance; 1 if not given")
    parser.add_argument("--functions", nargs="+", metavar="NAME", help="only inside these")
    parser.add_argument("--results", type=Path, default=Path("mutation-results"))
    parser.add_argument("--again", action="store_true", help="try those that survived again")
    parser.add_argument("--copies", action="store_true", help="a new run of pytest for each mutant")
    parser.add_argument("--forks", action="store_true", help="none that needs a new run of pytest")
    parser.add_argument("--tests", nargs="*", help="these tests in place of the file's own")
    parser.add_argument(
        "--longest", type=float, default=LONGEST_TEST, help="seconds a test may take"
    )
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds of tests for one mutant"
    )
    parser.add_argument("--slow", action="store_true", help="with the tests that take seconds")
    parser.add_argument("--show", action="store_true", help="only print what is known")
    return parser.parse_args(arguments)


def _try_target(target: Target, options: argparse.Namespace) -> None:
    path = PACKAGE / target.path
    source = path.read_text(encoding="utf-8")
    mutants = every = target.mutants(source, options.kind)
    if options.functions:
        mutants = of_functions(mutants, source, options.functions)
    if options.sample is not None:
        mutants = sampled(mutants, source, options.sample, options.seed)
    if len(mutants) < len(every):
        print(f"{target.path}: {len(mutants)} of {len(every)} mutants")
    options.results.mkdir(exist_ok=True)
    results = Results(options.results / f"{target.path.replace('/', '.')}.jsonl", source)
    again = ("survived", "no test") if options.again else ()
    left = [
        mutant
        for mutant in mutants
        if not options.show and results.outcome(mutant) in (None, *again)
    ]
    inside = [
        mutant
        for mutant in left
        if (mutant.function or mutant.constant) is not None and not options.copies
    ]
    if inside:
        tests = options.tests or target.tests
        slow = () if options.slow else SLOW
        runner = in_forks(path, inside, tests, results.tell, options.longest, slow, options.budget)
        for name in runner.failed:
            print(f"fails without a mutant: {name}")
        for name in runner.left_out:
            print(f"left out, it takes long: {name}")
    outside = [mutant for mutant in left if mutant not in inside]
    if outside and not options.forks:
        in_copies(path, outside, options.tests or target.at_import, results.tell)
    results.show(mutants, target.path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
