"""``store.db``: TinyDB's own interface to a store, through TinyDB's extension points.

It reads everything, always as it is now. The store's tables are written by the store only; all
other tables are the user's, and each of their writes is one commit under the store's lock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NoReturn, Protocol

try:
    from tinydb import TinyDB
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"a TinyDB store needs the package tinydb ({error}): install it with "
        "`python -m pip install tinydb`",
        name=error.name,
    ) from error
from tinydb.queries import QueryLike
from tinydb.storages import Storage
from tinydb.table import Document, Table

from ..errors import StoreError
from . import values
from .journal import Op
from .tinydb_image import META, OURS, Documents, Image

_INSTEAD = {
    "threads": "store.create_thread()",
    "messages": "store.add_message() and store.update_message()",
    "changes": "store.add_message() and store.update_message(), whose commits are its documents",
    META: "no method: it is how the store knows its file",
}

Fields = Mapping[str, Any] | Callable[[MutableMapping[str, Any]], None]


class Draft:
    """A change to the user's tables before it is made: reads see it, nobody else does."""

    def __init__(self, image: Image) -> None:
        self._before = dict(image.tables)
        self._after: dict[str, dict[str, str] | None] = {}
        self._last_before = image.last_ids.copy()
        self._last_ids = image.last_ids.copy()

    def names(self) -> list[str]:
        tables = {**self._before, **self._after}
        return [*OURS[:3], *(name for name, table in tables.items() if table is not None)]

    def read(self, name: str) -> Documents:
        table = self._after.get(name, self._before.get(name))
        return {key: json.loads(text) for key, text in (table or {}).items()}

    def write(self, name: str, documents: Mapping[Any, Any]) -> None:
        """Raises ValueError for a document that not every reader of the file could read."""
        old = self._after.get(name, self._before.get(name)) or {}
        after = {}
        for key, document in documents.items():
            doc_id = str(key)
            try:
                text = json.dumps(document)
                if old.get(doc_id) != text and values.is_too_deep(text):
                    raise RecursionError
            except RecursionError:
                raise ValueError(
                    f"document {doc_id} of table {name!r} is nested more than "
                    f"{values.DEEPEST_METADATA} deep, and not every reader of the file could read "
                    "that: store what is deeper as a str, by json.dumps(), or in documents of "
                    "their own; nothing of this write was done"
                ) from None
            # Who has such an int from before, in an adopted file, may change what is beside it.
            before = old.get(doc_id, "null")
            if before != text and values.has_long_int(text) and not values.has_long_int(before):
                raise ValueError(
                    f"document {doc_id} of table {name!r} has an int of more than "
                    f"{values.MOST_DIGITS} digits, which is too long for some Python to read: "
                    "store it as a str; nothing of this write was done"
                )
            after[doc_id] = text
        self._after[name] = after
        self._last_ids[name] = self._last_id(name)

    def drop(self, name: str) -> None:
        self._after[name] = None
        self._last_ids.pop(name, None)

    def next_id(self, name: str) -> int:
        """A document id that the table never had, in whatever process."""
        self.take_id(name, self._last_id(name) + 1)
        return self._last_ids[name]

    def take_id(self, name: str, doc_id: int) -> None:
        """Give no id up to this one to another document. Raises TypeError for what is no int,
        ValueError for one that not every reader of the journal could read."""
        if isinstance(doc_id, bool) or not isinstance(doc_id, int):
            raise TypeError(f"a document's doc_id must be an int, not {doc_id!r}")
        if values.is_too_long(doc_id):
            raise ValueError(
                f"a document's doc_id may have up to {values.MOST_DIGITS} digits, and this one has "
                f"{doc_id.bit_length():,} bits"
            )
        self._last_ids[name] = max(self._last_id(name), doc_id)

    def restart_ids(self, name: str) -> None:
        """Count from 1 again, as TinyDB does in a truncated table."""
        self._last_ids[name] = 0

    def _last_id(self, name: str) -> int:
        table = self._after.get(name, self._before.get(name)) or {}
        # A longer key of an adopted file is harmless as it is. Counted on, it would be an int that
        # some Python could not read; and no id that is given will ever meet it.
        used = (int(key) for key in table if key.isdecimal() and len(key) <= values.MOST_DIGITS)
        return max(self._last_ids.get(name, 0), max(used, default=0))

    def ops(self) -> list[Op]:
        """What the journal has to say of it."""
        found = (self._op(name, after) for name, after in self._after.items())
        return [op for op in found if op is not None]

    def _op(self, name: str, after: dict[str, str] | None) -> Op | None:
        before = self._before.get(name)
        if after is None:
            return None if before is None else {"table": name}
        old = before or {}
        # Compared as text: to Python True == 1 == 1.0, to a reader of the file they differ.
        changed = {key: text for key, text in after.items() if old.get(key) != text}
        removed = [key for key in old if key not in after]
        same_id = self._last_ids[name] == self._last_before.get(name)
        if before is not None and same_id and not changed and not removed:
            return None
        return {"table": name, "set": changed, "del": removed, "last": self._last_ids[name]}


