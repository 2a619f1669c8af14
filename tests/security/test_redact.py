"""What ``redact`` takes out is in no record and no file, on no store."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

from pytest_claude_comms import (
    ConversationStore,
    InvalidTransition,
    MemoryConversationStore,
    RedactionError,
    SecretRedactor,
    SQLiteConversationStore,
    StoreError,
    TinyDBConversationStore,
    backup_store,
    copy_store,
    open_store,
    redact_secrets,
    secret_forms,
)
from pytest_claude_comms.redaction import redaction_of

from .conftest import OpenStore
from .kit import bytes_in, told

SECRET = "sk-ant-api03-Zx8Kq2Wv7Lm4Rt9Yp1Bn6Cd3"


def everywhere(store: ConversationStore) -> None:
    """A store that was given the secret in every text that it takes."""
    say = f"say {SECRET}!"
    nested: dict[str, Any] = {say: [say, {"a": (say, 1, None)}], "n": 1}
    store.create_thread(say, modules=[say, "b"], metadata=nested, thread_id="t")
    store.add_message(
        "t", say, say, message_type=say, status="pending", metadata=nested, message_id="m"
    )
    store.update_message("m", status="processing", append=say, metadata={say: say})
    store.update_message("m", content=say)
    store.update_message("m", append=say)
    store.update_message("m", status="failed", error=say)
    store.update_message("m", metadata={"late": say})


def test_it_is_nowhere(opened: OpenStore, tmp_path: Path) -> None:
    with opened(redact=redact_secrets) as store:
        everywhere(store)
        copy = MemoryConversationStore()
        copy_store(store, copy)
        assert SECRET not in told(store) + told(copy)
        assert SECRET.encode() not in bytes_in(tmp_path)
        if store.backend != "memory":
            backup_store(store, tmp_path / "kept" / "backup")
        store.compact(keep=2)
        assert SECRET.encode() not in bytes_in(tmp_path)
        message, thread = store.get_message("m"), store.get_thread("t")
    assert SECRET.encode() not in bytes_in(tmp_path)
    said = "say <API_KEY>!"
    assert message.content == said * 2
    assert (message.module_name, message.message_type, message.error) == (said, said, said)
    nested = {said: [said, {"a": [said, 1, None]}], "n": 1}
    assert message.metadata == {**nested, said: said, "late": said}
    assert (thread.title, thread.modules, thread.metadata) == (said, (said, "b"), nested)


def test_without_it_all_of_that_is_in_the_files(tmp_path: Path) -> None:
    for scheme in ("tinydb", "sqlite"):
        folder = tmp_path / scheme
        with open_store(f"{scheme}:///{folder}/a", durability="process") as store:
            everywhere(store)
            assert bytes_in(folder).count(SECRET.encode()) > 10


def test_what_is_returned_is_what_is_stored(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    thread = store.create_thread(SECRET)
    message = store.add_message(thread, "m", SECRET, status="pending")
    assert message == store.get_message(message)
    assert message.content == thread.title == "<API_KEY>"
    assert store.update_message(message, error=SECRET) == store.get_message(message)
    # What is taken out is compared as it is stored: this changes nothing.
    revision = store.cursor()
    store.update_message(message, content="<API_KEY>", metadata={})
    store.update_message(message, content=SECRET)
    assert store.cursor() == revision


def test_ids_are_left_alone(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    store.create_thread(thread_id=SECRET)
    store.add_message(SECRET, "m", message_id=SECRET)
    assert store.get_message(SECRET).thread_id == SECRET


def test_three_classes_and_open_store_take_it(tmp_path: Path) -> None:
    stores: list[ConversationStore] = [
        MemoryConversationStore(redact=redact_secrets),
        SQLiteConversationStore(tmp_path / "a.db", redact=redact_secrets),
        TinyDBConversationStore(tmp_path / "a.json", redact=redact_secrets),
    ]
    for store in stores:
        with store:
            assert store.create_thread(SECRET).title == "<API_KEY>"
    with pytest.raises(TypeError, match="redact must be a function from str to str, not 'x'"):
        open_store("memory:", redact="x")  # type: ignore[arg-type]


# -- a function that does not do what it has to


def raises(text: str) -> str:
    raise KeyError(text)


def is_wordless(text: str) -> Any:
    return None


def answers_in_bytes(text: str) -> Any:
    return text.encode()


def grows(text: str) -> str:
    return f"{text}!"


def is_broken(text: str) -> str:
    return f"{text}\udc80".replace("\udc80\udc80", "\udc80")


WRONG = [
    (raises, r"raises raised KeyError at .*test_redact\.py:\d+"),
    (is_wordless, "is_wordless returned a NoneType, not a str"),
    (answers_in_bytes, "answers_in_bytes returned a bytes, not a str"),
    (grows, "grows changes its own results: it must leave them alone"),
    (is_broken, "is_broken returned a lone surrogate, which no file can hold"),
]


@pytest.mark.parametrize(("function", "reason"), WRONG, ids=[each.__name__ for each, _ in WRONG])
def test_nothing_is_stored_if_it_fails(opened: OpenStore, function: Any, reason: str) -> None:
    works = True
    store = opened(redact=lambda text: text if works else function(text))
    store.create_thread(thread_id="t")
    store.add_message("t", "m", "said", status="pending", message_id="m")
    before = told(store)
    works = False
    for what, call in (
        ("title", lambda: store.create_thread(SECRET)),
        ("modules", lambda: store.create_thread(modules=[SECRET])),
        ("metadata", lambda: store.create_thread(metadata={"a": [SECRET]})),
        ("module_name", lambda: store.add_message("t", SECRET)),
        ("message_type", lambda: store.add_message("t", "", message_type=SECRET)),
        ("metadata", lambda: store.add_message("t", "", message_type="", metadata={SECRET: 1})),
        ("content", lambda: store.add_message("t", "", SECRET, message_type="")),
        ("content", lambda: store.update_message("m", append=SECRET)),
        ("content", lambda: store.update_message("m", content=SECRET, status="complete")),
        ("error", lambda: store.update_message("m", error=SECRET, status="failed")),
        ("metadata", lambda: store.update_message("m", metadata={SECRET: 1})),
    ):
        with pytest.raises(RedactionError) as caught:
            call()
        error = caught.value
        assert error.what == what
        assert str(error).startswith(f"{what} could not be redacted, so nothing was stored: ")
        assert caught.match(reason.replace(function.__name__, ".*", 1))
        # Who prints it, its cause and its context does not print the secret.
        assert SECRET not in str(error)
        assert (error.__cause__, error.__context__, error.transient) == (None, None, False)
    assert told(store) == before
    store.update_message("m", status="complete")  # no text, so nothing to redact


def test_it_must_not_use_its_store(opened: OpenStore) -> None:
    store: ConversationStore

    def looks(text: str) -> str:
        return text + store.get_thread("t").title

    store = opened(redact=looks)
    store.create_thread(thread_id="t")
    with pytest.raises(RedactionError, match="looks uses the store that calls it, which it must"):
        store.create_thread("a")
    with pytest.raises(RedactionError, match="uses the store"):
        store.add_message("t", "", "a", message_type="")
    assert len(store.threads()) == 1


def test_it_may_use_another_store(opened: OpenStore) -> None:
    notes = MemoryConversationStore()

    def notes_it(text: str) -> str:
        notes.create_thread(text)
        return text

    store = opened(redact=notes_it)
    store.create_thread("a")
    assert [thread.title for thread in notes.threads()] == ["a"]


def test_keys_that_become_one(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    thread = store.create_thread(metadata={f"{SECRET}1": 1, f"{SECRET}2": 2})
    assert thread.metadata == {"<API_KEY>": 2}


def test_what_is_refused_is_refused_as_ever(opened: OpenStore) -> None:
    store = opened(redact=redact_secrets)
    store.create_thread(thread_id="t")
    store.add_message("t", "m", message_id="m")
    for changes in ({"append": "a"}, {"content": "a"}, {"error": "a"}):
        with pytest.raises(InvalidTransition):
            store.update_message("m", **changes)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metadata\\['a'\\] is a set"):
        store.update_message("m", metadata={"a": {1}})


# -- what copies, and stores of others


def test_a_copy_holds_what_is_stored(opened: OpenStore) -> None:
    plain, store = MemoryConversationStore(), opened(redact=redact_secrets)
    plain.create_thread(SECRET)
    copy_store(plain, store)
    assert [thread.title for thread in store.threads()] == [SECRET]


def test_a_third_party_is_asked_to_redact_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that is asked for and not applied would be worse than none."""

    class Point:
        name, value, dist = "theirs", "theirs:open", None

        def load(self) -> Any:
            return lambda url, *, clock, durability: MemoryConversationStore()

    class Taking(Point):
        def load(self) -> Any:
            return lambda url, *, clock, durability, redact=None: MemoryConversationStore(
                redact=redact
            )

    points: list[Any] = [Point()]
    monkeypatch.setattr("pytest_claude_comms.stores.schemes.entry_points", lambda **_: points)
    assert open_store("theirs:x").create_thread(SECRET).title == SECRET
    with pytest.raises(StoreError, match="'theirs' is brought by .* takes no redact="):
        open_store("theirs:x", redact=redact_secrets)
    points[:] = [Taking()]
    assert open_store("theirs:x", redact=redact_secrets).create_thread(SECRET).title != SECRET


