"""What is open in this process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from weakref import WeakSet

import pytest

from pytest_claude_comms import resources


class Door:
    """Something that has to be closed."""

    says: str | None = "a door is open"

    def left_open(self) -> str | None:
        return self.says


def test_what_is_open_is_known_until_it_is_closed() -> None:
    before = resources.left_open()
    doors = [Door(), Door()]
    resources.register(doors[0])
    resources.register(doors[0])
    assert resources.left_open() == {**before, id(doors[0]): (doors[0], "a door is open")}
    resources.register(doors[1])
    assert set(resources.left_open()) == {*before, *map(id, doors)}
    doors[0].says = None
    assert resources.left_open() == {**before, id(doors[1]): (doors[1], "a door is open")}
    doors[1].says = ""
    assert resources.left_open()[id(doors[1])] == (doors[1], "")
    doors[0].says = "open again"
    assert id(doors[0]) in resources.left_open()


def test_it_keeps_nothing_alive() -> None:
    door = Door()
    key = id(door)
    resources.register(door)
    assert key in resources.left_open()
    del door
    gc.collect()
    assert key not in resources.left_open()


def test_what_another_thread_opens_meanwhile_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    second = Door()

    class Meanwhile(WeakSet[Door]):
        def __iter__(self) -> Iterator[Door]:
            for door in super().__iter__():
                resources.register(second)
                yield door

    first = Door()
    monkeypatch.setattr(resources, "_resources", Meanwhile([first]))
    assert set(resources.left_open()) == {id(first), id(second)}
