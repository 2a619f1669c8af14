"""Seeing a run through to its end: what it does is shown, and a signal ends it first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ..claude.process import running
from ..clock import SECOND
from ..errors import InvalidTransition, StoreError
from ..render import span
from . import exits, json_form
from .live import Feed, Stops
from .live_ask import Heard, Progress, Show
from .streams import is_broken_pipe

if TYPE_CHECKING:
    from ..records import Message
    from ..stores.base import ConversationStore
    from .call import Call

_REDRAW_US = SECOND // 10


class Run:
    """A run that goes on in this process, and the message that gets what comes of it."""

    def __init__(
        self,
        call: Call,
        store: ConversationStore,
        stops: Stops,
        heard: Heard,
        *,
        raw: bool = False,
        stream: bool = True,
    ) -> None:
        self._out = call.out
        self._store = store
        self._stops = stops
        self._heard = heard
        self._show = Show(call.out, raw=raw, text=stream)
        self._raw = raw
        self._stream = stream
        self.progress = Progress(store.clock.monotonic_us())
        self._began_us = store.clock.monotonic_us()
        self._broken: OSError | None = None
        self._asked = 0

    @property
    def was_asked(self) -> bool:
        """Whether it was cancelled from here."""
        return bool(self._asked)

    def see_through(
        self,
        message_id: str,
        ended: Callable[[], bool],
        feed: Feed,
        *,
        cancel: Callable[[str], object] | None = None,
    ) -> int:
        """Show it until ``ended``; returns the exit code.

        Ctrl-C, and whoever closes our output, cancels the message, which ends the run; a second
        signal, or SIGQUIT, ends it without grace. Raises after that the OSError of our output.
        ``cancel``, told why, lets the run itself do that: what it has shown and not yet stored
        is then in the message too. Without it the message is just updated.
        """
        clock = self._store.clock
        next_us = clock.monotonic_us()
        feed.message_id = message_id
        while True:
            over = ended()  # asked first: what came before is then taken below
            self._end_if_asked(message_id, cancel)
            self._guarded(lambda: self._take(message_id, feed))
            now_us = clock.monotonic_us()
            if over:
                break
            if self._show.is_live and now_us >= next_us:
                self._guarded(partial(self._show_line, now_us))
                next_us = now_us + _REDRAW_US
            self._heard.wait(SECOND if self._show.is_live else None, "the end of the run")
        self._guarded(self._show.finish)
        message = self._store.get_message(message_id)
        self._guarded(lambda: self._conclude(message))
        if self._broken is not None and not self._stops.count:
            raise self._broken
        return self._code(message)

    def _show_line(self, now_us: int) -> None:
        self._show.line(self.progress.parts(now_us))

    def _take(self, message_id: str, feed: Feed) -> None:
        for update in self._heard.take():
            self.progress.take(update, self._store.clock.monotonic_us())
            self._show.take(update)
        if self._out.is_json:
            for change in feed.take():
                if change.message_id == message_id:
                    self._out.json(json_form.event_json(change, self._store.store_id))

    def _guarded(self, show: Callable[[], object]) -> None:
        """A terminal that has gone must not keep us from seeing the run to its end."""
        if self._broken is None:
            try:
                show()
            except OSError as error:
                self._broken = error

    def _end_if_asked(self, message_id: str, cancel: Callable[[str], object] | None) -> None:
        why = self._stops.name if self._stops.count else ""
        if not why and self._broken is not None:
            why = _what_broke(self._broken)
        asked = self._stops.count or int(bool(why))
        if asked == self._asked:
            return
        first, self._asked = not self._asked, asked
        hurried = asked > 1 or self._stops.name == "SIGQUIT"
        if first and cancel is not None:
            cancel(why)
        elif first:
            try:
                self._store.update_message(message_id, status="cancelled", error=why)
            except InvalidTransition:
                pass  # it has ended just now
            except StoreError as error:
                self._out.warn(f"it could not be noted that this was cancelled: {error}")
                hurried = True
        if hurried:
            for process in running().values():
                process.kill()

    def _conclude(self, message: Message) -> None:
        if self._out.is_json:
            self._out.json(json_form.document("message", message=json_form.message_json(message)))
            return
        if not self._stream and self._raw:
            self._out.raw(f"{message.content}\n")
        elif not self._stream:
            self._out.print(message.content)
        self.progress.end(message)
        seconds = (self._store.clock.monotonic_us() - self._began_us) / SECOND
        status = message.status.value
        if self._stops.count and status == "cancelled":
            status = f"cancelled ({self._stops.name})"
        if self._out.is_live:
            self._out.note("")
        self._out.note(f"{status} after {span(seconds)}: {self.progress.summary()}")
        if message.error and not self._stops.count:
            self._out.note(f"error    {message.error}")
        self._out.note(f"message  {message.message_id}")
        self._out.note(f"thread   {message.thread_id}")
        if self.progress.session_id is not None:
            self._out.note(f"session  {self.progress.session_id}")

    def _code(self, message: Message) -> int:
        if self._stops.count and message.status == "cancelled" and self._stops.name != "Ctrl-C":
            return self._stops.exit_code
        return exits.of_status(message.status)


def _what_broke(error: OSError) -> str:
    if is_broken_pipe(error):
        return "whoever read the answer has stopped reading"
    return f"the answer could not be printed: {error.strerror or error}"
