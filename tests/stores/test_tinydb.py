"""The TinyDB store: the same answers as in memory, other processes, what it leaves and costs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import (
    StoreClosed,
)
from pytest_claude_comms.stores import journal, open_store, tinydb
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
from tests.stores.tinydb_kit import FailingOS, Open, Ticking, contents, opening, play


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comms.json"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the store at ``path``, and closes it in the end."""
    with opening(path) as start:
        yield start


def test_it_answers_as_the_memory_store_does(opened: Open) -> None:
    store, memory = opened(clock=Ticking()), MemoryConversationStore(clock=Ticking())
    play(store)
    play(memory)
    assert contents(store) == contents(memory)


@pytest.mark.parametrize("how", ["checkpoint", "journal", "both", "closed"])
def test_what_was_stored_is_there_after_reopening(opened: Open, how: str) -> None:
    store = opened(clock=Ticking())
    store.create_thread("early", thread_id="e")
    if how == "both":
        store.checkpoint()
    play(store)
    before = contents(store)
    rows = store._refresh().image.state.messages(None, None)
    if how == "checkpoint":
        store.checkpoint()
    if how == "closed":
        store.close()
    other = opened()
    assert contents(other) == before
    assert other._refresh().image.state.messages(None, None) == rows


def test_deadlines_survive(opened: Open) -> None:
    clock = Ticking()
    store = opened(clock=clock)
    thread = store.create_thread()
    store.add_message(thread, "a", status="pending", timeout=10, message_id="late")
    store.add_message(thread, "a", status="pending", timeout=10, message_id="later")
    store.checkpoint()
    other = opened(clock=clock)
    assert other.next_deadline_us() == store.next_deadline_us() is not None
    clock.us += 11_000_000
    assert [message.message_id for message in other.expire()] == ["late", "later"]
    assert [message.status for message in store.messages()] == ["timeout", "timeout"]
    assert other.expire() == []


def test_two_changes_of_one_call_are_one_record(opened: Open, path: Path) -> None:
    clock = Ticking()
    store = opened(clock=clock)
    thread = store.create_thread()
    for _ in range(3):
        store.add_message(thread, "a", status="pending", timeout=1)
    size = len(Path(f"{path}.journal").read_bytes().splitlines())
    clock.us += 2_000_000
    assert len(store.expire()) == 3
    assert len(Path(f"{path}.journal").read_bytes().splitlines()) == size + 1


def test_its_url_opens_it_again(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    assert store.url == f"tinydb:///{path}"
    with open_store(store.url, durability="process") as other:
        assert other.store_id == store.store_id
        assert other.get_thread("t") == store.get_thread("t")


def test_a_relative_path_stays_the_same_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    with TinyDBConversationStore("comms.json", durability="process") as store:
        monkeypatch.chdir("/")
        store.create_thread()
        assert store.url == f"tinydb:///{path}"


def test_wrong_arguments(path: Path) -> None:
    with pytest.raises(ValueError, match="durability"):
        TinyDBConversationStore(path, durability="none")  # type: ignore[arg-type]
    assert not path.exists()


# -- others who have it open


def test_another_objects_change_is_seen(opened: Open) -> None:
    store, other = opened(), opened()
    thread = store.create_thread()
    message = other.add_message(thread, "a", status="pending")
    assert store.changes().cursor == 1
    assert store.changes(1).items == ()
    other.update_message(message, status="complete")
    assert [change.status for change in store.changes(1)] == ["complete"]
    other.checkpoint()
    assert store.changes(2).items == ()
    other.update_message(message, metadata={"a": 1})
    assert store.get_message(message).metadata == {"a": 1}
    store.update_message(message, metadata={"b": 1})
    assert contents(other) == contents(store)


def test_a_commit_wakes_those_who_have_the_same_file_open(
    opened: Open, path: Path, tmp_path: Path
) -> None:
    store = opened()
    link = tmp_path / "link.json"
    link.symlink_to(path)
    woken: list[int] = []
    with TinyDBConversationStore(link, durability="process") as other:
        other.subscribe(lambda: woken.append(other.cursor()))
        store.add_message(store.create_thread(), "a")
        assert woken == [1]
        other.checkpoint()
    assert link.is_symlink()
    assert store.cursor() == 1


def test_threads_of_one_object(opened: Open, path: Path) -> None:
    store = opened()
    store._checkpoint_bytes = 1_000
    thread = store.create_thread()

    def work(name: str) -> None:
        for number in range(25):
            message = store.add_message(thread, name, str(number), status="pending")
            store.update_message(message, status="complete")
            store.messages(thread)

    workers = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [change.revision for change in store.changes()] == list(range(1, 201))
    store.close()
    assert contents(opened())[3] == 200


WRITERS = """
import sys
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
TinyDBConversationStore._checkpoint_bytes = 5000
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
with TinyDBConversationStore(path, durability="process") as store:
    for number in range(count):
        store.add_message("t", name, str(number))
        store.db.table("mine").insert({"by": name, "number": number})
print(store.store_id)
"""


def run(python: Any, script: str, path: Path, names: list[str], *arguments: str) -> list[str]:
    children = [python(script, str(path), name, *arguments) for name in names]
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    answers = [child.communicate(timeout=120) for child in children]
    assert [error for _, error in answers] == [""] * len(names)
    return [said.strip() for said, _ in answers]


def test_four_processes_write_at_once(opened: Open, path: Path, python: Any) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    run(python, WRITERS, path, list("abcd"), "100")
    assert [change.revision for change in store.changes()] == list(range(1, 401))
    for name in "abcd":
        told = [each.content for each in store.messages() if each.module_name == name]
        assert told == [str(number) for number in range(100)]
    rows = store.db.table("mine").all()
    assert sorted(row.doc_id for row in rows) == list(range(1, 401))
    for name in "abcd":
        assert [row["number"] for row in rows if row["by"] == name] == list(range(100))
    assert contents(opened()) == contents(store)


CREATOR = """
import sys
from pytest_claude_comms.stores import open_store
sys.stdin.readline()
with open_store("tinydb:///" + sys.argv[1]) as store:
    store.create_thread(thread_id=sys.argv[2])
    print(store.store_id)
"""


def test_eight_processes_create_it_at_once(tmp_path: Path, python: Any) -> None:
    for turn in range(2):
        path = tmp_path / f"{turn}.json"
        ids = run(python, CREATOR, path, list("abcdefgh"))
        assert len(set(ids)) == 1
        with TinyDBConversationStore(path) as store:
            assert store.store_id == ids[0]
            assert {thread.thread_id for thread in store.threads()} == set("abcdefgh")


BUSY_WRITER = """
import sys
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
TinyDBConversationStore._checkpoint_bytes = int(sys.argv[2])
store = TinyDBConversationStore(sys.argv[1], durability="process")
while True:
    store.update_message("m", append="x" * 50)
"""


@pytest.mark.parametrize("threshold", [0, 3_000], ids=["checkpoint each time", "now and then"])
def test_a_reader_is_right_while_another_process_makes_checkpoints(
    opened: Open, path: Path, python: Any, threshold: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    store.add_message(store.create_thread(), "a", status="processing", message_id="m")
    if not threshold:  # also when the journal is smaller than the checkpoint
        script = BUSY_WRITER.replace(
            "store = ",
            "TinyDBConversationStore._tidy = TinyDBConversationStore._write_checkpoint\nstore = ",
        )
    else:
        script = BUSY_WRITER
    python(script, str(path), str(threshold))
    cursor, seen = 1, 0
    while cursor < 300:
        for change in (changes := store.changes(cursor)):
            seen += 1
            assert change.revision == 1 + seen
            assert change.content_length == 50 * seen
        cursor = changes.cursor
        message = store.get_message("m")
        assert len(message.content) == 50 * (message.revision - 1)
        assert message.revision >= cursor


# -- what it leaves and what it costs


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277])
def test_its_files_are_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with TinyDBConversationStore(tmp_path / "x.json", durability="process") as store:
            store.create_thread()
            store.checkpoint()
            store.create_thread()
            modes = {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("x.json", "x.json.journal", "x.json.lock"), 0o600)


