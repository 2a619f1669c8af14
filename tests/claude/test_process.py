"""Real processes, pipes and signals: what the CLI may do to its runner, and what is left of it."""

from __future__ import annotations

import errno
import gc
import hashlib
import linecache
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import pytest

import pytest_claude_comms
from pytest_claude_comms import resources
from pytest_claude_comms.claude import descendants, lifeline, pipes
from pytest_claude_comms.claude.command import RUN_MARK, build_environment
from pytest_claude_comms.claude.process import ClaudeProcess, running
from pytest_claude_comms.claude.stream import StreamReader
from pytest_claude_comms.clock import SECOND, Clock, SystemClock, unhandled_hook
from pytest_claude_comms.errors import ClaudeError, ClaudeNotFound, ModuleDirectoryNotFound
from pytest_claude_comms.status import MessageStatus
from pytest_claude_comms.testing import FakeClock
from tests.tracing import Traced

pytestmark = pytest.mark.skipif(os.name != "posix", reason="scripts with a first line, signals")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

ROOT = str(Path(pytest_claude_comms.__file__).parents[1])
LONG = 60
"""Seconds after which a test that waits for something real gives up. No test takes them."""

Claude: TypeAlias = Callable[..., ClaudeProcess]

_HEAD = """\
#!{python} -IS
import os, signal, sys, time
def say(text):
    os.write(1, text.encode())
def child(code, **options):
    import subprocess
    shell = [sys.executable, "-IS", "-c", code]
    return subprocess.Popen(shell, stdin=subprocess.DEVNULL, **options).pid
SLEEP = "import time; time.sleep(600)"
"""


@pytest.fixture
def claude(tmp_path: Path) -> Claude:
    """Makes a run of a stand-in for the CLI, not started yet."""

    def make(script: str, prompt: str = "hi", **options: Any) -> ClaudeProcess:
        path = tmp_path / "claude"
        path.write_text(_HEAD.format(python=sys.executable) + textwrap.dedent(script))
        path.chmod(0o755)
        options.setdefault("command", [str(path)])
        options.setdefault("cwd", tmp_path)
        options.setdefault("env", build_environment(os.environ))
        return ClaudeProcess(prompt, **options)

    return make


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    def held() -> tuple[int, set[str]]:
        gc.collect()
        names = {t.name for t in threading.enumerate() if t.name.startswith("claude-comms")}
        return len(os.listdir("/dev/fd")), names

    before = held()
    known = set(resources.left_open())
    yield
    assert running() == {}
    assert set(resources.left_open()) <= known
    wait_for(lambda: held() == before)
    with pytest.raises(ChildProcessError):  # no child, no zombie
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


def wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def read_all(process: ClaudeProcess) -> bytes:
    assert process.wait(LONG)
    chunks = process.take()
    process.done_with(chunks)
    return b"".join(chunks)


