"""``claude-comms show``: a thread, to be read."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from .. import render
from ..records import ConversationThread, Message
from . import exits, facts, json_form
from .call import Call
from .declaring import command, completing
from .exits import CommandError
from .finding import find
from .standing import OVERDUE, standing

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from .output import Output

_LONGEST_RENDERED = 200_000
"""Characters up to which a text is rendered: markdown takes about a second for each million."""


@command(
    examples="""
    claude-comms show 90c1                 a thread
    claude-comms show 7f3a                 one message of it
    claude-comms show 90c1 --plain | less
    claude-comms show 7f3a --raw > answer.md
    """
)
@click.argument("id_", metavar="THREAD|MESSAGE", shell_complete=completing("both"))
@click.option("--plain", is_flag=True, help="The texts as they were written, not rendered.")
@click.option(
    "--raw",
    is_flag=True,
    help="Nothing but the texts, byte by byte: whatever is in them goes to your terminal.",
)
def show(call: Call, id_: str, plain: bool, raw: bool) -> None:
    """A thread with the texts of its messages, or one message.

    On a terminal markdown is rendered; in a pipe, and with --plain, it is printed as it was
    written. Control characters, and whatever else could command a terminal or reorder a line,
    are shown as escapes (\\x1b) everywhere but with --raw.
    """
    out = call.out
    if raw and out.is_json:
        raise CommandError(exits.USAGE, "--raw and --json exclude each other")
    with call.reading() as store:
        thread, messages = _found(store, id_)
        now = store.clock.now()
    if out.is_json:
        out.json(
            json_form.document(
                "thread",
                thread=json_form.thread_json(thread),
                counts=facts.counts_json(facts.counts(messages)),
                messages=[json_form.message_json(message) for message in messages],
            )
        )
    elif raw:
        _print_raw(out, messages)
    else:
        _print(out, thread, messages, now, rendered=out.is_terminal and not plain)


def _found(store: ConversationStore, given: str) -> tuple[ConversationThread, list[Message]]:
    found = find(store, given)
    if isinstance(found, Message):
        return store.get_thread(found.thread_id), [found]
    return found, store.messages(found.thread_id)


def _print_raw(out: Output, messages: list[Message]) -> None:
    for place, message in enumerate(messages):
        if place:
            out.raw("\n")
        out.raw(message.content if message.content.endswith("\n") else f"{message.content}\n")


def _print(
    out: Output,
    thread: ConversationThread,
    messages: list[Message],
    now: datetime,
    *,
    rendered: bool,
) -> None:
    title = f'"{render.clean(thread.title)}"' if thread.title else "without a title"
    out.painted(out.paint(f"thread {render.clean(thread.thread_id)} {title}", bold=True))
    for message in messages:
        _print_message(out, message, now, rendered=rendered)


def _print_message(out: Output, message: Message, now: datetime, *, rendered: bool) -> None:
    head = out.paint(render.clean(message.module_name), bold=True)
    about = [
        render.clean(message.message_type),
        render.instant(message.created_at),
        render.clean(message.message_id),
    ]
    out.painted(f"\n{head}  {out.status(message.status.value)}  {'  '.join(about)}\n")
    text = message.content
    if rendered and len(text) <= _LONGEST_RENDERED:
        from .markdown import print_markdown

        print_markdown(out, text)
    elif text:
        out.print(text.removesuffix("\n"))
    if message.error:
        out.painted(out.paint(f"{message.status}: {message.error}", "red"))
    if not message.status.is_terminal:
        quiet = render.age((now - message.updated_at).total_seconds())
        length = render.characters(len(text))
        out.painted(out.paint(f"… {length} so far, no change for {quiet}", "bright_black"))
        stands = standing(message, now)
        if stands.overdue:
            out.painted(out.paint(OVERDUE, "yellow"))
        elif stands.left is None:
            out.painted(out.paint("no deadline", "bright_black"))
