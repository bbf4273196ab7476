"""Whether a request fits a model's signature, told before the model is asked, in TF Serving's own codes and words.

Reads the heads of the tensors and not their values. What only values can tell (an element count that does not fit the
shape) is left to the server where it is not in ``tensor_content``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from inference.tfserving import tensors, wire
from inference.tfserving.signatures import Signature, TensorSpec

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))
WORDS = {CLASSIFY: "classification", REGRESS: "regression"}
METHOD_OF = {"Classify": CLASSIFY, "Regress": REGRESS}
INVALID, PRECONDITION, UNIMPLEMENTED = "invalid_argument", "failed_precondition", "unimplemented"


class Misfit(ValueError):
    """The request does not fit; ``reason`` is the gRPC code as a word, the message TF Serving's."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Head:
    """A tensor without its values. ``shape`` is None for an unknown rank, ``content_bytes`` where values are apart."""

    dtype: int
    shape: tuple[int, ...] | None
    content_bytes: int | None = None


def check_request(operation: str, body: bytes, signatures: Mapping[str, Signature]) -> None:
    """Raises ``Misfit`` or ``WireError``. Operations that ask about a model fit always."""
    match operation:
        case "Predict":
            _check_predict(body, signatures)
        case "Classify" | "Regress":
            check_examples(wire.spec_of(body).signature_name, METHOD_OF[operation], signatures)
        case "MultiInference":
            check_tasks(wire.parse(wire.MultiInferenceRequest, body).tasks, signatures)


def _check_predict(body: bytes, signatures: Mapping[str, Signature]) -> None:
    request = wire.parse(wire.PredictRequest, body)
    signature = signature_for(request.model_spec.signature_name, signatures)
    check_names(signature, request.inputs, request.output_filter)
    for name, tensor in request.inputs.items():
        check_head(name, head_of(tensor, len(tensor.tensor_content)), signature.inputs[name])


def signature_for(name: str, signatures: Mapping[str, Signature]) -> Signature:
    key = name or wire.DEFAULT_SIGNATURE
    if key not in signatures:
        raise Misfit(PRECONDITION, f'Serving signature key "{key}" not found.')
    return signatures[key]


def check_names(signature: Signature, inputs: Collection[str], outputs: Iterable[str]) -> None:
    sent, wanted = set(inputs), set(signature.inputs)
    if sent != wanted:
        raise Misfit(
            INVALID,
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(sent - wanted)}. Missing but required: {_set(wanted - sent)}.",
        )
    for name in outputs:
        if name not in signature.outputs:
            raise Misfit(
                INVALID,
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_set(signature.outputs)}.",
            )


def head_of(tensor: Any, content_bytes: int | None = None) -> Head:
    """Of a ``TensorProto``."""
    shape = tensor.tensor_shape
    return Head(tensor.dtype, None if shape.unknown_rank else tuple([dim.size for dim in shape.dim]), content_bytes)


def check_head(name: str, head: Head, wanted: TensorSpec) -> None:
    if head.dtype != wanted.dtype:
        expected, was = (tensors.NAMES.get(code, "invalid") for code in (wanted.dtype, head.dtype))
        raise Misfit(INVALID, f"Expects arg[{name}] to be {expected} but {was} is provided")
    if head.shape is None or any(size < 0 for size in head.shape):
        raise Misfit(INVALID, f"tensor parsing error: {name}: a tensor with values needs a known shape")
    if wanted.shape is not None and not _fits(head.shape, wanted.shape):
        raise Misfit(INVALID, f"input {name} has shape {list(head.shape)}, the signature says {list(wanted.shape)}")
    if head.content_bytes:
        _check_content(name, head, math.prod(head.shape))


def _check_content(name: str, head: Head, elements: int) -> None:
    size = tensors.size_of(head.dtype)
    if size is not None and head.content_bytes != elements * size:
        raise Misfit(
            INVALID,
            f"tensor parsing error: {name}: tensor_content has {head.content_bytes} bytes, shape "
            f"{list(head.shape or ())} of {tensors.NAMES[head.dtype]} needs {elements * size}",
        )


def check_examples(name: str, method: str, signatures: Mapping[str, Signature]) -> Signature:
    key = name or wire.DEFAULT_SIGNATURE
    if key not in signatures:
        raise Misfit(INVALID, f"No signature was found with the name: {key}")
    signature = signatures[key]
    if signature.method != method:
        raise Misfit(INVALID, f"Expected {WORDS[method]} signature method_name to be {method}. Was: {signature.method}")
    return signature


def check_tasks(tasks: Collection[Any], signatures: Mapping[str, Signature]) -> None:
    """The tasks of a ``MultiInferenceRequest``: one model, each signature once, all over the same input."""
    check_one_model(tasks)
    names = [task.model_spec.signature_name or wire.DEFAULT_SIGNATURE for task in tasks]
    for name, times in Counter(names).items():
        if times > 1:
            raise Misfit(INVALID, f"Duplicate evaluation of signature: {name}")
    inputs = set()
    for name, task in zip(names, tasks, strict=True):
        if task.method_name not in WORDS:
            raise Misfit(UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        inputs |= set(check_examples(name, task.method_name, signatures).inputs)
    if len(inputs) > 1:
        raise Misfit(INVALID, "Input tensor must be the same for all Signatures.")


def check_one_model(tasks: Collection[Any]) -> None:
    """Whether the tasks mean one version of one model; policy and ledger know one resource a call."""
    if not tasks or any(not task.model_spec.name for task in tasks):
        raise Misfit(INVALID, "Found ModelSpec with an empty model name.")
    if len({task.model_spec.name for task in tasks}) > 1:
        raise Misfit(INVALID, "All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    if len({(wire.version_of(task.model_spec), wire.label_of(task.model_spec)) for task in tasks}) > 1:
        raise Misfit(INVALID, "All ModelSpecs in a MultiInferenceRequest must ask for the same version.")


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (-1, have) for want, have in zip(wanted, shape, strict=True))


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
