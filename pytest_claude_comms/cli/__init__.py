"""The command line ``claude-comms``: a thin door over the library.

Only this folder imports click and rich (the extra ``cli``), and this file neither.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..stores.base import ConversationStore

_EXTRA = ("click", "rich", "tomli")


def main(argv: Sequence[str] | None = None, *, store: ConversationStore | None = None) -> int:
    """Run one command and return its exit code (``pytest_claude_comms.cli.exits``).

    ``store`` takes the place of whatever store would be chosen, and is left open: so a test can
    run a command on a store of its own.
    """
    # Looking whether they are there would cost more than finding out: rich is needed by few.
    try:
        from .app import run

        return run(list(sys.argv[1:] if argv is None else argv), store)
    except KeyboardInterrupt:  # while it was loading
        return 130
    except ModuleNotFoundError as error:
        missing = lacking(error)
        if not missing:
            raise
        # click, which does all printing else, may be what is missing.
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
