"""What operators and the monitor reach through the console: our parts in the shape of the console's ports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit import LedgerReader, LedgerReceipt, SqliteLedger
from controlplane.calls import Call, Principal, new_call_id
from controlplane.clock import Clock
from controlplane.console.approval_views import ApprovalControl
from controlplane.console.behaviour_views import BehaviourControl
from controlplane.console.cost_views import CostsView
from controlplane.console.drift_views import DriftView
from controlplane.console.playbook_views import PlaybooksView
from controlplane.console.ports import (
    AdaptationControl,
    Authorize,
    ChangeFailed,
    ChangeRefused,
    ConsolePorts,
    ModelView,
    NotAllowed,
    NotProven,
    OutcomeLabel,
    SelectionControl,
    Unavailable,
)
from controlplane.fleet import Fleet
from controlplane.gateway.gateway import DecisionPoint, Identity
from controlplane.identity.errors import IdentityUnavailable, Unauthenticated
from controlplane.identity.metadata import challenge
from controlplane.identity.settings import IdentitySettings
from controlplane.model_moves import ModelMoves, MoveRefused, Reviewed
from controlplane.observations import Label, Observations
from controlplane.policy import BundlePolicy, Catalogue
from controlplane.shown import replicas_shown
from inference.errors import BackendError
from inference.tfserving.deployment import Deployment, DeploymentError

REFUSALS = frozenset(
    {"already_stable", "labelled", "no_previous", "no_such_version", "not_available", "out_of_step", "unknown_model"}
)
"""Reasons of a deployment that mean that the change is not possible as things are; any other is a failure."""


@dataclass(frozen=True, slots=True)
class Operations:
    """Everything the console may see or ask for."""

    settings: IdentitySettings
    identity: Identity
    policy: BundlePolicy
    ledger: SqliteLedger
    reader: LedgerReader
    fleet: Fleet
    moves: ModelMoves
    observations: Observations
    clock: Clock
    selection: SelectionControl | None = None
    costs: CostsView | None = None
    drift: DriftView | None = None
    adaptation: AdaptationControl | None = None
    behaviour: BehaviourControl | None = None
    playbooks: PlaybooksView | None = None
    approvals: ApprovalControl | None = None
    learn: Callable[[Sequence[OutcomeLabel]], None] = lambda _labels: None

    def ports(self) -> ConsolePorts:
        models = Models(self.fleet, self.moves, lambda: self.policy.catalogue)
        return ConsolePorts(
            authorize=authorize_by(self.settings, self.identity, self.policy, self.clock),
            ledger=self.reader,
            append=self.ledger.append,
            breakers=self.fleet.breakers,
            models=models,
            reviews=models,
            policy_status=self.policy.status,
            observations=self.observations,
            take_outcomes=self._take_outcomes,
            selection=self.selection,
            adapters=self.fleet.pools.adapters,
            costs=self.costs,
            drift=self.drift,
            replicas=lambda: replicas_shown(self.fleet.replicas()),
            adaptation=self.adaptation,
            behaviour=self.behaviour,
            playbooks=self.playbooks,
            approvals=self.approvals,
        )

    def _take_outcomes(self, labels: Sequence[OutcomeLabel]) -> None:
        self.observations.take_labels([Label(each.call_id, each.row, each.label) for each in labels])
        self.learn(labels)


def authorize_by(settings: IdentitySettings, identity: Identity, policy: DecisionPoint, clock: Clock) -> Authorize:
    """The same identity and the same policy as for calls; resources are ``/api/{area}``."""

    async def authorize(credential: str, action: str, resource: str) -> Principal:
        try:
            principal = await identity.authenticate(credential)
        except Unauthenticated as error:
            raise NotProven(error.reason, challenge=challenge(settings, error.reason)) from None
        except IdentityUnavailable as error:
            raise Unavailable(error.reason, "credentials cannot be verified just now") from None
        call = Call(id=new_call_id(), door="console", action=action, resource=resource)
        decision = policy.decide(principal, call, clock.wall())
        if not decision.permits or decision.obligations:  # this door can discharge none
            raise NotAllowed(decision.reason if not decision.permits else "unknown_obligation", rules=decision.rules)
        return principal

    return authorize


class Models:
    """``console.ports.ModelControl`` over catalogue, fleet and moves."""

    def __init__(self, fleet: Fleet, moves: ModelMoves, catalogue: Callable[[], Catalogue]) -> None:
        self.fleet, self.moves, self.catalogue = fleet, moves, catalogue

    def view(self) -> Sequence[ModelView]:
        return [self._view(name) for name in sorted(self.fleet.names())]

    async def move_label(self, model: str, label: str, version: int) -> None:
        async def move(deployment: Deployment) -> None:
            await deployment.load(model, version)
            await deployment.move_label(model, label, version)

        await self._change(model, move)

    async def load(self, model: str, version: int) -> None:
        await self._change(model, lambda deployment: deployment.load(model, version))

    async def unload(self, model: str, version: int) -> None:
        await self._change(model, lambda deployment: deployment.unload(model, version))

    async def set_canary(self, model: str, version: int | None, percent: int) -> None:
        await self._change(model, lambda deployment: deployment.set_canary(model, version, percent))

    async def set_shadow(self, model: str, version: int | None, percent: int) -> None:
        await self._change(model, lambda deployment: deployment.set_shadow(model, version, percent))

    def previous(self, model: str) -> int:
        try:
            return self._deployment_of(model).previous(model)
        except DeploymentError as error:
            raise ChangeRefused(error.reason, error.detail) from None

    async def roll_back(self, model: str, version: int) -> None:
        await self._change(model, lambda deployment: deployment.roll_back(model, version))

    async def release(self, model: str, version: int, by: Principal, reason: str, key: str) -> LedgerReceipt:
        try:
            return await self.moves.release(model, version, by, reason, key)
        except MoveRefused as refusal:
            raise ChangeRefused(refusal.reason, refusal.detail) from None

    def review_of(self, model: str) -> Reviewed | None:
        return self.moves.review_of(model)

    async def review(self, model: str, answer: str, by: Principal, reason: str, key: str) -> LedgerReceipt:
        try:
            return await self.moves.review(model, answer, by, reason, key)
        except MoveRefused as refusal:
            raise ChangeRefused(refusal.reason, refusal.detail) from None

    def _deployment_of(self, model: str) -> Deployment:
        deployment = self.fleet.deployment_of(model)
        if deployment is None:
            raise ChangeRefused("unknown_model", f"{model} is not deployed through this gateway")
        return deployment

    async def _change(self, model: str, act: Callable[[Deployment], Awaitable[object]]) -> None:
        deployment = self._deployment_of(model)
        try:
            await act(deployment)
        except (BackendError, DeploymentError) as error:
            refused = isinstance(error, DeploymentError) and error.reason in REFUSALS
            raise (ChangeRefused if refused else ChangeFailed)(error.reason, error.detail) from error
        await self.fleet.learn(model)

    async def ask(self, model: str, wish: Mapping[str, Any], by: Principal) -> ModelView:
        try:
            await self.moves.ask(model, wish, by)
        except MoveRefused as refusal:
            raise ChangeRefused(refusal.reason, refusal.detail) from None
        except (BackendError, DeploymentError) as error:
            raise ChangeFailed(error.reason, error.detail) from error
        return self._view(model)

    def _view(self, name: str) -> ModelView:
        """Also of a model that has left the catalogue meanwhile."""
        entry, state = self.catalogue().models.get(name), self.moves.states.get(name)
        deployment = self.fleet.deployment_of(name)
        served = deployment.served(name) if deployment is not None else None
        statuses = deployment.replica_statuses() if deployment is not None else []
        replicas = {each.name: each.available.get(name, frozenset()) for each in statuses}
        return ModelView(
            name=name,
            backend=entry.backend if entry else "",
            task=entry.task if entry else "",
            versions=served.versions if served else (),
            labels=dict(served.labels) if served else {},
            canary_percent=served.canary_percent if served else 0,
            shadow_version=served.shadow.version if served and served.shadow else None,
            shadow_percent=served.shadow.percent if served and served.shadow else 0,
            previous=served.previous if served else (),
            replicas=replicas,
            fallback=tuple(entry.fallback) if entry else (),
            state=state.state.value if state else "",
            state_reason=state.reason if state else "",
            state_version=state.version if state else None,
            state_since_ms=state.at_ms if state else None,
        )
