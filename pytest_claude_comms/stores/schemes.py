"""The schemes of store URLs that installed packages bring, by entry points.

::

    [project.entry-points."claude_comms.stores"]
    plain = "plain_store:open_plain_store"

``plain:///notes`` is opened by ``open_plain_store(url, *, clock, durability)`` then, which returns
a store; it is given ``redact=`` too where somebody asked for that. Nothing is imported before its
scheme is used, so that what is broken in one package breaks nothing else.
"""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from .base import ConversationStore, Durability

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..clock import Clock
    from ..redaction import Redact

GROUP = "claude_comms.stores"
"""The entry point group."""
RESERVED = ("memory", "sqlite", "tinydb", "adapted")
"""Names that no package can take; a store of ``adapt_store`` has a URL that cannot be opened."""
# Of the Protocol's names those that are not typing's.
_MEMBERS = (
    *sorted(name for name in vars(ConversationStore) if not name.startswith("_")),
    "__enter__",
    "__exit__",
)


class SchemeBroken(StoreError):
    """What brings the scheme cannot be used, or what it needs is not installed. It names the
    package."""

    transient = False


def listed() -> list[str]:
    """A line for each scheme that a package brings: ``plain:… (from plain-store 1.0)``."""
    return [f"{name}:… ({_said(points)})" for name, points in _found().items()]


def names() -> list[str]:
    """As ``listed``, without the colon: what a store is called in the matrix."""
    return [f"{name} ({_said(points)})" for name, points in _found().items()]


def is_known(scheme: str) -> bool:
    """Whether some package brings it; whether it can be used is another matter."""
    return scheme in _found() and scheme not in RESERVED


def factory_of(scheme: str) -> Callable[..., Any]:
    """What opens a URL of a known scheme. Raises SchemeBroken."""
    points = _found()[scheme]
    if len(points) > 1:
        raise SchemeBroken(
            f"the store scheme {scheme!r} is brought by {' and by '.join(map(_from, points))}: "
            "uninstall all but one of them"
        )
    (point,) = points
    what = f"the store scheme {scheme!r} is brought by {_from(point)} as {point.value!r}, which"
    cure = "update or uninstall that package"
    try:
        factory = point.load()
    except Exception as error:
        raise SchemeBroken(
            f"{what} cannot be loaded: {type(error).__name__}: {error}; {cure}"
        ) from error
    try:
        inspect.signature(factory).bind(f"{scheme}:", clock=None, durability="power")
    except (TypeError, ValueError) as error:
        raise SchemeBroken(
            f"{what} is {factory!r}, not a function (url, *, clock, durability): {error}; {cure}"
        ) from None
    found: Callable[..., Any] = factory
    return found


def open_by_scheme(
    url: str,
    scheme: str,
    *,
    clock: Clock | None,
    durability: Durability,
    redact: Redact | None = None,
) -> ConversationStore:
    """Open a URL of a known scheme. Raises SchemeBroken, and whatever the package's own raises."""
    factory = factory_of(scheme)
    options: dict[str, Any] = {"clock": clock, "durability": durability}
    if redact is not None:
        options["redact"] = redact
        try:
            inspect.signature(factory).bind(url, **options)
        except TypeError:
            raise SchemeBroken(
                f"the store scheme {scheme!r} is brought by {_from(_found()[scheme][0])}, and "
                "takes no redact=: nothing would be taken out before it is stored; open it "
                "without redact=, or ask that package for it"
            ) from None
    store = factory(url, **options)
    if isinstance(store, ConversationStore):
        return store
    raise SchemeBroken(
        f"the store scheme {scheme!r} is brought by {_from(_found()[scheme][0])}, and returned "
        f"{store!r}, which is no ConversationStore: {why_none(store)}"
    )


def why_none(made: object) -> str:
    """Why what a factory returned is no ConversationStore, and the way out."""
    if made is None:
        return "a factory returns the store that it has opened"
    missing = [name for name in _MEMBERS if not hasattr(made, name)]
    text = f"it has no {', '.join(missing)}"
    if all(callable(getattr(made, name, None)) for name in ("get_thread", "add_message")):
        text += "; adapt_store(…, clock=clock) makes a store of one of the original shape"
    return text


def _found() -> dict[str, list[EntryPoint]]:
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _said(points: list[EntryPoint]) -> str:
    text = " and ".join(map(_from, points))
    taken = "; not used, the name is taken" if points[0].name in RESERVED else ""
    clash = "; they clash" if len(points) > 1 and not taken else ""
    return f"from {text}{taken}{clash}"


def _from(point: EntryPoint) -> str:
    try:
        said = point.dist.metadata if point.dist is not None else None
    except OSError:
        said = None
    # get_all, since to ask for a key that is not there is deprecated.
    names, versions = ((said and said.get_all(key)) or [] for key in ("Name", "Version"))
    return " ".join(map(str, [*names[:1], *versions[:1]])) or "a package without metadata"
