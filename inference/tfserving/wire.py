"""The messages and methods of TF Serving's gRPC wire, and the model spec inside a serialized request.

Requests are forwarded as bytes: only the model spec is read and rewritten, by walking the top-level fields, so a
large tensor is copied once and never parsed on the way through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from google.protobuf.message import DecodeError

from inference.tfserving.schema import message

_SERVING = "tensorflow.serving."
PREDICTION_SERVICE = _SERVING + "PredictionService"
MODEL_SERVICE = _SERVING + "ModelService"
RELOAD = "HandleReloadConfigRequest"
SIGNATURE_DEF = "signature_def"
DEFAULT_SIGNATURE = "serving_default"

ModelSpec = message(_SERVING + "ModelSpec")
PredictRequest, PredictResponse = message(_SERVING + "PredictRequest"), message(_SERVING + "PredictResponse")
ClassificationRequest = message(_SERVING + "ClassificationRequest")
ClassificationResponse = message(_SERVING + "ClassificationResponse")
RegressionRequest, RegressionResponse = (
    message(_SERVING + "RegressionRequest"),
    message(_SERVING + "RegressionResponse"),
)
GetModelMetadataRequest = message(_SERVING + "GetModelMetadataRequest")
GetModelMetadataResponse = message(_SERVING + "GetModelMetadataResponse")
SignatureDefMap = message(_SERVING + "SignatureDefMap")
GetModelStatusRequest = message(_SERVING + "GetModelStatusRequest")
GetModelStatusResponse = message(_SERVING + "GetModelStatusResponse")
ReloadConfigRequest, ReloadConfigResponse = (
    message(_SERVING + "ReloadConfigRequest"),
    message(_SERVING + "ReloadConfigResponse"),
)


class WireError(ValueError):
    """Bytes that are not the message they should be."""


class State(IntEnum):
    """``ModelVersionStatus.State``."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC. ``reply_spec`` is the number of the reply's model spec field, 0 where it has none."""

    service: str
    name: str
    request: Any
    response: Any
    reply_spec: int = 0

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(PREDICTION_SERVICE, "Predict", PredictRequest, PredictResponse, 2),
        Method(PREDICTION_SERVICE, "Classify", ClassificationRequest, ClassificationResponse, 2),
        Method(PREDICTION_SERVICE, "Regress", RegressionRequest, RegressionResponse, 2),
        Method(PREDICTION_SERVICE, "GetModelMetadata", GetModelMetadataRequest, GetModelMetadataResponse, 1),
        Method(MODEL_SERVICE, "GetModelStatus", GetModelStatusRequest, GetModelStatusResponse),
        Method(MODEL_SERVICE, RELOAD, ReloadConfigRequest, ReloadConfigResponse),
    )
}
REQUEST_SPEC = 1  # every request but a reload keeps its model spec in field 1


def parse(kind: Any, body: bytes) -> Any:
    """``body`` as a message of ``kind``. Raises ``WireError``."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise WireError(f"not a {kind.DESCRIPTOR.full_name}: {error}") from None


def version_of(spec: Any) -> int | None:
    """The version a spec asks for; None for "whatever is served".

    0 counts as unset: real clients send ``version {}`` and mean the latest, and no version directory is named 0.
    """
    return (spec.version.value or None) if spec.WhichOneof("version_choice") == "version" else None


def label_of(spec: Any) -> str | None:
    return spec.version_label or None


def spec_of(body: bytes, field: int = REQUEST_SPEC) -> Any:
    """The model spec of a serialized message, read without parsing the rest. Raises ``WireError``."""
    spec = ModelSpec()
    for number, start, _, end in _fields(body):
        if number == field:
            _merge(spec, body[start:end])
    return spec


def with_spec(body: bytes, spec: Any) -> bytes:
    """``body`` with its model spec replaced by ``spec``; every other byte as it was. Raises ``WireError``."""
    raw = spec.SerializeToString()
    parts = [bytes([REQUEST_SPEC << 3 | 2]), varint(len(raw)), raw]
    parts += [body[begin:end] for number, _, begin, end in _fields(body) if number != REQUEST_SPEC]
    return b"".join(parts)


def _merge(spec: Any, raw: bytes) -> None:
    try:
        spec.MergeFromString(raw)  # a field that comes twice is merged, as every protobuf parser does
    except DecodeError as error:
        raise WireError(f"not a ModelSpec: {error}") from None


def _fields(body: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the value, start of the tag, end) of each top-level field."""
    at = 0
    while at < len(body):
        begin = at
        tag, at = _read_varint(body, at)
        start, at = _skip(body, at, tag & 7)
        if at > len(body) or tag >> 3 == 0:
            raise WireError("truncated or malformed message")
        yield tag >> 3, start, begin, at


def _skip(body: bytes, at: int, wire_type: int) -> tuple[int, int]:
    match wire_type:
        case 0:
            return at, _read_varint(body, at)[1]
        case 1:
            return at, at + 8
        case 2:
            length, at = _read_varint(body, at)
            return at, at + length
        case 5:
            return at, at + 4
        case _:
            raise WireError(f"wire type {wire_type} is not used by these messages")


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(body):
            raise WireError("truncated message")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004  the continuation bit
            return value, at
    raise WireError("a varint of more than ten bytes")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
