"""``python -m pytest_claude_comms.testing.conformance.child``: what other processes do to a store.

Arguments: the store as ``--claude-comms-stores`` names it, its folder, its durability, a job and
its arguments. What it answers, it prints, a line each, when the call has returned.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from ...errors import InvalidTransition
from ...stores.base import ConversationStore
from ..matrix import store_choices


def _say(*words: object) -> None:
    sys.stdout.write(" ".join(str(word) for word in words) + "\n")
    sys.stdout.flush()


def _ready() -> None:
    _say("ready")
    sys.stdin.readline()


def _append_for_ever(store: ConversationStore, message_id: str) -> None:
    number = store.get_message(message_id).content.count(";")
    while True:
        store.update_message(message_id, append=f"{number};", metadata={"n": number})
        _say(number)
        number += 1


def _append(store: ConversationStore, message_id: str, name: str, times: str) -> None:
    _ready()
    for number in range(int(times)):
        store.update_message(message_id, append=f"{name}{number};")
    _say("done")


def _end(store: ConversationStore, status: str, *message_ids: str) -> None:
    _ready()
    for message_id in message_ids:
        try:
            store.update_message(message_id, status=status)
        except InvalidTransition as refusal:
            _say("refused", refusal.status)
        else:
            _say("won", status)


def _everything(store: ConversationStore) -> None:
    thread = store.create_thread("killed", modules=["a"], metadata={"k": [1]})
    message = store.add_message(thread, "a", "one", status="pending", metadata={"a": 1})
    store.update_message(message, status="processing", append=" two", metadata={"b": 2})
    store.update_message(message, status="failed", error="why", append="!")
    _say(thread.thread_id)
    _say(message.message_id)
    sys.stdin.readline()  # until it is killed


def _read(store: ConversationStore, message_id: str) -> None:
    _ready()
    message = store.get_message(message_id)
    _say(message.status, message.content)
    store.update_message(message_id, append=" and back")
    _say("done")


def _identify(store: ConversationStore) -> None:
    _say(store.store_id)


def _fork(store: ConversationStore) -> None:
    store.cursor()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            store.cursor()
        except BaseException as error:  # noqa: BLE001 - it is the answer
            _say(type(error).__name__, " ".join(str(error).split()))
        else:
            _say("answered", "as if nothing had happened")
        os._exit(0)
    os.waitpid(child, 0)


_JOBS: dict[str, Callable[..., None]] = {
    "append": _append,
    "append for ever": _append_for_ever,
    "end": _end,
    "everything": _everything,
    "fork": _fork,
    "identify": _identify,
    "read": _read,
}


def main(arguments: list[str]) -> None:
    """Open the store and do the job."""
    spec, folder, durability, job, *rest = arguments
    (choice,) = store_choices(spec)
    store = choice.open(Path(folder), clock=None, durability=durability)
    _JOBS[job](store, *rest)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1:])
