"""People and agents that are held back, through the whole gateway and over a restart of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit import AuditUnavailable, SqliteLedger
from controlplane.identity.development import DevelopmentIssuer, Grant
from tests.matrix.test_behaviour import CHAT, LEAK, REFUND, Place, opened
from tests.matrix.upstreams import Upstream
from tests.matrix.world import ROLES, World

LIFT = {"agent": "agent:good", "rule": "secret.egress", "reason": "the customer asked for it in writing"}
BLOCK = {"agent": "agent:good", "reason": "its key was on a public page"}
PEOPLE = {"operator": ["read", "write"], "viewer": ["read"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Policy that knows an operator and somebody who may only look."""
    World(tmp_path, Upstream()).build()
    for name, verbs in PEOPLE.items():
        rule = {"id": f"{name}.api", "on": "/api/**", "do": verbs, "effect": "allow"}
        (tmp_path / f"policies/roles/{name}.yaml").write_text(json.dumps({"role": name, "rules": [rule]}))
    principals = [{"id": "agent:good", "roles": list(ROLES)[:1]}]
    principals += [{"id": f"user:{name}", "roles": [name]} for name in PEOPLE]
    principals_file = tmp_path / "policies/tenants/test/principals.yaml"
    principals_file.write_text(json.dumps({"tenant": "test", "principals": principals}))
    return tmp_path


async def say(place: Place, what: str, body: Any, who: str = "operator") -> tuple[int, Any]:
    status, _, said = await place.post(f"/api/behaviour/{what}", body, token_of(place, who))
    return status, said


def token_of(place: Place, who: str) -> str:
    return DevelopmentIssuer(place.world.folder / "identity").issue(Grant(subject=f"user:{who}", tenant="test"))


async def held(place: Place) -> list[Any]:
    headers = {"authorization": f"Bearer {token_of(place, 'viewer')}"}
    async with place.http.get(f"{place.url}/api/behaviour", headers=headers) as answer:
        assert answer.status == 200
        return list((await answer.json())["held"])


async def refund(place: Place) -> tuple[int, str]:
    status, _, said = await place.post("/tools/refund", REFUND)
    return status, said.get("reason", "")


async def leak(place: Place) -> None:
    assert (await place.post("/v1/chat/completions", CHAT))[0] == 200
    assert await refund(place) == (403, "behaviour_blocked")


async def test_the_next_call_of_a_lifted_agent_goes_out_also_after_a_restart(folder: Path) -> None:
    async with opened(folder, sequences=[LEAK]) as place:
        await leak(place)
        (one,) = await held(place)
        assert (one["agent"], one["rule"], one["source"]) == ("agent:good", "secret.egress", "behaviour.yaml:1")
        status, recorded = await say(place, "lift", LIFT)
        assert status == 200
        ((_, body),) = place.records("console.change")
        assert (body["event_id"], body["change"]["reason"]) == (recorded["event_id"], LIFT["reason"])
        assert await held(place) == []
        assert await refund(place) == (200, "")
    async with opened(folder, sequences=[LEAK]) as place:
        assert await refund(place) == (200, ""), "what was lifted is not read back"
        await leak(place)


async def test_who_is_held_back_is_known_after_a_restart_and_can_be_lifted_then(folder: Path) -> None:
    async with opened(folder, sequences=[LEAK]) as place:
        await leak(place)
        (before,) = await held(place)
    async with opened(folder, sequences=[LEAK]) as place:
        (one,) = await held(place)
        assert one["call_id"] == before["call_id"]
        assert abs(one["since_s"] - before["since_s"]) < 60
        assert (await say(place, "lift", LIFT))[0] == 200
        assert await refund(place) == (200, "")


async def test_whoever_may_only_look_lifts_nothing(folder: Path) -> None:
    async with opened(folder, sequences=[LEAK]) as place:
        await leak(place)
        for what, body in (("lift", LIFT), ("block", BLOCK)):
            status, problem = await say(place, what, body, "viewer")
            assert (status, problem["reason"]) == (403, "no_matching_rule")
        assert await refund(place) == (403, "behaviour_blocked")
        assert place.records("console.change") == []


async def test_an_agent_that_a_person_blocks_stays_blocked_over_a_restart_until_the_block_is_ended(
    folder: Path,
) -> None:
    async with opened(folder) as place:
        assert await refund(place) == (200, "")
        status, recorded = await say(place, "block", BLOCK)
        assert status == 200
        status, _, problem = await place.post("/tools/refund", REFUND)
        assert (status, problem["reason"]) == (403, "behaviour_blocked")
        assert problem["rules"][0] == {"id": "operator.block", "source": f"ledger:{recorded['ledger_index']}"}
    async with opened(folder) as place:
        assert await refund(place) == (403, "behaviour_blocked")
        (one,) = await held(place)
        assert (one["by"], one["reason"]) == ("user:operator", BLOCK["reason"])
        assert (await say(place, "lift", LIFT | {"rule": "operator.block"}))[0] == 200
        assert await refund(place) == (200, "")
    async with opened(folder) as place:
        assert await refund(place) == (200, "")


async def test_a_rule_that_leaves_an_agent_alone_does_so_over_a_restart(folder: Path) -> None:
    async with opened(folder, sequences=[LEAK]) as place:
        await leak(place)
        assert (await say(place, "lift", LIFT | {"for_s": 3600}))[0] == 200
    async with opened(folder, sequences=[LEAK]) as place:
        assert (await place.post("/v1/chat/completions", CHAT))[0] == 200
        assert await refund(place) == (200, "")


async def test_without_a_ledger_nothing_is_lifted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_full, append = False, SqliteLedger.append

    async def full(ledger: SqliteLedger, kind: str, *said: Any, **more: Any) -> Any:
        if is_full:
            raise AuditUnavailable("disk_full")
        return await append(ledger, kind, *said, **more)

    monkeypatch.setattr(SqliteLedger, "append", full)
    async with opened(folder, sequences=[LEAK]) as place:
        await leak(place)
        is_full = True
        status, problem = await say(place, "lift", LIFT)
        assert (status, problem["reason"]) == (503, "disk_full")
        is_full = False
        assert await refund(place) == (403, "behaviour_blocked")
        assert place.records("console.change") == []


async def test_the_pages_show_it_from_the_running_gateway(folder: Path) -> None:
    async with opened(folder, sequences=[LEAK]) as place:
        await leak(place)
        await say(place, "block", BLOCK | {"agent": "agent:thief"})
        form = {"token": token_of(place, "viewer")}
        async with place.http.post(f"{place.url}/console/login", data=form, allow_redirects=False) as answer:
            assert answer.status == 303
            cookie = answer.headers["set-cookie"].partition(";")[0]
        pages = {}
        for name in ("behaviour", "playbooks"):
            async with place.http.get(f"{place.url}/console/{name}", headers={"cookie": cookie}) as answer:
                pages[name] = (answer.status, await answer.text())
        status, page = pages["behaviour"]
        assert status == 200
        for said in ("secret.egress", "behaviour.yaml:1", "agent:good", "agent:thief", BLOCK["reason"]):
            assert said in page, said
        assert (pages["playbooks"][0], "No playbook is set" in pages["playbooks"][1]) == (200, True)
