"""A SQLite store as a whole: filled from a snapshot, trimmed, made smaller, backed up."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from typing import TypeAlias

from ..clock import SECOND, SystemClock
from ..errors import StoreBusy, StoreError
from . import rules
from .reports import Progress, StoreSnapshot
from .rules import ChangeRow, MessageRow
from .sqlite_rows import (
    Commit,
    SQLiteSnapshot,
    SQLiteTransaction,
    give_id,
    new_mark,
    set_trimmed,
    status_of,
)

Writing: TypeAlias = Callable[[], AbstractContextManager[SQLiteTransaction]]

BATCH = 2_000
"""Changes that are looked at in one transaction of a trimming: others write in between."""

STEPS = 10_000
"""Of SQLite's machine, between two looks at the clock: well under a millisecond."""

PAGES = 1_000
"""Pages that are moved or copied at a time."""

VACUUM_US = SECOND
"""A file that cannot give back pages one by one is written anew, if it takes no longer than
about this: meanwhile nobody can write to it, and writers wait for 5 seconds."""


def restore(tx: SQLiteTransaction, snapshot: StoreSnapshot, progress: Progress) -> None:
    """Fill an empty store, in the transaction that is open."""
    db = tx.db
    for thread in snapshot.threads:
        tx.add_thread(thread)
    numbers = {row.message_id: number for number, row in enumerate(snapshot.messages, 1)}
    db.executemany(
        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
        (_message(numbers[row.message_id], row) for row in snapshot.messages),
    )
    db.executemany(
        "INSERT INTO contents VALUES (?, ?, ?)",
        (
            (numbers[row.message_id], row.revision, row.content)
            for row in snapshot.messages
            if row.content
        ),
    )
    total, mark = len(snapshot.changes), None
    for start in range(0, total, BATCH):
        part = []
        for change in snapshot.changes[start : start + BATCH]:
            mark = new_mark()
            part.append(_change(numbers[change.message_id], mark, change))
        db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", part)
        progress("writing", start + len(part), total)
    if snapshot.trimmed:
        set_trimmed(db, snapshot.trimmed)
    tx.last = Commit(snapshot.revision, mark)


def _message(number: int, row: MessageRow) -> tuple[object, ...]:
    return (
        number,
        row.message_id,
        row.thread_id,
        row.module_name,
        row.message_type,
        row.status.value,
        row.created_us,
        row.updated_us,
        row.expires_us,
        row.stall_us,
        row.open_deadline_us,
        row.error,
        row.metadata,
        row.revision,
    )


def _change(number: int, mark: int, change: ChangeRow) -> tuple[object, ...]:
    return (
        change.revision,
        mark,
        number,
        change.at_us,
        None if change.previous is None else change.previous.value,
        change.status.value,
        change.append,
        change.content,
        change.content_length,
        change.error,
        change.metadata,
    )


def compact(
    writing: Writing, floor: int, cut_log: Callable[[], None], path: str
) -> tuple[int, int, str | None]:
    """Trim history up to ``floor``, then make the file smaller.

    Returns up to where history is trimmed, how many changes that removed, and what keeps the file
    from being smaller. Each batch is a commit, so an error after the first that removed something
    does not mean that nothing was done.
    """
    trimmed = removed = 0
    try:
        for trimmed, count in trim(writing, floor):  # noqa: B007 - the last one is returned
            removed += count
        waiting = shrink(writing)
        try:
            cut_log()
        except StoreBusy:  # all that was asked for is done
            waiting = (
                waiting or "somebody is writing; the file gets smaller with the next checkpoint"
            )
    except StoreError as error:
        if not removed:
            raise
        if not error.transient:  # its kind says more than that
            error.outcome = "unknown"
            raise
        why = f"it was busy for {error.waited:.3g} s" if isinstance(error, StoreBusy) else error
        raise StoreError(
            f"{path} was not compacted to the end: its history was trimmed up to revision "
            f"{trimmed}, but then: {why}; call compact() again",
            outcome="unknown",
        ) from error
    return trimmed, removed, waiting


def trim(writing: Writing, floor: int) -> Iterator[tuple[int, int]]:
    """Trim history up to ``floor``, batch by batch: up to where it is trimmed after each, and how
    many changes that removed."""
    done: int | None = 0
    while done is not None:
        with writing() as tx:
            done, count = trim_batch(tx, done, floor)
            trimmed = tx.trimmed()
        yield trimmed, count
        if done is not None:
            _let_others_in()


def _let_others_in() -> None:
    # Writers that wait look every 8 ms whether they can go on. Real time: it is theirs.
    SystemClock().sleep(0.01)


