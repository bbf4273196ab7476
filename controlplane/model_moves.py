"""What the monitor asks for, recorded and then done: model states, holds on breakers, canaries, moves of labels.

The ledger is the memory: states, holds and what humans said are read back at start from its ``drift.transition``,
``drift.release`` and ``drift.review`` records. A move asked for twice with one key is recorded once. Its deeds are done
again only while it is the model's last move: an older one must not undo what was decided after it. Fails closed: not
recorded, therefore not done.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from audit import AuditUnavailable, LedgerReceipt, Record, RecordRefused, SqliteLedger
from controlplane.calls import Principal
from controlplane.drift.states import Event, IllegalTransition, Serving, State, line_of, serving_after
from controlplane.fleet import Fleet
from controlplane.resilience.breakers import breaker_name
from controlplane.telemetry.metrics import Metrics

KIND, RELEASE, REVIEW = "drift.transition", "drift.release", "drift.review"
HOLD_REASON = "drift"
PAGE = 1000
PERCENT = 100
REVIEWS = ("healthy", "fallback", "retrain")
KEYS_KEPT = 10_000  # a repeat comes within seconds of the first asking; this many moves of one gateway take months
VERDICTS = {
    Event.SUSPECTED,
    Event.ROWS_BROKEN,
    Event.ROWS_MOSTLY_BROKEN,
    Event.RISK_LEFT_BAND,
    Event.QUIET,
    Event.ROWS_SOUND,
}
ENDINGS = {Event.TRAINED: "succeeded", Event.TRAINING_FAILED: "failed", Event.TRAINING_PUT_OFF: "put_off"}
log = logging.getLogger(__name__)


class MoveRefused(Exception):
    """``reason``: ``malformed``, ``unknown_model``, ``illegal_transition``, ``out_of_step``, ``key_reused``; for a
    release ``not_held`` or ``under_watch``; for a review ``not_degraded``.
    """

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
    serving: Serving = Serving.PRIMARY


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a human said of a degraded version; ``id`` names the record of it."""

    id: str
    answer: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Move:
    """One transition as it is asked for. ``new_version`` is the challenger and ``percent`` its share, if any: of the
    calls that are copied to it, or of the agents whom it answers.
    """

    key: str
    version: int
    source: State
    target: State
    event: Event
    evidence: Mapping[str, int | str]
    new_version: int | None
    percent: int | None = None

    @property
    def serving_version(self) -> int:
        promoted = self.target is State.PROMOTED and self.new_version is not None
        return self.new_version if promoted and self.new_version is not None else self.version

    def facts(self) -> dict[str, Any]:
        """What the ledger says of it; ``parse_move`` reads it back to an equal move."""
        facts: dict[str, Any] = {"key": self.key, "version": self.version, "from": self.source.value}
        facts |= {"to": self.target.value, "reason": self.event.value, "evidence": dict(self.evidence)}
        more = {"new_version": self.new_version, "percent": self.percent}
        return facts | {name: value for name, value in more.items() if value is not None}


