"""What a run of a stand-in is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from .recording import Recording

Abrupt: TypeAlias = Literal["hang", "crash", "exit", "linger", "truncate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """A block of text; ``ends`` the turn, or is left ``unfinished`` for what comes then."""

    text: str
    after: float = 0.0
    chunks: int = 1
    every: float = 0.0
    ends: bool = False
    unfinished: bool = False

    def pieces(self) -> list[str]:
        """The text in ``chunks`` parts of nearly equal length, none empty."""
        count = max(1, min(self.chunks, len(self.text)))
        cuts = [len(self.text) * place // count for place in range(count + 1)]
        return [self.text[start:end] for start, end in pairwise(cuts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsesTool:
    """A tool is used, and gives a result; or is not, because permission is denied."""

    name: str
    input: Mapping[str, Any]
    result: str = ""
    is_error: bool = False
    asks: bool = False
    denied: str | None = None
    after: float = 0.0


@dataclass(frozen=True, slots=True)
class Retries:
    """The API answers so, and is asked again. ``every`` None: at the CLI's own pace."""

    status: int | None
    times: int
    every: float | None


@dataclass(frozen=True, slots=True)
class Fails:
    """The API answers so, for good."""

    status: int | None
    message: str | None
    after: float


@dataclass(frozen=True, slots=True)
class Refuses:
    """A safety classifier stops the answer, twice."""

    text: str


@dataclass(frozen=True, slots=True)
class NotLoggedIn:
    """There is no API key."""


@dataclass(frozen=True, slots=True)
class MaxTurns:
    """The limit of turns is reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """The process does not end as it should."""

    how: Abrupt
    after: float = 0.0
    code: int = 0
    stderr: str = ""


@dataclass(frozen=True, slots=True)
class WrongUsage:
    """It refuses its command line."""

    text: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """All of it is played from a recording, or recorded."""

    recording: Recording


Step: TypeAlias = (
    Says
    | UsesTool
    | Retries
    | Fails
    | Refuses
    | NotLoggedIn
    | MaxTurns
    | Ends
    | WrongUsage
    | Recorded
)


def ends_turn(step: Step) -> bool:
    """Whether what comes after it belongs to the next turn."""
    if isinstance(step, Says):
        return step.ends
    if isinstance(step, Ends):
        return step.how == "hang"  # an interrupt on stdin ends it, and another turn may follow
    return isinstance(step, (Fails, Refuses, NotLoggedIn, MaxTurns))