def run(script: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, given the stand-in for the CLI."""
    return subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "claude"), *words],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


def output_until(process: ClaudeProcess, count: int) -> list[str]:
    """The first lines that it prints."""
    wait_for(lambda: b"".join(process._chunks).count(b"\n") >= count)
    return b"".join(process.take()).decode().splitlines()


# -- the ordinary run


def test_the_prompt_goes_by_stdin_and_the_output_comes_whole(claude: Claude) -> None:
    process = claude("say(sys.stdin.read().upper()); os.write(2, b'warned'); sys.exit(3)", "höi\n")
    with process:
        assert read_all(process) == "HÖI\n".encode()
        assert (process.exit_code, process.intent, process.stderr) == (3, None, "warned")
        assert process.ended
        assert process.bytes_read == process.bytes_processed == 5


def test_before_its_start_it_holds_nothing_and_says_so(claude: Claude) -> None:
    process = claude("")
    assert process.take() == []
    assert (process.exit_code, process.ended, process.left_open()) == (None, False, None)
    assert "not started" in repr(process)
    for ask in (lambda: process.pid, process.end, process.wait, process.kill, process.begin_end):
        with pytest.raises(RuntimeError, match="not been started"):
            ask()


def test_it_is_started_once(claude: Claude) -> None:
    process = claude("")
    process.start()
    with pytest.raises(RuntimeError, match="already"):
        process.start()
    with process:
        pass
    with pytest.raises(RuntimeError, match="already"):
        process.start()


def test_while_it_runs_it_is_open_and_listed(claude: Claude) -> None:
    with claude("time.sleep(600)") as process:
        assert running() == {process.pid: process}
        assert (
            process.left_open()
            == f"{process!r} was not ended: call its end(), or use it in a with block"
        )
        assert resources.left_open()[id(process)][0] is process
    assert process.left_open() is None


@pytest.mark.parametrize(
    "prompt", ["a\0b", "-p --model x", "", "\u2028🌍", "$(touch x) `touch x` '\""]
)
def test_any_prompt_arrives_as_it_is(claude: Claude, prompt: str, tmp_path: Path) -> None:
    with claude("sys.stdout.buffer.write(sys.stdin.buffer.read())", prompt) as process:
        assert read_all(process) == prompt.encode()
    assert sorted(os.listdir(tmp_path)) == ["claude"]


def test_a_prompt_that_is_no_text_is_refused(claude: Claude) -> None:
    with pytest.raises(ValueError, match="lone surrogate"):
        claude("", "half an emoji: \ud83d")
    with pytest.raises(TypeError, match="prompt"):
        claude("", b"bytes")
    with pytest.raises(TypeError, match="list of words"):
        claude("", command="claude")


@pytest.mark.parametrize("name", ["$(touch x)", "`touch x`", 'it\'s "quoted"', "a b;c", "--x"])
def test_a_directory_of_any_name_is_inert(claude: Claude, tmp_path: Path, name: str) -> None:
    module = tmp_path / name
    module.mkdir()
    with claude("say(os.getcwd())", cwd=module) as process:
        assert read_all(process) == str(module).encode()
    assert os.listdir(module) == []


@linux
def test_the_prompt_is_nowhere_to_be_seen(claude: Claude) -> None:
    with claude("say('up\\n'); time.sleep(600)", "the-secret " * 10) as process:
        output_until(process, 1)
        for name in ("cmdline", "environ"):
            assert b"the-secret" not in Path(f"/proc/{process.pid}/{name}").read_bytes()


@linux
def test_it_has_its_own_session_and_the_environment_given(claude: Claude) -> None:
    script = "say(f'{os.getsid(0)} {os.getpgid(0)} {os.getpid()}\\n'); say(repr(dict(os.environ)))"
    with claude(script, env={"A": "1"}) as process:
        ids, environ = read_all(process).decode().split("\n")
    assert set(ids.split()) == {str(process.pid)}
    assert {name for name in eval(environ) if name != "LC_CTYPE"} == {"A", RUN_MARK}


# -- much of everything (rows 33, 34, 37; pitfalls 3 and 4)


def test_a_big_prompt_is_read_when_the_child_likes(claude: Claude) -> None:
    prompt = "0123456789abcdef" * 250_000
    script = """
        say("x" * 300_000)          # before it reads: neither side may wait for the other
        import hashlib
        say(hashlib.md5(sys.stdin.buffer.read()).hexdigest())
    """
    with claude(script, prompt) as process:
        digest = hashlib.md5(prompt.encode()).hexdigest()
        assert read_all(process) == b"x" * 300_000 + digest.encode()


@pytest.mark.parametrize("script", ["os.close(0); say('done')", "say('done')"])
def test_a_child_may_leave_its_prompt_unread(claude: Claude, script: str) -> None:
    with claude(script, "p" * 3_000_000) as process:
        assert read_all(process) == b"done"
        assert process.exit_code == 0


_FILTER = """
import os, signal, sys
from pytest_claude_comms.claude.process import ClaudeProcess
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
prompt = "p" * 3_000_000
with ClaudeProcess(prompt, cwd=".", command=[sys.argv[1]], env=dict(os.environ)) as process:
    process.wait()
    print(b"".join(process.take()).decode())
"""


def test_an_unread_prompt_does_not_end_a_program_that_dies_of_sigpipe(
    claude: Claude, tmp_path: Path
) -> None:
    claude("os.close(0); say('done')")
    shown = run(_FILTER, tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "done\n")


def test_ten_megabytes_for_a_slow_consumer_are_complete(claude: Claude) -> None:
    script = """
        for number in range(160):
            say(f"{number:07d}\\n" * 8192)
    """
    expected = b"".join(b"%07d\n" % number * 8192 for number in range(160))
    with claude(script) as process:
        # Nobody takes anything before the child has long ended.
        assert process.wait(LONG)
        assert process.exit_code == 0
        assert process.bytes_processed == 0
        assert b"".join(process.take()) == expected
        assert process.take() == []


def test_ten_megabytes_of_stderr_are_drained_and_the_tail_kept(claude: Claude) -> None:
    script = """
        for number in range(160):
            os.write(2, b"%07d\\n" % number * 8192)
        os.write(2, "the end: é".encode() + b"\\xff")
        say("out")
    """
    with claude(script, stderr_tail=1000) as process:
        assert read_all(process) == b"out"
        assert process.stderr.endswith("0000159\nthe end: é\ufffd")
        assert len(process.stderr.encode(errors="replace")) <= 1002


def test_of_stderr_nothing_is_kept_if_nothing_is_wanted(claude: Claude) -> None:
    with claude("os.write(2, b'x' * 100_000)", stderr_tail=0) as process:
        read_all(process)
        assert process.stderr == ""


def test_a_line_of_any_length_passes(claude: Claude) -> None:
    script = """
        say('{"type": "x", "pad": "' + "y" * 3_000_000 + '"}\\n')
        say('{"type": "result", "subtype": "success", "is_error": false, "result": "ok"}\\n')
    """
    for longest, status in ((64 << 20, MessageStatus.COMPLETE), (1 << 20, MessageStatus.FAILED)):
        reader = StreamReader(max_line_bytes=longest)
        with claude(script) as process:
            assert process.wait(LONG)
            for chunk in process.take():
                reader.feed_bytes(chunk)
        outcome = reader.finish(exit_code=process.exit_code, stderr=process.stderr)
        assert (outcome.status, outcome.answer) == (status, "ok")


def test_what_comes_is_told_and_counted(claude: Claude) -> None:
    told = threading.Event()
    process = claude("say(sys.stdin.readline()); time.sleep(600)", "one\n", on_output=told.set)
    with process:
        assert told.wait(LONG)
        chunks = process.take()
        assert chunks == [b"one\n"]
        assert (process.bytes_read, process.bytes_processed) == (4, 0)
        process.done_with(chunks)
        assert process.bytes_processed == 4
        told.clear()
        process.end("cancelled")
        assert told.is_set()


def test_a_consumer_that_raises_hinders_nothing(claude: Claude) -> None:
    def fail() -> None:
        raise LookupError("consumer")

    seen: list[BaseException] = []
    with (
        unhandled_hook(lambda error, what: seen.append(error)),
        claude("say('x' * 1_000_000)", on_output=fail) as process,
    ):
        assert len(read_all(process)) == 1_000_000
    assert {type(error) for error in seen} == {LookupError}


# -- what cannot be started (row 39)


def test_a_missing_cli_and_a_missing_directory_are_told_apart(
    claude: Claude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ClaudeNotFound, match="pip install"):
        claude("", command=["claude"], env={"PATH": "/nowhere"}).start()
    for cwd in (tmp_path / "none", tmp_path / "claude"):
        with pytest.raises(ModuleDirectoryNotFound) as caught, claude("", cwd=cwd):
            pass
        assert caught.value.path == str(cwd)


def test_what_the_system_refuses_is_said_in_words(claude: Claude, tmp_path: Path) -> None:
    script = tmp_path / "broken"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(ClaudeNotFound, match="interpreter"):
        claude("", command=[str(script)]).start()
    script.write_text("no program at all")
    with pytest.raises(ClaudeError, match="exec format error"):
        claude("", command=[str(script)]).start()
    process = claude("")
    process.command.append("x" * 3_000_000)
    with pytest.raises(ClaudeError, match="3,000,000 bytes"):
        process.start()
    with pytest.raises(ValueError, match="null"):
        claude("", command=[str(tmp_path / "claude"), "a\0b"]).start()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may enter anything")
def test_a_directory_that_may_not_be_entered(claude: Claude, tmp_path: Path) -> None:
    shut = tmp_path / "shut"
    shut.mkdir(mode=0)
    with pytest.raises(ClaudeError, match="cannot be entered: permission denied"):
        claude("", cwd=shut).start()


def test_a_directory_that_goes_meanwhile(
    claude: Claude, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_claude_comms.claude.child.find_directory", lambda cwd: str(cwd))
    with pytest.raises(ModuleDirectoryNotFound, match="cannot be entered"):
        claude("", cwd=tmp_path / "none").start()


@pytest.mark.parametrize("nth", range(4))
def test_a_start_that_fails_half_way_leaves_nothing(
    claude: Claude, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    started: list[threading.Thread] = []
    true_start = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if len(started) == nth:
            monkeypatch.undo()
            raise RuntimeError("can't start new thread")
        started.append(thread)
        true_start(thread)

    process = claude("time.sleep(600)", "p" * 1_000_000)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="new thread"):
        process.start()
    assert process.exit_code == -signal.SIGKILL
    assert process.left_open() is None


def test_with_no_descriptor_for_its_own_pipe_it_is_refused_in_the_same_words(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    process = claude("say('done')")
    monkeypatch.setattr(os, "pipe", refuse)
    with pytest.raises(ClaudeError, match="could not be started: too many open files"):
        process.start()
    monkeypatch.undo()
    with process:
        assert read_all(process) == b"done"


# -- interrupted, by Ctrl-C or what else a signal's handler raises


class Interrupt:
    """A trace function: KeyboardInterrupt at the ``left``-th line that this thread runs in the
    rooms of a run."""

    rooms = frozenset(
        str(Path(pipes.__file__).with_name(f"{name}.py"))
        for name in ("process", "child", "pipes", "lifeline")
    )

    def __init__(self, left: int) -> None:
        self.left = left
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        if name not in self.rooms:
            return None
        # Where a signal, unlike a trace function, does not come between: a lock that is taken or
        # released, the instruction that stands for no more than a line.
        line = linecache.getline(name, frame.f_lineno).strip()
        if event == "line" and not line.startswith(("with ", "try:")):
            self.left -= 1
            if self.left == 0:
                self.where = f"{os.path.basename(name)}:{frame.f_lineno}: {line}"
                raise KeyboardInterrupt
        return self


def interrupted(call: Callable[[], object], at: int) -> str:
    """At which line; empty: it has fewer."""
    interrupt = Interrupt(at)
    with Traced(interrupt), suppress(KeyboardInterrupt):
        call()
    return interrupt.where


class DeclaredClock(SystemClock):
    """Knows what is declared to go on outside."""

    def __init__(self) -> None:
        self.declared: set[object] = set()

    def outside_works(self, key: object, what: object) -> None:
        self.declared.add(key)

    def outside_rests(self, key: object) -> None:
        self.declared.discard(key)


def assert_nothing_is_left(process: ClaudeProcess, clock: DeclaredClock, where: str) -> None:
    assert process.left_open() is None, where
    assert running() == {}, where
    assert clock.declared == set(), where
    assert lifeline._held == set(), where
    with pytest.raises(ChildProcessError):
        raise AssertionError(where, os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))


@linux
def test_a_start_interrupted_at_any_line_leaves_nothing(claude: Claude) -> None:
    at = 0
    while True:
        at += 1
        clock = DeclaredClock()
        process = claude("", "p" * 1_000_000, command=["/bin/sleep", "600"], clock=clock)
        where = interrupted(process.start, at)
        if not where:
            break
        assert_nothing_is_left(process, clock, where)
        if process._child is not None:
            assert process.exit_code == -signal.SIGKILL, where
            process.kill()
    process.kill()
    assert at > 100, "fewer lines than there are"


@linux
@pytest.mark.parametrize("how", ["end", "kill"])
def test_an_end_interrupted_at_any_line_can_be_had_again(claude: Claude, how: str) -> None:
    at = 0
    where = "not yet"
    while where:
        at += 1
        clock = DeclaredClock()
        process = claude("", command=["/bin/sleep", "600"], clock=clock)
        process.start()
        where = interrupted(getattr(process, how), at)
        process.kill()
        assert_nothing_is_left(process, clock, where)
    assert at > 10, "fewer lines than there are"


def test_an_end_interrupted_before_its_signal_is_a_kill(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = claude("time.sleep(600)")
    process.start()
    claim = process._claim

    def interrupt(intent: Any) -> bool:
        monkeypatch.undo()
        claim(intent)
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "_claim", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            process.end("timeout")
        assert (process.ended, process.exit_code, process.intent) == (True, -9, "timeout")
    finally:
        process.kill()


@linux
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_child_whose_number_is_lost_is_killed(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    home: Any = subprocess.Popen
    true_call = home._execute_child

    def call(*args: Any) -> None:
        monkeypatch.undo()
        true_call(*args)
        raise KeyboardInterrupt

    process = claude("say('up'); time.sleep(600)")
    monkeypatch.setattr(home, "_execute_child", call)
    with pytest.raises(KeyboardInterrupt):
        process.start()
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    process.start()
    process.kill()


@pytest.mark.parametrize("nth", range(4))
@pytest.mark.parametrize("begins", ["at once", "too late"])
def test_a_start_may_be_interrupted_while_a_thread_begins(
    claude: Claude, monkeypatch: pytest.MonkeyPatch, nth: int, begins: str
) -> None:
    started: list[threading.Thread] = []
    failed: list[Any] = []
    true_start = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        started.append(thread)
        if len(started) <= nth or begins == "at once":
            true_start(thread)
        if len(started) > nth:
            monkeypatch.setattr(threading.Thread, "start", true_start)
            raise KeyboardInterrupt

    process = claude("time.sleep(600)", "p" * 1_000_000)
    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(KeyboardInterrupt):
        process.start()
    process.kill()  # again
    assert (process.ended, process.exit_code) == (True, -signal.SIGKILL)
    if begins == "too late":
        true_start(started[-1])
    for thread in started:
        thread.join(LONG)
    assert failed == []


def test_a_stop_does_not_touch_a_number_that_it_has_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed: list[int] = []
    true_close = os.close

    def close(fd: int) -> None:
        monkeypatch.undo()
        true_close(fd)
        closed.append(fd)
        raise KeyboardInterrupt

    stop = pipes.Stop()
    stop.open()
    with open(tmp_path / "theirs", "wb") as theirs:
        for end in (stop.set, stop.close):
            monkeypatch.setattr(os, "close", close)
            with pytest.raises(KeyboardInterrupt):
                end()
            number = os.dup2(theirs.fileno(), closed[-1])
            end()
            os.close(number)
    assert (tmp_path / "theirs").read_bytes() == b""


@linux
def test_a_shell_that_was_not_ended_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) as bystander:
        shell = lifeline.Lifeline("no such token", grace=0)
        with lifeline.no_fork():
            shell.tie(bystander.pid)
        monkeypatch.setattr(subprocess.Popen, "kill", kill)
        try:
            with pytest.raises(KeyboardInterrupt):
                shell.cut()
            shell.cut()
            children = [row.pid for row in descendants._rows() if row.parent == os.getpid()]
            assert children == [bystander.pid]
        finally:
            bystander.kill()
    assert lifeline._held == set()


def test_whatever_fails_at_its_end_all_is_closed_and_told(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Any] = []
    told = threading.Event()
    process = claude("time.sleep(600)", on_output=told.set)
    process.start()
    true_close = process._in.close

    def close() -> None:
        true_close()
        raise LookupError("close")

    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setattr(process._in, "close", close)
    try:
        process.begin_end()
        assert process.wait(LONG)
        assert told.is_set()
        wait_for(lambda: failed)
        assert [each.exc_type for each in failed] == [LookupError]
    finally:
        monkeypatch.undo()
        process.kill()


# -- ending it (rows 29, 30, 36; pitfalls 5 and 6)


@pytest.mark.parametrize("intent", ["timeout", "cancelled", None])
def test_it_is_ended_by_sigterm(claude: Claude, intent: Any) -> None:
    with claude("say('up\\n'); time.sleep(600)") as process:
        output_until(process, 1)
        process.end(intent)
        assert (process.exit_code, process.intent, process.ended) == (-15, intent, True)


def test_it_may_take_leave(claude: Claude) -> None:
    script = """
        def leave(*_):
            say("bye")
            os._exit(143)
        signal.signal(signal.SIGTERM, leave)
        say("up\\n")
        while True: time.sleep(0.01)  # a signal right before a sleep does not end it
    """
    with claude(script) as process:
        output_until(process, 1)
        process.end("timeout")
        assert (process.exit_code, process.take()) == (143, [b"bye"])


def test_a_term_that_is_ignored_is_followed_by_a_kill(claude: Claude) -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('up\\n'); time.sleep(600)"
    with claude(script, grace=0.2) as process:
        output_until(process, 1)
        process.end("timeout")
        assert (process.exit_code, process.intent) == (-9, "timeout")


def test_a_result_and_then_no_exit_is_ended_without_intent(claude: Claude) -> None:
    script = """
        say('{"type": "result", "subtype": "success", "is_error": false, "result": "ok"}\\n')
        os.close(1)
        time.sleep(600)
    """
    with claude(script) as process:
        lines = output_until(process, 1)
        assert not process.ended
        process.end()
        assert process.intent is None
        reader = StreamReader()
        reader.feed(lines[0])
        outcome = reader.finish(exit_code=process.exit_code, intent=process.intent)
        assert outcome.status == MessageStatus.COMPLETE


def test_the_first_end_counts(claude: Claude) -> None:
    with claude("time.sleep(600)") as process:
        process.begin_end(None)
        process.begin_end("timeout")
        process.end("cancelled")
        assert process.intent is None
    with claude("time.sleep(600)") as process:
        process.begin_end("cancelled")
        process.end("timeout")
        assert process.intent == "cancelled"
        with pytest.raises(ValueError, match="intent"):
            process.begin_end("killed")  # type: ignore[arg-type]


def test_what_has_exited_by_itself_was_not_ended(claude: Claude) -> None:
    with claude("say('done')") as process:
        assert process.wait(LONG)
        process.end("timeout")
        process.kill()
        assert (process.intent, process.exit_code, process.take()) == (None, 0, [b"done"])


def test_many_may_end_it_at_once(claude: Claude) -> None:
    with claude("say('up\\n'); time.sleep(600)") as process:
        output_until(process, 1)
        enders: list[Callable[[], object]] = [process.end, process.kill, process.wait] * 3
        threads = [threading.Thread(target=end) for end in enders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert process.ended


def test_waiting_for_it_has_an_end(claude: Claude) -> None:
    with claude("time.sleep(600)") as process:
        assert process.wait(0) is False
        assert process.wait(0.01) is False


def test_an_exception_in_the_block_ends_it_too(claude: Claude) -> None:
    process = claude("time.sleep(600)")
    with pytest.raises(KeyboardInterrupt), process:
        raise KeyboardInterrupt
    assert process.ended


# -- its descendants (row 36, pitfall 6)

_TOOLS = {
    "its group": "child(SLEEP)",
    "a group of its own": "child(SLEEP, process_group=0)"
    if sys.version_info >= (3, 11)
    else "child(SLEEP, preexec_fn=os.setpgrp)",
    "a session of its own": "child(SLEEP, start_new_session=True)",
    "no pipe of ours": "child(SLEEP, start_new_session=True, stdout=-3, stderr=-3)",
    "deaf to SIGTERM": """child(
        "import signal; signal.signal(15, 1);" + SLEEP, start_new_session=True)""",
}


@linux
@pytest.mark.parametrize("tool", _TOOLS)
@pytest.mark.parametrize("ignores", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_its_tools_end_with_it(claude: Claude, tool: str, ignores: str) -> None:
    script = f"say(str({_TOOLS[tool].strip()}) + '\\n')\n{ignores}\nsay('up\\n')\ntime.sleep(600)"
    with claude(script, grace=0.2) as process:
        pid, _ = output_until(process, 2)
        assert alive(int(pid))
        process.end("timeout")
        assert not alive(int(pid))
        assert process.exit_code == (-9 if ignores else -15)


@linux
def test_an_orphan_of_an_orphan_is_found_by_its_mark(claude: Claude) -> None:
    script = """
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}],"
        code += "start_new_session=True, stdout=-3, stderr=-3, stdin=-3)"
        import subprocess
        subprocess.run([sys.executable, "-c", code], start_new_session=True)
        say("up\\n")
        time.sleep(600)
    """
    with claude(script) as process:
        output_until(process, 1)
        token = process._started().token
        (orphan,) = (each for each in descendants.find(None, token) if each.pid != process.pid)
        (row,) = (row for row in descendants._rows() if row.pid == orphan.pid)
        assert process.pid not in (row.parent, row.session)
        process.end("cancelled")
        assert not alive(orphan.pid)
        assert descendants.find(None, token) == set()


_NO_MARK = """
import os, subprocess
code = "import os, time; os.setsid(); os.write(1, str(os.getpid()).encode()); time.sleep(600)"
shell = [sys.executable, "-IS", "-c", code]
with subprocess.Popen(shell, env={}, stdin=-3, stdout=-1, stderr=-3) as tool:
    os.write(1, tool.stdout.read1() + b"\\n")
    os._exit(0)
