"""``claude-comms status``: how things stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .. import render
from ..records import ConversationThread, Message
from . import facts, json_form
from .call import Call
from .declaring import command, completing
from .durations import Count

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from .output import Output

_LATEST = 5


@command(
    examples="""
    claude-comms status                    the whole store
    claude-comms status 7f3a               one message: all its facts, its history
    claude-comms status 90c1               one thread: its messages
    claude-comms status --json | jq .counts
    """
)
@click.argument(
    "id_", metavar="[MESSAGE|THREAD]", required=False, shell_complete=completing("both")
)
@click.option(
    "--latest",
    type=Count(min=0),
    default=_LATEST,
    show_default=True,
    metavar="N",
    help="Without an id: how many of the last changed messages to list.",
)
def status(call: Call, id_: str | None, latest: int) -> None:
    """How a store, a message or a thread stands.

    Without an id: how many messages there are of each status, how many of them are overdue, and
    the latest. Of a message: everything that is known. Of a thread: its messages.

    Looking changes nothing: a message whose deadline has passed is shown as it stands in the
    store, and said to be overdue. The exit code is 0 whatever the status; 'claude-comms wait ID
    --timeout 0' has one for each.
    """
    with call.reading() as store:
        if id_ is None:
            _of_store(call, store, latest)
            return
        from .finding import find

        found = find(store, id_)
        if isinstance(found, Message):
            _of_message(call, store, found)
        else:
            _of_thread(call, store, found)


def _of_store(call: Call, store: ConversationStore, latest: int) -> None:
    out = call.out
    with out.working("reading the store"):
        messages = store.messages()
        threads = len(store.threads())
    now = store.clock.now()
    overdue = sum(facts.is_overdue(message, now) for message in messages)
    last = sorted(messages, key=lambda message: message.revision, reverse=True)[:latest]
    if out.is_json:
        out.json(
            json_form.document(
                "status",
                store=facts.store_json(store),
                threads=threads,
                messages=len(messages),
                counts=facts.counts_json(facts.counts(messages)),
                overdue=overdue,
                latest=[json_form.message_json(message, content=False) for message in last],
            )
        )
        return
    found = facts.counts(messages)
    changes = f"{store.cursor():,}"
    out.print(f"store     {render.clean(store.url)} (revision {changes})")
    out.print(f"threads   {threads:,}")
    parts = [f"{n:,} {out.status(each.value)}" for each, n in found.items() if n]
    out.painted(f"messages  {len(messages):,}{': ' if parts else ''}{', '.join(parts)}")
    if overdue:
        out.print(f"overdue   {overdue:,}: see 'claude-comms pending --overdue'")
    if last:
        out.print()
        out.table(facts.in_table(last, now), status=1, right=(2, 3))


def _of_thread(call: Call, store: ConversationStore, thread: ConversationThread) -> None:
    out = call.out
    messages = store.messages(thread.thread_id)
    found = facts.counts(messages)
    if out.is_json:
        listed = [json_form.message_json(message, content=False) for message in messages]
        out.json(
            json_form.document(
                "thread",
                thread=json_form.thread_json(thread),
                counts=facts.counts_json(found),
                messages=listed,
            )
        )
        return
    now = store.clock.now()
    fields = [
        ("title", [render.clean(thread.title)] if thread.title else []),
        ("modules", [", ".join(render.clean(name) for name in thread.modules)]),
        ("created", [facts.moment(thread.created_at, now)]),
        ("metadata", _metadata(thread.metadata)),
        ("messages", [facts.counted(found)]),
    ]
    fields = [(name, lines) for name, lines in fields if any(lines)]
    _print_page(out, f"thread {render.clean(thread.thread_id)}", fields)
    if messages:
        out.print()
        out.table(facts.in_table(messages, now), status=1, right=(2, 3))


def _of_message(call: Call, store: ConversationStore, message: Message) -> None:
    from .history import TRIMMED, of_message

    out = call.out
    known = of_message(store, message)
    if out.is_json:
        out.json(
            json_form.document(
                "message",
                message=json_form.message_json(message),
                thread=json_form.thread_json(known.thread),
                changes=[json_form.change_json(change) for change in known.changes],
            )
        )
        return
    now = store.clock.now()
    title = known.thread.title
    quoted = f' "{render.clean(title)}"' if title else ""
    since = next((c.at for c in known.changes if c.status is message.status), message.updated_at)
    length = render.age((now - since).total_seconds())
    stands = f"{message.status} for {length}" if not message.status.is_terminal else ""
    fields = [
        ("thread", [f"{render.clean(message.thread_id)}{quoted}"]),
        ("module", [render.clean(message.module_name)]),
        ("type", [render.clean(message.message_type)]),
        ("status", [stands or f"{message.status}, {facts.moment(since, now)}"]),
        ("error", [render.clean(message.error)] if message.error else []),
        ("created", [facts.moment(message.created_at, now)]),
        ("changed", [facts.moment(message.updated_at, now)]),
        (
            "deadline",
            [facts.moment(message.deadline_at, now) if message.deadline_at else "none"],
        ),
        ("content", [render.characters(len(message.content))]),
        ("metadata", _metadata(message.metadata)),
        (
            "history",
            [*render.history(known.changes, known.start), *([TRIMMED] if known.trimmed else [])],
        ),
    ]
    if not message.status.is_terminal:
        from .standing import standing

        fields.append(("hint", [standing(message, now).hint]))
    fields = [(name, lines) for name, lines in fields if any(lines)]
    _print_page(out, f"message {render.clean(message.message_id)}", fields)


def _print_page(out: Output, title: str, fields: list[tuple[str, list[str]]]) -> None:
    out.painted(out.paint(title, bold=True))
    out.print(render.page("", fields).removeprefix("\n"))


def _metadata(metadata: object) -> list[str]:
    from json import dumps

    assert isinstance(metadata, dict)
    return [
        f"{render.clean(key)}: {render.clean(render.shorten(dumps(value, ensure_ascii=False)))}"
        for key, value in metadata.items()
    ]
