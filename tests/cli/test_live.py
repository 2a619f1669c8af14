"""What live commands draw with: text with a line under it, lines drawn over, signals, spans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_claude_comms import MessageStatus, StreamReader, open_store
from pytest_claude_comms.claude.outcome import ApiRetry
from pytest_claude_comms.claude.updates import StreamUpdate
from pytest_claude_comms.cli import flow as flow_module
from pytest_claude_comms.cli import live_ask
from pytest_claude_comms.cli.durations import Seconds, about
from pytest_claude_comms.cli.flow import Flow
from pytest_claude_comms.cli.live import Region, Stops, cut, line
from pytest_claude_comms.cli.live_ask import Progress, Show
from pytest_claude_comms.cli.output import Output
from pytest_claude_comms.cli.safety import width
from tests.cli.screen import Screen

SECOND = 1_000_000


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_screen(stream: object) -> tuple[int, int]:
        assert isinstance(stream, Screen)
        return stream.columns, stream.lines

    monkeypatch.setattr(flow_module, "size", of_screen)
    monkeypatch.setattr(live_ask, "size", of_screen)


def wrapped(text: str, columns: int) -> list[str]:
    """As a terminal shows it that was given nothing else."""
    screen = Screen(columns)
    screen.write(text.expandtabs())
    return screen.rows


TEXTS = st.lists(st.text(st.sampled_from("ab \nж日👍"), max_size=25), min_size=1, max_size=12)


@given(TEXTS, st.integers(8, 20))
def test_what_stays_is_the_text_wherever_it_was_cut(pieces: list[str], columns: int) -> None:
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(flow_module, "size", lambda stream: (stream.columns, stream.lines))
        screen = Screen(columns, lines=6)
        flow = Flow(screen)
        for place, piece in enumerate(pieces):
            flow.write(piece)
            flow.status(f"line {place}"[: columns - 1])
        flow.finish()
    text = "".join(pieces)
    expected = wrapped(text if text.endswith("\n") or not text else text + "\n", columns)
    # A row that is filled to its end is ended by us, which nobody can see.
    assert trimmed(screen.rows) == trimmed(expected)


def trimmed(rows: list[str]) -> list[str]:
    while rows and not rows[-1]:
        rows = rows[:-1]
    return rows


def test_the_line_is_under_the_text() -> None:
    screen = Screen(20)
    flow = Flow(screen)
    flow.write("Hello")
    flow.status("processing")
    assert screen.rows == ["Hello", "processing"]
    flow.write(" world,")
    assert screen.rows == ["Hello world,", "processing"]
    flow.write("\nand more")
    assert screen.rows == ["Hello world,", "and more", "processing"]
    assert (screen.row, screen.column) == (2, 0)  # what is echoed there wraps nowhere
    flow.finish()
    assert screen.rows == ["Hello world,", "and more", ""]


def test_the_same_line_is_not_drawn_again() -> None:
    screen = Screen(20)
    flow = Flow(screen)
    flow.status("processing")
    written = len(screen.written)
    flow.status("processing")
    assert len(screen.written) == written


def test_a_terminal_that_changes_its_width_gets_a_new_row() -> None:
    screen = Screen(20)
    flow = Flow(screen)
    flow.write("Hello")
    flow.status("processing")
    screen.columns = 30
    flow.write(" world")
    assert screen.rows == ["Hello", " world", "processing"]


# -- lines drawn over


def drawn(*lines: str) -> list[tuple[str, int]]:
    return [(each, len(each)) for each in lines]


def test_only_what_changed_is_drawn() -> None:
    screen = Screen(40, 10)
    region = Region(screen)
    region.draw(drawn("one", "two", "three"), (40, 10))
    assert screen.rows == ["one", "two", "three", ""]
    region.draw(drawn("one", "2", "three"), (40, 10))
    assert screen.rows == ["one", "2", "three", ""]
    assert "one" not in screen.written[-1]
    assert "three" not in screen.written[-1]
    writes = region.writes
    region.draw(drawn("one", "2", "three"), (40, 10))
    assert region.writes == writes


@given(
    st.lists(
        st.lists(st.sampled_from(["", "a", "bb", "a long one"]), max_size=8), min_size=1, max_size=8
    )
)
def test_whatever_was_there_the_last_lines_are_seen(tables: Sequence[list[str]]) -> None:
    screen = Screen(20, 9)
    screen.write("$ watch\n")
    region = Region(screen)
    for lines in tables:
        region.draw(drawn(*lines), (20, 9))
    assert trimmed(screen.rows) == trimmed(["$ watch", *tables[-1]])
    assert (screen.row, screen.column) == (1 + len(tables[-1]), 0)


def test_a_lower_terminal_is_drawn_anew() -> None:
    screen = Screen(20, 9)
    region = Region(screen)
    region.draw(drawn(*"abcdefgh"), (20, 9))
    screen.lines, screen.top = 4, screen.row - 3
    region.draw(drawn("x", "y"), (20, 4))
    assert screen.rows[-3:] == ["x", "y", ""]


# -- parts


@pytest.mark.parametrize(
    ("text", "most", "shown"),
    [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("日本語", 4, "日…"), ("a", 0, ""), ("ab", 1, "…")],
)
def test_cut(text: str, most: int, shown: str) -> None:
    assert cut(text, most) == shown
    assert width(shown) <= most


def test_a_line_is_harmless_and_fits() -> None:
    shown = line(Output(), [("\x1b[31m\n", None), ("日本語" * 9, "red")], 20)
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert width(shown) <= 20


@pytest.mark.parametrize(
    ("word", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("5 min", 300), ("1.5h", 5400), ("2d", 172_800)],
)
def test_spans(word: str, seconds: float) -> None:
    assert Seconds().convert(word, None, None) == seconds


@pytest.mark.parametrize("word", ["", "x", "-1", "1w", "nan", "inf", "1e12", "99999999999999"])
def test_no_spans(word: str) -> None:
    with pytest.raises(click.BadParameter, match="no span of time"):
        Seconds(none=True).convert(word, None, None)


def test_no_limit_is_a_span_only_where_it_may_be() -> None:
    assert Seconds(none=True).convert("none", None, None) is None
    with pytest.raises(click.BadParameter):
        Seconds().convert("none", None, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3_600, "1 h"),
        (172_800, "2 d"),
        (1e9, "11,574 d"),
    ],
)
def test_about(seconds: float, words: str) -> None:
    assert about(seconds) == words


# -- how a run stands


def words(progress: Progress, second: float) -> str:
    return "".join(text for text, _ in progress.parts(round(second * SECOND)))


def retry(delay: int | None, status: int | None) -> StreamUpdate:
    again = ApiRetry(
        attempt=1, max_retries=3, retry_delay_ms=delay, error_status=status, error=None
    )
    return StreamUpdate(kind="retry", retry=again)


def test_numbers_that_cannot_be_shown() -> None:
    progress = Progress(0)
    progress.take(retry(10**400, 529), 0)
    assert words(progress, 2) == "pending · 2 s · asking again (529) · 1 retry"
    with open_store("memory:") as store:
        thread = store.create_thread()
        given = {"cost_usd": 10**400, "usage": {"output_tokens": 10**400}}
        progress.end(store.add_message(thread, "a", metadata=given))
    assert "$" not in words(progress, 3)
    assert "$" not in progress.summary()


def test_progress() -> None:
    progress = Progress(0)
    assert words(progress, 0) == "pending · 0 s · starting"
    for second, update, shown in (
        (1, StreamUpdate(kind="started"), "processing · 1 s · thinking"),
        (2, retry(500, 529), "processing · 2 s · asking again in 0.5 s (529) · 1 retry"),
        (
            3,
            StreamUpdate(kind="tool", tool="Read", tool_use_id="1"),
            "processing · 3 s · tool Read · 1 retry",
        ),
        (
            4,
            StreamUpdate(kind="tool", tool="Bash", tool_use_id="2"),
            "processing · 4 s · tool Read, Bash · 1 retry",
        ),
        (
            5,
            StreamUpdate(kind="tool_result", tool_use_id="1"),
            "processing · 5 s · tool Bash · 1 retry",
        ),
        (
            6,
            StreamUpdate(kind="tool_result", tool_use_id="2"),
            "processing · 6 s · thinking after Bash · 1 retry",
        ),
        (
            7,
            StreamUpdate(kind="text", append="Hello there"),
            "processing · 7 s · writing · 11 characters · ~3 tokens · 1 retry",
        ),
        (
            8,
            StreamUpdate(kind="text", content="Hello"),
            "processing · 8 s · writing · 5 characters · ~2 tokens · 1 retry",
        ),
    ):
        progress.take(update, second * SECOND)
        assert words(progress, second) == shown
    assert words(progress, 20).endswith("1 retry · silent for 12 s")
    assert progress.status is MessageStatus.PROCESSING


def test_the_result_tells_what_it_cost() -> None:
    progress = Progress(0)
    reader = StreamReader()
    line_ = (
        '{"type":"result","subtype":"success","is_error":false,"result":"x",'
        '"total_cost_usd":0.0123,"usage":{"output_tokens":4321}}'
    )
    for update in reader.feed(line_):
        progress.take(update, 0)
    assert progress.summary() == "0 characters, 4,321 tokens, $0.0123"


def test_text_that_is_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    show = Show(Output())
    for update in (
        StreamUpdate(kind="text", append="The fields are "),
        StreamUpdate(kind="text", content="The field"),
        StreamUpdate(kind="text", append=" is _key\r"),
        StreamUpdate(kind="text", append="\n\x1b[2J"),
    ):
        show.take(update)
    show.finish()
    said = capsys.readouterr()
    assert said.out == "The fields are \n is _key\n\\x1b[2J\n"
    assert said.err == "taken back: the last 6 characters\n"


# -- signals


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stops() as stops:
        assert (stops.count, stops.name) == (0, "")
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert (stops.count, stops.name, stops.exit_code) == (2, "SIGTERM", 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupt_as_the_handlers_come_back_leaves_none_of_the_others_noted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, before = signal.signal, signal.getsignal(signal.SIGTERM)

    def interrupted(number: int, handler: signal.Handlers) -> object:
        found = real(number, handler)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        return found

    stops = Stops()
    stops.__enter__()
    monkeypatch.setattr(signal, "signal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stops.__exit__()
    assert signal.getsignal(signal.SIGTERM) is before


def test_whoever_insists_gets_out() -> None:
    with Stops() as stops:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert stops.name == "Ctrl-C"


def test_what_was_ignored_stays_ignored() -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from pytest_claude_comms.cli.live import Stops\n"
        "with Stops() as stops:\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    print(stops.count)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "0\n"
