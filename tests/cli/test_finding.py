"""Ids: whole, cut short, ambiguous, wrong."""

from __future__ import annotations

import difflib
import random
import time
import uuid
from collections.abc import Callable

import pytest

from pytest_claude_comms import ConversationStore
from pytest_claude_comms.cli.exits import CommandError
from pytest_claude_comms.cli.finding import find, find_message, find_message_ids, find_thread, near

from .conftest import Run

pytestmark = pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])


@pytest.fixture
def some(store: ConversationStore) -> ConversationStore:
    store.create_thread(thread_id="7f3a-thread")
    store.create_thread(thread_id="same")
    for name in ("7f3a91c2", "7f3b0000", "90c1", "90c1-longer", "same", "Über"):
        store.add_message("same", "m", message_id=name)
    return store


@pytest.mark.parametrize(
    ("given", "found"),
    [("7f3a91c2", "7f3a91c2"), ("7f3b", "7f3b0000"), ("90c1", "90c1"), ("90c1-", "90c1-longer"),
     ("Ü", "Über")],
)  # fmt: skip
def test_a_message(some: ConversationStore, given: str, found: str) -> None:
    assert find_message(some, given).message_id == found


@pytest.mark.parametrize("given", ["1c2", "f3b", "longer"])
def test_only_a_beginning_will_do(some: ConversationStore, given: str) -> None:
    with pytest.raises(CommandError) as raised:
        find_message(some, given)
    assert raised.value.code == 3


def test_a_thread(some: ConversationStore) -> None:
    assert find_thread(some, "7").thread_id == "7f3a-thread"
    assert find_thread(some, "same").thread_id == "same"


def test_either(some: ConversationStore) -> None:
    assert find(some, "7f3a-").thread_id == "7f3a-thread"
    assert not hasattr(find(some, "7f3a-"), "message_id")
    assert getattr(find(some, "7f3a9"), "message_id", None) == "7f3a91c2"
    # A whole id that both have is the message's.
    assert getattr(find(some, "same"), "message_id", None) == "same"


@pytest.mark.parametrize("command", ["status", "show", "timeline"])
def test_an_ambiguous_one_lists_what_it_may_be(
    run: Run, some: ConversationStore, command: str
) -> None:
    result = run(command, "7f3", store=some)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "claude-comms: error: '7f3' is the beginning of 3 ids:\n"
        "  message 7f3a91c2\n  message 7f3b0000\n  thread 7f3a-thread\n"
    )


def test_of_many_ten_are_listed(store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    for number in range(25):
        store.add_message("t", "m", message_id=f"a{number}")
    with pytest.raises(CommandError) as raised:
        find_message(store, "a")
    lines = str(raised.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "  and 15 more"


@pytest.mark.parametrize("command", ["status", "show", "timeline"])
def test_a_wrong_one_suggests_near_ones(run: Run, some: ConversationStore, command: str) -> None:
    result = run(command, "7f3a91d2", store=some)
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith(
        "claude-comms: error: no message or thread has the id '7f3a91d2' (did you mean '7f3a91c2'"
    )
    result = run(command, "nothing-like-it", store=some)
    assert result.code == 3
    assert "mean" not in result.err


@pytest.mark.parametrize("given", ["", "x" * 1001, "\ud800"])
def test_what_can_be_no_id(run: Run, some: ConversationStore, given: str) -> None:
    result = run("status", given, store=some)
    assert result.code == 2
    assert "Traceback" not in result.err
    assert "should not happen" not in result.err


def test_many_at_once(some: ConversationStore) -> None:
    assert find_message_ids(some, ["7f3b", "90c1", "7f3b0000"]) == ["7f3b0000", "90c1"]
    with pytest.raises(CommandError):
        find_message_ids(some, ["90c1", "7f3"])


def processor_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@pytest.mark.claude_comms(stores=["memory"])
def test_among_ten_thousand_it_is_quick(store: ConversationStore) -> None:
    chance = random.Random(1)
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(10_000)]
    wrong = f"{ids[9000][:20]}{ids[9000][21:]}"
    assert near(wrong, ids) == f" (did you mean '{ids[9000]}'?)"
    careful = processor_seconds(lambda: difflib.get_close_matches(wrong, ids, 3, 0.6))
    assert processor_seconds(lambda: near(wrong, ids)) < careful / 2


def test_a_whole_id_is_not_looked_for_among_all(
    some: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("all were read")

    monkeypatch.setattr(type(some), "messages", fail)
    monkeypatch.setattr(type(some), "threads", fail)
    assert find_message(some, "90c1").message_id == "90c1"
    assert find_message_ids(some, ["90c1", "same"]) == ["90c1", "same"]
    assert find(some, "7f3a-thread").thread_id == "7f3a-thread"
