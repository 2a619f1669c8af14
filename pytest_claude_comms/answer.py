"""The message that answers a question: what a run says is stored in it, in time and patiently."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .clock import SECOND, Wakeup
from .errors import HistoryGone, InvalidTransition, StoreError
from .following import Follower
from .records import Message
from .redacted_text import Edit, RedactedStream
from .redaction import redaction_of
from .status import MessageStatus
from .stores.base import ConversationStore

FLUSH_US = SECOND // 10 - 1
"""How long text may wait for more before it is stored: ten writes a second are live enough for a
person, and a stream of tokens would be a write each. No round number: on a fake clock what falls
due at the very instant at which a script's next text comes would be stored with or without it."""
FLUSH_CHARACTERS = 256 * 1024
"""So much text is stored at once, in exact pieces: what the commits are must not depend on how
the pipe happened to cut it."""
BEAT_US = SECOND // 20
"""How often to look whether another process has cancelled the message."""
_BEFORE_DEADLINE_US = SECOND // 20
"""Text that waits is stored so long before the answer's own deadline, after which it would be
refused: a real clock wakes nobody at an instant, but after it."""
_LATE_FLUSH_US = SECOND // 1000
"""How long text may wait for more when the deadline is that near."""
_PATIENCE_US = 60 * SECOND


