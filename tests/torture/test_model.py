"""Every store does what the model does: reopened, killed, dropped, whatever the clock says.

``TORTURE_EXAMPLES`` and ``TORTURE_STEPS`` are how many runs of how many steps the long form
makes (5000, 100).
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pytest_claude_comms import ConversationStore, open_store
from tests.torture.calling import JumpingClock, call
from tests.torture.conftest import Row
from tests.torture.model import Model
from tests.torture.stage import Stage
from tests.torture.story import BACKENDS, url_in

START_US = 1_700_000_000_000_000

THREADS = st.sampled_from(["a", "../../b"])
IDS = st.sampled_from(["m", "\u2028", "CON"])
TEXTS = st.one_of(
    st.sampled_from(
        ["", "x", "\x00", "\u2028", "\x1b[31m", "\ud800", "y\udfff", "🦊" * 50, "x" * 5_000]
    ),
    st.text(max_size=10),
)
STATUSES = st.sampled_from(["pending", "processing", "complete", "failed", "timeout", "cancelled"])
SPANS = st.sampled_from([None, 0.5, 1, 3])
METADATA = st.dictionaries(
    st.sampled_from("abc"),
    st.sampled_from([None, True, 1, 1.0, -0.0, 10**30, "\u2028", [1, {}]]),
    max_size=2,
)
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "status": STATUSES, "content": TEXTS, "append": TEXTS,
        "error": st.one_of(st.none(), TEXTS), "metadata": METADATA,
    },
)  # fmt: skip


class StoresAreTheModel(RuleBasedStateMachine):
    stage: ClassVar[Stage]
    tried: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="torture-"))
        self.clock = JumpingClock(START_US)
        self.model = Model()
        self.stores: dict[str, ConversationStore] = {}
        self.dropped: list[ConversationStore] = []

    @initialize()
    def begin(self) -> None:
        self.tried["runs"] += 1
        self.stores = {"memory": open_store("memory:", clock=self.clock)}
        for backend in BACKENDS:
            (self.folder / backend).mkdir()
            self.open_file(backend)

    def open_file(self, backend: str) -> None:
        self.tried["openings"] += 1
        url = url_in(self.folder / backend, backend)
        self.stores[backend] = open_store(url, clock=self.clock, durability="process")

    def teardown(self) -> None:
        for store in [*self.stores.values(), *self.dropped]:
            store.close()
        shutil.rmtree(self.folder)

    def ask(self, name: str, *arguments: Any) -> None:
        """Make the same call of all; all have to answer the same."""
        self.tried["calls"] += 1
        expected = self._answer(lambda: getattr(self._timely_model(), name)(*arguments))
        for backend, store in self.stores.items():
            self._compare(
                backend,
                name,
                arguments,
                self._answer(lambda: call(store, name, list(arguments))),
                expected,
            )

    def _timely_model(self) -> Model:
        self.model.now = self.clock.us
        return self.model

    @staticmethod
    def _answer(ask: Callable[[], Any]) -> Any:
        try:
            return copy.deepcopy(ask())
        except Exception as error:
            return type(error).__name__

    @staticmethod
    def _compare(backend: str, name: str, arguments: object, found: Any, expected: Any) -> None:
        # As text: to Python 1 == 1.0 == True, to a reader of the store they differ.
        found, expected = _sorted(found), _sorted(expected)
        assert repr(found) == repr(expected), f"{backend}: {name}{arguments}: {found}, {expected}"

    # -- writing

    @rule(thread=THREADS, title=TEXTS, metadata=METADATA)
    def create_thread(self, thread: str, title: str, metadata: dict[str, Any]) -> None:
        self.ask("create_thread", thread, title, metadata)

    @rule(
        thread=THREADS, message=IDS, content=TEXTS, status=STATUSES, timeout=SPANS, stall=SPANS,
        metadata=METADATA,
    )  # fmt: skip
    def add_message(
        self, thread: str, message: str, content: str, status: str, timeout: Any, stall: Any,
        metadata: dict[str, Any],
    ) -> None:  # fmt: skip
        self.ask("add_message", thread, message, content, status, timeout, stall, metadata)

    @rule(message=IDS)
    def begin_a_message(self, message: str) -> None:
        self.ask("create_thread", "a", "", {})
        self.ask("add_message", "a", message, "", "pending", 3, None, {})

    @rule(message=IDS, given=GIVEN)
    def update_message(self, message: str, given: dict[str, Any]) -> None:
        self.ask("update_message", message, given)

    @rule(message=IDS, texts=st.lists(TEXTS, max_size=4))
    def stream(self, message: str, texts: list[str]) -> None:
        for text in texts:
            self.ask("update_message", message, {"append": text})

    @rule()
    def expire(self) -> None:
        self.ask("expire")

    @rule(keep=st.integers(0, 10))
    def compact(self, keep: int) -> None:
        self.ask("compact", keep)

    # -- time, and the ends of stores

    @rule(seconds=st.sampled_from([0.5, 1, 2.5, 5, -1, -86_400]))
    def jump(self, seconds: float) -> None:
        self.clock.us += round(seconds * 1_000_000)

    @precondition(lambda self: bool(self.stores))
    @rule(backend=st.sampled_from(BACKENDS), how=st.sampled_from(["closed", "beside", "dropped"]))
    def reopen(self, backend: str, how: str) -> None:
        """After closing it, beside the one that is open, or after that was left as it is."""
        old = self.stores[backend]
        if how == "closed":
            old.close()
        self.open_file(backend)
        if how == "beside":
            old.close()
        elif how == "dropped":
            self.dropped.append(old)

    @precondition(lambda self: bool(self.stores))
    @rule(backend=st.sampled_from(BACKENDS), message=IDS, given=GIVEN)
    def be_killed(self, backend: str, message: str, given: dict[str, Any]) -> None:
        """Another process makes a call, and is killed with the store open; the rest make it too."""
        self.tried["kills"] += 1
        arguments = [message, given]
        expected = self._answer(lambda: self._timely_model().update_message(message, given))
        url = self.stores[backend].url
        actor = self.stage.start(
            "tests.torture.calling:call_and_die",
            url=url, us=self.clock.us, name="update_message", arguments=arguments,
        )  # fmt: skip
        try:
            self._compare(backend, "update_message", arguments, actor.hear(), expected)
            assert actor.wait() == -9
        finally:
            actor.end()
        for other, store in self.stores.items():
            if other != backend:
                answer = self._answer(lambda: call(store, "update_message", arguments))
                self._compare(other, "update_message", arguments, answer, expected)

    # -- reading

    @rule(
        message=IDS,
        thread=st.one_of(st.none(), THREADS),
        statuses=st.one_of(st.none(), st.sets(STATUSES)),
    )
    def read(self, message: str, thread: str | None, statuses: set[str] | None) -> None:
        self.ask("get_message", message)
        self.ask("list_messages", thread, statuses)

    @rule(
        since=st.integers(0, 30),
        limit=st.one_of(st.none(), st.integers(1, 5)),
        message=st.one_of(st.none(), IDS),
    )
    def read_changes(self, since: int, limit: int | None, message: str | None) -> None:
        self.ask("changes_after", since, limit, message)

    @invariant()
    def all_of_it_is_the_same(self) -> None:
        self.ask("list_messages", None, None)
        self.ask("changes_after", self.model.trimmed, None, None)
        self.ask("next_deadline")


def _sorted(answer: Any) -> Any:
    """Dicts in one order: that of their keys is nobody's promise."""
    if isinstance(answer, dict):
        return {key: _sorted(answer[key]) for key in sorted(answer)}
    if isinstance(answer, (list, tuple)):
        return [_sorted(each) for each in answer]
    return answer


