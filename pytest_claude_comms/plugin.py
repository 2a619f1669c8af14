"""The pytest plugin: options, fixtures and hooks. What they do is done in ``testing``.

Loaded in every pytest run of everybody who has this installed, so what is heavy is imported
where it is used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .clock import unhandled_hook
from .options import MARKER, add_options, check_options, settings_of
from .testing.leaks import Leaks, pollers_under_way

if TYPE_CHECKING:
    from .polling import MessagePoller
    from .stores.base import ConversationStore
    from .testing.exploring import Exploration
    from .testing.fake_clock import FakeClock
    from .testing.faults import Faults
    from .testing.matrix import StoreChoice
    from .testing.recording import Recordings
    from .testing.scripted_claude import ScriptedClaude

_LEAKS = pytest.StashKey[Leaks]()
_EXIT = pytest.StashKey[ExitStack]()
_STORE = pytest.StashKey["ConversationStore"]()
_CLOCK = pytest.StashKey["FakeClock"]()
_FAULTS = pytest.StashKey["Faults"]()
_RECORDINGS = pytest.StashKey["Recordings"]()
_PASSED = pytest.StashKey[bool]()
_RECORDED = pytest.StashKey[list[dict[str, str]]]()
_EXPLORATION = pytest.StashKey["Exploration"]()
_TAKEN = pytest.StashKey[dict[str, str]]()
_FAILED = pytest.StashKey[bool]()
# What it left behind: files of its store, and what ran: runs of Claude, pollers of its store; and
# what a failed teardown is told with.
_LEFT = pytest.StashKey[list[str]]()
_RUNS = pytest.StashKey[list[str]]()
_BESIDES = pytest.StashKey[list[str]]()


# -- the run


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)
    leaks = Leaks()
    config.stash[_LEAKS] = leaks
    config.stash[_EXIT] = stack = ExitStack()
    stack.enter_context(unhandled_hook(leaks.unhandled))
    if not hasattr(config, "workerinput"):  # under xdist the controller reports
        from .report import MatrixReport
        from .testing.conformance.summary import ConformanceReport
        from .testing.exploring_report import ExploringReport

        config.pluginmanager.register(ExploringReport(), "claude_comms_exploring_report")
        config.pluginmanager.register(MatrixReport(), "claude_comms_report")
        config.pluginmanager.register(ConformanceReport(), "claude_comms_conformance_report")
        if config.getoption("claude_comms_record"):
            from .testing.recording import RecordingReport

            config.pluginmanager.register(RecordingReport(), "claude_comms_recording_report")
    check_options(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    stack = config.stash.get(_EXIT, None)
    if stack is not None:
        stack.close()


# -- the matrix


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    definition = metafunc.definition
    if definition.get_closest_marker("claude_comms") is not None:
        settings_of(definition)
    for name in ("claude_comms_store", "_claude_comms_choice"):
        if name in metafunc.fixturenames:
            choices = settings_of(definition).stores
            ids = [choice.name for choice in choices]
            metafunc.parametrize(name, choices, indirect=True, ids=ids)


@pytest.fixture
def _claude_comms_choice(request: pytest.FixtureRequest) -> StoreChoice:
    """One of ``--claude-comms-stores``, not opened: for the conformance kit."""
    choice: StoreChoice = request.param
    return choice


@pytest.fixture
def claude_comms_store(request: pytest.FixtureRequest) -> Iterator[ConversationStore]:
    """A new store, empty; the test runs once on each of ``--claude-comms-stores``.

    A test whose arguments include a clock has its store on that clock.
    """
    from .testing.folders import new_folder
    from .testing.matrix_store import in_shape, open_for_test

    settings = settings_of(request.node)
    choice = getattr(request, "param", None)
    if choice is None:
        if len(settings.stores) > 1:
            pytest.fail(
                "this test cannot be multiplied by stores: it is a unittest.TestCase, which "
                "pytest cannot parametrize, or came to its store by getfixturevalue; choose one "
                "store (--claude-comms-stores=sqlite), or name the fixture in the arguments",
                pytrace=False,
            )
        choice = settings.stores[0]
    clock = None
    if "claude_comms_clock" in request.fixturenames or _CLOCK in request.node.stash:
        clock = request.getfixturevalue("claude_comms_clock")
    base = None
    if request.config.pluginmanager.has_plugin("tmpdir"):
        base = request.getfixturevalue("tmp_path_factory").getbasetemp()
    folder = new_folder(choice.name, base)
    store = shaped = open_for_test(choice, folder, clock, settings.durability)
    try:
        request.node.stash[_STORE] = shaped = in_shape(store, settings.returns)
        yield shaped
    finally:
        # Now, since with their store they end too, sooner or later, and with them its last files.
        running = pollers_under_way(shaped)
        request.node.stash.setdefault(_RUNS, []).extend(running)
        try:
            store.close()
        finally:
            _clear(request.node, folder, is_used=bool(running))


def _clear(item: pytest.Item, folder: Path, *, is_used: bool) -> None:
    """Remove a test's store files; those of a failed test stay, to be looked at."""
    from .testing.folders import left_behind, remove

    item.stash[_LEFT] = [] if is_used else left_behind(folder)
    if not item.stash.get(_FAILED, False):
        remove(folder)


