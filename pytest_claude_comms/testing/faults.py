"""Faults: what goes wrong in a test, on purpose and by real means, and is put right at its end."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from .. import render
from ..clock import SECOND, Clock, SystemClock, seconds_to_us
from ..stores import values
from ..stores.base import MessageLike, ThreadLike
from . import faults_busy, faults_disk, faults_files
from .fake_clock import FakeClock
from .fault import Fault
from .faults_callbacks import BlockingCallback, RaisingCallback
from .faults_target import AnyStore, file_of, file_store, plain
from .faults_writer import Writer

if TYPE_CHECKING:
    from .faults_target import FileStore

_F = TypeVar("_F", bound=Fault)

ErrorLike = BaseException | type[BaseException]


class Faults:
    """Lets stores, files, writers and callbacks fail as they do in the world.

    Each call begins a fault and returns it, a :class:`Fault`: ``undo()`` ends it, and so does the
    end of a ``with`` block, of its ``for_`` seconds, or of the test. Seconds are those of the
    store's clock, for callbacks those of ``clock``. A fault that nobody met fails the test, unless
    it was begun with ``may_miss=True``.

    Wrong arguments are TypeError or ValueError, ValueError also a store that cannot have the
    fault: one in memory has no files. RuntimeError says what the system would have to allow.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = SystemClock() if clock is None else clock
        self._start_us = self._clock.now_us()
        self._faults: list[Fault] = []

    # -- the store

    def busy(self, store: AnyStore, *, for_: float | None = None, may_miss: bool = False) -> Fault:
        """Hold the store's write lock, for ``for_`` seconds or until undone.

        On sqlite by a second connection in a write transaction, on tinydb by the lock on its lock
        file. Who writes waits, and gets StoreBusy in the end; who reads does not wait. Raises
        StoreBusy if somebody else holds it.
        """
        target = file_store(store, "busy")
        length_us = None if for_ is None else _positive(for_, "for_")
        if any(
            each.kind == "busy" and each.store is target and not each.is_undone
            for each in self._faults
        ):
            raise ValueError(f"{target.url} is busy already, by a fault of this test")
        holder = "another connection" if target.backend == "sqlite" else "somebody else"
        fault = Fault(
            "busy",
            f"{holder} holds the write lock of {file_of(target)}",
            target.clock,
            may_miss=may_miss,
        )
        return self._begin(fault, target, length_us, lambda: faults_busy.hold(target, fault))

    def slow(
        self, store: AnyStore, *, by: float, for_: float | None = None, may_miss: bool = False
    ) -> Fault:
        """Let ``by`` seconds pass before each operation of this store object is done.

        Reads too, and those of pollers. Nothing is held meanwhile. On every kind of store.
        """
        target = plain(store)
        by_us = _positive(by, "by")
        length_us = None if for_ is None else _positive(for_, "for_")
        fault = Fault(
            "slow",
            f"each operation of {target.url} takes {render.span(by)}",
            target.clock,
            may_miss=may_miss,
        )
        return self._begin(
            fault,
            target,
            length_us,
            lambda: faults_busy.slow_down(target, by_us / SECOND, fault),
        )

    def write_fails(
        self,
        store: AnyStore,
        *,
        at: int = 1,
        error: str = "EIO",
        forever: bool = False,
        may_miss: bool = False,
    ) -> Fault:
        """Let the ``at``-th write of this store object from now on fail, or all from that one on.

        On tinydb a write is a ``write``, ``fsync``, ``ftruncate`` or ``replace`` of its files,
        and raises the error of the system that ``error`` names. On sqlite it is a commit that
        changes anything; the system refuses to write to the log, and SQLite says what it then
        says, for EIO or ENOSPC (which needs /dev/full). A thread that uses the same sqlite file
        during just that commit may meet it too.
        """
        target = file_store(store, "write_fails")
        at = values.count(at, "at", least=1)
        number = faults_disk.error_number(target, error)
        countdown = faults_disk.Countdown(at, forever=forever)
        which = "write 1" if at == 1 and not forever else f"write {at}"
        fault = Fault(
            "write_fails",
            f"{which}{' and all after it' if forever else ''} to {file_of(target)} "
            f"{'fail' if forever else 'fails'} with {error}",
            target.clock,
            may_miss=may_miss,
        )
        return self._begin(
            fault,
            target,
            None,
            lambda: faults_disk.break_disk(target, number, countdown, fault),
        )

    def tear(
        self,
        store: AnyStore,
        *,
        keep: float = 0.5,
        part: str | None = None,
        garbled: bool = False,
    ) -> Fault:
        """Cut off the end of one of the store's files, or garble it: every byte inverted.

        ``keep`` is what stays: a number of bytes (negative: counted from the end), or a fraction
        as a float. ``part`` is ``"journal"`` or ``"checkpoint"`` of a tinydb store, ``"wal"`` or
        ``"database"`` of sqlite; by default the first. The bytes are put back in the end, unless
        the file was written to in between.
        """
        target = file_store(store, "tear")
        torn = faults_files.Tear(target, keep, part=part, garbled=garbled)
        fault = Fault("tear", str(torn), target.clock)
        return self._begin_on_files(fault, target, lambda: torn.do(fault))

    def delete(self, store: AnyStore) -> Fault:
        """Take away all of the store's files; who watches it gets HistoryGone.

        They come back in the end, unless the store object was closed in between.
        """
        target = file_store(store, "delete")
        fault = Fault("delete", f"the files of {target.url} are gone", target.clock)
        return self._begin_on_files(fault, target, lambda: faults_files.delete(target, fault))

    def replace(self, store: AnyStore, with_: str | os.PathLike[str] | None = None) -> Fault:
        """Put another store in the store's place; who watches it gets HistoryGone.

        ``with_`` is the file of a store of the same kind, closed everywhere, that is copied; by
        default it is a new, empty one. The store's own files come back in the end, unless its
        object was closed in between.
        """
        target = file_store(store, "replace")
        name = None if with_ is None else faults_files.check_substitute(target, with_)
        other = "an empty store" if name is None else f"a copy of {name}"
        fault = Fault("replace", f"{other} is in the place of {target.url}", target.clock)
        return self._begin_on_files(
            fault, target, lambda: faults_files.replace(target, name, fault)
        )

    # -- messages and their writers

    def appears(
        self,
        store: AnyStore,
        *,
        after: float,
        message_id: str | None = None,
        thread: ThreadLike | None = None,
        module_name: str = "late",
        may_miss: bool = False,
        **fields: Any,
    ) -> Fault:
        """Add a message in ``after`` seconds; its id is the fault's ``message_id``.

        ``thread`` has to be there by then; without it one is created. ``fields`` are what
        ``add_message`` takes besides. On every kind of store.
        """
        target = plain(store)
        seconds_to_us(after, "after")
        wanted = secrets.token_hex(8) if message_id is None else message_id
        values.identifier(wanted, "message_id")
        fault = Fault(
            "appears",
            f"message {render.clean(wanted)} appears after {render.span(after)}",
            target.clock,
            may_miss=may_miss,
        )
        fault.message_id = wanted

        def appear() -> None:
            where = target.create_thread() if thread is None else thread
            target.add_message(where, module_name, message_id=wanted, **fields)
            fault.meet()

        what = f"message {render.clean(wanted)} appears"
        return self._begin(fault, target, None, lambda: fault.plan(after, what, appear))

    def writer_dies(
        self,
        store: AnyStore,
        message: MessageLike,
        *,
        after: int,
        every: float = 0.0,
        text: str = "piece {n};",
        may_miss: bool = False,
    ) -> Fault:
        """Let a real process stream into a message and kill it in the middle of a write.

        It makes the message ``processing``, appends ``text`` ``after`` times, each after ``every``
        seconds (``{n}`` is the number of the piece), begins one more and gets SIGKILL inside that
        write, which holds the store's write lock: what it had appended before is kept, and of the
        last piece nobody sees anything. It runs beside the test; ``join()`` waits for its death.
        """
        target = file_store(store, "writer_dies")
        message_id = values.message_id_of(message)
        after = values.count(after, "after", least=0)
        every_us = seconds_to_us(every, "every")
        values.text(text, "text")
        try:
            text.format(n=1)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"text= may have {{n}} in it and no other braces: {error!r}") from None
        fault = Fault(
            "writer_dies",
            f"a process that writes message {render.clean(message_id)} is killed in append "
            f"{after + 1:,}",
            target.clock,
            may_miss=may_miss,
        )
        fault.message_id = message_id
        writer = Writer(target, message_id, fault, after=after, every_us=every_us, text=text)
        return self._begin(fault, target, None, writer.start)

    # -- callbacks

    def raising(
        self,
        error: ErrorLike | None = None,
        *,
        at: int = 1,
        forever: bool = True,
        may_miss: bool = False,
    ) -> RaisingCallback:
        """A callback for a poller that raises ``error`` at its ``at``-th call, and, if
        ``forever``, at all after it.

        Under pytest a callback that raises fails the test; this one does not, and is told of in
        the report. ``error`` is an exception, or a class of one; RuntimeError by default.
        """
        at = values.count(at, "at", least=1)
        return self._note(
            RaisingCallback(self._clock, _maker(error), at=at, forever=forever, may_miss=may_miss)
        )

    def blocking(self, *, for_: float | None = None, may_miss: bool = False) -> BlockingCallback:
        """A callback for a poller that does not return for ``for_`` seconds, or until undone."""
        for_us = None if for_ is None else _positive(for_, "for_")
        span = "until it is undone" if for_ is None else f"for {render.span(for_)}"
        return self._note(BlockingCallback(self._clock, for_us, span, may_miss=may_miss))

    # -- all of them

    @property
    def record(self) -> tuple[Fault, ...]:
        """All faults so far, in the order in which they began."""
        return tuple(self._faults)

    def undo(self) -> None:
        """Undo all that are left, the last one first.

        Raises the first error of those that cannot be undone, after all were tried, or the
        interrupt that broke one of them off, which is then undone after the others.
        """
        failure: BaseException | None = None
        last_first = self._faults[::-1]
        for fault in last_first * 2:  # the second time, what was interrupted
            try:
                fault.undo()
            except Exception as error:  # noqa: BLE001 - the others are to be undone too
                fault.notes.append(f"could not be undone: {error}")
                failure = failure or error
            except BaseException as interrupt:  # noqa: BLE001 - and so they are
                if failure is None or isinstance(failure, Exception):
                    failure = interrupt
        if failure is not None:
            raise failure

    def unmet(self) -> list[str]:
        """The faults that nobody met, though they had to be, a line each."""
        return [
            f"faults.{fault.kind}: {fault.what}: it was never met, so nothing was tested by it; "
            "with may_miss=True that is no error"
            for fault in self._faults
            if not fault.met and not fault.may_miss
        ]

    def lines(self) -> list[str]:
        """What went wrong on purpose, when, and when it was undone: a table for a person."""
        rows = [("BEGAN", "UNDONE", "MET", "FAULT")]
        for fault in self._faults:
            undone = "not yet" if fault.undone_us is None else self._at(fault, fault.undone_us)
            what = "; ".join([f"{fault.kind}: {fault.what}", *fault.notes])
            met = str(fault.met) if fault.met else "never"
            rows.append((self._at(fault, fault.began_us), undone, met, what))
        return render.table(rows)

    def _at(self, fault: Fault, us: int) -> str:
        clock = fault.clock
        start_us = clock._start_us if isinstance(clock, FakeClock) else self._start_us
        return f"+{render.span((us - start_us) / SECOND)}"

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.undo()
        if kind is None and (unmet := self.unmet()):
            raise AssertionError("\n".join(unmet))

    def __repr__(self) -> str:
        going_on = sum(not fault.is_undone for fault in self._faults)
        return f"<Faults, {len(self._faults)} so far, {going_on} going on>"

    def _note(self, fault: _F) -> _F:
        self._faults.append(fault)
        return fault

    def _begin(
        self, fault: Fault, store: object, length_us: int | None, begin: Callable[[], object]
    ) -> Fault:
        fault.store = store
        if length_us is not None:
            fault.what += f" for {render.span(length_us / SECOND)}"
        self._faults.append(fault)
        try:
            begin()
            if length_us is not None:
                fault.plan(length_us / SECOND, f"the end of faults.{fault.kind}", fault.undo)
        except BaseException:  # what could not begin is no fault, and leaves nothing
            fault.undo()
            self._faults.remove(fault)
            raise
        return fault

    def _begin_on_files(self, fault: Fault, store: FileStore, begin: Callable[[], object]) -> Fault:
        path = file_of(store)
        fault.path = path
        for each in self._faults:
            if each.path == path and not each.is_undone:
                # Undone after it, this one would put back what was there in the midst of it.
                each.when_undone(fault.undo)
        return self._begin(fault, store, None, begin)


def _positive(seconds: object, what: str) -> int:
    us = seconds_to_us(seconds, what)
    if us == 0:
        raise ValueError(f"{what} must be more than 0 seconds")
    return us


def _maker(error: ErrorLike | None) -> Callable[[], BaseException]:
    if error is None:
        return lambda: RuntimeError("raised on purpose, by faults.raising()")
    if isinstance(error, BaseException):
        return lambda: error
    try:
        if issubclass(error, BaseException):
            return error
    except TypeError:
        pass
    raise TypeError(f"error= is an exception or a class of one, not {error!r}")
