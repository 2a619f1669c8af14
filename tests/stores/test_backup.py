"""Backups: one file, complete at one instant, private, and a store when it is opened."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    SQLiteConversationStore,
    StoreBusy,
    StoreError,
    TinyDBConversationStore,
    open_store,
)
from pytest_claude_comms.stores import backup, keeping, sqlite_keeping, sqlite_rows
from pytest_claude_comms.stores.backup import backup_store
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.files import FileLock, create_private
from tests.stores.interrupt_kit import Signal
from tests.stores.keeping_kit import (
    every_store,
    everything,
    file_stores,
    fill,
    killed_at_system_calls,
    posix,
    run,
)
from tests.stores.test_copying import _WRITE


def reopened(store: ConversationStore, path: Path) -> ConversationStore:
    return open_store(f"{store.backend}:///{path}", clock=store.clock, durability="process")


@file_stores
@pytest.mark.parametrize("compacted", [False, True])
def test_a_backup_is_the_store(
    store: ConversationStore, clock: object, tmp_path: Path, *, compacted: bool
) -> None:
    fill(store)
    if compacted:
        store.compact(keep=9)
    path = tmp_path / "backup"
    report = backup_store(store, path)
    assert report.path == str(path)
    assert report.bytes == path.stat().st_size
    assert os.listdir(tmp_path) == ["backup"]
    assert check_store(f"{store.backend}:///{path}").findings == ()
    before = everything(store)
    store.update_message("open", status="cancelled")
    with reopened(store, path) as again:
        assert everything(again) == before
        again.update_message("open", status="complete")


def test_a_store_that_has_no_backup_says_what_it_would_need(tmp_path: Path) -> None:
    with (
        open_store("memory:") as store,
        pytest.raises(StoreError, match=r"copy_store\(\) copies it"),
    ):
        backup_store(store, tmp_path / "backup")
    with (
        open_store("memory:") as store,
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(StoreError, match=r"nor snapshot\(\).*BackedUp and Copyable in"),
    ):
        patch.delattr(keeping.KeepingStore, "snapshot")
        backup_store(store, tmp_path / "backup")
    assert os.listdir(tmp_path) == []


@file_stores
def test_nothing_is_overwritten(store: ConversationStore, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    path.write_text("precious")
    with pytest.raises(StoreError, match="exists already"):
        backup_store(store, path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["backup"]
    fill(store)
    backup_store(store, path, overwrite=True)
    with reopened(store, path) as again:
        assert again.cursor() == store.cursor()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        backup_store(store, tmp_path / "folder", overwrite=True)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    backup_store(store, tmp_path / "link")
    assert (tmp_path / "nowhere").is_file()


@file_stores
def test_what_comes_there_meanwhile_is_not_overwritten(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup"
    real = os.link

    def late(*given: Any) -> None:
        path.write_text("precious")
        real(*given)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(StoreError, match="exists already"):
        backup_store(store, path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["backup"]


@file_stores
def test_a_file_system_without_links(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*given: Any) -> None:
        raise OSError(38, "not here")

    monkeypatch.setattr(os, "link", link)
    backup_store(store, tmp_path / "backup")
    assert os.listdir(tmp_path) == ["backup"]


@file_stores
def test_the_store_itself_is_not_overwritten(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    path = store.url.partition("///")[2]
    before = everything(store)
    (tmp_path / "link").symlink_to(path)
    for name in (path, tmp_path / "link"):
        with pytest.raises(StoreError, match="is the store itself"):
            backup_store(store, name, overwrite=True)
    assert everything(store) == before


@file_stores
def test_the_files_of_the_store_are_not_overwritten(
    store: ConversationStore, tmp_path: Path
) -> None:
    fill(store)
    path = store.url.partition("///")[2]
    before, names = everything(store), sorted(os.listdir(os.path.dirname(path)))
    for ending in ("-wal", "-shm", "-journal", ".journal", ".lock", ".new", ".journal.new",
                   ".backup", ".backup-journal"):  # fmt: skip
        with pytest.raises(StoreError, match="is a file of the store itself"):
            backup_store(store, f"{path}{ending}", overwrite=True)
    assert sorted(os.listdir(os.path.dirname(path))) == names
    assert everything(store) == before
    with (
        reopened(store, tmp_path / "x.backup") as odd,
        pytest.raises(StoreError, match="has the name of a file that belongs beside"),
    ):
        backup_store(odd, tmp_path / "x")
    assert (tmp_path / "x.backup").is_file()


@posix
@file_stores
def test_what_is_no_file_is_not_overwritten(store: ConversationStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    os.mkdir(tmp_path / "folder")
    for name, reason in (("pipe", "is no regular file"), ("folder", "is a directory")):
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=reason) as caught:
                backup_store(store, tmp_path / name, overwrite=overwrite)
            assert "overwrite" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


@pytest.mark.claude_comms(stores=["sqlite"])
def test_over_a_store_that_is_open_with_an_empty_log(
    store: ConversationStore, tmp_path: Path
) -> None:
    fill(store)
    path = tmp_path / "backup"
    with reopened(store, path) as other:
        assert (tmp_path / "backup-wal").stat().st_size == 0
        with pytest.raises(StoreError, match="was not closed.*close that store everywhere"):
            backup_store(store, path, overwrite=True)
        assert other.threads() == []
    backup_store(store, path, overwrite=True)
    assert check_store(f"sqlite:///{path}").findings == ()


@file_stores
def test_a_backup_is_another_store(store: ConversationStore, tmp_path: Path) -> None:
    """What it gives after its last revision is not what the store gave."""
    fill(store)
    backup_store(store, tmp_path / "backup")
    assert os.listdir(tmp_path) == ["backup"]
    with reopened(store, tmp_path / "backup") as other:
        assert other.store_id != store.store_id
        assert other.changes() == store.changes()


@file_stores
def test_beside_a_store_that_was_not_closed(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    path = tmp_path / "backup"
    with reopened(store, path) as other:
        other.create_thread()
        with pytest.raises(StoreError, match="was not closed"):
            backup_store(store, path, overwrite=True)
        os.unlink(path)  # what is beside it is still there
        with pytest.raises(StoreError, match="was not closed"):
            backup_store(store, path)


@file_stores
def test_what_is_left_of_a_killed_backup(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    (tmp_path / "backup.backup").write_text("half of it")
    (tmp_path / "backup.backup-journal").write_text("and this")
    backup_store(store, tmp_path / "backup")
    assert check_store(f"{store.backend}:///{tmp_path}/backup").findings == ()
    assert os.listdir(tmp_path) == ["backup"]


@file_stores
def test_over_a_backup_that_was_opened_and_closed(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    path = tmp_path / "backup"
    backup_store(store, path)
    with reopened(store, path) as other:
        other.update_message("open", status="complete")
    backup_store(store, path, overwrite=True)
    assert f"{path}.lock" in map(str, tmp_path.iterdir())  # it was there before
    with reopened(store, path) as again:
        assert everything(again) == everything(store)


@file_stores
def test_a_store_that_is_written_to_at_the_path(store: ConversationStore, tmp_path: Path) -> None:
    path = tmp_path / "backup"
    lock = FileLock(f"{path}.lock")
    claim = lock.claim()
    claim.try_acquire()
    try:
        store.clock.backoff = lambda bound: type(store.clock).backoff(store.clock, 50_000)  # type: ignore[method-assign,assignment]
        with pytest.raises(StoreBusy):
            backup_store(store, path)
    finally:
        claim.release()
        lock.close()
    assert os.listdir(tmp_path) == ["backup.lock"]


def test_a_store_without_a_file(tmp_path: Path) -> None:
    with (
        open_store("memory:") as store,
        pytest.raises(StoreError, match=r"copy_store\(\) copies it"),
    ):
        backup_store(store, tmp_path / "x")


@posix
@file_stores
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_it_is_private(store: ConversationStore, tmp_path: Path, umask: int) -> None:
    old = os.umask(umask)
    try:
        backup_store(store, tmp_path / "new" / "backup")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(tmp_path / "new" / "backup").st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700


@posix
@file_stores
def test_it_is_private_while_it_is_written(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    monkeypatch.setattr(sqlite_keeping, "PAGES", 1)
    seen: set[tuple[str, int]] = set()

    def look(step: str, done: int, total: int) -> None:
        for name in os.listdir(tmp_path):
            seen.add((name, stat.S_IMODE(os.stat(tmp_path / name).st_mode)))

    backup_store(store, tmp_path / "backup", progress=look)
    assert ("backup.backup", 0o600) in seen
    assert {mode for _, mode in seen} == {0o600}
    assert "backup" not in {name for name, _ in seen}


@file_stores
def test_tables_of_the_users_are_in_it(store: ConversationStore, tmp_path: Path) -> None:
    if store.backend == "tinydb":
        store.db.table("mine").insert({"a": 1})  # type: ignore[attr-defined]
        backup_store(store, tmp_path / "backup")
        with reopened(store, tmp_path / "backup") as again:
            assert again.db.table("mine").all() == [{"a": 1}]  # type: ignore[attr-defined]


@file_stores
def test_a_failure_leaves_nothing(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        backup_store(store, tmp_path / "backup")
    assert os.listdir(tmp_path) == []


@file_stores
def test_a_name_that_may_not_last_is_told(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(backup, "fsync_directory", fail)
    with pytest.raises(
        StoreError, match="the backup is there, a power cut may undo that"
    ) as caught:
        backup_store(store, tmp_path / "backup")
    assert caught.value.outcome == "unknown"
    monkeypatch.undo()
    with reopened(store, tmp_path / "backup") as again:
        assert everything(again) == everything(store)


# -- restored


@file_stores
def test_a_watcher_of_a_restored_store_is_told(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    backup_store(store, tmp_path / "backup")
    store.update_message("open", append="LOST")
    cursor = store.changes().cursor
    path = store.url.partition("///")[2]
    for ending in ("-wal", "-shm", ".journal"):  # as the documentation says
        if os.path.exists(f"{path}{ending}"):
            os.unlink(f"{path}{ending}")
    os.replace(tmp_path / "backup", path)
    with open_store(store.url, durability="process") as after:
        after.update_message("open", append="NEW")
        assert after.cursor() == cursor
        assert after.get_message("open").content == "so farNEW"
        for act in (lambda: store.changes(cursor), lambda: store.get_message("open")):
            with pytest.raises(HistoryGone):
                act()


# -- while others write, and killed


@file_stores
def test_one_state_of_a_store_that_is_being_written(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_keeping, "PAGES", 5)
    fill(store)
    child = run(_WRITE, store.url)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        revisions = set()
        for turn in range(500):  # the system gives the writer its time when it likes
            before = store.cursor()
            backup_store(store, tmp_path / str(turn))
            report = check_store(f"{store.backend}:///{tmp_path / str(turn)}")
            assert report.findings == ()
            assert before <= report.revision <= store.cursor()
            revisions.add(report.revision)
            if turn >= 4 and len(revisions) > 1:
                break
    finally:
        child.kill()
        child.communicate()
    assert len(revisions) > 1


_BACK_UP = """
import sys
from pytest_claude_comms import open_store
from pytest_claude_comms.stores.backup import backup_store
with open_store(sys.argv[1]) as store:
    backup_store(store, sys.argv[2])
