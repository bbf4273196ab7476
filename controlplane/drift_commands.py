"""`controlplane drift`: how watched models are doing, a report on one, and its detectors over what was recorded.

Reads the monitor's file and changes nothing in it; neither the monitor nor the gateway has to run.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from audit import AuditError, LedgerReader
from controlplane.drift.history import History
from controlplane.drift.panel import DetectorStatus, Panel, Unpackable
from controlplane.drift.replay import Replay, replay_inputs, replay_labels, settle
from controlplane.drift.reporter import MADE, Reporter
from controlplane.drift.seats import Seats
from controlplane.drift.shelf import Shelf
from controlplane.monitor.process import FILE, load
from controlplane.monitor.settings import MonitorSettings, WatchedModel
from controlplane.settings_file import MONITOR_CONFIG

DAY_MS = int(timedelta(days=1).total_seconds() * 1000)
TRANSITION = "drift.transition"
MOVES_SHOWN = 5
NOT_STORED = (
    "Not replayed, because it is not stored: confidences, latency, timeouts, costs, rows that the gateway's guard kept "
    "away, signals of language models, and calls that the monitor forgot or never read. What another version would "
    "have answered is not known either: after a verdict the recorded version goes on."
)

FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
SINCE = click.option("--since", type=click.DateTime(FORMATS), help="From here on, UTC.")
UNTIL = click.option("--until", type=click.DateTime(FORMATS), help="Up to here, UTC.")


@click.group()
def drift() -> None:
    """Look at what the monitor watches: how it stands, why, and what other settings would have said."""


@drift.command()
@MONITOR_CONFIG
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    envvar="AUDIT_LEDGER",
    help="SQLite file of the ledger; shows each model's last moves.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per model and line.")
def status(config: Path, *, ledger: Path | None, as_json: bool) -> None:
    """Say where every watched model and its detectors stand, as the monitor last wrote it down."""
    settings = load(config)
    with opened(settings) as history:
        for model in settings.models:
            facts = facts_of(model, history) | {"moves": [] if ledger is None else moves_of(model.name, ledger)}
            click.echo(json.dumps(facts) if as_json else "\n".join(told(facts)))


@drift.command()
@MONITOR_CONFIG
@click.argument("model")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write the page (HTML).")
@click.option(
    "--kept",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="The gateway's drift.sqlite: show the reports that it keeps, and write the newest to --out.",
)
@SINCE
def report(config: Path, model: str, *, out: Path | None, kept: Path | None, since: datetime | None) -> None:
    """Make an Evidently report on MODEL: rows of the last day, or --since, against those before; or show kept ones.

    Made in a process of its own, with the memory, the time and the environment that the settings give it.
    """
    settings = load(config)
    watched = named(settings, model)
    if kept is not None:
        show_kept(model, kept, out)
        return
    with opened(settings) as history:
        newest_ms = (history.span(model) or (0, 0))[1]
        since_ms = ms_of(since) if since else newest_ms - DAY_MS
        version, before, now = history.day_against_before(
            model, since_ms, settings.report.reference_rows, settings.report.rows
        )
    with tempfile.TemporaryDirectory() as folder:
        made = asyncio.run(
            Reporter(settings.report, watched.feature_names).report(before, now, Path(folder) / "report")
        )
        why = Path(folder) / "report/failure.txt"
        if made.word != MADE:
            detail = f"\n{why.read_text(errors='replace')}" if why.exists() else ""
            raise click.ClickException(f"no report: {made.word}{detail}")
    click.echo(f"{model}/{version}: {len(now)} rows against {len(before)} before")
    click.echo(f"{made.drifted} of {made.columns} columns drift by Evidently's own thresholds")
    for name, score in list(made.scores.items())[:10]:
        click.echo(f"  {name:<30} {score:.3f}")
    if out is not None:
        out.write_bytes(gzip.decompress(made.html_gzip))
        click.echo(f"written to {out}")


@drift.command()
@MONITOR_CONFIG
@click.argument("model")
@SINCE
@UNTIL
@click.option("--version", type=int, help="Which version's answers; the newest by default.")
@click.option("--trigger", type=click.Choice(["sequential", "evidently"]), help="What watches the inputs.")
@click.option("--threshold", type=float, help="Drift score at which trigger evidently warns.")
@click.option("--window-rows", type=int, help="Rows of a window of trigger evidently.")
@click.option("--rows-per-false-alarm", type=int, help="Mean number of rows to a false alarm.")
@click.option("--reference-rows", type=int, help="Rows, the oldest of the period, that teach what is normal.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per verdict and line.")
def replay(config: Path, model: str, *, since: datetime | None, until: datetime | None, **wishes: Any) -> None:
    """Run the detectors of MODEL over recorded calls, with other settings, and say what would have happened."""
    settings = load(config)
    watched = changed(named(settings, model), wishes)
    period = (0 if since is None else ms_of(since), 2**62 if until is None else ms_of(until))
    with opened(settings) as history:
        versions = history.versions(model)
        version = wishes["version"] or (versions[-1] if versions else 0)
        if version not in versions:
            raise click.ClickException(f"nothing is remembered of {model}" + (f"/{version}" if version else ""))
        try:
            replayed = replayed_of(watched, version, history, period)
        except ValueError as error:
            raise click.ClickException(f"what is stored does not fit the settings: {error}") from error
    if wishes["as_json"]:
        for each in replayed.verdicts:
            click.echo(json.dumps({"model": model, "version": version, **said_of(each)}))
        return
    click.echo("\n".join(verdict_lines(f"{model}/{version}", replayed)))


def replayed_of(model: WatchedModel, version: int, history: History, period: tuple[int, int]) -> Replay:
    inputs, into = model.inputs, Replay()
    seats = Seats(inputs.rows_per_principal, inputs.block_rows, inputs.block_offered_rows)
    rows = history.rows(model.name, version, *period)
    parts = replay_inputs(
        model.feature_names, rows, inputs.panel, into, reference_rows=inputs.reference_rows, seats=seats
    )
    labelled = history.labelled(model.name, version, *period)
    return settle([*parts, *replay_labels(version, labelled, model.watch, into)], into)


def changed(model: WatchedModel, wishes: dict[str, Any]) -> WatchedModel:
    """The model's settings with what was asked for in their place. Raises ``click.ClickException``."""
    names = {"trigger": "trigger", "threshold": "drift_score_threshold", "window_rows": "window_rows"}
    panel = {field: wishes[name] for name, field in names.items() if wishes[name] is not None}
    inputs = model.inputs.model_dump()
    inputs["panel"] |= panel
    watch = model.watch.model_dump()
    if wishes["rows_per_false_alarm"] is not None:
        inputs["panel"]["budget"]["rows_per_false_alarm"] = wishes["rows_per_false_alarm"]
        watch["false_alarm_rows"] = wishes["rows_per_false_alarm"]
    if wishes["reference_rows"] is not None:
        inputs["reference_rows"] = wishes["reference_rows"]
    try:
        return WatchedModel.model_validate(model.model_dump() | {"inputs": inputs, "watch": watch})
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def said_of(each: Any) -> dict[str, Any]:
    return {
        "at_ms": each.at_ms,
        "detector": each.detector,
        "event": str(each.event),
        "about": each.about,
        "from": str(each.source),
        "to": str(each.target),
    }