@pytest.fixture
def store(claude_comms_store: ConversationStore) -> ConversationStore:
    """An empty conversation store; the test runs once on each of ``--claude-comms-stores``."""
    return claude_comms_store


@pytest.fixture
def claude_comms_poller(claude_comms_store: ConversationStore) -> Iterator[MessagePoller]:
    """A ``MessagePoller`` of ``claude_comms_store``, not started."""
    yield from _poller(claude_comms_store)


@pytest.fixture
def poller(store: ConversationStore) -> Iterator[MessagePoller]:
    """A ``MessagePoller`` of this test's ``store``, not started: ``poller.wait(…)`` polls, and
    ``with poller:`` does in the background."""
    yield from _poller(store)


def _poller(store: ConversationStore) -> Iterator[MessagePoller]:
    from .polling import MessagePoller

    poller = MessagePoller(store)
    yield poller
    try:
        poller.stop()
    finally:
        poller.flush(30)


@pytest.fixture
def claude_comms_clock(request: pytest.FixtureRequest) -> Iterator[FakeClock]:
    """See ``clock``."""
    if _STORE in request.node.stash:
        pytest.fail(
            "the clock was asked for when the test's store was open on real time already; name "
            "clock in the test's arguments (or usefixtures) rather than by getfixturevalue",
            pytrace=False,
        )
    from .errors import RunAbandoned
    from .testing.fake_clock import START, FakeClock, StillRunning

    settings = settings_of(request.node)
    exploration: Exploration | None = request.node.stash.get(_EXPLORATION, None)
    new_clock = FakeClock if exploration is None else exploration.new_clock
    clock = new_clock(settings.start or START, watchdog=settings.watchdog)
    try:
        clock.install(freeze=settings.freeze)
        request.node.stash[_CLOCK] = clock
        # A slow fixture or a report is no stuck test: only the test itself is watched.
        with clock.watched(False):
            yield clock
    finally:
        page = None  # to be raised outside, since pytest prints what it was raised in, too
        try:
            clock.close()
        except StillRunning as error:
            page = str(error)
        except RunAbandoned as error:
            if not request.node.stash.get(_FAILED, False):  # else a failed test is no surprise
                page = f"left behind by this test:\n  {error}"
        if page is not None:
            pytest.fail(page, pytrace=False)


@pytest.fixture
def clock(claude_comms_clock: FakeClock) -> FakeClock:
    """A fake clock, installed: time passes only when everybody waits for it.

    ``clock.at(3, store.update_message, answer, status="complete")`` plans what happens,
    ``poller.wait``, ``clock.advance``, ``sleep``, ``run_until_idle`` and ``join`` let time pass,
    ``clock.elapsed`` tells how much has. ``time.time``, ``datetime.now`` and ``time.sleep`` obey
    it in the test, in pollers, callbacks and what ``clock.spawn`` runs. ``Event.wait``,
    ``queue.get`` and ``Thread.join`` with a timeout stay real, and a loop on
    ``time.monotonic()`` that does not sleep does not end.
    """
    return claude_comms_clock


