"""A version directory → a model that runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.savedmodel.graph import SavedModel
from inference.savedmodel.runtime import Model
from inference.tfserving.tensors import TensorError
from inference.tfserving.wire import WireError, parse

FILE = "saved_model.pb"
LARGEST_VERSION = 2**63 - 1  # that a message can carry


class SavedModelError(Exception):
    """The directory holds no SavedModel that can be read."""


def versions(base: Path) -> list[int]:
    """The complete versions under ``base``, ascending; drafts and other folders are not versions."""
    if not base.is_dir():
        return []
    names = (child.name for child in base.iterdir() if (child / FILE).is_file())
    return sorted(number for name in names if (number := number_in(name)) is not None)


def number_in(name: str) -> int | None:
    """The version that a folder of this name holds, None for one that is no version's."""
    number = int(name) if name.isascii() and name.isdigit() else LARGEST_VERSION + 1
    return number if number <= LARGEST_VERSION else None


def load(directory: Path) -> Model:
    """The model in a version directory.

    Raises:
        SavedModelError: missing, damaged, or without a graph tagged ``serve``.
        UnsupportedModel: a real model, but one that needs TensorFlow.
    """
    try:
        return Model.of(serving_graph(directory))
    except TensorError as error:
        raise SavedModelError(f"{directory}: {error}") from error


def serving_graph(directory: Path) -> Any:
    """The ``MetaGraphDef`` tagged ``serve``. Raises ``SavedModelError``."""
    try:
        saved = parse(SavedModel, (directory / FILE).read_bytes())
    except (OSError, WireError) as error:
        raise SavedModelError(f"{directory}: {error}") from error
    for meta_graph in saved.meta_graphs:
        if "serve" in meta_graph.meta_info_def.tags:
            return meta_graph
    raise SavedModelError(f"{directory} has no graph tagged 'serve'")
