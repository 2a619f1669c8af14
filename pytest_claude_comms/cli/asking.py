"""``claude-comms ask``: a question to the Claude CLI in a module's directory."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click

from . import exits
from .call import Call
from .declaring import command, completing
from .durations import Count, Seconds
from .exits import CommandError

if TYPE_CHECKING:
    from ..communication import Reply
    from ..stores.base import ConversationStore
    from .live_ask import Heard

_AT_ONCE = "the answer would be 'timeout' at once"
_TOOLS = "As the CLI's option; may be given several times, or with commas."

_OF_TOOLS = ("allowed_tools", "disallowed_tools")
_OF_THE_CLI = (
    "model", "system_prompt", "append_system_prompt", "resume", "fork_session", "session_id",
    "max_turns", "permission_mode",
)  # fmt: skip
"""What is passed on to it, beside the tools."""


@command(
    examples="""
    claude-comms ask ../arangodb 'Which fields does a PDF have?'
    git diff | claude-comms ask . - --title review
    claude-comms ask ../arangodb 'And their types?' --thread 90c1 --resume SESSION
    claude-comms ask . 'Run the tests' --allowed-tools 'Bash,Read' --timeout 30m
    claude-comms ask . 'Say hi' --json | tail -n 1 | jq -r .message.content
    """
)
@click.argument("module_dir", metavar="MODULE_DIR", type=click.Path())
@click.argument("prompt", metavar="PROMPT|-")
@click.option(
    "--timeout",
    type=Seconds(none=True, zero=_AT_ONCE),
    default="none",
    show_default=True,
    help="How long the answer may take in all: a SPAN, or none.",
)
@click.option(
    "--stall-timeout",
    type=Seconds(none=True, zero=_AT_ONCE),
    default="5m",
    show_default=True,
    help="How long the CLI may say nothing: a SPAN, or none. The answer becomes 'timeout' then, "
    "also if this command was killed: with 'none' (and no --timeout) only 'cancel' would end it.",
)
@click.option("--model", metavar="MODEL", help="As the CLI's option.")
@click.option("--system-prompt", metavar="TEXT", help="In place of the CLI's.")
@click.option("--append-system-prompt", metavar="TEXT", help="After the CLI's.")
@click.option("--resume", metavar="SESSION", help="Go on with a session.")
@click.option("--fork-session", is_flag=True, help="Resume under a new session's id.")
@click.option("--session-id", metavar="UUID", help="The id of a new session.")
@click.option("--allowed-tools", metavar="TOOLS", multiple=True, help=_TOOLS)
@click.option("--disallowed-tools", metavar="TOOLS", multiple=True, help=_TOOLS)
@click.option("--permission-mode", metavar="MODE", help="As the CLI's option.")
@click.option("--max-turns", type=Count(min=1), metavar="N", help="As the CLI's option.")
@click.option(
    "--thread",
    metavar="THREAD",
    shell_complete=completing("threads"),
    help="Ask in this thread, not in a new one.",
)
@click.option("--title", default="", metavar="TEXT", help="The new thread's title.")
@click.option("--questioner", metavar="NAME", help="Who asks.  [default: this directory's name]")
@click.option("--claude", metavar="PATH", default="claude", help="The CLI.  [default: claude]")
@click.option(
    "--env",
    metavar="NAME[=VALUE]",
    multiple=True,
    help="A variable for the CLI; NAME alone: with the value that it has here. May be given "
    "several times.",
)
@click.option("--no-stream", is_flag=True, help="Print the answer once it is whole.")
@click.option("--raw", is_flag=True, help="Print the answer as it is, escape sequences too.")
def ask(call: Call, module_dir: str, prompt: str, **options: Any) -> int:
    """Ask Claude in the directory of a module, and print its answer as it comes.

    The CLI runs in MODULE_DIR. With '-' the prompt is read from standard input. Question and
    answer are kept in the store, which is created if it is missing. On a terminal a line says
    how it stands: status, time, what it does now, characters, tokens ('~': estimated until the
    CLI tells), cost, retries.

    Of the environment the CLI gets what it and its programs usually need (PATH, HOME, proxies,
    ANTHROPIC_*, CLAUDE_CODE_*, AWS_*, ...) and nothing else: what a tool of the module needs
    beside that, such as a database's address, is passed on by --env.

    Text that the CLI takes back, when it has to ask the API again in the middle of an answer, has
    been printed already, and a remark says so; what 'show' and --no-stream print is without it.

    \b
    Ctrl-C           cancels: the answer is 'cancelled', the CLI ended (SIGTERM,
                     5 s, SIGKILL, and all that it started), exit code 5;
                     a second Ctrl-C waits for nothing
    SIGTERM, SIGHUP  the same, exit code 143, 129
    SIGQUIT          the same without those 5 s, exit code 131
    SIGKILL          the CLI is ended, but nobody is left to say so: 'pending' shows
                     the answer until its deadline, and then 'expire' settles it

    The exit code is the answer's: 0 complete, 1 failed, 4 timeout, 5 cancelled.
    """
    from .live import Feed, Stops
    from .live_ask import Heard
    from .running import Run

    text = _read_stdin() if prompt == "-" else prompt
    stream = not options.pop("no_stream")
    raw = options.pop("raw")
    options["env"] = _variables(options["env"])
    _check(module_dir, text, options)
    with ExitStack() as stack:
        # A thread is in a store that is there.
        store = stack.enter_context(call.store(create=options["thread"] is None))
        stops = stack.enter_context(Stops())  # before anything is stored or started
        if stops.count:
            return stops.exit_code
        feed = stack.enter_context(Feed(store, store.cursor()))
        heard = Heard(store.clock)
        run = Run(call, store, stops, heard, raw=raw, stream=stream)
        reply = _begin(store, module_dir, text, heard, options)
        try:
            answer_id = reply.answer.message_id
            code = run.see_through(
                answer_id, lambda: reply.ended, feed, cancel=reply._answering.cancel
            )
        except BaseException:
            with suppress(Exception):  # the error that is under way says more
                reply.cancel()
            raise
    return code


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CommandError(exits.USAGE, f"standard input is no text: {error}") from error


def _variables(given: tuple[str, ...]) -> dict[str, str]:
    """What ``--env`` said, by name."""
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or "\0" in each:
            raise CommandError(exits.USAGE, f"--env {each!r}: it is to be NAME or NAME=VALUE")
        if not equals:
            if name not in os.environ:
                raise CommandError(
                    exits.USAGE,
                    f"--env {name}: there is no such variable here; give its value by "
                    f"--env {name}=VALUE",
                )
            value = os.environ[name]
        found[name] = value
    return found


def _check(module_dir: str, prompt: str, options: dict[str, Any]) -> None:
    """What is mistyped is told before a store is made for it."""
    from ..claude.command import build_command, build_environment, find_cli, find_directory
    from ..stores.values import text

    if not prompt.strip():
        raise CommandError(exits.USAGE, "the prompt is empty, which the CLI refuses")
    try:
        for value, name in (
            (prompt, "the prompt"),
            (options["title"], "--title"),
            (options["questioner"] or "", "--questioner"),
        ):
            text(value, name)
        find_directory(module_dir)
        find_cli(options["claude"], build_environment(os.environ, extra=options["env"]))
        given: dict[str, Any] = {name: _all_tools(options[name]) for name in _OF_TOOLS}
        given |= {name: options[name] for name in _OF_THE_CLI}
        build_command([options["claude"]], **given)
    except ValueError as error:
        raise CommandError(exits.USAGE, str(error)) from error


def _begin(
    store: ConversationStore,
    module_dir: str,
    prompt: str,
    heard: Heard,
    options: dict[str, Any],
) -> Reply:
    from ..communication import ask_module
    from .finding import find_thread

    given = {name: value for name, value in options.items() if value not in (None, ())}
    questioner = given.pop("questioner", "") or os.path.basename(os.getcwd()) or "claude-comms"
    for name in _OF_TOOLS:
        if name in given:
            given[name] = _all_tools(given[name])
    if "thread" in given:
        given["thread"] = find_thread(store, given["thread"])
    try:
        reply = ask_module(
            store,
            questioner,
            module_dir,
            prompt,
            wait=False,
            command=[given.pop("claude")],
            on_update=heard,
            **given,
        )
    except ValueError as error:  # an empty prompt, a session's id that is none, …
        raise CommandError(exits.USAGE, str(error)) from error
    reply._answering.tell_when_over(heard)
    return reply


def _all_tools(given: tuple[str, ...]) -> list[str]:
    return [tool for each in given for tool in _tools(each)]


def _tools(text: str) -> list[str]:
    """``Bash(git log:*),Read`` as two tools: a comma in parentheses belongs to its tool."""
    found, depth = [""], 0
    for char in text:
        depth += (char == "(") - (char == ")")
        if char == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += char
    return [tool.strip() for tool in found if tool.strip()]
