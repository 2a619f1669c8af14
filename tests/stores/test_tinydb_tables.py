"""``store.db``, and stock TinyDB on the same file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tinydb import Query, TinyDB, where
from tinydb.table import Document

from pytest_claude_comms.errors import (
    StoreCorrupt,
    StoreError,
)
from pytest_claude_comms.stores import tinydb, tinydb_image, tinydb_rows, tinydb_tables, values
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.journal import Journal
from tests.stores.interrupt_kit import Interrupt
from tests.stores.tinydb_kit import Open, Ticking, contents, opening, play


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "comms.json"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Opens the store at ``path``, and closes it in the end."""
    with opening(path) as start:
        yield start


def test_stock_tinydb_reads_the_checkpoint(opened: Open, path: Path) -> None:
    store = opened(clock=Ticking())
    store.create_thread(thread_id="early")
    store.checkpoint()
    store.create_thread(thread_id="late")
    with TinyDB(path) as before:
        assert [each["thread_id"] for each in before.table("threads")] == ["early"]
    play(store)
    store.db.table("mine").insert({"a": 1})
    store.checkpoint()
    with TinyDB(path) as stock:
        for name in ("threads", "messages", "changes", "mine"):
            assert stock.table(name).all() == store.db.table(name).all(), name
            assert [each.doc_id for each in stock.table(name)] == [
                each.doc_id for each in store.db.table(name)
            ]
        found = stock.table("messages").get(where("message_id") == "p")
        assert isinstance(found, Document)
        assert found["created_at"] == store.get_message("p").created_at.isoformat()
        assert [each.doc_id for each in stock.table("changes")] == list(
            range(1, store.cursor() + 1)
        )


def test_db_reads_everything_as_it_is_now(opened: Open) -> None:
    store, other = opened(), opened()
    messages = store.db.table("messages", cache_size=100)
    thread = store.create_thread("x", metadata={"deep": {"er": 1}})
    message = store.add_message(thread, "a", "text", status="pending")
    pending = where("status") == "pending"
    assert len(messages) == messages.count(pending) == 1
    assert messages.search(pending)[0]["content"] == "text"
    other.update_message(message, status="complete")
    assert messages.search(pending) == []
    assert not messages.contains(pending)
    assert messages.contains(where("status") == "complete")
    found = messages.get(doc_id=1)
    assert isinstance(found, Document)
    assert found in messages
    assert found["status"] == "complete"
    assert store.db.tables() == {"threads", "messages", "changes"}
    first = store.db.table("threads").all()[0]
    first["metadata"]["deep"]["er"] = 2
    assert store.db.table("threads").all()[0]["metadata"] == {"deep": {"er": 1}}
    assert store.get_thread(thread).metadata == {"deep": {"er": 1}}
    assert set(store.db.storage.read() or {}) == {"threads", "messages", "changes"}
    assert "threads" in repr(store.db)


WRITES: dict[str, Callable[[Any], Any]] = {
    "insert": lambda table: table.insert({"a": 1}),
    "insert_multiple": lambda table: table.insert_multiple([{"a": 1}]),
    "update": lambda table: table.update({"status": "failed"}),
    "update_multiple": lambda table: table.update_multiple([({"a": 1}, Query().a == 1)]),
    "upsert": lambda table: table.upsert({"a": 1}, Query().a == 1),
    "remove": lambda table: table.remove(doc_ids=[1]),
    "truncate": lambda table: table.truncate(),
}


@pytest.mark.parametrize("name", tinydb_image.OURS)
@pytest.mark.parametrize("method", WRITES)
def test_the_stores_tables_are_not_written(opened: Open, name: str, method: str) -> None:
    store = opened()
    store.add_message(store.create_thread(), "a")
    before = contents(store)
    with pytest.raises(StoreError, match=rf"{method}\(\) cannot write.*use (store\.|no method)"):
        WRITES[method](store.db.table(name))
    assert contents(store) == contents(opened()) == before


def test_nor_are_they_dropped_or_written_as_a_whole(opened: Open) -> None:
    store = opened()
    store.add_message(store.create_thread(), "a")
    before = contents(store)
    for attempt in (
        lambda: store.db.drop_table("messages"),
        lambda: store.db.drop_tables(),
        lambda: store.db.storage.write({}),
        lambda: store.db.table("messages").storage.write({"messages": {}}),
        lambda: store.db.table("changes", persist_empty=True),
    ):
        with pytest.raises(StoreError):
            attempt()
    store.db.default_table_name = "threads"
    with pytest.raises(StoreError, match=r"store\.create_thread"):
        store.db.insert({})
    assert contents(store) == contents(opened()) == before


