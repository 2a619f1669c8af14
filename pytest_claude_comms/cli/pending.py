"""``claude-comms pending``: what has not ended."""

from __future__ import annotations

import click

from .. import render
from . import facts, json_form
from .call import Call
from .declaring import command
from .durations import Seconds
from .standing import HINTS, Standing, standing


@command(
    examples="""
    claude-comms pending
    claude-comms pending --overdue         those that 'claude-comms expire' would settle
    claude-comms pending --stalled-after 5m
    claude-comms pending --json | jq -r '.messages[] | select(.stalled).message.message_id'
    """
)
@click.option("--overdue", is_flag=True, help="Only those whose deadline has passed.")
@click.option(
    "--stalled-after",
    type=Seconds(),
    default="1m",
    show_default=True,
    help="Without a change for so long a message is called stalled.",
)
def pending(call: Call, overdue: bool, stalled_after: float) -> None:
    """Messages that are pending or processing, the oldest first.

    \b
    AGE    since its creation
    QUIET  since its last change
    LEFT   until its deadline: the message's own timeout or stall timeout,
           whichever comes first
    NOTE   overdue: the deadline has passed and nobody has noticed
           stalled: no change for long (--stalled-after)
           no deadline: nothing will end it but its writer, or you

    Looking changes nothing. A message whose writer was killed stays as it stood until its
    deadline; then any poller, any write to it or 'claude-comms expire' makes it timeout. One
    without a deadline stays until 'claude-comms cancel' ends it.
    """
    out = call.out
    with call.reading() as store:
        with out.working("reading the store"):
            messages = store.messages(status=facts.OPEN)
        now = store.clock.now()
    found = [standing(message, now, stalled_after) for message in messages]
    if overdue:
        found = [each for each in found if each.overdue]
    if out.is_json:
        listed = [_json(each) for each in found]
        out.json(json_form.document("pending", now=json_form.instant(now), messages=listed))
        return
    if not found:
        out.note("nothing is overdue" if overdue else "nothing is pending")
        return
    rows = [["MESSAGE", "STATUS", "AGE", "QUIET", "LEFT", "NOTE", "MODULE", "THREAD"]]
    rows += [
        [
            render.clean(each.message.message_id),
            each.message.status.value,
            render.age(each.age),
            render.age(each.quiet),
            "-" if each.left is None else render.age(each.left),
            each.note,
            render.clean(each.message.module_name),
            render.clean(each.message.thread_id),
        ]
        for each in found
    ]
    out.table(rows, status=1, right=(2, 3, 4))
    for note, hint in HINTS.items():
        if any(each.note == note for each in found):
            out.note(f"{note}: {hint}")


def _json(each: Standing) -> json_form.Json:
    return {
        "message": json_form.message_json(each.message, content=False),
        "age_s": each.age,
        "quiet_s": each.quiet,
        "left_s": each.left,
        "overdue": each.overdue,
        "stalled": each.stalled,
        "hint": each.hint,
    }
