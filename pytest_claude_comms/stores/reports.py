"""What :func:`copy_store`, :func:`backup_store`, :func:`check_store` and ``compact`` hand back,
and the whole of a store as one value. Frozen, all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias

from .rules import ChangeRow, MessageRow, ThreadRow

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a step ("reading", "writing", …), how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSnapshot:
    """All threads, messages and changes of a store, as they were at one instant."""

    store_id: str
    threads: tuple[ThreadRow, ...]
    """In the order of creation."""
    messages: tuple[MessageRow, ...]
    """In the order of creation."""
    changes: tuple[ChangeRow, ...]
    """All that are kept, by revision; those up to ``trimmed`` have gaps."""
    revision: int
    """The last one given."""
    trimmed: int
    """No cursor before this revision can be used."""
    others: tuple[str, ...] = ()
    """Names of what the store holds besides: tables of the user's."""

    def check(self) -> None:
        """Raise ValueError if its parts do not fit together, so that no store could hold it."""
        threads = {row.thread_id for row in self.threads}
        messages = {row.message_id: row for row in self.messages}
        if len(threads) < len(self.threads) or len(messages) < len(self.messages):
            raise ValueError("an id is there twice")
        for row in self.messages:
            if row.thread_id not in threads:
                raise ValueError(f"message {row.message_id!r} is of an unknown thread")
        last = 0
        for change in self.changes:
            if change.message_id not in messages:
                raise ValueError(f"revision {change.revision} is of an unknown message")
            is_next = change.revision == max(last, self.trimmed) + 1
            if change.revision <= last or (change.revision > self.trimmed and not is_next):
                raise ValueError(f"revision {change.revision} follows {last}")
            last = change.revision
        if max(last, self.trimmed) != self.revision:
            raise ValueError(f"its last revision is {last}, not {self.revision}")


class Copyable(Protocol):
    """A store that can be copied and copied to. What a third party's store needs for it."""

    def snapshot(self) -> StoreSnapshot:
        """All that it holds, at one instant, while others may be writing."""

    def restore(self, snapshot: StoreSnapshot, *, progress: Progress | None = None) -> None:
        """Take all of ``snapshot`` but its ``store_id``, with the same revisions; all or nothing.

        Raises StoreError if there is a thread or message in it already.
        """


class BackedUp(Protocol):
    """A store that :func:`backup_store` can write to a file."""

    def write_backup(self, path: str, *, progress: Progress | None = None) -> None:
        """Write all of it, as it is at one instant, into the empty file ``path``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What was copied, and that it was found again in the target."""

    source: str
    target: str
    """Store URLs."""
    threads: int
    messages: int
    changes: int
    revision: int
    trimmed: int
    digest: str
    """SHA-256 over a canonical form of all of it, the same on both sides."""
    left_behind: tuple[str, ...] = ()
    """Tables of the user's in the source: they are no part of a conversation, and not copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupReport:
    """A backup that was written."""

    source: str
    path: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport:
    """What was trimmed from a history."""

    trimmed: int
    """Cursors before this revision get HistoryGone from now on."""
    removed: int
    """Changes that were removed by this call."""
    bytes_before: int | None
    """Of all files of the store; None where there are none."""
    bytes_after: int | None
    waiting: str | None = None
    """Why the file is larger than it could be, or None."""


FindingKind = Literal[
    "file", "permissions", "database", "schema", "journal", "document",
    "revision", "history", "transition", "message", "thread", "deadline",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something in a store that no call of ours leaves there."""

    kind: FindingKind
    thing: str
    """What it is about: a file, a message, a revision."""
    reason: str
    way_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What a check has seen. ``findings`` is what is wrong, ``notes`` what only looks so."""

    url: str
    backend: str
    threads: int = 0
    messages: int = 0
    changes: int = 0
    revision: int = 0
    trimmed: int = 0
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def counting(self, snapshot: StoreSnapshot) -> CheckReport:
        """The same, with the figures of ``snapshot``."""
        return replace(
            self,
            threads=len(snapshot.threads),
            messages=len(snapshot.messages),
            changes=len(snapshot.changes),
            revision=snapshot.revision,
            trimmed=snapshot.trimmed,
        )
