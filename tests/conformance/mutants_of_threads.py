"""Stores that are broken as an object, in their threads or their messages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_claude_comms import ConversationThread, Message, ThreadNotFound
from pytest_claude_comms.errors import AlreadyExists, MessageNotFound
from pytest_claude_comms.stores import values
from pytest_claude_comms.stores.memory import State
from tests.conformance.mutants import InSQLite, Memory, breaks

# -- as an object


@breaks("store.1")
class LacksAMethod(Memory):
    @property
    def expire(self) -> Any:
        raise AttributeError("expire")


@breaks("store.1")
class HasAMethodThatIsNone(Memory):
    expire: Any = None


@breaks("store.2")
class ReadsTheWallClock(Memory):
    def create_thread(self, *args: Any, **more: Any) -> ConversationThread:
        with self.on_real_time():
            return super().create_thread(*args, **more)

    def add_message(self, *args: Any, **more: Any) -> Message:
        with self.on_real_time():
            return super().add_message(*args, **more)


@breaks("store.3")
class HasTheIdOfAll(Memory):
    @property
    def store_id(self) -> str:
        return "store"


_SHARED: dict[Path, State] = {}


@breaks("store.4")
class SharesItsState(Memory):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._state = _SHARED.setdefault(folder.parent, self._state)


@breaks("store.5")
class IsNeverClosed(Memory):
    def _check_usable(self) -> None:
        pass


@breaks("store.6")
class LeavesTheBlockOpen(Memory):
    def __exit__(self, *exc: object) -> None:
        pass


@breaks("store.7")
class HasAnotherUrl(InSQLite):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self.url += ".old"


# -- threads


@breaks("threads.1")
class ForgetsModules(Memory):
    def create_thread(self, *args: Any, **more: Any) -> ConversationThread:
        return super().create_thread(*args, **{**more, "modules": ()})


@breaks("threads.2")
class NamesTheNameless(Memory):
    def create_thread(self, title: str = "untitled", **more: Any) -> ConversationThread:
        return super().create_thread(title, **more)


@breaks("threads.3")
class NamesThreadsByTitle(Memory):
    def create_thread(self, title: str = "", **more: Any) -> ConversationThread:
        more.setdefault("thread_id", f"id of {title}")
        return super().create_thread(title, **more)


@breaks("threads.4")
class ReplacesThreads(Memory):
    def create_thread(self, title: str = "", **more: Any) -> ConversationThread:
        self._state._threads.pop(more.get("thread_id") or "", None)
        return super().create_thread(title, **more)


@breaks("threads.5")
class HasNoMessagesOfNobody(Memory):
    def messages(self, *args: Any, **more: Any) -> list[Message]:
        try:
            return super().messages(*args, **more)
        except ThreadNotFound:
            return []


@breaks("threads.6")
class SortsThreads(Memory):
    def threads(self) -> list[ConversationThread]:
        return sorted(super().threads(), key=lambda thread: thread.title)


@breaks("threads.7")
class TakesOnlyOurDictOfAThread(Memory):
    def get_thread(self, thread: Any) -> ConversationThread:
        return super().get_thread(thread["thread_id"] if isinstance(thread, dict) else thread)


@breaks("threads.8")
class CountsThreads(Memory):
    def cursor(self) -> int:
        return super().cursor() + len(self._state.threads())


@breaks("threads.9")
class SpellsModulesOut(Memory):
    def create_thread(self, title: str = "", **more: Any) -> ConversationThread:
        modules = [str(module) for module in more.pop("modules", ())]
        return super().create_thread(title, modules=modules, **more)


@breaks("threads.10")
class HandsOutOneThread(Memory):
    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._handed_out: dict[str, ConversationThread] = {}

    def get_thread(self, thread: Any) -> ConversationThread:
        found = super().get_thread(thread)
        return self._handed_out.setdefault(found.thread_id, found)


# -- messages


@breaks("messages.1")
class ForgetsTheType(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        more.pop("message_type", None)
        return super().add_message(*args, **more)


@breaks("messages.2")
class BeginsAsPending(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        return super().add_message(*args, **{"status": "pending", **more})


@breaks("messages.3")
class NamesMessagesByContent(Memory):
    def add_message(self, thread: Any, module_name: str, content: str = "", **more: Any) -> Message:
        more.setdefault("message_id", f"id of {content}")
        return super().add_message(thread, module_name, content, **more)


@breaks("messages.4")
class GivesWhatIsThere(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        try:
            return super().add_message(*args, **more)
        except AlreadyExists as error:
            return self.get_message(error.id)


@breaks("messages.5")
class ReadsNobody(Memory):
    def get_message(self, message: Any) -> Any:
        try:
            return super().get_message(message)
        except MessageNotFound:
            return None


@breaks("messages.6")
class ListsByLastChange(Memory):
    def messages(self, *args: Any, **more: Any) -> list[Message]:
        return sorted(super().messages(*args, **more), key=lambda message: message.revision)


@breaks("messages.7")
class SearchesOneStatus(Memory):
    def messages(self, thread_id: Any = None, status: Any = None) -> list[Message]:
        if not isinstance(status, str) and status:
            status = next(iter(status))
        return super().messages(thread_id, status)


@breaks("messages.8")
class RemembersASearch(Memory):
    """As TinyDB's own query cache, which only a write through the same table clears."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._searches: dict[str, list[Message]] = {}

    def messages(self, thread_id: Any = None, status: Any = None) -> list[Message]:
        asked = repr((thread_id, status))
        if asked not in self._searches:
            self._searches[asked] = super().messages(thread_id, status)
        return self._searches[asked]


@breaks("messages.9")
class TakesOnlyOurDictOfAMessage(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if isinstance(message, dict):
            message = message["message_id"]
        return super().update_message(message, **more)


@breaks("messages.10")
class CannotBeEmptied(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if not more.get("content", "x"):
            del more["content"]
        return super().update_message(message, **more)


@breaks("messages.11")
class PrefersContent(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if "content" in more:
            more.pop("append", None)
        return super().update_message(message, **more)


@breaks("messages.12")
class ReplacesMetadata(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        after = super().update_message(message, **more)
        if not more.get("metadata"):
            return after
        return self.tamper(after, metadata=values.dump(values.metadata(more["metadata"])))


@breaks("messages.13")
class ForgetsErrors(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        after = super().update_message(message, **more)
        return after if "error" in more else self.tamper(after, error=None)


@breaks("messages.14")
class ReturnsWhatWas(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        before = self.get_message(message)
        super().update_message(message, **more)
        return before


@breaks("messages.15")
class TouchesWhatIsTheSame(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        after = super().update_message(message, **more)
        return self.tamper(after, updated_us=self.clock.now_us())


@breaks("messages.16")
class RoundsToMilliseconds(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        after = super().update_message(message, **more)
        return self.tamper(after, updated_us=self.row(after).updated_us // 1000 * 1000)


@breaks("messages.16")
class UpdatesOnTheWallClock(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        with self.on_real_time():
            return super().update_message(message, **more)


@breaks("messages.17")
class HandsOutOneRecord(Memory):
    """A mutable record leaks: the metadata of all who read is one dict."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, **more)
        self._metadata: dict[str, Any] = {}

    def get_message(self, message: Any) -> Message:
        found = super().get_message(message)
        shared = self._metadata.setdefault(found.message_id, dict(found.metadata))
        return replace(found, metadata=shared)
