"""The console's way to our parts: who may come in, and what of a change is possible, refused or failed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controlplane.calls import Call, Decision, Effect, Obligation, Principal, RuleRef
from controlplane.clock import Clock
from controlplane.console.ports import (
    Authorize,
    ChangeFailed,
    ChangeRefused,
    ConsoleError,
    NotAllowed,
    NotProven,
    Unavailable,
)
from controlplane.identity.development import DEVELOPMENT_AUDIENCE, DEVELOPMENT_ISSUER, DevelopmentIssuer, Grant
from controlplane.identity.identity import TokenIdentity
from controlplane.identity.settings import IdentitySettings
from controlplane.operations import Models, authorize_by
from controlplane.policy import BundlePolicy, Catalogue, PolicySettings
from inference.tfserving.deployment import Deployment
from tests.unit.controlplane.rig import MONITOR, Rig, entry, publish

POLICIES = Path(__file__).parents[3] / "policies"
RULE = RuleRef("operator.read", "roles/operator.yaml:3")


@dataclass
class FixedPolicy:
    decision: Decision
    asked: Call | None = None

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        self.asked = call
        return self.decision


@dataclass
class Door:
    """Real tokens and real key files."""

    folder: Path
    identity: TokenIdentity
    settings: IdentitySettings
    clock: Clock

    def token(self, subject: str = "user:operator", **more: float) -> str:
        return DevelopmentIssuer(self.folder / "identity").issue(Grant(subject=subject, tenant="acme"), **more)

    def authorize(self, policy: FixedPolicy | BundlePolicy) -> Authorize:
        return authorize_by(self.settings, self.identity, policy, self.clock)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    DevelopmentIssuer(tmp_path / "identity")
    settings = IdentitySettings(
        issuer=DEVELOPMENT_ISSUER,
        audience=DEVELOPMENT_AUDIENCE,
        jwks_file=tmp_path / "identity/development-jwks.json",
        resource_metadata_url="http://gateway/.well-known/oauth-protected-resource",
    )
    async with TokenIdentity(settings) as identity:
        yield Door(tmp_path, identity, settings, Clock())


def allow(*obligations: Obligation) -> FixedPolicy:
    decision = Decision(effect=Effect.ALLOW, reason="granted", revision="r1", rules=(RULE,), obligations=obligations)
    return FixedPolicy(decision)


async def refusal(authorize: Authorize, credential: str) -> ConsoleError:
    with pytest.raises(ConsoleError) as caught:
        await authorize(credential, "read", "/api/calls")
    return caught.value


async def test_who_is_allowed_comes_in_as_who_they_are(door: Door) -> None:
    policy = allow()
    principal = await door.authorize(policy)(door.token(), "write", "/api/breakers")
    assert (principal.subject, principal.tenant) == ("user:operator", "acme")
    assert policy.asked is not None
    assert (policy.asked.door, policy.asked.action, policy.asked.resource) == ("console", "write", "/api/breakers")


@pytest.mark.parametrize("credential", ["", "nonsense", "a.b.c"])
async def test_without_a_token_nobody_is_asked(door: Door, credential: str) -> None:
    policy = allow()
    error = await refusal(door.authorize(policy), credential)
    assert isinstance(error, NotProven)
    assert error.challenge.startswith("Bearer")
    assert "resource_metadata=" in error.challenge
    assert policy.asked is None


async def test_a_forged_or_expired_token_proves_nobody(door: Door) -> None:
    forged = door.token()[:-8] + "forgedAA"
    assert isinstance(await refusal(door.authorize(allow()), forged), NotProven)
    expired = await refusal(door.authorize(allow()), door.token(now_s=1_000_000.0))
    assert (type(expired), "invalid_token" in getattr(expired, "challenge", "")) == (NotProven, True)


async def test_keys_that_cannot_be_read_are_no_proof_of_a_bad_token(tmp_path: Path, door: Door) -> None:
    settings = door.settings.model_copy(update={"jwks_file": tmp_path / "nothing.json"})
    async with TokenIdentity(settings) as identity:
        error = await refusal(authorize_by(settings, identity, allow(), door.clock), door.token())
    assert isinstance(error, Unavailable)


async def test_a_denial_says_which_rule(door: Door) -> None:
    denied = FixedPolicy(Decision(effect=Effect.DENY, reason="rule_denied", revision="r1", rules=(RULE,)))
    error = await refusal(door.authorize(denied), door.token())
    assert isinstance(error, NotAllowed)
    assert (error.reason, error.rules) == ("rule_denied", (RULE,))


async def test_an_obligation_that_this_door_cannot_discharge_denies(door: Door) -> None:
    error = await refusal(door.authorize(allow(Obligation("rate_limit", {"max": 5}))), door.token())
    assert (type(error), error.reason) == (NotAllowed, "unknown_obligation")


async def test_the_shipped_policy_lets_operators_write_and_agents_not(door: Door) -> None:
    policy = BundlePolicy(PolicySettings(path=POLICIES), door.clock.wall)
    policy.load()
    authorize = door.authorize(policy)
    assert (await authorize(door.token(), "write", "/api/breakers")).subject == "user:operator"
    assert isinstance(await refusal(authorize, door.token("agent:analyst")), NotAllowed)


async def test_without_a_policy_nobody_comes_in(door: Door, tmp_path: Path) -> None:
    policy = BundlePolicy(PolicySettings(path=tmp_path / "nothing"), door.clock.wall)
    error = await refusal(door.authorize(policy), door.token())
    assert isinstance(error, NotAllowed)


def models_of(rig: Rig) -> Models:
    return Models(rig.fleet, rig.moves, lambda: rig.catalogue)


def deployment_of(rig: Rig) -> Deployment:
    found = rig.fleet.deployment_of("risk")
    assert found is not None
    return found


async def test_a_model_is_shown_with_versions_labels_and_state(rig: Rig) -> None:
    rig.catalogue = Catalogue(models={"risk": entry("risk", fallback=("cache",)), "lost": entry("lost", "elsewhere")})
    await deployment_of(rig).start()
    (view,) = models_of(rig).view()
    assert (view.name, view.versions, view.labels, view.state) == ("risk", (1,), {"stable": 1}, "")
    await rig.degrade()
    (view,) = models_of(rig).view()
    assert (view.state, view.state_version, view.state_reason) == ("DEGRADED", 1, "fallback_better")
    assert view.fallback == ("cache",)


async def test_a_catalogued_model_without_a_deployment_is_shown_all_the_same(rig: Rig) -> None:
    rig.catalogue = Catalogue(models={"other": entry("other")})
    (view,) = models_of(rig).view()
    assert (view.name, view.versions, view.labels) == ("other", (), {})


async def test_a_label_moves_to_a_version_that_is_loaded_first(rig: Rig) -> None:
    await deployment_of(rig).start()
    publish(rig.server.folder / "risk", 2)
    await models_of(rig).move_label("risk", "canary", 2)
    assert deployment_of(rig).models["risk"].labels == {"stable": 1, "canary": 2}


async def test_a_label_does_not_move_to_what_is_not_there(rig: Rig) -> None:
    await deployment_of(rig).start()
    with pytest.raises(ChangeRefused) as caught:
        await models_of(rig).move_label("risk", "stable", 9)
    assert caught.value.reason == "no_such_version"
    assert deployment_of(rig).models["risk"].labels == {"stable": 1}
    assert deployment_of(rig).models["risk"].versions == (1,)


async def test_versions_are_loaded_tried_copied_to_rolled_back_and_let_go(rig: Rig) -> None:
    await deployment_of(rig).start()
    publish(rig.server.folder / "risk", 2)
    models = models_of(rig)
    await models.load("risk", 2)
    assert rig.fleet.known("risk", 2) is not None, "its signatures are known at once"
    await models.set_canary("risk", 2, 10)
    await models.set_shadow("risk", 2, 50)
    (view,) = models.view()
    assert (view.canary_percent, view.shadow_version, view.shadow_percent) == (10, 2, 50)
    assert list(view.replicas.values()) == [{1, 2}]
    await models.move_label("risk", "stable", 2)
    assert models.previous("risk") == 1
    await models.roll_back("risk", 1)
    assert deployment_of(rig).resolve("risk") == 1
    with pytest.raises(ChangeRefused) as caught:
        models.previous("risk")
    assert caught.value.reason == "no_previous"
    with pytest.raises(ChangeRefused):
        await models.unload("risk", 1)
    await models.move_label("risk", "canary", 1)
    await models.unload("risk", 2)
    assert deployment_of(rig).models["risk"].versions == (1,)


async def test_a_rollback_to_where_the_way_back_no_longer_leads_is_refused(rig: Rig) -> None:
    await deployment_of(rig).start()
    publish(rig.server.folder / "risk", 2)
    await models_of(rig).move_label("risk", "stable", 2)
    with pytest.raises(ChangeRefused) as caught:
        await models_of(rig).roll_back("risk", 7)
    assert caught.value.reason == "out_of_step"
    assert deployment_of(rig).resolve("risk") == 2


async def test_a_server_that_will_not_follow_is_a_failure(rig: Rig) -> None:
    await deployment_of(rig).start()
    publish(rig.server.folder / "risk", 2)
    await rig.server.stop()
    with pytest.raises(ChangeFailed) as caught:
        await models_of(rig).load("risk", 2)
    assert caught.value.reason == "unavailable"


async def test_a_change_of_an_unknown_model_is_refused(rig: Rig) -> None:
    with pytest.raises(ChangeRefused) as caught:
        await models_of(rig).move_label("nobody", "stable", 1)
    assert caught.value.reason == "unknown_model"


async def test_a_move_that_is_out_of_step_is_a_refusal_and_a_dead_server_a_failure(rig: Rig) -> None:
    models = models_of(rig)
    wish = {"key": "k", "version": 1, "from": "HEALTHY", "to": "DEGRADED", "reason": "risk_left_band"}
    with pytest.raises(ChangeRefused) as caught:
        await models.ask("risk", wish, MONITOR)
    assert caught.value.reason == "out_of_step"
    await deployment_of(rig).start()
    await rig.reach_shadow()
    await rig.server.stop()
    won = {"key": "w", "version": 1, "from": "SHADOW", "to": "PROMOTED", "reason": "won", "new_version": 2}
    with pytest.raises(ChangeFailed):
        await models.ask("risk", won, MONITOR)


async def test_a_move_of_a_model_that_left_the_catalogue_is_still_answered(rig: Rig) -> None:
    """It was recorded and done: an error would make the monitor ask for ever."""
    models = models_of(rig)
    rig.catalogue = Catalogue()
    wish = {"key": "k", "version": 1, "from": "LEARNING", "to": "HEALTHY", "reason": "reference_learnt"}
    view = await models.ask("risk", wish, MONITOR)
    assert (view.name, view.backend, view.state) == ("risk", "", "HEALTHY")
