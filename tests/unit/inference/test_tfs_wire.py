"""Model specs inside serialized requests: read and rewritten without touching the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from inference.tfserving import tensors, wire
from inference.tfserving.predict import decode_predict, encode_predict


def _request(version: int | None = None, label: str | None = None) -> bytes:
    request = wire.PredictRequest()
    request.model_spec.name = "risk"
    request.model_spec.signature_name = "serving_default"
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    tensors.write(np.ones((2, 3), np.float32), request.inputs["x"])
    request.output_filter.append("probabilities")
    return bytes(request.SerializeToString())


def test_spec_is_read_without_the_rest() -> None:
    spec = wire.spec_of(_request(version=7))
    assert (spec.name, wire.version_of(spec), wire.label_of(spec)) == ("risk", 7, None)


def test_version_zero_means_unset() -> None:
    spec = wire.spec_of(_request(version=0))
    assert spec.WhichOneof("version_choice") == "version"
    assert wire.version_of(spec) is None


def test_label_and_version_exclude_each_other() -> None:
    spec = wire.spec_of(_request(version=3, label="canary"))
    assert (wire.version_of(spec), wire.label_of(spec)) == (None, "canary")


def test_replacing_the_spec_keeps_every_other_field() -> None:
    changed = wire.parse(wire.PredictRequest, wire.with_spec(_request(version=7), wire.ModelSpec(name="other")))
    expected = wire.parse(wire.PredictRequest, _request())
    assert changed.model_spec == wire.ModelSpec(name="other")
    assert changed.inputs == expected.inputs
    assert list(changed.output_filter) == ["probabilities"]


def test_replacing_the_spec_keeps_fields_we_do_not_know() -> None:
    unknown = b"\xf2\x7f\x03new" + b"\x58\x05" + b"\x61" + bytes(8) + b"\x65" + bytes(4)
    assert wire.with_spec(_request() + unknown, wire.ModelSpec(name="risk")).endswith(unknown)


def test_a_spec_that_comes_twice_is_merged_so_nothing_can_hide_behind_the_first() -> None:
    second = wire.PredictRequest()
    second.model_spec.name = "forbidden"
    body = _request(version=7) + second.SerializeToString()
    assert wire.spec_of(body).name == wire.parse(wire.PredictRequest, body).model_spec.name == "forbidden"
    rewritten = wire.with_spec(body, wire.ModelSpec(name="risk"))
    assert wire.parse(wire.PredictRequest, rewritten).model_spec.name == "risk"


@pytest.mark.parametrize(
    "body",
    [b"\x0a", b"\x0a\xff", b"\x0a\x05ab", b"\x0b", b"\x00\x01", b"\xff" * 11, b"\x0a\x02\xff\xff", b"\x11\x00"],
    ids=["no length", "open varint", "short", "group", "field zero", "long varint", "bad spec", "short fixed"],
)
def test_malformed_bytes_are_a_wire_error(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.spec_of(body)


def test_a_message_of_nothing_but_fields_is_not_walked_to_its_end() -> None:
    tiny = b"\x1a\x00"  # an empty output filter
    assert wire.spec_of(tiny * wire.MOST_FIELDS).name == ""
    with pytest.raises(wire.WireError, match="more than 10000 fields"):
        wire.with_spec(tiny * (wire.MOST_FIELDS + 1), wire.ModelSpec(name="risk"))


def test_parse_names_the_message_it_wanted() -> None:
    with pytest.raises(wire.WireError, match=r"tensorflow\.serving\.PredictRequest"):
        wire.parse(wire.PredictRequest, b"\x0a\x05ab")


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4", "u1", "i2", "i1", "i8", "?", "u2", "f2", "u4", "u8", "c8", "c16"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 3), (200, 2)])
def test_hand_joined_request_is_what_protobuf_would_write(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    expected = wire.PredictRequest()
    expected.model_spec.name, expected.model_spec.version.value = "risk", 300
    expected.model_spec.signature_name = "s"
    tensors.write(array, expected.inputs["x"])
    assert encode_predict("risk", {"x": array}, signature="s", version=300) == expected.SerializeToString()


def test_hand_joined_request_takes_strings_labels_and_strided_arrays() -> None:
    inputs = {"words": np.array(["a", b"b"], object), "x": np.arange(6.0).reshape(2, 3).T}
    request = wire.parse(wire.PredictRequest, encode_predict("risk", inputs, label="canary"))
    assert request.model_spec.version_label == "canary"
    assert tensors.read(request.inputs["x"]).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert tensors.read(request.inputs["words"]).tolist() == [b"a", b"b"]


def test_outputs_are_decoded_by_name() -> None:
    response = wire.PredictResponse()
    tensors.write(np.array([0.5], np.float32), response.outputs["p"])
    assert decode_predict(response.SerializeToString())["p"].tolist() == [0.5]


def test_every_task_of_several_is_readdressed_and_nothing_else_is_touched() -> None:
    request = wire.MultiInferenceRequest()
    for signature in ("a", "b"):
        task = request.tasks.add(method_name="m" + signature)
        task.model_spec.name, task.model_spec.signature_name = "other", signature
    request.input.example_list.examples.add()
    method = wire.METHODS["MultiInference"]

    def address(spec: Any) -> None:
        spec.name, spec.version.value = "risk", 7

    changed = wire.parse(method.request, wire.readdressed(method, request.SerializeToString(), address))
    assert [(t.model_spec.name, t.model_spec.version.value, t.model_spec.signature_name) for t in changed.tasks] == [
        ("risk", 7, "a"),
        ("risk", 7, "b"),
    ]
    assert [task.method_name for task in changed.tasks] == ["ma", "mb"]
    assert changed.input == request.input


def test_who_answered_several_inferences_is_told_by_the_first() -> None:
    response = wire.MultiInferenceResponse()
    response.results.add().model_spec.version.value = 7
    method = wire.METHODS["MultiInference"]
    assert wire.version_of(wire.answered_spec(method, response.SerializeToString())) == 7
    assert wire.version_of(wire.answered_spec(method, b"")) is None
