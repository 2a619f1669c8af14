"""A run of pytest in a copy of the tree for each mutant.

Slow, but there is nothing that it cannot show: what is decided when a module is imported, and what
processes do that a test starts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .mutants import Mutant
from .tried import PYTEST, ROOT, Tried


def in_copies(
    path: Path,
    mutants: Sequence[Mutant],
    tests: Sequence[str],
    tell: Callable[[Mutant, Tried], None],
) -> None:
    """Try any mutants, each in a run of its own; processes that tests start have it too."""
    source = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("pytest_claude_comms", "tests", "fixtures"):
            shutil.copytree(
                ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "CLAUDE.md"):
            shutil.copy(ROOT / name, folder)
        copy = Path(folder, path.relative_to(ROOT))
        _run_copy(folder, tests, None)  # compiles all files
        began = time.monotonic()
        code, said = _run_copy(folder, tests, None)
        if code:
            raise RuntimeError(f"the tests fail without a mutant:\n{said}")
        limit = 30 + 6 * (time.monotonic() - began)
        for mutant in mutants:
            copy.write_text(mutant.applied(source), encoding="utf-8")
            code, said = _run_copy(folder, tests, limit)
            failed = [line.split()[1] for line in said.splitlines() if line.startswith("FAILED")]
            if code is None:
                tried = Tried("timeout", "")
            elif code:
                tried = Tried("killed", failed[0] if failed else "it does not start")
            else:
                tried = Tried("survived", "all tests")
            tell(mutant, tried)


def _run_copy(folder: str, tests: Sequence[str], limit: float | None) -> tuple[int | None, str]:
    # Files of one second and size look the same to a stale .pyc.
    environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
    if limit is None:
        del environment["PYTHONDONTWRITEBYTECODE"]
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *PYTEST, "-x", "-rf", *tests],
        cwd=folder,
        env={**environment, "TMPDIR": folder},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            said, _ = child.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, said
