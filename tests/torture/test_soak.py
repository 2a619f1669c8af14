"""Hours in minutes: nothing grows that must not, while writers write and readers read.

``TORTURE_SOAK_SECONDS`` is how long (600).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.stores import open_store
from pytest_claude_comms.stores.checking import check_store
from tests.torture.conftest import Row
from tests.torture.stage import Actor, Stage
from tests.torture.story import BACKENDS, url_in

WAL_BYTES = 8_000_000
GROWTH = 1.05
PAUSE = 0.1


def soak(stage: Stage, folder: Path, backend: str, seconds: float) -> dict[str, Any]:
    """One process that writes and polls, one that reads all the time; what both came to.

    What the store holds stays as large as it is, see :mod:`tests.torture.soaking`.
    """
    url = url_in(folder, backend)
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
    worker = stage.start("tests.torture.soaking:work", url=url)
    reader = stage.start("tests.torture.soaking:read", url=url)
    log = 0
    try:
        assert [worker.hear(), reader.hear()] == ["ready", "ready"]
        begun = time.monotonic()
        half: dict[str, list[int]] = {}
        while (elapsed := time.monotonic() - begun) < seconds:
            time.sleep(PAUSE)  # real time is what this test is about
            log = max(log, _size(f"{folder}/store-wal"), _size(f"{folder}/store.journal"))
            if elapsed >= seconds / 2 and not half:
                half = _figures(worker, reader)
        end = _figures(worker, reader)
        half = half or end  # a moment was too short for it
        done = [_told(actor, "stop") for actor in (worker, reader)]
        assert [worker.wait(), reader.wait()] == [0, 0]
    finally:
        worker.end()
        reader.end()
    assert check_store(url).findings == ()
    return {"log": log, "half": half, "end": end, "changes": done[0], "reads": done[1]}


def _told(actor: Actor, word: str) -> Any:
    actor.say(word)
    return actor.hear()


def _figures(*actors: Actor) -> dict[str, list[int]]:
    said = [_told(actor, "figures") for actor in actors]
    return {name: [each[name] for each in said] for name in said[0]}


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def grown(result: dict[str, Any]) -> list[str]:
    """What is larger at the end than half way, by more than a twentieth; and a log too long."""
    found = [
        f"{name}: {result['half'][name]} to {result['end'][name]}"
        for name in result["end"]
        for before, after in zip(result["half"][name], result["end"][name], strict=True)
        if after > before * GROWTH
    ]
    return found + [f"log: {result['log']}"] * (result["log"] >= WAL_BYTES)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="memory and descriptors are read from /proc (Linux)"
)


@needs_proc
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_moment(stage: Stage, tmp_path: Path, backend: str) -> None:
    result = soak(stage, tmp_path, backend, 0.4)
    assert result["log"] < WAL_BYTES
    assert max(result["end"]["descriptors"]) < 40  # it takes longer to see what grows
    assert max(result["end"]["threads"]) < 5
    assert result["changes"]
    assert result["reads"]


@needs_proc
@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
def test_soak(stage: Stage, tmp_path: Path, backend: str, row: Row) -> None:
    seconds = float(os.environ.get("TORTURE_SOAK_SECONDS", "600"))
    result = soak(stage, tmp_path, backend, seconds)
    row(
        "T9 soak: a writer that polls, and a busy reader", backend, f"{seconds:.0f} s",
        lost=0, unreadable=0,
        changes=result["changes"], reads=result["reads"], longest_log=f"{result['log']:,} bytes",
        memory_kB=f"{result['half']['memory']} to {result['end']['memory']}",
        descriptors=result["end"]["descriptors"], threads=result["end"]["threads"],
    )  # fmt: skip
    assert grown(result) == []


def test_what_has_grown_is_found() -> None:
    even = {"half": {"memory": [100, 100]}, "end": {"memory": [104, 100]}, "log": 4_000_000}
    assert grown(even) == []
    assert grown({**even, "end": {"memory": [100, 106]}}) == ["memory: [100, 100] to [100, 106]"]
    assert grown({**even, "log": WAL_BYTES}) == ["log: 8000000"]
