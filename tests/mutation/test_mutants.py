"""The faults that ``python -m tests.mutation`` plants are the ones it says."""

from __future__ import annotations

import inspect
from itertools import pairwise
from pathlib import Path

import pytest

import pytest_claude_comms

from .choosing import of_functions, sampled
from .mutants import Mutant, python_mutants
from .planting import put_in, relevant_lines
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
        ("a: TypeAlias = dict[str, 'int']", []),
        ("a: TypeAlias = Literal['b']", ["Literal['b'] → None", "'b' → 'XXbXX'"]),
        ("a = TypeVar('a', bound='int')", []),
        ("if TYPE_CHECKING: import a", []),
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
        where, _, name = test.partition("::")
        files = [root / where] if where.endswith(".py") else [*(root / where).glob("test_*.py")]
        assert any(f"def {name}" in file.read_text(encoding="utf-8") for file in files), test


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


_TWO = "def f(a):\n    return a < 1\n\n\ndef g(a):\n    b = a + 2\n    return b\n"


def test_a_sample_is_the_same_for_the_same_seed_and_grows_into_a_larger_one() -> None:
    mutants = python_mutants(_TWO)
    samples = [sampled(mutants, _TWO, count, 7) for count in range(len(mutants) + 2)]
    assert [len(each) for each in samples] == [*range(len(mutants) + 1), len(mutants)]
    for smaller, larger in pairwise(samples):
        assert larger == [mutant for mutant in mutants if mutant in larger]
        assert set(smaller) <= set(larger)
    assert sampled(mutants, _TWO, 3, 7) == samples[3]
    assert len({tuple(sampled(mutants, _TWO, 3, seed)) for seed in range(20)}) > 1


def test_a_sample_stays_when_other_lines_change() -> None:
    longer = "import os\n\n" + _TWO
    before = shown(sampled(python_mutants(_TWO), _TWO, 4, 7), _TWO)
    assert shown(sampled(python_mutants(longer), longer, 4, 7), longer) == before


def test_the_mutants_of_one_function() -> None:
    mutants = of_functions(python_mutants(_TWO), _TWO, ["g"])
    assert shown(mutants, _TWO) == ["a + 2 → None", "+ → -", "2 → 3", "b → None"]


def test_who_reaches_the_condition_of_a_continue_can_see_it() -> None:
    source = "def f(a):\n    for b in a:\n        if b:\n            continue\n        g(b)\n"
    (mutant,) = (each for each in python_mutants(source) if each.kind == "loop")
    assert list(relevant_lines(mutant, source)) == [3, 4]
