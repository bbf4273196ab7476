from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from audit import (
    AuditError,
    AuditSettings,
    AuditUnavailable,
    IntentAlreadyOpen,
    IntentNotOpen,
    KeyRefused,
    LedgerCorrupt,
    LedgerInUse,
    LedgerReader,
    LedgerReceipt,
    Record,
    RecordRefused,
    SqliteLedger,
    new_event_id,
)
from audit.checkpoint import VerifierKey, open_checkpoint
from audit.log import RECOVERED_LISTED
from audit.merkle import Frontier, extends, includes, leaf_hash
from audit.verify import verify
from audit.writing.records import Landed, Pending

OTHER_TREE = Frontier()
OTHER_TREE.extend([leaf_hash(b"not in the log")] * 5)  # as many as the log has


@pytest.fixture(params=["process", "thread"])
def settings(settings: AuditSettings, request: pytest.FixtureRequest) -> AuditSettings:
    """What the ledger promises does not depend on where its writer runs."""
    return settings.model_copy(update={"writer": request.param})


async def reopened(settings: AuditSettings) -> SqliteLedger:
    ledger = SqliteLedger(settings)
    await ledger.open()
    return ledger


def assert_sound(settings: AuditSettings) -> None:
    report = verify(settings.path, settings.signing_key.with_name("signing.key.pub").read_text())
    assert report.is_sound, report.faults


async def test_a_new_ledger_begins_with_its_own_name_and_key(ledger: SqliteLedger, settings: AuditSettings) -> None:
    (genesis,) = ledger.read()
    assert genesis.kind == "genesis"
    assert genesis.body["log"]["verifier_key"] == ledger.verifier_key
    assert ledger.is_writable
    assert settings.path.stat().st_mode & 0o077 == 0


async def test_an_acknowledged_record_is_stored_hashed_and_signed(ledger: SqliteLedger) -> None:
    receipt = await ledger.append("policy.activated", {"policy": {"revision": "ab"}})
    record = ledger.read(after=receipt.index - 1)[0]
    assert record.event_id == receipt.event_id
    assert record.body["policy"] == {"revision": "ab"}
    assert record.leaf_hash == receipt.leaf_hash == leaf_hash(record.stored)
    checkpoint = open_checkpoint(receipt.checkpoint, VerifierKey.parse(ledger.verifier_key))
    assert checkpoint.size > receipt.index
    assert (ledger.head.size, ledger.head.root) == (checkpoint.size, checkpoint.root)


async def test_a_listener_is_told_of_what_is_durable_in_the_order_of_the_log(
    ledger: SqliteLedger, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Record] = []

    def broken(record: Record) -> None:
        raise RuntimeError(record.kind)

    ledger.listen(broken)
    ledger.listen(heard.append)
    already = ledger.head.size
    await asyncio.gather(*(ledger.append("note", {"number": number}) for number in range(20)))
    intent = await ledger.append("intent", {"call": {}}, opens=True)
    await ledger.append("outcome", {"outcome": {}}, closes=intent.event_id)
    assert heard == ledger.read(already - 1)
    assert "a listener to the ledger failed" in caplog.text


async def test_concurrent_callers_share_commits_and_keep_their_order(ledger: SqliteLedger) -> None:
    receipts = await asyncio.gather(*(ledger.append("note", {"number": number}) for number in range(300)))
    assert [receipt.index for receipt in receipts] == list(range(1, 301))
    assert len({receipt.checkpoint for receipt in receipts}) < 300
    assert [record.body["number"] for record in ledger.read(after=0, limit=300)] == list(range(300))


async def test_a_commit_takes_no_more_than_its_limit(settings: AuditSettings) -> None:
    ledger = await reopened(settings.model_copy(update={"batch_limit": 2}))
    receipts = await asyncio.gather(*(ledger.append("note", {}) for _ in range(9)))
    assert [receipt.index for receipt in receipts] == list(range(1, 10))
    assert len({receipt.checkpoint for receipt in receipts}) >= 5
    await ledger.close()


