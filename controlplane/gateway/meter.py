"""Calls as numbers: what the gateway tells telemetry about each of them."""

from __future__ import annotations

from controlplane.calls import Call, Decision, Principal, Receipt
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.telemetry.metrics import Metrics
from inference.backend import FRESH_RUNGS

MICRO = 1_000_000
LIMITS = {
    "rate_limited": "",
    "budget_exhausted": "budget",
    "budget_unknown": "budget",
    "behaviour_throttled": "behaviour",
}
"""Reasons of a limit or budget, and the word they are counted under; "" is the kind of resource."""


def kind_of(resource: str) -> str:
    """The first segment of a resource path: ``model``, ``tool``, ``mcp``. Bounded, so it may be a label."""
    return resource.split("/", 2)[1] if resource[:1] == "/" else resource.partition("/")[0]


class Meter:
    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:  # noqa: ARG002  protocol
        self._decided(decision)
        self.metrics.observe_refused(tenant=principal.tenant, door=call.door, resource_kind=kind_of(call.resource))
        if decision.reason in LIMITS:
            limit = LIMITS[decision.reason] or kind_of(call.resource)
            self.metrics.observe_rate_limited(tenant=principal.tenant, limit=limit)

    def admitted(self, admission: Admission) -> None:
        self._decided(admission.decision)
        overhead_s = admission.admitted_at_s - admission.arrived_at_s
        self.metrics.observe_admitted(door=admission.call.door, overhead_s=overhead_s)

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
        call, tenant = admission.call, admission.principal.tenant
        kind = kind_of(call.resource)
        self.metrics.observe_outcome(
            tenant=tenant,
            door=call.door,
            resource_kind=kind,
            outcome=outcome.status,
            duration_s=outcome.ended_s - outcome.started_s,
            reason=outcome.error,
        )
        if not recorded:
            self.metrics.observe_outcome_lost()
        if kind == "model":
            self._observe_model(call, tenant, outcome)

    def _observe_model(self, call: Call, tenant: str, outcome: Outcome) -> None:
        model = call.resource.rpartition("/")[2]
        if not outcome.is_saved:  # else they were counted when they were made
            given, made = outcome.usage.input_tokens, outcome.usage.output_tokens
            self.metrics.observe_tokens(tenant=tenant, model=model, input_tokens=given, output_tokens=made)
        cost = outcome.cost
        if "micro_usd" in cost:
            self.metrics.observe_cost(
                tenant=tenant,
                model=model,
                micro_usd=cost["micro_usd"],
                saved_micro_usd=cost.get("saved_micro_usd", 0),
                energy_uwh=cost.get("energy_uwh", 0),
            )
        if call.streams and outcome.first_byte_s is not None:
            self.metrics.observe_first_token(model=model, duration_s=outcome.first_byte_s - outcome.started_s)
        if outcome.rung not in FRESH_RUNGS:
            self.metrics.observe_fallback(model=model, rung=outcome.rung)

    def _decided(self, decision: Decision) -> None:
        effect, duration_s = str(decision.effect), decision.eval_us / MICRO
        self.metrics.observe_decision(effect=effect, reason=decision.reason, duration_s=duration_s)
