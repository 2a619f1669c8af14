"""The stores, and :func:`open_store`, which opens one by its URL."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, get_args

from .base import Durability

if TYPE_CHECKING:
    from ..clock import Clock
    from ..errors import StoreError
    from ..redaction import Redact
    from .base import ConversationStore

_PARAMETERS = re.compile(r"\?\w+=\w*(?:&\w+=\w*)*$")
"""How a name ends that was meant to be more than a path."""


def open_store(
    url: str,
    *,
    clock: Clock | None = None,
    durability: Durability = "power",
    redact: Redact | None = None,
) -> ConversationStore:
    """Open the store at ``url``, creating it if it does not exist.

    ``sqlite:///comms.db`` and ``tinydb:///comms.json`` (three slashes: relative to the current
    directory; four: absolute; any suffix), ``memory:``, or a scheme that an installed package
    brings by an entry point in the group ``claude_comms.stores`` (see :mod:`.schemes`).
    ``durability="process"`` survives any kill of a process, ``"power"`` also a power cut, at the
    price of an fsync per change. ``redact`` is a function from str to str, such as
    :func:`~pytest_claude_comms.redact_secrets`: of all text but ids only what it returns is
    stored.

    Raises ValueError for a URL or durability that is none (it lists what there is), and for a URL
    that ends in parameters, as ``?mode=ro``, where there is no file of that name. Raises StoreError
    where the file cannot be opened or what a package brings cannot be used.
    """
    if not isinstance(url, str):
        raise TypeError(f"a store URL is a str, not {url!r}")
    if durability not in get_args(Durability):
        raise ValueError(f"no durability {durability!r}; there are {get_args(Durability)}")
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and colon:
        from .memory import MemoryConversationStore

        if rest:
            raise ValueError(f"{url!r}: a memory store has no path; its URL is 'memory:'")
        return MemoryConversationStore(clock=clock, redact=redact)
    if scheme == "sqlite" and colon:
        from .sqlite import SQLiteConversationStore

        return SQLiteConversationStore(
            _path(url, rest), clock=clock, durability=durability, redact=redact
        )
    if scheme == "tinydb" and colon:
        try:
            from .tinydb import TinyDBConversationStore
        except ModuleNotFoundError as error:
            raise _unusable(url, error) from error
        return TinyDBConversationStore(
            _path(url, rest), clock=clock, durability=durability, redact=redact
        )
    return _third_party(url, scheme if colon else "", clock, durability, redact)


def open_for_reading(url: str, *, clock: Clock | None = None) -> ConversationStore:
    """The store at ``url``, to look at: its files stay as they are, and none comes to be.

    Everything that would write raises StoreError; so does opening what is not there. A store of
    a third party is opened as it always is. Raises as :func:`open_store` does.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "sqlite" and colon:
        from .sqlite_reading import SQLiteReader

        return SQLiteReader(_path(url, rest), clock=clock)
    if scheme == "tinydb" and colon:
        try:
            from .tinydb_reading import TinyDBReader
        except ModuleNotFoundError as error:
            raise _unusable(url, error) from error
        return TinyDBReader(_path(url, rest), clock=clock)
    return open_store(url, clock=clock)


def path_in(url: str) -> str:
    """The absolute path that a ``sqlite`` or ``tinydb`` URL names. Raises ValueError."""
    return _path(url, url.partition(":")[2])


def _path(url: str, rest: str) -> str:
    path = rest.removeprefix("///")
    if path == rest or not path or path.endswith("/"):
        scheme = url.partition(":")[0]
        raise ValueError(
            f"{url!r} names no file: write {scheme}:///name for a file in the current directory, "
            f"{scheme}:////folder/name for an absolute path"
        )
    path = os.path.abspath(path)
    # A file that has such a name is opened, as its own store says its URL so; none is made.
    if _PARAMETERS.search(path) and not os.path.exists(path):
        raise ValueError(
            f"{url!r} has parameters, and a store URL takes none: write "
            f"{_PARAMETERS.sub('', url)}, and the rest as arguments of open_store()"
        )
    return path


def _unusable(url: str, error: ModuleNotFoundError) -> StoreError:
    from .schemes import SchemeBroken

    return SchemeBroken(f"{url!r} cannot be opened: {error}")


def _third_party(
    url: str, scheme: str, clock: Clock | None, durability: Durability, redact: Redact | None
) -> ConversationStore:
    from . import schemes  # here: what is installed is looked for only when it is asked for

    if schemes.is_known(scheme):
        return schemes.open_by_scheme(
            url, scheme, clock=clock, durability=durability, redact=redact
        )
    raise unknown_url(url)


def unknown_url(url: str) -> ValueError:
    """The error for a URL that nobody here can open: it lists those that somebody can."""
    from . import schemes

    if url.startswith("adapted:"):
        return ValueError(f"{url!r} cannot be opened: such a store is made by adapt_store(obj)")
    known = ["memory:", "sqlite:///PATH", "tinydb:///PATH", *schemes.listed()]
    return ValueError(f"{url!r} is no store URL; there are {', '.join(known)}")