async def test_receipts_prove_inclusion_and_consistency_offline(ledger: SqliteLedger) -> None:
    receipts = [await ledger.append("note", {"number": number}) for number in range(20)]
    key = VerifierKey.parse(ledger.verifier_key)
    head = ledger.head
    for receipt in receipts:
        earlier = open_checkpoint(receipt.checkpoint, key)
        proof = ledger.inclusion_proof(receipt.index)
        assert includes(receipt.leaf_hash, receipt.index, head.size, proof, head.root)
        proof = ledger.consistency_proof(earlier.size)
        assert extends(earlier.size, earlier.root, head.size, head.root, proof)
        old = ledger.inclusion_proof(receipt.index, earlier.size)
        assert includes(receipt.leaf_hash, receipt.index, earlier.size, old, earlier.root)
    with pytest.raises(ValueError, match="not reached"):
        ledger.consistency_proof(1, 10_000)


async def test_an_intent_has_exactly_one_outcome(ledger: SqliteLedger) -> None:
    event_id = new_event_id()
    receipt = await ledger.append("intent", {}, event_id=event_id, opens=True)
    assert ledger.open_intents() == LedgerReader(ledger._settings.path).open_intents() == {event_id: receipt.index}
    with pytest.raises(IntentAlreadyOpen):
        await ledger.append("intent", {}, event_id=event_id, opens=True)
    outcome = await ledger.append("outcome", {}, closes=event_id)
    with pytest.raises(IntentNotOpen):
        await ledger.append("outcome", {}, closes=event_id)
    with pytest.raises(IntentNotOpen):
        await ledger.append("outcome", {}, closes=new_event_id())
    assert ledger.open_intents() == {}
    stored = ledger.read(after=outcome.index - 1)[0]
    assert (stored.body["closes"], stored.body["closes_index"]) == (event_id, receipt.index)


