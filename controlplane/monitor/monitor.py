"""Reads what the gateway observed, watches, and moves models through their states, one page after the other."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.drift.observed import Label
from controlplane.drift.rows import PRIMARY, Join, Prediction
from controlplane.drift.store import MonitorStore
from controlplane.monitor.client import Client, Page
from controlplane.monitor.reading import call_signals, copy_from, label_from, prediction_from
from controlplane.monitor.settings import MonitorSettings, WatchedModel
from controlplane.monitor.watching import Watching
from controlplane.retraining.loop import LoopSettings, ModelLoop, open_loop
from controlplane.retraining.ports import GatewayUnavailable, LoopPorts, TransitionRefused
from controlplane.telemetry.metrics import Metrics
from inference.tfserving.tensors import TensorError
from inference.tfserving.wire import WireError

log = logging.getLogger("controlplane.monitor")


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
    watching: Watching = field(init=False)
    _joins: dict[str, Join] = field(init=False)
    _models: dict[str, WatchedModel] = field(init=False)

    def __post_init__(self) -> None:
        self._models = {model.name: model for model in self.settings.models}
        self._joins = {name: Join(model.watch.pending_calls) for name, model in self._models.items()}
        self.watching = Watching(self.settings, self.store, metrics=self.metrics)
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
            LoopSettings(
                watch=model.watch,
                training=model.training,
                promotion=model.promotion,
                acting=model.acting,
                blocks=model.blocks,
            ),
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
        self.watching.saw(page, self.boot)
        if page.observations or page.next != self.cursor or page.boot != self.boot:
            self._take(page)
        else:
            self.watching.note_idle()
        await self.watching.tell()
        moved = False
        for loop in self.loops.values():
            moved |= await self._step(loop)
        return moved or bool(page.observations)

    async def _step(self, loop: ModelLoop) -> bool:
        try:
            moved = await loop.step()
        except TransitionRefused as refusal:
            log.error("a move of %s waits for a human: %s", loop.course.model, refusal)  # noqa: TRY400 - no bug
            return False
        if moved:
            log.info("%s/%d is %s", loop.course.model, loop.course.version, loop.course.state)
        return moved

    def _take(self, page: Page) -> None:
        with self.store.transaction():
            for observation in page.observations:
                self._observe(observation)
            for model, evidence in self.watching.close():
                self.loops[model].suspect(evidence)
            self.cursor, self.boot, self.lost = page.next, page.boot, self.lost + page.lost
            self.store.keep_document("cursor", {"after": self.cursor, "boot": self.boot})
            for loop in self.loops.values():
                loop.keep()
            waiting = sum(model.watch.pending_calls for model in self._models.values())
            self.store.forget(predictions=waiting, labelled=self.settings.kept_rows)

    def _observe(self, observation: Mapping[str, Any]) -> None:
        """What cannot be understood is counted and passed over: one bad observation must not stop the watch."""
        try:
            if observation["kind"] == "signals":
                loop = self.loops.get(observation["model"])
                self.watching.take_signals(observation, None if loop is None else loop.course.version)
                return
            if observation["kind"] == "copy":
                self._keep_copy(observation)
                return
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
            self._watch(found, call_signals(observation))
        else:
            self._match(found)

    def _keep_copy(self, observation: Mapping[str, Any]) -> None:
        loop = self.loops.get(observation["model"])
        if loop is not None and loop.tries(int(observation["version"])):
            self.store.keep_copy(copy_from(observation, self._models[observation["model"]]))

    def _expect(self, prediction: Prediction) -> None:
        if prediction.model not in self.loops:
            if prediction.rung != PRIMARY:
                return  # a fallback's answer does not say which version is served
            self._open(prediction.model, prediction.version)
        self.store.keep_prediction(prediction)
        self._joins[prediction.model].expect(prediction)
        self.loops[prediction.model].see(prediction)

    def _watch(self, prediction: Prediction, seen: dict[str, float]) -> None:
        loop = self.loops.get(prediction.model)
        if loop is None:
            return
        if loop.ports.broken(loop.course.version, prediction.inputs).any():
            seen["schema"] = 1.0
        self.watching.take_rows(prediction, loop.course.version, seen)

    def _match(self, label: Label) -> None:
        for name, join in self._joins.items():
            if (row := join.match(label)) is not None:
                self.loops[name].take(row)
                return

    async def run(self, stop: asyncio.Event) -> None:
        """Turn until ``stop``; an unavailable gateway is waited for, and said once for each reason that it has."""
        trouble = ""
        while not stop.is_set():
            try:
                busy, reason = await self.turn(), ""
            except GatewayUnavailable as error:
                busy, reason = False, str(error) or "no reason given"
            if trouble and not reason:
                log.info("gateway is back")
            elif reason != trouble:
                log.warning("gateway unavailable: %s", reason)
            trouble = reason
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
