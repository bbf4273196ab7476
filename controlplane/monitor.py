"""The monitor process: reads what the gateway observed, watches, and moves models through their states.

A process of its own: it imports numpy models and spawns trainers, and may be killed at any time. It holds no power: a
move is a wish that the gateway records and carries out. Fails open: without a monitor calls go on as they are.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import click
import numpy as np
from numpy.typing import NDArray
from prometheus_client import start_http_server
from pydantic import BaseModel, Field, ValidationError

from controlplane.drift.reporter import Reporter
from controlplane.drift.rows import PRIMARY, Join, Label, Prediction
from controlplane.drift.settings import ReportSettings, WatchSettings
from controlplane.drift.store import MonitorStore
from controlplane.policy.documents import BundleError, read_document
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.loop import (
    Gateway,
    GatewayUnavailable,
    LoopPorts,
    LoopSettings,
    ModelLoop,
    TransitionRefused,
    open_loop,
)
from controlplane.retraining.scoring import classes_of, savedmodel_score
from controlplane.retraining.settings import PromotionSettings, TrainingSettings
from controlplane.retraining.subprocess_trainer import SubprocessTrainer
from controlplane.telemetry.logs import configure_logging
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.settings import TelemetrySettings
from inference.tfserving.tensors import TensorError, read
from inference.tfserving.wire import PredictRequest, PredictResponse, WireError, parse

log = logging.getLogger("controlplane.monitor")

SERVER_ERROR = 500
TOO_MANY_REQUESTS = 429


class WatchedModel(BaseModel, frozen=True, extra="forbid"):
    """One model under watch."""

    name: str = Field(description="The model's name at the gateway and under models_root.")
    input: str = Field(default="x", description="Input tensor of shape (rows, features).")
    output: str = Field(default="probabilities", description="Output tensor: probabilities or integer classes.")
    feature_names: tuple[str, ...] = Field(description="Names of the features, in the order of the input's columns.")
    watch: WatchSettings = Field(default_factory=WatchSettings, description="How its labelled error is watched.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How it is retrained.")
    promotion: PromotionSettings = Field(
        default_factory=PromotionSettings, description="What a new version has to show."
    )


class MonitorSettings(BaseModel, frozen=True, extra="forbid"):
    """Everything the monitor process reads at its start."""

    gateway_url: str = Field(default="http://127.0.0.1:8080", description="Where the gateway's API is.")
    token_file: Path = Field(default=Path("var/monitor.token"), description="The monitor's token; read at every call.")
    state_dir: Path = Field(default=Path("var/monitor"), description="The monitor's memory, rows and reports.")
    models_root: Path = Field(default=Path("var/models"), description="<model>/<version>/, as model servers read it.")
    poll_s: float = Field(default=1.0, gt=0, description="Seconds between two readings when there is nothing new.")
    timeout_s: float = Field(default=10.0, gt=0, description="Seconds to wait for the gateway.")
    batch: int = Field(default=1_000, ge=1, description="Observations read at once.")
    kept_rows: int = Field(default=100_000, ge=1_000, description="Labelled rows remembered, over all models.")
    report: ReportSettings = Field(default_factory=ReportSettings, description="The report beside a verdict.")
    telemetry: TelemetrySettings = Field(
        default=TelemetrySettings(metrics_port=9465), description="Where the monitor's own metrics are."
    )
    models: tuple[WatchedModel, ...] = Field(default=(), description="Models under watch.")


@dataclass(frozen=True, slots=True)
class Page:
    """Observations after some sequence number; ``boot`` names the gateway's life, in which these numbers hold."""

    observations: Sequence[Mapping[str, Any]]
    next: int
    lost: int = 0
    boot: str = ""


class Client(Gateway, Protocol):
    async def observations(self, after: int, limit: int) -> Page:
        """What was observed after ``after``. Raises ``GatewayUnavailable``."""
        ...


class HttpClient:
    """The gateway over HTTP, as ``service:monitor``."""

    def __init__(self, settings: MonitorSettings, session: aiohttp.ClientSession) -> None:
        self._settings, self._session = settings, session

    async def observations(self, after: int, limit: int) -> Page:
        reply = await self._call("GET", "/api/observations", params={"after": after, "limit": limit})
        return Page(reply["observations"], reply["next"], reply.get("lost", 0), reply.get("boot", ""))

    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        await self._call("POST", f"/api/models/{model}/transitions", json=dict(move))

    async def _call(self, method: str, path: str, **sent: Any) -> Any:
        try:
            token = self._settings.token_file.read_text().strip()
            async with self._session.request(
                method, self._settings.gateway_url + path, headers={"authorization": f"Bearer {token}"}, **sent
            ) as reply:
                body = await reply.read()
                status = reply.status
            if status >= SERVER_ERROR or status in (401, 403, TOO_MANY_REQUESTS):
                # A refused token may be an expired one: the file is read again next time.
                raise GatewayUnavailable(f"{path} answered {status}: {body[:500]!r}")
            if status >= 400:  # noqa: PLR2004 - the rest of HTTP's client errors
                raise TransitionRefused(f"{path} answered {status}: {body[:500]!r}")
            return json.loads(body or b"{}")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise GatewayUnavailable(f"{path}: {error}") from error


