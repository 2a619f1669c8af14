"""What a stand-in's random numbers come from: what it was asked, not when it came.

Two processes that are started at one instant come up in any order, and yet each has the same ids
and the same pace whenever the test is run. So neither their order nor anything that differs from
run to run (where a temporary folder is, an id that somebody drew) goes into a seed. Only those
that were asked the same in the same place are told apart by their order: there is no other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Final

from .claude_link import HowCalled

_PATH: Final = re.compile(r"/[^\s\"'`,;:=()\[\]{}]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Seeds:
    """The seeds of one test. ``places`` has its own folder as ``TMP_PATH``, and the one of all
    such folders as ``BASETEMP``, as far as there are any."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._own = _forms(places.get("TMP_PATH"))
        self._base = _forms(places.get("BASETEMP"))
        self._temporary = _forms(tempfile.gettempdir())
        self._taken: Counter[str] = Counter()
        self._sessions: dict[str, str] = {}
        self._mutex = threading.Lock()

    def take(self, how: HowCalled, prompt: str) -> str:
        """A new seed for a process that was called and asked so. From any thread."""
        with self._mutex:
            words = [self._lasting(word) for word in how.argv]
            said = json.dumps([self._relative(how.cwd), words, self._lasting(prompt)])
            key = hashlib.sha256(said.encode()).hexdigest()
            self._taken[key] += 1
            return f"{key} {self._taken[key]}"

    def name_session(self, session_id: str, seed: str) -> None:
        """A session is known by who began it: whoever resumes it has its id in the arguments."""
        with self._mutex:
            self._sessions.setdefault(session_id, seed)

    def _lasting(self, text: str) -> str:
        """What stays of a text from run to run."""
        text = _UUID.sub(lambda found: self._sessions.get(found[0], "<id>"), text)
        return _PATH.sub(lambda found: self._relative(found[0]), text)

    def _relative(self, path: str) -> str:
        for place in self._own:
            if (path + "/").startswith(place + "/"):
                return path[len(place) + 1 :]
        for place in self._base:
            if path.startswith(place + "/"):  # pytest numbers what is right in it
                return path[len(place) + 1 :].partition("/")[2]
        folder, name = os.path.split(path)
        # Right in the folder for temporary files a name is a random one.
        return "" if folder in self._temporary else name


def _forms(path: str | None) -> tuple[str, ...]:
    return () if path is None else (path, os.path.realpath(path))
