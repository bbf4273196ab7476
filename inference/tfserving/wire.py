"""The messages and methods of TF Serving's gRPC wire, and the model spec inside a serialized request.

Requests are forwarded as bytes: only the model spec is read and rewritten, by walking the top-level fields, so a
large tensor is copied once and never parsed on the way through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
MultiInferenceRequest = message(_SERVING + "MultiInferenceRequest")
MultiInferenceResponse = message(_SERVING + "MultiInferenceResponse")
PredictionLog = message(_SERVING + "PredictionLog")
SignatureDefMap = message(_SERVING + "SignatureDefMap")
GetModelStatusRequest = message(_SERVING + "GetModelStatusRequest")
GetModelStatusResponse = message(_SERVING + "GetModelStatusResponse")
ModelServerConfig = message(_SERVING + "ModelServerConfig")
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
    """One RPC. ``reply_spec`` is the number of the reply's model spec field, 0 where it has none.

    Where ``is_nested``, field 1 of the request and ``reply_spec`` of the reply are repeated messages (tasks, results),
    and each of them has a model spec in its own field 1.
    """

    service: str
    name: str
    request: Any
    response: Any
    reply_spec: int = 0
    is_nested: bool = False

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(PREDICTION_SERVICE, "Predict", PredictRequest, PredictResponse, 2),
        Method(PREDICTION_SERVICE, "Classify", ClassificationRequest, ClassificationResponse, 2),
        Method(PREDICTION_SERVICE, "Regress", RegressionRequest, RegressionResponse, 2),
        Method(PREDICTION_SERVICE, "MultiInference", MultiInferenceRequest, MultiInferenceResponse, 1, is_nested=True),
        Method(PREDICTION_SERVICE, "GetModelMetadata", GetModelMetadataRequest, GetModelMetadataResponse, 1),
        Method(MODEL_SERVICE, "GetModelStatus", GetModelStatusRequest, GetModelStatusResponse),
        Method(MODEL_SERVICE, RELOAD, ReloadConfigRequest, ReloadConfigResponse),
    )
}
MOST_FIELDS = 10_000
"""Of one message. Four megabytes of two-byte fields would keep everybody else waiting for seconds."""

LONGEST_DETAIL_BYTES = 2_000

REQUEST_SPEC = 1  # every request but a reload keeps its model spec in field 1, or in field 1 of each of its tasks


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
    for number, start, _, end in fields(body):
        if number == field:
            _merge(spec, body[start:end])
    return spec


def with_spec(body: bytes, spec: Any) -> bytes:
    """``body`` with its model spec replaced by ``spec``; every other byte as it was. Raises ``WireError``."""
    raw = spec.SerializeToString()
    parts = [bytes([REQUEST_SPEC << 3 | 2]), varint(len(raw)), raw]
    parts += [body[begin:end] for number, _, begin, end in fields(body) if number != REQUEST_SPEC]
    return b"".join(parts)


def answered_spec(method: Method, body: bytes) -> Any | None:
    """The model spec of a serialized reply, the first one where there are several. Raises ``WireError``."""
    if not method.reply_spec:
        return None
    if not method.is_nested:
        return spec_of(body, method.reply_spec)
    firsts = (body[start:end] for number, start, _, end in fields(body) if number == method.reply_spec)
    return spec_of(next(firsts, b""))


def readdressed(method: Method, body: bytes, address: Callable[[Any], None]) -> bytes:
    """``body`` after ``address`` has changed each model spec in it; all other bytes stay. Raises ``WireError``."""
    if not method.is_nested:
        return _with_addressed(body, address)
    parts: list[bytes] = []
    for number, start, begin, end in fields(body):
        if number == REQUEST_SPEC:
            task = _with_addressed(body[start:end], address)
            parts += [bytes([REQUEST_SPEC << 3 | 2]), varint(len(task)), task]
        else:
            parts.append(body[begin:end])
    return b"".join(parts)


def _with_addressed(body: bytes, address: Callable[[Any], None]) -> bytes:
    spec = spec_of(body)
    address(spec)
    return with_spec(body, spec)


def _merge(spec: Any, raw: bytes) -> None:
    try:
        spec.MergeFromString(raw)  # a field that comes twice is merged, as every protobuf parser does
    except DecodeError as error:
        raise WireError(f"not a ModelSpec: {error}") from None


def fields(body: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """(number, start of the value, start of the tag, end) of each top-level field. Raises ``WireError``."""
    at = count = 0
    while at < len(body):
        begin, count = at, count + 1
        if count > MOST_FIELDS:
            raise WireError(f"more than {MOST_FIELDS} fields in one message")
        tag, at = _read_varint(body, at)
        start, at = _skip(body, at, tag & 7)
        if at > len(body) or tag >> 3 == 0:
            raise WireError("truncated or malformed message")
        yield tag >> 3, start, begin, at


def _skip(body: bytes | memoryview, at: int, wire_type: int) -> tuple[int, int]:
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


def _read_varint(body: bytes | memoryview, at: int) -> tuple[int, int]:
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


def told(detail: str) -> str:
    """As much of a refusal's words as a client will take; of trailers longer than 8 KiB it sees not even the code.

    Words beyond ASCII take three times their bytes there.
    """
    return detail.encode(errors="replace")[:LONGEST_DETAIL_BYTES].decode(errors="ignore")


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004  seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
