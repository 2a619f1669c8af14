"""The conformance kit: what a conversation store promises, one numbered contract at a time.

A third party subclasses :class:`StoreConformance`, or runs
``pytest_claude_comms.testing.run_conformance``. Numbers never change their meaning; ``VERSION``
goes up when contracts are added.
"""

from __future__ import annotations

VERSION = "1.1"
