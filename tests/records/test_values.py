"""What may be stored, and what is told to whom tries something else."""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict, UserDict, defaultdict
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_claude_comms.records import ConversationThread, Message
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.stores import values
from pytest_claude_comms.stores.legacy import as_dict

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
MESSAGE = Message(
    message_id="m",
    thread_id="t",
    module_name="x",
    content="",
    message_type="message",
    status=MessageStatus.COMPLETE,
    created_at=NOW,
    updated_at=NOW,
    deadline_at=None,
    error=None,
    metadata={},
    revision=1,
)
THREAD = ConversationThread(thread_id="t", title="", modules=(), metadata={}, created_at=NOW)


class Word(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "another"


# -- ids


@pytest.mark.parametrize(
    "good", ["m", " ", "\0", "../../x", "CON", "a" * 1000, "日本", "\x1b[31m", "🌍" * 1000]
)
def test_any_text_is_an_id(good: str) -> None:
    assert values.identifier(good, "id") == good
    assert values.message_id_of(good) == good


def test_a_str_of_another_type_becomes_a_plain_one() -> None:
    found = values.identifier(Word("m"), "id")
    assert (type(found), found) == (str, "m")
    assert type(values.text(MessageStatus.FAILED, "it")) is str


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("", "message_id must not be empty"),
        ("a" * 1001, "message_id may have up to 1,000 characters, this one has 1,001"),
        (
            "ab\udc80",
            (
                r"message_id has a lone surrogate ('\udc80') at character 2, which no file can hold; "  # noqa: E501
                "decode the bytes it came from with errors='replace'"
            ),
        ),
    ],
)
def test_what_is_no_id_is_a_value_error(bad: str, text: str) -> None:
    for each in (bad, {"message_id": bad}, {"id": bad}):
        with pytest.raises(ValueError) as caught:
            values.message_id_of(each)
        assert str(caught.value) == text


def test_every_shape_of_a_message() -> None:
    shapes: list[Any] = [
        MESSAGE,
        "m",
        Word("m"),
        as_dict(MESSAGE),
        {"id": "m"},
        {"message_id": "m", "id": 3},
        MappingProxyType({"message_id": "m"}),
        UserDict({"message_id": "m"}),
        OrderedDict(message_id="m"),
        defaultdict(str, message_id="m"),
    ]
    assert {values.message_id_of(each) for each in shapes} == {"m"}
    assert values.thread_id_of(THREAD) == values.thread_id_of(as_dict(MESSAGE)) == "t"


def test_what_has_an_id_but_is_no_message_gets_a_hint() -> None:
    class Tracker:
        message_id = "m"

        def __repr__(self) -> str:
            return "<tracker>"

    with pytest.raises(TypeError) as caught:
        values.message_id_of(Tracker())
    assert str(caught.value) == (
        "a message is a Message, its id or a dict with 'message_id', not <tracker>; pass its "
        ".message_id"
    )
    with pytest.raises(TypeError, match="^a thread is a ConversationThread, its id or a dict with"):
        values.thread_id_of(MESSAGE)


def test_a_dict_that_is_no_message_is_told_by_its_keys() -> None:
    with pytest.raises(ValueError, match=r"it has no 'message_id' \(its keys: 'a', 3\)$"):
        values.message_id_of({"a": 1, 3: 4})
    with pytest.raises(ValueError, match=r"\(its keys: none\)$"):
        values.message_id_of(defaultdict(str))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from(["id", "message_id", "x"]) | st.integers(), inner)
        | st.frozensets(st.integers())
    ),
    max_leaves=6,
)


def always_answers_or_says_why(find: Any, value: object) -> None:
    try:
        found = find(value)
    except (TypeError, ValueError):
        return
    assert type(found) is str
    assert 0 < len(found) <= 1000


@given(anything)
def test_message_id_of_never_raises_anything_else(value: object) -> None:
    always_answers_or_says_why(values.message_id_of, value)


@given(anything)
def test_nor_does_thread_id_of(value: object) -> None:
    always_answers_or_says_why(values.thread_id_of, value)


def test_broken_version_looking_up_the_key_is_seen() -> None:
    with pytest.raises(KeyError):
        always_answers_or_says_why(lambda value: value["message_id"], {"id": "m"})