@pytest.fixture
def claude_comms_claude(request: pytest.FixtureRequest) -> Iterator[ScriptedClaude]:
    """See ``claude``."""
    from .testing.claude_executable import why_not_here

    if (reason := why_not_here()) is not None:
        pytest.skip(reason)
    clock = None
    if "claude_comms_clock" in request.fixturenames or _CLOCK in request.node.stash:
        clock = request.getfixturevalue("claude_comms_clock")  # so it is closed after us
    from .testing.leaks import runs_under_way
    from .testing.scripted_claude import ScriptedClaude

    page = None  # to be raised outside, since pytest prints what it was raised in, too
    try:
        # A short path: the system reads 127 bytes of the line that says who runs a script.
        with (
            tempfile.TemporaryDirectory(prefix="claude-") as folder,
            pytest.MonkeyPatch.context() as patch,
            ScriptedClaude(folder, clock, recordings=_recordings(request)) as claude,
        ):
            patch.setenv("PATH", str(claude.folder), prepend=os.pathsep)
            yield claude
            # Now, since with its processes the runs of them end too, as if nothing had been left.
            request.node.stash.setdefault(_RUNS, []).extend(runs_under_way())
    except AssertionError as error:
        page = str(error)
    if page is not None:
        pytest.fail(page, pytrace=False)


def _recordings(request: pytest.FixtureRequest) -> Recordings:
    from .report import without_store
    from .testing.recording import FOLDER, Recordings, default_name

    item, choice = request.node, _choice_of(request.node)
    nodeid = item.nodeid if choice is None else without_store(item.nodeid, choice.name)
    places = {"ROOT": str(item.config.rootpath)}
    if "tmp_path" in request.fixturenames:
        places["TMP_PATH"] = str(request.getfixturevalue("tmp_path"))
    if item.config.pluginmanager.has_plugin("tmpdir"):
        places["BASETEMP"] = str(request.getfixturevalue("tmp_path_factory").getbasetemp())
    recordings = Recordings(
        folder=str(item.path.parent / FOLDER),
        name=default_name(nodeid),
        test=item.nodeid,
        records=item.config.getoption("claude_comms_record"),
        test_on_any=nodeid,
        taken=item.config.stash.setdefault(_TAKEN, {}),
        places=places,
    )
    item.stash[_RECORDINGS] = recordings
    return recordings


@pytest.fixture
def claude(claude_comms_claude: ScriptedClaude) -> ScriptedClaude:
    """A scripted ``claude``, first on PATH: ``claude.replies("Use _key", after=3)``.

    What it prints, its exit codes and how it takes signals are those of the real CLI. On a fake
    ``clock`` its delays are fake too, while process, pipes and signals are real. A call for which
    nothing is scripted fails the test; ``claude.calls`` has how each was called.
    """
    return claude_comms_claude


@pytest.fixture
def claude_comms_faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    """See ``faults``."""
    from .testing.faults import Faults

    clock = None
    if "claude_comms_clock" in request.fixturenames or _CLOCK in request.node.stash:
        clock = request.getfixturevalue("claude_comms_clock")
    if "claude_comms_store" in request.fixturenames:  # so it is closed after all is undone
        request.getfixturevalue("claude_comms_store")
    request.node.stash[_FAULTS] = faults = Faults(clock)
    try:
        yield faults
    finally:
        faults.undo()
    if request.node.stash.get(_PASSED, False) and (unmet := faults.unmet()):
        pytest.fail("\n".join(unmet), pytrace=False)


@pytest.fixture
def faults(claude_comms_faults: Faults) -> Faults:
    """Lets things go wrong by real means: ``faults.busy(store, for_=3)``, ``faults.delete(store)``.

    Each fault is undone at the end of the test, and the page of a failure tells of it. A fault
    that nobody met fails the test.
    """
    return claude_comms_faults


# -- many schedules of one test


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if item.get_closest_marker("claude_comms") is None:
        return None
    try:
        settings = settings_of(item)
    except pytest.Collector.CollectError:
        return None  # of a unittest.TestCase: its fixtures say so
    if not settings.explore:
        return None
    from .testing.exploring_items import exploration_for, explore_item

    seed = item.config.getoption("claude_comms_explore_seed")
    item.stash[_EXPLORATION] = exploration = exploration_for(settings, seed)
    explore_item(item, nextitem, exploration)
    return True


