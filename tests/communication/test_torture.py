"""Everything that a run of the CLI may do to its runner, with real processes and real time.

Real, because pipes, signals and the deaths of processes are the subject. Each scenario once in
every run; ``pytest -m long tests/communication/test_torture.py -s`` does each twenty times on
each store and prints a table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import pytest_claude_comms
from pytest_claude_comms import ConversationStore, Message, ask_module, open_store, render
from pytest_claude_comms.answering import Answering
from pytest_claude_comms.claude.child import Child
from pytest_claude_comms.claude.process import ClaudeProcess
from pytest_claude_comms.errors import ClaudeNotFound, ModuleDirectoryNotFound
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.communication.conftest import url_of
from tests.communication.kit import MARK, marked, settled, until, write_claude
from tests.communication.scenarios import GRACE, SCENARIOS, Scenario

ROOT = str(Path(pytest_claude_comms.__file__).parents[1])
RUNS = 20
AT_ONCE = 4
FILES = ("tinydb", "sqlite")

_CANCEL = """
import sys
from pytest_claude_comms import open_store
with open_store(sys.argv[1], durability="process") as store:
    store.update_message(sys.argv[2], status="cancelled")
"""
_RUNNER = """
import json, sys
from pytest_claude_comms import ask_module, open_store
url, folder, options = sys.argv[1:]
with open_store(url, durability="process") as store:
    reply = ask_module(store, "marker", folder, "q", wait=False, **json.loads(options))
    print(reply.answer.message_id, flush=True)
    reply.wait()
