"""How a mutant comes into a running process, and what can see it there."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

from .mutants import Mutant, constants


def relevant_lines(mutant: Mutant, source: str) -> Iterable[int]:
    """A test that runs none of these cannot see the mutant."""
    first, last = mutant.lines
    if mutant.kind == "loop":  # the condition before it jumps: the line itself is not run
        first -= 1
    if mutant.constant is None:
        return range(first, last + 1)
    return [
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and node.id == mutant.constant
        for line in range(max(1, node.lineno - 1), (node.end_lineno or node.lineno) + 2)
    ]


def put_in(path: Path, text: str, mutant: Mutant) -> None:
    """Give what ``mutant`` is in its code or value, wherever it is referred to."""
    if mutant.constant is None:
        _put_in_function(path, text, mutant)
    else:
        _put_in_constant(path, text, mutant.constant)


def _put_in_constant(path: Path, text: str, name: str) -> None:
    modules = [each for each in sys.modules.values() if hasattr(each, "__dict__")]
    home = next(each for each in modules if getattr(each, "__file__", None) == str(path))
    old = getattr(home, name)
    names = constants(ast.parse(text))
    for node in ast.parse(text).body:
        if names.get(node.lineno) == name:
            code = compile(ast.Module([node], []), str(path), "exec", dont_inherit=True)
            exec(code, vars(home))
    for module in modules:
        if vars(module).get(name) is old:
            setattr(module, name, getattr(home, name))


def _put_in_function(path: Path, text: str, mutant: Mutant) -> None:
    code = next(
        each
        for each in _functions(compile(text, str(path), "exec", dont_inherit=True))
        if each.co_firstlineno == mutant.function
    )
    found = 0
    gc.unfreeze()
    for function in gc.get_objects():
        if isinstance(function, FunctionType):
            own = function.__code__
            if (
                own.co_firstlineno == mutant.function
                and own.co_name == code.co_name
                and own.co_filename == str(path)
            ):
                function.__code__ = code
                found += 1
    if not found:
        raise RuntimeError(f"no function of line {mutant.function} of {path} is there")


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Functions of the module and of its classes, not those inside functions."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            is_function = bool(each.co_flags & 0x0002)  # CO_NEWLOCALS: no class body
            yield from [each] if is_function else _functions(each)
