"""``watch``: what changes, as it changes, for ten messages and for 10,000."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pytest_claude_comms import Change, ConversationStore, MessageStatus
from pytest_claude_comms.cli.board import Board, table
from pytest_claude_comms.cli.output import Output
from pytest_claude_comms.cli.safety import width
from pytest_claude_comms.testing import FakeClock
from tests.cli.conftest import COMMAND, Run, Valid, environment
from tests.cli.terminal import terminal
from tests.communication.kit import until


@pytest.fixture
def thread(store: ConversationStore) -> str:
    return store.create_thread("demo").thread_id


def test_history_first_then_each_change(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="m")
    store.add_message(thread, "arangodb", status="pending", message_id="other")
    clock.advance(1)
    store.update_message("m", status="processing")
    clock.at(3, store.update_message, "m", append="text")
    clock.at(3, store.update_message, "other", append="not asked for")
    clock.at(4, store.update_message, "m", status="failed", error="no \x1b[31mfields")

    result = run("watch", "m", store=store)

    assert result.code == 1
    assert result.out.splitlines() == [
        "2026-01-01T00:00:00Z  m  pending",
        "2026-01-01T00:00:01Z  m  pending -> processing",
        "2026-01-01T00:00:03Z  m  content 4",
        r"2026-01-01T00:00:04Z  m  processing -> failed, error no \x1b[31mfields",
    ]
    assert clock.elapsed == 4


def test_json_lines(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run, valid: Valid
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="a")
    store.add_message(thread, "arangodb", status="pending", message_id="b")
    clock.at(1, store.update_message, "b", status="complete", append="text")
    clock.at(2, store.update_message, "a", status="complete")

    result = run("watch", "a", "b", "--json", store=store)

    assert result.code == 0
    for document in result.documents:
        valid(document)
    shown = [(each["message_id"], each["event"], each["revision"]) for each in result.documents]
    assert shown == [
        ("a", "created", 1),
        ("b", "created", 2),
        ("b", "status", 3),
        ("a", "status", 4),
    ]


def test_a_message_that_does_not_exist_yet(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    clock.at(2, store.add_message, thread, "arangodb", message_id="later", status="pending")
    clock.at(3, store.update_message, "later", status="cancelled")

    result = run("watch", "later", store=store)

    assert result.code == 5
    assert len(result.out.splitlines()) == 2
    assert result.err == "no message has the id 'later': waiting for it to appear\n"


def test_what_ended_before_ends_it_at_once(store: ConversationStore, thread: str, run: Run) -> None:
    for name, status in (("a", "complete"), ("b", "timeout"), ("c", "failed")):
        store.add_message(thread, "arangodb", status=status, message_id=name)
    assert run("watch", "a", "b", "c", store=store).code == 4


def test_watching_settles_what_is_overdue(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="m", timeout=60)
    assert run("watch", "m", store=store).code == 4
    assert clock.elapsed == 60


@pytest.mark.skipif(os.name == "nt", reason="what a pipe says of its reader is POSIX's")
@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_reader_that_has_had_enough_ends_it_though_nothing_comes(
    store: ConversationStore, thread: str, tmp_path: Path
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="a")
    watching = subprocess.Popen(
        [*COMMAND, "watch", "--store", store.url],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout is not None
    assert watching.stdout.readline().endswith(b"  a  pending\n")
    watching.stdout.close()
    _, said = watching.communicate(timeout=20)
    assert (watching.returncode, said) == (141, b"")


def test_wrong_use(store: ConversationStore, thread: str, run: Run) -> None:
    assert run("watch", "--all", "m", store=store).code == 2
    for name in ("m1", "m2"):
        store.add_message(thread, "arangodb", message_id=name)
    assert run("watch", "m", store=store).code == 2  # which one?


@pytest.mark.parametrize("argv", [["watch"], ["watch", "--all"]])
def test_a_history_that_was_compacted(
    argv: list[str], store: ConversationStore, thread: str, tmp_path: Path
) -> None:
    store.add_message(thread, "marker", status="pending", message_id="ended")
    store.update_message("ended", status="complete")
    store.add_message(thread, "arangodb", status="pending", message_id="m")
    store.update_message("m", status="processing")
    store.compact(keep=1)
    with terminal(*argv, "--store", store.url, cwd=tmp_path) as screen:
        assert screen.shows("1 processing")
        assert ("1 complete" in screen.text) == (len(argv) == 2)
        store.update_message("m", status="failed")
        assert screen.shows("1 failed")
        os.kill(screen.process.pid, signal.SIGINT)
        assert screen.end() == 0


def test_a_table_follows_another_process(
    store: ConversationStore, thread: str, tmp_path: Path
) -> None:
    store.add_message(thread, "arangodb", status="complete", message_id="ended")
    store.add_message(thread, "aran\x1b[2Jgodb", status="pending", message_id="m")
    with terminal("watch", "--store", store.url, cwd=tmp_path) as screen:
        assert screen.shows("1 message: 1 pending")
        assert r"aran\x1b[2Jgodb" in screen.text
        store.update_message("m", status="processing", append="text")
        assert screen.shows("1 message: 1 processing")
        store.add_message(thread, "marker", status="pending", message_id="new")
        store.update_message("new", status="failed", error="no PDF")
        assert screen.shows("no PDF")
        os.kill(screen.process.pid, signal.SIGINT)
        assert screen.end() == 0
        assert screen.is_usable()
    assert "ended" not in screen.text


def test_a_table_ends_with_its_messages(
    store: ConversationStore, thread: str, tmp_path: Path
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="m")
    with terminal("watch", "m", "later", "--store", store.url, cwd=tmp_path) as screen:
        assert screen.shows("does not exist yet")
        store.update_message("m", status="complete")
        store.add_message(thread, "marker", message_id="later", status="timeout")
        assert screen.end() == 4
        assert screen.shows("2 messages: 1 complete, 1 timeout")


def test_more_than_fits(store: ConversationStore, thread: str, tmp_path: Path) -> None:
    for number in range(50):
        store.add_message(thread, "arangodb", status="pending", message_id=f"m{number:02}")
    store.update_message("m40", status="processing")
    with terminal("watch", "--store", store.url, cwd=tmp_path, lines=10) as screen:
        assert screen.shows("50 messages, 43 not shown: 49 pending, 1 processing")
        assert "m40" in screen.text
        assert "m06" not in screen.text
        before = len(screen.text)
        store.update_message("m30", status="processing")
        assert screen.shows("48 pending, 2 processing")
        # A change that nobody can see draws nothing but, once a second, ages.
        assert until(lambda: "m30" in screen.text[before:])
        screen.process.send_signal(signal.SIGTERM)
        assert screen.end() == 143


# -- the fold, and what is drawn of it


def change(message: str, revision: int, status: str, previous: str | None = None) -> Change:
    return Change(
        revision=revision,
        message_id=message,
        thread_id="t",
        at=datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=revision),
        previous=None if previous is None else MessageStatus(previous),
        status=MessageStatus(status),
    )


def test_what_happens_now_comes_first_where_not_all_fits() -> None:
    board = Board()
    for revision, (name, status) in enumerate(
        [("a", "pending"), ("b", "complete"), ("c", "processing"), ("d", "pending")], 1
    ):
        board.take(change(name, revision, status))
    board.take(change("e", 5, "complete"))
    board.take(change("a", 6, "complete", "pending"))

    assert [row.message_id for row in board.visible(5)] == ["a", "b", "c", "d", "e"]
    assert [row.message_id for row in board.visible(4)] == ["c", "d", "a", "e"]
    assert board.summary(1) == "5 messages, 1 not shown: 1 pending, 1 processing, 3 complete"
    assert not board.all_ended
    board.forget_ended()
    assert [row.message_id for row in board.visible(9)] == ["c", "d"]


def test_a_change_counts_once() -> None:
    board = Board(["a"])
    assert board.summary(0) == "1 message: 1 unknown"
    assert board.take(change("a", 2, "processing"))
    assert not board.take(change("a", 2, "processing"))
    assert not board.take(change("a", 1, "pending"))
    assert board.rows["a"].status == "processing"
    assert not board.all_ended
    board.take(change("a", 3, "failed", "processing"))
    assert board.all_ended


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 140, 200])
@pytest.mark.parametrize("name", ["short", "日本語" * 30, "a" * 1000])
def test_no_row_is_as_wide_as_the_terminal(columns: int, name: str) -> None:
    board = Board(["unknown"])
    board.take(change(name, 1, "processing"))
    board.rows[name].module = "module\x1b[2J" * 9
    last = change(name, 1, "processing").at + timedelta(days=3)

    shown = table(Output(), board.visible(9), last, columns)

    assert len(shown) == 3
    for text, cells in shown:
        assert width(text) == cells < columns
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("columns", "heads"),
    [
        (140, ["MESSAGE", "THREAD", "MODULE", "STATUS", "TIME", "CHARS", "LAST CHANGE"]),
        (92, ["MESSAGE", "MODULE", "STATUS", "TIME", "CHARS", "LAST CHANGE"]),
        (80, ["MESSAGE", "STATUS", "TIME", "CHARS", "LAST CHANGE"]),
        (60, ["MESSAGE", "STATUS", "TIME", "CHARS", "LAST CHANGE"]),
        (50, ["MESSAGE", "STATUS", "TIME", "LAST CHANGE"]),
        (40, ["MESSAGE", "STATUS", "LAST CHA…"]),
    ],
)
def test_what_happened_last_leaves_a_narrow_terminal_last(columns: int, heads: list[str]) -> None:
    board = Board()
    board.take(change("f" * 16, 1, "processing"))
    board.rows["f" * 16].thread_id = "e" * 16
    board.rows["f" * 16].module = "arangodb"
    at = change("f", 1, "processing").at + timedelta(seconds=3)
    shown = table(Output(), board.visible(9), at, columns)
    assert re.split(r"  +", shown[0][0].strip()) == heads
    assert "3 s ago" in shown[1][0]
    assert "f" * 16 in shown[1][0]


def test_only_ages_of_what_goes_on_change_with_time() -> None:
    board = Board()
    board.take(change("a", 1, "pending"))
    at = change("a", 1, "pending").at
    young = table(Output(), board.visible(9), at + timedelta(seconds=3), 120)
    older = table(Output(), board.visible(9), at + timedelta(seconds=4), 120)
    assert young != older
    hours = table(Output(), board.visible(9), at + timedelta(hours=3), 120)
    assert hours == table(Output(), board.visible(9), at + timedelta(hours=3, minutes=5), 120)
