"""Whether a store is sound, found out without writing to it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

from ..errors import StoreError
from . import values
from .base import ConversationStore
from .invariants import findings_of
from .reports import CheckReport, Copyable, Finding

_SIDES = {"sqlite": ("-wal", "-shm", ".lock"), "tinydb": (".journal", ".lock")}
_LEFT_OVER = {"sqlite": (".backup",), "tinydb": (".new", ".journal.new", ".backup")}


def check_store(store: ConversationStore | str) -> CheckReport:
    """Look for what no call of ours leaves in a store, given as it is or by its URL.

    Reads one state of it, as of one instant, while others may go on writing; creates no file and
    changes none. What a kill can leave behind (a cut last line of a journal, a log that is not
    copied yet) is no damage.

    Looks at the files (there, readable, private), at SQLite's own integrity and our tables, at
    the journal's checksums, and at what holds in every store: revisions without a gap or a repeat,
    lawful transitions, and each message being what its changes made it. Holds all of it in memory.

    Raises ValueError for what is no store URL, StoreError for a store of a third party that
    cannot be read as a whole.
    """
    url, backend, path = _place_of(store)
    report = CheckReport(url=url, backend=backend)
    if path is None:
        if isinstance(store, str):
            raise StoreError(f"{url}: nothing is kept there that could be checked")
        if not hasattr(store, "snapshot"):
            raise StoreError(
                f"a store of the kind {backend!r} has no snapshot(), so it cannot be checked; see "
                "pytest_claude_comms.stores.reports.Copyable"
            )
        snapshot = cast("Copyable", store).snapshot()
        return replace(report.counting(snapshot), findings=tuple(findings_of(snapshot)))
    if not os.path.isfile(path):
        what = "is no file" if os.path.exists(path) else "does not exist"
        missing = Finding(
            kind="file", thing=path, reason=f"it {what}",
            way_out="look whether the URL is right; if it is, restore a backup",
        )  # fmt: skip
        return replace(report, findings=(missing,))
    return _check_file(report, path)


def _place_of(store: ConversationStore | str) -> tuple[str, str, str | None]:
    """URL, backend, and the file of a file store."""
    if not isinstance(store, str):
        values.a_store(store, "what is checked")
    url = store if isinstance(store, str) else store.url
    backend = url.partition(":")[0] if isinstance(store, str) else store.backend
    if backend not in _SIDES:
        if isinstance(store, str) and url != "memory:":
            from . import schemes, unknown_url

            if ":" not in url or not schemes.is_known(backend):
                raise unknown_url(url)
            # Only its own code can read it, and to open it may create it.
            raise StoreError(
                f"{url}: only the package that brings this scheme can read it; open that store "
                "with open_store(url), and give it to check_store (for which it needs snapshot())"
            )
        return url, backend, None
    from . import path_in

    return url, backend, os.path.realpath(path_in(url))


def _check_file(report: CheckReport, path: str) -> CheckReport:
    if report.backend == "sqlite":
        from .sqlite_check import look
    else:
        from .tinydb_check import look
    findings = list(_modes(path, report.backend))
    notes: list[str] = []
    try:
        snapshot, found, notes = look(path)
    except OSError as error:
        unreadable = Finding(
            kind="file", thing=path, reason=f"it cannot be read: {error.strerror or error}",
            way_out="make it readable for who runs this (chmod, chown)",
        )  # fmt: skip
        return replace(report, findings=(*findings, unreadable))
    findings += found
    if snapshot is not None:
        report = report.counting(snapshot)
        findings += findings_of(snapshot)
    for ending in _LEFT_OVER[report.backend]:
        if os.path.exists(f"{path}{ending}"):
            notes.append(f"{path}{ending} was left behind by a kill, or is being written now")
    return replace(report, findings=tuple(findings), notes=tuple(notes))


def _modes(path: str, backend: str) -> Iterator[Finding]:
    if os.name != "posix":
        return
    for name in (path, *(f"{path}{ending}" for ending in _SIDES[backend])):
        try:
            mode = stat.S_IMODE(os.stat(name).st_mode)
        except FileNotFoundError:
            continue
        if mode & 0o077:
            yield Finding(
                kind="permissions", thing=name,
                reason=f"its mode is {mode:04o}: others than its owner may use it",
                way_out=f"chmod 600 {name}",
            )  # fmt: skip
