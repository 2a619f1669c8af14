"""The public Python SDK cannot tell ``ScriptedClaude`` from the CLI.

Each scenario is played twice: by the stand-in, and by the real CLI against our Messages API. The
SDK must make the same of both: messages of the same classes in the same order, with the same
fields set, and the same error at the end.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from pytest_claude_comms.testing.scripted_claude import ScriptedClaude
from tests.real.conftest import Real

pytestmark = pytest.mark.real_claude

_PATIENCE = 60.0
_NO_RETRY = {"x-should-retry": "false"}

Drive: TypeAlias = Callable[[Any, Any, list[Any]], Awaitable[None]]
"""Given the SDK and its options it adds what comes to the list."""

_VALUES = {
    "AssistantMessage": ("model", "error", "stop_reason"),
    "ResultMessage": (
        "subtype",
        "is_error",
        "num_turns",
        "stop_reason",
        "terminal_reason",
        "api_error_status",
        "usage.input_tokens",
        "usage.output_tokens",
    ),
    "SystemMessage": ("subtype",),
    "ToolUseBlock": ("name",),
    "ToolResultBlock": ("is_error",),
}
"""What has to be equal, too, beside which fields are set. What the CLI itself says of a failure
is not: the stand-in has words of its own."""


@dataclass
class Heard:
    """What the SDK made of one run."""

    messages: list[Any]
    error: BaseException | None

    def texts(self) -> list[str]:
        """What Claude has said, and the CLI has not."""
        return [
            block.text
            for message in self.messages
            if type(message).__name__ == "AssistantMessage" and message.error is None
            for block in message.content
            if type(block).__name__ == "TextBlock"
        ]

    def shapes(self) -> list[Any]:
        return [*map(_shape, self.messages), _error_shape(self.error)]


def _shape(each: Any) -> Any:
    if dataclasses.is_dataclass(each):
        name = type(each).__name__
        given = {field.name: getattr(each, field.name) for field in dataclasses.fields(each)}
        equal = {path: _at(given, path) for path in _VALUES.get(name, ())}
        parts = {
            key: _keys(value)
            for key, value in given.items()
            if value is not None and key not in equal
        }
        if name == "SystemMessage" and given["subtype"] == "init":
            parts["data"] = _keys(given["data"], deep=False)
        return name, equal, parts
    return _keys(each)


def _at(given: Any, path: str) -> Any:
    for key in path.split("."):
        given = given.get(key) if isinstance(given, dict) else None
    return given


def _keys(value: Any, *, deep: bool = True) -> Any:
    """What it is made of, without the values."""
    if isinstance(value, dict):
        return {key: _keys(each) if deep else ... for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [_shape(each) if deep else ... for each in value]
    return "None" if value is None else "float" if isinstance(value, int) else type(value).__name__


def _error_shape(error: BaseException | None) -> Any:
    if error is None:
        return None
    facts = ("subtype", "api_error_status", "terminal_reason", "exit_code")
    return type(error).__name__, {name: getattr(error, name, None) for name in facts}


async def collect(stream: AsyncIterator[Any], messages: list[Any]) -> None:
    async for message in stream:
        messages.append(message)  # noqa: PERF401 - what came before an error is kept


async def query(sdk: Any, options: Any, messages: list[Any]) -> None:
    await collect(sdk.query(prompt="Which key?", options=options), messages)


async def converse(client: Any, prompt: str, messages: list[Any]) -> None:
    await client.query(prompt)
    await collect(client.receive_response(), messages)


@dataclass
class Both:
    """What a scenario is played on."""

    sdk: Any
    real: Real
    claude: ScriptedClaude

    def hear(self, cli: str, drive: Drive, *, max_retries: int = 0, **options: Any) -> Heard:
        messages: list[Any] = []
        env = {**self.real.env, "CLAUDE_CODE_MAX_RETRIES": str(max_retries)}
        given = self.sdk.ClaudeAgentOptions(
            cli_path=cli, cwd=str(self.real.module), env=env, **options
        )
        error: BaseException | None = None
        try:
            asyncio.run(asyncio.wait_for(drive(self.sdk, given, messages), _PATIENCE))
        except self.sdk.ClaudeSDKError as raised:
            error = raised
        return Heard(messages, error)

    def compare(self, drive: Drive = query, **options: Any) -> Heard:
        """Both the same; returns what was made of the stand-in."""
        scripted = self.hear(str(self.claude.executable), drive, **options)
        self.claude.assert_all_used()
        real = self.hear(self.real.cli, drive, **options)
        assert scripted.shapes() == real.shapes()
        assert scripted.texts() == real.texts()
        return scripted


@pytest.fixture
def both(sdk: Any, real: Real, claude: ScriptedClaude) -> Both:
    return Both(sdk, real, claude)


def names(heard: Heard) -> list[str]:
    return [
        getattr(each, "subtype", type(each).__name__)
        if type(each).__name__ == "SystemMessage"
        else type(each).__name__
        for each in heard.messages
    ]


def test_answer(both: Both) -> None:
    both.claude.replies("Use _key.")
    both.real.api.says("Use _key.")

    heard = both.compare()

    assert names(heard) == ["init", "AssistantMessage", "ResultMessage"]
    assert heard.messages[-1].result == "Use _key."
    assert heard.error is None


def test_two_blocks(both: Both) -> None:
    both.claude.says("Use _key.").replies("Not _id.")
    both.real.api.says("Use _key.", "Not _id.")

    heard = both.compare()

    assert heard.messages[-1].result == "Not _id."


def test_an_empty_answer(both: Both) -> None:
    both.claude.replies("")
    both.real.api.is_empty(forever=True)

    assert both.compare().messages[-1].result == ""


def test_partial_messages(both: Both) -> None:
    both.claude.replies("Use _key, not _id.", chunks=4)
    both.real.api.says("Use _key, not _id.", pieces=4)

    heard = both.compare(include_partial_messages=True)

    events = [each.event for each in heard.messages if type(each).__name__ == "StreamEvent"]
    deltas = [each["delta"]["text"] for each in events if each["type"] == "content_block_delta"]
    assert "".join(deltas) == "Use _key, not _id."


@pytest.mark.parametrize("partial", [False, True])
def test_tools(both: Both, partial: bool) -> None:
    path = both.real.module / "schema.txt"
    path.write_text("the key is _key\n")
    given = {"file_path": str(path)}
    both.claude.uses_tool("Read", given, result="the key is _key\n").replies("It says _key.")
    both.real.api.uses_tool("Read", given)
    both.real.api.says("It says _key.")

    heard = both.compare(allowed_tools=["Read"], include_partial_messages=partial)

    assert heard.messages[-1].num_turns == 2


def test_a_tool_that_is_denied(both: Both) -> None:
    given = {"file_path": str(both.real.module / "new.txt"), "content": "x"}
    both.claude.denies("Write", given).replies("I may not.")
    both.real.api.uses_tool("Write", given)
    both.real.api.says("I may not.")

    heard = both.compare()

    (denial,) = heard.messages[-1].permission_denials
    assert denial["tool_name"] == "Write"


@pytest.mark.parametrize("allows", [True, False])
def test_a_tool_that_the_caller_is_asked_for(both: Both, allows: bool) -> None:
    given = {"command": "echo hello > new.txt", "description": "Say hello"}
    both.claude.uses_tool("Bash", given, asks=True).replies("Done.")
    both.real.api.uses_tool("Bash", given)
    both.real.api.says("Done.")
    asked = []

    async def may(name: str, tool_input: dict[str, Any], context: Any) -> Any:
        asked.append((name, tool_input))
        if allows:
            return both.sdk.PermissionResultAllow()
        return both.sdk.PermissionResultDeny(message="not today")

    async def ask(sdk: Any, options: Any, messages: list[Any]) -> None:
        async with sdk.ClaudeSDKClient(options=options) as client:
            await converse(client, "Say hello", messages)

    both.compare(ask, can_use_tool=may)

    assert asked == [("Bash", given)] * 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 529])
def test_an_error(both: Both, status: int) -> None:
    both.claude.fails(status)
    both.real.api.fails(status, headers=_NO_RETRY, forever=True)

    heard = both.compare()

    assert names(heard) == ["init", "AssistantMessage", "ResultMessage"]
    assert type(heard.error).__name__ == "ResultError"


def test_no_connection(both: Both) -> None:
    both.claude.fails(None)
    both.real.api.drops(forever=True)

    heard = both.compare()

    assert heard.messages[-1].api_error_status is None


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("status", [429, 500, 529, None])
def test_retries(both: Both, status: int | None, partial: bool) -> None:
    both.claude.retries(status).replies("Use _key.")
    if status is None:
        both.real.api.drops()
    else:
        both.real.api.fails(status)
    both.real.api.says("Use _key.")

    heard = both.compare(max_retries=2, include_partial_messages=partial)

    assert names(heard).count("api_retry") == 1
    assert heard.messages[-1].result == "Use _key."


def test_retries_that_are_of_no_use(both: Both) -> None:
    both.claude.retries(500, times=2).fails(500)
    both.real.api.fails(500, forever=True)

    heard = both.compare(max_retries=2)

    assert names(heard).count("api_retry") == 2
    assert heard.messages[-1].is_error


def test_max_turns(both: Both) -> None:
    path = both.real.module / "schema.txt"
    path.write_text("the key is _key\n")
    given = {"file_path": str(path)}
    both.claude.uses_tool("Read", given, result="the key is _key\n").max_turns()
    both.real.api.uses_tool("Read", given, forever=True)

    heard = both.compare(allowed_tools=["Read"], max_turns=1)

    assert heard.messages[-1].subtype == "error_max_turns"
    assert type(heard.error).__name__ == "ResultError"


async def _two_turns(sdk: Any, options: Any, messages: list[Any]) -> None:
    async with sdk.ClaudeSDKClient(options=options) as client:
        for prompt in ("Which key?", "Sure?"):
            await converse(client, prompt, messages)


def test_two_turns(both: Both) -> None:
    both.claude.replies("Use _key.").replies("As I said.")
    both.real.api.says("Use _key.")
    both.real.api.says("As I said.")

    heard = both.compare(_two_turns)

    results = [each.result for each in heard.messages if type(each).__name__ == "ResultMessage"]
    assert results == ["Use _key.", "As I said."]
    assert len({each.session_id for each in heard.messages if hasattr(each, "session_id")}) == 1


def test_an_error_and_then_an_answer(both: Both) -> None:
    both.claude.fails(429).replies("Use _key.")
    both.real.api.fails(429)
    both.real.api.says("Use _key.")

    heard = both.compare(_two_turns)

    errors = [each.is_error for each in heard.messages if type(each).__name__ == "ResultMessage"]
    assert errors == [True, False]
    assert heard.error is None


def test_two_prompts_of_one_query(both: Both) -> None:
    both.claude.replies("Use _key.").replies("As I said.")
    both.real.api.says("Use _key.")
    both.real.api.says("As I said.")

    async def prompts() -> AsyncIterator[dict[str, Any]]:
        for text in ("Which key?", "Sure?"):
            yield {"type": "user", "message": {"role": "user", "content": text}}
            await asyncio.sleep(2)  # else the CLI may take them for one

    async def ask(sdk: Any, options: Any, messages: list[Any]) -> None:
        await collect(sdk.query(prompt=prompts(), options=options), messages)

    both.compare(ask)


def test_an_interrupt(both: Both) -> None:
    both.claude.goes_silent(text="Use _ke").replies("As I said.")
    both.real.api.hangs("Use _ke", forever=False)
    both.real.api.says("As I said.")

    async def ask(sdk: Any, options: Any, messages: list[Any]) -> None:
        async with sdk.ClaudeSDKClient(options=options) as client:
            await client.query("Which key?")
            interrupted = False
            async for message in client.receive_response():
                messages.append(message)
                event = getattr(message, "event", {})
                if event.get("type") == "content_block_delta" and not interrupted:
                    interrupted = True
                    await client.interrupt()
            await converse(client, "Sure?", messages)

    heard = both.compare(ask, include_partial_messages=True)

    results = [each for each in heard.messages if type(each).__name__ == "ResultMessage"]
    assert [each.subtype for each in results] == ["error_during_execution", "success"]


def test_a_session_goes_on(both: Both) -> None:
    session = "11111111-2222-4333-8444-555555555555"
    for text in ("Use _key.", "As I said."):
        both.claude.replies(text)
        both.real.api.says(text)

    async def ask(sdk: Any, options: Any, messages: list[Any]) -> None:
        first = dataclasses.replace(options, session_id=session)
        await query(sdk, first, messages)
        await query(sdk, dataclasses.replace(options, resume=session), messages)

    heard = both.compare(ask)

    results = [each for each in heard.messages if type(each).__name__ == "ResultMessage"]
    assert [each.session_id for each in results] == [session] * 2
    assert results[0].total_cost_usd < results[1].total_cost_usd


def test_a_session_that_is_not_known(both: Both) -> None:
    heard = both.compare(resume="11111111-2222-4333-8444-555555555555")

    assert type(heard.error).__name__ == "ResultError"
    assert heard.messages == []


def test_a_flag_that_there_is_not(both: Both) -> None:
    told: list[str] = []

    heard = both.compare(extra_args={"no-such-flag": None}, stderr=told.append)

    assert type(heard.error).__name__ == "ProcessError"
    assert told[0] == told[-1]
    assert "unknown option '--no-such-flag'" in told[0]
