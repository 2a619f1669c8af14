"""Whose turn it is, and what time it is: the heart of the fake clock.

Actors take turns. Exactly one of them has the turn; it keeps it until it parks, which it can only
do in the scheduler. When nobody is ready, time jumps to the earliest timer. So a run depends on
nothing but the order in which actors parked and timers were set, however many threads there are.

What works outside may write too: while it does, the timers of those who look at a store (``POLLS``,
``SETTLED``) are not due, and of them only who was woken has a turn.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from ..clock import Why
from ..errors import ClockDeadlock
from .actors import ORDINARY, POLLS, SETTLED, Actor, Killed, Real, run_deep
from .clock_pages import deadlock_page, spin_page
from .timers import Timers

_TORN_WAIT = "release unlocked lock"
"""What CPython's ``threading`` makes of an interrupt of a wait, right after it has let go."""


class Turns:
    """Turns and time for the actors of one fake clock. The thread that makes it is the test's."""

    _MOST_TURNS = 1_000_000
    """After so many turns ``run_until_idle`` gives up on ever being idle."""
    _most_spins = 1_000_000
    """After so many at one instant, if they took as long as the watchdog waits, nothing more will
    come of them."""
    _many_spins = 1_000
    """So often may actors go on at one instant, waiting for no more than their turn, before one
    comes that was to have its turn after them: it is to see what they wait for."""
    _OVER = 10_000
    """After so many turns of each of them the instant is taken for over, and after ten times as
    many of them all: they may wait for what is due now, a deadline."""

    def __init__(self, watchdog: float, moved: Callable[[int], None], last_us: int) -> None:
        self.now_us = 0
        """Since the start."""
        self.watchdog = watchdog
        self.test = Actor("the test")
        self.test.claim()
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
        self._spins = 0
        """How many turns at this instant went to who had only let others have theirs."""
        self._spinning_since = 0.0
        """Since when, in real seconds."""
        self._still = 0.0
        """Real seconds for which the test has waited since anything happened."""
        self._closed: str | None = None
        self._taken_over = False
        self._interrupted = False
        self._unsettled = False
        """Whether the test is in a change of turns, or an interrupt tore it out of one."""
        self._retaken = 0
        """How often the test took its turn back in the midst of a wait."""
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

    def _everybody(self) -> list[Actor]:
        return [self.test, *self._actors]

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
        actor.order, actor.last_turn = order, self._turns
        try:
            with self._mutex:
                self.check_open()
                if at_us is None:
                    self._enrol(actor)
                else:
                    actor.parked = True
                    self._timers.set(at_us, actor, weak=weak)
                self._kick()
        except BaseException:
            self._unsettle()
            raise
        return actor

    def cancel(self, actor: Actor) -> None:
        """Take back a function that was planned and has not begun."""
        with self._mutex:
            self._timers.cancel_all(actor)

    def goes_on(self, actor: Actor) -> bool:
        """Whether it has not ended: who has not begun when the clock stops never will."""
        return not actor.done and (self._closed is None or actor.begun)

    @property
    def others_are_ready(self) -> bool:
        """Whether somebody waits for the turn at this instant."""
        with self._mutex:
            order = ORDINARY if self._outside else POLLS
            return any(self._ready) or self._timers.next_due(self.now_us, order) is not None

    def _enrol(self, actor: Actor) -> None:
        """Put an actor in line for the turn."""
        if actor is not self.test and actor not in self._actors:
            self._actors.append(actor)
        actor.parked = False
        self._ready[actor.order].append(actor)

    def _give_turn(self, actor: Actor) -> None:
        self._turns += 1
        self._beaten_turns += actor.beaten
        actor.beaten, actor.last_turn = False, self._turns
        self._holder = actor
        self._call(actor)

    def _call(self, actor: Actor) -> None:
        """Let the holder know. To say it again changes nothing."""
        if actor.begun:
            actor.open_gate()
        else:
            self._begin(actor)

    def _begin(self, actor: Actor) -> None:
        thread = threading.Thread(
            target=run_deep, args=(5, self._body, actor), name=actor.name, daemon=True
        )
        held = None
        try:
            # Without the mutex: here a signal's handler may want to wait. Nothing comes after it.
            try:
                # Unpacked, since after a call a signal is handled before what it returned is kept.
                (held,) = map(type(self._mutex)._release_save, (self._mutex,))  # type: ignore[attr-defined]
                thread.start()
            finally:
                if held is not None:
                    self._mutex._acquire_restore(held)  # type: ignore[attr-defined]
        except (RuntimeError, MemoryError) as error:
            if str(error) == _TORN_WAIT and error.__context__ is not None:
                raise error.__context__ from None
            if not actor.claim():
                raise  # from a signal's handler: it has begun
            # The system has no thread for it.
            self._end(actor)
            self._holder = None
            self.fail(error, actor.name)

    def _body(self, actor: Actor) -> None:
        if self._closed is not None or not actor.claim():
            return
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
                self._end(actor)
                if self._holder is actor:
                    self._pass_on()

    def _end(self, actor: Actor) -> None:
        actor.done = True
        self._actors.remove(actor)
        for joiner in actor.joiners:
            self._wake(joiner)

    def fail(self, error: BaseException, where: str) -> None:
        """Keep an error for the test, which is to go on at once and raise it."""
        with self._mutex:
            self.failures.append((error, where))
            self._wake(self.test)
            self._kick()

    def wake(self, actor: Actor, still: Callable[[], bool] = lambda: True) -> None:
        """End an actor's wait, if ``still`` it is the one that is meant. From any thread."""
        try:
            with self._mutex:
                if still():
                    self._wake(actor)
                    self._kick()
        except BaseException:
            self._unsettle()
            raise

    def _wake(self, actor: Actor) -> None:
        if actor.parked and not actor.done:
            actor.woken = True
            self._unpark(actor)

    def _unpark(self, actor: Actor) -> None:
        self._enrol(actor)
        self._timers.cancel_all(actor)

    def _unsettle(self) -> None:
        """An error came out of what the test does for others: it may be half done."""
        if self.me() is self.test:
            self._unsettled = True

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
        if self._spins > self._most_spins and self._spin_on():
            self.test.error = ClockDeadlock(spin_page(self.now_us, self._spins, self._everybody()))
            self._spins = 0
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
            self.now_us, self._spins = self._timers.earliest_us, 0
            self._moved(self.now_us)

    def _next_now(self) -> Actor | None:
        """Whose turn it is at this instant."""
        for order in (ORDINARY, POLLS, SETTLED):
            if self._ready[order]:
                return self._ready[order].popleft()
            if self._outside and order != ORDINARY:
                continue
            actor = self._timers.next_due(self.now_us, order)
            if actor is not None:
                return self._take_up(self._who_comes_in_between(actor) or actor)
        return None

    def _take_up(self, actor: Actor) -> Actor:
        """Out of its line, or its timer is due."""
        if actor not in self._ready[actor.order]:
            self._unpark(actor)
        self._ready[actor.order].remove(actor)
        return actor

    def _who_comes_in_between(self, actor: Actor) -> Actor | None:
        """Now and then, if ``actor``, whose turn it is, only lets others have theirs: who had none
        for longest, of those that come after all of its kind. It looks as if it was woken: what
        is done at the instant of a deadline counts, until the instant is taken for over."""
        if not (actor.spins and actor.parked):
            return None
        if self._spins == 0:
            self._spinning_since = Real.monotonic()
        self._spins += 1
        actor.spin(self.now_us)
        if self._spins % self._many_spins:
            return None
        is_over = self._is_over()
        others = [*self._ready[POLLS], *self._ready[SETTLED]]
        if is_over:
            others += self._timers.due(self.now_us, POLLS)
        if not others:
            return None
        chosen = min(others, key=lambda each: each.last_turn)
        chosen.woken = chosen.woken or not is_over
        return chosen

    def _is_over(self) -> bool:
        """Whether those that go on at this instant have had turns enough."""
        if self._outside:
            return False
        going_on = [*self._ready[ORDINARY], *self._timers.due(self.now_us, ORDINARY)]
        return (
            all(actor.spins_at(self.now_us) >= self._OVER for actor in going_on)
            or self._spins >= 10 * self._OVER
        )

    def _spin_on(self) -> bool:
        """Whether somebody does, for as long as the watchdog waits."""
        return Real.monotonic() - self._spinning_since >= self.watchdog and any(
            actor.spins and actor.parked for actor in self._everybody()
        )

    def _nothing_due(self) -> Actor:
        if self._idle_since is None:
            self.test.error = ClockDeadlock(deadlock_page(self.now_us, self._everybody()))
        return self._resume_test()

    def _resume_test(self) -> Actor:
        """End the test's wait, whatever it waits for; it has the next turn."""
        self._wake(self.test)
        if self.test in self._ready[self.test.order]:
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

    def outside_ends(self, key: object, tell: Callable[[], object]) -> None:
        """It has ended, and who waits for that is woken in one with it."""
        with self._mutex:
            try:
                tell()
            finally:
                self.outside_rests(key)

    def outside_rests(self, key: object) -> None:
        """It has ended, or waits for fake time to pass itself."""
        with self._mutex:
            if self._outside.pop(key, None) is not None:
                self._kick()

    # -- its end

    @property
    def stopped_for(self) -> float | None:
        """Real seconds since an actor that blocked outside stopped this clock; None: it goes on."""
        return None if self._stopped_at is None else Real.monotonic() - self._stopped_at

    def check_open(self) -> None:
        """End who still uses a clock that has stopped."""
        if self._closed is not None:
            me = self.me()
            if me is None or me is self.test:
                raise ClockDeadlock(f"this fake clock has stopped: {self._closed}")
            me.killed = True
            raise Killed