"""
"""The tool of a tool: an orphan, in a session of its own, without any environment."""


@linux
def test_an_orphan_without_environment_is_found_by_its_limit(claude: Claude) -> None:
    script = f"child('import sys' + {_NO_MARK!r}, start_new_session=True); time.sleep(600)"
    with claude(script) as process:
        (pid,) = map(int, output_until(process, 1))
        assert RUN_MARK.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        (row,) = (row for row in descendants._rows() if row.pid == pid)
        assert process.pid not in (row.parent, row.session)
        try:
            process.end("cancelled")
            assert not alive(pid)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@linux
def test_a_runner_that_dies_takes_such_an_orphan_along(claude: Claude, tmp_path: Path) -> None:
    claude(
        f"os.waitpid(child('import sys' + {_NO_MARK!r}, start_new_session=True), 0)\n"
        "say('up\\n'); time.sleep(600)"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, str(tmp_path / "claude"), "is killed"],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    assert runner.stdout is not None
    pids = [int(word) for word in runner.stdout.readline().split()]
    try:
        runner.kill()
        wait_for(lambda: not any(alive(pid) for pid in pids))
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        runner.stdout.close()
        runner.wait()


@linux
def test_the_limit_is_its_own_and_limits_nothing(claude: Claude) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_RTTIME)
    script = "import resource; sys.stdin.read(); say(resource.getrlimit(resource.RLIMIT_RTTIME))"
    with claude(script.replace("say(", "say('%d %d' % ")) as process:
        soft, hard = map(int, read_all(process).split())
        assert soft == descendants.limit_of(process._started().token) > 1 << 62
        assert hard == before[1]
    assert resource.getrlimit(resource.RLIMIT_RTTIME) == before
    assert descendants.limit_of("t1") != descendants.limit_of("t2")


@linux
def test_where_no_limit_can_be_set_it_runs_all_the_same(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    def refuse(*_: object) -> Any:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "prlimit", refuse)
    script = f"say(str({_TOOLS['a session of its own']}) + '\\n'); time.sleep(600)"
    with claude(script) as process:
        (pid,) = output_until(process, 1)
        process.end("timeout")
        assert not alive(int(pid))


@linux
def test_who_keeps_the_pipe_is_not_waited_for_for_ever(claude: Claude, clock: FakeClock) -> None:
    script = """
        pid = child(SLEEP, start_new_session=True)
        other = child(SLEEP, start_new_session=True, stdout=-3, stderr=-3)
        say(f"{pid} {other}")
    """
    with claude(script, clock=clock) as process:
        pid, other = map(int, read_all(process).split())
        assert (process.exit_code, process.intent, clock.elapsed) == (0, None, 1)
        assert not alive(pid)
        # What it left in the background and holds nothing of ours is none of our business.
        assert alive(other)
    os.kill(other, signal.SIGKILL)
    wait_for(lambda: not alive(other))


@linux
def test_who_keeps_writing_into_the_pipe_cannot_hold_it_either(claude: Claude) -> None:
    loop = "import os\nwhile True: os.write(1, b'y' * 4096)"
    with claude(f"say('mine'); child({loop!r}, start_new_session=True)") as process:
        assert read_all(process).startswith(b"mine")
        # Ended by how much came, and not by the second that it has: how much more comes until
        # the writer is found and killed is up to the machine.
        assert process._hurried
        assert descendants.find(None, process._started().token) == set()


def test_a_wrapper_may_pass_on_the_last_of_it(claude: Claude) -> None:
    late = "import time, os; time.sleep(0.2); os.write(1, b'late')"
    with claude(f"say('early '); child({late!r}, start_new_session=True)") as process:
        assert read_all(process) == b"early late"


@linux
def test_to_end_it_while_it_lingers_ends_the_lingering(claude: Claude) -> None:
    with claude("child(SLEEP, start_new_session=True)") as process:
        wait_for(lambda: process.exit_code is not None)
        process.end("timeout")
        assert (process.ended, process.intent) == (True, None)
        assert descendants.find(None, process._started().token) == set()


@linux
def test_a_stranger_with_the_number_is_not_killed() -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (row,) = [row for row in descendants._rows() if row.pid == stranger.pid]
    descendants.kill({descendants.Relative(stranger.pid, row.started + "1")})
    stranger.communicate(b"\n")
    assert stranger.returncode == 0


@linux
@pytest.mark.parametrize("open_handle", [True, False])
def test_without_handles_of_processes_they_are_killed_too(
    monkeypatch: pytest.MonkeyPatch, open_handle: bool
) -> None:
    if not open_handle:
        monkeypatch.delattr(os, "pidfd_open")
    victim = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (row,) = [row for row in descendants._rows() if row.pid == victim.pid]
    descendants.kill({descendants.Relative(victim.pid, row.started)})
    victim.communicate()
    wait_for(lambda: not alive(victim.pid))


@linux
def test_who_is_in_the_middle_of_its_exec_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    # At that moment, which is short, the kernel shows an empty environment.
    true_read = descendants._read
    looks: list[str] = []

    def read(path: str) -> bytes | None:
        if path == f"/proc/{child.pid}/environ" and len(looks) < 2:
            looks.append(path)
            return b""
        return true_read(path)

    env = descendants.marked({}, "t1")
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=env
    ) as child:
        monkeypatch.setattr(descendants, "_read", read)
        assert [each.pid for each in descendants.find(None, "t1")] == [child.pid]
        child.kill()
        assert child.stdin is not None
        child.stdin.close()


_ADOPTS = """
import ctypes, os, sys
from pytest_claude_comms.claude.process import ClaudeProcess
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)     # PR_SET_CHILD_SUBREAPER
with ClaudeProcess("hi", cwd=".", command=[sys.argv[1]], env=dict(os.environ)) as process:
    while b"".join(process._chunks).count(b"\\n") < 2:
        pass
    process.end("timeout")
