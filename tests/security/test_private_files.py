"""Whatever is written can be read by its owner only, from its first moment, under any umask.

The system says what happens: every file that a process creates, with which mode.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_claude_comms

ROOT = str(Path(pytest_claude_comms.__file__).parents[1])
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
OTHERS = 0o077

SCRIPT = """
import os, sys
from pytest_claude_comms import ask_module, backup_store, check_store, copy_store, open_store
from pytest_claude_comms.testing import recording
from pytest_claude_comms.testing.claude_executable import _write_private
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from pytest_claude_comms.cli import main

def use(folder, scheme):
    path = f"{folder}/a/b/store"
    for durability in ("process", "power"):
        with open_store(f"{scheme}:///{path}", durability=durability) as store:
            thread = store.create_thread("title", thread_id=durability)
            message = store.add_message(thread, "m", status="pending")
            for number in range(3):
                store.update_message(message, append="text" * 500)
            check_store(store)
            backup_store(store, f"{folder}/backups/{durability}")
            with open_store(f"{scheme}:///{folder}/copies/{durability}") as copy:
                copy_store(store, copy)
            if scheme == "sqlite":  # a log alone: it is looked at in a copy
                for end in ("", "-wal"):
                    with open(f"{path}{end}", "rb") as file:
                        _write_private(f"{folder}/by-hand-{durability}{end}", "")
                        with open(f"{folder}/by-hand-{durability}{end}", "wb") as copied:
                            copied.write(file.read())
                check_store(f"sqlite:///{folder}/by-hand-{durability}")
            store.compact(keep=1)
            store.update_message(message, append="text")
    os.chmod(folder, 0o755)  # was there before, as the next two
    check_store(f"{scheme}:///{path}")
    with ScriptedClaude(f"{folder}/scripted") as claude, open_store(f"{scheme}:///{path}") as store:
        claude.replies("text")
        os.mkdir(f"{folder}/module", 0o755)
        ask_module(store, "q", f"{folder}/module", "prompt", command=[claude.executable])
    page = f"{folder}/x.html"
    sys.argv[1:] = ["timeline", "power", "--store", f"{scheme}:///{path}", "--html", page]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end
    recording._write(f"{folder}/recorded.jsonl", b"line")
    _write_private(f"{folder}/program", "text")
    _write_private(f"{folder}/program", "text")
    modes.append(os.stat(folder).st_mode & 0o777)

modes, base = [], sys.argv[-1]
for umask in (0o000, 0o022, 0o077):
    for scheme in ("sqlite", "tinydb"):
        folder = f"{base}/{umask:o}-{scheme}"
        os.mkdir(folder, 0o755)
        os.umask(umask)
        use(folder, scheme)
print(modes)
"""

MADE = re.compile(
    r'^\d+ +(?:open|openat|creat|mkdir|mkdirat)\((?:AT_FDCWD, )?"(?P<path>[^"]*)"'
    r"(?:, (?P<flags>[A-Z_|]+))?, (?P<mode>0[0-7]*)\) = \d"
)
CHANGED = re.compile(r"^\d+ +(?:chmod|fchmod|fchmodat)\(.*?, (?P<mode>0[0-7]+)[,)].* = 0")
GONE = re.compile(
    r'^\d+ +(?:unlink|unlinkat|rename|renameat|renameat2)\((?:AT_FDCWD, )?"(?P<old>[^"]*)"'
    r'(?:, (?:AT_FDCWD, )?"(?P<new>[^"]*)")?.* = 0'
)
UMASK = re.compile(r"^\d+ +umask\((?P<mode>0[0-7]*)\)")
OF_THE_TEST = re.compile(r"/\d+-(sqlite|tinydb)(/module)?\Z")


def wide(log: str, folder: str) -> tuple[list[str], set[str]]:
    """Lines of a log in which something was made, or was changed to be, for others too; and the
    names of all files and folders that were made."""
    found: list[str] = []
    names: set[str] = set()
    there: set[str] = set()
    umask = 0o022
    for line in log.splitlines():
        if said := UMASK.match(line):
            umask = int(said["mode"], 8)
        elif made := MADE.match(line):
            path = made["path"]
            if not path.startswith(folder) or OF_THE_TEST.search(path):
                continue
            if path in there:  # only opened
                continue
            there.add(path)
            names.add(re.sub(r"\A.*/\d+-(sqlite|tinydb)/", r"\1:", path))
            if int(made["mode"], 8) & ~umask & OTHERS:
                found.append(line)
        elif gone := GONE.match(line):
            there.discard(gone["old"])
            there |= {gone["new"]} - {None}
        elif (changed := CHANGED.match(line)) and int(changed["mode"], 8) & OTHERS:
            found += [line] if not OF_THE_TEST.search(line.split('"')[1]) else []
    return found, names


def traced(script: str, folder: Path, log: Path) -> str:
    environ = {**os.environ, "PYTHONPATH": ROOT, "TMPDIR": str(folder), "NO_COLOR": "1"}
    calls = "open,openat,creat,mkdir,mkdirat,chmod,fchmod,fchmodat,umask,"
    calls += "unlink,unlinkat,rename,renameat,renameat2"
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", f"trace={calls}", "-s", "4096"]
    strace += ["-o", str(log)]
    command = [*strace, sys.executable, "-B", "-c", script, str(folder)]
    done = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=200, check=False
    )
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_strace
def test_every_file_from_its_first_moment(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    said = traced(SCRIPT, folder, tmp_path / "log")
    assert said.splitlines()[-1] == str([0o755] * 6), "a folder that was there is left alone"
    found, names = wide((tmp_path / "log").read_text(), str(folder))
    assert not found, "\n".join(found)
    expected = {f"sqlite:a/b/store{end}" for end in ("", "-wal", "-shm", ".lock")}
    expected |= {f"tinydb:a/b/store{end}" for end in (".new", ".lock")}
    expected |= {f"{scheme}:{name}" for scheme in ("sqlite", "tinydb") for name in ("a", "a/b")}
    assert expected <= names, expected - names
    for path in (path for path in folder.rglob("*") if not OF_THE_TEST.search(str(path))):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() or path.name == "claude" else 0o600), path


@needs_strace
def test_broken_version_private_only_after_a_moment_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "0-sqlite").mkdir(parents=True)
    script = (
        "import os, sys\nos.umask(0o022)\npath = sys.argv[-1] + '/0-sqlite/x'\n"
        "open(path, 'w').close()\nos.chmod(path, 0o600)\nos.mkdir(path + 'y')\n"
        "os.chmod(path, 0o640)\nos.umask(0o077)\nos.mkdir(path + 'z')\n"
    )
    traced(script, folder, tmp_path / "log")
    found, names = wide((tmp_path / "log").read_text(), str(folder))
    assert names == {"sqlite:x", "sqlite:xy", "sqlite:xz"}
    assert [re.findall(r"[\w]+\(", line)[0] for line in found] == ["openat(", "mkdir(", "chmod("]
