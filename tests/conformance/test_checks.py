"""A page names what the author of a store has to change, and no inside of the kit."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_claude_comms import AlreadyExists, Message
from pytest_claude_comms.testing.conformance.checks import Mismatch, equal
from tests.conformance.matrix import BY_NUMBER, page_of
from tests.conformance.mutants import Memory


def test_a_list_for_a_tuple_is_said() -> None:
    long = list(range(300))
    with pytest.raises(Mismatch) as caught:
        equal({"items": long}, {"items": tuple(long)}, "changes()")
    assert caught.value.what == "changes(), at ['items']"
    assert caught.value.expected.startswith("a tuple, (0, 1, 2")
    assert caught.value.found.startswith("a list, [0, 1, 2")


class WrongError(Memory):
    """Its author has the arguments of AlreadyExists wrong, or of any other error."""

    def add_message(self, *args: Any, message_id: str | None = None, **more: Any) -> Message:
        try:
            return super().add_message(*args, message_id=message_id, **more)
        except AlreadyExists:
            raise TypeError("AlreadyExists() takes a kind and an id") from None


def test_a_wrong_error_of_a_race_is_told_with_its_words() -> None:
    page = page_of(WrongError, BY_NUMBER["concurrency.5"])
    assert page is not None
    assert "expected  1 Message, 3 AlreadyExists" in page
    assert "TypeError: AlreadyExists() takes a kind and an id" in page


class TakesSurrogates(Memory):
    """Of what it should refuse it stores another text."""

    def add_message(self, *args: Any, **more: Any) -> Message:
        thread, module, *content = args
        return super().add_message(
            thread, module, *(each.replace("\ud800", "?") for each in content), **more
        )


def test_what_a_store_should_have_refused_is_said_in_words() -> None:
    page = page_of(TakesSurrogates, BY_NUMBER["feed.11"])
    assert page is not None
    assert "of        a message with a lone surrogate\n" in page
    assert "functools" not in page
