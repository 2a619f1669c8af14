"""Files that are not what they should be, at opening and under an open store."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import (
    HistoryGone,
    StoreCorrupt,
    StoreError,
)
from pytest_claude_comms.stores import journal, tinydb, values
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.journal import Journal, read_file
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
from tests.stores.tinydb_kit import Open, contents, opening, remove


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comms.json"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the store at ``path``, and closes it in the end. Damage is told after few looks."""
    with pytest.MonkeyPatch.context() as patch, opening(path) as start:
        patch.setattr(tinydb, "_SETTLE_US", 20_000)
        yield start


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "no", '{"a": {}}x', "\0\0", "[" * 100_000])
def test_what_is_no_tinydb_file_is_refused(opened: Open, path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(StoreCorrupt, match="left untouched"):
        opened()
    assert path.read_text() == text


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        *(
            lambda content, name=name, value=value: content["claude_comms"]["1"].update(
                {name: value}
            )
            for name, values in {
                "seq": (-1, True, "2", 2.0, None),
                "link": (-1, 2**32, 2**40, "7", None),
                "trimmed": (-5, True, "0", 3, 1e999),
                "revision": (1, 3, "2", None),
                "last_ids": ({"mine": "x"}, {"mine": -1}, {"mine": 1e999}),
            }.items()
            for value in values
        ),
        *(
            lambda content, name=name, value=value: content["messages"]["1"].update({name: value})
            for name, value in {
                "content": 5,
                "module_name": None,
                "expires_us": 10**30,
                "stall_us": "x",
                "metadata": [1],
                "updated_at": 5,
                "revision": "2",
            }.items()
        ),
        lambda content: content["messages"]["1"].update(metadata=json.loads(_DEEP)),
        lambda content: content["messages"]["1"].update(metadata=json.loads("[" * 400 + "]" * 400)),
        lambda content: content["threads"]["1"].update(modules="ab"),
        lambda content: content["changes"]["2"].update(metadata=[1]),
        lambda content: content["messages"].update({"2": content["messages"]["1"]}),
        lambda content: content["claude_comms"]["1"].update(format="x"),
        lambda content: content["claude_comms"]["1"].pop("seq"),
        lambda content: content["claude_comms"]["1"].update(seq=float("inf")),
        lambda content: content["claude_comms"]["1"].update(last_ids=5),
        lambda content: content["messages"].clear(),
        lambda content: content.pop("threads"),
        lambda content: content["changes"].pop("1"),
        lambda content: content["messages"]["1"].update(status="unknown"),
        lambda content: content["messages"]["1"].update(created_at="yesterday"),
    ],
)
def test_a_file_whose_tables_do_not_fit_is_refused(opened: Open, path: Path, change: Any) -> None:
    with opened() as store:
        message = store.add_message(store.create_thread(), "a", status="pending")
        store.update_message(message, status="complete")
    edit(path, change)
    before = path.read_bytes()
    for _ in range(2):
        assert check_store(f"tinydb:///{path}").findings
        with pytest.raises(StoreCorrupt):
            opened()
        assert path.read_bytes() == before
        Path(f"{path}.journal").unlink(missing_ok=True)  # as a backup has none


def test_a_newer_format_is_refused(opened: Open, path: Path) -> None:
    opened().close()
    edit(path, lambda content: content["claude_comms"]["1"].update(format=3))
    with pytest.raises(StoreCorrupt, match="format 3 is newer"):
        opened()


def test_a_journal_whose_changes_make_no_sense_is_refused(opened: Open, path: Path) -> None:
    store = opened()
    book = Journal(f"{path}.journal", beacon=str(path), power=False)
    found = book.read()
    assert found is not None
    book.append(found.place, [{"change": {"message_id": "never", "status": "complete"}}])
    with pytest.raises(StoreCorrupt, match="do not fit together"):
        store.threads()
    with pytest.raises(StoreCorrupt, match="do not fit together"):
        opened()


def test_a_damaged_journal_is_refused(opened: Open, path: Path) -> None:
    store = opened()
    for number in range(3):
        store.create_thread(thread_id=str(number))
    book = Path(f"{path}.journal")
    data = bytearray(book.read_bytes())
    data[data.index(b'"thread_id":"1"') + 13] ^= 1
    book.write_bytes(data)
    assert len(store.threads()) == 3  # it knows them; the sizes say that nothing was added
    with pytest.raises(StoreCorrupt, match="damaged"):
        opened()
    assert book.read_bytes() == data


