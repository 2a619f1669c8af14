"""Each contract catches the stores that break it; so a store that passes has shown something."""

from __future__ import annotations

import sys

import pytest

from pytest_claude_comms.testing.conformance.catalogue import CONTRACTS
from tests.conformance.matrix import BY_NUMBER, is_asked, page_of, table
from tests.conformance.mutants import MUTANTS, InSQLite, InTinyDB, Memory, Mutant, Saved

OWN = [
    pytest.param(mutant, number, id=f"{number}-{mutant.name}")
    for mutant in MUTANTS
    for number in mutant.breaks
]
BASES = (Memory, Saved, InSQLite, InTinyDB)


def base_of(mutant: Mutant) -> type:
    """What a mutant would be without its fault."""
    return next(base for base in mutant.factory.__mro__ if base in BASES)


@pytest.mark.parametrize(("mutant", "number"), OWN)
def test_a_mutant_is_caught_by_its_own_contract(mutant: Mutant, number: str) -> None:
    contract = BY_NUMBER[number]
    if contract.posix and sys.platform == "win32":
        pytest.skip("Windows has none of it")
    assert is_asked(mutant.factory, contract), "it does not claim what the contract needs"
    page = page_of(mutant.factory, contract)
    assert page is not None, f"{mutant.name} keeps {number}: {contract.sentence}"
    first, *rest = page.splitlines()
    assert first == f"{number}: {contract.sentence}"
    named = [line.split()[0] for line in rest if line.startswith("  ") and line[2] != " "]
    assert named[:5] == ["store", "of", "expected", "found", "asked"]


def test_every_contract_has_a_mutant() -> None:
    caught = {number for mutant in MUTANTS for number in mutant.breaks}
    assert caught == set(BY_NUMBER)


# What a kill does to it, and that it does not look at its file, are faults of its own.
SAVED_AT_CLOSE = {"durability.2", "durability.3", "durability.6", "durability.7"}


@pytest.mark.parametrize(
    "number",
    sorted(
        {
            number
            for mutant in MUTANTS
            if base_of(mutant) is Saved
            for number in mutant.breaks
            if number not in SAVED_AT_CLOSE
        }
    ),
)
def test_a_store_that_saves_at_close_keeps_what_its_mutants_break(number: str) -> None:
    # The others are made of the shipped stores, whose own run of the kit shows the same.
    assert page_of(Saved, BY_NUMBER[number]) is None


def test_a_table_tells_what_else_a_mutant_breaks() -> None:
    contracts = [each for each in CONTRACTS if each.group == "transitions"]
    chosen = [mutant for mutant in MUTANTS if mutant.breaks[0].startswith("transitions.")]
    lines = table(chosen, contracts)
    assert len(lines) == len(chosen) + 1
    assert not [line for line in lines if "NOT CAUGHT" in line]
    told = {line.split()[0]: line.split()[1:] for line in lines}
    assert told["OverwritesAnEnd"] == ["transitions.6", "transitions.4"]
    assert told["TakesItsEndAgain"] == ["transitions.6", "nothing"]


@pytest.mark.long
def test_the_whole_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(MUTANTS, CONTRACTS)
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert not [line for line in lines if "NOT CAUGHT" in line]
