"""``claude-comms wait``, ``cancel`` and ``expire``: the end of a message."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .. import render
from ..clock import SECOND
from ..errors import HistoryGone, InvalidTransition
from . import exits, json_form
from .call import Call
from .declaring import command, completing
from .durations import Seconds

if TYPE_CHECKING:
    from ..following import Follower
    from ..records import Message
    from ..stores.base import ConversationStore
    from ..tracking import StatusTracker
    from .live import Parts, Stops


@command(
    examples="""
    claude-comms wait 7f3a91c2e5d04b6a && echo it is complete
    claude-comms wait 7f3a 90c1 --any --timeout 10m
    claude-comms wait 7f3a --json | jq -r .message.status
    """
)
@click.argument(
    "ids",
    metavar="MESSAGE...",
    nargs=-1,
    required=True,
    shell_complete=completing("messages"),
)
@click.option(
    "--timeout",
    type=Seconds(),
    help="Your patience; 0 looks once. The message is left alone.",
)
@click.option("--any", "any_", is_flag=True, help="Until the first of them ends, not the last.")
@click.option(
    "--may-come", is_flag=True, help="Wait also for a message that does not exist yet: whole ids."
)
def wait(
    call: Call, ids: tuple[str, ...], timeout: float | None, any_: bool, may_come: bool
) -> int:
    """Wait until a message ends, and say how; of several, until all have ended.

    Waiting settles what is overdue, so a message with a deadline ends even if its writer is gone.

    \b
    Exit code: that of the message's status: 0 complete, 1 failed, 4 timeout,
    5 cancelled. Of several the first that is not 0, in the order given; with
    --any that of the first to end. 8: --timeout has passed and the message
    stands as it was; those that have ended are told. 130: Ctrl-C, which
    leaves the message alone too.
    """
    from .finding import check_id, find_message_ids
    from .live import Stops

    for each in ids if may_come else ():
        check_id(each)
    with call.store() as store, Stops() as stops:
        known = list(dict.fromkeys(ids)) if may_come else find_message_ids(store, ids)
        try:
            ended = _await(call, store, stops, known, timeout, any_=any_)
        except _OutOfPatience as error:
            _print(call, [store.get_message(each.message_id) for each in error.ended])
            raise
        if ended is None:
            return stops.exit_code
        messages = [store.get_message(tracker.message_id) for tracker in ended]
    _print(call, messages)
    return _code(messages)


class _OutOfPatience(exits.CommandError):
    """``--timeout`` has passed. ``ended`` are those that have ended all the same."""

    def __init__(self, text: str, ended: list[StatusTracker]) -> None:
        super().__init__(exits.PATIENCE, text)
        self.ended = ended


def _await(
    call: Call,
    store: ConversationStore,
    stops: Stops,
    ids: Sequence[str],
    timeout: float | None,
    *,
    any_: bool,
) -> list[StatusTracker] | None:
    """Those to tell of; None if a signal came. Raises _OutOfPatience."""
    from ..following import Follower
    from ..waiting import Patience
    from .flow import Flow
    from .live import BEAT_US, line, size

    clock = store.clock
    follower = Follower(store, interval_us=BEAT_US)
    patience = Patience.starting(clock, timeout)
    wakeup = clock.wakeup(polls=True)
    forget = store.subscribe(wakeup.set)
    flow = Flow(sys.stderr) if call.out.is_live_aside and not call.json else None
    began_us = clock.monotonic_us()
    try:
        trackers = [follower.track(each) for each in ids]
        left = trackers
        woken = False
        while True:
            over = patience.is_over(clock, instant_over=not woken)
            try:
                follower.look_patiently(wakeup, instant_over=over or not woken)
            except HistoryGone as gone:
                if gone.since is None:
                    raise  # not just trimmed: it is another store
                # Of a message there is always what it has come to, and that is enough.
                follower = Follower(store, interval_us=BEAT_US)
                left = trackers = [follower.track(each) for each in ids]
            left = [tracker for tracker in left if not tracker.is_terminal]
            if not left:
                return trackers
            if any_ and len(left) < len(trackers):
                ended = [tracker for tracker in trackers if tracker.is_terminal]
                return [min(ended, key=lambda tracker: tracker.ended_at_revision or 0)]
            if stops.count:
                return None
            if over:
                raise _out_of_patience(store, trackers, patience.seconds, follower)
            if flow is not None:
                seconds = (clock.monotonic_us() - began_us) // SECOND
                parts = _parts(left, len(trackers), seconds)
                flow.status(line(call.out, parts, size(sys.stderr)[0] - 1))
            spans = [SECOND] if flow is not None else []
            spans += [s for s in (follower.span_us(patience.end_us),) if s is not None]
            woken = wakeup.wait(
                max(0, min(spans)) if spans else None,
                why="the end of a message",
                beat_us=BEAT_US,
                notified=follower.notified,
            )
    finally:
        forget()
        if flow is not None:
            flow.finish()


def _out_of_patience(
    store: ConversationStore, trackers: list[StatusTracker], seconds: float, follower: Follower
) -> _OutOfPatience:
    """One line; all that is known is the page of its cause, which ``--debug`` shows."""
    from ..wait_page import PollerState, wait_timeout

    waiting = [tracker for tracker in trackers if not tracker.is_terminal]
    first = waiting[0]
    stands = "it does not exist"
    if first.exists:
        stands = f"{first.status}, {render.characters(first.content_length)}"
    text = f"{render.clean(first.message_id)} has not ended within {render.span(seconds)}: {stands}"
    if len(waiting) > 1:
        text += f"; nor have {len(waiting) - 1:,} more of {len(trackers):,}"
    error = _OutOfPatience(text, [tracker for tracker in trackers if tracker.is_terminal])
    state = PollerState(follower.polls, follower.cursor, in_trouble=follower.in_trouble)
    error.__cause__ = wait_timeout(store, trackers, seconds, state)
    return error


def _parts(left: list[StatusTracker], count: int, seconds: int) -> Parts:
    if count == 1:
        tracker = left[0]
        how = f"{tracker.status}, {render.characters(tracker.content_length)}"
        return [(f"waiting for {tracker.message_id}: {how}, {seconds:,} s", None)]
    return [(f"waiting for {len(left):,} of {count:,} messages, {seconds:,} s", None)]


def _print(call: Call, messages: list[Message]) -> None:
    for message in messages:
        if call.json:
            shown = json_form.message_json(message)
            call.out.json(json_form.document("message", message=shown))
        elif not call.out.is_quiet:
            error = f": {message.error}" if message.error else ""
            call.out.print(
                f"{render.clean(message.message_id)}  {message.status}, "
                f"{render.characters(len(message.content))}{error}"
            )


def _code(messages: list[Message]) -> int:
    """That of the first that is not complete."""
    return next((code for each in messages if (code := exits.of_status(each.status))), exits.OK)


@command(
    examples="""
    claude-comms cancel 7f3a91c2e5d04b6a
    claude-comms cancel 7f3a --reason 'asked the wrong module'
    """
)
@click.argument(
    "ids",
    metavar="MESSAGE...",
    nargs=-1,
    required=True,
    shell_complete=completing("open_messages"),
)
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever reads it later.")
def cancel(call: Call, ids: tuple[str, ...], reason: str) -> int:
    """Make a message 'cancelled'. Whoever runs Claude for it ends that run then.

    \b
    Exit code: 0 if it is cancelled now, also if it was before. A message that
    has ended otherwise stays what it is, and you are told: 4 if it has timed
    out, else 1.
    """
    from ..stores.values import text
    from .finding import find_message_ids

    try:
        text(reason, "--reason")
    except ValueError as error:
        raise exits.CommandError(exits.USAGE, str(error)) from error
    with call.store() as store:
        codes = [_cancel(call, store, each, reason) for each in find_message_ids(store, ids)]
    return next((code for code in codes if code), exits.OK)


def _cancel(call: Call, store: ConversationStore, message_id: str, reason: str) -> int:
    told = ""
    try:
        if reason:
            message = store.update_message(message_id, status="cancelled", error=reason)
        else:
            message = store.update_message(message_id, status="cancelled")
    except InvalidTransition:
        message = store.get_message(message_id)
        told = " already, and stays so"
    if call.json:
        call.out.json(json_form.document("message", message=json_form.message_json(message)))
    elif told or not call.out.is_quiet:
        call.out.print(f"{render.clean(message_id)}  is {message.status}{told}")
    if message.status == "cancelled":
        return exits.OK
    return exits.TIMEOUT if message.status == "timeout" else exits.FAILED


@command(
    examples="""
    claude-comms pending --overdue && claude-comms expire
    claude-comms expire --json | jq -r '.messages[].message_id'
    """
)
def expire(call: Call) -> None:
    """Make every message whose deadline has come 'timeout', and list those.

    Pollers and 'watch' do so by themselves, and so does any write to such a message. This is for
    messages whose writer is gone while nobody looks.
    """
    with call.store() as store, call.out.working("settling what is overdue"):
        settled = store.expire()
    if call.json:
        listed = [json_form.message_json(each, content=False) for each in settled]
        call.out.json(json_form.document("messages", messages=listed))
        return
    if not settled:
        call.out.note("nothing is overdue")
        return
    rows = [["MESSAGE", "STATUS", "MODULE", "THREAD"]]
    rows += [
        [
            render.clean(each.message_id),
            each.status.value,
            render.clean(each.module_name),
            render.clean(each.thread_id),
        ]
        for each in settled
    ]
    call.out.table(rows, status=1)
