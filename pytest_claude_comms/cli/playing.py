"""``claude-comms replay`` and ``demo``: all of it without Claude."""

from __future__ import annotations

import math
import os
import tempfile
from contextlib import ExitStack, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

import click

from . import exits
from .call import Call
from .declaring import command, completing
from .durations import Type
from .exits import CommandError

if TYPE_CHECKING:
    from ..claude.outcome import Intent
    from ..claude.transcript import Transcript
    from ..communication import Reply
    from ..stores.base import ConversationStore
    from ..testing.scripted_claude import ScriptedClaude
    from .live import Stops

_MARGIN: Final = 60.0
"""Seconds beyond what a recording takes, after which a play must be dead."""


_SLOWEST: Final = 1e-6
"""What is slower has deadlines beyond what a clock can say."""


class _Speed(Type):
    """``2``, ``0.5x``, ``max``."""

    name = "N|max"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        word = str(value).strip().lower()
        try:
            speed = math.inf if word == "max" else float(word.removesuffix("x"))
        except ValueError:
            speed = 0.0
        if not speed >= _SLOWEST:
            self.fail(f"{value!r} is no speed: a number from {_SLOWEST:g}, or max", param, ctx)
        return speed


@command(
    examples="""
    claude-comms replay fixtures/transcripts/01_simple.jsonl
    claude-comms replay run.jsonl --speed max --thread 90c1
    claude-comms replay 07_SIGTERM_during_retry.jsonl --intent timeout --speed 20
    """
)
@click.argument("transcript", metavar="TRANSCRIPT", type=click.Path(dir_okay=False))
@click.option("--speed", type=_Speed(), default="1", show_default=True, help="2: twice as fast.")
@click.option(
    "--intent",
    type=click.Choice(["timeout", "cancelled"]),
    help="Why the recorded run was ended by a signal; without it a stranger did it.",
)
@click.option(
    "--thread",
    metavar="THREAD",
    shell_complete=completing("threads"),
    help="Into this thread, not into a new one.",
)
@click.option("--title", default="", metavar="TEXT", help="The new thread's title.")
def replay(call: Call, transcript: str, speed: float, **options: str | None) -> int:
    """Play a recorded run of the Claude CLI into a new message of a store.

    At its recorded times, or --speed times as fast, so that 'watch' and 'wait' have something to
    see. Recordings are made by '--claude-comms-record'; see the README. What is shown, Ctrl-C and
    exit codes are as with 'ask'.
    """
    from ..claude.transcript import Transcript, play_transcript
    from ..errors import StoreError
    from ..polling import MessagePoller
    from ..stores.values import text
    from .finding import find_thread
    from .live import Feed, Stops
    from .live_ask import Heard
    from .running import Run

    name = os.path.basename(transcript)
    # Before a thread is made that would stay empty.
    for each, what in ((name, "the transcript's name"), (options["title"] or "", "--title")):
        try:
            text(each, what)
        except ValueError as error:
            raise CommandError(exits.USAGE, str(error)) from error
    try:
        recorded = Transcript.load(transcript)
    except ValueError as error:
        raise CommandError(exits.FAILED, str(error)) from error
    given = options["thread"]
    # A thread is in a store that is there.
    with call.store(create=given is None) as store, Stops() as stops:
        title = options["title"] or recorded.scenario
        thread = find_thread(store, given) if given else store.create_thread(title)
        timeout, stall_timeout = _deadlines(recorded, speed)
        with Feed(store, store.cursor()) as feed:
            heard = Heard(store.clock)
            message = store.add_message(
                thread,
                "claude",
                message_type="answer",
                status="pending",
                metadata={"transcript": name, "cli": recorded.cli},
                timeout=timeout,
                stall_timeout=stall_timeout,
            )
            run = Run(call, store, stops, heard)
            ended: list[Exception | None] = []

            def play() -> None:
                try:
                    play_transcript(
                        recorded,
                        store,
                        message,
                        speed=speed,
                        intent=cast("Intent | None", options["intent"]),
                        on_update=heard,
                    )
                    ended.append(None)
                except Exception as error:  # noqa: BLE001 - raised below, where it is seen
                    ended.append(error)
                heard.set()

            settled: list[bool] = []

            def look() -> None:
                # Its deadline, or somebody else, may end the message long before its next line.
                with suppress(StoreError):
                    MessagePoller(store).wait(message)
                    settled.append(True)
                heard.set()

            store.clock.spawn(play)
            store.clock.spawn(look)
            # A play that sleeps until its next line need not be waited for: it could no more write.
            code = run.see_through(
                message.message_id, lambda: bool(ended or settled) or run.was_asked, feed
            )
            if ended and ended[0] is not None and not run.was_asked:
                raise ended[0]
    return code


