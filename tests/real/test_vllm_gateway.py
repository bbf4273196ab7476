"""A real vLLM behind the whole gateway, asked by the official SDK: identity, policy, ledger and all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from audit import LedgerReader
from audit.verify import verify
from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.wiring import ControlPlane
from tests.matrix.world import listening
from tests.real.conftest import RunningVllm
from tests.real.gateway_settings import settings_in

pytestmark = pytest.mark.real("vllm")

ASK = [{"role": "user", "content": "Say something."}]


@dataclass(frozen=True)
class Gate:
    url: str
    token: str
    stranger: str
    ledger: Path
    plane: ControlPlane

    @asynccontextmanager
    async def chat(self, token: str = "") -> AsyncGenerator[openai.resources.chat.AsyncCompletions]:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=token or self.token, max_retries=0) as client:
            yield client.chat.completions

    async def outcomes(self, count: int) -> list[dict]:
        """The newest ``count`` outcomes; a relaxed call's outcome may come a moment after its last byte."""
        for _ in range(1_200):
            records = LedgerReader(self.ledger).read(kinds=["outcome"])
            found = [{"closes": record.body["closes"], **record.body["outcome"]} for record in records]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.05)
        raise AssertionError(f"only {len(found)} outcomes")


@pytest.fixture
async def gate(vllm: RunningVllm, key_file: Path, tmp_path: Path) -> AsyncIterator[Gate]:
    issuer = DevelopmentIssuer(tmp_path / "identity")
    backend = {"kind": "openai", "base_url": f"{vllm.origin}/v1", "api_key_file": key_file}
    settings = settings_in(tmp_path, issuer, {"vllm": backend})
    analyst = issuer.issue(Grant(subject="agent:analyst", tenant="acme"))
    courier = issuer.issue(Grant(subject="agent:courier", tenant="globex"))
    async with ControlPlane(settings) as plane, listening(plane.app) as port:
        yield Gate(f"http://127.0.0.1:{port}", analyst, courier, settings.audit.path, plane)


async def test_plain_chat_is_answered_and_its_tokens_are_in_the_ledger(gate: Gate) -> None:
    async with gate.chat() as chat:
        raw = await chat.with_raw_response.create(model="tiny", messages=ASK, max_tokens=5)
    answer = raw.parse()
    assert answer.usage.completion_tokens <= 5
    (outcome,) = await gate.outcomes(1)
    assert outcome["closes"] == raw.headers["x-call-id"]
    assert outcome["tokens"]["out"] == answer.usage.completion_tokens
    assert outcome["status"] == "ok"


async def test_streamed_chat_arrives_in_pieces_and_is_counted(gate: Gate) -> None:
    """The caller did not ask for usage: it is counted all the same, and the caller sees no extra chunk."""
    endless = {"ignore_eos": True}
    async with gate.chat() as chat:
        stream = await chat.create(model="tiny", messages=ASK, max_tokens=20, stream=True, extra_body=endless)
        chunks = [chunk async for chunk in stream]
    assert len(chunks) > 5
    assert all(chunk.choices for chunk in chunks)
    (outcome,) = await gate.outcomes(1)
    assert outcome["tokens"]["out"] == 20


async def test_policys_cap_reaches_the_model(gate: Gate) -> None:
    """The analyst asks for 900 tokens and may have 256."""
    async with gate.chat() as chat:
        answer = await chat.create(model="tiny", messages=ASK, max_tokens=900, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 256


async def test_hang_up_stops_the_model_and_is_recorded(gate: Gate) -> None:
    endless = {"ignore_eos": True}
    async with gate.chat() as chat:
        stream = await chat.create(model="tiny", messages=ASK, max_tokens=250, stream=True, extra_body=endless)
        await anext(aiter(stream))
        await stream.close()
    (outcome,) = await gate.outcomes(1)
    assert outcome["status"] == "cancelled"


async def test_refused_tenant_learns_the_reason_in_the_sdks_own_words(gate: Gate) -> None:
    async with gate.chat(gate.stranger) as chat:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await chat.create(model="tiny", messages=ASK)
    assert refused.value.code == "no_matching_rule"


async def test_ledger_of_it_all_verifies(gate: Gate) -> None:
    async with gate.chat() as chat:
        await chat.create(model="tiny", messages=ASK, max_tokens=2)
    await gate.outcomes(1)
    assert verify(gate.ledger, gate.plane.ledger.verifier_key).is_sound
