"""A stranger's store, which shares no line with the shipped ones, keeps what it claims."""

from __future__ import annotations

import sys

import pytest

from pytest_claude_comms.testing import StoreConformance
from tests.stores.third_party_kit import FOLDER


@pytest.mark.skipif(sys.platform == "win32", reason="the example locks by fcntl")
class TestPlain(StoreConformance):
    @pytest.fixture
    def store_factory(self, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.syspath_prepend(FOLDER)
        return "plain_store:make_store"
