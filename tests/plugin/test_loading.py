"""However the plugin comes, it is there once."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from tests.plugin.conftest import Run

SOURCE = """
def test_it(store, poller, clock):
    assert store.clock is clock

def test_claude_comms_is_registered_once(request):
    manager = request.config.pluginmanager
    assert manager.get_plugin("pytest_claude_comms.plugin") is not None
"""

installed = pytest.mark.skipif(
    not any(point.name == "claude_comms" for point in entry_points(group="pytest11")),
    reason="the distribution is not installed, so its entry point is not there",
)


def test_from_a_bare_checkout(run: Run) -> None:
    run(SOURCE, fresh=True).assert_outcomes(passed=3)


def test_under_xdist(run: Run) -> None:
    run(SOURCE, "-n", "2").assert_outcomes(passed=3)


def test_without_xdist(run: Run) -> None:
    run(SOURCE, "-p", "no:xdist").assert_outcomes(passed=3)


def test_by_conftest(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['pytest_claude_comms.plugin']")
    run(SOURCE).assert_outcomes(passed=3)
    pytester.makepyfile(SOURCE)
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_by_its_entry_module_and_by_itself(run: Run) -> None:
    run(SOURCE, "-p", "pytest_claude_comms.entry").assert_outcomes(passed=3)
    run("", "-p", "pytest_claude_comms.plugin", plugin="pytest_claude_comms.entry").assert_outcomes(
        passed=3
    )


@installed
@pytest.mark.parametrize("autoload", [False, True])
def test_by_its_name(run: Run, monkeypatch: pytest.MonkeyPatch, *, autoload: bool) -> None:
    if autoload:
        monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    run(SOURCE, plugin="claude_comms").assert_outcomes(passed=3)
    run("", "-p", "pytest_claude_comms.plugin", plugin="claude_comms").assert_outcomes(passed=3)
    run("", "-p", "claude_comms").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    "blocked",
    ["xdist", "cacheprovider", "terminal", "logging", "threadexception", "unraisableexception"],
)
def test_without_other_plugins(run: Run, blocked: str) -> None:
    assert run(SOURCE, "-p", f"no:{blocked}", "-W", "error").ret == 0


def test_the_door_imports_nothing_heavy(run: Run) -> None:
    result = run(
        """
        import sys

        def test_it():
            heavy = {"tinydb", "sqlite3", "freezegun", "rich", "asyncio", "xdist"}
            assert heavy & set(sys.modules) == set()
            ours = {name for name in sys.modules if name.startswith("pytest_claude_comms.")}
            assert not any("stores" in name or "polling" in name for name in ours)
        """,
        "-p",
        "no:xdist",
        fresh=True,
    )
    result.assert_outcomes(passed=1)
