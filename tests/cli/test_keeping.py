"""``copy``, ``backup``, ``check`` and ``compact`` as a person and a script see them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from pytest_claude_comms import ConversationStore, open_store
from pytest_claude_comms.cli.keeping import Keep
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.testing import FakeClock
from tests.cli.conftest import Run, Shell, Valid
from tests.stores.keeping_kit import everything, file_stores, fill, trimmed_by
from tests.stores.third_party_kit import FOLDER, install


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@file_stores
@pytest.mark.parametrize("target", ["sqlite", "tinydb"])
def test_copy(store: ConversationStore, here: Path, run: Run, valid: Valid, target: str) -> None:
    fill(store)
    url = f"{target}:///{here}/copy"
    done = run("copy", store.url, url, "--json")
    assert done.code == 0
    valid(done.document)
    assert done.document["revision"] == store.cursor()
    assert (done.document["source"], done.document["target"]) == (store.url, url)
    with open_store(url) as copy:
        assert everything(copy) == everything(store)
    again = run("copy", store.url, url)
    assert (again.code, again.out) == (6, "")
    assert "is not empty" in again.err


def test_copy_in_words(here: Path, run: Run) -> None:
    with open_store("tinydb:///a.json") as store:
        fill(store)
        store.db.table("mine").insert({"a": 1})  # type: ignore[attr-defined]
    done = run("copy", "a.json", "sqlite:///b.db")
    assert done.code == 0
    assert "2 threads, 7 messages" in done.out
    assert "read back and the same: sha256 " in done.out
    assert done.err == "not copied, since it is no conversation: mine\n"
    assert run("copy", "a.json", "sqlite:///c.db", "--quiet").err == ""


def test_copy_of_what_is_not_there(here: Path, run: Run) -> None:
    for argv, code, said in [
        (("copy", "none.json", "sqlite:///b.db"), 6, "there is no store at"),
        (("copy", "tinydb:///none.json", "sqlite:///b.db"), 6, "there is no store at"),
        (("copy", "memory:", "sqlite:///b.db"), 2, "name a store that has a file"),
        (("copy", "sqlite:///b.db", "memory:"), 6, "there is no store at"),
        (("copy", "sqlite:///b.db"), 2, "DST_URL"),
        (("copy", "none.db", "new.db"), 6, "SRC_URL is the store to copy from, which has to be"),
        (("copy", "sqlite:///none.db", "new.db"), 6, "SRC_URL is the store to copy from, which"),
    ]:
        done = run(*argv)
        assert (done.code, done.out) == (code, "")
        assert said in done.err
        assert "make one" not in done.err
    assert os.listdir(here) == []


def test_copy_of_a_kind_that_cannot_be_copied_makes_no_target(
    here: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty store would be left behind, and be the one that the next command finds."""
    for folder in (FOLDER, here / "site"):
        monkeypatch.syspath_prepend(str(folder))
    install(here / "site", "plain-store", "plain = plain_store:open_plain_store")
    with open_store("plain:///notes") as store:
        store.create_thread("mine")
    before = sorted(os.listdir(here))
    done = run("copy", "plain:///notes", "sqlite:///copy.db")
    assert (done.code, done.out) == (6, "")
    assert "a store of the kind 'plain' has no snapshot()" in done.err
    assert sorted(os.listdir(here)) == before


@file_stores
def test_backup(store: ConversationStore, here: Path, run: Run, valid: Valid) -> None:
    fill(store)
    done = run("backup", "b", "--json", store=store)
    assert done.code == 0
    valid(done.document)
    assert done.document["bytes"] == (here / "b").stat().st_size
    assert run("check", "--store", "b").code == 0
    again = run("backup", "b", store=store)
    assert (again.code, again.out) == (6, "")
    assert "exists already" in again.err
    assert "--overwrite" in again.err
    over = run("backup", "b", "--overwrite", store=store)
    assert over.code == 0
    assert f"backed up {store.url}" in over.out


def test_backup_of_a_store_in_memory(here: Path, run: Run) -> None:
    with open_store("memory:") as store:
        assert run("backup", "b", store=store).code == 6


@file_stores
def test_check(store: ConversationStore, here: Path, run: Run, valid: Valid) -> None:
    fill(store)
    done = run("check", "--json", store=store)
    assert done.code == 0
    valid(done.document)
    assert done.document["ok"] is True
    assert done.document["changes"] == store.cursor()
    words = run("check", store=store)
    assert (words.code, words.err) == (0, "")
    assert "all in order (2 threads, 7 messages" in words.out
    store.compact(keep=3)
    assert f"history trimmed up to {store.cursor() - 3}" in run("check", store=store).out


