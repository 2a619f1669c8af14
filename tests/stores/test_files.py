"""The lock between processes, and private files."""

from __future__ import annotations

import errno
import importlib.util
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType, ModuleType
from typing import Any
from weakref import WeakSet

import pytest

from pytest_claude_comms.clock import SystemClock
from pytest_claude_comms.errors import StoreBusy, StoreError
from pytest_claude_comms.stores import files, hub, open_store, sqlite_link
from pytest_claude_comms.stores.files import Claim, FileLock, create_private, fsync_directory
from pytest_claude_comms.stores.sqlite_reading import SQLiteReader
from pytest_claude_comms.stores.tinydb_reading import TinyDBReader
from tests.stores.sqlite_kit import Python, finish
from tests.tracing import Profiled

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
CLOCK = SystemClock()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "a.lock")


def test_two_locks_on_one_file_exclude_each_other(path: str) -> None:
    one, two = FileLock(path), FileLock(path)
    with one.held(CLOCK, 0, "x"):
        assert not two.claim().try_acquire()
        with pytest.raises(StoreBusy, match="the store was busy") as caught:
            two.claim().acquire(CLOCK, 20_000, "the store")
        assert caught.value.waited >= 0.02
        with pytest.raises(StoreBusy) as caught, two.held(CLOCK, 0, "the store"):
            pass
        assert caught.value.path == "the store"
    with two.held(CLOCK, 0, "x"):
        assert not one.claim().try_acquire()
    one.close()
    two.close()


def test_threads_exclude_each_other(path: str) -> None:
    lock = FileLock(path)
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(200):
            with lock.held(CLOCK, 10_000_000, "x"):
                before = count
                os.stat(path)  # lets another thread run
                count = before + 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count == 1_600
    lock.close()


def test_another_thread_does_not_wait_for_ever(path: str) -> None:
    lock = FileLock(path)
    answers: list[bool] = []
    with lock.held(CLOCK, 0, "x"):
        other = threading.Thread(target=lambda: answers.append(lock.claim().try_acquire()))
        other.start()
        other.join()
    assert answers == [False]
    lock.close()


def test_the_same_thread_is_refused(path: str) -> None:
    lock = FileLock(path)
    with lock.held(CLOCK, 0, "x"):
        with pytest.raises(RuntimeError, match=f"this thread holds the lock {path} already"):
            lock.claim().try_acquire()
        with pytest.raises(RuntimeError, match="already"), lock.held(CLOCK, 0, "x"):
            pass
        assert not FileLock(path).claim().try_acquire()  # still held
    lock.close()


def test_only_the_call_that_took_it_lets_go_of_it(path: str) -> None:
    lock, other = FileLock(path), FileLock(path)
    mine, interrupting = lock.claim(), lock.claim()
    assert mine.try_acquire()
    with pytest.raises(RuntimeError, match="already"):
        interrupting.try_acquire()
    interrupting.release()  # nothing happens
    assert not other.claim().try_acquire()
    mine.release()
    mine.release()  # nothing happens
    with other.held(CLOCK, 0, "x"):
        mine.release()
        assert not lock.claim().try_acquire()
    lock.close()
    other.close()


@posix
def test_a_lock_file_that_was_deleted_is_noticed(path: str) -> None:
    one, two = FileLock(path), FileLock(path)
    with one.held(CLOCK, 0, "x"):
        pass
    os.unlink(path)
    with two.held(CLOCK, 0, "x"):
        assert not one.claim().try_acquire()
    with one.held(CLOCK, 0, "x"):
        assert not two.claim().try_acquire()
    os.unlink(path)
    with one.held(CLOCK, 0, "x"):  # nobody has made another one meanwhile
        assert not two.claim().try_acquire()
    one.close()
    two.close()


