"""What ``claude-comms doctor`` looks at."""

from __future__ import annotations

import os
import platform
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Literal

from .. import render
from . import exits, facts
from .choosing import path_of
from .exits import CommandError

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from .call import Call
    from .output import Output

BESIDE = ("", "-wal", "-shm", "-journal", ".journal", ".lock")
"""The endings of a store's files."""
_MIB = 1 << 20
_LARGE_LOG = 64 * _MIB
_CLAUDE_SECONDS = 20.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    value: str
    state: Literal["ok", "warning", "problem"] = "ok"
    hint: str = ""


# -- versions


def versions() -> Iterator[Finding]:
    """Of Python, of this package and of what it uses."""
    from .._version import __version__

    name = f"{platform.python_implementation()} {platform.python_version()}"
    yield Finding("python", f"{name}, {sys.executable}")
    yield Finding("pytest-claude-comms", __version__)
    for package in ("tinydb", "click", "rich", "pytest", "freezegun"):
        yield _package(package)
    yield sqlite()


def _package(name: str) -> Finding:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", "problem", f"pip install {name}")


def sqlite() -> Finding:
    """SQLite's library. Source of the versions: sqlite.org/wal.html, "The WAL-Reset Bug"."""
    from sqlite3 import sqlite_version, sqlite_version_info

    if not has_wal_reset_bug(sqlite_version_info):
        return Finding("sqlite", sqlite_version)
    return Finding(
        "sqlite",
        f"{sqlite_version}, which has the WAL-reset bug",
        "warning",
        "stores of ours write and checkpoint under one lock, which keeps them from it; another "
        "program that writes to the same file is not kept from it. Mended in 3.51.3, 3.50.7 and "
        "3.44.6",
    )


def has_wal_reset_bug(version: tuple[int, int, int]) -> bool:
    """Whether two connections that checkpoint at one instant may damage a database."""
    if version < (3, 7, 0) or version >= (3, 51, 3):
        return False
    mended_from = {(3, 44): 6, (3, 50): 7}.get(version[:2])
    return mended_from is None or version[2] < mended_from


# -- the store


def store(call: Call) -> Iterator[Finding]:
    """Whether it is there, can be read, and has files that only its owner reads."""
    try:
        url = call.store_url()
    except CommandError as error:
        # That none was chosen is no trouble: everything else can be looked at.
        state: Literal["warning", "problem"] = "warning"
        if error.code == exits.STORE or call.url:
            state = "problem"
        yield Finding("store", str(error), state)
        return
    path = path_of(url)
    if path is not None:
        yield from _files(path)
    try:
        with call.reading() as opened:
            yield from _contents(opened)
    except Exception as error:
        if exits.of_error(error) is None:
            raise
        yield Finding("store", exits.words(error), "problem")


def _contents(opened: ConversationStore) -> Iterator[Finding]:
    messages = opened.messages()
    threads = len(opened.threads())
    yield Finding("store", f"{opened.url}, revision {opened.cursor():,}")
    found = facts.counted(facts.counts(messages))
    yield Finding("store: threads", f"{threads:,}")
    yield Finding("store: messages", f"{len(messages):,}: {found}" if messages else "none")
    now = opened.clock.now()
    overdue = sum(facts.is_overdue(message, now) for message in messages)
    if overdue:
        yield Finding(
            "store: overdue",
            f"{overdue:,}",
            "warning",
            "nobody polls this store: 'claude-comms expire' settles them",
        )
    ahead = max((message.updated_at for message in messages), default=now)
    if (ahead - now).total_seconds() > 1:
        yield Finding(
            "store: clock",
            f"its last change is {render.age((ahead - now).total_seconds())} from now",
            "warning",
            "the clock of this machine, or of another writer, is wrong: deadlines will be too",
        )


def _files(path: str) -> Iterator[Finding]:
    for ending in BESIDE:
        name = path + ending
        try:
            found = os.stat(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Finding("store: file", exits.words(error), "problem")
            continue
        yield _file(name, found)
    folder = os.path.dirname(path)
    if not os.access(folder, os.W_OK):
        yield Finding(
            "store: folder",
            f"{folder} cannot be written",
            "problem",
            "whoever writes to a store needs a lock file beside it",
        )


def _file(name: str, found: os.stat_result) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    value = f"{name}: {found.st_size:,} bytes"
    if sys.platform != "win32":
        value += f", mode {mode:04o}"
        if found.st_uid != os.getuid():
            value += f", owner {found.st_uid}"
    if not os.access(name, os.R_OK):
        hint = f"you may not read it: chmod u+rw {quote(name)}, if it is yours"
        return Finding("store: file", value, "problem", hint)
    if not os.access(name, os.W_OK):
        hint = f"you may read it, but not write to it: chmod u+w {quote(name)}, if it is yours"
        return Finding("store: file", value, "problem", hint)
    if sys.platform != "win32" and mode & 0o077:
        return Finding(
            "store: file",
            value,
            "warning",
            f"what Claude said may be private, and others may reach it: chmod 600 {quote(name)}",
        )
    if name.endswith("-wal") and found.st_size > _LARGE_LOG:
        return Finding(
            "store: file",
            value,
            "warning",
            "a process that reads without end keeps SQLite from emptying it",
        )
    return Finding("store: file", value)


# -- what else there is


def claude() -> Iterator[Finding]:
    """The CLI: where it is, and its version, which it tells without a network."""
    from ..claude.command import find_cli
    from ..errors import ClaudeNotFound

    try:
        path = find_cli("claude", os.environ)
    except ClaudeNotFound as error:
        yield Finding(
            "claude", "not found", "warning", f"only 'ask' needs it. {exits.words(error)}"
        )
        return
    yield _version_of(path)


def _version_of(path: str) -> Finding:
    import subprocess

    from ..claude.command import build_environment

    try:
        done = subprocess.run(
            [path, "--version"],
            env=build_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CLAUDE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("claude", path, "problem", f"it does not run: {error}")
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode or not said:
        return Finding("claude", path, "problem", f"'--version' ended with {done.returncode}")
    return Finding("claude", f"{render.shorten(said)}, {path}")


def terminal(out: Output) -> Iterator[Finding]:
    """What standard output can show."""
    encoding = (getattr(sys.stdout, "encoding", None) or "unknown").lower()
    if not out.is_terminal:
        value = "standard output is no terminal: no colours, nothing moves"
    else:
        colour = "colours" if out.has_colour else "no colours"
        live = "live" if out.is_live else "nothing moves"
        value = f"{os.environ.get('TERM', 'no TERM')}, {out.columns} columns, {colour}, {live}"
    yield Finding("terminal", value)
    if encoding.replace("-", "") != "utf8":
        yield Finding(
            "encoding",
            encoding,
            "warning",
            "what it cannot say is shown as escapes; PYTHONUTF8=1 or a UTF-8 locale says all",
        )
    else:
        yield Finding("encoding", encoding)
