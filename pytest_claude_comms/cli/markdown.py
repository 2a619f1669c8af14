"""A message's markdown on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Markdown
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from .safety import safe

if TYPE_CHECKING:
    from .output import Output


_LONGEST_HIGHLIGHTED = 2_000
"""Characters: some highlighters take the square of it, Perl's a minute for 30,000."""


class _Code(CodeBlock):
    """A block of code; a long one has no colours."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        if len(code) <= _LONGEST_HIGHLIGHTED:
            yield from super().__rich_console__(console, options)
        else:
            yield Padding(Text(code), 1)


class _Markdown(Markdown):
    elements: ClassVar = {**Markdown.elements, "fence": _Code, "code_block": _Code}


class _Harmless:
    """What a renderable comes to, with nothing in it but text and colours.

    Markdown has ways to say a character by its number (``&#x202e;``), and those of renderers to
    talk to terminals (links) are not all known here: so what comes out is looked at once more.
    """

    def __init__(self, markdown: Markdown) -> None:
        self._markdown = markdown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._markdown, options):
            if not segment.control:
                style = segment.style
                if style is not None and style.link:
                    style = style.update_link(None)
                yield Segment(safe(segment.text), style)


def print_markdown(out: Output, text: str) -> None:
    """Render a text from outside on standard output."""
    out.console.print(_Harmless(_Markdown(safe(text), code_theme="ansi_dark", hyperlinks=False)))
