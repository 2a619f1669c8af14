"""What a store may not keep is taken out before it is stored."""

from __future__ import annotations

import os
import re
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from .errors import RedactionError
from .secret_forms import (
    SHORTEST_SECRET,
    WELL_KNOWN,
    WORD_END,
    Known,
    find,
    forms_of,
    longest_first,
    secrets_of,
)

Redact: TypeAlias = Callable[[str], str]
"""Takes a text and returns what of it may be stored. See :class:`Redaction`."""

_MARKS: Final = {f"<{each.mark}>" for each in WELL_KNOWN}


class _UsesStoreError(RuntimeError):
    """The function uses the store that calls it."""


class Redaction:
    """A ``redact`` function and what is asked of it.

    It returns a str, the same for the same text, and leaves its own results alone. It must not
    use the store that calls it. Raises RedactionError, which says nothing of the text, else.
    """

    def __init__(self, redact: Redact) -> None:
        if not callable(redact):
            raise TypeError(f"redact must be a function from str to str, not {redact!r}")
        self.redact = redact
        self._running: set[int] = set()
        """Threads that are in it."""

    def __call__(self, text: str, what: str) -> str:
        """``text`` as it may be stored; ``what`` it is, for an error."""
        if not text:
            return text
        new = self._called(text, what)
        if new != text and self._called(new, what) != new:
            raise RedactionError(
                what, f"{_name(self.redact)} changes its own results: it must leave them alone"
            )
        return new

    def unfinished(self, text: str, what: str) -> int:
        """How many of the last characters of ``text`` the function's own ``unfinished`` keeps
        back; 0 if it has none."""
        ask = getattr(self.redact, "unfinished", None)
        return 0 if ask is None else int(self._answer(ask, text, what, _why_no_count))

    def values(self, value: Any, what: str) -> Any:
        """JSON with all its text redacted, keys too. Of keys that become one the last stands."""
        if isinstance(value, str):
            return self(value, what)
        if isinstance(value, dict):
            return {self(key, what): self.values(each, what) for key, each in value.items()}
        if isinstance(value, list):
            return [self.values(each, what) for each in value]
        return value

    def refuse_use(self) -> None:
        """Raises if this thread is in it: it would wait for a lock that it holds itself."""
        if threading.get_ident() in self._running:
            raise _UsesStoreError

    def _called(self, text: str, what: str) -> str:
        return str.__str__(self._answer(self.redact, text, what, _why_not))

    def _answer(
        self, ask: Callable[[str], Any], text: str, what: str, why_not: Callable[[object], str]
    ) -> Any:
        with self._marked():
            try:
                answer = ask(text)
            except _UsesStoreError:
                reason = "uses the store that calls it, which it must not"
            except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be stored
                reason = f"raised {type(error).__name__}{_place(error)}"
            else:
                reason = why_not(answer)
                if not reason:
                    return answer
        # Out of the except clause, so that the error does not carry one that may quote the text.
        raise RedactionError(what, f"{_name(ask)} {reason}")

    @contextmanager
    def _marked(self) -> Iterator[None]:
        me = threading.get_ident()
        self._running.add(me)
        try:
            yield
        finally:
            self._running.discard(me)


def _why_not(new: object) -> str:
    if not isinstance(new, str):
        return f"returned a {type(new).__name__}, not a str"
    try:
        new.encode()
    except UnicodeEncodeError:
        return "returned a lone surrogate, which no file can hold"
    return ""


def _why_no_count(count: object) -> str:
    if isinstance(count, bool) or not isinstance(count, int):
        return f"returned a {type(count).__name__}, not an int"
    return "" if count >= 0 else f"returned {count}, not a number of characters"


def _name(called: Callable[[str], Any]) -> str:
    return getattr(called, "__qualname__", None) or type(called).__qualname__


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" at {frames[-1].filename}:{frames[-1].lineno}" if len(frames) > 1 else ""


def redaction_of(store: object) -> Redaction | None:
    """That of a store that has one; a third party's store need not."""
    found = getattr(store, "redaction", None)
    return found if isinstance(found, Redaction) else None


class SecretRedactor:
    """Takes secrets out of text: those of well-known forms, and those that it is given.

    The forms are API keys (``sk-ant-…``, ``sk-…``, Google's), tokens of GitHub, GitLab and Slack,
    AWS keys, JWTs, ``Bearer …``, private key blocks and passwords in URLs. ``values`` are secrets
    of your own, of 6 characters or more; of ``environ`` the values of variables that look secret
    by their names. Both are found also inside of JSON and URLs and in base64. What is taken out
    leaves a mark: ``<API_KEY>``, ``<SECRET>`` for ``values``, a variable's own name.

    Raises TypeError for ``values`` that are no str, ValueError for one that is too short to be
    told from other text.
    """

    def __init__(
        self, values: Iterable[str] = (), *, environ: Mapping[str, str] | None = None
    ) -> None:
        if environ is not None and not isinstance(environ, Mapping):
            raise TypeError(
                f"environ is a mapping, such as os.environ, not a {type(environ).__name__}"
            )
        named = [] if environ is None else secrets_of(environ)
        if isinstance(values, str):
            raise TypeError("values must be a list of secrets, not one str")
        for place, value in enumerate(values):
            if not isinstance(value, str):
                raise TypeError(f"values[{place}] is a {type(value).__name__}, not a str")
            if len(value) < SHORTEST_SECRET:
                raise ValueError(
                    f"values[{place}] has {len(value)} characters; one of fewer than "
                    f"{SHORTEST_SECRET} would be found in text that is no secret"
                )
            forms = [form for form in forms_of(value) if len(form) >= SHORTEST_SECRET]
            named += [(form, re.escape(form), "SECRET") for form in forms]
        marks = _MARKS | {f"<{name}>" for _, _, name in named}
        # A secret that is part of a mark would be found in what this function returns.
        named = [each for each in named if not any(each[0] in mark for mark in marks)]
        self._known: list[Known] = [*longest_first(named), *WELL_KNOWN]
        self._of_words = [text for text, _, _ in named if WORD_END.search(text)]

    def __call__(self, text: str) -> str:
        spans, _ = find(text, self._known)
        parts, place = [], 0
        for start, end, mark in spans:
            parts += [text[place:start], mark]
            place = end
        return "".join([*parts, text[place:]])

    def unfinished(self, text: str) -> int:
        """How many of the last characters may be the beginning of a secret that is several words,
        or in a script that has no spaces between them."""
        longest = 0
        for secret in self._of_words:
            sizes = range(min(len(secret) - 1, len(text)), longest, -1)
            longest = next((size for size in sizes if text.endswith(secret[:size])), longest)
        return longest


_well_known: Final = SecretRedactor()


def redact_secrets(text: str) -> str:
    """Takes secrets of well-known forms out of ``text``; see :class:`SecretRedactor`."""
    return _well_known(text)


def redactor_named(name: str) -> Redact:
    """The function that a setting names: ``secrets`` (the well-known forms and the secrets of
    this process's environment), or ``package.module:function``.

    Raises ValueError, also where it cannot be imported.
    """
    if name == "secrets":
        return SecretRedactor(environ=os.environ)
    from importlib import import_module

    module, colon, path = name.partition(":")
    if not module or not colon or not path:
        raise ValueError(f"{name!r} names no function: say 'secrets' or 'package.module:function'")
    try:
        found: Any = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name!r} cannot be imported: {error}") from error
    return Redaction(found).redact
