"""The lighter model that answers when the risk model may not: five health answers, one layer, no plan details.

    python -m examples.risk_model.baseline OUT

Both classes weigh the same in its training, so it leans on what it sees of a person's health and not on how common
doctor visits happen to be. It is worse than the risk model while that one is right, and steadier when it is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from inference.savedmodel import export_mlp

from .data import CLASSES, FEATURES, Rows, load
from .network import Layers, fit, targets_of

HEALTH = ("physlm", "disea", "hlthg", "hlthf", "hlthp")


def train(rows: Rows) -> Layers:
    columns = [FEATURES.index(name) for name in HEALTH]
    ((weights, bias),) = fit(rows.inputs[:, columns], targets_of(rows.labels, balanced=True), (), epochs=10, seed=1)
    whole = np.zeros((len(FEATURES), len(CLASSES)))
    whole[columns] = weights
    return [(whole, bias)]


if __name__ == "__main__":
    export_mlp(Path(sys.argv[1]), train(load().training), feature_names=FEATURES, class_names=CLASSES)
