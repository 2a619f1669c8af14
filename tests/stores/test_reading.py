"""Stores that are opened to be looked at: what they answer, and that nothing changes by it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    MessageNotFound,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    open_store,
)
from pytest_claude_comms.stores import (
    open_for_reading,
    sqlite_check,
    sqlite_link,
    sqlite_quiet,
    sqlite_rows,
)
from pytest_claude_comms.stores.backup import backup_store
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.copying import copy_store
from tests.stores.keeping_kit import everything, file_stores, fill, posix, run

_KILLED = """
import os, sys
from pytest_claude_comms import open_store
from tests.stores.keeping_kit import fill
store = open_store(sys.argv[1])
fill(store)
os.kill(os.getpid(), 9)
"""


def folder(path: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in path.iterdir() if each.is_file()}


def killed(scheme: str, path: Path) -> str:
    url = f"{scheme}:///{path}"
    root = str(Path(__file__).parents[2])
    run(f"import sys; sys.path.insert(0, {root!r})\n{_KILLED}", url).communicate()
    return url


@file_stores
def test_the_same_answers(store: ConversationStore) -> None:
    fill(store)
    store.compact(keep=9)
    before = everything(store)
    with open_for_reading(store.url, clock=store.clock) as reader:
        assert (reader.store_id, reader.url, reader.backend) == (
            store.store_id, store.url, store.backend,
        )  # fmt: skip
        assert everything(reader) == before
        assert reader.get_thread("t") == store.get_thread("t")
        assert reader.snapshot() == store.snapshot()  # type: ignore[attr-defined]
        with pytest.raises(MessageNotFound):
            reader.get_message("nobody")
        with pytest.raises(HistoryGone, match="were trimmed"):
            reader.changes(0)
        # It is followed, while others write.
        store.update_message("open", status="processing")
        assert reader.get_message("open").status == "processing"
        assert everything(reader) == everything(store)
        store.close()
        assert reader.get_message("open").status == "processing"


@posix
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
@pytest.mark.parametrize("how", ["closed", "killed", "backup"])
def test_nothing_changes(tmp_path: Path, scheme: str, how: str) -> None:
    url = f"{scheme}:///{tmp_path}/s"
    if how == "killed":
        killed(scheme, tmp_path / "s")
        if scheme == "sqlite":  # as after a power cut: the index of the log is of no use
            size = (tmp_path / "s-shm").stat().st_size
            (tmp_path / "s-shm").write_bytes(bytes(size))
    else:
        with open_store(url, durability="process") as store:
            fill(store)
            backup_store(store, tmp_path / "b")
    url = f"{scheme}:///{tmp_path}/b" if how == "backup" else url
    before = folder(tmp_path)
    with open_for_reading(url) as reader:
        answers = everything(reader)
        reader.snapshot()  # type: ignore[attr-defined]
        assert folder(tmp_path).keys() == before.keys()
    assert folder(tmp_path) == before
    assert check_store(url).findings == ()
    assert folder(tmp_path) == before
    with open_store(url) as store:  # nothing was lost by it
        assert [each.split("url")[0] for each in everything(store)] == answers


@posix
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_nothing_that_writes(tmp_path: Path, scheme: str) -> None:
    url = f"{scheme}:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        fill(store)
        store.add_message("t", "m", status="pending", message_id="late", timeout=0)
    before = folder(tmp_path)
    with open_for_reading(url) as reader:
        for call in (
            lambda: reader.create_thread(),
            lambda: reader.add_message("t", "m"),
            lambda: reader.update_message("open", append="x"),
            lambda: reader.expire(),
            lambda: reader.compact(keep=0),
        ):
            with pytest.raises(StoreError, match=f"^{re.escape(url)} was opened for reading only"):
                call()
        with open_store("memory:") as other, pytest.raises(StoreError, match="not empty|only"):
            fill(other)
            copy_store(other, reader)
    assert folder(tmp_path) == before


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_what_is_no_store(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        open_for_reading(f"{scheme}:///{tmp_path}/none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="is a directory"):
        open_for_reading(f"{scheme}:///{tmp_path}/folder")
    for text in (
        b"",
        b"{}",
        b"[1]",
        b"SQLite format 3\0",
        b'{"claude_comms": {"1": {"format": 1}}}',
    ):
        (tmp_path / "x").write_bytes(text)
        with pytest.raises(StoreError):
            open_for_reading(f"{scheme}:///{tmp_path}/x")
        assert folder(tmp_path) == {"x": text}


def test_a_tinydb_journal_that_is_of_another_store(tmp_path: Path) -> None:
    killed("tinydb", tmp_path / "a")
    killed("tinydb", tmp_path / "b")
    shutil.copy(tmp_path / "b.journal", tmp_path / "a.journal")
    with pytest.raises(StoreCorrupt, match="belong to another"):
        open_for_reading(f"tinydb:///{tmp_path}/a")


@file_stores
def test_another_store_in_its_place(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    with open_store(f"{store.backend}:///{tmp_path}/other", durability="process") as other:
        fill(other)
    path = store.url.partition("///")[2]
    store.close()
    with open_for_reading(store.url) as reader:
        assert reader.threads()
        for name in (p.name for p in tmp_path.glob("other*")):
            os.replace(tmp_path / name, path + name.removeprefix("other"))
        with pytest.raises(HistoryGone):
            reader.threads()


# -- a SQLite file that was taken for one that nobody changes


@pytest.mark.claude_comms(stores=["sqlite"])
def test_what_was_read_while_it_changed_is_read_again(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads it as frozen takes no lock, so that somebody may open and write it."""
    fill(store)
    url, clock = store.url, store.clock
    store.close()
    reader = open_for_reading(url, clock=clock)
    from pytest_claude_comms.stores.sqlite_rows import SQLiteSnapshot

    real = SQLiteSnapshot.messages
    late: list[bool] = []

    def messages(self: Any, *given: Any) -> Any:
        found = real(self, *given)
        if not late:
            late.append(True)
            with open_store(url, clock=clock, durability="process") as other:
                other.add_message("t", "late")
        return found

    monkeypatch.setattr(SQLiteSnapshot, "messages", messages)
    with reader:
        assert reader.messages()[-1].module_name == "late"
        late.clear()

        def torn(self: Any, *given: Any) -> Any:
            messages(self, *given)
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(SQLiteSnapshot, "messages", torn)
        with pytest.raises(StoreCorrupt):  # it does not change any more: so that is true
            reader.messages()
        assert late


