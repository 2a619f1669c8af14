"""Stores that keep something else than they were given."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from pytest_claude_comms import Changes, ConversationThread, Message
from tests.conformance.mutants import Memory, Saved, breaks


@breaks("values.1")
class TranslatesLineEnds(Memory):
    def add_message(self, thread: Any, module_name: str, content: str = "", **more: Any) -> Message:
        if isinstance(content, str):
            content = content.replace("\r\n", "\n")
        return super().add_message(thread, module_name, content, **more)


@breaks("values.1")
class CutsAtANul(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if isinstance(more.get("error"), str):
            more["error"] = more["error"].partition("\0")[0]
        return super().update_message(message, **more)


@breaks("values.2")
class TellsWithoutNuls(Memory):
    def changes(self, *args: Any, **more: Any) -> Changes:
        found = super().changes(*args, **more)
        items = [
            replace(each, append=each.append and each.append.replace("\0", "")) for each in found
        ]
        return replace(found, items=tuple(items))


@breaks("values.3")
class ReadsWithUniversalNewlines(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        store_id, (threads, messages, *rest) = super().load(data)
        messages = [replace(row, content=row.content.replace("\r\n", "\n")) for row in messages]
        return store_id, (threads, messages, *rest)


@breaks("values.4")
class ReplacesSurrogates(Memory):
    def add_message(self, thread: Any, module_name: str, content: str = "", **more: Any) -> Message:
        if isinstance(content, str):
            content = content.encode(errors="replace").decode()
        return super().add_message(thread, module_name, content, **more)


@breaks("values.5")
class MakesTextOfAnything(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        if "append" in more:
            more["append"] = str(more["append"])
        return super().update_message(message, **more)


@breaks("values.6", "values.8")
class KeepsBoolsAsInts(Memory):
    def get_message(self, message: Any) -> Message:
        found = super().get_message(message)
        metadata = {
            key: int(value) if isinstance(value, bool) else value
            for key, value in found.metadata.items()
        }
        return replace(found, metadata=metadata)


@breaks("values.7")
class ReadsIntsAsFloats(Saved):
    def load(self, data: bytes) -> tuple[str, Any]:
        store_id, (threads, messages, *rest) = super().load(data)
        messages = [
            replace(row, metadata=json.dumps(json.loads(row.metadata, parse_int=float)))
            for row in messages
        ]
        return store_id, (threads, messages, *rest)


@breaks("values.8")
class ComparesAsPythonDoes(Memory):
    def update_message(self, message: Any, **more: Any) -> Message:
        old = json.loads(self.row(message).metadata)
        if isinstance(more.get("metadata"), dict):
            more["metadata"] = {
                key: value
                for key, value in more["metadata"].items()
                if key not in old or old[key] != value
            }
        return super().update_message(message, **more)


@breaks("values.9")
class WritesWhatItCan(Memory):
    def add_message(self, *args: Any, **more: Any) -> Message:
        if isinstance(more.get("metadata"), dict):
            text = json.dumps(more["metadata"], default=str)
            more["metadata"] = json.loads(text, parse_constant=str)
        return super().add_message(*args, **more)


@breaks("values.10")
class KnowsNoCase(Memory):
    def create_thread(self, title: str = "", **more: Any) -> ConversationThread:
        if isinstance(more.get("thread_id"), str):
            more["thread_id"] = more["thread_id"].lower()
        return super().create_thread(title, **more)


@breaks("values.11")
class NamesFilesByThread(Saved):
    def create_thread(self, title: str = "", **more: Any) -> ConversationThread:
        thread = super().create_thread(title, **more)
        name = thread.thread_id.encode(errors="replace").hex()[:64]
        self.path.with_name(f"thread-{name}").touch()
        return thread


@breaks("values.12")
class RaisesKeyError(Memory):
    def get_message(self, message: Any) -> Message:
        if isinstance(message, dict) and "id" not in message:
            message = message["message_id"]
        return super().get_message(message)
