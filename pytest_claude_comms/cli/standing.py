"""How an open message stands: since when, until when, and whether anybody should look."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ..records import Message

STALLED_AFTER = 60.0
"""Seconds without a change after which somebody should look."""


OVERDUE = "its deadline has passed: 'claude-comms expire' settles it"


@dataclass(frozen=True)
class Standing:
    """An open message at some instant."""

    message: Message
    age: float
    """Seconds since its creation, as all spans here."""
    quiet: float
    left: float | None
    """Until its deadline; None if it has none."""
    stalled: bool

    @property
    def overdue(self) -> bool:
        """Whether it would be ``timeout`` if anybody had looked."""
        return self.left is not None and self.left <= 0

    @property
    def note(self) -> str:
        """One word for a table."""
        if self.overdue:
            return "overdue"
        if self.stalled:
            return "stalled" if self.left is not None else "stalled, no deadline"
        return "" if self.left is not None else "no deadline"

    @property
    def hint(self) -> str:
        """What that means and what to do; "" if all may be well."""
        return HINTS.get(self.note, "")


HINTS = {
    "overdue": "its deadline has passed and nobody has noticed, so its writer is probably gone: "
    "'claude-comms expire' settles it",
    "stalled": "nothing has changed for long; it becomes timeout at its deadline, as soon as a "
    "poller, a write or 'claude-comms expire' looks",
    "stalled, no deadline": "nothing has changed for long, and nothing will end it by itself: if "
    "its writer is gone, 'claude-comms cancel MESSAGE' ends it",
}


def standing(message: Message, now: datetime, stalled_after: float = STALLED_AFTER) -> Standing:
    """How an open message stands at ``now``."""
    quiet = (now - message.updated_at).total_seconds()
    deadline = message.deadline_at
    return Standing(
        message=message,
        age=(now - message.created_at).total_seconds(),
        quiet=quiet,
        left=None if deadline is None else (deadline - now).total_seconds(),
        stalled=quiet > stalled_after,
    )
