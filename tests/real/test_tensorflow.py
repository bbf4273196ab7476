"""Real TensorFlow and the official TF Serving stubs, as the judge of our messages, files and server.

They live in a venv of their own (``.venv-tensorflow``), because TensorFlow is no dependency of the product.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.savedmodel import UnsupportedModel, export_mlp, load

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-tensorflow" / "bin" / "python"
ORACLE = Path(__file__).with_name("tensorflow_oracle.py")

pytestmark = [
    pytest.mark.real("tensorflow"),
    pytest.mark.skipif(not PYTHON.exists(), reason="no .venv-tensorflow with TensorFlow in it (make test-real)"),
]


def oracle(*arguments: object) -> Any:
    done = subprocess.run(
        [PYTHON, ORACLE, *map(str, arguments)],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    answers = [line for line in done.stdout.splitlines() if line.startswith("answer:")]
    assert answers, done.stderr
    return json.loads(answers[0].removeprefix("answer:"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    random = np.random.default_rng(3)
    layers: list[Any] = [
        (random.normal(size=(4, 16)), random.normal(size=16)),
        (random.normal(size=(16, 3)), random.normal(size=3)),
    ]
    return export_mlp(tmp_path / "risk" / "1", layers, feature_names=list("abcd"), class_names=["low", "mid", "high"])


def test_our_messages_and_tensors_are_the_official_ones_even_in_one_process() -> None:
    told = oracle("messages")
    assert told["faults"] == []
    assert told["messages"] > 40
    assert told["tensors"] > 30


def test_tensorflow_loads_our_savedmodel_and_computes_the_same_numbers(model: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(4).normal(size=(200, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    told = oracle("run", model, tmp_path / "x.npy", tmp_path / "out.npz")
    ours, theirs = load(model).run("serving_default", {"x": x})["probabilities"], np.load(tmp_path / "out.npz")
    assert told["classes"] == ["low", "mid", "high"]
    assert np.abs(theirs["probabilities"] - ours).max() < 1e-6
    assert np.abs(theirs["scores"] - ours).max() < 1e-6
    assert np.abs(theirs["outputs"][:, 0] - ours[:, 2]).max() < 1e-6


def test_the_official_client_is_served_by_the_embedded_server(model: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "inference.tfserving.server", "--model", f"risk={model.parent}", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        assert server.stdout is not None
        told = oracle("client", server.stdout.readline().split()[1])
    finally:
        server.terminate()
        server.communicate(timeout=30)
    x = np.array([[1, 2, 3, 4]], np.float32)
    assert (told["version"], told["signatures"]) == (1, ["classify", "regress", "serving_default"])
    assert told["probabilities"] == load(model).run("serving_default", {"x": x})["probabilities"].tolist()


def test_a_model_with_variables_is_refused_and_sent_to_tensorflow_serving(tmp_path: Path) -> None:
    oracle("save", tmp_path / "1")
    with pytest.raises(UnsupportedModel, match="TensorFlow Serving"):
        load(tmp_path / "1")