# -- text


@pytest.mark.parametrize("good", ["", "\0", "\r\n", "\u2028", "\ufffe", "🌍", "e\u0301"])
def test_text_may_hold_anything(good: str) -> None:
    assert values.text(good, "content") == good


@pytest.mark.parametrize("bad", [None, 3, b"x", ["x"], object()])
def test_what_is_no_text_is_a_type_error(bad: object) -> None:
    with pytest.raises(TypeError, match="^content must be a str, not "):
        values.text(bad, "content")


@given(st.text(st.characters(), min_size=1))
def test_a_text_is_taken_if_a_file_can_hold_it(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(ValueError, match="lone surrogate"):
            values.text(text, "content")
    else:
        assert values.text(text, "content") == text


# -- metadata


def nested(depth: int, kind: str = "list") -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind == "list" else {"k": value}
    return value


texts = st.text(st.characters(exclude_categories=["Cs"]))
# Small in each place: what is deep and odd is found sooner than among many of a kind.
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
    max_leaves=20,
)


@given(st.dictionaries(texts, json_values, max_size=5))
def test_what_json_holds_comes_back_as_it_was(value: dict[str, Any]) -> None:
    back = json.loads(values.dump(values.metadata(value)))
    assert back == value
    assert repr(back) == repr(value), "1, 1.0 and True, 0.0 and -0.0 are told apart"


def test_what_json_holds_otherwise() -> None:
    class Number(IntEnum):
        ONE = 1

    given_ = {
        "t": (1, (2,)),
        "n": Number.ONE,
        "s": MessageStatus.FAILED,
        "m": UserDict(a=Word("b")),
    }
    found = values.metadata(given_)
    assert found == {"t": [1, [2]], "n": 1, "s": "failed", "m": {"a": "b"}}
    assert type(found["n"]) is int
    assert type(found["s"]) is str
    assert type(found["m"]) is dict
    assert values.metadata(None) == {}


def test_metadata_is_copied() -> None:
    mine: dict[str, Any] = {"a": [1]}
    found = values.metadata(mine)
    mine["a"].append(2)
    assert found == {"a": [1]}


BIG = 10**5000

BAD: list[tuple[Any, type[Exception], str]] = [
    (
        {"a": [1, {"b": math.nan}]},
        ValueError,
        "metadata['a'][1]['b'] is nan, which JSON cannot hold",
    ),
    ({"a": math.inf}, ValueError, "metadata['a'] is inf, which JSON cannot hold"),
    ({"a": -math.inf}, ValueError, "metadata['a'] is -inf, which JSON cannot hold"),
    ({"a": b"x"}, TypeError, "metadata['a'] is a bytes, which JSON cannot hold: b'x'"),
    ({"a": {"b": {1}}}, TypeError, "metadata['a']['b'] is a set, which JSON cannot hold: {1}"),
    ({"a": NOW}, TypeError, "metadata['a'] is a datetime, which JSON cannot hold: "),
    ({"a": 1j}, TypeError, "metadata['a'] is a complex, which JSON cannot hold: 1j"),
    ({"a": [1, "\ud800"]}, ValueError, r"metadata['a'][1] has a lone surrogate ('\ud800')"),
    ({"a\ud800": 1}, ValueError, r"a key of metadata has a lone surrogate ('\ud800')"),
    ({"a": {1: 2}}, TypeError, "metadata['a'] has the key 1; keys must be str"),
    ({None: 2}, TypeError, "metadata has the key None; keys must be str"),
    ({"a": nested(100)}, ValueError, "metadata['a'][0][0][0][0]"),
    ([("a", 1)], TypeError, "metadata must be a dict, not [('a', 1)]"),
    ("a", TypeError, "metadata must be a dict, not 'a'"),
    (3, TypeError, "metadata must be a dict, not 3"),
]


