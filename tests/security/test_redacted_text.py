"""A secret that comes in pieces does not slip through between them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_claude_comms import (
    RedactionError,
    SecretRedactor,
    open_store,
    redact_secrets,
    redacted_text,
)
from pytest_claude_comms.redacted_text import Edit, RedactedAppends, RedactedStream
from pytest_claude_comms.redaction import Redaction

from .conftest import OpenStore
from .kit import pieces_of, told

SECRET = "sk-ant-api03-Zx8Kq2Wv7Lm4Rt9Yp1Bn6Cd3"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIB\nAAKCAQEA\n-----END RSA PRIVATE KEY-----"
PHRASE = "correct horse battery"
SIGNS = "パスワード1234密码"
REDACT = SecretRedactor([PHRASE, SIGNS])

words = st.sampled_from(
    [
        *(SECRET, KEY, PHRASE, SIGNS, ".", " ", "\n", "a", "日本", "correct", "sk-"),
        *("https://u:swordfish@h/", "https://u:sword魚@h/"),
    ]
)
texts = st.lists(words, max_size=8).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    """A text, in pieces."""
    text = draw(texts)
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of some words are then as those of megabytes."""
    monkeypatch.setattr(redacted_text, "_REMEMBERED", 40)


@pytest.fixture(params=["long", "short"])
def sized(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "short":
        shrink(monkeypatch)


def streamed(pieces: list[str]) -> list[str]:
    """What is stored after each piece, and at the end."""
    stream, stored, seen = RedactedStream(Redaction(REDACT)), "", []
    for piece in [*pieces, None]:
        edit = stream.edit("", whole=True) if piece is None else stream.edit(piece)
        stored = edit.text if edit.replaces else stored + edit.text
        seen.append(stored)
    return seen


@pytest.mark.usefixtures("sized")
@settings(max_examples=100)
@given(cut_texts())
def test_a_stream_comes_to_the_redacted_whole_and_shows_no_part_of_a_secret(
    pieces: list[str],
) -> None:
    seen = streamed(pieces)
    assert seen[-1] == REDACT("".join(pieces))
    # "correct" and "sk-ant-" alone are words too; half a secret is none.
    parts = pieces_of(SECRET[7:], 6) | pieces_of("MIIEpAIB\nAAKCAQEA", 6) | {"horse", "swordf"}
    parts |= pieces_of(SIGNS, 4) | {"sword魚"}
    for stored in seen:
        assert not any(part in stored for part in parts)


@pytest.mark.usefixtures("sized")
@settings(max_examples=100)
@given(cut_texts(), st.integers(0, 12))
def test_appends_come_to_the_redacted_whole(pieces: list[str], begun: int) -> None:
    appends = RedactedAppends(Redaction(REDACT))
    stored = appends.begun("m", "".join(pieces[:begun]))
    for piece in pieces[begun:]:
        edit = appends.appended("m", stored, piece)
        stored = edit.text if edit.replaces else stored + edit.text
    assert stored == REDACT("".join(pieces))


def test_broken_version_each_piece_by_itself_is_seen() -> None:
    pieces = [SECRET[:20], SECRET[20:]]
    assert "".join(map(REDACT, pieces)) != REDACT(SECRET)


@pytest.mark.parametrize("size", [2, 11])
def test_on_every_store(opened: OpenStore, size: int) -> None:
    text = f"the key is {SECRET}\n{KEY}, and so on"
    store = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    store.add_message("t", "m", text[:3], status="processing", message_id="m")
    for start in range(3, len(text), size):
        store.update_message("m", append=text[start : start + size])
        assert SECRET not in told(store)
    message = store.update_message("m", status="complete")
    assert message.content == "the key is <API_KEY>\n<PRIVATE_KEY>, and so on"
    content = ""
    for change in store.changes():
        content = content + (change.append or "") if change.content is None else change.content
        assert len(content) == change.content_length
    assert content == message.content


def test_after_text_was_replaced(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    store.add_message("t", "m", "said", status="processing", message_id="m")
    store.update_message("m", content=SECRET[:20])
    store.update_message("m", append=SECRET[20:])
    assert store.get_message("m").content == "<API_KEY>"


def test_of_several_messages_at_once(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    ids = [f"m{number}" for number in range(5)]
    for each in ids:
        store.add_message("t", "m", status="processing", message_id=each)
    for char in SECRET:
        for each in ids:
            store.update_message(each, append=char)
    assert {message.content for message in store.messages()} == {"<API_KEY>"}


def test_a_commit_that_fails_and_is_made_again(
    opened: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    store.add_message("t", "m", SECRET[:20], status="processing", message_id="m")
    writing, fails = store._writing, True

    class Failing:
        def __enter__(self) -> Any:
            self.context = writing()
            return self.context.__enter__()

        def __exit__(self, *exc: object) -> Any:
            error = OSError("disk")
            self.context.__exit__(OSError, error, None)
            raise error

    if store.backend != "memory":  # which undoes nothing, since nothing in it can fail
        monkeypatch.setattr(store, "_writing", lambda: Failing() if fails else writing())
        with pytest.raises(OSError, match="disk"):
            store.update_message("m", append=SECRET[20:25])
        fails = False
    store.update_message("m", append=SECRET[20:25])
    store.update_message("m", append=SECRET[25:])
    assert store.get_message("m").content == "<API_KEY>"


@pytest.mark.parametrize("opened", ["tinydb", "sqlite"], indirect=True)
def test_what_another_process_wrote_counts_as_it_is(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    store.add_message("t", "m", "a ", status="processing", message_id="m")
    with open_store(store.url, durability="process") as other:  # without redact
        other.update_message("m", append=SECRET[:20])
        store.update_message("m", append=SECRET[20:])
        assert store.get_message("m").content == "a <API_KEY>"
        other.update_message("m", append=f" {SECRET} ")
        assert store.update_message("m", append="x").content == "a <API_KEY> <API_KEY> x"


def test_a_store_remembers_so_many_texts_only() -> None:
    appends = RedactedAppends(Redaction(redact_secrets))
    for number in range(1000):
        appends.begun(f"m{number}", "text")
    assert len(appends._ends) == redacted_text._MOST_TEXTS
    appends.forget("m999")
    appends.forget("m999")
    assert len(appends._ends) == redacted_text._MOST_TEXTS - 1


def test_a_message_that_has_ended_is_not_remembered(opened: OpenStore) -> None:
    store: Any = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    for status in ("complete", "pending"):
        store.add_message("t", "m", "text", status=status, message_id=status)
    assert list(store._appends._ends) == ["pending"]
    store.update_message("pending", append=" and more", status="complete")
    assert not store._appends._ends


# -- how much is held back, and what it costs


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("", 0),
        ("a b", 1),
        ("a b\n", 0),
        ("word", 4),
        ("日本語", 0),
        ("日本sk-ant", 6),
        ("한국", 0),
        ("\uff21abc", 3),
        ("https://joe:密码", len("://joe:密码")),
        ("https://joe:密码/日", 0),
        ("日パスワード", len("パスワード")),
        ("the correct horse", len("correct horse")),
        ("correct horse ", len("correct horse ")),
        ("x" * 50_000, 16_384),
    ],
)
def test_what_is_held_back(text: str, held: int) -> None:
    assert redacted_text.held_back(Redaction(REDACT), text) == held


def test_a_text_of_millions_of_characters_is_not_read_again_and_again() -> None:
    read = 0

    def counting(text: str) -> str:
        nonlocal read
        read += len(text)
        return text

    line = "some words, and then some more of them\n" * 50
    for make in (_stream_of, _appends_of):
        read = 0
        write = make(Redaction(counting))
        for _ in range(300):
            write(line)
        assert read < 300 * 8 * (2 * redacted_text._REMEMBERED)
        assert write(" the end") <= 3 * redacted_text._REMEMBERED


def _stream_of(redaction: Redaction) -> Callable[[str], int]:
    stream = RedactedStream(redaction)

    def write(piece: str) -> int:
        assert not stream.edit(piece).replaces
        return len(stream._end.raw)

    return write


def _appends_of(redaction: Redaction) -> Callable[[str], int]:
    appends, stored = RedactedAppends(redaction), ""
    appends.begun("m", "")

    def write(piece: str) -> int:
        nonlocal stored
        edit = appends.appended("m", stored, piece)
        assert not edit.replaces
        stored += edit.text
        return len(appends._ends["m"][0].raw)

    return write


def test_one_long_word_is_settled_too() -> None:
    stream = RedactedStream(Redaction(redact_secrets))
    stored = "".join(stream.edit("x" * 50_000).text for _ in range(40))
    assert len(stored) == 40 * 50_000 - 16_384
    assert len(stream._end.raw) < 150_000


def test_a_key_that_never_ends_does_not_swallow_all_that_follows() -> None:
    stream = RedactedStream(Redaction(redact_secrets))
    stored, begin = "", "-----BEGIN PRIVATE KEY-----"
    for piece in ("one\n", f"{begin}\n", *["MIIE\n" * 20] * 100, *["and more\n" * 500] * 20):
        edit = stream.edit(piece)
        stored = edit.text if edit.replaces else stored + edit.text
    assert stored.startswith("one\n<PRIVATE_KEY>")
    assert "MIIE" not in stored
    assert len(stored) == 4 + len("<PRIVATE_KEY>") + 10_000 * 9 - (19_999 - 10_000)


def test_what_an_edit_is_to_a_store() -> None:
    assert Edit("text").as_changes() == {"append": "text"}
    assert Edit("").as_changes() == {}
    assert Edit("text", replaces=True).as_changes() == {"content": "text"}
    assert Edit("", replaces=True).as_changes() == {"content": ""}


@pytest.mark.usefixtures("sized")
@settings(max_examples=50)
@given(cut_texts(), cut_texts())
def test_a_stream_that_begins_anew_comes_to_what_it_began_with(
    before: list[str], pieces: list[str]
) -> None:
    stream, stored = RedactedStream(Redaction(REDACT)), ""
    for place, piece in enumerate([*before, "", *pieces]):
        edit = stream.edit(piece, replaces=place == len(before))
        stored = edit.text if edit.replaces else stored + edit.text
    edit = stream.edit("", whole=True)
    stored = edit.text if edit.replaces else stored + edit.text
    assert stored == REDACT("".join(pieces))


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (KeyError(SECRET), r"unfinished raised KeyError( at .*)?$"),
        (None, "unfinished returned a NoneType, not an int"),
        (True, "unfinished returned a bool, not an int"),
        (-1, "unfinished returned -1, not a number of characters"),
    ],
)
def test_an_unfinished_that_does_not_say_how_much_says_nothing_of_the_text(
    answers: object, reason: str
) -> None:
    class Redactor:
        def __call__(self, text: str) -> str:
            return text

        def unfinished(self, text: str) -> object:
            if isinstance(answers, Exception):
                raise answers
            return answers

    stream = RedactedStream(Redaction(Redactor()))
    with pytest.raises(RedactionError, match=reason) as caught:
        stream.edit(f"the pass is {SECRET[:4]}")
    assert SECRET[:4] not in str(caught.value)
    assert caught.value.__context__ is None


def test_whenever_a_function_fails_the_error_says_what_it_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shrink(monkeypatch)
    pieces = [f"{word} " * 9 + "wor" for word in ("some", PHRASE, "more", SECRET)] + ["correct ho"]
    failed: list[str] = []
    for fails_at in range(200):
        calls = 0

        def fails(text: str) -> str:
            nonlocal calls
            calls += 1
            if calls > fails_at:
                raise LookupError
            return REDACT(text)

        fails.unfinished = REDACT.unfinished  # type: ignore[attr-defined]
        stream, appends = RedactedStream(Redaction(fails)), RedactedAppends(Redaction(fails))
        stored = ""
        try:
            for piece in pieces:
                stream.edit(piece)
                edit = appends.appended("m", stored, piece)
                stored = edit.text if edit.replaces else stored + edit.text
        except RedactionError as error:
            failed.append(error.what)
    assert 20 < len(failed) < 200
    assert set(failed) == {"content"}


@pytest.mark.parametrize("space", [" ", "\n"])
def test_a_text_is_settled_between_words_for_a_function_that_looks_for_words(
    monkeypatch: pytest.MonkeyPatch, space: str
) -> None:
    """Wherever else it were cut, there would be a word of four letters that there is not."""
    shrink(monkeypatch)
    stream = RedactedStream(Redaction(lambda text: re.sub(r"\b\w{4}\b", "<W>", text)))
    words = [f"abcdefghij{space}"] * 100
    assert "".join(stream.edit(word).text for word in words) == "".join(words)
    assert len(stream._end.raw) < 2 * 40 + 11
