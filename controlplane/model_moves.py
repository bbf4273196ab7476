"""What the monitor asks for, recorded and then done: model states, holds on breakers, moves of labels.

The ledger is the memory: states and holds are read back from its ``drift.transition`` records at start. A move asked
for twice with one key is recorded once and carried out again; each of its deeds may be repeated.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from audit import SqliteLedger
from controlplane.calls import Principal
from controlplane.drift.states import SERVING, Event, IllegalTransition, Serving, State, after
from controlplane.fleet import Fleet
from controlplane.resilience.breakers import breaker_name
from controlplane.telemetry.metrics import Metrics

KIND = "drift.transition"
HOLD_REASON = "drift"
PAGE = 1000
VERDICTS = {Event.SUSPECTED, Event.ROWS_BROKEN, Event.RISK_LEFT_BAND, Event.QUIET, Event.ROWS_SOUND}
log = logging.getLogger(__name__)


class MoveRefused(Exception):
    """``reason``: ``malformed``, ``unknown_model``, ``illegal_transition``, ``out_of_step``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class ModelState:
    model: str
    version: int
    state: State
    reason: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Move:
    """One transition as it is asked for. ``new_version`` is the challenger, where there is one."""

    key: str
    version: int
    source: State
    target: State
    event: Event
    evidence: Mapping[str, int | str]
    new_version: int | None

    @property
    def serving_version(self) -> int:
        promoted = self.target is State.PROMOTED and self.new_version is not None
        return self.new_version if promoted and self.new_version is not None else self.version


def read_move(wish: Mapping[str, Any]) -> Move:
    """Raises ``MoveRefused``."""
    try:
        move = Move(
            key=str(wish["key"]),
            version=int(wish["version"]),
            source=State(wish["from"]),
            target=State(wish["to"]),
            event=Event(wish["reason"]),
            evidence={str(k): v if isinstance(v, int) else str(v) for k, v in dict(wish.get("evidence") or {}).items()},
            new_version=None if wish.get("new_version") is None else int(wish["new_version"]),
        )
        legal = after(move.source, move.event) is move.target
    except IllegalTransition as error:
        raise MoveRefused("illegal_transition", str(error)) from None
    except (KeyError, TypeError, ValueError) as error:
        raise MoveRefused("malformed", f"not a transition: {error!r}") from None
    if not legal:
        raise MoveRefused("illegal_transition", f"{move.event} does not lead from {move.source} to {move.target}")
    return move


class ModelMoves:
    def __init__(self, ledger: SqliteLedger, fleet: Fleet, metrics: Metrics) -> None:
        self._ledger, self._fleet, self._metrics = ledger, fleet, metrics
        self._states: dict[str, ModelState] = {}
        self._recorded: set[str] = set()

    @property
    def states(self) -> Mapping[str, ModelState]:
        return dict(self._states)

    def resume(self) -> None:
        """Take states and holds from the ledger. Blocking; call before serving."""
        at = -1
        while records := self._ledger.read(at, PAGE, kinds=[KIND]):
            for record in records:
                said = record.body["drift"]
                move = read_move(said)
                self._recorded.add(move.key)
                self._enter(said["model"], move, record.time_ms)
                self._hold_or_release(said["model"], move)
            at = records[-1].index

    async def ask(self, model: str, wish: Mapping[str, Any], by: Principal) -> ModelState:
        """Record the move, then carry it out. Safe to ask again with the same key.

        Raises:
            MoveRefused: it is not a legal move of that model now.
            AuditUnavailable: it cannot be recorded, therefore nothing is done.
            BackendError, DeploymentError: recorded, and the model server would not follow; ask again.
        """
        move = read_move(wish)
        if self._fleet.deployment_of(model) is None:
            raise MoveRefused("unknown_model", f"{model} is not deployed through this gateway")
        if move.key not in self._recorded:
            known = self._states.get(model)
            if known is not None and known.state is not move.source:
                raise MoveRefused("out_of_step", f"{model} is {known.state}, not {move.source}")
            await self._record(model, move, wish, by)
        await self._carry_out(model, move)
        return self._states[model]

    async def _record(self, model: str, move: Move, wish: Mapping[str, Any], by: Principal) -> None:
        said = {**{k: wish[k] for k in ("key", "version", "from", "to", "reason") if k in wish}, "model": model}
        said |= {"evidence": dict(move.evidence), "by": by.subject}
        if move.new_version is not None:
            said["new_version"] = move.new_version
        receipt = await self._ledger.append(KIND, {"drift": said})
        self._recorded.add(move.key)
        record = self._ledger.find(receipt.event_id)
        self._enter(model, move, record.time_ms if record else 0)
        self._count(model, move)
        log.warning("model moved", extra={"model": model, "state": move.target.value, "reason": move.event.value})

    async def _carry_out(self, model: str, move: Move) -> None:
        self._hold_or_release(model, move)
        deployment = self._fleet.deployment_of(model)
        if move.target is State.PROMOTED and move.new_version is not None and deployment is not None:
            await deployment.load(model, move.new_version)
            await deployment.move_label(model, "stable", move.new_version)

    def _enter(self, model: str, move: Move, at_ms: int) -> None:
        self._states[model] = ModelState(model, move.serving_version, move.target, move.event.value, at_ms)
        self._metrics.observe_drift_state(model=model, state=move.target.value)

    def _hold_or_release(self, model: str, move: Move) -> None:
        """A distrusted version stays held even after its challenger was promoted: nobody has cleared it."""
        name = breaker_name(model, move.version)
        if SERVING[move.target] in (Serving.FALLBACK, Serving.FALLBACK_AND_CHALLENGER):
            self._fleet.breakers.hold(name, HOLD_REASON)
        elif move.event is Event.REVIEWED:
            self._fleet.breakers.release(name, HOLD_REASON)

    def _count(self, model: str, move: Move) -> None:
        if move.event in VERDICTS:
            self._metrics.observe_verdict(model=model, verdict=move.target.value)
        if move.event is Event.RETRAIN:
            self._metrics.observe_retraining_started()
        if move.event in (Event.TRAINED, Event.TRAINING_FAILED):
            outcome = "succeeded" if move.event is Event.TRAINED else "failed"
            self._metrics.observe_retraining_ended(model=model, outcome=outcome)
        if move.event in (Event.WON, Event.LOST):
            self._metrics.observe_promotion(model=model, outcome=move.event.value)