try:
    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
except ChildProcessError:
    print("nobody is left")
"""


@linux
@pytest.mark.parametrize("tool", ["its group", "a session of its own"])
def test_who_adopts_orphans_reaps_them(claude: Claude, tmp_path: Path, tool: str) -> None:
    claude(f"say(str({_TOOLS[tool]}) + '\\n')\nsay('up\\n')\ntime.sleep(600)")
    shown = run(_ADOPTS, tmp_path)
    assert (shown.returncode, shown.stdout) == (0, "nobody is left\n"), shown.stderr


@linux
def test_where_there_is_no_proc_ps_tells(claude: Claude, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descendants, "_PROC", "/no/such/folder")
    if not descendants._rows():
        pytest.skip("no ps here")
    script = f"say(str({_TOOLS['a group of its own']}) + '\\n'); time.sleep(600)"
    with claude(script) as process:
        (pid,) = output_until(process, 1)
        process.end("timeout")
        wait_for(lambda: not alive(int(pid)))


def test_a_mark_is_added_to_that_of_an_outer_run() -> None:
    outer = descendants.marked({"A": "1"}, "t1")
    assert outer == {"A": "1", RUN_MARK: "t1"}
    assert descendants.marked(build_environment(outer), "t2")[RUN_MARK] == "t1:t2"


# -- the runner's own end (row 28)

_RUNNER = """
import os, sys, time
from pytest_claude_comms.claude.process import ClaudeProcess
process = ClaudeProcess("hi", cwd=".", command=[sys.argv[1]], env=dict(os.environ), grace=0)
process.start()
if sys.argv[2] == "forks" and os.fork() == 0:
    time.sleep(600)
