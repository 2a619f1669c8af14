"""What is mutated, and which tests are to see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .mutants import Mutant, python_mutants
from .sql import sql_mutants

_SAME = "tests/stores/test_same_answers.py"
_SMALL = "tests/stores/test_small_promises.py"
_DEADLINES = "tests/polling/test_deadlines.py"
_RECORDS = (
    "tests/records/test_status.py",
    "tests/records/test_values.py",
    "tests/records/test_memory_store.py",
    "tests/records/test_records.py",
)
_KEEPING = (
    "tests/stores/test_compact.py",
    "tests/stores/test_copying.py",
    "tests/stores/test_backup.py",
)
_MEMORY = ("tests/records/test_records.py", "tests/records/test_memory_store.py")
_SQLITE = (_SMALL, _SAME, "tests/stores/sqlite", *_KEEPING)
_TINYDB = (
    _SMALL,
    _SAME,
    "tests/stores/test_tinydb.py",
    "tests/stores/test_tinydb_files.py",
    "tests/stores/test_tinydb_layout.py",
    "tests/stores/test_tinydb_tables.py",
    "tests/stores/test_tinydb_faults.py",
    *_KEEPING,
)
_CHECKING = ("tests/stores/test_checking.py",)
_READING = ("tests/stores/test_reading.py",)
_ADAPTED = (
    "tests/stores/test_adapted.py",
    "tests/stores/test_adapted_looks.py",
    "tests/stores/test_adapted_methods.py",
)
_STRANGERS = ("tests/stores/test_third_party.py",)
_FILE = (
    "tests/stores/sqlite/test_sqlite_forks.py::test_fork",
    "tests/stores/sqlite/test_sqlite_life.py::test_left_open_is_found",
    "tests/stores/sqlite/test_sqlite_idle.py::test_an_idle_poll_reads_nothing",
    "tests/stores/sqlite/test_sqlite_busy.py::test_a_busy_store_is_waited_for_five_seconds_of_its_clock",
)
_POLLING = (
    "tests/polling/test_tracking.py",
    "tests/polling/test_poller.py",
    "tests/polling/test_dispatch.py",
    "tests/polling/test_waiting.py",
    _DEADLINES,
    "tests/polling/test_trouble.py",
    "tests/clock/test_asyncio.py",
)

_WAITING = ("tests/polling/test_waiting.py", "tests/polling/test_trouble.py")
_CLOCKS = (
    "tests/clock/test_system_clock.py",
    "tests/clock/test_asyncio.py",
    "tests/clock/test_freeze.py",
    "tests/polling/test_dispatch.py",
)
_RESOURCES = ("tests/records/test_resources.py",)
_ERRORS = ("tests/records/test_errors.py",)
_PAGES = (
    "tests/records/test_render.py",
    "tests/polling/test_waiting.py",
)
_REDACTION = (
    "tests/security/test_redact.py",
    "tests/security/test_redact_setting.py",
    "tests/security/test_redacted_text.py",
)
_SECRETS = (*_REDACTION, "tests/plugin/test_redaction.py")

SLOW: Final = frozenset(
    {
        "test_a_store_that_answers_otherwise_is_found",
        "test_an_hour_passes_the_same_way_every_time",
        "test_eight_processes_create_it_at_once",
        "test_four_processes_write_at_once",
        "test_kill_9",
        "test_killed_at_some_system_calls",
        "test_kills_during_checkpoints_lose_nothing",
        "test_message_id_of_never_raises_anything_else",
        "test_nor_does_thread_id_of",
        "test_nothing_that_returned_is_missed",
        "test_processes",
        "test_small_form",
        "test_the_log_is_bounded_under_a_busy_reader",
        "test_one_that_never_rests",
        "test_ten_thousand_tracked_messages",
        "test_the_hammer_finds_a_store_that_is_blind_to_others",
        "test_thousands_of_messages",
        "test_what_is_known_keeps_up_with_many_threads",
        "test_what_somebody_reads_while_it_is_unfinished_is_no_backup",
        "test_what_json_holds_comes_back_as_it_was",
    }
)
"""Tests that take seconds each: only ``--slow`` runs them, for what the others left alive."""


@dataclass(frozen=True, slots=True)
class Target:
    """A file of the package, and the tests whose business it is."""

    path: str
    tests: tuple[str, ...]
    at_import: tuple[str, ...]
    """The few to try what is decided at import with: each mutant runs them from the start."""

    def mutants(self, source: str, kind: str) -> list[Mutant]:
        found = []
        if kind in ("python", "all"):
            found += python_mutants(source)
            if self.path == "status.py":
                found += table_mutants(source)
        if kind in ("sql", "all") and "sqlite" in self.path:
            found += sql_mutants(source)
        # A statement is a text, too; changing it so that it is none proves nothing.
        return found


TARGETS: Final = {
    target.path: target
    for target in (
        Target("status.py", _RECORDS, ("tests/records/test_status.py",)),
        Target("records.py", _RECORDS, _MEMORY),
        Target("stores/rules.py", (*_RECORDS, _SMALL, _SAME, _DEADLINES, *_KEEPING), _MEMORY),
        Target(
            "stores/core.py",
            (*_RECORDS, _SMALL, _SAME, _DEADLINES, *_FILE, *_REDACTION),
            (*_MEMORY, _SMALL),
        ),
        Target(
            "stores/memory.py",
            (*_RECORDS, _SMALL, _SAME, _DEADLINES, *_KEEPING),
            (*_MEMORY, "tests/conformance/test_catalogue.py"),
        ),
        Target("stores/sqlite_rows.py", _SQLITE, _SQLITE),
        Target("stores/sqlite_keeping.py", _SQLITE, _SQLITE),
        Target("stores/sqlite_link.py", _SQLITE, _SQLITE),
        Target("stores/sqlite.py", _SQLITE, _SQLITE),
        Target("stores/sqlite_check.py", (*_CHECKING, *_READING, *_KEEPING), _CHECKING),
        Target("stores/sqlite_quiet.py", (*_READING, *_CHECKING), _READING),
        Target("stores/sqlite_reading.py", (*_READING, *_KEEPING), _READING),
        Target(
            "stores/journal.py",
            ("tests/stores/test_journal.py", *_TINYDB),
            ("tests/stores/test_journal.py",),
        ),
        Target("stores/tinydb_image.py", _TINYDB, (_SMALL, _SAME)),
        Target("stores/tinydb_rows.py", _TINYDB, (_SMALL, _SAME)),
        Target("stores/tinydb.py", _TINYDB, (_SMALL, _SAME)),
        Target("stores/tinydb_tables.py", _TINYDB, ("tests/stores/test_tinydb_tables.py",)),
        Target(
            "stores/tinydb_check.py",
            (*_CHECKING, "tests/stores/test_tinydb_files.py", *_READING, *_KEEPING),
            _CHECKING,
        ),
        Target("stores/tinydb_reading.py", (*_READING, *_KEEPING), _READING),
        Target("stores/hub.py", (_SMALL, "tests/polling/test_poller.py", *_FILE), (_SMALL,)),
        Target(
            "stores/values.py",
            (*_RECORDS, _SMALL, _SAME, *_KEEPING[1:], "tests/stores/test_tinydb_tables.py"),
            ("tests/records/test_values.py",),
        ),
        Target(
            "stores/files.py",
            ("tests/stores/test_files.py", *_FILE, "tests/stores/test_tinydb_files.py", *_KEEPING),
            ("tests/stores/test_files.py",),
        ),
        Target("stores/keeping.py", (_SMALL, *_KEEPING), _KEEPING[:1]),
        Target("stores/copying.py", _KEEPING, _KEEPING[1:2]),
        Target("stores/backup.py", _KEEPING, _KEEPING[2:]),
        Target("stores/checking.py", (*_CHECKING, *_READING, *_KEEPING), _CHECKING),
        Target(
            "stores/invariants.py",
            ("tests/stores/test_invariants.py", *_CHECKING),
            ("tests/stores/test_invariants.py",),
        ),
        Target("stores/reports.py", (*_CHECKING, *_KEEPING), _CHECKING),
        Target("stores/legacy.py", (*_RECORDS, *_POLLING[:2]), _RECORDS[1:3]),
        Target("stores/schemes.py", (*_STRANGERS, "tests/security/test_redact.py"), _STRANGERS),
        Target("stores/requests.py", _ADAPTED, _ADAPTED),
        Target("stores/authoring.py", _STRANGERS, _STRANGERS),
        Target("stores/adapted.py", _ADAPTED, _ADAPTED),
        Target("stores/adapted_asking.py", _ADAPTED, _ADAPTED),
        Target("stores/adapted_calls.py", _ADAPTED, _ADAPTED),
        Target("stores/adapted_feed.py", _ADAPTED, _ADAPTED),
        Target("stores/adapted_reading.py", _ADAPTED, _ADAPTED),
        Target("stores/adapted_shapes.py", _ADAPTED, _ADAPTED),
        Target("tracking.py", _POLLING, ("tests/polling/test_tracking.py",)),
        Target("dispatch.py", _POLLING, ("tests/polling/test_dispatch.py",)),
        Target("following.py", _POLLING, ("tests/polling/test_poller.py",)),
        Target("waiting.py", _POLLING, _WAITING),
        Target("wait_page.py", _POLLING, _WAITING),
        Target("polling.py", _POLLING, ("tests/polling/test_poller.py", *_WAITING)),
        Target("clock.py", _CLOCKS, ("tests/clock/test_system_clock.py",)),
        Target("loop_wakeup.py", _CLOCKS, ("tests/clock/test_asyncio.py",)),
        Target("resources.py", _RESOURCES, _RESOURCES),
        Target("errors.py", (*_RECORDS, "tests/records/test_errors.py"), _ERRORS),
        Target("render.py", _PAGES, ("tests/records/test_render.py",)),
        Target("redaction.py", _REDACTION, ("tests/security/test_redact.py",)),
        Target("redacted_text.py", _REDACTION, ("tests/security/test_redacted_text.py",)),
        Target("secret_forms.py", _SECRETS, ("tests/security/test_redact.py",)),
    )
}

_WORDS = ("PENDING", "PROCESSING", "COMPLETE", "FAILED", "TIMEOUT", "CANCELLED", "UNKNOWN")


def table_mutants(source: str) -> list[Mutant]:
    """Each single flip of the tables in ``status.py``: who may follow whom, who ends."""
    end = len(source.encode())

    def mutant(table: str, value: str) -> Mutant:
        return Mutant(
            kind="table",
            start=end,
            end=end,
            new=f"\n{table} = {value}\n",
            lines=(1, 1),
            function=None,
            constant=table,
        )

    flips = []
    for before in _WORDS[:-1]:
        for after in _WORDS:
            flip = f"TRANSITIONS[MessageStatus.{before}] ^ {{MessageStatus.{after}}}"
            flips.append(
                mutant(
                    "TRANSITIONS",
                    f"MappingProxyType({{**TRANSITIONS, MessageStatus.{before}: {flip}}})",
                )
            )
    for table in ("TERMINAL", "STORABLE"):
        flips += [mutant(table, f"{table} ^ {{MessageStatus.{word}}}") for word in _WORDS]
    return flips
