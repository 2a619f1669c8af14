"""The check finds what was planted, and cries no wolf."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from pytest_claude_comms import (
    ConversationStore,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    copy_store,
    open_store,
)
from pytest_claude_comms.clock import FIRST_US
from pytest_claude_comms.stores import checking, reports, sqlite_check, tinydb_check
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.files import FileLock
from pytest_claude_comms.stores.invariants import findings_of, well_formed
from pytest_claude_comms.stores.journal import _encode
from pytest_claude_comms.stores.keeping import KeepingStore
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.reports import CheckReport, Finding, StoreSnapshot
from pytest_claude_comms.stores.sqlite_rows import status_of
from pytest_claude_comms.testing import FakeClock
from tests.stores.keeping_kit import every_store, everything, file_stores, fill, posix, run
from tests.stores.test_copying import _WRITE


def seed(store: ConversationStore) -> None:
    """Revisions 1 to 6 are of ``m``, 7 of ``o``."""
    store.create_thread(thread_id="t")
    store.add_message("t", "a", status="pending", message_id="m", timeout=1e6, metadata={"k": 1})
    store.update_message("m", status="processing")
    store.update_message("m", append="one ")
    store.update_message("m", append="two", error="odd")
    store.update_message("m", metadata={"n": 2})
    store.update_message("m", status="complete")
    store.add_message("t", "a", "open", status="pending", message_id="o", stall_timeout=1e6)


def kinds(report: CheckReport) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.kind, []).append(f"{finding.thing}: {finding.reason}")
        assert finding.way_out
    return found


def state_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    found = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        found[name] = (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
    return found


# -- no wolf


@pytest.mark.parametrize("scheme", ["memory", "sqlite", "tinydb"])
@pytest.mark.parametrize("year", [1, 1969, 9999])
def test_a_clock_that_stands_in_any_year(tmp_path: Path, scheme: str, year: int) -> None:
    clock = FakeClock(datetime(year, 12, 31, 23, tzinfo=timezone.utc) - timedelta(days=364))
    url = "memory:" if scheme == "memory" else f"{scheme}:///{tmp_path}/store"
    with open_store(url, clock=clock) as store, open_store("memory:") as copy:
        seed(store)
        assert check_store(store).findings == ()
        copy_store(store, copy)
        assert everything(copy) == everything(store)
    clock.close()


@every_store
def test_a_sound_store(store: ConversationStore) -> None:
    fill(store)
    report = check_store(store)
    assert report.ok
    assert (report.notes, report.threads, report.messages) == ((), 2, 7)
    assert report.changes == report.revision == store.cursor()
    store.compact(keep=5)
    report = check_store(store)
    assert (report.findings, report.trimmed) == ((), store.cursor() - 5)
    assert report.changes < report.revision


@file_stores
@pytest.mark.parametrize("is_open", [False, True])
def test_nothing_is_written(store: ConversationStore, tmp_path: Path, *, is_open: bool) -> None:
    url = f"{store.backend}:///{tmp_path}/s"
    with open_store(url, durability="process") as other:
        fill(other)
        if is_open:
            before = state_of(tmp_path)
            assert check_store(url).findings == ()
            check_store(other)
            after = state_of(tmp_path)
            before.pop("s-shm", None)  # SQLite notes there who is reading
            after.pop("s-shm", None)
            assert after == before
    if not is_open:
        os.unlink(tmp_path / "s.lock")
        before = state_of(tmp_path)
        assert check_store(url).findings == ()
        assert state_of(tmp_path) == before


@file_stores
def test_what_is_not_there(store: ConversationStore, tmp_path: Path) -> None:
    for name, reason in (("none", "does not exist"), ("", "is no file")):
        (finding,) = check_store(f"{store.backend}:///{tmp_path}/x/../{name or '.'}").findings
        assert finding.kind == "file"
        assert reason in finding.reason
    assert os.listdir(tmp_path) == []


def test_what_is_no_store() -> None:
    with pytest.raises(StoreError, match="nothing is kept there"):
        check_store("memory:")
    for url in ("theirs:/x", "comms.db", "memory"):
        with pytest.raises(ValueError, match="is no store URL; there are memory:, sqlite:///PATH"):
            check_store(url)
    with pytest.raises(TypeError, match="what is checked must be an open store, not 3; open one"):
        check_store(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="names no file"):
        check_store("sqlite:")

    class Theirs:
        url, backend = "theirs:", "theirs"

    theirs: Any = Theirs()
    with pytest.raises(StoreError, match=r"has no snapshot\(\)"):
        check_store(theirs)


@file_stores
def test_a_store_that_is_being_written(store: ConversationStore) -> None:
    fill(store)
    child = run(_WRITE, store.url)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        revisions = set()
        for turn in range(5_000):  # the system gives the writer its time when it likes
            if turn == 6:
                store.compact(keep=20)
            report = check_store(store.url)
            assert report.findings == ()
            revisions.add(report.revision)
            if turn >= 11 and len(revisions) > 3:
                break
    finally:
        child.kill()
        child.communicate()
    assert len(revisions) > 3
    assert check_store(store.url).findings == ()  # a kill is no damage


_OPEN_AND_CLOSE = """
import sys
from pytest_claude_comms import open_store
print("ready", flush=True)
while True:
    with open_store(sys.argv[1], durability="process") as store:
        store.add_message("t", "w", "x" * 3_000)
"""


@file_stores
def test_a_store_that_is_opened_and_closed_all_the_time(store: ConversationStore) -> None:
    """Files come and go: the log, its index, the journal."""
    fill(store)
    store.close()
    child = run(_OPEN_AND_CLOSE, store.url)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(25):
            assert check_store(store.url).findings == ()
    finally:
        child.kill()
        child.communicate()
    open_store(store.url, durability="process").close()


@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_log_alone(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    path = store.url.partition("///")[2]
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", tmp_path / f"s{ending}")
    before = state_of(tmp_path)
    report = check_store(f"sqlite:///{tmp_path}/s")
    assert (report.findings, report.revision) == ((), store.cursor())
    assert state_of(tmp_path) == before


@pytest.mark.claude_comms(stores=["sqlite"])
def test_a_log_that_goes_while_it_is_copied(
    store: ConversationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last who had the store open put its log into its file, and left."""
    fill(store)
    path = store.url.partition("///")[2]
    for ending in ("", "-wal"):
        shutil.copy(f"{path}{ending}", tmp_path / f"s{ending}")
    copyfile = shutil.copyfile

    def leaves(source: str, target: str) -> str:
        if source.endswith("s-wal"):
            with closing(sqlite3.connect(tmp_path / "s")) as last:
                last.execute("SELECT count(*) FROM messages").fetchall()
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", leaves)
    report = check_store(f"sqlite:///{tmp_path}/s")
    assert (report.findings, report.revision) == ((), store.cursor())
    assert not os.path.exists(tmp_path / "s-wal")


