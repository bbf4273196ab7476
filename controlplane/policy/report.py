"""What the bundle's own tests say of a policy: `policy test`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from controlplane.policy.cases import Case
from controlplane.policy.policy import BundlePolicy


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    source: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """``uncovered`` are the rules that no case made match."""

    results: list[Result]
    uncovered: list[str]
    rules: int

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.faults]

    @property
    def coverage_ratio(self) -> float:
        return 1.0 if self.rules == 0 else 1 - len(self.uncovered) / self.rules


def run_cases(policy: BundlePolicy, cases: list[tuple[str, Case]]) -> Report:
    rules = set() if policy.bundle is None else set(policy.bundle.rules)
    results: list[Result] = []
    covered: set[str] = set()
    for source, case in cases:
        decision = _supposing(policy, case).decide(case.principal.principal(), case.call.call(), case.now)
        covered.update(rule.id for rule in decision.rules)
        results.append(Result(case.name, source, tuple(case.expect.faults(decision))))
    return Report(results, sorted(rules - covered), len(rules))


def _supposing(policy: BundlePolicy, case: Case) -> BundlePolicy:
    bundle = policy.bundle
    if case.suppose is None or bundle is None:
        return policy
    return BundlePolicy.serving(replace(bundle, catalogue=case.supposed(bundle.catalogue)))
