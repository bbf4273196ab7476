"""Train the risk model. The first version and every later one come from this same file.

    python -m examples.risk_model.train first OUT        on the training part of the survey
    python -m examples.risk_model.train rows ROWS OUT    on an .npz with ``inputs`` and ``labels``: what retraining runs

OUT is a version directory, named by a number. Progress and metrics are JSON lines on standard output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.savedmodel import export_mlp

from .data import CLASSES, FEATURES, load
from .network import Layers, fit, forward, targets_of

HIDDEN = (24, 12)
EPOCHS = 20
CHECKED_PERCENT = 10  # of the rows given, kept from training to say how good it became


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def errors(layers: Layers, inputs: NDArray[np.float64], labels: NDArray[np.int64]) -> int:
    """How many rows the layers get wrong."""
    return int((forward(layers, inputs)[0].argmax(axis=1) != labels).sum())


def train(inputs: NDArray[np.float64], labels: NDArray[np.int64], seed: int = 1) -> Layers:
    kept = len(inputs) * (100 - CHECKED_PERCENT) // 100
    layers = fit(
        inputs[:kept],
        targets_of(labels[:kept]),
        HIDDEN,
        epochs=EPOCHS,
        seed=seed,
        told=lambda epoch: say(epoch=epoch, of=EPOCHS),
    )
    wrong = errors(layers, inputs[kept:], labels[kept:])
    say(metrics={"training_rows": kept, "checked_rows": len(inputs) - kept, "checked_errors": wrong})
    return layers


def first_version() -> Layers:
    """Says the reference error too: what the monitor's ``reference_errors`` and ``reference_rows`` are set to."""
    parts = load()
    layers = train(parts.training.inputs, parts.training.labels)
    wrong = errors(layers, parts.reference.inputs, parts.reference.labels)
    say(reference={"reference_errors": wrong, "reference_rows": len(parts.reference.visits)})
    return layers


def main(arguments: list[str]) -> None:
    out = Path(arguments[-1])
    if arguments[0] == "first":
        layers = first_version()
    else:
        with np.load(arguments[1], allow_pickle=False) as given:
            layers = train(given["inputs"], given["labels"])
    export_mlp(out, layers, feature_names=FEATURES, class_names=CLASSES)


if __name__ == "__main__":
    main(sys.argv[1:])
