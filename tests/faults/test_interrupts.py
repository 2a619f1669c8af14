"""A fault that Ctrl-C or a timeout breaks off, wherever it is: what it did is undone all the same.

The interrupt comes at each line of a fault's beginning and of its undoing, one after the other.
"""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    MemoryConversationStore,
    SystemClock,
    open_store,
    testing,
)
from pytest_claude_comms.stores.files import FileLock
from pytest_claude_comms.testing import Fault, Faults, faults_files
from tests.tracing import Traced

posix = pytest.mark.skipif(
    sys.platform == "win32", reason="what is open cannot be taken away there"
)

FOLDER = str(Path(testing.__file__).parent)
LONG = 30.0

BEGIN: dict[str, Callable[[Faults, Any], Fault]] = {
    "busy": lambda faults, store: faults.busy(store),
    "slow": lambda faults, store: faults.slow(store, by=0.001),
    "write_fails": lambda faults, store: faults.write_fails(store, forever=True),
    "delete": lambda faults, store: faults.delete(store),
    "replace": lambda faults, store: faults.replace(store),
}


class Interrupt(BaseException):
    """As the one of pytest-timeout: no Exception."""


class Interrupts:
    """Raises at the ``at``-th line of the faults' own code that this thread comes to."""

    def __init__(self, at: int) -> None:
        self.came: str | None = None
        self._left = at
        self._traced = Traced(self._call)

    def __enter__(self) -> Interrupts:
        self._traced.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._traced.__exit__(*exc)

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        folder, name = os.path.split(frame.f_code.co_filename)
        return self._line if folder == FOLDER and name.startswith("fault") else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and self.came is None:
            name, number = frame.f_code.co_filename, frame.f_lineno
            # Raised as a `with` ends, it would keep the exit from being called: no signal can.
            self._left -= not linecache.getline(name, number).lstrip().startswith("with ")
            if not self._left:
                self.came = f"{os.path.basename(name)}:{number}"
                sys.settrace(None)
                raise Interrupt(self.came)
        return self._line


def undo_elsewhere(faults: Faults) -> None:
    """By another thread, which must not wait for the one that was interrupted."""
    failures: list[BaseException] = []

    def undo() -> None:
        try:
            faults.undo()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=undo, daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive(), "it waits for ever"
    assert not failures


def folder_of(store: ConversationStore) -> str:
    return os.path.dirname(store.url.partition(":///")[2])


def inodes(store: ConversationStore) -> dict[str, int]:
    return {entry.name: entry.stat().st_ino for entry in os.scandir(folder_of(store))}


@posix
@pytest.mark.parametrize("phase", ["begin", "undo"])
@pytest.mark.parametrize("kind", BEGIN)
def test_at_every_line(store: ConversationStore, kind: str, phase: str) -> None:
    thread = store.create_thread()
    message = store.add_message(thread, "a", status="processing", content="kept")
    calls = {name: getattr(os, name) for name in ("write", "fsync", "ftruncate", "replace")}
    attributes, lock_file = set(vars(store)), vars(FileLock)["_lock_file"]
    at, came = 0, True
    while came:
        at += 1
        faults, interrupts, files = Faults(), Interrupts(at), inodes(store)
        try:
            if phase == "undo":
                BEGIN[kind](faults, store)
            with interrupts:
                if phase == "undo":
                    faults.undo()
                else:
                    BEGIN[kind](faults, store)
        except Interrupt:
            pass
        came = interrupts.came is not None
        undo_elsewhere(faults)
        where = interrupts.came
        assert {name: getattr(os, name) for name in calls} == calls, where
        assert (set(vars(store)), vars(FileLock)["_lock_file"]) == (attributes, lock_file), where
        assert inodes(store) == files, where
        assert store.get_message(message).content == "kept", where
        store.update_message(message, metadata={"at": at})
        for fault in faults.record:
            assert fault.notes == [], where
    assert at > 15, "the faults were in none of the files that were looked at"


