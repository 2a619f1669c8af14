"""Which store a command is about, and that looking for one leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tinydb import TinyDB

from pytest_claude_comms import backup_store, open_store
from pytest_claude_comms.cli.choosing import choose, kind_of, path_of
from pytest_claude_comms.cli.exits import CommandError

from .conftest import Run, environment


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "here"
    found.mkdir()
    monkeypatch.chdir(found)
    return found


def make(url: str, title: str = "a thread") -> None:
    with open_store(url, durability="process") as store:
        store.create_thread(title)


def titles(run: Run, *argv: str) -> list[str]:
    result = run("threads", "--json", *argv)
    assert result.code == 0, result.err
    return [each["thread"]["title"] for each in result.document["threads"]]


# -- the order


def test_what_is_given_wins_then_the_environment_then_the_project_then_what_is_here(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "environment", "project"):
        make(f"sqlite:///{folder}/elsewhere/{name}.db", name)
    make("tinydb:///here.json", "here")

    assert titles(run) == ["here"]
    Path("pyproject.toml").write_text(
        '[tool.claude-comms]\nstore = "sqlite:///elsewhere/project.db"\n'
    )
    assert titles(run) == ["project"]
    monkeypatch.setenv("CLAUDE_COMMS_STORE", "elsewhere/environment.db")
    assert titles(run) == ["environment"]
    assert titles(run, "--store", "sqlite:///elsewhere/given.db") == ["given"]


def test_a_project_file_is_found_above_and_its_url_is_relative_to_it(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("tinydb:///data/comms.json", "above")
    for said in (
        "tinydb:///data/comms.json",
        "data/comms.json",
        f"tinydb:///{folder}/data/comms.json",
    ):
        Path("pyproject.toml").write_text(f'[tool.claude-comms]\nstore = "{said}"\n')
        below = folder / "a" / "b"
        below.mkdir(parents=True, exist_ok=True)
        # One that says nothing of us is no reason to stop looking.
        (folder / "a" / "pyproject.toml").write_text('[project]\nname = "uses-claude-comms"\n')
        monkeypatch.chdir(below)
        assert titles(run) == ["above"]
        monkeypatch.chdir(folder)


@pytest.mark.parametrize(
    "text",
    ["[tool.claude-comms\nstore", "[tool.claude-comms]\nstore = 3\n", "[tool]\nclaude-comms=1"],
)
def test_a_project_file_that_is_wrong(run: Run, text: str) -> None:
    Path("pyproject.toml").write_text(text)
    result = run("threads")
    assert result.code == 2
    assert "pyproject.toml" in result.err


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("stoer", " (did you mean 'store'?)"),
        ("redcat", " (did you mean 'redact'?)"),
        ("colour", ""),
    ],
)
def test_a_key_of_a_project_file_that_there_is_not_is_named(
    run: Run, folder: Path, key: str, near: str
) -> None:
    make("sqlite:///a.db")
    Path("pyproject.toml").write_text(f'[tool.claude-comms]\nstore = "a.db"\n{key} = true\n')
    # Who writes is told also where the store is said otherwise: it would not be redacted.
    for argv in (["threads"], ["expire", "--store", "a.db"]):
        result = run(*argv)
        assert (result.code, result.out) == (2, "")
        assert (
            f"[tool.claude-comms] has no {key!r}{near}: it may say store and redact" in result.err
        )
        assert str(folder / "pyproject.toml") in result.err
    Path("pyproject.toml").write_text(
        f'[tool.claude-comms]\nstore = "a.db"\n[tool.other]\n{key} = 1\n'
    )
    assert titles(run) == ["a thread"]


def test_a_project_file_in_another_encoding_is_wrong(run: Run) -> None:
    Path("pyproject.toml").write_bytes(b"[tool.claude-comms]\nstore = '\xff.db'\n")
    assert run("threads").code == 2


def test_toml_is_read_on_3_10_too() -> None:
    """There ``tomllib`` is missing; whichever is there reads the same."""
    script = """