def parse_move(said: Mapping[str, Any]) -> Move:
    """Raises ``MoveRefused``: ``malformed``."""
    try:
        return Move(
            key=str(said["key"]),
            version=int(said["version"]),
            source=State(said["from"]),
            target=State(said["to"]),
            event=Event(said["reason"]),
            evidence={str(k): v if isinstance(v, int) else str(v) for k, v in dict(said.get("evidence") or {}).items()},
            new_version=None if said.get("new_version") is None else int(said["new_version"]),
            percent=None if said.get("percent") is None else int(said["percent"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise MoveRefused("malformed", f"not a transition: {error!r}") from None


def read_move(wish: Mapping[str, Any]) -> Move:
    """A move that the table of states has. Raises ``MoveRefused``."""
    move = parse_move(wish)
    try:
        legal = line_of(move.source, move.event).target is move.target
    except IllegalTransition as error:
        raise MoveRefused("illegal_transition", str(error)) from None
    if not legal:
        raise MoveRefused("illegal_transition", f"{move.event} does not lead from {move.source} to {move.target}")
    if move.version < 1 or (move.new_version is not None and move.new_version < 1):
        raise MoveRefused("malformed", "versions are positive")
    if move.target is State.PROMOTED and move.new_version in (None, move.version):
        raise MoveRefused("malformed", "a promotion names the new version")
    _require_share(move)
    return move


def _require_share(move: Move) -> None:
    """A canary has a share of the agents; a shadow may have one of the calls, which are copied."""
    if move.percent is None and move.target is not State.CANARY:
        return
    if move.target not in (State.SHADOW, State.CANARY) or not 1 <= (move.percent or 0) <= PERCENT:
        raise MoveRefused("malformed", "a canary, a shadow, and nothing else, has a share from 1 to 100 percent")
    if move.new_version in (None, move.version):
        raise MoveRefused("malformed", "a share is the new version's")


class ModelMoves:
    """One model's moves are recorded and done one after the other; models do not wait for each other's servers."""

    def __init__(
        self, ledger: SqliteLedger, fleet: Fleet, metrics: Metrics, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger, self._fleet, self._metrics, self._wall_clock = ledger, fleet, metrics, wall_clock
        self._states: dict[str, ModelState] = {}
        self._known: OrderedDict[str, tuple[str, Move]] = OrderedDict()  # key → model and move, oldest first
        self._last: dict[str, Move] = {}
        self._reviews: dict[str, Reviewed] = {}  # the newest word on a model, while it is degraded
        self._seen = -1  # every transition in the ledger up to this index is known here
        self._is_unsure = False  # a refused record may still have landed after it
        self._recording = anyio.Lock()
        self._moving: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    @property
    def states(self) -> Mapping[str, ModelState]:
        return dict(self._states)

    def resume(self) -> None:
        """Take states and holds from the ledger. Blocking; call before serving."""
        while records := self._unseen():
            self._take(records)
        for state in self._states.values():
            if state.state is State.RETRAINING:
                self._metrics.observe_retraining_started()

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
        async with self._moving[model]:
            async with self._recording:
                await self._record(model, move, by)
            if self._last[model] == move:
                await self._carry_out(model, move)
            return self._states[model]

    def review_of(self, model: str) -> Reviewed | None:
        """The newest word of a human on ``model`` since it became degraded."""
        return self._reviews.get(model)

    async def review(self, model: str, answer: str, by: Principal, reason: str, key: str = "") -> LedgerReceipt:
        """Record what a human says of a degraded version. The monitor reads it and makes the move that follows.

        Raises:
            MoveRefused: it is not degraded, or the answer is none of ``REVIEWS``.
            AuditUnavailable: it cannot be recorded, therefore it is not said.
        """
        if answer not in REVIEWS:
            raise MoveRefused("malformed", f"an answer is one of {', '.join(REVIEWS)}")
        async with self._moving[model]:
            async with self._recording:
                if self._is_unsure:
                    await self._catch_up()
                known = self._states.get(model)
                if known is None or known.state is not State.DEGRADED:
                    raise MoveRefused("not_degraded", f"{model} is {known.state if known else 'not watched'}")
                said: dict[str, Any] = {"model": model, "version": known.version, "answer": answer}
                said |= {"by": by.subject, "reason": reason} | ({"key": key} if key else {})
                receipt = await self._append(REVIEW, {"drift": said})
            self._reviews[model] = Reviewed(str(receipt.index), answer, by.subject, reason)
            log.warning("model reviewed", extra={"model": model, "answer": answer})
            return receipt

    async def release(self, model: str, version: int, by: Principal, reason: str, key: str = "") -> LedgerReceipt:
        """Let go of the hold on a version that is no longer the model's own. Recorded first; after a restart it holds.

        Raises:
            MoveRefused: nothing is held, or the version is the one under watch: that one is reviewed.
            AuditUnavailable: it cannot be recorded, therefore nothing is done.
        """
        async with self._moving[model]:
            async with self._recording:
                if self._is_unsure:
                    await self._catch_up()
                self._require_releasable(model, version)
                said = {"model": model, "version": version, "by": by.subject, "reason": reason}
                receipt = await self._append(RELEASE, {"drift": said | ({"key": key} if key else {})})
            self._fleet.breakers.release(breaker_name(model, version), HOLD_REASON)
            log.warning("hold released", extra={"model": model, "version": version})
            return receipt

    def _require_releasable(self, model: str, version: int) -> None:
        known = self._states.get(model)
        if known is not None and known.version == version and known.serving is Serving.FALLBACK:
            said = f"{model}/{version} is {known.state}; a review decides, as a transition"
            raise MoveRefused("under_watch", said)
        name = breaker_name(model, version)
        if not any(each.name == name and HOLD_REASON in each.holds for each in self._fleet.breakers.snapshot()):
            raise MoveRefused("not_held", f"drift holds nothing of {name}")

    async def _append(self, kind: str, body: Mapping[str, Any]) -> LedgerReceipt:
        """Nobody can leave in the middle, for no cancellation cuts the ledger short: what is on disk is known here."""
        self._seen, self._is_unsure = max(self._seen, self._ledger.head.size - 1), True
        try:
            receipt = await self._ledger.append(kind, body)
        except RecordRefused as error:
            self._is_unsure = False
            raise MoveRefused("malformed", f"cannot be recorded: {error}") from None
        self._seen, self._is_unsure = receipt.index, False
        return receipt

    async def _record(self, model: str, move: Move, by: Principal) -> None:
        """Nothing when it is in the ledger already."""
        if self._is_unsure:
            await self._catch_up()
        if self._is_known(model, move):
            return
        self._require_next(model, move)
        serving = serving_after(self._serving(model), line_of(move.source, move.event))
        said = {"model": model, "by": by.subject, "serving": serving.value}
        await self._append(KIND, {"drift": move.facts() | said})
        self._enter(model, move, round(self._wall_clock() * 1000), serving)
        self._count(model, move)
        log.warning("model moved", extra={"model": model, "state": move.target.value, "reason": move.event.value})

    def _serving(self, model: str) -> Serving:
        known = self._states.get(model)
        return Serving.PRIMARY if known is None else known.serving

    def _is_known(self, model: str, move: Move) -> bool:
        known = self._known.get(move.key)
        if known is None:
            return False
        if known != (model, move):
            raise MoveRefused("key_reused", f"{move.key} was another move")
        return True

    def _require_next(self, model: str, move: Move) -> None:
        known = self._states.get(model)
        state, version = (State.LEARNING, move.version) if known is None else (known.state, known.version)
        if (state, version) != (move.source, move.version):
            said = f"{model}/{version} is {state}; the move is of {move.version} from {move.source}"
            raise MoveRefused("out_of_step", said)

    async def _catch_up(self) -> None:
        """Find what landed although it was refused as late.

        While the ledger is in trouble nobody can tell; when it no longer is, what it refused has landed or never will.
        """
        if self._ledger.trouble is not None:
            raise AuditUnavailable(self._ledger.trouble)
        while records := await anyio.to_thread.run_sync(self._unseen):
            self._take(records)
        self._is_unsure = False

    def _unseen(self) -> list[Record]:
        return self._ledger.read(self._seen, PAGE, kinds=[KIND, RELEASE, REVIEW])

    def _take(self, records: list[Record]) -> None:
        """Moves as they were recorded: legal when they were made, whatever the table says today."""
        for record in records:
            said = record.body["drift"]
            if record.kind == RELEASE:
                self._fleet.breakers.release(breaker_name(said["model"], said["version"]), HOLD_REASON)
            elif record.kind == REVIEW:
                self._reviews[said["model"]] = Reviewed(str(record.index), said["answer"], said["by"], said["reason"])
            else:
                move = parse_move(said)
                self._enter(said["model"], move, record.time_ms, _serving_in(said, move))
            self._seen = record.index

    def _enter(self, model: str, move: Move, at_ms: int, serving: Serving) -> None:
        self._last[model] = move
        self._known[move.key] = model, move
        if len(self._known) > KEYS_KEPT:
            self._known.popitem(last=False)
        before = self._serving(model)
        self._states[model] = ModelState(model, move.serving_version, move.target, move.event.value, at_ms, serving)
        if move.target is not State.DEGRADED:
            self._reviews.pop(model, None)
        self._metrics.observe_drift_state(model=model, state=move.target.value)
        self._hold_or_release(model, move, before, serving)
        at_fault = {model} if serving is Serving.FALLBACK_FOR_BROKEN_ROWS else set[str]()
        self._fleet.guards.faulty = self._fleet.guards.faulty - {model} | at_fault

    async def _carry_out(self, model: str, move: Move) -> None:
        """Holds came with the record; what a model server has to do may fail, and is done when asked for again."""
        deployment = self._fleet.deployment_of(model)
        if deployment is None or move.new_version is None:
            return
        if move.target is State.SHADOW and move.percent:
            await deployment.set_shadow(model, move.new_version, move.percent, on_trial=True)
        elif move.target is State.CANARY:
            await deployment.set_canary(model, move.new_version, move.percent or 0)
        elif move.target is State.PROMOTED:
            await deployment.load(model, move.new_version)
            await deployment.move_label(model, "stable", move.new_version)
        elif move.target is State.ROLLED_BACK and move.source is not State.RETRAINING:
            await deployment.withdraw(model, move.new_version)
        else:
            return
        await self._fleet.learn(model)

    def _hold_or_release(self, model: str, move: Move, before: Serving, serving: Serving) -> None:
        """A distrusted version stays held after its challenger was promoted, until somebody releases it."""
        name = breaker_name(model, move.version)
        if serving is Serving.FALLBACK:
            self._fleet.breakers.hold(name, HOLD_REASON)
        elif before is Serving.FALLBACK and move.target is not State.PROMOTED:
            self._fleet.breakers.release(name, HOLD_REASON)

    def _count(self, model: str, move: Move) -> None:
        if move.event in VERDICTS:
            self._metrics.observe_verdict(model=model, verdict=move.target.value)
        if move.event is Event.RETRAIN:
            self._metrics.observe_retraining_started()
        if move.event in ENDINGS:
            self._metrics.observe_retraining_ended(model=model, outcome=ENDINGS[move.event])
        if move.event in (Event.WON, Event.LOST):
            self._metrics.observe_promotion(model=model, outcome=move.event.value)


def _serving_in(said: Mapping[str, Any], move: Move) -> Serving:
    """Records of earlier releases have no ``serving``: then a degraded version never answered."""
    if "serving" in said:
        return Serving(said["serving"])
    kept = (State.LEARNING, State.HEALTHY, State.WARN, State.DATA_FAULT, State.PROMOTED)
    return Serving.PRIMARY if move.target in kept else Serving.FALLBACK
