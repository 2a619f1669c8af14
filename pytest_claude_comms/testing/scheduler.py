"""How the actors of a fake clock wait for their turn, and how the test goes on whatever comes."""

from __future__ import annotations

from collections.abc import Callable

from ..clock import SECOND, Why
from ..errors import ClockDeadlock
from .actors import ORDINARY, SETTLED, Actor, Killed, Real
from .clock_pages import stuck_page
from .turns import Turns


class Scheduler(Turns):
    """Waits, the watch over who has the turn, errors of actors, and the end of them all."""

    _GLANCE = 0.01
    """Real seconds between two looks of the waiting test: is an actor stuck, did another
    process write?"""
    paused = False
    """While a person is in a debugger, of all of them: being stuck is fine then."""

    # -- parking

    def park(
        self,
        why: Why,
        *,
        at_us: int | None = None,
        beat_us: int | None = None,
        beats: bool = False,
        order: int = ORDINARY,
        unless: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Give up the turn until woken, be it to look again (True), or until ``at_us`` or
        ``beat_us`` (False).

        ``unless`` is asked once no ``wake`` can come between its answer and the parking.
        """
        __tracebackhide__ = True
        actor = self._enter()
        idle_since = self._idle_since
        try:
            while True:
                with self._mutex:
                    self.check_open()
                    if unless():
                        return True
                    retaken = self._leave(actor)
                    actor.why, actor.since_us, actor.order = why, self.now_us, order
                    actor.woken, actor.parked, actor.beats = False, True, beats
                    actor.spins = at_us is not None and at_us <= self.now_us and order == ORDINARY
                    if at_us is not None:
                        self._timers.set(max(at_us, self.now_us), actor)
                    if beat_us is not None:
                        self._timers.set(max(beat_us, self.now_us), actor, weak=True)
                    self._pass_on()
                self._await_turn(actor)
                self._raise_what_came(actor)
                if actor is not self.test or retaken == self._retaken:
                    return actor.woken
                # A signal's handler waited meanwhile, for which this wait was ended: wait on.
                self._idle_since = idle_since
        except BaseException:
            self._torn(actor)
            raise

    def stand_back(self, why: Why, order: int) -> bool:
        """Let all others have their turn that are ready at this instant and come before. True if
        they go on and on, and it is to look in between."""
        __tracebackhide__ = True
        actor = self._enter()
        actor.woken = False
        self._let_others(actor, why, order)
        self._raise_what_came(actor)
        return actor.woken

    def _let_others(self, actor: Actor, why: Why, order: int) -> None:
        __tracebackhide__ = True
        try:
            with self._mutex:
                self.check_open()
                self._leave(actor)
                actor.why, actor.since_us, actor.order = why, self.now_us, order
                self._enrol(actor)
                self._pass_on()
            self._await_turn(actor)
        except BaseException:
            self._torn(actor)
            raise

    def park_until_idle(self) -> None:
        """Let happen all that can happen: until nothing is ready and no strong timer is set."""
        __tracebackhide__ = True
        self._enter()
        try:
            self._idle_since = self._turns
            while True:  # On 3.13 an alarm escapes `while x` (python/cpython#130279).
                if self.park("until idle", order=SETTLED):
                    break
        finally:
            self._idle_since = None

    def join(self, target: Actor, at_us: int | None) -> bool:
        """Park until ``target`` has ended."""
        __tracebackhide__ = True
        me = self.me()
        if me is None:
            while not target.done and (at_us is None or self.now_us < at_us):
                self.check_open()
                Real.sleep(0.001)
            return target.done
        why = f"the end of {target.name}"
        try:
            target.joiners.append(me)
            while True:  # as in park_until_idle
                if target.done:
                    break
                woken = self.park(why, at_us=at_us, unless=lambda: target.done)
                if not woken and not target.done:
                    return False
        finally:  # else the target's end would cut short what this actor waits for by then
            with self._mutex:
                if me in target.joiners:
                    target.joiners.remove(me)
        return True

    def _enter(self) -> Actor:
        """The calling actor, which has the turn from now on if it is the test."""
        actor = self.me()
        assert actor is not None
        if actor is self.test:
            if self._mutex._is_owned():  # type: ignore[attr-defined]
                raise RuntimeError(
                    "a signal's handler waits on the fake clock, and came in the midst of a change "
                    "of turns: let it set a flag, or start with clock.spawn(…) what waits"
                )
            if self._unsettled:
                self._retake()
        return actor

    def _leave(self, actor: Actor) -> int:
        if actor is self.test:
            self._unsettled = True
        return self._retaken

    def _await_turn(self, actor: Actor) -> None:
        __tracebackhide__ = True
        if actor is self.test:
            self._await_as_test()
            self._unsettled = False
            return
        # A gate may be open though nobody gave the turn: see _retake. Who is on the way to it when
        # the clock is closed waits for close() to open it: actors end one after another.
        while True:
            actor.gate.acquire()
            if self._closed is not None:
                actor.killed = True
                raise Killed
            if self._holder is actor:
                return

    def _raise_what_came(self, actor: Actor) -> None:
        __tracebackhide__ = True
        if actor is self.test:
            self.raise_failure()
        if actor.error is not None:
            error, actor.error = actor.error, None
            raise error

    # -- the test waits

    def _await_as_test(self) -> None:
        __tracebackhide__ = True
        # The test is the one who can fail, so it watches while the others have the turn.
        seen, since = self._progress(), Real.monotonic()
        still = self._still
        while not self._got_turn():
            with self._mutex:
                if self._progress() != seen or self.paused:
                    seen, since, still = self._progress(), Real.monotonic(), 0.0
                elif still + Real.monotonic() - since >= self.watchdog:
                    page = self.stuck_page()
                    self._take_over()
                    raise ClockDeadlock(page)
                elif self._outside and self._holder is None:
                    self._beat()
        self._still = 0.0 if self._progress() != seen else still + Real.monotonic() - since

    def _got_turn(self) -> bool:
        self.test.gate.acquire(timeout=self._GLANCE)
        return self._holder is self.test

    def _progress(self) -> int:
        # A poller that looked again in vain is no sign of life of what is outside.
        return self._turns - self._beaten_turns

    def _beat(self) -> None:
        for actor in (*self._actors, self.test):
            if actor.parked and actor.beats:
                actor.beaten = actor.woken = True
                self._unpark(actor)
        self._kick()

    def _take_over(self) -> None:
        # Whoever has the turn never gave it back; when it comes to the clock it ends there.
        self._closed = "an actor blocked outside the clock"
        self._taken_over = True
        self._stopped_at = Real.monotonic()
        self._holder = self.test
        self.test.parked = False

    # -- interrupts: Ctrl-C, another plugin's alarm, a signal's handler that itself waits

    def _torn(self, actor: Actor) -> None:
        """An error came out of a change of turns. The test goes on, so it needs the turn first."""
        if actor is self.test and self._unsettled:
            self._retake()

    def _retake(self) -> None:
        """Bring all to where the test has the turn, wherever it was torn out of a change or a
        wait: whoever has the turn parks first, or the watchdog's time is over."""
        test = self.test
        self._retaken += 1
        with self._mutex:
            if self._closed is None:
                self._mend()
            if self._closed is None and self._holder is not test:
                self._interrupted = True
                if not any(test in ready for ready in self._ready):
                    self._unpark(test)
                self._kick()
                if self._holder is not None:
                    self._call(self._holder)
        until = Real.monotonic() + self.watchdog
        while self._closed is None and self._holder is not test:
            if not test.gate.acquire(timeout=max(0.0, until - Real.monotonic())):
                with self._mutex:
                    self._take_over()
        with self._mutex:
            test.gate.acquire(timeout=0)
            test.parked = self._interrupted = False
            self._forget(test)
            self._idle_since = None
            self._unsettled = False

    def _mend(self) -> None:
        """Lose nobody of whom the test was torn away: it was to go on, or to be given the turn."""
        self._timers.mend()
        for actor in self._actors:
            if actor.parked and not actor.woken:
                continue
            actor.parked = False
            self._timers.cancel_all(actor)
            if actor is not self._holder and not any(actor in ready for ready in self._ready):
                self._ready[actor.order].appendleft(actor)

    def _forget(self, actor: Actor) -> None:
        self._timers.cancel_all(actor)
        for ready in self._ready:
            while actor in ready:
                ready.remove(actor)

    # -- errors of actors

    def raise_failure(self) -> None:
        """Raise the first error of an actor that the test has not seen yet."""
        __tracebackhide__ = True
        with self._mutex:
            if not self.failures:
                return
            error, where = self.failures.pop(0)
        add_note = getattr(error, "add_note", None)  # 3.11
        if add_note is not None:
            add_note(f"raised in {where} at +{self.now_us / SECOND:g} s on the fake clock")
        raise error

    def raise_failures(self) -> None:
        """Raise the first of them all, the others as its context: no call comes after this one."""
        try:
            self.raise_failure()
        except BaseException as error:
            last, seen = error, {id(error)}
            with self._mutex:
                rest, self.failures = self.failures, []
            for other, _ in rest:
                while last.__context__ is not None and id(last.__context__) not in seen:
                    last = last.__context__
                    seen.add(id(last))
                if id(other) not in seen:
                    last.__context__ = other
            raise

    # -- for a person

    def lines(self) -> list[str]:
        """Each actor but the test, and what it waits for."""
        return [actor.line() for actor in self._actors]

    def stuck_page(self) -> str:
        """Somebody has the turn and does not give it back."""
        outside = [what if isinstance(what, str) else what() for what in self._outside.values()]
        return stuck_page(self._holder, outside, self.watchdog, self._everybody())

    # -- its end

    def close(self) -> list[Actor]:
        """End all actors; returns those that did not end within the watchdog's time."""
        if self._unsettled and self.me() is self.test:
            self._retake()
        with self._mutex:
            self._closed = self._closed or "the test is over"
            self._timers.clear()
            actors = list(self._actors)
        living = [actor for actor in actors if actor.begun]
        # Who is stuck was waited for once already.
        until = Real.monotonic() + (0.1 if self._taken_over else self.watchdog)
        try:
            for actor in living:  # one after another: what they unwind may not be made for company
                actor.open_gate()
                actor.join(max(0.0, until - Real.monotonic()))
        finally:  # however it is interrupted
            for actor in living:
                actor.open_gate()
        return [actor for actor in living if actor.is_alive()]
