"""Contracts of a store as an object: its surface, its clock, its end."""

from __future__ import annotations

from collections.abc import Callable

from ...errors import StoreClosed
from ...stores import open_store
from ...stores.base import ConversationStore
from .bench import Bench
from .checks import equal, refused, true
from .contract import Contracts

GROUP = Contracts("store")
contract = GROUP.contract

_MEMBERS = sorted(
    name for name in vars(ConversationStore) if not name.startswith("_") or name == "__enter__"
)
_METHODS = [name for name in _MEMBERS if not isinstance(vars(ConversationStore)[name], property)]


@contract(1)
def it_has_the_whole_surface(bench: Bench) -> None:
    """A store has every method and attribute of the Protocol ConversationStore."""
    missing = [name for name in _MEMBERS if not hasattr(bench.store, name)]
    equal(missing, [], "what is missing")
    dead = [name for name in _METHODS if not callable(getattr(bench.store, name))]
    equal(dead, [], "what cannot be called")
    for name in ("url", "store_id", "backend"):
        value = getattr(bench.store, name)
        true(isinstance(value, str) and value, name, expected="a str, not empty", found=value)


@contract(2)
def it_is_on_the_clock_it_was_given(bench: Bench) -> None:
    """The store's clock is the one that the factory was given, and times are its times."""
    equal(bench.store.clock is bench.clock, True, "store.clock is the clock given")
    bench.clock.advance(12.345678)
    thread = bench.store.create_thread()
    equal(thread.created_at, bench.clock.now(), "created_at of a thread")
    equal(bench.add().created_at, bench.clock.now(), "created_at of a message")


@contract(3)
def two_stores_have_two_ids(bench: Bench) -> None:
    """store_id stays while the store is open, and another store has another."""
    equal(bench.store.store_id, bench.store.store_id, "store_id, asked twice")
    other = bench.open("another").store_id
    true(
        other != bench.store.store_id, "store_id of another store", expected="another", found=other
    )


@contract(4)
def two_stores_share_nothing(bench: Bench) -> None:
    """What one store holds is not in another."""
    other = bench.open("another")
    bench.add()
    equal((other.threads(), other.messages(), other.cursor()), ([], [], 0), "the other store")


@contract(5)
def closed_is_closed(bench: Bench) -> None:
    """Closing twice is allowed; any other call after it raises StoreClosed."""
    store, message = bench.store, bench.add()
    store.close()
    store.close()
    calls: dict[str, Callable[[], object]] = {
        "create_thread": store.create_thread,
        "add_message": lambda: store.add_message(message.thread_id, "a"),
        "update_message": lambda: store.update_message(message, append="x"),
        "get_message": lambda: store.get_message(message),
        "get_thread": lambda: store.get_thread(message.thread_id),
        "messages": store.messages,
        "threads": store.threads,
        "changes": store.changes,
        "cursor": store.cursor,
        "expire": store.expire,
    }
    for name, call in calls.items():
        refused(call, StoreClosed, f"{name} of a closed store")


@contract(6)
def a_with_block_closes_it(bench: Bench) -> None:
    """`with store:` gives the store itself and closes it at its end, also after an error."""
    with bench.open("one") as store:
        store.create_thread()
    refused(store.threads, StoreClosed, "threads after the block")
    other = bench.open("two")
    try:
        with other as same:
            equal(same is other, True, "what `with` gives is the store")
            raise KeyError("an error of the caller's")
    except KeyError:
        pass
    refused(other.threads, StoreClosed, "threads after a block that raised")


@contract(7, "addressable", "durable")
def its_url_opens_it(bench: Bench) -> None:
    """open_store(store.url) opens the same store."""
    message = bench.add("kept")
    url, store_id = bench.store.url, bench.store.store_id
    bench.store.close()
    with open_store(url, clock=bench.clock, durability="process") as store:
        equal((store.url, store.store_id), (url, store_id), "url and store_id")
        equal(store.get_message(message.message_id), message, "the message")