while b"".join(process._chunks).count(b"\\n") < 2:
    time.sleep(0.01)
print(b"".join(process.take()).decode().split()[0], process.pid, flush=True)
if sys.argv[2] == "exits":
    sys.exit()
if sys.argv[2] == "crashes":
    os.abort()
time.sleep(600)
"""


@linux
@pytest.mark.parametrize("how", ["is killed", "crashes", "exits", "forks"])
@pytest.mark.parametrize("ignores", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_runner_that_dies_takes_its_child_along(
    claude: Claude, tmp_path: Path, how: str, ignores: str
) -> None:
    claude(
        f"say(str({_TOOLS['deaf to SIGTERM']}) + '\\n')\n{ignores}\nsay('up\\n')\ntime.sleep(600)"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", _RUNNER, str(tmp_path / "claude"), how],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert runner.stdout is not None
    pids = [int(word) for word in runner.stdout.readline().split()]
    try:
        if how in ("is killed", "forks"):
            assert [alive(pid) for pid in pids] == [True, True]
            runner.kill()
        wait_for(lambda: not any(alive(pid) for pid in pids))
    finally:
        for pid in (*pids, runner.pid):  # with the forked worker, which is in its group
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        runner.stdout.close()
        runner.wait()


# -- a runner that cannot know how it ended

_IGNORES_ITS_CHILDREN = """
import os, signal, sys
from pytest_claude_comms.claude.process import ClaudeProcess
from pytest_claude_comms.claude.stream import StreamReader
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signalled, true_killpg = [], os.killpg
def killpg(*words):
    signalled.append(words)
    true_killpg(*words)