# -- the secrets that are known


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (SECRET, "<API_KEY>"),
        (f"x{SECRET}", "x<API_KEY>"),
        ("Authorization: Bearer abcdefgh12345678.x", "Authorization: Bearer <TOKEN>"),
        ("AKIAIOSFODNN7EXAMPLE", "<TOKEN>"),
        (
            "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "aws_secret_access_key = <TOKEN>",
        ),
        (
            "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
            "AWS_SECRET_ACCESS_KEY=<TOKEN>\n",
        ),
        (
            '{"SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}',
            '{"SecretAccessKey": "<TOKEN>"}',
        ),
        ("postgres://joe:p@ss:w@host:1/db?x@y", "postgres://joe:<PASSWORD>@host:1/db?x@y"),
        ("redis://:pw@host", "redis://:<PASSWORD>@host"),
        ("https://host/a:b@c", None),
        ("ssh://git@host:22/a", None),
        (
            "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb",
            "a\n<PRIVATE_KEY>\nb",
        ),
        ("-----BEGIN PRIVATE KEY-----\nMIIE and all that follows", "<PRIVATE_KEY>"),
        ("ghp_abcdefghijklmnop1234", "<TOKEN>"),
        ("the bearer of good news, secret access key: none", None),
        ("task-and-skill sk-ant-", None),
    ],
)
def test_well_known_forms(text: str, left: str | None) -> None:
    for redact in (redact_secrets, SecretRedactor()):
        found = redact(text)
        assert found == (text if left is None else left)
        assert redact(found) == found


