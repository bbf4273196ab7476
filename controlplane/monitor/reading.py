"""From an observation to what is watched: bytes as they passed the gateway in, numbers out. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.rows import Label, Prediction
from controlplane.monitor.settings import WatchedModel
from controlplane.retraining.scoring import classes_of
from inference.tfserving.tensors import read
from inference.tfserving.wire import PredictRequest, PredictResponse, parse


def decode(request: bytes, reply: bytes, model: WatchedModel) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inputs (n, features) and predicted classes (n,) of one Predict exchange.

    Raises:
        WireError, TensorError, ValueError, KeyError: bytes that do not say what was asked and answered.
    """
    asked, answered = parse(PredictRequest, request).inputs, parse(PredictResponse, reply).outputs
    if model.input not in asked or model.output not in answered:
        raise KeyError(model.input)
    inputs = np.atleast_2d(np.asarray(read(asked[model.input]), np.float64))
    predicted = classes_of(read(answered[model.output]))
    if inputs.shape != (len(predicted), len(model.feature_names)):
        raise ValueError(f"inputs of shape {inputs.shape} for {len(predicted)} answers")
    return inputs, predicted


def prediction_from(observation: Mapping[str, Any], model: WatchedModel) -> Prediction:
    request, reply = base64.b64decode(observation["request"]), base64.b64decode(observation["reply"])
    inputs, predicted = decode(request, reply, model)
    return Prediction(
        call_id=str(observation["call_id"]),
        at_ms=int(observation["at_ms"]),
        model=model.name,
        version=int(observation["version"]),
        principal=str(observation["principal"]),
        rung=str(observation["rung"]),
        inputs=inputs,
        predicted=predicted,
    )


def label_from(observation: Mapping[str, Any]) -> Label:
    return Label(call_id=str(observation["call_id"]), row=int(observation["row"]), label=int(observation["label"]))
