"""Same script, same fake clock: the same events in the same order, whatever the processes do in
real time."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    ConversationStore,
    MessagePoller,
    ask_module,
    ask_module_async,
    open_store,
)
from pytest_claude_comms.claude.child import Child
from pytest_claude_comms.claude.process import ClaudeProcess
from pytest_claude_comms.testing import FakeClock
from pytest_claude_comms.testing.claude_hand import Hand
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude

ROUNDS = [8, pytest.param(60, marks=pytest.mark.long)]


class Scene:
    """What one round of a story is played with."""

    def __init__(self, folder: Path, clock: FakeClock, claude: ScriptedClaude) -> None:
        self.clock = clock
        self.claude = claude
        self.store: ConversationStore = open_store("memory:", clock=clock)
        self.env = {"PATH": f"{claude.folder}{os.pathsep}{os.environ['PATH']}"}
        self.folder = folder
        for name in ("alpha", "beta"):
            (folder / name).mkdir(exist_ok=True)

    def ask(self, module: str, prompt: str = "q", **more: Any) -> Any:
        where = self.folder / module
        return ask_module(self.store, "q", where, prompt, env=self.env, wait=False, **more)

    def story(self) -> tuple[Any, ...]:
        numbers: dict[str, int] = {}
        return tuple(
            (
                numbers.setdefault(change.message_id, len(numbers)),
                str(change.status),
                change.append or change.content,
                (change.at - self.clock.start).total_seconds(),
            )
            for change in self.store.changes(0)
        )


@pytest.fixture
def uneven(monkeypatch: pytest.MonkeyPatch) -> random.Random:
    """Processes that come up and do what they are told at moments that differ from run to run."""
    chance = random.Random()
    take, order = Hand.take, Hand.order

    def slow_take(hand: Hand) -> bool:
        time.sleep(chance.choice([0, 0, 0.03]))
        return take(hand)

    def slow_order(hand: Hand, kind: str, content: bytes = b"") -> None:
        time.sleep(chance.choice([0, 0, 0.002]))
        order(hand, kind, content)

    keep = ClaudeProcess._keep_stdout

    def slow_keep(process: ClaudeProcess, chunk: bytes) -> None:
        time.sleep(chance.choice([0, 0, 0.003]))
        keep(process, chunk)

    monkeypatch.setattr(Hand, "take", slow_take)
    monkeypatch.setattr(Hand, "order", slow_order)
    monkeypatch.setattr(ClaudeProcess, "_keep_stdout", slow_keep)
    return chance


def two_at_once(scene: Scene) -> None:
    scene.claude.replies("one", after=1)
    scene.claude.replies("two", after=2)
    first, second = scene.ask("alpha"), scene.ask("beta")
    first.wait()
    second.wait()
    assert (first.answer.content, second.answer.content) == ("one", "two")


def two_that_wake_at_one_instant(scene: Scene) -> None:
    scene.claude.when(module="beta").replies("two", after=1, chunks=3, every=0.5)
    scene.claude.when(module="alpha").replies("one", after=1, chunks=3, every=0.5)
    replies = [scene.ask("alpha"), scene.ask("beta")]
    for reply in replies:
        reply.wait()


def two_that_never_wait(scene: Scene) -> None:
    scene.claude.replies("one")
    scene.claude.replies("two")
    for reply in [scene.ask("alpha"), scene.ask("beta")]:
        reply.wait()


def gathered(scene: Scene) -> None:
    scene.claude.replies("one", after=1)
    scene.claude.replies("two", after=1)

    async def both() -> None:
        await asyncio.gather(
            *(
                ask_module_async(scene.store, "q", scene.folder / name, "q", env=scene.env)
                for name in ("alpha", "beta")
            )
        )

    asyncio.run(both())


def a_test_that_writes_meanwhile(scene: Scene) -> None:
    scene.claude.retries(529, times=2).replies("word " * 40, after=1, chunks=5, every=0.3)
    reply = scene.ask("alpha")
    scene.store.add_message(reply.thread_id, "q", "by the way")
    reply.wait()


def a_callback_that_writes(scene: Scene) -> None:
    """Whether it comes between two commits of one instant must not depend on the pipe."""
    scene.claude.uses_tool("Read", {"text": "x" * 20_000}).says("one").replies("two " * 9_000)
    reply = scene.ask("alpha")
    with MessagePoller(scene.store) as poller:
        poller.track(
            reply.answer,
            on_event=lambda event: scene.store.add_message(reply.thread_id, "q", str(event.status)),
        )
        reply.wait()
        poller.flush()


def two_whose_time_is_up(scene: Scene) -> None:
    scene.claude.goes_silent(after=1)
    scene.claude.ignores_term().goes_silent(after=1)
    for reply in [scene.ask("alpha", timeout=5), scene.ask("beta", timeout=5)]:
        reply.wait()


def started_by_two_actors(scene: Scene) -> None:
    def ask(name: str) -> None:
        scene.ask(name).wait()

    scene.claude.replies("one", after=1)
    scene.claude.replies("two", after=1)
    for handle in [scene.clock.spawn(ask, "alpha"), scene.clock.spawn(ask, "beta")]:
        handle.join()
    assert [Path(call.cwd).name for call in scene.claude.calls] == ["alpha", "beta"]


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.parametrize(
    "play",
    [
        two_at_once,
        two_that_wake_at_one_instant,
        two_that_never_wait,
        gathered,
        a_test_that_writes_meanwhile,
        a_callback_that_writes,
        two_whose_time_is_up,
        started_by_two_actors,
    ],
)
def test_there_is_one_story(
    tmp_path: Path, uneven: random.Random, play: Callable[[Scene], None], rounds: int
) -> None:
    stories: Counter[Any] = Counter()
    for number in range(rounds):
        uneven.seed(number)
        with FakeClock() as clock:
            clock.install()
            with ScriptedClaude(tmp_path / "bin", clock) as claude:
                scene = Scene(tmp_path, clock, claude)
                play(scene)
                claude.assert_all_used()
            stories[scene.story()] += 1
            scene.store.close()
    assert len(stories) == 1, "\n\n".join("\n".join(map(str, story)) for story in stories)


def test_processes_take_their_scripts_in_the_order_of_their_starts(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Hand.take
    late = iter([0.3, 0.2, 0.1, 0])

    def slow_take(hand: Hand) -> bool:
        time.sleep(next(late))
        return take(hand)

    monkeypatch.setattr(Hand, "take", slow_take)
    processes = []
    for number in range(4):
        faked.replies(str(number), after=1)
        process = ClaudeProcess(
            f"prompt {number}", cwd=tmp_path, command=[faked.executable, "-p"], env={}, clock=fake
        )
        process.start()
        processes.append(process)
    said = []
    for process in processes:
        while not process.ended:
            process.done_with(chunks := process.take())
            said += chunks
            fake.sleep(0.1)
        process.done_with(chunks := process.take())
        said += chunks
    assert said == [b"0\n", b"1\n", b"2\n", b"3\n"]
    assert [call.prompt for call in faked.calls] == [f"prompt {number}" for number in range(4)]


def test_behind_a_wrapper_it_plays_when_it_comes(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path
) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(f'#!/bin/sh\nexec {faked.executable} "$@"\n')
    wrapper.chmod(0o700)
    faked.replies("one", after=5).never_exits()
    wakeup = fake.wakeup()
    with ClaudeProcess(
        "q", cwd=tmp_path, command=[str(wrapper)], env={}, clock=fake, on_output=wakeup.set
    ) as process:
        fake.at(9, process.begin_end)
        while not process.ended:
            process.done_with(process.take())
            wakeup.wait(None, why="Claude")
    assert (process.exit_code, fake.elapsed) == (143, 9)


def test_one_that_another_kills_while_it_rests_is_waited_for(
    faked: ScriptedClaude, fake: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await_exit = Child.await_exit

    def slowly(child: Child) -> None:
        await_exit(child)
        time.sleep(0.2)

    monkeypatch.setattr(Child, "await_exit", slowly)

    def kill() -> None:
        os.kill(faked.calls[0].pid, signal.SIGKILL)  # of which the clock is not told
        time.sleep(0.1)  # real: the channel to it ends, and its runner has not noticed

    faked.replies("never", after=1000)
    fake.at(5, kill)
    with ClaudeProcess(
        "q", cwd=tmp_path, command=[faked.executable, "-p"], env={}, clock=fake
    ) as process:
        assert process.wait()
    assert (process.exit_code, fake.elapsed) == (-9, 5)
