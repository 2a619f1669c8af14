"""The folder of a test's store files."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

_FILES = ("store.db", "store.json")
_PARTS = ("", ".lock", ".journal")


def new_folder(name: str, base: Path | None) -> Path:
    """A new one for a store of this name, in ``base`` or where temporary files are."""
    plain = "".join(char if char.isalnum() else "_" for char in name)
    return Path(tempfile.mkdtemp(prefix=f"{plain}-", dir=base))


def left_behind(folder: Path) -> list[str]:
    """Files beside a closed store of ours that should be gone: temporary ones, open logs.

    What else is there is another's, who knows what belongs to it.
    """
    ours = {f"{name}{part}" for name in _FILES for part in _PARTS}
    return [
        f"the file {path}: the store was closed and this should be gone"
        for path in sorted(folder.glob("store.*"))
        if path.name.startswith(_FILES) and path.name not in ours
    ]


def remove(folder: Path) -> None:
    """Remove it and what is in it; a file that another process holds open may stay (Windows)."""
    shutil.rmtree(folder, ignore_errors=True)
