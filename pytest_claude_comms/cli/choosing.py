"""Which store a command is about, and opening it without making one by mistake."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import nullcontext, suppress
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
_KEYS = ("store", "redact")
"""What pyproject.toml may say under [tool.claude-comms]."""
_MAKERS = "'ask', 'replay', 'demo' and 'copy' make one"
_APPLICATION_ID = b"ClCo"
_HEAD = 4096
_OPEN_HERE = b"SQLite format 3\0".ljust(60, b"\1") + b"\1" * 8 + _APPLICATION_ID
"""In place of the head of a file that this process has open as a SQLite store."""
_HOW = f"""\
say which, by one of:
  --store URL               sqlite:///comms.db, tinydb:///comms.json,
                            or the path of a store's file
  {VARIABLE}=URL
  pyproject.toml            [tool.claude-comms]
                            store = "sqlite:///comms.db\""""
"""In lines of its own: a terminal would break one long line anywhere."""


def choose(
    given: str = "", *, create: bool = False, besides: str = "", missing: str = _MAKERS
) -> str:
    """The URL of the store: what was given, else the environment's, pyproject.toml's, or the
    one store file of this directory, that at the path ``besides`` left out.

    ``missing`` is what is said of one that is not there: what to do about it.

    A file is named by its absolute path. Raises CommandError: for none or several (usage), and,
    unless ``create``, for a store that is not there (store trouble) or in memory (usage).
    """
    if not given and _was_given_empty():
        raise CommandError(exits.USAGE, f"--store names nothing; {_HOW}")
    variable = os.environ.get(VARIABLE, "")
    said = f"as {given!r} says"
    if given:
        url = _as_url(given, said=said, create=create, missing=missing)
    elif variable:
        said = f"as {VARIABLE}={variable!r} says"
        url = _as_url(variable, said=said, create=create)
    else:
        url, said = _from_project(create=create)
        url = url or _only_one_here(besides)
    if "\0" in url:
        raise CommandError(exits.USAGE, "the name of a store cannot have a NUL character")
    _check_regular(url)
    if not create:
        refuse_memory(url)
        _check_there(url, said, missing)
    return url


def refuse_memory(url: str) -> None:
    """What another process has in its memory nobody sees. Raises CommandError: usage."""
    if url.startswith("memory:"):
        raise CommandError(
            exits.USAGE,
            f"{url!r}: a memory store is seen by the process that made it only, and ends with it: "
            "name a store that has a file",
        )


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


def open_chosen(url: str, *, reading: bool = False) -> ConversationStore:
    """Open a store; with ``reading`` only to be looked at, so that nothing on the disk changes.

    What the URL is wrong about is a usage error.
    """
    from ..stores import open_for_reading, open_store

    try:
        if reading:
            return open_for_reading(url)
        redact = _redact()
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
    head = _head_of(path)
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


def _as_url(
    named: str, folder: str = "", *, said: str, create: bool, missing: str = _MAKERS
) -> str:
    """A URL as it is, or that of the store file at a path; both relative to ``folder``."""
    scheme, colon, rest = named.partition(":")
    # C:\comms.db: one letter is a drive.
    if colon and len(scheme) > 1 and scheme.replace("+", "").replace("-", "").isalnum():
        if scheme in ("sqlite", "tinydb") and rest.startswith("///") and rest[3:]:
            if rest.endswith("/"):  # a folder's: who opens it says so
                return named
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
                exits.STORE, f"there is no store at {path}, {said}; {missing}"
            ) from None
        kind = _KINDS.get(os.path.splitext(path)[1].lower())
        if kind is None:
            raise CommandError(
                exits.STORE,
                f"there is no store at {path}; for a new one say which kind it is to be: "
                f"sqlite:///{named} or tinydb:///{named}",
            ) from None
    except OSError as error:
        why = _is_directory(path) if os.path.isdir(path) else exits.words(error)
        raise CommandError(exits.STORE, why) from error
    if kind is None:
        raise CommandError(
            exits.STORE,
            f"{path} is no conversation store; if it was one, name it by its URL: "
            f"{_what_ails(path)}",
        )
    return f"{kind}:///{path}"


def _from_project(*, create: bool) -> tuple[str, str]:
    """What the nearest pyproject.toml with a table of ours says, and that it does; else ""."""
    folder = os.getcwd()
    while True:
        path = os.path.join(folder, "pyproject.toml")
        found = _said_in(path)
        if found:
            said = f"as store = {found!r} in {path} says"
            return _as_url(found, folder, said=said, create=create), said
        above = os.path.dirname(folder)
        if above == folder:
            return "", ""
        folder = above


