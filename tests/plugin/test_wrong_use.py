"""What goes wrong for a user is said in the user's terms, and goes no further."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run


def test_a_slow_report_or_fixture_is_no_stuck_test(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import threading, pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.failed:
                threading.Event().wait(0.8)
            return report

        @pytest.fixture
        def slow(clock):
            yield
            threading.Event().wait(0.8)
        """
    )
    result = run(
        """
        def test_fails(clock):
            clock.at(1, print)
            assert 0

        def test_with_a_slow_fixture(clock, slow):
            clock.at(50, print)
        """,
        "--claude-comms-watchdog=0.2",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E       assert 0"])


def test_subprocess_can_wait_inside_outside(run: Run) -> None:
    result = run(
        """
        import subprocess, sys

        def test_it(clock):
            with clock.outside("a child"):
                subprocess.run([sys.executable, "-c", ""], timeout=30, check=True)
            assert clock.elapsed == 0
        """
    )
    result.assert_outcomes(passed=1)


def test_the_matrix_has_a_row_per_store_and_shape(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.claude_comms(returns="str")
        def test_a(store): pass

        def test_b(store): pass
        """,
        "--claude-comms-stores=memory",
        "--claude-comms-returns=native",
    )
    result.stdout.fnmatch_lines(["memory *dict *1", "memory *str *1"])


def test_a_poller_of_something_else(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def store():
            return "memory:"

        def test_it(poller): pass
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*TypeError: a poller needs a ConversationStore, not 'memory:'*"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "return None",
            "*mine:make returned None, which is no ConversationStore: a factory returns the store*",
        ),
        (
            "return object()",
            "*mine:make returned <object *>, which is no *: it has no add_message, * __enter__, *",
        ),
        (
            "return type('Old', (), {'get_thread': print, 'add_message': print})()",
            "*which is no *: it has no backend, * __exit__; adapt_store(*, clock=clock)*",
        ),
        (
            "return pytest_claude_comms.MemoryConversationStore()",
            "*mine:make returned a store on SystemClock()*",
        ),
    ],
)
def test_factories_are_checked(run: Run, pytester: pytest.Pytester, body: str, words: str) -> None:
    pytester.makepyfile(
        mine=f"""
        import pytest_claude_comms

        def make(folder, *, clock, durability):
            {body}
        """
    )
    pytester.makeini("[pytest]\npythonpath = .")
    result = run("def test_it(store, clock): pass", "--claude-comms-stores=mine:make")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([words])


def test_a_factory_with_another_signature_is_a_usage_error(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(mine="def make(folder): pass")
    pytester.makeini("[pytest]\npythonpath = .")
    result = run("def test_it(store): pass", "--claude-comms-stores=mine:make")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*not a function (folder, [*], clock, durability)*"])


def test_unittest_classes_run_on_one_store(run: Run) -> None:
    source = """
        import unittest, pytest

        class TestIt(unittest.TestCase):
            @pytest.fixture(autouse=True)
            def _store(self, store):
                self.store = store

            def test_it(self):
                self.store.create_thread()
        """
    result = run(source)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unittest.TestCase, which pytest cannot parametrize*"])
    run("", "--claude-comms-stores=sqlite").assert_outcomes(passed=1)


def test_stores_left_open_at_the_end_of_the_process_end_quietly(run: Run) -> None:
    result = run(
        """
        from pytest_claude_comms import open_store
        kept = []

        def test_it(tmp_path):
            kept.append(open_store(f"sqlite:///{tmp_path}/a.db"))
            kept.append(open_store(f"tinydb:///{tmp_path}/a.json"))
        """,
        fresh=True,
    )
    result.assert_outcomes(passed=1, errors=1)
    assert "Traceback" not in result.stderr.str()


def test_a_store_that_cannot_be_described_does_not_end_the_run(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(
        mine="""
        from pytest_claude_comms import MemoryConversationStore

        class Dumb(MemoryConversationStore):
            def messages(self, *args, **kwargs):
                raise KeyError("half written")

        def make(folder, *, clock, durability):
            return Dumb(clock=clock)
        """
    )
    pytester.makeini("[pytest]\npythonpath = .")
    result = run(
        """
        def test_fails(store): assert 0
        def test_next(): pass
        """,
        "--claude-comms-stores=mine:make",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the store could not be read: KeyError: 'half written'"])


def test_a_store_that_fails_the_test_while_its_page_is_made_does_not_end_the_run(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("end", ["fail", "skip"])
        @pytest.mark.claude_comms(stores=["memory"])
        def test_fails(store, monkeypatch, end):
            must_not_be_called = getattr(pytest, end)
            monkeypatch.setattr(store, "messages", lambda: must_not_be_called("so it was"))
            assert 0

        def test_next(): pass
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["the store could not be read: Failed: so it was"])


def test_divergences_before_the_store_is_open_and_of_negative_parameters(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def early(request):
            if "sqlite" in request.node.nodeid:
                pytest.skip("not here")

        def test_early(early, store): pass

        @pytest.mark.parametrize("x", [1, -1])
        def test_ids(x, store):
            assert (store.backend == "sqlite") == (x == -1)
        """,
        "--claude-comms-stores=memory,sqlite",
    )
    result.stdout.fnmatch_lines(
        [
            "3 divergences:",
            "*test_early: passed on memory; skipped on sqlite",
            "*test_ids?1?: failed on sqlite; passed on memory",
            "*test_ids?-1?: failed on memory; passed on sqlite",
        ]
    )


def test_a_worker_that_crashes_is_a_divergence(run: Run) -> None:
    result = run(
        """
        import os

        def test_crash(store):
            if store.backend == "sqlite":
                os._exit(3)
        """,
        "--claude-comms-stores=memory,sqlite",
        "-n",
        "2",
    )
    result.stdout.fnmatch_lines(["*test_crash: failed on sqlite; passed on memory"])


def test_an_item_that_is_run_again_starts_anew(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from _pytest.runner import runtestprotocol

        def pytest_runtest_protocol(item, nextitem):
            runtestprotocol(item, nextitem=nextitem, log=False)
            item._initrequest()
            for report in runtestprotocol(item, nextitem=nextitem, log=False):
                item.ihook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    result = run(
        """
        runs = []

        def test_flaky(store, clock):
            assert store.clock is clock
            runs.append(1)
            assert len(runs) == 2
        """,
        "--claude-comms-stores=memory",
    )
    result.assert_outcomes(passed=1)


def test_a_late_wide_fixture_hides_no_leak(run: Run) -> None:
    result = run(
        """
        import pytest
        from pytest_claude_comms import open_store
        kept = []

        @pytest.fixture(scope="session")
        def late():
            return 1

        def test_leaks(tmp_path, request):
            kept.append(open_store(f"sqlite:///{tmp_path}/s.db"))
            request.getfixturevalue("late")
        """
    )
    result.assert_outcomes(passed=1, errors=1)


def test_without_tmpdir(run: Run) -> None:
    run("def test_it(store): store.create_thread()", "-p", "no:tmpdir").assert_outcomes(passed=2)


def check_nothing_inside(result: pytest.RunResult) -> None:
    """A hidden frame's place is not printed, and neither is what an error was raised in."""
    for room in ("fake_clock", "scheduler", "watchdog", "clock", "scripted_claude", "plugin"):
        result.stdout.no_fnmatch_line(f"*/{room}.py:*: *Error")
        result.stdout.no_fnmatch_line(f"*/{room}.py:*: ClockDeadlock")
    result.stdout.no_fnmatch_line("During handling*")


def test_a_page_has_no_line_of_ours_before_it(run: Run) -> None:
    result = run(
        """
        from pytest_claude_comms import ask_module

        def test_nobody_ends_it(store, poller, clock):
            poller.wait("nobody")

        def test_nothing_is_scripted(store, claude, clock, tmp_path):
            ask_module(store, "marker", tmp_path, "Which fields?")
        """,
        "--claude-comms-stores=memory",
    )
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_nothing_is_scripted*",
            "claude (scripted): nothing is scripted for this call",
            "  asked     'Which fields?' in *",
            '>       poller.wait("nobody")',
            "E*ClockDeadlock: at +0 s on the fake clock all wait and nothing is due:",
        ]
    )
    check_nothing_inside(result)


