"""An agent that calls, and the watch that judges it: what is admitted is recorded, as the gateway would."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any

from controlplane.behaviour import BehaviourSettings, Finding, Watch
from controlplane.behaviour.asked import Happened
from controlplane.calls import Call, Decision, Effect, Principal, new_call_id
from controlplane.policy import Catalogue
from controlplane.policy.behaviour import Behaviour, BehaviourFile
from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import ModelEntry, ToolEntry
from controlplane.policy.rules import Directory
from controlplane.policy.schema import Schema

ALLOW = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
REFUSED = Decision(effect=Effect.DENY, reason="no_matching_rule", revision="r1")
TRACES = [f"00-{number:032x}-00000000000000aa-01" for number in range(1, 200)]


def tool(name: str, *labels: str, sensitivity: int = 1, side_effect: str = "read") -> ToolEntry:
    return ToolEntry.model_validate(
        {"resource": f"/tool/{name}", "labels": list(labels), "sensitivity": sensitivity}
        | {"side_effect": side_effect, "cost_tier": "low", "owner": "acme"}
    )


TOOLS = [
    tool("vault", "secret", sensitivity=5),
    tool("mail", "egress", side_effect="irreversible"),
    tool("approve", "approval"),
    tool("look"),
    tool("list"),
]
BIG = ModelEntry(
    name="big",
    task="chat",
    backend="v",
    labels=["language"],
    sensitivity=1,
    side_effect="read",
    cost_tier="high",
    owner="",
)
CATALOGUE = Catalogue({one.resource: one for one in TOOLS}, {"big": BIG})


def bundle(**lists: Any) -> Bundle:
    """A bundle with these rules and nothing else; ``step_up`` and ``idle_s`` of the file go in the same way."""
    file = BehaviourFile.model_validate({"step_up": {"max_age_s": 300}} | lists)
    sources = {rule.id: f"behaviour.yaml:{line}" for line, rule in enumerate(file.rules, 1)}
    return Bundle("r1", "", Schema(), CATALOGUE, Directory(), {}, behaviour=Behaviour(file, sources))


@dataclass
class Rig:
    """``ask`` is one call from beginning to end; it answers with the reason, "granted" when it went out."""

    served: Bundle
    settings: BehaviourSettings = field(default_factory=BehaviourSettings)
    past: list[Happened] | None = field(default_factory=list)
    now_s: float = 1_000_000.0
    seen: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Watch(self.settings, lambda: self.served, self.seen.append)
        self.decision = ALLOW
        self.records: list[dict[str, Any]] = []
        if self.past is not None:
            self.learn_past()

    def learn_past(self, covered_s: float = -inf) -> None:
        names = self.watch.unknown_rules()
        self.watch.begin_rebuild()
        self.watch.finish_rebuild(names, self.past or [], covered_s)

    def call(self, name: str, run: int | None = None, action: str = "call", **more: Any) -> Call:
        resource = f"/model/{name}" if action == "infer" else f"/tool/{name}"
        trace = TRACES[run] if run is not None else ""
        return Call(id=new_call_id(), door="t", action=action, resource=resource, traceparent=trace, **more)

    def judge(self, call: Call, who: Principal, policy: Decision = ALLOW) -> Decision:
        self.decision = self.watch.judge(who, call, policy, self.now_s)
        self.records += [one.body()["behaviour"] for one in self.watch.owed(call.id)]
        return self.decision

    def ask(self, name: str, run: int | None = None, *, who: Principal | None = None, **more: Any) -> str:
        who, call = who or agent(), self.call(name, run, **more)
        if self.judge(call, who).permits:
            self.watch.recorded(call, who, self.now_s)
        return self.decision.reason

    def rules_told(self) -> list[tuple[str, str, str]]:
        return [(one["rule"], one["answer"], one["change"]) for one in self.records]


def agent(name: str = "agent:a", tenant: str = "acme", **claims: Any) -> Principal:
    return Principal(subject=name, tenant=tenant, claims=claims)
