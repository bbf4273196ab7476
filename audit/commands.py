"""The command group ``audit``: verify the ledger, look at a record, follow what is recorded.

Exit codes: 0 sound or found, 1 not sound or not found, 2 wrong usage or nothing could be read.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from audit.entry import Record
from audit.errors import AuditError
from audit.reader import LedgerReader
from audit.settings import AuditSettings
from audit.verify import Report, verify
from audit.visible import visible

POLL_S = 0.5
PAGE = 1000  # records that following reads at once
DEFAULTS = AuditSettings()
LEDGER = click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=DEFAULTS.path,
    show_default=True,
    envvar="AUDIT_LEDGER",
    help="SQLite file of the ledger.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")


@click.group(name="audit", context_settings={"help_option_names": ["-h", "--help"]})
def audit() -> None:
    """Read and verify the append-only ledger. Nothing here needs the gateway to run, and nothing here writes."""


@audit.command("verify")
@LEDGER
@click.option(
    "--key",
    "key_text",
    default=f"{DEFAULTS.signing_key}.pub",
    show_default=True,
    envvar="AUDIT_VERIFIER_KEY",
    help="Verifier key of the log (name+hash+key), or a file that holds it. Keep your own copy: a key that lies "
    "beside the ledger proves nothing about who wrote both.",
)
@click.option(
    "--since",
    "anchors",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="File with a checkpoint kept from earlier and elsewhere, as --json and the operator API give it. Finds a log "
    "that was cut back or rewritten with its own key, which nothing else can. May be repeated.",
)
@AS_JSON
def verify_command(ledger: Path, key_text: str, anchors: tuple[Path, ...], as_json: bool) -> None:
    """Check every record, the tree, the signature, the sequence, and one outcome per intent.

    Exit code 0: sound. 1: something is wrong, and each line says at which index and what. 2: could not be checked.
    """
    try:
        report = verify(ledger, _key(key_text), since=[path.read_bytes() for path in anchors])
    except (AuditError, OSError, UnicodeDecodeError) as error:
        click.echo(f"cannot verify: {_why(error)}", err=True)
        sys.exit(2)
    click.echo(json.dumps(_report_object(report)) if as_json else _report_text(report))
    sys.exit(0 if report.is_sound else 1)


@audit.command("show")
@LEDGER
@AS_JSON
@click.argument("which", metavar="INDEX|EVENT_ID")
def show_command(ledger: Path, as_json: bool, which: str) -> None:
    """Print one record, and for an intent its outcome. Exit code 1 when there is none."""
    reader = LedgerReader(ledger)
    try:
        record = reader.get(int(which)) if which.isdecimal() else reader.find(which)
        outcome = reader.outcome_of(record.event_id) if record is not None and record.body.get("opens") else None
    except AuditError as error:
        click.echo(f"cannot read {ledger}: {_why(error)}", err=True)
        sys.exit(2)
    if record is None:
        click.echo(f"no record {which}", err=True)
        sys.exit(1)
    for item in (record, outcome):
        if item is not None:
            click.echo(_json(item) if as_json else _page(item))


@audit.command("tail")
@LEDGER
@AS_JSON
@click.option("-n", "count", type=click.IntRange(0), default=20, show_default=True, help="Records to begin with.")
@click.option("-f", "--follow", is_flag=True, help="Keep printing what is recorded, until interrupted.")
@click.option(
    "--kind", "kinds", multiple=True, help="Only records of this kind (intent, outcome, deny, …); repeatable."
)
def tail_command(ledger: Path, as_json: bool, count: int, follow: bool, kinds: tuple[str, ...]) -> None:
    """Print the newest records, oldest first."""
    reader = LedgerReader(ledger)
    try:
        seen = reader.head().size - 1
        records = reader.read(limit=count, newest=True, kinds=kinds or None)[::-1]
        _print(records, as_json)
        while follow:
            seen = max(seen, records[-1].index if records else seen)
            time.sleep(POLL_S)
            records, seen = _since(reader, seen, kinds)
            _print(records, as_json)
    except AuditError as error:
        click.echo(f"cannot read {ledger}: {_why(error)}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        return


def _since(reader: LedgerReader, seen: int, kinds: tuple[str, ...]) -> tuple[list[Record], int]:
    """What came after ``seen``, and up to where it was sought: a rare kind is not sought twice in the same records."""
    newest = reader.head().size - 1
    records = reader.read(after=seen, limit=PAGE, kinds=kinds or None)
    return records, seen if len(records) == PAGE else max(seen, newest)


def _why(error: Exception) -> str:
    """The stable word, and what the system said of it."""
    return f"{error} ({error.__cause__})" if isinstance(error, AuditError) and error.__cause__ else str(error)


def _key(text: str) -> str:
    if text.count("+") > 1 and not Path(text).exists():
        return text
    return Path(text).read_text("utf-8")


def _report_object(report: Report) -> dict[str, Any]:
    return {
        "sound": report.is_sound,
        "size": report.size,
        "root": base64.b64encode(report.root).decode(),
        "checkpoint": report.checkpoint,
        "anchors": report.anchors,
        "kinds": dict(report.kinds),
        "open_intents": len(report.open_intents),
        "fault_count": report.fault_count,
        "faults": [{"index": item.index, "reason": item.reason, "detail": item.detail} for item in report.faults],
    }


def _report_text(report: Report) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kinds.items()))
    lines = [f"records  {report.size} ({kinds})" if kinds else f"records  {report.size}"]
    lines.append(f"root     {base64.b64encode(report.root).decode()}")
    anchors = f"earlier checkpoints {'confirmed' if report.is_sound else 'given'} {report.anchors}"
    lines.append(f"in flight {len(report.open_intents)}, {anchors}")
    if report.is_sound and not report.anchors:
        lines.append("without one (--since), a log that was cut back or rewritten with its own key looks the same")
    lines += map(str, report.faults)
    lines.append("SOUND" if report.is_sound else f"NOT SOUND: {report.fault_count} faults")
    return "\n".join(map(visible, lines))


def _print(records: list[Record], as_json: bool) -> None:
    for record in records:
        click.echo(_json(record) if as_json else _line(record))


def _json(record: Record) -> str:
    said = {"index": record.index, "leaf_hash": record.leaf_hash.hex(), **record.body}
    return visible(json.dumps(said, ensure_ascii=False))


def _line(record: Record) -> str:
    body = record.body
    principal = _at(body, "principal", "subject") or _at(body, "change", "by") or _at(body, "approval", "by")
    what = _at(body, "action", "resource") or _at(body, "action", "name") or _at(body, "outcome", "error")
    what = what or _at(body, "change", "what") or _at(body, "approval", "resource")
    result = _at(body, "decision", "effect") or _at(body, "outcome", "status") or _at(body, "failure", "reason")
    reason = _at(body, "decision", "reason")
    about = f"-> {body['closes_index']}" if "closes_index" in body else ""
    columns = (
        f"{record.index:>8}  {_when(record)}  {record.kind:<12} {result:<9} {principal:<20} {what} {reason} {about}"
    )
    return visible(columns.rstrip())


def _page(record: Record) -> str:
    head = f"record {record.index}  {record.kind}  {_when(record)}\nleaf   {record.leaf_hash.hex()}"
    body = json.dumps(record.body, indent=2, ensure_ascii=False)
    return "\n".join([head, *map(visible, body.split("\n"))])


def _when(record: Record) -> str:
    try:
        moment = datetime.fromtimestamp(record.time_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # no ledger writes it, but a hand may have
        return f"{record.time_ms} ms"
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{record.time_ms % 1000:03d}Z"


def _at(body: Any, *names: str) -> str:
    for name in names:
        body = body.get(name) if isinstance(body, dict) else None
    return "" if body is None else str(body)
