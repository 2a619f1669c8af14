"""Time that stands still by freezegun, and is only moved. Imports freezegun, so it is loaded where
it is used."""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from freezegun import api


@contextmanager
def _lazy_names_unseen() -> Iterator[None]:
    """A start of freezegun gets every name that ``dir`` tells of a module: all that we have would
    be loaded, for nothing, in the first test with a clock."""
    ours = __name__.split(".")
    packages = [vars(sys.modules[".".join(ours[:depth])]) for depth in range(1, len(ours))]
    listings = [package.get("__dir__") for package in packages]
    try:
        for package in packages:
            package.pop("__dir__", None)
        yield
    finally:
        try:
            _put_back(packages, listings)
        except BaseException:  # an interrupt
            _put_back(packages, listings)
            raise


def _put_back(packages: list[dict[str, Any]], listings: list[Any]) -> None:
    for package, listing in zip(packages, listings, strict=True):
        if listing is not None:
            package["__dir__"] = listing


class Frozen:
    """One freeze of the standard library's time, from an aware datetime in UTC."""

    def __init__(self, start: datetime) -> None:
        self._start = start.replace(tzinfo=None)
        # pytest times its own phases by `_pytest.timing`; they take real time.
        self._freezer: Any = api.freeze_time(start, real_asyncio=True, ignore=["_pytest.timing"])
        self._factory: Any = None
        self._ended = False
        # What freezegun keeps, a list for each property of what is frozen.
        self._stacks: tuple[list[Any], ...] = (
            api.freeze_factories,
            api.tz_offsets,
            api.ignore_lists,
            api.tick_flags,
        )
        self._depths = [len(stack) for stack in self._stacks]

    def begin(self) -> None:
        """Once: it looks through every module (2 to 50 ms)."""
        with _lazy_names_unseen():
            self._factory = self._freezer.start()

    def move(self, us: int) -> None:
        """Show the instant ``us`` after the start."""
        # Never by a step: a move that was interrupted is made good by the next one.
        instant = self._start + timedelta(microseconds=us)
        if self._factory is not None:
            self._factory.tick(instant - self._factory())

    def end(self) -> None:
        """Put back what was there, also where ``begin``, or this, was interrupted."""
        if self._ended:
            return
        with _lazy_names_unseen():
            if self._factory is None:
                self._complete()
            self._factory = None
            self._freezer.stop()
            self._ended = True

    def _complete(self) -> None:
        # A start, or a stop, that was torn is made whole as far as a stop goes by it; and the stop
        # looks for fakes in all modules, as one of them may not have been noted.
        freezer = self._freezer
        for stack, depth in zip(self._stacks, self._depths, strict=True):
            while len(stack) <= depth:
                stack.append(None)
        for kind in (api.real_datetime, api.real_date):
            copyreg.dispatch_table.setdefault(kind, None)  # type: ignore[arg-type]
        begun = hasattr(freezer, "reals")
        freezer.modules_at_start = set() if begun else set(sys.modules)
