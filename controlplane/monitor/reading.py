"""From an observation to what is watched: bytes as they passed the gateway in, numbers out. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.observed import Label
from controlplane.drift.rows import CopiedCall, Prediction
from controlplane.monitor.settings import WatchedModel
from controlplane.retraining.scoring import classes_of
from inference.tfserving.tensors import TensorError, read
from inference.tfserving.wire import PredictRequest, PredictResponse, WireError, parse

MICRO = 1_000_000

Decoded = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]


def decode(request: bytes, reply: bytes, model: WatchedModel) -> Decoded:
    """Inputs (n, features), predicted classes (n,) and the probability of each (n,) of one Predict exchange.

    Raises:
        WireError, TensorError, ValueError, KeyError: bytes that do not say what was asked and answered.
    """
    asked, answered = parse(PredictRequest, request).inputs, parse(PredictResponse, reply).outputs
    if model.input not in asked or model.output not in answered:
        raise KeyError(model.input)
    inputs = np.atleast_2d(np.asarray(read(asked[model.input]), np.float64))
    answer = read(answered[model.output])
    predicted = classes_of(answer)
    if inputs.shape != (len(predicted), len(model.feature_names)):
        raise ValueError(f"inputs of shape {inputs.shape} for {len(predicted)} answers")
    return inputs, predicted, confidence_of(answer)


def confidence_of(answer: NDArray[Any]) -> NDArray[np.float64] | None:
    """(n,) the probability of what ``classes_of`` says; None for an answer that is integer classes."""
    if answer.dtype.kind != "f":
        return None
    flat = answer.reshape(len(answer), -1).astype(np.float64)
    return np.maximum(flat[:, 0], 1 - flat[:, 0]) if flat.shape[1] == 1 else flat.max(axis=1)


def call_signals(observation: Mapping[str, Any]) -> dict[str, float]:
    """What else an answered call shows. An answer from a lower rung says nothing of the model's own time."""
    said = {"timeout": 0.0, "schema": 0.0}
    if "latency_us" in observation:
        said["latency"] = observation["latency_us"] / MICRO
    if observation.get("micro_usd"):
        said["cost"] = observation["micro_usd"] / MICRO
    return said


def _bytes(said: bytes | str) -> bytes:
    return said if isinstance(said, bytes) else base64.b64decode(said)


def prediction_from(observation: Mapping[str, Any], model: WatchedModel) -> Prediction:
    request, reply = _bytes(observation["request"]), _bytes(observation["reply"])
    inputs, predicted, confidence = decode(request, reply, model)
    return Prediction(
        call_id=str(observation["call_id"]),
        at_ms=int(observation["at_ms"]),
        model=model.name,
        version=int(observation["version"]),
        principal=str(observation["principal"]),
        rung=str(observation["rung"]),
        inputs=inputs,
        predicted=predicted,
        confidence=confidence,
    )


def copy_from(observation: Mapping[str, Any], model: WatchedModel) -> CopiedCall:
    """An answer that cannot be understood is none."""
    inputs, predicted, failed = np.empty((0, 0)), np.empty(0, np.int64), str(observation["failed"])
    if not failed:
        try:
            inputs, predicted, _ = decode(_bytes(observation["request"]), _bytes(observation["reply"]), model)
        except (WireError, TensorError, ValueError, KeyError):
            failed = "not_understood"
    return CopiedCall(
        call_id=str(observation["call_id"]),
        model=model.name,
        version=int(observation["version"]),
        latency_us=int(observation["latency_us"]),
        failed=failed,
        inputs=inputs,
        predicted=predicted,
    )


def label_from(observation: Mapping[str, Any]) -> Label:
    return Label(call_id=str(observation["call_id"]), row=int(observation["row"]), label=int(observation["label"]))
