"""What is left of a run: processes by a mark in their environment, threads, what a clock knows."""

from __future__ import annotations

import os
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytest_claude_comms import Change, ConversationStore
from pytest_claude_comms.claude.process import running

MARK = "COMMS_TEST_MARK"
"""A variable that a test gives to its runs by ``env=``, and by which it knows their processes."""

HEAD = """\
#!{python} -IS
import json, os, signal, sys, time

def raw(data):
    data = data.encode() if isinstance(data, str) else data
    while data:
        data = data[os.write(1, data):]

def line(**fields):
    raw(json.dumps(fields) + "\\n")

def init():
    line(type="system", subtype="init", session_id="s", model="m", cwd=os.getcwd())

def text(words, message="m1"):
    block = {{"type": "text", "text": words}}
    line(type="assistant", message={{"id": message, "role": "assistant", "content": [block]}},
         parent_tool_use_id=None, session_id="s")

def result(words="", **more):
    line(**{{"is_error": False, "type": "result", "subtype": "success", "result": words,
            "session_id": "s", "num_turns": 1, "usage": {{}}, **more}})

def answer(words):
    init()
    text(words)
    result(words)

def event(**fields):
    line(type="stream_event", event=fields, parent_tool_use_id=None, session_id="s")

def delta(words, index=0):
    event(type="content_block_delta", index=index, delta={{"type": "text_delta", "text": words}})

def prompt():
    found = b""
    while piece := os.read(0, 65536):
        found += piece
    return found.decode()

def child(code, **options):
    import subprocess
    options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([sys.executable, "-IS", "-c", code], **options)

SLEEP = "import time; time.sleep(600)"
"""


def write_claude(folder: Path, script: str) -> str:
    """A fake CLI that does what ``script`` says; see ``HEAD`` for its words."""
    path = folder / "claude"
    path.write_text(HEAD.format(python=sys.executable) + textwrap.dedent(script))
    path.chmod(0o755)
    return str(path)


def marked(mark: str) -> list[int]:
    """The processes, other than this one, whose environment says so. Zombies have none."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if int(name) != os.getpid() and wanted in file.read().split(b"\0"):
                found.append(int(name))
    return found


def children() -> set[int]:
    """The children of this process, zombies too."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                found.add(int(name))
    return found


def settled(path: str) -> None:
    """Wait until no child has the file open: one that another thread forked while it was written
    has, until its exec, and as long as anybody has, the system does not run it."""

    def is_open() -> bool:
        for pid in children():
            with suppress(OSError):
                for name in os.listdir(f"/proc/{pid}/fd"):
                    with suppress(OSError):
                        if os.readlink(f"/proc/{pid}/fd/{name}") == path:
                            return True
        return False

    until(lambda: not is_open())


def until(condition: Callable[[], object], patience: float = 20.0) -> bool:
    """Real time, because something real is waited for; whether it came to be."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def runner_threads() -> list[str]:
    """The threads of runs; those of a started poller or of a stand-in are not among them."""
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("claude-comms claude", "claude-comms run"))
    ]


def no_run_is_left() -> bool:
    return running() == {} and not runner_threads()


def trace(store: ConversationStore) -> list[tuple[Any, ...]]:
    """All that happened to each message, in the order of creation, without what is random.

    Two processes that print at the same fake instant are real, and do it in any order: revisions,
    which count across messages, are left out, and the session's id, which counts calls.
    """
    changes = store.changes().items
    names: dict[str, int] = {}
    rows = [_row(change, names, changes[0]) for change in changes]
    return sorted(rows, key=lambda row: int(row[0]))


def _row(change: Change, names: dict[str, int], first: Change) -> tuple[Any, ...]:
    message = names.setdefault(change.message_id, len(names))
    metadata = {
        key: value
        for key, value in (change.metadata or {}).items()
        if key not in ("question_id", "directory", "session_id")
    }
    return (
        message,
        (change.at - first.at).total_seconds(),
        change.status.value,
        change.append,
        change.content,
        change.error,
        metadata,
    )
