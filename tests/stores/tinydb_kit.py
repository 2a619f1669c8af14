"""What the tests of the TinyDB store share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.clock import SystemClock
from pytest_claude_comms.errors import AlreadyExists, InvalidTransition
from pytest_claude_comms.stores import files, journal, tinydb
from pytest_claude_comms.stores.core import BaseStore
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore

HOSTILE = [
    "",
    "\0",
    "a\u2028b\u2029c\x85d\r\n",
    "🎈 ünï",
    '"\\{}[]',
    "\x1b[31m",
    "x" * 100_000,
    "../../etc/passwd",
]


class Ticking(SystemClock):
    """Every look at it is a microsecond later."""

    def __init__(self) -> None:
        self.us = 1_700_000_000_000_000

    def now_us(self) -> int:
        self.us += 1
        return self.us


Open = Callable[..., TinyDBConversationStore]


@contextmanager
def opening(path: Path) -> Iterator[Open]:
    """Opens the store at ``path`` any number of times, and closes it in the end."""
    stores: list[TinyDBConversationStore] = []

    def start(**options: Any) -> TinyDBConversationStore:
        options.setdefault("durability", "process")
        stores.append(TinyDBConversationStore(path, **options))
        return stores[-1]

    yield start
    for store in stores:
        store.close()


def contents(store: BaseStore) -> tuple[Any, ...]:
    """All that a store answers."""
    return store.threads(), store.messages(), store.changes().items, store.cursor()


def play(store: BaseStore) -> None:
    """Something of everything."""
    store.create_thread("first", modules=["a", "b"], metadata={"n": [1, 2.5, None]}, thread_id="t")
    store.create_thread(thread_id="../../x")
    for number, text in enumerate(HOSTILE):
        store.add_message("t", text, text, message_id=f"m{number}", metadata={"text": text})
    store.add_message("../../x", "a", status="pending", message_id="p", timeout=9, stall_timeout=2)
    store.update_message("p", status="processing", append="one ")
    store.update_message("p", append="two ", metadata={"b": {"deep": {"er": 10**30}}, "c": 1})
    store.update_message("p", content="", metadata={"b": -0.0, "c": True})
    store.update_message("p", append="🎈", error="\0")
    store.update_message("p", status="failed", error=None)
    with pytest.raises(InvalidTransition):
        store.update_message("p", append="more")
    with pytest.raises(AlreadyExists):
        store.create_thread(thread_id="t")
    store.update_message("p", metadata={"after": "the end"})


def remove(path: Path, *endings: str) -> None:
    for ending in endings:
        os.unlink(f"{path}{ending}")


class FailingOS:
    """The ``os`` module, where the k-th of the calls that matter fails, once or from then on."""

    CALLS = ("open", "write", "fsync", "replace", "ftruncate")

    def __init__(
        self, k: int, *, forever: bool = False, short: bool = False, calls: tuple[str, ...] = CALLS
    ) -> None:
        self.k = k
        self.calls = 0
        self._forever = forever
        self._short = short
        self._names = calls

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self._names:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls != self.k and not (self._forever and self.calls > self.k):
                return real(*arguments, **options)
            if self._short and name == "write" and len(arguments[1]) > 1:
                return real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            return self.fail()

        return call

    def fail(self) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    @property
    def has_failed(self) -> bool:
        return self.calls >= self.k


class InterruptingOS(FailingOS):
    def fail(self) -> Any:
        raise KeyboardInterrupt


@contextmanager
def disk(monkeypatch: pytest.MonkeyPatch, broken: object) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module in (files, journal, tinydb):
            patch.setattr(module, "os", broken)
        yield
