"""Who is asked: load, prompt and version, on replicas that do nothing."""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from inference.backend import BackendRequest
from inference.routing import Load, RoutingSettings
from inference.routing.affinity import NO_MATCH, PrefixMemory, prompt_start
from inference.routing.choice import Choice, Serves, serves_everything
from inference.routing.health import ReplicaHealth
from inference.routing.replica import Call, Replica
from inference.routing.settings import AffinitySettings
from tests.unit.inference.routing.fakes import chat, predict

SETTINGS = RoutingSettings()
PROMPT = b'{"model":"tiny","messages":[{"role":"system","content":"' + bytes(range(32, 127)) * 40 + b'"}]}'


async def no_load() -> Load:
    return Load()


class Group:
    def __init__(self, count: int, serves: Serves = serves_everything, settings: RoutingSettings = SETTINGS) -> None:
        self.replicas = [
            Replica(
                name=str(number),
                number=number,
                backend=None,
                health=ReplicaHealth(str(number), settings.ejection, lambda _: None, lambda: 0.5),
                settings=settings,
                read_load=no_load,
                load=Load(),
                load_at_s=100.0,
            )
            for number in range(count)
        ]
        self.choice = Choice(self.replicas, settings, serves, Random(7).random)

    def __getitem__(self, number: int) -> Replica:
        return self.replicas[number]

    def choose(self, request: BackendRequest, *, now_s: float = 100.0, tried: int = 0) -> Replica | None:
        call = Call(request=request, deadline_s=200.0, keys=self.choice.keys(request), tried=tried)
        return self.choice.choose(call, now_s)

    def chosen(self, request: BackendRequest, times: int = 8) -> set[int]:
        return {self.choose(request).number for _ in range(times)}


def test_fewest_calls_under_way_ours_and_others() -> None:
    group = Group(3)
    group[0].in_flight, group[2].in_flight = 3, 4
    group[1].note_load(Load(running=6, waiting=0), 100.0)
    assert group.chosen(predict()) == {0}
    group[1].note_load(Load(running=2, waiting=0), 100.0)
    assert group.chosen(predict()) == {1}


def test_own_calls_are_not_counted_twice() -> None:
    group = Group(2)
    group[0].in_flight = 5
    group[0].note_load(Load(running=5), 100.0)
    assert (group[0].others, group[0].pressure) == (0, 5)


def test_equals_take_turns() -> None:
    group = Group(4)
    assert [group.choose(predict()).number for _ in range(8)] in [
        [(start + step) % 4 for step in range(8)] for start in range(4)
    ]


@pytest.mark.parametrize("load", [Load(waiting=5), Load(kv_ratio=0.81), Load(waiting=50, kv_ratio=1.0)])
def test_saturated_replica_is_asked_only_when_all_are(load: Load) -> None:
    group = Group(2)
    group[0].note_load(load, 100.0)
    group[1].in_flight = 40
    assert group.chosen(predict()) == {1}
    group[1].note_load(load, 100.0)
    group[1].in_flight = 90
    assert group.chosen(predict()) == {0}


def test_stale_or_missing_reading_counts_as_saturated() -> None:
    group = Group(2)
    group[0].load_at_s = 94.0
    assert group.chosen(predict()) == {1}
    group[0].load_at_s, group[1].load = 100.0, None
    assert group.chosen(predict()) == {0}
    group[1].read_load = None  # one of which nobody expects metrics
    assert group.chosen(predict()) == {0, 1}


def test_ejected_tried_and_told_to_wait_are_not_asked() -> None:
    group = Group(4)
    group[0].health.eject("stalled", 100.0)
    group[1].note_busy(5.0, 100.0)
    call = Call(request=predict(), deadline_s=200.0, keys=[], tried=0b0100)
    assert group.choice.choose(call, 101.0).number == 3
    assert group.choose(predict(), tried=0b1100, now_s=101.0) is None
    assert group.choose(predict(), tried=0b1100, now_s=105.0).number == 1


def test_only_those_that_serve_the_version_are_asked() -> None:
    group = Group(3, lambda name, target, version: (target, version) == ("risk", 2) and name == "1")
    assert group.chosen(replace(predict(), version=2)) == {1}
    group[1].health.eject("stalled", 100.0)
    assert group.choose(replace(predict(), version=2)) is None  # the others would say that there is no such version


