"""What cannot be done is said before anything is, with the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import ConversationStore, MemoryConversationStore, open_store
from pytest_claude_comms.stores.legacy import LegacyReturns
from pytest_claude_comms.testing import FakeClock, Fault, Faults
from pytest_claude_comms.testing.faults_seam import stand_before


@pytest.mark.parametrize("kind", ["busy", "write_fails", "tear", "delete", "replace"])
def test_a_store_in_memory_has_no_files(faults: Faults, kind: str) -> None:
    expected = (
        rf"^faults\.{kind} is for the stores tinydb and sqlite, and memory: is a memory store: it "
        r"has no file to do it to\. Choose the stores of this test by "
        r'@pytest\.mark\.claude_comms\(stores=\["tinydb", "sqlite"\]\)$'
    )
    with MemoryConversationStore() as store:
        with pytest.raises(ValueError, match=expected):
            getattr(faults, kind)(store)
        with pytest.raises(ValueError, match=r"^faults\.writer_dies is for"):
            faults.writer_dies(store, "m", after=1)
    assert faults.record == ()


def test_a_store_of_others_has_none_that_are_known(faults: Faults) -> None:
    class Theirs:
        url, backend, clock = "plain:///notes", "plain", None

    with pytest.raises(ValueError, match="plain store: it has no file that is known here to do it"):
        faults.busy(Theirs(), for_=1)  # type: ignore[arg-type]


WRONG: list[tuple[Callable[[Any, Any], object], type[Exception], str]] = [
    (lambda f, s: f.busy("sqlite:///x"), TypeError, "a fault is done to a store, not to 'sqlite"),
    (lambda f, s: f.busy(s, for_=0), ValueError, "^for_ must be more than 0 seconds$"),
    (lambda f, s: f.busy(s, for_=-1), ValueError, "^for_ must be between 0 and"),
    (lambda f, s: f.busy(s, for_="1"), TypeError, "^for_ must be a number of seconds, not '1'$"),
    (lambda f, s: f.slow(s, by=0), ValueError, "^by must be more than 0 seconds$"),
    (lambda f, s: f.write_fails(s, at=0), ValueError, "at"),
    (lambda f, s: f.write_fails(s, error="EOH"), ValueError, "^error= is the name of a system's"),
    (lambda f, s: f.write_fails(s, error=5), ValueError, "^error= is the name of a system's"),
    (lambda f, s: f.tear(s, keep=10**9), ValueError, r"has [\d,]+ bytes: keep=1000000000 would"),
    (lambda f, s: f.tear(s, keep=-(10**9)), ValueError, "would leave it whole$|bytes: keep=-"),
    (lambda f, s: f.tear(s, keep=1.0), ValueError, "at least 0 and less than 1, not 1.0$"),
    (lambda f, s: f.tear(s, keep=float("nan")), ValueError, "not nan$"),
    (lambda f, s: f.tear(s, keep=True), TypeError, "^keep= is a number of bytes, or a fraction"),
    (lambda f, s: f.tear(s, part="head"), ValueError, r"^part= of a \w+ store is \w+ or \w+, not"),
    (lambda f, s: f.replace(s, "/no/such/file"), ValueError, "file is none$"),
    (lambda f, s: f.replace(s, s._path), ValueError, "is this one's$"),
    (lambda f, s: f.appears(s, after=-1), ValueError, "^after must be between"),
    (lambda f, s: f.appears(s, after=1, message_id=""), ValueError, "message_id"),
    (lambda f, s: f.writer_dies(s, "m", after=-1), ValueError, "after"),
    (lambda f, s: f.writer_dies(s, 5, after=1), TypeError, "5"),
    (lambda f, s: f.writer_dies(s, "m", after=1, every=-1), ValueError, "^every must be"),
    (lambda f, s: f.writer_dies(s, "m", after=1, text="{x}"), ValueError, r"^text= .*\{n\}"),
    (lambda f, s: f.writer_dies(s, "m", after=1, text="{n.x}"), ValueError, r"^text= .*\{n\}"),
    (lambda f, s: f.writer_dies(s, "m", after=1, text="{n[x]}"), ValueError, r"^text= .*\{n\}"),
    (lambda f, s: f.writer_dies(s, "m", after=1, text=5), TypeError, "^text must be a str, not 5$"),
    (lambda f, s: f.raising("boom"), TypeError, "^error= is an exception or a class of one, not"),
    (lambda f, s: f.raising(int), TypeError, "^error= is an exception or a class of one, not"),
    (lambda f, s: f.raising(at=0), ValueError, "at"),
    (lambda f, s: f.blocking(for_=0), ValueError, "^for_ must be more than 0 seconds$"),
]


@pytest.mark.parametrize(("call", "error", "text"), WRONG)
def test_wrong_arguments(
    store: ConversationStore,
    faults: Faults,
    call: Callable[[Any, Any], object],
    error: type[Exception],
    text: str,
) -> None:
    store.add_message(store.create_thread(), "a")
    with pytest.raises(error, match=text):
        call(faults, store)
    assert faults.record == ()
    store.create_thread()


@pytest.mark.claude_comms(stores=["sqlite"])
def test_what_sqlite_cannot_tell_apart(
    store: ConversationStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"^on sqlite error= is one of EIO, ENOSPC, not 'EACCES'"):
        faults.write_fails(store, error="EACCES")
    monkeypatch.setattr("pytest_claude_comms.testing.faults_disk._FULL", "/no/such/device")
    with pytest.raises(RuntimeError, match='which this system does not have; error="EIO" works'):
        faults.write_fails(store, error="ENOSPC")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(RuntimeError, match="needs POSIX file descriptors"):
        faults.write_fails(store)


def test_a_file_with_nothing_in_it(faults: Faults, tmp_path: Path) -> None:
    no_bytes = pytest.raises(ValueError, match="has no bytes that could be lost: nothing was writ")
    with open_store(f"sqlite:///{tmp_path}/s.db") as store, no_bytes:
        faults.tear(store)
    with pytest.raises(ValueError, match=r"^faults\.delete: the store sqlite:///.* is closed; a"):
        faults.delete(store)


def test_a_store_in_a_legacy_shape_is_the_store_itself(faults: Faults, tmp_path: Path) -> None:
    clock = FakeClock()
    with clock, open_store(f"tinydb:///{tmp_path}/s.json", clock=clock) as store:
        shaped = LegacyReturns(store, "dict")
        with faults.slow(shaped, by=3):
            shaped.create_thread()
        assert clock.elapsed == 3
        with faults.busy(shaped, may_miss=True) as busy:
            assert busy.store is store


# -- the class by itself


def test_without_pytest_a_fault_that_nobody_met_is_an_error(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/s.db") as store:
        unmet = pytest.raises(AssertionError, match=r"^faults\.busy: .* it was never met, so noth")
        with unmet, Faults() as faults:
            faults.busy(store)
        with pytest.raises(ZeroDivisionError), Faults() as faults:
            busy = faults.busy(store)
            raise ZeroDivisionError
        assert busy.is_undone
        store.create_thread()


def test_one_that_cannot_be_undone_does_not_keep_the_others(faults: Faults) -> None:
    clock = FakeClock()
    with MemoryConversationStore(clock=clock) as store, Faults(clock) as others:
        first = others.slow(store, by=1, may_miss=True)
        second = others.slow(store, by=1, may_miss=True)
        second.when_undone(lambda: vars(second)["no such key"])
        with pytest.raises(KeyError):
            others.undo()
        assert first.is_undone
        assert "could not be undone: 'no such key'" in others.lines()[2]


def test_a_seam_that_somebody_covered_lets_all_through() -> None:
    class Thing:
        def call(self) -> str:
            return "itself"

    thing = Thing()
    ends: list[Callable[[], None]] = []
    stand_before(thing, "call", lambda call: f"around {call()}", ends.append)
    under = thing.call
    thing.call = lambda: f"above {under()}"  # type: ignore[method-assign]
    assert thing.call() == "above around itself"
    ends.pop()()
    assert thing.call() == "above itself"


def test_a_fault_tells_what_it_is(faults: Faults, clock: FakeClock) -> None:
    with MemoryConversationStore(clock=clock) as store:
        with faults.slow(store, by=1.5) as slow:
            assert isinstance(slow, Fault)
            store.cursor()
            assert repr(faults) == "<Faults, 1 so far, 1 going on>"
            assert repr(slow) == (
                "<fault slow, going on, met 1 times: each operation of memory: takes 1.5 s>"
            )
            assert faults.lines() == [
                "BEGAN   UNDONE   MET  FAULT",
                "+0.0 s  not yet  1    slow: each operation of memory: takes 1.5 s",
            ]
        assert faults.record == (slow,)
        assert faults.lines()[1].startswith("+0.0 s  +1.5 s  1    slow: ")