def test_the_users_tables_are_a_tinydb(opened: Open, tmp_path: Path) -> None:
    """Every operation has the result that it has in stock TinyDB."""
    store = opened()

    def play(db: TinyDB) -> list[Any]:
        table = db.table("mine")
        said: list[Any] = [
            db.insert({"default": True}),
            table.insert({"a": 1, "deep": {"er": [1, 2]}}),
            table.insert_multiple({"a": number} for number in range(3)),
            table.insert(Document({"a": 9}, doc_id=40)),
            table.insert_multiple([Document({"a": 8}, doc_id=39), {"a": 7}]),
            table.update({"b": True}, where("a") == 1),
            table.update(lambda doc: doc.update(c="called"), doc_ids=[1, 2, 777]),
            table.update({"b": 1}, where("b") == True),  # noqa: E712
            table.update_multiple([({"d": 1}, where("a") == 0), ({"d": 2}, where("a") == 2)]),
            table.upsert({"a": 100, "up": 1}, where("a") == 100),
            table.upsert({"up": 2}, where("a") == 100),
            table.remove(where("a") == 2),
            table.remove(doc_ids=[40]),
            table.insert({"last": {}}),
            len(db),
            db.all(),
            table.all(),
            [each.doc_id for each in table],
        ]
        for wrong in (3, [3]):
            with pytest.raises(ValueError, match="not a Mapping"):
                table.insert(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="already exists"):
            table.insert(Document({}, doc_id=1))
        with pytest.raises(TypeError, match="not JSON serializable"):
            table.insert({"set": {1}})
        db.table("other").insert({"x": 1})
        db.table("other").truncate()
        said.append(db.table("other").insert({"x": 2}))
        db.table("empty", persist_empty=True)
        db.table("gone").insert({})
        db.drop_table("gone")
        db.drop_table("never was")
        said.append({name for name in db.tables() if name not in tinydb_image.OURS})
        return said

    with TinyDB(tmp_path / "stock.json") as stock:
        expected = play(stock)
    assert play(store.db) == expected
    other = opened()
    store.checkpoint()
    third = opened()
    for name in expected[-1]:
        assert other.db.table(name).all() == store.db.table(name).all()
        assert third.db.table(name).all() == store.db.table(name).all()


def test_document_ids_are_not_used_again_by_another_process(opened: Open) -> None:
    first, second = opened(), opened()
    assert first.db.insert({}) == 1
    assert second.db.insert({}) == 2
    assert first.db.remove(doc_ids=[2]) == [2]
    assert second.db.insert({}) == 3
    assert second.db.remove(doc_ids=[3]) == [3]
    first.checkpoint()
    assert opened().db.insert({}) == 4


def test_a_document_with_an_id_of_its_own_is_not_overwritten(opened: Open) -> None:
    table = opened().db.table("mine")
    assert table.insert_multiple([Document({"a": 1}, doc_id=3), {"a": 2}]) == [3, 4]
    assert table.insert_multiple([{"a": 3}, Document({"a": 4}, doc_id=9)]) == [5, 9]
    assert table.insert({"a": 5}) == 10
    assert len(table) == 5


def test_a_write_to_a_users_table_is_all_or_nothing(opened: Open) -> None:
    store = opened()
    store.db.insert_multiple([{"n": 1}, {"n": 2}])

    def twice(document: Any) -> None:
        document["n"] += 10
        if document["n"] == 12:
            raise LookupError("second")

    with pytest.raises(LookupError):
        store.db.update(twice)

    def documents() -> Iterator[dict[str, int]]:
        yield {"n": 3}
        raise LookupError

    with pytest.raises(LookupError):
        store.db.insert_multiple(documents())
    assert [each["n"] for each in store.db] == [each["n"] for each in opened().db] == [1, 2]
    store.db.insert({"n": 3})


def test_the_store_can_be_read_but_not_written_inside_a_write_to_db(opened: Open) -> None:
    store = opened()
    message = store.add_message(store.create_thread(), "a", "text")
    store.db.insert({"n": 1})

    def change(document: Any) -> None:
        document["text"] = store.get_message(message).content
        document["rows"] = len(store.db.table("messages"))
        assert "_default" in store.db.tables()
        with pytest.raises(StoreError, match="inside a write"):
            store.update_message(message, metadata={"a": 1})

    store.db.update(change)
    assert store.db.all() == [{"n": 1, "text": "text", "rows": 1}]
    store.update_message(message, metadata={"a": 1})


