"""Runs pytest with the plugin in a process of its own, installed or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.warm_python import Child, WarmPython

ROOT = Path(__file__).resolve().parents[2]


class Run(Protocol):
    """Runs pytest on a test file. ``fresh``: in a Python that begins with nothing, rather than in
    one forked where pytest and our dependencies are imported."""

    def __call__(
        self, source: str, *args: str, plugin: str = ..., fresh: bool = ...
    ) -> pytest.RunResult: ...


@pytest.fixture
def run(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, warm_python: WarmPython | None
) -> Run:
    """``run(source, "-n", "2")`` runs pytest on ``source`` with the plugin loaded by name."""
    # Absolute: PYTHONPATH=. of the command line means nothing in another directory.
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != "."]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *others]))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def popen(command: Any, **streams: Any) -> Child:
        assert warm_python is not None
        path = os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]])  # as pytester does
        return warm_python.start(
            command,
            cwd=os.getcwd(),
            env={**os.environ, "PYTHONPATH": path},
            stdout=streams["stdout"],
            stderr=streams["stderr"],
        )

    def go(
        source: str,
        *args: str,
        plugin: str = "pytest_claude_comms.plugin",
        fresh: bool = False,
    ) -> pytest.RunResult:
        if source:
            pytester.makepyfile(source)
        xdist = ("-p", "xdist") if "-n" in args else ()
        with monkeypatch.context() as patch:
            if warm_python is not None and not fresh:
                patch.setattr(pytester, "popen", popen)
            return pytester.runpytest_subprocess("-p", plugin, *xdist, *args)

    return go
