"""Who may run, and what time it is: the heart of the fake clock.

Actors take turns. Exactly one of them has the turn; it keeps it until it parks, which it can only
do here. When nobody is ready, time jumps to the earliest timer. So a run depends on nothing but
the order in which actors parked and timers were set, however many threads there are.

What works outside may write too: while it does, the timers of those who look at a store (``POLLS``,
``SETTLED``) are not due, and of them only who was woken has a turn.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..clock import SECOND, Why
from ..errors import ClockDeadlock
from .actors import ORDINARY, POLLS, SETTLED, Actor, Killed, Real, run_deep
from .clock_pages import deadlock_page, stuck_page
from .timers import Timers


class Scheduler:
    """Turns and time for the actors of one fake clock. The thread that makes it is the test's."""

    _MOST_TURNS = 1_000_000
    """After so many turns ``run_until_idle`` gives up on ever being idle."""
    _GLANCE = 0.01
    """Real seconds between two looks of the waiting test: is an actor stuck, did another
    process write?"""
    paused = False
    """While a person is in a debugger, of all of them: being stuck is fine then."""

    def __init__(self, watchdog: float, moved: Callable[[int], None], last_us: int) -> None:
        self.now_us = 0
        """Since the start."""
        self.watchdog = watchdog
        self.test = Actor("the test")
        self.test.thread = threading.current_thread()
        self.failures: list[tuple[BaseException, str]] = []
        self._moved = moved
        self._last_us = last_us
        self._mutex = Real.rlock()
        self._actors: list[Actor] = []
        self._by_ident: dict[int, Actor] = {threading.get_ident(): self.test}
        self._holder: Actor | None = self.test
        self._ready: tuple[deque[Actor], deque[Actor], deque[Actor]] = (deque(), deque(), deque())
        self._timers = Timers()
        self._idle_since: int | None = None
        """The turn at which ``run_until_idle`` began, while the test is in it."""
        self._outside: dict[object, Why] = {}
        """What goes on in real time, by a key of who said so."""
        self._turns = 0
        self._beaten_turns = 0
        self._still = 0.0
        """Real seconds for which the test has waited since anything happened."""
        self._closed: str | None = None
        self._taken_over = False
        self._interrupted = False
        self._stopped_at: float | None = None

    # -- who is asking

    def me(self) -> Actor | None:
        """The actor of the calling thread; None for a thread outside the clock."""
        return self._by_ident.get(threading.get_ident())

    @property
    def turns(self) -> int:
        """How often the turn was passed on: what shows that something happens."""
        return self._turns

    @property
    def holder(self) -> Actor | None:
        return self._holder

    @property
    def awaited(self) -> bool:
        """Whether anybody beside the test has something left to do, now or when it is due."""
        with self._mutex:
            return bool(self._actors) or self._timers.strong > 0

    # -- actors

    def start(
        self,
        name: str,
        run: Callable[[], object],
        at_us: int | None = None,
        *,
        weak: bool = False,
        order: int = ORDINARY,
    ) -> Actor:
        """Enrol a function: ready now, or due at an instant (``weak``: if time comes so far)."""
        actor = Actor(name, run)
        actor.order = order
        with self._mutex:
            self.check_open()
            if at_us is None:
                self._enrol(actor)
            else:
                actor.parked = True
                self._timers.set(at_us, actor, weak=weak)
            self._kick()
        return actor

    def cancel(self, actor: Actor) -> None:
        """Take back a function that was planned and has not begun."""
        with self._mutex:
            self._timers.cancel_all(actor)

    @property
    def others_are_ready(self) -> bool:
        """Whether somebody waits for the turn at this instant."""
        return any(self._ready)

    def _enrol(self, actor: Actor) -> None:
        """Put an actor in line for the turn."""
        if actor is not self.test and actor not in self._actors:
            self._actors.append(actor)
        actor.parked = False
        self._ready[actor.order].append(actor)

    def _give_turn(self, actor: Actor) -> None:
        self._turns += 1
        self._beaten_turns += actor.beaten
        actor.beaten = False
        self._holder = actor
        if actor.thread is not None:
            actor.gate.release()
            return
        actor.thread = threading.Thread(
            target=run_deep, args=(5, self._body, actor), name=actor.name, daemon=True
        )
        actor.thread.start()

    def _body(self, actor: Actor) -> None:
        self._by_ident[threading.get_ident()] = actor
        try:
            assert actor.run is not None
            actor.run()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - pytest.fail() is no Exception
            self.fail(error, actor.name)
        finally:
            del self._by_ident[threading.get_ident()]
            with self._mutex:
                actor.done = True
                self._actors.remove(actor)
                for joiner in actor.joiners:
                    self._wake(joiner)
                if self._holder is actor:
                    self._pass_on()

    def fail(self, error: BaseException, where: str) -> None:
        """Keep an error for the test, which is to go on at once and raise it."""
        with self._mutex:
            self.failures.append((error, where))
            self._wake(self.test)
            self._kick()

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
        actor = self.me()
        assert actor is not None
        with self._mutex:
            self.check_open()
            if unless():
                return True
            actor.why, actor.since_us, actor.order = why, self.now_us, order
            actor.woken, actor.parked, actor.beats = False, True, beats
            if at_us is not None:
                self._timers.set(max(at_us, self.now_us), actor)
            if beat_us is not None:
                self._timers.set(beat_us, actor, weak=True)
            self._pass_on()
        self._await_turn(actor)
        return actor.woken

    def stand_back(self, why: Why, order: int) -> None:
        """Let all others have their turn that are ready at this instant and come before."""
        __tracebackhide__ = True
        actor = self.me()
        assert actor is not None
        with self._mutex:
            self.check_open()
            actor.why, actor.since_us, actor.order = why, self.now_us, order
            self._enrol(actor)
            self._pass_on()
        self._await_turn(actor)

    def park_until_idle(self) -> None:
        """Let happen all that can happen: until nothing is ready and no strong timer is set."""
        __tracebackhide__ = True
        self._idle_since = self._turns
        try:
            while not self.park("until idle", order=SETTLED):
                pass
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
        target.joiners.append(me)
        try:
            while not target.done:
                if not self.park(f"the end of {target.name}", at_us=at_us) and not target.done:
                    return False
        finally:  # else the target's end would cut short what this actor waits for by then
            with self._mutex:
                target.joiners.remove(me)
        return True

    def wake(self, actor: Actor, still: Callable[[], bool] = lambda: True) -> None:
        """End an actor's wait, if ``still`` it is the one that is meant. From any thread."""
        with self._mutex:
            if still():
                self._wake(actor)
                self._kick()

    def _wake(self, actor: Actor) -> None:
        if actor.parked and not actor.done:
            actor.woken = True
            self._unpark(actor)

    def _unpark(self, actor: Actor) -> None:
        self._timers.cancel_all(actor)
        self._enrol(actor)

    def _await_turn(self, actor: Actor) -> None:
        __tracebackhide__ = True
        if actor is self.test:
            self._await_as_test()
            self.raise_failure()
        else:
            actor.gate.acquire()
            if self._closed is not None:
                raise Killed
        if actor.error is not None:
            error, actor.error = actor.error, None
            raise error

    def _await_as_test(self) -> None:
        __tracebackhide__ = True
        # The test is the one who can fail, so it watches while the others have the turn.
        seen, since = self._progress(), Real.monotonic()
        still = self._still
        while not self._try_turn():
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

    def _try_turn(self) -> bool:
        try:
            return self.test.gate.acquire(timeout=self._GLANCE)
        except BaseException:
            # Ctrl-C, or another plugin's alarm. The test goes on, so it needs the turn first:
            # whoever has it parks, or the watchdog's time is over.
            with self._mutex:
                if self._holder is not self.test:
                    self._interrupted = True
                    self._wake(self.test)
                    self._kick()
            if not self.test.gate.acquire(timeout=self.watchdog):
                with self._mutex:
                    self._take_over()
            raise

    def _progress(self) -> int:
        # A poller that looked again in vain is no sign of life of what is outside.
        return self._turns - self._beaten_turns

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
            last = error
            with self._mutex:
                rest, self.failures = self.failures, []
            for other, _ in rest:
                while last.__context__ is not None:
                    last = last.__context__
                if other is not last:
                    last.__context__ = other
            raise

    def _take_over(self) -> None:
        # Whoever has the turn never gave it back; when it comes to the clock it ends there.
        self._closed = "an actor blocked outside the clock"
        self._taken_over = True
        self._stopped_at = Real.monotonic()
        self._holder = self.test
        self.test.parked = False

    # -- for a person

    def lines(self) -> list[str]:
        """Each actor but the test, and what it waits for."""
        return [actor.line() for actor in self._actors]

    def stuck_page(self) -> str:
        """Somebody has the turn and does not give it back."""
        outside = [what if isinstance(what, str) else what() for what in self._outside.values()]
        return stuck_page(self._holder, outside, self.watchdog, self._everybody())

    def _everybody(self) -> list[Actor]:
        return [self.test, *self._actors]

    # -- passing the turn on

    def _pass_on(self) -> None:
        self._holder = None
        if self._closed is not None:
            return
        chosen = self._choose()
        if chosen is not None:
            self._give_turn(chosen)

    def _kick(self) -> None:
        """After something changed from outside: go on, if nobody has the turn."""
        if self._holder is None:
            self._pass_on()

    def _choose(self) -> Actor | None:
        if self.failures or self._interrupted:
            self._interrupted = False
            return self._resume_test()
        while True:
            actor = self._next_now()
            if actor is not None:
                return actor
            if self._outside:
                return None
            if self._timers.strong == 0:
                return self._nothing_due()
            if self._idle_since is not None and self._turns - self._idle_since > self._MOST_TURNS:
                busy = ", ".join(actor.name for actor in self._actors) or "actions"
                self.test.error = ClockDeadlock(
                    f"not idle after {self._MOST_TURNS:,} turns: {busy}"
                )
                return self._resume_test()
            if self._timers.earliest_us > self._last_us:
                self.test.error = ClockDeadlock("time would pass the end of the year 9999")
                return self._resume_test()
            self.now_us = self._timers.earliest_us
            self._moved(self.now_us)

    def _next_now(self) -> Actor | None:
        """Whose turn it is at this instant."""
        for order in (ORDINARY, POLLS, SETTLED):
            if self._ready[order]:
                return self._ready[order].popleft()
            if self._outside and order != ORDINARY:
                continue
            actor = self._timers.pop_due(self.now_us, order)
            if actor is not None:
                self._unpark(actor)
                self._ready[actor.order].remove(actor)
                return actor
        return None

    def _nothing_due(self) -> Actor:
        if self._idle_since is None:
            self.test.error = ClockDeadlock(deadlock_page(self.now_us, self._everybody()))
        return self._resume_test()

    def _resume_test(self) -> Actor:
        """End the test's wait, whatever it waits for; it has the next turn."""
        self._wake(self.test)
        self._ready[self.test.order].remove(self.test)
        return self.test

    # -- work outside

    def outside_works(self, key: object, what: Why) -> None:
        """From now on ``what`` goes on in real time, and fake time stands still."""
        with self._mutex:
            self._outside[key] = what

    def is_outside(self, key: object) -> bool:
        """Whether it does."""
        with self._mutex:
            return key in self._outside

    def outside_rests(self, key: object) -> None:
        """It has ended, or waits for fake time to pass itself."""
        with self._mutex:
            if self._outside.pop(key, None) is not None:
                self._kick()

    def _beat(self) -> None:
        for actor in (*self._actors, self.test):
            if actor.parked and actor.beats:
                actor.beaten = actor.woken = True
                self._unpark(actor)
        self._kick()

    # -- its end

    @property
    def stopped_for(self) -> float | None:
        """Real seconds since an actor that blocked outside stopped this clock; None: it goes on."""
        return None if self._stopped_at is None else Real.monotonic() - self._stopped_at

    def check_open(self) -> None:
        """End who still uses a clock that has stopped."""
        if self._closed is not None:
            if self.me() in (None, self.test):
                raise ClockDeadlock(f"this fake clock has stopped: {self._closed}")
            raise Killed

    def close(self) -> list[Actor]:
        """End all actors; returns those that did not end within the watchdog's time."""
        with self._mutex:
            self._closed = self._closed or "the test is over"
            self._timers.clear()
            living = [actor for actor in self._actors if actor.thread is not None]
        # Who is stuck was waited for once already.
        until = Real.monotonic() + (0.1 if self._taken_over else self.watchdog)
        for actor in living:  # one after another: what they unwind may not be made for company
            assert actor.thread is not None
            if actor is not self._holder and actor.gate.locked():
                actor.gate.release()
            actor.thread.join(max(0.0, until - Real.monotonic()))
        return [actor for actor in living if actor.thread is not None and actor.thread.is_alive()]
