"""From an admitted model call to the ladder that answers it, and the catalogue as an answer of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from controlplane.calls import Receipt
from controlplane.gateway.gateway import Admission, Dispatch
from controlplane.gateway.models import ModelDispatch
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendRejected
from tests.unit.gateway.conftest import AGENT, ALLOW, a_call


@dataclass
class Backend:
    asked: list[BackendRequest] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked.append(request)

        async def answer() -> AsyncGenerator[bytes]:
            yield b"answer"

        yield BackendReply(200, (), answer())


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def dispatch(backend: Backend) -> ModelDispatch:
    return ModelDispatch(lambda: ["tiny", "risk"], {"tiny": backend, "risk": backend}.get, 60.0)


def admission(**fields: Any) -> Admission:
    return Admission(a_call(**fields), AGENT, ALLOW, Receipt("e1", 0, ""), 0.0, 0.0)


async def answer(dispatch: Dispatch, asked: Admission) -> bytes:
    async with dispatch.send(asked) as reply, aclosing(reply.chunks) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_the_ladder_of_the_model_is_asked_with_what_was_admitted(
    dispatch: ModelDispatch, backend: Backend
) -> None:
    asked = admission(operation="Predict", body=b"x", version=2, headers=(("accept", "a"),))
    assert await answer(dispatch, asked) == b"answer"
    (request,) = backend.asked
    assert (request.target, request.operation, request.body, request.version) == ("tiny", "Predict", b"x", 2)
    assert (request.call_id, request.scope, request.timeout_s) == ("e1", "acme:r1", 60.0)


@pytest.mark.parametrize(("deadline_s", "timeout_s"), [(None, 60.0), (5.0, 5.0), (600.0, 60.0)])
async def test_the_shorter_deadline_wins(
    dispatch: ModelDispatch, backend: Backend, deadline_s: float | None, timeout_s: float
) -> None:
    await answer(dispatch, admission(deadline_s=deadline_s))
    assert backend.asked[0].timeout_s == timeout_s


@pytest.mark.parametrize("name", ["nobody", "../tiny", "tiny/../tiny", "", "tiny/1", "TINY"])
async def test_a_name_that_is_not_in_the_catalogue_is_not_found(
    dispatch: ModelDispatch, backend: Backend, name: str
) -> None:
    for operation in ("chat", "model"):
        with pytest.raises(BackendRejected) as caught:
            dispatch.send(admission(resource=f"/model/{name}", operation=operation))
        assert caught.value.reason == "not_found"
    assert backend.asked == []


async def test_the_list_and_an_entry_come_from_the_catalogue(dispatch: ModelDispatch, backend: Backend) -> None:
    assert await answer(dispatch, admission(resource="/model", operation="models")) == b"risk\ntiny"
    assert await answer(dispatch, admission(operation="model")) == b"tiny"
    assert backend.asked == []


async def test_answers_of_two_tenants_or_revisions_have_nothing_in_common(
    dispatch: ModelDispatch, backend: Backend
) -> None:
    one = admission()
    await answer(dispatch, one)
    await answer(dispatch, replace(one, principal=replace(AGENT, tenant="globex")))
    await answer(dispatch, replace(one, decision=replace(ALLOW, revision="r2")))
    assert len({request.scope for request in backend.asked}) == 3
