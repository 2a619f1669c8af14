"""A SQLite store from its opening to its end: closing, interrupts, forks."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_claude_comms.errors import StoreClosed, StoreError
from pytest_claude_comms.resources import left_open
from pytest_claude_comms.stores import sqlite_link
from pytest_claude_comms.stores.base import Durability
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
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
            assert all(each.in_use for each in sqlite_link._links if each.path == str(path))
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


# -- forks


def forked(act: Callable[[], object], *, leave: Callable[[int], object] = os._exit) -> int:
    """The exit code of a forked child that calls ``act``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        act()
    except BaseException:
        leave(1)
    leave(0)
    return 0


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)

    def refused() -> None:
        for act in everything(store):
            with pytest.raises(RuntimeError) as caught:
                act()
            assert str(caught.value) == (
                f"the store {store.url} was opened before a fork and is used in the child: "
                f"open it again there with open_store({store.url!r})"
            )
        store.close()

    assert forked(refused) == 0
    assert store.update_message("m", append="x").revision == 2


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_opened_again_in_the_child_of_a_fork(path: Path) -> None:
    # Beside an inherited connection SQLite takes no lock: all of this would be lost.
    store = SQLiteConversationStore(path, durability="process")
    seed(store)
    here, there = os.pipe(), os.pipe()

    def work() -> None:
        with SQLiteConversationStore(path, durability="process") as mine:
            mine.update_message("m", append="a")
            os.write(here[1], b".")
            os.read(there[0], 1)
            for _ in range(10):
                mine.update_message("m", append="b")
            os._exit(0)  # without closing

    child = os.fork()
    if not child:
        work()
    os.read(here[0], 1)
    store.close()
    os.write(there[1], b".")
    assert os.waitpid(child, 0)[1] == 0
    for descriptor in (*here, *there):
        os.close(descriptor)
    with SQLiteConversationStore(path) as again:
        assert again.get_message("m").content == "a" + "b" * 10


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_in_the_middle_of_a_call(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)

    def refused() -> None:
        with pytest.raises(RuntimeError, match="when this process was forked"):
            SQLiteConversationStore(path)
        with SQLiteConversationStore(path.with_name("other.db"), durability="process") as other:
            seed(other)

    with store._writing():
        assert forked(refused) == 0
    assert store.update_message("m", append="x").revision == 2


_FORKED_BESIDE_A_CALL = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")  # Python's own, of threads and forks
from pytest_claude_comms.stores import open_store
begun, goes_on = threading.Event(), threading.Event()
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
os.register_at_fork(before=goes_on.set)  # the last that was registered is the first to be called

def call():
    with store._writing():
        begun.set()
        goes_on.wait()

thread = threading.Thread(target=call)
thread.start()
begun.wait()
child = os.fork()
if not child:
    with open_store(sys.argv[1], durability="process") as mine:
        mine.add_message("t", "a", message_id="m")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
print(store.get_message("m").module_name)
store.close()
"""


@posix
def test_a_fork_waits_for_the_calls_of_other_threads(path: Path, python: Python) -> None:
    # SQLite's own locks, if such a call holds one, would be held in the child for ever.
    assert finish(python(_FORKED_BESIDE_A_CALL, f"sqlite:///{path}")) == "a\n"


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_waits_for_a_call_without_end_so_long_and_no_longer(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_link, "_PATIENCE_US", 1_000)
    seed(store)
    begun, goes_on = threading.Event(), threading.Event()

    def call() -> None:
        with store._reading():
            begun.set()
            goes_on.wait()

    def refused() -> None:
        with pytest.raises(RuntimeError, match="when this process was forked"):
            SQLiteConversationStore(path)

    thread = threading.Thread(target=call)
    thread.start()
    begun.wait()
    try:
        assert forked(refused) == 0
    finally:
        goes_on.set()
        thread.join()
    assert store.update_message("m", append="x").revision == 2


@posix
def test_no_call_begins_while_a_process_is_forked(store: SQLiteConversationStore) -> None:
    seed(store)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(store.get_message("m").message_id))
    sqlite_link._note_logs()
    try:
        thread.start()
        thread.join(0.05)
        assert not found
    finally:
        sqlite_link._forget_logs()
    thread.join()
    assert found == ["m"]


@posix
def test_a_fork_does_not_wait_for_its_own_call(store: SQLiteConversationStore) -> None:
    seed(store)
    with store._writing():
        assert not sqlite_link._others_call()
    assert [link.caller for link in store._idle] == [None]


_EXITING = """
import os, sys
from pytest_claude_comms.stores import open_store
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
child = os.fork()
if child:
    os.waitpid(child, 0)
    assert os.path.getsize(sys.argv[1][10:] + "-wal") > 0
    print(len(store.threads()))
    store.close()
"""


@posix
def test_a_child_that_exits_normally_closes_nothing(path: Path, python: Python) -> None:
    child = python(_EXITING, f"sqlite:///{path}")
    said, complaint = child.communicate(timeout=60)
    assert (said, complaint) == ("1\n", "")


_OUTLIVED = """
import os, signal, sys
mine = os.pipe()
os.register_at_fork(after_in_child=lambda: os.read(mine[0], 1))  # it comes late to its first step
from pytest_claude_comms.stores import open_store
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
if not os.fork():
    if sys.argv[2] == "opens it":
        try:
            open_store(sys.argv[1])
        except RuntimeError as error:
            print("was in use when this process was forked" in str(error), flush=True)
    sys.exit()
store.close()  # it is the last one: the log that the child has open goes
again = open_store(sys.argv[1], durability="process")
again.add_message("t", "a", message_id="m")
os.write(mine[1], b".")
os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
@pytest.mark.parametrize("does", ["nothing", "opens it"])
def test_a_child_takes_no_log_with_it_that_is_not_its_own(
    path: Path, python: Python, does: str
) -> None:
    """At its end it would close what it inherited, take itself for the last one, and delete by its
    name the log of a writer that was killed: what that had been told is kept would be lost."""
    child = python(_OUTLIVED, f"sqlite:///{path}", does)
    said, complaint = child.communicate(timeout=60)  # until the child of the child is gone, too
    assert (said, complaint) == ("True\n" if does == "opens it" else "", "")
    with SQLiteConversationStore(path) as store:
        assert store.get_message("m").module_name == "a"


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_of_a_child_opens_it_again(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)

    def append() -> None:
        with SQLiteConversationStore(path, durability="process") as mine:
            mine.update_message("m", append="x")

    def fork_again() -> None:
        assert forked(append) == 0
        append()

    assert forked(fork_again) == 0
    assert store.get_message("m").content == "xx"


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_makes_anew_what_was_deleted_before_the_fork(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    for ending in ("", "-wal", "-shm", ".lock"):
        os.unlink(f"{path}{ending}")

    def anew() -> None:
        assert [log for link, log in sqlite_link._inherited if link.path == str(path)] == [None]
        with SQLiteConversationStore(path, durability="process") as mine:
            seed(mine)

    assert forked(anew) == 0
    with SQLiteConversationStore(path) as again:
        assert again.cursor() == 1
