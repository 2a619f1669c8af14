"""A call in the midst of another of its own thread, as a signal handler or a finalizer makes it.

A handler runs between two lines, so it is put there: a tracer calls it before the first line of a
store's call, in the next turn before the second, and so on.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, clock, open_store
from pytest_claude_comms.errors import StoreClosed
from pytest_claude_comms.stores import core, memory, sqlite_link
from pytest_claude_comms.stores.files import FileLock
from pytest_claude_comms.stores.journal import Journal
from tests.stores.interrupt_kit import Signal
from tests.tracing import Traced

_TRACED = (str(Path(core.__file__).parent), clock.__file__, threading.__file__)
_PATIENCE = 60.0
_REFUSALS = ("this thread is in the midst of another call of", "this thread holds the lock ")


class Handler:
    """Calls ``act`` before a line of a store's own code, or of who is told of its commits."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._left = 0
        self.done = 0
        self.refused = 0

    def comes_in(self, call: Callable[[], object], line: int) -> bool:
        """Whether ``call`` has so many lines; before that one the handler came."""
        self._left = line
        with Traced(self._trace):
            call()
        return self._left == 0

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(_TRACED):
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                sys.settrace(None)
                frame.f_trace = None
                self._come()
                return None
        return self._trace if self._left > 0 else None

    def _come(self) -> None:
        try:
            self._act()
        except RuntimeError as error:
            assert str(error).startswith(_REFUSALS)  # noqa: PT017 - both are right
            self.refused += 1
        else:
            self.done += 1


def in_time(act: Callable[[], object]) -> None:
    """On a thread of its own, so that one that waits for itself for ever fails the test."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:  # raised below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    assert not thread.is_alive(), "a call waits for another of its own thread"
    if errors:
        raise errors[0]


@pytest.mark.parametrize("comes", ["get_message", "update_message"])
@pytest.mark.parametrize("goes_on", ["get_message", "update_message", "changes"])
@pytest.mark.parametrize("scheme", ["memory", "sqlite", "tinydb"])
def test_a_handler_never_waits_for_the_call_it_interrupts(
    tmp_path: Path, scheme: str, goes_on: str, comes: str
) -> None:
    url = "memory:" if scheme == "memory" else f"{scheme}:///{tmp_path}/store"
    store = open_store(url, durability="process")
    try:
        in_time(lambda: _interrupt_every_line(store, goes_on, comes))
    finally:
        store.close()


def _interrupt_every_line(store: ConversationStore, goes_on: str, comes: str) -> None:
    store.create_thread(thread_id="t")
    for message_id in ("m", "n"):
        store.add_message("t", "a", status="pending", message_id=message_id)
    store.subscribe(store.clock.wakeup().set)  # as a poller does
    calls: dict[str, Callable[[], object]] = {
        "get_message": lambda: store.get_message("m"),
        "update_message": lambda: store.update_message("m", append="x"),
        "changes": lambda: store.changes(1, limit=1),
    }
    acts: dict[str, Callable[[], object]] = {
        "get_message": lambda: store.get_message("n"),
        "update_message": lambda: store.update_message("n", append="y"),
    }
    handler = Handler(acts[comes])
    line = 1
    while handler.comes_in(calls[goes_on], line):
        line += 1
    assert handler.done + handler.refused == line - 1 > 10
    assert handler.done > 5
    written = line if goes_on == "update_message" else 0
    assert store.get_message("m").content == "x" * written
    told = handler.done if comes == "update_message" else 0
    assert store.get_message("n").content == "y" * told
    assert store.cursor() == 2 + written + told
    assert [change.revision for change in store.changes()] == list(range(1, store.cursor() + 1))


@pytest.mark.parametrize("comes", ["get_message", "update_message"])
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_a_handler_lets_nobody_else_write_in_the_midst_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, comes: str
) -> None:
    """The lock of writers is the interrupted call's, to its end and no longer."""
    with open_store(f"{scheme}:///{tmp_path}/store", durability="process") as store:
        store.create_thread(thread_id="t")
        for message_id in ("m", "n"):
            store.add_message("t", "a", status="pending", message_id=message_id)
        others = FileLock(store._lock.path)  # type: ignore[attr-defined]
        name = {"sqlite": "_commit", "tinydb": "_append"}[scheme]
        commit = getattr(store, name)
        handler = Handler(
            (lambda: store.get_message("n"))
            if comes == "get_message"
            else lambda: store.update_message("n", append="y")
        )
        meanwhile: list[bool] = []

        def committed(*given: object) -> object:
            meanwhile.append(is_free(others))
            return commit(*given)

        monkeypatch.setattr(store, name, committed)
        line = 1
        while handler.comes_in(lambda: store.update_message("m", append="x"), line):
            assert is_free(others), line
            line += 1
        assert handler.done > 5
        assert len(meanwhile) == line + (handler.done if comes == "update_message" else 0)
        assert not any(meanwhile)
        others.close()


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_a_handler_that_closes_the_store_lets_the_write_come_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    url = f"{scheme}:///{tmp_path}/store"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", message_id="m")
        others = FileLock(store._lock.path)  # type: ignore[attr-defined]
    name = {"sqlite": "_commit", "tinydb": "_append"}[scheme]
    commit = getattr(type(store), name)
    written, line, goes_on = 0, 1, True
    meanwhile: list[bool] = []

    def committed(*given: object) -> object:
        meanwhile.append(is_free(others))
        return commit(*given)

    monkeypatch.setattr(type(store), name, committed)
    while goes_on:
        store = open_store(url, durability="process")
        handler = Handler(store.close)
        try:
            goes_on = handler.comes_in(lambda: store.update_message("m", append="x"), line)
            written += 1
        except StoreClosed:
            pass
        store.close()
        assert not handler.refused, line
        assert is_free(others), line
        line += 7
    assert len(meanwhile) == written > 5
    assert not any(meanwhile)
    with open_store(url) as again:
        assert again.get_message("m").content == "x" * written
    others.close()