def test_what_stock_tinydb_writes_meanwhile_is_taken_over(opened: Open, path: Path) -> None:
    store, other = opened(), opened()
    store.add_message(store.create_thread(), "a", "early")
    store.db.insert({"by": "store"})
    store.checkpoint()
    store.add_message(store.threads()[0], "a", "late")
    with TinyDB(path) as stock:
        stock.insert({"by": "stock", "text": "ä\ud800"})
        stock.table("new").insert({"by": "stock"})
    for each in (store, other):
        assert [doc["by"] for doc in each.db] == ["store", "stock"]
        assert each.db.table("new").all() == [{"by": "stock"}]
        assert [message.content for message in each.messages()] == ["early", "late"]
    assert store.db.insert({"by": "store"}) == 3
    other.checkpoint()
    assert len(opened().db) == len(store.db) == 3
    assert store.cursor() == 2


def test_a_tinydb_file_is_adopted(opened: Open, path: Path) -> None:
    with TinyDB(path) as stock:
        stock.insert_multiple([{"n": 1}, {"n": 2}])
        stock.table("notes").insert({"text": "keep"})
        stock.table("messages").truncate()
    store = opened()
    assert store.threads() == []
    assert [each["n"] for each in store.db] == [1, 2]
    assert store.db.insert({"n": 3}) == 3
    assert store.db.table("notes").all() == [{"text": "keep"}]
    store.close()
    with TinyDB(path) as stock:
        assert len(stock) == 3


def test_the_file_that_tinydb_touches_is_a_new_store(opened: Open, path: Path) -> None:
    path.touch()
    opened().create_thread()


@pytest.mark.parametrize("name", ["threads", "messages", "changes", "claude_comms"])
def test_a_tinydb_file_with_such_tables_is_refused(opened: Open, path: Path, name: str) -> None:
    with TinyDB(path) as stock:
        stock.table(name).insert({"id": 1})
    before = path.read_bytes()
    with pytest.raises(StoreCorrupt, match=f"table '{name}'.*a file of its own"):
        opened()
    assert path.read_bytes() == before
    assert not Path(f"{path}.journal").exists()


def test_a_write_that_changes_nothing_is_no_commit(opened: Open, path: Path) -> None:
    store = opened()
    store.db.insert({"n": 1})
    journal = path.with_name(f"{path.name}.journal")
    before = journal.read_bytes()
    assert store.db.update({"n": 1}) == [1]
    assert store.db.remove(where("n") == 5) == []
    assert journal.read_bytes() == before
    store.db.update({"n": True})  # to Python the same
    assert journal.read_bytes() != before
    assert repr(opened().db.all()) == "[{'n': True}]"


def test_what_is_refused_names_the_store(opened: Open) -> None:
    store = opened()
    for attempt in (
        lambda: store.db.drop_tables(),
        lambda: store.db.storage.write({}),
        lambda: store.db.table("messages").insert({}),
        lambda: store.db.drop_table("messages"),
    ):
        with pytest.raises(StoreError) as caught:
            attempt()
        assert store.url in str(caught.value)
    with pytest.raises(StoreError, match=r"^write\(\) cannot write to the table 'threads' of "):
        store.db.table("threads").storage.write({"threads": {}})
    with pytest.raises(StoreError, match=r"^drop_table\(\) cannot write to the table 'changes' of"):
        store.db.drop_table("changes")


def test_the_storage_reads_each_table(opened: Open) -> None:
    store = opened()
    store.add_message(store.create_thread(), "a", "text")
    store.db.table("mine").insert({"n": 1})
    assert store.db.storage.read() == {
        name: {str(each.doc_id): dict(each) for each in store.db.table(name)}
        for name in ("threads", "messages", "changes", "mine")
    }


def nested(depth: int) -> dict[str, Any]:
    """An object that is nested so deep: 1 is an empty one."""
    document: dict[str, Any] = {}
    for _ in range(depth - 1):
        document = {"k": document}
    return document