def test_version_that_nobody_is_known_to_serve_is_asked_of_all() -> None:
    """What we know may be old, and the server's own words are better than our guess."""
    group = Group(3, lambda *_: False)
    assert group.chosen(predict()) == {0, 1, 2}


def test_of_many_two_are_drawn_and_the_less_busy_one_is_asked() -> None:
    group = Group(64)
    for number, one in enumerate(group.replicas):
        one.in_flight = number
    chosen = [group.choose(predict()).number for _ in range(2000)]
    assert 63 not in chosen
    assert len(set(chosen)) > 40  # not a herd on the least busy one
    assert sum(chosen) / 2000 == pytest.approx(64 / 3, rel=0.1)  # the mean of the smaller of two


def test_same_prompt_stays_and_leaves_when_it_grows_too_busy_there() -> None:
    group = Group(3)
    request = chat(body=PROMPT)
    home = group.choose(request)
    assert group.chosen(request) == {home.number}
    home.in_flight = 7
    assert group.chosen(request) == {home.number}
    home.in_flight = 9
    assert home.number not in group.chosen(request, times=1)


def test_affinity_never_leads_to_a_saturated_or_ejected_replica() -> None:
    group = Group(2)
    request = chat(body=PROMPT)
    home = group.choose(request)
    home.note_load(Load(waiting=9), 100.0)
    assert home.number not in group.chosen(request)
    group = Group(2)
    home = group.choose(request)
    home.health.eject("stalled", 100.0)
    assert home.number not in group.chosen(request)


def test_tenants_and_models_never_share_a_prefix() -> None:
    memory = PrefixMemory(AffinitySettings(), 2)
    request = chat(body=PROMPT)
    memory.remember(memory.keys(request), 1)
    assert memory.match(memory.keys(request)) == (0b10, 1.0)
    for other in (replace(request, tenant="acme"), replace(request, target="large"), replace(request, version=2)):
        assert memory.match(memory.keys(other)) == NO_MATCH


def test_longer_conversation_matches_by_its_beginning() -> None:
    memory = PrefixMemory(AffinitySettings(), 2)
    first = chat(body=PROMPT)
    memory.remember(memory.keys(first), 0)
    longer = chat(body=PROMPT[:-2] + b',{"role":"user","content":"' + b"more " * 800 + b'"}]}')
    match = memory.match(memory.keys(longer))
    assert match.replicas == 0b01
    assert 0.4 < match.ratio < 0.6


def test_options_before_the_prompt_do_not_hide_it() -> None:
    plain = b'{"messages":[' + b"x" * 2000 + b"]}"
    optioned = b'{"model":"tiny","stream":true,"messages":[' + b"x" * 2000 + b"]}"
    memory = PrefixMemory(AffinitySettings(), 1)
    assert memory.keys(chat(body=plain)) == memory.keys(chat(body=optioned))
    assert prompt_start(b"no prompt at all") == 0


def test_short_prompts_have_no_home_and_long_ones_bounded_keys() -> None:
    memory = PrefixMemory(AffinitySettings(), 1)
    assert memory.keys(chat(body=b'{"messages":[]}')) == []
    assert len(memory.keys(chat(body=b"x" * 10_000_000))) == 48


def test_memory_of_each_replica_is_bounded_and_its_last_prompts_stay() -> None:
    memory = PrefixMemory(AffinitySettings(remembered_blocks=20), 2)
    requests = [chat(body=b'{"messages":' + bytes([65 + number]) * 2600) for number in range(8)]
    for request in requests:
        memory.remember(memory.keys(request), 0)
        memory.remember(memory.keys(request), 1)
    assert memory.match(memory.keys(requests[-1])) == (0b11, 1.0)
    assert memory.match(memory.keys(requests[0])) == NO_MATCH
    assert len(memory._knowing) == 20
    memory.forget(0)
    assert memory.match(memory.keys(requests[-1])) == (0b10, 1.0)
    memory.forget(1)
    assert not memory._knowing
