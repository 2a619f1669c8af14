"""What a test leaves behind: stores, pollers, threads, errors that nobody saw."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import pytest

from .. import resources
from ..clock import SystemClock
from ..errors import RunAbandoned
from .on_purpose import is_on_purpose

_LEFT = "left behind by this test:"
_PATIENCE = 2.0
"""Real seconds for which a thread that is about to end is given time."""


class Leaks:
    """Compares what is open after a test with what was open before."""

    def __init__(self) -> None:
        self._known: WeakSet[object] = WeakSet()
        self._errors: list[tuple[BaseException, str]] = []

    def unhandled(self, error: BaseException, what: str) -> None:
        """Keep an error that was raised on a thread of ours."""
        if not is_on_purpose(error):
            self._errors.append((error, what))

    def adopt(self) -> None:
        """What is there now is not the running test's, or may outlive it."""
        for each in self._all():
            self._known.add(each)

    def _all(self) -> list[object]:
        return [*(resource for resource, _ in resources.left_open().values()), *_threads()]

    @contextmanager
    def adopting(self) -> Iterator[None]:
        """What is opened inside may outlive the test; what was open before is still its own."""
        before = {id(each) for each in self._all()}
        try:
            yield
        finally:
            for each in self._all():
                if id(each) not in before:
                    self._known.add(each)

    def check(self, left: Sequence[str] = (), *, has_failed: bool = False) -> None:
        """Fail the test that ends for what it leaves behind: what is open, and what is in
        ``left``. That one which ``has_failed`` abandoned a run is no surprise.

        Raises the first error of a thread that no caller saw; what is wrong besides is in notes.
        """
        __tracebackhide__ = True
        left = self._found(left)
        errors = self._taken_errors()
        if has_failed:
            errors = [each for each in errors if not isinstance(each[0], RunAbandoned)]
        besides = [f"{_LEFT}\n  " + "\n  ".join(left)] if left else []
        if errors:
            error, what = errors[0]
            also = (f"also: {other!r} in {where}" for other, where in errors[1:])
            add_note = getattr(error, "add_note", None)  # 3.11
            if add_note is not None:
                for note in (f"raised in {what}", *also, *besides):
                    add_note(note)
            raise error
        if besides:
            pytest.fail(besides[0], pytrace=False)

    def told(self, left: Sequence[str] = ()) -> list[str]:
        """What ``check`` would fail the test for, in lines, where it has failed already."""
        left = self._found(left)
        errors = self._taken_errors()
        lines = [f"{_LEFT}", *(f"  {each}" for each in left)] if left else []
        for error, what in errors:
            trace = "".join(traceback.format_exception(error)).rstrip()
            lines += [f"raised in {what}, and seen by nobody:", trace]
        return lines

    def _taken_errors(self) -> list[tuple[BaseException, str]]:
        errors, self._errors = self._errors, []
        return errors

    def _found(self, left: Sequence[str]) -> list[str]:
        found = self.found()  # first: who is waited for may raise
        return [*found, *(each for each in left if each not in found)]

    def found(self) -> list[str]:
        """What the test left open, each with how to let go of it."""
        if not self._suspects():
            return []
        # In a failed test the traceback still holds its locals; what only a cycle holds is let
        # go here, and a thread that is just returning is waited for.
        gc.collect()
        clock = SystemClock()
        until = clock.monotonic() + _PATIENCE
        while (suspects := self._suspects()) and clock.monotonic() < until:
            if not any(isinstance(suspect, threading.Thread) for suspect, _ in suspects):
                break
            clock.sleep(0.01)
        for suspect, _ in suspects:  # reported once, not with every later test
            self._known.add(suspect)
        return [text for _, text in suspects]

    def _suspects(self) -> list[tuple[object, str]]:
        opened: list[tuple[object, str]] = [
            (resource, text)
            for resource, text in resources.left_open().values()
            if resource not in self._known
        ]
        return opened + [
            (thread, f"the thread {thread.name!r} is still running")
            for thread in _threads()
            if thread not in self._known
        ]


def runs_under_way() -> list[str]:
    """The runs of ``ask_module`` that go on, each with how to end it."""
    found = resources.left_open().values()
    return [text for resource, text in found if getattr(resource, "is_run", False)]


def pollers_under_way(store: object) -> list[str]:
    """The pollers of this very store that run, each with how to end it."""
    from ..stores.legacy import unwrapped

    found = resources.left_open().values()
    return [
        text
        for resource, text in found
        if unwrapped(getattr(resource, "store", None)) is unwrapped(store)
        and not getattr(resource, "is_run", False)
    ]


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("claude-comms")]
