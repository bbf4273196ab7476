"""A file system that is really full: a tmpfs of one megabyte."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from controlplane.retraining.runners.choice import trainer_for
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import TrainingError, TrainingJob
from tests.unit.retraining.training_fakes import GOOD, job_in, leftovers, program

pytestmark = pytest.mark.real("tmpfs")

SIZE_BYTES = 1 << 20


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    models = tmp_path / "models"
    models.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(models)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("a file system of our own cannot be mounted here")
    yield models
    subprocess.run(["umount", str(models)], check=True)


async def ended(models: Path, job: TrainingJob, text: str, free_bytes: int) -> str:
    """The word that its failure has."""
    code = program(models.parent, text)
    command = ("{python}", str(code), "{rows}", "{out}")
    trainer = trainer_for(TrainingSettings(command=command, disk_free_bytes=free_bytes), models)
    with pytest.raises(TrainingError) as raised:
        await trainer.train(job, lambda _: None)
    assert leftovers(models) == []
    return raised.value.reason


async def test_rows_that_do_not_fit(models: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "given.npz", inputs=np.zeros((100_000, 2)), labels=np.ones(100_000, np.int64))
    assert await ended(models, job_in(tmp_path), GOOD, 0) == "disk_full"


async def test_a_model_that_does_not_fit(models: Path, tmp_path: Path) -> None:
    """The program only ends with an error; that the disk was full then is seen before what it left is removed."""
    text = "import sys; from pathlib import Path; Path(sys.argv[2]).write_bytes(bytes(2 << 20))"
    assert await ended(models, job_in(tmp_path), text, SIZE_BYTES // 8) == "disk_full"


async def test_too_little_room_to_begin(models: Path, tmp_path: Path) -> None:
    (models / "filler").write_bytes(bytes(SIZE_BYTES * 15 // 16))
    assert await ended(models, job_in(tmp_path), GOOD, SIZE_BYTES // 8) == "disk_full"


async def test_room_again_and_all_is_well(models: Path, tmp_path: Path) -> None:
    (models / "filler").write_bytes(bytes(SIZE_BYTES * 15 // 16))
    assert await ended(models, job_in(tmp_path), GOOD, SIZE_BYTES // 8) == "disk_full"
    (models / "filler").unlink()
    command = ("{python}", str(tmp_path / "train.py"), "{rows}", "{out}")
    settings = TrainingSettings(command=command, disk_free_bytes=SIZE_BYTES // 8)
    assert (await trainer_for(settings, models).train(job_in(tmp_path), lambda _: None)).version == 2
