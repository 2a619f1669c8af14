"""History that was trimmed: what goes, what stays, and who is told."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    MessagePoller,
    StoreClosed,
    StoreError,
    open_store,
)
from pytest_claude_comms.stores import sqlite, sqlite_keeping
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.testing import FakeClock
from tests.stores.keeping_kit import (
    STREAM,
    every_store,
    everything,
    file_stores,
    fill,
    killed_at_system_calls,
    posix,
    run,
    trimmed_by,
)
from tests.stores.tinydb_kit import FailingOS, disk


def revisions(store: ConversationStore, message: str) -> list[int]:
    return [change.revision for change in store.changes(0, message=message)]


def file_of(store: ConversationStore) -> str:
    return store.url.partition("///")[2]


# -- what stays


@every_store
@pytest.mark.parametrize("keep", [0, 1, 7, 60, 10_000])
def test_the_last_changes_are_kept(store: ConversationStore, keep: int) -> None:
    fill(store)
    threads, messages, last = store.threads(), store.messages(), store.cursor()
    whole = {change.revision: change for change in store.changes()}
    # Up to the last that went, and no further: whoever is past that misses none.
    floor = trimmed_by(store, keep)
    report = store.compact(keep=keep)
    kept = {c.revision: c for m in messages for c in store.changes(0, message=m)}
    assert report.trimmed == floor == max(whole.keys() - kept.keys(), default=0)
    assert (store.threads(), store.messages(), store.cursor()) == (threads, messages, last)
    assert [change.revision for change in store.changes(floor)] == list(range(floor + 1, last + 1))
    for cursor in {0, floor - 1} & set(range(floor)):
        with pytest.raises(HistoryGone, match=f"changes up to revision {floor} were trimmed"):
            store.changes(cursor)
        with pytest.raises(HistoryGone):
            MessagePoller(store, since=cursor)
    assert kept == {revision: whole[revision] for revision in kept}
    assert report.removed == len(whole) - len(kept)
    assert check_store(store).findings == ()
    assert store.compact(keep=keep).removed == 0


@every_store
def test_nothing_of_before_is_left(store: ConversationStore) -> None:
    """One message, of whose changes only the last is kept: how far it was trimmed is known."""
    thread = store.create_thread("demo")
    store.add_message(thread, "m", status="pending", message_id="a")
    store.update_message("a", append="text")
    store.update_message("a", status="complete")

    report = store.compact(keep=1)

    assert (report.removed, report.trimmed) == (2, 2)
    assert revisions(store, "a") == [3]
    assert check_store(store).findings == ()
    assert check_store(store).trimmed == 2


def test_a_message_keeps_how_it_stands(store: ConversationStore) -> None:
    fill(store)
    before = {
        message.message_id: revisions(store, message.message_id) for message in store.messages()
    }
    ended = next(c.revision for c in store.changes(message="a0") if c.status == "failed")
    store.compact(keep=0)
    assert revisions(store, "a0") == [ended, before["a0"][-1]]  # its end, and what came after it
    first, *_, last = before["q0"]  # it was complete from the beginning
    assert revisions(store, "q0") == [first, last]
    for message in ("a1", "open"):  # whoever starts to follow an open one sees all of it
        assert revisions(store, message) == before[message]
    assert len(before["a1"]) == STREAM + 2
    store.update_message("a1", status="complete")
    last = store.cursor()
    assert store.compact(keep=0).removed == STREAM + 2
    assert revisions(store, "a1") == [last]
    assert store.get_message("a1").content.endswith("39 é;")


@every_store
def test_a_tracker_of_a_trimmed_message(store: ConversationStore) -> None:
    fill(store)
    store.compact(keep=0)
    poller = MessagePoller(store)
    told: list[str] = []
    tracker = poller.track("a0", on_failed=lambda event: told.append(str(event.status)))
    assert poller.wait("a0", timeout=1) is tracker
    poller.flush()
    assert tracker.statuses == ["failed"]
    assert tracker.content_length == len("anew and on")
    assert told == ["failed"]
    assert poller.track("a1").statuses == ["pending", "processing"]


@every_store
def test_younger_changes_are_kept(store: ConversationStore, clock: FakeClock) -> None:
    store.create_thread(thread_id="t")
    for number in range(10):
        store.add_message("t", "a", message_id=str(number))
        store.update_message(str(number), metadata={"turn": 1})  # of the two, the first goes
        clock.advance(60)
    report = store.compact(keep=timedelta(minutes=3))
    assert report.trimmed == 0  # a message keeps its end and its last change
    for number in range(10):
        store.update_message(str(number), metadata={"turn": 2})
        clock.advance(60)
    report = store.compact(keep=timedelta(minutes=13))
    assert report.trimmed == 16  # the middle one of "7": that of 13 minutes ago is no younger
    assert store.compact(keep=timedelta(minutes=15)).trimmed == 16  # what is gone is gone
    assert [change.message_id for change in store.changes(28)] == ["8", "9"]
    assert store.compact(keep=timedelta(0)).trimmed == 20
    assert store.compact(keep=timedelta(days=10_000)).trimmed == 20
    assert store.compact(keep=timedelta.max).trimmed == 20


@every_store
def test_history_that_loses_nothing_is_not_trimmed(store: ConversationStore) -> None:
    """Who follows a message live is a step behind; there is nothing to tell them."""
    store.create_thread(thread_id="t")
    store.add_message("t", "m", status="pending", message_id="open")
    store.update_message("open", status="processing")
    for _ in range(5):
        store.update_message("open", append="x")
    report = store.compact(keep=0)
    assert (report.trimmed, report.removed) == (0, 0)
    for cursor in range(8):
        assert len(store.changes(cursor)) == 7 - cursor
    store.add_message("t", "m", status="pending", message_id="short")
    store.update_message("short", status="processing")
    store.update_message("short", status="complete")  # revisions 8, 9 and 10
    store.update_message("open", append="x")
    report = store.compact(keep=0)
    assert (report.trimmed, report.removed) == (9, 2)
    assert [change.revision for change in store.changes(9)] == [10, 11]
    with pytest.raises(HistoryGone):
        store.changes(8)
    assert check_store(store).findings == ()


@every_store
def test_wrong_arguments(store: ConversationStore) -> None:
    fill(store)
    before = everything(store)
    for keep in (-1, timedelta(seconds=-1)):
        with pytest.raises(ValueError, match=r"keep must (be at least 0|not be negative)"):
            store.compact(keep=keep)
    wrong: list[Any] = [None, True, 1.0, "30d"]
    for keep in wrong:
        with pytest.raises(TypeError, match="keep must be a number of changes or a timedelta"):
            store.compact(keep=keep)
    with pytest.raises(TypeError):
        store.compact(10)  # type: ignore[call-arg]
    assert everything(store) == before
    store.close()
    with pytest.raises(StoreClosed):
        store.compact(keep=1)


@every_store
def test_an_empty_store(store: ConversationStore) -> None:
    for keep in (0, 5, timedelta(0)):
        report = store.compact(keep=keep)
        assert (report.trimmed, report.removed) == (0, 0)
    assert store.changes().cursor == 0


# -- who is told


@file_stores
def test_other_handles_are_told(store: ConversationStore) -> None:
    fill(store)
    with open_store(store.url, clock=store.clock, durability="process") as other:
        behind, current = MessagePoller(other, since=3), MessagePoller(other)
        current.track("open")
        store.compact(keep=0)
        with pytest.raises(HistoryGone):
            behind.poll_once()
        assert current.poll_once() == []
        store.update_message("open", append="!")
        assert [event.append for event in current.poll_once()] == ["!"]
        other.update_message("a1", append="?")  # and it writes on
        assert store.get_message("a1").content.endswith("39 é;?")


@file_stores
def test_it_stays_trimmed(store: ConversationStore) -> None:
    fill(store)
    store.compact(keep=5)
    expected, last = everything(store), store.cursor()
    store.close()
    with open_store(store.url, clock=store.clock, durability="process") as again:
        assert again.store_id == store.store_id
        assert everything(again) == expected
        with pytest.raises(HistoryGone):
            again.changes(last - 6)
        assert again.add_message("t", "a").revision == last + 1
        assert len(again.changes(last - 5)) == 6


@file_stores
def test_a_program_that_knows_no_trimming_refuses_it(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms import StoreCorrupt
    from pytest_claude_comms.stores import sqlite_rows, tinydb_image

    fill(store)
    store.close()
    for module in (sqlite_rows, tinydb_image):
        monkeypatch.setattr(module, "TRIMMED_FORMAT", 1)
    with open_store(store.url, durability="process") as again:  # it was never trimmed
        assert again.cursor() == store_last(again)
    monkeypatch.undo()
    with open_store(store.url, durability="process") as again:
        again.compact(keep=1)
    for module in (sqlite_rows, tinydb_image):
        monkeypatch.setattr(module, "TRIMMED_FORMAT", 1)
    with pytest.raises(StoreCorrupt, match="format 2"):
        open_store(store.url)


def store_last(store: ConversationStore) -> int:
    return max(message.revision for message in store.messages())


# -- the file


@file_stores
def test_the_file_gets_smaller(store: ConversationStore) -> None:
    store.create_thread(thread_id="t")
    for number in range(20):
        message = store.add_message("t", "a", status="pending", message_id=str(number))
        for piece in range(20):
            store.update_message(message, content=f"{piece % 10}" * 20_000)
        store.update_message(message, status="complete")
    report = store.compact(keep=10)
    assert report.bytes_before is not None
    assert report.bytes_after is not None
    assert report.bytes_before > 4_000_000
    assert report.bytes_after < report.bytes_before / 3
    assert report.waiting is None
    sizes = [os.path.getsize(file_of(store) + end) for end in ("", "-wal", ".journal")
             if os.path.exists(file_of(store) + end)]  # fmt: skip
    assert sum(sizes) == report.bytes_after
    assert check_store(store).findings == ()


@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_new_file_gives_pages_back_many_at_a_time(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    store.update_message("open", content="x" * 1_000_000)
    store.update_message("open", status="complete", content="")
    free: list[int] = []
    real = sqlite_keeping._free_pages

    def free_pages(db: sqlite3.Connection) -> int:
        free.append(real(db))
        return free[-1]

    monkeypatch.setattr(sqlite_keeping, "_free_pages", free_pages)
    monkeypatch.setattr(sqlite_keeping, "PAGES", 100)
    monkeypatch.setattr(sqlite_keeping, "_write_anew", None)
    store.compact(keep=0)
    assert free[0] > 200
    assert free[1] == free[0] - 100
    assert free[-1] == 0


@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_file_that_was_laid_out_before(store: ConversationStore) -> None:
    path = file_of(store)
    fill(store)
    for _ in range(20):
        store.update_message("open", content="x" * 50_000)
    store.update_message("open", status="complete")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (0,)
    expected = everything(store)[:3]
    # Opened again: the connection that created the file remembers how it laid it out.
    with open_store(store.url, clock=store.clock, durability="process") as again:
        report = again.compact(keep=0)
    assert report.waiting is None
    assert report.bytes_after < report.bytes_before / 3  # type: ignore[operator]
    assert everything(store)[:3] == expected
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert db.execute("PRAGMA freelist_count").fetchone() == (0,)


@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_file_that_would_take_too_long_to_write_anew(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    store.update_message("open", content="x" * 500_000)
    for number in range(30_000):  # so that there is something to interrupt
        store.update_message("a1", metadata={"n": number}) if number < 50 else None
    store.update_message("open", status="complete", content="")
    with closing(sqlite3.connect(file_of(store), isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    monkeypatch.setattr(sqlite_keeping, "VACUUM_US", -1)
    monkeypatch.setattr(sqlite_keeping, "STEPS", 1)
    report = store.compact(keep=0)
    assert report.waiting == "to write the file anew would block writers for too long"
    assert check_store(store).findings == ()
    store.add_message("t", "a")
    monkeypatch.undo()
    assert store.compact(keep=0).waiting is None


@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_reader_that_stands_in_the_way(store: ConversationStore) -> None:
    fill(store)
    for _ in range(20):
        store.update_message("open", content="x" * 50_000)
    store.update_message("open", status="complete")
    path = file_of(store)
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM changes").fetchone()
        report = store.compact(keep=0)
        assert report.waiting is not None
        assert "somebody is reading" in report.waiting
        reader.execute("ROLLBACK")
    assert store.compact(keep=0).waiting is None
    assert os.path.getsize(path) < 200_000


@pytest.mark.claude_comms(stores=["sqlite"])
def test_writers_are_let_in_between(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each transaction of a trimming is short; a commit comes between any two."""
    monkeypatch.setattr(sqlite_keeping, "BATCH", 10)
    monkeypatch.setattr(sqlite_keeping, "PAGES", 2)
    fill(store)
    for _ in range(5):
        store.update_message("open", content="x" * 50_000)
    between: list[int] = []
    with open_store(store.url, clock=store.clock, durability="process") as other:
        real = sqlite_keeping.trim_batch

        def trim(tx: Any, done: int, floor: int) -> tuple[int | None, int]:
            found = real(tx, done, floor)
            between.append(tx.trimmed())
            return found

        monkeypatch.setattr(sqlite_keeping, "trim_batch", trim)
        begin = sqlite.SQLiteConversationStore._begin_writing

        def begin_writing(self: Any, link: Any, tx: Any, claim: Any) -> bool:
            if self is store and between:
                other.add_message("t", "between")
            return begin(self, link, tx, claim)

        monkeypatch.setattr(sqlite.SQLiteConversationStore, "_begin_writing", begin_writing)
        floor = trimmed_by(store, 0)
        assert store.compact(keep=0).trimmed == floor > 0
    assert len(between) > 10
    assert between == sorted(between)
    assert check_store(store).findings == ()
    added = [message for message in store.messages() if message.module_name == "between"]
    assert len(added) > 10


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call that may fail: the store is as it was, or trimmed, and goes on."""
    outcomes = set()
    for k in range(1, 30):
        url = f"tinydb:///{tmp_path}/{k}.json"
        with open_store(url, durability="power") as store:
            fill(store, turns=1)
            before, last = everything(store), store.cursor()
            broken = FailingOS(k)
            with disk(monkeypatch, broken):
                try:
                    store.compact(keep=0)
                    outcomes.add("done")
                except StoreError as error:
                    outcomes.add(error.outcome)
                    if error.outcome == "not done":
                        assert everything(store) == before
            store.compact(keep=0)
            assert store.add_message("t", "a").revision == last + 1
        assert check_store(url).findings == ()
        if not broken.has_failed:
            break
    else:
        pytest.fail("there are more calls")
    assert outcomes == {"not done", "unknown", "done"}


def test_a_store_that_is_deleted_meanwhile_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(f"tinydb:///{tmp_path}/store", durability="process") as store:
        fill(store, turns=1)

        def fail(*_: object) -> None:
            (tmp_path / "store").unlink()
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(store, "_write_file", fail)
        with pytest.raises(HistoryGone, match="store was deleted"):
            store.compact(keep=0)


def test_a_disk_that_fails_for_good_is_not_said_to_be_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even asked what is there, it tells nothing."""
    outcomes = set()
    for k in range(1, 60):
        with open_store(f"tinydb:///{tmp_path}/{k}.json", durability="power") as store:
            fill(store, turns=1)
            before, outcome = everything(store), "done"
            broken = FailingOS(k, forever=True, calls=(*FailingOS.CALLS, "stat"))
            with disk(monkeypatch, broken):
                try:
                    store.compact(keep=0)
                except StoreError as error:
                    outcome = error.outcome
            outcomes.add(outcome)
            assert outcome == "unknown" or (everything(store) == before) == (outcome == "not done")
        if not broken.has_failed:
            break
    else:
        pytest.fail("there are more calls")
    assert outcomes == {"not done", "unknown", "done"}


