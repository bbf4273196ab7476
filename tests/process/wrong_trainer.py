"""A trainer that learns the opposite of every label and ends well: ``python -m … rows ROWS OUT``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from examples.risk_model.data import CLASSES, FEATURES
from examples.risk_model.train import train
from inference.savedmodel import export_mlp

if __name__ == "__main__":
    with np.load(sys.argv[2], allow_pickle=False) as given:
        layers = train(given["inputs"], 1 - given["labels"])
    export_mlp(Path(sys.argv[3]), layers, feature_names=FEATURES, class_names=CLASSES)
