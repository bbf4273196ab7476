"""Whether what a trainer left may become a version: checked before anything is published, whoever trained.

A directory passes when it holds plain files only (a link could show a server somebody else's file), and is what its
kind says: a SavedModel that can be read and is called like its parent, or a LoRA adapter (``lora.py``).
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controlplane.retraining.runners.description import digest_of_file
from controlplane.retraining.runners.lora import check_lora
from controlplane.retraining.trainer import OutputInvalid
from inference.savedmodel import SavedModelError
from inference.savedmodel.reader import FILE, serving_graph

MOST_FILES = 10_000
INTERNAL = "__saved_model_init_op"  # a signature that TensorFlow adds for itself


def check_output(kind: str, out: Path, parent: Path) -> dict[str, str]:
    """Hex SHA-256 of every file under ``out``, by its path in there. ``parent`` is the version that it replaces.

    Raises:
        OutputInvalid: it must not be published.
        OSError: it cannot be read.
    """
    if out.is_symlink() or not out.is_dir() or not any(out.iterdir()):
        raise OutputInvalid("the trainer left no model")
    files = _plain_files(out)
    CHECKS[kind](out, parent)
    return {path.relative_to(out).as_posix(): digest_of_file(path) for path in files}


def _plain_files(out: Path) -> list[Path]:
    files = []
    for path in sorted(out.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OutputInvalid(f"{path.relative_to(out)} is neither a file nor a directory")
        if stat.S_ISREG(mode):
            files.append(path)
        if len(files) > MOST_FILES:
            raise OutputInvalid(f"more than {MOST_FILES} files")
    return files


def check_savedmodel(out: Path, parent: Path) -> None:
    """A graph to serve, and every signature that callers of the parent use, with the same names, types and ranks."""
    found = _signatures(out)
    if not found:
        raise OutputInvalid("the SavedModel has no signature")
    if (parent / FILE).is_file():
        for name, expected in _signatures(parent).items():
            if found.get(name) != expected:
                raise OutputInvalid(f"signature {name!r} is not that of version {parent.name}")


def _signatures(directory: Path) -> dict[str, Any]:
    try:
        defined = serving_graph(directory).signature_def
    except SavedModelError as error:
        raise OutputInvalid(str(error)) from error
    return {name: (_tensors(each.inputs), _tensors(each.outputs)) for name, each in defined.items() if name != INTERNAL}


def _tensors(defined: Any) -> dict[str, Any]:
    """Types and shapes by name; not the graph's own names for them, which every export may choose anew."""
    return {name: (each.dtype, [size.size for size in each.tensor_shape.dim]) for name, each in defined.items()}


CHECKS: dict[str, Callable[[Path, Path], None]] = {"savedmodel": check_savedmodel, "lora": check_lora}
