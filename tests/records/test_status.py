"""Statuses and the table of legal transitions."""

from __future__ import annotations

import copy
import json
import pickle
from enum import Enum
from itertools import product
from typing import Any

import pytest

from pytest_claude_comms.status import (
    STORABLE,
    TERMINAL,
    TRANSITIONS,
    MessageStatus,
    parse_status,
)

WORDS = ["pending", "processing", "complete", "failed", "timeout", "cancelled", "unknown"]
ENDS = {"complete", "failed", "timeout", "cancelled"}


def test_the_words() -> None:
    assert [status.value for status in MessageStatus] == WORDS


@pytest.mark.parametrize("word", WORDS)
def test_a_member_is_its_word_however_it_is_put(word: str) -> None:
    status = MessageStatus(word)
    assert status == word
    assert hash(status) == hash(word)
    assert {word: 1}[status] == 1
    assert word in {status, "x"}
    assert str(status) == f"{status}" == format(status) == "%s" % status == word  # noqa: UP031
    assert f"{status:>12}" == f"{word:>12}"
    assert "-".join(iter([status, status])) == f"{word}-{word}"
    assert json.dumps({status: status}) == f'{{"{word}": "{word}"}}'
    assert pickle.loads(pickle.dumps(status)) is status
    assert copy.deepcopy(status) is status


def test_the_ends() -> None:
    assert TERMINAL == ENDS
    assert {status for status in MessageStatus if status.is_terminal} == ENDS
    assert set(WORDS) - {"unknown"} == STORABLE


LEGAL = {
    ("pending", "processing"),
    *(("pending", end) for end in ENDS),
    *(("processing", end) for end in ENDS),
}
"""Written from DESIGN, not from the code."""


@pytest.mark.parametrize(("before", "after"), list(product(WORDS[:-1], WORDS)))
def test_the_table(before: str, after: str) -> None:
    assert (after in TRANSITIONS[MessageStatus(before)]) is ((before, after) in LEGAL)


def test_the_table_is_about_what_can_be_stored_and_cannot_be_changed() -> None:
    assert set(TRANSITIONS) == STORABLE
    with pytest.raises(TypeError):
        TRANSITIONS[MessageStatus.COMPLETE] = frozenset()  # type: ignore[index]


@pytest.mark.parametrize("word", WORDS[:-1])
def test_parse_takes_a_member_or_its_word(word: str) -> None:
    class Foreign(str, Enum):
        IT = word

    assert parse_status(word) is parse_status(MessageStatus(word)) is parse_status(Foreign.IT)


@pytest.mark.parametrize(
    "word", ["unknown", "", "Pending", "PENDING", " pending", "done", "\ud800"]
)
def test_parse_refuses_other_words(word: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_status(word)
    assert str(caught.value) == (
        f"status {word!r} cannot be stored; it is one of pending, processing, complete, failed, "
        "timeout, cancelled"
    )


@pytest.mark.parametrize("value", [None, 1, True, b"pending", ["pending"], object])
def test_parse_refuses_other_types(value: Any) -> None:
    with pytest.raises(TypeError) as caught:
        parse_status(value, what="it")
    assert str(caught.value) == f"it must be a MessageStatus or its word, not {value!r}"


def test_broken_version_a_plain_mixed_in_enum_prints_otherwise() -> None:
    class Plain(str, Enum):
        PENDING = "pending"

    assert str(Plain.PENDING) != "pending"


@pytest.mark.parametrize("before", WORDS)
def test_what_a_status_can_become(before: str) -> None:
    """UNKNOWN too is a status, and becomes nothing."""
    status = MessageStatus(before)
    can_become = {(before, after) for after in WORDS if status.can_become(MessageStatus(after))}
    assert can_become == {step for step in LEGAL if step[0] == before}
    assert {type(status.can_become(after)) for after in MessageStatus} == {bool}
