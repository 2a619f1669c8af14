"""Makes the standard library obey a fake clock: ``time.sleep``, asyncio, and by freezegun the
time that it tells."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from types import MethodType
from typing import TYPE_CHECKING, Any

from ..errors import ClaudeCommsError
from .actors import Real
from .scheduler import Scheduler

if TYPE_CHECKING:
    from .fake_asyncio import FakeLoops
    from .frozen import Frozen

_installed: list[object] = []


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
        self._before = time.sleep
        self._had_before: list[dict[str, Any]] = []
        """Names of modules whose ``sleep`` was neither Python's own nor a clock's."""
        self._frozen: Frozen | None = None

    def install(self) -> None:
        """All of it, or, where an error or an interrupt comes between, nothing."""
        if _installed:
            raise ClaudeCommsError("another fake clock is installed; one test has one clock")
        try:
            _installed.append(self)
            if self._freeze:
                try:
                    from .frozen import Frozen
                except ModuleNotFoundError as error:
                    raise ClaudeCommsError(
                        f"a fake clock needs the package freezegun ({error}): install it with "
                        "`python -m pip install freezegun`, or leave the standard library's time "
                        "alone with freeze=False"
                    ) from error
                self._frozen = Frozen(self._start)
                self._frozen.begin()
            self._replace_sleep()
            from .fake_asyncio import FakeLoops

            self._loops = FakeLoops(self._scheduler)
            self._loops.install()
        except BaseException:
            self.uninstall()
            raise

    def move(self, us: int) -> None:
        """Show the instant ``us`` after the start."""
        if self._frozen is not None:
            self._frozen.move(us)

    def uninstall(self) -> None:
        """Put back what was there. To say it again changes nothing."""
        if self not in _installed:
            return
        try:
            self._put_back()
        except BaseException:  # an interrupt
            self._put_back()
            raise
        finally:
            _installed.remove(self)

    def _put_back(self) -> None:
        if self._loops is not None:
            self._loops.uninstall()
        self._restore_sleep()
        if self._frozen is not None:
            self._frozen.end()

    # freezegun leaves sleep alone. Modules that did `from time import sleep` have it as a global.

    def _replace_sleep(self) -> None:
        before = self._before
        for names in _globals():
            sleep = names.get("sleep")
            if sleep is before and not (sleep is Real.sleep or self._is_ours(sleep)):
                self._had_before.append(names)
            elif not (sleep is Real.sleep or self._is_ours(sleep)):
                continue
            names["sleep"] = self._sleep

    def _restore_sleep(self) -> None:
        for names in _globals():
            if self._is_ours(names.get("sleep")):
                had = any(names is each for each in self._had_before)
                names["sleep"] = self._before if had else Real.sleep

    def _is_ours(self, sleep: object) -> bool:
        # Or an earlier clock's: a monkeypatch of the test's may have brought that back after
        # the clock was closed.
        return type(sleep) is MethodType and sleep.__func__ is getattr(
            self._sleep, "__func__", None
        )


def _globals() -> Iterator[dict[str, Any]]:
    # Some module namespaces are odd objects, so only real dicts are looked at.
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if type(names) is dict:
            yield names
