"""For all tests: what the shell that started them has ignored is not ignored in them, properties
have no time limit, and a Python that forks short runs of pytest."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.warm_python import WarmPython

if find_spec("hypothesis") is not None:  # what needs it is collected only where it is installed
    import tests.properties  # noqa: F401 - here, because settings() takes the profile loaded by then


def pytest_configure() -> None:
    # A script's background job has SIGINT and SIGQUIT ignored, `nohup` SIGHUP. Children inherit
    # that, and some tests are about what a child does then; a handler of ours they do not.
    for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, default)


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython | None]:
    """None where nothing can be forked."""
    if not hasattr(os, "fork"):
        yield None
        return
    python = WarmPython()
    yield python
    python.close()
