"""What a command does at a terminal, in a pipe, and when either goes away."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from pytest_claude_comms import open_store
from pytest_claude_comms.cli.output import Output

from .conftest import COMMAND, Shell, environment
from .screen import Screen
from .terminal import CTRL_BACKSLASH, CTRL_C, Terminal, in_terminal, needs_terminal

COLOUR = re.compile(r"\x1b\[[\d;]*m")
ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def filled(tmp_path: Path) -> Path:
    with open_store(f"sqlite:///{tmp_path}/a.db", durability="process") as store:
        store.create_thread("PDF schema", thread_id="t")
        store.add_message(
            "t", "m", "# Title\n\nsome **bold** text\n\n- `_key`\n\n[a link](http://x.y)\n"
        )
        store.add_message("t", "m", status="pending", message_id="p")
    return tmp_path


READING = [["status"], ["status", "p"], ["pending"], ["threads"], ["show", "t"], ["timeline", "t"]]


# -- colours


@needs_terminal
@pytest.mark.parametrize(
    "argv", [["status"], ["pending"], ["threads"], ["show", "t"], ["timeline", "t"]]
)
def test_colours_on_a_terminal(filled: Path, argv: list[str]) -> None:
    assert COLOUR.search(in_terminal(argv, filled).out)


@needs_terminal
@pytest.mark.parametrize("argv", [["status"], ["pending"], ["threads"], ["timeline", "t"]])
@pytest.mark.parametrize(
    ("option", "variables"),
    [
        (["--no-color"], {}),
        ([], {"NO_COLOR": "1"}),
        ([], {"TERM": "dumb"}),
        (["--no-color"], {"FORCE_COLOR": "1"}),
        (["--json"], {}),
    ],
)
def test_no_colours_for_who_wants_none(
    filled: Path, argv: list[str], option: list[str], variables: dict[str, str]
) -> None:
    result = in_terminal([*argv, *option], filled, variables=variables)
    assert result.code == 0
    assert ESCAPE not in result.out


@needs_terminal
def test_an_empty_no_color_says_nothing(filled: Path) -> None:
    """no-color.org: when present and not an empty string."""
    assert COLOUR.search(in_terminal(["status"], filled, variables={"NO_COLOR": ""}).out)


@needs_terminal
@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_markdown_without_colours(filled: Path, variables: dict[str, str]) -> None:
    shown = in_terminal(["show", "t"], filled, variables=variables).out
    assert not re.search(r"\x1b\[(?:[\d;]*;)?[34][0-7]m", shown)
    assert "some bold text" in COLOUR.sub("", shown)


@pytest.mark.parametrize("argv", READING)
def test_never_in_a_pipe(shell: Shell, argv: list[str]) -> None:
    asked_for = dict.fromkeys(("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"), "1")
    result = shell(*argv, **asked_for, TERM="xterm-256color")
    assert result.code == 0
    assert ESCAPE not in result.out + result.err


# -- markdown


@needs_terminal
def test_markdown_is_rendered_on_a_terminal(filled: Path) -> None:
    shown = in_terminal(["show", "t"], filled).out
    plain = COLOUR.sub("", shown)
    assert "some bold text" in plain
    assert "**" not in plain
    assert " • _key" in plain
    assert "http://x.y" in plain
    assert "**bold**" in in_terminal(["show", "t", "--plain"], filled).out


def test_in_a_pipe_it_is_as_it_was_written(shell: Shell) -> None:
    assert "some **bold** text\n\n- `_key`\n" in shell("show", "t").out


@needs_terminal
def test_a_text_that_is_too_long_to_be_rendered(filled: Path) -> None:
    with open_store(f"sqlite:///{filled}/a.db", durability="process") as store:
        store.create_thread(thread_id="long")
        store.add_message("long", "m", "**x** " * 40_000)
    assert "**x**" in in_terminal(["show", "long"], filled).out


# -- width


@needs_terminal
def test_the_last_column_is_cut_to_the_terminal(filled: Path, shell: Shell) -> None:
    with open_store(f"sqlite:///{filled}/a.db", durability="process") as store:
        store.create_thread("日本" * 100, thread_id="wide")
        store.create_thread("x" * 300, thread_id="long")
    shown = COLOUR.sub("", in_terminal(["threads"], filled, columns=90).out)
    assert max(len(line) for line in shown.splitlines()) <= 90
    assert shown.count("…") == 2
    assert "x" * 300 in shell("threads").out


# -- pipes


@pytest.mark.parametrize("argv", [["threads"], ["threads", "--json"], ["show", "many"], ["--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_reading(filled: Path, argv: list[str], unbuffered: str) -> None:
    with open_store(f"sqlite:///{filled}/a.db", durability="process") as store:
        store.create_thread(thread_id="many")
        store.add_message("many", "m", "text\n" * 100_000)
        for _ in range(500):
            store.create_thread("x" * 1000)
    child = subprocess.Popen(
        [*COMMAND, *argv],
        cwd=filled,
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    if argv != ["--help"]:
        child.stdout.read(10)
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    code = child.wait(60)
    assert said == b""
    # Unbuffered, Python does not notice that a large write was cut short.
    assert code == 141 or (unbuffered and code == 0)


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
def test_head(filled: Path) -> None:
    with open_store(f"sqlite:///{filled}/a.db", durability="process") as store:
        for _ in range(500):
            store.create_thread("x" * 1000)
    words = " ".join(f"'{word}'" for word in COMMAND)
    done = subprocess.run(
        ["sh", "-c", f"{words} threads | head -n 1"],
        cwd=filled,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("THREAD")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("argv", ["status", "threads --json", "--help", "pending"])
def test_no_standard_output_at_all(filled: Path, argv: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" "$@" {argv} >&-', *COMMAND],
        cwd=filled,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")
    assert "error" not in done.stderr.lower()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("argv", [["status"], ["threads", "--json"]])
def test_a_disk_that_is_full(filled: Path, argv: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *argv],
            cwd=filled,
            env=environment(PYTHONUNBUFFERED=""),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "claude-comms: error: [Errno 28] No space left on device\n"


# -- Ctrl-C


@needs_terminal
def test_ctrl_c_while_reading(filled: Path) -> None:
    script = """
