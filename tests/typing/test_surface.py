"""The public surface: complete, sorted, and as typed as it looks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import pytest_claude_comms
import pytest_claude_comms.testing

SURFACE = Path(__file__).with_name("surface.py")


@pytest.mark.parametrize("module", [pytest_claude_comms, pytest_claude_comms.testing])
def test_every_name_is_there_sorted_and_listed_by_dir(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert set(names) <= set(dir(module))
    for name in names:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        module.no_such_name  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize("module", [pytest_claude_comms, pytest_claude_comms.testing])
def test_lazy_names_are_exactly_the_listed_ones(module: object) -> None:
    lazy = set(module._HOME_OF)  # type: ignore[attr-defined]
    assert lazy | {"__version__"} == set(module.__all__) | {"__version__"}  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_else() -> None:
    script = (
        "import sys, pytest_claude_comms\n"
        "print([m for m in sys.modules if m.startswith('pytest_claude_comms.')])"
    )
    root = Path(pytest_claude_comms.__file__).parents[1]
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "['pytest_claude_comms._version']"


def test_the_surface_has_the_types_that_it_says() -> None:
    mypy = pytest.importorskip("mypy.api", reason="mypy comes with the dev extra")
    out, err, code = mypy.run(["--strict", "--no-incremental", str(SURFACE)])
    assert (code, err) == (0, ""), out
