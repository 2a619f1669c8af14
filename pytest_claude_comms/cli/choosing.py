"""Which store a command is about, and opening it without making one by mistake."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from . import exits
from .exits import CommandError

if TYPE_CHECKING:
    from ..redaction import Redact
    from ..stores.base import ConversationStore

VARIABLE = "CLAUDE_COMMS_STORE"
REDACT_VARIABLE = "CLAUDE_COMMS_REDACT"
_KINDS = {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".json": "tinydb"}
"""What a new store's file is, by its ending; what is there is what is in it."""
_ENDINGS = tuple(_KINDS)
_MAKERS = "'ask', 'replay' and 'demo' make one"
_APPLICATION_ID = b"ClCo"
_HEAD = 4096
_HOW = (
    "say which by --store URL (sqlite:///comms.db, tinydb:///comms.json, or the path of a store's "
    f"file), by {VARIABLE}, or by store = … under [tool.claude-comms] in pyproject.toml"
)


def choose(given: str = "", *, create: bool = False) -> str:
    """The URL of the store: what was given, else the environment's, pyproject.toml's, or the
    one store file of this directory.

    Raises CommandError: for none or several (usage), and, unless ``create``, for a store that
    is not there (store trouble).
    """
    if not given and _was_given_empty():
        raise CommandError(exits.USAGE, f"--store names nothing; {_HOW}")
    variable = os.environ.get(VARIABLE, "")
    if given:
        url = _as_url(given, said=f"as {given!r} says", create=create)
    elif variable:
        url = _as_url(variable, said=f"as {VARIABLE}={variable!r} says", create=create)
    else:
        url = _from_project(create=create) or _only_one_here()
    if "\0" in url:
        raise CommandError(exits.USAGE, "the name of a store cannot have a NUL character")
    _check_regular(url)
    if not create:
        _check_there(url)
    return url


def _was_given_empty() -> bool:
    """Whether there was a ``--store ''``, which looks as if there had been none."""
    import click
    from click.core import ParameterSource

    context = click.get_current_context(silent=True)
    while context is not None:
        if context.get_parameter_source("url") is ParameterSource.COMMANDLINE:
            return True
        context = context.parent
    return False


def open_chosen(url: str) -> ConversationStore:
    """Open a store. What the URL is wrong about is a usage error."""
    from ..stores import open_store

    redact = _redact()
    try:
        return open_store(url) if redact is None else open_store(url, redact=redact)
    except ValueError as error:
        raise CommandError(exits.USAGE, str(error)) from error


def _redact() -> Redact | None:
    """What the environment says, else the nearest pyproject.toml that says anything of it."""
    from ..redaction import redactor_named

    name = os.environ.get(REDACT_VARIABLE, "")
    if not name:
        folder = os.getcwd()
        while (said := _redact_said_in(os.path.join(folder, "pyproject.toml"))) is None:
            folder, below = os.path.dirname(folder), folder
            if folder == below:
                return None
        if not isinstance(said, bool):
            raise CommandError(
                exits.USAGE,
                f"redact under [tool.claude-comms] is true or false, not {said!r}: what runs here "
                f"is not for a project's file to choose; name a function by {REDACT_VARIABLE}",
            )
        if not said:
            return None
        name = "secrets"
    try:
        return redactor_named(name)
    except (TypeError, ValueError) as error:
        raise CommandError(exits.USAGE, f"{REDACT_VARIABLE}: {error}") from error


def kind_of(path: str) -> str | None:
    """Which kind of store of ours a file is, "sqlite" or "tinydb", by what is in it; or None.

    Reads its first bytes only. Raises OSError.
    """
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        # To open a FIFO would wait for somebody who writes to it.
        raise OSError(errno.EINVAL, "it is no regular file", path)
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head.startswith(b"SQLite format 3\0"):
        return "sqlite" if head[68:72] == _APPLICATION_ID else None
    # Our table comes first in the file; "store_id" tells it from a user's of the same name.
    text = head.lstrip()
    if text.startswith(b'{"claude_comms"') and b'"store_id"' in text:
        return "tinydb"
    return None


def path_of(url: str) -> str | None:
    """The file of one of our file stores, absolute; None for any other kind of store."""
    scheme, _, rest = url.partition(":")
    if scheme not in ("sqlite", "tinydb") or not rest.startswith("///") or not rest[3:]:
        return None
    return os.path.abspath(rest[3:])


def _as_url(named: str, folder: str = "", *, said: str, create: bool) -> str:
    """A URL as it is, or that of the store file at a path; both relative to ``folder``."""
    scheme, colon, rest = named.partition(":")
    # C:\comms.db: one letter is a drive.
    if colon and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum():
        if folder and scheme in ("sqlite", "tinydb") and rest.startswith("///"):
            return f"{scheme}:///{os.path.abspath(os.path.join(folder, rest[3:]))}"
        return named
    path = os.path.abspath(os.path.join(folder, named))
    if "\0" in path:
        return path
    try:
        kind = kind_of(path)
    except FileNotFoundError:
        if not create:
            raise CommandError(
                exits.STORE, f"there is no store at {path}, {said}; {_MAKERS}"
            ) from None
        kind = _KINDS.get(os.path.splitext(path)[1].lower())
        if kind is None:
            raise CommandError(
                exits.STORE,
                f"there is no store at {path}; for a new one say which kind it is to be: "
                f"sqlite:///{named} or tinydb:///{named}",
            ) from None
    except OSError as error:
        raise CommandError(exits.STORE, exits.words(error)) from error
    if kind is None:
        raise CommandError(exits.STORE, f"{path} is no conversation store")
    return f"{kind}:///{path}"


