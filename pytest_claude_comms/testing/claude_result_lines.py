"""Lines of type ``result``: the last one of a turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .claude_errors import ApiError
from .claude_speaker import Line, Speaker, Tokens, Turn, usage_of_message

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


class ResultLines(Speaker):
    """What a turn has come to, and what it cost."""

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
            "modelUsage": self._by_model(self.spent, resumed=self.resumed),
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
        line |= {"type": "result", "duration_ms": self.ms(turn), "uuid": self.uuid()}
        if begun:
            line["begun_message_ids"] = turn.message_ids
        if has["stream"]:
            line |= {"ttft_stream_ms": first_ms, "time_to_request_ms": 0}
        if has["frame"]:
            line["first_content_frame_ms"] = first_ms
        line |= {"queued_turn_count": 0, "result_index": self.results}
        if self.whole_result:
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
    head = usage_of_message(tokens.given, tokens.made)
    return {**head, "output_tokens_details": {"thinking_tokens": 0}, **_REST_OF_USAGE}
