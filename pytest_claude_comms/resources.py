"""What is open in this process: the plugin asks it what a test left behind."""

from __future__ import annotations

from typing import Protocol
from weakref import WeakSet


class Resource(Protocol):
    """Something that has to be closed."""

    def left_open(self) -> str | None:
        """What it still holds and how to let go of it, for a person; None once it is closed."""


_resources: WeakSet[Resource] = WeakSet()


def register(resource: Resource) -> None:
    """Remember a resource for as long as somebody holds it."""
    _resources.add(resource)


def left_open() -> dict[int, tuple[Resource, str]]:
    """What is open now, by ``id``."""
    found = ((resource, resource.left_open()) for resource in _all())
    return {id(resource): (resource, text) for resource, text in found if text is not None}


def _all() -> list[Resource]:
    while True:
        try:
            return list(_resources)
        except RuntimeError:  # another thread has opened one meanwhile
            continue
