"""``claude-comms completion``: what a shell needs to complete our words."""

from __future__ import annotations

import os

import click
from click.shell_completion import get_completion_class

from . import exits
from .app import COMPLETE_VARIABLE, NAME, app
from .call import Call
from .declaring import command
from .exits import CommandError

_SHELLS = ("bash", "zsh", "fish")


@command(
    examples="""
    claude-comms completion bash >> ~/.bashrc
    claude-comms completion zsh > ~/.zfunc/_claude-comms
    claude-comms completion fish > ~/.config/fish/completions/claude-comms.fish
    eval "$(claude-comms completion)"      just for this shell
    """,
    json=False,
    store=False,
)
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
def completion(call: Call, shell: str | None) -> None:
    """Print the script by which a shell completes commands, options and ids.

    The ids are those of the store that the command would take (of the last 200 that fit, if it is
    no larger than 32 MB); looking for them writes nothing.

    Without the name of a shell it is for the one in SHELL. bash has to be 4.4 or later; zsh
    needs the folder of the script in its fpath, before 'compinit'.
    """
    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    if name not in _SHELLS:
        raise CommandError(exits.USAGE, f"for which shell? Say one of {', '.join(_SHELLS)}")
    made = get_completion_class(name)
    assert made is not None
    # Not its source(): for bash that one runs bash, to ask how old it is.
    engine = made(app, {}, NAME, COMPLETE_VARIABLE)
    call.out.print((engine.source_template % engine.source_vars()).rstrip())
