"""How a command is declared, and the options that each of them has."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from . import exits
from .call import Call

SPANS = "A SPAN is a number of seconds, or one with a unit: 90, 90s, 5m, 1.5h, 2d."

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keep a common option on the call. One that was not given leaves what stood before."""
    if value:
        setattr(ctx.ensure_object(Call), str(param.name), value)


def completing(name: str) -> Callable[[click.Context, click.Parameter, str], list[Any]]:
    """What offers words for an argument: a function of :mod:`.completing`, imported when asked."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        from . import completing as offers

        found: list[Any] = getattr(offers, name)(ctx, param, incomplete)
        return found

    return complete


def common_options(*, json: bool, store: bool) -> list[click.Option]:
    """The options that may stand before and after the name of a command."""
    options = []
    if store:
        options.append(
            click.Option(
                ["--store", "url"],
                metavar="URL",
                callback=_remember,
                expose_value=False,
                shell_complete=completing("files"),
                help="Where the messages are: sqlite:///comms.db, tinydb:///comms.json, or the "
                "path of a store's file. See 'claude-comms --help'.",
            )
        )
    if json:
        options.append(_flag("--json", "Print JSON; its schema: 'claude-comms --json-schema'."))
    options.append(_flag("--quiet", "Print nothing but what was asked for.", "-q"))
    options.append(_flag("--no-color", "No colours, as with NO_COLOR=1."))
    options.append(_flag("--debug", "Show the traceback of an error, as CLAUDE_COMMS_DEBUG=1."))
    return options


def _flag(name: str, text: str, *short: str) -> click.Option:
    return click.Option(
        [*short, name], is_flag=True, callback=_remember, expose_value=False, help=text
    )


def command(
    *, examples: str, json: bool = True, store: bool = True
) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function a command named as it is; its docstring is the help text.

    The function's first argument is the :class:`Call`, then come its own options and arguments
    by name. What it returns is the exit code; None is 0. ``examples`` are whole command lines,
    each with a comment if it needs one. ``json=False``: it has no JSON form; ``store=False``: it
    needs no store.
    """

    def declare(f: Callable[..., int | None]) -> click.Command:
        @functools.wraps(f)
        def run(*args: Any, **kwargs: Any) -> int:
            call = click.get_current_context().ensure_object(Call)
            if call.json and not json:
                raise exits.CommandError(exits.USAGE, f"'{f.__name__}' has no JSON form")
            return f(call, *args, **kwargs) or exits.OK

        made = click.command(
            name=f.__name__.rstrip("_"),
            context_settings=SETTINGS,
            epilog=_verbatim("Examples:", examples),
        )(run)
        if any(param.type.name == "SPAN" for param in made.params):
            made.epilog = f"{SPANS}\n\n{made.epilog}"
        made.params += common_options(json=json, store=store)
        return made

    return declare


def _verbatim(title: str, text: str) -> str:
    lines = [f"  {line.strip()}" for line in text.strip().splitlines()]
    # \b: click leaves the line breaks of this paragraph alone.
    return "\n".join(["\b", title, *lines])
