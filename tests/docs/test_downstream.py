"""The downstream example as its users have it, and the command that CLAUDE.md gives."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[2]
DOWNSTREAM = ROOT / "fixtures" / "downstream"
OURS = "pytest_claude_comms"
RunPytest: TypeAlias = Callable[..., "subprocess.CompletedProcess[str]"]

ASSUMES_A_STR = """
def test_an_answer_is_found_by_its_id(store):
    thread = store.create_thread("demo", modules=["marker", "arangodb"])
    answer_id = store.add_message(thread, "arangodb", status="pending")
    assert answer_id.upper()
"""


@pytest.fixture
def run_pytest(warm_python: WarmPython | None) -> RunPytest:
    return lambda cwd, *args: _run_pytest(warm_python, cwd, *args)


def _run_pytest(
    warm_python: WarmPython | None, cwd: Path, *args: str
) -> subprocess.CompletedProcess[str]:
    names = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", f"{OURS}.plugin", "-p", "no:cacheprovider"]
    # Hypothesis' plugin imports all of it at the end of every run, which takes longer than most do.
    command += ["-p", "no:hypothesispytest", *args]
    env = {**names, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    if warm_python is not None:
        return warm_python.run(command, cwd=cwd, env=env, timeout=300)
    return subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )


def test_it_passes_on_memory_with_the_original_return_shape(run_pytest: RunPytest) -> None:
    done = run_pytest(
        ROOT, "fixtures/downstream", "--claude-comms-stores=memory", "--claude-comms-returns=native"
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^memory +dict +\d+$", done.stdout, re.MULTILINE), done.stdout


def test_it_runs_from_inside_its_folder_too(run_pytest: RunPytest) -> None:
    done = run_pytest(DOWNSTREAM, "-k", "test_claude_goes_silent_and_times_out", "-W", "error")
    assert done.returncode == 0, done.stdout
    assert f"rootdir: {DOWNSTREAM}" in done.stdout
    assert re.search(r"^=+ 2 passed", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("file", sorted(DOWNSTREAM.rglob("*.py")), ids=lambda file: file.name)
def test_it_depends_on_public_names_only(file: Path) -> None:
    known = {*sys.stdlib_module_names, "pytest", "helpdesk"}
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name for alias in node.names} <= known
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.partition(".")[0] == OURS:
                assert module in (OURS, f"{OURS}.testing")
                public = importlib.import_module(module).__all__
                assert {alias.name for alias in node.names} <= {*public}
            else:
                assert module.partition(".")[0] in known


def test_its_transcripts_are_real_ones() -> None:
    recorded = {file.read_bytes() for file in (ROOT / "fixtures" / "transcripts").glob("*.jsonl")}
    own = {file.read_bytes() for file in (DOWNSTREAM / "transcripts").glob("*.jsonl")}
    assert own
    assert own <= recorded


def test_one_who_assumes_a_str_fails_exactly_where_a_dict_comes(
    run_pytest: RunPytest, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(ASSUMES_A_STR, encoding="utf-8")
    args = ("-rA", "--claude-comms-stores=memory,tinydb,sqlite", "--claude-comms-returns=native")
    done = run_pytest(tmp_path, *args)
    assert done.returncode == 1, done.stdout
    ends = dict(re.findall(r"^(?:PASSED|FAILED) .*\[(\w+)\]( .*)?$", done.stdout, re.MULTILINE))
    assert set(ends) == {"memory", "tinydb", "sqlite"}
    failed = set(re.findall(r"^FAILED .*\[(\w+)\]", done.stdout, re.MULTILINE))
    assert failed == {"memory", "tinydb"}
    assert done.stdout.count("add_message of this store returns a dict") == 2
    assert (
        "failed on memory (add_message returns a dict), tinydb (add_message returns a dict); "
        "passed on sqlite (add_message returns a str)"
    ) in done.stdout


def pythonpath_command() -> str:
    text = (ROOT / "CLAUDE.md").read_text(encoding="utf-8")
    found = re.search(
        r"^<!-- pythonpath-command -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
    )
    assert found, "CLAUDE.md has no block after <!-- pythonpath-command -->"
    return found[1]


def test_claude_md_says_how_to_run_the_polling_tests_with_nothing_of_ours_installed() -> None:
    command = pythonpath_command()
    assert command.count("\n") == 1
    start = f"PYTHONPATH=. python -m pytest -p {OURS}.plugin tests/polling "
    assert command.startswith(start)


def test_the_tests_of_that_command_need_no_more_than_it_says() -> None:
    allowed = {*sys.stdlib_module_names, OURS, "pytest", "tinydb", "freezegun", "xdist", "tests"}
    command = pythonpath_command()
    left_out = {ROOT / file for file in re.findall(r"--ignore=(\S+)", command)}
    folders = re.findall(r" (tests/\w+)", command)
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    files = [file for file in files if file not in left_out]
    files += [file for file in [ROOT / "conftest.py", ROOT / "tests/conftest.py"] if file.exists()]
    assert files
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            strange = {name.partition(".")[0] for name in names} - allowed
            assert not strange, f"{file.relative_to(ROOT)} imports {sorted(strange)}"
