"""What a fault is done to: which kind of store it is, and which files are its."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from ..stores.legacy import LegacyReturns, unwrapped

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from ..stores.sqlite import SQLiteConversationStore
    from ..stores.tinydb import TinyDBConversationStore

    FileStore: TypeAlias = SQLiteConversationStore | TinyDBConversationStore

AnyStore: TypeAlias = "ConversationStore | LegacyReturns"

_ENDINGS = {
    "sqlite": ("", "-wal", "-shm", ".lock"),
    "tinydb": ("", ".journal", ".lock", ".new", ".journal.new"),
}


def plain(store: AnyStore) -> ConversationStore:
    """The store itself, whatever ``add_message`` returns. TypeError for what is no store."""
    found: Any = unwrapped(store)
    if not (hasattr(found, "backend") and hasattr(found, "clock")):
        raise TypeError(f"a fault is done to a store, not to {found!r}")
    return cast("ConversationStore", found)


def file_store(store: AnyStore, kind: str) -> FileStore:
    """The store itself, if it is one of ours in a file and open. ValueError for others."""
    found: Any = plain(store)
    if not _is_ours(found):
        none = "has no file" if found.backend == "memory" else "has no file that is known here"
        raise ValueError(
            f"faults.{kind} is for the stores tinydb and sqlite, and {found.url} is a "
            f"{found.backend} store: it {none} to do it to. Choose the stores of this test "
            'by @pytest.mark.claude_comms(stores=["tinydb", "sqlite"])'
        )
    if found._closed:
        raise ValueError(
            f"faults.{kind}: the store {found.url} is closed; a fault is done to an open one. To "
            "see who opens it afterwards, open its url a second time while the fault lasts"
        )
    ours: FileStore = found
    return ours


def _is_ours(store: ConversationStore) -> bool:
    if store.backend == "sqlite":
        from ..stores.sqlite import SQLiteConversationStore

        return isinstance(store, SQLiteConversationStore)
    if store.backend == "tinydb":
        from ..stores.tinydb import TinyDBConversationStore

        return isinstance(store, TinyDBConversationStore)
    return False


def is_sqlite(store: FileStore) -> TypeGuard[SQLiteConversationStore]:
    """Which of the two it is."""
    return store.backend == "sqlite"


def is_tinydb(store: FileStore) -> TypeGuard[TinyDBConversationStore]:
    """Which of the two it is."""
    return store.backend == "tinydb"


def file_of(store: FileStore) -> str:
    """The path of its main file, symbolic links resolved."""
    return os.path.realpath(store._path)


def files_of(store: FileStore) -> list[str]:
    """The paths at which it may have files."""
    return [f"{file_of(store)}{ending}" for ending in _ENDINGS[store.backend]]


def tell_watchers(store: FileStore) -> None:
    """Wake those who wait in this process: what was done to its files was no commit of theirs."""
    store._hub.notify()
