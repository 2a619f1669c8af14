"""What a contract works with: stores in a folder, a fake clock, threads and child processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ...clock import Clock
from ...records import ConversationThread, Message
from ...stores.base import ConversationStore, Durability
from ..fake_clock import FakeClock
from .capabilities import capabilities_of
from .checks import Mismatch
from .children import PATIENCE, Child
from .factory import StoreFactory, opened, spec_of


class Bench:
    """A place for one contract. Whatever it opened or started ends with it."""

    def __init__(
        self,
        factory: StoreFactory,
        folder: Path,
        *,
        name: str | None = None,
        spec: str | None = None,
        durability: Durability = "process",
    ) -> None:
        self.factory = factory
        self.folder = folder
        self.spec = spec or spec_of(factory)
        """What a child process calls the factory."""
        self.name = name or self.spec or repr(factory)
        self.durability: Durability = durability
        self.claimed = capabilities_of(factory)
        self.clock = FakeClock()
        self._opened: list[ConversationStore] = []
        self._children: list[Child] = []
        self._threads: dict[int, ConversationThread] = {}
        self._store: ConversationStore | None = None

    # -- stores

    @property
    def store(self) -> ConversationStore:
        """The store that is asked, on the fake clock."""
        if self._store is None:
            self._store = self.open()
        return self._store

    def place(self, name: str = "store") -> Path:
        """A folder for a store, made if it is missing."""
        place = self.folder / name
        place.mkdir(exist_ok=True)
        return place

    def open(self, place: str = "store") -> ConversationStore:
        """Open the store at ``place`` on the fake clock: again, if it is open already."""
        return self.open_in(self.place(place), self.clock)

    def open_real(self, place: str = "store") -> ConversationStore:
        """Open it in real time, as threads and child processes of the system need it."""
        return self.open_in(self.place(place), None)

    def open_in(self, folder: Path, clock: Clock | None) -> ConversationStore:
        """Open the store of any folder."""
        store = opened(self.factory, folder, clock=clock, durability=self.durability)
        self._opened.append(store)
        return store

    def reopen(self) -> ConversationStore:
        """Close the store that is asked, and open it again."""
        self.store.close()
        self._store = self.open()
        return self._store

    # -- what is in them

    def thread(self, store: ConversationStore | None = None) -> ConversationThread:
        """A thread of ``store``, the same one each time."""
        chosen = store or self.store
        if id(chosen) not in self._threads:
            self._threads[id(chosen)] = chosen.create_thread("kit", modules=["a", "b"])
        return self._threads[id(chosen)]

    def add(self, content: str = "", *, status: str = "pending", **more: Any) -> Message:
        """Add a message to the store that is asked; pending, if nothing else is said."""
        return self.store.add_message(self.thread(), "a", content, status=status, **more)

    # -- threads and processes

    def together(self, *calls: Callable[[], object]) -> list[object]:
        """Make the calls at once, each on a thread of its own; their answers or errors."""
        answers: list[object] = [None] * len(calls)
        barrier = threading.Barrier(len(calls))

        def run(number: int, call: Callable[[], object]) -> None:
            barrier.wait(PATIENCE)
            try:
                answers[number] = call()
            except Exception as error:  # noqa: BLE001 - it is an answer
                answers[number] = error

        threads = [
            threading.Thread(target=run, args=each, daemon=True, name=f"conformance {each[0]}")
            for each in enumerate(calls)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                raise Mismatch("calls on several threads", "an end", f"none in {PATIENCE:g} s")
        return answers

    def child(self, job: str, *arguments: str, place: str = "store") -> Child:
        """Start a process that opens the store at ``place`` and does a job of ``child.py``."""
        if self.spec is None:
            raise Mismatch(
                "the factory",
                "a function or class of a module, so that another process can import it",
                repr(self.factory),
            )
        folder = self.place(place)
        child = Child(self.spec, folder, self.durability, job, arguments)
        self._children.append(child)
        return child

    # -- its end

    def close(self) -> None:
        """End the children and close the stores."""
        for child in self._children:
            child.kill()
        try:
            for store in self._opened:
                store.close()
        finally:
            self.clock.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
