"""What breaks off what a stand-in is doing, as exceptions on its player's thread."""

from __future__ import annotations

SIGHUP, SIGINT, SIGKILL, SIGTERM = 1, 2, 9, 15
"""By number, since not every system names them; the CLI answers all but KILL."""


class Gone(Exception):
    """The process is no more, or the test is over."""


class Signalled(Exception):
    """A signal came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Endless(Exception):
    """It hangs, as it should, and nobody ends it."""


class Interrupted(Exception):
    """By a control request on stdin."""


class TurnOver(Exception):
    """The turn has its result; ``code`` is the exit code if it is the last."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Exits(Exception):
    """The process is to exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