# -- failures, leaks, the report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    clock = item.stash.get(_CLOCK, None)
    try:
        with nullcontext() if clock is None else clock.watched(True):
            return (yield)
    finally:  # before the page of a failure is made: it reads the store
        if _FAULTS in item.stash:
            item.stash[_FAULTS].undo()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    item.config.stash[_LEAKS].adopt()
    keys: tuple[pytest.StashKey[Any], ...] = (
        *(_STORE, _CLOCK, _FAULTS, _LEFT, _RUNS, _FAILED),
        *(_RECORDINGS, _PASSED, _RECORDED, _BESIDES),
    )
    for key in keys:  # an item that is run again starts anew
        if key in item.stash:
            del item.stash[key]
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    if fixturedef.scope == "function":
        return (yield)
    # What it opens is to outlive the test.
    with request.config.stash[_LEAKS].adopting():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    leaks = item.config.stash[_LEAKS]
    try:
        result = yield
    except BaseException:  # it fails by this; what is wrong besides is no other test's
        item.stash[_BESIDES] = leaks.told(_left(item))
        raise
    leaks.check(_left(item), has_failed=item.stash.get(_FAILED, False))
    if _RECORDINGS in item.stash:
        why_not = None if item.stash.get(_PASSED, False) else "the test did not pass"
        item.stash[_RECORDED] = item.stash[_RECORDINGS].finish(why_not)
    return result


def _left(item: pytest.Item) -> list[str]:
    """What its fixtures saw it leave."""
    left = item.stash.get(_LEFT, [])
    # That a test which failed left a run is no surprise.
    return left if item.stash.get(_FAILED, False) else [*left, *item.stash.get(_RUNS, [])]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _EXPLORATION in item.stash:
        from .testing.exploring_items import judge

        judge(item, call.excinfo is not None, report, item.stash[_EXPLORATION])
    if report.when == "call":
        item.stash[_PASSED] = report.passed and not hasattr(report, "wasxfail")
    elif report.when == "teardown" and _RECORDINGS in item.stash:
        notes = item.stash.get(_RECORDED, None)
        if notes is None:  # the teardown failed
            passed = item.stash.get(_PASSED, False)
            why_not = "the test's teardown failed" if passed else "the test did not pass"
            notes = item.stash[_RECORDINGS].not_written(why_not)
        report.__dict__["claude_comms_recorded"] = notes
    if report.failed:
        item.stash[_FAILED] = True
        from .report import sections

        faults = item.stash.get(_FAULTS, None)
        report.sections += sections(item.stash.get(_BESIDES, []), faults)
    choice = _choice_of(item)
    if choice is None:
        return report
    from .report import describe_failure, facts

    returns = getattr(item.stash.get(_STORE, None), "returns", settings_of(item).returns)
    # xdist sends whatever plain values a report has on to the controller.
    report.__dict__["claude_comms"] = facts(item.nodeid, choice.name, returns)
    if report.failed:
        store = item.stash.get(_STORE, None)
        if store is not None and report.when == "call":
            section = describe_failure(store, item.stash.get(_CLOCK, None))
            report.sections.append((f"claude-comms: {choice.name} store", section))
    return report


def _choice_of(item: pytest.Item) -> StoreChoice | None:
    """The store that a test runs on, also if it never came so far as to open it."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    choice: StoreChoice | None = parameters.get("claude_comms_store")
    if choice is None and _STORE in item.stash:  # by getfixturevalue: there is only one then
        choice = settings_of(item).stores[0]
    return choice


def pytest_enter_pdb(config: pytest.Config) -> None:
    _pause_watchdogs(paused=True)


def pytest_leave_pdb(config: pytest.Config) -> None:
    _pause_watchdogs(paused=False)


def _pause_watchdogs(*, paused: bool) -> None:
    import sys

    module = sys.modules.get(f"{__package__}.testing.watchdog")
    if module is not None:
        module.Watchdog.pause_all(paused=paused)
