"""The store's contract, as a Protocol."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

from ..clock import Clock
from ..records import Changes, ConversationThread, Message
from ..status import MessageStatus

if TYPE_CHECKING:
    from .reports import CompactReport

MessageLike: TypeAlias = Message | str | Mapping[str, Any]
"""A message, its id, or the dict that the original TinyDB store returned."""
ThreadLike: TypeAlias = ConversationThread | str | Mapping[str, Any]
StatusLike: TypeAlias = MessageStatus | str
Durability: TypeAlias = Literal["power", "process"]


class Unset:
    """The type of :data:`UNSET`."""

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset()
"""An argument that was not given, where None would mean something."""


@runtime_checkable
class ConversationStore(Protocol):
    """Threads, messages and the ordered feed of what happened to them.

    Every method may raise :class:`StoreError`; wrong arguments are TypeError or ValueError and
    change nothing. When a call has returned, its effect survives the death of the process.

    For who writes a store: :mod:`.authoring` has these rules as functions. A commit is a message's
    new state and its :class:`Change`, kept together or not at all; its revision is the last one
    plus 1, given under the write lock, so that the order of revisions is the order in which
    commits can be read. Creating a thread is no commit. Time is the store's clock's only, read
    under that lock, and a busy store is waited for by ``clock.backoff``. What is handed out are
    records of its own: who changes a dict in one changes no other's. What each field of a record
    holds stands beside it in :mod:`pytest_claude_comms.records`.
    """

    @property
    def url(self) -> str:
        """What ``open_store`` takes to open this store again."""

    @property
    def store_id(self) -> str:
        """Random, given at creation: another store has another, also at the same path."""

    @property
    def clock(self) -> Clock:
        """Where times and deadlines come from."""

    @property
    def backend(self) -> str:
        """The kind of store: "memory", "sqlite", "tinydb", …"""

    def create_thread(
        self,
        title: str = "",
        *,
        modules: Collection[str] = (),
        metadata: Mapping[str, Any] | None = None,
        thread_id: str | None = None,
    ) -> ConversationThread:
        """Start a thread. Raises AlreadyExists if ``thread_id`` is taken."""

    def add_message(
        self,
        thread: ThreadLike,
        module_name: str,
        content: str = "",
        *,
        message_type: str = "message",
        status: StatusLike = "complete",
        timeout: float | None = None,
        stall_timeout: float | None = None,
        metadata: Mapping[str, Any] | None = None,
        message_id: str | None = None,
    ) -> Message:
        """Add a message to a thread: one commit.

        ``timeout`` (seconds from now) and ``stall_timeout`` (seconds from its last change) are
        the message's own deadlines: when one passes, the message becomes ``timeout``. Raises
        ThreadNotFound, AlreadyExists if ``message_id`` is taken, and ValueError for a deadline
        after the year 9999. A first status may be terminal.
        """

    def update_message(
        self,
        message: MessageLike,
        *,
        status: StatusLike | Unset = UNSET,
        content: str | Unset = UNSET,
        append: str | Unset = UNSET,
        error: str | None | Unset = UNSET,
        metadata: Mapping[str, Any] | None | Unset = UNSET,
    ) -> Message:
        """Change a message, all in one commit, and return it as it is now.

        ``content`` replaces the text and ``append`` adds to it; not both. ``metadata`` is merged
        key by key at the top level. What is the same already is no change and gets no revision;
        values of metadata are compared as their JSON text, so that 1, 1.0 and True differ.

        Raises MessageNotFound, and InvalidTransition where the status that stands does not
        allow it (``MessageStatus.can_become``): a terminal message takes metadata only. A write
        after the message's deadline makes it ``timeout``, in a commit of its own kind, and
        raises InvalidTransition; at the very instant of the deadline a write still counts.
        """

    def get_message(self, message: MessageLike) -> Message:
        """The message as it is now. Raises MessageNotFound."""

    def get_thread(self, thread: ThreadLike) -> ConversationThread:
        """The thread. Raises ThreadNotFound."""

    def messages(
        self,
        thread_id: ThreadLike | None = None,
        status: StatusLike | Collection[StatusLike] | None = None,
    ) -> list[Message]:
        """Messages in the order of their creation; of one thread, of some statuses.

        Raises ThreadNotFound.
        """

    def threads(self) -> list[ConversationThread]:
        """All threads in the order of their creation."""

    def changes(
        self, since: int = 0, *, limit: int | None = None, message: MessageLike | None = None
    ) -> Changes:
        """The commits after revision ``since``, in order; at most ``limit``; of one message.

        The cursor is the last revision of all, or that of the last item where ``limit`` cut it
        short. A message that does not exist has none. Costs by what is returned: a poller asks
        for all that is new, and mostly nothing is.

        Raises HistoryGone when they are no longer all there, or when ``since`` is a revision
        that this store never gave. Of one message ``since=0`` is what is kept of it, and no
        HistoryGone.
        """

    def cursor(self) -> int:
        """The revision of the last commit, 0 before the first."""

    def expire(self) -> list[Message]:
        """Make every message whose deadline has come ``timeout``; return those, by deadline.

        The very instant of the deadline is included. ``error`` says which deadline it was. What
        is overdue already is found here also if its writer is gone.
        """

    def compact(self, *, keep: int | timedelta) -> CompactReport:
        """Trim the history to the last ``keep`` changes, or to those younger than ``keep``.

        Messages stay as they are. Cursors before what is kept get HistoryGone. Of each message
        the change that ended it and its last one are kept for ``changes(message=…)``, and of one
        that has not ended all.
        """

    def next_deadline_us(self) -> int | None:
        """The earliest deadline of an open message, in microseconds since 1970, or None."""

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` after each commit made in this process; returns how to stop that.

        ``wake`` runs in the writer's thread: it must be quick and must not raise. Commits made
        through another store object on the same file count (``authoring.hub_of``). A store that
        cannot tell of all of them has an attribute ``notifies = False``: then a poller looks
        every ``interval``, which on a fake clock keeps no time going.
        """

    def close(self) -> None:
        """Let go of all resources. Closing twice is allowed; using it after raises StoreClosed."""

    def __enter__(self) -> ConversationStore: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
