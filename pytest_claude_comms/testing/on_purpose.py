"""Errors that a fault raised: they are no surprise, and fail no test."""

from __future__ import annotations

_MARK = "_claude_comms_on_purpose"


def mark(error: BaseException) -> BaseException:
    """Let ``error`` count as expected where it ends up with nobody to see it."""
    setattr(error, _MARK, True)
    return error


def is_on_purpose(error: BaseException) -> bool:
    """Whether it was marked."""
    return getattr(error, _MARK, False) is True
