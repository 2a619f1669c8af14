"""Broken stores, each with the contracts that have to catch it, and what they are made of."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pytest_claude_comms import (
    Clock,
    MemoryConversationStore,
    Message,
    SQLiteConversationStore,
    StoreCorrupt,
    SystemClock,
    TinyDBConversationStore,
)
from pytest_claude_comms.stores.base import Durability, MessageLike
from pytest_claude_comms.stores.memory import State
from pytest_claude_comms.stores.rules import MessageRow
from pytest_claude_comms.stores.values import message_id_of

_C = TypeVar("_C", bound="type[Any]")


@dataclass(frozen=True)
class Mutant:
    """A class that is a factory of broken stores."""

    factory: type[Any]
    breaks: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.factory.__name__


MUTANTS: list[Mutant] = []


def breaks(*numbers: str) -> Callable[[_C], _C]:
    """Registers a mutant under the contracts that have to catch it."""

    def add(factory: _C) -> _C:
        MUTANTS.append(Mutant(factory, numbers))
        return factory

    return add


class Memory(MemoryConversationStore):
    """The reference store, opened as a factory opens one."""

    def __init__(
        self, folder: Path, *, clock: Clock | None = None, durability: Durability = "process"
    ) -> None:
        super().__init__(clock=clock)

    def row(self, message: MessageLike) -> MessageRow:
        """What is stored of a message, with the errors of ``get_message``."""
        message_id = message_id_of(message)
        self._check_usable()
        return self._message(self._state, message_id)

    def tamper(self, message: MessageLike, **fields: Any) -> Message:
        """Change what is stored of a message behind the store's back."""
        row = replace(self.row(message), **fields)
        self._state._messages[row.message_id] = row
        return row.record()

    @contextmanager
    def on_real_time(self) -> Any:
        given, self.clock = self.clock, SystemClock()
        try:
            yield
        finally:
            self.clock = given


class Saved(Memory):
    """Keeps its file from one close to the next opening; a kill loses what it held."""

    capabilities: tuple[str, ...] = (*Memory.capabilities, "durable", "resumable", "files")

    def __init__(
        self, folder: Path, *, clock: Clock | None = None, durability: Durability = "process"
    ) -> None:
        super().__init__(folder, clock=clock)
        self.path = folder / "store.pickle"
        self.url = f"saved:{self.path}"
        if self.path.exists():
            self._store_id, kept = self.load(self.path.read_bytes())
            state = State()
            state.load(*kept)
            self._state = state
        else:
            self.save()

    def load(self, data: bytes) -> tuple[str, Any]:
        try:
            store_id, kept = pickle.loads(data)
        except Exception as error:
            raise StoreCorrupt(str(self.path), str(error)) from error
        return store_id, kept

    def data(self) -> bytes:
        kept = (
            tuple(self._state.threads()),
            tuple(self._state.messages(None, None)),
            tuple(self._state.retained()),
            self._state.trimmed(),
        )
        return pickle.dumps((self._store_id, kept))

    def save(self) -> None:
        temporary = self.path.with_suffix(".new")
        temporary.write_bytes(self.data())
        os.replace(temporary, self.path)

    def _close(self) -> None:
        if self.path.exists():
            self.save()
        super()._close()


class InSQLite(SQLiteConversationStore):
    """The SQLite store, opened as a factory opens one."""

    def __init__(
        self, folder: Path, *, clock: Clock | None = None, durability: Durability = "process"
    ) -> None:
        super().__init__(folder / "store.db", clock=clock, durability=durability)


class InTinyDB(TinyDBConversationStore):
    """The TinyDB store, opened as a factory opens one."""

    def __init__(
        self, folder: Path, *, clock: Clock | None = None, durability: Durability = "process"
    ) -> None:
        super().__init__(folder / "store.json", clock=clock, durability=durability)
