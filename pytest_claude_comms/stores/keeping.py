"""What all shipped stores have in common when they are taken as a whole: copied and trimmed."""

from __future__ import annotations

from abc import abstractmethod
from datetime import timedelta
from typing import TYPE_CHECKING

from ..clock import LAST_US
from ..errors import StoreError
from . import values
from .core import BaseStore, Snapshot

if TYPE_CHECKING:
    from .reports import CompactReport, Progress, StoreSnapshot


class KeepingStore(BaseStore):
    """A store that can be copied and compacted. The one base that backends have."""

    @abstractmethod
    def _restore(self, snapshot: StoreSnapshot, progress: Progress) -> None: ...

    @abstractmethod
    def _compact(self, keep: int | timedelta) -> tuple[int, int, str | None]:
        """Returns up to where history is trimmed, how many changes that removed, and what
        keeps the file from being smaller."""

    def snapshot(self) -> StoreSnapshot:
        """All that it holds, as it is at one instant; for another store's ``restore``."""
        from .reports import StoreSnapshot

        self._check_usable()
        with self._reading() as snapshot:
            return StoreSnapshot(
                store_id=self.store_id,
                threads=tuple(snapshot.threads()),
                messages=tuple(snapshot.messages(None, None)),
                changes=tuple(snapshot.retained()),
                revision=snapshot.revision(),
                trimmed=snapshot.trimmed(),
                others=self._others(),
            )

    def restore(self, snapshot: StoreSnapshot, *, progress: Progress | None = None) -> None:
        """Take all of ``snapshot`` into this store, which has to be empty; all or nothing.

        Ids, times, revisions and how far history was trimmed are kept, so a cursor of the one
        store is the same place in the other. ``store_id`` stays this store's own: they are two
        stores from now on. Raises StoreError if there is anything in it.
        """
        self._check_usable()
        snapshot.check()
        self._restore(snapshot, progress or no_progress)
        self._hub.notify()

    def _others(self) -> tuple[str, ...]:
        """Names of what it holds besides conversations."""
        return ()

    def _refuse_if_used(self, snapshot: Snapshot) -> None:
        if snapshot.revision() or snapshot.threads():
            raise StoreError(
                f"{self.url} is not empty (it is at revision {snapshot.revision()}): "
                "copy into a new store"
            )

    def compact(self, *, keep: int | timedelta) -> CompactReport:
        from .reports import CompactReport

        wanted = values.keep(keep)
        self._check_usable()
        before = self._bytes()
        trimmed, removed, waiting = self._compact(wanted)
        return CompactReport(
            trimmed=trimmed,
            removed=removed,
            bytes_before=before,
            bytes_after=self._bytes(),
            waiting=waiting,
        )

    def _floor(self, snapshot: Snapshot, keep: int | timedelta) -> int:
        """The revision up to which changes may be removed."""
        if isinstance(keep, int):
            floor = snapshot.revision() - keep
        else:
            span_us = min(keep // timedelta(microseconds=1), LAST_US)  # all time that there is
            first = snapshot.first_after(self.clock.now_us() - span_us)
            floor = snapshot.revision() if first is None else first - 1
        return max(floor, snapshot.trimmed())

    def _bytes(self) -> int | None:
        """Of all files."""
        return None


def no_progress(step: str, done: int, total: int) -> None:
    """Tell nobody."""
