"""A disk that fails: a real SQLite connection whose statements can be made to fail, hang or run out of pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from audit import AuditSettings, SqliteLedger
from audit.verify import verify


class Disk:
    """What the statements of every connection meet: the start of a statement → trouble before or after it."""

    def __init__(self) -> None:
        self.before: dict[str, Callable[[], None]] = {}
        self.after: dict[str, Callable[[], None]] = {}
        self.page_limit = 0
        self.attached = 0

    def connect(self, path: Path, **options: Any) -> sqlite3.Connection:
        self.attached += 1
        self.meet(self.before, "connect")
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
                disk.meet(disk.before, sql)
                cursor = super().execute(sql, *values)
                disk.meet(disk.after, sql)
                return cursor

            def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
                disk.meet(disk.before, sql)
                return super().executemany(sql, *values)

        connection = sqlite3.connect(path, factory=Connection, **options)
        if self.page_limit:
            connection.execute(f"PRAGMA max_page_count={self.page_limit}")
        return connection

    @staticmethod
    def meet(troubles: dict[str, Callable[[], None]], sql: str) -> None:
        for start, trouble in list(troubles.items()):
            if sql.startswith(start):
                trouble()

    def heal(self) -> None:
        self.before.clear()
        self.after.clear()


def failing(name: str, code: int) -> Callable[[], None]:
    def trouble() -> None:
        error = sqlite3.OperationalError(name)
        error.sqlite_errorcode, error.sqlite_errorname = code, name
        raise error

    return trouble


def settings_in(folder: Path, **changes: Any) -> AuditSettings:
    return AuditSettings(
        path=folder / "ledger.sqlite",
        signing_key=folder / "signing.key",
        origin="test.local/audit",
        writer="thread",  # a failing disk is put under a connection of this process
        retry_ms=10,
        **changes,
    )


async def opened(disk: Disk, settings: AuditSettings) -> SqliteLedger:
    ledger = SqliteLedger(settings, connect=disk.connect)
    await ledger.open()
    return ledger


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  the state is the ledger's, it has no event to give
            await anyio.sleep(0.002)


async def close_and_verify(ledger: SqliteLedger, settings: AuditSettings) -> None:
    await ledger.close()
    report = verify(settings.path, ledger.verifier_key)
    assert report.is_sound, report.faults