import sys, types
import tomllib
sys.version_info = (3, 10, 0)
sys.modules["tomli"] = tomllib
sys.modules["tomllib"] = None
from pytest_claude_comms.cli.choosing import _toml
assert _toml("a = 1") == {"a": 1}
"""
    if sys.version_info >= (3, 11):
        subprocess.run([sys.executable, "-c", script], check=True, env=environment())


# -- the one that is here


def test_several_are_listed(run: Run, folder: Path) -> None:
    make("sqlite:///a.db")
    make("tinydb:///b.json")
    result = run("threads")
    assert result.code == 2
    assert "there are 2 stores" in result.err
    assert f"  sqlite:///{folder}/a.db\n  tinydb:///{folder}/b.json\nsay which" in result.err


def test_only_stores_count_and_not_names(run: Run) -> None:
    with TinyDB("users.json") as db:
        db.insert({"name": "a"})
    Path("package.json").write_text('{"name": "x"}')
    Path("empty.db").touch()
    Path("dir.db").mkdir()
    Path("other.sqlite").write_bytes(b"SQLite format 3\0" + bytes(200))
    Path("claims.json").write_text('{"claude_comms": "is a dependency of ours"}')
    result = run("threads")
    assert result.code == 2
    assert "none in this directory" in result.err
    assert "--store" in result.err
    make("sqlite:///mine.sqlite3", "mine")
    assert titles(run) == ["mine"]


def test_the_kind_of_a_file_is_what_is_in_it(folder: Path) -> None:
    make("tinydb:///odd.db")
    make("sqlite:///odd.json")
    assert kind_of("odd.db") == "tinydb"
    assert kind_of("odd.json") == "sqlite"
    assert choose("odd.db") == f"tinydb:///{folder}/odd.db"
    assert choose("odd.json") == f"sqlite:///{folder}/odd.json"


def test_one_that_is_being_written_is_found(run: Run) -> None:
    """Its journal or log holds what the file does not yet."""
    for url in ("sqlite:///a.db", "tinydb:///a.json"):
        with open_store(url) as store:
            store.create_thread("open")
            assert titles(run) == ["open"]
        for name in os.listdir():
            Path(name).unlink()


def test_the_path_of_a_url() -> None:
    assert path_of("sqlite:////a/b.db") == "/a/b.db"
    assert path_of("tinydb:///b.json") == os.path.abspath("b.json")
    assert path_of("memory:") is None
    assert path_of("sqlite:b.db") is None


@pytest.mark.parametrize(("kind", "ending"), [("sqlite", "db"), ("tinydb", "json")])
def test_a_backup_beside_a_store_does_not_count(run: Run, kind: str, ending: str) -> None:
    make(f"{kind}:///a.{ending}", "mine")
    assert run("backup", f"b.{ending}").code == 0
    assert titles(run) == ["mine"]
    assert run("backup", f"b.{ending}", "--overwrite").code == 0
    # Alone it is what is there, and a store as soon as somebody has it open to write.
    for name in os.listdir():
        if name.startswith("a."):
            Path(name).rename(f"../{name}")
    assert titles(run) == ["mine"]
    assert sorted(os.listdir()) == [f"b.{ending}"]
    assert run("expire").code == 0
    for name in os.listdir(".."):
        if name.startswith("a."):
            Path("..", name).rename(name)
    assert "there are 2 stores in this directory" in run("threads").err


def test_several_backups_and_nothing_else(run: Run) -> None:
    make("sqlite:///a.x")
    for name in ("b.db", "c.db"):
        assert run("backup", name, "--store", "a.x").code == 0
    result = run("threads")
    assert result.code == 2
    assert "there are 2 backups, and no other store, in this directory" in result.err


def test_the_file_to_be_written_is_not_the_one_that_is_meant(run: Run, folder: Path) -> None:
    make("sqlite:///a.db", "mine")
    assert run("backup", "b.db").code == 0
    done = run("backup", "b.db", "--overwrite", "--json")
    assert done.code == 0, done.err
    assert done.document["source"] == f"sqlite:///{folder}/a.db"


@pytest.mark.parametrize(("kind", "ending"), [("sqlite", "db"), ("tinydb", "json")])
@pytest.mark.parametrize("beside", ["nothing", "a backup", "a store"])
def test_a_backup_takes_the_place_of_a_store_only_if_asked_to(
    run: Run, kind: str, ending: str, beside: str
) -> None:
    """Who takes FILE for what is backed up must not lose what came after the last backup."""
    name = f"a.{ending}"
    make(f"{kind}:///{name}", "old")
    if beside == "a backup":
        assert run("backup", f"b.{ending}").code == 0
    elif beside == "a store":
        make(f"{kind}:///b.{ending}", "old")
    make(f"{kind}:///{name}", "new")
    for more in ([], ["--overwrite"]):
        result = run("backup", name, *more)
        assert (result.code, result.out) == (2, "")
        assert f"{name} is itself a store that is written to: name another file" in result.err
    assert titles(run, "--store", name) == ["old", "new"]
    if beside != "nothing":  # said in so many words, it is what one may want
        done = run("backup", name, "--overwrite", "--store", f"b.{ending}")
        assert done.code == 0, done.err
        assert titles(run, "--store", name) == ["old"]


@pytest.mark.parametrize("argv", [[], ["pending"], ["wait", "m"], ["copy", "memory:", "a.db"]])
def test_what_is_in_the_memory_of_another_process(
    run: Run, argv: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLAUDE_COMMS_STORE", "memory:")
    result = run(*(argv or ["status"]))
    assert (result.code, result.out) == (2, "")
    assert "is seen by the process that made it only" in result.err
    assert "name a store that has a file" in result.err
    assert os.listdir() == []


def test_what_is_open_here_is_not_opened_by_hand(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing any descriptor of a file drops the locks that SQLite has on it in this process."""
    import builtins

    real, opened = open, []

    def spy(*given: object, **more: object) -> object:
        opened.append(given[0])
        return real(*given, **more)  # type: ignore[call-overload]

    with open_store("sqlite:///a.db") as store:
        store.create_thread("mine")
        monkeypatch.setattr(builtins, "open", spy)
        assert titles(run) == titles(run, "--store", "a.db") == ["mine"]
        monkeypatch.undo()
    assert not [each for each in opened if str(each).endswith("a.db")]


