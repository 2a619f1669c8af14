"""A disk that fails while a store writes (RELIABILITY rows 2 and 4, T3; promise 4)."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest

from pytest_claude_comms import (
    ConversationStore,
    MessagePoller,
    SQLiteConversationStore,
    StoreError,
    check_store,
    open_store,
)
from pytest_claude_comms.stores.rules import ThreadRow
from pytest_claude_comms.testing import FakeClock, Faults
from pytest_claude_comms.testing.faults_disk import _descriptors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sqlite's part is for POSIX")
ERRORS = pytest.mark.parametrize("error", ["EIO", "ENOSPC"])


@pytest.fixture
def answer(store: ConversationStore) -> str:
    thread = store.create_thread()
    return store.add_message(thread, "a", status="processing", message_id="m").message_id


def skip_without_a_full_device(store: ConversationStore, error: str) -> None:
    if store.backend == "sqlite" and error == "ENOSPC" and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")


def text_of(store: ConversationStore) -> str:
    with open_store(store.url) as other:
        assert other.get_message("m") == store.get_message("m")
        assert other.changes().items == store.changes().items
    assert check_store(store.url).ok
    return store.get_message("m").content


@ERRORS
@pytest.mark.claude_comms(durability="power")
def test_the_write_fails_nothing_is_lost_and_the_next_works(
    store: ConversationStore, faults: Faults, answer: str, error: str
) -> None:
    skip_without_a_full_device(store, error)
    store.update_message(answer, append="one;")
    broken = faults.write_fails(store, error=error)
    with pytest.raises(StoreError) as caught:
        store.update_message(answer, append="lost;")
    assert type(caught.value) is StoreError
    assert ("full" in str(caught.value) or "No space" in str(caught.value)) == (error == "ENOSPC")
    assert broken.met == 1
    store.update_message(answer, append="two;")
    assert text_of(store) == "one;two;"
    assert [change.revision for change in store.changes()] == [1, 2, 3]


@ERRORS
def test_from_the_kth_on_until_it_is_undone(
    store: ConversationStore, faults: Faults, answer: str, error: str
) -> None:
    skip_without_a_full_device(store, error)
    kept, lost = [], []
    with faults.write_fails(store, at=3, error=error, forever=True) as broken:
        for number in range(6):
            try:
                store.update_message(answer, append=f"{number};")
                kept.append(number)
            except StoreError:
                lost.append(number)
            store.get_message(answer)
    assert (kept, lost) == ([0, 1], [2, 3, 4, 5])
    assert broken.met >= 4
    store.update_message(answer, append="6;")
    assert text_of(store) == "0;1;6;"


@pytest.mark.claude_comms(durability="power")
def test_at_every_write_in_turn(store: ConversationStore, faults: Faults, answer: str) -> None:
    """Until none is left: what has returned is kept, what has raised is not, or it says so."""
    wanted, k = "", 0
    while True:
        k += 1
        with faults.write_fails(store, at=k, may_miss=True) as broken:
            for part in (f"{k}a;", f"{k}b;"):
                outcome = "done"
                try:
                    store.update_message(answer, append=part)
                except StoreError as error:
                    outcome = error.outcome
                possible = {"done": (True,), "not done": (False,), "unknown": (True, False)}
                now = store.get_message(answer).content
                assert now in [wanted + part * is_kept for is_kept in possible[outcome]]
                wanted = now
        assert text_of(store) == wanted
        if not broken.met:
            break
    assert k > (2 if store.backend == "sqlite" else 4)


def test_the_error_is_the_systems_own(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    skip_without_a_full_device(store, "ENOSPC")
    faults.write_fails(store, error="ENOSPC")
    with pytest.raises(StoreError) as caught:
        store.update_message(answer, append="x")
    cause = caught.value.__cause__
    assert cause is not None
    if store.backend == "tinydb":
        assert isinstance(cause, OSError)
        assert cause.errno == errno.ENOSPC
        assert cause.filename == store.url.removeprefix("tinydb:///")
    else:
        assert "SQLITE_FULL" in str(caught.value) or not hasattr(cause, "sqlite_errorname")
        assert "database or disk is full" in str(cause)


def test_a_poller_goes_on(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    """A deadline that cannot be written down is settled once it can."""
    store.add_message(
        store.get_message(answer).thread_id, "a", status="pending", timeout=1, message_id="late"
    )
    broken = faults.write_fails(store, forever=True)
    clock.at(4, broken.undo)
    tracker = MessagePoller(store).wait("late", timeout=60)
    assert tracker.status == "timeout"
    assert 4 <= clock.elapsed < 4.1
    assert broken.met > 10


def test_other_stores_and_other_files_are_left_alone(
    store: ConversationStore, faults: Faults, answer: str, tmp_path: Path
) -> None:
    with (
        open_store(f"{store.backend}:///{tmp_path}/other") as other,
        faults.write_fails(store, forever=True),
    ):
        other.add_message(other.create_thread(), "a")
        (tmp_path / "file").write_text("x")
        with (tmp_path / "file").open("rb+") as file:
            os.write(file.fileno(), b"y")
            os.fsync(file.fileno())
        with pytest.raises(StoreError):
            store.update_message(answer, append="x")
        other.add_message(other.create_thread(), "a")
        assert len(other.messages()) == 2


def test_what_changes_nothing_is_no_write(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    broken = faults.write_fails(store, at=2)
    store.update_message(answer, status="processing")
    store.expire()
    store.messages()
    store.create_thread()
    store.update_message(answer, status="processing")
    assert not broken.met
    with pytest.raises(StoreError):
        store.create_thread()


@pytest.mark.claude_comms(stores=["sqlite"])
def test_what_was_rolled_back_is_no_write_either(
    store: SQLiteConversationStore, faults: Faults, answer: str
) -> None:
    broken = faults.write_fails(store)
    with pytest.raises(ZeroDivisionError), store._writing() as tx:
        tx.add_thread(ThreadRow(thread_id="t", title="", modules=(), metadata="{}", created_us=0))
        raise ZeroDivisionError
    store.update_message(answer, status="processing")
    assert not broken.met
    with pytest.raises(StoreError):
        store.create_thread()


def test_nothing_of_it_stays(store: ConversationStore, faults: Faults) -> None:
    store.create_thread()
    before = os.write, os.fsync, os.replace, os.ftruncate
    ending = "-wal" if store.backend == "sqlite" else ".lock"
    open_file = store.url.partition(":///")[2] + ending
    descriptors = _descriptors(open_file)
    with faults.write_fails(store), pytest.raises(StoreError):
        store.create_thread()
    assert (os.write, os.fsync, os.replace, os.ftruncate) == before
    assert "_commit" not in vars(store)
    assert descriptors
    store.create_thread()
    assert len(_descriptors(open_file)) == len(descriptors)
