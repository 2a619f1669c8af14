"""The SQLite store: what only a real file, real threads and real processes can show."""

from __future__ import annotations

import gc
import os
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms._version import __version__
from pytest_claude_comms.clock import SECOND, Backoff, SystemClock
from pytest_claude_comms.errors import (
    ClaudeCommsError,
    HistoryGone,
    InvalidTransition,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreError,
)
from pytest_claude_comms.resources import left_open
from pytest_claude_comms.stores import (
    memory,
    open_store,
    sqlite,
    sqlite_keeping,
    sqlite_link,
    sqlite_rows,
)
from pytest_claude_comms.stores.base import Durability
from pytest_claude_comms.stores.core import BaseStore
from pytest_claude_comms.stores.files import FileLock
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.rules import ChangeRow
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from pytest_claude_comms.testing.fake_clock import FakeClock
from tests.stores.tinydb_kit import FailingOS

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
Python = Callable[..., "subprocess.Popen[str]"]


class SteppedClock(SystemClock):
    """Real waiting, but a time of day that tests set; patience is short."""

    def __init__(self) -> None:
        self.time_us = 1_767_225_600 * SECOND
        self.patience_us: int | None = None
        self.pauses = 0

    def now_us(self) -> int:
        return self.time_us

    def backoff(self, bound_us: int) -> Backoff:
        self.pauses += 1
        return super().backoff(bound_us if self.patience_us is None else self.patience_us)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comms.db"


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def store(path: Path, clock: SteppedClock) -> Iterator[SQLiteConversationStore]:
    with SQLiteConversationStore(path, clock=clock, durability="process") as store:
        yield store


def seed(store: BaseStore, status: str = "processing", **more: Any) -> str:
    """One thread, and one message in it."""
    store.create_thread(thread_id="t")
    return store.add_message("t", "module", status=status, message_id="m", **more).message_id


def raw(path: Path) -> closing[sqlite3.Connection]:
    """A connection that is not ours."""
    return closing(sqlite3.connect(path, isolation_level=None, timeout=0))


def finish(child: subprocess.Popen[str], expected: int = 0) -> str:
    said, complaint = child.communicate(timeout=60)
    assert child.returncode == expected, complaint
    return said


# -- the same answers as the reference


def scenario(store: BaseStore, clock: SteppedClock) -> Iterator[object]:
    """A long conversation with a store; yields every answer."""

    def attempt(act: Callable[[], object]) -> object:
        clock.time_us += SECOND
        try:
            return act()
        except ClaudeCommsError as error:
            return type(error), str(error).replace(store.url, "URL")

    yield attempt(lambda: store.create_thread("title", modules=["a", "b\0c"], thread_id="t1"))
    yield attempt(lambda: store.create_thread(metadata={"deep": [{"x": None}]}, thread_id="t2"))
    yield attempt(lambda: store.create_thread(thread_id="t1"))
    yield attempt(lambda: store.get_thread("t1"))
    yield attempt(lambda: store.get_thread("none"))
    yield attempt(store.threads)
    yield attempt(lambda: store.add_message("none", "a"))
    for number, status in enumerate(["pending", "processing", "complete", "failed", "pending"]):
        yield attempt(
            lambda number=number, status=status: store.add_message(  # type: ignore[misc]
                "t1" if number % 2 else "t2",
                "modul\N{LATIN SMALL LETTER E WITH ACUTE}",
                "text \0 \N{GRINNING FACE}" * number,
                status=status,
                timeout=None if number < 4 else 20,
                stall_timeout=8 if number == 1 else None,
                metadata={"n": number},
                message_id=f"m{number}",
            )
        )
    yield attempt(lambda: store.add_message("t1", "a", message_id="m1"))
    yield attempt(lambda: store.update_message("m0", status="processing", append="one\0"))
    yield attempt(lambda: store.update_message("m0", append="two"))
    yield attempt(lambda: store.update_message("m0", append=""))
    yield attempt(lambda: store.update_message("m0", content="three", error="e"))
    yield attempt(lambda: store.update_message("m0", append="four", metadata={"a": True}))
    yield attempt(lambda: store.update_message("m0", metadata={"a": True}))
    yield attempt(lambda: store.update_message("m0", content=""))
    yield attempt(lambda: store.update_message("m0", append="five"))
    yield attempt(lambda: store.update_message("m0", status="complete", append="six"))
    yield attempt(lambda: store.update_message("m0", append="seven"))
    yield attempt(lambda: store.update_message("m0", status="complete"))
    yield attempt(lambda: store.update_message("m0", metadata={"late": 1.5}))
    yield attempt(lambda: store.update_message("m1", append="late"))
    yield attempt(lambda: store.update_message("none", append="x"))
    yield attempt(store.next_deadline_us)
    clock.time_us += 60 * SECOND
    yield attempt(store.expire)
    yield attempt(store.expire)
    yield attempt(store.next_deadline_us)
    yield attempt(store.messages)
    yield attempt(lambda: store.messages("t1"))
    yield attempt(lambda: store.messages("none"))
    yield attempt(lambda: store.messages(status=["timeout", "failed"]))
    yield attempt(lambda: store.messages("t2", "complete"))
    yield attempt(lambda: store.messages(status=[]))
    yield attempt(lambda: store.get_message("m0"))
    yield attempt(store.cursor)
    for since in (0, 3, 10, 99):
        for limit in (None, 1, 4, 2**70):
            for message in (None, "m0", "none"):
                yield attempt(
                    lambda since=since, limit=limit, message=message: store.changes(  # type: ignore[misc]
                        since, limit=limit, message=message
                    )
                )


def test_answers_like_the_memory_store(path: Path) -> None:
    clock, other = SteppedClock(), SteppedClock()
    reference = memory.MemoryConversationStore(clock=other)
    with SQLiteConversationStore(path, clock=clock, durability="process") as store:
        for number, (mine, expected) in enumerate(
            zip(scenario(store, clock), scenario(reference, other), strict=True)
        ):
            assert mine == expected, f"answer {number}"


def test_opened_again_it_is_the_same(path: Path, clock: SteppedClock) -> None:
    with SQLiteConversationStore(path, clock=clock) as store:
        list(scenario(store, clock))
        before = (store.threads(), store.messages(), store.changes(), store.store_id)
    assert sorted(os.listdir(path.parent)) == ["comms.db", "comms.db.lock"]
    with open_store(store.url) as again:
        assert isinstance(again, SQLiteConversationStore)
        assert (again.threads(), again.messages(), again.changes(), again.store_id) == before
        assert again.url == store.url == f"sqlite:///{path}"
        assert again.backend == "sqlite"