# -- nothing is made by looking


READING = [
    ["status"],
    ["pending"],
    ["threads"],
    ["show", "t"],
    ["timeline", "t"],
    ["doctor"],
]


def _folder() -> dict[str, bytes]:
    return {name: Path(name).read_bytes() for name in os.listdir()}


@pytest.mark.parametrize("argv", [*READING, ["check"], ["status", "m1"]])
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_looking_changes_nothing(run: Run, argv: list[str], scheme: str) -> None:
    """Neither a store that was closed, nor a backup, nor what a kill has left."""
    url = f"{scheme}:///closed"
    with open_store(url, durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "m", "hello", message_id="m1", status="pending", timeout=0)
        backup_store(store, "backup")
    script = """
import os, sys
from pytest_claude_comms import backup_store, open_store
store = open_store(sys.argv[1])
store.create_thread(thread_id="t")
store.add_message("t", "m", "hello", message_id="m1", status="pending", timeout=0)
os.kill(os.getpid(), 9)
"""
    subprocess.run(
        [sys.executable, "-c", script, f"{scheme}:///killed"], check=False, env=environment()
    )
    before = _folder()
    for name in ("closed", "backup", "killed"):
        result = run(*argv, "--store", f"{scheme}:///{name}")
        assert result.code == 0, result.err
        assert "m1" in result.out or "1 message" in result.out or "messages" in result.out.lower()
        assert _folder() == before, name


@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_a_copy_and_a_backup_leave_their_source_alone(run: Run, scheme: str) -> None:
    with open_store(f"{scheme}:///a", durability="process") as store:
        store.create_thread("mine", thread_id="t")
        backup_store(store, "b")
    before = _folder()
    assert run("copy", "b", f"{scheme}:///copy").code == 0
    assert run("backup", "c", "--store", "b").code == 0
    assert {name: data for name, data in _folder().items() if name in before} == before
    assert titles(run, "--store", "c") == titles(run, "--store", "copy") == ["mine"]


@pytest.mark.parametrize("argv", READING)
@pytest.mark.parametrize("url", ["sqlite:///new.db", "tinydb:///new.json", "new.db", "sub/new.db"])
def test_a_missing_store_is_not_made(run: Run, argv: list[str], url: str) -> None:
    result = run(*argv, "--store", url)
    assert result.code == 6
    assert "there is no store at" in result.out + result.err
    assert os.listdir() == []


