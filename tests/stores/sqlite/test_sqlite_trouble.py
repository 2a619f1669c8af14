"""What goes wrong in the midst of a call on a SQLite store."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import (
    HistoryGone,
    InvalidTransition,
    StoreBusy,
    StoreCorrupt,
    StoreError,
)
from pytest_claude_comms.stores import sqlite_link, sqlite_rows
from pytest_claude_comms.stores.files import UNWRITABLE, Claim
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.sqlite_kit import (
    Once,
    Python,
    SteppedClock,
    become_idle,
    finish,
    posix,
    raw,
    seed,
)

# -- what SQLite says


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


def test_what_sqlite_says_is_told() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    assert str(sqlite_link.store_error("p", error)) == "p: disk I/O error (OperationalError)"
    error.__dict__["sqlite_errorname"] = "SQLITE_IOERR_READ"
    assert str(sqlite_link.store_error("p", error)) == "p: disk I/O error (SQLITE_IOERR_READ)"
    busy = sqlite_link.store_error("p", sqlite3.OperationalError("database is locked"))
    assert isinstance(busy, StoreBusy)
    assert busy.path == "p"


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
    assert said == f"{home}/comms.db: Permission denied; {UNWRITABLE}\n"


# -- what goes wrong in the midst of a call


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
    release = Claim.release
    releases: list[int] = []

    def interrupted(claim: Claim) -> None:
        releases.append(1)
        if len(releases) == 1:
            raise KeyboardInterrupt
        release(claim)

    monkeypatch.setattr(Claim, "release", interrupted)
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
