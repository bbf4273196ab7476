"""Everything an attacker may do to the file, and the word by which the auditor learns of it."""

from __future__ import annotations

import ast
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

import audit
from audit import AuditSettings, AuditUnavailable, LedgerReceipt, NoteRefused, SqliteLedger
from audit.checkpoint import Signer, open_checkpoint
from audit.entry import canonical
from audit.keys import load_signer
from audit.merkle import Frontier, leaf_hash
from audit.verify import Report, verify

RECORDS = 40


@dataclass
class Written:
    """A closed ledger: 20 calls, one of them still open, and every receipt that was given out."""

    path: Path
    key: str
    signer: Signer
    receipts: list[LedgerReceipt]

    def change(self, statement: str, *values: object) -> Report:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement, values)
        return verify(self.path, self.key)

    def body(self, index: int) -> dict:
        with closing(sqlite3.connect(self.path)) as connection:
            (stored,) = connection.execute("SELECT body FROM log WHERE idx = ?", (index,)).fetchone()
        return msgspec.json.decode(stored)

    def rebuild(self, change: Callable[[list[dict]], list[dict]]) -> Report:
        """Rewrite the log with the signing key, as the operator of the host could: everything inside agrees again."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            stored = connection.execute("SELECT body FROM log ORDER BY idx").fetchall()
            bodies = change([msgspec.json.decode(row[0]) for row in stored])
            connection.execute("DELETE FROM log")
            connection.execute("DELETE FROM open_intent")
            frontier, intents = Frontier(), {}
            for index, body in enumerate(bodies):
                raw = canonical(body)
                row = (index, body["event_id"], body["kind"], body["time_ms"], body.get("closes"), leaf_hash(raw), raw)
                connection.execute("INSERT INTO log VALUES(?,?,?,?,?,?,?)", row)
                frontier.extend([leaf_hash(raw)])
                intents.pop(body.get("closes"), None)
                if body.get("opens"):
                    intents[body["event_id"]] = index
            connection.executemany("INSERT INTO open_intent VALUES(?,?)", intents.items())
            note = self.signer.sign(frontier.size, frontier.root())
            connection.execute(
                "UPDATE head SET size=?, frontier=?, checkpoint=?", (frontier.size, frontier.pack(), note)
            )
        return verify(self.path, self.key)


def reasons(report: Report) -> set[str]:
    return {fault.reason for fault in report.faults}


def found(report: Report) -> set[tuple[int | None, str]]:
    return {(fault.index, fault.reason) for fault in report.faults}


@pytest.fixture
async def written(settings: AuditSettings) -> Written:
    ledger = SqliteLedger(settings)
    await ledger.open()
    receipts = []
    for number in range(RECORDS // 2):
        intent = await ledger.append("intent", {"action": {"name": f"tool-{number}"}}, opens=True)
        receipts.append(intent)
        if number != 7:
            receipts.append(await ledger.append("outcome", {"outcome": {"status": "ok"}}, closes=intent.event_id))
    await ledger.close()
    return Written(
        settings.path,
        ledger.verifier_key,
        load_signer(settings.signing_key, settings.origin, create=False),
        receipts,
    )


async def test_a_sound_ledger_is_reported_with_what_it_holds(written: Written) -> None:
    report = verify(written.path, written.key, since=written.receipts)
    assert report.is_sound
    assert report.size == RECORDS
    assert report.kinds == {"genesis": 1, "intent": 20, "outcome": 19}
    assert report.open_intents == {written.receipts[14].event_id: 15}
    assert report.checkpoint == written.receipts[-1].checkpoint
    assert report.anchors == len(written.receipts)


async def test_a_ledger_on_read_only_media_verifies(written: Written) -> None:
    for path in written.path.parent.glob("ledger.sqlite-*"):
        path.unlink()
    written.path.chmod(0o400)
    written.path.parent.chmod(0o500)
    try:
        assert verify(written.path, written.key).is_sound
    finally:
        written.path.parent.chmod(0o700)


async def test_an_edited_body_is_found_where_it_stands(written: Written) -> None:
    body = written.body(9)
    body["action"] = {"name": "harmless"}
    report = written.change("UPDATE log SET body = ? WHERE idx = 9", canonical(body))
    assert (9, "body_altered") in found(report)
    assert (None, "root_differs") in found(report)


async def test_an_edited_body_with_its_hash_is_found_by_the_root(written: Written) -> None:
    raw = canonical({**written.body(9), "action": {"name": "harmless"}})
    report = written.change("UPDATE log SET body = ?, leaf = ? WHERE idx = 9", raw, leaf_hash(raw))
    assert found(report) == {(None, "root_differs"), (None, "frontier_differs")}


@pytest.mark.parametrize("index", [0, 1, 20, RECORDS - 1])
async def test_a_deleted_record_is_found(written: Written, index: int) -> None:
    report = written.change("DELETE FROM log WHERE idx = ?", index)
    assert "size_differs" in reasons(report)
    assert index == RECORDS - 1 or (index, "gap") in found(report)


async def test_a_deleted_record_is_found_after_renumbering(written: Written) -> None:
    written.change("DELETE FROM log WHERE idx = 5")
    for index in range(6, RECORDS):
        report = written.change("UPDATE log SET idx = ? WHERE idx = ?", index - 1, index)
    assert "gap" not in reasons(report)
    assert {"size_differs", "root_differs", "second_outcome"} <= reasons(report)


async def test_two_records_that_changed_places_are_found(written: Written) -> None:
    for old, new in ((5, -1), (6, 5), (-1, 6)):
        report = written.change("UPDATE log SET idx = ? WHERE idx = ?", new, old)
    assert {"root_differs", "out_of_sequence"} <= reasons(report)


async def test_an_inserted_record_is_found(written: Written) -> None:
    report = written.change(
        "INSERT INTO log SELECT 40, event_id, kind, time_ms, closes, leaf, body FROM log WHERE idx=3"
    )
    assert {"size_differs", "root_differs", "repeated_event", "out_of_sequence"} <= reasons(report)


@pytest.mark.parametrize(
    "assignment",
    [
        "event_id='x'",
        "kind='note'",
        "time_ms=time_ms+1",
        "closes=NULL",
        "closes='y'",
        "kind=x'ff'",
        "kind=CAST(x'ff' AS TEXT)",
        "kind=CAST(kind AS BLOB)",  # says the same, and a search by kind does not find it any more
        "event_id=CAST(event_id AS BLOB)",
        "closes=CAST(closes AS BLOB)",
    ],
)
async def test_an_edited_projection_is_found(written: Written, assignment: str) -> None:
    report = written.change(f"UPDATE log SET {assignment} WHERE idx = 6")
    assert (6, "projection_altered") in found(report)


async def test_an_edited_leaf_hash_is_found(written: Written) -> None:
    assert (6, "body_altered") in found(written.change("UPDATE log SET leaf = zeroblob(32) WHERE idx = 6"))


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE head SET size = 39", "size_differs"),
        ("UPDATE head SET frontier = zeroblob(72)", "frontier_differs"),
        ("UPDATE head SET checkpoint = replace(checkpoint, '40', '41')", "checkpoint_refused"),
        ("UPDATE head SET checkpoint = ''", "checkpoint_refused"),
        ("DELETE FROM head", "head_altered"),
        ("DELETE FROM open_intent", "open_intents_altered"),
        ("INSERT INTO open_intent VALUES('x', 3)", "open_intents_altered"),
        ("UPDATE open_intent SET idx = 3", "open_intents_altered"),
        ("UPDATE open_intent SET event_id = CAST(event_id AS BLOB)", "open_intents_altered"),
        ("UPDATE head SET checkpoint = CAST(checkpoint AS BLOB)", "checkpoint_refused"),
        ("UPDATE head SET checkpoint = CAST(x'ff' AS TEXT)", "checkpoint_refused"),
        ("DROP TABLE open_intent", "unreadable"),
        ("CREATE TRIGGER quiet AFTER INSERT ON log BEGIN DELETE FROM open_intent; END", "schema_changed"),
        ("CREATE INDEX more ON log(kind)", "schema_changed"),
        ("UPDATE log SET body = 5 WHERE idx = 3", "unreadable"),
        ("UPDATE log SET body = CAST(body AS TEXT) WHERE idx = 3", "unreadable"),
        ("UPDATE log SET leaf = CAST(leaf AS TEXT) WHERE idx = 3", "body_altered"),
    ],
)
async def test_edits_beside_the_records_are_found(written: Written, statement: str, reason: str) -> None:
    assert reason in reasons(written.change(statement))


async def test_a_log_that_was_emptied_is_not_sound(written: Written) -> None:
    """It needs no key: nothing is signed over no records."""
    written.change("DELETE FROM log")
    written.change("DELETE FROM open_intent")
    report = written.change("UPDATE head SET size = 0, frontier = zeroblob(8), checkpoint = ''")
    assert found(report) == {(None, "empty")}


async def test_a_body_that_nests_without_end_is_found_and_the_rest_is_read(written: Written) -> None:
    report = written.change("UPDATE log SET body = ? WHERE idx = 9", b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}")
    assert (9, "not_json") in found(report)
    assert report.size == RECORDS


async def test_a_file_that_cannot_be_opened_just_now_gets_no_verdict(written: Written) -> None:
    with closing(sqlite3.connect(written.path, isolation_level=None)) as intruder:
        intruder.execute("PRAGMA locking_mode=EXCLUSIVE")
        intruder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(AuditUnavailable, match="locked"):
            verify(written.path, written.key)
    assert verify(written.path, written.key).is_sound


async def test_a_journal_that_waits_to_be_played_back_is_not_overlooked(written: Written) -> None:
    """Whoever opens the file to write would get another content than what stands in it."""
    with closing(sqlite3.connect(written.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\x00\x00\x00\x01"
    written.path.with_name("ledger.sqlite-journal").write_bytes(journal + bytes(3000))
    with pytest.raises(AuditUnavailable, match="io_error"):
        verify(written.path, written.key)


async def test_an_earlier_signed_head_does_not_fit_a_longer_log(written: Written) -> None:
    report = written.change("UPDATE head SET checkpoint = ?", written.receipts[4].checkpoint)
    assert "root_differs" in reasons(report)


async def test_every_flipped_byte_of_every_live_cell_is_found(written: Written) -> None:
    """One byte at a time, through SQL, over two records and the head."""
    for table, column, where in (
        ("log", "body", "idx=3"),
        ("log", "leaf", "idx=3"),
        ("log", "event_id", "idx=4"),
        ("head", "frontier", "id=1"),
        ("head", "checkpoint", "id=1"),
    ):
        with closing(sqlite3.connect(written.path)) as connection:
            (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE {where}").fetchone()
        raw = value if isinstance(value, bytes) else value.encode()
        kept = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
        for at in range(len(raw)):
            changed = bytearray(raw)
            changed[at] ^= 1 << at % 8
            report = written.change(f"UPDATE {table} SET {column} = {kept} WHERE {where}", bytes(changed))
            assert not report.is_sound, (table, column, at)
        assert written.change(f"UPDATE {table} SET {column} = ? WHERE {where}", value).is_sound


async def test_every_byte_of_the_file_is_either_covered_or_not_the_log(written: Written, tmp_path: Path) -> None:
    """A byte flipped anywhere is found, or everything the log says is unchanged (free space, file format counters)."""
    with closing(sqlite3.connect(written.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode=DELETE")
    original, copy = written.path.read_bytes(), tmp_path / "copy.sqlite"
    content = dump(written.path)
    found_count = 0
    for at in range(0, len(original), 53):
        changed = bytearray(original)
        changed[at] ^= 1 << at % 8
        copy.write_bytes(changed)
        if verify(copy, written.key).is_sound:
            assert dump(copy) == content, at
        else:
            found_count += 1
    assert found_count > len(original) // 53 // 4, "most of this small file is free space, but far from all"


async def test_a_log_rebuilt_with_its_key_is_found_by_what_was_given_out(written: Written) -> None:
    def tell_another_story(bodies: list[dict]) -> list[dict]:
        bodies[9]["action"] = {"name": "harmless"}
        return bodies

    assert written.rebuild(tell_another_story).is_sound, "nothing inside can show it"
    for receipt in written.receipts:
        report = verify(written.path, written.key, since=receipt.checkpoint)
        covers = open_checkpoint(receipt.checkpoint, written.signer.verifier).size > 9
        assert reasons(report) == ({"forked"} if covers else set())
    assert (9, "not_as_promised") in found(verify(written.path, written.key, since=written.receipts[8]))


async def test_a_log_cut_back_with_its_key_is_found_by_what_was_given_out(written: Written) -> None:
    assert written.rebuild(lambda bodies: bodies[:11]).is_sound, "nothing inside can show it"
    for receipt in written.receipts:
        size = open_checkpoint(receipt.checkpoint, written.signer.verifier).size
        report = verify(written.path, written.key, since=[receipt])
        assert reasons(report) == ({"rolled_back"} if size > 11 else set())


async def test_an_old_copy_of_the_file_is_found_by_a_later_checkpoint(settings: AuditSettings, tmp_path: Path) -> None:
    ledger = SqliteLedger(settings)
    await ledger.open()
    await ledger.close()
    old = tmp_path / "old.sqlite"
    shutil.copy(settings.path, old)
    ledger = SqliteLedger(settings)
    await ledger.open()
    receipt = await ledger.append("note", {})
    await ledger.close()
    assert reasons(verify(old, ledger.verifier_key, since=receipt.checkpoint)) == {"rolled_back"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda bodies: [*bodies, {**bodies[2], "event_id": bodies[1]["event_id"][:-1] + "0"}], "second_outcome"),
        (lambda bodies: [*bodies[:2], {**bodies[2], "closes_index": 0}, *bodies[3:]], "wrong_intent"),
        (lambda bodies: [*bodies[:1], {k: v for k, v in bodies[1].items() if k != "opens"}], "unpaired"),
        (lambda bodies: [*bodies[:2], {k: v for k, v in bodies[2].items() if k != "closes"}], "unpaired"),
        (lambda bodies: [*bodies[:2], {**bodies[1], "node_seq": 99}], "repeated_intent"),
        (lambda bodies: [*bodies[:2], {**bodies[2], "node_seq": bodies[1]["node_seq"]}], "out_of_sequence"),
        (lambda bodies: bodies[1:], "genesis_misplaced"),
        (lambda bodies: [*bodies[:3], bodies[0]], "genesis_misplaced"),
        (lambda bodies: [{**bodies[0], "log": {"verifier_key": "other"}}], "another_log"),
        (lambda bodies: [{**bodies[0], "v": 2}], "bad_envelope"),
        (lambda bodies: [{**bodies[0], "event_id": "first"}], "bad_envelope"),
    ],
)
async def test_a_record_that_the_ledger_would_never_write_is_found_even_when_signed(
    written: Written, change: Callable, reason: str
) -> None:
    assert reason in reasons(written.rebuild(change))


async def test_a_body_in_another_spelling_is_found(written: Written) -> None:
    raw = canonical(written.body(9)).replace(b'":', b'": ', 1)
    report = written.change("UPDATE log SET body = ?, leaf = ? WHERE idx = 9", raw, leaf_hash(raw))
    assert (9, "not_canonical") in found(report)


async def test_another_key_verifies_nothing(written: Written, tmp_path: Path) -> None:
    other = load_signer(tmp_path / "other.key", "test.local/audit", create=True)
    assert {"checkpoint_refused", "another_log"} <= reasons(verify(written.path, str(other.verifier)))


async def test_an_anchor_that_is_not_ours_is_an_error_and_not_a_verdict(written: Written, tmp_path: Path) -> None:
    other = load_signer(tmp_path / "other.key", "test.local/audit", create=True)
    for anchor in ("nonsense", other.sign(3, bytes(32)), msgspec.structs.replace(written.receipts[0], index=1000)):
        with pytest.raises(NoteRefused):
            verify(written.path, written.key, since=anchor)
    with pytest.raises(NoteRefused):
        verify(written.path, "not a key")
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "absent", written.key)


async def test_verification_may_run_beside_the_writer(settings: AuditSettings) -> None:
    ledger = SqliteLedger(settings)
    await ledger.open()
    for number in range(5):
        receipt = await ledger.append("note", {"number": number})
        report = verify(settings.path, ledger.verifier_key, since=receipt)
        assert report.is_sound
        assert report.size == receipt.index + 1
    await ledger.close()


def dump(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return [
            *connection.execute("SELECT * FROM log ORDER BY idx"),
            *connection.execute("SELECT * FROM head"),
            *connection.execute("SELECT * FROM open_intent"),
        ]


def test_the_auditor_shares_no_code_with_the_writer() -> None:
    """What wrote the log must not be what judges it: only pure parts and the read-only connection are shared."""
    writing = ("audit.log", "audit.writing", "audit.keys", "audit.store")
    for module in ("verify", "reader", "checkpoint", "merkle", "entry", "schema"):
        tree = ast.parse(Path(audit.__file__).with_name(f"{module}.py").read_text("utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not [name for name in imported if name and name.startswith(writing)], module
