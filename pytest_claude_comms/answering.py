"""Streams one run of the Claude CLI into the message that answers a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .claude.outcome import Intent, StreamOutcome
from .claude.process import ClaudeProcess
from .claude.stream import StreamReader
from .claude.updates import StreamUpdate
from .clock import SECOND, Signal
from .errors import ClaudeError, InvalidTransition, StoreError
from .polling import MessagePoller
from .status import MessageStatus
from .stores.base import ConversationStore

FLUSH_US = SECOND // 10
"""How long text may wait for more before it is stored: ten writes a second are live enough for a
person, and a stream of tokens would be a write each."""
FLUSH_CHARACTERS = 256 * 1024
"""So much text is stored at once, in exact pieces: what the commits are must not depend on how
the pipe happened to cut it."""
_PATIENCE_US = 60 * SECOND
_BEAT_US = SECOND // 20
"""How often to look whether another process has cancelled the message."""


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
        stall_us: int | None,
    ) -> None:
        self.store = store
        self.message_id = message_id
        self.outcome: StreamOutcome | None = None
        """None until the run has ended."""
        self._clock = store.clock
        self._wakeup = self._clock.wakeup(polls=True)
        self._process = make_process(self._wakeup.set)
        self._reader = StreamReader()
        self._poller = MessagePoller(store)
        self._tracker = self._poller.track(message_id)
        self._stall_us = stall_us
        self._text: list[str] = []
        self._waiting = 0
        """Characters in ``_text``."""
        self._flush_at_us: int | None = None
        self._replacement: str | None = None
        self._lines = 0
        self._stored_at_us = self._clock.monotonic_us()
        self._finished: dict[Signal, None] = {}
        self._over = False
        self._failure: BaseException | None = None
        self._started = False
        self._starting = self._clock.wakeup()

    # -- for those who wait

    @property
    def over(self) -> bool:
        """Whether the run has ended and the message has all that came of it."""
        return self._over

    def tell_when_over(self, signal: Signal) -> None:
        """Set ``signal`` at the end, or now if that has come."""
        self._finished[signal] = None
        if self._over:
            signal.set()

    def wait_started(self) -> None:
        """Return once the CLI runs. Raises ClaudeError if it could not be started."""
        while not self._started and not self._over:
            self._starting.wait(None, why="the start of Claude")
        if isinstance(self._failure, ClaudeError):
            raise self._failure

    # -- the run, on a thread of its own

    def run(self) -> None:
        """The whole of it. The CLI's death is tied to this thread where the system can do so."""
        forget = self.store.subscribe(self._wakeup.set)
        try:
            self._run()
        except ClaudeError as error:
            self._failure = error
            self._store_last(status=MessageStatus.FAILED, error=str(error))
        except BaseException as error:
            self._failure = error
            raise
        finally:
            forget()
            self._over = True
            self._starting.set()
            for signal in list(self._finished):
                signal.set()

    def _run(self) -> None:
        with self._process as process:
            self._started = True
            self._starting.set()
            while True:
                over = process.ended  # asked first: what came before is then taken below
                chunks = process.take()
                for chunk in chunks:
                    self._take(self._reader.feed_bytes(chunk))
                self._flush_if_due()
                process.done_with(chunks)
                if over:
                    break
                self._look_at_message(process)
                self._wakeup.wait(
                    self._span_us(),
                    why=f"Claude (pid {process.pid})",
                    beat_us=_BEAT_US,
                    notified=getattr(self.store, "notifies", True),
                )
            self._take(self._reader.end())
            self._conclude(process)

    def _span_us(self) -> int | None:
        spans = []
        if self._flush_at_us is not None:
            spans.append(self._flush_at_us - self._clock.monotonic_us())
        deadline_us = self._poller._span_us()
        if deadline_us is not None and not self._tracker.is_terminal:
            spans.append(deadline_us)
        return max(0, min(spans)) if spans else None

    def _look_at_message(self, process: ClaudeProcess) -> None:
        """Let deadlines pass, and end the run of a message that has ended."""
        self._poller._poll_patiently(self._wakeup)
        if self._tracker.is_terminal:
            process.begin_end(self._intent())

    def _intent(self) -> Intent:
        return "timeout" if self._tracker.status is MessageStatus.TIMEOUT else "cancelled"

    # -- what comes

    def _take(self, updates: list[StreamUpdate]) -> None:
        for update in updates:
            self._lines += 1
            if update.kind == "started":
                self._store(status=MessageStatus.PROCESSING)
            elif update.kind == "text":
                self._take_text(update)
            elif update.kind == "retry" and update.retry is not None:
                self._flush(metadata={"retry": asdict(update.retry)})
            elif update.kind == "session" and update.session_id is not None:
                self._flush(metadata={"session_id": update.session_id})
        if updates:
            self._show_life()

    def _take_text(self, update: StreamUpdate) -> None:
        if update.content is not None:
            self._text = [update.content]
            self._replacement = update.content
        elif update.append:
            self._text.append(update.append)
            if self._replacement is not None:
                self._replacement += update.append
        self._waiting = (
            sum(map(len, self._text))
            if update.content is not None
            else (self._waiting + len(update.append or ""))
        )
        if self._flush_at_us is None:
            self._flush_at_us = self._clock.monotonic_us() + FLUSH_US
        while self._replacement is None and self._waiting >= FLUSH_CHARACTERS:
            text = "".join(self._text)
            self._text = [text[FLUSH_CHARACTERS:]]
            self._waiting -= FLUSH_CHARACTERS
            self._store(append=text[:FLUSH_CHARACTERS])

    def _show_life(self) -> None:
        # A tool that runs for minutes prints no text; the stall limit is for a run that is dead.
        if self._stall_us is not None:
            silent_us = self._clock.monotonic_us() - self._stored_at_us
            if 2 * silent_us >= self._stall_us:
                self._flush(metadata={"steps": self._lines})

    # -- what is stored

    def _flush_if_due(self) -> None:
        if self._flush_at_us is not None and self._clock.monotonic_us() >= self._flush_at_us:
            self._flush()

    def _flush(self, **more: Any) -> None:
        changes = {**self._unstored_text(), **more}
        if changes:
            self._store(**changes)

    def _unstored_text(self) -> dict[str, str]:
        text, self._text, self._waiting = "".join(self._text), [], 0
        replacement, self._replacement = self._replacement, None
        self._flush_at_us = None
        if replacement is not None:
            return {"content": replacement}
        return {"append": text} if text else {}

    def _store(self, **changes: Any) -> None:
        if self._tracker.is_terminal:
            return
        try:
            self._write(**changes)
            self._stored_at_us = self._clock.monotonic_us()
        except InvalidTransition:
            # Its deadline, or somebody who cancelled it. The next look ends the run.
            self._poller.poll_once()

    def _conclude(self, process: ClaudeProcess) -> None:
        self._poller._poll_patiently(self._wakeup)
        intent = process.intent or (self._intent() if self._tracker.is_terminal else None)
        outcome = self._reader.finish(process.exit_code, process.stderr, intent)
        self.outcome = outcome
        last = {} if self._tracker.is_terminal else self._unstored_text()
        self._store_last(
            status=outcome.status, error=outcome.error, metadata=outcome.as_metadata(), **last
        )

    def _store_last(self, *, metadata: dict[str, Any] | None = None, **changes: Any) -> None:
        """Store how it ended; of a message that has ended otherwise, only what it cost."""
        try:
            self._write(metadata=metadata, **changes)
        except InvalidTransition:
            self._write(metadata=metadata)

    def _write(self, **changes: Any) -> None:
        # Only the run knows what came of it, so a store in trouble is asked for a minute.
        until_us = self._clock.monotonic_us() + _PATIENCE_US
        while True:
            try:
                self.store.update_message(self.message_id, **changes)
                return
            except StoreError as error:
                if not error.transient or self._clock.monotonic_us() >= until_us:
                    raise
                self._clock.sleep(1)
