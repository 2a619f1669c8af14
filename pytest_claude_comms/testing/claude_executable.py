"""The file named ``claude``: what is in it, and how it is written so that it can be run at once."""

from __future__ import annotations

import contextlib
import functools
import importlib.resources
import marshal
import os
import select
import shlex
import socket
import sys
from typing import Final

_LONGEST_SHEBANG: Final = 127  # of Linux before 5.1; macOS has 512
_LONGEST_PIECE: Final = 30_000  # characters, of at most four bytes: Linux takes 131,071 as one word
_NEEDED: Final = ((socket, "AF_UNIX"), (select, "poll"), (os, "posix_spawn"))


def why_not_here() -> str | None:
    """Why this system can have no scripted Claude, for a person; None if it can.

    A fixture skips with it: ``ScriptedClaude`` raises RuntimeError.
    """
    missing = [f"{module.__name__}.{name}" for module, name in _NEEDED if not hasattr(module, name)]
    if not missing and sys.platform != "win32":
        return None
    return (
        "a scripted claude needs Unix sockets and signals, as Linux and macOS have"
        f" (here is no {' and no '.join(missing) or 'POSIX system'})"
    )


def write_executable(path: str, socket_path: str, *, records: bool) -> None:
    """Write the stand-in that connects to a socket; ``records``: that can become a recorder too.

    Raises OSError.
    """
    program = f"from marshal import loads\nexec(loads({_compiled('stand_in.py')!r}))\n"
    if records:
        program += f"exec(loads({_compiled('recorder.py')!r}))\n_obey = tapped(_obey, _unread)\n"
    program += f"main({socket_path!r})\n"
    shebang = f"#!{sys.executable} -IS\n"
    if len(shebang) > _LONGEST_SHEBANG or any(char.isspace() for char in sys.executable):
        _write_private(_behind(path), program)
        python, behind = shlex.quote(sys.executable), shlex.quote(_behind(path))
        shebang, program = "#!/bin/sh\n", f'exec {python} -IS {behind} "$@"\n'
    _write_by_another(path, shebang + program)


def remove_executable(path: str) -> None:
    """What ``write_executable`` wrote, if it is there."""
    for each in (path, _behind(path)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(each)


def _behind(path: str) -> str:
    return f"{path}-stand-in.py"


def _write_private(path: str, text: str) -> None:
    """Who may write what we execute is us."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _write_by_another(path: str, text: str) -> None:
    """Write a file that is to be executed.

    Linux runs no file that anybody has open for writing ("Text file busy"). If this process had
    it open, and another of its threads forked at that moment, the child would have it open too,
    until its own exec: longer than we do. So we never have. A shell writes it, which has one
    thread and starts nothing; when that has exited, nobody has it open.
    """
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT, 0o700))  # raises what there is to say
    os.chmod(path, 0o700)
    pieces = [text[at : at + _LONGEST_PIECE] for at in range(0, len(text), _LONGEST_PIECE)]
    shell = ["sh", "-c", 'exec >"$1" && shift && printf %s "$@"', "sh", path, *pieces]
    pid = os.posix_spawn("/bin/sh", shell, {})
    status = 0
    with contextlib.suppress(
        ChildProcessError
    ):  # SIGCHLD is ignored here: it has ended all the same
        _, status = os.waitpid(pid, 0)
    if status != 0:
        raise OSError(f"{path} could not be written")


@functools.cache
def _compiled(name: str) -> bytes:
    # Compiling it at each start would cost 3 ms.
    source = importlib.resources.files(__package__).joinpath(name).read_bytes()
    return marshal.dumps(compile(source, "<the scripted claude>", "exec", optimize=2))
