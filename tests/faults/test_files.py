"""Files torn, deleted, replaced (RELIABILITY rows 1, 15, 24; promise 4: never silence)."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_claude_comms import (
    ConversationStore,
    HistoryGone,
    MessagePoller,
    StoreCorrupt,
    StoreError,
    backup_store,
    open_store,
)
from pytest_claude_comms.testing import FakeClock, Fault, Faults

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="what is open cannot be taken away there"
)
on_tinydb = pytest.mark.claude_comms(stores=["tinydb"])
on_sqlite = pytest.mark.claude_comms(stores=["sqlite"])


@pytest.fixture
def answer(store: ConversationStore) -> str:
    thread = store.create_thread()
    return store.add_message(thread, "a", status="processing", message_id="m").message_id


def path_of(store: ConversationStore) -> str:
    return store.url.partition(":///")[2]


def listing(store: ConversationStore) -> dict[str, tuple[int, bytes]]:
    """Inode and content of each file. Read before or after, never while SQLite has it open."""
    folder = os.path.dirname(path_of(store))
    return {name: _look(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}


def _look(path: str) -> tuple[int, bytes]:
    with open(path, "rb") as file:
        return os.stat(path).st_ino, file.read()


# -- deleted and replaced


@pytest.mark.parametrize(
    ("first", "second"),
    [("tear", "delete"), ("tear", "replace"), ("delete", "replace"), ("replace", "delete"),
     ("replace", "replace")],
)  # fmt: skip
def test_undone_in_any_order_the_files_are_as_they_were(
    store: ConversationStore, faults: Faults, answer: str, first: str, second: str
) -> None:
    store.update_message(answer, append="x" * 5_000)
    one = getattr(faults, first)(store)
    two = getattr(faults, second)(store)
    one.undo()
    assert two.is_undone, "it began in the midst of the other"
    two.undo()
    assert store.get_message(answer).content == "x" * 5_000
    store.close()
    with open_store(store.url) as again:
        assert again.get_message(answer).content == "x" * 5_000
    assert not [note for fault in faults.record for note in fault.notes]


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_a_waiting_watcher_is_told_at_once(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str, how: str
) -> None:
    clock.at(3, getattr(faults, how), store)
    with pytest.raises(HistoryGone):
        MessagePoller(store).wait(answer, timeout=60)
    assert clock.elapsed == 3


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_a_poller_in_the_background_is_told(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str, how: str
) -> None:
    with pytest.raises(HistoryGone), MessagePoller(store) as poller:
        poller.track(answer)
        clock.advance(1)
        getattr(faults, how)(store)
        clock.advance(1)


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_every_call_says_so_and_then_all_is_as_it_was(
    store: ConversationStore, faults: Faults, answer: str, how: str
) -> None:
    store.update_message(answer, append="x")
    gone = getattr(faults, how)(store)
    calls: list[Callable[[], object]] = [
        lambda: store.update_message(answer, append="lost"),
        lambda: store.get_message(answer),
        lambda: store.changes(2),
        store.create_thread,
    ]
    for call in calls:
        with pytest.raises(HistoryGone):
            call()
    assert os.path.exists(path_of(store)) == (how == "replace")
    gone.undo()
    with open_store(store.url) as again:
        assert again.get_message(answer).content == "x"
        assert again.store_id == store.store_id
    assert not [name for name in os.listdir(os.path.dirname(path_of(store))) if "fault" in name]


def test_a_deleted_store_comes_back_to_who_has_not_looked(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    with faults.delete(store):
        pass
    store.update_message(answer, append="x")
    assert store.get_message(answer).content == "x"


def test_what_was_created_in_its_place_goes(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    with faults.delete(store), open_store(store.url) as other:
        other.create_thread("another")
    assert [thread.title for thread in store.threads()] == [""]


def test_replaced_by_a_copy_of_another(
    store: ConversationStore, faults: Faults, answer: str, tmp_path: Path
) -> None:
    path = tmp_path / "other"
    with open_store(f"{store.backend}:///{path}") as other:
        other.create_thread("another")
        names = {"with_": path}
        with pytest.raises(TypeError, match="with_= is the path .* and name its file"):
            faults.replace(store, other)  # type: ignore[arg-type]
        if store.backend == "sqlite":
            with pytest.raises(ValueError, match=r"with_=.*other is open: close the store there"):
                faults.replace(store, **names)
    with faults.replace(store, path):
        with open_store(store.url) as found:
            assert [thread.title for thread in found.threads()] == ["another"]
        with pytest.raises(HistoryGone):
            store.get_message(answer)
    with open_store(f"{store.backend}:///{path}") as other:
        assert [thread.title for thread in other.threads()] == ["another"]


def test_replaced_by_an_exact_copy(faults: Faults, tmp_path: Path) -> None:
    """Nothing in it differs, and yet what is written goes to the file that is no longer there."""
    with open_store(f"sqlite:///{tmp_path}/s.db") as store:
        store.create_thread()
    shutil.copy2(tmp_path / "s.db", tmp_path / "copy.db")
    with open_store(f"sqlite:///{tmp_path}/s.db") as store:
        with faults.replace(store, tmp_path / "copy.db"):
            for call in (store.create_thread, store.threads):
                with pytest.raises(HistoryGone):
                    call()
        assert len(store.threads()) == 1


def test_replaced_by_a_backup_of_itself(
    store: ConversationStore, faults: Faults, answer: str, tmp_path: Path
) -> None:
    backup_store(store, tmp_path / "backup")
    store.update_message(answer, append="since")
    faults.replace(store, tmp_path / "backup")
    with pytest.raises(HistoryGone):
        store.changes(2)


def test_a_store_that_is_closed_meanwhile_stays_gone(
    store: ConversationStore, faults: Faults
) -> None:
    gone = faults.delete(store)
    store.close()
    gone.undo()
    assert gone.notes == ["the store was closed meanwhile, nothing was put back"]
    assert os.listdir(os.path.dirname(path_of(store))) == []


# -- torn


@on_tinydb
def test_a_torn_journal_is_a_history_that_is_gone(
    store: ConversationStore, clock: FakeClock, faults: Faults, answer: str
) -> None:
    store.update_message(answer, append="x" * 1000)
    clock.at(1, faults.tear, store, keep=-10)
    with pytest.raises(HistoryGone, match="taken back"):
        MessagePoller(store).wait(answer, timeout=60)
    assert clock.elapsed == 1
    with open_store(store.url) as other:
        assert other.cursor() == 1, "what was torn is not there, what came before is"


@on_tinydb
def test_a_garbled_end_is_no_change_to_who_reads_it_anew(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    for number in range(9):
        store.update_message(answer, append=f"{number};")
    with faults.tear(store, garbled=True, keep=-10):
        assert store.get_message(answer).content == "0;1;2;3;4;5;6;7;8;", "it had read it"
    with faults.tear(store, garbled=True, keep=-10), open_store(store.url) as other:
        assert other.get_message(answer).content == "0;1;2;3;4;5;6;7;"
    with pytest.raises(HistoryGone, match="taken back"):  # the other one went on without it
        store.cursor()


@pytest.mark.parametrize("keep", [0, 20, 0.5, -1])
@pytest.mark.parametrize("garbled", [False, True])
@on_tinydb
def test_a_torn_checkpoint_is_said_to_be_damaged(
    store: ConversationStore, faults: Faults, answer: str, keep: float, garbled: bool
) -> None:
    with faults.tear(store, part="checkpoint", keep=keep, garbled=garbled):
        with pytest.raises((StoreCorrupt, HistoryGone)):
            store.get_message(answer)
        with pytest.raises(StoreCorrupt):
            open_store(store.url)
    with open_store(store.url) as other:
        assert other.get_message(answer).status == "processing"


@pytest.mark.parametrize("keep", [0, 100, 0.5, -1])
@on_sqlite
def test_a_database_that_was_cut_off_is_said_to_be(
    store: ConversationStore, faults: Faults, answer: str, keep: float
) -> None:
    store.update_message(answer, append="x")
    with faults.tear(store, part="database", keep=keep):
        with pytest.raises(StoreCorrupt, match="cut off at"):
            store.update_message(answer, append="lost")
        # What is missing may all be in the log.
        with suppress(StoreError), open_store(store.url) as other:
            assert other.get_message(answer).content == "x"
    with open_store(store.url) as other:
        assert other.get_message(answer).content == "x"


@pytest.mark.parametrize("garbled", [False, True])
@on_sqlite
def test_a_torn_log_is_never_silence_and_comes_back(
    store: ConversationStore, faults: Faults, answer: str, garbled: bool
) -> None:
    """What SQLite has in memory it may go on with; what it reads anew is missing or damaged."""
    text = os.urandom(50_000).hex()
    store.update_message(answer, append=text)
    with faults.tear(store, keep=0.3, garbled=garbled):
        with suppress(StoreError):
            assert store.get_message(answer).content == text
        with suppress(StoreError), open_store(store.url) as other:
            assert other.get_message(answer).content == text
    assert store.get_message(answer).content == text
    store.update_message(answer, append="!")
    with open_store(store.url) as other:
        assert other.get_message(answer).content == f"{text}!"


def test_the_bytes_come_back(store: ConversationStore, faults: Faults, answer: str) -> None:
    torn = faults.tear(store)
    log = f"{path_of(store)}{'-wal' if store.backend == 'sqlite' else '.journal'}"
    short = os.stat(log).st_size
    torn.undo()
    assert os.stat(log).st_size > short > 0
    assert torn.notes == []
    store.update_message(answer, append="x")
    with open_store(store.url) as other:
        assert other.get_message(answer).content == "x"


@on_tinydb
def test_what_was_written_since_is_not_written_over(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    store.update_message(answer, append="lost")
    torn = faults.tear(store, keep=-1)
    with open_store(store.url) as other:
        other.update_message(answer, append="since")
    torn.undo()
    assert torn.notes == ["the file was written to since, nothing was put back"]
    with open_store(store.url) as other:
        assert other.get_message(answer).content == "since"


@on_tinydb
def test_files_are_byte_for_byte_what_they_were(
    store: ConversationStore, faults: Faults, answer: str
) -> None:
    before = listing(store)
    begins: list[Callable[[], Fault]] = [
        lambda: faults.tear(store),
        lambda: faults.tear(store, part="checkpoint", garbled=True),
        lambda: faults.delete(store),
        lambda: faults.replace(store),
        lambda: faults.busy(store, may_miss=True),
    ]
    for begin in begins:
        with begin():
            pass
        assert listing(store) == before
    for part in ("journal", "checkpoint"):  # torn again where it is torn
        with faults.tear(store, part=part) as outer:
            with faults.tear(store, part=part) as inner:
                pass
            assert (inner.notes, faults.tear(store, part=part, garbled=True).notes) == ([], [])
            faults.undo()
        assert (outer.notes, listing(store)) == ([], before)
