"""Everything this library raises on purpose.

::

    ClaudeCommsError
      StoreError                 the store did not do it; ``outcome`` says whether that is certain
        ThreadNotFound
        MessageNotFound
        AlreadyExists
        InvalidTransition        the message's status does not allow it
        StoreBusy                somebody else held the store for too long
        StoreClosed
        StoreCorrupt             the file is not what a store of ours can be
        HistoryGone              the changes behind a cursor are no longer there
        RedactionError           the store's ``redact`` did not do what it has to
      WaitTimeout                a watcher's patience ended (also a TimeoutError)
      ClockDeadlock              on a fake clock nothing can happen any more
      ClaudeError                the Claude CLI could not be run
        ClaudeNotFound           there is no such command
        ModuleDirectoryNotFound  the directory to run it in is none

Wrong arguments are plain ``TypeError`` and ``ValueError``. What a caller may branch on is an
attribute; nobody has to read the text. All of them survive pickling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from .status import MessageStatus

Outcome = Literal["not done", "unknown"]


class ClaudeCommsError(Exception):
    """Base of all errors of this library."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only attributes would be lost, or refused, by BaseException's own reduction.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(
    kind: type[ClaudeCommsError], args: tuple[Any, ...], state: dict[str, Any]
) -> ClaudeCommsError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class StoreError(ClaudeCommsError):
    """A store could not do what it was asked.

    ``outcome`` is ``"not done"`` when the call certainly changed nothing, ``"unknown"`` when it
    may have (a disk error while the change was being made durable).
    """

    transient: ClassVar[bool] = True
    """Whether asking again later may well succeed; a poller goes on after such an error."""

    def __init__(self, message: str, *, outcome: Outcome = "not done") -> None:
        super().__init__(message)
        self.outcome: Outcome = outcome


class _Final(StoreError):
    transient = False


class ThreadNotFound(_Final):
    """No thread has that id."""

    def __init__(self, thread_id: str, *, store: str = "the store") -> None:
        super().__init__(f"thread {thread_id!r} does not exist in {store}")
        self.thread_id = thread_id


class MessageNotFound(_Final):
    """No message has that id (a tracker would call it UNKNOWN and wait for it)."""

    def __init__(self, message_id: str, *, store: str = "the store") -> None:
        super().__init__(
            f"message {message_id!r} does not exist in {store}; "
            "to wait for one that may come, track it with a MessagePoller"
        )
        self.message_id = message_id


class AlreadyExists(_Final):
    """A thread or message with that id is there already."""

    def __init__(
        self, kind: Literal["thread", "message"], id: str, *, store: str = "the store"
    ) -> None:
        super().__init__(f"{kind} {id!r} already exists in {store}")
        self.kind = kind
        self.id = id


class InvalidTransition(_Final):
    """The status that stands does not allow what was asked.

    ``status`` is the status that stands, ``requested`` the status asked for, or None where the
    refused thing was content or an error text.
    """

    def __init__(
        self,
        message_id: str,
        status: MessageStatus,
        requested: MessageStatus | None,
        *,
        why: str = "",
    ) -> None:
        asked = f"cannot become {requested}" if requested is not None else "accepts no more content"
        reason = why or (
            f"{status} is final" if status.is_terminal else f"it cannot follow {status}"
        )
        super().__init__(f"message {message_id!r} is {status} and {asked}: {reason}")
        self.message_id = message_id
        self.status = status
        self.requested = requested


class StoreBusy(StoreError):
    """Somebody else held the store for longer than it was worth waiting. Nothing was done."""

    def __init__(self, path: str, waited: float) -> None:
        super().__init__(
            f"{path} was busy for {waited:.3g} s: another process or connection holds its write "
            "lock; nothing was changed, try again"
        )
        self.path = path
        self.waited = waited


class StoreClosed(_Final):
    """The store object was closed and is used again."""

    def __init__(self, url: str) -> None:
        way_out = f"open it again with open_store({url!r})"
        if url == "memory:":  # to open one is to make one
            way_out = "what it held ended with it: close it when all is done"
        super().__init__(f"the store {url} is closed; {way_out}")
        self.url = url


class StoreCorrupt(_Final):
    """The file cannot be read as a store of ours. It is left exactly as it was found."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path} cannot be read as a conversation store: {reason}. "
            "The file was left untouched; restore a backup or move it away"
        )
        self.path = path
        self.reason = reason


class HistoryGone(_Final):
    """The changes that a cursor points behind are gone, or the store is another one now.

    With ``since`` the store stands: read its messages afresh, then watch from its ``cursor()``.
    Where ``since`` is None, its files were deleted or replaced, and this store object is of no more
    use: open the store again first.
    """

    def __init__(self, reason: str, *, store: str, since: int | None = None) -> None:
        where = "" if since is None else f" after revision {since}"
        way_out = "Read the messages afresh and watch from store.cursor()"
        if since is None:  # every call of this store object would raise it
            way_out = "Open the store again, read the messages afresh and watch from its cursor()"
        super().__init__(f"the history of {store}{where} is gone: {reason}. {way_out}")
        self.store = store
        self.since = since


class RedactionError(_Final):
    """The store's ``redact`` failed, so nothing was stored. The text is not in the error.

    ``what`` was to be redacted ("content", "metadata", …), ``reason`` is what went wrong.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} could not be redacted, so nothing was stored: {reason}")
        self.what = what
        self.reason = reason


class WaitTimeout(ClaudeCommsError, TimeoutError):
    """The watcher's patience ended. The message was left alone.

    ``message_ids`` are those that were not terminal yet, ``timeout`` the patience in seconds.
    """

    def __init__(self, page: str, *, message_ids: tuple[str, ...], timeout: float) -> None:
        super().__init__(page)
        self.message_ids = message_ids
        self.timeout = timeout

    def add_hint(self, line: str) -> None:
        """Let the page, whose last lines are hints, end with ``line``."""
        self.args = (f"{self.args[0]}\n           {line}",)


class ClockDeadlock(ClaudeCommsError):
    """On a fake clock nothing can happen any more, or an actor blocks outside the clock."""


class ClaudeError(ClaudeCommsError):
    """The Claude CLI could not be run."""


class RunAbandoned(ClaudeError):
    """Nobody waited for a run of the CLI, going on when its store or clock was closed."""


class ClaudeNotFound(ClaudeError):
    """There is no such command: it is not installed, or not where it was said to be."""

    def __init__(self, command: str, reason: str) -> None:
        super().__init__(
            f"the Claude CLI {command!r} cannot be run: {reason}. Get one with `pip install "
            "claude-agent-sdk` or `npm install -g @anthropic-ai/claude-code`, or say where it is "
            "with command="
        )
        self.command = command
        self.reason = reason


class ModuleDirectoryNotFound(ClaudeError):
    """The module's directory, in which the CLI is to run, is not there or is no directory."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"the module's directory {path!r} {reason}: Claude runs in the directory of the "
            "module that is asked, so it has to be one"
        )
        self.path = path
        self.reason = reason
