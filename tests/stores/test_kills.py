"""Two hundred kills of a writing process, at random moments, on each file store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.conftest import KillLoop

KILLS = 200


@pytest.mark.long
@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_no_kill_loses_an_acknowledged_change(
    backend: str, kill_loop: KillLoop, tmp_path: Path
) -> None:
    seen = kill_loop(f"{backend}:///{tmp_path}/store", KILLS)
    assert seen.kept >= seen.acknowledged > KILLS
    print(f"{backend}: {KILLS} kills, {seen.acknowledged} acknowledged, {seen.kept} kept")
