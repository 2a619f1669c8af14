"""The plugin's options, ini values and marker, and the settings that they come to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .testing.matrix import Settings

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
MARKER = (
    "claude_comms(*, stores, returns, durability, watchdog, freeze, start, explore, explore_lines, "
    "seed): this test's stores and fake clock; freeze=False leaves the standard library's time "
    "alone, start is the clock's first instant (an aware datetime); explore=200 runs the test "
    "under 200 schedules of its actors, seed repeats one of them"
)

_SETTINGS = pytest.StashKey["Settings"]()


def add_options(parser: pytest.Parser) -> None:
    """Declare them."""
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


def check_options(config: pytest.Config) -> None:
    """Say what is wrong with them before anything runs. Raises UsageError."""
    if (seed := config.getoption("claude_comms_explore_seed")) is not None:
        from .testing.exploring_plan import Seed

        try:
            Seed.parse(seed)
        except ValueError as error:
            raise pytest.UsageError(f"--claude-comms-explore-seed: {error}") from None
    if any(_given(config, name) != default for name, (default, _) in _OPTIONS.items()):
        _settings(config)


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


def settings_of(node: pytest.Item) -> Settings:
    """Those of a test: of its markers, else of the run. Raises CollectError."""
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