os.killpg = killpg
for how in ("wait", "kill"):
    process = ClaudeProcess(how, cwd=".", command=[sys.argv[1]], env=dict(os.environ))
    process.start()
    getattr(process, how)()
    reader = StreamReader()
    for chunk in process.take():
        reader.feed_bytes(chunk)
    outcome = reader.finish(process.exit_code, process.stderr, process.intent)
    print(process.exit_code, process.ended, "unknown" in repr(process), outcome.error_kind)
    count = len(signalled)
    process.end("timeout")
    process.kill()      # its number may be somebody else's by now
    assert (process.intent, len(signalled)) == (None, count)
"""


def test_where_the_system_reaps_its_exit_code_is_unknown(claude: Claude, tmp_path: Path) -> None:
    claude("if sys.stdin.read() == 'kill': time.sleep(600)\nsys.exit(3)")
    shown = run(_IGNORES_ITS_CHILDREN, tmp_path)
    assert (shown.stdout, shown.stderr) == ("None True True no_result\n" * 2, "")


# -- a fork of the runner, at the worst moment


class Forks:
    """Another thread forks, at a moment, and the fork lives on, as a worker of a pool does."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self.pids: list[int] = []

    def fork(self) -> None:
        """Let it fork now; returns once it has, or has to wait until this moment is over."""
        thread = threading.Thread(target=self._fork)
        thread.start()
        self._threads.append(thread)
        thread.join(0.2)  # really: no other thread can see that it waits

    def _fork(self) -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(LONG)
            os._exit(0)
        self.pids.append(pid)

    def end(self) -> None:
        while self._threads:
            self._threads.pop().join(LONG)
        while self.pids:
            pid = self.pids.pop()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.end()