import sys, time
from pytest_claude_comms.cli import main
from pytest_claude_comms.stores.core import BaseStore
def wait(self):
    print("reading", flush=True)
    while True:
        time.sleep(0.01)  # a signal right before a sleep does not end it
BaseStore.threads = wait
sys.exit(main(["threads"]))
"""

    def press(screen: Terminal) -> None:
        assert screen.shows("reading")
        screen.type(CTRL_C)

    result = in_terminal([], filled, python=[COMMAND[0], "-c", script], at_start=press)
    assert result.code == 130
    assert "Traceback" not in result.out


# -- what takes long


@needs_terminal
@pytest.mark.parametrize("option", [[], ["--quiet"]])
def test_whoever_waits_over_a_second_is_told_why(filled: Path, option: list[str]) -> None:
    """Real time: it is about somebody at a screen."""
    script = f"""
import sys, time
from pytest_claude_comms.cli import main
from pytest_claude_comms.stores.core import BaseStore
before = BaseStore.threads
def slow(self):
    time.sleep(1.5)
    return before(self)
BaseStore.threads = slow
sys.exit(main(["threads", *{option}]))
"""
    result = in_terminal([], filled, python=[COMMAND[0], "-c", script])
    assert result.code == 0
    assert ("reading the store …" in result.out) == (not option)
    assert "PDF schema" in result.out


@needs_terminal
def test_whoever_waits_less_is_told_nothing(filled: Path) -> None:
    assert "reading" not in in_terminal(["threads"], filled).out


@needs_terminal
def test_a_bar_for_what_is_counted(filled: Path) -> None:
    script = """
import sys, time
from pytest_claude_comms.cli.output import Output
out = Output()
with out.progress("copying [red]", 20) as advance:
    for _ in range(20):
        time.sleep(0.075)
        advance(1)
