"""status, pending, threads, show and timeline: the same on every store, as words and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, Message, MessageStatus, open_store
from pytest_claude_comms.testing import FakeClock

from .conftest import Run, Valid

pytestmark = pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])


@pytest.fixture
def filled(store: ConversationStore, clock: FakeClock) -> ConversationStore:
    """Two threads; a message of each status; an hour."""
    store.create_thread(
        "PDF schema", modules=["marker", "arangodb"], thread_id="pdf", metadata={"topic": "pdf"}
    )
    store.create_thread("", thread_id="empty")
    store.add_message("pdf", "marker", "Which *fields*?", message_type="question", message_id="q")
    for name in ("ok", "bad", "slow", "dropped", "stuck", "working"):
        store.add_message(
            "pdf",
            "arangodb",
            status="pending",
            message_type="answer",
            message_id=f"answer-{name}",
            timeout=600 if name in ("slow", "stuck") else None,
            stall_timeout=60 if name == "working" else None,
        )
        clock.advance(1)
    for name in ("ok", "bad", "working"):
        store.update_message(f"answer-{name}", status="processing")
    for _ in range(3):
        clock.advance(2)
        store.update_message("answer-ok", append="_key ")
    store.update_message("answer-ok", status="complete", metadata={"cost_usd": 0.25})
    store.update_message("answer-bad", status="failed", error="the API said no")
    store.update_message("answer-dropped", status="cancelled")
    store.update_message("answer-slow", status="timeout")
    store.update_message("answer-working", append="so far")
    return store


# -- status


def test_the_status_of_a_store(run: Run, filled: ConversationStore) -> None:
    result = run("status", store=filled)
    lines = result.out.splitlines()
    assert result.code == 0
    assert lines[0] == f"store     {filled.url} (revision {filled.cursor()})"
    assert lines[1] == "threads   2"
    assert lines[2] == (
        "messages  7: 1 pending, 1 processing, 2 complete, 1 failed, 1 timeout, 1 cancelled"
    )
    assert lines[3] == ""
    # The latest first.
    assert [line.split()[0] for line in lines[4:]] == [
        "MESSAGE",
        "answer-working",
        "answer-slow",
        "answer-dropped",
        "answer-bad",
        "answer-ok",
    ]
    assert "overdue" not in result.out


def test_what_is_overdue_is_said_and_not_settled(
    run: Run, filled: ConversationStore, clock: FakeClock
) -> None:
    cursor = filled.cursor()
    clock.advance(59)
    assert "overdue" not in run("status", store=filled).out
    clock.advance(1)  # the stall timeout
    assert "overdue   1: see 'claude-comms pending --overdue'" in run("status", store=filled).out
    clock.advance(600)
    assert "overdue   2:" in run("status", store=filled).out
    assert run("status", "--json", store=filled).document["overdue"] == 2
    assert filled.cursor() == cursor


def test_how_many_of_the_latest(run: Run, filled: ConversationStore) -> None:
    assert len(run("status", "--latest", "2", store=filled).out.splitlines()) == 7
    assert len(run("status", "--latest", "0", store=filled).out.splitlines()) == 3
    assert len(run("status", "--latest", "100", store=filled).out.splitlines()) == 12
    assert run("status", "--latest", "-1", store=filled).code == 2


@pytest.mark.parametrize("given", ["x", "-1", "1.5", "", "1_0", "9" * 5_000, "٣"])
def test_what_is_no_number_of_the_latest(run: Run, filled: ConversationStore, given: str) -> None:
    result = run("status", "--latest", given, store=filled)
    assert (result.code, result.out) == (2, "")
    assert f"'--latest': {given!r} is no whole number from 0 on" in result.err


def test_the_status_of_an_empty_store(run: Run, store: ConversationStore) -> None:
    assert run("status", store=store).out.splitlines()[1:] == ["threads   0", "messages  0"]


def test_the_status_of_a_message(run: Run, filled: ConversationStore, clock: FakeClock) -> None:
    clock.advance(200)
    text = run("status", "answer-ok", store=filled).out
    assert text.startswith("message answer-ok\n")
    facts = {line[2:12].strip(): line[12:] for line in text.splitlines()[1:]}
    assert facts["thread"] == '  pdf "PDF schema"'.removeprefix("  ")
    assert facts["status"].startswith("complete, 2026-01-01T00:00:12Z (3 min 20 s ago)")
    assert facts["created"].startswith("2026-01-01T00:00:00Z")
    assert facts["deadline"] == "none"
    assert facts["content"] == "15 characters"
    assert facts["metadata"] == "cost_usd: 0.25"
    assert "pending -> processing" in text
    assert "hint" not in text
    assert "error     the API said no" in run("status", "answer-bad", store=filled).out


def test_the_status_of_an_open_message_has_a_hint_once_it_is_overdue(
    run: Run, filled: ConversationStore, clock: FakeClock
) -> None:
    text = run("status", "answer-stuck", store=filled).out
    assert "status    pending for 8.0 s" in text
    assert "(in 9 min 52 s)" in text
    assert "hint" not in text
    clock.advance(3600)
    text = run("status", "answer-stuck", store=filled).out
    assert "hint      its deadline has passed and nobody has noticed" in text
    assert "claude-comms expire" in text


def test_the_status_of_a_thread(run: Run, filled: ConversationStore) -> None:
    text = run("status", "pdf", store=filled).out
    assert text.startswith("thread pdf\n")
    for line in (
        "  title     PDF schema",
        "  modules   marker, arangodb",
        '  metadata  topic: "pdf"',
        "  messages  1 pending, 1 processing, 2 complete, 1 failed, 1 timeout, 1 cancelled",
    ):
        assert line in text.splitlines()
    assert [line.split()[0] for line in text.splitlines()[-7:]] == [
        m.message_id for m in filled.messages("pdf")
    ]
    assert run("status", "empty", store=filled).out.splitlines()[-1] == "  messages  none"


# -- pending


def words_of(text: str) -> list[str]:
    return text.split()


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines()[1:]}


def test_what_is_pending(run: Run, filled: ConversationStore, clock: FakeClock) -> None:
    result = run("pending", store=filled)
    assert result.err == ""
    found = rows(result.out)
    assert list(found) == ["answer-stuck", "answer-working"]
    words = found["answer-stuck"].split()
    # age, quiet and left: 8 s, 8 s, 592 s
    assert words[1:] == ["pending", *words_of("8.0 s 8.0 s 9 min 52 s arangodb pdf")]
    assert found["answer-working"].split()[1:] == [
        "processing",
        *words_of("7.0 s 0.0 s 1 min 0 s arangodb pdf"),
    ]


def test_a_stalled_one_an_overdue_one_and_one_without_a_deadline(
    run: Run, store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="free")
    store.add_message("t", "m", status="pending", message_id="late", timeout=90)
    store.add_message("t", "m", status="pending", message_id="slow", timeout=900)
    assert "no deadline" in rows(run("pending", store=store).out)["free"]
    clock.advance(60)
    assert "stalled" not in run("pending", store=store).out
    clock.advance(40)
    cursor = store.cursor()
    result = run("pending", store=store)
    found = rows(result.out)
    assert "  stalled, no deadline  " in found["free"]
    assert "  overdue  " in found["late"]
    assert "  -10.0 s  " in found["late"]
    assert "  stalled  " in found["slow"]
    assert [line.partition(":")[0] for line in result.err.splitlines()] == [
        "overdue",
        "stalled",
        "stalled, no deadline",
    ]
    assert "'claude-comms expire' settles it" in result.err
    assert "'claude-comms cancel MESSAGE' ends it" in result.err
    assert run("pending", "-q", store=store).err == ""
    assert "stalled" not in run("pending", "--stalled-after", "1000", store=store).out
    assert list(rows(run("pending", "--overdue", store=store).out)) == ["late"]
    assert store.cursor() == cursor
    # And that is what settles it.
    store.expire()
    assert list(rows(run("pending", store=store).out)) == ["free", "slow"]


def test_at_its_deadline_a_message_is_overdue(
    run: Run, store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="late", timeout=90)
    clock.advance(89)
    assert run("pending", "--overdue", "--json", store=store).document["messages"] == []
    clock.advance(1)
    (found,) = run("pending", "--overdue", "--json", store=store).document["messages"]
    assert (found["left_s"], found["overdue"]) == (0, True)
    assert [message.message_id for message in store.expire()] == ["late"]


def test_nothing_is_pending(run: Run, store: ConversationStore) -> None:
    result = run("pending", store=store)
    assert (result.code, result.out, result.err) == (0, "", "nothing is pending\n")
    assert run("pending", "--overdue", store=store).err == "nothing is overdue\n"
    assert run("pending", "--quiet", store=store).err == ""


# -- threads


def test_the_threads(run: Run, filled: ConversationStore) -> None:
    lines = run("threads", store=filled).out.splitlines()
    assert [line.split()[0] for line in lines] == ["THREAD", "pdf", "empty"]
    assert lines[1].endswith("  marker, arangodb  PDF schema")
    assert "1 pending, 1 processing, 2 complete" in lines[1]
    assert "none" in lines[2]
    with open_store("memory:") as nothing:
        result = run("threads", store=nothing)
    assert (result.code, result.out, result.err) == (0, "", "there are no threads\n")


# -- show


def test_a_thread_is_shown(run: Run, filled: ConversationStore) -> None:
    text = run("show", "pdf", store=filled).out
    assert text.startswith('thread pdf "PDF schema"\n')
    assert "\nmarker  complete  question  2026-01-01T00:00:00Z  q\n\nWhich *fields*?\n" in text
    assert "\n_key _key _key \n" in text
    assert "failed: the API said no" in text
    assert "so far\n… 6 characters so far, no change for 0.0 s\n" in text
    assert text.count("so far, no change") == 2


def test_one_message_is_shown(run: Run, filled: ConversationStore) -> None:
    text = run("show", "answer-ok", store=filled).out
    assert text.startswith("thread pdf")
    assert "_key _key _key" in text
    assert "Which" not in text


def test_raw_is_the_text_and_nothing_else(run: Run, filled: ConversationStore) -> None:
    assert run("show", "answer-ok", "--raw", store=filled).out == "_key _key _key \n"
    filled.add_message("empty", "m", "two\nlines\n", message_id="m1")
    filled.add_message("empty", "m", "\x1b[31mred", message_id="m2")
    assert run("show", "empty", "--raw", store=filled).out == "two\nlines\n\n\x1b[31mred\n"
    assert run("show", "empty", "--raw", "--json", store=filled).code == 2


# -- timeline


def test_the_timeline_of_a_thread(run: Run, filled: ConversationStore) -> None:
    text = run("timeline", "pdf", store=filled).out
    above, _, below = text.partition("REVISION")
    bars = {line.split()[0]: line for line in above.splitlines()[2:] if line}
    assert bars["MESSAGE"].endswith("0 to 12.0 s")
    drawn = {name: line[-1] for name, line in bars.items()}
    assert drawn == {
        "MESSAGE": "s",
        "q": "C",
        "answer-ok": "C",
        "answer-bad": "F",
        "answer-slow": "T",
        "answer-dropped": "X",
        "answer-stuck": ".",
        "answer-working": "=",
    }
    # Six of twelve seconds pending, six processing.
    bar = bars["answer-ok"].split()[-1]
    assert abs(bar.count(".") - bar.count("=")) <= 2
    assert "#1" in below
    assert "complete, content 15" in below
    # Pieces that follow each other are one line.
    assert "content 15 in 3 pieces, 4.0 s" in below


def test_each_change_of_it(run: Run, filled: ConversationStore) -> None:
    every = run("timeline", "answer-ok", "--all", store=filled).out.partition("REVISION")[2]
    assert [line.split()[-2:] for line in every.splitlines()[1:6]] == [
        ["answer-ok", "pending"],
        ["->", "processing"],
        ["content", "5"],
        ["content", "10"],
        ["content", "15"],
    ]
    assert "pieces" not in every
    assert "answer-bad" not in every
    summed = run("timeline", "answer-ok", store=filled).out.partition("REVISION")[2]
    assert len(summed.splitlines()) == len(every.splitlines()) - 2


def test_the_timeline_of_an_empty_thread(run: Run, filled: ConversationStore) -> None:
    result = run("timeline", "empty", store=filled)
    assert (result.code, result.out, result.err) == (0, "thread empty\n", "it has no messages\n")


def test_steps_that_were_trimmed_are_said_to_be(
    run: Run, store: ConversationStore, clock: FakeClock, tmp_path: Path
) -> None:
    store.create_thread(thread_id="t")
    for name in ("a", "b"):
        store.add_message("t", "m", status="pending", message_id=name)
        clock.advance(2)
        store.update_message(name, status="processing")
        clock.advance(3)
        store.update_message(name, status="complete")
    store.add_message("t", "m", status="pending", message_id="c")
    gone = "the steps before are gone: 'compact' has trimmed the history\n"
    page = tmp_path / "page.html"
    for command in (("timeline", "a"), ("timeline", "t"), ("status", "a")):
        result = run(*command, store=store)
        assert "gone" not in result.out + result.err
    run("timeline", "t", "--html", str(page), store=store)
    assert "gone" not in page.read_text()

    store.compact(keep=1)

    one = run("timeline", "a", store=store)
    assert one.err == f"a: {gone}"
    assert one.out.splitlines()[-1].split()[1:] == [
        "+5.0",
        "s",
        "a",
        "processing",
        "->",
        "complete",
    ]
    assert f"a and 1 more: {gone}" in run("timeline", "t", store=store).err
    shown = run("status", "a", store=store).out
    assert "+5.0 s  processing -> complete\n" in shown
    assert shown.endswith(f" {gone}")
    assert "gone" not in run("status", "c", store=store).out
    run("timeline", "t", "--html", str(page), store=store)
    assert page.read_text().count("the steps before are gone") == 2


def test_a_clock_that_was_set_back(run: Run, store: ConversationStore) -> None:
    """Times of another machine may lie before the first."""
    from datetime import timedelta

    from pytest_claude_comms.cli.history import ThreadHistory, of_thread
    from pytest_claude_comms.cli.timeline_text import bars, steps

    thread = store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="a")
    found = of_thread(store, thread)
    earlier = store.clock.now() - timedelta(hours=1)
    assert bars(found, earlier, 80)[1][2:] == ["0.0 s", "."]
    assert len(steps(found, every=False)) == 2
    nothing = ThreadHistory(thread, found.messages, ())
    assert len(steps(nothing, every=False)) == 1
    assert bars(nothing, earlier, 80)[1][3] == "."


# -- JSON


DOCUMENTS = {
    "status": ["status"],
    "message": ["status", "answer-ok"],
    "thread": ["status", "pdf"],
    "pending": ["pending"],
    "threads": ["threads"],
    "timeline": ["timeline", "pdf"],
}


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_each_document_is_as_the_schema_says(
    run: Run, valid: Valid, filled: ConversationStore, kind: str
) -> None:
    result = run(*DOCUMENTS[kind], "--json", store=filled)
    assert (result.code, result.err) == (0, "")
    valid(result.document)
    assert (result.document["schema"], result.document["kind"]) == (1, kind)
    assert result.out.isascii()


@pytest.mark.parametrize("argv", [["show", "empty"], ["show", "pdf"], ["timeline", "empty"]])
def test_more_documents(run: Run, valid: Valid, filled: ConversationStore, argv: list[str]) -> None:
    valid(run(*argv, "--json", store=filled).document)


def test_empty_documents(run: Run, valid: Valid, store: ConversationStore) -> None:
    for name in ("status", "pending", "threads"):
        valid(run(name, "--json", store=store).document)


def test_the_schema_refuses_what_is_not_so(
    run: Run, valid: Valid, filled: ConversationStore
) -> None:
    from jsonschema import ValidationError

    document = run("status", "answer-ok", "--json", store=filled).document
    wrong: list[dict[str, Any]] = [
        {**document, "schema": 2},
        {**document, "more": 1},
        {key: value for key, value in document.items() if key != "message"},
        {**document, "message": {**document["message"], "status": "unknown"}},
        {**document, "message": {**document["message"], "created_at": "2026-01-01"}},
    ]
    for each in wrong:
        with pytest.raises(ValidationError):
            valid(each)


def test_json_says_what_the_store_says(run: Run, filled: ConversationStore) -> None:
    found = run("show", "pdf", "--json", store=filled).document["messages"]
    for document, message in zip(found, filled.messages("pdf"), strict=True):
        assert_same(document, message)
    counts = run("status", "--json", store=filled).document["counts"]
    assert counts == {
        status.value: len(filled.messages(status=status))
        for status in MessageStatus
        if status is not MessageStatus.UNKNOWN
    }
    changes = run("timeline", "pdf", "--json", store=filled).document["changes"]
    assert [change["revision"] for change in changes] == [c.revision for c in filled.changes()]
    assert [change["append"] for change in changes] == [c.append for c in filled.changes()]


def assert_same(document: dict[str, Any], message: Message) -> None:
    assert document["content"] == message.content
    assert document["status"] == message.status
    assert document["metadata"] == message.metadata
    assert document["revision"] == message.revision
    assert document["created_at"] == message.created_at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_the_content_is_left_out_where_there_are_many(run: Run, filled: ConversationStore) -> None:
    for argv in (["status"], ["status", "pdf"], ["pending"], ["timeline", "pdf"]):
        text = run(*argv, "--json", store=filled).out
        assert '"content_length"' in text
        listed = run(*argv, "--json", store=filled).document
        messages = listed.get("latest") or listed["messages"]
        assert all("content" not in (each.get("message") or each) for each in messages)


def test_a_history_ends_where_its_message_does(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others write meanwhile: what was read of a message and what happened to it must agree."""
    from pytest_claude_comms.cli.history import of_thread

    thread = store.create_thread(thread_id="t")
    for name in ("a", "b"):
        store.add_message("t", "m", status="processing", message_id=name)
    store.update_message("a", append="x")
    before = type(store).changes

    def meanwhile(self: ConversationStore, *args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(type(store), "changes", before)
            self.update_message("a", append="y")
            self.update_message("b", append="y")
            return before(self, *args, **kwargs)

    monkeypatch.setattr(type(store), "changes", meanwhile)
    found = of_thread(store, thread)
    assert [message.content for message in found.messages] == ["x", ""]
    assert [(c.revision, c.message_id) for c in found.changes] == [(1, "a"), (2, "b"), (3, "a")]


def test_what_is_summed_is_of_one_message_and_nothing_but_text(
    run: Run, store: ConversationStore
) -> None:
    store.create_thread(thread_id="t")
    for name in ("a", "b"):
        store.add_message("t", "m", status="processing", message_id=name)
    store.update_message("a", append="1")
    store.update_message("b", append="1")
    store.update_message("b", append="2")
    store.update_message("b", append="3", metadata={"k": 1})
    store.update_message("b", append="4")
    below = run("timeline", "t", store=store).out.partition("REVISION")[2]
    assert [line.split()[0] for line in below.splitlines()[1:]] == [
        "#1",
        "#2",
        "#3",
        "#4",
        "#6",
        "#7",
    ]
    assert "content 2 in 2 pieces" in below


def test_a_change_from_before_the_first_message(store: ConversationStore, clock: FakeClock) -> None:
    """Of another machine, whose clock is behind; it stands at the beginning."""
    from dataclasses import replace
    from datetime import timedelta

    from pytest_claude_comms.cli.history import of_thread
    from pytest_claude_comms.cli.timeline_text import bars

    thread = store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="a")
    clock.advance(10)
    store.update_message("a", status="processing")
    found = of_thread(store, thread)
    early = replace(found.changes[1], at=found.changes[0].at - timedelta(seconds=3))
    found = replace(found, changes=(found.changes[0], early))
    assert set(bars(found, clock.now(), 80)[1][3]) == {"="}


