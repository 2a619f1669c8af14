"""What the tests of copying, backing up, checking and compacting share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import pytest_claude_comms
from pytest_claude_comms import ConversationStore, InvalidTransition

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX only")
every_store = pytest.mark.claude_comms(stores=["memory", "tinydb", "sqlite"])
file_stores = pytest.mark.claude_comms(stores=["tinydb", "sqlite"])

STREAM = 40


def fill(store: ConversationStore, *, turns: int = 3) -> None:
    """Something of everything: ended and open messages, streams, deadlines, odd values."""
    store.create_thread("first", modules=["a", "b"], metadata={"n": [1, 2.5, -0.0]}, thread_id="t")
    store.create_thread(thread_id="../../x\0")
    for turn in range(turns):
        question = f"q{turn}"
        answer = f"a{turn}"
        store.add_message("t", "a", "text \0 🎈\x1b[31m", message_id=question)
        store.add_message("../../x\0", "b", status="pending", message_id=answer, timeout=1e6)
        for key in "abc":
            store.update_message(question, metadata={key: turn})
        store.update_message(answer, status="processing", metadata={"x": {"y": 10**30}})
        for piece in range(STREAM):
            store.update_message(answer, append=f"{piece} é;")
        if turn % 2 == 0:
            store.update_message(answer, content="anew ")
            store.update_message(answer, append="and on", error="odd")
            store.update_message(answer, status="failed")
            store.update_message(answer, metadata={"x": 1, "after": True})
            with pytest.raises(InvalidTransition):
                store.update_message(answer, append="late")
    store.add_message("t", "a", "so far", status="pending", message_id="open", stall_timeout=1e6)


def everything(store: ConversationStore) -> list[Any]:
    """All that a store answers to a reader, as text: to Python 1 == 1.0 == True."""
    messages = store.messages()
    found = [
        store.threads(),
        messages,
        store.cursor(),
        [store.changes(message=message).items for message in messages],
        store.next_deadline_us(),
    ]
    return [repr(each) for each in found]


def trimmed_by(store: ConversationStore, keep: int, *, since: int = 0) -> int:
    """Up to where ``compact(keep=keep)`` is to trim, told from the history after ``since``: up to
    the last change that is neither kept, nor of an open message, nor an end, nor a last one."""
    messages = {message.message_id: message for message in store.messages()}
    gone = []
    for change in store.changes(since):
        message = messages[change.message_id]
        ends = change.status.is_terminal and change.previous is not change.status
        is_last = change.revision == message.revision
        is_old = change.revision <= store.cursor() - keep
        if is_old and message.status.is_terminal and not ends and not is_last:
            gone.append(change.revision)
    return max(gone, default=since)


def run(script: str, *arguments: str, tracer: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start ``python -c script``."""
    root = str(Path(pytest_claude_comms.__file__).parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [*tracer, sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SYSCALLS = (
    "write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "renameat", "renameat2",
    "link", "linkat", "unlink", "unlinkat", "openat", "utimensat", "fchmod",
)  # fmt: skip
A_FEW = (("write", 2), ("pwrite64", 3), ("fsync", 2), ("rename", 1), ("unlink", 2), ("link", 1))


def killed_at_system_calls(
    script: str, *arguments: str, folder: Path, every: bool
) -> Iterator[tuple[str, int]]:
    """Run ``script`` again and again, killed at another system call on a file each time.

    At the k-th of each kind, for every k, or at a few. Counted are calls on the stores ``s`` and
    ``d`` in the folder and on the folder, which is put back before each run.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    saved = folder.with_name(f"{folder.name}.saved")
    shutil.copytree(folder, saved)
    for call, first in [(call, 1) for call in SYSCALLS] if every else A_FEW:
        for number in count(first):
            shutil.rmtree(folder)
            shutil.copytree(saved, folder)
            inject = f"inject={call}:signal=KILL:when={number}"
            tracer = (strace, "-f", "-qq", "-o", os.devnull, *_paths(folder), "-e", inject)
            child = run(script, *arguments, tracer=tracer)
            _, complaint = child.communicate(timeout=60)
            if child.returncode == 0:  # it makes no such call that often
                break
            assert child.returncode in (-9, 137), complaint
            yield call, number
            if not every:
                break


def _paths(folder: Path) -> list[str]:
    names = [f"{name}{end}" for name in ("s", "d") for end in ENDINGS]
    paths = [str(folder), *(str(folder / name) for name in names)]
    return [part for path in paths for part in ("-P", path)]


ENDINGS = ("", "-wal", "-shm", ".journal", ".new", ".journal.new", ".backup", ".backup-journal")
