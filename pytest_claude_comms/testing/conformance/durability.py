"""Contracts of durability: returned means kept, whatever is closed, killed or damaged."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from ...errors import HistoryGone, StoreCorrupt
from ...records import Message
from ...stores.base import ConversationStore
from .bench import Bench
from .checks import equal, refused, same_json, true
from .contract import Contracts

GROUP = Contracts("durability")
contract = GROUP.contract


@contract(1, "durable")
def all_is_there_again(bench: Bench) -> None:
    """Threads, messages and store_id are there when the store has been closed and opened again."""
    store = bench.store
    thread = store.create_thread("t", modules=["a", "b"], metadata={"k": [1]})
    going = store.add_message(thread, "a", "text", status="processing", message_type="answer")
    bench.clock.advance(1.5)
    ended = store.add_message(thread, "b", status="pending", metadata={"a": 1})
    store.update_message(ended, status="failed", append="x", error="why", metadata={"b": [2]})
    store.update_message(going, append="!", error="e")
    before = (store.store_id, store.url, store.threads(), store.messages())
    after = bench.reopen()
    found = (after.store_id, after.url, after.threads(), after.messages())
    for what, one, other in zip(
        ("store_id", "url", "threads", "messages"), found, before, strict=True
    ):
        equal(one, other, f"{what}, opened again")
    ends = [message.message_id for message in after.messages(thread, "failed")]
    equal(ends, [ended.message_id], "messages that failed, opened again")


@contract(2, "durable")
def what_returned_is_kept(bench: Bench) -> None:
    """What a call has returned from is there, all of it, when its process is killed."""
    child = bench.child("everything")
    thread_id, message_id = child.line(), child.line()
    child.kill()
    store = bench.open_real()
    thread = store.get_thread(thread_id)
    equal((thread.title, thread.modules), ("killed", ("a",)), "the thread")
    same_json(dict(thread.metadata), {"k": [1]}, "metadata of the thread")
    message = store.get_message(message_id)
    told = (message.status, message.content, message.error, dict(message.metadata))
    equal(told, ("failed", "one two!", "why", {"a": 1, "b": 2}), "the message")


@contract(3, "durable")
def a_kill_at_any_moment_loses_nothing(bench: Bench) -> None:
    """A writer killed at any moment leaves a store that opens and has all that had returned."""
    store = bench.open_real()
    name = store.add_message(bench.thread(store), "a", status="processing").message_id
    store.close()
    for lines, seconds in ((1, 0.0), (9, 0.005)):
        child = bench.child("append for ever", name)
        said = [child.line() for _ in range(lines)] + child.kill(after=seconds)
        last = int(said[-1])
        store = bench.open_real()
        message = store.get_message(name)
        numbers = [int(part) for part in message.content.split(";")[:-1]]
        equal(numbers, list(range(len(numbers))), "what was appended")
        found = len(numbers) - 1
        true(found in (last, last + 1), "the last", expected=f"{last} or one more", found=found)
        same_json(dict(message.metadata), {"n": found}, "metadata: all of a change or nothing")
        if "gap_free" in bench.claimed:
            text = "".join(change.append or "" for change in store.changes(message=name))
            equal(text, message.content, "what the changes add up to")
        store.close()


@contract(4, "durable", "multi_process")
def a_killed_writer_holds_nothing(bench: Bench) -> None:
    """Who has the store open goes on, reading and writing, when another process is killed."""
    store = bench.open_real()
    message = store.add_message(bench.thread(store), "a", status="processing")
    child = bench.child("append for ever", message.message_id)
    child.line()
    child.kill(after=0.01)
    text = store.get_message(message).content
    after = store.update_message(message, append="!")
    equal(after.content, f"{text}!", "the text after the next append")


@contract(5, "durable", "files")
def a_kill_leaves_no_files(bench: Bench) -> None:
    """Files that a killed process left are gone when the store has been opened and closed."""
    store = bench.open_real("calm")
    store.add_message(bench.thread(store), "a")
    store.close()
    bench.open_real("calm").close()
    store = bench.open_real("killed")
    name = store.add_message(bench.thread(store), "a", status="processing").message_id
    store.close()
    child = bench.child("append for ever", name, place="killed")
    child.line()
    child.kill()
    bench.open_real("killed").close()
    calm, killed = (_names(bench.place(name)) for name in ("calm", "killed"))
    equal(killed, calm, "the files of the store whose writer was killed")


def _names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@contract(6, "durable", "files", posix=True)
def a_deleted_store_is_no_silence(bench: Bench) -> None:
    """Who has a store open that is deleted gets HistoryGone, reading the feed and writing."""
    message = bench.add()
    cursor = bench.store.cursor()
    _empty(bench.place())
    _expect_gone(bench.store, cursor, message.message_id)
    equal(_names(bench.place()), [], "files that it made anew")


@contract(7, "durable", "files", posix=True)
def a_replaced_store_is_no_silence(bench: Bench) -> None:
    """Who has a store open in whose place another is put gets HistoryGone, not its history."""
    message = bench.add()
    cursor = bench.store.cursor()
    other = bench.open("other")
    thread = other.create_thread("other")
    for _ in range(cursor + 3):
        other.add_message(thread, "a")
    other.close()
    _empty(bench.place())
    shutil.copytree(bench.place("other"), bench.place(), dirs_exist_ok=True)
    _expect_gone(bench.store, cursor, message.message_id)


def _expect_gone(store: ConversationStore, cursor: int, message_id: str) -> None:
    refused(partial(store.changes, cursor), HistoryGone, "changes after the last cursor")
    refused(partial(store.changes, 0), HistoryGone, "changes after 0")
    refused(partial(store.update_message, message_id, append="x"), HistoryGone, "a write")


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _filled(bench: Bench) -> tuple[str, list[Message], Path]:
    """A store that was closed: its id, its messages and its largest file."""
    thread = bench.thread()
    for number in range(5):
        bench.store.add_message(thread, "a", f"{number}" * 100)
    store_id, messages = bench.store.store_id, bench.store.messages()
    bench.store.close()
    files = [path for path in bench.place().rglob("*") if path.is_file()]
    return store_id, messages, max(files, key=lambda path: path.stat().st_size)


@contract(8, "durable", "files")
def a_file_of_something_else_is_refused(bench: Bench) -> None:
    """A file that is something else raises StoreCorrupt, and is left as it was found."""
    _, _, largest = _filled(bench)
    strange = b"this is something else\n" * 40
    largest.write_bytes(strange)
    refused(bench.open, StoreCorrupt, f"opening a store whose {largest.name} is something else")
    equal(largest.read_bytes() == strange, True, f"{largest.name} was left as it was")


@contract(9, "durable", "files")
def a_file_that_was_cut_off_is_no_mess(bench: Bench) -> None:
    """A file that was cut off raises StoreCorrupt, or opens as it was before some change."""
    store_id, messages, largest = _filled(bench)
    data = largest.read_bytes()
    cut = data[: len(data) // 2 + 7]
    largest.write_bytes(cut)
    try:
        store = bench.open()
    except StoreCorrupt:
        equal(largest.read_bytes() == cut, True, f"{largest.name} was left as it was")
        return
    found = store.messages()
    equal(store.store_id, store_id, f"store_id, of a store whose {largest.name} was cut off")
    equal(found, messages[: len(found)], "its messages, as far as they are there")
