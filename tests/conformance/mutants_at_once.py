"""Stores that are broken where several use them: threads, store objects, processes."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_claude_comms import Changes, InvalidTransition, Message, MessageStatus
from pytest_claude_comms.errors import AlreadyExists
from tests.conformance.mutants import InSQLite, InTinyDB, Memory, breaks

# They pause where they are wrong, so that whoever comes in between does.
PAUSE = 0.001


@breaks("concurrency.1")
class ReadsThenWrites(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if "append" in more:
            text = self.get_message(message).content
            time.sleep(PAUSE)
            more["content"] = text + more.pop("append")
        return super().update_message(message, **more)


@breaks("concurrency.2")
class ShowsARevisionLate(Memory):
    """Of two revisions one can be seen only once a later one has been."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._overtaken: set[int] = set()

    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        late = {each.revision for each in found if each.revision % 2} - self._overtaken
        self._overtaken |= late
        return replace(found, items=tuple(each for each in found if each.revision not in late))


@breaks("concurrency.3")
class ChecksThenActs(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        row = self.row(message)
        status = MessageStatus(more.get("status", "processing"))
        if row.status.is_terminal:
            raise InvalidTransition(row.message_id, row.status, status)
        time.sleep(PAUSE)
        return self.tamper(message, status=status)


@breaks("concurrency.4", "feed.1")
class ChangesBitByBit(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        after = self.get_message(message)
        for name in sorted(more, key=lambda name: name == "status"):
            after = super().update_message(message, **{name: more[name]})
            time.sleep(PAUSE / 2)
        return after


@breaks("concurrency.5")
class LooksThenAdds(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        name = more.get("message_id")
        if name is not None and self._state.message(name) is not None:
            raise AlreadyExists("message", name)
        time.sleep(PAUSE)
        self._state._messages.pop(name or "", None)
        return super().add_message(*args, **more)


class Cached(InSQLite):
    """Remembers each message as it read or wrote it last."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.cache: dict[str, Message] = {}

    def update_message(self, message: Any, **more: Any) -> Message:
        after = super().update_message(message, **more)
        self.cache[after.message_id] = after
        return after


@breaks("concurrency.6", "concurrency.9")
class ReadsItsCache(Cached):
    def get_message(self, message: Any) -> Message:
        known = self.cache.get(message) if isinstance(message, str) else None
        found = known or super().get_message(message)
        return self.cache.setdefault(found.message_id, found)


@breaks("concurrency.7")
class RemembersTheFeed(Cached):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._feeds: dict[str, Changes] = {}

    def changes(self, *args: Any, **more: Any) -> Changes:
        asked = repr((args, more))
        if asked not in self._feeds:
            self._feeds[asked] = super().changes(*args, **more)
        return self._feeds[asked]


@breaks("concurrency.8")
class ComparesWithItsCache(Cached):
    def get_message(self, message: Any) -> Message:
        found = super().get_message(message)
        self.cache[found.message_id] = found
        return found

    def update_message(self, message: Any, **more: Any) -> Message:
        known = self.cache.get(getattr(message, "message_id", message))
        try:
            return super().update_message(message, **more)
        except InvalidTransition:
            if known is None or known.status.is_terminal:
                raise
            return replace(known, status=MessageStatus(more["status"]))


@breaks("concurrency.10")
class ReadsThenWritesAFile(InSQLite):
    def update_message(self, message: Any, **more: Any) -> Message:
        if "append" in more:
            text = self.get_message(message).content
            time.sleep(10 * PAUSE)  # the other process may have to be given a processor
            more["content"] = text + more.pop("append")
        return super().update_message(message, **more)


@breaks("concurrency.11")
class LetsBothWin(InSQLite):
    def update_message(self, message: Any, **more: Any) -> Message:
        try:
            return super().update_message(message, **more)
        except InvalidTransition:
            return self.get_message(message)


@breaks("concurrency.12")
class GivesItselfAnId(InTinyDB):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._own = secrets.token_hex(16)

    @property
    def store_id(self) -> str:
        return self._own


@breaks("concurrency.13")
class GoesOnAfterAFork(InTinyDB):
    def _check_usable(self) -> None:
        pass


@breaks("concurrency.14")
class LooksThenExpires(Memory):
    def expire(self) -> list[Message]:
        self._check_usable()
        now_us = self.clock.now_us()
        with self._reading() as snapshot:
            rows = snapshot.overdue(now_us)
        time.sleep(PAUSE)
        with self._writing() as tx:
            done = [self._settle(tx, row, now_us) for row in rows]
        if done:
            self._hub.notify()
        return [row.record() for row in done]
