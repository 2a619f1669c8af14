"""Turns by a plan, and points at which an actor may lose its turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..clock import Why
from .actors import ORDINARY, POLLS, SETTLED, Actor, Killed
from .exploring_trace import Operation, Trace, place
from .scheduler import Scheduler

if TYPE_CHECKING:
    from .exploring_lines import Lines
    from .exploring_plan import Plan


class ExploringScheduler(Scheduler):
    """A scheduler whose plan says who goes on, of those that could at this instant.

    What holds at an instant holds still: a poller whose time has come looks when all have acted,
    and ``advance`` returns when all is settled. But a poller that was woken may look at any time,
    and an actor may lose its turn at any ``point``. No time passes while anybody could go on.
    """

    _most_spins = 100_000
    """Fewer than elsewhere: each is a turn in the trace."""

    def __init__(
        self,
        plan: Plan,
        watchdog: float,
        moved: Callable[[int], None],
        last_us: int,
    ) -> None:
        super().__init__(watchdog, moved, last_us)
        self.plan = plan
        if plan.explores:
            self._many_spins = 100
        self.trace = Trace()
        self.trace.begins(1, self.test.name, 0)
        self.points = 0
        """How many there were."""
        self.armed = False
        """Whether a turn can be lost now: only in the test itself, not in its fixtures."""
        self.tracer: Lines | None = None
        """If set, each line of certain code is a point."""
        self._numbers: dict[object, int] = {self.test: 1}
        """Of actors, and of the tasks of event loops."""

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
        actor = super().start(name, partial(self._run_actor, run), at_us, weak=weak, order=order)
        self._number(actor)
        return actor

    def _run_actor(self, run: Callable[[], object]) -> None:
        until = "it ends"
        try:
            if self.tracer is None:
                run()
            else:
                with self.tracer.traced():
                    run()
        except Killed:
            raise
        except BaseException as error:
            until = f"it raises {type(error).__name__}: {error}"
            raise
        finally:
            with self._mutex:
                if self._holder is self.me():
                    self.trace.ends(until, "")

    def _number(self, actor: object) -> int:
        """In the order in which they come up, which is the same every time."""
        return self._numbers.setdefault(actor, len(self._numbers) + 1)

    def called(self, actor: Actor) -> str:
        """Its name with its number, as a schedule has it: many may run one function."""
        return f"{actor.name} (actor {self._number(actor)})"

    def _priority(self, actor: Actor) -> float:
        return self.plan.priority(self._number(actor))

    # -- losing the turn

    def point(self, name: str) -> None:
        """Here the calling actor may lose its turn, if another is to come first."""
        __tracebackhide__ = True
        actor = self.me()
        if actor is None or not self.armed or not self.has_turn(actor):
            return
        self.points += 1
        self.trace.passes()
        if not self.plan.explores:
            return
        number = self._number(actor)
        self.plan.pass_point(self.points, number)
        with self._mutex:
            if self.failures or not self._is_outranked(actor):
                return
            self.trace.ends(f"preempted {name}", place())
        # An error of another actor is for a call of the test that lets time pass.
        self._let_others(actor, f"its turn, {name}", ORDINARY)

    def does(self, operation: Operation) -> None:
        """The calling actor does what others see the effect of."""
        if self.armed and self.has_turn(self.me()):
            self.trace.does(operation)

    def waits_outside(self, why: str) -> None:
        """The calling actor, who keeps its turn, waits for ``why``; "" when it goes on."""
        if self.has_turn(self.me()):
            self.trace.ends(f"it waits for {why}" if why else "", place() if why else "")

    def order_of(self, tasks: list[Any]) -> list[int]:
        """In which order tasks of an event loop have their next steps: their places in the list."""
        places = list(range(len(tasks)))
        actor = self.me()
        if not self.plan.explores or not self.armed or not self.has_turn(actor):
            return places
        numbers = [self._number(task) for task in tasks]
        self.points += 1
        self.plan.pass_point(self.points, numbers[0])
        places.sort(key=lambda place: -self.plan.priority(numbers[place]))
        if places != sorted(places):
            self.trace.reorders([tasks[place].get_name() for place in places], places)
        return places

    def has_rivals(self) -> bool:
        """Whether somebody else could go on at this instant."""
        with self._mutex:
            return bool(self._candidates(ORDINARY) or self._candidates(POLLS))

    def has_turn(self, actor: Actor | None) -> bool:
        """Whether this actor, who asks, can give up its turn here."""
        return (
            actor is not None
            and actor is self._holder
            and self._closed is None
            # Not in the midst of a change of turns: a garbage collection can run anything there.
            and not self._mutex._is_owned()  # type: ignore[attr-defined]
        )

    def _is_outranked(self, actor: Actor) -> bool:
        mine = self._priority(actor)
        return any(self._priority(rival) > mine for rival in self._at_any_time())

    # -- who is next

    def _at_any_time(self) -> list[Actor]:
        """Those that need not wait for the instant to be over."""
        woken = [actor for actor in self._ready[POLLS] if actor.woken]
        return self._candidates(ORDINARY) + woken

    def _candidates(self, order: int) -> list[Actor]:
        ready = list(self._ready[order])
        if self._outside and order != ORDINARY:
            return ready
        return ready + self._timers.due(self.now_us, order)

    def _next_now(self) -> Actor | None:
        if not self.plan.explores:
            return super()._next_now()
        for find in (
            self._at_any_time,
            partial(self._candidates, POLLS),
            partial(self._candidates, SETTLED),
        ):
            found = find()
            if found:
                # The first of those that come equal: drawn priorities do not.
                chosen = max(found, key=self._priority)
                if chosen.spins and chosen.parked and self._spins > self._many_spins:
                    # By now it is no matter of order: who goes on waits for one of the others.
                    chosen = min(found, key=lambda each: each.last_turn)
                return self._take_up(self._who_comes_in_between(chosen) or chosen)
        return None

    def _give_turn(self, actor: Actor) -> None:
        self.trace.begins(self._number(actor), actor.name, self.now_us)
        super()._give_turn(actor)

    # -- parking

    def park(self, why: Why, **how: Any) -> bool:
        __tracebackhide__ = True
        if self._holder is self.me() and self._closed is None:
            reason = why if isinstance(why, str) else why()
            self.trace.ends(f"it waits for {reason}", place())
        return super().park(why, **how)

    def stand_back(self, why: Why, order: int) -> bool:
        __tracebackhide__ = True
        if self._holder is self.me() and self._closed is None:
            self.trace.ends(f"it waits for {why if isinstance(why, str) else why()}", place())
        return super().stand_back(why, order)
