"""What a command is given: where its store is, how to print, and what was asked for globally."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..stores.base import ConversationStore
    from .output import Output


class Call:
    """One call of ``claude-comms``. The common options are set on it wherever they stand."""

    def __init__(self, given: ConversationStore | None = None) -> None:
        self.given = given
        """A store that takes the place of any other; not to be closed."""
        self.url = ""
        """What ``--store`` said."""
        self.json = False
        self.quiet = False
        self.no_color = False
        self.debug = bool(os.environ.get("CLAUDE_COMMS_DEBUG"))

    @cached_property
    def out(self) -> Output:
        """Where to print. To be asked for when all options are known, inside the command."""
        from .output import Output

        return Output(json=self.json, quiet=self.quiet, no_color=self.no_color)

    def store_url(self, *, create: bool = False) -> str:
        """The URL of the chosen store; see :mod:`.choosing`. Raises CommandError."""
        if self.given is not None:
            return self.given.url
        from .choosing import choose

        return choose(self.url, create=create)

    def store(self, *, create: bool = False) -> AbstractContextManager[ConversationStore]:
        """The chosen store, open for a ``with`` block.

        Without ``create`` it has to be there: looking for something must not leave a file
        behind. Raises CommandError and StoreError.
        """
        if self.given is not None:
            return nullcontext(self.given)
        from .choosing import open_chosen

        with self.out.working("opening the store"):
            return open_chosen(self.store_url(create=create))
