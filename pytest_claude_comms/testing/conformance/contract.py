"""A contract: a number, a sentence, what a store has to claim to be asked it, and the asking."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ... import render
from .capabilities import CAPABILITIES
from .checks import Mismatch

if TYPE_CHECKING:
    from .bench import Bench

Ask: TypeAlias = "Callable[[Bench], None]"


class ContractBroken(AssertionError):
    """A store broke a contract; as text, a page that says which and how."""

    def __init__(self, contract: Contract, page: str) -> None:
        super().__init__(page)
        self.number = contract.number
        self.sentence = contract.sentence


@dataclass(frozen=True)
class Contract:
    """One thing that a store promises. ``number`` never changes its meaning."""

    number: str
    """``feed.3``: its group and its place there."""
    sentence: str
    needs: tuple[str, ...]
    ask: Ask
    posix: bool = False
    """It is about what only POSIX systems have."""

    @property
    def group(self) -> str:
        return self.number.partition(".")[0]

    @property
    def test_name(self) -> str:
        return f"test_{self.number.replace('.', '_')}_{self.ask.__name__}"

    def not_asked(self, claimed: frozenset[str]) -> str | None:
        """Why a store that claims so much is not asked, or None."""
        missing = [name for name in self.needs if name not in claimed]
        if missing:
            return f"not claimed: {', '.join(missing)}"
        return "Windows has none of it" if self.posix and sys.platform == "win32" else None

    def check(self, bench: Bench) -> None:
        """Ask ``bench``'s store. Raises ContractBroken."""
        try:
            self.ask(bench)
        except Mismatch as mismatch:
            raise ContractBroken(self, self._page(bench, mismatch, mismatch)) from mismatch
        except Exception as error:
            told = Mismatch(_line(error), "an answer", f"{type(error).__name__}: {error}")
            raise ContractBroken(self, self._page(bench, told, error)) from error

    def _page(self, bench: Bench, mismatch: Mismatch, error: BaseException) -> str:
        asked = _asked(error)
        fields = [
            ("store", [f"{bench.name}, claims {', '.join(sorted(bench.claimed)) or 'nothing'}"]),
            ("of", [mismatch.what]),
            ("expected", mismatch.expected.splitlines()),
            ("found", mismatch.found.splitlines()),
            ("asked in", [f"{asked.filename}:{asked.lineno}"]),
        ]
        if error is not mismatch:
            frames = traceback.extract_tb(error.__traceback__)[2:]
            fields.append(("raised", [f"{f.filename}:{f.lineno} {f.line}" for f in frames[-6:]]))
        if self.needs:
            claim = f"asked because it claims {', '.join(self.needs)}"
            fields.append(("hint", [f"{claim}; `capabilities` may say otherwise"]))
        return render.page(f"{self.number}: {self.sentence}", fields)


def _asked(error: BaseException) -> traceback.FrameSummary:
    """The line of the contract that came to the error: the second, below ``check``."""
    return traceback.extract_tb(error.__traceback__)[:2][-1]


def _line(error: BaseException) -> str:
    return _asked(error).line or "a call"


class Contracts:
    """The contracts of one group."""

    def __init__(self, group: str) -> None:
        self.group = group
        self.all: list[Contract] = []

    def contract(self, number: int, *needs: str, posix: bool = False) -> Callable[[Ask], Ask]:
        """Decorates the asking, whose docstring is the sentence."""
        strange = set(needs) - set(CAPABILITIES)
        if strange:
            raise ValueError(f"there is no capability {strange}")

        def add(ask: Ask) -> Ask:
            sentence = " ".join((ask.__doc__ or "").split())
            self.all.append(Contract(f"{self.group}.{number}", sentence, needs, ask, posix))
            return ask

        return add