def verdict_lines(title: str, replayed: Replay) -> Iterator[str]:
    skipped = f", {replayed.skipped} rows over a principal's share" if replayed.skipped else ""
    learnt = f"{replayed.reference_rows} rows learnt from"
    yield f"{title}: {learnt}, {replayed.rows} watched, {replayed.labels} labels{skipped}"
    for name, why in replayed.unarmed.items():
        yield f"  {name} could not be armed: {why.replace('_', ' ')}"
    for each in replayed.verdicts:
        moved = f"{each.source} → {each.target}" if each.source is not each.target else f"stays {each.target}"
        yield f"  {moment(each.at_ms)}  {each.detector:<15} {each.event!s:<15} {moved:<24} {each.about}"
    if not replayed.verdicts:
        yield "  no verdict"
    for standing in replayed.standing:
        yield f"  at the end {line_of(standing)}"
    yield f"It would be {replayed.state}."
    yield NOT_STORED


@contextmanager
def opened(settings: MonitorSettings) -> Iterator[History]:
    path = settings.state_dir / FILE
    try:
        with closing(History(path)) as history:
            yield history
    except sqlite3.Error as error:
        raise click.ClickException(f"{path}: {error}") from error


def named(settings: MonitorSettings, model: str) -> WatchedModel:
    found = next((each for each in settings.models if each.name == model), None)
    if found is None:
        raise click.ClickException(f"the monitor's settings do not name {model}")
    return found


