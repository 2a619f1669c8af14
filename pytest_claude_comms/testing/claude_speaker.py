"""Who speaks: the session, the ids and the counts that all lines of one process have in common."""

from __future__ import annotations

import random
import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from ..clock import Clock

Line = dict[str, Any]

DEFAULT_MODEL: Final = "claude-opus-5-5"
_MODELS: Final = {"opus": DEFAULT_MODEL, "sonnet": "claude-sonnet-5-5", "haiku": "claude-haiku-5-5"}
# Micro-dollars a token: the recordings' price of the default model.
_PRICE_IN, _PRICE_OUT = 4, 20


@dataclass(slots=True)
class Tokens:
    """What has been used."""

    given: int = 0
    made: int = 0

    def add(self, other: Tokens) -> None:
        self.given += other.given
        self.made += other.made

    @property
    def dollars(self) -> float:
        return (self.given * _PRICE_IN + self.made * _PRICE_OUT) / 1_000_000


@dataclass(frozen=True, slots=True)
class Message:
    """One answer of the API; its blocks come on lines of their own."""

    id: str
    request_id: str
    tokens: Tokens


@dataclass(slots=True)
class Turn:
    """What a turn's result line tells of."""

    started_us: int
    tokens: Tokens = field(default_factory=Tokens)
    messages: int = 0
    """Requests that were answered."""
    message_ids: list[str] = field(default_factory=list)
    denials: list[Line] = field(default_factory=list)
    safety_stops: int = 0
    api_ms: int = 0
    first_ms: int | None = None


class Speaker:
    """One process. Ids are random, and the same every time for a ``seed``."""

    def __init__(
        self,
        *,
        seed: str,
        clock: Clock,
        cwd: str,
        session_id: str | None,
        model: str | None,
        spent: Tokens,
        resumed: bool,
        whole_result: bool,
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - ids that a test can repeat
        self.clock = clock
        self.cwd = cwd
        self.model = _MODELS.get(model or DEFAULT_MODEL, model or DEFAULT_MODEL)
        self.spent = spent
        """By the session up to now: the CLI's costs are cumulative, over --resume too."""
        self.resumed = resumed
        self.whole_result = whole_result
        self.session_id = session_id or self.uuid()
        self.results = 0

    # -- ids and times

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def new_id(self, prefix: str, digits: int) -> str:
        return f"{prefix}_{self._random.getrandbits(4 * digits):0{digits}x}"

    def tool_use_id(self) -> str:
        return self.new_id("toolu", 20)

    def retry_delay_ms(self, attempt: int) -> int:
        """The CLI's own pace: 0.5, 1, 2, 4, 8, 16, then 32 s, and up to a fifth more."""
        return round(min(500 * (1 << attempt - 1), 32_000) * self._random.uniform(1.0, 1.2))

    def timestamp(self) -> str:
        return self.clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def begin_turn(self) -> Turn:
        return Turn(self.clock.monotonic_us())

    def ms(self, turn: Turn) -> int:
        return (self.clock.monotonic_us() - turn.started_us) // 1000

    def request_id(self) -> str:
        return self.new_id("req", 16)

    # -- what the API answers

    def begin_message(self, turn: Turn) -> Message:
        tokens = Tokens(10, 5)
        message = Message(self.new_id("msg", 20), self.new_id("req", 16), tokens)
        turn.messages += 1
        turn.message_ids.append(message.id)
        turn.first_ms = self.ms(turn) if turn.first_ms is None else turn.first_ms
        return message

    def end_message(self, turn: Turn, message: Message) -> None:
        turn.tokens.add(message.tokens)
        self.spent.add(message.tokens)

    def head(self, message: Message, content: list[Line]) -> Line:
        return {
            "id": message.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of_message(message.tokens.given, 1),
        }


def usage_of_message(given: int, made: int) -> Line:
    """So many tokens, as a message has it."""
    return {
        "input_tokens": given,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": made,
    }
