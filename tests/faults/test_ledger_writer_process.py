"""The writer in a process of its own: what becomes of records, callers and the file when it dies or is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from audit import AuditSettings, AuditUnavailable, LedgerInUse, LedgerReader, SqliteLedger
from audit.verify import verify
from audit.writing import process
from audit.writing.process import WriterProcess

KILLS = 12


def settings_in(folder: Path, **changes: Any) -> AuditSettings:
    keys = {"signing_key": folder / "signing.key", "commitment_key": folder / "commitment.key"}
    given: dict[str, Any] = {"stall_limit_s": 30, "retry_ms": 10, "origin": "test.local/audit"} | keys | changes
    return AuditSettings(path=folder / "ledger.sqlite", writer="process", **given)


def writer_of(ledger: SqliteLedger) -> WriterProcess:
    writer = ledger._writer
    assert isinstance(writer, WriterProcess)
    return writer


def kill(ledger: SqliteLedger, number: int = signal.SIGKILL) -> None:
    pid = writer_of(ledger).pid
    assert pid is not None
    os.kill(pid, number)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110  the state is the ledger's, it has no event to give
            await anyio.sleep(0.002)


def assert_sound(ledger: SqliteLedger, settings: AuditSettings) -> None:
    report = verify(settings.path, ledger.verifier_key)
    assert report.is_sound, report.faults


@pytest.fixture
def settings(tmp_path: Path) -> AuditSettings:
    return settings_in(tmp_path)


@pytest.fixture
async def ledger(settings: AuditSettings) -> AsyncIterator[SqliteLedger]:
    ledger = SqliteLedger(settings)
    await ledger.open()
    yield ledger
    await ledger.close()


def files_of(pid: object) -> set[str]:
    """What a process has open."""
    return {os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd") if int(number) > 2}  # noqa: PTH115, PTH208  names


async def test_only_the_writers_process_has_the_file_open_for_writing(
    ledger: SqliteLedger, settings: AuditSettings
) -> None:
    await ledger.append("note", {})
    lock = f"{settings.path}.lock"
    assert {str(settings.path), lock} <= files_of(writer_of(ledger).pid)
    assert not [name for name in map(str, Path("/proc/self/fd").iterdir()) if os.path.realpath(name) == lock]  # noqa: ASYNC240  as above


async def test_a_writer_that_is_killed_under_load_loses_no_acknowledged_record(
    ledger: SqliteLedger, settings: AuditSettings
) -> None:
    acknowledged: dict[int, str] = {}
    refused = 0
    stop = False

    async def caller() -> None:
        nonlocal refused
        while not stop:
            try:
                intent = await ledger.append("intent", {}, opens=True)
                acknowledged[intent.index] = intent.event_id
                outcome = await ledger.append("outcome", {}, closes=intent.event_id)
                acknowledged[outcome.index] = outcome.event_id
            except AuditUnavailable:
                refused += 1
                await asyncio.sleep(0.005)

    callers = [asyncio.create_task(caller()) for _ in range(16)]
    for _ in range(KILLS):
        size = ledger.head.size
        await until(lambda size=size: ledger.is_writable and ledger.head.size > size + 20)
        kill(ledger)
        await until(lambda: not ledger.is_writable)
    await until(lambda: ledger.is_writable)
    stop = True
    await asyncio.gather(*callers)
    assert refused
    await until(lambda: ledger.is_writable and not ledger.open_intents() and not ledger.waiting)
    stored = {record.index: record.event_id for record in ledger.read(limit=1_000_000)}
    assert {index: stored.get(index) for index in acknowledged} == acknowledged
    report = verify(settings.path, ledger.verifier_key)
    assert report.is_sound, report.faults
    assert report.open_intents == {}
    assert report.kinds["intent"] == report.kinds["outcome"]
    failures = [record.body["failure"]["reason"] for record in ledger.read(limit=1_000_000, kinds=["sink.failed"])]
    assert failures
    assert set(failures) == {"writer_lost"}


async def test_what_was_written_and_not_yet_told_lands_when_the_writer_is_back(
    ledger: SqliteLedger, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer commits, and dies before its word about it is heard."""
    heard = WriterProcess.data_received
    monkeypatch.setattr(WriterProcess, "data_received", lambda *_: None)
    waiting = [asyncio.create_task(ledger.append("intent", {"number": n}, opens=True)) for n in range(5)]
    reader = LedgerReader(settings.path)
    await until(lambda: reader.head().size == 6)
    kill(ledger, signal.SIGSTOP)
    lost = asyncio.create_task(ledger.append("intent", {}, opens=True))
    await asyncio.sleep(0)
    kill(ledger)
    await until(lambda: writer_of(ledger)._transport is None)
    monkeypatch.setattr(WriterProcess, "data_received", heard)
    receipts = await asyncio.gather(*waiting)
    with pytest.raises(AuditUnavailable, match="writer_lost"):
        await lost
    assert [receipt.index for receipt in receipts] == [1, 2, 3, 4, 5]
    assert ledger.open_intents() == {receipt.event_id: receipt.index for receipt in receipts}
    await until(lambda: ledger.is_writable)
    await asyncio.gather(*(ledger.append("outcome", {}, closes=receipt.event_id) for receipt in receipts))
    assert_sound(ledger, settings)


