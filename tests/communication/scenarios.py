"""What a run of the CLI may do to its runner: RELIABILITY rows 28 to 39, CLAUDE_CLI section 6."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

GRACE: Final = 0.4
DEADLINE: Final = 1.2
"""Of a run that is not to end by itself."""
LONG: Final = 30.0
"""Of one that is."""

Act = Literal["cancel", "cancelled elsewhere", "runner killed"]


@dataclass(frozen=True)
class Scenario:
    """One run and what it has to come to."""

    name: str
    script: str | Callable[[ScriptedClaude], object]
    """For a hand-written CLI (see ``kit.HEAD``), or for the scripted one."""
    status: str = "complete"
    kind: str | None = None
    text: str | None = "ok"
    """The answer's whole text; None: not looked at."""
    timeout: float | None = LONG
    options: dict[str, Any] = field(default_factory=dict)
    prompt: str = "Which fields?"
    act: Act | None = None
    warning: str | None = None
    exit_code: int | None = None
    folder: str = "module"
    slow_store: bool = False


def _hang(name: str, script: str | Callable[[ScriptedClaude], object], **more: Any) -> Scenario:
    more = {"status": "timeout", "kind": "timeout", "text": "", "timeout": DEADLINE, **more}
    return Scenario(name, script, **more)


def _fails(
    name: str, kind: str, script: str | Callable[[ScriptedClaude], object], **more: Any
) -> Scenario:
    return Scenario(name, script, status="failed", kind=kind, **{"text": "", **more})


_BIG: Final = "ä€😀xyz " * 20_000