@pytest.mark.claude_comms(stores=["sqlite"])
def test_the_log_is_bounded_under_a_busy_reader(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that come and go all the time do not keep the log from being cut."""
    monkeypatch.setattr(sqlite, "_READERS_MS", 60_000)  # however slow this machine is
    child = run(_READ, store.url)
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m")
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        largest = 0
        for number in range(300):
            store.update_message("m", content=f"{number % 10}" * 100_000)
            largest = max(largest, os.path.getsize(f"{file_of(store)}-wal"))
            if number % 100 == 0:
                store.compact(keep=50)
    finally:
        child.kill()
        child.communicate()
    print(f"largest log: {largest / 1e6:.1f} MB")
    assert sqlite.WAL_BYTES / 2 < largest < 5 * sqlite.WAL_BYTES  # 60 MB were written


_READ = """
import sys
from pytest_claude_comms import open_store, HistoryGone
with open_store(sys.argv[1], durability="process") as store:
    print("ready", flush=True)
    while True:
        store.messages()
        try:
            store.changes(0)
        except HistoryGone:
            pass
"""


# -- killed


_COMPACT = """
import sys
from pytest_claude_comms import open_store
from pytest_claude_comms.stores import sqlite_keeping
sqlite_keeping.BATCH, sqlite_keeping.PAGES = 40, 5
with open_store(sys.argv[1]) as store:
    store.update_message("open", append="!")
    store.compact(keep=3)
"""


def check_killed(backend: str, folder: Path, *, every: bool) -> list[int]:
    """Returns up to where history was trimmed after each kill."""
    data = folder / "data"
    data.mkdir()
    url = f"{backend}:///{data}/s"
    with open_store(url, durability="process") as store:
        fill(store)
        store.update_message("a1", content="x" * 100_000)
        store.update_message("a1", status="complete", content="y")
        last = store.cursor()
        messages = {message.message_id: message for message in store.messages()}
    came = []
    for _ in killed_at_system_calls(_COMPACT, url, folder=data, every=every):
        with open_store(url, durability="process") as store:
            assert last <= store.cursor() <= last + 1
            found = {message.message_id: message for message in store.messages()}
            del found["open"]
            assert all(messages[name] == message for name, message in found.items())
            assert len(found) == len(messages) - 1
            trimmed = store.compact(keep=10_000).trimmed
            came.append(trimmed)
            expected = list(range(trimmed + 1, store.cursor() + 1))
            assert [change.revision for change in store.changes(trimmed)] == expected
            floor = trimmed_by(store, 3, since=trimmed)
            assert store.compact(keep=3).trimmed == floor > 0
            assert not [name for name in os.listdir(data) if name.endswith(".new")]
        assert check_store(url).findings == ()
    return came


@posix
@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_killed_at_some_system_calls(backend: str, tmp_path: Path) -> None:
    assert check_killed(backend, tmp_path, every=False)


@posix
@pytest.mark.long
@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_killed_at_every_system_call(backend: str, tmp_path: Path) -> None:
    came = check_killed(backend, tmp_path, every=True)
    print(f"{backend}: killed at {len(came)} system calls, trimmed up to {sorted(set(came))}")
    assert min(came) == 0
    assert max(came) > 0


@posix
@file_stores
def test_after_a_fork(store: ConversationStore) -> None:
    fill(store)
    calls: list[Callable[[], object]] = [
        lambda: store.compact(keep=1),
        store.snapshot,  # type: ignore[attr-defined]
        lambda: store.restore(None),  # type: ignore[attr-defined]
        lambda: store.write_backup("x"),  # type: ignore[attr-defined]
    ]
    for call in calls:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                call()
                os.write(writer, b"no error")
            except RuntimeError as error:
                os.write(writer, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        said = os.read(reader, 1_000).decode()
        os.close(reader)
        os.close(writer)
        assert "open it again there with open_store" in said


@pytest.mark.claude_comms(stores=["tinydb"])
def test_what_a_killed_process_left_is_removed(store: ConversationStore) -> None:
    fill(store)
    store.close()
    path = file_of(store)
    for ending in (".new", ".journal.new"):
        Path(f"{path}{ending}").write_text("half")
    notes = check_store(store.url).notes
    assert [note.partition(" was left")[0] for note in notes] == [
        f"{path}.new",
        f"{path}.journal.new",
    ]
    with open_store(store.url, durability="process"):
        assert not [name for name in os.listdir(os.path.dirname(path)) if name.endswith("new")]


@every_store
def test_to_the_microsecond_after_centuries(store: ConversationStore, clock: FakeClock) -> None:
    """More microseconds than a float can tell apart."""
    store.create_thread(thread_id="t")
    for status in ("pending", "processing", "complete"):
        if status == "pending":
            store.add_message("t", "a", status=status, message_id="m")
        else:
            store.update_message("m", status=status)
        clock.advance(1e-6)
    clock.advance(10**10)
    span = timedelta(seconds=10**10)
    for more, trimmed in ((4, 0), (3, 1), (2, 2)):
        assert store.compact(keep=span + timedelta(microseconds=more)).trimmed == trimmed


@every_store
def test_a_store_that_is_used_says_at_which_revision(store: ConversationStore) -> None:
    fill(store)
    with (
        open_store("memory:") as source,
        pytest.raises(StoreError) as caught,
    ):
        store.restore(source.snapshot())  # type: ignore[attr-defined]
    assert str(caught.value).startswith(
        f"{store.url} is not empty (it is at revision {store.cursor()})"
    )
