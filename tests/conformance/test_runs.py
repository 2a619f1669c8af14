"""The kit as a third party runs it: by a class, or by the options alone."""

from __future__ import annotations

import pytest

from pytest_claude_comms.testing import StoreConformance
from pytest_claude_comms.testing.conformance import VERSION
from tests.plugin.conftest import Run
from tests.plugin.conftest import run as run  # noqa: PLC0414 - a fixture

THIRD = """
from pytest_claude_comms import InvalidTransition, MemoryConversationStore

class Store:
    '''A store that shares no class with ours, and lets an end be restated.'''

    def __init__(self, clock):
        self._kept = MemoryConversationStore(clock=clock)

    def __getattr__(self, name):
        return getattr(self._kept, name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def update_message(self, message, **more):
        try:
            return self._kept.update_message(message, **more)
        except InvalidTransition as error:
            if error.requested is error.status:
                return self._kept.get_message(message)
            raise

def open_in(folder, *, clock, durability):
    return Store(clock)

def claims_more(folder, *, clock, durability):
    return Store(clock)

claims_more.capabilities = ["multi_process"]

def misspelt(folder, *, clock, durability):
    return Store(clock)

misspelt.capabilities = ["multi_processes"]

def claims_all(folder, *, clock, durability):
    store = Store(clock)
    store.capabilities = None
    return store

def fails(folder, *, clock, durability):
    raise ValueError("no disk")

def forgets_to_return(folder, *, clock, durability):
    Store(clock)
"""

CLASSES = """
import pytest
import third
from pytest_claude_comms.testing import StoreConformance

class TestByFunction(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return third.open_in

class TestByName(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return "third:claims_more"

class TestOfNoModule(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return lambda folder, **more: third.claims_all(folder, **more)

class TestMisspelt(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return "third:misspelt"

class TestOfSeveral(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return "memory,sqlite"

class TestOfNothing(StoreConformance):
    pass

class TestOfNone(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return None

class TestOfAStore(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        with third.Store(None) as store:
            yield store

class TestThatCannotOpen(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return third.fails

class TestThatOpensNothing(StoreConformance):
    @pytest.fixture
    def store_factory(self):
        return third.forgets_to_return
"""


def test_a_class_says_which_store_it_is_about(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(third=THIRD)
    chosen = "transitions_6_ or concurrency_12_ or durability_1_"
    # Without our plugin: the class is all that a third party needs.
    result = run(CLASSES, "-rs", "-k", chosen, plugin="no:claude_comms")
    result.assert_outcomes(failed=6, errors=21, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "transitions.6: A terminal message takes no status, its own included: the first end*",
            "  store     third:open_in, claims chosen_ids, compact, deadlines, gap_free, *",
            "  of        cancelled -> cancelled",
            "  expected  InvalidTransition",
            "  found     no error: it answered Message(*",
            "  asked in  *transitions.py:*",
        ]
    )
    result.stdout.fnmatch_lines_random(
        [
            "SKIPPED*: not claimed: durable",
            "  store     TestOfNoModule, claims addressable, *",
            "  expected  a function or class of a module, so that another process can import it",
            "third:misspelt claims multi_processes; the capabilities are multi_thread, *",
            "'memory,sqlite' names several stores; a class of tests is about one",
            "store_factory returned None; it is to return a factory (folder, *, clock, *",
            "store_factory returned <third.Store object *>; it is to return a factory (folder, *",
            "*RuntimeError: third:fails cannot open a store: ValueError: no disk; it is *",
            "third.py:*: ValueError",
            "third:forgets_to_return returned None, which is no ConversationStore: *",
            "TestOfNothing has to say which store it is about: give it a fixture `store_factory`*",
            "  hint      asked because it claims multi_process; `capabilities` may say otherwise",
        ]
    )


def test_without_a_class_and_under_xdist(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(third=THIRD)
    result = run(
        "",
        *("--pyargs", "pytest_claude_comms.testing.run_conformance", "-n", "2"),
        *("--claude-comms-stores=third:open_in,memory", "-k", "transitions or store_7"),
    )
    result.assert_outcomes(passed=19, failed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            f"*claude-comms: conformance, contracts {VERSION}*",
            "store          contracts  kept  broken  not asked",
            "memory         11         10    0       1",
            "third:open_in  11         9     1       1",
            "memory was not asked store.7 (not claimed: addressable, durable)",
            "third:open_in breaks transitions.6: *",
        ]
    )


def test_a_factory_that_is_no_fixture_is_refused_where_the_class_is_made() -> None:
    def plain(self: object) -> str:
        return "sqlite"

    @pytest.fixture
    def fixture() -> str:
        return "sqlite"

    for wrong in (plain, "sqlite"):
        with pytest.raises(TypeError, match=r"^TestMine\.store_factory is no fixture: make it"):
            type("TestMine", (StoreConformance,), {"store_factory": wrong})
    type("TestMine", (StoreConformance,), {"store_factory": fixture})
