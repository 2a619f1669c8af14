"""A signal for one waiter in an asyncio event loop. Apart, so that who has no loop loads none."""

from __future__ import annotations

import asyncio

from .clock import SECOND, Why


class LoopWakeup:
    """Sticky, as every wakeup; waits on the time of the loop in which it was made."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._set = False
        self._waiting: asyncio.Future[None] | None = None

    def set(self) -> None:
        """End the present wait, or the next one. From any thread."""
        self._set = True
        try:
            self.loop.call_soon_threadsafe(self._resume)
        except RuntimeError:  # the loop is closed: nobody waits any more, nor is to be kept for it
            self._waiting = None

    async def wait(
        self, timeout_us: int | None, *, why: Why, beat_us: int | None = None, notified: bool = True
    ) -> bool:
        """Wait until ``set`` (True) or until time is up (False)."""
        spans = [span for span in (timeout_us, beat_us) if span is not None]
        await self._wait(min(spans) if spans else None)
        woken, self._set = self._set, False
        return woken

    async def _wait(self, span_us: int | None) -> None:
        if self._set:
            return
        self._waiting = self.loop.create_future()
        timer = None
        if span_us is not None:
            timer = self.loop.call_later(span_us / SECOND, self._resume)
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None:
                timer.cancel()

    def _resume(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
