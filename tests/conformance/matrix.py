"""Which contracts each mutant breaks: ``python -m tests.conformance.matrix [GROUP]`` prints it."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_claude_comms import render
from pytest_claude_comms.testing.conformance.bench import Bench
from pytest_claude_comms.testing.conformance.capabilities import capabilities_of
from pytest_claude_comms.testing.conformance.catalogue import CONTRACTS
from pytest_claude_comms.testing.conformance.contract import Contract, ContractBroken
from tests.conformance import (
    mutants_at_once,
    mutants_of_feed,
    mutants_of_statuses,
    mutants_of_threads,
    mutants_of_values,
    mutants_on_disk,
)
from tests.conformance.mutants import MUTANTS, Mutant

ROOMS = (
    *(mutants_of_threads, mutants_of_statuses, mutants_of_feed, mutants_of_values),
    *(mutants_at_once, mutants_on_disk),
)
BY_NUMBER = {contract.number: contract for contract in CONTRACTS}


@contextmanager
def _umask_kept() -> Iterator[None]:
    before = os.umask(0o022)
    os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


def page_of(factory: Any, contract: Contract) -> str | None:
    """The page of a contract that a factory's store breaks; None if it keeps it."""
    with _umask_kept(), tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        bench = Bench(factory, Path(folder))
        try:
            contract.check(bench)
        except ContractBroken as broken:
            return str(broken)
        finally:
            bench.close()
    return None


def is_asked(factory: Any, contract: Contract) -> bool:
    with _umask_kept():
        return contract.not_asked(capabilities_of(factory)) is None


def broken_by(factory: Any, contracts: Iterable[Contract]) -> list[str]:
    """The numbers of the contracts that a factory's store was asked and broke."""
    return [
        each.number
        for each in contracts
        if is_asked(factory, each) and page_of(factory, each) is not None
    ]


def row_of(mutant: Mutant, contracts: Sequence[Contract]) -> tuple[str, str, str]:
    """A mutant, its own contracts, and what else of these it breaks."""
    found = broken_by(mutant.factory, contracts)
    asked = {contract.number for contract in contracts}
    missed = {number for number in mutant.breaks if number in asked and number not in found}
    own = [f"{number} NOT CAUGHT" if number in missed else number for number in mutant.breaks]
    others = [number for number in found if number not in mutant.breaks]
    return mutant.name, ", ".join(own), ", ".join(others) or "nothing"


def table(mutants: Iterable[Mutant], contracts: Sequence[Contract]) -> list[str]:
    """A line per mutant."""
    head = ("mutant", "its own", "breaks too")
    return render.table([head, *(row_of(mutant, contracts) for mutant in mutants)])


def main(groups: Sequence[str]) -> None:
    """Print all mutants, or those whose own contracts are of some groups, as they are done."""
    for mutant in MUTANTS:
        if not groups or any(number.partition(".")[0] in groups for number in mutant.breaks):
            name, own, others = row_of(mutant, CONTRACTS)
            print(f"{name}: caught by {own}; breaks too: {others}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