def test_a_journal_cut_anywhere_is_read_up_to_the_last_whole_change(
    opened: Open, path: Path
) -> None:
    book = Path(f"{path}.journal")
    with_two = opened()
    thread = with_two.create_thread()
    message = with_two.add_message(thread, "a", status="processing", message_id="m")
    sizes = [book.stat().st_size]
    for number in range(2):
        with_two.update_message(message, append=f"{number};")
        sizes.append(book.stat().st_size)
    data, checkpoint = book.read_bytes(), path.read_bytes()
    for cut in range(sizes[0], sizes[2] + 1):
        book.write_bytes(data[:cut])
        path.write_bytes(checkpoint)
        whole = "".join(f"{number};" for number in range(2) if sizes[number + 1] <= cut)
        with TinyDBConversationStore(path, durability="process") as store:
            assert store.get_message("m").content == whole
            assert book.read_bytes() == data[:cut]
            store.update_message("m", append="next")
            with TinyDBConversationStore(path, durability="process") as other:
                assert other.get_message("m").content == f"{whole}next"


def test_an_open_store_goes_on_after_the_cut_record_of_a_killed_one(
    opened: Open, path: Path
) -> None:
    store = opened()
    thread = store.create_thread()
    with open(f"{path}.journal", "ab") as book:
        book.write(b'01234567 89abcdef {"seq":2')
    assert store.threads() == [thread]
    store.create_thread()
    assert len(store.threads()) == len(opened().threads()) == 2


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("records", [0, 3])
def test_a_kill_between_the_two_replacements_loses_nothing(
    opened: Open, path: Path, records: int, first: int
) -> None:
    store, other = opened(), opened()
    for number in range(records):
        store.create_thread(thread_id=str(number))
    store.db.insert({"n": 1})
    shutil.copy(f"{path}.journal", f"{path}.old")
    store.checkpoint()
    os.replace(f"{path}.old", f"{path}.journal")
    for each in (store, other, third := opened()):
        assert [thread.thread_id for thread in each.threads()] == [*map(str, range(records))]
        assert len(each.db) == 1
    writers = [store, other, third]
    for number, each in enumerate(writers[first:] + writers[:first], records):
        each.create_thread(thread_id=str(number))
        assert [thread.thread_id for thread in each.threads()] == [*map(str, range(number + 1))]
    assert contents(opened()) == contents(store) == contents(other)


def test_a_kill_while_it_is_created_is_completed_by_the_next_one(opened: Open, path: Path) -> None:
    opened().close()
    os.unlink(f"{path}.journal")
    for name in ("new", "journal.new"):
        Path(f"{path}.{name}").write_text("left behind")
    store = opened()
    store.create_thread()
    assert sorted(os.listdir(path.parent)) == [
        "comms.json",
        "comms.json.journal",
        "comms.json.lock",
    ]


def test_changes_without_their_file_are_not_thrown_away(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread()
    content = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(b""), lambda: path.write_text("{}")):
        path.write_bytes(content)
        damage()
        with pytest.raises(StoreCorrupt, match="holds 1 changes that belong to another"):
            opened()
    path.write_bytes(content)
    assert len(opened().threads()) == 1


def test_deleting_the_file_of_a_closed_store_starts_afresh(opened: Open, path: Path) -> None:
    with opened() as store:
        store.create_thread()
    path.unlink()
    other = opened()
    assert other.threads() == []
    assert other.store_id != store.store_id


def test_without_its_journal_it_is_another_store(opened: Open, path: Path) -> None:
    with opened() as store:
        store.create_thread()
    os.unlink(f"{path}.journal")
    other = opened()
    assert len(other.threads()) == 1
    assert other.store_id != store.store_id


