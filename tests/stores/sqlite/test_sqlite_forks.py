"""A SQLite store, and a process that is forked while it is open."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import check_store
from pytest_claude_comms.stores import sqlite_check, sqlite_link
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from pytest_claude_comms.stores.sqlite_reading import SQLiteReader
from tests.stores.sqlite_kit import Python, everything, finish, posix, seed


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
    with sqlite_link._calling:  # as a fork holds it
        thread.start()
        thread.join(0.05)
        assert not found
    thread.join()
    assert found == ["m"]


@posix
def test_a_fork_does_not_wait_for_its_own_call(store: SQLiteConversationStore) -> None:
    seed(store)
    with store._writing():
        assert not sqlite_link._others_call()
    assert not sqlite_link._callers


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
        logs = [log for link, log in sqlite_link._inherited.items() if link.path == str(path)]
        assert logs == [None]
        with SQLiteConversationStore(path, durability="process") as mine:
            seed(mine)

    assert forked(anew) == 0
    with SQLiteConversationStore(path) as again:
        assert again.cursor() == 1


# -- a handler of a signal that raises while a process is forked


_INTERRUPTED = """
import os, signal, sys, threading
from pytest_claude_comms.stores import open_store, sqlite_link
begun, goes_on = threading.Event(), threading.Event()
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")

def call():
    with store._reading():
        begun.set()
        goes_on.wait()

def others_call():  # the fork waits for that of the thread
    signal.raise_signal(signal.SIGINT)

thread = threading.Thread(target=call)
thread.start()
begun.wait()
sqlite_link._others_call = others_call
sys.unraisablehook = lambda found: print(found.exc_type.__name__, flush=True)
child = os.fork()
if not child:
    try:
        open_store(sys.argv[1])
    except RuntimeError as error:
        print("was in use when this process was forked" in str(error), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
goes_on.set()
thread.join()
thread = threading.Thread(target=lambda: print(store.cursor(), flush=True), daemon=True)
thread.start()
thread.join(60)
"""


@posix
def test_an_interrupt_while_a_fork_waits_leaves_nothing_held_and_nothing_unnoted(
    path: Path, python: Python
) -> None:
    """Else other threads wait for ever, or the child opens it and its commits are lost."""
    child = python(
        "import warnings; warnings.simplefilter('ignore')" + _INTERRUPTED, f"sqlite:///{path}"
    )
    assert finish(child) == "KeyboardInterrupt\nTrue\n0\n"


def test_what_was_closed_before_the_fork_is_not_kept_in_the_child(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    link = sqlite_link.Link(str(path), "process")
    link.close()
    monkeypatch.setattr(link, "_made_by", -1)
    assert link.is_inherited
    link.__del__()
    assert link not in sqlite_link._inherited


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_was_not_noted_before_the_fork_is_not_opened_in_the_child(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    noted: list[object] = []

    def refused() -> None:
        noted.extend(sqlite_link._inherited)
        with pytest.raises(RuntimeError, match="when this process was forked"):
            SQLiteConversationStore(path)
        with monkeypatch.context() as patch:
            patch.setattr(sqlite_link, "_log_identity", lambda path: None)
            with pytest.raises(RuntimeError, match="when this process was forked"):
                SQLiteConversationStore(path)
        store._idle.clear()  # collected, it would be closed, as the last one
        assert os.path.getsize(f"{path}-wal")
        (log,) = sqlite_link._inherited.values()
        assert log == sqlite_link._NOT_NOTED

    monkeypatch.setattr(sqlite_link, "_all_links", list)  # as where a handler raises there
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return
    try:
        monkeypatch.undo()
        refused()
    except BaseException:
        os._exit(1)
    os._exit(bool(noted))


_RAISING = """
import os, random, signal, sys, threading
from pytest_claude_comms.claude import lifeline
from pytest_claude_comms.stores import open_store, sqlite_link
store = open_store(sys.argv[1], durability="process")
store.create_thread(thread_id="t")
sys.unraisablehook = lambda found: None
sys.settrace(None)  # the locks of whoever measures coverage are not ours
armed = False
raised = 0

def handler(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, handler)
for turn in range(300):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 1e-3))
        if not os.fork():
            os._exit(0)
        armed = False
    except KeyboardInterrupt:
        armed = False
        raised += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        os.wait()
    except ChildProcessError:
        pass
    for lock in (sqlite_link._calling, sqlite_link._opening, lifeline._forking):
        assert not lock._is_owned(), (turn, lock)
