"""The Python that forks: what it forks is as one that was started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.warm_python import WarmPython

SOURCE = """
import os, signal, sys

def test_it():
    assert os.environ["WANTED"] == os.path.basename(os.getcwd())
    assert "LEFT" not in os.environ
    os.environ["LEFT"] = "behind"
    assert not [name for name in sys.modules if name.startswith(("pytest_claude_comms", "tests."))]
    assert sys.argv[1:] == ["-q", "test_it.py"]
    if os.environ["WANTED"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.environ["WANTED"] != "fails"
"""


@pytest.fixture
def warm(warm_python: WarmPython | None) -> WarmPython:
    if warm_python is None:
        pytest.skip("this system has no fork()")
    return warm_python


def run(
    warm: WarmPython, folder: Path, name: str, source: str = SOURCE, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    place = folder / name
    place.mkdir()
    (place / "test_it.py").write_text(source)
    env = {"PATH": os.environ["PATH"], "WANTED": name, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "test_it.py"]
    return warm.run(command, cwd=place, env=env, timeout=timeout)


def test_each_has_its_own_folder_environment_and_end(warm: WarmPython, tmp_path: Path) -> None:
    for name, code in (("passes", 0), ("fails", 1), ("killed", -9), ("again", 0)):
        done = run(warm, tmp_path, name)
        assert done.returncode == code, done.stdout
        assert ("1 passed" in done.stdout) == (code == 0)


def test_one_that_does_not_end_is_ended(warm: WarmPython, tmp_path: Path) -> None:
    endless = "import time\ndef test_it(): time.sleep(600)"
    with pytest.raises(subprocess.TimeoutExpired):
        run(warm, tmp_path, "endless", endless, timeout=0.5)
    assert run(warm, tmp_path, "next").returncode == 0