def test_check_of_a_damaged_store(here: Path, run: Run, valid: Valid, shell: Shell) -> None:
    with open_store("sqlite:///s.db") as store:
        fill(store)
    with closing(sqlite3.connect("s.db", isolation_level=None)) as db:
        db.execute("UPDATE messages SET status = 'failed', error = ? WHERE message_id = 'q0'",
                   ("\x1b]52;c;x\x07",))  # fmt: skip
    done = run("check", "--json")
    assert done.code == 6
    valid(done.document)
    assert {finding["kind"] for finding in done.document["findings"]} == {"message"}
    words = shell("check")
    assert words.code == 6
    assert "message: message q0: its status is failed, and complete by its last" in words.out
    assert words.out.count("what to do: ") == 1
    assert "2 findings" in words.out
    assert "\x1b" not in words.out + words.err
    assert sorted(os.listdir(here)) == ["s.db", "s.db.lock"]


def test_an_id_forges_no_line(here: Path, run: Run) -> None:
    evil = "x\nsqlite:///s.db: all in order (1 thread, 1 message, 1 change, revision 1)"
    with open_store("sqlite:///s.db") as store:
        store.add_message(store.create_thread("t"), "m", "hi", status="pending", message_id=evil)
    with closing(sqlite3.connect("s.db", isolation_level=None)) as db:
        db.execute("UPDATE messages SET status = 'complete', deadline_us = NULL")
    done = run("check")
    assert done.code == 6
    assert not [line for line in done.out.splitlines() if "all in order" in line[:40]]
    assert "message x\\nsqlite" in done.out


def test_check_explains_what_only_looks_wrong(here: Path, run: Run, valid: Valid) -> None:
    with open_store("tinydb:///s.json") as store:
        fill(store)
    with open("s.json.journal", "ab") as file:
        file.write(b"half a li")
    done = run("check")
    assert done.code == 0
    assert "note: the last 9 bytes" in done.err
    valid(run("check", "--json").document)
    assert run("check", "--quiet").err == ""


def test_check_of_wrong_urls(here: Path, run: Run) -> None:
    assert run("check", "--store", "sqlite:///none.db").code == 6
    assert run("check", "--store", "sqlite:///").code == 2
    assert run("check", "--store", "theirs:/x").code == 2
    assert (
        "'theirs:/x' is no store URL; there are memory:" in run("check", "--store", "theirs:/x").err
    )


@file_stores
def test_compact(store: ConversationStore, clock: FakeClock, run: Run, valid: Valid) -> None:
    fill(store)
    last, floor = store.cursor(), trimmed_by(store, 10)
    done = run("compact", "--keep", "10", "--json", store=store)
    assert done.code == 0
    valid(done.document)
    assert done.document["trimmed"] == floor > 0
    clock.advance(3_601)
    floor = trimmed_by(store, 0, since=floor)
    words = run("compact", "--keep", "1h", store=store)
    assert words.code == 0
    assert check_store(store).trimmed == floor
    assert f"history trimmed up to revision {floor}; " in words.out
    assert run("compact", store=store).code == 2
    for keep in ("-1", "1.5", "3x", "", "soon"):
        wrong = run("compact", "--keep", keep, store=store)
        assert wrong.code == 2
        assert f"{keep!r} is no number of changes and no span: 1000, 12h, 30d" in wrong.err
    assert store.cursor() == last


def test_compact_says_so_where_nothing_was_given_back(here: Path, run: Run) -> None:
    with open_store("sqlite:///s.db") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "m", status="pending", message_id="m")
        store.update_message("m", status="complete")
    before = (here / "s.db").stat().st_size
    done = run("compact", "--keep", "0")
    after = (here / "s.db").stat().st_size
    assert done.out.endswith(
        f"; {before:,} bytes before, {after:,} now: there was no space to give back\n"
    )
    assert after >= before, "so few changes free no page, and up to where they went takes one"
    with open_store("sqlite:///s.db") as store:
        store.add_message("t", "m", status="pending", message_id="n")
        for _ in range(20):
            store.update_message("n", content="x" * 10_000)
        store.update_message("n", status="complete", content="")
    assert run("compact", "--keep", "0").out.endswith(f"{after:,} now\n")


def test_compact_says_why_a_file_stays_large(here: Path, run: Run) -> None:
    with open_store("sqlite:///s.db") as store:
        fill(store)
        with closing(sqlite3.connect("s.db", isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM changes").fetchone()
            done = run("compact", "--keep", "0", store=store)
            assert done.code == 0
            assert "note: it is larger than it could be: somebody is reading" in done.err
            reader.execute("ROLLBACK")


def test_what_to_keep() -> None:
    keep = Keep()
    assert keep.convert("1000", None, None) == 1_000
    assert keep.convert("30d", None, None) == timedelta(days=30)
    assert keep.convert("1.5h", None, None) == timedelta(minutes=90)
    assert keep.convert(5, None, None) == 5


@pytest.mark.parametrize("name", ["copy", "backup", "check", "compact"])
def test_help_has_examples(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.code == 0
    assert f"claude-comms {name}" in done.out.partition("Examples:")[2]
