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
        self.opened = ""
        """The URL of the store that was opened last, "" before."""

    @cached_property
    def out(self) -> Output:
        """Where to print. To be asked for when all options are known, inside the command."""
        from .output import Output

        return Output(json=self.json, quiet=self.quiet, no_color=self.no_color)

    def store_url(self, *, create: bool = False, besides: str = "") -> str:
        """The URL of the chosen store; see :mod:`.choosing`. Raises CommandError."""
        if self.given is not None:
            return self.given.url
        from .choosing import choose

        return choose(self.url, create=create, besides=besides)

    def store(self, *, create: bool = False) -> AbstractContextManager[ConversationStore]:
        """The chosen store, open for a ``with`` block.

        Without ``create`` it has to be there: looking for something must not leave a file
        behind. Raises CommandError and StoreError.
        """
        if self.given is not None:
            return nullcontext(self.given)
        from .choosing import open_chosen

        with self.out.working("opening the store"):
            self.opened = self.store_url(create=create)
            return open_chosen(self.opened)

    def reading(self, *, besides: str = "") -> AbstractContextManager[ConversationStore]:
        """As ``store``, for a command that only looks: whatever lies on the disk stays as it is.

        ``besides`` is a file that is not meant where none is named. Raises CommandError and
        StoreError.
        """
        if self.given is not None:
            return nullcontext(self.given)
        from .choosing import open_chosen

        with self.out.working("opening the store"):
            self.opened = self.store_url(besides=besides)
            return open_chosen(self.opened, reading=True)