def test_values_of_ones_own_in_every_form() -> None:
    secret = 'p/q "r'
    redact = SecretRedactor([secret])
    for form in (secret, json.dumps(secret), json.dumps(json.dumps(secret)), "p%2Fq%20%22r"):
        assert redact(f"<{form}>") != f"<{form}>"
        assert "q" not in redact(form)
    assert redact(f"{secret}{secret}") == "<SECRET><SECRET>"
    assert redact("p/q") == "p/q"


def test_values_of_the_environment() -> None:
    environ = {
        "DB_PASSWORD": "swordfish",
        "HTTPS_PROXY": "http://joe:halibut@proxy",
        "MAX_OUTPUT_TOKENS": "1234567",
        "HOME": "/home/joe",
        "EMPTY_KEY": "",
    }
    redact = SecretRedactor(environ=environ)
    assert redact("swordfish, halibut, 1234567, /home/joe") == (
        "<DB_PASSWORD>, <HTTPS_PROXY>, 1234567, /home/joe"
    )


def test_a_secret_that_is_part_of_a_mark_is_left() -> None:
    # <API_KEY> would become <<SECRET>>, and that another thing each time.
    redact = SecretRedactor(["API_KEY", "SECRET", "PASSWORD"])
    assert redact(SECRET) == redact(redact(SECRET)) == "<API_KEY>"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        # Where one begins in the middle of a word it is none; but not once a mark stands there.
        ("swordfishxoxb-1234567890", "<SECRET><TOKEN>"),
        ("swordfishghp_abcdefghijklmnop1234, swordfish", "<SECRET><TOKEN>, <SECRET>"),
        ("AKIAABCDEFGHIJKLMNOPglpat-abcdefghijklmnop", "<TOKEN><TOKEN>"),
        (f"AIza{'a' * 35}" * 30, "<TOKEN>"),
        (f"sk-ant-abcdefswordfishxoxb-1234567890 {SECRET}", "<SECRET> <API_KEY>"),
    ],
)
def test_one_secret_right_after_another(opened: OpenStore, text: str, left: str) -> None:
    store = opened(redact=SecretRedactor(["swordfish"]))
    store.create_thread(thread_id="t")
    assert store.add_message("t", "m", text).content == left


