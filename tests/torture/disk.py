"""A model of a disk that loses its power: what was written and not synced may be there, or not.

Strict, as no real file system has to be: unsynced writes survive in any subset, each whole, not
at all or in sectors; a file's new length may survive without what was written; a name that was
created, moved or removed may be so only once its directory was synced, whatever was done to the
file itself.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

Contents: TypeAlias = dict[str, bytes]
"""Files by their name in the folder."""


@dataclass(frozen=True)
class Write:
    offset: int
    data: bytes


@dataclass(frozen=True)
class Cut:
    """The file was given this length."""

    size: int


@dataclass
class File:
    synced: bytes = b""
    pending: list[Write | Cut] = field(default_factory=list)
    size: int = 0

    def write(self, offset: int, data: bytes) -> None:
        self.pending.append(Write(offset, data))
        self.size = max(self.size, offset + len(data))

    def cut(self, size: int) -> None:
        self.pending.append(Cut(size))
        self.size = size

    def sync(self) -> None:
        self.synced, self.pending = _applied(self.synced, self.pending), []


def _applied(data: bytes, changes: list[Write | Cut]) -> bytes:
    content = bytearray(data)
    for change in changes:
        end = change.size if isinstance(change, Cut) else change.offset + len(change.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        if isinstance(change, Cut):
            del content[end:]
        else:
            content[change.offset : end] = change.data
    return bytes(content)


Renaming: TypeAlias = dict[str, "File | None"]
"""What one call did to names: the file that each has now, or None; all of it or nothing."""


class Disk:
    """One folder on it."""

    def __init__(self) -> None:
        self.names: dict[str, File] = {}
        self.synced: dict[str, File] = {}
        self.pending: list[Renaming] = []

    def name(self, change: Renaming) -> None:
        _rename(self.names, change)
        self.pending.append(change)

    def sync(self) -> None:
        self.synced, self.pending = dict(self.names), []

    def after_power_loss(self, chance: random.Random, manner: str) -> Contents:
        """What may be found. ``manner``: one of :data:`MANNERS`."""
        names = dict(self.synced)
        for change in self.pending:
            if manner in ("everything", "names", "lengths") or (
                manner == "some" and chance.random() < 0.5
            ):
                _rename(names, change)
        return {name: _found(file, chance, manner) for name, file in names.items()}


MANNERS = ("nothing", "everything", "names", "data", "lengths", "some")


def _rename(names: dict[str, File], change: Renaming) -> None:
    for name, file in change.items():
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file


def _found(file: File, chance: random.Random, manner: str) -> bytes:
    if manner in ("nothing", "names"):
        return file.synced
    if manner in ("everything", "data"):
        return _applied(file.synced, file.pending)
    if manner == "lengths":
        return file.synced[: file.size] + bytes(max(0, file.size - len(file.synced)))
    kept: list[Write | Cut] = []
    likely = chance.choice([0.2, 0.5, 0.9])
    for change in file.pending:
        if chance.random() < likely:
            kept.append(change)
        elif isinstance(change, Write) and chance.random() < 0.5:
            kept += _torn(change, chance)
    return _applied(file.synced, kept)


def _torn(write: Write, chance: random.Random) -> Iterator[Write]:
    """Some of a write's sectors, the first few or any."""
    sector = chance.choice([512, 4096])
    end = write.offset + len(write.data)
    edges = [write.offset, *range(write.offset // sector * sector + sector, end, sector), end]
    pieces = list(pairwise(edges))
    if chance.random() < 0.5:
        pieces = pieces[: chance.randrange(len(pieces))]
    for start, stop in pieces:
        if chance.random() < 0.7:
            yield Write(start, write.data[start - write.offset : stop - write.offset])


# -- from a log of calls


_LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Call:
    """One line of the log."""

    name: str
    texts: list[bytes]
    plain: str
    """Its arguments, without what stands in quotes."""
    result: int

    @property
    def number(self) -> int:
        """The first argument, a descriptor."""
        return int(self.plain.partition(",")[0])


def calls_in(log: Path) -> list[Call]:
    """The calls that succeeded. The log is made with ``-xx`` and strings of any length."""
    calls = []
    with open(log, encoding="ascii") as lines:
        for line in lines:
            if (found := _LINE.match(line)) and int(found[3]) >= 0:
                texts = [bytes.fromhex(each.replace("\\x", "")) for each in _TEXT.findall(found[2])]
                calls.append(Call(found[1], texts, _TEXT.sub('""', found[2]), int(found[3])))
    return calls


class Replay:
    """Carries out a log's calls on a disk, one after the other."""

    def __init__(self, folder: Path, ledger: Path) -> None:
        self.disk = Disk()
        self.done: list[str] = []
        """Steps that the ledger says are done."""
        self._folder = str(folder)
        self._ledger = str(ledger)
        self._open: dict[int, tuple[str, File | None, int | None]] = {}
        """By descriptor: path, file (None: the folder, or the ledger) and offset (None: at the
        end)."""

    def step(self, call: Call) -> None:
        kind = call.name
        if kind in ("open", "openat"):
            self._opened(call)
        elif kind in ("fsync", "fdatasync"):
            path, file, _ = self._open[call.number]
            if file is not None:
                file.sync()
            elif path == self._folder:
                self.disk.sync()
        elif kind in ("write", "pwrite64"):
            self._written(call)
        elif kind == "ftruncate":
            _, file, _ = self._open[call.number]
            assert file is not None
            file.cut(int(call.plain.split(",")[1]))
        elif kind == "lseek":
            path, file, offset = self._open[call.number]
            self._open[call.number] = path, file, None if offset is None else call.result
        elif kind.startswith("rename"):
            old, new = (self._name(text) for text in call.texts)
            self.disk.name({new: self.disk.names[old], old: None})
        elif kind.startswith("link"):
            old, new = (self._name(text) for text in call.texts)
            self.disk.name({new: self.disk.names[old]})
        elif kind.startswith("unlink"):
            self.disk.name({self._name(call.texts[0]): None})
        elif kind not in ("close", "utimensat"):
            raise NotImplementedError(f"the model of a disk does not know {kind}")

    def _name(self, path: bytes) -> str:
        folder, _, name = path.decode().rpartition("/")
        assert folder == self._folder, path
        return name

    def _opened(self, call: Call) -> None:
        path = call.texts[0].decode()
        if path in (self._folder, self._ledger):
            self._open[call.result] = path, None, 0
            return
        name = self._name(call.texts[0])
        if name not in self.disk.names:
            assert "O_CREAT" in call.plain, call
            self.disk.name({name: File()})
        file = self.disk.names[name]
        if "O_TRUNC" in call.plain:
            file.cut(0)
        self._open[call.result] = path, file, None if "O_APPEND" in call.plain else 0

    def _written(self, call: Call) -> None:
        path, file, offset = self._open[call.number]
        data = call.texts[0][: call.result]
        if file is None:
            assert path == self._ledger
            self.done += data.decode().split()
        elif call.name == "pwrite64":
            file.write(int(call.plain.rsplit(",", 1)[1]), data)
        elif offset is None:
            file.write(file.size, data)
        else:
            file.write(offset, data)
            self._open[call.number] = path, file, offset + len(data)