def test_an_older_file_under_a_newer_journal_is_refused(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread()
    old = path.read_bytes()
    store.checkpoint()
    store.create_thread()
    path.write_bytes(old)
    with pytest.raises(StoreCorrupt, match="changes that belong to another"):
        opened()
    with pytest.raises(StoreCorrupt, match=f"does not go on from change 0, where {path} ends"):
        store.threads()


def test_an_older_journal_under_a_newer_file_is_replaced(opened: Open, path: Path) -> None:
    with opened() as store:
        store.create_thread()
        old = Path(f"{path}.journal").read_bytes()
        store.create_thread()
    Path(f"{path}.journal").write_bytes(old)
    other = opened()
    assert other.store_id == store.store_id
    other.create_thread()
    assert len(opened().threads()) == 3


# -- deleted or replaced while open


@pytest.mark.parametrize(
    "endings", [("",), (".journal",), ("", ".journal", ".lock"), ("", ".journal")], ids="+".join
)
def test_a_deleted_store_is_gone(opened: Open, path: Path, endings: tuple[str, ...]) -> None:
    store = opened()
    thread = store.create_thread()
    cursor = store.changes().cursor
    remove(path, *endings)
    left = sorted(os.listdir(path.parent))
    for attempt in (
        lambda: store.changes(cursor),
        store.threads,
        lambda: store.add_message(thread, "a"),
        lambda: store.db.insert({}),
        lambda: store.db.all(),
        store.checkpoint,
    ):
        with pytest.raises(HistoryGone, match="was deleted"):
            attempt()
    store.close()
    assert sorted(os.listdir(path.parent)) == left


def test_a_deleted_directory_too(opened: Open, tmp_path: Path) -> None:
    with TinyDBConversationStore(tmp_path / "new" / "er" / "x.json") as store:
        assert (tmp_path / "new").stat().st_mode & 0o777 in (0o700, 0o777)
        shutil.rmtree(tmp_path / "new")
        with pytest.raises(HistoryGone):
            store.cursor()
        with pytest.raises(HistoryGone):
            store.create_thread()
    assert not (tmp_path / "new").exists()


def test_a_store_created_anew_in_its_place_is_another_one(opened: Open, path: Path) -> None:
    # At once, so that times and inode numbers may well be those of the old files.
    for turn in range(30):
        store = opened()
        remove(path, "", ".journal", ".lock")
        other = opened()
        if turn % 2:
            other.create_thread()
        for attempt in (store.changes, store.create_thread, store.checkpoint):
            with pytest.raises(HistoryGone, match="another store"):
                attempt()
        store.close()
        assert len(other.threads()) == turn % 2
        other.close()


def test_a_store_replaced_by_something_else_is_gone(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread()
    path.write_text('{"_default": {}}')
    with pytest.raises(HistoryGone, match="another store"):
        store.threads()
    store.close()
    assert path.read_text() == '{"_default": {}}'


def test_an_emptied_store_is_gone(opened: Open, path: Path) -> None:
    for ending in ("", ".journal"):
        store = opened()
        Path(f"{path}{ending}").write_bytes(b"")
        with pytest.raises(HistoryGone, match="emptied"):
            store.threads()
        store.close()
        assert Path(f"{path}{ending}").read_bytes() == b""
        for each in list(path.parent.iterdir()):
            each.unlink()


def test_a_file_damaged_while_open_is_not_overwritten(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread()
    whole = path.read_bytes()
    path.write_bytes(b"{")
    with pytest.raises(StoreCorrupt):
        store.create_thread()
    store.close()
    assert path.read_bytes() == b"{"
    path.write_bytes(whole)
    assert len(opened().threads()) == 1


def test_a_directory_is_no_store(opened: Open, path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreError, match="is a directory, not a conversation store"):
        opened()
    assert not list(path.iterdir())
    assert not list(path.parent.glob("*.lock"))


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(opened())
    reads: list[str] = []

    def read(name: str) -> Any:
        found = read_file(name)
        reads.append(name)
        if len(reads) == 1:
            os.utime(path, ns=(1, 1))
        return found

    monkeypatch.setattr(tinydb, "read_file", read)
    store = opened()
    assert reads == [str(path)] * 2
    assert contents(store) == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "it is no JSON (Expecting property name"),
        ("[]", "it is JSON, but not that of a TinyDB file"),
        ('{"a": {}, "b": 1}', "it is JSON, but not that of a TinyDB file"),
        ('{"claude_comms": {"1": {"format": 9}}}', "its format 9 is newer than this version of"),
        ('{"claude_comms": {"1": {"format": 1}}}', "its table 'claude_comms' is damaged (KeyErr"),
        (
            '{"claude_comms": {"1": {"format": 1, "store_id": "x", "seq": 0, "link": 0}}}',
            "its tables do not fit together (KeyError('last_ids'))",
        ),
        ('{"changes": {"1": {}}}', "it is a TinyDB file with a table 'changes' that no store"),
    ],
)
def test_a_refusal_says_which_file_and_why(
    opened: Open, path: Path, data: str, reason: str
) -> None:
    path.write_text(data)
    with pytest.raises(StoreCorrupt) as caught:
        opened()
    assert caught.value.path == str(path)
    assert caught.value.reason.startswith(reason)


