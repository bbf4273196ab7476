"""The mirror's failures are its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.retraining.mlflow_mirror import MirroredGateway, MlflowMirror, mirrored
from controlplane.retraining.ports import GatewayUnavailable, Review
from controlplane.retraining.settings import MlflowSettings
from controlplane.retraining.versions import Versions

from .http_fake import Answer, HttpFake, http_fake

MOVE = {"to": "PROMOTED", "new_version": 2}


@pytest.fixture
def fake() -> Iterator[HttpFake]:
    with http_fake() as fake:
        yield fake


@dataclass
class Asked:
    moves: list[Mapping[str, Any]] = field(default_factory=list)
    down: bool = False

    async def ask(self, model: str, move: Mapping[str, Any]) -> None:
        if self.down:
            raise GatewayUnavailable(model)
        self.moves.append(move)

    async def review(self, model: str) -> Review | None:
        return Review(model, "healthy")


def mirror_of(tmp_path: Path, fake: HttpFake) -> MlflowMirror:
    versions = Versions(tmp_path, "risk")
    versions.accept(versions.workplace(), 2, {"job": "j"})
    versions.publish(2)
    return MlflowMirror(MlflowSettings(url=fake.origin), tmp_path)


async def shown(gateway: MirroredGateway) -> list[bool]:
    return list(await asyncio.gather(*gateway.showing))


@pytest.mark.parametrize(
    "answer", [(500, {}), (400, {"error_code": "INVALID"}), (200, b"<html>"), (200, {}), (404, {})]
)
async def test_a_registry_that_makes_no_sense_touches_nobody(tmp_path: Path, fake: HttpFake, answer: Answer) -> None:
    fake.answer = lambda _: answer
    gateway = MirroredGateway(inner := Asked(), mirror_of(tmp_path, fake))
    await gateway.ask("risk", MOVE)
    assert inner.moves == [MOVE]
    assert await shown(gateway) == [False]


async def test_a_registry_that_is_down_touches_nobody(tmp_path: Path, fake: HttpFake) -> None:
    mirror = MlflowMirror(MlflowSettings(url="http://127.0.0.1:1"), mirror_of(tmp_path, fake).root)
    gateway = MirroredGateway(Asked(), mirror)
    await gateway.ask("risk", MOVE)
    assert await shown(gateway) == [False]


async def test_without_a_registry_the_gateway_is_asked_itself(tmp_path: Path) -> None:
    assert mirrored(inner := Asked(), None, tmp_path) is inner
    assert isinstance(mirrored(inner, MlflowSettings(url="http://127.0.0.1:1"), tmp_path), MirroredGateway)


async def test_a_version_without_provenance_is_not_shown(tmp_path: Path, fake: HttpFake) -> None:
    assert not await MlflowMirror(MlflowSettings(url=fake.origin), tmp_path).show("risk", 9)
    assert fake.asked == []


async def test_only_promotions_that_were_carried_out_are_shown(tmp_path: Path, fake: HttpFake) -> None:
    gateway = MirroredGateway(inner := Asked(), mirror_of(tmp_path, fake))
    await gateway.ask("risk", {"to": "SHADOW", "new_version": 2})
    inner.down = True
    with pytest.raises(GatewayUnavailable):
        await gateway.ask("risk", MOVE)
    assert gateway.showing == set()
    assert await gateway.review("risk") == Review("risk", "healthy")


async def test_a_model_that_is_registered_already_gets_a_version_and_the_alias(tmp_path: Path, fake: HttpFake) -> None:
    def answer(asked: Any) -> Answer:
        if asked.path.endswith("registered-models/create"):
            return 400, {"error_code": "RESOURCE_ALREADY_EXISTS"}
        return 200, {"model_version": {"version": "7"}}

    fake.answer = answer
    assert await mirror_of(tmp_path, fake).show("risk", 2)
    assert fake.asked[-1].json == {"name": "risk", "alias": "champion", "version": "7"}


@pytest.mark.parametrize("changes", [{"url": "http://other.example"}, {"source": "file:///x"}, {"name_prefix": "a'b"}])
def test_settings_that_mlflow_or_safety_refuse_are_refused_at_the_start(changes: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        MlflowSettings.model_validate({"url": "http://127.0.0.1:5000"} | changes)
