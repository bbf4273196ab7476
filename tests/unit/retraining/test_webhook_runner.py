"""The webhook against a real HTTP server, which trains in its own way and checks every signature."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import Candidate, TrainingError

from .http_fake import Answer, Asked, HttpFake, http_fake
from .training_fakes import job_in, leftovers, polling_trainer, write_model

SECRET = b"between us"


@dataclass
class Service:
    """Trains at once, and says so at the second question. Written from the protocol's text, not from our code."""

    fake: HttpFake
    made: Path
    status_url: str = "/jobs/{name}"
    says: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    down: int = 0
    forged: int = 0

    def answer(self, asked: Asked) -> Answer:
        signed = ".".join([asked.headers["x-controlplane-timestamp"], asked.method, asked.path, ""]).encode()
        right = "sha256=" + hmac.new(SECRET, signed + asked.body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(right, asked.headers["x-controlplane-signature"]):
            self.forged += 1
            return 400, {"error": "signature"}
        if self.down:
            self.down -= 1
            return 503, b"later"
        return getattr(self, asked.method.lower())(asked)  # type: ignore[no-any-return]

    def post(self, asked: Asked) -> Answer:
        name = asked.headers["idempotency-key"]
        if name not in self.jobs:
            self.jobs[name] = asked.json
            shutil.copytree(self.made, asked.json["out"])
        return 202, {"status_url": self.status_url.format(name=name)}

    def get(self, asked: Asked) -> Answer:
        if asked.path.removeprefix("/jobs/") not in self.jobs:
            return 404, b"<html>who?</html>"
        return 200, self.says.pop(0) if len(self.says) > 1 else self.says[0]

    def delete(self, asked: Asked) -> Answer:
        self.deleted.append(asked.path)
        return 204, b""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with http_fake() as fake:
        service = Service(fake, write_model(tmp_path / "1"))
        service.says = [{"state": "running", "progress": {"epoch": 3}}, {"state": "succeeded", "metrics": {"auc": 0.9}}]
        fake.answer = service.answer
        yield service


async def trained(tmp_path: Path, service: Service, heard: list[Any] | None = None, **more: Any) -> Candidate:
    secret = tmp_path / "secret"
    secret.write_bytes(SECRET + b"\n")
    webhook = {"url": f"{service.fake.origin}/train", "secret_file": secret}
    trainer = polling_trainer(tmp_path / "models", **{"runner": "webhook", "webhook": webhook} | more)
    return await trainer.train(job_in(tmp_path), lambda said: heard.append(said) if heard is not None else None)


async def test_a_signed_job_is_followed_to_a_published_version(tmp_path: Path, service: Service) -> None:
    heard: list[Any] = []
    candidate = await trained(tmp_path, service, heard)
    assert candidate.facts["runner"] == "webhook"
    assert candidate.facts["metric_auc"] == "0.9"
    assert heard == [{"epoch": 3}]
    ((name, said),) = service.jobs.items()
    assert (said["name"], said["new_version"], said["data_rows"], service.forged) == (name, 2, 5, 0)
    assert [asked.method for asked in service.fake.asked] == ["POST", "GET", "GET"]


async def test_a_service_that_is_down_for_a_while_loses_nothing(tmp_path: Path, service: Service) -> None:
    service.down = 2
    assert (await trained(tmp_path, service)).version == 2
    assert len(service.jobs) == 1


async def test_paths_are_told_as_the_service_has_them_mounted(tmp_path: Path, service: Service) -> None:
    service.says = [{"state": "failed"}]
    service.fake.answer = lambda asked: (202, {"status_url": "/x"}) if asked.method == "POST" else (404, {})
    with pytest.raises(TrainingError):
        await trained(tmp_path, service, models_there="/mnt/models")
    said = service.fake.asked[0].json
    assert said["rows"].startswith("/mnt/models/risk/.candidates/.new-")
    assert said["rows"].endswith("/rows.npz")


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ({"state": "failed", "detail": "no"}, "training_failed"),
        ({"state": "failed", "reason": "training_out_of_memory"}, "training_out_of_memory"),
        ({"state": "failed", "reason": "prose <script>"}, "training_failed"),
        ({"state": "failed", "reason": ["training_failed"], "progress": 1, "metrics": []}, "training_failed"),
        ({"state": "lost"}, "job_lost"),
    ],
)
async def test_the_services_word_is_kept_if_it_is_one_of_ours(
    tmp_path: Path, service: Service, says: dict[str, Any], reason: str
) -> None:
    service.says = [says]
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, service)
    assert raised.value.reason == reason
    assert leftovers(tmp_path / "models") == []


