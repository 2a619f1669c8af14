"""Asking an object that is not ours: what its exceptions mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from ..errors import Outcome, StoreError
from .adapted_shapes import CannotAdapt

_UNKNOWN_NAMES = re.compile(r"NotFound|DoesNotExist|NoSuch|Unknown")
_UNKNOWN_WORDS = re.compile(r"not found|does(?: not|n't) exist|no such|unknown", re.IGNORECASE)
_MOVED = "changed size during iteration"


class NotThere(Exception):
    """There is no such thread."""


class Unavailable(Exception):
    """It could not be read just now; ``__cause__`` says why."""


def ask(call: Callable[[], Any], what: str) -> Any:
    """What a reading ``call`` answers. ``what`` names it, for a person.

    Raises NotThere, Unavailable for what may pass, CannotAdapt for anything else.
    """
    try:
        answer = call()
    except Exception as error:
        if may_pass(error):
            raise Unavailable from error
        if _says_unknown(error):
            raise NotThere from error
        raise CannotAdapt(f"{what} raised {type(error).__name__}: {error}") from error
    return _refuse_awaitable(answer, what, "not done")


def tell(call: Callable[[], Any], what: str) -> Any:
    """What a writing ``call`` answers. Raises StoreError: it may have been done, or not."""
    try:
        answer = call()
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(
            f"{what} raised {type(error).__name__}: {error}", outcome="unknown"
        ) from error
    return _refuse_awaitable(answer, what, "unknown")


def may_pass(error: Exception) -> bool:
    """Whether asking again may help: the file is being rewritten, or somebody holds it."""
    if isinstance(error, StoreError):
        return error.transient
    if isinstance(error, RuntimeError):
        return _MOVED in str(error)  # it was written to meanwhile by another thread
    # By name, since whoever has no SQLite store need not load it.
    if (type(error).__module__, type(error).__name__) == ("sqlite3", "OperationalError"):
        return True
    if isinstance(error, ValueError):  # JSON that is written just now, half of a character
        return type(error) is not ValueError or not _UNKNOWN_WORDS.search(str(error))
    return isinstance(error, (OSError, EOFError))


def is_busy(error: BaseException | None) -> bool:
    """Whether it says that somebody else holds the store."""
    return "locked" in str(error) or "busy" in str(error)


def _says_unknown(error: Exception) -> bool:
    if isinstance(error, LookupError) or _UNKNOWN_NAMES.search(type(error).__name__):
        return True
    return type(error) in (Exception, RuntimeError, ValueError) and bool(
        _UNKNOWN_WORDS.search(str(error))
    )


def _refuse_awaitable(answer: Any, what: str, outcome: Outcome) -> Any:
    if not inspect.isawaitable(answer):
        return answer
    if inspect.iscoroutine(answer):
        answer.close()  # or Python warns of it, somewhere else
    raise CannotAdapt(
        f"{what} is asynchronous; adapt_store needs methods that return the answer itself",
        outcome=outcome,
    )
