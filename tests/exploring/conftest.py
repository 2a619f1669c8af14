"""Runs pytest with the plugin in a process of its own, as the tests of the plugin do."""

from __future__ import annotations

from tests.plugin.conftest import run

__all__ = ["run"]
