"""A LoRA adapter for the tiny model, in the files that PEFT writes. Its weights are random and mean nothing."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

RANK = 8


def write_adapter(folder: Path, base: Path, seed: int) -> Path:
    """``base`` is the folder of the model that it adapts."""
    config = json.loads((base / "config.json").read_text("utf-8"))
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": str(base),
                "r": RANK,
                "lora_alpha": 64,
                "target_modules": ["o_proj"],
                "bias": "none",
            }
        )
    )
    rng = random.Random(seed)
    tensors = {}
    for layer in range(layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.o_proj"
        tensors[f"{name}.lora_A.weight"] = (RANK, hidden)
        tensors[f"{name}.lora_B.weight"] = (hidden, RANK)
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors, rng))
    return folder


def safetensors(shapes: dict[str, tuple[int, int]], rng: random.Random) -> bytes:
    """The format: length of the header, the header as JSON, the numbers."""
    header, body = {}, b""
    for name, (rows, columns) in shapes.items():
        numbers = struct.pack(f"<{rows * columns}f", *(rng.gauss(0, 1) for _ in range(rows * columns)))
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(body), len(body) + len(numbers)]}
        body += numbers
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + body
