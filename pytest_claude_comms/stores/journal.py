"""The journal of a TinyDB store: one appended line for each change.

::

    crc link {"format": 1, "store_id": "…", "base": 41}    the header: it goes on after change 41
    crc link {"seq": 42, "ops": […]}                       what one commit did
    …

``crc`` is the CRC32 of the rest of its line and tells a whole line from a cut or damaged one.
``link`` is the crc of the change before, across journals too (the header's: that of change
``base``), and tells a line from another one that was put in its place.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ..clock import SECOND, SystemClock
from ..errors import StoreCorrupt, StoreError
from .files import create_private, fsync_directory

FORMAT = 1
"""Of the journal and of the checkpoint."""
TRIMMED_FORMAT = 2
"""Of a checkpoint whose history was trimmed."""

Op: TypeAlias = dict[str, Any]

_BINARY = getattr(os, "O_BINARY", 0)
_PREFIX = 18
"""Bytes before a line's JSON: two CRCs, each with a blank."""


class Stamp(NamedTuple):
    """What tells one content of a file that is only ever replaced from another."""

    device: int
    inode: int
    size: int
    modified_ns: int


class Mark(NamedTuple):
    """A point in a store's history: its last change."""

    seq: int
    crc: int


BEGINNING = Mark(0, 0)


@dataclass(frozen=True, slots=True)
class Place:
    """How far which journal was read."""

    file: tuple[int, int]
    """Device and inode."""
    start: int
    """Where the header ends."""
    end: int
    """Where the last whole line ends."""
    mark: Mark


@dataclass(frozen=True, slots=True)
class Record:
    """One line."""

    mark: Mark
    ops: list[Op]
    end: int
    """The offset behind it."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A whole journal."""

    store_id: str
    base: Mark
    records: list[Record]
    place: Place


class _Cut(NamedTuple):
    """A line without its end, as a journal's last."""

    file: tuple[int, int]
    start: int
    end: int
    head: bytes
    """Its checksums, as far as they are there."""


class _LongInt(Exception):
    """A whole line has an int that is too long for this Python, as it is set; not for all."""


class Rewritten(Exception):
    """The journal is not the one that was read before, or does not go on as it did."""


def stamp_of(found: os.stat_result) -> Stamp:
    """The stamp in a stat result."""
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def file_of(found: os.stat_result) -> tuple[int, int]:
    """Device and inode."""
    return found.st_dev, found.st_ino


def read_file(path: str, offset: int = 0) -> tuple[os.stat_result, bytes]:
    """A file's stat from before it was read, and its bytes from ``offset`` on."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY)
    try:
        found = os.fstat(descriptor)
        if offset:
            os.lseek(descriptor, offset, os.SEEK_SET)
        parts = []
        while part := os.read(descriptor, max(65_536, found.st_size - offset + 1)):
            parts.append(part)
    finally:
        os.close(descriptor)
    return found, b"".join(parts)


def replace_file(path: str, temporary: str, data: bytes, *, power: bool) -> os.stat_result:
    """Give ``path`` the content ``data`` at one instant, readable by its owner only.

    For the name to survive a power cut its directory needs an fsync afterwards.
    """
    with suppress(FileNotFoundError):
        os.unlink(temporary)
    try:
        create_private(temporary)
        fill_file(temporary, data, power=power)
        renew_stamp(temporary)
        found = os.stat(temporary)
        _rename(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return found


def fill_file(path: str, data: bytes, *, power: bool) -> None:
    """Write ``data`` into the empty file ``path``. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | _BINARY)
    try:
        left = memoryview(data)
        while left:
            left = left[_write(descriptor, left) :]
        if power:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: memoryview) -> int:
    written = os.write(descriptor, data)
    if not written:
        raise OSError(None, "nothing more could be written")
    return written


def renew_stamp(path: str) -> None:
    """Give a file a modification time that it never had.

    The kernel's own is that of its last tick, 4 ms apart, and inode numbers are used again: a
    store deleted and created anew within a tick would have the stamp of the old one.
    """
    modified_ns = os.stat(path).st_mtime_ns - int.from_bytes(os.urandom(8), "big") % (SECOND * 1000)
    os.utime(path, ns=(modified_ns, modified_ns))


def _rename(source: str, target: str) -> None:
    patience = SystemClock().backoff(SECOND)
    while True:
        try:
            return os.replace(source, target)
        except PermissionError:
            # Windows refuses as long as somebody has the target open, stock TinyDB for one.
            if os.name != "nt" or not patience.pause():
                raise


