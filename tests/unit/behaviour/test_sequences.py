"""Forbidden sequences through the watch: decided before the call goes out, remembered where the rule says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlplane.behaviour import BehaviourSettings
from controlplane.behaviour.asked import Happened
from controlplane.behaviour.selecting import Deed
from controlplane.calls import Principal
from tests.unit.behaviour.rig import REFUSED, Rig, agent, bundle

SECRET = {"labels": ["secret"]}
EGRESS = {"do": "call", "labels": ["egress"]}
LEAK = {"id": "secret.egress", "after": SECRET, "then": EGRESS, "within": "session", "answer": "block"}


def leak(**changes: Any) -> Rig:
    return Rig(bundle(sequences=[LEAK | changes]))


def test_egress_after_a_secret_is_denied_by_the_rule_that_says_so() -> None:
    rig = leak()
    assert rig.ask("mail") == "granted"
    assert rig.ask("vault") == "granted"
    assert rig.ask("mail") == "behaviour_blocked"
    assert [(rule.id, rule.source) for rule in rig.decision.rules] == [("secret.egress", "behaviour.yaml:1")]
    (record,) = rig.records
    assert (record["rule"], record["agent"], record["tenant"], record["mode"]) == (
        "secret.egress",
        "agent:a",
        "acme",
        "enforce",
    )


def test_every_call_is_denied_but_the_finding_is_told_once() -> None:
    rig = leak()
    rig.ask("vault")
    assert [rig.ask("mail") for _ in range(5)] == ["behaviour_blocked"] * 5
    assert len(rig.records) == 1
    assert len(rig.seen) == 5
    rig.now_s += 601
    rig.ask("mail")
    assert len(rig.records) == 2


def test_other_agents_tenants_and_sessions_are_not_concerned() -> None:
    rig = leak()
    rig.ask("vault", who=agent(session="s1"))
    assert rig.ask("mail", who=agent("agent:b", session="s1")) == "granted"
    assert rig.ask("mail", who=agent(tenant="globex", session="s1")) == "granted"
    assert rig.ask("mail", who=agent(session="s2")) == "granted"
    assert rig.ask("mail", who=agent(session="s1")) == "behaviour_blocked"


def test_whoever_holds_the_token_is_the_agent() -> None:
    rig = leak()
    rig.ask("vault", who=Principal(subject="user:eve", tenant="acme", chain=("agent:a",)))
    assert rig.ask("mail") == "behaviour_blocked"
    assert rig.ask("mail", who=agent("user:eve")) == "granted"


def test_a_new_trace_does_not_launder_a_session() -> None:
    rig = leak()
    rig.ask("vault", run=1)
    assert rig.ask("mail", run=2) == "behaviour_blocked"


def test_a_run_is_its_trace_and_a_call_without_one_counts_for_the_session() -> None:
    rig = leak(within="run")
    rig.ask("vault", run=1)
    assert rig.ask("mail", run=2) == "granted"
    assert rig.ask("mail", run=1) == "behaviour_blocked"
    rig.ask("vault")
    assert rig.ask("mail") == "behaviour_blocked"


def test_untraced_calls_can_be_left_alone() -> None:
    rig = leak(within="run", untraced="skip")
    rig.ask("vault")
    assert rig.ask("mail") == "granted"


def test_a_session_is_over_when_it_was_idle() -> None:
    rig = leak()
    rig.ask("vault")
    rig.now_s += 1801
    assert rig.ask("mail") == "granted"


def test_a_session_goes_on_by_calls_that_no_rule_is_about() -> None:
    """Else an agent would only have to do something harmless for half an hour."""
    rig = leak()
    rig.ask("vault")
    for _ in range(10):
        rig.now_s += 600
        rig.ask("look")
    assert rig.ask("mail") == "behaviour_blocked"


def test_a_run_goes_on_by_calls_that_no_rule_is_about() -> None:
    rig = leak(within="run")
    rig.ask("vault", run=1)
    for _ in range(10):
        rig.now_s += 600
        rig.ask("look", run=1)
    assert rig.ask("mail", run=1) == "behaviour_blocked"


def test_what_is_carried_over_a_restart_goes_on_too() -> None:
    harmless = [
        Happened(f"h-{n}", 994_600.0 + 600 * n, "acme", "agent:a", Deed("call", "/tool/look"), "") for n in range(9)
    ]
    refused = [replace(one, is_admitted=False) for one in harmless]
    for between in (harmless, refused):
        rig = Rig(bundle(sequences=[LEAK]), past=[*past(("vault", 1), at_s=994_000.0), *between])
        for _ in range(5):
            rig.now_s += 600
            rig.ask("look", who=agent(session="s"))
        assert rig.ask("mail", who=agent(session="s")) == "behaviour_blocked"
    rig = Rig(bundle(sequences=[LEAK]), past=past(("vault", 1), at_s=994_000.0))
    assert rig.ask("mail") == "granted", "it was idle for longer than a session lasts"


def test_what_was_refused_before_a_restart_was_never_read() -> None:
    rig = Rig(bundle(sequences=[LEAK]), past=[replace(one, is_admitted=False) for one in past(("vault", 1))])
    assert rig.ask("mail") == "granted"


def test_a_time_is_looked_back_over() -> None:
    rig = leak(within="10m")
    rig.ask("vault")
    rig.now_s += 600
    assert rig.ask("mail") == "behaviour_blocked"
    rig.now_s += 1
    assert rig.ask("mail") == "granted"


def test_what_came_in_between_forgives_what_was_before_it() -> None:
    rig = leak(unless={"on": "/tool/approve"})
    rig.ask("vault")
    rig.ask("approve")
    assert rig.ask("mail") == "granted"
    rig.ask("vault")
    assert rig.ask("mail") == "behaviour_blocked"


def test_what_nobody_catalogued_is_secret_and_leaks_but_forgives_nothing() -> None:
    rig = leak(after={"on": "/tool/vault"}, unless={"labels": ["approval"]})
    rig.ask("vault")
    assert rig.ask("stranger", action="read") == "granted"
    assert rig.ask("mail") == "behaviour_blocked"
    rig = leak()
    rig.ask("stranger")
    assert rig.ask("mail") == "behaviour_blocked"
    rig = leak()
    rig.ask("vault")
    assert rig.ask("stranger") == "behaviour_blocked"


def test_what_policy_refused_was_never_read() -> None:
    rig = leak()
    rig.judge(rig.call("vault"), agent(), REFUSED)
    assert rig.decision is REFUSED
    assert rig.ask("mail") == "granted"


def test_what_was_let_go_and_never_recorded_was_never_read() -> None:
    rig = leak()
    vault = rig.call("vault")
    rig.judge(vault, agent())
    assert not rig.judge(rig.call("mail"), agent()).permits, "while it is being recorded it counts"
    rig.watch.dropped(vault.id)
    assert rig.judge(rig.call("mail"), agent()).permits


def test_what_was_given_up_before_it_could_be_recorded_does_not_count_for_long() -> None:
    """An agent may hang up while its call waits for a budget: nobody says what became of it."""
    rig = leak()
    rig.judge(rig.call("vault"), agent())
    assert rig.ask("mail") == "behaviour_blocked"
    rig.now_s += 61
    assert rig.ask("mail") == "granted"


def test_calls_that_were_given_up_are_swept_away() -> None:
    rig = leak()
    for _ in range(1500):
        rig.now_s += 1
        rig.judge(rig.call("vault"), agent())
    assert len(rig.watch._pending) <= 1000


def test_many_at_once_are_counted_while_they_are_being_recorded() -> None:
    rig = leak(after=[], then=EGRESS | {"times": 3}, within="10m")
    reasons = [rig.judge(rig.call("mail"), agent()).reason for _ in range(5)]
    assert reasons == ["granted", "granted", "behaviour_blocked", "behaviour_blocked", "behaviour_blocked"]


def test_so_many_in_a_time_are_throttled_until_the_first_is_old() -> None:
    rig = leak(after=[], then=EGRESS | {"times": 3}, within="60s", answer="throttle")
    for _ in range(2):
        rig.ask("mail")
        rig.now_s += 10
    assert rig.ask("mail") == "behaviour_throttled"
    assert rig.decision.retry_after_s == pytest.approx(40)
    rig.now_s += 41
    assert rig.ask("mail") == "granted"


def test_a_refused_call_does_not_count_against_its_agent() -> None:
    """Else an agent that asks again would never be heard again."""
    rig = leak(after=[], then=EGRESS | {"times": 2}, within="60s", answer="throttle")
    rig.ask("mail")
    for _ in range(6):
        rig.now_s += 10
        assert rig.ask("mail") == "behaviour_throttled"
    rig.now_s += 1
    assert rig.ask("mail") == "granted"


def test_dry_run_records_what_it_would_have_said() -> None:
    rig = leak(mode="dry_run")
    rig.ask("vault")
    assert rig.ask("mail") == "granted"
    assert rig.records[0]["mode"] == "dry_run"
    assert rig.rules_told() == [("secret.egress", "block", "begins")]


def test_alert_lets_the_call_go() -> None:
    rig = leak(answer="alert")
    rig.ask("vault")
    assert rig.ask("mail") == "granted"
    assert rig.rules_told() == [("secret.egress", "alert", "begins")]


def test_step_up_says_what_would_satisfy_it_and_is_satisfied_by_it() -> None:
    rig = leak(answer="step_up", step_up={"acr_values": ["gold"], "max_age_s": 60})
    rig.ask("vault")
    assert rig.ask("mail") == "step_up_required"
    (duty,) = rig.decision.obligations
    assert (duty.name, duty.parameters) == ("step_up", {"acr_values": ["gold"], "max_age_s": 60})
    now = int(rig.now_s)
    for shown in ({"acr": "gold"}, {"acr": "silver", "auth_time": now}, {"acr": "gold", "auth_time": now - 61}):
        assert rig.ask("mail", who=agent(**shown)) == "step_up_required"
    for forged in (True, "now", None):
        assert rig.ask("mail", who=agent(acr="gold", auth_time=forged)) == "step_up_required"
    assert rig.ask("mail", who=agent(acr="gold", auth_time=now - 60)) == "granted"
    assert rig.rules_told() == [("secret.egress", "step_up", "begins"), ("secret.egress", "step_up", "satisfied")]


def test_the_strictest_answer_wins() -> None:
    rules = [LEAK | {"id": f"leak.{answer}", "answer": answer} for answer in ("alert", "step_up", "block")]
    rig = Rig(bundle(sequences=rules))
    rig.ask("vault")
    assert rig.ask("mail") == "behaviour_blocked"
    assert len(rig.records) == 3


def test_agents_that_a_rule_leaves_alone() -> None:
    rig = leak(except_agents=["agent:backup"])
    rig.ask("vault", who=agent("agent:backup"))
    assert rig.ask("mail", who=agent("agent:backup")) == "granted"


def test_steps_of_a_run_are_limited() -> None:
    rig = Rig(
        bundle(
            sequences=[
                {"id": "steps.limit", "then": {"times": 4}, "within": "run", "untraced": "skip", "answer": "block"}
            ]
        )
    )
    assert [rig.ask("look", run=1) for _ in range(5)] == ["granted"] * 3 + ["behaviour_blocked"] * 2
    assert rig.ask("look", run=2) == "granted"
    assert {rig.ask("look") for _ in range(10)} == {"granted"}


# --- restarts, reloads, and room


def past(*deeds: tuple[str, int], at_s: float = 999_900.0) -> list[Happened]:
    return [
        Happened(f"old-{index}", at_s + index, "acme", "agent:a", Deed("call", f"/tool/{name}"), f"{run:032x}")
        for index, (name, run) in enumerate(deeds)
    ]


def test_while_the_past_is_unknown_what_the_rule_could_refuse_is_refused() -> None:
    rig = Rig(bundle(sequences=[LEAK]), past=None)
    assert rig.ask("mail") == "behaviour_state_unknown"
    assert rig.decision.retry_after_s == 5
    assert rig.ask("vault") == "granted", "only the call that the rule answers"
    rig.learn_past()
    assert rig.ask("look") == "granted"


@pytest.mark.parametrize("changes", [{"answer": "alert"}, {"mode": "dry_run"}])
def test_a_rule_that_refuses_nothing_refuses_nothing_while_its_past_is_unknown(changes: dict[str, str]) -> None:
    rig = Rig(bundle(sequences=[LEAK | changes]), past=None)
    assert rig.ask("mail") == "granted"


def test_a_restart_remembers_what_the_ledger_remembers() -> None:
    rig = Rig(bundle(sequences=[LEAK]), past=past(("vault", 1)))
    assert rig.ask("mail", who=agent(session="any")) == "behaviour_blocked"


def test_a_restart_does_not_take_an_approval_of_one_session_for_all() -> None:
    rule = LEAK | {"unless": {"on": "/tool/approve"}}
    rig = Rig(bundle(sequences=[rule]), past=past(("vault", 1), ("approve", 1)))
    assert rig.ask("mail", who=agent(session="another")) == "behaviour_blocked"


def test_a_restart_keeps_runs_apart() -> None:
    rig = Rig(bundle(sequences=[LEAK | {"within": "run"}]), past=past(("vault", 2)))
    assert rig.ask("mail", run=2) == "granted"  # TRACES[2] is run 3
    assert rig.ask("mail", run=1) == "behaviour_blocked"


def test_what_the_ledger_cannot_cover_stays_unknown_until_it_is_too_old_to_matter() -> None:
    rig = Rig(bundle(sequences=[LEAK | {"within": "10m"}]), past=None)
    rig.learn_past(covered_s=rig.now_s - 100)
    assert rig.ask("mail") == "behaviour_state_unknown"
    rig.now_s += 501
    assert rig.ask("mail") == "granted"


def test_what_happens_while_the_past_is_read_is_counted_once() -> None:
    rule = LEAK | {"after": [], "then": EGRESS | {"times": 3}, "within": "10m", "answer": "alert"}
    rig = Rig(bundle(sequences=[rule]), past=None)
    names = rig.watch.unknown_rules()
    rig.watch.begin_rebuild()
    call = rig.call("mail")
    rig.judge(call, agent())
    rig.watch.recorded(call, agent(), rig.now_s)
    seen = Happened(call.id, rig.now_s, "acme", "agent:a", Deed("call", "/tool/mail"), "")
    rig.watch.finish_rebuild(names, [seen], float("-inf"))
    rig.ask("mail")
    assert not rig.records
    rig.ask("mail")
    assert len(rig.records) == 1


def test_a_reload_keeps_what_unchanged_rules_know_and_asks_for_the_past_of_others() -> None:
    rig = leak()
    rig.ask("vault")
    rig.served = bundle(sequences=[LEAK, LEAK | {"id": "second.rule"}])
    assert rig.watch.unknown_rules() == {"second.rule"}
    assert rig.ask("mail") == "behaviour_blocked"
    rig.served = bundle(sequences=[LEAK | {"within": "10m"}])
    assert rig.watch.unknown_rules() == {"secret.egress"}


@pytest.mark.parametrize("before", [[], [LEAK | {"id": "another.rule"}]])
def test_a_call_under_way_during_a_reload_is_remembered_by_the_new_rules(before: list[dict[str, Any]]) -> None:
    rig = Rig(bundle(sequences=before))
    vault = rig.call("vault")
    rig.judge(vault, agent())
    rig.served = bundle(sequences=[LEAK])
    rig.learn_past()
    rig.watch.recorded(vault, agent(), rig.now_s)
    assert rig.ask("mail") == "behaviour_blocked"


def test_sessions_that_make_room_are_not_forgotten() -> None:
    rig = Rig(bundle(sequences=[LEAK]), BehaviourSettings(max_scopes=2))
    rig.ask("vault", who=agent(session="first"))
    for name in ("second", "third", "fourth"):
        rig.ask("vault", who=agent(session=name))
    assert rig.ask("mail", who=agent(session="first")) == "behaviour_blocked"
    assert rig.ask("mail", who=agent(session="fifth")) == "behaviour_blocked", "it may be any of those that made room"


def test_an_agent_for_whom_there_is_no_room_is_taken_for_the_worst() -> None:
    rig = Rig(bundle(sequences=[LEAK]), BehaviourSettings(max_agents=2))
    for name in ("agent:a", "agent:b"):
        rig.ask("vault", who=agent(name))
    assert rig.ask("mail", who=agent("agent:c")) == "behaviour_state_full"
    assert rig.ask("look", who=agent("agent:c")) == "granted"
    rig.now_s += 24 * 3600 + 1
    assert rig.ask("mail", who=agent("agent:c")) == "granted"


def test_an_agent_of_whom_nothing_is_kept_makes_room() -> None:
    rig = Rig(bundle(sequences=[LEAK]), BehaviourSettings(max_agents=1))
    for number in range(5):
        assert rig.ask("mail", who=agent(f"agent:{number}")) == "granted"


def test_no_rules_and_no_bundle_say_nothing() -> None:
    rig = Rig(bundle())
    call = rig.call("mail")
    assert rig.watch.judge(agent(), call, REFUSED, 1.0) is REFUSED
    rig.served = replace(rig.served, revision="r2")
    assert rig.ask("mail") == "granted"
