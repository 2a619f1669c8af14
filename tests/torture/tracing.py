"""strace, attached to an actor: it kills at a call, lets a call fail, or writes all calls down."""

from __future__ import annotations

import functools
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.torture.stage import Actor, Channel, Stage
from tests.torture.story import allow_tracing

CALLS = "%file,%desc"
"""Every call that names a file or has one open; -P leaves those on the files of the store."""

_NEVER_FAILS = {"close", "munmap", "dup", "dup2", "dup3"}

_WRITING = "openat,write,pwrite64,fsync,fdatasync,ftruncate,fallocate,rename,renameat,renameat2,"
RECORDED = f"{_WRITING}unlink,unlinkat,link,linkat,mkdir,mkdirat,lseek,close,utimensat"


class Point(NamedTuple):
    """The k-th call of that name, as strace counts."""

    call: str
    k: int


@functools.cache
def why_not() -> str | None:
    """Why nothing can be traced here, and what to do; None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed: apt install strace"
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        closing(Stage("tests.torture.story")) as stage,
    ):
        actor = stage.start("tests.torture.tracing:wait_for_word")
        try:
            with tracing(actor, Path(folder) / "log", ["-e", "trace=none"]):
                return None
        except TracingRefused as error:
            return f"strace may not attach here ({error}): run as root, or allow ptrace"
        finally:
            actor.end()


class TracingRefused(Exception):
    """strace could not attach."""


def wait_for_word(channel: Channel) -> None:
    """A role that does nothing, to try it on."""
    allow_tracing()
    channel.say("ready")
    channel.hear()


@contextmanager
def tracing(actor: Actor, log: Path, options: Sequence[str]) -> Iterator[None]:
    """Have strace attached to ``actor``, which has just said that it is ready; let go at the end.

    Raises TracingRefused.
    """
    assert actor.hear() == "ready"
    tracer = subprocess.Popen(
        ["strace", "-p", str(actor.pid), "-o", str(log), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        while said and "attached" not in said and "Operation not permitted" not in said:
            said += tracer.stderr.readline()
        if "attached" not in said:
            raise TracingRefused(said.strip().splitlines()[-1] if said else "it said nothing")
        yield
    finally:
        # Of SIGTERM it lets go of what it traces, and that goes on.
        tracer.send_signal(signal.SIGTERM)
        tracer.communicate()


def on(paths: Sequence[str]) -> list[str]:
    """Options that leave only calls on these paths."""
    return [option for path in paths for option in ("-P", path)]


def seeing_all(paths: Sequence[str]) -> list[str]:
    """Options to write down every call."""
    return [*on(paths), "-e", f"trace={CALLS}"]


def injecting(paths: Sequence[str], point: Point, what: str, *, forever: bool = False) -> list[str]:
    """Options to do something at a call, such as ``signal=KILL`` or ``error=EIO``."""
    when = f"{point.k}+" if forever else str(point.k)
    inject = f"inject={point.call}:{what}:when={when}"
    return [*on(paths), "-e", f"trace={point.call}", "-e", inject]


_CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\(")


def points_in(log: Path, *, can_fail: bool = False) -> list[Point]:
    """Every call in a log, in order; or only those that can fail.

    What is injected is not carried out, and a descriptor that is still open, or a record lock
    that is still held, after it was let go of is a fault that no disk has.
    """
    seen: Counter[str] = Counter()
    points = []
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if found := _CALL.match(line):
                seen[found[1]] += 1
                if not (can_fail and (found[1] in _NEVER_FAILS or "F_UNLCK" in line)):
                    points.append(Point(found[1], seen[found[1]]))
    return points


def was_injected(log: Path) -> bool:
    """Whether a call was made to fail."""
    return b"(INJECTED)" in log.read_bytes()