async def test_what_never_reached_the_file_is_refused_and_its_outcomes_are_kept(
    ledger: SqliteLedger, settings: AuditSettings
) -> None:
    intent = await ledger.append("intent", {}, opens=True)
    kill(ledger, signal.SIGSTOP)
    lost = asyncio.create_task(ledger.append("intent", {}, opens=True))
    owed = asyncio.create_task(ledger.append("outcome", {"outcome": {"status": "ok"}}, closes=intent.event_id))
    await asyncio.sleep(0)
    kill(ledger)
    with pytest.raises(AuditUnavailable, match="writer_lost"):
        await lost
    with pytest.raises(AuditUnavailable, match="writer_lost"):
        await owed
    await until(lambda: ledger.is_writable and not ledger.waiting and not ledger.open_intents())
    (outcome,) = ledger.read(kinds=["outcome"])
    assert outcome.body["closes"] == intent.event_id
    assert outcome.body["late"] is True
    assert len(ledger.read(kinds=["intent"])) == 1
    assert_sound(ledger, settings)


async def test_a_record_that_comes_before_the_next_writer_is_ready_is_not_taken_for_sent(
    ledger: SqliteLedger, settings: AuditSettings
) -> None:
    kill(ledger)
    await until(lambda: ledger.trouble == "writer_lost")
    await until(lambda: writer_of(ledger)._transport is not None)  # there, and not yet through with opening
    ledger._mend()
    await until(lambda: ledger.is_writable and not ledger.waiting)
    receipts = await asyncio.gather(*(ledger.append("note", {}) for _ in range(20)))
    assert len({receipt.index for receipt in receipts}) == 20
    assert_sound(ledger, settings)


async def test_a_writer_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, stall_limit_s=0.3)
    ledger = SqliteLedger(settings)
    await ledger.open()
    kill(ledger, signal.SIGSTOP)
    with anyio.fail_after(60):
        with pytest.raises(AuditUnavailable, match="stalled"):
            await ledger.append("intent", {}, opens=True)
    await until(lambda: not writer_of(ledger)._unsaid)
    kill(ledger, signal.SIGCONT)
    await until(lambda: ledger.is_writable and not ledger.waiting and not ledger.open_intents())
    assert ledger.read(kinds=["intent"]) == [], "it had not begun with what was refused meanwhile"
    await ledger.close()
    assert_sound(ledger, settings)


async def test_an_intent_that_lands_when_its_caller_was_refused_is_closed_though_the_trouble_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits whose words arrive together and late: by the first the ledger knows that the store works."""
    settings = settings_in(tmp_path, stall_limit_s=0.3)
    ledger = SqliteLedger(settings)
    await ledger.open()
    writer, reader, unheard = writer_of(ledger), LedgerReader(settings.path), list[bytes]()
    monkeypatch.setattr(writer, "data_received", unheard.append)
    waiting = []
    for size, options in ((2, {}), (3, {"opens": True})):
        waiting.append(asyncio.ensure_future(ledger.append("intent" if options else "note", {}, **options)))
        await until(lambda size=size: reader.head().size == size)
    assert [str(error) for error in await asyncio.gather(*waiting, return_exceptions=True)] == ["stalled"] * 2
    monkeypatch.undo()
    writer.data_received(b"".join(unheard))
    await until(lambda: ledger.is_writable and not ledger.waiting and not ledger.open_intents())
    (outcome,) = ledger.read(kinds=["outcome"])
    assert outcome.body["outcome"] == {"status": "cancelled", "error": "unacknowledged"}
    await ledger.close()
    assert_sound(ledger, settings)


async def test_a_file_that_is_away_is_noticed_and_told_by_a_writer_that_stays(
    ledger: SqliteLedger, settings: AuditSettings
) -> None:
    pid, away = writer_of(ledger).pid, settings.path.with_name("away")
    settings.path.rename(away)
    assert await ledger.probe() is False
    assert ledger.trouble == "file_replaced"
    away.rename(settings.path)
    await until(lambda: ledger.is_writable)
    settings.path.rename(away)
    waiting = asyncio.ensure_future(ledger.append("note", {}))
    await until(lambda: ledger.trouble == "file_replaced")
    assert not settings.path.exists()
    away.rename(settings.path)
    with pytest.raises(AuditUnavailable, match="file_replaced"):
        await waiting
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})
    assert writer_of(ledger).pid == pid
    assert_sound(ledger, settings)


async def test_a_writer_whose_file_is_away_ends_when_told_to(
    ledger: SqliteLedger, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, abandoned = writer_of(ledger), []
    monkeypatch.setattr(writer, "abandon", lambda: abandoned.append(writer.pid))
    settings.path.rename(settings.path.with_name("away"))
    waiting = asyncio.ensure_future(ledger.append("note", {}))
    await until(lambda: ledger.trouble == "file_replaced")
    await ledger.close()
    with pytest.raises(AuditUnavailable):
        await waiting
    assert (writer.pid, abandoned) == (None, [])


async def test_a_ledger_whose_writer_hangs_is_closed_all_the_same(tmp_path: Path) -> None:
    ledger = SqliteLedger(settings_in(tmp_path, stall_limit_s=0.3))
    await ledger.open()
    kill(ledger, signal.SIGSTOP)
    with anyio.fail_after(60):
        await ledger.close()
    await until(lambda: writer_of(ledger).pid is None)


async def taken_away(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer dies and cannot be begun anew for now."""
    monkeypatch.setattr(process, "PROGRAM", "audit.no_such_program")
    kill(ledger)
    await until(lambda: ledger.trouble == "writer_lost")


