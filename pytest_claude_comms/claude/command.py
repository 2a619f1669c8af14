"""What to run: the CLI's arguments, its environment, and where it is.

Flags and variables as observed on CLI 2.1.330. The prompt is no argument: it goes by stdin,
where it may be long (an argument of 128 KiB is refused by Linux), may begin with a ``-``, and is
not shown to everybody who lists the processes.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from ..clock import seconds_to_us
from ..errors import ClaudeNotFound, ModuleDirectoryNotFound

DEFAULT_MAX_RETRIES: Final = 3
"""How often the CLI asks the API again: with its own default, 10, a dead API takes it 183 to 200
seconds to give up (observed on CLI 2.1.330); with 3 it takes some 4 seconds."""

DEFAULT_API_TIMEOUT: Final = 120.0
"""Seconds for one request to the API without an answer: with the CLI's own default it asks again
after some 361 seconds (observed on CLI 2.1.330)."""

RUN_MARK: Final = "CLAUDE_COMMS_RUN"
"""The variable by which every process of a run is known, whoever its parent is by now."""

PASSED_ON: Final = (
    # who and where
    *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "TERM", "TZ", "LANG", "LANGUAGE", "LC_*"),
    *("TMPDIR", "TEMP", "TMP", "XDG_*"),
    # the way out
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"),
    "CURL_CA_BUNDLE",
    # the CLI's own
    *("ANTHROPIC_*", "CLAUDE_CODE_*", "CLAUDE_CONFIG_DIR", "API_TIMEOUT_MS", "DISABLE_*"),
    *("IS_SANDBOX", "MAX_THINKING_TOKENS", "MAX_MCP_OUTPUT_TOKENS", "MCP_*", "USE_BUILTIN_RIPGREP"),
    *("BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_TIMEOUT_MS", "BASH_MAX_OUTPUT_LENGTH"),
    # Claude by way of Bedrock and Vertex
    *("AWS_*", "GOOGLE_*", "CLOUD_ML_REGION", "VERTEX_REGION_*"),
    RUN_MARK,
    # what no program runs without on Windows
    *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT", "USERNAME", "USERPROFILE"),
    *("HOMEDRIVE", "HOMEPATH", "APPDATA", "LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES*"),
)
"""The variables that the CLI gets of the caller's environment; a ``*`` stands for any ending."""

WITHHELD: Final = ("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT")
"""What a session of the CLI tells the programs that it starts about itself; a run that such a
program starts is another one."""

_NO_CURRENT: Final = "the current directory, from which its path is taken, is gone"

_OURS: Final = ("-p", "--print", "--output-format", "--input-format", "--")


def build_command(
    command: Sequence[str] = ("claude",),
    *,
    model: str | None = None,
    system_prompt: str | None = None,
    append_system_prompt: str | None = None,
    allowed_tools: Sequence[str] = (),
    disallowed_tools: Sequence[str] = (),
    resume: str | None = None,
    session_id: str | None = None,
    fork_session: bool = False,
    max_turns: int | None = None,
    permission_mode: str | None = None,
    partial_messages: bool = False,
    extra_args: Sequence[str] = (),
) -> list[str]:
    """The arguments of a run that reads its prompt from stdin and prints stream-json.

    ``command`` is how to call the CLI, with what has to stand before its options. ``resume``
    continues a session, ``fork_session`` under an id of its own; ``session_id`` (a UUID) names a
    new one. ``permission_mode`` and ``model`` go to the CLI as they are: which there are is its
    business. ``extra_args`` come last.

    Raises TypeError and ValueError for what the CLI would refuse or take for something else, and
    for ``extra_args`` that change how it reads or prints.
    """
    words = _texts(command, "command")
    if not words:
        raise ValueError("command must name the CLI")
    if session_id is not None:
        _check_session_id(session_id)
        if resume is not None and not fork_session:
            raise ValueError("resume= keeps the session's id; session_id= needs fork_session=True")
    if fork_session and resume is None:
        raise ValueError("fork_session=True needs resume=, the session to fork")
    # stream-json is refused without --verbose
    argv = [*words, "-p", "--output-format", "stream-json", "--verbose"]
    for flag, value in (
        ("--model", _word(model, "model")),
        ("--system-prompt", _text(system_prompt, "system_prompt")),
        ("--append-system-prompt", _text(append_system_prompt, "append_system_prompt")),
        ("--allowedTools", _tools(allowed_tools, "allowed_tools")),
        ("--disallowedTools", _tools(disallowed_tools, "disallowed_tools")),
        ("--resume", _word(resume, "resume")),
        ("--session-id", session_id),
        ("--max-turns", _turns(max_turns)),
        ("--permission-mode", _word(permission_mode, "permission_mode")),
    ):
        if value is not None:
            argv += [flag, value]
    if fork_session:
        argv.append("--fork-session")
    if partial_messages:
        argv.append("--include-partial-messages")
    return argv + _extra(extra_args)


