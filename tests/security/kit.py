"""What a store holds: its records as text, and its files to the byte."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pytest_claude_comms import ConversationStore


def told(store: ConversationStore) -> str:
    """All that its records say."""
    records = [*store.threads(), *store.messages(), *store.changes()]
    return "\n".join(repr(asdict(record)) for record in records)


def bytes_in(folder: Path) -> bytes:
    """Of all files at and below a folder, one after another."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def pieces_of(secret: str, size: int) -> set[str]:
    """Every part of it that is so long."""
    return {secret[start : start + size] for start in range(len(secret) - size + 1)}
