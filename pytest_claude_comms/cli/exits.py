"""How a command ends: its exit code, and its last words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..status import MessageStatus

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_FOUND: Final = 3
TIMEOUT: Final = 4
CANCELLED: Final = 5
STORE: Final = 6
PATIENCE: Final = 8
HUNG_UP: Final = 129
INTERRUPTED: Final = 130
"""128 + SIGINT, as a shell has it."""
QUIT: Final = 131
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: what any program ends with whose reader (``head``) has gone."""
TERMINATED: Final = 143

MEANINGS: Final = (
    (OK, "done; of a message: complete"),
    (FAILED, "failed; of a message: failed"),
    (USAGE, "wrong usage, an id that several have, no or more than one store to choose from"),
    (NOT_FOUND, "no such message or thread"),
    (TIMEOUT, "the message ended by its own timeout"),
    (CANCELLED, "the message was cancelled"),
    (STORE, "trouble with the store: missing, busy, damaged, not to be read"),
    (PATIENCE, "'wait' ran out of patience; the message stands as it was"),
    (HUNG_UP, "SIGHUP: the terminal was closed"),
    (INTERRUPTED, "Ctrl-C"),
    (QUIT, "SIGQUIT: Ctrl-\\"),
    (BROKEN_PIPE, "whoever read the output has stopped reading"),
    (TERMINATED, "SIGTERM"),
)

_OF_STATUS: Final = {
    "complete": OK,
    "failed": FAILED,
    "timeout": TIMEOUT,
    "cancelled": CANCELLED,
}


class CommandError(Exception):
    """A command cannot go on. ``code`` is its exit code, the text is for a person."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def of_status(status: MessageStatus) -> int:
    """The exit code for a message that stands so; 0 also for one that has not ended."""
    return _OF_STATUS.get(status.value, OK)


def of_error(error: BaseException) -> int | None:
    """The exit code for an error of ours, None for one that nobody foresaw."""
    if isinstance(error, CommandError):
        return error.code
    # Not at the top: nearly every command ends well.
    from .. import errors

    for kinds, code in (
        ((errors.MessageNotFound, errors.ThreadNotFound), NOT_FOUND),
        ((errors.WaitTimeout,), PATIENCE),
        # The store is well: what was asked of it cannot be.
        ((errors.InvalidTransition, errors.AlreadyExists), FAILED),
        ((errors.StoreError,), STORE),
        ((errors.ModuleDirectoryNotFound,), USAGE),
        ((errors.ClaudeCommsError,), FAILED),
        ((OSError,), FAILED),
    ):
        if isinstance(error, kinds):
            return code
    return None


def words(error: BaseException) -> str:
    """What to tell of an error."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    from ..errors import ClaudeNotFound

    text = str(error) or type(error).__name__
    if isinstance(error, ClaudeNotFound) and text.endswith("command="):
        return text.removesuffix("command=") + "--claude PATH"
    return text
