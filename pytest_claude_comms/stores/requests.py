"""The arguments of ``update_message``, checked and put into one value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..status import parse_status
from . import values
from .base import StatusLike, Unset
from .rules import Request


def request_of(
    *,
    status: StatusLike | Unset,
    content: str | Unset,
    append: str | Unset,
    error: str | None | Unset,
    metadata: Mapping[str, Any] | None | Unset,
) -> Request:
    """What one ``update_message`` asks for. Raises TypeError or ValueError."""
    if not isinstance(content, Unset) and not isinstance(append, Unset):
        raise ValueError("content= replaces the text and append= adds to it: give one of them")
    return Request(
        status=None if isinstance(status, Unset) else parse_status(status),
        content=None if isinstance(content, Unset) else values.text(content, "content"),
        append=None if isinstance(append, Unset) else values.text(append, "append"),
        error=None if error is None or isinstance(error, Unset) else values.text(error, "error"),
        sets_error=not isinstance(error, Unset),
        metadata=None if isinstance(metadata, Unset) else values.metadata(metadata),
    )
