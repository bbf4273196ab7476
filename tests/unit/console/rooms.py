"""Rooms beside the console, in memory: costs, the choice, adaptation, human reviews, servers; and a real drift desk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from audit import LedgerReceipt
from controlplane.approval_desk import ApprovalDesk
from controlplane.approvals import ApprovalSettings, Approver, Book, Question
from controlplane.calls import Principal
from controlplane.console.behaviour_views import BY_HAND, AgentWord, HeldAgent, LeftAlone
from controlplane.console.cost_views import BudgetView, CostView
from controlplane.console.playbook_views import PlaybookShown
from controlplane.console.ports import AdaptedShown, LearntView, NotFound, ReplicaShown, RuleShown
from controlplane.drift_desk import DriftDesk
from controlplane.telemetry.metrics import Metrics
from tests.unit.console.world import Noted, World

TODAY = datetime.now(UTC).date()
MINUTE_MS = 60_000


def days_ago(count: int) -> str:
    return (TODAY - timedelta(days=count)).isoformat()


@dataclass
class Costs:
    rows: list[CostView] = field(default_factory=list)
    budget: list[BudgetView] = field(default_factory=list)
    is_complete: bool = True

    def catch_up(self) -> bool:
        return self.is_complete

    def tenants(self) -> Iterable[str]:
        return sorted({row.tenant for row in self.rows})

    def report(self, by: Iterable[str], tenants: Iterable[str], since: str, until: str) -> Sequence[CostView]:
        by, sums = list(by), dict[tuple[str, ...], CostView]()
        for row in self.rows:
            if row.tenant in set(tenants) and row.day >= since and (not until or row.day <= until):
                key = tuple(getattr(row, part) for part in by)
                was = sums.get(key, CostView(**dict(zip(by, key, strict=True))))
                names = ("calls", "micro_usd", "saved_micro_usd", "input_tokens", "output_tokens")
                sums[key] = replace(was, **{name: getattr(was, name) + getattr(row, name) for name in names})
        return list(sums.values())

    def run(self, tenant: str, run: str) -> CostView | None:
        return None

    def budgets(self) -> Sequence[BudgetView]:
        return self.budget


@dataclass
class Selection:
    known: list[LearntView] = field(default_factory=list)
    cleared: list[tuple[str, str, str, str]] = field(default_factory=list)

    def view(self, principal: Principal) -> Sequence[LearntView]:
        return self.known

    async def clear(self, task: str, model: str, by: Principal, reason: str) -> Noted:
        if not any((each.task, each.model, each.under_review) == (task, model, True) for each in self.known):
            raise NotFound("not_under_review")
        self.cleared.append((task, model, by.subject, reason))
        self.known = [replace(each, under_review=each.under_review and each.model != model) for each in self.known]
        return Noted("e2", 8)


@dataclass
class Adaptation:
    now: list[AdaptedShown] = field(default_factory=list)
    known: list[RuleShown] = field(default_factory=list)
    told: list[tuple[str, str, str, str]] = field(default_factory=list)

    def status(self) -> Sequence[AdaptedShown]:
        return self.now

    def rules(self) -> Sequence[RuleShown]:
        return self.known

    async def tell(self, rule: str, subject: str, word: str, by: Principal) -> None:
        self.told.append((rule, subject, word, by.subject))


@dataclass
class Behaviour:
    now: list[HeldAgent] = field(default_factory=list)
    alone: list[LeftAlone] = field(default_factory=list)
    rules: set[str] = field(default_factory=lambda: {"secret.egress", "rate.habit"})
    unknown: int = 0
    words: list[tuple[str, AgentWord, int]] = field(default_factory=list)

    def held(self) -> Sequence[HeldAgent]:
        return self.now

    def left_alone(self) -> Sequence[LeftAlone]:
        return self.alone

    def unknown_rules(self) -> int:
        return self.unknown

    def knows(self, rule: str) -> bool:
        return rule in {*self.rules, BY_HAND}

    def now_s(self) -> float:
        return 1_763_733_600.0

    def lift(self, word: AgentWord, index: int) -> None:
        self.words.append(("lift", word, index))
        self.now = [
            one for one in self.now if (one.tenant, one.agent, one.rule) != (word.tenant, word.agent, word.rule)
        ]

    def block(self, word: AgentWord, index: int) -> None:
        self.words.append(("block", word, index))


@dataclass
class Playbooks:
    known: list[PlaybookShown] = field(default_factory=list)

    def status(self) -> Sequence[PlaybookShown]:
        return self.known


@dataclass(frozen=True)
class Answered:
    id: str
    answer: str
    by: str
    reason: str


@dataclass
class Reviews:
    said: dict[str, Answered] = field(default_factory=dict)

    def review_of(self, model: str) -> Answered | None:
        return self.said.get(model)

    async def review(self, model: str, answer: str, by: Principal, reason: str, key: str) -> Noted:
        self.said[model] = Answered("r1", answer, by.subject, reason)
        return Noted("r1", 9)


@dataclass
class Approvals:
    """Questions to people, and the real desk before them. ``roles`` is who holds what, in every tenant."""

    book: Book = field(default_factory=lambda: Book(ApprovalSettings()))
    roles: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {"user:boss": ("boss",), "user:deputy": ("boss",)}
    )
    meanwhile: Callable[[], object] = lambda: None  # what happens between a word's record and its being heard
    later_s: float = 0.0

    def roles_of(self, _tenant: str, subject: str) -> tuple[str, ...]:
        return self.roles.get(subject, ())

    def wall(self) -> float:
        return time.time() + self.later_s

    def desk(self, world: World) -> ApprovalDesk:
        async def append(kind: str, body: Mapping[str, Any]) -> LedgerReceipt:
            receipt: LedgerReceipt = await world.append(kind, body)
            self.meanwhile()
            return receipt

        return ApprovalDesk(self.book, self.roles_of, append, self.wall, Metrics())

    def ask(self, number: int = 1, **fields: Any) -> Question:
        self.book.ask(a_question(number, **fields))
        return self.book.standing(self.wall())[-1]

    def said(self) -> list[tuple[str, bool, str]]:
        """What has been heard: who, whether yes, and why."""
        return [(word.by, word.approves, word.reason) for each in self.book.standing(0) for word in each.words]


@dataclass
class Rooms:
    """Hand it to ``world``."""

    folder: Path
    costs: Costs = field(default_factory=Costs)
    selection: Selection = field(default_factory=Selection)
    adaptation: Adaptation = field(default_factory=Adaptation)
    reviews: Reviews = field(default_factory=Reviews)
    behaviour: Behaviour = field(default_factory=Behaviour)
    playbooks: Playbooks = field(default_factory=Playbooks)
    approvals: Approvals = field(default_factory=Approvals)
    servers: list[ReplicaShown] = field(default_factory=list)
    desk: DriftDesk | None = None

    def __call__(self, world: World) -> Mapping[str, Any]:
        self.desk = DriftDesk(self.folder / "drift.sqlite", world.append, time.time)
        return {
            "costs": self.costs,
            "selection": self.selection,
            "adaptation": self.adaptation,
            "reviews": self.reviews,
            "behaviour": self.behaviour,
            "playbooks": self.playbooks,
            "approvals": self.approvals.desk(world),
            "drift": self.desk,
            "replicas": lambda: self.servers,
        }


def a_held_agent(**changes: Any) -> HeldAgent:
    whole: dict[str, Any] = {
        "tenant": "acme",
        "agent": "agent:analyst",
        "answer": "block",
        "rule": "secret.egress",
        "source": "behaviour.yaml:36",
        "sort": "sequence",
        "scope": "session:5f1c",
        "since_s": 1_763_733_000.0,
        "until_s": 1_763_735_000.0,
        "times": 3,
        "call_id": "c1",
        "facts": {"began_s": 1_763_732_000},
    }
    return HeldAgent(**whole | changes)


def a_question(number: int = 1, **changes: Any) -> Question:
    whole: dict[str, Any] = {
        "id": f"q{number}",
        "statement": f"statement-{number}",
        "tenant": "acme",
        "subject": "agent:support",
        "chain": ("agent:helper",),
        "action": "call",
        "resource": "/tool/payments.refund",
        "operation": "call",
        "rules": (("support.refund.large", "roles/support.yaml:20"),),
        "approvers": (Approver("boss", 1),),
        "ttl_s": 900,
        "asked_s": time.time(),
        "shown": '{\n  "account": "DE02120300000000202051",\n  "amount": 4800\n}',
    }
    return Question(**whole | changes)


def a_month_of_costs() -> Costs:
    rows, budgets = [], []
    agents = ("agent:analyst", "agent:support", "agent:night-batch")
    for day in range(30):
        for number, model in enumerate(("gpt-large", "tiny", "risk", "embedder")):
            calls = int(40 + 30 * math.sin(day / 3 + number)) * (4 - number)
            rows.append(
                CostView(
                    day=days_ago(day),
                    tenant="acme",
                    agent=agents[(day + number) % 3],
                    model=model,
                    calls=calls,
                    micro_usd=calls * (9_000, 800, 30, 5)[number],
                    saved_micro_usd=calls * (1_100, 90, 0, 0)[number],
                    input_tokens=calls * 800,
                    output_tokens=calls * 150,
                )
            )
    since_s = int(datetime(TODAY.year, TODAY.month, TODAY.day, tzinfo=UTC).timestamp())
    for who, spent in (("agent:analyst", 9_400_000), ("agent:support", 2_000_000)):
        budgets.append(
            BudgetView(
                tenant="acme", key="subject", who=who, per="day", name="", since_s=since_s, until_s=since_s + 86_400,
                spent_micro_usd=spent, max_micro_usd=10_000_000,
            )
        )  # fmt: skip
    return Costs(rows, budgets)


DETECTORS = {"inputs_50": 40_000.0, "inputs_200": 10_000.0, "missing": 40_000.0, "error": 100_000.0, "timeout": 2e5}


def evidence_at(step: int, steps: int, now_ms: int) -> tuple[int, list[dict[str, Any]]]:
    """Noise for long; then the inputs move, and later the error."""
    detectors = []
    for number, (name, threshold) in enumerate(DETECTORS.items()):
        noise = abs(math.sin(step * (1 + number) / 7)) * 6
        begun = {"inputs_50": 0.45, "error": 0.7}.get(name, 2.0) * steps
        crossings, grown = 0, 0.0
        if step > begun:
            since = step - begun
            cycle = steps * 0.2
            crossings, grown = int(since // cycle), threshold ** ((since % cycle) / cycle)
        detectors.append(
            {
                "detector": name, "evidence": noise + grown, "threshold": threshold, "arl_rows": 50 * threshold,
                "tolerated": 0.02 * (1 + number), "crossings": crossings,
            }
        )  # fmt: skip
    return now_ms - (steps - step) * MINUTE_MS, detectors
