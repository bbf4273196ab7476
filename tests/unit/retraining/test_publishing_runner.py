"""Whoever trained: what is described to a runner, and what may be made of what it leaves."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.entry import canonical
from controlplane.retraining.runners.description import DescriptionInvalid, read_description
from controlplane.retraining.runners.publishing_trainer import LEFTOVER_S, PublishingTrainer
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import (
    Candidate,
    DiskFull,
    JobLost,
    OutputInvalid,
    TrainerBusy,
    TrainerUnavailable,
    TrainingError,
    TrainingFailed,
    TrainingTimeout,
)
from controlplane.retraining.versions import Versions
from inference.savedmodel import publishing

from .training_fakes import FillingRunner, job_in, leftovers, write_model


@pytest.fixture
def runner(tmp_path: Path) -> FillingRunner:
    return FillingRunner(write_model(tmp_path / "1"), {"checked_errors": 3, "loss": 0.25, "note": "ok", "bad": [1]})


def trainer_of(tmp_path: Path, runner: FillingRunner, **settings: Any) -> PublishingTrainer:
    return PublishingTrainer(TrainingSettings(**settings), tmp_path / "models", runner)


async def test_provenance_tells_data_code_parent_job_runner_metrics_and_files(
    tmp_path: Path, runner: FillingRunner
) -> None:
    code, job = tmp_path / "code.py", job_in(tmp_path)
    code.write_text("x")
    versions = Versions(tmp_path / "models", "risk")
    parent = versions.accept(write_model(versions.workplace() / "1"), 1, {"job": "parent"})
    versions.publish(1)
    candidate = await trainer_of(tmp_path, runner, code=(code,)).train(job, lambda _: None)
    written = (candidate.directory / "provenance.json").read_bytes()
    provenance = json.loads(written)
    model = hashlib.sha256((candidate.directory / "saved_model.pb").read_bytes()).hexdigest()
    assert provenance.pop("files")["saved_model.pb"] == model
    assert len(provenance.pop("code_sha256")) == 64
    assert provenance == {
        "schema": 1,
        "job": "episode/1",
        "kind": "savedmodel",
        "model": "risk",
        "version": 2,
        "parent_version": 1,
        "parent_sha256": parent.manifest_digest,
        "runner": "subprocess",
        "data_sha256": hashlib.sha256(job.rows.read_bytes()).hexdigest(),
        "data_rows": 5,
        "metrics": {"checked_errors": 3, "loss": 0.25, "note": "ok"},
    }
    assert candidate.manifest_digest == hashlib.sha256(written).hexdigest()


async def test_facts_for_the_ledger_are_ints_and_strings(tmp_path: Path, runner: FillingRunner) -> None:
    candidate = await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert {type(each) for each in candidate.facts.values()} == {int, str}
    assert candidate.facts["metric_loss"] == "0.25"
    assert candidate.facts["metric_checked_errors"] == 3
    assert candidate.facts["manifest_sha256"] == candidate.manifest_digest
    assert {"job", "runner", "kind", "data_sha256", "data_rows", "code_sha256", "parent_version"} <= set(
        candidate.facts
    )
    again = await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert again == candidate, "a resumed loop tells the ledger the same"
    assert len(runner.ran) == 1


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"n": 2**53}, {"metric_n": str(2**53)}),
        ({"n": -(2**53)}, {"metric_n": str(-(2**53))}),
        ({"F1 (macro) \U0001f600": 1}, {"metric_F1__macro___": 1}),
        ({"x" * 500: 1}, {"metric_" + "x" * 64: 1}),
        ({"word": "\ud800"}, {"metric_word": "?"}),
    ],
)
async def test_whatever_a_trainer_measures_a_ledger_can_take(
    tmp_path: Path, runner: FillingRunner, metrics: dict[str, int | str], told: dict[str, int | str]
) -> None:
    runner.metrics = metrics
    candidate = await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert {name: said for name, said in candidate.facts.items() if name.startswith("metric_")} == told
    canonical({"evidence": dict(candidate.facts)})


async def test_a_job_in_its_directory_is_all_that_a_trainer_needs(tmp_path: Path, runner: FillingRunner) -> None:
    runner.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    (described,) = runner.ran
    said = json.loads((described.place / "job.json").read_text())
    assert (said["model"], said["new_version"], said["data_rows"], said["schema"]) == ("risk", 2, 5, 1)
    assert (Path(said["rows"]), Path(said["out"])) == (described.rows, described.out)
    assert read_description(described.place) == described
    assert described.as_json(Path("/mnt/x"))["out"] == "/mnt/x/2"


async def test_rows_that_are_not_those_described_are_refused(tmp_path: Path, runner: FillingRunner) -> None:
    runner.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    np.savez(runner.ran[0].rows, labels=np.zeros(9))
    with pytest.raises(DescriptionInvalid):
        read_description(runner.ran[0].place)


def _empty(made: Path) -> None:
    for path in made.iterdir():
        path.unlink() if path.is_file() else path.rename(made.parent / path.name)


def _linked(made: Path) -> None:
    (made / "passwd").symlink_to("/etc/passwd")


def _damaged(made: Path) -> None:
    (made / "saved_model.pb").write_bytes(b"m" * 100)


def _missing(made: Path) -> None:
    (made / "saved_model.pb").rename(made / "model.pb")


def _pipe(made: Path) -> None:
    os.mkfifo(made / "pipe")


@pytest.mark.parametrize("spoil", [_empty, _linked, _damaged, _missing, _pipe])
async def test_what_is_no_version_is_never_a_candidate(tmp_path: Path, runner: FillingRunner, spoil: Any) -> None:
    runner.spoil = spoil
    with pytest.raises(OutputInvalid) as raised:
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert raised.value.reason == "output_invalid"
    assert leftovers(tmp_path / "models") == []


@pytest.mark.parametrize(("features", "classes"), [(3, 2), (2, 3)])
async def test_a_model_that_is_called_otherwise_than_its_parent_is_refused(
    tmp_path: Path, runner: FillingRunner, features: int, classes: int
) -> None:
    (tmp_path / "models/risk").mkdir(parents=True)
    write_model(tmp_path / "7", features, classes).rename(tmp_path / "models/risk/1")
    with pytest.raises(OutputInvalid, match="signature"):
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)


async def test_too_little_room_is_said_before_anything_is_begun(tmp_path: Path, runner: FillingRunner) -> None:
    with pytest.raises(DiskFull) as raised:
        await trainer_of(tmp_path, runner, disk_free_bytes=2**60).train(job_in(tmp_path), lambda _: None)
    assert (raised.value.reason, runner.ran) == ("disk_full", [])


async def test_a_disk_that_fills_while_publishing_leaves_no_candidate(
    tmp_path: Path, runner: FillingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing, "_sync", full)
    with pytest.raises(DiskFull):
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert leftovers(tmp_path / "models") == []
    monkeypatch.undo()
    assert (await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)).version == 2


async def test_a_trainer_that_failed_on_a_full_disk_failed_because_of_it(
    tmp_path: Path, runner: FillingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.error = TrainingFailed("ended with 1")
    checked = iter([False, True])
    monkeypatch.setattr("controlplane.retraining.runners.publishing_trainer.is_full", lambda *_: next(checked))
    with pytest.raises(DiskFull):
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TrainingFailed("x"), "training_failed"),
        (TrainingFailed("x", "training_refused"), "training_refused"),
        (TrainingTimeout("x"), "training_timeout"),
        (TrainerBusy("x"), "trainer_busy"),
        (TrainerUnavailable("x"), "trainer_unavailable"),
        (JobLost("x"), "job_lost"),
        (OSError(errno.EDQUOT, "x"), "disk_full"),
        (OSError(errno.EACCES, "x"), "training_failed"),
    ],
)
async def test_every_failure_has_a_stable_word_and_leaves_nothing(
    tmp_path: Path, runner: FillingRunner, error: Exception, reason: str
) -> None:
    runner.error = error
    with pytest.raises(TrainingError) as raised:
        await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert raised.value.reason == reason
    assert leftovers(tmp_path / "models") == []


async def test_ten_processes_that_waited_for_one_job_publish_one_version(tmp_path: Path, runner: FillingRunner) -> None:
    """Each has a trainer of its own; the runner's job fills the directory once, and all are told that it is done."""
    trainers = [trainer_of(tmp_path, Waiting(runner)) for _ in range(10)]
    candidates = await asyncio.gather(*(each.train(job_in(tmp_path), lambda _: None) for each in trainers))
    assert len({each.manifest_digest for each in candidates}) == 1
    assert leftovers(tmp_path / "models") == ["2"]


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "rows.npz.part"), TrainingFailed("no rows")])
async def test_who_loses_its_directory_to_who_published_the_same_job_has_it_done(
    tmp_path: Path, runner: FillingRunner, error: Exception
) -> None:
    class Overtaken(FillingRunner):
        async def run(self, description: Any, progress: Any) -> Any:
            published.append(await trainer_of(tmp_path, runner).train(job_in(tmp_path), progress))
            assert not description.place.exists()
            raise error

    published: list[Candidate] = []
    candidate = await trainer_of(tmp_path, Overtaken(runner.made)).train(job_in(tmp_path), lambda _: None)
    assert [candidate] == published
    assert leftovers(tmp_path / "models") == ["2"]


