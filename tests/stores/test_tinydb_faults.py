"""Broken disks, interrupts and kills."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import (
    HistoryGone,
    StoreError,
)
from pytest_claude_comms.stores import tinydb
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
from tests.stores.tinydb_kit import FailingOS, InterruptingOS, Open, contents, disk, opening


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comms.json"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the store at ``path``, and closes it in the end."""
    with opening(path) as start:
        yield start


def scenario(store: TinyDBConversationStore) -> dict[int, Callable[[], object]]:
    """Calls, by the number that each of them adds to the store; 0 adds none."""
    return {
        1: lambda: store.update_message("m", append="1;"),
        2: lambda: store.update_message("m", append="2;"),
        0: store.checkpoint,
        3: lambda: store.db.insert({"n": 3}),
        4: lambda: store.update_message("m", append="4;", metadata={"x": "y" * 2000}),
        5: lambda: store.update_message("m", append="5;"),
    }


def check_kept(store: TinyDBConversationStore, done: set[int], unknown: set[int]) -> None:
    text = store.get_message("m").content
    kept = [int(part) for part in text.split(";")[:-1]] + [row["n"] for row in store.db]
    assert len(kept) == len(set(kept))
    assert set(kept) - unknown == done - {0} - unknown
    assert done - {0} <= set(kept)
    assert "".join(change.append or "" for change in store.changes()) == text


@pytest.mark.parametrize("short", [False, True], ids=["fail", "short writes"])
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
def test_a_disk_that_fails_at_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forever: bool, short: bool
) -> None:
    monkeypatch.setattr(TinyDBConversationStore, "_checkpoint_bytes", 1_200)
    names = [f"x.json{ending}" for ending in ("", ".journal", ".lock")]
    failures, k, broken = 0, 0, FailingOS(0)
    while broken.has_failed:
        k += 1
        broken = FailingOS(k, forever=forever, short=short)
        path = tmp_path / str(k) / "x.json"
        store = TinyDBConversationStore(path)
        store.add_message(store.create_thread(), "a", status="processing", message_id="m")
        done: set[int] = set()
        unknown: set[int] = set()
        with disk(monkeypatch, broken):
            for number, call in scenario(store).items():
                try:
                    call()
                    done.add(number)
                except StoreError as error:
                    failures += str(path) in str(error)
                    if error.outcome == "unknown":
                        unknown.add(number)
        check_kept(store, done, unknown)
        store.update_message("m", append="9;")
        check_kept(store, done | {9}, unknown)
        store.close()
        assert sorted(os.listdir(path.parent)) == names
        with TinyDBConversationStore(path) as other:
            check_kept(other, done | {9}, unknown)
    assert k > 40
    assert failures > (5 if short else 20)


@pytest.mark.parametrize("forever", [False, True], ids=["once", "from then on"])
def test_a_disk_that_fails_while_it_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forever: bool
) -> None:
    k, broken = 0, FailingOS(0)
    while broken.has_failed:
        k += 1
        broken = FailingOS(k, forever=forever)
        path = tmp_path / f"{k}.json"
        with disk(monkeypatch, broken):
            try:
                TinyDBConversationStore(path).close()
            except StoreError:
                pass
            else:
                assert not broken.has_failed or os.listdir(tmp_path)
        with TinyDBConversationStore(path) as store:
            store.create_thread()
    assert k > 10


def test_a_full_disk_does_not_stop_writing_for_want_of_a_checkpoint(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    store._checkpoint_bytes = 500
    tries: list[str] = []

    def full(*arguments: Any, **_: Any) -> Any:
        tries.append(arguments[0])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tinydb, "replace_file", full)
    for _ in range(100):
        store.create_thread()
    assert 2 <= len(tries) < 10
    with pytest.raises(StoreError, match="No space left"):
        store.checkpoint()
    monkeypatch.undo()
    store.create_thread()
    assert len(opened().threads()) == 101


