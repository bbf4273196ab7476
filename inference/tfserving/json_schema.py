"""A signature as JSON Schema (draft 2020-12), so that a language model can fill it in.

A tensor is nested lists, a scalar a plain value. A known dimension fixes the length of its list; an open one (-1,
mostly the batch) leaves it free. Of an unknown rank nothing can be said but the kind of its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inference.tfserving import tensors
from inference.tfserving.signatures import Signature, TensorSpec

PREDICT = "tensorflow/serving/predict"
_TYPES = {"f": "number", "i": "integer", "u": "integer", "b": "boolean", "O": "string"}


def predict_signatures(signatures: Mapping[str, Signature]) -> dict[str, Signature]:
    """Those that a Predict may name and whose inputs JSON can write. TensorFlow's own bookkeeping is none of them."""
    return {
        name: one
        for name, one in sorted(signatures.items())
        if one.method == PREDICT and one.inputs and all(_kind(spec) in _TYPES for spec in one.inputs.values())
    }


def arguments_schema(signature: Signature) -> dict[str, Any]:
    """An object with one property for each input, all of them required."""
    return {
        "type": "object",
        "properties": {name: tensor_schema(spec) for name, spec in sorted(signature.inputs.items())},
        "required": sorted(signature.inputs),
        "additionalProperties": False,
    }


def tensor_schema(spec: TensorSpec) -> dict[str, Any]:
    value: dict[str, Any] = {"type": _TYPES[_kind(spec)]}
    if spec.shape is None:
        return {"description": f"{tensors.NAMES[spec.dtype]} tensor of any rank"}
    schema = value
    for size in reversed(spec.shape):
        schema = {"type": "array", "items": schema}
        if size >= 0:
            schema |= {"minItems": size, "maxItems": size}
    return schema | {"description": f"{tensors.NAMES[spec.dtype]} tensor, shape {_shape(spec.shape)}"}


def _kind(spec: TensorSpec) -> str:
    try:
        return tensors.dtype_for(spec.dtype).kind
    except (tensors.TensorError, KeyError):
        return ""


def _shape(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join("any" if size < 0 else str(size) for size in shape) + "]"
