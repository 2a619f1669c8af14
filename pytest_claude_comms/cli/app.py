"""``claude-comms``: which commands there are, and what holds for all of them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import click

from . import exits, lacking
from .call import Call
from .declaring import SETTINGS, common_options

if TYPE_CHECKING:
    from ..stores.base import ConversationStore

NAME: Final = "claude-comms"
COMPLETE_VARIABLE: Final = "_CLAUDE_COMMS_COMPLETE"
"""Set by the script that ``completion`` prints."""

SECTIONS: Final = {
    "Look": {
        "status": ("status:status", "What there is: in all, of a thread, of a message."),
        "pending": ("pending:pending", "What has not ended: since when, until when."),
        "threads": ("threads:threads", "All threads."),
        "show": ("show:show", "A thread, to be read."),
        "timeline": ("timeline:timeline", "What happened when, also as a picture."),
        "watch": ("live_watch:watch", "See it happen."),
        "wait": ("waiting:wait", "Wait for the end of a message."),
    },
    "Act": {
        "ask": ("asking:ask", "Ask Claude in a module's directory."),
        "cancel": ("waiting:cancel", "End a message that has not ended."),
        "expire": ("waiting:expire", "Make every overdue message 'timeout'."),
        "replay": ("playing:replay", "Play a recorded run into a store."),
        "demo": ("playing:demo", "See all of it without Claude."),
    },
    "Keep": {
        "copy": ("keeping:copy", "Copy a store into another one, of any kind."),
        "backup": ("keeping:backup", "Copy a store while others write to it."),
        "check": ("keeping:check", "Is all of a store in order?"),
        "compact": ("keeping:compact", "Forget old history, and give its space back."),
        "doctor": ("health:doctor", "Is all of this installation in order?"),
        "completion": ("completion:completion", "Print the script that completes commands."),
    },
}
"""By name: the function that is the command, in its module of this folder, and its short help."""

COMMANDS: Final = {name: entry for table in SECTIONS.values() for name, entry in table.items()}

_HELP = """Conversations between modules and Claude: ask, see what is pending, watch it happen.

\b
Which store:
  1. --store URL            sqlite:///comms.db, tinydb:///comms.json,
                            or just the path of a store's file
  2. CLAUDE_COMMS_STORE     a URL or path in the environment
  3. pyproject.toml         [tool.claude-comms]
                            store = "sqlite:///comms.db"
                            the nearest one, here or above, that says so;
                            relative to the folder it is in
  4. the one store file in this directory, if there is just one
Three slashes are a relative path, four an absolute one. A backup beside the
store does not count as long as nobody has opened it to write. Only 'ask',
'replay', 'demo' and 'copy' create a store; with the others it has to be there.
What only looks ('status', 'doctor', 'check', ...) changes nothing on the disk.

The options below may stand before or after the name of a command. Ids may be
cut short as long as only one fits.
"""


def _epilog() -> str:
    codes = [f"  {code:>3}  {meaning}" for code, meaning in exits.MEANINGS]
    examples = [
        "  claude-comms demo                     a first look, no Claude needed",
        "  claude-comms pending --store comms.db",
        "  claude-comms ask ../arangodb 'Which fields does a PDF have?'",
        "  claude-comms wait 7f3a && claude-comms show 90c1",
        "  claude-comms pending --json | jq -r '.messages[].message.message_id'",
    ]
    return "\n".join(["\b", "Exit codes:", *codes, "", "\b", "Examples:", *examples])


class App(click.Group):
    """A group that imports a command when it is used, and none for ``--help``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        home, _, function = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(import_module(f".{home}", __package__), function)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from .finding import near

            ctx.fail(f"no command {name!r}{near(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, table in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in table.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        # click would import every command to ask whether it is hidden.
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=text)
            for name, (_, text) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .._version import __version__

        click.echo(f"{NAME} {__version__}")
        ctx.exit()


def _print_schema(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from .json_form import schema_text

        click.echo(schema_text(), nl=False)
        ctx.exit()


app = App(
    name=NAME,
    help=_HELP,
    epilog=_epilog(),
    context_settings=SETTINGS,
    no_args_is_help=False,  # what click makes of it changed with 8.2
    params=[
        *common_options(json=True, store=True),
        click.Option(
            ["--json-schema"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_schema,
            help="Print the JSON Schema of all that --json prints, and exit.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Print the version, and exit.",
        ),
    ],
)


def run(argv: list[str], store: ConversationStore | None = None) -> int:
    """Run a command; the one place where errors become words and exit codes."""
    call = Call(store)
    from .streams import flush_stdout, let_go_if_broken, printable_streams

    with printable_streams():
        try:
            code = _invoke(argv, call)
            try:
                flush_stdout()
            except OSError:
                if code < exits.HUNG_UP:
                    raise
                # As with a window that was closed: why it ended is known.
                let_go_if_broken()
        except BaseException as error:  # noqa: BLE001 - each is told, or raised again
            code = _ended(error, call)
            let_go_if_broken()
    return code


def _invoke(argv: list[str], call: Call) -> int:
    # Not app.main(): that one ends the interpreter when a pipe breaks, whoever called it.
    if instruction := os.environ.get(COMPLETE_VARIABLE):
        from click.shell_completion import shell_complete

        try:
            return shell_complete(app, {"obj": call}, NAME, COMPLETE_VARIABLE, instruction)
        except (LookupError, ValueError):  # COMP_WORDS, COMP_CWORD: no shell has set them so
            return exits.USAGE
    try:
        with app.make_context(NAME, argv, obj=call) as ctx:
            if not argv:
                from .streams import say_aside

                say_aside(app.get_help(ctx))
                return exits.USAGE
            code = app.invoke(ctx)
    except click.exceptions.Exit as end:  # --help, --version
        return end.exit_code
    return code if isinstance(code, int) else exits.OK


def _ended(error: BaseException, call: Call) -> int:
    from .streams import is_broken_pipe, say_aside

    if is_broken_pipe(error):
        return exits.BROKEN_PIPE
    if isinstance(error, (click.exceptions.Abort, KeyboardInterrupt)):
        return exits.INTERRUPTED
    if not isinstance(error, Exception) or lacking(error):
        raise error
    if call.debug:
        import traceback

        from .safety import safe

        say_aside(safe("".join(traceback.format_exception(error)).rstrip("\n")))
    if isinstance(error, click.ClickException):
        context = error.ctx if isinstance(error, click.UsageError) else None
        hint = f"; see '{context.command_path} --help'" if context is not None else ""
        _complain(f"{error.format_message().rstrip('.')}{hint}")
        return exits.USAGE
    code = exits.of_error(error)
    if code is None and (damage := _damage_in(call.opened)):
        _complain(damage)
        return exits.STORE
    if code is None:
        _complain(
            f"{type(error).__name__}: {exits.words(error)}; this should not happen: "
            "'--debug' shows where it did"
        )
        return exits.FAILED
    _complain(exits.words(error))
    return code


def _damage_in(url: str) -> str:
    """What is wrong with the store in which nobody foresaw an error, or ""."""
    from ..stores.checking import check_store

    try:
        findings = check_store(url).findings if url else ()
    except Exception:  # noqa: BLE001 - the error that is told is the other one
        return ""
    if not findings:
        return ""
    more = f", and {len(findings) - 1:,} more" if len(findings) > 1 else ""
    return (
        f"{url} is damaged: {findings[0].thing}: {findings[0].reason}{more}; "
        "'claude-comms check' says all, and what to do"
    )


def _complain(text: str) -> None:
    from .safety import safe
    from .streams import say_aside

    say_aside(f"{NAME}: error: {safe(text)}")
