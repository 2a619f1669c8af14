"""How the CLI speaks of a failure of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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
RETRY_ERRORS: Final = {401: "authentication_failed", 429: "rate_limit", 529: "overloaded"}