@pytest.mark.parametrize("depth", [101, 987, 5_000])
def test_a_document_that_not_everybody_could_read_is_refused(
    opened: Open, path: Path, depth: int
) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    mine = store.db.table("mine")
    mine.insert_multiple([{"n": 1}, nested(100)])
    deep = nested(depth)
    attempts: list[Callable[[], object]] = [
        lambda: mine.insert(deep),
        lambda: mine.insert_multiple([{"n": 3}, {"k": [deep]}]),
        lambda: mine.update({"deep": deep}, where("n") == 1),
        lambda: mine.update(lambda document: document.update(deep), doc_ids=[1]),
        lambda: mine.upsert({"n": 1, "deep": deep}, where("n") == 1),
        lambda: mine.storage.write({"mine": {"1": deep}}),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=r"^document \d+ of table 'mine' is nested more than "):
            attempt()
    assert [doc.get("n") for doc in mine] == [1, None]
    store.checkpoint()
    assert opened().db.table("mine").all() == [{"n": 1}, nested(100)]
    with TinyDB(path) as stock:
        assert len(stock.table("mine")) == 2


def test_a_deep_document_of_somebody_else_stays_as_it_is(opened: Open, path: Path) -> None:
    deep = nested(200)
    opened().close()
    with TinyDB(path) as stock:
        stock.table("mine").insert(deep)
    store = opened()
    mine = store.db.table("mine")
    assert mine.insert({"n": 2}) == 2
    assert mine.update({"m": 3}, doc_ids=[2]) == [2]
    with pytest.raises(ValueError, match="document 1 of table 'mine' is nested more than 100 deep"):
        mine.update({"m": 3})
    store.checkpoint()
    assert opened().db.table("mine").all() == [deep, {"n": 2, "m": 3}]