@pytest.mark.parametrize("argv", READING)
@pytest.mark.parametrize("scheme", ["sqlite", "tinydb"])
def test_an_empty_file_is_not_made_a_store(run: Run, argv: list[str], scheme: str) -> None:
    Path("empty").touch()
    Path("empty-wal").touch()
    assert run(*argv, "--store", f"{scheme}:///empty").code == 6
    assert run(*argv, "--store", "empty").code == 6
    assert sorted(os.listdir()) == ["empty", "empty-wal"]
    assert Path("empty").read_bytes() == b""


@pytest.mark.parametrize("argv", READING)
def test_the_tinydb_of_somebody_else_is_not_taken_over(run: Run, argv: list[str]) -> None:
    with TinyDB("users.json") as db:
        db.insert({"name": "a"})
    before = Path("users.json").read_bytes()
    assert run(*argv, "--store", "tinydb:///users.json").code == 6
    assert os.listdir() == ["users.json"]
    assert Path("users.json").read_bytes() == before


def test_a_store_of_the_other_kind_is_told(run: Run) -> None:
    make("sqlite:///a.db")
    result = run("threads", "--store", "tinydb:///a.db")
    assert result.code == 6
    assert "is a SQLite store" in result.err
    make("tinydb:///b.json")
    result = run("threads", "--store", "sqlite:///b.json")
    assert result.code == 6


def test_what_is_damaged_is_told_and_left(run: Run) -> None:
    make("tinydb:///a.json")
    text = Path("a.json").read_text()
    Path("a.json").write_text(text[:-3])
    result = run("threads", "--store", "a.json")
    assert result.code == 6
    assert "cannot be read as a conversation store" in result.err
    assert Path("a.json").read_text() == text[:-3]


@pytest.mark.parametrize("url", ["nosuch:///x", "sqlite:x.db", "sqlite:///", "memory:x"])
def test_a_url_that_is_none(run: Run, url: str) -> None:
    result = run("threads", "--store", url)
    assert result.code == 2, result.err
    assert os.listdir() == []


def test_a_folder_is_no_store(run: Run) -> None:
    Path("sub").mkdir()
    assert run("threads", "--store", "sub").code == 6
    assert run("threads", "--store", "sqlite:///sub").code == 6
    assert run("threads", "--store", "tinydb:///sub").code == 6


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(run: Run) -> None:
    make("sqlite:///a.db")
    Path("a.db").chmod(0)
    assert run("threads", "--store", "a.db").code == 6


def test_only_who_says_so_makes_a_store(folder: Path) -> None:
    with pytest.raises(CommandError):
        choose("sqlite:///new.db")
    assert choose("sqlite:///new.db", create=True) == f"sqlite:///{folder}/new.db"


def test_a_relative_project_url_of_a_third_party_is_left_as_it_is(folder: Path) -> None:
    Path("pyproject.toml").write_text('[tool.claude-comms]\nstore = "redis://host/1"\n')
    assert choose() == "redis://host/1"


def test_json_that_is_no_tinydb_says_so(run: Run) -> None:
    Path("list.json").write_text(json.dumps([1, 2]))
    assert run("threads", "--store", "tinydb:///list.json").code == 6
    assert json.loads(Path("list.json").read_text()) == [1, 2]


def test_a_broken_project_file_of_somebody_else_is_not_our_business(run: Run) -> None:
    make("sqlite:///a.db", "mine")
    Path("pyproject.toml").write_text("[broken")
    assert titles(run) == ["mine"]
    Path("pyproject.toml").write_text("[tool.claude-comms\nbroken")
    assert run("threads").code == 2
    assert titles(run, "--store", "a.db") == ["mine"]


# -- which kind a new store is, and what is no name