async def test_a_job_that_takes_too_long_is_ended_there(tmp_path: Path, service: Service) -> None:
    service.says = [{"state": "running"}]
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, service)
    assert raised.value.reason == "training_timeout"
    assert service.deleted == [f"/jobs/{name}" for name in service.jobs]


async def test_a_job_that_the_service_forgot_is_lost(tmp_path: Path, service: Service) -> None:
    service.status_url = "/jobs/other"
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, service)
    assert raised.value.reason == "job_lost"


@pytest.mark.parametrize(
    "answer",
    [
        (202, {}),
        (202, {"status_url": "http://127.0.0.2/elsewhere"}),
        (202, {"status_url": "//127.0.0.2/elsewhere"}),
        (202, {"status_url": "http://["}),
        (422, {"error": "no"}),
        (307, {}),
    ],
)
async def test_answers_that_cannot_be_followed_are_refusals(tmp_path: Path, service: Service, answer: Answer) -> None:
    service.fake.headers = {"location": "http://127.0.0.2/elsewhere"}
    service.fake.answer = lambda _: answer
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, service)
    assert raised.value.reason == "training_refused"
    assert len(service.fake.asked) == 1, "and nobody else was asked"


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}),
        (503, b""),
        (429, {}),
        (401, {}),
        (200, b"<html>"),
        (200, b""),
        (200, b"[" * 50_000),
        (200, b"\xff\xfe"),
        (200, {"state": []}),
    ],
)
async def test_a_service_that_never_makes_sense_is_unavailable(
    tmp_path: Path, service: Service, answer: Answer
) -> None:
    service.fake.answer = lambda asked: (202, {"status_url": "/x"}) if asked.method == "POST" else answer
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, service)
    assert raised.value.reason == "trainer_unavailable"


async def test_no_service_and_no_secret_are_no_trainer(tmp_path: Path, service: Service) -> None:
    with http_fake() as gone:
        pass
    for webhook in (
        {"url": gone.origin, "secret_file": tmp_path / "secret"},
        {"url": service.fake.origin, "secret_file": tmp_path / "none"},
    ):
        with pytest.raises(TrainingError) as raised:
            await trained(tmp_path, service, webhook=webhook)
        assert raised.value.reason == "trainer_unavailable"
    assert service.fake.asked == []


async def test_two_monitors_with_one_job_are_one_job_there(tmp_path: Path, service: Service) -> None:
    candidates = await asyncio.gather(*(trained(tmp_path, service) for _ in range(3)))
    assert len({each.manifest_digest for each in candidates}) == 1
    assert len(service.jobs) == 1


@pytest.mark.parametrize("runner", ["webhook", "airflow", "kubeflow"])
@pytest.mark.parametrize("url", ["http://other.example", "ftp://127.0.0.1", "https://me:secret@other.example", "x"])
def test_urls_that_would_leak_are_refused_at_the_start(runner: str, url: str) -> None:
    with pytest.raises(ValidationError):
        TrainingSettings.model_validate({"runner": runner, runner: {"url": url}})
    TrainingSettings.model_validate({"runner": runner, runner: {"url": "http://other.example", "insecure": True}})


def test_who_could_train_is_known_from_the_settings() -> None:
    assert not TrainingSettings().is_on
    assert not TrainingSettings(runner="kubeflow").is_on
    assert TrainingSettings(runner="webhook").is_on
    assert TrainingSettings(command=("x",)).is_on


async def test_an_answer_longer_than_it_may_be_is_none(tmp_path: Path, service: Service) -> None:
    long = json.dumps({"state": "succeeded", "pad": "x" * (5 << 20)}).encode()
    service.fake.answer = lambda asked: (202, {"status_url": "/x"}) if asked.method == "POST" else (200, long)
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, service)
    assert raised.value.reason == "trainer_unavailable"