class Answer:
    """What one run has to say, on its way into its message. Used by the run's thread only."""

    def __init__(
        self,
        store: ConversationStore,
        message_id: str,
        *,
        began_us: int,
        stall_us: int | None,
        timeout_us: int | None,
        wakeup: Wakeup,
        in_trouble: Callable[[], object],
    ) -> None:
        # Its deadlines count from ``began_us``, before the message was stored: what storing it
        # took must not make them later than the message's own.
        self._store = store
        self._message_id = message_id
        self._clock = store.clock
        self._wakeup = wakeup
        """The run's, which need not be set for what the run itself does."""
        self._in_trouble = in_trouble
        """Called each second in which the store takes nothing."""
        redaction = redaction_of(store)
        self._redacted = None if redaction is None else RedactedStream(redaction)
        """Keeps the last word back: it may be the beginning of what is not to be stored."""
        self._follower = Follower(store, interval_us=BEAT_US)
        self._tracker = self._follower.track(message_id)
        self._revision = self._tracker.revision
        self._content = ""
        """The message's text as last stored."""
        self._stored_at_us = began_us
        """When the message last changed, or a little before that."""
        self._stall_us = stall_us
        self._deadline_us = None if timeout_us is None else began_us + timeout_us
        self._noted = False
        """Whether it has been told that who asked has given up."""
        self._text: list[str] = []
        self._waiting = 0
        """Characters in ``_text``."""
        self._flush_at_us: int | None = None
        self._replaces = False
        """Whether ``_text`` is to stand in the place of what is stored."""
        self._signs = 0
        self._sign_due_us: int | None = None
        """When to store a sign of life for what has come; None if nothing came since a change."""

    # -- what has become of it

    @property
    def status(self) -> MessageStatus:
        return self._tracker.status

    @property
    def is_terminal(self) -> bool:
        return self._tracker.is_terminal

    @property
    def notified(self) -> bool:
        """Whether the store says at once that something has changed, in any process."""
        return self._follower.notified

    @property
    def is_overdue(self) -> bool:
        """Whether its time is up, whether or not the store has been told."""
        return self._deadline_us is not None and self._clock.monotonic_us() > self._deadline_us

    def left_us(self, now_us: int) -> int | None:
        """How long it has until a deadline of its own, if nothing changes it."""
        ends = [] if self._deadline_us is None else [self._deadline_us]
        if self._stall_us is not None:
            ends.append(self._stored_at_us + self._stall_us)
        return max(0, min(ends) - now_us) if ends else None

    def spans_us(self) -> list[int]:
        """In how long something here is due: text, a sign of life, a deadline."""
        due = (self._flush_at_us, self._sign_due_us)
        spans = [due_us - self._clock.monotonic_us() for due_us in due if due_us is not None]
        deadline_us = self._follower.span_us()
        if deadline_us is not None and not self.is_terminal:
            spans.append(deadline_us)
        return spans

    def look(self, *, instant_over: bool = True) -> None:
        """Let deadlines pass, and see what others have done."""
        try:
            self._follower.look_patiently(self._wakeup, instant_over=instant_over)
        except HistoryGone as gone:
            if gone.since is None:
                raise  # not just trimmed: it is another store
            # Of a message there is always what it has come to, and no more is needed here.
            self._follower = Follower(self._store, interval_us=BEAT_US)
            self._tracker = self._follower.track(self._message_id)

    # -- what comes

    def take_text(self, *, content: str | None, append: str | None) -> None:
        """Text came: more of it, or another in the place of all that came before."""
        if content is not None:
            self._text, self._waiting = [content], len(content)
            self._replaces = True
        elif append:
            self._text.append(append)
            self._waiting += len(append)
        if self._flush_at_us is None:
            self._flush_at_us = self._flush_time_us()
        if not self._replaces and self._waiting >= FLUSH_CHARACTERS:
            text = "".join(self._text)
            whole = len(text) - len(text) % FLUSH_CHARACTERS
            self._text, self._waiting = [text[whole:]], len(text) - whole
            for start in range(0, whole, FLUSH_CHARACTERS):
                changes = self._edit(text[start : start + FLUSH_CHARACTERS])
                if changes:
                    self.store(**changes)

    def _flush_time_us(self) -> int:
        """Until when text that comes now may wait."""
        now_us = self._clock.monotonic_us()
        if self._deadline_us is None:
            return now_us + FLUSH_US
        near_us = max(self._deadline_us - _BEFORE_DEADLINE_US, now_us + _LATE_FLUSH_US)
        # At the very instant of the deadline a write still counts.
        return min(now_us + FLUSH_US, near_us, max(self._deadline_us, now_us))

    def show_life(self) -> None:
        """Note that something came, and when to store that, unless a change is stored before.

        A tool that runs for minutes prints no text, and some lines change nothing; the stall limit
        is for a run that is dead. The message counts it from its last change, so after each line
        there has to be one: at once if the last is a quarter of the limit ago, else when it is.
        Silence thus never ends a run before the limit, nor later than a quarter of it after that.
        """
        # Called before what came is read, and a change of this very instant counts, so that what
        # is stored does not depend on how the pipe cut it.
        if self._stall_us is not None and self._sign_due_us is None:
            now_us = self._clock.monotonic_us()
            if now_us > self._stored_at_us:
                self._sign_due_us = max(now_us, self._stored_at_us + self._stall_us // 4)
        self._show_sign_if_due()

    def _show_sign_if_due(self) -> None:
        if self._sign_due_us is not None and self._clock.monotonic_us() >= self._sign_due_us:
            self._sign_due_us = None
            self._signs += 1
            self.flush(metadata={"signs_of_life": self._signs})

    # -- what is stored

    def flush_if_due(self) -> None:
        """Store what has waited long enough."""
        self._show_sign_if_due()
        if self._flush_at_us is not None and self._clock.monotonic_us() >= self._flush_at_us:
            self.flush()

    def flush(self, **more: Any) -> None:
        """Store the text that waits and ``more`` in one commit."""
        changes = {**self._unstored_text(), **more}
        if changes:
            self.store(**changes)

    def store(self, **changes: Any) -> None:
        """Store ``changes``, as ``update_message`` takes them, unless the message has ended."""
        # Of a run whose asker has given up, until that has been noted: what came was told.
        if self.is_terminal or self._noted:
            return
        try:
            self._write(**changes)
        except InvalidTransition:
            # Its deadline, or somebody who cancelled it. The next look ends the run.
            self.look()

    def note_cancelled(self, reason: str | None) -> None:
        """Store at once that who asked has given up, and in the same commit the text that waits:
        it has been told already, so it may have been seen."""
        if self._noted or self.is_terminal:
            return
        self._noted = True
        changes = {"status": MessageStatus.CANCELLED, "error": reason, **self._unstored_text()}
        with suppress(InvalidTransition):  # its deadline, or somebody else, was first
            self._write(**changes)
        self.look()

    def store_end(
        self, status: MessageStatus, error: str | None, metadata: dict[str, Any] | None = None
    ) -> None:
        """Store how it ended; of a message that has ended otherwise, only what it cost."""
        # Of a run that was ended the last word is none, and may be half of a secret.
        whole = status in (MessageStatus.COMPLETE, MessageStatus.FAILED)
        last: dict[str, Any] = {} if self.is_terminal else self._unstored_text(whole=whole)
        try:
            self._write(status=status, error=error, metadata=metadata, **last)
        except InvalidTransition:
            self._write(metadata=metadata)

    def _unstored_text(self, *, whole: bool = False) -> dict[str, str]:
        text, self._text, self._waiting = "".join(self._text), [], 0
        replaces, self._replaces = self._replaces, False
        self._flush_at_us = None
        return self._edit(text, replaces=replaces, whole=whole)

    def _edit(self, text: str, *, replaces: bool = False, whole: bool = False) -> dict[str, str]:
        if self._redacted is None:
            edit = Edit(text, replaces)
        else:
            edit = self._redacted.edit(text, replaces=replaces, whole=whole)
        return edit.as_changes()

    def _write(self, **changes: Any) -> None:
        # Only the run knows what came of it, so a store in trouble is asked for a minute.
        until_us = self._clock.monotonic_us() + _PATIENCE_US
        trouble = self._clock.wakeup()
        began_us, unsure = self._clock.monotonic_us(), False
        while True:
            try:
                if unsure:
                    # Only the run writes text to it: other text than before is what was added.
                    found = self._store.get_message(self._message_id)
                    unsure = False
                    if found.content != self._content:
                        del changes["append"]
                        self._note_stored(found, began_us)
                began_us = self._clock.monotonic_us()
                self._note_stored(self._store.update_message(self._message_id, **changes), began_us)
                return
            except StoreError as error:
                unsure = unsure or (error.outcome == "unknown" and "append" in changes)
                if not error.transient or self._clock.monotonic_us() >= until_us:
                    raise
                # It beats: while fake time stands still, who works outside may be in the way.
                trouble.wait(
                    SECOND, why=f"a store in trouble: {error}", beat_us=BEAT_US, notified=False
                )
                self._in_trouble()

    def _note_stored(self, message: Message, at_us: int) -> None:
        self._content = message.content
        if message.revision != self._revision:  # what changes nothing is no sign of life
            self._revision = message.revision
            self._stored_at_us = at_us
            self._sign_due_us = None
