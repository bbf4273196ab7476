"""REST bodies and messages say the same thing; what cannot be said is refused with the reason."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from inference.tfserving import rest, tensors, wire
from inference.tfserving.rest import RestError
from inference.tfserving.signatures import Signature, TensorSpec

PREDICT = "tensorflow/serving/predict"
FLOAT, DOUBLE, INT32, UINT8, TEXT, INT64, BOOL, HALF, COMPLEX = 1, 2, 3, 4, 7, 9, 10, 19, 8


def known(**inputs: int) -> dict[str, Signature]:
    specs = {name: TensorSpec(code, None) for name, code in inputs.items()}
    return {"serving_default": Signature(PREDICT, specs, {})}


def converted(document: Any, signatures: Any = None) -> dict[str, Any]:
    request = rest.predict_request(wire.ModelSpec(name="m"), rest.parse(json.dumps(document).encode()), signatures)
    return tensors.read_all(wire.parse(wire.PredictRequest, request.SerializeToString()).inputs)


def answered(layout: str, **outputs: Any) -> Any:
    response = wire.PredictResponse()
    for name, value in outputs.items():
        tensors.write(value, response.outputs[name])
    return json.loads(rest.predict_reply(response, layout))


def test_rows_of_a_single_input_need_no_name() -> None:
    array = converted({"instances": [[1, 2.5], [3, 4]]}, known(x=FLOAT))["x"]
    assert (array.tolist(), array.dtype) == ([[1, 2.5], [3, 4]], np.float32)


def test_named_rows_become_one_tensor_a_name() -> None:
    arrays = converted({"instances": [{"a": 1, "b": "u"}, {"a": 2, "b": "v"}]}, known(a=INT64, b=TEXT))
    assert {name: (array.tolist(), array.dtype) for name, array in arrays.items()} == {
        "a": ([1, 2], np.int64),
        "b": ([b"u", b"v"], object),
    }


def test_columns_with_and_without_names() -> None:
    assert converted({"inputs": {"a": [1], "b": [[2]]}}, known(a=DOUBLE, b=UINT8))["b"].dtype == np.uint8
    assert converted({"inputs": [[1, 2]]}, known(x=FLOAT))["x"].shape == (1, 2)
    assert converted({"inputs": 7}, known(x=FLOAT))["x"].shape == ()


def test_base64_is_a_value_and_not_an_object_of_inputs() -> None:
    assert converted({"instances": [{"b64": "/wA="}, "text"]}, known(image=TEXT))["image"].tolist() == [
        b"\xff\x00",
        b"text",
    ]
    assert converted({"inputs": {"b64": "/w=="}}, known(image=TEXT))["image"].tolist() == b"\xff"


@pytest.mark.parametrize("code", [FLOAT, DOUBLE, HALF])
def test_nan_and_infinity_go_in_and_come_out_as_bare_words(code: int) -> None:
    request = rest.predict_request(
        wire.ModelSpec(), rest.parse(b'{"instances": [NaN, Infinity, -Infinity]}'), known(x=code)
    )
    array = tensors.read(request.inputs["x"])
    assert np.isnan(array[0])
    assert array[1:].tolist() == [np.inf, -np.inf]
    response = wire.PredictResponse()
    tensors.write(array, response.outputs["y"])
    assert rest.predict_reply(response, "row") == b'{"predictions": [NaN, Infinity, -Infinity]}'


def test_a_float32_is_written_so_that_it_reads_back_bit_for_bit() -> None:
    values = np.random.default_rng(1).normal(size=100).astype(np.float32)
    back = np.array(answered("row", y=values)["predictions"])
    assert back.tolist() == values.tolist()
    assert back.astype(np.float32).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("code", "value", "words"),
    [
        (FLOAT, "3", "str is not of expected type: float"),
        (FLOAT, True, "bool is not of expected type: float"),
        (FLOAT, None, "NoneType"),
        (INT32, 1.5, "float is not of expected type: int32"),
        (INT32, 1 << 40, "out of range for int32"),
        (UINT8, -1, "out of range for uint8"),
        (BOOL, 1, "int is not of expected type: bool"),
        (TEXT, 1, "int is not of expected type: string"),
        (TEXT, {"b64": "%"}, "invalid base64"),
        (TEXT, {"b64": 1}, "b64"),
        (TEXT, "\ud800", "not valid Unicode"),
        (COMPLEX, 1, "cannot be written in JSON"),
    ],
)
def test_a_value_of_the_wrong_kind_is_never_coerced(code: int, value: Any, words: str) -> None:
    with pytest.raises(RestError, match=words):
        converted({"inputs": {"x": [value]}}, known(x=code))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "Missing"),
        ({"instances": [1], "inputs": [1]}, "or both"),
        ({"instances": []}, "at least one"),
        ({"instances": 1}, "at least one"),
        ({"instances": [{"x": 1}, {"y": 1}]}, "same keys"),
        ({"instances": [[1, 2], [3]]}, "rectangular"),
        ({"instances": [[1], 2]}, "rectangular"),
        ({"instances": [[[1]], [1]]}, "rectangular"),
        ({"instances": json.loads("[" * 65 + "1" + "]" * 65)}, "deeper than 64 times"),
        ({"instances": [1], "signature_name": 5}, "signature_name"),
    ],
)
def test_a_body_that_is_no_predict_request_is_refused(document: Any, words: str) -> None:
    with pytest.raises(RestError, match=words):
        converted(document, known(x=FLOAT))


def test_several_inputs_need_names() -> None:
    for document in ({"instances": [1]}, {"inputs": [1]}):
        with pytest.raises(RestError, match="several inputs: a, b"):
            converted(document, known(a=FLOAT, b=FLOAT))


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000, b'{"\\ud800": 1}', b'{"a": "\xed\xa0\x80"}']
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RestError):
        rest.parse(body)


def test_without_a_signature_the_types_are_guessed_and_the_server_decides() -> None:
    arrays = converted({"inputs": {"x": [1], "flag": [True], "s": ["a"]}})
    assert [arrays[name].dtype for name in ("x", "flag", "s")] == [np.float32, bool, object]
    assert list(converted({"instances": [1]})) == [rest.UNNAMED]


def test_one_output_stands_alone_and_several_by_name() -> None:
    assert answered("row", y=np.ones((2, 1))) == {"predictions": [[1], [1]]}
    assert answered("columns", y=np.ones(1)) == {"outputs": [1]}
    assert answered("row", y=np.ones(2), z=np.zeros(2)) == {"predictions": [{"y": 1, "z": 0}] * 2}
    assert answered("columns", y=np.ones(1), z=np.array(0)) == {"outputs": {"y": [1], "z": 0}}


@pytest.mark.parametrize("outputs", [{"y": np.array(1.0)}, {"y": np.ones(2), "z": np.ones(3)}, {}])
def test_outputs_without_common_rows_cannot_be_written_as_rows(outputs: Any) -> None:
    with pytest.raises(RestError, match="instead of 'instances'"):
        answered("row", **outputs)


def test_bytes_come_out_in_base64_by_name_or_by_need() -> None:
    text = np.array([b"ok", b"\xff"], object)
    assert answered("columns", name=text) == {"outputs": ["ok", {"b64": "/w=="}]}
    assert answered("columns", name_bytes=text[:1]) == {"outputs": [{"b64": "b2s="}]}


def test_examples_keep_the_kind_of_their_features() -> None:
    document = {
        "signature_name": "classify",
        "context": {"tenant": "acme"},
        "examples": [{"age": 3, "mixed": [1, 2.5], "raw": {"b64": "/w=="}}, {"words": ["a", "b"]}],
    }
    request = rest.examples_request(wire.ClassificationRequest, wire.ModelSpec(name="m"), document)
    given = request.input.example_list_with_context
    first = given.examples[0].features.feature
    assert list(given.context.features.feature["tenant"].bytes_list.value) == [b"acme"]
    assert list(first["age"].int64_list.value) == [3]
    assert list(first["mixed"].float_list.value) == [1, 2.5]
    assert list(first["raw"].bytes_list.value) == [b"\xff"]
    assert list(given.examples[1].features.feature["words"].bytes_list.value) == [b"a", b"b"]
    assert request.model_spec.signature_name == "classify"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"examples": []},
        {"examples": [1]},
        {"examples": [{"a": [1, "b"]}]},
        {"examples": [{"a": None}]},
        {"examples": [{"a": 1 << 70}]},
        {"examples": [{}], "context": []},
    ],
)
def test_a_body_that_holds_no_examples_is_refused(document: Any) -> None:
    with pytest.raises(RestError):
        rest.examples_request(wire.RegressionRequest, wire.ModelSpec(), document)