"""


def check_killed_backups(backend: str, folder: Path, *, every: bool) -> tuple[int, int]:
    """Returns after how many kills there was no backup, and after how many a whole one."""
    data = folder / "data"
    data.mkdir()
    source, target = f"{backend}:///{data}/s", f"{data}/d"
    with open_store(source, durability="process") as store:
        fill(store)
        expected = everything(store)
    none = whole = 0
    for _ in killed_at_system_calls(_BACK_UP, source, target, folder=data, every=every):
        with open_store(source, durability="process") as store:
            assert everything(store) == expected
            if os.path.exists(target):
                whole += 1
            else:
                none += 1
            backup_store(store, target, overwrite=True)
            assert not [name for name in os.listdir(data) if name.startswith("d.b")]
        with open_store(f"{backend}:///{target}", durability="process") as store:
            assert everything(store) == expected
    return none, whole


@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_killed_at_some_system_calls(backend: str, tmp_path: Path) -> None:
    none, whole = check_killed_backups(backend, tmp_path, every=False)
    assert none + whole > 0


@pytest.mark.long
@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_killed_at_every_system_call(backend: str, tmp_path: Path) -> None:
    none, whole = check_killed_backups(backend, tmp_path, every=True)
    print(
        f"{backend}: killed at {none + whole} system calls: {none} without, {whole} with a backup"
    )
    assert none > 3
    assert whole > 0


@every_store
def test_it_says_what_it_wrote(store: ConversationStore, tmp_path: Path) -> None:
    if store.backend == "memory":
        return
    told: list[tuple[str, int, int]] = []
    report = backup_store(store, tmp_path / "b", progress=lambda *each: told.append(each))
    assert report.source == store.url
    assert told[-1][1] == told[-1][2] > 0


@pytest.mark.claude_comms(stores=["sqlite"])
def test_what_somebody_reads_while_it_is_unfinished_is_no_backup(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written last is then still in its log, which is not part of the one file."""
    fill(store)
    path = tmp_path / "backup"
    give_id = sqlite_rows.give_id
    others: list[sqlite3.Connection] = []

    def give_id_while_somebody_reads(db: sqlite3.Connection, *, claimed: bool) -> None:
        others.append(other := sqlite3.connect(f"{path}.backup", isolation_level=None))
        other.execute("BEGIN")
        other.execute("SELECT store_id FROM meta").fetchone()
        give_id(db, claimed=claimed)

    monkeypatch.setattr(sqlite_keeping, "give_id", give_id_while_somebody_reads)
    with pytest.raises(StoreError, match="somebody has opened the unfinished backup"):
        backup_store(store, path)
    for other in others:
        other.close()
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    backup_store(store, path)
    with reopened(store, path) as again:
        assert again.store_id != store.store_id
        assert everything(again) == everything(store)