# -- what is common to both


@posix
@file_stores
def test_files_that_others_can_read(store: ConversationStore) -> None:
    seed(store)
    path = store.url.partition("///")[2]
    sides = {"sqlite": ["", "-wal", "-shm", ".lock"], "tinydb": ["", ".journal", ".lock"]}
    names = [f"{path}{ending}" for ending in sides[store.backend]]
    for name in names:
        os.chmod(name, 0o640)
    found = check_store(store).findings
    assert [finding.thing for finding in found] == names
    assert {finding.kind for finding in found} == {"permissions"}
    assert [finding.way_out for finding in found] == [f"chmod 600 {name}" for name in names]


Plant = Callable[["Hand"], None]


class Hand:
    """Changes rows behind a store's back, in whatever kind of file."""

    def __init__(self, backend: str, path: Path) -> None:
        self.backend = backend
        self.path = path

    def sql(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def edit(self, change: Callable[[Any], object]) -> None:
        content = json.loads(self.path.read_text())
        change(content)
        self.path.write_text(json.dumps(content))

    def message(self, field: str, value: Any, message: str = "m") -> None:
        if self.backend == "sqlite":
            with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                db.execute(
                    f"UPDATE messages SET {field} = ? WHERE message_id = ?", (value, message)
                )
            return
        names = {"updated_us": "updated_at", "created_us": "created_at"}
        if field.endswith("ed_us"):
            field, value = names[field], "2020-01-01T00:00:00+00:00"
        if field == "metadata":
            value = json.loads(value)

        def change(content: Any) -> None:
            for document in content["messages"].values():
                if document["message_id"] == message:
                    document[field] = value

        self.edit(change)

    def change(self, revision: int, **fields: Any) -> None:
        if self.backend == "sqlite":
            names = ", ".join(f"{name} = ?" for name in fields)
            with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                db.execute(
                    f"UPDATE changes SET {names} WHERE revision = ?", (*fields.values(), revision)
                )
            return
        if "metadata" in fields:
            fields["metadata"] = json.loads(fields["metadata"])
        if "at_us" in fields:
            fields = {"at": "2020-01-01T00:00:00+00:00"}
        self.edit(lambda content: content["changes"][str(revision)].update(fields))

    def drop_change(self, revision: int) -> None:
        if self.backend == "sqlite":
            self.sql(f"DELETE FROM changes WHERE revision = {revision}")
        else:
            self.edit(lambda content: content["changes"].pop(str(revision)))

    def drop_changes(self, *revisions: int) -> None:
        for revision in revisions:
            self.drop_change(revision)

    def drop_message(self) -> None:
        if self.backend == "sqlite":
            self.sql("DELETE FROM messages WHERE message_id = 'm'")
        else:
            self.edit(lambda content: content["messages"].pop("1"))

    def drop_thread(self) -> None:
        if self.backend == "sqlite":
            self.sql("DELETE FROM threads")
        else:
            self.edit(lambda content: content["threads"].clear())

    def give_back(self) -> None:
        """Say that fewer revisions were given."""
        if self.backend == "sqlite":
            self.sql("UPDATE sqlite_sequence SET seq = 5 WHERE name = 'changes'")
        else:
            self.edit(lambda content: content["claude_comms"]["1"].update(revision=5))


def content(hand: Hand, text: str) -> None:
    if hand.backend == "sqlite":
        hand.sql(f"UPDATE contents SET text = '{text}' WHERE number = 1")
    else:
        hand.message("content", text)


PLANTED: dict[str, tuple[Plant, str, str]] = {
    "a change is missing": (lambda h: h.drop_change(3), "revision", "revision 3: missing"),
    "two changes are missing": (
        lambda h: h.drop_changes(3, 4), "revision", "revisions 3 to 4: missing"),
    "the last change is missing": (lambda h: h.drop_change(7), "revision", "revision 7: missing"),
    "all of a message's changes are missing": (
        lambda h: h.drop_change(7), "history", "message o: not one of its changes"),
    "the creation is missing": (
        lambda h: h.drop_change(1), "transition", "revision 2: it is the first change of 'm'"),
    "a revision will be given again": (
        lambda h: h.give_back(), "revision", "revision 7: the store says that its last one is 5"),
    "another status": (
        lambda h: h.message("status", "failed"), "message",
        "message m: its status is failed, and complete by its last change (revision 6)"),
    "an unknown status": (lambda h: h.message("status", "done"), "document", "done"),
    "an unknown status in a change": (lambda h: h.change(3, status="done"), "document", "done"),
    "another text": (
        lambda h: content(h, "one twO"), "message", "its text is not what its changes made it"),
    "a longer text": (lambda h: content(h, "one two!"), "message", "its length is 8, and 7"),
    "another error": (lambda h: h.message("error", "x"), "message", "its error is 'x', and 'odd'"),
    "another revision": (lambda h: h.message("revision", 5), "message", "its revision is 5, and 6"),
    "another time": (lambda h: h.message("updated_us", 5), "message", "its time of change is"),
    "other metadata": (
        lambda h: h.message("metadata", '{"k":1,"n":3}'), "message", "its metadata is not what"),
    "metadata that is none": (lambda h: h.message("metadata", "[1]"), "message", "no JSON object"),
    "another thread": (
        lambda h: h.message("thread_id", "u"), "message", "its thread 'u' does not exist"),
    "no thread": (lambda h: h.drop_thread(), "message", "its thread 't' does not exist"),
    "no message": (lambda h: h.drop_message(), "history", "which does not exist"),
    "another length in a change": (
        lambda h: h.change(3, content_length=9), "history", "revision 3: it says that the text"),
    "an append that changed": (
        lambda h: h.change(3, append="One "), "message", "its text is not what its changes"),
    "an unlawful step": (
        lambda h: h.change(3, previous="complete"), "transition",
        "went from complete to processing, which cannot follow"),
    "a broken chain": (
        lambda h: h.change(2, previous="processing"), "transition",
        "it says that 'm' was processing before, and revision 1 made it pending"),
    "a second creation": (
        lambda h: h.change(3, previous=None), "transition", "it creates 'm' once more"),
    "growth after the end": (
        lambda h: h.change(6, previous="complete", append="x", content_length=8), "transition",
        "'m' was complete and grew"),
    "a deadline before its creation": (
        lambda h: h.message("expires_us", 5), "deadline", "before its creation"),
    "a stall time that is negative": (
        lambda h: h.message("stall_us", -5, "o"), "deadline", "before its creation"),
}  # fmt: skip


@file_stores
@pytest.mark.parametrize("what", PLANTED)
def test_planted_damage_is_found(store: ConversationStore, tmp_path: Path, what: str) -> None:
    url, path = f"{store.backend}:///{tmp_path}/s", tmp_path / "s"
    with open_store(url, durability="process") as other:
        seed(other)
    assert check_store(url).findings == ()
    plant, kind, said = PLANTED[what]
    plant(Hand(store.backend, path))
    before = path.read_bytes()
    found = kinds(check_store(url))
    assert kind in found, found
    assert any(said in line for line in found[kind]), found
    assert path.read_bytes() == before


@every_store
def test_a_history_that_was_trimmed_hides_nothing(store: ConversationStore, tmp_path: Path) -> None:
    """What is kept of it is still looked at."""
    if store.backend == "memory":
        return
    url, path = f"{store.backend}:///{tmp_path}/s", tmp_path / "s"
    with open_store(url, durability="process") as other:
        seed(other)
        other.compact(keep=0)
    for what in ("another status", "a longer text", "another error", "other metadata",
                 "all of a message's changes are missing", "no thread"):  # fmt: skip
        saved = path.read_bytes()
        plant, kind, _ = PLANTED[what]
        plant(Hand(store.backend, path))
        found = kinds(check_store(url))
        assert ("message" if what == "other metadata" else kind) in found or (
            what == "other metadata"  # the change that set it is gone
        ), (what, found)
        path.write_bytes(saved)


# -- SQLite


@pytest.fixture(scope="module")
def filled_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed store that nobody may change: each test damages a copy."""
    path = tmp_path_factory.mktemp("filled") / "s"
    with open_store(f"sqlite:///{path}", durability="process") as store:
        fill(store, turns=20)
    return path


@pytest.fixture
def sqlite_file(filled_file: Path, tmp_path: Path) -> Path:
    for each in filled_file.parent.iterdir():
        shutil.copy2(each, tmp_path / each.name)
    return tmp_path / "s"


def test_flipped_bytes_in_a_page(sqlite_file: Path) -> None:
    whole = sqlite_file.read_bytes()
    found = 0
    for page in range(1, len(whole) // 4096):
        damaged = bytearray(whole)
        start = page * 4096
        damaged[start : start + 64] = bytes(64)
        sqlite_file.write_bytes(damaged)
        found += not check_store(f"sqlite:///{sqlite_file}").ok
    assert found == len(whole) // 4096 - 1


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda data: b"", "schema"),
        (lambda data: b"\0" * 100 + data[100:], "database"),
        (lambda data: data[:-4096], "database"),
        (lambda data: data[:5000], "database"),
        (lambda data: b"hello, this is no database" * 300, "database"),
    ],
)
def test_a_file_that_is_none(
    sqlite_file: Path, damage: Callable[[bytes], bytes], kind: str
) -> None:
    sqlite_file.write_bytes(damage(sqlite_file.read_bytes()))
    assert kind in kinds(check_store(f"sqlite:///{sqlite_file}"))


@pytest.mark.parametrize(
    ("statements", "kind", "said"),
    [
        (["DROP INDEX open_deadlines"], "schema", "open_deadlines: it is missing"),
        (["ALTER TABLE threads ADD COLUMN x"], "schema", "threads: it is laid out otherwise"),
        (["DROP TABLE contents"], "schema", "contents: it is missing"),
        (["UPDATE meta SET format = 9"], "schema", "format 9"),
        (["DELETE FROM meta"], "schema", "0 times"),
        (["PRAGMA application_id = 7"], "schema", "another program"),
        (["DELETE FROM sqlite_sequence"], "revision", "no longer says"),
        (["UPDATE messages SET deadline_us = 5 WHERE message_id = 'open'"], "deadline", "at 5"),
        (["UPDATE messages SET deadline_us = NULL"], "deadline", "looked for at None"),
        (["UPDATE messages SET tail = tail + 1 WHERE message_id = 'a1'"], "message", "to be in"),
        (["UPDATE messages SET module_name = x'ff00'"], "document", "is no text"),
        (["UPDATE messages SET title = CAST(x'ff' AS TEXT)"], "", ""),
        (["UPDATE threads SET title = CAST(x'ff' AS TEXT)"], "document", "cannot be read"),
        (["UPDATE threads SET modules = '{'"], "document", "cannot be read"),
        (["UPDATE changes SET at_us = 'noon' WHERE revision = 2"], "document", "whole number"),
        (["UPDATE changes SET at_us = 1.5 WHERE revision = 2"], "document", "whole number"),
        ([f"UPDATE changes SET at_us = {10**18} WHERE revision = 2"], "document", "out of range"),
        ([f"UPDATE messages SET created_us = {FIRST_US - 1}"], "document", "out of range"),
        (["UPDATE messages SET created_us = created_us + 1"], "message", "time of creation"),
        ([f"UPDATE messages SET expires_us = {9 * 10**18}"], "document", "out of range"),
        (["UPDATE threads SET modules = '[1, null]'"], "document", "modules[0]"),
        (["UPDATE threads SET modules = '\"abc\"'"], "document", "no list"),
        (["UPDATE threads SET modules = '5'"], "document", "no list"),
        (["UPDATE threads SET title = x'1b5d'"], "document", "title must be a str"),
        (["UPDATE messages SET error = x'1b5d'"], "document", "error must be a str"),
        (["UPDATE messages SET metadata = '{\"a\": NaN}'"], "document", "has NaN"),
        (["UPDATE changes SET metadata = '{\"a\": 1e400}'"], "document", "JSON cannot hold"),
        (["UPDATE changes SET mark = 0 WHERE revision = 2"], "document", "its mark is 0"),
        (["UPDATE changes SET mark = -5 WHERE revision = 2"], "document", "its mark is -5"),
        (["PRAGMA user_version = 5"], "schema", "user_version: it is 5"),
        (["UPDATE meta SET store_id = 'zz'"], "schema", "which is none"),
        (["INSERT INTO contents VALUES (9999, 1, 'ghost')"], "message", "text 9999: it is of a"),
        (
            ["CREATE TRIGGER x AFTER UPDATE ON messages BEGIN DELETE FROM changes; END"],
            "schema",
            "x: it is a trigger",
        ),
        (["CREATE VIEW v AS SELECT 1"], "schema", "v: it is a view"),
        (
            [
                "CREATE TABLE trimmed (revision INTEGER NOT NULL)",
                "INSERT INTO trimmed VALUES (9999)",
            ],
            "revision",
            "said to be trimmed",
        ),
    ],
)
def test_rows_and_tables(sqlite_file: Path, statements: list[str], kind: str, said: str) -> None:
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as db:
        if not kind:
            with pytest.raises(sqlite3.OperationalError):
                db.execute(statements[0])
            return
        for statement in statements:
            db.execute(statement)
    found = kinds(check_store(f"sqlite:///{sqlite_file}"))
    assert kind in found, found
    assert any(said in line for line in found[kind]), found


def test_tables_that_are_not_ours_are_noted(sqlite_file: Path) -> None:
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as db:
        db.execute("CREATE TABLE mine (x)")
    report = check_store(f"sqlite:///{sqlite_file}")
    assert report.ok
    assert report.notes == ("tables and indexes that are not ours: mine",)


# -- TinyDB


@pytest.fixture
def tinydb_file(tmp_path: Path) -> Path:
    """With a journal that holds all."""
    saved = tmp_path / "saved"
    saved.mkdir()
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        seed(store)
        for ending in ("", ".journal"):
            shutil.copy(f"{path}{ending}", saved / f"s{ending}")
    for ending in ("", ".journal"):
        shutil.copy(saved / f"s{ending}", f"{path}{ending}")
    return path


def journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def test_the_journal_is_read(tinydb_file: Path) -> None:
    report = check_store(f"tinydb:///{tinydb_file}")
    assert (report.findings, report.notes, report.revision) == ((), (), 7)


def test_a_torn_end_is_explained(tinydb_file: Path) -> None:
    """Cut at each byte of the last line: no damage, and the store agrees."""
    journal = journal_of(tinydb_file)
    whole = journal.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for end in range(start + 1, len(whole)):
        journal.write_bytes(whole[:end])
        report = check_store(f"tinydb:///{tinydb_file}")
        assert (report.findings, report.revision) == ((), 6)
        assert f"the last {end - start:,} bytes" in report.notes[0]
    journal.write_bytes(whole[:start])
    assert check_store(f"tinydb:///{tinydb_file}").notes == ()


def test_a_flipped_bit_anywhere_in_the_journal(tinydb_file: Path) -> None:
    journal = journal_of(tinydb_file)
    whole = journal.read_bytes()
    for place in range(0, len(whole) - 1, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        journal.write_bytes(damaged)
        findings = check_store(f"tinydb:///{tinydb_file}").findings
        things = {each.thing for each in findings if each.kind == "journal"}
        assert str(journal) in things, place
        assert not any("None" in each.reason for each in findings), place


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (lambda data: b"", "file", "it is empty"),
        (lambda data: data[:-1], "document", "it is no JSON"),
        (lambda data: b"[]", "document", "not that of a TinyDB file"),
        (lambda data: b'{"mine": {}}', "document", "it is no store"),
        (lambda data: data.replace(b'"seq"', b'"sec"'), "document", "is damaged"),
        (lambda data: data.replace(b'"revision"', b'"rev"', 1), "document", "is damaged"),
        (lambda data: data.replace(b'"format": 1', b'"format": 9'), "document", "newer"),
        (lambda data: data.replace(b'"threads"', b'"thread"', 1), "document", "is missing"),
        (
            lambda data: data.replace(b'"store_id": "', b'"store_id": "x'),
            "journal",
            "another store",
        ),
        (lambda data: data.replace(b'"link": ', b'"link": 1'), "journal", "does not go on"),
    ],
)
def test_a_json_file_that_is_none(
    tinydb_file: Path, damage: Callable[[bytes], bytes], kind: str, said: str
) -> None:
    tinydb_file.write_bytes(damage(tinydb_file.read_bytes()))
    found = kinds(check_store(f"tinydb:///{tinydb_file}"))
    assert kind in found, found
    assert any(said in line for line in found[kind]), found


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("messages", "1", "content"), 5),
        (("messages", "1"), 5),
        (("messages", "1", "thread_id"), []),
        (("messages", "1", "error"), 5),
        (("messages", "1", "module_name"), None),
        (("messages", "1", "module_name"), "\ud800"),
        (("messages", "1", "expires_us"), "soon"),
        (("messages", "1", "stall_us"), "x"),
        (("messages", "1", "stall_us"), 10**18),
        (("messages", "1", "metadata"), {"a": float("inf")}),
        (("messages", "1", "created_at"), "2026-01-01T00:00:00"),
        (("messages", "1", "created_at"), "2029-01-01T00:00:00+00:00"),
        (("threads", "1", "modules"), "abc"),
        (("threads", "1", "modules"), [1, None]),
        (("threads", "1", "title"), 7),
        (("changes", "2", "revision"), "2"),
        (("changes", "2", "revision"), True),
        (("changes", "2", "content_length"), "5"),
        (("changes", "2", "append"), 5),
        (("changes", "2", "message_id"), ["m"]),
        (("claude_comms", "1", "trimmed"), 999),
        (("claude_comms", "1", "trimmed"), "x"),
        (("claude_comms", "1", "last_ids"), 5),
    ],
)
def test_values_of_another_type(tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        seed(store)

    def plant(content: Any) -> None:
        for key in place[:-1]:
            content = content[key]
        content[place[-1]] = value

    Hand("tinydb", path).edit(plant)
    assert check_store(f"tinydb:///{path}").findings


def test_a_message_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        seed(store)
    Hand("tinydb", path).edit(lambda c: c["messages"].update({"9": c["messages"]["1"]}))
    assert "message m: it is there 2 times" in kinds(check_store(f"tinydb:///{path}"))["message"]
    Hand("tinydb", path).edit(lambda c: c["changes"].update({"9": c["changes"]["7"]}))
    assert "revision 7: it was given twice" in kinds(check_store(f"tinydb:///{path}"))["revision"]
    Hand("tinydb", path).edit(lambda c: c["threads"].update({"9": c["threads"]["1"]}))
    assert "thread t: it is there 2 times" in kinds(check_store(f"tinydb:///{path}"))["thread"]
    Hand("tinydb", path).edit(
        lambda c: c["messages"]["2"].update(deadline_at="2020-01-01T00:00:00+00:00")
    )
    assert "message o: it says 2020" in kinds(check_store(f"tinydb:///{path}"))["deadline"][0]


@pytest.mark.parametrize(("name", "value"), [("link", 0), ("seq", 0), ("seq", -1)])
@pytest.mark.parametrize("has_journal", [True, False])
def test_a_file_that_says_wrong_up_to_where_it_goes(
    tmp_path: Path, name: str, value: int, *, has_journal: bool
) -> None:
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        seed(store)
    content = json.loads(path.read_text())
    content["claude_comms"]["1"][name] = value
    path.write_text(json.dumps(content))
    if not has_journal:
        journal_of(path).unlink()
    found = kinds(check_store(f"tinydb:///{path}"))
    mark = content["claude_comms"]["1"]
    said = f"says that it goes up to change {mark['seq']} with checksum {mark['link']}"
    assert any(said in line for line in found["document"])


def test_a_file_without_a_journal_is_explained(tinydb_file: Path) -> None:
    os.unlink(journal_of(tinydb_file))
    report = check_store(f"tinydb:///{tinydb_file}")
    assert report.ok
    assert "this is a backup or a copy" in report.notes[0]


def test_what_a_kill_between_the_two_replacements_leaves(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        seed(store)
        old = journal_of(path).read_bytes()
        expected = everything(store)
    journal_of(path).write_bytes(old)
    report = check_store(f"tinydb:///{path}")
    assert (report.findings, report.revision) == ((), 7)
    with open_store(f"tinydb:///{path}", durability="process") as store:
        assert everything(store) == expected


def test_a_journal_that_ends_before_the_file(tmp_path: Path) -> None:
    """As a reader may find them that comes between two replacements; opening it is no error."""
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        store.create_thread(thread_id="t")
        old = journal_of(path).read_bytes()
        store.add_message("t", "a")
    journal_of(path).write_bytes(old)
    assert check_store(f"tinydb:///{path}").findings == ()
    with open_store(f"tinydb:///{path}", durability="process") as store:
        assert store.cursor() == 1


@file_stores
def test_an_open_message_of_a_trimmed_store(store: ConversationStore, tmp_path: Path) -> None:
    url, path = f"{store.backend}:///{tmp_path}/s", tmp_path / "s"
    with open_store(url, durability="process") as other:
        fill(other)
        other.compact(keep=0)
        first = other.changes(message="a1").items[0].revision
    Hand(store.backend, path).drop_change(first)
    found = kinds(check_store(url))
    assert "it is the first change of 'a1'" in found["transition"][0]


def test_a_file_that_changes_while_it_is_read_is_read_again(
    sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sqlite_check._Reader.read
    looks: list[int] = []

    def read(self: Any) -> Any:
        assert sorted(os.listdir(sqlite_file.parent)) == ["s", "s.lock"]  # no log of ours
        looks.append(1)
        if len(looks) == 1:
            os.utime(sqlite_file)
            return None, ["nonsense"], []
        return real(self)

    monkeypatch.setattr(sqlite_check._Reader, "read", read)
    assert check_store(f"sqlite:///{sqlite_file}").findings == ()
    assert len(looks) == 2


def test_a_file_that_never_rests_is_checked_in_a_copy(
    sqlite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lock of those who write, which is then free again."""
    real = sqlite_check._Reader.read
    looks: list[str] = []

    def read(self: Any) -> Any:
        looks.append(self._db.execute("PRAGMA database_list").fetchone()[2])
        if looks[-1] == str(sqlite_file):
            os.utime(sqlite_file, ns=(len(looks), len(looks)))
            return None, ["nonsense"], []
        return real(self)

    monkeypatch.setattr(sqlite_check._Reader, "read", read)
    assert check_store(f"sqlite:///{sqlite_file}").findings == ()
    assert str(sqlite_file) not in looks[-1]
    assert not os.path.exists(looks[-1])
    assert sorted(os.listdir(sqlite_file.parent)) == ["s", "s.lock"]
    with open_store(f"sqlite:///{sqlite_file}", durability="process") as store:
        store.create_thread()


def test_a_file_that_cannot_be_checked(sqlite_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Any) -> Any:
        os.utime(sqlite_file)
        return None, ["nonsense"], []

    monkeypatch.setattr(sqlite_check._Reader, "read", read)
    monkeypatch.setattr(sqlite_check, "_PATIENCE_US", 50_000)
    lock = FileLock(f"{sqlite_file}.lock")
    claim = lock.claim()
    claim.try_acquire()
    try:
        with pytest.raises(StoreBusy, match="could not be checked: it is being written"):
            check_store(f"sqlite:///{sqlite_file}")
    finally:
        claim.release()
        lock.close()


# -- what cannot be read, or not at this instant


@file_stores
def test_a_store_that_may_not_be_read_is_a_finding(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.url.partition("///")[2]
    store.close()

    def connect(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    def refuse(name: str, *_: object) -> int:
        assert name.startswith(path)
        raise PermissionError(errno.EACCES, "Permission denied", name)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        patch.setattr(os, "open", refuse)
        (finding,) = check_store(store.url).findings
    assert (finding.kind, finding.thing) == ("file", path)
    assert finding.reason.startswith("it cannot be read: ")
    assert "chmod" in finding.way_out


@file_stores
def test_permissions_are_a_matter_of_posix(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed(store)
    os.chmod(store.url.partition("///")[2], 0o666)  # all that Windows has
    assert not check_store(store).ok
    monkeypatch.setattr(checking, "os", SimpleNamespace(name="nt", path=os.path))
    assert check_store(store).ok


def test_damage_in_a_store_that_is_open_here_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as this process has it open, its log neither comes nor goes: it needs no copy."""
    monkeypatch.setattr(sqlite_check, "_look_at_a_copy", None)
    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        seed(store)
        with closing(sqlite3.connect(tmp_path / "s", isolation_level=None)) as db:
            db.execute("DROP INDEX messages_of_thread")
        found = kinds(check_store(store.url))
    assert found["schema"] == ["messages_of_thread: it is missing"]


def test_a_file_that_is_open_here_is_not_copied_byte_by_byte(tmp_path: Path) -> None:
    """Closing what it was read by would drop SQLite's locks."""
    with open_store(f"sqlite:///{tmp_path}/s", durability="process"):
        assert not sqlite_check._copied(str(tmp_path / "s"), str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
    os.unlink(tmp_path / "s.lock")
    assert sqlite_check._copied(str(tmp_path / "s"), str(tmp_path / "copy"))
    assert sorted(os.listdir(tmp_path)) == ["copy", "s"], "no file is made for a lock"


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    with open_store(f"sqlite:///{tmp_path}/s", durability="process") as store:
        seed(store)
    return tmp_path / "s"


@pytest.mark.parametrize("which", ["never rests", "has no log", "is gone"])
def test_what_becomes_of_a_file_while_it_is_copied(
    small_file: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    copyfile = shutil.copyfile
    monkeypatch.setattr(sqlite_check, "_TRIES", 0)
    if which == "never rests":
        monkeypatch.setattr(sqlite_check, "_PATIENCE_US", 50_000)
    looks: list[str] = []

    def copy(source: str, target: str) -> str:
        looks.append(source)
        if which == "never rests":
            os.utime(small_file, ns=(len(looks), len(looks)))
        elif which == "is gone":
            small_file.unlink()
        elif len(looks) == 1:  # the log that was there has been put into the file
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", source)
        return copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy)
    if which == "never rests":
        with pytest.raises(StoreBusy, match="could not be checked: it is being written"):
            check_store(f"sqlite:///{small_file}")
        assert looks
    elif which == "is gone":
        (finding,) = check_store(f"sqlite:///{small_file}").findings
        assert finding.reason == "it cannot be read: No such file or directory"
    else:
        assert check_store(f"sqlite:///{small_file}").findings == ()
        assert len(looks) == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_cannot_be_made(
    small_file: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(sqlite_check, "_TRIES", 0)

    def copy(source: str, target: str) -> str:
        raise OSError(code, os.strerror(code), target)

    monkeypatch.setattr(shutil, "copyfile", copy)
    if code == errno.ENOSPC:
        with pytest.raises(StoreError, match="no room for that beside .*: name another folder by"):
            check_store(f"sqlite:///{small_file}")
    else:
        (finding,) = check_store(f"sqlite:///{small_file}").findings
        assert finding.reason == "it cannot be read: Input/output error"


def test_two_files_that_are_being_replaced_are_read_again(
    tinydb_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tinydb_check._Reader._read_journal
    looks: list[int] = []

    def read(self: Any) -> Any:
        looks.append(1)
        if len(looks) == 1:
            os.utime(tinydb_file)
            self._add("journal", self._path, "nonsense")
            return None
        return real(self)

    monkeypatch.setattr(tinydb_check._Reader, "_read_journal", read)
    assert check_store(f"tinydb:///{tinydb_file}").findings == ()
    assert len(looks) == 2


# -- TinyDB's journal, line by line


def rewrite(journal: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    """Change what the lines of a journal say, each with a checksum that is right again."""
    lines = journal.read_bytes().splitlines()
    said = [json.loads(line[18:]) for line in lines]
    edit(said)
    link, out = int(lines[0][9:17], 16), b""
    for fields in said:
        out += (line := _encode(link, fields))
        link = int(line[:8], 16) if out != line else link
    journal.write_bytes(out)


def test_an_empty_journal_is_none(tinydb_file: Path) -> None:
    with open_store(f"tinydb:///{tinydb_file}", durability="process"):
        pass  # so that all is in the file
    journal_of(tinydb_file).write_bytes(b"")
    report = check_store(f"tinydb:///{tinydb_file}")
    assert (report.findings, report.revision) == ((), 7)


def test_a_journal_of_another_store_in_which_nothing_is(tinydb_file: Path) -> None:
    with open_store(f"tinydb:///{tinydb_file}", durability="process"):
        pass
    rewrite(journal_of(tinydb_file), lambda said: said[0].update(store_id="another"))
    assert check_store(f"tinydb:///{tinydb_file}").findings == ()


def test_tables_of_the_users_in_the_journal(tmp_path: Path) -> None:
    with open_store(f"tinydb:///{tmp_path}/s", durability="process") as store:
        seed(store)
        store.db.insert({"mine": 1})  # type: ignore[attr-defined]
        report = check_store(store.url)
        assert (report.findings, report.revision) == ((), 7)


def test_last_ids_that_are_none(tinydb_file: Path) -> None:
    Hand("tinydb", tinydb_file).edit(
        lambda content: content["claude_comms"]["1"]["last_ids"].update(yours=5, mine="5")
    )
    found = kinds(check_store(f"tinydb:///{tinydb_file}"))
    assert "the last id of 'mine' is '5'" in found["document"][0]


def _of_nobody(said: list[dict[str, Any]]) -> None:
    said[3]["ops"][0]["change"]["message_id"] = "nobody"


def _a_gap(said: list[dict[str, Any]]) -> None:
    said[3]["ops"][0]["change"]["revision"] = 9


def _longer(said: list[dict[str, Any]]) -> None:
    said[7]["ops"][0]["change"]["content_length"] += 1


@pytest.mark.parametrize(
    ("edit", "reason", "finding"),
    [
        (_of_nobody, "KeyError", "it does not fit what was before"),
        (_a_gap, "revision 9 follows 1", "revision 9"),
        (_longer, "7 characters instead of 8", "8 characters"),
    ],
)
def test_lines_of_a_journal_that_do_not_fit_together(
    tinydb_file: Path, edit: Callable[[list[dict[str, Any]]], None], reason: str, finding: str
) -> None:
    """Whole and linked, and not what any writer of ours wrote: a store refuses to go on."""
    rewrite(journal_of(tinydb_file), edit)
    with pytest.raises(StoreCorrupt, match="its changes do not fit together") as caught:
        open_store(f"tinydb:///{tinydb_file}", durability="process")
    assert reason in str(caught.value)
    assert finding in str(check_store(f"tinydb:///{tinydb_file}").findings)


# -- what is wrong in a snapshot, wherever it comes from


def snapshot_of_seed() -> StoreSnapshot:
    with MemoryConversationStore() as store:
        seed(store)
        return store.snapshot()


def reasons(snapshot: StoreSnapshot) -> list[str]:
    return [f"{finding.thing}: {finding.reason}" for finding in findings_of(snapshot)]


def test_what_a_snapshot_of_anybodys_can_hold() -> None:
    sound = snapshot_of_seed()
    assert reasons(sound) == []
    (thread,), (message, other), changes = sound.threads, sound.messages, sound.changes
    assert reasons(replace(sound, threads=(thread, thread))) == ["thread t: it is there 2 times"]
    assert "message m: it is there 2 times" in reasons(
        replace(sound, messages=(message, message, other))
    )
    for text in ("[]", "{", "[" * 100_000):
        assert reasons(replace(sound, threads=(replace(thread, metadata=text),))) == [
            "thread t: its metadata is no JSON object"
        ]
    swapped = (*changes[:4], changes[5], changes[4], changes[6])
    assert "revision 5: it comes after 6" in reasons(replace(sound, changes=swapped))
    assert "revision 7: it was given twice" in reasons(
        replace(sound, changes=(*changes, changes[6]))
    )
    early = replace(message, updated_us=message.created_us - 1)
    alone = [change for change in changes if change.message_id == "o"]
    assert "message m: it was changed before it was created" in reasons(
        replace(sound, messages=(early, other), changes=tuple(alone), trimmed=6)
    )


@pytest.mark.parametrize(("trimmed", "is_found"), [(2, False), (0, True)])
def test_a_step_may_be_missing_where_history_was_trimmed(trimmed: int, *, is_found: bool) -> None:
    sound = snapshot_of_seed()
    kept = tuple(change for change in sound.changes if change.revision != 2)
    found = reasons(replace(sound, changes=kept, trimmed=trimmed))
    said = "revision 3: it says that 'm' was processing before, and revision 1 made it pending"
    assert (said in found) is is_found


def test_metadata_that_is_nested_without_an_end() -> None:
    (message, _) = snapshot_of_seed().messages
    with pytest.raises(ValueError, match="metadata is nested too deep"):
        well_formed(replace(message, metadata="[" * 100_000))


def test_what_is_found_is_told_in_order(sqlite_file: Path) -> None:
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as db:
        for name in ("z", "b", "y"):
            db.execute(f"CREATE VIEW {name} AS SELECT 1")
        for number in (9_998, 9_997, 9_999):
            db.execute(f"INSERT INTO contents VALUES ({number}, 1, 'ghost')")
    things = [each.thing for each in check_store(f"sqlite:///{sqlite_file}").findings]
    assert things == ["b", "y", "z", "text 9997", "text 9998", "text 9999"]


def test_a_table_of_somebody_elses_that_numbers_its_rows(sqlite_file: Path) -> None:
    before = check_store(f"sqlite:///{sqlite_file}")
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as db:
        db.execute("CREATE TABLE mine (id INTEGER PRIMARY KEY AUTOINCREMENT)")
        db.execute("INSERT INTO mine VALUES (9999)")
    report = check_store(f"sqlite:///{sqlite_file}")
    assert (report.ok, report.revision) == (True, before.revision)
    with closing(sqlite3.connect(sqlite_file, isolation_level=None)) as db:
        db.execute("DELETE FROM sqlite_sequence WHERE name = 'changes'")
    assert "revision" in kinds(check_store(f"sqlite:///{sqlite_file}"))


@file_stores
@pytest.mark.parametrize("keep", [None, 5, 0])
def test_what_is_looked_at_is_what_the_store_holds(
    store: KeepingStore, tmp_path: Path, keep: int | None
) -> None:
    path = str(tmp_path / "s")
    with open_store(f"{store.backend}:///{path}", durability="process") as other:
        assert isinstance(other, KeepingStore)
        fill(other)
        other.add_message("t", "a", message_type="note", message_id="last", content="x\0y")
        if keep is not None:
            other.compact(keep=keep)
        expected = other.snapshot()
    look = {"sqlite": sqlite_check.look, "tinydb": tinydb_check.look}[store.backend]
    assert look(path) == (expected, [], [])


def test_what_sqlite_itself_finds_is_told(sqlite_file: Path) -> None:
    whole = bytearray(sqlite_file.read_bytes())
    for start in range(0, len(whole), 4096):
        page = whole[start : start + 4096]
        if page[0] == 0x0A:  # a leaf of an index, which now says otherwise than its table
            whole[start : start + 4096] = page.replace(b"open", b"opem")
    sqlite_file.write_bytes(whole)
    with closing(sqlite3.connect(sqlite_file)) as db:
        said = [line for (line,) in db.execute("PRAGMA integrity_check(20)")]
    assert any(line.startswith("row ") for line in said)
    found = kinds(check_store(f"sqlite:///{sqlite_file}"))["database"]
    assert found == [f"{sqlite_file}: SQLite's integrity check: {line}" for line in said]


@pytest.mark.parametrize(
    ("table", "column", "key", "thing"),
    [
        ("messages", "module_name", "message_id = 'q0'", "message q0"),
        ("messages", "message_type", "message_id = 'q0'", "message q0"),
        ("messages", "metadata", "message_id = 'q0'", "message q0"),
        ("messages", "error", "message_id = 'q0'", "message q0"),
        ("contents", "text", "number = 1", "message q0"),
        ("threads", "title", "thread_id = 't'", "thread t"),
        ("threads", "metadata", "thread_id = 't'", "thread t"),
        ("changes", "append", "revision = 9", "revision 9"),
        ("changes", "error", "revision = 9", "revision 9"),
        ("changes", "metadata", "revision = 9", "revision 9"),
    ],
)
def test_text_that_is_no_utf8_is_told_of_the_row_that_it_is_in(
    sqlite_file: Path, table: str, column: str, key: str, thing: str
) -> None:
    Hand("sqlite", sqlite_file).sql(
        f"UPDATE {table} SET {column} = CAST(x'22ff22' AS TEXT) WHERE {key}"
    )
    findings = check_store(f"sqlite:///{sqlite_file}").findings
    assert (findings[0].kind, findings[0].thing) == ("document", thing)
    assert findings[0].reason.startswith("its row cannot be read: ")
    assert "None" not in findings[0].reason


def test_a_change_says_which_message_is_missing(sqlite_file: Path) -> None:
    with closing(sqlite3.connect(sqlite_file)) as db:
        (number,) = db.execute("SELECT number FROM messages WHERE message_id = 'open'").fetchone()
    Hand("sqlite", sqlite_file).sql("DELETE FROM messages WHERE message_id = 'open'")
    report = check_store(f"sqlite:///{sqlite_file}")
    assert f"'number {number}', which does not exist" in str(kinds(report)["history"])


def test_any_mark_from_one_on_is_sound(sqlite_file: Path) -> None:
    Hand("sqlite", sqlite_file).sql("UPDATE changes SET mark = 1 WHERE revision = 2")
    assert check_store(f"sqlite:///{sqlite_file}").findings == ()


@pytest.fixture
def open_elsewhere(small_file: Path, tmp_path: Path) -> Path:
    """With a log and its index, as another process has it open, or has left it when killed."""
    (tmp_path / "elsewhere").mkdir()
    with open_store(f"sqlite:///{small_file}", durability="process") as store:
        store.create_thread(thread_id="more")
        for ending in ("", "-wal", "-shm"):
            shutil.copy(f"{small_file}{ending}", tmp_path / "elsewhere" / f"s{ending}")
    return tmp_path / "elsewhere" / "s"


@pytest.mark.parametrize("tells", [[False], [True, False]])
def test_only_what_looks_wrong_beside_others_is_looked_at_again(
    open_elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tells: list[bool]
) -> None:
    """It may come from a log that came or went meanwhile."""
    real = sqlite_check._Reader.read
    looks: list[bool] = []

    def read(self: Any) -> Any:
        looks.append(tells[len(looks)])
        return (None, ["nonsense"], []) if looks[-1] else real(self)

    monkeypatch.setattr(sqlite_check._Reader, "read", read)
    monkeypatch.setattr(sqlite_check, "_look_at_a_copy", None)
    report = check_store(f"sqlite:///{open_elsewhere}")
    assert (report.findings, report.threads) == ((), 2)
    assert looks == tells


def test_what_is_wrong_in_a_tinydb_file_is_told_with_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_store(f"tinydb:///{path}", durability="process") as store:
        seed(store)
    whole = path.read_bytes()

    def told(change: Callable[[Any], object]) -> list[tuple[str, str]]:
        path.write_bytes(whole)
        Hand("tinydb", path).edit(change)
        return [(each.thing, each.reason) for each in check_store(f"tinydb:///{path}").findings]

    def link(content: Any) -> None:
        content["claude_comms"]["1"]["link"] += 1

    for table, number in (("threads", "1"), ("messages", "2"), ("changes", "7")):
        thing, reason = told(lambda c, t=table, n=number: c[t].update({n: 5}))[0]  # type: ignore[misc]
        assert thing == f"document {number} of table {table!r}"
        assert reason.startswith("it cannot be read: TypeError(")
    assert (str(path), "its table 'messages' is missing") in told(lambda c: c.pop("messages"))
    seq = json.loads(whole)["claude_comms"]["1"]["seq"]
    assert told(link) == [
        (f"{path}.journal", f"it does not go on from change {seq}, where {path} ends")
    ]
    expected = json.loads(whole)["messages"]["2"]["deadline_at"]
    assert told(lambda c: c["messages"]["2"].update(deadline_at="2020")) == [
        ("message o", f"it says 2020, and its deadline is {expected}")
    ]
    path.write_bytes(whole[:-1])
    (finding,) = check_store(f"tinydb:///{path}").findings
    assert (finding.kind, finding.thing) == ("document", str(path))


def test_each_kind_of_finding_is_in_the_schema() -> None:
    schema = json.loads(files("pytest_claude_comms").joinpath("cli/schema.json").read_text())
    known = get_args(reports.FindingKind)
    assert list(known) == schema["$defs"]["damage"]["properties"]["kind"]["enum"]
    for plant, kind, _ in PLANTED.values():
        assert kind in known, plant


@file_stores
def test_a_report_of_what_is_not_there_counts_nothing(
    store: ConversationStore, tmp_path: Path
) -> None:
    for name, reason in (("none", "it does not exist"), ("folder", "it is no file")):
        if name == "folder":
            (tmp_path / name).mkdir()
        url = f"{store.backend}:///{tmp_path}/{name}"
        way_out = "look whether the URL is right; if it is, restore a backup"
        assert check_store(url) == CheckReport(
            url=url,
            backend=store.backend,
            threads=0,
            messages=0,
            changes=0,
            revision=0,
            trimmed=0,
            findings=(
                Finding(kind="file", thing=f"{tmp_path}/{name}", reason=reason, way_out=way_out),
            ),
            notes=(),
        )


def test_what_does_not_end_where_it_says() -> None:
    sound = snapshot_of_seed()
    sound.check()
    empty = StoreSnapshot(store_id="x", threads=(), messages=(), changes=(), revision=0, trimmed=0)
    empty.check()
    assert empty.others == ()
    with pytest.raises(ValueError, match=r"^its last revision is 7, not 8$"):
        replace(sound, revision=8).check()
    with pytest.raises(ValueError, match=r"^its last revision is 7, not 6$"):
        replace(sound, revision=6).check()
    replace(sound, changes=(), trimmed=7).check()
    replace(sound, changes=sound.changes[5:], trimmed=6).check()
    with pytest.raises(ValueError, match=r"^revision 7 follows 0$"):
        replace(sound, changes=sound.changes[6:], trimmed=5).check()
    with pytest.raises(ValueError, match=r"^revision 7 follows 7$"):
        replace(sound, changes=(*sound.changes, sound.changes[6])).check()
    with pytest.raises(ValueError, match=r"^message 'm' is of an unknown thread$"):
        replace(sound, threads=()).check()
    with pytest.raises(ValueError, match=r"^revision 1 is of an unknown message$"):
        replace(sound, messages=sound.messages[1:]).check()
    for field in ("threads", "messages"):
        rows: Any = getattr(sound, field)
        doubled: dict[str, Any] = {field: (*rows, rows[0])}
        with pytest.raises(ValueError, match=r"^an id is there twice$"):
            replace(sound, **doubled).check()


@posix
@pytest.mark.parametrize("backend", ["sqlite", "tinydb"])
def test_each_file_beside_a_store_is_looked_at_whichever_are_there(
    tmp_path: Path, backend: str
) -> None:
    path = str(tmp_path / "s")
    with open_store(f"{backend}:///{path}", durability="process") as store:
        seed(store)
    if backend == "tinydb":
        os.unlink(f"{path}.journal")
    os.chmod(f"{path}.lock", 0o604)
    left = {"sqlite": [".backup"], "tinydb": [".new", ".journal.new", ".backup"]}[backend]
    for ending in left:
        Path(f"{path}{ending}").write_text("half")
    report = check_store(f"{backend}:///{path}")
    assert report.findings == (
        Finding(
            kind="permissions",
            thing=f"{path}.lock",
            reason="its mode is 0604: others than its owner may use it",
            way_out=f"chmod 600 {path}.lock",
        ),
    )
    assert report.notes[-len(left) :] == tuple(
        f"{path}{ending} was left behind by a kill, or is being written now" for ending in left
    )


def test_an_unknown_status_is_told_as_it_stands_there(sqlite_file: Path) -> None:
    Hand("sqlite", sqlite_file).sql("UPDATE messages SET status = 'done' WHERE message_id = 'q0'")
    finding = check_store(f"sqlite:///{sqlite_file}").findings[0]
    with pytest.raises(StoreCorrupt) as caught:
        status_of("done", str(sqlite_file))
    assert finding.thing == "message q0"
    assert finding.reason == f"its row cannot be read: {caught.value.reason}"