@pytest.mark.claude_comms(stores=["sqlite"])
def test_one_that_never_rests(store: ConversationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store)
    url, clock = store.url, store.clock
    store.close()
    with open_for_reading(url, clock=clock) as reader:
        from pytest_claude_comms.stores import sqlite_reading

        count = iter(range(10**6))
        monkeypatch.setattr(sqlite_reading, "files_of", lambda path: ((next(count), 0, 0),))
        with pytest.raises(StoreBusy, match=re.escape(url.partition("///")[2])):
            reader.messages()


# -- whose store it is


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_each_restored_backup_is_a_store_of_its_own(tmp_path: Path, scheme: str) -> None:
    """One that was restored twice gives the same revisions to different changes: a watcher who
    keeps ``(store_id, revision)`` must not take the one for the other."""
    with open_store(f"{scheme}:///{tmp_path}/s", durability="process") as store:
        fill(store)
        backup_store(store, tmp_path / "b")
        ids = {store.store_id}
    with open_for_reading(f"{scheme}:///{tmp_path}/b") as backup:
        ids.add(backup.store_id)
    for name in ("one", "two"):
        shutil.copy(tmp_path / "b", tmp_path / name)
        with open_store(f"{scheme}:///{tmp_path}/{name}", durability="process") as restored:
            found = restored.store_id
            restored.update_message("open", append=name)
        ids.add(found)
        with open_store(f"{scheme}:///{tmp_path}/{name}", durability="process") as again:
            assert again.store_id == found
        with open_for_reading(f"{scheme}:///{tmp_path}/{name}") as reader:
            assert reader.store_id == found
        report = check_store(f"{scheme}:///{tmp_path}/{name}")
        assert (report.findings, report.notes) == ((), ())
    assert len(ids) == 4
    report = check_store(f"{scheme}:///{tmp_path}/b")
    assert report.ok
    assert "store" in report.notes[0]
    assert "id of its own" in report.notes[0]


