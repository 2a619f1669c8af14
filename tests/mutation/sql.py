"""Faults in SQL: mutants of the statements that stand in a Python file's strings.

``python -m tests.mutation.sql`` tries those of the SQLite store.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from .mutants import Mutant, Source, compiles, constants, first_line

_IS_SQL: Final = re.compile(
    r"\b(SELECT|INSERT|UPDATE \w+ SET|DELETE FROM|CREATE (TABLE|INDEX)|PRAGMA|BEGIN|COMMIT|"
    r"ROLLBACK|VACUUM|VALUES|FROM|WHERE|ORDER BY|AND|NOT NULL)\b"
    r"|^[a-z]\.?[\w.]+ (=|<=|>=|<|>) \?$|^( ?([a-z]\.)?[a-z_]+,){2,}|^([a-z]\.[a-z_]+(, )?)+$"
)
_NAME: Final = r"(?<![\w.])(?:[a-z]\.)?[a-z_]+"


@dataclass(frozen=True, slots=True)
class _Edit:
    kind: str
    pattern: re.Pattern[str]
    new: str


def _edit(kind: str, pattern: str, new: str) -> _Edit:
    return _Edit(kind, re.compile(pattern), new)


_EDITS: Final = (
    _edit("comparison", r"(?<= )<(?= )", "<="),
    _edit("comparison", r"(?<= )<(?= )", ">="),
    _edit("comparison", r"(?<= )<=(?= )", "<"),
    _edit("comparison", r"(?<= )<=(?= )", ">"),
    _edit("comparison", r"(?<= )>(?= )", ">="),
    _edit("comparison", r"(?<= )>(?= )", "<="),
    _edit("comparison", r"(?<= )>=(?= )", ">"),
    _edit("comparison", r"(?<= )>=(?= )", "<"),
    _edit("comparison", r"(?<= )=(?= )", "<>"),
    _edit("comparison", r"\bIS NOT NULL", "IS NULL"),
    _edit("comparison", r"(?<!NOT )\bIN\b", "NOT IN"),
    _edit("comparison", r"\bNOT IN\b", "IN"),
    # An OR in place of leaving it out: so many values are bound as before.
    _edit("term left out", rf"{_NAME} (?:=|<>|<=|>=|<|>) (?:\?|{_NAME}|'\w+')", r"(\g<0> OR TRUE)"),
    _edit("term left out", rf"{_NAME} IS NOT NULL", r"(\g<0> OR TRUE)"),
    _edit("term left out", rf"{_NAME} NOT IN", r"TRUE OR \g<0>"),
    _edit("and/or", r"\bAND\b", "OR"),
    _edit("order left out", rf"ORDER BY (?:{_NAME}|\{{order\}})(?:, {_NAME})*(?: DESC)?", ""),
    _edit(
        "order turned", rf"ORDER BY (?:{_NAME}|\{{order\}})(?:, {_NAME})*(?! DESC)\b", r"\g<0> DESC"
    ),
    _edit("order turned", r" DESC\b", ""),
    _edit("limit", r"LIMIT (\?|\d+)", r"LIMIT \g<1> + 1"),
    _edit("limit", r"LIMIT \d+", ""),
    _edit("constraint left out", r"(?<! IS) NOT NULL", ""),
    _edit("constraint left out", r" UNIQUE", ""),
    _edit("constraint left out", r" AUTOINCREMENT", ""),
    _edit("constraint left out", r" PRIMARY KEY(?: AUTOINCREMENT)?", ""),
    _edit("constraint left out", r" IF NOT EXISTS", ""),
    _edit("conflict", r" OR REPLACE", ""),
    _edit("conflict", r" OR REPLACE", " OR IGNORE"),
    _edit("transaction", r"BEGIN IMMEDIATE", "BEGIN"),
    _edit("transaction", r"\bBEGIN(?! IMM)", "BEGIN IMMEDIATE"),
    _edit("transaction", r"\bBEGIN(?! IMM)", "SELECT 1"),
    _edit("transaction", r"\bCOMMIT\b", "ROLLBACK"),
    _edit("transaction", r"\bROLLBACK\b", "COMMIT"),
    _edit("join", r"\bLEFT JOIN\b", "JOIN"),
    _edit("join", r"\bCROSS JOIN\b", "LEFT JOIN"),
    _edit("index left out", r"CREATE INDEX.*", "SELECT 1"),
    _edit("index", r" WHERE deadline_us IS NOT NULL(?=\")", ""),
    _edit("function", r"\bmin\(", "max("),
    _edit("function", r"\bmax\(", "min("),
    _edit("column swapped", rf"\b({_NAME}), ({_NAME})\b(?! (?:=|<|>|TEXT|INTEGER))", r"\2, \1"),
    _edit("column swapped", rf"({_NAME}),(\"\s*f?\") ({_NAME})\b", r"\3,\2 \1"),
    _edit("column not set", rf"({_NAME}) = \?", r"\1 = CASE WHEN TRUE THEN \1 ELSE ? END"),
    _edit("column swapped", rf"({_NAME}) = \?,( | ?\"\s*f?\" ?)({_NAME}) = \?", r"\3 = ?,\2\1 = ?"),
    _edit("pragma", r"PRAGMA [a-z_]+ ?= ?(?:\w+|\{[^}]+\})", "SELECT 1"),
    _edit("pragma", r"PRAGMA wal_checkpoint\(TRUNCATE\)", "PRAGMA wal_checkpoint(PASSIVE)"),
    _edit("pragma", r"PRAGMA shrink_memory", "SELECT 1"),
    _edit("pragma", r"(?<=PRAGMA wal_autocheckpoint = )0", "1000"),
    _edit("number", r"(?<= )0(?=[,)])", "1"),
    _edit("row left out", r"DELETE FROM trimmed", "SELECT 1"),
)


def sql_mutants(text: str) -> list[Mutant]:
    """All mutants of the SQL in a Python file's strings."""
    source = Source(text)
    names = constants(ast.parse(text))
    found: dict[tuple[int, int, str], Mutant] = {}
    for node, lines, function in _strings(ast.parse(text).body, None, (0, 0)):
        start, raw = source.start(node), source.of(node)
        if not _IS_SQL.search(_words(node)):
            continue
        for edit in _EDITS:
            place = 0
            while match := edit.pattern.search(raw, place):
                # Each column of a list is swapped with the one before and the one after it.
                swaps = edit.kind == "column swapped"
                place = match.start() + 1 if swaps else match.end()
                if not _fits(edit.kind, raw, match.start()):
                    continue
                first, last = (start + len(raw[:at].encode()) for at in match.span())
                mutant = Mutant(
                    kind=edit.kind,
                    start=first,
                    end=last,
                    new=match.expand(edit.new),
                    lines=lines,
                    function=function,
                    constant=names.get(lines[0]),
                )
                changed = mutant.applied(text)
                if compiles(changed) and ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text)):
                    found[mutant.start, mutant.end, mutant.new] = mutant
    return sorted(found.values(), key=lambda mutant: (mutant.start, mutant.end))


