"""``claude-comms doctor``: is all of this installation in order?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import exits, json_form
from .call import Call
from .declaring import command

if TYPE_CHECKING:
    from .health_checks import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@command(
    examples="""
    claude-comms doctor
    claude-comms doctor --store comms.db
    claude-comms doctor --json | jq '.findings[] | select(.state != "ok")'
    """
)
def doctor(call: Call) -> int:
    """Look at versions, the store, its files, the Claude CLI and the terminal.

    Nothing is changed, and no network is used. The store is opened and read, but not searched
    for damage: that is 'claude-comms check'. Without a store the rest is looked at.

    The exit code is 0 if there is no problem (warnings are none), 6 if there is one with the
    store, else 1.
    """
    from . import health_checks

    out = call.out
    with out.working("looking around"):
        findings = [
            *health_checks.versions(),
            *health_checks.store(call),
            *health_checks.claude(),
            *health_checks.terminal(out),
        ]
    if out.is_json:
        out.json(json_form.document("doctor", findings=[_json(each) for each in findings]))
    else:
        width = max(len(each.what) for each in findings)
        for each in findings:
            state = out.paint(f"{each.state:<7}", _COLOURS[each.state])
            out.painted(f"{state}  {out.paint(f'{each.what:<{width}}')}  {out.paint(each.value)}")
            if each.hint:
                out.painted(f"{'':<{width + 9}}  {out.paint(each.hint)}")
    problems = {each.what for each in findings if each.state == "problem"}
    if any(what.startswith("store") for what in problems):
        return exits.STORE
    return exits.FAILED if problems else exits.OK


def _json(each: Finding) -> json_form.Json:
    return {"what": each.what, "state": each.state, "value": each.value, "hint": each.hint}
