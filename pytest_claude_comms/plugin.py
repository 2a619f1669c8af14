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
from .testing.leaks import Leaks

if TYPE_CHECKING:
    from .polling import MessagePoller
    from .stores.base import ConversationStore, Durability
    from .testing.exploring import Exploration
    from .testing.fake_clock import FakeClock
    from .testing.faults import Faults
    from .testing.matrix import Settings, StoreChoice
    from .testing.recording import Recordings
    from .testing.scripted_claude import ScriptedClaude

_OPTIONS = {
    "stores": (
        "tinydb,sqlite",
        "stores that tests with a store run on: memory, tinydb, sqlite, or package.module:factory",
    ),
    "returns": (
        "message",
        (
            "what a store's add_message returns: message, dict, str, or native (that of the "
            "original stores: dict for tinydb and memory, str for sqlite)"
        ),
    ),
    "durability": ("process", "process (survives kills) or power (also power cuts; slower)"),
    "watchdog": ("10", "real seconds after which an actor that blocks outside the clock fails"),
}
_MARKER = (
    "claude_comms(*, stores, returns, durability, watchdog, freeze, start, explore, explore_lines, "
    "seed): this test's stores and fake clock; freeze=False leaves the standard library's time "
    "alone, start is the clock's first instant (an aware datetime); explore=200 runs the test "
    "under 200 schedules of its actors, seed repeats one of them"
)

_SETTINGS = pytest.StashKey["Settings"]()
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


# -- options and the marker


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("claude-comms", "Claude CLI communication: stores and fake time")
    for name, (default, text) in _OPTIONS.items():
        group.addoption(
            f"--claude-comms-{name}",
            metavar=name.upper(),
            help=f"{text} (default: {default}; ini: claude_comms_{name})",
        )
        parser.addini(f"claude_comms_{name}", text, type="args", default=[default])
    group.addoption(
        "--claude-comms-record",
        action="store_true",
        help="run the real Claude CLI for claude.recorded(), and write what it does into the "
        "folder transcripts beside the test's file",
    )
    group.addoption(
        "--claude-comms-explore-seed",
        metavar="SEED",
        help="of tests marked claude_comms(explore=…), repeat the schedule of this seed",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)
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
    if (seed := config.getoption("claude_comms_explore_seed")) is not None:
        from .testing.exploring_plan import Seed

        try:
            Seed.parse(seed)
        except ValueError as error:
            raise pytest.UsageError(f"--claude-comms-explore-seed: {error}") from None
    if any(_given(config, name) != default for name, (default, _) in _OPTIONS.items()):
        _settings(config)  # what is wrong with it is said before anything runs


def pytest_unconfigure(config: pytest.Config) -> None:
    stack = config.stash.get(_EXIT, None)
    if stack is not None:
        stack.close()


def _given(config: pytest.Config, name: str) -> str:
    option: str | None = config.getoption(f"claude_comms_{name}")
    return ",".join(config.getini(f"claude_comms_{name}")) if option is None else option


def _settings(config: pytest.Config) -> Settings:
    if _SETTINGS not in config.stash:
        from .testing.matrix import parse

        settings = None
        for name in _OPTIONS:
            value = _given(config, name)
            by_option = config.getoption(f"claude_comms_{name}") is not None
            source = f"--claude-comms-{name}" if by_option else f"ini value claude_comms_{name}"
            try:
                settings = parse({name: value}, settings)
            except (TypeError, ValueError) as error:
                raise pytest.UsageError(f"{source}={value}: {error}") from None
        assert settings is not None
        config.stash[_SETTINGS] = settings
    return config.stash[_SETTINGS]


def _settings_of(node: pytest.Item) -> Settings:
    settings = _settings(node.config)
    markers = list(node.iter_markers("claude_comms"))
    for marker in reversed(markers):  # the closest one has the last word
        from .testing.matrix import parse

        try:
            if marker.args:
                raise TypeError("it takes keyword arguments only")
            settings = parse(marker.kwargs, settings)
        except (TypeError, ValueError) as error:
            # Collected first, by pytest_generate_tests, so this is where it comes to light.
            raise pytest.Collector.CollectError(
                f"{node.nodeid}: @pytest.mark.claude_comms: {error}"
            ) from None
    return settings


