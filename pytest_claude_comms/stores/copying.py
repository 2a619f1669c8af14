"""Copying a store into another one, of whatever backend."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields, replace
from itertools import chain
from operator import attrgetter
from typing import TypeAlias, cast

from ..errors import StoreCorrupt, StoreError
from . import values
from .base import ConversationStore
from .invariants import well_formed
from .keeping import no_progress
from .reports import Copyable, CopyReport, Progress, StoreSnapshot
from .rules import ChangeRow, MessageRow, ThreadRow

_Row: TypeAlias = ThreadRow | MessageRow | ChangeRow

_FIELDS = {
    kind: attrgetter(*(field.name for field in fields(kind)))
    for kind in (ThreadRow, MessageRow, ChangeRow)
}


def copy_store(
    source: ConversationStore, target: ConversationStore, *, progress: Progress | None = None
) -> CopyReport:
    """Copy all threads, messages and changes into ``target``, which has to be empty.

    The copy is the source as it is at one instant; others may go on writing to it. Ids, order,
    times, deadlines and revisions stay what they are, and so does how far history was trimmed:
    a cursor of the source is the same place in the copy. ``store_id`` does not: the two go their
    own ways from now on, so a watcher of one must not take the other for it.

    All or nothing: killed at any moment it leaves the target empty, or whole. What was written
    is read back and compared, by count and digest. A store is held in memory while it is copied.

    Raises StoreError if the target is not empty, is the source, or if one of them is of a kind
    that cannot be copied (see :class:`.reports.Copyable`); StoreCorrupt for a damaged source.
    """
    values.a_store(source, "the source of a copy")
    values.a_store(target, "the target of a copy")
    tell = progress or no_progress
    reader, writer = _copyable(source, "snapshot"), _copyable(target, "restore")
    if source.store_id == target.store_id:
        raise StoreError(f"{source.url} and {target.url} are the same store")
    tell("reading", 0, 1)
    snapshot = reader.snapshot()
    try:
        _check_rows(snapshot)
        snapshot.check()
    except (TypeError, ValueError) as error:
        raise StoreCorrupt(source.url, f"{error}; check_store() says more") from error
    tell("reading", 1, 1)
    writer.restore(snapshot, progress=tell)
    tell("verifying", 0, 1)
    digest = _verify(target.url, snapshot, writer.snapshot())
    tell("verifying", 1, 1)
    return CopyReport(
        source=source.url,
        target=target.url,
        threads=len(snapshot.threads),
        messages=len(snapshot.messages),
        changes=len(snapshot.changes),
        revision=snapshot.revision,
        trimmed=snapshot.trimmed,
        digest=digest,
        left_behind=snapshot.others,
    )


def _check_rows(snapshot: StoreSnapshot) -> None:
    for thread in snapshot.threads:
        well_formed(thread)
    for message in snapshot.messages:
        well_formed(message)
    for change in snapshot.changes:
        well_formed(change)


def digest_of(snapshot: StoreSnapshot) -> str:
    """SHA-256 over all threads, messages and changes, whatever store they are from."""
    found = hashlib.sha256(f"{snapshot.revision} {snapshot.trimmed}\n".encode())
    rows: Iterable[_Row] = chain(snapshot.threads, snapshot.messages, snapshot.changes)
    for row in rows:
        found.update(_canonical(row))
        found.update(b"\n")
    return found.hexdigest()


def _canonical(row: _Row) -> bytes:
    # Metadata is the text that the store keeps: its keys have an order, and 1 is not 1.0.
    return json.dumps([type(row).__name__, *_FIELDS[type(row)](row)]).encode("ascii")


def check_source(source: ConversationStore) -> None:
    """Raises StoreError if a store is of a kind that cannot be copied: before a target is made."""
    _copyable(source, "snapshot")


def _copyable(store: ConversationStore, method: str) -> Copyable:
    # Not isinstance: since Python 3.12 it does not see what LegacyReturns hands through.
    if not (hasattr(store, "snapshot") and hasattr(store, method)):
        raise StoreError(
            f"a store of the kind {store.backend!r} has no {method}(), so {store.url} cannot be "
            "copied; see pytest_claude_comms.stores.reports.Copyable"
        )
    return cast("Copyable", store)


def _verify(url: str, expected: StoreSnapshot, found: StoreSnapshot) -> str:
    digest = same = digest_of(expected)
    # Somebody may be writing to the target already: only what was copied is compared.
    if found.revision > expected.revision:
        moved = {row.message_id for row in found.messages if row.revision > expected.revision}
        expected, found = _without(expected, moved), _without(found, moved)
        found = replace(
            found,
            revision=expected.revision,
            trimmed=expected.trimmed,
            changes=tuple(each for each in found.changes if each.revision <= expected.revision),
        )
        same = digest_of(expected)
    found = replace(found, threads=found.threads[: len(expected.threads)])
    counts = [
        (len(each.threads), len(each.messages), len(each.changes)) for each in (expected, found)
    ]
    if counts[0] != counts[1] or same != digest_of(found):
        raise StoreError(
            f"the copy in {url} is not what was copied: {_counted(counts[1])} instead of "
            f"{_counted(counts[0])}, or other ones; delete it and check the disk",
            outcome="unknown",
        )
    return digest


def _without(snapshot: StoreSnapshot, ids: set[str]) -> StoreSnapshot:
    kept = tuple(row for row in snapshot.messages if row.message_id not in ids)
    return replace(snapshot, messages=kept)


def _counted(counts: tuple[int, int, int]) -> str:
    return "{} threads, {} messages and {} changes".format(*counts)
