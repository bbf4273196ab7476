from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from audit import AuditSettings, LedgerReader, LedgerReceipt, Record, SqliteLedger
from audit.commands import audit
from audit.entry import MAX_INTEGER, canonical


@pytest.fixture
def receipts(settings: AuditSettings) -> list[LedgerReceipt]:
    return asyncio.run(written(settings))


async def written(settings: AuditSettings) -> list[LedgerReceipt]:
    ledger = SqliteLedger(settings)
    await ledger.open()
    body = {"principal": {"subject": "agent-7"}, "action": {"name": "refund"}, "decision": {"effect": "allow"}}
    intent = await ledger.append("intent", body, opens=True)
    outcome = await ledger.append("outcome", {"outcome": {"status": "ok"}}, closes=intent.event_id)
    await ledger.close()
    return [intent, outcome]


def run(settings: AuditSettings, command: str, *arguments: str) -> Result:
    key = ["--key", f"{settings.signing_key}.pub"] if command == "verify" else []
    return CliRunner().invoke(audit, [command, "--ledger", str(settings.path), *key, *arguments])


def test_a_sound_ledger_exits_with_zero(settings: AuditSettings, receipts: list[LedgerReceipt], tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text(receipts[0].checkpoint, "utf-8")
    result = run(settings, "verify", "--since", str(kept))
    assert result.exit_code == 0, result.output
    assert "SOUND" in result.output
    assert "earlier checkpoints confirmed 1" in result.output


def test_a_flipped_byte_exits_with_one_and_names_the_record(
    settings: AuditSettings, receipts: list[LedgerReceipt]
) -> None:
    settings.path.write_bytes(settings.path.read_bytes().replace(b"agent-7", b"agent-8"))
    result = run(settings, "verify")
    assert result.exit_code == 1
    assert "record 1: body_altered" in result.output
    report = json.loads(run(settings, "verify", "--json").output)
    assert report["sound"] is False
    assert {"index": 1, "reason": "body_altered"}.items() <= report["faults"][0].items()


def test_what_cannot_be_checked_exits_with_two(
    settings: AuditSettings, receipts: list[LedgerReceipt], tmp_path: Path
) -> None:
    assert run(settings, "verify", "--key", "nonsense+00+AA").exit_code == 2
    assert run(settings, "verify", "--key", str(tmp_path / "absent")).exit_code == 2
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert run(settings, "verify", "--key", str(tmp_path / "binary")).exit_code == 2
    settings.path.unlink()
    for command in (["verify"], ["show", "1"], ["tail"]):
        told = run(settings, *command)
        assert (told.exit_code, "does not exist" in told.output) == (2, True)
    assert run(settings, "verify", "--nonsense").exit_code == 2


def test_show_prints_an_intent_with_its_outcome(settings: AuditSettings, receipts: list[LedgerReceipt]) -> None:
    for which in ("1", receipts[0].event_id):
        lines = run(settings, "show", "--json", which).output.splitlines()
        assert [json.loads(line)["index"] for line in lines] == [1, 2]
    text = run(settings, "show", "1").output
    assert "agent-7" in text
    assert receipts[0].leaf_hash.hex() in text


HOSTILE = "/tool/a\n     999  forged \x1b[2J\x9b31m \u202egpj.exe ÆØ"


async def test_what_a_caller_named_cannot_forge_a_line_or_steer_a_terminal(settings: AuditSettings) -> None:
    ledger = SqliteLedger(settings)
    await ledger.open()
    await ledger.append("deny", {"action": {"name": HOSTILE}})
    await ledger.close()
    for command in (["tail"], ["tail", "--json"], ["show", "1"], ["show", "1", "--json"]):
        told = run(settings, *command).output
        assert "\\n     999  forged \\u001b[2J\\u009b31m \\u202egpj.exe ÆØ" in told
        assert all(each.isprintable() for each in told.replace("\n", ""))
    assert len(run(settings, "tail").output.splitlines()) == 2
    assert json.loads(run(settings, "show", "1", "--json").output)["action"]["name"] == HOSTILE


@pytest.mark.parametrize("which", ["99", "9" * 30, "nothing"])
def test_show_exits_with_one_when_there_is_no_such_record(
    settings: AuditSettings, receipts: list[LedgerReceipt], which: str
) -> None:
    assert run(settings, "show", which).exit_code == 1


def test_tail_prints_the_newest_in_order(settings: AuditSettings, receipts: list[LedgerReceipt]) -> None:
    lines = run(settings, "tail", "-n", "2", "--json").output.splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["intent", "outcome"]
    table = run(settings, "tail").output.splitlines()
    assert len(table) == 3
    assert "agent-7" in table[1]
    assert "allow" in table[1]
    assert "-> 1" in table[2]
    assert len(run(settings, "tail", "--kind", "intent").output.splitlines()) == 1


async def test_tail_says_who_changed_or_approved_what(settings: AuditSettings) -> None:
    ledger = SqliteLedger(settings)
    await ledger.open()
    await ledger.append("console.change", {"change": {"what": "breaker.hold", "by": "user:ada"}})
    await ledger.append("approval.given", {"approval": {"resource": "/tool/refund", "by": "user:bob"}})
    await ledger.close()
    told = [line.split()[3:] for line in run(settings, "tail", "-n", "2").output.splitlines()]
    assert told == [["console.change", "user:ada", "breaker.hold"], ["approval.given", "user:bob", "/tool/refund"]]


def test_tail_follows_until_interrupted(
    settings: AuditSettings, receipts: list[LedgerReceipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = iter(range(3))

    def wait(_seconds: float) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("audit.commands.time.sleep", wait)
    result = run(settings, "tail", "-n", "1", "-f")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 1


def test_following_a_rare_kind_looks_at_every_record_once(
    settings: AuditSettings, receipts: list[LedgerReceipt], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_after: list[int] = []
    read, rounds = LedgerReader.read, iter(range(3))

    def counted(reader: LedgerReader, after: int = -1, *args: Any, **options: Any) -> list[Record]:
        looked_after.append(after)
        return read(reader, after, *args, **options)

    def wait(_seconds: float) -> None:
        number = next(rounds, None)
        if number is None:
            raise KeyboardInterrupt
        asyncio.run(written(settings))

    monkeypatch.setattr("audit.commands.time.sleep", wait)
    monkeypatch.setattr(LedgerReader, "read", counted)
    result = run(settings, "tail", "-n", "1", "-f", "--kind", "outcome", "--kind", "genesis", "--json")
    assert [json.loads(line)["index"] for line in result.output.splitlines()] == [2, 4, 6, 8]
    looked_after.clear()
    rounds = iter(range(3))
    run(settings, "tail", "-n", "1", "-f", "--kind", "genesis")
    assert looked_after == [-1, 8, 10, 12]


def test_a_verdict_without_an_earlier_checkpoint_says_what_it_cannot_see(
    settings: AuditSettings, receipts: list[LedgerReceipt], tmp_path: Path
) -> None:
    assert "cut back" in run(settings, "verify").output
    kept = tmp_path / "kept.txt"
    kept.write_text(json.loads(run(settings, "verify", "--json").output)["checkpoint"], "utf-8")
    confirmed = run(settings, "verify", "--since", str(kept))
    assert confirmed.exit_code == 0
    assert "cut back" not in confirmed.output


def test_a_record_of_an_impossible_time_is_shown_all_the_same(
    settings: AuditSettings, receipts: list[LedgerReceipt]
) -> None:
    body = canonical({"kind": "note", "event_id": "x", "time_ms": MAX_INTEGER})
    with closing(sqlite3.connect(settings.path)) as connection, connection:
        connection.execute("UPDATE log SET body = ? WHERE idx = 1", [body])
    for command in (["tail"], ["show", "1"]):
        assert f"{MAX_INTEGER} ms" in run(settings, *command).output


def test_what_could_not_be_read_is_said_with_its_cause(settings: AuditSettings, receipts: list[LedgerReceipt]) -> None:
    with closing(sqlite3.connect(settings.path, isolation_level=None)) as intruder:
        intruder.execute("PRAGMA locking_mode=EXCLUSIVE")
        intruder.execute("BEGIN EXCLUSIVE")
        result = run(settings, "verify")
    assert result.exit_code == 2
    assert "locked (database is locked)" in result.output


def test_help_says_what_the_exit_codes_mean() -> None:
    assert "Exit code 0" in CliRunner().invoke(audit, ["verify", "--help"]).output
