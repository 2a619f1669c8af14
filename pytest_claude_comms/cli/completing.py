"""What a shell is offered for an id: those of the chosen store, quickly, and never an error."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from ..stores.base import ConversationStore

_MOST_BYTES = 32 << 20
"""Of a store that is read while somebody waits for a Tab."""
_MOST_OFFERED = 200
_PLAIN = re.compile(r"[\w.@%+-]+", re.ASCII)
"""Ids that no shell takes for anything else; others have to be typed."""

Complete: TypeAlias = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _completer(found: Callable[[ConversationStore], Iterable[tuple[str, str]]]) -> Complete:
    def complete(
        ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        named = _words(ctx.params.get(str(param.name)))
        try:
            with _chosen(ctx) as store:
                pairs = [
                    (id_, text)
                    for id_, text in found(store)
                    if id_.startswith(incomplete) and _PLAIN.fullmatch(id_) and id_ not in named
                ]
        except Exception:  # noqa: BLE001 - there is no place for it but the line that is typed
            return []
        return [CompletionItem(id_, help=text) for id_, text in pairs[-_MOST_OFFERED:]]

    return complete


def _words(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else ()


def _chosen(ctx: click.Context) -> Any:
    from .call import Call
    from .choosing import path_of

    call = ctx.find_object(Call) or Call()
    path = path_of(call.store_url())
    if path is None or os.stat(path).st_size > _MOST_BYTES:
        raise ValueError(path)
    return call.reading()


def _messages(store: ConversationStore, *, all_: bool = True) -> Iterable[tuple[str, str]]:
    from .facts import OPEN

    for message in store.messages(status=None if all_ else OPEN):
        yield message.message_id, f"{message.status}, {_one_line(message.module_name)}"


def _threads(store: ConversationStore) -> Iterable[tuple[str, str]]:
    for thread in store.threads():
        yield thread.thread_id, f"thread, {_one_line(thread.title)}"


def _both(store: ConversationStore) -> Iterable[tuple[str, str]]:
    yield from _threads(store)
    yield from _messages(store)


def _one_line(text: str) -> str:
    from ..render import clean, shorten

    return clean(shorten(text))


messages = _completer(_messages)
"""For an argument that takes any message."""
open_messages = _completer(lambda store: _messages(store, all_=False))
"""For one that only makes sense for messages that have not ended."""
threads = _completer(_threads)
both = _completer(_both)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell itself offers files."""
    return [CompletionItem(incomplete, type="file")]