def build_environment(
    environ: Mapping[str, str],
    *,
    extra: Mapping[str, str] | None = None,
    max_retries: int | None = None,
    api_timeout: float | None = None,
) -> dict[str, str]:
    """The environment of a run: of ``environ`` what :data:`PASSED_ON` lists, then ``extra``.

    ``max_retries`` and ``api_timeout`` (seconds a request) become CLAUDE_CODE_MAX_RETRIES and
    API_TIMEOUT_MS; left out, what ``environ`` says of them stands, and where it says nothing
    :data:`DEFAULT_MAX_RETRIES` and :data:`DEFAULT_API_TIMEOUT`. ``extra`` has the last word.

    HOME is not made up: without it the CLI uses the account's real home.

    Raises TypeError and ValueError for what no environment can hold.
    """
    env = {name: value for name, value in environ.items() if _is_passed_on(name)}
    env.setdefault("CLAUDE_CODE_MAX_RETRIES", str(DEFAULT_MAX_RETRIES))
    env.setdefault("API_TIMEOUT_MS", _milliseconds(DEFAULT_API_TIMEOUT))
    if max_retries is not None:
        env["CLAUDE_CODE_MAX_RETRIES"] = str(_count(max_retries, "max_retries", least=0))
    if api_timeout is not None:
        env["API_TIMEOUT_MS"] = _milliseconds(api_timeout)
    if extra is not None and not isinstance(extra, Mapping):
        raise TypeError(f"env must be a dict of variables, not {extra!r}")
    for name, value in (extra or {}).items():
        if not _text(name, "a variable's name") or "=" in name:
            raise ValueError(f"a variable cannot be called {name!r}")
        if not isinstance(value, str):
            raise TypeError(f"the variable {name} must be a str, not {value!r}")
        env[name] = _text(value, f"the variable {name}") or ""
    return env


def find_cli(command: str, environ: Mapping[str, str]) -> str:
    """The path of the CLI that ``command`` names.

    A bare name is looked for on the PATH of ``environ``, which is that of the run; then, if it is
    "claude", in the wheel ``claude-agent-sdk``, which brings the CLI and puts it on no PATH. A
    path is taken from the caller's current directory, not from the module's.

    Raises :class:`~pytest_claude_comms.ClaudeNotFound`.
    """
    if os.path.dirname(command):
        try:
            path = os.path.abspath(command)
        except FileNotFoundError:
            raise ClaudeNotFound(command, _NO_CURRENT) from None
        if shutil.which(path):
            return path
        raise ClaudeNotFound(command, _why_not(path))
    # An empty PATH, unlike None, would be taken for "look in the current directory".
    searched = environ.get("PATH") or os.defpath
    found = shutil.which(command, path=searched)
    if found is None and command == "claude":
        found = _bundled()
    if found is None:
        raise ClaudeNotFound(command, "it is not on PATH")
    return os.path.abspath(found)


def find_directory(cwd: str | os.PathLike[str]) -> str:
    """``cwd`` as an absolute path. Raises :class:`~pytest_claude_comms.ModuleDirectoryNotFound`."""
    try:
        path = os.path.abspath(os.fspath(cwd))
    except FileNotFoundError:
        raise ModuleDirectoryNotFound(os.fspath(cwd), f"cannot be found: {_NO_CURRENT}") from None
    if not os.path.isdir(path):
        raise ModuleDirectoryNotFound(
            path, "is not a directory" if os.path.lexists(path) else "does not exist"
        )
    return path


def _bundled() -> str | None:
    for folder in sys.path:  # importing the SDK to ask it would cost half a second
        path = os.path.join(
            folder or os.curdir,
            *("claude_agent_sdk", "_bundled", "claude.exe" if os.name == "nt" else "claude"),
        )
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def _why_not(path: str) -> str:
    if os.path.isdir(path):
        return "it is a directory"
    if os.path.isfile(path):
        return os.strerror(errno.EACCES).lower() + ", it is not executable"
    return "there is no such file"


def _is_passed_on(name: str) -> bool:
    if os.name == "nt":
        name = name.upper()
    return name not in WITHHELD and any(
        name.startswith(each[:-1]) if each.endswith("*") else name == each for each in PASSED_ON
    )


def _milliseconds(seconds: float) -> str:
    us = seconds_to_us(seconds, "api_timeout")
    if us < 1_000:
        raise ValueError(f"api_timeout must be at least 0.001 seconds, not {seconds!r}")
    return str(us // 1_000)


def _text(value: object, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    if "\0" in value:
        raise ValueError(f"{what} holds a NUL character, which no argument or variable can")
    try:
        os.fsencode(value)
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} holds what cannot be encoded: {error}") from None
    return value


def _word(value: object, what: str) -> str | None:
    text = _text(value, what)
    if text is not None and (not text.strip() or text.startswith("-")):
        raise ValueError(f"{what} must be a word that does not begin with '-', not {text!r}")
    return text


def _texts(values: object, what: str) -> list[str]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{what} must be a list of str, not {values!r}")
    return [_text(value, f"{what}[{index}]") or "" for index, value in enumerate(values)]


def _tools(values: Sequence[str], what: str) -> str | None:
    # One argument: the flag takes all words that follow it.
    words = [_word(value, what) or "" for value in _texts(values, what)]
    return ",".join(words) if words else None


def _count(value: object, what: str, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an int, not {value!r}")
    if value < least:
        raise ValueError(f"{what} must be at least {least}, not {value}")
    return value


def _turns(value: object) -> str | None:
    return None if value is None else str(_count(value, "max_turns", least=1))


def _check_session_id(value: object) -> None:
    text = _text(value, "session_id")
    try:
        uuid.UUID(text)
    except ValueError:
        raise ValueError(f"session_id must be a UUID, not {value!r}") from None


def _extra(values: Sequence[str]) -> list[str]:
    words = _texts(values, "extra_args")
    for word in words:
        if word.split("=", 1)[0] in _OURS:
            raise ValueError(
                f"extra_args must not hold {word!r}: how the run reads its prompt and prints is "
                "settled, and the prompt goes by stdin"
            )
    return words
