"""The lines that the Claude CLI 2.1.330 prints: the same types, keys and order of keys.

The texts are ours, the shape is that of the recordings in ``fixtures/transcripts``, with which a
test compares it.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..clock import Clock
from .claude_calls import VERSION

Line = dict[str, Any]

DEFAULT_MODEL: Final = "claude-opus-5-5"
_MODELS: Final = {"opus": DEFAULT_MODEL, "sonnet": "claude-sonnet-5-5", "haiku": "claude-haiku-5-5"}

_TOOLS: Final = ["Task", "Bash", "Edit", "Read", "WebFetch", "WebSearch", "Write"]
_COMMANDS: Final = ["clear", "compact", "context", "init", "usage"]
_NO_USAGE: Final[Line] = {
    "output_tokens_details": {"thinking_tokens": 0},
    "input_tokens": 0,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
    "output_tokens": 0,
}
_REST_OF_USAGE: Final[Line] = {
    "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
    "service_tier": "standard",
    "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0},
    "inference_geo": "",
    "iterations": [],
    "speed": "standard",
    "fallback_credit": None,
}
_SUBAGENTS: Final[Line] = {
    "spawned": 0,
    "requested": {"background": 0, "foreground": 0, "unset": 0},
    "started_in_background": 0,
    "max_depth": 0,
    "spawned_by_subagents": 0,
    "completed": 0,
    "failed": 0,
    "killed": {"parent": 0, "user": 0, "system": 0},
    "refused": {"depth_limit": 0, "concurrency_limit": 0, "budget": 0},
    "by_type": {},
}
# Micro-dollars a token: the recordings' price of the default model.
_PRICE_IN, _PRICE_OUT = 4, 20


def encode(line: Line) -> bytes:
    r"""As the CLI prints it: U+2028 and controls escaped, other text in UTF-8."""
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    if not text.isascii():
        text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "backslashreplace") + b"\n"  # a lone surrogate: \ud83d


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiError:
    """How the CLI speaks of an HTTP status."""

    text: str
    error: str
    status: int | None = None
    type: str | None = None
    failure: str | None = None

    @classmethod
    def of(cls, status: int | None, message: str | None) -> ApiError:
        """``message`` is what the API says."""
        if status is None:
            text = message or "Connection dropped (ECONNRESET). Check the network, then try again."
            return cls(text=f"API Error: {text}", error="server_error", failure="connection_failed")
        error, kind, text = _ERRORS.get(
            status,
            ("server_error", "api_error", "API Error: {status} {message}")
            if status >= 500
            else ("unknown", "invalid_request_error", "API Error: {status} {message}"),
        )
        told = message or f"scripted error {status}"
        return cls(
            text=text.format(status=status, message=told), error=error, status=status, type=kind
        )


_ERRORS: Final = {
    400: ("unknown", "invalid_request_error", "API Error: 400 {message}"),
    401: ("authentication_failed", "authentication_error", "Invalid API key · {message}"),
    403: (
        "authentication_failed",
        "permission_error",
        "Failed to authenticate. API Error: 403 {message}",
    ),
    404: ("model_not_found", "not_found_error", "API Error: 404 {message}"),
    413: ("invalid_request", "request_too_large", "API Error: 413 {message}"),
    429: ("rate_limit", "rate_limit_error", "API Error: 429 {message}"),
    529: (
        "server_error",
        "overloaded_error",
        "API Error: Repeated 529 Overloaded errors. {message}",
    ),
}
_RETRY_ERRORS: Final = {401: "authentication_failed", 429: "rate_limit", 529: "overloaded"}


class Lines:
    """Makes the lines of one process. Ids are random, and the same every time for a ``seed``."""

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
        self._clock = clock
        self._cwd = cwd
        self.model = _MODELS.get(model or DEFAULT_MODEL, model or DEFAULT_MODEL)
        self.spent = spent
        """By the session up to now: the CLI's costs are cumulative, over --resume too."""
        self._resumed = resumed
        self._whole_result = whole_result
        self.session_id = session_id or self.uuid()
        self.results = 0

    # -- ids and times

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _id(self, prefix: str, digits: int) -> str:
        return f"{prefix}_{self._random.getrandbits(4 * digits):0{digits}x}"

    def tool_use_id(self) -> str:
        return self._id("toolu", 20)

    def retry_delay_ms(self, attempt: int) -> int:
        """The CLI's own pace: 0.5, 1, 2, 4, 8, 16, then 32 s, and up to a fifth more."""
        return round(min(500 * (1 << attempt - 1), 32_000) * self._random.uniform(1.0, 1.2))

    def _timestamp(self) -> str:
        return self._clock.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def begin_turn(self) -> Turn:
        return Turn(self._clock.monotonic_us())

    def _ms(self, turn: Turn) -> int:
        return (self._clock.monotonic_us() - turn.started_us) // 1000

    # -- system

    def init(self, api_key: str = "ANTHROPIC_API_KEY", permission_mode: str = "default") -> Line:
        folder = "".join(char if char.isalnum() else "-" for char in self._cwd)
        return {
            "type": "system",
            "subtype": "init",
            "cwd": self._cwd,
            "session_id": self.session_id,
            "tools": list(_TOOLS),
            "mcp_servers": [],
            "model": self.model,
            "permissionMode": permission_mode,
            "slash_commands": list(_COMMANDS),
            "terminal_slash_commands": [],
            "apiKeySource": api_key,
            "claude_code_version": VERSION,
            "output_style": "default",
            "agents": ["general-purpose"],
            "skills": [],
            "plugins": [{"name": "scripted", "path": "builtin", "source": "scripted@builtin"}],
            "capabilities": ["interrupt_receipt_v1"],
            "analytics_disabled": True,
            "product_feedback_disabled": True,
            "served_by_anthropic": False,
            "uuid": self.uuid(),
            "memory_paths": {"auto": f"/nonexistent/.claude/projects/{folder}/memory/"},
            "original_cwd": self._cwd,
            "additional_directories": [],
            "messaging_socket_path": "/nonexistent/claude.sock",
            "fast_mode_state": "off",
            "fast_mode_disabled_reason": "sdk_opt_in_required",
            "per_turn_effort_active": True,
            "ultrathink_available": False,
            "ultrathink_typed_raises": False,
            "view_mode": "default",
        }

    def status(self, status: str) -> Line:
        return self._system("status", status=status)

    def api_retry(self, attempt: int, most: int, delay_ms: int, status: int | None) -> Line:
        error = "unknown" if status is None else _RETRY_ERRORS.get(status, "server_error")
        return self._system(
            "api_retry",
            attempt=attempt,
            max_retries=most,
            retry_delay_ms=delay_ms,
            error_status=status,
            error=error,
        )

    def _system(self, subtype: str, **rest: object) -> Line:
        return {
            "type": "system",
            "subtype": subtype,
            **rest,
            "session_id": self.session_id,
            "uuid": self.uuid(),
        }

    def permission_denied(self, name: str, tool_use_id: str, message: str) -> Line:
        return {
            "type": "system",
            "subtype": "permission_denied",
            "tool_name": name,
            "tool_use_id": tool_use_id,
            "message": message,
            "uuid": self.uuid(),
            "session_id": self.session_id,
        }

    def refusal_notice(self) -> Line:
        return {
            "type": "system",
            "subtype": "informational",
            "content": "the response above was stopped · continuing once with that noted",
            "level": "notice",
            "uuid": self.uuid(),
            "session_id": self.session_id,
        }

    def no_fallback(self, message: Message) -> Line:
        return {
            "type": "system",
            "subtype": "model_refusal_no_fallback",
            "uuid": self.uuid(),
            "original_model": self.model,
            "request_id": message.request_id,
            "api_refusal_category": None,
            "api_refusal_explanation": None,
            "refused_user_message_uuid": self.uuid(),
            "content": "",
            "session_id": self.session_id,
        }

    # -- messages

    def begin_message(self, turn: Turn) -> Message:
        tokens = Tokens(10, 5)
        message = Message(self._id("msg", 20), self._id("req", 16), tokens)
        turn.messages += 1
        turn.message_ids.append(message.id)
        turn.first_ms = self._ms(turn) if turn.first_ms is None else turn.first_ms
        return message

    def end_message(self, turn: Turn, message: Message) -> None:
        turn.tokens.add(message.tokens)
        self.spent.add(message.tokens)

    def assistant(self, message: Message, block: Line, *, aborted: bool = False) -> Line:
        line: Line = {
            "type": "assistant",
            "message": {
                **self._head(message, [block]),
                "context_management": None,
            },
            "parent_tool_use_id": None,
            "session_id": self.session_id,
            "uuid": self.uuid(),
            "timestamp": self._timestamp(),
            "request_id": message.request_id,
        }
        if aborted:
            line["aborted"] = True
        return line

    def _head(self, message: Message, content: list[Line]) -> Line:
        return {
            "id": message.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage_of_message(message.tokens.given, 1),
        }

    def synthetic(
        self, error: ApiError, *, request_id: str | None, stop_reason: str = "stop_sequence"
    ) -> Line:
        """The line that stands for an answer when there is none."""
        line: Line = {
            "type": "assistant",
            "message": {
                "diagnostics": None,
                "id": self.uuid(),
                "container": None,
                "model": "<synthetic>",
                "role": "assistant",
                "stop_details": None,
                "stop_reason": stop_reason,
                "stop_sequence": "",
                "type": "message",
                "usage": {
                    "output_tokens_details": None,
                    "input_tokens": 0,
                    "output_tokens": 0,
                    "cache_creation_input_tokens": 0,
                    "cache_read_input_tokens": 0,
                    "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
                    "service_tier": None,
                    "cache_creation": {
                        "ephemeral_1h_input_tokens": 0,
                        "ephemeral_5m_input_tokens": 0,
                    },
                    "inference_geo": None,
                    "iterations": None,
                    "speed": None,
                    "fallback_credit": None,
                },
                "content": [{"type": "text", "text": error.text}],
                "context_management": None,
            },
            "parent_tool_use_id": None,
            "session_id": self.session_id,
            "uuid": self.uuid(),
            "timestamp": self._timestamp(),
            "error": error.error,
        }
        if request_id is not None:
            line["request_id"] = request_id
        line["is_api_error_message"] = True
        if error.status is not None:
            line["api_error_status"] = error.status
            line["api_error_type"] = error.type
        if error.failure is not None:
            line["api_error"] = error.failure
        return line

    def request_id(self) -> str:
        return self._id("req", 16)

    def user(self, content: list[Line], **rest: object) -> Line:
        return {
            "type": "user",
            "message": {"role": "user", "content": content},
            "parent_tool_use_id": None,
            "session_id": self.session_id,
            "uuid": self.uuid(),
            "timestamp": self._timestamp(),
            **rest,
        }

    def interrupted(self) -> Line:
        return self.user([{"type": "text", "text": "[Request interrupted by user]"}])

    def nudge(self, text: str, **rest: object) -> Line:
        return self.user([{"type": "text", "text": text}], isSynthetic=True, **rest)

    def tool_result(
        self,
        tool_use_id: str,
        name: str,
        given: Mapping[str, Any],
        result: str,
        *,
        is_error: bool,
        asked: bool,
    ) -> Line:
        decision: Line = {"decision": "accept", "source": "user_temporary" if asked else "config"}
        if not asked:
            decision["reason_type"] = "rule"
        block: Line = {"tool_use_id": tool_use_id, "type": "tool_result", "content": result}
        found: Line | str
        if is_error:
            block = {
                "type": "tool_result",
                "content": result,
                "is_error": True,
                "tool_use_id": tool_use_id,
            }
            found = f"Error: {result}"
        elif name == "Read":
            lines = result.split("\n")
            block["content"] = "\n".join(f"{at}\t{line}" for at, line in enumerate(lines, 1))
            found = {
                "type": "text",
                "file": {
                    "filePath": given.get("file_path", ""),
                    "content": result,
                    "numLines": len(lines),
                    "startLine": 1,
                    "totalLines": len(lines),
                },
            }
        else:
            block["content"] = result or f"({name} completed with no output)"
            block["is_error"] = False
            found = {
                "stdout": result,
                "stderr": "",
                "interrupted": False,
                "isImage": False,
                "noOutputExpected": not result,
            }
        return self.user(
            [block],
            tool_use_result=found,
            tool_result_meta=[{"id": tool_use_id, "permission_decision": decision}],
        )

    def tool_denied(self, tool_use_id: str, message: str) -> Line:
        block = {
            "type": "tool_result",
            "content": message,
            "is_error": True,
            "tool_use_id": tool_use_id,
        }
        decision = {"decision": "reject", "source": "config"}
        return self.user(
            [block],
            tool_use_result=f"Error: {message}",
            tool_result_meta=[
                {
                    "id": tool_use_id,
                    "non_execution_kind": "user-rejected",
                    "permission_decision": decision,
                }
            ],
        )

    # -- stream events

    def event(self, message: Message, event: Line, **rest: object) -> Line:
        return {
            "type": "stream_event",
            "event": event,
            "session_id": self.session_id,
            "parent_tool_use_id": None,
            "uuid": self.uuid(),
            **rest,
            "api_message_id": message.id,
        }

    def message_start(self, message: Message) -> Line:
        head = {"type": "message_start", "message": self._head(message, [])}
        return self.event(message, head, ttft_ms=1, thinking_display="updates")

    def block_start(self, message: Message, index: int, block: Line) -> Line:
        return self.event(
            message, {"type": "content_block_start", "index": index, "content_block": block}
        )

    def delta(self, message: Message, index: int, delta: Line) -> Line:
        return self.event(message, {"type": "content_block_delta", "index": index, "delta": delta})

    def block_stop(self, message: Message, index: int) -> Line:
        return self.event(message, {"type": "content_block_stop", "index": index})

    def message_end(self, message: Message, stop_reason: str) -> list[Line]:
        delta = {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": _usage_of_message(message.tokens.given, message.tokens.made),
        }
        return [self.event(message, delta), self.event(message, {"type": "message_stop"})]

    def abandoned(self, message: Message, index: int) -> list[Line]:
        """How the events of a message end that was interrupted in the block ``index``."""
        used = _usage_of_message(message.tokens.given, 1)
        delta = {
            "type": "message_delta",
            "context_management": None,
            "delta": {
                "container": None,
                "stop_details": None,
                "stop_reason": None,
                "stop_sequence": None,
            },
            "usage": {
                "output_tokens_details": {"thinking_tokens": 0},
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "input_tokens": used["input_tokens"],
                "iterations": [],
                "output_tokens": used["output_tokens"],
                "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
                "fallback_credit": None,
            },
        }
        void = {"api_message_id": message.id, "from_block_index": index + 1}
        stop = self.event(message, {"type": "message_stop"})
        return [
            self.block_stop(message, index),
            self.event(message, delta),
            {**stop, "abandoned_blocks": void},
        ]

    # -- control

    def control_response(self, request_id: object, response: Line) -> Line:
        return {
            "type": "control_response",
            "response": {"subtype": "success", "request_id": request_id, "response": response},
        }

    def initialized(self) -> Line:
        """The answer to ``initialize``."""
        return {
            "commands": [
                {"name": name, "description": f"/{name}", "argumentHint": ""} for name in _COMMANDS
            ],
            "output_style": "default",
            "available_output_styles": ["default"],
            "models": [
                {"value": "default", "displayName": "Default", "description": DEFAULT_MODEL}
            ],
            "account": {},
        }

    def can_use_tool(self, request_id: str, tool_use_id: str, name: str, given: Line) -> Line:
        rule = {"toolName": name, "ruleContent": str(given.get("command", ""))}
        suggestions: list[Line] = [
            {
                "type": "addRules",
                "rules": [rule],
                "behavior": "allow",
                "destination": "localSettings",
            },
            {"type": "addDirectories", "directories": [self._cwd], "destination": "session"},
            {"type": "setMode", "mode": "acceptEdits", "destination": "session"},
        ]
        return {
            "type": "control_request",
            "request_id": request_id,
            "request": {
                "subtype": "can_use_tool",
                "tool_name": name,
                "display_name": name,
                "input": given,
                "description": str(given.get("description", name)),
                "permission_suggestions": suggestions,
                "blocked_path": self._cwd,
                "tool_use_id": tool_use_id,
            },
        }

    # -- result

    def result(
        self,
        turn: Turn,
        *,
        stop_reason: str | None,
        terminal_reason: str,
        text: str | None = None,
        error: ApiError | None = None,
        is_error: bool = False,
        subtype: str = "success",
        errors: list[str] | None = None,
        extra_turns: int = 0,
        timed: Mapping[str, bool] | None = None,
        begun: bool = False,
        counts_usage: bool = True,
    ) -> Line:
        """The last line of a turn. ``timed``: which of the keys that tell of speed it has."""
        has = {"ttft": False, "stream": False, "frame": False, **(timed or {})}
        first_ms = turn.first_ms or 0
        used = turn.tokens if counts_usage else Tokens()
        line: Line = {
            "duration_api_ms": turn.api_ms,
            "stop_reason": stop_reason,
            "session_id": self.session_id,
            "total_cost_usd": self.spent.dollars or 0,
            "usage": _usage(used),
            "modelUsage": self._by_model(self.spent, resumed=self._resumed),
            "permission_denials": turn.denials,
            "terminal_reason": terminal_reason,
            "fast_mode_state": "off",
            "fast_mode_disabled_reason": "sdk_opt_in_required",
            "subagent_stats": _SUBAGENTS,
            "safety_stops": turn.safety_stops,
            "is_error": is_error,
            "num_turns": max(1, turn.messages) + extra_turns,
            "subtype": subtype,
        }
        if errors is None:
            line["api_error_status"] = None if error is None else error.status
            if error is not None and error.type is not None:
                line["api_error_type"] = error.type
            if error is not None and error.failure is not None:
                line["api_error"] = error.failure
            line["result"] = text
        else:
            line["errors"] = errors
        if has["ttft"]:
            line["ttft_ms"] = first_ms
        line |= {"type": "result", "duration_ms": self._ms(turn), "uuid": self.uuid()}
        if begun:
            line["begun_message_ids"] = turn.message_ids
        if has["stream"]:
            line |= {"ttft_stream_ms": first_ms, "time_to_request_ms": 0}
        if has["frame"]:
            line["first_content_frame_ms"] = first_ms
        line |= {"queued_turn_count": 0, "result_index": self.results}
        if self._whole_result:
            line["model_usage_since_last_result"] = self._by_model(turn.tokens, resumed=False)
        self.results += 1
        return line

    def startup_failure(self, text: str) -> Line:
        """The only line of a run that could not begin."""
        return {
            "type": "result",
            "subtype": "error_during_execution",
            "duration_ms": 0,
            "duration_api_ms": 0,
            "is_error": True,
            "num_turns": 0,
            "stop_reason": None,
            "session_id": self.session_id,
            "total_cost_usd": 0,
            "usage": _NO_USAGE | _REST_OF_USAGE,
            "modelUsage": {},
            "permission_denials": [],
            "uuid": self.uuid(),
            "errors": [text],
            "result_index": 0,
        }

    def _by_model(self, tokens: Tokens, *, resumed: bool) -> Line:
        if not tokens.given:
            return {}
        line: Line = {
            "inputTokens": tokens.given,
            "outputTokens": tokens.made,
            "cacheReadInputTokens": 0,
            "cacheCreationInputTokens": 0,
            "webSearchRequests": 0,
            "costUSD": tokens.dollars,
            "contextWindow": 1_000_000,
            "maxOutputTokens": 128_000,
            "thinkingTokens": 0,
            "cacheCreationEphemeral5mInputTokens": 0,
            "cacheCreationEphemeral1hInputTokens": 0,
        }
        if resumed:  # the CLI reads these from its own files then, and they come in another order
            order = (0, 1, 8, 2, 3, 9, 10, 4, 5, 6, 7)
            names = list(line)
            line = {names[place]: line[names[place]] for place in order}
        line |= {"canonicalModel": self.model, "provider": "firstParty", "costBasis": "list"}
        return {self.model: line}


def _usage(tokens: Tokens) -> Line:
    if not tokens.given:
        return _NO_USAGE | _REST_OF_USAGE
    head = _usage_of_message(tokens.given, tokens.made)
    return {**head, "output_tokens_details": {"thinking_tokens": 0}, **_REST_OF_USAGE}


def _usage_of_message(given: int, made: int) -> Line:
    return {
        "input_tokens": given,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": made,
    }
