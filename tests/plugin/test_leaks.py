"""What a test leaves behind fails that test, and no other."""

from __future__ import annotations

import sys

import pytest

from tests.plugin.conftest import Run


def test_a_store_that_was_not_closed(run: Run) -> None:
    result = run(
        """
        from pytest_claude_comms import open_store
        kept = []

        def test_leaks(tmp_path):
            kept.append(open_store(f"sqlite:///{tmp_path}/s.db"))

        def test_next():
            pass

        def test_let_go(tmp_path):
            open_store(f"tinydb:///{tmp_path}/s.json")

        def test_closed(tmp_path):
            with open_store(f"tinydb:///{tmp_path}/s.json") as store:
                store.create_thread()
        """
    )
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaks*",
            "*left behind by this test:*",
            "*s.db was not closed*",
        ]
    )


def test_a_started_poller(run: Run) -> None:
    result = run(
        """
        from pytest_claude_comms import MessagePoller, MemoryConversationStore
        kept = []

        def test_leaks():
            poller = MessagePoller(MemoryConversationStore())
            poller.start()
            kept.append(poller)

        def test_next():
            pass
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*a poller of memory: is still running*"])


@pytest.mark.parametrize("clock", ["", ", clock"])
def test_a_started_poller_that_nobody_holds(run: Run, clock: str) -> None:
    """Its thread goes on."""
    result = run(
        f"""
        import gc
        import pytest
        from pytest_claude_comms import LegacyReturns, MessagePoller

        def start(store):
            MessagePoller(store).start()

        @pytest.mark.parametrize("number", range(10))
        def test_leaks(store, number{clock}):
            start(store)
            gc.collect()

        def test_used(store{clock}):
            poller = MessagePoller(store)
            poller.start()
            message = store.add_message(store.create_thread(), "a", status="pending")
            poller.track(message)
            store.update_message(message, status="complete")
            assert poller.wait(message, timeout=5).is_terminal

        def test_of_the_store_in_another_shape(store{clock}):
            start(LegacyReturns(LegacyReturns(store, "dict"), "str"))

        def test_next(store{clock}):
            poller = MessagePoller(store)
            poller.start()
            poller.stop()
        """
    )
    result.assert_outcomes(passed=26, errors=24)
    result.stdout.fnmatch_lines(["*a poller of sqlite:* is still running: use it in a with*"])
    result.stdout.no_fnmatch_line("*this should be gone*")


@pytest.mark.parametrize("clock", ["", ", clock"])
def test_a_started_poller_of_the_test_s_own_store(run: Run, clock: str) -> None:
    """It ends with the store, at some time: whether it has by now must not decide."""
    result = run(
        f"""
        import pytest
        from pytest_claude_comms import MessagePoller
        kept = []

        @pytest.mark.parametrize("number", range(20))
        def test_leaks(store, number{clock}):
            kept.append(MessagePoller(store))
            kept[-1].start()

        def test_fails(store{clock}):
            kept.append(MessagePoller(store))
            kept[-1].start()
            assert not store

        def test_next(store{clock}):
            with MessagePoller(store):
                pass
        """
    )
    result.assert_outcomes(passed=42, errors=40, failed=2)
    result.stdout.fnmatch_lines(["*a poller of sqlite:* is still running: use it in a with*"])
    result.stdout.no_fnmatch_line("*this should be gone*")


def test_a_callback_that_never_returns(run: Run) -> None:
    result = run(
        """
        import threading
        from pytest_claude_comms import MessagePoller, MemoryConversationStore
        stop = threading.Event()

        def test_leaks():
            store = MemoryConversationStore()
            message = store.add_message(store.create_thread(), "a")
            MessagePoller(store).track(message, on_event=lambda event: stop.wait(30))

        def test_next():
            stop.set()
        """
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*thread 'claude-comms run_callbacks' is still running*"])


def test_what_a_wider_fixture_opened_is_no_leak(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_claude_comms import MessagePoller, open_store

        @pytest.fixture(scope="module")
        def shared(tmp_path_factory):
            with open_store(f"sqlite:///{tmp_path_factory.mktemp('x')}/s.db") as store:
                with MessagePoller(store):
                    yield store

        def test_one(shared): shared.create_thread()
        def test_two(shared): assert len(shared.threads()) == 1
        """
    )
    result.assert_outcomes(passed=2)


def test_a_raising_callback_fails_the_test(run: Run) -> None:
    result = run(
        """
        def test_it(store, poller):
            message = store.add_message(store.create_thread(), "a", status="pending")
            poller.track(message, on_status=lambda event: {}["no such key"])
            poller.flush()

        def test_on_a_clock(store, poller, clock):
            message = store.add_message(store.create_thread(), "a", status="pending")
            poller.track(message, on_status=lambda event: {}["no such key"])
            clock.advance(0)

        def test_next(store):
            pass
        """,
        "--claude-comms-stores=memory",
    )
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_it*", "*KeyError: 'no such key'*"])
    result.stdout.fnmatch_lines(["*_ test_on_a_clock*", "*KeyError: 'no such key'*"])


def test_a_stuck_actor_fails_its_test_only(run: Run) -> None:
    result = run(
        """
        import threading, pytest
        lock = threading.Lock()
        lock.acquire()

        def test_stuck(clock):
            clock.spawn(lock.acquire, timeout=2)
            clock.advance(1)

        def test_next(clock):
            clock.advance(1)
            assert clock.elapsed == 1
        """,
        "--claude-comms-watchdog=0.3",
    )
    result.stdout.fnmatch_lines(["*ClockDeadlock*lock.acquire*has not come back*0.3 real seconds*"])
    assert "test_next" not in result.stdout.str().partition("short test summary")[2]


