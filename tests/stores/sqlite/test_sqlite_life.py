"""A SQLite store from its opening to its end: closing, interrupts."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path

import pytest

from pytest_claude_comms.errors import StoreClosed, StoreError
from pytest_claude_comms.resources import left_open
from pytest_claude_comms.stores import sqlite_link
from pytest_claude_comms.stores.base import Durability
from pytest_claude_comms.stores.files import Claim
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from pytest_claude_comms.stores.sqlite_rows import Commit, SQLiteSnapshot
from tests.stores.sqlite_kit import Python, become_idle, everything, finish, posix, seed

# -- its life


def test_closed(store: SQLiteConversationStore) -> None:
    seed(store)
    store.close()
    store.close()
    for act in everything(store):
        with pytest.raises(StoreClosed):
            act()


def test_closed_during_a_call(store: SQLiteConversationStore) -> None:
    seed(store)
    with store._reading() as snapshot:
        store.close()
        assert snapshot.message("m") is not None
    assert sorted(os.listdir(Path(store._path).parent)) == ["comms.db", "comms.db.lock"]
    with pytest.raises(StoreClosed), store._reading():
        pass


def test_left_open_is_found(path: Path) -> None:
    store = SQLiteConversationStore(path, durability="process")
    assert left_open()[id(store)][1].startswith(f"the store {store.url} was not closed")
    store.close()
    assert id(store) not in left_open()


def test_a_store_that_could_not_be_opened_is_not_left_open(tmp_path: Path) -> None:
    before = set(left_open())
    with pytest.raises(StoreError):
        SQLiteConversationStore(tmp_path)
    assert set(left_open()) == before


@pytest.mark.filterwarnings("error")
def test_no_resource_warnings(path: Path) -> None:
    store = SQLiteConversationStore(path, durability="process")
    seed(store)
    threads = [threading.Thread(target=store.cursor) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del store
    gc.collect()


def test_many_open_and_close(path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    for _ in range(20):
        with SQLiteConversationStore(path, durability="process") as store:
            store.cursor()
    assert (len(list(descriptors.iterdir())) if descriptors.exists() else 0) == before


_INTERRUPTED = """
import signal, sys
from pytest_claude_comms.stores import open_store

def interrupt(*_):
    global hits, armed
    if armed:
        hits, armed = hits + 1, False
        raise KeyboardInterrupt

hits, armed = 0, False
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
store.add_message("t", "a", status="processing", message_id="m")
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0011, 0.0011)
while hits < 300:
    try:
        armed = True
        while True:
            store.update_message("m", append="x")
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
assert store._lock._owner is None
assert not any(link.db.in_transaction for link in store._idle)
with open_store(store.url) as other:
    other.update_message("m", append="x")
content = store.update_message("m", append="x").content
assert len(content) == store.cursor() - 1 == len(store.changes()) - 1
store.close()
"""


@posix
def test_an_interrupt_leaves_nothing_behind(
    path: Path, python: Python, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What counts coverage has a lock of its own, which an interrupt can leave held for ever.
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    finish(python(_INTERRUPTED, f"sqlite:///{path}"))


def test_a_connection_that_is_collected_complains_of_nothing(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = sqlite_link.Link(str(path), "process")

    def close() -> None:
        raise TypeError("'NoneType' object is not callable")  # modules are gone

    with monkeypatch.context() as patch:
        patch.setattr(link, "close", close)
        link.__del__()
    link.close()


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 0), ("power", 2)])
@pytest.mark.parametrize("act", ["none", "read", "write"])
def test_a_connection_that_came_later_is_like_the_first(
    path: Path, act: str, durability: Durability, synchronous: int
) -> None:
    with SQLiteConversationStore(path, durability=durability) as store:
        seed(store)
        if act != "none":
            while store._idle:
                store._idle.pop().close()
            store.update_message("m", append="x") if act == "write" else store.get_message("m")
        (link,) = store._idle
        assert not link.in_use
        assert link.db.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        assert link.db.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        with store._reading(), store._reading():  # a second one is made for it
            assert not store._idle
            links = [each for each in sqlite_link._all_links() if each.path == str(path)]
            assert len(links) == 2
            assert all(each.in_use for each in links)
        become_idle(store)


def test_whether_a_file_is_open_in_this_process(store: SQLiteConversationStore, path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    for name in (path, link):
        with sqlite_link.kept_closed(str(name)) as is_closed:
            assert not is_closed
    with sqlite_link.kept_closed(f"{path}.other") as is_closed:
        assert is_closed
    store.close()
    for name in (path, link):
        with sqlite_link.kept_closed(str(name)) as is_closed:
            assert is_closed


def test_a_close_that_is_interrupted_as_it_lets_go_holds_nothing(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    release, interrupts = Claim.release, [KeyboardInterrupt()]

    def interrupted(self: Claim) -> None:
        if interrupts:
            raise interrupts.pop()
        release(self)

    monkeypatch.setattr(Claim, "release", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.close()
    with SQLiteConversationStore(path) as again:
        again.update_message("m", append="x")


def test_what_a_call_in_the_midst_of_another_committed_stays_known(
    store: SQLiteConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler does it; the other one then knows less than this one."""
    seed(store)
    begin, handlers = SQLiteSnapshot.begin, [lambda: store.update_message("m", append="x")]

    def begun(self: SQLiteSnapshot, known: Commit) -> bool:
        found = begin(self, known)
        while handlers:
            handlers.pop()()
        return found

    before = store.cursor()
    monkeypatch.setattr(SQLiteSnapshot, "begin", begun)
    assert store.changes(before).items == ()
    assert [change.append for change in store.changes(before)] == ["x"]
    assert store._known.revision == before + 1
