"""The snapshot decides what casbin decides: for all bundles and calls, in every part of the decision."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from controlplane.calls import Call, Decision, Principal
from controlplane.policy import BundlePolicy, PolicySettings
from controlplane.policy.bundle import Bundle, build, read_files
from controlplane.policy.enforcer import Casbin
from controlplane.policy.obligations import strictest
from controlplane.policy.rules import ACTIONS
from controlplane.policy.shadow import disagreements, sample
from controlplane.policy.snapshot import Snapshot
from tests.unit.policy.bundles import SHIPPED

ROLES = ("reader", "writer", "boss")
TENANTS = ("acme", "globex")
PEOPLE = ("agent:a", "agent:b", "user:c")
MODEL_PATTERNS = ("/model/tiny", "/model/*", "/model/**", "/model/tiny/v1", "/model/*/v1")
PATTERNS = (
    *MODEL_PATTERNS,
    "/tool/refund",
    "/tool/*",
    "/mcp/**",
    "/mcp/time",
    "/mcp/*/convert_time",
    "/*/*",
    "/*",
    "/**",
)
PATHS = (
    *["/model/tiny"] * 3, "/model/risk", "/model/tiny/v1", "/model", "/tool/refund", "/tool/refund", "/tool/new",
    "/mcp/time", "/mcp/time/convert_time", "/api/x", "/a/b/c/d/e", "//", "/tool/../refund",
)  # fmt: skip
CONDITIONS = (
    *["true"] * 14, "false", "r.sub.clearance >= 2", "r.obj.sensitivity <= 1", "r.sub.external", "!has(r.sub.purpose)",
    "r.act in ['infer', 'call']", "r.ctx.door == 'a' || r.sub.risk < 10", "'reader' in r.sub.roles && r.ctx.streams",
    "r.obj.task == 'chat'", "'language' in r.obj.labels && r.act == 'infer'", "r.ctx.now > 5", "r.ctx.version >= 1",
    "r.obj.sensitivity <= r.sub.clearance", "r.sub.kind == 'agent'", "r.sub.client_id == 'x'", "r.obj.listed",
    "r.obj.listed && r.sub.external", "r.sub.external && r.obj.sensitivity > 1", "has(r.sub.purpose) && r.obj.listed",
    "r.obj.task == 'chat' && r.ctx.streams", "r.act == 'infer' && r.obj.listed && r.sub.risk < 10",
    "r.sub.clearance >= 2 && r.ctx.streams", "r.sub.id == 'user:c' || r.sub.external", "'boss' in r.sub.roles",
    "r.sub.clearance >= r.obj.sensitivity && r.sub.risk < 10 && r.ctx.now > 5 && r.sub.clearance > 1",
    "r.sub.tenant == 'acme' && r.sub.kind == 'agent'", "has(r.sub.purpose) && r.sub.clearance >= 1 && r.ctx.streams",
)  # fmt: skip
ON_ARGUMENTS = ("r.ctx.args.max_tokens <= 5", "has(r.ctx.args.rows)", "r.ctx.args.max_tokens < 5 || r.sub.external")
DUTIES = (
    {"rate_limit": {"key": "subject", "per_s": 60, "max": 5}}, {"rate_limit": {"key": "tenant", "per_s": 60, "max": 9}},
    {"rate_limit": {"key": "subject", "per_s": 60, "max": 3}}, {"max_tokens": {"max": 64}}, {"max_tokens": {"max": 32}},
    {"redact": {"in": ["card"], "out": []}}, {"redact": {"in": ["iban"], "out": ["card"]}}, {"priority": {"level": 7}},
)  # fmt: skip


def rules_with(effects: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    conditions = st.sampled_from(CONDITIONS)
    anywhere = st.tuples(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3, unique=True), conditions)
    on_models = st.tuples(
        st.lists(st.sampled_from(MODEL_PATTERNS), min_size=1, max_size=2, unique=True),
        conditions | st.sampled_from(ON_ARGUMENTS),
    )
    return st.builds(
        _rule,
        anywhere | on_models,
        st.just(["*"]) | st.lists(st.sampled_from(ACTIONS[:3]), min_size=1, max_size=3, unique=True),
        st.sampled_from(effects),
        st.lists(st.sampled_from(DUTIES), min_size=1, max_size=2),
    )


def _rule(place: tuple[list[str], str], actions: list[str], effect: str, duties: list[Any]) -> dict[str, Any]:
    rule = {"on": place[0], "do": actions, "effect": effect, "when": place[1]}
    return rule if effect == "deny" else {**rule, "oblige": duties if effect == "oblige" else duties[1:]}


ANY_EFFECT = (*["allow"] * 6, "deny", "oblige")
ROLE_FILES = st.fixed_dictionaries(
    {
        role: st.fixed_dictionaries(
            {
                "includes": st.lists(st.sampled_from([one for one in ROLES if one != role]), max_size=1),
                "rules": st.lists(rules_with(ANY_EFFECT), min_size=1, max_size=4),
            }
        )
        for role in ROLES
    }
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "clearance": st.integers(0, 3), "risk": st.sampled_from((5, 50)), "external": st.booleans(),
        "purpose": st.just("x"),
    },
)  # fmt: skip
PERSON = st.fixed_dictionaries(
    {"roles": st.lists(st.sampled_from(ROLES), min_size=1, max_size=2, unique=True), "attributes": ATTRIBUTES}
)
TENANT_FILES = st.fixed_dictionaries(
    {
        "people": st.fixed_dictionaries({PEOPLE[0]: PERSON, PEOPLE[1]: PERSON}, optional={PEOPLE[2]: PERSON}),
        "rules": st.lists(
            st.tuples(
                rules_with(ANY_EFFECT),
                st.lists(st.sampled_from(ROLES), min_size=1, max_size=2, unique=True),
                st.lists(st.sampled_from(PEOPLE), max_size=2, unique=True),
            ),
            max_size=3,
        ),
    }
)
WORLDS = st.fixed_dictionaries(
    {
        "roles": ROLE_FILES,
        "guards": st.lists(rules_with(("deny", "oblige", "oblige")), max_size=2),
        "tenants": st.fixed_dictionaries(dict.fromkeys(TENANTS, TENANT_FILES)),
    }
)


@functools.cache
def shipped() -> Mapping[str, bytes]:
    return read_files(SHIPPED)


def bundle_of(world: dict[str, Any]) -> Bundle:
    """Files are JSON, which is YAML."""
    documents: dict[str, Any] = {
        "global/guardrails.yaml": {"guards": [_named(f"g.r{n}", rule) for n, rule in enumerate(world["guards"])]}
    }
    for role, file in world["roles"].items():
        rules = [_named(f"{role}.r{n}", rule) for n, rule in enumerate(file["rules"])]
        documents[f"roles/{role}.yaml"] = {"role": role, "includes": file["includes"], "rules": rules}
    for tenant, file in world["tenants"].items():
        rules = [
            {**_named(f"{tenant}.r{n}", rule), "roles": roles, "principals": people}
            for n, (rule, roles, people) in enumerate(file["rules"])
        ]
        people = [{"id": name, **said} for name, said in file["people"].items()]
        documents[f"tenants/{tenant}/all.yaml"] = {"tenant": tenant, "principals": people, "rules": rules}
    files = {
        name: shipped()[name] for name in ("model.conf", "schema.yaml", "catalog/tools.yaml", "catalog/models.yaml")
    }
    return build(files | {name: json.dumps(value).encode() for name, value in documents.items()})


def _named(name: str, rule: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, **rule}


PRINCIPALS = st.builds(
    Principal,
    subject=st.sampled_from((*PEOPLE, *PEOPLE, *PEOPLE, "agent:stranger", "anyone", "role:boss")),
    tenant=st.sampled_from((*TENANTS, *TENANTS, *TENANTS, "nowhere", "*")),
    kind=st.sampled_from(("agent", "user")),
    chain=st.just(()) | st.just(()) | st.lists(st.sampled_from((*PEOPLE, "agent:stranger")), max_size=2).map(tuple),
    client_id=st.sampled_from(("", "x")),
    claims=st.fixed_dictionaries(
        {},
        optional={"clearance": st.sampled_from((0, 3, "high", None)), "risk": st.just(1), "id": st.just("user:c")},
    ),
)
CALLS = st.builds(
    Call,
    id=st.just("c"),
    door=st.sampled_from(("a", "b")),
    action=st.sampled_from((*ACTIONS[:3], *ACTIONS[:3], *ACTIONS[:3], "write", "shred")),
    resource=st.sampled_from(PATHS),
    arguments=st.fixed_dictionaries(
        {}, optional={"max_tokens": st.sampled_from((5, 6, "5", 5.5)), "rows": st.integers(0, 2)}
    ),
    version=st.sampled_from((None, 1)),
    streams=st.booleans(),
)
QUESTIONS = st.lists(st.tuples(PRINCIPALS, CALLS), min_size=20, max_size=40)


def engines_of(bundle: Bundle) -> tuple[BundlePolicy, BundlePolicy]:
    snapshot, authority = (BundlePolicy.serving(bundle, PolicySettings(engine=name)) for name in ("snapshot", "casbin"))
    assert (snapshot.status().engine, authority.status().engine) == ("snapshot", "casbin")
    return snapshot, authority


def faults_of(decision: Decision, bundle: Bundle) -> list[str]:
    """What must hold of a decision by itself, whichever engine made it."""
    rules = [bundle.rules[ref.id] for ref in decision.rules]
    effects = [rule.effect for rule in rules]
    duties = strictest(duty for rule in rules for duty in rule.obligations) if decision.permits else ()
    deciding = {"granted": "allow", "rule_denied": "deny"}.get(decision.reason)
    checks = {
        "deny overrides": not (decision.permits and "deny" in effects),
        "only an allow permits": not decision.permits or "allow" in effects,
        "the deciding rule is first": deciding is None or effects[0] == deciding,
        "every duty of every rule": decision.obligations == duties,
        "each rule once": len(set(decision.rules)) == len(rules),
        "rules stand where they are": all(bundle.rules[ref.id].ref == ref for ref in decision.rules),
    }
    return [name for name, holds in checks.items() if not holds]


@settings(max_examples=120, deadline=None)
@given(WORLDS, QUESTIONS)
def test_snapshot_and_casbin_agree_on_every_part_of_every_decision(
    world: dict[str, Any], questions: list[tuple[Principal, Call]]
) -> None:
    """Each question twice: the second answer comes from what the snapshot kept of the first."""
    bundle = bundle_of(world)
    snapshot, authority = engines_of(bundle)
    for principal, call in questions:
        meant = structs.replace(authority.decide(principal, call, 7.0), eval_us=0)
        for _ in range(2):
            assert structs.replace(snapshot.decide(principal, call, 7.0), eval_us=0) == meant
        assert faults_of(meant, bundle) == []
        could = authority.could_permit(principal, call.action, call.resource)
        assert snapshot.could_permit(principal, call.action, call.resource) is could


@settings(max_examples=40, deadline=None)
@given(WORLDS, QUESTIONS, st.randoms(use_true_random=False))
def test_what_was_asked_before_changes_no_answer(
    world: dict[str, Any], questions: list[tuple[Principal, Call]], random: Any
) -> None:
    bundle = bundle_of(world)
    used = BundlePolicy.serving(bundle)
    random.shuffle(questions)
    for principal, call in questions:
        fresh = BundlePolicy.serving(bundle)
        assert structs.replace(used.decide(principal, call, 7.0), eval_us=0) == structs.replace(
            fresh.decide(principal, call, 7.0), eval_us=0
        )


@settings(max_examples=25, deadline=None)
@given(WORLDS)
def test_comparison_at_load_finds_nothing_in_a_sound_snapshot(world: dict[str, Any]) -> None:
    bundle = bundle_of(world)
    assert disagreements(bundle, [], Snapshot(bundle), Casbin(bundle)) == []
    assert [str(one) for one in sample(bundle)] == [str(one) for one in sample(bundle)]
