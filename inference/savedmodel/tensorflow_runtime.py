"""Running SavedModels with TensorFlow itself, where it is installed: every op, variables, accelerators.

Only a model server that was started for it loads this; the gateway never does. TensorFlow is imported when the first
model is, which takes seconds and half a gigabyte.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from inference.savedmodel.reader import SavedModelError, serving_graph
from inference.savedmodel.runtime import GraphError, UnknownSignature, UnsupportedModel
from inference.tfserving.tensors import BFLOAT16, Array


class TensorFlowMissing(Exception):
    """TensorFlow cannot be imported by this interpreter."""


def tensorflow() -> Any:
    """Raises ``TensorFlowMissing``."""
    try:
        return importlib.import_module("tensorflow")
    except ImportError as error:
        raise TensorFlowMissing(f"the tensorflow runtime needs TensorFlow in this interpreter: {error}") from error


class TensorFlowModel:
    """A loaded model. May be run by any number of threads."""

    def __init__(self, tf: Any, loaded: Any, signatures: Mapping[str, Any]) -> None:
        self._tf, self._loaded, self.signatures = tf, loaded, signatures

    def run(self, signature: str, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
        """As ``Model.run``."""
        if signature not in self.signatures:
            raise UnknownSignature(signature)
        wanted = self.signatures[signature].inputs
        try:
            given = {name: self._tensor(array, wanted[name].dtype) for name, array in inputs.items()}
            answered = self._loaded.signatures[signature](**given)
        except (self._tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            raise GraphError(str(error)) from error
        return {name: _array(answered[name]) for name in outputs or answered}

    def _tensor(self, array: Array, code: int) -> Any:
        tensor = self._tf.constant(array)
        return self._tf.cast(tensor, self._tf.bfloat16) if code == BFLOAT16 else tensor  # read as float32


def load(directory: Path) -> TensorFlowModel:
    """The model in a version directory.

    Raises:
        SavedModelError: missing, damaged, or without a graph tagged ``serve``.
        UnsupportedModel: TensorFlow does not know its ops either.
    """
    tf = tensorflow()
    definitions = serving_graph(directory).signature_def
    try:
        loaded = tf.saved_model.load(str(directory), tags=["serve"])
    except tf.errors.NotFoundError as error:
        raise UnsupportedModel(str(error)) from error
    except (OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise SavedModelError(f"{directory}: {error}") from error
    return TensorFlowModel(tf, loaded, {key: one for key, one in definitions.items() if key in loaded.signatures})


def _array(tensor: Any) -> Array:
    value = tensor.numpy()
    return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)
