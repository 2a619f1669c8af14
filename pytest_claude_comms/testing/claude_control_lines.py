"""Lines of type ``control_request`` and ``control_response``, which have no ids of the session."""

from __future__ import annotations

from .claude_speaker import DEFAULT_MODEL, Line
from .claude_system_lines import COMMANDS


def control_response(request_id: object, response: Line) -> Line:
    """What was asked for on stdin is done."""
    return {
        "type": "control_response",
        "response": {"subtype": "success", "request_id": request_id, "response": response},
    }


def initialized() -> Line:
    """The answer to ``initialize``."""
    return {
        "commands": [
            {"name": name, "description": f"/{name}", "argumentHint": ""} for name in COMMANDS
        ],
        "output_style": "default",
        "available_output_styles": ["default"],
        "models": [{"value": "default", "displayName": "Default", "description": DEFAULT_MODEL}],
        "account": {},
    }


def can_use_tool(request_id: str, tool_use_id: str, name: str, given: Line, *, cwd: str) -> Line:
    """Ask whoever started the process whether a tool may be used there."""
    rule = {"toolName": name, "ruleContent": str(given.get("command", ""))}
    suggestions: list[Line] = [
        {
            "type": "addRules",
            "rules": [rule],
            "behavior": "allow",
            "destination": "localSettings",
        },
        {"type": "addDirectories", "directories": [cwd], "destination": "session"},
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
            "blocked_path": cwd,
            "tool_use_id": tool_use_id,
        },
    }
