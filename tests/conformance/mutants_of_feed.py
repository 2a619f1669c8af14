"""Stores whose feed is broken."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_claude_comms import Change, Changes, HistoryGone, InvalidTransition, Message
from pytest_claude_comms.stores.hub import Hub
from pytest_claude_comms.stores.memory import State
from pytest_claude_comms.stores.rules import ChangeRow, MessageRow
from tests.conformance.mutants import InSQLite, Memory, Saved, breaks


class Retold(Memory):
    """Tells its changes in another way."""

    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        return replace(found, items=tuple(map(self.retell, found.items)))

    def retell(self, change: Change) -> Change:
        raise NotImplementedError


@breaks("feed.1")
class CommitsTwice(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        metadata = more.pop("metadata", None)
        after = super().update_message(message, **more)
        return after if not metadata else super().update_message(message, metadata=metadata)


@breaks("feed.2")
class ReusesARevision(Memory):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._state = _ReusingState()


class _ReusingState(State):
    def commit(self, row: MessageRow, change: ChangeRow) -> int:
        revision = self.revision() + (0 if len(self._changes) == 5 else 1)
        self.apply(replace(row, revision=revision), replace(change, revision=revision))
        return revision


@breaks("feed.3")
class ForgetsTheRevisionOfMetadata(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        before = self.row(message).revision
        after = super().update_message(message, **more)
        return self.tamper(after, revision=before) if set(more) == {"metadata"} else after


@breaks("feed.4")
class CreatesWithoutContent(Retold):
    def retell(self, change: Change) -> Change:
        return replace(change, content=None) if change.previous is None else change


@breaks("feed.5")
class TellsAllMetadata(Retold):
    def retell(self, change: Change) -> Change:
        if change.metadata is None:
            return change
        return replace(change, metadata=self.get_message(change.message_id).metadata)


@breaks("feed.6")
class LosesAMiddleStep(Memory):
    """Sees what a snapshot at each instant would: the last status of a message then."""

    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        last = {(change.message_id, change.at): change.revision for change in found}
        items = [each for each in found if last[each.message_id, each.at] == each.revision]
        return replace(found, items=tuple(items))


@breaks("feed.7")
class BeginsAtTheCursor(Memory):
    def changes(self, since: int = 0, **more: Any) -> Changes:
        return super().changes(max(since - 1, 0) if since <= self.cursor() else since, **more)


@breaks("feed.8")
class PagesToTheEnd(Memory):
    def changes(self, *args: Any, **more: Any) -> Changes:
        return replace(super().changes(*args, **more), cursor=self.cursor())


@breaks("feed.9")
class TellsOfTheWholeThread(Memory):
    def changes(self, since: int = 0, *, message: Any = None, **more: Any) -> Changes:
        found = super().changes(since, message=message, **more)
        return found if not found.items else super().changes(since, **more)


@breaks("feed.10")
class CountsAhead(Memory):
    def cursor(self) -> int:
        found = super().cursor()
        return found + 1 if found else 0


@breaks("feed.11")
class NotesWhatItRefused(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        try:
            return super().update_message(message, **more)
        except InvalidTransition:
            super().update_message(message, metadata={"refused": self.cursor()})
            raise


@breaks("feed.12")
class BelievesAnyCursor(Memory):
    def changes(self, since: int = 0, **more: Any) -> Changes:
        return super().changes(min(since, self.cursor()), **more)


@breaks("feed.13")
class TakesNoLimitForAll(Memory):
    def changes(self, since: int = 0, **more: Any) -> Changes:
        return super().changes(since, **{**more, "limit": more.get("limit") or None})


@breaks("feed.14")
class DatesAllToTheCreation(Retold):
    def retell(self, change: Change) -> Change:
        return replace(change, at=self.get_message(change.message_id).created_at)


@breaks("feed.15")
class TellsErrorsOnce(Retold):
    def retell(self, change: Change) -> Change:
        return change if change.previous is not change.status else replace(change, error=None)


@breaks("feed.16")
class TellsWhatIsNow(Retold):
    def retell(self, change: Change) -> Change:
        return replace(change, status=self.get_message(change.message_id).status)


@breaks("feed.16")
class HandsOutOneChange(Retold):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._handed_out: dict[int, Change] = {}

    def retell(self, change: Change) -> Change:
        return self._handed_out.setdefault(change.revision, change)


@breaks("feed.17")
class WakesTooEarly(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        self._hub.notify()
        listeners, self._hub._listeners = self._hub._listeners, {}
        try:
            return super().update_message(message, **more)
        finally:
            self._hub._listeners = listeners


@breaks("feed.17")
class WakesOneOnly(Memory):
    def subscribe(self, wake: Any) -> Any:
        self._hub._listeners.clear()
        return super().subscribe(wake)


@breaks("feed.18")
class RepeatsOnlyTheLast(Memory):
    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        return found if more.get("message") is None else replace(found, items=found.items[-1:])


@breaks("feed.18")
class LosesChangesCloseTogether(LosesAMiddleStep):
    """As a poller sees it: of what came at one instant, all but the last is gone."""


@breaks("feed.19")
class ForgetsItsHistory(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        store_id, (threads, messages, changes, _) = super().load(data)
        return store_id, (threads, messages, (), changes[-1].revision if changes else 0)


@breaks("feed.20")
class BeginsRevisionsAgain(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        store_id, (threads, messages, _, _) = super().load(data)
        return store_id, (threads, messages, (), 0)


@breaks("feed.21")
class TrimsInSilence(Memory):
    def changes(self, since: int = 0, **more: Any) -> Changes:
        try:
            return super().changes(since, **more)
        except HistoryGone:
            return super().changes(max(since, self._state.trimmed()), **more)


@breaks("feed.23")
class KeepsAnything(Memory):
    def compact(self, *, keep: Any) -> Any:
        return super().compact(keep=max(keep, 0) if isinstance(keep, int) else keep)


@breaks("feed.22")
class TrimsWhatIsOpen(Memory):
    def compact(self, **more: Any) -> Any:
        report = super().compact(**more)
        for name, changes in self._state._changes_of.items():
            self._state._changes_of[name] = changes[-1:]
        return report


@breaks("feed.24")
class KeepsTheLastThousand(Memory):
    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        return replace(found, items=found.items[-1_000:])


@breaks("feed.24")
class TellsAThousandAtMost(Memory):
    """And says by its cursor that this was all."""

    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        return replace(found, items=found.items[:1_000])


@breaks("feed.25")
class ExpiresInSilence(Memory):
    def expire(self) -> list[Message]:
        told, self._hub = self._hub, Hub()
        try:
            return super().expire()
        finally:
            self._hub = told


@breaks("feed.26")
class WakesItsOwnOnly(InSQLite):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._hub = Hub()


@breaks("feed.21")
class TrimsThreadsToo(Memory):
    def compact(self, **more: Any) -> Any:
        report = super().compact(**more)
        used = {row.thread_id for row in self._state.messages(None, None)}
        for name in set(self._state._threads) - used:
            del self._state._threads[name]
        return report


@breaks("feed.27")
class ForgetsThatItTrimmed(Saved):
    def data(self) -> bytes:
        store_id, (*kept, _) = pickle.loads(super().data())
        return pickle.dumps((store_id, (*kept, 0)))