def _fits(kind: str, raw: str, place: int) -> bool:
    if kind in ("comparison", "term left out", "column not set"):
        if "PRAGMA" in raw:
            return False
        where = raw.find("WHERE")
        sets = "SET " in raw and (where < 0 or place < where)
        return sets == (kind == "column not set")
    return True


def _words(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    assert isinstance(node, ast.JoinedStr)
    return "".join(
        str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values
    )


def _strings(
    nodes: list[ast.stmt], function: int | None, lines: tuple[int, int]
) -> Iterator[tuple[ast.expr, tuple[int, int], int | None]]:
    for node in nodes:
        if isinstance(node, ast.Raise) or _is_text(node):
            continue
        inside = function
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and function is None:
            inside = first_line(node)
        statements = [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.stmt)]
        for handler in getattr(node, "handlers", ()):
            statements += handler.body
        own = (node.lineno, (node.end_lineno or node.lineno) if not statements else node.lineno)
        for part in ast.iter_child_nodes(node):
            if not isinstance(part, ast.stmt | ast.ExceptHandler):
                for string in _top_strings(part):
                    yield string, own, inside
        yield from _strings(statements, inside, own)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _top_strings(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    ):
        yield node
        return
    for part in ast.iter_child_nodes(node):
        yield from _top_strings(part)


if __name__ == "__main__":
    from .__main__ import main

    sys.exit(main(["--kind", "sql", *sys.argv[1:]]))
