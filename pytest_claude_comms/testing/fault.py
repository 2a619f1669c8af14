"""A fault: what it is, when it began, whether anybody met it, how it is undone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from ..clock import SECOND, Clock, Handle, Signal, seconds_to_us
from .fake_clock import FakeClock

_Self = TypeVar("_Self", bound="Fault")


class Fault:
    """Something that goes wrong on purpose, until it is undone.

    Undone at the end of its time, of its ``with`` block or of the test, or by ``undo()``.
    """

    def __init__(self, kind: str, what: str, clock: Clock, *, may_miss: bool = False) -> None:
        self.kind = kind
        """The name of the method of ``faults`` that made it."""
        self.what = what
        """What goes wrong, in words."""
        self.may_miss = may_miss
        """Whether nobody need meet it."""
        self.met = 0
        """How often it was met: by a call, or by having happened."""
        self.message_id: str | None = None
        """Of the message that it is about, if it is about one."""
        self.notes: list[str] = []
        """What else became of it, for a person."""
        self.store: object = None
        """What it was done to, if to a store."""
        self.path: str | None = None
        """The main file of that store, if it was done to its files."""
        self.clock = clock
        """On which its time passes."""
        self.began_us = clock.now_us()
        """When it began, in microseconds since 1970."""
        self.undone_us: int | None = None
        self._handle: Handle | None = None
        self._lock = threading.Lock()
        self._put_backs: list[Callable[[], object]] = []
        """What is left to be done to undo it, the last one first."""
        self._signals: list[Signal] = []
        """Of those who wait in ``pause``."""
        self._undoing = threading.RLock()
        """Whoever undoes it holds it: one that is interrupted lets the next one go on."""
        self._pid = os.getpid()
        self._waiter: int | None = None
        """The thread on which a plan waits for its time, where the clock is a real one."""

    @property
    def is_undone(self) -> bool:
        """Whether it is over and all is as if it had not been, but for what it did to others."""
        return self.undone_us is not None

    def undo(self) -> None:
        """End it now and put things back. Doing so again changes nothing, but goes on where an
        interrupt, as Ctrl-C or a timeout, broke it off."""
        if os.getpid() != self._pid:  # what a fork inherited is the parent's to undo
            return
        with self._lock:
            if self.undone_us is None:
                self.undone_us = self.clock.now_us()
            signals = list(self._signals)
        for signal in signals:
            signal.set()
        if threading.get_ident() == self._waiter:
            if not self._undoing.acquire(blocking=False):
                return  # who undoes it waits for this thread
            try:
                self._put_right()
            finally:
                self._undoing.release()
        else:
            with self._undoing:
                self._put_right()

    def _put_right(self) -> None:
        failure: Exception | None = None
        tried: Callable[[], object] | None = None
        while self._put_backs:
            put_back = self._put_backs[-1]
            try:
                put_back()
            except Exception as error:  # noqa: BLE001 - what was done before it is to be undone too
                failure = failure or error
                if put_back is not tried:  # a timeout may be an exception like any other
                    tried = put_back
                    continue
            # One that was interrupted stays, and those that it stands upon wait for it.
            if self._put_backs and self._put_backs[-1] is put_back:
                self._put_backs.pop()
        if failure is not None:
            raise failure

    def join(self, timeout: float | None = None) -> bool:
        """Let time pass until that which was planned has happened, or time is up (False).

        A message that appears, a writer that dies, the end of a fault that has a length. Others
        have happened at once.
        """
        if self._handle is None or self.is_undone:
            return True
        return self._handle.join(timeout)

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.undo()

    def __repr__(self) -> str:
        state = "over" if self.is_undone else "going on"
        return f"<fault {self.kind}, {state}, met {self.met} times: {self.what}>"

    # -- for who makes one

    def meet(self) -> None:
        """It was met."""
        with self._lock:
            self.met += 1

    def when_undone(self, put_back: Callable[[], object]) -> None:
        """Call ``put_back`` when it is undone, the last one first; again, if it was interrupted."""
        self._put_backs.append(put_back)

    def goes_on_in(self, handle: Handle) -> None:
        """``handle`` is what ``join`` waits for."""
        self._handle = handle

    def plan(self, seconds: float, what: str, act: Callable[[], object]) -> None:
        """Call ``act`` in so many seconds of the clock, unless it is undone before."""
        us = seconds_to_us(seconds, "seconds")

        def due() -> None:
            if not self.is_undone:
                act()

        due.__qualname__ = f"{what} (for +{seconds:g} s)"  # an actor is named after its function
        clock = self.clock
        if isinstance(clock, FakeClock):
            scheduler = clock._scheduler
            # Registered here and now: of what falls due at one instant it comes in this order.
            self._handle = clock.after(us / SECOND, due)
            actor = self._handle._actor  # type: ignore[attr-defined]
            self.when_undone(lambda: scheduler.cancel(actor))
            return
        self._handle = handle = clock.spawn(self._wait_for, us, due)

        def let_end() -> None:
            if threading.get_ident() != self._waiter:
                handle.join()

        self.when_undone(let_end)

    def _wait_for(self, us: int, due: Callable[[], None]) -> None:
        self._waiter = threading.get_ident()
        self.pause(us, f"the time of the fault {self.kind}")
        due()

    def pause(self, us: int | None, why: str) -> None:
        """Let so much time pass on the clock (None: all there is), or less if it is undone."""
        clock = self.clock
        wakeup = clock.wakeup()
        with self._lock:
            self._signals.append(wakeup)
        end_us = None if us is None else clock.monotonic_us() + us
        while not self.is_undone:
            left_us = None if end_us is None else end_us - clock.monotonic_us()
            if left_us is not None and left_us <= 0:
                break
            wakeup.wait(left_us, why=why)
        with self._lock:
            self._signals.remove(wakeup)
