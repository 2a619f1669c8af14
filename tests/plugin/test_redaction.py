"""What is taken out of a recording, and what stays."""

from __future__ import annotations

import json
import os
import socket

import pytest

from pytest_claude_comms.testing import redaction
from pytest_claude_comms.testing.redaction import Redactor


def redactor(**environ: str) -> Redactor:
    return Redactor(environ, cwd="/home/joe/project", places={}, hooks=[])


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/home/joe/project/a.py", "<CWD>/a.py"),
        ("/home/joe/projects", "<HOME>/projects"),
        ("-I/home/joe/x", "-I<HOME>/x"),
        ("/home/.claude/projects/-home-joe-project/memory", None),
        ("joe and joey", "<USER> and joey"),
        ("abcdef!abc", "<LONG_TOKEN>!<MY_KEY>"),
        ("short abc", "short <MY_KEY>"),
    ],
)
def test_what_is_replaced(text: str, redacted: str | None) -> None:
    found = redactor(HOME="/home/joe", USER="joe", MY_KEY="abc", LONG_TOKEN="abcdef")
    if redacted is None:
        assert found.text(text) == "/home/.claude/projects/<CWD>/memory"
    elif "MY_KEY" in redacted:  # too short to be a secret
        assert found.text(text) == redacted.replace("<MY_KEY>", "abc")
    else:
        assert found.text(text) == redacted


def test_json_stays_json_to_the_letter() -> None:
    found = redactor(HOME="/home/joe", USER="type", A_KEY='q"uo\\te')
    line = '{"type":"user", "n":1e-7,"text":"\\u00e9 q\\"uo\\\\te /home/joe\\n","type2":"x"}'
    new = found.line(line)
    assert new == '{"type":"user", "n":1e-7,"text":"é <A_KEY> <HOME>\\n","type2":"x"}'
    assert found.line('{"n": 1.50}') == '{"n": 1.50}'
    assert found.used == {"A_KEY", "HOME"}


@pytest.mark.parametrize(
    ("environ", "text", "redacted"),
    [
        (
            {"HTTPS_PROXY": "http://joe:swordfish@proxy:80"},
            "by http://joe:swordfish@proxy:80, swordfish",
            "by http://<HTTPS_PROXY>@proxy:80, <HTTPS_PROXY>",
        ),
        (
            {"ANTHROPIC_CUSTOM_HEADERS": "X-Team: a\nX-Gate: open-sesame"},
            "sent X-Gate: open-sesame, open-sesame",
            "sent <ANTHROPIC_CUSTOM_HEADERS>, <ANTHROPIC_CUSTOM_HEADERS>",
        ),
        ({}, "read sk-ant-api03-abc_DEF-123.", "read <API_KEY>."),
        ({"MAX_OUTPUT_TOKENS": "128000"}, "128000 tokens", "128000 tokens"),
        ({"DB_PASSWORD": "128000"}, "128000 tokens", "<DB_PASSWORD> tokens"),
        ({"HOSTNAME": "joes-mac.example.org"}, "on joes-mac, joes-macs", "on <HOST>, joes-macs"),
        ({"HOSTNAME": "joes-mac.example.org"}, "joes-mac.example.org", "<HOST>"),
        ({"HOSTNAME": "localhost", "USER": "root"}, "root@localhost", "root@localhost"),
    ],
)
def test_what_gives_somebody_away(environ: dict[str, str], text: str, redacted: str) -> None:
    found = Redactor(environ, cwd="/somewhere/else", places={}, hooks=[])
    assert found.text(text) == redacted
    assert found.used == {mark for mark in (*environ, "API_KEY", "HOST") if f"<{mark}>" in redacted}


def test_this_machine_and_this_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "joes-mac")
    monkeypatch.setattr(redaction, "_account", lambda: ("joe", "/users/joe"))
    # A test has set another HOME and says who it is.
    found = Redactor({"HOME": "/t/home", "USER": "me"}, cwd="/t", places={}, hooks=[])
    assert (
        found.text("joe@joes-mac: /users/joe/bin, /t/home") == "<USER>@<HOST>: <HOME>/bin, <HOME>"
    )


def test_the_private_of_several_environments_goes() -> None:
    ours, its = (
        {"A_KEY": "secret-of-ours", "HOME": "/a/b"},
        {"A_KEY": "secret-of-its", "HOME": "/c/d"},
    )
    found = Redactor(ours, its, cwd="/t", places={}, hooks=[])
    assert found.text("secret-of-ours secret-of-its /a/b /c/d") == "<A_KEY> <A_KEY> <HOME> <HOME>"


def test_who_is_called_like_a_key_of_the_stream_leaves_it() -> None:
    found = redactor(USER="model", HOSTNAME="usage", HOME="/home/joe", A_KEY="k-123456")
    line = '{"model": "of model", "usage" : {"/home/joe/x":"usage", "k-123456": 1}}'
    new = found.line(line)
    assert new == '{"model": "of <USER>", "usage" : {"<HOME>/x":"<HOST>", "<A_KEY>": 1}}'
    assert json.loads(new)


def test_the_home_of_the_account_is_known() -> None:
    name, home = redaction._account()
    assert os.path.isabs(home)
    assert name


def test_the_account_that_is_logged_in_goes_from_every_line() -> None:
    found = redactor(HOME="/home/joe")
    account = {"email": "joe@example.org", "organization": "Joe's", "tokenSource": "claude.ai"}
    told = {"type": "control_response", "response": {"response": {"account": account}}}
    first, answer = found.lines(
        ['{"result":"ask joe@example.org"}', json.dumps(told, separators=(",", ":"))]
    )
    assert first == '{"result":"ask <ACCOUNT>"}'
    shown = json.loads(answer)["response"]["response"]["account"]
    assert shown == {"email": "<ACCOUNT>", "organization": "<ACCOUNT>", "tokenSource": "claude.ai"}
    assert found.used == {"ACCOUNT"}
