"""The monitor as a process: its real parts, its settings file, its command."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import aiohttp
import click
from prometheus_client import start_http_server
from pydantic import ValidationError

from controlplane.drift.history import History
from controlplane.drift.store import MonitorStore
from controlplane.monitor.client import Client, HttpClient
from controlplane.monitor.monitor import Monitor
from controlplane.monitor.ranges import Ranges
from controlplane.monitor.reports import Desk, Reports
from controlplane.monitor.settings import MonitorSettings, WatchedModel
from controlplane.monitor.showing import Showing, Standing, labelled
from controlplane.policy.documents import BundleError, read_document
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.mlflow_mirror import mirrored
from controlplane.retraining.ports import LoopPorts
from controlplane.retraining.runners.choice import RunnerNotInstalled, trainer_for
from controlplane.retraining.scoring import savedmodel_score
from controlplane.settings_file import MONITOR_CONFIG, problems_of
from controlplane.telemetry.logs import configure_logging
from controlplane.telemetry.metrics import Metrics

FILE = "monitor.sqlite"
log = logging.getLogger("controlplane.monitor")


def ports_for(
    model: WatchedModel, settings: MonitorSettings, client: Client, store: MonitorStore, reports: Reports
) -> LoopPorts:
    """The real parts of one model's loop: its trainer, its scorer, its reports."""

    async def report(course: Course) -> Evidence:
        return await reports.on_alarm(model, course)

    ranges = Ranges(settings.models_root / model.name, model.input, model.feature_names)
    return LoopPorts(
        store=store,
        gateway=mirrored(client, model.promotion.mlflow, settings.models_root),
        trainer=trainer_for(model.training, settings.models_root),
        score=savedmodel_score(model.input, model.output),
        report=report if settings.report.enabled else None,
        progress=lambda said: log.info("training %s: %s", model.name, json.dumps(dict(said))),
        broken=ranges.broken,
        describe=ranges.describe,
    )


def reports_of(settings: MonitorSettings, desk: Desk | None, metrics: Metrics) -> Reports:
    history = partial(History, settings.state_dir / FILE)
    return Reports(settings.report, desk, history, settings.state_dir / "reports", metrics)


def monitor_of(
    settings: MonitorSettings, client: Client, metrics: Metrics | None = None, reports: Reports | None = None
) -> Monitor:
    metrics = metrics or Metrics("monitor")
    store = MonitorStore(settings.state_dir / FILE)
    reports = reports or reports_of(settings, None, metrics)
    parts = partial(ports_for, settings=settings, client=client, store=store, reports=reports)
    return Monitor(settings, client, store, parts, metrics)


def standings(monitor: Monitor) -> Iterator[Standing]:
    """Where the detectors stand: of labels, and of everything else that is watched."""
    for name, loop in monitor.loops.items():
        detectors = [labelled(loop.watch), *monitor.watching.status(name)]
        yield Standing(name, loop.watch.version, [each for each in detectors if each is not None])
    for name, panel in monitor.watching.panels.items():
        if name not in monitor.loops:
            yield Standing(name, panel.version, monitor.watching.status(name))


class PortTaken(Exception):
    """The port of the metrics is somebody else's: perhaps another monitor runs."""


class StateUnusable(Exception):
    """What the monitor remembers cannot be kept where the settings say."""


async def serve(settings: MonitorSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises ``PortTaken``, ``RunnerNotInstalled``, ``StateUnusable``."""
    for model in settings.models:
        trainer_for(model.training, settings.models_root)  # at the start, and not when a model is first in need
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    timeout = aiohttp.ClientTimeout(total=settings.timeout_s)
    metrics = Metrics("monitor", version("agent-controlplane"), settings.telemetry.label_caps)
    try:
        start_http_server(settings.telemetry.metrics_port, settings.telemetry.metrics_host, metrics.registry)
    except OSError as error:
        where = f"{settings.telemetry.metrics_host}:{settings.telemetry.metrics_port}"
        raise PortTaken(f"cannot listen on {where}: {error.strerror}") from error
    async with aiohttp.ClientSession(timeout=timeout) as session:
        client = HttpClient(settings, session)
        reports = reports_of(settings, client, metrics)
        try:
            monitor = monitor_of(settings, client, metrics, reports)
        except (OSError, sqlite3.Error) as error:
            raise StateUnusable(f"{settings.state_dir / FILE}: {error}") from error
        monitor.watching.desk = client
        showing = Showing(partial(standings, monitor), client, time.time, metrics)
        beside = [asyncio.create_task(each) for each in (reports.keep(settings.models, stop), showing.keep(stop))]
        try:
            await monitor.run(stop)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            await monitor.close()


def load(path: Path) -> MonitorSettings:
    """Raises ``click.ClickException`` with everything that is wrong."""
    try:
        document = read_document(str(path), path.read_bytes())
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error
    except BundleError as error:
        raise click.ClickException("\n".join(map(str, error.problems))) from error
    try:
        return MonitorSettings.model_validate(document.value or {})
    except ValidationError as error:
        raise click.ClickException("\n".join(problems_of(error, document))) from error


@click.command("monitor", short_help="Watch models for drift and retrain those that labels prove wrong.")
@MONITOR_CONFIG
def monitor_command(config: Path) -> None:
    """Watch the models that CONFIG names and retrain those whose labels prove them wrong.

    Needs a token for `service:monitor`, in the file that the settings name. Holds no power of its own: every move is
    asked of the gateway, which records it first. May be killed at any time; started again, it goes on where it was.
    """
    settings = load(config)
    configure_logging(settings.telemetry.log_level)
    try:
        asyncio.run(serve(settings))
    except (PortTaken, RunnerNotInstalled, StateUnusable) as error:
        raise click.ClickException(str(error)) from error
