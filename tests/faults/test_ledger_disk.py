"""Each step of an append fails in turn: the caller is refused in time, nothing is guessed, the ledger heals."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from audit import (
    AuditUnavailable,
    IntentNotOpen,
    LedgerInUse,
    LedgerReader,
    LedgerReceipt,
    SqliteLedger,
    log,
    new_event_id,
)
from audit.merkle import Frontier, leaf_hash
from audit.store.sqlite import SqliteStore
from audit.verify import verify
from tests.faults.failing_disk import Disk, close_and_verify, failing, opened, settings_in, until

LONG = "x" * 3000
SHORT_S = 1.0  # a stall limit short enough to wait for, long enough for a busy machine's honest fsync
STEPS = ("BEGIN", "INSERT INTO log", "INSERT INTO open_intent", "DELETE FROM open_intent", "UPDATE head", "COMMIT")


@pytest.mark.parametrize("step", STEPS)
async def test_a_step_that_fails_refuses_the_call_and_the_ledger_heals(tmp_path: Path, step: str) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    first = await ledger.append("intent", {}, opens=True)
    size = ledger.head.size

    disk.before[step] = failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)
    closing_one = step == "DELETE FROM open_intent"
    pairing: dict[str, Any] = {"closes": first.event_id} if closing_one else {"opens": True}
    with pytest.raises(AuditUnavailable, match="io_error"):
        await ledger.append("outcome" if closing_one else "intent", {}, **pairing)
    assert not ledger.is_writable
    with pytest.raises(AuditUnavailable):
        await ledger.append("note", {})
    assert LedgerReader(settings.path).head().size == size

    disk.heal()
    await until(lambda: ledger.is_writable)
    receipt = await ledger.append("note", {})
    assert receipt.index >= size
    (told,) = ledger.read(kinds=["sink.failed"])
    assert told.body["failure"]["reason"] == "io_error"
    assert len(ledger.read(kinds=["note"])) == 1, "what was refused in trouble is no outcome and not kept"
    await close_and_verify(ledger, settings)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_FULL, "disk_full"),
        (sqlite3.SQLITE_READONLY, "read_only"),
        (sqlite3.SQLITE_BUSY, "locked"),
        (sqlite3.SQLITE_IOERR | 4 << 8, "io_error"),  # SQLITE_IOERR_FSYNC
    ],
)
async def test_the_reason_is_a_stable_word(tmp_path: Path, code: int, reason: str) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    disk.before["COMMIT"] = failing("as SQLite says it", code)
    with pytest.raises(AuditUnavailable) as refusal:
        await ledger.append("note", {})
    assert refusal.value.reason == ledger.trouble == reason
    disk.heal()
    await until(lambda: ledger.is_writable)
    await close_and_verify(ledger, settings)


async def test_a_commit_that_succeeded_but_said_it_failed_is_acknowledged(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    attached = disk.attached

    def fail_once() -> None:
        disk.heal()
        failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)()

    disk.after["COMMIT"] = fail_once
    receipt = await ledger.append("intent", {"number": 1}, opens=True)
    assert disk.attached > attached, "nobody looked again"
    assert ledger.read(after=receipt.index - 1)[0].body["number"] == 1
    await until(lambda: ledger.is_writable)
    assert (await ledger.append("note", {})).index > receipt.index
    (told,) = ledger.read(kinds=["sink.failed"])
    assert told.body["failure"]["reason"] == "io_error"
    await ledger.append("outcome", {}, closes=receipt.event_id)
    await close_and_verify(ledger, settings)


async def test_while_the_head_cannot_be_read_the_caller_is_refused_and_its_intent_closed_later(tmp_path: Path) -> None:
    """The commit happened, nobody could know: the caller hears no, and the ledger does not leave the intent open."""
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    disk.after["COMMIT"] = failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)
    disk.before["SELECT size"] = failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)
    with pytest.raises(AuditUnavailable):
        await ledger.append("intent", {}, opens=True)
    disk.heal()
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})
    assert ledger.open_intents() == {}
    (outcome,) = ledger.read(kinds=["outcome"])
    assert outcome.body["outcome"] == {"status": "cancelled", "error": "unacknowledged"}
    await close_and_verify(ledger, settings)


async def test_an_intent_that_the_disk_refused_may_be_tried_again(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    event_id = new_event_id()
    disk.before["COMMIT"] = failing("SQLITE_FULL", sqlite3.SQLITE_FULL)
    with pytest.raises(AuditUnavailable):
        await ledger.append("intent", {}, event_id=event_id, opens=True)
    disk.heal()
    await until(lambda: ledger.is_writable)
    receipt = await ledger.append("intent", {}, event_id=event_id, opens=True)
    assert ledger.open_intents() == {event_id: receipt.index}
    await close_and_verify(ledger, settings)


async def test_an_outcome_refused_in_trouble_is_written_when_the_disk_heals(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    intents = [await ledger.append("intent", {}, opens=True) for _ in range(2)]
    disk.before["COMMIT"] = failing("SQLITE_FULL", sqlite3.SQLITE_FULL)
    for number, intent in enumerate(intents):  # the first fails at the commit, the second is refused at the door
        with pytest.raises(AuditUnavailable):
            await ledger.append("outcome", {"outcome": {"status": "ok"}, "number": number}, closes=intent.event_id)
    with pytest.raises(IntentNotOpen):
        await ledger.append("outcome", {}, closes=intents[0].event_id)
    disk.heal()
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})
    outcomes = ledger.read(kinds=["outcome"])
    assert [(record.body["closes"], record.body["number"], record.body["late"]) for record in outcomes] == [
        (intents[0].event_id, 0, True),
        (intents[1].event_id, 1, True),
    ]
    assert ledger.open_intents() == {}
    await close_and_verify(ledger, settings)


async def test_a_full_disk_refuses_keeps_what_was_acknowledged_and_resumes(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    disk.page_limit = 40
    ledger = await opened(disk, settings)
    receipts = await fill(ledger)
    assert len(receipts) > 10
    assert ledger.trouble == "disk_full"
    for receipt in receipts:
        found = ledger.find(receipt.event_id)
        assert found is not None
        assert found.leaf_hash == receipt.leaf_hash
    await until(lambda: ledger.is_writable)  # a short record still fits, and says what happened
    assert await fill(ledger) == [], "but a long one does not"
    disk.page_limit = 4000
    await until(lambda: ledger.is_writable)
    if await refusal_of(ledger) is not None:  # healed on the old connection; the next one has the new limit
        await until(lambda: ledger.is_writable)
    receipts += await asyncio.gather(*(ledger.append("note", {"text": LONG}) for _ in range(50)))
    await ledger.close()
    assert verify(settings.path, ledger.verifier_key, since=receipts).is_sound


async def refusal_of(ledger: SqliteLedger) -> str | None:
    try:
        await ledger.append("note", {"text": LONG})
    except AuditUnavailable as refusal:
        return refusal.reason
    return None


async def fill(ledger: SqliteLedger) -> list[LedgerReceipt]:
    """Append until the ledger refuses."""
    receipts: list[LedgerReceipt] = []
    while True:
        try:
            receipts.append(await ledger.append("note", {"text": LONG}))
        except AuditUnavailable:
            return receipts


async def test_a_hung_disk_refuses_within_the_stall_limit_and_everybody(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    size = ledger.head.size
    hangs, resumes = threading.Event(), threading.Event()

    def hang() -> None:
        hangs.set()
        assert resumes.wait(60), "never resumed"

    disk.before["COMMIT"] = hang
    with anyio.fail_after(50):  # a hang would be a minute
        first = asyncio.ensure_future(ledger.append("intent", {}, opens=True))
        await until(hangs.is_set)
        others = [ledger.append("intent", {}, opens=True) for _ in range(20)]
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert {str(result) for result in results} == {"stalled"}
        with pytest.raises(AuditUnavailable, match="stalled"):
            await ledger.append("note", {})
        assert await ledger.probe() is False
    resumes.set()
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})
    assert ledger.open_intents() == {}, "what the hung commit wrote after all is closed"
    assert len(ledger.read(kinds=["intent"])) == len(ledger.read(kinds=["outcome"])) == 1, "others were refused in time"
    assert ledger.head.size > size
    await close_and_verify(ledger, settings)


async def test_a_disk_that_is_slow_within_the_limit_refuses_nobody(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=8 * SHORT_S)
    ledger = await opened(disk, settings)
    resumes = threading.Event()
    disk.before["COMMIT"] = lambda: None if resumes.wait(60) else pytest.fail("never resumed")
    waiting, watch = asyncio.ensure_future(ledger.append("note", {})), ledger._watch
    await until(lambda: ledger._watch is not watch)  # looked after
    resumes.set()
    await waiting
    assert ledger.trouble is None
    await close_and_verify(ledger, settings)


async def test_a_disk_that_hangs_after_a_time_without_work_refuses_as_well(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    await until(lambda: ledger._watch is None)  # nobody to look after
    resumes = threading.Event()
    disk.before["COMMIT"] = lambda: None if resumes.wait(60) else pytest.fail("never resumed")
    with anyio.fail_after(50), pytest.raises(AuditUnavailable, match="stalled"):
        await ledger.append("note", {})
    resumes.set()
    await until(lambda: ledger.is_writable)
    await close_and_verify(ledger, settings)


async def test_a_probe_finds_a_hung_disk_before_any_call_does(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    resumes = threading.Event()
    disk.before["BEGIN"] = lambda: None if resumes.wait(60) else pytest.fail("never resumed")
    orphan = asyncio.ensure_future(ledger.append("note", {}))
    await asyncio.sleep(0)
    assert await ledger.probe() is False
    with pytest.raises(AuditUnavailable):
        await orphan
    resumes.set()
    await until(lambda: ledger.is_writable)
    assert await ledger.probe() is True
    await close_and_verify(ledger, settings)


async def test_closing_does_not_wait_for_a_hung_disk(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    resumes = threading.Event()
    disk.before["COMMIT"] = lambda: None if resumes.wait(60) else pytest.fail("never resumed")
    waiting = asyncio.ensure_future(ledger.append("note", {}))
    await asyncio.sleep(0)
    with anyio.fail_after(50):
        await ledger.close()
        with pytest.raises(AuditUnavailable):
            await waiting
    resumes.set()
    await anyio.to_thread.run_sync(ledger._writer.join)


async def test_closing_in_trouble_acknowledges_nothing_and_waits_for_no_store(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    disk.before["COMMIT"] = failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)
    disk.before["SELECT size"] = failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)
    waiting = asyncio.ensure_future(ledger.append("note", {}))
    await until(lambda: ledger.trouble == "io_error")
    await ledger.close()
    with pytest.raises(AuditUnavailable):
        await waiting
    await anyio.to_thread.run_sync(ledger._writer.join, 50)
    assert not ledger._writer.is_alive()


async def test_a_full_queue_refuses_new_intents_but_not_outcomes(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, queue_limit=4)
    ledger = await opened(disk, settings)
    intent = await ledger.append("intent", {}, opens=True)
    resumes = threading.Event()
    disk.before["COMMIT"] = lambda: None if resumes.wait(60) else pytest.fail("never resumed")
    waiting = [asyncio.ensure_future(ledger.append("note", {})) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(AuditUnavailable, match="queue_full"):
        await ledger.append("note", {})
    waiting.append(asyncio.ensure_future(ledger.append("outcome", {}, closes=intent.event_id)))
    await asyncio.sleep(0)
    resumes.set()
    await asyncio.gather(*waiting)
    await close_and_verify(ledger, settings)


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_deleted_or_replaced_is_noticed_and_never_recreated(tmp_path: Path, replaced: bool) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    await ledger.append("note", {})
    away = tmp_path / "away.sqlite"
    settings.path.rename(away)
    if replaced:
        settings.path.write_bytes(away.read_bytes())
    assert await ledger.probe() is False
    assert not ledger.is_writable
    with pytest.raises(AuditUnavailable, match="file_replaced"):
        await ledger.append("note", {})
    assert settings.path.exists() is replaced
    away.rename(settings.path)
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})
    await close_and_verify(ledger, settings)


async def test_a_wal_that_is_deleted_takes_no_record_with_it(tmp_path: Path) -> None:
    """What was acknowledged stands in the WAL alone until it is copied: the next record must not follow it there."""
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    kept = await ledger.append("note", {"number": 1})
    settings.path.with_name("ledger.sqlite-wal").unlink()
    with pytest.raises(AuditUnavailable, match="file_replaced"):
        await ledger.append("note", {"number": 2})
    await until(lambda: ledger.is_writable)
    assert verify(settings.path, ledger.verifier_key, since=kept).is_sound
    settings.path.with_name("ledger.sqlite-wal").unlink()
    assert await ledger.probe() is False
    await until(lambda: ledger.is_writable)
    written = await ledger.append("note", {"number": 3})
    assert verify(settings.path, ledger.verifier_key, since=[kept, written]).is_sound
    await close_and_verify(ledger, settings)


async def test_an_append_notices_a_deleted_file_by_itself(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    settings.path.unlink()
    with pytest.raises(AuditUnavailable, match="file_replaced"):
        await ledger.append("note", {})
    await ledger.close()
    assert not settings.path.exists()


async def test_a_database_locked_by_another_process_refuses_in_time(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        with anyio.fail_after(50), pytest.raises(AuditUnavailable) as refusal:
            await ledger.append("note", {})
        assert refusal.value.reason in {"locked", "stalled"}
        intruder.execute("ROLLBACK")
    await until(lambda: ledger.is_writable)
    await close_and_verify(ledger, settings)


async def test_a_failure_record_tells_of_everybody_who_was_refused(tmp_path: Path) -> None:
    """Attempts that fail as well, each with a record of the failure that never lands, make nobody forgotten.

    And the failure is as long as all of them.
    """
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    disk.before["COMMIT"] = failing("SQLITE_FULL", sqlite3.SQLITE_FULL)
    refused, since_s, began_s = 0, 0.0, time.monotonic()
    for _ in range(3):
        attached, until_s = disk.attached, time.monotonic()
        for _ in range(5):
            with pytest.raises(AuditUnavailable):
                await ledger.append("note", {})
            refused += 1
            since_s = since_s or time.monotonic()
        await until(lambda attached=attached: disk.attached > attached + 1)
    disk.heal()
    await until(lambda: ledger.is_writable and not ledger.waiting)
    (told,) = ledger.read(kinds=["sink.failed"])
    assert told.body["failure"]["refused"] == refused
    assert (until_s - since_s) * 1000 - 1 <= told.body["failure"]["lasted_ms"] <= (time.monotonic() - began_s) * 1000
    await close_and_verify(ledger, settings)


async def failed_beside_a_reader(ledger: SqliteLedger, disk: Disk, path: Path, code: int) -> sqlite3.Connection:
    """A commit fails for a moment while somebody, an auditor say, reads the state before the newest record."""
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM log").fetchone()
    await ledger.append("note", {})
    disk.before["COMMIT"] = failing("as SQLite says it", code)
    with pytest.raises(AuditUnavailable):
        await ledger.append("note", {})
    disk.heal()
    return reader


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL])
async def test_who_reads_for_long_does_not_keep_a_healed_ledger_shut(tmp_path: Path, code: int) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    with closing(await failed_beside_a_reader(ledger, disk, settings.path, code)):
        await until(lambda: ledger.is_writable)
        await ledger.append("note", {})
    await close_and_verify(ledger, settings)


async def test_after_a_failed_sync_nothing_is_believed_before_it_was_copied(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    with closing(await failed_beside_a_reader(ledger, disk, settings.path, sqlite3.SQLITE_IOERR | 4 << 8)):
        attached = disk.attached
        await until(lambda: disk.attached > attached + 1)
        assert ledger.trouble == "locked"
    await until(lambda: ledger.is_writable)
    await close_and_verify(ledger, settings)


async def test_a_head_moved_by_another_writer_fences_this_one(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    with closing(sqlite3.connect(settings.path)) as intruder, intruder:
        intruder.execute("UPDATE head SET size = size + 1")
    with pytest.raises(AuditUnavailable):
        await ledger.append("note", {})
    await until(lambda: ledger.trouble == "fenced")
    await ledger.close()


async def test_another_tree_of_the_same_size_after_a_failed_commit_fences(tmp_path: Path) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    ledger = await opened(disk, settings)
    other = Frontier()
    other.extend([leaf_hash(b"not in the log")])
    with closing(sqlite3.connect(settings.path)) as intruder, intruder:
        intruder.execute("UPDATE head SET frontier = ?", (other.pack(),))
    disk.before["COMMIT"] = failing("SQLITE_IOERR", sqlite3.SQLITE_IOERR)
    waiting = asyncio.ensure_future(ledger.append("note", {}))
    await until(lambda: ledger.trouble == "fenced")
    await ledger.close()
    with pytest.raises(AuditUnavailable):
        await waiting
    assert LedgerReader(settings.path).head().size == 1


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM open_intent",
        "INSERT INTO log SELECT idx + 1, 'x', 'note', 0, NULL, leaf, body FROM log ORDER BY idx DESC LIMIT 1",
    ],
)
async def test_what_somebody_else_wrote_beside_the_head_fences_as_well(tmp_path: Path, statement: str) -> None:
    """Not once more and once more: each attempt that fails anew would leave a record of its failure."""
    disk, settings = Disk(), settings_in(tmp_path, stall_limit_s=SHORT_S)
    ledger = await opened(disk, settings)
    intent = await ledger.append("intent", {}, opens=True)
    with closing(sqlite3.connect(settings.path)) as intruder, intruder:
        intruder.execute(statement)
    with pytest.raises(AuditUnavailable):
        await ledger.append("outcome", {}, closes=intent.event_id)
    await until(lambda: ledger.trouble == "fenced")
    attached = disk.attached
    await until(lambda: disk.attached > attached + 3)
    assert ledger.trouble == "fenced"
    assert LedgerReader(settings.path).head().size == intent.index + 1
    await ledger.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_refuses_to_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AuditUnavailable, match="read_only"):
        asyncio.run(opened(Disk(), settings_in(tmp_path)))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    "step", ["connect", "PRAGMA journal_mode", "SELECT count", "CREATE TABLE", "INSERT", "COMMIT", "INSERT INTO log"]
)
async def test_a_disk_that_fails_while_opening_is_a_refusal_and_opening_again_works(tmp_path: Path, step: str) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    disk.before[step] = failing("SQLITE_FULL", sqlite3.SQLITE_FULL)
    with pytest.raises(AuditUnavailable):
        await opened(disk, settings)
    disk.heal()
    ledger = await opened(disk, settings)
    await ledger.append("note", {})
    await close_and_verify(ledger, settings)


async def test_a_disk_that_hangs_while_opening_is_a_refusal_and_nothing_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, settings = Disk(), settings_in(tmp_path)
    resumes = threading.Event()
    disk.before["connect"] = lambda: None if resumes.wait(60) else pytest.fail("never resumed")
    monkeypatch.setattr(log, "OPEN_LIMIT_S", 0.05)
    ledger = SqliteLedger(settings, connect=disk.connect)
    with pytest.raises(AuditUnavailable, match="stalled"):
        await ledger.open()
    assert not ledger.is_writable
    monkeypatch.undo()
    resumes.set()
    await anyio.to_thread.run_sync(ledger._writer.join, 50)
    await close_and_verify(await opened(disk, settings), settings)


async def test_who_comes_while_the_last_writer_is_ending_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, still_there = SqliteStore.lock, [True, True]

    def lock_when_it_is_gone(store: SqliteStore) -> None:
        if still_there:
            still_there.pop()
            raise LedgerInUse
        lock(store)

    monkeypatch.setattr(SqliteStore, "lock", lock_when_it_is_gone)
    settings = settings_in(tmp_path)
    await close_and_verify(await opened(Disk(), settings), settings)


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from audit import AuditSettings, AuditUnavailable, SqliteLedger

async def main(folder, writer):
    settings = AuditSettings(path=folder / "ledger.sqlite", signing_key=folder / "signing.key",
                             origin="test.local/audit", retry_ms=10, writer=writer)
    ledger = SqliteLedger(settings)
    await ledger.open()
    limited = ledger._writer.pid if writer == "process" else 0
    resource.prlimit(limited, resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    acknowledged = 0
    try:
        while True:
            await ledger.append("note", {"text": "x" * 3000})
            acknowledged += 1
    except AuditUnavailable as refusal:
        print(acknowledged, refusal.reason)
    resource.prlimit(limited, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    async with asyncio.timeout(60):
        while not ledger.is_writable:
            await asyncio.sleep(0.01)
    receipt = await ledger.append("note", {})
    await ledger.close()
    print(receipt.index, ledger.verifier_key)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.parametrize("writer", ["process", "thread"])
def test_a_file_that_may_not_grow_refuses_and_resumes(tmp_path: Path, writer: str) -> None:
    """The kernel itself refuses the write (RLIMIT_FSIZE), in a process of its own."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path), writer]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    acknowledged, reason, index, key = done.stdout.split()
    assert int(acknowledged) > 10
    assert reason in {"disk_full", "io_error"}, os.strerror(errno.EFBIG)
    report = verify(tmp_path / "ledger.sqlite", key)
    assert report.is_sound, report.faults
    assert report.kinds["note"] == int(acknowledged) + 1
    assert report.size == int(index) + 1
