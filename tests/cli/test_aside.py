"""What moves on standard error while something takes long, interrupted wherever it is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import pytest
from rich import live, progress

from pytest_claude_comms.cli import aside, output
from tests.cli.screen import Screen
from tests.tracing import Traced

_MINDED = (signal.SIGINT, signal.SIGTERM)
_TRACED = {aside.__file__, live.__file__, progress.__file__}


class Interrupt:
    """Comes before the n-th line of what draws."""

    def __init__(self, line: int) -> None:
        self.left = line

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in _TRACED:
            return None
        if event == "line" and self.left > 0:
            self.left -= 1
            if not self.left:
                signal.raise_signal(signal.SIGINT)
        return self.trace


class Terminal:
    """Standard error; what rich writes and what is written past it, in order."""

    encoding = "utf-8"

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        written = self._file.write(text)
        self._file.flush()
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def left(self) -> list[str]:
        """The rows that are not empty after all that was written; then it begins anew."""
        self._file.seek(0)
        screen = Screen(120, 40)
        screen.write(self._file.read())
        self._file.seek(0)
        self._file.truncate()
        return [row for row in screen.rows if row.strip()]


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output, "SHOWN_AFTER", -1)
    with open(tmp_path / "error", "w+", encoding="utf-8", newline="") as file:
        yield Terminal(file)


def draw(interrupt: Interrupt) -> None:
    shown = output.Output()
    with Traced(interrupt.trace), shown.progress("copying", 3) as advance:
        advance(1)
        advance(1)
        sys.settrace(None)


def test_wherever_ctrl_c_comes_nothing_is_left(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)  # not before: pytest sets its own for each phase
    minded = [signal.getsignal(number) for number in _MINDED]
    line = 1
    while True:
        interrupt = Interrupt(line)
        if interrupted(interrupt):
            assert terminal.left() == [], line
        assert [signal.getsignal(number) for number in _MINDED] == minded, line
        if interrupt.left:
            break
        line += 1 if line < 40 else 3  # those of rich's own start and stop are many more
    assert line > 50


def interrupted(interrupt: Interrupt) -> bool:
    try:
        draw(interrupt)
    except KeyboardInterrupt:
        return True
    assert interrupt.left, "the interrupt was lost"
    return False


def test_a_second_ctrl_c_does_not_wait_for_the_end_of_a_drawing() -> None:
    picture = aside._Picture(lambda: output.Output().console_aside, lambda: True, lambda: None)
    with pytest.raises(KeyboardInterrupt), picture, picture.drawing():  # the first, at its end
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_who_minds_it_is_told_at_the_end_of_a_drawing_and_it_goes_on(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    seen: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("interrupted"))
    try:
        minds = signal.getsignal(signal.SIGINT)
        with output.Output().progress("copying", 3) as advance:
            tracer = Interrupt(20)
            with Traced(tracer.trace):
                advance(1)
            assert seen == ["interrupted"]
            advance(2)
        assert signal.getsignal(signal.SIGINT) is minds
    finally:
        signal.signal(signal.SIGINT, before)
    assert terminal.left() == []
