"""Makes the standard library obey a fake clock: ``time.sleep``, asyncio, and by freezegun the
time that it tells."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..errors import ClaudeCommsError
from .scheduler import Scheduler

if TYPE_CHECKING:
    from .fake_asyncio import FakeLoops

_installed: list[object] = []


@contextmanager
def _lazy_names_unseen() -> Iterator[None]:
    """A start of freezegun gets every name that ``dir`` tells of a module: all that we have would
    be loaded, for nothing, in the first test with a clock."""
    ours = __name__.split(".")
    packages = [vars(sys.modules[".".join(ours[:depth])]) for depth in range(1, len(ours))]
    listings = [package.pop("__dir__") for package in packages]
    try:
        yield
    finally:
        for package, listing in zip(packages, listings, strict=True):
            package["__dir__"] = listing


class Freeze:
    """One installation; at most one at a time in a process."""

    def __init__(
        self,
        start: datetime,
        scheduler: Scheduler,
        sleep: Callable[[float], None],
        *,
        freeze: bool = True,
    ) -> None:
        self._start = start
        self._scheduler = scheduler
        self._sleep = sleep
        self._freeze = freeze
        self._loops: FakeLoops | None = None
        self._real_sleep = time.sleep
        self._freezer: Any = None
        self._frozen: Any = None
        self._us = 0

    def install(self) -> None:
        if _installed:
            raise ClaudeCommsError("another fake clock is installed; one test has one clock")
        _installed.append(self)
        if self._freeze:
            from freezegun import freeze_time

            # Started once and then only moved: a start looks through every module (2 to 50 ms).
            # pytest times its own phases by `_pytest.timing`; they take real time.
            self._freezer = freeze_time(self._start, real_asyncio=True, ignore=["_pytest.timing"])
            with _lazy_names_unseen():
                self._frozen = self._freezer.start()
        self._replace_sleep(self._real_sleep, self._sleep)
        from .fake_asyncio import FakeLoops

        self._loops = FakeLoops(self._scheduler)
        self._loops.install()

    def move(self, us: int) -> None:
        """Show the instant ``us`` after the start."""
        if self._frozen is not None:
            self._frozen.tick(timedelta(microseconds=us - self._us))
            self._us = us

    def uninstall(self) -> None:
        if self._loops is not None:
            self._loops.uninstall()
        self._replace_sleep(self._sleep, self._real_sleep)
        if self._freezer is not None:
            self._freezer.stop()
        self._frozen = None
        _installed.remove(self)

    @staticmethod
    def _replace_sleep(old: object, new: object) -> None:
        # freezegun leaves sleep alone. Modules that did `from time import sleep` have it as a
        # global; some module namespaces are odd objects, so only real dicts are looked at.
        for module in list(sys.modules.values()):
            names = getattr(module, "__dict__", None)
            if type(names) is dict and names.get("sleep") is old:
                names["sleep"] = new