def test_a_run_of_claude_that_nobody_waited_for(run: Run) -> None:
    """On both clocks, in whatever order the fixtures are ended; and never with the next test."""
    result = run(
        """
        from pytest_claude_comms import ask_module

        def test_in_fake_time(store, claude, clock, tmp_path):
            claude.hangs()
            ask_module(store, "a", tmp_path, "q", wait=False)

        def test_failed(store, claude, clock, tmp_path):
            claude.hangs()
            ask_module(store, "a", tmp_path, "q", wait=False)
            assert "the only error"  == ""

        def test_in_real_time(store, claude, tmp_path):
            claude.hangs()
            ask_module(store, "a", tmp_path, "q", wait=False)

        def test_store_last(claude, store, tmp_path):
            claude.hangs()
            ask_module(store, "a", tmp_path, "q", wait=False)

        def test_waited_for(claude, store, clock, tmp_path):
            claude.replies("a", after=40)
            ask_module(store, "a", tmp_path, "q", wait=False).wait()
        """,
        "--claude-comms-stores=memory",
    )
    result.assert_outcomes(passed=4, failed=1, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*ERROR at teardown of test_in_fake_time*",
            "*ERROR at teardown of test_in_real_time*",
            "*ERROR at teardown of test_store_last*",
            "*the run of Claude that answers message*end it with reply.cancel()*",
        ]
    )


def test_a_teardown_that_fails_keeps_its_leaks_to_itself(run: Run) -> None:
    """It fails by its own error; what is wrong besides is told in a section, once."""
    result = run(
        """
        import pytest
        from pytest_claude_comms import SystemClock, open_store
        kept = []

        def planted():
            raise RuntimeError("planted")

        @pytest.fixture
        def fails():
            yield
            raise ValueError("the error of the teardown")

        def test_leaks(fails, tmp_path):
            kept.append(open_store(f"sqlite:///{tmp_path}/s.db"))
            SystemClock().spawn(planted).join()

        def test_next():
            pass
        """,
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_leaks*",
            "*ValueError: the error of the teardown",
            "*claude-comms: besides*",
            "left behind by this test:",
            "*s.db was not closed*",
            "raised in *planted*, and seen by nobody:",
            "RuntimeError: planted",
        ]
    )


def test_an_error_of_a_thread_does_not_hide_what_was_left(run: Run) -> None:
    result = run(
        """
        from pytest_claude_comms import SystemClock, open_store
        kept = []

        def planted():
            raise RuntimeError("planted")

        def test_leaks(tmp_path):
            kept.append(open_store(f"sqlite:///{tmp_path}/s.db"))
            SystemClock().spawn(planted).join()
        """
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*RuntimeError: planted"])
    if sys.version_info >= (3, 11):  # an error has no notes before
        result.stdout.fnmatch_lines(["*left behind by this test:", "*s.db was not closed*"])


def test_a_wider_fixture_that_fails_is_no_leak_of_the_test(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_claude_comms import open_store
        kept = []

        @pytest.fixture(scope="module")
        def shared(tmp_path_factory):
            kept.append(open_store(f"sqlite:///{tmp_path_factory.mktemp('x')}/s.db"))
            raise ZeroDivisionError

        def test_it(shared):
            pass

        def test_last():
            kept.pop().close()
        """,
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.no_fnmatch_line("*left behind*")


def test_a_failed_test_with_a_store_of_its_own_left_a_run(run: Run) -> None:
    """That it did is no surprise, whoever opened the store."""
    result = run(
        """
        import pytest
        from pytest_claude_comms import MemoryConversationStore, ask_module

        @pytest.fixture
        def mine():
            with MemoryConversationStore() as store:
                yield store

        @pytest.fixture
        def mine_in_fake_time(clock):
            with MemoryConversationStore(clock=clock) as store:
                yield store

        def test_failed(mine, claude, tmp_path):
            claude.hangs()
            ask_module(mine, "a", tmp_path, "q", wait=False)
            assert "the only error" == ""

        def test_failed_in_fake_time(mine_in_fake_time, claude, tmp_path):
            claude.hangs()
            ask_module(mine_in_fake_time, "a", tmp_path, "q", wait=False)
            assert "the only error" == ""
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.no_fnmatch_line("*left behind*")


def test_a_store_that_does_not_close_and_a_poller_that_does_not_stop(run: Run) -> None:
    """What comes after them is done all the same."""
    result = run(
        """
        import os
        from pytest_claude_comms import MessagePoller
        folders, flushed = [], []

        def test_store(claude_comms_store):
            folders.append(os.path.dirname(claude_comms_store.url.partition(":///")[2]))
            close = claude_comms_store.close

            def closes_and_fails():
                close()
                raise OSError("cannot be closed")

            claude_comms_store.close = closes_and_fails

        def test_poller(poller, monkeypatch):
            flush = MessagePoller.flush

            def stops_not(self, *args, **kwargs):
                raise OSError("cannot be stopped")

            def flushes(self, *args, **kwargs):
                flushed.append(self)
                return flush(self, *args, **kwargs)

            poller.stop, poller.flush = stops_not.__get__(poller), flushes.__get__(poller)

        def test_after():
            assert not os.path.exists(folders[0])
            assert len(flushed) == 1
        """,
        "--claude-comms-stores=sqlite",
        "-p",
        "no:randomly",
    )
    result.assert_outcomes(passed=3, errors=2)
    result.stdout.fnmatch_lines(["*OSError: cannot be closed", "*OSError: cannot be stopped"])
