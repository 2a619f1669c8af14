"""``@pytest.mark.claude_comms(explore=…)``: many schedules, reported as one test."""

from __future__ import annotations

import re

import pytest

from tests.plugin.conftest import Run

RACE = """
    import pytest
    from pytest_claude_comms import InvalidTransition

    pytestmark = pytest.mark.claude_comms(stores=["memory"], freeze=False)
    made = []

    @pytest.fixture(scope="module")
    def wide():
        made.append("wide")
        yield
        print("made", made.count("wide"), made.count("narrow"))

    @pytest.fixture
    def narrow(clock):
        made.append("narrow")
        return []

    def race(store, clock, told):
        thread = store.create_thread("demo")
        store.add_message(thread, "m", status="processing", message_id="answer")

        def ends(status):
            if not store.get_message("answer").status.is_terminal:
                told.append(status)
                try:
                    store.update_message("answer", status=status)
                except InvalidTransition:
                    pass

        clock.at(30, ends, "complete")
        clock.at(30, ends, "cancelled")
        clock.run_until_idle()
        print("told", told)
        assert len(told) == 1
"""


def again(result: pytest.RunResult) -> tuple[str, str]:
    """The test and the option of the command that repeats a schedule."""
    match = re.search(
        r"again: python -m pytest (\S+) (--claude-comms-explore-seed=\S+)", str(result.stdout)
    )
    assert match
    return match[1].strip("'"), match[2]


def test_a_failing_schedule_is_told_and_repeated_by_its_command(run: Run) -> None:
    source = (
        RACE
        + """
    @pytest.mark.claude_comms(explore=500)
    def test_race(store, clock, narrow, wide, record_property):
        record_property("n", len(made))
        race(store, clock, narrow)

    def test_it_is_hidden(store, clock, narrow, wide):
        race(store, clock, narrow)
    """
    )
    result = run(source, "-s", "-v")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- claude-comms: schedule -*",
            "schedule * of 500 failed; its seed is *:*",
            "   1  +0 s  the test (actor 1)",
            "        plan(ends (for +30 s, test_*.py:*))",
            "*preempted *, test_*",
            "*update_message('answer', status='cancelled') -> InvalidTransition",
            "again: python -m pytest *test_race* --claude-comms-explore-seed=*",
        ]
    )
    test, option = again(result)
    assert str(result.stdout).count(" test_race") <= 6
    done = re.search(r"schedule (\d+) of 500", str(result.stdout))
    assert done
    # The wider fixture once for both tests, the other once for each schedule.
    result.stdout.fnmatch_lines([f"*made 1 {int(done[1]) + 1}"])
    told = re.findall(r"told \[.*\]", str(result.stdout))
    assert len(told) == int(done[1]) + 1

    repeated = run("", test, option, "-s")
    repeated.assert_outcomes(failed=1)
    repeated.stdout.fnmatch_lines(["this schedule failed; its seed is *"])
    assert again(repeated) == (test, option)
    assert re.findall(r"told \[.*\]", str(repeated.stdout)) == [told[-2]]


def test_what_passes_says_what_was_explored_and_is_one_test(run: Run) -> None:
    source = (
        RACE
        + """
    @pytest.mark.claude_comms(explore=40)
    def test_passes(store, clock, narrow):
        clock.spawn(store.create_thread, "a")
        clock.spawn(store.create_thread, "b")
        clock.run_until_idle()

    @pytest.mark.claude_comms(explore=40, stores=["memory", "sqlite"], returns="native")
    class TestOnEachStore:
        def test_it(self, store, clock):
            clock.spawn(store.create_thread, "a")
            clock.run_until_idle()

    @pytest.mark.claude_comms(explore=10)
    @pytest.mark.claude_comms(seed="0:1")
    def test_that_repeats(store, clock):
        pass

    @pytest.mark.claude_comms(explore=5)
    def test_that_skips(store, clock):
        pytest.skip("here")

    @pytest.mark.claude_comms(explore=500)
    @pytest.mark.xfail(strict=True)
    def test_that_is_to_fail(store, clock, narrow):
        race(store, clock, narrow)

    @pytest.mark.claude_comms(explore=5)
    @pytest.mark.xfail(strict=True)
    def test_that_does_not_fail(store, clock):
        pass
    """
    )
    result = run(source, "-rA")
    result.assert_outcomes(passed=4, skipped=1, xfailed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "=* claude-comms: explored =*",
            "*::test_passes*: explored 40 schedules, * distinct",
            "*::test_it*: explored 40 schedules, * distinct",
            "*::test_it*: explored 40 schedules, * distinct",
            "*::test_that_repeats*: repeated the schedule of seed 0:1",
        ]
    )
    assert "XPASS(strict)" in str(result.stdout)
    assert "claude-comms: schedule " not in str(result.stdout)


