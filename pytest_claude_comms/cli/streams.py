"""Standard output as it may be: of a narrow encoding, a closed pipe, gone."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


@contextmanager
def printable_streams() -> Iterator[None]:
    """Let what stdout and stderr cannot encode be shown escaped, instead of raising."""
    before = []
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            before.append((stream, stream.errors))
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in before:
            with suppress(OSError, ValueError):  # it may be closed, or a pipe that nobody reads
                stream.reconfigure(errors=errors)


def is_broken_pipe(error: BaseException) -> bool:
    """Whether it says that nobody reads our output any more."""
    if isinstance(error, BrokenPipeError):
        return True
    # Windows has no EPIPE on a closed pipe.
    return sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL


def pipe_of_stdout() -> int | None:
    """The descriptor of the pipe that standard output is, where it can be asked for its reader."""
    try:
        descriptor = sys.stdout.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (AttributeError, OSError, ValueError):
        return None
    return descriptor if is_pipe and hasattr(select, "poll") else None


def check_reader(descriptor: int) -> None:
    """Raise BrokenPipeError if nobody reads a pipe any more: who writes nothing does not notice."""
    asked = select.poll()
    asked.register(descriptor, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def flush_stdout() -> None:
    """Raises OSError where nobody reads any more, or the disk is full."""
    if sys.stdout is not None:  # as it is where descriptor 1 was closed
        sys.stdout.flush()


def say_aside(text: str) -> None:
    """A line of harmless text on standard error. Where it can't be written nobody is told: what
    counts then is the exit code, which it must not change."""
    if sys.stderr is None:  # descriptor 2 was closed; click would take standard output instead
        return
    import click

    try:
        click.echo(text, file=sys.stderr, color=False)
    except (OSError, ValueError):
        _send_into_nothing(sys.stderr)


def let_go_if_broken() -> None:
    """Let the interpreter's end flush what can't be written into nothing, not complain of it."""
    try:
        flush_stdout()
    except (OSError, ValueError):
        let_go_of_stdout()


def let_go_of_stdout() -> None:
    """Send into nothing what is still to be written."""
    _send_into_nothing(sys.stdout)


def _send_into_nothing(stream: TextIO) -> None:
    # What is buffered would be written at the interpreter's end, which exits with 120 if it fails.
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
