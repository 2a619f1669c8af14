"""How a store lies in its JSON file and its journal, which files of years ago depend on."""

from __future__ import annotations

import json
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pytest_claude_comms.stores.core import BaseStore
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.tinydb import TinyDBConversationStore
from pytest_claude_comms.testing import FakeClock
from tests.stores.tinydb_kit import contents

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
STORE_ID = "afd7d318b880fd5d7b8b85d03ffbd8c9"

# Both were written by the first version that had them. Whoever lays out one otherwise gives the
# format another number: stores of both kinds will meet the code of both.
JOURNAL = """\
5e7f812e 00000000 {"format":1,"store_id":"afd7d318b880fd5d7b8b85d03ffbd8c9","base":0}
148a3ced 00000000 {"seq":1,"ops":[{"thread":{"thread_id":"t","title":"first","modules":["a","b"],\
"metadata":"{\\"k\\":1}","created_us":1767225600000000}}]}
9f507f02 148a3ced {"seq":2,"ops":[{"message":{"message_id":"m","thread_id":"t","module_name":"a",\
"content":"one","message_type":"message","status":"pending","created_us":1767225600000000,\
"updated_us":1767225600000000,"expires_us":1767225610000000,"stall_us":4000000,\
"metadata":"{\\"n\\":[1,null]}","revision":1}}]}
0490c4f5 9f507f02 {"seq":3,"ops":[{"change":{"revision":2,"message_id":"m","thread_id":"t",\
"at_us":1767225601500000,"previous":"pending","status":"processing","append":" two",\
"content_length":7}}]}
d40f1cf2 0490c4f5 {"seq":4,"ops":[{"change":{"revision":3,"message_id":"m","thread_id":"t",\
"at_us":1767225601500000,"previous":"processing","status":"processing","content":"anew",\
"content_length":4,"error":"odd","metadata":"{\\"n\\":2}"}}]}
99c07b87 d40f1cf2 {"seq":5,"ops":[{"message":{"message_id":"n","thread_id":"t","module_name":"b",\
"content":"","message_type":"note","status":"complete","created_us":1767225601500000,\
"updated_us":1767225601500000,"metadata":"{}","revision":4}}]}
27f2e6f7 99c07b87 {"seq":6,"ops":[{"table":"mine","set":{"1":"{\\"x\\": \\"\\\\u00e4\\"}"},\
"del":[],"last":1}]}
"""
LATER_JOURNAL = f'd7c3ce7e 27f2e6f7 {{"format":1,"store_id":"{STORE_ID}","base":6}}\n'
META = {
    "format": 1,
    "store_id": STORE_ID,
    "seq": 6,
    "link": 0x27F2E6F7,
    "revision": 4,
    "last_ids": {"mine": 1},
}
LATER = "2026-01-01T00:00:01.500000+00:00"
FILE: dict[str, dict[str, Any]] = {
    "claude_comms": {"1": META},
    "threads": {
        "1": {
            "thread_id": "t",
            "title": "first",
            "modules": ["a", "b"],
            "metadata": {"k": 1},
            "created_at": "2026-01-01T00:00:00+00:00",
        }
    },
    "messages": {
        "1": {
            "message_id": "m",
            "thread_id": "t",
            "module_name": "a",
            "content": "anew",
            "message_type": "message",
            "status": "processing",
            "created_at": "2026-01-01T00:00:00+00:00",
            "updated_at": LATER,
            "deadline_at": "2026-01-01T00:00:05.500000+00:00",
            "expires_us": 1767225610000000,
            "stall_us": 4000000,
            "error": "odd",
            "metadata": {"n": 2},
            "revision": 3,
        },
        "2": {
            "message_id": "n",
            "thread_id": "t",
            "module_name": "b",
            "content": "",
            "message_type": "note",
            "status": "complete",
            "created_at": LATER,
            "updated_at": LATER,
            "deadline_at": None,
            "expires_us": None,
            "stall_us": None,
            "error": None,
            "metadata": {},
            "revision": 4,
        },
    },
    "changes": {
        "1": {
            "revision": 1,
            "message_id": "m",
            "thread_id": "t",
            "at": "2026-01-01T00:00:00+00:00",
            "previous": None,
            "status": "pending",
            "append": None,
            "content": "one",
            "content_length": 3,
            "error": None,
            "metadata": {"n": [1, None]},
        },
        "2": {
            "revision": 2,
            "message_id": "m",
            "thread_id": "t",
            "at": LATER,
            "previous": "pending",
            "status": "processing",
            "append": " two",
            "content": None,
            "content_length": 7,
            "error": None,
            "metadata": None,
        },
        "3": {
            "revision": 3,
            "message_id": "m",
            "thread_id": "t",
            "at": LATER,
            "previous": "processing",
            "status": "processing",
            "append": None,
            "content": "anew",
            "content_length": 4,
            "error": "odd",
            "metadata": {"n": 2},
        },
        "4": {
            "revision": 4,
            "message_id": "n",
            "thread_id": "t",
            "at": LATER,
            "previous": None,
            "status": "complete",
            "append": None,
            "content": None,
            "content_length": 0,
            "error": None,
            "metadata": None,
        },
    },
    "mine": {"1": {"x": "ä"}},
}
EMPTY: dict[str, dict[str, Any]] = {
    "claude_comms": {
        "1": {**META, "seq": 0, "link": 0, "revision": 0, "last_ids": {}},
    },
    "threads": {},
    "messages": {},
    "changes": {},
}


