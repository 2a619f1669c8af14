"""``claude-comms timeline``: what happened when."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from .. import render
from ..records import ConversationThread
from . import exits, history, json_form
from .call import Call
from .declaring import command, completing
from .exits import CommandError
from .finding import find
from .standing import OVERDUE, standing
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
@click.argument("id_", metavar="THREAD|MESSAGE", shell_complete=completing("both"))
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
    with call.reading() as store:
        with out.working("reading the history"):
            found = _history(store, id_)
        now, url = store.clock.now(), store.url
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
        _write_page(call, found, page, url)
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
        if trimmed := found.trimmed:
            more = f" and {len(trimmed) - 1:,} more" if len(trimmed) > 1 else ""
            out.note(f"{render.clean(trimmed[0].message_id)}{more}: {history.TRIMMED}")
        for message in found.messages:
            if message.status.is_terminal:
                continue
            stands = standing(message, now)
            name = render.clean(message.message_id)
            if stands.overdue:
                out.note(f"{name}: {OVERDUE}")
            elif stands.left is None:
                out.note(f"{name}: no deadline")


def _history(store: ConversationStore, given: str) -> ThreadHistory:
    found = find(store, given)
    if isinstance(found, ConversationThread):
        return history.of_thread(store, found)
    return history.of_message(store, found)


def _write_page(call: Call, found: ThreadHistory, path: str, url: str) -> None:
    from .timeline_html import page

    folder = os.path.dirname(os.path.realpath(path))
    if path != "-" and not os.path.exists(path) and not os.path.isdir(folder):
        raise CommandError(exits.USAGE, f"there is no folder {folder}: make it first")
    text = page(found.thread.title or found.thread.thread_id, [found])
    if path == "-":
        call.out.raw(text)
        return
    _refuse_own(url, path)
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # /dev/stdout, a FIFO
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        else:
            _write_whole(os.path.realpath(path), text)
    except OSError as error:
        # Not the error's own words: the file that it names is one that nobody asked for.
        why = error.strerror or str(error)
        raise CommandError(
            exits.FAILED,
            f"{path} cannot be written: {why}; name another place, or '-' for standard output",
        ) from error
    call.out.note(f"written to {path}")


def _write_whole(path: str, text: str) -> None:
    """At once, and for its owner only: what is in a store is private, and so is this."""
    from contextlib import suppress
    from tempfile import mkstemp

    descriptor, temporary = mkstemp(dir=os.path.dirname(path), prefix=".timeline-")  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _refuse_own(url: str, path: str) -> None:
    """A page in place of the store that it shows would be the end of that store."""
    from .choosing import path_of
    from .health_checks import BESIDE

    own = path_of(url)
    if own is None:
        return
    names = [f"{base}{ending}" for base in {own, os.path.realpath(own)} for ending in BESIDE]
    for name in names:
        same = os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name)
        if same or os.path.realpath(path) == os.path.realpath(name):
            raise CommandError(
                exits.USAGE, f"{path} is a file of the store {url}: give another name"
            )
