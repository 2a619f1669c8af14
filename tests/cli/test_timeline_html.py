"""The picture: what is in it, that nothing gets out of it, and that it needs nothing."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_claude_comms import ConversationStore
from pytest_claude_comms.cli.history import of_thread
from pytest_claude_comms.cli.timeline_html import page
from pytest_claude_comms.cli.timeline_scale import Scale
from pytest_claude_comms.testing import FakeClock, play_transcript
from tests.cli.conftest import ROOT, Run

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
HOSTILE = "</pre></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>\x1b[31m\u202e"
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "ul", "li", "i", "b", "p"),
    *("section", "div", "a", "span", "small", "svg", "path", "details", "summary", "pre"),
    "blockquote",
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "class", "title", "style", "href", "id"),
    *("viewbox", "preserveaspectratio", "aria-hidden", "d", "dir"),
}


class Reader(HTMLParser):
    """All elements and attributes; that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "path"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [each for _, each in self.found if name in (each.get("class") or "").split()]


def drawn(store: ConversationStore) -> str:
    return page("A page", [of_thread(store, thread) for thread in store.threads()])


def test_a_page_without_threads() -> None:
    assert "There is no thread yet" in "".join(Reader(page("A page", [])).words)


def test_a_lane_for_each_message(clock: FakeClock, store: ConversationStore) -> None:
    thread = store.create_thread("PDF", modules=["marker", "arangodb"])
    store.add_message(thread, "marker", "Which fields?", message_type="question")
    store.add_message(thread, "arangodb", status="pending", message_id="m", timeout=60)
    for second in range(1, 11):
        clock.at(second, store.update_message, "m", status="processing", append="word ")
    again = {"attempt": 1, "max_retries": 3, "error_status": 529, "error": "overloaded"}
    clock.at(3.5, store.update_message, "m", metadata={"retry": again, "retries": 1})
    clock.at(11, store.update_message, "m", content="word")
    clock.at(12, store.update_message, "m", status="complete")
    clock.advance(12)
    store.add_message(thread, "yql", status="processing", stall_timeout=500)
    store.add_message(thread, "late", status="pending", timeout=2)
    clock.advance(4)
    store.expire()

    read = Reader(drawn(store))

    assert len(read.of_class("lane")) == 4
    bars = [each["title"] for each in read.of_class("bar")]
    assert "+0.0 s pending for 1.0 s, arangodb" in bars
    assert "+1.0 s processing for 11.0 s, arangodb" in bars
    assert "+12.0 s processing until now, yql" in bars
    assert len(read.of_class("end")) == 3
    (retry,) = [each for each in read.of_class("retry") if "title" in each]
    assert retry["title"] == "+3.5 s asked the API again attempt 1 of 3; 529, overloaded"
    (back,) = read.of_class("back")
    assert back["title"] == "+11.0 s 46 characters taken back"
    titles = [each["title"] for each in read.of_class("deadline") if "title" in each]
    # Of the one that is complete it would say no more what was going to happen.
    assert titles == ["deadline +512.0 s, beyond this", "deadline +14.0 s"]
    words = "".join(read.words)
    assert re.search(r"#2 +\+0\.0 s  pending", words)
    assert "thread" in words
    assert "between marker, arangodb" in words


def test_nothing_gets_out(clock: FakeClock, store: ConversationStore) -> None:
    thread = store.create_thread(HOSTILE, modules=[HOSTILE], thread_id=HOSTILE)
    store.add_message(
        thread,
        HOSTILE,
        HOSTILE * 500,
        message_type=HOSTILE,
        message_id=HOSTILE,
        status="pending",
        metadata={HOSTILE: HOSTILE},
    )
    store.update_message(HOSTILE, metadata={"retry": {"error": HOSTILE, "attempt": HOSTILE}})
    store.update_message(HOSTILE, status="failed", error=HOSTILE)
    text = page(HOSTILE, [of_thread(store, thread)])

    read = Reader(text)

    assert {tag for tag, _ in read.found} <= ELEMENTS
    assert {name for _, attributes in read.found for name in attributes} <= ATTRIBUTES
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert all((each.get("href") or "#").startswith("#") for _, each in read.found)
    assert "url(" not in text
    assert "and 21,500 more" not in text  # counted as shown, not as escaped
    assert re.search(r"… and [\d,]+ characters more", text)