@pytest.mark.parametrize(
    ("name", "scheme"),
    [("d.db", "sqlite"), ("d.sqlite", "sqlite"), ("d.sqlite3", "sqlite"), ("d.json", "tinydb")],
)
def test_the_ending_says_what_a_new_store_is(
    folder: Path, name: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(name, create=True) == f"{scheme}:///{folder}/{name}"
    monkeypatch.setenv("CLAUDE_COMMS_STORE", name)
    assert choose(create=True) == f"{scheme}:///{folder}/{name}"
    with pytest.raises(CommandError, match="for a new one say which kind"):
        choose("d.store", create=True)


def test_who_makes_none_is_told_who_named_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    said = run("threads", "--store", "x.db").err
    assert "as 'x.db' says; 'ask', 'replay', 'demo' and 'copy' make one" in said
    Path("pyproject.toml").write_text('[tool.claude-comms]\nstore = "y.db"\n')
    assert f"store = 'y.db' in {os.path.abspath('pyproject.toml')}" in run("threads").err
    monkeypatch.setenv("CLAUDE_COMMS_STORE", "z.db")
    assert "CLAUDE_COMMS_STORE='z.db'" in run("threads").err
    monkeypatch.setenv("CLAUDE_COMMS_STORE", "sqlite:///w.db")
    assert "CLAUDE_COMMS_STORE='sqlite:///w.db'" in run("threads").err
    assert "as 'tinydb:///v.json' says" in run("threads", "--store", "tinydb:///v.json").err
    monkeypatch.delenv("CLAUDE_COMMS_STORE")
    Path("pyproject.toml").write_text('[tool.claude-comms]\nstore = "sqlite:///u.db"\n')
    assert f"store = 'sqlite:///u.db' in {os.path.abspath('pyproject.toml')}" in run("threads").err
    assert run("threads", "--store", "").code == 2


@pytest.mark.parametrize("argv", READING)
@pytest.mark.parametrize(
    "text",
    ["\n", '{"claude_comms": {}, "a": {"1": {"a": 1}}}', '{"claude_comms": {}, "a": "store_id"}'],
)
def test_what_opening_would_take_over_is_refused(run: Run, argv: list[str], text: str) -> None:
    Path("a.json").write_text(text)
    assert run(*argv, "--store", "tinydb:///a.json").code == 6
    assert os.listdir() == ["a.json"]
    assert Path("a.json").read_text() == text


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("junk.db", "sqlite:///{}/junk.db"),
        ("junk.json", "tinydb:///{}/junk.json"),
        ("junk", "sqlite:///{}/junk"),
        ("my junk.db", "'sqlite:///{}/my junk.db'"),
    ],
)
def test_what_is_no_store_can_be_checked_all_the_same(
    run: Run, folder: Path, name: str, url: str
) -> None:
    Path(name).write_text("hello")
    url = url.format(folder)
    for command in ("check", "threads"):
        result = run(command, "--store", name)
        assert (result.code, result.out) == (6, "")
        assert f"{folder / name} is no conversation store" in result.err
        way_out = f"name it by its URL: 'claude-comms check --store {url}' says what is damaged"
        assert way_out in result.err
    checked = run("check", "--store", url.strip("'"))
    assert checked.code == 6
    assert "what to do: " in checked.out


def test_a_store_whose_table_is_not_the_first_is_ours(run: Run) -> None:
    make("tinydb:///a.json", "mine")
    content = json.loads(Path("a.json").read_text())
    Path("a.json").write_text(json.dumps({"first": {}, **content}))
    assert titles(run, "--store", "tinydb:///a.json") == ["mine"]


@pytest.mark.parametrize("depth", [4_000, 100_000])
def test_a_table_that_nests_too_deep_is_no_fault_of_ours(run: Run, depth: int) -> None:
    Path("a.json").write_text('{"claude_comms": ' + "[" * depth)
    found = run("threads", "--store", "tinydb:///a.json")
    assert found.code == 6
    if depth > 10_000:  # Python 3.13 reads what is less deep, and finds that it is cut off
        assert "nested too deep" in found.err


@pytest.mark.parametrize("name", ["folder", "folder.db", "sqlite:///folder", "tinydb:///folder.db"])
def test_a_directory_is_said_to_be_one_with_a_way_out(run: Run, folder: Path, name: str) -> None:
    path = folder / name.rpartition("/")[2]
    path.mkdir()
    result = run("threads", "--store", name)
    assert (result.code, result.out) == (6, "")
    way_out = "is a directory, not a conversation store: name the file of a store in it"
    assert f"{path} {way_out}" in result.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs")
def test_a_fifo_hangs_nobody(run: Run) -> None:
    os.mkfifo("pyproject.toml")
    assert run("threads").code == 2
    for name in ("pyproject.toml", "sqlite:///pyproject.toml", "tinydb:///pyproject.toml"):
        assert "no regular file" in run("threads", "--store", name).err


def test_a_project_file_that_nests_too_deep(run: Run) -> None:
    Path("pyproject.toml").write_text("[tool.claude-comms]\nx = " + "[" * 100_000)
    assert run("threads").code == 2
