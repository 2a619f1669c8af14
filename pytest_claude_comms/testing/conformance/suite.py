"""The kit as a class of tests: a test for each contract, on the store of ``store_factory``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from ..matrix import StoreChoice, store_choices
from .bench import Bench
from .catalogue import CONTRACTS
from .contract import Contract, ContractBroken
from .factory import StoreFactory, spec_of

CONTRACT = "claude_comms_contract"
STORE = "claude_comms_conformance_of"
"""Under these names a test's report says what was asked of which store."""
_IS_FIXTURE = "_pytestfixturefunction"
"""What pytest before 8.4 marks fixtures with; since then they are no functions."""


class StoreConformance:
    """Every contract of the kit, a test each. Subclass it, and say which store.

    ::

        class TestMyStore(StoreConformance):
            @pytest.fixture
            def store_factory(self):
                return "my_package.testing:open_in"

    The fixture returns a factory, ``(folder, *, clock, durability)``, or names it as
    ``--claude-comms-stores`` does. It is to be a function or class of a module if
    ``multi_process`` or ``durable`` is claimed: child processes import it. What the store does not
    claim (``capabilities``, of the factory or the store) is skipped, with the reason.
    """

    @pytest.fixture
    def store_factory(self) -> StoreFactory | str:
        """To be overridden."""
        pytest.fail(
            f"{type(self).__name__} has to say which store it is about: give it a fixture "
            "`store_factory` that returns a factory (folder, *, clock, durability), or its name "
            "as in --claude-comms-stores",
            pytrace=False,
        )

    @pytest.fixture
    def conformance_bench(
        self, request: pytest.FixtureRequest, store_factory: StoreFactory | str, tmp_path: Path
    ) -> Iterator[Bench]:
        """What a contract is asked with. Skips what the store does not claim."""
        bench, wrong = None, ""
        try:
            bench = _bench(store_factory, tmp_path, type(self).__name__)
        except (TypeError, ValueError) as error:
            wrong = str(error)
        if bench is None:
            pytest.fail(wrong, pytrace=False)
        contract: Contract | None = getattr(request.function, "contract", None)
        with bench:
            if contract is not None:
                facts = [(CONTRACT, contract.number), (STORE, bench.name)]
                request.node.user_properties += facts
                reason = contract.not_asked(bench.claimed)
                if reason is not None:
                    pytest.skip(reason)
            yield bench

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Each class has functions of its own, so that a mark on one is on no other's.
        super().__init_subclass__(**kwargs)
        factory = vars(cls).get("store_factory")
        is_plain = isinstance(factory, FunctionType) and not hasattr(factory, _IS_FIXTURE)
        if is_plain or isinstance(factory, str):
            raise TypeError(
                f"{cls.__name__}.store_factory is no fixture: make it a method with "
                "@pytest.fixture that returns a factory, or the name of one"
            )
        for contract in CONTRACTS:
            if contract.test_name not in vars(cls):
                setattr(cls, contract.test_name, _test_of(contract))


def _bench(factory: StoreFactory | str, folder: Path, of: str) -> Bench:
    if not isinstance(factory, str):
        return Bench(factory, folder, name=spec_of(factory) or of)
    choice = _choice(factory)
    return Bench(choice.open, folder, name=choice.name, spec=choice.name)


@lru_cache(maxsize=32)  # one factory for all contracts, so that it is asked once what it claims
def _choice(name: str) -> StoreChoice:
    choices = store_choices(name)
    if len(choices) > 1:
        raise ValueError(f"{name!r} names several stores; a class of tests is about one")
    return choices[0]


# A method is told its object, a contract needs none.
def _test_of(contract: Contract) -> Callable[..., None]:
    def test(self: object, conformance_bench: Bench) -> None:  # noqa: ARG001
        page = None
        try:
            contract.check(conformance_bench)
        except ContractBroken as broken:
            page = str(broken)
        if page is not None:  # out here, since pytest prints what an error was raised from
            pytest.fail(page, pytrace=False)

    test.__name__ = contract.test_name
    test.__qualname__ = f"StoreConformance.{contract.test_name}"
    test.__doc__ = contract.sentence
    test.contract = contract  # type: ignore[attr-defined]
    return test


for _contract in CONTRACTS:
    setattr(StoreConformance, _contract.test_name, _test_of(_contract))
