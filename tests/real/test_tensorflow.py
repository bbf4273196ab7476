"""Real TensorFlow and the official TF Serving stubs, as the judge of our messages, files and server.

They live in a venv of their own (``.venv-tensorflow``), because TensorFlow is no dependency of the product.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from inference.savedmodel import UnsupportedModel, export_mlp, load
from inference.tfserving.launch import MODELS_FILE, LaunchSettings, write_files
from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.served import Served
from inference.tfserving.warmup import FILE
from inference.tfserving.wire import METHODS

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


@contextmanager
def served(base: Path, runtime: str = "numpy") -> Iterator[str]:
    """A server of ours in a process of its own, with TensorFlow in it where the runtime needs it; its address."""
    python = PYTHON if runtime == "tensorflow" else Path(sys.executable)
    command = [python, "-m", "inference.tfserving.server", "--base", base, "--port", "0", "--runtime", runtime]
    server = subprocess.Popen(
        list(map(str, command)),
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        assert server.stdout is not None
        word, _, target = server.stdout.readline().strip().partition(" ")
        assert word == "ready"
        yield target
    finally:
        server.terminate()
        server.communicate(timeout=60)


def flat(value: Any) -> list[float]:
    if isinstance(value, list):
        return [number for each in value for number in flat(each)]
    return [value] if isinstance(value, float) else []


def test_the_official_client_gets_the_same_from_every_rpc_of_both_runtimes(model: Path) -> None:
    """numpy and TensorFlow behind one wire: same names, same codes, and numbers that differ by rounding alone."""
    base, told = model.parent, {}
    for runtime in ("numpy", "tensorflow"):
        with served(base.parent, runtime) as target:
            told[runtime] = oracle("every_rpc", target, base)
    ours, theirs = told["numpy"], told["tensorflow"]
    assert np.abs(np.array(flat(list(ours.values()))) - np.array(flat(list(theirs.values())))).max() < 1e-6
    for answer in told.values():
        assert answer["signatures"] == ["classify", "regress", "serving_default"]
        assert (answer["status"], answer["reload"]) == ([[1, 30]], 0)
        assert answer["together"] == [answer["classify"], answer["regress"]]
        assert answer["answered_by"] == ["classify", "regress"]
        assert [name for name, _ in answer["classify"][0]] == ["low", "mid", "high"]
    x = np.array([[1, 2, 3, 4]], np.float32)
    assert ours["predict"] == load(model).run("serving_default", {"x": x})["probabilities"].tolist()


def test_every_dtype_goes_there_and_back_in_both_encodings(tmp_path: Path) -> None:
    oracle("save_echo", tmp_path / "echo" / "1")
    with served(tmp_path, "tensorflow") as target:
        told = oracle("dtypes", target)
    assert told["faults"] == []
    assert told["sent"] == 16 * 4 * 2


def test_what_numpy_refuses_tensorflow_runs(tmp_path: Path) -> None:
    oracle("save", tmp_path / "linear" / "1")
    with pytest.raises(UnsupportedModel, match="TensorFlow Serving"):
        load(tmp_path / "linear" / "1")
    with served(tmp_path, "tensorflow") as target, grpc.insecure_channel(target) as channel:
        call: Any = channel.unary_unary(METHODS["Predict"].path)
        answer = call(encode_predict("linear", {"x": np.array([[3, 4]], np.float32)}), timeout=30)
        assert decode_predict(answer)["y"].tolist() == [[11.0]]
        with pytest.raises(grpc.RpcError) as caught:
            call(encode_predict("linear", {"x": np.array([[3, 4, 5]], np.float32)}), timeout=30)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_runtime_that_is_not_installed_says_so_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference.tfserving.server", "--base", tmp_path, "--runtime", "tensorflow"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode == 1
    assert told.stderr.startswith("the tensorflow runtime needs TensorFlow in this interpreter")


def test_tensorflow_reads_the_warm_up_that_we_write(tmp_path: Path) -> None:
    rows = np.array([[1, 2], [3, 4]], np.float32)
    layers: list[Any] = [(np.eye(2), np.zeros(2))]
    made = export_mlp(tmp_path / "1", layers, feature_names=["a", "b"], class_names=["n", "y"], warmup_rows=rows)
    told = oracle("warmup", made / FILE)
    assert told == {"kinds": ["predict_log"] * 2, "inputs": [[[1, 2]], [[3, 4]]]}


def test_the_official_message_reads_the_model_file_that_we_write(tmp_path: Path) -> None:
    models = {"risk": Served("/models/risk", (1, 2), {"stable": 1, "canary": 2}), "new": Served("/models/new")}
    write_files(tmp_path, models, LaunchSettings())
    assert oracle("config", tmp_path / MODELS_FILE) == {"risk": {"stable": 1, "canary": 2}, "new": {}}