def trim_batch(tx: SQLiteTransaction, done: int, floor: int) -> tuple[int | None, int]:
    """Trim one batch of the changes after ``done`` and up to ``floor``.

    Returns how far it came, None if that is all, and how many it removed. Each batch leaves a
    history that is whole after the last one it removed, so it may end after any of them.
    """
    found = tx.db.execute(
        "SELECT c.revision, c.number, c.previous, c.status, m.status, m.revision, m.tail"
        " FROM changes AS c CROSS JOIN messages AS m ON m.number = c.number"
        " WHERE c.revision > ? AND c.revision <= ? ORDER BY c.revision LIMIT ?",
        (done, floor, BATCH),
    ).fetchall()
    is_all = len(found) < BATCH
    came = floor if is_all else int(found[-1][0])
    # The text of a message with a tail is put together from its changes.
    gone = [(each[0],) for each in found if not each[6] and not _outlives(tx, each)]
    before = tx.trimmed()  # it counts what is missing, too, so not after the next line
    tx.db.executemany("DELETE FROM changes WHERE revision = ?", gone)
    # Up to the last one that went, and no further: nobody who is past that misses any.
    last = gone[-1][0] if gone else 0
    if last > before:
        set_trimmed(tx.db, last)
    return None if is_all else came, len(gone)


def _outlives(tx: SQLiteSnapshot, found: tuple[object, ...]) -> bool:
    revision, _, previous, status, stands, last, _ = found
    return rules.outlives(
        None if previous is None else status_of(previous, tx.path),
        status_of(status, tx.path),
        stands=status_of(stands, tx.path),
        is_last=revision == last,
    )


def lay_out_to_shrink(db: sqlite3.Connection) -> None:
    """Let a new file give pages back later, some at a time. Before anything is in it."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")


def gives_back(db: sqlite3.Connection) -> bool:
    """Whether the file was laid out so."""
    return bool(db.execute("PRAGMA auto_vacuum").fetchone()[0] == 2)


def shrink(writing: Writing) -> str | None:
    """Cut off the pages that hold nothing, some at a time; returns why that was not done.

    The file itself gets smaller at the next checkpoint.
    """
    while True:
        with writing() as tx:
            if not _free_pages(tx.db):
                return None
            if not gives_back(tx.db):
                return _write_anew(tx)
            # One by one: it does a page a row, and Python stops at the first, for lack of columns.
            for _ in range(PAGES):
                tx.db.execute("PRAGMA incremental_vacuum(1)")
        _let_others_in()


def _free_pages(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA freelist_count").fetchone()[0])


def _write_anew(tx: SQLiteTransaction) -> str | None:
    """Write the whole file anew, under the lock; returns why that was not done.

    For files that were laid out before ours gave back pages; they do from then on.
    """
    db, clock = tx.db, SystemClock()
    came: list[BaseException] = []
    looks = _looks(clock, clock.monotonic_us() + VACUUM_US, came)
    next(looks)
    waiting = None
    tx.link.is_sound = False  # with that handler, no other call is to get it
    db.execute("ROLLBACK")  # VACUUM is a transaction of its own
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.set_progress_handler(looks.__next__, STEPS)
        db.execute("VACUUM")
    except sqlite3.OperationalError as error:
        waiting = f"the file could not be written anew: {error}"
        if "interrupted" in str(error):
            waiting = "to write the file anew would block writers for too long"
    finally:
        db.set_progress_handler(None, 0)
    if came:
        raise came[0]
    db.execute("BEGIN")  # nothing is written in it, so nobody can be in its way
    tx.link.is_sound = True
    return waiting


def _looks(clock: SystemClock, end_us: int, came: list[BaseException]) -> Iterator[bool]:
    """Whether it is later than that, each time. What a signal handler raises meanwhile, and SQLite
    would swallow, ends it and is in ``came``.

    A function would be interrupted before its first line; this is always inside its ``try``.
    """
    try:
        while True:
            yield clock.monotonic_us() > end_us
    except BaseException as error:  # noqa: BLE001 - raised by who had it called
        came.append(error)


def back_up(snapshot: SQLiteSnapshot, path: str, progress: Progress) -> None:
    """Copy what the open transaction sees into the empty file ``path``, as a store of its own.

    Its id is a new one, and whoever opens it to write gives it another: restored, it gives the
    revisions that came after it once more, and a pair of store id and revision must not mean two
    changes. The transaction stays open, so the copy need not begin again whenever somebody
    commits.
    """
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as target:
            snapshot.db.backup(
                target,
                pages=PAGES,
                progress=lambda _, left, total: progress("writing", total - left, total),
                sleep=0,
            )
            target.execute("BEGIN IMMEDIATE")
            give_id(target, claimed=False)
            target.execute("COMMIT")
            # Closing would do it too, but not say if it failed; and the log is deleted below.
            (busy, *_) = target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise sqlite3.OperationalError("somebody has opened the unfinished backup")
    finally:
        for ending in ("-journal", "-wal", "-shm"):
            with suppress(OSError):
                os.unlink(f"{path}{ending}")
