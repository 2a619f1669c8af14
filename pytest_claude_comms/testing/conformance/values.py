"""Contracts of values: what may be stored comes back as it was, what may not is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

from .bench import Bench
from .checks import equal, refused, same_json, true
from .contract import Contracts

GROUP = Contracts("values")
contract = GROUP.contract

_TEXTS = {
    "NUL": "a\0b",
    "every control": "".join(map(chr, range(32))),
    "line ends": "a\r\nb\nc\rd\u0085e\u2028f\u2029g",
    "an escape sequence": "\x1b[31mred\x1b[0m \x1b]52;c;YQ==\x07",
    "direction marks": "\u202eabc\u202c\u200f",
    "emoji": "🦊👩\u200d💻",
    "accents in two forms": "\u00e9 e\u0301",
    "no character": "\uffff\ufffe\U0010ffff",
    "JSON": '{"a": [1, "\\u0041", null]}\n{"b": 2}',
    "SQL": "'; DROP TABLE messages; --",
    "shell": "$(rm -rf ~) `id` \"'",
    "spaces": "  \t a ",
    "much": "x🦊" * 50_000,
    "a byte order mark": "\ufeffa",
}


@contract(1)
def text_comes_back_as_it_was(bench: Bench) -> None:
    """Any text comes back character by character: of a message, a thread, an error, a key."""
    for name, text in _TEXTS.items():
        thread = bench.store.create_thread(text, modules=[text])
        message = bench.store.add_message(
            thread, text, text, message_type=text, status="pending", metadata={text: text}
        )
        message = bench.store.update_message(message, append=text, error=text)
        found = bench.store.get_message(message)
        told = (found.module_name, found.content, found.message_type, found.error)
        equal(told, (text, text + text, text, text), f"{name}: the texts of a message")
        equal(dict(found.metadata), {text: text}, f"{name}: its metadata")
        kept = bench.store.get_thread(thread)
        equal((kept.title, kept.modules), (text, (text,)), f"{name}: title and modules")


@contract(2, "gap_free")
def text_comes_back_in_the_feed(bench: Bench) -> None:
    """Any text comes back character by character in the feed."""
    for name, text in _TEXTS.items():
        message = bench.add(text)
        bench.store.update_message(message, append=text, error=text, metadata={text: text})
        bench.store.update_message(message, content=text)
        first, second, third = bench.store.changes(message=message)
        told = (first.content, second.append, second.error, third.content)
        expected = (text or None, text, text, text)
        equal(told, expected, f"{name}: content, append, error, content of three changes")
        equal(second.metadata, {text: text}, f"{name}: metadata of a change")
        equal(second.content_length, 2 * len(text), f"{name}: content_length")


@contract(3, "durable")
def text_comes_back_from_disk(bench: Bench) -> None:
    """Any text comes back character by character when the store has been opened again."""
    made = [bench.add(text, metadata={text: [text]}, message_type=text) for text in _TEXTS.values()]
    equal(bench.reopen().messages(), made, "the messages")


@contract(4)
def lone_surrogates_are_refused(bench: Bench) -> None:
    """A lone surrogate, which no file can hold, is a ValueError anywhere; nothing is stored."""
    store, bad = bench.store, "a\ud800b"
    message = bench.add("x")
    thread = message.thread_id
    calls: dict[str, Any] = {
        "title": partial(store.create_thread, bad),
        "modules": partial(store.create_thread, modules=[bad]),
        "metadata of a thread": partial(store.create_thread, metadata={"k": bad}),
        "module_name": partial(store.add_message, thread, bad),
        "content": partial(store.add_message, thread, "a", bad),
        "message_type": partial(store.add_message, thread, "a", message_type=bad),
        "metadata": partial(store.add_message, thread, "a", metadata={"k": [bad]}),
        "a key of metadata": partial(store.add_message, thread, "a", metadata={bad: 1}),
        "new content": partial(store.update_message, message, content=bad),
        "append": partial(store.update_message, message, append=bad),
        "error": partial(store.update_message, message, error=bad),
        "new metadata": partial(store.update_message, message, metadata={"k": bad}),
        "an id to look for": partial(store.get_message, bad),
    }
    for name, call in calls.items():
        refused(call, ValueError, f"a lone surrogate in {name}")
    equal((store.messages(), len(store.threads())), ([message], 1), "what is stored")


@contract(5)
def what_is_no_text_is_refused(bench: Bench) -> None:
    """What is no str, where a text has to be, is a TypeError; nothing is stored."""
    store = bench.store
    message = bench.add("x")
    bad: list[Any] = [None, b"bytes", 3, ["x"]]
    for value in bad:
        calls: dict[str, Any] = {
            "title": partial(store.create_thread, value),
            "module_name": partial(store.add_message, message.thread_id, value),
            "content": partial(store.add_message, message.thread_id, "a", value),
            "message_type": partial(store.add_message, message.thread_id, "a", message_type=value),
            "new content": partial(store.update_message, message, content=value),
            "append": partial(store.update_message, message, append=value),
        }
        if value is not None:
            calls["error"] = partial(store.update_message, message, error=value)
        for name, call in calls.items():
            refused(call, TypeError, f"{value!r} as {name}")
    equal((store.messages(), len(store.threads())), ([message], 1), "what is stored")


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"k": value}
    return value


_METADATA: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "one": 1,
    "one point": 1.0,
    "zero": -0.0,
    "tenth": 0.1,
    "large": 2**70,
    "small": -(2**63) - 1,
    "tiny": 5e-324,
    "huge": 1.7976931348623157e308,
    "text": "x",
    "": "an empty key",
    "list": [1, [2, {"a": []}], {}, ""],
    "deep": _nested(98),
}


@contract(6)
def metadata_is_json(bench: Bench) -> None:
    """Metadata comes back as JSON holds it: 1, 1.0 and True differ, ints are exact."""
    thread = bench.store.create_thread(metadata=_METADATA)
    added = bench.store.add_message(thread, "a", metadata=_METADATA)
    updated = bench.store.update_message(bench.add(), metadata=_METADATA)
    for found in (
        *(thread, bench.store.get_thread(thread)),
        *(added, updated, bench.store.get_message(added), bench.store.get_message(updated)),
    ):
        same_json(dict(found.metadata), _METADATA, f"metadata of a {type(found).__name__}")
    tuples = bench.add(metadata={"k": (1, (2,))})
    same_json(dict(bench.store.get_message(tuples).metadata), {"k": [1, [2]]}, "tuples")


@contract(7, "durable")
def metadata_is_json_on_disk(bench: Bench) -> None:
    """Metadata comes back so when the store has been opened again."""
    thread = bench.store.create_thread(metadata=_METADATA)
    message = bench.store.add_message(thread, "a", metadata=_METADATA)
    store = bench.reopen()
    same_json(dict(store.get_thread(thread).metadata), _METADATA, "metadata of the thread")
    same_json(dict(store.get_message(message).metadata), _METADATA, "metadata of the message")


@contract(8)
def one_and_true_are_two_values(bench: Bench) -> None:
    """Values that Python calls equal and JSON does not are a change: 1, True, 1.0."""
    message = bench.add(metadata={"k": 1})
    for value in (True, 1.0, 1):
        after = bench.store.update_message(message, metadata={"k": value})
        same_json(after.metadata["k"], value, "what update_message returns")
        same_json(bench.store.get_message(message).metadata["k"], value, "what is read then")


@contract(9)
def what_is_no_json_is_refused(bench: Bench) -> None:
    """Metadata that JSON has no word for is a TypeError or ValueError naming the path."""
    store = bench.store
    message = bench.add("x")
    types: list[Any] = [b"x", {1}, object(), 1j, {3: 1}, {None: 1}]
    words: list[Any] = [float("nan"), float("inf"), -float("inf"), _nested(100), 10**700]
    for kind, values in ((TypeError, types), (ValueError, words)):
        for value in values:
            metadata = {"way": [0, value]}
            calls: dict[str, Any] = {
                "create_thread": partial(store.create_thread, metadata=metadata),
                "add_message": partial(
                    store.add_message, message.thread_id, "a", metadata=metadata
                ),
                "update_message": partial(
                    store.update_message, message, append="y", metadata=metadata
                ),
            }
            what = f"a {type(value).__name__}"
            for name, call in calls.items():
                error = refused(call, kind, f"{name} with {what} in its metadata")
                true("way" in str(error), "the error", expected="the path, 'way'", found=str(error))
    wholes: list[Any] = [[], "x", 3]
    for whole in wholes:
        call = partial(bench.add, metadata=whole)
        refused(call, TypeError, f"metadata={whole!r}")
    equal((store.messages(), len(store.threads())), ([message], 1), "what is stored")


_IDS = (
    *("../../up", "/etc/passwd", "C:\\x", "CON", "a/b", ".", "..", "~", "%00", "a\0b", " "),
    *(
        "\u2028",
        "🦊",
        "x" * 1_000,
        "'; --",
        "*",
        "{}",
        "\n",
        "None",
        "0",
        "e\u0301",
        "\u00e9",
        "A",
        "a",
    ),
)


@contract(10, "chosen_ids")
def any_text_is_an_id(bench: Bench) -> None:
    """An id is any text of 1 to 1,000 characters; ids that differ in anything are different."""
    for name in _IDS:
        thread = bench.store.create_thread(name, thread_id=name)
        bench.store.add_message(thread, "a", name, message_id=name)
    for name in _IDS:
        equal(bench.store.get_thread(name).title, name, "the title of a thread, by its id")
        found = bench.store.get_message(name)
        equal((found.message_id, found.content), (name, name), "a message, by its id")
        equal(bench.store.messages(name), [found], "the messages of a thread, by its id")
    equal([each.thread_id for each in bench.store.threads()], list(_IDS), "all threads")


@contract(11, "chosen_ids", "files")
def an_id_is_no_file_name(bench: Bench) -> None:
    """No id becomes the name of a file: which files there are does not depend on ids."""
    plain = bench.open("plain")
    hostile = bench.open("hostile")
    for number, name in enumerate(_IDS):
        plain.add_message(plain.create_thread(), "a")
        hostile.create_thread(thread_id=name)
        hostile.add_message(name, "a", message_id=f"{name[:900]}/../{number}")
    plain.close()
    hostile.close()
    found = [
        sorted(str(path.relative_to(bench.place(name))) for path in bench.place(name).rglob("*"))
        for name in ("plain", "hostile")
    ]
    equal(found[1], found[0], "the files of a store with hostile ids")
    equal(sorted(path.name for path in bench.folder.iterdir()), ["hostile", "plain"], "beside them")


@contract(12)
def what_is_no_id_is_refused(bench: Bench) -> None:
    """What is no id is a ValueError or TypeError, never a KeyError, wherever one is taken."""
    store = bench.store
    message = bench.add()
    words: list[Any] = ["", "x" * 1_001, {}, {"text": "x"}, {"message_id": ""}, {"thread_id": ""}]
    others: list[Any] = [3, b"x", ["x"], object(), {"message_id": 3, "thread_id": 3}]
    for kind, values in ((ValueError, words), (TypeError, others)):
        for value in values:
            calls: dict[str, Any] = {
                "get_message": partial(store.get_message, value),
                "update_message": partial(store.update_message, value, append="x"),
                "get_thread": partial(store.get_thread, value),
                "add_message": partial(store.add_message, value, "a"),
                "messages": partial(store.messages, value),
            }
            for name, call in calls.items():
                refused(call, kind, f"{name}({value!r:.60})")
    if "chosen_ids" in bench.claimed:
        for bad, kind in (("", ValueError), ("x" * 1_001, ValueError), (3, TypeError)):
            new: Any = bad
            refused(partial(bench.add, message_id=new), kind, f"message_id={new!r:.60}")
            refused(partial(store.create_thread, thread_id=new), kind, f"thread_id={new!r:.60}")
    equal(store.messages(), [message], "the messages")
