"""One test on every store: which stores, which tests, what the report says."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import Run

ONE_TEST = """
def test_add(store):
    thread = store.create_thread("t")
    store.add_message(thread, "a", "hello")
    assert len(store.messages()) == 1

def test_without():
    pass
"""


def test_by_default_on_both_file_stores(run: Run) -> None:
    result = run(ONE_TEST, "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines_random(
        [
            "*::test_add[[]tinydb] PASSED*",
            "*::test_add[[]sqlite] PASSED*",
            "*::test_without PASSED*",
        ]
    )


@pytest.mark.parametrize("stores", ["memory", "memory,sqlite", "memory, tinydb ,sqlite"])
def test_stores_are_chosen_by_option(run: Run, stores: str) -> None:
    result = run(ONE_TEST, f"--claude-comms-stores={stores}")
    result.assert_outcomes(passed=1 + len(stores.split(",")))


def test_stores_are_chosen_by_ini_value_and_the_option_wins(
    run: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeini("[pytest]\nclaude_comms_stores = memory\n    sqlite")
    run(ONE_TEST).assert_outcomes(passed=3)
    run("", "--claude-comms-stores=memory").assert_outcomes(passed=2)


def test_stores_are_chosen_by_toml_list(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyprojecttoml(
        '[tool.pytest.ini_options]\nclaude_comms_stores = ["memory", "sqlite"]\n'
        'claude_comms_returns = ["native"]'
    )
    run(ONE_TEST).assert_outcomes(passed=3)


def test_the_marker_has_the_last_word_and_the_closest_one_wins(run: Run) -> None:
    result = run(
        """
        import pytest
        pytestmark = pytest.mark.claude_comms(stores=["memory", "sqlite"], returns="str")

        def test_two(store):
            assert isinstance(store.add_message(store.create_thread(), "a"), str)

        @pytest.mark.claude_comms(stores=["memory"])
        def test_one(store):
            assert isinstance(store.add_message(store.create_thread(), "a"), str)
        """,
        "--claude-comms-stores=tinydb",
    )
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--claude-comms-stores=mongo"], ["*no store 'mongo'*memory, tinydb, sqlite*factory*"]),
        (["--claude-comms-stores="], ["*no store was named*memory, tinydb, sqlite*"]),
        (["--claude-comms-returns=tuple"], ["*'tuple'*message, dict, str, native*"]),
        (["--claude-comms-durability=hope"], ["*'hope'*power, process*"]),
        (["--claude-comms-watchdog=soon"], ["*number of seconds*'soon'*"]),
        (["--claude-comms-watchdog=0"], ["*more than 0 seconds*"]),
        (["--claude-comms-stores=no_such_module:make"], ["*cannot be loaded*pythonpath*"]),
        (["--claude-comms-stores=mongo"], ["*gives it by an entry point in claude_comms.stores"]),
        (["--claude-comms-stores=os:no_such"], ["*cannot be loaded*no_such*"]),
        (["--claude-comms-stores=os:sep"], ["*not a function*"]),
    ],
)
def test_bad_options_are_usage_errors_that_list_the_good_ones(
    run: Run, args: list[str], words: list[str]
) -> None:
    result = run(ONE_TEST, *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(words)


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("store=['memory']", "*no 'store'; there are stores, returns*"),
        ("stores=['mongo']", "*no store 'mongo'*"),
        ("stores=[7]", "*named by a str*"),
        ("'memory'", "*keyword arguments only*"),
        ("freeze=1", "*freeze must be True or False*"),
        ("start=5", "*aware datetime*"),
    ],
)
def test_bad_markers_are_errors_that_name_the_test(run: Run, marker: str, words: str) -> None:
    result = run(
        f"""
        import pytest
        @pytest.mark.claude_comms({marker})
        def test_it(store):
            pass
        """
    )
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"*test_it*claude_comms: {words}"])
    assert "Traceback" not in result.stdout.str()


def test_a_store_of_ones_own(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        mine="""
        from pytest_claude_comms import SQLiteConversationStore

        def make(folder, *, clock, durability):
            return SQLiteConversationStore(folder / "mine.db", clock=clock, durability=durability)
        """
    )
    pytester.makeini("[pytest]\npythonpath = .")
    result = run(ONE_TEST, "--claude-comms-stores=mine:make,memory", "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_add[[]mine:make]*"])


def test_every_test_has_a_store_of_its_own(run: Run) -> None:
    source = """
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_it(store, number):
            assert store.threads() == []
            store.create_thread(str(number))
        """
    run(source).assert_outcomes(passed=40)
    run("", "-n", "2").assert_outcomes(passed=40)


def test_files_of_a_passed_test_go_and_those_of_a_failed_one_stay(
    run: Run, pytester: pytest.Pytester
) -> None:
    result = run(
        """
        def test_passes(store):
            store.create_thread()

        def test_fails(store):
            store.create_thread()
            assert False
        """,
        "--claude-comms-stores=sqlite",
        f"--basetemp={pytester.path / 'base'}",
    )
    result.assert_outcomes(passed=1, failed=1)
    assert len(list((pytester.path / "base").glob("sqlite-*/store.db"))) == 1


def test_a_project_with_a_store_fixture_of_its_own_loses_nothing(run: Run) -> None:
    result = run(
        """
        import pytest

        @pytest.fixture
        def store():
            from pytest_claude_comms import MemoryConversationStore
            return MemoryConversationStore()

        def test_mine(store, poller):
            assert poller.store is store

        def test_both(store, claude_comms_store, poller, claude_comms_poller):
            assert poller.store is store
            assert claude_comms_poller.store is claude_comms_store
            assert store is not claude_comms_store

        def test_clock(store, claude_comms_store, clock):
            assert claude_comms_store.clock is clock
        """
    )
    result.assert_outcomes(passed=5)


@pytest.mark.parametrize("names", ["store, clock", "clock, store", "poller, clock, store"])
def test_the_store_is_on_the_clock_in_whatever_order(run: Run, names: str) -> None:
    result = run(
        f"""
        import pytest

        def test_it({names}):
            assert store.clock is clock

        @pytest.mark.usefixtures("clock")
        def test_used(store, claude_comms_clock):
            assert store.clock is claude_comms_clock

        def test_no_clock(store):
            assert "FakeClock" not in repr(store.clock)
        """
    )
    result.assert_outcomes(passed=6)


def test_asking_for_the_clock_too_late_is_a_clear_error(run: Run) -> None:
    result = run(
        """
        def test_late(store, request):
            request.getfixturevalue("clock")

        def test_first(request):
            clock = request.getfixturevalue("clock")
            assert request.getfixturevalue("store").clock is clock
        """,
        "--claude-comms-stores=memory",
    )
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*clock was asked for when the test's store was open*"])


def test_a_store_by_getfixturevalue_cannot_be_multiplied(run: Run) -> None:
    source = """
        def test_it(request):
            assert request.getfixturevalue("store").backend
        """
    result = run(source)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*came to its store by getfixturevalue*"])
    run("", "--claude-comms-stores=sqlite").assert_outcomes(passed=1)


DIVERGING = """
    def test_takes_a_str(store):
        answer = store.add_message(store.create_thread(), "a", status="pending")
        assert answer.upper()

    def test_takes_anything(store):
        from pytest_claude_comms import message_id_of
        answer = store.add_message(store.create_thread(), "a", status="pending")
        assert message_id_of(answer)
    """


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_divergences_are_reported(run: Run, workers: list[str]) -> None:
    result = run(
        DIVERGING,
        "--claude-comms-stores=memory,tinydb,sqlite",
        "--claude-comms-returns=native",
        *workers,
    )
    result.assert_outcomes(passed=4, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*claude-comms: tests by store*",
            "store *add_message returns *passed *failed",
            "memory *dict *1 *1",
            "sqlite *str *2 *0",
            "tinydb *dict *1 *1",
            "1 divergence:",
            "  *::test_takes_a_str: failed on memory (add_message returns a dict), tinydb "
            "(add_message returns a dict); passed on sqlite (add_message returns a str)",
        ]
    )
    result.stdout.fnmatch_lines(["*add_message of this store returns a dict*message_id_of*"])


def test_a_run_without_stores_says_nothing(run: Run) -> None:
    result = run("def test_it(): pass")
    result.assert_outcomes(passed=1)
    assert "claude-comms" not in result.stdout.str()


def test_all_kinds_of_outcomes_are_counted(run: Run) -> None:
    result = run(
        """
        import pytest

        def test_skipped(store): pytest.skip("no")

        @pytest.mark.xfail(strict=False)
        def test_xfailed(store): assert False

        @pytest.mark.xfail(strict=False)
        def test_xpassed(store): pass

        @pytest.fixture
        def broken(store): raise OSError

        def test_error(broken): pass

        @pytest.fixture
        def breaks_later(store):
            yield
            raise OSError

        def test_error_later(breaks_later): pass

        @pytest.mark.parametrize("other", ["memory", "x-memory-y"])
        def test_names(store, other): assert store
        """,
        "--claude-comms-stores=memory",
    )
    result.stdout.fnmatch_lines(
        [
            "store *returns *passed *error *skipped *xfailed *xpassed",
            "memory *message *2 *2 *1 *1 *1",
        ]
    )
