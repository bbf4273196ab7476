"""What rules of behaviour cost: false alarms of the two rate limits on the same traffic, and microseconds of a call.

    python -m benchmarks.behaviour [--days 100] [--agents 3] [--json FILE]

Traffic is simulated and seeded, one count a minute; every agent is watched from its first call on, so that learning is
inside the figures. "begins" is how often a day a throttle begins (what the ledger records and an agent feels),
"minutes" in how many minutes a day something would have been refused. x2 to x10 is the share of agents that are
throttled within the minute when they suddenly call so many times as often as in their busiest minute of a hundred, and
"from" the smallest such rise that is throttled at all, on average.
Both limits see the same counts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import numpy as np

from benchmarks.behaviour_traffic import BEGINS_S, KINDS, MINUTES_A_DAY
from controlplane.behaviour import BehaviourSettings, Watch
from controlplane.behaviour.rates import Change, Rate
from controlplane.calls import Call, Decision, Effect, Principal
from controlplane.policy.behaviour import Behaviour, BehaviourFile, RateRule
from controlplane.policy.bundle import Bundle, build, read_files

ROOT = Path(__file__).parents[1]
HOUR = 60
BUDGET = 0.05  # false throttles per agent-day
RISES = (2.0, 3.0, 5.0, 10.0)
Limit = Literal["negative_binomial", "mean_sigma"]
LIMITS: tuple[Limit, ...] = ("negative_binomial", "mean_sigma")


@dataclass(frozen=True, slots=True)
class Row:
    traffic: str
    limit: str
    begins: float
    minutes: float
    throttled_from: float
    caught: tuple[float, ...]


def minute(rule: RateRule, rate: Rate, number: int, count: int) -> tuple[int, bool]:
    begins, refused = 0, False
    for call in range(count):
        too_many, change = rate.ask(rule, BEGINS_S + number * 60 + 59.0 * call / count)
        begins += change is Change.BEGINS
        refused |= too_many
    return begins, refused


def measured(name: str, limit: Limit, days: int, agents: int) -> Row:
    begins, minutes, smallest = 0, 0, 0.0
    rule, caught = RateRule(id="rate.habit", limit=limit), dict.fromkeys(RISES, 0)
    for seed in range(agents):
        counts, rate = KINDS[name](np.random.default_rng(seed), days * MINUTES_A_DAY), Rate()
        for number, count in enumerate(counts.tolist()):
            begun, refused = minute(rule, rate, number, count)
            begins, minutes = begins + begun, minutes + refused
        busy = float(np.quantile(counts, 0.99))
        most = _limit_at_eleven(rule, rate, len(counts))
        smallest += (most + 1) / busy / agents
        for rise in RISES:
            caught[rise] += max(1, round(rise * busy)) > most
    shares = tuple(caught[rise] / agents for rise in RISES)
    return Row(name, limit, begins / days / agents, minutes / days / agents, smallest, shares)


def _limit_at_eleven(rule: RateRule, rate: Rate, after: int) -> int:
    """Of the first minute of a busy hour of every traffic here. The rate itself is not touched."""
    at = after + 11 * HOUR
    return rate.limit_in(rule, (BEGINS_S + at * 60) // rule.window_s)


def costs() -> Iterator[tuple[str, float, float, float]]:
    """Microseconds for the check before the intent (median and mean), and for what follows its record (median)."""
    shipped = build(read_files(ROOT / "policies"))
    kinds: Mapping[str, tuple[Bundle, dict[str, Any]]] = {
        "no rules": (_with(shipped, {}), {}),
        "rate alone": (_with(shipped, {"rates": [{"id": "rate.habit"}]}), {}),
        "shipped rules, a list of models": (shipped, {"action": "list", "resource": "/model"}),
        "shipped rules, a model, no trace": (shipped, {}),
        "shipped rules, a model, in a trace": (shipped, {"traced": True}),
        "shipped rules, a tool, in a trace": (shipped, {"action": "call", "resource": "/tool/parcel", "traced": True}),
        "likeness, a tool with 20 words": (shipped, {"action": "call", "resource": "/tool/refund"}),
    }
    for name, (bundle, call) in kinds.items():
        yield name, *_cost(bundle, **call)


def _with(bundle: Bundle, lists: dict[str, Any]) -> Bundle:
    file = BehaviourFile.model_validate(lists)
    fields = {name: getattr(bundle, name) for name in ("model", "schema", "catalogue", "directory", "rules")}
    return Bundle(bundle.revision, **fields, behaviour=Behaviour(file, {rule.id: "" for rule in file.rules}))


def _cost(
    bundle: Bundle, action: str = "infer", resource: str = "/model/tiny", *, traced: bool = False, calls: int = 20_000
) -> tuple[float, float, float]:
    watch = Watch(BehaviourSettings(), lambda: bundle)
    watch.finish_rebuild(watch.unknown_rules(), [], -inf)
    who = Principal(subject="agent:a", tenant="acme")
    allow = Decision(effect=Effect.ALLOW, reason="granted", revision="r")
    clock, judging, recording, now_s = time.perf_counter_ns, [], [], float(BEGINS_S)
    asked = [_call(action, resource, number, traced=traced) for number in range(calls)]
    for number, call in enumerate(asked):
        now_s += 60 * (number % 20 == 0)  # twenty calls in a minute, and in a trace
        begun = clock()
        watch.judge(who, call, allow, now_s)
        judged = clock()
        watch.owed(call.id)
        watch.recorded(call, who, now_s)
        judging.append((judged - begun) / 1e3)
        recording.append((clock() - judged) / 1e3)
    return median(judging), fmean(judging), median(recording)


def _call(action: str, resource: str, number: int, *, traced: bool) -> Call:
    trace = f"00-{number // 20 + 1:032x}-00000000000000aa-01" if traced else ""
    note = f"please pay back parcel {number} to the customer, who sent it twice and has told us so by letter today"
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": note}]}).encode()
    return Call(
        id=str(number),
        door="b",
        action=action,
        resource=resource,
        body=body,
        arguments={"note": note},
        traceparent=trace,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--agents", type=int, default=3)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = [measured(name, limit, chosen.days, chosen.agents) for name in KINDS for limit in LIMITS]
    rises = "".join(f"  {f'x{rise:g}':>5}" for rise in RISES)
    print(f"{'traffic':<24}{'limit':<20}{'begins/day':>12}{'minutes/day':>13}{'from':>7}{rises}")
    for row in rows:
        caught = "".join(f"  {share:5.0%}" for share in row.caught)
        over = "" if row.limit == "mean_sigma" or row.begins <= BUDGET else "  over its budget"
        print(
            f"{row.traffic:<24}{row.limit:<20}{row.begins:>12.3f}{row.minutes:>13.3f}{f'x{row.throttled_from:.1f}':>7}{caught}{over}"
        )
    table = list(costs())
    print(f"\n{'µs of a call':<40}{'check':>8}{'mean':>8}{'record':>8}")
    for name, judge_us, mean_us, record_us in table:
        print(f"{name:<40}{judge_us:>8.1f}{mean_us:>8.1f}{record_us:>8.1f}")
    if chosen.json:
        chosen.json.write_text(json.dumps({"rates": [asdict(row) for row in rows], "costs": table}, indent=1))


if __name__ == "__main__":
    main()
