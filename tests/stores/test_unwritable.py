"""Places that cannot be written: what is wrong is named, and what to do about it."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import StoreError, open_store
from pytest_claude_comms.stores import files, sqlite_link
from tests.stores.sqlite_kit import finish, posix

WAY_OUT = "; whoever opens a store needs to write to its file, its folder and the lock file beside"

# Root may write anywhere, so it becomes somebody else, who must not need any module by then.
_REFUSED = """
import os, sys
import sqlite3, tinydb
from pytest_claude_comms.errors import StoreError
from pytest_claude_comms import backup_store, open_store
from pytest_claude_comms.stores import (
    backup, schemes, sqlite, sqlite_keeping, sqlite_quiet, sqlite_reading, tinydb as ours,
    tinydb_reading,
)

home = sys.argv[1]
if os.geteuid() == 0:
    os.setuid(65534)

def attempt(what, call):
    try:
        call()
        print(what, "|", "done")
    except StoreError as error:
        print(what, "|", error.outcome, "|", error)

for scheme, name in (("sqlite", "new.db"), ("tinydb", "new.json"), ("sqlite", "old.db"),
                     ("tinydb", "old.json"), ("sqlite", "file.db"), ("tinydb", "file.json")):
    attempt(name, lambda: open_store(f"{scheme}:///{home}/{name}").expire())
with open_store(f"tinydb:///{home}/old.json") as store:
    attempt("backup", lambda: backup_store(store, f"{home}/b.db"))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that anybody may look into, and nobody may write to; not so pytest's own."""
    places = [tempfile.gettempdir(), "/var/tmp", "/tmp"]
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    place = next((each for each in places if not is_root or _is_open_to_all(each)), None)
    if place is None:
        pytest.skip(f"nobody but root may enter {' or '.join(places)}")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)
        os.chmod(folder, 0o755)


def _is_open_to_all(place: str) -> bool:
    folder = Path(place)
    return folder.is_dir() and all(
        each.stat().st_mode & 0o001 for each in (folder, *folder.parents)
    )


@posix
def test_a_place_that_may_not_be_written(home: Path, python: Any) -> None:
    for scheme, name in (("sqlite", "old.db"), ("tinydb", "old.json")):
        with open_store(f"{scheme}:///{home}/{name}") as store:
            store.add_message(store.create_thread(), "a", status="pending", timeout=0)
    for each in home.iterdir():
        each.chmod(0o666)
    for name in ("file.db", "file.json"):
        (home / name).touch()
        (home / name).chmod(0o444)
    home.chmod(0o555)
    said = dict(line.split(" | ", 1) for line in finish(python(_REFUSED, str(home))).splitlines())
    assert len(said) == 7
    assert said.pop("old.json") == "done"  # it is appended to, and needs no new file
    for what, text in said.items():
        assert text.startswith(f"not done | {home}/{'b.db' if what == 'backup' else what}"), text
        assert WAY_OUT in text, text
        assert text.endswith("it: change their permissions, or name another place"), text


@pytest.mark.parametrize("url", ["sqlite:///{}/x.db", "tinydb:///{}/x.json"])
def test_a_place_where_no_file_can_be(url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StoreError, match=f"{tmp_path}/file/.*; no file can be there: name another place$"
    ):
        open_store(url.format(tmp_path / "file" / "below"))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_refusals_of_the_system_have_a_way_out(number: int) -> None:
    error = files.store_error("/x/comms.db", OSError(number, os.strerror(number)))
    assert str(error) == f"/x/comms.db: {os.strerror(number)}; {files.UNWRITABLE}"


def test_a_broken_disk_has_none() -> None:
    error = files.store_error("/x/comms.db", OSError(errno.EIO, os.strerror(errno.EIO)))
    assert str(error) == f"/x/comms.db: {os.strerror(errno.EIO)}"


def test_too_many_open_files_are_no_matter_of_permissions(tmp_path: Path) -> None:
    """SQLite says of both that it cannot open the file."""
    error = sqlite3.OperationalError("unable to open database file")
    path = tmp_path / "comms.db"
    assert "permissions" not in str(sqlite_link.store_error(str(path), error))
    path.touch()
    assert "permissions" not in str(sqlite_link.store_error(str(path), error))
    gone = str(tmp_path / "no" / "comms.db")
    assert str(sqlite_link.store_error(gone, error)).endswith(files.UNWRITABLE)
