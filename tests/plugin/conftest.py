"""Runs pytest with the plugin in a process of its own, installed or not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Run(Protocol):
    """Runs pytest on a test file."""

    def __call__(self, source: str, *args: str, plugin: str = ...) -> pytest.RunResult: ...


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run(source, "-n", "2")`` runs pytest on ``source`` with the plugin loaded by name."""
    # Absolute: PYTHONPATH=. of the command line means nothing in another directory.
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != "."]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *others]))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def go(source: str, *args: str, plugin: str = "pytest_claude_comms.plugin") -> pytest.RunResult:
        if source:
            pytester.makepyfile(source)
        xdist = ("-p", "xdist") if "-n" in args else ()
        return pytester.runpytest_subprocess("-p", plugin, *xdist, *args)

    return go
