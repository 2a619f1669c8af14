"""The matrix on stores of others: by factory, by entry point, and of the original shapes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import ROOT, Run
from tests.stores.third_party_kit import FOLDER, install

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the example locks by fcntl")

DOWNSTREAM_LIKE = """
from pytest_claude_comms import MessagePoller, message_id_of
from pytest_claude_comms.testing import assert_status_sequence

def test_it_times_out(store, poller, clock):
    thread = store.create_thread("demo", modules=["marker", "arangodb"])
    answer = store.add_message(thread, "arangodb", status="pending", timeout=30)
    clock.at(3, store.update_message, answer, status="processing")
    assert_status_sequence(poller.wait(answer, timeout=60), "pending -> processing -> timeout")
    assert clock.elapsed == 30

def test_the_id_is_a_key(store):
    answer = store.add_message(store.create_thread("demo"), "arangodb", status="pending")
    assert {answer: 1}[message_id_of(answer)] == 1
"""

ORIGINALS = f"""
import sys
sys.path.append({str(ROOT)!r})
from fixtures.original_stores.sqlite_store import SQLiteConversationStore
from fixtures.original_stores.tinydb_store import ConversationStore
from pytest_claude_comms import adapt_store

def tinydb(folder, *, clock, durability):
    return adapt_store(ConversationStore(folder / "store.json"), clock=clock)

def sqlite(folder, *, clock, durability):
    return adapt_store(SQLiteConversationStore(folder / "store.db"), clock=clock)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> Path:
    """On the path of the runs that a test starts; ``run`` has set PYTHONPATH before."""
    site = tmp_path / "site"
    site.mkdir()
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(site), str(FOLDER)])
    monkeypatch.setenv("PYTHONPATH", path)
    return site


@pytest.fixture
def plain(site: Path) -> None:
    install(site, "plain-store", "plain = plain_store:open_plain_store")


def test_a_store_by_entry_point(run: Run, plain: None) -> None:
    result = run(DOWNSTREAM_LIKE, "--claude-comms-stores=plain,memory", "-rA")
    result.assert_outcomes(passed=2, failed=2)  # a Message is no str
    result.stdout.fnmatch_lines_random(["PASSED *::test_it_times_out[[]plain]*"])
    result = run(
        "", "--claude-comms-stores=plain,memory", "--claude-comms-returns=str", "-n", "1"
    )  # fmt: skip
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["memory *str *2", "plain *str *2"])


def test_a_store_by_factory_by_ini_value_and_marker(
    run: Run, plain: None, pytester: pytest.Pytester
) -> None:
    pytester.makeini("[pytest]\nclaude_comms_stores = plain_store:make_store")
    result = run(
        """
        import pytest

        def test_it(store, clock):
            assert store.backend == "plain"
            assert store.clock is clock

        @pytest.mark.claude_comms(stores=["plain"])
        def test_marked(store):
            assert store.backend == "plain"
            assert store.url.endswith("/store")
        """,
        "-v",
    )
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines_random(
        ["*test_it[[]plain_store:make_store]*", "*test_marked[[]plain]*"]
    )


def test_the_failure_page_of_such_a_store(run: Run, plain: None) -> None:
    result = run(
        """
        def test_it(store):
            store.add_message(store.create_thread("demo"), "x", status="pending")
            assert False
        """,
        "--claude-comms-stores=plain",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*claude-comms: plain store*", "plain:///*", "*#1*pending"])


def test_an_unknown_name_lists_what_is_known_and_who_brings_it(run: Run, plain: None) -> None:
    result = run(DOWNSTREAM_LIKE, "--claude-comms-stores=plane")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*no store 'plane'; there are memory, tinydb, sqlite, plain (from plain-store 1.0), and *"]
    )


def test_a_broken_one_is_a_usage_error_where_it_is_named_and_nowhere_else(
    run: Run, plain: None, site: Path
) -> None:
    install(site, "bad-store", "bad = no_such_module:make")
    result = run(DOWNSTREAM_LIKE, "--claude-comms-stores=plain,bad")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'bad' is brought by bad-store 1.0*ModuleNotFoundError*"])
    run("", "--claude-comms-stores=plain", "-k", "times_out").assert_outcomes(
        passed=1, deselected=1
    )


def test_code_that_assumes_one_shape_is_found_on_stores_of_the_original_shapes(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(theirs=ORIGINALS)
    pytester.makeini("[pytest]\npythonpath = .\nfilterwarnings = error")
    source = """
        from pytest_claude_comms import message_id_of

        def test_assumes_a_str(store):
            answer = store.add_message(store.create_thread("demo"), "x", status="pending")
            assert answer.upper()

        def test_assumes_a_dict(store):
            answer = store.add_message(store.create_thread("demo"), "x", status="pending")
            assert answer["message_id"]

        def test_takes_what_comes(store, poller, clock):
            thread = store.create_thread("demo")
            answer = store.add_message(thread, "x", status="pending")
            clock.at(3, store.original.update_message_status, message_id_of(answer), "complete")
            assert poller.wait(answer, timeout=9).statuses == ["pending", "complete"]
        """
    stores = "--claude-comms-stores=theirs:tinydb,theirs:sqlite"
    # One that has a shape of its own keeps it, whatever the others are asked to return.
    run(source, stores, "--claude-comms-returns=str").assert_outcomes(passed=4, failed=2)
    result = run(source, stores, "-rA")
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "FAILED *::test_assumes_a_str[[]theirs:tinydb]*",
            "FAILED *::test_assumes_a_dict[[]theirs:sqlite]*",
            "*not promised: it has no change feed*",
            "add_message of this store returns what its object's own does, as stores in the wild*",
            "theirs:sqlite *its own *2 *1",
            "theirs:tinydb *its own *2 *1",
            "2 divergences:",
            "*failed on theirs:tinydb (add_message returns what its object's own does); *",
        ]
    )
    # And without the original stores: the same two are found by what ours can be made to return.
    result = run(
        source, "--claude-comms-stores=tinydb,sqlite", "--claude-comms-returns=native", "-rA",
        "-k", "assumes_a_",
    )  # fmt: skip
    result.assert_outcomes(passed=2, failed=2, deselected=2)
    result.stdout.fnmatch_lines_random(
        ["FAILED *::test_assumes_a_str[[]tinydb]*", "FAILED *::test_assumes_a_dict[[]sqlite]*"]
    )