def test_what_looks_like_a_stores_table_but_says_nothing_is_the_users(
    opened: Open, path: Path
) -> None:
    path.write_text('{"threads": {}, "claude_comms": {}, "mine": {"7": {"a": 1}}}')
    store = opened()
    assert store.threads() == []
    assert store.db.table("mine").all() == [{"a": 1}]
    assert store.db.table("mine").insert({"a": 2}) == 8


_DEEP = '{"a":' * 101 + "1" + "}" * 101
_TOO_DEEP = '{"a":' * 501 + "1" + "}" * 501
_DEEPER = '{"a":' * 100_000
_THREAD = {"thread_id": "u", "title": "", "modules": [], "metadata": "{}", "created_us": 1}
_MESSAGE = {
    "message_id": "n", "thread_id": "t", "module_name": "a", "content": "", "message_type": "x",
    "status": "pending", "created_us": 1, "updated_us": 1, "metadata": "{}", "revision": 2,
}  # fmt: skip


def _table(**fields: Any) -> dict[str, Any]:
    return {"table": "mine", "set": {}, "del": [], "last": 1, **fields}


_CHANGE = {
    "message_id": "m", "thread_id": "t", "at_us": 1, "previous": "pending",
    "status": "processing", "content_length": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ({"change": {**_CHANGE, "revision": 2, "message_id": "never"}}, "KeyError('never')"),
        ({"change": {**_CHANGE, "revision": 3}}, "ValueError('revision 3 follows 1')"),
        (
            {"change": {**_CHANGE, "revision": 2, "append": "xy", "content_length": 1}},
            "ValueError('2 characters instead of 1')",
        ),
        ({"table": "mine", "set": {}, "last": 1}, "KeyError('del')"),
        ({"table": "messages"}, "ValueError(\"'messages' is no table of the user's\")"),
        ({"table": 5}, 'ValueError("5 is no table of the user\'s")'),
        (_table(set=[["1", "{}"]]), "TypeError(\"the change to the table 'mine' is none\")"),
        (_table(**{"del": "1"}), "TypeError(\"the change to the table 'mine' is none\")"),
        (_table(last="1"), "ValueError(\"the last id of 'mine' is '1', no number of any\")"),
        (_table(last=-1), "ValueError(\"the last id of 'mine' is -1, no number of any\")"),
        (_table(set={"1": 5}), "AttributeError(\"'int' object has no attribute 'isascii'\")"),
        (_table(set={"1": "}x"}), "JSONDecodeError('Expecting value: line 1 column 1 (char 0)')"),
        (_table(set={"1": '"ä"'}), "ValueError(\"document 1 of table 'mine' is no JSON of a s"),
        (_table(set={"1": _TOO_DEEP}), "ValueError(\"document 1 of table 'mine' is no JSON of"),
        (_table(set={"1": "[" * 100_000}), "RecursionError("),
        ({"thread": {**_THREAD, "thread_id": "t"}}, "ValueError(\"thread 't' was there already\")"),
        ({"thread": {**_THREAD, "title": 5}}, "TypeError('title must be a str, not 5')"),
        ({"thread": {**_THREAD, "modules": "ab"}}, "TypeError(\"its modules are 'ab', no list\")"),
        ({"thread": {**_THREAD, "modules": [5]}}, "TypeError('modules[0] must be a str, not 5')"),
        ({"thread": {**_THREAD, "metadata": {}}}, "TypeError('metadata is {}, no text')"),
        ({"thread": {**_THREAD, "metadata": "[1]"}}, "TypeError('metadata is [1], no JSON object"),
        ({"thread": {**_THREAD, "metadata": '{"a":1e999}'}}, "ValueError('Out of range float"),
        ({"thread": {**_THREAD, "metadata": '{"a":NaN}'}}, "ValueError('Out of range float"),
        (
            {"thread": {**_THREAD, "metadata": _DEEP}},
            "ValueError('metadata is nested more than 100",
        ),
        ({"thread": {**_THREAD, "metadata": _DEEPER}}, "RecursionError("),
        ({"thread": {**_THREAD, "created_us": 10**30}}, "ValueError('created_us is 1000"),
        ({"message": {**_MESSAGE, "message_id": "m"}}, "ValueError(\"message 'm' was there alrea"),
        ({"message": {**_MESSAGE, "content": 5}}, "TypeError('content must be a str, not 5')"),
        ({"message": {**_MESSAGE, "stall_us": "x"}}, 'TypeError("bad operand type for abs()'),
        ({"message": {**_MESSAGE, "expires_us": 10**30}}, "ValueError('expires_us is 1000"),
        ({"message": {**_MESSAGE, "updated_us": 1.5}}, "TypeError('updated_us is 1.5, no whole"),
        ({"change": {**_CHANGE, "revision": 2.0}}, "TypeError('revision is 2.0, no whole numb"),
        ({"change": {**_CHANGE, "revision": 2, "append": 5}}, "TypeError('append must be a str,"),
        ({"change": {**_CHANGE, "revision": 2, "content": 5}}, "TypeError('content must be a st"),
        ({"change": {**_CHANGE, "revision": 2, "error": 5}}, "TypeError('error must be a str, n"),
        ({}, "KeyError('table')"),
    ],
)
def test_a_journal_that_does_not_fit_says_why(
    opened: Open, path: Path, op: dict[str, Any], reason: str
) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m")
    book = Journal(f"{path}.journal", beacon=str(path), power=False)
    found = book.read()
    assert found is not None
    book.append(found.place, [op])
    before = taken(path)
    (finding,) = (each for each in check_store(store.url).findings if each.kind == "journal")
    what, _, why = finding.reason.partition(" (")
    assert (finding.thing, what) in [
        ("change 3", "it does not fit what was before"),
        (book.path, "no store can open it: its changes do not fit together"),
    ]
    assert why.startswith(reason)
    for look in (store.messages, store.messages, opened, store.checkpoint):
        with pytest.raises(StoreCorrupt) as caught:
            look()
        assert caught.value.path == book.path
        assert caught.value.reason.startswith(f"its changes do not fit together ({reason}")
    store.close()
    assert taken(path) == before


