"""`controlplane costs`: what was spent, read from the ledger. Nothing here needs the gateway to run."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import click
import msgspec

from audit import AuditError, AuditSettings, LedgerReader
from controlplane.cost.book import CostBook, Row

PARTS = ("day", "tenant", "agent", "model")
DAY = "%Y-%m-%d"
MICRO = 1_000_000
HEADINGS = ("calls", "US dollars", "saved", "tokens in", "out", "Wh", "estimated")


@click.command()
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    default=AuditSettings().path,
    show_default=True,
    envvar="AUDIT_LEDGER",
    help="SQLite file of the ledger.",
)
@click.option("--by", default="day,model", show_default=True, help="Any of day, tenant, agent, model; with commas.")
@click.option("--since", type=click.DateTime([DAY]), metavar="YYYY-MM-DD", help="First day, UTC.")
@click.option("--until", type=click.DateTime([DAY]), metavar="YYYY-MM-DD", help="Last day, UTC.")
@click.option("--tenant", "tenants", multiple=True, help="Only this tenant's; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
def costs(
    ledger: Path, *, by: str, since: datetime | None, until: datetime | None, tenants: tuple[str, ...], as_json: bool
) -> None:
    """Say what calls to models cost, from the outcomes in the ledger."""
    wanted = [part.strip() for part in by.split(",") if part.strip()]
    if not set(wanted) <= set(PARTS):
        raise click.BadParameter(f"any of {', '.join(PARTS)}", param_hint="--by")
    try:
        book = CostBook(LedgerReader(ledger))
        book.catch_up()
    except AuditError as error:
        raise click.ClickException(f"{ledger}: the ledger cannot be read: {error}") from error
    first, last = ("" if day is None else day.date().isoformat() for day in (since, until))
    rows = book.report(wanted, tenants or None, first, last)
    if as_json:
        for row in rows:
            parts = {part: getattr(row.key, part) for part in PARTS if part in wanted}
            click.echo(json.dumps(parts | msgspec.structs.asdict(row.sums)))
        return
    click.echo("\n".join(_table([part for part in PARTS if part in wanted], rows)))


def _table(parts: list[str], rows: list[Row]) -> list[str]:
    lines = [[*parts, *HEADINGS], *([*(getattr(row.key, part) for part in parts), *_figures(row)] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    words = len(parts)
    return [
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _figures(row: Row) -> list[str]:
    sums = row.sums
    money = [f"{amount / MICRO:.6f}" for amount in (sums.micro_usd, sums.saved_micro_usd)]
    counts = (sums.input_tokens, sums.output_tokens)
    return [str(sums.calls), *money, *map(str, counts), f"{sums.energy_uwh / MICRO:.6f}", str(sums.estimated)]