def test_a_text_full_of_secrets_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    class Counted(secret_forms.Span):
        @property
        def start(self) -> int:
            nonlocal looks
            looks += 1
            return self[0]

    monkeypatch.setattr(secret_forms, "Span", Counted)
    counts = []
    for size in (200, 400):
        looks = 0
        assert redact_secrets("ghp_abcdefghijklmnop1234 " * size) == "<TOKEN> " * size
        counts.append(looks)
    assert counts[1] <= 2 * counts[0] + 10


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ("swordfish", TypeError, "values must be a list of secrets, not one str"),
        ([b"swordfish"], TypeError, r"values\[0\] is a bytes, not a str"),
        (["swordfish", "abc"], ValueError, r"values\[1\] has 3 characters; one of fewer than 6"),
    ],
)
def test_values_that_are_none(values: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        SecretRedactor(values)
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize("environ", ["TOKEN=swordfish", ["TOKEN=swordfish"]])
def test_an_environment_is_a_mapping(environ: Any) -> None:
    with pytest.raises(TypeError, match="environ is a mapping, such as os.environ, not a ") as told:
        SecretRedactor(environ=environ)
    assert "swordfish" not in str(told.value)


LETTERS = "Zx8Kq2Wv7Lm4Rt9Yp1Bn6Cd3Hj5Gf0SsTtUuVvWw"


@pytest.mark.parametrize(
    ("before", "begin", "size", "mark"),
    [
        ("x", "sk-ant-", 6, "API_KEY"),
        (" ", "sk-", 32, "TOKEN"),
        (" ", "sk-proj-", 32, "TOKEN"),
        *[("(", f"gh{kind}_", 16, "TOKEN") for kind in "opsur"],
        ("x", "github_pat_", 16, "TOKEN"),
        ("x", "glpat-", 16, "TOKEN"),
        ("=", "xoxb-", 8, "TOKEN"),
        ("=", "AIza", 35, "TOKEN"),
        ("Bearer ", "", 16, "TOKEN"),
        ("bearer ", "", 16, "TOKEN"),
    ],
)
def test_a_key_of_a_well_known_form_is_taken_out_and_a_shorter_one_is_none(
    before: str, begin: str, size: int, mark: str
) -> None:
    key = f"{begin}{LETTERS[:size]}"
    for redact in (redact_secrets, SecretRedactor()):
        assert redact(f"a{before}{key}") == f"a{before}<{mark}>"
        assert redact(f"a{before}{key} b") == f"a{before}<{mark}> b"
        assert redact(f"a{before}{key[:-1]}") == f"a{before}{key[:-1]}"


@pytest.mark.parametrize("kind", ["AKIA", "ASIA"])
def test_a_key_of_a_cloud_has_its_length(kind: str) -> None:
    redact = SecretRedactor()
    key = f"{kind}{LETTERS[:16].upper()}"
    assert redact(f"({key})") == "(<TOKEN>)"
    for other in (key[:-1], f"{key}A", f"A{key}"):
        assert redact(other) == other


def test_a_web_token_and_where_words_are_none() -> None:
    redact = SecretRedactor()
    token = "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl-_x"
    assert redact(f"({token})") == "(<TOKEN>)"
    for other in (token.rpartition(".")[0], f"-{token}", f"task-{LETTERS}", f"xghp_{LETTERS}"):
        assert redact(other) == other
    assert redact("Bearer abcdefghijklmnopqrst") == "Bearer abcdefghijklmnopqrst", "no digit"


def test_each_form_of_values_and_variables_is_taken_out() -> None:
    """As a whole, without what stands around it, line by line, in JSON, in a URL, in base64."""
    secret = 's\u00e9cret/"1 +2?'
    redact = SecretRedactor([secret])
    forms = [secret, f"  {secret}\n", f"x{secret}x"]
    inside = secret
    for escaped in (False, True):
        inside = secret
        for _ in range(3):
            inside = json.dumps(inside, ensure_ascii=escaped)[1:-1]
            forms.append(inside)
    quoted = quote(secret, safe="")
    forms += [quoted, quoted.lower(), quote(secret, safe="/"), quote_plus(secret)]
    whole = b64encode(secret.encode()).decode()
    forms += [whole, whole.rstrip("=")]
    for form in forms:
        left = redact(form)
        assert "<SECRET>" in left, form
        assert len(left.replace("<SECRET>", "")) <= 3, form
        assert redact(left) == left
    size = len(secret.encode())
    for place in range(6):
        for encode in (b64encode, urlsafe_b64encode):
            coded = encode(b"?" * place + secret.encode() + b"y" * 3).decode()
            first, last = -(-place * 8 // 6), (place + size) * 8 // 6
            assert redact(coded) == f"{coded[:first]}<SECRET>{coded[last:]}"


def test_of_several_lines_each_is_a_secret_and_of_a_header_its_value() -> None:
    redact = SecretRedactor(environ={"X_HEADERS": "X-One: Bearer swordfish99\nX-Two: halibut12345"})
    for text, left in (
        ("X-One: Bearer swordfish99\nX-Two: halibut12345", "<X_HEADERS>"),
        ("X-Two: halibut12345", "<X_HEADERS>"),
        ("Bearer swordfish99", "<X_HEADERS>"),
        ("a swordfish99", "a <X_HEADERS>"),
        ("a halibut12345", "a <X_HEADERS>"),
        ("X-One: ", "X-One: "),
    ):
        assert redact(text) == left
    assert SecretRedactor([" swordfish "])("swordfish") == "<SECRET>"
    redact = SecretRedactor(["swordfish-12\nhalibut-11x"])
    assert redact("swordfish-12, halibut-11x") == "<SECRET>, halibut-11x", "12 characters or more"


def test_what_is_short_is_not_looked_for_in_base64() -> None:
    for secret, found in (("swordfi", False), ("swordfis", True)):
        coded = b64encode(secret.encode()).decode()
        assert (SecretRedactor([secret])(coded) == "<SECRET>") is found


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        *[(f"MY_{word}", "swordfish", "swordfish") for word in (
            "KEY", "TOKEN", "SECRET", "PASSWORD", "PASSPHRASE", "AUTH", "HEADERS", "CREDENTIAL",
            "CREDS", "COOKIE", "JWT", "BEARER", "WEBHOOK", "CONNECTION_STRING", "CONNECTIONSTRING",
            "PASS", "PWD", "PAT",
        )],
        ("db_password", "swordfish", "swordfish"),
        ("MAX_TOKENS", "1000000", None),
        ("MAX_TOKENS", "swordfish", "swordfish"),
        ("KEY_TIMEOUT_MS", "1000000", None),
        ("KEY_TTL", "1000000", None),
        ("PATH", "/usr/bin:/bin", None),
        ("BYPASS", "swordfish", None),
        ("PASSENGER", "swordfish", None),
        ("PATIENCE", "swordfish", None),
        ("API_KEY", "short", None),
        ("API_KEY", "sixsix", "sixsix"),
        ("PROXY", "http://joe:swordfish@host/", "swordfish"),
        ("PROXY", "http://swordfish@host/", "swordfish"),
        ("PROXY", "http://joe:sword%20fish@host/", "sword fish"),
        ("PROXY", "http://joe:sw%6Frdfish@host/", "swordfish"),
        ("PROXY", "http://joe:sw%6Frdfish@host/", "sw%6Frdfish"),
        ("URL", "https://host/?a=b&api_key=swordfish&c=d", "swordfish"),
        ("URL", "https://host/?pass=swordfish", "swordfish"),
        ("DSN", "host;pwd=swordfish;x=y", "swordfish"),
        ("URL", "https://host/?sig=swordfish", "swordfish"),
        ("URL", "https://host/swordfish?a=b", None),
    ],
)  # fmt: skip
def test_which_variables_are_secret(name: str, value: str, secret: str | None) -> None:
    redact = SecretRedactor(environ={name: value})
    if secret is None:
        assert redact(value) == value
    else:
        assert redact(f"a {secret} b") == f"a <{name}> b"


