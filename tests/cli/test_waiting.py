"""``wait``, ``cancel``, ``expire``: how a message ended, and ending it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, open_store
from pytest_claude_comms.testing import FakeClock
from tests.cli.conftest import Run, Shell, Valid
from tests.cli.terminal import terminal


@pytest.fixture
def thread(store: ConversationStore) -> str:
    return store.create_thread("demo").thread_id


@pytest.mark.parametrize(
    ("status", "code"), [("complete", 0), ("failed", 1), ("timeout", 4), ("cancelled", 5)]
)
def test_wait_tells_how_it_ended(
    status: str,
    code: int,
    clock: FakeClock,
    store: ConversationStore,
    thread: str,
    run: Run,
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="m")
    clock.at(2, store.update_message, "m", status="processing", append="text")
    clock.at(5, store.update_message, "m", status=status)

    result = run("wait", "m", store=store)

    assert result.code == code
    assert result.out == f"m  {status}, 4 characters\n"
    assert clock.elapsed == 5


def test_patience_leaves_the_message_alone(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", status="processing", message_id="m")

    result = run("wait", "m", "--timeout", "1.5m", store=store)

    assert result.code == 8
    assert result.out == ""
    assert result.err == (
        "claude-comms: error: m has not ended within 90.0 s: processing, 0 characters\n"
    )
    assert clock.elapsed == 90
    assert store.get_message("m").status == "processing"


@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"], ["--any"]])
def test_what_has_ended_is_told_also_when_patience_ends(
    clock: FakeClock,
    store: ConversationStore,
    thread: str,
    run: Run,
    valid: Valid,
    options: list[str],
) -> None:
    for name, status in (("open", "pending"), ("done", "complete"), ("bad", "pending")):
        store.add_message(thread, "arangodb", status=status, message_id=name)
    clock.at(1, store.update_message, "bad", status="failed")

    result = run("wait", "done", "open", "bad", "--timeout", "5", *options, store=store)

    if options == ["--any"]:
        assert (result.code, result.out) == (0, "done  complete, 0 characters\n")
        return
    assert result.code == 8
    assert "open has not ended within 5.0 s: pending, 0 characters\n" in result.err
    if options == ["--json"]:
        for document in result.documents:
            valid(document)
        ended = [each["message"] for each in result.documents]
        assert [(m["message_id"], m["status"]) for m in ended] == [
            ("done", "complete"),
            ("bad", "failed"),
        ]
    elif options:
        assert result.out == ""
    else:
        assert result.out == "done  complete, 0 characters\nbad  failed, 0 characters\n"


def test_all_that_is_known_when_patience_ends_is_for_who_debugs(
    store: ConversationStore, thread: str, run: Run
) -> None:
    for name in ("a", "b", "c"):
        store.add_message(thread, "m", status="pending", message_id=name)
    store.update_message("b", status="failed")
    words = run("wait", "a", "b", "c", "d", "--may-come", "--timeout", "0", store=store)
    assert words.code == 8
    assert words.err == (
        "claude-comms: error: a has not ended within 0.0 s: pending, 0 characters; nor have 2 more "
        "of 4\n"
    )
    one = run("wait", "d", "--may-come", "--timeout", "0", store=store)
    assert one.err == "claude-comms: error: d has not ended within 0.0 s: it does not exist\n"
    page = run("wait", "a", "--timeout", "0", "--debug", store=store)
    assert page.code == 8
    assert "history  #1   +0.0 s  pending" in page.err
    assert page.err.endswith("a has not ended within 0.0 s: pending, 0 characters\n")


@pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])
def test_waiting_goes_on_when_the_history_is_trimmed(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "m", status="pending", message_id="m")

    def trim() -> None:
        for number in range(5):
            store.add_message(thread, "m", message_id=f"other {number}")
            store.update_message(f"other {number}", metadata={"a": 1})
            store.update_message(f"other {number}", metadata={"a": 2})
        assert store.compact(keep=0).trimmed > 3

    clock.at(2, trim)
    clock.at(4, store.update_message, "m", status="failed")
    assert run("wait", "m", store=store).code == 1
    assert clock.elapsed == 4


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_another_store_in_its_place_ends_a_wait(
    tmp_path: Path, clock: FakeClock, run: Run, scheme: str
) -> None:
    def made(name: str) -> str:
        return f"{scheme}:///{tmp_path}/{name}"

    def swap(store: Any) -> None:
        os.replace(tmp_path / "other", tmp_path / "s")
        store._hub.notify()  # on a fake clock nobody looks but who is told

    with open_store(made("other"), durability="process") as other:
        other.create_thread(thread_id="t")
        other.add_message("t", "m", status="pending", message_id="m")
    with open_store(made("s"), clock=clock, durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "m", status="pending", message_id="m")
        clock.at(2, swap, store)
        result = run("wait", "m", store=store)
    assert result.code == 6
    assert "gone" in result.err


def test_waiting_settles_what_is_overdue(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", status="pending", message_id="m", timeout=30)
    assert run("wait", "m", store=store).code == 4
    assert clock.elapsed == 30


def test_of_several_the_first_that_is_not_complete_decides(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    for name, at, status in (("a", 3, "complete"), ("b", 2, "cancelled"), ("c", 1, "failed")):
        store.add_message(thread, "arangodb", status="pending", message_id=name)
        clock.at(at, store.update_message, name, status=status)

    result = run("wait", "a", "b", "c", store=store)

    assert result.code == 5
    assert [row.split()[0] for row in result.out.splitlines()] == ["a", "b", "c"]
    assert clock.elapsed == 3


def test_any_is_the_first_to_end(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    for name, at, status in (("a", 3, "complete"), ("b", 1, "failed"), ("c", 1, "complete")):
        store.add_message(thread, "arangodb", status="pending", message_id=name)
        clock.at(at, store.update_message, name, status=status)

    result = run("wait", "a", "b", "c", "--any", store=store)

    assert (result.code, result.out.split()[0]) == (1, "b")
    assert clock.elapsed == 1


def test_a_message_that_is_to_come(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    assert run("wait", "later", store=store).code == 3
    clock.at(4, store.add_message, thread, "arangodb", message_id="later")
    assert run("wait", "later", "--may-come", store=store).code == 0
    assert clock.elapsed == 4


def test_ids_may_be_cut_short_and_come_twice(
    store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", message_id="answer-1")
    result = run("wait", "ans", "answer-1", store=store)
    assert (result.code, result.out) == (0, "answer-1  complete, 0 characters\n")


def test_wait_as_json(store: ConversationStore, thread: str, run: Run, valid: Valid) -> None:
    store.add_message(thread, "arangodb", "text", message_id="m", status="failed")
    result = run("wait", "m", "--json", store=store)
    valid(result.document)
    assert result.document["message"]["status"] == "failed"
    assert result.code == 1
    assert run("wait", "m", "--quiet", store=store).out == ""


def test_wait_says_on_a_terminal_what_it_waits_for(
    store: ConversationStore, thread: str, tmp_path: Path
) -> None:
    store.add_message(thread, "arangodb", "text", message_id="m", status="processing")
    with terminal("wait", "m", "--store", store.url, cwd=tmp_path) as screen:
        assert screen.shows("waiting for m: processing, 4 characters, 0 s")
        store.update_message("m", status="complete")
        assert screen.end() == 0
        assert screen.shows("m  complete, 4 characters")


def test_wrong_use(store: ConversationStore, run: Run) -> None:
    assert run("wait", store=store).code == 2
    assert run("wait", "m", "--timeout", "soon", store=store).code == 2
    assert run("wait", "m", "--timeout", "none", store=store).code == 2


# -- cancel


@pytest.mark.parametrize("status", ["pending", "processing", "cancelled"])
def test_cancel(status: str, store: ConversationStore, thread: str, run: Run) -> None:
    store.add_message(thread, "arangodb", message_id="m", status=status)
    result = run("cancel", "m", store=store)
    assert result.code == 0
    assert result.out == f"m  is cancelled{' already, and stays so' * (status == 'cancelled')}\n"
    assert store.get_message("m").status == "cancelled"


@pytest.mark.parametrize(("status", "code"), [("complete", 1), ("failed", 1), ("timeout", 4)])
def test_what_has_ended_stays(
    status: str, code: int, store: ConversationStore, thread: str, run: Run, valid: Valid
) -> None:
    store.add_message(thread, "arangodb", message_id="m", status=status)
    result = run("cancel", "m", "--quiet", store=store)
    assert (result.code, result.out) == (code, f"m  is {status} already, and stays so\n")
    assert store.get_message("m").status == status
    as_json = run("cancel", "m", "--json", store=store)
    valid(as_json.document)
    assert as_json.document["message"]["status"] == status


def test_cancel_several_with_a_reason(store: ConversationStore, thread: str, run: Run) -> None:
    for name in ("a", "b"):
        store.add_message(thread, "arangodb", message_id=name, status="pending")
    assert run("cancel", "a", "b", "--reason", "asked twice", store=store).code == 0
    assert [each.error for each in store.messages()] == ["asked twice", "asked twice"]
    assert run("cancel", "nobody", store=store).code == 3


def test_cancel_is_too_late_for_what_is_overdue(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", message_id="m", status="pending", timeout=5)
    clock.advance(6)
    assert run("cancel", "m", store=store).code == 4
    assert store.get_message("m").status == "timeout"


# -- expire


def test_expire(
    clock: FakeClock, store: ConversationStore, thread: str, run: Run, valid: Valid
) -> None:
    nothing = run("expire", store=store)
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "nothing is overdue\n")
    for name in ("a", "b"):
        store.add_message(thread, "aran\x1b[2Jgodb", message_id=name, status="pending", timeout=5)
    store.add_message(thread, "arangodb", message_id="c", status="pending", timeout=50)
    clock.advance(6)

    result = run("expire", store=store)

    assert result.code == 0
    assert [row.split()[:2] for row in result.out.splitlines()[1:]] == [
        ["a", "timeout"],
        ["b", "timeout"],
    ]
    assert "\x1b" not in result.out
    clock.advance(50)
    as_json = run("expire", "--json", store=store)
    valid(as_json.document)
    assert [each["message_id"] for each in as_json.document["messages"]] == ["c"]


def test_in_a_process_of_its_own(store: ConversationStore, thread: str, shell: Shell) -> None:
    store.add_message(thread, "arangodb", message_id="m", status="pending")
    assert shell("cancel", "m", "--store", store.url).code == 0
    assert shell("wait", "m", "--store", store.url).code == 5
    assert shell("expire", "--store", store.url).err == "nothing is overdue\n"


def test_what_cannot_be_stored_is_wrong_use(
    store: ConversationStore, thread: str, run: Run
) -> None:
    store.add_message(thread, "arangodb", message_id="m", status="pending")
    assert run("cancel", "m", "--reason", "\udcff", store=store).code == 2
    for given in ("", "a" * 1_001, "\udcff"):
        assert run("wait", "--may-come", given, "--timeout", "0", store=store).code == 2
    assert store.get_message("m").status == "pending"
