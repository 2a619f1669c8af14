"""README.md names every fault, what it takes, and what one can do with it."""

from __future__ import annotations

import inspect

import pytest

from pytest_claude_comms.testing import Fault, Faults
from tests.docs.test_readme import public, section, words

BEGINNINGS = sorted(public(Faults) - {"record", "undo", "unmet", "lines"})


@pytest.mark.parametrize("name", BEGINNINGS)
def test_it_names_each_fault_and_its_parameters(name: str) -> None:
    known = words(section("Faults"))
    parameters = {*inspect.signature(getattr(Faults, name)).parameters} - {"self", "fields"}
    assert {name, *parameters} <= known


def test_it_names_what_one_does_with_a_fault() -> None:
    assert {"undo", "join"} <= public(Fault) & words(section("Faults"))


@pytest.mark.parametrize("name", [*BEGINNINGS, "undo", "unmet", "lines"])
def test_each_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(Faults, name))
