"""Whether a directory is a LoRA adapter that vLLM may load: PEFT's configuration, and weights as safetensors.

The safetensors format (https://huggingface.co/docs/safetensors, "Format"): eight bytes of header length, little-endian;
the header, JSON from a tensor's name to its dtype, shape and byte range; then the numbers. Weights in pickle files run
code when they are loaded, so a directory that has one is refused.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from controlplane.retraining.trainer import OutputInvalid

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LONGEST_HEADER_BYTES = 100 << 20  # the format's own limit
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
BYTES_OF = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def check_lora(out: Path, parent: Path) -> None:
    """Raises ``OutputInvalid``, also when it adapts another base model than ``parent`` (if that is an adapter)."""
    for path in out.rglob("*"):
        if path.suffix in PICKLES:
            raise OutputInvalid(f"{path.name}: weights must be safetensors")
    config = _config(out)
    _check_pairs(_shapes(out / WEIGHTS), config["r"])
    if (parent / CONFIG).is_file():
        base = _config(parent)["base_model_name_or_path"]
        if config["base_model_name_or_path"] != base:
            raise OutputInvalid(f"it adapts {config['base_model_name_or_path']!r}, its parent {base!r}")


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except FileNotFoundError:
        raise OutputInvalid(f"no {CONFIG}") from None
    except ValueError as error:
        raise OutputInvalid(f"{CONFIG}: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise OutputInvalid(f"{CONFIG}: peft_type is not LORA")
    if type(config.get("r")) is not int or config["r"] < 1:
        raise OutputInvalid(f"{CONFIG}: r is not a rank")
    if not isinstance(config.get("base_model_name_or_path"), str) or not config["base_model_name_or_path"]:
        raise OutputInvalid(f"{CONFIG}: no base_model_name_or_path")
    return config


def _shapes(path: Path) -> dict[str, list[int]]:
    """Shapes by the names of tensors, after their byte ranges were found to fill the file."""
    try:
        with path.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > LONGEST_HEADER_BYTES:
                raise OutputInvalid(f"{WEIGHTS}: a header of {length} bytes")
            header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        ranges = sorted((each["data_offsets"], each["dtype"], each["shape"]) for each in header.values())
        _check_ranges(ranges, path.stat().st_size - 8 - length)
        return {name: each["shape"] for name, each in header.items()}
    except FileNotFoundError:
        raise OutputInvalid(f"no {WEIGHTS}") from None
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputInvalid(f"{WEIGHTS}: {error!r}") from error


def _check_ranges(ranges: list[tuple[list[int], str, list[int]]], size: int) -> None:
    end = 0
    for (start, stop), dtype, shape in ranges:
        if start != end or stop - start != math.prod(shape) * BYTES_OF[dtype]:
            raise ValueError("byte ranges do not match the shapes")
        end = stop
    if end != size:
        raise ValueError("the file is cut short or too long")


def _check_pairs(shapes: dict[str, list[int]], rank: int) -> None:
    pairs = {name.removesuffix(DOWN) for name in shapes if name.endswith(DOWN)}
    if not pairs:
        raise OutputInvalid(f"{WEIGHTS}: no tensor is called *{DOWN}")
    for pair in pairs:
        down, up = shapes[pair + DOWN], shapes.get(pair + UP, [])
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] != rank:  # noqa: PLR2004 - matrices
            raise OutputInvalid(f"{WEIGHTS}: {pair} is no pair of rank {rank}")
