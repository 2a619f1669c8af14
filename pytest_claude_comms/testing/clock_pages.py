"""What a person reads when a fake clock cannot go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..clock import SECOND
from .actors import Actor
from .stacks import stack_of, waits_for_a_wakeup, waits_on_system_clock

_HINT = (
    "  hint     an actor may wait only on the clock: Event.wait, queue.get and",
    "           Thread.join are real waits, and a loop on monotonic() must sleep;",
    "           work of another process is declared with clock.outside(…)",
)
_OUTSIDE_HINT = (
    "  hint     no time passes while work goes on outside, so no timeout on this clock ends",
    "           it: let it end, or wait for less of it inside clock.outside(…); work that is",
    "           slow, not stuck, needs a longer watchdog; in asyncio await the …_async()",
    "           functions rather than a thread that blocks",
)
_WAKEUP_HINT = (
    "  hint     all that could act has acted, and nobody woke it or let go of its lock. If",
    "           somebody had, before it waited, that wake-up was lost: look, and begin to",
    "           wait, under one lock. If somebody will, at a later fake time, it has to wait",
    "           on the clock until then: Event, Condition and queue do not",
)
_SYSTEM_HINT = (
    "  hint     somebody waits on the system clock, on which no fake time passes: give what",
    "           the test opens its clock: open_store(url, clock=clock),",
    "           ClaudeProcess(…, clock=clock)",
)


_PARKED_HINT = (
    "  hint     give the wait a timeout=, the message a timeout=, or plan its end with",
    "           clock.at(…); a thread of your own and a process are outside the clock:",
    "           start the thread with clock.spawn(…), or wait inside clock.outside(…)",
)
_SPIN_HINT = (
    "  hint     time passes only when all wait: sleep(0) and asyncio.sleep(0) wait for nothing.",
    "           Wait for what is to happen: by an event, by a poller, or in a loop with a sleep",
    "           of more than 0",
)
_LOCKS_HINT = (
    "  hint     the schedule says who took which lock where: let all take them in one",
    "           order, or let go of the first before the wait",
)
A_LOCK = "a lock that "
"""With this begins what an actor waits for that wants a lock."""


def deadlock_page(now_us: int, actors: Iterable[Actor]) -> str:
    """All are parked and nothing is due."""
    lines = [line for actor in actors for line in actor.lines()]
    of_locks = any(f" waits for {A_LOCK}" in line for line in lines)
    first = f"at +{now_us / SECOND:g} s on the fake clock all wait and nothing is due:"
    return "\n".join([first, *lines, *(_LOCKS_HINT if of_locks else _PARKED_HINT)])


def stuck_page(
    holder: Actor | None, outside: Sequence[str], watchdog: float, actors: Iterable[Actor]
) -> str:
    """Somebody has the turn, or works outside, and does not come back."""
    actors = list(actors)
    if any(waits_on_system_clock(actor.thread) for actor in actors):
        hint: tuple[str, ...] = _SYSTEM_HINT
    elif holder is not None and waits_for_a_wakeup(holder.thread):
        hint = _WAKEUP_HINT
    else:
        hint = _OUTSIDE_HINT if outside and holder is None else _HINT
    who = holder.name if holder is not None else ", ".join(outside) or "nobody"
    return _page(
        f"{who} has not come back to the fake clock for {watchdog:g} real seconds:", actors, hint
    )


def spin_page(now_us: int, spins: int, actors: Iterable[Actor]) -> str:
    """Some let others have their turn again and again, and no time passes."""
    actors = list(actors)
    who = ", ".join(each.name for each in actors if each.spins and each.parked)
    return _page(
        f"at +{now_us / SECOND:g} s on the fake clock these had {spins:,} turns, and no time "
        f"passes: {who}",
        actors,
        _SPIN_HINT,
    )


def _page(first: str, actors: Iterable[Actor], hint: Sequence[str]) -> str:
    of_actors = ("\n".join([*actor.lines(), stack_of(actor.thread)]) for actor in actors)
    return "\n".join([first, *of_actors, *hint])
