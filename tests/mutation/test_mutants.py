"""The faults that ``python -m tests.mutation`` plants are the ones it says."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import pytest_claude_comms

from .mutants import Mutant, python_mutants
from .planting import put_in
from .sql import sql_mutants
from .targets import TARGETS, table_mutants

PACKAGE = Path(inspect.getfile(pytest_claude_comms)).parent


def shown(mutants: list[Mutant], source: str) -> list[str]:
    return [mutant.shown(source) for mutant in mutants]


@pytest.mark.parametrize(
    ("line", "mutants"),
    [
        ("return a < b", ["a < b → None", "< → <=", "< → >="]),
        ("return not a", ["not a → None", "not a → (a)"]),
        ("if f(): a = 1", ["f() → (not (f()))", "1 → None", "1 → 2"]),
        ("a += b", ["+= → =", "+= → -="]),
        ("return a is not b and c", ["a is not b and c → None", "and → or", "is not → is"]),
        ("f(a, key=b)", ["f(a, key=b) → pass", "a → None", "b → None"]),
        ("raise E(f'no {name}', 'text', 3)", ["{name} → {None}", "3 → 4"]),
        ("a: int = 1", ["1 → None", "1 → 2"]),
        ("a: 'int'", []),
        ("assert a == 1, 'text'", []),
        ("'''a docstring'''", []),
        ("for a in b: break", ["break → continue"]),
        ("return {'ä', 'b'}", ["{'ä', 'b'} → None", ", 'b' → ", "'ä' → 'XXäXX'", "'b' → 'XXbXX'"]),
    ],
)
def test_python(line: str, mutants: list[str]) -> None:
    source = f"def f():\n    {line}\n"
    found = [each.strip() for each in shown(python_mutants(source), source)]
    whole = [f"{line} → pass"] if line.startswith("raise") else []
    assert found == [*whole, *(each.strip() for each in mutants)]
    assert all(mutant.function == 1 for mutant in python_mutants(source))


@pytest.mark.parametrize(
    ("statement", "mutants"),
    [
        (
            "SELECT a, b FROM t WHERE a > ? AND b = ? ORDER BY a LIMIT 1",
            {
                "a, b → b, a",
                "> → >=",
                "> → <=",
                "= → <>",
                "a > ? → (a > ? OR TRUE)",
                "b = ? → (b = ? OR TRUE)",
                "AND → OR",
                "ORDER BY a → ",
                "ORDER BY a → ORDER BY a DESC",
                "LIMIT 1 → LIMIT 1 + 1",
                "LIMIT 1 → ",
            },
        ),
        (
            "UPDATE t SET a = ?, b = ? WHERE c = ?",
            {
                "a = ?, b = ? → b = ?, a = ?",
                "a = ? → a = CASE WHEN TRUE THEN a ELSE ? END",
                "b = ? → b = CASE WHEN TRUE THEN b ELSE ? END",
                "= → <>",
                "c = ? → (c = ? OR TRUE)",
            },
        ),
        ("BEGIN IMMEDIATE", {"BEGIN IMMEDIATE → BEGIN"}),
        (
            "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT NOT NULL UNIQUE)",
            {
                "AUTOINCREMENT → ",
                "PRIMARY KEY AUTOINCREMENT → ",
                "NOT NULL → ",
                "UNIQUE → ",
            },
        ),
        ("no statement at all, and > nothing", set()),
    ],
)
def test_sql(statement: str, mutants: set[str]) -> None:
    source = f"def f(db):\n    db.execute('{statement}')\n"
    assert set(shown(sql_mutants(source), source)) == mutants


def test_the_tables_of_statuses() -> None:
    source = (PACKAGE / "status.py").read_text(encoding="utf-8")
    # 6 statuses that can be stored by 7 that there are, and two sets of the 7.
    assert len({mutant.new for mutant in table_mutants(source)}) == 6 * 7 + 2 * 7


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_there(name: str) -> None:
    target = TARGETS[name]
    assert (PACKAGE / name).is_file()
    root = Path(__file__).resolve().parents[2]  # the package may be an installed one
    for test in (*target.tests, *target.at_import):
        file, _, name = test.partition("::")
        assert f"def {name}" in (root / file).read_text(encoding="utf-8")


def test_a_function_gets_the_mutants_code_wherever_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "planted.py"
    path.write_text(
        "from contextlib import contextmanager\n"
        "LEAST = 5\n"
        "class A:\n"
        "    @property\n"
        "    def is_high(self):\n"
        "        return self.value > LEAST\n"
        "    @contextmanager\n"
        "    def held(self):\n"
        "        yield 1\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    import planted  # type: ignore[import-not-found]

    a = planted.A()
    a.value = 5
    source = path.read_text(encoding="utf-8")
    found = {mutant.shown(source): mutant for mutant in python_mutants(source)}
    assert not a.is_high
    put_in(path, found["> → >="].applied(source), found["> → >="])
    assert a.is_high
    put_in(path, found["1 → 2"].applied(source), found["1 → 2"])
    with a.held() as held:
        assert held == 2
    put_in(path, found["5 → 6"].applied(source), found["5 → 6"])
    assert planted.LEAST == 6
