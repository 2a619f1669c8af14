"""For all tests: what the shell that started them has ignored is not ignored in them."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # A script's background job has SIGINT and SIGQUIT ignored, `nohup` SIGHUP. Children inherit
    # that, and some tests are about what a child does then; a handler of ours they do not.
    for name in ("SIGINT", "SIGQUIT", "SIGHUP", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
            signal.signal(number, default)
