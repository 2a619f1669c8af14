"""What holds in every store, told from snapshots that were tampered with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_claude_comms.clock import FIRST_US
from pytest_claude_comms.stores.invariants import findings_of, well_formed
from pytest_claude_comms.stores.memory import MemoryConversationStore
from pytest_claude_comms.stores.reports import StoreSnapshot
from tests.stores.keeping_kit import fill


@pytest.fixture
def whole() -> StoreSnapshot:
    """Revisions 1 to 5 are of ``m``, which is complete, 6 and 7 of ``o``, which is open."""
    with MemoryConversationStore() as store:
        store.create_thread(thread_id="t")
        store.add_message("t", "a", status="pending", message_id="m")
        store.update_message("m", append="one", metadata={"k": 1})
        store.update_message("m", status="processing")
        store.update_message("m", append=" two", metadata={"n": 2})
        store.update_message("m", status="complete")
        store.add_message("t", "a", status="pending", message_id="o")
        store.update_message("o", append="open")
        return store.snapshot()


def found(snapshot: StoreSnapshot) -> list[tuple[str, str, str]]:
    findings = list(findings_of(snapshot))
    assert all(each.way_out.startswith("restore a backup, or copy it") for each in findings)
    return [(each.kind, each.thing, each.reason) for each in findings]


def changed(whole: StoreSnapshot, revision: int, **fields: Any) -> StoreSnapshot:
    return replace(
        whole,
        changes=tuple(
            replace(row, **fields) if row.revision == revision else row for row in whole.changes
        ),
    )


def test_a_whole_one_has_none(whole: StoreSnapshot) -> None:
    assert found(whole) == []
    with MemoryConversationStore() as store:
        fill(store)
        for keep in (30, 5, 0):
            store.compact(keep=keep)
            assert found(store.snapshot()) == []


def test_what_is_kept_of_a_trimmed_history_has_none(whole: StoreSnapshot) -> None:
    kept = tuple(row for row in whole.changes if row.revision in (5, 6, 7))
    assert found(replace(whole, changes=kept, trimmed=4)) == []
    kept = tuple(row for row in whole.changes if row.revision in (2, 5, 6, 7))
    assert found(replace(whole, changes=kept, trimmed=4)) == []
    # From pending nothing comes to complete but by way of what was trimmed.
    assert found(replace(whole, changes=kept, trimmed=1))[0][:2] == ("revision", "revisions 3 to 4")


def test_revisions_out_of_order(whole: StoreSnapshot) -> None:
    rows = list(whole.changes)
    rows[5], rows[6] = rows[6], rows[5]
    findings = found(replace(whole, changes=tuple(rows)))
    assert findings[0] == ("revision", "revision 6", "it comes after 7")


def test_what_is_there_twice(whole: StoreSnapshot) -> None:
    twice = replace(
        whole,
        threads=whole.threads * 2,
        messages=(*whole.messages, whole.messages[1]),
        changes=(*whole.changes, whole.changes[6]),
    )
    assert found(twice)[:3] == [
        ("thread", "thread t", "it is there 2 times"),
        ("message", "message o", "it is there 2 times"),
        ("revision", "revision 7", "it was given twice"),
    ]


def test_a_change_of_another_thread(whole: StoreSnapshot) -> None:
    assert found(changed(whole, 3, thread_id="u")) == [
        ("history", "revision 3", "it says thread 'u', its message 'm' says 't'")
    ]


def test_of_an_open_message_everything_is_kept(whole: StoreSnapshot) -> None:
    """Trimmed up to 7, its text has to follow from its changes all the same."""
    kept = tuple(row for row in whole.changes if row.revision in (5, 6, 7))
    assert found(replace(whole, changes=kept, trimmed=7)) == []
    kept = (*kept[:2], replace(kept[2], content_length=9))
    assert (
        "history",
        "revision 7",
        "it says that the text of 'o' has 9 characters then, and its changes make 4",
    ) in found(replace(whole, changes=kept, trimmed=7))


def test_a_step_that_cannot_be(whole: StoreSnapshot) -> None:
    assert ("transition", "revision 3", "'m' went from complete to processing, which cannot follow"
    ) in found(changed(whole, 3, previous=whole.changes[4].status))  # fmt: skip
    (finding,) = found(changed(whole, 7, previous=whole.changes[2].status))[:1]
    assert finding[:2] == ("transition", "revision 7")
    assert finding[2].startswith("'o' went from processing to pending")


def test_a_message_without_a_history(whole: StoreSnapshot) -> None:
    kept = replace(whole, changes=whole.changes[5:], trimmed=5)
    gone = ("history", "message m", "not one of its changes is there, not even its last")
    assert found(kept) == [gone]
    row = replace(whole.messages[0], updated_us=whole.messages[0].created_us)
    assert found(replace(kept, messages=(row, whole.messages[1]))) == [gone]
    row = replace(row, updated_us=row.created_us - 1)
    assert found(replace(kept, messages=(row, whole.messages[1]))) == [
        ("message", "message m", "it was changed before it was created"), gone,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"created_us": FIRST_US - 1}, f"created_us is {FIRST_US - 1}, which is out of range"),
        ({"updated_us": 10**18}, "updated_us is 1000000000000000000, which is out of range"),
        ({"revision": True}, "revision is True, no whole number"),
        ({"expires_us": "soon"}, "expires_us is 'soon', no whole number"),
        ({"stall_us": 1.5}, "stall_us is 1.5, no whole number"),
        ({"error": 3}, "error must be a str"),
        ({"title": None}, ""),
        ({"metadata": '{"k": NaN}'}, "metadata has NaN, which JSON does not"),
        ({"metadata": '{"k": ' + "[" * 5_000 + "]" * 5_000 + "}"}, "metadata"),
    ],
)
def test_a_row_that_is_none_says_which_field(
    whole: StoreSnapshot, fields: dict[str, Any], reason: str
) -> None:
    row = whole.messages[0]
    assert well_formed(row) is row
    if not reason:
        with pytest.raises(TypeError, match="^title must be a str"):
            well_formed(replace(whole.threads[0], **fields))
        return
    with pytest.raises((TypeError, ValueError)) as caught:
        well_formed(replace(row, **fields))
    assert str(caught.value).startswith(reason)


def test_a_chain_that_is_broken(whole: StoreSnapshot) -> None:
    processing = whole.changes[2].status
    assert (
        "transition", "revision 7",
        "it says that 'o' was processing before, and revision 6 made it pending",
    ) in found(changed(whole, 7, previous=processing, status=processing))  # fmt: skip


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_metadata_that_is_none(whole: StoreSnapshot, text: str) -> None:
    messages = (replace(whole.messages[0], metadata=text), whole.messages[1])
    threads = tuple(replace(row, metadata=text) for row in whole.threads)
    assert found(replace(whole, threads=threads, messages=messages)) == [
        ("thread", "thread t", "its metadata is no JSON object"),
        ("message", "message m", "its metadata is no JSON object"),
    ]
