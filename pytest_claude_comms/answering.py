"""Streams one run of the Claude CLI into the message that answers a question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace

from . import resources
from .answer import BEAT_US, Answer
from .claude.outcome import Intent, StreamOutcome
from .claude.process import MOST_UNREAD, ClaudeProcess
from .claude.stream import StreamReader
from .claude.updates import StreamUpdate
from .clock import SECOND, Signal
from .errors import (
    ClaudeError,
    InvalidTransition,
    RedactionError,
    RunAbandoned,
    StoreClosed,
)
from .redaction import redaction_of
from .status import MessageStatus
from .stores.base import ConversationStore

_LAST_BYTES = 16 << 20
"""How much is read of what a run prints after its message has ended: for what it cost."""
_PIECE_BYTES = 64 << 10
"""So much is read between two looks at the message. A look may take time: of a store that is slow
by a fault, fake time, which must not depend on how the pipe happened to cut what came."""
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
        self.store = store
        self.message_id = message_id
        self.outcome: StreamOutcome | None = None
        """None until the run has ended."""
        self._on_update = on_update
        self._clock = store.clock
        self._wakeup = self._clock.wakeup(polls=True)
        self._process = make_process(self._wakeup.set)
        redaction = redaction_of(store)
        self._reader = StreamReader(
            redact=None if redaction is None else lambda text: redaction(text, "error")
        )
        self._answer = Answer(
            store,
            message_id,
            began_us=began_us,
            stall_us=stall_us,
            timeout_us=timeout_us,
            wakeup=self._wakeup,
            in_trouble=self._end_if_given_up,
        )
        self._linger_us = max(grace_us, _LEAST_LINGER_US)
        if stall_us is not None:  # a run that has answered must not be found dead
            self._linger_us = min(self._linger_us, stall_us // 4)
        self._was_done = False
        self._lingers_until_us: int | None = None
        self._kill_at_us: int | None = None
        self._cancelled = False
        """Whether the one who asked has given up."""
        self._reason: str | None = None
        """Why, for the message."""
        self._left_to_read = _LAST_BYTES
        """How much more is read of a run whose message has ended."""
        self._retries = 0
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
            self._answer.store_end(MessageStatus.FAILED, str(error))
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
                    self._answer.show_life()
                for piece in _in_pieces(chunks):
                    self._read(piece)
                    # What has piled up may take seconds to read, and a run that prints faster
                    # than that would never be ended.
                    self._answer.flush_if_due()
                    self._look_at_message(process, instant_over=False)
                if chunks:
                    self._expect_exit()
                self._answer.flush_if_due()
                process.done_with(chunks)
                if over:
                    break
                self._look_at_message(process, instant_over=not woken)
                self._end_if_it_lingers(process)
                woken = self._wakeup.wait(
                    self._span_us(),
                    why=f"Claude (pid {process.pid})",
                    beat_us=BEAT_US,
                    notified=self._answer.notified,
                )
            self._take(self._reader.end())
            self._conclude(process)

    def _span_us(self) -> int | None:
        due = (self._lingers_until_us, self._kill_at_us)
        spans = [due_us - self._clock.monotonic_us() for due_us in due if due_us is not None]
        spans += self._answer.spans_us()
        return max(0, min(spans)) if spans else None

    def _look_at_message(self, process: ClaudeProcess, *, instant_over: bool) -> None:
        """Let deadlines pass, and end the run of a message that has ended."""
        self._answer.look(instant_over=instant_over)
        if self._has_ended:
            process.begin_end(self._intent())  # first: the store may be in trouble
            self._answer.note_cancelled(self._reason)
        elif process.overflowed:
            process.begin_end()  # no intent: if it has given its result, that decides

    @property
    def _has_ended(self) -> bool:
        """Whether the message has, or is to: then the run is of no use any more."""
        return self._answer.is_terminal or self._cancelled

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
            left_us = self._answer.left_us(now_us)
            if left_us is not None:
                linger_us = min(linger_us, left_us // 2)
                self._kill_at_us = now_us + left_us * 3 // 4
            self._lingers_until_us = now_us + linger_us

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
        return "timeout" if self._answer.status is MessageStatus.TIMEOUT else "cancelled"

    # -- what comes

    def _read(self, piece: bytes) -> None:
        if self._has_ended or self._process.overflowed:
            self._left_to_read -= len(piece)
            if self._left_to_read < 0:
                return
        self._take(self._reader.feed_bytes(piece))

    def _take(self, updates: list[StreamUpdate]) -> None:
        for update in updates:
            self._tell(update)
            if update.kind == "started":
                self._answer.store(status=MessageStatus.PROCESSING)
            elif update.kind == "text":
                self._take_text(update)
            elif update.kind == "retry" and update.retry is not None:
                # With its number: a retry that is like an earlier one is a change too.
                self._retries += 1
                retry = asdict(update.retry)
                self._answer.flush(metadata={"retry": retry, "retries": self._retries})
            elif update.kind == "session" and update.session_id is not None:
                self._answer.flush(metadata={"session_id": update.session_id})

    def _tell(self, update: StreamUpdate) -> None:
        # Of a message that has ended nothing changes any more, whatever its run still says.
        if self._on_update is not None and not self._answer.is_terminal:
            try:
                self._on_update(update)
            # Who looks on must not end the run, and pytest.fail() is no Exception.
            except BaseException as error:  # noqa: BLE001
                self._clock.unhandled(error, "on_update")

    def _take_text(self, update: StreamUpdate) -> None:
        if update.content is not None and (self._process.intent or self._has_ended):
            return  # taken back because it was ended in the midst of it: what was said so far stays
        self._answer.take_text(content=update.content, append=update.append)

    # -- how it ends

    def _conclude(self, process: ClaudeProcess) -> None:
        # What it did at the very instant of the deadline counts, so that is not settled here.
        self._answer.look(instant_over=False)
        intent = process.intent or (self._intent() if self._has_ended else None)
        outcome = self._reader.finish(process.exit_code, process.stderr, intent)
        if process.overflowed and outcome.error_kind in ("signal", "no_result"):
            error = (
                f"Claude was ended: {MOST_UNREAD >> 20} MB of its output were waiting to be read"
            )
            outcome = replace(outcome, error=error, error_kind="too_much_output")
        self.outcome = outcome
        why = outcome.error
        if self._cancelled and outcome.status is MessageStatus.CANCELLED:
            why = self._reason or why
        self._answer.store_end(outcome.status, why, outcome.as_metadata())

    def _end_if_given_up(self) -> None:
        """What needs no store: who asked has given up, or the time is up."""
        if self._cancelled:
            self._process.begin_end("cancelled")
        elif self._answer.is_overdue:
            self._process.begin_end("timeout")


def _in_pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What came, in pieces that do not depend on how the pipe happened to cut it."""
    left = bytearray()
    for chunk in chunks:
        left += chunk
        while len(left) >= _PIECE_BYTES:
            yield bytes(left[:_PIECE_BYTES])
            del left[:_PIECE_BYTES]
    if left:
        yield bytes(left)
