"""A store that uses nothing of ours but the Protocol and its rules, and how one is found."""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from pytest_claude_comms import (
    ClaudeCommsError,
    ConversationStore,
    HistoryGone,
    MessagePoller,
    MessageStatus,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreError,
    open_store,
)
from pytest_claude_comms.stores import schemes
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.schemes import SchemeBroken
from pytest_claude_comms.testing import FakeClock, assert_status_sequence
from tests.stores.conftest import KillLoop, Python
from tests.stores.test_same_answers import SameAnswers, run_machine
from tests.stores.third_party_kit import FOLDER, install

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the example locks by fcntl")


def plain_module() -> Any:
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return import_module("plain_store")


def make(path: Path, **options: Any) -> Any:
    return plain_module().PlainStore(path, **{"durability": "process", **options})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for distributions, on the path of this process and of its children."""
    site = tmp_path / "site"
    site.mkdir()
    for folder in (FOLDER, site):
        monkeypatch.syspath_prepend(folder)
    others = os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([str(site), str(FOLDER), *filter(None, [others])])
    monkeypatch.setenv("PYTHONPATH", path)
    return site


@pytest.fixture
def installed(site: Path) -> Path:
    install(site, "plain-store", "plain = plain_store:open_plain_store")
    return site


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    clock = FakeClock()
    yield clock
    clock.close()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[Any]:
    with make(tmp_path / "store.plain", clock=clock) as store:
        yield store


# -- found by its scheme


def test_a_scheme_that_a_package_brings(installed: Path, tmp_path: Path, clock: FakeClock) -> None:
    url = f"plain:///{tmp_path}/folder/store.plain"
    with open_store(url, clock=clock, durability="process") as store:
        assert isinstance(store, ConversationStore)
        assert (store.url, store.backend, store.clock) == (url, "plain", clock)
        thread = store.create_thread("kept")
    with open_store(url) as again:
        assert again.threads() == [thread]
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700


def test_only_its_package_can_read_it_to_check_it(installed: Path, tmp_path: Path) -> None:
    url = f"plain:///{tmp_path}/notes"
    with pytest.raises(StoreError, match="^plain:.*: only the package that brings this scheme"):
        check_store(url)
    assert not (tmp_path / "notes").exists()


def test_an_unknown_scheme_lists_what_there_is_and_who_brings_it(installed: Path) -> None:
    install(installed, "other", "other = nowhere:nothing", version="2.1")
    with pytest.raises(ValueError, match="is no store URL") as caught:
        open_store("plane:///x")
    text = str(caught.value)
    assert "memory:, sqlite:///PATH, tinydb:///PATH" in text
    assert "plain:… (from plain-store 1.0)" in text
    assert "other:… (from other 2.1)" in text
    with pytest.raises(ValueError, match=r"made by adapt_store\(obj\)"):
        open_store("adapted:Plain")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("no_such_module:make", "cannot be loaded: ModuleNotFoundError: No module named 'no_such"),
        ("plain_store:no_such", "cannot be loaded: AttributeError"),
        ("broken:make", "cannot be loaded: ZeroDivisionError: division by zero"),
        (
            "plain_store:MAGIC",
            r"is b'plain-store 1 ', not a function \(url, \*, clock, durability\)",
        ),
        ("plain_store:make_store.__name__", "is 'make_store', not a function"),
        ("builtins:len", r"not a function \(url, \*, clock, durability\)"),
    ],
)
def test_a_broken_entry_point_is_said_when_it_is_used_and_only_then(
    site: Path, tmp_path: Path, entry: str, words: str
) -> None:
    (site / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    install(site, "bad-store", f"bad = {entry}")
    install(site, "plain-store", "plain = plain_store:open_plain_store")
    with open_store("memory:"), open_store(f"plain:///{tmp_path}/s"):
        pass
    with pytest.raises(SchemeBroken, match=words) as caught:
        open_store("bad:///x")
    assert "'bad' is brought by bad-store 1.0" in str(caught.value)
    assert str(caught.value).endswith("; update or uninstall that package")
    assert not caught.value.transient


def test_one_that_returns_no_store(site: Path) -> None:
    (site / "strange.py").write_text(
        "class Half:\n    url = 'half:'\n    def close(self): pass\n"
        "def make(url, *, clock, durability): return Half()\n",
        encoding="utf-8",
    )
    install(site, "strange", "half = strange:make")
    with pytest.raises(
        SchemeBroken, match="brought by strange 1.0, and returned <strange.Half"
    ) as e:
        open_store("half:")
    assert "it has no add_message, backend, changes" in str(e.value)
    assert "url" not in str(e.value).partition("it has no")[2].split(", ")


def test_one_that_cannot_stand_after_with(site: Path) -> None:
    (site / "withless.py").write_text(
        "from pytest_claude_comms import ConversationStore as P\n"
        "def make(url, *, clock, durability):\n"
        "    names = {name: None for name in vars(P) if name[0] != '_'}\n"
        "    return type('Half', (), names)()\n",
        encoding="utf-8",
    )
    install(site, "withless", "half = withless:make")
    with pytest.raises(SchemeBroken, match="no ConversationStore: it has no __enter__, __exit__$"):
        open_store("half:")


def test_why_something_is_no_store() -> None:
    class Original:
        def get_thread(self) -> None: ...
        def add_message(self) -> None: ...

    assert schemes.why_none(None) == "a factory returns the store that it has opened"
    assert schemes.why_none(object()).startswith("it has no add_message, backend, ")
    assert schemes.why_none(object()).endswith(", url, __enter__, __exit__")
    assert schemes.why_none(Original()).endswith(
        ", __exit__; adapt_store(…, clock=clock) makes a store of one of the original shape"
    )


def test_what_the_packages_own_function_raises_is_not_touched(installed: Path) -> None:
    with pytest.raises(ValueError, match="names no file: write plain:///name"):
        open_store("plain:")


def test_one_whose_metadata_is_missing(site: Path) -> None:
    install(site, "bare", "bare = no_such_module:make")
    (site / "bare-1.0.dist-info" / "METADATA").unlink()
    with pytest.raises(ValueError, match=r"bare:… \(from a package without metadata\)"):
        open_store("plane:")
    with pytest.raises(SchemeBroken, match="is brought by a package without metadata as"):
        open_store("bare:")


def test_two_packages_with_one_name(installed: Path, tmp_path: Path) -> None:
    install(installed, "rival", "plain = plain_store:open_plain_store", version="3")
    with pytest.raises(SchemeBroken, match="brought by") as caught:
        open_store(f"plain:///{tmp_path}/s")
    text = str(caught.value)
    assert "plain-store 1.0" in text
    assert "rival 3" in text
    assert "uninstall all but one" in text
    with pytest.raises(ValueError, match=r"plain:… \(from .+ and .+\d; they clash\)"):
        open_store("plane:")
    open_store("memory:").close()


@pytest.mark.parametrize("name", schemes.RESERVED)
def test_a_name_of_ours_cannot_be_taken(site: Path, tmp_path: Path, name: str) -> None:
    install(site, "thief", f"{name} = no_such_module:make")
    if name == "adapted":
        with pytest.raises(ValueError, match=r"made by adapt_store\(obj\)"):
            open_store("adapted:Plain")
    else:
        url = "memory:" if name == "memory" else f"{name}:///{tmp_path}/s"
        with open_store(url) as store:
            assert store.backend == name
    with pytest.raises(
        ValueError, match=f"{name}:… \\(from thief 1.0; not used, the name is taken"
    ):
        open_store("plane:")


def test_nothing_is_looked_for_before_it_is_asked_for(python: Python) -> None:
    script = (
        "import sys\nfrom pytest_claude_comms import open_store\nopen_store('memory:').close()\n"
        "print('importlib.metadata' in sys.modules)\n"
    )
    said, complaint = python(script).communicate(timeout=60)
    assert said == "False\n", complaint


def test_what_an_author_needs_is_public() -> None:
    from pytest_claude_comms.stores import authoring

    assert all(hasattr(authoring, name) for name in authoring.__all__)
    source = (FOLDER / "plain_store.py").read_text(encoding="utf-8")
    names = {name for name in vars(authoring) if name.isidentifier()}  # pytest adds others
    named = {name for name in names if not name.startswith("_")} - {"annotations"}
    assert {*authoring.__all__} == named
    ours = [line for line in source.splitlines() if line.startswith("from pytest_claude_comms")]
    assert ours == [
        "from pytest_claude_comms import (",
        "from pytest_claude_comms.stores.authoring import (",
    ]
    assert "tinydb" not in source
    assert "sqlite" not in source


def test_the_readme_says_how_it_is_registered(site: Path) -> None:
    readme = (FOLDER.parents[1] / "README.md").read_text(encoding="utf-8")
    group, entry = f'[project.entry-points."{schemes.GROUP}"]', 'plain = "plain_store:'
    assert f"{group}\n{entry}" in readme
    for name in schemes.RESERVED:
        assert f"`{name}`" in readme


def test_which_status_can_follow_which() -> None:
    from pytest_claude_comms.status import TRANSITIONS

    for status in MessageStatus:
        allowed = {other for other in MessageStatus if status.can_become(other)}
        assert allowed == set(TRANSITIONS.get(status, ()))
    assert MessageStatus.PENDING.can_become(MessageStatus("complete"))
    assert not MessageStatus.COMPLETE.can_become(MessageStatus.FAILED)


# -- it answers as ours do


# Each line is asked of both stores, in this order. What answers otherwise is found by one of them.
QUESTIONS: list[Callable[[ConversationStore], Any]] = [
    lambda s: s.create_thread(
        "x", modules=["a", "b"], metadata={"k": [1, {"z": None}]}, thread_id="t"),
    lambda s: s.create_thread("x", thread_id="t"),
    lambda s: s.create_thread(modules="ab"),
    lambda s: s.create_thread("\ud800"),
    lambda s: s.create_thread(thread_id=""),
    lambda s: s.get_thread("nowhere"),
    lambda s: s.get_thread({"id": "t"}),
    lambda s: s.add_message("nowhere", "x"),
    lambda s: s.add_message(
        "t", "x", "text\n\x00", message_id="a", status="pending", timeout=9, stall_timeout=4),
    lambda s: s.add_message("t", "x", message_id="a"),
    lambda s: s.add_message("t", "x", message_id="b", status="unknown"),
    lambda s: s.add_message("t", "x", message_id="b", timeout=1e11),
    lambda s: s.add_message("t", "x", message_id="b", metadata={"a": {"b": float("nan")}}),
    lambda s: s.add_message("t", 3),  # type: ignore[arg-type]
    lambda s: s.add_message(
        "t", "x", "said", message_type="question", message_id="b", metadata={"a": 1}),
    lambda s: s.update_message("a", content="a", append="b"),
    lambda s: s.update_message("a", status="pending"),
    lambda s: s.update_message("a", append="", error=None, metadata={}),
    lambda s: s.update_message(
        "a", status="processing", append="more", metadata={"a": 1, "b": True}),
    lambda s: s.update_message("a", status="pending"),
    lambda s: s.update_message("a", metadata={"a": 1.0, "b": True}),
    lambda s: s.update_message("a", content="text\n\x00more", error="why"),
    lambda s: s.update_message("a", content="new"),
    lambda s: s.update_message("b", status="complete"),
    lambda s: s.update_message("b", append=""),
    lambda s: s.update_message("b", error=None),
    lambda s: s.update_message("b", metadata={"late": "yes"}),
    lambda s: s.update_message("nobody", status="failed"),
    lambda s: s.next_deadline_us(),
    lambda s: s.expire(),
    lambda s: s.changes(0, limit=2),
    lambda s: s.changes(2, limit=2, message="a"),
    lambda s: s.changes(99),
    lambda s: s.changes(-1),
    lambda s: s.changes(0, limit=0),
    lambda s: s.changes(0, message="nobody"),
    lambda s: s.messages("t", ["complete", MessageStatus.PENDING]),
    lambda s: s.messages("nowhere"),
    lambda s: s.messages(status="done"),
    lambda s: s.clock.sleep(4),
    lambda s: s.update_message("a", append="at the very instant"),
    lambda s: s.clock.sleep(4.5),
    lambda s: s.update_message("a", append="too late"),
    lambda s: s.get_message("a"),
    lambda s: s.add_message("t", "x", message_id="c", status="processing", timeout=2),
    lambda s: s.add_message("t", "x", message_id="d", status="pending", stall_timeout=1),
    lambda s: s.clock.sleep(2),
    lambda s: s.next_deadline_us(),
    lambda s: s.expire(),
    lambda s: s.expire(),
    lambda s: s.next_deadline_us(),
    lambda s: (s.threads(), s.messages(), s.changes(), s.cursor()),
    lambda s: (s.compact(keep=3).trimmed, s.cursor()),
    lambda s: s.changes(1),
    lambda s: s.changes(message="a"),
    lambda s: s.changes(1, message="a"),
    lambda s: s.compact(keep=-1),
    lambda s: s.compact(keep=timedelta(0)).removed,
    lambda s: (s.messages(), s.changes(s.cursor()), s.changes(message="b")),
]  # fmt: skip


def ask_both(folder: Path) -> None:
    for number in range(2):  # the second time the file is opened anew before each question
        clocks = FakeClock(), FakeClock()
        path = folder / f"asked-{number}"
        memory, plain = open_store("memory:", clock=clocks[0]), make(path, clock=clocks[1])
        for place, question in enumerate(QUESTIONS):
            if number:
                plain.close()
                plain = make(path, clock=clocks[1])
            expected, answer = (SameAnswers.answer(s, question) for s in (memory, plain))
            assert answer == expected, f"question {place}"
        plain.close()
        memory.close()
        for clock in clocks:
            clock.close()


def test_it_gives_the_same_answer_to_every_question(tmp_path: Path) -> None:
    ask_both(tmp_path)


class PlainAnswers(SameAnswers):
    """Asks the memory store and the plain one the same."""

    @initialize()
    def open(self) -> None:
        self.stores = {"memory": open_store("memory:", clock=self.clock)}
        self.stores["plain"] = self.open_file("plain")

    def open_file(self, backend: str) -> ConversationStore:
        store: ConversationStore = make(self.folder / "store.plain", clock=self.clock)
        return store

    @rule(backend=st.just("plain"), close=st.booleans())
    def reopen(self, backend: str, *, close: bool) -> None:
        super().reopen(backend, close=close)

    @rule(
        keep=st.one_of(
            st.integers(-1, 5),
            st.floats(-1, 9).map(lambda seconds: timedelta(seconds=seconds)),
            st.sampled_from([True, None, 1.5]),
        )
    )
    @precondition(lambda self: bool(self.stores))
    def checkpoint(self, keep: Any = 3) -> None:
        def trim(store: ConversationStore) -> Any:
            report = store.compact(keep=keep)
            return report.trimmed, report.removed

        self.ask(trim)


def test_it_answers_as_the_memory_store_does() -> None:
    run_machine(12, 30, PlainAnswers)


@pytest.mark.long
def test_it_answers_as_the_memory_store_does_for_long() -> None:
    run_machine(1_500, 80, PlainAnswers)


def test_a_poller_follows_every_step_and_its_deadline(store: Any, clock: FakeClock) -> None:
    thread = store.create_thread("demo")
    answer = store.add_message(thread, "x", status="pending", timeout=30)
    clock.at(3, store.update_message, answer, status="processing", append="Use ")
    clock.at(3, store.update_message, answer, append="_key")
    tracker = MessagePoller(store).wait(answer, timeout=60)
    assert_status_sequence(tracker, "pending -> processing -> timeout")
    assert [change.append for change in tracker.history] == [None, "Use ", "_key", None]
    assert clock.elapsed == 30  # a commit of this process wakes: it does not beat


def test_a_commit_through_another_store_object_wakes(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "s"
    with make(path, clock=clock) as one, make(path, clock=clock) as other:
        one.create_thread(thread_id="t")
        one.add_message("t", "x", status="pending", message_id="m")
        clock.at(5, other.update_message, "m", status="complete")
        assert MessagePoller(one).wait("m", timeout=60).is_terminal
        assert clock.elapsed == 5


# -- the file


def fill(store: Any) -> None:
    store.create_thread("demo", thread_id="t", metadata={"a": "\u2028\x00\n"})
    store.add_message("t", "x", "one", message_id="m", status="pending", timeout=60)
    store.update_message("m", status="processing", append="\n two", metadata={"k": [1.0, True]})
    store.update_message("m", content="three", error="why")


def everything(store: Any) -> Any:
    return store.threads(), store.messages(), store.changes(), store.store_id


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_nobody_else_may_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with make(tmp_path / "s") as store:
            fill(store)
            store.update_message("m", status="complete")
            assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
            assert store.compact(keep=0).removed == 3
            assert stat.S_IMODE(os.stat(store.path).st_mode) == 0o600
        assert os.listdir(tmp_path) == ["s"]
    finally:
        os.umask(before)


def test_cut_off_at_every_byte_it_is_whole_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with make(path) as store:
        fill(store)
        whole = store.changes().items
    data = path.read_bytes()
    start = data.index(b"\n", data.index(b"\n") + 1) + 1  # after the thread
    for length in [*range(start, len(data), 7), *range(len(data) - 9, len(data))]:
        path.write_bytes(data[:length])
        with make(path) as store:
            found = store.changes().items
            assert found == whole[: len(found)]
            assert len(found) == data[start:length].count(b"\n")
            store.add_message("t", "x", message_id="next")
            assert store.changes().items[:-1] == found
        assert path.read_bytes().endswith(b"\n")  # nothing is left of what was half written
        with make(path) as again:
            assert again.cursor() == len(found) + 1


def test_a_header_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "s"
    make(path).close()
    header = path.read_bytes()
    for length in [*range(0, len(header), 5), len(header) - 1]:
        path.write_bytes(header[:length])
        with make(path) as store:
            fill(store)
            assert store.cursor() == 3


@pytest.mark.parametrize("data", [b"{}\n", b"SQLite format 3\x00", b"plain-store 1 {}\n", b"\n"])
def test_another_file_is_left_as_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "s"
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        make(path)
    assert path.read_bytes() == data


def test_damage_in_the_middle_is_no_torn_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with make(path) as store:
        fill(store)
    data = path.read_bytes()
    place = data.index(b"three") - 60
    path.write_bytes(data[:place] + b"#" + data[place + 1 :] + data[data.index(b"\n") + 1 :])
    with pytest.raises(StoreCorrupt, match="the line at byte"):
        make(path)


@pytest.mark.parametrize("name", ["pwrite", "fsync"])
@pytest.mark.parametrize("partly", [False, True])
def test_a_write_that_fails_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, partly: bool
) -> None:
    with make(tmp_path / "s", durability="power") as store, make(tmp_path / "s") as other:
        store.create_thread(thread_id="u")
        store.add_message("u", "x", status="pending", message_id="n")
        for status in ("processing", "complete"):
            store.update_message("n", status=status)
        fill(store)
        before = everything(store)
        real = getattr(os, name)

        def fails(fd: int, *args: Any) -> Any:
            if partly and name == "pwrite":
                real(fd, args[0][: len(args[0]) // 2], *args[1:])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fails)
            with pytest.raises(StoreError, match="No space left") as caught:
                store.update_message("m", status="complete")
            assert caught.value.outcome == ("not done" if name == "pwrite" else "unknown")
            with pytest.raises(StoreError):
                store.create_thread()
            with pytest.raises(StoreError):
                store.compact(keep=0)
        assert sorted(os.listdir(tmp_path)) == ["s"]
        assert everything(store) == everything(other) == before
        assert store.update_message("m", status="complete").revision == 7
        assert everything(other) == everything(store)


def test_every_change_is_synced_before_its_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(tmp_path / "s", durability="power") as store:
        synced: list[int] = []
        real = os.fsync

        def fsync(fd: int) -> None:
            synced.append(os.fstat(fd).st_size)
            real(fd)

        monkeypatch.setattr(os, "fsync", fsync)
        fill(store)
        assert len(synced) == 4
        assert synced[-1] == os.stat(store.path).st_size


def test_deleted_replaced_or_older_is_history_gone(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def opened() -> Any:
        store = make(path)
        if not store.threads():
            fill(store)
        return store

    with opened() as store:
        older = path.read_bytes()
        store.update_message("m", status="complete")
        path.unlink()
        (tmp_path / "new").write_bytes(older)
        for _ in range(2):
            with pytest.raises(HistoryGone, match="no longer there"):
                store.changes(4)
    with opened() as store, make(tmp_path / "other") as other:
        fill(other)
        os.replace(other.path, path)
        with pytest.raises(HistoryGone, match="another store has taken its place"):
            MessagePoller(store)
    with opened() as store:
        copy = path.read_bytes()
        store.update_message("m", status="complete")
        (tmp_path / "new").write_bytes(copy)
        os.replace(tmp_path / "new", path)
        with pytest.raises(HistoryGone, match="an older file"):
            store.changes(4)
    with opened() as store:
        store.update_message("m", status="complete")
        path.write_bytes(copy)
        with pytest.raises(HistoryGone, match="was cut off"):
            store.get_message("m")


def test_a_compaction_is_found_by_who_has_it_open(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store, make(tmp_path / "s") as other:
        fill(store)
        store.add_message("t", "x", message_id="n")
        store.update_message("m", status="complete")
        messages = other.messages()
        (tmp_path / "s.new").write_text("of one that was killed", encoding="utf-8")
        report = store.compact(keep=1)
        assert (report.trimmed, report.removed) == (3, 3)
        assert report.bytes_before is not None
        assert other.messages() == messages
        assert other.cursor() == 5
        with pytest.raises(HistoryGone, match="up to revision 3 were trimmed"):
            other.changes(2)
        assert [change.revision for change in other.changes(3)] == [4, 5]
        assert [change.revision for change in other.changes(message="m")] == [5]
        assert other.update_message("m", metadata={"z": 1}).revision == 6
        assert (store.messages(), store.changes(3)) == (other.messages(), other.changes(3))
        assert not (tmp_path / "s.new").exists()


def test_a_file_that_somebody_holds(tmp_path: Path, clock: FakeClock) -> None:
    import fcntl

    with make(tmp_path / "s", clock=clock) as store, open(store.path, "rb") as holder:
        fill(store)
        fcntl.flock(holder, fcntl.LOCK_EX)
        clock.at(1, fcntl.flock, holder, fcntl.LOCK_UN)
        store.update_message("m", append="late")
        assert clock.elapsed >= 1
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(StoreBusy) as caught:
            store.cursor()
        assert (caught.value.path, caught.value.waited) == (store.path, 5)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_closed_and_forked(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store:
        fill(store)
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            try:
                store.messages()
            except RuntimeError:
                os._exit(3)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        fds = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    store.close()
    for use in (store.messages, store.cursor, lambda: store.changes(0), store.__enter__):
        with pytest.raises(StoreClosed):
            use()
    if fds:
        assert len(os.listdir("/proc/self/fd")) == fds - 1


# -- several at once


def test_threads_race_and_one_wins(tmp_path: Path) -> None:
    with make(tmp_path / "s") as store, make(tmp_path / "s") as other:
        store.create_thread(thread_id="t")
        for number in range(15):
            store.add_message("t", "x", status="pending", message_id=str(number))
        won: list[str] = []
        seen: list[int] = []
        stop = threading.Event()

        def end(status: str, mine: Any) -> None:
            for number in range(15):
                try:
                    mine.update_message(str(number), status=status)
                    won.append(str(number))
                except ClaudeCommsError:
                    pass

        def read() -> None:
            cursor = 0
            while not stop.is_set():
                changes = other.changes(cursor)
                seen.extend(change.revision for change in changes)
                cursor = changes.cursor
            seen.extend(change.revision for change in other.changes(cursor))

        enders = [
            threading.Thread(target=end, args=(status, mine))
            for status, mine in [("complete", store), ("failed", store), ("cancelled", other)]
        ]
        reader = threading.Thread(target=read)
        for thread in (reader, *enders):
            thread.start()
        for thread in enders:
            thread.join()
        stop.set()
        reader.join()
        assert sorted(won, key=int) == [str(number) for number in range(15)]
        assert seen == list(range(1, 31))


WRITER = """
import sys
from pytest_claude_comms import open_store
url, name, count = sys.argv[1:]
with open_store(url, durability="process") as store:
    for number in range(int(count)):
        store.add_message("t", name, str(number), status="pending", message_id=f"{name}-{number}")
        store.update_message(f"{name}-{number}", status="processing")
        store.update_message(f"{name}-{number}", status="complete")