def test_it_says_itself_that_it_needs_nothing() -> None:
    read = Reader(page("A page", []))
    (policy,) = [each["content"] for _, each in read.found if "http-equiv" in each]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")
    assert "script" not in policy
    assert not [tag for tag, _ in read.found if tag in ("script", "link", "img", "iframe")]


@given(st.text(max_size=60))
def test_whatever_a_title_is(title: str) -> None:
    read = Reader(page(title, []))
    assert {tag for tag, _ in read.found} <= ELEMENTS


def test_recordings_of_the_true_cli(clock: FakeClock, store: ConversationStore) -> None:
    for path in sorted((ROOT / "fixtures/transcripts").glob("0*.jsonl"))[::5]:
        message = store.add_message(store.create_thread(path.stem), "claude", status="pending")
        play_transcript(path, store, message)
    Reader(drawn(store))


def test_a_long_history_stays_small(clock: FakeClock, store: ConversationStore) -> None:
    message = store.add_message(store.create_thread("long"), "claude", status="processing")
    for _ in range(3_000):
        store.update_message(message, append="word ")
    assert len(drawn(store)) < 60_000


# -- the axis


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def test_a_long_pause_is_cut_out() -> None:
    scale = Scale.of([(at(0), at(10)), (at(50_000), at(50_010))])
    ((left, right, seconds),) = scale.breaks()
    assert seconds == 49_990
    assert right - left == pytest.approx(4)
    assert 0 == scale.place(at(0)) < scale.place(at(10)) <= left < right
    assert right == pytest.approx(scale.place(at(50_000)))
    assert scale.place(at(50_010)) < 100


def test_what_is_under_way_is_no_pause() -> None:
    assert not list(Scale.of([(at(0), at(50_000)), (at(49_990), at(50_010))]).breaks())


MOMENTS = st.tuples(st.floats(0, 1e6), st.none() | st.floats(0, 1e6))


@given(st.lists(MOMENTS, min_size=1, max_size=12))
def test_time_never_goes_back(spans: list[tuple[float, float | None]]) -> None:
    known = [(at(begin), None if end is None else at(begin + end)) for begin, end in spans]
    scale = Scale.of(known)
    moments = sorted(moment for span in known for moment in span if moment is not None)
    places = [scale.place(moment) for moment in moments]
    assert places == sorted(places)
    assert all(0 <= place <= 100.001 for place in places)
    ticks = list(scale.ticks())
    assert ticks
    assert len(ticks) < 40
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)


@pytest.mark.parametrize("ending", ["", "-wal", "-shm", ".lock"])
def test_the_store_that_it_shows_is_not_written_over(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms import open_store
    from pytest_claude_comms.cli import main

    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///a.db") as store:
        store.create_thread("t", thread_id="t")
    argv = ["timeline", "t", "--store", "a.db", "--html"]
    assert main([*argv, f"a.db{ending}"]) == 2
    assert main([*argv, "page.html"]) == 0
    assert (tmp_path / "page.html").stat().st_mode & 0o077 == 0
    with open_store("sqlite:///a.db") as store:
        assert len(store.threads()) == 1


def test_a_place_that_cannot_be_written_is_named_as_it_was_given(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms import open_store

    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///a.db") as store:
        store.create_thread("t", thread_id="t")
    missing = run("timeline", "t", "--html", "none/page.html")
    assert (missing.code, missing.out) == (2, "")
    assert missing.err == (
        f"claude-comms: error: there is no folder {tmp_path / 'none'}: make it first\n"
    )

    def denied(*, dir: str, prefix: str) -> tuple[int, str]:  # noqa: A002 - as mkstemp has it
        raise PermissionError(13, "Permission denied", f"{dir}/{prefix}x")

    monkeypatch.setattr("tempfile.mkstemp", denied)  # root may write everywhere
    refused = run("timeline", "t", "--html", "page.html")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "claude-comms: error: page.html cannot be written: Permission denied; name another place, "
        "or '-' for standard output\n"
    )
    assert run("timeline", "t", "--html", "-").out.startswith("<!DOCTYPE html>")