# -- the matrix


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    definition = metafunc.definition
    if definition.get_closest_marker("claude_comms") is not None:
        _settings_of(definition)
    for name in ("claude_comms_store", "_claude_comms_choice"):
        if name in metafunc.fixturenames:
            choices = _settings_of(definition).stores
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
    settings = _settings_of(request.node)
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
    folder = Path(tempfile.mkdtemp(prefix=f"{_file_name(choice.name)}-", dir=base))
    store = _open(choice, folder, clock, settings.durability)
    try:
        # What has a shape of its own, as adapted ones do, keeps it.
        if settings.returns != "message" and not hasattr(store, "returns"):
            from .stores.legacy import LegacyReturns

            shaped: Any = LegacyReturns(store, settings.returns)  # type: ignore[arg-type]
            request.node.stash[_STORE] = shaped
            yield shaped
        else:
            request.node.stash[_STORE] = store
            yield store
    finally:
        store.close()
        _clear(request.node, folder)


def _open(
    choice: StoreChoice, folder: Path, clock: FakeClock | None, durability: Durability
) -> ConversationStore:
    from .stores.base import ConversationStore

    store = choice.open(folder, clock=clock, durability=durability)
    if not isinstance(store, ConversationStore):
        from .stores.schemes import why_none

        pytest.fail(
            f"{choice.name} returned {store!r}, which is no ConversationStore: {why_none(store)}",
            pytrace=False,
        )
    if clock is not None:
        clock.watch_store(store)
    if clock is not None and store.clock is not clock:
        store.close()
        pytest.fail(
            f"{choice.name} returned a store on {store.clock!r}; this test has a clock, which the "
            "factory is given as clock= and has to hand on to the store",
            pytrace=False,
        )
    return store


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name)


def _clear(item: pytest.Item, folder: Path) -> None:
    """Remove a test's store files; those of a failed test stay, to be looked at."""
    from .testing.folders import left_behind, remove

    item.stash[_LEFT] = left_behind(folder)
    if not item.stash.get(_FAILED, False):
        remove(folder)


_LEFT = pytest.StashKey[list[str]]()
_RUNS = pytest.StashKey[list[str]]()
_FAILED = pytest.StashKey[bool]()


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
    poller.stop()
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
    from .testing.fake_clock import START, FakeClock

    settings = _settings_of(request.node)
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
        try:
            clock.close()
        except RuntimeError as error:
            pytest.fail(str(error), pytrace=False)
        except RunAbandoned as error:
            if not request.node.stash.get(_FAILED, False):  # else a failed test is no surprise
                pytest.fail(f"left behind by this test:\n  {error}", pytrace=False)


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

    # A short path: the system reads 127 bytes of the line that says who runs a script.
    with (
        tempfile.TemporaryDirectory(prefix="claude-") as folder,
        pytest.MonkeyPatch.context() as patch,
        ScriptedClaude(folder, clock, recordings=_recordings(request)) as claude,
    ):
        patch.setenv("PATH", str(claude.folder), prepend=os.pathsep)
        yield claude
        # Now, since with its processes the runs of them end too, as if nothing had been left.
        request.node.stash[_RUNS] = runs_under_way()


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
        settings = _settings_of(item)
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
        *(_RECORDINGS, _PASSED, _RECORDED),
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
    result = yield
    _check_leaks(item)
    if _RECORDINGS in item.stash:
        why_not = None if item.stash.get(_PASSED, False) else "the test did not pass"
        item.stash[_RECORDED] = item.stash[_RECORDINGS].finish(why_not)
    return result


def _check_leaks(item: pytest.Item) -> None:
    leaks = item.config.stash[_LEAKS]
    leaks.raise_error()
    left = [*leaks.found(), *item.stash.get(_LEFT, [])]
    if not item.stash.get(_FAILED, False):  # else that a run was left is no surprise
        left += [run for run in item.stash.get(_RUNS, []) if run not in left]
    leaks.raise_error()  # of a thread that was waited for
    if left:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(left), pytrace=False)


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
            notes = item.stash[_RECORDINGS].not_written("the test's teardown failed")
        report.__dict__["claude_comms_recorded"] = notes
    faults = item.stash.get(_FAULTS, None)
    if report.failed and faults is not None and faults.record:
        report.sections.append(("claude-comms: faults", "\n".join(faults.lines())))
    choice = _choice_of(item)
    if choice is None:
        return report
    from .report import describe_failure, facts

    returns = getattr(item.stash.get(_STORE, None), "returns", _settings_of(item).returns)
    # xdist sends whatever plain values a report has on to the controller.
    report.__dict__["claude_comms"] = facts(item.nodeid, choice.name, returns)
    if report.failed:
        item.stash[_FAILED] = True
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
        choice = _settings_of(item).stores[0]
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