def write(store: BaseStore, clock: FakeClock) -> None:
    store.create_thread("first", modules=["a", "b"], metadata={"k": 1}, thread_id="t")
    store.add_message(
        "t", "a", "one", status="pending", message_id="m", timeout=10, stall_timeout=4,
        metadata={"n": [1, None]},
    )  # fmt: skip
    clock.advance(1.5)
    store.update_message("m", status="processing", append=" two")
    store.update_message("m", content="anew", error="odd", metadata={"n": 2})
    store.add_message("t", "b", message_type="note", message_id="n")


def records(lines: list[str]) -> list[Any]:
    """What a journal says, if each line is whole and goes on from the one before."""
    link = lines[0][9:17]
    for line in lines:
        assert line[:8] == f"{zlib.crc32(line[9:].encode()):08x}"
        assert line[9:17] == link
        link = line[:8] if line is not lines[0] else link
    return [json.loads(line[18:]) for line in lines]


def test_format_1_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with (
        FakeClock(start=START) as clock,
        TinyDBConversationStore(path, clock=clock, durability="process") as store,
    ):
        meta = {**EMPTY["claude_comms"]["1"], "store_id": store.store_id}
        assert json.loads(path.read_bytes()) == {**EMPTY, "claude_comms": {"1": meta}}
        write(store, clock)
        store.db.table("mine").insert({"x": "ä"})
        lines = Path(f"{path}.journal").read_text("ascii").splitlines()
        expected = JOURNAL.replace(STORE_ID, store.store_id).splitlines()
        assert records(lines) == [json.loads(line[18:]) for line in expected]
        store.checkpoint()
        meta = {**META, "store_id": store.store_id, "link": int(lines[-1][:8], 16)}
        assert json.loads(path.read_bytes()) == {**FILE, "claude_comms": {"1": meta}}
        (line,) = Path(f"{path}.journal").read_text("ascii").splitlines()
        assert records([line]) == [{"format": 1, "store_id": store.store_id, "base": 6}]
        assert line[9:17] == lines[-1][:8]


def test_format_1_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with FakeClock(start=START) as clock, MemoryConversationStore(clock=clock) as reference:
        write(reference, clock)
        for file, journal in ((EMPTY, JOURNAL), (FILE, LATER_JOURNAL), (FILE, JOURNAL)):
            path.write_text(json.dumps(file))
            Path(f"{path}.journal").write_text(journal)
            with TinyDBConversationStore(path, clock=clock, durability="process") as store:
                assert store.store_id == STORE_ID
                assert contents(store) == contents(reference)
                assert store.next_deadline_us() == reference.next_deadline_us()
                assert store.db.table("mine").all() == [{"x": "ä"}]
                assert store.db.table("mine").insert({}) == 2
                assert store.add_message("t", "b").revision == 5


def test_format_2_is_format_1_and_how_far_history_was_trimmed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with TinyDBConversationStore(path, durability="process") as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", message_id="m")
        store.update_message("m", status="processing")
        store.update_message("m", status="complete")
        store.compact(keep=0)
        link = json.loads(path.read_bytes())["claude_comms"]["1"]["link"]
    file = json.loads(path.read_bytes())
    assert file["claude_comms"]["1"] == {
        "format": 2,
        "store_id": store.store_id,
        "seq": 4,
        "link": link,
        "revision": 3,
        "last_ids": {},
        "trimmed": 2,
    }
    assert list(file["changes"]) == ["3"]
