"""Copies of a store: the same in all but its id, on whatever backend, and all or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    LegacyReturns,
    MessagePoller,
    StoreCorrupt,
    StoreError,
    open_store,
)
from pytest_claude_comms.stores.checking import check_store
from pytest_claude_comms.stores.copying import check_source, copy_store, digest_of
from pytest_claude_comms.stores.reports import CopyReport, StoreSnapshot
from pytest_claude_comms.testing import FakeClock
from tests.stores.keeping_kit import (
    every_store,
    everything,
    file_stores,
    fill,
    killed_at_system_calls,
    run,
    trimmed_by,
)

BACKENDS = ["memory", "tinydb", "sqlite"]


def target_of(backend: str, folder: Path, clock: FakeClock | None = None) -> ConversationStore:
    url = "memory:" if backend == "memory" else f"{backend}:///{folder}/target.{backend}"
    return open_store(url, clock=clock, durability="process")


@every_store
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("trim", [None, 20, 0])
def test_all_of_it_is_there(
    store: ConversationStore, clock: FakeClock, tmp_path: Path, backend: str, trim: int | None
) -> None:
    fill(store)
    trimmed = 0
    if trim is not None:
        trimmed = trimmed_by(store, trim)
        store.compact(keep=trim)
    before = everything(store)
    with target_of(backend, tmp_path, clock) as target:
        report = copy_store(store, target)
        assert everything(target) == before == everything(store)
        assert target.store_id != store.store_id
        assert (report.threads, report.messages, report.revision) == (2, 7, store.cursor())
        assert report.trimmed == trimmed
        assert check_store(target).findings == ()
        assert target.cursor() == report.revision
        # It goes on as any store does.
        assert target.update_message("open", status="processing").revision == report.revision + 1
        assert target.update_message("a1", append="!").content.endswith("39 é;!")
        target.add_message("t", "a", message_id="new")
        after = everything(target)
    if backend != "memory":
        with target_of(backend, tmp_path, clock) as again:
            assert everything(again) == after
            assert check_store(again).findings == ()


@every_store
def test_a_cursor_is_the_same_place_in_the_copy(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    with target_of("sqlite", tmp_path) as target:
        copy_store(store, target)
        for cursor in (0, 7, store.cursor()):
            assert target.changes(cursor) == store.changes(cursor)
    cursor = trimmed_by(store, 10)
    store.compact(keep=10)
    with open_store("memory:") as target:
        copy_store(store, target)
        expected = list(range(cursor + 1, store.cursor() + 1))
        assert [change.revision for change in target.changes(cursor)] == expected
        with pytest.raises(HistoryGone, match=f"up to revision {cursor} were trimmed"):
            target.changes(cursor - 1)


def test_there_and_back_again(tmp_path: Path) -> None:
    digests = set()
    with open_store("memory:") as source:
        fill(source)
        expected = everything(source)
        stores = [source]
        for number, backend in enumerate(["tinydb", "sqlite", "tinydb", "memory", "sqlite"]):
            (tmp_path / str(number)).mkdir()
            stores.append(target_of(backend, tmp_path / str(number)))
            digests.add(copy_store(stores[-2], stores[-1]).digest)
        assert everything(stores[-1]) == expected
        assert len(digests) == 1
        for store in stores:
            store.close()


@every_store
def test_a_target_that_is_used(store: ConversationStore) -> None:
    with open_store("memory:") as source:
        fill(source)
        store.create_thread(thread_id="mine")
        with pytest.raises(StoreError, match="is not empty"):
            copy_store(source, store)
        assert [thread.thread_id for thread in store.threads()] == ["mine"]
        assert store.cursor() == 0


@file_stores
def test_a_copy_onto_itself(store: ConversationStore) -> None:
    with open_store(store.url) as same, pytest.raises(StoreError, match="are the same store"):
        copy_store(store, same)


def test_a_name_is_no_store() -> None:
    with open_store("memory:") as ours:
        name: Any = "sqlite:///comms.db"
        with pytest.raises(
            TypeError, match=r"^the source .*'; that is a name; open the store with"
        ):
            copy_store(name, ours)
        with pytest.raises(
            TypeError, match="^the target of a copy must be an open store, not 'sql"
        ):
            copy_store(ours, name)
        older: Any = TinyDBShaped()
        with pytest.raises(TypeError, match="make one of it with adapt_store"):
            copy_store(older, ours)


class TinyDBShaped:
    def get_thread(self, thread_id: str) -> None: ...


def test_stores_that_have_no_snapshot() -> None:
    class Theirs:
        url, backend, store_id = "theirs:", "theirs", "x"

    theirs: Any = Theirs()
    with open_store("memory:") as ours:
        with pytest.raises(StoreError, match=r"kind 'theirs' has no snapshot\(\)"):
            copy_store(theirs, ours)
        with pytest.raises(StoreError, match=r"kind 'theirs' has no snapshot\(\)"):
            check_source(theirs)
        theirs.snapshot = None
        check_source(theirs)
        with pytest.raises(StoreError, match=r"kind 'theirs' has no restore\(\)"):
            copy_store(ours, theirs)


def test_a_store_of_a_third_party(tmp_path: Path) -> None:
    with open_store("memory:") as source, target_of("tinydb", tmp_path) as target:
        fill(source)
        copy_store(LegacyReturns(source, "str"), LegacyReturns(target, "dict"))
        assert everything(target) == everything(source)


@every_store
def test_what_does_not_fit_together_is_refused(store: ConversationStore) -> None:
    with open_store("memory:") as source:
        fill(source)
        whole = source.snapshot()  # type: ignore[attr-defined]
    for broken, reason in [
        (replace(whole, threads=whole.threads[:1]), "of an unknown thread"),
        (replace(whole, messages=whole.messages[1:]), "of an unknown message"),
        (replace(whole, threads=(*whole.threads, whole.threads[0])), "is there twice"),
        (replace(whole, changes=whole.changes[1:]), "revision 2 follows 0"),
        (replace(whole, changes=whole.changes[:3] + whole.changes[4:]), "revision 5 follows 3"),
        (replace(whole, changes=whole.changes[:-1]), "its last revision is"),
        (replace(whole, changes=whole.changes[::-1]), "follows"),
    ]:
        with pytest.raises(ValueError, match=reason):
            store.restore(broken)  # type: ignore[attr-defined]

        class Source:
            url, backend, store_id = "broken:", "broken", "b"
            restore = None

            def snapshot(self) -> Any:
                return broken

        with pytest.raises(StoreCorrupt, match=reason):
            copy_store(Source(), store)  # type: ignore[arg-type]
    assert store.cursor() == 0
    assert store.threads() == []


@every_store
def test_a_source_with_values_of_another_type_is_damaged(store: ConversationStore) -> None:
    with open_store("memory:") as source:
        fill(source)
        whole = source.snapshot()  # type: ignore[attr-defined]
        thread, message, change = whole.threads[0], whole.messages[0], whole.changes[0]
        for rows, reason in [
            ({"threads": (replace(thread, title=None), *whole.threads[1:])}, "title must be a"),
            ({"messages": (replace(message, content=5), *whole.messages[1:])}, "content must be"),
            ({"messages": (replace(message, expires_us=10**30), *whole.messages[1:])}, "expires_"),
            ({"messages": (replace(message, stall_us="x"), *whole.messages[1:])}, "abs"),
            ({"changes": (replace(change, at_us="x"), *whole.changes[1:])}, "at_us is 'x'"),
        ]:
            broken = replace(whole, **rows)

            class Source:
                url, backend, store_id = "broken:", "broken", "b"

                def snapshot(self, found: Any = broken) -> Any:
                    return found

            with pytest.raises(StoreCorrupt, match=reason):
                copy_store(Source(), store)  # type: ignore[arg-type]
    assert (store.cursor(), store.threads()) == (0, [])


@every_store
@pytest.mark.parametrize("what", ["threads", "messages", "changes", "text"])
def test_a_copy_that_differs_is_found(
    store: ConversationStore, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store("memory:") as source:
        fill(source)

        def forgetful(real: Callable[[], Any] = store.snapshot) -> Any:  # type: ignore[attr-defined]
            found = real()
            if what == "text":
                first = replace(found.messages[0], content="text \0 🎈\x1b[31n")
                return replace(found, messages=(first, *found.messages[1:]))
            return replace(found, **{what: getattr(found, what)[:-1]})

        monkeypatch.setattr(store, "snapshot", forgetful)
        with pytest.raises(StoreError, match="is not what was copied") as caught:
            copy_store(source, store)
        assert caught.value.outcome == "unknown"


@file_stores
def test_a_target_that_is_written_to_at_once(
    store: ConversationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store("memory:") as source:
        fill(source)
        real = store.restore  # type: ignore[attr-defined]

        def restore_and_write(*given: Any, **more: Any) -> None:
            real(*given, **more)
            store.update_message("open", status="cancelled")
            store.create_thread(thread_id="soon")
            store.add_message("soon", "a")

        monkeypatch.setattr(store, "restore", restore_and_write)
        assert copy_store(source, store).revision == source.cursor()


@every_store
def test_a_poller_on_the_target_sees_it_all(
    store: ConversationStore, poller: MessagePoller
) -> None:
    tracker = poller.track("a0")
    woken: list[bool] = []
    store.subscribe(lambda: woken.append(True))
    with open_store("memory:") as source:
        fill(source)
        copy_store(source, store)
    assert woken == [True]
    poller.poll_once()
    assert tracker.statuses == ["pending", "processing", "failed"]
    assert tracker.content_length == len("anew and on")


def test_tables_of_the_users_are_named(tmp_path: Path) -> None:
    with target_of("tinydb", tmp_path) as source, open_store("memory:") as target:
        source.db.table("mine").insert({"a": 1})  # type: ignore[attr-defined]
        source.create_thread()
        assert copy_store(source, target).left_behind == ("mine",)
    with open_store("memory:") as source, target_of("tinydb", tmp_path / "x") as target:
        target.db.table("mine").insert({"a": 1})  # type: ignore[attr-defined]
        source.create_thread()
        copy_store(source, target)
        assert target.db.table("mine").all() == [{"a": 1}]  # type: ignore[attr-defined]


def test_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_claude_comms.stores import sqlite_keeping

    monkeypatch.setattr(sqlite_keeping, "BATCH", 50)
    told: list[tuple[str, int, int]] = []
    with open_store("memory:") as source, target_of("sqlite", tmp_path) as target:
        fill(source)
        copy_store(source, target, progress=lambda *each: told.append(each))
        total = source.cursor()
    steps = [step for step, *_ in told]
    assert list(dict.fromkeys(steps)) == ["reading", "writing", "verifying"]
    writing = [done for step, done, of in told if step == "writing" and of == total]
    assert writing == [50, 100, total]


def names_of(row: Any) -> list[str]:
    return [field.name for field in fields(row)]


def test_the_digest_tells_any_difference() -> None:
    with open_store("memory:") as source:
        fill(source)
        whole = source.snapshot()  # type: ignore[attr-defined]
    seen = {digest_of(whole)}
    for field, rows in (
        ("threads", whole.threads), ("messages", whole.messages), ("changes", whole.changes)
    ):  # fmt: skip
        for name in names_of(rows[0]):
            changed = replace(rows[0], **{name: "another"})
            seen.add(digest_of(replace(whole, **{field: (changed, *rows[1:])})))
        seen.add(digest_of(replace(whole, **{field: rows[::-1]})))
    seen.add(digest_of(replace(whole, trimmed=1)))
    total = sum(len(names_of(rows[0])) for rows in (whole.threads, whole.messages, whole.changes))
    assert len(seen) == 1 + total + 3 + 1
    assert digest_of(replace(whole, store_id="other")) in seen


# -- while others write, and killed

_WRITE = """
import sys
from pytest_claude_comms import open_store
with open_store(sys.argv[1], durability="process") as store:
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        answer = store.add_message("t", "w", status="pending", message_id=f"w{number}")
        for piece in range(5):
            store.update_message(answer, append=f"{piece};")
        store.update_message(answer, status="complete")
