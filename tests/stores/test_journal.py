"""The journal: whole lines or none, whatever happens to a writer or to the disk."""

from __future__ import annotations

import errno
import os
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.errors import StoreCorrupt, StoreError
from pytest_claude_comms.stores import journal
from pytest_claude_comms.stores.journal import BEGINNING, Journal, Mark, Place, Rewritten


class FailingOS:
    """The ``os`` module, with some of its functions replaced."""

    def __init__(self, **replaced: Any) -> None:
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name, getattr(os, name))


def fail(*_: Any, **__: Any) -> Any:
    raise OSError(errno.EIO, "Input/output error")


@pytest.fixture
def beacon(tmp_path: Path) -> Path:
    path = tmp_path / "store.json"
    path.write_text("{}")
    return path


@pytest.fixture
def book(beacon: Path) -> Journal:
    return Journal(f"{beacon}.journal", beacon=str(beacon), power=True)


def fill(book: Journal, count: int) -> list[Place]:
    """A journal of so many records; where each of them ends."""
    places = [book.start("store", BEGINNING)]
    for number in range(count):
        places.append(book.append(places[-1], [{"number": number, "text": "ä\u2028\0🎈\n"}]))
    return places


def numbers(book: Journal) -> list[int]:
    contents = book.read()
    assert contents is not None
    return [record.ops[0]["number"] for record in contents.records]


def test_what_is_appended_is_read(book: Journal) -> None:
    places = fill(book, 3)
    contents = book.read()
    assert contents is not None
    assert contents.store_id == "store"
    assert contents.base == BEGINNING
    assert contents.place == places[-1]
    assert [record.end for record in contents.records] == [place.end for place in places[1:]]
    assert contents.records[1].ops == [{"number": 1, "text": "ä\u2028\0🎈\n"}]
    assert contents.place.mark.seq == 3


def test_reading_on_gives_only_what_is_new(book: Journal) -> None:
    places = fill(book, 4)
    records, place = book.read_on(places[2])
    assert [record.ops[0]["number"] for record in records] == [2, 3]
    assert place == places[-1]
    assert book.read_on(place) == ([], place)


def test_an_empty_journal_holds_nothing(book: Journal) -> None:
    Path(book.path).touch()
    assert book.read() is None


@pytest.mark.parametrize("text", ["hello\n", "{}", "00000000 00000000 {}\n"])
def test_what_is_no_journal_is_refused(book: Journal, text: str) -> None:
    Path(book.path).write_text(text)
    with pytest.raises(StoreCorrupt, match="byte 0"):
        book.read()
    assert Path(book.path).read_text() == text