@pytest.mark.parametrize("error", [RecursionError, MemoryError, StoreError("full")])
def test_a_change_is_made_though_its_checkpoint_fails(
    opened: Open, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    store = opened()
    store._checkpoint_bytes = 0

    def dump(*_: object) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("pytest_claude_comms.stores.tinydb_image.Image.dump", dump)
        store.create_thread("x" * 10_000, thread_id="t")
        store.db.insert({"n": "x" * 40_000})
    assert [thread.thread_id for thread in opened().threads()] == ["t"]
    assert len(opened().db) == len(store.db) == 1


def test_who_has_seen_a_change_that_a_disk_error_took_back_is_told(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, watcher, late = opened(durability="power"), opened(), opened()
    message = store.add_message(store.create_thread(), "a", status="processing")
    seen: list[str] = []
    late.cursor()

    def fsync(descriptor: int) -> None:
        if not seen:
            seen.append(watcher.get_message(message).content)
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(StoreError) as caught:
            store.update_message(message, append="x")
    assert caught.value.outcome == "not done"
    assert seen == ["x"]
    store.update_message(message, append="y")  # of the same size, perhaps at the same time
    for _ in range(2):
        with pytest.raises(HistoryGone, match="taken back"):
            watcher.changes(2)
    assert late.get_message(message).content == store.get_message(message).content == "y"


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "stat"])
def test_an_interrupt_leaves_a_store_that_works(
    opened: Open, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    store = opened(durability="power")
    message = store.add_message(store.create_thread(), "a", status="processing")
    k, broken = 0, InterruptingOS(0)
    while broken.has_failed:
        k += 1
        broken = InterruptingOS(k, calls=(name,))
        before = store.get_message(message).content
        with disk(monkeypatch, broken), suppress(KeyboardInterrupt):
            store.update_message(message, append=f"{k};")
            store.db.insert({"n": k})
            store.checkpoint()
        assert store.get_message(message).content in (before, f"{before}{k};")
        store.update_message(message, append="!")
        assert contents(opened()) == contents(store)
        assert opened().db.all() == store.db.all()
    assert k > 1


# -- kills


KILLED = """
import sys
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
TinyDBConversationStore._checkpoint_bytes = 0
def tidy(store, view):
    if n % 3 == 0:
        store._write_checkpoint(view)
TinyDBConversationStore._tidy = tidy
n = 0
store = TinyDBConversationStore(sys.argv[1], durability=sys.argv[2])
n = store.get_message("m").content.count(";")
while True:
    store.update_message("m", append=f"{n};")
    store.db.insert({"n": n})
    print(n, flush=True)
    n += 1
"""


def test_kills_during_checkpoints_lose_nothing(opened: Open, path: Path, python: Any) -> None:
    chance = random.Random(4)
    with opened() as store:
        store.add_message(store.create_thread(), "a", status="processing", message_id="m")
    for turn in range(10):
        child = python(KILLED, str(path), "power" if turn % 2 else "process")
        last = -1
        for _ in range(chance.randrange(1, 40)):
            last = int(child.stdout.readline())
        child.kill()
        said = child.communicate()[0].split("\n")[:-1]
        last = int(said[-1]) if said else last
        with TinyDBConversationStore(path, durability="process") as store:
            numbers = [int(part) for part in store.get_message("m").content.split(";")[:-1]]
            rows = [row["n"] for row in store.db]
            assert numbers == list(range(len(numbers)))
            assert len(numbers) > last
            assert [each.revision for each in store.changes()] == list(range(1, len(numbers) + 2))
            assert sorted({*rows, *range(last + 1)}) == sorted(rows)
            if len(rows) < len(numbers):  # killed between the two
                store.db.insert({"n": numbers[-1]})
        assert not [name for name in os.listdir(path.parent) if name.endswith("new")]


def test_the_shared_kill_loop(path: Path, kill_loop: Any) -> None:
    seen = kill_loop(f"tinydb:///{path}", 6)
    assert seen.kept >= seen.acknowledged > 0