"""


def test_processes_write_and_no_step_is_missed(
    installed: Path, tmp_path: Path, python: Python
) -> None:
    url = f"plain:///{tmp_path}/store.plain"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        children = [python(WRITER, url, name, "25") for name in ("a", "b")]
        told: list[int] = []
        with MessagePoller(store, interval=0.002) as poller:
            names = [f"{name}-{number}" for name in ("a", "b") for number in range(25)]
            for name in names:
                poller.track(name, on_event=lambda event: told.append(event.revision))
            trackers = poller.wait_all(names, timeout=120)
        for child in children:
            assert child.wait(60) == 0, child.communicate()
        for tracker in trackers:
            assert_status_sequence(tracker, "pending -> processing -> complete")
        assert sorted(told) == list(range(1, 151))


def test_kills_lose_nothing(installed: Path, tmp_path: Path, kill_loop: KillLoop) -> None:
    seen = kill_loop(f"plain:///{tmp_path}/store.plain", 4)
    assert seen.kept >= seen.acknowledged > 0


@pytest.mark.long
def test_many_kills_lose_nothing(installed: Path, tmp_path: Path, kill_loop: KillLoop) -> None:
    seen = kill_loop(f"plain:///{tmp_path}/store.plain", 200)
    assert seen.kept >= seen.acknowledged > 0


# -- a broken one is found


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> Callable[[pytest.MonkeyPatch], None]:
    def install_it(patch: pytest.MonkeyPatch) -> None:
        target = getattr(plain_module(), owner)
        real = getattr(target, name)
        patch.setattr(target, name, lambda self, *args, **given: around(real, self, *args, **given))

    return install_it


def restated(real: Any, self: Any, memory: Any, row: Any, asked: Any, *rest: Any) -> Any:
    return real(self, memory, row, {} if asked == {"status": row.state} else asked, *rest)


def one_less(real: Any, *args: Any) -> Any:
    step = real(*args)
    return step and replace(step, revision=step.revision - 1)


def cut_short(real: Any, self: Any, line: Any) -> None:
    if "later" not in line:
        real(self, line)


BROKEN = {
    "settles at the very instant": wrap(
        "PlainStore", "update_message", lambda real, s, m, **g: (s.expire(), real(s, m, **g))[1]
    ),
    "restates what has ended": wrap("PlainStore", "_step", restated),
    "loses changes when it is compacted": wrap("Memory", "take", cut_short),
    "gives the last revision again": wrap("PlainStore", "_step", one_less),
    "compares metadata as Python does": wrap(
        "PlainStore",
        "_step",
        lambda real, s, memory, row, asked, extra, now: real(
            s, memory, row, asked, {k: v for k, v in extra.items() if v != 1}, now
        ),
    ),
    "knows no deadline": wrap("PlainStore", "next_deadline_us", lambda real, s: None),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_one_that_answers_otherwise_is_found(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    BROKEN[name](monkeypatch)
    with pytest.raises((AssertionError, IndexError, KeyError)):
        ask_both(tmp_path)


# -- what packages are called


def test_schemes_are_named_as_the_matrix_calls_stores(installed: Path) -> None:
    assert "plain (from plain-store 1.0)" in schemes.names()
    assert "plain:… (from plain-store 1.0)" in schemes.listed()


def test_a_package_whose_metadata_cannot_be_read(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while it is being uninstalled; or its file is not for this user."""
    from importlib.metadata import Distribution

    def metadata(_: object) -> None:
        raise OSError("it is gone")

    monkeypatch.setattr(Distribution, "metadata", property(metadata))
    assert "plain (from a package without metadata)" in schemes.names()
