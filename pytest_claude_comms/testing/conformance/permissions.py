"""Contracts of permissions: prompts and answers are their owner's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .bench import Bench
from .checks import equal
from .contract import Contracts

GROUP = Contracts("permissions")
contract = GROUP.contract

_UMASKS = (0o000, 0o022, 0o777)


@contextmanager
def _umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def _modes(folder: Path, *, files: bool) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in sorted(folder.rglob("*"))
        if path.is_file() is files
    }


@contract(1, "private", "files", posix=True)
def files_are_their_owners(bench: Bench) -> None:
    """Every file has mode 0600 under any umask: in use, closed, opened again, compacted."""
    for mask in _UMASKS[:2]:
        place = bench.place(f"umask-{mask:o}")
        with _umask(mask):
            for _ in range(2):
                store = bench.open_in(place, bench.clock)
                store.add_message(bench.thread(store), "a", "secret" * 1_000)
                _expect_private(place, f"in use, with umask {mask:03o}")
                if "compact" in bench.claimed:
                    store.compact(keep=1)
                    _expect_private(place, f"after compact, with umask {mask:03o}")
                store.close()
                _expect_private(place, f"closed, with umask {mask:03o}")


def _expect_private(folder: Path, when: str) -> None:
    modes = _modes(folder, files=True)
    equal(modes, dict.fromkeys(modes, "0o600"), f"modes of the files, {when}")


@contract(2, "private", "files", posix=True)
def folders_are_their_owners(bench: Bench) -> None:
    """A folder that it makes has mode 0700 under any umask; one that is there is left alone."""
    there = bench.place("there")
    there.chmod(0o755)
    for mask in _UMASKS:
        with _umask(mask):
            bench.open_in(there / f"new-{mask:o}" / "newer", bench.clock).close()
    modes = _modes(there, files=False)
    equal(modes, dict.fromkeys(modes, "0o700"), "modes of the folders that it made")
    equal(len(modes), 2 * len(_UMASKS), "folders that it made")
    equal(oct(stat.S_IMODE(there.stat().st_mode)), "0o755", "the mode of the one that was there")


@contract(3, "private", posix=True)
def the_umask_is_left_alone(bench: Bench) -> None:
    """The umask, which all threads share, is what it was after any call."""
    with _umask(0o027):
        bench.add()
        bench.store.close()
        found = os.umask(0o027)
    equal(oct(found), oct(0o027), "the umask afterwards")
