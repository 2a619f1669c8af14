"""Every block of README.md runs, and what it shows as output is what comes out."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from pytest_claude_comms import (
    Change,
    ConversationStore,
    ConversationThread,
    Event,
    Message,
    MessagePoller,
    Reply,
    StatusTracker,
    StreamReader,
    ask_module,
    redact_secrets,
)
from pytest_claude_comms.testing import ScriptedClaude
from pytest_claude_comms.testing.claude_calls import Call
from pytest_claude_comms.testing.claude_script import _SIGNALS, Verbs
from tests.claude_stand_in.test_imitation import IMITATED
from tests.warm_python import WarmPython

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

NOT_RUN = ("main-command", "test-command", "not run")
"""They install; the first two are run by .ci/run on a fresh clone."""
AT_A_STORE = "at a store"
"""Run by test_command_line.py, in a folder with a store and a scripted claude."""


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    note: str
    """What the comment on the line before says."""
    source: str
    output: str
    """The text block behind it, if there is one before the next code."""


def read_blocks(text: str) -> list[Block]:
    found: list[Block] = []
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("```")]
    for start, end in zip(starts[::2], starts[1::2], strict=True):
        language = lines[start][3:]
        source = "\n".join(lines[start + 1 : end]) + "\n"
        comment = re.fullmatch(r"<!-- (.*) -->", lines[start - 1])
        note = comment[1] if comment else ""
        if language == "text" and note != "a screen":  # a screen is no command's output
            last = found.pop()
            assert not last.output, f"line {start + 1}: the output of which block is this?"
            found.append(Block(last.line, last.language, last.note, last.source, source))
            continue
        found.append(Block(start + 1, language, note, source, ""))
    return found


BLOCKS = read_blocks(README)


def anchor(heading: str) -> str:
    """What GitHub calls the place of a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


ANCHORS = {anchor(heading) for heading in re.findall(r"^##+ (.*)$", README, re.MULTILINE)}


def blocks(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"line-{block.line}")
        for block in BLOCKS
        if block.language == language and not block.note.startswith((*NOT_RUN, AT_A_STORE))
    ]


def environment(**more: str) -> dict[str, str]:
    """Ours is found, installed or not; nothing else of the caller's decides anything."""
    names = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # Hypothesis' plugin imports all of it at the end of every run, which takes longer than most do.
    addopts = (
        "-p pytest_claude_comms.plugin -p no:randomly -p no:cacheprovider -p no:hypothesispytest"
    )
    return {
        **names,
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "utf-8",
        "COLUMNS": "200",
        "PYTEST_ADDOPTS": addopts,
        **more,
    }


def run(*command: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """With stderr in its stdout."""
    return subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )


def run_pytest(
    warm_python: WarmPython | None, *args: str, cwd: Path
) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "pytest", *args)
    if warm_python is None:
        return run(*command, cwd=cwd)
    return warm_python.run(command, cwd=cwd, env=environment(), timeout=300)