def facts_of(model: WatchedModel, history: History) -> dict[str, Any]:
    course = history.document(f"course/{model.name}") or {}
    panel = panel_of(model.name, history)
    span = history.span(model.name)
    return {
        "model": model.name,
        "state": course.get("state", ""),
        "version": course.get("version"),
        "episode": course.get("episode"),
        "remembered": None if span is None else list(span),
        "detectors": [] if panel is None else [detector_facts(each) for each in panel.status()],
        "unarmed": {} if panel is None else dict(panel.unarmed),
        "report": course.get("report"),
    }


def panel_of(model: str, history: History) -> Panel | None:
    """As the monitor last wrote it down; None while the reference is being learnt."""
    enrolled, kept = history.document(f"panel-enrolment/{model}"), history.document(f"panel/{model}")
    if not enrolled or not kept or kept.get("state") is None:
        return None
    try:
        return Panel.restored(base64.b64decode(enrolled["bytes"]), base64.b64decode(kept["state"]))
    except (Unpackable, KeyError, ValueError):
        return None


def detector_facts(each: DetectorStatus) -> dict[str, Any]:
    return {
        "detector": each.detector,
        "evidence": each.evidence,
        "threshold": each.threshold,
        "tolerated": each.tolerated,
        "crossings": each.crossings,
    }


def moves_of(model: str, ledger: Path) -> list[dict[str, Any]]:
    """The newest moves in the ledger, the oldest first."""
    try:
        records = LedgerReader(ledger).read(limit=1_000, newest=True, kinds=[TRANSITION])
    except AuditError as error:
        raise click.ClickException(f"{ledger}: the ledger cannot be read: {error}") from error
    own = sorted((each for each in records if each.body["drift"].get("model") == model), key=lambda each: each.index)
    return [
        {"at_ms": each.time_ms, "index": each.index}
        | {name: each.body["drift"].get(name) for name in ("from", "to", "reason", "version", "new_version")}
        for each in own[-MOVES_SHOWN:]
    ]


def told(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{facts['model']}/{facts['version'] or '?'}: {facts['state'] or 'no call has been read yet'}"
    if facts["remembered"]:
        yield f"  remembers calls from {moment(facts['remembered'][0])} to {moment(facts['remembered'][1])}"
    for move in facts["moves"]:
        yield f"  {moment(move['at_ms'])}  {move['from']} → {move['to']}, {move['reason']} (#{move['index']})"
    for each in facts["detectors"]:
        yield f"  {line_of(DetectorStatus(arl_rows=0, **each))}"
    for name, why in facts["unarmed"].items():
        yield f"  {name} is not armed: {why.replace('_', ' ')}"
    if facts["state"] and not facts["detectors"]:
        yield "  inputs: what is normal is still being learnt"


def line_of(each: DetectorStatus) -> str:
    verdicts = f", {each.crossings} verdict{'s' * (each.crossings != 1)}" if each.crossings else ""
    return f"{each.detector:<15} evidence {each.evidence:.3g} of {each.threshold:.3g}{verdicts}"


def show_kept(model: str, path: Path, out: Path | None) -> None:
    try:
        require_reports(path)
        with closing(Shelf(path)) as shelf:
            reports = shelf.reports(model)
            html = shelf.html(model, reports[0].id) if reports else None
    except sqlite3.Error as error:
        raise click.ClickException(f"{path}: {error}") from error
    for each in reports:
        drifted = f"{each.drifted} of {each.columns} columns"
        click.echo(f"{moment(each.at_ms)}  {each.cause:<8} version {each.version}  {drifted}  {each.top}  {each.id}")
    if not reports:
        raise click.ClickException(f"no report on {model} is kept")
    if out is not None and html is not None:
        out.write_bytes(gzip.decompress(html))
        click.echo(f"the newest is written to {out}")


def require_reports(path: Path) -> None:
    """A shelf makes the tables it misses: not in a file that is something else, such as the ledger."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
        file.execute("SELECT id FROM report LIMIT 1")


def ms_of(when: datetime) -> int:
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
