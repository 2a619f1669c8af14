"""The three shipped stores keep every contract that they claim."""

from __future__ import annotations

import pytest

from pytest_claude_comms.testing import StoreConformance


class TestMemory(StoreConformance):
    @pytest.fixture
    def store_factory(self) -> str:
        return "memory"


class TestTinyDB(StoreConformance):
    @pytest.fixture
    def store_factory(self) -> str:
        return "tinydb"


class TestSQLite(StoreConformance):
    @pytest.fixture
    def store_factory(self) -> str:
        return "sqlite"
