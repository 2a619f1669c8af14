"""A run that is played from a recording, or recorded: no step of it is written by us."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..clock import SECOND
from ..errors import ClaudeNotFound
from .actors import Real
from .claude_breaks import SIGHUP, SIGINT, SIGTERM, Exits, Interrupted, Signalled
from .claude_hand import Hand
from .claude_requests import Requests, first_prompt
from .claude_stage import Stage
from .fake_clock import FakeClock
from .sameness import heard_in

if TYPE_CHECKING:
    from ..claude.transcript import TranscriptEntry
    from .recording import Recording

_TICK: Final = 0.02
"""Real seconds after which a fake clock follows a run of the real CLI."""
_LAST_WORD: Final = 5
"""Seconds of its clock for which a run that was played waits for the end of an open stdin."""
_NAMES: Final = {SIGHUP: "HUP", SIGINT: "INT", SIGTERM: "TERM"}
_NEXT_LINE: Final = "the next line of its recording"


class Replay:
    """One recorded run, or one to be recorded. ``requests``: of a caller of stream input."""

    def __init__(
        self, hand: Hand, stage: Stage, recording: Recording, requests: Requests | None
    ) -> None:
        self._hand = hand
        self._clock = hand.clock
        self._stage = stage
        self._recording = recording
        self._requests = requests
        self._heard = 0
        """How many messages on stdin have been compared."""

    def run(self) -> int:
        """All of it; the exit code. Raises what waiting raises."""
        if self._recording.transcript is None:
            return self._record()
        hand, requests = self._hand, self._requests
        if requests is not None and hand.record.prompt is None:
            hand.order("I")
            hand.wait_real(None, until=lambda: bool(requests.prompts) or hand.stdin_ended)
        page = self._recording.stale(hand.record.how, self._prompt())
        if page is not None:
            return self._fail(page)
        return self._play()

    def _fail(self, page: str) -> int:
        self._hand.record.scripted = False
        return self._hand.complain(self._stage.failed(page))

    def _prompt(self) -> str:
        record = self._hand.record
        if self._requests is None:
            return bytes(record.stdin).decode("utf-8", "replace")
        if record.prompt is None:
            record.prompt = self._requests.prompts.pop(0) if self._requests.prompts else ""
        return record.prompt

    # -- playing

    def _play(self) -> int:
        run = self._recording.transcript
        assert run is not None
        start_us = self._clock.monotonic_us()
        # What the CLI did about a signal comes after that signal, whenever it comes now.
        first = run.signals[0] if run.signals else None
        before = [each for each in run.entries if first is None or each.t < first.t]
        try:
            start_us = self._play_entries(before, start_us)
            if first is None and run.exit is not None:
                self._hand.wait_until(start_us + round(run.duration * SECOND), _NEXT_LINE)
                if self._requests is not None:
                    self._await_last_word(self._requests)
            else:
                self._hand.hang("a signal, as when it was recorded", self._stage.longest_hang)
        except Signalled as signalled:
            if first is None or _NAMES.get(signalled.number) != first.sig or run.exit is None:
                raise
            start_us = self._clock.monotonic_us() - round(first.t * SECOND)
            start_us = self._play_entries(run.entries[len(before) :], start_us)
            self._hand.wait_until(start_us + round(run.duration * SECOND), _NEXT_LINE)
        if self._requests is not None and self._requests.prompts:
            self._expect_message(self._requests.prompts[0])
        assert run.exit is not None
        return run.exit if run.exit >= 0 else self._hand.die(-run.exit)

    def _play_entries(self, entries: Sequence[TranscriptEntry], start_us: int) -> int:
        """Play them; the start from which the times of what follows count."""
        for place, entry in enumerate(entries):
            if self._requests is not None and heard_in(entry) is not None:
                # An answer never comes before its question, however late that is now.
                due_us = start_us + round(entry.t * SECOND)
                start_us += self._await_message(self._requests, due_us)
            if entry.stream == "recorder" or (
                # The answers to requests on stdin are given to those that come now.
                self._requests is not None and entry.line.startswith('{"type":"control_response"')
            ):
                continue
            self._hand.wait_until(start_us + round(entry.t * SECOND), _NEXT_LINE)
            data = entry.line.encode("utf-8", "surrogateescape")
            following = entries[place + 1 : place + 2]
            if not (following and following[0].line == f"no newline at the end of {entry.stream}"):
                data += b"\n"
            if entry.stream == "stdout":
                self._hand.write(data)
            else:
                self._hand.flush()
                self._hand.order("E", data)
        self._hand.flush()
        return start_us

    def _await_message(self, requests: Requests, due_us: int) -> int:
        """By how much the next message on stdin came later than when it was recorded."""
        if self._heard == 0:  # compared before anything was played
            self._heard = 1
            return 0
        hand = self._hand
        hand.wait(None, "its stdin", until=lambda: bool(requests.prompts) or hand.stdin_ended)
        self._expect_message(requests.prompts.pop(0) if requests.prompts else None)
        return max(0, self._clock.monotonic_us() - due_us)

    def _await_last_word(self, requests: Requests) -> None:
        # The CLI goes once its stdin ends. One message more may be on its way: it is to be heard.
        end_us = self._clock.monotonic_us() + _LAST_WORD * SECOND
        hand = self._hand
        while not (requests.prompts or hand.stdin_ended):
            left = end_us - self._clock.monotonic_us()
            if left <= 0:
                return
            with contextlib.suppress(Interrupted):
                hand.wait(
                    left / SECOND,
                    "the end of its stdin",
                    until=lambda: bool(requests.prompts) or hand.stdin_ended,
                )

    def _expect_message(self, text: str | None) -> None:
        self._heard += 1
        page = self._recording.stale_message(self._heard, self._hand.record.how, text)
        if page is not None:
            raise Exits(self._fail(page))

    # -- recording

    def _record(self) -> int:
        hand, record = self._hand, self._hand.record
        hand.go_by_arrival()
        take = self._recording.begin(record.how, self._prompt() if self._requests is None else "")
        hand.on_stdin = lambda _piece: None  # it is the real CLI's from now on
        hand.on_frame = take.hears
        hand.order("R")
        while take.environ is None:
            hand.hear(None)
        try:
            cli = take.find_cli(self._stage.folder)
        except ClaudeNotFound as error:
            return self._fail(f"claude (recorder): {error}")
        ended = b"1" if hand.stdin_ended else b"0"
        head = [os.fsencode(cli), os.fsencode(self._stage.folder), ended, bytes(record.stdin)]
        hand.order("C", b"\0".join(head))
        started, start_us = Real.monotonic(), self._clock.monotonic_us()
        fake = isinstance(self._clock, FakeClock)
        while take.exit is None:
            hand.hear(_TICK if fake else None)
            now_us = start_us + round((Real.monotonic() - started) * SECOND)
            late_us = now_us - self._clock.monotonic_us()
            if fake and late_us >= _TICK * SECOND and not take.over:
                hand.wait_until(now_us, _NEXT_LINE)
        if fake:  # the exit may have been told of in the middle of such a wait
            hand.wait_until(start_us + take.end_us, _NEXT_LINE)
        if self._requests is not None:
            take.prompt = record.prompt = first_prompt(bytes(record.stdin))
        return take.exit if take.exit >= 0 else hand.die(-take.exit)
