"""The real CLI, in a home of its own, asking nobody but this test."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ClaudeNotFound, ConversationStore, Reply, ask_module
from pytest_claude_comms.claude.command import build_environment, find_cli
from tests.real.messages_api import MessagesApi, Script

PLUGIN = "pytest_claude_comms.plugin"
_KEPT = ("PATH", "TMPDIR", "LANG", "LC_ALL", "TERM", "TZ", "USER", "LOGNAME")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.has_plugin(PLUGIN):
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"needs the plugin: -p {PLUGIN}"))


def until(condition: Callable[[], object], patience: float = 30.0) -> None:
    """Real time, because a real process is waited for."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def cli() -> str:
    """The path of the CLI: that of the extra ``claude``, else what is on PATH."""
    for path in ("/nonexistent", os.environ.get("PATH", "")):
        try:
            return find_cli("claude", {"PATH": path})
        except ClaudeNotFound:
            pass
    pytest.skip(
        'no Claude CLI here: pip install "pytest-claude-comms[claude]", '
        "or npm install -g @anthropic-ai/claude-code"
    )


@pytest.fixture(scope="session")
def sdk() -> Any:
    """The public Python SDK, of which nothing is installed with us."""
    return pytest.importorskip(
        "claude_agent_sdk", reason='no SDK here: pip install "pytest-claude-comms[claude]"'
    )


@dataclass(frozen=True)
class Real:
    """What a run of the real CLI needs."""

    cli: str
    server: MessagesApi
    api: Script
    home: Path
    module: Path
    """The directory to run it in."""
    env: dict[str, str]

    def ask(self, store: ConversationStore, prompt: str = "Which key?", **options: Any) -> Reply:
        given = {"command": (self.cli,), "env": self.env, "max_retries": 0, **options}
        return ask_module(store, "marker", self.module, prompt, **given)

    def at(self, script: Script) -> dict[str, str]:
        """The environment of a run that asks there."""
        return {**self.env, "ANTHROPIC_BASE_URL": script.url}

    def processes(self) -> list[int]:
        """The runs of this test, by their HOME, and what they have started."""
        if sys.platform != "linux":
            return []
        mark = f"HOME={self.home}".encode()
        found = []
        for entry in os.scandir("/proc"):
            try:
                if entry.name.isdigit() and mark in _environment(entry.path).split(b"\0"):
                    found.append(int(entry.name))
            except OSError:  # gone meanwhile, or not ours
                continue
        return [pid for pid in found if pid != os.getpid()]


def _environment(process: str) -> bytes:
    return Path(process, "environ").read_bytes()


@pytest.fixture
def real(cli: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Real]:
    """A clean environment, a home and a Messages API; at the end nothing may be left of it."""
    for name in list(os.environ):
        passed_on = name in build_environment({name: ""}) or name.startswith("CLAUDE")
        if passed_on and name not in _KEPT and not name.startswith("CLAUDE_COMMS"):
            monkeypatch.delenv(name)
    home, module = tmp_path / "home", tmp_path / "arangodb"
    home.mkdir()
    module.mkdir()
    # What it puts beside its home; a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="real-") as beside, MessagesApi() as server:
        api = server.at("main")
        env = {
            "HOME": str(home),
            "CLAUDE_CODE_TMPDIR": beside,
            "ANTHROPIC_BASE_URL": api.url,
            "ANTHROPIC_API_KEY": "sk-ant-no-key-at-all",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
            "DISABLE_ERROR_REPORTING": "1",
            # Whom else it would ask, it has to ask by way of us.
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), server.url),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)  # a run without env= stays in here, too
        real = Real(cli, server, api, home, module, env)
        try:
            yield real
            until(lambda: not real.processes(), 5)
            assert server.strays == []
        finally:
            for pid in real.processes():
                os.kill(pid, signal.SIGKILL)