async def test_a_file_that_is_gone_when_the_writer_is_back_is_not_begun_anew(
    ledger: SqliteLedger, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await taken_away(ledger, monkeypatch)
    kept = settings.path.rename(settings.path.with_name("kept"))
    for left in settings.path.parent.glob("ledger.sqlite-*"):
        left.rename(left.with_name(left.name.replace("ledger.sqlite", "kept")))
    monkeypatch.undo()
    await until(lambda: ledger.trouble == "file_replaced")
    attempts = writer_of(ledger)._failures
    await until(lambda: writer_of(ledger)._failures > attempts + 1)
    assert ledger.trouble == "file_replaced", "the end of an attempt took the place of its reason"
    assert not settings.path.exists()
    with pytest.raises(AuditUnavailable):
        await ledger.append("intent", {}, opens=True)
    for left in settings.path.parent.glob("kept*"):
        left.rename(left.with_name(left.name.replace("kept", "ledger.sqlite")))
    assert not kept.exists()
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})
    assert_sound(ledger, settings)


@pytest.mark.parametrize("goes_on_for", [0, 1])
async def test_an_older_copy_of_the_file_fences_even_one_that_went_on_to_the_same_size(
    ledger: SqliteLedger, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch, goes_on_for: int
) -> None:
    older_path = settings.path.with_name("older")
    with closing(sqlite3.connect(settings.path)) as source, closing(sqlite3.connect(older_path)) as older:
        source.backup(older)
    await ledger.append("note", {})
    await taken_away(ledger, monkeypatch)
    for left in settings.path.parent.glob("ledger.sqlite-*"):
        left.unlink()
    other = SqliteLedger(settings.model_copy(update={"path": older_path, "writer": "thread"}))
    await other.open()
    for _ in range(goes_on_for):
        await other.append("note", {})
    await other.close()
    older_path.rename(settings.path)
    settings.path.chmod(0o600)
    monkeypatch.undo()
    await until(lambda: ledger.trouble == "fenced")
    with pytest.raises(AuditUnavailable, match="fenced"):
        await ledger.append("note", {})


async def test_a_writer_that_is_left_alone_before_it_has_a_task_ends() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-P", "-m", process.PROGRAM, str(theirs.fileno())]
        left = await anyio.open_process(command, pass_fds=[theirs.fileno()])
    ours.close()
    with anyio.fail_after(60):
        assert await left.wait() == 0


async def test_a_writer_that_dies_after_it_was_probed_is_begun_anew(ledger: SqliteLedger) -> None:
    assert await ledger.probe()
    kill(ledger)
    await until(lambda: not ledger.is_writable)
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})


async def test_a_process_that_cannot_be_had_for_now_is_tried_for_again(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    kill(ledger)
    await until(lambda: writer_of(ledger)._failures > 2)
    monkeypatch.undo()
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})


