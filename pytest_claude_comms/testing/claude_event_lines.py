"""Lines of type ``stream_event``, which only ``--include-partial-messages`` brings."""

from __future__ import annotations

from .claude_speaker import Line, Message, Speaker, usage_of_message


class EventLines(Speaker):
    """A message as it grows."""

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
        head = {"type": "message_start", "message": self.head(message, [])}
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
            "usage": usage_of_message(message.tokens.given, message.tokens.made),
        }
        return [self.event(message, delta), self.event(message, {"type": "message_stop"})]

    def abandoned(self, message: Message, index: int) -> list[Line]:
        """How the events of a message end that was interrupted in the block ``index``."""
        used = usage_of_message(message.tokens.given, 1)
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