def test_what_a_handler_commits_while_a_file_is_read_anew_is_not_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"tinydb:///{tmp_path}/store"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        with open_store(url, durability="process") as other:
            other.add_message("t", "a", message_id="m")  # its close makes a checkpoint
        read = Journal.read

        def handled(journal: Journal) -> object:
            found = read(journal)
            monkeypatch.undo()
            store.add_message("t", "a", message_id="n")
            return found

        monkeypatch.setattr(Journal, "read", handled)
        assert store.messages()[0].message_id == "m"
        assert [message.message_id for message in store.messages()] == ["m", "n"]


def is_free(lock: FileLock) -> bool:
    claim = lock.claim()
    try:
        return claim.try_acquire()
    finally:
        claim.release()


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_what_was_committed_before_a_read_is_in_it_whatever_a_handler_commits(
    tmp_path: Path, scheme: str
) -> None:
    url = f"{scheme}:///{tmp_path}/store"
    with open_store(url, durability="process") as store, open_store(url) as other:
        store.create_thread(thread_id="t")
        for message_id in ("m", "n"):
            store.add_message("t", "a", status="pending", message_id=message_id)
        handler = Handler(lambda: store.update_message("n", append="y"))
        line, goes_on = 1, True
        while goes_on:
            since = store.cursor()
            other.update_message("m", append="x")
            found: list[int] = []
            goes_on = handler.comes_in(
                lambda: found.extend(each.revision for each in store.changes(since)), line
            )
            assert found[:1] == [since + 1], line
            line += 1
        assert handler.done > 5


def test_a_call_in_the_midst_of_another_is_refused_where_it_would_break_it() -> None:
    with open_store("memory:") as store:
        store.create_thread(thread_id="t")
        assert isinstance(store, memory.MemoryConversationStore)
        with (
            store._reading(),
            pytest.raises(RuntimeError, match="^this thread is in the midst of another call of"),
        ):
            store.threads()
        assert [thread.thread_id for thread in store.threads()] == ["t"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in a __del__
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_an_interrupted_close_is_done_by_the_next_one(tmp_path: Path, scheme: str) -> None:
    came = Signal()
    for step in itertools.count(1):
        path = f"{tmp_path}/{step}"
        store = open_store(f"{scheme}:///{path}", durability="process")
        store.create_thread(thread_id="t")
        was_interrupted = came.comes_in(store.close, step)
        store.close()
        assert store._lock._descriptor is None, step  # type: ignore[attr-defined]
        assert not sqlite_link.is_open_here(path), step
        assert store.left_open() is None  # type: ignore[attr-defined]
        with open_store(f"{scheme}:///{path}", durability="process") as again:
            assert [thread.thread_id for thread in again.threads()] == ["t"], step
        if not was_interrupted:
            break
    assert step > 30


def test_what_a_close_did_not_come_to_is_still_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    store = open_store("memory:")
    with monkeypatch.context() as patch:
        patch.setattr(memory.MemoryConversationStore, "_close", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.close()
    with pytest.raises(StoreClosed):
        store.threads()
    assert "was not closed" in store.left_open()  # type: ignore[attr-defined]
    store.close()
    assert store.left_open() is None  # type: ignore[attr-defined]
