"""The fixture ``faults``: all is undone, shown where a test fails, and no test is fooled."""

from __future__ import annotations

import sys

import pytest

from tests.plugin.conftest import Run

posix = pytest.mark.skipif(
    sys.platform == "win32", reason="there no open file can be taken away or made to fail"
)


@posix
def test_a_failure_tells_of_them_and_they_are_undone_by_then(run: Run) -> None:
    result = run(
        """
        def test_it(clock, faults, store, poller):
            thread = store.create_thread()
            store.add_message(thread, "a", status="pending", message_id="answer-1")
            poller.track("answer-1", on_event=faults.raising(KeyError("boom"), at=7, may_miss=True))
            faults.slow(store, by=1, for_=3)
            clock.advance(2)
            store.cursor()
            clock.advance(2)
            with faults.busy(store, may_miss=True):
                clock.advance(1)
            faults.appears(store, after=60)
            faults.delete(store)
            assert clock.elapsed == 7
        """
    )
    result.assert_outcomes(failed=2)
    for ending in ("json", "db"):
        result.stdout.fnmatch_lines(
            [
                "*assert 6.0 == 7",
                "*claude-comms: faults -*",
                "BEGAN   UNDONE  MET    FAULT",
                "+0.0 s  +6.0 s  never  raising: a callback raises KeyError('boom') at call 7 *",
                "+0.0 s  +3.0 s  1      slow: each operation of * takes 1.0 s for 3.0 s",
                f"+5.0 s  +6.0 s  never  busy: * holds the write lock of *store.{ending}",
                "+6.0 s  +6.0 s  never  appears: message * appears after 60.0 s",
                f"+6.0 s  +6.0 s  1      delete: the files of *store.{ending} are gone",
                "*claude-comms: * store -*",
                "answer-1 in thread *",
                "*#1*pending",
            ]
        )


@posix
def test_nothing_of_them_reaches_the_next_test(run: Run) -> None:
    result = run(
        """
        import os, pytest
        from pathlib import Path
        from pytest_claude_comms import StoreError, open_store

        @pytest.fixture(scope="module", params=["sqlite", "tinydb"])
        def shared(request, tmp_path_factory):
            folder = tmp_path_factory.mktemp("shared")
            with open_store(f"{request.param}:///{folder}/s") as store:
                store.create_thread(thread_id="t")
                yield store

        BEGIN = {
            "busy": lambda faults, store: faults.busy(store),
            "slow": lambda faults, store: faults.slow(store, by=1000),
            "write_fails": lambda faults, store: faults.write_fails(store, at=1, forever=True),
            "delete": lambda faults, store: faults.delete(store),
            "replace": lambda faults, store: faults.replace(store),
            "tear": lambda faults, store: faults.tear(store, keep=0),
        }

        @pytest.mark.parametrize("kind", BEGIN)
        def test_breaks(shared, faults, kind):
            shared.create_thread()
            BEGIN[kind](faults, shared)
            raise ZeroDivisionError

        @pytest.mark.parametrize("kind", BEGIN)
        def test_is_broken_until_its_end(shared, faults, kind):
            shared.create_thread()
            BEGIN[kind](faults, shared).may_miss = True

        def test_works(shared):
            shared.add_message("t", "a")
            with open_store(shared.url) as other:
                assert len(other.messages()) == 1
                assert len(other.threads()) == 13
            names = os.listdir(Path(shared.url.partition(":///")[2]).parent)
            assert not [name for name in names if name.startswith(".")]
            assert not vars(shared).keys() & {"cursor", "_commit", "create_thread"}
        """,
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(failed=12, passed=14)


@posix
def test_one_that_nobody_met_is_an_error_of_a_test_that_passed(run: Run) -> None:
    result = run(
        """
        import pytest

        def test_missed(store, faults):
            faults.write_fails(store, at=3)
            faults.raising()
            store.create_thread()

        def test_allowed(store, faults):
            faults.write_fails(store, at=3, may_miss=True)

        def test_failed(store, faults):
            faults.write_fails(store, at=3)
            assert store.threads()

        def test_skipped(store, faults):
            faults.write_fails(store, at=3)
            pytest.skip("for once")

        @pytest.mark.xfail(strict=True)
        def test_xfailed(store, faults):
            faults.write_fails(store, at=3)
            assert store.threads()
        """,
        "--claude-comms-stores=sqlite",
    )
    result.assert_outcomes(passed=2, errors=1, failed=1, skipped=1, xfailed=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_missed*",
            "faults.write_fails: write 3 to *store.db fails with EIO: it was never met, so nothing "
            "was tested by it; with may_miss=True that is no error",
            "faults.raising: a callback raises RuntimeError(*): it was never met*",
        ]
    )


