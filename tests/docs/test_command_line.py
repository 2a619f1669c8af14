"""What README.md says of the command line: its blocks run, its tables are the program's."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import pytest_claude_comms
from pytest_claude_comms import open_store
from pytest_claude_comms.cli import exits
from pytest_claude_comms.cli.app import COMMANDS, app
from pytest_claude_comms.testing import FakeClock, ScriptedClaude
from tests.docs.test_readme import AT_A_STORE, BLOCKS, ROOT, Block, environment, is_test, section

ANSWER = "A PDF has `_key`, `title` and `pages`."

posix = pytest.mark.skipif(sys.platform == "win32", reason="they are for a POSIX shell")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with a store, a module and a recording; commands are found in its ``bin``."""
    folder = tmp_path / "work"
    (folder / "arangodb").mkdir(parents=True)
    (folder / "fixtures").symlink_to(ROOT / "fixtures")
    programs = folder / "bin"
    programs.mkdir()
    ours = f'"{sys.executable}" -W error -m pytest_claude_comms.cli'
    for name, command in (("python", f'"{sys.executable}"'), ("claude-comms", ours)):
        (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    _fill(folder / "comms.db")
    with ScriptedClaude(programs) as claude:
        claude.replies(ANSWER)
        yield folder


def _fill(path: Path) -> None:
    """One answer that is complete, one whose writer is gone, one that goes on."""
    with FakeClock() as clock, open_store(f"sqlite:///{path}", clock=clock) as store:
        store.create_thread("PDF schema", modules=["marker", "arangodb"], thread_id="pdf")
        question = "Which fields does a PDF have?"
        store.add_message("pdf", "marker", question, message_id="question-1")
        for number, timeout in ((1, 300), (2, 300), (3, None)):
            store.add_message(
                "pdf",
                "arangodb",
                message_type="answer",
                status="pending",
                timeout=timeout,
                message_id=f"answer-{number}",
            )
            if number == 1:
                clock.advance(1)
                store.update_message("answer-1", status="processing")
                clock.advance(1)
                store.update_message("answer-1", append="_key, _from")
                clock.advance(1)
                store.update_message("answer-1", append=", _to", status="complete")


def run(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    names = environment(PATH=path, HOME=str(folder))
    names = {name: value for name, value in names.items() if not name.startswith("CLAUDE_COMMS_")}
    return subprocess.run(
        ["sh", "-ec", source],
        check=False,
        cwd=folder,
        env=names,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


@posix
@pytest.mark.parametrize(
    "block",
    [pytest.param(each, id=f"line-{each.line}") for each in BLOCKS if each.note == AT_A_STORE],
)
def test_a_block_of_commands(block: Block, place: Path) -> None:
    done = run(block.source, place)
    assert done.returncode == 0, done.stdout + done.stderr
    if block.output:
        assert done.stdout.replace(str(place), "/home/me/work") == block.output, done.stderr
    assert "Traceback" not in done.stderr


@posix
@pytest.mark.parametrize(
    "commands",
    ["claude-comms (copy|backup|check)", pytest.param("", marks=pytest.mark.long)],
    ids=["those that make files", "all"],
)
def test_all_blocks_can_be_run_one_after_the_other_in_one_folder(
    commands: str, place: Path
) -> None:
    """What one leaves behind must not be in the way of the next."""
    ran = 0
    for block in BLOCKS:
        if block.note == AT_A_STORE:
            if not re.search(commands, block.source):
                continue
            # It is exported by the first that asks.
            done = run(
                f'export CLAUDE_COMMS_STORE="sqlite:///$PWD/comms.db"\n{block.source}', place
            )
        elif block.language == "python" and not is_test(block):
            (place / "script.py").write_text(block.source, encoding="utf-8")
            done = run("python -W error script.py", place)
            assert done.stdout == block.output, done.stderr
        else:
            continue
        assert done.returncode == 0, (block.line, done.stdout + done.stderr)
        ran += 1
    assert ran >= 7


def screens() -> list[Block]:
    return [each for each in BLOCKS if each.note == "a screen" and each.source.startswith("$")]


def test_screens_are_of_commands_that_there_are() -> None:
    shown = [re.match(r"\$ claude-comms (\w+)", each.source) for each in screens()]
    assert {match[1] for match in shown if match} == {"ask", "pending", "watch"}
    assert all(shown)


@posix
def test_the_head_of_the_screen_of_pending_is_what_it_prints(place: Path) -> None:
    (screen,) = [each for each in screens() if each.source.startswith("$ claude-comms pending")]
    head = run("claude-comms pending", place).stdout.splitlines()[0]
    assert screen.source.splitlines()[1].split() == head.split()


# -- its tables


def rows(first: str) -> list[list[str]]:
    """The cells of the table of that section whose first column is called so."""
    found = re.search(
        rf"^\| {first} \|.*\n\|[-|]+\n((?:\|.*\n)+)", section("Command line"), re.MULTILINE
    )
    assert found, f"there is no table of {first}"
    lines = found[1].replace(r"\|", "\0").splitlines()
    return [
        [cell.strip().replace("\0", "|") for cell in line.strip("|").split("|")] for line in lines
    ]


def option_names(command: click.Command) -> set[str]:
    return {
        name
        for each in command.params
        if isinstance(each, click.Option)
        for name in each.opts
        if name.startswith("-")
    }


def test_every_command_is_in_the_table_with_its_arguments_and_options() -> None:
    common = option_names(app)
    table = rows("command")
    assert {usage.strip("`").split()[0] for usage, *_ in table} == {*COMMANDS}
    assert len(table) == len(COMMANDS)
    for usage, options, _ in table:
        name = usage.strip("`").split()[0]
        context = click.Context(app, info_name="claude-comms")
        command = app.get_command(context, name)
        assert command is not None
        arguments = command.collect_usage_pieces(click.Context(command))[1:]
        assert usage == f"`{' '.join([name, *arguments])}`"
        assert set(re.findall(r"`(--[\w-]+)`", options)) == option_names(command) - common, name


def test_every_common_option_is_in_the_table() -> None:
    named = {name for option, _ in rows("option") for name in re.findall(r"`(-[\w-]+)", option)}
    assert named == option_names(app) | {"-h", "--help"}
    for name in COMMANDS:
        command = app.get_command(click.Context(app), name)
        assert command is not None
        # What has a JSON form is said there too.
        assert ("--json" in option_names(command)) == (name not in ("demo", "completion"))


def test_the_exit_codes_are_those_of_the_program() -> None:
    shown = [(int(code), meaning.replace("`", "'")) for code, meaning in rows("exit code")]
    assert shown == list(exits.MEANINGS)


def test_what_keeps_a_store_is_documented_with_its_parameters() -> None:
    text = section("Copy, backup, check, compact")
    for name in ("copy_store", "backup_store", "check_store"):
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}(")]
        parameters = {*inspect.signature(getattr(pytest_claude_comms, name)).parameters}
        assert parameters - {"store"} <= set(re.findall(r"\w+", row)), name