"""


class Trial:
    """One run of one scenario; ``wrong`` says what was not as it has to be."""

    def __init__(self, scenario: Scenario, backend: str, folder: Path) -> None:
        self.scenario = scenario
        self.mark = uuid.uuid4().hex
        self.wrong: list[str] = []
        self.orphans: list[int] = []
        self.zombies: list[int] = []
        self.url = url_of(backend, folder)
        self.module = folder / scenario.folder
        self.module.mkdir()
        self._folder = folder
        self._env = {**os.environ, "PYTHONPATH": ROOT}

    def run(self) -> None:
        with ExitStack() as stack:
            script = self.scenario.script
            if isinstance(script, str):
                command = [write_claude(self._folder, script)]
            else:
                bin_folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="claude-"))
                claude = stack.enter_context(ScriptedClaude(bin_folder))
                script(claude)
                command = [claude.executable]
            settled(command[0])  # these trials run on threads of one process
            self.options: dict[str, Any] = {
                "command": command,
                "env": {MARK: self.mark},
                "grace": GRACE,
                "timeout": self.scenario.timeout,
                **self.scenario.options,
            }
            store = stack.enter_context(open_store(self.url, durability="process"))
            if self.scenario.act == "runner killed":
                self._with_a_runner_that_is_killed(store)
            else:
                self._ask(store)

    # -- in this process

    def _ask(self, store: ConversationStore) -> None:
        clock, scenario = store.clock, self.scenario
        begun = clock.monotonic()
        with slowed(store, by=0.8 if scenario.slow_store else 0):
            reply = ask_module(
                store, "marker", self.module, scenario.prompt, wait=False, **self.options
            )
            process = reply._answering._process
            if scenario.act is not None:
                self._until(lambda: reply.answer.content == scenario.text, "the text did not come")
                begun = clock.monotonic()
                if scenario.act == "cancel":
                    reply.cancel()
                else:
                    self._python(_CANCEL, self.url, reply.answer.message_id)
                    begun = clock.monotonic()
            reply.wait(timeout=60)
        took = clock.monotonic() - begun
        answer, outcome = reply.answer, reply.outcome
        self._look(answer)
        self._left(took, 0 if scenario.act else None)
        if outcome is None:
            self.wrong.append("there is no outcome")
            return
        self._same("outcome", outcome.status, answer.status)
        self._same("kind", outcome.error_kind, scenario.kind)
        self._same("stored kind", answer.metadata.get("error_kind"), scenario.kind)
        if scenario.warning is not None and scenario.warning not in " ".join(outcome.warnings):
            self.wrong.append(f"no warning of {scenario.warning!r}: {outcome.warnings}")
        if scenario.exit_code is not None:
            # Before it has its handlers, a signal kills it at once.
            codes = {scenario.exit_code, -15} if scenario.exit_code == 143 else {scenario.exit_code}
            if process.exit_code not in codes:
                self.wrong.append(f"exit code {process.exit_code}")
        if scenario.status in ("complete", "failed"):  # else deltas stay that it calls void
            self._same("text of the outcome", answer.content, outcome.content)
        if os.path.exists(f"/proc/{process.pid}"):
            self.zombies.append(process.pid)
        if len(process.stderr) > 65_536 + 20:
            self.wrong.append(f"{len(process.stderr)} characters of stderr were kept")
        if list(self.module.iterdir()):
            self.wrong.append("something was executed")

    def _look(self, answer: Message) -> None:
        self._same("status", answer.status, self.scenario.status)
        if self.scenario.text is not None:
            self._same("text", answer.content, self.scenario.text)
        if (answer.error is None) != (answer.status in ("complete", "cancelled")):
            self.wrong.append(f"{answer.status} with the error {answer.error!r}")

    def _left(self, took: float, limit: float | None) -> None:
        self.orphans = marked(self.mark)
        if limit is None:
            limit = self.options.get("timeout") or self.options["stall_timeout"]
        if took > limit + GRACE + 1:
            self.wrong.append(f"it took {took:.2f} s")

    def _same(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.wrong.append(f"{what} {render.shorten(repr(found), 200)}")

    def _until(self, condition: Any, what: str) -> None:
        if not until(condition):
            self.wrong.append(what)

    # -- with the help of another

    def _python(self, script: str, *arguments: str) -> None:
        subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=self._env)

    def _with_a_runner_that_is_killed(self, store: ConversationStore) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", _RUNNER, self.url, self.module, json.dumps(self.options)],
            stdout=subprocess.PIPE,
            text=True,
            env=self._env,
        ) as runner:
            assert runner.stdout is not None
            answer = runner.stdout.readline().strip()
            self._until(
                lambda: store.get_message(answer).content == self.scenario.text, "no text came"
            )
            if not marked(self.mark):
                self.wrong.append("there is nothing to be orphaned")
            runner.kill()
        begun = store.clock.monotonic()
        # Nobody is left who answers for it: any process that looks settles it, here this one.
        self._until(store.expire, "it never expired")
        self._until(lambda: not marked(self.mark), "its processes stayed")
        self._look(store.get_message(answer))
        # The shell that ends the run counts its grace in whole seconds.
        limit = self.options.get("timeout") or self.options["stall_timeout"]
        self._left(store.clock.monotonic() - begun, max(limit, 1))


@contextmanager
def slowed(store: ConversationStore, *, by: float) -> Iterator[None]:
    """Each write of an answer takes so long, in real time: the consumer is behind."""
    if not by:
        yield
        return
    update = store.update_message

    def slow(message: Any, **changes: Any) -> Any:
        time.sleep(by)
        return update(message, **changes)

    store.update_message = slow  # type: ignore[method-assign]
    try:
        yield
    finally:
        del store.update_message


def trial(scenario: Scenario, backend: str) -> Trial:
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        found = Trial(scenario, backend, Path(folder))
        try:
            found.run()
        except Exception as error:
            found.wrong.append(f"raised {error!r}")
        for pid in marked(found.mark):
            found.orphans.append(pid)
            os.kill(pid, 9)
        return found


def test_there_are_enough_of_them() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS) >= 30


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[each.name for each in SCENARIOS])
def test_once(scenario: Scenario, backend: str) -> None:
    found = trial(scenario, backend)
    assert (found.wrong, found.orphans, found.zombies) == ([], [], [])


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("wrong", ["claude", "module"])
def test_nothing_to_run(wrong: str, backend: str, tmp_path: Path) -> None:
    command = ["no-such-claude"] if wrong == "claude" else [sys.executable]
    module = tmp_path if wrong == "claude" else tmp_path / "no"
    error = ClaudeNotFound if wrong == "claude" else ModuleDirectoryNotFound
    with open_store(url_of(backend, tmp_path), durability="process") as store:
        with pytest.raises(error):
            ask_module(store, "marker", module, "q", command=command)
        assert store.threads() == []


@pytest.mark.long
@pytest.mark.parametrize("backend", FILES)
def test_each_twenty_times(backend: str) -> None:
    rows: list[tuple[str, ...]] = [("scenario", "store", "runs", "wrong", "orphans", "zombies")]
    bad: Counter[str] = Counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for scenario in SCENARIOS:
            found = list(pool.map(lambda _: trial(scenario, backend), range(RUNS)))
            wrong = sum(bool(each.wrong) for each in found)
            orphans = sum(len(each.orphans) for each in found)
            zombies = sum(len(each.zombies) for each in found)
            rows.append((scenario.name, backend, str(RUNS), str(wrong), f"{orphans}", f"{zombies}"))
            for each in found:
                bad.update(f"{scenario.name}: {what}" for what in each.wrong)
            if orphans or zombies:
                bad[f"{scenario.name}: {orphans} orphans, {zombies} zombies"] += 1
    print("", *render.table(rows), sep="\n")
    assert dict(bad) == {}


# -- tests that would not notice are no tests


def _broken(
    name: str, monkeypatch: pytest.MonkeyPatch, owner: type, method: str, value: Any
) -> Trial:
    scenario = next(each for each in SCENARIOS if each.name == name)
    monkeypatch.setattr(owner, method, value)
    return trial(scenario, "sqlite")


def test_broken_it_would_be_seen_that_descendants_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _broken(
        "grandchild in a session of its own",
        *(monkeypatch, Child, "kill_relatives", lambda self, **_: None),
    )
    assert found.orphans


def test_broken_it_would_be_seen_that_the_reader_waits_for_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keep = ClaudeProcess._keep_stdout

    def slowly(self: ClaudeProcess, chunk: bytes) -> None:
        keep(self, chunk)
        until(lambda: self.bytes_processed >= self.bytes_read, 5)  # no queue between them

    found = _broken("gives up on a slow reader", monkeypatch, ClaudeProcess, "_keep_stdout", slowly)
    assert found.wrong


def test_broken_it_would_be_seen_that_nobody_ends_what_lingers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = _broken("result, no exit", monkeypatch, Answering, "_expect_exit", lambda self: None)
    assert found.wrong
