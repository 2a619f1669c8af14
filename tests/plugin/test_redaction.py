"""What is taken out of a recording, and what stays."""

from __future__ import annotations

import base64
import json
import os
import socket

import pytest

from pytest_claude_comms.claude.transcript import Transcript, TranscriptEntry
from pytest_claude_comms.testing import redaction
from pytest_claude_comms.testing.redaction import Redactor
from pytest_claude_comms.testing.sameness import with_places_of


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
        assert found.text(text) == "/home/.claude/projects/<CWD-SLUG>/memory"
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


KEY = "of-joe-0123456789"


def event(kind: str, parent: str | None = None, index: int | None = 0, **fields: object) -> str:
    said = {"type": kind, **({} if index is None else {"index": index}), **fields}
    return json.dumps({"type": "stream_event", "parent_tool_use_id": parent, "event": said})


def delta(text: str, parent: str | None = None, index: int = 0) -> str:
    return event("content_block_delta", parent, index, delta={"type": "text_delta", "text": text})


def texts(lines: list[str]) -> list[str]:
    deltas = [json.loads(line)["event"].get("delta") for line in lines]
    return [each["text"] for each in deltas if each is not None]


@pytest.mark.parametrize(
    ("between", "whole"),
    [
        (event("content_block_start", "toolu_1"), True),
        (event("message_start", "toolu_1", None), True),
        (delta("a key of-joe-", "toolu_1"), True),
        (event("content_block_start", index=1), True),
        (json.dumps({"event": {"type": "x"}, "text": ["message_start"]}), True),
        (event("content_block_start"), False),
        (event("message_start", index=None), False),
    ],
)
def test_a_key_is_put_together_from_the_deltas_of_its_own_block(between: str, whole: bool) -> None:
    lines = [event("content_block_start"), delta("key of-joe-"), between, delta("0123456789.")]
    first, *_, last = texts(redactor(A_KEY=KEY).lines(lines))
    assert (first, last) == (("key <A_KEY>", ".") if whole else ("key of-joe-", "0123456789."))


def test_two_streams_tell_the_same_key_at_once() -> None:
    lines = [delta("of-joe-"), delta("of-joe-012", "t"), delta("0123456789"), delta("3456789", "t")]
    assert texts(redactor(A_KEY=KEY).lines(lines)) == ["<A_KEY>", "<A_KEY>", "", ""]


@pytest.mark.parametrize(
    ("hook", "found"),
    [
        (lambda text: text.replace("Bob", "<X>"), ["I am <X>", ". Hi!"]),
        (lambda text: text.replace("Bob", ""), ["I am ", ". Hi!"]),
        (lambda text: text.replace("Bob.", "Bob..."), ["I am Bo", "b... Hi!"]),
        (lambda text: text.replace("Hi", "Ha"), ["I am Bo", "b. Ha!"]),
        (lambda text: text, ["I am Bo", "b. Hi!"]),
    ],
)
def test_a_hook_sees_what_is_spread_over_deltas(hook: redaction.Hook, found: list[str]) -> None:
    one = Redactor({}, cwd="/t", places={}, hooks=[hook])
    assert texts(one.lines([delta("I am Bo"), delta("b. Hi!")])) == found


@pytest.mark.parametrize(
    ("name", "value", "printed"),
    [
        ("PGPASS", "hunter2hunter2", "hunter2hunter2"),
        ("MYSQL_PWD", "hunter2hunter2", "hunter2hunter2"),
        ("GH_PAT", "0123456789abcdef", "0123456789abcdef"),
        ("MY_CREDENTIALS", "hunter2hunter2", "hunter2hunter2"),
        ("SMTP_CREDS", "hunter2hunter2", "hunter2hunter2"),
        ("SLACK_WEBHOOK_URL", "https://hooks/T0/B0", "https://hooks/T0/B0"),
        ("https_proxy", "http://joe:hunter2@h:1", "hunter2"),
        ("DATABASE_URL", "postgres://joe:hunt%40er2@db/x", "hunt@er2"),
        ("DATABASE_URL", "postgres://joe:hunt@er2@db/x", "hunt@er2"),
        ("DATABASE_URL", "postgres://db/x?user=joe&password=hunter2", "hunter2"),
        ("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer hunter2hunter2", "hunter2hunter2"),
        ("API_KEY", "ab/cd+ef==gh12", "ab%2Fcd%2Bef%3D%3Dgh12"),
        ("API_KEY", "ab/cd+ef==gh12", "ab%2fcd%2bef%3d%3dgh12"),
        ("API_KEY", "ab/cd+ef==gh12", "ab/cd%2Bef%3D%3Dgh12"),
        ("DB_PASSWORD", 'pa"ss\\wörd1', json.dumps('pa"ss\\wörd1')[1:-1]),
        ("DB_PASSWORD", 'pa"ss\\word1', json.dumps(json.dumps('pa"ss\\word1'))[3:-3]),
        ("API_KEY", "ab/cd+ef==gh12", base64.b64encode(b"ab/cd+ef==gh12").decode()),
    ],
)
def test_what_a_variable_says_in_whatever_way(name: str, value: str, printed: str) -> None:
    found = redactor(**{name: value})
    assert found.text(f"it is {printed}!") == f"it is <{name}>!"
    assert json.loads(found.line(json.dumps({"a": [f"{printed} "]}))) == {"a": [f"<{name}> "]}