@pytest.mark.parametrize(("bad", "kind", "text"), BAD)
def test_what_json_has_no_word_for_is_named_by_its_path(
    bad: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        values.metadata(bad)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_the_deepest_that_is_taken(kind: str) -> None:
    deepest = {"a": nested(99, kind)}
    assert json.loads(values.dump(values.metadata(deepest))) == deepest
    for depth in (100, 101, 2000):
        with pytest.raises(ValueError, match=r"… is nested more than 100 deep$") as caught:
            values.metadata({"a": nested(depth, kind)})
        assert len(str(caught.value)) < 300


def test_what_holds_itself_is_too_deep() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = [loop, loop]
    with pytest.raises(ValueError, match="nested more than 100 deep$"):
        values.metadata(loop)


def test_big_ints() -> None:
    most = 10**640 - 1
    for good in (2**63, -(2**200), most, -most):
        assert json.loads(values.dump(values.metadata({"a": good}))) == {"a": good}
    for bad in (most + 1, -most - 1, 10**4000, BIG):
        with pytest.raises(ValueError, match=r"^metadata\['a'\]\[0\] is an int of .* bits; .* 640"):
            values.metadata({"a": [bad]})


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="no such limit")
@pytest.mark.parametrize("limit", [0, 640])
def test_big_ints_are_the_same_for_everybody(limit: int) -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(limit)
    try:
        most = 10**640 - 1
        assert json.loads(values.dump(values.metadata({"a": most}))) == {"a": most}
        with pytest.raises(ValueError, match=r"^metadata\['a'\] is an int of 2,127 bits"):
            values.metadata({"a": most + 1})
    finally:
        sys.set_int_max_str_digits(before)


def test_an_id_that_is_none_is_no_id() -> None:
    assert values.message_id_of({"message_id": None, "id": "x"}) == "x"
    assert values.thread_id_of({"thread_id": None, "id": "x"}) == "x"
    with pytest.raises(ValueError, match="no 'message_id'"):
        values.message_id_of({"message_id": None, "id": None})


def test_broken_version_plain_json_takes_nan_and_turns_keys_into_text() -> None:
    assert json.dumps({1: math.nan}) == '{"1": NaN}'


