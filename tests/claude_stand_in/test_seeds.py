"""Ids and pace follow from what was asked, not from who came first."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms.testing.claude_link import HowCalled
from pytest_claude_comms.testing.claude_seeds import Seeds
from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.claude_stand_in.kit import STREAM, STREAM_IN, Process, run, user

ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?:msg|req|toolu)_[0-9a-f]+")


def ids(process: Process) -> list[str]:
    return ID.findall(process.stdout)


def session(process: Process) -> str:
    return str(json.loads(process.lines[-1][1])["session_id"])


def ask(claude: ScriptedClaude, prompts: list[str], **more: Any) -> dict[str, list[str]]:
    for prompt in prompts:
        claude.when(prompt=prompt).retries(500, every=0).replies(f"about {prompt}")
    return {prompt: ids(run(claude, "-p", prompt, *STREAM, **more)) for prompt in prompts}


def test_who_comes_first_does_not_matter(tmp_path: Path) -> None:
    found = []
    for prompts in (["fields", "stages"], ["stages", "fields"]):
        with ScriptedClaude(tmp_path / prompts[0]) as claude:
            found.append(ask(claude, prompts))
    assert found[0] == found[1]
    assert not {*found[0]["fields"]} & {*found[0]["stages"]}


def test_the_pace_of_retries_is_that_of_the_question(tmp_path: Path) -> None:
    found = []
    for prompts in (["fields", "stages"], ["stages", "fields"]):
        delays = {}
        with ScriptedClaude(tmp_path / prompts[0]) as claude:
            for _ in prompts:
                claude.retries(500).replies("ok")  # real: 0.5 s and a little more
            processes = {prompt: Process(claude, "-p", prompt, *STREAM) for prompt in prompts}
            for prompt, process in processes.items():
                process.join()
                delays[prompt] = json.loads(process.lines[1][1])["retry_delay_ms"]
        found.append(delays)
    assert found[0] == found[1]
    assert found[0]["fields"] != found[0]["stages"]


def test_eight_that_start_at_one_instant(tmp_path: Path) -> None:
    found: list[dict[int, list[str]]] = [{}, {}]
    for round_, told in enumerate(found):
        with ScriptedClaude(tmp_path / str(round_)) as claude:
            for _ in range(8):
                claude.replies("ok")

            def ask_one(number: int) -> None:
                told[number] = ids(run(claude, "-p", *STREAM, stdin=str(number).encode()))

            numbers = range(8) if round_ else reversed(range(8))
            threads = [threading.Thread(target=ask_one, args=(number,)) for number in numbers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert found[0] == found[1]
    assert len({each[0] for each in found[0].values()}) == 8


def test_who_asks_the_same_again_gets_other_ids_and_the_same_every_time(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        with ScriptedClaude(tmp_path / name) as claude:
            claude.replies("ok")
            claude.replies("ok")
            found.append([ids(run(claude, "-p", "q", *STREAM)) for _ in range(2)])
    assert found[0] == found[1]
    assert not {*found[0][0]} & {*found[0][1]}


def test_neither_a_temporary_folder_nor_an_id_that_was_drawn_matters(tmp_path: Path) -> None:
    found = []
    for name, drawn in (("a", "0" * 8), ("b", "1" * 8)):
        module = tmp_path / name / "marker"
        module.mkdir(parents=True)
        session_id = f"{drawn}-0000-4000-8000-000000000000"
        with ScriptedClaude(tmp_path / name / "bin") as claude:
            claude.replies("ok")
            claude.replies("again")
            argv = ("-p", f"Read {module}/a.txt", "--mcp-config", f"{module}/mcp.json", *STREAM)
            first = run(claude, *argv, "--session-id", session_id, cwd=module)
            second = run(claude, *argv, "--resume", session_id, cwd=module)
            assert session(first) == session(second) == session_id
            found.append(
                [each for process in (first, second) for each in ids(process) if each != session_id]
            )
    assert found[0] == found[1]


def test_a_session_that_is_resumed_is_known_by_who_began_it(tmp_path: Path) -> None:
    found = []
    for prompts in (["fields", "stages"], ["stages", "fields"]):
        told = {}
        with ScriptedClaude(tmp_path / prompts[0]) as claude:
            begun = {}
            for prompt in prompts:
                claude.replies("ok")
                begun[prompt] = session(run(claude, "-p", prompt, *STREAM))
            for prompt in prompts:
                claude.replies("ok")
                told[prompt] = ids(run(claude, "-p", "and?", *STREAM, "--resume", begun[prompt]))
        found.append(told)
    assert found[0] == found[1]


def test_in_stream_input_the_first_prompt_counts(tmp_path: Path) -> None:
    found = []
    for prompts in (["fields", "stages"], ["stages", "fields"]):
        with ScriptedClaude(tmp_path / prompts[0]) as claude:
            told = {}
            for prompt in prompts:
                claude.replies("ok")
                told[prompt] = ids(run(claude, *STREAM_IN, stdin=user(prompt)))
            found.append(told)
    assert found[0] == found[1]


class TestASeed:
    def how(self, cwd: str, *argv: str) -> HowCalled:
        return HowCalled(pid=1, cwd=cwd, argv=argv, env=(), max_retries=10)

    def test_folders_are_told_apart_from_the_test_s_own(self) -> None:
        seeds = Seeds({"TMP_PATH": "/tmp/pytest-7/test_x0", "BASETEMP": "/tmp/pytest-7"})
        one = seeds.take(self.how("/tmp/pytest-7/test_x0/a/module"), "q")
        other = seeds.take(self.how("/tmp/pytest-7/test_x0/b/module"), "q")
        assert one.split()[0] != other.split()[0]
        again = Seeds({"TMP_PATH": "/tmp/pytest-8/test_x0", "BASETEMP": "/tmp/pytest-8"})
        assert again.take(self.how("/tmp/pytest-8/test_x0/a/module"), "q") == one
        no_folder = Seeds({"BASETEMP": "/tmp/pytest-8"})  # as made by tmp_path_factory
        assert no_folder.take(self.how("/tmp/pytest-8/modules3/a/module"), "q") == one

    @pytest.mark.parametrize("text", ["/tmp/{}", "in '/tmp/{}/a.txt', see", "--file=/tmp/{}/a.txt"])
    def test_what_is_right_in_the_folder_for_temporary_files_has_a_random_name(
        self, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", "/tmp")
        found = {
            Seeds({}).take(self.how(f"/tmp/{name}", text.format(name)), text.format(name))
            for name in ("tmpab12", "tmpcd34")
        }
        assert len(found) == 1