async def test_two_outcomes_at_once_leave_one(ledger: SqliteLedger) -> None:
    intent = await ledger.append("intent", {}, opens=True)
    results = await asyncio.gather(
        *(ledger.append("outcome", {}, closes=intent.event_id) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(result, IntentNotOpen) for result in results) == 4


async def test_two_intents_of_one_name_at_once_leave_one(ledger: SqliteLedger) -> None:
    event_id = new_event_id()
    first, second = await asyncio.gather(
        *(ledger.append("intent", {}, event_id=event_id, opens=True) for _ in range(2)), return_exceptions=True
    )
    assert isinstance(first, LedgerReceipt)
    assert isinstance(second, IntentAlreadyOpen)
    assert ledger.open_intents() == {event_id: first.index}


async def test_an_outcome_cannot_overtake_its_intent(ledger: SqliteLedger) -> None:
    event_id = new_event_id()
    intent = asyncio.ensure_future(ledger.append("intent", {}, event_id=event_id, opens=True))
    await asyncio.sleep(0)
    with pytest.raises(IntentNotOpen):
        await ledger.append("outcome", {}, closes=event_id)
    await intent
    await ledger.append("outcome", {}, closes=event_id)


@pytest.mark.parametrize(
    ("kind", "body", "options", "reason"),
    [
        ("note", {"kind": "forged"}, {}, "reserved_field"),
        ("note", {"node_seq": 5}, {}, "reserved_field"),
        ("note", {"number": 0.5}, {}, "not_canonical"),
        ("note", {"text": "x" * 70_000}, {}, "too_large"),
        ("note", {}, {"event_id": "not-a-uuid"}, "bad_event_id"),
        ("intent", {}, {}, "bad_kind"),
        ("outcome", {}, {}, "bad_kind"),
    ],
)
async def test_a_record_that_cannot_be_is_refused_and_leaves_no_trace(
    ledger: SqliteLedger, kind: str, body: dict, options: dict, reason: str
) -> None:
    with pytest.raises(RecordRefused, match=reason):
        await ledger.append(kind, body, **options)
    assert ledger.head.size == 1
    assert (await ledger.append("note", {})).index == 1


async def test_a_refused_intent_does_not_stay_open(ledger: SqliteLedger) -> None:
    event_id = new_event_id()
    with pytest.raises(RecordRefused):
        await ledger.append("intent", {"number": 0.5}, event_id=event_id, opens=True)
    await ledger.append("intent", {}, event_id=event_id, opens=True)


async def test_what_a_dead_process_left_open_is_closed_at_the_next_start(settings: AuditSettings) -> None:
    ledger = await reopened(settings)
    done = await ledger.append("intent", {}, opens=True)
    await ledger.append("outcome", {}, closes=done.event_id)
    orphans = [await ledger.append("intent", {}, opens=True) for _ in range(3)]
    await ledger.close()

    ledger = await reopened(settings)
    assert ledger.open_intents() == {}
    outcomes = ledger.read(after=orphans[-1].index, kinds=["outcome"])
    assert [record.body["closes"] for record in outcomes] == [orphan.event_id for orphan in orphans]
    assert all(record.body["outcome"] == {"status": "unknown", "error": "recovery"} for record in outcomes)
    (recovery,) = ledger.read(kinds=["recovery"])
    assert recovery.body["recovery"] == {"count": 3, "intents": [orphan.event_id for orphan in orphans]}
    await ledger.close()
    await (await reopened(settings)).close()
    assert len(LedgerReader(settings.path).read(kinds=["recovery"])) == 1
    assert_sound(settings)


async def test_what_many_dead_calls_left_open_is_closed_for_each_and_counted(settings: AuditSettings) -> None:
    """A record has a largest size: the one that sums up names only some of them."""
    ledger = await reopened(settings)
    orphans = await asyncio.gather(*(ledger.append("intent", {}, opens=True) for _ in range(RECOVERED_LISTED + 2)))
    await ledger.close()
    ledger = await reopened(settings)
    assert ledger.open_intents() == {}
    assert len(ledger.read(kinds=["outcome"], limit=1000)) == len(orphans)
    (recovery,) = ledger.read(kinds=["recovery"])
    listed = [orphan.event_id for orphan in orphans[:RECOVERED_LISTED]]
    assert recovery.body["recovery"] == {"count": len(orphans), "intents": listed}
    await ledger.close()


async def test_a_caller_that_is_cancelled_learns_first_what_is_on_the_disk(ledger: SqliteLedger) -> None:
    told: list[str] = []

    async def calling() -> None:
        receipt = await ledger.append("intent", {}, opens=True)
        told.append(receipt.event_id)
        await asyncio.sleep(0)
        told.append("went on")

    caller = asyncio.create_task(calling())
    await asyncio.sleep(0)
    caller.cancel()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert told == list(ledger.open_intents())


async def test_a_probe_among_records_is_answered_with_them(ledger: SqliteLedger) -> None:
    first, is_writable, second = await asyncio.gather(
        ledger.append("note", {}), ledger.probe(), ledger.append("note", {})
    )
    assert (first.index, is_writable, second.index) == (1, True, 2)
    assert ledger.trouble is None


async def test_a_caller_that_is_cancelled_after_the_commit_learns_it_too(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    land, receipts = ledger._land, []

    async def calling() -> None:
        receipts.append(await ledger.append("intent", {}, opens=True))
        await asyncio.sleep(0)

    caller = asyncio.create_task(calling())

    def land_and_leave(item: Pending, landed: Landed) -> None:
        land(item, landed)
        caller.cancel()  # the result is there, the caller has not seen it

    monkeypatch.setattr(ledger, "_land", land_and_leave)
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert [receipt.event_id for receipt in receipts] == list(ledger.open_intents())


async def test_a_second_writer_is_refused_until_the_first_is_gone(
    ledger: SqliteLedger, settings: AuditSettings
) -> None:
    second = SqliteLedger(settings)
    with pytest.raises(LedgerInUse):
        await second.open()
    with pytest.raises(AuditUnavailable):
        await second.append("note", {})
    await ledger.append("note", {})
    await ledger.close()
    await (await reopened(settings)).close()
    assert_sound(settings)


async def test_a_closed_ledger_records_nothing(ledger: SqliteLedger) -> None:
    waiting = asyncio.ensure_future(ledger.append("note", {"last": True}))
    await asyncio.sleep(0)
    await ledger.close()
    await waiting  # what was accepted is written before the end
    for options in ({}, {"closes": new_event_id()}):
        with pytest.raises(AuditUnavailable, match="closed"):
            await ledger.append("outcome" if options else "note", {}, **options)
    assert not ledger.is_writable
    await ledger.close()


async def test_a_ledger_with_records_never_gets_a_new_key(settings: AuditSettings) -> None:
    await (await reopened(settings)).close()
    settings.signing_key.rename(settings.signing_key.with_name("moved"))
    with pytest.raises(KeyRefused):
        await reopened(settings)
    assert not settings.signing_key.exists()
    settings.signing_key.with_name("moved").rename(settings.signing_key)
    await (await reopened(settings)).close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE head SET size = size + 1",
        "UPDATE head SET checkpoint = ''",
        "UPDATE head SET checkpoint = replace(checkpoint, char(10, 53, 10), char(10, 52, 10))",
        "UPDATE head SET frontier = zeroblob(40)",
        "UPDATE head SET frontier = x'00'",
        f"UPDATE head SET frontier = x'{OTHER_TREE.pack().hex()}'",
        "DELETE FROM head",
        "DELETE FROM log",
        "DELETE FROM log WHERE idx = (SELECT max(idx) FROM log)",
        "UPDATE log SET body = x'7b7d' WHERE idx = (SELECT max(idx) FROM log)",
    ],
)
async def test_a_ledger_whose_head_is_not_ours_is_not_continued(settings: AuditSettings, statement: str) -> None:
    ledger = await reopened(settings)
    for _ in range(4):
        await ledger.append("note", {"text": "AAAA"})
    await ledger.close()
    with sqlite3.connect(settings.path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(LedgerCorrupt):
        await reopened(settings)


async def test_a_ledger_without_a_head_is_not_continued(settings: AuditSettings) -> None:
    await (await reopened(settings)).close()
    with sqlite3.connect(settings.path) as connection:
        connection.execute("DROP TABLE head")
    connection.close()
    with pytest.raises(AuditError):
        await reopened(settings)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO open_intent VALUES('never recorded', 3)",
        "INSERT INTO open_intent SELECT event_id, idx FROM log WHERE idx = 1",  # it has its outcome
        "INSERT INTO open_intent SELECT event_id, 0 FROM log WHERE idx = 1",
        "UPDATE open_intent SET idx = 1",
    ],
)
async def test_nothing_is_signed_about_an_intent_that_the_log_does_not_leave_open(
    settings: AuditSettings, statement: str
) -> None:
    """At a start every open intent gets an outcome: whoever may write to the file must not choose for which."""
    ledger = await reopened(settings)
    closed = await ledger.append("intent", {}, opens=True)
    await ledger.append("outcome", {}, closes=closed.event_id)
    await ledger.append("intent", {}, opens=True)
    await ledger.close()
    with sqlite3.connect(settings.path) as connection:
        connection.execute(statement)
    connection.close()
    with pytest.raises(LedgerCorrupt, match="open intent"):
        await reopened(settings)
    assert LedgerReader(settings.path).head().size == 4


