"""Distributions that are installed for one test: real dist-info folders on sys.path."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "third_party"
GROUP = "claude_comms.stores"


def install(folder: Path, name: str, entry: str, *, version: str = "1.0") -> None:
    """Put ``name``'s metadata into ``folder``; ``entry`` is ``scheme = module:factory``."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n", encoding="utf-8")
