"""``claude-comms watch``: messages as they change."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from .. import render
from ..clock import SECOND
from ..errors import HistoryGone, StoreError
from . import exits, facts, json_form
from .board import Board, Row, table
from .call import Call
from .declaring import command, completing
from .live import Feed, Region, Stops, line, size
from .streams import check_reader, pipe_of_stdout

if TYPE_CHECKING:
    from ..records import Change
    from ..stores.base import ConversationStore
    from .output import Output

_REDRAW_US = SECOND // 10
"""At most so often: a person reads no faster, and a burst of changes is drawn once."""


@command(
    examples="""
    claude-comms watch                          what is open, and what comes
    claude-comms watch --all
    claude-comms watch 7f3a 90c1                until both have ended
    claude-comms watch --all --json | jq -c 'select(.event == "status")'
    """
)
@click.argument("ids", metavar="[MESSAGE...]", nargs=-1, shell_complete=completing("open_messages"))
@click.option("--all", "all_", is_flag=True, help="Also what has ended before.")
def watch(call: Call, ids: tuple[str, ...], all_: bool) -> int:
    """Watch messages: their history first, then each change as it is committed, by whomever.

    On a terminal it is a table. What does not fit is counted; what happens now comes first. Piped
    elsewhere each change is a line, with --json a document. A message that does not exist yet is
    waited for: give its whole id.

    \b
    TIME         since its creation; of what has ended: how long it took
    CHARS        the characters of its text
    LAST CHANGE  how long ago, and what it was

    With ids it ends when all of them have ended. Without, it watches what is open and what comes,
    until Ctrl-C. Watching settles what is overdue.

    \b
    Exit code, with ids: that of the message's status: 0 complete, 1 failed,
    4 timeout, 5 cancelled; of several the first that is not 0; 130: Ctrl-C.
    Without: 0, also after Ctrl-C.
    """
    if ids and all_:
        raise exits.CommandError(exits.USAGE, "ids and --all say different things: give one")
    with call.store() as store, Stops() as stops:
        known = _known(call, store, ids)
        with Feed(store, store.cursor() if known else 0) as feed:
            return Watching(call.out, store, stops, feed, known).run(all_=all_)


def _known(call: Call, store: ConversationStore, ids: Iterable[str]) -> list[str]:
    """The whole ids; of a message that is not there, what was given."""
    from .finding import find_message

    found = []
    for each in ids:
        try:
            found.append(find_message(store, each).message_id)
        except exits.CommandError as error:
            if error.code != exits.NOT_FOUND:
                raise
            call.out.note(f"{error}: waiting for it to appear")
            found.append(each)
    return list(dict.fromkeys(found))


class Watching:
    """The table, or the lines, of one ``watch``."""

    def __init__(
        self,
        out: Output,
        store: ConversationStore,
        stops: Stops,
        feed: Feed,
        ids: list[str],
    ) -> None:
        self._out = out
        self._store = store
        self._stops = stops
        self._ids = ids
        self._board = Board(ids)
        self._feed = feed
        self._region = Region(sys.stdout) if out.is_live else None
        self._drawn_us = 0

    def run(self, *, all_: bool) -> int:
        """Until all has ended or a signal comes; returns the exit code."""
        with self._out.working("reading the history"):
            self._read_history(keep_ended=all_)
        clock = self._store.clock
        pipe = pipe_of_stdout()
        changed, draw_us = True, clock.monotonic_us()
        while True:
            for change in self._feed.take():
                if self._is_watched(change) and self._board.take(change):
                    self._tell(change)
                    changed = True
                if self._stops.count:
                    break
            over = bool(self._stops.count) or (bool(self._ids) and self._board.all_ended)
            now_us = clock.monotonic_us()
            if over or now_us >= draw_us:
                self._draw()
                changed, draw_us = False, now_us + SECOND
            elif changed:
                draw_us = min(draw_us, self._drawn_us + _REDRAW_US)
            if over:
                if self._region is not None:
                    self._region.leave()
                return self._code()
            span_us = None if self._region is None else draw_us - now_us
            if pipe is not None:  # `| head` may have had enough, and nothing more to come
                check_reader(pipe)
                span_us = SECOND
            self._feed.wait(span_us, "a change (it watches)")

    def _is_watched(self, change: Change) -> bool:
        return not self._ids or change.message_id in self._board.rows

    def _read_history(self, *, keep_ended: bool) -> None:
        board = self._board
        # Without a table each change is a line; of which messages, is known only at the end.
        lines: list[Change] = []
        for change in self._history(keep_ended=keep_ended):
            if self._stops.count:
                return
            if board.take(change) and self._region is None:
                lines.append(change)
        if not self._ids and not keep_ended:
            board.forget_ended()
        for change in lines:
            if change.message_id in board.rows:
                self._tell(change)

    def _history(self, *, keep_ended: bool) -> Iterator[Change]:
        ids: list[str] = self._ids
        if not ids:
            try:
                yield from self._feed.take()
                return
            except HistoryGone:
                if self._board.rows:
                    raise  # it was all there a moment ago
            # It was compacted: of each message there is what is still kept.
            self._feed.cursor = self._store.cursor()
            status = None if keep_ended else facts.OPEN
            ids = [message.message_id for message in self._store.messages(status=status)]
        found = [change for each in ids for change in self._store.changes(message=each)]
        yield from sorted(found, key=lambda change: change.revision)

    def _tell(self, change: Change) -> None:
        if self._region is not None:
            return
        if self._out.is_json:
            self._out.json(json_form.event_json(change, self._store.store_id))
        else:
            self._out.print(
                f"{render.instant(change.at)}  {render.clean(change.message_id)}  "
                f"{render.what_changed(change)}"
            )

    def _draw(self) -> None:
        self._drawn_us = self._store.clock.monotonic_us()
        if self._region is None:
            return
        columns, lines = size(sys.stdout)
        # A head and a line that sums up, and the row in which the cursor rests.
        rows = self._board.visible(max(1, lines - 3))
        for row in rows:
            self._look_up(row)
        shown = table(self._out, rows, self._store.clock.now(), columns) if rows else []
        last = self._board.summary(len(self._board.rows) - len(rows))
        if not self._ids:
            last += " · Ctrl-C to leave"
        painted = line(self._out, [(last, "bright_black")], columns - 1)
        shown.append((painted, min(len(last), columns - 1)))
        self._region.draw(shown, (columns, lines))

    def _look_up(self, row: Row) -> None:
        """Who writes it: no change says so, and only what is seen is worth a read."""
        if row.module is None and row.last is not None:
            try:
                message = self._store.get_message(row.message_id)
                # The change that made it may have been compacted away.
                row.module, row.created_at = message.module_name, message.created_at
            except StoreError:  # busy for a while: the next time will do
                return

    def _code(self) -> int:
        if not self._ids:
            return exits.OK if self._stops.name in ("", "Ctrl-C") else self._stops.exit_code
        if not self._board.all_ended:
            return self._stops.exit_code
        codes = [exits.of_status(self._board.rows[each].status) for each in self._ids]
        return next((code for code in codes if code), exits.OK)
