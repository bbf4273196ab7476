"""TF Serving's REST bodies ↔ its messages, so that behind the door there is one wire only.

Numbers are written exactly: a float32 as the decimal of its double value, ``NaN`` and ``Infinity`` as those bare words,
in and out, as TF Serving does although JSON has no such words. Bytes are ``{"b64": "…"}``; in answers for outputs whose
name ends in ``_bytes``, and for text that is not UTF-8.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import grpc
import numpy as np

from inference.tfserving import tensors, wire
from inference.tfserving.signatures import Signature
from inference.tfserving.tensors import Array

ROW, COLUMNS = "row", "columns"
_NUMBERS, _TEXT = frozenset({int, float}), frozenset({str, dict})
UNNAMED = "inputs"
"""The name of a nameless input as long as nobody can say which input the model has."""

_STATUS = {code.value[0]: code.name for code in grpc.StatusCode}


class RestError(ValueError):
    """A body that says nothing the wire could carry; the message is for the caller."""


def parse(body: bytes) -> dict[str, Any]:
    """Raises ``RestError``."""
    try:
        text = body.decode()
        document = json.loads(text)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()  # fails for lone surrogates, which no message can carry
    except UnicodeEncodeError:
        raise RestError("JSON Parse error: a string is not valid Unicode") from None
    except (ValueError, RecursionError) as error:
        raise RestError(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise RestError("Expected JSON object at the top")
    return document


def layout_of(document: Mapping[str, Any]) -> str:
    """``row`` for ``instances``, ``columns`` for ``inputs``. Raises ``RestError`` unless there is exactly one."""
    if ("instances" in document) == ("inputs" in document):
        raise RestError("Missing 'inputs' or 'instances' key, or both of them")
    return ROW if "instances" in document else COLUMNS


def predict_request(spec: Any, document: Mapping[str, Any], signatures: Mapping[str, Signature] | None) -> Any:
    """A ``PredictRequest``. What signatures cannot tell is left to the server to refuse. Raises ``RestError``."""
    _name_signature(spec, document)
    known = (signatures or {}).get(spec.signature_name or wire.DEFAULT_SIGNATURE)
    columns = _rows(document["instances"], known) if layout_of(document) == ROW else _columns(document["inputs"], known)
    request = wire.PredictRequest()
    request.model_spec.CopyFrom(spec)
    for name, values in columns.items():
        dtype = known.inputs[name].dtype if known is not None and name in known.inputs else None
        try:
            tensors.write(_array(values, dtype), request.inputs[name])
        except (RestError, tensors.TensorError) as error:
            raise RestError(f"input {name}: {error}") from None
    return request


def _name_signature(spec: Any, document: Mapping[str, Any]) -> None:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise RestError("'signature_name' must be a string value")
    spec.signature_name = name


def _rows(instances: Any, known: Signature | None) -> dict[str, Any]:
    if not isinstance(instances, list) or not instances:
        raise RestError("'instances' must be a list of at least one value")
    if not _is_named(instances[0]):
        return {_only_input(known, "'instances' is a plain list"): instances}
    names = instances[0].keys()
    if any(not _is_named(row) or row.keys() != names for row in instances):
        raise RestError("'instances' must be objects with the same keys")
    return {name: [row[name] for row in instances] for name in names}


def _columns(inputs: Any, known: Signature | None) -> dict[str, Any]:
    return dict(inputs) if _is_named(inputs) else {_only_input(known, "'inputs' is a plain value or list"): inputs}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() != {"b64"}


def _only_input(known: Signature | None, what: str) -> str:
    if known is None:
        return UNNAMED
    if len(known.inputs) != 1:
        raise RestError(f"{what}, but the signature has several inputs: {', '.join(sorted(known.inputs))}")
    return next(iter(known.inputs))


def _array(value: Any, code: int | None) -> Array:
    flat, shape = _flat(value)
    kinds = set(map(type, flat))
    dtype = _guess(kinds) if code is None else tensors.dtype_for(code)
    allowed = {"f": _NUMBERS, "i": {int}, "u": {int}, "b": {bool}, "O": _TEXT}.get(dtype.kind)
    if allowed is None:
        raise RestError(f"{tensors.NAMES.get(code or 0, 'this dtype')} cannot be written in JSON")
    if not kinds <= allowed:
        wrong = ", ".join(sorted(kind.__name__ for kind in kinds - allowed))
        raise RestError(f"{wrong} is not of expected type: {tensors.NAMES[tensors.code_for(dtype)]}")
    if dtype.kind == "O":
        flat = [_bytes(text) for text in flat]
    try:
        with np.errstate(over="ignore"):  # beyond float32 is Infinity, as everywhere in TensorFlow
            return np.array(flat, dtype).reshape(shape)
    except OverflowError:
        raise RestError(f"a number is out of range for {tensors.NAMES[tensors.code_for(dtype)]}") from None


def _flat(value: Any) -> tuple[list[Any], tuple[int, ...]]:
    """The values in row order and the shape of the nested lists. Raises ``RestError`` when they are ragged."""
    level, shape = [value], []
    while level and isinstance(level[0], list):
        size = len(level[0])
        if any(not isinstance(one, list) or len(one) != size for one in level):
            raise RestError("nested lists have different lengths; a tensor is rectangular")
        shape.append(size)
        if len(shape) > tensors.MAX_RANK:
            raise RestError(f"lists are nested deeper than {tensors.MAX_RANK} times")
        level = list(chain.from_iterable(level))
    return level, tuple(shape)


def _guess(kinds: set[type]) -> np.dtype[Any]:
    if kinds and kinds <= _TEXT:
        return np.dtype(object)
    return np.dtype(bool) if kinds == {bool} else np.dtype(np.float32)


def _bytes(text: str | dict[str, Any]) -> bytes:
    if isinstance(text, str):
        try:
            return text.encode()
        except UnicodeEncodeError:
            raise RestError("a string is not valid Unicode") from None
    encoded = text.get("b64")
    if text.keys() != {"b64"} or not isinstance(encoded, str):
        raise RestError('an object in a tensor must be {"b64": "…"}')
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RestError("invalid base64") from None


def examples_request(kind: Any, spec: Any, document: Mapping[str, Any]) -> Any:
    """A ``ClassificationRequest`` or ``RegressionRequest`` (``kind``). Raises ``RestError``."""
    _name_signature(spec, document)
    request = kind()
    request.model_spec.CopyFrom(spec)
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise RestError("'examples' must be a list of at least one object")
    if "context" in document:
        into = request.input.example_list_with_context
        _fill_example(into.context, document["context"])
    else:
        into = request.input.example_list
    for example in examples:
        _fill_example(into.examples.add(), example)
    return request


def _fill_example(example: Any, features: Any) -> None:
    if not isinstance(features, dict):
        raise RestError("an example must be an object of features")
    for name, value in features.items():
        try:
            _fill_feature(example.features.feature[name], value if isinstance(value, list) else [value])
        except (RestError, ValueError, OverflowError) as error:
            raise RestError(f"feature {name}: {error}") from None


def _fill_feature(feature: Any, values: list[Any]) -> None:
    kinds = set(map(type, values))
    if kinds == {int}:
        feature.int64_list.value.extend(values)
    elif kinds <= _NUMBERS:
        feature.float_list.value.extend(values)
    elif kinds <= _TEXT:
        feature.bytes_list.value.extend(map(_bytes, values))
    else:
        raise RestError("values must all be numbers or all be strings")


def predict_reply(response: Any, layout: str) -> bytes:
    """Raises ``RestError`` when rows were asked for and the outputs have none, ``TensorError`` for unreadable ones."""
    arrays = tensors.read_all(response.outputs)
    if layout == ROW and len({array.shape[:1] for array in arrays.values()} | {()}) != 2:  # noqa: PLR2004  one and ()
        raise RestError(
            "outputs differ in their first dimension or have none; ask with 'inputs' instead of 'instances'"
        )
    values = {name: _values(name, array) for name, array in arrays.items()}
    if layout == COLUMNS:
        return _dump({"outputs": next(iter(values.values())) if len(values) == 1 else values})
    if len(values) == 1:
        return _dump({"predictions": next(iter(values.values()))})
    return _dump({"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]})


def _values(name: str, array: Array) -> Any:
    if array.dtype.kind == "c":
        raise RestError(f"output {name} is complex and cannot be written in JSON")
    if array.dtype.kind != "O":
        return array.tolist()
    texts = np.empty(array.size, object)
    texts[:] = [_text(raw, name.endswith("_bytes")) for raw in array.ravel()]
    return texts.reshape(array.shape).tolist()


def _text(raw: bytes, as_base64: bool) -> str | dict[str, str]:
    if not as_base64:
        try:
            return raw.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(raw).decode()}


def classify_reply(response: Any) -> bytes:
    rows = response.result.classifications
    return _dump({"results": [[[one.label, one.score] for one in row.classes] for row in rows]})


def regress_reply(response: Any) -> bytes:
    return _dump({"results": [one.value for one in response.result.regressions]})


def status_reply(response: Any) -> bytes:
    return _dump(
        {
            "model_version_status": [
                {
                    "version": str(one.version),  # JSON of a 64-bit integer is a string (protobuf's JSON mapping)
                    "state": wire.State(one.state).name if one.state in set(wire.State) else "UNKNOWN",
                    "status": {
                        "error_code": _STATUS.get(one.status.error_code, "UNKNOWN"),
                        "error_message": one.status.error_message,
                    },
                }
                for one in response.model_version_status
            ]
        }
    )


def metadata_reply(response: Any) -> bytes:
    """Raises ``WireError``."""
    spec = response.model_spec
    packed = wire.parse(wire.SignatureDefMap, response.metadata[wire.SIGNATURE_DEF].value).signature_def
    signatures = {
        name: {
            "inputs": {alias: _info(info) for alias, info in one.inputs.items()},
            "outputs": {alias: _info(info) for alias, info in one.outputs.items()},
            "method_name": one.method_name,
        }
        for name, one in packed.items()
    }
    return _dump(
        {
            "model_spec": {
                "name": spec.name,
                "signature_name": spec.signature_name,
                "version": str(spec.version.value),
            },
            "metadata": {wire.SIGNATURE_DEF: {"signature_def": signatures}},
        }
    )


def _info(info: Any) -> dict[str, Any]:
    name = tensors.NAMES.get(info.dtype, "invalid")
    return {
        "dtype": f"DT_{name.upper()}",
        "tensor_shape": {
            "dim": [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim],
            "unknown_rank": info.tensor_shape.unknown_rank,
        },
        "name": info.name,
    }


def _dump(document: Any) -> bytes:
    return json.dumps(document).encode()


REPLIES: Mapping[str, Callable[[Any], bytes]] = {
    "Classify": classify_reply,
    "Regress": regress_reply,
    "GetModelStatus": status_reply,
    "GetModelMetadata": metadata_reply,
}