out.print("done")
"""
    result = in_terminal([], filled, python=[COMMAND[0], "-c", script])
    assert "copying [red]" in result.out
    assert "/20" in result.out
    assert result.out.rstrip().endswith("done")


def test_no_bar_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    with out.progress("copying", 20) as advance, out.working("reading"):
        advance(1)
    assert capsys.readouterr() == ("", "")


# -- what an Output says of itself


class _Terminal:
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("options", "variables", "expected"),
    [
        ({}, {}, (True, True, True)),
        ({"quiet": True}, {}, (True, False, False)),
        ({"json": True}, {}, (True, False, True)),
        ({"no_color": True}, {}, (False, True, True)),
        ({}, {"NO_COLOR": "1"}, (False, True, True)),
        ({}, {"TERM": "dumb"}, (False, False, False)),
    ],
)
def test_what_may_be_done(
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, bool],
    variables: dict[str, str],
    expected: tuple[bool, bool, bool],
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    out = Output(**options)
    assert (out.has_colour, out.is_live, out.is_live_aside) == expected


@needs_terminal
@pytest.mark.parametrize("columns", ["0", "99999999999999999999"])
def test_columns_of_the_environment_may_say_anything(filled: Path, columns: str) -> None:
    result = in_terminal(["show", "t"], filled, variables={"COLUMNS": columns})
    assert result.code == 0
    assert "bold" in COLOUR.sub("", result.out)


_SLOW = """
import sys, time
from pytest_claude_comms.cli import main, output
from pytest_claude_comms.stores.core import BaseStore
output.SHOWN_AFTER = 0.01
def slow(self):
    sys.stdout.write("begun\\n")
    sys.stdout.flush()
    while True:
        time.sleep(0.01)
BaseStore.threads = slow
sys.exit(main(["threads"]))
"""
_SLOW_BAR = """
import sys, time
from pytest_claude_comms.cli import output
output.SHOWN_AFTER = 0.01
with output.Output().progress("copying", 10**9) as advance:
    while True:
        time.sleep(0.01)
        advance(1)
"""


@needs_terminal
@pytest.mark.parametrize("script", [_SLOW, _SLOW_BAR], ids=["spinner", "bar"])
@pytest.mark.parametrize(
    ("name", "key"),
    [("SIGINT", CTRL_C), ("SIGQUIT", CTRL_BACKSLASH), ("SIGTERM", None), ("SIGHUP", None)],
)
def test_what_turns_is_gone_and_the_cursor_is_there_after_each_signal(
    filled: Path, script: str, name: str, key: bytes | None
) -> None:
    def stop(screen: Terminal) -> None:
        assert screen.shows("reading the store" if script == _SLOW else "copying")
        if key is None:
            screen.process.send_signal(getattr(signal, name))
        else:
            screen.type(key)

    def limited() -> list[str]:  # SIGQUIT would leave a core
        lines = f"import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n{script}"
        return [COMMAND[0], "-c", lines]

    result = in_terminal([], filled, python=limited(), at_start=stop)
    number = getattr(signal, name)
    assert result.code in (-number, 128 + number, 1)  # 1: the bar alone, by its KeyboardInterrupt
    shown = Screen(120, 40)
    shown.write(result.out.replace("\r\n", "\n").partition("Traceback")[0])
    left = [row for row in shown.rows if row.strip("^C\\ ")]
    assert left == (["begun"] if script == _SLOW else [])
    modes = re.findall(r"\x1b\[\?25([hl])", result.out)
    assert modes.count("l") == 0  # SIGKILL, too, would leave it hidden


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
def test_a_signal_that_somebody_minds_stays_his(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Output().working("reading"):
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGQUIT) is not signal.SIG_DFL
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGQUIT) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, ignored)


# -- narrow terminals


@needs_terminal
@pytest.mark.parametrize("columns", [40, 60])
@pytest.mark.parametrize("argv", [["pending"], ["threads"], ["status"], ["timeline", "t"]])
def test_no_table_is_broken_by_a_narrow_terminal(
    filled: Path, argv: list[str], columns: int
) -> None:
    with open_store(f"sqlite:///{filled}/a.db", durability="process") as store:
        store.add_message("t", "arangodb", status="pending", message_id="f" * 16)
        store.create_thread("a title that is longer than a terminal is wide", thread_id="e" * 16)
    shown = COLOUR.sub("", in_terminal(argv, filled, columns=columns).out).splitlines()
    heads = {
        "MESSAGE",
        "THREAD",
        "STATUS",
        "CHANGED",
        "MODULES",
        "TITLE",
        "AGE",
        "LEFT",
        "REVISION",
    }
    for line in shown:
        if len(heads & {*line.split()}) > 1:
            assert len(line) <= columns, line
    if argv == ["pending"]:
        assert f"MESSAGE  {'f' * 16}" in shown
        assert "STATUS   pending" in shown
        assert "MODULE   arangodb" in shown
