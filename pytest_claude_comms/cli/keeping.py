"""``claude-comms copy``, ``backup``, ``check`` and ``compact``: a store as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from . import exits, json_form
from .call import Call
from .declaring import command
from .durations import Seconds, Type
from .exits import CommandError
from .safety import clean

if TYPE_CHECKING:
    from ..stores.reports import CheckReport, CopyReport, Progress
    from .output import Output


@command(
    examples="""
    claude-comms copy tinydb:///comms.json sqlite:///comms.db
    claude-comms copy sqlite:///comms.db tinydb:///comms.json --json
    """,
    store=False,
)
@click.argument("source", metavar="SRC_URL")
@click.argument("target", metavar="DST_URL")
def copy(call: Call, source: str, target: str) -> None:
    """Copy a whole store into a new one, of the same kind or another.

    Ids, order, times, deadlines, revisions and history stay what they are; others may go on
    writing to the source. DST_URL must name no store yet, or an empty one. All of it is read back
    and compared, by count and by digest (SHA-256). Killed at any moment, it leaves the target
    empty, or whole.

    The copy is a store of its own, with another store id. Tables of yours in a TinyDB file are
    not copied; to keep those too, use 'backup'.
    """
    from ..stores.copying import check_source, copy_store
    from .choosing import choose, open_chosen, refuse_memory

    from_url = choose(source, missing="SRC_URL is the store to copy from, which has to be there")
    to_url = choose(target, create=True)
    refuse_memory(to_url)
    out = call.out
    with ExitStack() as stack:
        with out.working("opening the stores"):
            reader = stack.enter_context(open_chosen(from_url, reading=True))
            check_source(reader)
            writer = stack.enter_context(open_chosen(to_url))
        with _telling(out) as progress:
            report = copy_store(reader, writer, progress=progress)
    _print_copy(out, report)


def _print_copy(out: Output, report: CopyReport) -> None:
    if report.left_behind:
        names = ", ".join(map(clean, report.left_behind))
        out.note(f"not copied, since it is no conversation: {names}")
    if out.is_json:
        fields = {**asdict(report), "left_behind": list(report.left_behind)}
        out.json(json_form.document("copy", **fields))
        return
    out.print(f"copied {clean(report.source)}\n    to {clean(report.target)}")
    out.print(
        f"{_count(report.threads, 'thread')}, {_count(report.messages, 'message')}, "
        f"{_count(report.changes, 'change')} up to revision {report.revision}"
    )
    out.print(f"read back and the same: sha256 {report.digest}")


@command(
    examples="""
    claude-comms backup comms-2026-01-01.db
    claude-comms backup /backups/comms.db --overwrite --store sqlite:///comms.db
    claude-comms status --store comms-2026-01-01.db   # look into it
    """
)
@click.argument("path", metavar="FILE", type=click.Path())
@click.option("--overwrite", is_flag=True, help="Take the place of a FILE that is there.")
def backup(call: Call, path: str, *, overwrite: bool) -> None:
    """Write the whole store into one new file, as it is at one instant.

    Others may go on writing to the store. FILE appears complete and at once, readable by its
    owner only. It is a store of the same kind: to look into it, name it by --store; to restore
    it, close the store everywhere and put FILE in its place, without the files beside it. Whoever
    watched the store then is told that its history is gone.
    """
    from ..stores.backup import backup_store

    out = call.out
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        # Made by mistake, it would hold a backup that nobody finds.
        raise CommandError(exits.USAGE, f"there is no folder {folder}: make it first")
    with call.reading(besides=path) as store, _telling(out) as progress:
        report = backup_store(store, path, overwrite=overwrite, progress=progress)
    if out.is_json:
        out.json(json_form.document("backup", **asdict(report)))
    else:
        source, path = clean(report.source), clean(report.path)
        out.print(f"backed up {source}\n       to {path} ({report.bytes:,} bytes)")


@command(
    examples="""
    claude-comms check
    claude-comms check --store sqlite:///comms.db --json | jq '.findings'
    claude-comms check || echo "look at it"
    """
)
def check(call: Call) -> int:
    """Look for damage, without writing anything, while others may write.

    Looks at the files and their modes, at SQLite's own integrity or the checksums of TinyDB's
    journal, and whether each message is what its history made it. What a kill leaves behind is
    no damage. Exits with 6 if something was found.
    """
    from ..stores.checking import check_store

    out = call.out
    target = call.given or call.store_url()
    with out.working("checking the store"):
        try:
            report = check_store(target)
        except ValueError as error:
            raise CommandError(exits.USAGE, str(error)) from error
    if out.is_json:
        fields = {**asdict(report), "ok": report.ok, "notes": list(report.notes)}
        fields["findings"] = [asdict(finding) for finding in report.findings]
        out.json(json_form.document("check", **fields))
    else:
        _print_check(out, report)
    return exits.OK if report.ok else exits.STORE


def _print_check(out: Output, report: CheckReport) -> None:
    for note in report.notes:
        out.note(clean(f"note: {note}"))
    for finding in report.findings:
        # In one line each: an id with a line break must not write lines of its own.
        out.print(clean(f"{finding.kind}: {finding.thing}: {finding.reason}"))
    for way_out in dict.fromkeys(finding.way_out for finding in report.findings):
        out.print(clean(f"what to do: {way_out}"))
    trimmed = f", history trimmed up to {report.trimmed}" if report.trimmed else ""
    what = _count(len(report.findings), "finding") if report.findings else "all in order"
    out.print(
        f"{clean(report.url)}: {what} ({_count(report.threads, 'thread')}, "
        f"{_count(report.messages, 'message')}, {_count(report.changes, 'change')}, "
        f"revision {report.revision}{trimmed})"
    )


class Keep(Type):
    """``1000`` changes, or ``30d``."""

    name = "KEEP"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | timedelta:
        if isinstance(value, (int, timedelta)):
            return value
        word = str(value).strip()
        if word.isascii() and word.isdigit() and len(word) < 19:
            return int(word)
        try:
            # A bare number that is no count (1.5, -1) would be one of seconds.
            seconds = Seconds().convert(word, param, ctx) if word[-1:].isalpha() else None
        except click.UsageError:
            seconds = None
        if seconds is None:  # in one's own words: those of a span would not name counts
            self.fail(f"{value!r} is no number of changes and no span: 1000, 12h, 30d", param, ctx)
        return timedelta(seconds=seconds)


@command(
    examples="""
    claude-comms compact --keep 30d      # the history of the last 30 days
    claude-comms compact --keep 10000    # the last 10,000 changes
    """
)
@click.option(
    "--keep",
    type=Keep(),
    required=True,
    metavar="KEEP",
    help="How much history to keep: a number of changes, or a span such as 12h or 30d.",
)
def compact(call: Call, keep: int | timedelta) -> None:
    """Forget old history, and give its space back.

    Threads and messages stay as they are. What goes are the steps by which messages that have
    ended came there: of those only the end and the last change are kept. Whoever comes back with
    a cursor from before is told that the history is gone. Others may go on reading and writing.
    """
    out = call.out
    with call.store() as store, out.working("compacting"):
        report = store.compact(keep=keep)
        url = store.url
    if out.is_json:
        out.json(json_form.document("compact", url=url, **asdict(report)))
        return
    size = ""
    if report.bytes_before is not None and report.bytes_after is not None:
        size = f"; {report.bytes_before:,} bytes before, {report.bytes_after:,} now"
        if report.bytes_after >= report.bytes_before and report.waiting is None:
            size += ": there was no space to give back"
    out.print(
        f"{clean(url)}: {_count(report.removed, 'change')} removed, history trimmed up to revision "
        f"{report.trimmed}{size}"
    )
    if report.waiting is not None:
        out.note(f"note: it is larger than it could be: {report.waiting}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@contextmanager
def _telling(out: Output) -> Iterator[Progress]:
    """Shows on standard error how far a long step has come."""
    with ExitStack() as stack:
        steps: dict[str, tuple[Any, int]] = {}

        def tell(step: str, done: int, total: int) -> None:
            if step not in steps:
                stack.close()  # the bar of the step before
                if total > 1:
                    steps[step] = stack.enter_context(out.progress(step, total)), 0
                else:  # not known how far it is in between
                    stack.enter_context(out.working(step))
                    steps[step] = (lambda _: None), 0
            advance, before = steps[step]
            advance(done - before)
            steps[step] = advance, done

        yield tell