def run_test(
    warm_python: WarmPython | None, block: Block, folder: Path, *, with_options: bool = True
) -> subprocess.CompletedProcess[str]:
    (folder / "test_block.py").write_text(block.source, encoding="utf-8")
    if not (folder / "pyproject.toml").exists():
        (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    place = block.note.partition("run in ")[2]
    if place:
        shutil.copytree(ROOT / place / "transcripts", folder / "transcripts")
    if sys.platform == "win32" and ", claude" in block.source:
        pytest.skip("the scripted claude needs Unix sockets")
    options = block.note.partition("with ")[2].split() if with_options else []
    return run_pytest(warm_python, "-v", "test_block.py", *options, cwd=folder)


def is_test(block: Block) -> bool:
    return "\ndef test_" in f"\n{block.source}"


def test_it_opens_with_three_lines_and_two_commands_of_one_line() -> None:
    title, empty, *first = README.splitlines()
    assert (title, empty) == ("# pytest-claude-comms", "")
    assert first.index("") == 3
    opening = [block for block in BLOCKS if block.note.endswith("-command")]
    assert [block.note for block in opening] == ["main-command", "test-command"]
    assert opening == BLOCKS[:2]
    for block in opening:
        assert block.language == "sh"
        assert block.source.count("\n") == 1
        # No virtual environment is active before it, and none has to be afterwards.
        assert block.source.startswith("python3 -m venv .venv && .venv/bin/python ")
    assert "-m pytest fixtures/downstream -n 2" in opening[0].source


def test_every_block_is_of_a_kind_that_is_run() -> None:
    run = [block for block in BLOCKS if block.note != "a screen"]
    assert {block.language for block in run} == {"python", "sh", "toml"}
    for block in run:
        if "claude-comms " in block.source:
            assert block.note == AT_A_STORE


@pytest.mark.parametrize("block", [p for p in blocks("python") if is_test(p.values[0])])  # type: ignore[attr-defined]
def test_a_test_of_it(block: Block, tmp_path: Path, warm_python: WarmPython | None) -> None:
    done = run_test(warm_python, block, tmp_path)
    assert done.returncode == (1 if block.note.startswith("fails") else 0), done.stdout
    place = 0
    for line in block.output.splitlines():
        assert line in done.stdout[place:], f"{line!r} does not come next in\n{done.stdout}"
        place = done.stdout.index(line, place)


def test_the_one_that_assumes_a_shape_fails_only_with_its_option(
    tmp_path: Path, warm_python: WarmPython | None
) -> None:
    (block,) = [block for block in BLOCKS if block.note.startswith("fails, with ")]
    done = run_test(warm_python, block, tmp_path, with_options=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("block", [p for p in blocks("python") if not is_test(p.values[0])])  # type: ignore[attr-defined]
def test_a_script_of_it(block: Block, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(block.source, encoding="utf-8")
    done = run(sys.executable, "-W", "error", "script.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert done.stdout == block.output


@pytest.mark.skipif(sys.platform == "win32", reason="they are for a POSIX shell")
@pytest.mark.parametrize("block", blocks("sh"))
def test_the_shell_lines(block: Block, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    # The lines are what is tested here, the whole of the downstream project elsewhere. All its
    # outcomes once: where the stores return what the original ones do.
    some = "silent_and_times_out or may_return" if "-n 2" in block.source else "test_outcomes"
    addopts = f"{environment()['PYTEST_ADDOPTS']} -k '{some}'"
    done = run("sh", "-ec", block.source, cwd=ROOT, PATH=path, PYTEST_ADDOPTS=addopts)
    assert done.returncode == 0, done.stdout


def test_the_ini_values(tmp_path: Path, warm_python: WarmPython | None) -> None:
    (ini,) = [block for block in BLOCKS if block.language == "toml" and not block.note]
    (tmp_path / "pyproject.toml").write_text(ini.source, encoding="utf-8")
    example = next(block for block in BLOCKS if block.note.startswith("from "))
    done = run_test(warm_python, example, tmp_path)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"\[(\w+)\] PASSED", done.stdout) == ["memory", "sqlite"]


def test_the_quick_start_is_a_test_of_the_downstream_project() -> None:
    (example,) = [block for block in BLOCKS if block.note.startswith("from ")]
    file = ROOT / example.note.removeprefix("from ")
    body = example.source.partition("def ")[2]
    assert f"def {body}" in file.read_text(encoding="utf-8")


def test_it_counts_the_transcripts() -> None:
    count = len(list((ROOT / "fixtures" / "transcripts").glob("*.jsonl")))
    assert f"`fixtures/transcripts/` has {count} of them" in README
    assert f"it imitates {len(IMITATED)} of the {count}" in section("A scripted Claude")


def test_keys_are_redacted_from_the_length_on_that_it_says() -> None:
    (row,) = [line for line in README.splitlines() if line.startswith("| `redact_secrets` |")]
    said = re.findall(r"`([\w -]+)…` of (\d+)", row)
    assert [begin for begin, _ in said] == ["sk-ant-", "sk-", "AIza", "Bearer "]
    for begin, length in said:
        key = ("x1" * 20)[: int(length)]
        assert key not in redact_secrets(f"{begin}{key}")
        assert redact_secrets(f"{begin}{key[:-1]}") == f"{begin}{key[:-1]}"


def test_the_signals_of_which_a_scripted_run_crashes_are_named() -> None:
    (row,) = [line for line in README.splitlines() if line.startswith("| `crashes(")]
    assert set(re.findall(r'`"(\w+)"`', row)) == set(_SIGNALS)


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        assert link[1:] in ANCHORS if link.startswith("#") else (ROOT / link).is_file(), link


def test_its_table_of_contents_has_every_section() -> None:
    contents = README[: README.index("\n## ")]
    for heading in re.findall(r"^## (.*)$", README, re.MULTILINE):
        assert f"](#{anchor(heading)})" in contents or heading == "Install", heading


def test_it_names_every_option_and_no_other(warm_python: WarmPython | None) -> None:
    done = run_pytest(warm_python, "--help", cwd=ROOT)
    options = set(re.findall(r"--claude-comms-\w+", done.stdout))
    assert options
    assert set(re.findall(r"--claude-comms-\w+", README)) == options


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title!r}"
    return found[1]


def public(cls: type) -> set[str]:
    return {name for name in vars(cls) if not name.startswith("_")}


def words(text: str) -> set[str]:
    """All that stands between backticks, word by word; examples do not count."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"\w+", code)}


def test_it_names_every_method_of_a_store_and_its_parameters() -> None:
    known = words(section("Stores"))
    methods = public(ConversationStore) - {"next_deadline_us", "subscribe"}  # for pollers
    assert methods
    for name in methods:
        member = inspect.getattr_static(ConversationStore, name)
        assert name in known
        if inspect.isfunction(member):
            assert {*inspect.signature(member).parameters} - {"self"} <= known, name


@pytest.mark.parametrize("record", [ConversationThread, Message, Change], ids=lambda r: r.__name__)
def test_it_names_every_field(record: type[ConversationThread | Message | Change]) -> None:
    (line,) = [line for line in section("Stores").splitlines() if f"| `{record.__name__}`" in line]
    shown = re.findall(r"`(\w+)`", line.split("|")[2])
    assert shown == [field.name for field in fields(record)]


def test_it_names_what_pollers_and_trackers_can_do() -> None:
    known = words(section("Pollers and trackers"))
    assert public(MessagePoller) - {"run", "left_open"} <= known
    assert {*inspect.signature(MessagePoller.__init__).parameters} - {"self"} <= known
    assert {*inspect.signature(MessagePoller.track).parameters} - {"self"} <= known
    assert public(StatusTracker) - {"apply"} <= known
    assert public(Event) - {field.name for field in fields(Change)} - {
        "of",
        "changes_status",
        "changes_content",
    } <= words(section("Stores"))


def test_it_names_what_can_be_said_to_ask_module() -> None:
    known = words(section("Asking a module"))
    assert {*inspect.signature(ask_module).parameters} <= known
    assert public(Reply) <= known


def test_it_names_what_an_answer_keeps_of_a_run() -> None:
    known = words(section("Asking a module"))
    outcome = StreamReader().finish(0, "", None)
    assert {*outcome.as_metadata(), "question_id", "directory", "retry"} <= known


def test_it_names_every_verb_and_its_parameters() -> None:
    known = words(section("A scripted Claude"))
    for name in public(Verbs):
        parameters = {*inspect.signature(getattr(Verbs, name)).parameters} - {"self"}
        assert {name, *parameters} <= known, name
    for_others = {"enter", "script_for", "next_is_recorded", "not_scripted", "failed"}
    for_others |= {"left_open", "close"}
    assert public(ScriptedClaude) - for_others <= known
    assert {field.name for field in fields(Call)} <= known