may_fork = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@linux
@may_fork
@pytest.mark.parametrize("moment", ["it has pipes", "Popen waits for the exec", "it has started"])
def test_a_fork_while_it_starts_has_none_of_its_pipes(
    claude: Claude, monkeypatch: pytest.MonkeyPatch, forks: Forks, moment: str
) -> None:
    home: Any = subprocess
    name = "Popen"
    if moment == "it has pipes":
        home, name = subprocess.Popen, "_execute_child"
    elif moment == "Popen waits for the exec":
        home, name = (
            (subprocess, "_fork_exec")
            if sys.version_info >= (3, 11)
            else (sys.modules["_posixsubprocess"], "fork_exec")
        )
    true_call = getattr(home, name)

    def call(*args: Any, **options: Any) -> Any:
        monkeypatch.undo()  # the CLI's start only, not that of the shell beside it
        if moment != "it has started":
            forks.fork()
        value = true_call(*args, **options)
        if moment == "it has started":
            forks.fork()
        return value

    process = claude("say(sys.stdin.read().upper())")
    monkeypatch.setattr(home, name, call)
    starting = threading.Thread(target=process.start)
    starting.start()
    starting.join(LONG)
    try:
        assert not starting.is_alive(), "Popen waits for the end of a pipe that the fork has too"
        assert process.wait(LONG), "the prompt has no end"
        assert (process.take(), len(forks.pids)) == ([b"HI"], 1)
    finally:
        forks.end()
        starting.join(LONG)
        process.kill()


@linux
@may_fork
def test_a_fork_while_a_pipe_is_let_go_has_no_end_of_it(forks: Forks) -> None:
    read, write = os.pipe()
    pipe = os.fdopen(write, "wb", 0)

    class Slow:
        def close(self) -> None:
            if not pipe.closed:
                forks.fork()
            pipe.close()

    slow: Any = Slow()
    lifeline.hold(slow)
    lifeline.let_go(slow)
    os.set_blocking(read, False)
    assert os.read(read, 1) == b""  # BlockingIOError: somebody else has the other end too
    os.close(read)


@linux
@may_fork
def test_a_fork_hinders_no_thread_from_ending(forks: Forks) -> None:
    stop = pipes.Stop()
    stop.open()
    forks.fork()  # it has a copy of the pipe by which threads are told to stop
    read, write = os.pipe()
    thread = threading.Thread(target=stop.wait, args=(read, select.POLLIN))
    thread.start()
    stop.set()
    thread.join(LONG)
    assert not thread.is_alive()
    stop.close()
    os.close(read)
    os.close(write)


_FORKED = """
import os, signal, subprocess, sys
from pytest_claude_comms.claude.process import ClaudeProcess

def ask(prompt):
    process = ClaudeProcess(prompt, cwd=".", command=[sys.argv[1]], env=dict(os.environ))
    with process:
        process.wait()
        return b"".join(process.take()).decode()

def fork():
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        subprocess.Popen._execute_child = true_call
        print(ask("in the fork"), flush=True)
        os._exit(0)
    print(os.waitpid(pid, 0)[1])

def call(*args, **options):         # at-fork hooks run in the thread that is starting one
    subprocess.Popen._execute_child = true_call
    fork()
    return true_call(*args, **options)

true_call, subprocess.Popen._execute_child = subprocess.Popen._execute_child, call
print(ask("while it starts"), flush=True)
fork()
"""


@linux
def test_a_fork_may_ask_too(claude: Claude, tmp_path: Path) -> None:
    claude("say(sys.stdin.read())")
    shown = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORKED, str(tmp_path / "claude")],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert shown.stdout.splitlines() == ["in the fork", "0", "while it starts", "in the fork", "0"]


# -- no free descriptor

