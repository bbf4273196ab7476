"""Signals → steps → the ledger → deeds, in this order; and what happens when one of them will not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from audit.entry import canonical
from controlplane.adaptation import (
    GATEWAY,
    Adaptation,
    AdaptationSettings,
    Sources,
    Subject,
    Tiers,
    Transition,
    isolate,
    lighter_tier,
    restart,
    throttle,
)
from controlplane.policy.adaptation import AdaptationFile, AdaptationRule
from tests.unit.adaptation.rules import rule, shipped

RISK, REPLICA = Subject("model", "risk"), Subject("replica", "vllm-0")
SLOW = {"signal": "latency_p95_ms", "above": 500}
WELL = {"signal": "latency_p95_ms", "below": 400}
ISOLATE = {"id": "memory.isolate", "for_each": "replica", "when": {"signal": "memory_growth_ratio", "above": 0.3},
           "windows": 1, "then": "isolate", "back_when": None, "back_on": "inspected"}  # fmt: skip
STUCK = {"id": "stuck.restart", "for_each": "replica", "when": {"signal": "failed_checks", "at_least": 5},
         "windows": 1, "then": "restart", "steps": 3,
         "back_when": {"signal": "failed_checks", "at_most": 0}, "back_windows": 1}  # fmt: skip


class LedgerDown(Exception):
    pass


class World:
    """A ledger that remembers, hands that remember, and signals that a test sets."""

    def __init__(self, *rules: AdaptationRule, dry_run: frozenset[str] = frozenset()) -> None:
        self.file = AdaptationFile(rules=list(rules))
        self.signals: dict[Subject, dict[str, float]] = {}
        self.records: list[tuple[str, Mapping[str, Any]]] = []
        self.did: list[tuple[str, str, int]] = []
        self.events: list[Transition] = []
        self.ledger_is_down = False
        self.broken: set[str] = set()
        self.now_s, self.tasks = 0.0, {"risk": "classification", "tiny": "chat"}
        self.settings = AdaptationSettings(dry_run=dry_run)
        self.loop = self.started()

    def started(self) -> Adaptation:
        names = ("throttle", "lighter_tier", "isolate", "restart")
        loop = Adaptation(
            self.settings,
            lambda: self.file,
            Sources([lambda _: self.signals]),
            {name: self.hand(name) for name in names},
            self.record,
            now=lambda: self.now_s,
            task_of=lambda model: self.tasks.get(model, ""),
            revision=lambda: "abc",
        )
        loop.listen(self.events.append)
        return loop

    def hand(self, name: str) -> Callable[[Subject, int], Any]:
        async def act(subject: Subject, level: int) -> None:
            if name in self.broken:
                raise ConnectionError(name)
            self.did.append((name, str(subject), level))

        return act

    async def record(self, kind: str, body: Mapping[str, Any]) -> None:
        if self.ledger_is_down:
            raise LedgerDown
        canonical(body)  # what the ledger refuses must be seen here
        self.records.append((kind, body["adaptation"]))

    async def windows(self, count: int = 1, **signals: float) -> None:
        """So many windows with these signals of the gateway, or those already set."""
        if signals:
            self.signals = {GATEWAY: signals}
        for _ in range(count):
            self.now_s += 10.0
            await self.loop.tick()

    def steps(self) -> list[tuple[str, int, int]]:
        return [(body["rule"], body["from"], body["to"]) for _, body in self.records]


async def test_step_is_on_record_told_and_done() -> None:
    world = World(rule())
    await world.windows(2, cpu_ratio=0.91)
    assert world.records == [
        (
            "adaptation.transition",
            {
                "rule": "cpu.throttle",
                "subject": "gateway",
                "name": "",
                "action": "throttle",
                "from": 0,
                "to": 1,
                "reason": "when",
                "mode": "act",
                "signals": {"cpu_ratio": "0.91"},
                "relapses": 0,
                "policy_revision": "abc",
            },
        )
    ]
    assert world.did == [("throttle", "gateway", 1)]
    assert [event.facts() for event in world.events] == [world.records[0][1]]


async def test_step_back_is_as_well() -> None:
    world = World(rule())
    await world.windows(2, cpu_ratio=0.91)
    await world.windows(3, cpu_ratio=0.1)
    assert world.steps() == [("cpu.throttle", 0, 1), ("cpu.throttle", 1, 0)]
    assert world.did[-1] == ("throttle", "gateway", 0)


async def test_not_recorded_therefore_not_done() -> None:
    world = World(rule())
    world.ledger_is_down = True
    await world.windows(1, cpu_ratio=0.91)
    with pytest.raises(LedgerDown):
        await world.windows()
    assert (world.did, world.events, world.loop.status()) == ([], [], [])
    world.ledger_is_down = False
    await world.windows()
    assert world.did == [("throttle", "gateway", 1)]
    assert len(world.records) == 1


async def test_what_is_on_record_and_could_not_be_done_is_tried_again_and_said_once() -> None:
    world = World(rule())
    world.broken = {"throttle"}
    await world.windows(5, cpu_ratio=0.91)
    assert [kind for kind, _ in world.records] == ["adaptation.transition", "adaptation.failed"]
    assert world.records[1][1]["error"] == "ConnectionError"
    world.broken = set()
    await world.windows()
    assert world.did == [("throttle", "gateway", 1)]


async def test_listener_that_breaks_hurts_nothing() -> None:
    world, heard = World(rule()), []

    def broken(_: Transition) -> None:
        raise ValueError

    world.loop.listen(broken)
    world.loop.listen(heard.append)
    await world.windows(2, cpu_ratio=0.91)
    assert len(heard) == len(world.did) == 1


async def test_dry_run_is_on_record_and_touches_nothing() -> None:
    world = World(rule(**STUCK), dry_run=frozenset({"restart"}))
    world.signals = {REPLICA: {"failed_checks": 7}}
    await world.windows(5)
    assert world.did == []
    assert {body["mode"] for _, body in world.records} == {"dry_run"}


async def test_restart_is_a_dry_run_unless_somebody_says_otherwise() -> None:
    assert AdaptationSettings().dry_run == {"restart"}


async def test_action_that_nobody_here_can_do_says_so() -> None:
    world = World(rule())
    world.loop = Adaptation(world.settings, lambda: world.file, Sources([lambda _: world.signals]), {}, world.record,
                            now=lambda: world.now_s)  # fmt: skip
    await world.windows(2, cpu_ratio=0.91)
    assert world.records[0][1]["mode"] == "nobody"


async def test_each_subject_stands_for_itself() -> None:
    world = World(rule(id="slow.throttle", for_each="model", when=SLOW, back_when=WELL))
    world.signals = {RISK: {"latency_p95_ms": 900}, Subject("model", "tiny"): {"latency_p95_ms": 100}}
    await world.windows(2)
    assert world.did == [("throttle", "model:risk", 1)]


async def test_rule_concerns_models_of_its_tasks_only() -> None:
    slow = {"for_each": "model", "when": SLOW, "back_when": WELL}
    world = World(rule(id="a.chat", tasks=["chat"], **slow), rule(id="b.others", except_tasks=["chat"], **slow))
    world.signals = {RISK: {"latency_p95_ms": 900}, Subject("model", "tiny"): {"latency_p95_ms": 900}}
    await world.windows(2)
    assert [(body["rule"], body["name"]) for _, body in world.records] == [("a.chat", "tiny"), ("b.others", "risk")]


async def test_of_two_rules_the_one_that_went_further_has_its_way() -> None:
    slow = {"for_each": "model", "back_windows": 1, "windows": 1}
    world = World(
        rule(id="a.slow", when=SLOW, back_when=WELL, steps=2, **slow),
        rule(
            id="b.full",
            when={"signal": "waiting", "above": 5},
            back_when={"signal": "waiting", "below": 1},
            **slow,
        ),
    )
    world.signals = {RISK: {"latency_p95_ms": 900, "waiting": 9}}
    await world.windows(2)
    world.signals = {RISK: {"latency_p95_ms": 100, "waiting": 9}}
    await world.windows(3)
    world.signals = {RISK: {"latency_p95_ms": 100, "waiting": 0}}
    await world.windows()
    assert [level for _, _, level in world.did] == [1, 2, 1, 0]


async def test_person_ends_what_only_a_person_may_end() -> None:
    world = World(rule(**ISOLATE))
    world.signals = {REPLICA: {"memory_growth_ratio": 0.5}}
    await world.windows()
    world.signals = {REPLICA: {"memory_growth_ratio": 0.0}}
    await world.windows(100)
    assert [status.ends_on for status in world.loop.status()] == ["inspected"]
    assert not await world.loop.tell("memory.isolate", REPLICA, "fine", "user:operator")
    assert not await world.loop.tell("memory.isolate", REPLICA, "", "user:operator")
    assert not await world.loop.tell("memory.isolate", Subject("replica", "other"), "inspected", "user:operator")
    assert not await world.loop.tell("no.rule", REPLICA, "inspected", "user:operator")
    assert await world.loop.tell("memory.isolate", REPLICA, "inspected", "user:operator")
    assert world.did == [("isolate", "replica:vllm-0", 1), ("isolate", "replica:vllm-0", 0)]
    assert (world.records[-1][1]["reason"], world.records[-1][1]["by"]) == ("inspected", "user:operator")
    assert not await world.loop.tell("memory.isolate", REPLICA, "inspected", "user:operator")


async def test_gateway_that_starts_again_stands_where_the_ledger_says() -> None:
    world = World(rule(**ISOLATE))
    world.signals = {REPLICA: {"memory_growth_ratio": 0.5}}
    await world.windows()
    world.signals, world.did, world.loop = {}, [], world.started()
    world.loop.resume([body for _, body in world.records])
    await world.windows()
    assert world.did == [("isolate", "replica:vllm-0", 1)]
    assert len(world.records) == 1


async def test_gateway_that_starts_again_restarts_nobody_a_second_time() -> None:
    world = World(rule(**STUCK))
    world.signals = {REPLICA: {"failed_checks": 5}}
    await world.windows()
    world.loop = world.started()
    world.loop.resume([body for _, body in world.records])
    world.signals = {REPLICA: {"failed_checks": 1}}
    await world.windows(3)
    assert world.did == [("restart", "replica:vllm-0", 1)]


async def test_rule_that_left_the_file_is_taken_back() -> None:
    world = World(rule(steps=2))
    await world.windows(4, cpu_ratio=0.91)
    world.file = AdaptationFile(rules=[])
    await world.windows()
    assert world.steps()[-1] == ("cpu.throttle", 2, 0)
    assert world.records[-1][1]["reason"] == "rule_gone"
    assert world.did[-1] == ("throttle", "gateway", 0)
    assert world.loop.status() == []


async def test_rule_with_fewer_steps_than_before_stands_at_its_last() -> None:
    world = World(rule(steps=3))
    await world.windows(6, cpu_ratio=0.91)
    world.file = AdaptationFile(rules=[rule(steps=1)])
    await world.windows()
    assert world.did[-1] == ("throttle", "gateway", 1)


async def test_subject_that_is_gone_for_long_is_taken_back() -> None:
    world = World(rule(**ISOLATE))
    world.signals = {REPLICA: {"memory_growth_ratio": 0.5}}
    await world.windows()
    world.signals = {}
    await world.windows(29)
    assert len(world.records) == 1, "it may only be silent"
    await world.windows()
    assert world.records[-1][1]["reason"] == "gone"
    assert world.did[-1] == ("isolate", "replica:vllm-0", 0)


async def test_switched_off_it_does_nothing() -> None:
    world = World(rule())
    world.settings = AdaptationSettings(enabled=False)
    world.loop = world.started()
    await world.windows(10, cpu_ratio=0.99)
    assert (world.records, world.did) == ([], [])


async def test_shipped_rules_on_a_bad_day_and_the_day_after() -> None:
    """Slow and full: throttled and lighter, step by step; then well again, and every step is taken back."""
    world = World(*shipped().rules)
    world.signals = {RISK: {"latency_p95_ms": 900, "gpu_or_kv_ratio": 0.95, "calls": 100, "breaker_open": 0}}
    await world.windows(30)
    assert {status.rule: status.level for status in world.loop.status()} == {"slow.throttle": 2, "full.lighter": 3}
    world.signals = {RISK: {"latency_p95_ms": 90, "gpu_or_kv_ratio": 0.3, "calls": 100, "breaker_open": 0}}
    await world.windows(60)
    assert world.loop.status() == []
    lighter = [level for name, _, level in world.did if name == "lighter_tier"]
    assert lighter == [1, 2, 3, 2, 1, 0]


async def test_actions_reach_those_who_do_them() -> None:
    did: list[tuple[object, ...]] = []

    class Hands:
        def isolate(self, replica: str) -> None:
            did.append(("isolate", replica))

        def restore(self, replica: str) -> None:
            did.append(("restore", replica))

        async def restart(self, replica: str) -> None:
            did.append(("restart", replica))

    tiers, hands = Tiers(lambda _: ["small"]), Hands()
    slow_down = throttle(lambda model, level: did.append((model, level)), lambda level: did.append(("all", level)))
    await slow_down(GATEWAY, 1)
    await slow_down(RISK, 2)
    await lighter_tier(tiers)(RISK, 1)
    assert tiers.of("risk") == "small"
    await lighter_tier(tiers)(RISK, 0)
    assert tiers.of("risk") == ""
    for level in (1, 0):
        await isolate(hands)(REPLICA, level)
    again = restart(hands)
    for level in (1, 1, 2, 1, 0, 1):
        await again(REPLICA, level)
    assert did == [
        ("all", 1),
        ("risk", 2),
        ("isolate", "vllm-0"),
        ("restore", "vllm-0"),
        *[("restart", "vllm-0")] * 3,
    ]
