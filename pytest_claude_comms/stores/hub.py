"""How a commit in this process wakes those who wait in this process.

All store objects of one process that have the same file open share one hub, so that a poller on
one of them hears of a commit through another.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from weakref import WeakValueDictionary


class Hub:
    """Whom to wake."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler or a finalizer may commit in the midst of this.
        self._lock = threading.RLock()
        self._listeners: dict[object, Callable[[], None]] = {}

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` after each commit, until the returned function is called."""
        token = object()
        with self._lock:
            self._listeners[token] = wake

        def unsubscribe() -> None:
            with self._lock:
                self._listeners.pop(token, None)

        return unsubscribe

    def notify(self) -> None:
        """Tell everybody of a commit. Only once it can be read."""
        with self._lock:
            listeners = list(self._listeners.values())
        for wake in listeners:
            wake()


class _Hubs:
    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.by_path: WeakValueDictionary[tuple[str, str], Hub] = WeakValueDictionary()


_hubs = _Hubs()


def hub_of(backend: str, real_path: str) -> Hub:
    """The hub of the store at ``real_path`` (symbolic links resolved)."""
    with _hubs.lock:
        return _hubs.by_path.setdefault((backend, real_path), Hub())


def _begin_anew() -> None:
    # A child's stores must not wake the parent's listeners, nor wait for a lock that one of the
    # parent's threads held.
    global _hubs  # noqa: PLW0603
    _hubs = _Hubs()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
