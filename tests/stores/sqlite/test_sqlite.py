"""The SQLite store: what only a real file, real threads and real processes can show."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.clock import SECOND
from pytest_claude_comms.errors import ClaudeCommsError, HistoryGone, InvalidTransition
from pytest_claude_comms.stores import memory, open_store, sqlite, sqlite_rows
from pytest_claude_comms.stores.core import BaseStore
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.rules import ChangeRow
from pytest_claude_comms.stores.sqlite import SQLiteConversationStore
from tests.stores.sqlite_kit import Python, SteppedClock, finish, raw, seed

# -- the same answers as the reference


def scenario(store: BaseStore, clock: SteppedClock) -> Iterator[object]:
    """A long conversation with a store; yields every answer."""

    def attempt(act: Callable[[], object]) -> object:
        clock.time_us += SECOND
        try:
            return act()
        except ClaudeCommsError as error:
            return type(error), str(error).replace(store.url, "URL")

    yield attempt(lambda: store.create_thread("title", modules=["a", "b\0c"], thread_id="t1"))
    yield attempt(lambda: store.create_thread(metadata={"deep": [{"x": None}]}, thread_id="t2"))
    yield attempt(lambda: store.create_thread(thread_id="t1"))
    yield attempt(lambda: store.get_thread("t1"))
    yield attempt(lambda: store.get_thread("none"))
    yield attempt(store.threads)
    yield attempt(lambda: store.add_message("none", "a"))
    for number, status in enumerate(["pending", "processing", "complete", "failed", "pending"]):
        yield attempt(
            lambda number=number, status=status: store.add_message(  # type: ignore[misc]
                "t1" if number % 2 else "t2",
                "modul\N{LATIN SMALL LETTER E WITH ACUTE}",
                "text \0 \N{GRINNING FACE}" * number,
                status=status,
                timeout=None if number < 4 else 20,
                stall_timeout=8 if number == 1 else None,
                metadata={"n": number},
                message_id=f"m{number}",
            )
        )
    yield attempt(lambda: store.add_message("t1", "a", message_id="m1"))
    yield attempt(lambda: store.update_message("m0", status="processing", append="one\0"))
    yield attempt(lambda: store.update_message("m0", append="two"))
    yield attempt(lambda: store.update_message("m0", append=""))
    yield attempt(lambda: store.update_message("m0", content="three", error="e"))
    yield attempt(lambda: store.update_message("m0", append="four", metadata={"a": True}))
    yield attempt(lambda: store.update_message("m0", metadata={"a": True}))
    yield attempt(lambda: store.update_message("m0", content=""))
    yield attempt(lambda: store.update_message("m0", append="five"))
    yield attempt(lambda: store.update_message("m0", status="complete", append="six"))
    yield attempt(lambda: store.update_message("m0", append="seven"))
    yield attempt(lambda: store.update_message("m0", status="complete"))
    yield attempt(lambda: store.update_message("m0", metadata={"late": 1.5}))
    yield attempt(lambda: store.update_message("m1", append="late"))
    yield attempt(lambda: store.update_message("none", append="x"))
    yield attempt(store.next_deadline_us)
    clock.time_us += 60 * SECOND
    yield attempt(store.expire)
    yield attempt(store.expire)
    yield attempt(store.next_deadline_us)
    yield attempt(store.messages)
    yield attempt(lambda: store.messages("t1"))
    yield attempt(lambda: store.messages("none"))
    yield attempt(lambda: store.messages(status=["timeout", "failed"]))
    yield attempt(lambda: store.messages("t2", "complete"))
    yield attempt(lambda: store.messages(status=[]))
    yield attempt(lambda: store.get_message("m0"))
    yield attempt(store.cursor)
    for since in (0, 3, 10, 99):
        for limit in (None, 1, 4, 2**70):
            for message in (None, "m0", "none"):
                yield attempt(
                    lambda since=since, limit=limit, message=message: store.changes(  # type: ignore[misc]
                        since, limit=limit, message=message
                    )
                )


def test_answers_like_the_memory_store(path: Path) -> None:
    clock, other = SteppedClock(), SteppedClock()
    reference = memory.MemoryConversationStore(clock=other)
    with SQLiteConversationStore(path, clock=clock, durability="process") as store:
        for number, (mine, expected) in enumerate(
            zip(scenario(store, clock), scenario(reference, other), strict=True)
        ):
            assert mine == expected, f"answer {number}"


def test_opened_again_it_is_the_same(path: Path, clock: SteppedClock) -> None:
    with SQLiteConversationStore(path, clock=clock) as store:
        list(scenario(store, clock))
        before = (store.threads(), store.messages(), store.changes(), store.store_id)
    assert sorted(os.listdir(path.parent)) == ["comms.db", "comms.db.lock"]
    with open_store(store.url) as again:
        assert isinstance(again, SQLiteConversationStore)
        assert (again.threads(), again.messages(), again.changes(), again.store_id) == before
        assert again.url == store.url == f"sqlite:///{path}"
        assert again.backend == "sqlite"


# -- texts


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "\N{GRINNING FACE}" * 3, "x" * 100_000])
def test_texts_come_back(store: SQLiteConversationStore, text: str) -> None:
    seed(store, content=text, metadata={"k": text})
    store.update_message("m", append=text, error=text)
    store.update_message("m", append="end")
    with open_store(store.url) as again:
        found = again.get_message("m")
        assert found == store.get_message("m") == store.messages()[0]
    assert (found.content, found.error, found.metadata) == (f"{text}{text}end", text, {"k": text})


def test_appends_are_written_once(
    store: SQLiteConversationStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All writes go through the log, so that its growth is what was written.
    monkeypatch.setattr(store, "_next_checkpoint", 10**12)
    seed(store)
    log = Path(f"{path}-wal")
    piece = "0123456789" * 50

    def written(appends: int) -> int:
        before = log.stat().st_size
        for _ in range(appends):
            store.update_message("m", append=piece)
        return log.stat().st_size - before

    sizes = [written(500) for _ in range(6)]  # 250 kB each, to 1.5 MB
    assert max(sizes) < 4 * min(sizes)
    assert sum(sizes) / 3_000 < 40_000  # bytes for an append; the whole text would be 750,000
    assert store.get_message("m").content == piece * 3_000
    with open_store(store.url) as again:
        assert again.get_message("m").content == piece * 3_000
    store.update_message("m", status="complete")
    with raw(path) as db:
        assert db.execute("SELECT tail FROM messages").fetchall() == [(0,)]
        assert db.execute("SELECT text FROM contents").fetchall() == [(piece * 3_000,)]


def test_a_text_remembered_from_a_commit_is_not_used_for_another(
    store: SQLiteConversationStore,
) -> None:
    seed(store, content="x" * 5_000)
    with SQLiteConversationStore(store.url[10:], durability="process") as other:
        for _ in range(3):
            store.update_message("m", append="a")
            other.update_message("m", append="b")
            other.update_message("m", append="c")
        assert store.get_message("m").content == "x" * 5_000 + "abc" * 3


def test_a_text_of_a_commit_that_failed_is_not_remembered(
    store: SQLiteConversationStore,
) -> None:
    seed(store, content="x" * 5_000)
    mark = store._known.mark
    row = store._texts.get("m", mark)
    assert row is not None
    with pytest.raises(ZeroDivisionError), store._writing() as tx:
        found = tx.message("m")
        assert found is not None
        tx.commit(
            found,
            ChangeRow(
                message_id="m",
                thread_id="t",
                at_us=0,
                previous=found.status,
                status=found.status,
                content="lost",
                content_length=4,
            ),
        )
        _ = 1 / 0
    assert store._texts.get("m", mark) == row
    assert store.get_message("m").content == "x" * 5_000
    assert store.update_message("m", append="y").revision == 2


def test_few_texts_are_remembered() -> None:
    clock = SteppedClock()
    reference = MemoryConversationStore(clock=clock)
    seed(reference)
    texts = sqlite_rows.Texts()
    with reference._reading() as snapshot:
        row = snapshot.message("m")
    assert row is not None
    for number in range(100):
        texts.put(replace(row, message_id=f"{number}", content="x" * 2_000), number)
    assert [number for number in range(100) if str(number) in texts] == list(range(68, 100))
    texts.put(replace(row, message_id="big", content="x" * 15_980_000), 100)
    assert "big" in texts
    assert len(texts._texts) <= 11


def test_a_text_is_forgotten_with_the_end_of_its_message() -> None:
    with MemoryConversationStore() as reference:
        seed(reference, content="x" * 2_000)
        with reference._reading() as snapshot:
            open_ = snapshot.message("m")
        reference.update_message("m", status="complete")
        with reference._reading() as snapshot:
            ended = snapshot.message("m")
    assert open_ is not None
    assert ended is not None
    texts = sqlite_rows.Texts()
    texts.put(open_, 1)
    assert texts.get("m", 1) == "x" * 2_000
    assert texts.get("m", 2) is None
    for number in range(texts._MOST):  # one of which the last change is not the oldest stays
        texts.put(replace(open_, message_id=f"{number}"), number)
        texts.put(open_, number)
    assert "m" in texts
    assert "0" not in texts
    texts.put(ended, 2)
    assert "m" not in texts


def test_a_text_is_written_whole_once_its_appends_outgrow_it(
    store: SQLiteConversationStore, path: Path
) -> None:
    seed(store)
    for _ in range(3):
        store.update_message("m", append="x" * 30_000)
    store.update_message("m", metadata={"n": 1})
    store.update_message("m", append="y")
    with raw(path) as db:
        found = db.execute("SELECT revision, length(text) FROM contents").fetchall()
    assert found == [(4, 90_000)]
    assert store.get_message("m").content == "x" * 90_000 + "y"


# -- many at once


def test_threads(store: SQLiteConversationStore) -> None:
    store.create_thread(thread_id="t")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                store.add_message("t", f"{number}", f"{step}", status="pending")
                assert store.changes(store.cursor() - 1).items
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [change.revision for change in store.changes()] == list(range(1, 401))
    by_thread = [
        [m.content for m in store.messages() if m.module_name == f"{n}"] for n in range(20)
    ]
    assert by_thread == [[f"{step}" for step in range(20)]] * 20
    assert len(store._idle) <= sqlite._MOST_IDLE


_ADD = """
import sys
from pytest_claude_comms.stores import open_store
with open_store(sys.argv[1], durability="process") as store:
    for number in range(int(sys.argv[3])):
        store.add_message("t", sys.argv[2], str(number))