def test_what_is_overdue_is_said_to_be(
    run: Run, store: ConversationStore, clock: FakeClock
) -> None:
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="late", timeout=5)
    store.add_message("t", "m", status="pending", message_id="free")
    clock.advance(6)
    for command in ("show", "timeline"):
        said = run(command, "t", store=store)
        assert "its deadline has passed: 'claude-comms expire' settles it" in said.out + said.err
        assert "no deadline" in said.out + said.err
    assert "stalled" not in run("pending", "--stalled-after", "5m", store=store).out
    assert run("pending", "--stalled-after", "nan", store=store).code == 2


def test_a_long_block_of_code_is_shown_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console
    from rich.markdown import CodeBlock

    from pytest_claude_comms.cli.markdown import _Markdown

    seen: list[str] = []

    def highlight(self: CodeBlock, *_: object) -> tuple[()]:
        seen.append(str(self.text))
        return ()

    monkeypatch.setattr(CodeBlock, "__rich_console__", highlight)
    console = Console(width=80)
    with console.capture() as shown:
        console.print(_Markdown("```perl\n" + "s{" * 16_000 + "\n```"))
    assert seen == []
    assert shown.get().count("s{") > 15_000
    console.print(_Markdown("```perl\ns{\n```"))
    assert len(seen) == 1
