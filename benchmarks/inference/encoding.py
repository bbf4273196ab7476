"""What it costs to write one image (1x224x224x3 float32, 602 KB) as a Predict request, and to read such an answer.

    python -m benchmarks.inference encoding

Prints microseconds, the fastest and the median of the rounds, each way beside REST's JSON and, where
``.venv-tensorflow`` is there, the official stubs in the same run.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from inference.tfserving import rest, tensors, wire
from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.signatures import Signature, TensorSpec

IMAGE = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
KNOWN = {"serving_default": Signature("tensorflow/serving/predict", {"x": TensorSpec(1, None)}, {})}
SPEC = wire.ModelSpec(name="vision")


def by_hand() -> bytes:
    return encode_predict("vision", {"x": IMAGE})


def by_message() -> bytes:
    request = wire.PredictRequest()
    request.model_spec.CopyFrom(SPEC)
    tensors.write(IMAGE, request.inputs["x"])
    return bytes(request.SerializeToString())


def by_float_val() -> bytes:
    request = wire.PredictRequest()
    request.model_spec.CopyFrom(SPEC)
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.extend(IMAGE.ravel().tolist())
    return bytes(request.SerializeToString())


def by_json() -> bytes:
    return json.dumps({"inputs": IMAGE.tolist()}).encode()


def answer() -> bytes:
    response = wire.PredictResponse()
    tensors.write(IMAGE, response.outputs["y"])
    return bytes(response.SerializeToString())


def measured(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        times.append((time.perf_counter() - began) * 1e6)
    return min(times), statistics.median(times)


OFFICIAL = """
import json, statistics, time
import numpy as np, tensorflow as tf
from tensorflow_serving.apis import predict_pb2
image = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
def stub(value):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "vision"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(value))
    return request.SerializeToString()
def timed(value, rounds):
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        stub(value)
        times.append((time.perf_counter() - began) * 1e6)
    return min(times), statistics.median(times)
listed = image.tolist()
print(json.dumps({"array": timed(image, 100), "list": timed(listed, 5)}))
"""
TENSORFLOW = Path(__file__).parents[2] / ".venv-tensorflow" / "bin" / "python"


def official() -> dict[str, tuple[float, float]]:
    """The official stubs on the same image, from an array and from lists; {} where they are not installed."""
    if not TENSORFLOW.exists():
        return {}
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    said = subprocess.run([TENSORFLOW, "-c", OFFICIAL], capture_output=True, text=True, check=True, env=environment)
    return {name: (low, middle) for name, (low, middle) in json.loads(said.stdout.splitlines()[-1]).items()}


def main() -> None:
    request, response, document = by_hand(), answer(), by_json()
    spec = wire.ModelSpec(name="vision")
    spec.version.value = 7
    rows: list[tuple[str, Callable[[], object], int]] = [
        ("encode: hand-joined bytes", by_hand, 300),
        ("encode: message, tensor_content", by_message, 300),
        ("encode: message, float_val", by_float_val, 20),
        ("encode: REST JSON", by_json, 10),
        ("forward: read and replace the model spec", lambda: wire.with_spec(request, spec), 300),
        ("decode: Predict answer", lambda: decode_predict(response), 300),
        ("REST door: JSON body to message", lambda: rest.predict_request(SPEC, rest.parse(document), KNOWN), 5),
        ("REST door: answer to JSON", lambda: rest.predict_reply(wire.parse(wire.PredictResponse, response), "row"), 5),
    ]
    print(f"{'µs':44}{'min':>12}{'p50':>12}")
    for name, work, rounds in rows:
        fastest, middle = measured(work, rounds)
        print(f"{name:44}{fastest:12.0f}{middle:12.0f}")
    stubs = official()
    for kind, (fastest, middle) in stubs.items():
        print(f"{f'encode: official stubs, {kind}':44}{fastest:12.0f}{middle:12.0f}")
    if not stubs:
        print("official stubs: no .venv-tensorflow (make test-real makes it)")


if __name__ == "__main__":
    main()