def test_the_longest_secret_is_found_first_and_of_what_overlaps_nothing_stays() -> None:
    redact = SecretRedactor(["swordfish", "swordfish-and-chips", "chips-and-peas"])
    assert redact("swordfish-and-chips") == "<SECRET>"
    assert redact("swordfish-and-peas") == "<SECRET>-and-peas"
    assert redact("a swordfish-and-chips-and-peas b") == "a <SECRET> b"
    assert redact("chips-and-peas, swordfish") == "<SECRET>, <SECRET>"
    environ = {"A_KEY": "swordfish", "B_KEY": "swordfish", "C_KEY": "swordfish-tail"}
    redact = SecretRedactor(environ=environ)
    assert redact("swordfish swordfish-tail") == "<A_KEY> <C_KEY>"
    side_by_side = SecretRedactor(environ={"A_KEY": "halibut", "B_KEY": "swordfish"})
    assert side_by_side("halibutswordfishhalibut") == "<A_KEY><B_KEY><A_KEY>"


def test_a_variable_whose_bytes_are_no_text() -> None:
    redact = SecretRedactor(environ={"A_KEY": "swordfish\udc80"})
    assert redact("swordfish%80") == "<A_KEY>"
    assert redact(b64encode(b"swordfish\x80!!").decode()) == "<A_KEY>CEh"


