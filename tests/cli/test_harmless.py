"""Nothing in a message commands the terminal that shows it, whoever wrote it and where."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_claude_comms import ConversationStore, open_store
from pytest_claude_comms.cli.output import Output
from pytest_claude_comms.cli.safety import clean, safe, width

from .conftest import Run, Shell, Valid, environment
from .terminal import in_terminal, needs_terminal

ATTACKS = {
    "colour": "\x1b[31mred",
    "clear the screen": "\x1b[2J\x1b[H",
    "title": "\x1b]0;title\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "link": "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\",
    "answer back": "\x1b[6n\x1b[c\x05",
    "C1": "\x9b31m \x90q\x9c \x9d0;t\x9c",
    "overwrite": "good\rbad \x08\x08\x08",
    "bell and delete": "\x07\x7f\x00\x0b\x0c\x0e\x0f",
    "bidi": "a\u202eb\u202d\u2066c\u2069\u200f\u061c",
    "invisible": "a\u200b\u2060\ufeff\u00adb\U000e0041",
    "separators": "a\u2028b\u2029c\x85d",
    "markdown": "[x](http://e/\x1b[31m) `\x1b[1m` <b>\x1b</b> &#27;&#x202e;&#155;",
    "rich": "[red]not markup[/red] :smile: [link=http://e]x[/link]",
    "words of ours": "\\x1b",
}
ALL = " ".join(ATTACKS.values())

COMMANDS = [
    ["status"],
    ["status", "{message}"],
    ["status", "{thread}"],
    ["pending"],
    ["threads"],
    ["show", "{thread}"],
    ["show", "{thread}", "--plain"],
    ["timeline", "{thread}"],
    ["timeline", "{message}", "--all"],
]


def is_harmless(text: str) -> bool:
    """Newlines and tabs; no other control, format or surrogate character but joiners."""
    return all(
        char in "\n\t\u200c\u200d"
        or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        for char in text
    )


def is_harmless_in_colour(text: str) -> bool:
    """The same, but for colours, which only we give."""
    return is_harmless(re.sub(r"\x1b\[[\d;]*m", "", text))


def poison(store: ConversationStore, attack: str) -> dict[str, str]:
    """A store with it everywhere; the ids to ask for."""
    thread, message = f"t{attack}", f"m{attack}"
    store.create_thread(attack, modules=[attack], metadata={attack: [attack]}, thread_id=thread)
    store.add_message(
        thread,
        attack,
        f"{attack}\n\n# {attack}\n\n```py\n{attack}\n```\n\n"
        f"| a |\n|---|\n| {attack} |\n\n- {attack}\n",
        message_type=attack,
        status="pending",
        metadata={attack: {attack: attack}},
        message_id=message,
    )
    store.update_message(message, status="processing", append=attack, metadata={f"k{attack}": 1})
    store.update_message(message, status="failed", error=attack)
    store.add_message(thread, attack, attack, message_type=attack, status="pending", timeout=0)
    return {"thread": thread, "message": message}


@pytest.mark.claude_comms(stores=["memory"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("attack", ATTACKS)
def test_words(run: Run, store: ConversationStore, attack: str, command: list[str]) -> None:
    ids = poison(store, ATTACKS[attack])
    result = run(*(word.format(**ids) for word in command), store=store)
    assert result.code == 0
    assert is_harmless(result.out + result.err)


@pytest.mark.claude_comms(stores=["memory"])
@pytest.mark.parametrize("command", COMMANDS[:-2], ids=" ".join)
def test_json(run: Run, valid: Valid, store: ConversationStore, command: list[str]) -> None:
    ids = poison(store, ALL)
    argv = [word.format(**ids) for word in command if word != "--plain"]
    result = run(*argv, "--json", store=store)
    assert re.fullmatch(r"[\x20-\x7e]+\n", result.out)
    valid(result.document)
    assert ALL in json.dumps(result.document, ensure_ascii=False).encode().decode(
        "unicode_escape", "ignore"
    ) or ALL in repr_of(result.document)


def repr_of(document: object) -> str:
    """All texts of a document in a row."""
    if isinstance(document, dict):
        return " ".join(map(repr_of, [*document, *document.values()]))
    if isinstance(document, list):
        return " ".join(map(repr_of, document))
    return document if isinstance(document, str) else ""


@pytest.mark.claude_comms(stores=["memory"])
def test_what_was_typed_wrong(run: Run, store: ConversationStore) -> None:
    ids = poison(store, ALL)
    store.add_message(ids["thread"], "m", message_id=f"m{ALL} too")
    for argv in (
        ["status", f"{ALL}wrong"],
        ["status", f"m{ALL[:20]}"],
        ["status", ids["message"][:-1] + "x"],
        [ALL],
        ["--store", ALL, "status"],
        [f"--{ALL}"],
        ["status", "--latest", ALL],
        ["completion", ALL],
    ):
        result = run(*argv, store=None if "--store" in argv else store)
        assert result.code in (2, 3, 6), result
        assert is_harmless(result.out + result.err)


def test_the_name_of_a_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a\x1b[31m\u202e"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("no file here can have such a name")
    monkeypatch.chdir(folder)
    for name in ("x\x1b[2J.db", "y\x1b[2J.db"):
        with open_store(f"sqlite:///{name}"):
            pass
    for argv in (
        ["status"],
        ["status", "--store", "x\x1b[2J.db"],
        ["doctor", "--store", os.curdir],
    ):
        result = run(*argv)
        assert result.out + result.err
        assert is_harmless(result.out + result.err)
    result = run("doctor", "--store", "x\x1b[2J.db")
    assert "x\\x1b[2J.db.lock" in result.out
    assert is_harmless(result.out)


@needs_terminal
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_on_a_terminal(tmp_path: Path, command: list[str]) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db", durability="process") as store:
        ids = poison(store, ALL.replace("\x00", ""))  # no argument can have a NUL
    result = in_terminal([word.format(**ids) for word in command], tmp_path)
    assert result.code == 0, result.out
    assert "\x1b[" in result.out  # colours, so this is not the text of a pipe
    assert is_harmless_in_colour(result.out.replace("\r\n", "\n"))


@needs_terminal
def test_raw_is_what_was_asked_for(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db", durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "m", ALL)
    assert ATTACKS["title"] in in_terminal(["show", "t", "--raw"], tmp_path).out


# -- the two functions


@given(st.text())
def test_safe_text_is_harmless_and_what_is_harmless_stays(text: str) -> None:
    made = safe(text)
    assert is_harmless(made)
    assert safe(made) == made
    if is_harmless(text) and all(unicodedata.category(char) not in ("Cn", "Co") for char in text):
        assert made == text


@given(st.text())
def test_clean_text_is_one_line(text: str) -> None:
    assert clean(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\nb", "a\nb"),
        ("a\rb", "a\\rb"),
        ("\x1b[0m", "\\x1b[0m"),
        ("\x9b", "\\x9b"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("\xa0\u3000", "\xa0\u3000"),
        ("👩\u200d💻", "👩\u200d💻"),
        ("نمی\u200cکنم", "نمی\u200cکنم"),
        ("\u2028", "\\u2028"),
    ],
)
def test_how_it_is_shown(text: str, shown: str) -> None:
    assert safe(text) == shown


@pytest.mark.parametrize(
    ("text", "cells"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("", 0), ("👍", 2), ("a\u200d", 1)]
)
def test_how_wide_it_is(text: str, cells: int) -> None:
    assert width(text) == cells


def test_a_table_of_wide_text_stands_straight(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table([["A", "B"], ["日本", "x"], ["e\u0301a", "x"], ["a\nb", "x"]])
    assert capsys.readouterr().out == "A     B\n日本  x\ne\u0301a    x\na b   x\n"


def test_whatever_prints_makes_it_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.print(ALL)
    out.note(ALL)
    out.warn(ALL)
    out.table([["A", "B"], [ALL, ALL]])
    out.painted(out.paint(ALL, "red") + out.status(ALL))
    out.json({ALL: ALL})
    said = capsys.readouterr()
    assert is_harmless(said.out + said.err)
    out.raw(ALL)
    assert capsys.readouterr().out == ALL


# -- encodings


EACH = """
import json, sys
from pytest_claude_comms.cli import main
for argv in json.loads(sys.argv[1]):
    print("exit code", main(argv), flush=True)
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_what_an_encoding_cannot_say_does_not_crash(
    shell: Shell, tmp_path: Path, encoding: str
) -> None:
    with open_store(f"sqlite:///{tmp_path}/a.db", durability="process") as store:
        store.create_thread("日本 👍 é", thread_id="t")
        store.add_message("t", "日本", "日本 👍 é\xa0…", status="pending", message_id="日本")
    # In one process: it is the encoding that differs.
    argvs = [["status"], ["show", "t"], ["timeline", "t"], ["threads"], ["pending"]]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EACH, json.dumps(argvs)],
        cwd=tmp_path,
        env=environment(PYTHONIOENCODING=f"{encoding}:strict", PYTHONUTF8="0"),
        capture_output=True,
        encoding=encoding,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *shown, rest = done.stdout.split("exit code 0\n")
    assert (len(shown), rest) == (len(argvs), "")
    for out in shown:
        assert ("\\u65e5\\u672c" in out) == (encoding != "utf-8")
        assert ("日本" in out) == (encoding == "utf-8")
    result = shell("status", "日本x", PYTHONIOENCODING=f"{encoding}:strict", PYTHONUTF8="0")
    assert (result.code, result.out) == (3, "")
