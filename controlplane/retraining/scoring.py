"""What a version would have answered: its SavedModel run here, beside the model server, for shadow comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.savedmodel import SavedModelError, UnsupportedModel, load
from inference.savedmodel.runtime import GraphError, UnknownSignature

Score = Callable[[Path, NDArray[np.float64]], NDArray[np.int64]]
CUT = 0.5  # a single probability is of class 1


class ScoringFailed(Exception):
    """A version cannot be read or run here; the cause says why."""


def classes_of(output: NDArray[Any]) -> NDArray[np.int64]:
    """(n,) classes from probabilities of shape (n, k), or (n,) or (n, 1) for two classes; integers are classes already.

    Raises:
        ValueError: some other shape, or no numbers.
    """
    if output.dtype.kind not in "fiub":
        raise ValueError(f"no classes in an output of type {output.dtype}")
    flat = output[:, 0] if output.ndim == 2 and output.shape[1] == 1 else output  # noqa: PLR2004 - rows and columns
    if flat.ndim == 1:
        classes: NDArray[np.int64] = (flat if flat.dtype.kind in "iu" else flat > CUT).astype(np.int64)
        return classes
    if flat.ndim != 2 or flat.shape[1] == 0:  # noqa: PLR2004 - rows and columns
        raise ValueError(f"no classes in an output of shape {output.shape}")
    return np.asarray(np.argmax(flat, axis=1), np.int64)


def savedmodel_score(input_name: str, output_name: str, signature: str = "serving_default") -> Score:
    """Scores version directories (first argument) on inputs (n, features); returns (n,) classes."""

    def score(directory: Path, inputs: NDArray[np.float64]) -> NDArray[np.int64]:
        try:
            outputs = load(directory).run(signature, {input_name: inputs.astype(np.float32)}, [output_name])
            classes = classes_of(outputs[output_name])
        except (SavedModelError, UnsupportedModel, GraphError, UnknownSignature, KeyError, ValueError) as error:
            raise ScoringFailed(f"{directory}: {error}") from error
        if len(classes) != len(inputs):
            raise ScoringFailed(f"{directory}: {len(classes)} answers to {len(inputs)} rows")
        return classes

    return score