@posix
@pytest.mark.parametrize("kind", ["delete", "replace"])
def test_a_store_that_cannot_be_taken_away_whole_stays_whole(
    store: ConversationStore, faults: Faults, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As on Windows, where the system refuses to move what is open."""
    thread = store.create_thread(thread_id="t")
    files, rename, moved = inodes(store), os.rename, []

    def refuse_the_second(source: str, target: str) -> None:
        moved.append(source)
        if len(moved) == 2:
            raise PermissionError(13, "it is used by another process", source)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse_the_second)
        with pytest.raises(RuntimeError, match=rf"^faults\.{kind}: this system does not let"):
            BEGIN[kind](faults, store)
    assert inodes(store) == files
    assert store.get_thread(thread).thread_id == "t"
    assert faults.record == ()


@posix
def test_a_file_that_is_half_mended(
    store: ConversationStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = store.add_message(store.create_thread(), "a", content="kept")
    torn, elsewhere = faults.tear(store, keep=-9), faults_files._elsewhere

    def breaks_off(program: str, *arguments: str, data: bytes) -> bytes:
        elsewhere(program, *arguments, data=data[:4])
        raise Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(faults_files, "_elsewhere", breaks_off)
        with pytest.raises(Interrupt):
            torn.undo()
    torn.undo()
    assert torn.notes == []
    store.update_message(message, metadata={"more": 1})
    with open_store(store.url) as other:
        assert other.get_message(message).content == "kept"


def slowed(faults: Faults) -> tuple[MemoryConversationStore, Fault]:
    store = MemoryConversationStore()
    return store, faults.slow(store, by=0.001, may_miss=True)


def test_what_was_done_before_waits_for_what_was_interrupted(faults: Faults) -> None:
    """What a fault puts back stands upon what it puts back later."""
    order: list[str] = []
    interrupts = [Interrupt()]

    def breaks_off() -> None:
        order.append("last")
        if interrupts:
            raise interrupts.pop()

    store, fault = slowed(faults)
    with store:
        fault.when_undone(lambda: order.append("first"))
        fault.when_undone(breaks_off)
        with pytest.raises(Interrupt):
            fault.undo()
        assert order == ["last"]
        fault.undo()
        fault.undo()
        assert order == ["last", "last", "first"]
        assert "cursor" not in vars(store)


def test_a_timeout_that_is_an_exception_like_any_other(faults: Faults) -> None:
    timeouts = [TimeoutError()]
    done: list[str] = []

    def breaks_off() -> None:
        if timeouts:
            raise timeouts.pop()
        done.append("put back")

    store, fault = slowed(faults)
    with store:
        fault.when_undone(breaks_off)
        with pytest.raises(TimeoutError):
            fault.undo()
        assert (done, "cursor" in vars(store)) == (["put back"], False)


def test_of_several_the_others_are_undone_first_and_then_the_interrupted_one() -> None:
    others = Faults()
    interrupts = [Interrupt()]

    def breaks_off() -> None:
        if interrupts:
            raise interrupts.pop()

    first, fault = slowed(others)
    second, interrupted = slowed(others)
    interrupted.when_undone(breaks_off)
    with first, second:
        with pytest.raises(Interrupt):
            others.undo()
        assert not {"cursor"} & {*vars(first), *vars(second)}
        assert (fault.is_undone, interrupted.is_undone) == (True, True)


def test_who_undoes_it_meanwhile_waits_until_all_is_put_right(faults: Faults) -> None:
    store, fault = slowed(faults)
    inside, go_on = threading.Event(), threading.Event()
    seen: list[bool] = []
    times: list[None] = []

    def takes_long() -> None:
        times.append(None)
        inside.set()
        assert go_on.wait(LONG)

    def other() -> None:
        fault.undo()
        seen.append("cursor" in vars(store))

    with store:
        fault.when_undone(takes_long)
        clock = SystemClock()
        undoes = clock.spawn(fault.undo)
        assert inside.wait(LONG)
        waits = clock.spawn(other)
        assert not waits.join(0.01)
        go_on.set()
        undoes.join()
        waits.join()
    assert (seen, len(times)) == ([False], 1)
