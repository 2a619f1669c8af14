"""The command line ``claude-comms``: a thin door over the library.

Only this folder imports click and rich (the extra ``cli``), and this file neither.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..stores.base import ConversationStore

_EXTRA = ("click", "rich", "tomli")

interrupts: list[int] = []
"""Each Ctrl-C that came while nobody else minded signals. ``live.Stops`` takes it over: the
KeyboardInterrupt may have been raised where Python can only ignore it (a weakref's callback, of
which importing has many), and a person who has given up must not pay for an answer."""


def _note(number: int, frame: FrameType | None) -> None:
    interrupts.append(number)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None, *, store: ConversationStore | None = None) -> int:
    """Run one command and return its exit code (``pytest_claude_comms.cli.exits``).

    ``store`` takes the place of whatever store would be chosen, and is left open: so a test can
    run a command on a store of its own.
    """
    minds = _mind_interrupts()
    try:
        return _main(argv, store)
    except KeyboardInterrupt:  # while it was loading
        return 130
    finally:
        if minds:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _mind_interrupts() -> bool:
    """Whether Ctrl-C is noted from now on: not if whoever called us does something of his own."""
    interrupts.clear()
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    try:
        signal.signal(signal.SIGINT, _note)
    except ValueError:  # not the main thread, to which alone signals come
        return False
    return True


def _main(argv: Sequence[str] | None, store: ConversationStore | None) -> int:
    # Looking whether they are there would cost more than finding out: rich is needed by few.
    try:
        from .app import run

        return run(list(sys.argv[1:] if argv is None else argv), store)
    except ModuleNotFoundError as error:
        missing = lacking(error)
        if not missing:
            raise
        # click, which does all printing else, may be what is missing.
        if sys.stderr is not None:
            sys.stderr.write(
                f"claude-comms: error: the command line needs {missing}: "
                'pip install "pytest-claude-comms[cli]"\n'
            )
        return 2


def lacking(error: BaseException) -> str:
    """The package of the extra ``cli`` that an error says is missing, or ""."""
    if not isinstance(error, ModuleNotFoundError):
        return ""
    package = (error.name or "").partition(".")[0]
    return package if package in _EXTRA else ""