def test_closing(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread()
    assert "was not closed" in (store.left_open() or "")
    store.close()
    store.close()
    assert store.left_open() is None
    for attempt in (store.threads, store.checkpoint, lambda: store.db):
        with pytest.raises(StoreClosed):
            attempt()
    stamps = [each.stat().st_mtime_ns for each in sorted(path.parent.iterdir())]
    with opened() as again:
        table = again.db.table("x")
        assert len(again.threads()) == 1
    assert stamps == [each.stat().st_mtime_ns for each in sorted(path.parent.iterdir())]
    for call in (table.all, lambda: table.insert({})):
        with pytest.raises(StoreClosed):
            call()


def test_closing_does_not_fail_for_want_of_a_checkpoint(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    store.create_thread()
    with monkeypatch.context() as patch:
        patch.setattr(tinydb, "replace_file", FailingOS(1, forever=True).open)
        store.close()
    assert len(opened().threads()) == 1


def bytes_written(monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> int:
    count: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return self.count if name == "write" else getattr(os, name)

        def count(self, descriptor: int, data: memoryview) -> int:
            count.append(len(data))
            return os.write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", Counting())
        work()
    return sum(count)


def test_the_bytes_of_a_change_do_not_depend_on_the_number_of_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = []
    for size in (20, 1_000):
        with TinyDBConversationStore(tmp_path / f"{size}.json", durability="process") as store:
            store._checkpoint_bytes = 8_000
            thread = store.create_thread()
            messages = [store.add_message(thread, "a", status="processing") for _ in range(size)]
            store.checkpoint()

            update = partial(store.update_message, messages[0], append="x")
            one = bytes_written(monkeypatch, update)
            assert one < 400
            updates, written, checkpoints = 0, 0, 0
            while checkpoints < 2 or updates < 1_000:
                now = bytes_written(monkeypatch, update)
                checkpoints += now > 2 * one
                written += now
                updates += 1
            costs.append(written / updates)
    assert max(costs) < 2 * min(costs), costs


def test_a_streamed_text_is_journalled_once(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened()
    message = store.add_message(store.create_thread(), "a", status="processing")

    def stream() -> None:
        for _ in range(4_000):
            store.update_message(message, append="0123456789" * 10)

    assert bytes_written(monkeypatch, stream) < 4_000 * 100 * 20
    other = opened()
    assert other.get_message(message).content == "0123456789" * 40_000
    assert other.changes().cursor == 4_001
