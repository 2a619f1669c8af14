"""Lines of type ``assistant`` and ``user``: what the model says, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .claude_errors import ApiError
from .claude_speaker import Line, Message, Speaker


class MessageLines(Speaker):
    """The messages of a turn, a line for each block."""

    def assistant(self, message: Message, block: Line, *, aborted: bool = False) -> Line:
        line: Line = {
            "type": "assistant",
            "message": {
                **self.head(message, [block]),
                "context_management": None,
            },
            "parent_tool_use_id": None,
            "session_id": self.session_id,
            "uuid": self.uuid(),
            "timestamp": self.timestamp(),
            "request_id": message.request_id,
        }
        if aborted:
            line["aborted"] = True
        return line

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
            "timestamp": self.timestamp(),
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

    def user(self, content: list[Line], **rest: object) -> Line:
        return {
            "type": "user",
            "message": {"role": "user", "content": content},
            "parent_tool_use_id": None,
            "session_id": self.session_id,
            "uuid": self.uuid(),
            "timestamp": self.timestamp(),
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