def run(
    stage: Stage, machine: type[StoresAreTheModel], examples: int, steps: int, **how: Any
) -> None:
    machine.stage = stage
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
            suppress_health_check=list(HealthCheck), **how,
        ),
    )  # fmt: skip


def test_stores_are_the_model(stage: Stage) -> None:
    run(stage, StoresAreTheModel, 15, 30)


@pytest.fixture
def size() -> tuple[int, int]:
    return (
        int(os.environ.get("TORTURE_EXAMPLES", "5000")),
        int(os.environ.get("TORTURE_STEPS", "100")),
    )


@pytest.mark.long
def test_stores_are_the_model_for_long(stage: Stage, size: tuple[int, int], row: Row) -> None:
    examples, steps = size
    tried = StoresAreTheModel.tried
    tried.clear()
    run(stage, StoresAreTheModel, examples, steps)
    row(
        "T5 stores are the model", "all three", f"{tried['runs']} runs of {steps} steps",
        lost=0, unreadable=0, divergences=0,
        calls=tried["calls"], kills=tried["kills"], openings=tried["openings"],
    )  # fmt: skip


class Forgetful(StoresAreTheModel):
    """One store leaves out what it is to append when told the status, too."""

    def open_file(self, backend: str) -> None:
        super().open_file(backend)
        store = self.stores[backend]
        if backend == "sqlite":
            update = store.update_message

            def forget(message: Any, **given: Any) -> Any:
                if "status" in given:
                    given.pop("append", None)
                return update(message, **given)

            store.update_message = forget  # type: ignore[method-assign]


def test_a_store_that_is_not_the_model_is_found(stage: Stage) -> None:
    with pytest.raises(AssertionError, match="sqlite: update_message"):
        run(stage, Forgetful, 300, 30, phases=[Phase.generate])