def decode(request: bytes, reply: bytes, model: WatchedModel) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inputs (n, features) and predicted classes (n,) of one Predict exchange.

    Raises:
        WireError, TensorError, ValueError, KeyError: bytes that do not say what was asked and answered.
    """
    asked, answered = parse(PredictRequest, request).inputs, parse(PredictResponse, reply).outputs
    if model.input not in asked or model.output not in answered:
        raise KeyError(model.input)
    inputs = np.atleast_2d(np.asarray(read(asked[model.input]), np.float64))
    predicted = classes_of(read(answered[model.output]))
    if inputs.shape != (len(predicted), len(model.feature_names)):
        raise ValueError(f"inputs of shape {inputs.shape} for {len(predicted)} answers")
    return inputs, predicted


def prediction_from(observation: Mapping[str, Any], model: WatchedModel) -> Prediction:
    request, reply = base64.b64decode(observation["request"]), base64.b64decode(observation["reply"])
    inputs, predicted = decode(request, reply, model)
    return Prediction(
        call_id=str(observation["call_id"]),
        at_ms=int(observation["at_ms"]),
        model=model.name,
        version=int(observation["version"]),
        principal=str(observation["principal"]),
        rung=str(observation["rung"]),
        inputs=inputs,
        predicted=predicted,
    )


def label_from(observation: Mapping[str, Any]) -> Label:
    return Label(call_id=str(observation["call_id"]), row=int(observation["row"]), label=int(observation["label"]))


@dataclass(slots=True)
class Monitor:
    """Crash-only: on an error it does not expect it must be started again, and goes on from its file."""

    settings: MonitorSettings
    client: Client
    store: MonitorStore
    ports_for: Callable[[WatchedModel], LoopPorts]
    metrics: Metrics = field(default_factory=lambda: Metrics("monitor"))
    undecodable: int = 0
    lost: int = 0
    cursor: int = 0
    boot: str = ""
    loops: dict[str, ModelLoop] = field(default_factory=dict)
    _joins: dict[str, Join] = field(init=False)
    _models: dict[str, WatchedModel] = field(init=False)

    def __post_init__(self) -> None:
        self._models = {model.name: model for model in self.settings.models}
        self._joins = {name: Join(model.watch.pending_calls) for name, model in self._models.items()}
        kept = self.store.document("cursor") or {}
        self.cursor, self.boot = kept.get("after", 0), kept.get("boot", "")
        for prediction, labelled in self.store.waiting():
            if prediction.model in self._joins:
                self._joins[prediction.model].expect(prediction, labelled)
        for name in self._models:
            if self.store.document(f"course/{name}") is not None:
                self._open(name, 0)

    def _open(self, name: str, version: int) -> None:
        model, settings = self._models[name], self.settings
        self.loops[name] = open_loop(
            name,
            version,
            LoopSettings(watch=model.watch, training=model.training, promotion=model.promotion),
            self.ports_for(model),
            models_root=settings.models_root,
            rows=settings.state_dir / "rows",
        )

    async def turn(self) -> bool:
        """Read one page, then let every model make the moves it can; whether anything happened.

        Raises:
            GatewayUnavailable: nothing is lost, try again later.
        """
        page = await self.client.observations(self.cursor, self.settings.batch)
        if page.boot != self.boot:
            page = await self.client.observations(0, self.settings.batch)
        self.metrics.observe_monitor_pass(observations=len(page.observations), now_s=time.time())
        if page.lost:
            self.metrics.observe_monitor_gap()
        if page.observations or page.next != self.cursor or page.boot != self.boot:
            self._take(page)
        moved = False
        for loop in self.loops.values():
            moved |= await self._step(loop)
        return moved or bool(page.observations)

    async def _step(self, loop: ModelLoop) -> bool:
        try:
            moved = await loop.step()
        except TransitionRefused as refusal:
            log.error("the gateway refuses a move of %s: %s", loop.course.model, refusal)  # noqa: TRY400 - no bug
            return False
        if moved:
            log.info("%s/%d is %s", loop.course.model, loop.course.version, loop.course.state)
        return moved

    def _take(self, page: Page) -> None:
        with self.store.transaction():
            for observation in page.observations:
                self._observe(observation)
            self.cursor, self.boot, self.lost = page.next, page.boot, self.lost + page.lost
            self.store.keep_document("cursor", {"after": self.cursor, "boot": self.boot})
            for loop in self.loops.values():
                loop.keep()
            waiting = sum(model.watch.pending_calls for model in self._models.values())
            self.store.forget(predictions=waiting, labelled=self.settings.kept_rows)

    def _observe(self, observation: Mapping[str, Any]) -> None:
        """What cannot be understood is counted and passed over: one bad observation must not stop the watch."""
        try:
            if observation["kind"] == "label":
                found: Label | Prediction = label_from(observation)
            elif observation["model"] in self._models:
                found = prediction_from(observation, self._models[observation["model"]])
            else:
                return
        except (WireError, TensorError, ValueError, KeyError, TypeError):
            self.undecodable += 1
            return
        if isinstance(found, Prediction):
            self._expect(found)
        else:
            self._match(found)

    def _expect(self, prediction: Prediction) -> None:
        if prediction.model not in self.loops:
            if prediction.rung != PRIMARY:
                return  # a fallback's answer does not say which version is served
            self._open(prediction.model, prediction.version)
        self.store.keep_prediction(prediction)
        self._joins[prediction.model].expect(prediction)

    def _match(self, label: Label) -> None:
        for name, join in self._joins.items():
            if (row := join.match(label)) is not None:
                self.loops[name].take(row)
                return

    async def run(self, stop: asyncio.Event) -> None:
        """Turn until ``stop``; an unavailable gateway is waited for."""
        while not stop.is_set():
            try:
                busy = await self.turn()
            except GatewayUnavailable as error:
                log.warning("gateway unavailable: %s", error)
                busy = False
            if not busy:
                await _wait(stop, self.settings.poll_s)

    async def close(self) -> None:
        for loop in self.loops.values():
            await loop.close()
        self.store.close()


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


def ports_for(model: WatchedModel, settings: MonitorSettings, client: Client, store: MonitorStore) -> LoopPorts:
    """The real parts of one model's loop: its trainer, its scorer, its reports."""

    async def report(course: Course) -> Evidence:
        limit = settings.report.rows
        reference = store.rows_before(model.name, course.change_row, limit)
        _, current, _ = store.rows_between(model.name, course.change_row, limit=limit)
        out = settings.state_dir / "reports" / f"{model.name}-{course.version}-{course.episode}"
        return await Reporter(settings.report, model.feature_names).report(reference, current, out)

    return LoopPorts(
        store=store,
        gateway=client,
        trainer=SubprocessTrainer(model.training, settings.models_root),
        score=savedmodel_score(model.input, model.output),
        report=report if settings.report.enabled else None,
        progress=lambda said: log.info("training %s: %s", model.name, json.dumps(dict(said))),
    )