def _said_in(path: str) -> str:
    store = _known(_table_in(path), path).get("store", "")
    if not isinstance(store, str):
        raise CommandError(exits.USAGE, f"{path}: store is to be a string, not {store!r}")
    return store


def _redact_said_in(path: str) -> object:
    try:
        table = _table_in(path)
    except CommandError:
        with open(path, "rb") as file:
            if b"redact" in file.read():  # who says so must not find out later that it was not done
                raise
        return None
    return _known(table, path).get("redact")


def _known(table: dict[str, Any], path: str) -> dict[str, Any]:
    """The table, if it says nothing but what there is: with a misspelt key its store would not
    be found, and its secrets not redacted. Raises CommandError: usage."""
    for key in table:
        if key not in _KEYS:
            from .finding import near

            raise CommandError(
                exits.USAGE,
                f"{path}: [tool.claude-comms] has no {key!r}{near(key, _KEYS)}: "
                f"it may say {' and '.join(_KEYS)}",
            )
    return table


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


def _only_one_here(besides: str) -> str:
    """The store of this directory. A backup beside it does not count: it is none as long as
    nobody has opened it to write to."""
    found: dict[str, str] = {}
    backups: dict[str, str] = {}
    left_out = ""
    for name in sorted(os.listdir()):
        if not name.endswith(_ENDINGS) or not os.path.isfile(name):
            continue
        try:
            kind = kind_of(name)
            if kind is None:
                continue
            path = os.path.abspath(name)
            claimed = _is_claimed(path, kind)
        except OSError:
            continue
        if not _is_same(name, besides):
            (found if claimed else backups)[path] = f"{kind}:///{path}"
        elif claimed:
            left_out = path
    if left_out:
        # Who names it may mean that it be backed up: what lies beside it must not take its place.
        raise CommandError(
            exits.USAGE,
            f"{left_out} is itself a store that is written to: name another file for the backup, "
            "or say by --store of which store it is to become one",
        )
    urls = list((found or backups).values())
    if len(urls) == 1:
        return urls[0]
    if urls:
        what = "stores" if found else "backups, and no other store,"
        listed = "\n".join(f"  {url}" for url in urls)
        raise CommandError(
            exits.USAGE, f"there are {len(urls)} {what} in this directory:\n{listed}\n{_HOW}"
        )
    raise CommandError(exits.USAGE, f"which store? There is none in this directory; {_HOW}")


def _is_same(name: str, other: str) -> bool:
    try:
        return bool(other) and os.path.samefile(name, other)
    except (OSError, ValueError):
        return False


def _is_claimed(path: str, kind: str) -> bool:
    """Whether somebody has ever had it open as a store, and it is not just a backup of one."""
    if kind == "tinydb":
        return os.path.exists(f"{path}.journal")
    return _head_of(path)[60:64] != bytes(4)  # SQLite's user_version: see sqlite_rows.UNCLAIMED


def _head_of(path: str) -> bytes:
    """The first bytes of a file. Raises OSError."""
    # Closing a descriptor of our own would take SQLite's locks with it, if it is open here.
    link = sys.modules.get(f"{__package__.rpartition('.')[0]}.stores.sqlite_link")
    kept_closed = nullcontext(True) if link is None else link.kept_closed(path)
    with kept_closed as is_closed:
        if not is_closed:
            return _OPEN_HERE
        with open(path, "rb") as file:
            return file.read(_HEAD)


def _check_regular(url: str) -> None:
    """Opening a FIFO or a device would hang, or worse."""
    path = path_of(url)
    try:
        mode = stat.S_IFREG if path is None else os.stat(path).st_mode
    except (OSError, ValueError):
        return  # missing: that is looked at elsewhere
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CommandError(exits.STORE, f"{path}: it is no regular file")


def _is_directory(path: str) -> str:
    return f"{path} is a directory, not a conversation store: name the file of a store in it"


def _what_ails(path: str) -> str:
    """The command that says what is wrong with a file that no longer looks like a store."""
    from shlex import quote

    scheme = _KINDS.get(os.path.splitext(path)[1].lower(), "sqlite")
    return f"'claude-comms check --store {quote(f'{scheme}:///{path}')}' says what is damaged"


def _check_there(url: str, said: str, missing: str) -> None:
    """Opening a store makes it if it is missing, and takes over an empty or foreign TinyDB."""
    path = path_of(url)
    if path is None:
        return
    try:
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise CommandError(exits.STORE, f"there is no store at {path}, {said}; {missing}") from None
    except OSError as error:
        raise CommandError(exits.STORE, exits.words(error)) from error
    if os.path.isdir(path):
        raise CommandError(exits.STORE, _is_directory(path))
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
                with suppress(ValueError, RecursionError):  # cut off: then all of it is read
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
