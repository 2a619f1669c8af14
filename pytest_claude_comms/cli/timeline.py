"""``claude-comms timeline``: what happened when."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from .. import render
from ..records import ConversationThread
from . import exits, history, json_form
from .call import Call
from .declaring import command
from .exits import CommandError
from .finding import find
from .timeline_text import bars, steps

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from .history import ThreadHistory


@command(
    examples="""
    claude-comms timeline 90c1             a thread
    claude-comms timeline 7f3a --all       one message, each of its changes
    claude-comms timeline 90c1 --html thread.html
    claude-comms timeline 90c1 --html - | ssh me@desk 'cat > thread.html'
    """
)
@click.argument("id_", metavar="THREAD|MESSAGE")
@click.option("--all", "every", is_flag=True, help="Each change; else pieces of a text are summed.")
@click.option(
    "--html",
    "page",
    metavar="FILE",
    help="Write a picture of it: one file that needs nothing else. '-' is standard output.",
)
def timeline(call: Call, id_: str, every: bool, page: str | None) -> None:
    """What happened when: to a thread, or to one message.

    First a line for each message, from its creation to its end. Then what changed, one change a
    line, times since the first one; pieces of a text that follow each other are one line.

    \b
    .  pending       C  complete    T  timeout
    =  processing    F  failed      X  cancelled
    """
    out = call.out
    if page is not None and out.is_json:
        raise CommandError(exits.USAGE, "--html and --json exclude each other")
    with call.store() as store:
        with out.working("reading the history"):
            found = _history(store, id_)
        now = store.clock.now()
    if out.is_json:
        out.json(
            json_form.document(
                "timeline",
                thread=json_form.thread_json(found.thread),
                messages=[json_form.message_json(m, content=False) for m in found.messages],
                changes=[json_form.change_json(change) for change in found.changes],
            )
        )
    elif page is not None:
        _write_page(call, found, page)
    else:
        title = f' "{render.clean(found.thread.title)}"' if found.thread.title else ""
        head = f"thread {render.clean(found.thread.thread_id)}{title}"
        out.painted(out.paint(head, bold=True))
        if not found.messages:
            out.note("it has no messages")
            return
        out.print()
        out.table(bars(found, now, out.columns), status=1)
        out.print()
        out.table(steps(found, every=every), right=(0, 1))


def _history(store: ConversationStore, given: str) -> ThreadHistory:
    found = find(store, given)
    if isinstance(found, ConversationThread):
        return history.of_thread(store, found)
    return history.of_message(store, found)


def _write_page(call: Call, found: ThreadHistory, path: str) -> None:
    from .timeline_html import page

    text = page(found.thread.title or found.thread.thread_id, [found])
    if path == "-":
        call.out.raw(text)
        return
    try:
        # What is in a store is its owner's business, and so is this. Written whole or not at
        # all is no concern: it is made again by the same command.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CommandError(exits.FAILED, exits.words(error)) from error
    call.out.note(f"written to {path}")