class Journal:
    """The journal at ``path``. Changing it takes the store's lock; reading it takes none."""

    def __init__(self, path: str, *, beacon: str, power: bool) -> None:
        self.path = path
        self.temporary = f"{path}.new"
        self._beacon = beacon
        self._directory = os.path.dirname(path)
        self._power = power
        self._cut: _Cut | None = None

    def read(self) -> Contents | None:
        """All of it; None if there is nothing in it, not even a header.

        Raises FileNotFoundError, and StoreCorrupt if it is no journal or damaged before its end.
        """
        found, data = read_file(self.path)
        if not data:
            return None
        stop = data.find(b"\n")
        header = self._line(data[: max(stop, 0)], 0)
        if header is None:
            raise StoreCorrupt(self.path, "its first line is damaged, at byte 0")
        _, link, fields = header
        try:
            if fields["format"] > FORMAT:
                raise StoreCorrupt(self.path, _newer(fields["format"]))
            store_id, base = str(fields["store_id"]), Mark(fields["base"], link)
            if type(base.seq) is not int or base.seq < 0:
                raise ValueError(base)
        except (KeyError, TypeError, ValueError):
            raise StoreCorrupt(self.path, "its first line is not that of a journal") from None
        start = stop + 1
        try:
            records = self._records(data, start, start, base)
        except Rewritten as error:
            raise StoreCorrupt(self.path, str(error)) from None
        place = _after(records, file_of(found), start, start, base)
        self._cut = _cut_line(place, data[place.end :])
        return Contents(store_id, base, records, place)

    def read_on(self, place: Place) -> tuple[list[Record], Place]:
        """What was added after ``place``. Raises Rewritten if it is no longer that journal."""
        found, data = read_file(self.path, place.end)
        if file_of(found) != place.file or found.st_size < place.end:
            raise Rewritten(self.path)
        records = self._records(data, 0, place.end, place.mark)
        after = _after(records, place.file, place.start, place.end, place.mark)
        self._cut = _cut_line(after, data[after.end - place.end :])
        return records, after

    def is_cut(self, place: Place, found: os.stat_result) -> bool:
        """Whether all that follows ``place`` is the beginning of a line that was there when this
        was last read: what a killed writer left, until the next one removes it."""
        cut = self._cut
        if cut is None or (place.file, place.end) != (cut.file, cut.start):
            return False
        if file_of(found) != cut.file or found.st_size != cut.end:
            return False
        # Another line of this size would begin with another checksum, and the whole of this
        # one ends with a line end.
        descriptor = os.open(self.path, os.O_RDONLY | _BINARY)
        try:
            os.lseek(descriptor, cut.start, os.SEEK_SET)
            head = os.read(descriptor, len(cut.head))
            os.lseek(descriptor, cut.end - 1, os.SEEK_SET)
            last = os.read(descriptor, 2)
            return (
                file_of(os.fstat(descriptor)) == cut.file
                and head == cut.head
                and len(last) == 1
                and last != b"\n"
            )
        finally:
            os.close(descriptor)

    def _records(self, data: bytes, start: int, offset: int, mark: Mark) -> list[Record]:
        records = []
        while (stop := data.find(b"\n", start)) >= 0:
            line = self._line(data[start:stop], offset)
            if line is None:
                self._check_torn(data, stop + 1, offset)
                break
            crc, link, fields = line
            ops = fields.get("ops")
            if link != mark.crc or fields.get("seq") != mark.seq + 1 or not isinstance(ops, list):
                raise Rewritten(f"what is at byte {offset} does not follow change {mark.seq}")
            offset += stop + 1 - start
            mark = Mark(mark.seq + 1, crc)
            records.append(Record(mark, ops, offset))
            start = stop + 1
        return records

    def _check_torn(self, data: bytes, start: int, offset: int) -> None:
        # A killed writer can only leave a cut line at the very end: the next writer removes it
        # before it adds anything. So whole lines after a damaged one mean damage, not a cut.
        while (stop := data.find(b"\n", start)) >= 0:
            if is_whole(data[start:stop]):
                raise StoreCorrupt(
                    self.path, f"the line at byte {offset} is damaged and whole ones follow it"
                )
            start = stop + 1

    def _line(self, line: bytes, offset: int) -> tuple[int, int, dict[str, Any]] | None:
        try:
            return _decode(line)
        except RecursionError:
            # Never to be taken for a cut line, which the next writer removes: it may be this
            # call that is too deep.
            raise StoreCorrupt(
                self.path, f"the line at byte {offset} is nested too deep to be read here"
            ) from None
        except _LongInt as error:  # nor this: another Python wrote it
            raise StoreCorrupt(
                self.path, f"the line at byte {offset} cannot be read here: {error}"
            ) from None

    def start(self, store_id: str, base: Mark) -> Place:
        """Begin a new journal, in the place of the present one."""
        fields = {"format": FORMAT, "store_id": store_id, "base": base.seq}
        line = _encode(base.crc, fields)
        found = replace_file(self.path, self.temporary, line, power=self._power)
        return Place(file_of(found), len(line), len(line), base)

    def append(self, place: Place, ops: Sequence[Op]) -> Place:
        """Add a line after ``place``, which has to be the end; durable on return.

        Raises OSError or StoreError if that did not happen; an outcome of "unknown" says that
        it could not be taken back for certain.
        """
        line = _encode(place.mark.crc, {"seq": place.mark.seq + 1, "ops": ops})
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | _BINARY)
        try:
            found = os.fstat(descriptor)
            if file_of(found) != place.file or found.st_size < place.end:
                raise StoreError(f"{self.path} was changed by a program that does not lock it")
            if found.st_size > place.end:
                os.ftruncate(descriptor, place.end)
            self._add(descriptor, line, place)
        finally:
            try:  # noqa: SIM105 - an interrupt inside suppress() would leave it open
                os.close(descriptor)
            except OSError:  # it tells nothing about what is durable
                pass
        mark = Mark(place.mark.seq + 1, int(line[:8], 16))
        return Place(place.file, place.start, place.end + len(line), mark)

    def _add(self, descriptor: int, line: bytes, place: Place) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[_write(descriptor, left) :]
            if self._power:
                os.fsync(descriptor)
                if place.end == place.start:
                    # The first change in a new journal also needs the journal's name.
                    fsync_directory(self._directory)
        except OSError as error:
            if not self._take_back(descriptor, place.end, whole=not left):
                raise StoreError(
                    f"{self.path}: {error.strerror or error}; the change may have been made",
                    outcome="unknown",
                ) from error
            raise
        except BaseException:
            # A whole line stands: others may have read it. A cut one is nobody's.
            if left:
                self._take_back(descriptor, place.end, whole=False)
            raise

    def _take_back(self, descriptor: int, end: int, *, whole: bool) -> bool:
        """Remove what was added after ``end``; whether it is certainly gone."""
        try:
            os.ftruncate(descriptor, end)
            if whole and self._power:
                os.fsync(descriptor)
        except OSError:
            return not whole
        finally:
            if whole:
                # Somebody who reads without the lock may hold the line that never was. Another
                # one may soon have its place and its size, so the stat has to tell.
                with suppress(OSError):
                    renew_stamp(self._beacon)
        return True


