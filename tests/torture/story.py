"""What the tortured process does: one call of everything that writes, and what shows of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pytest_claude_comms.errors import HistoryGone, StoreError
from pytest_claude_comms.stores import backup, open_store, sqlite, tinydb
from pytest_claude_comms.stores.backup import backup_store
from pytest_claude_comms.stores.base import Durability
from pytest_claude_comms.stores.checking import check_store
from tests.torture.stage import Channel

BACKENDS = ("tinydb", "sqlite")

ENDINGS = (
    "", ".lock", ".journal", ".journal.new", ".new", "-wal", "-shm", "-journal",
    ".backup", ".backup-wal", ".backup-shm", ".backup-journal",
)  # fmt: skip
"""Of all files that a store, or a backup, ever has."""

LASTING = {f"{name}{ending}" for name in ("store", "backup") for ending in ("", ".lock")} | {
    "store.journal"
}
"""Files that may be there while nobody has the store open."""


def url_in(folder: Path | str, backend: str) -> str:
    return f"{backend}:///{folder}/store"


def paths_in(folder: Path | str) -> list[str]:
    """All that the story makes calls on."""
    names = [f"{folder}/{name}{ending}" for name in ("store", "backup") for ending in ENDINGS]
    return [str(folder), *names]


class Story:
    """Steps, each of which leaves an effect that can be seen afterwards, or none."""

    def __init__(self, url: str, durability: Durability, rounds: int = 1) -> None:
        self._url = url
        self._durability = durability
        self._rounds = rounds
        self._backup = f"{os.path.dirname(url.partition('///')[2])}/backup"
        self._store: Any = None

    @property
    def store(self) -> Any:
        if self._store is None:
            self._store = open_store(self._url, durability=self._durability)
        return self._store

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        yield "open", lambda: self.store
        yield "thread", lambda: self.store.create_thread("a title", thread_id="t")
        yield "message", self.add_message
        yield (
            "other",
            lambda: self.store.add_message("t", "module", status="pending", message_id="other"),
        )
        yield "ended", lambda: self.store.update_message("other", status="failed")
        number = 1
        for _ in range(self._rounds):
            yield f"{number}", partial(self.append, number)
            yield f"{number + 1}", partial(self.append, number + 1, size=3_000)
            yield "reopen", self.reopen
            yield f"{number + 2}", partial(self.append, number + 2)
            yield f"{number + 3}", partial(self.append_and_checkpoint, number + 3)
            yield "compact", lambda: self.store.compact(keep=2)
            yield f"{number + 4}", partial(self.append, number + 4)
            yield "backup", self.back_up
            yield f"{number + 5}", partial(self.append, number + 5)
            number += 6
        yield "complete", lambda: self.store.update_message("m", status="complete")
        yield "close", self.close

    def add_message(self) -> None:
        self.store.add_message("t", "module", status="processing", message_id="m")

    def append(self, number: int, size: int = 0) -> None:
        self.store.update_message(
            "m", append=f"{number};", metadata={"n": f"{number}" + "x" * size}
        )

    def append_and_checkpoint(self, number: int) -> None:
        """As :meth:`append`, and the log or journal is long enough now to be copied over."""
        store = self.store
        if store.backend == "sqlite":
            store._next_checkpoint = 0
        else:
            store._checkpoint_bytes = 0
        self.append(number)
        if store.backend == "tinydb":
            del store._checkpoint_bytes

    def back_up(self) -> None:
        backup_store(self.store, self._backup, overwrite=True)

    def reopen(self) -> None:
        self.close()
        assert self.store

    def close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()


def tell(
    channel: Channel,
    *,
    url: str,
    durability: Durability,
    rounds: int = 1,
    ledger: str | None = None,
) -> None:
    """The role: go through the story once asked to, saying after each step how it went.

    With ``ledger``, a file, steps that are done are also written there. Once told that the
    trouble is over, one more change is made.
    """
    # What waits for a lock that an injected error says is taken need not wait for seconds.
    for module in (sqlite, tinydb, backup):
        module.BUSY_TIMEOUT = 0.05  # type: ignore[attr-defined]
    _rehearse(url.partition(":")[0])
    allow_tracing()
    story = Story(url, durability, rounds)
    channel.say("ready")
    channel.hear()
    notes = None if ledger is None else os.open(ledger, os.O_WRONLY | os.O_CREAT)
    for name, step in story.steps():
        try:
            step()
        except StoreError as error:
            kind = type(error).__name__
            said = {"refused": name, "kind": kind, "outcome": error.outcome, "text": str(error)}
            channel.say(said)
        except BaseException as error:
            channel.say({"raised": name, "text": repr(error)})
        else:
            channel.say({"done": name})
            if notes is not None:
                os.write(notes, f"{name}\n".encode())
    channel.say("told")
    try:
        channel.hear()
    except EOFError:
        return
    with suppress(StoreError):  # it is there already
        story.store.create_thread(thread_id="t")
    with suppress(StoreError):
        story.store.add_message("t", "module", status="processing", message_id="m")
    story.store.add_message("t", "module", status="complete", message_id="after")
    channel.say({"done": "after"})
    story.close()
    channel.say("closed")


def _rehearse(backend: str) -> None:
    # All that Python imports on the way is imported now: what follows are calls of the store.
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        story = Story(url_in(folder, backend), "process")
        for _, step in story.steps():
            step()


def allow_tracing() -> None:
    """Where only a parent may trace its children (Yama), let anybody trace this process."""
    with suppress(OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(2**64 - 1), 0, 0, 0)


class Unreadable(Exception):
    """A store that cannot be opened, or in which something is wrong."""


def effects(folder: Path, backend: str) -> set[str]:
    """The steps of which the store in ``folder`` shows something; closed again, it is tidy.

    Raises Unreadable.
    """
    found = _seen(url_in(folder, backend))
    copy = folder / "backup"
    if copy.exists():
        with tempfile.TemporaryDirectory(prefix="torture-") as other:
            shutil.copy(copy, f"{other}/store")
            _seen(url_in(other, backend))
        found.add("backup")
    # What a backup that was killed has left goes with the next one.
    with open_store(url_in(folder, backend), durability="process") as store:
        backup_store(store, copy, overwrite=True)
    left = {path.name for path in folder.iterdir()} - LASTING
    if left:
        raise Unreadable(f"left behind: {sorted(left)}")
    return found


def _seen(url: str) -> set[str]:
    try:
        with open_store(url, durability="process") as store:
            found = {"thread" for each in store.threads() if each.thread_id == "t"}
            for message in store.messages():
                found.add("message" if message.message_id == "m" else message.message_id)
                if message.status == "failed":
                    found.add("ended")
                if message.message_id == "m":
                    numbers = message.content.split(";")[:-1]
                    if numbers != sorted(set(numbers), key=int):
                        raise Unreadable(f"the text is {message.content!r}")
                    found.update(numbers)
                    if message.status == "complete":
                        found.add("complete")
            try:
                store.changes()
            except HistoryGone:
                found.add("compact")
        report = check_store(url)
    except StoreError as error:
        raise Unreadable(str(error)) from error
    if not report.ok:
        raise Unreadable(str(report.findings))
    return found


WITHOUT_EFFECT = {"open", "reopen", "close"}


def judge(found: set[str], done: set[str], maybe: set[str]) -> list[str]:
    """What is wrong with the effects that are there: a lost step, or one that never was."""
    done, maybe = done - WITHOUT_EFFECT, maybe - WITHOUT_EFFECT
    wrong = [f"lost: {name}" for name in sorted(done - found)]
    wrong += [f"not asked for: {name}" for name in sorted(found - done - maybe)]
    return wrong