@pytest.mark.parametrize("depth", [101, 150, 500])
def test_a_deep_document_in_a_journal_from_before_that_was_refused_is_read(
    opened: Open, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    store = opened()
    store.create_thread(thread_id="t")
    with monkeypatch.context() as patch:
        patch.setattr(values, "is_too_deep", lambda _: False)
        store.db.table("mine").insert(nested(depth))
    store.create_thread(thread_id="u")
    assert not check_store(store.url).findings
    other = opened()
    assert [thread.thread_id for thread in other.threads()] == ["t", "u"]
    other.checkpoint()
    assert opened().db.table("mine").all() == [nested(depth)]
    assert not check_store(store.url).findings


@pytest.mark.parametrize("number", [10**640, -(10**640)], ids=["long", "below"])
def test_an_int_that_not_every_python_could_read_is_refused(opened: Open, number: int) -> None:
    """Its line of the journal would be no JSON to some, which is what a killed writer leaves."""
    store = opened()
    mine = store.db.table("mine")
    longest = number - 1 if number > 0 else number + 1
    mine.insert_multiple([{"n": longest, "text": "1" * 700}, Document({}, doc_id=abs(longest))])
    before = mine.all()
    for document in ({"n": number}, {"k": [{}, {"n": number}]}):
        with pytest.raises(ValueError, match=r"^document \d+ of table 'mine' has an int of more "):
            mine.update(document, doc_ids=[1])
    for document in ({}, Document({}, doc_id=number)):
        with pytest.raises(ValueError, match="^a document's doc_id may have up to 640 digits"):
            mine.insert(document)
    assert mine.all() == before
    store.checkpoint()
    assert opened().db.table("mine").all() == before


def test_a_long_int_of_somebody_else_stays_and_what_is_beside_it_may_change(
    opened: Open, path: Path
) -> None:
    long = 10**1_200
    opened().close()
    with TinyDB(path) as stock:
        stock.table("mine").insert_multiple([{"n": long}, {"n": 1}])
    mine = opened().db.table("mine")
    assert mine.update({"m": 1}) == [1, 2]
    assert mine.update({"n": long + 1}, doc_ids=[1]) == [1]
    with pytest.raises(ValueError, match="document 2 of table 'mine' has an int of more than 640"):
        mine.update({"n": long}, doc_ids=[2])
    assert mine.update({"n": 2}, doc_ids=[1]) == [1]
    with pytest.raises(ValueError, match="document 1 of table 'mine' has an int of more than 640"):
        mine.update({"n": long}, doc_ids=[1])
    assert opened().db.table("mine").all() == [{"n": 2, "m": 1}, {"n": 1, "m": 1}]


def test_an_id_that_is_given_is_not_given_again(opened: Open) -> None:
    mine = opened().db.table("mine")
    assert mine.insert_multiple([{}, {}, {}]) == [1, 2, 3]
    mine.remove(doc_ids=[2, 3])
    assert mine.insert(Document({}, doc_id=2)) == 2  # an id below the last one is no new last one
    assert opened().db.table("mine").insert({}) == 4
    opened().db.table("mine").insert(Document({}, doc_id=9))
    assert mine.insert({}) == 10


def test_an_id_that_is_too_long_is_not_counted_on(opened: Open, path: Path) -> None:
    """In the journal it would be an int that some Python could not read."""
    key, longest = 10**640, 10**640 - 1
    path.write_text(json.dumps({"mine": {"5": {"n": 5}, str(key): {"n": 1}}}))
    store = opened()
    mine = store.db.table("mine")
    mine.update({"m": 2})
    assert mine.insert({"n": 6}) == 6
    mine.insert(Document({}, doc_id=longest))
    found = Journal(f"{path}.journal", beacon=f"{path}.lock", power=False).read()
    assert found is not None
    last_ids = [op["last"] for record in found.records for op in record.ops if "last" in op]
    assert last_ids == [5, 6, longest]
    store.checkpoint()
    assert [(each.doc_id, each.get("n")) for each in opened().db.table("mine")] == [
        *[(5, 5), (key, 1), (6, 6), (longest, None)],
    ]


@pytest.mark.parametrize("doc_id", [True, 2.5, "7", None])
def test_a_document_id_that_is_no_number_is_refused(opened: Open, doc_id: Any) -> None:
    store = opened()
    with pytest.raises(TypeError, match=f"^a document's doc_id must be an int, not {doc_id!r}$"):
        store.db.insert(Document({}, doc_id=doc_id))
    store.checkpoint()
    assert opened().db.insert({}) == store.db.all()[-1].doc_id == 1


def test_a_table_whose_name_is_no_text_is_refused(opened: Open) -> None:
    store = opened()
    name: Any = 5
    with pytest.raises(TypeError, match="^a table's name must be a str, not 5$"):
        store.db.table(name).insert({})
    with pytest.raises(TypeError, match="^a table's name must be a str, not 5$"):
        store.db.drop_table(name)
    store.checkpoint()
    assert opened().db.tables() == {"threads", "messages", "changes"}


@pytest.mark.parametrize("method", sorted(WRITES))
def test_a_write_inside_a_write_is_refused_and_neither_is_lost(opened: Open, method: str) -> None:
    store = opened()
    store.db.insert_multiple([{"n": 1}, {"n": 2}])
    store.db.table("other").insert({"a": 0})
    seen: list[StoreError] = []

    def change(document: Any) -> None:
        for name in ("_default", "other"):
            with pytest.raises(StoreError, match="inside a write to store.db") as caught:
                WRITES[method](store.db.table(name))
            seen.append(caught.value)
        with pytest.raises(StoreError, match="inside a write to store.db"):
            store.db.drop_table("other")
        document["n"] += 10

    assert store.db.update(change) == [1, 2]
    assert len(seen) == 4
    for each in (store, opened()):
        assert each.db.all() == [{"n": 11}, {"n": 12}]
        assert each.db.table("other").all() == [{"a": 0}]


@pytest.mark.parametrize("method", ["insert", "upsert"])
def test_a_handlers_write_in_the_midst_of_one_is_done_or_refused(opened: Open, method: str) -> None:
    store = opened()
    done: list[int] = []

    def act() -> None:
        with suppress(StoreError, RuntimeError):
            store.db.insert({"by": "handler"})
            done.append(1)

    comes = Interrupt(tinydb, tinydb_tables, tinydb_image, tinydb_rows, act=act, lines=True)
    step, refused, is_left = 1, 0, True
    while is_left:
        done.clear()
        is_left = comes.comes_in(lambda: WRITES[method](store.db), step)
        documents = store.db.all()
        assert documents.count({"a": 1}) == 1
        assert documents.count({"by": "handler"}) == len(done)
        refused += is_left and not done
        store.db.truncate()
        step += 1
    assert 20 < refused < step - 20


def test_who_changes_a_document_may_read_other_tables(opened: Open) -> None:
    store = opened()
    store.db.table("rates").insert({"per_unit": 3})
    store.db.table("bills").insert({"units": 2})

    def price(bill: Any) -> None:
        (rate,) = store.db.table("rates").all()
        bill["price"] = rate["per_unit"] * bill["units"]

    store.db.table("bills").update(price)
    assert store.db.table("bills").all() == [{"units": 2, "price": 6}]
