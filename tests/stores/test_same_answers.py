"""Both file stores answer as the memory store does, whatever is asked, in whatever order."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from pytest_claude_comms import ConversationStore, MessageStatus, open_store
from pytest_claude_comms.testing import FakeClock

# Few ids, so that they meet; hostile ones among them.
IDS = st.sampled_from(["a", "b", "../../c", "d\x00e", "\u2028", "CON", "", "x" * 1001, "\ud800"])
TEXTS = st.one_of(
    st.sampled_from(["", "x", "\x00", "\u2028", "\x1b[31m", "\ud800", "🦊" * 50, "x" * 5_000]),
    st.text(max_size=40),
)
STATUSES = st.one_of(
    st.sampled_from([status.value for status in MessageStatus]),
    st.sampled_from(list(MessageStatus)),
    st.sampled_from(["done", "PENDING", None, 3]),
)
SPANS = st.one_of(
    st.none(),
    st.sampled_from([0, 0.5, 1, 3, 1e11, 1e12, -1, float("nan"), float("inf"), True, "3"]),
)
JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(2**70),
        st.floats(),
        TEXTS,
        st.just(b"bytes"),
        st.just({1, 2}),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.dictionaries(st.integers(), inner, max_size=1),
        st.tuples(inner),
    ),
    max_leaves=5,
)
METADATA = st.one_of(st.none(), st.dictionaries(st.sampled_from("abc"), JSON, max_size=3), JSON)


class SameAnswers(RuleBasedStateMachine):
    """Asks the three stores the same and compares what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="same-answers-"))
        self.clock = FakeClock()
        self.stores: dict[str, ConversationStore] = {}

    @initialize()
    def open(self) -> None:
        self.stores = {"memory": open_store("memory:", clock=self.clock)}
        for backend in ("tinydb", "sqlite"):
            self.stores[backend] = self.open_file(backend)

    def open_file(self, backend: str) -> ConversationStore:
        url = f"{backend}:///{self.folder}/store.{backend}"
        return open_store(url, clock=self.clock, durability="process")

    def teardown(self) -> None:
        for store in self.stores.values():
            store.close()
        self.clock.close()
        shutil.rmtree(self.folder)

    def ask(self, question: Callable[[ConversationStore], Any]) -> Any:
        answers = {name: self.answer(store, question) for name, store in self.stores.items()}
        expected = answers["memory"]
        for name, answer in answers.items():
            assert answer == expected, f"{name} answers {answer!r}, memory {expected!r}"
        return expected

    @staticmethod
    def answer(store: ConversationStore, question: Callable[[ConversationStore], Any]) -> Any:
        try:
            # As text: to Python 1 == 1.0 == True, and to a reader of metadata they differ.
            return repr(question(store))
        except Exception as error:
            return f"{type(error).__name__}: {str(error).replace(store.url, 'URL')}"

    @rule(thread=IDS, title=TEXTS, modules=st.lists(TEXTS, max_size=3), metadata=METADATA)
    def create_thread(self, thread: str, title: str, modules: list[str], metadata: Any) -> None:
        self.ask(
            lambda s: s.create_thread(title, modules=modules, metadata=metadata, thread_id=thread)
        )

    @rule(
        thread=IDS, message=IDS, content=TEXTS, status=STATUSES, timeout=SPANS, stall=SPANS,
        metadata=METADATA,
    )  # fmt: skip
    def add_message(
        self, thread: str, message: str, content: str, status: Any, timeout: Any, stall: Any,
        metadata: Any,
    ) -> None:  # fmt: skip
        self.ask(
            lambda s: s.add_message(
                thread, "module", content, status=status, timeout=timeout, stall_timeout=stall,
                metadata=metadata, message_id=message,
            )
        )  # fmt: skip

    @rule(message=IDS, content=TEXTS, thread=st.sampled_from("ab"))
    def add_plain_message(self, message: str, content: str, thread: str) -> None:
        self.ask(lambda s: s.create_thread(thread_id=thread))
        self.ask(
            lambda s: s.add_message(
                thread, "module", content, status="pending", timeout=5, message_id=message
            )
        )

    @rule(
        message=IDS,
        given=st.fixed_dictionaries(
            {},
            optional={
                "status": STATUSES,
                "content": TEXTS,
                "append": TEXTS,
                "error": st.one_of(st.none(), TEXTS),
                "metadata": METADATA,
            },
        ),
    )
    def update_message(self, message: str, given: dict[str, Any]) -> None:
        self.ask(lambda s: s.update_message(message, **given))

    @rule(message=IDS, note=st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), min_size=1))
    def note(self, message: str, note: dict[str, int]) -> None:
        """Taken whatever went before: of what METADATA gives to other ids most is refused."""
        self.add_plain_message(message, "noted", "a")
        self.update_message(message, {"metadata": note})

    @rule(message=IDS, texts=st.lists(TEXTS, max_size=6))
    def stream(self, message: str, texts: list[str]) -> None:
        self.ask(lambda s: s.update_message(message, status="processing"))
        for text in texts:
            self.update_message(message, {"append": text})

    @rule(seconds=st.sampled_from([0.5, 1, 2.5, 5]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def expire(self) -> None:
        self.ask(lambda s: s.expire())

    @rule(message=IDS, thread=IDS)
    def read(self, message: str, thread: str) -> None:
        self.ask(lambda s: s.get_message(message))
        self.ask(lambda s: s.get_thread(thread))
        self.ask(lambda s: s.messages(thread))

    @rule(
        thread=st.one_of(st.none(), IDS), status=st.one_of(st.none(), STATUSES, st.lists(STATUSES))
    )
    def list_messages(self, thread: str | None, status: Any) -> None:
        self.ask(lambda s: s.messages(thread, status))

    @rule(
        since=st.integers(-1, 40),
        limit=st.one_of(st.none(), st.integers(0, 5)),
        message=st.one_of(st.none(), IDS),
    )
    def read_changes(self, since: int, limit: int | None, message: str | None) -> None:
        self.ask(lambda s: s.changes(since, limit=limit, message=message))

    @rule(backend=st.sampled_from(["tinydb", "sqlite"]), close=st.booleans())
    def reopen(self, backend: str, *, close: bool) -> None:
        """Closed first, or beside the store that is still open."""
        old = self.stores[backend]
        if close:
            old.close()
        self.stores[backend] = self.open_file(backend)
        assert self.stores[backend].store_id == old.store_id
        old.close()

    @rule()
    def checkpoint(self) -> None:
        self.stores["tinydb"].checkpoint()  # type: ignore[attr-defined]

    @invariant()
    def the_whole_is_the_same(self) -> None:
        if self.stores:
            self.ask(lambda s: (s.threads(), s.messages(), s.changes(), s.cursor()))
            self.ask(lambda s: s.next_deadline_us())


def run_machine(
    examples: int,
    steps: int,
    machine: type[RuleBasedStateMachine],
    phases: Collection[Phase] = tuple(Phase),
) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_small_form() -> None:
    run_machine(100, 50, SameAnswers)


@pytest.mark.long
def test_long_form() -> None:
    run_machine(2_000, 100, SameAnswers)


class ForgetsMetadata(SameAnswers):
    """One store says something else: it must be found."""

    def open_file(self, backend: str) -> ConversationStore:
        store = super().open_file(backend)
        if backend == "sqlite":
            update = store.update_message

            def forgetful(message: Any, **given: Any) -> Any:
                given.pop("metadata", None)
                return update(message, **given)

            store.update_message = forgetful  # type: ignore[method-assign]
        return store


def test_a_store_that_answers_otherwise_is_found() -> None:
    with pytest.raises(AssertionError, match="sqlite answers"):
        run_machine(200, 40, ForgetsMetadata, phases=[Phase.generate])
