"""What a store is meant to do, in dicts and lists: no file, no lock, no code of a store's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pytest_claude_comms.errors import (
    AlreadyExists,
    HistoryGone,
    InvalidTransition,
    MessageNotFound,
    ThreadNotFound,
)
from pytest_claude_comms.status import MessageStatus

ENDED = {"complete", "failed", "timeout", "cancelled"}
SECOND = 1_000_000


@dataclass
class Model:
    """Times are microseconds; ``now`` is set from outside."""

    now: int = 0
    threads: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    revision: int = 0
    trimmed: int = 0

    # -- writing

    def create_thread(self, thread_id: str, title: str, metadata: dict[str, Any]) -> dict[str, Any]:
        _text(title)
        if thread_id in self.threads:
            raise AlreadyExists("thread", thread_id)
        thread = {"id": thread_id, "title": title, "metadata": dict(metadata), "at": self.now}
        self.threads[thread_id] = thread
        return thread

    def add_message(
        self, thread_id: str, message_id: str, content: str, status: str,
        timeout: float | None, stall: float | None, metadata: dict[str, Any],
    ) -> dict[str, Any]:  # fmt: skip
        _text(content)
        if thread_id not in self.threads:
            raise ThreadNotFound(thread_id)
        if message_id in self.messages:
            raise AlreadyExists("message", message_id)
        message = {
            "id": message_id, "thread": thread_id, "content": content, "status": status,
            "created": self.now, "updated": self.now, "error": None, "metadata": dict(metadata),
            "expires": None if timeout is None else self.now + round(timeout * SECOND),
            "stall": None if stall is None else round(stall * SECOND),
        }  # fmt: skip
        self.messages[message_id] = message
        self._commit(message, None, content=content or None, metadata=dict(metadata) or None)
        return self.shown(message)

    def update_message(self, message_id: str, given: dict[str, Any]) -> dict[str, Any]:
        for name in ("content", "append", "error"):
            if given.get(name) is not None:
                _text(given[name])
        if "content" in given and "append" in given:
            raise ValueError("both")
        message = self._message(message_id)
        deadline = self.deadline(message)
        if deadline is not None and self.now > deadline:
            self._time_out(message)
            raise InvalidTransition(message_id, MessageStatus(message["status"]), None)
        if message["status"] in ENDED and set(given) - {"metadata"}:
            raise InvalidTransition(message_id, MessageStatus(message["status"]), None)
        after = {**message, "metadata": dict(message["metadata"])}
        if "status" in given and given["status"] != message["status"]:
            if given["status"] == "pending":
                raise InvalidTransition(message_id, MessageStatus(message["status"]), None)
            after["status"] = given["status"]
        if "content" in given:
            after["content"] = given["content"]
        after["content"] += given.get("append", "")
        if "error" in given:
            after["error"] = given["error"]
        news = {
            key: value
            for key, value in (given.get("metadata") or {}).items()
            if key not in after["metadata"] or repr(after["metadata"][key]) != repr(value)
        }
        after["metadata"].update(news)
        if after == message and not news:
            return self.shown(message)
        before = dict(message)
        message.update(after, updated=self.now)
        appended = given.get("append") or None
        replaced = appended is None and before["content"] != message["content"]
        self._commit(
            message, before["status"], append=appended,
            content=message["content"] if replaced else None, metadata=news or None,
        )  # fmt: skip
        return self.shown(message)

    def expire(self) -> list[dict[str, Any]]:
        late = [
            message
            for message in self.messages.values()
            if (deadline := self.deadline(message)) is not None and deadline <= self.now
        ]
        late.sort(key=lambda message: self.deadline(message) or 0)
        for message in late:
            self._time_out(message)
        return [self.shown(message) for message in late]

    def compact(self, keep: int) -> int:
        floor = max(self.revision - keep, self.trimmed)
        gone = [
            each for each in self.changes if each["revision"] <= floor and not self._stays(each)
        ]
        self.changes = [each for each in self.changes if each not in gone]
        self.trimmed = max([self.trimmed, *(each["revision"] for each in gone)])
        return self.trimmed

    def _stays(self, change: dict[str, Any]) -> bool:
        message = self.messages[change["message"]]
        if message["status"] not in ENDED or change["revision"] == message["revision"]:
            return True
        return change["status"] in ENDED and change["previous"] != change["status"]

    def _time_out(self, message: dict[str, Any]) -> None:
        before = message["status"]
        by_creation = (
            message["expires"] is not None and self.deadline(message) == message["expires"]
        )
        if by_creation:
            span, text = (
                message["expires"] - message["created"],
                "no end within {:g} s of its creation",
            )
        else:
            span, text = message["stall"], "nothing happened for {:g} s"
        message.update(status="timeout", error=text.format(span / SECOND), updated=self.now)
        self._commit(message, before)

    def _commit(
        self, message: dict[str, Any], previous: str | None, *, append: str | None = None,
        content: str | None = None, metadata: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.revision += 1
        message["revision"] = self.revision
        self.changes.append(
            {
                "revision": self.revision, "message": message["id"], "at": self.now,
                "previous": previous, "status": message["status"], "append": append,
                "content": content, "length": len(message["content"]), "error": message["error"],
                "metadata": metadata,
            }
        )  # fmt: skip

    # -- reading

    def deadline(self, message: dict[str, Any]) -> int | None:
        """The instant from which it is overdue, None once it has ended."""
        if message["status"] in ENDED:
            return None
        stalls = None if message["stall"] is None else message["updated"] + message["stall"]
        ends = [each for each in (message["expires"], stalls) if each is not None]
        return min(ends, default=None)

    def next_deadline(self) -> int | None:
        deadlines = [self.deadline(message) for message in self.messages.values()]
        return min((each for each in deadlines if each is not None), default=None)

    def shown(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message as it is given out, apart from its spans of time."""
        ended = message["status"] in ENDED
        deadline = message["expires"] if ended else self.deadline(message)
        hidden = {"expires", "stall"}
        shown = {name: value for name, value in message.items() if name not in hidden}
        return {**shown, "metadata": dict(message["metadata"]), "deadline": deadline}

    def get_message(self, message_id: str) -> dict[str, Any]:
        return self.shown(self._message(message_id))

    def list_messages(
        self, thread_id: str | None, statuses: set[str] | None
    ) -> list[dict[str, Any]]:
        if thread_id is not None and thread_id not in self.threads:
            raise ThreadNotFound(thread_id)
        return [
            self.shown(message)
            for message in self.messages.values()
            if thread_id in (None, message["thread"])
            and (statuses is None or message["status"] in statuses)
        ]

    def changes_after(
        self, since: int, limit: int | None, message_id: str | None
    ) -> tuple[list[dict[str, Any]], int]:
        if since > self.revision:
            raise HistoryGone("", store="model")
        if since < self.trimmed and (message_id is None or since > 0):
            raise HistoryGone("", store="model")
        found = [
            change
            for change in self.changes
            if change["revision"] > since and message_id in (None, change["message"])
        ][:limit]
        cut = limit is not None and len(found) == limit
        return found, found[-1]["revision"] if cut else self.revision

    def _message(self, message_id: str) -> dict[str, Any]:
        if message_id not in self.messages:
            raise MessageNotFound(message_id)
        return self.messages[message_id]


def _text(text: str) -> None:
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a lone surrogate")
