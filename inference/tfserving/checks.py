"""Whether a request fits a model's signature, told before the model is asked, in TF Serving's own codes and words.

Reads the heads of the tensors and not their values, so that a large tensor costs no more than a small one. What only
values can tell (an element count that does not fit the shape) is left to the server where it is not in
``tensor_content``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inference.tfserving import tensors, wire
from inference.tfserving.schema import message
from inference.tfserving.signatures import Signature, TensorSpec

PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{name}" for name in ("predict", "classify", "regress"))
WORDS = {CLASSIFY: "classification", REGRESS: "regression"}
METHOD_OF = {"Classify": CLASSIFY, "Regress": REGRESS}
INVALID, PRECONDITION, UNIMPLEMENTED = "invalid_argument", "failed_precondition", "unimplemented"
_Shape = message("tensorflow.TensorShapeProto")


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
    signature = signature_for(wire.spec_of(body).signature_name, signatures)
    heads, outputs = _heads_in(body)
    check_names(signature, heads, outputs)
    for name, head in heads.items():
        check_head(name, head, signature.inputs[name])


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
    for name in names:
        if names.count(name) > 1:
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


def _heads_in(body: bytes) -> tuple[dict[str, Head], list[str]]:
    """Inputs and output filter of a ``PredictRequest``."""
    heads: dict[str, Head] = {}
    outputs: list[str] = []
    for number, value in _values(memoryview(body)):
        if number == 2:  # noqa: PLR2004  inputs, a map entry
            entry = dict(_values(value))
            heads[_text(entry.get(1, b""))] = _head(entry.get(2, memoryview(b"")))
        elif number == 3:  # noqa: PLR2004  output_filter
            outputs.append(_text(value))
    return heads, outputs


def _head(tensor: memoryview) -> Head:
    dtype, shape, content = 0, b"", None
    for number, value in _values(tensor):
        match number:
            case 1:
                dtype = wire.varint_in(value)
            case 2:
                shape += bytes(value)  # a message that comes twice is merged
            case 4:
                content = len(value)
    parsed = wire.parse(_Shape, shape)
    sizes = None if parsed.unknown_rank else tuple(dim.size for dim in parsed.dim)
    return Head(dtype, sizes, content)


def _values(message_bytes: memoryview) -> Iterator[tuple[int, memoryview]]:
    for number, start, _, end in wire.fields(message_bytes):
        yield number, message_bytes[start:end]


def _text(raw: memoryview | bytes) -> str:
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        raise wire.WireError("a name is not valid UTF-8") from None


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
