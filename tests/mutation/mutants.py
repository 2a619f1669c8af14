"""Small faults to plant in a file: its mutants, each an edit of its text."""

from __future__ import annotations

import ast
import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, TypeAlias

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
Block: TypeAlias = "ast.stmt | ast.ExceptHandler | ast.match_case"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """The text of a file with the bytes from ``start`` to ``end`` replaced by ``new``."""

    kind: str
    """What sort of fault it is."""
    start: int
    end: int
    new: str
    lines: tuple[int, int]
    """First and last line of the statement: a test that runs none of them cannot see it."""
    function: int | None
    """First line, decorators included, of the outermost function around; None at import."""
    constant: str | None = None
    """The name at the top of the module that the statement gives a value."""

    def applied(self, source: str) -> str:
        text = source.encode()
        return (text[: self.start] + self.new.encode() + text[self.end :]).decode()

    def line(self, source: str) -> int:
        return source.encode()[: self.start].count(b"\n") + 1

    def shown(self, source: str) -> str:
        """``old`` → ``new``, on one line."""
        old = " ".join(source.encode()[self.start : self.end].decode().split())
        return f"{old} → {' '.join(self.new.split())}" if old else f"+ {self.new.strip()}"


_COMPARISONS: Final[dict[type[ast.cmpop], tuple[str, ...]]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
_ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "/",
    ast.Mod: "/",
    ast.Pow: "*",
    ast.BitAnd: "|",
    ast.BitOr: "&",
    ast.BitXor: "&",
    ast.LShift: ">>",
    ast.RShift: "<<",
}
_WORDED: Final = re.compile(r"(?<!\{)\{(?!\{)[^{}]+\}(?!\})")
"""What is filled into an f-string."""


class Source:
    """A file's text, and where the nodes of its tree lie in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.bytes = text.encode()
        lines = self.bytes.splitlines(keepends=True)
        self._offsets = [0, *accumulate(map(len, lines))]

    def start(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg) -> int:
        return self._offsets[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt | ast.keyword | ast.arg) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offsets[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> str:
        return self.bytes[self.start(node) : self.end(node)].decode()

    def line(self, offset: int) -> int:
        return bisect_right(self._offsets, offset)


def first_line(function: Function) -> int:
    """As a code object's ``co_firstlineno`` says it."""
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])


def constants(tree: ast.Module) -> dict[int, str]:
    """The names that a module gives a value when it is imported, by the line where it does."""
    found = {}
    for node in tree.body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)])
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr())
            ):
                found[node.lineno] = name
    return found


def python_mutants(text: str) -> list[Mutant]:
    """All mutants of a Python file but those of its SQL.

    The wording of what is raised stays as it is, what is filled into it does not. Annotations,
    names of types, docstrings and asserts, which are there for readers and type checkers, are
    left alone.
    """
    found = _Mutator(text)
    found.block(ast.parse(text).body, None)
    return [mutant for mutant in found.mutants if compiles(mutant.applied(text))]


def compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Mutator:
    def __init__(self, text: str) -> None:
        self.source = Source(text)
        self.mutants: list[Mutant] = []
        self._constants = constants(ast.parse(text))
        self._lines = (0, 0)
        self._function: int | None = None
        self._constant_name: str | None = None

    def _add(self, kind: str, start: int, end: int, new: str) -> None:
        self.mutants.append(
            Mutant(
                kind=kind,
                start=start,
                end=end,
                new=new,
                lines=self._lines,
                function=self._function,
                constant=self._constant_name,
            )
        )

    def _replace(self, kind: str, node: ast.expr | ast.stmt, new: str) -> None:
        self._add(kind, self.source.start(node), self.source.end(node), new)

    # -- statements

    def block(self, statements: Iterable[Block], function: int | None) -> None:
        for statement in statements:
            self._statement(statement, function)

    def _statement(self, node: Block, function: int | None) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            self._at(node.lineno, node.body[0].lineno - 1, function)
            for default in [*node.args.defaults, *filter(None, node.args.kw_defaults)]:
                self._expression(default)
            for decorator in node.decorator_list:
                self._expression(decorator)
            self.block(node.body, first_line(node) if function is None else function)
            return
        header = [each for each in ast.iter_child_nodes(node) if isinstance(each, ast.expr)]
        blocks = [
            part
            for name in ("body", "handlers", "cases", "orelse", "finalbody")
            for part in getattr(node, name, ())
        ]
        if isinstance(node, ast.With | ast.AsyncWith):
            header = [item.context_expr for item in node.items]
        if isinstance(node, ast.stmt):
            ends = [each.end_lineno or 0 for each in header]
            last = max([node.lineno, *ends]) if blocks else node.end_lineno or node.lineno
            self._at(node.lineno, last, function)
            self._constant_name = self._constants.get(node.lineno)
            self._own(node, header)
            self._constant_name = None
        self.block(blocks, function)

    def _at(self, first: int, last: int, function: int | None) -> None:
        self._lines = (first, max(first, last))
        self._function = function

    def _own(self, node: ast.stmt, header: list[ast.expr]) -> None:
        match node:
            case ast.Assert() | ast.ClassDef() | ast.Import() | ast.ImportFrom():
                return
            case ast.Expr(value=ast.Constant()) | ast.AnnAssign(value=None):
                return
            case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")) if not _is_literal(node):
                return
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
                return
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                return
            case ast.If(test=test) | ast.While(test=test):
                self._condition(test)
            case ast.Return(value=ast.expr() as value) if not _is_none(value):
                self._replace("return", value, "None")
                self._expression(value)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                if not _is_none(value):
                    self._replace("assignment", value, "None")
                self._expression(value)
            case ast.AugAssign(value=value):
                operator = _ARITHMETIC[type(node.op)]
                between = (self.source.end(node.target), self.source.start(value))
                self._add("assignment", *between, " = ")
                self._add("arithmetic", *between, f" {operator}= ")
                self._expression(value)
            case ast.Expr(value=value):
                if not isinstance(value, ast.Yield | ast.YieldFrom):
                    self._replace("call left out", node, "pass")
                self._expression(value)
            case ast.Raise():
                self._replace("raise left out", node, "pass")
                for part in header:
                    self._expression(part, worded=True)
            case ast.Delete():
                self._replace("del left out", node, "pass")
            case ast.Break():
                self._replace("loop", node, "continue")
            case ast.Continue():
                self._replace("loop", node, "break")
            case ast.For(iter=value) | ast.AsyncFor(iter=value):
                self._expression(value)
            case _:
                for part in header:
                    self._expression(part)

    # -- expressions

    def _condition(self, node: ast.expr) -> None:
        if not isinstance(node, ast.Compare | ast.BoolOp) and not _is_not(node):
            self._replace("condition", node, f"(not ({self.source.of(node)}))")
        self._expression(node)

    def _expression(self, node: ast.expr, *, worded: bool = False) -> None:
        match node:
            case ast.JoinedStr():
                self._filled(node)
                return
            case ast.Constant():
                self._constant(node, worded=worded)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                self._replace("not", node, f"({self.source.of(operand)})")
            case ast.BoolOp(values=values):
                other = "or" if isinstance(node.op, ast.And) else "and"
                for left, right in pairwise(values):
                    self._between("and/or", left, right, r"\b(and|or)\b", other)
            case ast.Compare():
                for operator, (left, right) in zip(
                    node.ops, pairwise([node.left, *node.comparators]), strict=True
                ):
                    for other in _COMPARISONS[type(operator)]:
                        self._between(
                            "comparison",
                            left,
                            right,
                            r"[<>=!]+|\bis\s+not\b|\bis\b|\bnot\s+in\b|\bin\b",
                            other,
                        )
            case ast.BinOp():
                other = _ARITHMETIC[type(node.op)]
                self._between("arithmetic", node.left, node.right, r"[-+*/%&|^<>]+", other)
            case ast.IfExp(test=test):
                self._condition(test)
                for part in (node.body, node.orelse):
                    self._expression(part, worded=worded)
                return
            case ast.Call():
                self._call(node, worded=worded)
                return
            case ast.Set(elts=[_, _, *_]) | ast.Tuple(elts=[_, _, *_]) | ast.List(elts=[_, _, *_]):
                for before, left_out in pairwise(node.elts):
                    self._add(
                        "element left out", self.source.end(before), self.source.end(left_out), ""
                    )
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.expr):
                self._expression(inner, worded=worded)
            elif isinstance(inner, ast.comprehension):
                self._expression(inner.iter)
                for condition in inner.ifs:
                    self._condition(condition)

    def _between(
        self, kind: str, left: ast.expr, right: ast.expr, operator: str, other: str
    ) -> None:
        start = self.source.end(left)
        between = self.source.bytes[start : self.source.start(right)].decode()
        found = re.search(operator, between)
        assert found is not None
        first, last = (len(between[:place].encode()) for place in found.span())
        self._add(kind, start + first, start + last, other)

    def _constant(self, node: ast.Constant, *, worded: bool) -> None:
        value = node.value
        if isinstance(value, bool):
            self._replace("constant", node, str(not value))
        elif isinstance(value, int | float):
            self._replace("constant", node, repr(value + 1))
        elif isinstance(value, str) and not worded:
            self._replace("text", node, repr(f"XX{value}XX"))
        elif isinstance(value, bytes):
            self._replace("text", node, repr(b"XX" + value))

    def _filled(self, node: ast.JoinedStr) -> None:
        # Before Python 3.12 the nodes inside do not know where they are.
        start, text = self.source.start(node), self.source.of(node)
        for found in _WORDED.finditer(text):
            first, last = (start + len(text[:place].encode()) for place in found.span())
            self._add("filled in", first, last, "{None}")

    def _call(self, node: ast.Call, *, worded: bool) -> None:
        for argument in node.args:
            if not isinstance(argument, ast.Starred | ast.Constant | ast.JoinedStr):
                self._replace("argument", argument, "None")
            self._expression(argument, worded=worded)
        for keyword in node.keywords:
            if keyword.arg is not None and not isinstance(keyword.value, ast.Constant):
                self._replace("argument", keyword.value, "None")
            self._expression(keyword.value, worded=worded)
        self._expression(node.func)


def _is_literal(node: ast.AnnAssign) -> bool:
    """Whether it is a type whose words a program may ask for."""
    return isinstance(node.value, ast.Subscript) and ast.unparse(node.value.value) == "Literal"


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