"""


def test_processes(store: SQLiteConversationStore, python: Python) -> None:
    store.create_thread(thread_id="t")
    children = [python(_ADD, store.url, f"{number}", "100") for number in range(4)]
    for child in children:
        finish(child)
    assert [change.revision for change in store.changes()] == list(range(1, 401))
    for number in range(4):
        mine = [m.content for m in store.messages() if m.module_name == f"{number}"]
        assert mine == [f"{step}" for step in range(100)]


_CREATE = """
import sys
from pytest_claude_comms.stores import open_store
print("ready", flush=True)
sys.stdin.readline()
for turn in range(int(sys.argv[2])):
    with open_store(f"sqlite:///{sys.argv[1]}/{turn}.db", durability="process") as store:
        store.create_thread()
        print(store.store_id)
"""


def test_eight_processes_create_it_at_once(tmp_path: Path, python: Python) -> None:
    children = [python(_CREATE, f"{tmp_path}", "5") for _ in range(8)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n", child.communicate()[1]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert len({finish(child) for child in children}) == 1
    for turn in range(5):
        with open_store(f"sqlite:///{tmp_path}/{turn}.db") as store:
            assert len(store.threads()) == 8


def test_kill_9(path: Path, kill_loop: Callable[[str, int], Any]) -> None:
    seen = kill_loop(f"sqlite:///{path}", 12)
    assert seen.acknowledged > 100
    assert seen.kept >= seen.acknowledged
    assert sorted(os.listdir(path.parent)) == ["comms.db", "comms.db.lock"]


# -- history


def test_history_that_was_trimmed(store: SQLiteConversationStore, path: Path) -> None:
    seed(store)
    for _ in range(3):
        store.update_message("m", append="x")
    with raw(path) as db:
        db.execute("DELETE FROM changes WHERE revision < 3")
    with pytest.raises(HistoryGone, match="up to revision 2 were"):
        store.changes(1)
    assert [change.revision for change in store.changes(2)] == [3, 4]
    with raw(path) as db:
        db.execute("DELETE FROM changes")
    with pytest.raises(HistoryGone, match="up to revision 4 were"):
        store.changes(2)
    assert store.changes(4).cursor == 4
    assert store.update_message("m", metadata={"a": 1}).revision == 5


def test_a_clock_that_was_set_back_keeps_no_history(
    store: SQLiteConversationStore, clock: SteppedClock
) -> None:
    now_us = clock.time_us
    store.create_thread(thread_id="t")
    store.add_message("t", "module", message_id="of a later time")
    clock.time_us -= 100 * SECOND
    for name in "ab":
        store.add_message("t", "module", status="pending", message_id=name)
        store.update_message(name, status="processing")
        store.update_message(name, status="complete")
        store.compact(keep=0)
        assert (
            store.changes(0, message="of a later time").items[0].at.timestamp() == now_us / SECOND
        )
    store.add_message("t", "module", status="pending", message_id="c")
    store.update_message("c", append="x")
    store.update_message("c", status="complete")
    clock.time_us += 10 * SECOND
    assert store.compact(keep=timedelta(seconds=5)).removed == 2


def test_two_changes_of_a_message_in_one_commit(store: SQLiteConversationStore) -> None:
    seed(store, content="one")
    with store._writing() as tx:
        row = tx.message("m")
        assert row is not None
        for text in (" two", " three"):
            row = replace(row, content=row.content + text)
            tx.commit(
                row,
                ChangeRow(
                    revision=0,
                    message_id="m",
                    thread_id="t",
                    at_us=row.updated_us,
                    previous=row.status,
                    status=row.status,
                    append=text,
                    content=None,
                    content_length=len(row.content),
                    error=None,
                    metadata=None,
                ),
            )
    store._texts = sqlite_rows.Texts()
    assert store.get_message("m").content == "one two three"
    assert [change.append for change in store.changes(1)] == [" two", " three"]


# -- size


def test_thousands_of_messages(store: SQLiteConversationStore, path: Path) -> None:
    store.create_thread(thread_id="t")
    store.create_thread(thread_id="u")
    for number in range(3_000):
        store.add_message("t" if number % 3 else "u", "a", f"{number}", message_id=f"{number}")
    assert [message.content for message in store.messages()] == [f"{n}" for n in range(3_000)]
    assert len(store.messages("u")) == 1_000
    assert [change.revision for change in store.changes(2_990)] == list(range(2_991, 3_001))
    assert store.changes(0, limit=5).cursor == 5


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("messages WHERE thread_id = 'x' ORDER BY number", "messages_of_thread"),
        ("changes WHERE number = 1 AND revision > 5 ORDER BY revision", "changes_of_message"),
        ("messages WHERE deadline_us <= 5 ORDER BY deadline_us, number", "open_deadlines"),
        (
            "messages WHERE deadline_us IS NOT NULL ORDER BY deadline_us LIMIT 1",
            "open_deadlines",
        ),
    ],
)
def test_indexes_are_used(
    store: SQLiteConversationStore, path: Path, query: str, index: str
) -> None:
    with raw(path) as db:
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {query}")]
    assert len(plan) == 1, plan
    assert index in plan[0]


def test_a_terminal_message_has_no_deadline(
    store: SQLiteConversationStore, clock: SteppedClock
) -> None:
    seed(store, timeout=10)
    assert store.next_deadline_us() == clock.time_us + 10 * SECOND
    clock.time_us += 11 * SECOND
    with pytest.raises(InvalidTransition, match="timeout"):
        store.update_message("m", append="x")
    assert store.get_message("m").status == "timeout"
    assert store.next_deadline_us() is None
    assert store.expire() == []


def test_an_append_does_not_read_the_text_it_is_added_to(
    store: SQLiteConversationStore,
) -> None:
    seed(store, content="x" * 5_000)
    store.add_message("t", "module", "y" * 5_000, status="processing", message_id="other")
    for piece in "abc":
        store.update_message("other", append=piece)
    (link,) = store._idle
    said: list[str] = []
    link.db.set_trace_callback(said.append)
    assert store.update_message("other", append="d").content == "y" * 5_000 + "abcd"
    link.db.set_trace_callback(None)
    assert any("INTO changes" in statement for statement in said)
    assert not any("contents" in statement for statement in said)
