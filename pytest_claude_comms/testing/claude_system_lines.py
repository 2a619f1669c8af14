"""Lines of type ``system``: the first of a turn, retries, denials and notices."""

from __future__ import annotations

from typing import Final

from .claude_arguments import VERSION
from .claude_errors import RETRY_ERRORS
from .claude_speaker import Line, Message, Speaker

_TOOLS: Final = ["Task", "Bash", "Edit", "Read", "WebFetch", "WebSearch", "Write"]
COMMANDS: Final = ["clear", "compact", "context", "init", "usage"]


class SystemLines(Speaker):
    """What the CLI says of itself."""

    def init(self, api_key: str = "ANTHROPIC_API_KEY", permission_mode: str = "default") -> Line:
        folder = "".join(char if char.isalnum() else "-" for char in self.cwd)
        return {
            "type": "system",
            "subtype": "init",
            "cwd": self.cwd,
            "session_id": self.session_id,
            "tools": list(_TOOLS),
            "mcp_servers": [],
            "model": self.model,
            "permissionMode": permission_mode,
            "slash_commands": list(COMMANDS),
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
            "original_cwd": self.cwd,
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
        error = "unknown" if status is None else RETRY_ERRORS.get(status, "server_error")
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