"""


@file_stores
def test_one_state_of_a_source_that_is_being_written(
    store: ConversationStore, tmp_path: Path
) -> None:
    fill(store)
    child = run(_WRITE, store.url)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        revisions = set()
        for turn in range(500):  # the system gives the writer its time when it likes
            with target_of(BACKENDS[turn % 3], tmp_path / str(turn)) as target:
                report = copy_store(store, target)
                assert check_store(target).findings == ()
                changes = target.changes().items
                assert [each.revision for each in changes] == list(range(1, report.revision + 1))
                revisions.add(report.revision)
            if turn >= 4 and len(revisions) > 1:
                break
    finally:
        child.kill()
        child.communicate()
    assert len(revisions) > 1  # somebody was writing indeed


_COPY = """
import sys
from pytest_claude_comms import open_store
from pytest_claude_comms.stores.copying import copy_store
with open_store(sys.argv[1], durability="power") as source:
    with open_store(sys.argv[2], durability="power") as target:
        copy_store(source, target)
"""


def check_killed_copies(backend: str, folder: Path, *, every: bool) -> tuple[int, int]:
    """Returns how many kills left the target empty, and whole."""
    data = folder / "data"
    data.mkdir()
    source, target = f"{backend}:///{data}/s", f"{backend}:///{data}/d"
    with open_store(source, durability="process") as store:
        fill(store)
        expected = everything(store)
    open_store(target, durability="process").close()
    empty = whole = 0
    for _ in killed_at_system_calls(_COPY, source, target, folder=data, every=every):
        with open_store(target, durability="process") as store:
            found = everything(store)
            if store.cursor():
                assert found == expected
                whole += 1
            else:
                assert store.threads() == []
                empty += 1
                with open_store(source, durability="process") as again:
                    copy_store(again, store)
                assert everything(store) == expected
            left = [name for name in os.listdir(data) if "new" in name or "backup" in name]
            assert left == []
        assert check_store(source).findings == ()
        assert check_store(target).findings == ()
    return empty, whole


@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_killed_at_some_system_calls(backend: str, tmp_path: Path) -> None:
    empty, whole = check_killed_copies(backend, tmp_path, every=False)
    assert empty + whole > 0


@pytest.mark.long
@pytest.mark.parametrize("backend", ["tinydb", "sqlite"])
def test_killed_at_every_system_call(backend: str, tmp_path: Path) -> None:
    empty, whole = check_killed_copies(backend, tmp_path, every=True)
    print(f"{backend}: killed at {empty + whole} system calls: {empty} empty, {whole} whole")
    assert empty > 3
    assert whole > 0


@every_store
def test_the_report_says_all_that_was_copied(store: ConversationStore, tmp_path: Path) -> None:
    fill(store)
    trimmed = trimmed_by(store, 20)
    store.compact(keep=20)
    whole = store.snapshot()  # type: ignore[attr-defined]
    kept = len(whole.changes)
    assert whole.store_id == store.store_id
    told: list[tuple[str, int, int]] = []
    with target_of("sqlite", tmp_path) as target:
        report = copy_store(store, target, progress=lambda *each: told.append(each))
        assert report == CopyReport(
            source=store.url,
            target=target.url,
            threads=2,
            messages=7,
            changes=kept,
            revision=store.cursor(),
            trimmed=trimmed,
            digest=digest_of(target.snapshot()),  # type: ignore[attr-defined]
            left_behind=(),
        )
    assert kept < report.revision
    assert [each for each in told if each[0] != "writing"] == [
        ("reading", 0, 1), ("reading", 1, 1), ("verifying", 0, 1), ("verifying", 1, 1),
    ]  # fmt: skip
    assert told.index(("reading", 1, 1)) == 1
    assert told[2][0] == told[-3][0] == "writing"


@pytest.mark.parametrize("what", ["threads", "messages", "changes", "trimmed"])
def test_a_copy_that_differs_is_told_with_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with open_store("memory:") as source, target_of("sqlite", tmp_path) as target:
        fill(source)
        source.compact(keep=20)
        whole = source.snapshot()  # type: ignore[attr-defined]
        real = target.snapshot  # type: ignore[attr-defined]
        counts = [len(whole.threads), len(whole.messages), len(whole.changes)]

        def other() -> StoreSnapshot:
            found: StoreSnapshot = real()
            if what == "trimmed":
                return replace(found, trimmed=found.trimmed - 1)
            return replace(found, **{what: getattr(found, what)[1:]})

        monkeypatch.setattr(target, "snapshot", other)
        with pytest.raises(StoreError) as caught:
            copy_store(source, target)
        said = "{} threads, {} messages and {} changes"
        found = list(counts)
        if what != "trimmed":
            found[["threads", "messages", "changes"].index(what)] -= 1
        text = str(caught.value)
        assert f"the copy in {target.url} is not what was copied" in text
        assert f"{said.format(*found)} instead of {said.format(*counts)}" in text


def test_a_copy_onto_itself_names_both(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s"
    with open_store(url) as one, open_store(url) as other:
        with pytest.raises(StoreError) as caught:
            copy_store(one, other)
        assert str(caught.value).count(one.url) == 2
