"""Which of a file's mutants are tried, where all of them would take hours."""

from __future__ import annotations

import ast
from collections.abc import Collection, Sequence
from hashlib import sha256

from .mutants import Mutant, first_line


def sampled(mutants: Sequence[Mutant], source: str, count: int, seed: int) -> list[Mutant]:
    """``count`` of the mutants, in their order, by chance.

    Chance is what ``seed`` makes of the mutant and its line's text: a larger sample contains the
    smaller one, and it is still the same when other lines of the file have become others.
    """
    lines = source.splitlines()

    def chance(mutant: Mutant) -> bytes:
        line = lines[mutant.line(source) - 1 : mutant.line(source)]
        return sha256(f"{seed} {line} {mutant.shown(source)}".encode()).digest()

    chosen = sorted(range(len(mutants)), key=lambda each: (chance(mutants[each]), each))[:count]
    return [mutants[each] for each in sorted(chosen)]


def of_functions(mutants: Sequence[Mutant], source: str, names: Collection[str]) -> list[Mutant]:
    """The mutants inside functions and methods of these names."""
    functions = {
        first_line(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in names
    }
    return [mutant for mutant in mutants if mutant.function in functions]