class Desk(Protocol):
    """What a store does for its ``db``."""

    url: str

    def names(self) -> list[str]:
        """Of all tables."""

    def documents(self, name: str) -> Documents:
        """A table as it is now, or as this thread is changing it; a copy."""

    def drafting(self) -> AbstractContextManager[Draft]:
        """One commit to the user's tables. Raises StoreError within another one of this thread."""


@contextmanager
def _changing(desk: Desk, name: str, method: str) -> Iterator[Draft]:
    if not isinstance(name, str):
        raise TypeError(f"a table's name must be a str, not {name!r}")
    if name in OURS:
        raise StoreError(
            f"{method}() cannot write to the table {name!r} of {desk.url}, which belongs to the "
            f"store: use {_INSTEAD[name]}"
        )
    with desk.drafting() as draft:
        yield draft


class TableStorage(Storage):
    """One table of a store, as the storage of a :class:`StoreTable`."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.desk = desk
        self._name = name

    def read(self) -> dict[str, Documents]:
        return {self._name: self.desk.documents(self._name)}

    def write(self, data: Mapping[str, Mapping[Any, Any]]) -> None:
        with _changing(self.desk, self._name, "write") as draft:
            draft.write(self._name, data[self._name])


class _DraftStorage(Storage):
    """One table of a draft."""

    def __init__(self, draft: Draft, name: str) -> None:
        self._draft = draft
        self._name = name

    def read(self) -> dict[str, Documents]:
        return {self._name: self._draft.read(self._name)}

    def write(self, data: Mapping[str, Mapping[Any, Any]]) -> None:
        self._draft.write(self._name, data[self._name])


class _DraftTable(Table):
    """A table of a draft. One method of TinyDB calls others: those of this object are part of the
    draft, and what a signal handler calls in their midst is not."""

    def __init__(self, draft: Draft, name: str) -> None:
        self._draft = draft
        super().__init__(_DraftStorage(draft, name), name, 0)

    def insert(self, document: Mapping[str, Any]) -> int:
        return super().insert(self._with_id(document))

    def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> list[int]:
        return super().insert_multiple(self._with_id(each) for each in documents)

    def _with_id(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        # TinyDB's own count would be that of this object alone.
        if isinstance(document, Document):
            self._draft.take_id(self.name, document.doc_id)
            return document
        if not isinstance(document, Mapping):
            return document
        return Document(document, self._draft.next_id(self.name))

    def truncate(self) -> None:
        super().truncate()
        self._draft.restart_ids(self.name)


class StoreStorage(Storage):
    """A whole store, as the storage of its :class:`StoreDB`; to be written by table only."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def read(self) -> dict[str, Documents]:
        return {name: self.desk.documents(name) for name in self.desk.names()}

    def write(self, data: Mapping[str, Mapping[Any, Any]]) -> NoReturn:
        raise StoreError(
            f"{self.desk.url} cannot be written as a whole: write to a table of your own by "
            "store.db.table(name), to threads and messages by the methods of the store"
        )


class StoreTable(Table):
    """A table whose writes are commits of the store. It caches no query: another process's
    write would not clear the cache."""

    def __init__(
        self, storage: Storage, name: str, cache_size: int = 0, persist_empty: bool = False
    ) -> None:
        assert isinstance(storage, (StoreStorage, TableStorage))
        self._desk = storage.desk
        super().__init__(TableStorage(self._desk, name), name, 0, persist_empty)

    @contextmanager
    def _written(self, method: str) -> Iterator[Table]:
        with _changing(self._desk, self.name, method) as draft:
            yield _DraftTable(draft, self.name)

    def insert(self, document: Mapping[str, Any]) -> int:
        with self._written("insert") as table:
            return table.insert(document)

    def insert_multiple(self, documents: Iterable[Mapping[str, Any]]) -> list[int]:
        with self._written("insert_multiple") as table:
            return table.insert_multiple(documents)

    def update(
        self,
        fields: Fields,
        cond: QueryLike | None = None,
        doc_ids: Iterable[int] | None = None,
    ) -> list[int]:
        with self._written("update") as table:
            return table.update(fields, cond, doc_ids)

    def update_multiple(self, updates: Iterable[tuple[Fields, QueryLike]]) -> list[int]:
        with self._written("update_multiple") as table:
            return table.update_multiple(updates)

    def upsert(self, document: Mapping[str, Any], cond: QueryLike | None = None) -> list[int]:
        with self._written("upsert") as table:
            return table.upsert(document, cond)

    def remove(
        self, cond: QueryLike | None = None, doc_ids: Iterable[int] | None = None
    ) -> list[int]:
        with self._written("remove") as table:
            return table.remove(cond, doc_ids)

    def truncate(self) -> None:
        with self._written("truncate") as table:
            table.truncate()


class StoreDB(TinyDB):
    """A TinyDB whose file is a conversation store. Closing it closes nothing: close the store."""

    table_class = StoreTable

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        super().__init__(desk, storage=StoreStorage)

    def tables(self) -> set[str]:
        return set(self._desk.names())

    def drop_table(self, name: str) -> None:
        with _changing(self._desk, name, "drop_table") as draft:
            draft.drop(name)

    def drop_tables(self) -> NoReturn:
        raise StoreError(
            f"drop_tables() would drop the messages of {self._desk.url}: drop your own tables by "
            "drop_table(name), or close the store and delete its files"
        )