def test_xdist_sends_it_on(run: Run) -> None:
    source = (
        RACE
        + """
    @pytest.mark.claude_comms(explore=30)
    def test_passes(store, clock):
        pass

    @pytest.mark.claude_comms(explore=500)
    def test_race(store, clock, narrow):
        race(store, clock, narrow)
    """
    )
    result = run(source, "-n", "2")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*claude-comms: schedule*", "again: *"])
    result.stdout.fnmatch_lines(["*::test_passes*: explored 30 schedules, * distinct"])


def test_the_ends_of_fixtures_and_of_actors(run: Run) -> None:
    source = (
        RACE
        + """
    @pytest.fixture(scope="module")
    def breaks():
        yield
        raise LookupError("at the module's end")

    @pytest.mark.claude_comms(explore=5)
    def test_last(store, clock, breaks):
        pass

    @pytest.mark.claude_comms(explore=300)
    def test_an_actor_fails(store, clock):
        seen = []
        def fails():
            assert seen, "nothing yet"
        clock.spawn(fails)
        store.create_thread("demo")
        seen.append(1)
    """
    )
    result = run(source, "-p", "no:randomly")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines_random(
        ["*LookupError: at the module's end", "*AssertionError: nothing yet", "again: *fails* *"]
    )


WRONG = {
    "explore=-1": "*explore must be between 0 and 10,000,000, not -1",
    "explore=True": "*explore must be a number of schedules, not True",
    "explore=2, seed='x'": "*a seed is NUMBER:POINTS, as a failure prints it*",
    "explore=2, explore_lines='a'": "*explore_lines must be True *",
    "explore=2, explore_lines=['json', 'nomod.x']": "*there is no module 'nomod.x'*",
    "explore=2, explore_lines=['.']": "*there is no module '.'*",
}


def test_a_wrong_marker_says_what_is_right(run: Run, pytester: pytest.Pytester) -> None:
    form = "import pytest\n@pytest.mark.claude_comms({})\ndef test_it({}): pass\n"
    files = {f"test_{place}": form.format(each, "clock") for place, each in enumerate(WRONG)}
    pytester.makepyfile(**files, test_no_clock=form.format("explore=2, stores=['memory']", "store"))
    result = run("", "--continue-on-collection-errors")
    result.assert_outcomes(errors=len(WRONG), failed=1)
    result.stdout.fnmatch_lines_random(
        [*WRONG.values(), "*its actors are those of the fixture `clock`*"]
    )


def test_a_seed_that_no_test_is_for_is_said(run: Run) -> None:
    source = """
    import pytest

    def test_of_one_order(): pass

    @pytest.mark.claude_comms(explore=3)
    def test_explored(clock): assert {}
    """
    option = "--claude-comms-explore-seed=3:10"
    result = run(source.format(True), option, "-k", "one_order")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["=* claude-comms: explored =*", f"nothing: {option} is for tests *"]
    )
    for outcome in (True, False):
        result = run(source.format(outcome), option)
        assert "nothing: " not in str(result.stdout)


def test_a_wrong_option_is_a_usage_error(run: Run) -> None:
    result = run("", "--claude-comms-explore-seed=17")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--claude-comms-explore-seed: a seed is NUMBER:POINTS*"])


def test_each_schedule_has_an_instance_of_the_class_of_its_own(run: Run) -> None:
    source = """
    import pytest

    @pytest.mark.claude_comms(explore=5, stores=["memory"], freeze=False)
    class TestWithAState:
        @pytest.fixture(autouse=True)
        def prepare(self):
            self.told = getattr(self, "told", 0) + 1

        def test_it(self, store, clock):
            assert self.told == 1
            assert not hasattr(self, "more")
            self.more = True

        @pytest.mark.parametrize("name", ["a", "b"])
        def test_with_parameters(self, store, clock, name):
            assert vars(self) == {"told": 1}
            self.name = name
    """
    run(source).assert_outcomes(passed=3)