def test_processes_exclude_each_other(
    path: str, python: Callable[..., subprocess.Popen[str]]
) -> None:
    script = (
        "import sys\nfrom pytest_claude_comms.stores.files import FileLock\n"
        "lock = FileLock(sys.argv[1]).claim()\nprint(lock.try_acquire(), flush=True)\n"
        "sys.stdin.read()\n"
    )
    lock = FileLock(path)
    child = python(script, path)
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    assert not lock.claim().try_acquire()
    child.kill()
    child.wait()
    with lock.held(CLOCK, 1_000_000, "x"):  # the system lets go of it
        pass
    lock.close()


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_does_not_hold_the_lock(path: str) -> None:
    lock = FileLock(path)
    here, there = os.pipe(), os.pipe()
    claim = lock.claim()
    claim.acquire(CLOCK, 0, "x")
    child = os.fork()
    if not child:
        os.close(there[1])  # so that it ends with its parent, whatever happens there
        is_free = lock.claim().try_acquire()
        os.write(here[1], b".")
        os.read(there[0], 1)
        os._exit(is_free)
    try:
        os.read(here[0], 1)
        lock._close_file()  # without unlocking: a copy in the child would hold it on
        claim.release()
        with lock.held(CLOCK, 0, "x"):
            pass
        lock.close()
    finally:
        for descriptor in (*here, *there):
            os.close(descriptor)
        code = os.waitpid(child, 0)[1]
    assert code == 0


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_a_handler_raises_at_a_fork_leaves_no_lock_in_the_child(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_locks", WeakSet())  # not also what other tests have left
    lock = FileLock(path)
    claim = lock.claim()
    claim.acquire(CLOCK, 0, "x")
    step, came = 0, True
    while came:
        step += 1
        left = step

        def interrupt(frame: FrameType, event: str, _: object) -> None:
            nonlocal left
            if event == "call" and frame.f_code.co_filename == files.__file__ and left:
                left -= 1
                if not left:
                    raise KeyboardInterrupt

        with Profiled(interrupt):
            child = os.fork()
            if not child:
                sys.setprofile(None)
                is_forgotten = lock._descriptor is None and lock._owner is None
                os._exit(2 * (not left) + is_forgotten)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (1, 3), step
        came = code == 3
    assert step > 3
    claim.release()
    lock.close()


_FORKED_AS_A_LOCK_IS_OPENED = """
import os, sys, threading, warnings
warnings.simplefilter("ignore")  # Python's own, of threads and forks
from pytest_claude_comms.stores.files import FileLock
opened, goes_on = threading.Event(), threading.Event()
real = FileLock._open

def is_it(descriptor):
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(sys.argv[1]))
    except OSError:
        return False

def slow(self):
    found = real(self)
    opened.set()
    goes_on.wait()
    return found

FileLock._open = slow
lock = FileLock(sys.argv[1])
os.register_at_fork(before=goes_on.set)  # the last that was registered is the first to be called
thread = threading.Thread(target=lock.claim().try_acquire)
thread.start()
opened.wait()
child = os.fork()
if not child:
    os._exit(sum(map(is_it, range(64))))
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), sum(map(is_it, range(64))))
"""


@posix
def test_a_fork_waits_for_who_opens_a_lock(path: str, python: Python) -> None:
    assert finish(python(_FORKED_AS_A_LOCK_IS_OPENED, path)) == "0 1\n"


def test_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    lock = FileLock(str(tmp_path / "none" / "a.lock"))
    with pytest.raises(StoreError, match="none.*No such file"):
        lock.claim().try_acquire()
    assert lock._owner is None


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_a_release_that_fails_lets_go_all_the_same(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = FileLock(path), FileLock(path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_unlock", fail)
        with one.held(CLOCK, 0, "x"):
            pass
        with two.held(CLOCK, 0, "x"):
            pass
    for lock in (one, two, one):
        with lock.held(CLOCK, 0, "x"):
            pass
        lock.close()


def test_a_descriptor_that_cannot_be_closed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = FileLock(path)
    claim = lock.claim()
    assert claim.try_acquire()
    descriptor = lock._descriptor
    assert descriptor is not None
    with monkeypatch.context() as patch:
        patch.setattr("os.close", fail)
        patch.setattr(files, "_unlock", fail)
        claim.release()
        lock.close()
    os.close(descriptor)
    assert claim.try_acquire()
    claim.release()
    lock.close()


@posix
def test_what_cannot_be_made_private_is_not_left_open(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def refuse(descriptor: int, _: int) -> None:
        opened.append(descriptor)
        fail()

    monkeypatch.setattr("os.fchmod", refuse)
    before = os.umask(0o777)
    try:
        with pytest.raises(StoreError, match="Input/output"):
            create_private(path)
    finally:
        os.umask(before)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


@pytest.mark.parametrize("backend", ["sqlite", "tinydb"])
def test_a_change_that_was_made_is_told_though_the_lock_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    woken: list[str] = []
    with open_store(f"{backend}:///{tmp_path}/comms.x", durability="process") as store:
        store.create_thread(thread_id="t")
        with monkeypatch.context() as patch:
            patch.setattr(files, "_unlock", fail)
            store.subscribe(lambda: woken.append("woken"))
            assert store.add_message("t", "x", message_id="m").revision == 1
            assert woken == ["woken"]
            assert store.add_message("t", "x").revision == 2
            assert woken == ["woken"] * 2
            store.close()


@pytest.mark.parametrize("backend", ["sqlite", "tinydb"])
def test_a_path_that_can_be_none(tmp_path: Path, backend: str) -> None:
    with pytest.raises(ValueError, match=r"the path '.*a\\x00b' has a NUL character"):
        open_store(f"{backend}:///{tmp_path}/a\0b")
    with pytest.raises(ValueError, match=r"the path '.*a\\x00b' has a NUL character"):
        open_store(f"{backend}:///a\0b")
    assert not os.listdir(tmp_path)


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_private_files(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "one" / "two" / "file"
    lock = FileLock(f"{path}.lock")
    before = os.umask(umask)
    try:
        assert create_private(str(path))
        with lock.held(CLOCK, 0, "x"):
            pass
    finally:
        os.umask(before)
        lock.close()
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, Path(lock.path))]
    assert modes == [0o600, 0o600]
    folders = [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent.parent)]
    assert folders == [0o700, 0o700]


@posix
def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    path = tmp_path / "file"
    path.write_text("text")
    path.chmod(0o644)
    assert not create_private(str(path))
    assert not create_private(str(tmp_path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert path.read_text() == "text"
    with pytest.raises(StoreError, match="file is not a directory"):
        create_private(str(path / "below"))
    fsync_directory(str(tmp_path))


@posix
def test_a_folder_that_somebody_else_makes_meanwhile_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.mkdir

    def mkdir(path: str, mode: int = 0o777) -> None:
        real(path, 0o755)
        real(path, mode)

    monkeypatch.setattr("os.mkdir", mkdir)
    assert create_private(str(tmp_path / "theirs" / "file"))
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o755


@posix
def test_nothing_can_be_made_where_there_is_no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drive that is not there, on Windows."""
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    monkeypatch.setattr("os.mkdir", fail)
    with pytest.raises(StoreError, match="Input/output"):
        create_private("/file")


class Interrupted:
    """Stands before a function, and interrupts it once, before or after its work."""

    def __init__(self, real: Callable[..., Any], *, after: bool) -> None:
        self.real = real
        self.after = after
        self.calls = 0

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls > 1:
            return self.real(*given)
        if self.after:
            self.real(*given)
        raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_release_lets_go_all_the_same(
    path: str, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    lock, other = FileLock(path), FileLock(path)
    for owner, name in ((Claim, "release"), (Claim, "_release"), (FileLock, "_let_go")):
        interrupted = Interrupted(getattr(owner, name), after=after)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, lambda self, real=interrupted: real(self))
            with pytest.raises(KeyboardInterrupt), lock.held(CLOCK, 0, "x"):
                pass
        answers: list[bool] = []
        thread = threading.Thread(target=lambda: answers.append(lock.claim().try_acquire()))
        thread.start()
        thread.join()
        assert answers == [True], "no thread holds it"
        lock._forget()  # that thread has ended
        with other.held(CLOCK, 0, "x"):
            pass
    lock.close()
    other.close()


def test_at_the_end_of_the_interpreter_a_lock_complains_of_nothing(path: str) -> None:
    lock = FileLock(path)
    del lock._descriptor  # as where __init__ was interrupted
    lock.__del__()


# -- on Windows, and wherever there is no fork


def loaded(module: ModuleType, monkeypatch: pytest.MonkeyPatch, platform: str) -> Any:
    """``module`` once more, as it is on that platform, where processes do not fork."""
    path = module.__file__
    assert path is not None
    assert module.__spec__ is not None
    name = f"{module.__name__}_on_{platform}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", platform)
        patch.delattr(os, "register_at_fork")
        patch.setitem(sys.modules, name, found)  # dataclasses look there
        spec.loader.exec_module(found)
    return found


class Msvcrt:
    """``msvcrt.locking``, such as it is documented: a byte at the place where the file stands."""

    LK_UNLCK, LK_NBLCK = 0, 2

    def __init__(self) -> None:
        self.holders: dict[tuple[int, int, int], int] = {}

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        found = os.fstat(descriptor)
        key = found.st_dev, found.st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
        assert count == 1
        if mode == self.LK_NBLCK and key not in self.holders:
            self.holders[key] = descriptor
        elif mode == self.LK_UNLCK and self.holders.get(key) == descriptor:
            del self.holders[key]
        else:
            raise PermissionError(errno.EACCES, "Permission denied")


@posix
def test_the_lock_on_windows(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    msvcrt = Msvcrt()
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    windows = loaded(files, monkeypatch, "win32")
    one, two = windows.FileLock(path), windows.FileLock(path)
    with one.held(CLOCK, 0, "x"):
        os.lseek(one._descriptor, 5, os.SEEK_SET)  # the lock is on the first byte nevertheless
        assert not two.claim().try_acquire()
        assert two._descriptor is not None, "it stays open for the next attempt"
        assert list(msvcrt.holders.values()) == [one._descriptor]
    assert msvcrt.holders == {}
    with two.held(CLOCK, 0, "x"):
        os.lseek(one._descriptor, 7, os.SEEK_SET)
        assert not one.claim().try_acquire()
        msvcrt.holders.clear()  # to unlock what is not locked is an error there
    with one.held(CLOCK, 0, "x"):
        pass
    one.close()
    two.close()


@posix
def test_files_on_windows_have_no_mode_and_folders_no_fsync(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt())
    windows = loaded(files, monkeypatch, "win32")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setattr("os.fchmod", fail)
        before = os.umask(0o777)
        try:
            assert windows.create_private(path)
        finally:
            os.umask(before)
        windows.fsync_directory(f"{path}/none")


@pytest.mark.parametrize("module", [hub, sqlite_link])
def test_without_a_fork_there_is_nothing_to_do_after_one(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = loaded(module, monkeypatch, sys.platform)
    names = {
        name for name in vars(module) if name.isidentifier()
    }  # not those of pytest's rewriting
    assert vars(again).keys() >= names - {"__cached__"}


@posix
@pytest.mark.parametrize("kind", ["pipe", "socket", "link"])
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_what_is_no_regular_file_is_no_store(scheme: str, kind: str) -> None:
    """To read a pipe would never end, and a device would be replaced by a file."""
    with TemporaryDirectory(prefix="s") as folder:  # a socket's path has to be short
        path = Path(folder, "store")
        if kind == "socket":
            with closing(socket.socket(socket.AF_UNIX)) as made:
                made.bind(str(path))
        else:
            os.mkfifo(path)
        if kind == "link":
            path.rename(target := path.with_name("target"))
            path.symlink_to(target)
        before = sorted(os.listdir(folder))
        reader = SQLiteReader if scheme == "sqlite" else TinyDBReader
        ways: list[Callable[[], object]] = [
            lambda: open_store(f"{scheme}:///{path}"),
            lambda: reader(path),
        ]
        for way in ways:
            with pytest.raises(StoreError, match=r"/(store|target) is no regular file .* name an"):
                way()
        assert sorted(os.listdir(folder)) == before
        assert not path.is_file()


@posix
def test_a_new_directory_is_kept_over_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "fsync_directory", synced.append)
    assert create_private(str(tmp_path / "new" / "er" / "file"))
    assert synced[:2] == [str(tmp_path), str(tmp_path / "new")]  # each has got a name in it


def test_a_path_in_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="path must be a str or a path of one, not b'store.db'"):
        files.path_of(b"store.db")  # type: ignore[arg-type]


def test_a_lock_that_its_holder_closes_is_closed_when_its_call_lets_go(path: str) -> None:
    """As a signal's handler closes it in the midst of the call."""
    lock, others = FileLock(path), FileLock(path)
    claim = lock.claim()
    claim.acquire(CLOCK, 0, "x")
    lock.close()
    assert not others.claim().try_acquire()
    claim.release()
    assert lock._descriptor is None
    claim = others.claim()
    assert claim.try_acquire()
    claim.release()
    others.close()