SCENARIOS: Final = [
    # a run as it should be
    Scenario("an answer", lambda c: c.replies("ok")),
    Scenario("in pieces", lambda c: c.replies("o" * 200, chunks=100, every=0.003), text="o" * 200),
    Scenario("whole lines", lambda c: c.says("a").replies("b"), text="a\n\nb",
             options={"partial_messages": False}),
    Scenario("a tool", lambda c: c.says("a").uses_tool("Read", result="x" * 300_000).replies("b"),
             text="a\n\nb"),
    Scenario("retried", lambda c: c.retries(529, times=3, every=0.02).replies("ok")),
    Scenario("cut and asked again", """
        init()
        event(type="message_start", message={"id": "m1"})
        delta("void " * 40_000)
        time.sleep(0.15)
        line(type="system", subtype="api_retry", attempt=1, session_id="s")
        event(type="message_start", message={"id": "m2"})
        delta("ok")
        text("ok", "m2")
        result("ok")
    """),
    Scenario("background task", """
        init()
        line(type="system", subtype="background_tasks_changed", tasks=[{"task_id": "b"}])
        text("a")
        result("a")
        time.sleep(1.3)
        line(type="system", subtype="background_tasks_changed", tasks=[])
        init()
        text("b", "m2")
        result("b")
    """, text="a\n\nb"),
    # 28, 29: it stops, or its runner does
    _hang("hangs", lambda c: c.hangs(), exit_code=143),
    _hang("hangs before its first line", "time.sleep(600)"),
    _hang("silent in mid-answer", lambda c: c.goes_silent(text="abc", chunks=3), text="abc"),
    _hang("silent: stall limit", lambda c: c.goes_silent(text="abc"), text="abc", timeout=None,
          options={"stall_timeout": DEADLINE}),
    _hang("retries past its deadline", lambda c: c.retries(529, times=10, every=0.3).fails(529),
          options={"max_retries": 10}),
    _hang("trickles past its deadline", lambda c: c.replies("x" * 500, chunks=500, every=0.02),
          text=None),
    _hang("floods past its deadline", """
        init()
        while True:
            raw("x" * 65536)
            time.sleep(0.002)
    """),
    _hang("stops itself (SIGSTOP)", "init(); os.kill(os.getpid(), signal.SIGSTOP)"),
    _hang("closes its output and stays", "init(); os.close(1); os.close(2); time.sleep(600)"),
    Scenario("runner killed", "init(); text('abc'); time.sleep(600)", status="timeout", text="abc",
             act="runner killed", timeout=None, options={"stall_timeout": DEADLINE}),
    Scenario("runner killed, SIGTERM ignored", """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        init()
        text("abc")
        child(SLEEP, start_new_session=True)
        time.sleep(600)
    """, status="timeout", text="abc", act="runner killed", timeout=DEADLINE),
    # 30: a result, then no exit
    Scenario("result, no exit", lambda c: c.replies("ok").never_exits(), exit_code=143,
             timeout=6, warning="143"),
    Scenario("result, no exit, ignores TERM",
             lambda c: c.ignores_term().replies("ok").never_exits(), exit_code=-9, timeout=6),
    Scenario("failure, no exit", lambda c: c.fails(401).never_exits(), status="failed",
             kind="api_401", text=None, timeout=6),
    Scenario("result, closes its output, no exit",
             "answer('ok'); os.close(1); os.close(2); time.sleep(600)", timeout=6),
    # 31, 32: exit codes and results that do not agree
    _fails("exit 0, no result", "no_result", "init(); text('ok')", text="ok"),
    _fails("exit 0, no output", "no_result", ""),
    _fails("success that is an error", "api_429", lambda c: c.fails(429), text=None),
    _fails("max turns", "max_turns", lambda c: c.max_turns()),
    _fails("not logged in", "authentication_failed", lambda c: c.not_logged_in(), text=None),
    Scenario("empty result", lambda c: c.replies(""), text="", warning="empty"),
    Scenario("exit 3 after a result", lambda c: c.replies("ok").exits(3), warning="exit code 3"),
    Scenario("killed after a result", "answer('ok'); os.kill(os.getpid(), 9)", warning="-9"),
    _fails("usage error", "usage", lambda c: c.usage_error("error: unknown option '--x'")),
    _fails("killed", "signal", lambda c: c.crashes("KILL", text="abc"), text=None, exit_code=-9),
    _fails("crashes", "signal", lambda c: c.crashes("ABRT"), exit_code=-6),
    Scenario("denied", lambda c: c.denies("Write").replies("ok"), warning="denied"),
    # 33: stderr
    Scenario("10 MB of stderr", """
        init()
        for _ in range(160):
            os.write(2, b"e" * 65536)
        text("ok")
        result("ok")
    """),
    _fails("10 MB of stderr and exit 1", "usage", """
        for _ in range(160):
            os.write(2, b"e" * 65536)
        os.write(2, b"\\nlast words")
        sys.exit(1)
    """),
    # 34: long lines
    Scenario("a line of 2 MB", f"answer({_BIG!r} * 12)", text=_BIG * 12),
    _fails("a line of 65 MB", "line_too_long", """
        init()
        text("before")
        for _ in range(1040):
            raw("x" * 65536)
        raw("\\n")
        text("after", "m2")
        result("after")
    """, text="before\n\nafter"),
    # 35: bytes
    Scenario("invalid UTF-8", """
        init()
        raw(b'{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"o\\xffk"}]},')
        raw(b'"parent_tool_use_id":null}\\n')
        result("ok")
    """, text="o\ufffdk", warning="UTF-8"),
    Scenario("characters cut in two", """
        init()
        for byte in (json.dumps({"type": "assistant", "parent_tool_use_id": None, "message":
                {"id": "m", "content": [{"type": "text", "text": "ä€😀" * 20}]}},
                ensure_ascii=False) + "\\n").encode():
            raw(bytes([byte]))
            time.sleep(0.0005)
        result("ok")
    """, text="ä€😀" * 20),
    Scenario("U+2028 and U+0085 in a line", """
        init()
        raw('{"type":"assistant","parent_tool_use_id":null,"message":{"id":"m","content":'
            '[{"type":"text","text":"a\\u2028b\\u2029c\\x85d\\x0ce"}]}}\\n')
        result("ok")
    """, text="a\u2028b\u2029c\x85d\x0ce"),
    Scenario("lone surrogates and NUL", r"""
        init()
        raw('{"type":"assistant","parent_tool_use_id":null,"message":{"id":"m","content":'
            '[{"type":"text","text":"a\\ud83db\\u0000c"}]}}\n')
        result("ok")
    """, text="a\ufffdb\0c"),
    Scenario("lines that are no JSON", r"""
        init()
        raw("warning: old\n\n[1]\nnull\n{\n" + "[" * 5000 + "\n")
        text("ok")
        result("ok")
    """, warning="no JSON"),
    Scenario("CRLF and no last newline", r"""
        init()
        raw(json.dumps({"type": "assistant", "parent_tool_use_id": None,
            "message": {"id": "m", "content": [{"type": "text", "text": "ok"}]}}) + "\r\n")
        raw(json.dumps({"type": "result", "subtype": "success", "is_error": False, "result": "ok"}))
    """),
    _fails("cut in the last line", "no_result", lambda c: c.replies("ok").truncates(), text="ok"),
    # 36: signals and grandchildren
    _hang("ignores SIGTERM", lambda c: c.ignores_term().hangs(), exit_code=-9),
    _hang("grandchild in a session of its own", """
        init()
        child(SLEEP, start_new_session=True)
        time.sleep(600)
    """),
    _hang("grandchild that ignores SIGTERM, twice forked", """
        init()
        child("import signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN);"
              "subprocess.Popen([sys.executable, '-IS', '-c', 'import signal, time;"
              "signal.signal(15, signal.SIG_IGN); time.sleep(600)'], start_new_session=True);"
              "time.sleep(0.2)", start_new_session=True)
        time.sleep(600)
    """),
    Scenario("exits, grandchild keeps the pipe", """
        answer("ok")
        child(SLEEP, start_new_session=True)
    """),
    Scenario("exits, grandchild writes the rest", """
        init()
        text("ok")
        child("import os, time; time.sleep(0.3); os.write(1, b'{\\"type\\":\\"result\\",'"
              "b'\\"subtype\\":\\"success\\",\\"is_error\\":false,\\"result\\":\\"ok\\"}\\\\n')",
              start_new_session=True)
    """),
    # 37, 38: prompts
    Scenario("a prompt of 1 MB", "answer(str(len(prompt())))", prompt="ä" * 500_000, text="500000"),
    Scenario("a prompt with NUL and quotes", "answer(prompt())", prompt="-x \0 $(id) `id` \"'\\",
             text="-x \0 $(id) `id` \"'\\"),
    Scenario("a prompt that nobody reads", "answer('ok')", prompt="x" * 5_000_000),
    Scenario("a directory that a shell would run", "answer(os.path.basename(os.getcwd()))",
             folder="$(touch x)`touch y`' \"; touch z", text="$(touch x)`touch y`' \"; touch z"),
    # CLAUDE_CLI 6.3: output is lost when the reader stalls
    Scenario("gives up on a slow reader", f"""
        init()
        os.set_blocking(1, False)
        message = dict(type="assistant", parent_tool_use_id=None, session_id="s")
        words = {_BIG!r}
        import select
        for number in range(5):
            block = dict(type="text", text=words)
            data = json.dumps({{**message, "message": dict(id=f"m{{number}}", content=[block])}})
            data = data.encode() + b"\\n"
            while data:
                if not select.select([], [1], [], 0.5)[1]:
                    sys.exit(0)
                data = data[os.write(1, data):]
        os.set_blocking(1, True)
        result("ok")
    """, text="\n\n".join([_BIG] * 5), slow_store=True),
    # cancelled
    Scenario("cancelled", lambda c: c.goes_silent(text="abc"), status="cancelled",
             kind="cancelled", text="abc", act="cancel"),
    Scenario("cancelled, ignores SIGTERM", lambda c: c.ignores_term().goes_silent(text="abc"),
             status="cancelled", kind="cancelled", text="abc", act="cancel", exit_code=-9),
    Scenario("cancelled elsewhere", lambda c: c.goes_silent(text="abc"), status="cancelled",
             kind="cancelled", text="abc", act="cancelled elsewhere"),
]  # fmt: skip
