"""What the tests of the SQLite store share."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.clock import SECOND, Backoff, SystemClock
from pytest_claude_comms.stores.core import BaseStore

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


def everything(store: BaseStore) -> list[Callable[[], object]]:
    """Each call of a store, on thread ``t`` and message ``m`` where one is needed."""
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


def empty_log(path: Path) -> None:
    with raw(path) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0


def become_idle(store: BaseStore) -> int:
    cursor = store.cursor()
    for _ in range(3):
        assert store.changes(cursor).cursor == cursor
    return cursor


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
