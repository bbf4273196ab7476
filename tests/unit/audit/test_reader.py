"""Readers believe what is stored, and say so in words when it is nothing that a ledger writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from audit import AuditError, AuditSettings, LedgerCorrupt, LedgerReader, SqliteLedger, new_event_id
from audit.entry import canonical


@pytest.fixture
async def reader(settings: AuditSettings) -> LedgerReader:
    ledger = SqliteLedger(settings)
    await ledger.open()
    await ledger.append("note", {})
    await ledger.close()
    return LedgerReader(settings.path)


def change(settings: AuditSettings, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(settings.path)) as connection, connection:
        connection.execute(statement, values)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        canonical({"kind": 1, "event_id": "x", "time_ms": 1}),
        canonical({"kind": "note", "event_id": None, "time_ms": 1}),
        canonical({"kind": "note", "event_id": "x", "time_ms": "now"}),
        5,
    ],
)
async def test_a_body_that_no_ledger_writes_is_said_to_be_one(
    reader: LedgerReader, settings: AuditSettings, body: object
) -> None:
    change(settings, "UPDATE log SET body = ? WHERE idx = 1", body)
    for reading in (reader.read, lambda: reader.get(1)):
        with pytest.raises(LedgerCorrupt, match="record 1"):
            reading()


@pytest.mark.parametrize("statement", ["DELETE FROM head", "UPDATE head SET frontier = x'00', size = 'many'"])
async def test_a_ledger_without_its_head_is_corrupt(
    reader: LedgerReader, settings: AuditSettings, statement: str
) -> None:
    change(settings, statement)
    for reading in (reader.head, lambda: reader.inclusion_proof(0), lambda: reader.find(new_event_id())):
        with pytest.raises(AuditError):
            reading()


async def test_what_is_no_event_id_is_not_sought(tmp_path: Path) -> None:
    assert LedgerReader(tmp_path / "absent").find("anything") is None


async def test_an_index_beyond_every_ledger_is_just_not_there(reader: LedgerReader) -> None:
    assert reader.get(10**20) is None
    assert reader.read(after=10**20) == []
    assert len(reader.read(limit=10**20)) == 2