def test_a_newer_journal_is_refused(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(journal, "FORMAT", 2)
        book.start("store", BEGINNING)
    with pytest.raises(StoreCorrupt, match="newer"):
        book.read()


def test_a_journal_cut_anywhere_holds_the_whole_records(book: Journal) -> None:
    places = fill(book, 4)
    data = Path(book.path).read_bytes()
    for cut in range(places[2].end, len(data)):
        Path(book.path).write_bytes(data[:cut])
        whole = [n for n in range(4) if places[n + 1].end <= cut]
        assert numbers(book) == whole, cut
        contents = book.read()
        assert contents is not None
        book.append(contents.place, [{"number": 99}])
        assert numbers(book) == [*whole, 99], cut


def test_a_damaged_byte_before_whole_records_is_corruption(book: Journal) -> None:
    places = fill(book, 3)
    data = Path(book.path).read_bytes()
    for offset in range(places[1].end, places[2].end - 1):
        damaged = bytearray(data)
        damaged[offset] ^= 1
        Path(book.path).write_bytes(damaged)
        with pytest.raises(StoreCorrupt) as caught:
            book.read()
        assert f"byte {places[1].end}" in str(caught.value)
        assert Path(book.path).read_bytes() == damaged


def test_a_damaged_last_record_is_a_torn_one(book: Journal) -> None:
    fill(book, 2)
    data = bytearray(Path(book.path).read_bytes())
    data[-5] ^= 1
    Path(book.path).write_bytes(data)
    assert numbers(book) == [0]


def test_a_record_that_follows_another_one_is_refused(book: Journal) -> None:
    places = fill(book, 3)
    data = Path(book.path).read_bytes()
    Path(book.path).write_bytes(data[: places[1].end] + data[places[2].end :])
    with pytest.raises(StoreCorrupt, match="does not follow change 1"):
        book.read()


def test_a_new_journal_goes_on_where_the_old_one_ended(book: Journal) -> None:
    last = fill(book, 3)[-1]
    place = book.start("store", last.mark)
    place = book.append(place, [{"number": 3}])
    contents = book.read()
    assert contents is not None
    assert contents.base == last.mark
    assert contents.records[0].mark == place.mark == Mark(4, place.mark.crc)
    with pytest.raises(Rewritten):
        book.read_on(last)


def test_a_record_in_the_place_of_one_taken_back_is_noticed(book: Journal) -> None:
    places = fill(book, 2)
    os.truncate(book.path, places[1].end)
    with pytest.raises(Rewritten):
        book.read_on(places[2])
    other = book.append(places[1], [{"number": 7, "text": "ä\u2028\0🎈\n"}])
    assert other.end == places[2].end
    book.append(other, [{"number": 8}])
    with pytest.raises(Rewritten, match="does not follow change 2"):
        book.read_on(places[2])


def test_appending_to_what_somebody_else_changed_is_refused(book: Journal) -> None:
    places = fill(book, 2)
    os.truncate(book.path, places[1].end)
    with pytest.raises(StoreError, match="does not lock it"):
        book.append(places[2], [])


def test_short_writes_are_completed(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "os", FailingOS(write=lambda fd, data: os.write(fd, data[:3])))
    fill(book, 2)
    assert numbers(book) == [0, 1]


def test_a_write_of_nothing_is_an_error(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    place = fill(book, 1)[-1]
    monkeypatch.setattr(journal, "os", FailingOS(write=lambda fd, data: 0))
    with pytest.raises(OSError, match="nothing more"):
        book.append(place, [])
    assert os.path.getsize(book.path) == place.end


def test_a_failed_fsync_takes_the_record_back(
    book: Journal, beacon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(book, 1)[-1]
    before = beacon.stat().st_mtime_ns
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            fail()
        os.fsync(descriptor)

    monkeypatch.setattr(journal, "os", FailingOS(fsync=fsync))
    with pytest.raises(OSError, match="Input/output"):
        book.append(place, [{"number": 1}])
    assert os.path.getsize(book.path) == place.end
    assert len(calls) == 2, "the removal was not made durable"
    assert beacon.stat().st_mtime_ns != before, "nobody who has read the record can notice"
    monkeypatch.undo()
    book.append(place, [{"number": 2}])
    assert numbers(book) == [0, 2]


@pytest.mark.parametrize("broken", [{"ftruncate": fail}, {}], ids=["truncate", "second fsync"])
def test_what_cannot_be_taken_back_is_unknown(
    book: Journal, monkeypatch: pytest.MonkeyPatch, broken: dict[str, Any]
) -> None:
    place = fill(book, 1)[-1]
    monkeypatch.setattr(journal, "os", FailingOS(fsync=fail, **broken))
    with pytest.raises(StoreError) as caught:
        book.append(place, [{"number": 1}])
    assert caught.value.outcome == "unknown"


def test_a_cut_record_that_cannot_be_removed_is_not_done(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(book, 1)[-1]

    def write(descriptor: int, data: memoryview) -> int:
        return os.write(descriptor, data[:9]) if len(data) > 20 else fail()

    monkeypatch.setattr(journal, "os", FailingOS(write=lambda fd, d: write(fd, d), ftruncate=fail))
    with pytest.raises(OSError, match="Input/output"):
        book.append(place, [{"number": 1}])
    assert os.path.getsize(book.path) > place.end
    assert numbers(book) == [0]
    monkeypatch.undo()
    book.append(place, [{"number": 2}])
    assert numbers(book) == [0, 2]


def test_an_interrupted_write_leaves_no_half(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(book, 1)[-1]
    halves: list[int] = []

    def write(descriptor: int, data: memoryview) -> int:
        if halves:
            raise KeyboardInterrupt
        halves.append(os.write(descriptor, data[:9]))
        return halves[0]

    monkeypatch.setattr(journal, "os", FailingOS(write=write))
    with pytest.raises(KeyboardInterrupt):
        book.append(place, [{"number": 1}])
    assert os.path.getsize(book.path) == place.end


def test_the_first_record_makes_the_name_of_its_journal_durable(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = book.start("store", BEGINNING)
    synced: list[str] = []
    monkeypatch.setattr(journal, "fsync_directory", synced.append)
    place = book.append(place, [])
    book.append(place, [])
    assert synced == [os.path.dirname(book.path)]


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace", "utime", "stat"])
def test_a_replacement_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(**{name: fail}))
        with pytest.raises(OSError, match="Input/output"):
            journal.replace_file(str(path), str(tmp_path / "new"), b"new", power=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "new").write_text("left behind")
    journal.replace_file(str(path), str(tmp_path / "new"), b"new", power=True)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_a_replacement_is_private(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        journal.replace_file(str(tmp_path / "file"), str(tmp_path / "new"), b"secret", power=False)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_a_refused_rename_is_tried_again_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []

    def replace(source: str, target: str) -> None:
        tries.append(source)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "in use")
        os.replace(source, target)

    monkeypatch.setattr(journal, "os", FailingOS(replace=replace, name="nt"))
    journal.replace_file(str(tmp_path / "file"), str(tmp_path / "new"), b"x", power=False)
    assert len(tries) == 4


def test_a_refused_rename_is_final_where_nobody_can_be_in_the_way(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(book, 1)
    calls: list[str] = []

    def replace(source: str, target: str) -> None:
        calls.append(target)
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(replace=replace, name="posix"))
        with pytest.raises(PermissionError):
            book.start("other", BEGINNING)
    assert calls == [book.path]
    assert not os.path.exists(book.temporary)
    assert numbers(book) == [0]


@pytest.mark.parametrize(
    "fields",
    [
        {"format": 1},
        {"format": "1"},
        *({"format": 1, "store_id": "x", "base": base} for base in ("y", "5", -1, True, 1e999)),
    ],
)
def test_a_first_line_that_is_whole_and_no_header(book: Journal, fields: dict[str, Any]) -> None:
    Path(book.path).write_bytes(journal._encode(0, fields))
    with pytest.raises(StoreCorrupt, match="its first line is not that of a journal"):
        book.read()


def test_damaged_lines_without_a_whole_one_after_them_are_torn(book: Journal) -> None:
    """A write that was cut may have line ends in what it overwrote."""
    places = fill(book, 2)
    whole = Path(book.path).read_bytes()
    rest = b"00000000 {no json"
    well_summed = b"%08x %s\n" % (zlib.crc32(rest), rest)
    assert not journal.is_whole(well_summed[:-1])
    Path(book.path).write_bytes(whole + b"damaged\n" + well_summed + b"\n")
    assert numbers(book) == [0, 1]
    contents = book.read()
    assert contents is not None
    assert contents.place == places[-1]


def test_a_journal_without_changes_goes_on(book: Journal) -> None:
    place = book.start("store", Mark(5, 77))
    contents = book.read()
    assert contents is not None
    assert (contents.place, contents.base, contents.records) == (place, Mark(5, 77), [])
    assert book.append(contents.place, [{"number": 5}]).mark.seq == 6
    assert numbers(book) == [5]


def lines_of(*follow: tuple[int, dict[str, Any]]) -> bytes:
    """A journal, and lines that are whole, whatever they say."""
    lines = [(0, {"format": 1, "store_id": "store", "base": 0}), *follow]
    return b"".join(journal._encode(link, fields) for link, fields in lines)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"hello\n", "its first line is damaged, at byte 0"),
        (journal._encode(0, {"seq": 1, "ops": []}), "its first line is not that of a journal"),
        (journal._encode(0, {"format": 1}), "its first line is not that of a journal"),
        (journal._encode(0, {"format": 7}), "its format 7 is newer than this version"),
        (lines_of((0, {"seq": 2, "ops": []})), "at byte 59 does not follow change 0"),
        (lines_of((9, {"seq": 1, "ops": []})), "at byte 59 does not follow change 0"),
        (lines_of((0, {"seq": 1, "ops": {}})), "at byte 59 does not follow change 0"),
        (lines_of((0, {"seq": 1})), "at byte 59 does not follow change 0"),
        (lines_of() + b"x\ny\n" + lines_of(), "the line at byte 59 is damaged and whole ones"),
        (lines_of() + b"\n" + lines_of(), "the line at byte 59 is damaged and whole ones"),
    ],
)
def test_a_refusal_says_which_file_and_why(book: Journal, data: bytes, reason: str) -> None:
    assert len(lines_of()) == 59
    Path(book.path).write_bytes(data)
    with pytest.raises(StoreCorrupt) as caught:
        book.read()
    assert caught.value.path == book.path
    assert reason in caught.value.reason


def test_damage_at_the_end_ends_it_however_many_lines_it_is(book: Journal) -> None:
    place = fill(book, 2)[-1]
    with Path(book.path).open("ab") as file:
        file.write(b"x\n\ny\n00000000 ")
    assert numbers(book) == [0, 1]
    assert book.read_on(place) == ([], place)


def test_damage_right_behind_what_was_read_is_seen(book: Journal) -> None:
    place = fill(book, 1)[-1]
    with Path(book.path).open("ab") as file:
        file.write(b"\n" + lines_of())
    with pytest.raises(StoreCorrupt, match=f"the line at byte {place.end} is damaged"):
        book.read_on(place)


def test_a_file_that_is_read_in_pieces_is_read_whole(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(book, 2)
    whole = Path(book.path).read_bytes()
    monkeypatch.setattr(journal, "os", FailingOS(read=lambda fd, size: os.read(fd, min(size, 7))))
    assert journal.read_file(book.path)[1] == whole
    assert journal.read_file(book.path, 5)[1] == whole[5:]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_file_is_left_open(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    place = fill(book, 1)[-1]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        book.start("store", BEGINNING)
        place = fill(book, 3)[-1]
        numbers(book)
        book.read_on(place)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(fsync=fail))
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                book.start("store", BEGINNING)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_append_that_is_durable_is_one_whatever_closing_says(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(book, 1)[-1]

    def close(descriptor: int) -> None:
        os.close(descriptor)
        fail()

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(close=close))
        place = book.append(place, [{"number": 1}])
    book.append(place, [{"number": 2}])
    assert numbers(book) == [0, 1, 2]


@pytest.mark.parametrize("power", [True, False])
def test_a_new_journal_is_on_the_disk_before_it_has_its_name(
    beacon: Path, monkeypatch: pytest.MonkeyPatch, *, power: bool
) -> None:
    done: list[str] = []

    def fsync(descriptor: int) -> None:
        done.append("fsync")
        os.fsync(descriptor)

    def replace(source: str, target: str) -> None:
        # Only inside a directory it is made at one instant.
        assert os.path.dirname(source) == os.path.dirname(target)
        done.append("rename")
        os.replace(source, target)

    book = Journal(f"{beacon}.journal", beacon=str(beacon), power=power)
    monkeypatch.setattr(journal, "os", FailingOS(fsync=fsync, replace=replace))
    place = book.start("store", BEGINNING)
    assert done == ["fsync", "rename"] if power else ["rename"]
    synced: list[str] = []
    monkeypatch.setattr(journal, "fsync_directory", synced.append)
    place = book.append(place, [])
    assert synced == [os.path.dirname(book.path)] * power
    book.append(place, [])
    assert len(synced) == power
    assert done.count("fsync") == 3 * power


def test_what_fails_is_told_though_its_remains_cannot_be_removed(
    book: Journal, beacon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(book, 1)[-1]

    def unlink(path: str) -> None:
        if os.path.exists(path):
            raise PermissionError(errno.EACCES, "it cannot be removed")
        os.unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(write=fail, unlink=unlink))
        with pytest.raises(OSError, match="Input/output"):
            book.start("store", BEGINNING)
    beacon.unlink()
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            fail()

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(fsync=fsync))
        with pytest.raises(OSError, match="Input/output"):
            book.append(place, [{"number": 1}])
    assert numbers(book) == [0]


def test_a_refusal_to_write_names_the_file(book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    places = fill(book, 2)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(fsync=fail))
        with pytest.raises(StoreError) as caught:
            book.append(places[2], [{"number": 1}])
    assert str(caught.value).startswith(f"{book.path}: Input/output error; the change may have")
    os.truncate(book.path, places[1].end)
    with pytest.raises(StoreError) as caught:
        book.append(places[2], [])
    assert str(caught.value).startswith(f"{book.path} was changed")


@pytest.mark.parametrize("system", ["posix", "nt"])
def test_a_rename_that_stays_refused_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    tried: list[str] = []

    def replace(source: str, target: str) -> None:
        tried.append(source)
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(journal, "os", FailingOS(replace=replace, name=system))
    monkeypatch.setattr(journal, "SECOND", 1)  # the patience, in microseconds
    with pytest.raises(PermissionError, match="in use"):
        journal.replace_file(str(tmp_path / "file"), str(tmp_path / "new"), b"x", power=False)
    assert system == "nt" or len(tried) == 1
    assert os.listdir(tmp_path) == []


def line_after(place: Place, json_text: bytes) -> bytes:
    """A whole line after ``place``, without its end."""
    rest = b"%08x %s" % (place.mark.crc, json_text)
    return b"%08x %s" % (zlib.crc32(rest), rest)


def test_a_line_that_is_nested_too_deep_is_not_taken_for_a_cut_one(book: Journal) -> None:
    """The next writer would remove it."""
    place = fill(book, 1)[-1]
    line = line_after(place, b'{"seq":2,"ops":%s}' % (b"[" * 100_000 + b"]" * 100_000))
    assert journal.is_whole(line)
    whole = Path(book.path).read_bytes()
    for data in (whole + line + b"\n", whole + b"x\n" + line + b"\n", line + b"\n"):
        Path(book.path).write_bytes(data)
        with pytest.raises(StoreCorrupt, match=r"nested too deep|whole ones follow"):
            book.read()
    Path(book.path).write_bytes(whole + line + b"\n")
    reason = f"the line at byte {place.end} is nested too deep"
    with pytest.raises(StoreCorrupt, match=reason) as caught:
        book.read_on(place)
    assert caught.value.path == book.path


@pytest.mark.skipif(not hasattr(sys, "set_int_max_str_digits"), reason="no such limit")
def test_an_int_that_this_python_does_not_read_makes_no_cut_line(book: Journal) -> None:
    """The next writer would remove what another Python wrote, and reads."""
    place = fill(book, 1)[-1]
    digits = b"1" * 641
    line = line_after(place, b'{"seq":2,"ops":[{"last":%s}]}' % digits)
    whole = Path(book.path).read_bytes()
    reads = whole + line + b"\n"
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert journal.is_whole(line)
        for data in (reads, whole + b"x\n" + line + b"\n", line + b"\n"):
            Path(book.path).write_bytes(data)
            with pytest.raises(StoreCorrupt, match=r"cannot be read here: |whole ones follow"):
                book.read()
        Path(book.path).write_bytes(reads)
        reason = f"the line at byte {place.end} cannot be read here: Exceeds the limit"
        with pytest.raises(StoreCorrupt, match=reason) as caught:
            book.read_on(place)
        assert caught.value.path == book.path
        assert Path(book.path).read_bytes() == reads
        # What has such an int and is no JSON to anybody is damaged.
        assert not journal.is_whole(line_after(place, b'{"seq":%s,"ops":[}' % digits))
    finally:
        sys.set_int_max_str_digits(limit)
    (record,), _ = book.read_on(place)
    assert record.ops == [{"last": int(digits)}]


def test_an_interrupt_on_the_way_to_closing_leaves_no_file_open(
    book: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = fill(book, 1)[-1]
    opened: list[int] = []
    closed: list[int] = []

    def open_(*arguments: Any) -> int:
        opened.append(os.open(*arguments))
        return opened[-1]

    def close(descriptor: int) -> None:
        os.close(descriptor)
        closed.append(descriptor)

    class Interrupted:
        def __init__(self, *_: type[BaseException]) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal, "os", FailingOS(open=open_, close=close))
        patch.setattr(journal, "suppress", Interrupted)
        with suppress(KeyboardInterrupt):
            book.append(place, [{"number": 1}])
    assert opened
    assert closed == opened
