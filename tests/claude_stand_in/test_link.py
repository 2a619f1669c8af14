"""The test's end of the channel to a stand-in."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_TO_NOBODY = """
import signal, socket
from pytest_claude_comms.testing.claude_link import GONE, Link
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
ours, theirs = socket.socketpair()
link = Link(ours)
theirs.close()
link.send("x", b"content")
print(link.next(0) == GONE)
link._woken.close()
link.wake()
print("woken")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="no such signal here")
def test_a_program_that_takes_sigpipe_outlives_a_stand_in_that_is_gone() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _TO_NOBODY], stdout=subprocess.PIPE, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "True\nwoken\n")
