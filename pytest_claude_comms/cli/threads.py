"""``claude-comms threads``: all there are."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .. import render
from . import facts, json_form
from .call import Call
from .declaring import command

if TYPE_CHECKING:
    from ..records import Message


@command(
    examples="""
    claude-comms threads
    claude-comms threads | tail -1
    claude-comms threads --json | jq -r '.threads[] | select(.counts.failed > 0).thread.title'
    """
)
def threads(call: Call) -> None:
    """All threads in the order of their creation, with how their messages stand."""
    out = call.out
    with call.reading() as store:
        with out.working("reading the store"):
            found = store.threads()
            messages: dict[str, list[Message]] = defaultdict(list)
            for message in store.messages():
                messages[message.thread_id].append(message)
        now = store.clock.now()
    if out.is_json:
        listed = [
            {
                "thread": json_form.thread_json(thread),
                "counts": facts.counts_json(facts.counts(messages[thread.thread_id])),
                "updated_at": json_form.instant(
                    max((m.updated_at for m in messages[thread.thread_id]), default=None)
                ),
            }
            for thread in found
        ]
        out.json(json_form.document("threads", threads=listed))
        return
    if not found:
        out.note("there are no threads")
        return
    rows = [["THREAD", "CHANGED", "MESSAGES", "MODULES", "TITLE"]]
    for thread in found:
        its = messages[thread.thread_id]
        last = max((message.updated_at for message in its), default=thread.created_at)
        rows.append(
            [
                render.clean(thread.thread_id),
                render.ago((now - last).total_seconds()),
                facts.counted(facts.counts(its)),
                ", ".join(render.clean(name) for name in thread.modules),
                render.clean(thread.title),
            ]
        )
    out.table(rows, right=(1,))