def _after(records: list[Record], file: tuple[int, int], start: int, end: int, mark: Mark) -> Place:
    if not records:
        return Place(file, start, end, mark)
    return Place(file, start, records[-1].end, records[-1].mark)


def _cut_line(place: Place, tail: bytes) -> _Cut | None:
    if not tail or b"\n" in tail:
        return None
    return _Cut(place.file, place.end, place.end + len(tail), tail[:_PREFIX])


def _newer(version: object) -> str:
    return f"its format {version} is newer than this version of pytest-claude-comms can read"


def _encode(link: int, fields: dict[str, Any]) -> bytes:
    rest = b"%08x %s" % (link, json.dumps(fields, separators=(",", ":")).encode("ascii"))
    return b"%08x %s\n" % (zlib.crc32(rest), rest)


def is_whole(line: bytes) -> bool:
    """Whether a line, without its end, is neither cut nor damaged."""
    try:
        return _decode(line) is not None
    except (RecursionError, _LongInt):  # its checksum was right
        return True


def _decode(line: bytes) -> tuple[int, int, dict[str, Any]] | None:
    """A line's crc, link and fields; None if it is damaged. May raise RecursionError, _LongInt."""
    crc = zlib.crc32(line[9:])
    if line[:9] != b"%08x " % crc:
        return None
    try:
        fields = json.loads(line[_PREFIX:])
        return (crc, int(line[9:17], 16), fields) if isinstance(fields, dict) else None
    except ValueError as error:
        with suppress(ValueError):
            json.loads(line[_PREFIX:], parse_int=len)
            raise _LongInt(error) from None
        return None