def test_what_it_raises_in_a_callback_fails_no_test_and_all_else_does(run: Run) -> None:
    result = run(
        """
        def test_expected(store, poller, faults):
            raising = faults.raising(KeyError("expected"))
            message = store.add_message(store.create_thread(), "a", status="pending")
            poller.track(message, on_status=raising)
            poller.flush()
            assert raising.met == 1

        def test_expected_on_a_clock(clock, store, poller, faults):
            test_expected(store, poller, faults)
            clock.advance(1)

        def test_not_expected(store, poller, faults):
            message = store.add_message(store.create_thread(), "a", status="pending")
            poller.track(message, on_status=faults.raising(KeyError("expected")))
            poller.track(message, on_status=lambda event: {}["not expected"])
            poller.flush()

        def test_not_expected_on_a_clock(clock, store, poller, faults):
            test_not_expected(store, poller, faults)
            clock.advance(1)
        """,
        "--claude-comms-stores=memory",
    )
    result.assert_outcomes(passed=3, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*KeyError: 'not expected'*"])
    result.stdout.no_fnmatch_line("*KeyError: 'expected'*")


def test_a_test_that_ends_in_the_middle_of_everything_leaves_nothing(run: Run) -> None:
    """In fake time and in real time; the leak check and the folder's agree."""
    result = run(
        """
        import os, threading

        def begin_all(store, poller, faults):
            message = store.add_message(store.create_thread(), "a", status="pending")
            poller.track(message, on_event=faults.blocking(may_miss=True))
            faults.appears(store, after=5000, may_miss=True)
            faults.writer_dies(store, message, after=9, every=100, may_miss=True)
            faults.slow(store, by=0.01, for_=5000, may_miss=True)
            faults.busy(store, for_=5000, may_miss=True)

        def test_in_real_time(store, poller, faults):
            begin_all(store, poller, faults)

        def test_in_fake_time(store, poller, clock, faults):
            begin_all(store, poller, faults)
            clock.advance(50)

        def test_failed(store, poller, clock, faults):
            begin_all(store, poller, faults)
            clock.advance(50)
            raise ZeroDivisionError

        def test_nothing_is_left():
            assert [t.name for t in threading.enumerate()] == ["MainThread"]
            try:
                children = os.waitpid(-1, os.WNOHANG)
            except (ChildProcessError, AttributeError):  # there is none; there is no waitpid
                return
            raise AssertionError(children)
        """,
        "-p",
        "no:randomly",
        "-W",
        "error",
    )
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.no_fnmatch_line("*left behind*")


def test_a_setup_that_fails_after_one_began(run: Run) -> None:
    """There is no call then, at whose end all is undone; and the store is closed after that."""
    result = run(
        """
        import pytest

        @pytest.fixture
        def begun(faults, store):
            faults.busy(store)

        @pytest.fixture
        def fails(begun):
            raise ZeroDivisionError

        def test_it(faults, store, fails):
            pass
        """
    )
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*claude-comms: faults*", "*not yet *busy: *"])
    result.stdout.no_fnmatch_line("*left behind*")


def test_under_either_name_in_any_order_and_beside_ones_own(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_claude_comms.testing import Faults

        @pytest.fixture
        def faults():
            return "mine"

        def test_it(faults, claude_comms_faults, claude_comms_clock, claude_comms_store):
            assert faults == "mine"
            assert isinstance(claude_comms_faults, Faults)
            with claude_comms_faults.slow(claude_comms_store, by=3):
                claude_comms_store.create_thread()
            assert claude_comms_clock.elapsed == 3

        def test_without_a_store(claude_comms_faults):
            assert claude_comms_faults.record == ()

        def test_late(request, claude_comms_store):
            request.getfixturevalue("claude_comms_faults").busy(claude_comms_store)
            raise ZeroDivisionError
        """,
        "-n",
        "1",
    )
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["*claude-comms: faults*", "*busy: *"])
