"""Messages and threads by their ids, whole or cut short."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from . import exits
from .exits import CommandError
from .safety import clean

if TYPE_CHECKING:
    from ..records import ConversationThread, Message
    from ..stores.base import ConversationStore

MOST_LISTED = 10
MOST_COMPARED = 200


def find_message(store: ConversationStore, given: str) -> Message:
    """The message with this id, or the only one whose id begins so.

    Raises CommandError: not found, with near ids; or usage, with all that it may mean.
    """
    found = exact_message(store, given)
    if found is not None:
        return found
    return store.get_message(_only(given, {"message": _message_ids(store)})[1])


def find_thread(store: ConversationStore, given: str) -> ConversationThread:
    """The thread with this id, or the only one whose id begins so."""
    found = exact_thread(store, given)
    if found is not None:
        return found
    return store.get_thread(_only(given, {"thread": _thread_ids(store)})[1])


def find(store: ConversationStore, given: str) -> Message | ConversationThread:
    """The message or thread with this id, whole or cut short. A whole id wins, then a message."""
    found = exact_message(store, given) or exact_thread(store, given)
    if found is not None:
        return found
    ids = {"message": _message_ids(store), "thread": _thread_ids(store)}
    kind, id_ = _only(given, ids)
    return store.get_message(id_) if kind == "message" else store.get_thread(id_)


def find_message_ids(store: ConversationStore, given: Sequence[str]) -> list[str]:
    """The whole ids of many messages, in one look at the store; each once."""
    ids: list[str] = []
    wholes: dict[str, None] = {}
    for each in given:
        found = exact_message(store, each)
        if found is None:
            ids = ids or _message_ids(store)
        wholes[found.message_id if found else _only(each, {"message": ids})[1]] = None
    return list(wholes)


def exact_message(store: ConversationStore, given: str) -> Message | None:
    """The message with just this id, or None."""
    from ..errors import MessageNotFound

    try:
        return store.get_message(check_id(given))
    except MessageNotFound:
        return None


def exact_thread(store: ConversationStore, given: str) -> ConversationThread | None:
    """The thread with just this id, or None."""
    from ..errors import ThreadNotFound

    try:
        return store.get_thread(check_id(given))
    except ThreadNotFound:
        return None


def near(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'status'?)``, or nothing."""
    from difflib import get_close_matches

    found = get_close_matches(word, _alike(word, known), n=3, cutoff=0.6)
    if not found:
        return ""
    return f" (did you mean {' or '.join(repr(clean(each)) for each in found)}?)"


def _alike(word: str, known: Iterable[str]) -> list[str]:
    """The few that may be close: a close look at 10,000 long ids would take a second or two."""
    names = list(known)
    if len(names) <= MOST_COMPARED:
        return names
    from heapq import nsmallest

    near_length = [name for name in names if abs(len(name) - len(word)) <= 2]
    return nsmallest(MOST_COMPARED, near_length, key=lambda name: _unlike(word, name))


def _unlike(word: str, name: str) -> int:
    """How many letters of a name the word does not have, in whatever order."""
    rest = list(name)
    for letter in word:
        if letter in rest:
            rest.remove(letter)
    return len(rest)


def check_id(given: str) -> str:
    """What may be an id. Raises CommandError: usage."""
    from ..stores.values import identifier

    try:
        return identifier(given, "id")
    except ValueError as error:
        raise CommandError(exits.USAGE, str(error)) from error


def _message_ids(store: ConversationStore) -> list[str]:
    return [message.message_id for message in store.messages()]


def _thread_ids(store: ConversationStore) -> list[str]:
    return [thread.thread_id for thread in store.threads()]


def _only(given: str, ids: dict[str, list[str]]) -> tuple[str, str]:
    """Kind and id of the only one that begins so. Raises CommandError."""
    found = [(kind, id_) for kind, all_ in ids.items() for id_ in all_ if id_.startswith(given)]
    if len(found) == 1:
        return found[0]
    what = " or ".join(ids)
    if not found:
        hint = near(given, [id_ for all_ in ids.values() for id_ in all_])
        raise CommandError(exits.NOT_FOUND, f"no {what} has the id {clean(given)!r}{hint}")
    lines = [f"  {kind} {clean(id_)}" for kind, id_ in found[:MOST_LISTED]]
    if len(found) > MOST_LISTED:
        lines.append(f"  and {len(found) - MOST_LISTED:,} more")
    listed = "\n".join(lines)
    raise CommandError(
        exits.USAGE, f"{clean(given)!r} is the beginning of {len(found):,} ids:\n{listed}"
    )