print(raised > 0, store.cursor(), flush=True)
os._exit(0)
"""


@posix
def test_wherever_a_handler_raises_in_a_fork_no_lock_stays_held(path: Path, python: Python) -> None:
    assert finish(python(_RAISING, f"sqlite:///{path}")).startswith("True")


# -- more than one thread


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_threads_of_a_child_open_it_at_once(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    errors: list[BaseException] = []
    at_once = threading.Barrier(4)

    def append() -> None:
        at_once.wait()
        try:
            with SQLiteConversationStore(path, durability="process") as mine:
                mine.update_message("m", append="x")
        except BaseException as error:
            errors.append(error)
            raise

    def append_all() -> None:
        threads = [threading.Thread(target=append) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors

    for _ in range(10):
        assert forked(append_all) == 0
    assert store.get_message("m").content == "x" * 40


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_call_in_the_midst_of_an_opening_does_not_wait_for_a_fork_that_waits_for_it(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler makes it while its thread has the lock under which files are opened."""
    seed(store)
    forking, forked_off = threading.Event(), threading.Event()
    connect = sqlite3.connect
    found: list[str] = []

    def others_call() -> bool:
        forking.set()
        return others_really_call()

    def fork() -> None:
        assert forked(lambda: None) == 0
        forked_off.set()

    def connected(*args: Any, **given: Any) -> object:
        if not forking.is_set():
            thread.start()
            assert forking.wait(60)
            found.append(store.get_message("m").message_id)
            assert not sqlite_link._calling.acquire(blocking=False), "the fork waits no more"
        return connect(*args, **given)

    others_really_call = sqlite_link._others_call
    thread = threading.Thread(target=fork)
    monkeypatch.setattr(sqlite_link, "_PATIENCE_US", 60_000_000)
    monkeypatch.setattr(sqlite_link, "_others_call", others_call)
    monkeypatch.setattr(sqlite3, "connect", connected)
    sqlite_link.Link(str(path), "process").close()
    thread.join()
    assert found == ["m"]
    assert forked_off.is_set()


@posix
@pytest.mark.parametrize("way", ["check", "reader"])
def test_a_fork_waits_for_whoever_only_reads(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A check, or a reader of a store that nobody has open, which keeps its connection."""
    seed(store)
    store.close()
    seen: list[bool] = []

    def look() -> None:
        thread = threading.Thread(target=lambda: seen.append(sqlite_link._others_call()))
        thread.start()
        thread.join()

    if way == "check":
        read = sqlite_check._Reader.read

        def reading(self: sqlite_check._Reader) -> object:
            look()
            return read(self)

        monkeypatch.setattr(sqlite_check._Reader, "read", reading)
        assert not check_store(f"sqlite:///{path}").findings
    else:
        with SQLiteReader(path) as reader:
            for _ in range(2):
                with reader._reading():
                    look()
            assert not sqlite_link._callers
    look()
    assert seen == ([True, False] if way == "check" else [True, True, False])


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_does_not_wait_for_a_file_that_is_being_copied(path: Path, tmp_path: Path) -> None:
    with sqlite_link.kept_closed(str(tmp_path / "other.db")):
        thread = threading.Thread(target=lambda: found.append(forked(use)))
        found: list[int] = []

        def use() -> None:
            with SQLiteConversationStore(path, durability="process") as mine:
                seed(mine)

        thread.start()
        thread.join()
    assert found == [0]