def test_what_others_append_to_a_message_is_read_on(opened: Open) -> None:
    store, other = opened(), opened()
    store.create_thread(thread_id="t")
    store.add_message("t", "a", "one", status="pending", message_id="m", metadata={"a": 1})
    assert other.get_message("m").content == "one"
    store.update_message("m", append=" two", metadata={"b": 2})
    assert other.get_message("m") == store.get_message("m")
    store.update_message("m", content="", error="odd", status="processing")
    store.update_message("m", append="three", metadata={"a": 3})
    found = other.get_message("m")
    assert found == store.get_message("m")
    assert (found.content, found.metadata, found.error) == ("three", {"a": 3, "b": 2}, "odd")
    assert other.changes() == store.changes()


def test_a_table_that_was_dropped_begins_anew_for_everybody(opened: Open) -> None:
    store, other = opened(), opened()
    store.db.table("mine").insert_multiple([{"n": 1}, {"n": 2}])
    assert len(other.db.table("mine")) == 2
    assert other.db.tables() == {"threads", "messages", "changes", "mine"}
    assert other.db.table("none").all() == []
    store.db.drop_table("mine")
    assert other.db.tables() == store.db.tables()
    assert "mine" not in other.db.tables()
    assert other.db.table("mine").insert({"n": 3}) == 1
    assert [each.doc_id for each in opened().db.table("mine")] == [1]