_NO_DESCRIPTOR = """
import os, resource, sys, threading
from pytest_claude_comms.claude.process import ClaudeProcess
process = ClaudeProcess("hi", cwd=".", command=[sys.argv[1]], env=dict(os.environ), grace=0.2)
process.start()
while b"".join(process._chunks).count(b"\\n") < 2:
    pass
pid = int(b"".join(process.take()).split()[0])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []
try:
    while True:
        held.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
ender = threading.Thread(target=getattr(process, sys.argv[2]), daemon=True)
ender.start()
ender.join(10)
code, ended = process.exit_code, process.ended
while held:
    os.close(held.pop())
with open(f"/proc/{pid}/stat") if os.path.exists(f"/proc/{pid}") else open(os.devnull) as file:
    state = file.read().rpartition(")")[2].split()[:1]
print("returned" if not ender.is_alive() else "hangs", "ended" if ended else "not ended", code,
      "tool is dead" if state in ([], ["Z"]) else "tool lives", flush=True)
os._exit(0)
"""


@linux
@pytest.mark.parametrize("how", ["end", "kill"])
@pytest.mark.parametrize("ignores", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_without_a_free_descriptor_it_is_ended_too(
    claude: Claude, tmp_path: Path, how: str, ignores: str
) -> None:
    claude(
        f"say(str({_TOOLS['deaf to SIGTERM']}) + '\\n')\n{ignores}\nsay('up\\n')\ntime.sleep(600)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", _NO_DESCRIPTOR, str(tmp_path / "claude"), how],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    code = -9 if ignores or how == "kill" else -15
    assert shown.stdout == f"returned ended {code} tool is dead\n", shown.stderr
    assert shown.stderr == ""


@linux
def test_who_cannot_be_looked_up_hinders_no_end(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(*_: object, **__: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    seen: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    with claude("say('up\\n'); time.sleep(600)") as process:
        output_until(process, 1)
        monkeypatch.setattr(descendants, "find", find)
        try:
            process.begin_end("timeout")
            assert process.wait(LONG)
            assert process.exit_code == -15
            wait_for(lambda: seen)
            assert [each.exc_value.errno for each in seen] == [errno.EMFILE]  # and it is said
        finally:
            monkeypatch.undo()
            process.kill()


@linux
def test_a_process_that_cannot_be_read_is_not_one_that_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    me = {descendants.Relative(os.getpid(), "?")}
    monkeypatch.setattr("builtins.open", refuse)
    for look in (lambda: descendants.find(None, "t1"), lambda: descendants.kill(me)):
        with pytest.raises(OSError, match="Too many"):
            look()


@linux
def test_without_a_shell_it_runs_all_the_same(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_popen = subprocess.Popen

    def popen(argv: list[str], **options: Any) -> Any:
        if argv[0] == "/bin/sh":
            raise FileNotFoundError(2, "No such file or directory", "/bin/sh")
        return true_popen(argv, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with claude("say('done')") as process:
        assert read_all(process) == b"done"


@linux
def test_a_run_that_has_ended_leaves_no_shell_behind(claude: Claude) -> None:
    def shells() -> list[int]:
        return [row.pid for row in descendants._rows() if row.parent == os.getpid()]

    with claude("say('up\\n'); time.sleep(600)") as process:
        output_until(process, 1)
        assert len(shells()) == 2
    assert shells() == []


# -- on a fake clock


def test_no_fake_time_passes_while_it_runs(claude: Claude, clock: FakeClock) -> None:
    wakeup = clock.wakeup()
    with claude(
        "say('x'); time.sleep(0.1); say('y')", clock=clock, on_output=wakeup.set
    ) as process:
        while not process.ended:
            assert wakeup.wait(60 * SECOND, why="Claude")
        assert b"".join(process.take()) == b"xy"
    assert clock.elapsed == 0


def test_an_actor_ends_it_and_the_grace_is_fake(claude: Claude, clock: FakeClock) -> None:
    script = """
        signal.signal(signal.SIGTERM, lambda *_: say("no\\n"))
        say("up\\n")
        while True: time.sleep(0.01)
    """
    printed: list[bytes] = []
    rests = threading.Event()

    def stand_in() -> None:
        # What the stand-in for the CLI does: after each line its child waits for time to pass.
        chunks = process.take()
        printed.extend(chunks)
        if chunks:
            rests.set()
            clock.outside_rests(process.pid)

    process = claude(script, clock=clock, grace=5, on_output=stand_in)
    with process:
        assert rests.wait(LONG)
        clock.sleep(7)
        process.end("timeout")
        assert (process.exit_code, process.intent) == (-9, "timeout")
        assert clock.elapsed == 12
    assert b"".join(printed) == b"up\nno\n"


def test_when_the_clock_stops_it_is_killed(claude: Claude) -> None:
    clock = FakeClock()
    process = claude("time.sleep(600)", clock=clock)

    def ask() -> None:
        with process:
            clock.outside_rests(process.pid)
            clock.sleep(600)

    clock.spawn(ask)
    clock.advance(1)
    clock.close()
    assert (process.ended, process.exit_code) == (True, -9)


def test_when_the_clock_stops_in_the_grace_it_is_killed(claude: Claude) -> None:
    clock = FakeClock()
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('up\\n'); time.sleep(600)"
    process = claude(script, clock=clock, grace=600)
    process.start()
    output_until(process, 1)
    process.begin_end("cancelled")
    clock.spawn(clock.outside_rests, process.pid)
    clock.advance(1)
    clock.close()
    wait_for(lambda: process.ended)
    assert process.exit_code == -9
    assert process.intent == "cancelled"


@pytest.mark.parametrize("make", [SystemClock, FakeClock])
def test_twenty_at_once_are_told_apart(claude: Claude, make: Callable[[], Clock]) -> None:
    clock = make()
    first = claude("say(sys.stdin.read() * 1000)", clock=clock)
    others = [
        ClaudeProcess(str(n), cwd=first.cwd, command=first.command, env={}, clock=clock)
        for n in range(20)
    ]
    for process in others:
        process.start()
    for number, process in enumerate(others):
        assert process.wait(LONG)
        assert b"".join(process.take()) == str(number).encode() * 1000
    if isinstance(clock, FakeClock):
        clock.close()
