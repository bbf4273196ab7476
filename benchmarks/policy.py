"""What a decision costs: the compiled snapshot against casbin, by the number of rules a call is held against.

    python -m benchmarks.policy [--rules 10 50 100 1000] [--rounds 40] [--json FILE]

Whole decisions as the gateway asks for them, in CPU time of the thread. Both engines are asked in turns within a round,
so that a busy moment of the machine hurts both alike; figures are medians over the rounds. "first" is a question that
this snapshot was never asked before: nothing of it is kept yet. Both decide every call before it is measured, and must
agree.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import structs

from controlplane.calls import Call, Principal
from controlplane.policy import BundlePolicy, PolicySettings
from controlplane.policy.bundle import Bundle, build, read_files
from controlplane.policy.enforcer import Casbin
from controlplane.policy.shadow import disagreements
from controlplane.policy.snapshot import Snapshot

ROOT = Path(__file__).parents[1]
TENANT, AGENT, ACTION, MODEL = "bench", "agent:bench", "infer", "tiny"
WANTED_US = {50: 15.0, 1000: 25.0}
BATCH_US = 3000.0  # of one measurement
CALLER = Principal(subject=AGENT, tenant=TENANT, claims={"iss": "x", "jti": "y", "purpose": "support"})
GRANTED = Call(id="c", door="openai", action=ACTION, resource=f"/model/{MODEL}", arguments={"max_tokens": 64})
KINDS = {
    "granted, two duties": (CALLER, GRANTED),
    "granted, with an actor": (structs.replace(CALLER, chain=("agent:helper",)), GRANTED),
    "denied by a rule": (CALLER, structs.replace(GRANTED, arguments={"max_tokens": 5000})),
    "condition that fails": (CALLER, structs.replace(GRANTED, arguments={})),
    "no rule": (CALLER, structs.replace(GRANTED, resource="/model/absent")),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """Microseconds of CPU per decision; ``loaded_ms`` is reading, casbin, compiling and comparing."""

    rules: int
    casbin_us: float
    snapshot_us: float
    first_us: float
    loaded_ms: float

    @property
    def ratio(self) -> float:
        return self.casbin_us / self.snapshot_us


def bundle_of(rules: int) -> Bundle:
    """``rules`` are those of the call's tenant and action: what casbin scans."""
    files = {name: content for name, content in read_files(ROOT / "policies").items() if name in KEPT}
    attributes = {"external": False, "clearance": 2, "risk": 10}
    people = [{"id": name, "roles": ["worker"], "attributes": attributes} for name in (AGENT, "agent:helper")]
    documents: dict[str, Any] = {
        "global/guardrails.yaml": {"guards": list(_guards())},
        "roles/worker.yaml": {"role": "worker", "rules": []},
        "roles/other.yaml": {"role": "other", "rules": []},
        f"tenants/{TENANT}/rules.yaml": {
            "tenant": TENANT,
            "principals": people,
            "rules": [*(_other(number) for number in range(rules - 5)), *_ours()],
        },
    }
    return build(files | {name: json.dumps(value).encode() for name, value in documents.items()})


KEPT = ("model.conf", "schema.yaml", "catalog/tools.yaml", "catalog/models.yaml")


def _guards() -> Iterator[dict[str, Any]]:
    external = "r.obj.sensitivity > 2 && r.sub.external"
    yield {"id": "g.external", "on": "/**", "do": "*", "effect": "deny", "when": external}
    duty = [{"rate_limit": {"key": "subject", "per_s": 60, "max": 100_000}}]
    yield {
        "id": "g.pace",
        "on": "/model/*",
        "do": ACTION,
        "effect": "oblige",
        "when": "r.sub.risk < 50",
        "oblige": duty,
    }


def _ours() -> Iterator[dict[str, Any]]:
    rule = {"on": f"/model/{MODEL}", "do": ACTION, "roles": ["worker"]}
    enough = "r.obj.sensitivity <= r.sub.clearance && r.ctx.args.max_tokens <= 1024"
    yield {**rule, "id": "b.allow", "effect": "allow", "when": enough, "oblige": [{"max_tokens": {"max": 256}}]}
    yield {**rule, "id": "b.long", "effect": "deny", "when": "r.ctx.args.max_tokens > 4096"}
    yield {**rule, "id": "b.night", "effect": "deny", "when": "r.ctx.now < 0"}