# -- the rest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("pending", {"pending"}),
        (MessageStatus.FAILED, {"failed"}),
        (["pending", MessageStatus.FAILED], {"pending", "failed"}),
        ((), set()),
        (iter(["timeout"]), {"timeout"}),
    ],
)
def test_a_filter_of_statuses(value: Any, expected: set[str] | None) -> None:
    assert values.statuses(value) == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [("unknown", ValueError), (["x"], ValueError), (3, TypeError), ([3], TypeError)],
)
def test_a_filter_that_is_none(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        values.statuses(value)


def test_modules() -> None:
    assert values.module_names(["a", "b", "a"]) == ("a", "b", "a")
    assert values.module_names(name for name in "ab") == ("a", "b")
    for bad in ("ab", 3, None):
        with pytest.raises(TypeError, match="^modules must be a list of names, not "):
            values.module_names(bad)
    with pytest.raises(TypeError, match=r"^modules\[1\] must be a str, not 3$"):
        values.module_names(["a", 3])


@pytest.mark.parametrize(
    ("value", "kind"), [(True, TypeError), (1.0, TypeError), ("1", TypeError), (0, ValueError)]
)
def test_a_count(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^limit must be (an int|at least 1), not "):
        values.count(value, "limit", least=1)
    assert values.count(1, "limit", least=1) == 1


def test_a_count_says_what_it_is_of() -> None:
    assert values.count(0, "since", least=0) == 0
    with pytest.raises(TypeError, match=r"^since must be an int, not '1'$"):
        values.count("1", "since", least=0)
    with pytest.raises(ValueError, match=r"^since must be at least 7, not 6$"):
        values.count(6, "since", least=7)


def test_what_is_kept() -> None:
    for good in (0, 5, timedelta(0), timedelta(days=1)):
        assert values.keep(good) == good
    for negative in (-1, timedelta(microseconds=-1)):
        with pytest.raises(ValueError, match=r"^keep must (be at least 0|not be negative), not "):
            values.keep(negative)
    for bad in (True, 1.0, "1", None):
        with pytest.raises(
            TypeError, match=f"^keep must be a number of changes or a timedelta, not {bad!r}$"
        ):
            values.keep(bad)


def test_where_a_text_no_file_can_hold_is_broken() -> None:
    with pytest.raises(ValueError, match="lone surrogate") as caught:
        values.text("a\u00e9\udc80\ud800", "content")
    assert str(caught.value) == (
        "content has a lone surrogate ('\\udc80') at character 2, which no file can hold; decode "
        "the bytes it came from with errors='replace'"
    )
    assert (caught.value.__cause__, caught.value.__suppress_context__) == (None, True)
    assert type(values.text(Word("\u00e9"), "content")) is str


def test_an_id_is_told_its_bounds() -> None:
    with pytest.raises(
        ValueError, match="^thread_id may have up to 1,000 characters, this one has 1,001$"
    ):
        values.thread_id_of("x" * 1_001)
    with pytest.raises(ValueError, match="^message_id must not be empty$"):
        values.message_id_of({"message_id": ""})
    with pytest.raises(TypeError, match="^message_id must be a str, not 3$"):
        values.message_id_of({"id": 3})


def test_an_answer_in_place_of_its_message_gets_a_hint() -> None:
    class Reply:
        answer = MESSAGE

        def __repr__(self) -> str:
            return "<reply>"

    with pytest.raises(TypeError, match=r"not <reply>; pass its \.answer$"):
        values.message_id_of(Reply())
    with pytest.raises(TypeError, match=r"with 'message_id', not 3$"):
        values.message_id_of(3)
    with pytest.raises(TypeError, match=r"with 'thread_id', not Message\(.*; pass its \.thread_id"):
        values.thread_id_of(MESSAGE)


def test_what_is_nested_too_deep_is_shown_by_its_beginning() -> None:
    with pytest.raises(ValueError, match="is nested more than 100 deep$") as caught:
        values.metadata({"a": nested(100)})
    path = f"metadata['a']{'[0]' * 99}"
    assert str(caught.value) == f"{path[:200]}… is nested more than 100 deep"


def test_the_path_of_a_value_is_worded_for_an_error_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long key would be in the path of each value under it."""
    with monkeypatch.context() as patch:
        patch.setattr(values._Path, "__str__", None)
        good = {"k": [0, 1.5, "x", "\u00e9", None, {"\u00e9": [True]}]}
        assert values.metadata(good) == good
    for bad, said in (
        ({"k": [0, {"\u00e9": b""}]}, r"^metadata\['k'\]\[1\]\['\u00e9'\] is a bytes"),
        ({"k": [{2: 1}]}, r"^metadata\['k'\]\[0\] has the key 2;"),
        ({"k": ["\ud800"]}, r"^metadata\['k'\]\[0\] has a lone surrogate"),
        ({"k": {"\ud800": 1}}, r"^a key of metadata\['k'\] has a lone surrogate"),
    ):
        with pytest.raises((TypeError, ValueError), match=said):
            values.metadata(bad)


@pytest.mark.parametrize(("before", "after"), [('{"a":', "}"), ("[", "]")])
def test_how_deep_json_is(before: str, after: str) -> None:
    for inner in ("", "1", '"[[["'):
        if inner or before == "[":
            assert not values.is_too_deep(before * 99 + f"[{inner}]" + after * 99)
            assert values.is_too_deep(before * 100 + f"[{inner}]" + after * 100)
    assert not values.is_too_deep('{"a": "' + "[" * 5_000 + '"}')
    assert not values.is_too_deep("[" + "[]," * 200 + "{}]")


def test_text_of_json_is_short_and_as_it_was() -> None:
    assert values.dump({"a": [1, "\u00e9"], "b": None}) == '{"a":[1,"\u00e9"],"b":null}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        values.dump(math.nan)


def test_what_has_an_answer_gets_the_hint_to_pass_that() -> None:
    reply = SimpleNamespace(answer="a")
    with pytest.raises(TypeError, match=r"; pass its \.answer$"):
        values.message_id_of(reply)
    with pytest.raises(TypeError, match=r"; pass its \.message_id$"):
        values.message_id_of(SimpleNamespace(message_id="m", answer="a"))


@pytest.mark.parametrize("value", [1.5, True, "7", None])
def test_what_is_to_be_kept_is_a_number_or_a_span(value: object) -> None:
    assert values.keep(0) == 0
    assert values.keep(timedelta(0)) == timedelta(0)
    with pytest.raises(TypeError, match=f"^keep must be a number .*, not {value!r}$"):
        values.keep(value)
    with pytest.raises(ValueError, match="^keep must be at least 0, not -1$"):
        values.keep(-1)