@pytest.mark.parametrize("user", ["", "a", "ab", "abc"])
@pytest.mark.parametrize("rest", ["", "x", "xy"])
def test_a_secret_in_base64_among_other_bytes(user: str, rest: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        said = encode(f"{user}:hunter2?>hunter2{rest}".encode()).decode()
        left = redactor(DB_PASSWORD="hunter2?>hunter2").text(said)
        assert "<DB_PASSWORD>" in left
        assert len(left.replace("<DB_PASSWORD>", "")) <= len(said) - 20


@pytest.mark.parametrize("name", ["PATH", "PWD", "OLDPWD", "BYPASS", "PASSENGER", "PATTERN"])
def test_what_only_sounds_like_a_secret_stays(name: str) -> None:
    assert redactor(**{name: "hunter2hunter2"}).text("hunter2hunter2") == "hunter2hunter2"


def test_a_number_is_a_secret_too() -> None:
    found = redactor(VAULT_TOKEN="739201846552", MAX_OUTPUT_TOKENS="128000")
    line = '{"pin":739201846552, "n":[-739201846552,7392018465521,1.5e3,128000],"s":"739201846552"}'
    new = found.line(line)
    assert new == '{"pin":0, "n":[0,7392018465521,1.5e3,128000],"s":"<VAULT_TOKEN>"}'
    assert found.used == {"VAULT_TOKEN"}


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("ghp_0123456789abcdefABCDEF0123456789abcd.", "<TOKEN>."),
        ("gho_0123456789abcdef and github_pat_11ABC_0123456789abcdef", "<TOKEN> and <TOKEN>"),
        ("AKIAIOSFODNN7EXAMPLE", "<TOKEN>"),
        ("xoxb-123456789012-abc, xoxp-123456789012-abc", "<TOKEN>, <TOKEN>"),
        ("-H 'Authorization: Bearer abc.def-0123456789=='", "-H 'Authorization: Bearer <TOKEN>'"),
        ("sk-proj-0123456789abcdef0123456789abcdef", "<TOKEN>"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_DEF-1 x", "<TOKEN> x"),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----\n",
            "<PRIVATE_KEY>\n",
        ),
        ("Bearer of much internationalization", None),
        ("risk-management, xox, AKIA, ghp_, Bearer, high_pass_filter_of_order_two", None),
    ],
)
def test_keys_of_known_forms_go_whatever_is_set(text: str, redacted: str | None) -> None:
    assert redactor().text(text) == (text if redacted is None else redacted)
    assert json.loads(redactor().line(json.dumps([text]))) == [redacted or text]


def test_nothing_stays_of_two_secrets_that_overlap() -> None:
    found = redactor(KEY_PREFIX="sk-ant-", A_KEY="abcdefgh", B_KEY="ghijklm")
    assert found.text("sk-ant-api03-0123456789 x") == "<KEY_PREFIX> x"
    assert found.text("abcdefghijklm x") == "<A_KEY> x"


# -- folders, of now


def test_a_home_that_only_the_cli_has_is_told_by_a_folder_that_we_know() -> None:
    ours, its = {"HOME": "/home/joe"}, {"HOME": "/data/t/test_0/home"}
    found = Redactor(ours, its, cwd="/w/x", places={"TMP_PATH": "/data/t/test_0"}, hooks=[])
    assert found.text("/data/t/test_0/home/a /home/joe/b") == "<TMP_PATH>/home/a <HOME>/b"
    its["HOME"] = "/data/else"
    found = Redactor(ours, its, cwd="/w/x", places={"TMP_PATH": "/data/t/test_0"}, hooks=[])
    assert found.text("/data/else/a") == "<HOME>/a"


def test_the_lines_name_the_folders_of_now() -> None:
    there = Redactor(
        {"HOME": "/home/joe"}, cwd="/w/their mod", places={"TMP_PATH": "/data/7"}, hooks=[]
    )
    said = json.dumps({"a": "/w/their mod/x /home/joe/.claude/-w-their-mod/m /data/7/a <ROOT>"})
    entries = (
        TranscriptEntry(0.0, "stdout", there.line(said)),
        TranscriptEntry(0.0, "stderr", there.line("no /w/their mod/x")),
        TranscriptEntry(0.0, "recorder", "<CWD>"),
    )
    recorded = Transcript(
        cli="claude", scenario="s", argv=(), env={}, signals=(), entries=entries, exit=0,
        duration=1.0, redacted=tuple(there.used),
    )  # fmt: skip
    assert set(recorded.redacted) == {"CWD", "HOME", "TMP_PATH"}
    here = Redactor(
        {"HOME": '/home/"an"n'},
        cwd="/v/our-mod",
        places={"TMP_PATH": "/data/8", "ROOT": "/v"},
        hooks=[],
    )
    out, err, remark = with_places_of(recorded, here).entries
    assert json.loads(out.line) == {
        "a": '/v/our-mod/x /home/"an"n/.claude/-v-our-mod/m /data/8/a <ROOT>'
    }
    assert err.line == "no /v/our-mod/x"
    assert remark.line == "<CWD>"