# -- what is asked of a function


def test_nothing_is_asked_of_an_empty_text(opened: OpenStore) -> None:
    store = opened(redact=lambda text: text or "was empty")
    assert store.create_thread("").title == ""


def test_what_it_returns_is_stored_as_a_plain_str() -> None:
    class Marked(str):
        __slots__ = ()

    store = MemoryConversationStore(redact=Marked)
    assert type(store.create_thread("a").title) is str


def test_the_error_names_what_failed_and_where_if_it_has_a_place() -> None:
    class Hook:
        def __call__(self, text: str) -> str:
            raise LookupError(text)

    with pytest.raises(RedactionError) as caught:
        MemoryConversationStore(redact=Hook()).create_thread("a")
    assert re.search(r"Hook raised LookupError at \S*test_redact\.py:\d+$", caught.value.reason)
    # What is written in C has no line of its own.
    with pytest.raises(RedactionError, match="nothing was stored: int raised ValueError$"):
        MemoryConversationStore(redact=int).create_thread("a")  # type: ignore[arg-type]


def test_a_store_may_be_used_again_after_its_function_failed() -> None:
    fails = [True]

    def sometimes(text: str) -> str:
        if fails:
            raise LookupError
        return text

    store = MemoryConversationStore(redact=sometimes)
    with pytest.raises(RedactionError):
        store.create_thread("a")
    fails.clear()
    assert store.create_thread("a").title == "a"
    assert len(store.threads()) == 1


def test_how_much_may_be_the_beginning_of_a_secret_with_spaces() -> None:
    redact = SecretRedactor(["correct horse", "correct horse battery", "swordfish"])
    for text, size in (
        ("", 0),
        ("c", 1),
        ("the correct", 7),
        ("the correct hors", 12),
        ("the correct horse", 13),
        ("the correct horse b", 15),
        ("the correct horse battery", 0),
        ("sword", 0),
    ):
        assert redact.unfinished(text) == size
    assert SecretRedactor(["correct horse"]).unfinished("the correct hors") == 12


@pytest.mark.parametrize("function", [is_wordless, answers_in_bytes, is_broken])
def test_the_error_names_the_function_that_answered_wrong(function: Any) -> None:
    with pytest.raises(RedactionError) as caught:
        MemoryConversationStore(redact=function).create_thread("a")
    assert caught.value.reason.startswith(f"{function.__name__} returned a ")
    with pytest.raises(RedactionError, match="stored: grows changes its own results: it must leav"):
        MemoryConversationStore(redact=grows).create_thread("a")


@pytest.mark.parametrize(
    "metadata",
    [{SECRET: 1}, {"a": SECRET}, {"a": [1, SECRET]}, {"a": {"b": {SECRET: 1}}}, {"a": [[SECRET]]}],
)
def test_the_error_says_what_was_to_be_redacted_however_deep(metadata: dict[str, Any]) -> None:
    def fails(text: str) -> str:
        if SECRET in text:
            raise LookupError
        return text

    with pytest.raises(RedactionError) as caught:
        MemoryConversationStore(redact=fails).create_thread(metadata=metadata)
    assert caught.value.what == "metadata"


def test_the_error_says_so_too_if_it_fails_on_its_own_result() -> None:
    def once(text: str) -> str:
        if text == "b":
            raise LookupError
        return "b"

    with pytest.raises(RedactionError) as caught:
        MemoryConversationStore(redact=once).create_thread("a")
    assert (caught.value.what, "once raised LookupError" in caught.value.reason) == ("title", True)


def test_a_secret_that_is_part_of_a_variables_name_is_left() -> None:
    environ = {
        "SWORDFISH_KEY": "halibut",
        "MY-TURBOT_KEY": "mackerel",
        "A_KEY": "SWORDFISH",
        "B_KEY": "MY-TURBOT",
    }
    redact = SecretRedactor(environ=environ)
    left = redact("halibut mackerel")
    assert left == redact(left) == "<SWORDFISH_KEY> <MY-TURBOT_KEY>"


def test_what_a_store_redacts_with_is_known() -> None:
    store = MemoryConversationStore(redact=redact_secrets)
    found = redaction_of(store)
    assert found is not None
    assert found.redact is redact_secrets
    assert redaction_of(MemoryConversationStore()) is None
    assert redaction_of(object()) is None
