"""Streams one run of the Claude CLI into the message that answers a question."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from . import resources
from .claude.outcome import Intent, StreamOutcome
from .claude.process import MOST_UNREAD, ClaudeProcess
from .claude.stream import StreamReader
from .claude.updates import StreamUpdate
from .clock import SECOND, Signal
from .errors import (
    ClaudeError,
    HistoryGone,
    InvalidTransition,
    RedactionError,
    RunAbandoned,
    StoreClosed,
    StoreError,
)
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
_BEFORE_DEADLINE_US = SECOND // 20
"""Text that waits is stored so long before the answer's own deadline, after which it would be
refused: a real clock wakes nobody at an instant, but after it."""
_LATE_FLUSH_US = SECOND // 1000
"""How long text may wait for more when the deadline is that near."""
_PATIENCE_US = 60 * SECOND
_BEAT_US = SECOND // 20
"""How often to look whether another process has cancelled the message."""
_LAST_BYTES = 16 << 20
"""How much is read of what a run prints after its message has ended: for what it cost."""
_LEAST_LINGER_US = SECOND
"""For how long a run that has given its result may always take to exit, as the CLI does in a tenth
of it: a caller who gives no grace wants no run ended that is about to end."""


class Answering:
    """One run and its message: what comes is stored, and who ends the one ends the other.

    The status that the message gets is the outcome's. When somebody else ends it first (its own
    deadline, a ``cancelled`` from any process), the run is ended too.
    """

    def __init__(
        self,
        store: ConversationStore,
        message_id: str,
        make_process: Callable[[Callable[[], object]], ClaudeProcess],
        *,
        began_us: int,
        stall_us: int | None,
        timeout_us: int | None,
        grace_us: int,
        on_update: Callable[[StreamUpdate], object] | None = None,
    ) -> None:
        # Its deadlines count from ``began_us``, before the message was stored: what storing it
        # took must not make them later than the message's own.
        self.store = store
        self.message_id = message_id
        self.outcome: StreamOutcome | None = None
        """None until the run has ended."""
        self._on_update = on_update
        self._clock = store.clock
        self._wakeup = self._clock.wakeup(polls=True)
        self._process = make_process(self._wakeup.set)
        redaction = redaction_of(store)
        self._redacted = None if redaction is None else RedactedStream(redaction)
        """Keeps the last word back: it may be the beginning of what is not to be stored."""
        self._reader = StreamReader(
            redact=None if redaction is None else lambda text: redaction(text, "error")
        )
        self._follower = Follower(store, interval_us=_BEAT_US)
        self._tracker = self._follower.track(message_id)
        self._stall_us = stall_us
        self._linger_us = max(grace_us, _LEAST_LINGER_US)
        if stall_us is not None:  # a run that has answered must not be found dead
            self._linger_us = min(self._linger_us, stall_us // 4)
        self._deadline_us = None if timeout_us is None else began_us + timeout_us
        self._was_done = False
        self._lingers_until_us: int | None = None
        self._kill_at_us: int | None = None
        self._cancelled = False
        """Whether the one who asked has given up."""
        self._reason: str | None = None
        """Why, for the message."""
        self._noted = False
        """Whether the message has been told that."""
        self._left_to_read = _LAST_BYTES
        """How much more is read of a run whose message has ended."""
        self._text: list[str] = []
        self._waiting = 0
        """Characters in ``_text``."""
        self._flush_at_us: int | None = None
        self._replaces = False
        """Whether ``_text`` is to stand in the place of what is stored."""
        self._signs = 0
        self._sign_due_us: int | None = None
        """When to store a sign of life for what has come; None if nothing came since a change."""
        self._retries = 0
        self._stored_at_us = began_us
        """When the message last changed, or a little before that."""
        self._revision = self._tracker.revision
        self._content = ""
        """The message's text as last stored."""
        self._finished: dict[Signal, None] = {}
        self._over = False
        self._settled = False
        """Whether the store has taken how it ended."""
        self._failure: BaseException | None = None
        self._thread: int | None = None
        self._started = False
        self._starting = self._clock.wakeup()

    # -- for those who wait

    @property
    def over(self) -> bool:
        """Whether the run has ended and the message has all that came of it."""
        return self._over

    @property
    def lost(self) -> bool:
        """Whether the run is over and could not say so to its message: see ``settle_lost``."""
        return self._over and not self._settled

    @property
    def is_on_my_thread(self) -> bool:
        """Whether the run itself asks: ``on_update`` does."""
        # Of one that is over the system may have given the number to another thread.
        return not self._over and self._thread == threading.get_ident()

    def tell_when_over(self, signal: Signal) -> None:
        """Set ``signal`` at the end, or now if that has come."""
        self._finished[signal] = None
        if self._over:
            signal.set()

    def forget(self, signal: Signal) -> None:
        """Take back ``tell_when_over``."""
        self._finished.pop(signal, None)

    def settle_lost(self) -> None:
        """Let the message of a run that was lost be ``failed``, if nothing has ended it: nobody
        will write to it any more, and who waits for it may wait without a limit."""
        with suppress(InvalidTransition):
            try:
                why = f"the run was lost: {self._failure}"
                self.store.update_message(self.message_id, status="failed", error=why)
            except (RedactionError, ValueError):  # the words are refused; the status is not
                self.store.update_message(self.message_id, status="failed")

    def cancel(self, reason: str | None = None) -> None:
        """End the run, and let its message be ``cancelled`` if nothing has ended it, with all the
        text that came and ``reason`` as its error. Needs no store, and returns at once."""
        if not self._cancelled:
            self._reason = reason
        self._cancelled = True
        self._wakeup.set()

    def wait_started(self) -> None:
        """Return once the CLI runs. Raises ClaudeError if it could not be started."""
        while not self._started and not self._over:
            self._starting.wait(None, why="the start of Claude")
        if isinstance(self._failure, ClaudeError):
            raise self._failure

    is_run = True
    """Told apart from other resources: see ``testing.leaks``."""

    def left_open(self) -> str | None:
        """See :mod:`pytest_claude_comms.resources`."""
        if self._started and not self._over:
            return self._left_running("the test ended")
        return None

    def _left_running(self, when: str) -> str:
        return (
            f"the run of Claude that answers message {self.message_id} was still going on when "
            f"{when}: wait for it with reply.wait(), or end it with reply.cancel()"
        )

    # -- the run, on a thread of its own

    def run(self) -> None:
        """The whole of it. The CLI's death is tied to this thread where the system can do so."""
        self._thread = threading.get_ident()
        forget = self.store.subscribe(self._wakeup.set)
        resources.register(self)
        try:
            self._run()
            self._settled = True
        except ClaudeError as error:
            self._failure = error
            self._store_last(status=MessageStatus.FAILED, error=str(error))
            self._settled = True
        except StoreClosed as error:
            self._failure = RunAbandoned(self._left_running("its store was closed"))
            raise self._failure from error
        except Exception as error:
            self._failure = error
            with suppress(Exception):
                self.settle_lost()
                self._settled = True
            raise
        except BaseException as error:  # the fake clock on which it ran is closed: the test is over
            self._failure = error
            self._clock.unhandled(
                RunAbandoned(self._left_running("its clock was closed")), "Answering.run"
            )
            raise
        finally:
            forget()
            self._over = True
            self._starting.set()
            for signal in list(self._finished):
                signal.set()

    def _run(self) -> None:
        woken = False
        with self._process as process:
            self._started = True
            self._starting.set()
            while True:
                over = process.ended  # asked first: what came before is then taken below
                chunks = process.take()
                if chunks:
                    self._show_life()
                for chunk in chunks:
                    self._read(chunk)
                    # What has piled up may take seconds to read, and a run that prints faster
                    # than that would never be ended.
                    self._flush_if_due()
                    self._look_at_message(process, instant_over=False)
                if chunks:
                    self._expect_exit()
                self._flush_if_due()
                process.done_with(chunks)
                if over:
                    break
                self._look_at_message(process, instant_over=not woken)
                self._end_if_it_lingers(process)
                woken = self._wakeup.wait(
                    self._span_us(),
                    why=f"Claude (pid {process.pid})",
                    beat_us=_BEAT_US,
                    notified=self._follower.notified,
                )
            self._take(self._reader.end())
            self._conclude(process)

    def _span_us(self) -> int | None:
        due = (self._flush_at_us, self._sign_due_us, self._lingers_until_us, self._kill_at_us)
        spans = [due_us - self._clock.monotonic_us() for due_us in due if due_us is not None]
        deadline_us = self._follower.span_us()
        if deadline_us is not None and not self._tracker.is_terminal:
            spans.append(deadline_us)
        return max(0, min(spans)) if spans else None

    def _look_at_message(self, process: ClaudeProcess, *, instant_over: bool) -> None:
        """Let deadlines pass, and end the run of a message that has ended."""
        self._look(instant_over=instant_over)
        if self._has_ended:
            process.begin_end(self._intent())  # first: the store may be in trouble
            self._note_cancelled()
        elif process.overflowed:
            process.begin_end()  # no intent: if it has given its result, that decides

    def _look(self, *, instant_over: bool = True) -> None:
        try:
            self._follower.look_patiently(self._wakeup, instant_over=instant_over)
        except HistoryGone as gone:
            if gone.since is None:
                raise  # not just trimmed: it is another store
            # Of a message there is always what it has come to, and no more is needed here.
            self._follower = Follower(self.store, interval_us=_BEAT_US)
            self._tracker = self._follower.track(self.message_id)

    def _note_cancelled(self) -> None:
        """Store at once that who asked has given up, and in the same commit the text that waits:
        it has been told already, so it may have been seen."""
        if self._noted or self._tracker.is_terminal:
            return
        self._noted = True
        with suppress(InvalidTransition):  # its deadline, or somebody else, was first
            self._write(status=MessageStatus.CANCELLED, error=self._reason, **self._unstored_text())
        self._look()

    @property
    def _has_ended(self) -> bool:
        """Whether the message has, or is to: then the run is of no use any more."""
        return self._tracker.is_terminal or self._cancelled

    def _expect_exit(self) -> None:
        """After its last result the CLI exits, at once or when its background tasks are done.

        What it prints after that result, be it for ever, is no reason to wait longer; nor must a
        deadline find it when its answer is in hand.
        """
        was_done, self._was_done = self._was_done, self._reader.is_done
        if was_done == self._was_done:
            return
        self._lingers_until_us = self._kill_at_us = None
        if self._was_done:
            now_us = self._clock.monotonic_us()
            linger_us = self._linger_us
            left_us = self._left_us(now_us)
            if left_us is not None:
                linger_us = min(linger_us, left_us // 2)
                self._kill_at_us = now_us + left_us * 3 // 4
            self._lingers_until_us = now_us + linger_us

    def _left_us(self, now_us: int) -> int | None:
        """How long the message has until a deadline of its own, if nothing changes it."""
        ends = [] if self._deadline_us is None else [self._deadline_us]
        if self._stall_us is not None:
            ends.append(self._stored_at_us + self._stall_us)
        return max(0, min(ends) - now_us) if ends else None

    def _end_if_it_lingers(self, process: ClaudeProcess) -> None:
        now_us = self._clock.monotonic_us()
        # Without an intent: the result that it gave decides.
        if self._lingers_until_us is not None and now_us >= self._lingers_until_us:
            self._lingers_until_us = None
            process.begin_end()
        if self._kill_at_us is not None and now_us >= self._kill_at_us:
            self._kill_at_us = None
            process.kill()

    def _intent(self) -> Intent:
        return "timeout" if self._tracker.status is MessageStatus.TIMEOUT else "cancelled"

    # -- what comes

    def _read(self, chunk: bytes) -> None:
        if self._has_ended or self._process.overflowed:
            self._left_to_read -= len(chunk)
            if self._left_to_read < 0:
                return
        self._take(self._reader.feed_bytes(chunk))

    def _take(self, updates: list[StreamUpdate]) -> None:
        for update in updates:
            self._tell(update)
            if update.kind == "started":
                self._store(status=MessageStatus.PROCESSING)
            elif update.kind == "text":
                self._take_text(update)
            elif update.kind == "retry" and update.retry is not None:
                # With its number: a retry that is like an earlier one is a change too.
                self._retries += 1
                self._flush(metadata={"retry": asdict(update.retry), "retries": self._retries})
            elif update.kind == "session" and update.session_id is not None:
                self._flush(metadata={"session_id": update.session_id})

    def _tell(self, update: StreamUpdate) -> None:
        # Of a message that has ended nothing changes any more, whatever its run still says.
        if self._on_update is not None and not self._tracker.is_terminal:
            try:
                self._on_update(update)
            # Who looks on must not end the run, and pytest.fail() is no Exception.
            except BaseException as error:  # noqa: BLE001
                self._clock.unhandled(error, "on_update")

    def _take_text(self, update: StreamUpdate) -> None:
        if update.content is not None and (self._process.intent or self._has_ended):
            return  # taken back because it was ended in the midst of it: what was said so far stays
        if update.content is not None:
            self._text, self._waiting = [update.content], len(update.content)
            self._replaces = True
        elif update.append:
            self._text.append(update.append)
            self._waiting += len(update.append)
        if self._flush_at_us is None:
            self._flush_at_us = self._flush_time_us()
        if not self._replaces and self._waiting >= FLUSH_CHARACTERS:
            text = "".join(self._text)
            whole = len(text) - len(text) % FLUSH_CHARACTERS
            self._text, self._waiting = [text[whole:]], len(text) - whole
            for start in range(0, whole, FLUSH_CHARACTERS):
                changes = self._edit(text[start : start + FLUSH_CHARACTERS])
                if changes:
                    self._store(**changes)

    def _flush_time_us(self) -> int:
        """Until when text that comes now may wait."""
        now_us = self._clock.monotonic_us()
        if self._deadline_us is None:
            return now_us + FLUSH_US
        near_us = max(self._deadline_us - _BEFORE_DEADLINE_US, now_us + _LATE_FLUSH_US)
        # At the very instant of the deadline a write still counts.
        return min(now_us + FLUSH_US, near_us, max(self._deadline_us, now_us))

    def _show_life(self) -> None:
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
            self._flush(metadata={"signs_of_life": self._signs})

    # -- what is stored

    def _flush_if_due(self) -> None:
        self._show_sign_if_due()
        if self._flush_at_us is not None and self._clock.monotonic_us() >= self._flush_at_us:
            self._flush()

    def _flush(self, **more: Any) -> None:
        changes = {**self._unstored_text(), **more}
        if changes:
            self._store(**changes)

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

    def _store(self, **changes: Any) -> None:
        # Of a run whose asker has given up, until that has been noted: what came was told.
        if self._tracker.is_terminal or self._noted:
            return
        try:
            self._write(**changes)
        except InvalidTransition:
            # Its deadline, or somebody who cancelled it. The next look ends the run.
            self._look()

    def _conclude(self, process: ClaudeProcess) -> None:
        # What it did at the very instant of the deadline counts, so that is not settled here.
        self._look(instant_over=False)
        intent = process.intent or (self._intent() if self._has_ended else None)
        outcome = self._reader.finish(process.exit_code, process.stderr, intent)
        if process.overflowed and outcome.error_kind in ("signal", "no_result"):
            error = (
                f"Claude was ended: {MOST_UNREAD >> 20} MB of its output were waiting to be read"
            )
            outcome = replace(outcome, error=error, error_kind="too_much_output")
        self.outcome = outcome
        # Of a run that was ended the last word is none, and may be half of a secret.
        whole = outcome.status in (MessageStatus.COMPLETE, MessageStatus.FAILED)
        last = {} if self._tracker.is_terminal else self._unstored_text(whole=whole)
        why = outcome.error
        if self._cancelled and outcome.status is MessageStatus.CANCELLED:
            why = self._reason or why
        self._store_last(status=outcome.status, error=why, metadata=outcome.as_metadata(), **last)

    def _store_last(self, *, metadata: dict[str, Any] | None = None, **changes: Any) -> None:
        """Store how it ended; of a message that has ended otherwise, only what it cost."""
        try:
            self._write(metadata=metadata, **changes)
        except InvalidTransition:
            self._write(metadata=metadata)

    def _write(self, **changes: Any) -> None:
        # Only the run knows what came of it, so a store in trouble is asked for a minute.
        until_us = self._clock.monotonic_us() + _PATIENCE_US
        trouble = self._clock.wakeup()
        began_us, unsure = self._clock.monotonic_us(), False
        while True:
            try:
                if unsure:
                    # Only the run writes text to it: other text than before is what was added.
                    found = self.store.get_message(self.message_id)
                    unsure = False
                    if found.content != self._content:
                        del changes["append"]
                        self._note_stored(found, began_us)
                began_us = self._clock.monotonic_us()
                self._note_stored(self.store.update_message(self.message_id, **changes), began_us)
                return
            except StoreError as error:
                unsure = unsure or (error.outcome == "unknown" and "append" in changes)
                if not error.transient or self._clock.monotonic_us() >= until_us:
                    raise
                # It beats: fake time stands still until what the CLI wrote has been stored.
                trouble.wait(
                    SECOND, why=f"a store in trouble: {error}", beat_us=_BEAT_US, notified=False
                )
                self._end_if_given_up()

    def _note_stored(self, message: Message, at_us: int) -> None:
        self._content = message.content
        if message.revision != self._revision:  # what changes nothing is no sign of life
            self._revision = message.revision
            self._stored_at_us = at_us
            self._sign_due_us = None

    def _end_if_given_up(self) -> None:
        """What needs no store: who asked has given up, or the time is up."""
        if self._cancelled:
            self._process.begin_end("cancelled")
        elif self._deadline_us is not None and self._clock.monotonic_us() > self._deadline_us:
            self._process.begin_end("timeout")
