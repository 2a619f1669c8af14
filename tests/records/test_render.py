"""How things are put before a person."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_claude_comms import render
from pytest_claude_comms.records import Change, Changes
from pytest_claude_comms.status import MessageStatus

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
PENDING, PROCESSING, COMPLETE, FAILED = list(MessageStatus)[:4]


def change(revision: int = 1, **more: object) -> Change:
    fields: dict[str, object] = {
        "message_id": "m",
        "thread_id": "t",
        "at": NOW + timedelta(seconds=revision - 1),
        "previous": PENDING,
        "status": PENDING,
    }
    return Change(revision=revision, **{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcode 日本 🌍", "plain ünïcode 日本 🌍"),
        ("\x1b[31mred\x1b]52;c;\x07", r"\x1b[31mred\x1b]52;c;\x07"),
        ("a\u202eb\u2066c\u200f", r"a\u202eb\u2066c\u200f"),
        ("\x9b31m\x85", r"\x9b31m\x85"),
        ("a\r\nb\tc\0", r"a\r\nb\tc\x00"),
        ("\u2028\ud800", r"\u2028\ud800"),
    ],
)
def test_text_that_moves_a_cursor_is_escaped(text: str, expected: str) -> None:
    assert render.clean(text) == expected


@given(st.text(st.characters()))
def test_clean_text_is_printable_and_stays_so(text: str) -> None:
    once = render.clean(text)
    assert once.isprintable()
    assert render.clean(once) == once
    once.encode()


def test_broken_version_text_as_it_came_is_seen() -> None:
    assert not "\x1b[31m".isprintable()
    assert not "\u202e".isprintable()


def test_instants() -> None:
    assert render.instant(NOW) == "2026-01-01T00:00:00Z"
    assert render.instant(NOW + timedelta(microseconds=5)) == "2026-01-01T00:00:00.000005Z"
    east = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert render.instant(east) == "2026-01-01T00:00:00+02:00"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(27, "27.0 s"), (0, "0.0 s"), (0.05, "0.05 s"), (0.000002, "2e-06 s"), (3600, "3,600.0 s")],
)
def test_spans(seconds: float, text: str) -> None:
    assert render.span(seconds) == text


def test_counts_and_steps() -> None:
    assert [render.characters(n) for n in (0, 1, 1204)] == [
        "0 characters",
        "1 character",
        "1,204 characters",
    ]
    assert render.steps([]) == "unknown"
    assert render.steps([PENDING, COMPLETE]) == "pending -> complete"


@pytest.mark.parametrize(
    ("each", "text"),
    [
        (change(previous=None), "pending"),
        (change(previous=None, content="x", content_length=1), "pending, content 1"),
        (change(status=COMPLETE), "pending -> complete"),
        (change(append="x", content_length=1204), "content 1,204"),
        (change(content="", content_length=0), "content 0"),
        (change(metadata={"a": 1, "\x1b": 2}), r"metadata a, \x1b"),
        (change(status=FAILED, error="no\nway"), "pending -> failed, error no way"),
        (change(append="x", content_length=1, error="old"), "content 1"),
        (change(error="new \x1b"), r"error new \x1b"),
        (change(), "error cleared"),
    ],
)
def test_what_changed(each: Change, text: str) -> None:
    assert render.what_changed(each) == text


def test_shortening() -> None:
    assert render.shorten("a\n  b\tc ") == "a b c"
    assert render.shorten("x" * 120) == "x" * 120
    assert render.shorten("x" * 121) == "x" * 119 + "…"


def test_a_history() -> None:
    assert render.history([]) == ["nothing yet"]
    story = [change(1, previous=None), change(4, status=PROCESSING)]
    assert render.history(story) == [
        "#1   +0.0 s  pending",
        "#4   +3.0 s  pending -> processing",
    ]
    assert render.history(story, NOW - timedelta(seconds=1))[0] == "#1   +1.0 s  pending"


@pytest.mark.parametrize("most", [0, 1, 2, 3, 10, 40])
def test_of_a_long_history_the_middle_is_left_out_and_counted(most: int) -> None:
    story = [change(number, append="x") for number in range(1, 101)]
    lines = render.history(story, most=most)
    shown = [line for line in lines if line.startswith("#")]
    (gap,) = (line for line in lines if not line.startswith("#"))
    assert len(shown) == 2 * (most // 2)
    assert gap == f"…    {100 - len(shown)} more changes"
    if shown:
        assert shown[0].startswith("#1 ")
        assert shown[-1].startswith("#100 ")
    assert len(render.history(story, most=100)) == 100


def test_a_page_and_a_table() -> None:
    assert render.page("title", [("a", ["1", "2"]), ("longer", ["3"]), ("none", [])]) == (
        "title\n  a       1\n          2\n  longer  3"
    )
    assert render.page("title", []) == "title"
    assert render.table([["a", "bb"], ["ccc", "d"]]) == ["a    bb", "ccc  d"]


def test_changes_can_be_gone_through_and_counted() -> None:
    changes = Changes((change(1), change(2)), 7)
    assert [each.revision for each in changes] == [1, 2]
    assert (len(changes), changes.cursor) == (2, 7)
    assert hash(change(metadata={"a": 1})) == hash(change(metadata={"a": 1}))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.05, "0.05 s"),
        (59.94, "59.9 s"),
        (60, "1 min 0 s"),
        (200.9, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (7_500, "2 h 5 min"),
        (86_400 * 4 + 3 * 3600, "4 d 3 h"),
        (86_400 * 1234, "1,234 d 0 h"),
        (-12, "-12.0 s"),
        (-200, "-3 min 20 s"),
        (-7_500, "-2 h 5 min"),
    ],
)
def test_a_span_as_people_say_it(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_how_long_ago() -> None:
    assert render.ago(200) == "3 min 20 s ago"
    assert render.ago(-27) == "in 27.0 s"
    assert render.ago(0.0426) == "0.0 s ago"
    assert render.ago(-0.0426) == "0.0 s ago"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (59.999, "60.0 s"),
        (61, "1 min 1 s"),
        (3599.9, "59 min 59 s"),
        (3600 + 59, "1 h 0 min"),
        (3600 + 60, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (86_400, "1 d 0 h"),
        (86_400 + 3_599, "1 d 0 h"),
        (86_400 + 3_600, "1 d 1 h"),
        (-60, "-1 min 0 s"),
        (-86_400, "-1 d 0 h"),
    ],
)
def test_where_one_unit_ends_and_the_next_begins(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_short_spans_have_as_many_digits_as_they_need() -> None:
    spans = [0.1, 0.0999, 0.09996, -0.05, -0.1, -27, 0.04321]
    assert [render.span(seconds) for seconds in spans] == [
        "0.1 s",
        "0.0999 s",
        "0.1 s",
        "-0.05 s",
        "-0.1 s",
        "-27.0 s",
        "0.0432 s",
    ]
    assert [render.ago(seconds) for seconds in (0, -0.0, 0.05, 0.06, -0.06, -200)] == [
        "0.0 s ago",
        "0.0 s ago",
        "0.1 s ago",
        "0.1 s ago",
        "in 0.1 s",
        "in 3 min 20 s",
    ]


def test_a_history_is_told_in_columns() -> None:
    story = [change(1, previous=None), change(1000), change(20_000, status=COMPLETE)]
    assert render.history(story) == [
        "#1          +0.0 s  pending",
        "#1000     +999.0 s  error cleared",
        "#20000 +19,999.0 s  pending -> complete",
    ]


def test_what_an_error_is_worth_telling() -> None:
    for each, text in (
        (change(status=PROCESSING, error="e"), "pending -> processing"),
        (change(previous=COMPLETE, status=COMPLETE, error="e", metadata={"a": 1}),
         "metadata a, error e"),
        (change(previous=PENDING, metadata={"a": 1}, error="e"), "metadata a"),
        (change(error="x" * 130), f"error {'x' * 119}…"),
        (change(previous=None, error="e"), "pending"),
        (change(append="", content_length=0), "content 0"),
    ):  # fmt: skip
        assert render.what_changed(each) == text
    assert render.shorten("a b c", 4) == "a b…"
    assert render.shorten("a b c", 5) == "a b c"


def test_columns_of_a_table_have_no_tail() -> None:
    assert render.table([["name", "x"], ["a", "long one"], ["longer", ""]]) == [
        "name    x",
        "a       long one",
        "longer",
    ]


def test_a_table_of_a_head_only_and_one_with_a_cell_too_many() -> None:
    assert render.table([["a", "b"]]) == ["a  b"]
    with pytest.raises(ValueError, match="zip"):
        render.table([["a"], ["b", "c"]])


def test_forty_changes_are_told_and_of_more_a_part() -> None:
    story = [change(number, append="x") for number in range(1, 42)]
    assert len(render.history(story[:40])) == 40
    assert render.history(story)[20] == "…    1 more changes"