@pytest.mark.parametrize("name", ["odd %41?mode=ro#x.db", "a b.JSON", "\N{SNOWMAN}", "noext"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    with open_store(f"sqlite:///{tmp_path}/new/{name}", durability="process") as store:
        seed(store)  # type: ignore[arg-type]
    assert sorted(os.listdir(tmp_path / "new")) == sorted([name, f"{name}.lock"])


def test_a_relative_path_stays_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with SQLiteConversationStore("here.db", durability="process") as store:
        monkeypatch.chdir("/")
        seed(store)
        assert store.url == f"sqlite:///{tmp_path}/here.db"


def test_wrong_arguments(path: Path) -> None:
    with pytest.raises(ValueError, match="durability"):
        SQLiteConversationStore(path, durability="none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="path"):
        SQLiteConversationStore(b"bytes")  # type: ignore[arg-type]
    assert not path.exists()


# -- texts


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "\N{GRINNING FACE}" * 3, "x" * 100_000])
def test_texts_come_back(store: SQLiteConversationStore, text: str) -> None:
    seed(store, content=text, metadata={"k": text})
    store.update_message("m", append=text, error=text)
    store.update_message("m", append="end")
    with open_store(store.url) as again:
        found = again.get_message("m")
        assert found == store.get_message("m") == store.messages()[0]
    assert (found.content, found.error, found.metadata) == (f"{text}{text}end", text, {"k": text})


def test_appends_are_written_once(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All writes go through the log, so that its growth is what was written.
    monkeypatch.setattr(store, "_next_checkpoint", 10**12)
    seed(store)
    log = Path(f"{path}-wal")
    piece = "0123456789" * 50

    def written(appends: int) -> int:
        before = log.stat().st_size
        for _ in range(appends):
            store.update_message("m", append=piece)
        return log.stat().st_size - before

    sizes = [written(500) for _ in range(6)]  # 250 kB each, to 1.5 MB
    assert max(sizes) < 4 * min(sizes)
    assert sum(sizes) / 3_000 < 40_000  # bytes for an append; the whole text would be 750,000
    assert store.get_message("m").content == piece * 3_000
    with open_store(store.url) as again:
        assert again.get_message("m").content == piece * 3_000
    store.update_message("m", status="complete")
    with raw(path) as db:
        assert db.execute("SELECT tail FROM messages").fetchall() == [(0,)]
        assert db.execute("SELECT text FROM contents").fetchall() == [(piece * 3_000,)]


def test_a_text_remembered_from_a_commit_is_not_used_for_another(
    store: SQLiteConversationStore,
) -> None:
    seed(store, content="x" * 5_000)
    with SQLiteConversationStore(store.url[10:], durability="process") as other:
        for _ in range(3):
            store.update_message("m", append="a")
            other.update_message("m", append="b")
            other.update_message("m", append="c")
        assert store.get_message("m").content == "x" * 5_000 + "abc" * 3


def test_a_text_of_a_commit_that_failed_is_not_remembered(
    store: SQLiteConversationStore,
) -> None:
    seed(store, content="x" * 5_000)
    mark = store._known.mark
    row = store._texts.get("m", mark)
    assert row is not None
    with pytest.raises(ZeroDivisionError), store._writing() as tx:
        found = tx.message("m")
        assert found is not None
        tx.commit(
            found,
            ChangeRow(
                message_id="m",
                thread_id="t",
                at_us=0,
                previous=found.status,
                status=found.status,
                content="lost",
                content_length=4,
            ),
        )
        _ = 1 / 0
    assert store._texts.get("m", mark) == row
    assert store.get_message("m").content == "x" * 5_000
    assert store.update_message("m", append="y").revision == 2


def test_few_texts_are_remembered() -> None:
    clock = SteppedClock()
    reference = MemoryConversationStore(clock=clock)
    seed(reference)
    texts = sqlite_rows.Texts()
    with reference._reading() as snapshot:
        row = snapshot.message("m")
    assert row is not None
    for number in range(100):
        texts.put(replace(row, message_id=f"{number}", content="x" * 2_000), number)
    assert [number for number in range(100) if str(number) in texts] == list(range(68, 100))
    texts.put(replace(row, message_id="big", content="x" * 15_980_000), 100)
    assert "big" in texts
    assert len(texts._texts) <= 11


# -- many at once


def test_threads(store: SQLiteConversationStore) -> None:
    store.create_thread(thread_id="t")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                store.add_message("t", f"{number}", f"{step}", status="pending")
                assert store.changes(store.cursor() - 1).items
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [change.revision for change in store.changes()] == list(range(1, 401))
    by_thread = [
        [m.content for m in store.messages() if m.module_name == f"{n}"] for n in range(20)
    ]
    assert by_thread == [[f"{step}" for step in range(20)]] * 20
    assert len(store._idle) <= sqlite._MOST_IDLE


_ADD = """
import sys
from pytest_claude_comms.stores import open_store
with open_store(sys.argv[1], durability="process") as store:
    for number in range(int(sys.argv[3])):
        store.add_message("t", sys.argv[2], str(number))
"""


def test_processes(store: SQLiteConversationStore, python: Python) -> None:
    store.create_thread(thread_id="t")
    children = [python(_ADD, store.url, f"{number}", "100") for number in range(4)]
    for child in children:
        finish(child)
    assert [change.revision for change in store.changes()] == list(range(1, 401))
    for number in range(4):
        mine = [m.content for m in store.messages() if m.module_name == f"{number}"]
        assert mine == [f"{step}" for step in range(100)]


_CREATE = """
import sys
from pytest_claude_comms.stores import open_store
print("ready", flush=True)
sys.stdin.readline()
for turn in range(int(sys.argv[2])):
    with open_store(f"sqlite:///{sys.argv[1]}/{turn}.db", durability="process") as store:
        store.create_thread()
        print(store.store_id)
"""


def test_eight_processes_create_it_at_once(tmp_path: Path, python: Python) -> None:
    children = [python(_CREATE, f"{tmp_path}", "5") for _ in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()[1]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert len({finish(child) for child in children}) == 1
    for turn in range(5):
        with open_store(f"sqlite:///{tmp_path}/{turn}.db") as store:
            assert len(store.threads()) == 8


def test_kill_9(path: Path, kill_loop: Callable[[str, int], Any]) -> None:
    seen = kill_loop(f"sqlite:///{path}", 12)
    assert seen.acknowledged > 100
    assert seen.kept >= seen.acknowledged
    assert sorted(os.listdir(path.parent)) == ["comms.db", "comms.db.lock"]


# -- the idle check


_ANSWER = """
import sys
from pytest_claude_comms.stores import open_store
with open_store(sys.argv[1], durability="process") as store:
    for line in sys.stdin:
        print(store.update_message("m", append="x").revision, flush=True)
"""


def hammer(store: BaseStore, python: Python, rounds: int) -> int:
    """Write here, in a thread and in a process, and look right after each; returns misses."""
    seed(store)
    cursor, missed, stop = 0, 0, threading.Event()
    child = python(_ANSWER, store.url)
    assert child.stdin is not None
    assert child.stdout is not None

    def write() -> None:
        while not stop.is_set():
            store.update_message("m", append="y")

    writer = threading.Thread(target=write)
    for turn in range(rounds):
        if turn == rounds // 2:
            writer.start()
        child.stdin.write("\n")
        child.stdin.flush()
        revision = int(child.stdout.readline())
        if turn % 2:
            revision = store.update_message("m", append="z").revision
        cursor = store.changes(cursor).cursor
        missed += cursor < revision
        assert store.changes(cursor).cursor >= cursor
    stop.set()
    writer.join()
    return missed


def test_nothing_that_returned_is_missed(store: SQLiteConversationStore, python: Python) -> None:
    assert hammer(store, python, 200) == 0
    last = store.changes().cursor
    assert [change.revision for change in store.changes()] == list(range(1, last + 1))


class Blind(sqlite_link.Link):
    """A mutant: it never asks for ``data_version``."""

    def is_last(self, since: int) -> bool:
        self._version = self._version or 0
        return since == self._last


def test_the_hammer_finds_a_store_that_is_blind_to_others(
    path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "Link", Blind)
    with SQLiteConversationStore(path, durability="process") as store:
        assert hammer(store, python, 60) > 0


class Remembering(sqlite_link.Link):
    """A mutant: its own commits do not make it forget."""

    def forget(self) -> None:
        pass


def test_a_store_that_trusts_data_version_alone_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "Link", Remembering)
    with SQLiteConversationStore(path, durability="process") as store:
        seed(store)
        cursor = store.changes(store.cursor()).cursor
        assert store.changes(cursor).cursor == cursor
        assert store.changes(cursor).cursor == cursor
        store.update_message("m", append="z")
        assert not store.changes(cursor).items


def test_an_own_commit_is_seen_by_an_idle_check(store: SQLiteConversationStore) -> None:
    seed(store)
    cursor = store.changes(store.cursor()).cursor
    for _ in range(3):
        assert store.changes(cursor).cursor == cursor
    assert len(store._idle) == 1  # it was the connection that asked
    store.update_message("m", append="z")
    assert [change.append for change in store.changes(cursor)] == ["z"]


def test_an_idle_poll_reads_nothing(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    cursor = store.cursor()
    store.changes(cursor)
    store.changes(cursor)
    monkeypatch.setattr(store, "_reading", None)
    assert store.changes(cursor).cursor == cursor


# -- the file is gone, or another


def everything(store: BaseStore) -> list[Callable[[], object]]:
    return [
        lambda: store.create_thread(),
        lambda: store.add_message("t", "module"),
        lambda: store.update_message("m", append="x"),
        lambda: store.get_message("m"),
        lambda: store.get_thread("t"),
        lambda: store.threads(),
        lambda: store.messages(),
        lambda: store.changes(1),
        lambda: store.changes(),
        lambda: store.cursor(),
        lambda: store.expire(),
        lambda: store.next_deadline_us(),
    ]


def delete(path: Path) -> None:
    for suffix in ("", "-wal", "-shm", ".lock"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@posix
def test_a_deleted_store(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    store.changes(1)
    store.changes(1)
    delete(path)
    for act in everything(store):
        with pytest.raises(HistoryGone, match="no longer there"):
            act()
    store.close()
    assert not os.listdir(path.parent)


@posix
def test_a_deleted_directory(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "comms.db"
    with SQLiteConversationStore(path, durability="process") as store:
        seed(store)
        delete(path)
        path.parent.rmdir()
        for act in everything(store):
            with pytest.raises(HistoryGone):
                act()
    assert not path.parent.exists()


@posix
def test_a_store_created_anew_at_the_same_path(path: Path) -> None:
    for _ in range(10):  # ext4 likes to give the same inode number again
        with SQLiteConversationStore(path, durability="process") as store:
            seed(store)
            store.changes(1)
            store.changes(1)
            delete(path)
            with SQLiteConversationStore(path, durability="process") as other:
                seed(other)
                for act in everything(store):
                    with pytest.raises(HistoryGone, match="taken its place"):
                        act()
                store.close()
                other.update_message("m", append="kept")
                assert os.stat(f"{path}-wal").st_size > 0
                with open_store(other.url) as third:
                    assert third.get_message("m").content == "kept"
        delete(path)


@posix
def test_a_store_moved_over_it(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    other = path.with_name("other.db")
    with SQLiteConversationStore(other, durability="process") as replacement:
        seed(replacement)
    other.replace(path)
    for act in everything(store):
        with pytest.raises(HistoryGone):
            act()


def test_another_store_restored_into_the_same_file(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    store.changes(1)
    store.changes(1)
    other = path.with_name("other.db")
    with SQLiteConversationStore(other, durability="process") as replacement:
        seed(replacement)
    with raw(other) as source, raw(path) as target:
        source.backup(target)
    for act in everything(store):
        with pytest.raises(HistoryGone, match="another store"):
            act()


# -- an older state of the same store comes back


def copy(source: Path, target: Path) -> None:
    """As SQLite's own backup does it."""
    with raw(source) as one, raw(target) as two:
        one.backup(two)


@pytest.fixture
def saved(store: SQLiteConversationStore, path: Path) -> Path:
    """A backup of the store at revision 2, where the store is now at revision 3."""
    seed(store, "pending")
    store.update_message("m", status="processing", append="a" * 2_000)
    saved = path.with_name("saved.db")
    copy(path, saved)
    store.update_message("m", append="LOST" * 300)
    return saved


def test_an_acknowledged_change_is_not_lost_in_silence(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    with SQLiteConversationStore(path, durability="process") as idle:  # has read nothing yet
        copy(saved, path)
        with SQLiteConversationStore(path, durability="process") as after:
            after.update_message("m", append="NEW!" * 300)
            for each in (store, idle):
                for act in everything(each):
                    with pytest.raises(HistoryGone, match="change 3 was taken back.*open the st"):
                        act()
            assert after.get_message("m").content == "a" * 2_000 + "NEW!" * 300
            assert after.update_message("m", status="complete").revision == 4


def test_a_restore_is_seen_by_an_idle_watcher_at_once(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    for _ in range(3):
        assert store.changes(3).cursor == 3
    copy(saved, path)
    for _ in range(3):
        with pytest.raises(HistoryGone):
            store.changes(3)


def test_a_cursor_that_was_overtaken_by_a_restored_store(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    for _ in range(4):
        store.update_message("m", append="x")
    cursor = store.changes().cursor
    assert cursor == 7
    copy(saved, path)
    with SQLiteConversationStore(path, durability="process") as other:
        for _ in range(7):
            other.update_message("m", append="y")
        assert other.cursor() == 9
        with pytest.raises(HistoryGone):
            store.changes(cursor)


def test_a_backup_that_loses_nothing(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    copy(path, saved)
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="x")
        copy(path, saved)
        copy(saved, path)
        assert [change.append for change in store.changes(3)] == ["x"]
        assert store.update_message("m", append="y").revision == 5
        assert other.get_message("m").content.endswith("LOSTxy")


def test_a_remembered_text_is_that_of_one_change_only(
    store: SQLiteConversationStore, path: Path, saved: Path
) -> None:
    copy(saved, path)
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="NEW!" * 300)
    store._known = sqlite_rows.NOTHING  # as if the restore came between two looks of one call
    assert store.get_message("m").content.endswith("NEW!")


def test_what_is_known_keeps_up_with_many_threads(store: SQLiteConversationStore) -> None:
    seed(store)
    failed: list[Exception] = []

    def work(act: Callable[[], object]) -> None:
        try:
            for _ in range(150):
                act()
        except Exception as error:
            failed.append(error)

    acts: list[Callable[[], object]] = [
        lambda: store.update_message("m", append="x"),
        lambda: store.changes(1),
        lambda: store.get_message("m"),
    ]
    threads = [threading.Thread(target=work, args=[act]) for act in acts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert store.cursor() == store._known.revision == 301


# -- the file is written over without SQLite


def empty_log(path: Path) -> None:
    with raw(path) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def become_idle(store: BaseStore) -> int:
    cursor = store.cursor()
    for _ in range(3):
        assert store.changes(cursor).cursor == cursor
    return cursor


@pytest.mark.parametrize("is_emptied", [False, True], ids=["full log", "empty log"])
@pytest.mark.parametrize("changes", [0, 1, 40])
def test_another_store_copied_over_it(
    store: SQLiteConversationStore, path: Path, changes: int, is_emptied: bool
) -> None:
    seed(store)
    other = path.with_name("other.db")
    with SQLiteConversationStore(other, durability="process") as replacement:
        seed(replacement)
        for _ in range(changes):
            replacement.update_message("m", append="other" * 100)
    if is_emptied:
        empty_log(path)
    cursor = become_idle(store)
    path.write_bytes(other.read_bytes())
    for _ in range(2):
        with pytest.raises((HistoryGone, StoreCorrupt)):
            store.changes(cursor)
    for act in everything(store):
        with pytest.raises((HistoryGone, StoreCorrupt)):
            act()


def test_an_older_copy_written_over_it(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    store.update_message("m", append="x")
    empty_log(path)
    store.update_message("m", append="y")
    cursor = become_idle(store)
    path.write_bytes(older)
    with pytest.raises((HistoryGone, StoreCorrupt)):
        store.changes(cursor)


@pytest.mark.parametrize("is_emptied", [False, True], ids=["full log", "empty log"])
@pytest.mark.parametrize("length", [0, 100, 4_096, 8_192, 9_000, 30_000])
def test_cut_off_while_it_is_open(
    store: SQLiteConversationStore, path: Path, length: int, is_emptied: bool
) -> None:
    seed(store)
    if is_emptied:
        empty_log(path)
    cursor = become_idle(store)
    os.truncate(path, length)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match=f"cut off at {length:,} bytes"):
            store.changes(cursor)


def test_something_else_written_over_it(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    cursor = become_idle(store)
    path.write_bytes(b"something else" * 10_000)
    with pytest.raises(StoreCorrupt):
        store.changes(cursor)


def test_what_others_may_do_to_the_file(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store, content="x" * 50_000)
    for number in range(3):
        store.add_message("t", "module", "y" * 100_000, message_id=f"more{number}")
        empty_log(path)
        become_idle(store)
    with raw(path) as db:
        db.execute("DELETE FROM contents WHERE number > 1")
        db.execute("VACUUM")
    before = path.stat().st_size
    empty_log(path)
    assert path.stat().st_size < before
    cursor = become_idle(store)
    monkeypatch.setattr(store, "_reading", None)
    assert store.changes(cursor).cursor == cursor


def test_while_a_checkpoint_makes_the_file_longer(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    cursor = become_idle(store)

    def half_done(_: str) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_link, "peek", half_done)
        empty_log(path)
        become_idle(store)
        assert store._idle[-1].stamp != store._look()[1]  # so it looks again
    become_idle(store)
    assert store._idle[-1].stamp == store._look()[1]
    assert cursor == 1


def test_a_look_at_the_file_takes_no_locks_away(
    store: SQLiteConversationStore, path: Path, python: Python
) -> None:
    seed(store)
    for _ in range(3):
        sqlite_link.peek(str(path))
    script = (
        "import sys\nfrom pytest_claude_comms.stores import open_store\n"
        "with open_store(sys.argv[1]) as store:\n    store.update_message('m', append='x')\n"
    )
    finish(python(script, store.url))
    assert Path(f"{path}-wal").exists()  # it was not the last one
    store.update_message("m", append="y")
    with open_store(store.url) as again:
        assert again.get_message("m").content == "xy"


def test_a_cursor_of_another_store(store: SQLiteConversationStore) -> None:
    seed(store)
    with pytest.raises(HistoryGone, match="its last revision is 1"):
        store.changes(2)


def test_history_that_was_trimmed(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    for _ in range(3):
        store.update_message("m", append="x")
    with raw(path) as db:
        db.execute("DELETE FROM changes WHERE revision < 3")
    with pytest.raises(HistoryGone, match="up to revision 2 were"):
        store.changes(1)
    assert [change.revision for change in store.changes(2)] == [3, 4]
    with raw(path) as db:
        db.execute("DELETE FROM changes")
    with pytest.raises(HistoryGone, match="up to revision 4 were"):
        store.changes(2)
    assert store.changes(4).cursor == 4
    assert store.update_message("m", metadata={"a": 1}).revision == 5


# -- busy


def test_busy(store: SQLiteConversationStore, path: Path, clock: SteppedClock) -> None:
    seed(store)
    clock.patience_us = 100_000
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy, match=r"was busy for [\d.]+ s: ") as caught:
            store.update_message("m", append="x")
        assert caught.value.path == str(path)
        assert caught.value.outcome == "not done"
        assert caught.value.waited >= 0.1
        assert store.get_message("m").content == ""  # readers go on
        assert store.changes().cursor == 1
        with open_store(store.url, clock=clock) as again:  # and so does opening
            assert again.cursor() == 1
        db.execute("ROLLBACK")
    assert store.update_message("m", append="y").content == "y"


def test_a_busy_store_is_waited_for(
    store: SQLiteConversationStore, path: Path, clock: SteppedClock
) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("BEGIN IMMEDIATE")
        started = threading.Event()

        def write() -> None:
            started.set()
            store.update_message("m", append="x")

        writer = threading.Thread(target=write)
        writer.start()
        started.wait()
        while not clock.pauses:
            pass
        with store._lock.held(clock, 0, "x"):  # nothing is held while waiting
            pass
        db.execute("ROLLBACK")
    writer.join()
    assert store.get_message("m").content == "x"


def test_readers_are_busy_too(
    store: SQLiteConversationStore, path: Path, clock: SteppedClock
) -> None:
    seed(store)
    store.close()
    clock.patience_us = 50_000
    with raw(path) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy):
            SQLiteConversationStore(path, clock=clock)
    with open_store(store.url) as again:
        assert again.cursor() == 1


def test_the_lock_is_busy(store: SQLiteConversationStore, path: Path, clock: SteppedClock) -> None:
    seed(store)
    clock.patience_us = 50_000
    other = SQLiteConversationStore(path, durability="process")
    with other, other._lock.held(clock, 0, "x"), pytest.raises(StoreBusy, match="comms.db was"):
        store.update_message("m", append="x")
    store.update_message("m", append="x")


# -- what is no store


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no database" * 100, "not a database"),
        (b"short", "not a database"),
        (b"SQLite format 3\0" + b"\xff" * 5_000, "not a database"),
        (b'{"threads": {}}' + b" " * 5_000, "not a database"),
    ],
)
def test_not_a_database(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt, match=reason) as caught:
        SQLiteConversationStore(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_a_database_of_another_program(path: Path) -> None:
    with raw(path) as db:
        for table in ("messages", "zoo", "album"):
            db.execute(f"CREATE TABLE {table} (id)")
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="another program .it has album, messages, zoo[)]"):
        SQLiteConversationStore(path)
    assert path.read_bytes() == before


def test_a_newer_format(store: SQLiteConversationStore, path: Path) -> None:
    store.close()
    with raw(path) as db:
        db.execute("UPDATE meta SET format = 7, version = '9.8'")
        db.execute("PRAGMA journal_mode = DELETE")
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match="pytest-claude-comms 9.8 wrote it in format 7"):
        SQLiteConversationStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("rows", [0, 2])
def test_a_store_without_one_identity(
    store: SQLiteConversationStore, path: Path, rows: int
) -> None:
    store.close()
    with raw(path) as db:
        db.execute("DELETE FROM meta")
        db.executemany("INSERT INTO meta VALUES (?, 1, '')", [("x",)] * rows)
    with pytest.raises(StoreCorrupt, match=f"it says {rows} times"):
        SQLiteConversationStore(path)


def test_a_truncated_store(store: SQLiteConversationStore, path: Path) -> None:
    seed(store, content="x" * 50_000)
    store.close()
    whole = path.read_bytes()
    for length in [1, 16, 100, *range(4_096, len(whole), 3_072)]:
        path.write_bytes(whole[:length])
        with pytest.raises(StoreCorrupt):
            SQLiteConversationStore(path)
        assert path.read_bytes() == whole[:length]


def test_an_empty_file_with_a_log(store: SQLiteConversationStore, path: Path) -> None:
    store.close()
    path.write_bytes(b"")
    Path(f"{path}-wal").write_bytes(b"something")
    with pytest.raises(StoreCorrupt, match="it is empty, but"):
        SQLiteConversationStore(path)
    assert Path(f"{path}-wal").read_bytes() == b"something"


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with SQLiteConversationStore(path) as store:
        seed(store)


def test_a_store_restored_without_its_log_mode(path: Path) -> None:
    with SQLiteConversationStore(path, durability="process") as store:
        seed(store)
    with raw(path) as db:
        db.execute("PRAGMA journal_mode = DELETE")
    with SQLiteConversationStore(path, durability="process") as store:
        assert store.cursor() == 1
        assert Path(f"{path}-wal").exists()


def test_damage_that_shows_later(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("UPDATE messages SET status = 'odd'")
    with pytest.raises(StoreCorrupt, match="status 'odd'"):
        store.get_message("m")
    with raw(path) as db:
        db.execute("DROP TABLE changes")
    with pytest.raises(StoreCorrupt, match="no such table"):
        store.changes()
    with raw(path) as db:
        db.execute("DROP TABLE meta")
    with pytest.raises(StoreCorrupt, match="no such table"):
        store.threads()


def test_a_directory_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a directory"):
        SQLiteConversationStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="ot a directory"):
        SQLiteConversationStore(tmp_path / "file" / "comms.db")


@pytest.mark.parametrize("coded", [True, False], ids=["by code", "by text"])
def test_errors_are_told_apart(coded: bool) -> None:
    def error(text: str, code: int) -> sqlite3.Error:
        found = sqlite3.OperationalError(text)
        if coded:
            found.__dict__["sqlite_errorcode"] = code
        return found

    busy = ["database is locked", "database table is locked", "locking protocol"]
    for text, code in zip(busy, [5, 6, 15], strict=True):
        assert sqlite_link.is_busy(error(text, code))
    corrupt = ["database disk image is malformed", "file is not a database"]
    for text, code in zip(corrupt, [11, 26], strict=True):
        assert isinstance(sqlite_link.store_error("p", error(text, code)), StoreCorrupt)
    full = sqlite_link.store_error("p", error("database or disk is full", 13), "unknown")
    assert type(full) is StoreError
    assert full.outcome == "unknown"
    assert "p: database or disk is full" in str(full)


# -- disk errors, by a limit on the size of files, which SQLite meets as a full disk


_FULL = """
import resource, sys
from pytest_claude_comms.errors import StoreError
from pytest_claude_comms.stores import open_store
with open_store(sys.argv[1], durability="process") as store:
    store.create_thread(thread_id="t")
    store.add_message("t", "a", "kept", status="processing", message_id="m")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    for _ in range(3):
        try:
            store.update_message("m", append="x" * 500_000)
        except StoreError as error:
            names_it = sys.argv[1].removeprefix("sqlite:///") in str(error)
            print(type(error).__name__, error.outcome, names_it)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(store.get_message("m").content, store.update_message("m", append="!").revision)
"""


@posix
def test_a_full_disk(path: Path, python: Python) -> None:
    said = finish(python(_FULL, f"sqlite:///{path}")).splitlines()
    assert said[-1] == "kept 2"
    assert {line.split()[0] for line in said[:-1]} == {"StoreError"}
    assert all(line.endswith("True") for line in said[:-1])
    assert len(said) == 4


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to be root")
def test_a_directory_that_is_not_ours(tmp_path: Path, python: Python) -> None:
    script = (
        "import os, sys\nfrom pytest_claude_comms.errors import StoreError\n"
        "from pytest_claude_comms.stores.sqlite import SQLiteConversationStore\n"
        "os.setuid(65534)\n"
        "try:\n    SQLiteConversationStore(sys.argv[1])\n"
        "except StoreError as error:\n    print(error)\n"
    )
    home = tmp_path / "private"
    home.mkdir(mode=0o700)
    said = finish(python(script, f"{home}/comms.db"))
    assert said == f"{home}/comms.db: Permission denied\n"


# -- the log


def test_the_log_is_bounded(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    largest = 0
    with SQLiteConversationStore(path, durability="process") as reader:
        for number in range(150):
            store.update_message("m", content=f"{number}" * 50_000)
            reader.changes(number)
            largest = max(largest, os.stat(f"{path}-wal").st_size)
        assert largest < 1.5 * sqlite.WAL_BYTES
        assert reader.get_message("m").revision == 151


def test_a_log_held_up_by_a_reader_is_cut_later(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM messages").fetchall()
        for number in range(60):
            store.update_message("m", content=f"{number % 10}" * 100_000)
        held_up = os.stat(f"{path}-wal").st_size
        assert held_up > sqlite.WAL_BYTES
        db.execute("ROLLBACK")
        for number in range(60):
            store.update_message("m", content=f"{number % 10}" * 90_000)
        assert os.stat(f"{path}-wal").st_size <= held_up + sqlite.WAL_BYTES


# -- private files


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_files_are_private(tmp_path: Path, python: Python, umask: int) -> None:
    script = (
        "import os, sys\nfrom pytest_claude_comms.stores import open_store\n"
        "os.umask(int(sys.argv[2]))\n"
        "with open_store(sys.argv[1]) as store:\n"
        "    store.create_thread()\n"
        "    folder = os.path.dirname(sys.argv[1][10:])\n"
        "    for name in sorted(os.listdir(folder)):\n"
        "        print(name, oct(os.stat(f'{folder}/{name}').st_mode & 0o777))\n"
        "    print(oct(os.stat(folder).st_mode & 0o777))\n"
    )
    said = finish(python(script, f"sqlite:///{tmp_path}/a/b/comms.db", f"{umask}"))
    names = ["comms.db", "comms.db-shm", "comms.db-wal", "comms.db.lock"]
    assert said.splitlines() == [*(f"{name} 0o600" for name in names), "0o700"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


# -- its life


def test_closed(store: SQLiteConversationStore) -> None:
    seed(store)
    store.close()
    store.close()
    for act in everything(store):
        with pytest.raises(StoreClosed):
            act()


def test_closed_during_a_call(store: SQLiteConversationStore) -> None:
    seed(store)
    with store._reading() as snapshot:
        store.close()
        assert snapshot.message("m") is not None
    assert sorted(os.listdir(Path(store._path).parent)) == ["comms.db", "comms.db.lock"]
    with pytest.raises(StoreClosed), store._reading():
        pass


def test_left_open_is_found(path: Path) -> None:
    store = SQLiteConversationStore(path, durability="process")
    assert left_open()[id(store)][1].startswith(f"the store {store.url} was not closed")
    store.close()
    assert id(store) not in left_open()


def test_a_store_that_could_not_be_opened_is_not_left_open(tmp_path: Path) -> None:
    before = set(left_open())
    with pytest.raises(StoreError):
        SQLiteConversationStore(tmp_path)
    assert set(left_open()) == before


@pytest.mark.filterwarnings("error")
def test_no_resource_warnings(path: Path) -> None:
    store = SQLiteConversationStore(path, durability="process")
    seed(store)
    threads = [threading.Thread(target=store.cursor) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del store
    gc.collect()


def test_many_open_and_close(path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    for _ in range(20):
        with SQLiteConversationStore(path, durability="process") as store:
            store.cursor()
    assert (len(list(descriptors.iterdir())) if descriptors.exists() else 0) == before


_INTERRUPTED = """
import signal, sys
from pytest_claude_comms.stores import open_store

def interrupt(*_):
    global hits, armed
    if armed:
        hits, armed = hits + 1, False
        raise KeyboardInterrupt

hits, armed = 0, False
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
store.add_message("t", "a", status="processing", message_id="m")
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0011, 0.0011)
while hits < 300:
    try:
        armed = True
        while True:
            store.update_message("m", append="x")
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
assert store._lock._owner is None
assert not any(link.db.in_transaction for link in store._idle)
with open_store(store.url) as other:
    other.update_message("m", append="x")
content = store.update_message("m", append="x").content
assert len(content) == store.cursor() - 1 == len(store.changes()) - 1
store.close()
"""


@posix
def test_an_interrupt_leaves_nothing_behind(
    path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What counts coverage has a lock of its own, which an interrupt can leave held for ever.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    finish(python(_INTERRUPTED, f"sqlite:///{path}"))


# -- forks


def forked(act: Callable[[], object], *, leave: Callable[[int], object] = os._exit) -> int:
    """The exit code of a forked child that calls ``act``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        act()
    except BaseException:
        leave(1)
    leave(0)
    return 0


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)

    def refused() -> None:
        for act in everything(store):
            with pytest.raises(RuntimeError) as caught:
                act()
            assert str(caught.value) == (
                f"the store {store.url} was opened before a fork and is used in the child: "
                f"open it again there with open_store({store.url!r})"
            )
        store.close()

    assert forked(refused) == 0
    assert store.update_message("m", append="x").revision == 2


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_opened_again_in_the_child_of_a_fork(path: Path) -> None:
    # Beside an inherited connection SQLite takes no lock: all of this would be lost.
    store = SQLiteConversationStore(path, durability="process")
    seed(store)
    here, there = os.pipe(), os.pipe()

    def work() -> None:
        with SQLiteConversationStore(path, durability="process") as mine:
            mine.update_message("m", append="a")
            os.write(here[1], b".")
            os.read(there[0], 1)
            for _ in range(10):
                mine.update_message("m", append="b")
            os._exit(0)  # without closing

    child = os.fork()
    if not child:
        work()
    os.read(here[0], 1)
    store.close()
    os.write(there[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*here, *there):
        os.close(descriptor)
    with SQLiteConversationStore(path) as again:
        assert again.get_message("m").content == "a" + "b" * 10


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_in_the_middle_of_a_call(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)

    def refused() -> None:
        with pytest.raises(RuntimeError, match="when this process was forked"):
            SQLiteConversationStore(path)
        with SQLiteConversationStore(path.with_name("other.db"), durability="process") as other:
            seed(other)

    with store._writing():
        assert forked(refused) == 0
    assert store.update_message("m", append="x").revision == 2


_EXITING = """
import os, sys
from pytest_claude_comms.stores import open_store
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
child = os.fork()
if child:
    os.waitpid(child, 0)
    assert os.path.getsize(sys.argv[1][10:] + "-wal") > 0
    print(len(store.threads()))
    store.close()
"""


@posix
def test_a_child_that_exits_normally_closes_nothing(path: Path, python: Python) -> None:
    child = python(_EXITING, f"sqlite:///{path}")
    said, complaint = child.communicate(timeout=60)
    assert (said, complaint) == ("1\n", "")


_OUTLIVED = """
import os, signal, sys
mine = os.pipe()
os.register_at_fork(after_in_child=lambda: os.read(mine[0], 1))  # it comes late to its first step
from pytest_claude_comms.stores import open_store
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
if not os.fork():
    if sys.argv[2] == "opens it":
        try:
            open_store(sys.argv[1])
        except RuntimeError as error:
            print("was in use when this process was forked" in str(error), flush=True)
    sys.exit()
store.close()  # it is the last one: the log that the child has open goes
again = open_store(sys.argv[1], durability="process")
again.add_message("t", "a", message_id="m")
os.write(mine[1], b".")
os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
@pytest.mark.parametrize("does", ["nothing", "opens it"])
def test_a_child_takes_no_log_with_it_that_is_not_its_own(
    path: Path, python: Python, does: str
) -> None:
    """At its end it would close what it inherited, take itself for the last one, and delete by its
    name the log of a writer that was killed: what that had been told is kept would be lost."""
    child = python(_OUTLIVED, f"sqlite:///{path}", does)
    said, complaint = child.communicate(timeout=60)  # until the child of the child is gone, too
    assert (said, complaint) == ("True\n" if does == "opens it" else "", "")
    with SQLiteConversationStore(path) as store:
        assert store.get_message("m").module_name == "a"


# -- size


def test_thousands_of_messages(store: SQLiteConversationStore, path: Path) -> None:
    store.create_thread(thread_id="t")
    store.create_thread(thread_id="u")
    for number in range(3_000):
        store.add_message("t" if number % 3 else "u", "a", f"{number}", message_id=f"{number}")
    assert [message.content for message in store.messages()] == [f"{n}" for n in range(3_000)]
    assert len(store.messages("u")) == 1_000
    assert [change.revision for change in store.changes(2_990)] == list(range(2_991, 3_001))
    assert store.changes(0, limit=5).cursor == 5


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("messages WHERE thread_id = 'x' ORDER BY number", "messages_of_thread"),
        ("changes WHERE number = 1 AND revision > 5 ORDER BY revision", "changes_of_message"),
        ("messages WHERE deadline_us <= 5 ORDER BY deadline_us, number", "open_deadlines"),
        (
            "messages WHERE deadline_us IS NOT NULL ORDER BY deadline_us LIMIT 1",
            "open_deadlines",
        ),
    ],
)
def test_indexes_are_used(
    store: SQLiteConversationStore, path: Path, query: str, index: str
) -> None:
    with raw(path) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {query}")]
    assert len(plan) == 1, plan
    assert index in plan[0]


def test_a_terminal_message_has_no_deadline(
    store: SQLiteConversationStore, clock: SteppedClock
) -> None:
    seed(store, timeout=10)
    assert store.next_deadline_us() == clock.time_us + 10 * SECOND
    clock.time_us += 11 * SECOND
    with pytest.raises(InvalidTransition, match="timeout"):
        store.update_message("m", append="x")
    assert store.get_message("m").status == "timeout"
    assert store.next_deadline_us() is None
    assert store.expire() == []


def test_an_append_does_not_read_the_text_it_is_added_to(
    store: SQLiteConversationStore,
) -> None:
    seed(store, content="x" * 5_000)
    store.add_message("t", "module", "y" * 5_000, status="processing", message_id="other")
    for piece in "abc":
        store.update_message("other", append=piece)
    (link,) = store._idle
    said: list[str] = []
    link.db.set_trace_callback(said.append)
    assert store.update_message("other", append="d").content == "y" * 5_000 + "abcd"
    link.db.set_trace_callback(None)
    assert any("INTO changes" in statement for statement in said)
    assert not any("contents" in statement for statement in said)


def test_a_clock_that_was_set_back_keeps_no_history(
    store: SQLiteConversationStore, clock: SteppedClock
) -> None:
    now_us = clock.time_us
    store.create_thread(thread_id="t")
    store.add_message("t", "module", message_id="of a later time")
    clock.time_us -= 100 * SECOND
    for name in "ab":
        store.add_message("t", "module", status="pending", message_id=name)
        store.update_message(name, status="processing")
        store.update_message(name, status="complete")
        store.compact(keep=0)
        assert (
            store.changes(0, message="of a later time").items[0].at.timestamp() == now_us / SECOND
        )
    store.add_message("t", "module", status="pending", message_id="c")
    store.update_message("c", append="x")
    store.update_message("c", status="complete")
    clock.time_us += 10 * SECOND
    assert store.compact(keep=timedelta(seconds=5)).removed == 2


def test_a_busy_store_is_waited_for_five_seconds_of_its_clock(path: Path) -> None:
    with (
        FakeClock() as clock,
        SQLiteConversationStore(path, clock=clock, durability="process") as store,
        raw(path) as db,
    ):
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusy) as caught:
            store.create_thread()
        assert caught.value.waited == clock.elapsed == 5


def test_a_database_of_another_program_written_over_it(
    store: SQLiteConversationStore, path: Path, tmp_path: Path
) -> None:
    seed(store)
    other = tmp_path / "other.db"
    with raw(other) as db:
        db.execute("CREATE TABLE zoo (id)")
    path.write_bytes(other.read_bytes())
    with pytest.raises(HistoryGone, match="another file was written over it") as caught:
        store.get_message("m")
    assert caught.value.store == store.url


def test_sqlite_itself_never_copies_the_log_into_the_file(
    store: SQLiteConversationStore,
) -> None:
    # It would do so outside the lock, in the midst of any commit.
    seed(store)
    assert store._idle
    for link in store._idle:
        assert link.db.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)


# -- what goes wrong in the midst of a call


class Once:
    """Stands before a method: the first call raises instead of its work, or after it."""

    def __init__(self, real: Any, error: BaseException, *, after: bool = False) -> None:
        self.real = real
        self.error = error
        self.after = after
        self.calls = 0

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls > 1:
                return self.real(instance, *given, **options)
            if self.after:
                self.real(instance, *given, **options)
            raise self.error

        return call


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (SQLiteConversationStore, "_let_go"),
        (sqlite_link.Link, "rollback"),
        (SQLiteConversationStore, "_put_back"),
    ],
)
def test_an_interrupt_while_it_lets_go_leaves_nothing_held(
    store: SQLiteConversationStore,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    *,
    after: bool,
) -> None:
    seed(store)
    for call in (store.threads, lambda: store.update_message("m", append="x")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, Once(getattr(owner, name), KeyboardInterrupt(), after=after))
            with pytest.raises(KeyboardInterrupt):
                call()
        assert store._lock._owner is None
        assert not any(link.db.in_transaction or link.in_use for link in store._idle)
        assert len(store._idle) == 1 or name == "_put_back"
        with SQLiteConversationStore(path, durability="process") as other:
            other.update_message("m", append="y")
    content = store.update_message("m", append="z").content
    assert len(content) == store.cursor() - 1


def test_a_disk_that_is_full_changes_nothing(store: SQLiteConversationStore) -> None:
    seed(store)
    (link,) = store._idle
    (pages,) = link.db.execute("PRAGMA page_count").fetchone()
    link.db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StoreError, match="full") as caught:
        store.update_message("m", append="x" * 100_000)
    assert (caught.value.outcome, store.cursor()) == ("not done", 1)
    assert link.closed  # nothing is known of a connection that an error came through
    assert store.update_message("m", append="y").content == "y"


def test_a_file_that_lost_a_table_under_an_open_store(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("DROP TABLE changes")
    for call in (store.threads, lambda: store.update_message("m", append="x")):
        with pytest.raises(StoreCorrupt, match="no such table"):
            call()


def test_a_reader_that_finds_it_busy_comes_again(
    store: SQLiteConversationStore, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    locked = Once(sqlite_link.Link.prepare, sqlite3.OperationalError("database is locked"))
    monkeypatch.setattr(sqlite_link.Link, "prepare", locked)
    before = clock.pauses
    assert len(store.threads()) == 1
    assert (locked.calls, clock.pauses) == (2, before + 1)


def test_busy_in_the_midst_of_a_read_is_said_to_be(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    error = sqlite3.OperationalError("database table is locked")
    threads = Once(sqlite_rows.SQLiteSnapshot.threads, error)
    monkeypatch.setattr(sqlite_rows.SQLiteSnapshot, "threads", threads)
    with pytest.raises(StoreBusy, match=r"comms\.db was busy"):
        store.threads()


def test_an_error_on_a_file_that_is_gone_is_history_gone(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)

    def threads(_: object) -> None:
        os.unlink(path)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite_rows.SQLiteSnapshot, "threads", threads)
    with pytest.raises(HistoryGone, match="no longer there"):
        store.threads()


def test_an_idle_look_that_fails_leaves_it_to_the_read(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    broken = Once(sqlite_link.Link.is_last, sqlite3.OperationalError("disk I/O error"))
    monkeypatch.setattr(sqlite_link.Link, "is_last", broken)
    assert store.changes(1) == store.changes(1)
    assert (store.changes(1).cursor, broken.calls) == (1, 3)


def test_a_connection_that_cannot_be_made(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where no descriptor is left."""

    def connect(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with store._reading(), monkeypatch.context() as patch:  # it has the idle one
        patch.setattr(sqlite_link.sqlite3, "connect", connect)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match=r"comms\.db: unable to open"):
            store.threads()
    assert store.threads() == []


def test_a_path_that_cannot_be_looked_at(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "os", FailingOS(1, forever=True, calls=("stat",)))
        with pytest.raises(StoreError, match="No space left on device") as caught:
            store.threads()
    assert not isinstance(caught.value, HistoryGone)
    assert store.threads() == []


def test_a_name_that_cannot_be_made_durable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync_directory(_: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite.files, "fsync_directory", fsync_directory)  # type: ignore[attr-defined]
        with pytest.raises(StoreError, match=r"comms\.db: Input/output error"):
            SQLiteConversationStore(path, durability="power")
        SQLiteConversationStore(path.with_name("other.db"), durability="process").close()
    SQLiteConversationStore(path, durability="power").close()


def test_a_file_system_without_a_write_ahead_log_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_journal_mode", lambda link, assignment="": "delete")
    with pytest.raises(StoreError, match="SQLite cannot keep a write-ahead log there"):
        SQLiteConversationStore(path, durability="process")


def test_it_is_laid_out_under_the_lock_of_writers(path: Path, clock: SteppedClock) -> None:
    lock = FileLock(f"{path}.lock")
    assert lock.try_acquire()
    clock.patience_us = 10_000
    with pytest.raises(StoreBusy):
        SQLiteConversationStore(path, clock=clock, durability="process")
    assert path.stat().st_size == 0
    lock.release()
    lock.close()
    SQLiteConversationStore(path, clock=clock, durability="process").close()


def test_a_connection_that_is_collected_complains_of_nothing(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = sqlite_link.Link(str(path), "process")

    def close() -> None:
        raise TypeError("'NoneType' object is not callable")  # modules are gone

    with monkeypatch.context() as patch:
        patch.setattr(link, "close", close)
        link.__del__()
    link.close()


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_child_opens_it_again(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)

    def append() -> None:
        with SQLiteConversationStore(path, durability="process") as mine:
            mine.update_message("m", append="x")

    def fork_again() -> None:
        assert forked(append) == 0
        append()

    assert forked(fork_again) == 0
    assert store.get_message("m").content == "xx"


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_makes_anew_what_was_deleted_before_the_fork(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    for ending in ("", "-wal", "-shm", ".lock"):
        os.unlink(f"{path}{ending}")

    def anew() -> None:
        assert [log for link, log in sqlite_link._inherited if link.path == str(path)] == [None]
        with SQLiteConversationStore(path, durability="process") as mine:
            seed(mine)

    assert forked(anew) == 0
    with SQLiteConversationStore(path) as again:
        assert again.cursor() == 1


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_file_that_cannot_be_written_anew_stays_as_it_is(
    store: SQLiteConversationStore, path: Path, *, is_rewritten: bool
) -> None:
    seed(store)
    store.close()
    with raw(path) as db:  # as files were laid out before ours gave back pages
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA auto_vacuum = NONE")
        db.execute("VACUUM")
    with SQLiteConversationStore(path, durability="process") as again:
        for letter in "abcdefghijkl":  # what is trimmed has to fill pages
            again.update_message("m", content=letter * 3_000)
        again.update_message("m", content="x", status="complete")
        (link,) = again._idle
        reading = link.db.execute("SELECT number FROM messages UNION SELECT 7 UNION SELECT 8")
        if is_rewritten:
            reading.close()
        else:
            reading.fetchone()  # and not closed: SQLite does not vacuum then
        waiting = again.compact(keep=0).waiting
        reading.close()
        said = "the file could not be written anew: cannot VACUUM"  # and SQLite's reason
        assert (said in (waiting or "")) is not is_rewritten
        assert sqlite_keeping.gives_back(link.db) is is_rewritten
        assert again.get_message("m").content == "x"
        assert again.update_message("m", metadata={"a": 1}).metadata == {"a": 1}


def test_a_file_that_cannot_be_looked_at_while_it_is_opened_is_looked_at_later(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As during a checkpoint of somebody else."""
    seed(store)
    real = sqlite_link.peek
    looks: list[str] = []

    def peek(name: str) -> sqlite_link.Peek:
        looks.append(name)
        if len(looks) == 1:
            raise sqlite3.OperationalError("database is locked")
        return real(name)

    monkeypatch.setattr(sqlite_link, "peek", peek)
    with SQLiteConversationStore(path, durability="process") as other:
        assert len(looks) == 1
        assert len(other.threads()) == 1
        assert len(looks) == 2
        assert len(other.threads()) == 1
        assert len(looks) == 2


def test_a_newer_copy_written_over_it_is_read(store: SQLiteConversationStore, path: Path) -> None:
    # SQLite would go on answering from its memory: nobody has committed through it.
    seed(store)
    empty_log(path)
    newer = path.with_name("newer.db")
    newer.write_bytes(path.read_bytes())
    with SQLiteConversationStore(newer, durability="process") as further:
        further.update_message("m", append="x")
    cursor = become_idle(store)
    path.write_bytes(newer.read_bytes())
    assert [change.append for change in store.changes(cursor)] == ["x"]
    assert store.update_message("m", append="y").content == "xy"


def test_a_read_is_of_one_state_though_others_commit_between_its_statements(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    store.cursor()
    (link,) = store._idle
    with SQLiteConversationStore(path, durability="process") as other:

        def meanwhile(statement: str) -> None:
            if "FROM changes AS c" in statement:
                link.db.set_trace_callback(None)
                other.update_message("m", append="x")

        link.db.set_trace_callback(meanwhile)
        found = store.changes()
        assert (found.cursor, [change.revision for change in found]) == (1, [1])
        assert [change.revision for change in store.changes(found.cursor)] == [2]


def test_a_log_is_cut_off_behind_a_reader_that_is_done_in_a_moment(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    monkeypatch.setattr(sqlite, "_READERS_MS", 60_000)  # however slow this machine is
    store._next_checkpoint = 0
    (link,) = store._idle
    is_reading, has_begun, is_done = threading.Event(), threading.Event(), threading.Event()

    def read() -> None:
        with raw(path) as db:
            db.execute("BEGIN")
            db.execute("SELECT * FROM messages").fetchall()
            is_reading.set()
            has_begun.wait()
            is_done.wait(0.05)  # in real time, so that the checkpoint comes to wait for it
            db.execute("ROLLBACK")

    def tell(statement: str) -> None:
        if "wal_checkpoint" in statement:
            has_begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    is_reading.wait()
    link.db.set_trace_callback(tell)
    try:
        store.update_message("m", append="x")
    finally:
        link.db.set_trace_callback(None)
        has_begun.set()
        is_done.set()
        reader.join()
    assert os.stat(f"{path}-wal").st_size == 0
    # From here on whoever is in the way is waited for on the store's clock again.
    assert link.db.execute("PRAGMA busy_timeout").fetchone() == (0,)


def test_a_table_of_somebody_elses_that_numbers_its_rows(
    store: SQLiteConversationStore, path: Path
) -> None:
    with raw(path) as db:
        db.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        db.execute("INSERT INTO mine VALUES (9999)")
    assert store.cursor() == 0
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    assert sqlite_link.peek(str(path)).revision == 1
    store.update_message("m", append="x")
    store.update_message("m", status="complete")
    store.compact(keep=0)
    with raw(path) as db:
        db.execute("DELETE FROM changes")  # none is kept
    assert store.cursor() == 3
    empty_log(path)
    become_idle(store)
    path.write_bytes(older)
    with pytest.raises(HistoryGone, match="an older file"):
        store.cursor()


@pytest.mark.parametrize(
    ("drawn", "mark"), [(0, 1), (2**63 - 2, 2**63 - 1), (2**63 - 1, 1), (2**64 - 1, 2)]
)
def test_a_mark_is_a_positive_number_that_sqlite_can_hold(
    monkeypatch: pytest.MonkeyPatch, drawn: int, mark: int
) -> None:
    monkeypatch.setattr(os, "urandom", lambda size: drawn.to_bytes(size, "big"))
    assert sqlite_rows.new_mark() == mark


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["DROP TABLE meta"], "it is a SQLite database of another program (it has changes, "),
        (["PRAGMA application_id = 7"], "it is a SQLite database of another program (it has "),
        (["DELETE FROM meta"], "it says 0 times what store it is, not once"),
        (
            ["UPDATE meta SET format = 3, version = '9.8'"],
            f"pytest-claude-comms 9.8 wrote it in format 3, and this is {__version__}, "
            "which reads formats 1 and 2",
        ),
    ],
)
def test_a_refusal_says_which_file_and_why(
    store: SQLiteConversationStore, path: Path, statements: list[str], reason: str
) -> None:
    seed(store)
    store.close()
    with raw(path) as db:
        for statement in statements:
            db.execute(statement)
    with pytest.raises(StoreCorrupt) as caught:
        SQLiteConversationStore(path)
    assert caught.value.path == str(path)
    assert caught.value.reason.startswith(reason)


def test_a_file_of_ours_in_which_nothing_is_laid_out(path: Path) -> None:
    with raw(path) as db:
        db.execute(f"PRAGMA application_id = {sqlite_rows.APPLICATION_ID}")
    with pytest.raises(StoreCorrupt, match="it has no tables"):
        SQLiteConversationStore(path)


def test_a_status_that_is_none_is_said_with_its_file(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("UPDATE messages SET status = 'odd'")
        db.execute("UPDATE changes SET status = 'strange'")
    writes: Callable[[], object] = lambda: store.update_message("m", append="x")
    for act, word in ((store.messages, "odd"), (store.changes, "strange"), (writes, "odd")):
        with pytest.raises(StoreCorrupt, match=f"it has the status '{word}'") as caught:
            act()
        assert caught.value.path == store._path


def test_a_text_is_forgotten_with_the_end_of_its_message() -> None:
    with MemoryConversationStore() as reference:
        seed(reference, content="x" * 2_000)
        with reference._reading() as snapshot:
            open_ = snapshot.message("m")
        reference.update_message("m", status="complete")
        with reference._reading() as snapshot:
            ended = snapshot.message("m")
    assert open_ is not None
    assert ended is not None
    texts = sqlite_rows.Texts()
    texts.put(open_, 1)
    assert texts.get("m", 1) == "x" * 2_000
    assert texts.get("m", 2) is None
    for number in range(texts._MOST):  # one of which the last change is not the oldest stays
        texts.put(replace(open_, message_id=f"{number}"), number)
        texts.put(open_, number)
    assert "m" in texts
    assert "0" not in texts
    texts.put(ended, 2)
    assert "m" not in texts


def test_a_change_that_is_missing_though_later_ones_are_there(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    store.update_message("m", append="known")
    with raw(path) as db:
        db.execute("DELETE FROM changes WHERE revision = 2")
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="later")
    with pytest.raises(HistoryGone, match="change 2 was taken back"):
        store.changes()


def test_a_read_that_is_kept_out_waits_and_then_says_so(
    store: SQLiteConversationStore, path: Path, clock: SteppedClock
) -> None:
    seed(store)
    while store._idle:
        store._idle.pop().close()
    clock.patience_us = 50_000
    with raw(path) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreBusy) as caught:
            store.get_message("m")
        assert caught.value.waited >= 0.05
    assert store.get_message("m").message_id == "m"


def test_damage_that_a_write_meets_is_said(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    with raw(path) as db:
        db.execute("DROP TABLE contents")
    with pytest.raises(StoreCorrupt, match="no such table: contents") as caught:
        store.update_message("m", content="x")
    assert caught.value.path == store._path
    assert [change.revision for change in store.changes()] == [1]
    with raw(path) as db:
        db.execute("DROP TABLE changes")
    with pytest.raises(StoreCorrupt, match="no such table: changes"):
        store.update_message("m", append="x")


@pytest.mark.parametrize("act", ["read", "write"])
def test_an_interrupt_while_a_call_lets_go_leaves_nothing_held(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    seed(store)
    release = store._lock.release
    releases: list[int] = []

    def interrupted() -> None:
        releases.append(1)
        if len(releases) == 1:
            raise KeyboardInterrupt
        release()

    monkeypatch.setattr(store._lock, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.update_message("m", append="x") if act == "write" else store.get_message("m")
    assert len(store._idle) == 1  # the connection is back
    with SQLiteConversationStore(path, durability="process", clock=SteppedClock()) as other:
        other.clock.patience_us = 0  # type: ignore[attr-defined]
        assert other.update_message("m", append="y").content.endswith("y")


class Failing:
    """A connection that refuses the statements with a word in them."""

    def __init__(self, db: sqlite3.Connection, word: str) -> None:
        self._db = db
        self._word = word
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, statement: str, *arguments: Any) -> Any:
        if self._word in statement:
            self.refused += 1
            raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(statement, *arguments)


def fail_at(store: SQLiteConversationStore, word: str) -> Failing:
    (link,) = store._idle
    failing = Failing(link.db, word)
    link.db = failing  # type: ignore[assignment]
    return failing


def test_a_commit_that_fails_may_have_happened(store: SQLiteConversationStore) -> None:
    seed(store)
    failing = fail_at(store, "COMMIT")
    with pytest.raises(StoreError, match="disk I/O error [(]OperationalError[)]") as caught:
        store.update_message("m", append="x")
    assert caught.value.outcome == "unknown"
    failing._word = "nothing"
    assert store.update_message("m", append="y").content == "y"  # nothing is left open


def test_a_change_is_made_whatever_becomes_of_the_checkpoint(
    store: SQLiteConversationStore,
) -> None:
    seed(store)
    failing = fail_at(store, "wal_checkpoint")
    store._next_checkpoint = 0
    assert store.update_message("m", append="x").content == "x"
    assert failing.refused == 1


def test_what_cannot_be_asked_is_read(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    cursor = become_idle(store)
    failing = fail_at(store, "data_version")
    with SQLiteConversationStore(path, durability="process") as other:
        other.update_message("m", append="x")
        assert [change.append for change in store.changes(cursor)] == ["x"]
    assert failing.refused


def test_a_reader_in_the_way_of_a_checkpoint_is_not_met_by_each_commit(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_READERS_MS", 0)
    monkeypatch.setattr(sqlite, "WAL_BYTES", 400_000)
    seed(store)
    store._next_checkpoint = sqlite.WAL_BYTES
    tried: list[str] = []
    (link,) = store._idle
    link.db.set_trace_callback(lambda said: tried.append(said) if "wal_ch" in said else None)
    with raw(path) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM messages").fetchall()
        for number in range(60):
            store.update_message("m", content=f"{number % 10}" * 10_000)
        size = os.stat(f"{path}-wal").st_size
    link.db.set_trace_callback(None)
    assert 0 < len(tried) <= size / (sqlite.WAL_BYTES // 2) < 30


@pytest.mark.parametrize("act", [0, 2, 3, 7])
def test_a_call_on_an_older_copy_is_refused_whichever_it_is(
    store: SQLiteConversationStore, path: Path, act: int
) -> None:
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    store.update_message("m", append="x")
    empty_log(path)
    become_idle(store)
    path.write_bytes(older)
    with pytest.raises(HistoryGone, match="an older file was written over it") as caught:
        everything(store)[act]()
    assert caught.value.store == store.url


def test_who_opens_it_with_a_full_log_sees_an_older_copy_too(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    empty_log(path)
    older = path.read_bytes()
    store.update_message("m", append="x")
    empty_log(path)
    store.update_message("m", append="y")

    def half_done(_: str) -> None:
        raise sqlite3.DatabaseError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr(sqlite_link, "peek", half_done)  # as during a checkpoint
        late = SQLiteConversationStore(path, durability="process")
    with late:
        become_idle(late)
        path.write_bytes(older)
        with pytest.raises((HistoryGone, StoreCorrupt)):
            late.changes(3)


def test_something_else_written_over_it_shows_through_a_log_that_has_all_of_it(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store, content="x" * 50_000)  # so that the first page is in the log
    become_idle(store)
    path.write_bytes(b"something else" * 10_000)
    with pytest.raises(StoreCorrupt, match="not a database"):
        store.threads()


def test_a_backup_that_is_claimed_while_somebody_reads_it(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    backup = path.with_name("backup.db")
    backup.touch()
    store.write_backup(str(backup))
    with raw(backup) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM messages").fetchall()
        claimed = SQLiteConversationStore(backup, durability="process")
        db.execute("ROLLBACK")
    with claimed:
        assert claimed.store_id != store.store_id
        become_idle(claimed)
        empty_log(backup)  # only now the file itself says whose it is
        assert become_idle(claimed) == 1
        claimed.update_message("m", append="x")


def test_who_is_gone_is_said(store: SQLiteConversationStore, path: Path, saved: Path) -> None:
    copy(saved, path)
    with pytest.raises(HistoryGone, match="was taken back") as caught:
        store.changes()
    assert caught.value.store == store.url
    with raw(path) as db:
        db.execute("UPDATE meta SET store_id = 'other'")
    with pytest.raises(HistoryGone, match="another store has taken its place") as caught:
        store.changes()
    assert caught.value.store == store.url


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 0), ("power", 2)])
@pytest.mark.parametrize("act", ["none", "read", "write"])
def test_a_connection_that_came_later_is_like_the_first(
    path: Path, act: str, durability: Durability, synchronous: int
) -> None:
    with SQLiteConversationStore(path, durability=durability) as store:
        seed(store)
        if act != "none":
            while store._idle:
                store._idle.pop().close()
            store.update_message("m", append="x") if act == "write" else store.get_message("m")
        (link,) = store._idle
        assert not link.in_use
        assert link.db.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert link.db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        with store._reading(), store._reading():  # a second one is made for it
            assert not store._idle
            assert all(each.in_use for each in sqlite_link._links if each.path == str(path))
        become_idle(store)


def test_what_sqlite_says_is_told() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    assert str(sqlite_link.store_error("p", error)) == "p: disk I/O error (OperationalError)"
    error.__dict__["sqlite_errorname"] = "SQLITE_IOERR_READ"
    assert str(sqlite_link.store_error("p", error)) == "p: disk I/O error (SQLITE_IOERR_READ)"
    busy = sqlite_link.store_error("p", sqlite3.OperationalError("database is locked"))
    assert isinstance(busy, StoreBusy)
    assert busy.path == "p"


def test_a_text_is_written_whole_once_its_appends_outgrow_it(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    for _ in range(3):
        store.update_message("m", append="x" * 30_000)
    store.update_message("m", metadata={"n": 1})
    store.update_message("m", append="y")
    with raw(path) as db:
        found = db.execute("SELECT revision, length(text) FROM contents").fetchall()
    assert found == [(4, 90_000)]
    assert store.get_message("m").content == "x" * 90_000 + "y"


def test_two_changes_of_a_message_in_one_commit(store: SQLiteConversationStore) -> None:
    seed(store, content="one")
    with store._writing() as tx:
        row = tx.message("m")
        assert row is not None
        for text in (" two", " three"):
            row = replace(row, content=row.content + text)
            tx.commit(
                row,
                ChangeRow(
                    revision=0,
                    message_id="m",
                    thread_id="t",
                    at_us=row.updated_us,
                    previous=row.status,
                    status=row.status,
                    append=text,
                    content=None,
                    content_length=len(row.content),
                    error=None,
                    metadata=None,
                ),
            )
    store._texts = sqlite_rows.Texts()
    assert store.get_message("m").content == "one two three"
    assert [change.append for change in store.changes(1)] == [" two", " three"]


def test_whether_a_file_is_open_in_this_process(store: SQLiteConversationStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    for name in (path, link):
        with sqlite_link.kept_closed(str(name)) as is_closed:
            assert not is_closed
    with sqlite_link.kept_closed(f"{path}.other") as is_closed:
        assert is_closed
    store.close()
    for name in (path, link):
        with sqlite_link.kept_closed(str(name)) as is_closed:
            assert is_closed


def test_a_connection_that_cannot_roll_back_is_used_no_more(
    store: SQLiteConversationStore,
) -> None:
    seed(store)
    (link,) = store._idle
    failing = fail_at(store, "ROLLBACK")
    with pytest.raises(InvalidTransition):
        store.update_message("m", status="pending")
    assert failing.refused
    assert link.closed
    assert store.update_message("m", append="x").revision == 2
