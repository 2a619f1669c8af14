"""What every live command is made of: signals that wait for their turn, a feed, lines drawn over.

Nothing here changes the state of a terminal: no alternate screen, no hidden cursor, echo stays as
it is. So there is nothing to restore, however the command ends.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TextIO

from ..clock import SECOND
from ..errors import HistoryGone, StoreError
from ..following import Follower
from . import interrupts
from .safety import clean, width

if TYPE_CHECKING:
    from ..records import Change
    from ..stores.base import ConversationStore
    from .output import Output

BEAT_US: Final = SECOND // 10
"""How often to look for what nobody signals: a commit of another process, a Ctrl-C."""
_PAGE: Final = 1_000
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
_ENOUGH: Final = 3

Parts = Sequence[tuple[str, "str | None"]]
"""A line in pieces, each with its colour or None."""


class Stops:
    """While in its ``with`` block, signals that ask to stop are noted, and nothing else.

    Whoever works looks at ``number`` where stopping is safe: an exception out of nowhere, as
    Ctrl-C is by default, could come while a child is started or a line half drawn. What was
    ignored before (``nohup``, a shell's background jobs) stays ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal that came."""
        self.count = 0
        self._before: list[tuple[int, Any]] = []

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():
            for name in _NAMES:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before.append((number, signal.signal(number, self._note)))
            # One that came before and is still under way would not let us get here.
            if interrupts:
                interrupts.clear()
                self.number = self.number or signal.SIGINT
                self.count += 1
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        # No lock may be taken here: the thread that is interrupted may hold it.
        self.number = self.number or number
        self.count += 1
        if self.count >= _ENOUGH and number == signal.SIGINT:
            raise KeyboardInterrupt  # whatever hangs, a person at a keyboard gets out

    def __exit__(self, *exc: object) -> None:
        # SIGINT last: what its handler raises would leave the others noted, and unheard.
        for number, handler in reversed(self._before):
            signal.signal(number, handler)

    @property
    def name(self) -> str:
        """``Ctrl-C``, or the signal's name."""
        if self.number == signal.SIGINT:
            return "Ctrl-C"
        return "" if self.number is None else signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """128 and the signal's number, as a shell has it."""
        return 128 + (self.number or 0)


class Feed:
    """All that is committed to a store, page by page; deadlines are settled meanwhile.

    With ``message_id`` set, and the history trimmed meanwhile, it goes on with what is kept of
    that message; of one that has not ended, that is all.
    """

    def __init__(self, store: ConversationStore, since: int) -> None:
        self.store = store
        self.cursor = since
        self.message_id: str | None = None
        self._follower = Follower(store, interval_us=BEAT_US)
        self._woken = False
        self._wakeup = store.clock.wakeup(polls=True)
        self._forget = store.subscribe(self._wakeup.set)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._forget()

    def take(self) -> Iterator[Change]:
        """What is new. A store that is busy for a while has nothing new; raises StoreError
        after that, and HistoryGone."""
        try:
            self._follower.look_patiently(self._wakeup, instant_over=not self._woken)
        except HistoryGone as gone:
            if gone.since is None or self.message_id is None:
                raise
            self._follower = Follower(self.store, interval_us=BEAT_US)
        while True:
            try:
                changes = self.store.changes(self.cursor, limit=_PAGE)
            except HistoryGone as gone:
                if gone.since is None or self.message_id is None:
                    raise
                yield from self._what_is_kept(self.message_id)
                return
            except StoreError as error:
                self._follower.survive(error)
                return
            yield from changes
            self.cursor = changes.cursor
            if len(changes) < _PAGE:
                return

    def _what_is_kept(self, message_id: str) -> Iterator[Change]:
        last = self.store.cursor()
        for change in self.store.changes(message=message_id):
            if self.cursor < change.revision <= last:
                yield change
        self.cursor = last

    def wait(self, span_us: int | None, why: str) -> None:
        """Until there may be something new, for ``span_us`` at most."""
        spans = [s for s in (span_us, self._follower.span_us()) if s is not None]
        self._woken = self._wakeup.wait(
            max(0, min(spans)) if spans else None,
            why=why,
            beat_us=BEAT_US,
            notified=self._follower.notified,
        )


def size(stream: TextIO) -> tuple[int, int]:
    """Columns and lines of the terminal behind a stream."""
    with suppress(OSError, ValueError):
        found = os.get_terminal_size(stream.fileno())
        if found.columns > 0 and found.lines > 0:
            return found.columns, found.lines
    return 80, 24


def cut(text: str, most: int) -> str:
    """At most ``most`` cells of a text of one line, with … where something is missing."""
    if width(text) <= most:
        return text
    if most < 1:
        return ""
    kept, cells = [], 0
    for char in text[:most]:
        cells += width(char)
        if cells > most - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def line(out: Output, parts: Parts, most: int) -> str:
    """The parts in their colours, ``most`` cells in all at most."""
    painted = []
    for text, colour in parts:
        shown = cut(clean(text), most)
        most -= width(shown)
        painted.append(out.paint(shown, colour) if shown.strip() else shown)
        if most <= 0:
            break
    return "".join(painted)


class Region:
    """The last lines on a terminal, drawn over where they have changed.

    The cursor rests under them, so that whatever comes next, a shell's prompt too, is in place.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shown: list[tuple[str, int]] = []
        """Each line with its cells, which colours have none of."""
        self._size = (0, 0)
        self.writes = 0
        """How often something was drawn."""

    def draw(self, lines: Sequence[tuple[str, int]], size: tuple[int, int]) -> None:
        """Show these lines on a terminal of so many columns and lines: each text with its cells,
        which have to be fewer than the columns, as the lines fewer than the terminal's."""
        new = list(lines)
        if size != self._size and self._shown:
            # Terminals break lines anew when they get narrower: what was one is then several.
            rows = sum(-(-max(cells, 1) // size[0]) for _, cells in self._shown)
            up = min(rows, size[1] - 1)
            text = f"\x1b[{up}A\r\x1b[J" + "".join(f"{each}\n" for each, _ in new)
        else:
            text = self._difference(new)
        self._shown, self._size = new, size
        if text:
            self.writes += 1
            self._stream.write(text)  # at once: nothing is seen half done
            self._stream.flush()

    def _difference(self, new: list[tuple[str, int]]) -> str:
        old = self._shown
        if new == old:
            return ""
        pieces = [f"\x1b[{len(old)}A"] if old else []
        skipped = 0
        for place, (text, _) in enumerate(new):
            if place < len(old) and old[place][0] == text:
                skipped += 1
                continue
            if skipped:
                pieces.append(f"\x1b[{skipped}B")
                skipped = 0
            pieces.append(f"\r{text}\x1b[K\n")
        if skipped:
            pieces.append(f"\x1b[{skipped}B")
        if len(new) < len(old):
            pieces.append("\r\x1b[J")
        return "".join(pieces)

    def leave(self) -> None:
        """The last lines stay; what the terminal has echoed under them (``^C``) does not."""
        self._stream.write("\r\x1b[K")
        self._stream.flush()
