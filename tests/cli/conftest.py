"""What the tests of the command line share: a command in this process, and one in its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from pytest_claude_comms import ConversationStore

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-W", "error", "-m", "pytest_claude_comms.cli"]


@dataclass(frozen=True)
class Result:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """The JSON documents it printed, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def document(self) -> Any:
        """The only one."""
        (found,) = self.documents
        return found


class Run(Protocol):
    def __call__(self, *argv: str, store: ConversationStore | None = None) -> Result: ...


Shell = Callable[..., Result]
Valid = Callable[[Any], None]


def environment(**more: str) -> dict[str, str]:
    """The caller's, without what would decide for a command."""
    unwanted = ("CLAUDE_COMMS_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "TTY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, **more}


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("CLAUDE_COMMS_", "NO_COLOR", "FORCE_COLOR")):
            monkeypatch.delenv(name)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, on ``store`` if one is given."""
    from pytest_claude_comms.cli import main

    def call(*argv: str, store: ConversationStore | None = None) -> Result:
        capsys.readouterr()
        code = main(list(argv), store=store)
        said = capsys.readouterr()
        return Result(code, said.out, said.err)

    return call


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a command in a process of its own, in the test's folder."""

    def call(*argv: str, stdin: str = "", encoding: str = "utf-8", **more: str) -> Result:
        done = subprocess.run(
            [*COMMAND, *argv],
            cwd=tmp_path,
            env=environment(**more),
            input=stdin,
            capture_output=True,
            encoding=encoding,
            check=False,
            timeout=60,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def valid() -> Valid:
    """Fails for a document that is not as the schema says."""
    import jsonschema

    from pytest_claude_comms.cli.json_form import schema_text

    checker = jsonschema.Draft202012Validator(json.loads(schema_text()))

    def check(document: Any) -> None:
        kind = document["kind"]
        # Against its own kind first: what is wrong with it is told better than by "none fits".
        its_own = {**json.loads(schema_text()), "oneOf": [{"$ref": f"#/$defs/{kind}_document"}]}
        jsonschema.Draft202012Validator(its_own).validate(document)
        checker.validate(document)

    return check