class Waiting(FillingRunner):
    def __init__(self, inner: FillingRunner) -> None:
        super().__init__(inner.made)
        self.inner = inner

    async def run(self, description: Any, progress: Any) -> Any:
        if not self.inner.ran:
            await self.inner.run(description, progress)
        await asyncio.sleep(0)
        return {"rows": 5}


async def test_old_leftovers_go_and_young_ones_are_perhaps_at_work(tmp_path: Path, runner: FillingRunner) -> None:
    versions = Versions(tmp_path / "models", "risk")
    old, young = versions.workplace("a"), versions.workplace("b")
    os.utime(old, (1_000, 1_000))
    os.utime(young, (1_000 + LEFTOVER_S, 1_000 + LEFTOVER_S))
    trainer = trainer_of(tmp_path, runner)
    trainer.now_s = lambda: 1_001 + LEFTOVER_S
    await trainer.train(job_in(tmp_path), lambda _: None)
    assert (old.exists(), young.exists()) == (False, True)


async def test_what_the_trainer_calls_its_provenance_is_not_believed(tmp_path: Path, runner: FillingRunner) -> None:
    (runner.made / "provenance.json").write_text('{"job": "forged"}')
    candidate = await trainer_of(tmp_path, runner).train(job_in(tmp_path), lambda _: None)
    assert json.loads((candidate.directory / "provenance.json").read_text())["job"] == "episode/1"