def test_it_is_named_by_a_path_and_made_of_an_open_store(tmp_path: Path) -> None:
    name: Any = "sqlite:///comms.db"
    with pytest.raises(TypeError, match="what is backed up must be an open store, not 'sqlite:"):
        backup_store(name, tmp_path / "b")
    theirs: Any = SimpleNamespace(get_thread=print)
    with pytest.raises(TypeError, match=r"; make one of it with adapt_store\(obj\)$"):
        backup_store(theirs, tmp_path / "b")
    with (
        open_store(f"sqlite:///{tmp_path}/s.db") as store,
        pytest.raises(ValueError, match="^'sqlite:///b.db' is a URL, and a path is needed here"),
    ):
        backup_store(store, "sqlite:///b.db")
    for kind in (SQLiteConversationStore, TinyDBConversationStore):
        with pytest.raises(ValueError, match="is a URL, and a path is needed here"):
            kind(f"tinydb://{tmp_path}/s.json")
    assert not Path("sqlite:").exists()
    assert not Path("tinydb:").exists()


def test_what_comes_and_goes_at_the_last_instant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was a file when ours was to be put there, and none when we looked whose it is."""

    def link(source: str, target: str) -> None:
        raise FileExistsError(17, "File exists", target)

    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(StoreError, match="File exists"):
            backup_store(store, tmp_path / "backup")
        assert not [name for name in os.listdir(tmp_path) if name.startswith("backup")]


@pytest.mark.claude_comms(stores=["sqlite"])
def test_nothing_stays_beside_a_backup_that_failed_while_somebody_had_it_open(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite leaves its log and the index of it to the last who has the file open."""
    fill(store)
    others: list[sqlite3.Connection] = []

    def fail(db: sqlite3.Connection, *, claimed: bool) -> None:
        others.append(other := sqlite3.connect(tmp_path / "b.backup", isolation_level=None))
        other.execute("SELECT store_id FROM meta").fetchone()
        assert {"b.backup", "b.backup-wal", "b.backup-shm"} <= set(os.listdir(tmp_path))
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite_keeping, "give_id", fail)
    with pytest.raises(StoreError, match="disk I/O error"):
        backup_store(store, tmp_path / "b")
    assert os.listdir(tmp_path) == []
    for other in others:
        other.close()