def monitor_of(settings: MonitorSettings, client: Client, metrics: Metrics | None = None) -> Monitor:
    store = MonitorStore(settings.state_dir / "monitor.sqlite")
    parts = partial(ports_for, settings=settings, client=client, store=store)
    return Monitor(settings, client, store, parts, metrics or Metrics("monitor"))


class PortTaken(Exception):
    """The port of the metrics is somebody else's: perhaps another monitor runs."""


async def serve(settings: MonitorSettings) -> None:
    """Run until SIGTERM or SIGINT."""
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
        monitor = monitor_of(settings, HttpClient(settings, session), metrics)
        try:
            await monitor.run(stop)
        finally:
            await monitor.close()


def load(path: Path) -> MonitorSettings:
    """Raises ``click.ClickException`` with everything that is wrong."""
    try:
        return MonitorSettings.model_validate(read_document(str(path), path.read_bytes()).value or {})
    except OSError as error:
        problems = [f"{path}: {error.strerror}"]
    except BundleError as error:
        problems = [str(problem) for problem in error.problems]
    except ValidationError as error:
        problems = [f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    raise click.ClickException("\n".join(problems))


@click.command("monitor", short_help="Watch models for drift and retrain those that labels prove wrong.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("monitor.yaml"),
    show_default=True,
    envvar="CONTROLPLANE_MONITOR_CONFIG",
    help="Settings file (YAML); see docs/SETTINGS.md.",
)
def monitor_command(config: Path) -> None:
    """Watch the models that CONFIG names and retrain those whose labels prove them wrong.

    Needs a token for `service:monitor`, in the file that the settings name. Holds no power of its own: every move is
    asked of the gateway, which records it first. May be killed at any time; started again, it goes on where it was.
    """
    settings = load(config)
    configure_logging(settings.telemetry.log_level)
    try:
        asyncio.run(serve(settings))
    except PortTaken as error:
        raise click.ClickException(str(error)) from error