def test_a_stuck_clocks_page_has_no_line_of_ours_before_it(run: Run) -> None:
    result = run(
        """
        import threading
        from pytest_claude_comms import MessagePoller, open_store

        def test_stuck(clock):
            def waits():
                condition = threading.Condition()
                with condition:
                    condition.wait()

            clock.spawn(waits).join()

        def test_on_no_clock(clock):
            clock.at(1, print)
            with open_store("memory:") as real:
                real.add_message(real.create_thread(), "marker", status="pending", message_id="m")
                MessagePoller(real).wait("m")
        """,
        "--claude-comms-watchdog=0.5",
    )
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_stuck*",
            "*.waits: still running after the test's clock was closed",
            ">       clock.spawn(waits).join()",
            "E*ClockDeadlock: *.waits has not come back to the fake clock for 0.5 real seconds:",
            '>*MessagePoller(real).wait("m")',
            "E*ClockDeadlock: the test has not come back to the fake clock for 0.5 real seconds:",
        ]
    )
    check_nothing_inside(result)


def test_errors_of_actors_that_end_with_their_clock_are_all_told(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, RecursionError])
        def test_it(clock, kind):
            def fails():
                try:
                    clock.sleep(100)
                finally:
                    raise kind("first")

            def fails_too():
                try:
                    clock.sleep(100)
                finally:
                    {}["second"]

            clock.spawn(fails)
            clock.spawn(fails_too)
            clock.advance(1)
        """
    )
    result.assert_outcomes(passed=3, errors=3)
    for kind in ("RuntimeError", "NotImplementedError", "RecursionError"):
        result.stdout.fnmatch_lines(['>*{}[[]"second"[]]', '>*raise kind("first")'])
        result.stdout.fnmatch_lines(["E*KeyError: 'second'", f"E*{kind}: first"])
