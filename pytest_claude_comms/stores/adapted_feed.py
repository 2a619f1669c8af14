"""A change feed made by comparison: what differs between two looks at an object's threads."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace

from . import rules, values
from .adapted_shapes import CannotAdapt, Found
from .memory import State
from .rules import ChangeRow, MessageRow


class Vanished(Exception):
    """What was there at an earlier look is not there now. It never leaves the adapter."""

    def __init__(self, message_ids: list[str], thread_ids: list[str]) -> None:
        self.message_ids = message_ids
        self.thread_ids = thread_ids


class Elsewhere(Exception):
    """A message was in a thread that this look left out, and may still be there. It never leaves
    the adapter."""


class _State(State):
    """Of which a message may also become another without a change."""

    def note(self, row: MessageRow) -> None:
        self._plan(row)  # first: what is noted is not noted again, whatever interrupted it
        self._messages[row.message_id] = row


class Feed:
    """What was seen so far, and the changes that it came by; revisions count from 1."""

    def __init__(self) -> None:
        self.state = _State()
        self.native_ids: dict[str, object] = {}
        """By our id, what the object calls a message, where that is no str."""
        self._taken: dict[str, MessageRow] = {}
        """By message, as it was read when it was taken last."""
        self.gone = ""
        """What vanished last, for a person."""
        self.gone_at = 0
        """Cursors before this revision are of no use since then."""

    def take(self, threads: Mapping[str, Found | None], now_us: int) -> bool:
        """Compare threads as they are now (None: not there) with what is known; True if
        anything is new.

        Linear in the messages of these threads. Raises Vanished or Elsewhere, having taken
        nothing, CannotAdapt for an id that two threads have.
        """
        self.state.finish()
        self._check(threads)
        before = self.state.revision()
        for thread_id, found in threads.items():
            if found is None:
                continue
            known = self.state.thread(thread_id)
            if known is not None:  # a time that is not kept is that of the first look
                found_thread = replace(found.thread, created_us=known.created_us)
            else:
                found_thread = found.thread
            if found_thread != known:
                self.state.add_thread(found_thread)
            self.native_ids.update(found.native_ids)
            for row in found.messages:
                self._take(row, now_us, stamped=row.message_id in found.stamped)
        return self.state.revision() != before

    def _take(self, row: MessageRow, now_us: int, *, stamped: bool) -> None:
        if self._taken.get(row.message_id) is row:
            return
        known = self.state.message(row.message_id)
        if known is None:
            self.state.commit(row, replace(rules.created(row), error=row.error))
        else:
            self._compare(known, row, now_us, stamped=stamped)
        # Last: whatever an interrupt kept from being taken has to be looked at again.
        self._taken[row.message_id] = row

    def _compare(self, known: MessageRow, row: MessageRow, now_us: int, *, stamped: bool) -> None:
        seen = replace(
            row,
            created_us=known.created_us,
            updated_us=known.updated_us,
            revision=known.revision,
        )
        if seen == known:
            return
        at_us = row.updated_us if stamped and row.updated_us > known.updated_us else now_us
        change = difference(known, replace(seen, updated_us=at_us))
        if change is None:
            self.state.note(seen)
        else:
            self.state.commit(replace(seen, updated_us=at_us), change)

    def _check(self, threads: Mapping[str, Found | None]) -> None:
        lost_messages: list[str] = []
        lost_threads: list[str] = []
        for thread_id, found in threads.items():
            known = {row.message_id for row in self.state.messages(thread_id, None)}
            if found is None:
                if self.state.thread(thread_id) is not None:
                    lost_threads.append(thread_id)
            else:
                for row in found.messages:
                    known.discard(row.message_id)
                    other = self.state.message(row.message_id)
                    # Of one that was looked at too, the message is lost, or twice: see below.
                    if other is not None and other.thread_id not in threads:
                        raise Elsewhere
            lost_messages += known
        if lost_messages or lost_threads:
            raise Vanished(sorted(lost_messages), lost_threads)
        homes: dict[str, str] = {}
        for thread_id, found in threads.items():
            for row in found.messages if found is not None else ():
                home = homes.setdefault(row.message_id, thread_id)
                if home != thread_id:
                    raise CannotAdapt(
                        f"message id {row.message_id!r} is in thread {home!r} and in thread "
                        f"{thread_id!r}: here an id is of one message; look at one of them: "
                        "adapt_store(obj, threads=[…])"
                    )

    def forget(self, vanished: Vanished) -> None:
        """Go on without what is gone. A cursor from before is of no use any more."""
        old, lost = self.state, {*vanished.message_ids}
        for message_id in lost:
            self._taken.pop(message_id, None)  # it is gone, if this was interrupted before
        self.gone, self.gone_at = _named(vanished), old.revision() + 1
        fresh = _State()
        fresh.load(
            (row for row in old.threads() if row.thread_id not in vanished.thread_ids),
            (row for row in old.messages(None, None) if row.message_id not in lost),
            (row for row in old.retained() if row.message_id not in lost),
            self.gone_at,  # no change has it: whoever waits at the one before is told
        )
        self.state = fresh


def _named(vanished: Vanished) -> str:
    names: Collection[str] = vanished.message_ids or vanished.thread_ids
    kind = "message" if vanished.message_ids else "thread"
    first = repr(next(iter(names)))
    more = "" if len(names) == 1 else f" and {len(names) - 1:,} more"
    return f"{kind} {first}{more} vanished from it"


def difference(before: MessageRow, after: MessageRow) -> ChangeRow | None:
    """The one change that two looks can tell of, however many steps there were; None where they
    differ in nothing that a change has a word for (a key of metadata that was removed)."""
    added, replaced = None, None
    if after.content != before.content:
        if after.content.startswith(before.content):
            added = after.content[len(before.content) :]
        else:
            replaced = after.content
    new_keys = _new_keys(before.metadata, after.metadata)
    if (
        before.status is after.status
        and before.error == after.error
        and added is replaced is new_keys is None
    ):
        return None
    return ChangeRow(
        message_id=after.message_id,
        thread_id=after.thread_id,
        at_us=after.updated_us,
        previous=before.status,
        status=after.status,
        append=added,
        content=replaced,
        content_length=len(after.content),
        error=after.error,
        metadata=new_keys,
    )


def _new_keys(before: str, after: str) -> str | None:
    if before == after:
        return None
    old = json.loads(before)
    # As text: to Python True == 1 == 1.0, to a reader they differ.
    new = {
        key: value
        for key, value in json.loads(after).items()
        if key not in old or values.dump(old[key]) != values.dump(value)
    }
    return values.dump(new) if new else None
