"""How the methods of an adapted object are called: by what names, with what, and what they lack."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

import pytest

from pytest_claude_comms import (
    AlreadyExists,
    InvalidTransition,
    adapt_store,
    ask_module,
    open_store,
)
from pytest_claude_comms.stores.adapted_shapes import CannotAdapt
from pytest_claude_comms.testing import FakeClock


class Method:
    """Has parameters of these names, optional where one ends with ``=``; notes its calls."""

    def __init__(self, *names: str, answer: object = None) -> None:
        kind, none = Parameter.POSITIONAL_OR_KEYWORD, Parameter.empty
        self.__signature__ = Signature(
            [
                Parameter(name.rstrip("="), kind, default=None if name.endswith("=") else none)
                for name in names
            ]
        )
        self._answer = answer
        self.calls: list[Mapping[str, Any]] = []

    def __call__(self, **given: Any) -> object:
        self.calls.append(given)
        return self._answer


class Plain:
    """A thread with one message, and such methods."""

    def __init__(self, **methods: Method) -> None:
        message = {"id": "m", "status": "pending", "content": "old"}
        self.data: dict[str, Any] = {"messages": [message]}
        vars(self).update(methods)

    def get_thread(self, thread_id: str) -> Any:
        return self.data if thread_id == "t" else None


@pytest.mark.parametrize("called", ["title", "name", "subject", "topic"])
def test_a_title_by_any_of_its_names(called: str) -> None:
    method = Method(called, answer="t")
    adapt_store(Plain(create_thread=method), threads=[]).create_thread("demo")
    assert method.calls == [{called: "demo"}]


@pytest.mark.parametrize(
    ("name", "value", "called"),
    [
        ("content", "new", ("new_content", "content", "text", "body", "message")),
        ("status", "complete", ("status", "new_status", "state")),
        ("error", "no", ("error", "error_message", "reason")),
        ("metadata", {"a": 1}, ("metadata", "meta")),
    ],
)
def test_what_is_changed_by_any_of_its_names(
    name: str, value: object, called: tuple[str, ...]
) -> None:
    for each in called:
        method = Method("id", each)
        change: dict[str, Any] = {name: value}
        adapt_store(Plain(update_message=method), threads=["t"]).update_message("m", **change)
        assert method.calls == [{"id": "m", each: value}]


def test_what_is_added_by_other_names() -> None:
    method = Method("conversation_id", "msg_id", "role", "body", "kind", "state", "meta")
    adapt_store(Plain(add_message=method), threads=["t"]).add_message(
        "t", "x", "hi", message_type="note", status="pending", metadata={"a": 1}, message_id="n"
    )
    assert method.calls == [
        {
            "conversation_id": "t",
            "msg_id": "n",
            "role": "x",
            "body": "hi",
            "kind": "note",
            "state": "pending",
            "meta": {"a": 1},
        }
    ]


def test_an_id_that_is_called_message_is_never_taken_for_the_text() -> None:
    method = Method("message", "updates")
    store = adapt_store(Plain(update_message=method), threads=["t"])
    store.update_message("m", content="new")
    assert method.calls == [{"message": "m", "updates": {"content": "new"}}]


@pytest.mark.parametrize("called", ["updates", "fields", "changes", "data"])
def test_all_that_is_changed_in_one_dict(called: str) -> None:
    method = Method("message_id", called)
    store = adapt_store(Plain(update_message=method), threads=["t"])
    store.update_message("m", status="complete", content="new")
    assert method.calls == [{"message_id": "m", called: {"status": "complete", "content": "new"}}]


@pytest.mark.parametrize("name", ["timeout", "stall_timeout"])
def test_a_time_limit_goes_to_who_has_a_parameter_for_it(name: str) -> None:
    method = Method("thread_id", "sender", "text", name, answer="m")
    adapt_store(Plain(add_message=method), threads=["t"]).add_message("t", "x", "hi", **{name: 3})  # type: ignore[arg-type]
    assert method.calls == [{"thread_id": "t", "sender": "x", "text": "hi", name: 3}]
    deaf = Plain(add_message=Method("thread_id", "sender", "text"))
    with pytest.raises(CannotAdapt) as caught:
        adapt_store(deaf, threads=["t"]).add_message("t", "x", **{name: 3})  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"add_message() cannot be done on an adapted Plain: add_message() takes no {name}; "
        "leave that out, or do it through the Plain itself"
    )


def test_a_write_that_has_to_be_awaited_is_refused_by_its_name() -> None:
    class Async(Plain):
        async def update_message(self, message_id: str, status: str) -> None: ...

    store = adapt_store(Async(), threads=["t"])
    with pytest.raises(CannotAdapt, match=r"^Async.update_message\(\) is asynchronous"):
        store.update_message("m", status="complete")


@pytest.mark.parametrize("name", ["create_thread", "new_thread", "start_thread"])
def test_a_thread_is_made_by_any_of_these(name: str) -> None:
    method = Method("title", answer="t")
    store = adapt_store(Plain(**{name: method}), threads=[])
    assert store.create_thread("demo").thread_id == "t"
    assert method.calls == [{"title": "demo"}]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("update_message", {"content": "new"}),
        ("update_message_status", {"status": "complete"}),
        ("update_status", {"status": "complete"}),
        ("set_message_status", {"status": "complete"}),
        ("set_status", {"status": "complete"}),
        ("update_message_content", {"content": "new"}),
    ],
)
def test_a_message_is_written_by_any_of_these(name: str, change: dict[str, Any]) -> None:
    method = Method("message_id", *change)
    adapt_store(Plain(**{name: method}), threads=["t"]).update_message("m", **change)
    assert method.calls == [{"message_id": "m", **change}]


class Read(Plain):
    """Knows which threads it was asked for."""

    def __init__(self, **methods: Method) -> None:
        super().__init__(**methods)
        self.read: list[str] = []

    def get_thread(self, thread_id: str) -> Any:
        self.read.append(thread_id)
        return super().get_thread(thread_id)


@pytest.mark.parametrize("called", ["modules", "module_names", "participants"])
def test_modules_by_any_of_their_names(called: str) -> None:
    method = Method("title", called, answer="t")
    adapt_store(Plain(create_thread=method), threads=[]).create_thread("demo", modules=["a", "b"])
    assert method.calls == [{"title": "demo", called: ["a", "b"]}]


def test_an_object_without_a_method_is_told_which_would_do() -> None:
    with pytest.raises(CannotAdapt) as caught:
        adapt_store(Plain(), threads=["t"]).add_message("t", "x", "hi")
    assert str(caught.value) == (
        "add_message() cannot be done on an adapted Plain: it has no method add_message; "
        "give it one, or do it through the Plain itself"
    )


def test_a_thread_that_no_look_has_found_yet_is_not_made_again() -> None:
    method = Method("title", "thread_id")
    plain = Read(create_thread=method)
    store = adapt_store(plain, threads=["u"])
    with pytest.raises(AlreadyExists, match="'t'"):
        store.create_thread("demo", thread_id="t")
    assert (method.calls, plain.read) == ([], ["t"])


def test_a_write_reads_only_the_thread_that_it_is_about() -> None:
    added = ("thread_id", "module_name", "content")
    plain = Read(update_message=Method("message_id", "content"), add_message=Method(*added))
    store = adapt_store(plain, threads=["t", "u"])
    assert store.cursor() == 1
    plain.read.clear()
    store.update_message("m", content="new")
    store.add_message("t", "x", "hi")
    assert plain.read == ["t"] * 4, "before and after each"


def test_what_is_late_is_settled_by_the_first_call_that_finds_it() -> None:
    class Settles(Plain):
        def update_message(self, message_id: str, status: str) -> None:
            self.data["messages"][0]["status"] = status

    def overdue() -> Settles:
        plain = Settles()
        plain.data["messages"][0]["deadline_at"] = clock.now().timestamp() - 5
        return plain

    with FakeClock() as clock:
        plain = overdue()
        (late,) = adapt_store(plain, threads=["t"], clock=clock).expire()
        assert (late.message_id, late.status) == ("m", "timeout")
        assert plain.data["messages"][0]["status"] == "timeout"
        plain = overdue()
        with pytest.raises(InvalidTransition) as caught:
            adapt_store(plain, threads=["t"], clock=clock).update_message("m", status="complete")
        error = caught.value
        assert (error.message_id, error.status, error.requested) == ("m", "timeout", "complete")
        assert plain.data["messages"][0]["status"] == "timeout"


def test_what_needs_no_adapter_is_shown() -> None:
    with open_store("memory:") as ours, pytest.raises(TypeError) as caught:
        adapt_store(ours)
    assert str(caught.value).startswith(f"{ours!r} is a ConversationStore already")


def test_a_method_that_asks_for_the_text_is_given_it_when_time_is_up() -> None:
    method = Method("message_id", "status", "content")
    plain = Plain(update_message=method)
    plain.data["messages"][0]["deadline_at"] = 5
    with pytest.raises(CannotAdapt, match="was told that message 'm' is timeout"):
        adapt_store(plain, threads=["t"]).expire()
    assert method.calls == [{"message_id": "m", "status": "timeout", "content": "old"}]


@pytest.mark.parametrize("name", ["content", "append", "error", "metadata"])
def test_an_argument_that_is_of_no_use_is_named_before_anything_is_called(name: str) -> None:
    method = Method("message_id", "updates")
    wrong: dict[str, Any] = {name: 3}
    with pytest.raises(TypeError, match=f"^{name} "):
        adapt_store(Plain(update_message=method), threads=["t"]).update_message("m", **wrong)
    assert method.calls == []


# -- what ask_module needs


class Ours(Plain):
    """What ``ask_module`` needs, but for ``lacks`` of the parameters of one method."""

    def __init__(self, method: str = "", *lacks: str) -> None:
        parameters = {
            "create_thread": ["title", "modules"],
            "add_message": [
                "thread_id", "module_name", "content", "message_type", "status", "metadata",
                "message_id=",
            ],
            "update_message": ["message_id", "status", "content", "error", "metadata"],
        }  # fmt: skip
        super().__init__(
            **{
                name: Method(
                    *(each for each in names if name != method or each.rstrip("=") not in lacks)
                )
                for name, names in parameters.items()
            }
        )


@pytest.mark.parametrize(
    ("method", "lacks", "words"),
    [
        ("add_message", ["message_type", "message_id"], "takes no message_type and no message_id"),
        ("add_message", ["metadata"], "takes no metadata"),
        ("update_message", ["error"], "takes no error"),
        ("create_thread", ["modules"], "takes no modules"),
    ],
)
def test_ask_module_says_what_is_lacking_before_anything_is_stored(
    method: str, lacks: list[str], words: str, tmp_path: Path
) -> None:
    ours = Ours(method, *lacks)
    with pytest.raises(
        CannotAdapt,
        match=rf"^ask_module\(\) cannot be done on an adapted Ours: {method}\(\) {words}; "
        r"change that, or ask with a store of open_store\(url\)$",
    ) as caught:
        ask_module(adapt_store(ours, threads=["t"]), "a", tmp_path, "?", command=[sys.executable])
    assert caught.value.outcome == "not done"
    assert not [call for each in vars(ours).values() if type(each) is Method for call in each.calls]


def test_a_thread_that_is_there_need_not_be_made(tmp_path: Path) -> None:
    ours = Ours("create_thread", "modules")
    store = adapt_store(ours, threads=["t"])
    store.check_asking(title=None, deadlines=[])
    with pytest.raises(CannotAdapt, match="takes no modules"):
        store.check_asking(title="", deadlines=[])
    untitled = adapt_store(Ours("create_thread", "title"), threads=["t"])
    untitled.check_asking(title="", deadlines=[])
    with pytest.raises(CannotAdapt, match="takes no title"):
        untitled.check_asking(title="demo", deadlines=[])


def test_ask_module_without_deadlines_is_the_way_out_of_those(tmp_path: Path) -> None:
    ours = Ours()
    with pytest.raises(
        CannotAdapt,
        match=r"^ask_module\(timeout=, stall_timeout=\) cannot .* no timeout and no stall_timeout; "
        "leave that out, or",
    ):
        ask_module(
            adapt_store(ours), "a", tmp_path, "?", timeout=5, stall_timeout=1,
            command=[sys.executable],
        )  # fmt: skip
    assert not vars(ours)["create_thread"].calls


class Numbering(Plain):
    """Gives each message an id of its own, whatever it is given."""

    def __init__(self, answer: Any, taken: str) -> None:
        super().__init__()
        self._answer = answer
        self._taken = taken

    def add_message(self, thread_id: str, module_name: str, content: str, **_: Any) -> Any:
        self.data["messages"].append({"id": self._taken, "content": content})
        return self._answer


@pytest.mark.parametrize("answer", [{"id": 7}, {"message_id": "7"}, "7", 7])
def test_another_id_than_was_given_is_named(answer: Any) -> None:
    store = adapt_store(Numbering(answer, "7"), threads=["t"])
    with pytest.raises(
        CannotAdapt, match=r"add_message\(\) was given message_id='n' and returned another id, '7'"
    ) as caught:
        store.add_message("t", "a", message_id="n")
    assert caught.value.outcome == "unknown"
    assert store.get_message("7").content == ""


@pytest.mark.parametrize("answer", [None, "stored", {"id": "n"}, True, []])
def test_what_is_there_under_its_id_may_be_answered_by_anything(answer: Any) -> None:
    store = adapt_store(Numbering(answer, "n"), threads=["t"])
    assert store.add_message("t", "a", message_id="n") == answer
    assert store.get_message("n").message_id == "n"
