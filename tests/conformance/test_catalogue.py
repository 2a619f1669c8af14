"""The list of contracts: numbered, worded, and the same in README.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import MemoryConversationStore
from pytest_claude_comms.testing import StoreConformance
from pytest_claude_comms.testing.conformance import VERSION
from pytest_claude_comms.testing.conformance.capabilities import CAPABILITIES, capabilities_of
from pytest_claude_comms.testing.conformance.catalogue import CONTRACTS
from pytest_claude_comms.testing.conformance.contract import Contracts
from pytest_claude_comms.testing.matrix import BUILT_IN, store_choices

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    """The cells of a table in README's section on the kit."""
    section = README.partition("\n## Conformance kit\n")[2].partition("\n## ")[0]
    _, found, table = section.partition(f"\n{head}\n")
    assert found, f"no table {head!r}"
    lines = table.partition("\n\n")[0].splitlines()[1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_readme_lists_every_contract() -> None:
    expected = [
        [each.number, each.sentence, ", ".join(f"`{name}`" for name in each.needs)]
        for each in CONTRACTS
    ]
    assert rows("| contract | | needs |") == expected


def test_readme_lists_every_capability() -> None:
    expected = [[f"`{name}`", meaning] for name, meaning in CAPABILITIES.items()]
    assert rows("| capability | what is claimed |") == expected


def test_readme_names_the_version_and_counts_the_contracts() -> None:
    assert f"**Contracts {VERSION}**: {len(CONTRACTS)} of them" in README


def test_each_number_is_a_test_of_its_own() -> None:
    names = [contract.test_name for contract in CONTRACTS]
    assert len(set(names)) == len(names)
    for contract in CONTRACTS:
        place = [each for each in CONTRACTS if each.group == contract.group].index(contract) + 1
        assert contract.number == f"{contract.group}.{place}"
        assert re.fullmatch(r".+\.", contract.sentence), f"{contract.number} is no sentence"
        assert getattr(StoreConformance, contract.test_name).__doc__ == contract.sentence


def test_a_mark_on_one_class_is_on_no_other() -> None:
    class TestOne(StoreConformance):
        pass

    class TestTwo(StoreConformance):
        pass

    name = CONTRACTS[0].test_name
    pytest.mark.xfail(getattr(TestOne, name))
    assert getattr(TestOne, name).pytestmark
    for other in (TestTwo, StoreConformance):
        assert not hasattr(getattr(other, name), "pytestmark")


@pytest.mark.parametrize("name", BUILT_IN)
def test_what_the_shipped_stores_claim(name: str) -> None:
    (choice,) = store_choices(name)
    expected = set(CAPABILITIES)
    if name == "memory":  # it keeps nothing anywhere
        expected -= {"multi_process", "durable", "resumable", "addressable"}
        expected -= {"files", "private"}
    assert capabilities_of(choice.open) == expected


class Claims(MemoryConversationStore):
    """A factory whose claims are put in by the test."""

    capabilities: object = None  # type: ignore[assignment]

    def __init__(self, folder: Path, *, clock: object = None, durability: str = "") -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        (["durable"], {"durable"}),
        (lambda *me: {"durable", "files"}, {"durable", "files"}),
        ((), set()),
        (property(lambda me: ("notifies",)), {"notifies"}),
        (None, set(CAPABILITIES)),
    ],
)
def test_claims_are_an_attribute_or_a_function(claims: object, expected: set[str]) -> None:
    factory: Any = type("Factory", (Claims,), {"capabilities": claims})
    assert capabilities_of(factory) == expected


def test_claims_that_are_none_are_refused() -> None:
    for claims, kind, words in (
        (["durabel"], ValueError, "claims durabel; the capabilities are multi_thread, "),
        ("durable", TypeError, "must be a list of names, not 'durable'"),
        (3, TypeError, "must be a list of names, not 3"),
    ):
        factory: Any = type("Factory", (Claims,), {"capabilities": claims})
        with pytest.raises(kind, match=re.escape(words)):
            capabilities_of(factory)


def test_a_contract_names_only_capabilities_that_there_are() -> None:
    with pytest.raises(ValueError, match="there is no capability"):
        Contracts("feed").contract(1, "gapfree")
