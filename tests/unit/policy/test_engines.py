"""Which engine decides, and what happens when the two do not agree."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from controlplane.calls import Call, Decision, Principal
from controlplane.policy import snapshot as snapshots
from controlplane.policy.bundle import Bundle, build, read_files
from controlplane.policy.cases import read_cases
from controlplane.policy.enforcer import Casbin, Enforcers
from controlplane.policy.engine import MAX_RULINGS, Answer, Rulings
from controlplane.policy.lint import lint
from controlplane.policy.shadow import SAMPLE, disagreements, sample
from controlplane.policy.snapshot import Snapshot
from tests.unit.policy.bundles import Folder, ask

ON_RESOURCE, G = "onResource(r.obj, p.obj) && ", "g(r.sub.id, p.sub, r.dom) && "
WHEN = "when(p.id, p.cond, r.sub, r.obj, r.act, r.ctx)"


@pytest.fixture
def bundle(folder: Folder) -> Bundle:
    return build(read_files(folder.path))


def everything(folder: Folder, engine: str) -> list[Decision]:
    policy = folder.policy(engine=engine)
    wishes: list[tuple[str, str, str, dict[str, Any]]] = [
        ("agent:support", "call", "/tool/refund", {"amount": 50}),
        ("agent:support", "call", "/tool/refund", {"amount": 500}),
        ("agent:support", "call", "/tool/refund", {"amount": 5000}),
        ("agent:support", "call", "/tool/refund", {"amount": "50"}),
        ("agent:analyst", "infer", "/model/tiny", {"max_tokens": 5}),
        ("user:operator", "read", "/api/calls", {}),
        ("agent:stranger", "infer", "/model/tiny", {}),
    ]
    return [structs.replace(ask(policy, *wish), eval_us=0) for wish in wishes]


def test_engine_is_a_setting_and_changes_no_decision(folder: Folder) -> None:
    assert folder.policy().status().engine == "snapshot"
    assert folder.policy(engine="casbin").status().engine == "casbin"
    assert folder.policy(engine="casbin").status().engine_note == ""
    assert everything(folder, "snapshot") == everything(folder, "casbin")


def test_snapshot_never_asks_casbin_once_it_is_served(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, slow = folder.policy(), folder.policy(engine="casbin")

    def gone(*_: object) -> Answer:
        raise RuntimeError("casbin was asked")

    monkeypatch.setattr(Casbin, "_enforce", gone)
    assert ask(compiled, "user:operator", "read", "/api/calls").permits
    assert ask(slow, "user:operator", "read", "/api/calls").reason == "policy_defect"


@pytest.mark.parametrize(
    ("old", "new", "denies_refunds"),
    [
        (ON_RESOURCE + G, G + ON_RESOURCE, False),
        (f" && {WHEN}", f" && r.act != 'call' && {WHEN}", True),
        (f" && {WHEN}", f" && {WHEN} && r.sub.id != 'agent:support'", True),
        (f" && {WHEN}", f" && {WHEN} && r.obj.path != '/tool/refund' && r.sub.id == r.sub.id", True),
    ],
)
def test_model_that_the_snapshot_does_not_compile_is_decided_by_casbin_and_says_so(
    folder: Folder, old: str, new: str, denies_refunds: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder.edit("model.conf", old, new)
    policy = folder.policy()
    status = policy.status()
    assert (status.error, status.engine) == ("", "casbin")
    assert "model.conf is not the model that the snapshot compiles" in status.engine_note
    assert any(record.levelno == logging.WARNING and "casbin" in record.message for record in caplog.records)
    assert any("snapshot does not compile" in str(warning) for warning in lint(folder.path).warnings)
    assert ask(policy, "user:operator", "read", "/api/calls").permits
    assert ask(policy, "agent:analyst", "infer", "/model/tiny").permits
    assert not ask(policy, "agent:stranger", "infer", "/model/tiny").permits
    refund = ask(policy, "agent:support", "call", "/tool/refund", {"amount": 50})
    assert (refund.permits, refund.rules == ()) == (not denies_refunds, denies_refunds)
    caller = Principal(subject="agent:support", tenant="acme")
    assert policy.could_permit(caller, "call", "/tool/refund") is not denies_refunds


def test_usual_model_comes_back_to_the_snapshot(folder: Folder) -> None:
    policy = folder.policy()
    usual = (folder.path / "model.conf").read_text()
    folder.edit("model.conf", f" && {WHEN}", f" && r.act != 'call' && {WHEN}")
    assert policy.reload()
    assert policy.status().engine == "casbin"
    folder.write("model.conf", usual)
    assert policy.reload()
    assert (policy.status().engine, policy.status().engine_note) == ("snapshot", "")


def test_condition_asked_first_fails_in_casbins_order(folder: Folder) -> None:
    """With another order of tests, a condition of a rule for others is asked too: the snapshot could not say this."""
    assert ask(folder.policy(), "user:operator", "read", "/api/calls").permits
    folder.edit("model.conf", f" && {WHEN}", "")
    folder.edit("model.conf", ON_RESOURCE, f"{WHEN} && {ON_RESOURCE}")
    folder.write(
        "tenants/globex/rules.yaml",
        "tenant: globex\nrules:\n"
        "  - {id: globex.x, principals: [agent:x], on: /api/x, do: call, effect: allow, when: r.sub.session == 'y'}\n",
    )
    assert ask(folder.policy(), "user:operator", "read", "/api/calls").reason == "condition_error"


def test_no_rule_at_all_is_a_plain_no_under_any_order(folder: Folder) -> None:
    folder.edit("model.conf", f" && {WHEN}", "")
    folder.edit("model.conf", ON_RESOURCE, f"{WHEN} && {ON_RESOURCE}")
    for name in ("roles", "tenants", "tests"):
        for file in sorted((folder.path / name).rglob("*.yaml")):
            file.unlink()
    folder.write("global/guardrails.yaml", "guards: []\n")
    assert ask(folder.policy(), "user:operator", "read", "/api/calls").reason == "no_matching_rule"


class Generous(Snapshot):
    """A snapshot with a defect: it never hears a no."""

    def answer(
        self, principal: Principal, name: str, action: str, path: str, values: Mapping[str, Any] | None
    ) -> Answer:
        reason, rules = super().answer(principal, name, action, path, values)
        return ("granted" if rules else reason), rules


def test_bundle_on_which_the_engines_disagree_is_refused_and_the_last_good_one_stays(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy = folder.policy()
    served = policy.status().revision
    monkeypatch.setattr("controlplane.policy.policy.Snapshot", Generous)
    folder.edit("roles/support.yaml", "<= 100", "<= 99")
    assert policy.reload() is False
    status = policy.status()
    assert (status.revision, status.engine) == (served, "snapshot")
    assert "where casbin says" in status.error
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    assert ask(policy, "agent:support", "call", "/tool/refund", {"amount": 5000}).reason == "rule_denied"
    assert folder.policy().status().revision == ""  # a first load without agreement serves nothing


@pytest.mark.parametrize("part", ["tests", "sample"])
def test_disagreement_is_found_by_the_bundles_tests_and_by_the_sample_each_alone(
    folder: Folder, bundle: Bundle, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = read_cases(read_files(folder.path)) if part == "tests" else []
    if part == "tests":
        monkeypatch.setattr("controlplane.policy.shadow.sample", lambda _: iter(()))
    assert disagreements(bundle, cases, Snapshot(bundle), Casbin(bundle)) == []
    found = disagreements(bundle, cases, Generous(bundle), Casbin(bundle))
    assert found
    assert all(problem.source.startswith(part) for problem in found)


def test_suppositions_of_the_bundles_tests_are_compared_too(folder: Folder, bundle: Bundle) -> None:
    class Unsuspecting(Snapshot):
        def supposing(self, catalogue: object) -> Unsuspecting:
            return self

    supposed = [(source, case) for source, case in read_cases(read_files(folder.path)) if case.suppose is not None]
    assert supposed
    assert disagreements(bundle, supposed, Snapshot(bundle), Casbin(bundle)) == []
    assert disagreements(bundle, supposed, Unsuspecting(bundle), Casbin(bundle))


def test_engine_that_breaks_where_the_other_answers_is_a_disagreement(bundle: Bundle) -> None:
    class Broken(Snapshot):
        def answer(self, *_: object) -> Answer:
            raise RecursionError

    found = disagreements(bundle, [], Broken(bundle), Casbin(bundle))
    assert "RecursionError" in str(found[0])


def test_sample_is_the_same_for_the_same_revision_and_reaches_most_rules(bundle: Bundle) -> None:
    drawn = list(sample(bundle))
    assert drawn == list(sample(bundle))
    assert drawn != list(sample(replace(bundle, revision="another")))
    assert len(drawn) == SAMPLE
    authority = Casbin(bundle)
    reached = {
        rule
        for one in drawn
        for rule in authority.answer(one.principal, one.principal.subject, one.call.action, one.call.resource, None)[1]
        if one.call.action in ("infer", "call", "list", "read", "connect", "write")
    }
    assert len(reached) >= len(bundle.rules) * 3 // 4


def test_disagreement_is_told_without_arguments_and_claims(folder: Folder, bundle: Bundle) -> None:
    found = disagreements(bundle, read_cases(read_files(folder.path)), Generous(bundle), Casbin(bundle))
    assert not any(word in str(problem) for problem in found for word in ("amount", "claims", "500"))


def test_broken_test_file_refuses_the_bundle_as_lint_does(folder: Folder) -> None:
    folder.write("tests/more_test.yaml", "tests: [{name: x}]\n")
    assert "tests/more_test.yaml" in folder.policy().status().error


def test_what_is_kept_for_callers_is_bounded_and_forgotten_without_harm(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_PLANS", 8)
    snapshot, caller = Snapshot(bundle), Principal(subject="user:operator", tenant="acme")
    for number in range(50):
        assert snapshot.answer(caller, caller.subject, "read", f"/api/{number}", {})[0] == "granted"
        assert len(snapshot._plans) <= 8
    rulings = Rulings(bundle)
    names = list(bundle.rules)
    for number in range(MAX_RULINGS + 10):
        rulings.of(("granted", tuple(name for bit, name in enumerate(names) if number >> bit & 1)))
        assert len(rulings._kept) <= MAX_RULINGS


def test_kept_duties_cannot_be_changed_by_who_discharges_them(folder: Folder) -> None:
    policy = folder.policy()
    first = ask(policy, "agent:analyst", "infer", "/model/tiny")
    with pytest.raises(TypeError):
        first.obligations[0].parameters["max"] = 10**9  # type: ignore[index]  # that it cannot be written to
    assert ask(policy, "agent:analyst", "infer", "/model/tiny").obligations == first.obligations


def test_tenants_that_nobody_wrote_rules_for_share_what_decides_about_them(bundle: Bundle) -> None:
    """Whatever tenants tokens name, no more is kept for them."""
    enforcers = Enforcers(bundle)
    assert enforcers.shard("one", "call") is enforcers.shard("two", "call")
    assert enforcers.shard("acme", "call") is enforcers.shard("acme", "call")
    assert enforcers.shard("acme", "call") is not enforcers.shard("one", "call")


def test_rule_with_several_lines_is_told_once_whatever_the_engine(folder: Folder) -> None:
    folder.write(
        "tenants/acme/rules.yaml",
        "tenant: acme\nrules:\n  - id: acme.no\n    roles: [analyst]\n    principals: [agent:analyst]\n"
        "    on: [/model/*, /model/tiny, /**]\n    do: '*'\n    effect: deny\n",
    )
    for engine in ("snapshot", "casbin"):
        decision = ask(folder.policy(engine=engine), "agent:analyst", "infer", "/model/tiny")
        assert [rule.id for rule in decision.rules] == ["acme.no", "analyst.tiny"]


def test_catalogue_path_that_is_no_valid_path_is_still_refused(folder: Folder) -> None:
    folder.edit("catalog/tools.yaml", "/tool/parcel", "/tool/par%2ecel")
    folder.write("tests/support_test.yaml", "tests: []\n")
    policy = folder.policy()
    assert "/tool/par%2ecel" in policy.catalogue.tools
    assert ask(policy, "user:operator", "call", "/tool/par%2ecel").reason == "invalid_resource"


def test_one_snapshot_answers_many_threads(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MAX_PLANS", 3)
    snapshot, wrong = Snapshot(bundle), list[Answer]()
    callers = [Principal(subject=name, tenant="acme") for name in ("user:operator", "agent:stranger")]

    def read() -> None:
        for number in range(300):
            for caller, meant in zip(callers, ("granted", "no_matching_rule"), strict=True):
                answer = snapshot.answer(caller, caller.subject, "read", f"/api/{number % 5}", {})
                if answer[0] != meant:
                    wrong.append(answer)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_attributes_are_those_of_the_caller_and_not_of_who_asked_before(folder: Folder) -> None:
    folder.edit("tenants/acme/principals.yaml", "{clearance: 2, risk: 20, external: false}", "{external: false}")
    policy = folder.policy()
    call = Call(id="c", door="test", action="call", resource="/tool/refund", arguments={"amount": 5})
    for risk, meant in ((1, "granted"), (99, "rule_denied"), (1, "granted"), ("high", "condition_error")):
        caller = Principal(subject="agent:support", tenant="acme", claims={"risk": risk})
        assert policy.decide(caller, call, 0.0).reason == meant


@pytest.mark.parametrize(
    ("condition", "claims", "meant"),
    [
        ("r.obj.sensitivity > 4 && r.sub.session == 'x'", {}, "no_matching_rule"),  # the first part alone decides
        ("r.sub.session == 'x' && r.obj.sensitivity > 4", {}, "condition_error"),  # the first part is asked first
        ("r.sub.session == 'x' && r.obj.sensitivity > 4", {"session": "x"}, "no_matching_rule"),
        ("has(r.sub.session) && r.obj.listed", {}, "no_matching_rule"),
        ("has(r.sub.session) && r.obj.listed", {"session": "x"}, "granted"),
        ("r.obj.task == 'chat' && r.sub.session == 'x'", {"session": "x"}, "condition_error"),  # no tool has a task
        ("r.obj.listed && r.act == 'call'", {}, "granted"),
    ],
)
def test_parts_of_a_condition_are_asked_from_left_to_right_though_some_are_settled_before(
    folder: Folder, condition: str, claims: dict[str, Any], meant: str
) -> None:
    folder.write(
        "tenants/globex/more.yaml",
        "tenant: globex\nprincipals:\n  - {id: agent:x}\nrules:\n"
        "  - {id: globex.x, principals: [agent:x], on: /tool/parcel, do: call, effect: allow,\n"
        f'     when: "{condition}"}}\n',
    )
    for engine in ("snapshot", "casbin"):
        policy = folder.policy(engine=engine)
        for _ in range(2):
            assert ask(policy, "agent:x", "call", "/tool/parcel", tenant="globex", claims=claims).reason == meant


@pytest.mark.parametrize(
    ("condition", "claims", "meant"),
    [
        ("r.sub.clearance >= 2", {}, "granted"),
        ("r.sub.clearance > 2", {"clearance": 5}, "no_matching_rule"),  # a claim is only signed
        ("r.sub.clearance >= 2 && r.sub.session == 'x'", {"session": "x"}, "granted"),
        ("r.sub.clearance >= 2 && r.sub.session == 'x'", {"session": "y"}, "no_matching_rule"),
        ("r.sub.clearance >= 2 && r.sub.session == 'x'", {}, "condition_error"),
        ("r.sub.clearance > 2 && r.sub.session == 'x'", {}, "no_matching_rule"),
        ("r.sub.session == 'x' && r.sub.clearance >= 2", {"session": "x", "clearance": 0}, "granted"),
        ("r.sub.risk < 10 && r.sub.clearance >= 2", {"risk": 1}, "granted"),
        ("r.sub.risk < 10 && r.sub.clearance >= 2", {"risk": 50}, "no_matching_rule"),
        ("r.sub.kind == 'user' && r.sub.clearance >= 2", {}, "granted"),  # the credential says what kind it is for
    ],
)
def test_what_the_directory_says_is_settled_and_what_the_credential_says_is_asked_in_every_call(
    folder: Folder, condition: str, claims: dict[str, Any], meant: str
) -> None:
    folder.write(
        "tenants/globex/more.yaml",
        "tenant: globex\nprincipals:\n  - {id: agent:x, attributes: {clearance: 2}}\nrules:\n"
        "  - {id: globex.x, principals: [agent:x], on: /tool/parcel, do: call, effect: allow,\n"
        f'     when: "{condition}"}}\n',
    )
    call = Call(id="c", door="test", action="call", resource="/tool/parcel")
    agent = Principal(subject="agent:x", tenant="globex", kind="user", claims=claims)
    other = Principal(subject="agent:x", tenant="globex", kind="service", claims={"session": "z", "risk": 99})
    for engine in ("snapshot", "casbin"):
        policy = folder.policy(engine=engine)
        for _ in range(2):
            policy.decide(other, call, 0.0)
            assert policy.decide(agent, call, 0.0).reason == meant
