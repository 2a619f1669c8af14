"""How a stand-in for the Claude CLI was called: what a test gets to see of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import datetime

from .claude_breaks import SIGKILL
from .claude_link import HowCalled


@dataclass(frozen=True, kw_only=True)
class Call:
    """One process that was started, as far as it has come."""

    argv: tuple[str, ...]
    """The arguments, without the program."""
    cwd: str
    """Its directory, with symlinks resolved; empty if that was removed."""
    stdin: str
    """What it has read from stdin."""
    env: tuple[str, ...]
    """The names of its environment variables, sorted."""
    pid: int
    started_at: datetime
    """On the clock of the ``ScriptedClaude``."""
    prompt: str | None
    """What was asked first, from the arguments and stdin together; None if nothing was yet."""
    exit_code: int | None
    """As ``Popen.returncode``; None while it runs. -9 stands for any end without our doing."""
    scripted: bool
    """Whether something was scripted for it."""
    _send: InitVar[Callable[[int], None]]

    def __post_init__(self, _send: Callable[[int], None]) -> None:
        object.__setattr__(self, "_send", _send)  # no field: it is nothing to compare or to show

    def kill(self, signal: int = SIGKILL) -> None:
        """Send the process a signal, as ``os.kill(call.pid, signal)`` does, and tell the clock.

        On a fake clock no time passes from here until the process has answered it: it has ended,
        or waits on (after ``ignores_term()``). ``os.kill`` alone says nothing to the clock, which
        may jump on before the signal has had any effect. Returns at once: what comes of it is
        there when fake time has passed, or in real time soon. Does nothing if the process has
        ended. Raises OSError for a number that is no signal's.
        """
        self.__dict__["_send"](signal)


@dataclass(slots=True, eq=False)
class Record:
    """A call while it is going on."""

    how: HowCalled
    started_at: datetime
    send: Callable[[int], None]
    """Sends it a signal; see :meth:`Call.kill`."""
    stdin: bytearray = field(default_factory=bytearray)
    prompt: str | None = None
    exit_code: int | None = None
    scripted: bool = True

    def as_call(self) -> Call:
        return Call(
            argv=self.how.argv,
            cwd=self.how.cwd,
            stdin=bytes(self.stdin).decode("utf-8", "replace"),
            env=self.how.env,
            pid=self.how.pid,
            started_at=self.started_at,
            prompt=self.prompt,
            exit_code=self.exit_code,
            scripted=self.scripted,
            _send=self.send,
        )
