"""The conformance kit without a class of one's own: every contract, on the stores of the option.

``pytest -p claude_comms --pyargs pytest_claude_comms.testing.run_conformance
--claude-comms-stores=package.module:factory``
"""

from __future__ import annotations

import pytest

from .conformance.suite import StoreConformance
from .matrix import StoreChoice


class TestConformance(StoreConformance):
    """Runs once on each of ``--claude-comms-stores``."""

    @pytest.fixture
    def store_factory(self, _claude_comms_choice: StoreChoice) -> str:
        """The store's name, by which child processes find it too."""
        return _claude_comms_choice.name
