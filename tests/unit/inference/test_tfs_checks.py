"""Requests against signatures: what does not fit is told before any server is asked, in TF Serving's words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference.tfserving import tensors, wire
from inference.tfserving.checks import CLASSIFY, PREDICT, REGRESS, Misfit, check_request
from inference.tfserving.predict import encode_predict
from inference.tfserving.signatures import Signature, TensorSpec

EXAMPLES = {"inputs": TensorSpec(7, (-1,))}
SIGNATURES = {
    "serving_default": Signature(
        PREDICT, {"x": TensorSpec(1, (-1, 2)), "ids": TensorSpec(7, None)}, {"y": TensorSpec(1, (-1, 3))}
    ),
    "classify": Signature(CLASSIFY, EXAMPLES, {"scores": TensorSpec(1, None)}),
    "regress": Signature(REGRESS, EXAMPLES, {"outputs": TensorSpec(1, None)}),
    "other": Signature(REGRESS, {"tokens": TensorSpec(7, (-1,))}, {"outputs": TensorSpec(1, None)}),
}
X, IDS = np.ones((4, 2), np.float32), np.array([b"a", b"b"], object)


def predict(x: Any = X, **more: Any) -> bytes:
    return encode_predict("risk", {"x": np.asarray(x), "ids": IDS}, **more)


def as_values(x: Any, dtype: int = 1) -> bytes:
    """The same request with ``float_val``, as TensorFlow's own ``make_tensor_proto`` may write it."""
    request = wire.PredictRequest.FromString(predict())
    tensor = request.inputs["x"]
    tensor.Clear()
    tensor.dtype = dtype
    for size in np.shape(x):
        tensor.tensor_shape.dim.add().size = size
    tensor.float_val.extend(np.ravel(x).tolist())
    return bytes(request.SerializeToString())


def changed(**fields: Any) -> bytes:
    request = wire.PredictRequest.FromString(predict())
    for name, value in fields.items():
        getattr(request, name).extend(value)
    return bytes(request.SerializeToString())


@pytest.mark.parametrize(
    "body", [predict(), predict(np.ones((0, 2), np.float32)), as_values(X), changed(output_filter=["y"])]
)
def test_what_fits_passes_in_both_encodings(body: bytes) -> None:
    check_request("Predict", body, SIGNATURES)


def without(name: str) -> bytes:
    request = wire.PredictRequest.FromString(predict())
    del request.inputs[name]
    return bytes(request.SerializeToString())


def extra() -> bytes:
    request = wire.PredictRequest.FromString(predict())
    tensors.write(X, request.inputs["z"])
    return bytes(request.SerializeToString())


def content(raw: bytes) -> bytes:
    request = wire.PredictRequest.FromString(predict())
    request.inputs["x"].tensor_content = raw
    return bytes(request.SerializeToString())


def unknown_rank() -> bytes:
    request = wire.PredictRequest.FromString(predict())
    request.inputs["x"].tensor_shape.unknown_rank = True
    return bytes(request.SerializeToString())


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        (predict(X.astype("f8")), "invalid_argument", "Expects arg[x] to be float but double is provided"),
        (as_values(X, dtype=3), "invalid_argument", "Expects arg[x] to be float but int32 is provided"),
        (as_values(X, dtype=999), "invalid_argument", "but invalid is provided"),
        (predict(np.ones((4, 3), "f4")), "invalid_argument", "shape [4, 3], the signature says [-1, 2]"),
        (predict(np.ones(2, "f4")), "invalid_argument", "shape [2], the signature says [-1, 2]"),
        (predict(np.float32(1)), "invalid_argument", "shape [], the signature says [-1, 2]"),
        (as_values(np.ones((1, 3))), "invalid_argument", "shape [1, 3]"),
        (unknown_rank(), "invalid_argument", "needs a known shape"),
        (content(b"\0" * 31), "invalid_argument", "tensor_content has 31 bytes, shape [4, 2] of float needs 32"),
        (without("x"), "invalid_argument", "Missing but required: {x}."),
        (extra(), "invalid_argument", "Sent extra: {z}."),
        (changed(output_filter=["q"]), "invalid_argument", "output tensor alias not found in signature: q"),
        (predict(signature="nope"), "failed_precondition", 'Serving signature key "nope" not found.'),
    ],
)
def test_what_does_not_fit_is_told(body: bytes, reason: str, words: str) -> None:
    with pytest.raises(Misfit) as caught:
        check_request("Predict", body, SIGNATURES)
    assert caught.value.reason == reason
    assert words in caught.value.detail


def test_a_tensor_that_comes_twice_counts_as_the_server_will_read_it() -> None:
    """A map entry wins over an earlier one of the same key; what is checked must be what is run."""
    second = wire.PredictRequest()
    tensors.write(X.astype("f8"), second.inputs["x"])
    with pytest.raises(Misfit, match="double"):
        check_request("Predict", predict() + second.SerializeToString(), SIGNATURES)


@pytest.mark.parametrize("body", [b"\x12\x02\x0a\x7f", b"\x12\x05\x12\x03\x12\x01\xff", b"\x12\x04\x0a\x02\xff\xfe"])
def test_what_is_no_message_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises((wire.WireError, Misfit)):
        check_request("Predict", body, SIGNATURES)


def examples(kind: Any, signature: str) -> bytes:
    request = kind()
    request.model_spec.name, request.model_spec.signature_name = "risk", signature
    return bytes(request.SerializeToString())


def test_examples_need_a_signature_of_their_kind() -> None:
    check_request("Classify", examples(wire.ClassificationRequest, "classify"), SIGNATURES)
    check_request("Regress", examples(wire.RegressionRequest, "regress"), SIGNATURES)
    with pytest.raises(Misfit, match="Expected classification signature method_name to be"):
        check_request("Classify", examples(wire.ClassificationRequest, "regress"), SIGNATURES)
    with pytest.raises(Misfit, match="No signature was found with the name: zz"):
        check_request("Regress", examples(wire.RegressionRequest, "zz"), SIGNATURES)


def multi(*tasks: tuple[str, str]) -> bytes:
    request = wire.MultiInferenceRequest()
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = "risk", signature
    return bytes(request.SerializeToString())


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([("classify", CLASSIFY), ("classify", CLASSIFY)], "Duplicate evaluation of signature: classify"),
        ([("classify", PREDICT)], "Unsupported signature method_name"),
        ([("classify", CLASSIFY), ("other", REGRESS)], "Input tensor must be the same for all Signatures."),
        ([("classify", REGRESS)], "Expected regression signature"),
    ],
)
def test_tasks_that_do_not_go_together_are_told(tasks: list[tuple[str, str]], words: str) -> None:
    check_request("MultiInference", multi(("classify", CLASSIFY), ("regress", REGRESS)), SIGNATURES)
    with pytest.raises(Misfit, match=words):
        check_request("MultiInference", multi(*tasks), SIGNATURES)


def test_questions_about_a_model_fit_always() -> None:
    check_request("GetModelStatus", b"", {})
    check_request("GetModelMetadata", b"", {})