def _deadlines(recorded: Transcript, speed: float) -> tuple[float, float]:
    """So that the message ends, too, whose play was killed."""
    times = [0.0, *(entry.t for entry in recorded.entries), recorded.duration]
    longest = max(after - before for before, after in pairwise(times))
    return recorded.duration / speed + _MARGIN, longest / speed + _MARGIN


@command(
    examples="""
    claude-comms demo
    claude-comms demo --store demo.db && claude-comms threads --store demo.db
    """,
    json=False,
)
def demo(call: Call) -> int:
    """See 'ask' and 'watch' at work, in some five seconds, without Claude.

    A script plays Claude, in directories that are made for it and removed. The store is a
    temporary one too, unless --store names one: there you can look at what is left, by
    'threads', 'show' and 'timeline'.
    """
    from ..testing.scripted_claude import ScriptedClaude
    from .live import Stops

    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="claude-comms-demo-"))
        if call.given is not None or call.url:
            store = stack.enter_context(call.store(create=True))
        else:
            from ..stores import open_store

            store = stack.enter_context(open_store(f"sqlite:///{folder}/demo.db"))
        for module in ("arangodb", "marker", "yql"):
            os.mkdir(os.path.join(folder, module))
        stops = stack.enter_context(Stops())
        try:
            claude = ScriptedClaude(os.path.join(folder, "bin"), store.clock)
        except RuntimeError as error:  # Windows
            raise CommandError(exits.FAILED, str(error)) from error
        stack.enter_context(claude)
        stage = _Stage(call, store, stops, claude, folder)
        stage.ask()
        if not stops.count:
            stage.watch()
        if stops.count:
            return exits.CANCELLED if stops.name == "Ctrl-C" else stops.exit_code
        if call.url:
            call.out.note(f"\nTry: claude-comms threads --store {store.url}")
        else:
            call.out.note("\nThe store was a temporary one: 'demo --store demo.db' keeps it.")
    return exits.OK


_ANSWER: Final = """\
A PDF document has these fields:

- `_key`: a string, the document's own name
- `title` and `pages`: what marker found
- `checksum`: SHA-256, so that none is stored twice
"""


class _Stage:
    """What the demo shows."""

    def __init__(
        self,
        call: Call,
        store: ConversationStore,
        stops: Stops,
        claude: ScriptedClaude,
        folder: str,
    ) -> None:
        self._call = call
        self._store = store
        self._stops = stops
        self._claude = claude
        self._folder = folder

    def _begin(self, module: str, prompt: str, **options: Any) -> Reply:
        from ..communication import ask_module

        return ask_module(
            self._store,
            "demo",
            os.path.join(self._folder, module),
            prompt,
            command=[self._claude.executable],
            wait=False,
            title="A demonstration",
            **options,
        )

    def ask(self) -> None:
        """One question, whose answer streams in."""
        from .live import Feed
        from .live_ask import Heard
        from .running import Run

        prompt = "Which fields does a PDF have?"
        self._call.out.note(f"$ claude-comms ask arangodb '{prompt}'\n")
        self._claude.retries(529, every=0.6).uses_tool(
            "Read", {"file_path": "schema.json"}, result="{}", after=0.3
        ).replies(_ANSWER, after=0.8, chunks=24, every=0.05)
        heard = Heard(self._store.clock)
        run = Run(self._call, self._store, self._stops, heard)
        with Feed(self._store, self._store.cursor()) as feed:
            reply = self._begin("arangodb", prompt, stall_timeout=30, on_update=heard)
            reply._answering.tell_when_over(heard)
            run.see_through(
                reply.answer.message_id, lambda: reply.ended, feed, cancel=reply._answering.cancel
            )

    def watch(self) -> None:
        """Three at once: one that answers, one that fails, one that falls silent."""
        from .live import Feed
        from .live_watch import Watching

        self._call.out.note("\n$ claude-comms watch MESSAGE MESSAGE MESSAGE\n")
        claude = self._claude
        claude.when(module="arangodb").replies(_ANSWER, after=0.5, chunks=12, every=0.1)
        claude.when(module="marker").fails(429, after=1.2)
        claude.when(module="yql").goes_silent(after=0.4, text="Let me look at the grammar ")
        replies = [
            self._begin("arangodb", "And their types?", stall_timeout=30),
            self._begin("marker", "How many pages?", stall_timeout=30),
            self._begin("yql", "Is that a query?", timeout=2),
        ]
        try:
            with Feed(self._store, self._store.cursor()) as feed:
                ids = [reply.answer.message_id for reply in replies]
                Watching(self._call.out, self._store, self._stops, feed, ids).run(all_=False)
        finally:
            for reply in replies:
                reply.cancel()