def _from_project(*, create: bool) -> str:
    """What the nearest pyproject.toml with a table of ours says; "" if none does."""
    folder = os.getcwd()
    while True:
        path = os.path.join(folder, "pyproject.toml")
        found = _said_in(path)
        if found:
            return _as_url(
                found, folder, said=f"as store = {found!r} in {path} says", create=create
            )
        above = os.path.dirname(folder)
        if above == folder:
            return ""
        folder = above


def _said_in(path: str) -> str:
    store = _table_in(path).get("store", "")
    if not isinstance(store, str):
        raise CommandError(exits.USAGE, f"{path}: store is to be a string, not {store!r}")
    return store


def _redact_said_in(path: str) -> object:
    try:
        return _table_in(path).get("redact")
    except CommandError:
        with open(path, "rb") as file:
            if b"redact" in file.read():  # who says so must not find out later that it was not done
                raise
        return None


def _table_in(path: str) -> dict[str, Any]:
    """What a pyproject.toml has under [tool.claude-comms]."""
    if not os.path.isfile(path):  # to open a FIFO would wait for ever
        return {}
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return {}
    if b"claude-comms" not in data:  # most have not: parsing them would take longer
        return {}
    try:
        table = _toml(data.decode("utf-8")).get("tool", {}).get("claude-comms", {})
        return dict(table.items())
    except (ValueError, AttributeError) as error:
        raise CommandError(exits.USAGE, f"{path} cannot be read: {error}") from error
    except RecursionError:
        raise CommandError(exits.USAGE, f"{path} cannot be read: it nests too deep") from None


def _toml(text: str) -> dict[str, Any]:
    import sys
    from importlib import import_module

    reader = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, Any] = reader.loads(text)
    return found


def _only_one_here() -> str:
    found = []
    for name in sorted(os.listdir()):
        if name.endswith(_ENDINGS) and os.path.isfile(name):
            try:
                kind = kind_of(name)
            except OSError:
                continue
            if kind is not None:
                found.append(f"{kind}:///{name}")
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n".join(f"  {url}" for url in found)
        raise CommandError(
            exits.USAGE, f"there are {len(found)} stores in this directory:\n{listed}\n{_HOW}"
        )
    raise CommandError(exits.USAGE, f"which store? There is none in this directory; {_HOW}")


def _check_regular(url: str) -> None:
    """Opening a FIFO or a device would hang, or worse."""
    path = path_of(url)
    try:
        mode = stat.S_IFREG if path is None else os.stat(path).st_mode
    except (OSError, ValueError):
        return  # missing: that is looked at elsewhere
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CommandError(exits.STORE, f"{path}: it is no regular file")


def _check_there(url: str) -> None:
    """Opening a store makes it if it is missing, and takes over an empty or foreign TinyDB."""
    path = path_of(url)
    if path is None:
        return
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise CommandError(exits.STORE, f"there is no store at {path}; {_MAKERS}") from None
    except OSError as error:
        raise CommandError(exits.STORE, exits.words(error)) from error
    if os.path.isdir(path):
        raise CommandError(exits.STORE, f"{path} is a directory, not a conversation store")
    # A SQLite store that is being created may be all in its log.
    if not size and not (url.startswith("sqlite:") and _has_bytes(f"{path}-wal")):
        raise CommandError(exits.STORE, f"{path} is empty: it is no conversation store")
    if url.startswith("tinydb:"):
        _check_ours(path)


def _has_bytes(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except OSError:
        return False


def _check_ours(path: str) -> None:
    try:
        kind = kind_of(path)
    except OSError as error:
        raise CommandError(exits.STORE, exits.words(error)) from error
    if kind == "sqlite":
        raise CommandError(exits.STORE, f"{path} is a SQLite store: sqlite:///{path}")
    if not _is_ours(path):
        raise CommandError(
            exits.STORE, f"{path} is no conversation store of ours: opening it would make it one"
        )


def _is_ours(path: str) -> bool:
    """Whether a file has our table with a store's id; also if it is damaged: opening it then
    says what is wrong, and changes nothing."""
    from json import JSONDecoder, loads

    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD).lstrip()
            start = b'{"claude_comms":'
            if head.startswith(start):
                with suppress(ValueError):  # cut off: then all of it is read
                    text = head[len(start) :].decode("ascii").lstrip()
                    return _has_store_id(JSONDecoder().raw_decode(text)[0])
            file.seek(0)
            data = file.read()
    except OSError:
        return True
    try:
        content = loads(data)
    except RecursionError:
        return True
    except ValueError:
        return bool(data.strip())  # a blank one would be taken over
    return isinstance(content, dict) and _has_store_id(content.get("claude_comms"))


def _has_store_id(table: object) -> bool:
    return isinstance(table, dict) and any(
        isinstance(row, dict) and "store_id" in row for row in table.values()
    )