@file_stores
def test_who_has_the_path_open_is_waited_for_five_seconds_of_the_stores_clock(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup"
    bounds: list[int] = []

    def backoff(bound_us: int) -> Any:
        bounds.append(bound_us)
        return type(store.clock).backoff(store.clock, 50_000)

    lock = FileLock(f"{path}.lock")
    claim = lock.claim()
    claim.try_acquire()
    try:
        monkeypatch.setattr(store.clock, "backoff", backoff)
        with pytest.raises(StoreBusy, match=re.escape(str(path))):
            backup_store(store, path)
    finally:
        claim.release()
        lock.close()
    assert bounds == [5_000_000]


@file_stores
def test_a_hard_link_to_the_store_is_the_store_itself(
    store: ConversationStore, tmp_path: Path
) -> None:
    fill(store)
    path = store.url.partition("///")[2]
    os.link(path, tmp_path / "link")
    os.link(f"{path}.lock", tmp_path / "lock")
    before, folder = everything(store), re.escape(str(tmp_path))
    with pytest.raises(StoreError, match=f"^{folder}/link is the store itself: back it up into"):
        backup_store(store, tmp_path / "link", overwrite=True)
    with pytest.raises(StoreError, match=f"^{folder}/lock is a file of the store itself, beside"):
        backup_store(store, tmp_path / "lock", overwrite=True)
    assert everything(store) == before
    assert sorted(os.listdir(tmp_path)) == ["link", "lock"]


@file_stores
def test_what_stands_in_the_way_is_named(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    path = tmp_path / "backup"
    for ending in ("-wal", "-shm", "-journal"):
        beside = Path(f"{path}{ending}")
        beside.write_bytes(b"x")
        for overwrite in (False, True):
            with pytest.raises(StoreError, match=f"^{re.escape(str(beside))} belongs to a store"):
                backup_store(store, path, overwrite=overwrite)
        assert os.listdir(tmp_path) == [beside.name]
        beside.unlink()
    for ending, held in (("-journal", b""), (".journal", b""), (".journal", b"one line\n")):
        beside = Path(f"{path}{ending}")
        beside.write_bytes(held)
        backup_store(store, path, overwrite=True)
        beside.unlink()
    beside = Path(f"{path}.journal")
    beside.write_bytes(b"one line\nanother\n")
    with pytest.raises(StoreError, match=f"^{re.escape(str(beside))} belongs to a store"):
        backup_store(store, path, overwrite=True)

    def fail(*given: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=f"{re.escape(str(tmp_path))}/new: No space left"):
        backup_store(store, tmp_path / "new")


@file_stores
def test_what_cannot_be_removed_hides_no_outcome(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    real = os.unlink

    def unlink(path: str) -> None:
        if path in there:
            raise PermissionError(13, "Permission denied", path)
        real(path)

    def fail(*given: Any, **more: Any) -> None:
        there.append(f"{tmp_path}/broken.backup")
        raise OSError(28, "No space left on device")

    there = [f"{tmp_path}/backup.lock", f"{tmp_path}/broken.lock"]
    monkeypatch.setattr(os, "unlink", unlink)
    assert backup_store(store, tmp_path / "backup").bytes > 0
    monkeypatch.setattr(backup, "_sync", fail)
    with pytest.raises(StoreError, match="broken: No space left on device"):
        backup_store(store, tmp_path / "broken")
    assert sorted(os.listdir(tmp_path)) == [
        "backup", "backup.lock", "broken.backup", "broken.lock",
    ]  # fmt: skip
    monkeypatch.undo()
    backup_store(store, tmp_path / "broken")
    with reopened(store, tmp_path / "broken") as again:
        assert everything(again) == everything(store)


@file_stores
def test_a_name_that_cannot_be_removed_is_no_failure(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    real = os.unlink

    def unlink(path: str) -> None:
        if path == f"{tmp_path}/new.backup" and os.path.exists(path):
            raise PermissionError(13, "Permission denied", path)
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    assert backup_store(store, tmp_path / "new").bytes > 0
    assert sorted(os.listdir(tmp_path)) == ["new", "new.backup"]
    monkeypatch.undo()
    backup_store(store, tmp_path / "new", overwrite=True)
    assert os.listdir(tmp_path) == ["new"]
    with reopened(store, tmp_path / "new") as again:
        assert everything(again) == everything(store)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a __del__
@pytest.mark.parametrize("had_lock", [False, True])
def test_an_interrupted_backup_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, had_lock: bool
) -> None:
    def write(*_: object, **__: object) -> int:
        return 1

    lock = tmp_path / "b" / "new.lock"
    others = FileLock(str(lock))
    monkeypatch.setattr(backup, "_write", write)
    came = Signal()
    step = 1
    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        if had_lock:
            lock.parent.mkdir()
            lock.touch()
        while came.comes_in(lambda: backup_store(store, tmp_path / "b" / "new"), step):
            assert lock.exists() is had_lock, step
            if had_lock:
                claim = others.claim()
                assert claim.try_acquire(), step
                claim.release()
            step += 1
    assert step > 30
    others.close()


def test_a_lock_that_a_store_has_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FileLock(f"{tmp_path}/new.lock")
    claim = lock.claim()

    def create(path: str) -> bool:
        assert claim.try_acquire()
        return create_private(path)

    monkeypatch.setattr(backup, "create_private", create)
    monkeypatch.setattr(backup, "BUSY_TIMEOUT", 0.02)
    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        with pytest.raises(StoreBusy):
            backup_store(store, tmp_path / "new")
        assert os.path.exists(lock.path)
        claim.release()
        monkeypatch.undo()
        backup_store(store, tmp_path / "new")
    lock.close()


@file_stores
def test_what_is_interrupted_as_it_lets_go_lets_go_all_the_same(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)
    let_go, interrupts = backup._let_go, [KeyboardInterrupt()]

    def interrupted(*given: Any, **named: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        let_go(*given, **named)

    monkeypatch.setattr(backup, "_let_go", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backup_store(store, tmp_path / "new")
    assert os.listdir(tmp_path) == ["new"], "it is there, and its lock is not"
    backup_store(store, tmp_path / "new", overwrite=True)