def test_an_idle_poll_reads_nothing(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = opened(), opened()
    store.add_message(store.create_thread(thread_id="t"), "a")
    cursor = store.changes().cursor
    other.add_message("t", "a")
    assert store.changes(cursor).cursor == cursor + 1
    monkeypatch.setattr(tinydb, "read_file", None)
    monkeypatch.setattr(journal, "read_file", None)
    assert store.changes(cursor + 1).cursor == cursor + 1
    assert len(store.messages()) == 2
    monkeypatch.setattr(store, "_reading", None)
    assert store.changes(cursor + 1).cursor == cursor + 1


def test_a_cut_line_is_read_once(opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, late = opened(), opened()
    store.add_message(store.create_thread(thread_id="t"), "a")
    with Path(f"{path}.journal").open("ab") as book:
        book.write(b"a" * 1_000_000)  # of a writer that was killed
    assert store.cursor() == late.cursor() == 1
    sizes: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def read(self, descriptor: int, size: int) -> bytes:
            data = os.read(descriptor, size)
            sizes.append(len(data))
            return data

    monkeypatch.setattr(journal, "os", Counting())
    for _ in range(10):
        assert store.cursor() == 1
        assert store.changes(1).items == ()
    assert sum(sizes) < 1_000
    late.add_message("t", "a")
    assert store.cursor() == 2


@pytest.mark.parametrize("is_same", [False, True])
def test_a_line_that_takes_the_place_of_a_cut_one_is_seen(
    opened: Open, path: Path, *, is_same: bool
) -> None:
    """Of the same size, at the same time."""
    store, other = opened(), opened()
    book = Path(f"{path}.journal")
    store.create_thread(thread_id="t")
    store.cursor()
    old = book.read_bytes()
    other.create_thread(thread_id="u")
    line = book.read_bytes()[len(old) :]
    # What is cut is of another line or, in the last case, of the same one, its end not there yet.
    torn = b"0" * len(line) if not is_same else line[:-1] + b" "
    found = os.stat(book)
    with book.open("r+b") as file:
        file.seek(len(old))
        file.write(torn)
    assert [thread.thread_id for thread in opened().threads()] == ["t"]
    late = opened()
    assert late.cursor() == 0
    assert [thread.thread_id for thread in late.threads()] == ["t"]
    with book.open("r+b") as file:
        file.seek(len(old))
        file.write(line)
    os.utime(book, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert [thread.thread_id for thread in late.threads()] == ["t", "u"]


def test_of_what_others_append_only_that_is_read(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = opened(), opened()
    store.create_thread(thread_id="t")
    other.add_message("t", "a")
    with monkeypatch.context() as patch:
        patch.setattr(store, "_load", None)
        assert [change.revision for change in store.changes()] == [1]
        other.db.insert({})
        other.add_message("t", "a", "one", status="pending", message_id="m", metadata={"a": 1})
        assert [change.revision for change in store.changes(1)] == [2]
        assert len(store.db) == 1
        other.update_message("m", append=" two", metadata={"b": 2})
        assert store.get_message("m") == other.get_message("m")
        store.db.insert({})
        store.add_message("t", "a")
        assert store.cursor() == 4


def put_back(path: Path, saved: dict[str, bytes]) -> None:
    for ending, data in saved.items():
        new = Path(f"{path}.put")
        new.write_bytes(data)
        os.replace(new, f"{path}{ending}")


def taken(path: Path) -> dict[str, bytes]:
    return {ending: Path(f"{path}{ending}").read_bytes() for ending in ("", ".journal")}


@pytest.mark.parametrize("how", ["older", "other", "other and checkpointed"])
def test_a_change_that_was_taken_back_is_history_gone(opened: Open, path: Path, how: str) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m")
    saved = taken(path)
    store.update_message("m", append="ours")
    if how != "older":
        other_path = path.with_name("other.json")
        put_back(other_path, saved)
        with TinyDBConversationStore(other_path, durability="process") as other:
            other.update_message("m", append="theirs")
            if how == "other":
                saved = taken(other_path)
        if how != "other":
            saved = taken(other_path)
    put_back(path, saved)
    for _ in range(2):
        with pytest.raises(HistoryGone, match="change 3 was taken back") as caught:
            store.changes(2)
        assert caught.value.store == store.url


def test_a_file_and_a_journal_of_two_histories_are_not_joined(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    before = taken(path)
    other_path = path.with_name("other.json")
    put_back(other_path, before)
    with TinyDBConversationStore(other_path, durability="process") as other:
        other.create_thread(thread_id="theirs")
    store.create_thread(thread_id="ours")
    ours = taken(path)
    store.close()
    # As many changes, and not the same ones.
    put_back(path, {"": other_path.read_bytes(), ".journal": ours[".journal"]})
    with pytest.raises(StoreCorrupt, match="2 changes that belong to another"):
        opened()
    os.unlink(path)
    with pytest.raises(StoreCorrupt, match="which is missing or empty"):
        opened()


@pytest.mark.parametrize("last", ["thread", "message", "append"])
def test_what_the_file_has_is_not_taken_from_the_journal_again(
    opened: Open, path: Path, last: str
) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m")
    if last == "append":
        store.update_message("m", append="x")
    if last == "thread":
        store.create_thread(thread_id="u")
    journal_before = taken(path)[".journal"]
    expected = contents(store)
    store.close()
    put_back(path, {".journal": journal_before})
    again = opened()
    assert contents(again) == expected
    if last == "append":
        again.update_message("m", append="y")
        assert opened().get_message("m").content == "xy"


def test_a_store_replaced_by_another_says_so(opened: Open, path: Path) -> None:
    store = opened()
    store.create_thread()
    other_path = path.with_name("other.json")
    with TinyDBConversationStore(other_path, durability="process"):
        put_back(path, taken(other_path))
    for _ in range(2):
        with pytest.raises(
            HistoryGone, match="is gone: another store is in its place. Open"
        ) as caught:
            store.threads()
        assert caught.value.store == store.url


def test_a_journal_that_has_outgrown_its_file_becomes_a_checkpoint(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    store._checkpoint_bytes = 2_000
    store.create_thread(thread_id="t")
    message = store.add_message("t", "a", status="processing")
    largest = 0
    for number in range(100):
        store.update_message(message, content=f"{number}")
        largest = max(largest, os.path.getsize(f"{path}.journal"))
    file = json.loads(path.read_text())
    assert file["claude_comms"]["1"]["revision"] > 50
    assert largest < 2 * len(path.read_bytes())
    # Where none can be made now, it is not tried with each change, and the change is kept.
    tried: list[int] = []

    def full(*_: object, **__: object) -> None:
        tried.append(1)
        raise OSError(28, "No space left on device") if len(tried) % 2 else StoreError("full")

    monkeypatch.setattr(tinydb, "replace_file", full)
    store._checkpoint_bytes = 0
    for number in range(400):
        store.update_message(message, content=f"{number}")
    assert 0 < len(tried) < 20
    assert opened().get_message(message).content == "399"


def test_a_file_with_another_past_is_the_same_store(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(durability="power")
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m")
    store.update_message("m", append="x")
    store.update_message("m", status="complete")

    def fail(_: str) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(tinydb, "fsync_directory", fail)
        with pytest.raises(StoreError) as caught:
            store.compact(keep=0)
    assert str(caught.value).startswith(f"{path}: Input/output error; the change may have been")
    assert caught.value.outcome == "unknown"
    store.compact(keep=0)
    again = opened()
    assert again.store_id == store.store_id
    assert contents_of_message(again) == contents_of_message(store) == ([3], "x")
    store.add_message("t", "a")
    assert again.cursor() == 4


def contents_of_message(store: TinyDBConversationStore) -> tuple[list[int], str]:
    changes = store.changes(message="m", since=2)
    return [change.revision for change in changes], store.get_message("m").content


def test_metadata_that_changes_often_is_put_together_once(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened() as store:
        store.create_thread(thread_id="t")
        many = {f"k{number}": number for number in range(500)}
        store.add_message("t", "a", message_id="m", status="processing", metadata=many)
    store = opened()
    for number in range(50):
        store.update_message("m", metadata={"k1": -number})
    sizes: list[int] = []

    def dump(value: object) -> str:
        sizes.append(len(real(value)))
        return real(value)

    real = values.dump
    size = len(real(many))
    monkeypatch.setattr(values, "dump", dump)
    late = opened()
    assert late.get_message("m") == store.get_message("m")
    assert sum(sizes) < 5 * size
    sizes.clear()
    assert check_store(store.url).findings == ()
    assert sum(sizes) < 10 * size
