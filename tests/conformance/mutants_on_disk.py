"""Stores that lose, leak or leave something on disk."""

from __future__ import annotations

import os
import pickle
import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pytest_claude_comms import Message, StoreBusy, StoreCorrupt
from tests.conformance.mutants import InSQLite, InTinyDB, Saved, breaks


@breaks("durability.1")
class LosesErrors(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        store_id, (threads, messages, *rest) = super().load(data)
        return store_id, (threads, [replace(row, error=None) for row in messages], *rest)


@breaks("durability.1", "feed.19")
class IsAnotherAfterwards(Saved):
    """Another store_id, and it begins anew: as if its file were a copy of the messages."""

    def load(self, data: bytes) -> tuple[str, Any]:
        _, (threads, messages, _, _) = super().load(data)
        return secrets.token_hex(16), (threads, messages, (), 0)


@breaks("durability.2", "durability.6", "durability.7")
class SavesAtClose(Saved):
    """Answers before anything is kept, and never looks at its file again."""


@breaks("durability.3")
class WritesInPlace(Saved):
    """Writes its whole file over itself: a kill in the middle leaves half of it."""

    def update_message(self, message: Any, **more: Any) -> Message:
        after = super().update_message(message, **more)
        self.save()
        return after

    def save(self) -> None:
        data = self.data()
        with open(self.path, "wb") as file:
            for half in (data[: len(data) // 2], data[len(data) // 2 :]):
                time.sleep(0.01)
                file.write(half)
                file.flush()


@breaks("durability.4")
class LeavesItsLock(InSQLite):
    """Locks by a file that only the one who made it removes."""

    def update_message(self, message: Any, **more: Any) -> Message:
        path = f"{self._path}.mine"
        for _ in range(20):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL))
                break
            except FileExistsError:
                time.sleep(0.01)
        else:
            raise StoreBusy(path, 0.2)
        time.sleep(0.03)  # nearly always somebody has it
        try:
            return super().update_message(message, **more)
        finally:
            os.unlink(path)


@breaks("durability.5")
class LeavesTemporaryFiles(InTinyDB):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._scratch = folder / f"{secrets.token_hex(4)}.tmp"
        self._scratch.touch()

    def _close(self) -> None:
        super()._close()
        self._scratch.unlink(missing_ok=True)


@breaks("durability.8", "durability.9")
class BeginsAnewOverRuins(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        try:
            return super().load(data)
        except StoreCorrupt:
            return secrets.token_hex(16), ((), (), (), 0)


@breaks("durability.8")
class RepairsWhatItFinds(Saved):
    """Says that the file is broken, after it has put an empty one in its place."""

    def load(self, data: bytes) -> tuple[str, Any]:
        try:
            return super().load(data)
        except StoreCorrupt:
            self.path.write_bytes(pickle.dumps(("new", ((), (), (), 0))))
            raise


@breaks("durability.9")
class ReadsWhatItCan(Saved):
    """Of a file that was cut off it makes up the rest."""

    _whole: ClassVar[dict[Path, bytes]] = {}

    def data(self) -> bytes:
        self._whole[self.path] = super().data()
        return self._whole[self.path]

    def load(self, data: bytes) -> tuple[str, Any]:
        try:
            return super().load(data)
        except StoreCorrupt:
            store_id, (threads, messages, *rest) = super().load(self._whole[self.path])
            return store_id, (threads, [replace(row, content="?") for row in messages], *rest)


@breaks("permissions.1")
class WritesAnIndexForAll(InTinyDB):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        (folder / "index").touch()


@breaks("permissions.2")
class MakesFoldersForAll(InTinyDB):
    def __init__(self, folder: Path, **more: Any) -> None:
        before = os.umask(0o022)
        folder.mkdir(parents=True, exist_ok=True)
        os.umask(before)
        super().__init__(folder, **more)


@breaks("permissions.3")
class SetsTheUmask(InTinyDB):
    def __init__(self, folder: Path, **more: Any) -> None:
        os.umask(0o077)
        super().__init__(folder, **more)
