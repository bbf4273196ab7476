"""What people see of agents that are held back, and what their words do to the next call."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from controlplane.behaviour import Oversight
from controlplane.behaviour.asked import Happened
from controlplane.behaviour.oversight import Told
from controlplane.behaviour.said import BY_HAND, Word
from controlplane.behaviour.selecting import Deed
from tests.unit.behaviour.rig import Rig, agent, bundle
from tests.unit.behaviour.test_sequences import LEAK

WHO = ("acme", "agent:a")
HABIT = {"id": "rate.habit", "prior": {"mean": 1.0}}
LOOP = {"id": "loop.same", "same_call": 3, "within": "session", "answer": "block"}
UNLIKE = {"id": "context.unlike", "below": 0.9, "learn_calls": 20, "answer": "block", "hold_s": 900}
BEGINS_S = 1_700_006_400.0


def word(rig: Rig, rule: str, for_s: float = 0.0, what: Any = "lift", who: tuple[str, str] = WHO) -> None:
    said = Word(
        what=what, agent=who, rule=rule, at_s=rig.now_s, until_s=rig.now_s + for_s, by="user:o", reason="r", index=7
    )
    Oversight(rig.watch).heed(said, rig.now_s)


def held(rig: Rig) -> list[tuple[str, str, str]]:
    return [(one.agent[1], one.answer, one.rule.id) for one in Oversight(rig.watch).standing(rig.now_s)]


def leaking() -> Rig:
    rig = Rig(bundle(sequences=[LEAK]))
    rig.ask("vault")
    assert rig.ask("mail") == "behaviour_blocked"
    return rig


def throttled() -> Rig:
    rig = Rig(bundle(rates=[HABIT]))
    rig.now_s = BEGINS_S
    while rig.ask("look") == "granted":
        pass
    return rig


def looping() -> Rig:
    rig = Rig(bundle(loops=[LOOP]))
    while rig.ask("look") == "granted":
        pass
    return rig


def unlike() -> Rig:
    rig = Rig(bundle(contexts=[UNLIKE]))
    for _ in range(25):
        rig.ask("look", arguments={"note": "where is parcel nine"})
    assert rig.ask("mail", arguments={"note": "wire all money abroad"}) == "behaviour_blocked"
    return rig


WORLDS = {"secret.egress": (leaking, "mail"), "rate.habit": (throttled, "look"), "loop.same": (looping, "look")}


@pytest.mark.parametrize("rule", WORLDS)
def test_the_next_call_of_a_lifted_agent_passes(rule: str) -> None:
    make, name = WORLDS[rule]
    rig = make()
    assert [one[0::2] for one in held(rig)] == [("agent:a", rule)]
    assert rig.ask(name) != "granted"
    word(rig, rule)
    assert held(rig) == []
    assert rig.ask(name) == "granted"


def test_an_agent_that_is_suspect_is_trusted_again() -> None:
    rig = unlike()
    usual = {"arguments": {"note": "where is parcel nine"}}
    assert rig.ask("look", **usual) == "behaviour_blocked"
    assert held(rig) == [("agent:a", "block", "context.unlike")]
    word(rig, "context.unlike")
    assert rig.ask("look", **usual) == "granted"


@pytest.mark.parametrize("rule", WORLDS)
def test_another_agent_another_tenant_and_another_rule_stay_as_they_were(rule: str) -> None:
    make, name = WORLDS[rule]
    rig = make()
    word(rig, rule, who=("acme", "agent:b"))
    word(rig, rule, who=("globex", "agent:a"))
    word(rig, "another.rule")
    assert len(held(rig)) == 1
    assert rig.ask(name) != "granted"


def test_a_lift_forgets_and_does_not_forgive_what_comes() -> None:
    rig = leaking()
    word(rig, "secret.egress")
    rig.ask("vault")
    assert rig.ask("mail") == "behaviour_blocked"
    assert rig.records[-1]["change"] == "begins", "it is told anew"


def test_a_rule_that_was_lifted_for_a_while_is_watched_and_comes_back() -> None:
    rig = leaking()
    word(rig, "secret.egress", for_s=60)
    rig.ask("vault")
    told = len(rig.records)
    assert rig.ask("mail") == "granted"
    assert [found.change for found in rig.seen][-1] == "lifted"
    assert (held(rig), len(rig.records)) == ([], told)
    rig.now_s += 61
    assert rig.ask("mail") == "behaviour_blocked"
    assert [one["change"] for one in rig.records[told:]] == ["begins"]


def test_a_rate_that_was_lifted_for_a_while_begins_anew_when_that_is_over() -> None:
    rig = throttled()
    word(rig, "rate.habit", for_s=90)
    limit = rig.records[-1]["facts"]["limit"]
    assert {rig.ask("look") for _ in range(3 * limit)} == {"granted"}
    assert held(rig) == []
    told = len(rig.records)
    rig.now_s += 120
    while rig.ask("look") == "granted":
        pass
    assert rig.decision.reason == "behaviour_throttled"
    assert [one["change"] for one in rig.records[told:]] == ["begins"]


def test_a_word_to_end_it_now_ends_it() -> None:
    rig = leaking()
    word(rig, "secret.egress", for_s=600)
    rig.now_s += 1
    word(rig, "secret.egress")
    assert Oversight(rig.watch).words(rig.now_s) == []
    rig.ask("vault")
    assert rig.ask("mail") == "behaviour_blocked"


def test_what_stands_says_why_since_when_and_until_when() -> None:
    rig = Rig(bundle(sequences=[LEAK]))
    began_s = rig.now_s
    rig.ask("vault")
    rig.now_s += 60
    rig.ask("mail", who=agent(session="s1"))
    rig.ask("vault", who=agent(session="s1"))
    rig.ask("mail", who=agent(session="s1"))
    rig.now_s += 5
    rig.ask("mail", who=agent(session="s1"))
    (one,) = Oversight(rig.watch).standing(rig.now_s)
    assert (one.rule.id, one.rule.source, one.sort, one.scope) == (
        "secret.egress",
        "behaviour.yaml:1",
        "sequence",
        "session:s1",
    )
    assert (one.times, one.since_s, one.facts) == (2, began_s + 60, {"began_s": int(began_s + 60)})
    assert one.call_id == rig.records[0]["call"]
    assert one.until_s == rig.now_s + 1800, "its session ends by half an hour of silence"
    rig.now_s += 1801
    assert held(rig) == []


def test_a_throttle_stands_until_enough_quiet_windows() -> None:
    rig = throttled()
    (one,) = Oversight(rig.watch).standing(rig.now_s)
    assert one.until_s == BEGINS_S + 4 * 60, "this window is lost, and three must be quiet"
    rig.now_s = one.until_s - 1
    assert len(held(rig)) == 1
    rig.now_s = one.until_s
    assert held(rig) == []
    rig.ask("look")
    assert rig.rules_told()[-1] == ("rate.habit", "throttle", "ends")


def test_a_throttle_that_keeps_quiet_ends_when_it_was_said_to_end() -> None:
    rig = throttled()
    for _ in range(2):
        rig.now_s += 60
        rig.ask("look")
    (one,) = Oversight(rig.watch).standing(rig.now_s)
    assert one.until_s is not None
    while rig.now_s + 60 < one.until_s:
        rig.now_s += 60
        rig.ask("look")
        assert len(held(rig)) == 1
    rig.now_s += 60
    rig.ask("look")
    assert rig.rules_told()[-1] == ("rate.habit", "throttle", "ends")


def test_what_only_runs_dry_or_alerts_holds_nobody() -> None:
    for change in ({"mode": "dry_run"}, {"answer": "alert"}):
        rig = Rig(bundle(sequences=[LEAK | change]))
        rig.ask("vault")
        assert rig.ask("mail") == "granted"
        assert held(rig) == []


def test_a_block_by_hand_refuses_every_call_until_it_is_over_whatever_the_rules() -> None:
    for rig in (Rig(bundle()), Rig(bundle(sequences=[LEAK]))):
        word(rig, BY_HAND, for_s=60, what="block")
        assert rig.ask("look") == "behaviour_blocked"
        assert [(rule.id, rule.source) for rule in rig.decision.rules] == [(BY_HAND, "ledger:7")]
        assert rig.ask("look", who=agent("agent:b")) == "granted"
        rig.now_s += 60
        assert rig.ask("look") == "granted"


def test_a_block_by_hand_ends_by_a_word() -> None:
    rig = Rig(bundle())
    word(rig, BY_HAND, for_s=600, what="block")
    word(rig, BY_HAND)
    assert rig.ask("look") == "granted"
    assert Oversight(rig.watch).words(rig.now_s) == []


def test_a_session_goes_on_while_a_person_blocks() -> None:
    """Otherwise whoever is blocked would only have to wait to lose a forbidden past."""
    rig = leaking()
    word(rig, BY_HAND, for_s=3600, what="block")
    for _ in range(4):
        rig.now_s += 1000
        rig.ask("mail")
    assert rig.ask("mail") == "behaviour_blocked"
    assert rig.decision.rules[0].id == "secret.egress"


@pytest.mark.parametrize(("at_s", "reason"), [(-1.0, "granted"), (1.0, "behaviour_blocked")])
def test_what_was_done_before_a_lift_is_not_read_back_and_what_came_after_is(at_s: float, reason: str) -> None:
    rig = leaking()
    word(rig, "secret.egress")
    seen = Happened("c1", rig.now_s + at_s, *WHO, Deed("call", "/tool/vault"), "")
    rig.now_s += 2
    rig.served = bundle(sequences=[LEAK | {"description": "said anew"}])
    rig.past = [seen]
    rig.learn_past()
    assert rig.ask("mail") == reason


def test_refusals_of_an_earlier_process_are_shown_while_they_stand() -> None:
    rig = Rig(bundle(sequences=[LEAK]))
    rig.ask("vault")
    told = Told(rig.now_s - 90, WHO, "secret.egress", "session", "c1", {"began_s": 5})
    stranger = Told(rig.now_s - 90, ("acme", "agent:new"), "secret.egress", "session", "c2", {})
    gone = Told(rig.now_s - 90, WHO, "rule.gone", "", "c3", {})
    Oversight(rig.watch).recall([told, stranger, gone])
    (one,) = Oversight(rig.watch).standing(rig.now_s)
    assert (one.agent, one.since_s, one.call_id) == (WHO, rig.now_s - 90, "c1")


def test_a_refusal_of_before_a_lift_is_shown_no_more() -> None:
    rig = leaking()
    word(rig, "secret.egress")
    rig.now_s += 1
    rig.ask("vault")
    earlier = Told(rig.now_s - 90, WHO, "secret.egress", "session", "c1", {})
    Oversight(rig.watch).recall([earlier])
    assert held(rig) == [], "it would be refused again, and was not yet"


def test_words_that_are_over_are_forgotten_when_no_past_can_need_them() -> None:
    rig = Rig(bundle(sequences=[LEAK]))
    word(rig, BY_HAND, for_s=60, what="block")
    word(rig, "secret.egress", for_s=60)
    rig.now_s += 23 * 3600
    word(rig, "another.rule")
    said = rig.watch.said
    assert (list(said.blocks), [rule for _, rule in said.lifts]) == ([], ["secret.egress", "another.rule"])
    rig.now_s += 2 * 3600
    word(rig, "another.rule")
    assert [rule for _, rule in said.lifts] == ["another.rule"]


def test_a_rule_whose_past_is_unknown_is_shown_without_an_end() -> None:
    rig = Rig(bundle(sequences=[LEAK]), past=None)
    assert rig.ask("mail") == "behaviour_state_unknown"
    (one,) = Oversight(rig.watch).standing(rig.now_s)
    assert (one.until_s, Oversight(rig.watch).unknown_rules(rig.now_s)) == (None, 1)
    rig.past = []
    rig.learn_past(-inf)
    assert held(rig) == []