async def test_a_ledger_that_is_closed_between_two_attempts_makes_no_other(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(ledger)
    writer._failures = 9
    kill(ledger)
    await until(lambda: not ledger.is_writable)
    await ledger.close()
    assert writer._retry is not None
    assert writer._retry.cancelled()


async def test_a_ledger_that_is_closed_in_mid_attempt_has_the_new_writer_end(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, abandoned = writer_of(ledger), []
    monkeypatch.setattr(writer, "_begin_later", lambda: None)
    monkeypatch.setattr(writer, "abandon", lambda: abandoned.append(writer.pid))
    kill(ledger)
    await until(lambda: not ledger.is_writable)
    writer._begin_anew()
    await ledger.close()
    assert (writer.pid, abandoned) == (None, [])


async def test_attempts_to_begin_anew_grow_rare(ledger: SqliteLedger) -> None:
    writer, waits_s = writer_of(ledger), []
    for _ in range(12):
        asked_s = writer._loop.time()
        writer._begin_later()
        assert writer._retry is not None
        waits_s.append(writer._retry.when() - asked_s)
        writer._retry.cancel()
    assert waits_s[0] < waits_s[3] < waits_s[6]
    assert all(process.LONGEST_WAIT_S <= wait_s < 2 * process.LONGEST_WAIT_S for wait_s in waits_s[-2:])


async def test_attempts_to_begin_anew_go_on_through_an_outage_of_hours(ledger: SqliteLedger) -> None:
    writer_of(ledger)._failures = 2000
    kill(ledger)
    await until(lambda: not ledger.is_writable)
    await until(lambda: ledger.is_writable)
    await ledger.append("note", {})


async def test_somebody_elses_records_fence_a_writer_that_was_away(
    ledger: SqliteLedger, settings: AuditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent = await ledger.append("intent", {}, opens=True)
    await taken_away(ledger, monkeypatch)
    command = [sys.executable, "-c", TAKES_OVER, str(settings.path.parent)]
    taken_over = await anyio.run_process(command, check=False)
    assert taken_over.returncode == 0, taken_over.stderr.decode()
    monkeypatch.undo()
    writer, when_fenced = writer_of(ledger), list[bool]()
    begin_later = writer._begin_later
    monkeypatch.setattr(writer, "_begin_later", lambda: (when_fenced.append(writer._is_fenced), begin_later()))
    await until(lambda: ledger.trouble == "fenced")
    with pytest.raises(AuditUnavailable, match="fenced"):
        await ledger.append("outcome", {}, closes=intent.event_id)
    size = LedgerReader(settings.path).head().size
    await until(lambda: writer.pid is None)
    assert True not in when_fenced, "nothing is begun anew upon what somebody else wrote"
    assert ledger.trouble == "fenced"
    assert LedgerReader(settings.path).head().size == size


TAKES_OVER = """
import asyncio, sys
from pathlib import Path
from audit import AuditSettings, SqliteLedger, LedgerInUse

async def main(folder):
    settings = AuditSettings(path=folder / "ledger.sqlite", signing_key=folder / "signing.key",
                             origin="test.local/audit")
    async with asyncio.timeout(60):
        while True:
            ledger = SqliteLedger(settings)
            try:
                await ledger.open()
            except LedgerInUse:
                continue
            await ledger.close()
            return

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(
    ("part", "name", "value"), [(process, "PROGRAM", "audit.no_such_program"), (sys, "executable", "/nowhere/python")]
)
async def test_a_writer_cannot_be_begun_at_all(
    settings: AuditSettings, monkeypatch: pytest.MonkeyPatch, part: ModuleType, name: str, value: str
) -> None:
    monkeypatch.setattr(part, name, value)
    ledger = SqliteLedger(settings)
    with pytest.raises(AuditUnavailable, match="writer_lost"):
        await ledger.open()
    assert not ledger.is_writable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_writers_end_is_its_gateways_to_decide(ledger: SqliteLedger, number: int) -> None:
    kill(ledger, number)
    receipt = await ledger.append("note", {})
    assert ledger.read(after=receipt.index - 1)[0].kind == "note"


async def test_a_second_gateway_is_refused_while_the_first_lives(ledger: SqliteLedger, settings: AuditSettings) -> None:
    with pytest.raises(LedgerInUse):
        await SqliteLedger(settings).open()
    await ledger.append("note", {})


LEFT = """
import asyncio, os, sys
from pathlib import Path
from audit import AuditSettings, SqliteLedger

async def main(folder):
    ledger = SqliteLedger(AuditSettings(path=folder / "ledger.sqlite", signing_key=folder / "signing.key",
                                        origin="test.local/audit"))
    await ledger.open()
    await ledger.append("intent", {}, opens=True)
    print(ledger._writer.pid, flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_a_writer_that_is_left_alone_ends_and_lets_the_next_one_write(
    tmp_path: Path, settings: AuditSettings
) -> None:
    command = [sys.executable, "-c", LEFT, str(tmp_path)]
    left = await anyio.run_process(command, check=False)
    assert left.returncode == -signal.SIGKILL, left.stderr.decode()
    pid = int(left.stdout)
    next_one = SqliteLedger(settings)
    await next_one.open()
    assert next_one.open_intents() == {}
    assert len(next_one.read(kinds=["recovery"])) == 1
    await until(lambda: not Path("/proc", str(pid), "cmdline").exists() or not _command_of(pid))
    await next_one.close()


def _command_of(pid: int) -> bytes:
    """Empty for one that has ended and was not yet collected."""
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
