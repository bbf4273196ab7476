"""The real ``huggingface_hub`` client reads our catalogue from the running gateway."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.wiring import ControlPlane
from tests.matrix.upstreams import closed_port
from tests.matrix.world import listening, until
from tests.real.gateway_settings import settings_in

pytestmark = pytest.mark.real("huggingface_hub")
hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")


@dataclass
class Hub:
    """``ask`` runs the blocking client beside the event loop that serves it."""

    url: str
    tokens: dict[str, str]
    plane: ControlPlane

    async def ask(self, who: str, question: Any, *, below: str = "") -> Any:
        api = hub.HfApi(endpoint=self.url + below, token=self.tokens.get(who, False))
        return await asyncio.to_thread(lambda: question(api))

    def kinds(self) -> list[str]:
        return [record.kind for record in self.plane.ledger.read(kinds=["intent", "deny", "outcome"])]


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    issuer = DevelopmentIssuer(tmp_path / "identity")
    nobody = f"127.0.0.1:{closed_port()}"
    backends = {
        "tfs": {"kind": "tfserving", "target": nobody, "models": {"risk": "/models/risk"}},
        "vllm": {"kind": "openai", "base_url": f"http://{nobody}/v1"},
    }
    names = {"analyst": "agent:analyst", "support": "agent:support", "operator": "user:operator"}
    tokens = {who: issuer.issue(Grant(subject=name, tenant="acme")) for who, name in names.items()}
    async with ControlPlane(settings_in(tmp_path, issuer, backends)) as plane, listening(plane.app) as port:
        yield Hub(f"http://127.0.0.1:{port}", tokens, plane)


@pytest.mark.parametrize("below", ["", "/huggingface"])
async def test_a_list_has_what_policy_lets_its_reader_see(served: Hub, below: str) -> None:
    listed = await served.ask("analyst", lambda api: list(api.list_models()), below=below)
    assert [model.id for model in listed] == ["acme/risk", "acme/tiny"]
    assert all(model.private for model in listed)


async def test_a_list_is_narrowed_sorted_and_cut_as_with_the_hub(served: Hub) -> None:
    def question(api: Any) -> list[Any]:
        return list(api.list_models(filter="text-generation", sort="downloads", limit=5, full=True, cardData=True))

    (tiny,) = await served.ask("analyst", question)
    assert (tiny.id, tiny.pipeline_tag, tiny.author) == ("acme/tiny", "text-generation", "acme")
    assert "license:apache-2.0" in tiny.tags
    cut = await served.ask("analyst", lambda api: list(api.list_models(limit=1)))
    assert [model.id for model in cut] == ["acme/risk"]
    none = await served.ask("analyst", lambda api: list(api.list_models(author="globex")))
    assert none == []


async def test_a_card_arrives_with_its_metrics(served: Hub) -> None:
    risk = await served.ask("analyst", lambda api: api.model_info("acme/risk"))
    (index,) = risk.model_index
    (result,) = index["results"]
    assert result["metrics"][0] == {
        "type": "accuracy",
        "value": 0.723,
        "args": {"n": 3000, "measured_on": "2026-11-21"},
    }
    (measured,) = risk.card_data.eval_results
    assert (measured.task_type, measured.metric_type, measured.metric_value) == (
        "tabular-classification",
        "accuracy",
        0.723,
    )
    assert risk.card_data.license == "apache-2.0"


@pytest.mark.parametrize("name", ["risk", "acme/risk"])
async def test_a_model_is_found_with_and_without_its_owner(served: Hub, name: str) -> None:
    assert (await served.ask("analyst", lambda api: api.model_info(name, revision="main"))).id == "acme/risk"


@pytest.mark.parametrize("name", ["acme/nothing", "globex/risk", "nothing"])
async def test_what_is_not_there_is_the_clients_own_exception(served: Hub, name: str) -> None:
    with pytest.raises(hub.errors.RepositoryNotFoundError):
        await served.ask("analyst", lambda api: api.model_info(name))
    with pytest.raises(hub.errors.HfHubHTTPError):
        await served.ask("analyst", lambda api: api.model_info("acme/risk", revision="v7"))


async def test_who_may_not_read_is_told_so_and_recorded(served: Hub) -> None:
    with pytest.raises(hub.errors.HfHubHTTPError) as caught:
        await served.ask("support", lambda api: api.model_info("acme/risk"))
    assert caught.value.response.status_code == 403
    assert "no_matching_rule" in str(caught.value)
    assert served.kinds() == ["deny"]


async def test_a_stranger_is_told_of_the_credential_and_not_of_the_models(served: Hub) -> None:
    for question in (lambda api: list(api.list_models()), lambda api: api.model_info("acme/risk")):
        with pytest.raises(hub.errors.HfHubHTTPError) as caught:
            await served.ask("stranger", question)
        assert caught.value.response.status_code == 401
        assert not isinstance(caught.value, hub.errors.RepositoryNotFoundError)
    assert served.kinds() == []


async def test_the_operators_list_is_still_there_for_operators(served: Hub) -> None:
    headers = {"authorization": f"Bearer {served.tokens['operator']}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        answer = await session.get(f"{served.url}/api/models")
        assert set(json.loads(await answer.text())) == {"models"}
        asked = await session.get(f"{served.url}/api/models?limit=1", headers={"user-agent": "curl"})
        assert asked.status == 403, "an operator may not list models for agents"


async def test_every_look_at_the_catalogue_is_in_the_ledger(served: Hub) -> None:
    await served.ask("analyst", lambda api: list(api.list_models()))
    await served.ask("analyst", lambda api: api.model_info("acme/risk"))
    await until(lambda: len(served.kinds()) >= 4)
    assert sorted(served.kinds()) == ["intent", "intent", "outcome", "outcome"]
