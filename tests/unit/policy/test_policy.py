"""The decision point: default deny, deny overrides, and every error denies."""

from __future__ import annotations

import logging.config
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from controlplane.calls import Call, Obligation, Principal
from controlplane.policy import BundlePolicy, policy
from controlplane.policy.policy import MAX_ACTORS
from controlplane.policy.snapshot import Snapshot
from tests.unit.policy.bundles import Clock, Folder, ask


def test_without_a_bundle_everything_is_denied(folder: Folder) -> None:
    folder.remove("model.conf")
    policy = folder.policy()
    decision = ask(policy, "user:operator", "read", "/api/calls")
    assert (decision.permits, decision.reason, decision.revision) == (False, "no_policy", "")
    assert not policy.could_permit(Principal(subject="user:operator", tenant="acme"), "read", "/api/calls")
    assert "model.conf: missing" in policy.status().error
    assert policy.catalogue.models == {}


def test_policy_that_was_never_loaded_denies(folder: Folder) -> None:
    folder.path.rename(folder.path.parent / "gone")
    assert ask(folder.policy(), "user:operator", "read", "/api/calls").reason == "no_policy"


def test_broken_file_keeps_the_last_good_bundle_and_says_so_loudly(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    policy = folder.policy(clock)
    before = policy.status()
    clock.now_s += 60
    folder.edit("roles/support.yaml", "effect: deny", "effect: Deny")
    assert policy.reload() is False
    clock.now_s += 60
    after = policy.status()
    assert (after.revision, after.age, after.error_since) == (before.revision, 120, 1060)
    assert "roles/support.yaml" in after.error
    assert any(record.levelno == logging.ERROR for record in caplog.records)
    assert ask(policy, "agent:support", "call", "/tool/refund", {"amount": 5000}).reason == "rule_denied"


def test_mended_file_is_served_and_the_error_forgotten(folder: Folder) -> None:
    policy = folder.policy()
    folder.edit("roles/support.yaml", "<= 100", "<= 10 &&")
    assert not policy.reload()
    folder.edit("roles/support.yaml", "<= 10 &&", "<= 10")
    assert policy.reload()
    assert (policy.status().error, policy.status().error_since) == ("", None)
    assert ask(policy, "agent:support", "call", "/tool/refund", {"amount": 50}).reason == "no_matching_rule"


def test_folder_that_vanishes_keeps_the_last_good_bundle(folder: Folder) -> None:
    policy = folder.policy()
    folder.path.rename(folder.path.parent / "gone")
    assert not policy.reload()
    assert ask(policy, "user:operator", "read", "/api/calls").permits


async def test_whatever_breaks_the_reading_keeps_the_last_good_bundle_and_is_told(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = folder.policy()

    def broken(_: Path) -> Mapping[str, bytes]:
        raise RuntimeError("a thing nobody thought of")

    monkeypatch.setattr(policy, "read_files", broken)
    assert not await served.poll()
    assert "a thing nobody thought of" in served.status().error
    assert ask(served, "user:operator", "read", "/api/calls").permits


def test_stale_policy_denies_when_staleness_is_bounded(folder: Folder) -> None:
    policy = folder.policy(max_stale_s=30)
    assert ask(policy, "user:operator", "read", "/api/calls", now_s=1030).permits
    assert ask(policy, "user:operator", "read", "/api/calls", now_s=1031).reason == "policy_stale"


async def test_look_at_unchanged_files_confirms_them(folder: Folder) -> None:
    clock = Clock()
    policy = folder.policy(clock, max_stale_s=30)
    clock.now_s = 1100
    assert await policy.poll()
    assert ask(policy, "user:operator", "read", "/api/calls", now_s=1101).permits


async def test_broken_files_are_refused_once_and_not_confirmed(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    policy = folder.policy(clock, max_stale_s=30)
    folder.edit("schema.yaml", "subject:", "subjects:")
    clock.now_s = 1100
    assert not await policy.poll()
    assert not await policy.poll()
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert ask(policy, "user:operator", "read", "/api/calls", now_s=1100).reason == "policy_stale"


async def test_watch_follows_the_files(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, looked = folder.policy(reload_interval_s=0.001), anyio.Event()
    poll = policy.poll

    async def poll_and_tell() -> bool:
        served = await poll()
        looked.set()
        return served

    monkeypatch.setattr(policy, "poll", poll_and_tell)
    folder.edit("roles/support.yaml", "<= 100", "<= 10")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(policy.watch)
        with anyio.fail_after(60):
            await looked.wait()
        tasks.cancel_scope.cancel()
    assert not ask(policy, "agent:support", "call", "/tool/refund", {"amount": 50}).permits


@pytest.mark.parametrize(
    "resource", ["/tool/../api/calls", "/api//calls", "/api/calls\n", "api/calls", "/api/%2e%2e/x"]
)
def test_resource_that_is_no_path_is_denied_before_matching(folder: Folder, resource: str) -> None:
    assert ask(folder.policy(), "user:operator", "read", resource).reason == "invalid_resource"


def test_action_without_any_rule_is_a_plain_no(folder: Folder) -> None:
    """casbin evaluates its matcher on an empty rule when there is none; that must not look like a defect."""
    folder.write("global/guardrails.yaml", "guards: []\n")
    for action, resource in (("connect", "/api/x"), ("infer", "/model/x")):
        assert ask(folder.policy(), "agent:x", action, resource, tenant="globex").reason == "no_matching_rule"


def test_unknown_action_is_denied_even_where_any_action_is_granted(folder: Folder) -> None:
    folder.edit("roles/operator.yaml", "do: [list, read, write, connect]", 'do: "*"')
    policy = folder.policy()
    assert ask(policy, "user:operator", "write", "/api/calls").permits
    assert ask(policy, "user:operator", "shred", "/api/calls").reason == "invalid_action"


def test_right_is_the_intersection_over_subject_and_actors(folder: Folder) -> None:
    policy = folder.policy()
    wish = ("call", "/mcp/time/get_current_time", {"timezone": "UTC"})
    assert ask(policy, "agent:analyst", *wish, chain=("agent:support",)).permits
    assert ask(policy, "agent:support", *wish, chain=("agent:analyst",)).permits
    assert not ask(policy, "agent:analyst", "call", "/mcp/time/convert_time", chain=("agent:support",)).permits
    assert not ask(policy, "agent:analyst", *wish, chain=("agent:support", "agent:stranger")).permits


def test_duties_of_every_actor_hold(folder: Folder) -> None:
    decision = ask(folder.policy(), "agent:support", "infer", "/model/tiny", chain=("agent:analyst",))
    assert [rule.id for rule in decision.rules] == ["support.tiny", "analyst.tiny"]
    assert decision.obligations == (Obligation("max_tokens", {"max": 256}),)


def test_chain_that_is_too_long_is_denied(folder: Folder) -> None:
    policy = folder.policy()
    assert ask(policy, "user:operator", "read", "/api/calls", chain=("user:operator",) * MAX_ACTORS).permits
    chain = ("user:operator",) * (MAX_ACTORS + 1)
    assert ask(policy, "user:operator", "read", "/api/calls", chain=chain).reason == "chain_too_long"


def test_claims_of_the_subject_say_nothing_of_its_actors(folder: Folder) -> None:
    folder.edit("tenants/acme/principals.yaml", "{clearance: 2, risk: 20, external: false}", "{external: false}")
    policy = folder.policy()
    wish = ("call", "/tool/refund", {"amount": 5})
    assert ask(policy, "agent:support", *wish, claims={"risk": 1}).permits
    assert ask(policy, "agent:support", *wish).reason == "condition_error"
    folder.edit("tenants/acme/principals.yaml", "roles: [analyst]", "roles: [analyst, support]")
    assert policy.reload()
    assert ask(policy, "agent:analyst", *wish).permits
    assert ask(policy, "agent:analyst", *wish, claims={"risk": 1}, chain=("agent:support",)).reason == "condition_error"


def test_claim_does_not_outweigh_the_directory_or_the_credential(folder: Folder) -> None:
    policy = folder.policy()
    claims = {"risk": 0, "roles": ["operator"], "tenant": "acme", "id": "user:operator"}
    folder.edit("tenants/acme/principals.yaml", "risk: 20", "risk: 90")
    assert policy.reload()
    assert ask(policy, "agent:support", "call", "/tool/refund", {"amount": 5}, claims=claims).reason == "rule_denied"
    assert not ask(policy, "agent:support", "read", "/api/calls", claims=claims).permits


@pytest.mark.parametrize("name", ["role:operator", "anyone", "*", ""])
def test_subject_called_like_a_role_does_not_hold_it(folder: Folder, name: str) -> None:
    assert not ask(folder.policy(), name, "read", "/api/calls").permits
    assert not ask(folder.policy(), "user:operator", "read", "/api/calls", chain=(name,)).permits
    assert not ask(folder.policy(), "user:operator", "read", "/api/calls", tenant="*").permits


def test_deny_overrides_whatever_allows_and_all_matching_rules_are_told(folder: Folder) -> None:
    folder.edit("catalog/models.yaml", "labels: [language]", "labels: [quarantined]")
    folder.write(
        "tenants/acme/rules.yaml",
        "tenant: acme\nrules:\n"
        "  - {id: acme.no-chat, principals: [agent:analyst], on: /model/*, do: '*', effect: deny}\n"
        "  - {id: acme.chat, roles: [analyst], on: /model/tiny, do: infer, effect: allow}\n",
    )
    decision = ask(folder.policy(), "agent:analyst", "infer", "/model/tiny")
    assert decision.reason == "rule_denied"
    assert {rule.id for rule in decision.rules[:2]} == {"guard.quarantined", "acme.no-chat"}
    assert {rule.id for rule in decision.rules[2:]} == {"analyst.tiny", "acme.chat"}
    assert decision.obligations == ()


def test_guard_obliges_on_top_of_what_rules_allow(folder: Folder) -> None:
    guard = "  - {id: guard.short, on: /model/*, do: infer, effect: oblige, oblige: [{max_tokens: {max: 64}}]}\n"
    folder.edit("global/guardrails.yaml", "guards:\n", "guards:\n" + guard)
    policy = folder.policy()
    decision = ask(policy, "agent:analyst", "infer", "/model/tiny")
    assert decision.obligations == (Obligation("max_tokens", {"max": 64}),)
    assert [rule.id for rule in decision.rules] == ["analyst.tiny", "guard.short"]
    assert ask(policy, "agent:courier", "infer", "/model/tiny", tenant="globex").reason == "no_matching_rule"


def test_condition_that_raises_denies_and_names_its_rule_first(folder: Folder) -> None:
    decision = ask(folder.policy(), "agent:support", "call", "/tool/refund", {"amount": "50"})
    assert (decision.reason, decision.rules[0].id) == ("condition_error", "support.refund.small")


class Explosive:
    def get(self, *_: object) -> object:
        raise RuntimeError("boom")


@pytest.mark.parametrize(
    "arguments", [None, Explosive(), 5, MappingProxyType({"amount": Explosive()}), [("amount", 5)]]
)
def test_arguments_of_no_known_kind_never_raise_and_never_allow(folder: Folder, arguments: Any) -> None:
    call = Call(id="c", door="test", action="call", resource="/tool/refund", arguments=arguments)
    assert not folder.policy().decide(Principal(subject="agent:support", tenant="acme"), call, 0.0).permits


def test_defect_inside_denies(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = folder.policy()

    def broken(*_: object) -> bool:
        raise MemoryError

    monkeypatch.setattr(Snapshot, "answer", broken)
    decision = ask(policy, "user:operator", "read", "/api/calls")
    assert (decision.permits, decision.reason) == (False, "policy_defect")
    assert not policy.could_permit(Principal(subject="user:operator", tenant="acme"), "read", "/api/calls")


class Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.mark.parametrize("engine", ["snapshot", "casbin"])
def test_no_request_is_ever_logged_even_when_logging_is_configured_later(folder: Folder, engine: str) -> None:
    """``disable_existing_loggers: False`` switches on again what casbin had switched off."""
    policy, listener = folder.policy(engine=engine), Listener()
    ask(policy, "agent:support", "call", "/tool/refund")  # casbin switches it off anew for each enforcer it makes
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
    loggers = [logging.getLogger(name) for name in ("", "casbin.enforcer", "casbin.policy", "casbin.role")]
    for logger in loggers:
        logger.addHandler(listener)
    try:
        assert logging.getLogger("casbin.enforcer").isEnabledFor(logging.WARNING)
        ask(policy, "agent:support", "call", "/tool/refund", {"amount": 5000, "account": "DE02120300000000202051"})
        ask(policy, "agent:support", "call", "/tool/refund", {"amount": 5, "account": "DE02120300000000202051"})
    finally:
        for logger in loggers:
            logger.removeHandler(listener)
    assert listener.heard == []


def test_lists_tell_maybe_from_never(folder: Folder) -> None:
    policy = folder.policy()
    support, risky = (
        Principal(subject=name, tenant="acme", claims={"risk": 99}) for name in ("agent:support", "agent:x")
    )
    assert policy.could_permit(support, "call", "/tool/refund")
    assert not policy.could_permit(risky, "call", "/tool/refund")
    assert not policy.could_permit(support, "call", "/tool/../refund")
    delegated = Principal(subject="agent:support", tenant="acme", chain=("agent:analyst",))
    assert not policy.could_permit(delegated, "call", "/tool/refund")


def test_lists_of_a_stale_policy_are_empty(folder: Folder) -> None:
    clock = Clock()
    policy = folder.policy(clock, max_stale_s=30)
    support = Principal(subject="agent:support", tenant="acme")
    clock.now_s = 1030
    assert policy.could_permit(support, "call", "/tool/refund")
    clock.now_s = 1031
    assert not policy.could_permit(support, "call", "/tool/refund")


def test_catalogue_is_typed_and_follows_the_bundle(folder: Folder) -> None:
    policy: BundlePolicy = folder.policy()
    risk, tool = policy.catalogue.model("risk"), policy.catalogue.tool("/mcp/time/something_new")
    assert risk is not None
    assert (risk.backend, risk.fallback, risk.task) == ("tfs", ["cache", "risk-baseline"], "classification")
    assert tool is not None
    assert tool.resource == "/mcp/time"
    assert policy.catalogue.tool("/tool/unlisted") is None
    folder.edit("catalog/models.yaml", "backend: vllm", "backend: other")
    assert policy.reload()
    assert policy.catalogue.models["tiny"].backend == "other"


def test_reload_under_traffic_never_allows_what_no_bundle_allows(folder: Folder) -> None:
    """Stock casbin clears the live role graph in a reload; readers then saw wrong allows and errors."""
    policy = folder.policy()
    versions = [(folder.path / "roles/support.yaml").read_text()]
    versions.append(versions[0].replace("<= 100", "<= 90").replace("> 100", "> 90"))
    wrong, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            denied = ask(policy, "agent:support", "call", "/tool/refund", {"amount": 5000})
            granted = ask(policy, "agent:support", "call", "/tool/refund", {"amount": 50})
            if (denied.reason, granted.reason) != ("rule_denied", "granted"):
                wrong.append((denied, granted))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(6):
        folder.write("roles/support.yaml", versions[number % 2 - 1])
        assert policy.reload()
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
