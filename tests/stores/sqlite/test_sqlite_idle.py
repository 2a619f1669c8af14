"""A look at a SQLite store in which nothing has happened costs nothing, and misses nothing."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from pytest_claude_comms.stores import sqlite, sqlite_link
from pytest_claude_comms.stores.core import BaseStore
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.sqlite_kit import Once, Python, seed

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


def test_an_idle_look_that_fails_leaves_it_to_the_read(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    broken = Once(sqlite_link.Link.is_last, sqlite3.OperationalError("disk I/O error"))
    monkeypatch.setattr(sqlite_link.Link, "is_last", broken)
    assert store.changes(1) == store.changes(1)
    assert (store.changes(1).cursor, broken.calls) == (1, 3)