def _other(number: int) -> dict[str, Any]:
    """Of five, two are of our role for another model, one for a family of paths, two for ours and of somebody else."""
    resource, role = (
        (f"/model/other-{number}", "worker"),
        (f"/model/other-{number}", "worker"),
        (f"/model/family-{number}/*", "worker"),
        (f"/model/{MODEL}", "other"),
        ("/model/*", "other"),
    )[number % 5]
    condition = "r.obj.sensitivity <= r.sub.clearance"
    rule = {"id": f"o.r{number}", "on": resource, "do": ACTION, "roles": [role]}
    return {**rule, "effect": "allow", "when": condition}


def measure(rules: int, rounds: int, kind: tuple[Principal, Call] = (CALLER, GRANTED)) -> Sample:
    bundle = bundle_of(rules)
    began = time.thread_time()
    snapshot, authority = Snapshot(bundle), Casbin(bundle)
    found = disagreements(bundle, [], snapshot, authority)
    loaded_ms = (time.thread_time() - began) * 1000
    assert not found, found
    compiled = BundlePolicy.serving(bundle)
    casbin = BundlePolicy.serving(bundle, PolicySettings(engine="casbin"))
    said, meant = (structs.replace(policy.decide(*kind, 1.0), eval_us=0) for policy in (compiled, casbin))
    assert said == meant, f"{said} is not {meant}"
    engine = compiled._served.engine  # type: ignore[union-attr]  # noqa: SLF001  to forget what it keeps
    assert isinstance(engine, Snapshot)

    def first() -> None:
        engine._plans.clear()  # noqa: SLF001  as above
        compiled.decide(*kind, 1.0)

    contestants: list[Callable[[], object]] = [
        lambda: casbin.decide(*kind, 1.0),
        lambda: compiled.decide(*kind, 1.0),
        first,
    ]
    return Sample(rules, *in_turns(contestants, rounds), loaded_ms)


def in_turns(contestants: list[Callable[[], object]], rounds: int) -> list[float]:
    """The median cost of each, microseconds."""
    batches = [max(1, int(BATCH_US / _cost_us(ask, 3))) for ask in contestants]
    costs: list[list[float]] = [[] for _ in contestants]
    for _ in range(rounds):
        for ask, batch, cost in zip(contestants, batches, costs, strict=True):
            cost.append(_cost_us(ask, batch))
    return [median(cost) for cost in costs]


def _cost_us(ask: Callable[[], object], times: int) -> float:
    began = time.thread_time_ns()
    for _ in range(times):
        ask()
    return (time.thread_time_ns() - began) / times / 1000


def verdict(sample: Sample) -> str:
    wanted = WANTED_US.get(sample.rules)
    if wanted is None:
        return ""
    return f"wanted at most {wanted:g} us: {'met' if sample.snapshot_us <= wanted else 'NOT met'}"


def show(name: str, sample: Sample, said: str) -> None:
    print(
        f"{name:<24}{sample.casbin_us:>10,.1f}{sample.snapshot_us:>12.1f}{sample.first_us:>9.1f}{sample.ratio:>8.1f}"
        f"{sample.loaded_ms:>10.0f}{os.getloadavg()[0]:>7.2f}   {said}".rstrip()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=int, nargs="+", default=[10, 50, 100, 1000])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    print("us CPU per decision       casbin    snapshot    first   ratio   load ms   load")
    samples = [measure(rules, options.rounds) for rules in options.rules]
    for sample in samples:
        show(f"{sample.rules:>5} rules", sample, verdict(sample))
    print("\n50 rules, by kind of call")
    for name, kind in KINDS.items():
        show(name, measure(50, options.rounds, kind), "")
    if options.json:
        options.json.write_text(json.dumps([asdict(sample) for sample in samples], indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