async def test_a_file_that_is_no_database_is_not_overwritten(settings: AuditSettings) -> None:
    await (await reopened(settings)).close()
    settings.path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerCorrupt):
        await reopened(settings)
    assert settings.path.read_bytes() == b"not a database" * 100


async def test_reading_pages_forward_backward_and_by_kind(ledger: SqliteLedger) -> None:
    for number in range(10):
        await ledger.append("even" if number % 2 == 0 else "odd", {"number": number})
    assert [record.index for record in ledger.read(after=3, limit=3)] == [4, 5, 6]
    assert [record.index for record in ledger.read(limit=2, newest=True)] == [10, 9]
    assert [record.body["number"] for record in ledger.read(kinds=["odd"], limit=3)] == [1, 3, 5]
    assert ledger.read(kinds=[]) == []
    assert await asyncio.to_thread(ledger.read, 9) == ledger.read(after=9)


async def test_a_record_is_found_by_its_event_id_wherever_it_stands(ledger: SqliteLedger) -> None:
    early = new_event_id(1)  # an id whose time is far from when it was recorded
    receipts = [await ledger.append("note", {"number": number}) for number in range(30)]
    await ledger.append("note", {}, event_id=early)
    for receipt in receipts:
        found = ledger.find(receipt.event_id)
        assert found is not None
        assert found.index == receipt.index
    found = ledger.find(early)
    assert found is not None
    assert found.index == 31
    assert ledger.find(new_event_id()) is None
    assert ledger.find("anything") is None


async def test_reading_what_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(AuditUnavailable):
        LedgerReader(tmp_path / "absent.sqlite").read()