def test_eight_open_a_backup_at_once(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        fill(store)
        backup_store(store, tmp_path / "b")
    ids: set[str] = set()

    def take() -> None:
        with open_store(f"sqlite:///{tmp_path}/b", durability="process") as found:
            ids.add(found.store_id)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(ids) == 1


# -- locks that SQLite holds in this process


def test_a_file_that_is_copied_is_opened_by_nobody_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing a descriptor of a file drops the locks of this whole process on it."""
    url = killed("sqlite", tmp_path / "s")
    seen: list[bool] = []
    opener: list[threading.Thread] = []
    real = shutil.copyfile

    def opened() -> None:
        with open_store(url, durability="process") as store:
            seen.append(store.cursor() > 0)

    def copyfile(source: str, target: str) -> Any:
        if not opener:
            opener.append(threading.Thread(target=opened))
            opener[0].start()
            opener[0].join(0.3)  # it would be open by now; else it waits for us
        seen.append(False)
        assert not sqlite_link.is_open_here(str(tmp_path / "s"))
        return real(source, target)

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    assert sqlite_check._copied(str(tmp_path / "s"), str(tmp_path / "copy"))
    opener[0].join()
    assert seen[-1] is True
    assert seen[:-1] == [False] * (len(seen) - 1)


@posix
def test_a_look_leaves_the_locks_of_this_process(tmp_path: Path) -> None:
    """Another process sees them: who has a store open here, and one who checks it or reads it."""
    path = tmp_path / "s"
    script = f"""
import sqlite3, sys
for line in sys.stdin:
    db = sqlite3.connect({str(path)!r}, timeout=0, isolation_level=None)
    try:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
        print("alone", flush=True)
    except sqlite3.OperationalError as error:
        print("not alone", flush=True)
    db.close()
"""
    other = run(script)
    assert other.stdin is not None
    assert other.stdout is not None
    with open_store(f"sqlite:///{path}", durability="process") as store:
        fill(store)
        check_store(f"sqlite:///{path}")
        with open_for_reading(f"sqlite:///{path}") as reader:
            reader.messages()
        with sqlite_quiet.opened(str(path), sqlite_quiet.files_of(str(path))):
            pass
        other.stdin.write("\n")
        other.stdin.flush()
        assert other.stdout.readline() == "not alone\n"
    other.communicate()


# -- SQLite beside others, and without them


@pytest.fixture
def log_alone(tmp_path: Path) -> str:
    """A file and its log, put there by hand."""
    (tmp_path / "copy").mkdir()
    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        fill(store, turns=1)
        for name in ("s", "s-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    return str(tmp_path / "copy" / "s")


def test_a_log_alone_of_a_file_that_has_just_been_opened_here(log_alone: str) -> None:
    path = log_alone
    with closing(sqlite_link.Link(path, "process")):
        opened = sqlite_quiet.opened(path, sqlite_quiet.files_of(path))
        with (
            pytest.raises(sqlite3.OperationalError, match="locked .it has just been opened"),
            opened,
        ):
            pass
    assert sorted(os.listdir(os.path.dirname(path))) == ["s", "s-wal"]
    with sqlite_quiet.opened(path, sqlite_quiet.files_of(path)) as (link, is_frozen):
        assert is_frozen
        assert link.db.execute("SELECT count(*) FROM threads").fetchone() == (2,)


def test_a_connection_that_cannot_be_closed_counts_as_open(tmp_path: Path) -> None:
    """Nothing is known that makes it fail; if it does, its file must not be read past its locks."""
    path = str(tmp_path / "s.sqlite")
    with closing(sqlite3.connect(path)):
        pass
    link = sqlite_link.Link(path, "process")
    db = link.db

    class Unwilling:
        def close(self) -> None:
            raise sqlite3.OperationalError("unable to close")

    link.db = cast("Any", Unwilling())
    link.close()
    assert sqlite_link.is_open_here(path)
    link.db = db
    link.close()
    assert not sqlite_link.is_open_here(path)


@pytest.mark.parametrize("what", ["log", "file"])
def test_a_log_alone_that_goes_or_goes_with_its_file(
    log_alone: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = log_alone

    def copyfile(source: str, target: str) -> None:
        if what == "file":
            os.unlink(path)
        raise FileNotFoundError(2, "No such file or directory", source)

    files = sqlite_quiet.files_of(path)
    monkeypatch.setattr(shutil, "copyfile", copyfile)
    expected = {"log": sqlite3.OperationalError, "file": FileNotFoundError}[what]
    with pytest.raises(expected), sqlite_quiet.opened(path, files):
        pass


class Refusing:
    """A connection whose first statement is refused."""

    def __init__(self, db: sqlite3.Connection, error: sqlite3.Error) -> None:
        self._db = db
        self._errors = [error]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, *given: Any) -> Any:
        if self._errors:
            raise self._errors.pop()
        return self._db.execute(*given)


@pytest.mark.parametrize(
    ("error", "modes"),
    [
        # The index of the log has no place for one who may not write down what he reads.
        (
            sqlite3.OperationalError("attempt to write a readonly database"),
            ["ro&readonly_shm=1", "ro"],
        ),
        # What is wrong with the file whoever reads it will say.
        (sqlite3.DatabaseError("database disk image is malformed"), ["ro&readonly_shm=1"]),
        # Somebody is in the way: to be tried again.
        (sqlite3.OperationalError("database is locked"), ["ro&readonly_shm=1"]),
    ],
)
def test_beside_others_who_have_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: sqlite3.Error, modes: list[str]
) -> None:
    path = str(tmp_path / "s")
    links: list[Any] = []
    seen: list[str] = []

    class Beside(sqlite_link.Link):
        def __init__(self, path: str, durability: Any, mode: str = "rw", **more: Any) -> None:
            super().__init__(path, durability, mode, **more)
            if not links:
                self.db = Refusing(self.db, error)  # type: ignore[assignment]
            links.append(self)
            seen.append(mode)

    with open_store(f"sqlite:///{path}", durability="process") as store:
        fill(store)
        monkeypatch.setattr(sqlite_quiet, "Link", Beside)
        opened = sqlite_quiet.opened(path, sqlite_quiet.files_of(path))
        if "locked" in str(error):
            with pytest.raises(sqlite3.OperationalError, match="locked"), opened:
                pass
        else:
            with opened as (link, is_frozen):
                assert not is_frozen
                assert link.db.execute("SELECT count(*) FROM threads").fetchone() == (2,)
    assert seen == modes
    assert all(link.closed for link in links)


@pytest.mark.claude_comms(stores=["sqlite"])
def test_busy_in_the_midst_of_a_look_is_tried_again(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_claude_comms.stores.sqlite_rows import SQLiteSnapshot

    fill(store)
    real = SQLiteSnapshot.threads
    calls: list[int] = []

    def threads(self: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise sqlite3.OperationalError("database is locked")
        return real(self)

    with open_for_reading(store.url, clock=store.clock) as reader:
        monkeypatch.setattr(SQLiteSnapshot, "threads", threads)
        assert len(reader.threads()) == 2
    assert len(calls) == 2


@file_stores
def test_a_backup_of_what_is_only_looked_at(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    before = everything(store)
    with open_for_reading(store.url) as reader:
        backup_store(reader, tmp_path / "b")
    with open_for_reading(f"{store.backend}:///{tmp_path}/b", clock=store.clock) as backup:
        assert everything(backup) == before


# -- TinyDB's two files


@pytest.mark.parametrize("text", ["", "{}", '{"mine": {}}'])
def test_a_store_that_was_emptied_under_a_reader_stays_gone(tmp_path: Path, text: str) -> None:
    url = f"tinydb:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        fill(store)
    whole = (tmp_path / "s").read_bytes()
    with open_for_reading(url) as reader:
        (tmp_path / "s").write_text(text)
        with pytest.raises(HistoryGone, match="is gone: its file was emptied"):
            reader.threads()
        (tmp_path / "s").write_bytes(whole)
        with pytest.raises(HistoryGone, match="is gone: its file was emptied"):
            reader.threads()


def test_an_older_journal_beside_a_newer_file_is_looked_at(tmp_path: Path) -> None:
    """What a kill between the two replacements leaves, and what a writer would mend."""
    url = f"tinydb:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        old = (tmp_path / "s.journal").read_bytes()
        store.add_message("t", "a")
        expected = everything(store)
    (tmp_path / "s.journal").write_bytes(old)
    with open_for_reading(url) as reader:
        assert everything(reader) == expected


def test_an_older_file_beside_a_newer_journal_is_refused(tmp_path: Path) -> None:
    """Changes between the two are missing, and nobody can tell which."""
    url = f"tinydb:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
    old = (tmp_path / "s").read_bytes()
    with open_store(url, durability="process") as store:
        store.add_message("t", "a")
        store.checkpoint()  # type: ignore[attr-defined]
        store.add_message("t", "a")
        journal = (tmp_path / "s.journal").read_bytes()
    (tmp_path / "s").write_bytes(old)
    (tmp_path / "s.journal").write_bytes(journal)
    with pytest.raises(StoreCorrupt, match="goes up to change 1, not where it begins"):
        open_for_reading(url)


def test_a_journal_that_does_not_reach_the_file_has_to_be_empty(tmp_path: Path) -> None:
    url = f"tinydb:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        fill(store)
        expected = everything(store)
    with open_store(f"tinydb:///{tmp_path}/other", durability="process") as other:
        empty = (tmp_path / "other.journal").read_bytes()
        fill(other)
        changes = (tmp_path / "other.journal").read_bytes()
    (tmp_path / "s.journal").write_bytes(empty)  # of another store, with nothing in it
    with open_for_reading(url) as reader:
        assert everything(reader) == expected
    (tmp_path / "s.journal").write_bytes(changes)
    with pytest.raises(StoreCorrupt, match="belong to another"):
        open_for_reading(url)


def test_a_read_is_of_one_state_though_others_commit_between_its_statements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/s"
    real = sqlite_rows.SQLiteSnapshot.changes
    with open_store(url, durability="process") as store, open_for_reading(url) as reader:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", message_id="m")

        def changes(self: Any, *arguments: Any) -> Any:
            monkeypatch.undo()
            store.update_message("m", append="x")
            return real(self, *arguments)

        monkeypatch.setattr(sqlite_rows.SQLiteSnapshot, "changes", changes)
        found = reader.changes()
        assert (found.cursor, [change.revision for change in found]) == (1, [1])
        assert [change.revision for change in reader.changes(found.cursor)] == [2]


@file_stores
@pytest.mark.parametrize("is_open", [True, False])
def test_each_question_is_answered_as_by_the_store(
    store: ConversationStore, *, is_open: bool
) -> None:
    fill(store)
    store.add_message("t", "m", status="pending", message_id="late", timeout=1e6)
    url, clock = store.url, store.clock

    def asked(of: ConversationStore) -> list[Any]:
        return [
            of.get_thread("../../x\0"),
            of.get_message("a1"),
            of.threads(),
            of.messages("t"),
            of.messages(status="failed"),
            of.messages("t", ["complete", "pending"]),
            of.changes(),
            of.changes(5),
            of.changes(5, limit=2),
            of.changes(0, message="a1", limit=3),
            of.cursor(),
            of.next_deadline_us(),
            of.snapshot(),  # type: ignore[attr-defined]
        ]

    expected = asked(store)
    assert all(expected)
    if not is_open:
        store.close()
    with open_for_reading(url, clock=clock) as reader:
        assert reader.clock is clock
        assert asked(reader) == expected


@file_stores
def test_who_finds_another_store_is_told_which_it_was(
    store: ConversationStore, tmp_path: Path
) -> None:
    fill(store)
    with open_store(f"{store.backend}:///{tmp_path}/other", durability="process") as other:
        fill(other)
    path = store.url.partition("///")[2]
    store.close()
    with open_for_reading(store.url) as reader:
        reader.threads()
        for each in list(tmp_path.glob("other*")):
            os.replace(each, path + each.name.removeprefix("other"))
        for _ in range(2):
            with pytest.raises(HistoryGone) as caught:
                reader.threads()
            assert caught.value.store == store.url
            assert store.url in str(caught.value)


def test_a_copy_of_the_same_store_in_its_place_is_another_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        fill(store)
    shutil.copy(tmp_path / "s", tmp_path / "copy")
    with open_for_reading(url) as reader:
        assert len(reader.threads()) == 2
        os.replace(tmp_path / "copy", tmp_path / "s")
        for _ in range(2):
            with pytest.raises(HistoryGone, match="another file has taken its place"):
                reader.threads()


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_what_cannot_be_read_is_named(tmp_path: Path, scheme: str) -> None:
    def said(name: str) -> str:
        with pytest.raises(StoreError) as caught:
            open_for_reading(f"{scheme}:///{tmp_path}/{name}")
        if isinstance(caught.value, StoreCorrupt):
            assert caught.value.path == f"{tmp_path}/{name}"
        return str(caught.value)

    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "none").write_bytes(b"{}")
    for name in ("folder", "empty", "none", "nothing"):
        assert f"{tmp_path}/{name}" in said(name)
    with open_store(f"{scheme}:///{tmp_path}/s", durability="process") as store:
        fill(store)
    if scheme == "sqlite":
        with closing(sqlite3.connect(tmp_path / "s", isolation_level=None)) as db:
            db.execute("UPDATE messages SET status = 'done' WHERE message_id = 'q0'")
        with (
            open_for_reading(f"sqlite:///{tmp_path}/s") as reader,
            pytest.raises(StoreCorrupt) as caught,
        ):
            reader.messages()
        assert caught.value.path == f"{tmp_path}/s"


def test_a_file_that_ends_where_no_journal_does_is_refused(tmp_path: Path) -> None:
    """As many changes as the journal has, but not these."""
    url = f"tinydb:///{tmp_path}/s"
    with open_store(url, durability="process") as store:
        fill(store)
        journal = (tmp_path / "s.journal").read_bytes()
    content = json.loads((tmp_path / "s").read_text())
    content["claude_comms"]["1"]["link"] += 1
    (tmp_path / "s").write_text(json.dumps(content))
    (tmp_path / "s.journal").write_bytes(journal)
    seq = content["claude_comms"]["1"]["seq"]
    with pytest.raises(StoreCorrupt, match=f"goes up to change {seq}, not where it begins"):
        open_for_reading(url)


def test_another_tinydb_store_in_its_place_is_told_as_such(tmp_path: Path) -> None:
    url = f"tinydb:///{tmp_path}/s"
    for name in ("s", "other"):
        with open_store(f"tinydb:///{tmp_path}/{name}", durability="process") as store:
            fill(store)
    with open_for_reading(url) as reader:
        for ending in ("", ".journal"):
            os.replace(tmp_path / f"other{ending}", tmp_path / f"s{ending}")
        with pytest.raises(HistoryGone, match="is gone: another store is in its place"):
            reader.threads()


@posix
def test_what_is_copied_to_be_read_is_private(log_alone: str, tmp_path: Path) -> None:
    copy = tmp_path / "private"
    old = os.umask(0)
    try:
        sqlite_quiet.copy_files(log_alone, str(copy))
    finally:
        os.umask(old)
    for ending in ("", "-wal"):
        copied = Path(f"{copy}{ending}")
        assert copied.read_bytes() == Path(f"{log_alone}{ending}").read_bytes()
        assert stat.S_IMODE(copied.stat().st_mode) == 0o600
    os.unlink(f"{log_alone}-wal")
    sqlite_quiet.copy_files(log_alone, str(tmp_path / "alone"))
    assert not (tmp_path / "alone-wal").exists()
