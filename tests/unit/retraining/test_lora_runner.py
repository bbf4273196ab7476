"""A LoRA adapter in the place of a SavedModel."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.retraining.runners.publishing_trainer import PublishingTrainer
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import OutputInvalid
from tests.real.lora_adapter import write_adapter

from .training_fakes import FillingRunner, job_in, leftovers

Spoil = Callable[[Path], None]


def write_lora(folder: Path, *, base: str = "tiny", rank: int = 4, name: str = "model.layers.0.o_proj") -> Path:
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": base, "r": rank, "target_modules": ["o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    write_weights(folder, {f"{name}.lora_A.weight": [4, 8], f"{name}.lora_B.weight": [8, 4]})
    return folder


def write_weights(folder: Path, shapes: dict[str, list[int]], cut: int = 0) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [end, end + rows * columns * 4]}
        end += rows * columns * 4
    head = json.dumps(header).encode()
    whole = struct.pack("<Q", len(head)) + head + bytes(end)
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) - cut])


def trainer_of(tmp_path: Path, made: Path) -> PublishingTrainer:
    return PublishingTrainer(TrainingSettings(output="lora"), tmp_path / "models", FillingRunner(made))


async def test_an_adapter_is_published_as_a_folder_with_its_provenance(tmp_path: Path) -> None:
    candidate = await trainer_of(tmp_path, write_lora(tmp_path / "made")).train(job_in(tmp_path), lambda _: None)
    assert candidate.facts["kind"] == "lora"
    assert {path.name for path in candidate.directory.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "provenance.json",
    }


async def test_the_adapter_that_a_real_vllm_loads_elsewhere_in_these_tests_passes(tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"hidden_size": 16, "num_hidden_layers": 2}))
    made = write_adapter(tmp_path / "made", base, seed=1)
    assert (await trainer_of(tmp_path, made).train(job_in(tmp_path), lambda _: None)).version == 2


def _configured(**changes: Any) -> Spoil:
    def spoil(made: Path) -> None:
        said = json.loads((made / "adapter_config.json").read_text()) | changes
        (made / "adapter_config.json").write_text(json.dumps(said))

    return spoil


def _without(name: str) -> Spoil:
    return lambda made: (made / name).unlink()


def _holding(name: str, content: bytes) -> Spoil:
    return lambda made: (made / name).write_bytes(content) and None


def _weights(shapes: dict[str, list[int]], cut: int = 0) -> Spoil:
    return lambda made: write_weights(made, shapes, cut)


SPOILED: dict[str, Spoil] = {
    "no configuration": _without("adapter_config.json"),
    "no weights": _without("adapter_model.safetensors"),
    "weights that run code": _holding("adapter_model.bin", b"x"),
    "no JSON": _holding("adapter_config.json", b"{"),
    "a list": _holding("adapter_config.json", b"[]"),
    "another method": _configured(peft_type="IA3"),
    "no rank": _configured(r="4"),
    "another rank": _configured(r=8),
    "no base": _configured(base_model_name_or_path=""),
    "an empty file": _holding("adapter_model.safetensors", b""),
    "a header beyond the end": _holding("adapter_model.safetensors", struct.pack("<Q", 1 << 40)),
    "a header that is no object": _holding("adapter_model.safetensors", struct.pack("<Q", 2) + b"[]"),
    "weights cut short": _weights({"a.lora_A.weight": [4, 8], "a.lora_B.weight": [8, 4]}, cut=4),
    "no pairs": _weights({"a.weight": [4, 8]}),
    "half a pair": _weights({"a.lora_A.weight": [4, 8]}),
}


@pytest.mark.parametrize("name", SPOILED)
async def test_what_vllm_could_not_or_should_not_load_is_refused(tmp_path: Path, name: str) -> None:
    made = write_lora(tmp_path / "made")
    SPOILED[name](made)
    with pytest.raises(OutputInvalid):
        await trainer_of(tmp_path, made).train(job_in(tmp_path), lambda _: None)
    assert leftovers(tmp_path / "models") == []


async def test_an_adapter_of_another_base_than_its_parents_is_refused(tmp_path: Path) -> None:
    write_lora(tmp_path / "models/risk/1", base="other")
    with pytest.raises(OutputInvalid, match="other"):
        await trainer_of(tmp_path, write_lora(tmp_path / "made")).train(job_in(tmp_path), lambda _: None)
