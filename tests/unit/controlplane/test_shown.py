"""What the console is shown of servers and of adaptation, and a person's word on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit import SqliteLedger
from controlplane.calls import Principal
from controlplane.console.ports import NotFound
from controlplane.shown import AdaptationShown, replicas_shown
from inference.routing import State
from tests.unit.controlplane.test_adapting import Review, World, ledger
from tests.unit.controlplane.test_gauges import replica

__all__ = ["ledger"]  # a fixture
ANN = Principal(subject="user:ann", tenant="acme", kind="user")


@pytest.fixture
async def adapted(ledger: SqliteLedger) -> World:
    world = World(ledger)
    world.reviews.append(Review())
    await world.tick()
    return world


async def test_a_rule_that_waits_for_a_word_says_so_and_the_word_ends_it(adapted: World) -> None:
    shown = AdaptationShown(adapted.adapting, adapted.adapting._policy)
    (waiting,) = [each for each in shown.status() if each.ends_on]
    assert waiting.subject == "model:risk"
    adapted.reviews.clear()
    await shown.tell(waiting.rule, waiting.subject, waiting.ends_on, ANN)
    assert shown.status() == []
    assert adapted.recorded()[-1] == (waiting.rule, "risk", 0)
    with pytest.raises(NotFound):
        await shown.tell(waiting.rule, waiting.subject, waiting.ends_on, ANN)


async def test_every_rule_of_policy_is_shown(adapted: World) -> None:
    rules = AdaptationShown(adapted.adapting, adapted.adapting._policy).rules()
    assert {"cpu.throttle", "slow.throttle"} <= {each.id for each in rules}
    assert all(each.description for each in rules)


def test_a_server_is_shown_as_calls_meet_it(tmp_path: Path) -> None:
    (shown,) = replicas_shown([replica("a:1", State.EJECTED, reason="stalled", in_flight=2, kv_ratio=0.5)])
    assert (shown.backend, shown.name, shown.state, shown.reason) == ("vllm", "a:1", "ejected", "stalled")
    assert (shown.in_flight, shown.waiting, shown.kv_ratio, shown.models) == (2, None, 0.5, ("tiny",))
