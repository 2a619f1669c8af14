"""The reading side of an adapted store: it looks, compares, and answers from what it has seen."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

from ..clock import SECOND, Clock
from ..errors import HistoryGone, MessageNotFound, StoreBusy, StoreError
from ..records import Changes, ConversationThread, Message
from . import values
from .adapted_asking import NotThere, Unavailable, ask, is_busy, may_pass
from .adapted_calls import call_for, method_of
from .adapted_feed import Elsewhere, Feed, Vanished
from .adapted_shapes import CannotAdapt, Found, Reading, found_in, thread_ids_in
from .base import MessageLike, StatusLike, ThreadLike
from .hub import Hub
from .keeping import KeepingStore
from .memory import State
from .reports import Progress, StoreSnapshot

REREAD_TIMEOUT = 1.0
"""Seconds for which an object that cannot be read just now is asked again."""

_LISTINGS = ("list_threads", "get_threads", "get_all_threads", "all_threads", "threads")
NAMED_BY = "name others with adapt_store(obj, threads=[…]) or store.include(thread)"
"""How it comes to look at a thread."""
_MOST = 2**31 - 1
"""Threads that a listing with a limit of its own is asked for."""


class AdaptedReading(KeepingStore):
    """Reads an object that has ``get_thread``. See :class:`.adapted.AdaptedStore`."""

    backend = "adapted"

    def __init__(
        self, obj: Any, clock: Clock, shape: Reading, threads: Iterable[ThreadLike] | None
    ) -> None:
        super().__init__(f"adapted:{shape.name}", Hub(), clock)
        self.original = obj
        """The object itself."""
        self._store_id = secrets.token_hex(16)
        self._name = shape.name
        self._shape = shape
        self._lock = self.clock.lock()
        self._feed = Feed()
        self._told: dict[str, None] = {}
        """Ids of the threads that were named, in order."""
        self._listing = None if threads is not None else method_of(obj, _LISTINGS)
        self.include(*(threads or ()))

    @property
    def store_id(self) -> str:
        return self._store_id

    def include(self, *threads: ThreadLike) -> None:
        """Look at these threads too, also at such as do not exist yet."""
        for thread in threads:
            self._told[values.thread_id_of(thread)] = None

    @property
    def looks_at(self) -> str:
        """Which threads it compares, in words."""
        if self._listing is not None:
            return f"all threads that {self._listing}() lists"
        if not self._told:
            return "no thread yet"
        # Copied in one step: other threads may name more of them meanwhile.
        names = [repr(thread_id) for thread_id in list(self._told)]
        more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
        return f"the threads {', '.join(names[:10])}{more}"

    @property
    def _where(self) -> str:
        """Itself, and what it looks at, for who did not find a message."""
        way_out = "" if self._listing is not None else f" ({NAMED_BY})"
        return f"{self.url}, which looks at {self.looks_at}{way_out}"

    # -- what the Protocol asks

    def get_thread(self, thread: ThreadLike) -> ConversationThread:
        self._look(self._home_of_thread(thread))
        return super().get_thread(thread)

    def threads(self) -> list[ConversationThread]:
        self._look()
        return super().threads()

    def get_message(self, message: MessageLike) -> Message:
        self._look(self._home_of(message))
        try:
            return super().get_message(message)
        except MessageNotFound as error:
            raise MessageNotFound(error.message_id, store=self._where) from None

    def messages(
        self,
        thread_id: ThreadLike | None = None,
        status: StatusLike | Collection[StatusLike] | None = None,
    ) -> list[Message]:
        self._look(None if thread_id is None else self._home_of_thread(thread_id))
        return super().messages(thread_id, status)

    def changes(
        self, since: int = 0, *, limit: int | None = None, message: MessageLike | None = None
    ) -> Changes:
        self._look(None if message is None else self._home_of(message))
        try:
            return super().changes(since, limit=limit, message=message)
        except HistoryGone as error:
            if since < self._feed.gone_at:
                raise HistoryGone(self._feed.gone, store=self.url, since=since) from None
            raise error from None

    def cursor(self) -> int:
        self._look()
        return super().cursor()

    def snapshot(self) -> StoreSnapshot:
        """All that is known of it; for another store's ``restore``, and so for ``copy_store``."""
        self._look()
        return super().snapshot()

    def _home_of_thread(self, thread: ThreadLike) -> list[str]:
        self.include(thread)
        return [values.thread_id_of(thread)]

    def _home_of(self, message: MessageLike) -> list[str] | None:
        """The thread of a message; None, so all of them, if that is not known."""
        message_id = values.message_id_of(message)
        if isinstance(message, Message):
            self.include(message.thread_id)
        elif isinstance(message, Mapping) and isinstance(message.get("thread_id"), str):
            self.include(message["thread_id"])
        known = self._feed.state.message(message_id)
        return None if known is None else [known.thread_id]

    # -- looking

    def _look(self, thread_ids: list[str] | None = None) -> None:
        """Compare these threads, or all, with what is known of them. Raises StoreError."""
        self._check_usable()
        with self._lock:
            news = self._look_holding(thread_ids)
        if news:
            self._hub.notify()

    def _look_holding(self, thread_ids: list[str] | None = None) -> bool:
        """As ``_look``, the lock being held; True if anything is new."""
        backoff = self.clock.backoff(round(REREAD_TIMEOUT * SECOND))
        lost = False
        while True:
            try:
                return self._feed.take(self._read(thread_ids), self.clock.now_us()) or lost
            except Elsewhere:
                thread_ids = None
            except Vanished as vanished:
                # While it is being rewritten an object may seem to be empty: it is asked again.
                if not backoff.pause():
                    self._feed.forget(vanished)
                    # It may be in another thread now: what that look left out is looked at too.
                    thread_ids, lost = None, True
                    backoff = self.clock.backoff(round(REREAD_TIMEOUT * SECOND))
            except Unavailable as error:
                if not backoff.pause():
                    self._give_up(error.__cause__, backoff.waited)

    def _give_up(self, cause: BaseException | None, waited: float) -> NoReturn:
        if isinstance(cause, StoreError):
            raise cause
        if is_busy(cause):
            raise StoreBusy(self.url, waited) from cause
        raise StoreError(
            f"{self.url} could not be read for {waited:.3g} s: {type(cause).__name__}: {cause}"
        ) from cause

    def _read(self, thread_ids: list[str] | None) -> dict[str, Found | None]:
        if thread_ids is None:
            thread_ids = [*self._told, *self._listed()]
            # Of what was listed once and is not now, its absence has to be seen.
            thread_ids += [row.thread_id for row in self._feed.state.threads()]
        return {thread_id: self._found(thread_id) for thread_id in dict.fromkeys(thread_ids)}

    def _listed(self) -> list[str]:
        if self._listing is None:
            return []
        what = f"{self._name}.{self._listing}()"
        call = call_for(
            self.original, (self._listing,), {}, {"limit": _MOST}, what="listing its threads"
        )
        try:
            return thread_ids_in(ask(call, what), what)
        except NotThere:
            return []

    def _found(self, thread_id: str) -> Found | None:
        what = f"{self._name}.get_thread({thread_id!r})"
        try:
            answer = ask(lambda: self.original.get_thread(thread_id), what)
        except NotThere:
            return None
        if not answer:
            return None
        try:
            return found_in(answer, what, thread_id, self._shape, self.clock.now_us())
        except RuntimeError as error:
            if may_pass(error):
                raise Unavailable from error
            raise

    # -- what is left of a store's own life

    @contextmanager
    def _reading(self) -> Iterator[State]:
        with self._lock:
            self._feed.state.finish()
            yield self._feed.state

    def _writing(self) -> NoReturn:  # pragma: no cover - no method of this store comes here
        raise NotImplementedError

    def _compact(self, keep: int | timedelta) -> tuple[int, int, str | None]:
        self._look()
        with self._reading() as state:
            removed = state.trim(self._floor(state, keep))
            return state.trimmed(), removed, None

    def _restore(self, snapshot: StoreSnapshot, progress: Progress) -> None:
        raise CannotAdapt(
            f"nothing can be copied into {self.url}: it has no way to take times and revisions; "
            "copy into a store of open_store(url)"
        )

    def _close(self) -> None:
        """The object is its maker's to close."""

    def __repr__(self) -> str:
        return f"adapt_store({self.original!r})"
