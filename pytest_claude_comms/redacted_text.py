"""A text that grows, redacted as if it had come at once.

A secret that comes in pieces is none in any of them, and when its beginning has become a mark its
end is none any more. So what came is remembered as it was, as far back as it may still matter.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final, NamedTuple

from .redaction import Redaction
from .secret_forms import WORD_END

_LONGEST_WORD: Final = 16_384
"""Characters of an unfinished word that are held back: no secret is longer."""
_REMEMBERED: Final = 32_768
"""Characters that are looked at again, at least, when more comes."""
_MOST_TEXTS: Final = 256
_CONTEXT: Final = 4_096
"""Characters of a text of unknown origin that are looked at again."""
_AUTHORITY: Final = re.compile(r"://[^\s/?#\"'<>]*\Z")
_LONGEST_AUTHORITY: Final = 512
"""Characters of a URL, from :// on, that may be a name and a password."""


class Edit(NamedTuple):
    """What to do to a stored text: add to it, or, where ``replaces``, put this in its place."""

    text: str
    replaces: bool = False

    def as_changes(self) -> dict[str, str]:
        """Arguments of ``update_message``; none where there is nothing to do."""
        if self.replaces:
            return {"content": self.text}
        return {"append": self.text} if self.text else {}


class _End(NamedTuple):
    """The end of a text, which may still change when more comes."""

    start: int = 0
    """Where it begins in the redacted text; what is before stays as it is."""
    raw: str = ""
    given: int = 0
    """How much of ``raw`` has been given out,"""
    shown: str = ""
    """as this."""

    def grown(self, redaction: Redaction, piece: str, *, whole: bool) -> tuple[_End, str]:
        """With ``piece`` after it, and what that has settled before the new end."""
        raw = self.raw + piece
        given = len(raw) if whole else max(self.given, len(raw) - held_back(redaction, raw))
        if given == self.given and not whole:
            return self._replace(raw=raw), ""
        shown = redaction(raw[:given], "content")
        # The last word may be that of a secret with spaces, which nobody must see without it.
        if given < len(raw) and shown + redaction(raw[given:], "content") != redaction(
            raw, "content"
        ):
            return self._replace(raw=raw), ""
        return _End(self.start, raw, given, shown)._settled(redaction)

    def _settled(self, redaction: Redaction) -> tuple[_End, str]:
        if self.given < 2 * _REMEMBERED:
            return self, ""
        cut = self.given - _REMEMBERED
        # Between two words if there is one: a hook may look for words.
        space = max(self.raw.rfind(" ", 0, cut), self.raw.rfind("\n", 0, cut)) + 1
        cut = space or cut
        before = redaction(self.raw[:cut], "content")
        after = redaction(self.raw[cut : self.given], "content")
        if before + after != self.shown:  # something begins before the cut that is not over
            return self, ""
        return _End(self.start + len(before), self.raw[cut:], self.given - cut, after), before


def held_back(redaction: Redaction, text: str) -> int:
    """How many of the last characters may be the beginning of what is to be taken out: the last
    word, or what the hook's own ``unfinished(text)`` says, if that is more."""
    word = 0
    for size in (256, _LONGEST_WORD):
        word = len(WORD_END.split(text[-size:])[-1])
        if word < size:
            break
    authority = _AUTHORITY.search(text[-_LONGEST_AUTHORITY:])
    if authority is not None:  # its password may be in a script without spaces
        word = max(word, len(authority[0]))
    return max(word, redaction.unfinished(text, "content"))


class RedactedStream:
    """A text that is written piece by piece; its last word waits until it is finished."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._settled: list[str] = []
        self._end = _End()

    def edit(self, piece: str, *, replaces: bool = False, whole: bool = False) -> Edit:
        """What ``piece`` does to what has been stored: comes after it, or in its place.
        ``whole``: nothing comes after it, so nothing has to wait."""
        before = self._end
        if replaces:
            before, self._settled = _End(), []
        self._end, settled = before.grown(self._redaction, piece, whole=whole)
        told = settled + self._end.shown
        edit = Edit(told[len(before.shown) :])
        if replaces or not told.startswith(before.shown):
            edit = Edit("".join([*self._settled, told]), replaces=True)
        if settled:
            self._settled.append(settled)
        return edit


class RedactedAppends:
    """What a store was given as the texts of its messages, as far as it may still matter."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._ends: OrderedDict[str, tuple[_End, _End]] = OrderedDict()
        """The last two of each message: of a commit that failed the one before counts."""

    def begun(self, message_id: str, content: str) -> str:
        """A text that begins with ``content``, or is replaced by it; returns it redacted."""
        end, settled = _End().grown(self._redaction, content, whole=True)
        self._remember(message_id, end)
        return settled + end.shown

    def appended(self, message_id: str, stored: str, piece: str) -> Edit:
        """What to do to the ``stored`` text for ``piece`` to come after it."""
        before = self._end_of(message_id, stored)
        end, settled = before.grown(self._redaction, piece, whole=True)
        self._remember(message_id, end)
        told = settled + end.shown
        if told.startswith(before.shown):
            return Edit(told[len(before.shown) :])
        return Edit(stored[: before.start] + told, replaces=True)

    def forget(self, message_id: str) -> None:
        """Nothing more will be appended to it."""
        self._ends.pop(message_id, None)

    def _end_of(self, message_id: str, stored: str) -> _End:
        for end in self._ends.get(message_id, ()):
            if end.start + len(end.shown) == len(stored) and stored.endswith(end.shown):
                return end
        # Somebody else wrote it. What they took out is not known; what they left may matter.
        start = max(0, len(stored) - _CONTEXT)
        context = stored[start:]
        return _End(start, context, len(context), context)

    def _remember(self, message_id: str, end: _End) -> None:
        last = self._ends.pop(message_id, (_End(),))[0]
        self._ends[message_id] = (end, last)
        while len(self._ends) > _MOST_TEXTS:
            self._ends.popitem(last=False)
